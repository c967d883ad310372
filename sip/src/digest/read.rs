//! Reading what digest writes into headers (RFC 7616 §3.3 to §3.5).
//!
//! Quotes are taken off; what is escaped inside them stays as it is, because
//! it goes back in quotes, and is resolved when it is hashed.

use super::hash::Algorithm;

/// Realm, nonce and opaque may be this long each: a challenge above it is not
/// answered, as a datagram would not hold the answer.
pub const MAX_VALUE: usize = 1_024;

/// A piece of an authentication header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// A word without `=`: the scheme with which a challenge begins.
    Word(&'a [u8]),
    /// `name=value` or `name="value"`.
    Param(&'a [u8], &'a [u8]),
}

/// Walks through an authentication header, whatever separates its pieces.
#[derive(Debug, Clone)]
pub(crate) struct Items<'a>(pub &'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        let ends = |b: &u8| matches!(b, b',' | b' ' | b'\t' | b'\r' | b'\n');
        let begin = self.0.iter().position(|b| !ends(b))?;
        let text = &self.0[begin..];
        let end = text.iter().position(|b| *b == b'=' || ends(b)).unwrap_or(text.len());
        let name = &text[..end];
        let after = text[end..].trim_ascii_start();
        let Some(value) = after.strip_prefix(b"=") else {
            self.0 = after;
            return Some(Item::Word(name));
        };
        let value = value.trim_ascii_start();
        let Some(quoted) = value.strip_prefix(b"\"") else {
            let end = value.iter().position(ends).unwrap_or(value.len());
            self.0 = &value[end..];
            return Some(Item::Param(name, &value[..end]));
        };
        let mut end = 0;
        while end < quoted.len() && quoted[end] != b'"' {
            end += if quoted[end] == b'\\' { 2 } else { 1 };
        }
        let end = end.min(quoted.len());
        self.0 = quoted.get(end + 1..).unwrap_or(b"");
        Some(Item::Param(name, &quoted[..end]))
    }
}

/// The quality of protection that an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Qop {
    /// The server named none: the formula of RFC 2069.
    None,
    /// `auth`.
    Auth,
    /// `auth-int`, because the server offers nothing less.
    AuthInt,
}

impl Qop {
    pub(super) fn text(self) -> &'static [u8] {
        match self {
            Qop::None => b"",
            Qop::Auth => b"auth",
            Qop::AuthInt => b"auth-int",
        }
    }

    /// Chooses from a list; `None` if nothing of it is ours.
    fn choose(list: &[u8]) -> Option<Qop> {
        let offers = |word: &[u8]| {
            list.split(|b| *b == b',').any(|offer| offer.trim_ascii().eq_ignore_ascii_case(word))
        };
        if list.trim_ascii().is_empty() {
            Some(Qop::None)
        } else if offers(b"auth") {
            Some(Qop::Auth)
        } else {
            offers(b"auth-int").then_some(Qop::AuthInt)
        }
    }
}

/// One challenge, borrowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Challenge<'a> {
    pub realm: &'a [u8],
    pub nonce: &'a [u8],
    pub opaque: Option<&'a [u8]>,
    /// `None` if we do not speak it.
    pub algorithm: Option<Algorithm>,
    /// The algorithm as the server spelt it, if it did.
    pub spelt: Option<&'a [u8]>,
    /// `None` if we speak nothing of it.
    pub qop: Option<Qop>,
    pub stale: bool,
    /// The user name is to be hashed (RFC 7616 §3.4.4).
    pub userhash: bool,
}

impl<'a> Challenge<'a> {
    /// The topmost challenge of a header that we can answer (RFC 8760 §2.4).
    /// A header may hold several, though RFC 3261 §7.3.1 gives each its own.
    /// With `digits` the hash has to be that long.
    pub(super) fn topmost(value: &'a [u8], digits: Option<usize>) -> Option<Challenge<'a>> {
        let is_ours = |challenge: &Challenge<'_>| challenge.is_ours(digits);
        let mut open: Option<Challenge<'a>> = None;
        for item in Items(value) {
            match (item, &mut open) {
                (Item::Word(scheme), _) => {
                    if let Some(done) = open.filter(is_ours) {
                        return Some(done);
                    }
                    open = scheme.eq_ignore_ascii_case(b"Digest").then_some(Challenge::NEW);
                }
                (Item::Param(name, value), Some(challenge)) => challenge.take(name, value),
                (Item::Param(..), None) => {}
            }
        }
        open.filter(is_ours)
    }

    const NEW: Challenge<'static> = Challenge {
        realm: b"",
        nonce: b"",
        opaque: None,
        algorithm: Some(Algorithm::MD5),
        spelt: None,
        qop: Some(Qop::None),
        stale: false,
        userhash: false,
    };

    fn take(&mut self, name: &[u8], value: &'a [u8]) {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        if is(b"realm") {
            self.realm = value;
        } else if is(b"nonce") {
            self.nonce = value;
        } else if is(b"opaque") {
            self.opaque = Some(value);
        } else if is(b"qop") {
            self.qop = Qop::choose(value);
        } else if is(b"stale") {
            self.stale = value.eq_ignore_ascii_case(b"true");
        } else if is(b"userhash") {
            self.userhash = value.eq_ignore_ascii_case(b"true");
        } else if is(b"algorithm") {
            self.spelt = Some(value);
            self.algorithm = Algorithm::of(value);
        }
        // Anything else is to be ignored (RFC 7616 §3.3).
    }

    fn is_ours(&self, digits: Option<usize>) -> bool {
        self.algorithm.is_some_and(|a| digits.is_none_or(|digits| digits == a.hash.digits()))
            && self.qop.is_some()
            && !self.nonce.is_empty()
            && [self.realm, self.nonce, self.opaque.unwrap_or(b"")].into_iter().all(goes_back)
    }
}

/// True if a value can stand between quotes as it is: not too long, nothing
/// that would end the quotes or the line.
pub(super) fn goes_back(value: &[u8]) -> bool {
    let mut escaped = false;
    for byte in value {
        match byte {
            0..=8 | 10..=31 | 127 => return false,
            b'"' if !escaped => return false,
            _ => escaped = *byte == b'\\' && !escaped,
        }
    }
    !escaped && value.len() <= MAX_VALUE
}

/// Credentials as they stand in an Authorization or Proxy-Authorization
/// header (RFC 7616 §3.4); texts without their quotes, escapes left in.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each field is the parameter of that name")]
pub struct Authorization<'a> {
    pub username: &'a [u8],
    pub realm: &'a [u8],
    pub nonce: &'a [u8],
    pub uri: &'a [u8],
    pub response: &'a [u8],
    /// MD5 if there is none; `None` for one that we do not speak.
    pub algorithm: Option<Algorithm>,
    pub qop: &'a [u8],
    pub nc: &'a [u8],
    pub cnonce: &'a [u8],
}

impl<'a> Authorization<'a> {
    /// Reads a header's value; `None` for other schemes than Digest.
    #[must_use]
    pub fn read(value: &'a [u8]) -> Option<Authorization<'a>> {
        let mut items = Items(value);
        match items.next()? {
            Item::Word(scheme) if scheme.eq_ignore_ascii_case(b"Digest") => {}
            _ => return None,
        }
        let mut given = Authorization {
            username: b"",
            realm: b"",
            nonce: b"",
            uri: b"",
            response: b"",
            algorithm: Some(Algorithm::MD5),
            qop: b"",
            nc: b"",
            cnonce: b"",
        };
        for item in items {
            let Item::Param(name, value) = item else { continue };
            let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
            let field = if is(b"username") {
                &mut given.username
            } else if is(b"realm") {
                &mut given.realm
            } else if is(b"nonce") {
                &mut given.nonce
            } else if is(b"uri") {
                &mut given.uri
            } else if is(b"response") {
                &mut given.response
            } else if is(b"qop") {
                &mut given.qop
            } else if is(b"nc") {
                &mut given.nc
            } else if is(b"cnonce") {
                &mut given.cnonce
            } else {
                if is(b"algorithm") {
                    given.algorithm = Algorithm::of(value);
                }
                continue;
            };
            *field = value;
        }
        Some(given)
    }
}

/// The parameter of an Authentication-Info header (RFC 7616 §3.5).
pub(super) fn info<'a>(value: &'a [u8], name: &str) -> Option<&'a [u8]> {
    Items(value).find_map(|item| match item {
        Item::Param(found, value) if found.eq_ignore_ascii_case(name.as_bytes()) => Some(value),
        _ => None,
    })
}
