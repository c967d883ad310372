//! `openssl s_server` on loopback, as a server with whatever old TLS it is told to have.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// What an old server may have: a name, and how `s_server` is told so.
pub const ECDHE_CBC: &[&str] = &["-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA384:@SECLEVEL=0"];
/// RSA key exchange.
pub const RSA_GCM: &[&str] = &["-tls1_2", "-cipher", "AES256-GCM-SHA384:@SECLEVEL=0"];
/// DHE key exchange.
pub const DHE_GCM: &[&str] = &["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0"];
/// Nothing above TLS 1.0.
pub const TLS10: &[&str] = &["-tls1", "-cipher", "ALL:@SECLEVEL=0"];
/// What every server of today has.
pub const MODERN: &[&str] = &[];

/// True if there is an `openssl`; else the test says that it was skipped. `cargo xtask test`
/// installs it, and does not let a test be skipped.
pub fn wanted(test: &str) -> bool {
    let there = Command::new("openssl").arg("version").output().is_ok_and(|out| out.status.success());
    assert!(there || std::env::var_os("ADSUM_INTEROP").is_none(), "openssl is missing");
    if !there {
        eprintln!("skipped {test}: there is no openssl command");
    }
    there
}

/// A certificate of its own for `san` (none if empty), with an RSA key; options of `openssl req` besides.
pub struct Identity {
    dir: tempfile::TempDir,
}

impl Identity {
    pub fn new(san: &str, more: &[&str]) -> Identity {
        let dir = tempfile::tempdir().unwrap();
        let mut config =
            "[req]\ndistinguished_name = dn\n[dn]\n[ext]\nbasicConstraints = critical,CA:FALSE\n\
                          extendedKeyUsage = serverAuth\n"
                .to_owned();
        if !san.is_empty() {
            config.push_str(&format!("subjectAltName = {san}\n"));
        }
        std::fs::write(dir.path().join("req.cnf"), config).unwrap();
        let made = Command::new("openssl")
            .current_dir(dir.path())
            .args(["req", "-x509", "-config", "req.cnf", "-extensions", "ext", "-newkey", "rsa:2048"])
            .args(["-nodes", "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "cert.pem"])
            .args(more)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Identity { dir }
    }

    /// A CA that signs itself.
    pub fn ca() -> Identity {
        Self::ca_with(2048)
    }

    /// The same with an RSA key of so many bits.
    pub fn ca_with(bits: u32) -> Identity {
        let made = Identity::new("", &[]);
        made.openssl(&format!("genrsa -out key.pem {bits}"));
        made.openssl(
            "req -x509 -new -key key.pem -subj /CN=root -config ca.cnf -extensions ext -out cert.pem",
        );
        made
    }

    /// A CA below another one.
    pub fn ca_below(ca: &Identity, digest: &str) -> Identity {
        let made = Identity::new("", &[]);
        made.signed_by(ca, "ca.cnf", "between", digest);
        made
    }

    /// A server's certificate that `ca` signs, with this digest.
    pub fn signed(ca: &Identity, san: &str, digest: &str) -> Identity {
        let made = Identity::new(san, &[]);
        made.signed_by(ca, "req.cnf", "localhost", digest);
        made
    }

    fn signed_by(&self, ca: &Identity, config: &str, name: &str, digest: &str) {
        self.openssl(&format!("req -new -key key.pem -subj /CN={name} -config {config} -out csr.pem"));
        self.openssl(&format!(
            "x509 -req -in csr.pem -CA {} -CAkey {} -set_serial 7 {digest} -extfile {config} -extensions ext \
             -out cert.pem",
            ca.cert().display(),
            ca.key().display()
        ));
    }

    fn openssl(&self, words: &str) {
        let ca = "[req]\ndistinguished_name = dn\n[dn]\n[ext]\nbasicConstraints = critical,CA:TRUE\n\
                  keyUsage = critical,keyCertSign\n";
        std::fs::write(self.dir.path().join("ca.cnf"), ca).unwrap();
        let made =
            Command::new("openssl").current_dir(self.dir.path()).args(words.split(' ')).output().unwrap();
        assert!(made.status.success(), "{words}: {}", String::from_utf8_lossy(&made.stderr));
    }

    pub fn cert(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    pub fn pem(&self) -> Vec<u8> {
        std::fs::read(self.cert()).unwrap()
    }
}

/// A running server; it is stopped when this is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub child: Child,
    /// Lines that it writes: what clients say, among others.
    lines: Option<Receiver<String>>,
}

impl Server {
    /// One connection after the other.
    pub fn start(identity: &Identity, options: &[&str]) -> Server {
        Self::spawn(&identity.cert(), &identity.key(), options)
    }

    /// The same with paths; standard input and output of the child are pipes.
    pub fn spawn(cert: &Path, key: &Path, options: &[&str]) -> Server {
        // The port is free a moment before it is taken: try again if somebody else was faster.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut child = Command::new("openssl")
                .args(["s_server", "-accept", &address.to_string(), "-cert"])
                .arg(cert)
                .arg("-key")
                .arg(key)
                .args(options)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            if options.contains(&"-quiet") {
                // It says nothing, and a trial connection would be the one it waits for.
                if listens(&mut child, address) {
                    return Server { address, child, lines: None };
                }
            } else {
                let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
                if lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("ACCEPT")) {
                    let (heard, receiver) = std::sync::mpsc::channel();
                    // What is not read would stop it one day.
                    std::thread::spawn(move || {
                        lines.map_while(Result::ok).for_each(|line| drop(heard.send(line)));
                    });
                    return Server { address, child, lines: Some(receiver) };
                }
            }
            drop(Server { address, child, lines: None });
        }
        panic!("openssl s_server does not start with {options:?}");
    }
}

impl Server {
    /// True if it has written a line with this since the last call.
    pub fn hears(&self, text: &str) -> bool {
        self.lines.as_ref().is_some_and(|lines| lines.try_iter().any(|line| line.contains(text)))
    }
}

/// Looks into the kernel's table of listening sockets.
fn listens(child: &mut Child, address: SocketAddr) -> bool {
    let row = format!(":{:04X} 00000000:0000 0A", address.port());
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        if std::fs::read_to_string("/proc/net/tcp").is_ok_and(|table| table.contains(&row)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In front of a server: whatever it refuses with an alert ends without a word, as with Schannel.
pub fn without_alerts(server: SocketAddr, times: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(times) {
            let (mut client, mut behind) = (stream.unwrap(), TcpStream::connect(server).unwrap());
            let mut bytes = [0; 16 * 1024];
            let n = client.read(&mut bytes).unwrap_or(0);
            behind.write_all(&bytes[..n]).unwrap();
            let n = behind.read(&mut bytes).unwrap_or(0);
            if n > 0 && bytes[0] != 21 {
                // Who asked has its answer in the first records.
                let _ = client.write_all(&bytes[..n]);
            }
        }
    });
    address
}

/// A server that has nothing to say: it accepts and closes, as servers do that find nothing in
/// common and send no alert. Counts who came.
pub fn hangs_up(times: usize) -> (SocketAddr, std::thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let counting = std::thread::spawn(move || {
        let mut came = 0;
        for stream in listener.incoming().take(times) {
            let mut stream: TcpStream = stream.unwrap();
            // The ClientHello is taken, so that the end is an end and no reset.
            let mut hello = [0; 4096];
            let _ = stream.read(&mut hello);
            came += 1;
        }
        came
    });
    (address, counting)
}
