//! What one repetition measured, and what several of them come to.

use crate::process::Cpu;

/// One repetition of one generator.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// CPU time of the generator: every process and thread, from its start to its end.
    pub cpu: Cpu,
    /// How often its threads went to sleep to wait for something.
    pub waits: u64,
    /// CPU time of the threads that make the load, by their own clocks; adsum only.
    pub shards_s: Option<f64>,
    /// CPU time of all processes of the server meanwhile.
    pub server: Cpu,
    /// Whole pairs that were asked for, and that went through.
    pub pairs_wanted: u64,
    pub pairs: u64,
    /// Messages sent and received as the generator counts them, retransmissions
    /// included, without what adsum's readiness sends.
    pub messages: u64,
    /// Those of them that adsum books to the hold.
    pub messages_hold: u64,
    /// Messages of readiness: they are in no other figure, but their CPU time is.
    pub messages_ready: u64,
    pub retransmissions: u64,
    /// Datagrams that this machine lost meanwhile; none where the load is no datagrams.
    pub drops: u64,
    /// From the first arrival to the last.
    pub seconds: f64,
    /// Why this is no measurement.
    pub refused: Vec<String>,
}

impl Sample {
    pub fn is_good(&self) -> bool {
        self.refused.is_empty()
    }

    pub fn us_per_message(&self) -> f64 {
        self.cpu.total() * 1e6 / self.messages as f64
    }

    pub fn waits_per_message(&self) -> f64 {
        self.waits as f64 / self.messages as f64
    }

    pub fn s_per_1000_pairs(&self) -> f64 {
        self.cpu.total() * 1e3 / self.pairs as f64
    }

    pub fn server_s_per_1000_pairs(&self) -> f64 {
        self.server.total() * 1e3 / self.pairs as f64
    }

    pub fn messages_per_pair(&self) -> f64 {
        self.messages as f64 / self.pairs as f64
    }

    pub fn pairs_per_s(&self) -> f64 {
        self.pairs as f64 / self.seconds
    }

    /// What spoils any repetition, of whichever generator.
    pub fn judge(&mut self) {
        if self.drops > 0 {
            self.refused.push(format!("{} datagrams were lost to full receive buffers", self.drops));
        }
        if self.pairs != self.pairs_wanted {
            self.refused.push(format!("{} of {} pairs went through", self.pairs, self.pairs_wanted));
        }
    }
}

/// Median with the smallest and the largest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

/// `None` without values.
pub fn spread(values: impl Iterator<Item = f64>) -> Option<Spread> {
    let mut sorted: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (first, last) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median =
        if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
    Some(Spread { median, min: first, max: last })
}

/// The spread of one figure over the good ones among the samples.
pub fn good(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> Option<Spread> {
    spread(samples.iter().filter(|sample| sample.is_good()).map(figure))
}

/// Two generators are compared only if they exchanged the same messages, to one in a thousand.
pub fn comparable(ours: f64, theirs: f64) -> bool {
    (ours - theirs).abs() <= theirs.abs() * 0.001
}

/// A figure to as many digits as mean something.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}–{})", figure(self.median), figure(self.min), figure(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        let of = |values: &[f64]| spread(values.iter().copied());
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_repetition_with_drops_or_missing_pairs_counts_nowhere() {
        let clean = Sample { pairs_wanted: 10, pairs: 10, messages: 380, ..Sample::default() };
        let mut samples = vec![clean.clone(); 3];
        samples[0].drops = 1;
        samples[1].pairs = 9;
        samples.iter_mut().for_each(Sample::judge);
        assert_eq!(samples.iter().map(Sample::is_good).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(good(&samples, Sample::messages_per_pair).unwrap().median, 38.0);
    }

    #[test]
    fn one_message_in_a_thousand_may_differ() {
        assert!(comparable(38.0, 38.0) && comparable(38.03, 38.0));
        assert!(!comparable(38.1, 38.0) && !comparable(22.0, 38.0));
    }
}
