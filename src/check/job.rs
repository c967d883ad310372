//! What is to be checked: from the flags, or from `[[check]]` entries of a
//! configuration, whose values the flags beat.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adsum_agent::net::tls::{HAS_LEGACY, NO_LEGACY, TlsOptions};
use adsum_coordinator::scenario::checks::{CheckEntry, CheckUser, TIMEOUT_NS, read_checks};
use adsum_coordinator::scenario::{Dialect, Transport as Carrier, names};
use adsum_presence::accounts::Row;
use adsum_presence::population::Transport;

use super::Refused;
use super::account::{Secret, account};
use crate::cli::{self, Auth};
use crate::exit;

/// The limit of the cmdlet.
const TIMEOUT: Duration = Duration::from_secs(25);

/// One pool with its pair.
#[derive(Debug)]
pub struct Job {
    /// The name in the configuration; the target without one.
    pub name: String,
    /// `host[:port]`, as it was given.
    pub target: String,
    pub transport: Transport,
    pub dialect: Dialect,
    pub auth: Auth,
    pub tls: TlsOptions,
    pub publisher: Row,
    pub subscriber: Row,
    pub timeout: Duration,
    pub source: Option<IpAddr>,
    pub advertise: Option<String>,
    pub trace: Option<PathBuf>,
}

/// All jobs, in the order in which they are printed. Every mistake of flags, files and
/// configuration is told here, before anything is sent.
pub fn jobs(args: &cli::Check) -> Result<Vec<Job>, Refused> {
    let mut jobs = match (&args.publisher, &args.subscriber) {
        (Some(publisher), Some(subscriber)) => from_flags(args, publisher, subscriber)?,
        (None, None) => from_configuration(args)?,
        (Some(_), None) => return usage("--publisher needs --subscriber: a check has two users"),
        (None, Some(_)) => return usage("--subscriber needs --publisher: a check has two users"),
    };
    if let Some(trace) = &args.trace {
        let several = jobs.len() > 1;
        for (number, job) in jobs.iter_mut().enumerate() {
            job.trace = Some(if several { numbered(trace, number + 1) } else { trace.clone() });
        }
    }
    Ok(jobs)
}

fn usage<T>(text: impl Into<String>) -> Result<T, Refused> {
    Err((exit::USAGE, text.into()))
}

fn from_flags(args: &cli::Check, publisher: &str, subscriber: &str) -> Result<Vec<Job>, Refused> {
    if args.all || args.config.is_some() {
        return usage(
            "--all and --config take their users from the configuration: leave --publisher and --subscriber out",
        );
    }
    if args.target.is_empty() {
        return usage("--target is missing: the pool, HOST[:PORT]");
    }
    for target in &args.target {
        adsum_agent::locate::split(target).or_else(|e| usage(format!("--target {target}: {e}")))?;
    }
    if publisher.eq_ignore_ascii_case(subscriber) {
        return usage(format!("publisher and subscriber are both {publisher}: a check has two users"));
    }
    let from_stdin = |file: &Option<PathBuf>| file.as_deref() == Some(Path::new("-"));
    if from_stdin(&args.publisher_credential_file) && from_stdin(&args.subscriber_credential_file) {
        return usage("only one of the credential files can be standard input (-)");
    }
    let user = |role: &str, uri: &str, file: &Option<PathBuf>| match adsum_coordinator::users::check_uri(uri)
    {
        Ok(()) => Ok(CheckUser {
            sip: uri.to_owned(),
            credential_file: file.as_ref().map(|path| path.to_string_lossy().into_owned()),
        }),
        Err(why) => usage(format!("--{role} {uri}: {why}")),
    };
    let entry = CheckEntry {
        name: String::new(),
        target: String::new(),
        dialect: None,
        transport: None,
        auth: None,
        ca: None,
        cert: None,
        key: None,
        server_name: None,
        legacy_tls: false,
        timeout_ns: None,
        local_address: None,
        advertise: None,
        publisher: user("publisher", publisher, &args.publisher_credential_file)?,
        subscriber: user("subscriber", subscriber, &args.subscriber_credential_file)?,
    };
    // The same pair for all of them: credentials are read, or asked for, once.
    let mut accounts = None;
    let jobs = args.target.iter().map(|target| {
        let entry = CheckEntry { name: target.clone(), target: target.clone(), ..entry.clone() };
        let job = job(args, &entry, Path::new(""), accounts.take())?;
        accounts = Some((job.publisher.clone(), job.subscriber.clone()));
        Ok(job)
    });
    jobs.collect()
}

fn from_configuration(args: &cli::Check) -> Result<Vec<Job>, Refused> {
    if args.all != args.target.is_empty() {
        return usage(if args.all {
            "--all checks every entry of the configuration: leave --target out, also ADSUM_TARGET"
        } else {
            "say what to check: --target HOST with --publisher and --subscriber, or --target NAME or --all \
             with [[check]] entries in a configuration"
        });
    }
    let file = find(args)?;
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(&file)
        .map_err(|e| (exit::CONFIGURATION, format!("cannot read {shown}: {e}")))?;
    let env = |name: &str| std::env::var(name).ok();
    let entries = read_checks(&shown, &text, &env)
        .map_err(|problems| (exit::CONFIGURATION, format!("{problems}:\n{}", problems.lines().trim_end())))?;
    let chosen: Vec<&CheckEntry> =
        if args.all { entries.iter().collect() } else { chosen(args, &entries, &shown)? };
    let dir = file.parent().unwrap_or(Path::new(""));
    chosen.into_iter().map(|entry| job(args, entry, dir, None)).collect()
}

/// Entries by their names, else by their targets.
fn chosen<'e>(
    args: &cli::Check,
    entries: &'e [CheckEntry],
    file: &str,
) -> Result<Vec<&'e CheckEntry>, Refused> {
    let mut chosen = Vec::new();
    for word in &args.target {
        let named: Vec<_> = entries.iter().filter(|entry| entry.name == *word).collect();
        let is_host = |entry: &&CheckEntry| {
            let host =
                adsum_agent::locate::split(&entry.target).map_or(entry.target.as_str(), |(host, _)| host);
            entry.target.eq_ignore_ascii_case(word) || host.eq_ignore_ascii_case(word)
        };
        let found = if named.is_empty() { entries.iter().filter(is_host).collect() } else { named };
        if found.is_empty() {
            let all: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
            let near = names::nearest(word, all.iter().copied());
            let near = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
            return usage(format!(
                "{file} has no [[check]] with the name or target {word}; it has {}{near}",
                all.join(", ")
            ));
        }
        chosen.extend(found);
    }
    Ok(chosen)
}

/// The configuration: what was named, else the user's, else the host's.
fn find(args: &cli::Check) -> Result<PathBuf, Refused> {
    let named = std::env::var_os("ADSUM_CONFIG").filter(|name| !name.is_empty());
    if let Some(file) = args.config.clone().or(named.map(PathBuf::from)) {
        return Ok(file);
    }
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let own = home.map(|home| Path::new(&home).join(".config/adsum/config.toml"));
    let places: Vec<PathBuf> = own.into_iter().chain([PathBuf::from("/etc/adsum/config.toml")]).collect();
    if let Some(found) = places.iter().find(|place| place.is_file()) {
        return Ok(found.clone());
    }
    let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    Err((
        exit::CONFIGURATION,
        format!(
            "there is no configuration with [[check]] entries: looked for --config, ADSUM_CONFIG, {}; or name \
             the users with --publisher and --subscriber",
            places.join(", ")
        ),
    ))
}

/// One entry with what the flags say instead. Relative paths of the entry count from `dir`.
fn job(
    args: &cli::Check,
    entry: &CheckEntry,
    dir: &Path,
    accounts: Option<(Row, Row)>,
) -> Result<Job, Refused> {
    let dialect = args.dialect.map_or(entry.dialect.unwrap_or(Dialect::Simple), cli::Dialect::of);
    let lync = dialect == Dialect::Lync;
    let carrier = args.transport.map(cli::Transport::of).or(entry.transport);
    let carrier = carrier.unwrap_or(if lync { Carrier::Tls } else { Carrier::Udp });
    let given = args.auth.or(entry.auth.map(Auth::of));
    let auth = given.unwrap_or(if lync { Auth::Ntlm } else { Auth::Digest });
    let path = |flag: &Option<PathBuf>, own: &Option<String>| {
        flag.clone().or_else(|| own.as_ref().map(|path| dir.join(path)))
    };
    let (cert, key) = (path(&args.cert, &entry.cert), path(&args.key, &entry.key));
    if carrier != Carrier::Tls
        && let Some(flag) = tls_flag(args)
    {
        return usage(format!(
            "{}: {flag} belongs to TLS, and this check goes over {}: --transport tls",
            entry.name,
            carrier.name().to_uppercase()
        ));
    }
    combination(&entry.name, lync, carrier, auth, cert.is_some())?;
    let legacy = args.legacy_tls || entry.legacy_tls;
    if legacy && !HAS_LEGACY {
        return Err((exit::CONFIGURATION, format!("{}: {NO_LEGACY}", entry.name)));
    }
    let timeout = match (&args.timeout, entry.timeout_ns) {
        (Some(text), _) => limit("--timeout", text)?,
        (None, Some(ns)) => Duration::from_nanos(ns),
        (None, None) => TIMEOUT,
    };
    let (publisher, subscriber) = match accounts {
        Some(accounts) => accounts,
        None => {
            let user = |user: &CheckUser, flag: &str| {
                let file = user.credential_file.as_ref().map(|file| match file.as_str() {
                    "-" => PathBuf::from("-"),
                    file => dir.join(file),
                });
                let secret = match &file {
                    _ if matches!(auth, Auth::None | Auth::Trusted) => Secret::None,
                    Some(file) => Secret::File(file),
                    None => Secret::Ask(flag),
                };
                account(&user.sip, secret)
            };
            let publisher = user(&entry.publisher, "--publisher-credential-file")?;
            (publisher, user(&entry.subscriber, "--subscriber-credential-file")?)
        }
    };
    Ok(Job {
        name: entry.name.clone(),
        target: entry.target.clone(),
        transport: match carrier {
            Carrier::Udp => Transport::Udp,
            Carrier::Tcp => Transport::Tcp,
            Carrier::Tls => Transport::Tls,
        },
        dialect,
        auth,
        tls: TlsOptions {
            ca_pem: pem("ca", path(&args.ca, &entry.ca))?,
            cert_pem: pem("cert", cert)?,
            key_pem: pem("key", key)?,
            server_name: args.server_name.clone().or_else(|| entry.server_name.clone()).unwrap_or_default(),
            legacy,
            ..TlsOptions::default()
        },
        publisher,
        subscriber,
        timeout,
        source: args.local_address.or(entry.local_address),
        advertise: args.advertise.clone().or_else(|| entry.advertise.clone()),
        trace: None,
    })
}

/// A flag that says something about TLS.
fn tls_flag(args: &cli::Check) -> Option<&'static str> {
    let given = [
        (args.ca.is_some(), "--ca"),
        (args.cert.is_some(), "--cert"),
        (args.server_name.is_some(), "--server-name"),
        (args.legacy_tls, "--legacy-tls"),
    ];
    given.into_iter().find(|(is_given, _)| *is_given).map(|(_, flag)| flag)
}

fn combination(name: &str, lync: bool, carrier: Carrier, auth: Auth, cert: bool) -> Result<(), Refused> {
    match (lync, carrier, auth) {
        (true, Carrier::Udp, _) => {
            usage(format!("{name}: the dialect lync does not go over UDP: --transport tls or tcp"))
        }
        (false, _, Auth::Ntlm) => usage(format!("{name}: --auth ntlm belongs to --dialect lync")),
        (_, Carrier::Udp | Carrier::Tcp, Auth::Trusted) => usage(format!(
            "{name}: --auth trusted needs --transport tls: it is the client certificate that is trusted"
        )),
        (_, _, Auth::Trusted) if !cert => usage(format!(
            "{name}: --auth trusted needs --cert and --key: the certificate of a server that the pool trusts"
        )),
        _ => Ok(()),
    }
}

/// A duration that a check may wait.
pub fn limit(flag: &str, text: &str) -> Result<Duration, Refused> {
    let wrong = |why: String| (exit::USAGE, format!("{flag}: {why}"));
    let limit = adsum_pool::config::duration(text).map_err(|e| wrong(e.to_string()))?;
    let ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    if !TIMEOUT_NS.contains(&ns) {
        return Err(wrong(format!("`{text}` is out of range: from 1ms to 60m")));
    }
    Ok(limit)
}

fn pem(flag: &str, path: Option<PathBuf>) -> Result<Vec<u8>, Refused> {
    let Some(path) = path else { return Ok(Vec::new()) };
    std::fs::read(&path).map_err(|e| (exit::CONFIGURATION, format!("--{flag} {}: {e}", path.display())))
}

/// `trace.txt` → `trace.2.txt`: a file of its own for each check.
fn numbered(trace: &Path, number: usize) -> PathBuf {
    match trace.extension() {
        Some(ext) => trace.with_extension(format!("{number}.{}", ext.to_string_lossy())),
        None => PathBuf::from(format!("{}.{number}", trace.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_that_cannot_be_are_refused_and_say_what_can() {
        let said = |lync, carrier, auth, cert| combination("p", lync, carrier, auth, cert).map_err(|e| e.1);
        assert!(said(true, Carrier::Udp, Auth::Ntlm, false).unwrap_err().contains("--transport tls"));
        assert!(said(false, Carrier::Tls, Auth::Ntlm, false).unwrap_err().contains("--dialect lync"));
        assert!(said(false, Carrier::Tcp, Auth::Trusted, true).unwrap_err().contains("--transport tls"));
        assert!(said(true, Carrier::Tls, Auth::Trusted, false).unwrap_err().contains("--cert"));
        assert_eq!(said(true, Carrier::Tls, Auth::Trusted, true), Ok(()));
        assert_eq!(said(true, Carrier::Tcp, Auth::None, false), Ok(()));
        assert_eq!(said(false, Carrier::Udp, Auth::Digest, false), Ok(()));
    }

    #[test]
    fn limits_have_units_and_bounds() {
        assert_eq!(limit("--timeout", "1.5s").unwrap(), Duration::from_millis(1500));
        for wrong in ["25", "0s", "2000m", "x"] {
            assert!(limit("--timeout", wrong).unwrap_err().1.starts_with("--timeout: "), "{wrong}");
        }
        assert_eq!(numbered(Path::new("a/t.txt"), 2), Path::new("a/t.2.txt"));
        assert_eq!(numbered(Path::new("t"), 2), Path::new("t.2"));
    }
}
