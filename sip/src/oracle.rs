//! rsip as a second opinion on what the scanner read.
//!
//! It decides nothing: it is for samples ([`Sampler`]) and for tests. It
//! allocates and takes microseconds. rsip 0.4 knows a closed list of methods, no
//! folding, no compact names, no IPv6, no `tel:`, and ignores `Content-Length`;
//! so a normaliser of our own, which shares no code with the scanner, stands
//! before it, and what it cannot read all the same is *not understood*, which
//! says nothing about the message.

use std::fmt::Write as _;

use rsip::headers::{ToTypedHeader, UntypedHeader};
use rsip::message::HeadersExt as _;

use crate::scan::{Message, Start};
use crate::{HeaderId, value};

/// Longer messages are not shown to rsip: its time grows faster than their length.
pub const MAX_MESSAGE: usize = 128 * 1024;
/// No reason is longer, in bytes.
pub const MAX_WHY: usize = 160;

/// What two readings are compared in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// The message as a whole: only ever not understood.
    Message,
    /// Request or response; method and Request-URI, or status code.
    StartLine,
    /// `Call-ID`.
    CallId,
    /// Number and method of `CSeq`.
    CSeq,
    /// The tag of `From`.
    FromTag,
    /// The tag of `To`.
    ToTag,
    /// The branch of the topmost `Via`.
    Branch,
    /// The number in `Content-Length`.
    ContentLength,
    /// The bytes of the body.
    Body,
    /// The URI of the first `Contact`.
    Contact,
}

/// What rsip makes of a message that the scanner has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opinion {
    /// It reads the same in every field.
    Agree,
    /// It cannot read the message, or this field of it; in all fields that it
    /// can read it agrees.
    NotUnderstood {
        /// The first field that it cannot read.
        field: Field,
        /// rsip's words or ours, at most [`MAX_WHY`] bytes.
        why: String,
    },
    /// It reads something else here: one of the two is wrong.
    Disagree {
        /// The first field that differs.
        field: Field,
        /// Both readings, at most [`MAX_WHY`] bytes.
        readings: String,
    },
}

/// How closely a message is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// At every field.
    Whole,
    /// Of the fields that are dear to read (From, To, Via, Contact) at one, each in its turn.
    Turn(u64),
}

impl Look {
    fn takes(self, field: Field) -> bool {
        let turn = match field {
            Field::FromTag => 0,
            Field::ToTag => 1,
            Field::Branch => 2,
            Field::Contact => 3,
            _ => return true,
        };
        match self {
            Look::Whole => true,
            Look::Turn(n) => n % 4 == turn,
        }
    }
}

/// Compares the scanner's reading of `raw` with rsip's.
#[must_use]
pub fn second_opinion(raw: &[u8], message: &Message<'_>, look: Look) -> Opinion {
    let understood = normalised(raw).and_then(|bytes| {
        rsip::SipMessage::try_from(bytes.as_slice()).map_err(|error| bounded(format_args!("{error}")))
    });
    let theirs = match understood {
        Ok(theirs) => theirs,
        Err(why) => return Opinion::NotUnderstood { field: Field::Message, why },
    };
    let mut comparison = Comparison { look, first: None };
    let verdict = comparison.all(&theirs, message);
    match (verdict, comparison.first) {
        (Some((field, readings)), _) => Opinion::Disagree { field, readings },
        (None, Some((field, why))) => Opinion::NotUnderstood { field, why },
        (None, None) => Opinion::Agree,
    }
}

/// rsip's reading of a field: absent, or some bytes; or why it has none.
type Reading = Result<Option<Vec<u8>>, String>;

struct Comparison {
    look: Look,
    /// The first field that rsip could not read.
    first: Option<(Field, String)>,
}

impl Comparison {
    /// The first field that differs.
    fn all(&mut self, theirs: &rsip::SipMessage, ours: &Message<'_>) -> Option<(Field, String)> {
        let contact = ours.unfolded(HeaderId::Contact);
        let contact = contact
            .as_deref()
            .map(|line| value::list(line).next().and_then(value::name_addr).map_or(&b""[..], |c| c.uri));
        let length = ours.header(HeaderId::ContentLength).and_then(value::number);
        let cseq = ours.cseq().map(|(number, method)| cseq_text(number, method));
        let call_id = ours.unfolded(HeaderId::CallId);
        let start = start_text(ours.start());
        self.one(Field::StartLine, Some(&start), || their_start(theirs), same_text)
            .or_else(|| self.one(Field::CallId, call_id.as_deref(), || their_call_id(theirs), same))
            .or_else(|| self.one(Field::CSeq, cseq.as_deref(), || their_cseq(theirs), same_text))
            .or_else(|| self.one(Field::FromTag, ours.from_tag(), || their_from(theirs), same))
            .or_else(|| self.one(Field::ToTag, ours.to_tag(), || their_to(theirs), same))
            .or_else(|| self.one(Field::Branch, ours.branch(), || their_branch(theirs), same))
            .or_else(|| {
                let length = length.map(|n| n.to_string().into_bytes());
                self.one(Field::ContentLength, length.as_deref(), || their_length(theirs), same)
            })
            .or_else(|| self.one(Field::Body, Some(ours.body()), || Ok(Some(theirs.body().clone())), same))
            .or_else(|| self.one(Field::Contact, contact, || their_contact(theirs), same_text))
    }

    fn one(
        &mut self,
        field: Field,
        ours: Option<&[u8]>,
        theirs: impl FnOnce() -> Reading,
        same: fn(&[u8], &[u8]) -> bool,
    ) -> Option<(Field, String)> {
        if !self.look.takes(field) {
            return None;
        }
        match (ours, theirs()) {
            (_, Err(why)) => {
                self.first.get_or_insert((field, why));
                None
            }
            (None, Ok(None)) => None,
            (Some(ours), Ok(Some(theirs))) if same(ours, &theirs) => None,
            (ours, Ok(theirs)) => {
                let shown = |reading: Option<&[u8]>| {
                    reading.map_or("nothing".into(), |bytes| format!("`{}`", bytes.escape_ascii()))
                };
                let (ours, theirs) = (shown(ours), shown(theirs.as_deref()));
                Some((field, bounded(format_args!("{ours} here, {theirs} in rsip"))))
            }
        }
    }
}

fn start_text(start: Start<'_>) -> Vec<u8> {
    match start {
        Start::Request { method, uri } => [method, b" ", uri].concat(),
        Start::Response { code, .. } => code.to_string().into_bytes(),
    }
}

fn their_start(theirs: &rsip::SipMessage) -> Reading {
    match theirs {
        rsip::SipMessage::Request(request) => {
            sip_only(&request.uri)?;
            Ok(Some(format!("{} {}", request.method, request.uri).into_bytes()))
        }
        // Its own reason phrases stand in for those of the message.
        rsip::SipMessage::Response(response) => {
            Ok(Some(response.status_code.code().to_string().into_bytes()))
        }
    }
}

fn their_call_id(theirs: &rsip::SipMessage) -> Reading {
    Ok(theirs.call_id_header().ok().map(|header| header.value().as_bytes().to_vec()))
}

fn their_cseq(theirs: &rsip::SipMessage) -> Reading {
    let Ok(header) = theirs.cseq_header() else { return Ok(None) };
    let typed = header.typed().map_err(|error| bounded(format_args!("{error}")))?;
    Ok(Some(cseq_text(typed.seq, typed.method.to_string().as_bytes())))
}

fn cseq_text(number: u32, method: &[u8]) -> Vec<u8> {
    [number.to_string().as_bytes(), b" ", method].concat()
}

fn their_from(theirs: &rsip::SipMessage) -> Reading {
    let Ok(header) = theirs.from_header() else { return Ok(None) };
    let typed = header.typed().map_err(|error| bounded(format_args!("{error}")))?;
    whole_unless_bracketed(header.value(), &typed)?;
    Ok(param(&typed.params, "tag"))
}

fn their_to(theirs: &rsip::SipMessage) -> Reading {
    let Ok(header) = theirs.to_header() else { return Ok(None) };
    let typed = header.typed().map_err(|error| bounded(format_args!("{error}")))?;
    whole_unless_bracketed(header.value(), &typed)?;
    Ok(param(&typed.params, "tag"))
}

fn their_branch(theirs: &rsip::SipMessage) -> Reading {
    let Ok(header) = theirs.via_header() else { return Ok(None) };
    let typed = header.typed().map_err(|error| bounded(format_args!("{error}")))?;
    whole(header.value(), &typed)?;
    Ok(param(&typed.params, "branch"))
}

fn their_length(theirs: &rsip::SipMessage) -> Reading {
    use rsip::message::HasHeaders as _;
    let header = theirs.headers().iter().find_map(|header| match header {
        rsip::Header::ContentLength(length) => Some(length.value()),
        _ => None,
    });
    let Some(text) = header else { return Ok(None) };
    // rsip keeps the text; we read it as it would be read by anybody.
    let number: u64 = text.parse().map_err(|_| bounded(format_args!("Content-Length `{text}`")))?;
    Ok(Some(number.to_string().into_bytes()))
}

fn their_contact(theirs: &rsip::SipMessage) -> Reading {
    let Ok(header) = theirs.contact_header() else { return Ok(None) };
    let typed = header.typed().map_err(|error| bounded(format_args!("{error}")))?;
    whole(header.value(), &typed)?;
    sip_only(&typed.uri)?;
    Ok(Some(typed.uri.to_string().into_bytes()))
}

/// It takes `tel:+155` for host and port, and renders `scheme://` for what it does not know.
fn sip_only(uri: &rsip::Uri) -> Result<(), String> {
    match &uri.scheme {
        Some(rsip::Scheme::Sip | rsip::Scheme::Sips) => Ok(()),
        _ => Err("a scheme that is neither sip nor sips".into()),
    }
}

/// The first parameter of that name; one without a value has an empty one.
fn param(params: &[rsip::Param], name: &str) -> Option<Vec<u8>> {
    params.iter().find_map(|param| match param {
        rsip::Param::Tag(tag) if name == "tag" => Some(tag.to_string().into_bytes()),
        rsip::Param::Branch(branch) if name == "branch" => Some(branch.to_string().into_bytes()),
        rsip::Param::Other(other, None) if other.value().eq_ignore_ascii_case(name) => Some(Vec::new()),
        _ => None,
    })
}

/// rsip stops at the first byte of a value that it does not know and is content
/// with what it has. What it renders shows whether it read all.
fn whole(text: &str, typed: &impl std::fmt::Display) -> Result<(), String> {
    if same_text(text.as_bytes(), typed.to_string().as_bytes()) {
        return Ok(());
    }
    Err(bounded(format_args!("rsip reads only `{typed}`")))
}

/// After angle brackets it does see to it that nothing is left.
fn whole_unless_bracketed(text: &str, typed: &impl std::fmt::Display) -> Result<(), String> {
    if text.contains('<') { Ok(()) } else { whole(text, typed) }
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a == b
}

/// Equal but for case, blanks and angle brackets: rsip renders `;transport=UDP`
/// for `;transport=udp` and takes methods in any case.
fn same_text(a: &[u8], b: &[u8]) -> bool {
    fn text(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
        let kept = bytes.iter().filter(|b| !matches!(b, b' ' | b'\t' | b'<' | b'>'));
        kept.map(u8::to_ascii_lowercase)
    }
    text(a).eq(text(b))
}

/// The message as rsip can read it: framed by `Content-Length`, header names in
/// full and without blanks after them, each value on one line, no blanks around
/// the separators of parameters, one Via and Contact a line, CRLF everywhere.
fn normalised(raw: &[u8]) -> Result<Vec<u8>, String> {
    if raw.len() > MAX_MESSAGE {
        return Err(bounded(format_args!("{} bytes, more than {MAX_MESSAGE}", raw.len())));
    }
    let begin = raw.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(raw.len());
    let mut rest = &raw[begin..];
    let start = next_line(&mut rest)?;
    let mut headers: Vec<(&[u8], Vec<u8>)> = Vec::new();
    loop {
        let line = next_line(&mut rest)?;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|b| *b == b':');
        match (line[0], headers.last_mut(), colon) {
            (b' ' | b'\t', Some((_, value)), _) => {
                value.push(b' ');
                value.extend_from_slice(line.trim_ascii());
            }
            (b' ' | b'\t', None, _) | (_, _, None) => {
                return Err(bounded(format_args!("no header in `{}`", line.escape_ascii())));
            }
            (_, _, Some(colon)) => {
                let name = full_name(line[..colon].trim_ascii());
                headers.push((name, line[colon + 1..].trim_ascii().to_vec()));
            }
        }
    }
    if headers.is_empty() {
        // rsip would look for the headers in the body.
        return Err("no header at all".into());
    }
    let mut out = Vec::with_capacity(raw.len() + 64);
    out.extend_from_slice(start);
    out.extend_from_slice(b"\r\n");
    let mut length: Option<usize> = None;
    for (name, value) in &headers {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        if is("Via") || is("Contact") {
            out.extend_from_slice(&tidy(value, true, is("Via")));
        } else if is("From") || is("To") {
            out.extend_from_slice(&tidy(value, false, false));
        } else {
            out.extend_from_slice(value.trim_ascii());
        }
        out.extend_from_slice(b"\r\n");
        if is("Content-Length") {
            let text = std::str::from_utf8(value).unwrap_or_default();
            length = length.or(text.trim().parse().ok());
        }
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&rest[..length.unwrap_or(rest.len()).min(rest.len())]);
    Ok(out)
}

fn next_line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let Some(feed) = rest.iter().position(|b| *b == b'\n') else {
        return Err("no empty line ends the headers".into());
    };
    let line = &rest[..feed];
    *rest = &rest[feed + 1..];
    Ok(line.strip_suffix(b"\r").unwrap_or(line))
}

/// Takes away the blanks around `;` and `=` (SEMI and EQUAL of RFC 3261 §25.1),
/// for Via those around `/` and `:` as well, outside quotes and angle brackets;
/// of a list it keeps the `first` element only.
fn tidy(value: &[u8], first: bool, via: bool) -> Vec<u8> {
    let separator = |b: u8| matches!(b, b';' | b'=') || (via && matches!(b, b'/' | b':'));
    let mut out: Vec<u8> = Vec::with_capacity(value.len());
    let (mut quoted, mut escaped, mut inside, mut after) = (false, false, false, false);
    for byte in value.trim_ascii() {
        let opaque = quoted || inside;
        if first && !opaque && *byte == b',' {
            break;
        }
        if !opaque && separator(*byte) {
            out.truncate(out.trim_ascii_end().len());
        }
        if opaque || !after || !matches!(byte, b' ' | b'\t') {
            out.push(*byte);
            after = !opaque && separator(*byte);
        }
        match *byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if !inside => quoted = !quoted,
            b'<' if !quoted => inside = true,
            b'>' if !quoted => inside = false,
            _ => {}
        }
    }
    out.truncate(out.trim_ascii_end().len());
    out
}

/// The compact forms of the registry of SIP header fields (RFC 3261 §7.3.3).
fn full_name(name: &[u8]) -> &[u8] {
    let [letter] = name else { return name };
    match letter.to_ascii_lowercase() {
        b'a' => b"Accept-Contact",
        b'b' => b"Referred-By",
        b'c' => b"Content-Type",
        b'd' => b"Request-Disposition",
        b'e' => b"Content-Encoding",
        b'f' => b"From",
        b'i' => b"Call-ID",
        b'j' => b"Reject-Contact",
        b'k' => b"Supported",
        b'l' => b"Content-Length",
        b'm' => b"Contact",
        b'o' => b"Event",
        b'r' => b"Refer-To",
        b's' => b"Subject",
        b't' => b"To",
        b'u' => b"Allow-Events",
        b'v' => b"Via",
        b'x' => b"Session-Expires",
        _ => name,
    }
}

/// At most [`MAX_WHY`] bytes of a text, control characters escaped.
fn bounded(text: std::fmt::Arguments<'_>) -> String {
    struct Bounded(String);
    impl std::fmt::Write for Bounded {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            for c in text.chars() {
                let escaped = if c.is_control() { '.' } else { c };
                if self.0.len() + escaped.len_utf8() > MAX_WHY {
                    return Err(std::fmt::Error);
                }
                self.0.push(escaped);
            }
            Ok(())
        }
    }
    let mut out = Bounded(String::new());
    // The only error is that it is full.
    let _full = out.write_fmt(text);
    out.0
}

/// Of so many messages one is looked at.
pub const SAMPLE: u64 = 64;

/// Those that have a place of their own, and one for all others.
const METHODS: usize = 17;
/// Requests, and the codes 100 to 699.
const CODES: usize = 601;
const WORDS: usize = (METHODS * CODES).div_ceil(64);

/// Which messages of a shard are shown to rsip: the first of each method and
/// code, and each 64th. All methods that it does not know are one. It never
/// allocates: what it has seen is a bit in 1.3 kB.
#[derive(Debug, Clone)]
pub struct Sampler {
    count: u64,
    seen: [u64; WORDS],
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler::new()
    }
}

impl Sampler {
    /// One that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Sampler { count: 0, seen: [0; WORDS] }
    }

    /// Counts a message; how closely it is to be looked at, if it is.
    #[inline]
    pub fn wants(&mut self, message: &Message<'_>) -> Option<Look> {
        self.wants_kind(message.method(), message.code())
    }

    /// As [`Sampler::wants`], for one of whom method and status code are known
    /// (0 for a request).
    #[inline]
    pub fn wants_kind(&mut self, method: &[u8], code: u16) -> Option<Look> {
        self.count += 1;
        let method = match method {
            b"REGISTER" => 0,
            b"SUBSCRIBE" => 1,
            b"NOTIFY" => 2,
            b"PUBLISH" => 3,
            b"OPTIONS" => 4,
            b"MESSAGE" => 5,
            b"SERVICE" => 6,
            b"BENOTIFY" => 7,
            b"INVITE" => 8,
            b"ACK" => 9,
            b"BYE" => 10,
            b"CANCEL" => 11,
            b"INFO" => 12,
            b"PRACK" => 13,
            b"UPDATE" => 14,
            b"REFER" => 15,
            _ => METHODS - 1,
        };
        let code = usize::from(code).saturating_sub(99).min(CODES - 1);
        let kind = method * CODES + code;
        let (word, bit) = (&mut self.seen[kind / 64], 1 << (kind % 64));
        let first = *word & bit == 0;
        *word |= bit;
        if first {
            Some(Look::Whole)
        } else {
            self.count.is_multiple_of(SAMPLE).then_some(Look::Turn(self.count / SAMPLE))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scanner;

    const NOTIFY: &str = "NOTIFY sip:a@h:5060;transport=udp SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\n\
        From: <sip:b@h>;tag=f\r\nTo: <sip:a@h>;tag=t\r\nCall-ID: c\r\nCSeq: 7 NOTIFY\r\n\
        Contact: <sip:b@h:5070>\r\nContent-Length: 2\r\n\r\nhi";

    fn opinion(raw: &str, scanned: &str) -> Opinion {
        look(raw, scanned, Look::Whole)
    }

    fn look(raw: &str, scanned: &str, look: Look) -> Opinion {
        second_opinion(raw.as_bytes(), &Scanner::new().scan(scanned.as_bytes()).unwrap(), look)
    }

    #[test]
    fn each_field_is_compared() {
        assert_eq!(opinion(NOTIFY, NOTIFY), Opinion::Agree);
        for (from, to, expected) in [
            ("NOTIFY sip", "PUBLISH sip", Field::StartLine),
            ("sip:a@h:5060", "sip:z@h:5060", Field::StartLine),
            ("Call-ID: c", "Call-ID: d", Field::CallId),
            ("Call-ID: c", "Call-Ix: c", Field::CallId),
            ("7 NOTIFY", "8 NOTIFY", Field::CSeq),
            ("tag=f", "tag=g", Field::FromTag),
            (";tag=t", "", Field::ToTag),
            ("z9hG4bKx", "z9hG4bKX", Field::Branch),
            ("Length: 2", "Length: 1", Field::ContentLength),
            ("\r\n\r\nhi", "\r\n\r\nho", Field::Body),
            ("b@h:5070", "b@h:5071", Field::Contact),
        ] {
            let other = NOTIFY.replacen(from, to, 1);
            assert_ne!(other, NOTIFY);
            match opinion(NOTIFY, &other) {
                Opinion::Disagree { field, .. } => assert_eq!(field, expected, "{to}"),
                found => panic!("{to}: {found:?}"),
            }
            let dear = [Field::FromTag, Field::ToTag, Field::Branch, Field::Contact].contains(&expected);
            let found =
                (0..4).filter(|turn| look(NOTIFY, &other, Look::Turn(*turn)) != Opinion::Agree).count();
            assert_eq!(found, if dear { 1 } else { 4 }, "{to}");
        }
    }

    #[test]
    fn the_normaliser_fills_the_gaps_that_it_can() {
        let raw = NOTIFY
            .replace("Call-ID:", "i :")
            .replace("Via: SIP/2.0/UDP h;branch=", "v: SIP / 2.0 /\r\n UDP h ; branch =\r\n\t")
            .replace("z9hG4bKx", "z9hG4bKx, SIP/2.0/UDP i;branch=z9hG4bKy")
            .replace("<sip:a@h>;tag=t", "\"a ; \\\" b\" <sip:a@h>\r\n  ; tag = t")
            .replace("Contact: ", "m:\r\n ")
            .replace("Content-Length:", "L:")
            .replace("7 NOTIFY\r\n", "7\r\n NOTIFY\n");
        let raw = format!("\r\n\r\n{raw}SIP/2.0 200 OK\r\n\r\n");
        assert_eq!(opinion(&raw, &raw), Opinion::Agree);
    }

    #[test]
    fn what_rsip_cannot_read_is_not_understood() {
        let cases = [
            (NOTIFY.replace("NOTIFY", "BENOTIFY"), Field::Message),
            (NOTIFY.replace("sip:a@h:5060", "sip:a@[::1]:5060"), Field::Message),
            (NOTIFY.replace("h;branch", "[::1];branch"), Field::Branch),
            (NOTIFY.replace("<sip:b@h:5070>", "<sip:b@h:5070>;+sip.instance=\"<urn:x>\""), Field::Contact),
        ];
        for (raw, expected) in cases {
            match opinion(&raw, &raw) {
                Opinion::NotUnderstood { field, why } => {
                    assert_eq!(field, expected, "{why}");
                    assert!(!why.is_empty() && why.len() <= MAX_WHY, "{why}");
                }
                found => panic!("{raw}: {found:?}"),
            }
        }
    }

    #[test]
    fn the_first_of_each_kind_and_each_64th_are_looked_at() {
        let mut sampler = Sampler::new();
        for (method, code) in
            [("NOTIFY", 0), ("NOTIFY", 200), ("REGISTER", 200), ("REGISTER", 699), ("X", 100)]
        {
            assert_eq!(sampler.wants_kind(method.as_bytes(), code), Some(Look::Whole));
        }
        assert_eq!(sampler.wants_kind(b"Y", 100), None);
        let looks: Vec<_> = (6..6400).filter_map(|_| sampler.wants_kind(b"NOTIFY", 0)).collect();
        assert!(looks.iter().all(|look| matches!(look, Look::Turn(_))));
        assert_eq!(looks.len(), 100);
        let mut scanner = Scanner::new();
        assert!(Sampler::new().wants(&scanner.scan(NOTIFY.as_bytes()).unwrap()).is_some());
    }
}
