//! Signatures over whole messages, as [MS-SIPAE] has them: what is signed, and
//! the parameters that carry it. NTLM is the scheme that is spoken, on the
//! client's side by [`Ntlm`], on the server's by [`Authority`].
//!
//! The text that is signed (§3.1.4.2 of [MS-SIP]) holds scheme, a random number
//! and a running one, realm, target, and from the message Call-ID, CSeq, URIs and
//! tags of From and To, asserted identities, `Expires` and of a response the status
//! code, each between angle brackets. Nothing else of a message is covered.
//!
//! A Kerberos provider would take the place of [`crate::ntlm::Keys`]: one token
//! instead of a handshake, and GSS_GetMIC over the same text with `Kerberos` in
//! front. Nothing but [`Scheme`](crate::protection::Scheme) would have to know of it.

mod client;
mod server;

use crate::digest::Items;
use crate::header::HeaderId;
use crate::protection::Outgoing;
use crate::scan::{Message, Start};
use crate::value;

pub use client::Ntlm;
pub use server::{
    Association, Authority, AuthorityConfig, Check, MAX_ASSOCIATIONS, MAX_OF_CONNECTION, Refusal,
};

/// The realm that every pool of this family names.
pub const REALM: &str = "SIP Communications Service";

/// Highest protocol version that is spoken; without `version` it is 2.
pub const NEWEST: u8 = 4;

/// Schemes that a challenge may offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SchemeName {
    /// [MS-NLMP].
    Ntlm,
    /// RFC 4121.
    Kerberos,
    /// TLS handshake inside SIP, with a certificate of the pool's web service.
    TlsDsk,
    /// RFC 7616.
    Digest,
}

impl SchemeName {
    /// All of them.
    pub const ALL: [SchemeName; 4] =
        [SchemeName::Ntlm, SchemeName::Kerberos, SchemeName::TlsDsk, SchemeName::Digest];

    /// As it stands on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SchemeName::Ntlm => "NTLM",
            SchemeName::Kerberos => "Kerberos",
            SchemeName::TlsDsk => "TLS-DSK",
            SchemeName::Digest => "Digest",
        }
    }
}

/// The schemes that a 401 or 407 offers, in the message's order; others are passed over.
pub fn offered<'a>(message: &Message<'a>) -> impl Iterator<Item = SchemeName> + use<'a> {
    let ids = [HeaderId::WwwAuthenticate, HeaderId::ProxyAuthenticate];
    let message = *message;
    ids.into_iter().flat_map(move |id| message.headers(id)).filter_map(|value| {
        let word = value.split(|byte| byte.is_ascii_whitespace() || *byte == b',').next()?;
        SchemeName::ALL.into_iter().find(|scheme| word.eq_ignore_ascii_case(scheme.name().as_bytes()))
    })
}

/// The parameters of an NTLM header, in whichever it stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Params<'a> {
    pub realm: &'a [u8],
    pub target: &'a [u8],
    pub opaque: &'a [u8],
    /// `gssapi-data`; `Some(b"")` asks for a challenge.
    pub token: Option<&'a [u8]>,
    pub version: Option<u8>,
    /// `crand` or `srand`.
    pub rand: &'a [u8],
    /// `cnum` or `snum`.
    pub number: &'a [u8],
    /// `response` or `rspauth`.
    pub signature: &'a [u8],
}

impl<'a> Params<'a> {
    /// Reads a header value; `None` if its scheme is not NTLM.
    pub fn read(value: &'a [u8]) -> Option<Params<'a>> {
        let mut items = Items(value);
        match items.next()? {
            crate::digest::Item::Word(word) if word.eq_ignore_ascii_case(b"NTLM") => {}
            _ => return None,
        }
        let mut params = Params::default();
        for item in items {
            let crate::digest::Item::Param(name, value) = item else { break };
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            if is("realm") {
                params.realm = value;
            } else if is("targetname") {
                params.target = value;
            } else if is("opaque") {
                params.opaque = value;
            } else if is("gssapi-data") {
                params.token = Some(value);
            } else if is("version") {
                params.version = value::number(value).and_then(|n| u8::try_from(n).ok());
            } else if is("crand") || is("srand") {
                params.rand = value;
            } else if is("cnum") || is("snum") {
                params.number = value;
            } else if is("response") || is("rspauth") {
                params.signature = value;
            }
        }
        Some(params)
    }

    /// The first NTLM header of these.
    pub fn of(message: &Message<'a>, ids: &[HeaderId]) -> Option<(Params<'a>, HeaderId)> {
        ids.iter().find_map(|id| message.headers(*id).find_map(Params::read).map(|params| (params, *id)))
    }
}

/// What a message gives to the text that is signed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed<'a> {
    call_id: &'a [u8],
    cseq: u32,
    method: &'a [u8],
    from_uri: &'a [u8],
    from_tag: &'a [u8],
    to_uri: &'a [u8],
    to_tag: &'a [u8],
    sip_identity: &'a [u8],
    tel_identity: &'a [u8],
    expires: Expires<'a>,
    code: u16,
}

#[derive(Debug, Clone, Copy)]
enum Expires<'a> {
    Text(&'a [u8]),
    Number(u32),
}

impl<'a> Signed<'a> {
    /// Of a message that is about to be written.
    pub fn outgoing(outgoing: &Outgoing<'a>) -> Signed<'a> {
        Signed {
            call_id: outgoing.call_id,
            cseq: outgoing.cseq,
            method: outgoing.method,
            from_uri: outgoing.from_uri,
            from_tag: outgoing.from_tag,
            to_uri: outgoing.to_uri,
            to_tag: outgoing.to_tag,
            sip_identity: b"",
            tel_identity: b"",
            expires: outgoing.expires.map_or(Expires::Text(b""), Expires::Number),
            code: outgoing.code,
        }
    }

    /// Of a message that came; `None` if From, To or CSeq cannot be read.
    pub fn incoming(message: &Message<'a>) -> Option<Signed<'a>> {
        let (cseq, method) = message.cseq()?;
        let from = value::name_addr(message.header(HeaderId::From)?)?;
        let to = value::name_addr(message.header(HeaderId::To)?)?;
        let [sip_identity, tel_identity] = identities(message);
        Some(Signed {
            call_id: message.call_id(),
            cseq,
            method,
            from_uri: from.uri,
            from_tag: value::param(from.params, "tag").unwrap_or(b""),
            to_uri: to.uri,
            to_tag: value::param(to.params, "tag").unwrap_or(b""),
            sip_identity,
            tel_identity,
            expires: Expires::Text(message.header(HeaderId::Expires).map_or(b"", value::trim)),
            code: match message.start() {
                Start::Response { code, .. } => code,
                Start::Request { .. } => 0,
            },
        })
    }

    /// Writes the text: 12 fields in version 2, 15 from version 3 on, and the
    /// status code of a response.
    pub fn write(&self, version: u8, seal: &Params<'_>, out: &mut Vec<u8>) {
        let mut field = |value: &[u8]| {
            out.push(b'<');
            out.extend_from_slice(value);
            out.push(b'>');
        };
        for value in [b"NTLM" as &[u8], seal.rand, seal.number, seal.realm, seal.target, self.call_id] {
            field(value);
        }
        let mut number = Decimal::default();
        field(number.of(self.cseq));
        for value in [self.method, self.from_uri, self.from_tag] {
            field(value);
        }
        if version > 2 {
            field(self.to_uri);
        }
        field(self.to_tag);
        if version > 2 {
            field(self.sip_identity);
            field(self.tel_identity);
        }
        match self.expires {
            Expires::Text(text) => field(text),
            Expires::Number(seconds) => field(number.of(seconds)),
        }
        if self.code != 0 {
            field(number.of(u32::from(self.code)));
        }
    }
}

/// The first SIP and the first telephone URI of P-Asserted-Identity, else of P-Preferred-Identity.
fn identities<'a>(message: &Message<'a>) -> [&'a [u8]; 2] {
    let mut found: [&[u8]; 2] = [b""; 2];
    for name in ["P-Asserted-Identity", "P-Preferred-Identity"] {
        let lines = message.lines().filter(|(given, _)| given.eq_ignore_ascii_case(name.as_bytes()));
        for element in lines.flat_map(|(_, value)| value::list(value)) {
            let Some(uri) = value::name_addr(element).map(|addr| addr.uri) else { continue };
            let scheme = uri.split(|byte| *byte == b':').next().unwrap_or(b"");
            let tel = scheme.eq_ignore_ascii_case(b"tel");
            if found[usize::from(tel)].is_empty() {
                found[usize::from(tel)] = uri;
            }
        }
        if found.iter().any(|uri| !uri.is_empty()) {
            break;
        }
    }
    found
}

/// A number in decimal, on the stack.
#[derive(Debug, Default)]
pub(crate) struct Decimal {
    digits: [u8; 10],
}

impl Decimal {
    /// Its digits.
    pub fn of(&mut self, mut number: u32) -> &[u8] {
        let mut at = self.digits.len();
        loop {
            at -= 1;
            self.digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return &self.digits[at..];
            }
        }
    }
}

/// Appends `, name="value"`.
pub(crate) fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b", ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"=\"");
    out.extend_from_slice(value);
    out.push(b'"');
}

/// Appends `, version=N` where the other side named one.
pub(crate) fn put_version(out: &mut Vec<u8>, version: u8) {
    if version > 2 {
        out.extend_from_slice(b", version=");
        out.push(b'0' + version.min(9));
    }
}
