//! Who is let in (RFC 3261 §22, RFC 7616): the formula is written here once more,
//! independently of the pool's.

mod common;

use adsum_pool::PoolConfig;
use common::{Msg, Request, SECOND, World};
use md5::Digest as _;

fn hex(algorithm: &str, text: &str) -> String {
    let bytes: Vec<u8> = match algorithm {
        "SHA-256" => sha2::Sha256::digest(text).to_vec(),
        _ => md5::Md5::digest(text).to_vec(),
    };
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn field(challenge: &str, name: &str) -> String {
    let rest =
        challenge.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("no {name}: {challenge}")).1;
    rest.trim_start_matches('"').split(['"', ',']).next().unwrap().to_owned()
}

/// Credentials for a request, as an answer to a challenge.
fn proof(request: &Request, challenge: &str, user: &str, password: &str) -> String {
    let (realm, nonce, algorithm) =
        (field(challenge, "realm"), field(challenge, "nonce"), field(challenge, "algorithm"));
    let h = |text: &str| hex(&algorithm, text);
    let a1 = h(&format!("{user}:{realm}:{password}"));
    let a2 = h(&format!("{}:{}", request.method(), request.request_uri()));
    let response = h(&format!("{a1}:{nonce}:00000001:c0ffee:auth:{a2}"));
    format!(
        "Authorization: Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{}\", \
         response=\"{response}\", algorithm={algorithm}, cnonce=\"c0ffee\", qop=auth, nc=00000001",
        request.request_uri()
    )
}

fn register(user: u32, cseq: u32) -> Request {
    Request::register(user, "<sip:a@127.0.0.1:4000>").line("Expires: 600").call("c", cseq)
}

fn challenged(world: &mut World) -> Msg {
    let answer = world.ask(&Request::register(1, "<sip:a@127.0.0.1:4000>").call("challenge", 1));
    assert_eq!(answer.code(), 401);
    answer
}

fn tried(world: &mut World, request: Request, challenge: &str, user: &str, password: &str) -> Msg {
    let line = proof(&request, challenge, user, password);
    world.ask(&request.line(&line))
}

#[test]
fn without_credentials_there_is_a_challenge_and_with_them_an_answer() {
    let mut world = World::new(PoolConfig::default());
    let challenge = challenged(&mut world).header("WWW-Authenticate");
    assert_eq!(
        (field(&challenge, "realm"), field(&challenge, "algorithm"), field(&challenge, "qop")),
        ("pool.test".into(), "MD5".into(), "auth".into())
    );
    assert!(!challenge.contains("stale"), "{challenge}");
    assert_eq!(world.core.stats().registrations, 0);
    for request in [register(1, 2), Request::subscribe(1, 2, 600), Request::publish(1, "x")] {
        assert_eq!(world.ask(&request).code(), 401);
        assert_eq!(tried(&mut world, request, &challenge, "user000001", "pw-user000001").code(), 200);
    }
    let stats = world.core.stats();
    assert_eq!((stats.registrations, stats.subscriptions, stats.publications), (1, 1, 1));
}

#[test]
fn a_wrong_password_is_403_and_no_second_challenge() {
    let mut world = World::new(PoolConfig::default());
    let challenge = challenged(&mut world).header("WWW-Authenticate");
    for (user, password) in [
        ("user000001", "wrong"),
        ("user000001", ""),
        ("nobody", "pw-nobody"),
        ("user999999", "pw-user999999"),
    ] {
        let answer = tried(&mut world, register(1, 2), &challenge, user, password);
        assert_eq!((answer.code(), answer.all("WWW-Authenticate").len()), (403, 0), "{user}");
    }
    // What was proven is this request, not another.
    let other = proof(&Request::publish(1, "x"), &challenge, "user000001", "pw-user000001");
    assert_eq!(world.ask(&register(1, 3).line(&other)).code(), 403);
    assert_eq!(world.core.stats().registrations, 0);
}

#[test]
fn nobody_acts_with_the_credentials_of_another() {
    let mut world = World::new(PoolConfig::default());
    let challenge = challenged(&mut world).header("WWW-Authenticate");
    for request in [register(1, 2), Request::subscribe(1, 2, 600), Request::publish(1, "x")] {
        assert_eq!(tried(&mut world, request, &challenge, "user000002", "pw-user000002").code(), 403);
    }
}

#[test]
fn an_old_nonce_is_stale_and_a_foreign_one_too() {
    let mut world = World::new(PoolConfig::default());
    let challenge = challenged(&mut world).header("WWW-Authenticate");
    world.pass(3_599 * SECOND);
    assert_eq!(tried(&mut world, register(1, 2), &challenge, "user000001", "pw-user000001").code(), 200);
    world.pass(SECOND);
    let stale = tried(&mut world, register(1, 3), &challenge, "user000001", "pw-user000001");
    let fresh = stale.header("WWW-Authenticate");
    assert_eq!((stale.code(), field(&fresh, "stale")), (401, "true".into()));
    assert_ne!(field(&fresh, "nonce"), field(&challenge, "nonce"));
    assert_eq!(tried(&mut world, register(1, 4), &fresh, "user000001", "pw-user000001").code(), 200);
    let invented = fresh.replace(&field(&fresh, "nonce"), "0123456789abcdef");
    let answer = tried(&mut world, register(1, 5), &invented, "user000001", "pw-user000001");
    assert_eq!((answer.code(), field(&answer.header("WWW-Authenticate"), "stale")), (401, "true".into()));
}

#[test]
fn sha_256_is_offered_first_and_both_are_taken() {
    let mut world = World::new(PoolConfig { sha256: true, ..PoolConfig::default() });
    let challenges = challenged(&mut world).all("WWW-Authenticate");
    let algorithms: Vec<String> = challenges.iter().map(|c| field(c, "algorithm")).collect();
    assert_eq!(algorithms, ["SHA-256", "MD5"]);
    for (cseq, challenge) in (2..).zip(&challenges) {
        let answer = tried(&mut world, register(1, cseq), challenge, "user000001", "pw-user000001");
        assert_eq!(answer.code(), 200, "{challenge}");
        let answer = tried(&mut world, register(1, cseq + 10), challenge, "user000001", "wrong");
        assert_eq!(answer.code(), 403, "{challenge}");
    }
}

#[test]
fn credentials_for_another_realm_are_none() {
    let mut world = World::new(PoolConfig::default());
    let challenge = challenged(&mut world).header("WWW-Authenticate");
    let foreign = challenge.replace("pool.test", "other.test");
    let answer = tried(&mut world, register(1, 2), &foreign, "user000001", "pw-user000001");
    assert_eq!((answer.code(), answer.header("WWW-Authenticate").contains("stale")), (401, false));
    // Beside ours they do not matter.
    let request = register(1, 3);
    let (theirs, ours) = (
        proof(&request, &foreign, "user000001", "x"),
        proof(&request, &challenge, "user000001", "pw-user000001"),
    );
    assert_eq!(world.ask(&request.line(&theirs).line(&ours)).code(), 200);
}
