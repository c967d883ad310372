//! Requests as bytes: what a purpose says, in the words of the dialect.

use adsum_sip::ids::{BranchRef, CallKind, CallRef};
use adsum_sip::protection::{Outgoing, Protection as _};
use adsum_sip::value;

use super::request::{Order, Scratch};
use super::state::{Purpose, tried};
use super::{Population, Transport};
use crate::host::Host;
use crate::marker::Marker;
use crate::simple::{Fields, MessageError, Rendered, Shape};

/// Puts bytes into a message, in front of what stands at `at`.
pub(super) fn insert(out: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = out.len();
    out.extend_from_slice(bytes);
    out.copy_within(at..end, at + bytes.len());
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A request above this may not go over UDP (RFC 3261 §18.1.1).
const MAX_DATAGRAM: usize = 1_300;

impl Population {
    /// Appends a request and returns the number of its CSeq.
    pub(super) fn render(
        &mut self,
        order: &Order,
        branch: BranchRef,
        flow: u32,
        host: &impl Host,
        out: &mut Vec<u8>,
    ) -> u32 {
        let mut scratch = std::mem::take(&mut self.scratch);
        let cseq = if self.is_lync() {
            self.render_lync(order, branch, flow, host, out, &mut scratch)
        } else {
            self.render_with(order, branch, flow, host, out, &mut scratch)
        };
        self.scratch = scratch;
        cseq
    }

    fn render_with(
        &mut self,
        order: &Order,
        branch: BranchRef,
        flow: u32,
        host: &impl Host,
        out: &mut Vec<u8>,
        scratch: &mut Scratch,
    ) -> u32 {
        let namespace = self.config.namespace;
        let method = self.method_of(order.purpose).name();
        let user = &mut self.users[order.user as usize];
        let Scratch { elsewhere, uri, peer, lines, protection, local, call_id, .. } = scratch;
        for buffer in [&mut *uri, &mut *peer, &mut *lines, &mut *local, &mut *call_id] {
            buffer.clear();
        }
        host.write_local(flow, local);
        self.accounts.write_uri(order.user, uri);
        let mut to_tag: &[u8] = b"";
        let mut marker = None;
        let mut request_uri: &[u8] = uri;
        let mut to: &[u8] = uri;
        let (shape, call, cseq) = match order.purpose {
            Purpose::Register | Purpose::RegisterRefresh | Purpose::Unregister => {
                user.register_cseq += 1;
                let call = CallRef { kind: CallKind::Registration, slot: order.user, generation: 0 };
                // The registrar's URI has no user part (RFC 3261 §10.2).
                let domain = value::sip_uri(uri).map_or(&b""[..], |uri| uri.host);
                peer.extend_from_slice(b"sip:");
                peer.extend_from_slice(domain);
                request_uri = peer;
                (Shape::Register, call, user.register_cseq)
            }
            Purpose::Publish
            | Purpose::PublishRefresh
            | Purpose::Unpublish
            | Purpose::SetMembers
            | Purpose::Present => {
                user.publish_cseq += 1;
                if !user.etag.is_empty() {
                    lines.extend_from_slice(b"SIP-If-Match: ");
                    lines.extend_from_slice(self.texts.get(&user.etag));
                    lines.extend_from_slice(b"\r\n");
                }
                let call = CallRef { kind: CallKind::Publication, slot: order.user, generation: 0 };
                let shape = if order.purpose == Purpose::Publish {
                    let sequence = self.publications.get(order.publication).map_or(0, |p| p.sequence);
                    let publisher = self.accounts.number(order.user);
                    marker = Some(Marker { run: namespace.run, publisher, sequence });
                    Shape::Publish
                } else {
                    Shape::PublishBare
                };
                (shape, call, user.publish_cseq)
            }
            Purpose::Subscribe | Purpose::SubscribeRefresh | Purpose::Unsubscribe => {
                let generation = self.dialogs.generation(order.dialog) as u16 & 0x7fff;
                let dialog = &mut self.dialogs[order.dialog];
                dialog.local_cseq += 1;
                if dialog.publisher != order.user {
                    self.accounts.write_uri(dialog.publisher, peer);
                    to = peer;
                    request_uri = peer;
                }
                if let Some(target) = &dialog.target {
                    request_uri = target.target.request_uri();
                    lines.extend_from_slice(target.target.route_lines());
                    to_tag = self.texts.get(&dialog.remote_tag);
                }
                let call = CallRef { kind: CallKind::Dialog, slot: order.dialog, generation };
                (Shape::Subscribe, call, dialog.local_cseq)
            }
        };
        if order.tried & tried::ELSEWHERE != 0 {
            request_uri = elsewhere;
        }
        namespace.write_call_id(call_id, call);
        let fields = Fields {
            request_uri,
            from: uri,
            from_tag: namespace.tag(call),
            to,
            to_tag,
            call_id,
            cseq,
            expires: order.expires,
            local,
            lines,
            marker,
        };
        let Rendered { lines_at, body_at } = self.messages.render(shape, &namespace, branch, &fields, out);
        let outgoing = Outgoing {
            code: 0,
            method: method.as_bytes(),
            uri: request_uri,
            call_id,
            cseq,
            from_uri: uri,
            from_tag: &fields.from_tag,
            to_uri: to,
            to_tag,
            expires: Some(order.expires),
            body: &out[body_at..],
        };
        protection.clear();
        self.protection.write(&mut user.auth, &*self.accounts, order.user, &outgoing, protection);
        // Behind the other lines.
        insert(out, lines_at, protection);
        cseq
    }

    /// A message that does not fit a datagram is told before the run, not in it.
    pub(super) fn check_sizes(&self) -> Result<(), MessageError> {
        if self.config.transport != Transport::Udp || self.users.is_empty() {
            return Ok(());
        }
        let mut uri = Vec::new();
        self.accounts.write_uri(0, &mut uri);
        // An Authorization header with long realm, nonce and opaque.
        let lines = vec![b'x'; 330];
        let fields = Fields {
            request_uri: &uri,
            from: &uri,
            from_tag: *b"00000000",
            to: &uri,
            to_tag: b"",
            call_id: &[b'0'; 25],
            cseq: 1,
            expires: self.config.expires,
            local: b"255.255.255.255:65535",
            lines: &lines,
            marker: Some(Marker { run: 0, publisher: 0, sequence: 0 }),
        };
        let mut out = Vec::new();
        let branch = BranchRef { slot: 0, generation: 0 };
        self.messages.render(Shape::Publish, &self.config.namespace, branch, &fields, &mut out);
        if out.len() > MAX_DATAGRAM {
            return Err(MessageError::TooLong { length: out.len(), limit: MAX_DATAGRAM });
        }
        Ok(())
    }
}
