//! `SELECT`: xBestIndex is [`plan`], xFilter and xNext are [`cursor`].

pub(crate) mod batch;
pub(crate) mod cursor;
pub(crate) mod operand;
pub(crate) mod plan;
pub(crate) mod range;
pub(crate) mod row_source;
pub(crate) mod skipped_rows;
