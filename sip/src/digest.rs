//! Digest (RFC 7616, 8760; RFC 3261 §22): one nonce for each user, used again
//! until the server wants another.
//!
//! [`Digest`] answers challenges for all users of a shard, [`State`] is what a
//! user holds. What challenges have in common (realm, opaque, algorithm) is
//! kept once for all users. A proxy and the registrar behind it may both want
//! credentials: the second one has a place of its own, for which only such users pay.
//! Nothing is allocated on the steady path: names, passwords and hashes pass
//! through the stack and through buffers that belong to the shard.
//!
//! [`Authorization`] and [`Secret`] are the server's side.

mod hash;
mod read;
mod server;

use memchr::memmem;
use smallvec::SmallVec;

use crate::header::HeaderId;
use crate::ids::mix;
use crate::protection::{Attempts, Credentials, Incoming, Outgoing, Protection, Reading, Verdict};
use crate::scan::unfold;
use crate::texts::{Text as Kept, Texts};

pub use hash::{Algorithm, Hash, Hex, Text, Use, ha1, hash, response};
pub use read::{Authorization, MAX_VALUE};
use read::{Challenge, Qop};
pub(crate) use read::{Item, Items};
pub use server::Secret;

/// Distinct realms, opaques and algorithms that one shard remembers: a handle
/// is eight bits of place and eight of generation.
pub const MAX_SHAPES: usize = 256;

/// What a user holds of its servers' last challenges.
#[derive(Debug, Default)]
pub struct State {
    first: Held,
    /// Where both a proxy and the server behind it want credentials: its place, and one, among those
    /// of the shard.
    second: u32,
}

/// What is held for one of 401 and 407.
#[derive(Debug, Default)]
struct Held {
    nonce: Kept,
    /// Uses of this nonce so far (RFC 7616 §3.4: `nc`).
    uses: u32,
    /// What the challenge was like: a handle of [`Shapes`].
    shape: u16,
    flags: u8,
}

/// Bits of [`Held::flags`].
mod is {
    /// It belongs to a kind of challenge, and stays with it.
    pub const TAKEN: u8 = 1;
    /// That kind is 407.
    pub const PROXY: u8 = 2;
    /// There is a nonce to answer with.
    pub const KNOWN: u8 = 4;
    /// Credentials go along until a 2xx says that they are right.
    pub const ARMED: u8 = 8;
    /// They were refused, for good.
    pub const REJECTED: u8 = 16;
}

impl Held {
    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn set_nonce(&mut self, nonce: &[u8], nonces: &mut Texts) {
        nonces.set(&mut self.nonce, nonce);
        self.uses = 0;
    }

    /// Nothing to answer with any more.
    fn forget(&mut self, nonces: &mut Texts) {
        nonces.clear(&mut self.nonce);
        self.flags &= !(is::KNOWN | is::ARMED);
    }
}

impl State {
    /// All that is held, of both kinds.
    fn all<'s>(&'s mut self, seconds: &'s mut [Held]) -> impl Iterator<Item = &'s mut Held> {
        let second = seconds.get_mut((self.second as usize).wrapping_sub(1));
        std::iter::once(&mut self.first).chain(second)
    }

    fn get<'s>(&'s mut self, proxy: bool, seconds: &'s mut [Held]) -> Option<&'s mut Held> {
        self.all(seconds).find(|held| held.is(is::TAKEN) && held.is(is::PROXY) == proxy)
    }

    /// The place for a kind of challenge; the second kind gets one that most users do without.
    fn place<'s>(&'s mut self, proxy: bool, seconds: &'s mut Vec<Held>) -> &'s mut Held {
        let flags = is::TAKEN | if proxy { is::PROXY } else { 0 };
        if !self.first.is(is::TAKEN) {
            self.first.flags = flags;
        }
        if self.first.is(is::PROXY) == proxy {
            return &mut self.first;
        }
        if self.second == 0 {
            seconds.push(Held { flags, ..Held::default() });
            self.second = seconds.len() as u32;
        }
        &mut seconds[self.second as usize - 1]
    }
}

/// What challenges have in common, kept once for all users.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    realm: Box<[u8]>,
    opaque: Option<Box<[u8]>>,
    algorithm: Algorithm,
    /// The algorithm as the server spelt it, if it did.
    spelt: Option<Box<[u8]>>,
    qop: Qop,
    userhash: bool,
}

impl Shape {
    fn is_of(&self, challenge: &Challenge<'_>) -> bool {
        *self.realm == *challenge.realm
            && self.opaque.as_deref() == challenge.opaque
            && Some(self.algorithm) == challenge.algorithm
            && self.spelt.as_deref() == challenge.spelt
            && Some(self.qop) == challenge.qop
            && self.userhash == challenge.userhash
    }
}

/// The shapes of a shard. Where all places are taken the oldest makes room: a
/// server with an opaque of its own for every challenge ends there. A user that
/// still holds the old handle has forgotten its nonce and is challenged anew.
#[derive(Debug, Default)]
struct Shapes {
    places: Vec<(u8, Shape)>,
    oldest: usize,
}

impl Shapes {
    fn get(&self, handle: u16) -> Option<&Shape> {
        let [generation, at] = handle.to_be_bytes();
        self.places.get(usize::from(at)).filter(|(held, _)| *held == generation).map(|(_, shape)| shape)
    }

    /// The handle of a challenge's shape, `None` if it is not one of ours; and whether another one had
    /// to go for it.
    fn of(&mut self, challenge: &Challenge<'_>) -> (Option<u16>, bool) {
        let handle = |places: &[(u8, Shape)], at: usize| {
            Some(u16::from_be_bytes([places.get(at)?.0, u8::try_from(at).ok()?]))
        };
        if let Some(at) = self.places.iter().position(|(_, shape)| shape.is_of(challenge)) {
            return (handle(&self.places, at), false);
        }
        let (Some(algorithm), Some(qop)) = (challenge.algorithm, challenge.qop) else { return (None, false) };
        let shape = Shape {
            realm: challenge.realm.into(),
            opaque: challenge.opaque.map(Into::into),
            algorithm,
            spelt: challenge.spelt.map(Into::into),
            qop,
            userhash: challenge.userhash,
        };
        if self.places.len() < MAX_SHAPES {
            self.places.push((0, shape));
            return (handle(&self.places, self.places.len() - 1), false);
        }
        let at = self.oldest;
        self.oldest = (at + 1) % MAX_SHAPES;
        let generation = self.places[at].0.wrapping_add(1);
        self.places[at] = (generation, shape);
        (handle(&self.places, at), true)
    }
}

/// Answers challenges for all users of a shard.
#[derive(Debug)]
pub struct Digest {
    reuse: bool,
    key: u64,
    shapes: Shapes,
    /// Of all users.
    nonces: Texts,
    /// What is held of the second kind of challenge, for those users that meet both.
    seconds: Vec<Held>,
    /// Uses of any nonce: what makes a cnonce fresh.
    counter: u64,
    /// The challenge that was read last.
    pattern: Option<Pattern>,
    recent: Recent,
    secret: Vec<u8>,
}

/// Name and H(user:realm:password) of a user.
#[derive(Debug)]
struct Identity {
    name: SmallVec<[u8; 40]>,
    ha1: Hex,
}

/// The user's identity in a realm.
fn identity(
    accounts: &impl Credentials,
    user: u32,
    function: Hash,
    realm: &[u8],
    secret: &mut Vec<u8>,
    name: &mut Vec<u8>,
) -> Identity {
    name.clear();
    accounts.write_user_name(user, name);
    let ha1 = match accounts.ha1(user) {
        Some(ha1) => Hex::of_text(ha1),
        None => {
            secret.clear();
            accounts.write_password(user, secret);
            ha1(function, Text::Plain(name), realm, secret)
        }
    };
    Identity { name: SmallVec::from_slice(name), ha1 }
}

/// Identities that were needed lately: who signs on, subscribes and publishes needs the same one each
/// time. One place for all users whose numbers end alike; who comes later takes it.
#[derive(Debug, Default)]
struct Recent {
    places: Vec<Option<(u32, u16, Identity)>>,
    name: Vec<u8>,
}

impl Recent {
    /// Some 40 KiB: they shall not push out of the cache what the loop needs.
    const PLACES: usize = 256;

    /// The identity of a user for a shape.
    fn get(
        &mut self,
        accounts: &impl Credentials,
        user: u32,
        (handle, shape): (u16, &Shape),
        secret: &mut Vec<u8>,
    ) -> &Identity {
        self.places.resize_with(Self::PLACES, || None);
        let place = &mut self.places[user as usize % Self::PLACES];
        if place.as_ref().is_none_or(|(owner, of, _)| (*owner, *of) != (user, handle)) {
            *place = None;
        }
        let function = shape.algorithm.hash;
        let make =
            || (user, handle, identity(accounts, user, function, &shape.realm, secret, &mut self.name));
        &place.get_or_insert_with(make).2
    }

    /// Handles mean something else from now on.
    fn forget(&mut self) {
        self.places.clear();
    }
}

/// A challenge, cut around its nonce. Those of one server differ in nothing else, and are recognised
/// without being read.
#[derive(Debug)]
struct Pattern {
    before: Box<[u8]>,
    after: Box<[u8]>,
    realm: Box<[u8]>,
    stale: bool,
    digits: Option<usize>,
    handle: u16,
}

impl Pattern {
    /// The nonce of a challenge that is otherwise the same.
    fn nonce<'a>(&self, value: &'a [u8], digits: Option<usize>) -> Option<&'a [u8]> {
        let nonce = value.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        (self.digits == digits && !nonce.is_empty() && read::goes_back(nonce)).then_some(nonce)
    }
}

impl Digest {
    /// With `reuse`, credentials go along unasked once a nonce is known.
    /// `key` is what the client's nonces are made from; one for each shard.
    #[must_use]
    pub fn new(reuse: bool, key: u64) -> Self {
        Digest {
            reuse,
            key,
            shapes: Shapes::default(),
            nonces: Texts::default(),
            seconds: Vec::new(),
            counter: 0,
            pattern: None,
            recent: Recent::default(),
            secret: Vec::new(),
        }
    }

    /// How many shapes are remembered, at most [`MAX_SHAPES`].
    #[must_use]
    pub fn shapes(&self) -> usize {
        self.shapes.places.len()
    }

    /// Answers the challenges of one kind. `digits`: the length of the H(A1)
    /// that the user came with, which fits some algorithms only.
    fn answer(
        &mut self,
        state: &mut State,
        incoming: &Incoming<'_>,
        proxy: bool,
        digits: Option<usize>,
        attempts: &mut Attempts,
    ) -> Verdict {
        let id = if proxy { HeaderId::ProxyAuthenticate } else { HeaderId::WwwAuthenticate };
        for value in incoming.message.headers(id) {
            let value = unfold(value);
            if let Some(offer) = self.offer(&value, incoming.request, proxy, digits) {
                let held = state.place(proxy, &mut self.seconds);
                return take(held, &offer, attempts, &mut self.nonces);
            }
        }
        Verdict::Unsupported
    }

    /// What a header's value offers, if we can answer it.
    fn offer<'v, 'r>(
        &mut self,
        value: &'v [u8],
        request: &'r [u8],
        proxy: bool,
        digits: Option<usize>,
    ) -> Option<Offer<'v, 'r>> {
        let used = |realm: &[u8]| {
            let sent = sent(request, proxy).filter(|sent| sent.realm == realm);
            sent.map(|sent| sent.nonce)
        };
        if let Some(pattern) = &self.pattern
            && let Some(nonce) = pattern.nonce(value, digits)
        {
            let (stale, used) = (pattern.stale, used(&pattern.realm));
            return Some(Offer { nonce, stale, used, shape: Some(pattern.handle) });
        }
        let challenge = Challenge::topmost(value, digits)?;
        let (nonce, stale) = (challenge.nonce, challenge.stale);
        let (shape, evicted) = self.shapes.of(&challenge);
        if evicted {
            self.recent.forget();
        }
        let begin = nonce.as_ptr().addr() - value.as_ptr().addr();
        let (before, after) = (&value[..begin], &value[begin + nonce.len()..]);
        let quoted = before.ends_with(b"\"") && after.starts_with(b"\"");
        self.pattern = shape.filter(|_| quoted).map(|handle| Pattern {
            before: before.into(),
            after: after.into(),
            realm: challenge.realm.into(),
            stale,
            digits,
            handle,
        });
        Some(Offer { nonce, stale, used: used(challenge.realm), shape })
    }

    /// Appends the header line of one kind, if there is one.
    fn line(
        &mut self,
        held: &mut Held,
        accounts: &impl Credentials,
        user: u32,
        outgoing: &Outgoing<'_>,
        out: &mut Vec<u8>,
    ) {
        if !held.is(is::KNOWN) || !(self.reuse || held.is(is::ARMED)) {
            return;
        }
        let Some(shape) = self.shapes.get(held.shape) else { return held.forget(&mut self.nonces) };
        let nonce = self.nonces.get(&held.nonce);
        held.uses = held.uses.saturating_add(1);
        self.counter = self.counter.wrapping_add(1);
        let session = shape.algorithm.session;
        // A session's A1 holds the cnonce of its first request (RFC 7616 §3.4.2), but many
        // servers take that of the request at hand: the same one all along suits both.
        let fresh = if session { mix(u64::from(user)) ^ fold(nonce) } else { self.counter };
        let cnonce = Hex::of_bytes(&mix(self.key ^ fresh).to_be_bytes());
        let nc = Hex::of_bytes(&held.uses.to_be_bytes());
        let using = Use { nonce, nc: nc.text(), cnonce: cnonce.text(), qop: shape.qop.text() };
        let Identity { name, ha1 } = self.recent.get(accounts, user, (held.shape, shape), &mut self.secret);
        let uri = Text::Plain(outgoing.uri);
        let response = response(shape.algorithm, ha1, &using, outgoing.method, uri, outgoing.body);

        out.extend_from_slice(field(held.is(is::PROXY)));
        out.extend_from_slice(b" username=\"");
        if shape.userhash {
            let name = [Text::Plain(name), Text::Plain(b":"), Text::Quoted(&shape.realm)];
            out.extend_from_slice(hash(shape.algorithm.hash, &name).text());
        } else {
            quoted(name, out);
        }
        out.extend_from_slice(b"\", realm=\"");
        out.extend_from_slice(&shape.realm);
        out.extend_from_slice(b"\", nonce=\"");
        out.extend_from_slice(nonce);
        out.extend_from_slice(b"\", uri=\"");
        quoted(outgoing.uri, out);
        out.extend_from_slice(b"\", response=\"");
        out.extend_from_slice(response.text());
        out.push(b'"');
        if let Some(spelt) = &shape.spelt {
            out.extend_from_slice(b", algorithm=");
            out.extend_from_slice(spelt);
        }
        if shape.qop != Qop::None {
            out.extend_from_slice(b", qop=");
            out.extend_from_slice(shape.qop.text());
            out.extend_from_slice(b", nc=");
            out.extend_from_slice(nc.text());
        }
        if shape.qop != Qop::None || session {
            out.extend_from_slice(b", cnonce=\"");
            out.extend_from_slice(cnonce.text());
            out.push(b'"');
        }
        if let Some(opaque) = &shape.opaque {
            out.extend_from_slice(b", opaque=\"");
            out.extend_from_slice(opaque);
            out.push(b'"');
        }
        if shape.userhash {
            out.extend_from_slice(b", userhash=true");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Looks at `rspauth` of one kind (RFC 7616 §3.5); `None` if there is none,
    /// or nothing of ours that it could be about.
    fn is_theirs(
        &mut self,
        accounts: &impl Credentials,
        user: u32,
        info: &[u8],
        incoming: &Incoming<'_>,
        proxy: bool,
    ) -> Option<bool> {
        let given = read::info(info, "rspauth")?;
        let sent = sent(incoming.request, proxy)?;
        let algorithm = sent.algorithm?;
        let (secret, name) = (&mut self.secret, &mut self.recent.name);
        let Identity { ha1, .. } = identity(accounts, user, algorithm.hash, sent.realm, secret, name);
        let qop = read::info(info, "qop").unwrap_or(sent.qop);
        let using = Use { qop, ..sent.using() };
        let body = incoming.message.body();
        let right = response(algorithm, &ha1, &using, b"", Text::Quoted(sent.uri), body);
        Some(given.eq_ignore_ascii_case(right.text()))
    }
}

impl Protection for Digest {
    type State = State;

    fn write(
        &mut self,
        state: &mut State,
        accounts: &impl Credentials,
        user: u32,
        outgoing: &Outgoing<'_>,
        out: &mut Vec<u8>,
    ) {
        if outgoing.code != 0 {
            return; // only requests carry credentials
        }
        self.line(&mut state.first, accounts, user, outgoing, out);
        if state.second != 0 {
            let mut seconds = std::mem::take(&mut self.seconds);
            if let Some(second) = seconds.get_mut(state.second as usize - 1) {
                self.line(second, accounts, user, outgoing, out);
            }
            self.seconds = seconds;
        }
    }

    fn read(
        &mut self,
        state: &mut State,
        accounts: &impl Credentials,
        user: u32,
        incoming: &Incoming<'_>,
    ) -> Reading {
        let succeeded = (200..300).contains(&incoming.message.code());
        let mut reading = Reading::Unprotected;
        let infos = [(HeaderId::AuthenticationInfo, false), (HeaderId::ProxyAuthenticationInfo, true)];
        for (id, proxy) in infos {
            let Some(info) = incoming.message.header(id) else { continue };
            let info = unfold(info);
            match self.is_theirs(accounts, user, &info, incoming, proxy) {
                Some(false) => reading = Reading::Refused,
                Some(true) if reading == Reading::Unprotected => reading = Reading::Accepted,
                _ => {}
            }
            let next =
                read::info(&info, "nextnonce").filter(|next| !next.is_empty() && read::goes_back(next));
            let held = state.get(proxy, &mut self.seconds).filter(|held| succeeded && held.is(is::KNOWN));
            if let (Some(next), Some(held)) = (next, held) {
                held.set_nonce(next, &mut self.nonces);
            }
        }
        if succeeded {
            state.all(&mut self.seconds).for_each(|held| held.flags &= !is::ARMED);
        }
        reading
    }

    /// Of several challenges the topmost that we speak is answered (RFC 8760
    /// §2.4). A proxy that forked may hand on those of the other kind, too
    /// (RFC 3261 §16.7): the next request answers both.
    fn challenged(
        &mut self,
        state: &mut State,
        accounts: &impl Credentials,
        user: u32,
        incoming: &Incoming<'_>,
        attempts: &mut Attempts,
    ) -> Verdict {
        let digits = accounts.ha1(user).map(<[u8]>::len);
        let proxy = incoming.message.code() == 407;
        let verdict = self.answer(state, incoming, proxy, digits, attempts);
        let other = if proxy { HeaderId::WwwAuthenticate } else { HeaderId::ProxyAuthenticate };
        if verdict != Verdict::Answer || incoming.message.header(other).is_none() {
            return verdict;
        }
        match self.answer(state, incoming, !proxy, digits, attempts) {
            Verdict::Rejected => Verdict::Rejected,
            _ => verdict,
        }
    }

    fn drops_refused(&self) -> bool {
        false
    }
}

/// What a challenge comes to.
#[derive(Debug, Clone, Copy)]
struct Offer<'v, 'r> {
    nonce: &'v [u8],
    stale: bool,
    /// The nonce with which this request asked for the same realm.
    used: Option<&'r [u8]>,
    /// `None` if it is not one of ours.
    shape: Option<u16>,
}

/// A challenge is taken up: the next request answers it.
fn take(held: &mut Held, offer: &Offer<'_, '_>, attempts: &mut Attempts, nonces: &mut Texts) -> Verdict {
    if held.is(is::REJECTED) {
        return Verdict::Rejected;
    }
    if let Some(used) = offer.used.filter(|_| !offer.stale) {
        // Credentials went along and were not taken. The same nonce, or a second
        // new one without `stale`, says that they are wrong.
        let tried = if held.is(is::PROXY) { 2 } else { 1 };
        if used == offer.nonce || attempts.0 & tried != 0 {
            held.forget(nonces);
            held.flags |= is::REJECTED;
            return Verdict::Rejected;
        }
        attempts.0 |= tried;
    }
    let Some(shape) = offer.shape else { return Verdict::Unsupported };
    if !held.is(is::KNOWN) || nonces.get(&held.nonce) != offer.nonce {
        held.set_nonce(offer.nonce, nonces);
    }
    held.shape = shape;
    held.flags |= is::KNOWN | is::ARMED;
    Verdict::Answer
}

/// The name of the header that answers, and the scheme.
fn field(proxy: bool) -> &'static [u8] {
    if proxy { b"Proxy-Authorization: Digest" } else { b"Authorization: Digest" }
}

/// The credentials of one kind that a request of ours carries.
fn sent(request: &[u8], proxy: bool) -> Option<Authorization<'_>> {
    let head = &request[..memmem::find(request, b"\r\n\r\n")?];
    let field = field(proxy);
    // As `line` writes it: at the beginning of a line, in one line.
    let mut from = 0;
    loop {
        let at = from + memmem::find(&head[from..], field)?;
        from = at + field.len();
        if head[..at].ends_with(b"\n") {
            let value = &head[from - b"Digest".len()..];
            let end = memchr::memchr(b'\r', value).unwrap_or(value.len());
            return Authorization::read(&value[..end]);
        }
    }
}

/// Appends a text that is to stand between quotes.
fn quoted(text: &[u8], out: &mut Vec<u8>) {
    if memchr::memchr2(b'"', b'\\', text).is_none() {
        return out.extend_from_slice(text);
    }
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
}

/// Sixty-four bits of a text (FNV-1a).
fn fold(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One million held users pay for every byte; see the presence crate's state.
    #[test]
    fn a_users_state_takes_sixteen_bytes() {
        assert_eq!(std::mem::size_of::<State>(), 16);
        let (mut state, mut seconds, mut nonces) = (State::default(), Vec::new(), Texts::default());
        state.place(false, &mut seconds).set_nonce(b"one", &mut nonces);
        assert!(seconds.is_empty());
        state.place(true, &mut seconds).set_nonce(b"two", &mut nonces);
        assert!(seconds[0].is(is::PROXY) && !state.first.is(is::PROXY));
        assert_eq!(
            (nonces.get(&state.first.nonce), nonces.get(&seconds[0].nonce)),
            (&b"one"[..], &b"two"[..])
        );
    }
}
