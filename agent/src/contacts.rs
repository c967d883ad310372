//! The contact graph of a shard: how many subscribers each publisher has, and
//! which, drawn from the seed.
//!
//! Every user publishes and subscribes. The number of subscribers of a
//! publisher follows a distribution over whole numbers whose mean is the one
//! asked for, not only roughly: what is free in each (the exponent of Zipf's
//! law, the location of the log-normal one) is solved for it. The subscribers
//! are distinct and drawn without repetition, by a seeded permutation.

use adsum_presence::contacts::{Contacts, Graph};
use adsum_sip::ids::mix;

use crate::pace::Permutation;

/// More subscribers of one publisher than this are no contact list.
pub const MAX_FAN_OUT: u32 = 10_000;
/// Sigma of the log-normal distribution's logarithm.
const SIGMA: f64 = 1.0;
/// Edges of one shard: numbers of 32 bits, with room to spare.
const MAX_EDGES: u64 = 1 << 31;

/// How the numbers of subscribers are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// All the same; of a broken mean some have one more.
    Constant,
    /// Each number from 2·mean − max to max as often.
    Uniform,
    /// k subscribers in proportion to k^−s, from 1 to max.
    Zipf,
    /// By the density of the log-normal distribution with sigma 1, from 1 to max.
    LogNormal,
}

/// What a scenario asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FanOut {
    /// Its kind.
    pub distribution: Distribution,
    /// Mean number of subscribers, in thousandths.
    pub mean_milli: u64,
    /// Most subscribers of one publisher.
    pub max: u32,
}

/// A fan-out that cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FanOutError {
    /// Mean and maximum do not go together.
    #[error("a {0:?} fan-out with mean {mean} and max {max} does not exist: {2}", mean = *.1 as f64 / 1000.0, max = .3)]
    Impossible(Distribution, u64, &'static str, u32),
    /// Too few users.
    #[error(
        "max = {max} subscribers of one publisher need more users than the {users} of a shard: give more users, a smaller max, or fewer shards"
    )]
    TooFewUsers {
        /// What was asked for.
        max: u32,
        /// What is there.
        users: u32,
    },
    /// More than a shard can hold.
    #[error("{edges} subscriptions on one shard, at most {MAX_EDGES} can be: use more agents")]
    TooManyEdges {
        /// What was drawn.
        edges: u64,
    },
}

impl FanOut {
    /// Shares of 0, 1, …, max subscribers, added up.
    ///
    /// # Errors
    /// [`FanOutError::Impossible`].
    fn cumulated(&self) -> Result<Vec<f64>, FanOutError> {
        let impossible = |why| FanOutError::Impossible(self.distribution, self.mean_milli, why, self.max);
        let (mean, max) = (self.mean_milli as f64 / 1000.0, f64::from(self.max));
        if self.max == 0 || self.max > MAX_FAN_OUT || mean <= 0.0 || mean > max {
            return Err(impossible("0 < mean <= max <= 10000 is what can be"));
        }
        let whole = 0..=self.max;
        let mut shares: Vec<f64> = match self.distribution {
            Distribution::Constant => {
                let (low, part) = (mean.floor(), mean.fract());
                whole
                    .map(|k| match f64::from(k) - low {
                        0.0 => 1.0 - part,
                        1.0 => part,
                        _ => 0.0,
                    })
                    .collect()
            }
            Distribution::Uniform => {
                let low = 2.0 * mean - max;
                if low < 0.0 || low.fract() != 0.0 {
                    return Err(impossible("2·mean − max has to be a whole number, 0 or more"));
                }
                whole.map(|k| if f64::from(k) >= low { 1.0 } else { 0.0 }).collect()
            }
            Distribution::Zipf => {
                if mean < 1.0 || mean > (max + 1.0) / 2.0 {
                    return Err(impossible("the mean lies between 1 and (max + 1) / 2"));
                }
                // The mean falls as the exponent rises.
                solved(mean, self.max, -60.0, 0.0, |k, s| k.powf(s))
            }
            Distribution::LogNormal => {
                // Above the middle there is no location that gives the mean.
                if mean < 1.0 || mean > (max + 1.0) / 2.0 {
                    return Err(impossible("the mean lies between 1 and (max + 1) / 2"));
                }
                let top = max.ln() + 60.0;
                // The density without the factor that depends on mu alone: far off it would make all of them 0.
                let variance = SIGMA * SIGMA;
                solved(mean, self.max, -60.0, top, |k, mu| {
                    ((mu / variance - 1.0) * k.ln() - k.ln().powi(2) / (2.0 * variance)).exp()
                })
            }
        };
        let total: f64 = shares.iter().sum();
        let mut sum = 0.0;
        for share in &mut shares {
            sum += *share / total;
            *share = sum;
        }
        Ok(shares)
    }

    /// Draws the graph of `users` users.
    ///
    /// # Errors
    /// [`FanOutError`].
    pub fn draw(&self, users: u32, seed: u64) -> Result<Contacts, FanOutError> {
        let cumulated = self.cumulated()?;
        if users == 0 {
            return Ok(Contacts::Graph(Graph::default()));
        }
        if self.max >= users {
            return Err(FanOutError::TooFewUsers { max: self.max, users });
        }
        let fan_out = |publisher: u32| {
            let unit = (mix(seed ^ mix(u64::from(publisher))) >> 11) as f64 / (1u64 << 53) as f64;
            (cumulated.partition_point(|sum| *sum <= unit) as u32).min(self.max)
        };
        let edges: u64 = (0..users).map(|publisher| u64::from(fan_out(publisher))).sum();
        if edges > MAX_EDGES {
            return Err(FanOutError::TooManyEdges { edges });
        }
        let graph = Graph::new(users, || {
            (0..users).flat_map(|publisher| {
                // A permutation of the others: distinct subscribers without a table.
                let order =
                    Permutation::new(u64::from(users) - 1, mix(seed.rotate_left(17) ^ u64::from(publisher)));
                (0..fan_out(publisher)).map(move |nth| {
                    let other = order.at(u64::from(nth)) as u32;
                    (if other < publisher { other } else { other + 1 }, publisher)
                })
            })
        });
        Ok(Contacts::Graph(graph))
    }
}

/// Shares of 0 to `max` by weights that depend on a parameter, which is solved
/// so that they have the mean; the mean rises with the parameter.
fn solved(mean: f64, max: u32, mut low: f64, mut high: f64, weight: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let mean_at = |parameter: f64| {
        let (mut sum, mut total) = (0.0, 0.0);
        for k in 1..=max {
            let weight = weight(f64::from(k), parameter);
            sum += weight * f64::from(k);
            total += weight;
        }
        sum / total
    };
    // Halved until neighbours of f64 are reached.
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        // Weights that all vanish say nothing: the parameter is far too small.
        let found = mean_at(middle);
        if found.is_nan() || found < mean { low = middle } else { high = middle }
    }
    std::iter::once(0.0).chain((1..=max).map(|k| weight(f64::from(k), high))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn fan_outs(contacts: &Contacts) -> HashMap<u32, u32> {
        let mut counts = HashMap::new();
        for edge in 0..contacts.edges() {
            *counts.entry(contacts.edge(edge).unwrap().1).or_insert(0) += 1;
        }
        counts
    }

    #[test]
    fn every_distribution_has_its_mean_and_keeps_its_maximum() {
        for (distribution, mean_milli, max) in [
            (Distribution::Constant, 2_500, 3),
            (Distribution::Constant, 10_000, 10),
            (Distribution::Uniform, 50_000, 80),
            (Distribution::Zipf, 12_000, 1_000),
            (Distribution::Zipf, 1_000, 50),
            (Distribution::LogNormal, 65_000, 400),
            (Distribution::LogNormal, 1_500, 10),
            (Distribution::LogNormal, 1_000, 10),
            (Distribution::LogNormal, 500_500, 1_000),
        ] {
            let fan_out = FanOut { distribution, mean_milli, max };
            let cumulated = fan_out.cumulated().unwrap();
            let mut before = 0.0;
            let mut mean = 0.0;
            for (k, sum) in cumulated.iter().enumerate() {
                mean += k as f64 * (sum - before);
                before = *sum;
            }
            let wanted = mean_milli as f64 / 1000.0;
            assert!((mean - wanted).abs() < 1e-6, "{fan_out:?}: {mean}");
            let contacts = fan_out.draw(4_000, 7).unwrap();
            let counts = fan_outs(&contacts);
            assert!(counts.values().all(|count| *count <= max), "{fan_out:?}");
            let drawn = f64::from(contacts.edges()) / 4_000.0;
            assert!((drawn / wanted - 1.0).abs() < 0.15, "{fan_out:?}: drew {drawn}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        let draw = |distribution, mean_milli, max, users| {
            FanOut { distribution, mean_milli, max }.draw(users, 1).unwrap_err().to_string()
        };
        assert!(draw(Distribution::Uniform, 10_000, 50, 100).contains("2·mean − max"));
        assert!(draw(Distribution::Zipf, 60_000, 100, 1_000).contains("(max + 1) / 2"));
        assert!(draw(Distribution::LogNormal, 9_900, 10, 1_000).contains("(max + 1) / 2"));
        assert!(draw(Distribution::Constant, 5_000, 4, 100).contains("mean 5 and max 4"));
        assert!(draw(Distribution::Constant, 5_000, 5, 5).contains("the 5 of a shard"));
    }

    proptest! {
        /// Nobody watches itself or somebody twice, and the seed decides everything.
        #[test]
        fn subscribers_are_distinct_others(users in 3u32..300, seed: u64, mean in 1u64..3) {
            let fan_out =
                FanOut { distribution: Distribution::Constant, mean_milli: mean * 700, max: 2.min(users - 1) };
            let drawn = fan_out.draw(users, seed).unwrap();
            let mut edges: Vec<_> = (0..drawn.edges()).map(|edge| drawn.edge(edge).unwrap()).collect();
            prop_assert!(edges.iter().all(|(a, b)| a != b && *a < users && *b < users));
            let before = edges.len();
            edges.sort_unstable();
            edges.dedup();
            prop_assert_eq!(edges.len(), before);
            prop_assert_eq!(fan_out.draw(users, seed).unwrap(), drawn);
        }
    }
}
