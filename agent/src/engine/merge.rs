//! The seconds of all shards, added up into the agent's numbered intervals.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use adsum_presence::host::Stage;
use adsum_proto::v1;

use crate::failures::{FailureRow, class_name};
use crate::recorder::{Second, phase_name};

/// Rows of failures that one interval carries; beyond, equal codes are joined.
const MAX_FAILURES: usize = 512;
/// The reason of what was joined.
const FURTHER: &str = "(further reasons)";

/// Seconds of all shards, added up.
#[derive(Debug)]
pub(super) struct Merge {
    /// Up to which second each shard has reported.
    through: Vec<i64>,
    /// Up to which second intervals were made.
    emitted: i64,
    pending: BTreeMap<i64, Sum>,
    number: u64,
}

type SeriesKey = (Stage, &'static str, &'static str);
type CountKey = (Stage, &'static str, String);

#[derive(Debug, Default)]
struct Sum {
    series: BTreeMap<SeriesKey, BTreeMap<u32, u64>>,
    counts: BTreeMap<CountKey, u64>,
    failures: Vec<v1::Failure>,
}

impl Merge {
    pub(super) fn new(shards: usize) -> Self {
        Merge { through: vec![i64::MIN; shards], emitted: i64::MIN, pending: BTreeMap::new(), number: 0 }
    }

    /// How many intervals were numbered.
    pub(super) fn numbered(&self) -> u64 {
        self.number
    }

    pub(super) fn add(
        &mut self,
        shard: usize,
        seconds: Vec<Second>,
        failures: Vec<FailureRow>,
        offset_ns: i64,
    ) {
        let Some(last) = seconds.last().map(|second| second.second) else {
            if let Some((_, sum)) = self.pending.iter_mut().next_back() {
                sum.failures.extend(failures.into_iter().map(|f| failure(f, offset_ns)));
            } else if !failures.is_empty() {
                // Before the first second there is none to book to; a failure has its own instants.
                let sum = self.pending.entry(self.emitted.max(0)).or_default();
                sum.failures.extend(failures.into_iter().map(|f| failure(f, offset_ns)));
            }
            return;
        };
        for second in seconds {
            let sum = self.pending.entry(second.second).or_default();
            for row in second.series {
                let cells = sum.series.entry((row.stage, row.name.0, row.name.1)).or_default();
                let mut index = 0;
                for (delta, count) in row.deltas.iter().zip(&row.counts) {
                    index += delta;
                    *cells.entry(index).or_default() += count;
                }
            }
            for row in second.counts {
                *sum.counts.entry((row.stage, row.counter, row.label)).or_default() += row.value;
            }
        }
        let sum = self.pending.entry(last).or_default();
        sum.failures.extend(failures.into_iter().map(|f| failure(f, offset_ns)));
        self.through[shard] = self.through[shard].max(last);
    }

    pub(super) fn end(&mut self, shard: usize) {
        self.through[shard] = i64::MAX;
    }

    /// Intervals for all seconds that every shard has closed. What belongs to
    /// a second that was sent already gets an interval of its own.
    pub(super) fn ready(&mut self) -> Vec<v1::Interval> {
        let through = self.through.iter().copied().min().unwrap_or(i64::MAX);
        let mut out = Vec::new();
        while let Some(entry) = self.pending.first_entry().filter(|entry| *entry.key() <= through) {
            let (second, sum) = entry.remove_entry();
            out.push(self.interval(second, sum));
        }
        out
    }

    fn interval(&mut self, second: i64, sum: Sum) -> v1::Interval {
        let first_time = second > self.emitted;
        self.emitted = self.emitted.max(second);
        let mut counters: Vec<v1::Count> = sum
            .counts
            .into_iter()
            .map(|((stage, counter, label), value)| v1::Count {
                step: u32::from(stage.step),
                phase: phase_name(stage.phase).to_owned(),
                counter: counter.to_owned(),
                label,
                value,
            })
            .collect();
        if first_time {
            // Coverage is derived from these: one for each second that was delivered.
            let stage = sum.series.keys().map(|key| key.0).next_back();
            let stage = counters
                .iter()
                .find(|count| count.counter == "cpu_us")
                .map(|count| (count.step, count.phase.clone()))
                .or_else(|| stage.map(|s| (u32::from(s.step), phase_name(s.phase).to_owned())));
            if let Some((step, phase)) = stage {
                counters.push(v1::Count {
                    step,
                    phase,
                    counter: "interval".into(),
                    label: String::new(),
                    value: 1,
                });
            }
        }
        let number = self.number;
        self.number += 1;
        v1::Interval {
            number,
            second_unix: second,
            series: sum.series.into_iter().map(|(key, cells)| series(key, cells)).collect(),
            counters,
            failures: joined(sum.failures),
        }
    }
}

/// Failures as they travel: beyond [`MAX_FAILURES`] rows, those of one kind are joined, and then
/// those of one code. None is left out of the counts.
fn joined(rows: Vec<v1::Failure>) -> Vec<v1::Failure> {
    if rows.len() <= MAX_FAILURES {
        return rows;
    }
    let mut kinds: BTreeMap<(u32, String, String, String, String, String), v1::Failure> = BTreeMap::new();
    for mut row in rows {
        let mut key = (
            row.step,
            row.phase.clone(),
            row.activity.clone(),
            row.class.clone(),
            row.code.clone(),
            row.reason.clone(),
        );
        if kinds.len() >= MAX_FAILURES && !kinds.contains_key(&key) {
            row.reason = FURTHER.to_owned();
            key.5 = FURTHER.to_owned();
        }
        match kinds.entry(key) {
            Entry::Vacant(free) => drop(free.insert(row)),
            Entry::Occupied(mut kind) => {
                let kind = kind.get_mut();
                let (count, last) =
                    (kind.count.saturating_add(row.count), kind.last_unix_ns.max(row.last_unix_ns));
                // The first of all explains the kind.
                if row.first_unix_ns < kind.first_unix_ns {
                    *kind = row;
                }
                (kind.count, kind.last_unix_ns) = (count, last);
            }
        }
    }
    kinds.into_values().collect()
}

fn series((stage, metric, base): SeriesKey, cells: BTreeMap<u32, u64>) -> v1::Series {
    let mut before = 0;
    let mut index_delta = Vec::with_capacity(cells.len());
    let mut count = Vec::with_capacity(cells.len());
    for (index, n) in cells {
        index_delta.push(index - before);
        before = index;
        count.push(n);
    }
    v1::Series {
        step: u32::from(stage.step),
        phase: phase_name(stage.phase).to_owned(),
        metric: metric.to_owned(),
        base: base.to_owned(),
        index_delta,
        count,
    }
}

fn failure(row: FailureRow, offset_ns: i64) -> v1::Failure {
    v1::Failure {
        step: u32::from(row.stage.step),
        phase: phase_name(row.stage.phase).to_owned(),
        activity: row.activity.name().to_owned(),
        class: class_name(row.class).to_owned(),
        code: row.code,
        reason: row.reason,
        diagnosis: row.diagnosis,
        count: row.count,
        first_unix_ns: row.first.0 as i64 + offset_ns,
        last_unix_ns: row.last.0 as i64 + offset_ns,
        transcript: row.transcript.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_beyond_the_limit_are_joined_and_all_counted() {
        let row = |number: u64, reason: String| v1::Failure {
            step: 1,
            phase: "hold".into(),
            activity: "publish".into(),
            class: "pool".into(),
            code: format!("sip:{}", 500 + number % 3),
            reason,
            count: 2,
            first_unix_ns: 1_000 - number as i64 % 500,
            last_unix_ns: number as i64,
            ..v1::Failure::default()
        };
        // As many shards say the same: one row for each kind.
        let same: Vec<_> = (0..640).map(|n| row(n, "busy".into())).collect();
        let few = joined(same);
        assert_eq!(few.len(), 3);
        assert_eq!(few.iter().map(|f| f.count).sum::<u64>(), 1_280);
        assert_eq!(few.iter().map(|f| (f.first_unix_ns, f.last_unix_ns)).min(), Some((501, 637)));
        // Each for a reason of its own: those beyond the limit are joined by their code.
        let many: Vec<_> = (0..2_000).map(|n| row(n, format!("reason {n}"))).collect();
        let kept = joined(many);
        assert_eq!(kept.len(), MAX_FAILURES + 3);
        assert_eq!(kept.iter().map(|f| f.count).sum::<u64>(), 4_000);
        assert_eq!(kept.iter().filter(|f| f.reason == FURTHER).count(), 3);
        let within: Vec<_> = (0..MAX_FAILURES as u64).map(|n| row(n, "busy".into())).collect();
        assert_eq!(joined(within.clone()), within);
    }

    #[test]
    fn failures_before_the_first_second_travel_in_a_second_that_can_be_written() {
        let mut merge = Merge::new(1);
        let failure = FailureRow {
            stage: Stage::WARMUP,
            activity: adsum_presence::host::Activity::Connect,
            class: adsum_presence::host::Class::Network,
            code: "transport:refused".into(),
            reason: String::new(),
            diagnosis: String::new(),
            count: 1,
            first: adsum_sip::Time(5),
            last: adsum_sip::Time(5),
            transcript: None,
            who: String::new(),
        };
        merge.add(0, Vec::new(), vec![failure], 0);
        merge.end(0);
        let ready = merge.ready();
        assert_eq!(ready.iter().map(|i| (i.second_unix, i.failures.len())).collect::<Vec<_>>(), [(0, 1)]);
    }
}
