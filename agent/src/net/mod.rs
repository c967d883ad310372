//! Clock, timer and sockets of a shard: everything Linux-specific is here.

pub mod allow;
pub mod batch;
pub mod clock;
#[cfg(feature = "legacy-tls")]
pub mod legacy;
#[cfg(feature = "legacy-tls")]
mod old_chain;
pub mod poll;
pub mod probe;
pub mod secured;
pub mod session;
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

/// A descriptor that the reactor watches, or one that is only looked at: every datagram for a watched
/// socket wakes the loop, whether it waits for that or not.
#[derive(Debug)]
enum Watched<T: AsRawFd> {
    /// Wakes the loop.
    Reactor(AsyncFd<T>),
    /// Is looked at when a timer says so.
    Polled(T),
}

impl<T: AsRawFd> Watched<T> {
    fn new(inner: T, by_reactor: bool) -> std::io::Result<Self> {
        Ok(if by_reactor { Watched::Reactor(watch(inner)?) } else { Watched::Polled(inner) })
    }

    fn get_ref(&self) -> &T {
        match self {
            Watched::Reactor(fd) => fd.get_ref(),
            Watched::Polled(inner) => inner,
        }
    }

    /// Ready when there may be something to read; never, if nobody watches.
    fn poll_readable(&self, context: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        match self {
            Watched::Reactor(fd) => {
                fd.poll_read_ready(context).map(|guard| guard.map(|mut guard| guard.retain_ready()))
            }
            Watched::Polled(_) => std::task::Poll::Pending,
        }
    }

    /// Forgets that there was something: the next edge tells again.
    fn clear_ready(&self) {
        let Watched::Reactor(fd) = self else { return };
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if let std::task::Poll::Ready(Ok(mut guard)) = fd.poll_read_ready(&mut context) {
            guard.clear_ready();
        }
    }

    /// Reads if there may be something; `None` if there is nothing. Until a read finds that, a watched
    /// descriptor stays ready.
    fn try_read<R>(&self, read: impl FnOnce(&T) -> std::io::Result<R>) -> Option<std::io::Result<R>> {
        let found = match self {
            Watched::Polled(inner) => read(inner),
            Watched::Reactor(fd) => {
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                let std::task::Poll::Ready(Ok(mut guard)) = fd.poll_read_ready(&mut context) else {
                    return None;
                };
                return guard.try_io(|fd| read(fd.get_ref())).ok();
            }
        };
        match found {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            found => Some(found),
        }
    }
}

/// Appends `host:port` as it stands in Via and Contact. IPv4 goes without the
/// formatter: over connections this is written for every message.
pub fn write_address(address: std::net::SocketAddr, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let std::net::SocketAddr::V4(v4) = address else {
        let written = write!(out, "{address}");
        return debug_assert!(written.is_ok(), "a Vec takes everything");
    };
    for (at, octet) in v4.ip().octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        adsum_presence::accounts::write_number(u64::from(octet), 0, out);
    }
    out.push(b':');
    adsum_presence::accounts::write_number(u64::from(v4.port()), 0, out);
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_are_written_as_the_formatter_writes_them() {
        for text in ["127.0.0.1:5060", "0.0.0.0:1", "255.10.100.9:65535", "[::1]:5061"] {
            let mut out = Vec::new();
            super::write_address(text.parse().unwrap(), &mut out);
            assert_eq!(out, text.as_bytes());
        }
    }
}
