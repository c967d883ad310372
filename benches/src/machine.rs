//! What a table needs beside its figures: which machine, when, how busy.

use std::process::Command;

use crate::process;

/// One line about this machine.
pub fn line() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let memory = process::kilobytes("/proc/meminfo", "MemTotal").unwrap_or(0) / (1024 * 1024);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} × {model}, {memory} GiB, Linux {}", cores, kernel.trim())
}

/// Today, UTC.
pub fn date(format: &str) -> String {
    let out = process::output("date", Command::new("date").args(["-u", &format!("+{format}")]));
    out.unwrap_or_default().trim().to_owned()
}

/// Runnable processes on average over the last minute, by the kernel.
pub fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN)
}
