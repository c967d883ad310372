//! Real-time priority is asked for where it was said so, and the manifest says
//! what the kernel says.

#[path = "support/process.rs"]
mod process;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use process::{PROGRAM, Process, pool};

/// Scheduling policy and priority of the shards' threads, and the limit of uninterrupted running, as
/// the kernel has them while the process runs; the largest seen.
fn kernel_says(pid: u32) -> (u32, u32, bool) {
    let mut most = (0, 0, false);
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        if !read("comm").starts_with("shard-") {
            continue;
        }
        // Fields 40 and 41 of proc(5).
        let stat = read("stat");
        let fields: Vec<u32> = stat
            .rsplit(") ")
            .next()
            .unwrap_or("")
            .split(' ')
            .skip(37)
            .take(2)
            .filter_map(|f| f.parse().ok())
            .collect();
        if let [priority, policy] = fields[..] {
            let limit = read("limits");
            let limit = limit.lines().find(|line| line.starts_with("Max realtime timeout")).unwrap_or("");
            most = most.max((policy, priority, limit.contains(" 1000000 ")));
        }
    }
    most
}

/// A short run; what the manifest and what the kernel said of its shards, and the remarks.
fn run(dir: &Path, target: &str, args: &[&str]) -> (String, (u32, u32, bool), String) {
    let file = dir.join("scenario.toml");
    let text = format!(
        "schema = 1\nname = \"short\"\n[pool]\ntarget = {target:?}\n\
         [users]\ncount = 40\npattern = \"sip:user{{n:06}}@pool.test\"\npassword_pattern = \"pw-user{{n:06}}\"\n\
         [workload]\nkind = \"held\"\n[warmup]\nsettle = \"0s\"\n[trust]\nprofile = \"ci\"\nsend_lag_p99 = \"1s\"\n\
         [[step]]\nname = \"one\"\nrate = \"50/s\"\nhold = \"2s\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let out = dir.join("out");
    let child = Command::new(PROGRAM)
        .args(["run", &file.to_string_lossy(), "--out", &out.to_string_lossy(), "--force", "--shards", "1"])
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Process(child);
    let mut said = (0, 0, false);
    let limit = Instant::now() + Duration::from_secs(60);
    while matches!(child.0.try_wait(), Ok(None)) && Instant::now() < limit {
        said = said.max(kernel_says(child.0.id()));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    let mut errors = String::new();
    std::io::Read::read_to_string(&mut child.0.stderr.take().unwrap(), &mut errors).unwrap();
    let manifest: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("manifest.json")).unwrap()).unwrap();
    (manifest["agents"][0]["priority"].as_str().unwrap().to_owned(), said, errors)
}

#[test]
fn the_manifest_has_the_priority_that_the_kernel_has() {
    let dir = tempfile::tempdir().unwrap();
    let (_pool, address) = pool(&[]);
    assert_eq!(run(dir.path(), &address, &[]).0, "normal");
    // Whoever may not have it runs on without.
    let allowed =
        Command::new("chrt").args(["-f", "10", "true"]).status().is_ok_and(|status| status.success());
    let (manifest, kernel, _) = run(dir.path(), &address, &["--realtime", "auto"]);
    if allowed {
        assert_eq!((manifest.as_str(), kernel), ("fifo:10", (1, 10, true)));
    } else {
        assert_eq!((manifest.as_str(), kernel.0), ("normal", 0));
    }
    // The pool on the same cores would starve.
    let (manifest, kernel, remarks) = run(dir.path(), "embedded", &["--realtime", "auto"]);
    assert_eq!((manifest.as_str(), kernel.0), ("normal", 0));
    assert!(remarks.contains("embedded pool"), "{remarks}");
}
