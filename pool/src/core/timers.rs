//! The timers of a dialect: a wheel of milliseconds, and beside it what is exact.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use adsum_presence::wheel::{TimerId, Wheel};
use adsum_sip::time::{SECOND, Time};

#[derive(Debug)]
pub(super) struct Timers<K> {
    wheel: Wheel<K>,
    /// First tick of the wheel.
    origin: Time,
    /// With `hold_notify`: merged notifications, exact to the nanosecond, by slot and generation.
    merged: BinaryHeap<Reverse<(Time, u32, u32)>>,
}

impl<K: Copy> Default for Timers<K> {
    fn default() -> Self {
        Timers { wheel: Wheel::new(Time(0)), origin: Time(0), merged: BinaryHeap::new() }
    }
}

impl<K: Copy> Timers<K> {
    /// The wheel counts milliseconds in 32 bits: it starts with the first
    /// message, and anew whenever nothing is left after an hour.
    pub(super) fn start(&mut self, now: Time) {
        if self.wheel.is_empty() && now.since(self.origin) > 3_600 * SECOND {
            self.wheel = Wheel::new(now);
            self.origin = now;
        }
    }

    pub(super) fn insert(&mut self, at: Time, key: K) -> TimerId {
        self.wheel.insert(at, key)
    }

    pub(super) fn cancel(&mut self, timer: &mut TimerId) {
        self.wheel.cancel(timer);
    }

    /// Sets a timer, unless it is set for this instant or an earlier one: then it is looked at
    /// anew when it fires.
    pub(super) fn arm(&mut self, timer: &mut TimerId, at: Time, key: K) {
        if self.wheel.due(*timer).is_none_or(|due| at < due) {
            self.wheel.cancel(timer);
            *timer = self.wheel.insert(at, key);
        }
    }

    /// A notification of this slot is merged with others until then.
    pub(super) fn hold(&mut self, at: Time, slot: u32, generation: u32) {
        self.merged.push(Reverse((at, slot, generation)));
    }

    /// When something is to be looked at.
    pub(super) fn next(&self) -> Time {
        let merged = self.merged.peek().map_or(Time::NEVER, |Reverse((at, ..))| *at);
        self.wheel.next().min(merged)
    }

    /// A timer that is due; to be called until there is none.
    pub(super) fn pop(&mut self, now: Time) -> Option<K> {
        self.wheel.pop(now)
    }

    /// Slot and generation of a merged notification that is due.
    pub(super) fn pop_merged(&mut self, now: Time) -> Option<(u32, u32)> {
        let Reverse((_, slot, generation)) = self.merged.peek().copied().filter(|first| first.0.0 <= now)?;
        self.merged.pop();
        Some((slot, generation))
    }
}
