//! The derived files: pure functions of the raw ones.

mod counters;
mod intervals;
mod latencies;
mod spectrum;

use std::collections::BTreeMap;

use crate::files::csv_bytes;
use crate::histogram::{Histogram, Percentile, Quantile};
use crate::manifest::{Manifest, SCHEMA_VERSION};
use crate::names::{Base, Metric, Phase};
use crate::print;
use crate::raw::Raw;
use crate::threshold::{Judged, Unit};
use crate::verdict::Verdict;

pub use counters::{ACCOUNTING, counter_sums, counters, over_holds};
pub use intervals::{arrival_metric, intervals};
pub use latencies::{agents, percentiles, steps};
pub use spectrum::{Point, spectrum, spectrum_points};

/// The sum over all sites, as a site.
pub const ALL: &str = "all";

/// Everything that is derived for one (step, phase, site, metric, base).
#[derive(Debug, Clone)]
pub struct Series {
    /// Step.
    pub step: u32,
    /// Phase.
    pub phase: Phase,
    /// Site, or `all`.
    pub site: String,
    /// Metric.
    pub metric: Metric,
    /// Base.
    pub base: Base,
    /// Sum.
    pub histogram: Histogram,
    /// Those that never came.
    pub censored: u64,
}

/// All series of a run, in the order of the files.
#[must_use]
pub fn all_series(raw: &Raw) -> Vec<Series> {
    let mut sums: BTreeMap<(u32, Phase, String, Metric, Base), Histogram> = BTreeMap::new();
    for ((step, phase, site, _, metric, base), histogram) in &raw.agents {
        for site in [site.as_str(), ALL] {
            sums.entry((*step, *phase, site.to_owned(), *metric, *base)).or_default().add(histogram);
        }
    }
    let mut censored: BTreeMap<(u32, Phase, String, String), u64> = BTreeMap::new();
    for (step, phase, site, counter, label, value) in raw.totals() {
        if counter == "censored" {
            for site in [site, ALL] {
                *censored.entry((step, phase, site.to_owned(), label.to_owned())).or_default() += value;
            }
        }
    }
    // A metric of which nothing came back has a row, too.
    for (step, phase, site, label) in censored.keys() {
        if let Some(metric) = Metric::parse(label) {
            for base in metric.bases() {
                sums.entry((*step, *phase, site.clone(), metric, *base)).or_default();
            }
        }
    }
    sums.into_iter()
        .map(|((step, phase, site, metric, base), histogram)| Series {
            censored: censored
                .get(&(step, phase, site.clone(), metric.name().to_owned()))
                .copied()
                .unwrap_or(0),
            step,
            phase,
            site,
            metric,
            base,
            histogram,
        })
        .collect()
}

fn site_of(site: &str) -> Option<&str> {
    (site != ALL).then_some(site)
}

fn cell(p: Percentile) -> String {
    match p {
        Percentile::Value(us) => print::seconds(us),
        Percentile::Censored => "inf".to_owned(),
        Percentile::TooFew => String::new(),
    }
}

fn fraction(q: f64) -> Quantile {
    Quantile::from_fraction(q).unwrap_or(Quantile(0))
}

fn opt(us: Option<u64>) -> String {
    us.map(print::seconds).unwrap_or_default()
}

fn fine(us: Option<f64>) -> String {
    us.map(print::fine_seconds).unwrap_or_default()
}

/// A number in the unit of its threshold, as files have it.
#[must_use]
pub fn in_unit(value: u128, unit: Unit) -> String {
    match unit {
        Unit::Time => format!("{}.{:06}", value / 1_000_000_000, value % 1_000_000_000 / 1_000),
        Unit::Ratio => format!("{}.{:09}", value / 1_000_000_000, value % 1_000_000_000),
        Unit::Count => value.to_string(),
    }
}

/// `thresholds.csv`.
#[must_use]
pub fn thresholds(manifest: &Manifest, verdict: &Verdict) -> Vec<u8> {
    let header = [
        "schema_version",
        "run_id",
        "step",
        "step_name",
        "site",
        "expr",
        "metric",
        "stat",
        "base",
        "op",
        "limit",
        "unit",
        "value",
        "relation",
        "samples",
        "passed",
        "abort_on_fail",
        "first_broken_time",
        "first_broken_t_s",
        "broken_s",
    ];
    let rows = verdict.judgements.iter().map(|j| {
        let (metric, stat) = j.threshold.stat.names();
        let unit = match j.threshold.unit {
            Unit::Time => "s",
            Unit::Ratio => "1",
            Unit::Count => "",
        };
        let beyond =
            || j.threshold.stat.metric().map_or_else(String::new, |m| m.beyond_cell(manifest.deadline_s));
        let (value, relation, passed) = match j.judged {
            Judged::Holds(v) => (in_unit(v, j.threshold.unit), "eq", "true"),
            Judged::Broken(Some(v)) => (in_unit(v, j.threshold.unit), "eq", "false"),
            Judged::Broken(None) => (beyond(), "gt", "false"),
            Judged::HoldsBeyond => (beyond(), "gt", "true"),
            Judged::NotJudged => (String::new(), "", ""),
        };
        let latency = j.threshold.unit == Unit::Time;
        vec![
            SCHEMA_VERSION.to_string(),
            manifest.run_id.clone(),
            j.step.to_string(),
            j.step_name.clone(),
            j.site.clone(),
            j.rule.expr.clone(),
            metric,
            stat,
            if latency { j.base.name().to_owned() } else { String::new() },
            j.threshold.op.text().to_owned(),
            in_unit(j.threshold.limit, j.threshold.unit),
            unit.to_owned(),
            value,
            relation.to_owned(),
            j.samples.to_string(),
            passed.to_owned(),
            j.rule.abort_on_fail.to_string(),
            j.broken.first().map(|t| print::time(manifest.origin_unix_s + t)).unwrap_or_default(),
            j.broken.first().map(i64::to_string).unwrap_or_default(),
            j.broken.len().to_string(),
        ]
    });
    csv_bytes(&header, rows)
}

/// `run.csv`: one row.
#[must_use]
pub fn run(raw: &Raw, manifest: &Manifest, verdict: &Verdict) -> Vec<u8> {
    let header = [
        "schema_version",
        "run_id",
        "started",
        "ended",
        "scenario",
        "release",
        "labels",
        "scenario_hash",
        "workload_hash",
        "adsum_version",
        "dialect",
        "transport",
        "target",
        "server",
        "seed",
        "agents",
        "sites",
        "users",
        "verdict",
        "exit_code",
        "reasons",
        "offered",
        "sent",
        "delivered",
        "superseded",
        "missed",
        "void",
        "failed",
    ];
    let total = |counter: &str| over_holds(raw, manifest, counter);
    let failed = total("publish_failed") + total("workflow_failed") + total("workflow_timed_out");
    let labels: Vec<String> = manifest.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let mut reasons: Vec<&str> = verdict.reasons.iter().map(|r| r.reason.as_str()).collect();
    reasons.dedup();
    let row = vec![
        SCHEMA_VERSION.to_string(),
        manifest.run_id.clone(),
        print::time(manifest.origin_unix_s),
        print::time(manifest.ended_unix_s),
        manifest.scenario.clone(),
        manifest.release.clone(),
        labels.join(" "),
        manifest.scenario_hash.clone(),
        manifest.workload_hash.clone(),
        manifest.adsum_version.clone(),
        manifest.dialect.clone(),
        manifest.transport.clone(),
        manifest.target.clone(),
        manifest.server.clone(),
        manifest.seed.to_string(),
        manifest.agents.len().to_string(),
        manifest.sites().join(" "),
        manifest.users.to_string(),
        verdict.word.to_owned(),
        verdict.exit_code.to_string(),
        reasons.join(" "),
        total("offered").to_string(),
        total("sent").to_string(),
        total("delivered").to_string(),
        total("superseded").to_string(),
        total("missed").to_string(),
        total("void").to_string(),
        failed.to_string(),
    ];
    csv_bytes(&header, [row])
}
