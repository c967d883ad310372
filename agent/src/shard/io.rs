//! What a shard's population sees of the world: sockets, clock, recorder.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use adsum_presence::Host;
use adsum_presence::accounts::Accounts;
use adsum_presence::host::{
    Class, Counter, Failure, Flow, FlowError, FlowEvent, Hop, Measure, Method, Opened, Origin, Progress,
    Redirect, Sample, Sent, Stage,
};
use adsum_presence::population::Transport;
use adsum_sip::locate::{Attempt, Failover, Failure as Trouble};
use adsum_sip::{Time, value};
use smallvec::SmallVec;

use super::names::{Names, Place};
use crate::failures::Failures;
use crate::net::allow::Allow;
use crate::net::clock;
use crate::net::probe::Explained;
use crate::net::secured::Client;
use crate::net::stream::{Connection, Dial, Written};
use crate::net::udp::UdpPort;
use crate::recorder::Recorder;
use crate::trace::Trace;

use super::datagrams::Departures;

/// A connection of a flow, in whatever state.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub connection: Option<Box<Connection>>,
    /// Which connection of this flow: events of earlier ones are ignored.
    pub generation: u32,
    /// Which targets were tried for it, and which is now.
    pub attempt: Option<Attempt>,
    /// Where the pool sent this user (3xx), instead of one of the targets.
    pub redirect: Option<Elsewhere>,
}

/// Where a redirection leads.
#[derive(Debug, Clone)]
pub(super) enum Elsewhere {
    Address(SocketAddr),
    /// `host[:port]`, which [`Names`] knows.
    Name(Rc<str>),
}

impl Line {
    /// The connection, once messages may be written to it.
    fn open(&mut self) -> Option<&mut Connection> {
        self.connection.as_deref_mut().filter(|connection| connection.is_open())
    }
}

/// Messages of one flow that leave together, in one system call: the answer to
/// a NOTIFY with the request that follows from it, or with shared connections
/// whatever one turn of the loop has for all users.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    flow: Flow,
    bytes: Vec<u8>,
}

/// Bytes that leave together at most: one TLS record.
const OUTBOX: usize = 16 * 1024;

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
    /// For UDP: a port for each target; the flow is its number.
    pub udp: Vec<UdpPort>,
    /// For UDP with a quantum: what waits to leave.
    pub departures: Option<Departures>,
    /// For streams: by flow.
    pub lines: Vec<Line>,
    /// Users share the lines.
    pub shared: bool,
    /// Sockets ask the kernel when it received something.
    pub kernel_stamps: bool,
    /// Lines that somebody wants to be opened; at most all of them.
    pub wanted: Vec<Flow>,
    /// What waits to be written to a connection.
    pub outbox: Outbox,
    /// Ciphertext on its way to the kernel.
    pub sealed: Vec<u8>,
    /// Local addresses that connections use in turn.
    pub sources: Vec<IpAddr>,
    pub tls: Option<Client>,
    /// Where the pool is, and which of its addresses rest because they failed.
    pub failover: Failover,
    /// Where the servers are that it sends users to by name.
    pub names: Names,
    /// What SRV records are drawn from.
    pub seed: u64,
    pub allow: Allow,
    pub advertise: Option<String>,
    pub watcher: Option<Watcher>,
    pub trace: Option<Trace>,
    /// Datagrams that the target's host refused (ICMP).
    pub refused: u64,
    /// A bit for each port that has heard of a refusal since the last turn.
    pub refused_flows: u64,
    pub accounts: Rc<Accounts>,
}

impl ShardIo {
    /// True if messages travel as datagrams.
    pub fn is_udp(&self) -> bool {
        !self.udp.is_empty()
    }

    fn line(&mut self, flow: Flow) -> Option<&mut Line> {
        self.lines.get_mut(flow as usize)
    }

    /// Appends to what leaves together; what waits for another flow leaves first.
    fn enqueue(&mut self, flow: Flow, bytes: &[u8]) -> bool {
        if self.line(flow).and_then(Line::open).is_none() {
            return false;
        }
        if self.outbox.flow != flow {
            self.flush_outbox();
            self.outbox.flow = flow;
        }
        self.outbox.bytes.extend_from_slice(bytes);
        true
    }

    /// Where a connection of this flow leads now: `None` if that is not known yet, and will be.
    ///
    /// # Errors
    /// Why there is nowhere to connect to.
    pub fn dial_of(&mut self, now: Time, flow: Flow) -> Result<Option<Dial>, FlowError> {
        let fresh = self.failover.begin(now);
        let Some(line) = self.lines.get_mut(flow as usize) else { return Err(no_target()) };
        let target = match &line.redirect {
            Some(Elsewhere::Address(target)) => *target,
            Some(Elsewhere::Name(name)) => {
                match self.names.place(now, name, flow, line.generation) {
                    Place::Later => return Ok(None),
                    Place::Nowhere(error) => return Err(error),
                    Place::At(all) => {
                        let allowed: SmallVec<[SocketAddr; 8]> =
                            all.iter().copied().filter(|one| self.allow.permits(one.ip())).collect();
                        // Users share a server's addresses, and the next attempt takes the next one.
                        let nth = flow.wrapping_add(line.generation) as usize;
                        match allowed.get(nth % allowed.len().max(1)).or(all.first()) {
                            Some(target) => *target,
                            None => return Err(no_target()),
                        }
                    }
                }
            }
            None => {
                let attempt = match line.attempt {
                    Some(attempt) => Some(attempt),
                    None => fresh,
                };
                line.attempt = attempt;
                let address = attempt.and_then(|attempt| self.failover.address(attempt));
                address.ok_or_else(no_target)?
            }
        };
        let (source, tls) = (self.source_of(flow), self.tls_of(flow));
        Ok(Some(Dial { target, source, tls, shared: self.shared, stamped: self.kernel_stamps }))
    }

    /// TLS as a flow needs it: a server to which the pool sent its user by name has that name in its
    /// certificate. The redirection came from a server whose certificate was good.
    fn tls_of(&self, flow: Flow) -> Option<Client> {
        let tls = self.tls.as_ref()?;
        let name = match self.lines.get(flow as usize)?.redirect.as_ref() {
            Some(Elsewhere::Name(name)) => crate::locate::split(name).ok().map(|(host, _)| host),
            _ => None,
        };
        Some(name.and_then(|host| tls.named(host)).unwrap_or_else(|| tls.clone()))
    }

    /// The local address that is prescribed for a flow.
    pub fn source_of(&self, flow: Flow) -> Option<IpAddr> {
        self.sources.get(flow as usize % self.sources.len().max(1)).copied()
    }

    /// Says of a refused TLS handshake what a question to the target has found, or that this is not known yet.
    pub fn puzzle(&self, flow: Flow, target: SocketAddr, error: FlowError) -> Explained {
        match &self.tls_of(flow) {
            Some(tls) => tls.probes().explain(target, self.source_of(flow), tls.name(), error),
            None => Explained::Now(error),
        }
    }

    /// A target did not do its part: it rests, and what comes next goes
    /// elsewhere if there is an elsewhere. `true` if so.
    pub fn target_failed(&mut self, now: Time, target: SocketAddr, trouble: Trouble) -> bool {
        let Some(attempt) = self.failover.at(target) else { return false };
        let resting = self.failover.resting(now);
        self.failover.report(attempt, trouble, now);
        if self.failover.resting(now) > resting {
            self.recorder.name(now, self.stage, "failover", "", 1);
        }
        self.failover.resting(now) < self.failover.len()
    }

    /// The target behind a port is there.
    pub fn answered(&mut self, now: Time, flow: usize) {
        if let Some(attempt) = self.udp.get(flow).and_then(|udp| self.failover.at(udp.target())) {
            self.failover.answered(attempt, now);
        }
    }

    /// Where the messages of a flow go.
    pub fn target_of(&self, flow: Flow) -> Option<SocketAddr> {
        match self.udp.get(flow as usize) {
            Some(udp) => Some(udp.target()),
            None => self.lines.get(flow as usize)?.connection.as_deref().map(Connection::peer),
        }
    }

    /// The flow whose messages wait.
    pub fn outbox_flow(&self) -> Flow {
        self.outbox.flow
    }

    /// True if messages wait that should leave before more are made.
    pub fn outbox_is_full(&self) -> bool {
        self.outbox.bytes.len() >= OUTBOX
    }

    /// Writes what waits, if anything does; the clock is read just before.
    pub fn flush_outbox(&mut self) -> Option<(Time, Written)> {
        if self.outbox.bytes.is_empty() {
            return None;
        }
        let mut bytes = std::mem::take(&mut self.outbox.bytes);
        let mut sealed = std::mem::take(&mut self.sealed);
        let flow = self.outbox.flow;
        let at = clock::now();
        self.now = at;
        let written = match self.line(flow).and_then(Line::open) {
            Some(connection) => connection.write(&bytes, &mut sealed),
            None => Written::Broken,
        };
        bytes.clear();
        self.outbox.bytes = bytes;
        self.sealed = sealed;
        Some((at, written))
    }

    fn send_stream(&mut self, flow: Flow, bytes: &[u8]) -> Sent {
        let enqueued = self.enqueue(flow, bytes);
        if self.shared && enqueued {
            return Sent::Queued(self.now, 0);
        }
        match self.flush_outbox() {
            Some((at, Written::Whole)) if enqueued => Sent::At(at),
            Some((at, Written::Blocked)) if enqueued => Sent::Blocked(at),
            _ => Sent::Gone(clock::now()),
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
            Hop::Target => self.target_of(flow).unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0))),
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
    fn open(&mut self, now: Time, user: u32) -> Opened {
        if self.is_udp() {
            return Opened::Ready(self.failover.begin(now).map_or(0, |attempt| attempt.index() as Flow));
        }
        if self.shared {
            return Opened::Ready(user % self.lines.len().max(1) as u32);
        }
        if let Some(line) = self.line(user) {
            line.generation = line.generation.wrapping_add(1);
            line.connection = None;
            line.attempt = None;
            line.redirect = None;
        }
        self.wanted.push(user);
        Opened::Connecting(user)
    }

    fn close(&mut self, user: u32, flow: Flow) {
        if self.is_udp() || self.shared || flow != user {
            return;
        }
        if self.outbox.flow == flow {
            self.flush_outbox();
        }
        let Some(line) = self.lines.get_mut(flow as usize) else { return };
        line.generation = line.generation.wrapping_add(1);
        if let Some(mut connection) = line.connection.take() {
            connection.close(&mut self.sealed);
        }
    }

    fn send(&mut self, user: u32, flow: Flow, hop: Hop, bytes: &[u8]) -> Sent {
        let sent = if self.is_udp() {
            self.send_datagram(flow, hop, Some(user), bytes)
        } else {
            self.send_stream(flow, bytes)
        };
        if self.trace.is_some() {
            self.trace(true, self.peer_of(flow, hop), bytes);
        }
        sent
    }

    fn reply(&mut self, flow: Flow, origin: Origin, bytes: &[u8]) -> Sent {
        let hop = if origin.foreign { Hop::Address(origin.from) } else { Hop::Target };
        if self.is_udp() {
            let sent = self.send_datagram(flow, hop, None, bytes);
            if self.trace.is_some() {
                self.trace(true, self.peer_of(flow, hop), bytes);
            }
            return sent;
        }
        // What follows from the request that is answered leaves with the answer.
        let enqueued = self.enqueue(flow, bytes);
        if self.trace.is_some() {
            self.trace(true, self.peer_of(flow, hop), bytes);
        }
        if enqueued { Sent::Queued(self.now, 0) } else { Sent::Gone(self.now) }
    }

    fn write_local(&self, flow: Flow, out: &mut Vec<u8>) {
        if let Some(advertise) = &self.advertise {
            return out.extend_from_slice(advertise.as_bytes());
        }
        if let Some(udp) = self.udp.get(flow as usize) {
            out.extend_from_slice(udp.local_text());
        } else if let Some(connection) = self.lines.get(flow as usize).and_then(|l| l.connection.as_deref()) {
            crate::net::write_address(connection.local(), out);
        }
    }

    fn hop(&mut self, flow: Flow, uri: &[u8]) -> Hop {
        // Names are not resolved on the way: a pool that names itself by name is where we already are.
        let Some(address) = numeric(uri, 5060) else { return Hop::Target };
        if Some(address) == self.target_of(flow) {
            Hop::Target
        } else if self.allow.permits(address.ip()) {
            Hop::Address(address)
        } else {
            Hop::Blocked(address)
        }
    }

    fn redirect(&mut self, now: Time, user: u32, uri: &[u8]) -> Redirect {
        // Of a shared connection one user cannot be taken away: there the answer stands, and names
        // the new target.
        if self.shared || self.is_udp() {
            return Redirect::No;
        }
        let default = if self.transport == Transport::Tls { 5061 } else { 5060 };
        let elsewhere = match numeric(uri, default) {
            Some(target) if !self.allow.permits(target.ip()) => return Redirect::Blocked(target),
            Some(target) => Elsewhere::Address(target),
            // Whether traffic may go there is known with its addresses, when it is opened.
            None => {
                let named = named(uri).and_then(|name| self.names.ask(now, &name, self.transport, self.seed));
                let Some(name) = named else { return Redirect::No };
                Elsewhere::Name(name)
            }
        };
        self.close(user, user);
        let Some(line) = self.lines.get_mut(user as usize) else { return Redirect::No };
        line.attempt = None;
        line.redirect = Some(elsewhere);
        self.wanted.push(user);
        Redirect::To(Opened::Connecting(user))
    }

    fn target_failed(&mut self, now: Time, flow: Flow, trouble: Trouble) -> bool {
        let Some(target) = self.target_of(flow) else { return false };
        ShardIo::target_failed(self, now, target, trouble)
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

/// The address that a URI names by number.
fn numeric(uri: &[u8], default_port: u16) -> Option<SocketAddr> {
    let uri = value::sip_uri(uri)?;
    let host = std::str::from_utf8(uri.host).ok()?.trim_matches(['[', ']']);
    Some(SocketAddr::new(host.parse().ok()?, uri.port.unwrap_or(default_port)))
}

/// `host[:port]` that a URI names.
fn named(uri: &[u8]) -> Option<String> {
    let uri = value::sip_uri(uri)?;
    let host = std::str::from_utf8(uri.host).ok().filter(|host| !host.is_empty())?;
    Some(uri.port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

fn no_target() -> FlowError {
    FlowError {
        class: Class::Configuration,
        code: "transport:connect",
        reason: "there is nowhere to connect to".into(),
        diagnosis: "give a target".into(),
    }
}

/// What becomes known about a connection.
pub(super) fn gone(error: FlowError, connected: bool) -> FlowEvent {
    if connected { FlowEvent::Closed(error) } else { FlowEvent::Failed(error) }
}
