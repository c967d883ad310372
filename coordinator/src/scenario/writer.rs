//! A document as TOML text again: with its overrides and variables filled in
//! for a coordinator elsewhere, or without its secrets for the manifest.
//!
//! Comments are not kept: nobody can say what secrets they hold.

use toml::de::{DeTable, DeValue};

use super::reader::{Env, expand};

/// What stands in the manifest in place of a secret.
pub const REDACTED: &str = "<redacted>";
/// Keys whose values are secrets.
const SECRETS: [&str; 1] = ["users.password_pattern"];

/// What the text is for.
#[derive(Clone, Copy)]
pub(super) enum For<'a> {
    /// For reading it elsewhere: secrets are in it.
    Reading(Env<'a>),
    /// For showing it: secrets are redacted, `${env:…}` stays.
    Showing,
}

/// The document as TOML.
pub(super) fn write(root: &DeTable<'_>, purpose: For<'_>) -> String {
    let mut out = String::new();
    write_table(&mut out, root, "", purpose);
    out
}

fn write_table(out: &mut String, table: &DeTable<'_>, path: &str, purpose: For<'_>) {
    // Keys first: behind the header of a sub-table they would belong to it.
    for (key, value) in table {
        if is_header(value.get_ref()) {
            continue;
        }
        write_key(out, key.get_ref());
        out.push_str(" = ");
        write_value(out, value.get_ref(), &join(path, key.get_ref()), purpose);
        out.push('\n');
    }
    for (key, value) in table {
        let name = join(path, key.get_ref());
        let mut header = String::new();
        for segment in split_headers(path, key.get_ref()) {
            if !header.is_empty() {
                header.push('.');
            }
            write_key(&mut header, segment);
        }
        match value.get_ref() {
            DeValue::Table(below) => {
                out.push_str(&format!("\n[{header}]\n"));
                write_table(out, below, &name, purpose);
            }
            DeValue::Array(array) if is_header(value.get_ref()) => {
                for below in array.iter().filter_map(|item| item.get_ref().as_table()) {
                    out.push_str(&format!("\n[[{header}]]\n"));
                    write_inline_keys(out, below, &name, purpose);
                }
            }
            _ => {}
        }
    }
}

/// Tables of an array keep what is below them inline.
fn write_inline_keys(out: &mut String, table: &DeTable<'_>, path: &str, purpose: For<'_>) {
    for (key, value) in table {
        write_key(out, key.get_ref());
        out.push_str(" = ");
        write_value(out, value.get_ref(), &join(path, key.get_ref()), purpose);
        out.push('\n');
    }
}

/// Path segments are parted by a byte that no key holds, as site names may have dots.
const SEPARATOR: char = '\u{1f}';

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}{SEPARATOR}{key}") }
}

fn split_headers<'a>(path: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    path.split(SEPARATOR).filter(|segment| !segment.is_empty()).chain([key])
}

fn is_header(value: &DeValue<'_>) -> bool {
    match value {
        DeValue::Table(_) => true,
        DeValue::Array(array) => !array.is_empty() && array.iter().all(|item| item.get_ref().is_table()),
        _ => false,
    }
}

fn write_value(out: &mut String, value: &DeValue<'_>, path: &str, purpose: For<'_>) {
    match value {
        DeValue::String(text) => match purpose {
            For::Reading(env) => match expand(text, env) {
                Ok(expanded) => write_string(out, &expanded),
                Err(_) => write_string(out, text),
            },
            For::Showing if is_literal_secret(path, text) => write_string(out, REDACTED),
            For::Showing => write_string(out, text),
        },
        DeValue::Integer(integer) => out.push_str(&integer.to_string()),
        DeValue::Float(float) => out.push_str(&float.to_string()),
        DeValue::Boolean(yes) => out.push_str(if *yes { "true" } else { "false" }),
        DeValue::Datetime(datetime) => out.push_str(&datetime.to_string()),
        DeValue::Array(array) => {
            out.push('[');
            for (number, item) in array.iter().enumerate() {
                out.push_str(if number == 0 { "" } else { ", " });
                write_value(out, item.get_ref(), path, purpose);
            }
            out.push(']');
        }
        DeValue::Table(table) => {
            out.push_str("{ ");
            for (number, (key, value)) in table.iter().enumerate() {
                out.push_str(if number == 0 { "" } else { ", " });
                write_key(out, key.get_ref());
                out.push_str(" = ");
                write_value(out, value.get_ref(), &join(path, key.get_ref()), purpose);
            }
            out.push_str(" }");
        }
    }
}

/// A secret that stands in the text itself; the name of a variable is none.
fn is_literal_secret(path: &str, text: &str) -> bool {
    let path = path.replace(SEPARATOR, ".");
    let variable_alone =
        text.strip_prefix("${env:").and_then(|rest| rest.find('}').map(|at| at + 1 == rest.len()));
    SECRETS.contains(&path.as_str()) && variable_alone != Some(true)
}

fn write_key(out: &mut String, key: &str) {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { out.push_str(key) } else { write_string(out, key) }
}

/// A basic string with its escapes.
pub(super) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}
