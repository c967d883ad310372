//! The one monotonic clock of an agent, and what kernel stamps mean on it.

use adsum_sip::Time;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// How long a sampled offset between the two clocks is used.
const OFFSET_LIFE: u64 = 10_000_000;
/// A change of the wall clock beyond this, between two samples, is a step.
const STEP: i64 = 1_000_000;

fn read(clock: ClockId) -> u64 {
    // These clocks exist on every Linux; a failure would be a kernel without time.
    clock_gettime(clock).map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// Now, on CLOCK_MONOTONIC.
#[inline]
#[must_use]
pub fn now() -> Time {
    Time(read(ClockId::CLOCK_MONOTONIC))
}

/// Sleeps until an instant of [`now`]'s clock.
pub fn sleep_until(at: Time) {
    let request = TimeSpec::new((at.0 / 1_000_000_000) as i64, (at.0 % 1_000_000_000) as i64);
    let flags = ClockNanosleepFlags::TIMER_ABSTIME;
    // Signals are other threads' business; whoever is woken by one sleeps on.
    while clock_nanosleep(ClockId::CLOCK_MONOTONIC, flags, &request) == Err(nix::errno::Errno::EINTR) {}
}

/// The kernel may let a thread oversleep by 50 us, to wake several at once; this one it shall not.
pub fn sleep_exactly() {
    if let Err(error) = nix::sys::prctl::set_timerslack(1) {
        tracing::debug!(%error, "the timer slack stays as it is");
    }
}

/// Now, in nanoseconds since 1970 UTC by this host's wall clock.
#[must_use]
pub fn unix_ns() -> i64 {
    read(ClockId::CLOCK_REALTIME) as i64
}

/// CPU time of the calling thread in microseconds, user and system.
#[must_use]
pub fn thread_cpu_us() -> u64 {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID) / 1_000
}

/// Converts stamps of the wall clock, which the kernel uses for received
/// datagrams, to the monotonic clock.
#[derive(Debug, Default)]
pub struct StampClock {
    /// Wall clock minus monotonic clock.
    offset: i64,
    sampled: Time,
    /// How often the wall clock jumped while it was in use.
    steps: u64,
}

impl StampClock {
    /// The instant of a wall clock stamp. `now` bounds it: nothing was
    /// received later than now.
    #[inline]
    pub fn at(&mut self, stamp_unix_ns: u64, now: Time) -> Time {
        self.look(now);
        Time((stamp_unix_ns as i64 - self.offset).max(0) as u64).min(now)
    }

    /// Samples the offset again if it is old: also when nothing is received, so
    /// that no step of the wall clock goes unseen.
    #[inline]
    pub fn look(&mut self, now: Time) {
        if now.since(self.sampled) > OFFSET_LIFE || self.sampled == Time(0) {
            self.sample(now);
        }
    }

    /// Two readings of the monotonic clock around one of the wall clock; the
    /// narrowest of three bounds the error to some tens of nanoseconds.
    fn sample(&mut self, now: Time) {
        let mut best = (u64::MAX, 0i64);
        for _ in 0..3 {
            let before = read(ClockId::CLOCK_MONOTONIC);
            let wall = read(ClockId::CLOCK_REALTIME);
            let after = read(ClockId::CLOCK_MONOTONIC);
            let middle = before + (after - before) / 2;
            if after - before < best.0 {
                best = (after - before, wall as i64 - middle as i64);
            }
        }
        self.sampled_as(best.1, now);
    }

    /// Both clocks run at the same, disciplined rate: a difference that changes is a step.
    fn sampled_as(&mut self, offset: i64, now: Time) {
        if self.sampled != Time(0) && (offset - self.offset).abs() > STEP {
            self.steps += 1;
        }
        self.offset = offset;
        self.sampled = now;
    }

    /// Steps of the wall clock since the last call.
    pub fn take_steps(&mut self) -> u64 {
        std::mem::take(&mut self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_stamp_is_about_now_and_never_later() {
        let mut clock = StampClock::default();
        let stamp = unix_ns() as u64;
        let now = now();
        let at = clock.at(stamp, now);
        assert!(at <= now && now.since(at) < 50_000_000, "{at:?} {now:?}");
        assert_eq!(clock.at(stamp + 3_600_000_000_000, now), now);
    }

    #[test]
    fn each_step_of_the_wall_clock_is_counted_once_and_slewing_never() {
        let mut clock = StampClock::default();
        let mut now = Time(1_000_000_000);
        let mut offset = 1_795_000_000_000_000_000;
        clock.sampled_as(offset, now);
        // Half a millisecond a second, as fast as adjtime(3) slews, sampled ten times a second.
        for _ in 0..100 {
            now = now + 100_000_000;
            offset += 50_000;
            clock.sampled_as(offset, now);
        }
        assert_eq!(clock.take_steps(), 0);
        for jump in [2_000_000, -2_000_000, 3_600_000_000_000] {
            now = now + 100_000_000;
            offset += jump;
            clock.sampled_as(offset, now);
            clock.sampled_as(offset, now);
        }
        assert_eq!((clock.take_steps(), clock.take_steps()), (3, 0));
    }
}
