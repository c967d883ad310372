//! The stages of a run on one shard: readiness, the schedule, the end.

use adsum_presence::host::{Activity, Class, Counter, Phase, Stage};
use adsum_presence::population::Kind;
use adsum_sip::Time;
use adsum_sip::time::{SECOND, TIMEOUT};

use super::{Core, Event, Held, MAX_WAITING, ReadyFacts};
use crate::failures::FailureRow;

/// Users that may be rejected before a run is given up: all of the first
/// twenty, or later two in a hundred.
const FIRST_LOG_ONS: u64 = 20;
/// Further time for what was begun to end, beyond its own limits.
const GRACE: u64 = 4 * SECOND;

/// How often waiting publications are looked through for those that are too old, at the end of a run.
const EXPIRY: u64 = SECOND / 10;

/// When a ceiling is asked again whether it lets pass what is due.
const CEILING: u64 = SECOND / 1_000;

/// What of the plan the stages need.
#[derive(Debug)]
pub(super) struct Rules {
    pub kind: Kind,
    pub deadline: u64,
    pub settle: u64,
    pub max_in_flight: u32,
    /// Log-ons and log-offs, thousandths a second; 0: as many as there are.
    pub register_rate_mhz: u64,
    /// As above, for subscriptions and first publications.
    pub subscribe_rate_mhz: u64,
    pub last_step: u16,
    pub second_opinion: bool,
}

/// Log-ons, subscriptions or log-offs that follow one another at a rate.
///
/// Each is due when the rate says, not when a ceiling or a busy loop lets it pass: what this engine
/// is late with stands in the latency from the scheduled instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Series {
    next: u32,
    began: Time,
    /// When the latest one left.
    last: Time,
}

impl Series {
    fn from(now: Time) -> Self {
        Series { next: 0, began: now, last: now }
    }

    /// When the next one is due at so many thousandths a second; without a rate it is due at once.
    fn due(&self, rate_mhz: u64) -> Option<Time> {
        let after = (u128::from(self.next) * 1_000_000_000_000).checked_div(u128::from(rate_mhz))?;
        Some(self.began + u64::try_from(after).unwrap_or(u64::MAX / 2))
    }
}

/// Where a shard is in its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing was sent yet.
    Begin,
    /// The probe workflow runs.
    Probing { pair: u32, since: Time },
    /// Held users sign on; the next one is `next`.
    SigningOn(Series),
    /// They subscribe.
    Subscribing(Series),
    /// Each publishes once.
    Publishing(Series),
    /// Readiness is proven, quiet until then.
    Settling { until: Time },
    /// Waiting for the start.
    Ready,
    /// The schedule runs.
    Running,
    /// No more arrivals; what is open ends.
    Finishing { since: Time },
    /// Held users sign off.
    SigningOff(Series),
    /// Over.
    Done,
}

impl Core {
    /// Moves on to the next stage when this one is complete.
    pub(super) fn stages(&mut self, now: Time) {
        match self.state {
            State::Begin => self.begin(now),
            State::Probing { pair, since } => self.probing(now, pair, since),
            State::SigningOn(series) => self.signing_on(now, series),
            State::Subscribing(series) => self.subscribing(now, series),
            State::Publishing(series) => self.publishing(now, series),
            State::Settling { until } if now >= until => self.ready(),
            State::Running => self.running(now),
            State::Finishing { since } => self.finishing(now, since),
            State::SigningOff(series) => self.signing_off(now, series),
            State::Settling { .. } | State::Ready | State::Done => {}
        }
    }

    /// Stages that go by a rate want a turn when the next one is due; the others follow messages.
    pub(super) fn wake_for_stage(&self, now: Time) -> Time {
        let (series, all) = match self.state {
            State::SigningOn(series) | State::SigningOff(series) => (series, self.population.users()),
            State::Subscribing(series) => (series, self.population.contacts().edges()),
            State::Publishing(series) => (series, self.publishers()),
            State::Settling { until } => return until,
            State::Begin if !self.lacks_lines() => return now,
            _ => return Time::NEVER,
        };
        if series.next >= all {
            return Time::NEVER;
        }
        // What was due and did not go was held back by a ceiling.
        series.due(self.rate_of_stage()).filter(|due| *due > now).unwrap_or(now + CEILING)
    }

    /// The rate of the stage's series, thousandths a second; 0: none.
    fn rate_of_stage(&self) -> u64 {
        match self.state {
            State::SigningOn(_) | State::SigningOff(_) => self.plan.register_rate_mhz,
            _ => self.plan.subscribe_rate_mhz,
        }
    }

    /// The next of a series of `all`, with the instant at which it is due, if it may go now.
    fn next_of(&self, now: Time, series: &mut Series, all: u32) -> Option<(u32, Time)> {
        let due = series.due(self.rate_of_stage()).unwrap_or(now);
        let ceiling = match self.state {
            State::SigningOn(_) | State::SigningOff(_) => &self.register_ceiling,
            _ => &self.subscribe_ceiling,
        };
        if series.next >= all || due > now || ceiling.take().is_err() {
            return None;
        }
        let next = series.next;
        series.next += 1;
        series.last = now;
        Some((next, due))
    }

    fn begin(&mut self, now: Time) {
        if self.lacks_lines() {
            if let Some(failure) = self.io.failures.first.take() {
                self.not_ready(failure);
            }
            return; // the shared connections come first
        }
        if self.population.pairs() == 0 {
            self.state = State::Settling { until: now };
            return;
        }
        match self.plan.kind {
            Kind::Workflow => {
                self.state = State::Probing { pair: 0, since: now };
                self.io.recorder.count(now, Stage::WARMUP, Counter::Offered, 1);
                self.population.start_workflow(now, 0, now, now, Stage::WARMUP, &mut self.io);
            }
            Kind::Held => self.state = State::SigningOn(Series::from(now)),
        }
    }

    /// Shared connections that are not there yet; the last one to come moves on.
    fn lacks_lines(&self) -> bool {
        self.io.shared
            && self.io.lines.iter().any(|line| !line.connection.as_deref().is_some_and(|c| c.is_open()))
    }

    fn probing(&mut self, now: Time, pair: u32, _since: Time) {
        match self.population.workflow_succeeded(pair) {
            Some(true) if self.population.tally().workflows == 0 => {
                self.state = State::Settling { until: now + self.plan.settle };
            }
            Some(false) if self.population.tally().workflows == 0 => {
                let failure = self.io.failures.first.take().unwrap_or_else(|| unknown(now));
                self.not_ready(failure);
            }
            _ => {}
        }
    }

    fn signing_on(&mut self, now: Time, mut series: Series) {
        while let Some((user, due)) = self.next_of(now, &mut series, self.population.users()) {
            self.population.sign_on(now, user, due, Stage::WARMUP, &mut self.io);
        }
        self.state = State::SigningOn(series);
        let Series { next, last, .. } = series;
        if self.too_many_rejected(u64::from(next)) || self.is_hopeless(next) {
            let failure = self.io.failures.first.take().unwrap_or_else(|| unknown(now));
            return self.not_ready(failure);
        }
        let tally = self.population.tally();
        if next < self.population.users() {
            return;
        }
        // What costs nothing to ask comes before the look at every user.
        let on = tally.requests == 0
            && tally.registered + tally.rejected >= u64::from(next)
            && (0..next).all(|u| self.population.is_signed_on(u) || self.population.is_rejected(u));
        if on {
            self.state = State::Subscribing(Series::from(now));
        } else if now.since(last) > 2 * TIMEOUT + GRACE {
            let failure = self.io.failures.first.take().unwrap_or_else(|| unknown(now));
            self.not_ready(failure);
        }
    }

    fn too_many_rejected(&self, tried: u64) -> bool {
        let rejected = self.population.tally().rejected;
        let tried = tried.max(1);
        (rejected >= FIRST_LOG_ONS.min(u64::from(self.population.users())) && rejected * 100 >= tried * 95)
            || (tried > FIRST_LOG_ONS && rejected * 100 > tried * 2 && rejected > 2)
    }

    /// True if all of the first log-ons were refused for a reason that no waiting mends, and nobody
    /// else got in. What may pass (503, silence, a host that refuses) is tried again until the limit.
    fn is_hopeless(&self, tried: u32) -> bool {
        let first = self.population.users().min(FIRST_LOG_ONS as u32);
        let lasting = |failure: &FailureRow| {
            failure.class == Class::Configuration
                || failure.code == "transport:tls"
                || failure.code.starts_with("protocol:")
        };
        tried >= first
            && self.population.tally().registered == 0
            && self.io.failures.first.as_ref().is_some_and(lasting)
            && (0..first).all(|user| self.population.has_setback(user))
    }

    fn subscribing(&mut self, now: Time, mut series: Series) {
        let edges = self.population.contacts().edges();
        while let Some((edge, due)) = self.next_of(now, &mut series, edges) {
            self.population.subscribe(now, edge, due, Stage::WARMUP, &mut self.io);
        }
        self.state = State::Subscribing(series);
        let Series { next, last, .. } = series;
        if next < edges {
            return;
        }
        let tally = self.population.tally();
        let all = tally.requests == 0
            && (tally.subscribed == u64::from(edges)
                || tally.rejected > 0 && self.population.unwatched() == 0);
        if all {
            self.state = State::Publishing(Series::from(now));
        } else if now.since(last) > 2 * TIMEOUT + GRACE
            || (tally.requests == 0 && now.since(last) > TIMEOUT + GRACE)
        {
            let failure = self.io.failures.first.take().unwrap_or_else(|| unknown(now));
            self.not_ready(failure);
        }
    }

    fn publishing(&mut self, now: Time, mut series: Series) {
        while let Some((next, due)) = self.next_of(now, &mut series, self.publishers()) {
            let publisher = self.population.contacts().publisher(next);
            if !self.population.is_rejected(publisher) {
                self.io.recorder.count(due, Stage::WARMUP, Counter::Offered, 1);
                self.population.publish(now, publisher, due, Stage::WARMUP, &mut self.io);
            }
        }
        self.state = State::Publishing(series);
        let tally = self.population.tally();
        if series.next < self.publishers() || tally.publications > 0 || tally.waiting > 0 {
            return;
        }
        if self.population.converged().1 == 0 {
            self.state = State::Settling { until: now + self.plan.settle };
        } else {
            let failure = self.io.failures.first.take().unwrap_or_else(|| unknown(now));
            self.not_ready(failure);
        }
    }

    /// Users that publish.
    fn publishers(&self) -> u32 {
        self.population.pairs() * self.population.contacts().publishers_per_pair()
    }

    fn ready(&mut self) {
        self.state = State::Ready;
        // Signing on may keep a core busy for long, and nobody measures it.
        let priority = self.realtime.claim(self.io.now);
        self.events.push(Event::Ready(ReadyFacts {
            status: self.status(),
            rejected: self.population.tally().rejected,
            server: self.server.clone(),
            kernel_stamps: self.stamped[0] > self.stamped[1],
            priority,
            tls: self.io.tls.as_ref().map(crate::net::secured::Client::implementation).unwrap_or_default(),
        }));
    }

    fn not_ready(&mut self, failure: FailureRow) {
        self.events.push(Event::NotReady(Box::new(failure)));
        self.drain(self.io.now);
    }

    /// The schedule begins at `start`.
    pub(crate) fn start_at(&mut self, start: Time) {
        if self.state == State::Ready {
            self.start = start;
            self.state = State::Running;
        }
    }

    fn running(&mut self, now: Time) {
        if now < self.start {
            return;
        }
        match self.schedule.stage_at(now.since(self.start)) {
            Some(stage) => self.set_stage(stage),
            None if self.next_arrival.is_none() => self.finish(now),
            None => {}
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        if stage.phase == Phase::Hold {
            self.last_hold = Some(stage);
        }
        if self.io.stage != stage {
            self.count_last_lost(self.io.now, self.io.stage);
            self.io.stage = stage;
            self.population.set_stage(stage);
        }
    }

    /// No more arrivals.
    pub(crate) fn drain(&mut self, now: Time) {
        if !matches!(self.state, State::Finishing { .. } | State::SigningOff(_) | State::Done) {
            self.next_arrival = None;
            self.finish(now);
        }
    }

    fn finish(&mut self, now: Time) {
        self.set_stage(self.drain_stage());
        self.state = State::Finishing { since: now };
    }

    fn drain_stage(&self) -> Stage {
        Stage { step: self.plan.last_step + 1, phase: Phase::Drain }
    }

    fn finishing(&mut self, now: Time, since: Time) {
        // It looks at every user, so not at each turn.
        if now.since(self.expired) >= EXPIRY {
            self.expired = now;
            self.population.expire_waiting(now, false, &mut self.io);
        }
        let tally = self.population.tally();
        let open = tally.workflows + tally.publications + tally.waiting + self.waiting.len() as u64;
        // A workflow may take three timeouts and sign off in five more.
        let limit = self.plan.deadline + 8 * TIMEOUT + GRACE;
        if open > 0 && now.since(since) > limit {
            self.population.interrupt(now, &mut self.io);
            self.drop_waiting(now);
        } else if open > 0 {
            return;
        }
        match self.plan.kind {
            Kind::Workflow => self.done(false, "complete"),
            Kind::Held => {
                // Of a run that was stopped, the hold that it came to: the last one never was.
                if let Some(hold) = self.last_hold {
                    self.population.count_converged(now, hold, &mut self.io);
                }
                if self.start != Time::NEVER {
                    self.population.give_up_recoveries(now, &mut self.io);
                }
                self.state = State::SigningOff(Series::from(now));
            }
        }
    }

    fn signing_off(&mut self, now: Time, mut series: Series) {
        let stage = self.drain_stage();
        // In pairs, the subscriber first: a publisher waits for it to leave.
        while let Some((next, _)) = self.next_of(now, &mut series, self.population.users()) {
            self.population.sign_off(now, next ^ 1, stage, &mut self.io);
        }
        self.state = State::SigningOff(series);
        let Series { next, last, .. } = series;
        let (tally, all) = (self.population.tally(), self.population.users());
        let quiet = tally.registered == 0 && tally.requests == 0;
        // Also before their turn: those who never signed on have nothing to leave.
        if quiet && (0..all).all(|user| self.population.is_gone(user)) {
            self.done(false, "complete");
        } else if next >= all && now.since(last) > 2 * TIMEOUT + GRACE {
            self.population.hurry(now, &mut self.io);
            self.done(false, "users did not sign off in time");
        }
    }

    /// Workflows are cut short and sign off.
    pub(crate) fn leave(&mut self, now: Time) {
        self.population.cut_short(now, &mut self.io);
        self.drain(now);
    }

    /// Nobody is waited for any more: takes back in one message what was published, and stops.
    pub(crate) fn leave_now(&mut self, now: Time) {
        if self.state != State::Done {
            self.population.last_words(now, &mut self.io);
        }
        self.abort(now);
    }

    /// Stops at once.
    pub(crate) fn abort(&mut self, now: Time) {
        if self.state == State::Done {
            return;
        }
        self.next_arrival = None;
        self.population.interrupt(now, &mut self.io);
        self.drop_waiting(now);
        self.done(true, "aborted");
    }

    fn drop_waiting(&mut self, now: Time) {
        for held in std::mem::take(&mut self.waiting) {
            self.io.recorder.count(now, held.stage, Counter::NotStarted, 1);
        }
    }

    fn done(&mut self, interrupted: bool, reason: &str) {
        self.state = State::Done;
        self.count_last_lost(self.io.now, self.io.stage);
        let closed = self.io.recorder.close(i64::MAX);
        let failures = self.io.failures.take();
        self.events.push(Event::Seconds(closed, failures));
        self.events.push(Event::Done { interrupted, reason: reason.to_owned() });
    }

    /// Everything of the schedule that is due.
    pub(super) fn arrivals(&mut self, now: Time) {
        while let Some(arrival) = self.next_arrival {
            let intended = self.start + arrival.at;
            if self.state != State::Running || now < intended || now < self.held_until {
                return;
            }
            let Some(publisher) = self.ownership.publisher(arrival.k) else {
                self.next_arrival = self.schedule.next();
                continue;
            };
            if let Err(wait) = self.arrival_ceiling.take() {
                self.io.recorder.name(now, arrival.stage, "held_by_ceiling", "", 1);
                self.held_until = now + wait;
                return;
            }
            self.next_arrival = self.schedule.next();
            self.set_stage(arrival.stage);
            self.io.recorder.count(intended, arrival.stage, Counter::Offered, 1);
            if now.since(intended) > self.plan.deadline {
                // Nothing of the pool's lies between the schedule and here: the engine is the cause.
                self.io.recorder.count(now, arrival.stage, Counter::NotStarted, 1);
                self.io.recorder.name(now, arrival.stage, "not_started_late", "", 1);
                continue;
            }
            match self.plan.kind {
                Kind::Held => self.population.publish(now, publisher, intended, arrival.stage, &mut self.io),
                Kind::Workflow => self.arrive(now, publisher / 2, intended, arrival.stage),
            }
        }
    }

    /// A workflow arrives: its own pair if that is free, else the one that
    /// rested longest, else it waits.
    fn arrive(&mut self, now: Time, pair: u32, intended: Time, stage: Stage) {
        if self.waiting.is_empty() && self.has_room() {
            let free = if self.population.is_free(pair) { Some(pair) } else { self.longest_rested() };
            if let Some(pair) = free {
                let due = intended.max(self.rested_since[pair as usize]);
                return self.start_pair(now, pair, intended, due, stage);
            }
        }
        if self.waiting.len() >= MAX_WAITING {
            return self.io.recorder.count(now, stage, Counter::NotStarted, 1);
        }
        self.io.recorder.count(now, stage, Counter::WaitedPair, 1);
        self.waiting.push_back(Held { intended, stage });
    }

    fn has_room(&self) -> bool {
        self.population.tally().workflows < u64::from(self.plan.max_in_flight)
    }

    fn longest_rested(&mut self) -> Option<u32> {
        while let Some((pair, rest)) = self.rested.pop_front() {
            if self.rests[pair as usize] == rest && self.population.is_free(pair) {
                return Some(pair);
            }
        }
        None
    }

    fn start_pair(&mut self, now: Time, pair: u32, intended: Time, due: Time, stage: Stage) {
        // What the queue of rested pairs says about this pair is over.
        self.rests[pair as usize] = self.rests[pair as usize].wrapping_add(1);
        self.population.start_workflow(now, pair, intended, due, stage, &mut self.io);
    }

    /// Pairs that came to rest take what waits.
    pub(super) fn rest(&mut self) {
        let freed: smallvec::SmallVec<[(u32, Time); 8]> = self.population.take_freed().collect();
        for (pair, at) in freed {
            self.rested_since[pair as usize] = at;
            self.rested.push_back((pair, self.rests[pair as usize]));
            // Entries of older rests must not pile up.
            if self.rested.len() > 4 * self.rests.len() + 64 {
                let (rests, population) = (&self.rests, &self.population);
                self.rested
                    .retain(|(pair, rest)| rests[*pair as usize] == *rest && population.is_free(*pair));
            }
        }
        let now = self.io.now;
        while let Some(held) = self.waiting.front().copied() {
            if now.since(held.intended) > self.plan.deadline {
                self.waiting.pop_front();
                self.io.recorder.count(now, held.stage, Counter::NotStarted, 1);
                continue;
            }
            if !self.has_room() {
                return;
            }
            let Some(pair) = self.longest_rested() else { return };
            self.waiting.pop_front();
            let due = held.intended.max(self.rested_since[pair as usize]);
            self.start_pair(now, pair, held.intended, due, held.stage);
        }
    }
}

fn unknown(now: Time) -> FailureRow {
    FailureRow {
        stage: Stage::WARMUP,
        activity: Activity::Register,
        class: Class::Generator,
        code: "generator:not_ready".to_owned(),
        reason: "readiness was not reached and nothing failed".to_owned(),
        diagnosis: "this is a mistake of adsum: please report it with the scenario".to_owned(),
        who: String::new(),
        count: 1,
        first: now,
        last: now,
        transcript: None,
    }
}
