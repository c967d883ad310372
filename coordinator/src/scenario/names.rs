//! Names, and what somebody may have meant by a misspelt one.

/// True for `[a-z0-9][a-z0-9_.-]*`, at most `longest` characters.
#[must_use]
pub fn is_name(text: &str, longest: usize) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-');
    first && text.len() <= longest && text.bytes().all(rest)
}

/// The name that comes nearest, if one is near enough to be what was meant.
#[must_use]
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = match word.chars().count() {
        0..=2 => 1,
        3..=5 => 2,
        n => n.div_ceil(3),
    };
    names
        .into_iter()
        .map(|name| (distance(&word.to_lowercase(), name), name))
        .filter(|(distance, name)| *distance <= allowed && *distance < name.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Edits (insert, delete, replace, swap neighbours) from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    // Words longer than any name of ours need no exact figure.
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_names_find_theirs_and_others_find_nothing() {
        let names = ["target", "transport", "connections", "rate", "ramp"];
        assert_eq!(nearest("tagret", names), Some("target"));
        assert_eq!(nearest("transprot", names), Some("transport"));
        assert_eq!(nearest("Rate", names), Some("rate"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("x", names), None);
    }

    #[test]
    fn names_are_what_file_names_may_hold() {
        assert!(is_name("peak-1.0_b", 63));
        for wrong in ["", "-a", ".a", "A", "a b", "a|b", "ä"] {
            assert!(!is_name(wrong, 63), "{wrong}");
        }
        assert!(!is_name("abc", 2));
    }
}
