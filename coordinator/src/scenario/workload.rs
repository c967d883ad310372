//! `[workload]` and `[warmup]`: what the users do.

use super::fan_out::fan_out;
use super::model::{Arrivals, Kind, Users, Warmup, Workload};
use super::quantity::SECOND_NS;
use super::reader::{Cx, Section};
use super::source::Wrong;
use super::steps::MAX_RATE_MHZ;

/// Histograms end at one hour, so nothing waits longer.
const MAX_DEADLINE_NS: u64 = 3_600 * SECOND_NS;
/// `Expires` is a number of 32 bits (RFC 3261 §20.19).
const MAX_EXPIRES_S: u64 = u32::MAX as u64;
/// Below this a refresh would be due while the log-on is still under way.
const MIN_EXPIRES_S: u64 = 60;
/// A coarser wake-up would be felt by the pool as bursts.
const MAX_QUANTUM_NS: u64 = 10_000_000;
const MAX_SETTLE_NS: u64 = 24 * 3_600 * SECOND_NS;

pub(super) fn workload(
    cx: &mut Cx<'_>,
    mut section: Section<'_, '_>,
    users: Option<&Users>,
) -> Option<Workload> {
    let kind = section.choice(cx, "kind", Kind::WORDS);
    if !section.has("kind") {
        section.missing(cx, "kind", "\"workflow\", \"held\"");
    }
    let arrivals = section.choice(cx, "arrivals", Arrivals::WORDS).map_or(Arrivals::Constant, |a| a.value);
    let deadline = section.duration(cx, "deadline", 1_000_000..=MAX_DEADLINE_NS);
    let self_subscribe = section.boolean(cx, "self_subscribe").is_none_or(|yes| yes.value);
    let expires_s = expires(cx, &mut section);
    let max_in_flight = section.integer(cx, "max_in_flight", 1..=u64::from(u32::MAX));
    let quantum = section.duration(cx, "quantum", 0..=MAX_QUANTUM_NS);
    let fan_out = fan_out(cx, &mut section, kind.as_ref().map(|kind| kind.value), users);
    placement(cx, &mut section);
    section.later(cx, "min_interval");
    section.finish(cx);
    Some(Workload {
        kind: kind?.value,
        arrivals,
        deadline_ns: deadline.map_or(25 * SECOND_NS, |d| d.value),
        self_subscribe,
        expires_s,
        max_in_flight: max_in_flight.and_then(|most| u32::try_from(most.value).ok()),
        quantum_ns: quantum.map_or(0, |quantum| quantum.value),
        fan_out,
    })
}

/// `Expires` counts whole seconds.
fn expires(cx: &mut Cx<'_>, section: &mut Section<'_, '_>) -> u32 {
    const DEFAULT_S: u32 = 3_600;
    let bounds = MIN_EXPIRES_S * SECOND_NS..=MAX_EXPIRES_S * SECOND_NS;
    let Some(expires) = section.duration(cx, "expires", bounds) else { return DEFAULT_S };
    if expires.value % SECOND_NS != 0 {
        let wrong = Wrong::new("`workload.expires` counts whole seconds").found(cx.found(&expires.at));
        cx.wrong(&expires.at, wrong.accepted("a duration such as \"3600s\""));
    }
    u32::try_from(expires.value / SECOND_NS).unwrap_or(DEFAULT_S)
}

/// Pairs on one agent are what there is; pairs across sites need clocks and come later.
fn placement(cx: &mut Cx<'_>, section: &mut Section<'_, '_>) {
    let choices = [("same-agent", true), ("cross-site", false)];
    if let Some(placement) = section.choice(cx, "placement", &choices)
        && !placement.value
    {
        let wrong =
            Wrong::new("the placement `cross-site` comes with a later release").accepted("\"same-agent\"");
        cx.wrong(&placement.at, wrong);
    }
}

/// `[warmup]`: everything has a default.
pub(super) fn warmup(cx: &mut Cx<'_>, root: &mut Section<'_, '_>) -> Warmup {
    let mut warmup =
        Warmup { register_rate_mhz: 200_000, subscribe_rate_mhz: 500_000, settle_ns: 5 * SECOND_NS };
    let Some(mut section) = root.section(cx, "warmup") else { return warmup };
    if let Some(rate) = section.rate(cx, "register_rate", 1..=MAX_RATE_MHZ) {
        warmup.register_rate_mhz = rate.value;
    }
    if let Some(rate) = section.rate(cx, "subscribe_rate", 1..=MAX_RATE_MHZ) {
        warmup.subscribe_rate_mhz = rate.value;
    }
    if let Some(settle) = section.duration(cx, "settle", 0..=MAX_SETTLE_NS) {
        warmup.settle_ns = settle.value;
    }
    section.finish(cx);
    warmup
}
