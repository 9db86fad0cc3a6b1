//! State that one process has once, and a forked child makes anew.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::process::generation::{Generation, generation};

/// A value that is made when first needed, and again in a forked child: locks of the parent's may be held by threads that
/// the child does not have, and its sockets are the parent's.
pub(crate) struct PerProcess<T>(ArcSwapOption<Made<T>>);

struct Made<T> {
    generation: Generation,
    value: Arc<T>,
}

impl<T: Default> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        PerProcess(ArcSwapOption::const_empty())
    }

    /// This process's own.
    pub(crate) fn get(&self) -> Arc<T> {
        loop {
            let current = self.0.load_full();
            if let Some(made) = current.as_ref().filter(|made| made.generation == generation()) {
                return made.value.clone();
            }
            let fresh = Made { generation: generation(), value: Arc::default() };
            self.0.compare_and_swap(&current, Some(Arc::new(fresh)));
            // The parent's must not be touched, so it is not freed either.
            std::mem::forget(current);
        }
    }
}
