//! Digest in place of NTLM (`--schemes digest`), as servers offer it to users
//! outside: each request proves for itself who sent it, and nothing is signed.

use adsum_sip::Message;
use adsum_sip::time::{SECOND, Time};

use crate::auth::{Proof, Verifier};
use crate::config::LyncScheme;

use super::super::account_number;
use super::super::ids::write_user;
use super::Lync;

/// What the credentials of a request come to.
pub(super) enum ByDigest {
    /// It comes from whom it says.
    Proven,
    /// They are wrong: a second challenge would only help who guesses.
    Refused,
    /// There are none, or their nonce is too old.
    Absent {
        /// The nonce is too old, the rest may be right.
        stale: bool,
    },
}

impl Lync {
    pub(super) fn by_digest(&mut self, now: Time, sender: u32, message: &Message<'_>) -> ByDigest {
        if !self.config.lync.schemes.contains(&LyncScheme::Digest) {
            return ByDigest::Absent { stale: false };
        }
        let users = self.config.users;
        let number = |name: &str| account_number(name.to_ascii_lowercase().as_bytes(), users);
        let proof = self.digest().verify(message, now.0 / SECOND, |name| {
            let mut password = b"pw-".to_vec();
            write_user(number(name)?, &mut password);
            String::from_utf8(password).ok()
        });
        match proof {
            Proof::User(name) if number(&name) == Some(sender) => ByDigest::Proven,
            Proof::User(_) | Proof::Wrong => ByDigest::Refused,
            Proof::Absent => ByDigest::Absent { stale: false },
            Proof::Stale => ByDigest::Absent { stale: true },
        }
    }

    /// It keeps nothing: nonces prove themselves.
    fn digest(&self) -> Verifier {
        Verifier::new(&self.config.domain, self.config.seed ^ 0xd16e_57a1, self.config.sha256)
    }

    /// Appends the challenge to the answer that is being made, if digest is offered.
    pub(super) fn ask_for_digest(&mut self, now: Time, stale: bool) {
        if self.config.lync.schemes.contains(&LyncScheme::Digest) {
            let verifier = self.digest();
            verifier.challenge(now.0 / SECOND, stale, &mut self.lines);
        }
    }
}
