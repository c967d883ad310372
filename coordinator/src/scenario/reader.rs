//! Reading keys out of TOML tables: every mistake is noted with its place and
//! reading goes on, so that one pass finds them all.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::names::nearest;
use super::quantity::{self, QuantityError};
use super::source::{Sources, Wrong};

/// Looks a variable of the environment up.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What reading collects.
pub(super) struct Cx<'a> {
    pub sources: Sources,
    pub env: Env<'a>,
    pub wrongs: Vec<(Range<usize>, Wrong)>,
    /// Every key that was asked for, as `section.key`, with numbers as `*`.
    pub asked: Vec<String>,
}

impl Cx<'_> {
    /// Notes a mistake.
    pub fn wrong(&mut self, at: &Range<usize>, wrong: Wrong) {
        self.wrongs.push((at.clone(), wrong));
    }

    /// What stands at a place, short enough for a message.
    pub fn found(&self, at: &Range<usize>) -> String {
        let text = self.sources.slice(at).lines().next().unwrap_or("");
        let mut shown: String = text.chars().take(60).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        if shown.is_empty() { "nothing".to_owned() } else { shown }
    }
}

/// A value with the place where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At<T> {
    pub value: T,
    pub at: Range<usize>,
}

/// A name of the user's with its table, or with the place of what is none.
pub(super) type Named<'d, 'i> = (At<String>, Result<Section<'d, 'i>, Range<usize>>);

/// One table of the document.
pub(super) struct Section<'d, 'i> {
    table: &'d DeTable<'i>,
    /// The header, for what is missing.
    pub at: Range<usize>,
    path: String,
    /// The path with `*` for numbers and for names of the user's.
    pattern: String,
    known: Vec<&'static str>,
}

impl<'d, 'i> Section<'d, 'i> {
    /// The whole document.
    pub fn root(table: &'d DeTable<'i>) -> Self {
        Section { table, at: 0..0, path: String::new(), pattern: String::new(), known: Vec::new() }
    }

    fn below(&self, table: &'d DeTable<'i>, at: Range<usize>, key: &str, pattern: &str) -> Self {
        let path = self.name(key);
        let pattern = join(&self.pattern, pattern);
        Section { table, at, path, pattern, known: Vec::new() }
    }

    /// `section.key`, as `--set` writes it.
    pub fn name(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// The value of a key, which is a known one from now on.
    pub fn get(&mut self, cx: &mut Cx<'_>, key: &'static str) -> Option<&'d Spanned<DeValue<'i>>> {
        if !self.known.contains(&key) {
            self.known.push(key);
            cx.asked.push(join(&self.pattern, key));
        }
        self.table.get(key)
    }

    /// The value of a key, without asking for it.
    pub fn peek(&self, key: &str) -> Option<&'d DeValue<'i>> {
        self.table.get(key).map(Spanned::get_ref)
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Notes that a key is missing; `accepted` says what belongs there.
    pub fn missing(&self, cx: &mut Cx<'_>, key: &str, accepted: &str) {
        let wrong = Wrong::new(format!("`{}` is missing", self.name(key))).accepted(accepted);
        cx.wrong(&self.at, wrong);
    }

    /// A key that this release knows and does not do yet.
    pub fn later(&mut self, cx: &mut Cx<'_>, key: &'static str) {
        if self.get(cx, key).is_some() {
            let at = self.key_at(key);
            let message = format!("`{}` comes with a later release", self.name(key));
            cx.wrong(&at, Wrong::new(message).help("remove it"));
        }
    }

    /// The place of a key itself.
    pub fn key_at(&self, key: &str) -> Range<usize> {
        self.table.get_key_value(key).map_or_else(|| self.at.clone(), |(key, _)| key.span())
    }

    /// The place of a key's value; of the header if it is missing.
    pub fn text_at(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or_else(|| self.at.clone(), |value| value.span())
    }

    /// Text, with `${env:NAME}` filled in.
    pub fn text(&mut self, cx: &mut Cx<'_>, key: &'static str) -> Option<At<String>> {
        let value = self.get(cx, key)?;
        read_text(cx, &self.name(key), value)
    }

    /// Text that no message may show.
    pub fn secret(&mut self, cx: &mut Cx<'_>, key: &'static str) -> Option<At<String>> {
        let value = self.get(cx, key)?;
        cx.sources.mask(&value.span());
        if value.get_ref().as_str().is_none() {
            let wrong = Wrong::new(format!("`{}` is no text", self.name(key)));
            cx.wrong(&value.span(), wrong.accepted("text in quotes, or \"${env:NAME}\""));
            return None;
        }
        read_text(cx, &self.name(key), value)
    }

    /// Text that `read` must understand; its error becomes the message's end.
    pub fn parsed<T>(
        &mut self,
        cx: &mut Cx<'_>,
        key: &'static str,
        accepted: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        let text = self.text(cx, key)?;
        match read(&text.value) {
            Ok(value) => Some(At { value, at: text.at }),
            Err(why) => {
                let message = format!("`{}` cannot be used, {why}", self.name(key));
                let found = cx.found(&text.at);
                cx.wrong(&text.at, Wrong::new(message).found(found).accepted(accepted));
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(
        &mut self,
        cx: &mut Cx<'_>,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<At<T>> {
        let text = self.text(cx, key)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text.value) {
            return Some(At { value: *value, at: text.at });
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        let mut wrong = Wrong::new(format!("`{}` has an unknown value", self.name(key)))
            .found(cx.found(&text.at))
            .accepted(quoted.join(", "));
        if let Some(word) = nearest(&text.value, words) {
            wrong = wrong.help(format!("did you mean \"{word}\"?"));
        }
        cx.wrong(&text.at, wrong);
        None
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, cx: &mut Cx<'_>, key: &'static str) -> Option<At<bool>> {
        let value = self.get(cx, key)?;
        match value.get_ref() {
            DeValue::Boolean(yes) => Some(At { value: *yes, at: value.span() }),
            _ => {
                self.wrong_type(cx, key, value, "true or false");
                None
            }
        }
    }

    /// An integer within bounds.
    pub fn integer(
        &mut self,
        cx: &mut Cx<'_>,
        key: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> Option<At<u64>> {
        let value = self.get(cx, key)?;
        let accepted = match (bounds.start(), bounds.end()) {
            (low, high) if low == high => low.to_string(),
            (low, high) => format!("an integer from {low} to {high}"),
        };
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(cx, key, value, &accepted);
            return None;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if bounds.contains(&number) => Some(At { value: number, at: value.span() }),
            _ => {
                let found = cx.found(&value.span());
                let message = format!("`{}` is out of range", self.name(key));
                cx.wrong(&value.span(), Wrong::new(message).found(found).accepted(accepted));
                None
            }
        }
    }

    /// A plain number in thousandths, within bounds; `what` is what it is not if it is no such number.
    pub fn thousandths(
        &mut self,
        cx: &mut Cx<'_>,
        key: &'static str,
        what: &str,
        bounds: RangeInclusive<u64>,
        accepted: &str,
    ) -> Option<At<u64>> {
        let value = self.get(cx, key)?;
        let text = match value.get_ref() {
            DeValue::Integer(integer) => integer.to_string(),
            DeValue::Float(float) => float.to_string(),
            _ => {
                self.wrong_type(cx, key, value, "a number such as 0.5 or 2");
                return None;
            }
        };
        let number = quantity::fraction(&text, 1_000).ok().filter(|number| bounds.contains(number));
        if number.is_none() {
            let wrong = Wrong::new(format!("`{}` is no {what}", self.name(key)))
                .found(cx.found(&value.span()))
                .accepted(accepted);
            cx.wrong(&value.span(), wrong);
        }
        number.map(|value_milli| At { value: value_milli, at: value.span() })
    }

    /// A duration in nanoseconds, within bounds.
    pub fn duration(
        &mut self,
        cx: &mut Cx<'_>,
        key: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> Option<At<u64>> {
        let number = self.quantity(cx, key, &DURATION)?;
        let (low, high) = (*bounds.start(), *bounds.end());
        let texts = (quantity::duration_text(low), quantity::duration_text(high));
        self.within(cx, key, number, bounds, texts)
    }

    /// A rate in mHz, within bounds.
    pub fn rate(
        &mut self,
        cx: &mut Cx<'_>,
        key: &'static str,
        bounds: RangeInclusive<u64>,
    ) -> Option<At<u64>> {
        let number = self.quantity(cx, key, &RATE)?;
        let texts = (quantity::rate_text(*bounds.start()), quantity::rate_text(*bounds.end()));
        self.within(cx, key, number, bounds, texts)
    }

    /// A ratio in parts per billion.
    pub fn ratio(&mut self, cx: &mut Cx<'_>, key: &'static str) -> Option<At<u64>> {
        self.quantity(cx, key, &RATIO)
    }

    fn within(
        &self,
        cx: &mut Cx<'_>,
        key: &str,
        number: At<u64>,
        bounds: RangeInclusive<u64>,
        (low, high): (String, String),
    ) -> Option<At<u64>> {
        if bounds.contains(&number.value) {
            return Some(number);
        }
        let wrong = Wrong::new(format!("`{}` is out of range", self.name(key)))
            .found(cx.found(&number.at))
            .accepted(format!("from {low} to {high}"));
        cx.wrong(&number.at, wrong);
        None
    }

    fn quantity(&mut self, cx: &mut Cx<'_>, key: &'static str, of: &Quantity) -> Option<At<u64>> {
        let value = self.get(cx, key)?;
        read_quantity(cx, &self.name(key), value, of)
    }

    /// Texts in an array; one alone needs no brackets.
    pub fn texts(&mut self, cx: &mut Cx<'_>, key: &'static str, most: usize) -> Option<Vec<At<String>>> {
        let value = self.get(cx, key)?;
        let name = self.name(key);
        match value.get_ref() {
            DeValue::Array(array) if array.len() <= most => {
                Some(array.iter().filter_map(|item| read_text(cx, &name, item)).collect())
            }
            DeValue::Array(array) => {
                let wrong = Wrong::new(format!("`{name}` is too long"))
                    .found(format!("{} entries", array.len()))
                    .accepted(format!("at most {most}"));
                cx.wrong(&value.span(), wrong);
                None
            }
            DeValue::String(_) => read_text(cx, &name, value).map(|text| vec![text]),
            _ => {
                self.wrong_type(cx, key, value, "texts in an array, [\"…\", \"…\"]");
                None
            }
        }
    }

    /// A table below this one.
    pub fn section(&mut self, cx: &mut Cx<'_>, key: &'static str) -> Option<Section<'d, 'i>> {
        let value = self.get(cx, key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(self.below(table, value.span(), key, key)),
            _ => {
                let accepted = format!("a table, [{}]", self.name(key));
                self.wrong_type(cx, key, value, &accepted);
                None
            }
        }
    }

    /// An array of tables, each with its number in its path.
    pub fn sections(&mut self, cx: &mut Cx<'_>, key: &'static str, most: usize) -> Vec<Section<'d, 'i>> {
        let Some(value) = self.get(cx, key) else { return Vec::new() };
        let accepted = format!("tables, each below a header [[{}]]", self.name(key));
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(cx, key, value, &accepted);
            return Vec::new();
        };
        if array.len() > most {
            let wrong = Wrong::new(format!("too many `{}`", self.name(key)))
                .found(array.len().to_string())
                .accepted(format!("at most {most}"));
            cx.wrong(&value.span(), wrong);
        }
        let mut sections = Vec::new();
        for (number, item) in array.iter().take(most).enumerate() {
            match item.get_ref() {
                DeValue::Table(table) => {
                    let (path, pattern) = (format!("{key}.{number}"), format!("{key}.*"));
                    sections.push(self.below(table, item.span(), &path, &pattern));
                }
                _ => self.wrong_type(cx, key, item, &accepted),
            }
        }
        sections
    }

    /// Tables below this one whose names are the user's, with the places of the names.
    pub fn named_sections(&self) -> Vec<Named<'d, 'i>> {
        let sections = self.table.iter().map(|(key, value)| {
            let name = At { value: key.get_ref().to_string(), at: key.span() };
            let section = match value.get_ref() {
                DeValue::Table(table) => Ok(self.below(table, value.span(), key.get_ref(), "*")),
                _ => Err(value.span()),
            };
            (name, section)
        });
        sections.collect()
    }

    /// Notes a value of the wrong type.
    pub fn wrong_type(&self, cx: &mut Cx<'_>, key: &str, value: &Spanned<DeValue<'_>>, accepted: &str) {
        wrong_type(cx, &self.name(key), value, accepted);
    }

    /// Notes every key that was never asked for.
    pub fn finish(self, cx: &mut Cx<'_>) {
        for (key, _) in self.table {
            if self.known.iter().any(|known| *known == key.get_ref().as_ref()) {
                continue;
            }
            let mut wrong = Wrong::new(format!("unknown key `{}`", self.name(key.get_ref())))
                .accepted(self.known.join(", "));
            if let Some(name) = nearest(key.get_ref(), self.known.iter().copied()) {
                wrong = wrong.help(format!("did you mean `{name}`?"));
            }
            cx.wrong(&key.span(), wrong);
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn wrong_type(cx: &mut Cx<'_>, name: &str, value: &Spanned<DeValue<'_>>, accepted: &str) {
    let found = match value.get_ref() {
        DeValue::Table(_) => "a table".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        _ => cx.found(&value.span()),
    };
    let wrong = Wrong::new(format!("`{name}` has the wrong type")).found(found).accepted(accepted);
    cx.wrong(&value.span(), wrong);
}

/// Text with `${env:NAME}` filled in.
pub(super) fn read_text(cx: &mut Cx<'_>, name: &str, value: &Spanned<DeValue<'_>>) -> Option<At<String>> {
    let Some(text) = value.get_ref().as_str() else {
        wrong_type(cx, name, value, "text in quotes");
        return None;
    };
    match expand(text, cx.env) {
        Ok(text) => Some(At { value: text, at: value.span() }),
        Err(wrong) => {
            cx.wrong(&value.span(), Wrong { message: format!("`{name}`: {}", wrong.message), ..wrong });
            None
        }
    }
}

/// Fills `${env:NAME}` in.
pub(super) fn expand(text: &str, env: Env<'_>) -> Result<String, Wrong> {
    const OPEN: &str = "${env:";
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(OPEN) {
        out.push_str(&rest[..at]);
        let after = &rest[at + OPEN.len()..];
        let Some((name, tail)) = after.split_once('}') else {
            return Err(Wrong::new("`${env:` is not closed").accepted("\"${env:NAME}\""));
        };
        match env(name) {
            Some(value) => out.push_str(&value),
            None => {
                let message = format!("the environment variable {name} is not set");
                return Err(Wrong::new(message).help(format!("set it: export {name}=…")));
            }
        }
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// A kind of quantity: its name, an example, its units, and how it is read.
struct Quantity {
    name: &'static str,
    example: &'static str,
    /// What to write instead of a bare number.
    suggest: fn(&str) -> String,
    finest: &'static str,
    read: fn(&str) -> Result<u64, QuantityError>,
}

const DURATION: Quantity = Quantity {
    name: "a duration",
    example: "\"30s\" or \"250ms\"",
    suggest: |bare| format!("\"{bare}s\" or \"{bare}ms\""),
    finest: "1ns",
    read: quantity::duration,
};
const RATE: Quantity = Quantity {
    name: "a rate",
    example: "\"600/s\" or \"0.5/s\"",
    suggest: |bare| format!("\"{bare}/s\""),
    finest: "0.001/s",
    read: quantity::rate,
};
const RATIO: Quantity = Quantity {
    name: "a ratio",
    example: "\"0.1%\"",
    suggest: suggest_ratio,
    finest: "0.0000001%",
    read: quantity::ratio,
};

/// Whoever writes 0.99 means 99 %, most likely; nobody but the writer knows.
fn suggest_ratio(bare: &str) -> String {
    match quantity::fraction(bare, quantity::WHOLE_PPB) {
        Ok(ppb) if ppb <= quantity::WHOLE_PPB => {
            format!("\"{}\" if the whole is 1, or \"{bare}%\"", quantity::ratio_text(ppb))
        }
        _ => format!("\"{bare}%\""),
    }
}

fn read_quantity(
    cx: &mut Cx<'_>,
    name: &str,
    value: &Spanned<DeValue<'_>>,
    of: &Quantity,
) -> Option<At<u64>> {
    let at = value.span();
    let text = match value.get_ref() {
        DeValue::String(_) => read_text(cx, name, value)?.value,
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.to_string(),
        _ => {
            wrong_type(cx, name, value, &format!("{} such as {}", of.name, of.example));
            return None;
        }
    };
    // A bare number has no unit, whatever its quotes.
    let error = match (of.read)(&text) {
        Ok(number) => return Some(At { value: number, at }),
        Err(error) => error,
    };
    let accepted = format!("{} such as {}", of.name, of.example);
    let wrong = match error {
        QuantityError::NoUnit(_) => {
            let suggestion = (of.suggest)(text.trim());
            Wrong::new(format!("`{name}` has no unit")).accepted(accepted).help(format!("write {suggestion}"))
        }
        QuantityError::Unit(unit) => {
            Wrong::new(format!("`{name}` has the unit `{unit}`, which does not belong there"))
                .accepted(accepted)
        }
        QuantityError::Number => Wrong::new(format!("`{name}` is not {}", of.name)).accepted(accepted),
        QuantityError::TooFine => Wrong::new(format!("`{name}` would have to be rounded"))
            .accepted(format!("multiples of {}", of.finest)),
        QuantityError::TooLarge => Wrong::new(format!("`{name}` is too large")).accepted(accepted),
    };
    let found = cx.found(&at);
    cx.wrong(&at, wrong.found(found));
    None
}
