//! HdrHistograms with one constant range, their sums, and the one function
//! that reads percentiles.

use std::collections::BTreeMap;

use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

/// Smallest value in microseconds.
pub const LOWEST_US: u64 = 1;
/// Largest value in microseconds: one hour.
pub const HIGHEST_US: u64 = 3_600_000_000;
/// Significant decimal digits.
pub const DIGITS: u8 = 3;

const SUB_BITS: u32 = 11;
const HALF: u64 = 1 << (SUB_BITS - 1);
/// The last index of the counts array that a value can have.
pub const LAST_INDEX: u32 = index_of(HIGHEST_US);

/// The index of a value in the counts array of an HdrHistogram of this range.
#[must_use]
pub const fn index_of(us: u64) -> u32 {
    let bucket = (64 - SUB_BITS) - (us | (2 * HALF - 1)).leading_zeros();
    (((bucket as u64 + 1) << (SUB_BITS - 1)) + (us >> bucket) - HALF) as u32
}

/// The lowest value that shares this index, in microseconds.
#[must_use]
pub const fn lowest_at(index: u32) -> u64 {
    let index = index as u64;
    if index < 2 * HALF {
        return index;
    }
    let bucket = (index >> (SUB_BITS - 1)) - 1;
    ((index & (HALF - 1)) + HALF) << bucket
}

/// The highest value that shares this index, in microseconds.
#[must_use]
pub const fn highest_at(index: u32) -> u64 {
    lowest_at(index + 1) - 1
}

/// A histogram that keeps only the cells that hold something. Sums of them are
/// exact: counts are integers and nothing else is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    cells: BTreeMap<u32, u64>,
    count: u64,
}

/// A value that does not fit, or a cell that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HistogramError {
    /// Longer than the range.
    #[error("{0} µs is beyond the histogram's {HIGHEST_US} µs")]
    Overflow(u64),
    /// No such cell.
    #[error("index {0} is beyond the histogram's last, {LAST_INDEX}")]
    Index(u64),
    /// More samples than can be counted.
    #[error("the counts exceed what a run can have, 2^62 in all")]
    Count,
    /// Indexes and counts that do not belong together.
    #[error("{0} indexes and {1} counts")]
    Uneven(usize, usize),
}

/// A quantile as an exact number of billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantile(pub u64);

const BILLION: u64 = 1_000_000_000;

impl Quantile {
    /// From a fraction between 0 and 1, to nine digits.
    #[must_use]
    pub fn from_fraction(q: f64) -> Option<Quantile> {
        (0.0..=1.0).contains(&q).then(|| Quantile((q * BILLION as f64).round() as u64))
    }

    /// From the digits of `p99.9`, or `999` as in `p999`.
    #[must_use]
    pub fn from_percent(text: &str) -> Option<Quantile> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        if whole.is_empty()
            || !whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit())
            || part.len() > 7
        {
            return None;
        }
        let mut percent: u64 = whole.parse().ok()?;
        let mut scale = 10_000_000;
        // p999 is the usual way to write p99.9.
        if part.is_empty() && whole.len() > 2 && percent != 100 && whole.starts_with("99") {
            let extra = u32::try_from(whole.len()).ok()? - 2;
            if extra > 7 {
                return None;
            }
            scale /= 10u64.pow(extra);
        }
        percent = percent.checked_mul(scale)?;
        let fraction: u64 = if part.is_empty() { 0 } else { part.parse().ok()? };
        let fraction = fraction * 10u64.pow(7 - part.len() as u32);
        Some(Quantile(percent.checked_add(fraction)?)).filter(|q| q.0 <= BILLION)
    }

    /// As a fraction.
    #[must_use]
    pub fn fraction(self) -> f64 {
        self.0 as f64 / BILLION as f64
    }
}

/// What a percentile came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Percentile {
    /// Microseconds: the highest value equivalent to the one at the rank.
    Value(u64),
    /// The rank lies among those that never came.
    Censored,
    /// Fewer than ten samples lie above the rank: nothing can be said.
    TooFew,
}

impl Histogram {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Histogram::default()
    }

    /// Records `n` values of so many microseconds; 0 counts as 1 µs.
    ///
    /// # Errors
    /// [`HistogramError::Overflow`] beyond an hour.
    pub fn record_n(&mut self, us: u64, n: u64) -> Result<(), HistogramError> {
        if us > HIGHEST_US {
            return Err(HistogramError::Overflow(us));
        }
        self.add_cell(index_of(us.max(LOWEST_US)), n)
    }

    /// Records a latency, rounded up to the next microsecond.
    ///
    /// # Errors
    /// [`HistogramError::Overflow`] beyond an hour.
    pub fn record_ns(&mut self, ns: u64) -> Result<(), HistogramError> {
        self.record_n(ns.div_ceil(1_000), 1)
    }

    fn add_cell(&mut self, index: u32, n: u64) -> Result<(), HistogramError> {
        if index > LAST_INDEX {
            return Err(HistogramError::Index(u64::from(index)));
        }
        if n == 0 {
            return Ok(());
        }
        self.count = self.count.checked_add(n).ok_or(HistogramError::Count)?;
        *self.cells.entry(index).or_default() += n;
        Ok(())
    }

    /// Adds another one, cell by cell. That the sum fits is seen to where data come in:
    /// [`crate::raw::Raw::absorb`] and the readers of the files.
    pub fn add(&mut self, other: &Histogram) {
        for (index, n) in &other.cells {
            *self.cells.entry(*index).or_default() += n;
        }
        self.count = self.count.saturating_add(other.count);
    }

    /// Adds cells as they travel: the first index as it is, then differences.
    ///
    /// # Errors
    /// When a cell does not exist, or the lists differ in length; nothing is added then.
    pub fn add_sparse(&mut self, deltas: &[u32], counts: &[u64]) -> Result<(), HistogramError> {
        if deltas.len() != counts.len() {
            return Err(HistogramError::Uneven(deltas.len(), counts.len()));
        }
        let mut read = Histogram::new();
        let mut index = 0u64;
        for (delta, n) in deltas.iter().zip(counts) {
            index += u64::from(*delta);
            let cell = u32::try_from(index).map_err(|_| HistogramError::Index(index))?;
            read.add_cell(cell, *n)?;
        }
        self.count.checked_add(read.count).ok_or(HistogramError::Count)?;
        self.add(&read);
        Ok(())
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// True without any value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Index and count of every cell that holds something, in order.
    pub fn cells(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.cells.iter().map(|(index, n)| (*index, *n))
    }

    /// Smallest value in microseconds.
    #[must_use]
    pub fn min(&self) -> Option<u64> {
        self.cells.keys().next().map(|index| lowest_at(*index))
    }

    /// Largest value in microseconds.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        self.cells.keys().next_back().map(|index| highest_at(*index))
    }

    /// Mean in microseconds, cells standing for their middle.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0)
            .then(|| self.cells().map(|(i, n)| middle(i) * n as f64).sum::<f64>() / self.count as f64)
    }

    /// Standard deviation in microseconds.
    #[must_use]
    pub fn stddev(&self) -> Option<f64> {
        let mean = self.mean()?;
        let sum = self.cells().map(|(i, n)| (middle(i) - mean).powi(2) * n as f64).sum::<f64>();
        Some((sum / self.count as f64).sqrt())
    }

    /// The value at a quantile of all that was observed and all that never
    /// came: rank = ⌈q·(count + censored)⌉. `TooFew` unless ten samples lie above.
    #[must_use]
    pub fn percentile(&self, q: Quantile, censored: u64) -> Percentile {
        let total = u128::from(self.count) + u128::from(censored);
        if total * u128::from(BILLION - q.0) < 10 * u128::from(BILLION) {
            return Percentile::TooFew;
        }
        self.at_rank(q, censored)
    }

    /// As [`Histogram::percentile`], however few samples there are.
    #[must_use]
    pub fn at_rank(&self, q: Quantile, censored: u64) -> Percentile {
        let total = u128::from(self.count) + u128::from(censored);
        if total == 0 {
            return Percentile::TooFew;
        }
        let rank = (u128::from(q.0) * total).div_ceil(u128::from(BILLION)).max(1);
        let mut sum = 0u128;
        for (index, n) in &self.cells {
            sum += u128::from(*n);
            if sum >= rank {
                return Percentile::Value(highest_at(*index));
            }
        }
        Percentile::Censored
    }

    /// In HdrHistogram's V2 format, deflated.
    ///
    /// # Errors
    /// Those of the format's writer.
    pub fn to_v2_deflate(&self) -> Result<Vec<u8>, String> {
        let mut plain = hdrhistogram::Histogram::<u64>::new_with_bounds(LOWEST_US, HIGHEST_US, DIGITS)
            .map_err(|e| e.to_string())?;
        for (index, n) in self.cells() {
            plain.record_n(lowest_at(index).max(LOWEST_US), n).map_err(|e| e.to_string())?;
        }
        let mut out = Vec::new();
        V2DeflateSerializer::new().serialize(&plain, &mut out).map_err(|e| format!("{e:?}"))?;
        Ok(out)
    }

    /// Reads that format.
    ///
    /// # Errors
    /// When it is not that format, or of another range.
    pub fn from_v2_deflate(bytes: &[u8]) -> Result<Self, String> {
        let plain: hdrhistogram::Histogram<u64> =
            Deserializer::new().deserialize(&mut &*bytes).map_err(|e| format!("{e:?}"))?;
        if (plain.low(), plain.high(), plain.sigfig()) != (LOWEST_US, HIGHEST_US, DIGITS) {
            return Err(format!(
                "a histogram from {} to {} with {} digits",
                plain.low(),
                plain.high(),
                plain.sigfig()
            ));
        }
        let mut read = Histogram::new();
        for cell in plain.iter_recorded() {
            read.record_n(plain.lowest_equivalent(cell.value_iterated_to()), cell.count_at_value())
                .map_err(|e| e.to_string())?;
        }
        Ok(read)
    }
}

fn middle(index: u32) -> f64 {
    (lowest_at(index) + highest_at(index)) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_are_exact_numbers() {
        assert_eq!(Quantile::from_percent("99.9"), Some(Quantile(999_000_000)));
        assert_eq!(Quantile::from_percent("999"), Some(Quantile(999_000_000)));
        assert_eq!(Quantile::from_percent("9999"), Some(Quantile(999_900_000)));
        assert_eq!(Quantile::from_percent("50"), Some(Quantile(500_000_000)));
        assert_eq!(Quantile::from_percent("100"), Some(Quantile(BILLION)));
        assert_eq!(Quantile::from_percent("101"), None);
        assert_eq!(Quantile::from_fraction(0.999), Some(Quantile(999_000_000)));
    }

    proptest! {
        #[test]
        fn cells_are_those_of_hdrhistogram(us in 1u64..=HIGHEST_US) {
            let plain = hdrhistogram::Histogram::<u64>::new_with_bounds(LOWEST_US, HIGHEST_US, DIGITS).unwrap();
            let index = index_of(us);
            prop_assert_eq!(lowest_at(index), plain.lowest_equivalent(us));
            prop_assert_eq!(highest_at(index), plain.highest_equivalent(us));
        }

        #[test]
        fn the_file_format_keeps_every_cell(values in prop::collection::vec((1u64..=HIGHEST_US, 1u64..1000), 0..60)) {
            let mut histogram = Histogram::new();
            for (us, n) in values {
                histogram.record_n(us, n).unwrap();
            }
            let bytes = histogram.to_v2_deflate().unwrap();
            prop_assert_eq!(Histogram::from_v2_deflate(&bytes).unwrap(), histogram);
        }

        /// Against sorting everything, with those that never came at the end.
        #[test]
        fn percentiles_are_ranks(
            mut values in prop::collection::vec(1u64..2000, 1..300),
            censored in 0u64..50,
            q in 0u64..=BILLION,
        ) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|us| histogram.record_n(*us, 1).unwrap());
            values.sort_unstable();
            let total = values.len() as u128 + u128::from(censored);
            let rank = ((u128::from(q) * total).div_ceil(u128::from(BILLION)) as usize).max(1);
            let expected = values.get(rank - 1).map_or(Percentile::Censored, |us| Percentile::Value(*us));
            prop_assert_eq!(histogram.at_rank(Quantile(q), censored), expected);
        }
    }
}
