//! The thread's loop: datagrams, the timer, and when what leaves.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::mpsc::SyncSender;

use adsum_sip::Time;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, oneshot};

use super::Sockets;
use super::stream::{self, Connection};
use crate::config::PoolConfig;
use crate::core::{Core, Out, Peer, Stats};
use crate::faults::Faults;

/// Messages that may wait for their instant; beyond, they leave at once and count as timing errors.
const MAX_DELAYED: usize = 1_000_000;
/// Own lateness above this counts, in nanoseconds.
const TOLERANCE: u64 = 250_000;
/// Datagrams that are taken before others have their turn.
const BATCH: usize = 64;

pub(super) fn now() -> Time {
    let t = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    Time(t.map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64))
}

#[derive(Debug)]
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

/// A message that waits for its instant; the earliest is the greatest.
struct Delayed {
    at: Time,
    sequence: u64,
    out: Out,
}

impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Delayed {}

/// What the tasks of a pool share; all on one thread.
pub(super) struct Shared {
    pub(super) core: Core,
    faults: Faults,
    udp: Rc<UdpSocket>,
    notify: Option<Rc<UdpSocket>>,
    pub(super) connections: HashMap<u64, Rc<Connection>>,
    next_connection: u64,
    delayed: BinaryHeap<Delayed>,
    sequence: u64,
    /// When the last standstill ended: what was due in it is not late by our fault.
    stalled_until: Time,
    timer: Rc<AsyncFd<Fd>>,
    armed: Time,
    outs: Vec<Out>,
    /// Into which connections read.
    pub(super) scratch: Vec<u8>,
}

impl Shared {
    /// A message came in.
    pub(super) fn receive(&mut self, peer: Peer, bytes: &[u8]) {
        let now = now();
        if self.delayed.peek().is_some_and(|first| first.at <= now) {
            self.release();
        }
        if !self.faults.arrives(now, matches!(peer, Peer::Udp(_))) {
            return;
        }
        let mut outs = std::mem::take(&mut self.outs);
        self.core.handle(now, peer, bytes, &mut outs);
        self.dispatch(now, &mut outs);
        self.outs = outs;
    }

    /// A connection is gone; others may have to be told.
    pub(super) fn disconnected(&mut self, peer: Peer) {
        let now = now();
        let mut outs = std::mem::take(&mut self.outs);
        self.core.disconnected(now, peer, &mut outs);
        self.dispatch(now, &mut outs);
        self.outs = outs;
        self.arm();
    }

    /// Sends what is due now, and keeps the rest.
    fn dispatch(&mut self, now: Time, outs: &mut Vec<Out>) {
        for out in outs.drain(..) {
            if out.at <= now {
                self.transmit(now, out);
            } else if self.delayed.len() < MAX_DELAYED {
                self.sequence += 1;
                self.delayed.push(Delayed { at: out.at, sequence: self.sequence, out });
            } else {
                self.core.count_timing_error(out.at.since(now));
                self.transmit(now, out);
            }
        }
    }

    /// Sends what has waited for its instant. The clock is read before each:
    /// whoever stands behind many others is late, and is counted.
    fn release(&mut self) {
        loop {
            let now = now();
            if self.delayed.peek().is_none_or(|first| first.at > now) {
                return;
            }
            let Some(Delayed { at, out, .. }) = self.delayed.pop() else { return };
            let late = now.since(at.max(self.stalled_until));
            if late > TOLERANCE {
                self.core.count_timing_error(late);
            }
            self.transmit(now, out);
        }
    }

    /// What time brings.
    fn expire(&mut self) {
        if let Some(during) = self.faults.stall(now()) {
            let late = now().since(self.faults.stall_at());
            // The whole pool is this thread: while it sleeps nothing is read, answered or sent.
            std::thread::sleep(during);
            self.stalled_until = now();
            self.faults.stalled(self.stalled_until);
            if late > TOLERANCE {
                self.core.count_timing_error(late);
            }
        }
        self.release();
        let now = now();
        let mut outs = std::mem::take(&mut self.outs);
        self.core.expire(now, &mut outs);
        self.dispatch(now, &mut outs);
        self.outs = outs;
        if let Some(out) = self.faults.overdue(now) {
            self.datagram(out);
        }
    }

    fn transmit(&mut self, now: Time, out: Out) {
        match out.peer {
            Peer::Udp(_) => {
                let mut leaving = [const { None }; 3];
                let mut count = 0;
                self.faults.leaves(now, out, |out| {
                    leaving[count] = Some(out);
                    count += 1;
                });
                leaving.into_iter().flatten().for_each(|out| self.datagram(out));
            }
            Peer::Stream(number, ..) => {
                let sent = self.connections.get(&number).map(|connection| connection.send(&out.bytes));
                match sent {
                    Some(Ok(())) => {}
                    Some(Err(stream::Stuck)) => self.core.stats.connections_stuck += 1,
                    None => self.core.stats.not_sent += 1,
                }
                self.core.recycle(out.bytes);
            }
        }
    }

    fn datagram(&mut self, out: Out) {
        let Peer::Udp(to) = out.peer else { return };
        let socket = self.notify.as_ref().filter(|_| out.notify).unwrap_or(&self.udp);
        let mut sent = socket.try_send_to(&out.bytes, to);
        // That is about an earlier datagram to somebody who is gone; this one was not tried.
        if sent.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
            sent = socket.try_send_to(&out.bytes, to);
        }
        // A full buffer is a loss, which timer E of whoever waits mends.
        self.core.stats.not_sent += u64::from(sent.is_err());
        self.core.recycle(out.bytes);
    }

    fn next(&self) -> Time {
        let delayed = self.delayed.peek().map_or(Time::NEVER, |first| first.at);
        self.core.next_timer().min(delayed).min(self.faults.next())
    }

    /// Sets the OS timer if something is due before it fires.
    pub(super) fn arm(&mut self) {
        let next = self.next();
        if next < self.armed {
            let at = TimeSpec::from_duration(std::time::Duration::from_nanos(next.0.max(1)));
            let set =
                self.timer.get_ref().0.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME);
            if set.is_ok() {
                self.armed = next;
            }
        }
    }

    /// Takes a new connection, unless there are too many.
    pub(super) fn connect(&mut self, connection: Connection) -> Option<(u64, Rc<Connection>)> {
        if self.connections.len() >= self.core.config.max_connections {
            self.core.stats.connections_refused += 1;
            return None;
        }
        self.next_connection += 1;
        let connection = Rc::new(connection);
        self.connections.insert(self.next_connection, Rc::clone(&connection));
        Some((self.next_connection, connection))
    }

    fn stats(&self) -> Stats {
        let done = self.faults.done();
        Stats {
            dropped_in: done.dropped_in,
            dropped_out: done.dropped_out,
            duplicated: done.duplicated,
            reordered: done.reordered,
            stalls: done.stalls,
            ..self.core.stats()
        }
    }
}

/// Runs a pool until it is told to stop; what it counted.
pub(super) async fn run(
    config: PoolConfig,
    address: SocketAddr,
    sockets: Sockets,
    mut asked: mpsc::Receiver<SyncSender<Stats>>,
    mut stopped: oneshot::Receiver<()>,
) -> Stats {
    let (Ok(udp), Ok(tcp)) = (UdpSocket::from_std(sockets.udp), TcpListener::from_std(sockets.tcp)) else {
        return Stats::default();
    };
    let udp = Rc::new(udp);
    let notify = sockets.notify.and_then(|socket| UdpSocket::from_std(socket).ok()).map(Rc::new);
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC);
    let Ok(timer) = timer else { return Stats::default() };
    #[expect(deprecated, reason = "the replacement is unsafe, and what it guards against cannot happen here")]
    let Ok(timer) = AsyncFd::with_interest(Fd(timer), Interest::READABLE) else { return Stats::default() };
    let timer = Rc::new(timer);
    let faults = Faults::new(&config);
    let shared = Rc::new(RefCell::new(Shared {
        core: Core::new(config, address),
        faults,
        udp: Rc::clone(&udp),
        notify: notify.clone(),
        connections: HashMap::new(),
        next_connection: 0,
        delayed: BinaryHeap::new(),
        sequence: 0,
        stalled_until: Time(0),
        timer: Rc::clone(&timer),
        armed: Time::NEVER,
        outs: Vec::new(),
        scratch: vec![0; 64 * 1024],
    }));
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    shared.borrow_mut().core.set_clock(now(), unix.map_or(0, |since| since.as_millis() as u64));
    tokio::task::spawn_local(stream::accept(Rc::clone(&shared), tcp, None));
    let tls = sockets.tls.and_then(|(listener, tls)| Some((TcpListener::from_std(listener).ok()?, tls)));
    if let Some((listener, tls)) = tls {
        if let Ok(address) = listener.local_addr() {
            shared.borrow_mut().core.set_tls_address(address);
        }
        tokio::task::spawn_local(stream::accept(Rc::clone(&shared), listener, Some(tls)));
    }
    if let Some(notify) = notify {
        tokio::task::spawn_local(datagrams(Rc::clone(&shared), notify));
    }
    tokio::task::spawn_local(datagrams(Rc::clone(&shared), udp));
    shared.borrow_mut().arm();
    loop {
        tokio::select! {
            biased;
            ready = timer.readable() => {
                let Ok(mut ready) = ready else { break };
                let mut expirations = [0u8; 8];
                // It fired; how often, and whether that can be read, does not matter.
                let _ = nix::unistd::read(timer.get_ref().as_fd(), &mut expirations);
                ready.clear_ready();
                let mut shared = shared.borrow_mut();
                shared.armed = Time::NEVER;
                shared.expire();
                shared.arm();
            }
            Some(answer) = asked.recv() => {
                // Whoever asked may have lost patience.
                let _ = answer.try_send(shared.borrow().stats());
            }
            _ = &mut stopped => break,
        }
    }
    shared.borrow().stats()
}

async fn datagrams(shared: Rc<RefCell<Shared>>, socket: Rc<UdpSocket>) {
    let mut buffer = vec![0; 65_536];
    while socket.readable().await.is_ok() {
        if batch(&mut shared.borrow_mut(), &socket, &mut buffer) {
            tokio::task::yield_now().await;
        }
    }
}

/// Takes a batch; true if there may be more, after the timer had its turn.
fn batch(shared: &mut Shared, socket: &UdpSocket, buffer: &mut [u8]) -> bool {
    let mut more = true;
    for _ in 0..BATCH {
        match socket.try_recv_from(buffer) {
            Ok((len, from)) => shared.receive(Peer::Udp(from), &buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                more = false;
                break;
            }
            Err(_) => {} // a refusal of something sent earlier
        }
    }
    shared.arm();
    more
}
