//! Publications and what they owe: expectations, deadlines, entity tags
//! (RFC 3903).
//!
//! An expectation takes no memory of its own. A publication knows how many
//! subscriptions were active when it was written; a dialog knows the newest
//! sequence that it showed, and after which one it began to be owed. A NOTIFY
//! with sequence `m` so ends, in its dialog, every open publication in
//! (`seen`, `m`]: the last one as delivered, those before it as superseded.

use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message};

use super::lync_state::own;
use super::request::{Order, Outcome};
use super::state::{Publication, Purpose, Waiting, has, is, tried};
use super::{LEAST_LIFETIME, Population, Timer, some};
use crate::host::{Activity, Class, Counter, Failure, Host, Measure, Progress, Sample, Stage};
use crate::slab::{NONE, Slot};
use crate::wheel::TimerId;

impl Population {
    /// A publication of a held user arrives. It is written at once, or when
    /// the previous PUBLISH is answered, or not at all if that takes longer
    /// than one deadline.
    pub fn publish(&mut self, now: Time, user: u32, intended: Time, stage: Stage, host: &mut impl Host) {
        let held = &self.users[user as usize];
        if now.since(intended) > self.config.deadline {
            return host.count(stage, Counter::NotStarted, now, 1);
        }
        if self.can_publish(user) && held.waiting_head == NONE {
            return self.write_publication(now, user, intended, intended, stage, host);
        }
        host.count(stage, Counter::WaitedPublication, now, 1);
        let (slot, _) = self.waiting.insert(Waiting { stage, intended, next: NONE });
        let held = &mut self.users[user as usize];
        match some(held.waiting_tail) {
            Some(tail) => self.waiting[tail].next = slot,
            None => held.waiting_head = slot,
        }
        self.users[user as usize].waiting_tail = slot;
    }

    fn can_publish(&self, user: u32) -> bool {
        let held = &self.users[user as usize];
        held.publish_tx == NONE
            && held.is(is::REGISTERED)
            && held.is(is::CONNECTED)
            && !held.is(is::LEAVING | is::REJECTED)
            && !self.is_renewing(user)
            && !self.lacks_presence(user)
    }

    /// Writes the next waiting publication of a user, if it can.
    pub(super) fn next_waiting(&mut self, now: Time, due: Time, user: u32, host: &mut impl Host) {
        while self.can_publish(user) {
            let Some(waiting) = self.take_waiting(user) else { return };
            if now.since(waiting.intended) > self.config.deadline {
                host.count(waiting.stage, Counter::NotStarted, now, 1);
                continue;
            }
            let due = due.max(waiting.intended);
            self.write_publication(now, user, waiting.intended, due, waiting.stage, host);
        }
    }

    fn take_waiting(&mut self, user: u32) -> Option<Waiting> {
        let held = &mut self.users[user as usize];
        let slot = some(held.waiting_head)?;
        let waiting = self.waiting[slot];
        held.waiting_head = waiting.next;
        if waiting.next == NONE {
            held.waiting_tail = NONE;
        }
        self.waiting.release(slot);
        Some(waiting)
    }

    /// Drops what still waits and can no longer be sent in time, or all of it.
    pub fn expire_waiting(&mut self, now: Time, all: bool, host: &mut impl Host) {
        if self.waiting.is_empty() {
            return;
        }
        for user in 0..self.users() {
            while let Some(slot) = some(self.users[user as usize].waiting_head) {
                let waiting = self.waiting[slot];
                if !all && now.since(waiting.intended) <= self.config.deadline {
                    break;
                }
                self.take_waiting(user);
                host.count(waiting.stage, Counter::NotStarted, now, 1);
            }
        }
    }

    /// Opens the publication and sends its PUBLISH.
    pub(super) fn write_publication(
        &mut self,
        now: Time,
        user: u32,
        intended: Time,
        due: Time,
        stage: Stage,
        host: &mut impl Host,
    ) {
        let held = &mut self.users[user as usize];
        held.sequence += 1;
        let (slot, _) = self.publications.insert(Publication {
            publisher: user,
            sequence: held.sequence,
            stage,
            intended,
            sent: now,
            timer: TimerId::NONE,
            expected: 0,
            remaining: 0,
            missed: 0,
            last: Time(0),
            answered: false,
            written: false,
            next: NONE,
        });
        match some(held.newest) {
            Some(newest) => self.publications[newest].next = slot,
            None => held.oldest = slot,
        }
        self.users[user as usize].newest = slot;
        host.progress(user, Progress::Started(Activity::Publish));
        let mut order = Order::new(Purpose::Publish, user, self.config.publish_expires, stage, due);
        order.intended = intended;
        order.publication = slot;
        self.request(now, order, host);
    }

    /// The PUBLISH was written: expectations are open from here.
    pub(super) fn publication_sent(&mut self, order: &Order, at: Time, host: &mut impl Host) {
        let slot = order.publication;
        let Some(publication) = self.publications.get(slot) else { return };
        let (user, sequence, stage) = (publication.publisher, publication.sequence, publication.stage);
        let mut expected = 0;
        let mut unexpected = 0;
        let mut at_dialog = self.users[user as usize].watchers;
        while let Some(dialog) = some(at_dialog) {
            let dialog = &self.dialogs[dialog];
            if dialog.has(has::ACTIVE) && dialog.expects_after < sequence {
                expected += 1;
            } else {
                unexpected += 1;
            }
            at_dialog = dialog.next_watcher;
        }
        let publication = &mut self.publications[slot];
        publication.sent = at;
        publication.written = true;
        publication.expected = expected;
        publication.remaining = expected;
        publication.timer = self.wheel.insert(at + self.config.deadline, Timer::Deadline(slot));
        host.count(stage, Counter::Expected, at, u64::from(expected));
        if unexpected > 0 {
            host.count(stage, Counter::NotExpected, at, unexpected);
        }
        if !self.is_workflow() {
            host.count(stage, Counter::Sent, at, 1);
            host.send_lag(stage, order.due, at);
        }
    }

    /// A NOTIFY with a document reached a subscription.
    pub(super) fn shown(&mut self, now: Time, stamp: Time, dialog: Slot, body: &[u8], host: &mut impl Host) {
        let number = self.accounts.number(self.dialogs[dialog].publisher);
        if let Some(shown) = self.finder.latest(body, self.config.namespace.run, number) {
            self.shown_sequence(now, stamp, dialog, shown, host);
        }
    }

    /// A subscription was shown this publication of its publisher.
    pub(super) fn shown_sequence(
        &mut self,
        now: Time,
        stamp: Time,
        dialog: Slot,
        shown: u32,
        host: &mut impl Host,
    ) {
        let publisher = self.dialogs[dialog].publisher;
        let repeats = self.repeats(dialog);
        let held = &mut self.dialogs[dialog];
        let (owner, seen) = (held.owner, held.seen);
        if shown <= seen {
            if shown < seen {
                host.count(self.stage, Counter::ReorderedState, now, 1);
            } else if !repeats {
                host.count(self.stage, Counter::Duplicate, now, 1);
            }
            return;
        }
        let owed_after = seen.max(held.expects_after);
        held.seen = shown;
        let mut found = shown <= owed_after;
        let mut at = self.users[publisher as usize].oldest;
        while let Some(slot) = some(at) {
            let publication = &self.publications[slot];
            at = publication.next;
            let sequence = publication.sequence;
            if sequence > shown {
                break;
            }
            found |= sequence == shown;
            if sequence > owed_after && publication.remaining > 0 {
                self.meet(stamp, slot, owner, sequence == shown, host);
            }
        }
        if !found {
            host.count(self.stage, Counter::Late, now, 1);
        }
    }

    /// One expectation ends well.
    fn meet(&mut self, stamp: Time, slot: Slot, owner: u32, delivered: bool, host: &mut impl Host) {
        let publication = &mut self.publications[slot];
        publication.remaining -= 1;
        publication.last = publication.last.max(stamp);
        let mut sample = Sample {
            measure: Measure::PublishToNotify,
            stage: publication.stage,
            intended: publication.intended,
            sent: publication.sent,
            ended: stamp,
        };
        let counter = if delivered { Counter::Delivered } else { Counter::Superseded };
        host.count(sample.stage, counter, stamp, 1);
        host.sample(&sample);
        host.progress(owner, Progress::Completed(Activity::Notify, sample.sent, stamp));
        let (publisher, last) = (publication.publisher, publication.last);
        if publication.remaining == 0 && publication.expected > 1 && publication.missed == 0 {
            sample.measure = Measure::NotifyFanoutLast;
            sample.ended = last;
            host.sample(&sample);
        }
        self.retire(slot);
        if self.is_workflow() {
            self.notification_seen(stamp, publisher, host);
        }
    }

    /// Nobody who still waits will be told in time.
    pub(super) fn deadline_passed(&mut self, now: Time, slot: Slot, host: &mut impl Host) {
        let Some(publication) = self.publications.get_mut(slot) else { return };
        publication.timer = TimerId::NONE;
        let missed = std::mem::take(&mut publication.remaining);
        publication.missed = missed;
        let (publisher, stage, intended) = (publication.publisher, publication.stage, publication.intended);
        let (fan_out, sequence) = (publication.expected > 1, publication.sequence);
        self.retire(slot);
        if missed == 0 {
            return;
        }
        host.count(stage, Counter::Missed, now, u64::from(missed));
        host.count(stage, Counter::MissedDue, intended, u64::from(missed));
        let limit = self.config.deadline as f64 / SECOND as f64;
        let reason = format!("no NOTIFY with the published document within {limit} s");
        let mut at = self.users[publisher as usize].watchers;
        for _ in 0..missed {
            host.censored(Measure::PublishToNotify, stage, intended, now);
            // Those whose subscription is gone have nobody left to name but the publisher.
            let mut user = publisher;
            while let Some(dialog) = self.dialogs.get(at) {
                at = dialog.next_watcher;
                if dialog.seen < sequence && dialog.expects_after < sequence {
                    user = dialog.owner;
                    break;
                }
            }
            let missigned = self.endpoint(user).is_some_and(|endpoint| endpoint.is(own::MISSIGNED));
            host.failed(&Failure {
                activity: Activity::Notify,
                stage,
                class: Class::Pool,
                code: "timeout:notify",
                reason: reason.as_bytes(),
                diagnosis: if missigned {
                    b"notifications came and were dropped: their signature (rspauth) is wrong or missing; \
                    look for what changes messages on their way, or answers in the pool's stead"
                } else {
                    b"the pool took the publication and did not tell the subscriber: look at its presence \
                    service, at what it does to <note>, and at the way back to us (Contact, NAT, firewalls)"
                        as &[u8]
                },
                user,
                at: now,
                request: b"",
                response: b"",
            });
        }
        if fan_out {
            host.censored(Measure::NotifyFanoutLast, stage, intended, now);
        }
        if self.is_workflow() {
            self.activity_failed(now, publisher, true, host);
        }
    }

    pub(super) fn publish_ended(
        &mut self,
        at: Time,
        mut order: Order,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        let user = order.user;
        if self.is_lync() {
            return self.publish_ended_lync(at, order, outcome, host);
        }
        let etag = match outcome {
            Outcome::Answer(message) if message.code() < 300 => {
                Some((message.header(HeaderId::SipETag).unwrap_or(b""), message.expires()))
            }
            _ => None,
        };
        let conflict = matches!(outcome, Outcome::Answer(message) if message.code() == 412);
        if conflict && order.tried & tried::FROM_SCRATCH == 0 {
            host.count(order.stage, Counter::EtagConflict, at, 1);
            self.texts.clear(&mut self.users[user as usize].etag);
            if order.purpose.is_refresh() {
                // The next publication begins from scratch.
                self.leave(at, at, user, host);
                return self.next_waiting(at, at, user, host);
            }
            order.tried |= tried::FROM_SCRATCH;
            self.request(at, order, host);
            return;
        }
        match etag {
            Some((etag, expires)) if !etag.is_empty() => {
                let held = &mut self.users[user as usize];
                self.texts.set(&mut held.etag, etag);
                self.arm_document(at, user, expires.unwrap_or(order.expires));
                if !order.purpose.is_refresh() {
                    self.published(at, &order, host);
                }
            }
            _ => self.publish_failed(at, &order, outcome, etag.is_some(), host),
        }
        // A user that signs off waited for this answer.
        self.leave(at, at, user, host);
        self.next_waiting(at, at, user, host);
    }

    pub(super) fn published(&mut self, at: Time, order: &Order, host: &mut impl Host) {
        let sent = order.sent.unwrap_or(order.due);
        host.sample(&Sample {
            measure: Measure::Publish,
            stage: order.stage,
            intended: order.intended,
            sent,
            ended: at,
        });
        host.progress(order.user, Progress::Completed(Activity::Publish, sent, at));
        if !self.is_workflow() {
            host.count(order.stage, Counter::PublishOk, at, 1);
        }
        self.answer_publication(order.publication);
        self.publication_answered(at, order.user, host);
    }

    pub(super) fn publish_failed(
        &mut self,
        at: Time,
        order: &Order,
        outcome: Outcome<'_, '_>,
        without_etag: bool,
        host: &mut impl Host,
    ) {
        match outcome {
            Outcome::Answer(message) if without_etag => self.etag_missing(at, order, message, host),
            Outcome::Answer(message) if self.is_lync() && message.code() == 409 => {
                self.version_conflict(at, order, message, host);
            }
            _ => self.fail(at, order, outcome, host),
        }
        if order.purpose.is_refresh() {
            return self.refresh_document_soon(at, order.user);
        }
        if let Outcome::TimedOut = outcome {
            host.censored(Measure::Publish, order.stage, order.intended, at);
        }
        if let Some(publication) = self.publications.get_mut(order.publication) {
            let void = u64::from(std::mem::take(&mut publication.remaining));
            let written = publication.written;
            if !written && !self.is_workflow() {
                // It never left: nothing was sent, so nothing was offered in vain.
                host.count(order.stage, Counter::NotStarted, at, 1);
            } else if !self.is_workflow() {
                host.count(order.stage, Counter::PublishFailed, at, 1);
            }
            if void > 0 {
                host.count(order.stage, Counter::VoidPublishFailed, at, void);
            }
        }
        self.answer_publication(order.publication);
        if self.is_workflow() {
            self.activity_failed(at, order.user, matches!(outcome, Outcome::TimedOut), host);
        }
    }

    fn etag_missing(&self, at: Time, order: &Order, message: &Message<'_>, host: &mut impl Host) {
        host.failed(&Failure {
            activity: Activity::Publish,
            stage: order.stage,
            class: Class::Pool,
            code: "protocol:etag",
            reason: b"the 200 to PUBLISH has no SIP-ETag",
            diagnosis: b"RFC 3903 section 6 asks for exactly one; without it the document can neither be changed nor removed",
            user: order.user,
            at,
            request: &self.scratch.request,
            response: message.raw(),
        });
    }

    fn answer_publication(&mut self, slot: Slot) {
        if let Some(publication) = self.publications.get_mut(slot) {
            publication.answered = true;
        }
        self.retire(slot);
    }

    /// Frees a publication that is answered and owes nothing any more.
    pub(super) fn retire(&mut self, slot: Slot) {
        let Some(publication) = self.publications.get_mut(slot) else { return };
        if publication.remaining > 0 {
            return;
        }
        let mut timer = std::mem::replace(&mut publication.timer, TimerId::NONE);
        let (publisher, next, answered) = (publication.publisher, publication.next, publication.answered);
        self.wheel.cancel(&mut timer);
        if !answered {
            return;
        }
        let held = &mut self.users[publisher as usize];
        if held.oldest == slot {
            held.oldest = next;
            if next == NONE {
                held.newest = NONE;
            }
        } else {
            let mut at = held.oldest;
            while let Some(before) = some(at) {
                let follower = self.publications[before].next;
                if follower == slot {
                    self.publications[before].next = next;
                    if next == NONE {
                        self.users[publisher as usize].newest = before;
                    }
                    break;
                }
                at = follower;
            }
        }
        self.publications.release(slot);
    }

    /// Voids what is still open: the run is cut off and nobody can judge it.
    pub fn interrupt(&mut self, now: Time, host: &mut impl Host) {
        let open: Vec<Slot> = self.publications.iter().map(|(slot, _)| slot).collect();
        for slot in open {
            let publication = &mut self.publications[slot];
            let void = u64::from(std::mem::take(&mut publication.remaining));
            let (stage, answered, written) = (publication.stage, publication.answered, publication.written);
            if void > 0 {
                host.count(stage, Counter::VoidInterrupted, now, void);
            }
            if !answered && !self.is_workflow() {
                let counter = if written { Counter::PublishFailed } else { Counter::NotStarted };
                host.count(stage, counter, now, 1);
            }
            self.answer_publication(slot);
        }
        self.end_workflows(now, true, host);
        self.expire_waiting(now, true, host);
    }

    /// Refresh of the document at 80–90 % of what was granted.
    fn arm_document(&mut self, at: Time, user: u32, granted: u32) {
        if self.is_workflow() {
            return;
        }
        let share = 800 + self.random() % 100;
        let held = &mut self.users[user as usize];
        self.wheel.cancel(&mut held.publish_timer);
        let after = u64::from(granted.max(LEAST_LIFETIME)) * SECOND / 1000 * share;
        held.publish_timer = self.wheel.insert(at + after, Timer::Document(user));
    }

    /// The refresh of a document failed, or had no way: the server's clock
    /// still runs. When it has run down, a 412 ends this.
    fn refresh_document_soon(&mut self, at: Time, user: u32) {
        let jitter = self.random() % (5 * SECOND);
        let held = &mut self.users[user as usize];
        self.wheel.cancel(&mut held.publish_timer);
        if !held.is(is::LEAVING | is::GONE | is::REJECTED) && !held.etag.is_empty() {
            held.publish_timer = self.wheel.insert(at + (5 * SECOND + jitter), Timer::Document(user));
        }
    }

    pub(super) fn document_timer(&mut self, now: Time, user: u32, host: &mut impl Host) {
        let held = &mut self.users[user as usize];
        held.publish_timer = TimerId::NONE;
        // With a PUBLISH on its way its answer sets the timer again.
        if held.is(is::LEAVING | is::GONE) || held.publish_tx != NONE || held.etag.is_empty() {
            return;
        }
        if !self.can_publish(user) {
            return self.refresh_document_soon(now, user);
        }
        host.count(self.stage, Counter::RefreshPublish, now, 1);
        let order = Order::new(Purpose::PublishRefresh, user, self.config.publish_expires, self.stage, now);
        self.request(now, order, host);
    }

    pub(super) fn unpublish_ended(
        &mut self,
        at: Time,
        order: Order,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        if self.is_lync() {
            return self.unpublish_ended_lync(at, order, outcome, host);
        }
        self.texts.clear(&mut self.users[order.user as usize].etag);
        let sent = order.sent.unwrap_or(order.due);
        match outcome {
            Outcome::Answer(message) if message.code() < 300 => {
                host.progress(order.user, Progress::Completed(Activity::Unpublish, sent, at));
            }
            Outcome::Answer(message) if matches!(message.code(), 412 | 481) => {
                host.count(order.stage, Counter::AlreadyGone, at, 1);
                host.progress(order.user, Progress::Completed(Activity::Unpublish, sent, at));
            }
            _ => {
                self.fail(at, &order, outcome, host);
                self.sign_off_failed(order.user, &outcome);
            }
        }
        self.leave(at, at, order.user, host);
    }
}
