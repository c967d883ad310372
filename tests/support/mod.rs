//! What the tests of `adsum check` share: the program, an embedded pool as a
//! process, credential files, and a small server that answers as it is told.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The program, without what the environment of the test says about configurations.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adsum"));
    command.args(args).stdin(Stdio::null());
    for name in ["ADSUM_TARGET", "ADSUM_CONFIG", "ADSUM_DNS"] {
        command.env_remove(name);
    }
    command.env("HOME", "/nonexistent");
    command
}

pub fn adsum(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

pub fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Writes a file that only its owner reads, and gives its path.
pub fn secret(dir: &Path, name: &str, text: &str) -> String {
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    file.to_string_lossy().into_owned()
}

/// `check` of users 1 and 2 of an embedded pool.
pub fn check(target: &str, dir: &Path, more: &[&str]) -> Output {
    checking(target, dir, more).output().unwrap()
}

/// The same, not started yet.
pub fn checking(target: &str, dir: &Path, more: &[&str]) -> Command {
    let publisher = secret(dir, "user1", "user000001:pw-user000001\n");
    let subscriber = secret(dir, "user2", "user000002:pw-user000002\n");
    let mut args = vec!["check", "--target", target, "--publisher", "sip:user000001@pool.test"];
    args.extend(["--publisher-credential-file", &publisher, "--subscriber", "sip:user000002@pool.test"]);
    args.extend(["--subscriber-credential-file", &subscriber]);
    args.extend_from_slice(more);
    command(&args)
}

/// An embedded pool as a process of its own, ended with this value.
pub struct PoolProcess {
    child: Child,
    words: std::fs::File,
    pub address: String,
    pub tls: String,
}

impl PoolProcess {
    pub fn start(args: &[&str]) -> PoolProcess {
        let words = tempfile::tempfile().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_adsum"))
            .args(["pool", "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(words.try_clone().unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let word = |key: &str| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(key))
                .unwrap_or_else(|| panic!("{line}"))
                .to_owned()
        };
        PoolProcess { address: word("udp,tcp="), tls: word("tls="), child, words }
    }

    /// `STOP` freezes it, `CONT` lets it go on: what came meanwhile waits in the kernel.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Ends the pool, and gives what it counted: what it holds yet is called `left`.
    pub fn stop(mut self) -> String {
        signal(&self.child, "TERM");
        self.child.wait().unwrap();
        let mut said = String::new();
        self.words.seek(SeekFrom::Start(0)).unwrap();
        self.words.read_to_string(&mut said).unwrap();
        assert!(said.contains("received: "), "{said}");
        said
    }
}

/// Sends a signal to a child.
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

impl Drop for PoolProcess {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A server over UDP that answers each request with a status line and headers of the test's.
pub struct SmallServer {
    pub address: String,
    requests: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SmallServer {
    /// `answer` gets a request and gives `404 Not Found\r\nHeader: …\r\n`.
    pub fn start(answer: impl Fn(&str) -> String + Send + 'static) -> SmallServer {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let (requests, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (requests.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0u8; 65536];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let echoed = ["via:", "from:", "to:", "call-id:", "cseq:"].map(|name| {
                    let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
                    let tag = if name == "to:" { ";tag=small" } else { "" };
                    format!("{}{tag}\r\n", line.unwrap_or_default())
                });
                let (status, headers) = answer(&request).split_once("\r\n").map_or_else(
                    || panic!("an answer has a line end"),
                    |(status, headers)| (status.to_owned(), headers.to_owned()),
                );
                let text =
                    format!("SIP/2.0 {status}\r\n{}{headers}Content-Length: 0\r\n\r\n", echoed.concat());
                seen.lock().unwrap().push(request);
                socket.send_to(text.as_bytes(), from).unwrap();
            }
        });
        SmallServer { address, requests, stop, thread: Some(thread) }
    }

    /// What came so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for SmallServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking());
    }
}
