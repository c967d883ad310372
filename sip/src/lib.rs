//! Sans-IO SIP (RFC 3261) for a load engine that must not be its own bottleneck.
//!
//! Nothing in this crate opens a socket, reads a clock or allocates on the
//! steady path. Bytes and [`Time`] come in as arguments; bytes, verdicts and
//! the next instant of interest come out. The same code is driven by the
//! agent's shards, by the embedded pool, by a lossy wire in tests and by fuzzers.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`scan`] | one pass over a message: start line and an index of its headers |
//! | [`frame`] | cutting messages out of a stream |
//! | [`header`] | the headers that are known by number, with their compact forms |
//! | [`value`] | readers of single header values: name-addr, Via, CSeq, … |
//! | [`client`] | client transactions, RFC 3261 §17.1, as small plain values |
//! | [`dialog`] | remote target and route set of a dialog, RFC 3261 §12 |
//! | [`server`] | server transactions, RFC 3261 §17.2, and the keys that find them |
//! | [`oracle`] | rsip's second opinion on what the scanner read, for samples and tests |
//! | [`template`] | messages as pieces and slots |
//! | [`gruu`] | endpoints of [MS-SIPRE]: epid, instance, GRUU |
//! | [`sipae`] | signatures over whole messages, [MS-SIPAE], both sides |
//! | [`ntlm`] | NTLM without connections, [MS-NLMP], both sides |
//! | [`protection`] | the seam through which messages are signed and checked |
//! | [`digest`] | digest authentication, RFC 7616 and 8760, both sides |
//! | [`ids`] | Call-IDs, tags and branches that carry the slot they belong to |
//! | [`locate`] | where a server is and which to try next, RFC 3263 |
//! | [`time`] | instants and the timers of RFC 3261 table 4 |

pub mod client;
pub mod dialog;
pub mod digest;
pub mod frame;
pub mod gruu;
pub mod header;
pub mod ids;
pub mod locate;
pub mod ntlm;
pub mod oracle;
pub mod protection;
pub mod scan;
pub mod server;
pub mod sipae;
pub mod template;
pub mod texts;
pub mod time;
pub mod value;

pub use header::HeaderId;
pub use scan::{Message, ScanError, Scanner, Start};
pub use time::Time;
