//! SUBSCRIBE dialogs: begun, settled by answer and NOTIFY in any order,
//! refreshed, lost, ended (RFC 6665 §4.1).

use adsum_sip::time::{SECOND, TIMEOUT, Time};
use adsum_sip::{HeaderId, Message, value};

use super::lync_watch::termination_class;
use super::repair::retry_after;
use super::request::{Order, Outcome};
use super::state::{Dialog, Purpose, has, is};
use super::{Kind, LEAST_LIFETIME, Population, Timer, some};
use crate::diagnosis::class_of;
use crate::host::{Activity, Class, Counter, Failure, Host, Measure, Progress, Sample, Stage};
use crate::slab::{NONE, Slot};
use crate::wheel::TimerId;

/// `expires` of NOTIFYs is in whole seconds, and two of them may be rounded apart.
const ROUNDED: u64 = 2 * SECOND;

/// The refresh of a subscription is not put off further than this by `Retry-After`: by then it has
/// mostly expired, and a server that is back should not have to wait for its subscribers.
pub(super) const MAX_REFRESH_WAIT: u32 = 3_600;

/// When a held user asks again for a subscription.
#[derive(Debug, Clone, Copy)]
pub(super) enum Again {
    /// The server does not want it.
    Never,
    AtOnce,
    /// Not before these seconds, if said, else when the back-off says.
    After(Option<u32>),
}

/// What the reasons of a termination ask for (RFC 6665 §4.1.3).
pub(super) fn again_after(reason: &[u8], retry_after: Option<u32>) -> Again {
    let is = |name: &[u8]| reason.eq_ignore_ascii_case(name);
    if is(b"rejected") || is(b"noresource") || is(b"invariant") {
        Again::Never
    } else if is(b"deactivated") || is(b"timeout") {
        Again::AtOnce // `retry-after` has no meaning there
    } else if is(b"probation") || retry_after.is_some() {
        Again::After(retry_after)
    } else {
        Again::AtOnce
    }
}

/// True for an end of a SUBSCRIBE that ends the usage of its dialog (RFC 6665 §4.1.2.2); other codes
/// leave it alone until it expires.
pub(super) fn ends_usage(outcome: &Outcome<'_, '_>) -> bool {
    match outcome {
        Outcome::Answer(message) => {
            matches!(message.code(), 404 | 405 | 410 | 416 | 480..=485 | 489 | 501 | 604)
        }
        _ => true,
    }
}

impl Population {
    /// The subscriber of an edge (of a pair, without a graph) subscribes to its
    /// publisher. `false` if it cannot.
    pub fn subscribe(&mut self, now: Time, edge: u32, due: Time, stage: Stage, host: &mut impl Host) -> bool {
        let Some((subscriber, publisher)) = self.contacts.edge(edge) else { return false };
        self.users[subscriber as usize].set(is::WATCHES, true);
        if !self.is_signed_on(subscriber) || self.watch_of(subscriber, publisher).is_some() {
            return false;
        }
        if self.is_lync() {
            return self.watch_contacts(now, subscriber, due, stage, host);
        }
        self.begin_subscription(now, subscriber, publisher, due, stage, host);
        true
    }

    pub(super) fn begin_subscription(
        &mut self,
        now: Time,
        owner: u32,
        publisher: u32,
        due: Time,
        stage: Stage,
        host: &mut impl Host,
    ) {
        let own = owner == publisher;
        if self.is_lync() && !own {
            self.enqueue(owner, publisher, due, stage);
            return self.send_batch(now, owner, host);
        }
        let flags = if own { has::SELF } else { 0 };
        let (slot, _) = self.dialogs.insert(Dialog { flags, ..Dialog::new(owner, publisher, due, stage) });
        if own {
            self.users[owner as usize].self_dialog = slot;
        } else {
            self.link_watch(slot);
        }
        let activity = if own { Activity::SelfSubscribe } else { Activity::Subscribe };
        host.progress(owner, Progress::Started(activity));
        let mut order = Order::new(Purpose::Subscribe, owner, self.config.expires, stage, due);
        order.dialog = slot;
        self.request(now, order, host);
    }

    /// Puts a subscription into the lists of its owner and its publisher.
    pub(super) fn link_watch(&mut self, slot: Slot) {
        let dialog = &mut self.dialogs[slot];
        dialog.next_watch = std::mem::replace(&mut self.users[dialog.owner as usize].watches, slot);
        dialog.next_watcher = std::mem::replace(&mut self.users[dialog.publisher as usize].watchers, slot);
    }

    /// The first SUBSCRIBE of an activity left: timer N runs (RFC 6665 §4.1.2.4).
    pub(super) fn subscription_sent(&mut self, slot: Slot, at: Time) {
        let lync = self.is_lync();
        let Some(dialog) = self.dialogs.get_mut(slot) else { return };
        dialog.sent = at;
        if dialog.has(has::CARRIER) && !dialog.has(has::LEAVING) {
            return self.batch_sent(slot, at);
        }
        self.wheel.cancel(&mut dialog.timer);
        if lync && dialog.has(has::LEAVING) {
            return; // no NOTIFY is waited for: timer F is enough
        }
        dialog.timer = self.wheel.insert(at + TIMEOUT, Timer::Dialog(slot));
    }

    pub(super) fn subscribe_ended(
        &mut self,
        at: Time,
        order: Order,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        let slot = order.dialog;
        if self.dialogs.get(slot).is_none() {
            return;
        }
        let refresh = order.purpose.is_refresh();
        if let Outcome::Answer(message) = outcome
            && message.code() < 300
        {
            let flow = self.users[order.user as usize].flow;
            self.answered(slot, flow, message, host);
            self.granted_until(at, slot, message.expires());
        }
        if self.dialogs[slot].has(has::CARRIER) {
            return self.batch_ended(at, order, outcome, host);
        }
        match outcome {
            Outcome::Answer(message) if message.code() < 300 => {
                if refresh {
                    self.arm_refresh(at, slot);
                    self.await_notify(slot, order.sent.unwrap_or(at));
                    self.recovered(order.user);
                    self.piggybacked(at, slot, message, host);
                    // A user that signs off waited for this answer.
                    return self.leave(at, at, order.user, host);
                }
                // One that was sent elsewhere (`resubscribe`) was answered before.
                if !self.dialogs[slot].has(has::SELF) && !self.is_lync() {
                    host.sample(&Sample {
                        measure: Measure::Subscribe,
                        stage: order.stage,
                        intended: order.intended,
                        sent: order.sent.unwrap_or(order.due),
                        ended: at,
                    });
                }
                self.dialogs[slot].flags |= has::ANSWER;
                let dialog = (slot, self.dialogs.generation(slot));
                self.piggybacked(at, slot, message, host);
                if self.is_live(dialog) {
                    self.settle(at, slot, host);
                }
            }
            _ => {
                let dialog = &self.dialogs[slot];
                let own = dialog.has(has::SELF);
                let notified = dialog.has(has::NOTIFY);
                if let (Outcome::TimedOut, false) = (outcome, refresh) {
                    if own {
                        host.censored(Measure::SelfSubscribe, order.stage, order.intended, at);
                    } else {
                        if !self.is_lync() {
                            host.censored(Measure::Subscribe, order.stage, order.intended, at);
                        }
                        if !notified {
                            host.censored(Measure::SubscribeToNotify, order.stage, order.intended, at);
                        }
                    }
                }
                let gone = ends_usage(&outcome);
                let expected = refresh && matches!(outcome, Outcome::Answer(m) if m.code() == 481);
                if !expected {
                    self.fail(at, &order, outcome, host);
                }
                let after = match outcome {
                    Outcome::Answer(message) => retry_after(message),
                    _ => None,
                };
                if !refresh {
                    let publisher = self.dialogs[slot].publisher;
                    self.drop_dialog(slot);
                    // Another attempt helps against a pool in distress, not against a refusal.
                    let final_no = matches!(outcome, Outcome::Answer(m) if class_of(m.code()) == Class::Configuration)
                        || matches!(outcome, Outcome::Unsupported(_) | Outcome::Blocked(_));
                    let again = if final_no { Again::Never } else { Again::After(after) };
                    let timed_out = matches!(outcome, Outcome::TimedOut);
                    self.subscription_failed(at, order.user, publisher, timed_out, again, host);
                } else if gone {
                    self.subscription_lost(at, slot, Again::AtOnce, host);
                } else {
                    // Try again soon: the server's clock still runs.
                    self.refresh_soon(at, slot, after);
                    self.leave(at, at, order.user, host);
                }
            }
        }
    }

    /// A NOTIFY of the dialog was accepted and answered.
    pub(super) fn notified(
        &mut self,
        now: Time,
        stamp: Time,
        slot: Slot,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        if self.is_lync() {
            return self.notified_lync(now, stamp, slot, message, host);
        }
        let state =
            value::subscription_state(message.header(HeaderId::SubscriptionState).unwrap_or(b"active"));
        let dialog = &mut self.dialogs[slot];
        let first_active =
            !dialog.has(has::ACTIVE | has::LEAVING) && state.state.eq_ignore_ascii_case(b"active");
        dialog.flags |= has::NOTIFY;
        if first_active {
            dialog.flags |= has::ACTIVE;
            dialog.expects_after = self.users[dialog.publisher as usize].sequence;
        }
        if first_active && !self.dialogs[slot].has(has::SELF) {
            self.subscribed += 1;
            let dialog = &self.dialogs[slot];
            host.sample(&Sample {
                measure: Measure::SubscribeToNotify,
                stage: dialog.stage,
                intended: dialog.intended,
                sent: dialog.sent,
                ended: stamp,
            });
        }
        if !message.body().is_empty() && !self.dialogs[slot].has(has::SELF) {
            self.shown(now, stamp, slot, message.body(), host);
        }
        // What the document showed may have ended a workflow and with it the dialog's purpose,
        // never the dialog: it is still there.
        let awaited = self.dialogs[slot].has(has::AWAITS);
        self.dialogs[slot].flags &= !(has::REFRESHED | has::AWAITS);
        if state.state.eq_ignore_ascii_case(b"terminated") {
            return self.terminated(stamp, slot, state.reason, state.retry_after, message, host);
        }
        let shorter = self.granted_until(stamp, slot, state.expires);
        if !self.dialogs[slot].has(has::SETTLED) {
            self.settle(stamp, slot, host);
        } else if (shorter || awaited) && !self.dialogs[slot].has(has::LEAVING) {
            self.arm_refresh(stamp, slot);
        }
    }

    pub(super) fn terminated(
        &mut self,
        at: Time,
        slot: Slot,
        reason: &[u8],
        retry_after: Option<u32>,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        let dialog = &mut self.dialogs[slot];
        dialog.flags |= has::TERMINATED;
        if dialog.has(has::LEAVING) {
            return self.complete_unsubscribe(at, slot, host);
        }
        let again = again_after(reason, retry_after);
        if dialog.has(has::SETTLED) && self.config.kind == Kind::Held {
            return self.subscription_lost(at, slot, again, host);
        }
        // Held users come back; a workflow ends with it, and a failure says why.
        if dialog.has(has::SETTLED) {
            host.count(dialog.stage, Counter::SubscriptionLost, at, 1);
        }
        let (owner, stage, own) = (dialog.owner, dialog.stage, dialog.has(has::SELF));
        let text = [b"the subscription was terminated: " as &[u8], reason].concat();
        let mut diagnosis = Vec::new();
        crate::diagnosis::of_ended(message, reason, &mut diagnosis);
        host.failed(&Failure {
            activity: if own { Activity::SelfSubscribe } else { Activity::Subscribe },
            stage,
            class: termination_class(reason),
            code: "subscription:terminated",
            reason: &text,
            diagnosis: &diagnosis,
            user: owner,
            at,
            request: b"",
            response: message.raw(),
        });
        let publisher = self.dialogs[slot].publisher;
        self.drop_dialog(slot);
        self.subscription_failed(at, owner, publisher, false, again, host);
    }

    /// A subscription did not come about.
    fn subscription_failed(
        &mut self,
        at: Time,
        owner: u32,
        publisher: u32,
        timed_out: bool,
        again: Again,
        host: &mut impl Host,
    ) {
        if self.is_workflow() || self.users[owner as usize].is(is::LEAVING) {
            return self.activity_failed(at, owner, timed_out, host);
        }
        match again {
            Again::Never => self.refuse(owner, publisher),
            Again::AtOnce => self.come_back(at, owner, None),
            Again::After(seconds) => self.come_back(at, owner, seconds),
        }
        if owner == publisher && matches!(again, Again::Never) && self.lacks_presence(owner) {
            self.resume(at, owner, host); // it goes on without
        }
    }

    /// Both the answer and the NOTIFY are there, whichever came last.
    pub(super) fn settle(&mut self, at: Time, slot: Slot, host: &mut impl Host) {
        let dialog = &mut self.dialogs[slot];
        let own = dialog.has(has::SELF);
        let shown = if own { has::NOTIFY } else { has::ACTIVE };
        // What signs off already has nothing to settle: its answer and its timer are those of the end.
        if !dialog.has(has::ANSWER) || !dialog.has(shown) || dialog.has(has::SETTLED | has::LEAVING) {
            return;
        }
        dialog.flags |= has::SETTLED;
        let (owner, sent) = (dialog.owner, dialog.sent);
        let sample = Sample {
            measure: Measure::SelfSubscribe,
            stage: dialog.stage,
            intended: dialog.intended,
            sent,
            ended: at,
        };
        self.arm_refresh(at, slot);
        if !self.users[owner as usize].is(is::RETURNING) {
            self.recovered(owner);
        }
        if own {
            host.sample(&sample);
            host.progress(owner, Progress::Completed(Activity::SelfSubscribe, sent, at));
            if self.needs_members(owner) {
                return self.ask_members(at, owner, host);
            }
            self.own_stands(at, owner, host);
        } else {
            host.progress(owner, Progress::Completed(Activity::Subscribe, sent, at));
            self.watching(at, owner, host);
        }
    }

    /// A 2xx or NOTIFY says how long the subscription lasts. The shorter one
    /// counts (RFC 6665 §4.1.2.1, §4.1.3): `true` if it is this one.
    pub(super) fn granted_until(&mut self, at: Time, slot: Slot, seconds: Option<u32>) -> bool {
        let Some(seconds) = seconds else { return false };
        let until = at + u64::from(seconds) * SECOND;
        let dialog = &mut self.dialogs[slot];
        // Whole seconds are counted down in each NOTIFY: that is no change.
        let shorter = until + ROUNDED < dialog.until;
        if shorter {
            dialog.until = until;
        }
        shorter
    }

    /// Sets the refresh to 80–90 % of what the server granted. Workflows are
    /// far shorter than any subscription and do without.
    pub(super) fn arm_refresh(&mut self, at: Time, slot: Slot) {
        let share = 800 + self.random() % 100;
        let workflow = self.is_workflow();
        let asked = at + u64::from(self.config.expires) * SECOND;
        let lync = self.is_lync();
        let dialog = &mut self.dialogs[slot];
        // Nothing was asked for there; what is not said is taken as if it had been.
        if !lync || dialog.until == Time::NEVER {
            dialog.until = dialog.until.min(asked);
        }
        self.wheel.cancel(&mut dialog.timer);
        if !workflow && !dialog.has(has::RIDES) {
            let granted = dialog.until.since(at).max(u64::from(LEAST_LIFETIME) * SECOND);
            dialog.timer = self.wheel.insert(at + granted / 1_000 * share, Timer::Dialog(slot));
        }
    }

    /// A refresh was granted: its NOTIFY has to come before timer N fires
    /// (RFC 6665 §4.1.2.2), unless the next refresh comes first.
    fn await_notify(&mut self, slot: Slot, sent: Time) {
        let overdue = sent + TIMEOUT;
        if self.is_lync() {
            return; // [UNV] whether a refresh is notified of
        }
        let dialog = &mut self.dialogs[slot];
        if dialog.has(has::REFRESHED) && self.wheel.due(dialog.timer).is_some_and(|refresh| refresh > overdue)
        {
            dialog.flags |= has::AWAITS;
            self.wheel.cancel(&mut dialog.timer);
            dialog.timer = self.wheel.insert(overdue, Timer::Dialog(slot));
        }
    }

    pub(super) fn dialog_timer(&mut self, now: Time, slot: Slot, host: &mut impl Host) {
        let Some(dialog) = self.dialogs.get_mut(slot) else { return };
        dialog.timer = TimerId::NONE;
        let (owner, own, stage, intended) =
            (dialog.owner, dialog.has(has::SELF), dialog.stage, dialog.intended);
        if dialog.has(has::LEAVING) {
            host.censored(Measure::Unsubscribe, stage, intended, now);
            self.first_notify_missing(now, owner, stage, Activity::Unsubscribe, host);
            return self.left(now, slot, owner, host);
        }
        if dialog.has(has::SETTLED) {
            if dialog.tx != NONE {
                return;
            }
            if dialog.has(has::AWAITS) {
                let activity = if own { Activity::SelfSubscribe } else { Activity::Subscribe };
                self.first_notify_missing(now, owner, self.stage, activity, host);
                return self.subscription_lost(now, slot, Again::AtOnce, host);
            }
            dialog.flags |= has::REFRESHED;
            dialog.until = Time::NEVER; // the answer says anew
            host.count(self.stage, Counter::RefreshSubscribe, now, 1);
            let mut order =
                Order::new(Purpose::SubscribeRefresh, owner, self.config.expires, self.stage, now);
            order.dialog = slot;
            self.request(now, order, host);
            return;
        }
        // Timer N. While the SUBSCRIBE itself is unanswered, timer F speaks for both; but it
        // may yet be answered, and then the NOTIFY is overdue.
        let holder = self.holder(slot);
        if self.dialogs[holder].tx != NONE {
            self.dialogs[slot].timer = self.wheel.insert(now + SECOND, Timer::Dialog(slot));
            return;
        }
        let activity = if own { Activity::SelfSubscribe } else { Activity::Subscribe };
        let measure = if own { Measure::SelfSubscribe } else { Measure::SubscribeToNotify };
        host.censored(measure, stage, intended, now);
        self.first_notify_missing(now, owner, stage, activity, host);
        let publisher = self.dialogs[slot].publisher;
        self.drop_dialog(slot);
        self.subscription_failed(now, owner, publisher, true, Again::After(None), host);
    }

    fn first_notify_missing(
        &mut self,
        at: Time,
        user: u32,
        stage: Stage,
        activity: Activity,
        host: &mut impl Host,
    ) {
        host.failed(&Failure {
            activity,
            stage,
            class: Class::Pool,
            code: "timeout:first_notify",
            reason: b"no NOTIFY within 32 s of the SUBSCRIBE",
            diagnosis:
                b"the pool accepted the subscription and sent no NOTIFY that reached us: check the Contact \
                (--advertise), NAT and firewalls, then the pool's presence service",
            user,
            at,
            request: b"",
            response: b"",
        });
    }

    /// The server ended a subscription that we wanted to keep.
    pub(super) fn subscription_lost(&mut self, at: Time, slot: Slot, again: Again, host: &mut impl Host) {
        let dialog = &self.dialogs[slot];
        let (owner, publisher, began) = (dialog.owner, dialog.publisher, dialog.sent);
        host.count(self.stage, Counter::SubscriptionLost, at, 1);
        self.lacks(at, owner);
        self.drop_dialog(slot);
        if self.is_workflow() {
            return self.activity_failed(at, owner, false, host);
        }
        let held = &self.users[owner as usize];
        if held.is(is::LEAVING) {
            return self.leave(at, at, owner, host);
        }
        if held.is(is::REJECTED) || !self.can_ask(owner) {
            return; // there is nobody to ask, or the repair of flow or registration will
        }
        match again {
            Again::Never => self.refuse(owner, publisher),
            Again::AtOnce if self.may_return_at_once(began, at, owner) => {
                self.begin_subscription(at, owner, publisher, at, self.stage, host);
            }
            Again::AtOnce => self.come_back(at, owner, None),
            Again::After(seconds) => self.come_back(at, owner, seconds),
        }
    }

    /// True if a subscription may begin: in `lync` it belongs to a registration.
    pub(super) fn can_ask(&self, user: u32) -> bool {
        let held = &self.users[user as usize];
        held.is(is::CONNECTED) && (held.is(is::REGISTERED) || !self.is_lync())
    }

    /// SUBSCRIBE with `Expires: 0`.
    pub(super) fn unsubscribe(
        &mut self,
        now: Time,
        due: Time,
        slot: Slot,
        stage: Stage,
        host: &mut impl Host,
    ) {
        let dialog = &mut self.dialogs[slot];
        if !dialog.has(has::SELF) && dialog.has(has::ACTIVE) {
            self.subscribed -= 1;
        }
        if dialog.has(has::CARRIER) {
            let owner = dialog.owner;
            self.riders_leave(owner);
        }
        let dialog = &mut self.dialogs[slot];
        dialog.flags = (dialog.flags | has::LEAVING) & !(has::ANSWER | has::ACTIVE | has::AWAITS);
        dialog.stage = stage;
        dialog.intended = due;
        let owner = dialog.owner;
        host.progress(owner, Progress::Started(Activity::Unsubscribe));
        let mut order = Order::new(Purpose::Unsubscribe, owner, 0, stage, due);
        order.dialog = slot;
        self.request(now, order, host);
    }

    pub(super) fn unsubscribe_ended(
        &mut self,
        at: Time,
        order: Order,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        let slot = order.dialog;
        if self.dialogs.get(slot).is_none() {
            return self.leave(at, at, order.user, host);
        }
        match outcome {
            Outcome::Answer(message) if message.code() < 300 => {
                self.dialogs[slot].flags |= has::ANSWER;
                return self.complete_unsubscribe(at, slot, host);
            }
            // The server has no such dialog any more: what we wanted (481, or 404 and 412 of some).
            Outcome::Answer(message) if matches!(message.code(), 481 | 404 | 412) => {
                host.count(order.stage, Counter::AlreadyGone, at, 1);
            }
            _ => {
                if let Outcome::TimedOut = outcome {
                    host.censored(Measure::Unsubscribe, order.stage, order.intended, at);
                }
                self.fail(at, &order, outcome, host);
                self.sign_off_failed(order.user, &outcome);
            }
        }
        self.left(at, slot, order.user, host);
    }

    fn complete_unsubscribe(&mut self, at: Time, slot: Slot, host: &mut impl Host) {
        let dialog = &self.dialogs[slot];
        // In `lync` the answer says it all, and nothing need follow.
        if !dialog.has(has::ANSWER) || !dialog.has(has::TERMINATED) && !self.is_lync() {
            return;
        }
        let (owner, sent) = (dialog.owner, dialog.sent);
        host.sample(&Sample {
            measure: Measure::Unsubscribe,
            stage: dialog.stage,
            intended: dialog.intended,
            sent,
            ended: at,
        });
        host.progress(owner, Progress::Completed(Activity::Unsubscribe, sent, at));
        self.left(at, slot, owner, host);
    }

    /// A subscription has ended because we signed off; the next step follows.
    fn left(&mut self, at: Time, slot: Slot, owner: u32, host: &mut impl Host) {
        let publishers = self.shown_by(slot);
        self.drop_dialog(slot);
        self.leave(at, at, owner, host);
        self.unwatched_by(at, &publishers, owner, host);
    }

    /// Forgets a dialog; late messages for it meet an old generation.
    pub(super) fn drop_dialog(&mut self, slot: Slot) {
        let Some(dialog) = self.dialogs.get_mut(slot) else { return };
        let mut timer = std::mem::replace(&mut dialog.timer, TimerId::NONE);
        let tx = std::mem::replace(&mut dialog.tx, NONE);
        dialog.target = None;
        self.texts.clear(&mut dialog.remote_tag);
        let (owner, publisher, own) = (dialog.owner, dialog.publisher, dialog.has(has::SELF));
        let carrier = dialog.has(has::CARRIER);
        let (active, next) = (dialog.has(has::ACTIVE), dialog.next_watcher);
        let next_watch = dialog.next_watch;
        self.wheel.cancel(&mut timer);
        self.forget(tx);
        if own {
            self.users[owner as usize].self_dialog = NONE;
            self.users[owner as usize].set(is::SELF_SUBSCRIBED, false);
        } else if carrier {
            self.drop_riders(owner);
        } else {
            self.unlink_watch(owner, slot, next_watch);
            if active {
                self.subscribed -= 1;
            }
            self.unlink_watcher(publisher, slot, next);
        }
        self.dialogs.release(slot);
    }

    fn unlink_watch(&mut self, owner: u32, slot: Slot, next: Slot) {
        let head = &mut self.users[owner as usize].watches;
        if *head == slot {
            *head = next;
            return;
        }
        let mut at = *head;
        while let Some(current) = some(at) {
            if self.dialogs[current].next_watch == slot {
                self.dialogs[current].next_watch = next;
                return;
            }
            at = self.dialogs[current].next_watch;
        }
    }

    fn unlink_watcher(&mut self, publisher: u32, slot: Slot, next: Slot) {
        let head = &mut self.users[publisher as usize].watchers;
        if *head == slot {
            *head = next;
            return;
        }
        let mut at = *head;
        while let Some(current) = some(at) {
            if self.dialogs[current].next_watcher == slot {
                self.dialogs[current].next_watcher = next;
                return;
            }
            at = self.dialogs[current].next_watcher;
        }
    }
}
