//! The server that both generators load: Debian's Kamailio on loopback, with
//! ports and a directory of its own.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{self, Cpu, Named as _, Process, Result, said};

const CONFIGURATION: &str = include_str!("../kamailio/kamailio.cfg");
const PROGRAM: &str = "/usr/sbin/kamailio";
/// Table definitions that its presence module wants to see.
const TABLES: &str = "/usr/share/kamailio/db_sqlite";

#[derive(Debug)]
pub struct Kamailio {
    process: Process,
    pub port: u16,
    pub tls_port: u16,
    dir: PathBuf,
}

impl Kamailio {
    /// `certificates` holds `ca.pem`, `localhost.pem` and `localhost-key.pem` if TLS is wanted.
    pub fn start(dir: &Path, digest: bool, certificates: Option<&Path>) -> Result<Kamailio> {
        if !Path::new(PROGRAM).exists() {
            return Err(said(format!(
                "{PROGRAM} is missing: install kamailio, or run cargo xtask bench sipp as root"
            )));
        }
        if dir.exists() {
            std::fs::remove_dir_all(dir).named(dir.display())?;
        }
        std::fs::create_dir_all(dir).named(dir.display())?;
        let dir = dir.canonicalize().named(dir.display())?;
        let (port, tls_port) = (process::free_port()?, process::free_port()?);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // With several TLS processes this version frees memory twice.
        let tcp_workers = if certificates.is_some() { 1 } else { cores };
        let limit = process::raise_file_limit();
        let mut first = String::from("#!KAMAILIO\n");
        if digest {
            first.push_str("#!define WITH_AUTH\n");
        }
        if certificates.is_some() {
            first.push_str("#!define WITH_TLS\n");
        }
        let mut text = CONFIGURATION.replacen("#!KAMAILIO\n", &first, 1);
        for (name, value) in [
            ("@DIR@", dir.to_string_lossy().into_owned()),
            ("@IP@", "127.0.0.1".to_owned()),
            ("@PORT@", port.to_string()),
            ("@TLS_PORT@", tls_port.to_string()),
            ("@WORKERS@", cores.to_string()),
            ("@TCP_WORKERS@", tcp_workers.to_string()),
            ("@CONNECTIONS@", (limit.saturating_sub(500)).clamp(1_000, 60_000).to_string()),
        ] {
            text = text.replace(name, &value);
        }
        let configuration = dir.join("kamailio.cfg");
        std::fs::write(&configuration, text).named(configuration.display())?;
        for table in ["standard", "presence"] {
            let path = format!("{TABLES}/{table}-create.sql");
            let sql = std::fs::File::open(&path).named(&path)?;
            let mut make = Command::new("sqlite3");
            make.arg("-batch").arg(dir.join("pool.db")).stdin(sql).stdout(Stdio::null());
            if !make.status().named("sqlite3")?.success() {
                return Err(said(format!("sqlite3 could not run {path}")));
            }
        }
        if let Some(certificates) = certificates {
            let d = certificates.display();
            let tls = format!(
                "[server:default]\nmethod = TLSv1.2+\nverify_certificate = no\nrequire_certificate = no\n\
                 private_key = {d}/localhost-key.pem\ncertificate = {d}/localhost.pem\n\
                 [client:default]\nverify_certificate = no\n"
            );
            std::fs::write(dir.join("tls.cfg"), tls).named("tls.cfg")?;
        }
        let log = std::fs::File::create(dir.join("log")).named("log")?;
        let mut command = Command::new(PROGRAM);
        // tlsf: with the other allocators the timer process stalls everything when transactions end in crowds.
        command.args(["-DD", "-E", "-x", "tlsf", "-m", "1024", "-M", "32", "-f"]).arg(&configuration);
        command.arg("-w").arg(&dir).arg("-Y").arg(&dir);
        command.stdout(log.try_clone().named("log")?).stderr(log);
        let process = Process::start("kamailio", &mut command)?;
        let mut server = Kamailio { process, port, tls_port, dir };
        let probe = if certificates.is_some() { tls_port } else { port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", probe)).is_err() {
            if Instant::now() > deadline || server.process.ended().is_some() {
                return Err(said(format!("Kamailio does not come up: {}", server.log_end())));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // Its processes are forked before they listen; let them settle before they are counted.
        std::thread::sleep(Duration::from_millis(500));
        Ok(server)
    }

    /// CPU time of all its processes so far.
    pub fn cpu(&self) -> Result<Cpu> {
        process::tree_cpu(self.process.pid())
    }

    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

/// Its name and version.
pub fn version() -> String {
    let out = process::output("kamailio", Command::new(PROGRAM).arg("-v")).unwrap_or_default();
    out.split_ascii_whitespace()
        .skip_while(|word| *word != "kamailio")
        .nth(1)
        .map_or_else(|| "Kamailio, version unknown".to_owned(), |version| format!("Kamailio {version}"))
}
