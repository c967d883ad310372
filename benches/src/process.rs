//! Other processes: started, stopped in every ending, and what they used.

use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::time::TimeValLike as _;
use nix::unistd::{Pid, SysconfVar, sysconf};

/// What went wrong, in words for whoever runs the benchmark.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, directory or process.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// Anything else.
    #[error("{0}")]
    Said(String),
}

pub type Result<T> = std::result::Result<T, Error>;

pub fn said(text: impl Into<String>) -> Error {
    Error::Said(text.into())
}

/// Names the file or command in an error.
pub trait Named<T> {
    fn named(self, what: impl std::fmt::Display) -> Result<T>;
}

impl<T> Named<T> for io::Result<T> {
    fn named(self, what: impl std::fmt::Display) -> Result<T> {
        self.map_err(|error| Error::Io(what.to_string(), error))
    }
}

/// Processes that are ours and alive, for the thread that hears signals;
/// `None` once it heard one, and nothing is started any more.
static ALIVE: Mutex<Option<Vec<i32>>> = Mutex::new(Some(Vec::new()));

fn alive() -> std::sync::MutexGuard<'static, Option<Vec<i32>>> {
    ALIVE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// From now on Ctrl-C and SIGTERM end what we started before they end us.
pub fn hear_signals() -> Result<()> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGINT);
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGHUP);
    // Children get an empty mask from std; threads made from here on inherit this one.
    set.thread_block().map_err(|e| Error::Io("signals".to_owned(), e.into()))?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let heard = set.wait();
            let pids = alive().take().unwrap_or_default();
            let all: Vec<i32> = pids.iter().flat_map(|pid| tree(*pid)).collect();
            signal_all(&pids, Signal::SIGTERM);
            end_rest(&all, Duration::from_secs(5));
            std::process::exit(128 + heard.map_or(0, |signal| signal as i32));
        })
        .map(drop)
        .named("a thread for signals")
}

/// Returns unless a signal ends this process: then the thread that heard it does.
pub fn leave_to_signal() {
    while alive().is_none() {
        std::thread::park();
    }
}

/// Those that are gone already need none.
fn signal_all(pids: &[i32], signal: Signal) {
    for pid in pids {
        let _gone = kill(Pid::from_raw(*pid), signal);
    }
}

/// Waits for processes of ours to be gone, and ends those that are not in time.
fn end_rest(pids: &[i32], limit: Duration) {
    let left = || pids.iter().copied().filter(|pid| runs(*pid)).collect::<Vec<i32>>();
    let gone = |limit: Duration| {
        let deadline = Instant::now() + limit;
        while !left().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        left().is_empty()
    };
    if !gone(limit) {
        signal_all(&left(), Signal::SIGKILL);
        gone(Duration::from_secs(1));
    }
}

/// There, and no zombie that only waits for its parent.
fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !stat.is_empty() && !rest.trim_start().starts_with('Z'))
}

/// A process that ends when this value does.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Result<Process> {
        let mut alive = alive();
        let Some(pids) = alive.as_mut() else { return Err(said("stopped by a signal")) };
        let child = command.stdin(Stdio::null()).spawn().named(name)?;
        pids.push(child.id() as i32);
        Ok(Process { child, name: name.to_owned() })
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        if status.is_some() {
            self.forget();
        }
        status
    }

    /// Waits for it to end by itself.
    pub fn finish(mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(said(format!(
                    "{} did not end within {} s and was stopped",
                    self.name,
                    limit.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to end and waits; SIGKILL for what does not listen.
    pub fn stop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        let all = tree(self.pid());
        signal_all(&[self.pid()], Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.ended().is_none() {
            if Instant::now() > deadline {
                signal_all(&all, Signal::SIGKILL);
                drop(self.child.wait());
                return self.forget();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        end_rest(&all[1..], Duration::from_secs(2));
    }

    fn forget(&self) {
        if let Some(pids) = alive().as_mut() {
            pids.retain(|pid| *pid != self.child.id() as i32);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a short command to its end; its words are the error.
pub fn output(name: &str, command: &mut Command) -> Result<String> {
    let out = command.stdin(Stdio::null()).output().named(name)?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    Err(said(format!("{name}: {} {}", out.status, String::from_utf8_lossy(&out.stderr).trim())))
}

/// CPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    pub user_s: f64,
    pub system_s: f64,
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user_s + self.system_s
    }

    pub fn since(self, before: Cpu) -> Cpu {
        Cpu { user_s: self.user_s - before.user_s, system_s: self.system_s - before.system_s }
    }
}

/// CPU time, and how often a thread gave its core away to wait.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    pub cpu: Cpu,
    pub waits: u64,
}

impl Used {
    pub fn since(self, before: Used) -> Used {
        Used { cpu: self.cpu.since(before.cpu), waits: self.waits - before.waits }
    }
}

/// Of all children that ended and were waited for, and theirs: microseconds by
/// the kernel's account. The difference around one child is that child's.
pub fn used_by_children() -> Result<Used> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|e| Error::Io("getrusage".into(), e.into()))?;
    let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
    Ok(Used {
        cpu: Cpu { user_s: seconds(usage.user_time()), system_s: seconds(usage.system_time()) },
        waits: usage.voluntary_context_switches().max(0) as u64,
    })
}

/// A process and everything below it.
pub fn tree(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(pid) = all.get(at).copied() {
        at += 1;
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    all
}

/// CPU time of a living process and everything below it, in ticks of 10 ms each.
pub fn tree_cpu(pid: i32) -> Result<Cpu> {
    let hz = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    let mut sum = Cpu::default();
    for pid in tree(pid) {
        let path = format!("/proc/{pid}/stat");
        let (user, system) = stat_ticks(&std::fs::read_to_string(&path).named(&path)?)
            .ok_or_else(|| said(format!("{path} cannot be read")))?;
        sum.user_s += user / hz;
        sum.system_s += system / hz;
    }
    Ok(sum)
}

/// utime and stime of proc_pid_stat(5): the name before them may hold anything.
fn stat_ticks(stat: &str) -> Option<(f64, f64)> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Datagrams that this machine lost to full receive buffers since it started (RcvbufErrors).
pub fn udp_drops() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/snmp").named("/proc/net/snmp")?;
    snmp_field(&text, "Udp:", "RcvbufErrors").ok_or_else(|| said("/proc/net/snmp has no RcvbufErrors"))
}

fn snmp_field(text: &str, protocol: &str, field: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(protocol));
    let at = lines.next()?.split_ascii_whitespace().position(|name| name == field)?;
    lines.next()?.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// Children may open as many files as this machine lets them.
pub fn raise_file_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1_024 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// A port on 127.0.0.1 that is free for UDP and TCP.
pub fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").named("127.0.0.1:0")?;
        let address = tcp.local_addr().named("127.0.0.1:0")?;
        if std::net::UdpSocket::bind(address).is_ok() {
            return Ok(address.port());
        }
    }
    Err(said("no port of 127.0.0.1 is free for both UDP and TCP"))
}

/// A number of kB of a file in the manner of proc_pid_status(5).
pub fn kilobytes(path: impl AsRef<Path>, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 123 45 0 0 20 0 1 0 7 8 9";
        assert_eq!(stat_ticks(stat), Some((123.0, 45.0)));
    }

    #[test]
    fn drops_are_read_by_the_name_of_their_column() {
        let text = "Udp: InDatagrams NoPorts InErrors RcvbufErrors\nUdp: 10 1 7 5\nUdpLite: x\nUdpLite: 0\n";
        assert_eq!(snmp_field(text, "Udp:", "RcvbufErrors"), Some(5));
        assert_eq!(snmp_field(text, "Udp:", "Nothing"), None);
    }

    #[test]
    fn a_child_is_charged_and_stopped() {
        let before = used_by_children().unwrap();
        let burn = Process::start(
            "sh",
            Command::new("sh").args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"]),
        );
        assert!(burn.unwrap().finish(Duration::from_secs(60)).unwrap().success());
        assert!(used_by_children().unwrap().since(before).cpu.total() > 0.0);
        let mut sleep = Process::start("sleep", Command::new("sleep").arg("600")).unwrap();
        let pid = sleep.pid();
        assert!(tree_cpu(pid).unwrap().total() < 1.0);
        sleep.stop();
        assert!(tree_cpu(pid).is_err());
        // One that leaves a child behind: the child ends, too.
        let script = "trap 'exit 0' TERM; sleep 600 & wait";
        let mut parent = Process::start("sh", Command::new("sh").args(["-c", script])).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let all = tree(parent.pid());
        assert!(all.len() >= 2 && all.iter().all(|pid| runs(*pid)));
        parent.stop();
        assert!(all.iter().all(|pid| !runs(*pid)));
    }
}
