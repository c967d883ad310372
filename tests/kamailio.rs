//! The whole workflow against Kamailio, a presence server that others wrote.
//!
//! Runs when `ADSUM_INTEROP` is set, as `cargo xtask test` does when the
//! packages are there; otherwise each test says that it was skipped.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn wanted(test: &str) -> bool {
    let wanted = std::env::var_os("ADSUM_INTEROP").is_some();
    if !wanted {
        eprintln!(
            "skipped {test}: ADSUM_INTEROP is not set; cargo xtask test sets it when Kamailio is installed"
        );
    }
    wanted
}

struct Kamailio {
    child: Child,
    dir: tempfile::TempDir,
    port: u16,
    tls_port: u16,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Kamailio {
    fn start() -> Kamailio {
        Self::with_tls("method = TLSv1.2+\n", certificate)
    }

    /// With these lines about TLS, and a certificate that this makes.
    fn with_tls(tls: &str, certificate: impl Fn(&Path)) -> Kamailio {
        let dir = tempfile::tempdir().unwrap();
        let (port, tls_port) = (free_port(), free_port());
        let at = |name: &str| dir.path().join(name);
        let cfg = include_str!("kamailio/kamailio.cfg")
            .replace("@DIR@", &dir.path().to_string_lossy())
            .replace("@IP@", "127.0.0.1")
            .replace("@PORT@", &port.to_string())
            .replace("@TLS_PORT@", &tls_port.to_string());
        std::fs::write(at("kamailio.cfg"), cfg).unwrap();
        for table in ["standard", "presence"] {
            let sql =
                std::fs::File::open(format!("/usr/share/kamailio/db_sqlite/{table}-create.sql")).unwrap();
            let made = Command::new("sqlite3")
                .arg("-batch")
                .arg(at("pool.db"))
                .stdin(sql)
                .stdout(Stdio::null())
                .status();
            assert!(made.unwrap().success());
        }
        certificate(dir.path());
        let tls = format!(
            "[server:default]\n{tls}verify_certificate = no\nrequire_certificate = no\n\
             private_key = {d}/key.pem\ncertificate = {d}/server.pem\n[client:default]\nverify_certificate = no\n",
            d = dir.path().display()
        );
        std::fs::write(at("tls.cfg"), tls).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let child = Command::new("/usr/sbin/kamailio")
            .args(["-DD", "-E", "-x", "tlsf", "-m", "256", "-f"])
            .arg(at("kamailio.cfg"))
            .args(["-w", &dir.path().to_string_lossy(), "-Y", &dir.path().to_string_lossy()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let kamailio = Kamailio { child, dir, port, tls_port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", tls_port)).is_err() {
            let log = || std::fs::read_to_string(kamailio.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "Kamailio does not come up: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        kamailio
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate below a CA of its own.
fn certificate(dir: &Path) {
    let names = ["pool.test", "localhost", "127.0.0.1"].map(str::to_owned);
    let made = adsum_pool::certs::make(&names).unwrap();
    for (name, text) in [("ca.pem", made.ca), ("server.pem", made.server), ("key.pem", made.key)] {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

fn adsum(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adsum")).args(args).output().unwrap()
}

const SCENARIO: &str = r#"
schema = 1
name = "interop"
[pool]
target = "127.0.0.1"
[users]
count = 98
pattern = "sip:user{n:06}@pool.test"
password_pattern = "pw-user{n:06}"
[workload]
kind = "workflow"
[warmup]
settle = "0s"
[trust]
profile = "ci"
send_lag_p99 = "1s"
[[step]]
name = "all"
rate = "40/s"
hold = "5s"
"#;

fn run(kamailio: &Kamailio, transport: &str, kind: &str) {
    run_with(kamailio, transport, kind, false, 40);
}

fn run_with(kamailio: &Kamailio, transport: &str, kind: &str, legacy: bool, rate: u32) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("interop.toml");
    let tls = match transport {
        "tls" => {
            format!("tls = {{ ca = {:?}, server_name = \"localhost\", legacy = {legacy} }}\n", kamailio.ca())
        }
        _ => String::new(),
    };
    let port = if transport == "tls" { kamailio.tls_port } else { kamailio.port };
    let text = SCENARIO
        .replace(
            "target = \"127.0.0.1\"",
            &format!("target = \"127.0.0.1:{port}\"\ntransport = \"{transport}\"\n{tls}"),
        )
        .replace("\"workflow\"", &format!("{kind:?}"))
        .replace("40/s", &format!("{rate}/s"));
    // The hold takes five seconds.
    let arrivals = rate * 5;
    std::fs::write(&file, text).unwrap();
    let out = dir.path().join("out");
    let output = adsum(&["run", &file.to_string_lossy(), "--out", &out.to_string_lossy()]);
    let words =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{transport} {kind}: {words}");
    let counters = std::fs::read_to_string(out.join("counters.csv")).unwrap();
    let counters: Vec<&str> = counters.lines().filter(|line| line.contains(",1,all,hold,all,")).collect();
    let ended = if kind == "held" { "publish_ok" } else { "workflow_ok" };
    for counter in ["offered", "sent", ended, "expected", "delivered"] {
        assert!(
            counters.iter().any(|line| line.ends_with(&format!(",{counter},,{arrivals}"))),
            "{counter}: {counters:?}"
        );
    }
    let verified = adsum(&["report", &out.to_string_lossy(), "--verify"]);
    assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[test]
fn whole_workflows_succeed_over_every_transport() {
    if wanted("whole_workflows_succeed_over_every_transport") {
        let kamailio = Kamailio::start();
        for transport in ["udp", "tcp", "tls"] {
            run(&kamailio, transport, "workflow");
        }
    }
}

#[test]
fn held_users_are_notified() {
    if wanted("held_users_are_notified") {
        let kamailio = Kamailio::start();
        for transport in ["udp", "tcp"] {
            run(&kamailio, transport, "held");
        }
    }
}

/// A certificate with an RSA key that signs itself: RSA key exchange needs one.
#[cfg(feature = "legacy-tls")]
fn rsa_certificate(dir: &Path) {
    let made = Command::new("openssl")
        .current_dir(dir)
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"])
        .args([
            "-addext",
            "subjectAltName = DNS:localhost",
            "-addext",
            "basicConstraints = critical,CA:FALSE",
        ])
        .args(["-keyout", "key.pem", "-out", "server.pem"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::copy(dir.join("server.pem"), dir.join("ca.pem")).unwrap();
}

#[cfg(feature = "legacy-tls")]
#[test]
fn whole_workflows_succeed_over_old_tls() {
    if wanted("whole_workflows_succeed_over_old_tls") {
        for old in [
            "method = TLSv1\ncipher_list = ALL:@SECLEVEL=0\n",
            "method = TLSv1.2\ncipher_list = AES256-GCM-SHA384:@SECLEVEL=0\n",
            "method = TLSv1.2\ncipher_list = ECDHE-RSA-AES256-SHA384:@SECLEVEL=0\n",
        ] {
            let kamailio = Kamailio::with_tls(old, rsa_certificate);
            // One process of the server makes all RSA signatures.
            run_with(&kamailio, "tls", "workflow", true, 10);
        }
    }
}

#[test]
fn an_unknown_user_and_a_wrong_password_are_told() {
    if !wanted("an_unknown_user_and_a_wrong_password_are_told") {
        return;
    }
    let kamailio = Kamailio::start();
    let check = |publisher: &str, password: &str| {
        let (p, s) = (kamailio.dir.path().join("p"), kamailio.dir.path().join("s"));
        std::fs::write(&p, format!("{publisher}:{password}")).unwrap();
        std::fs::write(&s, "user000002:pw-user000002").unwrap();
        let output = adsum(&[
            "check",
            "--target",
            &format!("127.0.0.1:{}", kamailio.port),
            "--publisher",
            &format!("sip:{publisher}@pool.test"),
            "--publisher-credential-file",
            &p.to_string_lossy(),
            "--subscriber",
            "sip:user000002@pool.test",
            "--subscriber-credential-file",
            &s.to_string_lossy(),
        ]);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = check("user000001", "pw-user000001");
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = check("nobody", "x");
    assert!(code == Some(5) && text.contains("404, Not Found"), "{text}");
    let (code, text) = check("user000001", "wrong");
    assert!(code == Some(5) && text.contains("403, Forbidden"), "{text}");
}
