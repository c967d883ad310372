//! Who the users of a shard are.
//!
//! A pattern costs nothing however many users there are; rows are kept as they
//! came. Users of a shard are numbered from 0: pair `i` of the shard is its
//! users `2i` (publisher) and `2i + 1` (subscriber).

use std::fmt;

use adsum_sip::protection::Credentials;

/// One user by name.
#[derive(Clone, Default)]
pub struct Row {
    /// Address of record, `sip:alice@example.com`.
    pub uri: Vec<u8>,
    /// User name for authentication.
    pub auth_user: Vec<u8>,
    /// Password; empty if `ha1` is given.
    pub password: Vec<u8>,
    /// H(A1) in lower-case hex, valid for one realm and algorithm (RFC 7616 §3.4.2); empty if there is a password.
    pub ha1: Vec<u8>,
    /// Line in the users' file, 0 if there is none.
    pub row: u32,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({}, <redacted>)", String::from_utf8_lossy(&self.uri))
    }
}

/// A text with `{n}` or `{n:06}` in it, once or several times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Number { width: usize },
}

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a pattern: write {{n}} or {{n:06}} for the user's number")]
pub struct PatternError(String);

impl Pattern {
    /// Reads a pattern. A text without a number is one, too.
    ///
    /// # Errors
    /// [`PatternError`] for any other use of braces.
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        let wrong = || PatternError(text.to_owned());
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            if open > 0 {
                pieces.push(Piece::Text(rest.as_bytes()[..open].to_vec()));
            }
            let close = open + rest[open..].find('}').ok_or_else(wrong)?;
            let width = match &rest[open + 1..close] {
                "n" => 0,
                other => other
                    .strip_prefix("n:0")
                    .and_then(|digits| digits.parse().ok())
                    .filter(|width| *width <= 20)
                    .ok_or_else(wrong)?,
            };
            pieces.push(Piece::Number { width });
            rest = &rest[close + 1..];
        }
        if rest.contains('}') {
            return Err(wrong());
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.as_bytes().to_vec()));
        }
        Ok(Pattern(pieces))
    }

    /// Appends the text for user `n`.
    pub fn write(&self, n: u64, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Number { width } => write_number(n, *width, out),
            }
        }
    }
}

/// Appends `n` in decimal, with zeros up to `width`.
pub fn write_number(mut n: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    while n > 0 || at == digits.len() {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
    }
    for _ in digits.len() - at..width {
        out.push(b'0');
    }
    out.extend_from_slice(&digits[at..]);
}

/// The users of a shard.
#[derive(Debug)]
pub enum Accounts {
    /// Names and passwords by number.
    Pattern {
        /// Address of record.
        uri: Pattern,
        /// User name for authentication; the user part of the URI if `None`.
        auth_user: Option<Pattern>,
        /// Password.
        password: Pattern,
        /// The pair's number among all pairs of the run, for each pair here.
        pairs: Vec<u32>,
    },
    /// Two rows for each pair: publisher, subscriber.
    Rows {
        /// Row `u` is user `u`.
        rows: Vec<Row>,
        /// The pair's number among all pairs of the run, for each pair here.
        pairs: Vec<u32>,
    },
}

impl Accounts {
    /// How many pairs there are.
    #[must_use]
    pub fn pairs(&self) -> &[u32] {
        match self {
            Accounts::Pattern { pairs, .. } | Accounts::Rows { pairs, .. } => pairs,
        }
    }

    /// True if nobody here has anything to answer a challenge with: a pool that trusts where we come
    /// from. A challenge is then a failure, and never answered with an empty password.
    #[must_use]
    pub fn have_no_secrets(&self) -> bool {
        match self {
            Accounts::Pattern { password, .. } => password.0.is_empty(),
            Accounts::Rows { rows, .. } => {
                !rows.is_empty() && rows.iter().all(|row| row.password.is_empty() && row.ha1.is_empty())
            }
        }
    }

    /// The user's number among all users of the run, from 1.
    #[inline]
    #[must_use]
    pub fn number(&self, user: u32) -> u32 {
        let pair = self.pairs().get(user as usize / 2).copied().unwrap_or(0);
        pair * 2 + 1 + (user & 1)
    }

    /// Appends the address of record.
    pub fn write_uri(&self, user: u32, out: &mut Vec<u8>) {
        match self {
            Accounts::Pattern { uri, .. } => uri.write(u64::from(self.number(user)), out),
            Accounts::Rows { rows, .. } => {
                out.extend_from_slice(rows.get(user as usize).map_or(b"", |row| &row.uri));
            }
        }
    }
}

impl Credentials for Accounts {
    fn write_user_name(&self, user: u32, out: &mut Vec<u8>) {
        match self {
            Accounts::Pattern { auth_user: Some(pattern), .. } => {
                pattern.write(u64::from(self.number(user)), out);
            }
            Accounts::Rows { rows, .. }
                if rows.get(user as usize).is_some_and(|r| !r.auth_user.is_empty()) =>
            {
                out.extend_from_slice(&rows[user as usize].auth_user);
            }
            _ => {
                // Written whole and cut down to its user part, in place.
                let start = out.len();
                self.write_uri(user, out);
                let (from, len) = adsum_sip::value::sip_uri(&out[start..]).map_or((0, 0), |uri| {
                    let from = memchr::memchr(b':', &out[start..]).map_or(0, |colon| colon + 1);
                    (from, uri.user.len())
                });
                out.copy_within(start + from..start + from + len, start);
                out.truncate(start + len);
            }
        }
    }

    fn write_password(&self, user: u32, out: &mut Vec<u8>) {
        match self {
            Accounts::Pattern { password, .. } => password.write(u64::from(self.number(user)), out),
            Accounts::Rows { rows, .. } => {
                out.extend_from_slice(rows.get(user as usize).map_or(b"", |row| &row.password));
            }
        }
    }

    fn ha1(&self, user: u32) -> Option<&[u8]> {
        match self {
            Accounts::Pattern { .. } => None,
            Accounts::Rows { rows, .. } => {
                rows.get(user as usize).map(|row| row.ha1.as_slice()).filter(|ha1| !ha1.is_empty())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_number_from_one_and_pad() {
        let mut out = Vec::new();
        Pattern::parse("sip:user{n:06}@pool{n}.test").unwrap().write(42, &mut out);
        assert_eq!(out, b"sip:user000042@pool42.test");
        for wrong in ["{m}", "{n", "n}", "{n:6}", "{n:0x}"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let row = Row { uri: b"sip:a@h".to_vec(), password: b"s3cret".to_vec(), ..Row::default() };
        assert!(!format!("{row:?}").contains("s3cret"));
    }
}
