//! The program as its users run it, against the embedded pool on loopback.

mod support;

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::PoolProcess;

fn adsum(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adsum")).args(args).env_remove("ADSUM_RESULTS").output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn check(target: &str, dir: &Path, publisher: u32, password: &str, more: &[&str]) -> Output {
    let files = [("p", password.to_owned(), publisher), ("s", "pw-user000002".to_owned(), 2)].map(
        |(name, password, n)| {
            let file = dir.join(name);
            std::fs::write(&file, format!("user{n:06}:{password}\n")).unwrap();
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            file.to_string_lossy().into_owned()
        },
    );
    let uri = format!("sip:user{publisher:06}@pool.test");
    let mut args = vec![
        "check",
        "--target",
        target,
        "--publisher",
        &uri,
        "--publisher-credential-file",
        &files[0],
        "--subscriber",
        "sip:user000002@pool.test",
        "--subscriber-credential-file",
        &files[1],
    ];
    args.extend_from_slice(more);
    adsum(&args)
}

#[test]
fn check_answers_like_the_cmdlet_over_every_transport() {
    let dir = tempfile::tempdir().unwrap();
    let tls_dir = dir.path().join("tls");
    let pool = PoolProcess::start(&["--tls-dir", &tls_dir.to_string_lossy()]);
    let ca = tls_dir.join("ca.pem").to_string_lossy().into_owned();
    let tls = ["--transport", "tls", "--ca", &ca, "--server-name", "localhost"];
    for (target, more) in
        [(&pool.address, &[][..]), (&pool.address, &["--transport", "tcp"]), (&pool.tls, &tls)]
    {
        let output = check(target, dir.path(), 1, "pw-user000001", more);
        let out = text(&output.stdout);
        assert_eq!(code(&output), 0, "{out} {}", text(&output.stderr));
        let fields: Vec<&str> = out.lines().map(|l| l.split(':').next().unwrap().trim()).collect();
        assert_eq!(fields, ["TargetFqdn", "Result", "Latency", "Error", "Diagnosis"]);
        assert!(out.contains("Result     : Success") && out.contains("Latency    : 00:00:0"), "{out}");
    }
    let verbose = check(&pool.address, dir.path(), 1, "pw-user000001", &["--verbose", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&verbose.stdout).unwrap();
    assert_eq!(
        (json["schema_version"].as_i64(), json["checks"][0]["result"].as_str()),
        (Some(1), Some("Success"))
    );
    for activity in
        ["Register", "SelfSubscribeActivity", "SubscribePresence", "PublishPresence", "Unregister"]
    {
        assert!(
            text(&verbose.stderr).contains(&format!("'{activity}' activity completed in '")),
            "{activity}"
        );
    }
}

#[test]
fn check_tells_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--users", "50"]);
    let failure = |output: Output, error: &str, diagnosis: &str| {
        let out = text(&output.stdout);
        assert_eq!(code(&output), 5, "{out} {}", text(&output.stderr));
        assert!(out.contains("Result     : Failure") && out.contains("Latency    : 00:00:00\n"), "{out}");
        assert!(out.contains(error) && out.contains(diagnosis), "{out}");
    };
    failure(
        check(&pool.address, dir.path(), 60, "pw-user000060", &[]),
        "404, Not Found",
        "does not know this user",
    );
    failure(check(&pool.address, dir.path(), 1, "wrong", &[]), "403, Forbidden", "wrong password");
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    failure(
        check(&closed, dir.path(), 1, "x", &["--transport", "tcp"]),
        "Connection refused",
        "nothing listens there",
    );
    failure(
        check(
            &pool.tls,
            dir.path(),
            1,
            "pw-user000001",
            &["--transport", "tls", "--server-name", "localhost"],
        ),
        "UnknownIssuer",
        "--ca",
    );
    let deaf = PoolProcess::start(&["--lose-notify", "1.0"]);
    failure(
        check(&deaf.address, dir.path(), 1, "pw-user000001", &["--timeout", "1s"]),
        "no NOTIFY with the published document within 1 s",
        "did not tell the subscriber",
    );
}

const SHORT: &str = r#"
schema = 1
name = "short"
[pool]
target = "embedded"
[users]
count = 40
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
rate = "50/s"
hold = "3s"
"#;

#[test]
fn a_run_writes_files_that_agree() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("short.toml");
    std::fs::write(&file, SHORT).unwrap();
    let file = file.to_string_lossy().into_owned();
    for (name, agents, transport) in [("one", "1", "udp"), ("two", "2", "tcp")] {
        let out = dir.path().join(name).to_string_lossy().into_owned();
        let set = format!("pool.transport=\"{transport}\"");
        let output = adsum(&["run", &file, "--out", &out, "--agents", agents, "--set", &set, "--seed", "5"]);
        assert_eq!(code(&output), 0, "{} {}", text(&output.stdout), text(&output.stderr));
        let counters = std::fs::read_to_string(dir.path().join(name).join("counters.csv")).unwrap();
        for counter in ["offered", "sent", "workflow_ok", "delivered"] {
            assert!(counters.contains(&format!(",1,one,hold,all,{counter},,150\n")), "{counter}: {counters}");
        }
        assert!(!dir.path().join(name).join("run.journal").exists());
        let verified = adsum(&["report", &out, "--verify"]);
        assert_eq!(code(&verified), 0, "{}", text(&verified.stdout));
    }
    let again = adsum(&["run", &file, "--out", &dir.path().join("one").to_string_lossy()]);
    assert_eq!(code(&again), 3, "{}", text(&again.stderr));
}

#[test]
fn an_interrupted_run_writes_everything() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("short.toml");
    std::fs::write(&file, SHORT.replace("\"3s\"", "\"60s\"")).unwrap();
    let out = dir.path().join("out");
    let child = Command::new(env!("CARGO_BIN_EXE_adsum"))
        .args(["run", &file.to_string_lossy(), "--out", &out.to_string_lossy()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(6));
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let run = std::fs::read_to_string(out.join("run.csv")).unwrap();
    assert!(run.contains(",untrustworthy,130,interrupted,"), "it was cut short, and nothing else: {run}");
    assert_eq!(code(&adsum(&["report", &out.to_string_lossy(), "--verify"])), 0);
    // The hold ends where it was stopped: its rate is what was offered until then.
    let steps = std::fs::read_to_string(out.join("steps.csv")).unwrap();
    let row = steps.lines().find(|line| line.contains(",hold,all,workflow,scheduled,")).unwrap();
    let cells: Vec<&str> = row.split(',').collect();
    let (seconds, offered_hz): (f64, f64) = (cells[11].parse().unwrap(), cells[12].parse().unwrap());
    assert!(seconds < 20.0 && (offered_hz - 50.0).abs() < 5.0, "{row}");
}

#[test]
fn bad_input_is_told_before_any_traffic() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.toml");
    std::fs::write(
        &file,
        SHORT.replace("50/s", "50").replace("\"embedded\"", "\"192.0.2.1\"").replace("count", "cuont"),
    )
    .unwrap();
    let output = adsum(&["run", &file.to_string_lossy(), "--out", &dir.path().join("x").to_string_lossy()]);
    let errors = text(&output.stderr);
    assert_eq!(code(&output), 3, "{errors}");
    for part in ["bad.toml:", "50/s", "allow", "count"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert!(!dir.path().join("x").exists());
    assert_eq!(code(&adsum(&["run"])), 2);
    assert_eq!(code(&adsum(&["explain", "send_lag"])), 0);
}

/// A scenario of held users against a pool of its own.
fn held(dir: &Path, address: &str, hold: &str) -> String {
    let text = SHORT
        .replace("\"embedded\"", &format!("{address:?}"))
        .replace("\"workflow\"", "\"held\"")
        .replace("send_lag_p99 = \"1s\"", "")
        .replace("\"3s\"", &format!("{hold:?}"));
    let file = dir.join("held.toml");
    std::fs::write(&file, text).unwrap();
    file.to_string_lossy().into_owned()
}

#[test]
fn notifications_from_another_address_are_taken_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--notify-from", "127.0.0.2"]);
    let out = dir.path().join("out");
    let set = "trust.send_lag_p99=\"1s\"";
    let args = ["run", &held(dir.path(), &pool.address, "3s"), "--out", &out.to_string_lossy(), "--set", set];
    let output = adsum(&args);
    assert_eq!(code(&output), 0, "{} {}", text(&output.stdout), text(&output.stderr));
    let counters = std::fs::read_to_string(out.join("counters.csv")).unwrap();
    // Two of each publication: the subscriber's, and the publisher's own.
    assert!(counters.contains(",1,one,hold,all,rx_foreign_source,,300\n"), "{counters}");
    assert!(counters.contains(",1,one,hold,all,delivered,,150\n"), "{counters}");
    assert!(!counters.contains("retransmit_received"), "an answer went astray: {counters}");
}

#[test]
fn an_engine_that_was_stopped_accuses_itself() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&[]);
    let out = dir.path().join("out");
    let child = Command::new(env!("CARGO_BIN_EXE_adsum"))
        .args(["run", &held(dir.path(), &pool.address, "10s"), "--out", &out.to_string_lossy()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    std::thread::sleep(std::time::Duration::from_secs(7));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(12));
    let run = std::fs::read_to_string(out.join("run.csv")).unwrap();
    assert!(run.contains("untrustworthy") && run.contains("loop_gap"), "{run}");
}
