//! Facts of the host an agent runs on.

use nix::sched::sched_getaffinity;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What an agent tells about its host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Host name.
    pub name: String,
    /// Kernel release.
    pub kernel: String,
    /// Model of the processor.
    pub cpu_model: String,
    /// Cores that this process may use.
    pub cores: u32,
}

/// Reads the facts; what cannot be read is empty.
#[must_use]
pub fn facts() -> HostFacts {
    let text = |path: &str| std::fs::read_to_string(path).map(|t| t.trim().to_owned()).unwrap_or_default();
    let cpu = text("/proc/cpuinfo");
    let cpu_model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name").and_then(|rest| rest.split_once(':')))
        .map_or_else(String::new, |(_, model)| model.trim().to_owned());
    HostFacts {
        name: text("/proc/sys/kernel/hostname"),
        kernel: text("/proc/sys/kernel/osrelease"),
        cpu_model,
        cores: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
    }
}

/// Raises the limit of open files as far as the system lets us; answers it.
#[must_use]
pub fn raise_file_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) => {
            // Refused only where a sandbox forbids it; then the soft limit stands.
            let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
            if raised { hard } else { getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft) }
        }
        Err(_) => 0,
    }
}

/// The priority that the calling thread has, in words.
#[must_use]
pub fn priority() -> String {
    // Whoever gave it — `realtime`, or the operator with `chrt -f 10 adsum agent …` —
    // what the thread has is read back from the kernel.
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    // Fields 40 and 41 of proc(5), counted from the state, which is field 3.
    match (fields.get(38).copied(), fields.get(37).copied()) {
        (Some("1"), Some(priority)) => format!("fifo:{priority}"),
        (Some("2"), Some(priority)) => format!("rr:{priority}"),
        _ => "normal".to_owned(),
    }
}

/// Microseconds of a tick in `/proc/stat` (USER_HZ is 100 in Linux's interface to programs).
const TICK_US: u64 = 10_000;

/// Steal time in a text of `/proc/stat`, in microseconds since the host began: the time in which a core
/// had work and its hypervisor gave it to others. Summed over the cores that `counts` takes.
#[must_use]
pub fn steal_us(stat: &str, counts: impl Fn(usize) -> bool) -> u64 {
    stat.lines()
        .filter_map(|line| {
            // `cpu0 user nice system idle iowait irq softirq steal …`; the line `cpu` is the sum.
            let mut fields = line.strip_prefix("cpu")?.split_ascii_whitespace();
            let core: usize = fields.next().filter(|_| !line.starts_with("cpu "))?.parse().ok()?;
            let steal: u64 = fields.nth(7)?.parse().ok()?;
            counts(core).then_some(steal * TICK_US)
        })
        .sum()
}

/// Steal time of the cores that this process may use, from one reading to the next.
#[derive(Debug)]
pub struct Steal {
    last: Option<u64>,
}

impl Default for Steal {
    fn default() -> Self {
        Steal { last: read_steal() }
    }
}

impl Steal {
    /// Microseconds since the last call; 0 where it cannot be read.
    pub fn take(&mut self) -> u64 {
        let now = read_steal();
        let before = std::mem::replace(&mut self.last, now);
        match (before, now) {
            // Some hypervisors let it run backwards.
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => 0,
        }
    }
}

fn read_steal() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let ours = sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok();
    Some(steal_us(&stat, |core| ours.as_ref().is_none_or(|ours| ours.is_set(core).unwrap_or(false))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_summed_over_the_cores_that_count() {
        let stat = "cpu  9 9 9 9 9 9 9 700 9 9\ncpu0 1 2 3 4 5 6 7 300 9 10\ncpu1 1 2 3 4 5 6 7 400 0 0\n\
                    intr 55 8 8\nctxt 1\nbtime 1\n";
        assert_eq!(steal_us(stat, |_| true), 7_000_000);
        assert_eq!(steal_us(stat, |core| core == 1), 4_000_000);
        // Kernels before 2.6.11 had no such column, and a text may be cut short.
        assert_eq!(steal_us("cpu0 1 2 3 4\ncpu1 1 2 3 4 5 6 7", |_| true), 0);
        assert_eq!(steal_us("", |_| true), 0);
    }

    #[test]
    fn the_real_one_only_grows_as_fast_as_time() {
        let began = std::time::Instant::now();
        let mut steal = Steal::default();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let cores = u64::from(facts().cores);
        assert!(steal.take() <= (began.elapsed().as_micros() as u64 + 2 * TICK_US) * cores);
    }
}
