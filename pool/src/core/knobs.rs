//! The fault knobs that both dialects have, drawn from the seed.

use std::time::Duration;

use adsum_sip::time::Time;

use crate::config::{Chance, Delay, PoolConfig, Reject};

#[derive(Debug)]
pub(super) struct Knobs {
    chance: Chance,
    answer_delay: Option<Delay>,
    notify_delay: Option<Delay>,
    capacity: Option<f64>,
    reject: Vec<Reject>,
    lose_notify: f64,
    hold_notify: Option<Duration>,
    /// With `capacity`: when the one server is free again.
    busy: Time,
}

/// What becomes of a notification.
pub(super) enum Telling {
    /// It is lost.
    Never,
    /// It leaves then.
    At(Time),
    /// It is merged with others until then.
    HeldUntil(Time),
}

impl Knobs {
    /// Dialects differ in their `salt`, so that neither draws what the other does.
    pub(super) fn new(config: &PoolConfig, salt: u64) -> Self {
        Knobs {
            chance: Chance::new(config.seed ^ salt),
            answer_delay: config.answer_delay,
            notify_delay: config.notify_delay,
            capacity: config.capacity,
            reject: config.reject.clone(),
            lose_notify: config.lose_notify,
            hold_notify: config.hold_notify,
            busy: Time(0),
        }
    }

    /// How long an answer waits.
    pub(super) fn answer_delay(&mut self) -> u64 {
        self.answer_delay.map_or(0, |delay| delay.draw(&mut self.chance))
    }

    /// The code that this request is refused with.
    pub(super) fn rejection(&mut self, method: &[u8]) -> Option<u16> {
        let chance = &mut self.chance;
        let hit = |r: &&Reject| r.method.as_bytes() == method && chance.hit(r.share);
        self.reject.iter().find(hit).map(|reject| reject.code)
    }

    /// When a publication has been worked off: one server with a fixed service
    /// time, a queue with a known knee.
    pub(super) fn worked_off(&mut self, now: Time) -> Time {
        let Some(rate) = self.capacity else { return now };
        self.busy = self.busy.max(now) + (1e9 / rate.max(0.001)) as u64;
        self.busy
    }

    /// What becomes of a notification about a publication that is worked off at `ready`.
    pub(super) fn telling(&mut self, now: Time, ready: Time) -> Telling {
        if self.chance.hit(self.lose_notify) {
            return Telling::Never;
        }
        let delay = self.notify_delay.map_or(0, |delay| delay.draw(&mut self.chance));
        let at = ready.max(now + delay);
        match self.hold_notify {
            Some(hold) => Telling::HeldUntil(at + hold.as_nanos() as u64),
            None => Telling::At(at),
        }
    }
}
