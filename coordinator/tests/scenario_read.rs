//! What a good scenario becomes: defaults, ladders, overrides, variables, hashes.

use adsum_coordinator::scenario::hash::{scenario_hash, workload_hash};
use adsum_coordinator::scenario::set::short_forms;
use adsum_coordinator::scenario::{
    Arrivals, Connections, Dialect, Document, Kind, OnAgentLoss, Options, Password, Profile, Scenario,
    Scheme, StopOn, Target, Transport, Users, read,
};
use adsum_coordinator::users::population;

const SECOND: u64 = 1_000_000_000;

const MINIMAL: &str = r#"
schema = 1
name = "minimal"
[pool]
target = "127.0.0.1:5060"
[users]
count = 20
pattern = "sip:u{n}@pool.test"
password_pattern = "hunter2-{n}"
[workload]
kind = "workflow"
[[step]]
name = "a"
rate = "10/s"
hold = "1m"
"#;

fn document(text: &str, sets: &[&str]) -> Document {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let env = |name: &str| (name == "SECRET").then(|| "from-outside".to_owned());
    read("f.toml", text, Options { sets: &sets, env: &env })
        .unwrap_or_else(|problems| panic!("{}", problems.lines()))
}

fn scenario(text: &str, sets: &[&str]) -> Scenario {
    document(text, sets).scenario
}

fn hashes(scenario: &Scenario) -> (String, String) {
    let population = population(&scenario.users, scenario.auth.scheme, b"", b"").unwrap();
    (scenario_hash(scenario), workload_hash(scenario, &population))
}

#[test]
fn everything_has_its_default() {
    let s = scenario(MINIMAL, &[]);
    assert_eq!(s.pool.target, Target::Host("127.0.0.1:5060".into()));
    assert_eq!((s.pool.transport, s.pool.connections), (Transport::Udp, Connections::PerUser));
    assert_eq!((s.auth.scheme, s.auth.reuse_nonce), (Scheme::Auto, true));
    assert_eq!((s.workload.kind, s.workload.arrivals), (Kind::Workflow, Arrivals::Constant));
    assert_eq!((s.workload.deadline_ns, s.workload.expires_s), (25 * SECOND, 3_600));
    assert!(s.workload.self_subscribe);
    assert_eq!((s.workload.max_in_flight, s.seed), (None, None));
    assert_eq!((s.warmup.register_rate_mhz, s.warmup.subscribe_rate_mhz), (200_000, 500_000));
    assert_eq!(s.warmup.settle_ns, 5 * SECOND);
    assert_eq!((s.steps[0].rate_mhz, s.steps[0].hold_ns, s.steps[0].ramp_ns), (10_000, 60 * SECOND, 0));
    assert!(!s.steps[0].gate);
    assert_eq!(s.trust.profile, Profile::Lab);
    assert_eq!(s.safety.stop_on, Some(StopOn::DEFAULT));
    assert_eq!((s.fleet.on_agent_loss, s.fleet.orphan_timeout_ns), (OnAgentLoss::Stop, 30 * SECOND));
    assert_eq!(s.report.percentiles_ppb, [500_000_000, 900_000_000, 950_000_000, 990_000_000, 999_000_000]);
    assert_eq!(s.report.interval_s, 1);
    assert!(s.thresholds.is_empty() && s.sites.is_empty());
}

#[test]
fn lync_goes_over_tls_unless_told_otherwise() {
    let s = scenario(MINIMAL, &["dialect=lync", "auth.scheme=ntlm"]);
    assert_eq!((s.dialect, s.pool.transport, s.auth.scheme), (Dialect::Lync, Transport::Tls, Scheme::Ntlm));
    let s = scenario(MINIMAL, &["dialect=lync", "pool.transport=tcp"]);
    assert_eq!((s.pool.transport, s.auth.scheme), (Transport::Tcp, Scheme::Auto));
    let with = scenario(MINIMAL, &["dialect=lync", "pool.transport=tcp", "users.nt_domain=LOADLAB"]);
    assert!(matches!(&with.users, Users::Pattern { nt_domain: Some(domain), .. } if domain == "LOADLAB"));
    let (simple, lync) = (scenario(MINIMAL, &["pool.transport=tcp"]), s);
    assert_ne!(hashes(&simple).1, hashes(&lync).1);
}

#[test]
fn a_ladder_becomes_steps_and_a_threshold_follows_it() {
    let text = format!(
        "{MINIMAL}[[step]]\nname = \"up\"\nrate = {{ from = \"0.5/s\", to = \"2/s\", by = \"0.5/s\" }}\nhold = \"5s\"\n\
         gate = true\n[[threshold]]\nexpr = \"missed.ratio == 0%\"\nstep = \"up\"\n[[threshold]]\n\
         expr = \"missed.ratio == 0%\"\nstep = \"up-1.5\"\n[[threshold]]\nexpr = \"missed.ratio == 0%\"\nstep = \"drain\"\n"
    );
    let s = scenario(&text, &[]);
    let steps: Vec<(&str, u64)> = s.steps.iter().map(|step| (step.name.as_str(), step.rate_mhz)).collect();
    assert_eq!(steps, [("a", 10_000), ("up-0.5", 500), ("up-1", 1_000), ("up-1.5", 1_500), ("up-2", 2_000)]);
    assert!(s.steps[1..].iter().all(|step| step.gate && step.hold_ns == 5 * SECOND));
    let of: Vec<&str> = s.thresholds.iter().filter_map(|threshold| threshold.step.as_deref()).collect();
    assert_eq!(of, ["up-0.5", "up-1", "up-1.5", "up-2", "up-1.5", "drain"]);
}

#[test]
fn overrides_reach_every_kind_of_key() {
    let s = scenario(
        MINIMAL,
        &[
            "pool.target=127.0.0.2",
            "pool.allow=10.0.0.0/8",
            "step.0.rate=5/s",
            "step.a.hold = 30s",
            "step.*.gate=true",
            "workload.self_subscribe=false",
            "workload.deadline=\"10s\"",
            "seed=42",
            "warmup.settle=1s",
            "sites.eu.share=2",
            "sites.\"us.west\".share=0.5",
            "name=other",
            "comment=a = b",
            "report.percentiles=[0.5, 0.75]",
        ],
    );
    assert_eq!(s.pool.target, Target::Host("127.0.0.2".into()));
    assert_eq!(s.pool.allow, ["10.0.0.0/8"]);
    assert_eq!((s.steps[0].rate_mhz, s.steps[0].hold_ns, s.steps[0].gate), (5_000, 30 * SECOND, true));
    assert!(!s.workload.self_subscribe);
    assert_eq!((s.workload.deadline_ns, s.seed, s.warmup.settle_ns), (10 * SECOND, Some(42), SECOND));
    let shares: Vec<(&str, Option<u64>)> =
        s.sites.iter().map(|(name, site)| (name.as_str(), site.share)).collect();
    assert_eq!(shares, [("eu", Some(2_000)), ("us.west", Some(500))]);
    assert_eq!((s.name.as_str(), s.comment.as_deref()), ("other", Some("a = b")));
    assert_eq!(s.report.percentiles_ppb, [500_000_000, 750_000_000]);
}

#[test]
fn the_last_word_says_who_the_users_are() {
    let from = scenario(MINIMAL, &["users.from=accounts.csv"]);
    assert_eq!(from.users, Users::File { from: "accounts.csv".into() });
    let text = MINIMAL.replace(
        "count = 20\npattern = \"sip:u{n}@pool.test\"\npassword_pattern = \"hunter2-{n}\"",
        "from = \"x\"",
    );
    let back =
        scenario(&text, &["users.count=4", "users.pattern=sip:v{n}@p.test", "users.password_file=p.txt"]);
    let Users::Pattern { count, password, .. } = back.users else { panic!("pattern") };
    assert_eq!((count, password), (4, Password::File("p.txt".into())));
}

#[test]
fn short_forms_are_overrides() {
    let allow = ["192.0.2.0/24".to_owned(), "10.0.0.0/8".to_owned()];
    let sets =
        short_forms(Some("192.0.2.1:5060"), Some("accounts \"x\".csv"), Some("7/s"), Some("9s"), &allow);
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let s = scenario(MINIMAL, &sets);
    assert_eq!(s.pool.target, Target::Host("192.0.2.1:5060".into()));
    assert_eq!(s.pool.allow, ["192.0.2.0/24", "10.0.0.0/8"]);
    assert_eq!(s.users, Users::File { from: "accounts \"x\".csv".into() });
    assert_eq!((s.steps[0].rate_mhz, s.steps[0].hold_ns), (7_000, 9 * SECOND));
    assert_eq!(short_forms(None, Some("12"), None, None, &[]), ["users.count=12"]);
    assert!(short_forms(None, None, None, None, &[]).is_empty());
}

#[test]
fn the_text_for_elsewhere_reads_as_the_same_scenario() {
    let text = MINIMAL.replace("hunter2-{n}", "${env:SECRET}{n}\\n\\\"ü");
    let sets = [
        "step.0.ramp=1s",
        "sites.\"us.west\".share=0.5",
        "pool.allow=[\"10.0.0.0/8\"]",
        "pool.tls={ca=\"x.pem\"}",
    ];
    let here = document(&text, &sets);
    let Users::Pattern { password: Password::Pattern(password), .. } = &here.scenario.users else {
        panic!("pattern")
    };
    assert_eq!(password, "from-outside{n}\n\"ü");
    // Elsewhere there are neither overrides nor this environment.
    let there = read("there.toml", &here.text.0, Options { sets: &[], env: &|_| None });
    assert_eq!(there.unwrap_or_else(|e| panic!("{}{}", here.text.0, e.lines())).scenario, here.scenario);
}

#[test]
fn the_manifests_text_has_no_secret_and_reads_as_the_same_load() {
    let here = document(&format!("# hunter2 is the password\n{MINIMAL}"), &["step.0.rate=3/s"]);
    assert!(!here.redacted.contains("hunter2"), "{}", here.redacted);
    assert!(here.redacted.contains("password_pattern = \"<redacted>\""), "{}", here.redacted);
    assert!(!format!("{here:?}").contains("hunter2"));
    let there = read("there.toml", &here.redacted, Options { sets: &[], env: &|_| None }).unwrap();
    assert_eq!(hashes(&there.scenario), hashes(&here.scenario));
    // The name of a variable is no secret, and says where the secret was.
    let variable = document(&MINIMAL.replace("hunter2-{n}", "${env:SECRET}"), &[]);
    assert!(variable.redacted.contains("${env:SECRET}") && !variable.redacted.contains("from-outside"));
    let glued = document(&MINIMAL.replace("hunter2-{n}", "hunter2${env:SECRET}"), &[]);
    assert!(!glued.redacted.contains("hunter2"));
}

#[test]
fn hashes_follow_what_they_cover_and_nothing_else() {
    let base = hashes(&scenario(MINIMAL, &[]));
    let turned = r#"
# another order, other spellings of the same quantities
[[step]]
hold = "60s"
rate = "600/m"
name = "a"
[workload]
deadline = "25s"
kind = "workflow"
[users]
password_pattern = "hunter2-{n}"
pattern = "sip:u{n}@pool.test"
count = 0x14
[pool]
target = "127.0.0.1:5060"
[top]
"#;
    let turned = format!("name = \"minimal\"\nschema = 1\n{}", turned.replace("[top]\n", ""));
    assert_eq!(hashes(&scenario(&turned, &[])), base, "order, comments and spelling are in no hash");
    assert_eq!(base.0.len(), 64);

    // What does not change the load: only the scenario's hash follows.
    for set in [
        "name=renamed",
        "comment=x",
        "pool.target=127.0.0.9",
        "pool.allow=10.0.0.0/8",
        "pool.tls.ca=\"x.pem\"",
        "pool.tls.legacy=true",
        "users.pattern=sip:v{n}@pool.test",
        "step.0.gate=true",
        "trust.profile=ci",
        "trust.shard_busy=95%",
        "trust.steal=2%",
        "trust.steal_seconds=5%",
        "report.percentiles=[0.5]",
        "fleet.orphan_timeout=10s",
        "safety.overload=true",
    ] {
        let other = hashes(&scenario(MINIMAL, &[set]));
        assert_ne!(other.0, base.0, "{set}");
        assert_eq!(other.1, base.1, "{set}");
    }
    let threshold =
        hashes(&scenario(&format!("{MINIMAL}[[threshold]]\nexpr = \"missed.ratio == 0%\"\n"), &[]));
    assert!(threshold.0 != base.0 && threshold.1 == base.1);

    // What changes the load: both follow.
    for set in [
        "step.0.rate=10.001/s",
        "step.0.hold=61s",
        "step.0.ramp=1s",
        "step.0.name=b",
        "users.count=22",
        "pool.transport=tcp",
        "pool.connections=shared",
        "auth.reuse_nonce=false",
        "workload.kind=held",
        "workload.arrivals=poisson",
        "workload.self_subscribe=false",
        "workload.expires=600s",
        "workload.max_in_flight=5",
        "warmup.settle=6s",
        "sites.a.share=1",
        "seed=1",
    ] {
        let other = hashes(&scenario(MINIMAL, &[set]));
        assert_ne!(other.0, base.0, "{set}");
        assert_ne!(other.1, base.1, "{set}");
    }
    let held = hashes(&scenario(MINIMAL, &["workload.kind=held"]));
    let graph = hashes(&scenario(
        MINIMAL,
        &["workload.kind=held", "workload.fan_out={distribution=\"constant\", mean=2}"],
    ));
    assert!(graph.0 != held.0 && graph.1 != held.1);
    // The policy counts, not the number.
    assert_eq!(hashes(&scenario(MINIMAL, &["seed=1"])).1, hashes(&scenario(MINIMAL, &["seed=2"])).1);
    // Secrets are in neither.
    let other = hashes(&scenario(&MINIMAL.replace("hunter2", "swordfish"), &[]));
    assert_eq!(other, base);
}

#[test]
fn hashes_are_the_same_on_every_machine_and_in_every_release_of_this_format() {
    // A change here makes all earlier runs incomparable: bump the schema instead.
    let (scenario, workload) = hashes(&scenario(MINIMAL, &[]));
    assert_eq!(scenario, include_str!("data/scenario_hash.txt").trim());
    assert_eq!(workload, include_str!("data/workload_hash.txt").trim());
}

#[test]
fn a_byte_order_mark_and_crlf_are_taken() {
    let text = format!("\u{feff}{}", MINIMAL.replace('\n', "\r\n"));
    assert_eq!(scenario(&text, &[]), scenario(MINIMAL, &[]));
}
