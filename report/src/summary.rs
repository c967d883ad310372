//! The end of a run in forty lines for people, and the same for scripts.

use std::fmt::Write as _;

use serde_json::json;

use crate::derive::{self, ALL, Series};
use crate::histogram::{Percentile, Quantile};
use crate::manifest::Manifest;
use crate::names::{Base, Metric, Phase};
use crate::print;
use crate::raw::Raw;
use crate::threshold::{Judged, Unit};
use crate::verdict::{Judgement, Verdict};
use crate::{headroom, log_on};

/// Lines of a kind that are shown before "and so many more".
const SHOWN: usize = 6;

fn at(series: &[Series], step: u32, metric: Metric, base: Base) -> Option<&Series> {
    series.iter().find(|s| {
        s.step == step && s.phase == Phase::Hold && s.site == ALL && s.metric == metric && s.base == base
    })
}

fn shown(s: &Series, q: f64, deadline_s: f64) -> String {
    match s.histogram.percentile(Quantile::from_fraction(q).unwrap_or(Quantile(0)), s.censored) {
        Percentile::Value(us) => print::human(us),
        Percentile::Censored => s.metric.beyond(deadline_s),
        Percentile::TooFew => "-".to_owned(),
    }
}

fn value_text(value: u128, unit: Unit) -> String {
    match unit {
        Unit::Time => print::human((value / 1_000) as u64),
        Unit::Ratio => format!("{:.4} %", value as f64 / 1e7),
        Unit::Count => value.to_string(),
    }
}

fn judgement_line(j: &Judgement, deadline_s: f64) -> String {
    let beyond = || j.threshold.stat.metric().map_or_else(String::new, |m| m.beyond(deadline_s));
    let (mark, found) = match j.judged {
        Judged::Holds(v) => ("ok  ", value_text(v, j.threshold.unit)),
        Judged::HoldsBeyond => ("ok  ", beyond()),
        Judged::Broken(Some(v)) => ("FAIL", value_text(v, j.threshold.unit)),
        Judged::Broken(None) => ("FAIL", beyond()),
        Judged::NotJudged => ("?   ", "too few samples".to_owned()),
    };
    let mut line = format!("  {mark} {:<38} {found:<12} step {} {}", j.rule.expr, j.step, j.step_name);
    if let Some(first) = j.broken.first() {
        let _ = write!(line, "; broken in {} s, first at {first} s", j.broken.len());
    }
    line
}

/// `summary.txt`.
#[must_use]
pub fn text(raw: &Raw, manifest: &Manifest, series: &[Series], verdict: &Verdict) -> String {
    let mut out = String::new();
    let line = |out: &mut String, text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    let d = manifest.deadline_s;
    line(
        &mut out,
        format!(
            "{} on {} ({}, {})   run {}   {} users, {} agents",
            manifest.scenario,
            manifest.target,
            manifest.transport,
            manifest.server,
            manifest.run_id,
            manifest.users,
            manifest.agents.len()
        ),
    );
    line(&mut out, String::new());
    line(&mut out, format!("  VERDICT  {}  (exit {})", verdict.word, verdict.exit_code));
    for j in verdict.judgements.iter().take(2 * SHOWN) {
        line(&mut out, judgement_line(j, d));
    }
    if verdict.judgements.len() > 2 * SHOWN {
        line(&mut out, format!("  and {} more in thresholds.csv", verdict.judgements.len() - 2 * SHOWN));
    }
    for r in verdict.reasons.iter().take(SHOWN) {
        line(&mut out, format!("  !    {} at {}: {} (limit {})", r.reason, r.place, r.measured, r.limit));
        line(&mut out, format!("       {}", r.advice));
    }
    let headroom = headroom::headroom(raw, manifest);
    if let Some(text) = headroom.line() {
        line(&mut out, format!("  {text}"));
    }
    if manifest.trust.profile != "lab" {
        line(&mut out, format!("  judged with the wider limits of profile \"{}\"", manifest.trust.profile));
    }
    line(&mut out, String::new());
    line(
        &mut out,
        format!(
            "  publish -> notify, {}",
            if manifest.kind == "held" {
                "from the scheduled instant (open loop)"
            } else {
                "from the instant it was due (see `workflow` for the open-loop figure)"
            }
        ),
    );
    line(
        &mut out,
        format!(
            "  {:<20} {:>10} {:>10} {:>10} {:>10} {:>10} {:>9} {:>7}",
            "step", "offered/s", "sent/s", "p50", "p99", "max", "count", "missed"
        ),
    );
    for (step, phase) in manifest.holds() {
        let seconds = phase.to_s - phase.from_s;
        let rate =
            |counter| raw.total(step.step, Phase::Hold, None, counter, None) as f64 / seconds.max(1e-9);
        let (p50, p99, max, count) = at(series, step.step, Metric::PublishToNotify, Base::Scheduled)
            .map_or_else(
                || ("-".to_owned(), "-".to_owned(), "-".to_owned(), 0),
                |s| {
                    (
                        shown(s, 0.5, d),
                        shown(s, 0.99, d),
                        s.histogram.max().map_or("-".into(), print::human),
                        s.histogram.count(),
                    )
                },
            );
        line(
            &mut out,
            format!(
                "  {:<20} {:>10.1} {:>10.1} {:>10} {:>10} {:>10} {:>9} {:>7}",
                format!("{} {}", step.step, step.name),
                rate("offered"),
                rate("sent"),
                p50,
                p99,
                max,
                count,
                raw.total(step.step, Phase::Hold, None, "missed", None)
            ),
        );
    }
    line(&mut out, String::new());
    if let Some((last, _)) = manifest.holds().last() {
        for (metric, base) in [
            (Metric::Workflow, Base::Scheduled),
            (Metric::Register, Base::Scheduled),
            (Metric::Subscribe, Base::Sent),
            (Metric::Publish, Base::Sent),
            (Metric::PublishToNotify, Base::Sent),
            (Metric::SendLag, Base::None),
        ] {
            if let Some(s) = at(series, last.step, metric, base).filter(|s| s.histogram.count() > 0) {
                line(
                    &mut out,
                    format!(
                        "  {:<18} {:<10} p50 {:>9}   p99 {:>9}   count {}",
                        metric.name(),
                        base.name(),
                        shown(s, 0.5, d),
                        shown(s, 0.99, d),
                        s.histogram.count()
                    ),
                );
            }
        }
    }
    for milestone in log_on::milestones(raw, manifest) {
        line(&mut out, format!("  log-on   {}", milestone.line()));
    }
    for (step, _) in manifest.holds() {
        if let Some(text) = log_on::recovery_line(series, step.step) {
            line(&mut out, format!("  recovery {text} (step {} {})", step.step, step.name));
        }
    }
    for ((step, phase, site, _, activity, class, code, reason), sum) in raw.failures.iter().take(SHOWN) {
        line(
            &mut out,
            format!(
                "  failed  {activity} {code} x{} ({}; step {step} {}, {site}) {reason}",
                sum.count,
                class.name(),
                phase.name()
            ),
        );
    }
    if raw.failures.len() > SHOWN {
        line(&mut out, format!("  and {} more kinds in failures.csv", raw.failures.len() - SHOWN));
    }
    out
}

/// `summary.json`.
#[must_use]
pub fn json(raw: &Raw, manifest: &Manifest, series: &[Series], verdict: &Verdict) -> Vec<u8> {
    let steps: Vec<_> = manifest.holds().map(|(step, phase)| {
        let metrics: serde_json::Map<String, serde_json::Value> = series.iter()
            .filter(|s| s.step == step.step && s.phase == Phase::Hold && s.site == ALL)
            .map(|s| {
                let name = if s.base == Base::None { s.metric.name().to_owned() } else { format!("{}.{}", s.metric.name(), s.base.name()) };
                let p = |q: f64| match s.histogram.percentile(Quantile::from_fraction(q).unwrap_or(Quantile(0)), s.censored) {
                    Percentile::Value(us) => json!(us as f64 / 1e6),
                    Percentile::Censored => json!("inf"),
                    Percentile::TooFew => json!(null),
                };
                (name, json!({
                    "count": s.histogram.count(), "censored": s.censored,
                    "min_s": s.histogram.min().map(|v| v as f64 / 1e6), "max_s": s.histogram.max().map(|v| v as f64 / 1e6),
                    "p50_s": p(0.5), "p90_s": p(0.9), "p95_s": p(0.95), "p99_s": p(0.99), "p999_s": p(0.999),
                }))
            })
            .collect();
        let total = |counter: &str| raw.total(step.step, Phase::Hold, None, counter, None);
        json!({
            "step": step.step, "name": step.name, "duration_s": phase.to_s - phase.from_s,
            "offered": total("offered"), "sent": total("sent"), "not_started": total("not_started"),
            "delivered": total("delivered"), "superseded": total("superseded"), "missed": total("missed"), "void": total("void"),
            "metrics": metrics,
        })
    }).collect();
    let thresholds: Vec<_> = verdict.judgements.iter().map(|j| {
        let (value, passed) = match j.judged {
            Judged::Holds(v) => (json!(derive::in_unit(v, j.threshold.unit)), json!(true)),
            Judged::HoldsBeyond => (json!("inf"), json!(true)),
            Judged::Broken(Some(v)) => (json!(derive::in_unit(v, j.threshold.unit)), json!(false)),
            Judged::Broken(None) => (json!("inf"), json!(false)),
            Judged::NotJudged => (json!(null), json!(null)),
        };
        json!({"expr": j.rule.expr, "step": j.step_name, "site": j.site, "value": value, "passed": passed, "samples": j.samples})
    }).collect();
    let log_on: serde_json::Map<String, serde_json::Value> = log_on::milestones(raw, manifest)
        .into_iter()
        .map(|m| {
            (
                m.metric.name().to_owned(),
                json!({"wanted": m.wanted, "done": m.done, "reached_99_s": m.reached_s}),
            )
        })
        .collect();
    let headroom = headroom::headroom(raw, manifest);
    let value = json!({
        "schema_version": crate::manifest::SCHEMA_VERSION, "run_id": manifest.run_id, "scenario": manifest.scenario,
        "verdict": verdict.word, "exit_code": verdict.exit_code, "reasons": verdict.reasons,
        "thresholds": thresholds, "steps": steps, "log_on": log_on,
        "headroom": {
            "shard_busy_max": headroom.shard_busy, "send_lag_p99_s": headroom.send_lag_p99_s,
            "send_lag_limit_s": headroom.send_lag_limit_s,
        },
    });
    let mut bytes = serde_json::to_vec_pretty(&value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
