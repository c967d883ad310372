//! Connections: TCP, and TLS inside it.
//!
//! A connection keeps only what is its own: the socket, bytes that could not
//! be written yet, the part of a message that has come so far. Reading goes
//! through a buffer of the shard.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::sync::Arc;

use adsum_presence::host::{Class, FlowError};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// More unsent bytes than these on one connection are a peer that reads
/// nothing: further messages are refused and counted.
pub const MAX_UNSENT: usize = 1024 * 1024;
/// A message whose parts exceed this is no SIP message of a presence server.
const MAX_MESSAGE: usize = 1024 * 1024 + 64 * 1024;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: Rc<TcpStream>,
    tls: Option<Box<ClientConnection>>,
    name: Option<ServerName<'static>>,
    /// Bytes that the kernel did not take yet.
    unsent: VecDeque<u8>,
    /// The beginning of a message that is not complete.
    partial: Vec<u8>,
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

/// What is needed to connect.
#[derive(Debug, Clone)]
pub struct Dial {
    /// Where to.
    pub target: SocketAddr,
    /// Local address, if one is prescribed.
    pub source: Option<IpAddr>,
    /// For TLS.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Connection {
    /// Connects, and finishes the TLS handshake if there is one.
    ///
    /// # Errors
    /// What went wrong, for a person.
    pub async fn open(dial: &Dial) -> Result<Connection, FlowError> {
        let target = dial.target;
        let stream = connect(dial).await.map_err(|error| connect_error(target, &error))?;
        let closed = |error: io::Error| closed_error(&error.to_string());
        stream.set_nodelay(true).map_err(closed)?;
        let local = stream.local_addr().map_err(closed)?;
        let mut connection = Connection {
            stream: Rc::new(stream),
            tls: None,
            name: None,
            unsent: VecDeque::new(),
            partial: Vec::new(),
            local,
            peer: target,
        };
        if let Some((config, name)) = &dial.tls {
            let tls = ClientConnection::new(Arc::clone(config), name.clone())
                .map_err(|error| super::tls::explain(&error, name))?;
            connection.tls = Some(Box::new(tls));
            connection.name = Some(name.clone());
            connection.handshake().await?;
        }
        Ok(connection)
    }

    async fn handshake(&mut self) -> Result<(), FlowError> {
        let Some(name) = self.name.clone() else { return Ok(()) };
        loop {
            let broken = self.flush() == Written::Broken;
            let Some(tls) = &mut self.tls else { return Ok(()) };
            if !tls.is_handshaking() {
                return Ok(());
            }
            if broken {
                return Err(closed_error("the connection broke in the TLS handshake"));
            }
            self.stream.readable().await.map_err(|e| closed_error(&e.to_string()))?;
            let stream = &*self.stream;
            let read = stream.try_io(tokio::io::Interest::READABLE, || tls.read_tls(&mut Reader(stream)));
            match read {
                Ok(0) => {
                    return Err(FlowError {
                        class: Class::Pool,
                        code: "transport:tls",
                        reason: "the server closed the connection in the TLS handshake".into(),
                        diagnosis: "it may not speak TLS on this port, ask for a client certificate, or be overloaded"
                            .into(),
                    });
                }
                Ok(_) => {
                    if let Err(error) = tls.process_new_packets() {
                        self.flush(); // the alert that says why
                        return Err(super::tls::explain(&error, &name));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(closed_error(&error.to_string())),
            }
        }
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

    /// The socket, to wait for it.
    #[must_use]
    pub fn stream(&self) -> &Rc<TcpStream> {
        &self.stream
    }

    /// True if bytes wait for the kernel.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Writes a message.
    pub fn write(&mut self, bytes: &[u8]) -> Written {
        if self.unsent.len() > MAX_UNSENT {
            return Written::Refused;
        }
        if let Some(tls) = &mut self.tls {
            if tls.writer().write_all(bytes).is_err() {
                return Written::Broken;
            }
            return self.flush();
        }
        let mut rest = bytes;
        if self.unsent.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(n) => rest = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Written::Broken,
            }
        }
        self.unsent.extend(rest);
        if self.unsent.is_empty() { Written::Whole } else { Written::Blocked }
    }

    /// Writes what waits.
    pub fn flush(&mut self) -> Written {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                if tls.write_tls(&mut Tail(&mut self.unsent)).is_err() {
                    return Written::Broken;
                }
            }
        }
        while !self.unsent.is_empty() {
            let (front, _) = self.unsent.as_slices();
            match self.stream.try_write(front) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Written::Blocked,
                Err(_) => return Written::Broken,
            }
        }
        Written::Whole
    }

    /// Reads what there is and hands over `partial + news` as one buffer; the
    /// caller returns how many bytes of it were whole messages. `Ok(false)`
    /// when there is nothing more to read now.
    ///
    /// # Errors
    /// When the connection has ended, with why.
    pub fn read(&mut self, buffer: &mut [u8], news: &mut Vec<u8>) -> Result<bool, FlowError> {
        let stream = &*self.stream;
        match &mut self.tls {
            None => match stream.try_read(buffer) {
                Ok(0) => Err(closed_error("the server closed the connection")),
                Ok(n) => {
                    news.extend_from_slice(&buffer[..n]);
                    Ok(true)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(closed_error(&error.to_string())),
            },
            Some(tls) => {
                match stream.try_io(tokio::io::Interest::READABLE, || tls.read_tls(&mut Reader(stream))) {
                    Ok(0) => return Err(closed_error("the server closed the connection")),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(closed_error(&error.to_string())),
                }
                if let Err(error) = tls.process_new_packets() {
                    let explained = self.name.as_ref().map(|name| super::tls::explain(&error, name));
                    self.flush();
                    return Err(explained.unwrap_or_else(|| closed_error("TLS failed")));
                }
                loop {
                    match tls.reader().read(buffer) {
                        Ok(0) => return Err(closed_error("the server closed the TLS session")),
                        Ok(n) => news.extend_from_slice(&buffer[..n]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                        Err(error) => return Err(closed_error(&error.to_string())),
                    }
                }
            }
        }
    }

    /// The part of a message that is kept between reads.
    pub fn take_partial(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }

    /// Keeps the part of a message that is not complete. `false` if it is too long.
    pub fn keep_partial(&mut self, rest: &[u8]) -> bool {
        self.partial.clear();
        self.partial.extend_from_slice(rest);
        if rest.is_empty() {
            self.partial.shrink_to(0);
        }
        self.partial.len() <= MAX_MESSAGE
    }

    /// Says goodbye, as far as the kernel takes it.
    pub fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.flush();
    }
}

async fn connect(dial: &Dial) -> io::Result<TcpStream> {
    let domain = Domain::for_address(dial.target);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = dial.source {
        // Without it every bind takes a port away from all targets, and becomes
        // slow when many connections of earlier runs still linger.
        setsockopt(&socket.as_fd(), sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    TcpSocket::from_std_stream(socket.into()).connect(dial.target).await
}

fn connect_error(target: SocketAddr, error: &io::Error) -> FlowError {
    let (class, diagnosis) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (
            Class::Configuration,
            "nothing listens there: check address, port and transport, and that the pool runs",
        ),
        io::ErrorKind::TimedOut => (Class::Network, "no answer: look for firewalls and routes between"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            (Class::Network, "there is no route to it from here")
        }
        io::ErrorKind::AddrNotAvailable => (
            Class::Generator,
            "no local port is free: give more addresses with `source`, or widen net.ipv4.ip_local_port_range",
        ),
        _ if error.raw_os_error() == Some(24) => {
            (Class::Generator, "too many open files: raise the limit (ulimit -n), or use more agents")
        }
        _ => (Class::Network, "look at the network between this host and the pool"),
    };
    FlowError {
        class,
        code: "transport:connect",
        reason: format!("cannot connect to {target}: {error}"),
        diagnosis: diagnosis.to_owned(),
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

/// rustls reads through this.
struct Reader<'a>(&'a TcpStream);

impl io::Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::fd::AsFd as _;
        Ok(nix::unistd::read(self.0.as_fd(), buffer)?)
    }
}

/// rustls writes into this.
struct Tail<'a>(&'a mut VecDeque<u8>);

impl io::Write for Tail<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
