//! Replicas, failovers and Sentinels.

mod failover;
mod followers;
mod replicas;
mod sentinel;
mod sentinel_input;
mod status;
