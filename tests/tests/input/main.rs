//! Names, addresses, stored bytes and servers that are wrong; TLS.

mod bad_data;
mod bad_names;
mod bad_servers;
mod connections;
mod endless;
mod hostile;
mod interrupt;
mod tls;
