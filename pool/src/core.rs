//! The pool without sockets and clock: a registrar, a presence agent and a
//! state compositor in memory (RFC 3261 §10, 6665, 3903, 3856).
//!
//! [`Core::handle`] takes one message, [`Core::expire`] what time brings; both
//! append what has to be sent, and when. Faults that concern messages as such
//! — loss, doubling — belong to the shell.

mod publish;
mod reply;
mod subscribe;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;

use adsum_sip::client::{ClientTransaction, OnTimer};
use adsum_sip::time::{SECOND, T1, Time};
use adsum_sip::{HeaderId, Message, Scanner, Start, value};

use crate::auth::{Proof, Verifier};
use crate::config::{Chance, PoolConfig};

pub use reply::Reply;

/// Answers kept to recognise retransmissions; beyond, the oldest are forgotten.
const MAX_ANSWERS: usize = 200_000;
/// How long an answer is kept: 64·T1 (timer J).
const ANSWER_LIFE: u64 = 64 * T1;
/// Contacts of one user.
const MAX_CONTACTS: usize = 8;
/// Publications of one user.
const MAX_PUBLICATIONS: usize = 16;
/// Subscriptions of the pool.
const MAX_SUBSCRIPTIONS: usize = 4_000_000;
/// A body beyond this is refused (413).
const MAX_BODY: usize = 64 * 1024;

/// Who a message came from, or goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A datagram.
    Udp(SocketAddr),
    /// A connection, by number, and its address.
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

    fn transport(&self) -> &'static str {
        match self {
            Peer::Udp(_) => "UDP",
            Peer::Stream(_, _, false) => "TCP",
            Peer::Stream(_, _, true) => "TLS",
        }
    }
}

/// Something to send.
#[derive(Debug, Clone)]
pub struct Out {
    /// Where to.
    pub peer: Peer,
    /// The message.
    pub bytes: Vec<u8>,
    /// Not before this instant.
    pub at: Time,
    /// A NOTIFY, which may have to leave from elsewhere.
    pub notify: bool,
}

/// What a pool counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// By method and code: `PUBLISH`, `PUBLISH 200`.
    pub received: BTreeMap<String, u64>,
    /// The same.
    pub sent: BTreeMap<String, u64>,
    /// Requests that came again.
    pub retransmitted: u64,
    /// Messages that are no SIP.
    pub malformed: u64,
    /// Requests that a bound refused.
    pub refused: u64,
    /// Registrations now.
    pub registrations: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// Publications now.
    pub publications: u64,
    /// NOTIFYs that were lost on purpose.
    pub lost_notifies: u64,
    /// Own timing errors above 250 µs.
    pub timing_errors: u64,
}

#[derive(Debug)]
struct Binding {
    uri: Vec<u8>,
    call_id: Vec<u8>,
    cseq: u32,
    expires: Time,
}

#[derive(Debug)]
struct Publication {
    etag: u64,
    /// Tuples and persons, as they were published.
    inner: Vec<u8>,
    namespaces: Vec<u8>,
    expires: Time,
}

#[derive(Debug, Default)]
struct User {
    bindings: Vec<Binding>,
    publications: Vec<Publication>,
    /// Numbers of the subscriptions to this user.
    watchers: Vec<u64>,
}

#[derive(Debug)]
struct Subscription {
    key: Vec<u8>,
    watched: u32,
    peer: Peer,
    target: Vec<u8>,
    routes: Vec<u8>,
    call_id: Vec<u8>,
    /// The subscriber's From and our To, for NOTIFYs.
    remote: Vec<u8>,
    local: Vec<u8>,
    remote_cseq: u32,
    cseq: u32,
    expires: Time,
    /// With `hold_notify`: when a merged NOTIFY is due.
    held: bool,
}

/// A NOTIFY over UDP that was not answered yet.
#[derive(Debug)]
struct Pending {
    transaction: ClientTransaction,
    subscription: u64,
    peer: Peer,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Notify(u64),
    Merged(u64),
    Subscription(u64),
    Sweep,
}

/// The pool.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: PoolConfig,
    verifier: Verifier,
    chance: Chance,
    users: HashMap<u32, User>,
    subscriptions: HashMap<u64, Subscription>,
    by_dialog: HashMap<Vec<u8>, u64>,
    pending: HashMap<u64, Pending>,
    answers: HashMap<Vec<u8>, Vec<u8>>,
    answered: VecDeque<(Time, Vec<u8>)>,
    due: BTreeMap<(Time, Due), ()>,
    next: u64,
    /// With `capacity`: when the one server is free again.
    busy: Time,
    stats: Stats,
    /// Our addresses, for Via and Contact.
    local: SocketAddr,
    scanner: Option<Scanner>,
}

impl Core {
    /// A pool without users on line. `local` stands in Via and Contact.
    #[must_use]
    pub fn new(config: PoolConfig, local: SocketAddr) -> Self {
        Core {
            verifier: Verifier::new(&config.domain, config.seed ^ 0x5ec2_e7a1, config.sha256),
            chance: Chance::new(config.seed),
            users: HashMap::new(),
            subscriptions: HashMap::new(),
            by_dialog: HashMap::new(),
            pending: HashMap::new(),
            answers: HashMap::new(),
            answered: VecDeque::new(),
            due: BTreeMap::from([((Time(SECOND), Due::Sweep), ())]),
            next: 1,
            busy: Time(0),
            stats: Stats::default(),
            local,
            scanner: Some(Scanner::new()),
            config,
        }
    }

    /// What was counted, and what there is.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            registrations: self.users.values().map(|u| u.bindings.len() as u64).sum(),
            publications: self.users.values().map(|u| u.publications.len() as u64).sum(),
            subscriptions: self.subscriptions.len() as u64,
            ..self.stats.clone()
        }
    }

    /// The shell saw that it was late itself.
    pub fn count_timing_error(&mut self) {
        self.stats.timing_errors += 1;
    }

    /// Takes one message.
    pub fn handle(&mut self, now: Time, peer: Peer, bytes: &[u8], out: &mut Vec<Out>) {
        let Some(mut scanner) = self.scanner.take() else { return };
        match scanner.scan(bytes) {
            Ok(message) => match message.start() {
                Start::Request { method, uri } => {
                    count(&mut self.stats.received, &String::from_utf8_lossy(method), 0);
                    self.request(now, peer, method, uri, &message, out);
                }
                Start::Response { code, .. } => self.response(now, code, &message),
            },
            Err(adsum_sip::ScanError::Empty) => {}
            Err(_) => self.stats.malformed += 1,
        }
        self.scanner = Some(scanner);
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
        // Only a datagram can come twice (RFC 3261 §17.2.2).
        let key = peer.is_udp().then(|| transaction_key(message, method)).flatten();
        if let Some(answer) = key.as_ref().and_then(|key| self.answers.get(key)) {
            self.stats.retransmitted += 1;
            if !answer.is_empty() {
                out.push(Out { peer, bytes: answer.clone(), at: now, notify: false });
            }
            return;
        }
        let mut reply = self.answer(now, peer, method, uri, message, out);
        let delay = self.config.answer_delay.map_or(0, |delay| delay.draw(&mut self.chance));
        reply.at = reply.at.max(now) + delay;
        let code = reply.code;
        let bytes = reply.render(message, peer);
        count(&mut self.stats.sent, &String::from_utf8_lossy(method), code);
        if let Some(key) = key {
            self.answered.push_back((now + ANSWER_LIFE, key.clone()));
            self.answers.insert(key, bytes.clone());
            while self.answers.len() > MAX_ANSWERS
                || self.answered.front().is_some_and(|(until, _)| *until <= now)
            {
                let Some((_, old)) = self.answered.pop_front() else { break };
                self.answers.remove(&old);
            }
        }
        // The answer first, then the NOTIFYs that it causes.
        let at = out.iter().position(|o| o.notify).unwrap_or(out.len());
        out.insert(at, Out { peer, bytes, at: reply.at, notify: false });
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
        match method {
            b"OPTIONS" => return Reply::new(200).header("Allow", ALLOW).header("Accept", PIDF),
            b"REGISTER" | b"SUBSCRIBE" | b"PUBLISH" => {}
            b"INVITE" | b"MESSAGE" | b"BYE" | b"INFO" | b"REFER" | b"NOTIFY" | b"CANCEL" => {
                return Reply::new(405).header("Allow", ALLOW);
            }
            _ => return Reply::new(501),
        }
        // In a dialog the To names the resource, else the Request-URI (To, for REGISTER).
        let to = message.header(HeaderId::To).and_then(value::name_addr).map_or(&b""[..], |to| to.uri);
        let resource = if method == b"REGISTER" || message.to_tag().is_some() { to } else { uri };
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
            _ => self.subscribe(now, user, peer, message, out),
        }
    }

    /// What is asked of any request (RFC 3261 §8.2.1 to §8.2.3, §16.3).
    fn acceptable(&mut self, method: &[u8], message: &Message<'_>) -> Result<(), Reply> {
        let complete = message.header(HeaderId::CallId).is_some()
            && message.cseq().is_some_and(|(_, m)| m == method)
            && message.from_tag().is_some()
            && message.header(HeaderId::To).is_some()
            && message.header(HeaderId::Via).is_some();
        if !complete {
            return Err(Reply::new(400));
        }
        if message.header(HeaderId::MaxForwards).and_then(value::number) == Some(0) {
            return Err(Reply::new(483));
        }
        if let Some(required) = message.header(HeaderId::Require) {
            return Err(Reply::new(420).header("Unsupported", &String::from_utf8_lossy(required)));
        }
        if message.body().len() > MAX_BODY {
            return Err(Reply::new(413));
        }
        let name = String::from_utf8_lossy(method);
        for at in 0..self.config.reject.len() {
            let share = self.config.reject[at].share;
            if self.config.reject[at].method == name && self.chance.hit(share) {
                return Err(Reply::new(self.config.reject[at].code));
            }
        }
        Ok(())
    }

    fn authenticate(&mut self, now: Time, sender: u32, message: &Message<'_>) -> Result<(), Reply> {
        if !self.config.auth {
            return Ok(());
        }
        let now_s = now.0 / SECOND;
        let proof = self.verifier.verify(message, now_s, |name| {
            account_number(name.as_bytes(), self.config.users).map(|n| format!("pw-{}", user_name(n)))
        });
        match proof {
            Proof::User(name) if account_number(name.as_bytes(), self.config.users) == Some(sender) => Ok(()),
            // Wrong, or another user's: no second challenge, as a registrar that minds guessing does.
            Proof::User(_) | Proof::Wrong => Err(Reply::new(403)),
            Proof::Absent | Proof::Stale => {
                let mut lines = Vec::new();
                self.verifier.challenge(now_s, proof == Proof::Stale, &mut lines);
                Err(Reply::new(401).lines(lines))
            }
        }
    }

    /// The number of a user of ours; the domain has to be ours, too.
    fn account(&self, uri: &[u8]) -> Option<u32> {
        let uri = value::sip_uri(uri)?;
        let ours = uri.host.eq_ignore_ascii_case(self.config.domain.as_bytes());
        ours.then(|| account_number(uri.user, self.config.users)).flatten()
    }

    fn register(&mut self, now: Time, user: u32, message: &Message<'_>) -> Reply {
        let (least, most) = self.config.expires;
        let call_id = message.call_id();
        let cseq = message.cseq().map_or(0, |(n, _)| n);
        let default = message.expires();
        let held = self.users.entry(user).or_default();
        held.bindings.retain(|b| b.expires > now);
        let contacts: Vec<&[u8]> = message.headers(HeaderId::Contact).flat_map(value::list).collect();
        if contacts == [b"*".as_slice()] {
            if default != Some(0) {
                return Reply::new(400);
            }
            held.bindings.clear();
            return Reply::new(200);
        }
        for contact in contacts {
            let Some(contact) = value::name_addr(contact) else { return Reply::new(400) };
            let asked =
                value::param(contact.params, "expires").and_then(value::number).or(default).unwrap_or(most);
            if asked > 0 && asked < least {
                return Reply::new(423).header("Min-Expires", &least.to_string());
            }
            let known = held.bindings.iter().position(|b| b.uri == contact.uri);
            // RFC 3261 §10.3 step 7: an older request of the same Call-ID changes nothing.
            if known.is_some_and(|at| held.bindings[at].call_id == call_id && held.bindings[at].cseq >= cseq)
            {
                return Reply::new(500);
            }
            if let Some(at) = known {
                held.bindings.remove(at);
            }
            if asked > 0 {
                if held.bindings.len() >= MAX_CONTACTS {
                    self.stats.refused += 1;
                    return Reply::new(403);
                }
                held.bindings.push(Binding {
                    uri: contact.uri.to_vec(),
                    call_id: call_id.to_vec(),
                    cseq,
                    expires: now + u64::from(asked.min(most)) * SECOND,
                });
            }
        }
        let mut lines = Vec::new();
        for b in &held.bindings {
            lines.extend_from_slice(b"Contact: <");
            lines.extend_from_slice(&b.uri);
            lines.extend_from_slice(
                format!(">;expires={}\r\n", b.expires.since(now).div_ceil(SECOND)).as_bytes(),
            );
        }
        Reply::new(200).lines(lines)
    }

    /// A response: only NOTIFYs of ours have any.
    fn response(&mut self, now: Time, code: u16, message: &Message<'_>) {
        count(&mut self.stats.received, "NOTIFY", code);
        let number = message
            .branch()
            .and_then(|branch| branch.strip_prefix(b"z9hG4bKpool"))
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
        let Some(number) = number else { return };
        // Over streams the branch names the subscription itself.
        let subscription = match self.pending.get_mut(&number) {
            Some(pending) => {
                pending.transaction.on_response(now, code);
                pending.subscription
            }
            None => return,
        };
        if code >= 200 {
            self.pending.remove(&number);
        }
        if matches!(code, 404 | 405 | 410 | 416 | 480..=485 | 489 | 501 | 604) {
            self.remove_subscription(subscription);
        }
    }

    /// When [`Core::expire`] wants to be called.
    #[must_use]
    pub fn next_timer(&self) -> Time {
        self.due.keys().next().map_or(Time::NEVER, |(at, _)| *at)
    }

    /// What time brings: retransmissions, ends of lifetimes, merged NOTIFYs.
    pub fn expire(&mut self, now: Time, out: &mut Vec<Out>) {
        while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let (_, due) = entry.remove_entry().0;
            match due {
                Due::Notify(number) => self.notify_timer(now, number, out),
                Due::Merged(subscription) => self.merged(now, subscription, out),
                Due::Subscription(number) => self.subscription_expired(now, number, out),
                Due::Sweep => {
                    self.sweep(now, out);
                    self.due.insert((now + SECOND, Due::Sweep), ());
                }
            }
        }
    }

    fn notify_timer(&mut self, now: Time, number: u64, out: &mut Vec<Out>) {
        let Some(pending) = self.pending.get_mut(&number) else { return };
        match pending.transaction.on_timer(now) {
            OnTimer::Retransmit => {
                out.push(Out { peer: pending.peer, bytes: pending.bytes.clone(), at: now, notify: true });
                count(&mut self.stats.sent, "NOTIFY", 0);
                self.due.insert((pending.transaction.next(), Due::Notify(number)), ());
            }
            OnTimer::Wait => {
                self.due.insert((pending.transaction.next(), Due::Notify(number)), ());
            }
            OnTimer::TimedOut | OnTimer::Terminated => {
                let subscription = pending.subscription;
                self.pending.remove(&number);
                self.remove_subscription(subscription);
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A connection is gone: what used it has no way back.
    pub fn disconnected(&mut self, peer: Peer) {
        let gone: Vec<u64> =
            self.subscriptions.iter().filter(|(_, s)| s.peer == peer).map(|(n, _)| *n).collect();
        for number in gone {
            self.remove_subscription(number);
        }
    }
}

const ALLOW: &str = "REGISTER, SUBSCRIBE, PUBLISH, NOTIFY, OPTIONS, ACK";
const PIDF: &str = "application/pidf+xml";

fn count(counts: &mut BTreeMap<String, u64>, method: &str, code: u16) {
    let key = if code == 0 { method.to_owned() } else { format!("{method} {code}") };
    *counts.entry(key).or_default() += 1;
}

/// `user000001` of so many.
fn account_number(user: &[u8], users: u32) -> Option<u32> {
    let digits = user.strip_prefix(b"user")?;
    let plausible = digits.len() >= 6 && digits.iter().all(u8::is_ascii_digit);
    let number = plausible.then(|| value::number(digits)).flatten()?;
    let canonical = digits.len() == 6 || number > 999_999;
    (canonical && number >= 1 && number <= users).then_some(number)
}

fn user_name(number: u32) -> String {
    format!("user{number:06}")
}

/// RFC 3261 §17.2.3: branch, sent-by, method; or the older rule without a magic cookie.
fn transaction_key(message: &Message<'_>, method: &[u8]) -> Option<Vec<u8>> {
    let via = value::via(message.header(HeaderId::Via)?)?;
    let branch = message.branch().unwrap_or(b"");
    let mut key = Vec::with_capacity(96);
    if branch.starts_with(b"z9hG4bK") {
        key.extend_from_slice(branch);
    } else {
        key.extend_from_slice(message.call_id());
        key.extend_from_slice(message.header(HeaderId::CSeq)?);
        key.extend_from_slice(message.from_tag().unwrap_or(b""));
    }
    key.extend_from_slice(via.host);
    key.extend_from_slice(&via.port.unwrap_or(0).to_be_bytes());
    key.extend_from_slice(method);
    Some(key)
}
