//! Coming back: when a held user asks again for what it lost.
//!
//! After a loss or a refusal it waits 1, 2, 4, … 60 seconds, and never less
//! than the server asks for, each time with up to half as much again, so that
//! users who lost something together do not come back together.

use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message, value};

use super::state::{has, is};
use super::{Population, Timer};
use crate::host::{Counter, Host, Measure, Sample};
use crate::slab::NONE;
use crate::wheel::TimerId;

/// The first wait; it doubles with every setback.
const FIRST: u64 = SECOND;

/// The longest wait that no server asked for.
const LONGEST: u64 = 60 * SECOND;

/// A wait beyond this is as good as for ever; the wheel reaches 49 days.
const FARTHEST: u64 = 40 * 24 * 3_600 * SECOND;

/// What stood this long was no setback when it is lost.
const STOOD: u64 = 60 * SECOND;

impl Population {
    /// A held user asks again, later: for what, it sees then.
    pub(super) fn come_back(&mut self, at: Time, user: u32, retry_after: Option<u32>) {
        let jitter = self.random();
        let held = &mut self.users[user as usize];
        if held.is(is::LEAVING | is::REJECTED | is::GONE) {
            return;
        }
        // What is lost before the next attempt belongs to one setback.
        let waiting = self.wheel.due(held.repair_timer);
        if waiting.is_none() {
            held.setbacks = held.setbacks.saturating_add(1);
        }
        let doubled = FIRST << (held.setbacks.clamp(1, 7) - 1);
        let asked = retry_after.map_or(0, |seconds| u64::from(seconds).saturating_mul(SECOND));
        let wait = doubled.min(LONGEST).max(asked).min(FARTHEST);
        let when = at + (wait + jitter % (wait.min(LONGEST) / 2 + 1));
        if waiting.is_none_or(|before| before < when) {
            self.wheel.cancel(&mut held.repair_timer);
            held.repair_timer = self.wheel.insert(when, Timer::Repair(user));
        }
    }

    /// True if a held user was refused or lost what it had, and nothing has stood since.
    #[must_use]
    pub fn has_setback(&self, user: u32) -> bool {
        let held = &self.users[user as usize];
        held.setbacks > 0 || held.is(is::REJECTED)
    }

    /// A held user lost something that it had.
    pub(super) fn lacks(&mut self, at: Time, user: u32) {
        if !self.is_workflow() && !self.users[user as usize].is(is::LEAVING | is::GONE) {
            self.lacking.entry(user).or_insert((at, self.stage));
        }
    }

    /// Ends the recovery of a user that has everything again.
    pub(super) fn has_all_again(&mut self, at: Time, user: u32, host: &mut impl Host) {
        let Some((lost, stage)) = self.lacking.get(&user).copied() else { return };
        let held = &self.users[user as usize];
        if !held.is(is::REGISTERED) || !held.is(is::SELF_SUBSCRIBED | is::OWN_REFUSED) {
            return;
        }
        let mut stand = 0;
        let mut slot = held.watches;
        while let Some(dialog) = self.dialogs.get(slot) {
            stand += usize::from(dialog.has(has::ACTIVE) && dialog.has(has::ANSWER));
            slot = dialog.next_watch;
        }
        let wanted = if held.is(is::WATCHES) { self.contacts.of(user).len() } else { 0 };
        let refused = self.refused.range((user, 0)..=(user, u32::MAX)).count();
        if stand + refused >= wanted {
            self.lacking.remove(&user);
            let sample = Sample { measure: Measure::Recovery, stage, intended: lost, sent: lost, ended: at };
            host.sample(&sample);
        }
    }

    /// What a user lost or asked for stands: the next setback is the first.
    pub(super) fn recovered(&mut self, user: u32) {
        let held = &mut self.users[user as usize];
        held.setbacks = 0;
        held.set(is::RETURNING, false);
    }

    /// What began then is lost now.
    pub(super) fn if_stood(&mut self, began: Time, at: Time, user: u32) {
        if at.since(began) >= STOOD {
            self.recovered(user);
        }
    }

    /// True if what began then and is lost now may be asked for again at once:
    /// it stood, or it was not itself a return.
    pub(super) fn may_return_at_once(&mut self, began: Time, at: Time, user: u32) -> bool {
        self.if_stood(began, at, user);
        let held = &mut self.users[user as usize];
        let first = !held.is(is::RETURNING);
        held.set(is::RETURNING, true);
        first && !held.repair_timer.is_set()
    }

    pub(super) fn repair_timer(&mut self, now: Time, user: u32, host: &mut impl Host) {
        let stage = self.stage;
        let held = &mut self.users[user as usize];
        held.repair_timer = TimerId::NONE;
        if held.is(is::LEAVING | is::REJECTED | is::GONE | is::CONNECTING) {
            return;
        }
        host.count(stage, Counter::Reconnect, now, 1);
        held.set(is::RETURNING, true);
        if !held.is(is::CONNECTED) {
            return self.connect(now, user, now, stage, host);
        }
        if held.is(is::REGISTERED) {
            self.resume(now, user, host);
        } else if held.register_tx == NONE {
            self.register(now, user, now, now, stage, host);
        }
    }

    /// A registered held user asks for the subscriptions that it lacks.
    pub(super) fn resume(&mut self, at: Time, user: u32, host: &mut impl Host) {
        let held = &self.users[user as usize];
        let (own, stage) = (held.self_dialog, self.stage);
        if self.config.self_subscribe && own == NONE && !held.is(is::OWN_REFUSED) {
            // What it watches follows when this one is complete.
            return self.begin_subscription(at, user, user, at, stage, host);
        }
        if self.goes_online(at, user, host) {
            return; // and so does everything else
        }
        let held = &self.users[user as usize];
        let mut lacking = false;
        if held.is(is::WATCHES) && held.is(is::SELF_SUBSCRIBED | is::OWN_REFUSED) {
            for edge in self.contacts.of(user) {
                let Some((_, publisher)) = self.contacts.edge(edge) else { continue };
                if self.watch_of(user, publisher).is_none() && !self.refused.contains(&(user, publisher)) {
                    lacking = true;
                    if self.is_lync() {
                        self.enqueue(user, publisher, at, stage);
                    } else {
                        self.begin_subscription(at, user, publisher, at, stage, host);
                    }
                }
            }
        }
        self.send_batch(at, user, host);
        if !lacking {
            self.has_all_again(at, user, host);
        }
        if !lacking && !self.users[user as usize].is(is::WATCHES) && own == NONE {
            // A registration is all it has; a subscription has to stand first.
            self.recovered(user);
        }
        self.next_waiting(at, at, user, host);
    }

    /// A subscription was refused for good: a held user does not ask again.
    pub(super) fn refuse(&mut self, user: u32, publisher: u32) {
        if user == publisher {
            self.users[user as usize].set(is::OWN_REFUSED, true);
        } else {
            self.refused.insert((user, publisher));
        }
    }
}

/// Seconds of `Retry-After` (RFC 3261 §20.33).
pub(super) fn retry_after(message: &Message<'_>) -> Option<u32> {
    message.header(HeaderId::RetryAfter).and_then(value::leading_number)
}
