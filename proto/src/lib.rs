//! The gRPC contract between the coordinator and its agents.
//!
//! `proto/fleet.proto` in this crate is the contract, with a comment on every
//! field; [`v1`] is what the compiler made of it. A stream goes
//!
//! ```text
//! Hello → Welcome → Plan, UserChunk… → PlanStatus… → Ready → Start → Armed
//!       → Interval(0), Interval(1), … → Done
//! ```
//!
//! with `ClockProbe`/`ClockAnswer`, `Stop` and `Refused` at any time.

/// Both sides name the version they speak and refuse any other.
pub const PROTOCOL_VERSION: u32 = 2;

/// The largest message on this wire, in bytes. Users travel in chunks well below it.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// The generated types and services of package `adsum.v1`.
#[allow(missing_docs, clippy::all, reason = "generated; the .proto file has the comments")]
pub mod v1 {
    tonic::include_proto!("adsum.v1");
}
