//! What is asked of any request (RFC 3261 §8.2), and requests that come again (§17.2).

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use adsum_pool::core::Peer;
use adsum_pool::{Delay, PoolConfig};
use common::{MS, Request, SECOND, World, open};
use proptest::prelude::*;

#[test]
fn incomplete_requests_are_400_or_cannot_be_answered() {
    let mut world = World::new(open());
    let whole = Request::new("OPTIONS", 1).text(1);
    for (line, value) in [
        ("Call-ID", ""),
        ("CSeq", ""),
        ("From", ""),
        ("To", ""),
        ("CSeq", "CSeq: 1 PUBLISH\r\n"),
        ("From", "From: <sip:user000001@pool.test>\r\n"),
        ("CSeq", "CSeq: x OPTIONS\r\n"),
    ] {
        let lines: String = whole
            .split_inclusive("\r\n")
            .map(|l| if l.starts_with(&format!("{line}:")) { value } else { l })
            .collect();
        let lines = lines.replace("branch=z9hG4bKtest1", &format!("branch=z9hG4bK{line}{}", value.len()));
        let sent = world.bytes(lines.as_bytes());
        assert_eq!((sent.len(), sent[0].code()), (1, 400), "{lines}");
    }
    let no_via: String = whole.split_inclusive("\r\n").filter(|l| !l.starts_with("Via:")).collect();
    assert!(world.bytes(no_via.as_bytes()).is_empty());
    assert_eq!(world.core.stats().malformed, 1);
}

#[test]
fn unknown_methods_are_501_and_known_ones_405_with_allow() {
    let mut world = World::new(open());
    for method in ["FOO", "UPDATE", "register", "BENOTIFY"] {
        assert_eq!(world.ask(&Request::new(method, 1)).code(), 501, "{method}");
    }
    for method in ["INVITE", "MESSAGE", "BYE", "INFO", "REFER", "NOTIFY", "CANCEL"] {
        let answer = world.ask(&Request::new(method, 1));
        assert_eq!(answer.code(), 405, "{method}");
        assert_eq!(answer.header("Allow"), "REGISTER, SUBSCRIBE, PUBLISH, OPTIONS, ACK");
    }
    assert!(world.tell(&Request::new("ACK", 1)).is_empty(), "an ACK is never answered");
    let counts = world.core.stats().received;
    let named = ["(other)", "BENOTIFY", "INVITE", "ACK"].map(|name| counts[name]);
    assert_eq!(named, [3, 1, 1, 1], "the other dialect's method has a name of its own");
}

#[test]
fn extensions_that_are_required_are_420() {
    let mut world = World::new(open());
    let request =
        Request::new("REGISTER", 1).line("Require: outbound, gruu").line("Proxy-Require: sec-agree");
    let answer = world.ask(&request);
    assert_eq!(
        (answer.code(), answer.all("Unsupported")),
        (420, vec!["outbound, gruu".to_owned(), "sec-agree".to_owned()])
    );
    assert_eq!(world.ask(&Request::new("REGISTER", 1).line("Supported: outbound")).code(), 200);
}

#[test]
fn hops_uris_and_sizes_have_limits() {
    let mut world = World::new(open());
    let text = Request::new("REGISTER", 1).text(77).replace("Max-Forwards: 70", "Max-Forwards: 0");
    assert_eq!(world.bytes(text.as_bytes())[0].code(), 483);
    assert_eq!(world.ask(&Request::subscribe(1, 2, 600).uri("tel:+155512345")).code(), 416);
    assert_eq!(world.ask(&Request::subscribe(1, 2, 600).uri("sip:[::1")).code(), 400);
    assert_eq!(world.ask(&Request::new("REGISTER", 1).body(&"x".repeat(64 * 1024 + 1))).code(), 413);
    assert_eq!(world.ask(&Request::new("REGISTER", 1).body(&"x".repeat(64 * 1024))).code(), 200);
    let long = format!("<sip:{}@127.0.0.1:4000>", "x".repeat(9_000));
    let long =
        Request::new("SUBSCRIBE", 1).about(2).line("Event: presence").line(&format!("Contact: {long}"));
    assert_eq!(world.ask(&long).code(), 413);
    assert_eq!(world.core.stats().subscriptions, 0);
}

#[test]
fn options_tells_what_the_pool_can_do_without_credentials() {
    let mut world = World::new(PoolConfig::default());
    let answer = world.ask(&Request::new("OPTIONS", 1));
    assert_eq!((answer.code(), answer.header("Accept")), (200, "application/pidf+xml".to_owned()));
    assert_eq!(answer.header("Allow-Events"), "presence");
    assert!(answer.header("Allow").contains("PUBLISH"));
}

#[test]
fn the_topmost_via_says_where_the_request_came_from() {
    let mut world = World::new(open());
    world.peer = Peer::Udp(SocketAddr::from(([127, 0, 0, 9], 4009)));
    let via =
        |via: &str, world: &mut World| world.ask(&Request::new("OPTIONS", 1).via(via)).all("Via").join("|");
    let cases = [
        (
            "SIP/2.0/UDP h;rport;branch=z9hG4bK1",
            "SIP/2.0/UDP h;rport=4009;branch=z9hG4bK1;received=127.0.0.9",
        ),
        ("SIP/2.0/UDP h:5070;branch=z9hG4bK2", "SIP/2.0/UDP h:5070;branch=z9hG4bK2;received=127.0.0.9"),
        (
            "SIP/2.0/UDP h;branch=z9hG4bK3 ; rport",
            "SIP/2.0/UDP h;branch=z9hG4bK3 ; rport=4009;received=127.0.0.9",
        ),
        (
            "SIP/2.0/UDP a;branch=z9hG4bK4;rport, SIP/2.0/UDP b;branch=z9hG4bKx;rport",
            "SIP/2.0/UDP a;branch=z9hG4bK4;rport=4009;received=127.0.0.9, SIP/2.0/UDP b;branch=z9hG4bKx;rport",
        ),
        (
            "SIP/2.0/UDP a;branch=z9hG4bK5;received=1.2.3.4\r\nVia: SIP/2.0/UDP b;rport",
            "SIP/2.0/UDP a;branch=z9hG4bK5;received=127.0.0.9|SIP/2.0/UDP b;rport",
        ),
    ];
    for (given, expected) in cases {
        assert_eq!(via(given, &mut world), expected);
    }
}

#[test]
fn a_copy_is_absorbed_and_answered_the_same_for_32_seconds() {
    for request in [
        Request::register(1, "<sip:a@127.0.0.1:4000>").line("Expires: 600"),
        Request::subscribe(1, 2, 600),
        Request::publish(1, "x"),
        Request::new("FOO", 1),
        Request::new("OPTIONS", 1),
        Request::register(1, "<x"),
        Request::new("OPTIONS", 1).via("SIP/2.0/UDP old:1;rport;branch=1"),
        Request::subscribe(1, 2, 0),
    ] {
        let mut world = World::new(open());
        let text = request.clone().text(1);
        let first = world.bytes(text.as_bytes());
        let before = world.core.stats();
        for wait in [0, 500 * MS, 31 * SECOND, 499 * MS] {
            world.pass(wait);
            let again = world.bytes(text.as_bytes());
            assert_eq!(again.len(), 1, "no second effect: {text}");
            assert_eq!(again[0].text, first[0].text, "byte for byte, after all that time");
        }
        let after = world.core.stats();
        assert_eq!(after.retransmitted, 4);
        assert_eq!(
            (before.registrations, before.subscriptions, before.publications),
            (after.registrations, after.subscriptions, after.publications)
        );
        // When timer J fires, after 32 s, it is another request.
        world.pass(MS);
        world.bytes(text.as_bytes());
        assert_eq!(world.core.stats().retransmitted, 4);
    }
}

#[test]
fn a_challenge_is_repeated_with_its_nonce() {
    let mut world = World::new(PoolConfig { sha256: true, ..PoolConfig::default() });
    let text = Request::new("REGISTER", 1).text(1);
    let first = world.bytes(text.as_bytes());
    assert_eq!((first[0].code(), first[0].all("WWW-Authenticate").len()), (401, 2));
    world.pass(20 * SECOND);
    assert_eq!(world.bytes(text.as_bytes())[0].text, first[0].text);
}

#[test]
fn what_differs_in_branch_sent_by_or_method_is_another_transaction() {
    let mut world = World::new(open());
    let tags: Vec<String> =
        [("OPTIONS", "h", "1"), ("OPTIONS", "h", "2"), ("OPTIONS", "i", "1"), ("FOO", "h", "1")]
            .iter()
            .map(|(method, host, branch)| {
                let via = format!("SIP/2.0/UDP {host};branch=z9hG4bK{branch}");
                world.ask(&Request::new(method, 1).via(&via)).to_tag()
            })
            .collect();
    assert_eq!(world.core.stats().retransmitted, 0);
    assert!(tags.iter().enumerate().all(|(at, tag)| !tags[..at].contains(tag)), "{tags:?}");
}

#[test]
fn over_a_stream_nothing_is_a_copy() {
    let mut world = World::new(open());
    world.peer = Peer::Stream(1, SocketAddr::from(([127, 0, 0, 1], 4000)), true);
    let text = Request::new("OPTIONS", 1).text(1);
    assert_eq!(world.bytes(text.as_bytes()).len() + world.bytes(text.as_bytes()).len(), 2);
    assert_eq!(world.core.stats().retransmitted, 0);
}

#[test]
fn a_copy_does_not_bring_a_delayed_answer_forward() {
    let delay = Some(Delay::Fixed(Duration::from_millis(700)));
    let mut world = World::new(PoolConfig { answer_delay: delay, ..open() });
    let text = Request::new("OPTIONS", 1).text(1);
    let answer = world.bytes(text.as_bytes()).remove(0);
    assert_eq!(answer.at, world.now + 700 * MS);
    world.pass(500 * MS);
    assert!(world.bytes(text.as_bytes()).is_empty());
    world.pass(500 * MS);
    let again = world.bytes(text.as_bytes());
    assert_eq!((again.len(), &again[0].text), (1, &answer.text));
}

#[test]
fn what_is_no_sip_is_counted() {
    let mut world = World::new(open());
    for bytes in [&b"hello"[..], b"GET / HTTP/1.1\r\n\r\n", b"OPTIONS sip:x SIP/2.0\r\nVia: x", b"\xff\xfe"] {
        assert!(world.bytes(bytes).is_empty());
    }
    assert_eq!(world.core.stats().malformed, 4);
    assert!(world.bytes(b"\r\n\r\n").is_empty());
    assert_eq!(world.core.stats().malformed, 4, "a keep-alive is no mistake");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever comes, the pool lives, and one datagram causes at most one answer
    /// and one NOTIFY here.
    #[test]
    fn hostile_bytes_never_panic(
        kind in 0usize..5,
        edits in prop::collection::vec((0usize..1_200, any::<u8>(), 0usize..3), 0..6),
        auth in any::<bool>(),
    ) {
        let mut world = World::new(PoolConfig { auth, ..PoolConfig::default() });
        let requests = [
            Request::register(1, "<sip:a@127.0.0.1:4000>").line("Authorization: Digest realm=\"pool.test\", nonce=\"x\""),
            Request::subscribe(1, 2, 600).line("Record-Route: <sip:127.0.0.1;lr>"),
            Request::publish(1, "x").line("SIP-If-Match: e00000000001"),
            Request::new("NOTIFY", 1),
            Request::subscribe(1, 2, 600).in_dialog("s0000000000000a"),
        ];
        let mut bytes = requests[kind].text(1).into_bytes();
        for (at, byte, edit) in edits {
            let at = at % bytes.len();
            match edit {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        let mut outs = Vec::new();
        world.core.handle(world.now, world.peer, &bytes, &mut outs);
        prop_assert!(outs.len() <= 2);
        world.core.expire(world.now + 4_000 * SECOND, &mut outs);
    }
}
