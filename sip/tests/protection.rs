//! The seam itself: what holds for every scheme.

use adsum_sip::Scanner;
use adsum_sip::digest::{Digest, State};
use adsum_sip::protection::{
    Attempts, Credentials, Incoming, Outgoing, Protection, Reading, Scheme, Unprotected, Verdict,
};

struct Accounts;

impl Credentials for Accounts {
    fn write_user_name(&self, user: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("u{user}").as_bytes());
    }
    fn write_password(&self, _: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"pw");
    }
    fn ha1(&self, _: u32) -> Option<&[u8]> {
        None
    }
}

/// What the schemes of MS-SIPAE sign (versions 3 and 4), made from the seam's fields alone.
fn signature_string(rand: &str, num: u32, o: &Outgoing<'_>) -> String {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    let expires = o.expires.map_or(String::new(), |seconds| seconds.to_string());
    let mut string = format!(
        "<NTLM><{rand}><{num}><SIP Communications Service><ref.loadlab.test><{}><{}><{}><{}><{}><{}><{}><><><{expires}>",
        text(o.call_id),
        o.cseq,
        text(o.method),
        text(o.from_uri),
        text(o.from_tag),
        text(o.to_uri),
        text(o.to_tag),
    );
    if o.code != 0 {
        string += &format!("<{}>", o.code);
    }
    string
}

/// The signature strings of the project's protocol guide, section 8.4: the seam has
/// every field that a signature covers, for requests and for our answers.
#[test]
fn the_seam_shows_what_signatures_cover() {
    let logoff = Outgoing {
        method: b"REGISTER",
        uri: b"sip:loadlab.test",
        call_id: b"c0ffee01@pub00001",
        cseq: 4,
        from_uri: b"sip:pub00001@loadlab.test",
        from_tag: b"t1a2b3c4d",
        to_uri: b"sip:pub00001@loadlab.test",
        expires: Some(0),
        ..Outgoing::default()
    };
    assert_eq!(
        signature_string("5a5a000b", 11, &logoff),
        "<NTLM><5a5a000b><11><SIP Communications Service><ref.loadlab.test><c0ffee01@pub00001><4><REGISTER>\
         <sip:pub00001@loadlab.test><t1a2b3c4d><sip:pub00001@loadlab.test><><><><0>"
    );
    let answer = Outgoing {
        code: 200,
        method: b"NOTIFY",
        call_id: b"pres-sub00001-01",
        cseq: 2,
        from_uri: b"sip:sub00001@loadlab.test",
        from_tag: b"8A0B0099",
        to_uri: b"sip:sub00001@loadlab.test",
        to_tag: b"ps01",
        ..Outgoing::default()
    };
    assert_eq!(
        signature_string("5a5a0007", 7, &answer),
        "<NTLM><5a5a0007><7><SIP Communications Service><ref.loadlab.test><pres-sub00001-01><2><NOTIFY>\
         <sip:sub00001@loadlab.test><8A0B0099><sip:sub00001@loadlab.test><ps01><><><><200>"
    );
}

/// Gives verdict, reading of a wrong `rspauth`, and what is written: for a request, for an answer.
fn converse(scheme: &mut Scheme) -> (Verdict, Reading, String, String) {
    let (mut state, mut attempts, mut scanner) = (State::default(), Attempts::default(), Scanner::new());
    let text = b"SIP/2.0 401 X\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"n\"\r\n\r\n";
    let message = scanner.scan(text).unwrap();
    let challenge = Incoming { message: &message, request: b"REGISTER sip:r SIP/2.0\r\n\r\n" };
    let verdict = scheme.challenged(&mut state, &Accounts, 3, &challenge, &mut attempts);
    let outgoing = Outgoing { method: b"REGISTER", uri: b"sip:r", ..Outgoing::default() };
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    scheme.write(&mut state, &Accounts, 3, &outgoing, &mut request);
    scheme.write(&mut state, &Accounts, 3, &Outgoing { code: 200, ..outgoing }, &mut answer);
    let sent = [b"REGISTER sip:r SIP/2.0\r\n", request.as_slice(), b"\r\n"].concat();
    let message = scanner.scan(b"SIP/2.0 200 OK\r\nAuthentication-Info: rspauth=\"00\"\r\n\r\n").unwrap();
    let reading = scheme.read(&mut state, &Accounts, 3, &Incoming { message: &message, request: &sent });
    (verdict, reading, String::from_utf8(request).unwrap(), String::from_utf8(answer).unwrap())
}

#[test]
fn without_protection_nothing_is_written_and_no_challenge_answered() {
    let mut none = Scheme::None(Unprotected);
    let expected = (Verdict::Unsupported, Reading::Unprotected, String::new(), String::new());
    assert_eq!(converse(&mut none), expected);
    assert!(!none.drops_refused());
}

#[test]
fn digest_goes_into_requests_only_and_never_drops_an_answer() {
    let mut digest = Scheme::Digest(Box::new(Digest::new(true, 1)));
    let (verdict, reading, request, answer) = converse(&mut digest);
    assert_eq!((verdict, reading), (Verdict::Answer, Reading::Refused));
    assert!(request.starts_with("Authorization: Digest username=\"u3\", realm=\"r\""), "{request}");
    assert_eq!(answer, "");
    assert!(!digest.drops_refused());
}
