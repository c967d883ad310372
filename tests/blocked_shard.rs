//! A shard that stands still for 50 ms: with the kernel's receive stamps that is in no latency, with
//! stamps of its own in all that waited for it, and the verdict names it either way.

#[path = "support/process.rs"]
mod process;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The pool holds back every NOTIFY for so long: as many are on their way at any time as are
/// published meanwhile, and those are what a block can hit.
const ON_THE_WAY: &str = "40ms";
const BLOCK: Duration = Duration::from_millis(50);
/// Own queueing may put no more than this into a latency, in microseconds.
const ALLOWED_US: f64 = 100.0;
/// Other work of this host only adds: one quiet attempt of so many is enough.
const ATTEMPTS: u32 = 6;
/// Seconds from the run's beginning to its first step.
const BEGINS_S: u64 = 5;

#[derive(Debug)]
struct Results {
    /// `publish_to_notify` of the first step, sent base, in microseconds: p99 and largest.
    p99_us: f64,
    max_us: f64,
    /// The verdict's word on gaps of the loop, if there is one.
    loop_gap: Option<String>,
    stamps: String,
    /// The first step began when the test took it to.
    on_time: bool,
}

/// A second of publications, one each millisecond; then next to none, so that what is hit is only
/// what was on its way, and no burst of late publications makes the pool slow.
fn scenario(dir: &Path, target: &str, transport: &str) -> PathBuf {
    let file = dir.join("scenario.toml");
    let text = format!(
        "schema = 1\nname = \"blocked\"\n\
         [pool]\ntarget = {target:?}\ntransport = {transport:?}\n\
         [users]\ncount = 400\npattern = \"sip:user{{n:06}}@pool.test\"\npassword_pattern = \"pw-user{{n:06}}\"\n\
         [workload]\nkind = \"held\"\n\
         [warmup]\nsettle = \"0s\"\n\
         [trust]\nprofile = \"ci\"\nsend_lag_p99 = \"10s\"\nloop_gap = \"30ms\"\nshard_busy = \"100%\"\nsteal = \"100%\"\n\
         [[step]]\nname = \"busy\"\nrate = \"1000/s\"\nhold = \"1s\"\n\
         [[step]]\nname = \"quiet\"\nrate = \"10/s\"\nhold = \"2s\"\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// One run, whose process is stopped just after the last publication of its first step, or not.
fn run(target: &str, transport: &str, stamps: &str, block: bool) -> Results {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut child = process::adsum(&[
        "run",
        &scenario(dir.path(), target, transport).to_string_lossy(),
        "--out",
        &out.to_string_lossy(),
        "--plain",
        "--shards",
        "1",
        "--stamps",
        stamps,
    ]);
    if block {
        let pid = Pid::from_raw(child.0.id() as i32);
        process::wait_for(Duration::from_secs(30), "journal", || out.join("run.journal").exists());
        // The journal comes in the run's first second; seconds are whole ones of the wall clock. Signing
        // on takes less than five, then comes the first step.
        let wall = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let ends = Duration::from_secs(wall().as_secs() + BEGINS_S + 1) + Duration::from_millis(2);
        std::thread::sleep(ends.saturating_sub(wall()));
        kill(pid, Signal::SIGSTOP).unwrap();
        std::thread::sleep(BLOCK);
        kill(pid, Signal::SIGCONT).unwrap();
    }
    child.0.wait().unwrap();
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("manifest.json")).unwrap()).unwrap();
    let on_time = manifest["steps"][1]["phases"][0]["from_s"].as_f64() == Some(BEGINS_S as f64);
    let rows = std::fs::read_to_string(out.join("steps.csv")).unwrap();
    let names: Vec<&str> = rows.lines().next().unwrap().split(',').collect();
    let row: Vec<&str> = rows
        .lines()
        .map(|line| line.split(',').collect::<Vec<_>>())
        .find(|row| row[5..10] == ["busy", "hold", "all", "publish_to_notify", "sent"])
        .expect("a row of the first step");
    let us = |name: &str| {
        let at = names.iter().position(|n| *n == name).unwrap();
        row[at].parse::<f64>().unwrap_or_else(|_| panic!("no {name}: {row:?}")) * 1e6
    };
    let reasons = manifest["reasons"].as_array().unwrap();
    let gap = reasons.iter().find(|reason| reason["reason"] == "loop_gap");
    Results {
        p99_us: us("p99_s"),
        max_us: us("max_s"),
        loop_gap: gap.map(|gap| gap["measured"].as_str().unwrap().to_owned()),
        stamps: manifest["agents"][0]["receive_stamps"].as_str().unwrap().to_owned(),
        on_time,
    }
}

impl Results {
    /// True if this host did nothing else to the run than what the test did.
    fn is_quiet(&self, block: bool) -> bool {
        match &self.loop_gap {
            None => !block && self.on_time,
            Some(gap) => block && self.on_time && gap.starts_with("1 gaps, together 0.0"),
        }
    }
}

/// The first attempt that `so` holds for, among those in which the host was quiet.
fn attempt<T>(what: &str, mut so: impl FnMut() -> Result<T, String>) -> T {
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        match so() {
            Ok(found) => return found,
            Err(why) => seen.push(why),
        }
    }
    panic!("{what}: {seen:#?}");
}

fn blocked(transport: &str) {
    let (_pool, address) = process::pool(&["--notify-delay", ON_THE_WAY]);
    let (calm, kernel) = attempt("own queueing is in no latency", || {
        let calm = run(&address, transport, "kernel", false);
        let kernel = run(&address, transport, "kernel", true);
        assert_eq!((calm.stamps.as_str(), kernel.stamps.as_str()), ("kernel", "kernel"));
        assert!(kernel.loop_gap.is_some() || !kernel.on_time, "the verdict names the gap");
        let words = format!("{transport}: calm {calm:?}, blocked {kernel:?}");
        let quiet = calm.is_quiet(false) && kernel.is_quiet(true);
        if quiet && kernel.p99_us - calm.p99_us <= ALLOWED_US { Ok((calm, kernel)) } else { Err(words) }
    });
    // Forty are on their way, two have come: the tenth of the rest waited 40 ms of the 50, the first all
    // of them, beyond the 40 that it took anyway.
    let user = attempt("with stamps of its own all of it is", || {
        let user = run(&address, transport, "user", true);
        assert_eq!(user.stamps, "user");
        let p99 = user.p99_us - calm.p99_us;
        let words = format!("{transport}: calm {calm:?}, blocked {user:?}");
        if user.is_quiet(true) && p99 > 35_000.0 && user.max_us > 85_000.0 { Ok(user) } else { Err(words) }
    });
    eprintln!(
        "{transport}: p99 {} µs calm, {} µs blocked, {} µs blocked with stamps of its own",
        calm.p99_us, kernel.p99_us, user.p99_us
    );
}

#[test]
fn own_queueing_is_in_no_latency() {
    // One after the other, so that they do not disturb each other.
    for transport in ["udp", "tcp"] {
        blocked(transport);
    }
}
