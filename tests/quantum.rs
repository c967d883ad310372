//! With a quantum the engine wakes at its ticks only, and datagrams leave together, a few in each system
//! call: a trade of precision against CPU that the results show and do not hide.

#[path = "support/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use process::{PROGRAM, pool};

/// What the hold of a run counted, by counter and label, and count and smallest value of its series, by
/// metric and base.
type Figures = (BTreeMap<(String, String), u64>, BTreeMap<(String, String), (u64, f64)>);

/// The rows of a file without quoted fields, by column.
fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().unwrap().split(',').collect();
    let row = |line: &str| head.iter().zip(line.split(',')).map(|(k, v)| ((*k).into(), v.into())).collect();
    lines.map(row).collect()
}

fn run(dir: &Path, target: &str) -> Figures {
    let file = dir.join("scenario.toml");
    let text = format!(
        "schema = 1\nname = \"ticks\"\n[pool]\ntarget = {target:?}\n\
         [users]\ncount = 400\npattern = \"sip:user{{n:06}}@pool.test\"\npassword_pattern = \"pw-user{{n:06}}\"\n\
         [workload]\nkind = \"workflow\"\nquantum = \"10ms\"\n[warmup]\nsettle = \"0s\"\n\
         [trust]\nprofile = \"ci\"\nsend_lag_p99 = \"1s\"\nsend_lag_seconds = \"100%\"\nloop_gap = \"5s\"\n\
         [[step]]\nname = \"one\"\nrate = \"200/s\"\nhold = \"5s\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let out = dir.join("out");
    let args = ["run", &file.to_string_lossy(), "--out", &out.to_string_lossy(), "--force", "--shards", "1"];
    let ended = Command::new(PROGRAM).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    // A host that is busy otherwise accuses the engine (12): that is another test's business.
    let code = ended.status.code();
    assert!(matches!(code, Some(0 | 12)), "{code:?} {said}{}", String::from_utf8_lossy(&ended.stderr));
    let whole = |row: &BTreeMap<String, String>| row["phase"] == "hold" && row["site"] == "all";
    let mut counters = BTreeMap::new();
    for row in rows(&out.join("counters.csv")).into_iter().filter(whole) {
        let key = (row["counter"].clone(), row["label"].clone());
        *counters.entry(key).or_default() += row["value"].parse::<u64>().unwrap();
    }
    let mut series = BTreeMap::new();
    for row in rows(&out.join("steps.csv")).into_iter().filter(whole) {
        let figures = (row["count"].parse().unwrap(), row["min_s"].parse().unwrap());
        series.insert((row["metric"].clone(), row["base"].clone()), figures);
    }
    (counters, series)
}

#[test]
fn a_quantum_delays_what_is_sent_says_so_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_pool, address) = pool(&[]);
    let (counters, series) = run(dir.path(), &address);
    let count = |name: &str| counters.get(&(name.to_owned(), String::new())).copied().unwrap_or(0);
    assert_eq!((count("offered"), count("sent"), count("expected")), (1_000, 1_000, 1_000), "{counters:?}");
    assert_eq!((count("write_blocked"), count("unmatched"), count("missed")), (0, 0, 0), "{counters:?}");
    let least = |metric: &str, base: &str| series[&(metric.to_owned(), base.to_owned())];
    // Each has its own instant of sending, whichever call it left in.
    assert_eq!(least("send_lag", "").0, 1_000);
    assert_eq!(
        (least("publish_to_notify", "scheduled").0, least("publish_to_notify", "sent").0),
        (1_000, 1_000)
    );
    // REGISTER, two SUBSCRIBEs and PUBLISH: the next one waits for a tick, unless its answer is very quick.
    let (_, workflow) = least("workflow", "sent");
    assert!(workflow > 0.009, "{workflow} s");
    // The last answer ends by the kernel's stamp, not at the next tick.
    let (_, publish) = least("publish_to_notify", "sent");
    assert!(publish < 0.010, "{publish} s");
}
