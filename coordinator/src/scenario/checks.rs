//! The configuration of `adsum check`: `[[check]]` entries, one for each pool
//! with its test accounts. Read like a scenario: all mistakes at once.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use toml::de::DeTable;

use super::model::{Dialect, Transport};
use super::network::HostPort;
use super::reader::{At, Cx, Env, Section};
use super::source::{Sources, Wrong};
use super::{MAX_FILE, Problems, name, problems};

/// Entries of one file: more pools than anybody checks from one host.
pub const MAX_CHECKS: usize = 256;
/// Nanoseconds that a check may wait for its notification.
pub const TIMEOUT_NS: RangeInclusive<u64> = 1_000_000..=3_600_000_000_000;

/// How the users of a check prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckAuth {
    /// Not at all, and the pool asks for nothing.
    None,
    /// RFC 7616.
    Digest,
    /// [MS-SIPAE].
    Ntlm,
    /// By the client certificate of the connection: the cmdlet's TrustedServer.
    Trusted,
}

impl CheckAuth {
    const WORDS: &[(&'static str, CheckAuth)] = &[
        ("none", CheckAuth::None),
        ("digest", CheckAuth::Digest),
        ("ntlm", CheckAuth::Ntlm),
        ("trusted", CheckAuth::Trusted),
    ];

    /// True if users need no credentials of their own.
    #[must_use]
    pub fn needs_no_credentials(self) -> bool {
        matches!(self, CheckAuth::None | CheckAuth::Trusted)
    }
}

/// A test account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckUser {
    /// Address of record, `sip:alice@example.com`.
    pub sip: String,
    /// File with `user:password`, as it was written.
    pub credential_file: Option<String>,
}

/// One `[[check]]`. Paths are as they were written, relative to the file's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckEntry {
    /// What `--target NAME` calls it.
    pub name: String,
    /// `host[:port]`.
    pub target: String,
    /// What is spoken on the wire.
    pub dialect: Option<Dialect>,
    /// What carries the messages.
    pub transport: Option<Transport>,
    /// How the users prove who they are.
    pub auth: Option<CheckAuth>,
    /// CAs to trust.
    pub ca: Option<String>,
    /// Client certificate.
    pub cert: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// Name that the server's certificate must have.
    pub server_name: Option<String>,
    /// OpenSSL instead of rustls, for pools without ECDHE, AEAD or TLS 1.2.
    pub legacy_tls: bool,
    /// Nanoseconds to wait for the notification.
    pub timeout_ns: Option<u64>,
    /// Local address.
    pub local_address: Option<IpAddr>,
    /// What stands in Via and Contact.
    pub advertise: Option<String>,
    /// Who publishes.
    pub publisher: CheckUser,
    /// Who is to be told.
    pub subscriber: CheckUser,
}

/// Reads a configuration of checks. `file` is its name in messages.
///
/// # Errors
/// [`Problems`]: all mistakes, in the order of the text.
pub fn read_checks(file: &str, text: &str, env: Env<'_>) -> Result<Vec<CheckEntry>, Problems> {
    let mut cx = Cx { sources: Sources::new(file, text), env, wrongs: Vec::new(), asked: Vec::new() };
    if text.len() > MAX_FILE {
        let wrong = Wrong::new("the file is too long").found(format!("{} bytes", text.len()));
        cx.wrong(&(0..0), wrong.accepted(format!("at most {MAX_FILE} bytes")));
        return Err(problems(cx));
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().unwrap_or(0..0);
        cx.wrong(&at, Wrong::new(format!("not TOML, {}", error.message())));
    }
    if !errors.is_empty() {
        return Err(problems(cx));
    }
    let mut section = Section::root(root.get_ref());
    let sections = section.sections(&mut cx, "check", MAX_CHECKS);
    if sections.is_empty() && cx.wrongs.is_empty() {
        section.missing(
            &mut cx,
            "check",
            "at least one [[check]] with `name`, `target`, `publisher` and `subscriber`",
        );
    }
    let mut names: Vec<String> = Vec::new();
    let mut checks = Vec::new();
    for section in sections {
        let at = section.text_at("name");
        let Some(check) = check(&mut cx, section) else { continue };
        if names.contains(&check.name) {
            let wrong = Wrong::new(format!("there are two checks named `{}`", check.name));
            cx.wrong(&at, wrong.accepted("a name of its own for each"));
        }
        names.push(check.name.clone());
        checks.push(check);
    }
    section.finish(&mut cx);
    if cx.wrongs.is_empty() { Ok(checks) } else { Err(problems(cx)) }
}

fn check(cx: &mut Cx<'_>, mut section: Section<'_, '_>) -> Option<CheckEntry> {
    let name = required(cx, &mut section, "name", "a name such as \"fra-1\"", name);
    let host = "host[:port], such as \"pool.example.com\" or \"pool.example.com:5061\"";
    let target = required(cx, &mut section, "target", host, |cx, section, key| {
        section
            .parsed(cx, key, host, |text| HostPort::parse(text).map(|_| text.to_owned()))
            .map(|at| at.value)
    });
    let dialect = section.choice(cx, "dialect", Dialect::WORDS).map(|at| at.value);
    let transport = section.choice(cx, "transport", Transport::WORDS);
    let auth = section.choice(cx, "auth", CheckAuth::WORDS);
    check_combination(cx, dialect, transport.as_ref(), auth.as_ref());
    let auth = auth.map(|at| at.value);
    let needs = !auth.is_some_and(CheckAuth::needs_no_credentials);
    let mut path = |cx: &mut Cx<'_>, key| section.text(cx, key).map(|at| at.value);
    let (ca, cert, key) = (path(cx, "ca"), path(cx, "cert"), path(cx, "key"));
    let server_name = path(cx, "server_name");
    let advertise = path(cx, "advertise");
    let legacy_tls = section.boolean(cx, "legacy_tls").is_some_and(|at| at.value);
    for (there, other) in [(&cert, "key"), (&key, "cert")] {
        if there.is_some() && !section.has(other) {
            section.missing(cx, other, "a certificate and its key together");
        }
    }
    let lync = dialect == Some(Dialect::Lync);
    let carrier = transport.as_ref().map(|at| at.value).or((!section.has("transport")).then_some(if lync {
        Transport::Tls
    } else {
        Transport::Udp
    }));
    // A transport that nobody can read is one mistake, not several.
    for own in ["ca", "cert", "key", "server_name", "legacy_tls"] {
        if section.has(own) && carrier.is_some_and(|carrier| carrier != Transport::Tls) {
            let wrong = Wrong::new(format!("`{}` belongs to TLS", section.name(own)));
            cx.wrong(&section.key_at(own), wrong.accepted("it with transport = \"tls\""));
        }
    }
    let timeout_ns = section.duration(cx, "timeout", TIMEOUT_NS).map(|at| at.value);
    let local_address = section.parsed(cx, "local_address", "an address such as \"192.0.2.10\"", |text| {
        text.parse::<IpAddr>().map_err(|_| "it is no address".to_owned())
    });
    let publisher = user(cx, &mut section, "publisher", needs);
    let subscriber = user(cx, &mut section, "subscriber", needs);
    if let (Some(one), Some(other)) = (&publisher, &subscriber)
        && one.sip.eq_ignore_ascii_case(&other.sip)
    {
        let wrong = Wrong::new("publisher and subscriber are the same account").found(one.sip.clone());
        cx.wrong(&section.key_at("subscriber"), wrong.accepted("two accounts"));
    }
    section.finish(cx);
    Some(CheckEntry {
        name: name?,
        target: target?,
        dialect,
        transport: transport.map(|at| at.value),
        auth,
        ca,
        cert,
        key,
        server_name,
        legacy_tls,
        timeout_ns,
        local_address: local_address.map(|at| at.value),
        advertise,
        publisher: publisher?,
        subscriber: subscriber?,
    })
}

/// What a key says, and a mistake if the key is not there.
fn required<T>(
    cx: &mut Cx<'_>,
    section: &mut Section<'_, '_>,
    key: &'static str,
    accepted: &str,
    read: impl FnOnce(&mut Cx<'_>, &mut Section<'_, '_>, &'static str) -> Option<T>,
) -> Option<T> {
    if section.get(cx, key).is_none() {
        section.missing(cx, key, accepted);
        return None;
    }
    read(cx, section, key)
}

fn check_combination(
    cx: &mut Cx<'_>,
    dialect: Option<Dialect>,
    transport: Option<&At<Transport>>,
    auth: Option<&At<CheckAuth>>,
) {
    let lync = dialect == Some(Dialect::Lync);
    if let Some(at) = transport.filter(|at| lync && at.value == Transport::Udp) {
        let wrong = Wrong::new("the dialect `lync` does not go over UDP").found(cx.found(&at.at));
        cx.wrong(&at.at, wrong.accepted("\"tls\", \"tcp\""));
    }
    if let Some(at) = auth.filter(|at| !lync && at.value == CheckAuth::Ntlm) {
        let wrong = Wrong::new("`ntlm` belongs to the dialect `lync`").found(cx.found(&at.at));
        cx.wrong(&at.at, wrong.accepted("\"digest\", \"none\", \"trusted\""));
    }
}

fn user(cx: &mut Cx<'_>, section: &mut Section<'_, '_>, key: &'static str, needs: bool) -> Option<CheckUser> {
    let accepted = format!("{key} = {{ sip = \"sip:user@domain\", credential_file = \"…\" }}");
    if section.get(cx, key).is_none() {
        section.missing(cx, key, &accepted);
        return None;
    }
    let mut user = section.section(cx, key)?;
    let address = "a SIP address such as \"sip:alice@example.com\"";
    let sip = required(cx, &mut user, "sip", address, |cx, user, key| {
        user.parsed(cx, key, address, |text| crate::users::check_uri(text).map(|()| text.to_owned()))
            .map(|at| at.value)
    });
    let credential_file = user.text(cx, "credential_file").map(|at| at.value);
    if needs && !user.has("credential_file") {
        user.missing(cx, "credential_file", "a file with user:password, or auth = \"none\" or \"trusted\"");
    }
    user.finish(cx);
    Some(CheckUser { sip: sip?, credential_file })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<CheckEntry>, String> {
        let env = |name: &str| (name == "DOMAIN").then(|| "example.com".to_owned());
        read_checks("c.toml", text, &env).map_err(|problems| problems.lines())
    }

    const GOOD: &str = r#"
[[check]]
name = "fra-1"
target = "fra-1.example.com:5061"
transport = "tls"
ca = "ca.pem"
timeout = "10s"
publisher = { sip = "sip:alice@${env:DOMAIN}", credential_file = "alice" }
subscriber = { sip = "sip:bob@example.com", credential_file = "bob" }

[[check]]
name = "lync"
target = "lync.example.com"
dialect = "lync"
auth = "trusted"
legacy_tls = true
cert = "me.pem"
key = "me-key.pem"
publisher = { sip = "sip:alice@example.com" }
subscriber = { sip = "sip:bob@example.com" }
"#;

    #[test]
    fn entries_are_read() {
        let checks = read(GOOD).unwrap();
        assert_eq!(checks.len(), 2);
        let first = &checks[0];
        assert_eq!((first.name.as_str(), first.publisher.sip.as_str()), ("fra-1", "sip:alice@example.com"));
        assert_eq!((first.transport, first.timeout_ns), (Some(Transport::Tls), Some(10_000_000_000)));
        let second = &checks[1];
        assert!(second.legacy_tls && !first.legacy_tls);
        assert_eq!((second.dialect, second.auth), (Some(Dialect::Lync), Some(CheckAuth::Trusted)));
        assert_eq!((second.key.as_deref(), &second.publisher.credential_file), (Some("me-key.pem"), &None));
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_places() {
        let text = r#"
[[check]]
name = "A"
target = "fra-1.example.com:http"
transprot = "tls"
timeout = 25
publisher = { sip = "alice@example.com", credential_file = "alice" }

[[check]]
name = "b"
target = "h"
auth = "ntlm"
cert = "x"
publisher = { sip = "sip:alice@example.com" }
other = 1

[[check]]
name = "c"
target = "h"
auth = "none"
publisher = { sip = "sip:alice@example.com" }
subscriber = { sip = "sip:Alice@example.com" }
"#;
        let told = read(text).unwrap_err();
        for (place, words) in [
            ("c.toml:3:8: ", "`check.0.name` is no name"),
            ("c.toml:4:10: ", "`check.0.target` cannot be used"),
            ("c.toml:5:1: ", "unknown key `check.0.transprot`"),
            ("c.toml:6:11: ", "\"25s\" or \"25ms\""),
            ("c.toml:7:21: ", "begins with `sip:`"),
            ("c.toml:2:1: ", "`check.0.subscriber` is missing"),
            ("c.toml:12:8: ", "`ntlm` belongs to the dialect `lync`"),
            ("c.toml:9:1: ", "`check.1.key` is missing"),
            ("c.toml:13:1: ", "`check.1.cert` belongs to TLS"),
            ("c.toml:22:1: ", "publisher and subscriber are the same account"),
            ("c.toml:14:13: ", "`check.1.publisher.credential_file` is missing"),
            ("c.toml:15:1: ", "unknown key `check.1.other`"),
        ] {
            assert!(
                told.lines().any(|line| line.starts_with(place) && line.contains(words)),
                "{place}{words} is not in\n{told}"
            );
        }
        assert!(told.contains("did you mean `transport`?"), "{told}");
    }

    #[test]
    fn names_are_told_apart_and_an_empty_file_is_a_mistake() {
        let twice = GOOD.replace("\"lync\"\ntarget", "\"fra-1\"\ntarget");
        let told = read(&twice).unwrap_err();
        assert!(told.contains("c.toml:12:8: there are two checks named `fra-1`"), "{told}");
        assert!(read("# nothing\n").unwrap_err().contains("at least one [[check]]"));
        assert!(read("[[check]\n").unwrap_err().contains("c.toml:1:"));
        assert!(
            read(&GOOD.replace("auth = \"trusted\"", "transport = \"udp\"")).unwrap_err().contains("UDP")
        );
    }
}
