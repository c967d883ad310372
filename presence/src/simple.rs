//! The messages of the `simple` dialect: REGISTER (RFC 3261 §10), SUBSCRIBE
//! (RFC 6665, 3856) and PUBLISH (RFC 3903) with a PIDF document (RFC 3863).
//!
//! rsip writes each message once, when a run is planned, around sentinels;
//! from then on a message is rendered by copying pieces and filling slots.

use adsum_sip::ids::{BranchRef, Namespace, TAG_LEN};
use adsum_sip::template::{Template, TemplateError};
use adsum_sip::value;
use rsip::headers::UntypedHeader as _;
use rsip::{Header, Headers};

use crate::accounts::{Accounts, write_number};
use crate::marker::Marker;
use crate::pidf;
use crate::population::Transport;

/// What we call ourselves in `User-Agent`.
pub const USER_AGENT: &str = concat!("adsum/", env!("CARGO_PKG_VERSION"));

/// Which message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// REGISTER, with any `Expires`.
    Register,
    /// SUBSCRIBE, first or in a dialog.
    Subscribe,
    /// PUBLISH with a document.
    Publish,
    /// PUBLISH without one: refresh or removal.
    PublishBare,
}

/// What varies between messages of one shape.
#[derive(Debug)]
pub struct Fields<'a> {
    /// The Request-URI.
    pub request_uri: &'a [u8],
    /// Our address of record.
    pub from: &'a [u8],
    /// Our tag.
    pub from_tag: [u8; TAG_LEN],
    /// The address of record that it is about.
    pub to: &'a [u8],
    /// The other side's tag; empty outside a dialog.
    pub to_tag: &'a [u8],
    /// Call-ID.
    pub call_id: &'a [u8],
    /// Number of CSeq.
    pub cseq: u32,
    /// Seconds in `Expires`.
    pub expires: u32,
    /// `host:port` of our end.
    pub local: &'a [u8],
    /// More header lines, each with its line break: Route, SIP-If-Match.
    pub lines: &'a [u8],
    /// For a document.
    pub marker: Option<Marker>,
}

/// Places in a message that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rendered {
    /// Where further header lines may be put: those that protect it, which are made when the rest of it stands.
    pub lines_at: usize,
    /// Where the body begins.
    pub body_at: usize,
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    RequestUri,
    Local,
    Branch,
    From,
    FromTag,
    To,
    ToTag,
    CallId,
    CSeq,
    User,
    Expires,
    Lines,
    Marker,
}

/// Why messages cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A template lacks a slot: a mistake of this crate.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// rsip refused what it was to write.
    #[error("a message cannot be written: {0}")]
    Write(String),
    /// It would not fit a datagram.
    #[error(
        "a PUBLISH of these users takes {length} bytes with its Authorization, and over UDP at most {limit} may be \
         sent (RFC 3261 section 18.1.1): use transport = \"tcp\", or shorter addresses"
    )]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
}

/// The compiled messages of a shard.
#[derive(Debug)]
pub struct Messages {
    register: Template<Slot>,
    subscribe: Template<Slot>,
    publish: Template<Slot>,
    publish_bare: Template<Slot>,
    /// `;transport=tcp` in Contacts, or nothing.
    contact_params: &'static str,
}

impl Messages {
    /// Compiles the messages for a transport.
    ///
    /// # Errors
    /// Never for a released version: the texts are part of it.
    pub fn new(transport: Transport) -> Result<Self, MessageError> {
        let contact_params = match transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
            Transport::Tls => ";transport=tls",
        };
        let contact = format!("<sip:QUSERQ@QLOCALQ{contact_params}>");
        let event = [other("Event", "presence"), other("Expires", "QEXPIRESQ")];
        let document = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<presence xmlns=\"{}\" xmlns:a=\"{}\" entity=\"QFROMQ\">\
             <tuple id=\"adsum\"><status><basic>open</basic></status><a:marker>QMARKERQ</a:marker>\
             <note>QMARKERQ</note></tuple></presence>\n",
            pidf::NAMESPACE,
            pidf::MARKER_NAMESPACE
        );
        let register = [
            Header::Contact(contact.as_str().into()),
            Header::Expires("QEXPIRESQ".into()),
            other("Allow", "NOTIFY, OPTIONS"),
            other("Allow-Events", "presence"),
        ];
        let subscribe = [
            Header::Contact(contact.as_str().into()),
            Header::Accept(pidf::MEDIA_TYPE.into()),
            other("Allow-Events", "presence"),
        ];
        let content = [Header::ContentType(pidf::MEDIA_TYPE.into())];
        let text = |method, headers: &[&[Header]], body| write(method, transport, &headers.concat(), body);
        Ok(Messages {
            register: compile(&text(rsip::Method::Register, &[&register], "")?, &[])?,
            subscribe: compile(&text(rsip::Method::Subscribe, &[&event, &subscribe], "")?, &[])?,
            publish: compile(
                &text(rsip::Method::Publish, &[&event, &content], &document)?,
                &[(Slot::Marker, "QMARKERQ")],
            )?,
            publish_bare: compile(&text(rsip::Method::Publish, &[&event], "")?, &[])?,
            contact_params,
        })
    }

    /// Appends a message.
    pub fn render(
        &self,
        shape: Shape,
        namespace: &Namespace,
        branch: BranchRef,
        fields: &Fields<'_>,
        out: &mut Vec<u8>,
    ) -> Rendered {
        let mut lines_end = out.len();
        let template = match shape {
            Shape::Register => &self.register,
            Shape::Subscribe => &self.subscribe,
            Shape::Publish => &self.publish,
            Shape::PublishBare => &self.publish_bare,
        };
        let body_at = template.render(out, |slot, out| match slot {
            Slot::RequestUri => out.extend_from_slice(fields.request_uri),
            Slot::Local => out.extend_from_slice(fields.local),
            Slot::Branch => namespace.write_branch(out, branch),
            Slot::From => out.extend_from_slice(fields.from),
            Slot::FromTag => out.extend_from_slice(&fields.from_tag),
            Slot::To => out.extend_from_slice(fields.to),
            Slot::ToTag => {
                if !fields.to_tag.is_empty() {
                    out.extend_from_slice(b";tag=");
                    out.extend_from_slice(fields.to_tag);
                }
            }
            Slot::CallId => out.extend_from_slice(fields.call_id),
            Slot::CSeq => write_number(u64::from(fields.cseq), 0, out),
            Slot::User => out.extend_from_slice(user_of(fields.from)),
            Slot::Expires => write_number(u64::from(fields.expires), 0, out),
            Slot::Lines => {
                out.extend_from_slice(fields.lines);
                lines_end = out.len();
            }
            Slot::Marker => {
                if let Some(marker) = fields.marker {
                    marker.write(out);
                }
            }
        });
        Rendered { lines_at: lines_end, body_at }
    }

    /// Appends the Contact URI that a user registers from `local`.
    pub fn write_contact(&self, accounts: &Accounts, user: u32, local: &[u8], out: &mut Vec<u8>) {
        // `sip:user@domain` cut behind the `@`, then our end in place of the domain.
        let start = out.len();
        accounts.write_uri(user, out);
        let keep = memchr::memchr(b'@', &out[start..]).map_or(out.len() - start, |at| at + 1);
        out.truncate(start + keep);
        if out[start..].starts_with(b"sips:") {
            out.remove(start + 3);
        }
        out.extend_from_slice(local);
        out.extend_from_slice(self.contact_params.as_bytes());
    }
}

fn user_of(uri: &[u8]) -> &[u8] {
    value::sip_uri(uri).map_or(b"", |uri| uri.user)
}

fn other(name: &str, value: &str) -> Header {
    Header::Other(name.to_owned(), value.to_owned())
}

/// Writes one message with rsip, sentinels in place of what varies.
fn write(
    method: rsip::Method,
    transport: Transport,
    more: &[Header],
    body: &str,
) -> Result<String, MessageError> {
    use rsip::headers as h;
    let rport = if transport == Transport::Udp { ";rport" } else { "" };
    let via = format!("SIP/2.0/{} QLOCALQ{rport};branch=QBRANCHQ", transport.name());
    let mut headers: Vec<Header> = vec![
        h::Via::new(via).into(),
        h::MaxForwards::new("70").into(),
        h::From::new("<QFROMQ>;tag=QFROMTAGQ").into(),
        h::To::new("<QTOQ>QTOTAGQ").into(),
        h::CallId::new("QCALLIDQ").into(),
        h::CSeq::new(format!("QCSEQQ {method}")).into(),
    ];
    headers.extend_from_slice(more);
    headers.push(h::UserAgent::new(USER_AGENT).into());
    headers.push(h::ContentLength::new("QLENGTHQ").into());
    let uri = rsip::Uri::try_from("sip:qrequesturiq").map_err(|e| MessageError::Write(e.to_string()))?;
    let request = rsip::Request {
        method,
        uri,
        version: rsip::Version::V2,
        headers: Headers::from(headers),
        body: body.as_bytes().to_vec(),
    };
    let text = request.to_string();
    // More lines stand just before Content-Length; rsip has no header for "any".
    Ok(text.replacen("Content-Length: ", "QLINESQContent-Length: ", 1))
}

fn compile(text: &str, more: &[(Slot, &str)]) -> Result<Template<Slot>, TemplateError> {
    let mut slots = vec![
        (Slot::RequestUri, "sip:qrequesturiq"),
        (Slot::Local, "QLOCALQ"),
        (Slot::Branch, "QBRANCHQ"),
        (Slot::From, "QFROMQ"),
        (Slot::FromTag, "QFROMTAGQ"),
        (Slot::To, "QTOQ"),
        (Slot::ToTag, "QTOTAGQ"),
        (Slot::CallId, "QCALLIDQ"),
        (Slot::CSeq, "QCSEQQ"),
        (Slot::Expires, "QEXPIRESQ"),
        (Slot::Lines, "QLINESQ"),
    ];
    if text.contains("QUSERQ") {
        slots.push((Slot::User, "QUSERQ"));
    }
    slots.extend_from_slice(more);
    Template::compile(text, &slots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use adsum_sip::{HeaderId, Scanner};

    #[test]
    fn a_publish_is_a_message_that_we_and_rsip_can_read() {
        let messages = Messages::new(Transport::Udp).unwrap();
        let namespace = Namespace { run: 1, shard: 2, key: 3 };
        let marker = Marker { run: 1, publisher: 42, sequence: 7 };
        let fields = Fields {
            request_uri: b"sip:user000042@pool.test",
            from: b"sip:user000042@pool.test",
            from_tag: *b"12345678",
            to: b"sip:user000042@pool.test",
            to_tag: b"",
            call_id: b"call",
            cseq: 9,
            expires: 3600,
            local: b"127.0.0.1:4000",
            lines: b"SIP-If-Match: x\r\n",
            marker: Some(marker),
        };
        let mut out = Vec::new();
        messages.render(Shape::Publish, &namespace, BranchRef { slot: 1, generation: 1 }, &fields, &mut out);
        let mut scanner = Scanner::new();
        let message = scanner.scan(&out).unwrap();
        assert_eq!(message.cseq(), Some((9, &b"PUBLISH"[..])));
        assert_eq!(message.header(HeaderId::SipIfMatch), Some(&b"x"[..]));
        let document = pidf::parse(std::str::from_utf8(message.body()).unwrap()).unwrap();
        let mut text = Vec::new();
        marker.write(&mut text);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(document.entity, "sip:user000042@pool.test");
        assert_eq!((&document.tuples[0].notes[0], &document.tuples[0].markers[0]), (&text, &text));
        let read = rsip::Request::try_from(out.as_slice()).unwrap();
        assert_eq!(read.method, rsip::Method::Publish);
        assert_eq!(read.body, message.body());
    }
}
