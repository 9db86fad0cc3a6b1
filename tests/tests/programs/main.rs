//! The extension in other programs (sqlite3, Python, Node), forks, the procedures of `docs/`, and the scripts.

mod chinook_hosts;
mod docs;
mod fork;
mod hosts;
mod scripts;
mod virtual_table;
