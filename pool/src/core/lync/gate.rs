//! Who may speak ([MS-SIPAE]): challenges, security associations, and the
//! signatures on what comes in and goes out.
//!
//! An association belongs to the connection over which it was made, and to one
//! account; its `opaque` holds its slot, so that no map is needed to find it.

use adsum_presence::slab::Slab;
use adsum_sip::ids::mix;
use adsum_sip::protection::Outgoing;
use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::{Chance, LyncScheme, PoolConfig};

use super::super::account_number;
use super::super::counts::Stats;
use super::super::ids::{write_number, write_user};
use super::clock::write_http_date;
use super::ntlm::{self, Authenticate, Keys};
use super::sipae::{self, Credentials};
use super::{Lync, Peer, Reply};

/// The realm of every server that was ever seen.
pub(super) const REALM: &str = "SIP Communications Service";
/// Associations and unfinished handshakes at a time: 200 bytes each.
const MAX_ASSOCIATIONS: usize = 500_000;
/// For a client to answer a challenge.
const HANDSHAKE: u64 = 60 * SECOND;
/// After which everybody has to prove who he is anew, as servers want it.
const LIFETIME: u64 = 8 * 3_600 * SECOND;

/// A security association, by slot and generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Association {
    slot: u32,
    generation: u32,
}

#[derive(Debug)]
struct Entry {
    connection: u64,
    user: u32,
    since: Time,
    state: State,
}

#[derive(Debug)]
enum State {
    /// A challenge was sent.
    Challenged([u8; 8]),
    Established(Box<Established>),
}

#[derive(Debug)]
struct Established {
    keys: Keys,
    version: u8,
    snum: u32,
    seen: Window,
}

/// Numbers that came already: out of order within 256, and each once. How far
/// a real server goes is not documented.
#[derive(Debug, Default)]
struct Window {
    highest: u32,
    bits: [u64; 4],
}

impl Window {
    /// True for a number that is new; it is not any more.
    fn takes(&mut self, number: u32) -> bool {
        if number > self.highest {
            let mut steps = number - self.highest;
            if steps >= 256 {
                self.bits = [0; 4];
                steps = 0;
            }
            for _ in 0..steps {
                for at in (0..4).rev() {
                    let carry = if at > 0 { self.bits[at - 1] >> 63 } else { 0 };
                    self.bits[at] = self.bits[at] << 1 | carry;
                }
            }
            self.highest = number;
        }
        let back = self.highest - number;
        let Some(word) = self.bits.get_mut(back as usize / 64) else { return false };
        let bit = 1 << (back % 64);
        let is_new = *word & bit == 0 && number > 0;
        *word |= bit;
        is_new
    }
}

/// What became of credentials.
enum Finding {
    /// Proven.
    Proven(Association),
    /// None, or of an association that is not (any more): from the beginning.
    Begin,
    /// A wrong password, account or token.
    Wrong,
    /// A signature that is wrong, or was there already.
    Forged,
    /// Proven, and not who the From says.
    Another(Association),
    /// The second step: these lines.
    Challenge,
    /// There are too many.
    Full,
}

#[derive(Debug)]
pub(super) struct Gate {
    /// The lines of a first challenge, which are the same for everybody.
    offer: Vec<u8>,
    takes_ntlm: bool,
    version: u8,
    target: String,
    nt_domain: String,
    users: u32,
    wrong_share: f64,
    chance: Chance,
    secret: u64,
    entries: Slab<Entry>,
    /// By connection.
    connections: std::collections::HashMap<u64, Vec<u32>>,
    /// Scratch: what is signed.
    text: Vec<u8>,
}

impl Gate {
    pub(super) fn new(config: &PoolConfig) -> Self {
        let (target, version) = (&config.domain, config.lync.sipae_version);
        let label = config.domain.split('.').next().unwrap_or_default();
        let mut offer = Vec::new();
        for scheme in &config.lync.schemes {
            // The target of Kerberos is the name of a service; TLS-DSK says where certificates are had.
            let (prefix, more) = match scheme {
                LyncScheme::Ntlm => ("", String::new()),
                LyncScheme::Kerberos => ("sip/", String::new()),
                LyncScheme::TlsDsk => {
                    ("", format!(", sts-uri=\"https://{target}/CertProv/CertProvisioningService.svc\""))
                }
            };
            // Version 2 is said by saying nothing.
            let version = if version > 2 { format!(", version={version}") } else { String::new() };
            let name = scheme.name();
            let line = format!(
                "WWW-Authenticate: {name} realm=\"{REALM}\", targetname=\"{prefix}{target}\"{version}{more}\r\n"
            );
            offer.extend_from_slice(line.as_bytes());
        }
        Gate {
            offer,
            takes_ntlm: config.lync.schemes.contains(&LyncScheme::Ntlm),
            version,
            target: target.clone(),
            nt_domain: config.lync.nt_domain.clone().unwrap_or_else(|| label.to_ascii_uppercase()),
            users: config.users,
            wrong_share: config.lync.wrong_rspauth,
            chance: Chance::new(config.seed ^ 0x6a7e),
            secret: mix(config.seed ^ 0x0bac),
            entries: Slab::default(),
            connections: std::collections::HashMap::new(),
            text: Vec::with_capacity(512),
        }
    }

    /// `opaque` in hex: the slot, and a hash of slot and generation that cannot be guessed.
    fn opaque(&self, slot: u32, generation: u32) -> [u8; 16] {
        let hash = mix(self.secret ^ mix(u64::from(slot) | u64::from(generation) << 32)) as u32;
        let mut out = [0; 16];
        for (at, digit) in out.iter_mut().enumerate() {
            let word = if at < 8 { slot } else { hash };
            *digit = b"0123456789ABCDEF"[(word >> (28 - 4 * (at % 8)) & 15) as usize];
        }
        out
    }

    /// The association that an `opaque` names, if this connection made it.
    fn find(&self, now: Time, connection: u64, opaque: &[u8]) -> Option<Association> {
        let slot = u32::from_str_radix(std::str::from_utf8(opaque.get(..8)?).ok()?, 16).ok()?;
        let entry = self.entries.get(slot).filter(|e| e.connection == connection)?;
        let generation = self.entries.generation(slot);
        let life = if matches!(entry.state, State::Challenged(_)) { HANDSHAKE } else { LIFETIME };
        let valid = now.since(entry.since) <= life && self.opaque(slot, generation) == opaque;
        valid.then_some(Association { slot, generation })
    }

    fn established(&mut self, association: Association) -> Option<&mut Established> {
        if self.entries.generation(association.slot) != association.generation {
            return None;
        }
        match &mut self.entries.get_mut(association.slot)?.state {
            State::Established(established) => Some(established),
            State::Challenged(_) => None,
        }
    }

    fn forget(&mut self, slot: u32) {
        let Some(connection) = self.entries.get(slot).map(|e| e.connection) else { return };
        self.entries.release(slot);
        if let Some(all) = self.connections.get_mut(&connection) {
            all.retain(|other| *other != slot);
        }
    }

    /// A connection is gone, and all that was made over it.
    pub(super) fn disconnected(&mut self, connection: u64) {
        for slot in self.connections.remove(&connection).unwrap_or_default() {
            self.entries.release(slot);
        }
    }

    /// The second step of the handshake: a nonce, in a challenge of its own.
    fn challenge(&mut self, now: Time, connection: u64, user: u32, lines: &mut Vec<u8>) -> Finding {
        // A client that begins anew has no use for what it left unfinished.
        let unfinished = |slot: &u32| {
            let entry = self.entries.get(*slot);
            entry.is_some_and(|e| e.user == user && matches!(e.state, State::Challenged(_)))
        };
        let mine = self.connections.get(&connection).map(Vec::as_slice).unwrap_or_default();
        if let Some(slot) = mine.iter().copied().find(unfinished) {
            self.forget(slot);
        }
        if self.entries.len() >= MAX_ASSOCIATIONS {
            return Finding::Full;
        }
        let nonce = self.chance.bits().to_be_bytes();
        let state = State::Challenged(nonce);
        let (slot, generation) = self.entries.insert(Entry { connection, user, since: now, state });
        self.connections.entry(connection).or_default().push(slot);
        let token = ntlm::challenge(nonce, &self.nt_domain, &self.target, &self.target);
        let opaque = self.opaque(slot, generation);
        let opaque = String::from_utf8_lossy(&opaque);
        let version = if self.version > 2 { format!(", version={}", self.version) } else { String::new() };
        let line = format!(
            "WWW-Authenticate: NTLM opaque=\"{opaque}\", gssapi-data=\"{}\", targetname=\"{}\", realm=\"{REALM}\"{version}\r\n",
            STANDARD.encode(token),
            self.target
        );
        lines.extend_from_slice(line.as_bytes());
        Finding::Challenge
    }

    /// The account that an AUTHENTICATE speaks for: `DOMAIN\user`, a user
    /// without a domain, or a UPN, whole in the user's field.
    fn account(&self, token: &Authenticate) -> Option<u32> {
        let (user, domain) = match token.user.split_once('@') {
            Some((user, domain)) if token.domain.is_empty() => (user, domain),
            _ => (token.user.as_str(), token.domain.as_str()),
        };
        let known = ["", &self.nt_domain, &self.target];
        let ours = known.iter().any(|known| known.eq_ignore_ascii_case(domain));
        ours.then(|| account_number(user.to_ascii_lowercase().as_bytes(), self.users)).flatten()
    }

    /// The third step: the keys that follow from the right password.
    fn authenticate(
        &mut self,
        now: Time,
        connection: u64,
        given: &Credentials<'_>,
        message: &Message<'_>,
    ) -> Finding {
        let Some(association) = self.find(now, connection, given.opaque) else { return Finding::Begin };
        let State::Challenged(nonce) = self.entries[association.slot].state else { return Finding::Begin };
        let read = STANDARD.decode(given.gssapi_data).ok().and_then(|token| Authenticate::read(&token));
        let keys = read.as_ref().and_then(|token| {
            let user = self.account(token)?;
            let mut password = b"pw-".to_vec();
            write_user(user, &mut password);
            Some((user, token.verify(nonce, std::str::from_utf8(&password).ok()?)?))
        });
        let Some((user, keys)) = keys else {
            // A nonce is good for one attempt.
            self.forget(association.slot);
            return Finding::Wrong;
        };
        let version = given.version.unwrap_or(2).min(self.version);
        // From version 4 on this message is signed already.
        let mut seen = Window::default();
        if version >= 4 || !given.response.is_empty() {
            sipae::text(version, given, message, &self.target, &mut self.text);
            let right = keys.client.signature(&self.text).eq_ignore_ascii_case(given.response);
            if !right || !given.cnum.is_some_and(|n| seen.takes(n)) {
                self.forget(association.slot);
                return Finding::Forged;
            }
        }
        let entry = &mut self.entries[association.slot];
        (entry.user, entry.since) = (user, now);
        entry.state = State::Established(Box::new(Established { keys, version, snum: 0, seen }));
        Finding::Proven(association)
    }

    /// Any later message: its signature.
    fn signed(
        &mut self,
        now: Time,
        connection: u64,
        given: &Credentials<'_>,
        message: &Message<'_>,
    ) -> Finding {
        let Some(association) = self.find(now, connection, given.opaque) else { return Finding::Begin };
        let mut text = std::mem::take(&mut self.text);
        let target = std::mem::take(&mut self.target);
        let finding = match self.established(association) {
            None => Finding::Begin,
            Some(held) => {
                sipae::text(held.version, given, message, &target, &mut text);
                let right = held.keys.client.signature(&text).eq_ignore_ascii_case(given.response);
                if right && given.cnum.is_some_and(|n| held.seen.takes(n)) {
                    Finding::Proven(association)
                } else {
                    Finding::Forged
                }
            }
        };
        (self.text, self.target) = (text, target);
        finding
    }

    fn look(
        &mut self,
        now: Time,
        connection: u64,
        sender: u32,
        message: &Message<'_>,
        lines: &mut Vec<u8>,
    ) -> Finding {
        let given = [HeaderId::Authorization, HeaderId::ProxyAuthorization]
            .into_iter()
            .flat_map(|header| message.headers(header))
            .find_map(Credentials::read)
            .filter(|given| given.targetname == self.target.as_bytes() && given.realm == REALM.as_bytes());
        let Some(given) = given.filter(|_| self.takes_ntlm) else { return Finding::Begin };
        let finding = match given.gssapi_data {
            b"" if given.has_gssapi_data => return self.challenge(now, connection, sender, lines),
            b"" => self.signed(now, connection, &given, message),
            _ => self.authenticate(now, connection, &given, message),
        };
        match finding {
            Finding::Proven(association) if self.entries[association.slot].user != sender => {
                Finding::Another(association)
            }
            other => other,
        }
    }

    /// True if this answer to a request of ours is signed under the association.
    pub(super) fn is_proven(
        &mut self,
        now: Time,
        association: Association,
        peer: Peer,
        message: &Message<'_>,
    ) -> bool {
        let Peer::Stream(connection, ..) = peer else { return false };
        let given = [HeaderId::Authorization, HeaderId::ProxyAuthorization]
            .into_iter()
            .flat_map(|header| message.headers(header))
            .find_map(Credentials::read);
        given.is_some_and(|given| {
            matches!(self.signed(now, connection, &given, message), Finding::Proven(found) if found == association)
        })
    }

    /// The number under which an answer will be signed: it leaves before the
    /// notifications that it causes, and is ready after them.
    fn reserve(&mut self, association: Association) -> u32 {
        let Some(held) = self.established(association) else { return 0 };
        held.snum = held.snum.wrapping_add(1);
        held.snum
    }

    /// Appends the line that proves who sent this, under a number that was
    /// reserved or the next. Nothing if the association is over: then nobody
    /// could check it.
    pub(super) fn sign(
        &mut self,
        association: Association,
        reserved: Option<u32>,
        outgoing: &Outgoing<'_>,
        out: &mut Vec<u8>,
        stats: &mut Stats,
    ) {
        let srand = self.chance.bits() as u32;
        let is_wrong = self.chance.hit(self.wrong_share);
        let opaque = self.opaque(association.slot, association.generation);
        let snum = reserved.unwrap_or_else(|| self.reserve(association));
        let mut text = std::mem::take(&mut self.text);
        let target = std::mem::take(&mut self.target);
        if let Some(held) = self.established(association) {
            let mut rand = [0; 8];
            for (at, digit) in rand.iter_mut().enumerate() {
                *digit = b"0123456789ABCDEF"[(srand >> (28 - 4 * at) & 15) as usize];
            }
            sipae::text_of(held.version, &rand, snum, outgoing, &target, &mut text);
            let mut signature = held.keys.server.signature(&text);
            if is_wrong {
                signature[8] ^= 1; // of a hex digit another hex digit
                stats.wrong_signatures += 1;
            }
            for part in [
                &b"Authentication-Info: NTLM rspauth=\""[..],
                &signature,
                b"\", srand=\"",
                &rand,
                b"\", snum=\"",
            ] {
                out.extend_from_slice(part);
            }
            write_number(u64::from(snum), out);
            for part in [
                &b"\", opaque=\""[..],
                &opaque,
                b"\", qop=\"auth\", targetname=\"",
                target.as_bytes(),
                b"\", realm=\"",
                REALM.as_bytes(),
                b"\"",
            ] {
                out.extend_from_slice(part);
            }
            if held.version > 2 {
                out.extend_from_slice(b", version=");
                write_number(u64::from(held.version), out);
            }
            out.extend_from_slice(b"\r\n");
        }
        (self.text, self.target) = (text, target);
    }
}

impl Lync {
    /// Who may go on, and with which association; or the answer to who may not,
    /// signed only if it is proven whom it is for.
    pub(super) fn admit(
        &mut self,
        now: Time,
        peer: Peer,
        sender: u32,
        message: &Message<'_>,
    ) -> Result<Option<Association>, (Reply, Option<Association>)> {
        let Peer::Stream(number, ..) = peer else { return Err((Reply::new(403), None)) };
        if !self.config.auth || self.streams.get(&number).is_some_and(|s| s.is_trusted) {
            return Ok(None);
        }
        self.lines.extend_from_slice(b"Date: ");
        write_http_date(self.clock.unix_ms(now), &mut self.lines);
        self.lines.extend_from_slice(b"\r\n");
        match self.gate.look(now, number, sender, message, &mut self.lines) {
            Finding::Proven(association) => {
                self.reserved = self.gate.reserve(association);
                self.lines.clear();
                let is_first = message.headers(HeaderId::Authorization).any(has_token);
                self.stats.associations += u64::from(is_first);
                return Ok(Some(association));
            }
            Finding::Another(association) => {
                self.reserved = self.gate.reserve(association);
                self.lines.clear();
                self.stats.wrong_credentials += 1;
                // To whom it concerns only, and without our name.
                self.line(
                    b"ms-diagnostics-public",
                    b"4004;reason=\"Credentials may not act as this From URI\"",
                );
                return Err((Reply::new(403), Some(association)));
            }
            Finding::Full => {
                return Err((self.refuse(503, 4000, "too many security associations"), None));
            }
            Finding::Challenge => return Err((Reply::new(401), None)),
            Finding::Begin => self.stats.challenged += 1,
            Finding::Wrong => self.stats.wrong_credentials += 1,
            // The association stays: one forged message must not end it for its owner.
            Finding::Forged => self.stats.bad_signatures += 1,
        }
        self.lines.extend_from_slice(&self.gate.offer);
        Err((Reply::new(401), None))
    }
}

fn has_token(value: &[u8]) -> bool {
    Credentials::read(value).is_some_and(|given| !given.gssapi_data.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// Against a set: each number once, and none that is 256 or more behind.
        #[test]
        fn numbers_are_taken_once_and_in_whatever_order(numbers in prop::collection::vec(1u32..1_000, 1..400)) {
            let (mut window, mut seen, mut highest) = (Window::default(), HashSet::new(), 0);
            for number in numbers {
                let expected = number + 256 > highest.max(number) && !seen.contains(&number);
                prop_assert_eq!(window.takes(number), expected, "{} of {}", number, highest);
                seen.insert(number);
                highest = highest.max(number);
            }
        }
    }
}
