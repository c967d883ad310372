//! What a shard records, second by second.
//!
//! Histograms are HdrHistograms in layout — 1 µs to 3600 s, three significant
//! digits — kept as a dense array of counts with a list of the cells that were
//! touched, so that closing a second costs what was recorded in it and not
//! what could have been. A latency in nanoseconds is rounded *up* to the next
//! microsecond: rounding must not flatter.
//!
//! A sample belongs to the second in which it ended, a count to the instant it
//! is given. What belongs to a second that was closed already goes into a
//! further record of that second: nothing is moved, nothing is lost.

use adsum_presence::host::{Counter, Measure, Method, Phase, Stage};
use adsum_sip::Time;

/// Largest value, in microseconds.
pub const MAX_US: u64 = 3_600_000_000;
/// Sub-buckets of a bucket: the power of two above twice 10³.
const SUB_BITS: u32 = 11;
const HALF: u64 = 1 << (SUB_BITS - 1);
/// Cells up to the largest value.
pub const CELLS: usize = index_of(MAX_US) as usize + 1;

/// The index of a value's cell in the counts array of an HdrHistogram with
/// this range and precision.
#[inline]
#[must_use]
pub const fn index_of(us: u64) -> u32 {
    let bucket = (64 - SUB_BITS) - (us | (2 * HALF - 1)).leading_zeros();
    (((bucket as u64 + 1) << (SUB_BITS - 1)) + (us >> bucket) - HALF) as u32
}

/// Counts of one series in one second.
#[derive(Debug)]
struct Cells {
    counts: Vec<u32>,
    touched: Vec<u32>,
}

impl Cells {
    fn new() -> Self {
        Cells { counts: vec![0; CELLS], touched: Vec::with_capacity(64) }
    }

    #[inline]
    fn record(&mut self, us: u64) {
        let index = index_of(us.max(1));
        let count = &mut self.counts[index as usize];
        if *count == 0 {
            self.touched.push(index);
        }
        *count += 1;
    }

    /// Index differences and counts, and all cells empty again.
    fn take(&mut self) -> (Vec<u32>, Vec<u64>) {
        self.touched.sort_unstable();
        let mut before = 0;
        let mut deltas = Vec::with_capacity(self.touched.len());
        let mut counts = Vec::with_capacity(self.touched.len());
        for index in self.touched.drain(..) {
            deltas.push(index - before);
            before = index;
            counts.push(u64::from(std::mem::take(&mut self.counts[index as usize])));
        }
        (deltas, counts)
    }
}

/// The series of latencies: twelve measures in two bases, and the send lag.
const MEASURES: usize = 12;
const SERIES: usize = 2 * MEASURES + 1;
const SEND_LAG: usize = 2 * MEASURES;

/// `metric` and `base` of a series.
fn series_name(series: usize) -> (&'static str, &'static str) {
    if series == SEND_LAG {
        return ("send_lag", "");
    }
    let metric = [
        "connect",
        "register",
        "self_subscribe",
        "subscribe",
        "subscribe_to_notify",
        "publish",
        "publish_to_notify",
        "notify_fanout_last",
        "unsubscribe",
        "unregister",
        "workflow",
        "recovery",
    ][series / 2];
    (metric, if series.is_multiple_of(2) { "scheduled" } else { "sent" })
}

/// The word for a measure.
#[must_use]
pub fn metric_name(measure: Measure) -> &'static str {
    series_name(measure as usize * 2).0
}

/// The word for a phase.
#[must_use]
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Warmup => "warmup",
        Phase::Ramp => "ramp",
        Phase::Hold => "hold",
        Phase::Drain => "drain",
    }
}

/// Name and label of a counter.
fn counter_name(counter: Counter) -> (&'static str, &'static str) {
    match counter {
        Counter::Offered => ("offered", ""),
        Counter::Sent => ("sent", ""),
        Counter::NotStarted => ("not_started", ""),
        Counter::PublishOk => ("publish_ok", ""),
        Counter::PublishFailed => ("publish_failed", ""),
        Counter::WorkflowOk => ("workflow_ok", ""),
        Counter::WorkflowTimedOut => ("workflow_timed_out", ""),
        Counter::WorkflowFailed => ("workflow_failed", ""),
        Counter::Expected => ("expected", ""),
        Counter::Delivered => ("delivered", ""),
        Counter::Superseded => ("superseded", ""),
        Counter::Missed => ("missed", ""),
        Counter::MissedDue => ("missed_due", ""),
        Counter::VoidPublishFailed => ("void", "publish_failed"),
        Counter::VoidInterrupted => ("void", "interrupted"),
        Counter::NotExpected => ("not_expected", ""),
        Counter::Duplicate => ("duplicate", ""),
        Counter::Late => ("late", ""),
        Counter::ReorderedCseq => ("reordered_cseq", ""),
        Counter::ReorderedState => ("reordered_state", ""),
        Counter::Converged => ("converged", ""),
        Counter::NotConverged => ("not_converged", ""),
        Counter::Reconnect => ("reconnect", ""),
        Counter::SubscriptionLost => ("subscription_lost", ""),
        Counter::WaitedPair => ("waited_pair", ""),
        Counter::WaitedPublication => ("waited_publication", ""),
        Counter::WriteBlocked => ("write_blocked", ""),
        Counter::Unmatched => ("unmatched", ""),
        Counter::UsersRejected => ("users_rejected", ""),
        Counter::EtagConflict => ("etag_conflict", ""),
        Counter::RefreshRegister => ("refresh", "REGISTER"),
        Counter::RefreshSubscribe => ("refresh", "SUBSCRIBE"),
        Counter::RefreshPublish => ("refresh", "PUBLISH"),
        Counter::Malformed => ("malformed", ""),
        Counter::AlreadyGone => ("already_gone", ""),
        Counter::AuthMismatch => ("auth_mismatch", ""),
        Counter::VersionConflict => ("version_conflict", ""),
    }
}

/// All counters that have a place of their own.
const COUNTERS: [Counter; Counter::COUNT] = [
    Counter::Offered,
    Counter::Sent,
    Counter::NotStarted,
    Counter::PublishOk,
    Counter::PublishFailed,
    Counter::WorkflowOk,
    Counter::WorkflowTimedOut,
    Counter::WorkflowFailed,
    Counter::Expected,
    Counter::Delivered,
    Counter::Superseded,
    Counter::Missed,
    Counter::MissedDue,
    Counter::VoidPublishFailed,
    Counter::VoidInterrupted,
    Counter::NotExpected,
    Counter::Duplicate,
    Counter::Late,
    Counter::ReorderedCseq,
    Counter::ReorderedState,
    Counter::Converged,
    Counter::NotConverged,
    Counter::Reconnect,
    Counter::SubscriptionLost,
    Counter::WaitedPair,
    Counter::WaitedPublication,
    Counter::WriteBlocked,
    Counter::Unmatched,
    Counter::UsersRejected,
    Counter::EtagConflict,
    Counter::RefreshRegister,
    Counter::RefreshSubscribe,
    Counter::RefreshPublish,
    Counter::Malformed,
    Counter::AlreadyGone,
    Counter::AuthMismatch,
    Counter::VersionConflict,
];

/// Counts of messages: direction, again or not, method, code.
type MessageKey = (bool, bool, Method, u16);

/// What one stage recorded in one second.
#[derive(Debug)]
struct Sheet {
    second: i64,
    stage: Stage,
    used: bool,
    series: Vec<Option<Cells>>,
    counters: [u64; Counter::COUNT],
    messages: Vec<(MessageKey, u64)>,
    /// Rare ones, by name and label.
    named: Vec<(&'static str, String, u64)>,
}

impl Sheet {
    fn new() -> Self {
        Sheet {
            second: 0,
            stage: Stage::WARMUP,
            used: false,
            series: (0..SERIES).map(|_| None).collect(),
            counters: [0; Counter::COUNT],
            messages: Vec::new(),
            named: Vec::new(),
        }
    }
}

/// One second of one shard, ready to travel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Second {
    /// UTC, whole seconds, by the coordinator's clock.
    pub second: i64,
    /// (step, phase, metric, base), index differences, counts.
    pub series: Vec<SeriesRow>,
    /// (step, phase, counter, label), value.
    pub counts: Vec<CountRow>,
}

/// One histogram of a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesRow {
    /// Where it counts.
    pub stage: Stage,
    /// Metric and base.
    pub name: (&'static str, &'static str),
    /// First index, then differences.
    pub deltas: Vec<u32>,
    /// A count for each.
    pub counts: Vec<u64>,
}

/// One counter of a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountRow {
    /// Where it counts.
    pub stage: Stage,
    /// Its name.
    pub counter: &'static str,
    /// Its label, or empty.
    pub label: String,
    /// How often.
    pub value: u64,
}

/// Where a shard records.
#[derive(Debug)]
pub struct Recorder {
    sheets: Vec<Sheet>,
    /// The sheet that was used last: mostly the next one, too.
    last: usize,
    /// The coordinator's wall clock minus our monotonic clock, in nanoseconds.
    offset: i64,
    spare: Vec<Cells>,
}

impl Recorder {
    /// `offset` turns our monotonic clock into the coordinator's wall clock.
    #[must_use]
    pub fn new(offset: i64) -> Self {
        Recorder { sheets: Vec::new(), last: 0, offset, spare: Vec::new() }
    }

    /// The second an instant lies in.
    #[inline]
    #[must_use]
    pub fn second_of(&self, at: Time) -> i64 {
        (at.0 as i64).saturating_add(self.offset).div_euclid(1_000_000_000)
    }

    /// When a second ends on our clock.
    #[must_use]
    pub fn end_of(&self, second: i64) -> Time {
        Time(((second + 1).saturating_mul(1_000_000_000).saturating_sub(self.offset)).max(0) as u64)
    }

    fn sheet(&mut self, at: Time, stage: Stage) -> &mut Sheet {
        let second = self.second_of(at);
        let fits = |sheet: &Sheet| sheet.used && sheet.second == second && sheet.stage == stage;
        if !self.sheets.get(self.last).is_some_and(fits) {
            self.last = match self.sheets.iter().position(fits) {
                Some(found) => found,
                None => {
                    let free = self.sheets.iter().position(|sheet| !sheet.used).unwrap_or_else(|| {
                        self.sheets.push(Sheet::new());
                        self.sheets.len() - 1
                    });
                    let sheet = &mut self.sheets[free];
                    (sheet.second, sheet.stage, sheet.used) = (second, stage, true);
                    free
                }
            };
        }
        &mut self.sheets[self.last]
    }

    fn put(&mut self, at: Time, stage: Stage, series: usize, ns: u64) {
        let us = ns.div_ceil(1_000);
        if us > MAX_US {
            return self.name(at, stage, "overflow", series_name(series).0, 1);
        }
        let mut spare = self.spare.pop();
        let sheet = self.sheet(at, stage);
        let cells = sheet.series[series].get_or_insert_with(|| spare.take().unwrap_or_else(Cells::new));
        cells.record(us);
        self.spare.extend(spare);
    }

    /// A success, in both bases.
    #[inline]
    pub fn sample(&mut self, measure: Measure, stage: Stage, intended: Time, sent: Time, ended: Time) {
        let series = measure as usize * 2;
        self.put(ended, stage, series, ended.since(intended));
        self.put(ended, stage, series + 1, ended.since(sent));
    }

    /// How late an arrival was sent.
    pub fn send_lag(&mut self, stage: Stage, due: Time, sent: Time) {
        self.put(sent, stage, SEND_LAG, sent.since(due));
    }

    /// Something happened `n` times.
    #[inline]
    pub fn count(&mut self, at: Time, stage: Stage, counter: Counter, n: u64) {
        self.sheet(at, stage).counters[counter as usize] += n;
    }

    /// A message was sent or received.
    #[inline]
    pub fn message(&mut self, at: Time, stage: Stage, sent: bool, again: bool, method: Method, code: u16) {
        let key = (sent, again, method, code);
        let messages = &mut self.sheet(at, stage).messages;
        match messages.iter_mut().find(|(k, _)| *k == key) {
            Some((_, count)) => *count += 1,
            None => messages.push((key, 1)),
        }
    }

    /// Something rare, by name and label.
    pub fn name(&mut self, at: Time, stage: Stage, counter: &'static str, label: &str, n: u64) {
        let named = &mut self.sheet(at, stage).named;
        match named.iter_mut().find(|(c, l, _)| *c == counter && l == label) {
            Some((.., count)) => *count += n,
            None => named.push((counter, label.to_owned(), n)),
        }
    }

    /// Takes all seconds before `second` (`i64::MAX` for everything), oldest
    /// first. The one just before it is always there, if only empty.
    pub fn close(&mut self, second: i64) -> Vec<Second> {
        let mut closed: Vec<Second> = Vec::new();
        if second != i64::MAX {
            closed.push(Second { second: second - 1, ..Second::default() });
        }
        let mut sheets = std::mem::take(&mut self.sheets);
        for sheet in sheets.iter_mut().filter(|sheet| sheet.used && sheet.second < second) {
            let at = match closed.iter().position(|c| c.second == sheet.second) {
                Some(at) => at,
                None => {
                    closed.push(Second { second: sheet.second, ..Second::default() });
                    closed.len() - 1
                }
            };
            self.empty(sheet, &mut closed[at]);
        }
        self.sheets = sheets;
        closed.sort_by_key(|closed| closed.second);
        closed
    }

    fn empty(&mut self, sheet: &mut Sheet, into: &mut Second) {
        let stage = sheet.stage;
        for (series, cells) in sheet.series.iter_mut().enumerate() {
            if let Some(mut cells) = cells.take() {
                let (deltas, counts) = cells.take();
                into.series.push(SeriesRow { stage, name: series_name(series), deltas, counts });
                self.spare.push(cells);
            }
        }
        for counter in COUNTERS {
            let value = std::mem::take(&mut sheet.counters[counter as usize]);
            if value > 0 {
                let (counter, label) = counter_name(counter);
                into.counts.push(CountRow { stage, counter, label: label.to_owned(), value });
            }
        }
        for ((sent, again, method, code), value) in sheet.messages.drain(..) {
            let label =
                if code == 0 { method.name().to_owned() } else { format!("{} {code}", method.name()) };
            if again {
                let counter = if sent { "retransmit_sent" } else { "retransmit_received" };
                into.counts.push(CountRow { stage, counter, label: label.clone(), value });
            }
            // What went over the wire, first time or again: this is what a capture shows.
            let counter = if sent { "sip_sent" } else { "sip_received" };
            match into
                .counts
                .iter_mut()
                .find(|r| r.stage == stage && r.counter == counter && r.label == label)
            {
                Some(row) => row.value += value,
                None => into.counts.push(CountRow { stage, counter, label, value }),
            }
        }
        for (counter, label, value) in sheet.named.drain(..) {
            into.counts.push(CountRow { stage, counter, label, value });
        }
        sheet.used = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_place() {
        for (at, counter) in COUNTERS.iter().enumerate() {
            assert_eq!(*counter as usize, at);
        }
    }

    #[test]
    fn indexes_are_those_of_an_hdr_histogram() {
        // Exact below 2048; then every further doubling halves the precision.
        for us in 0..2048 {
            assert_eq!(u64::from(index_of(us)), us);
        }
        assert_eq!(index_of(2048), 2048);
        assert_eq!(index_of(2049), 2048);
        assert_eq!(index_of(2050), 2049);
        assert_eq!(index_of(4096), 3072);
        assert_eq!(index_of(4099), 3072);
        assert_eq!(index_of(4100), 3073);
    }

    #[test]
    fn a_sample_goes_to_the_second_it_ended_in_and_late_ones_are_kept() {
        let mut recorder = Recorder::new(0);
        let stage = Stage { step: 1, phase: Phase::Hold };
        let at = |s: f64| Time((s * 1e9) as u64);
        recorder.sample(Measure::Publish, stage, at(9.0), at(9.5), at(10.2));
        let closed = recorder.close(11);
        assert_eq!(closed.len(), 1);
        assert_eq!(closed[0].second, 10);
        assert_eq!(closed[0].series[0].name, ("publish", "scheduled"));
        assert_eq!(closed[0].series[0].deltas, [index_of(1_200_000)]);
        recorder.count(at(3.0), stage, Counter::MissedDue, 2);
        let closed = recorder.close(29);
        assert_eq!(closed.iter().map(|c| c.second).collect::<Vec<_>>(), [3, 28]);
        assert_eq!(closed[0].counts[0].value, 2);
        assert!(recorder.close(i64::MAX).is_empty());
    }

    #[test]
    fn latencies_are_rounded_up_and_never_cut() {
        let mut recorder = Recorder::new(0);
        let stage = Stage::WARMUP;
        recorder.send_lag(stage, Time(0), Time(1));
        recorder.send_lag(stage, Time(0), Time((MAX_US + 1) * 1_000));
        let closed = recorder.close(i64::MAX);
        let rows: Vec<_> = closed.iter().flat_map(|c| &c.series).collect();
        assert_eq!((rows.len(), rows[0].deltas[0]), (1, 1));
        assert_eq!(closed[1].counts[0].counter, "overflow");
    }
}
