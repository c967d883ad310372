//! Real-time priority of a shard's thread, and what keeps it from hanging the host.
//!
//! With SCHED_FIFO a shard is woken within microseconds whatever else the host
//! does. A thread that never sleeps would then take its core from everybody,
//! the coordinator included. Three fuses, weakest first: a shard that has not
//! slept for half a second gives the priority back by itself; the kernel ends
//! a process whose real-time thread runs for a second without sleeping
//! (RLIMIT_RTTIME), which only a loop that hangs can come to; and Linux leaves
//! 5 % of each second to others (`kernel.sched_rt_runtime_us`).

use adsum_sip::Time;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue,
    ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// Low among the real-time priorities: above all ordinary work, below the kernel's own threads.
pub const PRIORITY: u8 = 10;
/// Microseconds that a real-time thread may run without sleeping before the kernel ends the process.
const UNINTERRUPTED_US: u64 = 1_000_000;
/// How often a thread looks whether it has slept.
const LOOK: u64 = 100_000_000;
/// Looks without a sleep after which the priority is given back: well before the kernel's limit.
const SLEEPLESS: u32 = 5;
/// The value that `thread-priority` turns into a nice value of 0.
const NICE_0: u8 = 48;

/// The calling thread's claim to real-time priority.
#[derive(Debug)]
pub struct Realtime {
    wanted: bool,
    held: bool,
    looked: Time,
    sleeps: i64,
    sleepless: u32,
}

impl Realtime {
    /// `wanted` false leaves the thread as it is.
    #[must_use]
    pub fn new(wanted: bool) -> Self {
        Realtime { wanted, held: false, looked: Time(0), sleeps: 0, sleepless: 0 }
    }

    /// Asks for the priority, if it is wanted and not there already, and
    /// answers what the thread has by the kernel's word.
    pub fn claim(&mut self, now: Time) -> String {
        if self.wanted && !self.held && crate::host::priority() == "normal" {
            match limit_uninterrupted().and_then(|()| set_fifo()) {
                Ok(()) => {
                    (self.held, self.looked, self.sleeps, self.sleepless) = (true, now, sleeps(), 0);
                }
                Err(error) => tracing::info!(%error, "no real-time priority"),
            }
        }
        crate::host::priority()
    }

    /// Looks from time to time whether the thread has slept. `true` once, when
    /// it has not for too long and the priority was given back.
    #[inline]
    pub fn given_back(&mut self, now: Time) -> bool {
        if !self.held || now.since(self.looked) < LOOK {
            return false;
        }
        self.looked = now;
        let sleeps = sleeps();
        self.sleepless = if sleeps == self.sleeps { self.sleepless + 1 } else { 0 };
        self.sleeps = sleeps;
        if self.sleepless < SLEEPLESS {
            return false;
        }
        self.held = false;
        let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
        if let Err(error) = set(policy, NICE_0) {
            // The policy is changed first; only a nice value may be refused here.
            tracing::debug!(?error, "back to normal priority");
        }
        true
    }
}

/// How often the calling thread went to sleep; what the kernel's own limit looks at, too.
fn sleeps() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.voluntary_context_switches())
}

fn limit_uninterrupted() -> std::io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_RTTIME)?;
    let hard = hard.min(2 * UNINTERRUPTED_US);
    Ok(setrlimit(Resource::RLIMIT_RTTIME, hard.min(UNINTERRUPTED_US), hard)?)
}

fn set_fifo() -> std::io::Result<()> {
    set(ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo), PRIORITY)
}

fn set(policy: ThreadSchedulePolicy, value: u8) -> std::io::Result<()> {
    let value = ThreadPriorityValue::try_from(value).map_err(|e| std::io::Error::other(format!("{e:?}")))?;
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(value), policy).map_err(
        |error| match error {
            thread_priority::Error::OS(code) => std::io::Error::from_raw_os_error(code),
            other => std::io::Error::other(format!("{other:?}")),
        },
    )
}

/// Whether a thread of this process may have real-time priority: tried on a thread that ends at once.
///
/// # Errors
/// What the kernel answered.
pub fn allowed() -> std::io::Result<()> {
    std::thread::scope(|scope| {
        let tried = scope.spawn(set_fifo).join();
        tried.unwrap_or_else(|_| Err(std::io::Error::other("the thread that tried it ended")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::clock;

    /// Runs on a thread of its own, so that the test runner keeps its priority.
    fn on_a_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn a_thread_that_sleeps_keeps_its_priority_and_one_that_does_not_gives_it_back() {
        on_a_thread(|| {
            let mut realtime = Realtime::new(true);
            let before = crate::host::priority();
            let has = realtime.claim(clock::now());
            if allowed().is_err() {
                return assert_eq!(has, before, "nothing may change where it is not allowed");
            }
            assert_eq!(has, format!("fifo:{PRIORITY}"));
            for _ in 0..12 {
                std::thread::sleep(std::time::Duration::from_millis(60));
                assert!(!realtime.given_back(clock::now()));
            }
            let began = clock::now();
            // Longer than the kernel's limit: the process is alive after it.
            let mut given_back = 0;
            while clock::now().since(began) < 2_500_000_000 {
                if realtime.given_back(clock::now()) {
                    given_back += 1;
                    let after = clock::now().since(began);
                    assert!((400_000_000..1_000_000_000).contains(&after), "{after}");
                    assert_eq!(crate::host::priority(), "normal");
                }
            }
            assert_eq!(given_back, 1);
        });
    }

    #[test]
    fn nothing_is_asked_for_that_is_not_wanted() {
        on_a_thread(|| {
            let mut realtime = Realtime::new(false);
            let before = crate::host::priority();
            assert_eq!(realtime.claim(clock::now()), before);
            assert!(!realtime.given_back(clock::now() + 10 * LOOK));
        });
    }
}
