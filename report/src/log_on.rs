//! How long it took until (nearly) everybody had what they need: the log-on of
//! held users, and their recovery after a loss.

use crate::derive::{ALL, Series};
use crate::histogram::{Percentile, Quantile};
use crate::manifest::Manifest;
use crate::names::{Base, Metric, Phase};
use crate::print;
use crate::raw::Raw;

/// The share that counts as everybody: the last one in a hundred may be a case of its own.
const MOST: Quantile = Quantile(990_000_000);

/// One part of logging on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milestone {
    /// `register`, `self_subscribe` or `subscribe_to_notify`.
    pub metric: Metric,
    /// How many there were to be.
    pub wanted: u64,
    /// How many there were in the warm-up.
    pub done: u64,
    /// Seconds from the beginning of the warm-up to the end of the second in which 99 % were done;
    /// `None` if they never were.
    pub reached_s: Option<i64>,
}

/// The milestones of the warm-up of held users, in the order of the activities.
#[must_use]
pub fn milestones(raw: &Raw, manifest: &Manifest) -> Vec<Milestone> {
    if manifest.kind != "held" {
        return Vec::new();
    }
    let started = manifest.holds().next().is_some();
    let of = |metric: Metric| {
        let seconds: Vec<(i64, u64)> = (raw.seconds.iter())
            .filter(|((_, _, phase, _, m, base), _)| {
                (*phase, *m, *base) == (Phase::Warmup, metric, Base::Scheduled)
            })
            .map(|((second, ..), histogram)| (*second, histogram.count()))
            .collect();
        let done: u64 = seconds.iter().map(|(_, n)| n).sum();
        let wanted = match metric {
            Metric::Register | Metric::SelfSubscribe => manifest.users.max(done),
            // A run does not start before every subscription is there.
            _ if started => done,
            _ => done + failed(raw, metric),
        };
        let rank = (u128::from(MOST.0) * u128::from(wanted)).div_ceil(1_000_000_000);
        let reached = |sum: &mut u128, (second, n): &(i64, u64)| {
            *sum += u128::from(*n);
            Some((*second, *sum >= rank))
        };
        let reached_s = (seconds.iter().scan(0u128, reached))
            .find(|(_, reached)| *reached)
            .map(|(second, _)| second - manifest.origin_unix_s + 1);
        (done > 0).then_some(Milestone { metric, wanted, done, reached_s })
    };
    [Metric::Register, Metric::SelfSubscribe, Metric::SubscribeToNotify].into_iter().filter_map(of).collect()
}

/// What of the subscriptions of a warm-up came to nothing.
fn failed(raw: &Raw, metric: Metric) -> u64 {
    let censored = raw.total(0, Phase::Warmup, None, "censored", Some(metric.name()));
    let refused = (raw.failures.iter())
        .filter(|((_, phase, _, _, activity, ..), _)| {
            (*phase, activity.as_str()) == (Phase::Warmup, "subscribe")
        })
        .map(|(_, sum)| sum.count);
    censored + refused.sum::<u64>()
}

impl Milestone {
    /// `99 % of 5400 users registered after 119 s`.
    #[must_use]
    pub fn line(&self) -> String {
        let what = match self.metric {
            Metric::Register => "users registered",
            Metric::SelfSubscribe => "users subscribed to themselves",
            _ => "subscriptions shown their first state",
        };
        match self.reached_s {
            Some(seconds) => format!("99 % of {} {what} after {seconds} s", self.wanted),
            None => format!("{} of {} {what}, not 99 %", self.done, self.wanted),
        }
    }
}

/// Recovery in a hold, for people: `99 % of 5400 users had everything again after 3.21 s`.
/// `None` if nobody lost anything.
#[must_use]
pub fn recovery_line(series: &[Series], step: u32) -> Option<String> {
    let s = series.iter().find(|s| {
        (s.step, s.phase, s.metric, s.base) == (step, Phase::Hold, Metric::Recovery, Base::Scheduled)
            && s.site == ALL
    })?;
    let all = s.histogram.count() + s.censored;
    let most = match s.histogram.percentile(MOST, s.censored) {
        Percentile::Value(us) => format!("99 % of {all} losses were mended after {}", print::human(us)),
        Percentile::Censored => format!("99 % of {all} losses were never mended"),
        Percentile::TooFew => format!("{} of {all} losses were mended", s.histogram.count()),
    };
    let last = s.histogram.max().map(|us| format!(", the last after {}", print::human(us)));
    let never = (s.censored > 0).then(|| format!(", {} never", s.censored));
    (all > 0).then(|| most + &last.unwrap_or_default() + &never.unwrap_or_default())
}
