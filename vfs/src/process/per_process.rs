//! State that exists once per process. A forked child starts with a new one.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::process::generation::{Generation, generation};

/// A value that is created on first use, and again in a forked child. A child can't use its parent's value: locks may be
/// held by threads that don't exist in the child, and sockets still belong to the parent.
pub(crate) struct PerProcess<T>(ArcSwapOption<Made<T>>);

struct Made<T> {
    generation: Generation,
    value: Arc<T>,
}

impl<T: Default> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        PerProcess(ArcSwapOption::const_empty())
    }

    /// Returns this process's value.
    pub(crate) fn get(&self) -> Arc<T> {
        loop {
            let current = self.0.load_full();
            if let Some(made) = current.as_ref().filter(|made| made.generation == generation()) {
                return made.value.clone();
            }
            let fresh = Made { generation: generation(), value: Arc::default() };
            self.0.compare_and_swap(&current, Some(Arc::new(fresh)));
            // In a child, this may be the parent's value. Dropping it could use its locks and sockets, so it is leaked.
            std::mem::forget(current);
        }
    }
}
