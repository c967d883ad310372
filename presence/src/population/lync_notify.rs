//! What notifications of the `lync` dialect say: of ourselves, and of those
//! whom we watch ([MS-PRES] §4.4; [MS-SIP] §3.5 for BENOTIFY and piggyback).

use adsum_sip::time::Time;
use adsum_sip::{HeaderId, Message, value};
use smallvec::SmallVec;

use super::Population;
use super::incoming::is_last;
use super::lync_state::own;
use super::state::{has, is};
use super::subscription::again_after;
use crate::host::{Counter, Flow, Host, Measure, Method, Progress, Sample};
use crate::lync::tags::resolved;
use crate::lync::watched::{self, Said};
use crate::slab::{NONE, Slot};

/// Publishers in one notification: answers to batches beyond about a thousand may exceed what a server
/// sends, so more are no notification.
const MAX_SHOWN: usize = 2_048;

/// A presentity's URI as a SIP one: `pres:` and no scheme at all occur in documents, too.
fn as_sip<'a>(uri: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    let is = |scheme: &[u8]| uri.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme));
    if is(b"sip:") || is(b"sips:") {
        return uri;
    }
    scratch.clear();
    scratch.extend_from_slice(b"sip:");
    scratch.extend_from_slice(if is(b"pres:") { &uri[b"pres:".len()..] } else { uri });
    scratch
}

/// What has to be done when a document was read to its end.
#[derive(Debug)]
enum Then<'a> {
    Settle,
    Terminate(&'a [u8]),
    Resubscribe(&'a [u8]),
}

impl Population {
    /// A BENOTIFY: as a NOTIFY, but nobody waits for an answer, and nobody sends it again.
    pub(super) fn benotify(
        &mut self,
        now: Time,
        stamp: Time,
        flow: Flow,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        host.message_received(Method::Benotify, 0, false);
        let Some((slot, cseq)) = self.dialog_of(message) else {
            // The last word of a subscription that we ended is expected, if not waited for.
            if !(is_last(message) && self.was_ours(message)) {
                host.count(self.stage, Counter::Unmatched, now, 1);
            }
            return;
        };
        if !self.is_genuine(now, self.dialogs[slot].owner, message, host) {
            return;
        }
        let dialog = &self.dialogs[slot];
        let from_tag = message.from_tag().unwrap_or(b"");
        let counter = if dialog.has(has::NOTIFY) && self.texts.get(&dialog.remote_tag) != from_tag
            || !self.is_expected(slot, message)
        {
            Some(Counter::Unmatched)
        } else if dialog.has(has::NOTIFY) && cseq == dialog.remote_cseq {
            Some(Counter::Duplicate)
        } else if dialog.has(has::NOTIFY) && cseq < dialog.remote_cseq {
            Some(Counter::ReorderedCseq)
        } else {
            None
        };
        if let Some(counter) = counter {
            return host.count(self.stage, counter, now, 1);
        }
        let dialog = &mut self.dialogs[slot];
        dialog.remote_cseq = cseq;
        self.texts.set(&mut dialog.remote_tag, from_tag);
        self.refresh_target(slot, flow, message, host);
        self.notified(now, stamp, slot, message, host);
    }

    /// True if the event is the one that the dialog is about.
    pub(super) fn is_expected(&self, slot: Slot, message: &Message<'_>) -> bool {
        let event = message.header(HeaderId::Event).unwrap_or(b"");
        let package = value::trim(event.split(|b| *b == b';').next().unwrap_or(b""));
        let expected: &[u8] = if self.is_lync() && self.dialogs[slot].has(has::SELF) {
            b"vnd-microsoft-roaming-self"
        } else {
            b"presence"
        };
        package.eq_ignore_ascii_case(expected)
    }

    /// The 2xx of a SUBSCRIBE may hold the notification that would have followed
    /// it: `ms-piggyback-cseq` is the CSeq that it would have had. Without that
    /// header one follows.
    pub(super) fn piggybacked(&mut self, at: Time, slot: Slot, message: &Message<'_>, host: &mut impl Host) {
        if !self.is_lync() {
            return;
        }
        let Some(cseq) = message.named("ms-piggyback-cseq").and_then(value::number) else { return };
        let dialog = &mut self.dialogs[slot];
        dialog.remote_cseq = dialog.remote_cseq.max(cseq);
        self.notified(at, at, slot, message, host);
    }

    /// A notification of this dialect, in whatever message it came.
    pub(super) fn notified_lync(
        &mut self,
        now: Time,
        stamp: Time,
        slot: Slot,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        let state =
            value::subscription_state(message.header(HeaderId::SubscriptionState).unwrap_or(b"active"));
        let dialog = (slot, self.dialogs.generation(slot));
        if self.dialogs[slot].has(has::SELF) {
            self.learn(slot, message, host);
        } else {
            self.dialogs[slot].flags |= has::NOTIFY;
            if !self.dialogs[slot].has(has::LEAVING) {
                self.shown_lync(now, stamp, slot, message, host);
            }
        }
        if !self.is_live(dialog) {
            return; // what was said ended it
        }
        self.dialogs[slot].flags &= !(has::REFRESHED | has::AWAITS);
        if state.state.eq_ignore_ascii_case(b"terminated") {
            if self.dialogs[slot].has(has::CARRIER) {
                let again = again_after(state.reason, state.retry_after);
                return self.carrier_terminated(stamp, slot, state.reason, again, message, host);
            }
            return self.terminated(stamp, slot, state.reason, state.retry_after, message, host);
        }
        let shorter = self.granted_until(stamp, slot, state.expires);
        let dialog = &self.dialogs[slot];
        if !dialog.has(has::SETTLED) && !dialog.has(has::CARRIER) {
            self.settle(stamp, slot, host);
        } else if shorter && dialog.has(has::SETTLED) && !dialog.has(has::LEAVING) {
            self.arm_refresh(stamp, slot);
        }
    }

    /// What the server holds of ourselves.
    fn learn(&mut self, slot: Slot, message: &Message<'_>, host: &mut impl Host) {
        let dialog = &self.dialogs[slot];
        let (user, is_first) = (dialog.owner, !dialog.has(has::NOTIFY));
        let Some(endpoint) = self.endpoint_mut(user) else { return };
        let learned = endpoint.versions.learn(message.body(), &endpoint.epid, is_first);
        if let Some(version) = learned.colleagues {
            endpoint.colleagues = version;
        }
        if is_first || learned.colleagues.is_some() {
            endpoint.set(own::LACKS_MEMBERS, learned.is_document && !learned.same_enterprise);
        }
        if is_first && learned.others > 0 {
            host.progress(user, Progress::OtherEndpoints(learned.others));
        }
        if learned.is_document {
            // Only now: without a document there is nothing to go on with.
            self.dialogs[slot].flags |= has::NOTIFY;
        }
    }

    /// What a document shows of those whom we watch. With nobody who was not shown yet
    /// and no list it is only searched for markers.
    fn shown_lync(
        &mut self,
        now: Time,
        stamp: Time,
        slot: Slot,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        let body = message.body();
        let dialog = &self.dialogs[slot];
        let (owner, is_carrier) = (dialog.owner, dialog.has(has::CARRIER));
        let kind = message.header(HeaderId::ContentType).unwrap_or(b"");
        let kind = memchr::memchr(b';', kind).map_or(kind, |end| &kind[..end]).trim_ascii();
        let is_plain = kind.eq_ignore_ascii_case(b"application/msrtc-event-categories+xml");
        let is_awaited = if is_carrier { dialog.has(has::PENDING) } else { !dialog.has(has::ACTIVE) };
        let mut then: SmallVec<[((Slot, u32), Then<'_>); 4]> = SmallVec::new();
        if !body.is_empty() && (is_awaited || !is_plain) {
            let (mut scratch, mut other) = (Vec::new(), Vec::new());
            let mut near = NONE;
            for said in watched::read(body) {
                let (Said::Active { uri } | Said::Terminated { uri, .. } | Said::Resubscribe { uri, .. }) =
                    said;
                let uri = as_sip(resolved(uri, &mut scratch), &mut other);
                let Some(rider) = self.rider_by_uri(slot, near, uri) else { continue };
                near = self.dialogs[rider].next_watch;
                let next = match said {
                    Said::Active { .. } if self.appear(rider, stamp, host) => Then::Settle,
                    Said::Active { .. } => continue,
                    Said::Terminated { reason, .. } => Then::Terminate(reason),
                    Said::Resubscribe { pool, .. } => Then::Resubscribe(pool),
                };
                let rider = (rider, self.dialogs.generation(rider));
                // Several instances of one resource say it several times.
                if then.last().is_none_or(|(last, _)| *last != rider) {
                    then.push((rider, next));
                }
            }
            if is_carrier {
                let pending = self.has_unshown(owner);
                let carrier = &mut self.dialogs[slot];
                carrier.flags = carrier.flags & !has::PENDING | if pending { has::PENDING } else { 0 };
            }
        }
        let dialog = (slot, self.dialogs.generation(slot));
        let mut found: SmallVec<[(u32, u32); 4]> = SmallVec::new();
        let mut beyond = 0;
        self.finder.each(body, self.config.namespace.run, |publisher, sequence| {
            let has_room = found.len() < MAX_SHOWN;
            match found.iter_mut().find(|(known, _)| *known == publisher) {
                Some((_, latest)) => *latest = sequence.max(*latest),
                None if has_room => found.push((publisher, sequence)),
                None => beyond += 1,
            }
        });
        if beyond > 0 {
            host.count(self.stage, Counter::Unmatched, now, beyond);
        }
        for (publisher, sequence) in found {
            // What an earlier one ended may have ended this, too.
            if !self.is_live(dialog) {
                break;
            }
            if let Some(rider) = self.rider_by_number(slot, publisher) {
                self.shown_sequence(now, stamp, rider, sequence, host);
            }
        }
        for (rider, then) in then {
            if !self.is_live(rider) {
                continue;
            }
            match then {
                Then::Settle => self.settle(stamp, rider.0, host),
                Then::Terminate(reason) => self.terminated(stamp, rider.0, reason, None, message, host),
                Then::Resubscribe(pool) => self.resubscribe(stamp, rider.0, pool, message, host),
            }
        }
    }

    /// A publisher is shown for the first time: it owes what it publishes from now on.
    fn appear(&mut self, rider: Slot, stamp: Time, host: &mut impl Host) -> bool {
        let dialog = &mut self.dialogs[rider];
        // Nobody asked for one that still waits for its request.
        if dialog.has(has::ACTIVE | has::LEAVING | has::QUEUED) {
            return false;
        }
        dialog.flags |= has::ACTIVE;
        dialog.expects_after = self.users[dialog.publisher as usize].sequence;
        self.subscribed += 1;
        host.sample(&Sample {
            measure: Measure::SubscribeToNotify,
            stage: dialog.stage,
            intended: dialog.intended,
            sent: dialog.sent,
            ended: stamp,
        });
        true
    }

    fn has_unshown(&self, owner: u32) -> bool {
        let mut at = self.users[owner as usize].watches;
        while let Some(dialog) = self.dialogs.get(at) {
            if dialog.has(has::RIDES) && !dialog.has(has::ACTIVE) {
                return true;
            }
            at = dialog.next_watch;
        }
        false
    }

    /// The subscription that a URI in a notification of `slot` is about. Servers answer in the order
    /// of the question: `near` is where the next one is expected.
    fn rider_by_uri(&self, slot: Slot, near: Slot, uri: &[u8]) -> Option<Slot> {
        let (owner, is_carrier) = (self.dialogs[slot].owner, self.dialogs[slot].has(has::CARRIER));
        let is_meant = |user| self.accounts.is_uri_of(user, uri);
        let expected = self.dialogs.get(near).filter(|rider| {
            is_carrier && rider.has(has::RIDES) && rider.owner == owner && is_meant(rider.publisher)
        });
        expected.map(|_| near).or_else(|| self.rider(slot, is_meant))
    }

    fn rider_by_number(&self, slot: Slot, number: u32) -> Option<Slot> {
        self.rider(slot, |user| self.accounts.number(user) == number)
    }

    /// The subscription to a publisher in the dialog `slot`: itself, or one of
    /// those who ride on it. As long as a contact list.
    fn rider(&self, slot: Slot, is: impl Fn(u32) -> bool) -> Option<Slot> {
        let dialog = &self.dialogs[slot];
        if !dialog.has(has::CARRIER) {
            return is(dialog.publisher).then_some(slot);
        }
        let mut at = self.users[dialog.owner as usize].watches;
        while let Some(rider) = self.dialogs.get(at) {
            if rider.has(has::RIDES) && is(rider.publisher) {
                return Some(at);
            }
            at = rider.next_watch;
        }
        None
    }

    /// True if a notification may show again what is known already.
    pub(super) fn repeats(&self, slot: Slot) -> bool {
        let dialog = &self.dialogs[slot];
        dialog.has(has::REFRESHED | has::LEAVING)
            || dialog.has(has::RIDES) && {
                let carrier = self.dialogs.get(self.carrier_of(dialog.owner));
                carrier.is_some_and(|carrier| carrier.has(has::REFRESHED | has::LEAVING))
            }
    }

    /// True unless the user is one of those whose colleagues may not see it, and
    /// it can be changed: then it is asked for first.
    pub(super) fn needs_members(&mut self, user: u32) -> bool {
        let held = &self.users[user as usize];
        let is_free = held.publish_tx == NONE && !held.is(is::LEAVING);
        let Some(endpoint) = self.endpoint_mut(user) else { return false };
        let asks = is_free && endpoint.is(own::LACKS_MEMBERS) && !endpoint.is(own::ASKED_MEMBERS);
        if asks {
            endpoint.set(own::ASKED_MEMBERS, true);
        }
        asks
    }
}
