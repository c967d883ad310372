//! Readers of single header values. Each takes the trimmed value of one header
//! line (a folded one unfolded where that matters) and gives slices of it.

use memchr::{memchr, memchr2};

/// A run of decimal digits, with blanks around it allowed; values beyond 2³²−1
/// are taken as 2³²−1 (RFC 3261 §20.19 asks that of `Expires`).
#[must_use]
pub fn number(value: &[u8]) -> Option<u32> {
    let value = trim(value);
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0u32, |n, b| n.saturating_mul(10).saturating_add(u32::from(b - b'0'))))
}

/// The digits at the beginning of a value: `Retry-After: 18000;duration=3600`
/// or `120 (I'm in a meeting)` (RFC 3261 §20.33).
#[must_use]
pub fn leading_number(value: &[u8]) -> Option<u32> {
    let value = trim(value);
    let end = value.iter().position(|b| !b.is_ascii_digit()).unwrap_or(value.len());
    number(&value[..end])
}

/// `CSeq`: number and method (RFC 3261 §20.16).
#[inline]
#[must_use]
pub fn cseq(value: &[u8]) -> Option<(u32, &[u8])> {
    let end = value.iter().position(|b| !b.is_ascii_digit())?;
    let n = number(&value[..end])?;
    let method = trim(&value[end..]);
    (!method.is_empty()).then_some((n, method))
}

/// A URI with what stands around it: `"name" <uri>;params` or `uri;params`.
/// In the bare form everything after `;` belongs to the header (RFC 3261 §20.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The URI, byte for byte, without angle brackets.
    pub uri: &'a [u8],
    /// What follows, from the first `;` on; read it with [`param`].
    pub params: &'a [u8],
}

/// Reads one name-addr or addr-spec; `None` if brackets or quotes do not close.
#[must_use]
pub fn name_addr(value: &[u8]) -> Option<NameAddr<'_>> {
    let mut at = 0;
    while at < value.len() {
        match value[at] {
            b'"' => at = quote_end(value, at)?,
            b'<' => {
                let close = at + memchr(b'>', &value[at..])?;
                return Some(NameAddr { uri: trim(&value[at + 1..close]), params: &value[close + 1..] });
            }
            b';' => break,
            _ => at += 1,
        }
    }
    let uri = trim(&value[..at]);
    (!uri.is_empty()).then_some(NameAddr { uri, params: &value[at..] })
}

/// The value of parameter `name` in `;a=1;b;c="x"`: `Some(b"")` if it has none.
/// Quoted values come without their quotes, escapes left as they are.
#[must_use]
pub fn param<'a>(params: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut at = 0;
    while at < params.len() {
        // One parameter runs to the next `;` outside quotes.
        let begin = at;
        let mut equals = None;
        while at < params.len() && params[at] != b';' {
            match params[at] {
                b'"' => at = quote_end(params, at).unwrap_or(params.len()),
                b'=' if equals.is_none() => {
                    equals = Some(at);
                    at += 1;
                }
                _ => at += 1,
            }
        }
        let key = trim(&params[begin..equals.unwrap_or(at)]);
        if key.eq_ignore_ascii_case(name.as_bytes()) {
            return Some(equals.map_or(b"", |e| unquote(trim(&params[e + 1..at]))));
        }
        at += 1;
    }
    None
}

/// The `tag` of a From or To value.
#[inline]
#[must_use]
pub fn tag(value: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = b";tag=";
    let params = match value {
        // As nearly everybody writes it: no name, and the tag right behind the URI.
        [b'<', ..] => &value[value.iter().position(|b| *b == b'>')? + 1..],
        _ => name_addr(value)?.params,
    };
    if let Some(tag) = params.strip_prefix(KEY)
        && tag.iter().all(|b| !matches!(b, b';' | b'"' | b' ' | b'\t' | b'\r' | b'\n'))
    {
        return Some(tag);
    }
    param(params, "tag")
}

/// One element of a Via header (RFC 3261 §20.42).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Via<'a> {
    /// `UDP`, `TCP`, `TLS` as sent.
    pub transport: &'a [u8],
    /// Host of sent-by; an IPv6 address keeps its brackets.
    pub host: &'a [u8],
    /// Port of sent-by.
    pub port: Option<u16>,
    /// What follows, from the first `;` on.
    pub params: &'a [u8],
}

/// The topmost element of a Via value.
#[must_use]
pub fn via(value: &[u8]) -> Option<Via<'_>> {
    let top = list(value).next()?;
    // sent-protocol = name SLASH version SLASH transport, blanks allowed.
    let slash = memchr(b'/', top)?;
    let second = slash + 1 + memchr(b'/', &top[slash + 1..])?;
    let rest = trim(&top[second + 1..]);
    let end = rest.iter().position(u8::is_ascii_whitespace)?;
    let transport = &rest[..end];
    let rest = trim(&rest[end..]);
    let semicolon = memchr(b';', rest).unwrap_or(rest.len());
    let (host, port) = host_port(trim(&rest[..semicolon]))?;
    Some(Via { transport, host, port, params: &rest[semicolon..] })
}

/// The branch of the topmost Via element. The first `;branch=` of the value
/// decides: parameters of a Via are never quoted before it in practice, and
/// the slow way is taken if the quick one finds nothing.
#[inline]
#[must_use]
pub fn branch(value: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = b";branch=";
    let mut from = 0;
    while let Some(found) = memchr2(b';', b',', &value[from..]) {
        let rest = &value[from + found..];
        if rest[0] == b',' {
            break; // the second element: not the topmost any more
        }
        if let Some(rest) = rest.strip_prefix(KEY) {
            let branch = &rest[..memchr2(b';', b',', rest).unwrap_or(rest.len())];
            return branch.split(u8::is_ascii_whitespace).next();
        }
        from += found + 1;
    }
    param(via(value)?.params, "branch")
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port`.
#[must_use]
pub fn host_port(value: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let host_end = if value.first() == Some(&b'[') {
        memchr(b']', value)? + 1
    } else {
        value.iter().position(|b| *b == b':' || b.is_ascii_whitespace()).unwrap_or(value.len())
    };
    let host = &value[..host_end];
    let rest = trim(&value[host_end..]);
    if host.is_empty() {
        return None;
    }
    if rest.is_empty() {
        return Some((host, None));
    }
    let port = number(rest.strip_prefix(b":")?)?;
    Some((host, Some(u16::try_from(port).ok()?)))
}

/// The parts of a `sip:` or `sips:` URI (RFC 3261 §19.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SipUri<'a> {
    /// True for `sips:`.
    pub secure: bool,
    /// User part without password; empty if there is none.
    pub user: &'a [u8],
    /// Host; an IPv6 address keeps its brackets.
    pub host: &'a [u8],
    /// Port, if it is written.
    pub port: Option<u16>,
    /// `;name=value…`, without the `?headers`.
    pub params: &'a [u8],
}

/// Reads a SIP or SIPS URI; `None` for other schemes and malformed ones.
#[must_use]
pub fn sip_uri(uri: &[u8]) -> Option<SipUri<'_>> {
    let find = |byte: u8, text: &[u8]| text.iter().position(|b| *b == byte);
    let (secure, rest) = match uri.strip_prefix(b"sip:") {
        Some(rest) => (false, rest),
        None => {
            let colon = find(b':', uri)?;
            let secure = match &uri[..colon] {
                s if s.eq_ignore_ascii_case(b"sip") => false,
                s if s.eq_ignore_ascii_case(b"sips") => true,
                _ => return None,
            };
            (secure, &uri[colon + 1..])
        }
    };
    // The user part may hold `;` and `?`, so the `@` decides first.
    let (user, rest) = match find(b'@', rest) {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (&b""[..], rest),
    };
    let user = &user[..find(b':', user).unwrap_or(user.len())];
    let rest = &rest[..find(b'?', rest).unwrap_or(rest.len())];
    let semicolon = find(b';', rest).unwrap_or(rest.len());
    let (host, port) = host_port(&rest[..semicolon])?;
    Some(SipUri { secure, user, host, port, params: &rest[semicolon..] })
}

/// `Subscription-State` (RFC 6665 §8.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionState<'a> {
    /// `active`, `pending`, `terminated` or an extension, as sent.
    pub state: &'a [u8],
    /// Seconds left, if said.
    pub expires: Option<u32>,
    /// Why it is terminated; empty if not said.
    pub reason: &'a [u8],
    /// Seconds to wait before trying again, if said.
    pub retry_after: Option<u32>,
}

/// Reads `active;expires=3600` and its like.
#[must_use]
pub fn subscription_state(value: &[u8]) -> SubscriptionState<'_> {
    let end = memchr(b';', value).unwrap_or(value.len());
    let params = &value[end..];
    SubscriptionState {
        state: trim(&value[..end]),
        expires: param(params, "expires").and_then(number),
        reason: param(params, "reason").unwrap_or(b""),
        retry_after: param(params, "retry-after").and_then(number),
    }
}

/// The elements of a comma-separated header value; commas inside quotes and
/// angle brackets do not count. Not for the authentication headers, whose
/// commas separate parameters (RFC 3261 §7.3.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let value = rest?;
        let mut at = 0;
        let mut inside = false;
        while at < value.len() {
            match value[at] {
                b'"' if !inside => {
                    at = quote_end(value, at).unwrap_or(value.len());
                    continue;
                }
                b'<' => inside = true,
                b'>' => inside = false,
                b',' if !inside => {
                    rest = Some(&value[at + 1..]);
                    return Some(trim(&value[..at]));
                }
                _ => {}
            }
            at += 1;
        }
        rest = None;
        Some(trim(value))
    })
    .filter(|element| !element.is_empty())
}

/// Blanks and line breaks off both ends.
#[inline]
#[must_use]
pub fn trim(value: &[u8]) -> &[u8] {
    value.trim_ascii()
}

/// Takes the quotes off, if there are some.
#[must_use]
pub fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        other => other,
    }
}

/// The index after the closing quote of the quoted-string that begins at `at`.
fn quote_end(value: &[u8], at: usize) -> Option<usize> {
    let mut next = at + 1;
    while next < value.len() {
        match value[next] {
            b'\\' => next += 2,
            b'"' => return Some(next + 1),
            _ => next += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_addr_keeps_header_parameters_apart() {
        let value = br#""A <b> \" c" <sip:a@h;transport=tcp>;expires=9;+sip.instance="<urn:x>""#;
        let read = name_addr(value).unwrap();
        assert_eq!(read.uri, b"sip:a@h;transport=tcp");
        assert_eq!(param(read.params, "expires"), Some(&b"9"[..]));
        assert_eq!(param(read.params, "+sip.instance"), Some(&b"<urn:x>"[..]));
        let bare = name_addr(b"sip:a@h;tag=1").unwrap();
        assert_eq!((bare.uri, tag(b"sip:a@h;tag=1")), (&b"sip:a@h"[..], Some(&b"1"[..])));
        assert_eq!(name_addr(b"<sip:a@h"), None);
    }

    #[test]
    fn via_with_blanks_ipv6_and_two_elements() {
        let value = b"SIP / 2.0 / UDP [::1]:5061 ;rport;branch=z9hG4bKa;received=127.0.0.1, SIP/2.0/TCP b;branch=z9hG4bKb";
        let top = via(value).unwrap();
        assert_eq!((top.transport, top.host, top.port), (&b"UDP"[..], &b"[::1]"[..], Some(5061)));
        assert_eq!(branch(value), Some(&b"z9hG4bKa"[..]));
        assert_eq!(branch(b"SIP/2.0/UDP a, SIP/2.0/UDP b;branch=z9hG4bKb"), None);
        assert_eq!(branch(b"SIP/2.0/UDP a; branch = z9hG4bKc"), Some(&b"z9hG4bKc"[..]));
        // Folded values come with their line breaks.
        assert_eq!(branch(b"SIP/2.0/UDP a;branch=z9hG4bKd\r\n ;rport"), Some(&b"z9hG4bKd"[..]));
        let folded = via(b"SIP/2.0/UDP\r\n a\r\n :5060").unwrap();
        assert_eq!((folded.transport, folded.host, folded.port), (&b"UDP"[..], &b"a"[..], Some(5060)));
    }

    #[test]
    fn lists_split_outside_quotes_and_brackets() {
        let value = br#"<sip:a@h?x=1,2>;q=1, "x, y" <sip:b@h>, ,c"#;
        let parts: Vec<_> = list(value).collect();
        assert_eq!(parts, [&b"<sip:a@h?x=1,2>;q=1"[..], br#""x, y" <sip:b@h>"#, b"c"]);
    }

    #[test]
    fn numbers_saturate_and_refuse() {
        assert_eq!(number(b" 3600 "), Some(3600));
        assert_eq!(number(b"99999999999"), Some(u32::MAX));
        assert_eq!(number(b"-1"), None);
        assert_eq!(leading_number(b"5 (busy);duration=3"), Some(5));
        assert_eq!(cseq(b"4711\tPUBLISH"), Some((4711, &b"PUBLISH"[..])));
        assert_eq!(cseq(b"4711"), None);
    }

    #[test]
    fn uris() {
        let uri = sip_uri(b"sip:a;b=c:pw@[2001:db8::1]:5070;lr;transport=tcp?h=1").unwrap();
        assert_eq!((uri.user, uri.host, uri.port), (&b"a;b=c"[..], &b"[2001:db8::1]"[..], Some(5070)));
        assert_eq!(param(uri.params, "lr"), Some(&b""[..]));
        assert_eq!(sip_uri(b"tel:+1555"), None);
    }
}
