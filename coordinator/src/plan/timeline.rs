//! When each step and phase of a run is, and how many arrivals it has.

use crate::scenario::{Kind, Scenario, Step};

/// A stretch of a run with one law of the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Before the start: log-on, readiness, settling.
    Warmup,
    /// On the way to a rate.
    Ramp,
    /// At a rate: what the statistics cover.
    Hold,
    /// Behind the last arrival: open expectations, log-off.
    Drain,
}

impl Phase {
    /// The word in results and on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Warmup => "warmup",
            Phase::Ramp => "ramp",
            Phase::Hold => "hold",
            Phase::Drain => "drain",
        }
    }
}

/// One phase of one step, in nanoseconds since the origin of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Which phase.
    pub phase: Phase,
    /// Its first instant.
    pub from_ns: u64,
    /// The instant behind it; `None` while nobody knows: the drain of a run under way.
    pub to_ns: Option<u64>,
}

/// One step with its phases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineStep {
    /// Its number: 0 is the warm-up, the last one the drain.
    pub index: u32,
    /// Its name: `warmup`, the scenario's, `drain`.
    pub name: String,
    /// Arrivals of the whole fleet; 0 for warm-up and drain.
    pub rate_mhz: u64,
    /// Length of the ramp.
    pub ramp_ns: u64,
    /// Length of the hold.
    pub hold_ns: u64,
    /// What releases are compared by.
    pub gate: bool,
    /// Its phases in order, none of them empty but the first and the last step's.
    pub phases: Vec<Span>,
}

/// All steps of a run. `start_ns` is the first ramp or hold, `end_ns` the end
/// of the drain if it is over, both since the origin.
#[must_use]
pub fn timeline(scenario: &Scenario, start_ns: u64, end_ns: Option<u64>) -> Vec<TimelineStep> {
    let outer = |index: u32, phase: Phase, from_ns, to_ns| TimelineStep {
        index,
        name: phase.name().to_owned(),
        rate_mhz: 0,
        ramp_ns: 0,
        hold_ns: 0,
        gate: false,
        phases: vec![Span { phase, from_ns, to_ns }],
    };
    let mut steps = vec![outer(0, Phase::Warmup, 0, Some(start_ns))];
    let mut at = start_ns;
    for (index, step) in (1..).zip(&scenario.steps) {
        let mut phases = Vec::with_capacity(2);
        for (phase, length) in [(Phase::Ramp, step.ramp_ns), (Phase::Hold, step.hold_ns)] {
            if length > 0 {
                phases.push(Span { phase, from_ns: at, to_ns: Some(at.saturating_add(length)) });
                at = at.saturating_add(length);
            }
        }
        let Step { name, rate_mhz, ramp_ns, hold_ns, gate } = step.clone();
        steps.push(TimelineStep { index, name, rate_mhz, ramp_ns, hold_ns, gate, phases });
    }
    steps.push(outer(steps.len() as u32, Phase::Drain, at, end_ns.map(|end| end.max(at))));
    steps
}

/// Nanoseconds from the first ramp or hold to the end of the last hold.
#[must_use]
pub fn length_ns(scenario: &Scenario) -> u64 {
    let lengths = scenario.steps.iter().map(|step| step.ramp_ns.saturating_add(step.hold_ns));
    lengths.fold(0, u64::saturating_add)
}

/// How long the log-on of all held users takes at the rates of `[warmup]`, with their
/// subscriptions and first publications, and their log-off. Subscriptions to oneself come
/// with the registration; everybody who publishes does it once.
#[must_use]
pub fn log_on_ns(scenario: &Scenario, users: u64) -> (u64, u64) {
    if scenario.workload.kind != Kind::Held {
        return (0, 0);
    }
    // Without contact lists every other user publishes, to one.
    let (subscriptions_milli, publishers) = match scenario.workload.fan_out {
        Some(fan_out) => (u128::from(users) * u128::from(fan_out.mean_milli), users),
        None => (u128::from(users / 2) * 1_000, users / 2),
    };
    let at = |milli: u128, rate_mhz: u64| {
        u64::try_from(milli * 1_000_000_000 / u128::from(rate_mhz.max(1))).unwrap_or(u64::MAX)
    };
    let register = at(u128::from(users) * 1_000, scenario.warmup.register_rate_mhz);
    let others = subscriptions_milli + u128::from(publishers) * 1_000;
    (register.saturating_add(at(others, scenario.warmup.subscribe_rate_mhz)), register)
}

/// How many arrivals the ramp and the hold of each step have, with constant arrivals.
#[must_use]
pub fn arrivals(scenario: &Scenario) -> Vec<(u64, u64)> {
    let mut before = 0;
    let mut all = Vec::with_capacity(scenario.steps.len());
    for step in &scenario.steps {
        all.push((
            count(before, step.rate_mhz, step.ramp_ns),
            count(step.rate_mhz, step.rate_mhz, step.hold_ns),
        ));
        before = step.rate_mhz;
    }
    all
}

/// Arrivals while the rate goes from one to the other: a constant rate is
/// rounded to the nearest, the integral of a ramp down.
fn count(from_mhz: u64, to_mhz: u64, length_ns: u64) -> u64 {
    // mHz · ns = 10⁻¹² arrivals, and twice that for the sum of both ends.
    const WHOLE: u128 = 2_000_000_000_000;
    let doubled = (u128::from(from_mhz) + u128::from(to_mhz)) * u128::from(length_ns);
    let half = if from_mhz == to_mhz { WHOLE / 2 } else { 0 };
    u64::try_from((doubled + half) / WHOLE).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_round_to_the_nearest_and_ramps_down() {
        const SECOND: u64 = 1_000_000_000;
        assert_eq!(count(100_000, 100_000, 2 * SECOND), 200);
        assert_eq!(count(100_000, 300_000, SECOND), 200);
        assert_eq!(count(1_000, 1_000, SECOND / 2), 1);
        assert_eq!(count(1_000, 1_000, SECOND / 2 - 1), 0);
        assert_eq!(count(0, 1_999, SECOND), 0);
        assert_eq!(count(333, 333, 3 * SECOND), 1);
    }
}
