//! `workload.fan_out`: what is read, what goes over the wire, and what it does to a plan's figures.

use adsum_coordinator::plan::check::{Check, check, text};
use adsum_coordinator::plan::{AgentPlace, PlanError, RunFacts, plans};
use adsum_coordinator::scenario::hash::{scenario_hash, workload_hash};
use adsum_coordinator::scenario::{Distribution, Document, FanOut, Options, Scenario, read};
use adsum_coordinator::users::{UsersError, of_scenario, population};
use adsum_proto::v1;

const PAIRS: &str = r#"
schema = 1
name = "contacts"
[pool]
target = "127.0.0.1:5060"
[users]
count = 1_000
pattern = "sip:u{n}@pool.test"
password_pattern = "p{n}"
[workload]
kind = "held"
[warmup]
register_rate = "100/s"
subscribe_rate = "1000/s"
settle = "0s"
[[step]]
name = "a"
rate = "20/s"
hold = "100s"
[[threshold]]
expr = "publish_to_notify.p99 < 1s"
[[threshold]]
expr = "notify_fanout_last.p99 < 1s"
[[threshold]]
expr = "subscribe.p99 < 1s"
step = "warmup"
"#;

fn document(sets: &[&str]) -> Document {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    read("f.toml", PAIRS, Options { sets: &sets, env: &|_| None }).unwrap_or_else(|e| panic!("{}", e.lines()))
}

fn scenario(fan_out: &str) -> Scenario {
    document(&[&format!("workload.fan_out={fan_out}")]).scenario
}

fn checked(sets: &[&str]) -> (Check, String) {
    let scenario = document(sets).scenario;
    let users = population(&scenario.users, scenario.auth.scheme, b"", b"").unwrap();
    let check = check(&scenario, &users, 1, 2);
    let text = text(&scenario, &check);
    (check, text)
}

#[test]
fn a_maximum_has_its_default_by_distribution() {
    for (fan_out, distribution, mean_milli, max) in [
        ("{distribution=\"constant\", mean=5}", Distribution::Constant, 5_000, 5),
        ("{distribution=\"constant\", mean=2.125}", Distribution::Constant, 2_125, 3),
        ("{distribution=\"constant\", mean=0.001, max=7}", Distribution::Constant, 1, 7),
        ("{distribution=\"uniform\", mean=2.5}", Distribution::Uniform, 2_500, 5),
        ("{distribution=\"uniform\", mean=65, max=80}", Distribution::Uniform, 65_000, 80),
        ("{distribution=\"zipf\", mean=12, max=500}", Distribution::Zipf, 12_000, 500),
        ("{distribution=\"lognormal\", mean=65.5, max=400}", Distribution::LogNormal, 65_500, 400),
    ] {
        let expected = FanOut { distribution, mean_milli, max };
        assert_eq!(scenario(fan_out).workload.fan_out, Some(expected), "{fan_out}");
    }
    assert_eq!(document(&[]).scenario.workload.fan_out, None);
}

#[test]
fn a_table_of_its_own_and_single_keys_read_as_the_inline_one() {
    let inline = scenario("{distribution=\"zipf\", mean=12, max=500}");
    let table = PAIRS
        .replace("[warmup]", "[workload.fan_out]\ndistribution = \"zipf\"\nmean = 12.0\nmax = 500\n[warmup]");
    let table = read("f.toml", &table, Options { sets: &[], env: &|_| None }).unwrap();
    assert_eq!(table.scenario, inline);
    let keys = document(&[
        "workload.fan_out.distribution=zipf",
        "workload.fan_out.mean=12",
        "workload.fan_out.max=500",
    ]);
    assert_eq!(keys.scenario, inline);
    // What agents and manifests are given says the same.
    for text in [&keys.text.0, &keys.redacted] {
        let there = read("there.toml", text, Options { sets: &[], env: &|_| None }).unwrap();
        assert_eq!(there.scenario.workload, inline.workload, "{text}");
    }
}

#[test]
fn it_is_part_of_both_hashes_and_pairs_hash_as_before() {
    let hashes = |scenario: &Scenario| {
        let users = population(&scenario.users, scenario.auth.scheme, b"", b"").unwrap();
        (scenario_hash(scenario), workload_hash(scenario, &users))
    };
    let base = hashes(&scenario("{distribution=\"constant\", mean=5}"));
    for other in [
        "{distribution=\"constant\", mean=4}",
        "{distribution=\"constant\", mean=5, max=6}",
        "{distribution=\"uniform\", mean=5, max=5}",
    ] {
        let other = hashes(&scenario(other));
        assert!(other.0 != base.0 && other.1 != base.1);
    }
    assert_eq!(
        hashes(&scenario("{distribution=\"constant\", mean=5.0, max=5}")),
        base,
        "a default is no difference"
    );
    let pairs = serde_json::to_value(&document(&[]).scenario.workload).unwrap();
    assert_eq!(pairs.get("fan_out"), None, "runs of earlier releases stay comparable");
}

#[test]
fn roles_do_not_go_together_with_it() {
    let csv = b"sip_uri,password,role\nsip:a@p.test,x,publisher\nsip:b@p.test,y,subscriber\n";
    let from = document(&["users.from=u.csv"]).scenario;
    assert_eq!(of_scenario(&from, csv, b"").unwrap().pairs, 1);
    let graph =
        document(&["users.from=u.csv", "workload.fan_out={distribution=\"constant\", mean=1}"]).scenario;
    let error = of_scenario(&graph, csv, b"").unwrap_err();
    assert!(matches!(&error, UsersError::File { .. }));
    assert!(error.to_string().starts_with("u.csv:1: role: found with workload.fan_out"), "{error}");
    assert!(error.to_string().contains("accepted: a file without roles"), "{error}");
    let without = b"sip_uri,password\nsip:a@p.test,x\nsip:b@p.test,y\n";
    assert_eq!(of_scenario(&graph, without, b"").unwrap().pairs, 1);
}

fn planned(scenario: &Scenario, agents: usize) -> Result<Vec<v1::FanOut>, PlanError> {
    let users = population(&scenario.users, scenario.auth.scheme, b"", b"").unwrap();
    let facts = RunFacts {
        run_id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned(),
        seed: 7,
        origin_unix_ns: 0,
        embedded: None,
        ca_pem: Vec::new(),
        cert_pem: Vec::new(),
        key_pem: Vec::new(),
    };
    let places: Vec<AgentPlace> =
        (0..agents).map(|n| AgentPlace { name: format!("agent{n}"), site: "local".to_owned() }).collect();
    let plans = plans(scenario, &users, &facts, &places)?;
    Ok(plans.into_iter().filter_map(|plan| plan.plan.workload?.fan_out).collect())
}

#[test]
fn every_agent_is_told_of_the_graph_and_has_users_enough() {
    for (word, distribution) in [
        ("constant", v1::Distribution::Constant),
        ("uniform", v1::Distribution::Uniform),
        ("zipf", v1::Distribution::Zipf),
        ("lognormal", v1::Distribution::LogNormal),
    ] {
        let scenario = scenario(&format!("{{distribution=\"{word}\", mean=12.5, max=25}}"));
        let expected = v1::FanOut { distribution: distribution.into(), mean_milli: 12_500, max: 25 };
        assert_eq!(planned(&scenario, 2).unwrap(), [expected, expected]);
    }
    assert_eq!(planned(&document(&[]).scenario, 2).unwrap(), []);

    let wide = scenario("{distribution=\"zipf\", mean=12, max=500}");
    assert_eq!(planned(&wide, 1).unwrap().len(), 1);
    let error = planned(&wide, 2).unwrap_err().to_string();
    assert!(
        error.contains("workload.fan_out.max = 500") && error.contains("the 500 of agent agent0"),
        "{error}"
    );
}

#[test]
fn figures_follow_the_mean_number_of_subscribers() {
    let (pairs, _) = checked(&[]);
    let (graph, text) = checked(&["workload.fan_out={distribution=\"constant\", mean=10}"]);
    // PUBLISH, a NOTIFY for each subscriber, one for the subscription to oneself, and their responses.
    assert_eq!((pairs.messages_per_arrival, graph.messages_per_arrival), (6, 2 * (1 + 10 + 1)));
    let (alone, _) = checked(&[
        "workload.fan_out={distribution=\"constant\", mean=2.25}",
        "workload.self_subscribe=false",
    ]);
    assert_eq!(alone.messages_per_arrival, 7, "6.5, rounded up");
    // Everybody publishes: twice as long between two publications of one user.
    assert_eq!((pairs.publishers, graph.publishers), (500, 1_000));
    assert_eq!((pairs.publication_gap_ns, graph.publication_gap_ns), (25_000_000_000, 50_000_000_000));
    assert_eq!((pairs.pairs_needed, graph.pairs_needed), (100, 50));
    assert_eq!((pairs.subscriptions, graph.subscriptions), (500, 10_000));
    // 1000 log-ons at 100/s, then subscriptions and first publications at 1000/s.
    assert_eq!((pairs.warmup_ns, graph.warmup_ns), (11_000_000_000, 21_000_000_000));
    // 20/s of 24 messages; each hour 1000 registrations of 2 and 11,000 subscriptions of 4 messages.
    assert_eq!(graph.steps[0].messages_per_s, 480 + (2_000 + 44_000) / 3_600);
    let samples: Vec<_> =
        graph.percentiles.iter().map(|p| (p.expr.as_str(), p.step.as_str(), p.samples)).collect();
    assert_eq!(
        samples,
        [
            ("publish_to_notify.p99 < 1s", "a", 20_000),
            ("notify_fanout_last.p99 < 1s", "a", 2_000),
            ("subscribe.p99 < 1s", "warmup", 10_000)
        ]
    );
    assert!(graph.memory > pairs.memory);
    assert!(text.contains(
        "contacts    constant with 10 subscribers of each user on average, at most 10; about 10000"
    ));
    assert!(text.contains("publishers  100 needed at 20/s"), "{text}");
}

#[test]
fn publications_that_nobody_replaces_in_time_are_refreshed() {
    let graph = "workload.fan_out={distribution=\"constant\", mean=10}";
    let load = |sets: &[&str]| checked(sets).0.steps[0].messages_per_s;
    // Each user publishes each 50 s, which is within 60 s and not within the 100 s of half the rate.
    assert_eq!(load(&[graph, "workload.expires=60s"]), 480 + 46_000 / 60);
    assert_eq!(load(&[graph, "workload.expires=60s", "step.a.rate=10/s"]), 240 + (46_000 + 2_000) / 60);
}

#[test]
fn too_small_shards_and_too_frequent_publications_are_warnings() {
    let warnings = |fan_out: &str, more: &[&str]| {
        let fan_out = format!("workload.fan_out={fan_out}");
        checked(&[&[fan_out.as_str()], more].concat()).0.warnings.join("\n")
    };
    let small = warnings("{distribution=\"zipf\", mean=12, max=500}", &[]);
    assert!(
        small.contains("workload.fan_out.max = 500") && small.contains("with 1 x 2 shards that is 500"),
        "{small}"
    );
    assert!(!warnings("{distribution=\"zipf\", mean=12, max=499}", &[]).contains("shards"));
    // 1000 publishers at 5 s each: the rule of RFC 3856 is about publishers, whoever they are.
    let fast = "{distribution=\"constant\", mean=3}";
    assert!(!warnings(fast, &["step.a.rate=200/s"]).contains("superseded"));
    let superseded = warnings(fast, &["step.a.rate=250/s"]);
    assert!(superseded.contains("each publisher publishes every 4.0 s"), "{superseded}");
    assert!(superseded.contains("Use count >= 1250 or a rate of at most 200/s"), "{superseded}");
}
