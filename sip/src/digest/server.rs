//! The server's side: is a response right?

use std::borrow::Cow;

use super::hash::{Hex, Text, Use, ha1, response};
use super::read::Authorization;

/// What a server knows of a user.
#[derive(Debug, Clone, Copy)]
pub enum Secret<'a> {
    /// The password.
    Password(&'a [u8]),
    /// H(user:realm:password) in hex, for the realm and algorithm in use.
    Ha1(&'a [u8]),
}

impl<'a> Authorization<'a> {
    /// The user name with its escapes resolved.
    #[must_use]
    pub fn user_name(&self) -> Cow<'a, [u8]> {
        if memchr::memchr(b'\\', self.username).is_none() {
            return Cow::Borrowed(self.username);
        }
        let mut name = Vec::with_capacity(self.username.len());
        let mut bytes = self.username.iter();
        while let Some(byte) = bytes.next() {
            name.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
        }
        Cow::Owned(name)
    }

    /// What `response` has to be; `None` for an algorithm that we do not speak.
    /// The body counts for `auth-int` only.
    #[must_use]
    pub fn expected(&self, secret: Secret<'_>, method: &[u8], body: &[u8]) -> Option<Hex> {
        let algorithm = self.algorithm?;
        let ha1 = match secret {
            Secret::Ha1(ha1) => Hex::of_text(ha1),
            Secret::Password(password) => {
                ha1(algorithm.hash, Text::Quoted(self.username), self.realm, password)
            }
        };
        Some(response(algorithm, &ha1, &self.using(), method, Text::Quoted(self.uri), body))
    }

    /// True if the response proves the secret.
    #[must_use]
    pub fn proves(&self, secret: Secret<'_>, method: &[u8], body: &[u8]) -> bool {
        self.expected(secret, method, body).is_some_and(|expected| expected.text() == self.response)
    }

    /// The `rspauth` by which the server proves that it knows the secret, too
    /// (RFC 7616 §3.5); the body is the one of the answer.
    #[must_use]
    pub fn rspauth(&self, secret: Secret<'_>, body: &[u8]) -> Option<Hex> {
        self.expected(secret, b"", body)
    }

    pub(super) fn using(&self) -> Use<'a> {
        Use { nonce: self.nonce, nc: self.nc, cnonce: self.cnonce, qop: self.qop }
    }
}
