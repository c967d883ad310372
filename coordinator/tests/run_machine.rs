//! The run as a state machine, told what happened and when: what ends it early,
//! which seconds it says it had, and that nothing that was lost goes unsaid.

use adsum_coordinator::plan::{AgentPlace, RunFacts, plans};
use adsum_coordinator::run::{Order, Run};
use adsum_coordinator::scenario::{Options, Scenario, read};
use adsum_coordinator::users::population;
use adsum_proto::v1::{self, from_agent, to_agent};
use adsum_report::threshold::ThresholdRule;
use adsum_report::{Manifest, Phase, Verdict, verdict};

const SECOND: i64 = 1_000_000_000;
const ORIGIN: i64 = 1_800_000_000;

fn scenario(extra: &str) -> Scenario {
    let text = format!(
        "schema = 1\nname = \"machine\"\n[pool]\ntarget = \"127.0.0.1:5060\"\n\
         [users]\ncount = 100\npattern = \"sip:u{{n}}@pool.test\"\npassword_pattern = \"p\"\n\
         [workload]\nkind = \"held\"\n\
         [[step]]\nname = \"one\"\nrate = \"10/s\"\nhold = \"20s\"\n\
         [[step]]\nname = \"two\"\nrate = \"20/s\"\nramp = \"5s\"\nhold = \"20s\"\n{extra}"
    );
    match read("machine.toml", &text, Options { sets: &[], env: &|_| None }) {
        Ok(document) => document.scenario,
        Err(problems) => panic!("{}", problems.lines()),
    }
}

/// A run with agents at these sites, and its clock.
struct Play {
    run: Run,
    agents: Vec<String>,
    numbers: Vec<u64>,
    now: i64,
    orders: Vec<Order>,
}

impl Play {
    fn begin(scenario: Scenario, sites: &[&str]) -> Play {
        let who = population(&scenario.users, scenario.auth.scheme, b"", b"").unwrap();
        let places: Vec<AgentPlace> = (sites.iter().enumerate())
            .map(|(n, site)| AgentPlace { name: format!("a{n}"), site: (*site).to_owned() })
            .collect();
        let facts = RunFacts {
            run_id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".to_owned(),
            seed: 7,
            origin_unix_ns: ORIGIN * SECOND,
            embedded: None,
            ca_pem: Vec::new(),
            cert_pem: Vec::new(),
            key_pem: Vec::new(),
        };
        let plans = plans(&scenario, &who, &facts, &places).unwrap();
        let hello = |place: &AgentPlace| v1::Hello {
            name: place.name.clone(),
            site: place.site.clone(),
            incarnation: 1,
            ..v1::Hello::default()
        };
        let rule = |t: &adsum_coordinator::scenario::Threshold| ThresholdRule {
            expr: t.expr.clone(),
            step: t.step.clone().unwrap_or_default(),
            site: t.site.clone().unwrap_or_default(),
            ..ThresholdRule::default()
        };
        let manifest = Manifest {
            kind: "held".into(),
            origin_unix_s: ORIGIN,
            users: who.users(),
            deadline_s: 25.0,
            thresholds: scenario.thresholds.iter().map(rule).collect(),
            ..Manifest::default()
        };
        let agents = places.iter().map(|place| place.name.clone()).collect();
        let hellos = places.iter().map(hello).zip(plans).collect();
        let now = ORIGIN * SECOND;
        let (run, orders) = Run::begin(scenario, manifest, hellos, now);
        Play { run, agents, numbers: vec![0; sites.len()], now, orders }
    }

    fn said(&mut self, agent: usize, message: from_agent::Message) {
        self.orders.extend(self.run.said(&self.agents[agent].clone(), message, self.now));
    }

    fn ready(&mut self) {
        for agent in 0..self.agents.len() {
            self.said(agent, from_agent::Message::Ready(v1::Ready::default()));
        }
    }

    /// A second of every agent: these counts of a step and phase, then the next second.
    fn second(&mut self, step: u32, phase: Phase, counts: &[(usize, &str, &str, u64)]) {
        for agent in 0..self.agents.len() {
            let count = |(_, counter, label, value): &(usize, &str, &str, u64)| v1::Count {
                step,
                phase: phase.name().into(),
                counter: (*counter).into(),
                label: (*label).into(),
                value: *value,
            };
            let all = (0, "interval", "", 1);
            let counters = counts.iter().filter(|c| c.0 == agent).chain([&all]).map(count).collect();
            let interval = v1::Interval {
                number: self.numbers[agent],
                second_unix: self.now / SECOND,
                counters,
                ..v1::Interval::default()
            };
            self.numbers[agent] += 1;
            self.said(agent, from_agent::Message::Interval(interval));
        }
        self.now += SECOND;
    }

    fn tick(&mut self) {
        self.orders.extend(self.run.tick(self.now));
    }

    fn told(&self, what: impl Fn(&to_agent::Message) -> bool) -> usize {
        self.orders.iter().filter(|order| matches!(order, Order::Tell(_, message) if what(message))).count()
    }

    fn stops(&self) -> usize {
        self.told(|message| matches!(message, to_agent::Message::Stop(_)))
    }

    fn done(&mut self) {
        for agent in 0..self.agents.len() {
            let intervals = self.numbers[agent];
            self.said(agent, from_agent::Message::Done(v1::Done { intervals, ..v1::Done::default() }));
        }
        assert!(self.run.is_over());
    }

    fn verdict(&mut self) -> Verdict {
        self.run.conclude(self.now);
        verdict::judge(&self.run.raw, &self.run.manifest)
    }

    fn span(&self, step: u32, phase: Phase) -> Option<(f64, f64)> {
        self.run.manifest.phase(step, phase).map(|p| (p.from_s, p.to_s))
    }
}

const GOOD: [(usize, &str, &str, u64); 3] =
    [(0, "offered", "", 10), (0, "sent", "", 10), (0, "delivered", "", 10)];
const BAD: [(usize, &str, &str, u64); 4] =
    [(0, "offered", "", 10), (0, "sent", "", 10), (0, "delivered", "", 5), (0, "missed", "", 5)];

fn threshold(rest: &str) -> String {
    format!("[[threshold]]\nexpr = \"missed.ratio < 1%\"\nabort_on_fail = true\n{rest}")
}

#[test]
fn the_warm_up_ends_the_run_if_a_threshold_names_it() {
    for (rest, ends) in [("step = \"warmup\"\n", true), ("", false), ("step = \"one\"\n", false)] {
        let mut play = Play::begin(scenario(&threshold(rest)), &["local"]);
        for _ in 0..6 {
            play.second(0, Phase::Warmup, &BAD);
            play.tick();
        }
        assert_eq!(play.stops() > 0, ends, "{rest}");
        if ends {
            play.done();
            let verdict = play.verdict();
            assert_eq!((verdict.word, verdict.exit_code), ("failed", 11), "{:?}", verdict.reasons);
        }
    }
}

#[test]
fn after_and_for_count_in_the_warm_up_as_in_a_hold() {
    let rest = "step = \"warmup\"\nafter = \"4s\"\nfor = \"3s\"\n";
    let mut play = Play::begin(scenario(&threshold(rest)), &["local"]);
    let mut ended = None;
    for second in 0..12 {
        play.second(0, Phase::Warmup, &BAD);
        play.tick();
        if play.stops() > 0 {
            ended.get_or_insert(second);
        }
    }
    // Seconds 4, 5 and 6 are broken; the last of them is judged when it was reported, at second 8.
    assert_eq!(ended, Some(7));
}

#[test]
fn a_hold_ends_the_run_by_the_site_that_the_threshold_names() {
    let sites = "[sites.fra]\n[sites.syd]\n";
    for (site, ends) in [("fra", true), ("syd", false)] {
        let rest = format!("site = \"{site}\"\n{sites}");
        let mut play = Play::begin(scenario(&threshold(&rest)), &["fra", "syd"]);
        play.second(0, Phase::Warmup, &[]);
        play.ready();
        play.second(0, Phase::Warmup, &[]);
        play.second(0, Phase::Warmup, &[]);
        for _ in 0..5 {
            let both: Vec<_> = BAD.into_iter().chain(GOOD.map(|(_, c, l, n)| (1, c, l, n))).collect();
            play.second(1, Phase::Hold, &both);
            play.tick();
        }
        assert_eq!(play.stops() > 0, ends, "{site}");
    }
}

#[test]
fn seconds_that_the_coordinator_slept_through_are_judged_all_the_same() {
    let mut play = Play::begin(scenario(&threshold("step = \"warmup\"\nfor = \"5s\"\n")), &["local"]);
    play.second(0, Phase::Warmup, &BAD);
    play.second(0, Phase::Warmup, &BAD);
    play.tick();
    for _ in 0..6 {
        play.second(0, Phase::Warmup, &BAD);
    }
    assert_eq!(play.stops(), 0);
    play.tick();
    assert_eq!(play.stops(), 1);
}

#[test]
fn a_pool_in_need_is_protected_from_its_log_ons_too() {
    let storm = [(0, "sip_received", "REGISTER 503", 60), (0, "sip_received", "REGISTER 200", 40)];
    for (extra, ends) in [("", true), ("[safety]\noverload = true\n", false)] {
        let mut play = Play::begin(scenario(extra), &["local"]);
        for _ in 0..6 {
            play.second(0, Phase::Warmup, &storm);
            play.tick();
        }
        assert_eq!(play.stops() > 0, ends);
        if ends {
            play.done();
            assert_eq!(play.verdict().exit_code, 14);
        }
    }
}

/// To the tenth second of the first hold.
fn held(extra: &str) -> Play {
    let mut play = Play::begin(scenario(extra), &["local"]);
    play.second(0, Phase::Warmup, &[]);
    play.ready();
    for _ in 0..2 {
        play.second(0, Phase::Warmup, &[]);
    }
    for _ in 0..10 {
        play.second(1, Phase::Hold, &GOOD);
        play.tick();
    }
    play
}

#[test]
fn a_stopped_hold_ends_where_it_was_stopped_and_the_rest_is_drain() {
    let mut play = held("");
    let reasons = |verdict: &Verdict| verdict.reasons.iter().map(|r| r.reason.clone()).collect::<Vec<_>>();
    play.run.manifest.events.signal = 130;
    play.orders.extend(play.run.stop(false, "interrupted", play.now));
    for _ in 0..5 {
        play.second(3, Phase::Drain, &[]);
        play.tick();
    }
    play.done();
    let verdict = play.verdict();
    assert_eq!(play.span(0, Phase::Warmup), Some((0.0, 3.0)));
    assert_eq!(play.span(1, Phase::Hold), Some((3.0, 13.0)));
    assert_eq!(play.span(2, Phase::Hold), None, "never reached");
    assert_eq!(play.span(3, Phase::Drain), Some((13.0, 19.0)));
    assert_eq!((verdict.word, verdict.exit_code), ("untrustworthy", 130));
    assert_eq!(reasons(&verdict), ["interrupted"], "no second of the hold is missing");
    let files = adsum_report::derived(&play.run.raw, &play.run.manifest);
    assert!(
        files.summary.contains("      10.0       10.0"),
        "ten a second of ten seconds: {}",
        files.summary
    );
}

#[test]
fn a_signal_behind_the_last_hold_takes_nothing_away() {
    let mut play = held("");
    for _ in 0..10 {
        play.second(1, Phase::Hold, &GOOD);
    }
    for _ in 0..5 {
        play.second(2, Phase::Ramp, &GOOD);
    }
    for _ in 0..20 {
        play.second(2, Phase::Hold, &GOOD);
    }
    play.second(3, Phase::Drain, &[]);
    play.run.manifest.events.signal = 130;
    play.orders.extend(play.run.stop(false, "interrupted", play.now));
    play.done();
    let verdict = play.verdict();
    assert_eq!((verdict.word, verdict.exit_code), ("passed", 130), "{:?}", verdict.reasons);
}

#[test]
fn intervals_that_never_arrived_are_missed_at_the_end() {
    let mut play = held("");
    play.numbers[0] += 1;
    play.done();
    assert_eq!(play.run.manifest.events.internal, "13 of 14 intervals of agent a0 arrived");
    let verdict = play.verdict();
    assert_eq!((verdict.word, verdict.exit_code), ("untrustworthy", 1));
}

#[test]
fn an_agent_that_is_lost_before_the_start_does_not_hold_up_the_others() {
    let extra = "[fleet]\non_agent_loss = \"continue\"\n";
    let starts = |play: &Play| play.told(|message| matches!(message, to_agent::Message::Start(_)));
    // Whether the other one was ready before or after it.
    for first in [true, false] {
        let mut play = Play::begin(scenario(extra), &["local", "local"]);
        if first {
            play.said(0, from_agent::Message::Ready(v1::Ready::default()));
        }
        play.orders.extend(play.run.lost("a1", "it closed its stream", play.now));
        if !first {
            assert_eq!(starts(&play), 0);
            play.said(0, from_agent::Message::Ready(v1::Ready::default()));
        }
        assert_eq!(starts(&play), 1);
        let verdict = play.verdict();
        assert!(verdict.reasons.iter().any(|r| r.reason == "agent_lost"), "{:?}", verdict.reasons);
    }
}

#[test]
fn the_limits_of_log_on_and_log_off_follow_from_their_rates() {
    // At three a minute 100 log-ons take 2,000 s, and as long 50 subscriptions and 50 publications.
    let slow = "[warmup]\nregister_rate = \"3/m\"\nsubscribe_rate = \"3/m\"\n";
    let mut play = Play::begin(scenario(slow), &["local"]);
    let begin = play.now;
    for (after_s, stops) in [(7_500, 0), (7_700, 1)] {
        play.now = begin + after_s * SECOND;
        play.tick();
        assert_eq!(play.stops(), stops, "{after_s}");
    }
    assert_eq!(play.run.manifest.events.not_ready, "agents were not ready within 7700 s");
    // Then 100 log-offs take 2,000 s.
    let since = play.now;
    play.now = since + 2_500 * SECOND;
    play.tick();
    assert!(!play.run.is_over());
    play.now = since + 2_700 * SECOND;
    play.tick();
    assert!(play.run.is_over());
    assert_eq!(play.told(|message| matches!(message, to_agent::Message::Refused(_))), 1);
}

#[test]
fn numbers_that_files_cannot_have_are_said_to_be_lost() {
    let long = "x".repeat(300);
    let count = |counter: &str, value| v1::Count {
        step: 1,
        phase: "hold".into(),
        counter: counter.into(),
        label: String::new(),
        value,
    };
    for (second_unix, counters) in [
        (i64::MAX, vec![]),
        (i64::MIN, vec![]),
        (ORIGIN, vec![count(&long, 1)]),
        (ORIGIN, vec![count("sent", u64::MAX), count("sent", u64::MAX)]),
    ] {
        let mut play = held("");
        let number = play.numbers[0];
        let interval = v1::Interval { number, second_unix, counters, ..v1::Interval::default() };
        play.said(0, from_agent::Message::Interval(interval));
        assert!(!play.run.manifest.events.internal.is_empty());
        assert_eq!(play.run.raw.total(1, Phase::Hold, None, "sent", None), 100);
        play.numbers[0] += 1;
        play.done();
        assert_eq!(play.verdict().word, "untrustworthy");
    }
}
