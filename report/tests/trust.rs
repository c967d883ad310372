//! Each reason not to believe a run: what gives it, what just does not, where
//! it points, and that its advice is something to do.

use adsum_report::manifest::{AgentInfo, PhaseInfo, StepInfo};
use adsum_report::raw::{Count, Interval, Series};
use adsum_report::trust::{Reason, TrustLimits, judge};
use adsum_report::{Base, Histogram, Manifest, Metric, Phase, Raw, explain, headroom};

const ORIGIN: i64 = 1_795_000_000;
const SECONDS: i64 = 100;

/// What is recorded besides a hundred clean seconds of two agents: second, agent, counter, label, value.
type More<'a> = &'a [(i64, &'a str, &'a str, &'a str, u64)];

fn run(trust: TrustLimits, more: More<'_>, lag_us: impl Fn(i64) -> u64) -> (Raw, Manifest) {
    let mut raw = Raw::default();
    for agent in ["a", "b"] {
        for second in 0..SECONDS {
            let count = |counter: &str, label: &str, value| Count {
                step: 1,
                phase: Phase::Hold,
                counter: counter.into(),
                label: label.into(),
                value,
            };
            let mut lag = Histogram::new();
            lag.record_n(lag_us(second), 50).unwrap();
            let (index, n) = lag.cells().next().unwrap();
            let mut counts = vec![count("offered", "", 50), count("sent", "", 50)];
            if !more.contains(&(second, agent, "interval", "lost", 0)) {
                counts.push(count("interval", "", 1));
            }
            if !more.iter().any(|m| (m.0, m.1, m.2) == (second, agent, "cpu_us")) {
                counts.extend([count("cpu_us", "shard-0", 230_000), count("cpu_us", "shard-1", 110_000)]);
            }
            let here = more.iter().filter(|m| (m.0, m.1) == (second, agent));
            counts.extend(here.map(|(_, _, counter, label, value)| count(counter, label, *value)));
            let interval = Interval {
                agent: agent.into(),
                site: "local".into(),
                incarnation: 1,
                number: second as u64,
                second: ORIGIN + second,
                series: vec![Series {
                    step: 1,
                    phase: Phase::Hold,
                    metric: Metric::SendLag,
                    base: Base::None,
                    deltas: vec![index],
                    counts: vec![n],
                }],
                counts,
                failures: vec![],
            };
            assert!(raw.absorb(&interval).unwrap());
        }
    }
    let phase = PhaseInfo { phase: Phase::Hold, from_s: 0.0, to_s: SECONDS as f64 };
    let agent = |name: &str| AgentInfo { name: name.into(), cores: 4, ..AgentInfo::default() };
    let manifest = Manifest {
        origin_unix_s: ORIGIN,
        steps: vec![StepInfo { step: 1, name: "peak".into(), phases: vec![phase], ..StepInfo::default() }],
        agents: vec![agent("a"), agent("b")],
        trust,
        ..Manifest::default()
    };
    (raw, manifest)
}

fn reasons(trust: TrustLimits, more: More<'_>) -> Vec<Reason> {
    let (raw, manifest) = run(trust, more, |_| 90);
    judge(&raw, &manifest)
}

fn lab() -> TrustLimits {
    TrustLimits::default()
}

fn ci() -> TrustLimits {
    TrustLimits { profile: "ci".into(), ..lab() }
}

/// The one reason there is.
fn one(trust: TrustLimits, more: More<'_>, reason: &str, measured: &str, place: &str) {
    let found = reasons(trust, more);
    assert_eq!(found.iter().map(|r| r.reason.as_str()).collect::<Vec<_>>(), [reason]);
    assert!(found[0].measured.contains(measured), "{found:?}");
    assert_eq!(found[0].place, place, "{found:?}");
    assert!(!found[0].limit.is_empty() && found[0].advice.len() > 20, "{found:?}");
    assert!(!explain::explain(reason).is_empty(), "`adsum explain {reason}` says nothing");
}

#[test]
fn a_clean_run_gives_no_reason_and_says_how_far_it_was_from_one() {
    assert_eq!(reasons(lab(), &[]), []);
    let (raw, manifest) = run(lab(), &[(7, "b", "cpu_us", "shard-1", 431_000)], |_| 90);
    let line = headroom::headroom(&raw, &manifest).line();
    assert_eq!(line.as_deref(), Some("headroom: shards at most 43 % busy; send lag p99 0.09 ms of 10.0 ms"));
    let derived = adsum_report::derived(&raw, &manifest);
    for name in ["summary.txt", "report.html"] {
        let (_, bytes) = derived.files.iter().find(|(file, _)| *file == name).unwrap();
        assert!(String::from_utf8_lossy(bytes).contains("shards at most 43 % busy"), "{name}");
    }
}

#[test]
fn single_counts_are_enough_for_what_may_not_happen_at_all() {
    for counter in ["rx_dropped", "overflow", "clock_step", "out_of_files", "out_of_ports"] {
        let place = "step 1 (peak), agent a: 2, agent b: 1";
        let more: More<'_> = &[(3, "a", counter, "", 1), (9, "a", counter, "", 1), (9, "b", counter, "", 1)];
        one(lab(), more, counter, "3", place);
        one(ci(), more, counter, "3", place);
    }
}

#[test]
fn one_shard_at_its_limit_is_seen_among_others_that_rest() {
    let busy = |us| [(5i64, "b", "cpu_us", "shard-0", 10_000), (5, "b", "cpu_us", "shard-1", us)];
    assert_eq!(reasons(lab(), &busy(900_000)), []);
    let place = "step 1 (peak), second 5, shard-1 of agent b";
    one(
        lab(),
        &busy(901_000),
        "shard_busy",
        "1 of 400 seconds of shards above the limit, at worst 90 %",
        place,
    );
    assert_eq!(reasons(ci(), &busy(975_000)), []);
    one(ci(), &busy(985_000), "shard_busy", "at worst 98 %", place);
    // A second that was closed late: no core has more than its whole.
    one(lab(), &busy(1_400_000), "shard_busy", "at worst 100 %", place);
    let off = TrustLimits { shard_busy: Some(1.0), ..lab() };
    assert_eq!(reasons(off, &busy(1_400_000)), []);
}

#[test]
fn steal_time_is_judged_for_each_host_by_its_cores() {
    // Four cores: 40 ms are one per cent of their second.
    let stolen =
        |us| [(5i64, "a", "steal_us", "", us), (6, "a", "steal_us", "", us), (7, "b", "steal_us", "", us)];
    assert_eq!(reasons(lab(), &stolen(40_000)), []);
    let place = "step 1 (peak), second 5, agent a";
    // One second in a hundred may: that is agent b's.
    one(lab(), &stolen(50_000), "steal", "in 2 of 100 seconds, at worst 1.2 % of 4 cores", place);
    assert_eq!(reasons(ci(), &stolen(50_000)), []);
    let narrow = TrustLimits { steal: Some(0.01), steal_seconds: Some(0.0), ..ci() };
    assert_eq!(reasons(narrow, &stolen(50_000)).len(), 2);
}

#[test]
fn it_is_the_longest_gap_that_counts_and_not_their_sum() {
    let gaps: Vec<_> = (0..8)
        .flat_map(|n| {
            [(n, "a", "loop_gap", "shard-0", 1), (n, "a", "loop_gap_ms", "shard-0", 260 + n as u64)]
        })
        .collect();
    let place = "step 1 (peak), second 7, shard-0 of agent a";
    one(lab(), &gaps, "loop_gap", "8 gaps, together 0.267 s in the worst second", place);
    assert_eq!(reasons(ci(), &gaps), [], "none of them is a second");
}

#[test]
fn only_what_the_engine_came_to_too_late_is_its_fault() {
    let more: More<'_> = &[(3, "a", "not_started", "", 900), (3, "a", "waited_publication", "", 900)];
    assert_eq!(reasons(lab(), more), []);
    let late = |n| [(3i64, "a", "not_started", "", 900), (3, "a", "not_started_late", "", n)];
    assert_eq!(reasons(lab(), &late(100)), []);
    one(lab(), &late(101), "not_started", "101 of 10000", "step 1 (peak), agent a: 101");
}

#[test]
fn too_few_users_and_missing_seconds() {
    assert_eq!(reasons(lab(), &[(3, "a", "waited_pair", "", 100)]), []);
    one(lab(), &[(3, "a", "waited_pair", "", 101)], "too_few_users", "1.01 %", "step 1 (peak)");
    one(
        lab(),
        &[(50, "b", "interval", "lost", 0)],
        "lost_interval",
        "agent b delivered 99 of 100 seconds",
        "step 1 (peak)",
    );
    let lost: Vec<_> = (90..100).map(|second| (second, "b", "interval", "lost", 0)).collect();
    let found = reasons(lab(), &lost);
    assert!(found.len() == 1 && found[0].reason == "lost_interval", "{found:?}");
    assert_eq!(found[0].measured, "agent b delivered 90 of 100 seconds");
}

#[test]
fn one_late_second_in_a_hundred_is_forgiven() {
    let late = |seconds: i64| {
        let (raw, manifest) = run(lab(), &[], |second| if second < seconds { 12_000 } else { 90 });
        judge(&raw, &manifest)
    };
    assert_eq!(late(1), []);
    let found = late(2);
    assert!(found.len() == 1 && found[0].reason == "send_lag", "{found:?}");
    assert!(found[0].measured.contains("in 2 of 100 seconds, at worst 12.0 ms"), "{found:?}");
}

/// So many sends at a second of the run, so late.
fn sent_late(raw: &mut Raw, second: i64, us: u64) {
    let mut lag = Histogram::new();
    lag.record_n(us, 50).unwrap();
    let (index, n) = lag.cells().next().unwrap();
    let late = Interval {
        agent: "a".into(),
        number: 1_000 + second as u64,
        second: ORIGIN + second,
        series: vec![Series {
            step: 1,
            phase: Phase::Hold,
            metric: Metric::SendLag,
            base: Base::None,
            deltas: vec![index],
            counts: vec![n],
        }],
        ..Interval::default()
    };
    assert!(raw.absorb(&late).unwrap());
}

#[test]
fn what_is_sent_behind_the_end_of_its_hold_is_the_latest_of_all() {
    let (mut raw, manifest) = run(lab(), &[], |_| 90);
    for second in [102, 103] {
        sent_late(&mut raw, second, 4_000_000);
    }
    let found = judge(&raw, &manifest);
    assert!(found.len() == 1 && found[0].reason == "send_lag", "{found:?}");
    assert!(found[0].measured.contains("in 2 of 100 seconds, at worst 4001"), "{found:?}");
}

#[test]
fn a_hold_of_less_than_a_second_is_judged_too() {
    let (raw, mut manifest) = run(lab(), &[], |second| if second == 3 { 12_000 } else { 90 });
    assert_eq!(judge(&raw, &manifest), [], "one second in a hundred");
    manifest.steps[0].phases[0] = PhaseInfo { phase: Phase::Hold, from_s: 3.0, to_s: 3.5 };
    let found = judge(&raw, &manifest);
    assert!(found.iter().any(|r| r.reason == "send_lag"), "{found:?}");
}

#[test]
fn a_bound_on_the_send_lag_is_no_latency_that_it_could_be_a_part_of() {
    let rule =
        |expr: &str| adsum_report::threshold::ThresholdRule { expr: expr.into(), ..Default::default() };
    let (_, mut manifest) = run(lab(), &[], |_| 90);
    for (expr, limit) in
        [("send_lag.max < 2ms", 0.010), ("send_lag.p99 < 2ms", 0.010), ("publish.max < 100ms", 0.005)]
    {
        manifest.thresholds = vec![rule(expr)];
        assert!((manifest.trust.lag_limit_s(&manifest) - limit).abs() < 1e-9, "{expr}");
    }
}
