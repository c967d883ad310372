//! Clock, timer and sockets of a shard: everything Linux-specific is here.

pub mod allow;
pub mod clock;
pub mod stream;
pub mod timer;
pub mod tls;
pub mod udp;

use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the reactor, for reading.
///
/// The reactor's newer constructor is `unsafe`, because a type could change
/// its descriptor or close it behind the reactor's back; ours own theirs until
/// they are dropped, and this crate has no `unsafe`.
#[expect(deprecated, reason = "the replacement is unsafe, and what it guards against cannot happen here")]
fn watch<T: AsRawFd>(inner: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, Interest::READABLE)
}
