//! What a run is judged by and how it ends: `[auth]`, `[[threshold]]`,
//! `[trust]`, `[safety]`, `[fleet]`, `[report]`.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::DeValue;

use super::model::{
    Auth, Base, Dialect, Fleet, OnAgentLoss, Profile, Report, Safety, Scheme, Site, Threshold, Trust,
};
use super::names::nearest;
use super::quantity::{self, SECOND_NS, WHOLE_PPB};
use super::reader::{At, Cx, Section};
use super::source::Wrong;
use super::steps::{MAX_RATE_MHZ, Steps};
use super::thresholds::{self, ExprError, StopOn};

/// More thresholds than this are a generated file gone wrong.
pub(super) const MAX_THRESHOLDS: usize = 1_000;
/// More percentiles than this make tables that nobody reads.
const MAX_PERCENTILES: usize = 32;
const DAY_NS: u64 = 86_400 * SECOND_NS;
/// The steps before the first and behind the last one of the scenario, which a threshold may name.
const OUTER_STEPS: [&str; 2] = ["warmup", "drain"];

pub(super) fn auth(cx: &mut Cx<'_>, root: &mut Section<'_, '_>, dialect: Dialect) -> Auth {
    let mut auth = Auth { scheme: Scheme::Auto, reuse_nonce: true };
    let Some(mut section) = root.section(cx, "auth") else { return auth };
    let choices = [
        ("auto", Some(Scheme::Auto)),
        ("digest", Some(Scheme::Digest)),
        ("ntlm", Some(Scheme::Ntlm)),
        ("kerberos", None),
        ("trusted", Some(Scheme::Trusted)),
    ];
    if let Some(scheme) = section.choice(cx, "scheme", &choices) {
        match scheme.value {
            Some(Scheme::Ntlm) if dialect != Dialect::Lync => {
                let wrong = Wrong::new("`ntlm` belongs to the dialect `lync`").found(cx.found(&scheme.at));
                let accepted = "\"auto\", \"digest\", \"trusted\", or dialect = \"lync\"";
                cx.wrong(&scheme.at, wrong.accepted(accepted));
            }
            Some(scheme) => auth.scheme = scheme,
            None => {
                let wrong =
                    Wrong::new("this `auth.scheme` comes with a later release").found(cx.found(&scheme.at));
                cx.wrong(&scheme.at, wrong.accepted("\"auto\", \"digest\", \"ntlm\", \"trusted\""));
            }
        }
    }
    auth.reuse_nonce = section.boolean(cx, "reuse_nonce").is_none_or(|yes| yes.value);
    section.finish(cx);
    auth
}

pub(super) fn thresholds(
    cx: &mut Cx<'_>,
    sections: Vec<Section<'_, '_>>,
    steps: Option<&Steps>,
    sites: &BTreeMap<String, Site>,
) -> Vec<Threshold> {
    sections.into_iter().flat_map(|section| threshold(cx, section, steps, sites)).collect()
}

/// One `[[threshold]]`: several where it names a ladder.
fn threshold(
    cx: &mut Cx<'_>,
    mut section: Section<'_, '_>,
    steps: Option<&Steps>,
    sites: &BTreeMap<String, Site>,
) -> Vec<Threshold> {
    let expr = section.text(cx, "expr");
    if !section.has("expr") {
        section.missing(cx, "expr", "an expression such as \"publish_to_notify.p99 < 250ms\"");
    }
    if let Some(expr) = &expr
        && let Err(error) = thresholds::check(&expr.value)
    {
        wrong_expression(cx, expr, &section.name("expr"), error);
    }
    let step = section.text(cx, "step");
    let names = step.as_ref().map(|step| named_steps(cx, step, steps));
    let site = section.text(cx, "site");
    if let Some(site) = &site {
        check_site(cx, site, sites);
    }
    let base = section.choice(cx, "base", Base::WORDS).map_or(Base::Scheduled, |base| base.value);
    let abort_on_fail = section.boolean(cx, "abort_on_fail").is_some_and(|yes| yes.value);
    let after = section.duration(cx, "after", 0..=DAY_NS);
    let during = section.duration(cx, "for", 0..=DAY_NS);
    for (key, given) in [("after", &after), ("for", &during)] {
        let Some(given) = given else { continue };
        // Live judgement looks at whole seconds.
        if given.value % SECOND_NS != 0 {
            let wrong = Wrong::new(format!("`{}` counts whole seconds", section.name(key)));
            let found = cx.found(&given.at);
            cx.wrong(&given.at, wrong.found(found).accepted("a duration such as \"30s\""));
        }
        if !abort_on_fail {
            let wrong = Wrong::new(format!("`{}` has no effect", section.name(key)));
            cx.wrong(
                &given.at,
                wrong.help("it belongs to `abort_on_fail = true`; without it a step is judged at its end"),
            );
        }
    }
    section.finish(cx);
    let Some(expr) = expr else { return Vec::new() };
    let threshold = Threshold {
        expr: expr.value,
        step: None,
        site: site.map(|site| site.value),
        base,
        abort_on_fail,
        after_s: after.map_or(0, |after| after.value / SECOND_NS),
        for_s: during.map_or(0, |during| during.value / SECOND_NS),
    };
    match names {
        None => vec![threshold],
        Some(names) => {
            names.into_iter().map(|name| Threshold { step: Some(name), ..threshold.clone() }).collect()
        }
    }
}

/// The steps that a written name stands for.
fn named_steps(cx: &mut Cx<'_>, step: &At<String>, steps: Option<&Steps>) -> Vec<String> {
    if OUTER_STEPS.contains(&step.value.as_str()) {
        return vec![step.value.clone()];
    }
    // With steps that could not be read, nobody can say which names are right.
    let Some(steps) = steps else { return Vec::new() };
    if let Some(names) = steps.names.get(&step.value) {
        return names.clone();
    }
    if steps.steps.iter().any(|known| known.name == step.value) {
        return vec![step.value.clone()];
    }
    let known: Vec<&str> = steps.names.keys().map(String::as_str).chain(OUTER_STEPS).collect();
    let mut wrong = Wrong::new("no step has this name").found(cx.found(&step.at)).accepted(known.join(", "));
    if let Some(name) = nearest(&step.value, known) {
        wrong = wrong.help(format!("did you mean \"{name}\"?"));
    }
    cx.wrong(&step.at, wrong);
    Vec::new()
}

/// `all` is the sum; without `[sites]` any site may attach.
fn check_site(cx: &mut Cx<'_>, site: &At<String>, sites: &BTreeMap<String, Site>) {
    if sites.is_empty() || site.value == "all" || sites.contains_key(&site.value) {
        return;
    }
    let known: Vec<&str> = sites.keys().map(String::as_str).chain(["all"]).collect();
    let mut wrong = Wrong::new("no site has this name").found(cx.found(&site.at)).accepted(known.join(", "));
    if let Some(name) = nearest(&site.value, known) {
        wrong = wrong.help(format!("did you mean \"{name}\"?"));
    }
    cx.wrong(&site.at, wrong);
}

/// Points into the expression where the text of the file is the expression itself.
fn wrong_expression(cx: &mut Cx<'_>, expr: &At<String>, name: &str, error: ExprError) {
    let written = cx.sources.slice(&expr.at);
    let quotes = written.len().saturating_sub(expr.value.len()) / 2;
    let verbatim = written.get(quotes..quotes + expr.value.len()) == Some(expr.value.as_str());
    let at: Range<usize> = if verbatim && error.offset + error.len <= expr.value.len() {
        let start = expr.at.start + quotes + error.offset;
        start..start + error.len.max(1)
    } else {
        expr.at.clone()
    };
    let mut wrong = Wrong::new(format!("`{name}`: {}", error.message));
    wrong.help = error.help;
    cx.wrong(&at, wrong);
}

pub(super) fn trust(cx: &mut Cx<'_>, root: &mut Section<'_, '_>) -> Trust {
    let mut trust = Trust {
        profile: Profile::Lab,
        send_lag_p99_ns: None,
        send_lag_seconds_ppb: None,
        loop_gap_ns: None,
        sent_ppb: None,
        waited_pair_ppb: None,
        shard_busy_ppb: None,
        steal_ppb: None,
        steal_seconds_ppb: None,
    };
    let Some(mut section) = root.section(cx, "trust") else { return trust };
    if let Some(profile) = section.choice(cx, "profile", Profile::WORDS) {
        trust.profile = profile.value;
    }
    let limit = |limit: Option<At<u64>>| limit.map(|limit| limit.value);
    trust.send_lag_p99_ns = limit(section.duration(cx, "send_lag_p99", 1_000..=DAY_NS));
    trust.send_lag_seconds_ppb = limit(section.ratio(cx, "send_lag_seconds"));
    trust.loop_gap_ns = limit(section.duration(cx, "loop_gap", 1_000_000..=DAY_NS));
    trust.sent_ppb = limit(section.ratio(cx, "sent_ratio"));
    trust.waited_pair_ppb = limit(section.ratio(cx, "waited_pair_ratio"));
    trust.shard_busy_ppb = limit(section.ratio(cx, "shard_busy"));
    trust.steal_ppb = limit(section.ratio(cx, "steal"));
    trust.steal_seconds_ppb = limit(section.ratio(cx, "steal_seconds"));
    section.later(cx, "negative_ratio");
    section.finish(cx);
    trust
}

pub(super) fn safety(cx: &mut Cx<'_>, root: &mut Section<'_, '_>) -> Safety {
    let mut safety = Safety { max_rate_mhz: None, stop_on: Some(StopOn::DEFAULT), overload: false };
    let Some(mut section) = root.section(cx, "safety") else { return safety };
    safety.max_rate_mhz = section.rate(cx, "max_rate", 1..=MAX_RATE_MHZ).map(|rate| rate.value);
    let stop_on = section.text(cx, "stop_on");
    safety.overload = section.boolean(cx, "overload").is_some_and(|yes| yes.value);
    if let Some(stop_on) = &stop_on {
        match StopOn::parse(&stop_on.value) {
            Ok(stop_on) => safety.stop_on = Some(stop_on),
            Err(error) => wrong_expression(cx, stop_on, "safety.stop_on", error),
        }
        if safety.overload {
            let wrong = Wrong::new("`safety.stop_on` has no effect, `overload = true` switches it off");
            cx.wrong(&stop_on.at, wrong.accepted("one of them"));
        }
    }
    if safety.overload {
        safety.stop_on = None;
    }
    section.finish(cx);
    safety
}

pub(super) fn fleet(cx: &mut Cx<'_>, root: &mut Section<'_, '_>) -> Fleet {
    let mut fleet = Fleet { on_agent_loss: OnAgentLoss::Stop, orphan_timeout_ns: 30 * SECOND_NS };
    let Some(mut section) = root.section(cx, "fleet") else { return fleet };
    if let Some(choice) = section.choice(cx, "on_agent_loss", OnAgentLoss::WORDS) {
        fleet.on_agent_loss = choice.value;
    }
    // Load never runs unattended for long: an hour is the most that may be asked for.
    if let Some(timeout) = section.duration(cx, "orphan_timeout", SECOND_NS..=3_600 * SECOND_NS) {
        fleet.orphan_timeout_ns = timeout.value;
    }
    section.finish(cx);
    fleet
}

pub(super) fn report(cx: &mut Cx<'_>, root: &mut Section<'_, '_>) -> Report {
    let percentiles = [0.5, 0.9, 0.95, 0.99, 0.999].map(|q: f64| (q * 1e9).round() as u64);
    let mut report = Report { percentiles_ppb: percentiles.to_vec(), interval_s: 1 };
    let Some(mut section) = root.section(cx, "report") else { return report };
    if let Some(percentiles) = self::percentiles(cx, &mut section) {
        report.percentiles_ppb = percentiles;
    }
    if let Some(interval) = section.duration(cx, "interval", SECOND_NS..=3_600 * SECOND_NS) {
        if interval.value % SECOND_NS != 0 {
            let wrong =
                Wrong::new("`report.interval` is no whole number of seconds").found(cx.found(&interval.at));
            cx.wrong(&interval.at, wrong.accepted("a duration such as \"10s\""));
        }
        report.interval_s = u32::try_from(interval.value / SECOND_NS).unwrap_or(1);
    }
    section.finish(cx);
    report
}

/// Numbers between 0 and 1, kept exactly.
fn percentiles(cx: &mut Cx<'_>, section: &mut Section<'_, '_>) -> Option<Vec<u64>> {
    let accepted = "numbers between 0 and 1 such as [0.5, 0.99]";
    let value = section.get(cx, "percentiles")?;
    let DeValue::Array(array) = value.get_ref() else {
        section.wrong_type(cx, "percentiles", value, accepted);
        return None;
    };
    if array.is_empty() || array.len() > MAX_PERCENTILES {
        let wrong = Wrong::new("`report.percentiles` has the wrong length").found(array.len().to_string());
        cx.wrong(&value.span(), wrong.accepted(format!("1 to {MAX_PERCENTILES} numbers")));
        return None;
    }
    let mut all = Vec::new();
    for item in array {
        let read = match item.get_ref() {
            DeValue::Float(float) => quantity::fraction(float.as_str(), WHOLE_PPB).ok(),
            _ => None,
        };
        match read.filter(|q| (1..WHOLE_PPB).contains(q)) {
            Some(q) => all.push(q),
            None => {
                let wrong =
                    Wrong::new("this is no quantile").found(cx.found(&item.span())).accepted(accepted);
                cx.wrong(&item.span(), wrong);
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}
