//! The marker: the unique token inside a published document by which its
//! NOTIFY is recognised.
//!
//! `adsum1.<run 6>.<publisher 6>.<sequence 6>`, base 32 as in
//! [`adsum_sip::ids`]; fixed width, so that documents of one publisher have one
//! length and a template can be patched. It survives servers that re-compose
//! documents, because it stands in `<note>` and in an element of our own.

use adsum_sip::ids;
use memchr::memmem;

/// Length of every marker in bytes.
pub const LEN: usize = 27;

const PREFIX: &[u8] = b"adsum1.";

/// One publication of one publisher in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Marker {
    /// 30 bits of the run id: a marker of an earlier run never matches.
    pub run: u32,
    /// The publisher's number among all users of the run.
    pub publisher: u32,
    /// Publications of that publisher, counted from 1; below 2³⁰.
    pub sequence: u32,
}

impl Marker {
    /// Appends the marker's text.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(PREFIX);
        ids::write(out, self.run, 6);
        out.push(b'.');
        ids::write(out, self.publisher, 6);
        out.push(b'.');
        ids::write(out, self.sequence, 6);
    }

    /// Reads a marker at the beginning of `text`.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Marker> {
        let digits = text.get(..LEN)?.strip_prefix(PREFIX)?;
        if digits[6] != b'.' || digits[13] != b'.' {
            return None;
        }
        Some(Marker {
            run: ids::read(&digits[..6])?,
            publisher: ids::read(&digits[7..13])?,
            sequence: ids::read(&digits[14..20])?,
        })
    }
}

/// Finds markers in bodies; built once for each shard.
#[derive(Debug)]
pub struct Finder(memmem::Finder<'static>);

impl Default for Finder {
    fn default() -> Self {
        Finder(memmem::Finder::new(PREFIX))
    }
}

impl Finder {
    /// The largest sequence of `publisher` in `body`: a composed document may
    /// hold several publications of one user, and the newest one counts.
    #[must_use]
    pub fn latest(&self, body: &[u8], run: u32, publisher: u32) -> Option<u32> {
        let mut latest = None;
        self.each(body, run, |number, sequence| {
            if number == publisher {
                latest = latest.max(Some(sequence));
            }
        });
        latest
    }

    /// Hands over publisher and sequence of each marker of a run in `body`.
    pub fn each(&self, body: &[u8], run: u32, mut found: impl FnMut(u32, u32)) {
        let markers = self.0.find_iter(body).filter_map(|at| Marker::read(&body[at..]));
        markers.filter(|marker| marker.run == run).for_each(|m| found(m.publisher, m.sequence));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_the_right_publisher_counts() {
        let mut body = b"<note>".to_vec();
        for (run, publisher, sequence) in [(7, 1, 3), (7, 1, 12), (7, 2, 99), (8, 1, 99)] {
            Marker { run, publisher, sequence }.write(&mut body);
            body.extend_from_slice(b"</note><note>adsum1.");
        }
        let finder = Finder::default();
        assert_eq!(finder.latest(&body, 7, 1), Some(12));
        assert_eq!(finder.latest(&body, 7, 3), None);
        assert_eq!(finder.latest(b"adsum1.000007.000001.00000", 7, 1), None);
    }
}
