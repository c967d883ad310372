//! Everything a run recorded, added up as it arrives: free of order, and
//! deaf to what it heard already.

use std::collections::{BTreeMap, BTreeSet};

use crate::histogram::{Histogram, HistogramError};
use crate::names::{Base, Class, Metric, Phase};

/// What one agent recorded in one second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interval {
    /// Who.
    pub agent: String,
    /// Where.
    pub site: String,
    /// Which process of that name.
    pub incarnation: u64,
    /// Numbered without gaps.
    pub number: u64,
    /// UTC, whole seconds.
    pub second: i64,
    /// Histograms.
    pub series: Vec<Series>,
    /// Counters.
    pub counts: Vec<Count>,
    /// Failures.
    pub failures: Vec<Failure>,
}

/// One histogram of an interval, as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// Step.
    pub step: u32,
    /// Phase.
    pub phase: Phase,
    /// Metric.
    pub metric: Metric,
    /// Base.
    pub base: Base,
    /// First index, then differences.
    pub deltas: Vec<u32>,
    /// A count for each.
    pub counts: Vec<u64>,
}

/// One counter of an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Step.
    pub step: u32,
    /// Phase.
    pub phase: Phase,
    /// Name.
    pub counter: String,
    /// Label, or empty.
    pub label: String,
    /// How often.
    pub value: u64,
}

/// One kind of failure in an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Step.
    pub step: u32,
    /// Phase.
    pub phase: Phase,
    /// Activity.
    pub activity: String,
    /// Who has to act.
    pub class: Class,
    /// Prefixed code.
    pub code: String,
    /// In words.
    pub reason: String,
    /// What to do.
    pub diagnosis: String,
    /// How often.
    pub count: u64,
    /// UTC nanoseconds.
    pub first_unix_ns: i64,
    /// UTC nanoseconds.
    pub last_unix_ns: i64,
    /// Messages of the first one.
    pub transcript: Option<String>,
}

/// Series of a second: second, step, phase, site, metric, base.
pub type SecondKey = (i64, u32, Phase, String, Metric, Base);
/// Series of an agent: step, phase, site, agent, metric, base.
pub type AgentKey = (u32, Phase, String, String, Metric, Base);
/// A counter: second, step, phase, site, agent, counter, label.
pub type CountKey = (i64, u32, Phase, String, String, String, String);
/// A counter over all seconds: step, phase, counter, label, site, agent.
type TotalKey = (u32, Phase, String, String, String, String);
/// A failure: step, phase, site, agent, activity, class, code, reason.
pub type FailureKey = (u32, Phase, String, String, String, Class, String, String);

/// A kind of failure, added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureSum {
    /// How often.
    pub count: u64,
    /// Of the first one.
    pub diagnosis: String,
    /// UTC nanoseconds.
    pub first_unix_ns: i64,
    /// UTC nanoseconds.
    pub last_unix_ns: i64,
    /// File name of the transcript in `failures/`, or empty.
    pub example: String,
}

/// Transcripts that are kept for each class and code.
pub const TRANSCRIPTS: usize = 3;
/// Kinds of failures that one run keeps apart.
pub const MAX_KINDS: usize = 4_096;

/// What all samples and counts of a run may come to together: a quarter of 2^64. No
/// run comes near it; a peer or a file that claims more is wrong.
const MAX_WEIGHT: u64 = 1 << 62;

/// All that was recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Raw {
    /// Histograms by second.
    pub seconds: BTreeMap<SecondKey, Histogram>,
    /// Histograms by agent.
    pub agents: BTreeMap<AgentKey, Histogram>,
    /// Counters by second and agent.
    timeline: BTreeMap<CountKey, u64>,
    /// The same over all seconds, added on the way: a long run ends as fast as a short one.
    totals: BTreeMap<TotalKey, u64>,
    /// Failures.
    pub failures: BTreeMap<FailureKey, FailureSum>,
    /// Text of transcripts by (class, code, first instant, agent): earliest first.
    pub transcripts: BTreeMap<(Class, String, i64, String), (FailureKey, String)>,
    seen: BTreeSet<(String, u64, u64)>,
    /// All that was counted together: kept below [`MAX_WEIGHT`], so that no sum of it can overflow.
    weight: u64,
}

impl Raw {
    /// Adds an interval; `false` if it was added before.
    ///
    /// # Errors
    /// When a histogram cannot be read, or the counts are beyond all reason;
    /// nothing of the interval is added then.
    pub fn absorb(&mut self, interval: &Interval) -> Result<bool, HistogramError> {
        let id = (interval.agent.clone(), interval.incarnation, interval.number);
        if self.seen.contains(&id) {
            return Ok(false);
        }
        let mut read = Vec::with_capacity(interval.series.len());
        for series in &interval.series {
            let mut histogram = Histogram::new();
            histogram.add_sparse(&series.deltas, &series.counts)?;
            read.push(histogram);
        }
        let mut values = (interval.counts.iter().map(|c| c.value))
            .chain(read.iter().map(Histogram::count))
            .chain(interval.failures.iter().map(|f| f.count));
        let weight = values.try_fold(0u64, |sum, n| sum.checked_add(n));
        self.weigh(weight.ok_or(HistogramError::Count)?)?;
        let (site, agent) = (&interval.site, &interval.agent);
        for (series, histogram) in interval.series.iter().zip(read) {
            let Series { step, phase, metric, base, .. } = *series;
            let key = (interval.second, step, phase, site.clone(), metric, base);
            self.seconds.entry(key).or_default().add(&histogram);
            let key = (step, phase, site.clone(), agent.clone(), metric, base);
            self.agents.entry(key).or_default().add(&histogram);
        }
        for c in interval.counts.iter().filter(|c| c.value > 0) {
            let key = (
                interval.second,
                c.step,
                c.phase,
                site.clone(),
                agent.clone(),
                c.counter.clone(),
                c.label.clone(),
            );
            self.count(key, c.value);
        }
        for failure in &interval.failures {
            self.absorb_failure(site, agent, failure);
        }
        self.seen.insert(id);
        Ok(true)
    }

    /// Room for so much more, or an error.
    pub(crate) fn weigh(&mut self, n: u64) -> Result<(), HistogramError> {
        let weight = self.weight.checked_add(n).filter(|weight| *weight <= MAX_WEIGHT);
        self.weight = weight.ok_or(HistogramError::Count)?;
        Ok(())
    }

    fn absorb_failure(&mut self, site: &str, agent: &str, f: &Failure) {
        let mut key = (
            f.step,
            f.phase,
            site.to_owned(),
            agent.to_owned(),
            f.activity.clone(),
            f.class,
            f.code.clone(),
            f.reason.clone(),
        );
        if !self.failures.contains_key(&key) && self.failures.len() >= MAX_KINDS {
            key.7 = "(further reasons)".to_owned();
        }
        let sum = self.failures.entry(key.clone()).or_insert_with(|| FailureSum {
            count: 0,
            diagnosis: f.diagnosis.clone(),
            first_unix_ns: i64::MAX,
            last_unix_ns: i64::MIN,
            example: String::new(),
        });
        sum.count += f.count;
        if f.first_unix_ns < sum.first_unix_ns {
            sum.first_unix_ns = f.first_unix_ns;
            sum.diagnosis.clone_from(&f.diagnosis);
        }
        sum.last_unix_ns = sum.last_unix_ns.max(f.last_unix_ns);
        if let Some(text) = &f.transcript {
            let id = (f.class, f.code.clone(), f.first_unix_ns, agent.to_owned());
            self.transcripts.insert(id, (key, text.clone()));
            let same: Vec<_> = self
                .transcripts
                .keys()
                .filter(|(class, code, ..)| *class == f.class && *code == f.code)
                .cloned()
                .collect();
            for surplus in same.iter().skip(TRANSCRIPTS) {
                self.transcripts.remove(surplus);
            }
        }
    }

    /// How many intervals of an agent were added.
    #[must_use]
    pub fn intervals_of(&self, agent: &str) -> u64 {
        self.seen.iter().filter(|(name, ..)| name == agent).count() as u64
    }

    /// Counters by second and agent.
    #[must_use]
    pub fn timeline(&self) -> &BTreeMap<CountKey, u64> {
        &self.timeline
    }

    /// Adds to a counter.
    pub(crate) fn count(&mut self, key: CountKey, value: u64) {
        let (_, step, phase, site, agent, counter, label) = key.clone();
        *self.totals.entry((step, phase, counter, label, site, agent)).or_default() += value;
        *self.timeline.entry(key).or_default() += value;
    }

    /// The sum of a counter over a step and phase; `site` `None` for all, any
    /// label unless one is given.
    #[must_use]
    pub fn total(
        &self,
        step: u32,
        phase: Phase,
        site: Option<&str>,
        counter: &str,
        label: Option<&str>,
    ) -> u64 {
        self.totals_of(step, phase, counter, label)
            .filter(|((.., at, _), _)| site.is_none_or(|site| site == at))
            .map(|(_, value)| value)
            .sum()
    }

    /// The same of one agent.
    #[must_use]
    pub fn total_of_agent(
        &self,
        step: u32,
        phase: Phase,
        agent: &str,
        counter: &str,
        label: Option<&str>,
    ) -> u64 {
        self.totals_of(step, phase, counter, label)
            .filter(|((.., name), _)| name == agent)
            .map(|(_, value)| value)
            .sum()
    }

    /// A counter's sums by agent, over a step and phase.
    #[must_use]
    pub fn totals_by_agent(&self, step: u32, phase: Phase, counter: &str) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for ((.., agent), value) in self.totals_of(step, phase, counter, None) {
            *sums.entry(agent.as_str()).or_default() += value;
        }
        sums
    }

    /// Counters over all seconds: step, phase, site, counter, label, value.
    pub fn totals(&self) -> impl Iterator<Item = (u32, Phase, &str, &str, &str, u64)> {
        self.totals.iter().map(|((step, phase, counter, label, site, _), value)| {
            (*step, *phase, site.as_str(), counter.as_str(), label.as_str(), *value)
        })
    }

    fn totals_of<'a, 'c>(
        &'a self,
        step: u32,
        phase: Phase,
        counter: &'c str,
        label: Option<&'c str>,
    ) -> impl Iterator<Item = (&'a TotalKey, &'a u64)> {
        let first = label.unwrap_or_default().to_owned();
        self.totals
            .range((step, phase, counter.to_owned(), first, String::new(), String::new())..)
            .take_while(move |((s, p, c, l, ..), _)| {
                (*s, *p, c.as_str()) == (step, phase, counter) && label.is_none_or(|label| label == l)
            })
    }

    /// The sum of a series over a step and phase.
    #[must_use]
    pub fn series(
        &self,
        step: u32,
        phase: Phase,
        site: Option<&str>,
        metric: Metric,
        base: Base,
    ) -> Histogram {
        let mut sum = Histogram::new();
        for ((s, p, at, _, m, b), histogram) in &self.agents {
            if *s == step && *p == phase && *m == metric && *b == base && site.is_none_or(|site| site == at) {
                sum.add(histogram);
            }
        }
        sum
    }
}
