//! SUBSCRIBE and NOTIFY (RFC 6665 §4.2).

use std::net::SocketAddr;

use adsum_sip::client::{ClientTransaction, Method};
use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message, value};

use super::publish::{accepts_pidf, is_presence};
use super::{Core, Due, MAX_SUBSCRIPTIONS, Out, PIDF, Peer, Pending, Reply, Subscription, count};

impl Core {
    pub(super) fn subscribe(
        &mut self,
        now: Time,
        user: u32,
        peer: Peer,
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) -> Reply {
        let (least, most) = self.config.expires;
        if !is_presence(message) {
            return Reply::new(489).header("Allow-Events", "presence");
        }
        if !accepts_pidf(message) {
            return Reply::new(406).header("Accept", PIDF);
        }
        let asked = message.expires().unwrap_or(most);
        if asked > 0 && asked < least {
            return Reply::new(423).header("Min-Expires", &least.to_string());
        }
        let granted = asked.min(most);
        let number = match message.to_tag() {
            Some(tag) => match self.refresh(now, tag, peer, granted, message) {
                Ok(number) => number,
                Err(reply) => return reply,
            },
            None => match self.create(now, user, peer, granted, message) {
                Ok(number) => number,
                Err(reply) => return reply,
            },
        };
        let state = if granted == 0 { "terminated" } else { "active" };
        self.notify(now, now, number, state, out);
        let tag = tag_of(number);
        if granted == 0 {
            self.remove_subscription(number);
        }
        let contact = contact(self.local, peer);
        Reply::new(200).header("Expires", &granted.to_string()).header("Contact", &contact).tag(&tag)
    }

    fn refresh(
        &mut self,
        now: Time,
        tag: &[u8],
        peer: Peer,
        granted: u32,
        message: &Message<'_>,
    ) -> Result<u64, Reply> {
        let key = dialog_key(message.call_id(), message.from_tag().unwrap_or(b""), tag);
        let gone = || Reply::new(481);
        let number = *self.by_dialog.get(&key).ok_or_else(gone)?;
        let cseq = message.cseq().map_or(0, |(n, _)| n);
        let subscription = self.subscriptions.get_mut(&number).ok_or_else(gone)?;
        if cseq <= subscription.remote_cseq {
            return Err(Reply::new(500).header("Retry-After", "1"));
        }
        subscription.remote_cseq = cseq;
        subscription.peer = way_back(peer, message).unwrap_or(subscription.peer);
        self.due.remove(&(subscription.expires, Due::Subscription(number)));
        subscription.expires = now + u64::from(granted) * SECOND;
        self.due.insert((subscription.expires, Due::Subscription(number)), ());
        Ok(number)
    }

    fn create(
        &mut self,
        now: Time,
        user: u32,
        peer: Peer,
        granted: u32,
        message: &Message<'_>,
    ) -> Result<u64, Reply> {
        if self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            self.stats.refused += 1;
            return Err(Reply::new(503).header("Retry-After", "60"));
        }
        let contact =
            message.header(HeaderId::Contact).and_then(value::name_addr).ok_or_else(|| Reply::new(400))?;
        let back = way_back(peer, message).ok_or_else(|| Reply::new(403))?;
        let number = self.number();
        let key = dialog_key(message.call_id(), message.from_tag().unwrap_or(b""), tag_of(number).as_bytes());
        let mut local = message.header(HeaderId::To).unwrap_or(b"").to_vec();
        local.extend_from_slice(format!(";tag={}", tag_of(number)).as_bytes());
        let mut routes = Vec::new();
        for route in message.headers(HeaderId::RecordRoute).flat_map(value::list) {
            routes.extend_from_slice(b"Route: ");
            routes.extend_from_slice(route);
            routes.extend_from_slice(b"\r\n");
        }
        let expires = now + u64::from(granted) * SECOND;
        self.subscriptions.insert(
            number,
            Subscription {
                key: key.clone(),
                watched: user,
                peer: back,
                target: contact.uri.to_vec(),
                routes,
                call_id: message.call_id().to_vec(),
                remote: message.header(HeaderId::From).unwrap_or(b"").to_vec(),
                local,
                remote_cseq: message.cseq().map_or(0, |(n, _)| n),
                cseq: 0,
                expires,
                held: false,
            },
        );
        self.by_dialog.insert(key, number);
        self.users.entry(user).or_default().watchers.push(number);
        self.due.insert((expires, Due::Subscription(number)), ());
        Ok(number)
    }

    /// Appends a NOTIFY of a subscription.
    pub(super) fn notify(&mut self, now: Time, at: Time, number: u64, state: &str, out: &mut Vec<Out>) {
        let Some(watched) = self.subscriptions.get(&number).map(|s| s.watched) else { return };
        let body = self.document(now, watched);
        let transaction = self.number();
        let local = self.local;
        let Some(s) = self.subscriptions.get_mut(&number) else { return };
        s.cseq += 1;
        let left = s.expires.since(now).div_ceil(SECOND);
        let state = if state == "active" {
            format!("active;expires={left}")
        } else {
            "terminated;reason=timeout".into()
        };
        let mut bytes = Vec::with_capacity(1024);
        bytes.extend_from_slice(b"NOTIFY ");
        bytes.extend_from_slice(&s.target);
        let source = match (s.peer, self.config.notify_from) {
            (Peer::Udp(_), Some(ip)) => SocketAddr::new(ip, local.port()),
            _ => local,
        };
        bytes.extend_from_slice(
            format!(" SIP/2.0\r\nVia: SIP/2.0/{} {source};branch=z9hG4bKpool{transaction}\r\nMax-Forwards: 70\r\n", s.peer.transport())
                .as_bytes(),
        );
        bytes.extend_from_slice(&s.routes);
        bytes.extend_from_slice(b"From: ");
        bytes.extend_from_slice(&s.local);
        bytes.extend_from_slice(b"\r\nTo: ");
        bytes.extend_from_slice(&s.remote);
        bytes.extend_from_slice(b"\r\nCall-ID: ");
        bytes.extend_from_slice(&s.call_id);
        bytes.extend_from_slice(
            format!(
                "\r\nCSeq: {} NOTIFY\r\nContact: {}\r\nEvent: presence\r\nSubscription-State: {state}\r\n\
                 Content-Type: {PIDF}\r\nContent-Length: {}\r\n\r\n",
                s.cseq,
                contact(local, s.peer),
                body.len()
            )
            .as_bytes(),
        );
        bytes.extend_from_slice(&body);
        let peer = s.peer;
        if peer.is_udp() {
            let client = ClientTransaction::new(Method::NonInvite, false, at);
            self.due.insert((client.next(), Due::Notify(transaction)), ());
            let pending = Pending { transaction: client, subscription: number, peer, bytes: bytes.clone() };
            self.pending.insert(transaction, pending);
        }
        count(&mut self.stats.sent, "NOTIFY", 0);
        out.push(Out { peer, bytes, at, notify: true });
    }

    /// Merges what comes until `at` into one NOTIFY.
    pub(super) fn hold(&mut self, at: Time, number: u64) {
        if let Some(subscription) = self.subscriptions.get_mut(&number).filter(|s| !s.held) {
            subscription.held = true;
            self.due.insert((at, Due::Merged(number)), ());
        }
    }

    pub(super) fn merged(&mut self, now: Time, number: u64, out: &mut Vec<Out>) {
        if let Some(subscription) = self.subscriptions.get_mut(&number) {
            subscription.held = false;
            self.notify(now, now, number, "active", out);
        }
    }

    pub(super) fn subscription_expired(&mut self, now: Time, number: u64, out: &mut Vec<Out>) {
        if self.subscriptions.get(&number).is_some_and(|s| s.expires <= now) {
            self.notify(now, now, number, "terminated", out);
            self.remove_subscription(number);
        }
    }

    pub(super) fn remove_subscription(&mut self, number: u64) {
        let Some(subscription) = self.subscriptions.remove(&number) else { return };
        self.by_dialog.remove(&subscription.key);
        self.due.remove(&(subscription.expires, Due::Subscription(number)));
        if let Some(user) = self.users.get_mut(&subscription.watched) {
            user.watchers.retain(|n| *n != number);
        }
    }
}

/// Where NOTIFYs go: down the connection, or to the Contact's address over
/// UDP, but never to another host than the one that asked.
fn way_back(peer: Peer, message: &Message<'_>) -> Option<Peer> {
    let Peer::Udp(from) = peer else { return Some(peer) };
    let contact = message.header(HeaderId::Contact).and_then(value::name_addr);
    let Some(contact) = contact else { return Some(peer) };
    let uri = value::sip_uri(contact.uri)?;
    let host = std::str::from_utf8(uri.host).ok()?.trim_matches(['[', ']']);
    match host.parse() {
        Ok(ip) if ip == from.ip() || (from.ip().is_loopback() && std::net::IpAddr::is_loopback(&ip)) => {
            Some(Peer::Udp(SocketAddr::new(ip, uri.port.unwrap_or(5060))))
        }
        Ok(_) => None,
        // A name: the symmetric way.
        Err(_) => Some(peer),
    }
}

fn contact(local: SocketAddr, peer: Peer) -> String {
    match peer {
        Peer::Udp(_) => format!("<sip:{local}>"),
        Peer::Stream(_, _, false) => format!("<sip:{local};transport=tcp>"),
        Peer::Stream(_, _, true) => format!("<sip:{local};transport=tls>"),
    }
}

fn tag_of(number: u64) -> String {
    format!("t{:x}", adsum_sip::ids::mix(number))
}

fn dialog_key(call_id: &[u8], remote: &[u8], local: &[u8]) -> Vec<u8> {
    [call_id, b"\0", remote, b"\0", local].concat()
}
