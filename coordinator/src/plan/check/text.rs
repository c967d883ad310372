//! A plan in figures as text for people.

use std::fmt;

use super::{ASSUMED_WORKFLOW_S, Check, NOTIFY_INTERVAL_S};
use crate::scenario::quantity::{SECOND_NS, duration_text, rate_text, thousandths_text};
use crate::scenario::{Arrivals, Dialect, Kind, Scenario, Scheme};

/// The text of `scenario check`: the scenario in a line, then what it would do.
#[must_use]
pub fn text(scenario: &Scenario, check: &Check) -> String {
    Text { scenario, check }.to_string()
}

struct Text<'a> {
    scenario: &'a Scenario,
    check: &'a Check,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Text { scenario, check } = self;
        let pool = &scenario.pool;
        writeln!(
            f,
            "{}: {} over {} to {}",
            scenario.name, scenario.workload.kind, pool.transport, pool.target
        )?;
        writeln!(f)?;
        self.steps(f)?;
        writeln!(f)?;
        row(f, "users", &format!("{} in {} pairs", check.pairs * 2, check.pairs))?;
        self.contacts(f)?;
        self.messages(f)?;
        self.pairs(f)?;
        row(f, "sockets", &self.sockets())?;
        row(f, "memory", &format!("about {} for all agents", bytes(check.memory)))?;
        let parts = format!(
            "about {}: {} warm-up, {} steps, {} drain",
            seconds(check.total_ns),
            seconds(check.warmup_ns),
            seconds(check.total_ns - check.warmup_ns - check.drain_ns),
            seconds(check.drain_ns)
        );
        row(f, "time", &parts)?;
        self.thresholds(f)?;
        for warning in &check.warnings {
            writeln!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}

impl Text<'_> {
    fn steps(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["step", "rate", "ramp", "hold", "arrivals", "messages/s", "gate"].map(str::to_owned);
        let mut table = vec![head.to_vec()];
        for (step, written) in self.check.steps.iter().zip(&self.scenario.steps) {
            table.push(vec![
                step.name.clone(),
                rate_text(step.rate_mhz),
                duration_text(step.ramp_ns),
                duration_text(step.hold_ns),
                format!("{}+{}", step.ramp_arrivals, step.hold_arrivals),
                step.messages_per_s.to_string(),
                if written.gate { "yes" } else { "" }.to_owned(),
            ]);
        }
        let width = |column: usize| {
            table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
        for row in &table {
            let mut line = String::from(" ");
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Names to the left, figures to the right.
                line.push_str(&if column == 0 {
                    format!(" {cell:<width$}")
                } else {
                    format!("  {cell:>width$}")
                });
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        let about = match self.scenario.workload.arrivals {
            Arrivals::Constant => "",
            Arrivals::Poisson => ", on average",
        };
        writeln!(
            f,
            "  (arrivals: ramp+hold{about}; messages: requests and responses, both directions, in the hold)"
        )
    }

    /// The contact graph in one line.
    fn contacts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(fan_out) = self.scenario.workload.fan_out else { return Ok(()) };
        let line = format!(
            "{} with {} subscribers of each user on average, at most {}; about {} subscriptions",
            fan_out.distribution,
            thousandths_text(fan_out.mean_milli),
            fan_out.max,
            self.check.subscriptions
        );
        row(f, "contacts", &line)
    }

    fn messages(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (check, scenario) = (self.check, self.scenario);
        let what = match scenario.workload.kind {
            Kind::Workflow => "workflow",
            Kind::Held => "publication",
        };
        let how = match (scenario.auth.scheme, scenario.auth.reuse_nonce) {
            (Scheme::Trusted, _) => "nothing is challenged".to_owned(),
            (Scheme::Auto | Scheme::Ntlm, _) if scenario.dialect == Dialect::Lync => {
                "log-ons are challenged twice".to_owned()
            }
            (_, false) => "every request is challenged".to_owned(),
            (_, true) if check.messages_first != check.messages_per_arrival => {
                format!("nonces are used again; {} in a pair's first", check.messages_first)
            }
            (_, true) => "nonces are used again".to_owned(),
        };
        row(f, "messages", &format!("{} a {what} ({how})", check.messages_per_arrival))
    }

    fn pairs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let check = self.check;
        let (have, need, peak) = (check.pairs, check.pairs_needed, rate_text(check.peak_mhz));
        let gap = seconds(check.publication_gap_ns);
        match self.scenario.workload.kind {
            Kind::Workflow => {
                let deadline = duration_text(self.scenario.workload.deadline_ns);
                let worst = super::per_second(check.peak_mhz, self.scenario.workload.deadline_ns / SECOND_NS);
                let line = format!(
                    "{need} needed at {peak} if a workflow lasts {ASSUMED_WORKFLOW_S} s, log-off included; {have} there \
                     are, good for {gap}"
                );
                row(f, "pairs", &line)?;
                row(f, "", &format!("{worst} if every notification took the whole deadline of {deadline}"))
            }
            Kind::Held => {
                // In a pair one publishes, in a graph everybody does.
                let (what, need, have) = match self.scenario.workload.fan_out {
                    None => ("pairs", need, have),
                    Some(_) => {
                        ("publishers", super::per_second(check.peak_mhz, NOTIFY_INTERVAL_S), check.publishers)
                    }
                };
                let line = format!(
                    "{need} needed at {peak} for one publication each {NOTIFY_INTERVAL_S} s (RFC 3856 section 6.10); \
                     {have} there are, one each {gap}"
                );
                row(f, what, &line)
            }
        }
    }

    fn sockets(&self) -> String {
        match self.check.ports {
            Some(ports) => {
                format!("{}, a connection for each user; {ports} local ports an agent", self.check.sockets)
            }
            None => format!("about {}", self.check.sockets),
        }
    }

    fn thresholds(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, threshold) in self.scenario.thresholds.iter().enumerate() {
            let step =
                threshold.step.as_ref().map_or_else(|| "each hold".to_owned(), |step| format!("step {step}"));
            row(f, if number == 0 { "thresholds" } else { "" }, &format!("{} at {step}", threshold.expr))?;
        }
        if self.scenario.thresholds.is_empty() {
            row(f, "thresholds", "none given: missed.ratio == 0% and failed.ratio == 0% at each hold")?;
        }
        for (number, percentile) in self.check.percentiles.iter().enumerate() {
            let shown = if percentile.is_shown() { "enough" } else { "too few" };
            let line = format!(
                "{} at {}: {} samples, {} needed, {shown}",
                percentile.expr, percentile.step, percentile.samples, percentile.needed
            );
            row(f, if number == 0 { "samples" } else { "" }, &line)?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {name:<12}{value}")
}

/// Seconds with one decimal, minutes and hours where they say more.
pub(super) fn seconds(ns: u64) -> String {
    let tenths = ns / (SECOND_NS / 10);
    match tenths {
        0..1_200 => format!("{}.{} s", tenths / 10, tenths % 10),
        1_200..72_000 => format!("{} min {} s", tenths / 600, tenths % 600 / 10),
        _ => format!("{} h {} min", tenths / 36_000, tenths % 36_000 / 600),
    }
}

fn bytes(count: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    if count < 10 * 1024 * MIB {
        format!("{} MiB", count.div_ceil(MIB))
    } else {
        format!("{} GiB", count.div_ceil(1024 * MIB))
    }
}
