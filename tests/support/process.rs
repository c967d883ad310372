//! The program as a user starts it, and what ends with the test.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_adsum");

/// A child that does not outlive its test.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The program with these arguments, silent.
pub fn adsum(args: &[&str]) -> Process {
    let child = Command::new(PROGRAM).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Process(child.unwrap())
}

/// A pool of its own on some port, and its address.
pub fn pool(args: &[&str]) -> (Process, String) {
    let mut child = Command::new(PROGRAM)
        .args(["pool", "--listen", "127.0.0.1:0"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("udp,tcp=")).unwrap().to_owned();
    (Process(child), address)
}

/// Waits until something is so.
pub fn wait_for(limit: Duration, what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < end, "there is no {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
