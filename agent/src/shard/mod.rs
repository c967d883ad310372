//! One shard: a thread with its sockets, its users, its share of the schedule
//! and its recorder. Nothing is shared with other shards.
//!
//! [`Core`] is everything that happens in one turn of the loop; [`run`] is the
//! loop. The stages of a run are in [`stages`], what the population may do to
//! the world in [`io`].

mod io;
mod run;
mod stages;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;

use adsum_presence::accounts::Accounts;
use adsum_presence::host::{Counter, Flow, FlowError, FlowEvent, Origin, Stage};
use adsum_presence::population::{Config, Kind, Population, Transport};
use adsum_presence::simple::MessageError;
use adsum_sip::frame::{self, Frame};
use adsum_sip::{Scanner, Time};

use crate::ceiling::Ceiling;
use crate::failures::FailureRow;
use crate::net::allow::Allow;
use crate::net::clock::{self, StampClock};
use crate::net::stream::Dial;
use crate::net::udp::UdpPort;
use crate::pace::{Arrivals, Ownership, Schedule, Step};
use crate::recorder::{Recorder, Second};

pub use io::Watcher;
pub use run::{EVENTS, Shard, spawn};

/// Arrivals of one shard that may wait for a free pair; what comes beyond is
/// not started, and counted so. Enough for ten thousand a second over six.
const MAX_WAITING: usize = 65_536;
/// Longest time that a turn may follow its wake-up; more is a gap and counted.
const GAP: u64 = 250_000_000;
/// The loop wakes at least this often, so that a gap is seen when it happens.
const HEARTBEAT: u64 = 50_000_000;

/// What one shard does in a run.
#[derive(Debug)]
pub struct ShardPlan {
    /// How the users behave.
    pub config: Config,
    /// Who they are.
    pub accounts: Accounts,
    /// Pairs of the whole run.
    pub pairs_total: u64,
    /// Seed of schedule and order.
    pub seed: u64,
    /// The schedule.
    pub steps: Vec<Step>,
    /// How arrivals are spread.
    pub arrivals: Arrivals,
    /// Where the pool is, best first; at least one.
    pub targets: Vec<SocketAddr>,
    /// For TLS.
    pub tls: Option<crate::net::tls::TlsOptions>,
    /// A connection for each user, or a few for all.
    pub shared_connections: bool,
    /// What may be reached.
    pub allow: Allow,
    /// What stands in Via and Contact instead of our address.
    pub advertise: Option<String>,
    /// Local addresses to use in turn.
    pub sources: Vec<IpAddr>,
    /// Ceilings of this shard, thousandths per second; 0 is none.
    pub register_rate_mhz: u64,
    /// As above, for subscriptions and first publications.
    pub subscribe_rate_mhz: u64,
    /// As above, for arrivals.
    pub max_rate_mhz: u64,
    /// Workflows at a time; 0: as many as there are pairs.
    pub max_in_flight: u32,
    /// Nanoseconds to wait between readiness and ready.
    pub settle_ns: u64,
    /// Nanoseconds that wake-ups are rounded up to; 0 for none.
    pub quantum_ns: u64,
    /// The coordinator's wall clock minus our monotonic clock.
    pub offset_ns: i64,
    /// Where to write messages as text.
    pub trace: Option<PathBuf>,
}

/// What a shard is told.
#[derive(Debug, Clone)]
pub enum Command {
    /// The first ramp or hold begins at this instant of our monotonic clock.
    Start(Time),
    /// No more arrivals: finish what runs, sign off.
    Drain,
    /// Stop at once: what is open is void.
    Abort,
}

/// What a shard tells.
#[derive(Debug)]
pub enum Event {
    /// How far it is.
    Status(Status),
    /// Readiness is proven.
    Ready(ReadyFacts),
    /// It is not, and why.
    NotReady(Box<FailureRow>),
    /// Seconds that ended, with their failures (of the last of them).
    Seconds(Vec<Second>, Vec<FailureRow>),
    /// It is over; nothing follows.
    Done {
        /// Cut short.
        interrupted: bool,
        /// In a few words.
        reason: String,
    },
}

/// How far a shard is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Users of this shard.
    pub users: u64,
    /// Of which the registrar knows.
    pub registered: u64,
    /// Subscriptions that are active.
    pub subscribed: u64,
    /// Workflows and publications that run.
    pub in_flight: u64,
}

/// What is known once a shard is ready.
#[derive(Debug, Clone, Default)]
pub struct ReadyFacts {
    /// Numbers.
    pub status: Status,
    /// Users set aside.
    pub rejected: u64,
    /// `Server` or `User-Agent` of the pool's first answer.
    pub server: String,
    /// True if receive stamps come from the kernel.
    pub kernel_stamps: bool,
    /// What priority the thread has.
    pub priority: String,
}

/// A plan that cannot be carried out here.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The messages.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Sockets, timers, files.
    #[error("{0}: {1}")]
    Io(&'static str, std::io::Error),
    /// TLS settings.
    #[error(transparent)]
    Tls(#[from] crate::net::tls::TlsSetupError),
    /// Somewhere nobody allowed.
    #[error("traffic to {0} is not allowed: {1}")]
    NotAllowed(IpAddr, String),
    /// Nothing to reach.
    #[error("the target has no address")]
    NoTarget,
}

/// An arrival that waits for a free pair.
#[derive(Debug, Clone, Copy)]
struct Held {
    intended: Time,
    stage: Stage,
}

/// One shard, without its loop.
pub(crate) struct Core {
    population: Population,
    io: io::ShardIo,
    scanner: Scanner,
    stamps: StampClock,
    ownership: Ownership,
    schedule: Schedule,
    next_arrival: Option<crate::pace::Arrival>,
    start: Time,
    state: stages::State,
    waiting: VecDeque<Held>,
    /// Free pairs, longest rested first, each with the number of its rest;
    /// entries of an older rest are passed over.
    rested: VecDeque<(u32, u32)>,
    rests: Vec<u32>,
    rested_since: Vec<Time>,
    plan: stages::Rules,
    register_ceiling: Ceiling,
    subscribe_ceiling: Ceiling,
    arrival_ceiling: Ceiling,
    /// No arrival before this instant: a ceiling said so.
    held_until: Time,
    /// Wake-ups for arrivals are rounded up to this, in nanoseconds; 0 is exact.
    quantum: u64,
    /// The second that is recorded now.
    second: i64,
    cpu_us: u64,
    server: String,
    buffer: Vec<u8>,
    assembly: Vec<u8>,
    events: Vec<Event>,
}

impl Core {
    pub(crate) fn new(plan: ShardPlan) -> Result<Self, ShardError> {
        let now = clock::now();
        let target = *plan.targets.first().ok_or(ShardError::NoTarget)?;
        if !plan.allow.permits(target.ip()) {
            return Err(ShardError::NotAllowed(target.ip(), plan.allow.advice(target.ip())));
        }
        let transport = plan.config.transport;
        let accounts = Rc::new(plan.accounts);
        let pairs = accounts.pairs().to_vec();
        let held = plan.config.kind == Kind::Held;
        let population = Population::new(plan.config.clone(), Rc::clone(&accounts), now)?;
        let udp = match transport {
            Transport::Udp => Some(
                UdpPort::new(plan.sources.first().copied(), target)
                    .map_err(|e| ShardError::Io("a UDP socket", e))?,
            ),
            _ => None,
        };
        let tls = match (transport, &plan.tls) {
            (Transport::Tls, options) => Some(crate::net::tls::client(&options.clone().unwrap_or_default())?),
            _ => None,
        };
        let sources: Vec<Option<IpAddr>> = if plan.sources.is_empty() {
            vec![None]
        } else {
            plan.sources.iter().copied().map(Some).collect()
        };
        let dials = plan
            .targets
            .iter()
            .filter(|target| plan.allow.permits(target.ip()))
            .flat_map(|target| {
                sources.iter().map(|source| Dial { target: *target, source: *source, tls: tls.clone() })
            })
            .collect();
        let lines = match (transport, plan.shared_connections) {
            (Transport::Udp, _) => 0,
            (_, true) => 1,
            (_, false) => population.users() as usize,
        };
        let trace = match &plan.trace {
            Some(path) => {
                Some(crate::trace::Trace::create(path).map_err(|e| ShardError::Io("the trace file", e))?)
            }
            None => None,
        };
        let recorder = Recorder::new(plan.offset_ns);
        let second = recorder.second_of(now);
        let schedule = Schedule::new(&plan.steps, plan.arrivals, plan.seed);
        let io = io::ShardIo {
            recorder,
            failures: Default::default(),
            stage: Stage::WARMUP,
            now,
            transport,
            udp,
            lines: (0..lines).map(|_| io::Line::default()).collect(),
            shared: plan.shared_connections,
            wanted: Vec::new(),
            dials,
            dial: 0,
            target,
            allow: plan.allow,
            advertise: plan.advertise,
            watcher: None,
            trace,
            refused: 0,
            accounts,
        };
        let mut core = Core {
            io,
            scanner: Scanner::new(),
            stamps: StampClock::default(),
            ownership: Ownership::new(plan.pairs_total, &pairs, held.then_some(plan.seed)),
            next_arrival: None,
            schedule,
            start: Time::NEVER,
            state: stages::State::Begin,
            waiting: VecDeque::new(),
            rested: (0..population.pairs()).map(|pair| (pair, 0)).collect(),
            rests: vec![0; population.pairs() as usize],
            rested_since: vec![Time(0); population.pairs() as usize],
            plan: stages::Rules {
                kind: plan.config.kind,
                deadline: plan.config.deadline,
                settle: plan.settle_ns,
                max_in_flight: if plan.max_in_flight == 0 { u32::MAX } else { plan.max_in_flight },
                last_step: plan.steps.len() as u16,
            },
            register_ceiling: Ceiling::new(plan.register_rate_mhz),
            subscribe_ceiling: Ceiling::new(plan.subscribe_rate_mhz),
            arrival_ceiling: Ceiling::new(plan.max_rate_mhz),
            held_until: Time(0),
            quantum: plan.quantum_ns,
            second,
            cpu_us: clock::thread_cpu_us(),
            server: String::new(),
            buffer: vec![0; 64 * 1024],
            assembly: Vec::new(),
            events: Vec::new(),
            population,
        };
        if core.io.shared {
            core.io.wanted.extend(0..lines as u32);
        }
        core.next_arrival = core.schedule.next();
        Ok(core)
    }

    /// What has to be done by itself: timers, arrivals, stages, the second.
    pub(crate) fn turn(&mut self, woken_for: Time) {
        let now = clock::now();
        self.io.now = now;
        if woken_for != Time::NEVER && now.since(woken_for) >= GAP {
            let stage = self.io.stage;
            self.io.recorder.name(now, stage, "loop_gap", "", 1);
            self.io.recorder.name(now, stage, "loop_gap_ms", "", now.since(woken_for) / 1_000_000);
        }
        self.population.on_timer(now, &mut self.io);
        self.arrivals(now);
        self.rest();
        self.stages(now);
        self.close_second(clock::now());
    }

    /// When [`Core::turn`] wants to be called next.
    pub(crate) fn next_turn(&self) -> Time {
        let now = self.io.now;
        let mut at =
            (now + HEARTBEAT).min(self.population.next_timer()).min(self.io.recorder.end_of(self.second));
        if let Some(arrival) = self.next_arrival.filter(|_| self.start != Time::NEVER) {
            let due = (self.start + arrival.at).max(self.held_until);
            // A wake-up costs more than a send: what is due within one quantum leaves together.
            let due = if self.quantum == 0 { due } else { Time(due.0.next_multiple_of(self.quantum)) };
            at = at.min(due);
        }
        at.min(self.wake_for_stage(now))
    }

    /// Takes what came by UDP, at most `limit` datagrams; `true` if there may be more.
    pub(crate) fn datagrams(&mut self, limit: usize) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut more = true;
        for _ in 0..limit {
            let now = clock::now();
            self.io.now = now;
            let Some(udp) = &mut self.io.udp else { break };
            match udp.receive(&mut buffer, &mut self.stamps, now) {
                Ok(Some(received)) => {
                    let origin = Origin { from: received.from, foreign: received.foreign };
                    self.message(now, received.stamp.unwrap_or(now), 0, origin, &buffer[..received.len]);
                    // The schedule does not wait for a queue of datagrams.
                    self.arrivals(clock::now());
                }
                Ok(None) => {
                    more = false;
                    break;
                }
                Err(_) => {
                    self.io.refused += 1;
                    self.io.recorder.name(now, self.io.stage, "icmp_refused", "", 1);
                }
            }
        }
        self.buffer = buffer;
        self.rest();
        more
    }

    /// One message of a flow.
    fn message(&mut self, now: Time, stamp: Time, flow: Flow, origin: Origin, bytes: &[u8]) {
        if origin.foreign {
            self.io.recorder.name(now, self.io.stage, "rx_foreign_source", "", 1);
            if !self.io.allow.permits(origin.from.ip()) {
                return self.io.recorder.name(now, self.io.stage, "rx_refused_source", "", 1);
            }
        }
        if let Some(trace) = &mut self.io.trace {
            trace.message(false, self.io.transport.name(), origin.from, bytes);
        }
        match self.scanner.scan(bytes) {
            Ok(message) => {
                if self.server.is_empty() {
                    let header = message
                        .header(adsum_sip::HeaderId::Server)
                        .or_else(|| message.header(adsum_sip::HeaderId::UserAgent));
                    self.server =
                        header.map_or_else(|| "unnamed".into(), |s| String::from_utf8_lossy(s).into());
                }
                self.population.on_message(now, stamp, flow, origin, &message, &mut self.io);
            }
            Err(adsum_sip::ScanError::Empty) => {}
            Err(_) => self.io.recorder.count(now, self.io.stage, Counter::Malformed, 1),
        }
    }

    /// Reads what a connection has. `false` when it is over.
    pub(crate) fn readable(&mut self, flow: Flow, generation: u32) -> bool {
        loop {
            let now = clock::now();
            self.io.now = now;
            let Some(line) = self.io.lines.get_mut(flow as usize).filter(|l| l.generation == generation)
            else {
                return false;
            };
            let Some(connection) = &mut line.connection else { return false };
            let peer = connection.peer();
            let mut news = std::mem::take(&mut self.assembly);
            news.clear();
            let kept = connection.take_partial();
            news.extend_from_slice(&kept);
            let before = news.len();
            let result = connection.read(&mut self.buffer, &mut news);
            let grown = news.len() > before;
            let stamp = clock::now();
            let framed = if grown { self.frames(stamp, flow, peer, &news) } else { Ok(0) };
            let rest = match framed {
                Ok(used) => news.get(used..).unwrap_or(b"").to_vec(),
                Err(_) => Vec::new(),
            };
            self.assembly = news;
            let too_long = match self.io.lines.get_mut(flow as usize).filter(|l| l.generation == generation) {
                Some(line) => line.connection.as_mut().is_some_and(|c| !c.keep_partial(&rest)),
                None => return false, // hung up while it was read
            };
            self.rest();
            let error = match (framed, too_long, result) {
                (Err(error), ..) => broken("protocol:framing", &error.to_string()),
                (_, true, _) => broken("protocol:framing", "a message that does not end"),
                (.., Err(error)) => error,
                (.., Ok(true)) => continue,
                (.., Ok(false)) => return true,
            };
            self.lost(flow, error, true);
            return false;
        }
    }

    /// Hands over the whole messages of a buffer; answers how many bytes they took.
    fn frames(
        &mut self,
        stamp: Time,
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
                    let now = clock::now();
                    self.io.now = now;
                    self.message(now, stamp, flow, origin, message);
                    self.arrivals(clock::now());
                }
            }
        }
    }

    /// A connection is there.
    pub(crate) fn connected(&mut self, flow: Flow, connection: crate::net::stream::Connection) {
        let now = clock::now();
        self.io.now = now;
        if let Some(line) = self.io.lines.get_mut(flow as usize) {
            line.connection = Some(connection);
        }
        if !self.io.shared {
            self.population.on_flow(now, flow, FlowEvent::Open(now), &mut self.io);
        }
        self.rest();
    }

    /// A connection could not be made, or ended.
    pub(crate) fn lost(&mut self, flow: Flow, error: FlowError, connected: bool) {
        let now = clock::now();
        self.io.now = now;
        if let Some(line) = self.io.lines.get_mut(flow as usize) {
            line.connection = None;
            line.generation += 1;
        }
        if !connected && self.io.dials.len() > 1 {
            // RFC 3263 §4.3: the next target is tried by whoever connects next.
            self.io.dial = (self.io.dial + 1) % self.io.dials.len();
            self.io.recorder.name(now, self.io.stage, "failover", "", 1);
        }
        if self.io.shared {
            let failure = adsum_presence::host::Failure {
                activity: adsum_presence::host::Activity::Connect,
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
            self.io.recorder.count(now, self.io.stage, Counter::Reconnect, 1);
            if !matches!(self.state, stages::State::Done) {
                self.io.wanted.push(flow);
            }
        } else {
            self.population.on_flow(now, flow, io::gone(error, connected), &mut self.io);
        }
        self.rest();
    }

    /// Closes the second if it has ended.
    fn close_second(&mut self, now: Time) {
        let second = self.io.recorder.second_of(now);
        if second <= self.second {
            return;
        }
        let stage = self.io.stage;
        let within = self.io.recorder.end_of(self.second) - 1;
        let cpu = clock::thread_cpu_us();
        self.io.recorder.name(within, stage, "cpu_us", "", cpu - std::mem::replace(&mut self.cpu_us, cpu));
        if let Some(lost) = self.io.udp.as_mut().map(UdpPort::take_lost).filter(|n| *n > 0) {
            self.io.recorder.name(within, stage, "rx_dropped", "", lost);
        }
        let steps = self.stamps.take_steps();
        if steps > 0 {
            self.io.recorder.name(within, stage, "clock_step", "", steps);
        }
        let last = std::mem::replace(&mut self.second, second);
        let mut closed = self.io.recorder.close(second);
        // Seconds in which the shard did not run at all have ended, too.
        for missing in last..second - 1 {
            if !closed.iter().any(|c| c.second == missing) {
                closed.push(Second { second: missing, ..Second::default() });
            }
        }
        closed.sort_by_key(|c| c.second);
        let failures = self.io.failures.take();
        self.events.push(Event::Seconds(closed, failures));
        self.events.push(Event::Status(self.status()));
    }

    fn status(&self) -> Status {
        let tally = self.population.tally();
        Status {
            users: u64::from(self.population.users()),
            registered: tally.registered,
            subscribed: tally.subscribed,
            in_flight: tally.workflows + tally.publications,
        }
    }
}

fn broken(code: &'static str, reason: &str) -> FlowError {
    FlowError {
        class: adsum_presence::host::Class::Pool,
        code,
        reason: reason.to_owned(),
        diagnosis: "the other side sent what is no SIP over a stream; the connection was closed".to_owned(),
    }
}
