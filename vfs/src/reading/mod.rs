//! Pages of one version: from the page cache, or from a server and rolled back.

pub(crate) mod cache;
pub(crate) mod follower;
pub(crate) mod freshness;
pub(crate) mod history;
pub(crate) mod read_server;
pub(crate) mod reader;
