//! What a shard's population sees of the world: sockets, clock, recorder.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use adsum_presence::Host;
use adsum_presence::accounts::Accounts;
use adsum_presence::host::{
    Class, Counter, Failure, Flow, FlowError, FlowEvent, Hop, Measure, Method, Opened, Origin, Progress,
    Sample, Sent, Stage,
};
use adsum_presence::population::Transport;
use adsum_sip::{Time, value};
use tokio::task::AbortHandle;

use crate::failures::Failures;
use crate::net::allow::Allow;
use crate::net::clock;
use crate::net::stream::{Connection, Dial, Written};
use crate::net::udp::UdpPort;
use crate::recorder::Recorder;
use crate::trace::Trace;

/// A connection of a flow, in whatever state.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub connection: Option<Connection>,
    /// The task that connects and reads.
    pub task: Option<AbortHandle>,
    /// Which connection of this flow: tasks of earlier ones are ignored.
    pub generation: u32,
}

/// Told of the progress of single users.
pub type Watcher = Box<dyn FnMut(u32, Progress)>;

/// Everything but the users.
pub(super) struct ShardIo {
    pub recorder: Recorder,
    pub failures: Failures,
    /// Step and phase of now: what messages count for.
    pub stage: Stage,
    /// The clock's last reading in this turn.
    pub now: Time,
    pub transport: Transport,
    pub udp: Option<UdpPort>,
    /// For streams: by flow.
    pub lines: Vec<Line>,
    /// Users share the lines.
    pub shared: bool,
    /// Lines that somebody wants to be opened.
    pub wanted: Vec<Flow>,
    pub dials: Vec<Dial>,
    /// Which of `dials` new connections use.
    pub dial: usize,
    pub target: SocketAddr,
    pub allow: Allow,
    pub advertise: Option<String>,
    pub watcher: Option<Watcher>,
    pub trace: Option<Trace>,
    /// Datagrams that the target's host refused (ICMP).
    pub refused: u64,
    pub accounts: Rc<Accounts>,
}

impl ShardIo {
    fn line(&mut self, flow: Flow) -> Option<&mut Line> {
        self.lines.get_mut(flow as usize)
    }

    /// The local address of a flow.
    fn local(&self, flow: Flow) -> Option<SocketAddr> {
        match &self.udp {
            Some(udp) => Some(udp.local()),
            None => self.lines.get(flow as usize)?.connection.as_ref().map(Connection::local),
        }
    }

    fn send_udp(&mut self, hop: Hop, bytes: &[u8]) -> Sent {
        let at = clock::now();
        self.now = at;
        let Some(udp) = &self.udp else { return Sent::Gone(at) };
        let send = || match hop {
            Hop::Target => udp.send(bytes),
            Hop::Address(to) => udp.send_to(bytes, to),
            Hop::Blocked(_) => Err(std::io::ErrorKind::PermissionDenied.into()),
        };
        let mut result = send();
        if result.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
            // The kernel reports the refusal of an earlier datagram and sends nothing: once more.
            self.refused += 1;
            self.recorder.name(at, self.stage, "icmp_refused", "", 1);
            result = send();
        }
        match result {
            Ok(_) => Sent::At(at),
            // Full, or refused again: for a datagram that is a loss, and timer E mends it.
            Err(_) => Sent::Blocked(at),
        }
    }

    fn send_stream(&mut self, flow: Flow, bytes: &[u8]) -> Sent {
        let at = clock::now();
        self.now = at;
        let Some(connection) = self.line(flow).and_then(|line| line.connection.as_mut()) else {
            return Sent::Gone(at);
        };
        match connection.write(bytes) {
            Written::Whole => Sent::At(at),
            Written::Blocked => Sent::Blocked(at),
            Written::Refused | Written::Broken => Sent::Gone(at),
        }
    }

    fn trace(&mut self, outgoing: bool, peer: SocketAddr, bytes: &[u8]) {
        if let Some(trace) = &mut self.trace {
            trace.message(outgoing, self.transport.name(), peer, bytes);
        }
    }

    fn peer_of(&self, flow: Flow, hop: Hop) -> SocketAddr {
        match hop {
            Hop::Address(to) | Hop::Blocked(to) => to,
            Hop::Target => self
                .lines
                .get(flow as usize)
                .and_then(|line| line.connection.as_ref())
                .map_or(self.target, Connection::peer),
        }
    }

    /// The error for a connection that nobody allowed.
    pub fn blocked(&self, address: IpAddr) -> FlowError {
        FlowError {
            class: Class::Configuration,
            code: "transport:blocked",
            reason: format!("{address} is not allowed; nothing was sent there"),
            diagnosis: self.allow.advice(address),
        }
    }

    /// The address of record of a user, for messages.
    pub fn name_of(&self, user: u32) -> String {
        let mut uri = Vec::new();
        self.accounts.write_uri(user, &mut uri);
        String::from_utf8_lossy(&uri).into_owned()
    }
}

impl Host for ShardIo {
    fn open(&mut self, _now: Time, user: u32) -> Opened {
        if self.udp.is_some() {
            return Opened::Ready(0);
        }
        if self.shared {
            return Opened::Ready(user % self.lines.len().max(1) as u32);
        }
        if let Some(line) = self.line(user) {
            line.generation += 1;
            line.connection = None;
        }
        self.wanted.push(user);
        Opened::Connecting(user)
    }

    fn close(&mut self, user: u32, flow: Flow) {
        if self.udp.is_some() || self.shared || flow != user {
            return;
        }
        if let Some(line) = self.line(flow) {
            line.generation += 1;
            if let Some(task) = line.task.take() {
                task.abort();
            }
            if let Some(mut connection) = line.connection.take() {
                connection.close();
            }
        }
    }

    fn send(&mut self, flow: Flow, hop: Hop, bytes: &[u8]) -> Sent {
        let sent = if self.udp.is_some() { self.send_udp(hop, bytes) } else { self.send_stream(flow, bytes) };
        if self.trace.is_some() {
            self.trace(true, self.peer_of(flow, hop), bytes);
        }
        sent
    }

    fn reply(&mut self, flow: Flow, origin: Origin, bytes: &[u8]) -> Sent {
        let hop = if origin.foreign { Hop::Address(origin.from) } else { Hop::Target };
        self.send(flow, hop, bytes)
    }

    fn write_local(&self, flow: Flow, out: &mut Vec<u8>) {
        use std::io::Write as _;
        if let Some(advertise) = &self.advertise {
            return out.extend_from_slice(advertise.as_bytes());
        }
        if let Some(local) = self.local(flow) {
            let written = write!(out, "{local}");
            debug_assert!(written.is_ok(), "a Vec takes everything");
        }
    }

    fn hop(&mut self, _flow: Flow, uri: &[u8]) -> Hop {
        // Names are not resolved on the way: a pool that names itself by name is where we already are.
        let Some(uri) = value::sip_uri(uri) else { return Hop::Target };
        let host = std::str::from_utf8(uri.host).unwrap_or("").trim_matches(['[', ']']);
        let Ok(ip) = host.parse::<IpAddr>() else { return Hop::Target };
        let address = SocketAddr::new(ip, uri.port.unwrap_or(5060));
        if address == self.target {
            Hop::Target
        } else if self.allow.permits(ip) {
            Hop::Address(address)
        } else {
            Hop::Blocked(address)
        }
    }

    fn sample(&mut self, s: &Sample) {
        self.recorder.sample(s.measure, s.stage, s.intended, s.sent, s.ended);
    }

    fn censored(&mut self, measure: Measure, stage: Stage, _intended: Time, ended: Time) {
        self.recorder.name(ended, stage, "censored", crate::recorder::metric_name(measure), 1);
    }

    fn send_lag(&mut self, stage: Stage, due: Time, sent: Time) {
        self.recorder.send_lag(stage, due, sent);
    }

    fn count(&mut self, stage: Stage, counter: Counter, at: Time, n: u64) {
        if n > 0 {
            self.recorder.count(at, stage, counter, n);
        }
    }

    fn message_sent(&mut self, method: Method, code: u16, again: bool) {
        self.recorder.message(self.now, self.stage, true, again, method, code);
    }

    fn message_received(&mut self, method: Method, code: u16, again: bool) {
        self.recorder.message(self.now, self.stage, false, again, method, code);
    }

    fn failed(&mut self, failure: &Failure<'_>) {
        let who = self.name_of(failure.user);
        self.failures.add(failure, &who);
    }

    fn progress(&mut self, user: u32, progress: Progress) {
        if let Some(watcher) = &mut self.watcher {
            watcher(user, progress);
        }
    }
}

/// What a task tells the shard about its connection.
pub(super) fn gone(error: FlowError, connected: bool) -> FlowEvent {
    if connected { FlowEvent::Closed(error) } else { FlowEvent::Failed(error) }
}
