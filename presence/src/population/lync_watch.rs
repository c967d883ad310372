//! Watching others in the `lync` dialect: one dialog carries all whom a user
//! watches ([MS-PRES] §2.2.2.4.1, batched subscriptions).
//!
//! Each publisher has a [`Dialog`] of its own, as in the other dialect, with
//! all that is measured and owed; it only has no SIP dialog. It *rides* on the
//! owner's *carrier*, whose Call-ID is on the wire and which refreshes and ends
//! for all of them. Who is added later is a further action in the same dialog.

use adsum_sip::Message;
use adsum_sip::time::{SECOND, TIMEOUT, Time};
use smallvec::SmallVec;

use super::repair::retry_after;
use super::request::{Order, Outcome};
use super::state::{Dialog, Purpose, has, is};
use super::subscription::Again;
use super::{Population, Timer, some};
use crate::diagnosis::class_of_answer;
use crate::host::{Activity, Class, Counter, Failure, Host, Measure, Progress, Sample, Stage};
use crate::slab::{NONE, Slot};
use crate::wheel::TimerId;

/// Publishers in one request: answers to batches beyond about a thousand may
/// exceed what a server sends.
const MAX_BATCH: usize = 500;

/// Riders that a request or an answer is about; few, but for whole contact lists.
type Riders = SmallVec<[(Slot, u32); 8]>;

impl Population {
    /// A user subscribes to all whom it is to watch and does not watch.
    /// `false` if there is nobody.
    pub(super) fn watch_contacts(
        &mut self,
        now: Time,
        user: u32,
        due: Time,
        stage: Stage,
        host: &mut impl Host,
    ) -> bool {
        let mut any = false;
        for edge in self.contacts.of(user) {
            let Some((_, publisher)) = self.contacts.edge(edge) else { continue };
            if self.watch_of(user, publisher).is_none() && !self.refused.contains(&(user, publisher)) {
                self.enqueue(user, publisher, due, stage);
                any = true;
            }
        }
        self.send_batch(now, user, host);
        any
    }

    /// One more publisher is to be watched; [`Population::send_batch`] asks.
    pub(super) fn enqueue(&mut self, owner: u32, publisher: u32, due: Time, stage: Stage) {
        if self.dialogs.get(self.carrier_of(owner)).is_none() {
            let carrier = self.insert_dialog(has::CARRIER, owner, owner, due, stage);
            if let Some(endpoint) = self.endpoint_mut(owner) {
                endpoint.carrier = carrier;
            }
        }
        let slot = self.insert_dialog(has::RIDES | has::QUEUED, owner, publisher, due, stage);
        self.link_watch(slot);
    }

    /// Asks for those who wait for it, unless a request is on its way: its end leads here again.
    pub(super) fn send_batch(&mut self, now: Time, owner: u32, host: &mut impl Host) {
        let slot = self.carrier_of(owner);
        let Some(carrier) = self.dialogs.get(slot) else { return };
        if carrier.tx != NONE || carrier.has(has::LEAVING) {
            return;
        }
        let mut first = None;
        let mut asked = 0;
        let mut at = self.users[owner as usize].watches;
        while let Some(rider) = self.dialogs.get_mut(at) {
            at = rider.next_watch;
            if rider.has(has::QUEUED) && asked < MAX_BATCH {
                rider.flags = rider.flags & !has::QUEUED | has::ASKED;
                asked += 1;
                // What waited longest is what the request was intended for.
                let intended = (rider.intended, rider.stage);
                first = Some(first.map_or(
                    intended,
                    |first: (Time, Stage)| {
                        if intended.0 < first.0 { intended } else { first }
                    },
                ));
            }
        }
        let Some((due, stage)) = first else { return };
        let carrier = &mut self.dialogs[slot];
        carrier.stage = stage;
        carrier.intended = due;
        if carrier.has(has::SETTLED) {
            // [UNV] The answer may show again those who are there already.
            carrier.flags |= has::REFRESHED;
        }
        host.progress(owner, Progress::Started(Activity::Subscribe));
        let mut order = Order::new(Purpose::Subscribe, owner, self.config.expires, stage, due);
        order.dialog = slot;
        self.request(now, order, host);
    }

    /// A request of the carrier left: timer N runs for those it asks for.
    pub(super) fn batch_sent(&mut self, carrier: Slot, at: Time) {
        let owner = self.dialogs[carrier].owner;
        self.dialogs[carrier].sent = at;
        let mut next = self.users[owner as usize].watches;
        while let Some(slot) = some(next) {
            let rider = &mut self.dialogs[slot];
            next = rider.next_watch;
            if rider.has(has::ASKED) {
                rider.sent = at;
                self.wheel.cancel(&mut rider.timer);
                rider.timer = self.wheel.insert(at + TIMEOUT, Timer::Dialog(slot));
            }
        }
    }

    /// Those of a user's watches that have all bits of `flags`, with their generation.
    fn riders(&self, owner: u32, flags: u16) -> Riders {
        let mut found = Riders::new();
        let mut at = self.users[owner as usize].watches;
        while let Some(dialog) = self.dialogs.get(at) {
            if dialog.flags & flags == flags {
                found.push((at, self.dialogs.generation(at)));
            }
            at = dialog.next_watch;
        }
        found
    }

    pub(super) fn is_live(&self, (slot, generation): (Slot, u32)) -> bool {
        self.dialogs.get(slot).is_some() && self.dialogs.generation(slot) == generation
    }

    /// The end of a SUBSCRIBE of the carrier, first or further or refresh.
    pub(super) fn batch_ended(
        &mut self,
        at: Time,
        order: Order,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        let carrier = (order.dialog, self.dialogs.generation(order.dialog));
        match outcome {
            Outcome::Answer(message) if message.code() < 300 => {
                self.batch_answered(at, carrier, &order, message, host);
            }
            _ => self.batch_failed(at, carrier, &order, outcome, host),
        }
        if self.users[order.user as usize].is(is::LEAVING) {
            // A user that signs off waited for this answer.
            return self.leave(at, at, order.user, host);
        }
        self.send_batch(at, order.user, host);
    }

    fn batch_answered(
        &mut self,
        at: Time,
        carrier: (Slot, u32),
        order: &Order,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        let (slot, owner) = (carrier.0, order.user);
        self.dialogs[slot].flags |= has::ANSWER | has::SETTLED;
        self.arm_refresh(at, slot);
        if order.purpose.is_refresh() {
            self.recovered(owner);
            return self.piggybacked(at, slot, message, host);
        }
        host.sample(&Sample {
            measure: Measure::Subscribe,
            stage: order.stage,
            intended: order.intended,
            sent: order.sent.unwrap_or(order.due),
            ended: at,
        });
        let asked = self.riders(owner, has::ASKED);
        for (slot, _) in &asked {
            let rider = &mut self.dialogs[*slot];
            rider.flags = rider.flags & !has::ASKED | has::ANSWER;
        }
        self.dialogs[slot].flags |= has::PENDING;
        self.piggybacked(at, slot, message, host);
        // Those who were shown before the answer came.
        for rider in asked {
            if self.is_live(rider) {
                self.settle(at, rider.0, host);
            }
        }
    }

    fn batch_failed(
        &mut self,
        at: Time,
        carrier: (Slot, u32),
        order: &Order,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        let (slot, owner) = (carrier.0, order.user);
        let refresh = order.purpose.is_refresh();
        let stood = self.dialogs[slot].has(has::SETTLED);
        let asked = self.riders(owner, has::ASKED);
        let timed_out = matches!(outcome, Outcome::TimedOut);
        if timed_out && !refresh {
            host.censored(Measure::Subscribe, order.stage, order.intended, at);
            for (rider, _) in asked.iter().filter(|(rider, _)| !self.dialogs[*rider].has(has::ACTIVE)) {
                let rider = &self.dialogs[*rider];
                host.censored(Measure::SubscribeToNotify, rider.stage, rider.intended, at);
            }
        }
        let gone = super::subscription::ends_usage(&outcome);
        if !(refresh && matches!(outcome, Outcome::Answer(m) if m.code() == 481)) {
            self.fail(at, order, outcome, host);
        }
        let (mut after, mut again) = (None, Again::AtOnce);
        if let Outcome::Answer(message) = outcome {
            after = retry_after(message);
        }
        if !(refresh && gone) {
            // Another attempt helps against a pool in distress, not against a refusal.
            let refused = match outcome {
                Outcome::Answer(message) => {
                    class_of_answer(message) == Class::Configuration && message.code() != 481
                }
                Outcome::Unsupported(_) | Outcome::Blocked(_) => true,
                _ => false,
            };
            again = if refused { Again::Never } else { Again::After(after) };
        }
        if refresh && !gone {
            return self.refresh_soon(at, slot, after);
        }
        if refresh {
            return self.carrier_lost(at, slot, again, host);
        }
        let mut publishers: SmallVec<[u32; 8]> = SmallVec::new();
        for (rider, _) in &asked {
            publishers.push(self.dialogs[*rider].publisher);
            self.drop_dialog(*rider);
        }
        if stood && !gone {
            self.arm_refresh(at, slot);
        } else if stood {
            self.carrier_lost(at, slot, Again::After(after), host);
        } else {
            let others = !self.riders(owner, has::QUEUED).is_empty();
            self.drop_dialog(slot);
            if others && matches!(again, Again::Never) {
                // Those who were not asked for yet are asked for by the repair.
                self.come_back(at, owner, after);
            }
        }
        self.not_watched(at, owner, &publishers, timed_out, again, host);
    }

    /// Subscriptions to these did not come about, or are lost.
    fn not_watched(
        &mut self,
        at: Time,
        owner: u32,
        publishers: &[u32],
        timed_out: bool,
        again: Again,
        host: &mut impl Host,
    ) {
        if self.is_workflow() || self.users[owner as usize].is(is::LEAVING) {
            return self.activity_failed(at, owner, timed_out, host);
        }
        match again {
            Again::Never => publishers.iter().for_each(|publisher| self.refuse(owner, *publisher)),
            Again::AtOnce => self.come_back(at, owner, None),
            Again::After(seconds) => self.come_back(at, owner, seconds),
        }
        if matches!(again, Again::Never) {
            self.has_all_again(at, owner, host);
        }
    }

    /// The dialog ended that carried all of them.
    fn carrier_lost(&mut self, at: Time, slot: Slot, again: Again, host: &mut impl Host) {
        let (owner, began) = (self.dialogs[slot].owner, self.dialogs[slot].sent);
        let mut publishers: SmallVec<[u32; 8]> = SmallVec::new();
        for (rider, _) in self.riders(owner, has::RIDES) {
            let rider = &self.dialogs[rider];
            publishers.push(rider.publisher);
            if rider.has(has::SETTLED) {
                host.count(self.stage, Counter::SubscriptionLost, at, 1);
            }
        }
        self.lacks(at, owner);
        self.drop_dialog(slot);
        let held = &self.users[owner as usize];
        if !self.is_workflow() && (held.is(is::REJECTED) || !self.can_ask(owner)) {
            return; // there is nobody to ask, or the repair of flow or registration will
        }
        let returns = !self.is_workflow() && !held.is(is::LEAVING) && matches!(again, Again::AtOnce);
        if returns && self.may_return_at_once(began, at, owner) {
            for publisher in publishers {
                self.enqueue(owner, publisher, at, self.stage);
            }
            return self.send_batch(at, owner, host);
        }
        self.not_watched(at, owner, &publishers, false, again, host);
    }

    /// `Subscription-State: terminated` in the dialog that carries all of them.
    pub(super) fn carrier_terminated(
        &mut self,
        at: Time,
        slot: Slot,
        reason: &[u8],
        again: Again,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        let dialog = &mut self.dialogs[slot];
        dialog.flags |= has::TERMINATED;
        if dialog.has(has::LEAVING) {
            return; // the answer ends it
        }
        let owner = dialog.owner;
        let text = [b"the subscription was terminated: " as &[u8], reason].concat();
        let mut diagnosis = Vec::new();
        crate::diagnosis::of_ended(message, reason, &mut diagnosis);
        for (rider, _) in self.riders(owner, has::RIDES) {
            let rider = &self.dialogs[rider];
            if rider.has(has::SETTLED) && !self.is_workflow() {
                continue;
            }
            host.failed(&Failure {
                activity: Activity::Subscribe,
                stage: rider.stage,
                class: termination_class(reason),
                code: "subscription:terminated",
                reason: &text,
                diagnosis: &diagnosis,
                user: owner,
                at,
                request: b"",
                response: message.raw(),
            });
        }
        self.carrier_lost(at, slot, again, host);
    }

    /// The server does not serve this publisher in a batch ([MS-PRES] §3.4.5.1.3):
    /// it is asked for by itself, or it is another pool's.
    pub(super) fn resubscribe(
        &mut self,
        at: Time,
        slot: Slot,
        pool: &[u8],
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        if self.dialogs[slot].has(has::RIDES) && self.dialogs[slot].has(has::SETTLED) && pool.is_empty() {
            // It stood until now: it is asked for again, and then by itself.
            return self.subscription_lost(at, slot, Again::AtOnce, host);
        }
        let dialog = &mut self.dialogs[slot];
        let (owner, publisher, stage) = (dialog.owner, dialog.publisher, dialog.stage);
        if dialog.has(has::RIDES) && pool.is_empty() {
            dialog.flags &= !(has::RIDES | has::ANSWER | has::ASKED | has::QUEUED);
            let mut order = Order::new(Purpose::Subscribe, owner, self.config.expires, stage, at);
            order.dialog = slot;
            order.intended = dialog.intended;
            // It is the same activity, and its timer N runs.
            order.sent = Some(dialog.sent);
            self.request(at, order, host);
            return;
        }
        let shown: &[u8] = if pool.is_empty() { b"(none named)" } else { pool };
        let shown = &shown[..shown.len().min(255)];
        let diagnosis = if pool.is_empty() {
            b"the server was asked for this publisher by itself and sent us away again: look at its pool"
                .to_vec()
        } else {
            [
                b"this publisher is homed on the pool " as &[u8],
                shown,
                b": give publishers and subscribers of one pool, or that pool as the target",
            ]
            .concat()
        };
        host.failed(&Failure {
            activity: Activity::Subscribe,
            stage,
            class: Class::Configuration,
            code: "subscription:elsewhere",
            reason: b"the server says resubscribe: it does not serve this publisher",
            diagnosis: &diagnosis,
            user: owner,
            at,
            request: b"",
            response: message.raw(),
        });
        if self.dialogs[slot].has(has::SETTLED) {
            host.count(self.stage, Counter::SubscriptionLost, at, 1);
            self.lacks(at, owner);
        }
        self.drop_dialog(slot);
        self.not_watched(at, owner, &[publisher], false, Again::Never, host);
    }

    /// Its one dialog: the carrier of what rides, else itself.
    pub(super) fn holder(&self, slot: Slot) -> Slot {
        match self.dialogs.get(slot) {
            Some(dialog) if dialog.has(has::RIDES) => some(self.carrier_of(dialog.owner)).unwrap_or(slot),
            _ => slot,
        }
    }

    /// Who rides is told to leave with its carrier.
    pub(super) fn riders_leave(&mut self, owner: u32) {
        for (rider, _) in self.riders(owner, has::RIDES) {
            let rider = &mut self.dialogs[rider];
            if rider.has(has::ACTIVE) {
                self.subscribed -= 1;
            }
            rider.flags = (rider.flags | has::LEAVING) & !has::ACTIVE;
            self.wheel.cancel(&mut rider.timer);
        }
    }

    /// The publishers that end with a dialog.
    pub(super) fn shown_by(&self, slot: Slot) -> SmallVec<[u32; 8]> {
        let dialog = &self.dialogs[slot];
        if !dialog.has(has::CARRIER) {
            return SmallVec::from_slice(&[dialog.publisher]);
        }
        self.riders(dialog.owner, has::RIDES).iter().map(|(slot, _)| self.dialogs[*slot].publisher).collect()
    }

    /// Forgets a carrier and all who ride on it.
    pub(super) fn drop_riders(&mut self, owner: u32) {
        for (rider, _) in self.riders(owner, has::RIDES) {
            self.drop_dialog(rider);
        }
        if let Some(endpoint) = self.endpoint_mut(owner) {
            endpoint.carrier = NONE;
        }
    }

    /// True for what a user misses when it is lost: not the dialog that only carries others.
    pub(super) fn counts_as_lost(&self, slot: Slot) -> bool {
        !self.dialogs[slot].has(has::CARRIER)
    }

    fn insert_dialog(&mut self, flags: u16, owner: u32, publisher: u32, due: Time, stage: Stage) -> Slot {
        self.dialogs.insert(Dialog { flags, ..Dialog::new(owner, publisher, due, stage) }).0
    }

    /// The refresh failed and the server's clock still runs.
    pub(super) fn refresh_soon(&mut self, at: Time, slot: Slot, after: Option<u32>) {
        let wait = u64::from(after.unwrap_or(0).clamp(5, super::subscription::MAX_REFRESH_WAIT)) * SECOND;
        let jitter = self.random() % (5 * SECOND);
        let dialog = &mut self.dialogs[slot];
        self.wheel.cancel(&mut dialog.timer);
        dialog.timer = self.wheel.insert(at + (wait + jitter), Timer::Dialog(slot));
    }
}

/// Who has to act on the end of a subscription: a policy, or an address that the pool does not know,
/// are matters of configuration, as a 403 and a 404 are.
pub(super) fn termination_class(reason: &[u8]) -> Class {
    let is = |name: &[u8]| reason.eq_ignore_ascii_case(name);
    if is(b"rejected") || is(b"noresource") { Class::Configuration } else { Class::Pool }
}

impl Dialog {
    /// A subscription that nothing was sent for yet.
    pub(super) fn new(owner: u32, publisher: u32, due: Time, stage: Stage) -> Dialog {
        Dialog {
            flags: 0,
            owner,
            publisher,
            tx: NONE,
            timer: TimerId::NONE,
            local_cseq: 0,
            remote_cseq: 0,
            remote_branch: 0,
            remote_status: 0,
            remote_tag: Default::default(),
            target: None,
            stage,
            intended: due,
            sent: due,
            until: Time::NEVER,
            seen: 0,
            expects_after: 0,
            next_watcher: NONE,
            next_watch: NONE,
        }
    }
}
