//! SUBSCRIBE ([MS-SIP] §3.5, [MS-PRES]): dialogs, how long they live, and what
//! they begin with.

use adsum_presence::wheel::TimerId;
use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message, value};

use super::super::ids::{Tags, write_number};
use super::batch::Entry;
use super::category;
use super::notify::Content;
use super::{Due, Lync, Out, Peer, Pieces, Reply, Tag, has_word, is_kind};

/// Subscriptions of one endpoint (New-CsUserServicesConfiguration has 200 for a user).
const MAX_DIALOGS: usize = 200;
/// Of the pool: at about 300 bytes each, 300 MB.
const MAX_ALL_DIALOGS: usize = 1_000_000;
/// Seconds granted: by default, at least, at most. Less than the least is
/// raised; nobody is answered 423.
const EXPIRES: (u32, u32, u32) = (28_800, 1_200, 43_200);

/// What is subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Package {
    RoamingSelf,
    RoamingContacts,
    Provisioning,
    Presence,
}

impl Package {
    /// As it stands in Event.
    pub(super) fn name(self) -> &'static [u8] {
        match self {
            Package::RoamingSelf => b"vnd-microsoft-roaming-self",
            Package::RoamingContacts => b"vnd-microsoft-roaming-contacts",
            Package::Provisioning => b"vnd-microsoft-provisioning-v2",
            Package::Presence => b"presence",
        }
    }

    fn of(event: &[u8]) -> Option<Package> {
        use Package::{Presence, Provisioning, RoamingContacts, RoamingSelf};
        [RoamingSelf, RoamingContacts, Provisioning, Presence].into_iter().find(|p| is_kind(event, p.name()))
    }
}

/// One subscription.
#[derive(Debug)]
pub(super) struct Dialog {
    pub(super) package: Package,
    pub(super) endpoint: u32,
    /// Pieces by [`Piece`].
    text: Pieces<3>,
    remote_cseq: u32,
    pub(super) cseq: u32,
    pub(super) is_benotify: bool,
    pub(super) expires: Time,
    pub(super) timer: TimerId,
    /// When the latest notification leaves: none overtakes another.
    pub(super) last_notify: Time,
    /// Since when a NOTIFY has had no answer.
    pub(super) unanswered: Time,
    /// Who is watched in it, in the order of their coming.
    pub(super) watches: Vec<u32>,
}

/// What is kept of a SUBSCRIBE.
#[derive(Debug, Clone, Copy)]
pub(super) enum Piece {
    /// The subscriber's From: To of notifications.
    Remote,
    CallId,
    /// The subscriber's To: with our tag, From of notifications.
    Local,
}

impl Dialog {
    pub(super) fn piece(&self, piece: Piece) -> &[u8] {
        self.text.get(piece as usize)
    }
}

impl Lync {
    pub(super) fn subscribe(
        &mut self,
        now: Time,
        user: u32,
        uri: &[u8],
        peer: Peer,
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) -> Reply {
        let Some(package) = message.header(HeaderId::Event).and_then(Package::of) else {
            self.line(b"Allow-Events", super::ALLOW_EVENTS);
            return Reply::new(489);
        };
        let Some(endpoint) = self.sender(user, peer, message) else {
            // With its endpoint a dialog is gone: that may cross with what was asked in it.
            if message.to_tag().is_some() {
                return self.refusal(481, 2014, "Subscription dialog does not exist");
            }
            return self.refusal(403, 4000, "this endpoint is not registered: REGISTER it first");
        };
        let asked = message.expires();
        let granted = match asked {
            Some(0) => 0,
            asked => asked.unwrap_or(EXPIRES.0).clamp(EXPIRES.1, EXPIRES.2),
        };
        let known = match message.to_tag().map(|tag| self.found(tag, endpoint, package, message)) {
            Some(Ok(slot)) => Some(slot),
            Some(Err(reply)) => return reply,
            None => None,
        };
        if let (Some(slot), 0) = (known, granted) {
            return self.unsubscribe(now, slot, message, out);
        }
        let resource = if known.is_some() { Some(user) } else { self.account(uri) };
        let own = resource == Some(user);
        // Everything but presence, and each batch, is about oneself; somebody
        // else is asked directly only if a batch said `resubscribe`.
        let (Some(_), true) = (resource, own || package == Package::Presence) else {
            return if resource.is_none() {
                self.unknown()
            } else {
                self.refusal(403, 2004, "Subscriber not authorised to subscribe")
            };
        };
        let mut entries = match self.entries(package, own, known, message) {
            Ok(entries) => entries,
            Err(reply) => return reply,
        };
        if granted == 0 {
            return self.poll(user, package, &entries, message);
        }
        let is_new = known.is_none();
        let slot = match known.map_or_else(|| self.create(endpoint, message), Ok) {
            Ok(slot) => slot,
            Err(reply) => return reply,
        };
        if is_new && package == Package::RoamingSelf {
            self.replace_earlier(endpoint, slot, package);
        }
        self.dialogs[slot].expires = now + u64::from(granted) * SECOND;
        self.arm_dialog(slot);
        self.watch(slot, &mut entries);
        let content = self.first(user, package, &entries, !is_new && message.body().is_empty(), slot);
        let generation = self.dialogs.generation(slot);
        let reply = Reply {
            tag: Tag::Dialog(slot, generation),
            expires: Some(granted),
            is_notification: self.piggybacks(message),
            ..self.accepted(peer, package, granted, message)
        };
        self.tell_first(now, slot, content, message, out);
        reply
    }

    /// The 200's lines but for the notification in it.
    fn accepted(&mut self, peer: Peer, package: Package, granted: u32, message: &Message<'_>) -> Reply {
        let transport = peer.transport();
        let end = [b"<sip:", &self.ends[transport][..]].concat();
        let kind: &[u8] = if transport == 2 { b";transport=tls" } else { b";transport=tcp" };
        // As a server signs its own: whoever comes back brings it along unchanged.
        if message.to_tag().is_none() {
            self.line(b"Record-Route", &[&end, kind, b";opaque=state:T;lr;ms-route-sig=aa5cd7>"].concat());
        }
        self.line(b"Contact", &[&end, kind, b">"].concat());
        self.number_line(b"Expires", u64::from(granted));
        self.line(b"Event", package.name());
        if package == Package::Presence {
            self.line(b"Require", b"eventlist");
        }
        let mut state =
            if granted > 0 { b"active;expires=".to_vec() } else { b"terminated;expires=".to_vec() };
        write_number(u64::from(granted), &mut state);
        self.line(b"subscription-state", &state);
        if has_word(message, HeaderId::Supported, b"ms-benotify") {
            self.line(b"Supported", b"ms-benotify, ms-piggyback-first-notify");
        }
        Reply { expires: Some(granted), ..Reply::new(200) }
    }

    fn piggybacks(&self, message: &Message<'_>) -> bool {
        !self.config.lync.no_piggyback && has_word(message, HeaderId::Supported, b"ms-piggyback-first-notify")
    }

    /// The notification that each SUBSCRIBE causes: in its 200, where it counts
    /// as the next of the dialog's own numbers, or behind it.
    fn tell_first(
        &mut self,
        now: Time,
        slot: u32,
        content: Content,
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) {
        if !self.piggybacks(message) {
            self.notify(now, now, slot, content, true, out);
            self.body.clear();
            return;
        }
        let Some(dialog) = self.dialogs.get_mut(slot) else { return };
        dialog.cseq += 1;
        let cseq = dialog.cseq;
        self.number_line(b"ms-piggyback-cseq", u64::from(cseq));
        if content != Content::Empty {
            self.line(b"Content-Type", content.media_type());
        }
    }

    /// The document that a subscription begins with, into `body`; on a refresh
    /// without a body, everything that it is about.
    fn first(
        &mut self,
        user: u32,
        package: Package,
        entries: &[Entry],
        everything: bool,
        slot: u32,
    ) -> Content {
        self.body.clear();
        match package {
            Package::RoamingSelf => {
                self.write_roaming(user, category::ALL, &[], true);
                Content::RoamingSelf
            }
            Package::RoamingContacts => {
                self.write_contacts(user);
                Content::RoamingContacts
            }
            Package::Provisioning => {
                self.write_provisioning();
                Content::Provisioning
            }
            Package::Presence if everything => {
                let all = self.all_entries(slot);
                self.write_batch(user, &all)
            }
            Package::Presence => self.write_batch(user, entries),
        }
    }

    /// Asked once, without a subscription (`Expires: 0` outside of a dialog).
    fn poll(&mut self, user: u32, package: Package, entries: &[Entry], message: &Message<'_>) -> Reply {
        let content = self.first(user, package, entries, false, super::NONE);
        self.number_line(b"Expires", 0);
        self.line(b"Event", package.name());
        self.line(b"subscription-state", b"terminated;expires=0");
        if package == Package::Presence {
            self.line(b"Require", b"eventlist");
        }
        if has_word(message, HeaderId::Supported, b"ms-benotify") {
            self.line(b"Supported", b"ms-benotify, ms-piggyback-first-notify");
        }
        // There is no dialog in which anything could follow.
        self.number_line(b"ms-piggyback-cseq", 1);
        if content != Content::Empty {
            self.line(b"Content-Type", content.media_type());
        }
        Reply { expires: Some(0), ..Reply::new(200) }
    }

    fn unsubscribe(&mut self, now: Time, slot: u32, message: &Message<'_>, out: &mut Vec<Out>) -> Reply {
        let (package, generation) = (self.dialogs[slot].package, self.dialogs.generation(slot));
        self.body.clear();
        if !self.piggybacks(message) {
            self.notify(now, now, slot, Content::Empty, false, out);
        }
        self.number_line(b"Expires", 0);
        self.line(b"Event", package.name());
        self.line(b"subscription-state", b"terminated;expires=0");
        self.remove_dialog(slot);
        Reply { tag: Tag::Dialog(slot, generation), expires: Some(0), ..Reply::new(200) }
    }

    /// The dialog that a request belongs to (RFC 3261 §12.2.2).
    fn found(
        &mut self,
        tag: &[u8],
        endpoint: u32,
        package: Package,
        message: &Message<'_>,
    ) -> Result<u32, Reply> {
        let cseq = message.cseq().map_or(0, |(n, _)| n);
        let slot = Tags::slot(tag).filter(|slot| {
            self.dialog_tags.is(tag, *slot, self.dialogs.generation(*slot))
                && self.dialogs.get(*slot).is_some_and(|d| {
                    d.piece(Piece::CallId) == message.call_id()
                        && value::tag(d.piece(Piece::Remote)) == message.from_tag()
                        && d.endpoint == endpoint
                        && d.package == package
                })
        });
        let Some(slot) = slot else {
            return Err(self.refusal(481, 2014, "Subscription dialog does not exist"));
        };
        let dialog = &mut self.dialogs[slot];
        if cseq <= dialog.remote_cseq {
            return Err(Reply::new(500));
        }
        dialog.remote_cseq = cseq;
        Ok(slot)
    }

    fn create(&mut self, endpoint: u32, message: &Message<'_>) -> Result<u32, Reply> {
        if self.dialogs.len() >= MAX_ALL_DIALOGS {
            return Err(self.refuse(503, 4000, "too many subscriptions"));
        }
        if self.endpoints[endpoint].dialogs.len() >= MAX_DIALOGS {
            return Err(self.refuse(403, 2012, "too many subscriptions of this endpoint"));
        }
        let Some(package) = message.header(HeaderId::Event).and_then(Package::of) else {
            return Err(Reply::new(489));
        };
        let header = |id| message.header(id).unwrap_or(b"");
        let pieces = [header(HeaderId::From), message.call_id(), header(HeaderId::To)];
        let Some(text) = Pieces::new(pieces) else {
            return Err(self.refuse(413, 4008, "input data too large"));
        };
        let (slot, _) = self.dialogs.insert(Dialog {
            package,
            endpoint,
            text,
            remote_cseq: message.cseq().map_or(0, |(n, _)| n),
            cseq: 0,
            is_benotify: has_word(message, HeaderId::Supported, b"ms-benotify"),
            expires: Time(0),
            timer: TimerId::NONE,
            last_notify: Time(0),
            unanswered: Time::NEVER,
            watches: Vec::new(),
        });
        self.endpoints[endpoint].dialogs.push(slot);
        Ok(slot)
    }

    /// An endpoint has one subscription to its own presence; a further one takes its place.
    fn replace_earlier(&mut self, endpoint: u32, slot: u32, package: Package) {
        let earlier = |other: &u32| *other != slot && self.dialogs[*other].package == package;
        let found: Vec<u32> = self.endpoints[endpoint].dialogs.iter().copied().filter(earlier).collect();
        found.into_iter().for_each(|other| self.remove_dialog(other));
    }

    pub(super) fn arm_dialog(&mut self, slot: u32) {
        if let Some(dialog) = self.dialogs.get_mut(slot) {
            self.timers.arm(&mut dialog.timer, dialog.expires, Due::Dialog(slot));
        }
    }

    /// Ends a dialog that its endpoint still knows.
    pub(super) fn remove_dialog(&mut self, slot: u32) {
        let Some(dialog) = self.dialogs.get(slot) else { return };
        if let Some(endpoint) = self.endpoints.get_mut(dialog.endpoint) {
            endpoint.dialogs.retain(|other| *other != slot);
        }
        self.end_dialog(slot);
    }

    /// Ends a dialog, and what is watched in it.
    pub(super) fn end_dialog(&mut self, slot: u32) {
        let Some(dialog) = self.dialogs.get_mut(slot) else { return };
        self.timers.cancel(&mut dialog.timer);
        dialog.text = Pieces::default();
        for watch in std::mem::take(&mut dialog.watches) {
            self.unlink(watch);
        }
        self.dialogs.release(slot);
    }
}
