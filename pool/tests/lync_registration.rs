//! REGISTER in the `lync` dialect: what a client has to bring, and what it is told.

mod common;

use std::time::Duration;

use adsum_pool::PoolConfig;
use common::lync::{Client, World, opaque, open, uuid, with};
use common::{MS, SECOND};

/// Points 1 and 6 of what an existing client expects, word by word.
#[test]
fn the_200_has_all_that_steers_a_client() {
    let mut world = World::new(open());
    let mut client = Client::new(1, 7);
    client.epid = "5f0a1b2c3d".to_owned();
    assert_eq!(uuid(&client.epid), "d2c7cda8-ae65-50b2-b614-5eab2e452ae6");
    assert_eq!(opaque(&client.epid), "qM3H0mWuslC2FF6rLkUq5gAA");
    let request = client.register();
    let text = request.text(1);
    assert!(text.contains("Via: SIP/2.0/tcp 127.0.0.1:40007\r\n") && !text.contains("branch"));
    assert!(!text.contains("Expires:"));
    let (answer, others) = world.ok(&client, &request);
    assert!(others.is_empty());
    assert_eq!(answer.header("Expires"), "600");
    assert_eq!(
        answer.header("Contact"),
        "<sip:127.0.0.1:40007;transport=tcp;ms-opaque=d3470f2e1d;ms-received-cid=7>;expires=600;\
         +sip.instance=\"<urn:uuid:d2c7cda8-ae65-50b2-b614-5eab2e452ae6>\";\
         gruu=\"sip:user000001@pool.test;opaque=user:epid:qM3H0mWuslC2FF6rLkUq5gAA;gruu\""
    );
    assert_eq!(answer.all("Supported"), ["adhoclist", "msrtc-event-categories"]);
    let events = answer.header("Allow-Events");
    assert!(!events.contains(' '));
    for event in
        ["vnd-microsoft-roaming-contacts", "vnd-microsoft-provisioning-v2", "vnd-microsoft-roaming-self"]
    {
        assert!(events.split(',').any(|e| e == event), "{events}");
    }
    let keep_alive = answer.header("ms-keep-alive");
    assert!(keep_alive.starts_with("UAS;") && keep_alive.ends_with("timeout=300"), "{keep_alive}");
    assert_eq!(answer.header("Server"), "RTC/5.0");
    assert_eq!(
        answer.header("presence-state"),
        "register-action=\"added\";primary-cluster-type=\"central\";is-connected-to-primary=\"yes\""
    );
    assert_eq!(answer.header("Via"), "SIP/2.0/tcp 127.0.0.1:40007;ms-received-port=40007;ms-received-cid=7");
    assert!(answer.header("From").ends_with(";epid=5f0a1b2c3d"));
    assert!(!answer.to_tag().is_empty());
    assert_eq!(world.stats().registrations, 1);
}

#[test]
fn a_refresh_is_told_apart_from_a_new_binding() {
    let mut world = World::new(open());
    let mut client = world.client(1, 1);
    let again = client.register();
    let (answer, _) = world.ok(&client, &again);
    assert!(answer.header("presence-state").contains("register-action=\"refreshed\""));
    // After the end of its lifetime it is new again.
    assert!(world.pass(600 * SECOND + MS).is_empty());
    assert_eq!(world.stats().registrations, 0);
    let again = client.register();
    assert!(world.ok(&client, &again).0.header("presence-state").contains("\"added\""));
}

#[test]
fn an_older_request_of_the_same_call_changes_nothing() {
    let mut world = World::new(open());
    let mut client = Client::new(1, 1);
    let first = client.register();
    world.ok(&client, &first);
    let copy = world.ask(&client, &first.line("Expires: 0"));
    assert_eq!(copy.code(), 500);
    assert_eq!(world.stats().registrations, 1);
}

#[test]
fn lifetimes_stay_between_five_and_fifteen_minutes() {
    let mut world = World::new(open());
    for (asked, granted) in
        [(1, "300"), (299, "300"), (300, "300"), (450, "450"), (900, "900"), (7_200, "900")]
    {
        let mut client = Client::new(1, 1);
        client.cseq = asked;
        let request = client.register().line(&format!("Expires: {asked}"));
        let (answer, _) = world.ok(&client, &request);
        assert_eq!(answer.header("Expires"), granted);
        assert!(answer.header("Contact").contains(&format!(";expires={granted};")));
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let mut world = World::new(open());
    let answer = |world: &mut World, request: &common::Request, client: &Client| {
        let answer = world.ask(client, request);
        (answer.code(), answer.all("ms-diagnostics").first().cloned().unwrap_or_default())
    };
    let mut client = Client::new(1, 1);
    let supported = "Supported: gruu-10, msrtc-event-categories";
    // Unknown, or of another domain.
    let mut stranger = Client::new(5_000, 1);
    let request = stranger.register();
    let (code, reason) = answer(&mut world, &request, &stranger);
    assert_eq!(code, 404);
    assert!(reason.starts_with("4005;") && reason.ends_with(";source=\"pool.test\""), "{reason}");
    let request = client.register().from("<sip:user000001@else.where>;tag=a;epid=01");
    assert_eq!(answer(&mut world, &request, &client).0, 404);
    // No name of the endpoint at all.
    let request = client.register_bare().from("<sip:user000001@pool.test>;tag=a").line(supported);
    let text = request.text(1).replace(&format!(";+sip.instance=\"<urn:uuid:{}>\"", uuid(&client.epid)), "");
    let sent = world.say(client.peer, &text);
    assert_eq!(sent[0].code(), 400);
    assert!(sent[0].header("ms-diagnostics").starts_with("4010;"));
    // The extension without the one that it needs.
    let request = client.register_bare().line("Supported: msrtc-event-categories");
    let (code, reason) = answer(&mut world, &request, &client);
    assert!(code == 421 && reason.starts_with("2057;"), "{code} {reason}");
    // Another event.
    let request = client.register_bare().line(supported).line("Event: presence");
    let (code, reason) = answer(&mut world, &request, &client);
    assert!(code == 489 && reason.starts_with("4055;"), "{code} {reason}");
    // An instance that does not follow from the epid.
    let request = client.register().from("<sip:user000001@pool.test>;tag=a;epid=0123456789");
    let (code, reason) = answer(&mut world, &request, &client);
    assert!(code == 400 && reason.contains("epid"), "{code} {reason}");
    // For somebody else.
    let request = client.register().to("<sip:user000002@pool.test>");
    let (code, reason) = answer(&mut world, &request, &client);
    assert!(code == 403 && reason.starts_with("4004;"), "{code} {reason}");
    assert_eq!(world.stats().registrations, 0);
}

#[test]
fn one_name_of_an_endpoint_is_enough() {
    let mut world = World::new(open());
    let mut client = Client::new(1, 1);
    let with_instance = client.register().from("<sip:user000001@pool.test>;tag=a").call("a", 1);
    world.ok(&client, &with_instance);
    // The epid that it follows from names the same endpoint.
    let with_epid = client.register().call("a", 2);
    let (answer, _) = world.ok(&client, &with_epid);
    assert!(answer.header("presence-state").contains("refreshed"));
    assert_eq!(world.stats().registrations, 1);
}

#[test]
fn a_user_has_eight_endpoints_and_a_ninth_takes_the_place_of_the_oldest() {
    let mut world = World::new(open());
    let first = world.client(1, 1);
    for connection in 2..=8 {
        world.pass(MS);
        world.client(1, connection);
    }
    assert_eq!(world.stats().registrations, 8);
    let mut ninth = Client::new(1, 9);
    let request = ninth.register();
    let (_, others) = world.ok(&ninth, &request);
    assert_eq!(world.stats().registrations, 8);
    assert_eq!(others.len(), 1);
    assert_eq!(others[0].peer, first.peer);
    assert_eq!(others[0].header("Event"), "registration-notify");
    assert_eq!(others[0].body(), "deregistered;event=deactivated");
    assert!(others[0].all("ms-diagnostics-public").is_empty(), "nobody disabled the user");
}

#[test]
fn with_redirect_to_everybody_is_sent_elsewhere() {
    let mut world = World::new(with(|lync| lync.redirect_to = Some("127.0.0.1:5063".to_owned())));
    let mut client = Client::new(1, 1);
    let request = client.register();
    let answer = world.ask(&client, &request);
    assert_eq!(answer.code(), 301);
    assert_eq!(answer.header("Contact"), "<sip:127.0.0.1:5063;transport=tcp>");
    assert_eq!(world.stats().redirected, 1);
}

#[test]
fn with_deregister_after_the_pool_signs_endpoints_off() {
    let mut world = World::new(with(|lync| lync.deregister_after = Some(Duration::from_secs(20))));
    let client = world.own(1, 1);
    assert!(world.pass(19 * SECOND).is_empty());
    let sent = world.pass(SECOND + MS);
    assert_eq!(sent.len(), 1, "{sent:?}");
    let notify = &sent[0];
    assert!(notify.text.starts_with(
        "NOTIFY sip:127.0.0.1:40001;transport=tcp;ms-opaque=d3470f2e1d;ms-received-cid=1 SIP/2.0\r\n"
    ));
    assert_eq!(notify.peer, client.peer);
    assert_eq!(notify.header("Event"), "registration-notify");
    assert_eq!(notify.header("subscription-state"), "terminated;expires=0");
    assert_eq!(notify.header("Content-Type"), "text/registration-event");
    assert_eq!(notify.header("ms-diagnostics-public"), "4141;reason=\"User disabled\"");
    assert_eq!(notify.body(), "deregistered;event=rejected");
    assert_eq!(notify.header("Call-ID"), format!("REGISTER-{}", client.epid));
    assert!(notify.header("To").contains(&format!("epid={}", client.epid)));
    // Its answer is nothing that anybody waits for.
    assert!(world.say(client.peer, &notify.answer(200)).is_empty());
    let stats = world.stats();
    assert_eq!((stats.registrations, stats.subscriptions, stats.deregistered), (0, 0, 1));
}

#[test]
fn over_udp_this_dialect_says_where_to_come() {
    let mut world = World::new(open());
    let mut client = Client::new(1, 1);
    client.peer = adsum_pool::core::Peer::Udp("127.0.0.1:4000".parse().unwrap());
    let request = client.register();
    let answer = world.ask(&client, &request);
    assert_eq!(answer.code(), 400);
    assert!(answer.header("ms-diagnostics").contains("TCP or TLS"));
}

#[test]
fn both_dialects_are_spoken_side_by_side() {
    let dialect = adsum_pool::config::Dialect::Both;
    let mut world = World::new(PoolConfig { dialect, ..open() });
    let client = world.client(1, 1);
    let simple = common::Request::register(1, "<sip:user000001@127.0.0.1:4000>");
    let answer = world.say(client.peer, &simple.text(900)).remove(0);
    assert_eq!(answer.code(), 200);
    assert!(answer.header("Server").starts_with("adsum-pool/"));
    assert_eq!(world.stats().registrations, 2);
    let sent = world.say(client.peer, &common::Request::subscribe(1, 2, 600).text(901));
    assert!(sent.iter().any(|m| m.is_notify()), "the other dialect answers with NOTIFY: {sent:?}");
    // They are two worlds: whoever publishes in one is not seen in the other.
    let mut alice = world.client(2, 2);
    let watcher = world.watcher(4, 4, &[2]);
    let request = alice.publish(&[common::lync::note(200, 0, "lync")]);
    let told = world.ok(&alice, &request).1;
    assert_eq!(told.iter().map(|m| (m.is_benotify(), m.peer)).collect::<Vec<_>>(), [(true, watcher.peer)]);
    let published = world.say(alice.peer, &common::Request::publish(2, "simple").text(902));
    assert_eq!((published[0].code(), published.len()), (200, 2), "{published:?}");
    assert!(published[1].is_notify() && published[1].peer == client.peer, "{published:?}");
    // An answer finds the dialect that asked.
    let notify = sent.iter().find(|m| m.is_notify()).unwrap();
    world.say(client.peer, &notify.answer(481));
    assert_eq!(world.stats().lost_subscriptions, 1);
}
