//! The client's side: the handshake, and a signature on all that follows it.

use std::rc::Rc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use memchr::memmem;
use smallvec::SmallVec;

use super::{Decimal, NEWEST, Params, Signed, put, put_version};
use crate::digest::Hex;
use crate::header::HeaderId;
use crate::ids::mix;
use crate::ntlm::{self, Challenge, Client, Keys, Side};
use crate::protection::{Attempts, Credentials, Incoming, Outgoing, Protection, Reading, Verdict};
use crate::scan::{Message, Start};

/// Servers whose realm and target are shared by their users; a pool has some front ends.
const MAX_SERVERS: usize = 16;
/// A bit of [`Attempts`]: this request already began a new association.
const RENEWED: u8 = 4;

/// Realm and target of a server, shared by all of its users.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    realm: Box<[u8]>,
    target: Box<[u8]>,
    /// Asked by 407 instead of 401: all later messages have that family of headers.
    proxy: bool,
    version: u8,
}

/// How far a user is with its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A challenge is asked for.
    Asked,
    /// It is answered, and no 2xx has come yet.
    Answered,
    /// The association stands.
    Standing,
    /// The credentials were refused, for good.
    Rejected,
}

/// A user's security association.
#[derive(Debug)]
struct Held {
    stage: Stage,
    server: Rc<Server>,
    opaque: SmallVec<[u8; 16]>,
    keys: Option<Keys>,
    /// `cnum` of the last message that was signed.
    number: u32,
    /// The AUTHENTICATE in base64, until it is written.
    token: Vec<u8>,
    /// The request that carries the handshake, by its Call-ID: others wait for its end.
    call: u64,
}

impl Held {
    /// True while another request than this one negotiates.
    fn is_negotiated_by_another(&self, call: u64) -> bool {
        (self.stage == Stage::Asked || !self.token.is_empty()) && self.call != call
    }
}

/// NTLM for all users of a shard, each with a connection of its own.
#[derive(Debug)]
pub struct Ntlm {
    verify: bool,
    key: u64,
    counter: u64,
    time: [u8; 8],
    workstation: String,
    servers: Vec<Rc<Server>>,
    /// By user; boxed, so that who is not asked pays for a pointer.
    users: Vec<Option<Box<Held>>>,
    text: Vec<u8>,
    secret: Vec<u8>,
    token: Vec<u8>,
    trouble: Option<Trouble>,
}

/// Why a challenge could not be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Trouble {
    /// The CHALLENGE.
    #[error("the server's NTLM challenge cannot be answered: {0}")]
    Challenge(#[from] ntlm::NtlmError),
    /// Neither base64 nor anything else.
    #[error("the server's gssapi-data is no base64")]
    Base64,
    /// An account without a password.
    #[error("NTLM needs the account's password; H(A1) is for digest only")]
    NoPassword,
    /// No CHALLENGE came.
    #[error("the server goes on neither with a challenge nor with an answer")]
    NoChallenge,
}

impl Ntlm {
    /// `verify`: check what the server signs. `key` is what nonces, session keys and
    /// `crand` are made from, one for each shard. `filetime` (100 ns since 1601, UTC) goes
    /// to servers that send no timestamp of their own; see [`Ntlm::set_time`].
    #[must_use]
    pub fn new(verify: bool, key: u64, workstation: &str, filetime: u64) -> Self {
        Ntlm {
            verify,
            key,
            counter: 0,
            time: filetime.to_le_bytes(),
            workstation: workstation.to_owned(),
            servers: Vec::new(),
            users: Vec::new(),
            text: Vec::new(),
            secret: Vec::new(),
            token: Vec::new(),
            trouble: None,
        }
    }

    fn unsupported(&mut self, trouble: Trouble) -> Verdict {
        self.trouble = Some(trouble);
        Verdict::Unsupported
    }

    /// What time it is, as FILETIME.
    pub fn set_time(&mut self, filetime: u64) {
        self.time = filetime.to_le_bytes();
    }

    /// True if a request of a user was signed under the association that it has now.
    #[must_use]
    pub fn is_current(&self, user: u32, request: &[u8]) -> bool {
        let held = self.users.get(user as usize).and_then(Option::as_deref);
        held.is_some_and(|held| {
            held.keys.is_some() && brought(request) == Brought::Signature(held.opaque.as_slice())
        })
    }

    fn random(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        mix(mix(self.key ^ self.counter) ^ self.key.rotate_left(32))
    }

    fn held(&mut self, user: u32) -> Option<&mut Held> {
        self.users.get_mut(user as usize)?.as_deref_mut()
    }

    fn server(&mut self, params: &Params<'_>, proxy: bool) -> Rc<Server> {
        let version = params.version.unwrap_or(2).min(NEWEST);
        let known = self.servers.iter().find(|known| {
            *known.realm == *params.realm
                && *known.target == *params.target
                && (known.proxy, known.version) == (proxy, version)
        });
        if let Some(known) = known {
            return Rc::clone(known);
        }
        let (realm, target) = (params.realm.into(), params.target.into());
        let server = Rc::new(Server { realm, target, proxy, version });
        if self.servers.len() == MAX_SERVERS {
            self.servers.remove(0);
        }
        self.servers.push(Rc::clone(&server));
        server
    }

    /// A new association begins: with nothing but the wish for a challenge.
    fn ask(&mut self, user: u32, call: u64, params: &Params<'_>, proxy: bool) -> Verdict {
        let server = self.server(params, proxy);
        let at = user as usize;
        if self.users.len() <= at {
            self.users.resize_with(at + 1, || None);
        }
        let (opaque, token) = (SmallVec::new(), Vec::new());
        let held = Held { stage: Stage::Asked, server, opaque, keys: None, number: 0, token, call };
        self.users[at] = Some(Box::new(held));
        Verdict::Answer
    }

    /// Answers a CHALLENGE.
    fn answer(&mut self, user: u32, accounts: &impl Credentials, params: &Params<'_>) -> Verdict {
        if accounts.ha1(user).is_some() {
            return self.unsupported(Trouble::NoPassword);
        }
        let Ok(bytes) = BASE64_STANDARD.decode(params.token.unwrap_or(b"")) else {
            return self.unsupported(Trouble::Base64);
        };
        let challenge = match Challenge::read(&bytes) {
            Ok(challenge) => challenge,
            Err(error) => return self.unsupported(error.into()),
        };
        let mut text = std::mem::take(&mut self.secret);
        text.clear();
        accounts.write_password(user, &mut text);
        let nt_hash = ntlm::nt_hash(&String::from_utf8_lossy(&text));
        text.clear();
        accounts.write_user_name(user, &mut text);
        let name = String::from_utf8_lossy(&text);
        // `DOMAIN\user`; of a UPN or a plain name the server knows the domain.
        let (domain, name) = name.split_once('\\').unwrap_or(("", &name));
        let [nonce, key, more] = [self.random(), self.random(), self.random()];
        let mut session_key = [0; 16];
        session_key[..8].copy_from_slice(&key.to_le_bytes());
        session_key[8..].copy_from_slice(&more.to_le_bytes());
        let client = Client {
            user: name,
            domain,
            workstation: &self.workstation,
            nt_hash,
            nonce: nonce.to_le_bytes(),
            time: self.time,
            session_key,
        };
        self.token.clear();
        let keys = ntlm::authenticate(&challenge, &client, &mut self.token);
        self.secret = text;
        let token = BASE64_STANDARD.encode(&self.token).into_bytes();
        let Some(held) = self.held(user) else { return Verdict::Unsupported };
        held.stage = Stage::Answered;
        held.keys = Some(keys);
        held.number = 0;
        held.opaque = SmallVec::from_slice(params.opaque);
        held.token = token;
        Verdict::Answer
    }
}

/// What a request of ours brought along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brought<'a> {
    Nothing,
    /// The wish for a challenge.
    Wish,
    /// An AUTHENTICATE, for the association of this name.
    Answer(&'a [u8]),
    /// A signature and nothing else.
    Signature(&'a [u8]),
}

fn brought(request: &[u8]) -> Brought<'_> {
    let end = memmem::find(request, b"\r\n\r\n").unwrap_or(request.len());
    let head = &request[..end];
    let line = ["\r\nAuthorization: ", "\r\nProxy-Authorization: "]
        .iter()
        .find_map(|name| memmem::find(head, name.as_bytes()).map(|at| &head[at + name.len()..]));
    let Some(params) =
        line.and_then(|line| Params::read(&line[..memchr::memchr(b'\r', line).unwrap_or(line.len())]))
    else {
        return Brought::Nothing;
    };
    match params.token {
        None => Brought::Signature(params.opaque),
        Some(b"") => Brought::Wish,
        Some(_) => Brought::Answer(params.opaque),
    }
}

/// A Call-ID in 64 bits.
fn call_of(call_id: &[u8]) -> u64 {
    call_id.chunks(8).fold(call_id.len() as u64, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}

const INFO: [HeaderId; 2] = [HeaderId::AuthenticationInfo, HeaderId::ProxyAuthenticationInfo];

impl Protection for Ntlm {
    type State = ();

    fn write(
        &mut self,
        (): &mut (),
        _: &impl Credentials,
        user: u32,
        outgoing: &Outgoing<'_>,
        out: &mut Vec<u8>,
    ) {
        let crand = Hex::of_bytes(&(self.random() as u32).to_be_bytes());
        let mut text = std::mem::take(&mut self.text);
        if let Some(held) = self.held(user) {
            held.line(outgoing, crand.text(), &mut text, out);
        }
        self.text = text;
    }

    fn read(&mut self, (): &mut (), _: &impl Credentials, user: u32, incoming: &Incoming<'_>) -> Reading {
        let verify = self.verify;
        let mut text = std::mem::take(&mut self.text);
        let reading = match self.held(user) {
            Some(held) => held.read(incoming.message, verify, &mut text),
            None => Reading::Unprotected,
        };
        self.text = text;
        reading
    }

    fn challenged(
        &mut self,
        (): &mut (),
        accounts: &impl Credentials,
        user: u32,
        incoming: &Incoming<'_>,
        attempts: &mut Attempts,
    ) -> Verdict {
        if self.held(user).is_some_and(|held| held.stage == Stage::Rejected) {
            return Verdict::Rejected;
        }
        self.trouble = None;
        let proxy = incoming.message.code() == 407;
        let id = if proxy { HeaderId::ProxyAuthenticate } else { HeaderId::WwwAuthenticate };
        let Some((params, _)) = Params::of(incoming.message, &[id]) else { return Verdict::Unsupported };
        let challenge = params.token.is_some_and(|token| !token.is_empty());
        let call = call_of(incoming.message.call_id());
        // Another request negotiates, or has done so since this one was written: once more, when
        // it is its turn. The owner bounds how often.
        let (waits, stands, opaque) = match self.held(user) {
            Some(held) => (held.is_negotiated_by_another(call), held.keys.is_some(), held.opaque.clone()),
            None => (false, false, SmallVec::new()),
        };
        match brought(incoming.request) {
            Brought::Nothing | Brought::Signature(_) if waits => Verdict::Answer,
            Brought::Nothing if stands => Verdict::Answer,
            Brought::Signature(named) | Brought::Answer(named) if named != opaque.as_slice() => {
                Verdict::Answer
            }
            Brought::Wish if challenge => self.answer(user, accounts, &params),
            Brought::Wish => self.unsupported(Trouble::NoChallenge),
            Brought::Answer(_) => {
                // Everything again after a whole handshake: the password is wrong.
                if let Some(held) = self.held(user) {
                    held.stage = Stage::Rejected;
                    held.keys = None;
                }
                Verdict::Rejected
            }
            Brought::Nothing => self.ask(user, call, &params, proxy),
            Brought::Signature(_) if attempts.0 & RENEWED != 0 => Verdict::Rejected,
            Brought::Signature(_) => {
                // The server lost the association, or its time was up.
                attempts.0 |= RENEWED;
                self.ask(user, call, &params, proxy)
            }
        }
    }

    fn reconnected(&mut self, (): &mut (), user: u32) {
        if let Some(place) = self.users.get_mut(user as usize)
            && place.as_ref().is_some_and(|held| held.stage != Stage::Rejected)
        {
            *place = None;
        }
    }

    fn signs_answers(&self) -> bool {
        true
    }

    fn drops_refused(&self) -> bool {
        true
    }

    fn trouble(&self) -> Option<String> {
        self.trouble.map(|trouble| trouble.to_string())
    }
}

impl Held {
    /// Appends the header line that the stage asks for.
    fn line(&mut self, outgoing: &Outgoing<'_>, crand: &[u8], text: &mut Vec<u8>, out: &mut Vec<u8>) {
        let response = outgoing.code != 0;
        let waits = response || self.is_negotiated_by_another(call_of(outgoing.call_id));
        if self.stage == Stage::Rejected || waits && (self.stage == Stage::Asked || !self.token.is_empty()) {
            return;
        }
        let server = Rc::clone(&self.server);
        out.extend_from_slice(if server.proxy { b"Proxy-Authorization" } else { b"Authorization" });
        out.extend_from_slice(b": NTLM qop=\"auth\"");
        if !self.opaque.is_empty() {
            put(out, "opaque", &self.opaque);
        }
        put(out, "realm", &server.realm);
        put(out, "targetname", &server.target);
        let token = if response { Vec::new() } else { std::mem::take(&mut self.token) };
        if self.stage == Stage::Asked || !token.is_empty() {
            put(out, "gssapi-data", &token);
            put_version(out, server.version);
        }
        // Before version 4 an AUTHENTICATE goes without a signature.
        let signs = self.stage != Stage::Asked && (token.is_empty() || server.version >= 4);
        if let (Some(keys), true) = (&self.keys, signs) {
            self.number += 1;
            let mut decimal = Decimal::default();
            let number = decimal.of(self.number);
            let seal = Params {
                realm: &server.realm,
                target: &server.target,
                rand: crand,
                number,
                ..Params::default()
            };
            text.clear();
            Signed::outgoing(outgoing).write(server.version, &seal, text);
            put(out, "crand", crand);
            put(out, "cnum", number);
            put(out, "response", Hex::of_bytes(&keys.sign(Side::Client, text)).text());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Looks at what the server signed.
    fn read(&mut self, message: &Message<'_>, verify: bool, text: &mut Vec<u8>) -> Reading {
        let code = match message.start() {
            Start::Response { code, .. } => code,
            Start::Request { .. } => 0,
        };
        let succeeded = (200..300).contains(&code);
        let Some(keys) = self.keys.as_ref().filter(|_| verify) else {
            if succeeded && self.stage == Stage::Answered {
                self.stage = Stage::Standing;
            }
            return Reading::Unprotected;
        };
        let params = Params::of(message, &INFO)
            .map(|(params, _)| params)
            .filter(|params| !params.signature.is_empty());
        // Until the server has proven the new association, it speaks under the one before, or under
        // none, which nobody can check any more: nothing of that may be lost. Only what ends the
        // handshake well has to be signed by the new one.
        let is_ours = params.is_some_and(|p| p.opaque.is_empty() || p.opaque == &self.opaque[..]);
        let proves = succeeded && call_of(message.call_id()) == self.call;
        if self.stage == Stage::Answered && !is_ours && !proves {
            return Reading::Unprotected;
        }
        let Some(params) = params else {
            // Provisional answers and challenges are never signed. The known client takes every
            // answer to a REGISTER: who lost the association has nothing to sign a refusal with.
            // Not so a success.
            let never = (100..200).contains(&code) || matches!(code, 401 | 407);
            let refused = code >= 300 && message.cseq().is_some_and(|(_, method)| method == b"REGISTER");
            return if never || refused { Reading::Unprotected } else { Reading::Refused };
        };
        let Some(signed) = Signed::incoming(message) else { return Reading::Refused };
        text.clear();
        signed.write(self.server.version, &params, text);
        let right = Hex::of_bytes(&keys.sign(Side::Server, text));
        if !params.signature.eq_ignore_ascii_case(right.text()) {
            return Reading::Refused;
        }
        if succeeded && self.stage == Stage::Answered {
            self.stage = Stage::Standing;
        }
        Reading::Accepted
    }
}

#[cfg(test)]
mod tests {
    use super::Held;

    /// Each user of a run has one.
    #[test]
    fn an_association_takes_less_than_a_user() {
        assert!(size_of::<Held>() <= 208, "{}", size_of::<Held>());
    }
}
