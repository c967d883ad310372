//! A shard's time: one timerfd, absolute, on the monotonic clock. tokio's own
//! timers tick in milliseconds and would be late by one or two.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use adsum_sip::Time;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

/// The timer; armed for one instant at a time.
#[derive(Debug)]
pub struct Timer {
    fd: AsyncFd<Fd>,
    armed: Time,
}

#[derive(Debug)]
struct Fd(TimerFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Timer {
    /// A timer that is not armed.
    ///
    /// # Errors
    /// Those of `timerfd_create(2)`.
    pub fn new() -> io::Result<Self> {
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        Ok(Timer { fd: super::watch(Fd(fd))?, armed: Time::NEVER })
    }

    /// The instant it is armed for.
    #[must_use]
    pub fn armed(&self) -> Time {
        self.armed
    }

    /// Arms it. An instant in the past fires at once; the same instant again
    /// costs nothing.
    ///
    /// # Errors
    /// Those of `timerfd_settime(2)`.
    pub fn arm(&mut self, at: Time) -> io::Result<()> {
        if at == self.armed {
            return Ok(());
        }
        self.armed = at;
        if at == Time::NEVER {
            return Ok(self.fd.get_ref().0.unset()?);
        }
        // Zero would disarm it.
        let at = TimeSpec::from_duration(Duration::from_nanos(at.0.max(1)));
        Ok(self.fd.get_ref().0.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }

    /// Waits until it fires; from then on it is not armed.
    ///
    /// # Errors
    /// Those of `read(2)`.
    pub async fn fired(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.fd.readable().await?;
            let mut expirations = [0u8; 8];
            match guard.try_io(|fd| Ok(nix::unistd::read(fd.get_ref().0.as_fd(), &mut expirations)?)) {
                Ok(read) => {
                    read?;
                    // Or the next call would find a timer that is due again at once, and a loop
                    // that is behind its schedule would never let the reactor see anything else.
                    guard.clear_ready();
                    self.armed = Time::NEVER;
                    return Ok(());
                }
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock;

    #[test]
    fn fires_at_its_instant_and_at_once_for_the_past() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let mut timer = Timer::new().unwrap();
            let at = clock::now() + 3_000_000;
            timer.arm(at).unwrap();
            timer.fired().await.unwrap();
            assert!(clock::now() >= at);
            timer.arm(Time(1)).unwrap();
            timer.fired().await.unwrap();
            assert_eq!(timer.armed(), Time::NEVER);
        });
    }
}
