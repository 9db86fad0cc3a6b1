//! The connections to servers: addresses are resolved, commands sent, replies parsed.

pub(crate) mod scan;
pub(crate) mod pace;
pub(crate) mod connection;
mod dial;
pub(crate) mod discovery;
pub(crate) mod info;
pub(crate) mod link;
pub(crate) mod pool;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod route;
pub(crate) mod script;
pub(crate) mod server;
pub(crate) mod servers;
mod socket;
mod tls;
