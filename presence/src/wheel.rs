//! One timer wheel for a whole shard: insert, cancel and fire in constant time.
//!
//! Four levels of 256 slots with ticks of one millisecond reach 49 days, after
//! Varghese and Lauck's hierarchical wheel. Timers never fire early; they fire
//! at most one tick late, which is far below anything that RFC 3261's timers
//! mean. What has to be exact — the schedule — does not go through the wheel.

use adsum_sip::time::{MILLISECOND, Time};

const BITS: u32 = 8;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 4;
const NIL: u32 = u32::MAX;

/// A timer that is set; give it back to [`Wheel::cancel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerId(u32);

impl TimerId {
    /// No timer.
    pub const NONE: TimerId = TimerId(NIL);

    /// True unless it is [`TimerId::NONE`].
    #[must_use]
    pub fn is_set(self) -> bool {
        self.0 != NIL
    }
}

/// Marks a list instead of a node: level · 256 + slot.
const LIST: u32 = 1 << 31;

#[derive(Debug, Clone, Copy)]
struct Node<K> {
    key: K,
    tick: u32,
    /// The node before it; of a list's first node the list, marked with [`LIST`].
    previous: u32,
    next: u32,
}

/// Timers with keys of type `K`; at most 2³¹, of 12 bytes and a key each.
#[derive(Debug)]
pub struct Wheel<K> {
    nodes: Vec<Node<K>>,
    free: u32,
    heads: Vec<u32>,
    occupied: [[u64; SLOTS / 64]; LEVELS],
    /// All ticks before this one have fired.
    current: u32,
    /// The instant of tick 0.
    origin: Time,
    len: usize,
}

impl<K: Copy> Wheel<K> {
    /// An empty wheel whose first tick is at `origin`.
    #[must_use]
    pub fn new(origin: Time) -> Self {
        Wheel {
            nodes: Vec::new(),
            free: NIL,
            heads: vec![NIL; SLOTS * LEVELS],
            occupied: [[0; SLOTS / 64]; LEVELS],
            current: 0,
            origin,
            len: 0,
        }
    }

    /// How many timers are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if no timer is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets a timer. One in the past fires at the next [`Wheel::pop`].
    pub fn insert(&mut self, at: Time, key: impl Into<K>) -> TimerId {
        let tick = self.tick_of(at).max(self.current);
        let node = Node { key: key.into(), tick, previous: NIL, next: NIL };
        let id = if self.free == NIL {
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        } else {
            let id = self.free;
            self.free = self.nodes[id as usize].next;
            self.nodes[id as usize] = node;
            id
        };
        self.link(id);
        self.len += 1;
        TimerId(id)
    }

    /// Takes a timer back and clears the handle; one that fired is ignored,
    /// as long as its handle was cleared when it did.
    pub fn cancel(&mut self, id: &mut TimerId) {
        if id.is_set() {
            self.unlink(id.0);
            self.release(id.0);
            *id = TimerId::NONE;
        }
    }

    /// The instant at which a timer fires, to the tick; `None` if none is set.
    #[must_use]
    pub fn due(&self, id: TimerId) -> Option<Time> {
        let node = self.nodes.get(id.0 as usize)?;
        Some(self.origin + u64::from(node.tick) * MILLISECOND)
    }

    /// A timer that is due at `now`; the caller clears its handle of it.
    /// Call it until it answers `None`.
    pub fn pop(&mut self, now: Time) -> Option<K> {
        let now = self.elapsed(now);
        loop {
            let head = self.heads[(self.current as usize) & (SLOTS - 1)];
            if head != NIL && self.current <= now {
                let key = self.nodes[head as usize].key;
                self.unlink(head);
                self.release(head);
                return Some(key);
            }
            if self.current >= now || self.len == 0 {
                if self.len == 0 {
                    self.current = self.current.max(now);
                }
                return None;
            }
            self.advance(now);
        }
    }

    /// An instant at or before the next timer; [`Time::NEVER`] without timers.
    /// Being called then may only move timers between levels.
    #[must_use]
    pub fn next(&self) -> Time {
        if self.len == 0 {
            return Time::NEVER;
        }
        // Level 0 holds everything of the current turn; what lies behind the
        // turn's end is on a higher level and comes down at its boundary.
        let at = (self.current as usize) & (SLOTS - 1);
        if let Some(slot) = self.first(0, at) {
            return self.instant((self.current & !(SLOTS as u32 - 1)) + slot as u32);
        }
        for level in 1..LEVELS {
            let shift = BITS * level as u32;
            let at = ((self.current >> shift) as usize) & (SLOTS - 1);
            if let Some(slot) = self.first(level, at + 1) {
                let base = (self.current >> shift) & !(SLOTS as u32 - 1);
                return self.instant((base + slot as u32) << shift);
            }
        }
        // Everything is beyond the last level's turn: look again at its end.
        self.instant(self.current.saturating_add(SLOTS as u32))
    }

    /// Moves on to the next tick that may hold something, at most to `now`.
    fn advance(&mut self, now: u32) {
        let turn = self.current & !(SLOTS as u32 - 1);
        let at = (self.current as usize) & (SLOTS - 1);
        if let Some(slot) = self.first(0, at + 1) {
            self.current = (turn + slot as u32).min(now);
            return;
        }
        let boundary = turn.saturating_add(SLOTS as u32);
        if boundary > now {
            self.current = now;
            return;
        }
        self.current = boundary;
        for level in 1..LEVELS {
            let shift = BITS * level as u32;
            let slot = ((self.current >> shift) as usize) & (SLOTS - 1);
            self.cascade(level, slot);
            if slot != 0 {
                break;
            }
        }
    }

    fn cascade(&mut self, level: usize, slot: usize) {
        let mut id = std::mem::replace(&mut self.heads[level * SLOTS + slot], NIL);
        self.occupied[level][slot / 64] &= !(1 << (slot % 64));
        while id != NIL {
            let next = self.nodes[id as usize].next;
            self.link(id);
            id = next;
        }
    }

    fn link(&mut self, id: u32) {
        let tick = self.nodes[id as usize].tick.max(self.current);
        // The highest byte in which the tick differs from now is its level.
        let level = (((tick ^ self.current) | 1).ilog2() / BITS) as usize;
        let slot = ((tick >> (BITS * level as u32)) as usize) & (SLOTS - 1);
        let list = level * SLOTS + slot;
        let head = self.heads[list];
        if head != NIL {
            self.nodes[head as usize].previous = id;
        }
        let node = &mut self.nodes[id as usize];
        node.previous = LIST | list as u32;
        node.next = head;
        self.heads[list] = id;
        self.occupied[level][slot / 64] |= 1 << (slot % 64);
    }

    fn unlink(&mut self, id: u32) {
        let Node { previous, next, .. } = self.nodes[id as usize];
        if previous & LIST != 0 {
            let list = (previous & !LIST) as usize;
            self.heads[list] = next;
            if next == NIL {
                let (level, slot) = (list / SLOTS, list % SLOTS);
                self.occupied[level][slot / 64] &= !(1 << (slot % 64));
            }
        } else {
            self.nodes[previous as usize].next = next;
        }
        if next != NIL {
            self.nodes[next as usize].previous = previous;
        }
    }

    fn release(&mut self, id: u32) {
        let node = &mut self.nodes[id as usize];
        node.next = self.free;
        self.free = id;
        self.len -= 1;
    }

    /// The first taken slot of a level from `from` to the end of its turn.
    fn first(&self, level: usize, from: usize) -> Option<usize> {
        let words = &self.occupied[level];
        let mut word = from / 64;
        let mut bits = *words.get(word)? & (u64::MAX << (from % 64));
        loop {
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros() as usize);
            }
            word += 1;
            bits = *words.get(word)?;
        }
    }

    /// The first tick that is not before `at`.
    fn tick_of(&self, at: Time) -> u32 {
        u32::try_from(at.since(self.origin).div_ceil(MILLISECOND)).unwrap_or(u32::MAX - 1)
    }

    /// The last tick that is not after `now`.
    fn elapsed(&self, now: Time) -> u32 {
        u32::try_from(now.since(self.origin) / MILLISECOND).unwrap_or(u32::MAX - 1)
    }

    fn instant(&self, tick: u32) -> Time {
        self.origin + u64::from(tick) * MILLISECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a sorted list: nothing fires early, late by more than the
        /// steps of the clock, twice, or not at all.
        #[test]
        fn fires_like_a_sorted_list(
            timers in prop::collection::vec((0u64..400_000, any::<bool>()), 1..200),
            steps in prop::collection::vec(1u64..30_000, 1..60),
        ) {
            let mut wheel: Wheel<usize> = Wheel::new(Time(0));
            let mut expected: Vec<(u64, usize)> = Vec::new();
            for (key, (at, cancelled)) in timers.iter().enumerate() {
                let mut id = wheel.insert(Time(at * MILLISECOND), key);
                if *cancelled {
                    wheel.cancel(&mut id);
                } else {
                    expected.push((*at, key));
                }
            }
            let mut now = 0;
            for step in steps.iter().chain(std::iter::once(&500_000)) {
                now += step;
                prop_assert!(wheel.next() == Time::NEVER
                    || wheel.next() <= Time(expected.iter().map(|e| e.0).min().unwrap_or(u64::MAX / MILLISECOND) * MILLISECOND));
                let mut fired = Vec::new();
                while let Some(key) = wheel.pop(Time(now * MILLISECOND)) {
                    fired.push(key);
                }
                let mut due: Vec<usize> = expected.iter().filter(|e| e.0 <= now).map(|e| e.1).collect();
                expected.retain(|e| e.0 > now);
                fired.sort_unstable();
                due.sort_unstable();
                prop_assert_eq!(fired, due);
                prop_assert_eq!(wheel.len(), expected.len());
            }
            prop_assert!(wheel.is_empty());
        }
    }

    #[test]
    fn next_leads_to_every_timer() {
        let mut wheel: Wheel<u64> = Wheel::new(Time(5));
        for at in [1, 255, 256, 257, 65_535, 65_536, 70_000, 20_000_000] {
            wheel.insert(Time(5 + at * MILLISECOND), at);
        }
        let mut fired = Vec::new();
        let mut turns = 0;
        while wheel.next() != Time::NEVER {
            let now = wheel.next();
            while let Some(at) = wheel.pop(now) {
                assert!(now >= Time(5 + at * MILLISECOND));
                fired.push(at);
            }
            turns += 1;
            assert!(turns < 10_000);
        }
        assert_eq!(fired, [1, 255, 256, 257, 65_535, 65_536, 70_000, 20_000_000]);
    }
}
