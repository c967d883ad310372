//! How far the engine was from its limits.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::histogram::{Histogram, Percentile, Quantile};
use crate::manifest::Manifest;
use crate::names::{Base, Metric, Phase};
use crate::print;
use crate::raw::Raw;

/// The second in which a shard's thread was busiest.
#[derive(Debug, Clone, PartialEq)]
pub struct Busiest {
    /// Share of the second that the thread ran, at most 1.
    pub ratio: f64,
    /// Whose.
    pub agent: String,
    /// Which.
    pub shard: String,
    /// Seconds from the origin.
    pub t_s: i64,
    /// Seconds of shards above the limit.
    pub above: u64,
    /// Seconds of shards altogether.
    pub of: u64,
}

/// CPU time of single shards in a hold; `None` if it was not recorded for each.
#[must_use]
pub fn busiest(raw: &Raw, manifest: &Manifest, step: u32, limit: f64) -> Option<Busiest> {
    busiest_of_holds(raw, manifest, limit).remove(&step)
}

/// The same of every hold, in one pass.
#[must_use]
pub fn busiest_of_holds(raw: &Raw, manifest: &Manifest, limit: f64) -> BTreeMap<u32, Busiest> {
    let mut found: BTreeMap<u32, Busiest> = BTreeMap::new();
    for ((second, step, phase, _, agent, counter, label), us) in raw.timeline() {
        if *phase != Phase::Hold || counter != "cpu_us" || label.is_empty() {
            continue;
        }
        // A second that was closed late has what belongs to the next one, too.
        let ratio = (*us as f64 / 1e6).min(1.0);
        let first =
            || Busiest { ratio: -1.0, agent: String::new(), shard: String::new(), t_s: 0, above: 0, of: 0 };
        let busiest = found.entry(*step).or_insert_with(first);
        busiest.of += 1;
        busiest.above += u64::from(ratio > limit);
        if ratio > busiest.ratio {
            let t_s = second - manifest.origin_unix_s;
            (busiest.ratio, busiest.t_s) = (ratio, t_s);
            (busiest.agent, busiest.shard) = (agent.clone(), label.clone());
        }
    }
    found
}

/// The largest figures of all holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headroom {
    /// Share of a second that the busiest shard's thread ran, at worst.
    pub shard_busy: Option<f64>,
    /// p99 of the send lag of the worst hold, in seconds.
    pub send_lag_p99_s: Option<f64>,
    /// Its limit.
    pub send_lag_limit_s: f64,
}

/// Reads them from what was recorded.
#[must_use]
pub fn headroom(raw: &Raw, manifest: &Manifest) -> Headroom {
    let mut all = Headroom { send_lag_limit_s: manifest.trust.lag_limit_s(manifest), ..Headroom::default() };
    let larger = |a: Option<f64>, b: f64| Some(a.map_or(b, |a| a.max(b)));
    let shards = busiest_of_holds(raw, manifest, 1.0);
    for (step, _) in manifest.holds() {
        if let Some(busiest) = shards.get(&step.step) {
            all.shard_busy = larger(all.shard_busy, busiest.ratio);
        }
        let lag: Histogram = raw.series(step.step, Phase::Hold, None, Metric::SendLag, Base::None);
        if let Percentile::Value(us) = lag.percentile(Quantile(990_000_000), 0) {
            all.send_lag_p99_s = larger(all.send_lag_p99_s, us as f64 / 1e6);
        }
    }
    all
}

impl Headroom {
    /// One line for people: `headroom: shards at most 23 % busy; send lag p99 0.09 ms of 1 ms`.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        let mut parts = Vec::new();
        if let Some(busy) = self.shard_busy {
            parts.push(format!("shards at most {:.0} % busy", busy * 100.0));
        }
        if let Some(lag) = self.send_lag_p99_s {
            let mut part = format!("send lag p99 {:.2} ms", lag * 1e3);
            let _ = write!(part, " of {}", print::human((self.send_lag_limit_s * 1e6).round() as u64));
            parts.push(part);
        }
        (!parts.is_empty()).then(|| format!("headroom: {}", parts.join("; ")))
    }
}
