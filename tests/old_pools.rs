//! Pools with TLS of yesterday: `adsum check` and `adsum run` say what they found, and with
//! OpenSSL built in (feature `legacy-tls`) they work.

#[path = "../agent/tests/s_server/mod.rs"]
mod s_server;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use s_server::{DHE_GCM, ECDHE_CBC, Identity, RSA_GCM, Server, TLS10, hangs_up, wanted, without_alerts};

fn adsum(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adsum"));
    for name in ["ADSUM_RESULTS", "ADSUM_TARGET", "ADSUM_CONFIG"] {
        command.env_remove(name);
    }
    command.args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `check` over TLS of users 1 and 2 of an embedded pool: exit code and answer.
fn check(target: &str, identity: &Identity, more: &[&str]) -> (Option<i32>, serde_json::Value) {
    let dir = tempfile::tempdir().unwrap();
    let files = [1, 2].map(|n| {
        let file = dir.path().join(format!("user{n}"));
        std::fs::write(&file, format!("user{n:06}:pw-user{n:06}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        file.to_string_lossy().into_owned()
    });
    let ca = identity.cert().to_string_lossy().into_owned();
    let mut args = vec!["check", "--target", target, "--publisher", "sip:user000001@pool.test"];
    args.extend(["--publisher-credential-file", &files[0], "--subscriber", "sip:user000002@pool.test"]);
    args.extend(["--subscriber-credential-file", &files[1], "--transport", "tls", "--format", "json"]);
    args.extend(["--ca", &ca]);
    if !more.contains(&"--server-name") {
        args.extend(["--server-name", "localhost"]);
    }
    args.extend_from_slice(more);
    let output = adsum(&args);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {} {}", text(&output.stdout), text(&output.stderr)));
    (output.status.code(), json["checks"][0].clone())
}

/// A scenario with two workflows a second for a moment.
fn scenario(dir: &Path, target: &str, ca: &Path, legacy: bool) -> String {
    let file = dir.join("old.toml");
    let text = format!(
        "schema = 1\nname = \"old\"\n[pool]\ntarget = {target:?}\ntransport = \"tls\"\n\
         tls = {{ ca = {:?}, server_name = \"localhost\", legacy = {legacy} }}\n\
         [users]\ncount = 4\npattern = \"sip:user{{n:06}}@pool.test\"\npassword_pattern = \"pw-user{{n:06}}\"\n\
         [workload]\nkind = \"workflow\"\n[warmup]\nsettle = \"0s\"\n[trust]\nprofile = \"ci\"\nsend_lag_p99 = \"1s\"\n\
         [[step]]\nname = \"all\"\nrate = \"2/s\"\nhold = \"3s\"\n",
        ca
    );
    std::fs::write(&file, text).unwrap();
    file.to_string_lossy().into_owned()
}

#[test]
fn check_names_what_an_old_pool_lacks_and_what_to_do() {
    if !wanted("check_names_what_an_old_pool_lacks_and_what_to_do") {
        return;
    }
    let identity = Identity::new("DNS:localhost", &[]);
    for (old, words) in [
        (ECDHE_CBC, &["probably", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384", "CBC mode"][..]),
        (RSA_GCM, &["probably", "TLS_RSA_WITH_AES_256_GCM_SHA384", "RSA key exchange"]),
        (DHE_GCM, &["probably", "DHE key exchange"]),
        (TLS10, &["nothing newer than TLS 1.0", "Enable TLS 1.2 on the pool"]),
    ] {
        let server = Server::start(&identity, old);
        let (code, answer) = check(&server.address.to_string(), &identity, &[]);
        assert_eq!((code, answer["code"].as_str()), (Some(5), Some("transport:tls")), "{answer}");
        let said = answer["diagnosis"].as_str().unwrap();
        for word in words.iter().chain(&["tls = { legacy = true }", "--legacy-tls"]) {
            assert!(said.contains(word), "{word} is not in: {said}");
        }
        assert_eq!(said.contains("--features legacy-tls"), cfg!(not(feature = "legacy-tls")), "{said}");
    }
}

/// An internal CA of 2012 signs with SHA-1.
#[test]
fn a_chain_signed_with_sha_1_is_named_as_the_reason() {
    if !wanted("a_chain_signed_with_sha_1_is_named_as_the_reason") {
        return;
    }
    let ca = Identity::ca();
    let signed = Identity::signed(&ca, "DNS:localhost", "-sha1");
    let server = Server::start(&signed, &["-cipher", "DEFAULT:@SECLEVEL=0"]);
    let (code, answer) = check(&server.address.to_string(), &ca, &[]);
    assert_eq!((code, answer["code"].as_str()), (Some(5), Some("transport:tls")), "{answer}");
    let said = answer["diagnosis"].as_str().unwrap();
    for words in ["signed with SHA-1", "issued anew with SHA-256", "tls = { legacy = true }", "--legacy-tls"]
    {
        assert!(said.contains(words), "{words} is not in: {said}");
    }
}

#[test]
fn a_run_that_cannot_begin_names_it_too() {
    if !wanted("a_run_that_cannot_begin_names_it_too") {
        return;
    }
    let identity = Identity::new("DNS:localhost", &[]);
    let server = Server::start(&identity, RSA_GCM);
    let dir = tempfile::tempdir().unwrap();
    let file = scenario(dir.path(), &server.address.to_string(), &identity.cert(), false);
    let out = dir.path().join("out");
    let output = adsum(&["run", &file, "--out", &out.to_string_lossy(), "--plain", "--shards", "2"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("the run could not start") && said.contains("RSA key exchange"), "{said}");
    let failures = std::fs::read_to_string(out.join("failures.csv")).unwrap();
    let row = failures.lines().find(|line| line.contains("transport:tls")).unwrap();
    assert!(row.contains("RSA key exchange"), "{row}");
}

#[test]
fn two_shards_with_all_their_users_ask_once() {
    use std::io::Read as _;

    let identity = adsum_pool::certs::make(&["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, identity.ca).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    // Ours and the question, by whether TLS 1.3 is offered. It ends with the test's process.
    let (heard, came) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(200) {
            let mut hello = [0; 4096];
            let n = stream.unwrap().read(&mut hello).unwrap_or(0);
            // Who is told to stop meanwhile hangs up without a word.
            if n > 0 {
                let _ = heard.send(offers_tls13(&hello[..n]));
            }
        }
    });
    let file = scenario(dir.path(), &target, &ca, false);
    let out = dir.path().join("out");
    let output = adsum(&["run", &file, "--out", &out.to_string_lossy(), "--plain", "--shards", "2"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("and at an old one as well"), "{said}");
    let came: Vec<bool> = came.try_iter().collect();
    let ours = came.iter().filter(|new| **new).count();
    assert!(ours >= 1, "{came:?}");
    assert_eq!(came.len() - ours, 1, "{came:?}");
}

/// True if a ClientHello has TLS_AES_128_GCM_SHA256 among its suites (RFC 8446 §4.1.2).
fn offers_tls13(hello: &[u8]) -> bool {
    // Record, handshake, version and random come before the session's identifier.
    let session = usize::from(hello[43]);
    let at = 44 + session;
    let len = usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    hello[at + 2..at + 2 + len].chunks(2).any(|suite| suite == [0x13, 0x01])
}

#[test]
fn a_server_that_closes_instead_of_sending_an_alert_is_asked_as_well() {
    if !wanted("a_server_that_closes_instead_of_sending_an_alert_is_asked_as_well") {
        return;
    }
    let identity = Identity::new("DNS:localhost", &[]);
    let server = Server::start(&identity, RSA_GCM);
    let (_, answer) = check(&without_alerts(server.address, 8).to_string(), &identity, &[]);
    let said = answer["diagnosis"].as_str().unwrap();
    assert!(said.contains("RSA key exchange") && said.contains("legacy = true"), "{said}");
    assert!(answer["error"].as_str().unwrap().contains("in the TLS handshake"), "{answer}");
    // One that closes whatever it is told has other reasons.
    let (closing, _) = hangs_up(8);
    let (_, answer) = check(&closing.to_string(), &identity, &[]);
    let said = answer["diagnosis"].as_str().unwrap();
    assert!(said.contains("and at an old one as well") && !said.contains("legacy = true"), "{said}");
}

#[test]
fn a_pool_that_asks_for_a_certificate_is_not_called_old() {
    if !wanted("a_pool_that_asks_for_a_certificate_is_not_called_old") {
        return;
    }
    let identity = Identity::new("DNS:localhost", &[]);
    for version in ["-tls1_2", "-tls1_3"] {
        let server = Server::start(&identity, &["-Verify", "1", version]);
        let (code, answer) = check(&server.address.to_string(), &identity, &[]);
        assert_eq!(code, Some(5), "{answer}");
        let said = answer["diagnosis"].as_str().unwrap();
        assert!(said.contains("client certificate") && !said.contains("legacy"), "{version}: {said}");
    }
}

#[cfg(not(feature = "legacy-tls"))]
#[test]
fn legacy_tls_without_openssl_says_how_to_build_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = adsum(&[
        "check",
        "--target",
        "127.0.0.1:1",
        "--transport",
        "tls",
        "--legacy-tls",
        "--publisher",
        "sip:a@pool.test",
        "--subscriber",
        "sip:b@pool.test",
        "--publisher-credential-file",
        "/dev/null",
        "--subscriber-credential-file",
        "/dev/null",
    ]);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(3), "{:?} {said}", output.status);
    assert!(said.contains("cargo build --release --features legacy-tls"), "{said}");
    let file = dir.path().join("old.toml");
    let certificate = dir.path().join("ca.pem");
    std::fs::write(&certificate, adsum_pool::certs::make(&["localhost".to_owned()]).unwrap().ca).unwrap();
    let scenario = format!(
        "schema = 1\nname = \"old\"\n[pool]\ntarget = \"127.0.0.1:1\"\ntransport = \"tls\"\n\
         tls = {{ ca = {certificate:?}, legacy = true }}\n[users]\ncount = 2\npattern = \"sip:u{{n}}@pool.test\"\n\
         password_pattern = \"p{{n}}\"\n[workload]\nkind = \"workflow\"\n[[step]]\nname = \"a\"\nrate = \"1/s\"\nhold = \"1s\"\n"
    );
    std::fs::write(&file, scenario).unwrap();
    let out = dir.path().join("out");
    let output = adsum(&["run", &file.to_string_lossy(), "--out", &out.to_string_lossy(), "--plain"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("cargo build --release --features legacy-tls"), "{said}");
}

/// The embedded pool behind old TLS.
#[cfg(feature = "legacy-tls")]
mod behind_old_tls {
    use std::io::{BufRead as _, BufReader, Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::process::{Child, Stdio};

    use super::*;

    struct Pool {
        child: Child,
        /// Where old TLS is spoken.
        front: SocketAddr,
    }

    impl Pool {
        fn start(identity: &Identity, old: &'static [&'static str]) -> Pool {
            let mut child = Command::new(env!("CARGO_BIN_EXE_adsum"))
                .args(["pool", "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0"])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            let pool = line.split_whitespace().find_map(|word| word.strip_prefix("udp,tcp=")).unwrap();
            let pool: SocketAddr = pool.parse().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let front = listener.local_addr().unwrap();
            let (cert, key) = (identity.cert(), identity.key());
            // It ends with the test's process.
            std::thread::spawn(move || {
                for client in listener.incoming().take(200) {
                    let client = client.unwrap();
                    let (cert, key) = (cert.clone(), key.clone());
                    std::thread::spawn(move || relay(client, &cert, &key, old, pool));
                }
            });
            Pool { child, front }
        }
    }

    impl Drop for Pool {
        fn drop(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }

    /// A server for one connection, whose plaintext goes to the pool and back.
    fn relay(client: TcpStream, cert: &Path, key: &Path, old: &[&str], pool: SocketAddr) {
        let mut server = Server::spawn(cert, key, &[old, &["-quiet", "-naccept", "1"]].concat());
        let (stdin, stdout) = (server.child.stdin.take().unwrap(), server.child.stdout.take().unwrap());
        let tls = TcpStream::connect(server.address).unwrap();
        let plain = TcpStream::connect(pool).unwrap();
        for socket in [&client, &tls, &plain] {
            socket.set_nodelay(true).unwrap();
        }
        let ends = [client.try_clone(), tls.try_clone(), plain.try_clone()].map(Result::unwrap);
        std::thread::scope(|scope| {
            scope.spawn(|| pump(client.try_clone().unwrap(), tls.try_clone().unwrap(), &ends));
            scope.spawn(|| pump(tls.try_clone().unwrap(), client.try_clone().unwrap(), &ends));
            scope.spawn(|| pump(stdout, plain.try_clone().unwrap(), &ends));
            scope.spawn(|| pump(plain.try_clone().unwrap(), stdin, &ends));
        });
    }

    /// When one way ends, all do.
    fn pump(mut from: impl Read, mut to: impl Write, ends: &[TcpStream; 3]) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..n]).is_err() || to.flush().is_err() {
                break;
            }
        }
        for end in ends {
            let _ = end.shutdown(std::net::Shutdown::Both);
        }
    }

    #[test]
    fn a_check_succeeds() {
        if !wanted("a_check_succeeds") {
            return;
        }
        let identity = Identity::new("DNS:localhost", &[]);
        for old in [ECDHE_CBC, RSA_GCM, DHE_GCM, TLS10] {
            let pool = Pool::start(&identity, old);
            let (code, answer) = check(&pool.front.to_string(), &identity, &["--legacy-tls"]);
            assert_eq!((code, answer["result"].as_str()), (Some(0), Some("Success")), "{old:?}: {answer}");
        }
    }

    #[test]
    fn a_check_succeeds_with_a_chain_of_2012() {
        if !wanted("a_check_succeeds_with_a_chain_of_2012") {
            return;
        }
        let ca = Identity::ca_with(1024);
        let signed = Identity::signed(&ca, "DNS:localhost", "-sha1");
        let pool = Pool::start(&signed, TLS10);
        let (code, answer) = check(&pool.front.to_string(), &ca, &["--legacy-tls"]);
        assert_eq!((code, answer["result"].as_str()), (Some(0), Some("Success")), "{answer}");
        let more = ["--legacy-tls", "--server-name", "other.example.com"];
        let (code, answer) = check(&pool.front.to_string(), &ca, &more);
        assert!(code == Some(5) && answer["diagnosis"].to_string().contains("is not for"), "{answer}");
    }

    #[test]
    fn a_run_succeeds_and_its_manifest_says_by_what() {
        if !wanted("a_run_succeeds_and_its_manifest_says_by_what") {
            return;
        }
        let identity = Identity::new("DNS:localhost", &[]);
        let pool = Pool::start(&identity, TLS10);
        let dir = tempfile::tempdir().unwrap();
        let file = scenario(dir.path(), &pool.front.to_string(), &identity.cert(), true);
        let out = dir.path().join("out");
        let output = adsum(&["run", &file, "--out", &out.to_string_lossy(), "--plain", "--shards", "2"]);
        let said = format!("{} {}", text(&output.stdout), text(&output.stderr));
        let manifest = std::fs::read_to_string(out.join("manifest.json")).unwrap_or_default();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).expect(&said);
        // Six workflows, and nothing missed: a busy machine may doubt the times, not that they arrived.
        let tls = manifest["agents"][0]["tls"].as_str().unwrap();
        assert!(tls.starts_with("OpenSSL 3.") && tls.ends_with("(legacy)"), "{tls}");
        let percentiles = std::fs::read_to_string(out.join("percentiles.csv")).unwrap();
        let row = percentiles.lines().find(|row| row.contains(",all,hold,local,publish_to_notify,sent,0.5,"));
        assert!(row.is_some_and(|row| row.ends_with(",6,0")), "{row:?} {said}");
    }
}
