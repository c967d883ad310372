//! Answers as bytes: copied from the request, with our lines, and signed last.

use adsum_sip::protection::Outgoing;
use adsum_sip::{HeaderId, Message, value};

use super::super::ids::write_number;
use super::super::reply::{status_line, write_vias};
use super::gate::Association;
use super::{Lync, Peer, Reply, SERVER, Tag};
use adsum_sip::ids::mix;

impl Lync {
    /// The answer to `message`, from `lines` and `body`.
    pub(super) fn rendered(
        &mut self,
        reply: Reply,
        association: Option<Association>,
        message: &Message<'_>,
        peer: Peer,
    ) -> Vec<u8> {
        let mut out = self.buffer();
        let mut tag = Vec::with_capacity(16);
        match reply.tag {
            Tag::Dialog(slot, generation) => self.dialog_tags.write(slot, generation, &mut tag),
            Tag::Endpoint(slot, generation) => self.endpoint_tags.write(slot, generation, &mut tag),
            Tag::Own => {
                self.secret = mix(self.secret);
                tag.push(b'p');
                adsum_sip::ids::write(&mut tag, (self.secret & 0x3fff_ffff) as u32, 6);
                adsum_sip::ids::write(&mut tag, (self.secret >> 30 & 0x3fff_ffff) as u32, 6);
            }
        }
        let given = message.to_tag();
        status_line(reply.code, &mut out);
        let header = |id| message.header(id).unwrap_or(b"");
        let (from, to) = (header(HeaderId::From), header(HeaderId::To));
        for part in [b"From: ", from, b"\r\nTo: ", to] {
            out.extend_from_slice(part);
        }
        if given.is_none() {
            out.extend_from_slice(b";tag=");
            out.extend_from_slice(&tag);
        }
        let (call_id, cseq) = (message.call_id(), header(HeaderId::CSeq));
        for part in [b"\r\nCall-ID: ", call_id, b"\r\nCSeq: ", cseq, b"\r\n"] {
            out.extend_from_slice(part);
        }
        write_vias(message, &mut out, |top, out| top_via(top, peer, out));
        out.extend_from_slice(&self.lines);
        for part in [b"Server: ", SERVER, b"\r\n"] {
            out.extend_from_slice(part);
        }
        if let Some(association) = association {
            let uri = |value| value::name_addr(value).map_or(&b""[..], |a| a.uri);
            let outgoing = Outgoing {
                code: reply.code,
                method: message.method(),
                call_id,
                cseq: message.cseq().map_or(0, |(n, _)| n),
                from_uri: uri(from),
                from_tag: message.from_tag().unwrap_or(b""),
                to_uri: uri(to),
                to_tag: given.unwrap_or(&tag),
                expires: reply.expires,
                body: &self.body,
                ..Outgoing::default()
            };
            self.gate.sign(association, Some(self.reserved), &outgoing, &mut out, &mut self.stats);
        }
        out.extend_from_slice(b"Content-Length: ");
        write_number(self.body.len() as u64, &mut out);
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(&self.body);
        out
    }
}

/// The topmost element says how we saw it; the rest of it stays as it was
/// written, `SIP/2.0/tcp` and a missing branch included.
fn top_via(top: &[u8], peer: Peer, out: &mut Vec<u8>) {
    out.extend_from_slice(top);
    out.extend_from_slice(b";ms-received-port=");
    write_number(u64::from(peer.address().port()), out);
    if let Peer::Stream(number, ..) = peer {
        out.extend_from_slice(b";ms-received-cid=");
        write_number(number, out);
    }
}
