//! REGISTER ([MS-SIPREGE] §3.1, [MS-SIPRE] §3.2): endpoints, and what happens
//! when one of them leaves.

use adsum_presence::wheel::TimerId;
use adsum_sip::gruu::Instance;
use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message, value};

use super::super::ids::write_number;
use super::gate::Association;
use super::publish::Touched;
use super::{Due, Lync, Out, Peer, Pieces, Reply, Tag, has_word};

/// Endpoints of one user; a ninth takes the place of the oldest. Which one a
/// real server drops is not documented.
const MAX_ENDPOINTS: usize = 8;
/// Seconds granted: by default, at least, at most (New-CsRegistrarConfiguration).
const EXPIRES: (u32, u32, u32) = (600, 300, 900);
/// Bytes of an epid. The documents know one that is too long, and not its length.
const MAX_EPID: usize = 64;

/// A client that a user has signed on with.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) user: u32,
    instance: Instance,
    /// Pieces by [`Piece`].
    text: Pieces<5>,
    pub(super) peer: Peer,
    cseq: u32,
    expires: Time,
    /// When it came, for the choice of the oldest.
    since: Time,
    pub(super) association: Option<Association>,
    /// Subscriptions of it.
    pub(super) dialogs: Vec<u32>,
    timer: TimerId,
    deregister: TimerId,
}

/// What is kept of a REGISTER.
#[derive(Debug, Clone, Copy)]
pub(super) enum Piece {
    /// The Contact as we see it: Request-URI of whatever we send.
    Target,
    Epid,
    From,
    To,
    CallId,
}

impl Endpoint {
    pub(super) fn piece(&self, piece: Piece) -> &[u8] {
        self.text.get(piece as usize)
    }
}

impl Lync {
    pub(super) fn register(
        &mut self,
        now: Time,
        user: u32,
        peer: Peer,
        association: Option<Association>,
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) -> Reply {
        if message.header(HeaderId::Event).is_some_and(|e| !super::is_kind(e, b"registration")) {
            return self.refusal(489, 4055, "Event header is not registration");
        }
        if has_word(message, HeaderId::Supported, b"msrtc-event-categories")
            && !has_word(message, HeaderId::Supported, b"gruu-10")
        {
            self.line(b"Require", b"gruu-10");
            return self.refusal(421, 2057, "gruu-10 has to be supported along with msrtc-event-categories");
        }
        let from = message.header(HeaderId::From).and_then(value::name_addr);
        let epid = from.and_then(|f| value::param(f.params, "epid")).unwrap_or(b"");
        let contact = message.header(HeaderId::Contact).and_then(value::name_addr);
        let given = contact.and_then(|c| value::param(c.params, "+sip.instance")).and_then(read_urn);
        if epid.len() > MAX_EPID {
            return self.refusal(400, 4012, "epid too long");
        }
        let derived = (!epid.is_empty()).then(|| Instance::of_epid(epid));
        let instance = match (derived, given) {
            (None, None) => return self.refusal(400, 4010, "Missing endpoint identifier"),
            // [MS-SIPAE] §3.3.5.2 has it checked; its number for it was not to be found.
            (Some(a), Some(b)) if a != b => {
                return self.refusal(400, 4000, "+sip.instance is not the one that follows from epid");
            }
            (Some(known), _) | (None, Some(known)) => known,
        };
        let known = self.find_instance(user, instance);
        let asked = message
            .expires()
            .or_else(|| contact.and_then(|c| value::param(c.params, "expires")).and_then(value::number));
        let cseq = message.cseq().map_or(0, |(n, _)| n);
        if let Some(slot) = known {
            let held = &self.endpoints[slot];
            if held.piece(Piece::CallId) == message.call_id() && cseq <= held.cseq {
                return Reply::new(500); // an older request changes nothing (RFC 3261 §10.3)
            }
        }
        if asked == Some(0) {
            let generation = known.map_or(0, |slot| self.endpoints.generation(slot));
            self.number_line(b"Expires", 0);
            if let Some(slot) = known {
                self.leave_stream(slot);
                self.drop_endpoint(now, slot, out);
            }
            let tag = known.map_or(Tag::Own, |slot| Tag::Endpoint(slot, generation));
            return Reply { tag, expires: Some(0), ..Reply::new(200) };
        }
        let Some(contact) = contact else {
            return self.refusal(400, 4000, "a REGISTER without a Contact");
        };
        let granted = asked.unwrap_or(EXPIRES.0).clamp(EXPIRES.1, EXPIRES.2);
        let target = seen(contact.uri, contact.params, peer);
        let header = |id| message.header(id).unwrap_or(b"");
        let pieces = [&target, epid, header(HeaderId::From), header(HeaderId::To), message.call_id()];
        let Some(text) = Pieces::new(pieces) else {
            return self.refuse(413, 4008, "input data too large");
        };
        let expires = now + u64::from(granted) * SECOND;
        let slot = match known {
            Some(slot) => {
                self.leave_stream(slot);
                let held = &mut self.endpoints[slot];
                (held.text, held.peer, held.cseq, held.expires) = (text, peer, cseq, expires);
                held.association = association;
                slot
            }
            None => {
                self.make_room(now, user, out);
                let endpoint = Endpoint {
                    user,
                    instance,
                    text,
                    peer,
                    cseq,
                    expires,
                    since: now,
                    association,
                    dialogs: Vec::new(),
                    timer: TimerId::NONE,
                    deregister: TimerId::NONE,
                };
                let (slot, _) = self.endpoints.insert(endpoint);
                self.users.entry(user).endpoints.push(slot);
                if let Some(after) = self.config.lync.deregister_after {
                    let at = now + after.as_nanos() as u64;
                    self.endpoints[slot].deregister = self.timers.insert(at, Due::Deregister(slot));
                }
                slot
            }
        };
        self.join_stream(slot);
        self.arm_endpoint(slot);
        self.welcome(user, slot, granted, contact.params, known.is_some());
        let generation = self.endpoints.generation(slot);
        Reply { tag: Tag::Endpoint(slot, generation), expires: Some(granted), ..Reply::new(200) }
    }

    /// The lines of a 200; clients look for each of these as it stands here.
    fn welcome(&mut self, user: u32, slot: u32, granted: u32, params: &[u8], refreshed: bool) {
        let keep_alive = b"UAS; tcp=no; hop-hop=yes; end-end=no; timeout=300";
        self.line(b"ms-keep-alive", keep_alive);
        let mut contact = b"<".to_vec();
        contact.extend_from_slice(self.endpoints[slot].piece(Piece::Target));
        contact.extend_from_slice(b">;expires=");
        write_number(u64::from(granted), &mut contact);
        // A client finds its own among the Contacts by this, as it wrote it.
        if let Some(instance) = value::param(params, "+sip.instance") {
            contact.extend_from_slice(b";+sip.instance=\"");
            contact.extend_from_slice(instance);
            contact.push(b'"');
        }
        contact.extend_from_slice(b";gruu=\"");
        self.write_aor(user, &mut contact);
        contact.extend_from_slice(b";opaque=user:epid:");
        self.endpoints[slot].instance.write_opaque(&mut contact);
        contact.extend_from_slice(b";gruu\"");
        self.line(b"Contact", &contact);
        self.number_line(b"Expires", u64::from(granted));
        // On a refresh `added` would say that the binding had been lost.
        let action = if refreshed { "refreshed" } else { "added" };
        let state = format!(
            "register-action=\"{action}\";primary-cluster-type=\"central\";is-connected-to-primary=\"yes\""
        );
        self.line(b"presence-state", state.as_bytes());
        self.line(b"Allow-Events", super::ALLOW_EVENTS);
        self.line(b"Supported", b"adhoclist");
        self.line(b"Supported", b"msrtc-event-categories");
    }

    fn find_instance(&self, user: u32, instance: Instance) -> Option<u32> {
        let held = self.users.get(user)?;
        held.endpoints.iter().copied().find(|slot| self.endpoints[*slot].instance == instance)
    }

    /// The endpoint that sent a request: by epid, else by the GRUU or instance
    /// in its Contact, else by its connection if it is the only one there.
    pub(super) fn sender(&self, user: u32, peer: Peer, message: &Message<'_>) -> Option<u32> {
        let held = self.users.get(user)?;
        let from = message.header(HeaderId::From).and_then(value::name_addr);
        if let Some(epid) = from.and_then(|f| value::param(f.params, "epid")).filter(|e| !e.is_empty()) {
            let named = |slot: &u32| self.endpoints[*slot].piece(Piece::Epid) == epid;
            if let Some(slot) = held.endpoints.iter().copied().find(named) {
                return Some(slot);
            }
            return self.find_instance(user, Instance::of_epid(epid));
        }
        if let Some(contact) = message.header(HeaderId::Contact).and_then(value::name_addr) {
            if let Some(instance) = value::param(contact.params, "+sip.instance").and_then(read_urn) {
                return self.find_instance(user, instance);
            }
            let params = value::sip_uri(contact.uri).map_or(&b""[..], |uri| uri.params);
            if let Some(opaque) = value::param(params, "opaque") {
                let named = |slot: &u32| {
                    let mut own = b"user:epid:".to_vec();
                    self.endpoints[*slot].instance.write_opaque(&mut own);
                    own == opaque
                };
                return held.endpoints.iter().copied().find(named);
            }
        }
        let mut here = held.endpoints.iter().copied().filter(|slot| self.endpoints[*slot].peer == peer);
        here.next().filter(|_| here.next().is_none())
    }

    fn make_room(&mut self, now: Time, user: u32, out: &mut Vec<Out>) {
        let held = &self.users.entry(user).endpoints;
        if held.len() >= MAX_ENDPOINTS {
            let held = held.clone();
            let oldest = held.into_iter().min_by_key(|slot| self.endpoints[*slot].since);
            if let Some(slot) = oldest {
                self.stats.refused += 1;
                self.sign_off(now, slot, b"deactivated", out);
            }
        }
    }

    fn join_stream(&mut self, slot: u32) {
        if let Peer::Stream(number, ..) = self.endpoints[slot].peer {
            self.streams.entry(number).or_default().endpoints.push(slot);
        }
    }

    pub(super) fn leave_stream(&mut self, slot: u32) {
        let Some(Peer::Stream(number, ..)) = self.endpoints.get(slot).map(|e| e.peer) else { return };
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.endpoints.retain(|other| *other != slot);
            if stream.endpoints.is_empty() && !stream.is_trusted {
                self.streams.remove(&number);
            }
        }
    }

    fn arm_endpoint(&mut self, slot: u32) {
        if let Some(endpoint) = self.endpoints.get_mut(slot) {
            self.timers.arm(&mut endpoint.timer, endpoint.expires, Due::Endpoint(slot));
        }
    }

    pub(super) fn endpoint_expired(&mut self, now: Time, slot: u32, out: &mut Vec<Out>) {
        let Some(endpoint) = self.endpoints.get_mut(slot) else { return };
        endpoint.timer = TimerId::NONE;
        if endpoint.expires > now {
            return self.arm_endpoint(slot);
        }
        self.leave_stream(slot);
        self.drop_endpoint(now, slot, out);
    }

    /// The fault knob: the pool signs an endpoint off by itself.
    pub(super) fn deregister(&mut self, now: Time, slot: u32, out: &mut Vec<Out>) {
        let Some(endpoint) = self.endpoints.get_mut(slot) else { return };
        endpoint.deregister = TimerId::NONE;
        self.stats.deregistered += 1;
        self.sign_off(now, slot, b"rejected", out);
    }

    fn sign_off(&mut self, now: Time, slot: u32, event: &[u8], out: &mut Vec<Out>) {
        self.notify_deregistered(now, slot, event, out);
        self.leave_stream(slot);
        self.drop_endpoint(now, slot, out);
    }

    /// An endpoint is gone, however: with it go its subscriptions and what it
    /// published for its own lifetime; who watches the user learns of it.
    pub(super) fn drop_endpoint(&mut self, now: Time, slot: u32, out: &mut Vec<Out>) {
        let Some(endpoint) = self.endpoints.get_mut(slot) else { return };
        let user = endpoint.user;
        self.timers.cancel(&mut endpoint.timer);
        self.timers.cancel(&mut endpoint.deregister);
        endpoint.text = Pieces::default();
        for dialog in std::mem::take(&mut endpoint.dialogs) {
            self.end_dialog(dialog);
        }
        self.endpoints.release(slot);
        let held = &mut self.users[user];
        held.endpoints.retain(|other| *other != slot);
        let is_last = held.endpoints.is_empty();
        let mut touched = Touched::default();
        let document_bytes = &mut self.document_bytes;
        let publications = &mut self.stats.publications;
        held.instances.retain(|instance| {
            let lives = !instance.dies_with(slot, is_last);
            if !lives {
                touched.add(instance.category, instance.container);
                *document_bytes -= instance.text.len();
                *publications -= 1;
            }
            lives
        });
        if !touched.is_empty() {
            self.commit(now, now, user, &mut touched, out);
        }
    }
}

/// `<urn:uuid:…>`, as `+sip.instance` has it between its quotes.
fn read_urn(value: &[u8]) -> Option<Instance> {
    Instance::parse(value.strip_prefix(b"<").and_then(|v| v.strip_suffix(b">")).unwrap_or(value))
}

/// A Contact as we see it: with `proxy=replace` under the address that it came
/// from, and in any case with the number of its connection.
fn seen(uri: &[u8], params: &[u8], peer: Peer) -> Vec<u8> {
    let replace = value::param(params, "proxy").is_some_and(|p| p.eq_ignore_ascii_case(b"replace"));
    let mut target = Vec::with_capacity(uri.len() + 32);
    match value::sip_uri(uri).filter(|_| replace) {
        Some(parts) => {
            target.extend_from_slice(if parts.secure { b"sips:" } else { b"sip:" });
            if !parts.user.is_empty() {
                target.extend_from_slice(parts.user);
                target.push(b'@');
            }
            target.extend_from_slice(peer.address().to_string().as_bytes());
            target.extend_from_slice(parts.params);
        }
        None => target.extend_from_slice(uri),
    }
    if let Peer::Stream(number, ..) = peer {
        target.extend_from_slice(b";ms-received-cid=");
        write_number(number, &mut target);
    }
    target
}
