//! Whole NTLM handshakes between our client and our server, over messages as
//! they stand on the wire.

use adsum_sip::ntlm::nt_hash;
use adsum_sip::protection::{Attempts, Credentials, Incoming, Outgoing, Protection as _, Reading, Verdict};
use adsum_sip::sipae::{
    Association, Authority, AuthorityConfig, Check, MAX_OF_CONNECTION, Ntlm, Refusal, SchemeName, offered,
};
use adsum_sip::{Message, Scanner};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

struct Accounts;

impl Credentials for Accounts {
    fn write_user_name(&self, user: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(
            [b"LOADLAB\\Alice" as &[u8], b"bob@loadlab.test", b"mallory"][user as usize % 3],
        );
    }
    fn write_password(&self, _: u32, out: &mut Vec<u8>) {
        out.extend_from_slice("Pässwort".as_bytes());
    }
    fn ha1(&self, _: u32) -> Option<&[u8]> {
        None
    }
}

/// What the server knows: two accounts with this password, and one with another.
fn known(domain: &str, user: &str) -> Option<[u8; 16]> {
    match (domain, user) {
        ("LOADLAB", "Alice") | ("", "bob@loadlab.test") => Some(nt_hash("Pässwort")),
        (_, "mallory") => Some(nt_hash("another")),
        _ => None,
    }
}

const FILETIME: u64 = 133_000_000_000_000_000;
const CONNECTION: u64 = 7;

struct Both {
    client: Ntlm,
    server: Authority,
    user: u32,
    cseq: u32,
    attempts: Attempts,
    code: u16,
}

impl Both {
    fn new(user: u32, config: AuthorityConfig) -> Both {
        let code = if config.proxy { 407 } else { 401 };
        Both {
            client: Ntlm::new(true, 11, "LOADGEN", FILETIME),
            server: Authority::new(config),
            user,
            cseq: 0,
            attempts: Attempts::default(),
            code,
        }
    }

    fn outgoing(&self, method: &'static [u8], code: u16) -> Outgoing<'static> {
        Outgoing {
            code,
            method,
            uri: b"sip:loadlab.test",
            call_id: b"call-1",
            cseq: self.cseq,
            from_uri: b"sip:alice@loadlab.test",
            from_tag: b"f1",
            to_uri: b"sip:alice@loadlab.test",
            to_tag: if code == 0 { b"" } else { b"t1" },
            expires: (method == b"REGISTER").then_some(600),
            body: b"",
        }
    }

    /// The next request of the client, as bytes.
    fn request(&mut self, method: &'static [u8]) -> Vec<u8> {
        self.cseq += 1;
        let outgoing = self.outgoing(method, 0);
        let mut lines = Vec::new();
        self.client.write(&mut (), &Accounts, self.user, &outgoing, &mut lines);
        message(&outgoing, &lines)
    }

    /// A SERVICE with this Call-ID.
    fn request_of(&mut self, call_id: &'static [u8]) -> Vec<u8> {
        self.cseq += 1;
        let outgoing = Outgoing { call_id, ..self.outgoing(b"SERVICE", 0) };
        let mut lines = Vec::new();
        self.client.write(&mut (), &Accounts, self.user, &outgoing, &mut lines);
        message(&outgoing, &lines)
    }

    /// What the server makes of a request, and the answer as bytes.
    fn answer(&mut self, request: &[u8]) -> (Check, Vec<u8>) {
        self.answer_to(request, b"call-1")
    }

    fn answer_to(&mut self, request: &[u8], call_id: &'static [u8]) -> (Check, Vec<u8>) {
        let mut scanner = Scanner::new();
        let request = scanner.scan(request).unwrap();
        let mut lines = Vec::new();
        let check = self.server.check(&request, CONNECTION, FILETIME, known, &mut lines);
        let method: &'static [u8] = if request.method() == b"SERVICE" { b"SERVICE" } else { b"REGISTER" };
        let outgoing = match check {
            Check::Passed(association) => {
                let outgoing = Outgoing { call_id, ..self.outgoing(method, 200) };
                self.server.sign(association, &outgoing, false, &mut lines);
                outgoing
            }
            Check::Challenged(_) => Outgoing { call_id, ..self.outgoing(method, self.code) },
        };
        (check, message(&outgoing, &lines))
    }

    /// The client reads an answer to its request.
    fn read(&mut self, request: &[u8], answer: &[u8]) -> (Reading, Option<Verdict>) {
        let mut scanner = Scanner::new();
        let message = scanner.scan(answer).unwrap();
        let incoming = Incoming { message: &message, request };
        let reading = self.client.read(&mut (), &Accounts, self.user, &incoming);
        let verdict = matches!(message.code(), 401 | 407)
            .then(|| self.client.challenged(&mut (), &Accounts, self.user, &incoming, &mut self.attempts));
        (reading, verdict)
    }

    /// One request and its answer.
    fn round(&mut self, method: &'static [u8]) -> (Check, Reading, Option<Verdict>) {
        let request = self.request(method);
        let (check, answer) = self.answer(&request);
        let (reading, verdict) = self.read(&request, &answer);
        (check, reading, verdict)
    }

    /// The three REGISTERs of a log-on.
    fn log_on(&mut self) -> Association {
        let unsigned = Reading::Unprotected;
        assert_eq!(
            self.round(b"REGISTER"),
            (Check::Challenged(Refusal::None), unsigned, Some(Verdict::Answer))
        );
        assert_eq!(
            self.round(b"REGISTER"),
            (Check::Challenged(Refusal::Asked), unsigned, Some(Verdict::Answer))
        );
        match self.round(b"REGISTER") {
            (Check::Passed(association), Reading::Accepted, None) => association,
            other => panic!("{other:?}"),
        }
    }
}

/// A message with what a signature covers, and these lines.
fn message(outgoing: &Outgoing<'_>, lines: &[u8]) -> Vec<u8> {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    let tag = |tag| if text(tag).is_empty() { String::new() } else { format!(";tag={}", text(tag)) };
    let start = match outgoing.code {
        0 => format!("{} {} SIP/2.0", text(outgoing.method), text(outgoing.uri)),
        code => format!("SIP/2.0 {code} Word"),
    };
    let expires = outgoing.expires.map_or(String::new(), |seconds| format!("Expires: {seconds}\r\n"));
    let message = format!(
        "{start}\r\nVia: SIP/2.0/TLS 127.0.0.1:5061;branch=z9hG4bKx\r\n\
         From: \"Alice\" <{}>{};epid=0123456789\r\nTo: <{}>{}\r\nCall-ID: {}\r\nCSeq: {} {}\r\n{expires}{}\
         Content-Length: 0\r\n\r\n",
        text(outgoing.from_uri),
        tag(outgoing.from_tag),
        text(outgoing.to_uri),
        tag(outgoing.to_tag),
        text(outgoing.call_id),
        outgoing.cseq,
        text(outgoing.method),
        text(lines),
    );
    message.into_bytes()
}

fn config(version: u8, proxy: bool) -> AuthorityConfig {
    AuthorityConfig {
        version,
        target: "ref.loadlab.test".to_owned(),
        domain: "LOADLAB".to_owned(),
        proxy,
        extended: version > 2,
        mic: false,
        key: 99,
    }
}

#[test]
fn every_version_signs_both_ways_by_401_and_by_407() {
    for version in [2, 3, 4] {
        for proxy in [false, true] {
            for user in [0, 1] {
                let mut both = Both::new(user, config(version, proxy));
                let association = both.log_on();
                let account = both.server.account(association).unwrap();
                assert_eq!(account, [("LOADLAB", "Alice"), ("", "bob@loadlab.test")][user as usize]);
                for _ in 0..3 {
                    let (check, reading, verdict) = both.round(b"SERVICE");
                    assert_eq!(
                        (check, reading, verdict),
                        (Check::Passed(association), Reading::Accepted, None)
                    );
                }
            }
        }
    }
}

#[test]
fn the_first_answer_is_signed_from_version_4_on() {
    for (version, signed) in [(3, false), (4, true)] {
        let mut both = Both::new(0, config(version, false));
        both.round(b"REGISTER");
        both.round(b"REGISTER");
        let request = String::from_utf8(both.request(b"REGISTER")).unwrap();
        assert!(request.contains("gssapi-data=\"TlRMTVNTUAAD"), "{request}");
        assert_eq!(request.contains("cnum=\"1\", response=\"0100000"), signed, "{request}");
        assert!(request.contains(&format!("version={version}")), "{request}");
    }
}

/// A client that speaks less than the server: what it names as its version counts, absent is 2.
#[test]
fn the_version_of_a_client_is_that_of_its_association() {
    for (offered, spoken) in [(4, 3), (4, 2), (3, 2)] {
        let mut both = Both::new(0, AuthorityConfig { extended: true, ..config(offered, false) });
        let named = |version: u8| if version > 2 { format!(", version={version}") } else { String::new() };
        let mut passed = None;
        for _ in 0..3 {
            let request = both.request(b"REGISTER");
            let (check, answer) = both.answer(&request);
            // As if the challenge had offered no more.
            let answer = String::from_utf8(answer).unwrap();
            let lowered = answer.replace(&named(offered), &named(spoken));
            assert_eq!(lowered != answer, matches!(check, Check::Challenged(_)), "{answer}");
            both.read(&request, lowered.as_bytes());
            if let Check::Passed(association) = check {
                assert!(answer.ends_with(&format!("{}\r\nContent-Length: 0\r\n\r\n", named(spoken))));
                passed = Some(association);
            }
        }
        let association = passed.unwrap_or_else(|| panic!("{offered} {spoken}"));
        for _ in 0..3 {
            assert_eq!(both.round(b"SERVICE"), (Check::Passed(association), Reading::Accepted, None));
        }
    }
    // Who names version 4 has to sign at once.
    let mut both = Both::new(0, config(4, false));
    both.round(b"REGISTER");
    both.round(b"REGISTER");
    let request = String::from_utf8(both.request(b"REGISTER")).unwrap();
    let (bare, _) = request.split_once(", crand=").unwrap();
    let rest = request.split_once("\r\nContent-Length").unwrap().1;
    let (check, _) = both.answer(format!("{bare}\r\nContent-Length{rest}").as_bytes());
    assert_eq!(check, Check::Challenged(Refusal::BadSignature));
}

#[test]
fn a_server_may_ask_for_a_mic() {
    for version in [2, 4] {
        let mut both = Both::new(0, AuthorityConfig { mic: true, ..config(version, false) });
        let association = both.log_on();
        assert_eq!(both.round(b"SERVICE"), (Check::Passed(association), Reading::Accepted, None));
    }
    // Whoever changes what only the MIC covers (the flags) is refused.
    let mut both = Both::new(0, AuthorityConfig { mic: true, ..config(3, false) });
    both.round(b"REGISTER");
    both.round(b"REGISTER");
    let request = String::from_utf8(both.request(b"REGISTER")).unwrap();
    let (head, rest) = request.split_once("gssapi-data=\"").unwrap();
    let (token, rest) = rest.split_once('"').unwrap();
    let mut token = BASE64_STANDARD.decode(token).unwrap();
    token[60] ^= 4; // NTLMSSP_REQUEST_TARGET
    let request = format!("{head}gssapi-data=\"{}\"{rest}", BASE64_STANDARD.encode(token));
    assert_eq!(both.answer(request.as_bytes()).0, Check::Challenged(Refusal::WrongMic));
    assert!(both.server.is_empty());
}

#[test]
fn a_wrong_password_is_tried_once() {
    let mut both = Both::new(2, config(4, false));
    both.round(b"REGISTER");
    both.round(b"REGISTER");
    let (check, _, verdict) = both.round(b"REGISTER");
    assert_eq!((check, verdict), (Check::Challenged(Refusal::WrongPassword), Some(Verdict::Rejected)));
    // From then on nothing is tried any more, not on a new connection either.
    both.client.reconnected(&mut (), 2);
    let request = both.request(b"REGISTER");
    assert!(!String::from_utf8(request.clone()).unwrap().contains("Authorization"));
    let (_, answer) = both.answer(&request);
    assert_eq!(both.read(&request, &answer).1, Some(Verdict::Rejected));
}

#[test]
fn an_unknown_account_is_challenged_again() {
    let mut both = Both::new(0, config(4, false));
    both.round(b"REGISTER");
    both.round(b"REGISTER");
    let request = both.request(b"REGISTER");
    let mut scanner = Scanner::new();
    let message = scanner.scan(&request).unwrap();
    let check = both.server.check(&message, CONNECTION, 0, |_, _| None, &mut Vec::new());
    assert_eq!(check, Check::Challenged(Refusal::UnknownAccount));
}

#[test]
fn what_the_server_did_not_sign_is_refused() {
    let mut both = Both::new(0, config(4, false));
    let association = both.log_on();
    let request = both.request(b"SERVICE");
    let outgoing = both.outgoing(b"SERVICE", 200);
    let mut lines = Vec::new();
    both.server.sign(association, &outgoing, true, &mut lines);
    let wrongly = message(&outgoing, &lines);
    assert_eq!(both.read(&request, &wrongly).0, Reading::Refused);
    let unsigned = message(&outgoing, b"");
    assert_eq!(both.read(&request, &unsigned).0, Reading::Refused);
    let provisional = message(&Outgoing { code: 100, ..outgoing }, b"");
    assert_eq!(both.read(&request, &provisional).0, Reading::Unprotected);
    lines.clear();
    both.server.sign(association, &outgoing, false, &mut lines);
    assert_eq!(both.read(&request, &message(&outgoing, &lines)).0, Reading::Accepted);
    // The same signature on another message is none.
    let other = message(&Outgoing { to_tag: b"t2", ..outgoing }, &lines);
    assert_eq!(both.read(&request, &other).0, Reading::Refused);
}

#[test]
fn requests_of_the_server_and_our_answers_are_signed() {
    let mut both = Both::new(0, config(4, false));
    let association = both.log_on();
    let notify = Outgoing { from_tag: b"theirs", to_tag: b"ours", ..both.outgoing(b"NOTIFY", 0) };
    let mut lines = Vec::new();
    both.server.sign(association, &notify, false, &mut lines);
    assert_eq!(both.read(b"", &message(&notify, &lines)).0, Reading::Accepted);
    assert_eq!(both.read(b"", &message(&notify, b"")).0, Reading::Refused);
    let ok = Outgoing { code: 200, ..notify };
    lines.clear();
    both.client.write(&mut (), &Accounts, 0, &ok, &mut lines);
    let answer = message(&ok, &lines);
    let mut scanner = Scanner::new();
    let read = scanner.scan(&answer).unwrap();
    assert_eq!(both.server.named(&read, CONNECTION), Some(association));
    let check = both.server.check(&read, CONNECTION, 0, known, &mut Vec::new());
    assert_eq!(check, Check::Passed(association));
}

#[test]
fn repeats_other_connections_and_changed_messages_are_challenged() {
    let mut both = Both::new(0, config(4, false));
    both.log_on();
    let first = both.request(b"SERVICE");
    let second = both.request(b"SERVICE");
    let mut check = |bytes: &[u8], connection| {
        let mut scanner = Scanner::new();
        let message: Message<'_> = scanner.scan(bytes).unwrap();
        match both.server.check(&message, connection, 0, known, &mut Vec::new()) {
            Check::Passed(_) => None,
            Check::Challenged(refusal) => Some(refusal),
        }
    };
    // Out of order is fine, twice is not.
    assert_eq!(check(&second, CONNECTION), None);
    assert_eq!(check(&first, CONNECTION), None);
    assert_eq!(check(&first, CONNECTION), Some(Refusal::Replayed));
    assert_eq!(check(&second, CONNECTION + 1), Some(Refusal::NoAssociation));
    let changed = String::from_utf8(second.clone()).unwrap().replace("alice@", "bob@");
    assert_eq!(check(changed.as_bytes(), CONNECTION), Some(Refusal::BadSignature));
}

#[test]
fn numbers_beyond_the_window_are_old() {
    let mut both = Both::new(0, config(4, false));
    both.log_on();
    let old = both.request(b"SERVICE");
    for _ in 0..255 {
        let request = both.request(b"SERVICE");
        assert!(matches!(both.answer(&request).0, Check::Passed(_)));
    }
    assert!(matches!(both.answer(&old).0, Check::Passed(_)), "255 behind");
    let old = both.request(b"SERVICE");
    for _ in 0..256 {
        let request = both.request(b"SERVICE");
        assert!(matches!(both.answer(&request).0, Check::Passed(_)));
    }
    assert_eq!(both.answer(&old).0, Check::Challenged(Refusal::Replayed));
}

#[test]
fn an_association_that_the_server_lost_is_renewed_once() {
    let mut both = Both::new(0, config(4, false));
    let association = both.log_on();
    both.server.forget(association);
    assert!(both.server.is_empty());
    both.attempts = Attempts::default();
    let verdicts: Vec<_> = (0..3).map(|_| both.round(b"SERVICE")).collect();
    assert_eq!(verdicts[0].2, Some(Verdict::Answer));
    assert_eq!(verdicts[1].2, Some(Verdict::Answer));
    assert!(matches!(verdicts[2], (Check::Passed(_), Reading::Accepted, None)), "{verdicts:?}");
    // Lost again within the same request, it is given up.
    let Check::Passed(association) = verdicts[2].0 else { panic!("{verdicts:?}") };
    both.server.forget(association);
    assert_eq!(both.round(b"SERVICE").2, Some(Verdict::Rejected));
}

/// Two requests are on their way when the association is lost: one of them negotiates, the other
/// waits for the end of that, and both get through.
#[test]
fn of_two_requests_one_negotiates() {
    let mut both = Both::new(0, config(4, false));
    let association = both.log_on();
    both.server.forget(association);
    let (mut first, mut second) = (Attempts::default(), Attempts::default());
    let mut requests = [both.request_of(b"call-1"), both.request_of(b"call-2")];
    let mut passed = [false; 2];
    for _ in 0..4 {
        for at in [0, 1] {
            if passed[at] {
                continue;
            }
            let call: &'static [u8] = [b"call-1" as &[u8], b"call-2"][at];
            both.attempts = if at == 0 { first } else { second };
            let (check, answer) = both.answer_to(&requests[at], call);
            let (reading, verdict) = both.read(&requests[at], &answer);
            *(if at == 0 { &mut first } else { &mut second }) = both.attempts;
            match check {
                Check::Passed(_) => {
                    assert_eq!(reading, Reading::Accepted);
                    passed[at] = true;
                }
                Check::Challenged(_) => {
                    assert_eq!(verdict, Some(Verdict::Answer));
                    requests[at] = both.request_of(call);
                }
            }
        }
    }
    assert_eq!(passed, [true; 2]);
    // An answer that comes late to a request of the lost association costs nothing of the new one.
    let standing = both.request_of(b"call-3");
    let (check, _) = both.answer_to(&standing, b"call-3");
    assert!(matches!(check, Check::Passed(_)));
}

#[test]
fn a_late_challenge_to_an_old_association_does_not_end_the_new_one() {
    let mut both = Both::new(0, config(4, false));
    let association = both.log_on();
    let late = both.request_of(b"call-9");
    both.server.forget(association);
    both.attempts = Attempts::default();
    for _ in 0..3 {
        both.round(b"SERVICE");
    }
    let (check, answer) = both.answer_to(&late, b"call-9");
    assert_eq!(check, Check::Challenged(Refusal::NoAssociation));
    both.attempts = Attempts::default();
    assert_eq!(both.read(&late, &answer).1, Some(Verdict::Answer));
    let again = both.request_of(b"call-9");
    assert!(matches!(both.answer_to(&again, b"call-9").0, Check::Passed(_)));
}

#[test]
fn an_account_without_a_password_is_told() {
    struct Hashed;
    impl Credentials for Hashed {
        fn write_user_name(&self, _: u32, out: &mut Vec<u8>) {
            out.extend_from_slice(b"alice");
        }
        fn write_password(&self, _: u32, _: &mut Vec<u8>) {}
        fn ha1(&self, _: u32) -> Option<&[u8]> {
            Some(b"00000000000000000000000000000000")
        }
    }
    let mut both = Both::new(0, config(4, false));
    both.round(b"REGISTER");
    let request = both.request(b"REGISTER");
    let (_, answer) = both.answer(&request);
    let mut scanner = Scanner::new();
    let message = scanner.scan(&answer).unwrap();
    let incoming = Incoming { message: &message, request: &request };
    let verdict = both.client.challenged(&mut (), &Hashed, 0, &incoming, &mut both.attempts);
    assert_eq!(verdict, Verdict::Unsupported);
    assert!(both.client.trouble().unwrap().contains("password"));
}

/// What was wrong with one challenge is not told of the next, which offers no NTLM at all.
#[test]
fn trouble_is_that_of_the_latest_challenge() {
    let mut both = Both::new(0, config(4, false));
    both.round(b"REGISTER");
    let request = both.request(b"REGISTER");
    let broken = b"WWW-Authenticate: NTLM realm=\"r\", targetname=\"t\", gssapi-data=\"%\", opaque=\"1\"\r\n";
    let answer = message(&both.outgoing(b"REGISTER", 401), broken);
    assert_eq!(both.read(&request, &answer).1, Some(Verdict::Unsupported));
    assert!(both.client.trouble().unwrap().contains("base64"));
    both.user = 1;
    let request = both.request(b"REGISTER");
    let answer = message(&both.outgoing(b"REGISTER", 401), b"WWW-Authenticate: Kerberos realm=\"r\"\r\n");
    assert_eq!(both.read(&request, &answer).1, Some(Verdict::Unsupported));
    assert_eq!(both.client.trouble(), None);
}

/// While a new association is proven the server has none to sign its requests with, or still
/// the one before: what it tells meanwhile is not lost.
#[test]
fn what_the_server_tells_before_the_new_association_stands_is_taken() {
    let mut both = Both::new(0, config(4, false));
    let before = both.log_on();
    let notify = Outgoing { from_tag: b"theirs", to_tag: b"ours", ..both.outgoing(b"BENOTIFY", 0) };
    let mut old = Vec::new();
    both.server.sign(before, &notify, false, &mut old);
    let (old, bare) = (message(&notify, &old), message(&notify, b""));
    // One request is still open.
    let open = both.request_of(b"call-2");
    let (check, late) = both.answer_to(&open, b"call-2");
    assert_eq!(check, Check::Passed(before));
    both.server.forget(before);
    both.attempts = Attempts::default();
    both.round(b"SERVICE");
    both.round(b"SERVICE");
    // The answer to the challenge is about to be written, then on its way.
    assert_eq!([&old, &bare].map(|bytes| both.read(b"", bytes).0), [Reading::Unprotected; 2]);
    let request = both.request(b"SERVICE");
    assert_eq!([&old, &bare].map(|bytes| both.read(b"", bytes).0), [Reading::Unprotected; 2]);
    assert_eq!(both.read(&open, &late).0, Reading::Unprotected);
    // What would end the handshake has to be signed, and by the new one.
    let unsigned = message(&both.outgoing(b"SERVICE", 200), b"");
    assert_eq!(both.read(&request, &unsigned).0, Reading::Refused);
    let (check, answer) = both.answer(&request);
    let Check::Passed(association) = check else { panic!("{check:?}") };
    assert_eq!(both.read(&request, &answer).0, Reading::Accepted);
    // From now on everything is signed by the new one.
    assert_eq!([&old, &bare].map(|bytes| both.read(b"", bytes).0), [Reading::Refused; 2]);
    let mut lines = Vec::new();
    both.server.sign(association, &notify, false, &mut lines);
    assert_eq!(both.read(b"", &message(&notify, &lines)).0, Reading::Accepted);
}

#[test]
fn what_ends_is_forgotten() {
    let mut both = Both::new(0, config(4, false));
    for _ in 0..200 {
        both.client.reconnected(&mut (), 0);
        both.log_on();
    }
    assert_eq!((both.server.len(), both.server.evicted()), (200, 0));
    both.server.forget_connection(CONNECTION);
    assert!(both.server.is_empty());
}

/// Whoever begins again and again on one connection makes room for himself, not for others.
#[test]
fn a_connection_has_a_bounded_number_of_associations() {
    let mut both = Both::new(0, config(4, false));
    let standing = both.log_on();
    let begin = b"REGISTER sip:a SIP/2.0\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: c\r\nCSeq: 1 REGISTER\r\n\
        Authorization: NTLM qop=\"auth\", realm=\"r\", targetname=\"t\", gssapi-data=\"\", version=4\r\n\r\n";
    let mut scanner = Scanner::new();
    let begin = scanner.scan(begin).unwrap();
    for n in 1..=MAX_OF_CONNECTION as u64 + 50 {
        both.server.check(&begin, CONNECTION + 1, 0, known, &mut Vec::new());
        let (left, evicted) = (n.min(MAX_OF_CONNECTION as u64), n.saturating_sub(MAX_OF_CONNECTION as u64));
        assert_eq!((both.server.len() as u64, both.server.evicted()), (left + 1, evicted));
    }
    assert!(both.server.holds(standing));
    assert_eq!(both.round(b"SERVICE").0, Check::Passed(standing));
    // What goes with a connection is told.
    both.server.forget_connection(CONNECTION + 1);
    assert_eq!(both.server.len(), 1);
    both.server.forget_connection(CONNECTION);
    assert!(both.server.is_empty() && !both.server.holds(standing));
}

#[test]
fn a_new_connection_begins_anew() {
    let mut both = Both::new(0, config(4, false));
    both.log_on();
    both.client.reconnected(&mut (), 0);
    let request = String::from_utf8(both.request(b"REGISTER")).unwrap();
    assert!(!request.contains("Authorization"), "{request}");
}

#[test]
fn offered_schemes_are_named() {
    let lines = b"WWW-Authenticate: TLS-DSK realm=\"r\", targetname=\"t\", version=4, sts-uri=\"https://x/\"\r\n\
        WWW-Authenticate: Kerberos realm=\"r\", targetname=\"sip/t\", version=4\r\nWWW-Authenticate: Basic realm=\"r\"\r\n";
    let mut both = Both::new(0, config(4, false));
    let request = both.request(b"REGISTER");
    let answer = message(&both.outgoing(b"REGISTER", 401), lines);
    assert_eq!(both.read(&request, &answer).1, Some(Verdict::Unsupported));
    let mut scanner = Scanner::new();
    let schemes: Vec<_> = offered(&scanner.scan(&answer).unwrap()).collect();
    assert_eq!(schemes, [SchemeName::TlsDsk, SchemeName::Kerberos]);
}
