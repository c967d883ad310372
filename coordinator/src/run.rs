//! One run: agents are given their plans, readied, started at one instant,
//! listened to, and written down.
//!
//! [`Run`] decides and does no input or output itself: it is told what
//! happened and when, and answers what to tell whom. [`execute`] is the shell
//! around it.

mod live;
mod shell;

use std::collections::BTreeMap;

use adsum_proto::v1::{self, from_agent, to_agent};
use adsum_report::manifest::{AgentInfo, PhaseInfo};
use adsum_report::{Manifest, Phase, Raw};

use crate::plan::{self, AgentPlace, AgentPlan};
use crate::scenario::{OnAgentLoss, Scenario};

pub use live::Progress;
pub use shell::{Outcome, RunError, Setup, StopLevel, execute};

const SECOND_NS: i64 = 1_000_000_000;
/// Between the last `Ready` and the start: agents have to hear of it.
const START_MARGIN_NS: i64 = 1_200_000_000;
/// Readiness may take so much longer than the log-on rates of held users say.
const READY_LIMIT_NS: i64 = 3_600 * SECOND_NS;
/// After the last hold, besides the time that signing off takes at its rate: the deadline, and what
/// transactions may take.
const DRAIN_LIMIT_NS: i64 = 600 * SECOND_NS;

/// What to do next.
#[derive(Debug)]
pub enum Order {
    /// Tell an agent something.
    Tell(String, Box<to_agent::Message>),
    /// Keep an interval, then acknowledge it: agent, site, incarnation.
    Keep(String, String, u64, Box<v1::Interval>),
    /// Keep what the run is, as far as it is known: a run that is cut off is finished with it.
    Draft(Box<Manifest>),
    /// A remark for people.
    Remark(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Agents make themselves ready.
    Readying { since: i64 },
    /// The schedule runs, or what is left of it.
    Running { start: i64, end: i64 },
    /// Everybody was told to end.
    Ending { since: i64 },
    /// Nothing is to come.
    Over,
}

#[derive(Debug, Default)]
struct Member {
    hello: v1::Hello,
    ready: Option<v1::Ready>,
    done: bool,
    lost: String,
    bound_ns: u64,
    in_flight: u64,
    registered: u64,
}

/// A run as a state machine. Times are UTC nanoseconds.
#[derive(Debug)]
pub struct Run {
    scenario: Scenario,
    stage: Stage,
    origin: i64,
    start: Option<i64>,
    /// When it was told to end, if it was.
    stopped: Option<i64>,
    /// What the rates of log-on and log-off add to the limits.
    log_on_ns: i64,
    log_off_ns: i64,
    members: BTreeMap<String, Member>,
    /// Everything that was recorded so far.
    pub raw: Raw,
    /// What the run is, filled as it goes.
    pub manifest: Manifest,
    /// Why it could not start.
    pub not_ready: Option<v1::NotReady>,
    judge: live::Judge,
}

impl Run {
    /// Begins a run: the plans are the first orders. `manifest` says what is
    /// known before.
    #[must_use]
    pub fn begin(
        scenario: Scenario,
        mut manifest: Manifest,
        agents: Vec<(v1::Hello, AgentPlan)>,
        now: i64,
    ) -> (Run, Vec<Order>) {
        let mut members = BTreeMap::new();
        let mut orders = Vec::new();
        for (hello, plan) in agents {
            let name = hello.name.clone();
            manifest.agents.push(AgentInfo {
                name: name.clone(),
                site: hello.site.clone(),
                incarnation: hello.incarnation,
                host: hello.host.clone(),
                kernel: hello.kernel.clone(),
                cpu_model: hello.cpu_model.clone(),
                cores: hello.cores,
                shards: hello.shards,
                version: hello.software_version.clone(),
                ..AgentInfo::default()
            });
            let tell = |message| Order::Tell(name.clone(), Box::new(message));
            orders.push(tell(to_agent::Message::Plan(plan.plan)));
            orders.extend(plan.chunks.into_iter().map(|chunk| tell(to_agent::Message::Users(chunk))));
            members.insert(name, Member { hello, ..Member::default() });
        }
        let origin = manifest.origin_unix_s * SECOND_NS;
        let judge = live::Judge::new(&scenario);
        manifest.steps = shell::steps(&scenario, 0, 0, 0, false);
        let (log_on_ns, log_off_ns) = plan::timeline::log_on_ns(&scenario, manifest.users);
        let run = Run {
            scenario,
            stage: Stage::Readying { since: now },
            origin,
            start: None,
            stopped: None,
            log_on_ns: i64::try_from(log_on_ns).unwrap_or(i64::MAX / 4),
            log_off_ns: i64::try_from(log_off_ns).unwrap_or(i64::MAX / 4),
            members,
            raw: Raw::default(),
            manifest,
            not_ready: None,
            judge,
        };
        (run, orders)
    }

    /// True when nothing is to come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// An agent said something.
    pub fn said(&mut self, agent: &str, message: from_agent::Message, now: i64) -> Vec<Order> {
        let Some(member) = self.members.get_mut(agent) else { return Vec::new() };
        let mut orders = Vec::new();
        match message {
            from_agent::Message::Ready(ready) => {
                member.registered = ready.registered;
                member.ready = Some(ready);
                orders.extend(self.start_if_ready(now));
            }
            from_agent::Message::NotReady(not_ready) => {
                orders.push(Order::Remark(format!("{agent} is not ready: {}", not_ready.error)));
                if self.not_ready.is_none() {
                    self.manifest.events.not_ready = format!("{} ({})", not_ready.error, not_ready.code);
                    self.not_ready = Some(not_ready);
                }
                orders.extend(self.stop(false, "an agent is not ready", now));
            }
            from_agent::Message::PlanStatus(status) => {
                member.registered = status.registered;
                member.in_flight = status.in_flight;
            }
            from_agent::Message::Armed(armed) => member.bound_ns = armed.clock_bound_ns,
            from_agent::Message::Interval(interval) => {
                let (site, incarnation) = (member.hello.site.clone(), member.hello.incarnation);
                orders.push(Order::Keep(
                    agent.to_owned(),
                    site.clone(),
                    incarnation,
                    Box::new(interval.clone()),
                ));
                let read = crate::convert::interval(agent, &site, incarnation, interval);
                let absorbed = read.map_err(|e| e.to_string()).and_then(|interval| {
                    self.raw
                        .absorb(&interval)
                        .map_err(|e| format!("interval {} of {agent}: {e}", interval.number))
                });
                if let Err(error) = absorbed {
                    // Data was lost: nobody may believe the rest without knowing it.
                    self.manifest.events.internal.clone_from(&error);
                    orders.push(Order::Remark(error));
                }
            }
            from_agent::Message::Done(done) => {
                member.done = true;
                let arrived = self.raw.intervals_of(agent);
                if arrived != done.intervals && self.manifest.events.internal.is_empty() {
                    let lost = format!("{arrived} of {} intervals of agent {agent} arrived", done.intervals);
                    self.manifest.events.internal.clone_from(&lost);
                    orders.push(Order::Remark(lost));
                }
                if done.interrupted && self.manifest.events.signal == 0 {
                    self.manifest.events.interrupted = true;
                    if !matches!(self.stage, Stage::Ending { .. }) {
                        // Nobody asked it to end early: what it measured is not the whole.
                        self.manifest.events.internal = format!("agent {agent}: {}", done.reason);
                        orders.push(Order::Remark(self.manifest.events.internal.clone()));
                    }
                }
                self.finish_if_done();
            }
            from_agent::Message::Refused(refused) => orders.extend(self.lost(agent, &refused.reason, now)),
            from_agent::Message::Hello(_) | from_agent::Message::ClockProbe(_) => {}
        }
        orders
    }

    /// An agent went away.
    pub fn lost(&mut self, agent: &str, reason: &str, now: i64) -> Vec<Order> {
        let Some(member) = self.members.get_mut(agent).filter(|m| !m.done && m.lost.is_empty()) else {
            return Vec::new();
        };
        let at = (now - self.origin) as f64 / 1e9;
        member.lost = format!("lost {at:.0} s after the beginning: {reason}");
        member.done = true;
        let mut orders =
            vec![Order::Remark(format!("agent {agent} at {} was lost: {reason}", member.hello.site))];
        let alone = self.members.values().all(|m| m.done);
        if self.scenario.fleet.on_agent_loss == OnAgentLoss::Stop || alone {
            self.manifest.events.agent_lost = true;
            orders.extend(self.stop(false, "an agent was lost", now));
        } else {
            // The others may have waited for it alone.
            orders.extend(self.start_if_ready(now));
        }
        self.finish_if_done();
        orders
    }

    /// Ends the run: drain, or at once.
    pub fn stop(&mut self, abort: bool, reason: &str, now: i64) -> Vec<Order> {
        match self.stage {
            Stage::Over => return Vec::new(),
            Stage::Readying { .. } => self.manifest.events.interrupted = true,
            Stage::Running { end, .. } => self.manifest.events.interrupted |= now < end,
            Stage::Ending { .. } => {}
        }
        self.stopped.get_or_insert(now);
        self.stage = Stage::Ending { since: now };
        self.tell_all(|| to_agent::Message::Stop(v1::Stop { abort, reason: reason.to_owned() }))
    }

    /// A second passed.
    pub fn tick(&mut self, now: i64) -> Vec<Order> {
        if matches!(self.stage, Stage::Readying { .. } | Stage::Running { .. }) {
            let second = now.div_euclid(SECOND_NS) - 2; // agents have reported it by now
            let places = Places { manifest: &self.manifest, started: self.start.is_some() };
            if let Some(stopped) = self.judge.through(&self.raw, second, |second| places.of(second)) {
                let mut orders = vec![Order::Remark(stopped.remark())];
                match stopped {
                    live::Stopped::ByThreshold(expr) => self.manifest.events.aborted_by = expr,
                    live::Stopped::ToProtect(expr) => self.manifest.events.stopped_by = expr,
                }
                orders.extend(self.stop(false, "the run protects itself or the pool", now));
                return orders;
            }
        }
        match self.stage {
            Stage::Readying { since } if now - since > READY_LIMIT_NS.saturating_add(self.log_on_ns) => {
                self.manifest.events.not_ready =
                    format!("agents were not ready within {} s", (now - since) / SECOND_NS);
                self.stop(true, "not ready in time", now)
            }
            Stage::Running { start, end } if now > end.max(start).saturating_add(self.drain_limit()) => {
                self.stop(true, "draining took too long", now)
            }
            Stage::Ending { since } if now - since > self.drain_limit() => {
                self.stage = Stage::Over;
                self.manifest.events.internal = "agents did not end in time".to_owned();
                // Whoever still runs must not be taken for part of the next run.
                let reason = "it did not end its run in time".to_owned();
                self.tell_all(|| to_agent::Message::Refused(v1::Refused { reason: reason.clone() }))
            }
            _ => Vec::new(),
        }
    }

    fn drain_limit(&self) -> i64 {
        DRAIN_LIMIT_NS.saturating_add(self.log_off_ns)
    }

    fn start_if_ready(&mut self, now: i64) -> Vec<Order> {
        if !matches!(self.stage, Stage::Readying { .. })
            || self.members.values().any(|m| m.ready.is_none() && !m.done)
        {
            return Vec::new();
        }
        let margin = now + START_MARGIN_NS;
        let start = (margin + SECOND_NS - 1).div_euclid(SECOND_NS) * SECOND_NS;
        let end = start + i64::try_from(plan::timeline::length_ns(&self.scenario)).unwrap_or(i64::MAX / 4);
        self.start = Some(start);
        self.stage = Stage::Running { start, end };
        let (from, to) = ((start - self.origin) as u64, (end - self.origin) as u64);
        self.manifest.steps = shell::steps(&self.scenario, from, to, to, true);
        let mut orders = vec![Order::Draft(Box::new(self.manifest.clone()))];
        orders.extend(self.tell_all(|| to_agent::Message::Start(v1::Start { start_unix_ns: start })));
        orders
    }

    fn tell_all(&self, message: impl Fn() -> to_agent::Message) -> Vec<Order> {
        self.members
            .iter()
            .filter(|(_, member)| !member.done)
            .map(|(name, _)| Order::Tell(name.clone(), Box::new(message())))
            .collect()
    }

    fn finish_if_done(&mut self) {
        if self.members.values().all(|member| member.done) {
            self.stage = Stage::Over;
        }
    }

    /// Fills the manifest with what is known at the end.
    pub fn conclude(&mut self, now: i64) {
        let ended = now.div_euclid(SECOND_NS) + 1;
        self.manifest.ended_unix_s = ended;
        let start = self.start.map_or(ended * SECOND_NS - self.origin, |start| start - self.origin);
        let end = (ended * SECOND_NS - self.origin).max(0) as u64;
        // No arrival is offered after this: what follows belongs to the drain, as agents book it.
        let cut = self.stopped.map_or(end, |stopped| (stopped - self.origin).max(0) as u64);
        self.manifest.steps =
            shell::steps(&self.scenario, start.max(0) as u64, cut, end, self.start.is_some());
        for info in &mut self.manifest.agents {
            let Some(member) = self.members.get(&info.name) else { continue };
            info.lost.clone_from(&member.lost);
            info.intervals = self.raw.intervals_of(&info.name);
            info.clock_bound_s = member.bound_ns as f64 / 1e9;
            if let Some(ready) = &member.ready {
                info.receive_stamps.clone_from(&ready.receive_stamps);
                info.priority.clone_from(&ready.priority);
                info.tls.clone_from(&ready.tls);
                if self.manifest.server.is_empty() {
                    self.manifest.server.clone_from(&ready.server);
                }
            }
        }
    }

    /// How the run goes, for people.
    #[must_use]
    pub fn progress(&self, now: i64) -> Progress {
        let attached = self.members.values().filter(|m| m.lost.is_empty()).count() as u32;
        live::progress(
            &self.raw,
            &self.scenario,
            live::Here {
                now,
                start: self.start,
                ending: matches!(self.stage, Stage::Ending { .. }),
                agents: attached,
                agents_expected: self.members.len() as u32,
                in_flight: self.members.values().map(|m| m.in_flight).sum(),
                registered: self.members.values().map(|m| m.registered).sum(),
                users: self.manifest.users,
            },
        )
    }
}

/// Where seconds lie in a run.
struct Places<'a> {
    manifest: &'a Manifest,
    started: bool,
}

impl<'a> Places<'a> {
    fn of(&self, second: i64) -> Option<live::Place<'a>> {
        let t_s = second - self.manifest.origin_unix_s;
        let since = |from_s: f64| (t_s as f64 - from_s).max(0.0) as u64;
        if !self.started {
            // Nobody knows yet when the warm-up ends.
            return Some(live::Place { step: 0, name: "warmup", phase: Phase::Warmup, held_s: since(0.0) });
        }
        self.manifest.steps.iter().find_map(|step| {
            let inside = |phase: &&PhaseInfo| (phase.from_s..phase.to_s).contains(&(t_s as f64));
            let phase = step.phases.iter().find(inside)?;
            let held_s = since(phase.from_s);
            Some(live::Place { step: step.step, name: &step.name, phase: phase.phase, held_s })
        })
    }
}

/// Agents as planning wants them, in the order of their names.
#[must_use]
pub fn places(hellos: &[v1::Hello]) -> Vec<AgentPlace> {
    hellos.iter().map(|h| AgentPlace { name: h.name.clone(), site: h.site.clone() }).collect()
}
