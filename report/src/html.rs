//! `report.html`: one file that opens without a network and without scripts.

use std::fmt::Write as _;

use crate::derive::{ALL, Series, spectrum_points};
use crate::histogram::Quantile;
use crate::manifest::Manifest;
use crate::names::{Base, Metric, Phase};
use crate::print;
use crate::raw::Raw;
use crate::verdict::Verdict;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}\
table{border-collapse:collapse;margin:.5rem 0 1.5rem;font-variant-numeric:tabular-nums}td,th{border-bottom:1px solid #ddd;padding:.25rem .7rem;text-align:right}\
td:first-child,th:first-child{text-align:left}.verdict{padding:.8rem 1rem;border-radius:.4rem;font-size:1.3rem;font-weight:600;color:#fff}\
.passed{background:#1b7f3b}.failed{background:#b3261e}.untrustworthy{background:#8a5a00}pre{background:#f5f5f5;padding:.8rem;overflow:auto}\
svg{max-width:100%;height:auto}.axis{stroke:#999;stroke-width:1}.grid{stroke:#e4e4e4}text{font-size:11px;fill:#444}\
@media(prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}td,th{border-color:#333}pre{background:#222}text{fill:#bbb}.grid{stroke:#333}}\
@media print{body{max-width:none}}";

const COLOURS: [&str; 8] =
    ["#1f6feb", "#d4553a", "#2e9c5a", "#9250c8", "#b58900", "#0f9aa8", "#c2418a", "#6a737d"];

/// Escapes text for HTML.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The report.
#[must_use]
pub fn report(raw: &Raw, manifest: &Manifest, series: &[Series], verdict: &Verdict, summary: &str) -> String {
    let mut out = String::new();
    let title = escape(&format!("{} - {}", manifest.scenario, manifest.run_id));
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{}</h1>\n<p class=\"verdict {}\">{} &middot; exit {}</p>\n",
        escape(&manifest.scenario),
        verdict.word,
        verdict.word,
        verdict.exit_code
    );
    let _ = writeln!(
        out,
        "<p>{} &middot; {} &middot; {} users &middot; {} &middot; {} to {} &middot; server {}</p>",
        escape(&manifest.target),
        escape(&manifest.transport),
        manifest.users,
        escape(&manifest.kind),
        print::time(manifest.origin_unix_s),
        print::time(manifest.ended_unix_s),
        escape(&manifest.server)
    );
    reasons(&mut out, verdict);
    let _ = write!(out, "<h2>Summary</h2>\n<pre>{}</pre>\n", escape(summary));
    table(&mut out, manifest, series);
    latency_chart(&mut out, manifest, series);
    time_chart(&mut out, raw, manifest);
    rate_chart(&mut out, raw, manifest);
    failures(&mut out, raw);
    agents(&mut out, manifest);
    let _ =
        write!(out, "<h2>Scenario</h2>\n<pre>{}</pre>\n</body></html>\n", escape(&manifest.scenario_text));
    out
}

fn reasons(out: &mut String, verdict: &Verdict) {
    if verdict.reasons.is_empty() {
        out.push_str("<h2>Data quality</h2>\n<p>Good: the engine found nothing to accuse itself of.</p>\n");
        return;
    }
    out.push_str("<h2>Data quality</h2>\n<table><tr><th>reason</th><th>measured</th><th>limit</th><th>where</th><th>advice</th></tr>\n");
    for r in &verdict.reasons {
        let cells: Vec<String> = [&r.reason, &r.measured, &r.limit, &r.place, &r.advice]
            .into_iter()
            .map(|cell| format!("<td>{}</td>", escape(cell)))
            .collect();
        let _ = writeln!(out, "<tr>{}</tr>", cells.concat());
    }
    out.push_str("</table>\n");
}

fn percentile(s: &Series, q: f64, deadline_s: f64) -> String {
    match s.histogram.percentile(Quantile::from_fraction(q).unwrap_or(Quantile(0)), s.censored) {
        crate::histogram::Percentile::Value(us) => print::human(us),
        crate::histogram::Percentile::Censored => escape(&s.metric.beyond(deadline_s)),
        crate::histogram::Percentile::TooFew => "-".to_owned(),
    }
}

fn table(out: &mut String, manifest: &Manifest, series: &[Series]) {
    out.push_str("<h2>Latencies of the holds</h2>\n<table id=\"latencies\"><tr><th>step</th><th>metric</th><th>base</th><th>count</th><th>censored</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th></tr>\n");
    let d = manifest.deadline_s;
    for s in series.iter().filter(|s| s.phase == Phase::Hold && s.site == ALL) {
        let _ = writeln!(
            out,
            "<tr><td>{} {}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            s.step,
            escape(manifest.step_name(s.step)),
            s.metric.name(),
            s.base.name(),
            s.histogram.count(),
            s.censored,
            percentile(s, 0.5, d),
            percentile(s, 0.9, d),
            percentile(s, 0.99, d),
            percentile(s, 0.999, d),
            s.histogram.max().map_or("-".into(), print::human)
        );
    }
    out.push_str("</table>\n");
}

const W: f64 = 960.0;
const H: f64 = 300.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 40.0;

/// A line chart: x from 0 to 1, y logarithmic in microseconds or linear.
struct Chart {
    body: String,
    low: f64,
    high: f64,
    log: bool,
}

impl Chart {
    fn new(low: f64, high: f64, log: bool) -> Self {
        let (low, high) =
            if log { (low.max(1.0), high.max(low * 10.0).max(10.0)) } else { (0.0, high.max(1.0)) };
        Chart { body: String::new(), low, high, log }
    }

    fn y(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            value / self.high
        };
        H - BOTTOM - share.clamp(0.0, 1.0) * (H - BOTTOM - 15.0)
    }

    fn x(share: f64) -> f64 {
        LEFT + share.clamp(0.0, 1.0) * (W - LEFT - 20.0)
    }

    fn line(&mut self, points: &[(f64, f64)], number: usize, name: &str) {
        let colour = COLOURS[number % COLOURS.len()];
        let path: Vec<String> =
            points.iter().map(|(x, y)| format!("{:.1},{:.1}", Self::x(*x), self.y(*y))).collect();
        let _ = write!(
            self.body,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" points=\"{}\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\" style=\"fill:{colour}\">{}</text>",
            path.join(" "),
            LEFT + 12.0 + 150.0 * (number % 6) as f64,
            12.0 + 13.0 * (number / 6) as f64,
            escape(name)
        );
    }

    fn draw(&self, out: &mut String, title: &str, ticks: &[(f64, String)]) {
        let _ = write!(
            out,
            "<h2>{}</h2>\n<svg viewBox=\"0 0 {W} {H}\" role=\"img\" aria-label=\"{}\">",
            escape(title),
            escape(title)
        );
        let mut level = self.low;
        let step = self.high / 4.0;
        while level <= self.high * 1.0001 {
            let label = if self.log { print::human(level as u64) } else { format!("{level:.0}") };
            let y = self.y(level);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{W}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 6.0,
                y + 4.0
            );
            level = if self.log { level * 10.0 } else { level + step };
        }
        for (share, label) in ticks {
            let x = Self::x(*share);
            let _ = write!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                H - BOTTOM + 18.0,
                escape(label)
            );
        }
        let _ = writeln!(out, "{}</svg>", self.body);
    }
}

/// Latency over 1/(1−q): the axis on which tails can be seen.
fn latency_chart(out: &mut String, manifest: &Manifest, series: &[Series]) {
    let shown: Vec<&Series> = series
        .iter()
        .filter(|s| {
            s.phase == Phase::Hold
                && s.site == ALL
                && s.base == Base::Scheduled
                && matches!(s.metric, Metric::PublishToNotify | Metric::Workflow)
                && s.histogram.count() > 0
        })
        .collect();
    let low = shown.iter().filter_map(|s| s.histogram.min()).min().unwrap_or(1) as f64;
    let high = shown.iter().filter_map(|s| s.histogram.max()).max().unwrap_or(10) as f64;
    let mut chart =
        Chart::new(10f64.powf(low.max(1.0).log10().floor()), 10f64.powf(high.log10().ceil()), true);
    let decades = 5.0;
    for (number, s) in shown.iter().enumerate() {
        let points: Vec<(f64, f64)> = spectrum_points(&s.histogram, s.censored)
            .into_iter()
            .map(|p| ((1.0 / (1.0 - p.quantile).max(1e-9)).log10() / decades, p.us as f64))
            .filter(|(x, _)| *x <= 1.0)
            .collect();
        chart.line(
            &points,
            number,
            &format!("{} {} {}", s.step, manifest.step_name(s.step), s.metric.name()),
        );
    }
    let ticks: Vec<(f64, String)> = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]
        .iter()
        .enumerate()
        .map(|(at, label)| (at as f64 / decades, (*label).to_owned()))
        .collect();
    chart.draw(out, "Latency by percentile, scheduled base", &ticks);
}

fn seconds_of(manifest: &Manifest) -> (i64, i64) {
    (manifest.origin_unix_s, (manifest.ended_unix_s - manifest.origin_unix_s).max(1))
}

fn time_ticks(length: i64) -> Vec<(f64, String)> {
    (0..=6).map(|at| (f64::from(at) / 6.0, format!("{} s", length * i64::from(at) / 6))).collect()
}

fn time_chart(out: &mut String, raw: &Raw, manifest: &Manifest) {
    let (origin, length) = seconds_of(manifest);
    let mut by_second: std::collections::BTreeMap<i64, crate::histogram::Histogram> = Default::default();
    for ((second, _, _, _, metric, base), histogram) in &raw.seconds {
        if *metric == Metric::PublishToNotify && *base == Base::Scheduled {
            by_second.entry(*second).or_default().add(histogram);
        }
    }
    let max = by_second.values().filter_map(|h| h.max()).max().unwrap_or(10) as f64;
    let mut chart = Chart::new(10.0, 10f64.powf(max.max(100.0).log10().ceil()), true);
    for (number, (q, name)) in [(0.5, "p50"), (0.99, "p99"), (1.0, "max")].into_iter().enumerate() {
        let points: Vec<(f64, f64)> = by_second
            .iter()
            .filter_map(|(second, h)| match h.at_rank(Quantile::from_fraction(q)?, 0) {
                crate::histogram::Percentile::Value(us) => {
                    Some(((second - origin) as f64 / length as f64, us as f64))
                }
                _ => None,
            })
            .collect();
        chart.line(&points, number, name);
    }
    chart.draw(out, "publish_to_notify by second, scheduled base", &time_ticks(length));
}

fn rate_chart(out: &mut String, raw: &Raw, manifest: &Manifest) {
    let (origin, length) = seconds_of(manifest);
    let names = ["offered", "sent", "delivered", "missed_due"];
    let mut counts: std::collections::BTreeMap<(usize, i64), u64> = Default::default();
    for ((second, .., counter, _), value) in raw.timeline() {
        if let Some(at) = names.iter().position(|name| name == counter) {
            *counts.entry((at, *second)).or_default() += value;
        }
    }
    let high = counts.values().copied().max().unwrap_or(1) as f64;
    let mut chart = Chart::new(0.0, high * 1.1, false);
    for (number, name) in names.iter().enumerate() {
        let points: Vec<(f64, f64)> = counts
            .range((number, i64::MIN)..(number + 1, i64::MIN))
            .map(|((_, second), n)| ((second - origin) as f64 / length as f64, *n as f64))
            .collect();
        chart.line(&points, number, name);
    }
    chart.draw(out, "Arrivals and notifications by second", &time_ticks(length));
}

fn failures(out: &mut String, raw: &Raw) {
    if raw.failures.is_empty() {
        return;
    }
    out.push_str("<h2>Failures</h2>\n<table><tr><th>activity</th><th>class</th><th>code</th><th>reason</th><th>count</th><th>what to do</th></tr>\n");
    for ((_, _, _, _, activity, class, code, reason), sum) in raw.failures.iter().take(100) {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(activity),
            class.name(),
            escape(code),
            escape(reason),
            sum.count,
            escape(&sum.diagnosis)
        );
    }
    out.push_str("</table>\n");
}

fn agents(out: &mut String, manifest: &Manifest) {
    out.push_str("<h2>Agents</h2>\n<table><tr><th>agent</th><th>site</th><th>host</th><th>cores</th><th>shards</th><th>receive stamps</th><th>priority</th><th>intervals</th><th>lost</th></tr>\n");
    for a in &manifest.agents {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&a.name),
            escape(&a.site),
            escape(&a.host),
            a.cores,
            a.shards,
            escape(&a.receive_stamps),
            escape(&a.priority),
            a.intervals,
            escape(&a.lost)
        );
    }
    out.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_breaks_out_of_the_text() {
        assert_eq!(super::escape("</pre><script>'\"&"), "&lt;/pre&gt;&lt;script&gt;&#39;&quot;&amp;");
    }
}
