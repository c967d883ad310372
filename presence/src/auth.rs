//! What a user shows to prove who it is: digest (RFC 7616, 8760) with one
//! nonce for each user, used again until the server wants another.
//!
//! Nothing is allocated on the steady path: names, passwords and hashes pass
//! through buffers that belong to the shard.

use adsum_sip::{HeaderId, Message};
use md5::{Digest as _, Md5};
use sha2::Sha256;
use smallvec::SmallVec;

use crate::accounts::Accounts;

/// Distinct realms, opaques and algorithms that one shard remembers.
const MAX_SHAPES: usize = 256;

/// What a user holds of its server's last challenge.
#[derive(Debug, Default)]
pub struct AuthState {
    nonce: SmallVec<[u8; 56]>,
    /// Uses of this nonce so far (RFC 7616 §3.4: `nc`).
    uses: u32,
    /// What the challenge was like, or no challenge yet.
    shape: u16,
    known: bool,
    /// Send credentials with the next request.
    armed: bool,
    /// How often a challenge came in answer to credentials, since the last success.
    refused: u8,
}

/// What follows from a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send the request again: the credentials are ready.
    Answer,
    /// These credentials were refused. Never try them again.
    Rejected,
    /// No scheme, algorithm or quality that we speak.
    Unsupported,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Md5,
    Md5Sess,
    Sha256,
    Sha256Sess,
}

/// What challenges have in common, kept once for all users.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    realm: Vec<u8>,
    opaque: Option<Vec<u8>>,
    algorithm: Algorithm,
    /// The algorithm as the server spelt it, if it did.
    spelt: Option<Vec<u8>>,
    qop_auth: bool,
    proxy: bool,
}

/// Answers challenges for all users of a shard.
#[derive(Debug)]
pub struct Authenticator {
    reuse: bool,
    key: u64,
    shapes: Vec<Shape>,
    counter: u64,
    name: Vec<u8>,
    secret: Vec<u8>,
}

/// One parameter list of a challenge (RFC 7616 §3.3), borrowed.
struct Challenge<'a> {
    realm: &'a [u8],
    nonce: &'a [u8],
    opaque: Option<&'a [u8]>,
    algorithm: Option<Algorithm>,
    spelt: Option<&'a [u8]>,
    qop: Option<&'a [u8]>,
    stale: bool,
}

impl Authenticator {
    /// With `reuse`, credentials go along unasked once a nonce is known.
    #[must_use]
    pub fn new(reuse: bool, key: u64) -> Self {
        Authenticator { reuse, key, shapes: Vec::new(), counter: 0, name: Vec::new(), secret: Vec::new() }
    }

    /// A 401 or 407 came. Of several challenges the topmost that we speak is
    /// answered (RFC 8760 §2.4).
    pub fn challenged(&mut self, state: &mut AuthState, message: &Message<'_>) -> Verdict {
        let proxy = message.code() == 407;
        let id = if proxy { HeaderId::ProxyAuthenticate } else { HeaderId::WwwAuthenticate };
        let Some(challenge) = message.headers(id).filter_map(challenge).find(|c| c.is_ours()) else {
            return Verdict::Unsupported;
        };
        let sent = std::mem::replace(&mut state.armed, false) || state.refused > 0;
        let same_nonce = state.known && state.nonce.as_slice() == challenge.nonce;
        if sent {
            // Credentials went along and were not taken. The same nonce, or a second
            // new one without `stale`, says that they are wrong.
            state.refused = state.refused.saturating_add(1);
            let again = challenge.stale || (!same_nonce && state.refused < 2);
            if !again || state.refused > 3 {
                state.known = false;
                return Verdict::Rejected;
            }
        }
        let Some(shape) = self.shape_of(&challenge, proxy) else { return Verdict::Unsupported };
        if !same_nonce {
            state.nonce.clear();
            state.nonce.extend_from_slice(challenge.nonce);
            state.uses = 0;
        }
        state.shape = shape;
        state.known = true;
        state.armed = true;
        Verdict::Answer
    }

    /// A 2xx came: the credentials are right, and the server may have named
    /// the next nonce (RFC 7616 §3.5).
    pub fn succeeded(&mut self, state: &mut AuthState, message: &Message<'_>) {
        state.refused = 0;
        state.armed = false;
        if !state.known {
            return;
        }
        let info = message
            .header(HeaderId::AuthenticationInfo)
            .or_else(|| message.header(HeaderId::ProxyAuthenticationInfo));
        let next =
            info.and_then(|info| params(info).find(|(name, _)| name.eq_ignore_ascii_case(b"nextnonce")));
        if let Some((_, nonce)) = next {
            state.nonce.clear();
            state.nonce.extend_from_slice(nonce);
            state.uses = 0;
        }
    }

    /// Appends the header line that proves who the user is, if it has to.
    pub fn write(
        &mut self,
        state: &mut AuthState,
        accounts: &Accounts,
        user: u32,
        method: &[u8],
        uri: &[u8],
        out: &mut Vec<u8>,
    ) {
        if !state.known || !(state.armed || self.reuse) {
            return;
        }
        state.armed = true;
        let Some(shape) = self.shapes.get(usize::from(state.shape)) else { return };
        state.uses += 1;
        self.counter = self.counter.wrapping_add(1);
        let cnonce = hex16(adsum_sip::ids::mix(self.key ^ self.counter));
        let nc = hex8(state.uses);
        self.name.clear();
        accounts.write_auth_user(user, &mut self.name);
        let ha1 = match accounts.ha1(user) {
            Some(ha1) => Hex::of_text(ha1),
            None => {
                self.secret.clear();
                accounts.write_password(user, &mut self.secret);
                hash(shape.algorithm, &[&self.name, b":", &shape.realm, b":", &self.secret])
            }
        };
        let ha1 = match shape.algorithm {
            Algorithm::Md5Sess | Algorithm::Sha256Sess => {
                hash(shape.algorithm, &[ha1.text(), b":", &state.nonce, b":", &cnonce])
            }
            _ => ha1,
        };
        let ha2 = hash(shape.algorithm, &[method, b":", uri]);
        let response = if shape.qop_auth {
            hash(
                shape.algorithm,
                &[ha1.text(), b":", &state.nonce, b":", &nc, b":", &cnonce, b":auth:", ha2.text()],
            )
        } else {
            hash(shape.algorithm, &[ha1.text(), b":", &state.nonce, b":", ha2.text()])
        };
        out.extend_from_slice(if shape.proxy {
            b"Proxy-Authorization: Digest username=\"" as &[u8]
        } else {
            b"Authorization: Digest username=\""
        });
        quoted(&self.name, out);
        out.extend_from_slice(b"\", realm=\"");
        out.extend_from_slice(&shape.realm);
        out.extend_from_slice(b"\", nonce=\"");
        out.extend_from_slice(&state.nonce);
        out.extend_from_slice(b"\", uri=\"");
        out.extend_from_slice(uri);
        out.extend_from_slice(b"\", response=\"");
        out.extend_from_slice(response.text());
        out.push(b'"');
        if let Some(spelt) = &shape.spelt {
            out.extend_from_slice(b", algorithm=");
            out.extend_from_slice(spelt);
        }
        if shape.qop_auth {
            out.extend_from_slice(b", qop=auth, nc=");
            out.extend_from_slice(&nc);
        }
        if shape.qop_auth || matches!(shape.algorithm, Algorithm::Md5Sess | Algorithm::Sha256Sess) {
            out.extend_from_slice(b", cnonce=\"");
            out.extend_from_slice(&cnonce);
            out.push(b'"');
        }
        if let Some(opaque) = &shape.opaque {
            out.extend_from_slice(b", opaque=\"");
            out.extend_from_slice(opaque);
            out.push(b'"');
        }
        out.extend_from_slice(b"\r\n");
    }

    fn shape_of(&mut self, challenge: &Challenge<'_>, proxy: bool) -> Option<u16> {
        let algorithm = challenge.algorithm?;
        let qop_auth = challenge.qop.is_some();
        let known = self.shapes.iter().position(|shape| {
            shape.realm == challenge.realm
                && shape.opaque.as_deref() == challenge.opaque
                && shape.algorithm == algorithm
                && shape.spelt.as_deref() == challenge.spelt
                && shape.qop_auth == qop_auth
                && shape.proxy == proxy
        });
        if let Some(known) = known {
            return u16::try_from(known).ok();
        }
        let shape = Shape {
            realm: challenge.realm.to_vec(),
            opaque: challenge.opaque.map(<[u8]>::to_vec),
            algorithm,
            spelt: challenge.spelt.map(<[u8]>::to_vec),
            qop_auth,
            proxy,
        };
        if self.shapes.len() < MAX_SHAPES {
            self.shapes.push(shape);
            return u16::try_from(self.shapes.len() - 1).ok();
        }
        // A server with an opaque of its own for every challenge: the oldest one makes room.
        // A user that still holds it answers with another opaque and is challenged anew.
        let at = (self.counter as usize) % MAX_SHAPES;
        self.shapes[at] = shape;
        u16::try_from(at).ok()
    }
}

impl Challenge<'_> {
    fn is_ours(&self) -> bool {
        self.algorithm.is_some()
            && self.qop.is_none_or(|qop| {
                qop.split(|b| *b == b',').any(|q| q.trim_ascii().eq_ignore_ascii_case(b"auth"))
            })
    }
}

/// Reads one `Digest …` value; `None` for other schemes or without realm and nonce.
fn challenge(value: &[u8]) -> Option<Challenge<'_>> {
    let (scheme, rest) = value.split_at(value.iter().position(u8::is_ascii_whitespace)?);
    if !scheme.eq_ignore_ascii_case(b"Digest") {
        return None;
    }
    let mut read = Challenge {
        realm: b"",
        nonce: b"",
        opaque: None,
        algorithm: Some(Algorithm::Md5),
        spelt: None,
        qop: None,
        stale: false,
    };
    for (name, value) in params(rest) {
        match name.to_ascii_lowercase().as_slice() {
            b"realm" => read.realm = value,
            b"nonce" => read.nonce = value,
            b"opaque" => read.opaque = Some(value),
            b"qop" => read.qop = Some(value),
            b"stale" => read.stale = value.eq_ignore_ascii_case(b"true"),
            b"algorithm" => {
                read.spelt = Some(value);
                read.algorithm = match value.to_ascii_uppercase().as_slice() {
                    b"MD5" => Some(Algorithm::Md5),
                    b"MD5-SESS" => Some(Algorithm::Md5Sess),
                    b"SHA-256" => Some(Algorithm::Sha256),
                    b"SHA-256-SESS" => Some(Algorithm::Sha256Sess),
                    _ => None,
                };
            }
            _ => {}
        }
    }
    (!read.nonce.is_empty()).then_some(read)
}

/// `name=value` pairs between commas; quotes are taken off, what is escaped
/// inside them stays as it is: it goes back to the server in quotes.
fn params(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_ascii_start();
        while let Some(after) = rest.strip_prefix(b",") {
            rest = after.trim_ascii_start();
        }
        let equals = memchr::memchr(b'=', rest)?;
        let name = rest[..equals].trim_ascii();
        let value = rest[equals + 1..].trim_ascii_start();
        if let Some(quoted) = value.strip_prefix(b"\"") {
            let mut end = 0;
            while end < quoted.len() && quoted[end] != b'"' {
                end += if quoted[end] == b'\\' { 2 } else { 1 };
            }
            let end = end.min(quoted.len());
            rest = quoted.get(end + 1..).unwrap_or(b"");
            return Some((name, &quoted[..end]));
        }
        let end = value.iter().position(|b| *b == b',').unwrap_or(value.len());
        rest = &value[end..];
        Some((name, value[..end].trim_ascii()))
    })
}

fn quoted(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
}

/// A hash in lower-case hex, on the stack.
struct Hex {
    digits: [u8; 64],
    len: usize,
}

impl Hex {
    fn of_bytes(bytes: &[u8]) -> Hex {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 64];
        for (at, byte) in bytes.iter().enumerate() {
            digits[2 * at] = DIGITS[usize::from(byte >> 4)];
            digits[2 * at + 1] = DIGITS[usize::from(byte & 15)];
        }
        Hex { digits, len: bytes.len() * 2 }
    }

    fn of_text(text: &[u8]) -> Hex {
        let mut digits = [0; 64];
        let len = text.len().min(64);
        digits[..len].copy_from_slice(&text[..len]);
        digits[..len].make_ascii_lowercase();
        Hex { digits, len }
    }

    fn text(&self) -> &[u8] {
        &self.digits[..self.len]
    }
}

fn hash(algorithm: Algorithm, parts: &[&[u8]]) -> Hex {
    match algorithm {
        Algorithm::Md5 | Algorithm::Md5Sess => {
            let mut hasher = Md5::new();
            parts.iter().for_each(|part| hasher.update(part));
            Hex::of_bytes(&hasher.finalize())
        }
        Algorithm::Sha256 | Algorithm::Sha256Sess => {
            let mut hasher = Sha256::new();
            parts.iter().for_each(|part| hasher.update(part));
            Hex::of_bytes(&hasher.finalize())
        }
    }
}

fn hex8(value: u32) -> [u8; 8] {
    let hex = Hex::of_bytes(&value.to_be_bytes());
    let mut out = [0; 8];
    out.copy_from_slice(&hex.digits[..8]);
    out
}

fn hex16(value: u64) -> [u8; 16] {
    let hex = Hex::of_bytes(&value.to_be_bytes());
    let mut out = [0; 16];
    out.copy_from_slice(&hex.digits[..16]);
    out
}
