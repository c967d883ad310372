//! Digest on the server's side (RFC 7616): stateless nonces, MD5 and SHA-256.

use adsum_sip::{HeaderId, Message};
use md5::{Digest as _, Md5};
use sha2::Sha256;

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
        let found = message
            .headers(HeaderId::Authorization)
            .filter_map(|value| Given::read(value, &self.realm))
            .next();
        let Some(given) = found else { return Proof::Absent };
        let issued = given.nonce.get(..12).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let fresh =
            issued.is_some_and(|at| self.nonce(at) == given.nonce && now_s.saturating_sub(at) < NONCE_LIFE_S);
        if !fresh {
            return Proof::Stale;
        }
        let Some(password) = password(&given.username) else { return Proof::Wrong };
        let sha = given.algorithm.eq_ignore_ascii_case("SHA-256");
        if !sha && !given.algorithm.eq_ignore_ascii_case("MD5") {
            return Proof::Wrong;
        }
        let method = String::from_utf8_lossy(message.method()).into_owned();
        let a1 =
            hex(sha, &[given.username.as_bytes(), b":", self.realm.as_bytes(), b":", password.as_bytes()]);
        let a2 = hex(sha, &[method.as_bytes(), b":", given.uri.as_bytes()]);
        let nonce = given.nonce.as_bytes();
        let expected = if given.qop.is_empty() {
            hex(sha, &[a1.as_bytes(), b":", nonce, b":", a2.as_bytes()])
        } else {
            let parts: [&[u8]; 11] = [
                a1.as_bytes(),
                b":",
                nonce,
                b":",
                given.nc.as_bytes(),
                b":",
                given.cnonce.as_bytes(),
                b":",
                given.qop.as_bytes(),
                b":",
                a2.as_bytes(),
            ];
            hex(sha, &parts)
        };
        if expected == given.response { Proof::User(given.username) } else { Proof::Wrong }
    }
}

fn hex(sha: bool, parts: &[&[u8]]) -> String {
    let bytes: Vec<u8> = if sha {
        let mut hasher = Sha256::new();
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finalize().to_vec()
    } else {
        let mut hasher = Md5::new();
        parts.iter().for_each(|part| hasher.update(part));
        hasher.finalize().to_vec()
    };
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An Authorization header.
#[derive(Debug, Default)]
struct Given {
    username: String,
    nonce: String,
    uri: String,
    response: String,
    algorithm: String,
    qop: String,
    nc: String,
    cnonce: String,
}

impl Given {
    fn read(value: &[u8], realm: &str) -> Option<Given> {
        let text = std::str::from_utf8(value).ok()?;
        let (scheme, mut rest) = text.split_once(char::is_whitespace)?;
        if !scheme.eq_ignore_ascii_case("Digest") {
            return None;
        }
        let mut given = Given { algorithm: "MD5".to_owned(), ..Given::default() };
        let mut for_realm = false;
        while let Some((name, after)) = rest.split_once('=') {
            let after = after.trim_start();
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            let field = match name.trim_matches([' ', ',', '\t', '\r', '\n']).to_ascii_lowercase().as_str() {
                "username" => Some(&mut given.username),
                "nonce" => Some(&mut given.nonce),
                "uri" => Some(&mut given.uri),
                "response" => Some(&mut given.response),
                "algorithm" => Some(&mut given.algorithm),
                "qop" => Some(&mut given.qop),
                "nc" => Some(&mut given.nc),
                "cnonce" => Some(&mut given.cnonce),
                "realm" => {
                    for_realm = value == realm;
                    None
                }
                _ => None,
            };
            if let Some(field) = field {
                value.trim().clone_into(field);
            }
            rest = next;
        }
        for_realm.then_some(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use adsum_sip::Scanner;

    /// The published vector of the project's protocol notes: user pub00001, password s3cret.
    #[test]
    fn the_formula_is_that_of_the_rfc() {
        let a1 = hex(false, &[b"pub00001:loadlab.test:s3cret"]);
        assert_eq!(a1, "ca7febd9f514b09054bb23b4fe72afd1");
        let a2 = hex(false, &[b"REGISTER:sip:loadlab.test"]);
        let response = hex(
            false,
            &[a1.as_bytes(), b":5ccc069c403ebaf9f0171e9517f40e41:00000001:0a4f113b:auth:", a2.as_bytes()],
        );
        assert_eq!(response, "b89fe60ec0d4493f3565504c0e1bd220");
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
