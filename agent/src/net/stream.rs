//! Connections: TCP, and TLS inside it.
//!
//! A connection keeps only what is its own: the socket, bytes that the kernel
//! did not take yet, the part of a message that has come so far. Reading and
//! writing go through buffers of the shard. It is told when its socket is
//! ready and never waits by itself.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use adsum_presence::host::{Class, FlowError};
use adsum_sip::Time;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, TimestampingFlag, recvmsg, send, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::clock::StampClock;
use super::poll::Ready;
use super::secured::{Client, Refused, Secured};
use super::session::Standing;

/// More unsent bytes than these on one connection are a peer that reads
/// nothing: further messages are refused and counted.
pub const MAX_UNSENT: usize = 1024 * 1024;
/// A message whose parts exceed this is no SIP message of a presence server.
const MAX_MESSAGE: usize = 1024 * 1024 + 64 * 1024;
/// Bytes that one system call may read.
const READ: usize = 64 * 1024;

/// Buffers that all connections of a shard use in turn.
#[derive(Debug)]
pub struct Buffers {
    /// What the kernel gave, behind what was kept.
    input: Vec<u8>,
    /// What TLS made of it, behind what was kept.
    plain: Vec<u8>,
    /// Control messages of `recvmsg`.
    control: Vec<u8>,
    /// `input` or `plain`: where the bytes of the last [`Connection::receive`] lie.
    from_input: Option<usize>,
    /// The last [`Connection::receive`] brought something.
    news: bool,
}

impl Default for Buffers {
    fn default() -> Self {
        Buffers {
            input: vec![0; READ],
            plain: Vec::new(),
            control: nix::cmsg_space!([nix::sys::time::TimeSpec; 3]),
            from_input: None,
            news: false,
        }
    }
}

impl Buffers {
    /// True if the last [`Connection::receive`] brought bytes of messages, even
    /// if it found the end as well.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.news
    }

    /// What the last [`Connection::receive`] left: the part of a message that
    /// was kept, and what came behind it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self.from_input {
            Some(len) => &self.input[..len],
            None => &self.plain,
        }
    }
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Handshaking,
    Open,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    state: State,
    tls: Option<Secured>,
    /// The other side refused the handshake and did not say clearly why.
    puzzling: bool,
    /// Bytes that the kernel did not take yet, and how many of them it has by now.
    unsent: Vec<u8>,
    taken: usize,
    /// The beginning of a message that is not complete.
    partial: Vec<u8>,
    /// It carries many users and keeps its buffers; otherwise a connection at rest has none.
    shared: bool,
    local: SocketAddr,
    peer: SocketAddr,
}

/// What a write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The kernel has all of it.
    Whole,
    /// Some of it waits.
    Blocked,
    /// Too much waits already: it was refused.
    Refused,
    /// The connection is broken.
    Broken,
}

/// What a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// When the kernel got the last of the bytes; `None` without a kernel stamp.
    pub stamp: Option<Time>,
    /// True if another read may find more.
    pub more: bool,
}

/// What is needed to connect.
#[derive(Debug, Clone)]
pub struct Dial {
    /// Where to.
    pub target: SocketAddr,
    /// Local address, if one is prescribed.
    pub source: Option<IpAddr>,
    /// For TLS.
    pub tls: Option<Client>,
    /// Many users will share the connection.
    pub shared: bool,
    /// The kernel says when it received something.
    pub stamped: bool,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Connection {
    /// Begins to connect. The socket becomes writable when that has ended.
    ///
    /// # Errors
    /// What went wrong, for a person.
    pub fn open(dial: &Dial) -> Result<Connection, FlowError> {
        let target = dial.target;
        let wrong = |error: io::Error| connect_error(target, &error);
        let domain = Domain::for_address(target);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(wrong)?;
        socket.set_nonblocking(true).map_err(wrong)?;
        socket.set_tcp_nodelay(true).map_err(wrong)?;
        if let Some(source) = dial.source {
            // Without it every bind takes a port away from all targets, and becomes
            // slow when many connections of earlier runs still linger.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).map_err(|e| wrong(e.into()))?;
            socket.bind(&SocketAddr::new(source, 0).into()).map_err(|e| bind_error(source, target, &e))?;
        }
        if dial.stamped {
            stamp_received(&socket).map_err(wrong)?;
        }
        let tls = dial.tls.as_ref().map(Client::session).transpose()?;
        match socket.connect(&target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
            Err(error) => return Err(wrong(error)),
        }
        Ok(Connection {
            socket,
            state: State::Connecting,
            tls,
            puzzling: false,
            unsent: Vec::new(),
            taken: 0,
            partial: Vec::new(),
            shared: dial.shared,
            local: target,
            peer: target,
        })
    }

    /// True once messages may be written.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Goes on connecting; `true` when the connection has become open.
    ///
    /// # Errors
    /// What went wrong, for a person.
    pub fn progress(
        &mut self,
        ready: Ready,
        buffers: &mut Buffers,
        sealed: &mut Vec<u8>,
    ) -> Result<bool, FlowError> {
        if self.state == State::Connecting && ready.writable {
            if let Some(error) = self.socket.take_error().map_err(|e| closed_error(&e.to_string()))? {
                return Err(connect_error(self.peer, &error));
            }
            let local = self.socket.local_addr().map_err(|e| closed_error(&e.to_string()))?;
            self.local = local.as_socket().unwrap_or(self.local);
            self.state = if self.tls.is_some() { State::Handshaking } else { State::Open };
            if self.state == State::Open {
                return Ok(true);
            }
            buffers.plain.clear();
            self.advance(0, buffers, sealed)?;
        }
        if self.state != State::Handshaking {
            return Ok(false);
        }
        if ready.writable && self.flush() == Written::Broken {
            return Err(closed_error("the connection broke in the TLS handshake"));
        }
        while ready.readable && self.state == State::Handshaking {
            let before = self.restore(buffers);
            match self.read(before, buffers) {
                Ok((Some(0), _)) => return Err(self.hung_up("closed the connection")),
                Err(error) => return Err(self.hung_up(&format!("broke the connection ({})", error.reason))),
                Ok((Some(n), _)) => {
                    buffers.plain.clear();
                    self.advance(before + n, buffers, sealed)?;
                }
                Ok((None, _)) => {
                    self.advance(before, buffers, sealed)?;
                    break;
                }
            }
        }
        Ok(self.state == State::Open)
    }

    /// The other side ended the connection in the handshake; old servers do so instead of an alert.
    fn hung_up(&mut self, how: &str) -> FlowError {
        let Some(tls) = &self.tls else { return closed_error(how) };
        let Refused { error, puzzling } = tls.ended(how);
        self.puzzling = puzzling;
        error
    }

    /// Lets TLS work on the first bytes of the input, and sends what it wants sent.
    fn advance(&mut self, len: usize, buffers: &mut Buffers, sealed: &mut Vec<u8>) -> Result<(), FlowError> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        sealed.clear();
        let result = tls.advance(&mut buffers.input[..len], &mut buffers.plain, sealed);
        let sent = if sealed.is_empty() { Written::Whole } else { self.put(sealed) };
        match result {
            Err(Refused { error, puzzling }) => {
                self.puzzling = puzzling && self.state == State::Handshaking;
                Err(error)
            }
            Ok(Standing::Closed) => Err(closed_error("the server closed the TLS session")),
            Ok(Standing::Open) if sent != Written::Broken => {
                self.state = State::Open;
                Ok(())
            }
            Ok(Standing::Handshaking) if sent != Written::Broken => Ok(()),
            Ok(_) => Err(closed_error("the connection broke")),
        }
    }

    /// True if the other side refused the TLS handshake without a clear reason: asking it once
    /// more, by other means, may tell ([`super::probe`]).
    #[must_use]
    pub fn is_puzzling(&self) -> bool {
        self.puzzling
    }

    /// Our end.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// True if bytes wait for the kernel.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Writes messages, whole ones, in one system call where the kernel has room.
    pub fn write(&mut self, bytes: &[u8], sealed: &mut Vec<u8>) -> Written {
        if self.unsent.len() - self.taken > MAX_UNSENT {
            return Written::Refused;
        }
        let Some(tls) = &mut self.tls else { return self.put(bytes) };
        sealed.clear();
        match tls.seal(bytes, sealed) {
            Ok(()) => self.put(sealed),
            Err(_) => Written::Broken,
        }
    }

    /// Hands bytes to the kernel, behind those that wait already.
    fn put(&mut self, bytes: &[u8]) -> Written {
        let mut rest = bytes;
        if self.unsent.is_empty() {
            match send(self.socket.as_raw_fd(), bytes, SEND) {
                Ok(n) => rest = &bytes[n..],
                Err(Errno::EAGAIN) => {}
                Err(_) => return Written::Broken,
            }
        }
        self.unsent.extend_from_slice(rest);
        if self.unsent.is_empty() { Written::Whole } else { Written::Blocked }
    }

    /// Writes what waits.
    pub fn flush(&mut self) -> Written {
        while self.taken < self.unsent.len() {
            match send(self.socket.as_raw_fd(), &self.unsent[self.taken..], SEND) {
                Ok(n) => self.taken += n,
                Err(Errno::EAGAIN) => return Written::Blocked,
                Err(_) => return Written::Broken,
            }
        }
        if self.taken > 0 {
            self.taken = 0;
            self.unsent.clear();
            if !self.shared {
                self.unsent = Vec::new();
            }
        }
        Written::Whole
    }

    /// Reads once. [`Buffers::bytes`] then holds what was kept with
    /// [`Connection::keep`] and what came.
    ///
    /// # Errors
    /// When the connection has ended, with why. What came before the end is
    /// in the buffers all the same.
    pub fn receive(
        &mut self,
        buffers: &mut Buffers,
        sealed: &mut Vec<u8>,
        stamps: &mut StampClock,
        now: Time,
    ) -> Result<Received, FlowError> {
        buffers.plain.clear();
        buffers.from_input = None;
        buffers.news = false;
        let before = match &mut self.tls {
            Some(_) => {
                buffers.plain.extend_from_slice(&self.partial);
                self.restore(buffers)
            }
            None => {
                let kept = self.partial.len();
                if buffers.input.len() < kept + READ {
                    buffers.input.resize(kept + READ, 0);
                }
                buffers.input[..kept].copy_from_slice(&self.partial);
                buffers.from_input = Some(kept);
                kept
            }
        };
        let (read, stamp) = self.read(before, buffers)?;
        let stamp = stamp.map(|stamp| stamps.at(stamp, now));
        let n = match read {
            Some(0) => return Err(closed_error("the server closed the connection")),
            Some(n) => n,
            None => {
                if self.tls.is_some() {
                    self.advance(before, buffers, sealed)?;
                }
                return Ok(Received { stamp: None, more: false });
            }
        };
        let more = before + n == buffers.input.len();
        let advanced = if self.tls.is_some() {
            let had = buffers.plain.len();
            let advanced = self.advance(before + n, buffers, sealed);
            buffers.news = buffers.plain.len() > had;
            advanced
        } else {
            buffers.from_input = Some(before + n);
            buffers.news = true;
            Ok(())
        };
        if buffers.news {
            // It is in the buffers now; what is not a whole message is given back by `keep`.
            self.partial.clear();
            if !self.shared {
                self.partial = Vec::new();
            }
        }
        advanced.map(|()| Received { stamp, more })
    }

    fn restore(&mut self, buffers: &mut Buffers) -> usize {
        self.tls.as_mut().map_or(0, |tls| tls.restore(&mut buffers.input))
    }

    /// One system call: bytes behind `before` (`None` if there are none now), and their stamp.
    fn read(&self, before: usize, buffers: &mut Buffers) -> Result<(Option<usize>, Option<u64>), FlowError> {
        let mut pieces = [IoSliceMut::new(&mut buffers.input[before..])];
        let control = Some(buffers.control.as_mut_slice());
        match recvmsg::<()>(self.socket.as_raw_fd(), &mut pieces, control, MsgFlags::MSG_DONTWAIT) {
            Ok(message) => {
                let mut stamp = None;
                if let Ok(controls) = message.cmsgs() {
                    for one in controls {
                        if let ControlMessageOwned::ScmTimestampsns(stamps) = one {
                            let at = stamps.system;
                            stamp = Some(at.tv_sec() as u64 * 1_000_000_000 + at.tv_nsec() as u64);
                        }
                    }
                }
                Ok((Some(message.bytes), stamp.filter(|stamp| *stamp > 0)))
            }
            Err(Errno::EAGAIN) => Ok((None, None)),
            Err(error) => Err(closed_error(&io::Error::from(error).to_string())),
        }
    }

    /// Keeps the part of a message that is not complete. `false` if it is too long.
    pub fn keep(&mut self, rest: &[u8]) -> bool {
        self.partial.clear();
        self.partial.extend_from_slice(rest);
        rest.len() <= MAX_MESSAGE
    }

    /// Says goodbye, as far as the kernel takes it.
    pub fn close(&mut self, sealed: &mut Vec<u8>) {
        sealed.clear();
        if let Some(tls) = self.tls.as_mut().filter(|_| self.state == State::Open) {
            tls.close(sealed);
        }
        if !sealed.is_empty() {
            self.put(sealed);
        }
        self.flush();
    }
}

/// A socket that asks for receive stamps and does nothing else.
#[derive(Debug)]
pub struct StampKeeper {
    _socket: Socket,
}

impl StampKeeper {
    /// Asks.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn new() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        stamp_received(&socket)?;
        Ok(StampKeeper { _socket: socket })
    }
}

/// Asks for the kernel's receive stamps of a stream.
fn stamp_received(socket: &Socket) -> io::Result<()> {
    let flags = TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
    Ok(setsockopt(socket, sockopt::Timestamping, &flags)?)
}

/// A broken connection is an error, not a signal.
const SEND: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// The code of a connection for which this process had no file descriptor.
pub const OUT_OF_FILES: &str = "generator:out_of_files";
/// The code of a connection for which this host had no local port.
pub const OUT_OF_PORTS: &str = "generator:out_of_ports";

fn connect_error(target: SocketAddr, error: &io::Error) -> FlowError {
    let mut code = "transport:connect";
    let (class, diagnosis) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (
            Class::Configuration,
            "nothing listens there: check address, port and transport, and that the pool runs",
        ),
        io::ErrorKind::TimedOut => (Class::Network, "no answer: look for firewalls and routes between"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            (Class::Network, "there is no route to it from here")
        }
        io::ErrorKind::AddrNotAvailable => {
            code = OUT_OF_PORTS;
            (
                Class::Generator,
                "no local port is free: give more addresses with `source`, or widen the range \
                 (sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\")",
            )
        }
        _ if [Errno::EMFILE, Errno::ENFILE].iter().any(|e| error.raw_os_error() == Some(*e as i32)) => {
            code = OUT_OF_FILES;
            (Class::Generator, "too many open files: raise the limit (ulimit -Hn), or use more agents")
        }
        _ => (Class::Network, "look at the network between this host and the pool"),
    };
    FlowError {
        class,
        code,
        reason: format!("cannot connect to {target}: {error}"),
        diagnosis: diagnosis.to_owned(),
    }
}

/// A bind takes no port here, so an address that is not available is none of ours.
fn bind_error(source: IpAddr, target: SocketAddr, error: &io::Error) -> FlowError {
    if error.kind() != io::ErrorKind::AddrNotAvailable {
        return connect_error(target, error);
    }
    FlowError {
        class: Class::Configuration,
        code: "transport:connect",
        reason: format!("cannot connect to {target} from {source}: {error}"),
        diagnosis: format!(
            "{source} is no address of this host: correct `source`, or add it (ip address add)"
        ),
    }
}

fn closed_error(reason: &str) -> FlowError {
    FlowError {
        class: Class::Pool,
        code: "transport:closed",
        reason: reason.to_owned(),
        diagnosis: "the other side ended the connection: look at its log and its limits".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_not_ours_is_no_lack_of_ports() {
        let target = SocketAddr::from(([127, 0, 0, 1], 9));
        let source = Some(IpAddr::from([192, 0, 2, 1]));
        let error =
            Connection::open(&Dial { target, source, tls: None, shared: false, stamped: true }).unwrap_err();
        assert_eq!((error.class, error.code), (Class::Configuration, "transport:connect"));
        assert!(error.diagnosis.contains("192.0.2.1 is no address of this host"), "{error:?}");
        for (errno, code) in [
            (Errno::EMFILE, OUT_OF_FILES),
            (Errno::ENFILE, OUT_OF_FILES),
            (Errno::EADDRNOTAVAIL, OUT_OF_PORTS),
            (Errno::ETIMEDOUT, "transport:connect"),
        ] {
            assert_eq!(connect_error(target, &io::Error::from(errno)).code, code);
        }
    }
}
