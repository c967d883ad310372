//! The four raw files, written and read. Everything else is derived from them.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

use crate::histogram::Histogram;
use crate::manifest::{Manifest, SCHEMA_VERSION};
use crate::names::{Base, Class, Metric, Phase};
use crate::print;
use crate::raw::{FailureSum, Raw};

/// Histograms.
pub const HLOG: &str = "run.hlog";
/// Counters.
pub const TIMELINE: &str = "timeline.csv";
/// Failures.
pub const FAILURES: &str = "failures.csv";
/// The run.
pub const MANIFEST: &str = "manifest.json";

/// A results directory that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// A line that cannot be read.
    #[error("{file}, line {line}: {message}")]
    Line {
        /// Which file.
        file: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// The directory is taken.
    #[error(
        "{0} exists and is not empty: name another one with --out, or --force to replace results of adsum"
    )]
    Taken(PathBuf),
    /// No results are there.
    #[error("{0} holds no results of adsum: it has no {MANIFEST}")]
    NoResults(PathBuf),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FileError + '_ {
    move |error| FileError::Io(path.to_owned(), error)
}

/// Makes sure that a directory can be written to: absent or empty, or with
/// `force` one that holds results of ours, which are removed.
///
/// # Errors
/// [`FileError::Taken`] and those of the file system.
pub fn prepare(dir: &Path, force: bool) -> Result<(), FileError> {
    let taken = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if taken {
        if !force || !dir.join(MANIFEST).is_file() {
            return Err(FileError::Taken(dir.to_owned()));
        }
        fs::remove_dir_all(dir).map_err(at(dir))?;
    }
    fs::create_dir_all(dir).map_err(at(dir))
}

/// Writes a file whole: under another name first, synced, then renamed.
///
/// # Errors
/// Those of the file system.
pub fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    let (path, part) = (dir.join(name), dir.join(format!("{name}.part")));
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, &path)
    };
    write().map_err(at(&path))
}

/// SHA-256 in hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes the raw files, the manifest last.
///
/// # Errors
/// [`FileError`].
pub fn write_raw(dir: &Path, raw: &mut Raw, manifest: &mut Manifest) -> Result<(), FileError> {
    manifest.schema_version = SCHEMA_VERSION;
    write_transcripts(dir, raw)?;
    let files = [
        (HLOG, hlog(raw, manifest)?),
        (TIMELINE, timeline(raw, manifest)),
        (FAILURES, failures(raw, manifest)),
    ];
    for (name, bytes) in files {
        write_whole(dir, name, &bytes)?;
        manifest.raw_files.insert(name.to_owned(), sha256(&bytes));
    }
    write_manifest(dir, manifest)
}

/// Writes the manifest.
///
/// # Errors
/// [`FileError`].
pub fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<(), FileError> {
    let mut text = serde_json::to_vec_pretty(manifest)
        .map_err(|e| FileError::Io(dir.join(MANIFEST), io::Error::other(e)))?;
    text.push(b'\n');
    write_whole(dir, MANIFEST, &text)
}

fn write_transcripts(dir: &Path, raw: &mut Raw) -> Result<(), FileError> {
    if raw.transcripts.is_empty() {
        return Ok(());
    }
    let folder = dir.join("failures");
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    for (number, ((class, code, ..), (key, text))) in raw.transcripts.iter().enumerate() {
        let safe: String = code
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
            .take(40)
            .collect();
        let name = format!("{:03}-{}-{safe}.txt", number + 1, class.name());
        write_whole(&folder, &name, text.as_bytes())?;
        if let Some(sum) = raw.failures.get_mut(key).filter(|sum| sum.example.is_empty()) {
            sum.example = format!("failures/{name}");
        }
    }
    Ok(())
}

fn hlog(raw: &Raw, manifest: &Manifest) -> Result<Vec<u8>, FileError> {
    let origin = manifest.origin_unix_s;
    let mut out = String::new();
    out.push_str("#[Histogram log format version 1.3]\n");
    out.push_str(&format!("#[BaseTime: {origin}.000 (seconds since epoch)]\n"));
    out.push_str(&format!("#[StartTime: {origin}.000 (seconds since epoch), {}]\n", print::time(origin)));
    out.push_str("#[values in microseconds; Interval_Max in seconds]\n");
    out.push_str(
        "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
    );
    let mut line = |tag: String, from: f64, length: f64, histogram: &Histogram| -> Result<(), FileError> {
        let bytes =
            histogram.to_v2_deflate().map_err(|e| FileError::Io(PathBuf::from(HLOG), io::Error::other(e)))?;
        let max = histogram.max().unwrap_or(0) as f64 / 1e6;
        out.push_str(&format!("Tag={tag},{from:.3},{length:.3},{max:.3},{}\n", BASE64.encode(bytes)));
        Ok(())
    };
    for ((second, step, phase, site, metric, base), histogram) in &raw.seconds {
        let tag = format!("{}|{}|{step}|{}|{site}", metric.name(), base.name(), phase.name());
        line(tag, (second - origin) as f64, 1.0, histogram)?;
    }
    for ((step, phase, site, agent, metric, base), histogram) in &raw.agents {
        let tag = format!("{}|{}|{step}|{}|{site}|{agent}", metric.name(), base.name(), phase.name());
        let span = manifest.phase(*step, *phase);
        let (from, length) = span.map_or((0.0, 0.0), |p| (p.from_s, p.to_s - p.from_s));
        line(tag, from, length, histogram)?;
    }
    Ok(out.into_bytes())
}

/// Writes rows as CSV, RFC 4180.
#[must_use]
pub fn csv_bytes(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut write = |row: &mut dyn Iterator<Item = &[u8]>| {
        // Writing into memory fails only for rows of another length, which a test would show.
        let done = writer.write_record(row);
        debug_assert!(done.is_ok(), "a row of another length than the header");
    };
    write(&mut header.iter().map(|cell| cell.as_bytes()));
    for row in rows {
        write(&mut row.iter().map(|cell| cell.as_bytes()));
    }
    writer.into_inner().unwrap_or_default()
}

const TIMELINE_HEADER: [&str; 12] = [
    "schema_version",
    "run_id",
    "interval_start_time",
    "t_s",
    "step",
    "step_name",
    "phase",
    "site",
    "agent",
    "counter",
    "label",
    "value",
];

fn timeline(raw: &Raw, manifest: &Manifest) -> Vec<u8> {
    csv_bytes(
        &TIMELINE_HEADER,
        raw.timeline().iter().map(|((second, step, phase, site, agent, counter, label), value)| {
            vec![
                SCHEMA_VERSION.to_string(),
                manifest.run_id.clone(),
                print::time(*second),
                (second - manifest.origin_unix_s).to_string(),
                step.to_string(),
                manifest.step_name(*step).to_owned(),
                phase.name().to_owned(),
                site.clone(),
                agent.clone(),
                counter.clone(),
                label.clone(),
                value.to_string(),
            ]
        }),
    )
}

const FAILURES_HEADER: [&str; 16] = [
    "schema_version",
    "run_id",
    "step",
    "step_name",
    "phase",
    "site",
    "agent",
    "activity",
    "class",
    "code",
    "reason",
    "diagnosis",
    "count",
    "first_time",
    "last_time",
    "example",
];

fn failures(raw: &Raw, manifest: &Manifest) -> Vec<u8> {
    csv_bytes(
        &FAILURES_HEADER,
        raw.failures.iter().map(|((step, phase, site, agent, activity, class, code, reason), sum)| {
            vec![
                SCHEMA_VERSION.to_string(),
                manifest.run_id.clone(),
                step.to_string(),
                manifest.step_name(*step).to_owned(),
                phase.name().to_owned(),
                site.clone(),
                agent.clone(),
                activity.clone(),
                class.name().to_owned(),
                code.clone(),
                reason.clone(),
                sum.diagnosis.clone(),
                sum.count.to_string(),
                print::time_ms(sum.first_unix_ns),
                print::time_ms(sum.last_unix_ns),
                sum.example.clone(),
            ]
        }),
    )
}

/// Reads the raw files back.
///
/// # Errors
/// [`FileError`] that names file and line.
pub fn read_raw(dir: &Path) -> Result<(Raw, Manifest), FileError> {
    let path = dir.join(MANIFEST);
    if !path.is_file() {
        return Err(FileError::NoResults(dir.to_owned()));
    }
    let manifest = fs::read(&path).map_err(at(&path))?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|e| FileError::Line {
        file: MANIFEST.to_owned(),
        line: e.line(),
        message: e.to_string(),
    })?;
    if manifest.schema_version != SCHEMA_VERSION {
        return Err(FileError::Line {
            file: MANIFEST.to_owned(),
            line: 1,
            message: format!(
                "schema version {} is not {SCHEMA_VERSION}, the one this adsum reads",
                manifest.schema_version
            ),
        });
    }
    let century = 0.0..=3_155_760_000.0;
    let spans = manifest.steps.iter().flat_map(|step| &step.phases);
    let sane = [manifest.origin_unix_s, manifest.ended_unix_s].iter().all(|t| (0..=LAST_SECOND).contains(t))
        && spans.into_iter().all(|span| [span.from_s, span.to_s].iter().all(|s| century.contains(&s.abs())));
    if !sane {
        let message = "it has times that are none of this calendar".to_owned();
        return Err(FileError::Line { file: MANIFEST.to_owned(), line: 1, message });
    }
    let mut raw = Raw::default();
    read_hlog(dir, &manifest, &mut raw)?;
    read_timeline(dir, &manifest, &mut raw)?;
    read_failures(dir, &mut raw)?;
    Ok((raw, manifest))
}

fn read_hlog(dir: &Path, manifest: &Manifest, raw: &mut Raw) -> Result<(), FileError> {
    let path = dir.join(HLOG);
    let text = fs::read_to_string(&path).map_err(at(&path))?;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('#') || line.starts_with('"') || line.is_empty() {
            continue;
        }
        let wrong = |message: &str| FileError::Line {
            file: HLOG.into(),
            line: number + 1,
            message: message.to_owned(),
        };
        let fields: Vec<&str> = line.split(',').collect();
        let [tag, from, _, _, payload] = fields.as_slice() else { return Err(wrong("not five fields")) };
        let tag: Vec<&str> = tag.strip_prefix("Tag=").ok_or_else(|| wrong("no tag"))?.split('|').collect();
        let (metric, base, step, phase, site) = match tag.as_slice() {
            [metric, base, step, phase, site] | [metric, base, step, phase, site, _] => (
                Metric::parse(metric).ok_or_else(|| wrong("an unknown metric"))?,
                Base::parse(base).ok_or_else(|| wrong("an unknown base"))?,
                step.parse::<u32>().map_err(|_| wrong("a step that is no number"))?,
                Phase::parse(phase).ok_or_else(|| wrong("an unknown phase"))?,
                (*site).to_owned(),
            ),
            _ => return Err(wrong("a tag with too few or too many parts")),
        };
        let bytes = BASE64.decode(payload).map_err(|_| wrong("a payload that is not base 64"))?;
        let histogram = Histogram::from_v2_deflate(&bytes).map_err(|e| wrong(&e))?;
        raw.weigh(histogram.count()).map_err(|e| wrong(&e.to_string()))?;
        let there = match tag.get(5) {
            Some(agent) => {
                raw.agents.insert((step, phase, site, (*agent).to_owned(), metric, base), histogram)
            }
            None => {
                let from = from.parse().ok().filter(|from: &f64| from.is_finite());
                let from = from.ok_or_else(|| wrong("a start that is no number"))?.round() as i64;
                let second = second_of(manifest, from).ok_or_else(|| wrong("a start beyond all years"))?;
                raw.seconds.insert((second, step, phase, site, metric, base), histogram)
            }
        };
        if there.is_some() {
            return Err(wrong("a second histogram of the same tag and time"));
        }
    }
    Ok(())
}

/// The last second of the year 9999, in UTC: what RFC 3339 can write.
const LAST_SECOND: i64 = 253_402_300_799;

/// A second of the calendar, from seconds since the origin.
fn second_of(manifest: &Manifest, t_s: i64) -> Option<i64> {
    manifest.origin_unix_s.checked_add(t_s).filter(|second| (0..=LAST_SECOND).contains(second))
}

struct Rows {
    file: &'static str,
    records: Vec<csv::StringRecord>,
}

impl Rows {
    fn read(dir: &Path, file: &'static str, header: &[&str]) -> Result<Rows, FileError> {
        let path = dir.join(file);
        let bytes = fs::read(&path).map_err(at(&path))?;
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let wrong = |line: usize, message: String| FileError::Line { file: file.to_owned(), line, message };
        let found = reader.headers().map_err(|e| wrong(1, e.to_string()))?;
        if found.iter().ne(header.iter().copied()) {
            return Err(wrong(1, format!("the columns are not {}", header.join(","))));
        }
        let records: Result<Vec<_>, _> = reader.records().collect();
        let records =
            records.map_err(|e| wrong(e.position().map_or(0, |p| p.line() as usize), e.to_string()))?;
        Ok(Rows { file, records })
    }

    fn wrong(&self, row: usize, what: &str) -> FileError {
        self.error(row, format!("{what} cannot be read"))
    }

    fn error(&self, row: usize, message: String) -> FileError {
        // A quoted cell may go over several lines.
        let line = self.records[row].position().map_or(row + 2, |p| p.line() as usize);
        FileError::Line { file: self.file.to_owned(), line, message }
    }
}

fn read_timeline(dir: &Path, manifest: &Manifest, raw: &mut Raw) -> Result<(), FileError> {
    let rows = Rows::read(dir, TIMELINE, &TIMELINE_HEADER)?;
    for (number, row) in rows.records.iter().enumerate() {
        let t_s = row[3].parse().ok().and_then(|t_s| second_of(manifest, t_s));
        let second = t_s.ok_or_else(|| rows.wrong(number, "t_s"))?;
        let step = row[4].parse().map_err(|_| rows.wrong(number, "step"))?;
        let phase = Phase::parse(&row[6]).ok_or_else(|| rows.wrong(number, "phase"))?;
        let value = row[11].parse().map_err(|_| rows.wrong(number, "value"))?;
        let key = (second, step, phase, row[7].into(), row[8].into(), row[9].into(), row[10].into());
        raw.weigh(value).map_err(|e| rows.error(number, e.to_string()))?;
        if raw.timeline().contains_key(&key) {
            return Err(rows.error(number, "the same second, agent, counter and label once more".to_owned()));
        }
        raw.count(key, value);
    }
    Ok(())
}

fn read_failures(dir: &Path, raw: &mut Raw) -> Result<(), FileError> {
    let rows = Rows::read(dir, FAILURES, &FAILURES_HEADER)?;
    for (number, row) in rows.records.iter().enumerate() {
        let step = row[2].parse().map_err(|_| rows.wrong(number, "step"))?;
        let phase = Phase::parse(&row[4]).ok_or_else(|| rows.wrong(number, "phase"))?;
        let class = Class::parse(&row[8]).ok_or_else(|| rows.wrong(number, "class"))?;
        let key =
            (step, phase, row[5].into(), row[6].into(), row[7].into(), class, row[9].into(), row[10].into());
        let time = |cell: &str| print::parse_time_ms(cell);
        let sum = FailureSum {
            count: row[12].parse().map_err(|_| rows.wrong(number, "count"))?,
            diagnosis: row[11].into(),
            first_unix_ns: time(&row[13]).ok_or_else(|| rows.wrong(number, "first_time"))?,
            last_unix_ns: time(&row[14]).ok_or_else(|| rows.wrong(number, "last_time"))?,
            example: row[15].into(),
        };
        raw.weigh(sum.count).map_err(|e| rows.error(number, e.to_string()))?;
        if raw.failures.insert(key, sum).is_some() {
            return Err(rows.error(number, "the same kind of failure once more".to_owned()));
        }
    }
    Ok(())
}
