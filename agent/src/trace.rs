//! Messages as text, with secrets masked: what `--trace FILE` writes.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use crate::failures::masked;
use crate::net::clock;

/// A trace file. It ends with a remark when it reaches its limit.
#[derive(Debug)]
pub struct Trace {
    file: BufWriter<File>,
    left: u64,
}

/// Bytes that one trace may hold.
const LIMIT: u64 = 256 * 1024 * 1024;

impl Trace {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Trace { file: BufWriter::new(File::create(path)?), left: LIMIT })
    }

    /// Writes one message. A disk that is full ends the trace, not the run.
    pub fn message(&mut self, outgoing: bool, transport: &str, peer: SocketAddr, bytes: &[u8]) {
        if self.left == 0 {
            return;
        }
        let ns = clock::unix_ns();
        let (s, us) = (ns / 1_000_000_000, ns % 1_000_000_000 / 1_000);
        let day = s.rem_euclid(86_400);
        let arrow = if outgoing { "-->" } else { "<--" };
        let text = format!(
            "{:02}:{:02}:{:02}.{us:06} {arrow} {transport} {peer} {} bytes\n{}\n",
            day / 3600,
            day / 60 % 60,
            day % 60,
            bytes.len(),
            masked(bytes)
        );
        self.left = self.left.saturating_sub(text.len() as u64);
        if self.file.write_all(text.as_bytes()).is_err() {
            self.left = 0;
        } else if self.left == 0 {
            drop(writeln!(self.file, "the trace ends here: {LIMIT} bytes"));
        }
    }
}
