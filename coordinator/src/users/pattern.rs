//! Texts with the number of a user in them: `sip:user{n:06}@pool.test`.

/// Widths above this make no name shorter than the 64-bit number itself.
const MAX_WIDTH: usize = 20;

/// A text with `{n}` or `{n:06}` in it, once, several times, or not at all.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Piece>);

#[derive(Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// Decimal, with zeros up to this width.
    Number(usize),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not repeat it: it may be a secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "in a pattern braces hold the user's number: {n} or {n:06}".to_owned();
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if before.contains('}') {
                return Err(wrong());
            }
            let (inside, tail) = after.split_once('}').ok_or_else(wrong)?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let width = match inside {
                "n" => 0,
                inside => inside
                    .strip_prefix("n:0")
                    .and_then(|digits| digits.parse().ok())
                    .filter(|width| *width <= MAX_WIDTH)
                    .ok_or_else(wrong)?,
            };
            pieces.push(Piece::Number(width));
            rest = tail;
        }
        if rest.contains('}') {
            return Err(wrong());
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Pattern(pieces))
    }

    /// True if different users get different texts.
    #[must_use]
    pub fn has_number(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Number(_)))
    }

    /// The text of user `n`.
    #[must_use]
    pub fn text(&self, n: u64) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Number(width) => format!("{n:0width$}"),
        });
        pieces.collect()
    }
}

impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A pattern of passwords is a secret, and one type serves both.
        f.write_str("Pattern(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_padded_as_asked() {
        let text = |pattern: &str, n| Pattern::parse(pattern).map(|pattern| pattern.text(n));
        assert_eq!(text("sip:user{n:06}@pool.test", 17).as_deref(), Ok("sip:user000017@pool.test"));
        assert_eq!(text("{n}", 17).as_deref(), Ok("17"));
        assert_eq!(text("a{n}b{n:03}", 7).as_deref(), Ok("a7b007"));
        assert_eq!(text("{n:02}", 123).as_deref(), Ok("123"));
        for wrong in ["{", "}", "{m}", "{n:6}", "{n:099}", "a}b{n}", "{n", "{{n}}"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
