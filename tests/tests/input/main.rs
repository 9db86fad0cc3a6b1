//! Bad names, addresses, stored data and servers; connections; interrupts; TLS.

mod bad_data;
mod bad_names;
mod bad_servers;
mod connections;
mod endless;
mod hostile;
mod interrupt;
mod tls;
