//! Scenario files: TOML in, a checked [`Scenario`] out, or every mistake at once.
//!
//! [`read`] walks the parsed document, key by key. A mistake is noted with its
//! place and reading goes on, so one pass finds them all; only when the TOML
//! itself is broken are the syntax errors shown alone, since keys may have
//! landed in the wrong table. `scenarios/README.md` explains every key.

pub mod checks;
pub mod fan_out;
pub mod hash;
mod inputs;
mod model;
pub mod names;
pub mod network;
mod pool;
pub mod presets;
mod problem;
pub mod quantity;
mod reader;
mod run;
pub mod schema;
pub mod set;
mod source;
mod steps;
mod thresholds;
mod users;
mod workload;
mod writer;

pub use inputs::{Inputs, InputsError};
pub use model::*;
pub use problem::{Problem, Problems};
pub use reader::Env;
pub use writer::REDACTED;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use reader::{Cx, Section};
use source::{Sources, Wrong};

/// The version of the format that this release reads.
pub const SCHEMA: u64 = 1;
/// Longer files are refused before they are parsed.
pub const MAX_FILE: usize = 1024 * 1024;
/// Longest name of a scenario, step, site or agent: it goes into file names and tags.
pub const MAX_NAME: usize = 63;

/// What reading depends on besides the file.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// `key=value` for each `--set`, in order; see [`set::short_forms`].
    pub sets: &'a [String],
    /// Looks a variable of the environment up, for `${env:NAME}`.
    pub env: Env<'a>,
}

/// A scenario that was read.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it says.
    pub scenario: Scenario,
    /// The TOML to read it elsewhere: overrides and variables filled in. Holds secrets.
    pub text: SecretText,
    /// The TOML for manifest and report: overrides filled in, secrets redacted, comments left out.
    pub redacted: String,
}

/// A text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(pub String);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Reads a scenario. `file` is its name in messages.
///
/// # Errors
/// [`Problems`]: all mistakes, in the order of the text.
pub fn read(file: &str, text: &str, options: Options<'_>) -> Result<Document, Problems> {
    read_with_keys(file, text, options).map(|(document, _)| document)
}

/// The same, and which keys were asked for: a test compares them with the documentation.
fn read_with_keys(file: &str, text: &str, options: Options<'_>) -> Result<(Document, Vec<String>), Problems> {
    let mut cx =
        Cx { sources: Sources::new(file, text), env: options.env, wrongs: Vec::new(), asked: Vec::new() };
    if text.len() > MAX_FILE {
        let wrong = Wrong::new("the file is too long").found(format!("{} bytes", text.len()));
        cx.wrong(&(0..0), wrong.accepted(format!("at most {MAX_FILE} bytes")));
        return Err(problems(cx));
    }
    let (mut root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().unwrap_or(0..0);
        cx.wrong(&at, Wrong::new(format!("not TOML, {}", error.message())));
    }
    if !errors.is_empty() {
        return Err(problems(cx));
    }
    for set in options.sets {
        set::apply(&mut cx, &mut root, set);
    }
    let scenario = read_root(&mut cx, &root);
    match scenario {
        Some(scenario) if cx.wrongs.is_empty() => {
            let text = SecretText(writer::write(root.get_ref(), writer::For::Reading(options.env)));
            let redacted = writer::write(root.get_ref(), writer::For::Showing);
            Ok((Document { scenario, text, redacted }, cx.asked))
        }
        _ => Err(problems(cx)),
    }
}

fn problems(mut cx: Cx<'_>) -> Problems {
    if cx.wrongs.is_empty() {
        // A part that could not be read has said why; should one ever forget, this must still be an error.
        cx.wrong(&(0..0), Wrong::new("the scenario cannot be read, and no part of it says why"));
    }
    Problems { problems: cx.sources.problems(cx.wrongs) }
}

fn read_root(cx: &mut Cx<'_>, root: &Spanned<DeTable<'_>>) -> Option<Scenario> {
    let mut section = Section::root(root.get_ref());
    read_schema(cx, &mut section);
    let name = read_name(cx, &mut section);
    let comment = section.text(cx, "comment").map(|text| text.value);
    let dialect =
        section.choice(cx, "dialect", Dialect::WORDS).map_or(Dialect::Simple, |dialect| dialect.value);
    let seed = section.integer(cx, "seed", 0..=i64::MAX as u64).map(|seed| seed.value);

    let auth = run::auth(cx, &mut section, dialect);
    let scheme = auth.scheme;
    let pool = match section.section(cx, "pool") {
        Some(pool) => pool::pool(cx, pool, dialect),
        None => missing_table(cx, &section, "pool"),
    };
    let users = match section.section(cx, "users") {
        Some(users) => users::users(cx, users, scheme, dialect, pool.as_ref()),
        None => missing_table(cx, &section, "users"),
    };
    let workload = match section.section(cx, "workload") {
        Some(workload) => workload::workload(cx, workload, users.as_ref()),
        None => missing_table(cx, &section, "workload"),
    };
    let warmup = workload::warmup(cx, &mut section);
    let no_steps = section.get(cx, "step").is_none_or(|step| is_empty_array(step.get_ref()));
    let steps = section.sections(cx, "step", steps::MAX_STEPS);
    let steps = if no_steps { missing_table(cx, &section, "step") } else { steps::steps(cx, steps) };
    let sites = pool::sites(cx, &mut section, pool.as_ref(), dialect);
    let thresholds = section.sections(cx, "threshold", run::MAX_THRESHOLDS);
    let thresholds = run::thresholds(cx, thresholds, steps.as_ref(), &sites);
    let trust = run::trust(cx, &mut section);
    let safety = run::safety(cx, &mut section);
    let fleet = run::fleet(cx, &mut section);
    let report = run::report(cx, &mut section);
    section.later(cx, "compare");
    section.finish(cx);

    Some(Scenario {
        name: name?,
        comment,
        dialect,
        seed,
        pool: pool?,
        auth,
        users: users?,
        workload: workload?,
        warmup,
        steps: steps?.steps,
        thresholds,
        trust,
        safety,
        fleet,
        sites,
        report,
    })
}

/// Notes a missing table, if it is missing rather than of the wrong type, which was noted already.
fn missing_table<T>(cx: &mut Cx<'_>, root: &Section<'_, '_>, key: &str) -> Option<T> {
    if root.peek(key).is_none_or(is_empty_array) {
        let accepted = match key {
            "pool" => "[pool] with `target`",
            "users" => "[users] with `from`, or with `count`, `pattern` and `password_pattern`",
            "workload" => "[workload] with `kind = \"workflow\"` or `kind = \"held\"`",
            _ => "at least one [[step]] with `name`, `rate` and `hold`",
        };
        root.missing(cx, key, accepted);
    }
    None
}

fn is_empty_array(value: &DeValue<'_>) -> bool {
    value.as_array().is_some_and(|array| array.is_empty())
}

fn read_schema(cx: &mut Cx<'_>, section: &mut Section<'_, '_>) {
    if section.has("schema") {
        section.integer(cx, "schema", SCHEMA..=SCHEMA);
    } else {
        let _known = section.get(cx, "schema");
        section.missing(cx, "schema", "schema = 1");
    }
}

fn read_name(cx: &mut Cx<'_>, section: &mut Section<'_, '_>) -> Option<String> {
    if !section.has("name") {
        let _known = section.get(cx, "name");
        section.missing(cx, "name", "a name such as \"rollout\"");
        return None;
    }
    name(cx, section, "name")
}

/// A name of the user's: `[a-z0-9][a-z0-9_.-]*`.
fn name(cx: &mut Cx<'_>, section: &mut Section<'_, '_>, key: &'static str) -> Option<String> {
    let text = section.text(cx, key)?;
    if names::is_name(&text.value, MAX_NAME) {
        return Some(text.value);
    }
    let found = cx.found(&text.at);
    let accepted = format!("[a-z0-9][a-z0-9_.-]*, at most {MAX_NAME} characters");
    let wrong = Wrong::new(format!("`{}` is no name", section.name(key)));
    cx.wrong(&text.at, wrong.found(found).accepted(accepted));
    None
}

#[cfg(test)]
mod tests;
