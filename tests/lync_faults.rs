//! What the pool gets wrong on purpose in the lync dialect, and what adsum makes of it: each knob of
//! `adsum pool` against a real `adsum run` or `check`, with the code that `failures.csv` names.

mod support;

use std::process::Output;

use support::{PoolProcess, adsum, check, code, err, out};

const TCP: [&str; 4] = ["--dialect", "lync", "--transport", "tcp"];

/// A pool that speaks this dialect, with knobs.
fn pool(knobs: &[&str]) -> PoolProcess {
    PoolProcess::start(&[&["--dialect", "lync"], knobs].concat())
}

/// A run of twenty users, ten arrivals a second for three seconds.
struct Run {
    dir: tempfile::TempDir,
    output: Output,
}

impl Run {
    fn new(kind: &str, knobs: &[&str]) -> Run {
        let pool = pool(knobs);
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "schema = 1\nname = \"faults\"\ndialect = \"lync\"\n[pool]\ntarget = \"{}\"\ntransport = \"tcp\"\n\
             [users]\ncount = 20\npattern = \"sip:user{{n:06}}@pool.test\"\npassword_pattern = \"pw-user{{n:06}}\"\n\
             [workload]\nkind = \"{kind}\"\ndeadline = \"2s\"\n[warmup]\nsettle = \"500ms\"\n[safety]\noverload = true\n\
             [[step]]\nname = \"one\"\nrate = \"10/s\"\nhold = \"3s\"\n",
            pool.address
        );
        let file = dir.path().join("s.toml");
        std::fs::write(&file, text).unwrap();
        let results = dir.path().join("out");
        let (file, results) = (file.to_str().unwrap(), results.to_str().unwrap());
        let output = adsum(&["run", file, "--out", results, "--plain", "--shards", "1"]);
        Run { dir, output }
    }

    /// Columns of the rows of a results file.
    fn rows(&self, name: &str) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(self.dir.path().join("out").join(name)).unwrap();
        text.lines().skip(1).map(|line| line.split(',').map(str::to_owned).collect()).collect()
    }

    /// Sums of a counter over all steps, by label.
    fn count(&self, name: &str, label: &str) -> u64 {
        let rows = self.rows("counters.csv");
        let wanted = rows.iter().filter(|row| row[5] == "all" && row[6] == name && row[7] == label);
        wanted.map(|row| row[8].parse::<u64>().unwrap()).sum()
    }

    /// What `failures.csv` holds: activity, class and code, each once, in order.
    fn failures(&self) -> Vec<[String; 3]> {
        let mut all: Vec<[String; 3]> =
            self.rows("failures.csv").iter().map(|row| [7, 8, 9].map(|at| row[at].clone())).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Everybody was told everything, and nothing failed.
    #[track_caller]
    fn is_well(&self) {
        let text = out(&self.output);
        assert_eq!(self.failures(), [[""; 3]; 0], "{text} {}", err(&self.output));
        // The engine may be late on a busy host: that is no matter of the pool.
        assert!(
            text.contains("ok   missed.ratio == 0%") && text.contains("ok   failed.ratio == 0%"),
            "{text}"
        );
        assert!(self.count("delivered", "") >= 30, "{text}");
        assert_eq!((self.count("auth_mismatch", ""), self.count("unmatched", "")), (0, 0));
    }
}

/// The check of users 1 and 2, as JSON.
fn checked(target: &str, more: &[&str]) -> serde_json::Value {
    let dir = tempfile::tempdir().unwrap();
    let output = check(target, dir.path(), &[&TCP[..], &["--format", "json"], more].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    json["checks"][0].clone()
}

#[test]
fn conflicts_are_repaired_and_three_in_a_row_are_a_failure() {
    let run = Run::new("held", &["--conflict-every", "3"]);
    run.is_well();
    assert!(run.count("version_conflict", "") >= 10, "{}", out(&run.output));
    let run = Run::new("held", &["--conflict-every", "1"]);
    let failures = run.failures();
    let code = ["configuration", "protocol:version-conflict"];
    assert!(failures.iter().all(|f| f[1..] == code), "{failures:?}");
    assert!(failures.iter().any(|f| f[0] == "publish"), "{failures:?}");
    // Every one but the first of each of ten publishers; nobody waits for what was not published.
    assert_eq!(run.count("publish_failed", "") + 10, run.count("sent", ""));
    assert_eq!(run.count("missed", ""), 0);
}

#[test]
fn a_notify_is_as_good_as_a_benotify_and_is_answered() {
    let run = Run::new("held", &["--notify-instead"]);
    run.is_well();
    let (notified, answered) = (run.count("sip_received", "NOTIFY"), run.count("sip_sent", "NOTIFY 200"));
    assert!(notified >= 60 && answered == notified, "{notified} {answered}");
    assert_eq!(run.count("sip_received", "BENOTIFY"), 0);
}

#[test]
fn without_a_piggyback_the_first_notification_is_awaited() {
    let run = Run::new("workflow", &["--no-piggyback"]);
    run.is_well();
    // The first and the last of three dialogs, and two of the publication.
    let workflows = run.count("workflow_ok", "");
    assert!(run.count("sip_received", "BENOTIFY") >= workflows * 8, "{workflows}");
}

#[test]
fn a_301_is_followed_where_that_is_allowed() {
    let home = pool(&[]);
    let director = pool(&["--redirect-to", &home.address]);
    let found = checked(&director.address, &[]);
    assert_eq!(found["result"], "Success", "{found}");
    let director = pool(&["--redirect-to", "192.0.2.1:5061"]);
    let found = checked(&director.address, &[]);
    assert_eq!(
        (&found["result"], &found["code"]),
        (&"Failure".into(), &"transport:blocked".into()),
        "{found}"
    );
    assert!(found["diagnosis"].as_str().unwrap().contains("192.0.2.1"), "{found}");
}

#[test]
fn a_301_to_where_nobody_listens_is_told() {
    let run = Run::new("workflow", &["--redirect-to", "127.0.0.1:1"]);
    assert_eq!(code(&run.output), 4, "{}", out(&run.output));
    let failures = run.failures();
    assert!(!failures.is_empty() && failures.iter().all(|f| f[2] == "transport:connect"), "{failures:?}");
    let text = std::fs::read_to_string(run.dir.path().join("out/failures.csv")).unwrap();
    assert!(text.contains("127.0.0.1:1"), "{text}");
}

#[test]
fn lost_benotifies_are_missed() {
    let run = Run::new("held", &["--lose-notify", "100%"]);
    assert_eq!(code(&run.output), 4, "{}", out(&run.output));
    assert_eq!(run.failures(), [["notify", "pool", "timeout:notify"]]);
}

#[test]
fn users_that_the_pool_signs_off_are_told_why_and_come_back() {
    let run = Run::new("held", &["--deregister-after", "2s"]);
    let failures = run.failures();
    // What is published or withdrawn in that very moment is refused: nobody is registered any more.
    let told = ["register", "configuration", "subscription:terminated"];
    assert!(failures.iter().any(|f| *f == told), "{failures:?}");
    assert!(
        failures.iter().all(|f| *f == told || f[0].ends_with("publish") && f[2] == "sip:403"),
        "{failures:?}"
    );
    let text = std::fs::read_to_string(run.dir.path().join("out/failures.csv")).unwrap();
    assert!(text.contains("deregistered;event=rejected") && text.contains("ErrorCode=4141"), "{text}");
    assert!(run.count("subscription_lost", "") >= 10, "{text}");
    assert!(out(&run.output).contains("recovery"), "{}", out(&run.output));
}

/// 32 seconds: so long an answer whose signature is right is waited for.
#[test]
fn wrong_signatures_are_named() {
    let run = Run::new("workflow", &["--wrong-rspauth", "100%"]);
    assert_eq!(code(&run.output), 4, "{}", out(&run.output));
    assert_eq!(run.failures(), [["register", "configuration", "auth:bad-signature"]]);
    assert!(run.count("auth_mismatch", "") > 0);
}

#[test]
fn associations_that_end_are_made_anew() {
    let run = Run::new("held", &["--association-lifetime", "1s"]);
    run.is_well();
    assert!(run.count("sip_received", "SERVICE 401") > 0, "{}", out(&run.output));
}

#[test]
fn every_other_way_of_a_pool_is_as_good() {
    for knobs in [
        &["--bare-containers", "--single-as-multipart", "--resubscribe", "100%"][..],
        &["--sipae-version", "3", "--schemes", "tls-dsk,kerberos,ntlm"],
        &["--sipae-version", "2", "--ntlm-mic"],
        &["--ntlm-mic", "--unknown-as-404"],
        &["--proxy-auth", "--schemes", "kerberos,ntlm"],
    ] {
        let pool = pool(knobs);
        let found = checked(&pool.address, &[]);
        assert_eq!(found["result"], "Success", "{knobs:?}: {found}");
    }
}

/// The embedded pool of a run offers what the scenario speaks.
#[test]
fn the_embedded_pool_takes_digest_where_the_scenario_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.toml");
    let text = "schema = 1\nname = \"digest\"\ndialect = \"lync\"\n[pool]\ntarget = \"embedded\"\ntransport = \"tcp\"\n\
        [auth]\nscheme = \"digest\"\n[users]\ncount = 4\npattern = \"sip:user{n:06}@pool.test\"\n\
        password_pattern = \"pw-user{n:06}\"\n[workload]\nkind = \"workflow\"\n[warmup]\nsettle = \"0s\"\n\
        [[step]]\nname = \"one\"\nrate = \"5/s\"\nhold = \"1s\"\n";
    std::fs::write(&file, text).unwrap();
    let results = dir.path().join("out");
    let output = adsum(&["run", file.to_str().unwrap(), "--out", results.to_str().unwrap(), "--plain"]);
    let said = out(&output);
    assert!(said.contains("ok   failed.ratio == 0%"), "{said} {}", err(&output));
}

/// Of the same clients some speak one dialect and some the other: each sees its own world.
#[test]
fn with_both_dialects_each_has_its_own() {
    let pool = PoolProcess::start(&["--dialect", "both"]);
    let dir = tempfile::tempdir().unwrap();
    let simple = check(&pool.address, dir.path(), &["--transport", "tcp"]);
    assert_eq!(code(&simple), 0, "{}", out(&simple));
    assert_eq!(checked(&pool.address, &[])["result"], "Success");
}
