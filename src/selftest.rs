//! `adsum selftest`: this host as a load generator. What it is and what would
//! make it fitter; how fast it can send and how finely it can measure, against
//! the embedded pool in a process of its own (RFC 7502 §6.1: the rate of the
//! testbed itself, without a device under test).

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use adsum_agent::fitness::{self, Finding};
use adsum_agent::host;
use adsum_report::histogram::{Percentile, Quantile};
use adsum_report::manifest::StepInfo;
use adsum_report::{Base, Histogram, Manifest, Metric, Phase, Raw, headroom, print};
use clap::Parser as _;
use serde_json::{Value, json};

use crate::cli::{Cli, Command as Word, Realtime, Selftest, SelftestFormat};
use crate::exit;
use crate::run::{self, Failed};

/// How long the host is watched for what the hypervisor takes.
const WATCH: Duration = Duration::from_secs(1);
/// Users of the runs. Each publisher has one publication open at a time: with a thousand of them the
/// fastest rung asks each for one in 30 ms.
const USERS: u32 = 2_000;
/// The rate at which nothing queues, and how long it is held: enough samples for a p99.
const FLOOR: (u32, u32) = (200, 7);
/// Publications a second, rung by rung, and how long each is held.
const RUNGS: [u32; 11] = [500, 1_000, 1_500, 2_000, 3_000, 4_000, 6_000, 8_000, 12_000, 20_000, 32_000];
const RUNG_S: u32 = 3;
/// The largest share of publications that may wait for the answer to the one before.
const WAITED: f64 = 0.01;
/// The largest p99 of the send lag at which the engine keeps up.
const LAG_LIMIT_US: u64 = 1_000;

pub fn selftest(args: &Selftest) -> u8 {
    let findings = fitness::look(WATCH);
    let measured = if args.quick { Ok(None) } else { measure(args).map(Some) };
    let measured = match measured {
        Ok(measured) => measured,
        Err((code, text)) => {
            print_text(&findings, None);
            eprintln!("adsum: {text}");
            return code;
        }
    };
    match args.format {
        SelftestFormat::Text => print_text(&findings, measured.as_ref()),
        SelftestFormat::Json => println!("{:#}", to_json(&findings, measured.as_ref())),
    }
    0
}

/// One rate that was held.
#[derive(Debug, Default)]
struct Rung {
    rate: u32,
    sent: u64,
    lag_p50_us: Option<u64>,
    lag_p99_us: Option<u64>,
    notify_p50_us: Option<u64>,
    notify_p99_us: Option<u64>,
    busy: Option<f64>,
    /// Why it does not count; empty if it does.
    broken: String,
}

#[derive(Debug)]
struct Measured {
    floor: Rung,
    rungs: Vec<Rung>,
    priority: String,
    shards: u32,
}

impl Measured {
    fn ceiling(&self) -> Option<&Rung> {
        self.rungs.iter().take_while(|rung| rung.broken.is_empty()).last()
    }

    fn first_broken(&self) -> Option<&Rung> {
        self.rungs.iter().find(|rung| !rung.broken.is_empty())
    }
}

/// A pool as a process of its own, ended with this value.
struct PoolProcess(Child);

impl PoolProcess {
    fn start() -> Result<(PoolProcess, String), Failed> {
        let wrong = |text: String| (exit::NOT_STARTED, format!("cannot start the pool: {text}"));
        let program = std::env::current_exe().map_err(|e| wrong(e.to_string()))?;
        let child = Command::new(program)
            .args(["pool", "--listen", "127.0.0.1:0", "--users", &USERS.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| wrong(e.to_string()))?;
        let mut pool = PoolProcess(child);
        let mut line = String::new();
        if let Some(out) = pool.0.stdout.take() {
            BufReader::new(out).read_line(&mut line).map_err(|e| wrong(e.to_string()))?;
        }
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("udp,tcp="));
        let address = address.ok_or_else(|| wrong("it did not say that it is ready".to_owned()))?.to_owned();
        Ok((pool, address))
    }
}

impl Drop for PoolProcess {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A folder that goes with this value, unless the operator named it.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

fn measure(args: &Selftest) -> Result<Measured, Failed> {
    let folder = Folder {
        path: match &args.out {
            Some(out) => out.clone(),
            None => std::env::temp_dir().join(format!("adsum-selftest-{}", ulid::Ulid::generate())),
        },
        keep: args.out.is_some(),
    };
    let wrong = |e: std::io::Error| (exit::NOT_STARTED, format!("{}: {e}", folder.path.display()));
    std::fs::create_dir_all(&folder.path).map_err(wrong)?;
    let (_pool, address) = PoolProcess::start()?;
    let file = folder.path.join("selftest.toml");
    std::fs::write(&file, scenario(&address)).map_err(wrong)?;
    let dir = folder.path.join("results");
    // The same path as any run on this host.
    let words = [
        "adsum",
        "run",
        &file.to_string_lossy(),
        "--out",
        &dir.to_string_lossy(),
        "--plain",
        "--shards",
        &args.shards.to_string(),
        "--realtime",
        if args.realtime == Realtime::Auto { "auto" } else { "off" },
    ]
    .map(str::to_owned);
    let parsed = Cli::try_parse_from(words).map_err(|e| (exit::INTERNAL, e.to_string()))?;
    let Word::Run(run) = parsed.command else { return Err((exit::INTERNAL, "no run".to_owned())) };
    let loaded = run::load(&run.scenario, &[]).map_err(|code| (code, "the built-in scenario".to_owned()))?;
    let outcome = run::carry_out(&run, loaded)?;
    if let Some((error, diagnosis)) = outcome.not_ready {
        return Err((exit::NOT_STARTED, format!("the run could not start: {error}: {diagnosis}")));
    }
    read(&dir)
}

/// The floor, then the ladder; it ends by itself when a rung is too high.
fn scenario(target: &str) -> String {
    let mut text = format!(
        "schema = 1\nname = \"selftest\"\n\
         [pool]\ntarget = {target:?}\n\
         [users]\ncount = {USERS}\npattern = \"sip:user{{n:06}}@pool.test\"\npassword_pattern = \"pw-user{{n:06}}\"\n\
         [workload]\nkind = \"held\"\ndeadline = \"3s\"\nself_subscribe = false\n\
         [warmup]\nregister_rate = \"2000/s\"\nsubscribe_rate = \"2000/s\"\nsettle = \"1s\"\n\
         [safety]\noverload = true\n\
         [[threshold]]\nexpr = \"send_lag.p99 < {LAG_LIMIT_US}us\"\nabort_on_fail = true\nfor = \"2s\"\n\
         [[threshold]]\nexpr = \"missed.ratio == 0%\"\nabort_on_fail = true\n"
    );
    let mut step = |name: &str, rate: u32, hold: u32, ramp: u32| {
        text.push_str(&format!(
            "[[step]]\nname = {name:?}\nrate = \"{rate}/s\"\nramp = \"{ramp}s\"\nhold = \"{hold}s\"\n"
        ));
    };
    step("floor", FLOOR.0, FLOOR.1, 0);
    for rate in RUNGS {
        step(&format!("rung-{rate}"), rate, RUNG_S, 1);
    }
    text
}

fn read(dir: &Path) -> Result<Measured, Failed> {
    let (raw, manifest) = adsum_report::files::read_raw(dir).map_err(|e| (exit::INTERNAL, e.to_string()))?;
    let held = |name: &str| {
        manifest
            .holds()
            .find(|(step, _)| step.name == name)
            .map(|(step, phase)| (step, phase.to_s - phase.from_s))
    };
    let Some((step, _)) = held("floor") else {
        return Err((exit::NOT_STARTED, "the floor was not held: see the results".to_owned()));
    };
    let floor = rung(&raw, &manifest, step, FLOOR.0);
    let mut rungs = Vec::new();
    for rate in RUNGS {
        let Some((step, held_s)) = held(&format!("rung-{rate}")) else { break };
        let mut found = rung(&raw, &manifest, step, rate);
        if held_s < f64::from(RUNG_S) && found.broken.is_empty() {
            // The run was ended here, by the rung that came before it.
            break;
        }
        if rungs.last().is_some_and(|last: &Rung| !last.broken.is_empty()) {
            found.broken = "beyond the first that broke".to_owned();
        }
        rungs.push(found);
    }
    let agent = manifest.agents.first();
    Ok(Measured {
        floor,
        rungs,
        priority: agent.map(|a| a.priority.clone()).unwrap_or_default(),
        shards: agent.map_or(0, |a| a.shards),
    })
}

fn rung(raw: &Raw, manifest: &Manifest, step: &StepInfo, rate: u32) -> Rung {
    let total = |counter: &str| raw.total(step.step, Phase::Hold, None, counter, None);
    let series = |metric, base| raw.series(step.step, Phase::Hold, None, metric, base);
    let at = |histogram: &Histogram, ppb: u64, censored: u64| match histogram
        .percentile(Quantile(ppb), censored)
    {
        Percentile::Value(us) => Some(us),
        _ => None,
    };
    let missed = total("missed") + total("void");
    let lag = series(Metric::SendLag, Base::None);
    let notify = series(Metric::PublishToNotify, Base::Scheduled);
    let mut rung = Rung {
        rate,
        sent: total("sent"),
        lag_p50_us: at(&lag, 500_000_000, 0),
        lag_p99_us: at(&lag, 990_000_000, 0),
        notify_p50_us: at(&notify, 500_000_000, missed),
        notify_p99_us: at(&notify, 990_000_000, missed),
        busy: headroom::busiest(raw, manifest, step.step, 1.0).map(|busiest| busiest.ratio),
        broken: String::new(),
    };
    let mut why = Vec::new();
    if rung.lag_p99_us.is_none_or(|us| us > LAG_LIMIT_US) {
        why.push(format!("send lag p99 {}", text(rung.lag_p99_us)));
    }
    for (n, what) in [
        (total("rx_dropped"), "datagrams dropped in this host"),
        (total("not_started"), "publications not sent"),
        (missed, "notifications missed: the pool, which shares these cores, is the limit"),
    ] {
        if n > 0 {
            why.push(format!("{n} {what}"));
        }
    }
    // What waits for the pool is late without the engine's doing, and is not driven at this rate.
    let waited = total("waited_publication") as f64 / total("offered").max(1) as f64;
    if waited > WAITED {
        why.push(format!("{:.0} % of the publications waited for the pool", waited * 100.0));
    }
    let limit = manifest.trust.busy_limit();
    if let Some(busy) = rung.busy.filter(|busy| *busy > limit) {
        why.push(format!("a shard was {:.0} % busy", busy * 100.0));
    }
    rung.broken = why.join(", ");
    rung
}

fn text(us: Option<u64>) -> String {
    us.map_or_else(|| "-".to_owned(), print::human)
}

/// What the figures mean for a run, a sentence each.
fn meaning(findings: &[Finding], measured: Option<&Measured>) -> Vec<String> {
    let mut lines = Vec::new();
    let unfit = findings.iter().filter(|finding| !finding.fit).count();
    lines.push(match unfit {
        0 => "nothing that was looked at stands in the way of a run".to_owned(),
        n => {
            format!("{n} of {} are below what is wanted; each says the command that mends it", findings.len())
        }
    });
    let Some(measured) = measured else { return lines };
    match measured.ceiling() {
        Some(ceiling) => {
            let broken = measured.first_broken().map_or_else(
                || "no faster rate was tried".to_owned(),
                |broken| format!("at {}/s: {}", broken.rate, broken.broken),
            );
            lines.push(format!(
                "up to {}/s with {} shard(s) the engine is on time ({broken}); pool and engine shared {} cores, so against a pool elsewhere it is not lower",
                ceiling.rate,
                measured.shards,
                host::facts().cores
            ));
        }
        None => lines.push(format!(
            "the engine is not on time even at {}/s: do what the findings say before a run is believed",
            RUNGS[0]
        )),
    }
    if let (Some(p50), Some(p99), Some(lag)) =
        (measured.floor.notify_p50_us, measured.floor.notify_p99_us, measured.floor.lag_p99_us)
    {
        lines.push(format!(
            "publish_to_notify of {} (p50) and {} (p99) is what this host takes by itself, the embedded pool included: a pool's figures near it say little; a send lag p99 of {} is this host's best",
            print::human(p50),
            print::human(p99),
            print::human(lag)
        ));
    }
    lines
}

fn print_text(findings: &[Finding], measured: Option<&Measured>) {
    let facts = host::facts();
    println!(
        "selftest of {} ({}, {} cores, Linux {})",
        facts.name, facts.cpu_model, facts.cores, facts.kernel
    );
    println!();
    for finding in findings {
        let mark = if finding.fit { "ok" } else { "--" };
        println!("  {mark}  {:<21} {}; wanted: {}", finding.name, finding.found, finding.wanted);
        if !finding.mend.is_empty() {
            println!("        {:<19} {}", "", finding.mend);
        }
    }
    if let Some(measured) = measured {
        println!();
        println!(
            "  held users over UDP, {} shard(s), priority {}, the pool in a process of its own on the same cores",
            measured.shards, measured.priority
        );
        println!(
            "  {:>8} {:>10} {:>10} {:>12} {:>12} {:>7}",
            "rate/s", "lag p50", "lag p99", "notify p50", "notify p99", "busy"
        );
        for rung in std::iter::once(&measured.floor).chain(&measured.rungs) {
            println!(
                "  {:>8} {:>10} {:>10} {:>12} {:>12} {:>7} {}",
                rung.rate,
                text(rung.lag_p50_us),
                text(rung.lag_p99_us),
                text(rung.notify_p50_us),
                text(rung.notify_p99_us),
                rung.busy.map_or_else(|| "-".to_owned(), |busy| format!("{:.0} %", busy * 100.0)),
                rung.broken
            );
        }
    }
    println!();
    for line in meaning(findings, measured) {
        println!("  {line}");
    }
}

fn to_json(findings: &[Finding], measured: Option<&Measured>) -> Value {
    let facts = host::facts();
    let seconds = |us: Option<u64>| us.map(|us| us as f64 / 1e6);
    let rung = |rung: &Rung| {
        json!({
            "rate_hz": rung.rate, "sent": rung.sent,
            "send_lag_p50_s": seconds(rung.lag_p50_us), "send_lag_p99_s": seconds(rung.lag_p99_us),
            "publish_to_notify_p50_s": seconds(rung.notify_p50_us),
            "publish_to_notify_p99_s": seconds(rung.notify_p99_us),
            "shard_busy_max": rung.busy, "broken": rung.broken,
        })
    };
    json!({
        "schema_version": 1,
        "adsum_version": env!("CARGO_PKG_VERSION"),
        "host": { "name": facts.name, "kernel": facts.kernel, "cpu_model": facts.cpu_model, "cores": facts.cores },
        "findings": findings.iter().map(|f| json!({
            "name": f.name, "found": f.found, "wanted": f.wanted, "fit": f.fit, "mend": f.mend,
        })).collect::<Vec<_>>(),
        "floor": measured.map(|m| rung(&m.floor)),
        "ceiling_hz": measured.and_then(|m| m.ceiling()).map(|c| c.rate),
        "rungs": measured.map(|m| m.rungs.iter().map(rung).collect::<Vec<_>>()),
        "shards": measured.map(|m| m.shards),
        "priority": measured.map(|m| m.priority.clone()),
        "meaning": meaning(findings, measured),
    })
}

#[cfg(test)]
mod tests {
    use adsum_report::manifest::PhaseInfo;
    use adsum_report::raw::{Count, Interval, Series};

    use super::*;

    /// A rung of three seconds with a thousand publications in each, and these counts besides.
    fn held(lag_us: u64, more: &[(&str, &str, u64)]) -> Rung {
        let mut raw = Raw::default();
        for second in 0..3 {
            let of = |us: u64, metric, base| {
                let mut histogram = Histogram::new();
                assert!(histogram.record_n(us, 1_000).is_ok());
                let (deltas, counts) = histogram.cells().unzip();
                Series { step: 1, phase: Phase::Hold, metric, base, deltas, counts }
            };
            let count = |(counter, label, value): &(&str, &str, u64)| Count {
                step: 1,
                phase: Phase::Hold,
                counter: (*counter).to_owned(),
                label: (*label).to_owned(),
                value: *value,
            };
            let base = [("offered", "", 1_000), ("sent", "", 1_000), ("cpu_us", "shard-0", 400_000)];
            let more = if second == 1 { more } else { &[] };
            let interval = Interval {
                agent: "local".to_owned(),
                site: "local".to_owned(),
                number: second as u64,
                second,
                series: vec![
                    of(lag_us, Metric::SendLag, Base::None),
                    of(300, Metric::PublishToNotify, Base::Scheduled),
                ],
                counts: base.iter().chain(more).map(count).collect(),
                ..Interval::default()
            };
            assert!(raw.absorb(&interval).is_ok());
        }
        let phases = vec![PhaseInfo { phase: Phase::Hold, from_s: 0.0, to_s: 3.0 }];
        let step = StepInfo { step: 1, name: "rung-1000".to_owned(), phases, ..StepInfo::default() };
        rung(&raw, &Manifest { steps: vec![step.clone()], ..Manifest::default() }, &step, 1_000)
    }

    #[test]
    fn a_rung_counts_only_if_engine_and_pool_kept_up_with_it() {
        let good = held(90, &[("waited_publication", "", 30)]);
        assert_eq!((good.broken.as_str(), good.sent, good.lag_p99_us), ("", 3_000, Some(90)));
        assert_eq!((good.notify_p50_us, good.busy), (Some(300), Some(0.4)));
        for (lag_us, more, why) in [
            (1_100, ("sent", "", 0), "send lag p99 1.10 ms"),
            (90, ("rx_dropped", "", 7), "7 datagrams dropped"),
            (90, ("not_started", "", 1), "1 publications not sent"),
            (90, ("missed", "", 2), "2 notifications missed"),
            (90, ("waited_publication", "", 31), "waited for the pool"),
            (90, ("cpu_us", "shard-1", 950_000), "95 % busy"),
        ] {
            let found = held(lag_us, &[more]);
            assert!(found.broken.contains(why), "{why}: {found:?}");
        }
    }

    #[test]
    fn the_ceiling_lies_below_the_first_rung_that_broke() {
        let rung = |rate, broken: &str| Rung { rate, broken: broken.to_owned(), ..Rung::default() };
        let measured = |rungs| Measured { floor: Rung::default(), rungs, priority: String::new(), shards: 1 };
        let some = measured(vec![rung(500, ""), rung(1_000, ""), rung(1_500, "late"), rung(2_000, "")]);
        assert_eq!((some.ceiling().unwrap().rate, some.first_broken().unwrap().rate), (1_000, 1_500));
        let none = measured(vec![rung(500, "late")]);
        assert!(none.ceiling().is_none());
        assert!(meaning(&[], Some(&none)).iter().any(|line| line.contains("not on time even at 500/s")));
    }
}
