//! Tests of state that belongs to the whole process: its memory, counted by this program's allocator, and its last
//! error.

use std::sync::{Mutex, MutexGuard};

use sqlite_redis_tests::allocated::Counting;

mod last_errors;
mod memory;
mod memory_of_virtual_tables;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|failed| failed.into_inner())
}
