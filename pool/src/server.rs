//! The shell: one thread with its own runtime, sockets, an exact timer, and
//! the faults that concern messages as such.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use adsum_sip::Time;
use adsum_sip::frame::{self, Frame};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

use crate::certs::{self, CertificateError, Certificates};
use crate::config::{Chance, PoolConfig};
use crate::core::{Core, Out, Peer, Stats};

/// Messages that may wait for one connection; beyond, it is closed: its peer does not read.
const PER_CONNECTION: usize = 1_024;
/// Messages that may wait for their instant; beyond, they leave at once and count as timing errors.
const MAX_DELAYED: usize = 1_000_000;
/// Connections at a time.
const MAX_CONNECTIONS: usize = 60_000;
/// Own lateness above this counts.
const TOLERANCE: u64 = 250_000;

/// A pool that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// Loopback only.
    #[error("{0} is no loopback address: the embedded pool listens on 127.0.0.0/8 and [::1] only")]
    NotLoopback(SocketAddr),
    /// A socket.
    #[error("the pool cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// Certificates.
    #[error(transparent)]
    Certificates(#[from] CertificateError),
    /// The thread.
    #[error("the pool's thread: {0}")]
    Thread(std::io::Error),
}

/// A pool that runs on a thread of its own until it is stopped or dropped.
#[derive(Debug)]
pub struct Pool {
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    ca: Option<String>,
    stats: Arc<Mutex<Stats>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Sockets {
    udp: std::net::UdpSocket,
    notify: Option<std::net::UdpSocket>,
    tcp: std::net::TcpListener,
    tls: Option<(std::net::TcpListener, TlsAcceptor)>,
}

impl Pool {
    /// Binds the sockets and starts.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn start(config: PoolConfig) -> Result<Pool, PoolError> {
        for address in std::iter::once(config.listen).chain(config.tls_listen) {
            if !address.ip().is_loopback() {
                return Err(PoolError::NotLoopback(address));
            }
        }
        let listen = |address: SocketAddr| move |e: std::io::Error| PoolError::Listen(address, e);
        let (udp, tcp) = bind_both(config.listen).map_err(listen(config.listen))?;
        let address = udp.local_addr().map_err(listen(config.listen))?;
        let notify = match config.notify_from {
            Some(ip) => {
                let from = SocketAddr::new(ip, address.port());
                if !ip.is_loopback() {
                    return Err(PoolError::NotLoopback(from));
                }
                Some(bind_udp(from).map_err(listen(from))?)
            }
            None => None,
        };
        let mut certificates: Option<Certificates> = None;
        let tls = match config.tls_listen {
            Some(wanted) => {
                let names = [config.domain.clone(), "localhost".to_owned(), wanted.ip().to_string()];
                let made = match &config.tls_dir {
                    Some(dir) => certs::in_directory(dir, &names)?,
                    None => certs::make(&names)?,
                };
                let acceptor = TlsAcceptor::from(certs::server_config(&made)?);
                certificates = Some(made);
                let listener = std::net::TcpListener::bind(wanted).map_err(listen(wanted))?;
                listener.set_nonblocking(true).map_err(listen(wanted))?;
                Some((listener, acceptor))
            }
            None => None,
        };
        let tls_address = tls.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
        let sockets = Sockets { udp, notify, tcp, tls };
        let stats = Arc::new(Mutex::new(Stats::default()));
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&stats);
        let thread = std::thread::Builder::new()
            .name("pool".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let Ok(runtime) = runtime else { return };
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, run(config, address, sockets, shared, stopped));
            })
            .map_err(PoolError::Thread)?;
        Ok(Pool {
            address,
            tls_address,
            ca: certificates.map(|c| c.ca),
            stats,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens, UDP and TCP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for TLS.
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// What to trust for TLS, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca.as_deref()
    }

    /// What it counted, at most a tenth of a second ago.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it; what it counted.
    pub fn stop(mut self) -> Stats {
        self.end();
        self.stats()
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the pool's thread has been printed.
            drop(thread.join());
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.end();
    }
}

fn bind_udp(address: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    let size = 8 * 1024 * 1024usize;
    // FORCE needs a privilege; without it the system's limit decides.
    if nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &size).is_err() {
        socket.set_recv_buffer_size(size)?;
    }
    if nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SndBufForce, &size).is_err() {
        socket.set_send_buffer_size(size)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// UDP and TCP on one port; with port 0, on one that is free for both.
fn bind_both(address: SocketAddr) -> std::io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let mut last = None;
    for _ in 0..32 {
        let udp = bind_udp(address)?;
        match std::net::TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => {
                tcp.set_nonblocking(true)?;
                return Ok((udp, tcp));
            }
            Err(error) if address.port() == 0 => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::other("no free port")))
}

fn now() -> Time {
    let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    Time(t.map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64))
}

struct Fd(TimerFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the tasks of a pool share; all on one thread.
struct Shared {
    core: Core,
    udp: Rc<UdpSocket>,
    notify: Option<Rc<UdpSocket>>,
    connections: HashMap<u64, mpsc::Sender<Vec<u8>>>,
    next_connection: u64,
    delayed: BTreeMap<(Time, u64), Out>,
    sequence: u64,
    chance: Chance,
    /// With `reorder`: a datagram that waits for the next one.
    held_back: Option<Out>,
    /// With `stall`: when the next one begins.
    stall_at: Time,
    outs: Vec<Out>,
}

impl Shared {
    fn receive(&mut self, peer: Peer, bytes: &[u8]) {
        let now = now();
        if let (Time::NEVER, Some((every, _))) = (self.stall_at, self.core.config.stall) {
            self.stall_at = now + every.as_nanos() as u64;
        }
        if matches!(peer, Peer::Udp(_)) && self.chance.hit(self.core.config.drop) {
            return;
        }
        let mut outs = std::mem::take(&mut self.outs);
        self.core.handle(now, peer, bytes, &mut outs);
        self.dispatch(now, &mut outs);
        self.outs = outs;
    }

    fn expire(&mut self) {
        let now = now();
        let mut outs = std::mem::take(&mut self.outs);
        self.core.expire(now, &mut outs);
        self.dispatch(now, &mut outs);
        self.outs = outs;
        while let Some(entry) = self.delayed.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((due, _), out) = entry.remove_entry();
            if now.since(due) > TOLERANCE {
                self.core.count_timing_error();
            }
            self.transmit(out);
        }
    }

    fn dispatch(&mut self, now: Time, outs: &mut Vec<Out>) {
        for out in outs.drain(..) {
            if out.at <= now {
                self.transmit(out);
            } else if self.delayed.len() < MAX_DELAYED {
                self.sequence += 1;
                self.delayed.insert((out.at, self.sequence), out);
            } else {
                self.core.count_timing_error();
                self.transmit(out);
            }
        }
    }

    fn transmit(&mut self, out: Out) {
        match out.peer {
            Peer::Udp(_) => {
                if self.chance.hit(self.core.config.drop) {
                    return;
                }
                if self.held_back.is_none() && self.chance.hit(self.core.config.reorder) {
                    self.held_back = Some(out);
                    return;
                }
                let twice = self.chance.hit(self.core.config.duplicate);
                self.datagram(&out);
                if twice {
                    self.datagram(&out);
                }
                if let Some(held) = self.held_back.take() {
                    self.datagram(&held);
                }
            }
            Peer::Stream(number, ..) => {
                let full = self.connections.get(&number).is_some_and(|c| c.try_send(out.bytes).is_err());
                if full {
                    self.connections.remove(&number);
                }
            }
        }
    }

    fn datagram(&self, out: &Out) {
        let Peer::Udp(to) = out.peer else { return };
        let socket = self.notify.as_ref().filter(|_| out.notify).unwrap_or(&self.udp);
        // A full buffer is a loss, which timer E of whoever waits mends.
        drop(socket.try_send_to(&out.bytes, to));
    }

    fn next(&self) -> Time {
        let delayed = self.delayed.keys().next().map_or(Time::NEVER, |(at, _)| *at);
        self.core.next_timer().min(delayed).min(self.stall_at)
    }
}

async fn run(
    config: PoolConfig,
    address: SocketAddr,
    sockets: Sockets,
    stats: Arc<Mutex<Stats>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let (Ok(udp), Ok(tcp)) = (UdpSocket::from_std(sockets.udp), TcpListener::from_std(sockets.tcp)) else {
        return;
    };
    let udp = Rc::new(udp);
    let notify = sockets.notify.and_then(|socket| UdpSocket::from_std(socket).ok()).map(Rc::new);
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC);
    let Ok(timer) = timer else { return };
    #[expect(deprecated, reason = "the replacement is unsafe, and what it guards against cannot happen here")]
    let Ok(timer) = AsyncFd::with_interest(Fd(timer), Interest::READABLE) else { return };
    let chance = Chance::new(config.seed ^ 0xfa17);
    let shared = Rc::new(RefCell::new(Shared {
        core: Core::new(config, address),
        udp: Rc::clone(&udp),
        notify: notify.clone(),
        connections: HashMap::new(),
        next_connection: 0,
        delayed: BTreeMap::new(),
        sequence: 0,
        chance,
        held_back: None,
        stall_at: Time::NEVER,
        outs: Vec::new(),
    }));
    tokio::task::spawn_local(accept(Rc::clone(&shared), tcp, None));
    let tls = sockets.tls.map(|(listener, acceptor)| (TcpListener::from_std(listener), acceptor));
    if let Some((Ok(listener), acceptor)) = tls {
        tokio::task::spawn_local(accept(Rc::clone(&shared), listener, Some(acceptor)));
    }
    if let Some(notify) = notify {
        tokio::task::spawn_local(datagrams(Rc::clone(&shared), notify));
    }
    tokio::task::spawn_local(datagrams(Rc::clone(&shared), udp));
    let mut armed = Time::NEVER;
    let mut publish = tokio::time::interval(Duration::from_millis(100));
    loop {
        let next = shared.borrow().next().min(now() + 5_000_000);
        if next != armed {
            armed = next;
            let at = TimeSpec::from_duration(Duration::from_nanos(next.0.max(1)));
            if timer.get_ref().0.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME).is_err() {
                return;
            }
        }
        tokio::select! {
            _ = &mut stopped => break,
            ready = timer.readable() => {
                let Ok(mut ready) = ready else { return };
                let mut expirations = [0u8; 8];
                // It fired; how often, and whether that can be read, does not matter.
                let _ = nix::unistd::read(timer.get_ref().as_fd(), &mut expirations);
                ready.clear_ready();
                armed = Time::NEVER;
            }
            _ = publish.tick() => {
                *stats.lock().unwrap_or_else(PoisonError::into_inner) = shared.borrow().core.stats();
            }
        }
        let mut shared = shared.borrow_mut();
        if let (true, Some((every, during))) = (now() >= shared.stall_at, shared.core.config.stall) {
            // The whole pool is this thread: while it sleeps nothing is read, answered or sent.
            std::thread::sleep(during);
            shared.stall_at = now() + every.as_nanos() as u64;
        }
        shared.expire();
    }
    *stats.lock().unwrap_or_else(PoisonError::into_inner) = shared.borrow().core.stats();
}

async fn datagrams(shared: Rc<RefCell<Shared>>, socket: Rc<UdpSocket>) {
    let mut buffer = vec![0; 65_536];
    while socket.readable().await.is_ok() {
        // A batch, then the timer's turn.
        for _ in 0..64 {
            match socket.try_recv_from(&mut buffer) {
                Ok((len, from)) => shared.borrow_mut().receive(Peer::Udp(from), &buffer[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => {} // a refusal of something sent earlier
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn accept(shared: Rc<RefCell<Shared>>, listener: TcpListener, acceptor: Option<TlsAcceptor>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        drop(stream.set_nodelay(true));
        if shared.borrow().connections.len() >= MAX_CONNECTIONS {
            continue;
        }
        let (shared, acceptor) = (Rc::clone(&shared), acceptor.clone());
        tokio::task::spawn_local(async move {
            match acceptor {
                None => serve(shared, stream, from, false).await,
                Some(acceptor) => {
                    let accepted =
                        tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await;
                    if let Ok(Ok(stream)) = accepted {
                        serve(shared, stream, from, true).await;
                    }
                }
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + 'static>(
    shared: Rc<RefCell<Shared>>,
    stream: S,
    from: SocketAddr,
    tls: bool,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (outbox, mut inbox) = mpsc::channel::<Vec<u8>>(PER_CONNECTION);
    let number = {
        let mut shared = shared.borrow_mut();
        shared.next_connection += 1;
        let number = shared.next_connection;
        shared.connections.insert(number, outbox);
        number
    };
    let peer = Peer::Stream(number, from, tls);
    let write = async move {
        while let Some(bytes) = inbox.recv().await {
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
        drop(writer.shutdown().await);
    };
    let inner = Rc::clone(&shared);
    let read = async move {
        let mut buffer: Vec<u8> = Vec::with_capacity(8 * 1024);
        loop {
            match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            loop {
                match frame::next(&buffer) {
                    Ok(Frame::More) => break,
                    Ok(Frame::KeepAlive(n)) => drop(buffer.drain(..n)),
                    Ok(Frame::Message { begin, end }) => {
                        inner.borrow_mut().receive(peer, &buffer[begin..end]);
                        buffer.drain(..end);
                    }
                    Err(_) => return,
                }
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
    let mut shared = shared.borrow_mut();
    shared.connections.remove(&number);
    shared.core.disconnected(peer);
}
