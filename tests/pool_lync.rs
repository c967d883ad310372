//! `adsum pool --dialect lync` as its users start it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct PoolProcess(Child);

impl Drop for PoolProcess {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts a pool; the address that it says it listens on.
fn start(args: &[&str]) -> (PoolProcess, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_adsum"))
        .args(["pool", "--listen", "127.0.0.1:0"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("udp,tcp="));
    let address = address.unwrap_or_else(|| panic!("{line}")).to_owned();
    (PoolProcess(child), address)
}

fn register(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request = "REGISTER sip:lab.test SIP/2.0\r\nVia: SIP/2.0/tcp 127.0.0.1:9\r\nMax-Forwards: 70\r\n\
        From: <sip:user000001@lab.test>;tag=a;epid=01010101\r\nTo: <sip:user000001@lab.test>\r\nCall-ID: a\r\n\
        CSeq: 1 REGISTER\r\nContact: <sip:127.0.0.1:9;transport=tcp>;proxy=replace\r\n\
        Supported: gruu-10, msrtc-event-categories\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !seen.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "closed");
        seen.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8(seen).unwrap()
}

#[test]
fn it_signs_on_whom_it_trusts_and_challenges_others() {
    let common = ["--dialect", "lync", "--domain", "lab.test", "--users", "10"];
    let (_pool, address) = start(&[&common[..], &["--no-auth"]].concat());
    let answer = register(&address);
    assert!(answer.starts_with("SIP/2.0 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("gruu=\"sip:user000001@lab.test;opaque=user:epid:qIIWS2j5AVeD_HxnQdxmlwAA;gruu\"")
    );
    let more = ["--schemes", "kerberos,ntlm", "--sipae-version", "3", "--nt-domain", "LAB"];
    let (_pool, address) = start(&[&common[..], &more].concat());
    let answer = register(&address);
    assert!(answer.starts_with("SIP/2.0 401 Unauthorized\r\n"), "{answer}");
    let kerberos = answer.find("WWW-Authenticate: Kerberos ").unwrap();
    assert!(answer.find("WWW-Authenticate: NTLM ").unwrap() > kerberos);
    assert!(answer.contains("targetname=\"lab.test\", version=3\r\n"));
}

#[test]
fn its_faults_are_flags_and_wrong_ones_are_refused() {
    let faults = [
        "--dialect",
        "both",
        "--domain",
        "lab.test",
        "--no-auth",
        "--wrong-rspauth",
        "1%",
        "--conflict-every",
        "10",
        "--notify-instead",
        "--no-piggyback",
        "--deregister-after",
        "30s",
        "--resubscribe",
        "5%",
        "--bare-containers",
        "--single-as-multipart",
        "--unknown-as-404",
        "--lose-notify",
        "1%",
        "--redirect-to",
        "127.0.0.1:5063",
    ];
    let (_pool, address) = start(&faults);
    let answer = register(&address);
    assert!(answer.starts_with("SIP/2.0 301 Moved Permanently\r\n"), "{answer}");
    assert!(answer.contains("Contact: <sip:127.0.0.1:5063;transport=tcp>\r\n"));
    for (wrong, named) in [
        (["--dialect", "lynx"], "simple, lync or both"),
        (["--schemes", "basic"], "ntlm, kerberos, tls-dsk or digest"),
        (["--sipae-version", "5"], "2..=4"),
        (["--trusted-cn", "a.b"], "--tls-client-ca"),
        (["--redirect-to", "a.b"], "a host and a port"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_adsum")).arg("pool").args(wrong).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(named), "{wrong:?}: {text}");
    }
}
