//! The server's side: challenges, associations, and a signature on all that it
//! says.

use std::collections::{HashMap, VecDeque};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{Decimal, Params, REALM, Signed, put, put_version};
use crate::digest::Hex;
use crate::header::HeaderId;
use crate::ids::mix;
use crate::ntlm::{self, Authenticate, Challenge, Keys, NtlmError, Side, flag};
use crate::protection::Outgoing;
use crate::scan::Message;
use crate::value;

/// Associations at most; the oldest makes room. Clients without one are challenged anew.
pub const MAX_ASSOCIATIONS: usize = 1 << 21;
/// Of one connection at most, handshakes included; the oldest of it makes room. Clients have one for
/// each user, and one more while they renew it.
pub const MAX_OF_CONNECTION: usize = 256;
/// Running numbers may come out of order within this many.
const WINDOW: u32 = 256;

/// What a server offers.
const OFFERED: u32 = ntlm::SPOKEN | 0x1_0000; // the target is a domain

/// Who a server is.
#[derive(Debug, Clone)]
pub struct AuthorityConfig {
    /// Protocol version that is offered: 2, 3 or 4. An association has that of its client, at most this.
    pub version: u8,
    /// `targetname`: the server's FQDN.
    pub target: String,
    /// Its NT domain.
    pub domain: String,
    /// Asks by 407 and the Proxy headers.
    pub proxy: bool,
    /// Signatures by HMAC; without, by CRC-32 as old servers have it.
    pub extended: bool,
    /// Asks for a MIC, and refuses whoever brings none. One that is there is checked in any case.
    pub mic: bool,
    /// What nonces, opaques and `srand` are made from.
    pub key: u64,
}

/// One security association, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Association(u64);

/// Why somebody was challenged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It came without credentials.
    None,
    /// It asked for a challenge: this is it.
    Asked,
    /// The account is not known.
    UnknownAccount,
    /// The response is that of another password.
    WrongPassword,
    /// The code that covers CHALLENGE and AUTHENTICATE is not right, or missing.
    WrongMic,
    /// What it sent is no AUTHENTICATE.
    Malformed,
    /// It named an association that there is not, or not on this connection.
    NoAssociation,
    /// The signature is not right, or is missing.
    BadSignature,
    /// Its running number came before.
    Replayed,
}

/// What a request's credentials came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// It is signed, or has just proven who it is.
    Passed(Association),
    /// To be answered by 401 (407), with the header line that was appended.
    Challenged(Refusal),
}

#[derive(Debug)]
struct Held {
    connection: u64,
    /// What its client named; without a word of it 2.
    version: u8,
    nonce: [u8; 8],
    /// In its CHALLENGE.
    filetime: u64,
    keys: Option<Keys>,
    /// NT domain and account name as the client gave them.
    account: (String, String),
    /// `snum` of the last message that was signed.
    number: u32,
    /// Highest `cnum`, and a bit for each of those below it that came.
    highest: u32,
    seen: [u64; WINDOW as usize / 64],
}

/// NTLM on the server's side.
#[derive(Debug)]
pub struct Authority {
    config: AuthorityConfig,
    counter: u64,
    held: HashMap<u64, Held>,
    /// Those of a connection, in the order in which they began.
    connections: HashMap<u64, Vec<u64>>,
    /// All, in the order in which they began, those that have ended among them.
    order: VecDeque<u64>,
    /// Associations that made room for others.
    evicted: u64,
    text: Vec<u8>,
}

impl Authority {
    /// One without associations.
    #[must_use]
    pub fn new(config: AuthorityConfig) -> Self {
        Authority {
            config,
            counter: 0,
            held: HashMap::new(),
            connections: HashMap::new(),
            order: VecDeque::new(),
            evicted: 0,
            text: Vec::new(),
        }
    }

    fn random(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        mix(mix(self.config.key ^ self.counter) ^ self.config.key.rotate_left(32))
    }

    /// Associations and pending handshakes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// NT domain and account name of an association.
    #[must_use]
    pub fn account(&self, association: Association) -> Option<(&str, &str)> {
        self.held.get(&association.0).map(|held| (&*held.account.0, &*held.account.1))
    }

    /// Forgets an association: its connection is gone, or its time is up.
    pub fn forget(&mut self, association: Association) {
        self.remove(association.0);
    }

    /// True while this association is neither over nor forgotten.
    #[must_use]
    pub fn holds(&self, association: Association) -> bool {
        self.held.contains_key(&association.0)
    }

    /// Forgets all of a connection, half-open ones too.
    pub fn forget_connection(&mut self, connection: u64) {
        for number in self.connections.remove(&connection).unwrap_or_default() {
            self.held.remove(&number);
        }
        self.trim();
    }

    /// Associations that made room for others because there were [`MAX_ASSOCIATIONS`], or
    /// [`MAX_OF_CONNECTION`] of one connection.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// True if it was there.
    fn remove(&mut self, number: u64) -> bool {
        let Some(held) = self.held.remove(&number) else { return false };
        if let Some(own) = self.connections.get_mut(&held.connection) {
            own.retain(|other| *other != number);
            if own.is_empty() {
                self.connections.remove(&held.connection);
            }
        }
        self.trim();
        true
    }

    /// What has ended stays in the order until it is the larger part of it.
    fn trim(&mut self) {
        if self.order.len() > 2 * self.held.len() + 64 {
            self.order.retain(|number| self.held.contains_key(number));
        }
    }

    /// The association that a request names, if it is one of this connection.
    #[must_use]
    pub fn named(&self, message: &Message<'_>, connection: u64) -> Option<Association> {
        let (params, _) = Params::of(message, &AUTHORIZATION)?;
        let number = opaque_number(params.opaque)?;
        self.held.get(&number).filter(|held| held.connection == connection).map(|_| Association(number))
    }

    /// Looks at a request, or at a response to a request of ours. `filetime`: now, for
    /// the timestamp of a challenge; 0 for none. `nt_hash` finds an account by NT
    /// domain and name. What a 401 needs is appended to `lines`.
    pub fn check(
        &mut self,
        message: &Message<'_>,
        connection: u64,
        filetime: u64,
        nt_hash: impl FnOnce(&str, &str) -> Option<[u8; 16]>,
        lines: &mut Vec<u8>,
    ) -> Check {
        let Some((params, _)) = Params::of(message, &AUTHORIZATION) else {
            return self.refuse(Refusal::None, lines);
        };
        let newest = self.config.version;
        if params.token.is_some_and(<[u8]>::is_empty) {
            self.challenge(connection, params.version.unwrap_or(2).min(newest), filetime, lines);
            return Check::Challenged(Refusal::Asked);
        }
        let number = opaque_number(params.opaque);
        let held = number.and_then(|number| self.held.get_mut(&number));
        let Some((number, held)) = number.zip(held.filter(|held| held.connection == connection)) else {
            return self.refuse(Refusal::NoAssociation, lines);
        };
        if let Some(token) = params.token {
            if held.keys.is_some() {
                // An association is proven once; a client that wants another asks for a challenge.
                return self.refuse(Refusal::Malformed, lines);
            }
            if let Err(refusal) = take(held, token, nt_hash, &self.config) {
                self.remove(number);
                return self.refuse(refusal, lines);
            }
            // Before version 4 an AUTHENTICATE goes without a signature.
            held.version = params.version.map_or(held.version, |named| named.min(newest));
            if params.signature.is_empty() && held.version < 4 {
                return Check::Passed(Association(number));
            }
        }
        match verify(held, message, &params, &mut self.text) {
            Ok(()) => Check::Passed(Association(number)),
            Err(refusal) => self.refuse(refusal, lines),
        }
    }

    /// The next `snum`, for a message that leaves before others that are written first;
    /// 0 without an association.
    pub fn reserve(&mut self, association: Association) -> u32 {
        let Some(held) = self.held.get_mut(&association.0) else { return 0 };
        held.number += 1;
        held.number
    }

    /// Appends the `Authentication-Info` line that signs a response or a request of ours.
    /// With `wrongly` the signature is not the right one.
    pub fn sign(
        &mut self,
        association: Association,
        outgoing: &Outgoing<'_>,
        wrongly: bool,
        out: &mut Vec<u8>,
    ) {
        let number = self.reserve(association);
        self.sign_numbered(association, number, outgoing, wrongly, out);
    }

    /// The same under a number from [`Authority::reserve`].
    pub fn sign_numbered(
        &mut self,
        association: Association,
        number: u32,
        outgoing: &Outgoing<'_>,
        wrongly: bool,
        out: &mut Vec<u8>,
    ) {
        let srand = Hex::of_bytes(&(self.random() as u32).to_be_bytes());
        let Some(held) = self.held.get_mut(&association.0) else { return };
        let Some(keys) = &held.keys else { return };
        let mut decimal = Decimal::default();
        let number = decimal.of(number);
        let target = self.config.target.as_bytes();
        let seal =
            Params { realm: REALM.as_bytes(), target, rand: srand.text(), number, ..Params::default() };
        self.text.clear();
        Signed::outgoing(outgoing).write(held.version, &seal, &mut self.text);
        let mut signature = keys.sign(Side::Server, &self.text);
        if wrongly {
            signature[4] ^= 1;
        }
        out.extend_from_slice(if self.config.proxy {
            b"Proxy-Authentication-Info: NTLM rspauth=\"" as &[u8]
        } else {
            b"Authentication-Info: NTLM rspauth=\""
        });
        out.extend_from_slice(Hex::of_bytes(&signature).text());
        out.push(b'"');
        put(out, "srand", srand.text());
        put(out, "snum", number);
        put(out, "opaque", Hex::of_bytes(&association.0.to_be_bytes()).text());
        out.extend_from_slice(b", qop=\"auth\"");
        put(out, "targetname", target);
        put(out, "realm", REALM.as_bytes());
        put_version(out, held.version);
        out.extend_from_slice(b"\r\n");
    }

    /// The first challenge: which scheme, and who asks.
    fn refuse(&self, refusal: Refusal, lines: &mut Vec<u8>) -> Check {
        self.begin(lines);
        put_version(lines, self.config.version);
        lines.extend_from_slice(b"\r\n");
        Check::Challenged(refusal)
    }

    fn begin(&self, lines: &mut Vec<u8>) {
        let name = if self.config.proxy { "Proxy-Authenticate" } else { "WWW-Authenticate" };
        lines.extend_from_slice(name.as_bytes());
        lines.extend_from_slice(b": NTLM realm=\"");
        lines.extend_from_slice(REALM.as_bytes());
        lines.push(b'"');
        put(lines, "targetname", self.config.target.as_bytes());
    }

    /// The second challenge: a CHALLENGE and the name of the association that it begins.
    fn challenge(&mut self, connection: u64, version: u8, filetime: u64, lines: &mut Vec<u8>) {
        let (number, nonce) = (self.random(), self.random().to_le_bytes());
        let own = self.connections.get(&connection).map(Vec::as_slice).unwrap_or_default();
        if let Some(oldest) = own.first().copied().filter(|_| own.len() >= MAX_OF_CONNECTION) {
            self.evicted += u64::from(self.remove(oldest));
        }
        while self.held.len() >= MAX_ASSOCIATIONS {
            let Some(oldest) = self.order.pop_front() else { break };
            self.evicted += u64::from(self.remove(oldest));
        }
        self.connections.entry(connection).or_default().push(number);
        self.order.push_back(number);
        let held = Held {
            connection,
            version,
            nonce,
            filetime,
            keys: None,
            account: Default::default(),
            number: 0,
            highest: 0,
            seen: [0; WINDOW as usize / 64],
        };
        let bytes = challenge_of(&self.config, &held);
        self.held.insert(number, held);
        self.begin(lines);
        put(lines, "opaque", Hex::of_bytes(&number.to_be_bytes()).text());
        put(lines, "gssapi-data", BASE64_STANDARD.encode(&bytes).as_bytes());
        put_version(lines, self.config.version);
        lines.extend_from_slice(b"\r\n");
    }
}

const AUTHORIZATION: [HeaderId; 2] = [HeaderId::Authorization, HeaderId::ProxyAuthorization];

fn flags(extended: bool) -> u32 {
    if extended { OFFERED } else { OFFERED & !flag::EXTENDED_SESSION_SECURITY }
}

/// The CHALLENGE of an association; whenever it is asked for, the same.
fn challenge_of(config: &AuthorityConfig, held: &Held) -> Vec<u8> {
    let host = config.target.split('.').next().unwrap_or("").to_uppercase();
    let dns = config.target.split_once('.').map_or("", |(_, domain)| domain);
    let time = (held.filetime > 0).then(|| held.filetime.to_le_bytes());
    let mut info = Vec::new();
    ntlm::write_target_info(&config.domain, &host, dns, &config.target, time, config.mic, &mut info);
    let name: Vec<u8> = config.domain.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let challenge = Challenge {
        flags: flags(config.extended),
        nonce: held.nonce,
        target_name: &name,
        target_info: &info,
        bytes: b"",
    };
    let mut bytes = Vec::new();
    challenge.write(&mut bytes);
    bytes
}

fn opaque_number(opaque: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(opaque).ok().filter(|text| text.len() == 16)?;
    u64::from_str_radix(text, 16).ok()
}

/// Takes an AUTHENTICATE.
fn take(
    held: &mut Held,
    token: &[u8],
    nt_hash: impl FnOnce(&str, &str) -> Option<[u8; 16]>,
    config: &AuthorityConfig,
) -> Result<(), Refusal> {
    let bytes = BASE64_STANDARD.decode(token).map_err(|_| Refusal::Malformed)?;
    let answer = Authenticate::read(&bytes).map_err(|_| Refusal::Malformed)?;
    let nt_hash = nt_hash(&answer.domain, &answer.user).ok_or(Refusal::UnknownAccount)?;
    let sent = challenge_of(config, held);
    let challenge = Challenge::read(&sent).map_err(|_| Refusal::Malformed)?;
    let keys = answer.verify(&challenge, &nt_hash).map_err(|error| match error {
        NtlmError::WrongResponse => Refusal::WrongPassword,
        NtlmError::WrongMic => Refusal::WrongMic,
        _ => Refusal::Malformed,
    })?;
    held.keys = Some(keys);
    held.account = (answer.domain, answer.user);
    // An answer proves itself once.
    held.nonce = [0; 8];
    Ok(())
}

/// Verifies a signature and that its number is new.
fn verify(
    held: &mut Held,
    message: &Message<'_>,
    params: &Params<'_>,
    text: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let keys = held.keys.as_ref().ok_or(Refusal::BadSignature)?;
    let signed = Signed::incoming(message).ok_or(Refusal::BadSignature)?;
    text.clear();
    signed.write(held.version, params, text);
    let right = Hex::of_bytes(&keys.sign(Side::Client, text));
    if !params.signature.eq_ignore_ascii_case(right.text()) {
        return Err(Refusal::BadSignature);
    }
    let number = value::number(params.number).ok_or(Refusal::BadSignature)?;
    if held.is_new(number) { Ok(()) } else { Err(Refusal::Replayed) }
}

impl Held {
    /// True for a running number that did not come yet and is not too old.
    fn is_new(&mut self, number: u32) -> bool {
        if number > self.highest {
            let shift = number - self.highest;
            for n in 0..shift.min(WINDOW) {
                self.mark(self.highest.wrapping_add(n + 1), false);
            }
            self.highest = number;
        } else if self.highest - number >= WINDOW || self.marked(number) {
            return false;
        }
        self.mark(number, true);
        true
    }

    fn marked(&self, number: u32) -> bool {
        let at = number % WINDOW;
        self.seen[at as usize / 64] & (1 << (at % 64)) != 0
    }

    fn mark(&mut self, number: u32, seen: bool) {
        let at = number % WINDOW;
        let bit = 1 << (at % 64);
        if seen {
            self.seen[at as usize / 64] |= bit;
        } else {
            self.seen[at as usize / 64] &= !bit;
        }
    }
}
