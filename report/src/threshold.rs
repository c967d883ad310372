//! Thresholds: `metric "." stat op value`, read and judged.

use serde::{Deserialize, Serialize};

use crate::histogram::{Histogram, Percentile, Quantile};
use crate::names::{Base, Metric, Phase};
use crate::raw::Raw;

/// A threshold as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThresholdRule {
    /// The expression.
    pub expr: String,
    /// Which step; each hold if it is empty.
    pub step: String,
    /// Which site; the sum if it is empty.
    pub site: String,
    /// `scheduled` or `sent`; empty for scheduled.
    pub base: String,
    /// End the run when it is broken.
    pub abort_on_fail: bool,
    /// Seconds of a hold before it may end the run.
    pub after_s: u64,
    /// Seconds for which it has to be broken.
    pub for_s: u64,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stat {
    /// A percentile of a latency.
    Percentile(Metric, Quantile),
    /// Smallest latency.
    Min(Metric),
    /// Largest latency.
    Max(Metric),
    /// Mean latency.
    Mean(Metric),
    /// Number of samples.
    Count(Metric),
    /// Missed of all that could be judged.
    MissedRatio,
    /// Superseded of all that could be judged.
    SupersededRatio,
    /// Void of all that was expected.
    VoidRatio,
    /// Sent of offered.
    SentRatio,
    /// Failed of started; of one activity, if given.
    FailedRatio(Option<Metric>),
    /// Subscriptions that show the last publication.
    Converged,
}

/// How it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the operators of that name")]
pub enum Op {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// What kind of number it is; latencies are nanoseconds, ratios billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds.
    Time,
    /// Billionths.
    Ratio,
    /// A number.
    Count,
}

/// A threshold that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// What is compared.
    pub stat: Stat,
    /// How.
    pub op: Op,
    /// With what, in the unit.
    pub limit: u128,
    /// The unit.
    pub unit: Unit,
}

/// An expression that cannot be read: where in it, and what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ThresholdError {
    /// First byte of what is wrong.
    pub offset: usize,
    /// How many bytes.
    pub len: usize,
    /// What is wrong.
    pub message: String,
    /// What is accepted.
    pub help: String,
}

const OPERATORS: [(&str, Op); 6] = [
    ("<=", Op::LessOrEqual),
    (">=", Op::GreaterOrEqual),
    ("==", Op::Equal),
    ("!=", Op::NotEqual),
    ("<", Op::Less),
    (">", Op::Greater),
];

/// Reads an expression.
///
/// # Errors
/// [`ThresholdError`].
pub fn parse(expr: &str) -> Result<Threshold, ThresholdError> {
    let wrong = |offset: usize, len: usize, message: String, help: &str| ThresholdError {
        offset,
        len,
        message,
        help: help.to_owned(),
    };
    let found = OPERATORS
        .iter()
        .filter_map(|(text, op)| expr.find(text).map(|at| (at, *text, *op)))
        .min_by_key(|f| (f.0, usize::MAX - f.1.len()));
    let Some((at, text, op)) = found else {
        return Err(wrong(
            0,
            expr.len(),
            format!("`{expr}` has no comparison"),
            "use one of < <= > >= == !=",
        ));
    };
    let left = expr[..at].trim();
    let right = expr[at + text.len()..].trim();
    let stat = parse_stat(left)
        .map_err(|(message, help)| wrong(expr.find(left).unwrap_or(0), left.len().max(1), message, &help))?;
    let unit = match stat {
        Stat::Percentile(..) | Stat::Min(_) | Stat::Max(_) | Stat::Mean(_) => Unit::Time,
        Stat::Count(_) => Unit::Count,
        _ => Unit::Ratio,
    };
    let limit = parse_value(right, unit).ok_or_else(|| {
        let help = match unit {
            Unit::Time => "a duration with its unit: 250ms, 1.5s, 800us",
            Unit::Ratio => "a share of at most 100%: 0.1%, or a fraction such as 0.001",
            Unit::Count => "a whole number",
        };
        wrong(
            at + text.len(),
            expr.len() - at - text.len(),
            format!("`{right}` cannot be compared with `{left}`"),
            help,
        )
    })?;
    Ok(Threshold { stat, op, limit, unit })
}

fn parse_stat(left: &str) -> Result<Stat, (String, String)> {
    match left {
        "missed.ratio" => return Ok(Stat::MissedRatio),
        "superseded.ratio" => return Ok(Stat::SupersededRatio),
        "void.ratio" => return Ok(Stat::VoidRatio),
        "sent.ratio" => return Ok(Stat::SentRatio),
        "failed.ratio" => return Ok(Stat::FailedRatio(None)),
        "converged" => return Ok(Stat::Converged),
        _ => {}
    }
    let names: Vec<&str> = Metric::ALL.iter().map(|m| m.name()).collect();
    let (name, stat) = left.split_once('.').unwrap_or((left, ""));
    let Some(metric) = Metric::parse(name) else {
        let near = names.iter().min_by_key(|n| distance(n, name)).filter(|n| distance(n, name) <= 4);
        let hint = near.map_or(String::new(), |n| format!("did you mean `{n}`? "));
        return Err((
            format!("`{name}` is no metric"),
            format!(
                "{hint}metrics are {}; ratios are missed.ratio, superseded.ratio, void.ratio, sent.ratio, failed.ratio, METRIC.failed.ratio, converged",
                names.join(", ")
            ),
        ));
    };
    let percentile = |text: &str| text.strip_prefix('p').and_then(Quantile::from_percent);
    match stat {
        "min" => Ok(Stat::Min(metric)),
        "max" => Ok(Stat::Max(metric)),
        "mean" => Ok(Stat::Mean(metric)),
        "count" => Ok(Stat::Count(metric)),
        // The others have no activity of their own that could fail: such a threshold would always hold.
        "failed.ratio" if metric.is_activity() => Ok(Stat::FailedRatio(Some(metric))),
        "failed.ratio" => {
            let names: Vec<&str> = Metric::ALL.iter().filter(|m| m.is_activity()).map(|m| m.name()).collect();
            Err((
                format!("`{name}` is no activity that could fail"),
                format!("use failed.ratio of the run, missed.ratio, or that of {}", names.join(", ")),
            ))
        }
        other => percentile(other).map(|q| Stat::Percentile(metric, q)).ok_or_else(|| {
            (
                format!("`{other}` is no statistic of `{name}`"),
                "use min, mean, max, count, p50, p99, p99.9 … or failed.ratio".to_owned(),
            )
        }),
    }
}

fn parse_value(text: &str, unit: Unit) -> Option<u128> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = (&text[..split], text[split..].trim());
    let scale: u128 = match (unit, suffix) {
        (Unit::Time, "ns") => 1,
        (Unit::Time, "us" | "µs") => 1_000,
        (Unit::Time, "ms") => 1_000_000,
        (Unit::Time, "s") => 1_000_000_000,
        (Unit::Time, "m") => 60_000_000_000,
        (Unit::Ratio, "%") => 10_000_000,
        (Unit::Ratio, "") => 1_000_000_000,
        (Unit::Count, "") => 1,
        _ => return None,
    };
    // No share is more than the whole, and no latency longer than a century.
    let most = if unit == Unit::Ratio { 1_000_000_000 } else { u128::from(u64::MAX) };
    decimal(number, scale).filter(|value| *value <= most)
}

/// A decimal number times `scale`, exactly; `None` if it is none, or finer.
fn decimal(text: &str, scale: u128) -> Option<u128> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() && part.is_empty() || part.len() > 12 {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let tenth = 10u128.pow(part.len() as u32);
    let part: u128 = if part.is_empty() { 0 } else { part.parse().ok()? };
    let scaled = part.checked_mul(scale)?;
    (scaled % tenth == 0).then_some(())?;
    whole.checked_mul(scale)?.checked_add(scaled / tenth)
}

/// Edits between two words: how unlike they are.
#[must_use]
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let cost = (before + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            before = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[b.len()]
}

/// The numbers a threshold is judged by: of a hold, or of one second of it.
#[derive(Debug, Clone, Default)]
pub struct Numbers<'a> {
    raw: Option<&'a Raw>,
    /// Step and phase.
    at: Option<(u32, Phase)>,
    site: Option<&'a str>,
    second: Option<i64>,
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Judged {
    /// It holds; with what was found, in the unit.
    Holds(u128),
    /// It is broken; `None` if the rank lies among the censored.
    Broken(Option<u128>),
    /// The rank lies among the censored, and that is what was asked for.
    HoldsBeyond,
    /// No data, or too few samples.
    NotJudged,
}

impl<'a> Numbers<'a> {
    /// Of a whole phase of a step; `site` `None` for the sum.
    #[must_use]
    pub fn of_phase(raw: &'a Raw, step: u32, phase: Phase, site: Option<&'a str>) -> Self {
        Numbers { raw: Some(raw), at: Some((step, phase)), site, second: None }
    }

    /// Of one second of it.
    #[must_use]
    pub fn of_second(&self, second: i64) -> Self {
        Numbers { second: Some(second), ..self.clone() }
    }

    fn histogram(&self, metric: Metric, base: Base) -> Histogram {
        let (Some(raw), Some((step, phase))) = (self.raw, self.at) else { return Histogram::new() };
        let base = if metric == Metric::SendLag { Base::None } else { base };
        let Some(second) = self.second else { return raw.series(step, phase, self.site, metric, base) };
        let mut sum = Histogram::new();
        let from = (second, step, phase, String::new(), metric, Base::Scheduled);
        for ((at, s, p, site, m, b), histogram) in raw.seconds.range(from..) {
            if (*at, *s, *p) != (second, step, phase) {
                break;
            }
            if *m == metric && *b == base && self.site.is_none_or(|wanted| wanted == site) {
                sum.add(histogram);
            }
        }
        sum
    }

    fn count(&self, counter: &str, label: Option<&str>) -> u64 {
        let (Some(raw), Some((step, phase))) = (self.raw, self.at) else { return 0 };
        let Some(second) = self.second else { return raw.total(step, phase, self.site, counter, label) };
        let from = (second, step, phase, String::new(), String::new(), String::new(), String::new());
        raw.timeline()
            .range(from..)
            .take_while(|((at, s, p, ..), _)| (*at, *s, *p) == (second, step, phase))
            .filter(|((.., site, _, c, l), _)| {
                c == counter && label.is_none_or(|x| x == l) && self.site.is_none_or(|x| x == site)
            })
            .map(|(_, value)| value)
            .sum()
    }

    /// Those of a metric that never came. Of one second: those whose
    /// publication was intended in it.
    fn censored(&self, metric: Metric) -> u64 {
        if self.second.is_some() && metric == Metric::PublishToNotify {
            return self.count("missed_due", None);
        }
        self.count("censored", Some(metric.name()))
    }

    fn failures(&self, activity: Option<&str>) -> u64 {
        let (Some(raw), Some((step, phase))) = (self.raw, self.at) else { return 0 };
        raw.failures
            .iter()
            .filter(|((s, p, site, _, a, ..), _)| {
                *s == step
                    && *p == phase
                    && activity.is_none_or(|x| x == a)
                    && self.site.is_none_or(|wanted| wanted == site)
            })
            .map(|(_, sum)| sum.count)
            .sum()
    }

    /// Numerator and denominator of a ratio.
    fn ratio(&self, stat: Stat) -> (u64, u64) {
        let count = |name: &str| self.count(name, None);
        let missed = if self.second.is_some() { count("missed_due") } else { count("missed") };
        let judged = count("delivered") + count("superseded") + missed;
        match stat {
            Stat::MissedRatio => (missed, judged),
            Stat::SupersededRatio => (count("superseded"), judged),
            Stat::VoidRatio => (count("void"), judged + count("void")),
            Stat::SentRatio => (count("sent"), count("offered")),
            Stat::FailedRatio(None) => (
                count("publish_failed") + count("workflow_failed") + count("workflow_timed_out"),
                count("sent"),
            ),
            Stat::FailedRatio(Some(metric)) if self.second.is_none() => {
                let failed = self.failures(Some(metric.name()));
                (failed, failed + self.histogram(metric, Base::Scheduled).count())
            }
            Stat::Converged => (count("converged"), count("converged") + count("not_converged")),
            _ => (0, 0),
        }
    }

    /// Judges a threshold. `few` also judges what rests on few samples, as a
    /// single second does.
    #[must_use]
    pub fn judge(&self, threshold: &Threshold, base: Base, few: bool) -> Judged {
        let ns = |us: u64| u128::from(us) * 1_000;
        let value = match threshold.stat {
            Stat::Percentile(metric, q) => {
                let histogram = self.histogram(metric, base);
                let censored = self.censored(metric);
                let read =
                    if few { histogram.at_rank(q, censored) } else { histogram.percentile(q, censored) };
                match read {
                    Percentile::Value(us) => Some(ns(us)),
                    Percentile::Censored => return beyond(threshold.op),
                    Percentile::TooFew => None,
                }
            }
            Stat::Max(metric) if self.censored(metric) > 0 => return beyond(threshold.op),
            Stat::Min(metric) => self.histogram(metric, base).min().map(ns),
            Stat::Max(metric) => self.histogram(metric, base).max().map(ns),
            Stat::Mean(metric) => {
                self.histogram(metric, base).mean().map(|us| (us * 1_000.0).round() as u128)
            }
            // Who lost something and never got it back counts, too: else an outage without an end would pass.
            Stat::Count(metric) if metric == Metric::Recovery => {
                Some(u128::from(self.histogram(metric, base).count()) + u128::from(self.censored(metric)))
            }
            Stat::Count(metric) => Some(u128::from(self.histogram(metric, base).count())),
            stat => {
                let (part, whole) = self.ratio(stat);
                if whole == 0 {
                    return Judged::NotJudged;
                }
                // Compared as integers: part/whole ? limit/10⁹.
                let (left, right) = (u128::from(part) * 1_000_000_000, threshold.limit * u128::from(whole));
                let shown = u128::from(part) * 1_000_000_000 / u128::from(whole);
                return if compare(threshold.op, left, right) {
                    Judged::Holds(shown)
                } else {
                    Judged::Broken(Some(shown))
                };
            }
        };
        match value {
            None => Judged::NotJudged,
            Some(value) if compare(threshold.op, value, threshold.limit) => Judged::Holds(value),
            Some(value) => Judged::Broken(Some(value)),
        }
    }

    /// How many samples a threshold rests on.
    #[must_use]
    pub fn samples(&self, threshold: &Threshold, base: Base) -> u64 {
        match threshold.stat {
            Stat::Percentile(m, _) | Stat::Min(m) | Stat::Max(m) | Stat::Mean(m) | Stat::Count(m) => {
                self.histogram(m, base).count() + self.censored(m)
            }
            stat => self.ratio(stat).1,
        }
    }
}

fn beyond(op: Op) -> Judged {
    match op {
        Op::Greater | Op::GreaterOrEqual | Op::NotEqual => Judged::HoldsBeyond,
        _ => Judged::Broken(None),
    }
}

fn compare(op: Op, left: u128, right: u128) -> bool {
    match op {
        Op::Less => left < right,
        Op::LessOrEqual => left <= right,
        Op::Greater => left > right,
        Op::GreaterOrEqual => left >= right,
        Op::Equal => left == right,
        Op::NotEqual => left != right,
    }
}

impl Op {
    /// As written.
    #[must_use]
    pub fn text(self) -> &'static str {
        OPERATORS.iter().find(|(_, op)| *op == self).map_or("", |(text, _)| text)
    }
}

impl Stat {
    /// The metric whose latencies it is of, if it is of latencies.
    #[must_use]
    pub fn metric(self) -> Option<Metric> {
        match self {
            Stat::Percentile(m, _) | Stat::Min(m) | Stat::Max(m) | Stat::Mean(m) => Some(m),
            _ => None,
        }
    }

    /// Metric and statistic as in `thresholds.csv`.
    #[must_use]
    pub fn names(self) -> (String, String) {
        let quantile = |q: Quantile| {
            let text = format!("{:.7}", q.0 as f64 / 1e7);
            format!("p{}", text.trim_end_matches('0').trim_end_matches('.'))
        };
        match self {
            Stat::Percentile(m, q) => (m.name().into(), quantile(q)),
            Stat::Min(m) => (m.name().into(), "min".into()),
            Stat::Max(m) => (m.name().into(), "max".into()),
            Stat::Mean(m) => (m.name().into(), "mean".into()),
            Stat::Count(m) => (m.name().into(), "count".into()),
            Stat::MissedRatio => ("missed".into(), "ratio".into()),
            Stat::SupersededRatio => ("superseded".into(), "ratio".into()),
            Stat::VoidRatio => ("void".into(), "ratio".into()),
            Stat::SentRatio => ("sent".into(), "ratio".into()),
            Stat::FailedRatio(None) => ("failed".into(), "ratio".into()),
            Stat::FailedRatio(Some(m)) => (m.name().into(), "failed.ratio".into()),
            Stat::Converged => ("converged".into(), String::new()),
        }
    }
}

/// What is judged when a scenario says nothing: exit 0 means that everything
/// worked. Held users also have to keep what they have: a pool that drops all
/// subscriptions and takes them again owes no notification meanwhile.
#[must_use]
pub fn defaults(held: bool) -> Vec<ThresholdRule> {
    let all = ["missed.ratio == 0%", "failed.ratio == 0%", "converged == 100%", "recovery.count == 0"];
    all.into_iter()
        .take(if held { all.len() } else { 2 })
        .map(|expr| ThresholdRule { expr: expr.to_owned(), ..ThresholdRule::default() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_exactly() {
        let read = parse("publish_to_notify.p99.9 <= 1.5ms").unwrap();
        assert_eq!(read.stat, Stat::Percentile(Metric::PublishToNotify, Quantile(999_000_000)));
        assert_eq!((read.op, read.limit, read.unit), (Op::LessOrEqual, 1_500_000, Unit::Time));
        assert_eq!(parse("missed.ratio < 0.1%").unwrap().limit, 1_000_000);
        assert_eq!(
            parse("register.failed.ratio == 0%").unwrap().stat,
            Stat::FailedRatio(Some(Metric::Register))
        );
        assert_eq!(parse("publish.p999<250ms").unwrap().limit, 250_000_000);
    }

    #[test]
    fn what_cannot_be_read_says_what_can() {
        let error = parse("publish_to_notfy.p99 < 1s").unwrap_err();
        assert_eq!((error.offset, error.len), (0, 20));
        assert!(error.help.contains("did you mean `publish_to_notify`"), "{}", error.help);
        assert!(parse("publish.p99 < 250").unwrap_err().help.contains("250ms"));
        assert!(parse("publish.p99").unwrap_err().message.contains("no comparison"));
        assert!(parse("publish.q99 < 1s").unwrap_err().help.contains("p50"));
        assert!(parse("publish_to_notify.failed.ratio == 0%").unwrap_err().help.contains("missed.ratio"));
        let much = "9".repeat(38);
        for value in ["101%", "1.001", &format!("{much}%"), &much] {
            assert!(parse(&format!("missed.ratio < {value}")).unwrap_err().help.contains("100%"), "{value}");
        }
        for expr in [format!("publish.p99 < {much}s"), format!("publish.count < {much}")] {
            assert!(parse(&expr).is_err(), "{expr}");
        }
    }
}
