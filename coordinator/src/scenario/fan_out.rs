//! `workload.fan_out`: how many subscribers publishers have.
//!
//! The agents draw the graph; what cannot be drawn is refused here, with its
//! place, before anything is sent. Both sides keep the same rules, and a test
//! of the program holds them together (`tests/fan_out.rs`).

use super::model::{Distribution, FanOut, Kind, Users};
use super::quantity::thousandths_text;
use super::reader::{Cx, Section};
use super::source::Wrong;

/// More subscribers of one publisher than this are no contact list.
pub const MAX_FAN_OUT: u32 = 10_000;

impl FanOut {
    /// Why there is no such distribution: what is accepted instead, in words.
    ///
    /// # Errors
    /// Every distribution has 0 < mean ≤ max ≤ [`MAX_FAN_OUT`], and whole numbers of subscribers:
    /// `uniform` begins at 2·mean − max; `zipf` and `lognormal` begin at 1 and lean to the small ones.
    pub fn check(&self) -> Result<(), String> {
        let (mean, max) = (self.mean_milli, u64::from(self.max) * 1_000);
        if self.max == 0 || self.max > MAX_FAN_OUT || mean == 0 || mean > max {
            return Err(format!("0 < mean <= max <= {MAX_FAN_OUT}"));
        }
        match self.distribution {
            Distribution::Constant => Ok(()),
            Distribution::Uniform if mean * 2 >= max && (mean * 2 - max) % 1_000 == 0 => Ok(()),
            // From 2·mean − max to max: twice the mean has to be whole, and the first number not below 0.
            Distribution::Uniform if (mean * 2) % 1_000 != 0 => {
                Err("a mean of whole or half subscribers, such as 2 or 2.5".to_owned())
            }
            Distribution::Uniform => {
                Err(format!("a max of at most twice the mean, {}", thousandths_text(mean * 2)))
            }
            Distribution::Zipf | Distribution::LogNormal if mean >= 1_000 && mean * 2 <= max + 1_000 => {
                Ok(())
            }
            Distribution::Zipf | Distribution::LogNormal => {
                Err(format!("a mean from 1 to (max + 1) / 2 = {}", thousandths_text((max + 1_000) / 2)))
            }
        }
    }

    /// `max` where none is given; `None` if there is none to be guessed.
    fn default_max(distribution: Distribution, mean_milli: u64) -> Option<u32> {
        let max = match distribution {
            Distribution::Constant => mean_milli.div_ceil(1_000),
            Distribution::Uniform => (mean_milli * 2).div_ceil(1_000),
            // Their largest numbers make much of the load: whoever writes the scenario says them.
            Distribution::Zipf | Distribution::LogNormal => return None,
        };
        // Above the limit it is refused, with the number.
        u32::try_from(max).ok()
    }
}

/// Reads `fan_out`, an inline table or one of its own.
pub(super) fn fan_out(
    cx: &mut Cx<'_>,
    workload: &mut Section<'_, '_>,
    kind: Option<Kind>,
    users: Option<&Users>,
) -> Option<FanOut> {
    let mut section = workload.section(cx, "fan_out")?;
    stands_alone(cx, workload, kind);
    for (key, accepted) in [
        ("distribution", "\"constant\", \"uniform\", \"zipf\", \"lognormal\""),
        ("mean", "the mean number of subscribers, such as 10 or 2.5"),
    ] {
        if !section.has(key) {
            section.missing(cx, key, accepted);
        }
    }
    let distribution = section.choice(cx, "distribution", Distribution::WORDS);
    let most = u64::from(MAX_FAN_OUT);
    let accepted = format!("a number above 0 and up to {most} with at most three decimals");
    let mean = section.thousandths(cx, "mean", "mean", 1..=most * 1_000, &accepted);
    let max = section.integer(cx, "max", 1..=most);
    let (has_max, max_at, at) = (section.has("max"), section.text_at("max"), section.at.clone());
    let (distribution, mean) = match (distribution, mean) {
        (Some(distribution), Some(mean)) => (distribution.value, mean),
        _ => {
            section.finish(cx);
            return None;
        }
    };
    let guessed = FanOut::default_max(distribution, mean.value);
    if !has_max && guessed.is_none() {
        let accepted = format!("the most subscribers of one publisher, an integer from 1 to {most}");
        section.missing(cx, "max", &accepted);
    }
    section.finish(cx);
    let max = match max {
        Some(max) => u32::try_from(max.value).ok()?,
        None if has_max => return None,
        None => guessed?,
    };
    let fan_out = FanOut { distribution, mean_milli: mean.value, max };
    if let Err(accepted) = fan_out.check() {
        let message = format!("there is no {distribution} `{}` like this", workload.name("fan_out"));
        let found = format!("mean = {}, max = {max}", thousandths_text(mean.value));
        cx.wrong(&at, Wrong::new(message).found(found).accepted(accepted));
        return None;
    }
    if let Some(Users::Pattern { count, .. }) = users
        && u64::from(max) >= *count
    {
        let wrong = Wrong::new("one publisher is to have more subscribers than there are other users")
            .found(format!("max = {max} of {count} users"))
            .accepted("a max below the number of users on one shard of an agent");
        cx.wrong(if has_max { &max_at } else { &mean.at }, wrong);
        return None;
    }
    Some(fan_out)
}

/// A graph has no pairs: what is about pairs cannot stand beside it. Roles are
/// known from the users' file only ([`crate::users::of_scenario`]).
fn stands_alone(cx: &mut Cx<'_>, workload: &Section<'_, '_>, kind: Option<Kind>) {
    let at = workload.key_at("fan_out");
    if kind == Some(Kind::Workflow) {
        let wrong = Wrong::new("`workload.fan_out` needs users who stay signed on")
            .found("kind = \"workflow\"")
            .accepted("kind = \"held\"");
        cx.wrong(&at, wrong.help("a workflow is that of one pair: remove fan_out, or write kind = \"held\""));
    }
    if workload.has("placement") {
        let wrong =
            Wrong::new("`workload.placement` is about pairs, and with `workload.fan_out` there are none")
                .accepted("one of them");
        cx.wrong(
            &workload.key_at("placement"),
            wrong.help("subscribers are always on their publisher's shard"),
        );
    }
}
