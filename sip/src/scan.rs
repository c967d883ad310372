//! The scanner: one pass over the bytes of one message, nothing allocated.
//!
//! [`Scanner`] owns the scratch index and is kept for the life of a shard;
//! [`Scanner::scan`] lends it to the [`Message`] it returns. Values are slices
//! of the caller's buffer with the white space around them taken off. A folded
//! value (RFC 3261 §7.3.1) still contains its line break; [`Message::unfolded`]
//! gives it on one line.
//!
//! The scanner is liberal in what it accepts, as a load tester has to be: bare
//! LF, blanks before the colon, compact names, any case, leading empty lines.
//! What it refuses is listed in [`ScanError`].

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr;

use crate::header::HeaderId;

/// More header lines than this are refused: no peer of ours needs them, and
/// a bound keeps a hostile message from growing the index.
pub const MAX_HEADERS: usize = 256;

const ABSENT: u16 = u16::MAX;

/// Why some bytes are not a SIP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Only line breaks: a keep-alive, not a message (RFC 5626 §4.4.1).
    #[error("only line breaks: a keep-alive")]
    Empty,
    /// The first line is neither a request line nor a status line.
    #[error("the first line is neither a request line nor a status line")]
    StartLine,
    /// The version is not SIP/2.0 (RFC 3261 §7.1).
    #[error("the version is not SIP/2.0")]
    Version,
    /// A header line has no colon, or begins with one.
    #[error("header line {0} has no name or no colon")]
    HeaderLine(u16),
    /// More than [`MAX_HEADERS`] lines.
    #[error("more than {MAX_HEADERS} header lines")]
    TooManyHeaders,
    /// The bytes end before the empty line that ends the headers.
    #[error("the headers do not end: the message is truncated")]
    Truncated,
    /// `Content-Length` is not a number, or two of them differ.
    #[error("Content-Length is not one number")]
    ContentLength,
    /// `Content-Length` announces more than there is (RFC 3261 §18.3).
    #[error("Content-Length announces {announced} bytes, {present} are there")]
    BodyTruncated {
        /// What the header says.
        announced: u32,
        /// What followed the headers.
        present: u32,
    },
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    id: HeaderId,
    folded: bool,
    name: (u32, u32),
    value: (u32, u32),
}

/// The scratch index of a shard; see the module's words.
#[derive(Debug)]
pub struct Scanner {
    entries: Vec<Entry>,
    first: [u16; HeaderId::KNOWN],
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner::new()
    }
}

/// The start line of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start<'a> {
    /// `METHOD SP Request-URI SP SIP/2.0`; extension methods are just bytes.
    Request {
        /// The method as sent; methods are case-sensitive (RFC 3261 §7.1).
        method: &'a [u8],
        /// The Request-URI, byte for byte.
        uri: &'a [u8],
    },
    /// `SIP/2.0 SP code SP reason`.
    Response {
        /// 100 to 699.
        code: u16,
        /// May be empty.
        reason: &'a [u8],
    },
}

/// One scanned message: slices of the caller's buffer.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    raw: &'a [u8],
    start: Start<'a>,
    entries: &'a [Entry],
    first: &'a [u16; HeaderId::KNOWN],
    body: (u32, u32),
}

impl Scanner {
    /// An empty index with room for an ordinary message.
    #[must_use]
    pub fn new() -> Self {
        Scanner { entries: Vec::with_capacity(64), first: [ABSENT; HeaderId::KNOWN] }
    }

    /// Scans exactly one message: a datagram, or what the framer cut out of a
    /// stream. A body longer than `Content-Length` is cut to it (RFC 3261 §18.3);
    /// without that header the body is all the rest.
    ///
    /// # Errors
    /// [`ScanError`], when the bytes cannot be read as a SIP message.
    pub fn scan<'a>(&'a mut self, raw: &'a [u8]) -> Result<Message<'a>, ScanError> {
        self.entries.clear();
        self.first = [ABSENT; HeaderId::KNOWN];
        let begin = raw.iter().position(|b| !matches!(b, b'\r' | b'\n')).ok_or(ScanError::Empty)?;
        let (line, mut at) = line_at(raw, begin).ok_or(ScanError::Truncated)?;
        let start = start_line(&raw[line])?;
        let mut number: u16 = 1;
        loop {
            let (line, next) = line_at(raw, at).ok_or(ScanError::Truncated)?;
            at = next;
            number = number.saturating_add(1);
            if line.is_empty() {
                break;
            }
            if matches!(raw[line.start], b' ' | b'\t') {
                self.fold(raw, &line, number)?;
            } else {
                self.enter(raw, line, number)?;
            }
        }
        let body = self.body(raw, at)?;
        Ok(Message { raw, start, entries: &self.entries, first: &self.first, body })
    }

    fn enter(&mut self, raw: &[u8], line: Range<usize>, number: u16) -> Result<(), ScanError> {
        let bad = ScanError::HeaderLine(number);
        let (id, name, value) = match usual(&raw[line.clone()]) {
            Some((id, name)) => (id, line.start..line.start + name, line.start + name + 1),
            None => {
                let colon = line.start + raw[line.clone()].iter().position(|b| *b == b':').ok_or(bad)?;
                let name = trim(raw, line.start..colon);
                (HeaderId::of(&raw[name.clone()]), name, colon + 1)
            }
        };
        if name.is_empty() {
            return Err(bad);
        }
        if self.entries.len() == MAX_HEADERS {
            return Err(ScanError::TooManyHeaders);
        }
        let value = trim(raw, value..line.end);
        if id != HeaderId::Other {
            let first = &mut self.first[id as usize];
            if *first == ABSENT {
                *first = self.entries.len() as u16;
            }
        }
        self.entries.push(Entry { id, folded: false, name: pack(name), value: pack(value) });
        Ok(())
    }

    fn fold(&mut self, raw: &[u8], line: &Range<usize>, number: u16) -> Result<(), ScanError> {
        let last = self.entries.last_mut().ok_or(ScanError::HeaderLine(number))?;
        let more = trim(raw, line.clone());
        if last.value.0 == last.value.1 {
            last.value = pack(more); // nothing on the first line: no break inside
        } else if !more.is_empty() {
            last.value.1 = more.end as u32;
            last.folded = true;
        }
        Ok(())
    }

    fn body(&self, raw: &[u8], at: usize) -> Result<(u32, u32), ScanError> {
        let present = (raw.len() - at) as u32;
        let mut announced: Option<u32> = None;
        let first = usize::from(self.first[HeaderId::ContentLength as usize]);
        let entries = self.entries.get(first..).unwrap_or_default();
        for entry in entries.iter().filter(|e| e.id == HeaderId::ContentLength) {
            let value = crate::value::number(slice(raw, entry.value)).ok_or(ScanError::ContentLength)?;
            if announced.is_some_and(|before| before != value) {
                return Err(ScanError::ContentLength);
            }
            announced = Some(value);
        }
        match announced {
            Some(announced) if announced > present => Err(ScanError::BodyTruncated { announced, present }),
            Some(announced) => Ok((at as u32, at as u32 + announced)),
            None => Ok((at as u32, raw.len() as u32)),
        }
    }
}

impl<'a> Message<'a> {
    /// All bytes that were scanned.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The start line.
    #[must_use]
    pub fn start(&self) -> Start<'a> {
        self.start
    }

    /// The status code, 0 for a request.
    #[inline]
    #[must_use]
    pub fn code(&self) -> u16 {
        match self.start {
            Start::Response { code, .. } => code,
            Start::Request { .. } => 0,
        }
    }

    /// The method of the start line, or the one in CSeq for a response.
    #[must_use]
    pub fn method(&self) -> &'a [u8] {
        match self.start {
            Start::Request { method, .. } => method,
            Start::Response { .. } => self.cseq().map_or(b"", |(_, method)| method),
        }
    }

    /// The first value of a known header, trimmed; see [`Message::unfolded`].
    #[inline]
    #[must_use]
    pub fn header(&self, id: HeaderId) -> Option<&'a [u8]> {
        let at = *self.first.get(id as usize)?;
        self.entries.get(at as usize).map(|entry| slice(self.raw, entry.value))
    }

    /// All values of a known header, in order, one for each header line.
    pub fn headers(&self, id: HeaderId) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let raw = self.raw;
        let skip = match self.first.get(id as usize) {
            Some(&first) if first != ABSENT => first as usize,
            _ => self.entries.len(),
        };
        self.entries[skip..].iter().filter(move |e| e.id == id).map(move |e| slice(raw, e.value))
    }

    /// The first value of a header by its full name, any case.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&'a [u8]> {
        self.lines().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// Every header line as (name, value), in order.
    pub fn lines(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let raw = self.raw;
        self.entries.iter().map(move |e| (slice(raw, e.name), slice(raw, e.value)))
    }

    /// True if some value runs over several lines.
    #[must_use]
    pub fn has_folds(&self) -> bool {
        self.entries.iter().any(|e| e.folded)
    }

    /// The first value of a known header with line breaks replaced by single
    /// blanks; borrows unless there are any.
    #[must_use]
    pub fn unfolded(&self, id: HeaderId) -> Option<Cow<'a, [u8]>> {
        self.header(id).map(unfold)
    }

    /// `Call-ID`, empty if there is none.
    #[inline]
    #[must_use]
    pub fn call_id(&self) -> &'a [u8] {
        self.header(HeaderId::CallId).unwrap_or(b"")
    }

    /// Number and method of `CSeq` (RFC 3261 §20.16).
    #[inline]
    #[must_use]
    pub fn cseq(&self) -> Option<(u32, &'a [u8])> {
        crate::value::cseq(self.header(HeaderId::CSeq)?)
    }

    /// The tag of `From`.
    #[must_use]
    pub fn from_tag(&self) -> Option<&'a [u8]> {
        crate::value::tag(self.header(HeaderId::From)?)
    }

    /// The tag of `To`.
    #[must_use]
    pub fn to_tag(&self) -> Option<&'a [u8]> {
        crate::value::tag(self.header(HeaderId::To)?)
    }

    /// The branch of the topmost `Via` (RFC 3261 §8.1.1.7).
    #[inline]
    #[must_use]
    pub fn branch(&self) -> Option<&'a [u8]> {
        crate::value::branch(self.header(HeaderId::Via)?)
    }

    /// `Expires` in seconds.
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        crate::value::number(self.header(HeaderId::Expires)?)
    }

    /// The body, as long as `Content-Length` says.
    #[inline]
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        slice(self.raw, self.body)
    }
}

/// Replaces line breaks and the blanks around them by one blank.
#[must_use]
pub fn unfold(value: &[u8]) -> Cow<'_, [u8]> {
    if memchr(b'\n', value).is_none() {
        return Cow::Borrowed(value);
    }
    let mut out = Vec::with_capacity(value.len());
    for line in value.split(|b| *b == b'\n') {
        let line = &line[trim(line, 0..line.len())];
        if line.is_empty() {
            continue;
        }
        if !out.is_empty() {
            out.push(b' ');
        }
        out.extend_from_slice(line);
    }
    Cow::Owned(out)
}

/// The header of a line that is written as nearly everybody writes it, and the length of its name.
/// Others are found by their name alone; this is for speed.
#[inline]
fn usual(line: &[u8]) -> Option<(HeaderId, usize)> {
    let (id, name): (HeaderId, &[u8]) = match (line.first()?, line.get(1)?) {
        (b'V', _) => (HeaderId::Via, b"Via:"),
        (b'F', _) => (HeaderId::From, b"From:"),
        (b'T', _) => (HeaderId::To, b"To:"),
        (b'C', b'a') => (HeaderId::CallId, b"Call-ID:"),
        (b'C', b'S') => (HeaderId::CSeq, b"CSeq:"),
        (b'C', _) => match line.get(8)? {
            b' ' => (HeaderId::Contact, b"Contact:"),
            b'L' => (HeaderId::ContentLength, b"Content-Length:"),
            _ => (HeaderId::ContentType, b"Content-Type:"),
        },
        (b'E', b'v') => (HeaderId::Event, b"Event:"),
        (b'E', _) => (HeaderId::Expires, b"Expires:"),
        (b'S', b'e') => (HeaderId::Server, b"Server:"),
        (b'S', b'u') => (HeaderId::SubscriptionState, b"Subscription-State:"),
        (b'U', _) => (HeaderId::UserAgent, b"User-Agent:"),
        (b'M', _) => (HeaderId::MaxForwards, b"Max-Forwards:"),
        (b'W', _) => (HeaderId::WwwAuthenticate, b"WWW-Authenticate:"),
        _ => return None,
    };
    line.starts_with(name).then_some((id, name.len() - 1))
}

/// The line that begins at `at`, without its end, and where the next begins.
#[inline]
fn line_at(raw: &[u8], at: usize) -> Option<(Range<usize>, usize)> {
    let feed = at + memchr(b'\n', raw.get(at..)?)?;
    let end = if feed > at && raw[feed - 1] == b'\r' { feed - 1 } else { feed };
    Some((at..end, feed + 1))
}

fn start_line(line: &[u8]) -> Result<Start<'_>, ScanError> {
    let mut space = memchr(b' ', line).ok_or(ScanError::StartLine)?;
    let first = &line[..space];
    if first.len() >= 4 && first[..4].eq_ignore_ascii_case(b"SIP/") {
        if !first.eq_ignore_ascii_case(b"SIP/2.0") {
            return Err(ScanError::Version);
        }
        let rest = &line[space + 1..];
        let digits = rest.get(..3).ok_or(ScanError::StartLine)?;
        if !digits.iter().all(u8::is_ascii_digit) || rest.get(3).is_some_and(|b| *b != b' ') {
            return Err(ScanError::StartLine);
        }
        let code = digits.iter().fold(0, |sum, b| sum * 10 + u16::from(b - b'0'));
        if !(100..700).contains(&code) {
            return Err(ScanError::StartLine);
        }
        return Ok(Start::Response { code, reason: rest.get(4..).unwrap_or(b"") });
    }
    if first.is_empty() || !first.iter().all(|b| is_token(*b)) {
        return Err(ScanError::StartLine);
    }
    space += 1;
    let gap = memchr(b' ', &line[space..]).ok_or(ScanError::StartLine)?;
    let uri = &line[space..space + gap];
    if uri.is_empty() {
        return Err(ScanError::StartLine);
    }
    if !line[space + gap + 1..].eq_ignore_ascii_case(b"SIP/2.0") {
        return Err(ScanError::Version);
    }
    Ok(Start::Request { method: first, uri })
}

/// `token` of RFC 3261 §25.1.
#[must_use]
pub fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

#[inline]
fn trim(raw: &[u8], mut range: Range<usize>) -> Range<usize> {
    while range.start < range.end && matches!(raw[range.start], b' ' | b'\t' | b'\r') {
        range.start += 1;
    }
    while range.start < range.end && matches!(raw[range.end - 1], b' ' | b'\t' | b'\r') {
        range.end -= 1;
    }
    range
}

#[inline]
fn pack(range: Range<usize>) -> (u32, u32) {
    (range.start as u32, range.end as u32)
}

#[inline]
fn slice(raw: &[u8], (start, end): (u32, u32)) -> &[u8] {
    &raw[start as usize..end as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_gives_start_line_headers_and_body() {
        let raw =
            b"\r\nNOTIFY sip:a@[::1]:5060;transport=tcp SIP/2.0\r\nv: SIP/2.0/UDP h;branch=z9hG4bKx\r\n\
            i : abc\r\nSubject: one\r\n two\r\nCSeq: 7  NOTIFY\r\nl: 2\r\n\r\nhiEXTRA";
        let mut scanner = Scanner::new();
        let message = scanner.scan(raw).unwrap();
        assert_eq!(
            message.start(),
            Start::Request { method: b"NOTIFY", uri: b"sip:a@[::1]:5060;transport=tcp" }
        );
        assert_eq!(message.call_id(), b"abc");
        assert_eq!(message.cseq(), Some((7, &b"NOTIFY"[..])));
        assert_eq!(message.branch(), Some(&b"z9hG4bKx"[..]));
        assert_eq!(message.body(), b"hi");
        assert!(message.has_folds());
        assert_eq!(unfold(message.named("subject").unwrap()), &b"one two"[..]);
    }

    #[test]
    fn headers_as_they_are_usually_written_are_those_of_their_name() {
        let names = "Via From To Call-ID CSeq Contact Content-Length Content-Type Event Expires Server \
            Subscription-State User-Agent Max-Forwards WWW-Authenticate Fro Toe Viaa Contact-X Content-Typ Sender";
        for name in names.split(' ') {
            for (line, value) in
                [(format!("{name}: 7"), "7"), (format!("{name}:7"), "7"), (format!("{name} : 7 "), "7")]
            {
                let usual = usual(line.as_bytes());
                assert!(
                    usual.is_none_or(|(id, len)| id == HeaderId::of(name.as_bytes()) && len == name.len()),
                    "{line}"
                );
                let raw = format!("SIP/2.0 200 OK\r\n{line}\r\n\r\nhi there");
                let mut scanner = Scanner::new();
                let message = scanner.scan(raw.as_bytes()).unwrap();
                assert_eq!(message.lines().next(), Some((name.as_bytes(), value.as_bytes())));
                let id = HeaderId::of(name.as_bytes());
                assert_eq!(message.header(id), (id != HeaderId::Other).then_some(value.as_bytes()), "{line}");
            }
        }
    }

    #[test]
    fn refusals_are_named() {
        let mut scanner = Scanner::new();
        let mut error = |raw: &[u8]| scanner.scan(raw).unwrap_err();
        assert_eq!(error(b"\r\n\r\n"), ScanError::Empty);
        assert_eq!(error(b"HELLO\r\n\r\n"), ScanError::StartLine);
        assert_eq!(error(b"SIP/3.0 200 OK\r\n\r\n"), ScanError::Version);
        assert_eq!(error(b"SIP/2.0 2x0 OK\r\n\r\n"), ScanError::StartLine);
        assert_eq!(error(b"SIP/2.0 200 OK\r\nVia x\r\n\r\n"), ScanError::HeaderLine(2));
        assert_eq!(error(b"SIP/2.0 200 OK\r\nVia: x\r\n"), ScanError::Truncated);
        assert_eq!(
            error(b"SIP/2.0 200 OK\r\nl: 9\r\n\r\nhi"),
            ScanError::BodyTruncated { announced: 9, present: 2 }
        );
        assert_eq!(error(b"SIP/2.0 200 OK\r\nl: 1\r\nl: 2\r\n\r\nhi"), ScanError::ContentLength);
    }
}
