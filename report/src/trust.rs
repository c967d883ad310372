//! When a run is not to be believed: the tool accuses itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::headroom::{self, Busiest};
use crate::histogram::{Histogram, Percentile, Quantile};
use crate::manifest::Manifest;
use crate::names::{Cause, Metric, Phase};
use crate::raw::Raw;
use crate::threshold::{self, Unit};

/// Limits of belief; `None` is the profile's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustLimits {
    /// `lab` or `ci`.
    pub profile: String,
    /// Largest p99 of the send lag in a second.
    pub send_lag_p99_s: Option<f64>,
    /// Share of a hold's seconds that may exceed it.
    pub send_lag_seconds: Option<f64>,
    /// Longest gap of an engine's loop.
    pub loop_gap_s: Option<f64>,
    /// Least share of the arrivals that has to be sent.
    pub sent_ratio: Option<f64>,
    /// Largest share of arrivals that may wait for a free pair.
    pub waited_pair_ratio: Option<f64>,
    /// Largest share of a second that a shard's thread may run.
    pub shard_busy: Option<f64>,
    /// Largest share of the cores' time that the hypervisor may take in a second.
    pub steal: Option<f64>,
    /// Share of a hold's seconds that may exceed it.
    pub steal_seconds: Option<f64>,
}

impl Default for TrustLimits {
    fn default() -> Self {
        TrustLimits {
            profile: "lab".to_owned(),
            send_lag_p99_s: None,
            send_lag_seconds: None,
            loop_gap_s: None,
            sent_ratio: None,
            waited_pair_ratio: None,
            shard_busy: None,
            steal: None,
            steal_seconds: None,
        }
    }
}

/// One reason not to believe a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// In one word.
    pub reason: String,
    /// What was found.
    pub measured: String,
    /// What was allowed.
    pub limit: String,
    /// Which step, site or agent.
    #[serde(rename = "where")]
    pub place: String,
    /// What to do.
    pub advice: String,
}

impl Reason {
    pub(crate) fn new(cause: Cause, measured: String, limit: String, place: String) -> Self {
        let (reason, advice) = (cause.name().to_owned(), cause.advice().to_owned());
        Reason { reason, measured, limit, place, advice }
    }
}

impl TrustLimits {
    fn is_ci(&self) -> bool {
        self.profile == "ci"
    }

    /// The largest p99 of the send lag: 5 % of the smallest latency that a
    /// threshold asks for, at least 1 ms; 10 ms without one. Ten times that on
    /// shared runners.
    #[must_use]
    pub fn lag_limit_s(&self, manifest: &Manifest) -> f64 {
        if let Some(limit) = self.send_lag_p99_s {
            return limit;
        }
        let smallest = manifest
            .thresholds
            .iter()
            .filter_map(|rule| threshold::parse(&rule.expr).ok())
            .filter(|t| t.unit == Unit::Time)
            .filter(|t| t.stat.metric() != Some(Metric::SendLag))
            .map(|t| t.limit as f64 / 1e9)
            .reduce(f64::min);
        let limit = smallest.map_or(0.010, |bound| (bound * 0.05).max(0.001));
        if self.is_ci() { limit * 10.0 } else { limit }
    }

    /// The longest gap of a loop.
    #[must_use]
    pub fn gap_limit_s(&self) -> f64 {
        self.loop_gap_s.unwrap_or(if self.is_ci() { 1.0 } else { 0.25 })
    }
}

impl TrustLimits {
    /// The largest share of a second that a shard's thread may run: 90 %, on shared runners 98 %.
    #[must_use]
    pub fn busy_limit(&self) -> f64 {
        self.shard_busy.unwrap_or(if self.is_ci() { 0.98 } else { 0.9 })
    }

    /// The largest share of the cores' time that may be taken in a second, and the share of seconds
    /// that may exceed it: 1 % of each, on shared runners 10 %.
    #[must_use]
    pub fn steal_limits(&self) -> (f64, f64) {
        let profile = if self.is_ci() { 0.1 } else { 0.01 };
        (self.steal.unwrap_or(profile), self.steal_seconds.unwrap_or(profile))
    }
}

/// Judges every hold.
#[must_use]
pub fn judge(raw: &Raw, manifest: &Manifest) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let seconds = Seconds::of(raw, manifest);
    for (step, phase) in manifest.holds() {
        let place = format!("step {} ({})", step.step, step.name);
        let hold = Hold { raw, seconds: &seconds, manifest, step: step.step, place };
        hold.send_lag(phase.from_s, phase.to_s, &mut reasons);
        hold.loop_gap(&mut reasons);
        hold.shard_busy(&mut reasons);
        hold.steal(phase.from_s, phase.to_s, &mut reasons);
        hold.arrivals(&mut reasons);
        hold.losses(&mut reasons);
        hold.coverage(phase.from_s, phase.to_s, &mut reasons);
    }
    reasons
}

/// Second from the origin, agent, label, value.
type Row<'a> = (i64, &'a str, &'a str, u64);

/// What the judgement of a hold looks up second by second, of all holds in one pass.
struct Seconds<'a> {
    /// Counters whose single seconds count, by step and name.
    rows: BTreeMap<(u32, &'a str), Vec<Row<'a>>>,
    /// Seconds that each agent delivered.
    delivered: BTreeMap<&'a str, BTreeSet<i64>>,
    /// The send lag of all agents, by step and second.
    lags: BTreeMap<u32, BTreeMap<i64, Histogram>>,
    busiest: BTreeMap<u32, Busiest>,
}

impl<'a> Seconds<'a> {
    fn of(raw: &'a Raw, manifest: &Manifest) -> Self {
        let mut seconds = Seconds {
            rows: BTreeMap::new(),
            delivered: BTreeMap::new(),
            lags: BTreeMap::new(),
            busiest: headroom::busiest_of_holds(raw, manifest, manifest.trust.busy_limit()),
        };
        for ((second, step, phase, _, agent, counter, label), n) in raw.timeline() {
            if counter == "interval" {
                seconds.delivered.entry(agent).or_default().insert(*second);
            } else if *phase == Phase::Hold && ["loop_gap_ms", "steal_us"].contains(&counter.as_str()) {
                let row = (second - manifest.origin_unix_s, agent.as_str(), label.as_str(), *n);
                seconds.rows.entry((*step, counter)).or_default().push(row);
            }
        }
        for ((second, step, phase, _, metric, _), histogram) in &raw.seconds {
            if (*phase, *metric) == (Phase::Hold, Metric::SendLag) {
                seconds.lags.entry(*step).or_default().entry(*second).or_default().add(histogram);
            }
        }
        seconds
    }
}

struct Hold<'a> {
    raw: &'a Raw,
    seconds: &'a Seconds<'a>,
    manifest: &'a Manifest,
    step: u32,
    place: String,
}

impl<'a> Hold<'a> {
    fn total(&self, counter: &str) -> u64 {
        self.raw.total(self.step, Phase::Hold, None, counter, None)
    }

    fn push(&self, reasons: &mut Vec<Reason>, cause: Cause, measured: String, limit: String) {
        self.push_at(reasons, "", cause, measured, limit);
    }

    /// `who` names what of the step it was: an agent, a shard, a second.
    fn push_at(&self, reasons: &mut Vec<Reason>, who: &str, cause: Cause, measured: String, limit: String) {
        let place = if who.is_empty() { self.place.clone() } else { format!("{}, {who}", self.place) };
        reasons.push(Reason::new(cause, measured, limit, place));
    }

    /// Rows of a counter in this hold.
    fn rows(&self, counter: &'static str) -> impl Iterator<Item = Row<'a>> {
        self.seconds.rows.get(&(self.step, counter)).into_iter().flatten().copied()
    }

    /// The agents that a counter names, with their sums.
    fn by_agent(&self, counter: &str) -> String {
        let sums = self.raw.totals_by_agent(self.step, Phase::Hold, counter);
        let all: Vec<String> = sums.iter().map(|(agent, n)| format!("agent {agent}: {n}")).collect();
        all.join(", ")
    }

    /// By the second in which they were sent, also behind the end of the hold: those are the latest.
    fn send_lag(&self, from_s: f64, to_s: f64, reasons: &mut Vec<Reason>) {
        let limit = self.manifest.trust.lag_limit_s(self.manifest);
        let (mut late, mut worst, mut worst_at) = (0u64, 0f64, 0);
        let seconds = (to_s.ceil() - from_s.floor()).max(1.0) as i64;
        for (second, sum) in self.seconds.lags.get(&self.step).into_iter().flatten() {
            if let Percentile::Value(us) = sum.at_rank(Quantile(990_000_000), 0) {
                let lag = us as f64 / 1e6;
                if lag > worst {
                    (worst, worst_at) = (lag, second - self.manifest.origin_unix_s);
                }
                late += u64::from(lag > limit);
            }
        }
        let share = self.manifest.trust.send_lag_seconds.unwrap_or(0.01);
        // A single second is more than one in a hundred of a short hold: what counts is that it stands out.
        if late as f64 > (seconds as f64 * share).floor() {
            self.push_at(
                reasons,
                &format!("second {worst_at}"),
                Cause::SendLag,
                format!("p99 above the limit in {late} of {seconds} seconds, at worst {:.1} ms", worst * 1e3),
                format!("{:.1} ms, in at most {:.1} % of the seconds", limit * 1e3, share * 100.0),
            );
        }
    }

    fn loop_gap(&self, reasons: &mut Vec<Reason>) {
        let limit = self.manifest.trust.gap_limit_s();
        // Gaps of a second are added up: of the usual quarter of a second that is the longest one, or a
        // little more. Shorter ones are counted only where the limit is as short, and then each breaks it.
        let Some((t_s, agent, shard, ms)) = self.rows("loop_gap_ms").max_by_key(|row| row.3) else { return };
        let longest = ms as f64 / 1e3;
        if longest < limit {
            return;
        }
        let gaps = self.total("loop_gap");
        self.push_at(
            reasons,
            &format!("second {t_s}, {}", whose(agent, shard)),
            Cause::LoopGap,
            format!("{gaps} gaps, together {longest:.3} s in the worst second"),
            format!("none of {:.0} ms or more", limit * 1e3),
        );
    }

    fn shard_busy(&self, reasons: &mut Vec<Reason>) {
        let limit = self.manifest.trust.busy_limit();
        let Some(busiest) = self.seconds.busiest.get(&self.step) else { return };
        if busiest.above == 0 {
            return;
        }
        self.push_at(
            reasons,
            &format!("second {}, {}", busiest.t_s, whose(&busiest.agent, &busiest.shard)),
            Cause::ShardBusy,
            format!(
                "{} of {} seconds of shards above the limit, at worst {:.0} % of a core",
                busiest.above,
                busiest.of,
                busiest.ratio * 100.0
            ),
            format!("{:.0} % of a core in any second", limit * 100.0),
        );
    }

    /// The limits hold for each agent's host by itself.
    fn steal(&self, from_s: f64, to_s: f64, reasons: &mut Vec<Reason>) {
        let (limit, share) = self.manifest.trust.steal_limits();
        let seconds = (to_s - from_s).max(1.0) as i64;
        for agent in &self.manifest.agents {
            let cores = f64::from(agent.cores.max(1));
            let mut above = 0u64;
            let mut worst = (0f64, 0i64);
            for (t_s, _, _, us) in self.rows("steal_us").filter(|row| row.1 == agent.name) {
                let taken = us as f64 / 1e6 / cores;
                above += u64::from(taken > limit);
                if taken > worst.0 {
                    worst = (taken, t_s);
                }
            }
            if above as f64 > (seconds as f64 * share).floor() {
                self.push_at(
                    reasons,
                    &format!("second {}, agent {}", worst.1, agent.name),
                    Cause::Steal,
                    format!(
                        "above the limit in {above} of {seconds} seconds, at worst {:.1} % of {} cores",
                        worst.0 * 100.0,
                        agent.cores.max(1)
                    ),
                    format!(
                        "{} of the cores' time, in at most {} of the seconds",
                        percent(limit),
                        percent(share)
                    ),
                );
            }
        }
    }

    fn arrivals(&self, reasons: &mut Vec<Reason>) {
        let (offered, pair) = (self.total("offered"), self.total("waited_pair"));
        if offered == 0 {
            return self.push(reasons, Cause::NoData, "no arrival was offered".into(), "some".into());
        }
        let limit = self.manifest.trust.sent_ratio.unwrap_or(0.99);
        // What waited for the pool, or for a user, was not the engine's to start.
        let ours = self.total("not_started_late");
        let sent = 1.0 - ours as f64 / offered as f64;
        if sent < limit {
            self.push_at(
                reasons,
                &self.by_agent("not_started_late"),
                Cause::NotStarted,
                format!(
                    "{ours} of {offered} arrivals were never sent and the engine is the cause: {:.2} % sent",
                    sent * 100.0
                ),
                format!("{:.0} %", limit * 100.0),
            );
        }
        let limit = self.manifest.trust.waited_pair_ratio.unwrap_or(0.01);
        if pair as f64 > offered as f64 * limit {
            self.push(
                reasons,
                Cause::TooFewUsers,
                format!(
                    "{:.2} % of the arrivals waited for a free pair",
                    pair as f64 / offered as f64 * 100.0
                ),
                format!("{:.0} %", limit * 100.0),
            );
        }
    }

    fn losses(&self, reasons: &mut Vec<Reason>) {
        let causes =
            [Cause::RxDropped, Cause::Overflow, Cause::ClockStep, Cause::OutOfFiles, Cause::OutOfPorts];
        for cause in causes {
            // Each is named like its counter.
            let n = self.total(cause.name());
            if n > 0 {
                let who = self.by_agent(cause.name());
                self.push_at(reasons, &who, cause, n.to_string(), "0".to_owned());
            }
        }
    }

    /// Every agent has to have delivered every whole second of the hold, whatever it was booked to.
    fn coverage(&self, from_s: f64, to_s: f64, reasons: &mut Vec<Reason>) {
        let origin = self.manifest.origin_unix_s;
        let wanted = origin + from_s.ceil() as i64..origin + to_s.floor() as i64;
        let length = wanted.end.saturating_sub(wanted.start).max(0) as u64;
        for agent in &self.manifest.agents {
            let got = self.seconds.delivered.get(agent.name.as_str()).map_or(0, |seconds| {
                if wanted.is_empty() { 0 } else { seconds.range(wanted.clone()).count() as u64 }
            });
            if got < length {
                self.push(
                    reasons,
                    Cause::LostInterval,
                    format!("agent {} delivered {got} of {length} seconds", agent.name),
                    "all".to_owned(),
                );
            }
        }
    }
}

fn whose(agent: &str, shard: &str) -> String {
    if shard.is_empty() { format!("agent {agent}") } else { format!("{shard} of agent {agent}") }
}

fn percent(ratio: f64) -> String {
    format!("{} %", (ratio * 1e5).round() / 1e3)
}
