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
        "--ntlm-mic",
        "--association-lifetime",
        "1h",
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
        (&["--dialect", "lynx"][..], "simple, lync or both"),
        (&["--schemes", "basic"], "ntlm, kerberos, tls-dsk or digest"),
        (&["--sipae-version", "5"], "2..=4"),
        (&["--trusted-cn", "a.b"], "--tls-client-ca"),
        (&["--redirect-to", "a.b"], "a host and a port"),
        // A fault that would never happen is a mistake, too.
        (&["--conflict-every", "3"], "--conflict-every is about the lync dialect"),
        (&["--notify-instead"], "--notify-instead is about the lync dialect"),
        (&["--dialect", "lync", "--drop", "5%"], "--drop is about UDP or digest"),
        (
            &["--dialect", "both", "--no-auth", "--wrong-rspauth", "5%"],
            "--wrong-rspauth is about challenges and signatures",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_adsum")).arg("pool").args(wrong).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(named), "{wrong:?}: {text}");
    }
}

/// A pool under this limit of open files, and what it says at its end after so many connections
/// at a time; how many of them were answered.
fn with_files(limit: &str, connections: usize) -> (usize, String) {
    let script = format!("ulimit {limit} && exec \"$0\" pool --listen 127.0.0.1:0 --dialect lync --no-auth");
    let mut child = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_adsum")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("udp,tcp=")).unwrap().to_owned();
    let mut errors = child.stderr.take().unwrap();
    let pool = PoolProcess(child);
    let mut all: Vec<TcpStream> = (0..connections).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let answered = all.iter_mut().filter(|stream| {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut stream: &TcpStream = stream;
        let mut pong = [0; 2];
        stream.write_all(b"\r\n\r\n").is_ok() && stream.read_exact(&mut pong).is_ok()
    });
    let answered = answered.count();
    let pid = pool.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let mut text = String::new();
    errors.read_to_string(&mut text).unwrap();
    (answered, text)
}

#[test]
fn it_takes_as_many_connections_as_the_hard_limit_of_files_allows() {
    // Those of the soft limit, which it raises.
    let (answered, text) = with_files("-Sn 64", 150);
    assert_eq!(answered, 150, "{text}");
    assert!(!text.contains("refused"), "{text}");
    // Beyond the hard one nobody waits: they are closed, and counted.
    let (answered, text) = with_files("-n 96", 150);
    assert_eq!(answered, 64, "{text}");
    assert!(text.contains("connections refused 86") && !text.contains("accept errors"), "{text}");
}
