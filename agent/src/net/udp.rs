//! UDP: a connected socket to the target, and its twin on the same port for
//! whatever comes from elsewhere.
//!
//! A connected socket saves a routing look-up on every send and hears of
//! refusals (ICMP); it hears nothing from other addresses. A pool may send
//! NOTIFYs from another one, so a second socket, not connected, is bound to the
//! same address and port. The kernel prefers the connected socket for what the
//! target sends and gives everything else to the twin.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use adsum_sip::Time;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrLike, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::clock::StampClock;

/// Wanted for both directions of each socket: a burst of some thousand
/// datagrams must wait in the kernel, not be lost there.
const BUFFER: usize = 8 * 1024 * 1024;

/// One datagram that was received.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Its length.
    pub len: usize,
    /// Where it came from.
    pub from: SocketAddr,
    /// True if that is not the target.
    pub foreign: bool,
    /// When the kernel got it; `None` without a kernel stamp.
    pub stamp: Option<Time>,
}

/// A pair of sockets on one port.
#[derive(Debug)]
pub struct UdpPort {
    connected: AsyncFd<Socket>,
    twin: AsyncFd<Socket>,
    target: SocketAddr,
    local: SocketAddr,
    control: Vec<u8>,
    /// Last reading of each socket's drop counter.
    dropped: [u32; 2],
    lost: u64,
    granted: usize,
}

impl UdpPort {
    /// Binds an address (port 0: any) and connects to the target.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn new(local: Option<std::net::IpAddr>, target: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(target);
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let bind = match local {
            Some(ip) => SocketAddr::new(ip, 0),
            None => any.parse().map_err(io::Error::other)?,
        };
        let connected = socket(domain)?;
        connected.bind(&bind.into())?;
        connected.connect(&target.into())?;
        let local =
            connected.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no local address"))?;
        let twin = socket(domain)?;
        twin.bind(&local.into())?;
        let granted = connected.recv_buffer_size()?;
        Ok(UdpPort {
            connected: super::watch(connected)?,
            twin: super::watch(twin)?,
            target,
            local,
            control: nix::cmsg_space!(nix::sys::time::TimeSpec, u32),
            dropped: [0; 2],
            lost: 0,
            granted,
        })
    }

    /// Our address and port.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Where it is connected to.
    #[must_use]
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// Bytes of receive buffer that the kernel granted (it counts its own overhead).
    #[must_use]
    pub fn granted(&self) -> usize {
        self.granted
    }

    /// Sends to the target.
    ///
    /// # Errors
    /// `WouldBlock` with a full buffer, `ConnectionRefused` after an ICMP
    /// message about an earlier datagram (this one was not sent).
    #[inline]
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.connected.get_ref().send(bytes)
    }

    /// Sends to another address.
    ///
    /// # Errors
    /// As [`UdpPort::send`].
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        if to == self.target {
            return self.send(bytes);
        }
        self.twin.get_ref().send_to(bytes, &to.into())
    }

    /// Ready when there may be something to receive on either socket.
    pub fn poll_readable(&self, context: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        for fd in [&self.connected, &self.twin] {
            if let std::task::Poll::Ready(guard) = fd.poll_read_ready(context) {
                return std::task::Poll::Ready(guard.map(|mut guard| guard.retain_ready()));
            }
        }
        std::task::Poll::Pending
    }

    /// Takes one datagram, or `None` if there is none now.
    ///
    /// # Errors
    /// `ConnectionRefused` if the target's host refused an earlier datagram.
    pub fn receive(
        &mut self,
        buffer: &mut [u8],
        stamps: &mut StampClock,
        now: Time,
    ) -> io::Result<Option<Received>> {
        for twin in [false, true] {
            let fd = if twin { &self.twin } else { &self.connected };
            // Polling keeps the readiness; a read that would block clears it.
            let Some(Ok(mut guard)) = ready(fd) else { continue };
            let control = &mut self.control;
            let received = guard.try_io(|fd| match twin {
                // Of a connected socket the source is known, and asking for it costs.
                false => receive_one::<()>(fd.get_ref(), buffer, control),
                true => receive_one::<SockaddrStorage>(fd.get_ref(), buffer, control),
            });
            match received {
                Err(_would_block) => {}
                Ok(Err(error)) => return Err(error),
                Ok(Ok((len, from, stamp, dropped))) => {
                    if let Some(dropped) = dropped {
                        let last = std::mem::replace(&mut self.dropped[usize::from(twin)], dropped);
                        self.lost += u64::from(dropped.wrapping_sub(last));
                    }
                    return Ok(Some(Received {
                        len,
                        from: from.unwrap_or(self.target),
                        foreign: twin && from != Some(self.target),
                        stamp: stamp.map(|stamp| stamps.at(stamp, now)),
                    }));
                }
            }
        }
        Ok(None)
    }

    /// Datagrams that the kernel dropped for want of buffer, since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

/// A guard if the reactor saw readiness that nobody has used up yet.
fn ready(fd: &AsyncFd<Socket>) -> Option<io::Result<tokio::io::unix::AsyncFdReadyGuard<'_, Socket>>> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match fd.poll_read_ready(&mut context) {
        std::task::Poll::Ready(guard) => Some(guard),
        std::task::Poll::Pending => None,
    }
}

type One = (usize, Option<SocketAddr>, Option<u64>, Option<u32>);

/// A source address, if the kind of socket has one to give.
trait Source: SockaddrLike {
    fn address(&self) -> Option<SocketAddr>;
}

impl Source for () {
    fn address(&self) -> Option<SocketAddr> {
        None
    }
}

impl Source for SockaddrStorage {
    fn address(&self) -> Option<SocketAddr> {
        self.as_sockaddr_in()
            .map(|v4| SocketAddr::from((v4.ip(), v4.port())))
            .or_else(|| self.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
    }
}

fn receive_one<S: Source>(socket: &Socket, buffer: &mut [u8], control: &mut [u8]) -> io::Result<One> {
    let mut pieces = [IoSliceMut::new(buffer)];
    let message = recvmsg::<S>(socket.as_raw_fd(), &mut pieces, Some(control), MsgFlags::MSG_DONTWAIT)?;
    let mut stamp = None;
    let mut dropped = None;
    if let Ok(controls) = message.cmsgs() {
        for one in controls {
            match one {
                ControlMessageOwned::ScmTimestampns(time) => {
                    stamp = Some(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64);
                }
                ControlMessageOwned::RxqOvfl(count) => dropped = Some(count),
                _ => {}
            }
        }
    }
    let from = message.address.and_then(|address| address.address());
    Ok((message.bytes, from, stamp, dropped))
}

fn socket(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    // FORCE needs a privilege; without it the system's limit decides.
    if setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    if setsockopt(&socket.as_fd(), sockopt::SndBufForce, &BUFFER).is_err() {
        socket.set_send_buffer_size(BUFFER)?;
    }
    setsockopt(&socket.as_fd(), sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&socket.as_fd(), sockopt::RxqOvfl, &1)?;
    Ok(socket)
}
