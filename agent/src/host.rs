//! Facts of the host an agent runs on.

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
    // Real-time priority needs a call that the safe wrappers do not offer; the
    // operator can give it from outside (`chrt -f 10 adsum agent …`), and what
    // the thread has is read back from the kernel.
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    // Fields 40 and 41 of proc(5), counted from the state, which is field 3.
    match (fields.get(38).copied(), fields.get(37).copied()) {
        (Some("1"), Some(priority)) => format!("fifo:{priority}"),
        (Some("2"), Some(priority)) => format!("rr:{priority}"),
        _ => "normal".to_owned(),
    }
}
