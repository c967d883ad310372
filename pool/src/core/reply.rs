//! Answers (RFC 3261 §8.2.6).

use adsum_sip::time::Time;
use adsum_sip::{HeaderId, Message};

use super::Peer;

/// An answer that is being made.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status code.
    pub code: u16,
    /// Not before this instant.
    pub at: Time,
    lines: Vec<u8>,
    tag: Option<String>,
}

impl Reply {
    /// An answer with a code.
    #[must_use]
    pub fn new(code: u16) -> Self {
        Reply { code, at: Time(0), lines: Vec::new(), tag: None }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.lines.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        self
    }

    /// With header lines that are complete.
    #[must_use]
    pub fn lines(mut self, lines: Vec<u8>) -> Self {
        self.lines.extend(lines);
        self
    }

    /// With this tag in To.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.tag = Some(tag.to_owned());
        self
    }

    /// Not before this instant.
    #[must_use]
    pub fn at(mut self, at: Time) -> Self {
        self.at = at;
        self
    }

    /// The bytes.
    #[must_use]
    pub fn render(&self, message: &Message<'_>, peer: Peer) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(format!("SIP/2.0 {} {}\r\n", self.code, phrase(self.code)).as_bytes());
        for (at, via) in message.headers(HeaderId::Via).enumerate() {
            out.extend_from_slice(b"Via: ");
            out.extend_from_slice(via);
            if at == 0 {
                let address = peer.address();
                // RFC 3581 §4; `received` says what the transport saw (RFC 3261 §18.2.1).
                let text = String::from_utf8_lossy(via);
                if text.contains(";rport") && !text.contains(";rport=") {
                    let cut = out.len() - via.len() + text.find(";rport").map_or(0, |at| at + ";rport".len());
                    let tail = out.split_off(cut);
                    out.extend_from_slice(format!("={}", address.port()).as_bytes());
                    out.extend_from_slice(&tail);
                }
                out.extend_from_slice(format!(";received={}", address.ip()).as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
        let mut copy = |name: &str, id: HeaderId, tag: &str| {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(message.header(id).unwrap_or(b""));
            out.extend_from_slice(tag.as_bytes());
            out.extend_from_slice(b"\r\n");
        };
        let tag = match (message.to_tag(), &self.tag) {
            (Some(_), _) => String::new(),
            (None, Some(tag)) => format!(";tag={tag}"),
            (None, None) => format!(";tag=p{:x}", adsum_sip::ids::mix(message.call_id().len() as u64)),
        };
        copy("From: ", HeaderId::From, "");
        copy("To: ", HeaderId::To, &tag);
        copy("Call-ID: ", HeaderId::CallId, "");
        copy("CSeq: ", HeaderId::CSeq, "");
        out.extend_from_slice(&self.lines);
        out.extend_from_slice(concat!("Server: adsum-pool/", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes());
        out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
        out
    }
}

fn phrase(code: u16) -> &'static str {
    match code {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        420 => "Bad Extension",
        423 => "Interval Too Brief",
        481 => "Subscription Does Not Exist",
        483 => "Too Many Hops",
        489 => "Bad Event",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Answered So On Purpose",
    }
}
