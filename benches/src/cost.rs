//! `bench cost`: the agent alone, against the embedded pool in a process of
//! its own, and where its time goes.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::adsum::{Adsum, Pool, Scenario};
use crate::options::{Auth, CostOptions, Transport};
use crate::process::{self, Named as _, Process, Result, said};
use crate::sample::{Sample, figure, good};
use crate::{machine, out_dir};

/// Pairs for each arrival of a second: a workflow takes far less than that.
const PAIRS_PER_RATE: u64 = 4;

pub fn run(options: &CostOptions) -> Result<()> {
    let out = out_dir("cost", options.build.out.as_deref())?;
    let adsum = Adsum::build(&options.build)?;
    let users = (options.rate * PAIRS_PER_RATE * 2).max(200);
    let pool = adsum.pool(&out.join("pool"), users, options.auth, options.transport == Transport::Tls)?;
    let mut scenario = Scenario::like_sipp(pool.address.clone(), options.transport, options.connections);
    if options.auth == Auth::Ntlm {
        if options.transport == Transport::Udp {
            return Err(said(
                "the dialect lync does not go over UDP; accepted with --auth ntlm: --transport tcp or tls",
            ));
        }
        (scenario.lync, scenario.self_subscribe) = (true, true);
    }
    scenario.quantum_us = options.quantum_us;
    scenario.shards = options.shards;
    scenario.users = users;
    scenario.ca.clone_from(&pool.ca);
    let pairs = options.rate * options.seconds;
    let tiny = adsum.run(&out.join("tiny"), &scenario.clone().pairs(1, 1))?;
    let scenario = scenario.pairs(pairs, options.rate);
    let mut samples = Vec::new();
    for repetition in 0..options.repetitions {
        let drops = process::udp_drops()?;
        let before = process::tree_cpu(pool.pid())?;
        let mut sample = adsum.run(&out.join("run"), &scenario)?;
        sample.server = process::tree_cpu(pool.pid())?.since(before);
        if options.transport == Transport::Udp {
            sample.drops = process::udp_drops()?.saturating_sub(drops);
        }
        sample.pairs_wanted = pairs;
        sample.judge();
        eprintln!(
            "bench:   {}  {} us a message  {}",
            repetition + 1,
            figure(sample.us_per_message()),
            sample.refused.join("; ")
        );
        samples.push(sample);
    }
    let mut text = format!(
        "{}, {}. {}. Load average: {:.2}.\n{} pairs at {}/s over {}, {}, {} connections, {} repetitions.\n\n",
        machine::line(),
        machine::date("%Y-%m-%d"),
        adsum.version(),
        machine::load(),
        pairs,
        options.rate,
        options.transport,
        options.auth,
        options.connections,
        options.repetitions
    );
    text += &table(&samples, &tiny)?;
    if options.profile {
        text += &profile(&adsum, &out.join("profile"), &scenario, &pool)?;
    }
    let file = out.join("cost.md");
    std::fs::write(&file, &text).named(file.display())?;
    println!("{text}\nwrote {}", file.display());
    Ok(())
}

fn table(samples: &[Sample], tiny: &Sample) -> Result<String> {
    let mut text = String::from("| figure | median (min–max) |\n| --- | ---: |\n");
    let mut row = |name: &str, figure: &dyn Fn(&Sample) -> f64| {
        let spread = good(samples, figure).ok_or_else(|| {
            let why: Vec<&str> = samples.iter().flat_map(|s| &s.refused).map(String::as_str).collect();
            said(format!("no repetition is good: {}", why.join("; ")))
        })?;
        let _ = writeln!(text, "| {name} | {spread} |");
        Ok::<_, process::Error>(())
    };
    row("messages a pair", &Sample::messages_per_pair)?;
    row("CPU µs a message, whole process", &Sample::us_per_message)?;
    row("of these in user space", &|s| s.cpu.user_s * 1e6 / s.messages as f64)?;
    row("of these in the kernel", &|s| s.cpu.system_s * 1e6 / s.messages as f64)?;
    row("CPU µs a message without what a run of one pair takes", &|s| {
        (s.cpu.total() - tiny.cpu.total()) * 1e6 / s.messages as f64
    })?;
    row("CPU µs a message, shards alone", &|s| {
        s.shards_s.map_or(f64::NAN, |own| own * 1e6 / s.messages as f64)
    })?;
    row("waits a message", &Sample::waits_per_message)?;
    row("CPU s per 1000 pairs", &Sample::s_per_1000_pairs)?;
    row("the pool's CPU µs a message", &|s| s.server.total() * 1e6 / s.messages as f64)?;
    let _ = writeln!(text, "| CPU s of a run of one pair | {} |", figure(tiny.cpu.total()));
    let bad = samples.iter().filter(|s| !s.is_good()).count();
    if bad > 0 {
        let _ = writeln!(text, "\n{bad} of {} repetitions are refused.", samples.len());
    }
    Ok(text)
}

/// One more run under perf: shares of the kernel, of adsum and of libc.
fn profile(adsum: &Adsum, dir: &Path, scenario: &Scenario, pool: &Pool) -> Result<String> {
    let file = scenario.write(dir)?;
    let data = dir.join("perf.data");
    let mut command = Command::new("perf");
    // A clock, since virtual machines often have no cycle counters.
    command
        .args(["record", "--quiet", "--event", "cpu-clock", "--freq", "999", "--output"])
        .arg(&data)
        .arg("--");
    command.arg(adsum.command().get_program());
    adsum.arguments(&mut command, dir, &file)?;
    let limit = scenario.hold + Duration::from_secs(180);
    let status = Process::start("perf record (Debian: linux-perf)", &mut command)?.finish(limit)?;
    if !status.success() {
        return Err(said(format!(
            "perf record ended with {status}: see {}/words.txt (pool is process {})",
            dir.display(),
            pool.pid()
        )));
    }
    let perf = |sort: &str| {
        let mut report = Command::new("perf");
        report.args(["report", "--stdio", "--quiet", "--sort", sort, "--input"]).arg(&data);
        process::output("perf report", &mut report)
    };
    let (objects, symbols) = (perf("dso")?, perf("dso,symbol")?);
    let split = shares(&objects);
    let mut text = String::from("\n| where, by perf | share of CPU time |\n| --- | ---: |\n");
    for (name, share) in &split {
        let _ = writeln!(text, "| {name} | {share:.1} % |");
    }
    text.push_str("\n```text\n");
    symbols.lines().filter(|line| share_of(line).is_some()).take(25).for_each(|line| {
        let _ = writeln!(text, "{}", line.trim_end_matches([' ', '-']));
    });
    text.push_str("```\n");
    Ok(text)
}

/// `12.34%  rest`.
fn share_of(line: &str) -> Option<(f64, &str)> {
    let (share, rest) = line.trim().split_once('%')?;
    Some((share.parse().ok()?, rest.trim()))
}

/// Shared objects as perf names them, joined to the few that matter here.
fn shares(report: &str) -> Vec<(&'static str, f64)> {
    let mut sums = [("kernel", 0.0), ("adsum", 0.0), ("libc", 0.0), ("others", 0.0)];
    for (share, object) in report.lines().filter_map(share_of) {
        let at = match object {
            o if o.starts_with("[kernel") || o.starts_with("[guest.kernel") => 0,
            o if o.starts_with("adsum") => 1,
            o if o.starts_with("libc.") || o.starts_with("libc-") => 2,
            _ => 3,
        };
        sums[at].1 += share;
    }
    sums.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_joined_by_object() {
        let report = "# comment\n\n    70.50%  [kernel.kallsyms]\n    20.00%  adsum\n     5.25%  libc.so.6\n\
                      \n     4.00%  [vdso]\n     0.25%  libgcc_s.so.1\n";
        assert_eq!(shares(report), [("kernel", 70.5), ("adsum", 20.0), ("libc", 5.25), ("others", 4.25)]);
    }

    #[test]
    fn without_a_good_repetition_there_is_no_table() {
        let bad = Sample { drops: 3, ..Sample::default() };
        let mut samples = vec![bad];
        samples.iter_mut().for_each(Sample::judge);
        let error = table(&samples, &Sample::default()).unwrap_err().to_string();
        assert!(error.contains("3 datagrams"), "{error}");
    }
}
