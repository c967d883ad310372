//! The knobs are ground truth: their shares, their effects, their timing, all in
//! virtual time and from a seed.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use adsum_pool::core::{Out, Peer};
use adsum_pool::faults::{Faults, REORDER_WAIT};
use adsum_pool::{Delay, PoolConfig};
use adsum_sip::Time;
use common::{MS, Request, SECOND, World, open};

const MANY: u64 = 20_000;

/// Five standard deviations of a share of `n`: wrong once in two million seeds, and the seed is fixed.
#[track_caller]
fn share_is(hits: u64, n: u64, share: f64) {
    let (expected, sigma) = (n as f64 * share, (n as f64 * share * (1.0 - share)).sqrt());
    assert!(
        (hits as f64 - expected).abs() <= 5.0 * sigma + 1e-9,
        "{hits} of {n}, expected {expected} ± {sigma}"
    );
}

fn datagram(number: u64) -> Out {
    let peer = Peer::Udp(SocketAddr::from(([127, 0, 0, 1], 4000)));
    Out { peer, bytes: number.to_be_bytes().to_vec(), at: Time(0), notify: false }
}

/// What leaves of so many datagrams, by number.
fn through(config: &PoolConfig, n: u64) -> (Vec<u64>, Faults) {
    let mut faults = Faults::new(config);
    let mut left = Vec::new();
    for number in 0..n {
        faults.leaves(Time(number), datagram(number), |out| {
            left.push(u64::from_be_bytes(out.bytes.as_slice().try_into().unwrap()));
        });
    }
    (left, faults)
}

#[test]
fn drop_loses_its_share_both_ways_and_only_datagrams() {
    let config = PoolConfig { drop: 0.1, ..open() };
    let (left, mut faults) = through(&config, MANY);
    share_is(MANY - left.len() as u64, MANY, 0.1);
    assert_eq!(faults.done().dropped_out, MANY - left.len() as u64);
    let arrived = (0..MANY).filter(|n| faults.arrives(Time(*n), true)).count() as u64;
    share_is(MANY - arrived, MANY, 0.1);
    assert_eq!(faults.done().dropped_in, MANY - arrived);
    assert!((0..MANY).all(|n| faults.arrives(Time(n), false)), "a stream loses nothing");
    let mut total = Faults::new(&PoolConfig { drop: 1.0, ..open() });
    assert!(!(0..100).any(|n| total.arrives(Time(n), true)));
}

#[test]
fn duplicate_sends_its_share_twice_in_a_row() {
    let (left, faults) = through(&PoolConfig { duplicate: 0.05, ..open() }, MANY);
    let twice = left.windows(2).filter(|w| w[0] == w[1]).count() as u64;
    share_is(twice, MANY, 0.05);
    assert_eq!((faults.done().duplicated, left.len() as u64), (twice, MANY + twice));
    assert!(left.is_sorted());
}

#[test]
fn reorder_swaps_its_share_with_the_next_and_loses_none() {
    let (left, mut faults) = through(&PoolConfig { reorder: 0.2, ..open() }, MANY);
    let swapped = left.windows(2).filter(|w| w[0] > w[1]).count() as u64;
    // One that waits makes the next one pass: of 1 + share datagrams, share were held back.
    share_is(swapped, (MANY as f64 / 1.2) as u64, 0.2);
    let waiting = faults.overdue(Time(MANY + REORDER_WAIT));
    assert_eq!(left.len() + usize::from(waiting.is_some()), MANY as usize);
    let mut all = left;
    all.extend(waiting.map(|out| u64::from_be_bytes(out.bytes.try_into().unwrap())));
    all.sort_unstable();
    assert_eq!(all, (0..MANY).collect::<Vec<_>>());
}

#[test]
fn the_last_datagram_is_held_back_for_a_tenth_of_a_second_only() {
    let mut faults = Faults::new(&PoolConfig { reorder: 1.0, ..open() });
    faults.leaves(Time(5), datagram(1), |_| panic!("it waits"));
    assert_eq!(faults.next(), Time(5 + 100 * MS));
    assert!(faults.overdue(Time(4 + 100 * MS)).is_none());
    assert!(faults.overdue(faults.next()).is_some());
    assert_eq!(faults.next(), Time::NEVER);
}

#[test]
fn stalls_begin_after_the_first_message_and_come_at_their_period() {
    let stall = Some((Duration::from_secs(10), Duration::from_secs(1)));
    let mut faults = Faults::new(&PoolConfig { stall, ..open() });
    assert_eq!((faults.next(), faults.stall(Time(u64::MAX - 1))), (Time::NEVER, None));
    assert!(faults.arrives(Time(7), false));
    assert_eq!(faults.next(), Time(7 + 10 * SECOND));
    assert_eq!(faults.stall(Time(6 + 10 * SECOND)), None);
    for turn in 1..4 {
        let begin = Time(7 + turn * 10 * SECOND);
        assert_eq!(faults.stall(begin), Some(Duration::from_secs(1)));
        faults.stalled(begin + SECOND);
        assert_eq!(faults.next(), begin + 10 * SECOND);
    }
    assert_eq!(faults.done().stalls, 3);
    // A sleeper that overslept a whole period does not catch up.
    faults.stalled(Time(100 * SECOND));
    assert_eq!(faults.next(), Time(110 * SECOND));
}

#[test]
fn reject_answers_its_share_of_one_method_with_its_code() {
    let reject = vec!["PUBLISH=503:10%".parse().unwrap(), "SUBSCRIBE=480:100%".parse().unwrap()];
    let mut world = World::new(PoolConfig { reject, ..open() });
    let mut refused = 0;
    let mut tag = None;
    for _ in 0..4_000 {
        let request = Request::publish(1, "x");
        let answer = world.ask(&match &tag {
            None => request,
            Some(tag) => request.line(&format!("SIP-If-Match: {tag}")),
        });
        match answer.code() {
            503 => refused += 1,
            _ => tag = Some(answer.header("SIP-ETag")),
        }
    }
    share_is(refused, 4_000, 0.1);
    assert_eq!(world.core.stats().sent["PUBLISH 503"], refused);
    assert_eq!(world.ask(&Request::subscribe(2, 1, 600)).code(), 480);
    assert_eq!(world.ask(&Request::new("REGISTER", 1)).code(), 200);
}

/// Publishes so often and gives how long after each the NOTIFY is due.
fn notified_after(config: PoolConfig, n: u64, gap: u64) -> (Vec<u64>, World) {
    let mut world = World::new(config);
    world.subscribed(2, 1, 3_600);
    let mut tag = None;
    let mut after = Vec::new();
    for number in 0..n {
        world.pass(gap);
        if number % 50 == 49 {
            let answer = world.ask(&Request::subscribe(2, 1, 3_600).call(&format!("again{number}"), 1));
            world.ask(
                &Request::subscribe(2, 1, 0).call(&format!("again{number}"), 2).in_dialog(&answer.to_tag()),
            );
        }
        let request = Request::publish(1, &number.to_string());
        let request = match &tag {
            None => request,
            Some(tag) => request.line(&format!("SIP-If-Match: {tag}")),
        };
        let begin = world.now;
        let sent = world.tell(&request);
        tag = Some(sent.iter().find(|m| !m.is_notify()).unwrap().header("SIP-ETag"));
        after.extend(sent.iter().filter(|m| m.is_notify()).map(|m| m.at.since(begin)));
    }
    (after, world)
}

#[test]
fn lose_notify_loses_its_share_of_what_publications_cause() {
    let (after, world) = notified_after(PoolConfig { lose_notify: 0.25, ..open() }, 2_000, 10 * MS);
    let lost = 2_000 - after.len() as u64;
    share_is(lost, 2_000, 0.25);
    assert_eq!(world.core.stats().lost_notifies, lost);
    let mut all = World::new(PoolConfig { lose_notify: 1.0, ..open() });
    assert_eq!(all.notifies(&Request::subscribe(2, 1, 600)).len(), 1, "a subscription is told all the same");
}

#[test]
fn notify_delay_is_exact_and_drawn_from_its_distribution() {
    let delay = |text: &str| Some(text.parse::<Delay>().unwrap());
    let (after, _) = notified_after(PoolConfig { notify_delay: delay("7ms"), ..open() }, 50, SECOND);
    assert!(after.len() == 50 && after.iter().all(|d| *d == 7 * MS), "{after:?}");
    let (mut after, _) =
        notified_after(PoolConfig { notify_delay: delay("lognormal(20ms, 0.5)"), ..open() }, 2_000, SECOND);
    after.sort_unstable();
    // Median 20 ms; 84 % lie below 20 ms · e^0.5.
    let quantile = |q: f64| after[(after.len() as f64 * q) as usize] as f64 / MS as f64;
    assert!((quantile(0.5) / 20.0 - 1.0).abs() < 0.07, "{}", quantile(0.5));
    assert!((quantile(0.8413) / 32.97 - 1.0).abs() < 0.1, "{}", quantile(0.8413));
    let (after, _) =
        notified_after(PoolConfig { notify_delay: delay("uniform(5ms, 10ms)"), ..open() }, 1_000, SECOND);
    assert!(after.iter().all(|d| (5 * MS..10 * MS).contains(d)));
    share_is(after.iter().filter(|d| **d < 6 * MS).count() as u64, 1_000, 0.2);
}

#[test]
fn notifications_of_one_subscription_do_not_overtake_each_other() {
    let config = PoolConfig { notify_delay: Some("exponential(50ms)".parse().unwrap()), ..open() };
    let (after, _) = notified_after(config, 500, 5 * MS);
    let at: Vec<u64> = after.iter().enumerate().map(|(n, after)| n as u64 * 5 * MS + after).collect();
    assert!(at.is_sorted());
}

#[test]
fn answer_delay_delays_every_answer_and_not_the_notification() {
    let mut world =
        World::new(PoolConfig { answer_delay: Some(Delay::Fixed(Duration::from_micros(1_234))), ..open() });
    for request in [Request::new("OPTIONS", 1), Request::new("FOO", 1), Request::new("REGISTER", 1)] {
        assert_eq!(world.ask(&request).at, world.now + 1_234_000);
    }
    let sent = world.tell(&Request::subscribe(2, 1, 600));
    assert!(sent[0].is_notify() && sent[0].at == world.now, "the NOTIFY may come first");
    assert_eq!(sent[1].at, world.now + 1_234_000);
}

#[test]
fn capacity_is_one_queue_with_one_server() {
    // 100 publications a second: 10 ms each.
    let (after, _) = notified_after(PoolConfig { capacity: Some(100.0), ..open() }, 50, 20 * MS);
    assert!(after.iter().all(|d| *d == 10 * MS), "below the knee only the service time: {after:?}");
    let (after, _) = notified_after(PoolConfig { capacity: Some(100.0), ..open() }, 50, 5 * MS);
    let expected: Vec<u64> = (0..50).map(|n| 10 * MS + n * 5 * MS).collect();
    assert_eq!(after, expected, "beyond it the queue grows by what is too much");
    let mut world = World::new(PoolConfig { capacity: Some(100.0), ..open() });
    assert_eq!(world.ask(&Request::publish(1, "x")).at, world.now + 10 * MS, "the answer waits, too");
    assert_eq!(world.ask(&Request::new("OPTIONS", 1)).at, world.now, "nothing else does");
}

#[test]
fn hold_notify_merges_to_the_nanosecond() {
    let hold = Duration::from_nanos(5_000_000_123);
    let mut world = World::new(PoolConfig { hold_notify: Some(hold), ..open() });
    world.subscribed(2, 1, 600);
    let begin = world.now;
    let mut tag = String::new();
    for note in ["one", "two", "three"] {
        let request = Request::publish(1, note);
        let request = if tag.is_empty() { request } else { request.line(&format!("SIP-If-Match: {tag}")) };
        let sent = world.tell(&request);
        assert_eq!(sent.len(), 1);
        tag = sent[0].header("SIP-ETag");
        assert!(world.pass(SECOND).is_empty());
    }
    let told = world.pass(10 * SECOND);
    assert_eq!((told.len(), told[0].notes()), (1, vec!["three".to_owned()]));
    assert_eq!(told[0].at, begin + 5_000_000_123);
    // Who is gone by then is not told.
    world.ask(&Request::publish(1, "four").line(&format!("SIP-If-Match: {tag}")));
    let leave = Request::subscribe(2, 1, 0)
        .call("SUBSCRIBE-2", 2)
        .in_dialog(told[0].header("From").split_once(";tag=").unwrap().1);
    assert_eq!(world.notifies(&leave)[0].notes(), ["four"]);
    assert!(world.pass(10 * SECOND).is_empty());
}

#[test]
fn strip_note_leaves_the_status() {
    let mut world = World::new(PoolConfig { strip_note: true, ..open() });
    world.subscribed(2, 1, 600);
    let told = world.notifies(&Request::publish(1, "secret")).remove(0);
    let document = told.document();
    assert_eq!((document.tuples.len(), document.tuples[0].open), (1, true));
    assert!(!told.body().contains("note") && document.tuples[0].notes.is_empty(), "{}", told.text);
}

#[test]
fn notify_from_is_named_in_via() {
    let mut world = World::new(PoolConfig { notify_from: Some([127, 0, 0, 2].into()), ..open() });
    let told = world.notifies(&Request::subscribe(2, 1, 600)).remove(0);
    assert!(told.header("Via").starts_with("SIP/2.0/UDP 127.0.0.2:5060;"), "{}", told.text);
    assert_eq!(told.header("Contact"), "<sip:127.0.0.1:5060>");
}

#[test]
fn the_same_seed_makes_the_same_faults() {
    let config = |seed| PoolConfig {
        seed,
        drop: 0.1,
        duplicate: 0.1,
        reorder: 0.1,
        lose_notify: 0.3,
        notify_delay: Some("exponential(20ms)".parse().unwrap()),
        answer_delay: Some("uniform(0ms, 1ms)".parse().unwrap()),
        reject: vec!["SUBSCRIBE=503:0%".parse().unwrap()],
        ..open()
    };
    let wire = |seed| through(&config(seed), 2_000).0;
    let core = |seed| notified_after(config(seed), 300, 10 * MS).0;
    assert_eq!((wire(1), core(1)), (wire(1), core(1)));
    assert_ne!(wire(1), wire(2));
    assert_ne!(core(1), core(2));
}
