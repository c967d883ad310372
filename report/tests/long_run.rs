//! The end of a long run: what it costs, and that sums kept on the way are
//! those that a look at every second gives.

use std::time::Instant;

use adsum_report::manifest::{AgentInfo, PhaseInfo, StepInfo};
use adsum_report::raw::{Count, Interval, Series};
use adsum_report::{Histogram, Manifest, Metric, Phase, Raw, files, threshold};

const ORIGIN: i64 = 1_795_000_000;
const AGENTS: [(&str, &str); 2] = [("fra-1", "fra"), ("syd-1", "syd")];
const STEPS: u32 = 3;

/// Forty counters of a second, and eight series.
const COUNTERS: [(&str, &str); 20] = [
    ("offered", ""),
    ("sent", ""),
    ("publish_ok", ""),
    ("expected", ""),
    ("delivered", ""),
    ("interval", ""),
    ("cpu_us", "shard-0"),
    ("cpu_us", "shard-1"),
    ("steal_us", ""),
    ("missed", ""),
    ("missed_due", ""),
    ("censored", "publish_to_notify"),
    ("waited_publication", ""),
    ("retransmit_sent", "PUBLISH"),
    ("duplicate", ""),
    ("late", ""),
    ("second_opinion", "agree"),
    ("rx_unstamped", ""),
    ("refresh", "REGISTER"),
    ("refresh", "SUBSCRIBE"),
];

fn interval(at: (&str, &str), step: u32, second: i64) -> Interval {
    let count = |counter: &str, label: &str, value| Count {
        step,
        phase: Phase::Hold,
        counter: counter.to_owned(),
        label: label.to_owned(),
        value,
    };
    let mut counts: Vec<Count> = COUNTERS
        .iter()
        .enumerate()
        .map(|(n, (counter, label))| {
            count(counter, label, if n < 9 { 100 } else { (second as u64 + n as u64) % 2 })
        })
        .collect();
    for number in 0..20 {
        counts.push(count("sip_received", &format!("REGISTER {}", 200 + number), 1));
    }
    let series = [Metric::Register, Metric::Publish, Metric::PublishToNotify, Metric::SendLag]
        .into_iter()
        .flat_map(|metric| metric.bases().iter().map(move |base| (metric, *base)))
        .map(|(metric, base)| {
            let mut histogram = Histogram::new();
            for n in 0..10u64 {
                histogram.record_n(50 + n * (7 + second as u64 % 5), 10).unwrap();
            }
            let mut before = 0;
            let (mut deltas, mut counts) = (Vec::new(), Vec::new());
            for (index, n) in histogram.cells() {
                deltas.push(index - before);
                before = index;
                counts.push(n);
            }
            Series { step, phase: Phase::Hold, metric, base, deltas, counts }
        })
        .collect();
    Interval {
        agent: at.0.into(),
        site: at.1.into(),
        incarnation: 1,
        number: second as u64,
        second: ORIGIN + second,
        series,
        counts,
        failures: Vec::new(),
    }
}

/// A run of three steps with so many seconds each.
fn run(seconds: i64) -> (Raw, Manifest) {
    let mut raw = Raw::default();
    let mut steps = Vec::new();
    for step in 1..=STEPS {
        let from = i64::from(step - 1) * seconds;
        for second in from..from + seconds {
            for at in AGENTS {
                assert!(raw.absorb(&interval(at, step, second)).unwrap());
            }
        }
        let phase = PhaseInfo { phase: Phase::Hold, from_s: from as f64, to_s: (from + seconds) as f64 };
        steps.push(StepInfo {
            step,
            name: format!("step-{step}"),
            phases: vec![phase],
            ..StepInfo::default()
        });
    }
    let agent = |(name, site): (&str, &str)| AgentInfo {
        name: name.into(),
        site: site.into(),
        cores: 2,
        ..AgentInfo::default()
    };
    let manifest = Manifest {
        run_id: "01M0000000000000000000000".into(),
        kind: "held".into(),
        deadline_s: 25.0,
        origin_unix_s: ORIGIN,
        ended_unix_s: ORIGIN + i64::from(STEPS) * seconds,
        steps,
        agents: AGENTS.map(agent).to_vec(),
        thresholds: threshold::defaults(true),
        percentiles: vec![0.5, 0.9, 0.99, 0.999],
        ..Manifest::default()
    };
    (raw, manifest)
}

/// `cargo test -p adsum-report --test long_run -- --ignored --nocapture`; SECONDS of each step, 3,600 unless given.
#[test]
#[ignore = "a measurement"]
fn what_the_end_of_a_long_run_costs() {
    let seconds = std::env::var("SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3_600);
    let begin = Instant::now();
    let (raw, manifest) = run(seconds);
    println!("added {} s x {STEPS} steps in {:.2?}", seconds, begin.elapsed());
    let begin = Instant::now();
    let derived = adsum_report::derived(&raw, &manifest);
    println!("derived in {:.2?}", begin.elapsed());
    let begin = Instant::now();
    for _ in 0..10 {
        assert_eq!(raw.total(1, Phase::Hold, None, "offered", None), seconds as u64 * 200);
    }
    println!("ten totals in {:.2?}", begin.elapsed());
    for (name, bytes) in &derived.files {
        println!("{} {name}", files::sha256(bytes));
    }
}

/// What a look at every second gives.
fn added(
    raw: &Raw,
    step: u32,
    site: Option<&str>,
    agent: Option<&str>,
    counter: &str,
    label: Option<&str>,
) -> u64 {
    let rows = raw.timeline().iter().filter(|((_, s, p, at, who, c, l), _)| {
        (*s, *p, c.as_str()) == (step, Phase::Hold, counter)
            && site.is_none_or(|site| site == at)
            && agent.is_none_or(|agent| agent == who)
            && label.is_none_or(|label| label == l)
    });
    rows.map(|(_, value)| value).sum()
}

#[test]
fn sums_on_the_way_are_those_of_all_seconds() {
    let (raw, _) = run(7);
    for step in 0..=STEPS + 1 {
        for (counter, label) in COUNTERS.into_iter().chain([("sip_received", "REGISTER 200"), ("sen", "")]) {
            for label in [None, Some(label), Some("REGISTER"), Some("")] {
                for site in [None, Some("fra"), Some("syd"), Some("fr")] {
                    assert_eq!(
                        raw.total(step, Phase::Hold, site, counter, label),
                        added(&raw, step, site, None, counter, label),
                        "{step} {site:?} {counter} {label:?}"
                    );
                }
                for (agent, _) in AGENTS {
                    assert_eq!(
                        raw.total_of_agent(step, Phase::Hold, agent, counter, label),
                        added(&raw, step, None, Some(agent), counter, label)
                    );
                }
            }
            assert_eq!(raw.total(step, Phase::Warmup, None, counter, None), 0);
        }
    }
    assert_eq!(raw.total(2, Phase::Hold, None, "offered", None), 7 * 200);
}
