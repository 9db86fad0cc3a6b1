//! Redis Cluster.

mod cluster;
mod virtual_table;
