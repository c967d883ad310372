//! The texts that a scenario is read from: the file, then one text for each
//! `--set`. Their bytes are numbered through, so that a span alone says where
//! a value came from.

use std::ops::Range;
use std::sync::Arc;

use miette::NamedSource;

use super::problem::Problem;

/// What a mistake is called in messages when it came from the command line.
pub(super) const SET: &str = "--set";

/// The texts, in order.
pub(super) struct Sources {
    texts: Vec<Text>,
}

struct Text {
    name: String,
    /// The number of the override; 0 for the file.
    number: usize,
    start: usize,
    text: String,
    /// Byte ranges of this text that may not be shown.
    masked: Vec<Range<usize>>,
}

/// What to say about a span.
#[derive(Default)]
pub(super) struct Wrong {
    pub message: String,
    pub found: Option<String>,
    pub accepted: Option<String>,
    pub help: Option<String>,
}

impl Wrong {
    pub fn new(message: impl Into<String>) -> Self {
        Wrong { message: message.into(), ..Wrong::default() }
    }

    pub fn found(mut self, found: impl Into<String>) -> Self {
        self.found = Some(found.into());
        self
    }

    pub fn accepted(mut self, accepted: impl Into<String>) -> Self {
        self.accepted = Some(accepted.into());
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Sources {
    pub fn new(file: &str, text: &str) -> Self {
        let file =
            Text { name: file.to_owned(), number: 0, start: 0, text: text.to_owned(), masked: Vec::new() };
        Sources { texts: vec![file] }
    }

    /// Adds the text of an override and says at which number its bytes begin.
    pub fn push_set(&mut self, text: &str) -> usize {
        // One byte between texts: a span at the very end of one is not taken for the next.
        let start = self.texts.last().map_or(0, |last| last.start + last.text.len() + 1);
        let number = self.texts.len();
        let (name, text) = (SET.to_owned(), text.to_owned());
        self.texts.push(Text { name, number, start, text, masked: Vec::new() });
        start
    }

    /// The text that a span covers.
    pub fn slice(&self, span: &Range<usize>) -> &str {
        let text = self.at(span.start);
        let local = local(text, span);
        text.text.get(local).unwrap_or("")
    }

    /// Keeps what a span covers out of everything that is shown.
    pub fn mask(&mut self, span: &Range<usize>) {
        let index = self.index(span.start);
        if let Some(text) = self.texts.get_mut(index) {
            let range = local(text, span);
            text.masked.push(range);
        }
    }

    /// The same problems in the order of the texts, ready to be shown.
    pub fn problems(&self, mut wrongs: Vec<(Range<usize>, Wrong)>) -> Vec<Problem> {
        wrongs.sort_by_key(|(span, _)| (span.start, span.end));
        let shown: Vec<Arc<NamedSource<String>>> = self.texts.iter().map(shown).collect();
        wrongs.into_iter().map(|(span, wrong)| self.problem(&shown, &span, wrong)).collect()
    }

    fn problem(&self, shown: &[Arc<NamedSource<String>>], span: &Range<usize>, wrong: Wrong) -> Problem {
        let index = self.index(span.start);
        let text = self.at(span.start);
        let local = local(text, span);
        let before = text.text.get(..local.start).unwrap_or(&text.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = if text.number > 0 { text.number } else { before.matches('\n').count() + 1 };
        let source = shown
            .get(index)
            .cloned()
            .unwrap_or_else(|| Arc::new(NamedSource::new(&text.name, String::new())));
        Problem {
            file: text.name.clone(),
            line,
            column: before[line_start..].chars().count() + 1,
            span: local,
            message: wrong.message,
            found: wrong.found,
            accepted: wrong.accepted,
            help: wrong.help,
            source,
        }
    }

    fn index(&self, at: usize) -> usize {
        self.texts.iter().rposition(|text| text.start <= at).unwrap_or(0)
    }

    fn at(&self, at: usize) -> &Text {
        // There is always the file's text, which starts at 0.
        &self.texts[self.index(at)]
    }
}

fn local(text: &Text, span: &Range<usize>) -> Range<usize> {
    let start = span.start.saturating_sub(text.start).min(text.text.len());
    let end = span.end.saturating_sub(text.start).clamp(start, text.text.len());
    start..end
}

/// The text with `*` in place of secrets, byte for byte, so that spans stay right.
fn shown(text: &Text) -> Arc<NamedSource<String>> {
    let mut bytes = text.text.clone().into_bytes();
    for range in &text.masked {
        for byte in bytes.get_mut(range.clone()).into_iter().flatten() {
            if *byte != b'\n' {
                *byte = b'*';
            }
        }
    }
    Arc::new(NamedSource::new(&text.name, String::from_utf8(bytes).unwrap_or_default()))
}
