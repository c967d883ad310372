//! Latencies and arrivals second by second: `intervals.csv`.

use std::collections::BTreeMap;

use super::{ALL, cell, fine, fraction, opt};
use crate::files::csv_bytes;
use crate::histogram::Histogram;
use crate::manifest::{Manifest, SCHEMA_VERSION};
use crate::names::{Base, Metric, Phase};
use crate::print;
use crate::raw::Raw;

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
