//! Latencies by step and by agent: `steps.csv`, `percentiles.csv`, `agents.csv`.

use super::{Series, cell, fine, fraction, opt, site_of};
use crate::files::csv_bytes;
use crate::histogram::Percentile;
use crate::manifest::{Manifest, SCHEMA_VERSION};
use crate::names::{Base, Metric, Phase};
use crate::print;
use crate::raw::Raw;

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
                Percentile::Censored => (s.metric.beyond_cell(manifest.deadline_s), "gt"),
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
