//! The program accuses itself: each reason not to believe a run is provoked
//! here, and what it says is compared with what somebody else saw: this test,
//! who knows what it did, or the kernel.

#[path = "support/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use process::{PROGRAM, Process, pool};
use serde_json::Value;

/// A scenario with wide limits; tests narrow the one they are about.
struct Scenario {
    target: String,
    kind: &'static str,
    transport: &'static str,
    users: u32,
    rate: u32,
    hold_s: u32,
    deadline: &'static str,
    trust: &'static str,
    more: &'static str,
}

const WIDE: &str =
    "profile = \"ci\"\nsend_lag_p99 = \"10s\"\nloop_gap = \"10s\"\nshard_busy = \"100%\"\nsteal = \"100%\"\n";

impl Scenario {
    fn held(target: &str) -> Scenario {
        Scenario {
            target: target.to_owned(),
            kind: "held",
            transport: "udp",
            users: 40,
            rate: 50,
            hold_s: 8,
            deadline: "5s",
            trust: WIDE,
            more: "",
        }
    }

    fn write(&self, dir: &Path) -> PathBuf {
        let file = dir.join("scenario.toml");
        let text = format!(
            "schema = 1\nname = \"accused\"\n\
             [pool]\ntarget = {:?}\ntransport = {:?}\n\
             [users]\ncount = {}\npattern = \"sip:user{{n:06}}@pool.test\"\npassword_pattern = \"pw-user{{n:06}}\"\n\
             [workload]\nkind = {:?}\ndeadline = {:?}\n\
             [warmup]\nsettle = \"0s\"\n\
             [trust]\n{}\
             [[step]]\nname = \"one\"\nrate = \"{}/s\"\nhold = \"{}s\"\n{}",
            self.target,
            self.transport,
            self.users,
            self.kind,
            self.deadline,
            self.trust,
            self.rate,
            self.hold_s,
            self.more
        );
        std::fs::write(&file, text).unwrap();
        file
    }
}

/// A run as a child; its results lie in `dir/out`.
struct Run {
    child: Process,
    out: PathBuf,
}

impl Run {
    fn start(dir: &Path, scenario: &Scenario, args: &[&str]) -> Run {
        Run::start_in(dir, scenario, args, &[PROGRAM])
    }

    /// `before` is what stands before the program's arguments, the program last.
    fn start_in(dir: &Path, scenario: &Scenario, args: &[&str], before: &[&str]) -> Run {
        let out = dir.join("out");
        let child = Command::new(before[0])
            .args(&before[1..])
            .args(["run", &scenario.write(dir).to_string_lossy(), "--out", &out.to_string_lossy(), "--plain"])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Run { child: Process(child), out }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.0.id() as i32)
    }

    /// Until the hold has run for `seconds`, by the program's own journal of intervals being there
    /// and the log-on of a few users, which takes less than three seconds.
    fn wait_for_hold(&self, seconds: u64) {
        let limit = Instant::now() + Duration::from_secs(20);
        while !self.out.join("run.journal").exists() {
            assert!(Instant::now() < limit, "the run has no journal");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_secs(4 + seconds));
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Stops it for as long; answers how long by this test's clock.
    fn stop_for(&self, time: Duration) -> f64 {
        let began = Instant::now();
        self.signal(Signal::SIGSTOP);
        std::thread::sleep(time);
        self.signal(Signal::SIGCONT);
        began.elapsed().as_secs_f64()
    }

    /// Descriptors that the kernel says it has open, as links.
    fn files(&self) -> Vec<String> {
        let dir = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        dir.into_iter()
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .map(|link| link.to_string_lossy().into_owned())
            .collect()
    }

    /// Nanoseconds that the shards' threads ran, and waited for a core, by the kernel's accounts.
    fn shards(&self) -> BTreeMap<String, (u64, u64)> {
        let dir = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        dir.into_iter()
            .flatten()
            .filter_map(|entry| {
                let task = entry.ok()?.path();
                let name = std::fs::read_to_string(task.join("comm")).ok()?.trim().to_owned();
                let stat = std::fs::read_to_string(task.join("schedstat")).ok()?;
                let mut fields = stat.split_whitespace().map(|n| n.parse().unwrap_or(0));
                name.starts_with("shard-").then_some((name, (fields.next()?, fields.next()?)))
            })
            .collect()
    }

    fn end(mut self) -> Results {
        let code = self.child.0.wait().unwrap().code().unwrap_or(-1);
        let mut errors = String::new();
        std::io::Read::read_to_string(&mut self.child.0.stderr.take().unwrap(), &mut errors).unwrap();
        let read = |name: &str| std::fs::read_to_string(self.out.join(name)).unwrap_or_default();
        let manifest: Value = serde_json::from_str(&read("manifest.json"))
            .unwrap_or_else(|error| panic!("no manifest ({error}), exit {code}: {errors}"));
        Results {
            code,
            counters: read("counters.csv"),
            summary: read("summary.txt"),
            failures: read("failures.csv"),
            manifest,
        }
    }
}

struct Results {
    code: i32,
    counters: String,
    summary: String,
    failures: String,
    manifest: Value,
}

impl Results {
    /// The reasons by name: measured, place, advice.
    fn reasons(&self) -> BTreeMap<String, (String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = self.manifest["reasons"].as_array().unwrap();
        all.iter()
            .map(|r| (text(&r["reason"]), (text(&r["measured"]), text(&r["where"]), text(&r["advice"]))))
            .collect()
    }

    /// The reason, which has to be there with exit code 12 and in the summary.
    fn accused(&self, reason: &str) -> (String, String, String) {
        assert_eq!(self.code, 12, "{}", self.summary);
        assert!(self.summary.contains(&format!("!    {reason} at ")), "{}", self.summary);
        let reasons = self.reasons();
        let found = reasons.get(reason).unwrap_or_else(|| panic!("no {reason}: {reasons:?}"));
        assert!(found.1.starts_with("step 1 (one)"), "{found:?}");
        found.clone()
    }

    /// The sum of a counter over all phases of site `all`, or over the hold.
    fn count(&self, counter: &str, hold_only: bool) -> u64 {
        let rows = self.counters.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
        rows.filter(|row| row[5] == "all" && row[6] == counter && (!hold_only || row[4] == "hold"))
            .map(|row| row.last().unwrap().parse::<u64>().unwrap())
            .sum()
    }
}

/// The first number of a text behind a word.
fn number_after(text: &str, word: &str) -> f64 {
    let rest = &text[text.find(word).unwrap_or_else(|| panic!("{word}: {text}")) + word.len()..];
    let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap();
    digits.parse().unwrap_or_else(|_| panic!("{word}: {text}"))
}

/// `unshare` with this option, if this host lets us.
fn namespace(option: &str) -> Option<Vec<String>> {
    let tries =
        [vec!["unshare".to_owned(), format!("-{option}")], vec!["unshare".to_owned(), format!("-r{option}")]];
    let found = tries.into_iter().find(|words| {
        let tried = Command::new(&words[0]).args(&words[1..]).arg("true").stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    });
    if found.is_none() {
        eprintln!("NOT TESTED: this host allows no namespace (unshare -{option})");
    }
    found
}

#[test]
fn a_stop_is_measured_and_what_could_not_be_sent_in_it_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (_pool, address) = pool(&[]);
    let scenario = Scenario {
        deadline: "1s",
        hold_s: 10,
        trust: "profile = \"ci\"\nshard_busy = \"100%\"\nsteal = \"100%\"\n",
        ..Scenario::held(&address)
    };
    let run = Run::start(dir.path(), &scenario, &["--shards", "1"]);
    run.wait_for_hold(1);
    let stopped = run.stop_for(Duration::from_secs(3));
    let results = run.end();
    let (measured, place, advice) = results.accused("loop_gap");
    let longest = number_after(&measured, "together");
    // The loop's last sleep may have had up to 50 ms to go, and it wakes a little later.
    assert!((stopped - 0.1..stopped + 0.2).contains(&longest), "{measured}, stopped for {stopped}");
    assert!(place.contains("shard-0 of agent local") && advice.contains("taskset"), "{place} {advice}");
    let (measured, place, _) = results.accused("not_started");
    let lost = number_after(&measured, "");
    // Each arrival that was due more than one deadline before the engine ran again.
    let expected = (stopped - 1.0) * 50.0;
    assert!((lost - expected).abs() <= 12.0, "{measured}, expected {expected}");
    assert!(place.contains(&format!("agent local: {lost}")), "{place}");
    let (measured, ..) = results.accused("send_lag");
    assert!(number_after(&measured, "at worst") > 800.0, "{measured}");
    results.accused("lost_interval");
}

#[test]
fn short_stops_are_send_lag_and_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (_pool, address) = pool(&[]);
    let trust = "send_lag_p99 = \"50ms\"\nshard_busy = \"100%\"\nsteal = \"100%\"\n";
    let scenario = Scenario { trust, ..Scenario::held(&address) };
    let run = Run::start(dir.path(), &scenario, &[]);
    run.wait_for_hold(0);
    let mut longest = 0f64;
    for _ in 0..8 {
        longest = longest.max(run.stop_for(Duration::from_millis(150)));
        std::thread::sleep(Duration::from_millis(350));
    }
    let results = run.end();
    let (measured, ..) = results.accused("send_lag");
    let worst = number_after(&measured, "at worst");
    assert!((100.0..longest * 1e3 + 60.0).contains(&worst), "{measured}, stopped for {longest}");
    if longest < 0.25 {
        assert!(!results.reasons().contains_key("loop_gap"), "{}", results.summary);
    }
}

/// Datagrams to each UDP port of the run, from an address that is not the pool's.
fn flood(ports: &[u16], each: u32, length: usize) {
    let socket = UdpSocket::bind("127.0.0.9:0").unwrap();
    let bytes = vec![b'x'; length];
    for _ in 0..each {
        for port in ports {
            drop(socket.send_to(&bytes, SocketAddr::from(([127, 0, 0, 1], *port))));
        }
    }
}

/// Local port and drops of a process's UDP sockets, as the kernel's table has them.
fn udp_sockets(run: &Run) -> Vec<(u16, u64)> {
    let files = run.files();
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let ours = files.contains(&format!("socket:[{}]", fields[9]));
            let port = u16::from_str_radix(fields[1].rsplit_once(':')?.1, 16).ok()?;
            ours.then_some((port, fields[12].parse().ok()?))
        })
        .filter(|(port, _)| *port != 0)
        .collect()
}

#[test]
fn what_a_flood_drops_at_its_end_is_counted_as_the_kernel_counts_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_pool, address) = pool(&[]);
    let run = Run::start(dir.path(), &Scenario::held(&address), &["--shards", "1"]);
    run.wait_for_hold(0);
    let ports: Vec<u16> = udp_sockets(&run).iter().map(|(port, _)| *port).collect();
    assert!(!ports.is_empty());
    run.signal(Signal::SIGSTOP);
    // The buffer is 16 MiB at most. Nothing follows on this socket: no datagram tells of the loss.
    flood(&ports[..1], 40_000, 1_400);
    let kernel: u64 = udp_sockets(&run).iter().map(|(_, drops)| drops).sum();
    run.signal(Signal::SIGCONT);
    assert!(kernel > 0, "the flood did not overflow the buffer");
    let results = run.end();
    let (measured, place, advice) = results.accused("rx_dropped");
    assert_eq!((measured, results.count("rx_dropped", true)), (kernel.to_string(), kernel));
    assert!(place.contains(&format!("agent local: {kernel}")), "{place}");
    assert!(advice.contains("sysctl -w net.core.rmem_max"), "{advice}");
}

#[test]
fn the_busiest_shard_is_seen_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let (_pool, address) = pool(&[]);
    let trust = "profile = \"ci\"\nsend_lag_p99 = \"10s\"\nloop_gap = \"10s\"\nsteal = \"100%\"\nshard_busy = \"25%\"\n";
    let scenario = Scenario { trust, ..Scenario::held(&address) };
    let run = Run::start(dir.path(), &scenario, &["--shards", "2"]);
    run.wait_for_hold(0);
    // One shard's sockets get what both could do without.
    let (port, before) = (udp_sockets(&run)[0].0, run.shards());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        flood(&[port], 100, 200);
    }
    let after = run.shards();
    let ran = |shard: &String| (after[shard].0 - before[shard].0) as f64 / began.elapsed().as_nanos() as f64;
    let busiest = after.keys().max_by(|a, b| ran(a).total_cmp(&ran(b))).unwrap();
    let mut kernel = after.clone();
    let mut run = run;
    while matches!(run.child.0.try_wait(), Ok(None)) {
        for (shard, times) in run.shards() {
            kernel.insert(shard, times);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let results = run.end();
    let (measured, place, advice) = results.accused("shard_busy");
    let worst = number_after(&measured, "at worst") / 100.0;
    // The worst of some seconds is no less than their mean, and no more than all of a core.
    assert!(worst + 0.03 >= ran(busiest) && worst <= 1.0, "{measured}, by the kernel {}", ran(busiest));
    assert!(place.contains(&format!("{busiest} of agent local")), "{place}, by the kernel {busiest}");
    assert!(advice.contains("--shards"), "{advice}");
    assert!(results.summary.contains(&format!("headroom: shards at most {:.0} % busy", worst * 100.0)));
    // Nothing that the threads ran for is missing but the part of a second at the end.
    let (ours, theirs) =
        (results.count("cpu_us", false) as f64 / 1e6, kernel.values().map(|t| t.0).sum::<u64>() as f64 / 1e9);
    assert!(ours <= theirs + 0.05 && ours >= theirs * 0.85, "{ours} s counted, {theirs} s by the kernel");
}

/// The wall clock that only the program sees jumps forward and back; what it measures with does not.
#[test]
fn steps_of_the_wall_clock_are_counted() {
    let library = ["x86_64", "aarch64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(library) = library else {
        return eprintln!("NOT TESTED: libfaketime is not there (Debian: faketime)");
    };
    let dir = tempfile::tempdir().unwrap();
    let (_pool, address) = pool(&[]);
    let clock = dir.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let words = [
        "env".to_owned(),
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        PROGRAM.to_owned(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // Stamps of the kernel are of a clock that this test cannot turn.
    let args = ["--stamps", "user", "--shards", "1"];
    let run = Run::start_in(dir.path(), &Scenario::held(&address), &args, &words);
    run.wait_for_hold(1);
    for step in ["+30", "+29.5", "+0"] {
        std::fs::write(&clock, step).unwrap();
        // Without stamps of the kernel the wall clock is looked at once a second.
        std::thread::sleep(Duration::from_millis(1_200));
    }
    let results = run.end();
    let (measured, _, advice) = results.accused("clock_step");
    assert_eq!((number_after(&measured, ""), results.count("clock_step", true)), (3.0, 3), "{measured}");
    assert!(advice.contains("chrony") || advice.contains("NTP") || advice.contains("clock"), "{advice}");
    // Nothing was measured by that clock: no latency, no second and no lag suffered.
    assert_eq!(results.reasons().len(), 1, "{:?}", results.reasons());
    assert_eq!(results.count("offered", true), 50 * 8);
}

#[test]
fn steal_time_is_the_hosts_and_counted_once() {
    let Some(mut words) = namespace("m") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (_pool, address) = pool(&[]);
    let trust = "profile = \"ci\"\nsend_lag_p99 = \"10s\"\nloop_gap = \"10s\"\nshard_busy = \"100%\"\nsteal = \"5%\"\n";
    let scenario = Scenario { trust, ..Scenario::held(&address) };
    // What the program will take for /proc/stat: two cores, one of them robbed by this test.
    let path = dir.path().join("stat");
    let file = std::fs::File::create(&path).unwrap();
    let write = |ticks: u64| {
        let text = format!(
            "cpu  1 1 1 1 1 1 1 {ticks:08} 0 0\ncpu0 1 1 1 1 1 1 1 {ticks:08} 0 0\ncpu1 1 1 1 1 1 1 1 0 0 0\n"
        );
        file.write_all_at(text.as_bytes(), 0).unwrap();
    };
    write(0);
    let script = format!("mount --bind {} /proc/stat && exec \"$@\"", path.display());
    words.extend(["sh", "-c", &script, "sh", PROGRAM].map(str::to_owned));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut run = Run::start_in(dir.path(), &scenario, &["--shards", "2"], &words);
    let began = Instant::now();
    let mut ticks = 0;
    while matches!(run.child.0.try_wait(), Ok(None)) {
        // 40 of the 100 ticks of each second.
        ticks = began.elapsed().as_millis() as u64 * 40 / 1_000;
        write(ticks);
        std::thread::sleep(Duration::from_millis(10));
    }
    let results = run.end();
    let cores = results.manifest["agents"][0]["cores"].as_u64().unwrap();
    let (measured, place, advice) = results.accused("steal");
    let worst = number_after(&measured, "at worst");
    let expected = 40.0 / cores as f64;
    assert!((worst - expected).abs() < expected / 4.0, "{measured}, given {expected} %");
    assert!(place.contains("agent local") && advice.contains("vmstat"), "{place} {advice}");
    let counted = results.count("steal_us", true) as f64 / 1e6;
    assert!((counted - 0.4 * 8.0).abs() < 0.45, "{counted} s counted in 8 s, {ticks} ticks given in all");
}

#[test]
fn descriptors_that_run_out_are_this_processs_fault() {
    let dir = tempfile::tempdir().unwrap();
    let (_pool, address) = pool(&["--answer-delay", "300ms"]);
    let scenario = Scenario {
        kind: "workflow",
        transport: "tcp",
        users: 200,
        deadline: "3s",
        ..Scenario::held(&address)
    };
    let before = ["sh", "-c", "ulimit -n 60 && exec \"$@\"", "sh", PROGRAM];
    let mut run = Run::start_in(dir.path(), &scenario, &["--shards", "1"], &before);
    let mut most = 0;
    while matches!(run.child.0.try_wait(), Ok(None)) {
        most = most.max(run.files().len());
        std::thread::sleep(Duration::from_millis(5));
    }
    // The list is not read in one moment, so it may show one more than there ever were.
    assert!(most >= 58, "the kernel lists {most} of 60 descriptors at most");
    let results = run.end();
    let (measured, place, advice) = results.accused("out_of_files");
    assert!(number_after(&measured, "") > 0.0 && place.contains("agent local"), "{measured} {place}");
    assert!(advice.contains("ulimit -Hn"), "{advice}");
    assert!(results.failures.contains(",generator,generator:out_of_files,"), "{}", results.failures);
    assert!(results.failures.contains("Too many open files"), "{}", results.failures);
}

#[test]
fn ports_that_run_out_are_this_hosts_fault() {
    let Some(mut words) = namespace("n") else { return };
    let dir = tempfile::tempdir().unwrap();
    let scenario = Scenario {
        kind: "workflow",
        transport: "tcp",
        users: 200,
        deadline: "3s",
        ..Scenario::held("127.0.0.1:5060")
    };
    // A host with 20 ports, and a pool on it.
    let script = format!(
        "ip link set lo up && echo 40000 40019 > /proc/sys/net/ipv4/ip_local_port_range || exit 99\n\
         {PROGRAM} pool --listen 127.0.0.1:5060 --answer-delay 300ms > {0} 2> /dev/null & pool=$!\n\
         while ! grep -q ready {0}; do sleep 0.05; done\n\"$@\"; code=$?; kill $pool; wait $pool; exit $code",
        dir.path().join("pool").display()
    );
    words.extend(["sh", "-c", &script, "sh", PROGRAM].map(str::to_owned));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let results = Run::start_in(dir.path(), &scenario, &["--shards", "1"], &words).end();
    let (measured, place, advice) = results.accused("out_of_ports");
    assert!(number_after(&measured, "") > 0.0 && place.contains("agent local"), "{measured} {place}");
    assert!(advice.contains("sysctl -w net.ipv4.ip_local_port_range"), "{advice}");
    assert!(results.failures.contains(",generator,generator:out_of_ports,"), "{}", results.failures);
    assert!(results.failures.contains("Cannot assign requested address"), "{}", results.failures);
}

#[test]
fn too_few_users_are_not_the_engines_fault() {
    let dir = tempfile::tempdir().unwrap();
    // A workflow has eight requests and more, one after the other: two pairs do about one a second.
    let (_pool, address) = pool(&["--answer-delay", "200ms"]);
    let scenario =
        Scenario { kind: "workflow", users: 4, rate: 20, deadline: "2s", ..Scenario::held(&address) };
    let results = Run::start(dir.path(), &scenario, &["--shards", "1"]).end();
    let (measured, _, advice) = results.accused("too_few_users");
    assert!(number_after(&measured, "") > 80.0 && advice.contains("--users"), "{measured} {advice}");
    assert!(results.count("sent", true) <= 8 * 2 * 2, "two pairs cannot do more");
    assert!(!results.reasons().contains_key("not_started"), "{}", results.summary);
}

/// Processes whose parent is this one.
fn children(parent: Pid) -> Vec<Pid> {
    let processes = std::fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let ppid: i32 = stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()?;
            (ppid == parent.as_raw()).then_some(Pid::from_raw(pid))
        })
        .collect()
}

#[test]
fn seconds_of_an_agent_that_was_killed_are_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (_pool, address) = pool(&[]);
    let scenario =
        Scenario { hold_s: 12, more: "[fleet]\non_agent_loss = \"continue\"\n", ..Scenario::held(&address) };
    let run = Run::start(dir.path(), &scenario, &["--agents", "2"]);
    run.wait_for_hold(2);
    let agents = children(run.pid());
    assert_eq!(agents.len(), 2);
    kill(agents[0], Signal::SIGKILL).unwrap();
    let results = run.end();
    let (measured, ..) = results.accused("lost_interval");
    assert!(measured.ends_with("of 12 seconds"), "{measured}");
    let lost = results.reasons()["agent_lost"].clone();
    let name = measured.split(' ').nth(1).unwrap().to_owned();
    assert!(lost.1.contains(&name), "{lost:?}, {measured}");
}

/// Runs with nothing wrong about them, `ADSUM_CLEAN_RUNS` of them. A reason
/// needs a cause that the kernel confirms: a shard's thread waited for a core,
/// or the hypervisor took time.
#[test]
fn clean_runs_accuse_nobody() {
    let runs: u32 = std::env::var("ADSUM_CLEAN_RUNS").map_or(5, |n| n.parse().expect("a number of runs"));
    let (_pool, address) = pool(&[]);
    let stolen = || -> u64 {
        let stat = std::fs::read_to_string("/proc/stat").unwrap();
        let line = stat.lines().next().unwrap().to_owned();
        line.split_whitespace().nth(8).unwrap().parse().unwrap()
    };
    let (mut with_cause, mut without) = (0, Vec::new());
    for number in 1..=runs {
        let dir = tempfile::tempdir().unwrap();
        let scenario = Scenario { hold_s: 3, trust: "profile = \"lab\"\n", ..Scenario::held(&address) };
        let mut run = Run::start(dir.path(), &scenario, &[]);
        let before = stolen();
        let mut waited = 0;
        while matches!(run.child.0.try_wait(), Ok(None)) {
            waited = waited.max(run.shards().values().map(|times| times.1).max().unwrap_or(0));
            std::thread::sleep(Duration::from_millis(20));
        }
        let steal_ticks = stolen() - before;
        let results = run.end();
        let waited_ms = waited as f64 / 1e6;
        for (reason, said) in results.reasons() {
            let caused = match reason.as_str() {
                "send_lag" => {
                    waited_ms + steal_ticks as f64 * 10.0 >= number_after(&said.0, "at worst") * 0.9
                }
                "loop_gap" => waited_ms + steal_ticks as f64 * 10.0 >= 250.0,
                // A whole second in which the engine did not run.
                "lost_interval" => waited_ms + steal_ticks as f64 * 10.0 >= 1_000.0,
                "steal" => steal_ticks > 0,
                _ => false,
            };
            let line = format!(
                "run {number}: {reason}: {} ({}); a shard waited {waited_ms:.1} ms for a core, {steal_ticks} ticks stolen",
                said.0, said.1
            );
            eprintln!("{line}; {}", if caused { "caused" } else { "WITHOUT CAUSE" });
            if caused {
                with_cause += 1;
            } else {
                without.push(line);
            }
        }
        if results.reasons().is_empty() {
            assert_eq!(results.code, 0, "{}", results.summary);
            assert!(results.summary.contains("headroom: shards at most "), "{}", results.summary);
        }
    }
    let mut out = std::io::stderr();
    let told =
        writeln!(out, "{runs} clean runs: {with_cause} reasons with a cause, {} without", without.len());
    assert!(told.is_ok() && without.is_empty(), "{without:#?}");
}
