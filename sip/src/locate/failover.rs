//! Where a request goes when its target fails (RFC 3263 §4.3).

use std::net::SocketAddr;

use super::MAX_ADDRESSES;
use crate::time::{SECOND, TIMEOUT, Time};

/// How long a target that failed is left alone, unless there is no other: 30 s.
pub const REST: u64 = 30 * SECOND;
/// The longest rest that a `Retry-After` can ask for: 5 min.
pub const REST_LIMIT: u64 = 300 * SECOND;

/// What counts as the failure of a target (RFC 3263 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// ICMP unreachable, connection or handshake failed, connection lost.
    Transport,
    /// A 503, with the seconds of its `Retry-After` (RFC 3261 §21.5.4).
    Unavailable(Option<u32>),
    /// Timer B or F without any response.
    Silence,
}

impl Failure {
    /// A final response: only 503 says that the target failed. Any other one is
    /// an answer, and the next target would say the same.
    #[must_use]
    pub fn of_response(status: u16, retry_after: Option<u32>) -> Option<Failure> {
        (status == 503).then_some(Failure::Unavailable(retry_after))
    }

    /// Timer B or F: a target that sent a provisional response is there.
    #[must_use]
    pub fn of_timeout(provisional: bool) -> Option<Failure> {
        (!provisional).then_some(Failure::Silence)
    }
}

/// One request on its way through the targets: 16 bytes that its owner keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// A bit for each target that it was sent to.
    tried: u64,
    at: u32,
}

impl Attempt {
    /// The target's number in the list.
    #[must_use]
    pub fn index(self) -> usize {
        self.at as usize
    }

    /// How many targets it was sent to.
    #[must_use]
    pub fn targets(self) -> u32 {
        self.tried.count_ones()
    }
}

/// Counts since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FailoverCounts {
    /// [`Failure::Transport`].
    pub transport: u64,
    /// [`Failure::Unavailable`].
    pub unavailable: u64,
    /// [`Failure::Silence`].
    pub silence: u64,
    /// Requests that failed at every target.
    pub gave_up: u64,
}

/// The targets of one pool, best first, and which of them rest because they
/// failed. One for all requests of a shard; nothing is allocated after `new`.
#[derive(Debug, Clone)]
pub struct Failover {
    targets: Vec<Target>,
    counts: FailoverCounts,
}

#[derive(Debug, Clone, Copy)]
struct Target {
    address: SocketAddr,
    /// It failed and rests until then; an answer ends that.
    rest: Time,
    /// It asked for peace until then (`Retry-After`); answers to what was under
    /// way already do not end that.
    asked: Time,
    /// When it answered last.
    answered: Option<Time>,
}

impl Target {
    fn awake(&self) -> Time {
        self.rest.max(self.asked)
    }
}

impl Failover {
    /// The first [`MAX_ADDRESSES`] of these, none of them resting.
    #[must_use]
    pub fn new(targets: &[SocketAddr]) -> Self {
        let fresh = |address: &SocketAddr| Target {
            address: *address,
            rest: Time::default(),
            asked: Time::default(),
            answered: None,
        };
        Failover {
            targets: targets.iter().take(MAX_ADDRESSES).map(fresh).collect(),
            counts: FailoverCounts::default(),
        }
    }

    /// Where a new request goes: the best target that does not rest; if all do,
    /// the one that wakes first. `None` only without targets.
    #[must_use]
    pub fn begin(&self, now: Time) -> Option<Attempt> {
        self.best(0, now)
    }

    /// The attempt of a request that has no choice: one within a dialog, or on a
    /// connection that is there. `None` if the address is not of this list.
    #[must_use]
    pub fn at(&self, address: SocketAddr) -> Option<Attempt> {
        let at = self.targets.iter().position(|target| target.address == address)?;
        Some(Attempt { tried: 1 << at, at: at as u32 })
    }

    /// The address of an attempt; `None` if it is of another list.
    #[must_use]
    pub fn address(&self, attempt: Attempt) -> Option<SocketAddr> {
        self.targets.get(attempt.index()).map(|target| target.address)
    }

    /// The target of this attempt failed: it rests, and the request goes on, as
    /// a new transaction with a new branch, to the target that is returned.
    /// `None`: every target was tried, give up.
    pub fn failed(&mut self, attempt: Attempt, failure: Failure, now: Time) -> Option<Attempt> {
        self.report(attempt, failure, now);
        let next = self.best(attempt.tried, now);
        self.counts.gave_up += u64::from(next.is_none());
        next
    }

    /// As [`Failover::failed`], for a request that goes nowhere else: one within
    /// a dialog stays with the dialog's server.
    pub fn report(&mut self, attempt: Attempt, failure: Failure, now: Time) {
        match failure {
            Failure::Transport => self.counts.transport += 1,
            Failure::Unavailable(_) => self.counts.unavailable += 1,
            Failure::Silence => self.counts.silence += 1,
        }
        let Some(target) = self.targets.get_mut(attempt.index()) else { return };
        match failure {
            Failure::Unavailable(Some(seconds)) => {
                let rest = (u64::from(seconds) * SECOND).clamp(SECOND, REST_LIMIT);
                target.asked = target.asked.max(now + rest);
            }
            // Silence is noticed 64·T1 after the request: a target that has answered
            // others since then is there, and the news of its silence is old.
            Failure::Silence if target.answered.is_some_and(|at| now.since(at) < TIMEOUT) => {}
            _ => target.rest = target.rest.max(now + REST),
        }
    }

    /// The target answered, with anything but 503: its rest is over.
    #[inline]
    pub fn answered(&mut self, attempt: Attempt, now: Time) {
        if let Some(target) = self.targets.get_mut(attempt.index()) {
            target.rest = Time::default();
            target.answered = Some(now);
        }
    }

    /// How many targets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// True if there is nowhere to go.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// How many targets rest.
    #[must_use]
    pub fn resting(&self, now: Time) -> usize {
        self.targets.iter().filter(|target| target.awake() > now).count()
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> FailoverCounts {
        self.counts
    }

    /// The first awake one outside `tried`, else the one that wakes first: a rest
    /// is a preference, since a request that has nowhere else to go must try.
    fn best(&self, tried: u64, now: Time) -> Option<Attempt> {
        let open = || (0..self.targets.len()).filter(|at| tried & (1 << at) == 0);
        let awake = |at: &usize| self.targets[*at].awake();
        let at = open().find(|at| awake(at) <= now).or_else(|| open().min_by_key(awake))?;
        Some(Attempt { tried: tried | 1 << at, at: at as u32 })
    }
}
