//! Registrations (RFC 3261 §10.3).

mod common;

use common::{Request, SECOND, World, open};

const A: &str = "<sip:a@127.0.0.1:4000>";
const B: &str = "<sip:b@127.0.0.1:4001>";

#[test]
fn a_binding_is_kept_listed_and_counted() {
    let mut world = World::new(open());
    let answer = world.ask(&Request::register(1, A).line("Expires: 600"));
    assert_eq!((answer.code(), answer.all("Contact")), (200, vec![format!("{A};expires=600")]));
    assert_eq!(world.core.stats().registrations, 1);
    // Without Contact it is a question.
    world.pass(100 * SECOND);
    let answer = world.ask(&Request::new("REGISTER", 1).call("other", 9));
    assert_eq!(answer.all("Contact"), [format!("{A};expires=500")]);
    assert_eq!(world.ask(&Request::new("REGISTER", 2)).all("Contact"), Vec::<String>::new());
}

#[test]
fn a_refresh_extends_it_and_expiry_ends_it() {
    let mut world = World::new(open());
    world.ask(&Request::register(1, A).line("Expires: 100"));
    world.pass(90 * SECOND);
    let answer = world.ask(&Request::register(1, A).line("Expires: 100").call("REGISTER-1", 2));
    assert_eq!(answer.all("Contact"), [format!("{A};expires=100")]);
    world.pass(99 * SECOND);
    assert_eq!(world.core.stats().registrations, 1);
    world.pass(SECOND);
    assert_eq!(world.core.stats().registrations, 0, "without anybody asking");
    assert!(world.ask(&Request::new("REGISTER", 1).call("x", 1)).all("Contact").is_empty());
}

#[test]
fn the_contact_parameter_beats_the_header_and_the_most_is_granted() {
    let mut world = World::new(open());
    let answer = world.ask(&Request::register(1, &format!("{A};expires=120")).line("Expires: 600"));
    assert_eq!(answer.all("Contact"), [format!("{A};expires=120")]);
    let answer = world.ask(&Request::register(1, B).line("Expires: 999999"));
    assert_eq!(answer.all("Contact"), [format!("{A};expires=120"), format!("{B};expires=3600")]);
}

#[test]
fn too_brief_is_423_and_changes_nothing() {
    let mut world = World::new(open());
    world.ask(&Request::register(1, A).line("Expires: 600"));
    // The first Contact alone would be fine: all or nothing.
    let answer = world.ask(&Request::register(1, &format!("{B}, {A};expires=59")).call("REGISTER-1", 2));
    assert_eq!((answer.code(), answer.header("Min-Expires")), (423, "60".to_owned()));
    let answer = world.ask(&Request::new("REGISTER", 1).call("x", 1));
    assert_eq!(answer.all("Contact"), [format!("{A};expires=600")]);
}

#[test]
fn an_older_request_of_the_same_call_changes_nothing() {
    let mut world = World::new(open());
    world.ask(&Request::register(1, A).line("Expires: 600").call("c", 5));
    for cseq in [4, 5] {
        let answer = world.ask(&Request::register(1, &format!("{B}, {A};expires=0")).call("c", cseq));
        assert_eq!(answer.code(), 500, "CSeq {cseq}");
    }
    let star = Request::register(1, "*").line("Expires: 0");
    assert_eq!(world.ask(&star.clone().call("c", 5)).code(), 500);
    assert_eq!(world.core.stats().registrations, 1);
    // Another Call-ID is another instance of the user: its number says nothing.
    assert_eq!(world.ask(&Request::register(1, &format!("{A};expires=0")).call("d", 1)).code(), 200);
    assert_eq!(world.core.stats().registrations, 0);
}

#[test]
fn a_star_removes_all_and_only_with_expires_0_and_alone() {
    let mut world = World::new(open());
    world.ask(&Request::register(1, &format!("{A}, {B}")).line("Expires: 600"));
    assert_eq!(world.core.stats().registrations, 2);
    assert_eq!(world.ask(&Request::register(1, "*").call("c", 2)).code(), 400);
    assert_eq!(world.ask(&Request::register(1, "*").call("c", 3).line("Expires: 60")).code(), 400);
    let mixed = Request::register(1, "*").line(&format!("Contact: {A}")).line("Expires: 0");
    assert_eq!(world.ask(&mixed.call("c", 4)).code(), 400);
    assert_eq!(world.core.stats().registrations, 2);
    let answer = world.ask(&Request::register(1, "*").call("c", 5).line("Expires: 0"));
    assert_eq!((answer.code(), answer.all("Contact").len()), (200, 0));
    assert_eq!(world.core.stats().registrations, 0);
}

#[test]
fn several_contacts_live_and_end_separately() {
    let mut world = World::new(open());
    world.ask(&Request::register(1, &format!("{A};expires=100, {B};expires=200")));
    world.ask(&Request::register(2, A).line("Expires: 300"));
    world.pass(150 * SECOND);
    assert_eq!(world.core.stats().registrations, 2);
    let answer = world.ask(&Request::new("REGISTER", 1).call("x", 1));
    assert_eq!(answer.all("Contact"), [format!("{B};expires=50")]);
    let answer = world.ask(&Request::register(1, &format!("{B};expires=0")).call("y", 1));
    assert!(answer.all("Contact").is_empty());
}

#[test]
fn the_same_contact_is_recognised_in_another_spelling() {
    let mut world = World::new(open());
    world.ask(&Request::register(1, "<sip:a@HOST.test;transport=TCP>").line("Expires: 600"));
    let answer = world.ask(&Request::register(1, "sip:a@host.test;expires=700").call("x", 1));
    assert_eq!(answer.all("Contact").len(), 2, "a parameter more is another address");
    let answer = world.ask(&Request::register(1, "<SIP:a@host.TEST;transport=tcp>;expires=700").call("y", 1));
    assert_eq!(answer.all("Contact").len(), 2);
    // Twice in one request: the last word counts.
    let answer = world.ask(&Request::register(2, &format!("{A};expires=100, {A};expires=200")));
    assert_eq!(answer.all("Contact"), [format!("{A};expires=200")]);
}

#[test]
fn nine_contacts_are_refused_and_counted() {
    let mut world = World::new(open());
    let contacts = |n: u32| (0..n).map(|k| format!("<sip:d{k}@h>")).collect::<Vec<_>>().join(", ");
    assert_eq!(world.ask(&Request::register(1, &contacts(8)).line("Expires: 600")).code(), 200);
    assert_eq!(world.ask(&Request::register(1, A).call("x", 1)).code(), 403);
    assert_eq!(world.ask(&Request::register(2, &contacts(9))).code(), 403);
    let long = format!("<sip:{}@h>", "x".repeat(3_000));
    assert_eq!(world.ask(&Request::register(3, &long)).code(), 413);
    let stats = world.core.stats();
    assert_eq!((stats.registrations, stats.refused), (8, 3));
}

#[test]
fn strangers_are_404_and_other_people_403() {
    let mut world = World::new(open());
    let register = |to: &str| Request::register(1, A).to(to);
    for stranger in [
        "<sip:user009999@pool.test>",
        "<sip:user1@pool.test>",
        "<sip:user000001@other.test>",
        "<sip:x@pool.test>",
    ] {
        assert_eq!(world.ask(&register(stranger)).code(), 404, "{stranger}");
    }
    assert_eq!(world.ask(&register("<sip:user000002@pool.test>")).code(), 403);
    assert_eq!(world.ask(&Request::register(1, "<nonsense")).code(), 400);
    assert_eq!(world.core.stats().registrations, 0);
}
