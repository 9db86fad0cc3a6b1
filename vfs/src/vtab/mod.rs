//! The virtual table `redis`: each row a Redis hash that other Redis clients can read and write.
//!
//! Which SQL leads where, in the order in which data passes through the modules:
//!
//! - `CREATE VIRTUAL TABLE t USING redis(...)`: [`declare`] reads the arguments ([`address`] the
//!   first one, [`token`] cuts SQL), [`judge`] has SQLite itself understand the columns,
//!   [`place`] finds the server, [`table`] is the result
//! - `SELECT`: xBestIndex is [`plan`], xFilter and xNext are [`cursor`], which asks for a [`batch`] at
//!   a time: an index as [`range`] cuts it at what [`operand`] says that the constraints in [`source`] can
//!   mean, [`sets`] of rowids, and rows as [`row`] decodes them
//! - `INSERT`, `UPDATE`, `DELETE`: xUpdate is [`change`], which asks what is in the way ([`rivals`])
//!   and keeps rows in memory, in [`write`](mod@write); xSavepoint, xRelease and xRollbackTo move
//!   in that; [`omitted`] finds the columns that get their default
//! - `COMMIT`: xSync is [`commit`], the one place that writes rows, after a [`check`] of what it rests
//!   on, as [`apply`] says, by a script that looks once more ([`scripted`]); [`index`] says what a
//!   value leaves in an index. What is too much for one script is [`large`]: under a [`hold`], it is cut into
//!   [`slices`], [`decided`], and then carried out. When SQLite then does not finish the transaction, [`published`] takes it back
//! - `redis_create_index()` and the other functions: [`functions`], each of
//!   which changes what it changes [`at_once`]; `redis_keys()` and the other
//!   table-valued ones: [`look`]
//! - [`layout`] spells every key and decodes rows and sets; [`known`] keeps what the process remembers of a table
//!
//! Imports go down: [`table`] holds the write set and [`query`] reads through it; [`commit`] is above both. What a
//! commit finds (`commit::found`) and the states of a hold (`commit::held`) are plain data, which the write set
//! may import.
//!
//! The callbacks themselves are in `ffi::module`.

pub(crate) mod declare;
pub(crate) mod location;
pub(crate) mod table;
pub(crate) mod known;
pub(crate) mod sets;
pub(crate) mod write;
pub(crate) mod commit;
pub(crate) mod functions;
pub(crate) mod layout;
pub(crate) mod query;
pub(crate) mod browse;
