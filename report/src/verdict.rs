//! What a run came to, in one word and one number.

use crate::manifest::{Manifest, PhaseInfo, StepInfo};
use crate::names::{Base, Cause, Phase};
use crate::raw::Raw;
use crate::threshold::{self, Judged, Numbers, Threshold, ThresholdRule};
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
        reasons.push(Reason::new(
            Cause::NotJudged,
            format!("{} samples for `{}`", j.samples, j.rule.expr),
            "ten above the rank".to_owned(),
            format!("step {} ({})", j.step, j.step_name),
        ));
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
    for rule in &manifest.thresholds {
        let Ok(read) = threshold::parse(&rule.expr) else { continue };
        let base = if rule.base == "sent" { Base::Sent } else { Base::Scheduled };
        let site = (!rule.site.is_empty() && rule.site != "all").then_some(rule.site.as_str());
        for (step, phase) in judged(manifest, &rule.step) {
            // `converged` is counted once, at the end of the last hold.
            if read.stat == threshold::Stat::Converged
                && rule.step.is_empty()
                && Some(step.step) != last_hold(manifest)
            {
                continue;
            }
            let numbers = Numbers::of_phase(raw, step.step, phase.phase, site);
            out.push(Judgement {
                rule: rule.clone(),
                threshold: read,
                step: step.step,
                step_name: step.name.clone(),
                site: site.unwrap_or("all").to_owned(),
                base,
                judged: numbers.judge(&read, base, false),
                samples: numbers.samples(&read, base),
                broken: broken_seconds(&numbers, &read, base, manifest.origin_unix_s, phase),
            });
        }
    }
    out
}

/// What a threshold's `step` names: a hold, or each of them if it names none; warm-up and drain by their names only.
fn judged<'m>(manifest: &'m Manifest, name: &'m str) -> impl Iterator<Item = (&'m StepInfo, PhaseInfo)> {
    manifest.steps.iter().filter_map(move |step| {
        let is_meant = |phase: &&PhaseInfo| match phase.phase {
            Phase::Hold => name.is_empty() || name == step.name,
            Phase::Warmup | Phase::Drain => name == phase.phase.name(),
            Phase::Ramp => false,
        };
        step.phases.iter().find(is_meant).map(|phase| (step, *phase))
    })
}

fn last_hold(manifest: &Manifest) -> Option<u32> {
    manifest.holds().map(|(step, _)| step.step).last()
}

fn broken_seconds(
    numbers: &Numbers<'_>,
    threshold: &Threshold,
    base: Base,
    origin: i64,
    phase: PhaseInfo,
) -> Vec<i64> {
    (phase.from_s as i64..phase.to_s.ceil() as i64)
        .filter(|t| matches!(numbers.of_second(origin + t).judge(threshold, base, true), Judged::Broken(_)))
        .collect()
}
