//! Readiness of a shard's connections: one epoll instance of its own inside
//! the reactor.
//!
//! A task and a registration with the reactor for each connection would cost
//! more memory than the connection's own state, and every message would pass
//! through both. Here the kernel hands over the numbers of the connections
//! that are ready, many at a time, and the reactor only watches the instance.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::Watched;

/// Events taken by one call: a turn of the loop looks at the timer after each batch.
const BATCH: usize = 64;

/// What one connection is ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The number it was registered with.
    pub key: u64,
    /// There may be something to read, or an end to be found by reading.
    pub readable: bool,
    /// The kernel takes bytes again, or connecting has ended.
    pub writable: bool,
    /// The other side has ended, or there is an error: reading tells.
    pub ended: bool,
}

/// Watches many sockets under one descriptor.
#[derive(Debug)]
pub struct Poller {
    fd: Watched<Fd>,
    events: Vec<EpollEvent>,
    /// The last batch was full.
    more: bool,
}

#[derive(Debug)]
struct Fd(Epoll);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl Poller {
    /// One that watches nothing yet. `watched`, it wakes the loop.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`.
    pub fn new(watched: bool) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Poller {
            fd: Watched::new(Fd(epoll), watched)?,
            events: vec![EpollEvent::empty(); BATCH],
            more: false,
        })
    }

    /// Watches a socket, edge-triggered, for both directions, until it is closed.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn add(&self, socket: impl AsFd, key: u64) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        Ok(self.fd.get_ref().0.add(socket, EpollEvent::new(flags, key))?)
    }

    /// Ready when some socket is. What was not taken yet stays ready.
    pub fn poll_ready(&self, context: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        if self.more {
            return std::task::Poll::Ready(Ok(()));
        }
        self.fd.poll_readable(context)
    }

    /// Takes what is ready now into `out`, at most one batch; `true` if there may be more.
    ///
    /// # Errors
    /// Those of `epoll_wait(2)`.
    pub fn take(&mut self, out: &mut Vec<Ready>) -> io::Result<bool> {
        out.clear();
        // Cleared first: an edge that comes between here and the call below is seen by both,
        // which costs a turn; the other way round it would be lost.
        self.fd.clear_ready();
        let found = self.fd.get_ref().0.wait(&mut self.events, EpollTimeout::ZERO)?;
        let ends = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        out.extend(self.events[..found].iter().map(|event| Ready {
            key: event.data(),
            readable: event.events().intersects(EpollFlags::EPOLLIN | ends),
            writable: event.events().intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLERR),
            ended: event.events().intersects(ends),
        }));
        self.more = found == self.events.len();
        Ok(self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn more_sockets_than_one_batch_are_all_seen_once_for_each_edge() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut poller = Poller::new(true).unwrap();
            let mut ends = Vec::new();
            for key in 0..2 * BATCH as u64 + 3 {
                let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                ours.set_nonblocking(true).unwrap();
                poller.add(&ours, key).unwrap();
                ends.push((ours, listener.accept().unwrap().0));
            }
            let mut out = Vec::new();
            while poller.take(&mut out).unwrap() {}
            for (_, theirs) in &mut ends {
                theirs.write_all(b"x").unwrap();
            }
            let mut seen = Vec::new();
            while seen.len() < ends.len() {
                std::future::poll_fn(|context| poller.poll_ready(context)).await.unwrap();
                poller.take(&mut out).unwrap();
                seen.extend(out.iter().filter(|ready| ready.readable && !ready.ended).map(|r| r.key));
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..ends.len() as u64).collect::<Vec<_>>());
            // Nobody read, and there is no new edge: nothing is ready.
            assert!(!poller.take(&mut out).unwrap() && out.is_empty());
            let (_ours, theirs) = ends.remove(7);
            drop(theirs);
            std::future::poll_fn(|context| poller.poll_ready(context)).await.unwrap();
            poller.take(&mut out).unwrap();
            assert!(out.len() == 1 && out[0].ended && out[0].key == 7, "{out:?}");
        });
    }
}
