//! Faults that concern messages as such, not what they say: loss, doubling,
//! disorder, standstill. Sans-IO and seeded, as the [core](crate::core) is.

use std::time::Duration;

use adsum_sip::Time;
use adsum_sip::time::MILLISECOND;

use crate::config::{Chance, PoolConfig};
use crate::core::Out;

/// A datagram that waits for the next one waits at most so long: at the end of
/// a run there is no next one.
pub const REORDER_WAIT: u64 = 100 * MILLISECOND;

/// What was done on purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Lost coming in.
    pub dropped_in: u64,
    /// Lost going out.
    pub dropped_out: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Sent after the next one.
    pub reordered: u64,
    /// Times that everything was frozen.
    pub stalls: u64,
}

/// The wire's faults and the pool's standstills.
#[derive(Debug)]
pub struct Faults {
    drop: f64,
    duplicate: f64,
    reorder: f64,
    stall: Option<(Duration, Duration)>,
    chance: Chance,
    held_back: Option<(Time, Out)>,
    stall_at: Time,
    done: Done,
}

impl Faults {
    /// The faults that a configuration asks for.
    #[must_use]
    pub fn new(config: &PoolConfig) -> Self {
        Faults {
            drop: config.drop,
            duplicate: config.duplicate,
            reorder: config.reorder,
            stall: config.stall,
            chance: Chance::new(config.seed ^ 0xfa17),
            held_back: None,
            stall_at: Time::NEVER,
            done: Done::default(),
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn done(&self) -> Done {
        self.done
    }

    /// A message came in; false if it is lost. Only datagrams get lost; the
    /// first message of any kind starts the clock of the standstills.
    pub fn arrives(&mut self, now: Time, datagram: bool) -> bool {
        if let (Time::NEVER, Some((every, _))) = (self.stall_at, self.stall) {
            self.stall_at = now + every.as_nanos() as u64;
        }
        let lost = datagram && self.chance.hit(self.drop);
        self.done.dropped_in += u64::from(lost);
        !lost
    }

    /// A datagram goes out: `send` is called for each one that really leaves,
    /// and gets the last copy of each to keep.
    pub fn leaves(&mut self, now: Time, out: Out, mut send: impl FnMut(Out)) {
        if self.chance.hit(self.drop) {
            self.done.dropped_out += 1;
            return;
        }
        if self.held_back.is_none() && self.chance.hit(self.reorder) {
            self.done.reordered += 1;
            self.held_back = Some((now + REORDER_WAIT, out));
            return;
        }
        if self.chance.hit(self.duplicate) {
            self.done.duplicated += 1;
            send(out.clone());
        }
        send(out);
        if let Some((_, held)) = self.held_back.take() {
            send(held);
        }
    }

    /// When something is to be looked at again.
    #[must_use]
    pub fn next(&self) -> Time {
        self.held_back.as_ref().map_or(Time::NEVER, |(until, _)| *until).min(self.stall_at)
    }

    /// A datagram that waited for a next one for too long.
    pub fn overdue(&mut self, now: Time) -> Option<Out> {
        let due = self.held_back.as_ref().is_some_and(|(until, _)| *until <= now);
        if due { self.held_back.take().map(|(_, out)| out) } else { None }
    }

    /// How long everything has to stand still, if a standstill is due.
    #[must_use]
    pub fn stall(&self, now: Time) -> Option<Duration> {
        self.stall.filter(|_| self.stall_at <= now).map(|(_, during)| during)
    }

    /// A standstill is over. The next one begins so long after the beginning of
    /// this one, or after now if that has passed.
    pub fn stalled(&mut self, now: Time) {
        if let Some((every, _)) = self.stall {
            self.done.stalls += 1;
            let every = every.as_nanos() as u64;
            self.stall_at = self.stall_at + every;
            if self.stall_at <= now {
                self.stall_at = now + every;
            }
        }
    }

    /// When the next standstill begins.
    #[must_use]
    pub fn stall_at(&self) -> Time {
        self.stall_at
    }
}
