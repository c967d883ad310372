//! REGISTER, SUBSCRIBE and SERVICE of the `lync` dialect.
//!
//! rsip knows neither SERVICE nor the parameters of these headers, so the texts
//! are our own; a test has it read what it can. They are compiled once, when a
//! run is planned, as in [`crate::simple`].

use adsum_sip::ids::{BranchRef, Namespace, TAG_LEN};
use adsum_sip::template::{Template, TemplateError};

use super::LyncOptions;
use super::identity::Epid;
use crate::accounts::write_number;
use crate::population::Transport;
use crate::simple::MessageError;

/// What we call ourselves in `User-Agent`: version filters look for the beginning.
pub const USER_AGENT: &str = concat!("UCCAPI/15.0.0.0 adsum/", env!("CARGO_PKG_VERSION"));

/// The methods that the known clients register; servers may look for them.
const METHODS: &str = "INVITE, MESSAGE, INFO, OPTIONS, BYE, CANCEL, NOTIFY, ACK, REFER, BENOTIFY";

/// Which message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// REGISTER; without `Expires` the server decides.
    Register,
    /// SUBSCRIBE of a user to itself.
    Own,
    /// SUBSCRIBE to others.
    Presence,
    /// SERVICE.
    Service,
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
    /// Our endpoint.
    pub epid: &'a Epid,
    /// The address of record that it is about.
    pub to: &'a [u8],
    /// The other side's tag; empty outside a dialog.
    pub to_tag: &'a [u8],
    /// Call-ID.
    pub call_id: &'a [u8],
    /// Number of CSeq.
    pub cseq: u32,
    /// `host:port` of our end.
    pub local: &'a [u8],
    /// The GRUU that the registrar gave us.
    pub contact: &'a [u8],
    /// Of a registration: the token by which its Contact is known.
    pub opaque: [u8; TAG_LEN],
    /// More header lines, each with its line break: Route, Expires, Content-Type.
    pub lines: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    RequestUri,
    Local,
    Branch,
    From,
    FromTag,
    Epid,
    To,
    ToTag,
    CallId,
    CSeq,
    Contact,
    Opaque,
    Uuid,
    Lines,
    Body,
}

/// The compiled messages of a shard.
#[derive(Debug)]
pub struct Messages {
    register: Template<Slot>,
    own: Template<Slot>,
    presence: Template<Slot>,
    service: Template<Slot>,
}

impl Messages {
    /// Compiles the messages for a transport.
    ///
    /// # Errors
    /// UDP, which this dialect does not go over, or a `User-Agent` that is not one line.
    pub fn new(transport: Transport, options: &LyncOptions) -> Result<Self, MessageError> {
        if transport == Transport::Udp {
            let words = "the dialect `lync` does not go over UDP: use transport = \"tls\" or \"tcp\"";
            return Err(MessageError::Write(words.to_owned()));
        }
        let agent = options.user_agent.as_deref().unwrap_or(USER_AGENT);
        if agent.is_empty() || agent.len() > 256 || agent.chars().any(char::is_control) {
            let words = format!("the User-Agent {agent:?} is not one line of at most 256 characters");
            return Err(MessageError::Write(words));
        }
        let stream = if transport == Transport::Tls { "tls" } else { "tcp" };
        let compile = |method: &str, lines: &str| {
            let text = format!(
                "{method} QREQUESTURIQ SIP/2.0\r\nVia: SIP/2.0/{} QLOCALQ;branch=QBRANCHQ\r\n\
                 Max-Forwards: 70\r\nFrom: <QFROMQ>;tag=QFROMTAGQ;epid=QEPIDQ\r\nTo: <QTOQ>QTOTAGQ\r\n\
                 Call-ID: QCALLIDQ\r\nCSeq: QCSEQQ {method}\r\n{lines}User-Agent: QAGENTQ\r\n\
                 QLINESQContent-Length: QLENGTHQ\r\n\r\nQBODYQ",
                transport.name(),
            );
            template(&text.replace("QAGENTQ", agent))
        };
        let event = |event: &str, accept: &str, more: &str| {
            format!(
                "Contact: <QCONTACTQ>\r\nEvent: {event}\r\nAccept: {accept}\r\n{more}Supported: ms-benotify\r\n\
                 Proxy-Require: ms-benotify\r\nSupported: ms-piggyback-first-notify\r\n"
            )
        };
        Ok(Messages {
            register: compile(
                "REGISTER",
                &format!(
                    "Contact: <sip:QLOCALQ;transport={stream};ms-opaque=QOPAQUEQ>;methods=\"{METHODS}\";\
                     proxy=replace;+sip.instance=\"<urn:uuid:QUUIDQ>\"\r\nSupported: gruu-10, adhoclist, \
                     msrtc-event-categories, com.microsoft.msrtc.presence\r\nEvent: registration\r\n\
                     Allow-Events: presence\r\nms-keep-alive: UAC;hop-hop=yes\r\n"
                ),
            )?,
            own: compile(
                "SUBSCRIBE",
                &event(
                    "vnd-microsoft-roaming-self",
                    "application/vnd-microsoft-roaming-self+xml",
                    "Supported: com.microsoft.autoextend\r\n",
                ),
            )?,
            presence: compile(
                "SUBSCRIBE",
                &event(
                    "presence",
                    "application/msrtc-event-categories+xml, application/rlmi+xml, multipart/related",
                    "Require: adhoclist, categoryList\r\nSupported: eventlist\r\n",
                ),
            )?,
            service: compile("SERVICE", "Contact: <QCONTACTQ>\r\n")?,
        })
    }

    /// Appends a message. Returns where in `out` further header lines may be put:
    /// those that protect it, which are made when the rest of it stands.
    pub fn render(
        &self,
        shape: Shape,
        namespace: &Namespace,
        branch: BranchRef,
        fields: &Fields<'_>,
        out: &mut Vec<u8>,
    ) -> usize {
        let mut lines_end = out.len();
        let template = match shape {
            Shape::Register => &self.register,
            Shape::Own => &self.own,
            Shape::Presence => &self.presence,
            Shape::Service => &self.service,
        };
        template.render(out, |slot, out| match slot {
            Slot::RequestUri => out.extend_from_slice(fields.request_uri),
            Slot::Local => out.extend_from_slice(fields.local),
            Slot::Branch => namespace.write_branch(out, branch),
            Slot::From => out.extend_from_slice(fields.from),
            Slot::FromTag => out.extend_from_slice(&fields.from_tag),
            Slot::Epid => out.extend_from_slice(&fields.epid.0),
            Slot::To => out.extend_from_slice(fields.to),
            Slot::ToTag => {
                if !fields.to_tag.is_empty() {
                    out.extend_from_slice(b";tag=");
                    out.extend_from_slice(fields.to_tag);
                }
            }
            Slot::CallId => out.extend_from_slice(fields.call_id),
            Slot::CSeq => write_number(u64::from(fields.cseq), 0, out),
            Slot::Contact => out.extend_from_slice(fields.contact),
            Slot::Opaque => out.extend_from_slice(&fields.opaque),
            Slot::Uuid => fields.epid.instance().write_uuid(out),
            Slot::Lines => {
                out.extend_from_slice(fields.lines);
                lines_end = out.len();
            }
            Slot::Body => out.extend_from_slice(fields.body),
        });
        lines_end
    }
}

fn template(text: &str) -> Result<Template<Slot>, TemplateError> {
    let slots = [
        (Slot::RequestUri, "QREQUESTURIQ"),
        (Slot::Local, "QLOCALQ"),
        (Slot::Branch, "QBRANCHQ"),
        (Slot::From, "QFROMQ"),
        (Slot::FromTag, "QFROMTAGQ"),
        (Slot::Epid, "QEPIDQ"),
        (Slot::To, "QTOQ"),
        (Slot::ToTag, "QTOTAGQ"),
        (Slot::CallId, "QCALLIDQ"),
        (Slot::CSeq, "QCSEQQ"),
        (Slot::Contact, "QCONTACTQ"),
        (Slot::Opaque, "QOPAQUEQ"),
        (Slot::Uuid, "QUUIDQ"),
        (Slot::Lines, "QLINESQ"),
        (Slot::Body, "QBODYQ"),
    ];
    let there: Vec<_> = slots.into_iter().filter(|(_, sentinel)| text.contains(sentinel)).collect();
    Template::compile(text, &there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use adsum_sip::{HeaderId, Scanner, value};

    #[test]
    fn messages_are_those_of_the_guide_and_rsip_reads_what_it_knows() {
        let messages = Messages::new(Transport::Tls, &LyncOptions::default()).unwrap();
        let namespace = Namespace { run: 1, shard: 2, key: 3 };
        let fields = Fields {
            request_uri: b"sip:loadlab.test",
            from: b"sip:pub00001@loadlab.test",
            from_tag: *b"12345678",
            epid: &Epid(*b"5f0a1b2c3d"),
            to: b"sip:pub00001@loadlab.test",
            to_tag: b"srv",
            call_id: b"call",
            cseq: 9,
            local: b"127.0.0.1:4000",
            contact: b"sip:pub00001@loadlab.test;opaque=user:epid:qM3H0mWuslC2FF6rLkUq5gAA;gruu",
            opaque: *b"0badcafe",
            lines: b"Expires: 0\r\n",
            body: b"<x/>",
        };
        for (shape, method) in [
            (Shape::Register, "REGISTER"),
            (Shape::Own, "SUBSCRIBE"),
            (Shape::Presence, "SUBSCRIBE"),
            (Shape::Service, "SERVICE"),
        ] {
            let mut out = Vec::new();
            let branch = BranchRef { slot: 1, generation: 1 };
            let at = messages.render(shape, &namespace, branch, &fields, &mut out);
            assert!(out[at..].starts_with(b"Content-Length: "));
            let mut scanner = Scanner::new();
            let message = scanner.scan(&out).unwrap();
            assert_eq!((message.cseq(), message.body()), (Some((9, method.as_bytes())), &b"<x/>"[..]));
            assert_eq!(message.expires(), Some(0));
            let from = value::name_addr(message.header(HeaderId::From).unwrap()).unwrap();
            assert_eq!(value::param(from.params, "epid"), Some(&b"5f0a1b2c3d"[..]));
            if method != "SERVICE" {
                let read = rsip::Request::try_from(out.as_slice()).unwrap();
                assert_eq!(
                    (read.method.to_string().as_str(), read.body.as_slice()),
                    (method, message.body())
                );
            }
            let contact = value::name_addr(message.header(HeaderId::Contact).unwrap()).unwrap();
            if shape == Shape::Register {
                assert_eq!(contact.uri, b"sip:127.0.0.1:4000;transport=tls;ms-opaque=0badcafe");
                let instance = value::param(contact.params, "+sip.instance").unwrap();
                assert_eq!(instance, b"<urn:uuid:d2c7cda8-ae65-50b2-b614-5eab2e452ae6>");
            } else {
                assert_eq!(contact.uri, fields.contact);
            }
        }
        assert!(Messages::new(Transport::Udp, &LyncOptions::default()).is_err());
        let agent = LyncOptions { user_agent: Some("x\r\ny: z".to_owned()), ..LyncOptions::default() };
        assert!(Messages::new(Transport::Tcp, &agent).is_err());
    }
}
