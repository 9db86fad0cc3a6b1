//! The virtual table: each row a Redis hash.

mod bounds;
mod busy;
mod compared;
mod concurrent;
mod counts;
mod faults;
mod foreign_files;
mod large;
mod late_commits;
mod layout;
mod oracle;
mod refused;
mod rows;
mod scripts;
mod shared;
mod types;
mod unique;
