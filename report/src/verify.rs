//! Does a results directory agree with itself?

use std::fs;
use std::path::Path;

use crate::derive::{ALL, counter_sums};
use crate::files::{self, FileError, MANIFEST};
use crate::manifest::Manifest;
use crate::names::{Base, Metric, Phase};
use crate::raw::Raw;

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
    for (name, hash) in &manifest.raw_files {
        let path = dir.join(name);
        let bytes = fs::read(&path).map_err(|e| FileError::Io(path, e))?;
        let now = files::sha256(&bytes);
        if now != *hash {
            found.push(Inconsistency {
                file: name.clone(),
                place: "SHA-256".into(),
                found: now,
                expected: format!("{hash}, which {MANIFEST} says"),
            });
        }
    }
    identities(&raw, &manifest, &mut found);
    for (name, bytes) in crate::derived(&raw, &manifest).files {
        let path = dir.join(name);
        let there = fs::read(&path).unwrap_or_default();
        if there != bytes {
            found.push(difference(name, &there, &bytes));
        }
    }
    Ok(found)
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
                let count = count(raw, step.step, phase.phase, site);
                check(
                    "count(publish_to_notify) = delivered + superseded",
                    count,
                    sum("delivered") + sum("superseded"),
                );
            }
        }
    }
}

fn count(raw: &Raw, step: u32, phase: Phase, site: &str) -> u64 {
    let site = (site != ALL).then_some(site);
    let overflow = raw.total(step, phase, site, "overflow", Some(Metric::PublishToNotify.name())) / 2;
    raw.series(step, phase, site, Metric::PublishToNotify, Base::Scheduled).count() + overflow
}
