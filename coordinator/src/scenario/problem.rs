//! What is wrong with a scenario: every mistake with its place, what was found
//! there and what is accepted.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, NamedSource, SourceSpan};

/// One mistake.
///
/// As `Display` it is one line, `file:line:column: message`; as a miette
/// [`Diagnostic`] it points into the text. The text it carries for that has
/// its secrets masked.
#[derive(Clone)]
pub struct Problem {
    /// The file, or `--set` for an override of the command line.
    pub file: String,
    /// Line, from 1; for `--set` the number of the override.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// Bytes of the file (or of the override) that it is about.
    pub span: Range<usize>,
    /// What is wrong, a sentence without a capital and a full stop.
    pub message: String,
    /// What stands there.
    pub found: Option<String>,
    /// What may stand there.
    pub accepted: Option<String>,
    /// What to do.
    pub help: Option<String>,
    pub(super) source: Arc<NamedSource<String>>,
}

impl Problem {
    /// The sentence without the place: message, found, accepted.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = self.message.clone();
        if let Some(found) = &self.found {
            text.push_str(&format!(": found {found}"));
        }
        if let Some(accepted) = &self.accepted {
            text.push_str(if self.found.is_some() { ", accepted: " } else { "; accepted: " });
            text.push_str(accepted);
        }
        text
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.sentence())?;
        match &self.help {
            Some(help) => write!(f, " (help: {help})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Problem({self})")
    }
}

impl std::error::Error for Problem {}

/// How miette prints a problem: the place is a label, so it is not repeated in the sentence.
impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&*self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        let span = SourceSpan::new(self.span.start.into(), self.span.len());
        let text = match (&self.found, &self.accepted) {
            (_, Some(accepted)) => format!("accepted: {accepted}"),
            (Some(found), None) => format!("found {found}"),
            (None, None) => "here".to_owned(),
        };
        Some(Box::new(std::iter::once(miette::LabeledSpan::new_with_span(Some(text), span))))
    }
}

/// All mistakes of a scenario, in the order of the text. Never empty.
#[derive(Debug, Clone, thiserror::Error, Diagnostic)]
#[error("{}", headline(problems))]
pub struct Problems {
    /// Each of them.
    #[related]
    pub problems: Vec<Problem>,
}

impl Problems {
    /// One line for each problem, `file:line:column: message`.
    #[must_use]
    pub fn lines(&self) -> String {
        self.problems.iter().map(|problem| format!("{problem}\n")).collect()
    }
}

fn headline(problems: &[Problem]) -> String {
    let file = problems.first().map_or("the scenario", |problem| problem.file.as_str());
    match problems.len() {
        1 => format!("{file} has a mistake"),
        n => format!("{file} has {n} mistakes"),
    }
}
