//! `[[step]]`: the offered rates, ladders expanded.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::model::Step;
use super::quantity::{SECOND_NS, rate_text, thousandths_text};
use super::reader::{At, Cx, Section};
use super::source::Wrong;

/// Steps of one run, ladders expanded.
pub(super) const MAX_STEPS: usize = 1_000;
/// A million arrivals a second: more than any one pool is asked, and far from overflow.
pub(super) const MAX_RATE_MHZ: u64 = 1_000_000_000;
/// Thirty days.
const MAX_HOLD_NS: u64 = 30 * 86_400 * SECOND_NS;
/// Names that phases of the run have already.
const RESERVED: [&str; 2] = ["warmup", "drain"];

/// The steps, and what the names in thresholds stand for.
pub(super) struct Steps {
    pub steps: Vec<Step>,
    /// A written name with the steps that it stands for: itself, or the rungs of a ladder.
    pub names: BTreeMap<String, Vec<String>>,
}

enum Rate {
    One(u64),
    Ladder { from: u64, to: u64, by: u64 },
}

pub(super) fn steps(cx: &mut Cx<'_>, sections: Vec<Section<'_, '_>>) -> Option<Steps> {
    let mut all = Steps { steps: Vec::new(), names: BTreeMap::new() };
    // What is no table was noted already.
    let mut complete = !sections.is_empty();
    for section in sections {
        let at = section.at.clone();
        match step(cx, section, &mut all.names) {
            Some((rungs, step)) => {
                let rungs = rungs.into_iter().map(|(name, rate_mhz)| Step { name, rate_mhz, ..step.clone() });
                all.steps.extend(rungs);
            }
            None => complete = false,
        }
        if all.steps.len() > MAX_STEPS {
            let wrong = Wrong::new("too many steps").found(all.steps.len().to_string());
            cx.wrong(&at, wrong.accepted(format!("at most {MAX_STEPS}, ladders expanded")));
            return None;
        }
    }
    complete.then_some(all)
}

/// One `[[step]]`: what its rungs are called with their rates, and the rest.
fn step(
    cx: &mut Cx<'_>,
    mut section: Section<'_, '_>,
    names: &mut BTreeMap<String, Vec<String>>,
) -> Option<(Vec<(String, u64)>, Step)> {
    for (key, accepted) in [
        ("name", "a name such as \"peak\""),
        ("rate", "a rate such as \"100/s\", or { from = …, to = …, by = … }"),
        ("hold", "a duration such as \"2m\""),
    ] {
        if !section.has(key) {
            section.missing(cx, key, accepted);
        }
    }
    let name_at = section.text_at("name");
    let name = super::name(cx, &mut section, "name");
    let rate = rate(cx, &mut section);
    let hold = section.duration(cx, "hold", 1..=MAX_HOLD_NS);
    let ramp = section.duration(cx, "ramp", 0..=MAX_HOLD_NS);
    let gate = section.boolean(cx, "gate");
    section.finish(cx);
    let (name, rate) = (name?, rate);
    let rungs = match rate {
        Some(Rate::One(rate)) => vec![(name.clone(), rate)],
        Some(Rate::Ladder { from, to, by }) => {
            let rates = std::iter::successors(Some(from), |rate| rate.checked_add(by));
            let rates = rates.take_while(|rate| *rate <= to).take(MAX_STEPS + 1);
            rates.map(|rate| (format!("{name}-{}", thousandths_text(rate)), rate)).collect()
        }
        // Even without a rate the name is taken: the next step of this name is a mistake of its own.
        None => vec![(name.clone(), 0)],
    };
    let taken = |name: &String| RESERVED.contains(&name.as_str()) || is_taken(names, name);
    if taken(&name) || rungs.iter().any(|(rung, _)| taken(rung)) {
        let wrong = Wrong::new(format!("the name `{name}` is taken"));
        let accepted = "a name that no other step has, and neither `warmup` nor `drain`";
        cx.wrong(&name_at, wrong.accepted(accepted));
        return None;
    }
    names.insert(name.clone(), rungs.iter().map(|(name, _)| name.clone()).collect());
    rate?;
    let (hold_ns, ramp_ns) = (hold?.value, ramp.map_or(0, |ramp| ramp.value));
    Some((rungs, Step { name, rate_mhz: 0, hold_ns, ramp_ns, gate: gate.is_some_and(|gate| gate.value) }))
}

fn is_taken(names: &BTreeMap<String, Vec<String>>, name: &str) -> bool {
    names.contains_key(name) || names.values().flatten().any(|taken| taken == name)
}

fn rate(cx: &mut Cx<'_>, section: &mut Section<'_, '_>) -> Option<Rate> {
    let is_ladder = section.get(cx, "rate").is_some_and(|value| matches!(value.get_ref(), DeValue::Table(_)));
    if !is_ladder {
        return section.rate(cx, "rate", 1..=MAX_RATE_MHZ).map(|rate| Rate::One(rate.value));
    }
    let mut ladder = section.section(cx, "rate")?;
    let mut read = |key: &'static str| -> Option<At<u64>> {
        if !ladder.has(key) {
            ladder.missing(cx, key, "a rate such as \"100/s\"");
        }
        ladder.rate(cx, key, 1..=MAX_RATE_MHZ)
    };
    let (from, to, by) = (read("from"), read("to"), read("by"));
    ladder.finish(cx);
    let (from, to, by) = (from?, to?, by?);
    if to.value < from.value {
        let wrong = Wrong::new("the ladder leads down").found(cx.found(&to.at));
        cx.wrong(&to.at, wrong.accepted(format!("at least {}", rate_text(from.value))));
        return None;
    }
    Some(Rate::Ladder { from: from.value, to: to.value, by: by.value })
}
