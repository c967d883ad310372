//! `adsum check`: the synthetic transaction, as the cmdlet answers it.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;
use std::time::Duration;

use adsum_agent::check::{Answer, Check, Step, run};
use adsum_agent::locate::{self, locate};
use adsum_agent::net::allow::{Allow, Network};
use adsum_agent::net::tls::{HAS_LEGACY, NO_LEGACY, TlsOptions};
use adsum_presence::accounts::Row;
use adsum_presence::population::Transport;

use crate::cli::{self, Format};
use crate::exit;

/// What was asked wrongly, with its exit code.
type Refused = (u8, String);

pub fn check(args: &cli::Check) -> u8 {
    let common = match Common::read(args) {
        Ok(common) => common,
        Err((code, text)) => {
            eprintln!("adsum: {text}");
            return code;
        }
    };
    let mut answers = Vec::with_capacity(args.target.len());
    for target in &args.target {
        let answer = one(args, &common, target);
        if let Format::Text = args.format {
            print_text(target, &answer);
        }
        answers.push((target.clone(), answer));
    }
    match args.format {
        Format::Text => {}
        Format::Json => print_json(&answers),
        Format::Csv => print_csv(&answers),
    }
    if answers.iter().all(|(_, answer)| answer.success) { 0 } else { exit::CHECK_FAILED }
}

struct Common {
    publisher: Row,
    subscriber: Row,
    timeout: Duration,
    tls: TlsOptions,
}

impl Common {
    fn read(args: &cli::Check) -> Result<Common, Refused> {
        let timeout = adsum_pool::config::duration(&args.timeout)
            .map_err(|e| (exit::USAGE, format!("--timeout: {e}")))?;
        let pem = |path: &Option<std::path::PathBuf>, flag: &str| match path {
            None => Ok(Vec::new()),
            Some(path) => std::fs::read(path)
                .map_err(|e| (exit::CONFIGURATION, format!("{flag} {}: {e}", path.display()))),
        };
        if args.legacy_tls && !HAS_LEGACY {
            return Err((exit::CONFIGURATION, NO_LEGACY.to_owned()));
        }
        Ok(Common {
            publisher: account("publisher", &args.publisher, args.publisher_credential_file.as_deref())?,
            subscriber: account("subscriber", &args.subscriber, args.subscriber_credential_file.as_deref())?,
            timeout,
            tls: TlsOptions {
                ca_pem: pem(&args.ca, "--ca")?,
                cert_pem: pem(&args.cert, "--cert")?,
                key_pem: pem(&args.key, "--key")?,
                server_name: args.server_name.clone().unwrap_or_default(),
                legacy: args.legacy_tls,
                ..TlsOptions::default()
            },
        })
    }
}

/// A SIP address and what its credential file says.
fn account(role: &str, uri: &str, file: Option<&Path>) -> Result<Row, Refused> {
    adsum_coordinator::users::check_uri(uri).map_err(|e| (exit::USAGE, format!("--{role} {uri}: {e}")))?;
    let mut row = Row { uri: uri.as_bytes().to_vec(), ..Row::default() };
    let text = match file {
        None if std::io::stdin().is_terminal() => {
            let password = rpassword::prompt_password(format!("Password of {uri}: "))
                .map_err(|e| (exit::CONFIGURATION, format!("no password was given: {e}")))?;
            row.password = password.into_bytes();
            return Ok(row);
        }
        None => {
            return Err((
                exit::CONFIGURATION,
                format!("--{role}-credential-file is missing: a file with user:password"),
            ));
        }
        Some(path) if path == Path::new("-") => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|e| (exit::CONFIGURATION, format!("standard input: {e}")))?;
            text
        }
        Some(path) => {
            warn_if_open(path);
            std::fs::read_to_string(path)
                .map_err(|e| (exit::CONFIGURATION, format!("{}: {e}", path.display())))?
        }
    };
    credentials(&mut row, &text).map_err(|e| (exit::CONFIGURATION, format!("credentials of {uri}: {e}")))?;
    Ok(row)
}

/// First line: `user:password`, or `ha1:REALM:user:HEX`.
fn credentials(row: &mut Row, text: &str) -> Result<(), String> {
    let line = text.trim_start_matches('\u{feff}').lines().next().unwrap_or("").trim_end_matches('\r');
    let (user, secret) = line.split_once(':').ok_or("the first line has no colon; write user:password")?;
    if user == "ha1" {
        let mut parts = secret.splitn(3, ':');
        let (_realm, user, hex) = (parts.next(), parts.next(), parts.next());
        let (user, hex) = user.zip(hex).ok_or("write ha1:REALM:user:HEX")?;
        if !matches!(hex.len(), 32 | 64) || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("the hash has to be 32 or 64 hex digits".to_owned());
        }
        row.auth_user = user.as_bytes().to_vec();
        row.ha1 = hex.as_bytes().to_vec();
        return Ok(());
    }
    row.auth_user = user.as_bytes().to_vec();
    row.password = secret.as_bytes().to_vec();
    Ok(())
}

fn warn_if_open(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0) {
        eprintln!("adsum: {} can be read by others: chmod 600 it", path.display());
    }
}

fn one(args: &cli::Check, common: &Common, target: &str) -> Answer {
    let transport = match args.transport {
        cli::Transport::Udp => Transport::Udp,
        cli::Transport::Tcp => Transport::Tcp,
        cli::Transport::Tls => Transport::Tls,
    };
    let refused = |code: &str, error: String, diagnosis: &str| Answer {
        code: code.to_owned(),
        error,
        diagnosis: diagnosis.to_owned(),
        ..Answer::default()
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refused("generator:start", error.to_string(), ""),
    };
    let found = match runtime.block_on(locate(target, transport, 1)) {
        Ok(found) => found,
        Err(error) => {
            return refused(
                "transport:dns",
                error.to_string(),
                "check the name, and the name servers of this host",
            );
        }
    };
    let mut tls = common.tls.clone();
    if tls.server_name.is_empty() {
        tls.server_name =
            locate::split(target).map_or(target, |(host, _)| host).trim_end_matches('.').to_owned();
    }
    // Naming a target permits traffic to its addresses, and to nothing else.
    let networks: Vec<Network> =
        found.targets.iter().filter_map(|t| t.ip().to_string().parse().ok()).collect();
    if args.verbose {
        if found.questions > 0 {
            // Name resolution is counted apart: it is in no latency.
            let all: Vec<String> = found.targets.iter().map(ToString::to_string).collect();
            let seconds = found.took.as_secs_f64();
            eprintln!("Name resolution completed in '{seconds:.7}' secs, counted apart: {}.", all.join(", "));
        }
        for failed in &found.failed {
            eprintln!("Name resolution: no {}: {}.", failed.question, failed.reason);
        }
        eprintln!("Registration Request hit against {target}");
    }
    let check = Check {
        targets: found.targets,
        transport,
        tls,
        publisher: common.publisher.clone(),
        subscriber: common.subscriber.clone(),
        timeout: common.timeout,
        source: args.local_address,
        advertise: args.advertise.clone(),
        allow: Allow::new(networks, None),
        trace: args.trace.clone(),
    };
    let answer = run(&check, |step| {
        if args.verbose {
            tell(step);
        }
    });
    if args.verbose && !answer.success {
        eprintln!("An exception '{}' occurred during the workflow.", answer.error);
    }
    for warning in &answer.warnings {
        eprintln!("adsum: warning: {warning}");
    }
    answer
}

fn tell(step: Step) {
    let who = |publisher: bool| if publisher { "publisher" } else { "subscriber" };
    match step {
        Step::Started(publisher, activity) => {
            eprintln!("'{}' activity started ({}).", activity.name(), who(publisher))
        }
        Step::Completed(publisher, activity, seconds) => {
            eprintln!(
                "'{}' activity completed in '{seconds:.7}' secs ({}).",
                activity.name(),
                who(publisher)
            );
        }
    }
}

/// `hh:mm:ss.fffffff`; zero on failure.
fn time_span(answer: &Answer) -> String {
    if !answer.success {
        return "00:00:00".to_owned();
    }
    let ticks = answer.latency.as_nanos() / 100;
    let seconds = ticks / 10_000_000;
    format!("{:02}:{:02}:{:02}.{:07}", seconds / 3600, seconds / 60 % 60, seconds % 60, ticks % 10_000_000)
}

fn result(answer: &Answer) -> &'static str {
    if answer.success { "Success" } else { "Failure" }
}

fn print_text(target: &str, answer: &Answer) {
    println!("TargetFqdn : {target}");
    println!("Result     : {}", result(answer));
    println!("Latency    : {}", time_span(answer));
    println!("Error      : {}", answer.error);
    println!("Diagnosis  : {}", answer.diagnosis);
}

fn print_json(answers: &[(String, Answer)]) {
    let checks: Vec<_> = answers
        .iter()
        .map(|(target, a)| {
            serde_json::json!({
                "target_fqdn": target, "result": result(a), "latency": time_span(a),
                "latency_seconds": a.success.then_some(a.latency.as_secs_f64()),
                "elapsed_seconds": a.elapsed.as_secs_f64(),
                "error": a.error, "diagnosis": a.diagnosis, "code": a.code, "activity": a.activity,
                "server": a.server, "warnings": a.warnings,
            })
        })
        .collect();
    println!("{:#}", serde_json::json!({ "schema_version": 1, "checks": checks }));
}

fn print_csv(answers: &[(String, Answer)]) {
    let header =
        ["schema_version", "target_fqdn", "result", "latency_s", "error", "diagnosis", "code", "activity"];
    let rows = answers.iter().map(|(target, a)| {
        vec![
            "1".to_owned(),
            target.clone(),
            result(a).to_owned(),
            if a.success { format!("{:.6}", a.latency.as_secs_f64()) } else { String::new() },
            a.error.clone(),
            a.diagnosis.clone(),
            a.code.clone(),
            a.activity.clone(),
        ]
    });
    print!("{}", String::from_utf8_lossy(&adsum_report::files::csv_bytes(&header, rows)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read() {
        let read = |text: &str| {
            let mut row = Row::default();
            credentials(&mut row, text).map(|()| row)
        };
        let row = read("\u{feff}LOADLAB\\alice:pa:ss\r\nmore").unwrap();
        assert_eq!(
            (row.auth_user.as_slice(), row.password.as_slice()),
            (&b"LOADLAB\\alice"[..], &b"pa:ss"[..])
        );
        let row = read(&format!("ha1:pool.test:alice:{}", "a".repeat(32))).unwrap();
        assert_eq!((row.auth_user.as_slice(), row.ha1.len()), (&b"alice"[..], 32));
        assert!(read("nothing").is_err() && read("ha1:r:u:zz").is_err());
    }

    #[test]
    fn a_latency_reads_like_the_cmdlets() {
        let latency = Duration::from_nanos(6_328_031_500);
        let answer = Answer { success: true, latency, ..Answer::default() };
        assert_eq!(time_span(&answer), "00:00:06.3280315");
        assert_eq!(time_span(&Answer { success: false, ..answer }), "00:00:00");
    }
}
