//! Who the users of a run are: rows of a CSV file, or names by number, and how
//! they pair up.
//!
//! The file has a header with the columns `sip_uri`, `auth_user`, `password`
//! or `ha1`, and optionally `realm`, `site`, `role`, in any order, parted by
//! `,` or `;`. A byte order mark and CRLF are taken. All mistakes are reported
//! at once, with row and column; no message ever shows a password.

pub mod pattern;
mod table;

use std::fmt;

use crate::scenario::{Password, Scenario, Scheme, Users};

pub use table::{ROWS_MAX, read_csv};

/// The users of a run, paired.
#[derive(Debug, Clone)]
pub struct Population {
    /// How many pairs there are; each is a publisher and a subscriber.
    pub pairs: u64,
    /// How users became pairs.
    pub pairing: Pairing,
    /// Who they are.
    pub who: Who,
}

impl Population {
    /// How many users there are.
    #[must_use]
    pub fn users(&self) -> u64 {
        self.pairs * 2
    }
}

/// How users became pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// The first publishes, the second subscribes, and so on.
    InOrder,
    /// The first publisher with the first subscriber, and so on.
    ByRole,
}

impl Pairing {
    /// The word in the hashes of a run.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Pairing::InOrder => "in-order",
            Pairing::ByRole => "by-role",
        }
    }
}

/// Who the users are.
#[derive(Clone)]
pub enum Who {
    /// Names by number; pair p is user 2p + 1 and user 2p + 2.
    Pattern {
        /// `sip:user{n:06}@pool.test`.
        sip_uri: String,
        /// The same for passwords: a secret.
        password: String,
        /// Before the user's part of the address as the name for NTLM; may be empty.
        nt_domain: String,
    },
    /// Pair p by name.
    Rows(Vec<RowPair>),
}

impl fmt::Debug for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Pattern { sip_uri, .. } => write!(f, "Pattern({sip_uri}, <redacted>)"),
            Who::Rows(rows) => write!(f, "Rows({} pairs)", rows.len()),
        }
    }
}

/// Two rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPair {
    /// Who publishes.
    pub publisher: Row,
    /// Who subscribes.
    pub subscriber: Row,
    /// The site where both are, if the file says so.
    pub site: Option<String>,
}

/// One row of the users' file.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// Line of the file, from 1, the header included.
    pub line: u64,
    /// Address of record.
    pub sip_uri: String,
    /// User name for authentication; empty: the user part of the address.
    pub auth_user: String,
    /// A secret, or empty if there is `ha1`.
    pub password: String,
    /// H(A1) in hex (RFC 7616 §3.4.2): a secret, too.
    pub ha1: String,
    /// The realm of `ha1`.
    pub realm: String,
    /// Where this user is.
    pub site: Option<String>,
    /// What this user does.
    pub role: Option<Role>,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row(line {}, {}, <redacted>)", self.line, self.sip_uri)
    }
}

/// What a user does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Publishes.
    Publisher,
    /// Subscribes.
    Subscriber,
}

/// A mistake in the users' file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserProblem {
    /// Line of the file, from 1.
    pub line: u64,
    /// The column's name, if it is about one.
    pub column: Option<&'static str>,
    /// What is wrong and what is accepted.
    pub message: String,
}

impl fmt::Display for UserProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            Some(column) => write!(f, "{}: {column}: {}", self.line, self.message),
            None => write!(f, "{}: {}", self.line, self.message),
        }
    }
}

/// Why there are no users.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsersError {
    /// The file cannot be used; every mistake, up to [`PROBLEMS_SHOWN`] of them.
    #[error("{}", listing(file, problems, *more))]
    File {
        /// Its name.
        file: String,
        /// The mistakes, by line.
        problems: Vec<UserProblem>,
        /// How many more there are.
        more: usize,
    },
    /// The password file cannot be used.
    #[error("{file}: {why}")]
    PasswordFile {
        /// Its name.
        file: String,
        /// What is wrong and what is accepted.
        why: String,
    },
}

/// So many mistakes of a users' file are told; a wrong column makes one for each row.
pub const PROBLEMS_SHOWN: usize = 100;

fn listing(file: &str, problems: &[UserProblem], more: usize) -> String {
    let mut lines: Vec<String> = problems.iter().map(|problem| format!("{file}:{problem}")).collect();
    if more > 0 {
        lines.push(format!("{file}: and {more} more mistakes"));
    }
    lines.join("\n")
}

/// The users that a scenario names.
///
/// `csv` is the content of `users.from`, `password_file` that of
/// `users.password_file`; each is looked at only if the scenario names it.
///
/// # Errors
/// [`UsersError`] with every mistake of the file.
pub fn population(
    users: &Users,
    scheme: Scheme,
    csv: &[u8],
    password_file: &[u8],
) -> Result<Population, UsersError> {
    match users {
        Users::File { from } => {
            let (rows, pairing) = read_csv(from, csv, scheme)?;
            Ok(Population { pairs: rows.len() as u64, pairing, who: Who::Rows(rows) })
        }
        Users::Pattern { count, pattern, password, nt_domain } => {
            let password = match password {
                Password::Pattern(pattern) => pattern.clone(),
                Password::File(path) => escape(&first_line(path, password_file)?, path)?,
                Password::None => String::new(),
            };
            let nt_domain = nt_domain.clone().unwrap_or_default();
            let who = Who::Pattern { sip_uri: pattern.clone(), password, nt_domain };
            Ok(Population { pairs: count / 2, pairing: Pairing::InOrder, who })
        }
    }
}

/// The users of a scenario, as [`population`] reads them, if its workload is one for them.
///
/// # Errors
/// [`UsersError`]; also if the file gives roles and every user is to publish and subscribe.
pub fn of_scenario(scenario: &Scenario, csv: &[u8], password_file: &[u8]) -> Result<Population, UsersError> {
    let population = population(&scenario.users, scenario.auth.scheme, csv, password_file)?;
    if let (Users::File { from }, Pairing::ByRole, Some(_)) =
        (&scenario.users, population.pairing, &scenario.workload.fan_out)
    {
        let message = "found with workload.fan_out, where every user publishes and subscribes; accepted: a file without \
                       roles, or a scenario without fan_out";
        let problem = UserProblem { line: 1, column: Some("role"), message: message.to_owned() };
        return Err(UsersError::File { file: from.clone(), problems: vec![problem], more: 0 });
    }
    Ok(population)
}

/// Writes the users' file of users by number, n from 1 to `count`: what `adsum
/// scenario users` prints, for filling a pool with accounts. Holds passwords.
///
/// # Errors
/// What is wrong with a pattern, or why `out` cannot be written, in words.
pub fn write_csv(out: impl std::io::Write, count: u64, sip_uri: &str, password: &str) -> Result<(), String> {
    let (sip_uri, password) = (pattern::Pattern::parse(sip_uri)?, pattern::Pattern::parse(password)?);
    let mut writer = csv::Writer::from_writer(out);
    let wrong = |error: csv::Error| error.to_string();
    writer.write_record(["sip_uri", "auth_user", "password"]).map_err(wrong)?;
    for n in 1..=count {
        let uri = sip_uri.text(n);
        check_uri(&uri)?;
        let user = uri.trim_start_matches("sip:").split('@').next().unwrap_or("");
        writer.write_record([&uri, user, &password.text(n)]).map_err(wrong)?;
    }
    writer.flush().map_err(|error| error.to_string())
}

/// The password in the first line of a file: UTF-8, a byte order mark and CRLF are taken.
fn first_line(file: &str, content: &[u8]) -> Result<String, UsersError> {
    let wrong = |why: &str| UsersError::PasswordFile { file: file.to_owned(), why: why.to_owned() };
    let text = std::str::from_utf8(content).map_err(|_| wrong("it is not UTF-8"))?;
    let line = text.trim_start_matches('\u{feff}').lines().next().unwrap_or("");
    if line.is_empty() {
        return Err(wrong("its first line is empty; the password of all users belongs there"));
    }
    Ok(line.to_owned())
}

/// On the wire passwords are patterns, so a brace in a password cannot be told from a number.
fn escape(password: &str, file: &str) -> Result<String, UsersError> {
    if password.contains(['{', '}']) {
        let why = "a password with a brace in it can only be given by a users' file (`users.from`)";
        return Err(UsersError::PasswordFile { file: file.to_owned(), why: why.to_owned() });
    }
    Ok(password.to_owned())
}

/// Checks an address of record: `sip:user@host`, without parameters (RFC 3261 §19.1.1).
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_uri(uri: &str) -> Result<(), String> {
    let rest = uri.strip_prefix("sip:").ok_or("an address begins with `sip:`")?;
    let (user, host) = rest.split_once('@').ok_or("an address has a user and an `@`")?;
    if user.is_empty() {
        return Err("the user before the `@` is empty".to_owned());
    }
    let user_char = |b: u8| b.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/%".contains(&b);
    if let Some(wrong) = user.chars().find(|c| !u8::try_from(*c).is_ok_and(user_char)) {
        return Err(format!("`{wrong}` cannot stand in the user part; write it as %XX"));
    }
    crate::scenario::network::HostPort::parse(host).map(|_| ())
}
