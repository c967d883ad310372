//! A user against a scripted server that wants credentials: the seam is called
//! last at writing, first at reading, and what it says decides.

#[path = "support/desk.rs"]
mod desk;

use std::net::SocketAddr;
use std::rc::Rc;

use adsum_presence::accounts::{Accounts, Pattern};
use adsum_presence::host::{Counter, Origin, Stage};
use adsum_presence::population::{Config, Dialect, Kind, Population, Transport};
use adsum_sip::digest::{Authorization, Secret};
use adsum_sip::ids::Namespace;
use adsum_sip::{HeaderId, Message, Scanner, Time};

const SECOND: u64 = 1_000_000_000;
const PASSWORD: &[u8] = b"pw-1";

/// What was sent, counted and failed.
type Desk = desk::Desk<Vec<Vec<u8>>>;

struct World {
    population: Population,
    desk: Desk,
}

impl World {
    fn new() -> World {
        let config = Config {
            namespace: Namespace { run: 9, shard: 1, key: 5 },
            transport: Transport::Tcp,
            kind: Kind::Held,
            reuse_nonce: true,
            self_subscribe: false,
            expires: 600,
            publish_expires: 600,
            deadline: 25 * SECOND,
            dialect: Dialect::Simple,
        };
        let accounts = Accounts::Pattern {
            uri: Pattern::parse("sip:user{n}@pool.test").unwrap(),
            auth_user: None,
            password: Pattern::parse("pw-{n}").unwrap(),
            pairs: vec![0],
        };
        let population = Population::new(config, Rc::new(accounts), Time(0)).unwrap();
        World { population, desk: Desk::new(Vec::new()) }
    }

    fn mismatches(&self) -> u64 {
        self.desk.of(Counter::AuthMismatch)
    }

    fn failures(&self) -> Vec<String> {
        self.desk.failures.iter().map(|(what, _)| what.clone()).collect()
    }

    fn sign_on(&mut self) -> bool {
        self.population.sign_on(Time(0), 0, Time(0), Stage::WARMUP, &mut self.desk)
    }

    /// Lets `serve` see the request that waits for an answer, and hands its answer back.
    /// `serve` gives status and further header lines.
    fn answer(&mut self, serve: impl FnOnce(&Message<'_>) -> (u16, String)) {
        let bytes = self.desk.carrier.last().unwrap().clone();
        let mut scanner = Scanner::new();
        let request = scanner.scan(&bytes).unwrap();
        assert_eq!(request.body().len() + head_of(&bytes), bytes.len(), "Content-Length is right");
        assert_eq!(rsip::Request::try_from(bytes.as_slice()).unwrap().body, request.body());
        let (code, lines) = serve(&request);
        let text = |id| String::from_utf8_lossy(request.header(id).unwrap()).into_owned();
        let answer = format!(
            "SIP/2.0 {code} X\r\nVia: {}\r\nFrom: {}\r\nTo: {};tag=s\r\nCall-ID: {}\r\nCSeq: {}\r\n\
             Contact: {};expires=600\r\n{lines}Content-Length: 0\r\n\r\n",
            text(HeaderId::Via),
            text(HeaderId::From),
            text(HeaderId::To),
            text(HeaderId::CallId),
            text(HeaderId::CSeq),
            request.header(HeaderId::Contact).map_or("<sip:x>".into(), String::from_utf8_lossy),
        );
        let mut scanner = Scanner::new();
        let message = scanner.scan(answer.as_bytes()).unwrap();
        let origin = Origin { from: SocketAddr::from(([127, 0, 0, 1], 5060)), foreign: false };
        self.population.on_message(Time(0), Time(0), 0, origin, &message, &mut self.desk);
    }
}

fn head_of(bytes: &[u8]) -> usize {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4
}

/// True if the request proves the password in that header; `None` without it.
fn proves(request: &Message<'_>, id: HeaderId) -> Option<bool> {
    let given = Authorization::read(request.header(id)?)?;
    Some(given.proves(Secret::Password(PASSWORD), request.method(), request.body()))
}

#[test]
fn a_proxy_and_the_registrar_behind_it_both_get_credentials() {
    let mut world = World::new();
    assert!(world.sign_on());
    world.answer(|request| {
        assert_eq!(
            (proves(request, HeaderId::ProxyAuthorization), proves(request, HeaderId::Authorization)),
            (None, None)
        );
        (407, "Proxy-Authenticate: Digest realm=\"proxy\", nonce=\"p\", qop=\"auth\"\r\n".into())
    });
    world.answer(|request| {
        assert_eq!(request.cseq(), Some((2, &b"REGISTER"[..])));
        assert_eq!(proves(request, HeaderId::ProxyAuthorization), Some(true));
        (
            401,
            "WWW-Authenticate: Digest realm=\"pool.test\", nonce=\"w\", algorithm=SHA-256, qop=\"auth\"\r\n"
                .into(),
        )
    });
    world.answer(|request| {
        assert_eq!(request.cseq(), Some((3, &b"REGISTER"[..])));
        assert_eq!(proves(request, HeaderId::ProxyAuthorization), Some(true));
        assert_eq!(proves(request, HeaderId::Authorization), Some(true));
        (200, String::new())
    });
    assert!(world.population.is_registered(0));
    assert_eq!((world.desk.carrier.len(), world.mismatches()), (3, 0));
    assert_eq!(world.failures(), Vec::<String>::new());
}

#[test]
fn a_wrong_rspauth_is_counted_and_the_answer_used() {
    for (right, mismatches) in [(true, 0), (false, 1)] {
        let mut world = World::new();
        world.sign_on();
        world.answer(|_| (401, "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth\"\r\n".into()));
        world.answer(|request| {
            let given = Authorization::read(request.header(HeaderId::Authorization).unwrap()).unwrap();
            let password = if right { PASSWORD } else { b"another" };
            let rspauth = given.rspauth(Secret::Password(password), b"").unwrap();
            let rspauth = std::str::from_utf8(rspauth.text()).unwrap();
            (200, format!("Authentication-Info: qop=auth, rspauth=\"{rspauth}\", nextnonce=\"next\"\r\n"))
        });
        assert_eq!(world.mismatches(), mismatches);
        assert!(world.population.is_registered(0));
        world.population.publish(Time(0), 0, Time(0), Stage::WARMUP, &mut world.desk);
        world.answer(|request| {
            let given = Authorization::read(request.header(HeaderId::Authorization).unwrap()).unwrap();
            assert_eq!((given.nonce, given.nc), (&b"next"[..], &b"00000001"[..]));
            (200, "SIP-ETag: e\r\nExpires: 600\r\n".into())
        });
        assert_eq!(world.failures(), Vec::<String>::new());
    }
}

/// The document is rendered before it is protected: its hash is in the answer.
#[test]
fn auth_int_covers_the_document() {
    let mut world = World::new();
    world.sign_on();
    world.answer(|_| (200, String::new()));
    world.population.publish(Time(0), 0, Time(0), Stage::WARMUP, &mut world.desk);
    world.answer(|request| {
        assert_eq!(proves(request, HeaderId::Authorization), None);
        (401, "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth-int\"\r\n".into())
    });
    world.answer(|request| {
        let given = Authorization::read(request.header(HeaderId::Authorization).unwrap()).unwrap();
        assert!(request.body().ends_with(b"</presence>\n") && given.qop == b"auth-int");
        assert_eq!(proves(request, HeaderId::Authorization), Some(true));
        assert!(!given.proves(Secret::Password(PASSWORD), b"PUBLISH", b"another document"));
        (200, "SIP-ETag: e\r\nExpires: 600\r\n".into())
    });
    assert_eq!(world.failures(), Vec::<String>::new());
}

#[test]
fn rejected_credentials_are_never_sent_again() {
    let mut world = World::new();
    world.sign_on();
    let challenge = "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\", qop=\"auth\"\r\n";
    world.answer(|_| (401, challenge.into()));
    world.answer(|_| (401, challenge.into()));
    assert_eq!(world.failures(), ["register auth:rejected"]);
    assert!(world.population.is_rejected(0));
    assert!(!world.sign_on());
    assert_eq!(world.desk.carrier.len(), 2);
}

/// A server that lost its nonces gets one more attempt, a second loss is a refusal.
#[test]
fn another_nonce_without_stale_is_tried_once() {
    let mut world = World::new();
    world.sign_on();
    for nonce in 0..3 {
        let challenge = format!("WWW-Authenticate: Digest realm=\"r\", nonce=\"{nonce}\"\r\n");
        assert_eq!(world.failures(), Vec::<String>::new());
        world.answer(|_| (401, challenge));
    }
    assert_eq!(world.desk.carrier.len(), 3);
    assert_eq!(world.failures(), ["register auth:rejected"]);
}

#[test]
fn a_server_that_never_has_enough_is_given_up() {
    let mut world = World::new();
    world.sign_on();
    for nonce in 0..5 {
        let challenge = format!("WWW-Authenticate: Digest realm=\"r\", nonce=\"{nonce}\", stale=true\r\n");
        world.answer(|_| (401, challenge));
    }
    assert_eq!(world.desk.carrier.len(), 5, "one request and four attempts");
    assert_eq!(world.failures(), ["register auth:rejected"]);
}

#[test]
fn schemes_that_we_do_not_speak_are_named() {
    let mut world = World::new();
    world.sign_on();
    world.answer(|_| {
        (401, "WWW-Authenticate: NTLM realm=\"SIP Communications Service\", version=4\r\n".into())
    });
    assert_eq!(world.failures(), ["register auth:unsupported"]);
    assert!(!world.population.is_rejected(0), "nobody looked at the credentials");
}
