//! Connections: a task each, which only waits. What is sent is handed to the
//! kernel at once; the task sees to what the kernel did not take.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adsum_sip::frame::{self, Frame};
use rustls::{ServerConfig, ServerConnection};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::shell::Shared;
use crate::certs;
use crate::core::Peer;

/// Bytes that may wait for one connection; beyond, it is closed: its peer does not read.
const MAX_BACKLOG: usize = 1024 * 1024;
/// For TLS to get ready.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Reads of one connection before others have their turn.
const ROUNDS: usize = 16;

/// The peer does not read.
pub(super) struct Stuck;

/// One connection, TCP or TLS.
pub(super) struct Connection {
    stream: TcpStream,
    tls: Option<RefCell<Box<ServerConnection>>>,
    /// What the kernel did not take: plain bytes; for TLS they wait inside it.
    backlog: RefCell<Vec<u8>>,
    /// How much waits, TLS records not counted.
    waiting: Cell<usize>,
    closed: Cell<bool>,
    wake: Notify,
}

/// The socket as rustls wants it.
struct Raw<'a>(&'a TcpStream);

impl io::Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl io::Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection {
    fn new(stream: TcpStream, tls: Option<ServerConnection>) -> Self {
        Connection {
            stream,
            tls: tls.map(|mut tls| {
                tls.set_buffer_limit(None); // bounded by MAX_BACKLOG
                RefCell::new(Box::new(tls))
            }),
            backlog: RefCell::new(Vec::new()),
            waiting: Cell::new(0),
            closed: Cell::new(false),
            wake: Notify::new(),
        }
    }

    /// Hands a message over. A connection that broke just loses it: its end is
    /// noticed by its task.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<(), Stuck> {
        if self.closed.get() {
            return Ok(());
        }
        self.waiting.set(self.waiting.get() + bytes.len());
        let written = match &self.tls {
            Some(tls) => tls.borrow_mut().writer().write_all(bytes).map(|()| 0),
            None if self.backlog.borrow().is_empty() => {
                written(self.stream.try_write(bytes)).inspect(|n| self.waiting.set(bytes.len() - n))
            }
            None => Ok(0),
        };
        match (&self.tls, written) {
            (_, Err(_)) => self.close(),
            (Some(_), Ok(_)) => self.flush(),
            (None, Ok(written)) => self.backlog.borrow_mut().extend_from_slice(&bytes[written..]),
        }
        if self.waiting.get() > MAX_BACKLOG {
            self.close();
            return Err(Stuck);
        }
        if self.waiting.get() > 0 {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Tries again to hand over what waits.
    fn flush(&self) {
        let result = match &self.tls {
            Some(tls) => {
                let mut tls = tls.borrow_mut();
                loop {
                    if !tls.wants_write() {
                        self.waiting.set(0);
                        break Ok(());
                    }
                    match tls.write_tls(&mut Raw(&self.stream)) {
                        Ok(n) => self.waiting.set(self.waiting.get().saturating_sub(n)),
                        Err(e) if e.kind() == ErrorKind::WouldBlock => break Ok(()),
                        Err(e) => break Err(e),
                    }
                }
            }
            None => {
                let mut backlog = self.backlog.borrow_mut();
                let mut done = 0;
                let result = loop {
                    if done == backlog.len() {
                        break Ok(());
                    }
                    match written(self.stream.try_write(&backlog[done..])) {
                        Ok(0) => break Ok(()),
                        Ok(n) => done += n,
                        Err(e) => break Err(e),
                    }
                };
                backlog.drain(..done);
                if backlog.is_empty() {
                    *backlog = Vec::new();
                }
                self.waiting.set(backlog.len());
                result
            }
        };
        if result.is_err() {
            self.close();
        }
    }

    fn close(&self) {
        self.closed.set(true);
        self.wake.notify_one();
    }

    fn has_backlog(&self) -> bool {
        self.tls.as_ref().map_or(self.waiting.get() > 0, |tls| tls.borrow().wants_write())
    }

    /// The names in the certificate of a client that showed one; a CA of ours
    /// vouches for it, or the handshake had failed.
    fn certified_names(&self) -> Option<Vec<String>> {
        let tls = self.tls.as_ref()?.borrow();
        let certificate = tls.peer_certificates()?.first()?;
        Some(certs::names(certificate))
    }

    fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.borrow().is_handshaking())
    }

    /// Takes what came of the handshake, and answers.
    fn shake_hands(&self) -> io::Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let mut tls = tls.borrow_mut();
        while tls.is_handshaking() {
            match tls.read_tls(&mut Raw(&self.stream)) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => process(&mut tls, &self.stream)?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads what is there: `Ok(0)` at the end, `WouldBlock` if there is nothing.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return self.stream.try_read(buffer) };
        let mut tls = tls.borrow_mut();
        loop {
            match tls.reader().read(buffer) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            if tls.read_tls(&mut Raw(&self.stream))? == 0 {
                return Ok(0);
            }
            process(&mut tls, &self.stream)?;
        }
    }
}

/// Decrypts what was read, and sends what TLS itself has to say.
fn process(tls: &mut ServerConnection, stream: &TcpStream) -> io::Result<()> {
    let processed = tls.process_new_packets();
    while tls.wants_write() {
        match tls.write_tls(&mut Raw(stream)) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    processed.map(drop).map_err(io::Error::other)
}

/// Nothing written is no error while the kernel's buffer is full.
fn written(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        Ok(0) => Err(ErrorKind::WriteZero.into()),
        other => other,
    }
}

/// Accepts connections for ever.
pub(super) async fn accept(
    shared: Rc<RefCell<Shared>>,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // No descriptors left, most often: some may come back.
            shared.borrow_mut().core.stats.accept_errors += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        drop(stream.set_nodelay(true));
        let session = match &tls {
            Some(config) => match ServerConnection::new(Arc::clone(config)) {
                Ok(session) => Some(session),
                Err(_) => continue,
            },
            None => None,
        };
        let connection = shared.borrow_mut().connect(Connection::new(stream, session));
        if let Some((number, connection)) = connection {
            let peer = Peer::Stream(number, from, tls.is_some());
            tokio::task::spawn_local(serve(Rc::clone(&shared), connection, number, peer));
        }
    }
}

async fn serve(shared: Rc<RefCell<Shared>>, connection: Rc<Connection>, number: u64, peer: Peer) {
    let ready = async {
        while connection.is_handshaking() {
            let interest = if connection.has_backlog() {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            connection.stream.ready(interest).await?;
            connection.flush();
            connection.shake_hands()?;
        }
        io::Result::Ok(())
    };
    if matches!(tokio::time::timeout(HANDSHAKE, ready).await, Ok(Ok(()))) {
        if let Some(names) = connection.certified_names() {
            shared.borrow_mut().core.certified(peer, &names);
        }
        let mut partial = Vec::new();
        // Whatever came together with the end of the handshake is there already.
        let mut look = read(&shared, &connection, peer, &mut partial);
        while let (Ok(more), false) = (look, connection.closed.get()) {
            if more {
                tokio::task::yield_now().await;
            } else {
                let interest = if connection.has_backlog() {
                    Interest::READABLE | Interest::WRITABLE
                } else {
                    Interest::READABLE
                };
                tokio::select! {
                    ready = connection.stream.ready(interest) => if ready.is_err() { break },
                    () = connection.wake.notified() => {}
                }
            }
            if connection.has_backlog() {
                connection.flush();
            }
            look = read(&shared, &connection, peer, &mut partial);
        }
    }
    let mut shared = shared.borrow_mut();
    shared.connections.remove(&number);
    shared.disconnected(peer);
}

/// Reads and handles what is there; true if there may be more.
fn read(
    shared: &Rc<RefCell<Shared>>,
    connection: &Connection,
    peer: Peer,
    partial: &mut Vec<u8>,
) -> Result<bool, ()> {
    let mut shared = shared.borrow_mut();
    let mut scratch = std::mem::take(&mut shared.scratch);
    let mut result = Ok(true);
    for _ in 0..ROUNDS {
        match connection.read(&mut scratch) {
            Ok(0) => result = Err(()),
            Ok(n) => {
                let taken = if partial.is_empty() {
                    messages(&mut shared, connection, peer, &scratch[..n])
                        .map(|taken| partial.extend_from_slice(&scratch[taken..n]))
                } else {
                    partial.extend_from_slice(&scratch[..n]);
                    messages(&mut shared, connection, peer, partial).map(|taken| drop(partial.drain(..taken)))
                };
                if partial.is_empty() {
                    *partial = Vec::new();
                }
                if taken.is_err() {
                    result = Err(());
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => result = Ok(false),
            Err(_) => result = Err(()),
        }
        if result != Ok(true) {
            break;
        }
    }
    shared.scratch = scratch;
    shared.arm();
    result
}

/// Two line breaks are a question, one is the answer (RFC 5626 §4.4.1).
const PING: usize = 4;
const PONG: &[u8] = b"\r\n";

/// Handles all complete messages; how many bytes they took.
fn messages(
    shared: &mut Shared,
    connection: &Connection,
    peer: Peer,
    bytes: &[u8],
) -> Result<usize, frame::FrameError> {
    let mut at = 0;
    // Whoever sends these and reads nothing is closed like anybody who does not read.
    let pong = |breaks: usize| u64::from(breaks >= PING && connection.send(PONG).is_err());
    loop {
        match frame::next(&bytes[at..])? {
            Frame::More => return Ok(at),
            Frame::KeepAlive(n) => {
                // One half of it may still be on its way.
                if n < PING && bytes.len() - at == n {
                    return Ok(at);
                }
                shared.core.stats.connections_stuck += pong(n);
                at += n;
            }
            Frame::Message { begin, end } => {
                shared.core.stats.connections_stuck += pong(begin);
                shared.receive(peer, &bytes[at + begin..at + end]);
                at += end;
            }
        }
    }
}
