//! A short run of the soak.

mod short;
