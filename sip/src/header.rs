//! The headers that the engine looks up by number.
//!
//! Everything else is kept in the index under [`HeaderId::Other`], by name.

/// A header field name, full or compact form (RFC 3261 §7.3.3 and table 2;
/// the events of RFC 6665 §8.2; RFC 3903 §11.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "each variant is the header of that name")]
pub enum HeaderId {
    Via,
    From,
    To,
    CallId,
    CSeq,
    Contact,
    ContentLength,
    ContentType,
    ContentEncoding,
    Event,
    AllowEvents,
    SubscriptionState,
    Expires,
    MinExpires,
    Route,
    RecordRoute,
    MaxForwards,
    WwwAuthenticate,
    ProxyAuthenticate,
    Authorization,
    ProxyAuthorization,
    AuthenticationInfo,
    ProxyAuthenticationInfo,
    SipETag,
    SipIfMatch,
    RetryAfter,
    Supported,
    Unsupported,
    Require,
    ProxyRequire,
    Allow,
    Accept,
    Server,
    UserAgent,
    Warning,
    Reason,
    Date,
    Path,
    ServiceRoute,
    FlowTimer,
    MsDiagnostics,
    MsDiagnosticsPublic,
    /// A name that is not in this list.
    Other,
}

impl HeaderId {
    /// How many there are, [`HeaderId::Other`] not counted.
    pub const KNOWN: usize = HeaderId::Other as usize;

    /// Reads a field name in any case, full or compact.
    ///
    /// ```
    /// use adsum_sip::HeaderId;
    /// assert_eq!(HeaderId::of(b"o"), HeaderId::Event);
    /// assert_eq!(HeaderId::of(b"CALL-ID"), HeaderId::CallId);
    /// assert_eq!(HeaderId::of(b"X-Anything"), HeaderId::Other);
    /// ```
    #[must_use]
    pub fn of(name: &[u8]) -> HeaderId {
        use HeaderId::*;
        // The length selects at most a handful of candidates; a wrong first
        // letter ends the comparison at once.
        let candidates: &[(&str, HeaderId)] = match name.len() {
            1 => {
                return match name[0].to_ascii_lowercase() {
                    b'v' => Via,
                    b'f' => From,
                    b't' => To,
                    b'i' => CallId,
                    b'm' => Contact,
                    b'l' => ContentLength,
                    b'c' => ContentType,
                    b'e' => ContentEncoding,
                    b'o' => Event,
                    b'u' => AllowEvents,
                    b'k' => Supported,
                    _ => Other,
                };
            }
            2 => &[("to", To)],
            3 => &[("via", Via)],
            4 => &[("from", From), ("cseq", CSeq), ("date", Date), ("path", Path)],
            5 => &[("event", Event), ("route", Route), ("allow", Allow)],
            6 => &[("accept", Accept), ("server", Server), ("reason", Reason)],
            7 => &[
                ("call-id", CallId),
                ("contact", Contact),
                ("expires", Expires),
                ("require", Require),
                ("warning", Warning),
            ],
            8 => &[("sip-etag", SipETag)],
            9 => &[("supported", Supported)],
            10 => &[("user-agent", UserAgent), ("flow-timer", FlowTimer)],
            11 => &[("min-expires", MinExpires), ("retry-after", RetryAfter), ("unsupported", Unsupported)],
            12 => &[
                ("content-type", ContentType),
                ("record-route", RecordRoute),
                ("max-forwards", MaxForwards),
                ("allow-events", AllowEvents),
                ("sip-if-match", SipIfMatch),
            ],
            13 => &[
                ("authorization", Authorization),
                ("proxy-require", ProxyRequire),
                ("service-route", ServiceRoute),
            ],
            14 => &[("content-length", ContentLength), ("ms-diagnostics", MsDiagnostics)],
            16 => &[("www-authenticate", WwwAuthenticate), ("content-encoding", ContentEncoding)],
            18 => &[("subscription-state", SubscriptionState), ("proxy-authenticate", ProxyAuthenticate)],
            19 => &[("proxy-authorization", ProxyAuthorization), ("authentication-info", AuthenticationInfo)],
            21 => &[("ms-diagnostics-public", MsDiagnosticsPublic)],
            25 => &[("proxy-authentication-info", ProxyAuthenticationInfo)],
            _ => return Other,
        };
        candidates
            .iter()
            .find(|(text, _)| name.eq_ignore_ascii_case(text.as_bytes()))
            .map_or(Other, |(_, id)| *id)
    }
}
