//! Failures, added up by kind, with a transcript of the first ones.

use adsum_presence::host::{Activity, Class, Failure, Stage};
use adsum_sip::Time;

/// Kinds that one shard keeps apart in one second; what comes beyond is added
/// to the last one's count under the code `generator:too_many_kinds`.
const MAX_KINDS: usize = 256;
/// Transcripts that are kept for each class and code in a run.
const TRANSCRIPTS: u32 = 3;
/// Bytes of a message that a transcript shows.
const SHOWN: usize = 4096;
/// Characters of a reason, which the other side chooses.
const REASON: usize = 300;
/// Characters of a diagnosis: what the other side says of the cause is cut before, see `adsum-presence`.
const DIAGNOSIS: usize = 2_000;

/// One kind of failure in one second.
#[derive(Debug, Clone)]
pub struct FailureRow {
    /// Where it counts.
    pub stage: Stage,
    /// Which step failed.
    pub activity: Activity,
    /// Who has to act.
    pub class: Class,
    /// What happened.
    pub code: String,
    /// In words of the other side.
    pub reason: String,
    /// What to do about it.
    pub diagnosis: String,
    /// The user that it happened to first.
    pub who: String,
    /// How often.
    pub count: u64,
    /// When first.
    pub first: Time,
    /// When last.
    pub last: Time,
    /// The messages of the first one, secrets masked.
    pub transcript: Option<String>,
}

/// The failures of the running second.
#[derive(Debug, Default)]
pub struct Failures {
    rows: Vec<FailureRow>,
    transcripts: Vec<((Class, String), u32)>,
    /// The first failure of all: what a run that cannot start says.
    pub first: Option<FailureRow>,
}

/// The word for a class.
#[must_use]
pub fn class_name(class: Class) -> &'static str {
    match class {
        Class::Pool => "pool",
        Class::Configuration => "configuration",
        Class::Generator => "generator",
        Class::Network => "network",
    }
}

impl Failures {
    /// Adds one. `who` names the user.
    pub fn add(&mut self, failure: &Failure<'_>, who: &str) {
        let reason = on_one_line(failure.reason, REASON);
        let diagnosis = on_one_line(failure.diagnosis, DIAGNOSIS);
        let same = |row: &&mut FailureRow| {
            row.stage == failure.stage
                && row.activity == failure.activity
                && row.class == failure.class
                && row.code == failure.code
                && row.reason == reason
        };
        if let Some(row) = self.rows.iter_mut().find(same) {
            row.count += 1;
            row.last = failure.at;
            return;
        }
        let full = self.rows.len() >= MAX_KINDS;
        if let (true, Some(row)) = (full, self.rows.last_mut()) {
            row.code = "generator:too_many_kinds".to_owned();
            row.count += 1;
            row.last = failure.at;
            return;
        }
        let row = FailureRow {
            stage: failure.stage,
            activity: failure.activity,
            class: failure.class,
            code: failure.code.to_owned(),
            reason,
            diagnosis,
            who: who.to_owned(),
            count: 1,
            first: failure.at,
            last: failure.at,
            transcript: self.wants_transcript(failure).then(|| transcript(failure, who)),
        };
        if self.first.is_none() {
            self.first = Some(row.clone());
        }
        self.rows.push(row);
    }

    fn wants_transcript(&mut self, failure: &Failure<'_>) -> bool {
        let room = self.transcripts.len() < MAX_KINDS;
        let kind = self
            .transcripts
            .iter_mut()
            .find(|((class, code), _)| *class == failure.class && code == failure.code);
        match kind {
            Some((_, count)) => {
                *count += 1;
                *count <= TRANSCRIPTS
            }
            None if room => {
                self.transcripts.push(((failure.class, failure.code.to_owned()), 1));
                true
            }
            None => false,
        }
    }

    /// Takes what the second brought.
    pub fn take(&mut self) -> Vec<FailureRow> {
        std::mem::take(&mut self.rows)
    }
}

/// Words of the other side for a table or a terminal: nothing that breaks the line or steers the screen.
fn on_one_line(text: &[u8], longest: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let mut out: String = text.chars().take(longest).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(longest).is_some() {
        out.push('…');
    }
    out
}

fn transcript(failure: &Failure<'_>, who: &str) -> String {
    let mut text = format!(
        "user {who}\nactivity {}\ncode {}\nreason {}\n{}\n",
        failure.activity.name(),
        failure.code,
        String::from_utf8_lossy(failure.reason),
        String::from_utf8_lossy(failure.diagnosis),
    );
    for (title, message) in [("sent", failure.request), ("received", failure.response)] {
        if !message.is_empty() {
            text.push_str(&format!("\n--- {title}, {} bytes\n", message.len()));
            text.push_str(&masked(&message[..message.len().min(SHOWN)]));
        }
    }
    text
}

/// A message as text, with what proves knowledge of a password masked.
#[must_use]
pub fn masked(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let lower = line.to_ascii_lowercase();
        if lower.starts_with("authorization:") || lower.starts_with("proxy-authorization:") {
            out.push_str(&masked_header(line));
        } else {
            out.push_str(line);
        }
    }
    out
}

fn masked_header(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = ["response=\"", "cnonce=\"", "rspauth=\"", "gssapi-data=\""]
        .iter()
        .filter_map(|k| rest.find(k).map(|a| a + k.len()))
        .min()
    {
        out.push_str(&rest[..at]);
        out.push_str("<masked>");
        rest = rest[at..].find('"').map_or("", |end| &rest[at + end..]);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_the_rest_stays() {
        let text = masked(
            b"REGISTER sip:h SIP/2.0\r\nAuthorization: Digest username=\"a\", response=\"abc\", nc=1\r\n\r\n",
        );
        assert!(text.contains("response=\"<masked>\", nc=1\r\n"), "{text}");
        assert!(!text.contains("abc"));
    }

    #[test]
    fn words_of_the_other_side_break_no_line_and_have_an_end() {
        assert_eq!(on_one_line(b"Not\r\nFound\x1b[2J \xff", 300), "Not  Found [2J \u{fffd}");
        assert_eq!(on_one_line("ü".repeat(9).as_bytes(), 4), "üüüü…");
    }

    #[test]
    fn kinds_are_added_up_and_three_transcripts_kept() {
        let mut failures = Failures::default();
        for at in 0..5u64 {
            let reason = format!("r{at}");
            failures.add(
                &Failure {
                    activity: Activity::Publish,
                    stage: Stage::WARMUP,
                    class: Class::Pool,
                    code: "sip:503",
                    reason: reason.as_bytes(),
                    diagnosis: b"",
                    user: 0,
                    at: Time(at),
                    request: b"x",
                    response: b"",
                },
                "sip:a@h",
            );
        }
        let rows = failures.take();
        assert_eq!((rows.len(), rows.iter().filter(|r| r.transcript.is_some()).count()), (5, 3));
    }
}
