//! What a client asks about itself at sign-on: own presence, contacts, settings.

mod common;

use common::lync::{Client, World, machine, note, open, with};
use common::{Msg, aor};

const SELF: &str = "vnd-microsoft-roaming-self";

fn roaming_list(client: &mut Client) -> common::Request {
    client.subscribe(SELF).line("Content-Type: application/vnd-microsoft-roaming-self+xml").body(
        "<roamingList xmlns=\"http://schemas.microsoft.com/2006/09/sip/roaming-self\"><roaming type=\"categories\"/>\
         <roaming type=\"containers\"/><roaming type=\"subscribers\"/></roamingList>",
    )
}

/// Point 7: with `ms-piggyback-cseq` the 200 stands for the first notification.
#[test]
fn the_first_notification_travels_in_the_200() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let request = roaming_list(&mut client);
    let (answer, others) = world.ok(&client, &request);
    assert!(others.is_empty());
    assert_eq!(answer.header("Event"), SELF);
    assert_eq!(answer.header("Expires"), "28800");
    assert_eq!(answer.header("subscription-state"), "active;expires=28800");
    assert_eq!(answer.header("ms-piggyback-cseq"), "1");
    assert_eq!(answer.header("Supported"), "ms-benotify, ms-piggyback-first-notify");
    assert_eq!(answer.header("Content-Type"), "application/vnd-microsoft-roaming-self+xml");
    assert_eq!(answer.header("Contact"), "<sip:127.0.0.1:5060;transport=tcp>");
    assert!(answer.header("Record-Route").contains(";lr;"));
    let body = answer.body();
    assert!(body.starts_with("<roamingData xmlns=\"http://schemas.microsoft.com/2006/09/sip/roaming-self\""));
    assert!(
        body.contains("<container id=\"200\" version=\"1\"><member type=\"sameEnterprise\"/></container>")
    );
    assert!(body.contains("<container id=\"100\" version=\"1\"><member type=\"federated\"/></container>"));
    assert!(body.contains("<subscribers "));
    assert!(body.contains("<displayName>user000001</displayName>"));
    // Nobody is on line who has published no machine.
    assert_eq!(answer.availabilities(), [18_500; 6]);
}

#[test]
fn contacts_and_settings_come_the_same_way() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let request = client.subscribe("vnd-microsoft-roaming-contacts");
    let (answer, _) = world.ok(&client, &request);
    assert_eq!(answer.header("ms-piggyback-cseq"), "1");
    assert_eq!(answer.header("Content-Type"), "application/vnd-microsoft-roaming-contacts+xml");
    assert_eq!(
        answer.body(),
        "<contactList deltaNum=\"1\"><group id=\"1\" name=\"~\" externalURI=\"\"/></contactList>"
    );
    let request = client.subscribe("vnd-microsoft-provisioning-v2").line("Expires: 0");
    let (answer, others) = world.ok(&client, &request);
    assert!(others.is_empty());
    assert_eq!(answer.header("Expires"), "0");
    assert_eq!(answer.header("ms-piggyback-cseq"), "1");
    assert!(
        answer.body().starts_with("<provisionGroupList ") && answer.body().contains("ServerConfiguration")
    );
    // Asked once, and no subscription.
    assert_eq!(world.stats().subscriptions, 1);
}

#[test]
fn without_the_tag_a_notify_follows_that_has_to_be_answered() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let request = client.subscribe_plain(SELF);
    let (answer, others) = world.ok(&client, &request);
    assert!(answer.body().is_empty() && answer.all("ms-piggyback-cseq").is_empty());
    assert!(answer.all("Supported").is_empty());
    assert_eq!(others.len(), 1);
    let notify = &others[0];
    assert!(notify.is_notify());
    assert_eq!(notify.header("CSeq"), "1 NOTIFY");
    assert!(notify.body().contains("<roamingData "));
    assert_eq!(notify.header("From"), format!("<{}>;tag={}", aor(1), answer.to_tag()));
    assert!(world.say(client.peer, &notify.answer(200)).is_empty());
    assert_eq!(world.stats().subscriptions, 1);
    // 481 ends it, as RFC 6665 §4.2.2 has it.
    let publish = client.publish(&[note(200, 0, "x")]);
    let (_, others) = world.ok(&client, &publish);
    assert_eq!(others.iter().map(|m| m.header("CSeq")).collect::<Vec<_>>(), ["2 NOTIFY"]);
    world.say(client.peer, &others[0].answer(481));
    let stats = world.stats();
    assert_eq!((stats.subscriptions, stats.lost_subscriptions), (0, 1));
}

#[test]
fn who_never_answers_a_notify_is_given_up_after_64_t1() {
    let mut world = World::new(with(|lync| lync.notify_instead = true));
    let mut client = world.own(1, 1);
    let publish = |world: &mut World, client: &mut Client, version| {
        let request = client.publish(&[note(200, version, "x")]);
        world.ok(client, &request).1.len()
    };
    assert_eq!(publish(&mut world, &mut client, 0), 1);
    world.pass(32 * common::SECOND);
    assert_eq!(publish(&mut world, &mut client, 1), 1);
    world.pass(common::MS);
    assert_eq!(publish(&mut world, &mut client, 2), 0);
    assert_eq!(world.stats().lost_subscriptions, 1);
}

#[test]
fn by_knob_nothing_travels_in_a_200() {
    let mut world = World::new(with(|lync| lync.no_piggyback = true));
    let mut client = world.client(1, 1);
    let request = roaming_list(&mut client);
    let (answer, others) = world.ok(&client, &request);
    assert!(answer.body().is_empty() && answer.all("ms-piggyback-cseq").is_empty());
    // BENOTIFY is negotiated, so the first one is one, too.
    assert_eq!(others.len(), 1);
    assert_eq!(others[0].header("CSeq"), "1 BENOTIFY");
    assert!(others[0].body().contains("<roamingData "));
}

/// Point 8: there are no calls here.
#[test]
fn an_invite_is_not_implemented() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let request = client.request("INVITE").line("Require: com.microsoft.whatever");
    assert_eq!(world.ask(&client, &request).code(), 501);
    let ack = client.request("ACK");
    assert!(world.tell(&client, &ack).is_empty());
}

/// Point 9: a fresh account has to be opened for its colleagues first.
#[test]
fn members_of_containers_decide_who_sees_what() {
    let mut world = World::new(with(|lync| lync.bare_containers = true));
    let mut alice = world.client(1, 1);
    let request = roaming_list(&mut alice);
    let (answer, _) = world.ok(&alice, &request);
    assert!(!answer.body().contains("sameEnterprise"));
    let online = [machine(0, 3_500).to_vec(), vec![note(200, 0, "here")]].concat();
    let request = alice.publish(&online);
    world.ok(&alice, &request);
    let mut bob = world.client(2, 2);
    let request = bob.batch("subscribe", &[aor(1)], &["state", "note"]);
    let (answer, _) = world.ok(&bob, &request);
    assert_eq!(answer.availabilities(), [18_500]);
    assert!(answer.body().contains("<category name=\"note\"/>"));
    let set = |version: u32| {
        format!(
            "<setContainerMembers xmlns=\"http://schemas.microsoft.com/2006/09/sip/container-management\">\
             <container id=\"200\" version=\"{version}\"><member action=\"add\" type=\"sameEnterprise\"/></container>\
             <container id=\"100\" version=\"{version}\"><member action=\"add\" type=\"federated\"/></container>\
             </setContainerMembers>"
        )
    };
    let request = alice.service("msrtc-setcontainermembers+xml", &set(0));
    let (_, others) = world.ok(&alice, &request);
    let told: Vec<&Msg> = others.iter().filter(|m| m.peer == bob.peer).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].availabilities(), [3_500]);
    assert!(told[0].body().contains(">here<"));
    let own: Vec<&Msg> = others.iter().filter(|m| m.peer == alice.peer).collect();
    assert!(own[0].body().contains("<container id=\"200\" version=\"1\"><member type=\"sameEnterprise\"/>"));
    // The same again is out of date, and says where it stands.
    let request = alice.service("msrtc-setcontainermembers+xml", &set(0));
    let answer = world.ask(&alice, &request);
    assert_eq!(answer.code(), 409);
    assert!(answer.body().contains("<operation index=\"1\" version=\"0\" curVersion=\"1\"/>"));
    // A user of his own container, and then a blocked one.
    for (container, seen) in [(400, 3_500), (32_000, 18_500)] {
        let body = format!(
            "<setContainerMembers xmlns=\"http://schemas.microsoft.com/2006/09/sip/container-management\">\
             <container id=\"{container}\" version=\"0\"><member action=\"add\" type=\"user\" value=\"user000002@pool.test\"/>\
             </container></setContainerMembers>"
        );
        let request = alice.service("msrtc-setcontainermembers+xml", &body);
        let (_, others) = world.ok(&alice, &request);
        let told = others.iter().find(|m| m.peer == bob.peer).unwrap();
        assert_eq!(told.availabilities(), [seen]);
        assert!(told.body().contains("<category name=\"note\"/>"), "the note is in 200 only");
    }
}

#[test]
fn members_of_a_request_are_bounded() {
    let mut world = World::new(open());
    let mut alice = world.client(1, 1);
    let members = |n: usize| -> String {
        (0..n).map(|n| format!("<member action=\"add\" type=\"user\" value=\"u{n}@x\"/>")).collect()
    };
    let body = |inner: &str| {
        format!(
            "<setContainerMembers xmlns=\"http://schemas.microsoft.com/2006/09/sip/container-management\">{inner}\
             </setContainerMembers>"
        )
    };
    let mut code = |inner: &str| {
        let request = alice.service("msrtc-setcontainermembers+xml", &body(inner));
        world.ask(&alice, &request).code()
    };
    let one = |members: &str| format!("<container id=\"400\" version=\"0\">{members}</container>");
    assert_eq!(code(&one(&members(513))), 403);
    let many: String = (1..=33).map(|id| format!("<container id=\"{id}\" version=\"0\"/>")).collect();
    assert_eq!(code(&many), 403);
    assert_eq!(code(&one(&members(512))), 200);
    assert_eq!(world.stats().refused, 2);
}

#[test]
fn subscribers_are_acknowledged() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let body = "<setSubscribers xmlns=\"http://schemas.microsoft.com/2006/09/sip/presence-subscribers\">\
        <subscriber user=\"user000002@pool.test\" acknowledged=\"true\"/></setSubscribers>";
    let request = client.service("msrtc-presence-setsubscriber+xml", body);
    world.ok(&client, &request);
    let request = client.service("msrtc-presence-setsubscriber+xml", "<setSubscribers/>");
    assert_eq!(world.ask(&client, &request).code(), 400);
}

#[test]
fn lifetimes_are_raised_and_cut_and_never_refused() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    for (asked, granted) in [("1", "1200"), ("1200", "1200"), ("30000", "30000"), ("99999", "43200")] {
        let request = client.subscribe(SELF).line(&format!("Expires: {asked}"));
        let (answer, _) = world.ok(&client, &request);
        assert_eq!(answer.header("Expires"), granted);
    }
    // One subscription to own presence for each endpoint: the newest.
    assert_eq!(world.stats().subscriptions, 1);
}

#[test]
fn a_subscription_ends_with_its_lifetime_unless_refreshed() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let request = client.subscribe(SELF).line("Expires: 1200");
    let tag = world.ok(&client, &request).0.to_tag();
    let keep = |world: &mut World, client: &mut Client| {
        for _ in 0..2 {
            world.pass(500 * common::SECOND);
            let request = client.register().line("Expires: 900");
            world.ok(client, &request);
        }
    };
    keep(&mut world, &mut client);
    let refresh = client.subscribe(SELF).in_dialog(&tag).line("Expires: 1200");
    let (answer, _) = world.ok(&client, &refresh);
    assert_eq!(answer.header("ms-piggyback-cseq"), "2");
    assert!(answer.body().contains("<categories "), "a refresh tells the whole state again");
    keep(&mut world, &mut client);
    assert_eq!(world.stats().subscriptions, 1);
    let sent = world.pass(201 * common::SECOND);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].header("subscription-state"), "terminated;expires=0");
    assert_eq!(world.stats().subscriptions, 0);
    let late = client.subscribe(SELF).in_dialog(&tag);
    let answer = world.ask(&client, &late);
    assert_eq!(answer.code(), 481);
    assert!(answer.header("ms-diagnostics").starts_with("2014;"));
}

#[test]
fn what_cannot_be_subscribed_to_is_refused() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let request = client.subscribe("dialog");
    let answer = world.ask(&client, &request);
    assert_eq!(answer.code(), 489);
    assert!(answer.header("Allow-Events").contains(SELF));
    let request = client.subscribe(SELF).about(2);
    assert_eq!(world.ask(&client, &request).code(), 403);
    let request = client.subscribe(SELF).about(7_000);
    assert_eq!(world.ask(&client, &request).code(), 404);
    let request = client.subscribe(SELF).line("Require: timer");
    let answer = world.ask(&client, &request);
    assert_eq!((answer.code(), answer.header("Unsupported")), (420, "timer".to_owned()));
    let mut stranger = Client::new(3, 3);
    let request = stranger.subscribe(SELF);
    let answer = world.ask(&stranger, &request);
    assert_eq!(answer.code(), 403);
    assert!(answer.header("ms-diagnostics").contains("not registered"));
}
