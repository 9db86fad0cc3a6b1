//! Commits, the write lease, and their round trips.

mod commit_ends;
mod commit_faults;
mod counts;
mod crashes;
mod expiry;
mod full;
mod imports;
mod lease_scripts;
mod linger;
mod lost_commits;
mod missing_commands;
mod sharing;
mod staged;
mod undo_pieces;
mod wait;
mod waiting;
mod writers;
