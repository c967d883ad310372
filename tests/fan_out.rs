//! Contact graphs: the scenario and the engine agree on what can be drawn, and
//! held runs on the embedded pool tell every subscriber of every publication.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use adsum_agent::contacts;
use adsum_coordinator::scenario::{Distribution, FanOut};

const USERS: u64 = 200;

fn adsum(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adsum"));
    command.env_remove("ADSUM_COORDINATOR").env_remove("ADSUM_RESULTS").stdin(Stdio::null());
    command.args(args).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// 200 users and 200 arrivals: publishers take turns, so each publishes once.
fn scenario(dir: &Path, fan_out: &str) -> String {
    let path = dir.join("contacts.toml");
    let text = format!(
        "schema = 1\nname = \"contacts\"\nseed = 11\n[pool]\ntarget = \"embedded\"\n[users]\ncount = {USERS}\n\
         pattern = \"sip:user{{n:06}}@pool.test\"\npassword_pattern = \"pw-user{{n:06}}\"\n\
         [workload]\nkind = \"held\"\ndeadline = \"5s\"\nfan_out = {fan_out}\n\
         [warmup]\nregister_rate = \"1000/s\"\nsubscribe_rate = \"2000/s\"\nsettle = \"0s\"\n\
         [[step]]\nname = \"one\"\nrate = \"100/s\"\nhold = \"2s\"\n\
         [trust]\nprofile = \"ci\"\nsend_lag_p99 = \"1s\"\n"
    );
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

struct Results {
    counters: String,
    steps: String,
}

impl Results {
    /// Runs a graph, and reads what it left behind if it passed and is consistent.
    fn of(fan_out: &str, threads: &[&str]) -> Results {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out").to_string_lossy().into_owned();
        let run = adsum(&[&["run", &scenario(dir.path(), fan_out), "--out", &out], threads].concat());
        assert_eq!(run.status.code(), Some(0), "{}", words(&run));
        let verified = adsum(&["report", &out, "--verify"]);
        assert!(verified.status.success(), "{}", words(&verified));
        let file = |name: &str| std::fs::read_to_string(dir.path().join("out").join(name)).unwrap();
        Results { counters: file("counters.csv"), steps: file("steps.csv") }
    }

    /// A counter over all sites; 0 if it was never counted.
    fn counter(&self, step: &str, phase: &str, name: &str, label: &str) -> u64 {
        let row = format!(",{step},{phase},all,{name},{label},");
        let line = self.counters.lines().find(|line| line.contains(&row));
        line.map_or(0, |line| line.rsplit(',').next().unwrap().parse().unwrap())
    }

    /// Samples of a metric, base scheduled.
    fn samples(&self, step: &str, phase: &str, metric: &str) -> u64 {
        let column = self.steps.lines().next().unwrap().split(',').position(|name| name == "count").unwrap();
        let row = format!(",{step},{phase},all,{metric},scheduled,");
        let line = self.steps.lines().find(|line| line.contains(&row));
        let line = line.unwrap_or_else(|| panic!("{row} is not in\n{}", self.steps));
        line.split(',').nth(column).unwrap().parse().unwrap()
    }

    /// What holds of every graph: all are told, all end in the newest state, all sign off.
    fn assert_complete(&self) -> u64 {
        let subscriptions = self.samples("warmup", "warmup", "subscribe");
        let one = |name: &str, label: &str| self.counter("one", "hold", name, label);
        assert_eq!((one("offered", ""), one("sent", ""), one("publish_ok", "")), (USERS, USERS, USERS));
        assert_eq!(one("expected", ""), subscriptions, "each user published once: {}", self.counters);
        assert_eq!(one("delivered", ""), subscriptions);
        assert_eq!(self.samples("one", "hold", "publish_to_notify"), subscriptions);
        assert_eq!((one("missed", ""), one("not_expected", ""), one("superseded", "")), (0, 0, 0));
        assert_eq!((one("converged", ""), one("not_converged", "")), (subscriptions, 0));
        let drain = |label: &str| self.counter("drain", "drain", "sip_received", label);
        assert_eq!(drain("REGISTER 200"), USERS);
        assert_eq!(drain("SUBSCRIBE 200"), subscriptions + USERS, "with those to oneself");
        assert_eq!(drain("PUBLISH 200"), USERS, "publications are removed");
        subscriptions
    }
}

#[test]
fn with_a_constant_fan_out_each_publication_has_as_many_expectations() {
    let results = Results::of(r#"{ distribution = "constant", mean = 5 }"#, &["--shards", "2"]);
    assert_eq!(results.assert_complete(), 5 * USERS);
    assert_eq!(results.samples("one", "hold", "notify_fanout_last"), USERS, "one for each publication");
}

#[test]
fn a_long_tailed_graph_is_drawn_on_two_agents() {
    let results = Results::of(r#"{ distribution = "zipf", mean = 5, max = 30 }"#, &["--agents", "2"]);
    let subscriptions = results.assert_complete();
    // 200 draws with this mean; their own spread is about half of that around it.
    assert!(
        (3 * USERS..=8 * USERS).contains(&subscriptions) && subscriptions != 5 * USERS,
        "{subscriptions}"
    );
    // Many have one subscriber only, which makes no sample of the last one.
    let last = results.samples("one", "hold", "notify_fanout_last");
    assert!((USERS / 4..USERS).contains(&last), "{last}");
}

#[test]
fn scenario_and_engine_accept_the_same_fan_outs() {
    let pairs = [
        (Distribution::Constant, contacts::Distribution::Constant),
        (Distribution::Uniform, contacts::Distribution::Uniform),
        (Distribution::Zipf, contacts::Distribution::Zipf),
        (Distribution::LogNormal, contacts::Distribution::LogNormal),
    ];
    let means =
        [0, 1, 499, 500, 999, 1_000, 1_001, 1_500, 2_000, 2_125, 2_500, 5_000, 5_500, 5_501, 10_000, 50_500];
    let widths = [0, 1, 2, 3, 4, 5, 9, 10, 11, 20, 100, 101];
    let (mut accepted, mut refused) = (0, 0);
    for (ours, theirs) in pairs {
        // The ends of what can be are those of both.
        let far = [(10_000_000, 10_000), (10_000_001, 10_000), (5_000_500, 10_000), (1_000, 10_001)];
        let all = means.iter().flat_map(|mean| widths.map(|max| (*mean, max))).chain(far);
        for (mean_milli, max) in all {
            let scenario = FanOut { distribution: ours, mean_milli, max }.check();
            // Nobody to draw for: only the distribution is looked at.
            let engine = contacts::FanOut { distribution: theirs, mean_milli, max }.draw(0, 1);
            assert_eq!(
                scenario.is_ok(),
                engine.is_ok(),
                "{ours} {mean_milli} {max}: {scenario:?} {engine:?}"
            );
            if scenario.is_ok() { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
}

#[test]
fn the_check_shows_the_graph_in_one_line_and_refuses_roles() {
    let dir = tempfile::tempdir().unwrap();
    let path = scenario(dir.path(), r#"{ distribution = "uniform", mean = 5 }"#);
    let check = adsum(&["scenario", "check", &path]);
    assert!(check.status.success(), "{}", words(&check));
    let line = "contacts    uniform with 5 subscribers of each user on average, at most 10; about 1000 subscriptions";
    assert!(words(&check).contains(line), "{}", words(&check));

    let csv = dir.path().join("u.csv");
    std::fs::write(&csv, "sip_uri,password,role\nsip:a@p.test,x,publisher\nsip:b@p.test,y,subscriber\n")
        .unwrap();
    let set = format!("users.from={}", csv.to_string_lossy());
    let check = adsum(&["scenario", "check", &path, "--set", &set]);
    assert_eq!(check.status.code(), Some(3), "{}", words(&check));
    assert!(words(&check).contains("u.csv:1: role: found with workload.fan_out"), "{}", words(&check));
}
