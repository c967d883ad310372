//! Texts with holes: `{name}` takes what stands there, or has to be what was
//! taken under that name before; `{*}` takes anything.

use std::collections::BTreeMap;

/// What was taken, by name.
pub type Captures = BTreeMap<String, String>;

/// Matches the whole of `text`; what is taken is kept only if all of it matches.
pub fn matches(pattern: &str, text: &str, captures: &mut Captures) -> bool {
    let mut trial = captures.clone();
    let found = descend(pattern, text, &mut trial, false);
    if found {
        *captures = trial;
    }
    found
}

/// Matches a part of `text`.
pub fn contains(pattern: &str, text: &str, captures: &mut Captures) -> bool {
    let begins = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    for begin in begins {
        let mut trial = captures.clone();
        if descend(pattern, &text[begin..], &mut trial, true) {
            *captures = trial;
            return true;
        }
    }
    false
}

fn descend(pattern: &str, text: &str, captures: &mut Captures, open_end: bool) -> bool {
    let Some(open) = pattern.find('{') else {
        return if open_end { text.starts_with(pattern) } else { text == pattern };
    };
    let Some(rest) = text.strip_prefix(&pattern[..open]) else { return false };
    let close = open + pattern[open..].find('}').expect("a hole has to be closed");
    let (name, after) = (&pattern[open + 1..close], &pattern[close + 1..]);
    if let Some(known) = captures.get(name).cloned() {
        return rest
            .strip_prefix(known.as_str())
            .is_some_and(|rest| descend(after, rest, captures, open_end));
    }
    // As little as possible, but something, unless it does not matter.
    let least = usize::from(name != "*");
    let ends: Vec<usize> = rest.char_indices().map(|(at, _)| at).chain([rest.len()]).collect();
    for end in ends.into_iter().filter(|end| *end >= least) {
        let mut trial = captures.clone();
        if name != "*" {
            trial.insert(name.to_owned(), rest[..end].to_owned());
        }
        if descend(after, &rest[end..], &mut trial, open_end) {
            *captures = trial;
            return true;
        }
    }
    false
}

/// Puts what was taken into the holes of a template. `local` names a request
/// whose parts need no prefix.
pub fn fill(template: &str, local: &str, captures: &Captures) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let close =
            open + rest[open..].find('}').ok_or_else(|| format!("`{template}`: a hole is not closed"))?;
        let name = &rest[open + 1..close];
        let value = captures.get(name).or_else(|| captures.get(&format!("{local}.{name}")));
        out.push_str(&rest[..open]);
        out.push_str(value.ok_or_else(|| format!("nothing was taken under the name `{name}`"))?);
        rest = &rest[close + 1..];
    }
    out.push_str(rest);
    Ok(out)
}
