//! Tables of zones, and what RFC 3263 §4 makes of them.

use std::collections::HashMap;

use adsum_sip::locate::{
    Answer, Locate, LocateError, Located, MAX_ADDRESSES, MAX_SERVICES, Naptr, Question, Srv, Step, Transport,
    split,
};
use adsum_sip::value::sip_uri;
use proptest::prelude::*;

use Transport::{Tcp, Tls, Udp};

/// A zone: what a name has, by type. A name without an entry is NXDOMAIN.
#[derive(Default, Clone)]
struct Zone {
    answers: HashMap<(&'static str, String), Answer>,
}

impl Zone {
    fn of(lines: &str) -> Zone {
        let mut zone = Zone::default();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.split_whitespace();
            let mut word = || words.next().unwrap_or_default().to_owned();
            let (name, kind) = (word(), word());
            let number = |text: String| text.parse::<u16>().expect("a number");
            match kind.as_str() {
                "NAPTR" => zone.naptr(
                    &name,
                    Naptr {
                        order: number(word()),
                        preference: number(word()),
                        flags: word().into_bytes(),
                        services: word().into_bytes(),
                        regexp: word().trim_matches('-').as_bytes().to_vec(),
                        replacement: word(),
                    },
                ),
                "SRV" => zone.srv(
                    &name,
                    Srv {
                        priority: number(word()),
                        weight: number(word()),
                        port: number(word()),
                        target: word(),
                    },
                ),
                "A" | "AAAA" => {
                    let ip = word().parse().expect("an address");
                    match zone
                        .answers
                        .entry(("A", name.to_owned()))
                        .or_insert_with(|| Answer::Addresses(Vec::new()))
                    {
                        Answer::Addresses(list) => list.push(ip),
                        other => panic!("{name} has {other:?} already"),
                    }
                }
                "EMPTY" => drop(zone.answers.insert(("A", name), Answer::NoRecords)),
                "FAIL" => {
                    for kind in ["NAPTR", "SRV", "A"] {
                        zone.answers
                            .entry((kind, name.clone()))
                            .or_insert(Answer::Failed("no answer".to_owned()));
                    }
                }
                other => panic!("{other}"),
            }
        }
        zone
    }

    fn naptr(&mut self, name: &str, record: Naptr) {
        match self.answers.entry(("NAPTR", name.to_owned())).or_insert(Answer::Naptr(Vec::new())) {
            Answer::Naptr(list) => list.push(record),
            other => panic!("{name} has {other:?} already"),
        }
    }

    fn srv(&mut self, name: &str, record: Srv) {
        match self.answers.entry(("SRV", name.to_owned())).or_insert(Answer::Srv(Vec::new())) {
            Answer::Srv(list) => list.push(record),
            other => panic!("{name} has {other:?} already"),
        }
    }

    fn answer(&self, question: &Question) -> Answer {
        let kind = match question {
            Question::Naptr(_) => "NAPTR",
            Question::Srv(_) => "SRV",
            Question::Addresses(_) => "A",
        };
        let name = question.name().trim_end_matches('.').to_owned();
        self.answers.get(&(kind, name)).cloned().unwrap_or(Answer::NoName)
    }
}

/// Plays a machine against a zone: its questions, and how it ended.
fn play(mut locate: Locate, zone: &Zone) -> (Vec<String>, Result<Located, LocateError>) {
    let mut asked = Vec::new();
    loop {
        match locate.next() {
            Err(error) => return (asked, Err(error)),
            Ok(Step::Done(located)) => return (asked, Ok(located)),
            Ok(Step::Ask(question)) => {
                assert!(asked.len() <= 1 + 4 + MAX_SERVICES, "it does not end: {asked:?}");
                asked.push(question.to_string());
                locate.answer(zone.answer(&question));
            }
        }
    }
}

fn located(zone: &str, target: &str, transport: Transport) -> (Vec<String>, Result<Located, LocateError>) {
    play(Locate::new(target, transport, 7).expect("a target"), &Zone::of(zone))
}

fn addresses(zone: &str, target: &str, transport: Transport) -> Vec<String> {
    let (asked, result) = located(zone, target, transport);
    let found = result.unwrap_or_else(|error| panic!("{target}: {error} after {asked:?}"));
    assert_eq!(found.transport, transport);
    found.addresses.iter().map(ToString::to_string).collect()
}

fn error(zone: &str, target: &str, transport: Transport) -> String {
    located(zone, target, transport).1.expect_err("an error").to_string()
}

const POOL: &str = "
    pool.test NAPTR 50  50 s SIPS+D2T - _sips._tcp.pool.test.
    pool.test NAPTR 90  50 s SIP+D2T  - _sip._tcp.pool.test.
    pool.test NAPTR 100 50 s SIP+D2U  - _sip._udp.elsewhere.test.
    _sips._tcp.pool.test     SRV 0 1 5061 a.pool.test.
    _sip._tcp.pool.test      SRV 0 1 5060 a.pool.test.
    _sip._tcp.pool.test      SRV 1 1 5070 b.pool.test.
    _sip._udp.pool.test      SRV 0 1 5060 wrong.pool.test.
    _sip._udp.elsewhere.test SRV 0 1 5080 c.pool.test.
    a.pool.test A 192.0.2.1
    b.pool.test A 192.0.2.2
    b.pool.test AAAA 2001:db8::2
    c.pool.test A 192.0.2.3
    wrong.pool.test A 192.0.2.99
    pool.test A 192.0.2.100
";

#[test]
fn a_numeric_host_asks_nothing() {
    for (target, transport, expected) in [
        ("192.0.2.9", Udp, "192.0.2.9:5060"),
        ("192.0.2.9", Tls, "192.0.2.9:5061"),
        ("192.0.2.9:5099", Tcp, "192.0.2.9:5099"),
        ("2001:db8::9", Tls, "[2001:db8::9]:5061"),
        ("[2001:db8::9]:5070", Udp, "[2001:db8::9]:5070"),
        ("[2001:db8::9]", Udp, "[2001:db8::9]:5060"),
    ] {
        let (asked, result) = located("", target, transport);
        assert!(asked.is_empty(), "{asked:?}");
        assert_eq!(result.expect(target).addresses, [expected.parse().expect("an address")]);
    }
}

#[test]
fn an_explicit_port_asks_for_addresses_only() {
    let (asked, result) = located(POOL, "pool.test:5060", Udp);
    assert_eq!(asked, ["A and AAAA of `pool.test`"]);
    assert_eq!(result.expect("found").addresses, ["192.0.2.100:5060".parse().expect("an address")]);
}

#[test]
fn naptr_leads_to_the_srv_records_of_our_transport() {
    assert_eq!(addresses(POOL, "pool.test", Tls), ["192.0.2.1:5061"]);
    assert_eq!(addresses(POOL, "pool.test", Tcp), ["192.0.2.1:5060", "192.0.2.2:5070", "[2001:db8::2]:5070"]);
    let (asked, result) = located(POOL, "pool.test", Udp);
    assert_eq!(
        asked,
        ["NAPTR of `pool.test.`", "SRV of `_sip._udp.elsewhere.test.`", "A and AAAA of `c.pool.test.`"]
    );
    assert_eq!(result.expect("found").addresses, ["192.0.2.3:5080".parse().expect("an address")]);
}

#[test]
fn naptr_records_that_do_not_apply_are_as_none() {
    let rest = "
        _sip._udp.p.test SRV 0 0 5060 a.p.test.
        _sip._udp.bad.test SRV 0 0 5060 bad.p.test.
        a.p.test A 192.0.2.1
        bad.p.test A 192.0.2.66
    ";
    for record in [
        "p.test NAPTR 1 1 s SIP+D2T - _sip._udp.bad.test.",
        "p.test NAPTR 1 1 s SIPS+D2U - _sip._udp.bad.test.",
        "p.test NAPTR 1 1 u SIP+D2U - _sip._udp.bad.test.",
        "p.test NAPTR 1 1 a SIP+D2U - _sip._udp.bad.test.",
        "p.test NAPTR 1 1 s SIP+D2U !^.*$!x! _sip._udp.bad.test.",
        "p.test NAPTR 1 1 s SIP+D2U - .",
        "p.test NAPTR 1 1 u E2U+sip !^.*$!sip:x! .",
    ] {
        assert_eq!(addresses(&format!("{record}\n{rest}"), "p.test", Udp), ["192.0.2.1:5060"], "{record}");
    }
}

#[test]
fn naptr_flags_and_services_have_no_case_and_the_lowest_order_wins() {
    let zone = "
        p.test NAPTR 20 1 S sip+d2u - _sip._udp.worse.test.
        p.test NAPTR 10 9 S sip+d2u - _sip._udp.second.test.
        p.test NAPTR 10 5 S Sip+D2u - _sip._udp.EMPTY.test.
        _sip._udp.second.test SRV 0 0 5060 a.test.
        _sip._udp.worse.test  SRV 0 0 5060 worse.test.
        a.test A 192.0.2.1
        worse.test A 192.0.2.66
        p.test A 192.0.2.100
    ";
    let (asked, result) = located(zone, "p.test", Udp);
    assert_eq!(asked[1..3], ["SRV of `_sip._udp.empty.test.`", "SRV of `_sip._udp.second.test.`"]);
    assert_eq!(result.expect("found").addresses, ["192.0.2.1:5060".parse().expect("an address")]);
    // Records of another order must not be looked at once one has applied.
    let zone = zone.replace("_sip._udp.second.test SRV", "_sip._udp.unused.test SRV");
    assert_eq!(addresses(&zone, "p.test", Udp), ["192.0.2.100:5060"]);
}

#[test]
fn without_srv_the_host_has_the_default_port() {
    let zone = "h.test A 192.0.2.5\nh.test AAAA 2001:db8::5";
    assert_eq!(addresses(zone, "h.test", Udp), ["192.0.2.5:5060", "[2001:db8::5]:5060"]);
    let (asked, result) = located(zone, "h.test", Tls);
    assert_eq!(asked, ["NAPTR of `h.test.`", "SRV of `_sips._tcp.h.test.`", "A and AAAA of `h.test`"]);
    assert_eq!(result.expect("found").addresses[0].port(), 5061);
}

#[test]
fn a_name_with_a_final_dot_stays_absolute() {
    let (asked, _) = located("h.test A 192.0.2.5", "h.test.", Udp);
    assert_eq!(asked, ["NAPTR of `h.test.`", "SRV of `_sip._udp.h.test.`", "A and AAAA of `h.test.`"]);
}

#[test]
fn priorities_come_before_weights() {
    let zone = "
        _sip._udp.p.test SRV 30 0     5063 d.test.
        _sip._udp.p.test SRV 10 1     5061 a.test.
        _sip._udp.p.test SRV 20 65535 5062 c.test.
        _sip._udp.p.test SRV 10 65535 5061 b.test.
        a.test A 192.0.2.1
        b.test A 192.0.2.2
        c.test A 192.0.2.3
        d.test A 192.0.2.4
    ";
    for seed in 0..200 {
        let (_, result) = play(Locate::new("p.test", Udp, seed).expect("a target"), &Zone::of(zone));
        let ports: Vec<u16> = result.expect("found").addresses.iter().map(|a| a.port()).collect();
        assert_eq!(ports, [5061, 5061, 5062, 5063]);
    }
}

/// How often each target is the first of 8000 seeds.
fn firsts(weights: &[u16]) -> Vec<f64> {
    let mut zone = Zone::default();
    for (at, weight) in weights.iter().enumerate() {
        let target = format!("t{at}.test.");
        let ip = std::net::IpAddr::from([192, 0, 2, at as u8]);
        zone.answers.insert(("A", format!("t{at}.test")), Answer::Addresses(vec![ip]));
        zone.srv("_sip._udp.p.test", Srv { priority: 1, weight: *weight, port: 5060, target });
    }
    let mut counts = vec![0.0; weights.len()];
    for seed in 0..8000 {
        let (_, result) = play(Locate::new("p.test", Udp, seed).expect("a target"), &zone);
        let found = result.expect("found").addresses;
        assert_eq!(found.len(), weights.len());
        let std::net::IpAddr::V4(first) = found[0].ip() else { panic!("{found:?}") };
        counts[usize::from(first.octets()[3])] += 1.0 / 8000.0;
    }
    counts
}

#[test]
fn weights_are_shares() {
    // Five standard deviations of 8000 draws are at most 0.028.
    for (weights, shares) in [
        (&[30, 10][..], &[0.75, 0.25][..]),
        (&[1, 2, 3, 4], &[0.1, 0.2, 0.3, 0.4]),
        (&[65535, 65535], &[0.5, 0.5]),
        (&[0, 0, 0], &[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]),
        // A weight of 0 keeps a very small chance: 1 of 101.
        (&[0, 100], &[1.0 / 101.0, 100.0 / 101.0]),
    ] {
        for (measured, share) in firsts(weights).iter().zip(shares) {
            assert!((measured - share).abs() < 0.028, "{weights:?}: {measured} instead of {share}");
        }
    }
    assert!(firsts(&[0, 100])[0] > 0.0);
}

#[test]
fn dead_records_do_not_hide_the_good_ones() {
    let zone = "
        _sip._tcp.p.test SRV 1 0 5060 gone.test.
        _sip._tcp.p.test SRV 2 0 5060 empty.test.
        _sip._tcp.p.test SRV 3 0 5060 silent.test.
        _sip._tcp.p.test SRV 4 0 0    good.test.
        _sip._tcp.p.test SRV 5 0 5060 .
        _sip._tcp.p.test SRV 6 0 5064 good.test.
        empty.test EMPTY
        silent.test FAIL
        good.test A 192.0.2.4
    ";
    let (_, result) = located(zone, "p.test", Tcp);
    let found = result.expect("found");
    assert_eq!(found.addresses, ["192.0.2.4:5064".parse().expect("an address")]);
    assert_eq!(found.failed.len(), 1);
    assert_eq!(found.failed[0].question, Question::Addresses("silent.test.".to_owned()));
}

#[test]
fn a_service_that_is_withdrawn_is_an_error_and_not_a_reason_to_try_the_host() {
    let zone = "_sip._udp.p.test SRV 0 0 0 .\np.test A 192.0.2.1";
    let text = error(zone, "p.test", Udp);
    assert!(text.contains("SIP over UDP is not offered") && text.contains("`_sip._udp.p.test.`"), "{text}");
    assert_eq!(addresses(zone, "p.test", Tcp), ["192.0.2.1:5060"]);
}

#[test]
fn srv_records_without_addresses_are_an_error_and_not_a_reason_to_try_the_host() {
    let zone = "_sip._udp.p.test SRV 0 0 5060 gone.test.\np.test A 192.0.2.1";
    let text = error(zone, "p.test", Udp);
    assert!(text.contains("`_sip._udp.p.test.`") && text.contains("`gone.test.:5060`"), "{text}");
}

#[test]
fn errors_say_what_is_wrong() {
    let text = error("", "typo.test", Udp);
    assert!(text.contains("`typo.test` does not exist (NXDOMAIN)"), "{text}");
    let text = error("empty.test EMPTY", "empty.test:5060", Udp);
    assert!(text.contains("`empty.test` has no address"), "{text}");
    let text = error("dead.test FAIL", "dead.test:5060", Udp);
    assert_eq!(text, "cannot look up A and AAAA of `dead.test`: no answer");
    // The addresses are not there, but the records that failed might have been.
    let text = error("p.test EMPTY\n_sip._udp.p.test FAIL", "p.test", Udp);
    assert_eq!(text, "cannot look up SRV of `_sip._udp.p.test.`: no answer");
}

#[test]
fn records_that_fail_do_not_hide_the_host() {
    let (asked, result) = located("p.test A 192.0.2.1\np.test FAIL\n_sip._udp.p.test FAIL", "p.test", Udp);
    let found = result.expect("found");
    assert_eq!((asked.len(), found.failed.len()), (3, 2));
    assert_eq!(found.addresses, ["192.0.2.1:5060".parse().expect("an address")]);
}

#[test]
fn duplicates_go_and_the_better_place_stays() {
    let zone = "
        _sip._udp.p.test SRV 1 0 5060 a.test.
        _sip._udp.p.test SRV 2 0 5060 A.TEST.
        _sip._udp.p.test SRV 3 0 5061 a.test.
        _sip._udp.p.test SRV 4 0 5060 b.test.
        a.test A 192.0.2.1
        a.test A 192.0.2.1
        b.test A 192.0.2.2
        b.test AAAA ::ffff:192.0.2.1
    ";
    let (asked, result) = located(zone, "p.test", Udp);
    let found: Vec<String> = result.expect("found").addresses.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["192.0.2.1:5060", "192.0.2.1:5061", "192.0.2.2:5060"]);
    // One question for a.test, although three records name it.
    assert_eq!(asked.len(), 4, "{asked:?}");
}

#[test]
fn too_many_records_are_cut_and_counted() {
    let mut zone = Zone::default();
    for at in 0..400u16 {
        let record = Srv { priority: at, weight: 1, port: 5060, target: format!("t{at}.test.") };
        zone.srv("_sip._udp.p.test", record);
        let many = (0..10).map(|host| std::net::IpAddr::from([10, 0, at as u8, host])).collect();
        zone.answers.insert(("A", format!("t{at}.test")), Answer::Addresses(many));
    }
    let (asked, result) = play(Locate::new("p.test", Udp, 1).expect("a target"), &zone);
    let found = result.expect("found");
    assert_eq!(asked.len(), 2 + MAX_SERVICES);
    assert_eq!(found.addresses.len(), MAX_ADDRESSES);
    assert_eq!(found.left_out, (400 - MAX_SERVICES) + (MAX_SERVICES * 10 - MAX_ADDRESSES));
    assert_eq!(found.addresses[0].to_string(), "10.0.0.0:5060");
}

#[test]
fn uris_prescribe_their_transport() {
    let of = |uri: &str| Transport::of_uri(&sip_uri(uri.as_bytes()).expect(uri), Udp);
    assert_eq!(of("sip:a@p.test"), Ok(Udp));
    assert_eq!(of("sip:a@p.test;transport=TCP"), Ok(Tcp));
    assert_eq!(of("sip:a@p.test;transport=tls"), Ok(Tls));
    assert_eq!(of("sips:a@p.test"), Ok(Tls));
    assert_eq!(of("sips:a@p.test;transport=tcp"), Ok(Tls));
    assert!(of("sips:a@p.test;transport=udp").is_err());
    assert!(of("sip:a@p.test;transport=sctp").is_err());
    let uri = sip_uri(b"sip:a@p.test:5070;maddr=192.0.2.8;transport=tcp").expect("an URI");
    let (asked, result) = play(Locate::of_uri(&uri, Udp, 1).expect("a target"), &Zone::default());
    assert_eq!((asked.len(), result.expect("found").addresses[0].to_string()), (0, "192.0.2.8:5070".into()));
}

#[test]
fn targets_are_split() {
    assert_eq!(split("pool.example.com"), Ok(("pool.example.com", None)));
    assert_eq!(split("[::1]:5070"), Ok(("::1", Some(5070))));
    assert_eq!(split("::1"), Ok(("::1", None)));
    for wrong in ["", ".", "a b", "host:port", "sip:host", "host:99999", "host:0", "hôte"] {
        assert!(split(wrong).is_err(), "{wrong}");
    }
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{1,2}\\.test\\.?", Just(".".to_owned()), Just(String::new()), ".{0,12}"]
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let naptr = (0..3u16, 0..3u16, any_name(), prop_oneof![Just("SIP+D2U"), Just("x")]).prop_map(
        |(order, preference, replacement, services)| Naptr {
            order,
            preference,
            flags: b"s".to_vec(),
            services: services.into(),
            regexp: Vec::new(),
            replacement,
        },
    );
    let srv = (0..3u16, any::<u16>(), any::<u16>(), any_name())
        .prop_map(|(priority, weight, port, target)| Srv { priority, weight, port, target });
    prop_oneof![
        proptest::collection::vec(naptr, 0..12).prop_map(Answer::Naptr),
        proptest::collection::vec(srv, 0..30).prop_map(Answer::Srv),
        proptest::collection::vec(any::<std::net::IpAddr>(), 0..90).prop_map(Answer::Addresses),
        Just(Answer::NoRecords),
        Just(Answer::NoName),
        Just(Answer::Failed("x".to_owned())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever comes back, in whatever order of kinds: it ends, within its bounds, with a list of
    /// distinct addresses or a reason.
    #[test]
    fn it_always_ends(answers in proptest::collection::vec(any_answer(), 24), seed: u64) {
        let mut locate = Locate::new("p.test", Udp, seed).expect("a target");
        let mut asked = 0;
        let mut answers = answers.into_iter();
        let end = loop {
            match locate.next() {
                Ok(Step::Ask(_)) => {
                    asked += 1;
                    prop_assert!(asked <= 1 + 4 + MAX_SERVICES);
                    locate.answer(answers.next().expect("as many answers as there can be questions"));
                }
                Ok(Step::Done(located)) => break Some(located),
                Err(error) => {
                    prop_assert!(!error.to_string().is_empty());
                    break None;
                }
            }
        };
        if let Some(located) = end {
            let mut distinct = located.addresses.clone();
            distinct.sort();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), located.addresses.len());
            prop_assert!((1..=MAX_ADDRESSES).contains(&located.addresses.len()));
            prop_assert!(located.addresses.iter().all(|a| a.port() != 0));
        }
    }

    /// The order depends on the seed and the zone, not on how a server rotates its records.
    #[test]
    fn rotation_changes_nothing(weights in proptest::collection::vec(0..50u16, 1..12), by in 0..12usize, seed: u64) {
        let records: Vec<Srv> = weights
            .iter()
            .enumerate()
            .map(|(at, weight)| Srv {
                priority: (at % 2) as u16, weight: *weight, port: 5060, target: format!("t{at}.test."),
            })
            .collect();
        let asked = |records: Vec<Srv>| {
            let mut zone = Zone::default();
            zone.answers.insert(("SRV", "_sip._udp.p.test".to_owned()), Answer::Srv(records));
            play(Locate::new("p.test", Udp, seed).expect("a target"), &zone).0
        };
        let mut rotated = records.clone();
        rotated.rotate_left(by % weights.len());
        prop_assert_eq!(asked(records), asked(rotated));
    }
}

/// What the clients of a Lync server try: a domain with SRV records inside and
/// outside, one with hosts only, and the name of a pool.
#[test]
fn a_lync_domain_is_found_by_its_own_names() {
    let lync = |zone: &str, target: &str, transport| {
        let (asked, result) = play(Locate::lync(target, transport, 7).expect("a target"), &Zone::of(zone));
        let addresses: Result<Vec<String>, String> = result
            .map(|found| found.addresses.iter().map(ToString::to_string).collect())
            .map_err(|error| error.to_string());
        (asked, addresses)
    };
    let domain = "
        _sipinternaltls._tcp.l.test SRV 0 0 5061 pool.l.test.
        _sip._tls.l.test            SRV 0 0 443  edge.l.test.
        _sipinternal._tcp.l.test    SRV 0 0 5060 pool.l.test.
        pool.l.test A 192.0.2.1
        edge.l.test A 192.0.2.2
        l.test A 192.0.2.80
    ";
    let (asked, found) = lync(domain, "l.test", Tls);
    assert_eq!(asked, ["SRV of `_sipinternaltls._tcp.l.test.`", "A and AAAA of `pool.l.test.`"]);
    assert_eq!(found.unwrap(), ["192.0.2.1:5061"]);
    assert_eq!(lync(domain, "l.test", Tcp).1.unwrap(), ["192.0.2.1:5060"]);
    let outside = "
        _sip._tls.l.test SRV 0 0 443 edge.l.test.
        edge.l.test A 192.0.2.2
    ";
    assert_eq!(lync(outside, "l.test", Tls).1.unwrap(), ["192.0.2.2:443"]);
    let hosts = "
        sipexternal.l.test A 192.0.2.3
        sip.l.test A 192.0.2.4
        l.test A 192.0.2.80
    ";
    let (asked, found) = lync(hosts, "l.test", Tls);
    assert_eq!(asked.len(), 2 + 4, "one question for `sip.`, which has two ports: {asked:?}");
    assert_eq!(found.unwrap(), ["192.0.2.3:443", "192.0.2.4:443", "192.0.2.4:5061", "192.0.2.80:5061"]);
    // The name of a pool has none of these.
    assert_eq!(lync("pool.l.test A 192.0.2.1", "pool.l.test", Tls).1.unwrap(), ["192.0.2.1:5061"]);
    assert_eq!(
        lync(domain, "pool.l.test:5071", Tls),
        (vec!["A and AAAA of `pool.l.test`".to_owned()], Ok(vec!["192.0.2.1:5071".to_owned()]))
    );
    assert_eq!(lync(domain, "192.0.2.7", Tls), (Vec::new(), Ok(vec!["192.0.2.7:5061".to_owned()])));
    assert!(lync("", "l.test", Tls).1.unwrap_err().contains("`l.test` does not exist"));
    assert!(lync("l.test EMPTY", "l.test", Tls).1.unwrap_err().contains("no address"));
}
