//! From the wire to the words of the files: everything that comes from an
//! agent is checked here, and nowhere else.

use adsum_proto::v1;
use adsum_report::raw::{Count, Failure, Interval, Series};
use adsum_report::{Base, Class, Metric, Phase};

/// An interval that an agent should not have sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("interval {number} of agent {agent}: {what}")]
pub struct BadInterval {
    /// Who sent it.
    pub agent: String,
    /// Its number.
    pub number: u64,
    /// What is wrong with it.
    pub what: String,
}

/// Longest text of a failure that is kept, in bytes.
const MAX_TEXT: usize = 16 * 1024;

/// Longest name or label of a counter, in bytes.
const MAX_NAME: usize = 256;
/// Seconds that files can write, from 1970 to 9999: whatever an agent's clock says.
const SECONDS: std::ops::RangeInclusive<i64> = 0..=253_402_300_799;

/// Reads an interval of an agent.
///
/// # Errors
/// [`BadInterval`] when it holds a word that this version does not know.
pub fn interval(
    agent: &str,
    site: &str,
    incarnation: u64,
    read: v1::Interval,
) -> Result<Interval, BadInterval> {
    let number = read.number;
    let bad = |what: String| BadInterval { agent: agent.to_owned(), number, what };
    if !SECONDS.contains(&read.second_unix) {
        return Err(bad(format!("second {}", read.second_unix)));
    }
    let long = read.counters.iter().find(|c| c.counter.len().max(c.label.len()) > MAX_NAME);
    if let Some(count) = long {
        let length = count.counter.len().max(count.label.len());
        return Err(bad(format!("a counter with a name of {length} bytes, more than {MAX_NAME}")));
    }
    let phase_of = |word: &str| Phase::parse(word).ok_or_else(|| bad(format!("phase `{word}`")));
    let mut series = Vec::with_capacity(read.series.len());
    for s in read.series {
        series.push(Series {
            step: s.step,
            phase: phase_of(&s.phase)?,
            metric: Metric::parse(&s.metric).ok_or_else(|| bad(format!("metric `{}`", s.metric)))?,
            base: Base::parse(&s.base).ok_or_else(|| bad(format!("base `{}`", s.base)))?,
            deltas: s.index_delta,
            counts: s.count,
        });
    }
    let mut counts = Vec::with_capacity(read.counters.len());
    for c in read.counters {
        let phase = phase_of(&c.phase)?;
        counts.push(Count { step: c.step, phase, counter: c.counter, label: c.label, value: c.value });
    }
    let mut failures = Vec::with_capacity(read.failures.len());
    for f in read.failures {
        failures.push(Failure {
            step: f.step,
            phase: phase_of(&f.phase)?,
            activity: cut(f.activity),
            class: Class::parse(&f.class).ok_or_else(|| bad(format!("class `{}`", f.class)))?,
            code: cut(f.code),
            reason: cut(f.reason),
            diagnosis: cut(f.diagnosis),
            count: f.count,
            first_unix_ns: f.first_unix_ns,
            last_unix_ns: f.last_unix_ns,
            transcript: Some(cut(f.transcript)).filter(|text| !text.is_empty()),
        });
    }
    Ok(Interval {
        agent: agent.to_owned(),
        site: site.to_owned(),
        incarnation,
        number,
        second: read.second_unix,
        series,
        counts,
        failures,
    })
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}
