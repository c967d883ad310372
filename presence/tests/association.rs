//! A security association that is lost in the middle of a session (`lync` with NTLM): a server was
//! restarted, or its eight hours are over. Whatever was on its way is said again, signed and once,
//! behind a REGISTER that makes a new association; or it ends, once.

#[path = "support/wire.rs"]
mod wire;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use adsum_presence::Contacts;
use adsum_presence::accounts::{Accounts, Pattern};
use adsum_presence::contacts::Graph;
use adsum_presence::host::{FlowEvent, Hop, Origin, Phase, Stage};
use adsum_presence::lync::{LyncAuth, LyncOptions, NtlmOptions};
use adsum_presence::population::{Config, Dialect, Kind, Population, Transport};
use adsum_sip::ids::{Namespace, mix};
use adsum_sip::protection::Outgoing;
use adsum_sip::sipae::{Association, Authority, AuthorityConfig, Check};
use adsum_sip::{HeaderId, Message, Scanner, Time, ntlm, value};
use proptest::prelude::*;
use wire::{Out, TARGET, Wire};

const SECOND: u64 = 1_000_000_000;
const HOLD: Stage = Stage { step: 1, phase: Phase::Hold };
/// Both watch each other, so that each has a publication and two subscriptions.
const USERS: u32 = 2;

/// What a server does to those whose association it has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temper {
    /// Challenges them, and takes them back.
    Good,
    /// Has lost their registrations as well.
    Added,
    /// Refuses their REGISTER.
    Forbids,
    /// Does not answer their REGISTER.
    Silent,
    /// Challenges whatever they say, for ever.
    Challenges,
}

struct Server {
    authority: Authority,
    temper: Temper,
    target: &'static str,
    /// Of each user, while it stands.
    associations: BTreeMap<u32, Association>,
    forgot: bool,
    asleep: bool,
    waiting: VecDeque<Out>,
    /// Requests that were taken, by method.
    taken: BTreeMap<String, u64>,
    registers: u64,
    cseq: u32,
    /// Latest SUBSCRIBE for presence of each user: From, To, Call-ID.
    watching: BTreeMap<u32, (String, String, String)>,
}

struct World {
    population: Population,
    wire: Wire,
    server: Server,
}

fn authority(target: &str, key: u64) -> Authority {
    Authority::new(AuthorityConfig {
        version: 4,
        target: target.to_owned(),
        domain: "LOADLAB".to_owned(),
        proxy: false,
        extended: true,
        mic: false,
        key,
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl World {
    fn new() -> World {
        let ntlm = NtlmOptions { verify: true, workstation: "LOADGEN".to_owned(), filetime: 1 << 56 };
        let config = Config {
            namespace: Namespace { run: 9, shard: 1, key: 5 },
            transport: Transport::Tcp,
            kind: Kind::Held,
            reuse_nonce: true,
            self_subscribe: true,
            expires: 600,
            publish_expires: 600,
            deadline: 25 * SECOND,
            dialect: Dialect::Lync(LyncOptions { auth: LyncAuth::Ntlm(ntlm), ..LyncOptions::default() }),
        };
        let accounts = Accounts::Pattern {
            uri: Pattern::parse("sip:user{n:06}@pool.test").unwrap(),
            auth_user: None,
            password: Pattern::parse("pw-user{n:06}").unwrap(),
            pairs: vec![0],
        };
        let contacts = Contacts::Graph(Graph::new(USERS, || [(0, 1), (1, 0)].into_iter()));
        World {
            population: Population::with_contacts(config, Rc::new(accounts), contacts, Time(0)).unwrap(),
            wire: Wire::new(true, false),
            server: Server {
                authority: authority("a.pool.test", 1),
                temper: Temper::Good,
                target: "a.pool.test",
                associations: BTreeMap::new(),
                forgot: false,
                asleep: false,
                waiting: VecDeque::new(),
                taken: BTreeMap::new(),
                registers: 0,
                cseq: 1,
                watching: BTreeMap::new(),
            },
        }
    }

    /// Signed on, watching each other, and one publication each was seen.
    fn begun() -> World {
        let mut world = World::new();
        for user in 0..USERS {
            assert!(world.population.sign_on(Time(0), user, Time(0), Stage::WARMUP, &mut world.wire));
        }
        world.pass(SECOND);
        for edge in 0..2 {
            let now = world.wire.now;
            assert!(world.population.subscribe(now, edge, now, Stage::WARMUP, &mut world.wire));
        }
        world.pass(SECOND);
        for user in 0..USERS {
            world.publish(user);
        }
        world.pass(SECOND);
        assert_eq!(
            (world.count("delivered"), world.wire.failures.len()),
            (2, 0),
            "{:?}",
            world.wire.failures
        );
        world
    }

    fn publish(&mut self, user: u32) {
        let now = self.wire.now;
        *self.wire.counts.entry("offered".to_owned()).or_default() += 1;
        self.population.publish(now, user, now, HOLD, &mut self.wire);
    }

    fn count(&self, name: &str) -> u64 {
        self.wire.counts.get(name).copied().unwrap_or(0)
    }

    fn pass(&mut self, nanoseconds: u64) {
        let until = self.wire.now + nanoseconds;
        loop {
            self.settle();
            let next = self.population.next_timer().max(self.wire.now);
            if next > until {
                self.wire.now = until;
                return;
            }
            self.wire.now = next;
            self.population.on_timer(next, &mut self.wire);
        }
    }

    fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < 10_000, "asked in a loop");
            let connecting: Vec<u32> = self.wire.open.values().copied().collect();
            for user in connecting {
                self.population.on_flow(self.wire.now, user, FlowEvent::Open(self.wire.now), &mut self.wire);
            }
            let Some(out) = self.wire.sent.pop_front() else { return };
            if self.server.asleep {
                self.server.waiting.push_back(out);
            } else {
                self.answer(&out);
            }
        }
    }

    /// The server forgets all associations, wakes up and answers in another order.
    fn wake(&mut self, order: u64) {
        self.server.forgot = true;
        self.server.authority = authority(self.server.target, mix(order) | 1);
        self.server.associations.clear();
        self.server.asleep = false;
        let mut waiting: Vec<Out> = self.server.waiting.drain(..).collect();
        for at in 0..waiting.len() {
            let other = mix(order + at as u64) as usize % waiting.len();
            waiting.swap(at, other);
        }
        for out in waiting {
            self.answer(&out);
        }
    }

    fn answer(&mut self, out: &Out) {
        assert!(matches!(out.hop, Hop::Target) && out.at <= self.wire.now);
        if out.bytes == b"\r\n\r\n" || out.bytes.starts_with(b"SIP/2.0") {
            return;
        }
        let mut scanner = Scanner::new();
        let message = scanner.scan(&out.bytes).unwrap();
        let method = text(message.method());
        let user: u32 = if out.text().contains("From: <sip:user000001@") { 0 } else { 1 };
        assert!(
            method == "REGISTER" || message.header(HeaderId::Authorization).is_some(),
            "sent unsigned: {}",
            out.text()
        );
        let forgot = self.server.forgot;
        let temper = if forgot { self.server.temper } else { Temper::Good };
        self.server.registers += u64::from(method == "REGISTER");
        match (temper, method.as_str()) {
            (Temper::Silent, "REGISTER") => return,
            (Temper::Forbids, "REGISTER") => return self.respond(out, &message, None, 403, "", ""),
            (Temper::Challenges, other) if other != "REGISTER" => {
                let line = format!(
                    "WWW-Authenticate: NTLM realm=\"SIP Communications Service\", targetname=\"{}\", version=4\r\n",
                    self.server.target
                );
                return self.respond(out, &message, None, 401, &line, "");
            }
            _ => {}
        }
        let mut lines = Vec::new();
        let hash = |_: &str, name: &str| Some(ntlm::nt_hash(&format!("pw-{name}")));
        match self.server.authority.check(&message, u64::from(out.flow), 0, hash, &mut lines) {
            Check::Challenged(_) => self.respond(out, &message, None, 401, &text(&lines), ""),
            Check::Passed(association) => {
                self.server.associations.insert(user, association);
                *self.server.taken.entry(method.clone()).or_default() += 1;
                self.take(out, &message, &method, user, association);
            }
        }
    }

    fn take(&mut self, out: &Out, message: &Message<'_>, method: &str, user: u32, association: Association) {
        let header = |id| message.header(id).map(text).unwrap_or_default();
        let is_last = message.expires() == Some(0);
        match method {
            "REGISTER" => {
                let action = if self.server.forgot && self.server.temper == Temper::Added {
                    "added"
                } else {
                    "refreshed"
                };
                let lines = format!(
                    "Contact: {};expires=100;gruu=\"sip:user00000{}@pool.test;gruu\"\r\nSupported: msrtc-event-categories\r\n\
                     presence-state: register-action=\"{action}\"\r\n",
                    header(HeaderId::Contact),
                    user + 1
                );
                self.respond(out, message, Some(association), 200, &lines, "");
            }
            "SUBSCRIBE" if is_last => {
                self.respond(out, message, Some(association), 200, "Expires: 0\r\n", "")
            }
            "SUBSCRIBE" => {
                let own = header(HeaderId::Event) != "presence";
                let body = if own {
                    "<roamingData><containers><container id=\"200\" version=\"1\"><member type=\"sameEnterprise\"/></container></containers></roamingData>".to_owned()
                } else {
                    let dialog = (header(HeaderId::From), header(HeaderId::To), header(HeaderId::CallId));
                    self.server.watching.insert(user, dialog);
                    format!("<categories uri=\"sip:user00000{}@pool.test\"/>", 2 - user)
                };
                let lines = format!(
                    "Contact: <sip:127.0.0.1:5060>\r\nExpires: 80\r\nms-piggyback-cseq: {}\r\n",
                    self.server.cseq
                );
                self.server.cseq += 1;
                self.respond(out, message, Some(association), 200, &lines, &body);
            }
            _ => {
                self.respond(out, message, Some(association), 200, "", "");
                self.tell(1 - user, &text(message.body()));
            }
        }
    }

    /// A BENOTIFY, signed if there is something to sign with.
    fn tell(&mut self, watcher: u32, body: &str) {
        let Some((from, to, call_id)) = self.server.watching.get(&watcher).cloned() else { return };
        self.server.cseq += 1;
        let cseq = self.server.cseq;
        let to = to.split(";tag=").next().unwrap_or("").to_owned();
        let head = format!(
            "BENOTIFY sip:us SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK{cseq}\r\nFrom: {to};tag=srv\r\nTo: {from}\r\n\
             Call-ID: {call_id}\r\nCSeq: {cseq} BENOTIFY\r\nEvent: presence\r\nsubscription-state: active\r\n"
        );
        let association = self.server.associations.get(&watcher).copied();
        let bytes = self.seal(&head, association, 0, body);
        self.deliver(watcher, &bytes);
    }

    fn respond(
        &mut self,
        out: &Out,
        message: &Message<'_>,
        association: Option<Association>,
        code: u16,
        lines: &str,
        body: &str,
    ) {
        let header = |id| message.header(id).map(text).unwrap_or_default();
        let to = header(HeaderId::To);
        let tag = if to.contains("tag=") { "" } else { ";tag=srv" };
        let head = format!(
            "SIP/2.0 {code} Whatever\r\nVia: {}\r\nFrom: {}\r\nTo: {to}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n{lines}",
            header(HeaderId::Via),
            header(HeaderId::From),
            header(HeaderId::CallId),
            header(HeaderId::CSeq),
        );
        let bytes = self.seal(&head, association, code, body);
        self.deliver(out.flow, &bytes);
    }

    fn seal(&mut self, head: &str, association: Option<Association>, code: u16, body: &str) -> Vec<u8> {
        let whole = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let mut lines = Vec::new();
        if let Some(association) = association {
            let mut scanner = Scanner::new();
            let message = scanner.scan(whole.as_bytes()).unwrap();
            let uri = |id| message.header(id).and_then(value::name_addr).map_or(&b""[..], |a| a.uri);
            let (cseq, method) = message.cseq().unwrap();
            let outgoing = Outgoing {
                code,
                method,
                call_id: message.call_id(),
                cseq,
                from_uri: uri(HeaderId::From),
                from_tag: message.from_tag().unwrap_or(b""),
                to_uri: uri(HeaderId::To),
                to_tag: message.to_tag().unwrap_or(b""),
                expires: message.expires(),
                ..Outgoing::default()
            };
            self.server.authority.sign(association, &outgoing, false, &mut lines);
        }
        format!("{head}{}Content-Length: {}\r\n\r\n{body}", text(&lines), body.len()).into_bytes()
    }

    fn deliver(&mut self, flow: u32, bytes: &[u8]) {
        let mut scanner = Scanner::new();
        let message = scanner.scan(bytes).unwrap();
        let origin = Origin { from: SocketAddr::from(TARGET), foreign: false };
        let now = self.wire.now;
        self.population.on_message(now, now, flow, origin, &message, &mut self.wire);
    }

    /// The server falls asleep with everything on its way that a user can have: both refreshes of its
    /// subscriptions, a publication, and if wanted the refresh of its registration.
    fn asleep(order: u64, with_register: bool) -> World {
        let mut world = World::begun();
        let asleep_from = if with_register { 55 } else { 65 };
        // Registrations are refreshed after 63 to 70 s, subscriptions after 64 to 72 s.
        world.pass((asleep_from - 3) * SECOND);
        world.server.asleep = true;
        world.pass((74 - asleep_from) * SECOND);
        let waiting = |world: &World, what: &str| {
            world.server.waiting.iter().filter(|out| out.text().starts_with(what)).count()
        };
        assert!(waiting(&world, "SUBSCRIBE") > 0, "nothing is on its way");
        assert!(!with_register || waiting(&world, "REGISTER") > 0);
        for user in 0..USERS {
            world.publish(user);
        }
        world.settle();
        assert_eq!(waiting(&world, "SERVICE"), 2);
        world.wake(order);
        world
    }

    fn identities(&self) {
        let sum = |names: &[&str]| -> u64 { names.iter().map(|name| self.count(name)).sum() };
        assert_eq!(sum(&["offered"]), sum(&["sent", "not_started"]), "{:?}", self.wire.counts);
        assert_eq!(sum(&["sent"]), sum(&["publish_ok", "publish_failed"]), "{:?}", self.wire.counts);
        let ways = ["delivered", "superseded", "missed", "void_publish_failed", "void_interrupted"];
        assert_eq!(sum(&["expected"]), sum(&ways), "{:?}", self.wire.counts);
    }
}

#[test]
fn everything_on_its_way_is_said_again_signed_and_once() {
    for order in 0..40 {
        for with_register in [false, true] {
            let mut world = World::asleep(order, with_register);
            let before = world.server.taken.clone();
            world.pass(5 * SECOND);
            let world = world;
            assert!(world.wire.failures.is_empty(), "{order}: {:?}", world.wire.failures);
            assert_eq!((world.count("publish_ok"), world.count("delivered")), (4, 4), "{order}");
            assert_eq!(world.count("users_rejected"), 0);
            let tally = world.population.tally();
            assert_eq!((tally.registered, tally.subscribed, tally.requests), (2, 2, 0), "{order}");
            for lost in ["subscription_lost", "missed", "reconnect", "auth_mismatch", "unmatched"] {
                assert_eq!(world.count(lost), 0, "{order}: {lost}");
            }
            assert_eq!(world.server.taken["SERVICE"] - before["SERVICE"], 2, "{order}");
            world.identities();
        }
    }
}

#[test]
fn a_server_of_another_name_takes_over() {
    let mut world = World::begun();
    world.server.target = "b.pool.test";
    world.server.asleep = true;
    world.publish(0);
    world.publish(1);
    world.settle();
    world.wake(7);
    world.pass(5 * SECOND);
    assert!(world.wire.failures.is_empty(), "{:?}", world.wire.failures);
    assert_eq!((world.count("publish_ok"), world.count("delivered")), (4, 4));
}

/// A publication that comes while the association is made anew waits, and counts from its arrival.
#[test]
fn what_comes_meanwhile_waits() {
    let mut world = World::begun();
    let lost = world.server.associations.remove(&0).unwrap();
    world.server.authority.forget(lost);
    world.publish(0);
    let first = world.wire.sent.pop_front().unwrap();
    world.answer(&first);
    // Its REGISTER is on its way.
    world.server.asleep = true;
    world.settle();
    world.publish(0);
    world.publish(1);
    world.settle();
    assert_eq!(world.count("waited_publication"), 1, "the other one lost nothing");
    world.server.asleep = false;
    let waiting: Vec<Out> = world.server.waiting.drain(..).collect();
    assert_eq!(waiting.len(), 2, "a REGISTER and the other one's SERVICE");
    for out in waiting {
        world.answer(&out);
    }
    world.pass(5 * SECOND);
    assert!(world.wire.failures.is_empty(), "{:?}", world.wire.failures);
    assert_eq!((world.count("publish_ok"), world.count("delivered")), (5, 5));
    world.identities();
}

#[test]
fn a_lost_registration_ends_what_waited_for_it_and_begins_anew() {
    let mut world = World::begun();
    world.server.temper = Temper::Added;
    world.server.asleep = true;
    world.publish(0);
    world.settle();
    world.wake(3);
    world.pass(SECOND);
    let failures: Vec<&str> = world.wire.failures.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(failures, ["register pool registration:lost", "publish pool registration:lost"]);
    assert_eq!((world.count("publish_failed"), world.count("void_publish_failed")), (1, 1));
    world.server.temper = Temper::Good;
    world.pass(60 * SECOND);
    assert_eq!(world.population.tally().subscribed, 2);
    world.identities();
}

#[test]
fn a_register_that_is_refused_or_not_answered_ends_what_waited_for_it() {
    for (temper, code) in [(Temper::Forbids, "sip:403"), (Temper::Silent, "timeout:transaction")] {
        let mut world = World::begun();
        world.server.temper = temper;
        world.server.asleep = true;
        world.publish(0);
        world.settle();
        world.wake(3);
        world.pass(40 * SECOND);
        let failures: Vec<&str> = world.wire.failures.iter().map(|(what, _)| what.as_str()).collect();
        // Timer F is longer than the deadline of the notification.
        let silent = usize::from(temper == Temper::Silent);
        assert!(failures[silent].starts_with("register") && failures[silent].ends_with(code), "{failures:?}");
        assert_eq!(failures[silent + 1], "publish pool registration:lost", "{failures:?}");
        assert_eq!(world.count("publish_failed"), 1);
        assert_eq!(world.count("void_publish_failed") + world.count("missed"), 1);
        world.identities();
    }
}

/// A further challenge behind a complete handshake is a refusal (protocol guide §7.4, 44).
#[test]
fn a_server_that_is_never_content_sets_the_user_aside() {
    let mut world = World::begun();
    world.server.temper = Temper::Challenges;
    world.server.asleep = true;
    world.publish(0);
    world.settle();
    world.wake(3);
    let registers = world.server.registers;
    world.pass(10 * SECOND);
    assert_eq!(world.wire.failures[0].0, "publish configuration auth:rejected", "{:?}", world.wire.failures);
    assert_eq!((world.count("users_rejected"), world.count("publish_failed")), (1, 1));
    assert!(world.server.registers - registers <= 3, "one handshake");
    world.identities();
}

/// Before its eight hours are over an association is made anew, with a refresh of the registration.
#[test]
fn associations_are_renewed_in_time() {
    let mut world = World::begun();
    let first = world.server.associations.clone();
    world.pass(5 * 3_600 * SECOND + 100 * SECOND);
    for user in 0..USERS {
        assert_ne!(first[&user], world.server.associations[&user]);
    }
    assert!(world.wire.failures.is_empty(), "{:?}", world.wire.failures);
    world.publish(0);
    world.pass(SECOND);
    assert_eq!(world.count("delivered"), 3);
}

/// While the new association is being made, the server speaks under the old one, which nobody can
/// check any more: what it says then counts all the same.
#[test]
fn what_is_signed_under_the_old_association_meanwhile_counts() {
    let mut world = World::begun();
    world.pass((5 * 3_600 - 20) * SECOND);
    let handshake = |out: &Out| out.text().contains("gssapi-data=\"TlRM") && out.flow == 0;
    let mut answered = None;
    for _ in 0..2_000 {
        world.wire.now = world.wire.now + SECOND / 10;
        let now = world.wire.now;
        world.population.on_timer(now, &mut world.wire);
        while let Some(out) = world.wire.sent.pop_front() {
            if handshake(&out) {
                answered = Some(out);
            } else {
                world.answer(&out);
            }
        }
        if answered.is_some() {
            break;
        }
    }
    let answered = answered.expect("an association is renewed");
    world.publish(1);
    while let Some(out) = world.wire.sent.pop_front() {
        world.answer(&out);
    }
    assert_eq!((world.count("delivered"), world.count("auth_mismatch")), (3, 0));
    world.answer(&answered);
    world.pass(SECOND);
    world.publish(1);
    world.pass(SECOND);
    assert_eq!((world.count("delivered"), world.count("auth_mismatch")), (4, 0));
    assert!(world.wire.failures.is_empty(), "{:?}", world.wire.failures);
}

/// A front end that has lost the association cannot sign a refusal; of a REGISTER it counts.
#[test]
fn an_unsigned_refusal_of_a_register_counts() {
    let mut world = World::begun();
    world.server.temper = Temper::Forbids;
    world.server.forgot = true;
    world.pass(75 * SECOND);
    assert_eq!(world.wire.failures[0].0, "register configuration sip:403", "{:?}", world.wire.failures);
    assert_eq!(world.count("auth_mismatch"), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_becomes_of_it_the_accounts_balance(
        order in any::<u32>(),
        temper in prop::sample::select(vec![
            Temper::Good, Temper::Added, Temper::Forbids, Temper::Silent, Temper::Challenges,
        ]),
        with_register in any::<bool>(),
        signs_off in any::<bool>(),
    ) {
        let mut world = World::begun();
        world.server.temper = temper;
        world.pass((if with_register { 52 } else { 62 }) * SECOND);
        world.server.asleep = true;
        world.pass((if with_register { 19 } else { 9 }) * SECOND);
        world.publish(0);
        world.publish(1);
        world.settle();
        if signs_off {
            let now = world.wire.now;
            world.population.sign_off(now, 0, HOLD, &mut world.wire);
        }
        world.wake(u64::from(order));
        world.pass(90 * SECOND);
        for user in (0..USERS).rev() {
            let now = world.wire.now;
            world.population.sign_off(now, user, HOLD, &mut world.wire);
        }
        world.pass(300 * SECOND);
        let now = world.wire.now;
        world.population.expire_waiting(now, true, &mut world.wire);
        world.identities();
        let tally = world.population.tally();
        prop_assert_eq!((tally.registered, tally.subscribed, tally.requests), (0, 0, 0));
        prop_assert_eq!((tally.publications, tally.waiting, world.population.timers()), (0, 0, 0));
        prop_assert!(world.wire.open.is_empty());
    }
}
