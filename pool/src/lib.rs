//! The embedded presence pool: a registrar, presence agent and state
//! compositor in memory, with fault knobs.
//!
//! It is a server that tests may trust: what it answers follows the RFCs, and
//! what it gets wrong it gets wrong on purpose, by a known amount.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`config`] | addresses, accounts, knobs |
//! | [`core`] | the pool without sockets and clock, in two dialects |
//! | [`faults`] | what happens to messages on purpose |
//! | [`server`] | sockets and the timer around both |
//! | [`auth`] | digest on the server's side |
//! | [`certs`] | a CA and a certificate, and the names in those of clients |

pub mod auth;
pub mod certs;
pub mod config;
pub mod core;
pub mod faults;
pub mod server;

pub use config::{Delay, PoolConfig, Reject};
pub use core::Stats;
pub use server::{Pool, PoolError};
