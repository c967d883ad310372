//! The schedule: when each arrival is due, exactly, and whose it is.
//!
//! The arrivals exist before the run. They follow from rates and seed alone,
//! so every shard of every agent walks the same schedule and carries out what
//! it owns: the merged arrivals are the same instants and users for any number
//! of agents and shards. Nothing here knows what time it is.
//!
//! Constant arrivals are integer arithmetic: arrival `k` of a hold lies
//! `k / rate` after its beginning, without drift. Ramps and Poisson arrivals
//! invert the integral of the rate: the arrival number `n` (or, for Poisson,
//! the `n`-th point of a unit-rate process) lies where the integral reaches it.

use adsum_presence::host::{Phase, Stage};
use adsum_sip::ids::mix;

/// One step, as the schedule sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Thousandths of an arrival per second.
    pub rate_mhz: u64,
    /// Nanoseconds of the linear ramp from the previous rate.
    pub ramp_ns: u64,
    /// Nanoseconds at the rate.
    pub hold_ns: u64,
}

/// How arrivals are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly.
    Constant,
    /// Independently of one another.
    Poisson,
}

/// One arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Its number, from 0.
    pub k: u64,
    /// Nanoseconds from the start.
    pub at: u64,
    /// Step and phase of that instant.
    pub stage: Stage,
}

/// A stretch with one law of the rate.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    stage: Stage,
    begin: u64,
    length: u64,
    from: u64,
    to: u64,
}

impl Stretch {
    /// Arrivals within it: ramps round down, holds round to the nearest.
    fn count(&self) -> u64 {
        // mHz · ns = 10⁻¹² arrivals.
        let doubled = u128::from(self.from + self.to) * u128::from(self.length);
        let half = if self.from == self.to { 1_000_000_000_000 } else { 0 };
        ((doubled + half) / 2_000_000_000_000) as u64
    }

    /// The instant within it at which the integral of the rate reaches `n`.
    fn invert(&self, n: f64) -> u64 {
        let (from, to) = (self.from as f64 / 1e12, self.to as f64 / 1e12);
        let length = self.length as f64;
        let slope = (to - from) / length;
        // n = from·t + slope·t²/2, in the form that does not cancel for small slopes.
        let root = (from * from + 2.0 * slope * n).max(0.0).sqrt();
        let t = if from + root > 0.0 { 2.0 * n / (from + root) } else { 0.0 };
        (t as u64).min(self.length.saturating_sub(1))
    }
}

/// All arrivals of a run, in order.
#[derive(Debug, Clone)]
pub struct Schedule {
    stretches: Vec<Stretch>,
    arrivals: Arrivals,
    seed: u64,
    at: usize,
    /// Arrivals of the current stretch that were given out.
    given: u64,
    k: u64,
    /// Poisson: where the unit-rate process stands, and the integral at the
    /// beginning of the current stretch.
    point: f64,
    base: f64,
}

impl Schedule {
    /// The schedule of these steps.
    #[must_use]
    pub fn new(steps: &[Step], arrivals: Arrivals, seed: u64) -> Self {
        let mut stretches = Vec::with_capacity(steps.len() * 2);
        let (mut begin, mut before) = (0, 0);
        for (at, step) in steps.iter().enumerate() {
            let number = (at + 1) as u16;
            for (phase, length, from) in
                [(Phase::Ramp, step.ramp_ns, before), (Phase::Hold, step.hold_ns, step.rate_mhz)]
            {
                if length > 0 {
                    let stage = Stage { step: number, phase };
                    stretches.push(Stretch { stage, begin, length, from, to: step.rate_mhz });
                    begin += length;
                }
            }
            before = step.rate_mhz;
        }
        let mut schedule =
            Schedule { stretches, arrivals, seed, at: 0, given: 0, k: 0, point: 0.0, base: 0.0 };
        schedule.point = schedule.gap();
        schedule
    }

    /// Nanoseconds from the start to the end of the last hold.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.stretches.last().map_or(0, |s| s.begin + s.length)
    }

    /// The stage of an instant; `None` after the end.
    #[must_use]
    pub fn stage_at(&self, at: u64) -> Option<Stage> {
        self.stretches.iter().find(|s| at < s.begin + s.length).map(|s| s.stage)
    }

    /// The first instant after `at` at which the stage changes.
    #[must_use]
    pub fn next_change(&self, at: u64) -> Option<u64> {
        self.stretches.iter().map(|s| s.begin + s.length).find(|end| *end > at)
    }

    /// A gap of the unit-rate Poisson process: −ln U, U from the seed and the arrival's number.
    fn gap(&self) -> f64 {
        let bits = mix(self.seed ^ mix(self.k)) >> 11;
        -(((bits + 1) as f64) / (1u64 << 53) as f64).ln()
    }

    fn next_constant(&mut self) -> Option<Arrival> {
        loop {
            let stretch = self.stretches.get(self.at)?;
            if self.given >= stretch.count() {
                self.at += 1;
                self.given = 0;
                continue;
            }
            let n = self.given;
            self.given += 1;
            let within = if stretch.from == stretch.to {
                (u128::from(n) * 1_000_000_000_000 / u128::from(stretch.to)) as u64
            } else {
                // The middle of its share of the integral, so that no ramp begins with a burst.
                stretch.invert(n as f64 + 0.5)
            };
            return Some(self.give(stretch.begin + within, stretch.stage));
        }
    }

    fn next_poisson(&mut self) -> Option<Arrival> {
        loop {
            let stretch = self.stretches.get(self.at)?;
            let area = (stretch.from + stretch.to) as f64 / 2.0 * stretch.length as f64 / 1e12;
            let n = self.point - self.base;
            if n >= area {
                self.base += area;
                self.at += 1;
                continue;
            }
            let (at, stage) = (stretch.begin + stretch.invert(n), stretch.stage);
            let arrival = self.give(at, stage);
            self.point += self.gap();
            return Some(arrival);
        }
    }

    fn give(&mut self, at: u64, stage: Stage) -> Arrival {
        let arrival = Arrival { k: self.k, at, stage };
        self.k += 1;
        arrival
    }
}

impl Iterator for Schedule {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        match self.arrivals {
            Arrivals::Constant => self.next_constant(),
            Arrivals::Poisson => self.next_poisson(),
        }
    }
}

/// A seeded permutation of `0..size` without a table: a balanced Feistel
/// network over the next power of four, walked until it falls inside.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    size: u64,
    half_bits: u32,
    seed: u64,
}

impl Permutation {
    /// A permutation of `0..size`.
    #[must_use]
    pub fn new(size: u64, seed: u64) -> Self {
        let bits = 64 - size.saturating_sub(1).leading_zeros();
        Permutation { size, half_bits: bits.div_ceil(2).max(1), seed }
    }

    /// Where `index` (below the size) goes.
    #[must_use]
    pub fn at(&self, index: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let mut value = index;
        loop {
            let (mut left, mut right) = (value >> self.half_bits, value & mask);
            for round in 0..4 {
                (left, right) = (right, left ^ (mix(self.seed ^ (round << 56) ^ right) & mask));
            }
            value = left << self.half_bits | right;
            if value < self.size {
                return value;
            }
        }
    }
}

/// Which users of the run are this shard's, and by which local number.
#[derive(Debug, Clone)]
pub struct Ownership {
    /// For each pair of the run its local number, or `NOT_OURS`.
    local: Vec<u32>,
    /// Publishers of each pair: its first user, or both.
    each: u64,
    order: Option<Permutation>,
}

const NOT_OURS: u32 = u32::MAX;

impl Ownership {
    /// `ours` are the run's numbers of our pairs in local order, of each pair
    /// `each` users publish; `shuffled` for held runs, where publishers take
    /// turns in a seeded order.
    #[must_use]
    pub fn new(total: u64, ours: &[u32], each: u32, shuffled: Option<u64>) -> Self {
        let mut local = vec![NOT_OURS; total as usize];
        for (at, pair) in ours.iter().enumerate() {
            if let Some(slot) = local.get_mut(*pair as usize) {
                *slot = at as u32;
            }
        }
        let each = u64::from(each.clamp(1, 2));
        Ownership { local, each, order: shuffled.map(|seed| Permutation::new(total * each, seed)) }
    }

    /// Our publisher for arrival `k`, if it is ours: publisher k mod P, or the
    /// k-th of the seeded order. The first user of local pair n is 2n.
    #[inline]
    #[must_use]
    pub fn publisher(&self, k: u64) -> Option<u32> {
        let total = self.local.len() as u64 * self.each;
        if total == 0 {
            return None;
        }
        let turn = k % total;
        let publisher = self.order.map_or(turn, |order| order.at(turn));
        let local = *self.local.get((publisher / self.each) as usize)?;
        (local != NOT_OURS).then(|| local * 2 + (publisher % self.each) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn steps() -> Vec<Step> {
        vec![
            Step { rate_mhz: 100_000, ramp_ns: 0, hold_ns: 2 * SECOND },
            Step { rate_mhz: 300_000, ramp_ns: SECOND, hold_ns: SECOND },
        ]
    }

    #[test]
    fn constant_arrivals_are_exact() {
        let all: Vec<_> = Schedule::new(&steps(), Arrivals::Constant, 1).collect();
        assert_eq!(all.len(), 200 + 200 + 300);
        assert_eq!((all[1].at, all[199].at), (10_000_000, 1_990_000_000));
        assert!(all.windows(2).all(|w| w[0].at <= w[1].at));
        assert!(all[200..400].iter().all(|a| a.stage == Stage { step: 2, phase: Phase::Ramp }));
        // Half of the time holds 150 of the ramp's 200 arrivals at most.
        let early = all[200..400].iter().filter(|a| a.at < 2_500_000_000).count();
        assert_eq!(early, 75);
    }

    #[test]
    fn a_rate_that_does_not_divide_does_not_drift() {
        let step = Step { rate_mhz: 3_000, ramp_ns: 0, hold_ns: 1_000 * SECOND };
        let last = Schedule::new(&[step], Arrivals::Constant, 1).last().unwrap();
        assert_eq!((last.k, last.at), (2_999, 999_666_666_666));
    }

    #[test]
    fn poisson_has_the_mean_and_the_variance_of_one() {
        let step = Step { rate_mhz: 1_000_000, ramp_ns: 0, hold_ns: 200 * SECOND };
        let mut per_second = vec![0f64; 200];
        for arrival in Schedule::new(&[step], Arrivals::Poisson, 7) {
            per_second[(arrival.at / SECOND) as usize] += 1.0;
        }
        let mean = per_second.iter().sum::<f64>() / 200.0;
        let variance = per_second.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 199.0;
        assert!((mean - 1000.0).abs() < 10.0, "{mean}");
        assert!((variance / mean - 1.0).abs() < 0.4, "{variance}");
    }

    proptest! {
        #[test]
        fn a_permutation_is_one(size in 1u64..2_000, seed: u64) {
            let order = Permutation::new(size, seed);
            let mut seen: Vec<u64> = (0..size).map(|i| order.at(i)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..size).collect::<Vec<_>>());
        }

        /// Whatever the shards, each arrival has exactly one owner, and it is
        /// the same user.
        #[test]
        fn every_arrival_has_one_owner(
            total in 1u64..200,
            shards in 1u64..9,
            each in 1u32..3,
            seed: u64,
            held: bool,
        ) {
            let shuffled = held.then_some(seed);
            let whole = Ownership::new(total, &(0..total as u32).collect::<Vec<_>>(), each, shuffled);
            let parts: Vec<(Vec<u32>, Ownership)> = (0..shards)
                .map(|s| (0..total as u32).filter(|p| u64::from(*p) % shards == s).collect::<Vec<_>>())
                .map(|ours| (ours.clone(), Ownership::new(total, &ours, each, shuffled)))
                .collect();
            for k in 0..3 * total {
                let owners: Vec<u32> = parts
                    .iter()
                    .filter_map(|(ours, part)| {
                        part.publisher(k).map(|local| ours[local as usize / 2] * 2 + local % 2)
                    })
                    .collect();
                prop_assert_eq!(owners, vec![whole.publisher(k).unwrap()]);
            }
        }
    }
}
