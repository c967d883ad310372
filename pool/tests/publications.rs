//! Publications (RFC 3903) and the documents that come of them.

mod common;

use common::{MS, Request, SECOND, World, open, pidf};

/// A pool in which user 2 watches user 1.
fn watched() -> World {
    let mut world = World::new(open());
    world.subscribed(2, 1, 3_600);
    world
}

#[test]
fn initial_refresh_modify_remove_each_with_a_new_tag() {
    let mut world = watched();
    let mut tags = Vec::new();
    let mut publish = |world: &mut World, request: Request| {
        let request =
            tags.last().map_or(request.clone(), |tag| request.line(&format!("SIP-If-Match: {tag}")));
        let sent = world.tell(&request);
        assert_eq!(
            (sent[0].code(), sent[0].header("Expires")),
            (200, if tags.len() == 3 { "0" } else { "600" }.to_owned())
        );
        tags.push(sent[0].header("SIP-ETag"));
        sent[1..].iter().map(common::Msg::notes).collect::<Vec<_>>()
    };
    assert_eq!(publish(&mut world, Request::publish(1, "one")), [["one"]]);
    let refresh = publish(&mut world, Request::publish_bare(1, 600));
    assert!(refresh.is_empty(), "a refresh is no news");
    assert_eq!(publish(&mut world, Request::publish(1, "two")), [["two"]]);
    assert_eq!(world.core.stats().publications, 1);
    let removed = publish(&mut world, Request::publish_bare(1, 0));
    assert_eq!(removed, [Vec::<String>::new()]);
    assert_eq!(world.core.stats().publications, 0);
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 4);
}

#[test]
fn an_old_or_foreign_tag_is_412() {
    let mut world = watched();
    let first = world.ask(&Request::publish(1, "one")).header("SIP-ETag");
    let matching = |user, tag: &str| Request::publish(user, "x").line(&format!("SIP-If-Match: {tag}"));
    let second = world.ask(&matching(1, &first)).header("SIP-ETag");
    assert_ne!(first, second);
    for (user, tag) in [(1, first.as_str()), (1, "e00000000001"), (1, "é"), (1, ""), (2, &second)] {
        let sent = world.tell(&matching(user, tag));
        assert_eq!((sent.len(), sent[0].code()), (1, 412), "{tag}");
    }
    assert_eq!(world.ask(&matching(1, &second).line("SIP-If-Match: x")).code(), 400);
    // After its end a tag is nobody's.
    world.pass(600 * SECOND);
    assert_eq!(world.ask(&matching(1, &second)).code(), 412);
}

#[test]
fn refusals_have_their_reasons() {
    let mut world = watched();
    let brief = world.ask(&Request::publish_bare(1, 59).document(&pidf("x")));
    assert_eq!((brief.code(), brief.header("Min-Expires")), (423, "60".into()));
    let event = Request::new("PUBLISH", 1).line("Event: dialog").document(&pidf("x"));
    let event = world.ask(&event);
    assert_eq!((event.code(), event.header("Allow-Events")), (489, "presence".into()));
    assert_eq!(world.ask(&Request::new("PUBLISH", 1).document(&pidf("x"))).code(), 489);
    let kind = world.ask(&Request::publish_bare(1, 600).line("Content-Type: text/plain").body("hello"));
    assert_eq!((kind.code(), kind.header("Accept")), (415, "application/pidf+xml".into()));
    assert_eq!(world.ask(&Request::publish_bare(1, 600).body("<x/>")).code(), 415, "no type");
    for body in ["<presence", "<other xmlns=\"urn:ietf:params:xml:ns:pidf\"/>", "hello"] {
        assert_eq!(world.ask(&Request::publish_bare(1, 600).document(body)).code(), 400, "{body}");
    }
    assert_eq!(world.ask(&Request::publish_bare(1, 600)).code(), 400, "neither tag nor document");
    assert_eq!(world.ask(&Request::publish_bare(1, 0).document(&pidf("x"))).code(), 400, "for no time");
    let large = pidf(&"x".repeat(64 * 1024));
    assert_eq!(world.ask(&Request::publish_bare(1, 600).document(&large)).code(), 413);
    assert_eq!(world.ask(&Request::publish(1, "x").about(3)).code(), 403, "for somebody else");
    assert_eq!(world.ask(&Request::publish(1, "x").uri("sip:nobody@pool.test")).code(), 404);
    assert_eq!(world.core.stats().publications, 0);
}

#[test]
fn without_a_publication_a_user_is_closed() {
    let mut world = World::new(open());
    let notify = world.notifies(&Request::subscribe(2, 1, 600)).remove(0);
    let document = notify.document();
    assert_eq!(document.entity, "sip:user000001@pool.test");
    assert_eq!((document.tuples.len(), document.tuples[0].open), (1, false));
}

#[test]
fn publications_are_composed_newest_first() {
    let mut world = watched();
    let first = world.ask(&Request::publish(1, "one")).header("SIP-ETag");
    let told = world.notifies(&Request::publish(1, "two").call("second device", 1));
    assert_eq!(told[0].notes(), ["two", "one"]);
    let told = world.notifies(&Request::publish(1, "three").line(&format!("SIP-If-Match: {first}")));
    assert_eq!(told[0].notes(), ["three", "two"]);
    let tags: Vec<&str> = told[0].text.matches("xmlns=").collect();
    assert_eq!(tags.len(), 1, "{}", told[0].text);
    // Who comes later sees the same.
    assert_eq!(world.notifies(&Request::subscribe(3, 1, 600))[0].notes(), ["three", "two"]);
}

#[test]
fn expiry_tells_watchers_what_is_left() {
    let mut world = watched();
    world.ask(&Request::publish_bare(1, 100).document(&pidf("short")));
    world.ask(&Request::publish_bare(1, 200).document(&pidf("long")));
    assert!(world.pass(100 * SECOND - MS).is_empty());
    let told = world.pass(2 * MS);
    assert_eq!((told.len(), told[0].notes()), (1, vec!["long".to_owned()]));
    let told = world.pass(100 * SECOND);
    assert_eq!((told.len(), told[0].document().tuples[0].open), (1, false));
    assert_eq!(world.core.stats().publications, 0);
    // Refreshed in time it stays, and the timer of its former end tells nobody.
    let tag = world.ask(&Request::publish_bare(1, 100).document(&pidf("kept"))).header("SIP-ETag");
    world.pass(50 * SECOND);
    world.ask(&Request::publish_bare(1, 100).line(&format!("SIP-If-Match: {tag}")));
    assert!(world.pass(99 * SECOND).is_empty());
    assert_eq!(world.pass(2 * SECOND).len(), 1);
}

#[test]
fn seventeen_publications_are_refused_and_counted() {
    let mut world = World::new(open());
    for device in 0..16 {
        assert_eq!(world.ask(&Request::publish(1, &device.to_string())).code(), 200);
    }
    assert_eq!(world.ask(&Request::publish(1, "17")).code(), 403);
    assert_eq!((world.core.stats().publications, world.core.stats().refused), (16, 1));
    assert_eq!(world.notifies(&Request::subscribe(2, 1, 600))[0].document().tuples.len(), 16);
}

#[test]
fn foreign_elements_and_colliding_prefixes_reach_the_watcher_well_formed() {
    let mut world = watched();
    let with = |prefix: &str, urn: &str| {
        let inner = format!(
            "<tuple id=\"{prefix}\"><status><basic>open</basic></status><{prefix}:e>x</{prefix}:e></tuple>"
        );
        format!(
            "<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" xmlns:{prefix}=\"{urn}\" entity=\"x\">{inner}</presence>"
        )
    };
    for body in [with("a", "urn:adsum:marker:1"), with("a", "urn:other"), with("b", "urn:adsum:marker:1")] {
        let told = world.notifies(&Request::publish_bare(1, 600).document(&body));
        assert!(!told[0].document().tuples.is_empty());
    }
    let document = world.notifies(&Request::subscribe(3, 1, 600))[0].document();
    let markers: Vec<usize> = document.tuples.iter().map(|t| t.markers.len()).collect();
    assert_eq!(markers, [1, 0, 1]);
}

#[test]
fn the_bytes_of_documents_are_accounted_for() {
    let mut world = World::new(open());
    let bytes = |world: &World| world.core.stats().document_bytes;
    let tag = world.ask(&Request::publish(1, "one")).header("SIP-ETag");
    let one = bytes(&world);
    assert!(one > 0);
    let longer = Request::publish(1, "one, and more").line(&format!("SIP-If-Match: {tag}"));
    let tag = world.ask(&longer).header("SIP-ETag");
    // The note stands in it twice: as text and in the tuple's id.
    assert_eq!(bytes(&world), one + 2 * ", and more".len() as u64);
    world.ask(&Request::publish(2, "one"));
    world.ask(&Request::publish_bare(1, 0).line(&format!("SIP-If-Match: {tag}")));
    assert_eq!(bytes(&world), one);
    world.pass(601 * SECOND);
    assert_eq!(bytes(&world), 0);
}
