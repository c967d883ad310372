//! The pool without sockets and clock: a registrar, a presence agent and a
//! state compositor in memory (RFC 3261 §10, 6665, 3903, 3856).
//!
//! [`Core::handle`] takes one message, [`Core::expire`] what time brings; both
//! append what has to be sent, and when. Faults that concern messages as such
//! — loss, doubling — belong to [`crate::faults`].
//!
//! Users lie in a vector by their number, subscriptions and unanswered NOTIFYs
//! in slabs. What we name ourselves (To tags, branches, entity tags) carries
//! its slot, so that the only map is that of answers given.

mod answers;
mod counts;
mod document;
mod ids;
mod knobs;
mod list;
mod lync;
mod notify;
mod pieces;
mod publish;
mod register;
mod reply;
mod subscribe;
mod timers;
mod users;
mod xml;

use std::collections::HashMap;
use std::net::SocketAddr;

use adsum_presence::slab::Slab;
use adsum_sip::ids::mix;
use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message, Scanner, Start, value};

use crate::auth::{Proof, Verifier};
use crate::config::{Dialect, PoolConfig};

use answers::{Answers, Found, Key};
use counts::{Table, row};
use ids::{Tags, put_line, put_number_line, write_user};
use knobs::Knobs;
use list::List;
use lync::Lync;
use notify::Pending;
use publish::Publication;
use register::Binding;
use reply::Reply;
use subscribe::Subscription;
use timers::Timers;
use users::{Alarm, Users};

pub use counts::Stats;

/// A body beyond this is refused (413): no presence document of a user is
/// longer, and sixteen of them still make a NOTIFY that a stream can carry.
const MAX_BODY: usize = 64 * 1024;
/// Buffers kept for the next messages.
const SPARE: usize = 4_096;
/// A buffer that grew beyond this is not kept.
const SPARE_CAPACITY: usize = 8 * 1024;

/// Who a message came from, or goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A datagram.
    Udp(SocketAddr),
    /// A connection, by number, its address, and whether it is TLS.
    Stream(u64, SocketAddr, bool),
}

impl Peer {
    fn address(&self) -> SocketAddr {
        match self {
            Peer::Udp(address) | Peer::Stream(_, address, _) => *address,
        }
    }

    fn is_udp(&self) -> bool {
        matches!(self, Peer::Udp(_))
    }

    /// Index into [`Ends`]: UDP, TCP, TLS.
    fn transport(&self) -> usize {
        match self {
            Peer::Udp(_) => 0,
            Peer::Stream(_, _, false) => 1,
            Peer::Stream(_, _, true) => 2,
        }
    }
}

/// Something to send.
#[derive(Debug, Clone)]
pub struct Out {
    /// Where to.
    pub peer: Peer,
    /// The message; [`Core::recycle`] takes the buffer back.
    pub bytes: Vec<u8>,
    /// Not before this instant.
    pub at: Time,
    /// A NOTIFY, which may have to leave from elsewhere.
    pub notify: bool,
}

/// What the pool knows of one account.
#[derive(Debug, Default)]
struct User {
    bindings: Vec<Binding>,
    publications: Vec<Publication>,
    /// Subscriptions to this user.
    watchers: List,
    /// Of bindings and publications.
    alarm: Alarm,
}

/// What a timer is for.
#[derive(Debug, Clone, Copy)]
enum Due {
    /// Timer E or F of a NOTIFY.
    Notify(u32),
    /// The end of a subscription.
    Subscription(u32),
    /// The end of a binding or publication of a user.
    User(u32),
}

/// How we name ourselves, by transport: Via's sent-by, and Contact.
#[derive(Debug, Default)]
struct Ends {
    sent_by: [Vec<u8>; 3],
    contact: [Vec<u8>; 3],
}

/// The pool.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: PoolConfig,
    verifier: Verifier,
    knobs: Knobs,
    users: Users<User>,
    subscriptions: Slab<Subscription>,
    pending: Slab<Pending>,
    /// By connection: the first of its subscriptions.
    streams: HashMap<u64, u32>,
    answers: Answers,
    timers: Timers<Due>,
    tags: Tags,
    secret: u64,
    /// The latest entity tag.
    etag: u64,
    /// Bytes of all published documents.
    document_bytes: usize,
    pub(crate) stats: Stats,
    received: Table,
    sent: Table,
    ends: Ends,
    /// The other dialect, if it is spoken.
    lync: Option<Box<Lync>>,
    scanner: Option<Scanner>,
    /// Scratch: key of the request, lines of its answer, the document to be told.
    key: Key,
    lines: Vec<u8>,
    body: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

impl Core {
    /// A pool without users on line. `local` stands in Via and Contact.
    #[must_use]
    pub fn new(config: PoolConfig, local: SocketAddr) -> Self {
        let mut core = Core {
            verifier: Verifier::new(&config.domain, config.seed ^ 0x5ec2_e7a1, config.sha256),
            knobs: Knobs::new(&config, 0),
            users: Users::default(),
            subscriptions: Slab::default(),
            pending: Slab::default(),
            streams: HashMap::new(),
            answers: Answers::default(),
            timers: Timers::default(),
            tags: Tags(mix(config.seed ^ 0x7a65)),
            secret: mix(config.seed ^ 0xa25e),
            etag: 0,
            document_bytes: 0,
            stats: Stats::default(),
            received: Table::new(),
            sent: Table::new(),
            ends: Ends::default(),
            lync: (config.dialect != Dialect::Simple).then(|| Box::new(Lync::new(&config, local))),
            scanner: Some(Scanner::new()),
            key: Key::default(),
            lines: Vec::with_capacity(512),
            body: Vec::with_capacity(1024),
            spare: Vec::new(),
            config,
        };
        core.name_ends(0, local);
        core.name_ends(1, local);
        core.name_ends(2, local);
        let source = core.config.notify_from.map_or(local, |ip| SocketAddr::new(ip, local.port()));
        core.ends.sent_by[0] = source.to_string().into_bytes();
        core
    }

    /// Where TLS is listened for, if elsewhere than the rest.
    pub fn set_tls_address(&mut self, address: SocketAddr) {
        self.name_ends(2, address);
        if let Some(lync) = &mut self.lync {
            lync.set_tls_address(address);
        }
    }

    /// At `now` it is so many milliseconds of UTC since 1970: what dates are
    /// made from. Without it the clock began in 1970.
    pub fn set_clock(&mut self, now: Time, unix_ms: u64) {
        if let Some(lync) = &mut self.lync {
            lync.set_clock(now, unix_ms);
        }
    }

    /// A connection proved by a certificate of a trusted CA that it is one of
    /// these names (SAN or CN).
    pub fn certified(&mut self, peer: Peer, names: &[String]) {
        if let (Some(lync), Peer::Stream(number, ..)) = (&mut self.lync, peer) {
            lync.certified(number, names);
        }
    }

    fn name_ends(&mut self, transport: usize, address: SocketAddr) {
        let parameter = ["", ";transport=tcp", ";transport=tls"][transport];
        self.ends.sent_by[transport] = address.to_string().into_bytes();
        self.ends.contact[transport] = format!("<sip:{address}{parameter}>").into_bytes();
    }

    /// What was counted, and what there is.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let own = Stats {
            subscriptions: self.subscriptions.len() as u64,
            document_bytes: self.document_bytes as u64,
            ..self.stats.clone()
        };
        let Some(lync) = &self.lync else { return own.named(&self.received, &self.sent) };
        let (mut both, mut sent) = (own, self.sent.clone());
        both.add(&lync.stats());
        sent.add(&lync.sent);
        both.named(&self.received, &sent)
    }

    /// The shell saw that it was late itself, by so many nanoseconds.
    pub fn count_timing_error(&mut self, late: u64) {
        self.stats.timing_errors += 1;
        self.stats.timing_error_max_us = self.stats.timing_error_max_us.max(late / 1_000);
    }

    /// Takes the buffer of an [`Out`] back, to write another message into.
    pub fn recycle(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE && (1..=SPARE_CAPACITY).contains(&bytes.capacity()) {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(1024))
    }

    /// Takes one message.
    pub fn handle(&mut self, now: Time, peer: Peer, bytes: &[u8], out: &mut Vec<Out>) {
        self.timers.start(now);
        let Some(mut scanner) = self.scanner.take() else { return };
        match scanner.scan(bytes) {
            Ok(message) => match message.start() {
                Start::Request { method, uri } => {
                    self.received.count(row(method), 0);
                    if self.is_lync(method, &message) {
                        self.with_lync(|lync| lync.request(now, peer, method, uri, &message, out));
                    } else {
                        self.request(now, peer, method, uri, &message, out);
                    }
                }
                Start::Response { code, .. } => {
                    self.received.count(row(message.method()), code);
                    if self.lync.is_some() && Lync::sent_what_is_answered(&message) {
                        self.with_lync(|lync| lync.response(now, peer, code, &message));
                    } else {
                        self.response(now, code, &message);
                    }
                }
            },
            Err(adsum_sip::ScanError::Empty) => {}
            Err(_) => self.stats.malformed += 1,
        }
        self.scanner = Some(scanner);
    }

    fn is_lync(&self, method: &[u8], message: &Message<'_>) -> bool {
        match self.config.dialect {
            Dialect::Simple => false,
            Dialect::Lync => true,
            Dialect::Both => Lync::speaks(method, message),
        }
    }

    /// The other dialect writes into the same buffers.
    fn with_lync(&mut self, work: impl FnOnce(&mut Lync)) {
        if let Some(mut lync) = self.lync.take() {
            std::mem::swap(&mut lync.spare, &mut self.spare);
            work(&mut lync);
            std::mem::swap(&mut lync.spare, &mut self.spare);
            self.lync = Some(lync);
        }
    }

    fn request(
        &mut self,
        now: Time,
        peer: Peer,
        method: &[u8],
        uri: &[u8],
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) {
        if method == b"ACK" {
            return;
        }
        // Without a Via there is no way back (RFC 3261 §18.2.2).
        let Some(via) = message.header(HeaderId::Via) else {
            self.stats.malformed += 1;
            return;
        };
        transaction_key(via, message, method, &mut self.key.bytes);
        self.key.seal(self.secret);
        // Only a datagram can come twice (RFC 3261 §17.2.2).
        if peer.is_udp() && self.repeat(now, peer, method, message, out) {
            return;
        }
        self.lines.clear();
        let first = out.len();
        let mut reply = self.answer(now, peer, method, uri, message, out);
        reply.at = reply.at.max(now) + self.knobs.answer_delay();
        let mut bytes = self.buffer();
        self.render(reply.code, reply.tag, message, peer, &mut bytes);
        self.sent.count(row(method), reply.code);
        if peer.is_udp() {
            let found = Found { code: reply.code, at: reply.at, tag: reply.tag, lines: &self.lines };
            self.stats.answers_forgotten += self.answers.keep(now, &self.key, found);
        }
        // The answer first, then the NOTIFYs that it causes.
        out.insert(first, Out { peer, bytes, at: reply.at, notify: false });
    }

    /// A request that came again gets the same answer, once that is due.
    fn repeat(
        &mut self,
        now: Time,
        peer: Peer,
        method: &[u8],
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) -> bool {
        let Some(found) = self.answers.find(now, &self.key) else { return false };
        let (code, at, tag) = (found.code, found.at, found.tag);
        self.lines.clear();
        self.lines.extend_from_slice(found.lines);
        self.stats.retransmitted += 1;
        // Until the answer has left, a copy changes nothing (Trying, §17.2.2).
        if at <= now {
            let mut bytes = self.buffer();
            self.render(code, tag, message, peer, &mut bytes);
            self.sent.count(row(method), code);
            out.push(Out { peer, bytes, at: now, notify: false });
        }
        true
    }

    fn render(
        &self,
        code: u16,
        tag: Option<(u32, u32)>,
        message: &Message<'_>,
        peer: Peer,
        out: &mut Vec<u8>,
    ) {
        let mut text = Vec::with_capacity(16);
        match tag {
            Some((slot, generation)) => self.tags.write(slot, generation, &mut text),
            // The same for a copy (§8.2.7), another for another request.
            None => {
                text.push(b'p');
                let hash = mix(self.key.hash);
                adsum_sip::ids::write(&mut text, (hash & 0x3fff_ffff) as u32, 6);
                adsum_sip::ids::write(&mut text, (hash >> 30 & 0x3fff_ffff) as u32, 6);
            }
        }
        reply::render(code, &text, &self.lines, message, peer, out);
    }

    fn answer(
        &mut self,
        now: Time,
        peer: Peer,
        method: &[u8],
        uri: &[u8],
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) -> Reply {
        if let Err(reply) = self.acceptable(method, message) {
            return reply;
        }
        if method == b"OPTIONS" {
            self.line(b"Allow", ALLOW);
            self.line(b"Accept", PIDF);
            self.line(b"Allow-Events", b"presence");
            return Reply::new(200);
        }
        // In a dialog the To names the resource, else the Request-URI (To, for REGISTER).
        let to = message.header(HeaderId::To).and_then(value::name_addr).map_or(&b""[..], |to| to.uri);
        let resource = if method == b"REGISTER" || message.to_tag().is_some() { to } else { uri };
        if value::sip_uri(uri).is_none() {
            return Reply::new(if uri.starts_with(b"sip") { 400 } else { 416 });
        }
        let Some(user) = self.account(resource) else { return Reply::new(404) };
        let from =
            message.header(HeaderId::From).and_then(value::name_addr).map_or(&b""[..], |from| from.uri);
        let Some(sender) = self.account(from) else { return Reply::new(404) };
        if let Err(reply) = self.authenticate(now, sender, message) {
            return reply;
        }
        match method {
            b"REGISTER" if sender != user => Reply::new(403),
            b"REGISTER" => self.register(now, user, message),
            b"PUBLISH" if sender != user => Reply::new(403),
            b"PUBLISH" => self.publish(now, user, message, out),
            _ => self.subscribe(now, user, sender, peer, message, out),
        }
    }

    /// What is asked of any request (RFC 3261 §8.2.1 to §8.2.3, §16.3).
    fn acceptable(&mut self, method: &[u8], message: &Message<'_>) -> Result<(), Reply> {
        let complete = message.header(HeaderId::CallId).is_some_and(|id| !id.is_empty())
            && message.cseq().is_some_and(|(_, m)| m == method)
            && message.from_tag().is_some()
            && message.header(HeaderId::To).is_some();
        if !complete {
            return Err(Reply::new(400));
        }
        match method {
            b"OPTIONS" | b"REGISTER" | b"SUBSCRIBE" | b"PUBLISH" => {}
            // Known, and not for us: in particular no NOTIFY belongs to a dialog of ours.
            b"INVITE" | b"MESSAGE" | b"BYE" | b"INFO" | b"REFER" | b"NOTIFY" | b"CANCEL" => {
                self.line(b"Allow", ALLOW);
                return Err(Reply::new(405));
            }
            _ => return Err(Reply::new(501)),
        }
        if message.header(HeaderId::MaxForwards).and_then(value::number) == Some(0) {
            return Err(Reply::new(483));
        }
        let mut extensions = false;
        for required in [HeaderId::Require, HeaderId::ProxyRequire] {
            for extension in message.headers(required) {
                extensions = true;
                self.line(b"Unsupported", extension);
            }
        }
        if extensions {
            return Err(Reply::new(420));
        }
        if message.body().len() > MAX_BODY {
            return Err(Reply::new(413));
        }
        self.knobs.rejection(method).map_or(Ok(()), |code| Err(Reply::new(code)))
    }

    fn authenticate(&mut self, now: Time, sender: u32, message: &Message<'_>) -> Result<(), Reply> {
        if !self.config.auth {
            return Ok(());
        }
        let now_s = now.0 / SECOND;
        let users = self.config.users;
        let proof = self.verifier.verify(message, now_s, |name| {
            let number = account_number(name.as_bytes(), users)?;
            let mut password = b"pw-".to_vec();
            write_user(number, &mut password);
            String::from_utf8(password).ok()
        });
        match proof {
            Proof::User(name) if account_number(name.as_bytes(), users) == Some(sender) => Ok(()),
            // Wrong, or another user's: no second challenge, as a registrar that minds guessing does.
            Proof::User(_) | Proof::Wrong => Err(Reply::new(403)),
            Proof::Absent | Proof::Stale => {
                self.verifier.challenge(now_s, proof == Proof::Stale, &mut self.lines);
                Err(Reply::new(401))
            }
        }
    }

    /// The number of a user of ours; the domain has to be ours, too.
    fn account(&self, uri: &[u8]) -> Option<u32> {
        let user = user_of(uri, &self.config.domain)?;
        account_number(user, self.config.users)
    }

    /// A line of the answer that is being made.
    fn line(&mut self, name: &[u8], value: &[u8]) {
        put_line(name, value, &mut self.lines);
    }

    /// The same with a number.
    fn number_line(&mut self, name: &[u8], number: u64) {
        put_number_line(name, number, &mut self.lines);
    }

    /// The lifetime to grant for what was asked (RFC 3261 §10.3, 6665 §4.2.1.1, 3903 §6).
    fn grant(&mut self, asked: Option<u32>) -> Result<u32, Reply> {
        let (least, most) = self.config.expires;
        let asked = asked.unwrap_or(most);
        if asked > 0 && asked < least {
            self.number_line(b"Min-Expires", u64::from(least));
            return Err(Reply::new(423));
        }
        Ok(asked.min(most))
    }

    /// A bound refuses a request.
    fn refuse(&mut self, code: u16) -> Reply {
        self.stats.refused += 1;
        self.lines.clear();
        if code == 503 {
            self.line(b"Retry-After", b"60");
        }
        Reply::new(code)
    }

    /// Something of this user ends at this instant.
    fn arm_user(&mut self, user: u32, at: Time) {
        if let Some(held) = self.users.get_mut(user) {
            held.alarm.arm(at, Due::User(user), &mut self.timers);
        }
    }

    /// Ends what is over; a timer may fire early, as what it was set for was refreshed.
    fn user_expired(&mut self, now: Time, user: u32, out: &mut Vec<Out>) {
        let Some(held) = self.users.get_mut(user) else { return };
        held.alarm.fired();
        let before = (held.bindings.len(), held.publications.len());
        held.bindings.retain(|b| b.expires > now);
        let bytes = &mut self.document_bytes;
        held.publications.retain(|p| {
            let live = p.expires > now;
            *bytes -= if live { 0 } else { p.document.len() };
            live
        });
        self.stats.registrations -= (before.0 - held.bindings.len()) as u64;
        let ended = before.1 - held.publications.len();
        self.stats.publications -= ended as u64;
        let ends = held.bindings.iter().map(|b| b.expires).chain(held.publications.iter().map(|p| p.expires));
        if let Some(next) = ends.min() {
            self.arm_user(user, next);
        }
        if ended > 0 {
            self.tell_watchers(now, now, user, out);
        }
    }

    /// When [`Core::expire`] wants to be called.
    #[must_use]
    pub fn next_timer(&self) -> Time {
        let lync = self.lync.as_ref().map_or(Time::NEVER, |lync| lync.next_timer());
        self.timers.next().min(lync)
    }

    /// What time brings: retransmissions, ends of lifetimes, merged NOTIFYs.
    pub fn expire(&mut self, now: Time, out: &mut Vec<Out>) {
        self.timers.start(now);
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::Notify(slot) => self.notify_timer(now, slot, out),
                Due::Subscription(slot) => self.subscription_expired(now, slot, out),
                Due::User(user) => self.user_expired(now, user, out),
            }
        }
        while let Some((slot, generation)) = self.timers.pop_merged(now) {
            self.merge(now, slot, generation, out);
        }
        self.with_lync(|lync| lync.expire(now, out));
    }

    /// A connection is gone: what used it has no way back. In the `lync`
    /// dialect others are told.
    pub fn disconnected(&mut self, now: Time, peer: Peer, out: &mut Vec<Out>) {
        self.forget_stream(peer);
        self.with_lync(|lync| lync.disconnected(now, peer, out));
    }
}

const ALLOW: &[u8] = b"REGISTER, SUBSCRIBE, PUBLISH, OPTIONS, ACK";
const PIDF: &[u8] = b"application/pidf+xml";

/// The user part of a URI of this domain.
fn user_of<'a>(uri: &'a [u8], domain: &str) -> Option<&'a [u8]> {
    let uri = value::sip_uri(uri)?;
    uri.host.eq_ignore_ascii_case(domain.as_bytes()).then_some(uri.user)
}

/// The first word of a header value, any case, parameters left aside.
fn is_kind(value: &[u8], wanted: &[u8]) -> bool {
    value.split(|b| *b == b';').next().unwrap_or(b"").trim_ascii().eq_ignore_ascii_case(wanted)
}

/// `user000001` of so many.
fn account_number(user: &[u8], users: u32) -> Option<u32> {
    let digits = user.strip_prefix(b"user")?;
    let plausible = digits.len() >= 6 && digits.iter().all(u8::is_ascii_digit);
    let number = plausible.then(|| value::number(digits)).flatten()?;
    let canonical = digits.len() == 6 || digits[0] != b'0';
    (canonical && number >= 1 && number <= users).then_some(number)
}

/// RFC 3261 §17.2.3: branch, sent-by, method; or the older rule without a magic cookie.
fn transaction_key(via: &[u8], message: &Message<'_>, method: &[u8], key: &mut Vec<u8>) {
    key.clear();
    let branch = message.branch().unwrap_or(b"");
    if branch.starts_with(b"z9hG4bK") {
        key.extend_from_slice(branch);
    } else {
        for part in [message.call_id(), message.header(HeaderId::CSeq).unwrap_or(b"")] {
            key.extend_from_slice(part);
            key.push(0);
        }
        key.extend_from_slice(message.from_tag().unwrap_or(b""));
        key.push(0);
        key.extend_from_slice(message.to_tag().unwrap_or(b""));
    }
    key.push(0);
    // Protocol and sent-by, as written: a copy is written the same.
    let end = via.iter().position(|b| matches!(b, b';' | b',')).unwrap_or(via.len());
    key.extend_from_slice(via[..end].trim_ascii());
    key.push(0);
    key.extend_from_slice(method);
}
