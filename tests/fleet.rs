//! A coordinator, two agents and a run as four processes, with certificates.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adsum"));
    command.env_remove("ADSUM_COORDINATOR").env_remove("ADSUM_RESULTS").stdin(Stdio::null());
    command
}

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a process and reads a word of its `ready` line.
fn start(args: &[&str], word: &str) -> (Process, String) {
    let mut child = program().args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let found = line
        .split_whitespace()
        .find_map(|part| part.strip_prefix(word))
        .unwrap_or_else(|| panic!("{line:?}"));
    (Process(child), found.to_owned())
}

fn certificates(dir: &Path) {
    let dir = dir.to_string_lossy().into_owned();
    let commands: [&[&str]; 4] = [
        &["certs", "init", "--dir", &dir],
        &["certs", "issue", "--dir", &dir, "coordinator", "localhost", "127.0.0.1"],
        &["certs", "issue", "--dir", &dir, "agent", "agents"],
        &["certs", "issue", "--dir", &dir, "operator", "me"],
    ];
    for command in commands {
        let output = program().args(command).output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

const SCENARIO: &str = r#"
schema = 1
name = "fleet"
[pool]
target = "POOL"
[users]
count = 80
pattern = "sip:user{n:06}@pool.test"
password_pattern = "pw-user{n:06}"
[workload]
kind = "workflow"
[warmup]
settle = "0s"
[trust]
profile = "ci"
send_lag_p99 = "1s"
[[step]]
name = "one"
rate = "40/s"
hold = "HOLD"
"#;

struct Fleet {
    dir: tempfile::TempDir,
    _pool: Process,
    coordinator: Process,
    url: String,
    agents: Vec<Process>,
}

impl Fleet {
    fn start(hold: &str) -> Fleet {
        let dir = tempfile::tempdir().unwrap();
        let certs = dir.path().join("certs");
        certificates(&certs);
        let file = |name: &str| certs.join(name).to_string_lossy().into_owned();
        let (pool, address) = start(&["pool", "--listen", "127.0.0.1:0", "--users", "80"], "udp,tcp=");
        let results = dir.path().join("coordinator").to_string_lossy().into_owned();
        let (coordinator, at) = start(
            &[
                "coordinator",
                "--listen",
                "127.0.0.1:0",
                "--results",
                &results,
                "--ca",
                &file("ca.pem"),
                "--cert",
                &file("localhost.pem"),
                "--key",
                &file("localhost-key.pem"),
            ],
            "coordinator=",
        );
        let url = format!("https://localhost:{}", at.rsplit(':').next().unwrap());
        let agents = ["fra", "syd"].map(|site| {
            let child = program()
                .args(["agent", "--coordinator", &url, "--name", &format!("agent-{site}"), "--site", site])
                .args(["--shards", "1", "--ca", &file("ca.pem"), "--cert", &file("agents.pem")])
                .args(["--key", &file("agents-key.pem")])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            Process(child)
        });
        std::fs::write(
            dir.path().join("fleet.toml"),
            SCENARIO.replace("POOL", &address).replace("HOLD", hold),
        )
        .unwrap();
        // The agents attach within a second or two; a run takes those that are there.
        std::thread::sleep(Duration::from_secs(3));
        Fleet { dir, _pool: pool, coordinator, url, agents: agents.into() }
    }

    fn run(&self) -> Child {
        self.run_as("me")
    }

    fn run_as(&self, who: &str) -> Child {
        let file = |name: &str| self.dir.path().join("certs").join(name).to_string_lossy().into_owned();
        program()
            .args(["run", &self.dir.path().join("fleet.toml").to_string_lossy(), "--coordinator", &self.url])
            .args(["--out", &self.dir.path().join("out").to_string_lossy(), "--ca", &file("ca.pem")])
            .args(["--cert", &file(&format!("{who}.pem")), "--key", &file(&format!("{who}-key.pem"))])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("out").join(name)).unwrap()
    }
}

#[test]
fn two_sites_share_a_run() {
    let mut fleet = Fleet::start("5s");
    let output = fleet.run().wait_with_output().unwrap();
    let words =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{words}");
    let counters = fleet.file("counters.csv");
    for (site, count) in [("all", 200), ("fra", 100), ("syd", 100)] {
        assert!(
            counters.contains(&format!(",1,one,hold,{site},workflow_ok,,{count}\n")),
            "{site}: {counters}"
        );
    }
    let out = fleet.dir.path().join("out").to_string_lossy().into_owned();
    assert!(program().args(["report", &out, "--verify"]).status().unwrap().success());
    assert!(matches!(fleet.coordinator.0.try_wait(), Ok(None)), "the coordinator serves on");
}

#[test]
fn a_killed_agent_is_named_and_what_it_sent_is_kept() {
    let mut fleet = Fleet::start("60s");
    let run = fleet.run();
    std::thread::sleep(Duration::from_secs(9));
    fleet.agents[1].0.kill().unwrap();
    let output = run.wait_with_output().unwrap();
    let words =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(13), "{words}");
    let manifest: serde_json::Value = serde_json::from_str(&fleet.file("manifest.json")).unwrap();
    let reasons = manifest["reasons"].to_string();
    assert!(reasons.contains("agent_lost") && reasons.contains("agent-syd at syd"), "{reasons}");
    let steps = fleet.file("steps.csv");
    assert!(steps.lines().any(|line| line.contains(",hold,syd,workflow,scheduled,")), "{steps}");
}

#[test]
fn a_certificate_is_good_for_its_role_only() {
    let fleet = Fleet::start("5s");
    let output = fleet.run_as("agents").wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{words}");
    assert!(words.contains("the role `agent`, this needs `operator`"), "{words}");

    let certs = fleet.dir.path().join("certs");
    let file = |name: &str| certs.join(name).to_string_lossy().into_owned();
    let agent = program()
        .args(["agent", "--coordinator", &fleet.url, "--name", "intruder", "--ca", &file("ca.pem")])
        .args(["--cert", &file("me.pem"), "--key", &file("me-key.pem")])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut agent = Process(agent);
    let mut lines = BufReader::new(agent.0.stderr.take().unwrap()).lines();
    let told = lines.find_map(|line| line.ok().filter(|line| line.contains("this needs `agent`")));
    assert!(told.is_some_and(|line| line.contains("the role `operator`")));
}

#[test]
fn ctrl_c_drains_the_run_and_the_results_come_all_the_same() {
    let fleet = Fleet::start("60s");
    let run = fleet.run();
    std::thread::sleep(Duration::from_secs(8));
    let signalled = Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    let output = run.wait_with_output().unwrap();
    let words =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{words}");
    let steps = fleet.file("steps.csv");
    assert!(steps.lines().any(|line| line.contains(",hold,all,workflow,scheduled,")), "{steps}");
    let out = fleet.dir.path().join("out").to_string_lossy().into_owned();
    assert!(program().args(["report", &out, "--verify"]).status().unwrap().success());
}
