//! Hostile bytes where NTLM is expected: an error, never a panic.

use adsum_sip::Scanner;
use adsum_sip::ntlm::{Authenticate, Challenge, Client, SPOKEN, authenticate, nt_hash};
use adsum_sip::protection::{Attempts, Credentials, Incoming, Outgoing, Protection as _};
use adsum_sip::sipae::{Authority, AuthorityConfig, Ntlm};
use proptest::prelude::*;

struct Accounts;

impl Credentials for Accounts {
    fn write_user_name(&self, _: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"A\\b");
    }
    fn write_password(&self, _: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"pw");
    }
    fn ha1(&self, _: u32) -> Option<&[u8]> {
        None
    }
}

/// A message with the right beginning and anything behind it.
fn begun(kind: u8, rest: Vec<u8>) -> Vec<u8> {
    [b"NTLMSSP\0" as &[u8], &[kind, 0, 0, 0], &rest].concat()
}

/// What a server asks; an end mark, or the wish for a MIC before it.
fn challenge(mic: bool) -> Challenge<'static> {
    let target_info: &[u8] = if mic { &[6, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0] } else { &[0; 4] };
    Challenge { flags: SPOKEN, nonce: [1; 8], target_name: b"A\0", target_info, bytes: b"its bytes" }
}

fn whole(mic: bool) -> Vec<u8> {
    let challenge = challenge(mic);
    let client = Client {
        user: "b",
        domain: "A",
        workstation: "W",
        nt_hash: nt_hash("pw"),
        nonce: [2; 8],
        time: [3; 8],
        session_key: [4; 16],
    };
    let mut out = Vec::new();
    let _ = authenticate(&challenge, &client, &mut out);
    out
}

proptest! {
    #[test]
    fn messages(kind in 0u8..5, rest in proptest::collection::vec(any::<u8>(), 0..200)) {
        let bytes = begun(kind, rest);
        if let Ok(challenge) = Challenge::read(&bytes) {
            let _ = (challenge.timestamp(), challenge.asks_for_mic());
        }
        if let Ok(answer) = Authenticate::read(&bytes) {
            prop_assert!(answer.verify(&challenge(false), &[0; 16]).is_err());
            let _ = answer.has_mic();
        }
    }

    /// One byte changed: where it is still taken, it was not a byte that is proven.
    #[test]
    fn a_changed_answer(at in 0usize..300, with in any::<u8>(), mic: bool) {
        let mut bytes = whole(mic);
        let at = at % bytes.len();
        let same = bytes[at] == with;
        bytes[at] = with;
        if let Ok(answer) = Authenticate::read(&bytes)
            && answer.verify(&challenge(mic), &nt_hash("pw")).is_ok() {
                // With a MIC every byte is proven.
                prop_assert!(same || !mic);
                prop_assert_eq!((&*answer.user.to_uppercase(), &*answer.domain), ("B", "A"));
        }
    }

    #[test]
    fn headers(value in "[ -~]{0,120}", token in "[A-Za-z0-9+/=]{0,80}") {
        for value in [value.clone(), format!("NTLM {value}"), format!("NTLM gssapi-data=\"{token}\", opaque=\"{value}\"")] {
            let mut scanner = Scanner::new();
            let challenge = format!(
                "SIP/2.0 401 No\r\nWWW-Authenticate: {value}\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\n\
                 Authentication-Info: {value}\r\nCall-ID: c\r\nCSeq: 1 REGISTER\r\n\r\n"
            );
            let mut client = Ntlm::new(true, 1, "W", 0);
            let outgoing = Outgoing { method: b"REGISTER", ..Outgoing::default() };
            let mut attempts = Attempts::default();
            for _ in 0..3 {
                let mut request = b"REGISTER sip:b SIP/2.0\r\n".to_vec();
                client.write(&mut (), &Accounts, 0, &outgoing, &mut request);
                request.extend_from_slice(b"\r\n\r\n");
                let message = scanner.scan(challenge.as_bytes()).unwrap();
                let incoming = Incoming { message: &message, request: &request };
                client.read(&mut (), &Accounts, 0, &incoming);
                client.challenged(&mut (), &Accounts, 0, &incoming, &mut attempts);
            }
            let request = format!(
                "REGISTER sip:b SIP/2.0\r\nAuthorization: {value}\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\n\
                 Call-ID: c\r\nCSeq: 1 REGISTER\r\n\r\n"
            );
            let mut server = Authority::new(AuthorityConfig {
                version: 4,
                target: "t".into(),
                domain: "D".into(),
                proxy: false,
                extended: true,
                mic: false,
                key: 1,
            });
            let message = scanner.scan(request.as_bytes()).unwrap();
            let check = server.check(&message, 1, 0, |_, _| Some([0; 16]), &mut Vec::new());
            prop_assert!(matches!(check, adsum_sip::sipae::Check::Challenged(_)));
        }
    }
}
