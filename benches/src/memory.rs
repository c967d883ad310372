//! `bench memory`: what a held user takes, in the agent's process and in the
//! kernel, as the difference between many users and two.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::adsum::{Adsum, Pool, Scenario};
use crate::options::{Auth, Connections, MemoryOptions, Transport};
use crate::process::{self, Named as _, Process, Result, said};
use crate::{machine, out_dir};

/// The hold must contain one of the lines that a run prints every ten seconds.
const HOLD: Duration = Duration::from_secs(25);
/// Users that share a source address, well below the ports of one.
const USERS_PER_SOURCE: u64 = 10_000;
/// Files that a process has open besides its users' connections.
const OTHER_FILES: u64 = 200;
/// Caches of the kernel that sockets live in.
const CACHES: [&str; 12] = [
    "TCP",
    "UDP",
    "sock_inode_cache",
    "filp",
    "dentry",
    "eventpoll_epi",
    "eventpoll_pwq",
    "request_sock_TCP",
    "tcp_bind_bucket",
    "tcp_bind2_bucket",
    "skbuff_head_cache",
    "skbuff_small_head",
];

/// What a process and the kernel held at one instant, in bytes.
#[derive(Debug, Clone, Default)]
struct Held {
    rss: u64,
    peak: u64,
    pss: Option<u64>,
    /// By cache, how much more than before the users came; `None` where slabinfo is not ours to read.
    slabs: Option<BTreeMap<String, i64>>,
    /// TCP sockets in use on this machine, how many more than before.
    sockets: i64,
}

pub fn run(options: &MemoryOptions) -> Result<()> {
    let users = options.users / 2 * 2;
    let limit = process::raise_file_limit();
    if options.transport != Transport::Udp && users + OTHER_FILES > limit {
        return Err(said(format!(
            "{users} connections are too many: agent and pool are a process each, and one may open {limit} files here; \
             accepted: --users up to {}, or a higher limit (ulimit -Hn)",
            limit.saturating_sub(OTHER_FILES) / 2 * 2
        )));
    }
    let out = out_dir("memory", options.build.out.as_deref())?;
    let adsum = Adsum::build(&options.build)?;
    let few = held(&adsum, options, 2, &out.join("few"))?;
    let many = held(&adsum, options, users, &out.join("many"))?;
    let text = report(options.transport, users, &few, &many);
    let text = format!("{}, {}. {}.\n\n{text}", machine::line(), machine::date("%Y-%m-%d"), adsum.version());
    let file = out.join("memory.md");
    std::fs::write(&file, &text).named(file.display())?;
    println!("{text}\nwrote {}", file.display());
    Ok(())
}

/// A run of so many held users against a pool of its own, looked at during its hold.
fn held(adsum: &Adsum, options: &MemoryOptions, users: u64, dir: &Path) -> Result<Held> {
    eprintln!("bench: {users} users over {}", options.transport);
    let tls = options.transport == Transport::Tls;
    let pool = adsum.pool(&dir.join("pool"), users, Auth::Digest, tls)?;
    let scenario = Scenario {
        kind: "held",
        self_subscribe: true,
        reuse_nonce: true,
        users,
        // A few publications: the users are there to be held.
        rate: 10.min(users / 2),
        hold: HOLD,
        ca: pool.ca.clone(),
        sources: if options.transport == Transport::Udp { 0 } else { users.div_ceil(USERS_PER_SOURCE) + 1 },
        log_on: options.log_on,
        ..Scenario::like_sipp(pool.address.clone(), options.transport, Connections::PerUser)
    };
    let run_dir = dir.join("run");
    let file = scenario.write(&run_dir)?;
    let mut command = adsum.command();
    adsum.arguments(&mut command, &run_dir, &file)?;
    let (slabs, sockets) = (slabs(), tcp_sockets());
    let run = watch(&mut command, &run_dir, users, options.log_on, &pool)?;
    let mut held = run.1;
    let after = held.slabs.take();
    held.slabs = after.zip(slabs).map(|(after, before)| {
        after
            .into_iter()
            .map(|(name, bytes)| (name.clone(), bytes - before.get(&name).unwrap_or(&0)))
            .collect()
    });
    held.sockets -= sockets;
    let status = run.0.finish(Duration::from_secs(120 + users / options.log_on.max(1) * 2))?;
    if status.success() {
        return Ok(held);
    }
    Err(said(format!("adsum run ended with {status}: see {}/words.txt", run_dir.display())))
}

/// Starts the run and looks at it in the middle of its hold.
fn watch(command: &mut Command, dir: &Path, users: u64, log_on: u64, pool: &Pool) -> Result<(Process, Held)> {
    let mut run = Process::start("adsum run", command)?;
    // Logging on, subscribing, publishing once, each at the ceiling.
    let deadline = Instant::now() + Duration::from_secs(60 + 4 * users / log_on.max(1));
    while !std::fs::read_to_string(dir.join("words.txt")).unwrap_or_default().contains("phase=hold") {
        if Instant::now() > deadline || run.ended().is_some() {
            return Err(said(format!(
                "the run did not come to its hold (pool is process {}): see {}/words.txt",
                pool.pid(),
                dir.display()
            )));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    std::thread::sleep(Duration::from_secs(2));
    let status = format!("/proc/{}/status", run.pid());
    let bytes = |field: &str| {
        process::kilobytes(&status, field)
            .map(|kb| kb * 1_024)
            .ok_or_else(|| said(format!("{status} has no {field}: the run is over already")))
    };
    let held = Held {
        rss: bytes("VmRSS")?,
        peak: bytes("VmHWM")?,
        pss: process::kilobytes(format!("/proc/{}/smaps_rollup", run.pid()), "Pss").map(|kb| kb * 1_024),
        slabs: slabs(),
        sockets: tcp_sockets(),
    };
    Ok((run, held))
}

/// Bytes of objects in use, by cache.
fn slabs() -> Option<BTreeMap<String, i64>> {
    let caches = read_slabs(&std::fs::read_to_string("/proc/slabinfo").ok()?);
    (!caches.is_empty()).then_some(caches)
}

fn read_slabs(text: &str) -> BTreeMap<String, i64> {
    let cache = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next().filter(|name| CACHES.contains(name))?;
        let (active, _all) = (fields.next()?.parse::<i64>().ok()?, fields.next()?);
        Some((name.to_owned(), active * fields.next()?.parse::<i64>().ok()?))
    };
    text.lines().filter_map(cache).collect()
}

fn tcp_sockets() -> i64 {
    read_sockets(&std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default()).unwrap_or(0)
}

fn read_sockets(text: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: inuse "))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn report(transport: Transport, users: u64, few: &Held, many: &Held) -> String {
    let more = users.saturating_sub(2).max(1) as f64;
    let each = |many: u64, few: u64| format!("{:.0}", (many as f64 - few as f64) / more);
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / 1_048_576.0);
    let mut text = format!(
        "Held users over {transport}: registered, subscribed to themselves and in pairs, looked at during the hold.\n\n\
         | of the agent's process | 2 users, MiB | {users} users, MiB | bytes a user |\n| --- | ---: | ---: | ---: |\n"
    );
    let mut row = |name: &str, few: u64, many: u64| {
        text += &format!("| {name} | {} | {} | {} |\n", mib(few), mib(many), each(many, few));
    };
    row("resident (VmRSS)", few.rss, many.rss);
    row("highest so far (VmHWM)", few.peak, many.peak);
    match (few.pss, many.pss) {
        (Some(few), Some(many)) => row("proportional (PSS)", few, many),
        _ => text += "| proportional (PSS) | not readable | | |\n",
    }
    text += &format!("\nTCP sockets more than before: {} (2 users: {}).\n", many.sockets, few.sockets);
    match (&few.slabs, &many.slabs) {
        (Some(few), Some(many)) => {
            text += "\n| kernel cache, both ends of each connection | bytes a user |\n| --- | ---: |\n";
            let mut sum = 0.0;
            for (name, bytes) in many {
                let bytes = (bytes - few.get(name).unwrap_or(&0)) as f64 / more;
                sum += bytes;
                if bytes.abs() >= 1.0 {
                    text += &format!("| {name} | {bytes:.0} |\n");
                }
            }
            text += &format!("| all of these | {sum:.0} |\n");
        }
        _ => text += "\nThe kernel's share is not readable: /proc/slabinfo is root's.\n",
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_read_from_slabinfo() {
        let text = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\n\
                    TCP 10 26 2432 13 8 : tunables 0 0 0\nfilp 100 120 192 21 1 : x\nother 5 5 64 1 1\n";
        let caches = read_slabs(text);
        assert_eq!((caches.len(), caches["TCP"], caches["filp"]), (2, 24_320, 19_200));
        assert_eq!(read_sockets("sockets: used 9\nTCP: inuse 7 orphan 0 tw 3\n"), Some(7));
    }

    #[test]
    fn a_user_is_the_difference_to_two() {
        let few = Held { rss: 10_000_000, peak: 11_000_000, sockets: 5, ..Held::default() };
        let many = Held { rss: 12_000_000, peak: 13_000_000, sockets: 2_003, ..Held::default() };
        let text = report(Transport::Tcp, 1_002, &few, &many);
        assert!(text.contains("| resident (VmRSS) | 9.5 | 11.4 | 2000 |"), "{text}");
        assert!(text.contains("slabinfo is root's"), "{text}");
    }
}
