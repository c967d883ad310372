//! Instants and the timer values of RFC 3261.

use std::ops::{Add, Sub};

/// One microsecond in nanoseconds.
pub const MICROSECOND: u64 = 1_000;
/// One millisecond in nanoseconds.
pub const MILLISECOND: u64 = 1_000_000;
/// One second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// T1, the estimate of the round-trip time (RFC 3261 §17.1.1.1): 500 ms.
pub const T1: u64 = 500 * MILLISECOND;
/// T2, the longest interval between retransmissions of a non-INVITE request: 4 s.
pub const T2: u64 = 4 * SECOND;
/// T4, the longest time a message stays in the network: 5 s.
pub const T4: u64 = 5 * SECOND;
/// 64·T1, the end of a transaction that nobody answers (timers B, F, H, J) and
/// of the wait for the first NOTIFY (timer N of RFC 6665): 32 s.
pub const TIMEOUT: u64 = 64 * T1;

/// An instant: nanoseconds of a monotonic clock with an origin of the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// Later than everything; a timer at this instant never fires.
    pub const NEVER: Time = Time(u64::MAX);

    /// Nanoseconds from `earlier` to `self`, 0 if `earlier` is later.
    #[inline]
    #[must_use]
    pub fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Time {
    type Output = Time;
    #[inline]
    fn add(self, nanoseconds: u64) -> Time {
        Time(self.0.saturating_add(nanoseconds))
    }
}

impl Sub<u64> for Time {
    type Output = Time;
    #[inline]
    fn sub(self, nanoseconds: u64) -> Time {
        Time(self.0.saturating_sub(nanoseconds))
    }
}
