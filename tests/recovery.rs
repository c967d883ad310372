//! An outage: the pool is killed and comes back, held users sign on again, and
//! the results say how long it took until all had everything again.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A pool that ends with this value.
struct Pool(Child);

impl Pool {
    fn start(listen: &str) -> (Pool, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_adsum"))
            .args(["pool", "--listen", listen, "--users", "200"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("udp,tcp="));
        (Pool(child), address.unwrap_or_else(|| panic!("{line:?}")).to_owned())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const SCENARIO: &str = r#"
schema = 1
name = "outage"
[pool]
target = "POOL"
transport = "tcp"
[users]
count = 200
pattern = "sip:user{n:06}@pool.test"
password_pattern = "pw-user{n:06}"
[workload]
kind = "held"
fan_out = { distribution = "constant", mean = 3 }
[warmup]
register_rate = "1000/s"
subscribe_rate = "1000/s"
settle = "0s"
[safety]
overload = true
[trust]
profile = "ci"
[[step]]
name = "one"
rate = "20/s"
hold = "16s"
"#;

#[test]
fn the_time_until_everybody_is_back_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let (pool, address) = Pool::start("127.0.0.1:0");
    let file = dir.path().join("outage.toml");
    std::fs::write(&file, SCENARIO.replace("POOL", &address)).unwrap();
    let out = dir.path().join("out");
    let run = Command::new(env!("CARGO_BIN_EXE_adsum"))
        .arg("run")
        .arg(&file)
        .args(["--plain", "--shards", "2", "--out"])
        .arg(&out)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(6));
    drop(pool);
    std::thread::sleep(Duration::from_secs(2));
    let (_pool, _) = Pool::start(&address);
    let output = run.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    // That users lost what they had is no pass, even if all of them are back.
    assert_eq!(output.status.code(), Some(10), "{words}");

    let read = |name: &str| csv(&std::fs::read_to_string(out.join(name)).unwrap());
    let row = read("steps.csv")
        .into_iter()
        .find(|row| row["metric"] == "recovery" && row["base"] == "scheduled" && row["site"] == "all")
        .unwrap_or_else(|| panic!("{words}"));
    assert_eq!((row["count"].as_str(), row["censored"].as_str()), ("200", "0"), "each user once: {words}");
    let seconds = |column: &str| row[column].parse::<f64>().unwrap();
    // Nobody can be back before the pool is, which was away for two seconds; the back-off adds some.
    assert!(seconds("min_s") > 1.5 && seconds("max_s") < 12.0, "{row:?}");
    let counter = |name: &str| {
        let rows =
            read("counters.csv").into_iter().filter(|row| row["site"] == "all" && row["counter"] == name);
        rows.map(|row| row["value"].parse::<u64>().unwrap()).sum::<u64>()
    };
    // Each had a subscription to itself and three watches on average.
    assert_eq!(counter("subscription_lost"), 200 + 600);
    assert_eq!((counter("converged") + counter("not_converged")), 600);
}

fn csv(text: &str) -> Vec<std::collections::HashMap<String, String>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| names.iter().map(|n| (*n).to_owned()).zip(line.split(',').map(str::to_owned)).collect())
        .collect()
}
