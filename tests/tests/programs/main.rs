//! The extension in other programs (sqlite3, Python, Node), forks, and the procedures of `docs/`.

mod chinook_hosts;
mod docs;
mod fork;
mod hosts;
mod virtual_table;
