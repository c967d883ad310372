//! `[users]`: who.

use super::model::{Dialect, Password, Pool, Scheme, Transport, Users};
use super::reader::{At, Cx, Section};
use super::source::Wrong;
use crate::users::pattern::Pattern;

/// Users of one run. Pairs are numbered with 32 bits on the wire.
pub const MAX_USERS: u64 = 20_000_000;

/// The longest message that goes over UDP: RFC 3261 §18.1.1 asks for a stream above 1300 bytes.
const MAX_DATAGRAM: u64 = 1_300;
/// What a PUBLISH with its Authorization takes besides addresses and names, in bytes.
const PUBLISH_FIXED: u64 = 895;
/// A DNS name is no longer, and a NetBIOS name far shorter.
const MAX_NT_DOMAIN: usize = 255;
/// Request-URI, From, To, the entity of the document, and the digest's `uri`.
const PUBLISH_URIS: u64 = 5;

pub(super) fn users(
    cx: &mut Cx<'_>,
    mut section: Section<'_, '_>,
    scheme: Scheme,
    dialect: Dialect,
    pool: Option<&Pool>,
) -> Option<Users> {
    let from = section.text(cx, "from");
    let count = section.integer(cx, "count", 2..=MAX_USERS);
    let pattern = section.parsed(cx, "pattern", "\"sip:user{n:06}@pool.test\"", |text| {
        check_pattern(text).map(|()| text.to_owned())
    });
    let password = password(cx, &mut section, scheme);
    let nt_domain = nt_domain(cx, &mut section, dialect);
    let by_file = section.has("from");
    let by_pattern = ["count", "pattern", "password_pattern", "password_file", "nt_domain"]
        .iter()
        .any(|key| section.has(key));
    if by_file && by_pattern {
        let at = section.key_at("from");
        let wrong = Wrong::new("`users.from` stands beside keys that say without a file who the users are");
        cx.wrong(&at, wrong.accepted("either `from`, or `count`, `pattern` and a password"));
        section.finish(cx);
        return None;
    }
    if by_file {
        section.finish(cx);
        return from.map(|from| Users::File { from: from.value });
    }
    let mut users = by_numbers(cx, &section, count, pattern, password, scheme, pool);
    if let Some(Users::Pattern { nt_domain: place, .. }) = &mut users {
        *place = nt_domain;
    }
    section.finish(cx);
    users
}

/// The domain before the user's part of each address; a users' file says it in `auth_user`.
fn nt_domain(cx: &mut Cx<'_>, section: &mut Section<'_, '_>, dialect: Dialect) -> Option<String> {
    let domain = section.text(cx, "nt_domain")?;
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    if dialect != Dialect::Lync {
        let wrong = Wrong::new("`users.nt_domain` belongs to the dialect `lync`").found(cx.found(&domain.at));
        cx.wrong(&domain.at, wrong.help("remove it, or add dialect = \"lync\""));
    } else if domain.value.is_empty() || domain.value.len() > MAX_NT_DOMAIN || !domain.value.chars().all(fits)
    {
        let wrong = Wrong::new("`users.nt_domain` is no domain").found(cx.found(&domain.at));
        cx.wrong(&domain.at, wrong.accepted("letters, digits, `-`, `.` and `_`, such as \"LOADLAB\""));
    }
    Some(domain.value)
}

fn by_numbers(
    cx: &mut Cx<'_>,
    section: &Section<'_, '_>,
    count: Option<At<u64>>,
    pattern: Option<At<String>>,
    password: Option<Password>,
    scheme: Scheme,
    pool: Option<&Pool>,
) -> Option<Users> {
    if !section.has("count") && !section.has("pattern") {
        section.missing(cx, "from", "a CSV path, or `count`, `pattern` and `password_pattern` instead");
        return None;
    }
    if !section.has("count") {
        section.missing(cx, "count", "the number of users");
    }
    if !section.has("pattern") {
        section.missing(cx, "pattern", "\"sip:user{n:06}@pool.test\"");
    }
    let has_password = section.has("password_pattern") || section.has("password_file");
    if !has_password && scheme != Scheme::Trusted {
        section.missing(cx, "password_pattern", "\"pw-user{n:06}\", or `password_file` with a path");
    }
    if let Some(count) = &count
        && count.value % 2 == 1
    {
        let wrong = Wrong::new("users come in pairs, and their count is odd").found(count.value.to_string());
        cx.wrong(&count.at, wrong.accepted("an even number").help(format!("write {}", count.value + 1)));
    }
    if let (Some(pattern), Some(pool), Some(count)) = (&pattern, pool, &count)
        && pool.transport == Transport::Udp
    {
        check_length(cx, pattern, count.value);
    }
    let password = if has_password { password? } else { Password::None };
    Some(Users::Pattern { count: count?.value, pattern: pattern?.value, password, nt_domain: None })
}

fn password(cx: &mut Cx<'_>, section: &mut Section<'_, '_>, scheme: Scheme) -> Option<Password> {
    let by_pattern = section.secret(cx, "password_pattern");
    let by_file = section.text(cx, "password_file");
    if section.has("password_pattern") && section.has("password_file") {
        let at = section.key_at("password_file");
        cx.wrong(
            &at,
            Wrong::new("`users.password_file` stands beside `users.password_pattern`")
                .accepted("one of them"),
        );
        return None;
    }
    if let Some(pattern) = by_pattern {
        if let Err(why) = Pattern::parse(&pattern.value) {
            // What was found is a secret.
            let wrong = Wrong::new(format!("`users.password_pattern` cannot be used, {why}"));
            cx.wrong(&pattern.at, wrong.accepted("text with {n} or {n:06} in it"));
        }
        if pattern.value.is_empty() && scheme != Scheme::Trusted {
            cx.wrong(&pattern.at, Wrong::new("`users.password_pattern` is empty").accepted("a password"));
        }
        return Some(Password::Pattern(pattern.value));
    }
    by_file.map(|path| Password::File(path.value))
}

/// A pattern must name different users, each with an address of record.
fn check_pattern(text: &str) -> Result<(), String> {
    let pattern = Pattern::parse(text)?;
    if !pattern.has_number() {
        return Err("it has no {n}, so all users would be one".to_owned());
    }
    crate::users::check_uri(&pattern.text(1))
}

/// RFC 3261 §18.1.1: what may not go over UDP is known before any traffic, roughly here and exactly by the agents.
fn check_length(cx: &mut Cx<'_>, pattern: &At<String>, count: u64) {
    let Ok(parsed) = Pattern::parse(&pattern.value) else { return };
    let uri = parsed.text(count);
    let (uri_length, user_and_realm) = (uri.len() as u64, uri.len().saturating_sub("sip:@".len()) as u64);
    let length = PUBLISH_FIXED + PUBLISH_URIS * uri_length + user_and_realm;
    if length > MAX_DATAGRAM {
        let wrong = Wrong::new(format!("a PUBLISH of these users takes about {length} bytes"))
            .found(format!("addresses of {uri_length} bytes"))
            .accepted(format!("at most {MAX_DATAGRAM} bytes over UDP (RFC 3261 section 18.1.1)"))
            .help("use transport = \"tcp\", or shorter addresses");
        cx.wrong(&pattern.at, wrong);
    }
}
