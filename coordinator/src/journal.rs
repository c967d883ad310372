//! The journal: what agents sent, on disk before it is acknowledged.
//!
//! An embedded database (redb) with (agent, incarnation, number) as its key;
//! an interval that comes again changes nothing. At the end of a run the raw
//! files hold everything and the journal is removed. A directory that still
//! has one is the remains of a run that was cut off.

use std::path::{Path, PathBuf};

use adsum_proto::v1;
use adsum_report::manifest::StepInfo;
use adsum_report::{Manifest, Phase, Raw};
use prost::Message as _;
use redb::{Database, ReadableDatabase, ReadableTable as _, TableDefinition};

/// Its name in the results directory.
pub const NAME: &str = "run.journal";

const INTERVALS: TableDefinition<'_, (&str, &str, u64, u64), &[u8]> = TableDefinition::new("intervals");
const DRAFT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("manifest");

/// A journal that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("the journal {path}: {reason}")]
pub struct JournalError {
    path: PathBuf,
    reason: String,
}

/// The journal of a run.
#[derive(Debug)]
pub struct Journal {
    database: Database,
    path: PathBuf,
    pending: Vec<(String, String, u64, u64, Vec<u8>)>,
}

impl Journal {
    fn error(path: &Path, reason: impl std::fmt::Display) -> JournalError {
        JournalError { path: path.to_owned(), reason: reason.to_string() }
    }

    /// Begins the journal of a run in its results directory.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(dir: &Path, manifest: &Manifest) -> Result<Journal, JournalError> {
        let path = dir.join(NAME);
        let wrong = |e: &dyn std::fmt::Display| Self::error(&path, e);
        let database = Database::create(&path).map_err(|e| wrong(&e))?;
        let journal = Journal { database, path: path.clone(), pending: Vec::new() };
        journal.draft(manifest)?;
        Ok(journal)
    }

    /// Keeps the manifest as it is known now.
    ///
    /// # Errors
    /// Those of the file system; the one before is kept then.
    pub fn draft(&self, manifest: &Manifest) -> Result<(), JournalError> {
        let wrong = |e: &dyn std::fmt::Display| Self::error(&self.path, e);
        let draft = serde_json::to_vec(manifest).map_err(|e| wrong(&e))?;
        let write = self.database.begin_write().map_err(|e| wrong(&e))?;
        {
            let mut table = write.open_table(DRAFT).map_err(|e| wrong(&e))?;
            table.insert("draft", draft.as_slice()).map_err(|e| wrong(&e))?;
            write.open_table(INTERVALS).map_err(|e| wrong(&e))?;
        }
        write.commit().map_err(|e| wrong(&e))
    }

    /// Takes an interval; [`Journal::commit`] puts it on disk.
    pub fn add(&mut self, agent: &str, site: &str, incarnation: u64, interval: &v1::Interval) {
        self.pending.push((
            agent.to_owned(),
            site.to_owned(),
            incarnation,
            interval.number,
            interval.encode_to_vec(),
        ));
    }

    /// Puts everything on disk that was added.
    ///
    /// # Errors
    /// Those of the file system; what was added is kept and tried again.
    pub fn commit(&mut self) -> Result<(), JournalError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let wrong = |e: &dyn std::fmt::Display| Self::error(&self.path, e);
        let write = self.database.begin_write().map_err(|e| wrong(&e))?;
        {
            let mut table = write.open_table(INTERVALS).map_err(|e| wrong(&e))?;
            for (agent, site, incarnation, number, bytes) in &self.pending {
                table
                    .insert((agent.as_str(), site.as_str(), *incarnation, *number), bytes.as_slice())
                    .map_err(|e| wrong(&e))?;
            }
        }
        write.commit().map_err(|e| wrong(&e))?;
        self.pending.clear();
        Ok(())
    }

    /// The raw files hold everything: the journal goes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn remove(self) -> Result<(), JournalError> {
        let path = self.path.clone();
        drop(self);
        std::fs::remove_file(&path).map_err(|e| Self::error(&path, e))
    }
}

/// True if a directory holds the remains of a run that was cut off.
#[must_use]
pub fn exists(dir: &Path) -> bool {
    dir.join(NAME).is_file()
}

/// Reads the remains of a run: what was recorded, and the manifest as it was
/// known last, with the seconds up to the last that was recorded.
///
/// # Errors
/// When the journal cannot be read.
pub fn recover(dir: &Path) -> Result<(Raw, Manifest), JournalError> {
    let path = dir.join(NAME);
    let wrong = |e: &dyn std::fmt::Display| Journal::error(&path, e);
    let database = Database::open(&path).map_err(|e| wrong(&e))?;
    let read = database.begin_read().map_err(|e| wrong(&e))?;
    let draft = read.open_table(DRAFT).map_err(|e| wrong(&e))?;
    let draft = draft.get("draft").map_err(|e| wrong(&e))?.ok_or_else(|| wrong(&"it holds no manifest"))?;
    let mut manifest: Manifest = serde_json::from_slice(draft.value()).map_err(|e| wrong(&e))?;
    let mut raw = Raw::default();
    let mut last = manifest.origin_unix_s;
    for row in read.open_table(INTERVALS).map_err(|e| wrong(&e))?.iter().map_err(|e| wrong(&e))? {
        let (key, value) = row.map_err(|e| wrong(&e))?;
        let (agent, site, incarnation, _) = key.value();
        let interval = v1::Interval::decode(value.value()).map_err(|e| wrong(&e))?;
        let interval = crate::convert::interval(agent, site, incarnation, interval).map_err(|e| wrong(&e))?;
        last = last.max(interval.second + 1);
        raw.absorb(&interval).map_err(|e| wrong(&e))?;
    }
    manifest.ended_unix_s = last;
    cut(&mut manifest.steps, (last - manifest.origin_unix_s) as f64);
    manifest.events.interrupted = true;
    manifest.events.signal = 130;
    for agent in &mut manifest.agents {
        agent.intervals = raw.intervals_of(&agent.name);
    }
    Ok((raw, manifest))
}

/// Nothing of a run that was cut off goes on behind its end, and nothing that it did not reach is there.
fn cut(steps: &mut [StepInfo], end_s: f64) {
    let started = steps.iter().skip(1).any(|step| !step.phases.is_empty());
    for step in steps {
        let open = if started { Phase::Drain } else { Phase::Warmup };
        step.phases.retain(|span| span.phase == Phase::Warmup || span.from_s < end_s);
        for span in &mut step.phases {
            // The last one goes on until the end, however long that took.
            span.to_s = if span.phase == open { end_s } else { span.to_s.min(end_s) }.max(span.from_s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_is_recovered_once() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = Manifest { run_id: "R".into(), ..Manifest::default() };
        let mut journal = Journal::create(dir.path(), &manifest).unwrap();
        let count = v1::Count {
            step: 1,
            phase: "hold".into(),
            counter: "sent".into(),
            label: String::new(),
            value: 5,
        };
        let interval =
            v1::Interval { number: 3, second_unix: 100, counters: vec![count], ..Default::default() };
        for _ in 0..2 {
            journal.add("a", "s", 1, &interval);
            journal.commit().unwrap();
        }
        drop(journal);
        let (raw, manifest) = recover(dir.path()).unwrap();
        assert_eq!(raw.total(1, adsum_report::Phase::Hold, Some("s"), "sent", None), 5);
        assert_eq!((manifest.run_id.as_str(), manifest.ended_unix_s), ("R", 101));
        assert!(manifest.events.interrupted);
    }

    #[test]
    fn a_run_that_was_cut_off_had_the_seconds_that_it_had() {
        let span = |phase, from_s, to_s| adsum_report::manifest::PhaseInfo { phase, from_s, to_s };
        let steps = |started: bool| {
            let step = |step, phases: &[adsum_report::manifest::PhaseInfo]| StepInfo {
                step,
                phases: if started || step == 0 { phases.to_vec() } else { Vec::new() },
                ..StepInfo::default()
            };
            vec![
                step(0, &[span(Phase::Warmup, 0.0, if started { 4.0 } else { 0.0 })]),
                step(1, &[span(Phase::Hold, 4.0, 14.0)]),
                step(2, &[span(Phase::Ramp, 14.0, 20.0), span(Phase::Hold, 20.0, 30.0)]),
                step(3, &[span(Phase::Drain, 30.0, 30.0)]),
            ]
        };
        for (started, seconds, expected) in [
            (false, 3, vec![(Phase::Warmup, 0.0, 3.0)]),
            (true, 9, vec![(Phase::Warmup, 0.0, 4.0), (Phase::Hold, 4.0, 9.0)]),
            (true, 16, vec![(Phase::Warmup, 0.0, 4.0), (Phase::Hold, 4.0, 14.0), (Phase::Ramp, 14.0, 16.0)]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut manifest = Manifest { origin_unix_s: 100, steps: steps(false), ..Manifest::default() };
            let mut journal = Journal::create(dir.path(), &manifest).unwrap();
            if started {
                manifest.steps = steps(true);
                journal.draft(&manifest).unwrap();
            }
            for number in 0..seconds {
                let second_unix = 100 + number as i64;
                let interval = v1::Interval { number, second_unix, ..v1::Interval::default() };
                journal.add("a", "s", 1, &interval);
            }
            journal.commit().unwrap();
            drop(journal);
            let (_, manifest) = recover(dir.path()).unwrap();
            let found: Vec<_> = (manifest.steps.iter().flat_map(|step| &step.phases))
                .map(|span| (span.phase, span.from_s, span.to_s))
                .collect();
            assert_eq!(found, expected);
        }
    }
}
