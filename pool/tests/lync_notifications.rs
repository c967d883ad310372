//! BENOTIFY and NOTIFY: to whom, in which dialog, and the faults on their way.

mod common;

use std::time::Duration;

use adsum_pool::PoolConfig;
use adsum_pool::config::Delay;
use common::lync::{World, machine, note, open, user_state, with};
use common::{MS, Msg, aor};

/// Point 13: where it goes, in whose name, with which number.
#[test]
fn a_benotify_goes_to_the_registered_contact_in_the_dialog_turned_round() {
    let mut world = World::new(open());
    let mut alice = world.client(2, 2);
    let bob = world.watcher(1, 1, &[2]);
    let request = alice.publish(&[note(200, 0, "pt1:run42:00001:17")]);
    let (_, others) = world.ok(&alice, &request);
    assert_eq!(others.len(), 1);
    let told = &others[0];
    assert_eq!(told.peer, bob.peer);
    assert!(told.text.starts_with("BENOTIFY sip:127.0.0.1:40001;transport=tcp;ms-opaque=d3470f2e1d;ms-received-cid=1 SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bK"));
    assert_eq!(told.header("From"), format!("<{}>;tag={}", aor(1), bob.batch_tag));
    assert_eq!(told.header("To"), format!("<{}>;tag=t{};epid={}", aor(1), bob.epid, bob.epid));
    assert_eq!(told.header("Call-ID"), format!("presence-{}", bob.epid));
    // The 200 was the first.
    assert_eq!(told.header("CSeq"), "2 BENOTIFY");
    assert_eq!(told.header("Event"), "presence");
    assert_eq!(told.header("Require"), "eventlist");
    assert_eq!(told.header("subscription-state"), "active;expires=28800");
    assert_eq!(told.header("Content-Type"), "application/msrtc-event-categories+xml");
    assert_eq!(told.header("Max-Forwards"), "70");
    assert_eq!(
        told.body(),
        "<categories xmlns=\"http://schemas.microsoft.com/2006/09/sip/categories\" uri=\"sip:user000002@pool.test\">\
         <category name=\"note\" instance=\"0\" publishTime=\"2026-01-05T10:00:00.000\">\
         <note xmlns=\"http://schemas.microsoft.com/2006/09/sip/note\"><body type=\"personal\" uri=\"\">pt1:run42:00001:17</body></note>\
         </category></categories>"
    );
    // Numbers rise, and an answer to it is nothing.
    assert!(world.say(bob.peer, &told.answer(481)).is_empty());
    let request = alice.publish(&[note(200, 1, "next")]);
    assert_eq!(world.ok(&alice, &request).1[0].header("CSeq"), "3 BENOTIFY");
}

#[test]
fn only_what_a_watcher_may_see_and_wants_is_told() {
    let mut world = World::new(open());
    let mut alice = world.client(2, 2);
    world.watcher(1, 1, &[2]);
    let mut told = |publications: &[String]| {
        let request = alice.publish(publications);
        let (_, others) = world.ok(&alice, &request);
        others.into_iter().map(|m| m.body().to_owned()).collect::<Vec<_>>()
    };
    // In containers that are not his.
    assert!(told(&[note(300, 0, "x"), note(100, 0, "x")]).is_empty());
    // Inputs of aggregation: only what comes of them, once.
    let all = told(&[machine(0, 3_500).to_vec(), user_state(0, 3_500).to_vec()].concat());
    assert_eq!(all.len(), 1);
    assert!(all[0].contains("<availability>3500</availability>") && !all[0].contains("note"));
    // The same again changes nothing that he sees.
    assert!(told(&user_state(1, 3_500)).is_empty());
    // Only container 3: for the workgroup.
    assert!(told(&user_state(2, 6_500)[1..]).is_empty());
    // Both categories in one.
    let all = told(&[user_state(2, 6_500)[..1].to_vec(), vec![note(200, 0, "y")]].concat());
    assert_eq!(all.len(), 1);
    assert!(all[0].contains("<availability>6500</availability>") && all[0].contains(">y<"));
}

#[test]
fn everybody_who_watches_is_told_once_and_nobody_else() {
    let mut world = World::new(open());
    let mut alice = world.client(100, 100);
    let mut carol = world.client(101, 101);
    let watchers: Vec<_> = (1..=40).map(|n| world.watcher(n, u64::from(n), &[100])).collect();
    world.watcher(50, 50, &[101]);
    world.disconnect(&watchers[7]);
    let request = alice.publish(&[note(200, 0, "x")]);
    let (_, others) = world.ok(&alice, &request);
    let mut peers: Vec<u16> = others
        .iter()
        .map(|m| match m.peer {
            adsum_pool::core::Peer::Stream(_, address, _) | adsum_pool::core::Peer::Udp(address) => {
                address.port()
            }
        })
        .collect();
    peers.sort_unstable();
    let expected: Vec<u16> = (40_001..=40_040).filter(|port| *port != 40_008).collect();
    assert_eq!(peers, expected);
    let request = carol.publish(&[note(200, 0, "x")]);
    assert_eq!(world.ok(&carol, &request).1.len(), 1);
}

#[test]
fn by_knob_a_notify_comes_instead() {
    let mut world = World::new(with(|lync| lync.notify_instead = true));
    let mut alice = world.client(2, 2);
    let bob = world.watcher(1, 1, &[2]);
    let request = alice.publish(&[note(200, 0, "x")]);
    let (_, others) = world.ok(&alice, &request);
    assert_eq!(others[0].header("CSeq"), "2 NOTIFY");
    assert!(others[0].header("Contact").contains("127.0.0.1:5060"));
    assert!(world.say(bob.peer, &others[0].answer(200)).is_empty());
    assert_eq!(world.stats().sent["NOTIFY"], 1);
    assert_eq!(world.stats().received["NOTIFY 200"], 1);
}

#[test]
fn by_knob_notifications_are_lost_and_own_ones_are_not() {
    let mut world = World::new(PoolConfig { lose_notify: 0.5, ..open() });
    let mut alice = world.own(2, 2);
    world.watcher(1, 1, &[2]);
    let mut told = [0, 0];
    for version in 0..400 {
        let request = alice.publish(&[note(200, version, "x")]);
        let (_, others) = world.ok(&alice, &request);
        told[0] += others.iter().filter(|m| m.peer == alice.peer).count();
        told[1] += others.iter().filter(|m| m.peer != alice.peer).count();
    }
    assert_eq!(told[0], 400);
    assert!((160..=240).contains(&told[1]), "{told:?}");
    assert_eq!(world.stats().lost_notifies, 400 - told[1] as u64);
}

#[test]
fn delays_are_kept_and_nothing_overtakes() {
    let delay = Delay::Uniform(Duration::from_millis(10), Duration::from_millis(50));
    let mut world = World::new(PoolConfig { notify_delay: Some(delay), ..open() });
    let mut alice = world.client(2, 2);
    world.watcher(1, 1, &[2]);
    let mut all: Vec<(u64, String)> = Vec::new();
    for version in 0..50 {
        let request = alice.publish(&[note(200, version, "x")]);
        let begin = world.now;
        let (answer, others) = world.ok(&alice, &request);
        assert_eq!(answer.at, begin);
        assert_eq!(others.len(), 1);
        assert!(others[0].at.since(begin) >= 10 * MS);
        all.push((others[0].at.0, others[0].header("CSeq")));
        world.pass(MS);
    }
    assert!(all.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    let numbers: Vec<String> = (2..52).map(|n| format!("{n} BENOTIFY")).collect();
    assert_eq!(all.into_iter().map(|(_, cseq)| cseq).collect::<Vec<_>>(), numbers);
}

/// The 200 is the first notification of the dialog: the second one does not overtake it.
#[test]
fn a_200_that_is_late_is_not_overtaken_by_what_follows_it() {
    let delay = Some(Delay::Fixed(Duration::from_millis(100)));
    let mut world = World::new(PoolConfig { answer_delay: delay, ..open() });
    let mut alice = world.client(2, 2);
    let mut bob = world.client(1, 1);
    let request = bob.batch("subscribe", &[aor(2)], &["note"]);
    let (subscribed, _) = world.ok(&bob, &request);
    world.pass(10 * MS);
    let request = alice.publish(&[note(200, 0, "x")]);
    let (answer, others) = world.ok(&alice, &request);
    assert_eq!(subscribed.header("ms-piggyback-cseq"), "1");
    assert_eq!((others.len(), others[0].header("CSeq")), (1, "2 BENOTIFY".to_owned()));
    assert_eq!(others[0].at, subscribed.at);
    assert!(others[0].at < answer.at);
    // Without the piggyback nothing depends on it.
    let request = bob.subscribe_plain("vnd-microsoft-roaming-self");
    let (answer, others) = world.ok(&bob, &request);
    assert!(others[0].at < answer.at);
}

#[test]
fn by_knob_what_comes_together_is_told_together() {
    let mut world = World::new(PoolConfig { hold_notify: Some(Duration::from_millis(100)), ..open() });
    let mut alice = world.client(2, 2);
    let bob = world.watcher(1, 1, &[2, 3]);
    let request = alice.publish(&[note(200, 0, "first")]);
    assert!(world.ok(&alice, &request).1.is_empty());
    world.pass(50 * MS);
    let request = alice.publish(&[machine(0, 3_500).to_vec(), vec![note(200, 1, "second")]].concat());
    assert!(world.ok(&alice, &request).1.is_empty());
    assert!(world.pass(49 * MS).is_empty());
    let sent = world.pass(2 * MS);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].peer, bob.peer);
    assert!(sent[0].body().contains(">second<") && sent[0].availabilities() == [3_500]);
    assert!(world.pass(500 * MS).is_empty());
    // Whoever left meanwhile is not told.
    let request = alice.publish(&[note(200, 2, "third")]);
    world.ok(&alice, &request);
    world.disconnect(&bob);
    assert!(world.pass(500 * MS).is_empty());
}

#[test]
fn by_knob_notes_are_stripped() {
    let mut world = World::new(PoolConfig { strip_note: true, ..open() });
    let mut alice = world.own(2, 2);
    world.watcher(1, 1, &[2]);
    let request = alice.publish(&[note(200, 0, "secret")]);
    let (answer, others) = world.ok(&alice, &request);
    assert!(answer.body().contains("secret"));
    let seen: Vec<&Msg> = others.iter().filter(|m| m.peer != alice.peer).collect();
    assert!(seen[0].body().contains("<category name=\"note\"/>"));
}
