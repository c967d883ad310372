//! What digest remembers for the sake of speed changes none of its answers: the identities of users
//! that it needed lately, and the form of the last challenge.

use std::collections::BTreeMap;

use adsum_sip::Scanner;
use adsum_sip::digest::{Authorization, Digest, Secret, State};
use adsum_sip::protection::{Attempts, Credentials, Incoming, Outgoing, Protection, Verdict};
use proptest::prelude::*;

/// Thousands of users, each with a name and a password of its own.
struct Accounts;

fn password(user: u32) -> String {
    format!("pw-{user}")
}

impl Credentials for Accounts {
    fn write_user_name(&self, user: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("user{user}").as_bytes());
    }
    fn write_password(&self, user: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(password(user).as_bytes());
    }
    fn ha1(&self, _: u32) -> Option<&[u8]> {
        None
    }
}

/// A nonce as it may stand between quotes, or not: some would end the quotes.
fn nonce() -> impl Strategy<Value = String> {
    prop_oneof![6 => "[a-f0-9]{1,60}", 1 => "[a-z\\\\\", =]{0,6}"]
}

/// What stands around it.
fn form() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop_oneof![
        Just(("Digest realm=\"r\", nonce=\"", "\", qop=\"auth\"")),
        Just(("Digest realm=\"r\", nonce=\"", "\"")),
        Just(("Digest realm=\"other\", nonce=\"", "\", algorithm=SHA-256, qop=\"auth,auth-int\"")),
        Just(("Digest nonce=\"", "\", realm=\"r\", opaque=\"x\", stale=true")),
        Just(("Basic realm=\"r\", Digest realm=\"two\", nonce=\"", "\", algorithm=MD5-sess, qop=auth")),
        Just(("Digest algorithm=X, nonce=\"", "\", realm=\"r\"")),
        Just(("Digest realm=\"r\", nonce=", ", qop=\"auth\"")),
    ]
}

proptest! {
    #[test]
    fn what_is_remembered_changes_no_answer(
        calls in prop::collection::vec((0u32..700, form(), nonce()), 1..60)
    ) {
        let mut digest = Digest::new(false, 1);
        let mut users: BTreeMap<u32, State> = BTreeMap::new();
        for (user, (before, after), nonce) in calls {
            let text = format!(
                "SIP/2.0 401 X\r\nCSeq: 1 PUBLISH\r\nWWW-Authenticate: {before}{nonce}{after}\r\nl: 0\r\n\r\n"
            );
            let mut scanner = Scanner::new();
            let message = scanner.scan(text.as_bytes()).unwrap();
            let incoming = Incoming { message: &message, request: b"" };
            let state = users.entry(user).or_default();
            let verdict = digest.challenged(state, &Accounts, user, &incoming, &mut Attempts::default());
            // One that remembers nothing.
            let (mut fresh, mut other) = (Digest::new(false, 1), State::default());
            let expected = fresh.challenged(&mut other, &Accounts, user, &incoming, &mut Attempts::default());
            prop_assert_eq!(verdict, expected, "{}", text);
            if verdict != Verdict::Answer {
                continue;
            }
            let outgoing =
                Outgoing { method: b"PUBLISH", uri: b"sip:a@h", body: b"<document/>", ..Outgoing::default() };
            let mut lines = Vec::new();
            digest.write(state, &Accounts, user, &outgoing, &mut lines);
            let line = String::from_utf8(lines).unwrap();
            let given = Authorization::read(line.split_once(": ").unwrap().1.trim_end().as_bytes()).unwrap();
            let mut lines = Vec::new();
            fresh.write(&mut other, &Accounts, user, &outgoing, &mut lines);
            let plain = String::from_utf8(lines).unwrap();
            let plain = Authorization::read(plain.split_once(": ").unwrap().1.trim_end().as_bytes()).unwrap();
            prop_assert_eq!((given.realm, given.nonce, given.qop), (plain.realm, plain.nonce, plain.qop));
            let name = format!("user{user}");
            prop_assert_eq!(given.username, name.as_bytes());
            let secret = password(user);
            prop_assert!(given.proves(Secret::Password(secret.as_bytes()), b"PUBLISH", b"<document/>"));
        }
    }

    /// The hash does not depend on how a text is cut, nor on its length.
    #[test]
    fn pieces_are_hashed_as_one_text(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..6)
    ) {
        use adsum_sip::digest::{Hash, Text, hash};
        use md5::Digest as _;
        let texts: Vec<Text<'_>> = pieces.iter().map(|piece| Text::Plain(piece)).collect();
        let expected: String =
            md5::Md5::digest(pieces.concat()).iter().map(|byte| format!("{byte:02x}")).collect();
        let found = hash(Hash::Md5, &texts);
        prop_assert_eq!(found.text(), expected.as_bytes());
    }
}
