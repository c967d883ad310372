//! `--set key=value`: overrides of single keys, applied to the document before
//! it is read, so that they are checked like everything else.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::reader::Cx;
use super::source::Wrong;

/// Keys of `[users]` that say who the users are without a file.
const USERS_BY_PATTERN: [&str; 4] = ["count", "pattern", "password_pattern", "password_file"];

/// The overrides behind `--target --users --rate --hold --allow`.
///
/// `users` is a number of users or the path of a users' file; `rate` and
/// `hold` apply to every step; `allow` may be given several times.
#[must_use]
pub fn short_forms(
    target: Option<&str>,
    users: Option<&str>,
    rate: Option<&str>,
    hold: Option<&str>,
    allow: &[String],
) -> Vec<String> {
    let quoted = |text: &str| {
        let mut out = String::new();
        super::writer::write_string(&mut out, text);
        out
    };
    let mut sets = Vec::new();
    sets.extend(target.map(|target| format!("pool.target={}", quoted(target))));
    sets.extend(users.map(|users| match users.parse::<u64>() {
        Ok(count) => format!("users.count={count}"),
        Err(_) => format!("users.from={}", quoted(users)),
    }));
    sets.extend(rate.map(|rate| format!("step.*.rate={}", quoted(rate))));
    sets.extend(hold.map(|hold| format!("step.*.hold={}", quoted(hold))));
    if !allow.is_empty() {
        let networks: Vec<String> = allow.iter().map(|network| quoted(network)).collect();
        sets.push(format!("pool.allow=[{}]", networks.join(", ")));
    }
    sets
}

/// Applies one override. What is wrong with it goes into `cx`.
pub(super) fn apply<'i>(cx: &mut Cx<'_>, root: &mut Spanned<DeTable<'i>>, text: &'i str) {
    let start = cx.sources.push_set(text);
    let whole = start..start + text.len();
    let Some((path, value_text)) = text.split_once('=') else {
        let wrong = Wrong::new("an override has no `=`").found(format!("`{text}`")).accepted("key=value");
        return cx.wrong(&whole, wrong.help("for example --set workload.deadline=10s"));
    };
    let key_at = start..start + path.len();
    let Some(segments) = segments(path) else {
        let wrong = Wrong::new("an override names no key").found(format!("`{path}`"));
        return cx.wrong(&key_at, wrong.accepted("names with dots between them, such as step.0.rate"));
    };
    let value_start = start + path.len() + 1 + (value_text.len() - value_text.trim_start().len());
    let value = match value(value_text.trim(), value_start) {
        Ok(value) => value,
        Err(wrong) => return cx.wrong(&(value_start..whole.end), wrong),
    };
    if let Err(wrong) = insert(root.get_mut(), &segments, &key_at, &value, 0) {
        return cx.wrong(&key_at, wrong);
    }
    // The last word counts: naming the users in one way takes the other way back.
    if let [table, key] = &segments[..]
        && table == "users"
        && let Some(users) = root.get_mut().get_mut("users")
        && let DeValue::Table(users) = users.get_mut()
    {
        if key == "from" {
            for key in USERS_BY_PATTERN {
                users.remove(key);
            }
        } else if USERS_BY_PATTERN.contains(&key.as_str()) {
            users.remove("from");
        }
    }
}

/// `a."b.c".0` as `a`, `b.c`, `0`; `None` if a name is empty or a quote is left open.
fn segments(path: &str) -> Option<Vec<String>> {
    let mut segments = vec![String::new()];
    let mut quoted = false;
    for c in path.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            '.' if !quoted => segments.push(String::new()),
            c => segments.last_mut()?.push(c),
        }
    }
    let complete = !quoted && segments.iter().all(|segment| !segment.is_empty());
    complete.then_some(segments)
}

/// A value as TOML types it; what is no TOML value is text without its quotes.
fn value(text: &str, start: usize) -> Result<Spanned<DeValue<'_>>, Wrong> {
    let as_text = || {
        let text = DeValue::String(Cow::Borrowed(text));
        Spanned::new(start..start + (start_len(&text)), text)
    };
    match DeValue::parse(text) {
        Ok(value) if is_number_in_truth(value.get_ref()) => Ok(moved(value, start)),
        Ok(_) => Ok(as_text()),
        // Whoever opens a quote, a list or a table means TOML.
        Err(error) if text.starts_with(['"', '\'', '[', '{']) => {
            Err(Wrong::new(format!("an override is no TOML value, {}", error.message()))
                .found(format!("`{text}`")))
        }
        Err(_) => Ok(as_text()),
    }
}

fn start_len(value: &DeValue<'_>) -> usize {
    value.as_str().map_or(0, str::len)
}

/// The parser takes `127.0.0.1` for a float and leaves it to its caller to read it.
fn is_number_in_truth(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix()).is_ok(),
        DeValue::Float(float) => float.as_str().parse::<f64>().is_ok(),
        DeValue::Datetime(_) => false,
        _ => true,
    }
}

/// The same value, its places counted from `start`.
fn moved<'i>(value: Spanned<DeValue<'i>>, start: usize) -> Spanned<DeValue<'i>> {
    let span = move_span(&value.span(), start);
    let value = match value.into_inner() {
        DeValue::Array(array) => {
            DeValue::Array(array.into_iter().map(|item| moved(item, start)).collect::<DeArray<'i>>())
        }
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, value)| {
                    let at = move_span(&key.span(), start);
                    (Spanned::new(at, key.into_inner()), moved(value, start))
                })
                .collect::<DeTable<'i>>(),
        ),
        other => other,
    };
    Spanned::new(span, value)
}

fn move_span(span: &Range<usize>, by: usize) -> Range<usize> {
    span.start + by..span.end + by
}

/// Puts a value where the path leads, making tables on the way. `done` segments lie behind.
fn insert<'i>(
    table: &mut DeTable<'i>,
    path: &[String],
    key_at: &Range<usize>,
    value: &Spanned<DeValue<'i>>,
    done: usize,
) -> Result<(), Wrong> {
    let Some((key, rest)) = path.get(done..).and_then(<[String]>::split_first) else { return Ok(()) };
    if rest.is_empty() {
        if let Some(old) = table.get_mut(key.as_str()) {
            *old = value.clone();
        } else {
            table.insert(Spanned::new(key_at.clone(), Cow::Owned(key.clone())), value.clone());
        }
        return Ok(());
    }
    if !table.contains_key(key.as_str()) {
        if key == "step" || key == "threshold" {
            return Err(Wrong::new(format!("the scenario has no [[{key}]] to change")));
        }
        let made = Spanned::new(key_at.clone(), DeValue::Table(DeTable::new()));
        table.insert(Spanned::new(key_at.clone(), Cow::Owned(key.clone())), made);
    }
    let Some(below) = table.get_mut(key.as_str()) else { return Ok(()) };
    match below.get_mut() {
        DeValue::Table(below) => insert(below, path, key_at, value, done + 1),
        DeValue::Array(array) => insert_into_array(array, path, key_at, value, done + 1),
        _ => Err(Wrong::new(format!("`{}` is no table", path[..=done].join(".")))
            .help(format!("set it as a whole: --set {}=…", path[..=done].join(".")))),
    }
}

/// The same inside an array of tables: by number from 0, by `name`, or `*` for all.
fn insert_into_array<'i>(
    array: &mut DeArray<'i>,
    path: &[String],
    key_at: &Range<usize>,
    value: &Spanned<DeValue<'i>>,
    done: usize,
) -> Result<(), Wrong> {
    let Some(which) = path.get(done) else { return Ok(()) };
    let what = path[..done].join(".");
    if path.len() == done + 1 {
        return Err(Wrong::new(format!("`{}` is a whole table", path.join(".")))
            .accepted(format!("one of its keys, such as {what}.{which}.rate")));
    }
    let names: Vec<String> = array.iter().map(|item| name_of(item.get_ref())).collect();
    let count = names.len();
    let mut found = false;
    for (number, (item, name)) in array.iter_mut().zip(&names).enumerate() {
        let meant = which == "*" || *which == number.to_string() || (!name.is_empty() && which == name);
        if meant && let DeValue::Table(table) = item.get_mut() {
            insert(table, path, key_at, value, done + 1)?;
            found = true;
        }
    }
    if found {
        return Ok(());
    }
    let mut accepted = format!("0 to {}, or *", count.saturating_sub(1));
    let named: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    if !named.is_empty() {
        accepted.push_str(&format!(", or a name: {}", named.join(", ")));
    }
    Err(Wrong::new(format!("there is no `{what}.{which}`")).accepted(accepted))
}

fn name_of(item: &DeValue<'_>) -> String {
    item.as_table()
        .and_then(|table| table.get("name"))
        .and_then(|name| name.get_ref().as_str())
        .unwrap_or("")
        .into()
}
