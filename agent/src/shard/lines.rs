//! Connections of a shard: opened when somebody wants them, read when the
//! kernel says so, given up when they take too long.

use std::collections::VecDeque;
use std::net::SocketAddr;

use adsum_presence::host::{Activity, Class, Counter, Failure, Flow, FlowError, FlowEvent, Origin};
use adsum_sip::Time;
use adsum_sip::frame::{self, Frame};
use adsum_sip::locate::Failure as Trouble;
use adsum_sip::time::{MILLISECOND, SECOND};

use super::{Core, io, stages};
use crate::net::clock;
use crate::net::poll::{Poller, Ready};
use crate::net::probe::Explained;
use crate::net::stream::{Buffers, Connection, Dial, OUT_OF_FILES, OUT_OF_PORTS, StampKeeper, Written};

/// A connection that is not there after this long is given up.
const CONNECT_LIMIT: u64 = 32 * SECOND;
/// Reads of one connection before others have their turn.
const READS: usize = 16;
/// A shared connection that was lost is opened again after this long.
const RETRY: u64 = SECOND;
/// How often failures that wait for a probe of their target look whether it is known now.
const LOOK_AGAIN: u64 = 50 * MILLISECOND;

/// What all connections of a shard share.
#[derive(Debug)]
pub(super) struct Streams {
    poller: Poller,
    ready: Vec<Ready>,
    /// Lent out while they are used: making new ones is not for a message.
    buffers: Option<Buffers>,
    /// Connections that are not open yet, in the order in which their time is up.
    limits: VecDeque<(Time, Flow, u32)>,
    /// Shared connections to be opened again, in the order of their time.
    retries: VecDeque<(Time, Flow)>,
    /// TLS handshakes that were refused without a clear reason, while their target is asked; at most
    /// one for each connection.
    puzzles: Vec<Puzzle>,
    /// When it is looked at them again.
    look_again: Time,
    /// Connections that had more to read than one turn allows.
    unfinished: Vec<Ready>,
    /// Keeps the kernel stamping: it begins a moment after the first socket asks for it, and
    /// ends with the last one, which would leave the first messages of a connection without.
    _stamping: Option<StampKeeper>,
}

/// A failure that is told when its target has been asked.
#[derive(Debug)]
struct Puzzle {
    flow: Flow,
    generation: u32,
    target: SocketAddr,
    error: FlowError,
}

impl Streams {
    pub fn new(stamped: bool, watched: bool) -> std::io::Result<Self> {
        Ok(Streams {
            poller: Poller::new(watched)?,
            ready: Vec::new(),
            buffers: Some(Buffers::default()),
            limits: VecDeque::new(),
            retries: VecDeque::new(),
            puzzles: Vec::new(),
            look_again: Time::NEVER,
            unfinished: Vec::new(),
            _stamping: stamped.then(StampKeeper::new).transpose()?,
        })
    }

    /// When [`Core::open_lines`] wants to be called.
    pub fn next_limit(&self) -> Time {
        let limit = self.limits.front().map_or(Time::NEVER, |(at, ..)| *at);
        limit.min(self.retries.front().map_or(Time::NEVER, |(at, _)| *at)).min(self.look_again)
    }

    pub fn poll_ready(&self, context: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        if !self.unfinished.is_empty() {
            return std::task::Poll::Ready(Ok(()));
        }
        self.poller.poll_ready(context)
    }
}

fn key(flow: Flow, generation: u32) -> u64 {
    u64::from(flow) << 32 | u64::from(generation)
}

impl Core {
    /// Begins to open what somebody wants, and gives up what takes too long.
    pub(super) fn open_lines(&mut self, now: Time) {
        while let Some((at, flow, generation)) = self.streams.limits.front().copied() {
            let open = self
                .io
                .lines
                .get(flow as usize)
                .filter(|line| line.generation == generation)
                .and_then(|line| line.connection.as_deref())
                .is_none_or(Connection::is_open);
            if !open && at > now {
                break;
            }
            self.streams.limits.pop_front();
            let peer = self.io.target_of(flow);
            if !open && let Some(peer) = peer {
                self.lost(flow, too_slow(&peer), false);
            }
        }
        while let Some((_, flow)) = self.streams.retries.front().copied().filter(|(at, _)| *at <= now) {
            self.streams.retries.pop_front();
            self.io.recorder.count(now, self.io.stage, Counter::Reconnect, 1);
            self.io.wanted.push(flow);
        }
        if self.streams.look_again <= now {
            self.streams.look_again = Time::NEVER;
            for (flow, generation) in self.io.names.take_waiting() {
                if self.io.lines.get(flow as usize).is_some_and(|line| line.generation == generation) {
                    self.io.wanted.push(flow);
                }
            }
            for puzzle in std::mem::take(&mut self.streams.puzzles) {
                let known = self.io.lines.get(puzzle.flow as usize);
                // Whoever waited has hung up meanwhile, or connects again.
                if known.is_some_and(|line| line.generation == puzzle.generation) {
                    self.puzzled(now, puzzle);
                }
            }
        }
        // What is wanted meanwhile, after a failure, has its turn at the next call.
        for flow in std::mem::take(&mut self.io.wanted) {
            self.open_line(now, flow);
        }
    }

    fn open_line(&mut self, now: Time, flow: Flow) {
        let Some(line) = self.io.lines.get(flow as usize) else { return };
        let generation = line.generation;
        let opened = match self.io.dial_of(now, flow) {
            Ok(Some(dial)) if self.io.allow.permits(dial.target.ip()) => Connection::open(&dial),
            Ok(Some(Dial { target, .. })) => Err(self.io.blocked(target.ip())),
            Ok(None) => {
                // Its name is asked for; the limits of that are its own.
                self.streams.look_again = self.streams.look_again.min(self.io.names.next_look(now));
                return;
            }
            Err(error) => Err(error),
        };
        let watched = opened.and_then(|connection| {
            self.streams.poller.add(&connection, key(flow, generation)).map_err(|error| FlowError {
                class: Class::Generator,
                code: "transport:connect",
                reason: format!("the connection cannot be watched: {error}"),
                diagnosis: "raise fs.epoll.max_user_watches, or use more agents".into(),
            })?;
            Ok(connection)
        });
        match watched {
            Ok(connection) => {
                self.io.lines[flow as usize].connection = Some(Box::new(connection));
                self.streams.limits.push_back((now + CONNECT_LIMIT, flow, generation));
            }
            Err(error) => self.lost(flow, error, false),
        }
    }

    /// Looks after the connections that are ready, one batch of them; `true`
    /// if there may be more.
    pub(crate) fn streams(&mut self) -> bool {
        let mut ready = std::mem::take(&mut self.streams.ready);
        // A failure of the call itself leaves the sockets as they are; they are asked again.
        let more = self.streams.poller.take(&mut ready).unwrap_or(false);
        ready.append(&mut self.streams.unfinished);
        for ready in &ready {
            self.look_after(*ready);
        }
        self.streams.ready = ready;
        self.rest();
        more
    }

    fn look_after(&mut self, ready: Ready) {
        let (flow, generation) = ((ready.key >> 32) as Flow, ready.key as u32);
        self.look();
        let io::ShardIo { lines, sealed, .. } = &mut self.io;
        let connection = lines
            .get_mut(flow as usize)
            .filter(|line| line.generation == generation)
            .and_then(|line| line.connection.as_deref_mut());
        let Some(connection) = connection else { return };
        if !connection.is_open() {
            let buffers = self.streams.buffers.get_or_insert_default();
            match connection.progress(ready, buffers, sealed) {
                Ok(true) => self.connected(flow),
                Ok(false) => return,
                Err(error) => return self.lost(flow, error, false),
            }
        } else if ready.writable && connection.is_blocked() && connection.flush() == Written::Broken {
            return self.lost(flow, closed("the connection broke"), true);
        }
        if ready.readable && !self.readable(flow, generation, ready.ended) {
            self.streams.unfinished.push(Ready { writable: false, ..ready });
        }
    }

    /// Reads what a connection has. Edges are told once, so it is read until
    /// there is nothing; `false` if that is too much for one turn.
    fn readable(&mut self, flow: Flow, generation: u32, ended: bool) -> bool {
        for _ in 0..READS {
            let now = self.look();
            let io::ShardIo { lines, sealed, .. } = &mut self.io;
            let connection = lines
                .get_mut(flow as usize)
                .filter(|line| line.generation == generation)
                .and_then(|line| line.connection.as_deref_mut());
            let Some(connection) = connection else { return true };
            let peer = connection.peer();
            let mut buffers = self.streams.buffers.take().unwrap_or_default();
            let received = connection.receive(&mut buffers, sealed, &mut self.stamps, now);
            let framed = if buffers.has_news() {
                let stamp = received.as_ref().ok().and_then(|received| received.stamp);
                self.frames(stamp, flow, peer, buffers.bytes())
            } else {
                Ok(0)
            };
            let kept = match (&framed, self.io.lines.get_mut(flow as usize)) {
                (Ok(used), Some(line)) if line.generation == generation && buffers.has_news() => {
                    let rest = buffers.bytes().get(*used..).unwrap_or(b"");
                    rest.is_empty() || line.connection.as_deref_mut().is_none_or(|c| c.keep(rest))
                }
                _ => true,
            };
            self.streams.buffers = Some(buffers);
            if self.io.lines.get(flow as usize).is_none_or(|line| line.generation != generation) {
                return true; // hung up while it was read
            }
            let error = match (framed, kept, received) {
                (Err(error), ..) => broken(&error.to_string()),
                (_, false, _) => broken("a message that does not end"),
                (.., Err(error)) => error,
                (.., Ok(received)) if received.more || ended => continue,
                (.., Ok(_)) => return true,
            };
            self.lost(flow, error, true);
            return true;
        }
        false
    }

    /// Hands over the whole messages of a buffer; answers how many bytes they took.
    fn frames(
        &mut self,
        stamp: Option<Time>,
        flow: Flow,
        peer: SocketAddr,
        bytes: &[u8],
    ) -> Result<usize, frame::FrameError> {
        let mut used = 0;
        loop {
            match frame::next(&bytes[used..])? {
                Frame::More => return Ok(used),
                Frame::KeepAlive(n) => used += n,
                Frame::Message { begin, end } => {
                    let origin = Origin { from: peer, foreign: false };
                    let message = &bytes[used + begin..used + end];
                    used += end;
                    let now = self.look();
                    self.stamped(stamp.is_some());
                    self.message(now, stamp.unwrap_or(now), flow, origin, message);
                    self.arrivals(clock::now());
                    if !self.io.shared || self.io.outbox_is_full() {
                        self.flush();
                    }
                }
            }
        }
    }

    /// Writes what waits to leave together, and tells the population when it did.
    pub(super) fn flush(&mut self) {
        if let Some(times) = self.io.departed() {
            self.population.flushed(&times, &mut self.io);
            return self.io.told(times);
        }
        let flow = self.io.outbox_flow();
        let Some((at, written)) = self.io.flush_outbox() else { return };
        self.population.flushed(&[at], &mut self.io);
        match written {
            Written::Whole => {}
            Written::Blocked => self.io.recorder.count(at, self.io.stage, Counter::WriteBlocked, 1),
            Written::Refused => {
                self.lost(flow, closed("the other side does not read: too much waits to be written"), true);
            }
            // The end is found by reading, too; whichever comes first.
            Written::Broken => self.lost(flow, closed("the connection broke"), true),
        }
    }

    fn connected(&mut self, flow: Flow) {
        let now = self.look();
        if let Some(attempt) = self.io.lines.get(flow as usize).and_then(|line| line.attempt) {
            self.io.failover.answered(attempt, now);
        }
        if let (Some(tls), Some(target)) = (&self.io.tls, self.io.target_of(flow)) {
            tls.probes().succeeded(target);
        }
        if !self.io.shared {
            self.population.on_flow(now, flow, FlowEvent::Open(now), &mut self.io);
        }
        self.rest();
    }

    /// A connection could not be made, or ended.
    pub(super) fn lost(&mut self, flow: Flow, error: FlowError, connected: bool) {
        let now = self.look();
        let Some(line) = self.io.lines.get_mut(flow as usize) else { return };
        let puzzling = line.connection.take().filter(|connection| connection.is_puzzling());
        line.generation = line.generation.wrapping_add(1);
        let ours = match error.code {
            OUT_OF_FILES => Some("out_of_files"),
            OUT_OF_PORTS => Some("out_of_ports"),
            _ => None,
        };
        if let Some(counter) = ours {
            self.io.recorder.name(now, self.io.stage, counter, "", 1);
        }
        if let Some(attempt) = line.attempt.take() {
            let resting = self.io.failover.resting(now);
            // A connection that was open says nothing about a new one, and what this host lacks
            // nothing about the target.
            let next = if connected || ours.is_some() {
                None
            } else {
                self.io.failover.failed(attempt, Trouble::Transport, now)
            };
            if self.io.failover.resting(now) > resting && self.io.failover.len() > 1 {
                self.io.recorder.name(now, self.io.stage, "failover", "", 1);
            }
            if next.is_some() {
                // RFC 3263 §4.3: the same request goes to the next target.
                self.io.lines[flow as usize].attempt = next;
                return self.io.wanted.push(flow);
            }
        }
        match puzzling.map(|connection| connection.peer()) {
            Some(target) => {
                let generation = self.io.lines.get(flow as usize).map_or(0, |line| line.generation);
                self.puzzled(now, Puzzle { flow, generation, target, error });
            }
            None => self.tell_lost(now, flow, error, connected),
        }
    }

    /// Tells a refused handshake with what its target says to a probe, now or when that is known.
    fn puzzled(&mut self, now: Time, puzzle: Puzzle) {
        let Puzzle { flow, generation, target, error } = puzzle;
        match self.io.puzzle(flow, target, error) {
            Explained::Later(error) if self.streams.puzzles.len() < self.io.lines.len() => {
                self.streams.puzzles.push(Puzzle { flow, generation, target, error });
                self.streams.look_again = self.streams.look_again.min(now + LOOK_AGAIN);
            }
            Explained::Now(error) | Explained::Later(error) => self.tell_lost(now, flow, error, false),
        }
    }

    fn tell_lost(&mut self, now: Time, flow: Flow, error: FlowError, connected: bool) {
        if self.io.shared {
            self.shared_lost(now, flow, error, connected);
        } else {
            self.population.on_flow(now, flow, io::gone(error, connected), &mut self.io);
        }
        self.rest();
    }

    /// All users of a shared connection lost it.
    fn shared_lost(&mut self, now: Time, flow: Flow, error: FlowError, connected: bool) {
        if !connected {
            // Nobody's yet: the users say so themselves once they have it.
            let failure = Failure {
                activity: Activity::Connect,
                stage: self.io.stage,
                class: error.class,
                code: error.code,
                reason: error.reason.as_bytes(),
                diagnosis: error.diagnosis.as_bytes(),
                user: flow,
                at: now,
                request: b"",
                response: b"",
            };
            adsum_presence::Host::failed(&mut self.io, &failure);
        }
        if !matches!(self.state, stages::State::Done) {
            self.streams.retries.push_back((now + RETRY, flow));
        }
        let lines = self.io.lines.len() as u32;
        for user in (flow..self.population.users()).step_by(lines.max(1) as usize) {
            let event = io::gone(error.clone(), connected);
            self.population.on_flow(now, user, event, &mut self.io);
        }
    }
}

fn too_slow(target: &SocketAddr) -> FlowError {
    FlowError {
        class: Class::Network,
        code: "transport:connect",
        reason: format!("no connection to {target} within {} s", CONNECT_LIMIT / SECOND),
        diagnosis: "look for firewalls between, and whether the pool still accepts connections".into(),
    }
}

fn closed(reason: &str) -> FlowError {
    FlowError {
        class: Class::Pool,
        code: "transport:closed",
        reason: reason.to_owned(),
        diagnosis: "the other side ended the connection: look at its log and its limits".to_owned(),
    }
}

fn broken(reason: &str) -> FlowError {
    FlowError {
        class: Class::Pool,
        code: "protocol:framing",
        reason: reason.to_owned(),
        diagnosis: "the other side sent what is no SIP over a stream; the connection was closed".to_owned(),
    }
}
