//! When a run is not to be believed: the tool accuses itself.

use serde::{Deserialize, Serialize};

use crate::histogram::{Percentile, Quantile};
use crate::manifest::Manifest;
use crate::names::{Base, Metric, Phase};
use crate::raw::Raw;
use crate::threshold::{self, Stat, Unit};

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
            .filter(|t| !matches!(t.stat, Stat::Percentile(Metric::SendLag, _)))
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

/// Judges every hold.
#[must_use]
pub fn judge(raw: &Raw, manifest: &Manifest) -> Vec<Reason> {
    let mut reasons = Vec::new();
    for (step, phase) in manifest.holds() {
        let place = format!("step {} ({})", step.step, step.name);
        let hold = Hold { raw, manifest, step: step.step, place };
        hold.send_lag(phase.from_s, phase.to_s, &mut reasons);
        hold.loop_gap(&mut reasons);
        hold.arrivals(&mut reasons);
        hold.losses(&mut reasons);
        hold.coverage(phase.from_s, phase.to_s, &mut reasons);
    }
    reasons
}

struct Hold<'a> {
    raw: &'a Raw,
    manifest: &'a Manifest,
    step: u32,
    place: String,
}

impl Hold<'_> {
    fn total(&self, counter: &str) -> u64 {
        self.raw.total(self.step, Phase::Hold, None, counter, None)
    }

    fn push(&self, reasons: &mut Vec<Reason>, reason: &str, measured: String, limit: String, advice: &str) {
        reasons.push(Reason {
            reason: reason.to_owned(),
            measured,
            limit,
            place: self.place.clone(),
            advice: advice.to_owned(),
        });
    }

    fn send_lag(&self, from_s: f64, to_s: f64, reasons: &mut Vec<Reason>) {
        let limit = self.manifest.trust.lag_limit_s(self.manifest);
        let origin = self.manifest.origin_unix_s;
        let (mut late, mut worst) = (0u64, 0f64);
        let seconds = (to_s - from_s).max(1.0) as i64;
        for second in origin + from_s as i64..origin + to_s as i64 {
            let mut sum = crate::histogram::Histogram::new();
            for ((at, step, phase, _, metric, base), histogram) in self
                .raw
                .seconds
                .range((second, self.step, Phase::Hold, String::new(), Metric::Connect, Base::Scheduled)..)
            {
                if (*at, *step, *phase) != (second, self.step, Phase::Hold) {
                    break;
                }
                if *metric == Metric::SendLag && *base == Base::None {
                    sum.add(histogram);
                }
            }
            if let Percentile::Value(us) = sum.at_rank(Quantile(990_000_000), 0) {
                let lag = us as f64 / 1e6;
                worst = worst.max(lag);
                late += u64::from(lag > limit);
            }
        }
        let share = self.manifest.trust.send_lag_seconds.unwrap_or(0.01);
        // A single second is more than one in a hundred of a short hold: what counts is that it stands out.
        if late as f64 > (seconds as f64 * share).floor().max(0.0) && late > 0 {
            self.push(
                reasons,
                "send_lag",
                format!("p99 above the limit in {late} of {seconds} seconds, at worst {:.1} ms", worst * 1e3),
                format!("{:.1} ms, in at most {:.1} % of the seconds", limit * 1e3, share * 100.0),
                "the engine itself was late: free a core for it, lower the rate, or use more agents",
            );
        }
    }

    fn loop_gap(&self, reasons: &mut Vec<Reason>) {
        let gaps = self.total("loop_gap");
        let longest = self.total("loop_gap_ms") as f64 / 1e3;
        let limit = self.manifest.trust.gap_limit_s();
        if gaps > 0 && longest >= limit {
            self.push(
                reasons,
                "loop_gap",
                format!("{gaps} gaps, together {longest:.3} s"),
                format!("none of {:.0} ms or more", limit * 1e3),
                "the engine did not run for that long: something stopped it, or took its core away",
            );
        }
    }

    fn arrivals(&self, reasons: &mut Vec<Reason>) {
        let (offered, not_started) = (self.total("offered"), self.total("not_started"));
        let (pair, publication) = (self.total("waited_pair"), self.total("waited_publication"));
        if offered == 0 {
            return self.push(
                reasons,
                "no_data",
                "no arrival was offered".into(),
                "some".into(),
                "the hold did not take place",
            );
        }
        let limit = self.manifest.trust.sent_ratio.unwrap_or(0.99);
        let sent = 1.0 - not_started as f64 / offered as f64;
        if sent < limit && pair == 0 && publication == 0 {
            self.push(
                reasons,
                "not_started",
                format!("{:.2} % of the arrivals were sent", sent * 100.0),
                format!("{:.0} %", limit * 100.0),
                "the engine could not start them in time: lower the rate, raise a ceiling, or use more agents",
            );
        }
        let limit = self.manifest.trust.waited_pair_ratio.unwrap_or(0.01);
        if pair as f64 > offered as f64 * limit {
            self.push(
                reasons,
                "too_few_users",
                format!(
                    "{:.2} % of the arrivals waited for a free pair",
                    pair as f64 / offered as f64 * 100.0
                ),
                format!("{:.0} %", limit * 100.0),
                "a run needs at least as many pairs as rate times the slowest workflow: give more users",
            );
        }
    }

    fn losses(&self, reasons: &mut Vec<Reason>) {
        let advice = [
            (
                "rx_dropped",
                "datagrams were lost in this host's receive buffer: raise net.core.rmem_max, or use more agents",
            ),
            ("overflow", "latencies beyond an hour do not fit the histograms"),
            ("clock_step", "the wall clock jumped: stop whatever sets it during a run"),
        ];
        for (counter, advice) in advice {
            let n = self.total(counter);
            if n > 0 {
                self.push(reasons, counter, n.to_string(), "0".to_owned(), advice);
            }
        }
    }

    /// Every agent has to have delivered every second.
    fn coverage(&self, from_s: f64, to_s: f64, reasons: &mut Vec<Reason>) {
        let wanted = (to_s - from_s).floor() as u64;
        for agent in &self.manifest.agents {
            let got: u64 = self
                .raw
                .timeline
                .iter()
                .filter(|((_, s, p, _, name, counter, _), _)| {
                    *s == self.step && *p == Phase::Hold && *name == agent.name && counter == "interval"
                })
                .map(|(_, n)| n)
                .sum();
            // The seconds at both ends may be booked to the phase beside.
            if got + 1 < wanted {
                self.push(
                    reasons,
                    "lost_interval",
                    format!("agent {} delivered {got} of {wanted} seconds", agent.name),
                    "all".to_owned(),
                    "an agent was lost or stopped: its part of the load and of the results is missing",
                );
            }
        }
    }
}
