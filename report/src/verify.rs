//! Does a results directory agree with itself?

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::derive::{ALL, counter_sums};
use crate::files::{self, FileError, MANIFEST};
use crate::histogram::Histogram;
use crate::manifest::Manifest;
use crate::names::{Base, Metric, Phase};
use crate::raw::Raw;
use crate::trust::Reason;
use crate::verdict::Verdict;

/// One thing that does not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inconsistency {
    /// In which file.
    pub file: String,
    /// Where in it.
    pub place: String,
    /// What there is.
    pub found: String,
    /// What there has to be.
    pub expected: String,
}

impl std::fmt::Display for Inconsistency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: found {}, expected {}", self.file, self.place, self.found, self.expected)
    }
}

/// Checks hashes, identities, and that the derived files are what the raw ones give.
///
/// # Errors
/// When the files cannot be read at all.
pub fn verify(dir: &Path) -> Result<Vec<Inconsistency>, FileError> {
    let (raw, manifest) = files::read_raw(dir)?;
    let mut found = Vec::new();
    for name in [files::HLOG, files::TIMELINE, files::FAILURES] {
        let Some(hash) = manifest.raw_files.get(name) else {
            found.push(Inconsistency {
                file: MANIFEST.to_owned(),
                place: "raw_files".into(),
                found: format!("no SHA-256 of {name}"),
                expected: "one for each raw file".into(),
            });
            continue;
        };
        let path = dir.join(name);
        let bytes = fs::read(&path).map_err(|e| FileError::Io(path, e))?;
        let now = files::sha256(&bytes);
        if now != *hash {
            found.push(Inconsistency {
                file: name.to_owned(),
                place: "SHA-256".into(),
                found: now,
                expected: format!("{hash}, which {MANIFEST} says"),
            });
        }
    }
    identities(&raw, &manifest, &mut found);
    histograms(&raw, &mut found);
    let derived = crate::derived(&raw, &manifest);
    verdict(&manifest, &derived.verdict, &mut found);
    for (name, bytes) in derived.files {
        let path = dir.join(name);
        let there = fs::read(&path).unwrap_or_default();
        if there != bytes {
            found.push(difference(name, &there, &bytes));
        }
    }
    Ok(found)
}

/// Seconds and agents are the same samples, added up in two ways.
fn histograms(raw: &Raw, found: &mut Vec<Inconsistency>) {
    type Key<'a> = (u32, Phase, &'a str, Metric, Base);
    let mut sums: BTreeMap<Key<'_>, [Histogram; 2]> = BTreeMap::new();
    for ((_, step, phase, site, metric, base), histogram) in &raw.seconds {
        sums.entry((*step, *phase, site, *metric, *base)).or_default()[0].add(histogram);
    }
    for ((step, phase, site, _, metric, base), histogram) in &raw.agents {
        sums.entry((*step, *phase, site, *metric, *base)).or_default()[1].add(histogram);
    }
    for ((step, phase, site, metric, base), [seconds, agents]) in sums {
        if seconds != agents {
            found.push(Inconsistency {
                file: files::HLOG.to_owned(),
                place: format!(
                    "step {step} {} at {site}: {} {}, the sum of its seconds",
                    phase.name(),
                    metric.name(),
                    base.name()
                ),
                found: format!("{} samples", seconds.count()),
                expected: format!("the {} samples of its agents, cell by cell", agents.count()),
            });
        }
    }
}

/// What the manifest says of the run is what its data say.
fn verdict(manifest: &Manifest, now: &Verdict, found: &mut Vec<Inconsistency>) {
    let reasons = |reasons: &[Reason]| reasons.iter().map(|r| r.reason.clone()).collect::<Vec<_>>().join(" ");
    for (place, left, right) in [
        ("verdict", manifest.verdict.clone(), now.word.to_owned()),
        ("exit_code", manifest.exit_code.to_string(), now.exit_code.to_string()),
        ("exit_codes", format!("{:?}", manifest.exit_codes), format!("{:?}", now.codes)),
        ("reasons", reasons(&manifest.reasons), reasons(&now.reasons)),
    ] {
        if left != right {
            found.push(Inconsistency {
                file: MANIFEST.to_owned(),
                place: place.to_owned(),
                found: left,
                expected: format!("{right}, which the raw files give"),
            });
        }
    }
}

fn difference(name: &str, there: &[u8], expected: &[u8]) -> Inconsistency {
    let (there, expected) = (String::from_utf8_lossy(there), String::from_utf8_lossy(expected));
    let (mut a, mut b) = (there.lines(), expected.lines());
    let mut line = 0;
    loop {
        line += 1;
        match (a.next(), b.next()) {
            (x, y) if x == y && x.is_some() => {}
            (x, y) => {
                let cut = |text: Option<&str>| {
                    text.map_or_else(|| "no line".to_owned(), |t| t.chars().take(200).collect())
                };
                return Inconsistency {
                    file: name.to_owned(),
                    place: format!("line {line}"),
                    found: cut(x),
                    expected: cut(y),
                };
            }
        }
    }
}

/// The identities of a run, for every step, phase and site.
pub fn identities(raw: &Raw, manifest: &Manifest, found: &mut Vec<Inconsistency>) {
    let sums = counter_sums(raw, manifest);
    let sites: Vec<String> = manifest.sites().into_iter().chain([ALL.to_owned()]).collect();
    for step in &manifest.steps {
        for phase in &step.phases {
            for site in &sites {
                let sum = |counter: &str| -> u64 {
                    sums.iter()
                        .filter(|((s, p, at, c, _), _)| {
                            *s == step.step && *p == phase.phase && at == site && c == counter
                        })
                        .map(|(_, v)| v)
                        .sum()
                };
                let place = format!("step {} {} at {site}", step.step, phase.phase.name());
                let mut check = |what: &str, left: u64, right: u64| {
                    if left != right {
                        found.push(Inconsistency {
                            file: files::TIMELINE.to_owned(),
                            place: format!("{place}: {what}"),
                            found: left.to_string(),
                            expected: right.to_string(),
                        });
                    }
                };
                check("offered = sent + not_started", sum("offered"), sum("sent") + sum("not_started"));
                if manifest.kind == "held" {
                    check(
                        "sent = publish_ok + publish_failed",
                        sum("sent"),
                        sum("publish_ok") + sum("publish_failed"),
                    );
                } else {
                    let ended = sum("workflow_ok") + sum("workflow_timed_out") + sum("workflow_failed");
                    check("sent = workflow_ok + workflow_timed_out + workflow_failed", sum("sent"), ended);
                }
                let ended = sum("delivered") + sum("superseded") + sum("missed") + sum("void");
                check("expected = delivered + superseded + missed + void", sum("expected"), ended);
                let metric = Metric::PublishToNotify.name().to_owned();
                let key = (step.step, phase.phase, site.clone(), "censored".to_owned(), metric);
                check(
                    "censored(publish_to_notify) = missed",
                    sums.get(&key).copied().unwrap_or(0),
                    sum("missed"),
                );
                let (seen, beyond) =
                    (sum("delivered") + sum("superseded"), overflow(raw, step.step, phase.phase, site));
                for base in [Base::Scheduled, Base::Sent] {
                    let count = count(raw, step.step, phase.phase, site, base);
                    // What is longer than an hour is in no histogram; its counter does not say in which base.
                    if count > seen || seen - count > beyond {
                        check("count(publish_to_notify) = delivered + superseded", count, seen);
                    }
                }
            }
        }
    }
}

fn count(raw: &Raw, step: u32, phase: Phase, site: &str, base: Base) -> u64 {
    raw.series(step, phase, (site != ALL).then_some(site), Metric::PublishToNotify, base).count()
}

fn overflow(raw: &Raw, step: u32, phase: Phase, site: &str) -> u64 {
    let site = (site != ALL).then_some(site);
    raw.total(step, phase, site, "overflow", Some(Metric::PublishToNotify.name()))
}
