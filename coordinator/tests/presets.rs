//! The presets do what their comments say: rates, contacts and figures of the plan.

use std::path::Path;

use adsum_coordinator::plan::check::{Check, check, text};
use adsum_coordinator::scenario::{Options, Scenario, presets, read};
use adsum_coordinator::users::of_scenario;

/// Four publications an hour are one each 900 s, six one each 600 s.
const AVERAGE_S: u64 = 900;
const BUSIEST_S: u64 = 600;

fn planned(preset: &str, sets: &[&str]) -> (Scenario, Check) {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let text = presets::preset(preset).unwrap().text;
    let document = read(preset, text, Options { sets: &sets, env: &|_| None })
        .unwrap_or_else(|problems| panic!("{}", problems.lines()));
    let users = of_scenario(&document.scenario, b"", b"").unwrap();
    let check = check(&document.scenario, &users, 1, 2);
    (document.scenario, check)
}

/// The rate at which each of so many users does something once in so many seconds, in mHz.
fn each(users: u64, seconds: u64) -> u64 {
    assert_eq!(users * 1_000 % seconds, 0, "no whole number of mHz");
    users * 1_000 / seconds
}

fn rates(scenario: &Scenario) -> Vec<(&str, u64)> {
    scenario.steps.iter().map(|step| (step.name.as_str(), step.rate_mhz)).collect()
}

#[test]
fn the_vendor_model_has_4_to_6_publications_an_hour_and_50_to_80_contacts() {
    let (scenario, check) = planned("vendor-model", &[]);
    let users = check.pairs * 2;
    assert_eq!(rates(&scenario), [("average", each(users, AVERAGE_S)), ("busiest", each(users, BUSIEST_S))]);
    let fan_out = scenario.workload.fan_out.unwrap();
    assert_eq!((2 * fan_out.mean_milli / 1_000 - u64::from(fan_out.max), fan_out.max), (50, 80));
    assert_eq!(check.publication_gap_ns, BUSIEST_S * 1_000_000_000);
    assert_eq!(check.warnings, [""; 0]);
}

#[test]
fn the_log_on_storm_logs_everybody_on_in_two_minutes_and_subscribes_in_two_more() {
    let (scenario, check) = planned("logon-storm", &[]);
    let users = check.pairs * 2;
    assert_eq!(check.subscriptions, users * 40);
    assert_eq!(scenario.warmup.register_rate_mhz, each(users, 120));
    assert_eq!(scenario.warmup.subscribe_rate_mhz, each(check.subscriptions, 120));
    assert_eq!(rates(&scenario), [("after", each(users, AVERAGE_S))]);
    let judged: Vec<_> =
        check.percentiles.iter().map(|p| (p.step.as_str(), p.samples, p.is_shown())).collect();
    assert_eq!(judged, [("warmup", users, true), ("warmup", users * 40, true)]);
    assert_eq!(check.warnings, [""; 0]);
}

#[test]
fn in_the_presence_storm_everybody_publishes_once_within_a_minute() {
    let (scenario, check) = planned("presence-storm", &[]);
    let users = check.pairs * 2;
    let calm = each(users, AVERAGE_S);
    assert_eq!(rates(&scenario), [("calm", calm), ("storm", each(users, 60)), ("after", calm)]);
    assert_eq!(check.steps[1].hold_arrivals, users);
    assert_eq!(check.steps[1].ramp_arrivals, 0);
    assert!(check.percentiles.iter().all(|percentile| percentile.is_shown()));
    assert_eq!(check.percentiles.iter().map(|p| p.samples).collect::<Vec<_>>(), [users * 50, users]);
    assert_eq!(check.warnings, [""; 0]);
}

#[test]
fn in_the_soak_everything_is_refreshed_and_that_is_most_of_the_load() {
    let (scenario, check) = planned("soak", &[]);
    let users = check.pairs * 2;
    assert_eq!(rates(&scenario), [("soak", each(users, AVERAGE_S))]);
    let lifetime = u64::from(scenario.workload.expires_s);
    assert!(check.total_ns > 100 * lifetime * 1_000_000_000);
    assert!(check.publication_gap_ns > lifetime * 1_000_000_000, "publications are refreshed, too");
    let published = scenario.steps[0].rate_mhz * check.messages_per_arrival / 1_000;
    assert!(
        check.steps[0].messages_per_s > 5 * published,
        "{published} of {}",
        check.steps[0].messages_per_s
    );
    assert!(check.percentiles.iter().all(|percentile| percentile.is_shown()));
    assert_eq!(check.warnings.len(), 1, "{:?}", check.warnings);
    assert!(check.warnings[0].contains("the run outlasts expires = 5m: refreshes are part of its load"));
}

#[test]
fn each_can_be_tried_in_small_on_the_embedded_pool() {
    for preset in ["vendor-model", "logon-storm", "presence-storm", "soak"] {
        // The line in its comment that says how.
        let text = presets::preset(preset).unwrap().text;
        let line = text
            .lines()
            .find(|line| line.contains("--target embedded"))
            .unwrap_or_else(|| panic!("{preset}"));
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |word: &str| *words.iter().skip_while(|w| **w != word).nth(1).unwrap();
        let mut sets = vec![
            format!("pool.target={}", after("--target")),
            format!("users.count={}", after("--users")),
            format!("step.*.rate={}", after("--rate")),
            format!("step.*.hold={}", after("--hold")),
        ];
        sets.extend(words.iter().skip_while(|word| **word != "--set").skip(1).map(|set| (*set).to_owned()));
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let (_, check) = planned(preset, &sets);
        assert!(check.percentiles.iter().all(|p| p.is_shown()), "{preset}: {:?}", check.percentiles);
        assert!(check.total_ns < 300 * 1_000_000_000, "{preset} takes {} ns", check.total_ns);
        assert!(
            !check.warnings.iter().any(|w| w.contains("shards") || w.contains("superseded")),
            "{:?}",
            check.warnings
        );
    }
}

#[test]
fn their_plans_are_as_they_were_agreed() {
    for preset in ["vendor-model", "logon-storm", "presence-storm", "soak"] {
        let (scenario, check) = planned(preset, &[]);
        let found = text(&scenario, &check);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/check/{preset}.txt"));
        if std::env::var_os("ADSUM_BLESS").is_some() {
            std::fs::write(&golden, &found).unwrap();
        }
        assert_eq!(found, std::fs::read_to_string(&golden).unwrap(), "{preset}");
    }
}
