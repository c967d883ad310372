//! The users' file as a table.

use std::collections::{BTreeMap, HashMap};

use csv::{ReaderBuilder, StringRecord, Trim};

use super::{PROBLEMS_SHOWN, Pairing, Role, Row, RowPair, UserProblem, UsersError, check_uri};
use crate::scenario::{MAX_NAME, Scheme, names};

/// Rows of one users' file; pairs are numbered with 32 bits on the wire.
pub const ROWS_MAX: usize = 4_000_000;
/// Longest field: none of them goes into a message of SIP at greater length.
const FIELD_MAX: usize = 512;
const COLUMNS: [&str; 7] = ["sip_uri", "auth_user", "password", "ha1", "realm", "site", "role"];

/// Collects mistakes, and counts those beyond what anybody reads.
#[derive(Default)]
struct Mistakes {
    shown: Vec<UserProblem>,
    all: usize,
}

impl Mistakes {
    fn add(&mut self, line: u64, column: Option<&'static str>, message: impl Into<String>) {
        self.all += 1;
        if self.shown.len() < PROBLEMS_SHOWN {
            self.shown.push(UserProblem { line, column, message: message.into() });
        }
    }

    fn into_result<T>(mut self, file: &str, value: T) -> Result<T, UsersError> {
        if self.all == 0 {
            return Ok(value);
        }
        self.shown.sort_by_key(|problem| problem.line);
        let more = self.all - self.shown.len();
        Err(UsersError::File { file: file.to_owned(), problems: self.shown, more })
    }
}

/// Reads a users' file and pairs its users.
///
/// # Errors
/// [`UsersError::File`] with every mistake, up to [`PROBLEMS_SHOWN`] of them.
pub fn read_csv(file: &str, content: &[u8], scheme: Scheme) -> Result<(Vec<RowPair>, Pairing), UsersError> {
    let mut mistakes = Mistakes::default();
    let rows = rows(content, scheme, &mut mistakes);
    // Pairs of a table with holes in it would be other pairs.
    if mistakes.all > 0 {
        return mistakes.into_result(file, (Vec::new(), Pairing::InOrder));
    }
    check_duplicates(&rows, &mut mistakes);
    let paired = pair(rows, &mut mistakes);
    mistakes.into_result(file, paired)
}

fn rows(content: &[u8], scheme: Scheme, mistakes: &mut Mistakes) -> Vec<Row> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter(content))
        .trim(Trim::All)
        .flexible(true)
        .from_reader(content);
    let header = match reader.headers() {
        Ok(header) => header.clone(),
        Err(_) => {
            mistakes.add(1, None, "the header is not UTF-8");
            return Vec::new();
        }
    };
    let Some(columns) = columns(&header, scheme, mistakes) else { return Vec::new() };
    let mut rows = Vec::new();
    let mut lines = Lines { content, at: 0, line: 1 };
    for record in reader.records() {
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                let line = lines.of(error.position());
                mistakes.add(line, None, "the row cannot be read: it is not UTF-8");
                continue;
            }
        };
        let line = lines.of(record.position());
        if rows.len() == ROWS_MAX {
            mistakes.add(line, None, format!("too many rows; at most {ROWS_MAX} are read"));
            break;
        }
        rows.extend(row(&record, line, header.len(), &columns, scheme, mistakes));
    }
    if rows.is_empty() && mistakes.all == 0 {
        mistakes.add(1, None, "there are no users below the header");
    }
    rows
}

/// Counts lines up to a record. The csv crate takes empty lines for part of
/// the next record, so its own line numbers are too small behind them.
struct Lines<'a> {
    content: &'a [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line of a record; records come in order.
    fn of(&mut self, position: Option<&csv::Position>) -> u64 {
        let byte =
            position.map_or(self.at, |position| usize::try_from(position.byte()).unwrap_or(usize::MAX));
        while let Some(b) = self.content.get(self.at) {
            if self.at >= byte && !matches!(b, b'\r' | b'\n') {
                break;
            }
            self.line += u64::from(*b == b'\n');
            self.at += 1;
        }
        self.line
    }
}

/// `;` if the header has it and no `,`.
fn delimiter(content: &[u8]) -> u8 {
    let header = content.split(|b| *b == b'\n').next().unwrap_or(&[]);
    if header.contains(&b';') && !header.contains(&b',') { b';' } else { b',' }
}

/// Where each column stands.
type Columns = BTreeMap<&'static str, usize>;

fn columns(header: &StringRecord, scheme: Scheme, mistakes: &mut Mistakes) -> Option<Columns> {
    let before = mistakes.all;
    let mut columns = Columns::new();
    for (at, name) in header.iter().enumerate() {
        let Some(known) = COLUMNS.iter().find(|known| **known == name.to_ascii_lowercase()) else {
            let near = names::nearest(name, COLUMNS);
            let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            mistakes.add(1, None, format!("unknown column `{name}`, accepted: {}{hint}", COLUMNS.join(", ")));
            continue;
        };
        if columns.insert(known, at).is_some() {
            mistakes.add(1, Some(known), "the column stands there twice");
        }
    }
    if !columns.contains_key("sip_uri") {
        mistakes.add(1, Some("sip_uri"), "the column is missing");
    }
    if !columns.contains_key("password") && !columns.contains_key("ha1") && scheme != Scheme::Trusted {
        mistakes.add(1, Some("password"), "the column is missing; `password` or `ha1` is needed");
    }
    (mistakes.all == before).then_some(columns)
}

fn row(
    record: &StringRecord,
    line: u64,
    width: usize,
    columns: &Columns,
    scheme: Scheme,
    mistakes: &mut Mistakes,
) -> Option<Row> {
    if record.iter().all(str::is_empty) {
        return None;
    }
    let before = mistakes.all;
    if record.len() != width {
        mistakes.add(line, None, format!("{} fields, the header has {width}", record.len()));
        return None;
    }
    let field = |name: &str| columns.get(name).and_then(|at| record.get(*at)).unwrap_or("");
    for name in columns.keys() {
        let value = field(name);
        if value.len() > FIELD_MAX || value.chars().any(char::is_control) {
            let message = format!("longer than {FIELD_MAX} bytes, or with control characters in it");
            mistakes.add(line, Some(name), message);
        }
    }
    let sip_uri = field("sip_uri");
    if sip_uri.is_empty() {
        mistakes.add(line, Some("sip_uri"), "empty; accepted: an address such as sip:alice@pool.test");
    } else if let Err(why) = check_uri(sip_uri) {
        mistakes.add(line, Some("sip_uri"), format!("`{sip_uri}`: {why}"));
    }
    check_credentials(line, field("password"), field("ha1"), field("realm"), scheme, mistakes);
    let role = role(line, field("role"), mistakes);
    let site = field("site");
    if !site.is_empty() && !names::is_name(site, MAX_NAME) {
        mistakes.add(line, Some("site"), format!("`{site}` is no name; accepted: [a-z0-9][a-z0-9_.-]*"));
    }
    (mistakes.all == before).then(|| Row {
        line,
        sip_uri: sip_uri.to_owned(),
        auth_user: field("auth_user").to_owned(),
        password: field("password").to_owned(),
        ha1: field("ha1").to_ascii_lowercase(),
        realm: field("realm").to_owned(),
        site: (!site.is_empty()).then(|| site.to_owned()),
        role,
    })
}

fn check_credentials(
    line: u64,
    password: &str,
    ha1: &str,
    realm: &str,
    scheme: Scheme,
    mistakes: &mut Mistakes,
) {
    match (password.is_empty(), ha1.is_empty()) {
        (true, true) if scheme != Scheme::Trusted => {
            mistakes.add(line, Some("password"), "empty, and so is `ha1`; one of them is needed");
        }
        (false, false) => mistakes.add(line, Some("ha1"), "stands beside a password; one of them is enough"),
        _ => {}
    }
    if ha1.is_empty() {
        return;
    }
    // MD5 gives 32 digits, SHA-256 and SHA-512-256 give 64 (RFC 7616 §3.4.2).
    if !matches!(ha1.len(), 32 | 64) || !ha1.bytes().all(|b| b.is_ascii_hexdigit()) {
        mistakes.add(
            line,
            Some("ha1"),
            "not H(A1): accepted are 32 (MD5) or 64 (SHA-256) hexadecimal digits",
        );
    }
    if realm.is_empty() {
        mistakes.add(line, Some("realm"), "empty; `ha1` is good for one realm only, which stands here");
    }
}

fn role(line: u64, text: &str, mistakes: &mut Mistakes) -> Option<Role> {
    match text.to_ascii_lowercase().as_str() {
        "" => None,
        "publisher" => Some(Role::Publisher),
        "subscriber" => Some(Role::Subscriber),
        _ => {
            mistakes.add(line, Some("role"), format!("`{text}` is unknown; accepted: publisher, subscriber"));
            None
        }
    }
}

/// An address stands once: two users of one address would end each other's registrations.
fn check_duplicates(rows: &[Row], mistakes: &mut Mistakes) {
    let mut seen: HashMap<String, u64> = HashMap::with_capacity(rows.len());
    for row in rows {
        // Hosts compare without case (RFC 3261 §19.1.4), users with it.
        let key = match row.sip_uri.split_once('@') {
            Some((user, host)) => format!("{user}@{}", host.to_ascii_lowercase()),
            None => row.sip_uri.clone(),
        };
        match seen.get(&key) {
            Some(first) => {
                let message = format!("`{}` stands in line {first} already", row.sip_uri);
                mistakes.add(row.line, Some("sip_uri"), message);
            }
            None => {
                seen.insert(key, row.line);
            }
        }
    }
}

fn pair(rows: Vec<Row>, mistakes: &mut Mistakes) -> (Vec<RowPair>, Pairing) {
    if rows.iter().any(|row| row.role.is_some()) {
        (pair_by_role(rows, mistakes), Pairing::ByRole)
    } else {
        (pair_in_order(rows, mistakes), Pairing::InOrder)
    }
}

fn pair_in_order(rows: Vec<Row>, mistakes: &mut Mistakes) -> Vec<RowPair> {
    if rows.len() % 2 == 1
        && let Some(last) = rows.last()
    {
        let message =
            format!("users pair up in order, and their count is odd ({}): this one is alone", rows.len());
        mistakes.add(last.line, None, message);
    }
    let mut pairs = Vec::with_capacity(rows.len() / 2);
    let mut rows = rows.into_iter();
    while let (Some(publisher), Some(subscriber)) = (rows.next(), rows.next()) {
        if publisher.site != subscriber.site {
            let message = format!("not the site of line {}, with which this user pairs up", publisher.line);
            mistakes.add(subscriber.line, Some("site"), message);
        }
        let site = publisher.site.clone();
        pairs.push(RowPair { publisher, subscriber, site });
    }
    pairs
}

/// The i-th publisher of a site with its i-th subscriber.
fn pair_by_role(rows: Vec<Row>, mistakes: &mut Mistakes) -> Vec<RowPair> {
    let mut sites: BTreeMap<Option<String>, (Vec<Row>, Vec<Row>)> = BTreeMap::new();
    for row in rows {
        let (publishers, subscribers) = sites.entry(row.site.clone()).or_default();
        match row.role {
            Some(Role::Publisher) => publishers.push(row),
            Some(Role::Subscriber) => subscribers.push(row),
            None => mistakes.add(row.line, Some("role"), "empty; once one user has a role, each needs one"),
        }
    }
    let mut pairs = Vec::new();
    for (site, (publishers, subscribers)) in sites {
        if publishers.len() != subscribers.len()
            && let Some(line) = publishers.iter().chain(&subscribers).map(|row| row.line).max()
        {
            let place = site.as_deref().map_or_else(String::new, |site| format!(" at site {site}"));
            let message =
                format!("{} publishers but {} subscribers{place}", publishers.len(), subscribers.len());
            mistakes.add(line, Some("role"), message);
        }
        let both = publishers.into_iter().zip(subscribers);
        pairs.extend(both.map(|(publisher, subscriber)| RowPair {
            publisher,
            subscriber,
            site: site.clone(),
        }));
    }
    // In the order of the file, whatever the sites are called.
    pairs.sort_by_key(|pair| pair.publisher.line);
    pairs
}
