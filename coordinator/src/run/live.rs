//! What is known while a run goes on: progress for people, and what ends it early.

use adsum_report::histogram::{Histogram, Percentile, Quantile};
use adsum_report::raw::CountKey;
use adsum_report::threshold::{self, Judged, Numbers, Threshold};
use adsum_report::verdict::is_meant;
use adsum_report::{Base, Metric, Phase, Raw};

use crate::plan::timeline;
use crate::scenario::{Scenario, StopOn};

/// How a run goes.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// `warmup`, `ramp`, `hold`, `drain`.
    pub phase: &'static str,
    /// Number of the step.
    pub step: u32,
    /// How many there are.
    pub steps: u32,
    /// Its name.
    pub step_name: String,
    /// Seconds since the start; 0 before it.
    pub elapsed_s: f64,
    /// Seconds of ramps and holds in all.
    pub length_s: f64,
    /// Arrivals a second, over the last ten.
    pub offered_hz: f64,
    /// Of which were sent.
    pub sent_hz: f64,
    /// Median of `publish_to_notify` over the last ten seconds, in seconds.
    pub p50_s: Option<f64>,
    /// Its p99.
    pub p99_s: Option<f64>,
    /// Expectations missed so far.
    pub missed: u64,
    /// Failures so far.
    pub failed: u64,
    /// p99 of the send lag over the last ten seconds, in seconds.
    pub send_lag_p99_s: Option<f64>,
    /// Agents that are there.
    pub agents: u32,
    /// Agents that took part.
    pub agents_expected: u32,
    /// Workflows and publications that run.
    pub in_flight: u64,
    /// Users that are registered.
    pub registered: u64,
    /// Users of the run.
    pub users: u64,
}

/// What [`progress`] needs besides the data.
pub(super) struct Here {
    pub now: i64,
    pub start: Option<i64>,
    pub ending: bool,
    pub agents: u32,
    pub agents_expected: u32,
    pub in_flight: u64,
    pub registered: u64,
    pub users: u64,
}

/// Before all counters of a second.
fn from_second(second: i64) -> CountKey {
    (second, 0, Phase::Warmup, String::new(), String::new(), String::new(), String::new())
}

pub(super) fn progress(raw: &Raw, scenario: &Scenario, here: Here) -> Progress {
    let length = timeline::length_ns(scenario) as i64;
    let elapsed = here.start.map_or(0, |start| (here.now - start).max(0));
    let (mut phase, mut step, mut name) = ("warmup", 0, String::new());
    if here.ending || (here.start.is_some() && elapsed >= length) {
        (phase, step) = ("drain", scenario.steps.len() as u32);
    } else if here.start.is_some_and(|start| here.now >= start) {
        for s in timeline::timeline(scenario, 0, None) {
            for span in &s.phases {
                let inside =
                    span.from_ns as i64 <= elapsed && span.to_ns.is_none_or(|to| elapsed < to as i64);
                if inside && s.index > 0 && s.index <= scenario.steps.len() as u32 {
                    (phase, step, name) = (span.phase.name(), s.index, s.name.clone());
                }
            }
        }
    }
    let last = here.now / 1_000_000_000 - 2;
    let window = last - 9..=last;
    let count = |counter: &str| -> u64 {
        raw.timeline()
            .range(from_second(*window.start())..from_second(window.end() + 1))
            .filter(|((_, _, phase, .., c, _), _)| *phase != Phase::Warmup && c == counter)
            .map(|(_, n)| n)
            .sum()
    };
    let series = |metric: Metric, base: Base| {
        let mut sum = Histogram::new();
        let key = |second: i64| (second, 0, Phase::Warmup, String::new(), Metric::Connect, Base::Scheduled);
        for ((_, _, phase, _, m, b), histogram) in
            raw.seconds.range(key(*window.start())..key(window.end() + 1))
        {
            // What readiness did is no part of any rate or latency.
            if *phase != Phase::Warmup && *m == metric && *b == base {
                sum.add(histogram);
            }
        }
        sum
    };
    let at = |h: &Histogram, q: u64| match h.at_rank(Quantile(q), 0) {
        Percentile::Value(us) => Some(us as f64 / 1e6),
        _ => None,
    };
    let seen = (elapsed / 1_000_000_000 - 1).clamp(1, 10) as f64;
    let latency = series(Metric::PublishToNotify, Base::Scheduled);
    Progress {
        phase,
        step,
        steps: scenario.steps.len() as u32,
        step_name: name,
        elapsed_s: elapsed as f64 / 1e9,
        length_s: length as f64 / 1e9,
        offered_hz: count("offered") as f64 / seen,
        sent_hz: count("sent") as f64 / seen,
        p50_s: at(&latency, 500_000_000),
        p99_s: at(&latency, 990_000_000),
        missed: raw.totals().filter(|row| row.3 == "missed").map(|row| row.5).sum(),
        failed: raw.failures.values().map(|f| f.count).sum(),
        send_lag_p99_s: at(&series(Metric::SendLag, Base::None), 990_000_000),
        agents: here.agents,
        agents_expected: here.agents_expected,
        in_flight: here.in_flight,
        registered: here.registered,
        users: here.users,
    }
}

/// Why a run ends early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stopped {
    /// A threshold with `abort_on_fail`.
    ByThreshold(String),
    /// `stop_on`.
    ToProtect(String),
}

impl Stopped {
    pub fn remark(&self) -> String {
        match self {
            Stopped::ByThreshold(expr) => format!("`{expr}` is broken and ends the run"),
            Stopped::ToProtect(expr) => {
                format!(
                    "`{expr}`: the run stops to protect the pool ([safety] overload = true switches that off)"
                )
            }
        }
    }
}

/// Seconds that are looked at in one go, when the coordinator itself was held up.
const CATCH_UP: i64 = 60;

/// Looks at every second once.
#[derive(Debug)]
pub(super) struct Judge {
    rules: Vec<Rule>,
    stop_on: Option<StopOn>,
    protected: u32,
    last: i64,
}

#[derive(Debug)]
struct Rule {
    expr: String,
    threshold: Threshold,
    base: Base,
    /// Empty: each hold.
    step: String,
    /// `None` for the sum.
    site: Option<String>,
    after_s: u64,
    for_s: u64,
    /// Where, and for how many seconds in a row.
    broken: (u32, Phase, u64),
}

/// Which phase a second belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub step: u32,
    pub name: &'a str,
    pub phase: Phase,
    /// Seconds since its beginning.
    pub held_s: u64,
}

impl Judge {
    pub fn new(scenario: &Scenario) -> Self {
        let rules = scenario
            .thresholds
            .iter()
            .filter(|t| t.abort_on_fail)
            .filter_map(|t| {
                Some(Rule {
                    expr: t.expr.clone(),
                    threshold: threshold::parse(&t.expr).ok()?,
                    base: Base::parse(t.base.name())?,
                    step: t.step.clone().unwrap_or_default(),
                    site: t.site.clone().filter(|site| site != "all"),
                    after_s: t.after_s,
                    for_s: t.for_s.max(1),
                    broken: (0, Phase::Warmup, 0),
                })
            })
            .collect();
        Judge { rules, stop_on: scenario.safety.stop_on, protected: 0, last: i64::MIN }
    }

    /// Judges all seconds up to this one, which agents have reported; each only once.
    pub fn through<'a>(
        &mut self,
        raw: &Raw,
        second: i64,
        place: impl Fn(i64) -> Option<Place<'a>>,
    ) -> Option<Stopped> {
        let first = self.last.saturating_add(1).max(second - CATCH_UP);
        let first = if self.last == i64::MIN { second } else { first };
        self.last = self.last.max(second);
        (first..=second).find_map(|second| self.second(raw, second, place(second)))
    }

    fn second(&mut self, raw: &Raw, second: i64, place: Option<Place<'_>>) -> Option<Stopped> {
        if let Some(stop_on) = self.stop_on {
            let share = error_share(raw, second, stop_on.class);
            let above = share.is_some_and(|share| share > stop_on.above_ppb);
            self.protected = if above { self.protected + 1 } else { 0 };
            if self.protected >= stop_on.for_s {
                return Some(Stopped::ToProtect(stop_on.to_string()));
            }
        }
        // Behind the last hold nothing is left that could be ended.
        let Place { step, name, phase, held_s } = place.filter(|place| place.phase != Phase::Drain)?;
        for rule in &mut self.rules {
            if !is_meant(&rule.step, name, phase) || held_s < rule.after_s {
                continue;
            }
            let numbers = Numbers::of_phase(raw, step, phase, rule.site.as_deref());
            let broken = matches!(numbers.judge(&rule.threshold, rule.base, false), Judged::Broken(_));
            let before = if (rule.broken.0, rule.broken.1) == (step, phase) { rule.broken.2 } else { 0 };
            rule.broken = (step, phase, if broken { before + 1 } else { 0 });
            if rule.broken.2 >= rule.for_s {
                return Some(Stopped::ByThreshold(rule.expr.clone()));
            }
        }
        None
    }
}

/// The share of error answers of a class among all final answers of a second, in billionths.
fn error_share(raw: &Raw, second: i64, class: u8) -> Option<u64> {
    let (mut errors, mut all) = (0u64, 0u64);
    for ((.., counter, label), n) in raw.timeline().range(from_second(second)..from_second(second + 1)) {
        let code: Option<u16> = label.rsplit(' ').next().and_then(|code| code.parse().ok());
        if let (true, Some(code)) = (counter == "sip_received", code.filter(|code| *code >= 200)) {
            all += n;
            errors += if code / 100 == u16::from(class) { *n } else { 0 };
        }
    }
    // A handful of answers is no state of a pool.
    (all >= 10).then(|| errors.saturating_mul(1_000_000_000) / all)
}
