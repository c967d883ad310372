//! Sums of counters: `counters.csv`.

use std::collections::BTreeMap;

use super::ALL;
use crate::files::csv_bytes;
use crate::manifest::{Manifest, SCHEMA_VERSION};
use crate::names::Phase;
use crate::raw::Raw;

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

/// Totals of a counter over all holds, `all` sites.
#[must_use]
pub fn over_holds(raw: &Raw, manifest: &Manifest, counter: &str) -> u64 {
    manifest.holds().map(|(step, _)| raw.total(step.step, Phase::Hold, None, counter, None)).sum()
}
