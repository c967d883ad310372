//! The formulas of RFC 7616 §3.4, for both sides, on the stack.

use md5::Md5;
use sha2::{Sha256, Sha512_256};

/// A hash function that digest may use (RFC 7616 §6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// RFC 1321.
    Md5,
    /// FIPS 180-4.
    Sha256,
    /// SHA-512/256 of FIPS 180-4: a function of its own, not a cut SHA-512.
    Sha512_256,
}

impl Hash {
    /// Hex digits of a result.
    #[must_use]
    pub fn digits(self) -> usize {
        match self {
            Hash::Md5 => 32,
            Hash::Sha256 | Hash::Sha512_256 => 64,
        }
    }
}

/// The `algorithm` of a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Algorithm {
    /// The function.
    pub hash: Hash,
    /// With `-sess`: A1 holds nonce and cnonce, too (RFC 7616 §3.4.2).
    pub session: bool,
}

impl Algorithm {
    /// What a challenge without `algorithm` means (RFC 7616 §3.3).
    pub const MD5: Algorithm = Algorithm { hash: Hash::Md5, session: false };

    /// Reads a name in any case; `None` for what we do not speak.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Algorithm> {
        const SESS: usize = "-sess".len();
        let cut = name.len().saturating_sub(SESS);
        let session = name[cut..].eq_ignore_ascii_case(b"-sess");
        let name = if session { &name[..cut] } else { name };
        let known: [(&[u8], Hash); 3] =
            [(b"MD5", Hash::Md5), (b"SHA-256", Hash::Sha256), (b"SHA-512-256", Hash::Sha512_256)];
        let (_, hash) = known.into_iter().find(|(text, _)| name.eq_ignore_ascii_case(text))?;
        Some(Algorithm { hash, session })
    }
}

/// A hash in lower-case hex, on the stack.
#[derive(Debug, Clone, Copy)]
pub struct Hex {
    digits: [u8; 64],
    len: usize,
}

impl Hex {
    /// Up to 32 bytes as digits.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Hex {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 64];
        let bytes = &bytes[..bytes.len().min(32)];
        for (at, byte) in bytes.iter().enumerate() {
            digits[2 * at] = DIGITS[usize::from(byte >> 4)];
            digits[2 * at + 1] = DIGITS[usize::from(byte & 15)];
        }
        Hex { digits, len: bytes.len() * 2 }
    }

    /// Up to 64 digits, brought to lower case.
    #[must_use]
    pub fn of_text(text: &[u8]) -> Hex {
        let mut digits = [0; 64];
        let len = text.len().min(64);
        digits[..len].copy_from_slice(&text[..len]);
        digits[..len].make_ascii_lowercase();
        Hex { digits, len }
    }

    /// The digits.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.digits[..self.len]
    }
}

/// A piece of what is hashed.
#[derive(Debug, Clone, Copy)]
pub enum Text<'a> {
    /// As it is.
    Plain(&'a [u8]),
    /// As it stands between quotes: `\"` is hashed as `"` (`unq` of RFC 7616 §3.4).
    Quoted(&'a [u8]),
}

use Text::{Plain, Quoted};

/// Pieces on their way into a hasher, many at a time: to a hasher each costs a multiple of its length.
struct Gathered<D> {
    text: [u8; 512],
    len: usize,
    hasher: D,
}

impl<D: md5::Digest> Gathered<D> {
    #[inline]
    fn add(&mut self, piece: &[u8]) {
        if piece.len() > self.text.len() - self.len {
            self.hasher.update(&self.text[..self.len]);
            self.len = 0;
        }
        match self.text[self.len..].get_mut(..piece.len()) {
            Some(place) => {
                place.copy_from_slice(piece);
                self.len += piece.len();
            }
            None => self.hasher.update(piece),
        }
    }

    fn finish(mut self) -> md5::digest::Output<D> {
        self.hasher.update(&self.text[..self.len]);
        self.hasher.finalize()
    }
}

/// H of the pieces, one after the other.
#[must_use]
pub fn hash(function: Hash, pieces: &[Text<'_>]) -> Hex {
    fn run<D: md5::Digest>(pieces: &[Text<'_>]) -> Hex {
        let mut gathered = Gathered { text: [0; 512], len: 0, hasher: D::new() };
        for piece in pieces {
            match *piece {
                Plain(plain) => gathered.add(plain),
                Quoted(mut quoted) => {
                    while let Some(at) = memchr::memchr(b'\\', quoted) {
                        gathered.add(&quoted[..at]);
                        gathered.add(quoted.get(at + 1..at + 2).unwrap_or(b""));
                        quoted = quoted.get(at + 2..).unwrap_or(b"");
                    }
                    gathered.add(quoted);
                }
            }
        }
        Hex::of_bytes(&gathered.finish())
    }
    match function {
        Hash::Md5 => run::<Md5>(pieces),
        Hash::Sha256 => run::<Sha256>(pieces),
        Hash::Sha512_256 => run::<Sha512_256>(pieces),
    }
}

/// H(user:realm:password); the realm as it stands between quotes.
#[must_use]
pub fn ha1(function: Hash, name: Text<'_>, realm: &[u8], password: &[u8]) -> Hex {
    hash(function, &[name, Plain(b":"), Quoted(realm), Plain(b":"), Plain(password)])
}

/// What one use of a nonce adds to the hash; texts as they stand between quotes.
#[derive(Debug, Clone, Copy)]
pub struct Use<'a> {
    /// The server's nonce.
    pub nonce: &'a [u8],
    /// How often it was used, eight hex digits.
    pub nc: &'a [u8],
    /// The client's nonce.
    pub cnonce: &'a [u8],
    /// `auth`, `auth-int`, or empty for the formula of RFC 2069.
    pub qop: &'a [u8],
}

/// What `response` has to be, from H(user:realm:password). With an empty
/// method it is `rspauth` (RFC 7616 §3.5). The body counts for `auth-int` only.
#[must_use]
pub fn response(
    algorithm: Algorithm,
    ha1: &Hex,
    using: &Use<'_>,
    method: &[u8],
    uri: Text<'_>,
    body: &[u8],
) -> Hex {
    const COLON: Text<'_> = Plain(b":");
    let function = algorithm.hash;
    let ha1 = if algorithm.session {
        hash(function, &[Plain(ha1.text()), COLON, Quoted(using.nonce), COLON, Quoted(using.cnonce)])
    } else {
        *ha1
    };
    let ha2 = if using.qop.eq_ignore_ascii_case(b"auth-int") {
        let body = hash(function, &[Plain(body)]);
        hash(function, &[Plain(method), COLON, uri, COLON, Plain(body.text())])
    } else {
        hash(function, &[Plain(method), COLON, uri])
    };
    let (ha1, nonce, ha2) = (Plain(ha1.text()), Quoted(using.nonce), Plain(ha2.text()));
    if using.qop.is_empty() {
        return hash(function, &[ha1, COLON, nonce, COLON, ha2]);
    }
    let (nc, cnonce, qop) = (Plain(using.nc), Quoted(using.cnonce), Plain(using.qop));
    hash(function, &[ha1, COLON, nonce, COLON, nc, COLON, cnonce, COLON, qop, COLON, ha2])
}
