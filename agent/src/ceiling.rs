//! Ceilings: how much at most, whatever the schedule says. The schedule
//! decides when; a ceiling can only make something wait, and that is counted.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// A rate that is not exceeded.
#[derive(Debug)]
pub struct Ceiling {
    limiter: Option<RateLimiter<NotKeyed, InMemoryState, DefaultClock, NoOpMiddleware>>,
    /// Built once: the clock calibrates itself when it is made.
    clock: DefaultClock,
}

impl Ceiling {
    /// `rate_mhz` thousandths per second; 0 is no ceiling. Bursts are what
    /// comes in 20 ms, so that a loop that sleeps in between keeps the rate.
    #[must_use]
    pub fn new(rate_mhz: u64) -> Self {
        let clock = DefaultClock::default();
        let limiter = (rate_mhz > 0).then(|| {
            let period = Duration::from_nanos((1_000_000_000_000 / rate_mhz).max(1));
            let burst = u32::try_from(rate_mhz / 50_000).unwrap_or(u32::MAX).max(1);
            let quota = Quota::with_period(period)
                .unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN))
                .allow_burst(NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN));
            RateLimiter::direct_with_clock(quota, clock.clone())
        });
        Ceiling { limiter, clock }
    }

    /// Takes one if it may go now; else says in how many nanoseconds it may.
    ///
    /// # Errors
    /// The nanoseconds to wait.
    pub fn take(&self) -> Result<(), u64> {
        match &self.limiter {
            None => Ok(()),
            Some(limiter) => limiter.check().map_err(|wait| {
                u64::try_from(wait.wait_time_from(self.clock.now()).as_nanos()).unwrap_or(u64::MAX).max(1)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ceiling_lets_a_burst_pass_and_then_says_how_long() {
        let ceiling = Ceiling::new(100_000); // 100/s: a burst of two
        assert_eq!((ceiling.take(), ceiling.take()), (Ok(()), Ok(())));
        let wait = ceiling.take().unwrap_err();
        assert!(wait > 0 && wait <= 10_000_000, "{wait}");
        assert_eq!(Ceiling::new(0).take(), Ok(()));
    }
}
