//! Answers (RFC 3261 §8.2.6).

use adsum_sip::time::Time;
use adsum_sip::{HeaderId, Message, value};

use super::Peer;
use super::ids::write_number;

/// An answer that is being made; its own header lines stand in [`super::Core`]'s
/// `lines`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// Not before this instant.
    pub(super) at: Time,
    /// Slot and generation of the subscription whose tag goes into To.
    pub(super) tag: Option<(u32, u32)>,
}

impl Reply {
    pub(super) fn new(code: u16) -> Self {
        Reply { code, at: Time(0), tag: None }
    }

    pub(super) fn tag(self, slot: u32, generation: u32) -> Self {
        Reply { tag: Some((slot, generation)), ..self }
    }

    pub(super) fn at(self, at: Time) -> Self {
        Reply { at, ..self }
    }
}

/// Appends the answer to `message`: `tag` goes into To if there is none yet,
/// `lines` are header lines of this answer.
pub(super) fn render(
    code: u16,
    tag: &[u8],
    lines: &[u8],
    message: &Message<'_>,
    peer: Peer,
    out: &mut Vec<u8>,
) {
    status_line(code, out);
    write_vias(message, out, |top, out| top_via(top, peer, out));
    let mut copy = |name: &[u8], id: HeaderId, tag: &[u8]| {
        let Some(value) = message.header(id) else { return };
        out.extend_from_slice(name);
        out.extend_from_slice(value);
        if !tag.is_empty() {
            out.extend_from_slice(b";tag=");
            out.extend_from_slice(tag);
        }
        out.extend_from_slice(b"\r\n");
    };
    copy(b"From: ", HeaderId::From, b"");
    copy(b"To: ", HeaderId::To, if message.to_tag().is_some() { b"" } else { tag });
    copy(b"Call-ID: ", HeaderId::CallId, b"");
    copy(b"CSeq: ", HeaderId::CSeq, b"");
    out.extend_from_slice(lines);
    out.extend_from_slice(
        concat!("Server: adsum-pool/", env!("CARGO_PKG_VERSION"), "\r\nContent-Length: 0\r\n\r\n").as_bytes(),
    );
}

/// Appends the first line.
pub(super) fn status_line(code: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(b"SIP/2.0 ");
    write_number(u64::from(code), out);
    for part in [b" ", phrase(code).as_bytes(), b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Appends the Via lines of a request; `write_top` writes the topmost element, all others stay as
/// they are.
pub(super) fn write_vias(message: &Message<'_>, out: &mut Vec<u8>, write_top: impl Fn(&[u8], &mut Vec<u8>)) {
    for (at, via) in message.headers(HeaderId::Via).enumerate() {
        out.extend_from_slice(b"Via: ");
        let mut rest = via;
        if at == 0 {
            let top = value::list(via).next().unwrap_or(via);
            rest = &via[top.as_ptr() as usize - via.as_ptr() as usize + top.len()..];
            write_top(top, out);
        }
        out.extend_from_slice(rest);
        out.extend_from_slice(b"\r\n");
    }
}

/// The topmost element gets `received`, and `rport` its value (RFC 3261
/// §18.2.1, RFC 3581 §4).
fn top_via(top: &[u8], peer: Peer, out: &mut Vec<u8>) {
    let address = peer.address();
    let mut parts = top.split(|b| *b == b';');
    out.extend_from_slice(parts.next().unwrap_or(top));
    for part in parts {
        let name = part.trim_ascii();
        if name.len() >= 8 && name[..8].eq_ignore_ascii_case(b"received") {
            continue; // ours counts
        }
        out.push(b';');
        out.extend_from_slice(part);
        if name.eq_ignore_ascii_case(b"rport") {
            out.push(b'=');
            write_number(u64::from(address.port()), out);
        }
    }
    out.extend_from_slice(b";received=");
    write_ip(address.ip(), out);
}

fn write_ip(ip: std::net::IpAddr, out: &mut Vec<u8>) {
    match ip {
        std::net::IpAddr::V4(ip) => {
            for (at, octet) in ip.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                write_number(u64::from(octet), out);
            }
        }
        std::net::IpAddr::V6(ip) => {
            use std::io::Write as _;
            // Writing to a vector cannot fail.
            drop(write!(out, "{ip}"));
        }
    }
}

fn phrase(code: u16) -> &'static str {
    match code {
        200 => "OK",
        301 => "Moved Permanently",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        409 => "Conflict",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        421 => "Extension Required",
        423 => "Interval Too Brief",
        480 => "Temporarily Unavailable",
        481 => "Subscription Does Not Exist",
        483 => "Too Many Hops",
        489 => "Bad Event",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Answered So On Purpose",
    }
}
