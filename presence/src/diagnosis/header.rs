//! The diagnostic headers of [MS-OCER] §2.2.1: why a server, or another
//! client, said what it said.
//!
//! `ms-diagnostics: 4005;source="pool.test";reason="…"`, with the parameters in
//! any order and case, quoted or not. `ms-diagnostics-public` is the same for
//! outsiders, without a source; `ms-client-diagnostics` comes from another
//! user's endpoint. Reading borrows from the message and allocates nothing.

use adsum_sip::value::{param, trim};
use adsum_sip::{HeaderId, Message};

/// Bytes of a body that are searched for diagnostics: such bodies are a few lines long.
const BODY_SEARCHED: usize = 4096;
/// Bytes of a source or reason that are shown: they go into tables and on one line.
const SHOWN: usize = 300;

/// Which header it was. What comes first here wins when there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `ms-diagnostics`: a server, to somebody whom it knows.
    Server,
    /// `ms-diagnostics-public`: a server, to anybody.
    Public,
    /// `ms-client-diagnostics`: the endpoint of another user.
    Client,
}

impl Origin {
    /// Reads the name of a header, in any case.
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Origin> {
        match HeaderId::of(name) {
            HeaderId::MsDiagnostics => Some(Origin::Server),
            HeaderId::MsDiagnosticsPublic => Some(Origin::Public),
            HeaderId::Other if name.eq_ignore_ascii_case(b"ms-client-diagnostics") => Some(Origin::Client),
            _ => None,
        }
    }
}

/// One diagnostic header, as slices of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diagnostic<'a> {
    /// Which header it was.
    pub origin: Origin,
    /// The ErrorId; [`known`](super::known) says what some of them mean.
    pub id: u32,
    params: &'a [u8],
}

impl<'a> Diagnostic<'a> {
    /// Reads the value of such a header; `None` unless it begins with an ErrorId.
    #[must_use]
    pub fn parse(origin: Origin, value: &'a [u8]) -> Option<Self> {
        let value = trim(value);
        let end = value.iter().position(|b| *b == b';').unwrap_or(value.len());
        let id = adsum_sip::value::number(&value[..end])?;
        Some(Diagnostic { origin, id, params: &value[end..] })
    }

    /// A parameter by its name in any case; escapes in quoted ones are left as they are.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&'a [u8]> {
        // The `;` in front would be read as the end of an empty parameter, which is skipped.
        param(self.params, name).filter(|value| !value.is_empty())
    }

    /// The server that found it; absent in the public form.
    #[must_use]
    pub fn source(&self) -> Option<&'a [u8]> {
        self.param("source")
    }

    /// The reason in the server's words. For people only: servers word it as they like.
    #[must_use]
    pub fn reason(&self) -> Option<&'a [u8]> {
        self.param("reason")
    }

    /// Appends `ErrorCode=4005,Source=pool.test,Reason=…`, as the cmdlet shows it. What the header
    /// does not have stays empty, so that the form is always the same.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"ErrorCode=");
        crate::accounts::write_number(u64::from(self.id), 0, out);
        out.extend_from_slice(b",Source=");
        write_text(self.source().unwrap_or(b""), out);
        out.extend_from_slice(b",Reason=");
        write_text(self.reason().unwrap_or(b""), out);
    }
}

/// The diagnostic of a message that is to be believed: that of the server before the public one
/// before that of another client, headers before a body that quotes them, the first before others.
#[must_use]
pub fn of_message<'a>(message: &Message<'a>) -> Option<Diagnostic<'a>> {
    let mut best: Option<Diagnostic<'a>> = None;
    let mut look = |name: &[u8], value: &'a [u8]| {
        if let Some(found) = Origin::of(name).and_then(|origin| Diagnostic::parse(origin, value))
            && best.is_none_or(|best| found.origin < best.origin)
        {
            best = Some(found);
        }
    };
    message.lines().for_each(|(name, value)| look(name, value));
    if quotes_headers(message.header(HeaderId::ContentType).unwrap_or(b"")) {
        let body = message.body();
        for line in body[..body.len().min(BODY_SEARCHED)].split(|b| *b == b'\n') {
            if let Some(colon) = memchr::memchr(b':', line) {
                look(trim(&line[..colon]), &line[colon + 1..]);
            }
        }
    }
    best
}

/// True for bodies that may hold header lines: `text/registration-event` ([MS-SIPREGE] §4.1.3) and
/// other text, and `message/sipfrag` (RFC 3420).
fn quotes_headers(content_type: &[u8]) -> bool {
    ["text/", "message/"].iter().any(|kind| {
        content_type.get(..kind.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(kind.as_bytes()))
    })
}

/// Appends a text for people: escapes resolved, line breaks and control characters as one blank, cut
/// where it is too long.
pub(super) fn write_text(text: &[u8], out: &mut Vec<u8>) {
    write_shown(text, true, out);
}

/// The same with backslashes as they are: of a value that is no quoted-string.
pub(super) fn write_raw(text: &[u8], out: &mut Vec<u8>) {
    write_shown(text, false, out);
}

fn write_shown(text: &[u8], is_quoted: bool, out: &mut Vec<u8>) {
    let start = out.len();
    let mut rest = trim(text);
    let mut blank = false;
    while let [byte, tail @ ..] = rest {
        let (byte, tail) = match (byte, tail) {
            (b'\\', [escaped, tail @ ..]) if is_quoted => (escaped, tail),
            _ => (byte, tail),
        };
        rest = tail;
        if *byte <= b' ' || *byte == 0x7f {
            blank = out.len() > start;
            continue;
        }
        if std::mem::take(&mut blank) {
            out.push(b' ');
        }
        out.push(*byte);
        // Never cut inside a character: what follows has to begin one.
        let begins = rest.first().is_some_and(|next| next & 0xc0 != 0x80);
        if out.len() - start >= SHOWN && begins || out.len() - start >= SHOWN + 8 {
            out.extend_from_slice("…".as_bytes());
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use adsum_sip::Scanner;
    use proptest::prelude::*;

    fn shown(headers: &str, content_type: &str, body: &str) -> Option<(Origin, String)> {
        let raw = format!(
            "SIP/2.0 404 Not Found\r\nCSeq: 1 REGISTER\r\n{headers}Content-Type: {content_type}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut scanner = Scanner::new();
        let message = scanner.scan(raw.as_bytes()).unwrap();
        of_message(&message).map(|found| {
            let mut out = Vec::new();
            found.write(&mut out);
            (found.origin, String::from_utf8(out).unwrap())
        })
    }

    fn header(headers: &str) -> Option<(Origin, String)> {
        shown(headers, "text/plain", "")
    }

    #[test]
    fn parameters_come_in_any_order_and_case_quoted_or_not() {
        let wanted = Some((Origin::Server, "ErrorCode=4005,Source=pool.test,Reason=No such user".to_owned()));
        for line in [
            "ms-diagnostics: 4005;source=\"pool.test\";reason=\"No such user\"\r\n",
            "MS-Diagnostics:4005;Reason=\"No such user\";Source=\"pool.test\"\r\n",
            "ms-diagnostics:  4005 ; SOURCE = pool.test ; REASON = No such user\r\n",
            "ms-diagnostics: 4005;x=\"a;reason=b\";reason=\"No\r\n such  user\";source=pool.test;y\r\n",
        ] {
            assert_eq!(header(line), wanted, "{line}");
        }
    }

    #[test]
    fn of_several_headers_the_servers_wins_and_the_first_that_can_be_read() {
        let (public, client) =
            ("ms-diagnostics-public: 4141;reason=\"p\"\r\n", "ms-client-diagnostics: 24000;reason=\"c\"\r\n");
        let all = format!("{client}{public}ms-diagnostics: nonsense\r\nms-diagnostics: 1013;reason=s\r\n");
        assert_eq!(header(&all), Some((Origin::Server, "ErrorCode=1013,Source=,Reason=s".to_owned())));
        assert_eq!(
            header(&format!("{client}{public}")),
            Some((Origin::Public, "ErrorCode=4141,Source=,Reason=p".to_owned()))
        );
        assert_eq!(header(client), Some((Origin::Client, "ErrorCode=24000,Source=,Reason=c".to_owned())));
        assert_eq!(header("ms-diagnostics: reason=x;4005\r\n"), None);
    }

    #[test]
    fn a_registration_event_may_quote_it_in_its_body() {
        let body = "deregistered;event=rejected\r\nms-diagnostics-public: 4141;reason=\"User disabled\"\r\n";
        let wanted = Some((Origin::Public, "ErrorCode=4141,Source=,Reason=User disabled".to_owned()));
        assert_eq!(shown("", "text/registration-event", body), wanted);
        assert_eq!(shown("", "Text/Registration-Event;charset=utf-8", body), wanted);
        // A document is no list of headers, whatever stands in it.
        assert_eq!(shown("", "application/pidf+xml", body), None);
        let both = shown("ms-diagnostics-public: 4003\r\n", "text/registration-event", body);
        assert_eq!(both.unwrap().1, "ErrorCode=4003,Source=,Reason=");
    }

    #[test]
    fn escapes_are_resolved_and_long_texts_cut_between_characters() {
        let quoted = header("ms-diagnostics: 1;reason=\"a \\\"b\\\" \\\\ c\"\r\n").unwrap().1;
        assert_eq!(quoted, "ErrorCode=1,Source=,Reason=a \"b\" \\ c");
        let long = header(&format!("ms-diagnostics: 1;reason=\"{}\"\r\n", "ü".repeat(9000))).unwrap().1;
        assert!(long.ends_with("ü…") && long.len() < SHOWN + 60, "{}", long.len());
    }

    proptest! {
        #[test]
        fn hostile_values_never_panic_and_stay_on_one_line(value in proptest::collection::vec(any::<u8>(), 0..400)) {
            for origin in [Origin::Server, Origin::Public, Origin::Client] {
                if let Some(found) = Diagnostic::parse(origin, &value) {
                    let mut out = Vec::new();
                    found.write(&mut out);
                    prop_assert!(out.len() < 2 * SHOWN + 60 && !out.contains(&b'\n'));
                }
            }
        }

        #[test]
        fn what_is_written_is_what_the_header_said(id: u32, source in "[a-z.]{1,20}", reason in "[A-Za-z,=:]{1,40}", upper: bool) {
            let (s, r) = if upper { ("SOURCE", "Reason") } else { ("source", "reason") };
            for value in [
                format!("{id};{s}=\"{source}\";{r}=\"{reason}\""),
                format!("{id}; {r}={reason} ; {s}={source}"),
            ] {
                let mut out = Vec::new();
                Diagnostic::parse(Origin::Server, value.as_bytes()).unwrap().write(&mut out);
                prop_assert_eq!(
                    String::from_utf8(out).unwrap(),
                    format!("ErrorCode={id},Source={source},Reason={reason}")
                );
            }
        }
    }
}
