//! One shard: a thread with its sockets, its users, its share of the schedule
//! and its recorder. Nothing is shared with other shards.
//!
//! [`Core`] is everything that happens in one turn of the loop; [`run`] is the
//! loop. The stages of a run are in [`stages`], what the population may do to
//! the world in [`io`], the life of connections in [`lines`].

mod datagrams;
mod io;
mod lines;
mod names;
mod run;
mod stages;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;

use adsum_presence::accounts::Accounts;
use adsum_presence::contacts::Contacts;
use adsum_presence::host::{Counter, Flow, Origin, Stage};
use adsum_presence::population::{Config, Kind, Population, Transport};
use adsum_presence::simple::MessageError;
use adsum_sip::locate::{Failover, Failure as Trouble};
use adsum_sip::oracle::{Look, Opinion, Sampler};
use adsum_sip::{Message, Scanner, Time};

use crate::ceiling::Ceiling;
use crate::failures::FailureRow;
use crate::net::allow::Allow;
use crate::net::clock::{self, StampClock};
use crate::net::udp::{DropTables, UdpPort};
use crate::pace::{Arrivals, Ownership, Schedule, Step};
use crate::realtime::Realtime;
use crate::recorder::{Recorder, Second};

pub use io::Watcher;
pub use run::{EVENTS, Shard, spawn};

/// Arrivals of one shard that may wait for a free pair; what comes beyond is
/// not started, and counted so. Enough for ten thousand a second over six.
const MAX_WAITING: usize = 65_536;
/// Targets that UDP keeps sockets for; further ones of the list are not used.
const MAX_UDP_TARGETS: usize = 8;
/// Longest time that a loop may stand still, unless the plan wants to hear of shorter gaps. More is counted.
const GAP: u64 = 250_000_000;
/// Per cent of a second that a shard's thread may run before the second counts as busy: from there
/// on queues grow that no figure of the pool's explains.
const BUSY_PERCENT: u64 = 90;
/// The loop wakes at least so many times in the gap that is to be seen: of a stop that begins while it
/// sleeps, only what lies behind the next wake-up is known.
const HEARTBEATS: u64 = 5;

/// What one shard does in a run.
#[derive(Debug)]
pub struct ShardPlan {
    /// How the users behave.
    pub config: Config,
    /// Who they are.
    pub accounts: Accounts,
    /// Pairs of the whole run.
    pub pairs_total: u64,
    /// Subscribers of each publisher; pairs without.
    pub fan_out: Option<crate::contacts::FanOut>,
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
    /// A loop that stood still this long is counted, if shorter than the usual 250 ms; 0 for those.
    pub gap_ns: u64,
    /// Latencies end at the kernel's receive stamps, not when a message is read.
    pub kernel_stamps: bool,
    /// The coordinator's wall clock minus our monotonic clock.
    pub offset_ns: i64,
    /// Let rsip read one message of 64, too, and the first of each kind.
    pub second_opinion: bool,
    /// Where to write messages as text.
    pub trace: Option<PathBuf>,
    /// Real-time priority from readiness on, where it is allowed.
    pub realtime: bool,
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
    /// Workflows go no further: take back what was published, sign off.
    Leave,
    /// The same without waiting for answers any more, then stop.
    LeaveNow,
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
    /// Which implementation of TLS is used; empty without TLS.
    pub tls: String,
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
    /// The contact graph.
    #[error(transparent)]
    FanOut(#[from] crate::contacts::FanOutError),
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
    /// Which messages rsip reads, too.
    sampler: Sampler,
    stamps: StampClock,
    ownership: Ownership,
    schedule: Schedule,
    next_arrival: Option<crate::pace::Arrival>,
    start: Time,
    state: stages::State,
    /// The hold that was last begun.
    last_hold: Option<Stage>,
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
    /// When waiting publications were last looked through for those that are too old.
    expired: Time,
    /// No arrival before this instant: a ceiling said so.
    held_until: Time,
    /// Wake-ups for arrivals are rounded up to this, in nanoseconds; 0 is exact.
    quantum: u64,
    /// A loop that stood still for this many nanoseconds is counted.
    gap: u64,
    /// When the loop looked at the clock last, or wants to be woken.
    looks: Time,
    /// The second that is recorded now.
    second: i64,
    /// The thread's name: the label of what is counted for each shard.
    label: String,
    cpu_us: u64,
    cpu_read: Time,
    realtime: Realtime,
    server: String,
    /// Messages with and without a receive stamp of the kernel.
    stamped: [u64; 2],
    /// One datagram.
    buffer: Vec<u8>,
    streams: lines::Streams,
    events: Vec<Event>,
}

impl Core {
    pub(crate) fn new(plan: ShardPlan, label: &str) -> Result<Self, ShardError> {
        let now = clock::now();
        let first = *plan.targets.first().ok_or(ShardError::NoTarget)?;
        let targets: Vec<SocketAddr> =
            plan.targets.iter().copied().filter(|target| plan.allow.permits(target.ip())).collect();
        if targets.is_empty() {
            return Err(ShardError::NotAllowed(first.ip(), plan.allow.advice(first.ip())));
        }
        let transport = plan.config.transport;
        let accounts = Rc::new(plan.accounts);
        let pairs = accounts.pairs().to_vec();
        let held = plan.config.kind == Kind::Held;
        let contacts = match plan.fan_out {
            Some(fan_out) => {
                let shard = u64::from(plan.config.namespace.shard);
                fan_out.draw(pairs.len() as u32 * 2, adsum_sip::ids::mix(plan.seed ^ !shard))?
            }
            None => Contacts::Pairs(pairs.len() as u32),
        };
        let each = contacts.publishers_per_pair();
        let population = Population::with_contacts(plan.config.clone(), Rc::clone(&accounts), contacts, now)?;
        let udp = match transport {
            Transport::Udp => targets
                .iter()
                .take(MAX_UDP_TARGETS)
                .map(|target| {
                    UdpPort::new(
                        plan.sources.first().copied(),
                        *target,
                        plan.kernel_stamps,
                        plan.quantum_ns == 0,
                    )
                })
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| ShardError::Io("a UDP socket", e))?,
            _ => Vec::new(),
        };
        let reachable = if udp.is_empty() { targets.len() } else { udp.len() };
        let failover = Failover::new(&targets[..reachable]);
        let tls = match (transport, &plan.tls) {
            (Transport::Tls, options) => {
                Some(crate::net::secured::Client::new(&options.clone().unwrap_or_default())?)
            }
            _ => None,
        };
        if let Some(tls) = &tls {
            // The first use of the cryptography in a process takes some 20 ms: not within a measurement.
            tls.warm_up();
        }
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
            // Without a quantum every datagram leaves at its own instant.
            departures: (!udp.is_empty() && plan.quantum_ns > 0).then(datagrams::Departures::default),
            udp,
            lines: (0..lines).map(|_| io::Line::default()).collect(),
            shared: plan.shared_connections,
            kernel_stamps: plan.kernel_stamps,
            wanted: Vec::new(),
            outbox: io::Outbox::default(),
            sealed: Vec::new(),
            sources: plan.sources,
            tls,
            failover,
            names: names::Names::default(),
            seed: plan.seed,
            allow: plan.allow,
            advertise: plan.advertise,
            watcher: None,
            trace,
            refused: 0,
            refused_flows: 0,
            accounts,
        };
        // Held users do not take turns.
        let resting = if held { 0 } else { population.pairs() };
        let mut core = Core {
            io,
            scanner: Scanner::new(),
            sampler: Sampler::default(),
            stamps: StampClock::default(),
            ownership: Ownership::new(plan.pairs_total, &pairs, each, held.then_some(plan.seed)),
            next_arrival: None,
            schedule,
            start: Time::NEVER,
            state: stages::State::Begin,
            last_hold: None,
            waiting: VecDeque::new(),
            rested: (0..resting).map(|pair| (pair, 0)).collect(),
            rests: vec![0; resting as usize],
            rested_since: vec![Time(0); resting as usize],
            plan: stages::Rules {
                kind: plan.config.kind,
                deadline: plan.config.deadline,
                settle: plan.settle_ns,
                register_rate_mhz: plan.register_rate_mhz,
                subscribe_rate_mhz: plan.subscribe_rate_mhz,
                max_in_flight: if plan.max_in_flight == 0 { u32::MAX } else { plan.max_in_flight },
                last_step: plan.steps.len() as u16,
                second_opinion: plan.second_opinion,
            },
            register_ceiling: Ceiling::new(plan.register_rate_mhz),
            subscribe_ceiling: Ceiling::new(plan.subscribe_rate_mhz),
            arrival_ceiling: Ceiling::new(plan.max_rate_mhz),
            expired: Time(0),
            held_until: Time(0),
            quantum: plan.quantum_ns,
            looks: Time::NEVER,
            gap: if plan.gap_ns == 0 { GAP } else { plan.gap_ns.min(GAP) },
            second,
            label: label.to_owned(),
            cpu_us: clock::thread_cpu_us(),
            cpu_read: now,
            realtime: Realtime::new(plan.realtime),
            server: String::new(),
            stamped: [0; 2],
            buffer: vec![0; 64 * 1024],
            streams: lines::Streams::new(plan.kernel_stamps, plan.quantum_ns == 0)
                .map_err(|e| ShardError::Io("an epoll instance", e))?,
            events: Vec::new(),
            population,
        };
        if core.io.shared {
            core.io.wanted.extend(0..lines as u32);
        }
        core.next_arrival = core.schedule.next();
        Ok(core)
    }

    /// Reads the clock for what is done next, and counts a gap if the loop stood still meanwhile:
    /// since it looked last, or since it wanted to be woken.
    pub(crate) fn look(&mut self) -> Time {
        let now = clock::now();
        self.io.now = now;
        let gap = now.since(std::mem::replace(&mut self.looks, now));
        if gap >= self.gap {
            let stage = self.io.stage;
            self.io.recorder.name(now, stage, "loop_gap", &self.label, 1);
            self.io.recorder.name(now, stage, "loop_gap_ms", &self.label, gap / 1_000_000);
        }
        now
    }

    /// The loop will sleep until then at the latest.
    pub(crate) fn sleeps_until(&mut self, wake: Time) {
        self.looks = self.looks.max(wake);
    }

    /// What has to be done by itself: timers, arrivals, stages, the second.
    pub(crate) fn turn(&mut self) {
        let now = self.look();
        if self.realtime.given_back(now) {
            self.io.recorder.name(now, self.io.stage, "realtime_lost", &self.label, 1);
        }
        let refused = std::mem::take(&mut self.io.refused_flows);
        if refused != 0 {
            for flow in (0..self.io.udp.len() as Flow).filter(|flow| refused & (1 << flow) != 0) {
                self.population.refused(now, flow, &mut self.io);
            }
        }
        self.population.on_timer(now, &mut self.io);
        self.arrivals(now);
        self.rest();
        self.stages(now);
        self.open_lines(now);
        self.flush();
        self.close_second(clock::now());
    }

    /// When [`Core::turn`] wants to be called next.
    pub(crate) fn next_turn(&self) -> Time {
        if self.quantum > 0 {
            // A wake-up costs more than a send: what is due within one quantum is done together, and
            // the sockets are not watched, but looked at when the timer fires.
            return Time((clock::now().0 + 1).next_multiple_of(self.quantum));
        }
        let now = self.io.now;
        let mut at = (now + self.gap / HEARTBEATS)
            .min(self.population.next_timer())
            .min(self.io.recorder.end_of(self.second));
        if let Some(arrival) = self.next_arrival.filter(|_| self.start != Time::NEVER) {
            let due = (self.start + arrival.at).max(self.held_until);
            at = at.min(due);
        }
        at.min(self.streams.next_limit()).min(self.wake_for_stage(now))
    }

    /// True if the sockets are looked at by the timer alone.
    pub(crate) fn has_quantum(&self) -> bool {
        self.quantum > 0
    }

    /// Ready when some socket has something.
    pub(crate) fn poll_readable(
        &self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if !self.io.is_udp() {
            return self.streams.poll_ready(context);
        }
        // All are asked, so that each knows whom to wake.
        let mut ready = std::task::Poll::Pending;
        for udp in &self.io.udp {
            if let std::task::Poll::Ready(found) = udp.poll_readable(context) {
                ready = std::task::Poll::Ready(found);
            }
        }
        ready
    }

    /// Takes what came, one batch of it; with a quantum, all that is there.
    pub(crate) fn receive(&mut self, limit: usize) {
        // Bounded, so that the timer has its turn: what is left is ready at once.
        for _ in 0..if self.has_quantum() { 64 } else { 1 } {
            let more = if self.io.is_udp() { self.datagrams(limit) } else { self.streams() };
            if !more {
                return;
            }
        }
    }

    /// Takes what came by UDP, at most `limit` datagrams of each port; `true` if there may be more.
    fn datagrams(&mut self, limit: usize) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut more = false;
        for flow in 0..self.io.udp.len() {
            more |= self.datagrams_of(flow, limit, &mut buffer);
        }
        self.buffer = buffer;
        self.rest();
        more
    }

    fn datagrams_of(&mut self, flow: usize, limit: usize, buffer: &mut [u8]) -> bool {
        for _ in 0..limit {
            let now = self.look();
            // The schedule does not wait for a queue of datagrams.
            self.arrivals(now);
            if self.io.has_departed() {
                self.flush(); // before an answer to it is read
            }
            match self.io.udp[flow].receive(buffer, &mut self.stamps, now) {
                Ok(Some(received)) => {
                    let origin = Origin { from: received.from, foreign: received.foreign };
                    self.stamped(received.stamp.is_some());
                    if self.io.udp.len() > 1 {
                        self.io.answered(now, flow);
                    }
                    let stamp = received.stamp.unwrap_or(now);
                    self.message(now, stamp, flow as Flow, origin, &buffer[..received.len]);
                }
                Ok(None) => return false,
                Err(_) => {
                    self.io.refused += 1;
                    self.io.recorder.name(now, self.io.stage, "icmp_refused", "", 1);
                    let target = self.io.udp[flow].target();
                    self.io.refused_flows |= 1 << flow;
                    self.io.target_failed(now, target, Trouble::Transport);
                }
            }
        }
        true
    }

    fn stamped(&mut self, by_kernel: bool) {
        self.stamped[usize::from(!by_kernel)] += 1;
        if !by_kernel {
            self.io.recorder.name(self.io.now, self.io.stage, "rx_unstamped", "", 1);
        }
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
                if self.plan.second_opinion
                    && let Some(look) = self.sampler.wants(&message)
                {
                    second_opinion(&mut self.io, now, bytes, &message, look);
                }
                self.population.on_message(now, stamp, flow, origin, &message, &mut self.io);
            }
            Err(adsum_sip::ScanError::Empty) => {}
            Err(_) => self.io.recorder.count(now, self.io.stage, Counter::Malformed, 1),
        }
    }

    /// Closes the second if it has ended.
    fn close_second(&mut self, now: Time) {
        let second = self.io.recorder.second_of(now);
        if second <= self.second {
            return;
        }
        let stage = self.io.stage;
        let within = self.io.recorder.end_of(self.second) - 1;
        self.count_cpu(now, within, stage);
        self.count_lost(within, stage);
        self.stamps.look(now);
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

    fn count_cpu(&mut self, now: Time, within: Time, stage: Stage) {
        let cpu = clock::thread_cpu_us();
        let used = cpu - std::mem::replace(&mut self.cpu_us, cpu);
        self.io.recorder.name(within, stage, "cpu_us", &self.label, used);
        // A loop that was held up closes several seconds at once.
        let passed = now.since(std::mem::replace(&mut self.cpu_read, now)) / 1_000;
        if used * 100 > passed * BUSY_PERCENT {
            self.io.recorder.name(within, stage, "shard_busy", &self.label, 1);
        }
    }

    /// Datagrams that the kernel dropped since it was asked last.
    fn count_lost(&mut self, at: Time, stage: Stage) {
        let lost: u64 = self.io.udp.iter_mut().map(UdpPort::take_lost).sum();
        if lost > 0 {
            self.io.recorder.name(at, stage, "rx_dropped", "", lost);
        }
    }

    /// A stage ends: what the kernel dropped in it is asked for once more.
    fn count_last_lost(&mut self, at: Time, stage: Stage) {
        if !self.io.udp.is_empty() {
            let tables = DropTables::read();
            self.io.udp.iter_mut().for_each(|udp| udp.look_again(&tables));
            self.count_lost(at, stage);
        }
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

/// Lets rsip read a message, too. It decides nothing; where the two differ, one
/// of them is wrong, and whoever reads the results should know.
fn second_opinion(io: &mut io::ShardIo, now: Time, bytes: &[u8], message: &Message<'_>, look: Look) {
    let label = match adsum_sip::oracle::second_opinion(bytes, message, look) {
        Opinion::Agree => "agree",
        Opinion::NotUnderstood { field, why } => {
            tracing::debug!(?field, why, "rsip does not understand a message");
            "not_understood"
        }
        Opinion::Disagree { field, readings } => {
            tracing::warn!(?field, readings, "scanner and rsip read a message differently");
            "disagree"
        }
    };
    io.recorder.name(now, io.stage, "second_opinion", label, 1);
}
