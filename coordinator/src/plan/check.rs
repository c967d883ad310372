//! What a scenario would do, worked out before any traffic: the text of
//! `scenario check` and `run --dry-run`.
//!
//! Everything here is arithmetic over the scenario. Where an assumption goes
//! in, the text says which.

mod text;

pub use text::text;

use super::timeline::{Phase, arrivals, length_ns, log_on_ns};
use crate::scenario::quantity::{SECOND_NS, WHOLE_PPB};
use crate::scenario::{Connections, Dialect, Distribution, Kind, Scenario, Scheme, Transport};
use crate::users::Population;

/// A server need not notify of one publisher more often than this (RFC 3856 §6.10).
pub const NOTIFY_INTERVAL_S: u64 = 5;
/// How long a workflow is taken to last, log-off included, where nobody has measured it.
pub const ASSUMED_WORKFLOW_S: u64 = 2;
/// A percentile is shown if that many samples lie above it.
pub const SAMPLES_ABOVE: u64 = 10;
/// Ports that Linux gives out for one local address and one destination (32768 to 60999).
pub const PORTS_PER_ADDRESS: u64 = 28_232;

/// Seconds that Lync Server 2013 grants a registration and a subscription, unless its policies say
/// otherwise (New-CsRegistrarConfiguration, New-CsUserServicesConfiguration).
const LYNC_REGISTERED_S: u64 = 600;
const LYNC_SUBSCRIBED_S: u64 = 28_800;

/// Sockets of a shard for UDP: a few connected ones, and one that is not beside each.
const UDP_SOCKETS_PER_SHARD: u64 = 8;
/// Sockets of a shard when users share streams.
const SHARED_STREAMS_PER_SHARD: u64 = 4;
/// Bytes of a user with its dialogs and templates' values, as one of a pair.
const USER_BYTES: u64 = 512;
/// Bytes of a dialog more, its timer and its place in the contact graph included.
const DIALOG_BYTES: u64 = 192;
/// Bytes that a user of the dialect `lync` has more: its endpoint with GRUU and versions, its security
/// association, and the dialog that carries its contact list.
const LYNC_BYTES: u64 = 640;
/// Bytes of a connection, the kernel's part included.
const TCP_BYTES: u64 = 5_700;
const TLS_BYTES: u64 = 9_800;
/// The same with OpenSSL, whose sessions are larger by 31 kB (2,000 held users, TLS 1.3).
const LEGACY_TLS_BYTES: u64 = 42_000;
/// Bytes of an agent before it has users: program, histograms of a shard, buffers.
const AGENT_BYTES: u64 = 64 * 1024 * 1024;

/// A plan in figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Each step.
    pub steps: Vec<StepCheck>,
    /// Messages of one arrival, requests and responses, in the long run; with a contact graph on average, rounded up.
    pub messages_per_arrival: u64,
    /// The same while no nonce is known yet.
    pub messages_first: u64,
    /// How many pairs there are.
    pub pairs: u64,
    /// Pairs that the highest rate needs under the stated assumption.
    pub pairs_needed: u64,
    /// Users that publish: one of each pair, or everybody.
    pub publishers: u64,
    /// Users' subscriptions to others, about.
    pub subscriptions: u64,
    /// Highest rate of all steps.
    pub peak_mhz: u64,
    /// Nanoseconds between two publications of one publisher at the highest rate.
    pub publication_gap_ns: u64,
    /// Sockets of all agents together.
    pub sockets: u64,
    /// Local ports that there are for them on one agent, if streams need any.
    pub ports: Option<u64>,
    /// Bytes of all agents together, about.
    pub memory: u64,
    /// The whole run, about: log-on, settling, steps, drain.
    pub total_ns: u64,
    /// The part of it before the first arrival.
    pub warmup_ns: u64,
    /// The part of it behind the last one.
    pub drain_ns: u64,
    /// What each gated percentile rests on.
    pub percentiles: Vec<PercentileCheck>,
    /// What is likely to spoil the run.
    pub warnings: Vec<String>,
}

/// A step in figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepCheck {
    /// Its name.
    pub name: String,
    /// Its rate.
    pub rate_mhz: u64,
    /// Length of its ramp.
    pub ramp_ns: u64,
    /// Length of its hold.
    pub hold_ns: u64,
    /// Arrivals of its ramp.
    pub ramp_arrivals: u64,
    /// Arrivals of its hold.
    pub hold_arrivals: u64,
    /// Messages per second to and from the pool in its hold.
    pub messages_per_s: u64,
}

/// A percentile that a threshold asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PercentileCheck {
    /// The threshold's expression.
    pub expr: String,
    /// The step.
    pub step: String,
    /// Samples of its hold, if everything succeeds.
    pub samples: u64,
    /// Samples that it takes to be judged.
    pub needed: u64,
}

impl PercentileCheck {
    /// True if there will be enough samples.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.samples >= self.needed
    }
}

/// Works a plan out for so many agents, each with so many shards.
#[must_use]
pub fn check(scenario: &Scenario, population: &Population, agents: u64, shards: u64) -> Check {
    let (messages_milli, first_milli) = messages(scenario);
    let publishers = publishers(scenario, population);
    let steps: Vec<StepCheck> = scenario
        .steps
        .iter()
        .zip(arrivals(scenario))
        .map(|(step, (ramp_arrivals, hold_arrivals))| StepCheck {
            name: step.name.clone(),
            rate_mhz: step.rate_mhz,
            ramp_ns: step.ramp_ns,
            hold_ns: step.hold_ns,
            ramp_arrivals,
            hold_arrivals,
            messages_per_s: per_second_milli(step.rate_mhz, messages_milli)
                + refreshes_per_s(scenario, population, step.rate_mhz),
        })
        .collect();
    let peak_mhz = scenario.steps.iter().map(|step| step.rate_mhz).max().unwrap_or(0);
    let users = population.users();
    let sockets = sockets(scenario, users, agents, shards);
    let (warmup_ns, drain_ns) = outer(scenario, population);
    let needed = match scenario.workload.kind {
        Kind::Workflow => per_second(peak_mhz, ASSUMED_WORKFLOW_S),
        Kind::Held => per_second(peak_mhz, NOTIFY_INTERVAL_S),
    };
    let mut check = Check {
        messages_per_arrival: messages_milli.div_ceil(1_000),
        messages_first: first_milli.div_ceil(1_000),
        pairs: population.pairs,
        // Of a pair one publishes, or both.
        pairs_needed: if scenario.workload.fan_out.is_some() { needed.div_ceil(2) } else { needed },
        publishers,
        subscriptions: subscriptions(scenario, population),
        peak_mhz,
        publication_gap_ns: gap(publishers, peak_mhz),
        sockets,
        ports: ports(scenario, users),
        memory: memory(scenario, population, agents),
        total_ns: warmup_ns.saturating_add(length_ns(scenario)).saturating_add(drain_ns),
        warmup_ns,
        drain_ns,
        percentiles: percentiles(scenario, population, &steps),
        steps,
        warnings: Vec::new(),
    };
    check.warnings = warnings(scenario, &check, users, agents);
    check.warnings.extend(small_shards(scenario, population, agents, shards));
    check
}

/// Subscribers of a publisher on average, in thousandths; one in a pair.
fn fan_out_milli(scenario: &Scenario) -> u64 {
    scenario.workload.fan_out.map_or(1_000, |fan_out| fan_out.mean_milli)
}

fn publishers(scenario: &Scenario, population: &Population) -> u64 {
    if scenario.workload.fan_out.is_some() { population.users() } else { population.pairs }
}

/// Subscriptions to others: as many as publishers have subscribers, rounded to the nearest.
fn subscriptions(scenario: &Scenario, population: &Population) -> u64 {
    let milli = u128::from(publishers(scenario, population)) * u128::from(fan_out_milli(scenario));
    u64::try_from((milli + 500) / 1_000).unwrap_or(u64::MAX)
}

/// Messages of one arrival in thousandths: once nonces are known, and before.
///
/// A workflow has 8 requests of its own (REGISTER, SUBSCRIBE, PUBLISH and
/// their ends) and 3 NOTIFYs; subscriptions to oneself add 4 requests and 5
/// NOTIFYs. A publication of held users has a NOTIFY for each subscriber. A
/// challenge (RFC 3261 §22) sends a request twice.
fn messages(scenario: &Scenario) -> (u64, u64) {
    let own = scenario.workload.self_subscribe;
    let watchers = fan_out_milli(scenario);
    if scenario.dialect == Dialect::Lync {
        return lync_messages(scenario, own, watchers);
    }
    let (requests, notifies, users) = match (scenario.workload.kind, own) {
        (Kind::Workflow, false) => (8_000, 3_000, 2_000),
        (Kind::Workflow, true) => (12_000, 8_000, 2_000),
        (Kind::Held, false) => (1_000, watchers, 1_000),
        (Kind::Held, true) => (1_000, watchers + 1_000, 1_000),
    };
    let plain = 2 * (requests + notifies);
    match (scenario.auth.scheme, scenario.auth.reuse_nonce) {
        (Scheme::Trusted, _) => (plain, plain),
        (_, false) => (plain + 2 * requests, plain + 2 * requests),
        // Users of a held run have had their challenge at log-on.
        (_, true) if scenario.workload.kind == Kind::Held => (plain, plain),
        (_, true) => (plain, plain + 2 * users),
    }
}

/// The same in the dialect `lync`, where first notifications travel in answers, nobody answers a
/// BENOTIFY, both users publish that they are there, and whoever publishes is told of it.
fn lync_messages(scenario: &Scenario, own: bool, watchers: u64) -> (u64, u64) {
    let kind = scenario.workload.kind;
    let (requests, benotifies) = match (kind, own) {
        (Kind::Workflow, false) => (10_000, 1_000),
        (Kind::Workflow, true) => (14_000, 4_000),
        (Kind::Held, false) => (1_000, watchers),
        (Kind::Held, true) => (1_000, watchers + 1_000),
    };
    let plain = 2 * requests + benotifies;
    match (scenario.auth.scheme, scenario.auth.reuse_nonce, kind) {
        (Scheme::Trusted, ..) => (plain, plain),
        (Scheme::Digest, false, _) => (plain + 2 * requests, plain + 2 * requests),
        (Scheme::Digest, true, Kind::Workflow) => (plain, plain + 2 * 2_000),
        // NTLM challenges a REGISTER twice, and nothing after it ([MS-SIPAE]).
        (Scheme::Auto | Scheme::Ntlm, _, Kind::Workflow) => (plain + 4 * 2_000, plain + 4 * 2_000),
        (_, _, Kind::Held) => (plain, plain),
    }
}

/// Held users renew registration, subscriptions and publication once in a lifetime, at least.
fn refreshes_per_s(scenario: &Scenario, population: &Population, mhz: u64) -> u64 {
    if scenario.workload.kind == Kind::Workflow {
        return 0;
    }
    let own = u64::from(scenario.workload.self_subscribe);
    if scenario.dialect == Dialect::Lync {
        // Requests and responses: a contact list is one dialog, and nothing that is published expires.
        let watchers =
            if scenario.workload.fan_out.is_some() { population.users() } else { population.pairs };
        let dialogs = watchers.saturating_add(own * population.users());
        return population.users().saturating_mul(2) / LYNC_REGISTERED_S
            + dialogs.saturating_mul(2) / LYNC_SUBSCRIBED_S;
    }
    let expires_s = u64::from(scenario.workload.expires_s.max(1));
    // Requests and responses: a registration, a subscription and its NOTIFY.
    let registrations = population.users().saturating_mul(2);
    let subscriptions =
        (subscriptions(scenario, population) + own * population.users()).saturating_mul(2 + 2);
    // A publication that nothing replaces in time is refreshed, too, and nobody is told (RFC 3903 section 4.3).
    let publishers = publishers(scenario, population);
    let idle = gap(publishers, mhz) > expires_s.saturating_mul(SECOND_NS);
    let publications = if idle { publishers.saturating_mul(2) } else { 0 };
    registrations.saturating_add(subscriptions).saturating_add(publications) / expires_s
}

/// So many arrivals a second with so many thousandths of something each, rounded up.
fn per_second_milli(mhz: u64, each_milli: u64) -> u64 {
    u64::try_from((u128::from(mhz) * u128::from(each_milli)).div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn per_second(mhz: u64, each: u64) -> u64 {
    u64::try_from((u128::from(mhz) * u128::from(each)).div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// Nanoseconds between two arrivals of the same pair or publisher.
fn gap(owners: u64, mhz: u64) -> u64 {
    let ns = u128::from(owners) * u128::from(SECOND_NS) * 1_000 / u128::from(mhz.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

fn is_per_user(scenario: &Scenario) -> bool {
    scenario.pool.transport != Transport::Udp && scenario.pool.connections == Connections::PerUser
}

fn sockets(scenario: &Scenario, users: u64, agents: u64, shards: u64) -> u64 {
    let of_shards = agents.saturating_mul(shards);
    match scenario.pool.transport {
        Transport::Udp => of_shards.saturating_mul(UDP_SOCKETS_PER_SHARD),
        _ if is_per_user(scenario) => users,
        _ => of_shards.saturating_mul(SHARED_STREAMS_PER_SHARD),
    }
}

/// Streams to one destination take a local port each.
fn ports(scenario: &Scenario, users: u64) -> Option<u64> {
    use crate::scenario::network::SourceRange;
    if !is_per_user(scenario) || users == 0 {
        return None;
    }
    let ranges = scenario.pool.source.iter().filter_map(|text| SourceRange::parse(text).ok());
    let addresses: u128 = ranges.map(|range| range.len()).sum();
    let addresses = u64::try_from(addresses).unwrap_or(u64::MAX).max(1);
    Some(addresses.saturating_mul(PORTS_PER_ADDRESS))
}

fn memory(scenario: &Scenario, population: &Population, agents: u64) -> u64 {
    let users = population.users();
    // The one dialog of a pair is part of its users.
    let dialogs = subscriptions(scenario, population).saturating_sub(population.pairs);
    let connection = match scenario.pool.transport {
        _ if !is_per_user(scenario) => 0,
        Transport::Tls if scenario.pool.tls.legacy => LEGACY_TLS_BYTES,
        Transport::Tls => TLS_BYTES,
        _ => TCP_BYTES,
    };
    let dialect = if scenario.dialect == Dialect::Lync { LYNC_BYTES } else { 0 };
    agents
        .saturating_mul(AGENT_BYTES)
        .saturating_add(users.saturating_mul(USER_BYTES + dialect + connection))
        .saturating_add(dialogs.saturating_mul(DIALOG_BYTES))
}

/// Time before the first arrival and behind the last one, if the pool keeps up.
fn outer(scenario: &Scenario, population: &Population) -> (u64, u64) {
    let warmup = &scenario.warmup;
    match scenario.workload.kind {
        Kind::Workflow => {
            // One unmeasured workflow for each shard proves readiness.
            let proof = ASSUMED_WORKFLOW_S * SECOND_NS;
            (proof.saturating_add(warmup.settle_ns), scenario.workload.deadline_ns.min(proof))
        }
        Kind::Held => {
            let (log_on, log_off) = log_on_ns(scenario, population.users());
            (log_on.saturating_add(warmup.settle_ns), log_off)
        }
    }
}

/// Each percentile that a threshold asks for, at each step where it is judged.
fn percentiles(scenario: &Scenario, population: &Population, steps: &[StepCheck]) -> Vec<PercentileCheck> {
    let mut all = Vec::new();
    for threshold in &scenario.thresholds {
        let Some((metric, ppb)) = percentile_of(&threshold.expr) else { continue };
        if let Some(step) = &threshold.step
            && step == Phase::Warmup.name()
            && let Some(samples) = samples_of_log_on(scenario, population, metric)
        {
            let expr = threshold.expr.clone();
            all.push(PercentileCheck { expr, step: step.clone(), samples, needed: needed(ppb) });
        }
        let judged =
            steps.iter().filter(|step| threshold.step.as_ref().is_none_or(|name| *name == step.name));
        for step in judged {
            let Some(each_milli) = samples_per_arrival(scenario, metric) else { continue };
            let samples = u128::from(step.hold_arrivals) * u128::from(each_milli) / 1_000;
            all.push(PercentileCheck {
                expr: threshold.expr.clone(),
                step: step.name.clone(),
                samples: u64::try_from(samples).unwrap_or(u64::MAX),
                needed: needed(ppb),
            });
        }
    }
    all
}

/// `publish_to_notify.p99 < 250ms` is the 0.99 of `publish_to_notify`.
fn percentile_of(expr: &str) -> Option<(&str, u64)> {
    let (metric, rest) = expr.trim().split_once(".p")?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let digits = rest.get(..end)?;
    // p999 is an old way to write p99.9.
    let text = match digits.split_once('.') {
        Some(_) => digits.to_owned(),
        None if digits.len() > 2 => format!("{}.{}", &digits[..2], &digits[2..]),
        None => digits.to_owned(),
    };
    let ppb = crate::scenario::quantity::fraction(&text, WHOLE_PPB / 100).ok()?;
    (ppb > 0 && ppb < WHOLE_PPB).then_some((metric, ppb))
}

/// Samples so that [`SAMPLES_ABOVE`] of them lie above the percentile.
fn needed(ppb: u64) -> u64 {
    (SAMPLES_ABOVE * WHOLE_PPB).div_ceil(WHOLE_PPB - ppb)
}

/// Samples of a metric that the log-on of held users makes; `None` for others.
fn samples_of_log_on(scenario: &Scenario, population: &Population, metric: &str) -> Option<u64> {
    let own = u64::from(scenario.workload.self_subscribe);
    match (scenario.workload.kind, metric) {
        (Kind::Workflow, _) => None,
        (_, "register") => Some(population.users()),
        (_, "self_subscribe") => Some(own * population.users()),
        // Everybody who publishes does it once, to show that all are told.
        (_, "publish") => Some(publishers(scenario, population)),
        (_, "subscribe" | "subscribe_to_notify" | "publish_to_notify") => {
            Some(subscriptions(scenario, population))
        }
        _ => None,
    }
}

/// Samples of a metric that one arrival makes, in thousandths; `None` for metrics that depend on other things.
fn samples_per_arrival(scenario: &Scenario, metric: &str) -> Option<u64> {
    whole_samples_per_arrival(scenario, metric).map(|samples| samples * 1_000).or_else(|| match metric {
        "publish_to_notify" => Some(fan_out_milli(scenario)),
        // One of each publication that several are told of: of some distributions the drawing decides.
        "notify_fanout_last" => {
            let fan_out = scenario.workload.fan_out?;
            let all = fan_out.distribution == Distribution::Constant && fan_out.mean_milli >= 2_000;
            all.then_some(1_000)
        }
        _ => None,
    })
}

fn whole_samples_per_arrival(scenario: &Scenario, metric: &str) -> Option<u64> {
    let own = scenario.workload.self_subscribe;
    match (scenario.workload.kind, metric) {
        (_, "publish" | "send_lag") => Some(1),
        (Kind::Workflow, "workflow") => Some(1),
        (Kind::Workflow, "register" | "unregister") => Some(2),
        (Kind::Workflow, "self_subscribe") => Some(if own { 2 } else { 0 }),
        // Subscriptions to oneself have dialogs of their own.
        (Kind::Workflow, "subscribe" | "subscribe_to_notify" | "unsubscribe") => Some(1),
        (Kind::Workflow, "connect") => Some(if is_per_user(scenario) { 2 } else { 0 }),
        // In held runs log-on lies in the warm-up: nothing of it in a hold.
        (Kind::Held, "register" | "subscribe" | "subscribe_to_notify" | "self_subscribe" | "workflow") => {
            Some(0)
        }
        _ => None,
    }
}

/// A graph is drawn inside a shard, so the smallest one must have more users than a publisher has subscribers.
fn small_shards(scenario: &Scenario, population: &Population, agents: u64, shards: u64) -> Option<String> {
    let max = scenario.workload.fan_out?.max;
    let users = population.pairs / agents.saturating_mul(shards).max(1) * 2;
    (u64::from(max) >= users).then(|| {
        format!(
            "workload.fan_out.max = {max} subscribers of one publisher need more users than a shard has, and with \
             {agents} x {shards} shards that is {users}: give more users, a smaller max, or fewer shards"
        )
    })
}

fn warnings(scenario: &Scenario, check: &Check, users: u64, agents: u64) -> Vec<String> {
    use crate::scenario::quantity::{duration_text, rate_text};
    let mut warnings = Vec::new();
    let gap = text::seconds(check.publication_gap_ns);
    match scenario.workload.kind {
        Kind::Workflow if check.pairs < check.pairs_needed => warnings.push(format!(
            "{} pairs carry {} only while a workflow lasts at most {gap}; beyond it arrivals wait (too_few_users). \
             With workflows of {ASSUMED_WORKFLOW_S} s it takes {} pairs: count = {}",
            check.pairs,
            rate_text(check.peak_mhz),
            check.pairs_needed,
            check.pairs_needed * 2,
        )),
        Kind::Held if check.pairs < check.pairs_needed => warnings.push(format!(
            "each publisher publishes every {gap}, and a server may notify every {NOTIFY_INTERVAL_S} s only \
             (RFC 3856 section 6.10): expect superseded states. Use count >= {} or a rate of at most {}",
            check.pairs_needed * 2,
            rate_text(check.publishers.saturating_mul(1_000) / NOTIFY_INTERVAL_S),
        )),
        _ => {}
    }
    if let Some(ports) = check.ports {
        let most = users.div_ceil(agents.max(1));
        if most > ports {
            warnings.push(format!(
                "an agent would open {most} connections, and its local addresses have about {ports} ports for one \
                 destination: give more addresses in pool.source, share connections, or use more agents"
            ));
        }
    }
    if let Some(limit) = scenario.safety.max_rate_mhz
        && limit < check.peak_mhz
    {
        warnings.push(format!(
            "safety.max_rate {} lies below the highest rate {}: arrivals will be late or not started",
            rate_text(limit),
            rate_text(check.peak_mhz)
        ));
    }
    for percentile in check.percentiles.iter().filter(|percentile| !percentile.is_shown()) {
        warnings.push(format!(
            "`{}` rests on {} samples at step {} and takes {}: it will not be judged, and the run be untrustworthy",
            percentile.expr, percentile.samples, percentile.step, percentile.needed
        ));
    }
    let (lifetime_s, whose) = match scenario.dialect {
        Dialect::Simple => (u64::from(scenario.workload.expires_s), "expires = "),
        Dialect::Lync => (LYNC_REGISTERED_S, "what Lync servers mostly grant a registration, "),
    };
    if scenario.workload.kind == Kind::Held
        && lifetime_s * SECOND_NS < check.total_ns
        && check.messages_per_arrival > 0
    {
        warnings.push(format!(
            "the run outlasts {whose}{}: refreshes are part of its load",
            duration_text(lifetime_s * SECOND_NS)
        ));
    }
    if scenario
        .workload
        .max_in_flight
        .is_some_and(|most| u64::from(most) < check.pairs_needed.min(check.pairs))
        && scenario.workload.kind == Kind::Workflow
    {
        warnings.push(
            "workload.max_in_flight is less than the highest rate is likely to need: arrivals will wait"
                .into(),
        );
    }
    let tls = &scenario.pool.tls;
    let any_tls = tls.ca.is_some() || tls.cert.is_some() || tls.server_name.is_some() || tls.legacy;
    if scenario.pool.transport != Transport::Tls && any_tls {
        warnings.push(format!("pool.tls has no effect with transport = \"{}\"", scenario.pool.transport));
    }
    warnings
}
