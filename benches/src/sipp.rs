//! SIPp: its scenario from the template, one run of it, and what it counted.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::options::{Auth, Connections, Transport};
use crate::process::{self, Named as _, Process, Result, said};
use crate::sample::Sample;

const TEMPLATE: &str = include_str!("../sipp/pair.xml");
const OPEN: &str = "<exchange";
const CLOSE: &str = "</exchange>";

/// SIPp as it is installed here.
#[derive(Debug, Clone)]
pub struct Sipp {
    program: PathBuf,
    pub version: String,
    pub has_tls: bool,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    pub dir: &'a Path,
    pub target: (&'a str, u16),
    pub transport: Transport,
    pub auth: Auth,
    pub connections: Connections,
    pub rate: u64,
    pub pairs: u64,
    pub users: u64,
    /// Certificate and key that SIPp wants for TLS.
    pub certificates: Option<&'a Path>,
}

impl Sipp {
    pub fn find(program: &Path) -> Result<Sipp> {
        // It prints its version and ends with 99.
        let out = Command::new(program).arg("-v").stdin(Stdio::null()).output().map_err(|error| {
            said(format!(
                "{}: {error}; Debian has it in sip-tester, or name another with --sipp PATH",
                program.display()
            ))
        })?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        let version = text
            .split_ascii_whitespace()
            .find(|word| word.starts_with('v') && word[1..].starts_with(|c: char| c.is_ascii_digit()))
            .ok_or_else(|| said(format!("{} does not tell its version", program.display())))?;
        let version = version.trim_end_matches('.').to_owned();
        Ok(Sipp { program: program.to_owned(), has_tls: version.contains("TLS"), version })
    }

    /// Runs pairs at a rate and waits for the end. The server's CPU time is the caller's business.
    pub fn run(&self, load: &Load<'_>) -> Result<Sample> {
        std::fs::create_dir_all(load.dir).named(load.dir.display())?;
        for old in std::fs::read_dir(load.dir).named(load.dir.display())?.flatten() {
            drop(std::fs::remove_file(old.path()));
        }
        let at = |name: &str| load.dir.join(name);
        std::fs::write(at("pair.xml"), scenario(load.auth, load.transport)?).named("pair.xml")?;
        std::fs::write(at("users.csv"), users(load.users)).named("users.csv")?;
        let screen = std::fs::File::create(at("screen.txt")).named("screen.txt")?;
        let words = std::fs::File::create(at("stderr.txt")).named("stderr.txt")?;
        let expected = load.pairs.div_ceil(load.rate.max(1));
        let mut command = Command::new(&self.program);
        command.current_dir(load.dir).stdout(screen).stderr(words).env("TERM", "dumb");
        command.arg(format!("{}:{}", load.target.0, load.target.1));
        command.args(["-sf", "pair.xml", "-inf", "users.csv", "-t", mode(load.transport, load.connections)]);
        command.args(["-i", "127.0.0.1", "-mi", "127.0.0.1", "-p", &process::free_port()?.to_string()]);
        // Open loop: the limit on open calls is all pairs there are.
        command.args(["-r", &load.rate.to_string(), "-rp", "1000", "-m", &load.pairs.to_string()]);
        command.args(["-l", &(load.users / 2).to_string(), "-timeout", &(expected + 60).to_string()]);
        command.args(["-nostdin", "-trace_err", "-error_file", "errors.log", "-trace_counts"]);
        command.args(["-trace_stat", "-stf", "stat.csv", "-fd", "1", "-buff_size", "4194304"]);
        command.args(["-max_recv_loops", "1000", "-max_sched_loops", "10000"]);
        command.args(["-watchdog_minor_maxtriggers", "1000000", "-watchdog_major_maxtriggers", "1000000"]);
        if load.connections == Connections::PerUser {
            let sockets = process::raise_file_limit().saturating_sub(200).min(50_000);
            command.args(["-max_socket", &sockets.to_string()]);
        }
        if load.transport == Transport::Tls {
            let certificates = load.certificates.ok_or_else(|| said("TLS without certificates"))?;
            command.arg("-tls_cert").arg(certificates.join("localhost.pem"));
            command.arg("-tls_key").arg(certificates.join("localhost-key.pem"));
            if load.connections == Connections::Shared {
                // 3.6.1 hangs in a blocking read when one connection speaks 1.3.
                command.args(["-tls_version", "1.2"]);
            }
        }
        let before = process::used_by_children()?;
        let status = Process::start("sipp", &mut command)?.finish(Duration::from_secs(expected + 90))?;
        let used = process::used_by_children()?.since(before);
        let counts = read_counts(load.dir)?;
        let calls = read_statistics(&at("stat.csv"))?;
        let mut sample = Sample {
            cpu: used.cpu,
            waits: used.waits,
            pairs_wanted: load.pairs,
            pairs: calls.succeeded,
            messages: counts.messages,
            messages_hold: counts.messages,
            retransmissions: counts.retransmissions,
            seconds: calls.seconds,
            ..Sample::default()
        };
        // Open loop: SIPp strikes arrivals when it cannot keep up, and that would be less work at a time.
        if calls.seconds > expected as f64 * 1.05 + 1.0 {
            sample.refused.push(format!(
                "SIPp took {:.1} s for pairs of {expected} s: it did not keep the rate",
                calls.seconds
            ));
        }
        if !status.success() || calls.failed > 0 || counts.unexpected > 0 {
            sample.refused.push(format!(
                "SIPp ended with {}, {} calls failed, {} messages were unexpected",
                status.code().map_or_else(|| "a signal".to_owned(), |code| code.to_string()),
                calls.failed,
                counts.unexpected
            ));
        }
        Ok(sample)
    }
}

fn mode(transport: Transport, connections: Connections) -> &'static str {
    match (transport, connections) {
        (Transport::Udp, Connections::Shared) => "u1",
        (Transport::Udp, Connections::PerUser) => "un",
        (Transport::Tcp, Connections::Shared) => "t1",
        (Transport::Tcp, Connections::PerUser) => "tn",
        (Transport::Tls, Connections::Shared) => "l1",
        (Transport::Tls, Connections::PerUser) => "ln",
    }
}

/// The accounts in pairs. SIPp 3.6.1 garbles `[fieldN]` inside `[authentication]`,
/// so a field holds the whole keyword.
fn users(count: u64) -> String {
    let mut text = String::from("SEQUENTIAL\n");
    for pair in 0..count / 2 {
        for user in [2 * pair + 1, 2 * pair + 2] {
            text +=
                &format!("user{user:06};[authentication username=user{user:06} password=pw-user{user:06}];");
        }
        text.push('\n');
    }
    text
}

/// SIPp's scenario: every `exchange` of the template written out.
pub fn scenario(auth: Auth, transport: Transport) -> Result<String> {
    let (rport, params) = match transport {
        Transport::Udp => (";rport", ""),
        Transport::Tcp => ("", ";transport=tcp"),
        Transport::Tls => ("", ";transport=tls"),
    };
    let template = TEMPLATE.replace("@RPORT@", rport).replace("@PARAMS@", params);
    let mut out = String::with_capacity(2 * template.len());
    let mut rest = template.as_str();
    while let Some(open) = rest.find(OPEN) {
        let bad = || said("sipp/pair.xml: an exchange does not end or names no credentials");
        out.push_str(&rest[..open]);
        let body = rest[open..].find('>').ok_or_else(bad)? + open;
        let close = rest[body..].find(CLOSE).ok_or_else(bad)? + body;
        let (tag, text) = (&rest[open..body], &rest[body + 1..close]);
        let field = attribute(tag, "credentials").ok_or_else(bad)?;
        let timer = attribute(tag, "timer").map_or_else(String::new, |name| format!(" start_rtd=\"{name}\""));
        let bare = text.replace("@CREDENTIALS@\n", "");
        match auth {
            Auth::Ntlm => {
                return Err(said(
                    "SIPp speaks no NTLM; accepted here: --auth digest, plain (bench cost has ntlm)",
                ));
            }
            Auth::Plain => out += &format!("<send retrans=\"500\"{timer}>{bare}</send>"),
            Auth::Digest => {
                let proven = text.replace("@CREDENTIALS@", &format!("[field{field}]"));
                out +=
                    &format!("<send retrans=\"500\">{bare}</send>\n<recv response=\"401\" auth=\"true\"/>\n");
                out += &format!("<send retrans=\"500\"{timer}>{proven}</send>");
            }
        }
        rest = &rest[close + CLOSE.len()..];
    }
    out.push_str(rest);
    Ok(out)
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let start = tag.find(&format!(" {name}=\""))? + name.len() + 3;
    tag[start..].split('"').next()
}

#[derive(Debug, PartialEq, Eq)]
struct Counts {
    messages: u64,
    retransmissions: u64,
    unexpected: u64,
}

fn read_counts(dir: &Path) -> Result<Counts> {
    let file = std::fs::read_dir(dir)
        .named(dir.display())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with("_counts.csv"))
        .ok_or_else(|| said(format!("SIPp left no counts in {}; see stderr.txt there", dir.display())))?;
    counts(&std::fs::read_to_string(&file).named(file.display())?)
        .ok_or_else(|| said(format!("{} cannot be read", file.display())))
}

/// The last row holds the totals; a column is named by number, message and kind.
fn counts(text: &str) -> Option<Counts> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let (header, last) = (lines.next()?, lines.next_back()?);
    let mut sum = Counts { messages: 0, retransmissions: 0, unexpected: 0 };
    let mut seen = 0;
    for (name, value) in header.split(';').zip(last.split(';')) {
        let value = || value.trim().parse::<u64>().ok();
        match name.rsplit('_').next() {
            Some("Sent" | "Recv") => {
                sum.messages += value()?;
                seen += 1;
            }
            Some("Retrans") => {
                let again = value()?;
                sum.messages += again;
                sum.retransmissions += again;
            }
            Some("Unexp") => sum.unexpected += value()?,
            _ => {}
        }
    }
    (seen > 0).then_some(sum)
}

#[derive(Debug, PartialEq)]
struct Calls {
    succeeded: u64,
    failed: u64,
    seconds: f64,
}

fn read_statistics(file: &Path) -> Result<Calls> {
    statistics(&std::fs::read_to_string(file).named(file.display())?)
        .ok_or_else(|| said(format!("{} cannot be read; see stderr.txt beside it", file.display())))
}

/// The last row of SIPp's statistics is cumulative in its columns `(C)`.
fn statistics(text: &str) -> Option<Calls> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let (header, last) = (lines.next()?, lines.next_back()?);
    let column = |name: &str| {
        let at = header.split(';').position(|column| column == name)?;
        last.split(';').nth(at)
    };
    let number = |name: &str| column(name)?.trim().parse::<u64>().ok();
    // Seconds since the epoch stand behind the tab of each instant.
    let instant = |name: &str| column(name)?.rsplit('\t').next()?.trim().parse::<f64>().ok();
    Some(Calls {
        succeeded: number("SuccessfulCall(C)")?,
        failed: number("FailedCall(C)")?,
        seconds: instant("CurrentTime")? - instant("StartTime")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of one call, as SIPp would exchange them.
    fn messages(text: &str) -> usize {
        text.matches("<send").count() + text.matches("<recv").count()
    }

    #[test]
    fn a_pair_is_38_messages_with_digest_and_22_without() {
        for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
            let digest = scenario(Auth::Digest, transport).unwrap();
            let plain = scenario(Auth::Plain, transport).unwrap();
            assert_eq!((messages(&digest), messages(&plain)), (38, 22));
            assert_eq!(digest.matches("[field1]").count() + digest.matches("[field3]").count(), 8);
            assert!(!plain.contains("[field1]") && !plain.contains("[field3]"));
            let elements = |text: &str| text.split_once("-->").unwrap().1.to_owned();
            assert!(!elements(&digest).contains('@') || !elements(&digest).contains("@CREDENTIALS@"));
            assert!(!elements(&plain).contains("@CREDENTIALS@") && !elements(&plain).contains("exchange"));
            assert_eq!(plain.matches("start_rtd").count(), 1);
        }
        assert!(scenario(Auth::Plain, Transport::Udp).unwrap().contains(";rport;branch"));
        assert!(scenario(Auth::Plain, Transport::Tcp).unwrap().contains("[local_port];transport=tcp>"));
    }

    #[test]
    fn counts_are_read_from_the_last_row() {
        let text = "CurrentTime;ElapsedTime;0_REGISTER_Sent;0_REGISTER_Retrans;0_REGISTER_Timeout;\
                    1_200_Recv;1_200_Retrans;1_200_Timeout;1_200_Unexp;\n\
                    x;y;1;0;0;1;0;0;0;\nx;y;20;2;0;19;0;0;1;\n";
        assert_eq!(counts(text), Some(Counts { messages: 41, retransmissions: 2, unexpected: 1 }));
        assert_eq!(counts("CurrentTime;\nx;\n"), None);
    }

    #[test]
    fn statistics_are_cumulative() {
        let text = "StartTime;CurrentTime;SuccessfulCall(P);SuccessfulCall(C);FailedCall(C);\n\
                    2026-11-25\t12:00:00\t100.5;2026-11-25\t12:00:01\t101.0;1;2;0;\n\
                    2026-11-25\t12:00:00\t100.5;2026-11-25\t12:00:09\t110.0;0;40;3;\n";
        assert_eq!(statistics(text), Some(Calls { succeeded: 40, failed: 3, seconds: 9.5 }));
    }

    #[test]
    fn accounts_stand_in_pairs() {
        let text = users(4);
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().nth(2).unwrap().starts_with("user000003;[authentication username=user000003 "));
    }
}
