//! Subscriptions and their notifications (RFC 6665, 3856).

mod common;

use std::net::SocketAddr;

use adsum_pool::core::Peer;
use proptest::prelude::*;

use common::{MS, Msg, Request, SECOND, World, open};

/// A request in the dialog of an answer.
fn within(answer: &Msg, user: u32, watched: u32, expires: u32, cseq: u32) -> Request {
    Request::subscribe(user, watched, expires)
        .in_dialog(&answer.to_tag())
        .call(&answer.header("Call-ID"), cseq)
}

#[test]
fn a_subscription_is_accepted_and_told_the_state_at_once() {
    let mut world = World::new(open());
    world.ask(&Request::publish(1, "here"));
    let sent = world.tell(&Request::subscribe(2, 1, 600));
    let [answer, notify] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((answer.code(), answer.header("Expires").as_str()), (200, "600"));
    assert_eq!(answer.header("Contact"), "<sip:127.0.0.1:5060>");
    assert_eq!(notify.request_uri(), "sip:user000002@127.0.0.1:4000");
    assert_eq!(notify.header("Call-ID"), answer.header("Call-ID"));
    // The dialog seen from the other side (RFC 3261 §12.1.1).
    assert_eq!(notify.header("From"), answer.header("To"));
    assert_eq!(notify.header("To"), answer.header("From"));
    assert_eq!((notify.state(), notify.header("Event")), ("active;expires=600".into(), "presence".into()));
    assert_eq!(notify.header("Content-Type"), "application/pidf+xml");
    assert_eq!(notify.notes(), ["here"]);
    assert_eq!(world.core.stats().subscriptions, 1);
}

#[test]
fn refreshes_keep_it_alive_and_are_told_too() {
    let mut world = World::new(open());
    let answer = world.subscribed(2, 1, 100);
    for turn in 2..6 {
        assert!(world.pass(90 * SECOND).is_empty());
        let told = world.notifies(&within(&answer, 2, 1, 100, turn));
        assert_eq!((told.len(), told[0].state()), (1, "active;expires=100".into()));
        assert_eq!(told[0].cseq(), turn, "CSeq rises by one");
    }
    // A shorter lifetime counts from now.
    world.notifies(&within(&answer, 2, 1, 60, 9));
    let told = world.pass(61 * SECOND);
    assert_eq!((told.len(), told[0].state()), (1, "terminated;reason=timeout".into()));
}

#[test]
fn a_refresh_may_shorten_the_lifetime() {
    let mut world = World::new(open());
    let answer = world.subscribed(2, 1, 3_600);
    world.notifies(&within(&answer, 2, 1, 60, 2));
    assert!(world.pass(60 * SECOND - MS).is_empty());
    assert_eq!(world.pass(2 * MS).len(), 1);
    assert_eq!(world.core.stats().subscriptions, 0);
}

#[test]
fn unsubscribing_ends_with_a_last_notification() {
    let mut world = World::new(open());
    let answer = world.subscribed(2, 1, 600);
    let sent = world.tell(&within(&answer, 2, 1, 0, 2));
    assert_eq!((sent[0].code(), sent[0].header("Expires").as_str()), (200, "0"));
    assert_eq!((sent[1].state(), sent.len()), ("terminated;reason=timeout".into(), 2));
    assert_eq!(world.core.stats().subscriptions, 0);
    assert_eq!(world.ask(&within(&answer, 2, 1, 600, 3)).code(), 481);
    assert!(world.notifies(&Request::publish(1, "x")).is_empty());
}

#[test]
fn a_fetch_is_answered_once_and_leaves_nothing() {
    let mut world = World::new(open());
    world.ask(&Request::publish(1, "here"));
    let told = world.notifies(&Request::subscribe(2, 1, 0));
    assert_eq!(
        (told.len(), told[0].state(), told[0].notes()),
        (1, "terminated;reason=timeout".into(), vec!["here".into()])
    );
    assert_eq!(world.core.stats().subscriptions, 0);
    assert!(world.pass(4_000 * SECOND).is_empty());
}

#[test]
fn expiry_ends_it_with_a_notification_in_time() {
    let mut world = World::new(open());
    world.subscribed(2, 1, 60);
    assert!(world.pass(60 * SECOND - MS).is_empty());
    let told = world.pass(2 * MS);
    assert_eq!((told.len(), told[0].state()), (1, "terminated;reason=timeout".into()));
    assert_eq!(world.core.stats().subscriptions, 0);
}

#[test]
fn what_is_no_dialog_of_ours_is_481() {
    let mut world = World::new(open());
    let answer = world.subscribed(2, 1, 600);
    let gone =
        |world: &mut World, request: Request| assert_eq!(world.ask(&request).code(), 481, "{request:?}");
    let base = || Request::subscribe(2, 1, 600);
    let (call, tag) = (answer.header("Call-ID"), answer.to_tag());
    gone(&mut world, base().call(&call, 2).in_dialog("unknown"));
    gone(&mut world, base().call("other", 2).in_dialog(&tag));
    gone(&mut world, base().call(&call, 2).in_dialog(&tag).from("<sip:user000002@pool.test>;tag=other"));
    // The slot alone is not enough: the rest of the tag is a hash under a secret.
    let guessed = format!("{}{}", &tag[..7], "0".repeat(8));
    gone(&mut world, base().call(&call, 2).in_dialog(&guessed));
    let other = Request::new("SUBSCRIBE", 2)
        .about(1)
        .line("Contact: <sip:x@127.0.0.1:4000>")
        .line("Event: presence;id=7");
    gone(&mut world, other.call(&call, 2).in_dialog(&tag));
    // Somebody else's dialog stays somebody else's.
    let thief =
        Request::subscribe(3, 1, 0).from("<sip:user000003@pool.test>;tag=f2").call(&call, 2).in_dialog(&tag);
    assert_eq!(world.ask(&thief).code(), 403);
    // A slot that is used again has another tag.
    world.ask(&within(&answer, 2, 1, 0, 3));
    let next = world.ask(&base().call("next", 1));
    assert_ne!(next.to_tag(), tag);
    assert_eq!(next.to_tag()[..7], tag[..7]);
    gone(&mut world, within(&answer, 2, 1, 600, 4));
    assert_eq!(world.ask(&within(&next, 2, 1, 600, 2)).code(), 200);
}

#[test]
fn wrong_packages_and_bodies_are_refused() {
    let mut world = World::new(open());
    for event in ["Event: dialog", "Event: presence.winfo", "Subject: no event"] {
        let request =
            Request::new("SUBSCRIBE", 2).about(1).line("Contact: <sip:x@127.0.0.1:4000>").line(event);
        let answer = world.ask(&request);
        assert_eq!((answer.code(), answer.header("Allow-Events")), (489, "presence".into()), "{event}");
    }
    let body = world.ask(&Request::subscribe(2, 1, 600).line("Accept: application/xpidf+xml"));
    assert_eq!((body.code(), body.header("Accept")), (406, "application/pidf+xml".into()));
    assert_eq!(world.ask(&Request::subscribe(2, 1, 600).line("Accept: text/*, */*;q=0.1")).code(), 200);
    assert_eq!(world.ask(&Request::subscribe(2, 1, 59)).code(), 423);
    let nowhere = Request::new("SUBSCRIBE", 2).about(1).line("Event: presence");
    assert_eq!(world.ask(&nowhere).code(), 400, "no Contact");
    let elsewhere = nowhere.line("Contact: <sip:x@192.0.2.1>");
    assert_eq!(world.ask(&elsewhere).code(), 403, "nothing is sent to a third host");
    assert_eq!(world.core.stats().subscriptions, 1);
}

#[test]
fn requests_of_a_dialog_come_in_order() {
    let mut world = World::new(open());
    let answer = world.subscribed(2, 1, 600);
    assert_eq!(world.ask(&within(&answer, 2, 1, 600, 5)).code(), 200);
    assert_eq!(world.ask(&within(&answer, 2, 1, 600, 5)).code(), 500);
    assert_eq!(world.ask(&within(&answer, 2, 1, 0, 4)).code(), 500);
    assert_eq!(world.core.stats().subscriptions, 1);
}

#[test]
fn the_event_id_comes_back() {
    let mut world = World::new(open());
    let request = Request::new("SUBSCRIBE", 2)
        .about(1)
        .line("Contact: <sip:x@127.0.0.1:4000>")
        .line("Event: presence;id=7");
    assert_eq!(world.notifies(&request)[0].header("Event"), "presence;id=7");
}

#[test]
fn everybody_who_watches_is_told_in_the_order_of_coming() {
    let mut world = World::new(open());
    let answers: Vec<Msg> = (2..7).map(|user| world.subscribed(user, 1, 600)).collect();
    world.subscribed(2, 3, 600);
    world.tell(&within(&answers[0], 2, 1, 0, 2));
    world.tell(&within(&answers[2], 4, 1, 0, 2));
    world.tell(&within(&answers[4], 6, 1, 0, 2));
    world.subscribed(8, 1, 600);
    let told = world.notifies(&Request::publish(1, "x"));
    let uris: Vec<String> = told.iter().map(|n| n.request_uri()[..14].to_owned()).collect();
    assert_eq!(uris, ["sip:user000003", "sip:user000005", "sip:user000008"]);
}

#[test]
fn loose_routes_are_kept_in_order_and_followed() {
    let mut world = World::new(open());
    let routed = Request::subscribe(2, 1, 600)
        .line("Record-Route: <sip:127.0.0.1:7000;lr>, <sip:p2.test;lr>")
        .line("Record-Route: <sip:p3.test;lr>");
    let told = world.notifies(&routed).remove(0);
    assert_eq!(told.request_uri(), "sip:user000002@127.0.0.1:4000");
    assert_eq!(told.all("Route"), ["<sip:127.0.0.1:7000;lr>", "<sip:p2.test;lr>", "<sip:p3.test;lr>"]);
    assert_eq!(told.peer, Peer::Udp(SocketAddr::from(([127, 0, 0, 1], 7000))));
    // It stays so for the life of the dialog (RFC 3261 §12.2).
    let told = world.notifies(&Request::publish(1, "x")).remove(0);
    assert_eq!(
        (told.all("Route").len(), told.peer),
        (3, Peer::Udp(SocketAddr::from(([127, 0, 0, 1], 7000))))
    );
}

#[test]
fn a_strict_router_gets_the_request_uri() {
    let mut world = World::new(open());
    let routed = Request::subscribe(2, 1, 600).line("Record-Route: <sip:127.0.0.1:7000>, <sip:p2.test;lr>");
    let told = world.notifies(&routed).remove(0);
    assert_eq!(told.request_uri(), "sip:127.0.0.1:7000");
    assert_eq!(told.all("Route"), ["<sip:p2.test;lr>", "<sip:user000002@127.0.0.1:4000>"]);
}

#[test]
fn a_refresh_may_move_the_subscriber() {
    let mut world = World::new(open());
    let answer = world.subscribed(2, 1, 600);
    let moved = Request::new("SUBSCRIBE", 2)
        .about(1)
        .line("Event: presence")
        .line("Contact: <sip:user000002@127.0.0.1:4444>")
        .in_dialog(&answer.to_tag())
        .call(&answer.header("Call-ID"), 2);
    world.notifies(&moved);
    let told = world.notifies(&Request::publish(1, "x")).remove(0);
    assert_eq!(told.request_uri(), "sip:user000002@127.0.0.1:4444");
    assert_eq!(told.peer, Peer::Udp(SocketAddr::from(([127, 0, 0, 1], 4444))));
    assert_eq!(told.header("To"), answer.header("From"));
}

#[test]
fn an_answer_that_ends_the_subscription_ends_it() {
    for (code, left) in [(481, 0), (404, 0), (489, 0), (604, 0), (500, 1), (503, 1), (200, 1)] {
        let mut world = World::new(open());
        world.notified = Some(code);
        world.subscribed(2, 1, 600);
        let stats = world.core.stats();
        assert_eq!((stats.subscriptions, stats.lost_subscriptions), (left, 1 - left), "{code}");
    }
}

#[test]
fn an_unanswered_notify_is_sent_eleven_times_and_then_the_subscription_is_gone() {
    let mut world = World::new(open());
    world.notified = None;
    let first = world.notifies(&Request::subscribe(2, 1, 600)).remove(0);
    let begin = world.now;
    let again = world.pass(33 * SECOND);
    assert!(again.iter().all(|m| m.text == first.text));
    let at: Vec<u64> = again.iter().map(|m| m.at.since(begin) / MS).collect();
    // Timer E; the wheel may add its tick of a millisecond.
    let expected = [500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500];
    assert!(at.iter().zip(expected).all(|(at, e)| (e..=e + 2).contains(at)), "{at:?}");
    assert_eq!(at.len(), expected.len());
    let stats = world.core.stats();
    assert_eq!((stats.subscriptions, stats.lost_subscriptions), (0, 1));
    assert_eq!(stats.sent["NOTIFY"], 11);
}

#[test]
fn over_a_stream_nothing_is_sent_again_but_timer_f_and_481_count() {
    for answered in [None, Some(481)] {
        let mut world = World::new(open());
        world.peer = Peer::Stream(9, SocketAddr::from(([127, 0, 0, 1], 4000)), false);
        world.notified = answered;
        let told = world.notifies(&Request::subscribe(2, 1, 600)).remove(0);
        assert_eq!(told.peer, world.peer);
        assert!(told.header("Via").starts_with("SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bK"));
        assert_eq!(told.header("Contact"), "<sip:127.0.0.1:5060;transport=tcp>");
        assert!(world.pass(31 * SECOND).is_empty());
        assert_eq!(world.core.stats().subscriptions, u64::from(answered.is_none()));
        assert!(world.pass(2 * SECOND).is_empty());
        assert_eq!(world.core.stats().lost_subscriptions, 1);
    }
}

#[test]
fn a_connection_that_is_gone_takes_its_subscriptions_along() {
    let mut world = World::new(open());
    let stream = |n| Peer::Stream(n, SocketAddr::from(([127, 0, 0, 1], 4000)), false);
    let mut answers = Vec::new();
    for (user, connection) in [(2, 1), (3, 1), (4, 2), (5, 1), (6, 2)] {
        world.peer = stream(connection);
        answers.push(world.subscribed(user, 1, 600));
    }
    // User 3 moves over; user 5 leaves.
    world.peer = stream(2);
    world.notifies(&within(&answers[1], 3, 1, 600, 2));
    world.notifies(&within(&answers[3], 5, 1, 0, 2));
    world.core.disconnected(world.now, stream(1), &mut Vec::new());
    assert_eq!(world.core.stats().subscriptions, 3);
    assert_eq!(world.notifies(&Request::publish(1, "x")).len(), 3);
    world.core.disconnected(world.now, stream(2), &mut Vec::new());
    world.core.disconnected(world.now, stream(2), &mut Vec::new());
    assert_eq!(world.core.stats().subscriptions, 0);
}

#[test]
fn a_foreign_branch_answers_nothing() {
    let mut world = World::new(open());
    world.notified = None;
    let told = world.notifies(&Request::subscribe(2, 1, 600)).remove(0);
    let answer = told.answer(481);
    let branch = told.header("Via").split_once("branch=").unwrap().1.to_owned();
    let others = [
        answer.replace(&branch, "z9hG4bKpool000000zzzzzz"),
        answer.replace(&branch, "z9hG4bKpoolzzzzzz000001"),
        answer.replace(&branch, "z9hG4bKother"),
        answer.replace("1 NOTIFY", "1 SUBSCRIBE"),
    ];
    for other in others {
        assert!(world.bytes(other.as_bytes()).is_empty());
        assert_eq!(world.core.stats().subscriptions, 1, "{other}");
    }
    world.bytes(answer.as_bytes());
    assert_eq!(world.core.stats().subscriptions, 0);
}

#[derive(Debug, Clone)]
enum Step {
    Subscribe {
        watched: u32,
        stream: u64,
    },
    /// Of the dialog at this place among those there are: again, over this connection.
    Refresh {
        at: usize,
        stream: u64,
    },
    Unsubscribe {
        at: usize,
    },
    Disconnect {
        stream: u64,
    },
    Publish {
        watched: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (watched, stream, at) = (1u32..4, 0u64..4, 0usize..64);
    prop_oneof![
        4 => (watched.clone(), stream.clone()).prop_map(|(watched, stream)| Step::Subscribe { watched, stream }),
        2 => (at.clone(), stream.clone()).prop_map(|(at, stream)| Step::Refresh { at, stream }),
        2 => at.prop_map(|at| Step::Unsubscribe { at }),
        1 => stream.prop_map(|stream| Step::Disconnect { stream }),
        2 => watched.prop_map(|watched| Step::Publish { watched }),
    ]
}

/// Connection 0 is UDP.
fn over(stream: u64) -> Peer {
    let address = SocketAddr::from(([127, 0, 0, 1], 4000));
    if stream == 0 { Peer::Udp(address) } else { Peer::Stream(stream, address, false) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// Against a plain list of dialogs: who is told of a publication, over which
    /// connection, in which order, whatever happened before.
    #[test]
    fn exactly_those_who_watch_are_told(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new(open());
        // Call-ID, tag, user watched, connection, latest CSeq.
        let mut dialogs: Vec<(String, Msg, u32, u64, u32)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Subscribe { watched, stream } => {
                    world.peer = over(stream);
                    let call = format!("call-{number}");
                    let answer = world.ask(&Request::subscribe(9, watched, 600).call(&call, 1));
                    prop_assert_eq!(answer.code(), 200);
                    dialogs.push((call, answer, watched, stream, 1));
                }
                Step::Refresh { at, stream } if !dialogs.is_empty() => {
                    let at = at % dialogs.len();
                    let (_, answer, watched, peer, cseq) = &mut dialogs[at];
                    (*peer, *cseq, world.peer) = (stream, *cseq + 1, over(stream));
                    prop_assert_eq!(world.ask(&within(answer, 9, *watched, 600, *cseq)).code(), 200);
                }
                Step::Unsubscribe { at } if !dialogs.is_empty() => {
                    let (_, answer, watched, stream, cseq) = dialogs.remove(at % dialogs.len());
                    world.peer = over(stream);
                    prop_assert_eq!(world.ask(&within(&answer, 9, watched, 0, cseq + 1)).code(), 200);
                }
                Step::Disconnect { stream } => {
                    world.core.disconnected(world.now, over(stream), &mut Vec::new());
                    dialogs.retain(|d| stream == 0 || d.3 != stream);
                }
                Step::Publish { watched } => {
                    world.peer = over(0);
                    let sent = world.tell(&Request::publish(watched, "x").call(&format!("p{number}"), 1));
                    // After sixteen documents there are no more: then nobody is told.
                    if sent[0].code() == 200 {
                        let told: Vec<_> = sent[1..].iter().map(|m| (m.header("Call-ID"), m.peer)).collect();
                        let expected: Vec<_> =
                            dialogs.iter().filter(|d| d.2 == watched).map(|d| (d.0.clone(), over(d.3))).collect();
                        prop_assert_eq!(told, expected);
                    }
                }
                Step::Refresh { .. } | Step::Unsubscribe { .. } => {}
            }
            prop_assert_eq!(world.core.stats().subscriptions, dialogs.len() as u64);
        }
        world.pass(601 * SECOND);
        prop_assert_eq!(world.core.stats().subscriptions, 0);
    }
}
