//! The server around the core: one thread with its own runtime, sockets and an
//! exact timer.

mod shell;
mod stream;

use std::net::SocketAddr;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, oneshot};

use crate::certs::{self, CertificateError, Certificates};
use crate::config::PoolConfig;
use crate::core::Stats;

/// How long [`Pool::stats`] waits for the thread, which may stand still on purpose.
const PATIENCE: Duration = Duration::from_secs(2);

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
    /// What it counted when it was last asked, and at its end.
    stats: Arc<Mutex<Stats>>,
    ask: mpsc::Sender<SyncSender<Stats>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Sockets {
    udp: std::net::UdpSocket,
    notify: Option<std::net::UdpSocket>,
    tcp: std::net::TcpListener,
    tls: Option<(std::net::TcpListener, Arc<ServerConfig>)>,
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
                let client_ca = match &config.tls_client_ca {
                    Some(file) => Some(certs::client_ca(file)?),
                    None => None,
                };
                let config = certs::server_config(&made, client_ca.as_deref())?;
                certificates = Some(made);
                let listener = std::net::TcpListener::bind(wanted).map_err(listen(wanted))?;
                listener.set_nonblocking(true).map_err(listen(wanted))?;
                Some((listener, config))
            }
            None => None,
        };
        let tls_address = tls.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
        let sockets = Sockets { udp, notify, tcp, tls };
        let stats = Arc::new(Mutex::new(Stats::default()));
        let (stop, stopped) = oneshot::channel();
        let (ask, asked) = mpsc::channel(4);
        let last = Arc::clone(&stats);
        let thread = std::thread::Builder::new()
            .name("pool".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let Ok(runtime) = runtime else { return };
                let local = tokio::task::LocalSet::new();
                let stats = local.block_on(&runtime, shell::run(config, address, sockets, asked, stopped));
                *last.lock().unwrap_or_else(PoisonError::into_inner) = stats;
            })
            .map_err(PoolError::Thread)?;
        Ok(Pool {
            address,
            tls_address,
            ca: certificates.map(|c| c.ca),
            stats,
            ask,
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

    /// What it counted until now. If it stands still for more than two seconds,
    /// what it counted when it was last asked.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (answer, answered) = sync_channel(1);
        let asked = self.ask.try_send(answer).ok().and_then(|()| answered.recv_timeout(PATIENCE).ok());
        let mut last = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stats) = asked {
            *last = stats;
        }
        last.clone()
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
