//! What is signed, and where the signature stands ([MS-SIP] §3.1.4.2, [MS-SIPAE] §2.2).

use adsum_sip::protection::Outgoing;
use adsum_sip::{HeaderId, Message, value};

use super::super::ids::write_number;
use super::gate::REALM;

/// `Authorization: NTLM …` or its sibling, as it came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Credentials<'a> {
    pub(super) realm: &'a [u8],
    pub(super) targetname: &'a [u8],
    pub(super) opaque: &'a [u8],
    /// Base 64; in the second message of a handshake it is there and empty.
    pub(super) gssapi_data: &'a [u8],
    pub(super) has_gssapi_data: bool,
    pub(super) version: Option<u8>,
    pub(super) crand: &'a [u8],
    /// As it was written: that is what was signed.
    cnum_text: &'a [u8],
    pub(super) cnum: Option<u32>,
    pub(super) response: &'a [u8],
}

impl<'a> Credentials<'a> {
    /// `None` for another scheme.
    pub(super) fn read(header: &'a [u8]) -> Option<Credentials<'a>> {
        let (scheme, rest) = header.trim_ascii().split_at_checked(4)?;
        (scheme.eq_ignore_ascii_case(b"NTLM") && rest.first().is_none_or(u8::is_ascii_whitespace))
            .then_some(())?;
        let mut given = Credentials::default();
        // Commas separate parameters here, and none of their values holds one unquoted.
        for parameter in value::list(rest) {
            let equals = memchr::memchr(b'=', parameter).unwrap_or(parameter.len());
            let (name, text) = parameter.split_at(equals);
            let text = value::unquote(text.get(1..).unwrap_or(b"").trim_ascii());
            match name.trim_ascii().to_ascii_lowercase().as_slice() {
                b"realm" => given.realm = text,
                b"targetname" => given.targetname = text,
                b"opaque" => given.opaque = text,
                b"gssapi-data" => (given.gssapi_data, given.has_gssapi_data) = (text, true),
                b"version" => given.version = value::number(text).and_then(|n| u8::try_from(n).ok()),
                b"crand" => given.crand = text,
                b"cnum" => (given.cnum_text, given.cnum) = (text, value::number(text)),
                b"response" => given.response = text,
                _ => {}
            }
        }
        Some(given)
    }
}

fn put(parts: &[&[u8]], out: &mut Vec<u8>) {
    for part in parts {
        out.push(b'<');
        out.extend_from_slice(part);
        out.push(b'>');
    }
}

fn put_number(number: u32, out: &mut Vec<u8>) {
    out.push(b'<');
    write_number(u64::from(number), out);
    out.push(b'>');
}

/// What the other side signed of a message that came in: the texts as they
/// stand in it. Versions 3 and 4 sign To and the asserted identities, too.
pub(super) fn text(
    version: u8,
    given: &Credentials<'_>,
    message: &Message<'_>,
    target: &str,
    out: &mut Vec<u8>,
) {
    out.clear();
    let (from, to) = [HeaderId::From, HeaderId::To]
        .map(|id| message.header(id).and_then(value::name_addr).map_or(&b""[..], |a| a.uri))
        .into();
    let (number, method) = message.cseq().unwrap_or((0, b""));
    put(
        &[b"NTLM", given.crand, given.cnum_text, REALM.as_bytes(), target.as_bytes(), message.call_id()],
        out,
    );
    put_number(number, out);
    put(&[method, from, message.from_tag().unwrap_or(b"")], out);
    if version > 2 {
        put(&[to], out);
    }
    put(&[message.to_tag().unwrap_or(b"")], out);
    if version > 2 {
        let asserted = identities(message);
        put(&asserted, out);
    }
    put(&[message.header(HeaderId::Expires).unwrap_or(b"")], out);
    if message.code() > 0 {
        put_number(u32::from(message.code()), out);
    }
}

/// The first SIP and the first telephone URI of P-Asserted-Identity, or else
/// of P-Preferred-Identity.
fn identities<'a>(message: &Message<'a>) -> [&'a [u8]; 2] {
    let name =
        ["P-Asserted-Identity", "P-Preferred-Identity"].into_iter().find(|n| message.named(n).is_some());
    let mut found: [&[u8]; 2] = [b"", b""];
    let Some(name) = name else { return found };
    let headers = message.lines().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
    for uri in headers.flat_map(|(_, v)| value::list(v)).filter_map(value::name_addr).map(|a| a.uri) {
        let has = |scheme: &[u8]| uri.get(..scheme.len()).is_some_and(|u| u.eq_ignore_ascii_case(scheme));
        let place = if has(b"tel:") { 1 } else { 0 };
        if found[place].is_empty() && (place == 1 || has(b"sip:") || has(b"sips:")) {
            found[place] = uri;
        }
    }
    found
}

/// What we sign of a message of ours.
pub(super) fn text_of(
    version: u8,
    srand: &[u8],
    snum: u32,
    outgoing: &Outgoing<'_>,
    target: &str,
    out: &mut Vec<u8>,
) {
    out.clear();
    put(&[b"NTLM", srand], out);
    put_number(snum, out);
    put(&[REALM.as_bytes(), target.as_bytes(), outgoing.call_id], out);
    put_number(outgoing.cseq, out);
    put(&[outgoing.method, outgoing.from_uri, outgoing.from_tag], out);
    if version > 2 {
        put(&[outgoing.to_uri], out);
    }
    put(&[outgoing.to_tag], out);
    if version > 2 {
        put(&[b"", b""], out);
    }
    match outgoing.expires {
        Some(seconds) => put_number(seconds, out),
        None => put(&[b""], out),
    }
    if outgoing.code > 0 {
        put_number(u32::from(outgoing.code), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use adsum_sip::Scanner;
    use proptest::prelude::*;

    #[test]
    fn a_header_is_read_in_any_order_and_case() {
        let read = Credentials::read(
            b"ntlm qop=\"auth\", OPAQUE=\"0A,B\", realm=\"SIP Communications Service\",targetname=\"ref\", \
              crand=\"5a5a0001\", cnum=\"07\", response=\"01ff\", version=4",
        )
        .unwrap();
        assert_eq!((read.opaque, read.crand, read.response), (&b"0A,B"[..], &b"5a5a0001"[..], &b"01ff"[..]));
        assert_eq!((read.cnum, read.cnum_text, read.version), (Some(7), &b"07"[..], Some(4)));
        assert!(!read.has_gssapi_data);
        assert!(Credentials::read(b"NTLM gssapi-data=\"\"").unwrap().has_gssapi_data);
        for other in [&b"Digest realm=\"x\""[..], b"NTLMX a=b", b"NT", b""] {
            assert_eq!(Credentials::read(other), None);
        }
    }

    /// The guide's §8.4: what is signed of a REGISTER, in both forms.
    #[test]
    fn texts_are_those_of_the_vectors() {
        let message = "REGISTER sip:loadlab.test SIP/2.0\r\nVia: SIP/2.0/TLS a\r\n\
            From: \"P\" <sip:pub00001@loadlab.test>;tag=t1a2b3c4d;epid=5f\r\nTo: <sip:pub00001@loadlab.test>\r\n\
            Call-ID: c0ffee01@pub00001\r\nCSeq: 4 REGISTER\r\nExpires: 0\r\nContent-Length: 0\r\n\r\n";
        let mut scanner = Scanner::new();
        let message = scanner.scan(message.as_bytes()).unwrap();
        let given =
            Credentials { crand: b"5a5a000b", cnum_text: b"11", cnum: Some(11), ..Credentials::default() };
        let mut out = Vec::new();
        text(4, &given, &message, "ref.loadlab.test", &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "<NTLM><5a5a000b><11><SIP Communications Service><ref.loadlab.test><c0ffee01@pub00001><4><REGISTER><sip:pub00001@loadlab.test><t1a2b3c4d><sip:pub00001@loadlab.test><><><><0>"
        );
        text(2, &given, &message, "ref.loadlab.test", &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "<NTLM><5a5a000b><11><SIP Communications Service><ref.loadlab.test><c0ffee01@pub00001><4><REGISTER><sip:pub00001@loadlab.test><t1a2b3c4d><><0>"
        );
        let outgoing = Outgoing {
            code: 200,
            method: b"REGISTER",
            call_id: b"c0ffee01@pub00001",
            cseq: 3,
            from_uri: b"sip:pub00001@loadlab.test",
            from_tag: b"t1a2b3c4d",
            to_uri: b"sip:pub00001@loadlab.test",
            to_tag: b"S9F8E7D6C",
            expires: Some(600),
            ..Outgoing::default()
        };
        text_of(4, b"7B7B0002", 1, &outgoing, "ref.loadlab.test", &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "<NTLM><7B7B0002><1><SIP Communications Service><ref.loadlab.test><c0ffee01@pub00001><3><REGISTER><sip:pub00001@loadlab.test><t1a2b3c4d><sip:pub00001@loadlab.test><S9F8E7D6C><><><600><200>"
        );
    }

    #[test]
    fn asserted_identities_go_before_preferred_ones() {
        let message = "SIP/2.0 200 OK\r\nP-Preferred-Identity: <sip:c@d>\r\n\
            P-Asserted-Identity: \"A, B\" <sip:a@b>, <tel:+1>\r\nP-Asserted-Identity: <sip:x@y>\r\nCSeq: 1 NOTIFY\r\n\r\n";
        let mut scanner = Scanner::new();
        let message = scanner.scan(message.as_bytes()).unwrap();
        assert_eq!(identities(&message), [&b"sip:a@b"[..], b"tel:+1"]);
    }

    proptest! {
        #[test]
        fn garbage_is_read_without_harm(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Credentials::read(&text);
            let _ = Credentials::read(&[b"NTLM ", &text[..]].concat());
        }
    }
}
