//! What a run came to, in one word and one number.

use std::collections::{BTreeMap, BTreeSet};

use crate::manifest::{Manifest, PhaseInfo, StepInfo};
use crate::names::{Base, Cause, Phase};
use crate::raw::Raw;
use crate::threshold::{self, Judged, Numbers, Stat, Threshold, ThresholdRule};
use crate::trust::{self, Reason};

/// Exit codes of a run, strongest first.
pub const PRECEDENCE: [u8; 12] = [2, 3, 4, 130, 143, 1, 14, 13, 12, 11, 10, 0];

/// One threshold at one hold.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// As written.
    pub rule: ThresholdRule,
    /// As read.
    pub threshold: Threshold,
    /// Which hold.
    pub step: u32,
    /// Its name.
    pub step_name: String,
    /// Which site; `all` for the sum.
    pub site: String,
    /// Which base.
    pub base: Base,
    /// What it came to.
    pub judged: Judged,
    /// On how many samples.
    pub samples: u64,
    /// Seconds of the hold, from the origin, whose own data break it.
    pub broken: Vec<i64>,
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// `passed`, `failed`, `untrustworthy`.
    pub word: &'static str,
    /// The strongest code.
    pub exit_code: u8,
    /// All that applied.
    pub codes: Vec<u8>,
    /// Why it is not to be believed.
    pub reasons: Vec<Reason>,
    /// Each threshold at each hold.
    pub judgements: Vec<Judgement>,
}

/// Judges a run.
#[must_use]
pub fn judge(raw: &Raw, manifest: &Manifest) -> Verdict {
    let judgements = judgements(raw, manifest);
    let mut reasons = trust::judge(raw, manifest);
    for j in judgements.iter().filter(|j| j.judged == Judged::NotJudged) {
        let limit = match j.threshold.stat {
            Stat::Percentile(..) => "ten above the rank",
            _ => "one at least",
        };
        reasons.push(Reason::new(
            Cause::NotJudged,
            format!("{} samples for `{}`", j.samples, j.rule.expr),
            limit.to_owned(),
            format!("step {} ({})", j.step, j.step_name),
        ));
    }
    for rule in &manifest.thresholds {
        if let Err(error) = threshold::parse(&rule.expr) {
            reasons.push(Reason::new(
                Cause::NotJudged,
                format!("{}: {}", error.message, error.help),
                "a threshold that this adsum can read".to_owned(),
                format!("threshold `{}`", rule.expr),
            ));
        }
    }
    let events = &manifest.events;
    for agent in manifest.agents.iter().filter(|a| !a.lost.is_empty()) {
        reasons.push(Reason::new(
            Cause::AgentLost,
            agent.lost.clone(),
            "none".to_owned(),
            format!("agent {} at {}", agent.name, agent.site),
        ));
    }
    if !events.internal.is_empty() {
        reasons.push(Reason::new(
            Cause::InternalError,
            events.internal.clone(),
            "none".to_owned(),
            "the run".to_owned(),
        ));
    }
    // What ends a run by its own rules has a code of its own; a signal says nothing of the pool.
    if events.interrupted && events.signal > 0 {
        reasons.push(Reason::new(
            Cause::Interrupted,
            format!("ended from outside (exit {}) before the schedule was", events.signal),
            "the whole schedule".to_owned(),
            "the run".to_owned(),
        ));
    }
    let failed = judgements.iter().any(|j| matches!(j.judged, Judged::Broken(_)));
    let mut codes = Vec::new();
    let mut add = |applies: bool, code: u8| {
        if applies {
            codes.push(code);
        }
    };
    add(!events.not_ready.is_empty(), 4);
    add(events.signal > 0, events.signal);
    add(!events.internal.is_empty(), 1);
    add(!events.stopped_by.is_empty(), 14);
    add(events.agent_lost, 13);
    add(!reasons.is_empty(), 12);
    add(!events.aborted_by.is_empty(), 11);
    add(failed, 10);
    codes.sort_by_key(|code| PRECEDENCE.iter().position(|p| p == code));
    // A run that never began has nothing to be judged by.
    let word = if !reasons.is_empty() || !events.not_ready.is_empty() {
        "untrustworthy"
    } else if failed || !events.aborted_by.is_empty() || !events.stopped_by.is_empty() {
        "failed"
    } else {
        "passed"
    };
    Verdict { word, exit_code: codes.first().copied().unwrap_or(0), codes, reasons, judgements }
}

fn judgements(raw: &Raw, manifest: &Manifest) -> Vec<Judgement> {
    let mut out = Vec::new();
    let (sites, seconds) = (manifest.sites(), seconds(raw));
    for rule in &manifest.thresholds {
        let Ok(read) = threshold::parse(&rule.expr) else { continue };
        let base = if rule.base == "sent" { Base::Sent } else { Base::Scheduled };
        let site = (!rule.site.is_empty() && rule.site != "all").then_some(rule.site.as_str());
        for (step, phase) in judged(manifest, &rule.step) {
            // `converged` is counted once, at the end of the last hold.
            if read.stat == Stat::Converged && rule.step.is_empty() && Some(step.step) != last_hold(manifest)
            {
                continue;
            }
            let numbers = Numbers::of_phase(raw, step.step, phase.phase, site);
            // Where no agent was, every count is 0, and that is no pass.
            let there = site.is_none_or(|site| sites.iter().any(|known| known == site));
            let broken = |second: &i64| {
                matches!(numbers.of_second(*second).judge(&read, base, true), Judged::Broken(_))
            };
            let all = seconds.get(&(step.step, phase.phase)).into_iter().flatten();
            out.push(Judgement {
                rule: rule.clone(),
                threshold: read,
                step: step.step,
                step_name: step.name.clone(),
                site: site.unwrap_or("all").to_owned(),
                base,
                judged: if there { numbers.judge(&read, base, false) } else { Judged::NotJudged },
                samples: numbers.samples(&read, base),
                broken: all
                    .copied()
                    .filter(broken)
                    .map(|second| second.saturating_sub(manifest.origin_unix_s))
                    .collect(),
            });
        }
    }
    out
}

/// The seconds in which something of each phase was recorded: also those behind
/// its end, in which what began in it ended.
fn seconds(raw: &Raw) -> BTreeMap<(u32, Phase), BTreeSet<i64>> {
    let mut seconds: BTreeMap<_, BTreeSet<i64>> = BTreeMap::new();
    let of_counts = raw.timeline().keys().map(|(second, step, phase, ..)| (*step, *phase, *second));
    let of_series = raw.seconds.keys().map(|(second, step, phase, ..)| (*step, *phase, *second));
    for (step, phase, second) in of_counts.chain(of_series) {
        seconds.entry((step, phase)).or_default().insert(second);
    }
    seconds
}

/// True if a threshold whose `step` is `wanted` judges this phase of a step: a hold by its name, or each
/// of them if it names none; warm-up and drain by their names only.
#[must_use]
pub fn is_meant(wanted: &str, step_name: &str, phase: Phase) -> bool {
    match phase {
        Phase::Hold => wanted.is_empty() || wanted == step_name,
        Phase::Warmup | Phase::Drain => wanted == phase.name(),
        Phase::Ramp => false,
    }
}

/// What a threshold's `step` names.
fn judged<'m>(manifest: &'m Manifest, name: &'m str) -> impl Iterator<Item = (&'m StepInfo, PhaseInfo)> {
    manifest.steps.iter().filter_map(move |step| {
        let meant = |phase: &&PhaseInfo| is_meant(name, &step.name, phase.phase);
        step.phases.iter().find(meant).map(|phase| (step, *phase))
    })
}

fn last_hold(manifest: &Manifest) -> Option<u32> {
    manifest.holds().map(|(step, _)| step.step).last()
}
