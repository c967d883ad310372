//! What a user makes of challenges: RFC 7616 §3.3 to §3.6, RFC 8760 §2.4,
//! RFC 3261 §22.

use adsum_sip::Scanner;
use adsum_sip::digest::{Authorization, Digest, MAX_SHAPES, MAX_VALUE, Secret, State};
use adsum_sip::protection::{Attempts, Credentials, Incoming, Outgoing, Protection, Reading, Verdict};
use proptest::prelude::*;

struct Accounts {
    name: &'static str,
    ha1: Option<&'static str>,
}

const ALICE: Accounts = Accounts { name: "alice", ha1: None };

impl Credentials for Accounts {
    fn write_user_name(&self, _: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name.as_bytes());
    }
    fn write_password(&self, _: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"s3cret");
    }
    fn ha1(&self, _: u32) -> Option<&[u8]> {
        self.ha1.map(str::as_bytes)
    }
}

/// One user of a shard, and the request that it sent last.
struct User<'d> {
    digest: &'d mut Digest,
    accounts: Accounts,
    state: State,
    attempts: Attempts,
    request: Vec<u8>,
}

impl<'d> User<'d> {
    fn new(digest: &'d mut Digest) -> Self {
        User {
            digest,
            accounts: ALICE,
            state: State::default(),
            attempts: Attempts::default(),
            request: vec![],
        }
    }

    /// Sends a new request.
    fn ask(&mut self) -> String {
        self.attempts = Attempts::default();
        self.again()
    }

    /// Sends the request again, as after a challenge. Gives what protects it.
    fn again(&mut self) -> String {
        let outgoing =
            Outgoing { method: b"PUBLISH", uri: b"sip:a@h", body: b"<document/>", ..Outgoing::default() };
        let mut lines = Vec::new();
        self.digest.write(&mut self.state, &self.accounts, 7, &outgoing, &mut lines);
        self.request =
            [b"PUBLISH sip:a@h SIP/2.0\r\n", lines.as_slice(), b"l: 11\r\n\r\n<document/>"].concat();
        String::from_utf8(lines).unwrap()
    }

    fn challenged(&mut self, code: u16, lines: &str) -> Verdict {
        let text = response(code, lines);
        let mut scanner = Scanner::new();
        let message = scanner.scan(&text).unwrap();
        let incoming = Incoming { message: &message, request: &self.request };
        self.digest.challenged(&mut self.state, &self.accounts, 7, &incoming, &mut self.attempts)
    }

    fn answered(&mut self, code: u16, lines: &str) -> Reading {
        let text = response(code, lines);
        let mut scanner = Scanner::new();
        let message = scanner.scan(&text).unwrap();
        let incoming = Incoming { message: &message, request: &self.request };
        self.digest.read(&mut self.state, &self.accounts, 7, &incoming)
    }
}

fn response(code: u16, lines: &str) -> Vec<u8> {
    format!("SIP/2.0 {code} X\r\nCSeq: 1 PUBLISH\r\n{lines}Content-Length: 0\r\n\r\n").into_bytes()
}

/// A challenge for realm `r`, with more parameters.
fn www(nonce: &str, more: &str) -> String {
    format!("WWW-Authenticate: Digest realm=\"r\", nonce=\"{nonce}\"{more}\r\n")
}

const QOP: &str = ", qop=\"auth\"";

/// The value of a parameter in a header line, without quotes.
fn param<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = line.split_once(&format!(" {name}="))?.1;
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split([',', '\r']).next(),
    }
}

/// True if a line proves alice's password to a server.
fn is_right(line: &str) -> bool {
    let value = line.split_once(": ").unwrap().1.trim_end();
    let given = Authorization::read(value.as_bytes()).unwrap();
    given.proves(Secret::Password(b"s3cret"), b"PUBLISH", b"<document/>")
}

#[test]
fn nothing_is_sent_before_a_challenge() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    assert_eq!(user.ask(), "");
    assert_eq!(user.challenged(401, &www("n", QOP)), Verdict::Answer);
    let line = user.again();
    assert!(
        line.starts_with(
            "Authorization: Digest username=\"alice\", realm=\"r\", nonce=\"n\", uri=\"sip:a@h\""
        )
    );
    assert!(line.ends_with("\"\r\n") && line.contains(", qop=auth, nc=00000001, cnonce=\""), "{line}");
    assert!(is_right(&line));
}

#[test]
fn a_nonce_is_used_again_and_its_uses_are_counted_in_hex() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    user.challenged(401, &www("n", QOP));
    let mut cnonces = std::collections::BTreeSet::new();
    for count in 1..=300u32 {
        let line = user.ask();
        assert_eq!(param(&line, "nc"), Some(format!("{count:08x}").as_str()));
        assert!(is_right(&line));
        cnonces.insert(param(&line, "cnonce").unwrap().to_owned());
    }
    assert_eq!(cnonces.len(), 300, "a fresh cnonce for each use");
}

#[test]
fn without_reuse_credentials_go_along_until_they_are_taken() {
    let mut digest = Digest::new(false, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    user.challenged(401, &www("n", QOP));
    assert_eq!(param(&user.again(), "nc"), Some("00000001"));
    assert_eq!(user.answered(200, ""), Reading::Unprotected);
    assert_eq!(user.ask(), "");
    assert_eq!(user.challenged(401, &www("n", QOP)), Verdict::Answer);
    assert_eq!(param(&user.again(), "nc"), Some("00000002"), "the same nonce counts on");
}

#[test]
fn the_topmost_challenge_that_we_speak_is_answered() {
    let sha = "WWW-Authenticate: Digest realm=\"r\", qop=\"auth\", algorithm=SHA-256, nonce=\"s\"\r\n";
    let md5 = "WWW-Authenticate: Digest realm=\"r\", qop=\"auth\", algorithm=MD5, nonce=\"m\"\r\n";
    let other = "WWW-Authenticate: NTLM realm=\"r\", targetname=\"t\", version=4\r\n\
                 WWW-Authenticate: Digest realm=\"r\", algorithm=AKAv1-MD5, nonce=\"x\"\r\n\
                 WWW-Authenticate: Digest realm=\"r\", qop=\"auth-conf\", nonce=\"x\"\r\n\
                 WWW-Authenticate: Digest realm=\"r\"\r\n";
    let one_line = "WWW-Authenticate: NTLM realm=\"a, Digest nonce=\\\"x\\\"\", Digest realm=\"r\", nonce=\"s\", \
                    algorithm=SHA-256, qop=\"auth\" , Digest realm=\"r\", nonce=\"m\"\r\n";
    let folded =
        "WWW-Authenticate: Digest\r\n realm=\"r\",\r\n qop=\"auth\",\r\n\talgorithm=SHA-256, nonce=\"s\"\r\n";
    let rows = [
        (format!("{sha}{md5}"), "SHA-256", "s"),
        (format!("{md5}{sha}"), "MD5", "m"),
        (format!("{other}{sha}{md5}"), "SHA-256", "s"),
        (one_line.to_owned(), "SHA-256", "s"),
        (folded.to_owned(), "SHA-256", "s"),
    ];
    for (lines, algorithm, nonce) in rows {
        let mut digest = Digest::new(true, 1);
        let mut user = User::new(&mut digest);
        user.ask();
        assert_eq!(user.challenged(401, &lines), Verdict::Answer, "{lines}");
        let line = user.again();
        assert_eq!(
            (param(&line, "algorithm"), param(&line, "nonce")),
            (Some(algorithm), Some(nonce)),
            "{lines}"
        );
        assert_eq!(line.matches("\r\n").count(), 1, "exactly one is answered");
        assert!(is_right(&line));
    }
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    assert_eq!(user.challenged(401, other), Verdict::Unsupported);
    assert_eq!(user.challenged(401, ""), Verdict::Unsupported, "no challenge at all");
    assert_eq!(user.challenged(407, sha), Verdict::Unsupported, "the header of another code");
    assert_eq!(user.again(), "");
}

#[test]
fn every_algorithm_and_quality_is_answered_rightly() {
    for algorithm in ["MD5", "md5-SESS", "SHA-256", "SHA-256-sess", "SHA-512-256", "SHA-512-256-sess"] {
        for (offer, qop) in [
            ("", None),
            (", qop=\"\"", None),
            (", qop=\"auth\"", Some("auth")),
            (", qop=auth", Some("auth")),
            (", qop=\"auth-int,AUTH\"", Some("auth")),
            (", qop=\"auth-int\"", Some("auth-int")),
            (", qop=\"auth-conf , auth-int\"", Some("auth-int")),
        ] {
            let mut digest = Digest::new(true, 1);
            let mut user = User::new(&mut digest);
            user.ask();
            let more = format!("{offer}, algorithm={algorithm}");
            assert_eq!(user.challenged(401, &www("n", &more)), Verdict::Answer, "{more}");
            for count in ["00000001", "00000002"] {
                let line = user.again();
                assert!(is_right(&line), "{more}: {line}");
                assert_eq!(param(&line, "qop"), qop, "{more}");
                assert_eq!(param(&line, "nc"), qop.map(|_| count), "{more}");
                assert_eq!(param(&line, "algorithm"), Some(algorithm));
                let session = algorithm.to_ascii_lowercase().ends_with("-sess");
                assert_eq!(line.contains(" cnonce="), qop.is_some() || session, "{more}");
            }
        }
    }
}

/// RFC 7616 §3.4.2: A1 is made with the cnonce of the session's first request.
#[test]
fn a_session_keeps_its_cnonce_until_the_nonce_changes() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    let more = ", qop=\"auth\", algorithm=MD5-sess";
    user.challenged(401, &www("one", more));
    let first = user.again();
    assert_eq!(param(&first, "cnonce"), param(&user.ask(), "cnonce"));
    user.challenged(401, &www("two", &format!("{more}, stale=true")));
    assert_ne!(param(&first, "cnonce"), param(&user.again(), "cnonce"));
}

#[test]
fn stale_is_no_refusal_and_starts_counting_anew() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    user.challenged(401, &www("a", QOP));
    user.again();
    for nonce in ["b", "c", "d", "e"] {
        let stale = format!("{QOP}, stale=TRUE");
        assert_eq!(user.challenged(401, &www(nonce, &stale)), Verdict::Answer);
        let line = user.again();
        assert_eq!((param(&line, "nonce"), param(&line, "nc")), (Some(nonce), Some("00000001")));
    }
}

#[test]
fn the_same_nonce_again_without_stale_is_a_refusal_for_good() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    assert_eq!(user.challenged(401, &www("a", QOP)), Verdict::Answer);
    user.again();
    assert_eq!(user.challenged(401, &www("a", QOP)), Verdict::Rejected);
    assert_eq!(user.ask(), "", "rejected credentials are never sent again");
    assert_eq!(user.challenged(401, &www("b", QOP)), Verdict::Rejected);
    assert_eq!(user.ask(), "");
}

#[test]
fn another_nonce_without_stale_is_tried_once_for_each_request() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    user.challenged(401, &www("a", QOP));
    user.again();
    user.answered(200, "");
    // The server restarted: it knows nothing of its nonces.
    user.ask();
    assert_eq!(user.challenged(401, &www("b", QOP)), Verdict::Answer);
    assert!(is_right(&user.again()));
    assert_eq!(user.answered(200, ""), Reading::Unprotected);
    // Once more, later: another request, another attempt.
    user.ask();
    assert_eq!(user.challenged(401, &www("c", QOP)), Verdict::Answer);
    user.again();
    assert_eq!(user.challenged(401, &www("d", QOP)), Verdict::Rejected);
    assert_eq!(user.again(), "");
}

/// Two requests under way at once when the server restarts: neither is a refusal.
#[test]
fn requests_at_the_same_time_do_not_count_against_each_other() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    user.challenged(401, &www("a", QOP));
    user.again();
    user.answered(200, "");
    user.ask();
    let (first, first_attempts) = (user.request.clone(), user.attempts);
    user.ask();
    assert_eq!(user.challenged(401, &www("b", QOP)), Verdict::Answer);
    user.again();
    let (second, second_attempts) = (user.request.clone(), user.attempts);
    (user.request, user.attempts) = (first, first_attempts);
    assert_eq!(user.challenged(401, &www("c", QOP)), Verdict::Answer);
    user.again();
    user.answered(200, "");
    (user.request, user.attempts) = (second, second_attempts);
    assert_eq!(user.answered(200, ""), Reading::Unprotected);
    assert!(is_right(&user.ask()));
}

#[test]
fn nextnonce_is_used_at_once() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    user.challenged(401, &www("a", QOP));
    user.again();
    user.answered(200, "Authentication-Info: qop=auth, nextnonce=\"next\"\r\n");
    let line = user.ask();
    assert_eq!((param(&line, "nonce"), param(&line, "nc")), (Some("next"), Some("00000001")));
    assert!(is_right(&line));
    for ignored in [
        "nextnonce=\"\"",
        "nextnonce=\"a\u{1}b\"",
        "nextnonce=a\"b",
        &format!("nextnonce={}", "n".repeat(9_999)),
    ] {
        user.answered(200, &format!("Authentication-Info: {ignored}\r\n"));
        assert_eq!(param(&user.ask(), "nonce"), Some("next"), "{ignored}");
    }
    user.answered(200, "Proxy-Authentication-Info: nextnonce=\"proxy\"\r\n");
    assert_eq!(param(&user.ask(), "nonce"), Some("next"), "that one is about other credentials");
}

#[test]
fn a_proxy_and_a_registrar_behind_it_each_get_their_own() {
    for reuse in [true, false] {
        let mut digest = Digest::new(reuse, 1);
        let mut user = User::new(&mut digest);
        user.ask();
        let proxy = "Proxy-Authenticate: Digest realm=\"proxy\", nonce=\"p\", qop=\"auth\"\r\n";
        assert_eq!(user.challenged(407, proxy), Verdict::Answer);
        assert!(user.again().starts_with("Proxy-Authorization: Digest"));
        assert_eq!(user.challenged(401, &www("w", ", algorithm=SHA-256")), Verdict::Answer);
        let lines = user.again();
        let (first, second) = lines.split_at(lines.find("\r\n").unwrap() + 2);
        assert!(
            first.starts_with("Proxy-Authorization: ") && second.starts_with("Authorization: "),
            "{lines}"
        );
        assert_eq!(
            (param(first, "realm"), param(first, "nonce"), param(first, "nc")),
            (Some("proxy"), Some("p"), Some("00000002"))
        );
        assert_eq!(
            (param(second, "realm"), param(second, "nonce"), param(second, "nc")),
            (Some("r"), Some("w"), None)
        );
        assert!(is_right(first) && is_right(second));
        user.answered(200, "Proxy-Authentication-Info: nextnonce=\"p2\"\r\n");
        let lines = user.ask();
        assert_eq!(lines.matches("\r\n").count(), if reuse { 2 } else { 0 });
        // The registrar's nonce alone is stale; the proxy's goes on.
        user.challenged(401, &www("w2", ", algorithm=SHA-256, stale=true"));
        let lines = user.again();
        assert_eq!(lines.contains("nonce=\"p2\""), reuse, "{lines}");
        assert!(lines.contains("nonce=\"w2\""));
    }
}

/// What was sent to one is no refusal by the other, even where both use the
/// same realm and nonce; and each may change its nonce once.
#[test]
fn a_proxy_and_a_registrar_are_told_apart() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    let proxy = |nonce: &str| www(nonce, QOP).replace("WWW-", "Proxy-");
    user.ask();
    assert_eq!(user.challenged(407, &proxy("same")), Verdict::Answer);
    user.again();
    assert_eq!(user.challenged(401, &www("same", QOP)), Verdict::Answer);
    assert_eq!(user.again().matches("\r\n").count(), 2);
    user.answered(200, "");
    user.ask();
    assert_eq!(user.challenged(407, &proxy("b")), Verdict::Answer);
    user.again();
    assert_eq!(user.challenged(401, &www("b", QOP)), Verdict::Answer);
    user.again();
    assert_eq!(user.challenged(407, &proxy("c")), Verdict::Rejected);
    assert!(user.ask().starts_with("Authorization: "), "the registrar has not refused");
}

#[test]
fn credentials_are_per_realm() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    assert_eq!(user.challenged(401, &www("n", QOP)), Verdict::Answer);
    user.again();
    let other = www("n", QOP).replace("realm=\"r\"", "realm=\"other\"");
    assert_eq!(user.challenged(401, &other), Verdict::Answer, "that realm has not seen any");
    assert_eq!(param(&user.again(), "realm"), Some("other"));
    assert_eq!(user.challenged(401, &other), Verdict::Rejected);
}

/// RFC 3261 §16.7: a proxy that forked hands on the challenges of both kinds.
#[test]
fn challenges_of_both_kinds_in_one_answer_are_answered_together() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    let both = format!("{}Proxy-Authenticate: Digest realm=\"proxy\", nonce=\"p\"\r\n", www("w", QOP));
    assert_eq!(user.challenged(401, &both), Verdict::Answer);
    let lines = user.again();
    assert!(lines.contains("\r\nProxy-Authorization: Digest") && lines.starts_with("Authorization: Digest"));
    assert_eq!(user.challenged(407, &both), Verdict::Rejected);
}

#[test]
fn what_the_server_wrote_goes_back_as_it_was() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.accounts = Accounts { name: "al\"ice\\", ha1: None };
    user.ask();
    let challenge = "WWW-Authenticate: dIgEsT domain=\"sip:x, y\",REALM = \"a \\\"quoted\\\" realm, with \\\\\" , \
                     nonce=\"n\\\"1\" opaque=\"o=,\\\"p\", Stale=false, charset=UTF-8, x-new, qop=auth, y=\"\"\r\n";
    assert_eq!(user.challenged(401, challenge), Verdict::Answer);
    let line = user.again();
    for part in [
        "username=\"al\\\"ice\\\\\"",
        "realm=\"a \\\"quoted\\\" realm, with \\\\\"",
        "nonce=\"n\\\"1\"",
        "opaque=\"o=,\\\"p\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!line.contains("algorithm"), "none was named");
    assert!(is_right(&line));
    // A remote target that would end the quotes.
    let outgoing = Outgoing { method: b"PUBLISH", uri: b"sip:a\"b@h", ..Outgoing::default() };
    let mut lines = Vec::new();
    user.digest.write(&mut user.state, &user.accounts, 7, &outgoing, &mut lines);
    assert!(is_right(std::str::from_utf8(&lines).unwrap()));
    user.challenged(401, &www("n", ", opaque=\"\", stale=true"));
    assert!(user.again().contains(", opaque=\"\""), "an empty opaque goes back, too");
}

#[test]
fn a_user_may_come_with_ha1_or_be_asked_for_its_hashed_name() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    let ha1 = "BA0CC7FE7D8D3A2D9C1B1F2E5D4C3B2A";
    user.accounts = Accounts { name: "alice", ha1: Some(ha1) };
    user.ask();
    user.challenged(401, &www("n", QOP));
    let line = user.again();
    let value = line.split_once(": ").unwrap().1.trim_end();
    let given = Authorization::read(value.as_bytes()).unwrap();
    assert!(given.proves(Secret::Ha1(ha1.as_bytes()), b"PUBLISH", b""));
    // It is one of MD5: of a longer hash there is no knowing.
    let sha = www("n", ", stale=true, algorithm=SHA-256");
    assert_eq!(user.challenged(401, &sha), Verdict::Unsupported);
    assert_eq!(user.challenged(401, &format!("{sha}{}", www("m", ", stale=true"))), Verdict::Answer);
    assert_eq!(param(&user.again(), "nonce"), Some("m"));

    let mut user = User::new(&mut digest);
    user.ask();
    user.challenged(401, &www("n", ", qop=\"auth\", userhash=true, algorithm=SHA-256"));
    let line = user.again();
    assert!(line.ends_with(", userhash=true\r\n"));
    let value = line.split_once(": ").unwrap().1.trim_end();
    let given = Authorization::read(value.as_bytes()).unwrap();
    // SHA-256 of `alice:r`, computed with sha256sum.
    assert_eq!(given.username, HASHED_ALICE.as_bytes());
    let plain = Authorization { username: b"alice", ..given };
    assert!(plain.proves(Secret::Password(b"s3cret"), b"PUBLISH", b""));
}

const HASHED_ALICE: &str = "b2fce9e71274b544c1103125fadee150f3ed1f8dfc9c3b27e79e477b5c7686b8";

#[test]
fn rspauth_is_checked_when_it_is_there() {
    for (more, body_counts) in
        [(QOP, false), ("", false), (", qop=\"auth-int\", algorithm=SHA-256-sess", true)]
    {
        let mut digest = Digest::new(true, 1);
        let mut user = User::new(&mut digest);
        user.ask();
        let info = |rspauth: &str| format!("Authentication-Info: rspauth=\"{rspauth}\", nextnonce=\"z\"\r\n");
        assert_eq!(
            user.answered(200, &info("ab")),
            Reading::Unprotected,
            "nothing of ours that it could be about"
        );
        user.challenged(401, &www("n", more));
        let line = user.again();
        let value = line.split_once(": ").unwrap().1.trim_end();
        let given = Authorization::read(value.as_bytes()).unwrap();
        let right = given.rspauth(Secret::Password(b"s3cret"), b"").unwrap();
        let right = std::str::from_utf8(right.text()).unwrap();
        assert_eq!(user.answered(200, "Authentication-Info: nc=00000001\r\n"), Reading::Unprotected);
        assert_eq!(user.answered(200, &info(right)), Reading::Accepted);
        assert_eq!(user.answered(200, &info(&right.to_uppercase())), Reading::Accepted);
        assert_eq!(user.answered(403, &info("0123")), Reading::Refused);
        let wrong = given.rspauth(Secret::Password(b"other"), b"").unwrap();
        assert_eq!(user.answered(200, &info(std::str::from_utf8(wrong.text()).unwrap())), Reading::Refused);
        // The server may choose a quality of its own for its proof.
        let by_qop = Authorization { qop: b"auth-int", ..given }.rspauth(Secret::Password(b"s3cret"), b"");
        let by_qop = format!("qop=auth-int, {}", info(std::str::from_utf8(by_qop.unwrap().text()).unwrap()));
        let by_qop = by_qop.replace("Authentication-Info: ", "");
        assert_eq!(user.answered(200, &format!("Authentication-Info: {by_qop}")), Reading::Accepted);
        let with_body = given.rspauth(Secret::Password(b"s3cret"), b"body").unwrap();
        assert_eq!(with_body.text() != right.as_bytes(), body_counts);
        assert_eq!(param(&user.ask(), "nonce"), Some("z"), "the answer counts all the same");
        assert!(!user.digest.drops_refused());
    }
}

#[test]
fn too_long_or_unprintable_challenges_are_not_answered() {
    let long = "x".repeat(MAX_VALUE + 1);
    let lines = [
        www(&long, QOP),
        www("n", &format!(", opaque=\"{long}\"")),
        format!("WWW-Authenticate: Digest realm=\"{long}\", nonce=\"n\"\r\n"),
        www("a\u{0}b", QOP),
        www("a\u{7f}b", QOP),
        "WWW-Authenticate: Digest realm=\"r\", nonce=a\"b\r\n".to_owned(),
        "WWW-Authenticate: Digest realm=\"r\", nonce=\"open \\\r\n".to_owned(),
        "WWW-Authenticate: Digest realm=\"r\", nonce=\"\"\r\n".to_owned(),
    ];
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    for lines in lines {
        assert_eq!(user.challenged(401, &lines), Verdict::Unsupported, "{lines}");
    }
    assert_eq!(user.again(), "");
    assert_eq!(user.challenged(401, &www(&long[1..], QOP)), Verdict::Answer);
    assert!(is_right(&user.again()));
}

/// A server with an opaque of its own for every challenge.
#[test]
fn what_is_remembered_of_challenges_has_a_bound() {
    let mut digest = Digest::new(true, 1);
    let mut user = User::new(&mut digest);
    user.ask();
    user.challenged(401, &www("n", ", opaque=\"0\""));
    assert!(is_right(&user.again()));
    let held = std::mem::take(&mut user.state);
    for opaque in 1..=3 * MAX_SHAPES {
        let mut user = User::new(&mut digest);
        user.ask();
        assert_eq!(user.challenged(401, &www("n", &format!(", opaque=\"{opaque}\""))), Verdict::Answer);
        let line = user.again();
        assert_eq!(param(&line, "opaque"), Some(opaque.to_string().as_str()));
        assert!(user.digest.shapes() <= MAX_SHAPES);
    }
    assert_eq!(digest.shapes(), MAX_SHAPES);
    let mut user = User { state: held, ..User::new(&mut digest) };
    assert_eq!(user.ask(), "", "its shape went: it waits to be challenged anew");
    assert_eq!(user.challenged(401, &www("n", ", opaque=\"0\"")), Verdict::Answer);
    assert!(is_right(&user.again()));
}

/// Bytes that are near to what a challenge looks like.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(
        [
            "Digest ",
            "digest\t",
            "NTLM ",
            "realm",
            "nonce",
            "opaque",
            "qop",
            "algorithm",
            "stale",
            "userhash",
            "nextnonce",
            "rspauth",
            "=",
            "=\"",
            "\"",
            ",",
            ", ",
            " ",
            "\\",
            "\\\"",
            "auth",
            "auth-int",
            "MD5",
            "SHA-256-sess",
            "true",
            "\r\n ",
            "\r",
            "\0",
            "x",
            "é",
            "n=\"1\"",
            "nonce=\"n\"",
            "realm=r,",
        ]
        .map(str::as_bytes)
        .to_vec(),
    );
    prop_oneof![
        3 => prop::collection::vec(word, 0..40).prop_map(|words| words.concat()),
        1 => prop::collection::vec(any::<u8>().prop_filter("ends the line", |b| *b != b'\n'), 0..200),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Whatever a server sends, nothing panics, memory has a bound, and what
    /// we answer is at most one line for each kind of challenge.
    #[test]
    fn hostile_headers_do_no_harm(
        headers in prop::collection::vec((0usize..4, hostile(), any::<u8>()), 1..12),
    ) {
        const NAMES: [&[u8]; 4] =
            [b"WWW-Authenticate", b"Proxy-Authenticate", b"Authentication-Info", b"Proxy-Authentication-Info"];
        let mut digest = Digest::new(true, 1);
        let (mut state, mut attempts) = (State::default(), Attempts::default());
        let mut request = b"PUBLISH sip:a@h SIP/2.0\r\n\r\n".to_vec();
        for (name, value, code) in &headers {
            let status: &[u8] = [b"SIP/2.0 200 X\r\n", b"SIP/2.0 401 X\r\n", b"SIP/2.0 407 X\r\n"][*code as usize % 3];
            let text = [status, NAMES[*name], b": ", value, b"\r\n\r\n"].concat();
            let mut scanner = Scanner::new();
            let Ok(message) = scanner.scan(&text) else { continue };
            let incoming = Incoming { message: &message, request: &request };
            digest.read(&mut state, &ALICE, 7, &incoming);
            if message.code() != 200 {
                digest.challenged(&mut state, &ALICE, 7, &incoming, &mut attempts);
            }
            let outgoing = Outgoing { method: b"PUBLISH", uri: b"sip:a@h", ..Outgoing::default() };
            let mut lines = Vec::new();
            digest.write(&mut state, &ALICE, 7, &outgoing, &mut lines);
            prop_assert!(digest.shapes() <= headers.len());
            prop_assert!(lines.len() <= 2 * (3 * MAX_VALUE + 400));
            let ends = lines.iter().filter(|b| matches!(b, b'\r' | b'\n' | 0)).count();
            prop_assert!(ends <= 4 && ends % 2 == 0);
            request = [b"PUBLISH sip:a@h SIP/2.0\r\n", lines.as_slice(), b"\r\n"].concat();
            // What we wrote is a request that reads back, and proves the password.
            let message = scanner.scan(&request).unwrap();
            for (_, value) in message.lines() {
                let given = Authorization::read(value).unwrap();
                prop_assert!(given.proves(Secret::Password(b"s3cret"), b"PUBLISH", b""));
            }
        }
    }
}
