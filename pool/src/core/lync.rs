//! The `lync` dialect: registrar, presence agent and publication store of
//! [MS-SIPREGE], [MS-PRES] and [MS-SIPAE], over TCP and TLS.
//!
//! There is no server to compare with. What it does follows the published
//! documents and what a widely used client expects; where those leave
//! something open, a comment says so, and the pool is tolerant.
//!
//! Users lie in a vector by their number; endpoints, dialogs and watches (one
//! publisher in one dialog) in slabs. Watches are linked by publisher, so a
//! publication touches nobody but those who are to be told.

mod batch;
mod category;
mod clock;
mod contacts;
mod container;
mod dialog;
mod digest;
mod doc;
mod gate;
mod notify;
mod publish;
mod register;
mod render;
mod tell;

use std::collections::HashMap;
use std::net::SocketAddr;

use adsum_presence::slab::{NONE, Slab};
use adsum_sip::ids::mix;
use adsum_sip::time::Time;
use adsum_sip::{HeaderId, Message, value};

use crate::config::PoolConfig;

use super::counts::{Stats, Table, row};
use super::ids::{Tags, put_line, put_number_line, write_user};
use super::knobs::Knobs;
use super::list::List;
use super::pieces::Pieces;
use super::timers::Timers;
use super::users::{Alarm, Users};
use super::{Out, Peer, account_number, is_kind, user_of};

use batch::Watch;
use category::{Aggregate, Instance};
use clock::Clock;
use contacts::Contacts;
use container::Container;
use dialog::Dialog;
use gate::{Association, Gate};
use register::Endpoint;

/// A body beyond this is refused: a batch of a thousand contacts takes a tenth of it.
const MAX_BODY: usize = 512 * 1024;
/// The version that clients look for ([MS-PRES] §4.14.3.1).
const SERVER: &[u8] = b"RTC/5.0";
/// What may be subscribed to; with a blank a known client would not find its own.
const ALLOW_EVENTS: &[u8] = b"vnd-microsoft-provisioning-v2,vnd-microsoft-roaming-contacts,\
    presence,vnd-microsoft-roaming-self";

/// What is known of one account.
#[derive(Debug, Default)]
struct User {
    endpoints: Vec<u32>,
    instances: Vec<Instance>,
    aggregate: Aggregate,
    /// `None` while they are those that everybody begins with.
    containers: Option<Vec<Container>>,
    contacts: Option<Box<Contacts>>,
    /// Watches of this user.
    watchers: List,
    /// Of instances.
    alarm: Alarm,
}

/// What a timer is for.
#[derive(Debug, Clone, Copy)]
enum Due {
    /// The end of a registration.
    Endpoint(u32),
    /// The pool signs it off on purpose.
    Deregister(u32),
    /// The end of a subscription.
    Dialog(u32),
    /// The end of an instance of a user.
    User(u32),
}

/// What hangs on a connection.
#[derive(Debug, Default)]
struct Stream {
    endpoints: Vec<u32>,
    /// It came with a certificate that is trusted.
    is_trusted: bool,
}

/// Whose tag goes into To.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Tag {
    /// One that is for this answer only.
    #[default]
    Own,
    /// Of a dialog, by slot and generation.
    Dialog(u32, u32),
    /// Of a registration.
    Endpoint(u32, u32),
}

/// An answer that is being made; its header lines stand in [`Lync`]'s `lines`,
/// its body in `body`.
#[derive(Debug, Clone, Copy)]
struct Reply {
    code: u16,
    at: Time,
    tag: Tag,
    /// The `Expires` header, which is signed.
    expires: Option<u32>,
    /// It stands for a notification, as `ms-piggyback-cseq` says.
    is_notification: bool,
}

impl Reply {
    fn new(code: u16) -> Self {
        Reply { code, at: Time(0), tag: Tag::Own, expires: None, is_notification: false }
    }
}

/// The pool, as far as it speaks this dialect.
#[derive(Debug)]
pub(super) struct Lync {
    config: PoolConfig,
    gate: Gate,
    knobs: Knobs,
    clock: Clock,
    users: Users<User>,
    endpoints: Slab<Endpoint>,
    dialogs: Slab<Dialog>,
    watches: Slab<Watch>,
    streams: HashMap<u64, Stream>,
    timers: Timers<Due>,
    /// Publications that the 409s on purpose are counted by.
    publications: u64,
    /// Bytes of all that is published.
    document_bytes: usize,
    dialog_tags: Tags,
    endpoint_tags: Tags,
    secret: u64,
    /// Host and port that we are reached by, by transport.
    ends: [Vec<u8>; 3],
    pub(super) stats: Stats,
    pub(super) sent: Table,
    pub(super) spare: Vec<Vec<u8>>,
    /// Scratch: lines of the answer, its body or that of a notification.
    lines: Vec<u8>,
    body: Vec<u8>,
    /// The number that the answer is signed under.
    reserved: u32,
}

impl Lync {
    pub(super) fn new(config: &PoolConfig, local: SocketAddr) -> Self {
        let text = local.to_string().into_bytes();
        Lync {
            gate: Gate::new(config),
            knobs: Knobs::new(config, 0x17c5),
            clock: Clock::default(),
            users: Users::default(),
            endpoints: Slab::default(),
            dialogs: Slab::default(),
            watches: Slab::default(),
            streams: HashMap::new(),
            timers: Timers::default(),
            publications: 0,
            document_bytes: 0,
            dialog_tags: Tags(mix(config.seed ^ 0x11a6)),
            endpoint_tags: Tags(mix(config.seed ^ 0xe9d0)),
            secret: mix(config.seed ^ 0x7e57),
            ends: [text.clone(), text.clone(), text],
            stats: Stats::default(),
            sent: Table::new(),
            spare: Vec::new(),
            lines: Vec::new(),
            body: Vec::new(),
            reserved: 0,
            config: config.clone(),
        }
    }

    /// At `now` it is so many milliseconds of UTC since 1970.
    pub(super) fn set_clock(&mut self, now: Time, unix_ms: u64) {
        self.clock.set(now, unix_ms);
    }

    pub(super) fn set_tls_address(&mut self, address: SocketAddr) {
        self.ends[2] = address.to_string().into_bytes();
    }

    /// A connection came with a certificate for these names, which its CA vouches for.
    pub(super) fn certified(&mut self, connection: u64, names: &[String]) {
        let trusted =
            |name: &String| self.config.lync.trusted_cn.iter().any(|t| t.eq_ignore_ascii_case(name));
        if names.iter().any(trusted) {
            self.streams.entry(connection).or_default().is_trusted = true;
            self.stats.trusted_connections += 1;
        }
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            registrations: self.endpoints.len() as u64,
            subscriptions: self.dialogs.len() as u64,
            watches: self.watches.len() as u64,
            publications: self.stats.publications,
            document_bytes: self.document_bytes as u64,
            associations: self.gate.made(),
            associations_now: self.gate.associations() as u64,
            associations_evicted: self.gate.evicted(),
            ..self.stats.clone()
        }
    }

    /// True if this message is for us where both dialects are spoken: clients
    /// of this one name their endpoint in From, or what they support.
    pub(super) fn speaks(method: &[u8], message: &Message<'_>) -> bool {
        let epid = || {
            let from = message.header(HeaderId::From).and_then(value::name_addr);
            from.is_some_and(|from| value::param(from.params, "epid").is_some())
        };
        matches!(method, b"SERVICE" | b"BENOTIFY")
            || epid()
            || has_word(message, HeaderId::Supported, b"msrtc-event-categories")
            || has_word(message, HeaderId::Supported, b"ms-benotify")
    }

    fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_else(|| Vec::with_capacity(2048))
    }

    /// Takes a request. Nothing comes twice over a connection, so there are no
    /// server transactions: a Via without a branch (RFC 2543) is as good as one with.
    pub(super) fn request(
        &mut self,
        now: Time,
        peer: Peer,
        method: &[u8],
        uri: &[u8],
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) {
        self.timers.start(now);
        // BENOTIFY is never answered; and without a Via there is no way back.
        if matches!(method, b"ACK" | b"BENOTIFY") {
            return;
        }
        if message.header(HeaderId::Via).is_none() {
            self.stats.malformed += 1;
            return;
        }
        self.lines.clear();
        self.body.clear();
        let first = out.len();
        let (mut reply, association) = self.answer(now, peer, method, uri, message, out);
        reply.at = reply.at.max(now) + self.knobs.answer_delay();
        self.follow(reply);
        let bytes = self.rendered(reply, association, message, peer);
        self.sent.count(row(method), reply.code);
        // The answer first, then the notifications that it causes.
        out.insert(first, Out { peer, bytes, at: reply.at, notify: false });
    }

    /// A 200 that is a notification itself, and leaves late: the next ones of its dialog wait for it.
    fn follow(&mut self, reply: Reply) {
        if let Tag::Dialog(slot, generation) = reply.tag
            && reply.is_notification
            && self.dialogs.generation(slot) == generation
            && let Some(dialog) = self.dialogs.get_mut(slot)
        {
            dialog.last_notify = dialog.last_notify.max(reply.at);
        }
    }

    fn answer(
        &mut self,
        now: Time,
        peer: Peer,
        method: &[u8],
        uri: &[u8],
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) -> (Reply, Option<Association>) {
        let complete = message.header(HeaderId::CallId).is_some_and(|id| !id.is_empty())
            && message.cseq().is_some_and(|(_, m)| m == method)
            && message.from_tag().is_some();
        let address = |id| message.header(id).and_then(value::name_addr);
        let (Some(from), Some(to), true) = (address(HeaderId::From), address(HeaderId::To), complete) else {
            return (Reply::new(400), None);
        };
        if peer.is_udp() {
            return (self.refusal(400, 4000, "this dialect has no UDP: connect over TCP or TLS"), None);
        }
        if method == b"CANCEL" {
            return (Reply::new(481), None);
        }
        let Some(sender) = self.account(from.uri) else {
            return (self.unknown(), None);
        };
        if let (b"REGISTER", Some(to)) = (method, &self.config.lync.redirect_to) {
            let transport = if peer.transport() == 2 { "tls" } else { "tcp" };
            let contact = format!("<sip:{to};transport={transport}>");
            self.stats.redirected += 1;
            self.line(b"Contact", contact.as_bytes());
            return (Reply::new(301), None);
        }
        let made = self.gate.made();
        let association = match self.admit(now, peer, sender, message) {
            Ok(association) => association,
            Err(refused) => return refused,
        };
        // Any request may renew an association: what its endpoint is told is signed under it from now on.
        if self.gate.made() > made
            && let Some(slot) = self.sender(sender, peer, message)
            && let Some(endpoint) = self.endpoints.get_mut(slot).filter(|e| e.peer == peer)
        {
            endpoint.association = association;
        }
        if let Err(reply) = self.acceptable(method, message) {
            return (reply, association);
        }
        let reply = match method {
            b"REGISTER" if self.account(to.uri) != Some(sender) => {
                self.refusal(403, 4004, "credentials may not act as this From URI")
            }
            b"REGISTER" => self.register(now, sender, peer, association, message, out),
            b"SUBSCRIBE" => self.subscribe(now, sender, uri, peer, message, out),
            b"SERVICE" => self.service(now, sender, to.uri, peer, message, out),
            b"OPTIONS" => {
                self.line(b"Allow", ALLOW);
                self.line(b"Allow-Events", ALLOW_EVENTS);
                Reply::new(200)
            }
            // Calls, conferences, messages: no presence, and said so.
            _ => Reply::new(501),
        };
        (reply, association)
    }

    /// What is asked of any request after its sender is known.
    fn acceptable(&mut self, method: &[u8], message: &Message<'_>) -> Result<(), Reply> {
        if message.header(HeaderId::MaxForwards).and_then(value::number) == Some(0) {
            return Err(Reply::new(483));
        }
        if message.body().len() > MAX_BODY {
            return Err(self.refuse(413, 4008, "input data too large"));
        }
        const KNOWN: [&[u8]; 7] = [
            b"ms-benotify",
            b"adhoclist",
            b"categoryList",
            b"eventlist",
            b"gruu-10",
            b"msrtc-event-categories",
            b"com.microsoft.msrtc.presence",
        ];
        let mut extensions = false;
        // What an INVITE requires is not looked at: it is answered 501 anyway.
        let looked_at = matches!(method, b"REGISTER" | b"SUBSCRIBE" | b"SERVICE");
        for required in [HeaderId::Require, HeaderId::ProxyRequire].into_iter().filter(|_| looked_at) {
            for extension in message.headers(required).flat_map(value::list) {
                if !KNOWN.iter().any(|known| known.eq_ignore_ascii_case(extension)) {
                    extensions = true;
                    self.line(b"Unsupported", extension);
                }
            }
        }
        if extensions {
            return Err(Reply::new(420));
        }
        self.knobs.rejection(method).map_or(Ok(()), |code| Err(Reply::new(code)))
    }

    /// The number of a user of ours, in any case; the domain has to be ours, too.
    fn account(&self, uri: &[u8]) -> Option<u32> {
        let user = user_of(uri, &self.config.domain)?;
        account_number(&user.to_ascii_lowercase(), self.config.users)
    }

    /// Appends `sip:user000001@domain`.
    fn write_aor(&self, user: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"sip:");
        write_user(user, out);
        out.push(b'@');
        out.extend_from_slice(self.config.domain.as_bytes());
    }

    /// A line of the answer that is being made.
    fn line(&mut self, name: &[u8], value: &[u8]) {
        put_line(name, value, &mut self.lines);
    }

    /// The same with a number.
    fn number_line(&mut self, name: &[u8], number: u64) {
        put_number_line(name, number, &mut self.lines);
    }

    /// An answer with its reason ([MS-OCER] §2.2.1.1): `ms-diagnostics`.
    fn refusal(&mut self, code: u16, id: u32, reason: &str) -> Reply {
        let domain = &self.config.domain;
        let line = format!("ms-diagnostics: {id};reason=\"{reason}\";source=\"{domain}\"\r\n");
        self.lines.extend_from_slice(line.as_bytes());
        Reply::new(code)
    }

    /// The same for a bound of ours, counted.
    fn refuse(&mut self, code: u16, id: u32, reason: &str) -> Reply {
        self.stats.refused += 1;
        self.lines.clear();
        self.body.clear();
        if code == 503 {
            self.line(b"Retry-After", b"60");
        }
        self.refusal(code, id, reason)
    }

    fn unknown(&mut self) -> Reply {
        self.refusal(404, 4005, "Destination URI either not enabled for SIP or does not exist")
    }

    fn not_xml(&mut self) -> Reply {
        self.stats.malformed += 1;
        self.refusal(400, 4001, "XML parse failure")
    }

    /// Something of this user ends at this instant.
    fn arm_user(&mut self, user: u32, at: Time) {
        if let Some(held) = self.users.get_mut(user) {
            held.alarm.arm(at, Due::User(user), &mut self.timers);
        }
    }

    /// When [`Lync::expire`] wants to be called.
    pub(super) fn next_timer(&self) -> Time {
        self.timers.next()
    }

    /// What time brings.
    pub(super) fn expire(&mut self, now: Time, out: &mut Vec<Out>) {
        self.timers.start(now);
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::Endpoint(slot) => self.endpoint_expired(now, slot, out),
                Due::Deregister(slot) => self.deregister(now, slot, out),
                Due::Dialog(slot) => self.dialog_expired(now, slot, out),
                Due::User(user) => self.instances_expired(now, user, out),
            }
        }
        while let Some((slot, generation)) = self.timers.pop_merged(now) {
            self.merge(now, slot, generation, out);
        }
    }

    /// A connection is gone, and with it the endpoints that were reached by it.
    pub(super) fn disconnected(&mut self, now: Time, peer: Peer, out: &mut Vec<Out>) {
        let Peer::Stream(number, ..) = peer else { return };
        self.timers.start(now);
        self.gate.disconnected(number);
        let Some(stream) = self.streams.remove(&number) else { return };
        for slot in stream.endpoints {
            self.stats.lost_endpoints += 1;
            self.drop_endpoint(now, slot, out);
        }
    }
}

const ALLOW: &[u8] = b"REGISTER, SUBSCRIBE, SERVICE, OPTIONS, ACK";

/// True if a header that is a list names this, in whatever case and in
/// whichever of its lines.
fn has_word(message: &Message<'_>, header: HeaderId, word: &[u8]) -> bool {
    message.headers(header).flat_map(value::list).any(|element| element.eq_ignore_ascii_case(word))
}
