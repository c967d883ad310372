//! Sans-IO presence: users, their dialogs and publications as state machines
//! over [`adsum_sip`].
//!
//! [`Population`] is the heart: all users of one shard, in slabs, with one
//! timer wheel. It is told what time it is, what came in and what is due, and
//! tells its [`Host`] what to send, what was measured and what went wrong. It
//! opens no socket, starts no task and reads no clock, so the agent's shards,
//! a lossy wire in a test and a fuzzer drive the very same code.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`population`] | users, workflows, held users; the entry points of the crate |
//! | [`host`] | what a population asks of whoever drives it |
//! | [`accounts`] | who the users are: patterns or rows |
//! | [`contacts`] | who watches whom |
//! | [`diagnosis`] | failures in words for an administrator |
//! | [`simple`] | the messages of the `simple` dialect (RFC 3856, 3903, 6665) |
//! | [`lync`] | messages and documents of the `lync` dialect |
//! | [`marker`] | the token by which a NOTIFY is recognised |
//! | [`pidf`] | presence documents (RFC 3863) |
//! | [`slab`], [`wheel`] | storage: slots with generations, timers |

pub mod accounts;
pub mod contacts;
pub mod diagnosis;
pub mod host;
pub mod lync;
pub mod marker;
pub mod pidf;
pub mod population;
pub mod simple;
pub mod slab;
pub mod wheel;

pub use accounts::Accounts;
pub use contacts::Contacts;
pub use host::Host;
pub use marker::Marker;
pub use population::{Config, Dialect, Population};
