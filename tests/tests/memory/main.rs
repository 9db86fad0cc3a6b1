//! What work takes of the client's memory, counted by the allocator of this program.

use std::sync::{Mutex, MutexGuard};

use sqlite_redis_tests::allocated::Counting;

mod database;
mod virtual_table;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time, since all memory of the process is counted.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|failed| failed.into_inner())
}
