//! What went wrong and who can mend it, in words for an administrator.
//!
//! What a server says about the cause comes first ([`header`], [`known`]), then
//! what is known about such an answer.

pub mod codes;
mod date;
pub mod header;
pub mod known;

use std::net::SocketAddr;

use adsum_sip::{HeaderId, Message};

use crate::host::{Activity, Class};

/// Who has to act on a final response with this code.
#[must_use]
pub fn class_of(code: u16) -> Class {
    match code {
        // The account, its rights, or what it asks for.
        401 | 402 | 403 | 404 | 407 | 409 | 410 | 416 | 484 | 485 | 603 | 604 => Class::Configuration,
        // What we sent.
        400 | 405 | 406 | 413 | 414 | 415 | 420 | 421 | 423 | 482 | 483 | 489 | 493 | 501 | 505 | 513 => {
            Class::Configuration
        }
        300..=399 => Class::Configuration,
        _ => Class::Pool,
    }
}

/// Who has to act on a final response: a diagnostic that is known tells more than the code.
#[must_use]
pub fn class_of_answer(message: &Message<'_>) -> Class {
    known_class(message).unwrap_or_else(|| class_of(message.code()))
}

/// Who has to act, if a diagnostic says it that is known.
#[must_use]
pub fn known_class(message: &Message<'_>) -> Option<Class> {
    header::of_message(message).and_then(|found| known::known(found.id)).map(|known| known.class)
}

/// Appends what the message itself says about its cause: `ErrorCode=…` from its diagnostics, else
/// its `Reason` (RFC 3326) and `Warning`. What is known about the diagnostic, if it is.
fn of_headers(message: &Message<'_>, out: &mut Vec<u8>) -> Option<&'static str> {
    let Some(found) = header::of_message(message) else {
        for id in [HeaderId::Reason, HeaderId::Warning] {
            if let Some(value) = message.header(id) {
                header::write_raw(value, out);
                out.extend_from_slice(b" - ");
            }
        }
        return None;
    };
    found.write(out);
    out.extend_from_slice(b" - ");
    known::known(found.id).map(|known| known.advice)
}

/// The ErrorId at the beginning of a diagnosis, if a server gave one.
#[must_use]
pub fn error_code(diagnosis: &str) -> Option<u32> {
    let rest = diagnosis.strip_prefix("ErrorCode=")?;
    rest.split(',').next()?.parse().ok()
}

/// Appends what the answer itself says about its cause, then what is known
/// about its diagnostic, or else about such an answer.
pub fn of_answer(message: &Message<'_>, activity: Activity, out: &mut Vec<u8>) {
    let known = of_headers(message, out);
    let code = message.code();
    out.extend_from_slice(known.unwrap_or_else(|| advice(code, activity)).as_bytes());
    let extra = match code {
        300..=399 => Some((" It names ", HeaderId::Contact)),
        420 => Some((" It does not know ", HeaderId::Unsupported)),
        421 => Some((" It asks for ", HeaderId::Require)),
        423 => Some((" The least it takes is ", HeaderId::MinExpires)),
        489 => Some((" It has ", HeaderId::AllowEvents)),
        405 => Some((" It takes ", HeaderId::Allow)),
        415 => Some((" It takes ", HeaderId::Accept)),
        480 | 486 | 500 | 503 => Some((" It asks to come back after seconds ", HeaderId::RetryAfter)),
        _ => None,
    };
    if let Some((text, value)) = extra.and_then(|(text, id)| Some((text, message.header(id)?))) {
        out.extend_from_slice(text.as_bytes());
        header::write_raw(value, out);
    }
}

/// Appends why credentials were refused: what the server says of it, else that they are wrong. A clock
/// that is off is told, too, if it is known what time it is here (100 ns since 1601).
pub fn of_rejected(message: &Message<'_>, filetime: Option<u64>, out: &mut Vec<u8>) {
    let known = of_headers(message, out);
    let usual = "the server refused user name or password: correct the credentials of this account";
    out.extend_from_slice(known.unwrap_or(usual).as_bytes());
    let theirs = message.header(HeaderId::Date).and_then(date::read);
    let ours = filetime.map(date::of_filetime);
    let minutes = theirs.zip(ours).map_or(0, |(theirs, ours)| (theirs - ours) / 60);
    // NTLM bears 15 minutes, Kerberos 5 ([MS-SIP]).
    if minutes.abs() > 5 {
        let side = if minutes > 0 { "ahead of" } else { "behind" };
        let text = format!(
            ". The server's clock is {} minutes {side} this host's: NTLM bears 15, so set the one that is wrong",
            minutes.abs()
        );
        out.extend_from_slice(text.as_bytes());
    }
}

/// True for a challenge with one of the schemes that only Microsoft's servers have.
fn is_microsofts(challenge: &[u8]) -> bool {
    let scheme = challenge.split(u8::is_ascii_whitespace).next().unwrap_or(b"");
    ["NTLM", "Kerberos", "TLS-DSK"].iter().any(|name| scheme.eq_ignore_ascii_case(name.as_bytes()))
}

fn advice(code: u16, activity: Activity) -> &'static str {
    match (code, activity) {
        (300..=399, _) => "The pool redirects: give its answer as the target.",
        (403, Activity::Register) => {
            "The registrar refuses this account: wrong password, or an account that may not sign on. It is not tried again."
        }
        (403, _) => "The pool refuses this: look at the rights of the account (presence rules, policy).",
        (404, _) => {
            "The pool does not know this user: check the SIP address, its domain, and that the account is enabled for SIP."
        }
        (405 | 501, _) => {
            "The pool does not take this method: its presence service is not there or not switched on, or it speaks the other dialect (simple, lync)."
        }
        (412, _) => {
            "The pool does not have the document that was to be changed (RFC 3903 section 4.1): was it restarted, or does somebody else publish for this account?"
        }
        (409, _) => {
            "The pool holds another version of what was published: somebody else publishes for this account, another run or endpoint; use accounts of its own."
        }
        (408 | 504, _) => "Something behind the pool did not answer it in time.",
        (413, _) => "The document or message is larger than the pool takes.",
        (415, _) => {
            "The pool does not take this kind of document: application/pidf+xml in the dialect simple, Microsoft's categories in lync. Is it the right dialect?"
        }
        (416, _) => "The pool does not take this kind of URI: check the SIP addresses.",
        (420 | 421, _) => "The pool and adsum do not agree on SIP extensions.",
        (423, _) => "The lifetime that was asked for is too short for the pool: raise `expires`.",
        (480, _) => "The user is known and not available: is the account enabled?",
        (481, _) => {
            "The pool has forgotten the subscription: was it restarted, or does a balancer spread one user over servers?"
        }
        (483, _) => "The message went around in circles: look at the pool's routing.",
        (489, _) => {
            "The pool does not have this event package: `presence`, or in the dialect lync Microsoft's own. Is it the right dialect?"
        }
        (500, _) => "The pool failed inside: look at its log.",
        (502 | 503, _) => "The pool is overloaded or out of service.",
        (513, _) => "The message is larger than the pool takes.",
        (603, _) => "The user or the pool declines this.",
        (500..=699, _) => "The pool failed: look at its log.",
        _ => "The pool answered with an error: look at its log.",
    }
}

/// Appends which authentication schemes a server offered.
pub fn of_schemes(message: &Message<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"the server offers only ");
    let (mut first, mut microsofts) = (true, false);
    for id in [HeaderId::WwwAuthenticate, HeaderId::ProxyAuthenticate] {
        for value in message.headers(id) {
            if !first {
                out.extend_from_slice(b", ");
            }
            first = false;
            microsofts |= is_microsofts(value);
            header::write_raw(value.get(..value.len().min(60)).unwrap_or(value), out);
        }
    }
    if first {
        out.extend_from_slice(b"nothing (a challenge without a scheme)");
    }
    if microsofts {
        return out.extend_from_slice(
            b"; so speaks a Lync server: --dialect lync with --auth ntlm (dialect = \"lync\"), which the dialect simple \
              does not have",
        );
    }
    out.extend_from_slice(
        b"; this version speaks Digest with MD5, SHA-256 or SHA-512-256 and qop auth, auth-int or none; \
          an account with ha1 has only the algorithm that this was made with",
    );
}

/// Appends what a NOTIFY says about the end of its subscription: its diagnostics and what is known
/// about them, else what `reason` means.
pub fn of_ended(message: &Message<'_>, reason: &[u8], out: &mut Vec<u8>) {
    match of_headers(message, out) {
        Some(known) => out.extend_from_slice(known.as_bytes()),
        None => out.extend_from_slice(of_termination(reason)),
    }
}

/// What the reasons of RFC 6665 §4.1.3 mean to an administrator.
#[must_use]
pub fn of_termination(reason: &[u8]) -> &'static [u8] {
    match reason {
        b"rejected" => b"the publisher or a policy does not allow this subscriber: look at presence rules",
        b"noresource" => b"the pool has no such presentity: check the publisher's address",
        b"deactivated" => b"the pool moves subscriptions away: was it restarted?",
        b"probation" | b"giveup" => b"the pool could not get the permission in time: look at its log",
        b"timeout" => b"the pool says that the subscription was not refreshed in time",
        _ => b"the pool ended the subscription: look at its log",
    }
}

/// The network that permits one address, for `allow`.
#[must_use]
pub fn network_of(address: SocketAddr) -> String {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    format!("{}/{bits}", address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use adsum_sip::Scanner;

    fn answer(code: &str, headers: &str) -> (String, Class) {
        let raw = format!("SIP/2.0 {code}\r\nCSeq: 1 REGISTER\r\n{headers}Content-Length: 0\r\n\r\n");
        let mut scanner = Scanner::new();
        let message = scanner.scan(raw.as_bytes()).unwrap();
        let mut out = Vec::new();
        of_answer(&message, Activity::Register, &mut out);
        (String::from_utf8(out).unwrap(), class_of_answer(&message))
    }

    #[test]
    fn a_known_diagnostic_says_what_to_do_and_who_has_to_do_it() {
        let line =
            "ms-diagnostics: 1008;reason=\"Unable to resolve DNS SRV record\";source=\"edge.test\"\r\n";
        let (text, class) = answer("404 Not Found", line);
        assert!(
            text.starts_with("ErrorCode=1008,Source=edge.test,Reason=Unable to resolve DNS SRV record - "),
            "{text}"
        );
        assert!(text.contains("mend its DNS (SRV)"), "{text}");
        // The code alone would have blamed the account.
        assert_eq!((class, class_of(404)), (Class::Pool, Class::Configuration));
        assert_eq!(error_code(&text), Some(1008));
    }

    #[test]
    fn the_end_of_a_subscription_says_why_in_the_same_form() {
        let ended = |headers: &str, body: &str| {
            let raw = format!(
                "NOTIFY sip:a@h SIP/2.0\r\nCSeq: 2 NOTIFY\r\n{headers}Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut scanner = Scanner::new();
            let message = scanner.scan(raw.as_bytes()).unwrap();
            let mut out = Vec::new();
            of_ended(&message, b"noresource", &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(ended("", "").as_bytes(), of_termination(b"noresource"));
        let event = "Content-Type: text/registration-event\r\n";
        let body = "deregistered;event=rejected\r\nms-diagnostics-public: 4141;reason=\"User disabled\"\r\n";
        let text = ended(event, body);
        assert!(
            text.starts_with("ErrorCode=4141,Source=,Reason=User disabled - Somebody disabled"),
            "{text}"
        );
        assert_eq!(ended("ms-diagnostics-public: 4141;reason=\"User disabled\"\r\n", ""), text);
    }

    #[test]
    fn an_unknown_diagnostic_passes_as_a_number_and_the_code_says_what_to_do() {
        let (text, class) = answer("503 Service Unavailable", "ms-diagnostics: 61234;reason=\"Odd\"\r\n");
        assert_eq!(text, "ErrorCode=61234,Source=,Reason=Odd - The pool is overloaded or out of service.");
        assert_eq!(class, Class::Pool);
    }

    #[test]
    fn values_of_headers_stay_on_one_line_and_have_an_end() {
        let folded = format!(
            "Warning: 399 pool.test \"no\r\n presence \\ rule\"\r\nContact: <sip:{}@h>\r\n",
            "a".repeat(9_000)
        );
        let (text, _) = answer("302 Moved Temporarily", &folded);
        assert!(text.starts_with("399 pool.test \"no presence \\ rule\" - The pool redirects"), "{text}");
        assert!(text.ends_with('…') && text.len() < 600, "{}", text.len());
    }

    #[test]
    fn refused_credentials_are_not_blamed_for_what_the_server_says_is_another_cause() {
        let rejected = |headers: &str| {
            let raw =
                format!("SIP/2.0 401 Unauthorized\r\nCSeq: 1 REGISTER\r\n{headers}Content-Length: 0\r\n\r\n");
            let mut scanner = Scanner::new();
            let message = scanner.scan(raw.as_bytes()).unwrap();
            let mut out = Vec::new();
            // 2026-01-05 10:00:00.
            of_rejected(&message, Some(134_120_808_000_000_000), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert!(rejected("").starts_with("the server refused user name or password: "));
        let skew = rejected("ms-diagnostics: 1013;reason=\"Significant time skew\";source=\"p.test\"\r\n");
        assert!(
            skew.starts_with("ErrorCode=1013,Source=p.test,Reason=Significant time skew - Set the clock"),
            "{skew}"
        );
        let clock = rejected("Date: Mon, 05 Jan 2026 10:20:00 GMT\r\n");
        assert!(clock.contains("The server's clock is 20 minutes ahead of this host's"), "{clock}");
        let clock = rejected("Date: Mon, 05 Jan 2026 09:00:59 GMT\r\n");
        assert!(clock.contains("59 minutes behind"), "{clock}");
        assert!(!rejected("Date: Mon, 05 Jan 2026 10:04:00 GMT\r\n").contains("clock"));
    }

    #[test]
    fn a_lync_server_is_recognised_by_its_schemes() {
        let offered = |headers: &str| {
            let raw =
                format!("SIP/2.0 401 Unauthorized\r\nCSeq: 1 REGISTER\r\n{headers}Content-Length: 0\r\n\r\n");
            let mut scanner = Scanner::new();
            let message = scanner.scan(raw.as_bytes()).unwrap();
            let mut out = Vec::new();
            of_schemes(&message, &mut out);
            String::from_utf8(out).unwrap()
        };
        let lync = offered("WWW-Authenticate: NTLM realm=\"SIP Communications Service\", version=4\r\n");
        assert!(lync.contains("--dialect lync with --auth ntlm"), "{lync}");
        let basic = offered("WWW-Authenticate: Basic realm=\"x\"\r\n");
        assert!(basic.contains("this version speaks Digest"), "{basic}");
    }

    #[test]
    fn without_diagnostics_reason_and_warning_are_shown() {
        let headers =
            "Warning: 399 pool.test \"no presence rule\"\r\nReason: SIP;cause=403;text=\"Denied\"\r\n";
        let (text, class) = answer("403 Forbidden", headers);
        assert!(
            text.starts_with(
                "SIP;cause=403;text=\"Denied\" - 399 pool.test \"no presence rule\" - The registrar refuses"
            ),
            "{text}"
        );
        assert_eq!((class, error_code(&text)), (Class::Configuration, None));
    }
}
