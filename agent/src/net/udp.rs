//! UDP: a connected socket to the target, and its twin on the same port for
//! whatever comes from elsewhere.
//!
//! A connected socket saves a routing look-up on every send and hears of
//! refusals (ICMP); it hears nothing from other addresses. A pool may send
//! NOTIFYs from another one, so a second socket, not connected, is bound to the
//! same address and port. The kernel prefers the connected socket for what the
//! target sends and gives everything else to the twin.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use adsum_sip::Time;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrLike, SockaddrStorage, recvmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::Watched;
use super::clock::StampClock;

/// Wanted for both directions of each socket: a burst of some thousand
/// datagrams must wait in the kernel, not be lost there.
pub const BUFFER: usize = 8 * 1024 * 1024;

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
    connected: Watched<Socket>,
    twin: Watched<Socket>,
    target: SocketAddr,
    local: SocketAddr,
    /// As it stands in messages.
    local_text: Vec<u8>,
    control: Vec<u8>,
    /// Last reading of each socket's drop counter.
    dropped: [u32; 2],
    /// By which the kernel's table names the sockets.
    inodes: [u64; 2],
    lost: u64,
    granted: usize,
    /// The segment length that the connected socket is set to; 0: none.
    segment: usize,
    /// The kernel and the way to the target take several datagrams in one call.
    segments: bool,
}

impl UdpPort {
    /// Binds an address (port 0: any) and connects to the target. With `stamped` the kernel says
    /// when it received each datagram; `watched` sockets wake the loop.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn new(
        local: Option<std::net::IpAddr>,
        target: SocketAddr,
        stamped: bool,
        watched: bool,
    ) -> io::Result<Self> {
        let domain = Domain::for_address(target);
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let bind = match local {
            Some(ip) => SocketAddr::new(ip, 0),
            None => any.parse().map_err(io::Error::other)?,
        };
        let connected = socket(domain, stamped)?;
        connected.bind(&bind.into())?;
        connected.connect(&target.into())?;
        let local =
            connected.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no local address"))?;
        let twin = socket(domain, stamped)?;
        twin.bind(&local.into())?;
        let granted = connected.recv_buffer_size()?;
        let mut local_text = Vec::new();
        super::write_address(local, &mut local_text);
        let inodes = [inode(&connected)?, inode(&twin)?];
        Ok(UdpPort {
            connected: Watched::new(connected, watched)?,
            twin: Watched::new(twin, watched)?,
            target,
            local,
            local_text,
            control: nix::cmsg_space!(nix::sys::time::TimeSpec, u32),
            dropped: [0; 2],
            inodes,
            lost: 0,
            granted,
            segment: 0,
            segments: true,
        })
    }

    /// Our address and port.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The same as it stands in Via and Contact: it is written into every message.
    #[must_use]
    pub fn local_text(&self) -> &[u8] {
        &self.local_text
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
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cut_at(0)?;
        self.connected.get_ref().send(bytes)
    }

    /// Sends several datagrams to the target in one call (udp(7), `UDP_SEGMENT`): all as long as the
    /// first but for the last, which may be shorter.
    ///
    /// # Errors
    /// As [`UdpPort::send`], for all of them; [`UdpPort::takes_segments`] says whether to try again.
    pub fn send_segments(&mut self, datagrams: &[IoSlice<'_>]) -> io::Result<()> {
        let segment = match datagrams {
            [first, _, ..] => first.len(),
            // What is not longer than a segment is not cut.
            [only] if only.len() <= self.segment => self.segment,
            _ => 0,
        };
        self.cut_at(segment)?;
        let sent = self.connected.get_ref().send_vectored(datagrams);
        if let Err(error) = &sent
            && segment > 0
            && !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused)
        {
            // A device without checksum offload (EIO), or a segment beyond the way's MTU (EINVAL).
            self.segments = false;
        }
        sent.map(drop)
    }

    /// What is sent from now on is cut into datagrams of this length; 0: not at all.
    #[inline]
    fn cut_at(&mut self, segment: usize) -> io::Result<()> {
        if segment != self.segment {
            let set = setsockopt(self.connected.get_ref(), sockopt::UdpGsoSegment, &(segment as i32));
            self.segments &= set.is_ok(); // a kernel before 4.18
            set?;
            self.segment = segment;
        }
        Ok(())
    }

    /// False once several datagrams in one call were refused; from then on each needs a call of its own.
    #[must_use]
    pub fn takes_segments(&self) -> bool {
        self.segments
    }

    /// Sends to another address.
    ///
    /// # Errors
    /// As [`UdpPort::send`].
    pub fn send_to(&mut self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        if to == self.target {
            return self.send(bytes);
        }
        self.twin.get_ref().send_to(bytes, &to.into())
    }

    /// Ready when there may be something to receive on either socket.
    pub fn poll_readable(&self, context: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        for fd in [&self.connected, &self.twin] {
            if let std::task::Poll::Ready(found) = fd.poll_readable(context) {
                return std::task::Poll::Ready(found);
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
            let control = &mut self.control;
            let received = fd.try_read(|socket| match twin {
                // Of a connected socket the source is known, and asking for it costs.
                false => receive_one::<()>(socket, buffer, control),
                true => receive_one::<SockaddrStorage>(socket, buffer, control),
            });
            match received {
                None => {}
                Some(Err(error)) => return Err(error),
                Some(Ok((len, from, stamp, dropped))) => {
                    if let Some(dropped) = dropped {
                        self.counted(usize::from(twin), dropped);
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

    /// A reading of a socket's drop counter. A datagram carries the one of the
    /// instant at which it was queued, which may be older than what is known.
    fn counted(&mut self, socket: usize, dropped: u32) {
        let more = dropped.wrapping_sub(self.dropped[socket]);
        if more < u32::MAX / 2 {
            self.dropped[socket] = dropped;
            self.lost += u64::from(more);
        }
    }

    /// Reads the drop counters from the kernel's tables. Datagrams carry them,
    /// too, but only those that are queued after a loss: what a flood drops at
    /// its end would never be heard of.
    pub fn look_again(&mut self, tables: &DropTables) {
        let table = if self.local.is_ipv4() { &tables.v4 } else { &tables.v6 };
        for socket in 0..2 {
            if let Some(dropped) = drops_in(table, self.local.port(), self.inodes[socket]) {
                self.counted(socket, dropped);
            }
        }
    }

    /// Datagrams that the kernel dropped for want of buffer, since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

/// The kernel's tables of UDP sockets. Reading them takes about 0.1 ms.
#[derive(Debug)]
pub struct DropTables {
    v4: String,
    v6: String,
}

impl DropTables {
    /// Reads them; one that cannot be read is empty.
    #[must_use]
    pub fn read() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        DropTables { v4: read("/proc/thread-self/net/udp"), v6: read("/proc/thread-self/net/udp6") }
    }
}

/// The last column of the row with this local port and inode (proc(5), `/proc/net/udp`).
fn drops_in(table: &str, port: u16, inode: u64) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (_, local_port) = fields.nth(1)?.rsplit_once(':')?;
        let found =
            u16::from_str_radix(local_port, 16).ok()? == port && fields.nth(7)?.parse::<u64>().ok()? == inode;
        if found { fields.nth(2)?.parse().ok() } else { None }
    })
}

fn inode(socket: &Socket) -> io::Result<u64> {
    Ok(nix::sys::stat::fstat(socket)?.st_ino)
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

/// Bytes of receive and of send buffer that a socket gets here (the kernel doubles them for its overhead).
///
/// # Errors
/// Those of the system calls.
pub fn granted(address: SocketAddr) -> io::Result<[usize; 2]> {
    let socket = socket(Domain::for_address(address), false)?;
    Ok([socket.recv_buffer_size()?, socket.send_buffer_size()?])
}

fn socket(domain: Domain, stamped: bool) -> io::Result<Socket> {
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
    if stamped {
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimestampns, &true)?;
    }
    setsockopt(&socket.as_fd(), sockopt::RxqOvfl, &1)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock;

    #[test]
    fn a_socket_is_found_by_port_and_inode() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
             4057: 0100007F:13C4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 397123 2 00000000fd5b8a78 7\n\
             4057: 0100007F:13C4 0100007F:13C5 01 00000000:00000000 00:00000000 00000000     0        0 397124 2 00000000fd5b8a79 4294967295\n\
             cut short";
        assert_eq!(drops_in(table, 5060, 397_123), Some(7));
        assert_eq!(drops_in(table, 5060, 397_124), Some(u32::MAX));
        assert_eq!((drops_in(table, 5061, 397_124), drops_in(table, 5060, 1)), (None, None));
        assert_eq!(drops_in("", 5060, 1), None);
    }

    /// `/proc/net/snmp` counts for the whole host; the rows of this port are ours alone.
    fn dropped_by_the_kernels_word(port: u16) -> u64 {
        let table = std::fs::read_to_string("/proc/self/net/udp").unwrap();
        let port = format!(":{port:04X}");
        table
            .lines()
            .filter(|line| line.split_ascii_whitespace().nth(1).is_some_and(|local| local.ends_with(&port)))
            .map(|line| line.split_ascii_whitespace().last().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    #[test]
    fn drops_are_counted_once_though_no_datagram_follows_them() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let pool = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut port =
                UdpPort::new(Some("127.0.0.1".parse().unwrap()), pool.local_addr().unwrap(), true, true)
                    .unwrap();
            for socket in [&port.connected, &port.twin] {
                socket.get_ref().set_recv_buffer_size(8 * 1024).unwrap();
            }
            // Both sockets overflow: what the target sends, and what others send.
            for round in 1..=3u64 {
                for socket in [&pool, &stranger] {
                    for _ in 0..200 {
                        socket.send_to(&[b'x'; 500], port.local()).unwrap();
                    }
                }
                if round == 2 {
                    // The queued ones are read before the table is: they carry what is known or older.
                    let (mut buffer, mut stamps) = ([0u8; 2048], StampClock::default());
                    tokio::task::yield_now().await;
                    while port.receive(&mut buffer, &mut stamps, clock::now()).unwrap().is_some() {}
                }
                port.look_again(&DropTables::read());
                assert_eq!(port.lost, dropped_by_the_kernels_word(port.local.port()), "round {round}");
                assert!(port.lost > 100 * round, "{}", port.lost);
            }
            let all = port.take_lost();
            port.look_again(&DropTables::read());
            assert_eq!((port.take_lost(), all > 0), (0, true));
        });
    }
}
