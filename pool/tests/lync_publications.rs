//! SERVICE `publish`: versions, lifetimes, aggregation, and what is refused.

mod common;

use adsum_pool::PoolConfig;
use common::lync::{Client, World, machine, note, open, publication, state, user_state, with};
use common::{Msg, SECOND, aor};

fn publish(world: &mut World, client: &mut Client, publications: &[String]) -> (Msg, Vec<Msg>) {
    let request = client.publish(publications);
    world.ok(client, &request)
}

fn refused(world: &mut World, client: &mut Client, publications: &[String]) -> Msg {
    let request = client.publish(publications);
    let answer = world.ask(client, &request);
    assert_ne!(answer.code(), 200);
    answer
}

fn device() -> String {
    publication(
        "device",
        1_594_497_836,
        2,
        0,
        "expireType=\"endpoint\"",
        "<device xmlns=\"http://schemas.microsoft.com/2006/09/sip/device\" endpointId=\"D2C7CDA8\">\
         <machineName>LOADGEN</machineName></device>",
    )
}

/// Point 10: a client's first publications, with `version="0"`, and where it
/// takes its next versions from.
#[test]
fn the_200_and_own_subscriptions_hold_the_changed_categories_with_their_versions() {
    let mut world = World::new(open());
    let mut client = world.own(1, 1);
    let other = world.own(1, 2);
    let all = [
        vec![device()],
        machine(0, 3_500).to_vec(),
        user_state(0, 3_500).to_vec(),
        vec![note(200, 0, "n"), note(300, 0, "n"), note(400, 0, "n")],
    ]
    .concat();
    let (answer, others) = publish(&mut world, &mut client, &all);
    assert_eq!(answer.header("Content-Type"), "application/vnd-microsoft-roaming-self+xml");
    let body = answer.body();
    assert!(body.contains("<category name=\"device\" instance=\"1594497836\" publishTime=\"2026-01-05T10:00:00.000\" container=\"2\" version=\"1\" expireType=\"endpoint\"><device "));
    assert!(body.contains("<category name=\"state\" instance=\"536870912\" publishTime=\"2026-01-05T10:00:00.000\" container=\"3\" version=\"1\" expireType=\"static\">"));
    for container in [200, 300, 400] {
        assert!(
            body.contains(&format!("container=\"{container}\" version=\"1\" expireType=\"static\"><note "))
        );
    }
    assert!(!body.contains("contactCard"), "it was not touched");
    // Both endpoints of the user are told the same.
    assert_eq!(others.len(), 2);
    assert!(others.iter().all(|m| m.is_benotify() && m.body() == body));
    assert_eq!([others[0].peer, others[1].peer], [client.peer, other.peer]);
    // Only what is published anew comes again, one version up, all instances of it.
    let (answer, _) = publish(&mut world, &mut client, &[note(200, 1, "later")]);
    let body = answer.body();
    assert!(
        body.contains("container=\"200\" version=\"2\"") && body.contains("container=\"300\" version=\"1\"")
    );
    assert!(!body.contains("name=\"state\""));
    assert_eq!(world.stats().publications, 8);
}

#[test]
fn a_wrong_version_is_answered_with_the_right_one_and_nothing_is_stored() {
    let mut world = World::new(open());
    let mut client = world.own(1, 1);
    publish(&mut world, &mut client, &[note(200, 0, "a"), note(300, 0, "a")]);
    publish(&mut world, &mut client, &[note(300, 1, "b")]);
    let answer = refused(
        &mut world,
        &mut client,
        &[note(400, 0, "c"), note(200, 7, "c"), note(300, 1, "c"), note(100, 5, "c")],
    );
    assert_eq!(answer.code(), 409);
    assert_eq!(answer.header("Content-Type"), "application/msrtc-fault+xml");
    assert!(answer.header("ms-diagnostics").starts_with("2044;"));
    assert!(answer.body().contains("<Faultcode>Client.BadCall.WrongDelta</Faultcode>"));
    assert_eq!(
        answer.between("<operation ", "/>"),
        [
            "index=\"2\" version=\"7\" curVersion=\"1\"",
            "index=\"3\" version=\"1\" curVersion=\"2\"",
            "index=\"4\" version=\"5\" curVersion=\"0\""
        ]
    );
    assert_eq!(world.stats().publications, 2);
    // With what the fault says it goes through.
    publish(
        &mut world,
        &mut client,
        &[note(400, 0, "c"), note(200, 1, "c"), note(300, 2, "c"), note(100, 0, "c")],
    );
    assert_eq!((world.stats().publications, world.stats().conflicts), (4, 1));
}

#[test]
fn by_knob_every_third_publication_meets_a_faster_endpoint() {
    let mut world = World::new(with(|lync| lync.conflict_every = 3));
    let mut client = world.own(1, 1);
    // The first is of something that does not exist, and does not count.
    publish(&mut world, &mut client, &[note(200, 0, "0")]);
    publish(&mut world, &mut client, &[note(200, 1, "1")]);
    publish(&mut world, &mut client, &[note(200, 2, "2")]);
    let answer = refused(&mut world, &mut client, &[note(200, 3, "3")]);
    assert_eq!(answer.code(), 409);
    assert!(answer.body().contains("<operation index=\"1\" version=\"3\" curVersion=\"4\"/>"));
    publish(&mut world, &mut client, &[note(200, 4, "4")]);
    assert_eq!((world.stats().conflicts, world.stats().conflicts_on_purpose), (1, 1));
}

#[test]
fn deletion_and_the_three_other_lifetimes() {
    let mut world = World::new(open());
    let mut client = world.own(1, 1);
    let other = world.own(1, 2);
    let kind = |number: u32, life: &str| publication("alerts", number, 200, 0, life, "<a xmlns=\"u\"/>");
    let all = [
        kind(1, "expireType=\"static\""),
        kind(2, "expireType=\"user\""),
        kind(3, "expireType=\"endpoint\""),
        kind(4, "expireType=\"time\" expires=\"60\""),
    ];
    publish(&mut world, &mut client, &all);
    // Time.
    assert!(world.pass(59 * SECOND).is_empty());
    let sent = world.pass(SECOND + 1);
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].between("instance=\"", "\""), ["1", "2", "3"]);
    // The endpoint that published.
    let logoff = client.register().line("Expires: 0");
    let (_, others) = world.ok(&client, &logoff);
    assert_eq!(others.len(), 1);
    assert_eq!(others[0].peer, other.peer);
    assert_eq!(others[0].between("instance=\"", "\""), ["1", "2"]);
    // The user's last endpoint.
    world.disconnect(&other);
    let mut again = world.client(1, 3);
    let request = again.subscribe("vnd-microsoft-roaming-self");
    let (answer, _) = world.ok(&again, &request);
    assert!(answer.body().contains("<category name=\"alerts\" instance=\"1\""));
    assert!(!answer.body().contains("<category name=\"alerts\" instance=\"2\""));
    // Static ones stay until they are deleted; nothing is left then.
    let delete = publication("alerts", 1, 200, 1, "expireType=\"static\" expires=\"0\"", "");
    let (answer, others) = publish(&mut world, &mut again, &[delete]);
    assert!(answer.body().contains("<category name=\"alerts\"/>"));
    assert_eq!(others[0].body(), answer.body());
    assert_eq!(world.stats().publications, 0);
    assert_eq!(world.stats().document_bytes, 0);
}

#[test]
fn what_is_left_in_other_containers_is_told_with_what_is_gone() {
    let mut world = World::new(open());
    let mut client = world.own(1, 1);
    publish(&mut world, &mut client, &[note(200, 0, "a"), note(300, 0, "a")]);
    let delete = publication("note", 0, 300, 1, "expireType=\"static\" expires=\"0\"", "");
    let (answer, _) = publish(&mut world, &mut client, &[delete]);
    assert!(answer.body().contains("<category name=\"note\" container=\"300\"/>"));
    assert!(answer.body().contains("container=\"200\" version=\"1\""));
}

/// §3.11.5 of the guide: machine and user states of container 2 go to 100, 200
/// and 400, those of 3 to 300.
#[test]
fn inputs_come_to_aggregates_in_their_containers() {
    let mut world = World::new(open());
    let mut client = world.own(1, 1);
    let containers = |answer: &Msg| {
        let all = answer.between("<category name=\"state\" ", "</category>");
        let aggregate = all.iter().filter(|text| text.contains("aggregateState"));
        let number = |text: &str, begin: &str, end: &str| -> u16 {
            text.split_once(begin).unwrap().1.split_once(end).unwrap().0.parse().unwrap()
        };
        let mut all: Vec<(u16, u16)> = aggregate
            .map(|text| (number(text, "container=\"", "\""), number(text, "<availability>", "<")))
            .collect();
        all.sort_unstable();
        all
    };
    let everywhere = |a, b| vec![(2, a), (3, b), (100, a), (200, a), (300, b), (400, a)];
    // A user without a machine is off line.
    let (answer, _) = publish(&mut world, &mut client, &user_state(0, 3_500));
    assert_eq!(containers(&answer), everywhere(18_500, 18_500));
    let (answer, _) = publish(&mut world, &mut client, &machine(0, 3_500));
    assert_eq!(containers(&answer), everywhere(3_500, 3_500));
    let (answer, _) = publish(&mut world, &mut client, &user_state(1, 6_500));
    assert_eq!(containers(&answer), everywhere(6_500, 6_500));
    // Do-not-disturb does not shut the workgroup out.
    let (answer, _) = publish(&mut world, &mut client, &user_state(2, 9_500));
    assert_eq!(containers(&answer), everywhere(9_500, 6_900));
    // Containers have versions of their own.
    let (answer, _) = publish(&mut world, &mut client, &[state("userState", 536_870_912, 2, 3, 3_500)]);
    assert_eq!(containers(&answer), everywhere(3_500, 6_900));
}

#[test]
fn hostile_and_senseless_bodies_are_refused_and_nothing_is_stored() {
    let mut world = World::new(open());
    let mut client = world.own(1, 1);
    let mut code = |body: &str| {
        let request = client.service("msrtc-category-publish+xml", body);
        let answer = world.ask(&client, &request);
        let id = answer.header("ms-diagnostics");
        (answer.code(), id.split(';').next().unwrap().to_owned())
    };
    let xml = (400, "4001".to_owned());
    let deep = format!("{}{}", "<a>".repeat(5_000), "</a>".repeat(5_000));
    let bomb = "<!DOCTYPE p [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;\">]><publish>&b;</publish>";
    let external = "<!DOCTYPE p SYSTEM \"file:///etc/passwd\"><publish/>";
    for body in ["", "<publish", "<publish/>", "\u{1}", &deep, bomb, external, "<publish xmlns=\"u\"/>"] {
        assert_eq!(code(body), xml, "{}", &body[..body.len().min(60)]);
    }
    let inside = |publication: &str, uri: &str| {
        format!(
            "<publish xmlns=\"http://schemas.microsoft.com/2006/09/sip/rich-presence\">\
             <publications uri=\"{uri}\">{publication}</publications></publish>"
        )
    };
    let one = |category: &str, instance: &str, container: &str, life: &str| {
        inside(
            &format!(
                "<publication categoryName=\"{category}\" instance=\"{instance}\" container=\"{container}\" version=\"0\" {life}><x/></publication>"
            ),
            &aor(1),
        )
    };
    let fixed = "expireType=\"static\"";
    assert_eq!(code(&one("dress", "1", "2", fixed)), (400, "4000".to_owned()));
    assert_eq!(code(&one("note", "x", "2", fixed)), (400, "4000".to_owned()));
    assert_eq!(code(&one("note", "1", "40000", fixed)), (400, "4000".to_owned()));
    assert_eq!(code(&one("note", "1", "2", "expireType=\"time\"")), (400, "4000".to_owned()));
    assert_eq!(code(&one("contactCard", "0", "0", fixed)), (403, "2003".to_owned()));
    assert_eq!(code(&inside(&note(200, 0, "x"), &aor(2))), (403, "4004".to_owned()));
    let long = "x".repeat(40_000);
    assert_eq!(code(&inside(&note(200, 0, &long), &aor(1))), (400, "2010".to_owned()));
    let many: String = (0..65).map(|n| note(n, 0, "x")).collect();
    assert_eq!(code(&inside(&many, &aor(1))), (413, "4008".to_owned()));
    assert_eq!(code(&format!("<publish>{}</publish>", "x".repeat(600_000))), (413, "4008".to_owned()));
    assert_eq!((world.stats().publications, world.stats().document_bytes), (0, 0));
    let request = client.service("something+xml", "<x/>");
    assert_eq!(world.ask(&client, &request).code(), 415);
    let request = client.publish(&[note(200, 0, "x")]).to(&format!("<{}>", aor(2)));
    assert_eq!(world.ask(&client, &request).code(), 403);
    // More instances than anybody needs.
    for begin in [0, 60, 120] {
        let some: Vec<String> = (begin..begin + 60).map(|n| note(n, 0, "x")).collect();
        let request = client.publish(&some);
        assert_eq!(world.ask(&client, &request).code(), if begin < 120 { 200 } else { 403 });
    }
    assert_eq!(world.stats().publications, 120);
}

#[test]
fn with_a_capacity_publications_queue() {
    let mut world = World::new(PoolConfig { capacity: Some(100.0), ..open() });
    let mut client = world.own(1, 1);
    let _ = world.watcher(2, 2, &[1]);
    let begin = world.now;
    for (at, version) in (0..5u32).enumerate() {
        let (answer, others) = publish(&mut world, &mut client, &[note(200, version, "x")]);
        let due = begin + (at as u64 + 1) * 10 * common::MS;
        assert_eq!(answer.at, due);
        // The watcher and the own endpoint: nobody knows of it before its turn has come.
        assert_eq!((others.len(), others.iter().filter(|m| m.at == due).count()), (2, 2));
    }
}
