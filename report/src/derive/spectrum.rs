//! The whole distribution of a hold: `spectrum.csv`, and the curve in the report.

use super::Series;
use crate::files::csv_bytes;
use crate::histogram::Histogram;
use crate::manifest::{Manifest, SCHEMA_VERSION};
use crate::names::Phase;
use crate::print;

/// One point of a latency spectrum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Microseconds.
    pub us: u64,
    /// Share of all that was observed or censored at or below it.
    pub quantile: f64,
    /// Samples at or below it.
    pub cumulative: u64,
}

/// Five points for every halving of what lies above, as HdrHistogram's own plots have them.
#[must_use]
pub fn spectrum_points(histogram: &Histogram, censored: u64) -> Vec<Point> {
    let total = histogram.count() + censored;
    let mut points = Vec::new();
    let (mut sum, mut level) = (0u64, 0f64);
    for (index, n) in histogram.cells() {
        sum += n;
        let quantile = sum as f64 / total as f64;
        if quantile >= level || sum == histogram.count() {
            points.push(Point { us: crate::histogram::highest_at(index), quantile, cumulative: sum });
            if sum == histogram.count() {
                break;
            }
            // Up to the first level beyond: each halving of what lies above has five.
            while level <= quantile {
                let halvings = (1.0 / (1.0 - level)).log2().floor();
                level += 1.0 / (5.0 * 2f64.powf(halvings + 1.0));
            }
        }
    }
    points
}

/// `spectrum.csv`: every hold.
#[must_use]
pub fn spectrum(manifest: &Manifest, series: &[Series]) -> Vec<u8> {
    let header = [
        "schema_version",
        "run_id",
        "step",
        "step_name",
        "site",
        "metric",
        "base",
        "value_s",
        "quantile",
        "cumulative_count",
        "inverse_tail",
    ];
    let rows = series.iter().filter(|s| s.phase == Phase::Hold).flat_map(|s| {
        spectrum_points(&s.histogram, s.censored).into_iter().map(move |p| {
            vec![
                SCHEMA_VERSION.to_string(),
                manifest.run_id.clone(),
                s.step.to_string(),
                manifest.step_name(s.step).to_owned(),
                s.site.clone(),
                s.metric.name().to_owned(),
                s.base.name().to_owned(),
                print::seconds(p.us),
                format!("{:.9}", p.quantile),
                p.cumulative.to_string(),
                if p.quantile < 1.0 { format!("{:.3}", 1.0 / (1.0 - p.quantile)) } else { "inf".to_owned() },
            ]
        })
    });
    csv_bytes(&header, rows)
}
