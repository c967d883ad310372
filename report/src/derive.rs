//! The derived files: pure functions of the raw ones.

use std::collections::BTreeMap;

use crate::files::csv_bytes;
use crate::histogram::{Histogram, Percentile, Quantile};
use crate::manifest::{Manifest, SCHEMA_VERSION};
use crate::names::{Base, Metric, Phase};
use crate::print;
use crate::raw::Raw;
use crate::threshold::{Judged, Unit};
use crate::verdict::Verdict;

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

fn duration(manifest: &Manifest, step: u32, phase: Phase) -> (f64, f64) {
    manifest.phase(step, phase).map_or((0.0, 0.0), |p| (p.from_s, p.to_s - p.from_s))
}

fn per_second(n: u64, seconds: f64) -> String {
    if seconds > 0.0 { print::rate(n as f64 / seconds) } else { String::new() }
}

fn rate_of(raw: &Raw, s: &Series, counter: &str, seconds: f64) -> String {
    per_second(raw.total(s.step, s.phase, site_of(&s.site), counter, None), seconds)
}

/// `steps.csv`.
#[must_use]
pub fn steps(raw: &Raw, manifest: &Manifest, series: &[Series]) -> Vec<u8> {
    let header = [
        "schema_version",
        "run_id",
        "release",
        "scenario",
        "step",
        "step_name",
        "phase",
        "site",
        "metric",
        "base",
        "start_time",
        "duration_s",
        "offered_rate_hz",
        "sent_rate_hz",
        "count",
        "censored",
        "deadline_s",
        "min_s",
        "mean_s",
        "stddev_s",
        "max_s",
        "p50_s",
        "p90_s",
        "p95_s",
        "p99_s",
        "p999_s",
        "clock_bound_s",
    ];
    csv_bytes(
        &header,
        series.iter().map(|s| {
            let (from, seconds) = duration(manifest, s.step, s.phase);
            let h = &s.histogram;
            let p = |q: f64| cell(h.percentile(fraction(q), s.censored));
            vec![
                SCHEMA_VERSION.to_string(),
                manifest.run_id.clone(),
                manifest.release.clone(),
                manifest.scenario.clone(),
                s.step.to_string(),
                manifest.step_name(s.step).to_owned(),
                s.phase.name().to_owned(),
                s.site.clone(),
                s.metric.name().to_owned(),
                s.base.name().to_owned(),
                print::time(manifest.origin_unix_s + from as i64),
                format!("{seconds:.6}"),
                rate_of(raw, s, "offered", seconds),
                rate_of(raw, s, "sent", seconds),
                h.count().to_string(),
                s.censored.to_string(),
                s.metric.limit_s(manifest.deadline_s).map(|l| format!("{l:.6}")).unwrap_or_default(),
                opt(h.min()),
                fine(h.mean()),
                fine(h.stddev()),
                opt(h.max()),
                p(0.5),
                p(0.9),
                p(0.95),
                p(0.99),
                p(0.999),
                String::new(),
            ]
        }),
    )
}

/// `percentiles.csv`.
#[must_use]
pub fn percentiles(manifest: &Manifest, series: &[Series]) -> Vec<u8> {
    let header = [
        "schema_version",
        "run_id",
        "release",
        "scenario",
        "step",
        "step_name",
        "phase",
        "site",
        "metric",
        "base",
        "quantile",
        "value_s",
        "relation",
        "count",
        "censored",
    ];
    let rows = series.iter().flat_map(|s| {
        manifest.percentiles.iter().map(move |q| {
            let (value, relation) = match s.histogram.percentile(fraction(*q), s.censored) {
                Percentile::Value(us) => (print::seconds(us), "eq"),
                Percentile::Censored => match s.metric.limit_s(manifest.deadline_s) {
                    Some(limit) => (format!("{limit:.6}"), "gt"),
                    None => ("inf".to_owned(), "gt"),
                },
                Percentile::TooFew => (String::new(), ""),
            };
            vec![
                SCHEMA_VERSION.to_string(),
                manifest.run_id.clone(),
                manifest.release.clone(),
                manifest.scenario.clone(),
                s.step.to_string(),
                manifest.step_name(s.step).to_owned(),
                s.phase.name().to_owned(),
                s.site.clone(),
                s.metric.name().to_owned(),
                s.base.name().to_owned(),
                print::quantile(*q),
                value,
                relation.to_owned(),
                s.histogram.count().to_string(),
                s.censored.to_string(),
            ]
        })
    });
    csv_bytes(&header, rows)
}

/// The metric whose arrivals a run offers.
#[must_use]
pub fn arrival_metric(manifest: &Manifest) -> Metric {
    if manifest.kind == "held" { Metric::Publish } else { Metric::Workflow }
}

/// `intervals.csv`, `width` seconds a row.
#[must_use]
pub fn intervals(raw: &Raw, manifest: &Manifest, width: i64) -> Vec<u8> {
    let header = [
        "schema_version",
        "run_id",
        "step",
        "step_name",
        "phase",
        "site",
        "metric",
        "base",
        "interval_start_time",
        "t_s",
        "interval_s",
        "offered",
        "sent",
        "count",
        "censored",
        "min_s",
        "mean_s",
        "p50_s",
        "p90_s",
        "p95_s",
        "p99_s",
        "max_s",
    ];
    let origin = manifest.origin_unix_s;
    let bucket = |second: i64| (second - origin).div_euclid(width) * width;
    type Key = (i64, u32, Phase, String, Metric, Base);
    let mut sums: BTreeMap<Key, Histogram> = BTreeMap::new();
    for ((second, step, phase, site, metric, base), histogram) in &raw.seconds {
        for site in [site.as_str(), ALL] {
            sums.entry((bucket(*second), *step, *phase, site.to_owned(), *metric, *base))
                .or_default()
                .add(histogram);
        }
    }
    let mut counts: BTreeMap<(i64, u32, Phase, String, &str), u64> = BTreeMap::new();
    let mut censored: BTreeMap<(i64, u32, Phase, String, Metric), u64> = BTreeMap::new();
    for ((second, step, phase, site, _, counter, label), value) in raw.timeline() {
        for site in [site.as_str(), ALL] {
            let at = bucket(*second);
            if counter == "offered" || counter == "sent" {
                *counts.entry((at, *step, *phase, site.to_owned(), counter)).or_default() += value;
                sums.entry((at, *step, *phase, site.to_owned(), arrival_metric(manifest), Base::Scheduled))
                    .or_default();
            }
            if let (true, Some(metric)) = (counter == "censored", Metric::parse(label)) {
                *censored.entry((at, *step, *phase, site.to_owned(), metric)).or_default() += value;
                for base in metric.bases() {
                    sums.entry((at, *step, *phase, site.to_owned(), metric, *base)).or_default();
                }
            }
        }
    }
    let rows = sums.iter().map(|((t, step, phase, site, metric, base), h)| {
        let count = |name: &'static str| -> String {
            if *metric == arrival_metric(manifest) && *base == Base::Scheduled {
                counts.get(&(*t, *step, *phase, site.clone(), name)).copied().unwrap_or(0).to_string()
            } else {
                String::new()
            }
        };
        let lost = censored.get(&(*t, *step, *phase, site.clone(), *metric)).copied().unwrap_or(0);
        let p = |q: f64| cell(h.percentile(fraction(q), lost));
        vec![
            SCHEMA_VERSION.to_string(),
            manifest.run_id.clone(),
            step.to_string(),
            manifest.step_name(*step).to_owned(),
            phase.name().to_owned(),
            site.clone(),
            metric.name().to_owned(),
            base.name().to_owned(),
            print::time(origin + t),
            t.to_string(),
            format!("{width}.000000"),
            count("offered"),
            count("sent"),
            h.count().to_string(),
            lost.to_string(),
            opt(h.min()),
            fine(h.mean()),
            p(0.5),
            p(0.9),
            p(0.95),
            p(0.99),
            opt(h.max()),
        ]
    });
    csv_bytes(&header, rows)
}

/// `agents.csv`: of a step its hold, of warm-up and drain all.
#[must_use]
pub fn agents(raw: &Raw, manifest: &Manifest) -> Vec<u8> {
    let header = [
        "schema_version",
        "run_id",
        "step",
        "step_name",
        "phase",
        "site",
        "agent",
        "incarnation",
        "metric",
        "base",
        "offered",
        "sent",
        "count",
        "censored",
        "p50_s",
        "p90_s",
        "p95_s",
        "p99_s",
        "max_s",
        "send_lag_p99_s",
        "cpu_ratio",
        "rx_dropped",
        "coverage_ratio",
        "clock_bound_s",
    ];
    let rows = raw.agents.iter().filter(|((_, phase, ..), _)| *phase != Phase::Ramp).map(
        |((step, phase, site, agent, metric, base), h)| {
            let info = manifest.agents.iter().find(|a| a.name == *agent);
            let (_, seconds) = duration(manifest, *step, *phase);
            let censored = raw.total_of_agent(*step, *phase, agent, "censored", Some(metric.name()));
            let lag =
                raw.agents.get(&(*step, *phase, site.clone(), agent.clone(), Metric::SendLag, Base::None));
            let p = |q: f64| cell(h.percentile(fraction(q), censored));
            let share = |n: f64| if seconds > 0.0 { print::ratio(n / seconds) } else { String::new() };
            vec![
                SCHEMA_VERSION.to_string(),
                manifest.run_id.clone(),
                step.to_string(),
                manifest.step_name(*step).to_owned(),
                phase.name().to_owned(),
                site.clone(),
                agent.clone(),
                info.map(|a| a.incarnation.to_string()).unwrap_or_default(),
                metric.name().to_owned(),
                base.name().to_owned(),
                raw.total_of_agent(*step, *phase, agent, "offered", None).to_string(),
                raw.total_of_agent(*step, *phase, agent, "sent", None).to_string(),
                h.count().to_string(),
                censored.to_string(),
                p(0.5),
                p(0.9),
                p(0.95),
                p(0.99),
                opt(h.max()),
                lag.map(|lag| cell(lag.percentile(fraction(0.99), 0))).unwrap_or_default(),
                share(raw.total_of_agent(*step, *phase, agent, "cpu_us", None) as f64 / 1e6),
                raw.total_of_agent(*step, *phase, agent, "rx_dropped", None).to_string(),
                share(raw.total_of_agent(*step, *phase, agent, "interval", None) as f64),
                info.map(|a| format!("{:.6}", a.clock_bound_s)).unwrap_or_default(),
            ]
        },
    );
    csv_bytes(&header, rows)
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
        let (value, relation, passed) = match j.judged {
            Judged::Holds(v) => (in_unit(v, j.threshold.unit), "eq", "true"),
            Judged::Broken(Some(v)) => (in_unit(v, j.threshold.unit), "eq", "false"),
            Judged::Broken(None) => (format!("{:.6}", manifest.deadline_s), "gt", "false"),
            Judged::HoldsBeyond => (format!("{:.6}", manifest.deadline_s), "gt", "true"),
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

/// Counters that are always there, even at 0.
pub const ACCOUNTING: [&str; 15] = [
    "offered",
    "sent",
    "not_started",
    "publish_ok",
    "publish_failed",
    "workflow_ok",
    "workflow_timed_out",
    "workflow_failed",
    "expected",
    "delivered",
    "superseded",
    "missed",
    "void",
    "not_expected",
    "missed_due",
];

/// Sums of all counters by (step, phase, site, counter, label), sites and `all`.
#[must_use]
pub fn counter_sums(raw: &Raw, manifest: &Manifest) -> BTreeMap<(u32, Phase, String, String, String), u64> {
    let mut sums = BTreeMap::new();
    let sites: Vec<String> = manifest.sites().into_iter().chain([ALL.to_owned()]).collect();
    for step in &manifest.steps {
        for phase in &step.phases {
            for site in &sites {
                for counter in ACCOUNTING.iter().filter(|c| **c != "void") {
                    sums.insert(
                        (step.step, phase.phase, site.clone(), (*counter).to_owned(), String::new()),
                        0,
                    );
                }
                for label in ["publish_failed", "interrupted"] {
                    sums.insert(
                        (step.step, phase.phase, site.clone(), "void".to_owned(), label.to_owned()),
                        0,
                    );
                }
            }
        }
    }
    for (step, phase, site, counter, label, value) in raw.totals() {
        for site in [site, ALL] {
            *sums.entry((step, phase, site.to_owned(), counter.to_owned(), label.to_owned())).or_default() +=
                value;
        }
    }
    sums
}

/// `counters.csv`.
#[must_use]
pub fn counters(raw: &Raw, manifest: &Manifest) -> Vec<u8> {
    let header =
        ["schema_version", "run_id", "step", "step_name", "phase", "site", "counter", "label", "value"];
    let rows = counter_sums(raw, manifest).into_iter().map(|((step, phase, site, counter, label), value)| {
        vec![
            SCHEMA_VERSION.to_string(),
            manifest.run_id.clone(),
            step.to_string(),
            manifest.step_name(step).to_owned(),
            phase.name().to_owned(),
            site,
            counter,
            label,
            value.to_string(),
        ]
    });
    csv_bytes(&header, rows)
}

/// One point of a latency spectrum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Microseconds.
    pub us: u64,
    /// Share of all that was observed or censored at or below it.
    pub quantile: f64,
    /// Samples at or below it.
    pub cumulative: u64,
}

/// Five points for every halving of what lies above, as HdrHistogram's own plots have them.
#[must_use]
pub fn spectrum_points(histogram: &Histogram, censored: u64) -> Vec<Point> {
    let total = histogram.count() + censored;
    let mut points = Vec::new();
    let (mut sum, mut level) = (0u64, 0f64);
    for (index, n) in histogram.cells() {
        sum += n;
        let quantile = sum as f64 / total as f64;
        if quantile >= level || sum == histogram.count() {
            points.push(Point { us: crate::histogram::highest_at(index), quantile, cumulative: sum });
            if sum == histogram.count() {
                break;
            }
            // Up to the first level beyond: each halving of what lies above has five.
            while level <= quantile {
                let halvings = (1.0 / (1.0 - level)).log2().floor();
                level += 1.0 / (5.0 * 2f64.powf(halvings + 1.0));
            }
        }
    }
    points
}

/// `spectrum.csv`: every hold.
#[must_use]
pub fn spectrum(manifest: &Manifest, series: &[Series]) -> Vec<u8> {
    let header = [
        "schema_version",
        "run_id",
        "step",
        "step_name",
        "site",
        "metric",
        "base",
        "value_s",
        "quantile",
        "cumulative_count",
        "inverse_tail",
    ];
    let rows = series.iter().filter(|s| s.phase == Phase::Hold).flat_map(|s| {
        spectrum_points(&s.histogram, s.censored).into_iter().map(move |p| {
            vec![
                SCHEMA_VERSION.to_string(),
                manifest.run_id.clone(),
                s.step.to_string(),
                manifest.step_name(s.step).to_owned(),
                s.site.clone(),
                s.metric.name().to_owned(),
                s.base.name().to_owned(),
                print::seconds(p.us),
                format!("{:.9}", p.quantile),
                p.cumulative.to_string(),
                if p.quantile < 1.0 { format!("{:.3}", 1.0 / (1.0 - p.quantile)) } else { "inf".to_owned() },
            ]
        })
    });
    csv_bytes(&header, rows)
}

/// Totals of a counter over all holds, `all` sites.
#[must_use]
pub fn over_holds(raw: &Raw, manifest: &Manifest, counter: &str) -> u64 {
    manifest.holds().map(|(step, _)| raw.total(step.step, Phase::Hold, None, counter, None)).sum()
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
