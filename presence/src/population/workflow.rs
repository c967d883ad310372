//! The order of things: what follows what in a workflow, and how users sign
//! off in runs of both kinds.
//!
//! ```text
//! both: connect → register → self-subscribe
//!                  subscriber: subscribe → first NOTIFY
//!                  publisher:  publish;   subscriber: NOTIFY with the marker
//! subscriber: unsubscribe; both: unsubscribe from themselves;
//! publisher: unpublish; both: unregister, hang up
//! ```
//!
//! Everything of a workflow counts for the step and phase of its arrival: a
//! slow tail must not slip out of the hold that caused it.

use adsum_sip::time::Time;

use super::request::{Order, Outcome};
use super::state::{Pair, Purpose, WorkState, WorkVerdict, has, is};
use super::{Population, pair_of};
use crate::host::{Activity, Counter, Host, Measure, Progress, Sample, Stage};
use crate::slab::{NONE, Slot};
use smallvec::SmallVec;

/// Limits how a workflow that began may be told from one that waits.
impl Population {
    /// True if the pair rests and its users may be used.
    #[must_use]
    pub fn is_free(&self, pair: u32) -> bool {
        self.pairs.get(pair as usize).is_some_and(|p| p.state == WorkState::Idle) && !self.is_set_aside(pair)
    }

    /// True if a user of the pair had its credentials rejected.
    #[must_use]
    pub fn is_set_aside(&self, pair: u32) -> bool {
        self.is_rejected(pair * 2) || self.is_rejected(pair * 2 + 1)
    }

    /// Pairs that came to rest since the last call, with the instant.
    pub fn take_freed(&mut self) -> std::vec::Drain<'_, (u32, Time)> {
        self.freed.drain(..)
    }

    /// One workflow of a free pair. `intended` is what the schedule says,
    /// `due` when the pair was free for it.
    pub fn start_workflow(
        &mut self,
        now: Time,
        pair: u32,
        intended: Time,
        due: Time,
        stage: Stage,
        host: &mut impl Host,
    ) {
        self.pairs[pair as usize] = Pair {
            state: WorkState::SigningOn,
            verdict: WorkVerdict::Open,
            stage,
            intended,
            due,
            sent: now,
            started: false,
        };
        self.workflows += 1;
        for user in [pair * 2, pair * 2 + 1] {
            let held = &mut self.users[user as usize];
            held.flags &= is::REJECTED;
        }
        for user in [pair * 2, pair * 2 + 1] {
            // The first one may already have failed and taken the pair along.
            if self.pairs[pair as usize].state == WorkState::SigningOn {
                self.connect(now, user, intended, stage, host);
            }
        }
        self.check_signed_off(now, pair);
    }

    /// The first transmission of a request.
    pub(super) fn first_sent(&mut self, order: &Order, at: Time, host: &mut impl Host) {
        match order.purpose {
            Purpose::Register => self.workflow_began(order.user, at, host),
            Purpose::Subscribe | Purpose::Unsubscribe => self.subscription_sent(order.dialog, at),
            Purpose::Publish => self.publication_sent(order, at, host),
            _ => {}
        }
    }

    /// The first thing of a workflow left: a REGISTER, or the wish to connect.
    pub(super) fn workflow_began(&mut self, user: u32, at: Time, host: &mut impl Host) {
        let Some(pair) = self.pairs.get_mut(pair_of(user) as usize).filter(|p| !p.started) else { return };
        pair.started = true;
        pair.sent = at;
        host.count(pair.stage, Counter::Sent, at, 1);
        host.send_lag(pair.stage, pair.due, at);
    }

    /// A user is registered and subscribed to itself.
    pub(super) fn signed_on(&mut self, at: Time, user: u32, host: &mut impl Host) {
        let pair = pair_of(user);
        if self.users[user as usize].is(is::LEAVING) {
            return self.leave(at, at, user, host);
        }
        if !self.is_workflow() {
            // Repaired: the subscriber watches again, the publisher goes on.
            return self.resume(at, user, host);
        }
        let state = &mut self.pairs[pair as usize];
        let stage = state.stage;
        if state.state == WorkState::SigningOn
            && self.is_signed_on(pair * 2)
            && self.is_signed_on(pair * 2 + 1)
        {
            self.pairs[pair as usize].state = WorkState::Subscribing;
            self.subscribe(at, pair, at, stage, host);
        }
    }

    /// One of the dialogs of a user, those in which it watches first.
    pub(super) fn some_dialog(&self, user: u32) -> Option<Slot> {
        let held = &self.users[user as usize];
        [held.watches, self.carrier_of(user), held.self_dialog]
            .into_iter()
            .find(|slot| self.dialogs.get(*slot).is_some())
    }

    /// The subscriber has its first active NOTIFY and its answer.
    pub(super) fn watching(&mut self, at: Time, user: u32, host: &mut impl Host) {
        if self.users[user as usize].is(is::LEAVING) {
            return self.leave(at, at, user, host);
        }
        if !self.is_workflow() {
            return self.has_all_again(at, user, host);
        }
        let pair = pair_of(user);
        let state = &mut self.pairs[pair as usize];
        if state.state == WorkState::Subscribing {
            state.state = WorkState::Publishing;
            let stage = state.stage;
            self.write_publication(at, pair * 2, at, at, stage, host);
        }
    }

    /// The awaited NOTIFY came: the workflow did what it is for.
    pub(super) fn notification_seen(&mut self, at: Time, publisher: u32, host: &mut impl Host) {
        let pair = pair_of(publisher);
        let state = &mut self.pairs[pair as usize];
        if state.verdict == WorkVerdict::Open {
            state.verdict = WorkVerdict::Ok;
            host.count(state.stage, Counter::WorkflowOk, at, 1);
            host.sample(&Sample {
                measure: Measure::Workflow,
                stage: state.stage,
                intended: state.intended,
                sent: state.sent,
                ended: at,
            });
        }
        self.sign_off_when_answered(at, pair, host);
    }

    /// The PUBLISH of a workflow was answered with a 2xx.
    pub(super) fn publication_answered(&mut self, at: Time, user: u32, host: &mut impl Host) {
        if self.is_workflow() {
            self.sign_off_when_answered(at, pair_of(user), host);
        }
    }

    fn sign_off_when_answered(&mut self, at: Time, pair: u32, host: &mut impl Host) {
        let publisher = &self.users[pair as usize * 2];
        let state = &self.pairs[pair as usize];
        if state.state == WorkState::Publishing
            && state.verdict != WorkVerdict::Open
            && publisher.publish_tx == NONE
        {
            self.sign_off_pair(at, pair, host);
        }
    }

    /// An activity of a user failed or timed out; a workflow ends with it.
    pub(super) fn activity_failed(&mut self, at: Time, user: u32, timed_out: bool, host: &mut impl Host) {
        if !self.is_workflow() {
            return self.leave(at, at, user, host);
        }
        let pair = pair_of(user);
        let state = &mut self.pairs[pair as usize];
        match state.state {
            WorkState::Idle => return,
            WorkState::SigningOff => return self.leave(at, at, user, host),
            _ => {}
        }
        if state.verdict == WorkVerdict::Open {
            let counter = if timed_out {
                state.verdict = WorkVerdict::TimedOut;
                host.censored(Measure::Workflow, state.stage, state.intended, at);
                Counter::WorkflowTimedOut
            } else {
                state.verdict = WorkVerdict::Failed;
                Counter::WorkflowFailed
            };
            if !state.started {
                // Not one byte left: it was no workflow, it was not started.
                state.started = true;
                host.count(state.stage, Counter::Sent, at, 1);
            }
            host.count(state.stage, counter, at, 1);
        }
        self.sign_off_pair(at, pair, host);
    }

    pub(super) fn sign_off_pair(&mut self, at: Time, pair: u32, host: &mut impl Host) {
        self.pairs[pair as usize].state = WorkState::SigningOff;
        host.progress(pair * 2, Progress::SigningOff);
        for user in [pair * 2 + 1, pair * 2] {
            self.users[user as usize].set(is::LEAVING, true);
        }
        for user in [pair * 2 + 1, pair * 2] {
            self.leave(at, at, user, host);
        }
    }

    /// A user signs off: all that it has, in the order that tells nobody of it.
    pub fn sign_off(&mut self, now: Time, user: u32, stage: Stage, host: &mut impl Host) {
        self.stage = stage;
        let held = &mut self.users[user as usize];
        if held.is(is::GONE | is::LEAVING) {
            return;
        }
        held.set(is::LEAVING, true);
        self.wheel.cancel(&mut held.register_timer);
        self.wheel.cancel(&mut held.repair_timer);
        self.wheel.cancel(&mut held.publish_timer);
        self.leave(now, now, user, host);
    }

    /// The next step of signing off, when the one before has ended.
    pub(super) fn leave(&mut self, now: Time, due: Time, user: u32, host: &mut impl Host) {
        let held = &self.users[user as usize];
        if !held.is(is::LEAVING) || held.is(is::GONE) {
            return;
        }
        if held.is(is::GAVE_UP) || !held.is(is::CONNECTED) {
            if held.is(is::CONNECTING) {
                return; // the end of connecting leads here again
            }
            return self.leave_at_once(now, user, host);
        }
        if held.register_tx != NONE || held.publish_tx != NONE {
            return;
        }
        let stage = self.stage_of(user);
        while let Some(slot) = self.some_dialog(user) {
            let slot = self.holder(slot);
            let dialog = &self.dialogs[slot];
            if dialog.has(has::LEAVING) || dialog.tx != NONE {
                return;
            }
            if dialog.target.is_none() {
                self.drop_dialog(slot); // nothing that could be ended came of it
                continue;
            }
            return self.unsubscribe(now, due, slot, stage, host);
        }
        if self.has_document(user) {
            // Not before its subscriber has left, or it would be notified of the clean-up.
            if self.is_watched_by_leaving(user) {
                return;
            }
            host.progress(user, Progress::Started(Activity::Unpublish));
            let order = Order::new(Purpose::Unpublish, user, 0, stage, due);
            self.request(now, order, host);
            return;
        }
        if self.users[user as usize].is(is::REGISTERED) {
            host.progress(user, Progress::Started(Activity::Unregister));
            let order = Order::new(Purpose::Unregister, user, 0, stage, due);
            self.request(now, order, host);
            return;
        }
        self.leave_at_once(now, user, host);
    }

    fn is_watched_by_leaving(&self, user: u32) -> bool {
        let mut at = self.users[user as usize].watchers;
        while let Some(dialog) = self.dialogs.get(at) {
            if self.users[dialog.owner as usize].is(is::LEAVING) {
                return true;
            }
            at = dialog.next_watcher;
        }
        false
    }

    /// What is still open is forgotten: there is nobody left to ask.
    pub(super) fn leave_at_once(&mut self, now: Time, user: u32, host: &mut impl Host) {
        let held = &self.users[user as usize];
        for slot in [held.register_tx, held.publish_tx] {
            self.forget(slot);
        }
        while let Some(slot) = self.some_dialog(user) {
            self.drop_dialog(slot);
        }
        self.forget_document(user);
        let held = &mut self.users[user as usize];
        if held.is(is::REGISTERED) {
            held.set(is::REGISTERED, false);
            self.registered -= 1;
        }
        self.hang_up(user, host);
        // All whom it ever watched: a subscription that failed while they signed off told nobody.
        let contacts = self.contacts.of(user);
        let watched: SmallVec<[u32; 8]> =
            contacts.filter_map(|edge| self.contacts.edge(edge)).map(|(_, publisher)| publisher).collect();
        self.unwatched_by(now, &watched, user, host);
        self.check_signed_off(now, pair_of(user));
    }

    /// Publishers that sign off may have waited for a subscription to end.
    pub(super) fn unwatched_by(&mut self, now: Time, publishers: &[u32], user: u32, host: &mut impl Host) {
        for publisher in publishers.iter().copied().filter(|publisher| *publisher != user) {
            if self.users[publisher as usize].is(is::LEAVING) {
                self.leave(now, now, publisher, host);
            }
        }
    }

    fn check_signed_off(&mut self, now: Time, pair: u32) {
        let gone = |user: u32| self.users[user as usize].is(is::GONE);
        let both = gone(pair * 2) && gone(pair * 2 + 1);
        let Some(state) = self.pairs.get_mut(pair as usize) else { return };
        if state.state == WorkState::SigningOff && both {
            state.state = WorkState::Idle;
            self.workflows -= 1;
            self.freed.push((pair, now));
        }
    }

    /// A request of signing off failed. If nobody answers, further ones would
    /// only make the pair wait.
    pub(super) fn sign_off_failed(&mut self, user: u32, outcome: &Outcome<'_, '_>) {
        if !matches!(outcome, Outcome::Answer(_)) {
            self.users[user as usize].set(is::GAVE_UP, true);
        }
    }

    /// A pair that has been signing off for longer than the limit gives up.
    pub fn hurry(&mut self, now: Time, host: &mut impl Host) {
        for user in 0..self.users() {
            let held = &mut self.users[user as usize];
            if held.is(is::LEAVING) && !held.is(is::GONE) {
                held.set(is::GAVE_UP, true);
                self.leave(now, now, user, host);
            }
        }
    }

    /// How the latest workflow of a pair ended: `None` while it is open,
    /// `Some(true)` if the notification was seen.
    #[must_use]
    pub fn workflow_succeeded(&self, pair: u32) -> Option<bool> {
        match self.pairs[pair as usize].verdict {
            WorkVerdict::Open => None,
            verdict => Some(verdict == WorkVerdict::Ok),
        }
    }

    /// Timers that are set, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn timers(&self) -> usize {
        self.wheel.len()
    }
}
