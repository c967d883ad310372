//! Digest on the server's side (RFC 7616): challenges with stateless nonces, for
//! MD5 and SHA-256. The formulas are [`adsum_sip::digest`]'s.

use adsum_sip::digest::{Authorization, Hash, Secret};
use adsum_sip::scan::unfold;
use adsum_sip::{HeaderId, Message};

/// Seconds after which a nonce is stale.
const NONCE_LIFE_S: u64 = 3_600;

/// What a request's credentials came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// The user of that name.
    User(String),
    /// None, or for another realm.
    Absent,
    /// The nonce is too old, or not ours; the rest may be right.
    Stale,
    /// Wrong.
    Wrong,
}

/// Verifies credentials.
#[derive(Debug)]
pub struct Verifier {
    realm: String,
    secret: u64,
    sha256: bool,
}

impl Verifier {
    /// For a realm; nonces depend on the secret.
    #[must_use]
    pub fn new(realm: &str, secret: u64, sha256: bool) -> Self {
        Verifier { realm: realm.to_owned(), secret, sha256 }
    }

    /// Appends the challenge headers for a 401.
    pub fn challenge(&self, now_s: u64, stale: bool, out: &mut Vec<u8>) {
        let nonce = self.nonce(now_s);
        let stale = if stale { ", stale=true" } else { "" };
        let algorithms: &[&str] = if self.sha256 { &["SHA-256", "MD5"] } else { &["MD5"] };
        for algorithm in algorithms {
            let line = format!(
                "WWW-Authenticate: Digest realm=\"{}\", nonce=\"{nonce}\", algorithm={algorithm}, qop=\"auth\"{stale}\r\n",
                self.realm
            );
            out.extend_from_slice(line.as_bytes());
        }
    }

    fn nonce(&self, now_s: u64) -> String {
        let mark = adsum_sip::ids::mix(self.secret ^ adsum_sip::ids::mix(now_s));
        format!("{now_s:012x}{mark:016x}")
    }

    /// Looks at the credentials of a request; `password` gives that of a user.
    pub fn verify(
        &self,
        message: &Message<'_>,
        now_s: u64,
        password: impl FnOnce(&str) -> Option<String>,
    ) -> Proof {
        let values: Vec<_> = message.headers(HeaderId::Authorization).map(unfold).collect();
        let mut given = values.iter().filter_map(|value| Authorization::read(value));
        let Some(given) = given.find(|given| given.realm == self.realm.as_bytes()) else {
            return Proof::Absent;
        };
        let nonce = String::from_utf8_lossy(given.nonce);
        let issued = nonce.get(..12).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let fresh =
            issued.is_some_and(|at| self.nonce(at) == nonce && now_s.saturating_sub(at) < NONCE_LIFE_S);
        if !fresh {
            return Proof::Stale;
        }
        let user = String::from_utf8_lossy(&given.user_name()).into_owned();
        let Some(password) = password(&user) else { return Proof::Wrong };
        // Only what a challenge of ours names.
        let offered = given.algorithm.is_some_and(|a| !a.session && a.hash != Hash::Sha512_256);
        let secret = Secret::Password(password.as_bytes());
        if offered && given.proves(secret, message.method(), message.body()) {
            Proof::User(user)
        } else {
            Proof::Wrong
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use adsum_sip::Scanner;

    /// The formula itself is tested where it stands; this is that it is asked rightly.
    #[test]
    fn a_right_answer_names_its_user() {
        let verifier = Verifier::new("loadlab.test", 7, true);
        let nonce = verifier.nonce(1_000);
        let prove = |algorithm: &str, password: &'static str| {
            let line = |response: &str| {
                format!(
                    "Digest username=\"pub00001\", realm=\"loadlab.test\", nonce=\"{nonce}\", \
                     uri=\"sip:loadlab.test\", algorithm={algorithm}, qop=auth, nc=00000001, \
                     cnonce=\"0a4f113b\", response=\"{response}\""
                )
            };
            let asked = line("");
            let given = Authorization::read(asked.as_bytes()).unwrap();
            let response = given.expected(Secret::Password(b"s3cret"), b"REGISTER", b"").unwrap();
            let line = line(std::str::from_utf8(response.text()).unwrap());
            let text = format!(
                "REGISTER sip:loadlab.test SIP/2.0\r\nAuthorization: {line}\r\nCSeq: 1 REGISTER\r\n\r\n"
            );
            let mut scanner = Scanner::new();
            verifier.verify(&scanner.scan(text.as_bytes()).unwrap(), 1_001, |_| Some(password.into()))
        };
        for offered in ["MD5", "SHA-256"] {
            assert_eq!(prove(offered, "s3cret"), Proof::User("pub00001".into()));
            assert_eq!(prove(offered, "other"), Proof::Wrong);
        }
        assert_eq!(prove("SHA-512-256", "s3cret"), Proof::Wrong, "never offered");
    }

    #[test]
    fn stale_absent_and_wrong_are_told_apart() {
        let verifier = Verifier::new("r", 7, false);
        let mut challenge = Vec::new();
        verifier.challenge(1_000, false, &mut challenge);
        let nonce = verifier.nonce(1_000);
        assert!(String::from_utf8_lossy(&challenge).contains(&nonce));
        let prove = |auth: &str, now| {
            let text = format!("REGISTER sip:r SIP/2.0\r\n{auth}CSeq: 1 REGISTER\r\n\r\n");
            let mut scanner = Scanner::new();
            verifier.verify(&scanner.scan(text.as_bytes()).unwrap(), now, |_| Some("p".into()))
        };
        let line = format!(
            "Authorization: Digest username=\"u\", realm=\"r\", nonce=\"{nonce}\", uri=\"sip:r\", response=\"x\"\r\n"
        );
        assert_eq!(prove("", 1_000), Proof::Absent);
        assert_eq!(prove(&line, 1_000), Proof::Wrong);
        assert_eq!(prove(&line, 1_000 + NONCE_LIFE_S), Proof::Stale);
    }
}
