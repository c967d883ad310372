//! Histograms and counters as files: write, read, derive, verify, render.
//!
//! What agents recorded is added up in [`Raw`]. Four raw files hold it
//! ([`files`]); everything else is derived from them and from nothing else, so
//! that [`rederive`] writes the same bytes again. Nothing is averaged on the
//! way: histograms are added, and percentiles are read last.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`names`] | metrics, bases, phases, classes |
//! | [`histogram`] | sums of histograms, and the one function for percentiles |
//! | [`raw`], [`manifest`] | what was recorded, and what the run was |
//! | [`files`] | the raw files |
//! | [`derive`], [`summary`], [`html`] | the derived ones |
//! | [`threshold`], [`trust`], [`verdict`] | what is judged, whether to believe it, and the answer |
//! | [`log_on`] | how long it took until everybody had what they need |
//! | [`headroom`] | how far the engine was from its limits |
//! | [`verify`] | whether a directory agrees with itself |
//! | [`explain`] | words, codes and counters for people |

pub mod derive;
pub mod explain;
pub mod files;
pub mod headroom;
pub mod histogram;
pub mod html;
pub mod log_on;
pub mod manifest;
pub mod names;
pub mod print;
pub mod raw;
pub mod summary;
pub mod threshold;
pub mod trust;
pub mod verdict;
pub mod verify;

use std::path::Path;

pub use files::FileError;
pub use histogram::Histogram;
pub use manifest::Manifest;
pub use names::{Base, Class, Metric, Phase};
pub use raw::{Interval, Raw};
pub use verdict::Verdict;

/// The derived files of a run.
#[derive(Debug)]
pub struct Derived {
    /// Name and bytes of each.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// What the run came to.
    pub verdict: Verdict,
    /// The text of `summary.txt`.
    pub summary: String,
}

/// Derives everything from what was recorded.
#[must_use]
pub fn derived(raw: &Raw, manifest: &Manifest) -> Derived {
    let verdict = verdict::judge(raw, manifest);
    let series = derive::all_series(raw);
    let summary = summary::text(raw, manifest, &series, &verdict);
    let files = vec![
        ("run.csv", derive::run(raw, manifest, &verdict)),
        ("steps.csv", derive::steps(raw, manifest, &series)),
        ("percentiles.csv", derive::percentiles(manifest, &series)),
        ("intervals.csv", derive::intervals(raw, manifest, i64::from(manifest.interval_s.max(1)))),
        ("agents.csv", derive::agents(raw, manifest)),
        ("thresholds.csv", derive::thresholds(manifest, &verdict)),
        ("counters.csv", derive::counters(raw, manifest)),
        ("spectrum.csv", derive::spectrum(manifest, &series)),
        ("summary.json", summary::json(raw, manifest, &series, &verdict)),
        ("report.html", html::report(raw, manifest, &series, &verdict, &summary).into_bytes()),
        ("summary.txt", summary.clone().into_bytes()),
    ];
    Derived { files, verdict, summary }
}

/// Writes a whole results directory: raw files, verdict, derived files.
///
/// # Errors
/// [`FileError`]; raw files that were written before it stay.
pub fn write(dir: &Path, raw: &mut Raw, manifest: &mut Manifest) -> Result<Derived, FileError> {
    // Judged before the manifest is written, since the verdict stands in it.
    let verdict = verdict::judge(raw, manifest);
    manifest.verdict = verdict.word.to_owned();
    manifest.exit_code = verdict.exit_code;
    manifest.exit_codes = verdict.codes.clone();
    manifest.reasons = verdict.reasons.clone();
    files::write_raw(dir, raw, manifest)?;
    // From the files, not from memory: what is derived now is what will be derived later.
    rederive(dir)
}

/// Writes the derived files again from the raw ones.
///
/// # Errors
/// [`FileError`].
pub fn rederive(dir: &Path) -> Result<Derived, FileError> {
    let (raw, manifest) = files::read_raw(dir)?;
    let derived = derived(&raw, &manifest);
    for (name, bytes) in &derived.files {
        files::write_whole(dir, name, bytes)?;
    }
    Ok(derived)
}
