//! Programs that people use: sqlite3, Python, Node; what the documents tell them.

mod chinook_hosts;
mod docs;
mod fork;
mod hosts;
mod virtual_table;
