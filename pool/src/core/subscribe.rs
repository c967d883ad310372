//! SUBSCRIBE: dialogs and how long they live (RFC 6665 §4.2.1).

use std::net::{IpAddr, SocketAddr};

use adsum_presence::slab::NONE;
use adsum_presence::wheel::TimerId;
use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message, value};

use super::ids::Tags;
use super::list::{Linked, Links};
use super::pieces::Pieces;
use super::publish::{accepts_pidf, is_presence};
use super::{Core, Due, Out, PIDF, Peer, Reply};

/// Subscriptions of the pool: at about 350 bytes each, 1.4 GB.
const MAX_SUBSCRIPTIONS: usize = 4_000_000;

/// One subscription: a dialog with one usage.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Pieces by [`Piece`].
    text: Pieces<6>,
    pub(super) watched: u32,
    watcher: u32,
    pub(super) peer: Peer,
    pub(super) expires: Time,
    /// When the latest NOTIFY leaves: none overtakes another.
    pub(super) last_notify: Time,
    remote_cseq: u32,
    pub(super) cseq: u32,
    timer: TimerId,
    /// In the list of those who watch the same user.
    pub(super) watches: Links,
    previous_of_stream: u32,
    next_of_stream: u32,
    /// With `hold_notify`: a merged NOTIFY is due.
    pub(super) held: bool,
}

/// The pieces of a subscription's text.
#[derive(Debug, Clone, Copy)]
pub(super) enum Piece {
    /// The remote target (RFC 3261 §12.1.1): Request-URI of NOTIFYs.
    Target,
    /// Route header lines.
    Routes,
    /// The subscriber's From: To of NOTIFYs.
    Remote,
    CallId,
    /// The subscriber's To: with our tag, From of NOTIFYs.
    Local,
    /// `;id=…` and its like (RFC 6665 §8.2.1).
    EventParameters,
}

impl Subscription {
    pub(super) fn piece(&self, piece: Piece) -> &[u8] {
        self.text.get(piece as usize)
    }
}

impl Linked for Subscription {
    fn links(&mut self) -> &mut Links {
        &mut self.watches
    }
}

impl Core {
    pub(super) fn subscribe(
        &mut self,
        now: Time,
        user: u32,
        sender: u32,
        peer: Peer,
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) -> Reply {
        if !is_presence(message) {
            self.line(b"Allow-Events", b"presence");
            return Reply::new(489);
        }
        if !accepts_pidf(message) {
            self.line(b"Accept", PIDF);
            return Reply::new(406);
        }
        let granted = match self.grant(message.expires()) {
            Ok(granted) => granted,
            Err(reply) => return reply,
        };
        let found = match message.to_tag() {
            Some(tag) => self.refresh(now, tag, sender, peer, granted, message),
            None => self.create(now, user, sender, peer, granted, message),
        };
        let slot = match found {
            Ok(slot) => slot,
            Err(reply) => return reply,
        };
        let generation = self.subscriptions.generation(slot);
        self.compose(now, self.subscriptions[slot].watched);
        self.notify(now, now, slot, granted > 0, out);
        if granted == 0 {
            self.remove_subscription(slot);
        }
        self.number_line(b"Expires", u64::from(granted));
        self.lines.extend_from_slice(b"Contact: ");
        self.lines.extend_from_slice(&self.ends.contact[peer.transport()]);
        self.lines.extend_from_slice(b"\r\n");
        Reply::new(200).tag(slot, generation)
    }

    fn refresh(
        &mut self,
        now: Time,
        tag: &[u8],
        sender: u32,
        peer: Peer,
        granted: u32,
        message: &Message<'_>,
    ) -> Result<u32, Reply> {
        let gone = || Reply::new(481);
        let slot = Tags::slot(tag).ok_or_else(gone)?;
        let ours = self.tags.is(tag, slot, self.subscriptions.generation(slot));
        let s = self.subscriptions.get_mut(slot).filter(|_| ours).ok_or_else(gone)?;
        let same = s.piece(Piece::CallId) == message.call_id()
            && value::tag(s.piece(Piece::Remote)) == message.from_tag()
            && s.piece(Piece::EventParameters) == event_parameters(message);
        if !same {
            return Err(gone());
        }
        if s.watcher != sender {
            return Err(Reply::new(403));
        }
        let cseq = message.cseq().map_or(0, |(n, _)| n);
        if cseq <= s.remote_cseq {
            return Err(Reply::new(500)); // RFC 3261 §12.2.2
        }
        s.remote_cseq = cseq;
        // A target refresh (§12.2.2), unless Contact is left out.
        let contact = message.header(HeaderId::Contact).and_then(value::name_addr);
        let moved = |uri: &&[u8]| s.piece(Piece::Routes).is_empty() && *uri != s.piece(Piece::Target);
        if let Some(target) = contact.map(|c| c.uri).filter(moved) {
            use Piece::*;
            let [remote, call_id, local, event] =
                [Remote, CallId, Local, EventParameters].map(|p| s.piece(p).to_vec());
            let pieces = [target, b"", &remote, &call_id, &local, &event];
            s.text = Pieces::new(pieces).ok_or_else(|| Reply::new(413))?;
        }
        let expires = now + u64::from(granted) * SECOND;
        s.expires = expires;
        let routed = !s.piece(Piece::Routes).is_empty();
        let before = s.peer;
        let back = if routed && peer.is_udp() { before } else { way_back(peer, message).unwrap_or(before) };
        if back != before {
            self.leave_stream(slot);
            self.subscriptions[slot].peer = back;
            self.join_stream(slot);
        }
        self.arm_subscription(slot, expires);
        Ok(slot)
    }

    fn create(
        &mut self,
        now: Time,
        user: u32,
        sender: u32,
        peer: Peer,
        granted: u32,
        message: &Message<'_>,
    ) -> Result<u32, Reply> {
        if self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(self.refuse(503));
        }
        let contact =
            message.header(HeaderId::Contact).and_then(value::name_addr).ok_or_else(|| Reply::new(400))?;
        let back = way_back(peer, message).ok_or_else(|| Reply::new(403))?;
        let (target, routes) = route_set(message, contact.uri);
        let header = |id| message.header(id).unwrap_or(b"");
        let pieces = [
            target,
            &routes,
            header(HeaderId::From),
            message.call_id(),
            header(HeaderId::To),
            event_parameters(message),
        ];
        let Some(text) = Pieces::new(pieces) else { return Err(self.refuse(413)) };
        let expires = now + u64::from(granted) * SECOND;
        let (slot, _) = self.subscriptions.insert(Subscription {
            text,
            watched: user,
            watcher: sender,
            peer: back,
            expires,
            last_notify: Time(0),
            remote_cseq: message.cseq().map_or(0, |(n, _)| n),
            cseq: 0,
            timer: TimerId::NONE,
            watches: Links::default(),
            previous_of_stream: NONE,
            next_of_stream: NONE,
            held: false,
        });
        self.users.entry(user).watchers.push(slot, &mut self.subscriptions);
        self.join_stream(slot);
        self.arm_subscription(slot, expires);
        Ok(slot)
    }

    fn arm_subscription(&mut self, slot: u32, expires: Time) {
        if let Some(s) = self.subscriptions.get_mut(slot) {
            self.timers.arm(&mut s.timer, expires, Due::Subscription(slot));
        }
    }

    /// The timer fired: it is over, or was refreshed.
    pub(super) fn subscription_expired(&mut self, now: Time, slot: u32, out: &mut Vec<Out>) {
        let Some(s) = self.subscriptions.get_mut(slot) else { return };
        s.timer = TimerId::NONE;
        let (expires, watched) = (s.expires, s.watched);
        if expires > now {
            return self.arm_subscription(slot, expires);
        }
        self.compose(now, watched);
        self.notify(now, now, slot, false, out);
        self.remove_subscription(slot);
    }

    pub(super) fn remove_subscription(&mut self, slot: u32) {
        self.leave_stream(slot);
        let Some(s) = self.subscriptions.get_mut(slot) else { return };
        s.text = Pieces::default();
        let (links, watched) = (s.watches, s.watched);
        self.timers.cancel(&mut s.timer);
        self.subscriptions.release(slot);
        self.users.entry(watched).watchers.remove(links, &mut self.subscriptions);
    }

    fn join_stream(&mut self, slot: u32) {
        let Peer::Stream(number, ..) = self.subscriptions[slot].peer else { return };
        let next = self.streams.insert(number, slot).unwrap_or(NONE);
        self.subscriptions[slot].next_of_stream = next;
        self.subscriptions[slot].previous_of_stream = NONE;
        if let Some(next) = self.subscriptions.get_mut(next) {
            next.previous_of_stream = slot;
        }
    }

    fn leave_stream(&mut self, slot: u32) {
        let Some(s) = self.subscriptions.get(slot) else { return };
        let Peer::Stream(number, ..) = s.peer else { return };
        let (before, after) = (s.previous_of_stream, s.next_of_stream);
        match self.subscriptions.get_mut(before) {
            Some(s) => s.next_of_stream = after,
            None if after == NONE => drop(self.streams.remove(&number)),
            None => drop(self.streams.insert(number, after)),
        }
        if let Some(s) = self.subscriptions.get_mut(after) {
            s.previous_of_stream = before;
        }
    }

    pub(super) fn forget_stream(&mut self, peer: Peer) {
        let Peer::Stream(number, ..) = peer else { return };
        // Bounded by what there is, whatever the lists say.
        for _ in 0..self.subscriptions.len() {
            let Some(slot) = self.streams.get(&number).copied() else { return };
            self.remove_subscription(slot);
        }
    }
}

fn event_parameters<'a>(message: &Message<'a>) -> &'a [u8] {
    let event = message.header(HeaderId::Event).unwrap_or(b"");
    &event[event.iter().position(|b| *b == b';').unwrap_or(event.len())..]
}

/// Request-URI and Route lines of NOTIFYs: the Record-Route headers in their
/// order (RFC 3261 §12.1.1), by the rules for loose and strict routers of §12.2.1.1.
fn route_set<'a>(message: &Message<'a>, contact: &'a [u8]) -> (&'a [u8], Vec<u8>) {
    let mut routes = Vec::new();
    let mut target = contact;
    let mut route = |value: [&[u8]; 3]| {
        routes.extend_from_slice(b"Route: ");
        value.iter().for_each(|part| routes.extend_from_slice(part));
        routes.extend_from_slice(b"\r\n");
    };
    for (at, value) in message.headers(HeaderId::RecordRoute).flat_map(value::list).enumerate() {
        let uri = value::name_addr(value).map_or(value, |a| a.uri);
        let loose = value::sip_uri(uri).is_none_or(|uri| value::param(uri.params, "lr").is_some());
        if at == 0 && !loose {
            target = uri;
        } else {
            route([value, b"", b""]);
        }
    }
    if target != contact {
        route([b"<", contact, b">"]);
    }
    (target, routes)
}

/// Where NOTIFYs go: down the connection, or over UDP to the first route, else
/// to the Contact's address; but never to another host than the one that asked.
fn way_back(peer: Peer, message: &Message<'_>) -> Option<Peer> {
    let Peer::Udp(from) = peer else { return Some(peer) };
    let route = message.headers(HeaderId::RecordRoute).flat_map(value::list).next();
    let next = route.or_else(|| message.header(HeaderId::Contact)).and_then(value::name_addr);
    let Some(next) = next else { return Some(peer) };
    let uri = value::sip_uri(next.uri)?;
    let host = std::str::from_utf8(uri.host).ok()?.trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(ip) if ip == from.ip() || (from.ip().is_loopback() && ip.is_loopback()) => {
            Some(Peer::Udp(SocketAddr::new(ip, uri.port.unwrap_or(5060))))
        }
        Ok(_) => None,
        // A name: the symmetric way.
        Err(_) => Some(peer),
    }
}
