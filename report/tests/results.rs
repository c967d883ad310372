//! A results directory: the same bytes again from its raw files, other bytes
//! from other data, and found out when somebody changed it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use adsum_report::manifest::{AgentInfo, PhaseInfo, StepInfo};
use adsum_report::raw::{Count, Failure, Interval, Series};
use adsum_report::threshold::{Judged, ThresholdRule};
use adsum_report::{Base, Class, Histogram, Manifest, Metric, Phase, Raw, files, threshold, verify};

const ORIGIN: i64 = 1_795_000_000;

fn series(metric: Metric, base: Base, values: &[u64]) -> Series {
    let mut histogram = Histogram::new();
    values.iter().for_each(|us| histogram.record_n(*us, 1).unwrap());
    let mut before = 0;
    let (mut deltas, mut counts) = (Vec::new(), Vec::new());
    for (index, n) in histogram.cells() {
        deltas.push(index - before);
        before = index;
        counts.push(n);
    }
    Series { step: 1, phase: Phase::Hold, metric, base, deltas, counts }
}

fn interval(site: &str, second: i64) -> Interval {
    let count = |counter: &str, label: &str, value| Count {
        step: 1,
        phase: Phase::Hold,
        counter: counter.into(),
        label: label.into(),
        value,
    };
    let values: Vec<u64> = (0..20).map(|n| 1_000 + n * 37 + second as u64).collect();
    Interval {
        agent: format!("agent-{site}"),
        site: site.into(),
        incarnation: 1,
        number: second as u64,
        second: ORIGIN + second,
        series: vec![
            series(Metric::PublishToNotify, Base::Scheduled, &values),
            series(Metric::PublishToNotify, Base::Sent, &values),
            series(Metric::SendLag, Base::None, &[20; 20]),
        ],
        counts: vec![
            count("offered", "", 21),
            count("sent", "", 21),
            count("publish_ok", "", 21),
            count("expected", "", 21),
            count("delivered", "", 20),
            count("missed", "", 1),
            count("missed_due", "", 1),
            count("censored", "publish_to_notify", 1),
            count("sip_sent", "PUBLISH", 21),
            count("interval", "", 1),
        ],
        failures: vec![Failure {
            step: 1,
            phase: Phase::Hold,
            activity: "notify".into(),
            class: Class::Pool,
            code: "timeout:notify".into(),
            reason: "no NOTIFY, \"quoted\"".into(),
            diagnosis: "look, there".into(),
            count: 1,
            first_unix_ns: (ORIGIN + second) * 1_000_000_000,
            last_unix_ns: (ORIGIN + second) * 1_000_000_000,
            transcript: Some("sent\nreceived\n".into()),
        }],
    }
}

fn run(sites: &[&str]) -> (Raw, Manifest) {
    let mut raw = Raw::default();
    for site in sites {
        for second in 0..10 {
            assert!(raw.absorb(&interval(site, second)).unwrap());
        }
    }
    let phase = PhaseInfo { phase: Phase::Hold, from_s: 0.0, to_s: 10.0 };
    let manifest = Manifest {
        run_id: "01M0000000000000000000000".into(),
        scenario: "made-up".into(),
        kind: "held".into(),
        deadline_s: 25.0,
        origin_unix_s: ORIGIN,
        ended_unix_s: ORIGIN + 10,
        users: 4,
        steps: vec![StepInfo {
            step: 1,
            name: "a, b".into(),
            rate_hz: 21.0,
            gate: true,
            phases: vec![phase],
        }],
        agents: sites
            .iter()
            .map(|site| AgentInfo {
                name: format!("agent-{site}"),
                site: (*site).into(),
                ..AgentInfo::default()
            })
            .collect(),
        thresholds: threshold::defaults(false),
        percentiles: vec![0.5, 0.9, 0.99],
        ..Manifest::default()
    };
    (raw, manifest)
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect()
}

#[test]
fn derived_files_come_again_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let (mut raw, mut manifest) = run(&["fra", "syd"]);
    let derived = adsum_report::write(dir.path(), &mut raw, &mut manifest).unwrap();
    assert_eq!((derived.verdict.word, derived.verdict.exit_code), ("failed", 10));
    let before = contents(dir.path());
    for (name, _) in &derived.files {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    adsum_report::rederive(dir.path()).unwrap();
    assert_eq!(contents(dir.path()), before);
    assert_eq!(verify::verify(dir.path()).unwrap(), []);
    let (read, _) = files::read_raw(dir.path()).unwrap();
    assert_eq!((&read.seconds, &read.agents, read.timeline()), (&raw.seconds, &raw.agents, raw.timeline()));
}

#[test]
fn the_warm_up_is_judged_by_whoever_names_it_and_by_nobody_else() {
    let (mut raw, mut manifest) = run(&["fra"]);
    let log_on = Interval {
        number: 10,
        second: ORIGIN - 1,
        series: vec![Series {
            step: 0,
            phase: Phase::Warmup,
            ..series(Metric::Register, Base::Scheduled, &[2_000; 40])
        }],
        counts: Vec::new(),
        failures: Vec::new(),
        ..interval("fra", 0)
    };
    assert!(raw.absorb(&log_on).unwrap());
    let phase = PhaseInfo { phase: Phase::Warmup, from_s: -1.0, to_s: 0.0 };
    manifest.steps.insert(0, StepInfo { name: "warmup".into(), phases: vec![phase], ..StepInfo::default() });
    let rule = |expr: &str, step: &str| ThresholdRule {
        expr: expr.into(),
        step: step.into(),
        ..ThresholdRule::default()
    };
    manifest.thresholds = vec![
        rule("register.p50 < 1ms", "warmup"),
        rule("register.p50 < 3ms", "warmup"),
        rule("missed.ratio < 50%", ""),
    ];
    let dir = tempfile::tempdir().unwrap();
    let verdict = adsum_report::write(dir.path(), &mut raw, &mut manifest).unwrap().verdict;
    let found: Vec<_> =
        verdict.judgements.iter().map(|j| (j.step_name.as_str(), j.samples, j.judged)).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(matches!(found[0], ("warmup", 40, Judged::Broken(Some(_)))), "{found:?}");
    assert!(matches!(found[1], ("warmup", 40, Judged::Holds(_))), "{found:?}");
    assert!(matches!(found[2], ("a, b", _, Judged::Holds(_))), "{found:?}");
    assert!(verdict.codes.contains(&10));
}

#[test]
fn without_a_site_they_are_others() {
    let dir = tempfile::tempdir().unwrap();
    let (mut raw, mut manifest) = run(&["fra", "syd"]);
    adsum_report::write(dir.path(), &mut raw, &mut manifest).unwrap();
    let before = contents(dir.path());
    for (file, mark) in [("run.hlog", "|syd"), ("timeline.csv", ",syd,"), ("failures.csv", ",syd,")] {
        let text = fs::read_to_string(dir.path().join(file)).unwrap();
        let kept: String = text.split_inclusive('\n').filter(|line| !line.contains(mark)).collect();
        assert_ne!(kept, text, "{file}");
        fs::write(dir.path().join(file), kept).unwrap();
    }
    adsum_report::rederive(dir.path()).unwrap();
    let after = contents(dir.path());
    for name in ["steps.csv", "percentiles.csv", "intervals.csv", "counters.csv", "agents.csv"] {
        assert_ne!(after[name], before[name], "{name}");
    }
}

#[test]
fn a_changed_number_is_found() {
    for (file, from, to) in [
        ("timeline.csv", ",delivered,,20", ",delivered,,21"),
        ("counters.csv", ",delivered,,400", ",delivered,,399"),
        ("percentiles.csv", ",0.5,", ",0.50,"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (mut raw, mut manifest) = run(&["fra", "syd"]);
        adsum_report::write(dir.path(), &mut raw, &mut manifest).unwrap();
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let found = verify::verify(dir.path()).unwrap();
        assert!(found.iter().any(|one| one.file == file), "{file}: {found:?}");
    }
}

#[test]
fn a_line_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (mut raw, mut manifest) = run(&["fra"]);
    adsum_report::write(dir.path(), &mut raw, &mut manifest).unwrap();
    let path = dir.path().join("timeline.csv");
    let text = fs::read_to_string(&path).unwrap().replacen(",hold,", ",hodl,", 1);
    fs::write(&path, text).unwrap();
    let error = files::read_raw(dir.path()).unwrap_err().to_string();
    assert_eq!(error, "timeline.csv, line 2: phase cannot be read");
}

#[test]
fn only_results_of_ours_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("precious.txt"), "x").unwrap();
    assert!(files::prepare(dir.path(), false).is_err() && files::prepare(dir.path(), true).is_err());
    let inner = dir.path().join("inner");
    files::prepare(&inner, false).unwrap();
    let (mut raw, mut manifest) = run(&["fra"]);
    adsum_report::write(&inner, &mut raw, &mut manifest).unwrap();
    assert!(files::prepare(&inner, false).is_err());
    files::prepare(&inner, true).unwrap();
    assert!(fs::read_dir(&inner).unwrap().next().is_none());
}

/// A row of a CSV file by the cells that it has to have.
fn row(files: &[(&'static str, Vec<u8>)], file: &str, cells: &[(&str, &str)]) -> BTreeMap<String, String> {
    let (_, bytes) = files.iter().find(|(name, _)| *name == file).unwrap();
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let rows: Vec<BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    let found: Vec<_> =
        rows.iter().filter(|row| cells.iter().all(|(name, cell)| row[*name] == *cell)).collect();
    assert_eq!(found.len(), 1, "{file} {cells:?}");
    found[0].clone()
}

fn text(files: &[(&'static str, Vec<u8>)], file: &str) -> String {
    let (_, bytes) = files.iter().find(|(name, _)| *name == file).unwrap();
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_never_came_lies_beyond_the_limit_of_its_own_metric() {
    let (mut raw, mut manifest) = run(&["fra"]);
    let censored = |metric: &str| Count {
        step: 1,
        phase: Phase::Hold,
        counter: "censored".into(),
        label: metric.into(),
        value: 1_200,
    };
    let silent = Interval {
        number: 10,
        series: vec![
            series(Metric::Register, Base::Scheduled, &[2_000; 40]),
            series(Metric::Workflow, Base::Scheduled, &[2_000; 40]),
        ],
        counts: ["register", "workflow", "publish_to_notify"].map(censored).to_vec(),
        failures: Vec::new(),
        ..interval("fra", 9)
    };
    assert!(raw.absorb(&silent).unwrap());
    let rule = |expr: &str| ThresholdRule { expr: expr.into(), ..ThresholdRule::default() };
    manifest.thresholds =
        ["register.p99 < 1s", "workflow.p99 < 1s", "publish_to_notify.p99 < 1s", "register.p99 > 1s"]
            .map(rule)
            .to_vec();
    let files = adsum_report::derived(&raw, &manifest).files;
    for (metric, value) in
        [("register", "32.000000"), ("workflow", "inf"), ("publish_to_notify", "25.000000")]
    {
        let of = [("site", "all"), ("metric", metric), ("base", "scheduled"), ("quantile", "0.99")];
        let percentile = row(&files, "percentiles.csv", &of);
        assert_eq!((percentile["value_s"].as_str(), percentile["relation"].as_str()), (value, "gt"));
        let expr = format!("{metric}.p99 < 1s");
        let judged = row(&files, "thresholds.csv", &[("expr", &expr)]);
        assert_eq!((judged["value"].as_str(), judged["relation"].as_str()), (value, "gt"), "{expr}");
        assert_eq!(judged["passed"], "false");
    }
    let beyond = row(&files, "thresholds.csv", &[("expr", "register.p99 > 1s")]);
    assert_eq!((beyond["value"].as_str(), beyond["passed"].as_str()), ("32.000000", "true"));
    let summary = text(&files, "summary.txt");
    let line = |start: &str| summary.lines().find(|line| line.contains(start)).unwrap().to_owned();
    assert!(line("register.p99 < 1s").contains("> 32 s"), "{summary}");
    assert!(line("workflow.p99 < 1s").contains("never"), "{summary}");
    assert!(line("publish_to_notify.p99 < 1s").contains("> 25 s"), "{summary}");
    assert!(text(&files, "report.html").contains("<td>&gt; 32 s</td>"));
}

#[test]
fn files_that_claim_too_much_or_the_same_twice_are_refused_with_their_line() {
    let far = i64::MAX.to_string();
    for (file, from, to, message) in [
        ("timeline.csv", ",0,1,", format!(",{far},1,"), "line 2: t_s cannot be read"),
        ("timeline.csv", ",offered,,21", format!(",offered,,{}", u64::MAX), "the counts exceed"),
        ("timeline.csv", ",offered,,21", ",sent,,21".into(), "once more"),
        ("run.hlog", ",0.000,1.000", format!(",{far}.000,1.000"), "a start beyond all years"),
        ("run.hlog", ",1.000,1.000", ",0.000,1.000".into(), "a second histogram of the same tag and time"),
        ("run.hlog", ",0.000,1.000", ",NaN,1.000".into(), "a start that is no number"),
        ("failures.csv", "2026-11-18T", "922337203685477-11-18T".into(), "first_time cannot be read"),
        (
            "failures.csv",
            "\"look, there\",10,",
            format!("\"look, there\",{},", u64::MAX),
            "the counts exceed",
        ),
        (
            "manifest.json",
            "\"origin_unix_s\": 1795000000",
            format!("\"origin_unix_s\": {far}"),
            "none of this calendar",
        ),
        ("manifest.json", "\"to_s\": 10.0", "\"to_s\": 1e300".into(), "none of this calendar"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (mut raw, mut manifest) = run(&["fra"]);
        adsum_report::write(dir.path(), &mut raw, &mut manifest).unwrap();
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}: {}", text.get(..600).unwrap_or(&text));
        fs::write(&path, text.replacen(from, &to, 1)).unwrap();
        let error = files::read_raw(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with(file) && error.contains(message), "{file} {to}: {error}");
    }
}

#[test]
fn what_the_hashes_no_longer_protect_is_found_by_its_contents() {
    type Change = fn(&str) -> String;
    let drop_line = |text: &str, mark: &str| -> String {
        let at = text.find(mark).unwrap();
        let (from, to) = (text[..at].rfind('\n').unwrap() + 1, at + text[at..].find('\n').unwrap() + 1);
        format!("{}{}", &text[..from], &text[to..])
    };
    let cases: [(&str, Change, &str); 6] = [
        (
            "run.hlog",
            |t| t.replacen("Tag=send_lag||1|hold|fra|agent-fra", "Tag=connect|sent|1|hold|fra|agent-fra", 1),
            "the sum of its seconds",
        ),
        (
            "timeline.csv",
            |t| t.replacen(",censored,publish_to_notify,1", ",censored,publish_to_notify,2", 1),
            "censored(publish_to_notify) = missed",
        ),
        (
            "manifest.json",
            |t| t.replacen("\"verdict\": \"failed\"", "\"verdict\": \"passed\"", 1),
            "manifest.json: verdict",
        ),
        (
            "manifest.json",
            |t| t.replacen("\"exit_code\": 10", "\"exit_code\": 0", 1),
            "manifest.json: exit_code",
        ),
        ("manifest.json", |t| t.replacen("\"run.hlog\":", "\"ran.hlog\":", 1), "no SHA-256 of run.hlog"),
        ("summary.txt", |t| t.replacen("10", "11", 1), "summary.txt"),
    ];
    for (file, change, what) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (mut raw, mut manifest) = run(&["fra"]);
        adsum_report::write(dir.path(), &mut raw, &mut manifest).unwrap();
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        let changed = change(&text);
        assert_ne!(changed, text, "{what}");
        fs::write(&path, changed).unwrap();
        if file != "summary.txt" {
            // Somebody who changes a number also writes what is derived from it, and its hash.
            adsum_report::rederive(dir.path()).unwrap();
            let manifest = fs::read_to_string(dir.path().join("manifest.json")).unwrap();
            if file != "manifest.json" {
                let hash = files::sha256(text.as_bytes());
                let now = files::sha256(&fs::read(&path).unwrap());
                fs::write(dir.path().join("manifest.json"), manifest.replace(&hash, &now)).unwrap();
            }
        }
        let found = verify::verify(dir.path()).unwrap();
        assert!(found.iter().any(|one| one.to_string().contains(what)), "{what}: {found:?}");
    }
    // A second that is not there any more.
    let dir = tempfile::tempdir().unwrap();
    let (mut raw, mut manifest) = run(&["fra"]);
    adsum_report::write(dir.path(), &mut raw, &mut manifest).unwrap();
    let path = dir.path().join("run.hlog");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, drop_line(&text, ",3.000,1.000,")).unwrap();
    let found = verify::verify(dir.path()).unwrap();
    assert!(found.iter().any(|one| one.place.contains("the sum of its seconds")), "{found:?}");
}

#[test]
fn what_nobody_can_judge_is_no_pass() {
    type Change = fn(&mut Manifest);
    let rule = |expr: &str, site: &str| ThresholdRule {
        expr: expr.into(),
        site: site.into(),
        ..ThresholdRule::default()
    };
    let cases: [(&str, &str, Change, &str, &str, u8); 6] = [
        ("publish.count == 0", "fra", |_| {}, "passed", "", 0),
        // Where nobody is, nothing is lost.
        ("publish.count == 0", "frankfurt", |_| {}, "untrustworthy", "not_judged", 12),
        ("publish.count ~ 0", "", |_| {}, "untrustworthy", "not_judged", 12),
        (
            "publish.count == 0",
            "",
            |m| m.events.internal = "interval 3 of a: phase `x`".into(),
            "untrustworthy",
            "internal_error",
            1,
        ),
        (
            "publish.count == 0",
            "",
            |m| (m.events.signal, m.events.interrupted) = (130, true),
            "untrustworthy",
            "interrupted",
            130,
        ),
        // Ended by its own rules, or by a signal when all was done: nothing else is wrong with it.
        (
            "publish.count == 0",
            "",
            |m| (m.events.interrupted, m.events.stopped_by) = (true, "x".into()),
            "failed",
            "",
            14,
        ),
    ];
    for (expr, site, change, word, reason, code) in cases {
        let (raw, mut manifest) = run(&["fra", "syd"]);
        manifest.thresholds = vec![rule(expr, site)];
        change(&mut manifest);
        let verdict = adsum_report::derived(&raw, &manifest).verdict;
        let reasons: Vec<_> = verdict.reasons.iter().map(|r| r.reason.as_str()).collect();
        assert_eq!((verdict.word, verdict.exit_code), (word, code), "{expr} {site}: {reasons:?}");
        assert_eq!(reasons.join(" "), reason);
        for reason in &verdict.reasons {
            assert!(!adsum_report::explain::explain(&reason.reason).is_empty(), "{reason:?}");
            assert!(!reason.place.is_empty() && reason.advice.len() > 20, "{reason:?}");
        }
    }
}

#[test]
fn a_second_behind_the_hold_breaks_a_threshold_if_its_own_data_do() {
    let (mut raw, mut manifest) = run(&["fra"]);
    let late = Interval {
        number: 10,
        second: ORIGIN + 14,
        series: vec![series(Metric::PublishToNotify, Base::Scheduled, &[5_000_000; 20])],
        counts: Vec::new(),
        failures: Vec::new(),
        ..interval("fra", 9)
    };
    assert!(raw.absorb(&late).unwrap());
    manifest.thresholds =
        vec![ThresholdRule { expr: "publish_to_notify.p95 < 1s".into(), ..ThresholdRule::default() }];
    let files = adsum_report::derived(&raw, &manifest).files;
    let judged = row(&files, "thresholds.csv", &[]);
    let cells = ["passed", "broken_s", "first_broken_t_s"].map(|name| judged[name].as_str());
    assert_eq!(cells, ["false", "1", "14"]);
}

#[test]
fn how_long_everybody_took_to_log_on_and_to_come_back_stands_in_the_summary() {
    let (mut raw, mut manifest) = run(&["fra"]);
    manifest.users = 400;
    let phase = PhaseInfo { phase: Phase::Warmup, from_s: 0.0, to_s: 9.0 };
    manifest.steps.insert(0, StepInfo { name: "warmup".into(), phases: vec![phase], ..StepInfo::default() });
    // 400 users in five seconds, the last four of them two seconds later; 800 subscriptions after that.
    let log_on =
        [(0, 100, 0), (1, 100, 0), (2, 100, 0), (3, 50, 0), (4, 46, 0), (6, 3, 0), (7, 1, 600), (8, 0, 200)];
    for (second, registered, subscribed) in log_on {
        let of = |metric, n: usize| Series {
            step: 0,
            phase: Phase::Warmup,
            ..series(metric, Base::Scheduled, &vec![2_000; n])
        };
        let interval = Interval {
            number: 100 + second,
            second: ORIGIN + second as i64,
            series: [of(Metric::Register, registered), of(Metric::SubscribeToNotify, subscribed)]
                .into_iter()
                .filter(|s| !s.counts.is_empty())
                .collect(),
            counts: Vec::new(),
            failures: Vec::new(),
            ..interval("fra", 0)
        };
        assert!(raw.absorb(&interval).unwrap());
    }
    // 1,497 came back, 3 never.
    let lost =
        Count { step: 1, phase: Phase::Hold, counter: "censored".into(), label: "recovery".into(), value: 3 };
    let back: Vec<u64> = (1..=1_497).map(|n| n * 1_000).collect();
    let outage = Interval {
        number: 200,
        series: vec![series(Metric::Recovery, Base::Scheduled, &back)],
        counts: vec![lost],
        failures: Vec::new(),
        ..interval("fra", 9)
    };
    assert!(raw.absorb(&outage).unwrap());
    let files = adsum_report::derived(&raw, &manifest).files;
    let summary = text(&files, "summary.txt");
    for line in [
        "  log-on   99 % of 400 users registered after 5 s\n",
        "  log-on   99 % of 800 subscriptions shown their first state after 9 s\n",
        "  recovery 99 % of 1500 losses were mended after 1.49 s, the last after 1.50 s, 3 never (step 1 a, b)\n",
    ] {
        assert!(summary.contains(line), "{line} in {summary}");
        assert!(text(&files, "report.html").contains(line.trim()), "{line}");
    }
    let json: serde_json::Value = serde_json::from_str(&text(&files, "summary.json")).unwrap();
    assert_eq!(json["log_on"]["register"]["reached_99_s"], 5);
    assert_eq!(json["log_on"]["subscribe_to_notify"]["reached_99_s"], 9);
    // Cut off in the middle: what was refused, was wanted.
    manifest.steps.truncate(1);
    manifest.users = 500;
    let summary = text(&adsum_report::derived(&raw, &manifest).files, "summary.txt");
    assert!(summary.contains("400 of 500 users registered, not 99 %"), "{summary}");
}

#[test]
fn rows_of_intervals_are_as_wide_as_the_scenario_says() {
    let (raw, mut manifest) = run(&["fra"]);
    let rows = |manifest: &Manifest| {
        let files = adsum_report::derived(&raw, manifest).files;
        let all = text(&files, "intervals.csv");
        let of = |line: &&str| line.contains(",hold,all,publish_to_notify,scheduled,");
        all.lines().filter(of).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(rows(&manifest).len(), 10);
    manifest.interval_s = 5;
    let five = rows(&manifest);
    assert_eq!(five.len(), 2);
    assert!(five[1].contains(",5,5.000000,,,100,5,"), "five seconds of 20 and a miss each: {five:?}");
}

#[test]
fn who_lost_something_and_never_got_it_back_is_no_pass() {
    let (mut raw, mut manifest) = run(&["fra"]);
    manifest.thresholds =
        vec![ThresholdRule { expr: "recovery.count == 0".into(), ..ThresholdRule::default() }];
    assert_eq!(adsum_report::derived(&raw, &manifest).verdict.word, "passed");
    let lost =
        Count { step: 1, phase: Phase::Hold, counter: "censored".into(), label: "recovery".into(), value: 3 };
    let outage = Interval {
        number: 10,
        series: Vec::new(),
        counts: vec![lost],
        failures: Vec::new(),
        ..interval("fra", 9)
    };
    assert!(raw.absorb(&outage).unwrap());
    let verdict = adsum_report::derived(&raw, &manifest).verdict;
    assert_eq!((verdict.word, verdict.judgements[0].judged), ("failed", Judged::Broken(Some(3))));
}
