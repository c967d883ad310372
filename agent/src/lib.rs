//! The load engine of adsum.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`engine`] | a run on this host: shards, their seconds added up |
//! | [`shard`] | one thread: sockets, users, schedule, recorder |
//! | [`pace`] | the schedule: when arrival k is due, and whose it is |
//! | [`contacts`] | who watches whom, drawn from the seed |
//! | [`ceiling`] | how much at most |
//! | [`recorder`], [`failures`] | histograms, counters and failures of the running second |
//! | [`net`] | clock, timer, sockets, TLS, where traffic may go |
//! | [`check`] | one pair, one workflow, one answer |
//! | [`link`] | the wire to the coordinator |
//! | [`locate`] | where a target is |
//! | [`host`], [`fitness`] | facts of this host, and what would make it fitter |
//! | [`realtime`] | the priority of a shard's thread |
//! | [`trace`] | messages as text |

pub mod ceiling;
pub mod check;
pub mod contacts;
pub mod engine;
pub mod failures;
pub mod fitness;
pub mod host;
pub mod link;
pub mod locate;
pub mod net;
pub mod pace;
pub mod realtime;
pub mod recorder;
pub mod shard;
pub mod trace;
