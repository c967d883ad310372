//! How endpoints leave, and what those who watch are told of it.

mod common;

use common::lync::{World, machine, note, open, state, user_state};
use common::{MS, SECOND};

/// Point 14: everything is taken back, and the connection is closed at once.
#[test]
fn signing_off_leaves_nothing_but_static_instances() {
    let mut world = World::new(open());
    let watcher = world.watcher(2, 2, &[1]);
    let mut client = world.own(1, 1);
    let request = client.batch("subscribe", &[common::aor(2)], &["state"]);
    client.batch_tag = world.ok(&client, &request).0.to_tag();
    let all = [machine(0, 3_500).to_vec(), user_state(0, 3_500).to_vec(), vec![note(200, 0, "x")]].concat();
    let request = client.publish(&all);
    world.ok(&client, &request);
    let (own, batch) = (client.own_tag.clone(), client.batch_tag.clone());
    let request = client.subscribe("presence").in_dialog(&batch).line("Expires: 0");
    let (answer, others) = world.ok(&client, &request);
    assert_eq!((answer.header("Expires"), others.len()), ("0".to_owned(), 0));
    let request = client.subscribe("vnd-microsoft-roaming-self").in_dialog(&own).line("Expires: 0");
    world.ok(&client, &request);
    let request = client.register().line("Expires: 0");
    let (answer, others) = world.ok(&client, &request);
    assert_eq!(answer.header("Expires"), "0");
    // Those who watch: off line, and nothing about the note, which stays.
    assert_eq!(others.len(), 1);
    assert_eq!(others[0].peer, watcher.peer);
    assert_eq!(others[0].availabilities(), [18_500]);
    assert!(!others[0].body().contains("note"));
    assert!(world.disconnect(&client).is_empty());
    let stats = world.stats();
    assert_eq!((stats.registrations, stats.subscriptions, stats.watches), (1, 1, 1));
    assert_eq!((stats.publications, stats.lost_endpoints), (3, 0));
    // The next run finds their versions.
    let again = world.own(1, 3);
    let refresh = {
        let mut again = again.clone();
        again.subscribe("vnd-microsoft-roaming-self").in_dialog(&again.own_tag.clone())
    };
    let body = world.ok(&again, &refresh).0;
    assert!(body.body().contains("instance=\"536870912\""));
}

#[test]
fn a_lost_connection_is_a_sign_off_by_force() {
    let mut world = World::new(open());
    let watcher = world.watcher(2, 2, &[1]);
    let mut client = world.own(1, 1);
    let request = client.publish(&machine(0, 3_500));
    world.ok(&client, &request);
    let sent = world.disconnect(&client);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].peer, sent[0].availabilities()), (watcher.peer, vec![18_500]));
    assert_eq!(world.stats().lost_endpoints, 1);
    assert!(world.disconnect(&client).is_empty());
    // What comes late over a connection that is gone is about nobody.
    let request = client.subscribe("vnd-microsoft-roaming-self").in_dialog(&client.own_tag.clone());
    assert_eq!(world.ask(&client, &request).code(), 481);
    let request = client.subscribe("vnd-microsoft-roaming-self");
    assert_eq!(world.ask(&client, &request).code(), 403);
}

#[test]
fn the_end_of_a_registration_is_one_too() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let request = client.publish(&machine(0, 3_500));
    world.ok(&client, &request);
    world.pass(300 * SECOND);
    let watcher = world.watcher(2, 2, &[1]);
    assert!(world.pass(299 * SECOND).is_empty());
    let sent = world.pass(SECOND + MS);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].peer, sent[0].availabilities()), (watcher.peer, vec![18_500]));
}

/// A refresh may ask for less: what was granted last counts.
#[test]
fn a_registration_ends_when_its_latest_200_says() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let long = client.register().line("Expires: 900");
    world.ok(&client, &long);
    let short = client.register().line("Expires: 300");
    assert_eq!(world.ok(&client, &short).0.header("Expires"), "300");
    world.pass(299 * SECOND);
    assert_eq!(world.stats().registrations, 1);
    world.pass(SECOND + MS);
    assert_eq!(world.stats().registrations, 0);
}

#[test]
fn a_user_with_two_endpoints_stays_on_line_with_the_other() {
    let mut world = World::new(open());
    let watcher = world.watcher(2, 2, &[1]);
    let mut desk = world.client(1, 1);
    let mut phone = world.client(1, 3);
    let machine = |number, availability| [2, 3].map(|c| state("machineState", number, c, 0, availability));
    let request = desk.publish(&machine(1, 3_500));
    world.ok(&desk, &request);
    let request = phone.publish(&machine(2, 15_500));
    assert!(world.ok(&phone, &request).1.is_empty(), "the most available machine counts");
    let sent = world.disconnect(&desk);
    assert_eq!((sent.len(), sent[0].availabilities()), (1, vec![15_500]));
    let sent = world.disconnect(&phone);
    assert_eq!((sent.len(), sent[0].availabilities()), (1, vec![18_500]));
    assert_eq!(sent[0].peer, watcher.peer);
}

#[test]
fn an_endpoint_that_moves_to_another_connection_keeps_what_it_has() {
    let mut world = World::new(open());
    let mut client = world.own(1, 1);
    let before = client.clone();
    client.peer = common::lync::Client::new(1, 9).peer;
    let request = client.register();
    assert!(world.ok(&client, &request).0.header("presence-state").contains("refreshed"));
    assert!(world.disconnect(&before).is_empty());
    let request = client.publish(&[note(200, 0, "x")]);
    let (_, others) = world.ok(&client, &request);
    assert_eq!(others.len(), 1);
    assert_eq!(others[0].peer, client.peer);
    assert_eq!(world.stats().registrations, 1);
}

#[test]
fn signing_off_twice_is_answered_twice() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    for _ in 0..2 {
        let request = client.register().line("Expires: 0");
        assert_eq!(world.ok(&client, &request).0.header("Expires"), "0");
    }
    assert_eq!(world.stats().registrations, 0);
}
