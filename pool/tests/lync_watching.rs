//! Batch subscriptions: who is watched, and the list that answers.

mod common;

use adsum_pool::PoolConfig;
use common::lync::{Client, World, batch, machine, note, open, with};
use common::{Msg, Request, aor};

/// The parts of a multipart body: Content-ID, Content-Type, content.
fn parts(answer: &Msg) -> Vec<(String, String, String)> {
    let kind = answer.header("Content-Type");
    assert!(
        kind.starts_with(
            "multipart/related;type=\"application/rlmi+xml\";start=\"resourceList\";boundary=\""
        ),
        "{kind}"
    );
    let boundary = kind.split("boundary=\"").nth(1).unwrap().trim_end_matches('"').to_owned();
    let body = answer.body();
    assert!(body.ends_with(&format!("--{boundary}--\r\n")));
    let mut all = Vec::new();
    for part in body.split(&format!("--{boundary}\r\n")).skip(1) {
        let (head, content) = part.split_once("\r\n\r\n").unwrap();
        let field = |name: &str| head.split("\r\n").find_map(|l| l.strip_prefix(name)).unwrap().to_owned();
        assert_eq!(field("Content-Transfer-Encoding: "), "binary");
        let content = content.split(&format!("\r\n--{boundary}--")).next().unwrap().trim_end().to_owned();
        all.push((field("Content-ID: "), field("Content-Type: "), content));
    }
    all
}

fn online(world: &mut World, user: u32, connection: u64) -> Client {
    let mut client = world.client(user, connection);
    let all = [machine(0, 3_500).to_vec(), vec![note(200, 0, &format!("note {user}"))]].concat();
    let request = client.publish(&all);
    world.ok(&client, &request);
    client
}

fn uris(users: &[u32]) -> Vec<String> {
    users.iter().map(|user| aor(*user)).collect()
}

/// Point 12.
#[test]
fn several_publishers_come_as_a_list_and_a_document_for_each() {
    let mut world = World::new(open());
    online(&mut world, 2, 2);
    let mut client = world.client(1, 1);
    let request = client.batch(
        "subscribe",
        &uris(&[2, 3]),
        &["calendarData", "contactCard", "note", "services", "state"],
    );
    let (answer, others) = world.ok(&client, &request);
    assert!(others.is_empty());
    assert_eq!(answer.header("Event"), "presence");
    assert_eq!(answer.header("Require"), "eventlist");
    assert_eq!(answer.header("ms-piggyback-cseq"), "1");
    assert_eq!(answer.header("subscription-state"), "active;expires=28800");
    let parts = parts(&answer);
    assert_eq!(parts.len(), 3);
    assert_eq!(
        parts[0],
        (
            "resourceList".to_owned(),
            "application/rlmi+xml".to_owned(),
            "<list xmlns=\"urn:ietf:params:xml:ns:rlmi\" uri=\"sip:user000001@pool.test\" version=\"0\" fullState=\"true\">\
             <resource uri=\"sip:user000002@pool.test\"><instance id=\"0\" state=\"active\" cid=\"user000002@pool.test\"/></resource>\
             <resource uri=\"sip:user000003@pool.test\"><instance id=\"0\" state=\"active\" cid=\"user000003@pool.test\"/></resource></list>"
                .to_owned()
        )
    );
    let (id, kind, document) = &parts[1];
    assert_eq!(
        (id.as_str(), kind.as_str()),
        ("user000002@pool.test", "application/msrtc-event-categories+xml")
    );
    assert!(document.starts_with("<categories xmlns=\"http://schemas.microsoft.com/2006/09/sip/categories\" uri=\"sip:user000002@pool.test\">"));
    assert!(document.contains("<category name=\"state\" instance=\"1\" publishTime=\"2026-01-05T10:00:00.000\"><state xsi:type=\"aggregateState\""));
    assert!(document.contains("<availability>3500</availability>") && document.contains(">note 2<"));
    assert!(document.contains("<displayName>user000002</displayName>"));
    assert!(
        document.contains("<category name=\"calendarData\"/>")
            && document.contains("<category name=\"services\"/>")
    );
    assert!(!document.contains("container=") && !document.contains("version="), "watchers never learn them");
    assert!(
        parts[2].2.contains("<availability>18500</availability>")
            && parts[2].2.contains("<category name=\"note\"/>")
    );
    assert_eq!((world.stats().subscriptions, world.stats().watches), (1, 2));
}

#[test]
fn a_single_publisher_is_told_by_one_document_or_by_a_list() {
    for as_list in [false, true] {
        let mut world = World::new(with(|lync| lync.single_as_multipart = as_list));
        online(&mut world, 2, 2);
        let mut client = world.client(1, 1);
        let request = client.batch("subscribe", &uris(&[2]), &["state"]);
        let (answer, _) = world.ok(&client, &request);
        if as_list {
            assert_eq!(parts(&answer).len(), 2);
        } else {
            assert_eq!(answer.header("Content-Type"), "application/msrtc-event-categories+xml");
            assert_eq!(answer.availabilities(), [3_500]);
        }
    }
}

#[test]
fn who_does_not_exist_is_named_in_the_list_or_answered_404() {
    let absent = ["sip:user009999@pool.test".to_owned(), "sip:a\"&lt;@else.where".replace('"', "'")];
    for as_404 in [false, true] {
        let mut world = World::new(with(|lync| lync.unknown_as_404 = as_404));
        let mut client = world.client(1, 1);
        let request = client.batch("subscribe", &absent[..1], &["state"]);
        if as_404 {
            let answer = world.ask(&client, &request);
            assert_eq!(answer.code(), 404);
            assert!(answer.header("ms-diagnostics").starts_with("4005;"));
            assert_eq!(world.stats().subscriptions, 0);
        } else {
            let (answer, _) = world.ok(&client, &request);
            let parts = parts(&answer);
            assert_eq!(parts.len(), 1);
            assert!(parts[0].2.contains("<resource uri=\"sip:user009999@pool.test\"><instance id=\"0\" state=\"terminated\" reason=\"noresource\"/>"));
        }
        // Among others it is always in the list.
        let all = [&uris(&[2])[..], &absent].concat();
        let mut other = world.client(3, 3);
        let request = other.batch("subscribe", &all, &["state"]);
        let (answer, _) = world.ok(&other, &request);
        let parts = parts(&answer);
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0].2.matches("terminated").count(), 2);
        assert!(parts[0].2.contains("uri=\"sip:a&apos;&lt;@else.where\""), "{}", parts[0].2);
    }
}

#[test]
fn further_actions_go_on_in_the_same_dialog() {
    let mut world = World::new(open());
    let mut alice = online(&mut world, 2, 2);
    let mut carol = online(&mut world, 3, 3);
    let mut client = world.watcher(1, 1, &[2]);
    let tag = client.batch_tag.clone();
    // Another one comes: the answer is about him alone.
    let request = client.batch("subscribe", &uris(&[3]), &["note"]).in_dialog(&tag);
    let (answer, _) = world.ok(&client, &request);
    assert_eq!(answer.header("ms-piggyback-cseq"), "2");
    assert!(answer.body().contains("uri=\"sip:user000003@pool.test\"") && answer.body().contains(">note 3<"));
    assert!(!answer.body().contains("availability"));
    assert_eq!((world.stats().subscriptions, world.stats().watches), (1, 2));
    // Named again, his categories are others.
    let request = client.batch("subscribe", &uris(&[3]), &["state"]).in_dialog(&tag);
    world.ok(&client, &request);
    assert_eq!(world.stats().watches, 2);
    let request = carol.publish(&[note(200, 1, "unseen")]);
    assert!(world.ok(&carol, &request).1.is_empty());
    // The first one goes: nothing is told of him any more.
    let request = client.batch("unsubscribe", &uris(&[2]), &[]).in_dialog(&tag);
    let (answer, _) = world.ok(&client, &request);
    assert!(answer.body().is_empty());
    let request = alice.publish(&[note(200, 1, "unseen")]);
    assert!(world.ok(&alice, &request).1.is_empty());
    assert_eq!(world.stats().watches, 1);
    // One request may hold several actions.
    let text = batch(1, "subscribe", &uris(&[2]), &["note"]);
    let action = text.split_once("<action").unwrap().1.split_once("</batchSub>").unwrap().0.to_owned();
    let both = text.replace(
        "</batchSub>",
        &format!(
            "<action{}</batchSub>",
            action.replace("\"subscribe\"", "\"unsubscribe\"").replace("user000002", "user000003")
        ),
    );
    let request = client.batch("subscribe", &[], &[]).body(&both).in_dialog(&tag);
    let (answer, _) = world.ok(&client, &request);
    assert!(answer.body().contains("uri=\"sip:user000002@pool.test\""));
    assert_eq!(world.stats().watches, 1);
}

/// As the known client refreshes; the other way is the test below.
#[test]
fn a_refresh_that_names_everybody_again_is_about_the_same() {
    let mut world = World::new(open());
    online(&mut world, 2, 2);
    let mut client = world.watcher(1, 1, &[2, 3]);
    let body = batch(1, "subscribe", &uris(&[3, 2]), &["state", "note"]);
    let refresh = client
        .subscribe("presence")
        .in_dialog(&client.batch_tag)
        .line("Content-Type: application/msrtc-adrl-categorylist+xml")
        .body(&body);
    let (answer, _) = world.ok(&client, &refresh);
    assert_eq!(parts(&answer).len(), 3);
    assert_eq!((world.stats().subscriptions, world.stats().watches), (1, 2));
}

#[test]
fn a_refresh_without_a_body_is_about_everybody() {
    let mut world = World::new(open());
    online(&mut world, 2, 2);
    let mut client = world.watcher(1, 1, &[2, 3]);
    let refresh = client.subscribe("presence").in_dialog(&client.batch_tag);
    let (answer, _) = world.ok(&client, &refresh);
    assert_eq!(parts(&answer).len(), 3);
    assert_eq!(answer.availabilities(), [3_500, 18_500]);
    assert_eq!(world.stats().watches, 2);
    // Out of order, and of another dialog.
    let request = client
        .subscribe("presence")
        .in_dialog(&client.batch_tag)
        .call(&format!("presence-{}", client.epid), 1);
    assert_eq!(world.ask(&client, &request).code(), 500);
    let request = client.subscribe("presence").in_dialog(&client.batch_tag).call("another", 90);
    assert_eq!(world.ask(&client, &request).code(), 481);
    let request = client.subscribe("presence").in_dialog(&client.batch_tag).line("Expires: 0");
    let (answer, others) = world.ok(&client, &request);
    assert!(others.is_empty(), "the 200 says it");
    assert_eq!(answer.header("subscription-state"), "terminated;expires=0");
    assert_eq!((world.stats().subscriptions, world.stats().watches), (0, 0));
}

#[test]
fn a_poll_leaves_nothing_behind() {
    let mut world = World::new(open());
    let mut alice = online(&mut world, 2, 2);
    let mut client = world.client(1, 1);
    let request = client.batch("subscribe", &uris(&[2, 3]), &["state"]).line("Expires: 0");
    let (answer, others) = world.ok(&client, &request);
    assert!(others.is_empty());
    assert_eq!(answer.header("Expires"), "0");
    assert_eq!(answer.availabilities(), [3_500, 18_500]);
    let request = alice.publish(&machine(1, 6_500));
    assert!(world.ok(&alice, &request).1.is_empty());
    assert_eq!((world.stats().subscriptions, world.stats().watches), (0, 0));
}

#[test]
fn by_knob_publishers_are_elsewhere_and_to_be_asked_directly() {
    let mut world = World::new(with(|lync| lync.resubscribe = 1.0));
    let mut alice = online(&mut world, 2, 2);
    let mut client = world.client(1, 1);
    let request = client.batch("subscribe", &uris(&[2, 3]), &["state", "note"]);
    let (answer, _) = world.ok(&client, &request);
    assert_eq!(parts(&answer).len(), 1);
    assert_eq!(answer.body().matches("<instance id=\"0\" state=\"resubscribe\"/>").count(), 2);
    assert_eq!((world.stats().watches, world.stats().resubscribes), (0, 2));
    // The same body with just him, to his own URI.
    let direct = client.batch("subscribe", &uris(&[2]), &["state", "note"]).about(2).call("direct", 1);
    let (answer, _) = world.ok(&client, &direct);
    assert_eq!(answer.availabilities(), [3_500]);
    let request = alice.publish(&[note(200, 1, "told")]);
    let (_, others) = world.ok(&alice, &request);
    assert_eq!(others.len(), 1);
    assert_eq!(others[0].header("Call-ID"), "direct");
    assert!(others[0].header("From").starts_with("<sip:user000002@pool.test>;tag="));
}

#[test]
fn by_knob_a_share_of_publishers_is_elsewhere_always_the_same() {
    let everybody: Vec<u32> = (2..=201).collect();
    let ask = |seed| {
        let mut config = with(|lync| lync.resubscribe = 0.25);
        config.seed = seed;
        let mut world = World::new(config);
        let mut client = world.client(1, 1);
        let request = client.batch("subscribe", &uris(&everybody), &["state"]);
        let first = world.ok(&client, &request).0;
        let again = client.batch("subscribe", &uris(&everybody), &["state"]).call("again", 1);
        assert_eq!(parts(&world.ok(&client, &again).0)[0], parts(&first)[0]);
        first.body().matches("resubscribe").count()
    };
    let counts = [ask(1), ask(2), ask(3)];
    assert!(counts.iter().all(|n| (30..=70).contains(n)), "{counts:?}");
}

#[test]
fn hostile_batches_are_refused() {
    let mut world = World::new(open());
    let client = world.client(1, 1);
    let mut code = |request: Request| {
        let answer = world.ask(&client, &request);
        (answer.code(), answer.all("ms-diagnostics").first().map(|d| d.split(';').next().unwrap().to_owned()))
    };
    let id = |n: u32| Some(n.to_string());
    let mut template = Client::new(1, 1);
    template.cseq = 50;
    let empty = template.subscribe("presence");
    let mut with_body = |body: &str| template.batch("subscribe", &[], &[]).body(body);
    for body in ["<batchSub", "<batchSub/>", "<!DOCTYPE b><batchSub/>", "\u{0}"] {
        assert_eq!(code(with_body(body)), (400, id(4001)), "{body}");
    }
    assert_eq!(code(with_body(&batch(1, "delete", &[], &[]))), (400, id(4001)));
    let many: Vec<String> = (0..1_001).map(|n| format!("sip:u{n}@x")).collect();
    assert_eq!(code(with_body(&batch(1, "subscribe", &many, &[]))), (413, id(4008)));
    let long = [format!("sip:{}@x", "u".repeat(600))];
    assert_eq!(code(with_body(&batch(1, "subscribe", &long, &[]))), (413, id(4008)));
    assert_eq!(code(empty), (415, id(4013)));
    // Nobody at all is no mistake, and no body either.
    assert_eq!(code(with_body(&batch(1, "subscribe", &[], &["state"]))), (200, None));
    assert_eq!(world.stats().watches, 0);
}

/// Beyond a thousand nobody is watched, and the answer says so.
#[test]
fn who_is_too_many_is_not_said_to_be_watched() {
    let mut world = World::new(PoolConfig { users: 2_000, ..open() });
    let mut client = world.client(1, 1);
    let several = |range: std::ops::Range<u32>| uris(&range.collect::<Vec<_>>());
    let request = client.batch("subscribe", &several(2..602), &["state"]);
    client.batch_tag = world.ok(&client, &request).0.to_tag();
    let request = client.batch("subscribe", &several(602..1_202), &["state"]).in_dialog(&client.batch_tag);
    let (answer, _) = world.ok(&client, &request);
    let parts = parts(&answer);
    let refused = parts[0].2.matches("state=\"terminated\" reason=\"rejected\"").count();
    assert_eq!((refused, parts[0].2.matches("state=\"active\"").count(), parts.len()), (200, 400, 401));
    assert_eq!((world.stats().watches, world.stats().refused), (1_000, 200));
    // One alone is told by a list, too, if he is not watched.
    let request = client.batch("subscribe", &several(1_500..1_501), &["state"]).in_dialog(&client.batch_tag);
    let (answer, _) = world.ok(&client, &request);
    assert!(answer.body().contains("reason=\"rejected\""), "{}", answer.text);
}

#[test]
fn a_uri_cannot_break_out_of_its_line() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let uri = [format!("{};x=&#13;&#10;Content-Type: text/html&#13;&#10;&#13;&#10;", aor(2)), aor(3)];
    let request = client.batch("subscribe", &uri, &["state"]);
    let (answer, _) = world.ok(&client, &request);
    let parts = parts(&answer);
    assert_eq!(parts[1].0, "user000002@pool.test");
    assert!(!parts[1..].iter().any(|(_, _, document)| document.contains("text/html")));
}

#[test]
fn one_endpoint_has_two_hundred_subscriptions_at_most() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let mut codes = Vec::new();
    for n in 0..201 {
        let request = client.batch("subscribe", &uris(&[2]), &["state"]).call(&format!("c{n}"), 1);
        codes.push(world.ask(&client, &request).code());
    }
    assert!(codes[..200].iter().all(|code| *code == 200));
    assert_eq!((codes[200], world.stats().refused), (403, 1));
}
