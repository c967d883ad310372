//! What this host is as a load generator, what it ought to be, and the command
//! that mends it.

use std::fs::read_to_string;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use nix::time::{ClockId, clock_getres};

use crate::net::udp;
use crate::{host, net::clock, realtime};

/// A range of ports that is wide enough: with fewer, users of TCP run out of them first.
const PORTS: u64 = 50_000;
/// Open files that are enough for as many connections as one address has ports.
const FILES: u64 = 65_536;
/// Nanoseconds that reading a clock may take: it is read twice for every message.
const CLOCK_READ_NS: u64 = 200;
/// Steal time that is too much: per cent of the cores' time.
const STEAL_PERCENT: f64 = 1.0;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub name: &'static str,
    /// What is; `not readable` where it cannot be seen.
    pub found: String,
    /// What is wanted.
    pub wanted: String,
    /// Good enough. What cannot be seen is not held against the host.
    pub fit: bool,
    /// The command that mends it, or what to do; empty if nothing is to be mended.
    pub mend: String,
}

impl Finding {
    fn new(name: &'static str, found: impl Into<String>, wanted: impl Into<String>, fit: bool) -> Self {
        Finding { name, found: found.into(), wanted: wanted.into(), fit, mend: String::new() }
    }

    fn mend(mut self, how: impl Into<String>) -> Self {
        if !self.fit {
            self.mend = how.into();
        }
        self
    }
}

/// Looks at everything; takes `watch` for what can only be seen over time.
#[must_use]
pub fn look(watch: Duration) -> Vec<Finding> {
    let cores = host::facts().cores;
    let text = |path: &str| read_to_string(path).ok();
    let mut steal = host::Steal::default();
    let began = Instant::now();
    let mut found = vec![
        ports(text("/proc/sys/net/ipv4/ip_local_port_range").as_deref()),
        files(getrlimit(Resource::RLIMIT_NOFILE).ok()),
    ];
    found.extend(buffers());
    found.push(priority(realtime::allowed().map_err(|error| error.to_string())));
    let source = text("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    found.push(clock_source(source.as_deref(), resolution_ns(), clock_read_ns()));
    found.push(
        Finding::new("cores", cores.to_string(), "2 or more: one for the load, one for the rest", cores >= 2)
            .mend("give the virtual machine or container more cores"),
    );
    found.push(governor(text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").as_deref()));
    found.push(load(text("/proc/loadavg").as_deref(), cores));
    found.push(synchronised(&|path| std::path::Path::new(path).exists()));
    std::thread::sleep(watch.saturating_sub(began.elapsed()));
    found.push(stolen(steal.take(), began.elapsed(), cores));
    found
}

fn unseen(name: &'static str, wanted: impl Into<String>) -> Finding {
    Finding::new(name, "not readable", wanted, true)
}

fn ports(text: Option<&str>) -> Finding {
    let wanted = format!("{PORTS} or more: a connection to one target takes one");
    let mut ends = text.unwrap_or("").split_ascii_whitespace().map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return unseen("local ports", wanted);
    };
    let count = (last + 1).saturating_sub(first);
    Finding::new("local ports", format!("{count} ({first} to {last})"), wanted, count >= PORTS)
        .mend("sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"")
}

fn files(limits: Option<(u64, u64)>) -> Finding {
    let wanted = format!("hard limit {FILES} or more (adsum raises the soft one itself)");
    let Some((soft, hard)) = limits else { return unseen("open files", wanted) };
    let word =
        |n: u64| if n == nix::sys::resource::RLIM_INFINITY { "unlimited".to_owned() } else { n.to_string() };
    Finding::new("open files", format!("soft {}, hard {}", word(soft), word(hard)), wanted, hard >= FILES)
        .mend("ulimit -Hn 1048576 (as root, in the shell that starts adsum), or LimitNOFILE=1048576 in its unit")
}

/// What the kernel grants when it is asked as the engine asks.
fn buffers() -> Vec<Finding> {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let granted = udp::granted(any);
    let wanted = udp::BUFFER as u64;
    [("receive buffer", "rmem_max", 0), ("send buffer", "wmem_max", 1)]
        .into_iter()
        .map(|(name, key, which)| {
            let limit = read_to_string(format!("/proc/sys/net/core/{key}")).ok();
            let limit = limit.as_deref().map_or("not readable", str::trim);
            let wanted_text = format!("{wanted} granted to each UDP socket");
            match &granted {
                Ok(granted) => buffer(name, key, granted[which] as u64, limit, wanted, wanted_text),
                Err(error) => Finding::new(name, format!("no UDP socket: {error}"), wanted_text, false)
                    .mend("ulimit -n 1024, and look whether a sandbox forbids sockets"),
            }
        })
        .collect()
}

fn buffer(
    name: &'static str,
    key: &str,
    granted: u64,
    limit: &str,
    wanted: u64,
    wanted_text: String,
) -> Finding {
    // The kernel doubles what it grants, for its own overhead.
    let granted = granted / 2;
    Finding::new(name, format!("{granted} granted (net.core.{key} {limit})"), wanted_text, granted >= wanted)
        .mend(format!("sysctl -w net.core.{key}={wanted}"))
}

fn priority(allowed: Result<(), String>) -> Finding {
    let (found, fit) = match allowed {
        Ok(()) => ("allowed (SCHED_FIFO)".to_owned(), true),
        Err(error) => (format!("not allowed: {error}"), false),
    };
    Finding::new("real-time priority", found, "allowed, so that a busy host does not delay the schedule", fit)
        .mend("setcap cap_sys_nice+ep \"$(command -v adsum)\", or LimitRTPRIO=10 in its unit, or chrt -f 10 adsum agent ... as root")
}

fn resolution_ns() -> Option<u64> {
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC).ok()?;
    Some(resolution.tv_sec() as u64 * 1_000_000_000 + resolution.tv_nsec() as u64)
}

fn clock_read_ns() -> u64 {
    const READS: u64 = 10_000;
    let began = clock::now();
    for _ in 1..READS {
        std::hint::black_box(clock::now());
    }
    clock::now().since(began) / READS
}

fn clock_source(source: Option<&str>, resolution_ns: Option<u64>, read_ns: u64) -> Finding {
    let source = source.map_or("not readable", str::trim);
    let resolution = resolution_ns.map_or_else(|| "unknown".to_owned(), |ns| format!("{ns} ns"));
    let fit = read_ns <= CLOCK_READ_NS && resolution_ns.is_none_or(|ns| ns <= 1_000);
    let found = format!("{source}, resolution {resolution}, {read_ns} ns to read");
    Finding::new("clock", found, format!("resolution 1 us or better, {CLOCK_READ_NS} ns or less to read"), fit).mend(
        "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource (what is there: available_clocksource beside it)",
    )
}

fn governor(text: Option<&str>) -> Finding {
    let Some(governor) = text.map(str::trim).filter(|text| !text.is_empty()) else {
        return unseen("cpu governor", "performance (virtual machines leave it to their host)");
    };
    Finding::new("cpu governor", governor, "performance", governor == "performance")
        .mend("cpupower frequency-set -g performance")
}

fn load(text: Option<&str>, cores: u32) -> Finding {
    let wanted = "at most half of the cores taken by others";
    let minute = text.and_then(|text| text.split_ascii_whitespace().next()?.parse::<f64>().ok());
    let Some(minute) = minute else { return unseen("other load", wanted) };
    let found = format!("{minute:.2} processes on {cores} cores (last minute)");
    Finding::new("other load", found, wanted, minute <= f64::from(cores) / 2.0)
        .mend("stop what else runs here: ps -eo pcpu,args --sort=-pcpu | head")
}

fn synchronised(exists: &dyn Fn(&str) -> bool) -> Finding {
    let wanted = "one that sets this clock; agents of several hosts measure with it";
    for (path, found) in [
        ("/run/systemd/timesync/synchronized", "systemd-timesyncd, synchronised"),
        ("/run/chrony/chronyd.pid", "chronyd runs (chronyc tracking says how well)"),
        ("/run/chronyd.pid", "chronyd runs (chronyc tracking says how well)"),
        ("/run/ntpd.pid", "ntpd runs (ntpq -p says how well)"),
    ] {
        if exists(path) {
            return Finding::new("time synchronisation", found, wanted, true);
        }
    }
    // Containers and virtual machines may have a clock that their host keeps.
    let none = "none seen from here";
    if exists("/run/systemd/system") {
        return Finding::new("time synchronisation", none, wanted, false).mend("timedatectl set-ntp true");
    }
    Finding::new("time synchronisation", none, wanted, true)
}

fn stolen(us: u64, over: Duration, cores: u32) -> Finding {
    let percent = us as f64 / (over.as_micros().max(1) as f64 * f64::from(cores.max(1))) * 100.0;
    let found = format!("{percent:.1} % of the cores' time in {:.1} s", over.as_secs_f64());
    Finding::new("steal time", found, format!("at most {STEAL_PERCENT} %"), percent <= STEAL_PERCENT)
        .mend("a host whose cores are not shared with others: dedicated cores from the provider")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_judged_by_what_was_read() {
        let all = |findings: Vec<Finding>, fit: bool| {
            for finding in findings {
                assert_eq!(finding.fit, fit, "{finding:?}");
                assert_eq!(finding.mend.is_empty(), fit, "{finding:?}");
            }
        };
        let seconds = Duration::from_secs;
        all(
            vec![
                ports(Some("1024\t65535\n")),
                files(Some((1_024, 65_536))),
                files(Some((1_024, u64::MAX))),
                buffer("receive buffer", "rmem_max", 16_777_216, "8388608", 8_388_608, String::new()),
                priority(Ok(())),
                clock_source(Some("tsc\n"), Some(1), 25),
                governor(Some("performance\n")),
                load(Some("0.50 0.4 0.3 1/100 7\n"), 2),
                synchronised(&|path| path == "/run/chrony/chronyd.pid"),
                stolen(20_000, seconds(1), 2),
                // Nothing can be read: nothing is held against the host.
                ports(None),
                ports(Some("many")),
                files(None),
                governor(None),
                load(Some(""), 2),
                synchronised(&|_| false),
            ],
            true,
        );
        all(
            vec![
                ports(Some("32768\t60999\n")),
                ports(Some("60999\t32768\n")),
                files(Some((1_024, 20_000))),
                buffer("receive buffer", "rmem_max", 425_984, "212992", 8_388_608, String::new()),
                priority(Err("EPERM".into())),
                clock_source(Some("hpet"), Some(1), 1_300),
                clock_source(Some("jiffies"), Some(4_000_000), 25),
                governor(Some("powersave")),
                load(Some("1.50 0.4 0.3"), 2),
                synchronised(&|path| path == "/run/systemd/system"),
                stolen(20_000, seconds(1), 1),
            ],
            false,
        );
        assert_eq!(ports(Some("32768\t60999\n")).found, "28232 (32768 to 60999)");
        assert!(buffer("b", "rmem_max", 2, "1", 8, String::new()).mend.contains("net.core.rmem_max=8"));
    }

    #[test]
    fn this_host_can_be_looked_at() {
        let names: Vec<&str> = look(Duration::from_millis(20)).iter().map(|finding| finding.name).collect();
        for name in
            ["local ports", "open files", "receive buffer", "real-time priority", "clock", "steal time"]
        {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
    }
}
