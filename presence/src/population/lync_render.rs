//! Requests of the `lync` dialect as bytes.

use adsum_sip::ids::{BranchRef, CallKind, CallRef};
use adsum_sip::protection::{Outgoing, Protection as _};
use adsum_sip::value;
use memchr::memmem;

use super::Population;
use super::request::{Order, Scratch};
use super::state::{Purpose, has, tried};
use crate::host::Host;
use crate::lync::documents::{self, Publish};
use crate::lync::messages::{Fields, Shape};
use crate::marker::Marker;

/// Publishers that a refresh names at most: longer lists are more than servers take in one request.
/// [UNV] The subscription to the others goes on all the same, as the dialog does.
const MAX_REFRESHED: usize = 1_000;

impl Population {
    pub(super) fn render_lync(
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
        let Some(lync) = self.lync.as_deref() else { return 0 };
        let endpoint = &lync.endpoints[order.user as usize];
        let user = &mut self.users[order.user as usize];
        let Scratch { elsewhere, uri, peer, lines, protection, local, call_id, body, .. } = scratch;
        for buffer in [&mut *uri, &mut *peer, &mut *lines, &mut *local, &mut *call_id, &mut *body] {
            buffer.clear();
        }
        host.write_local(flow, local);
        self.accounts.write_uri(order.user, uri);
        let mut to_tag: &[u8] = b"";
        let mut request_uri: &[u8] = uri;
        let mut to: &[u8] = uri;
        // Lifetimes are the server's choice; only the end of one is ours to say.
        let ends = matches!(order.purpose, Purpose::Unregister | Purpose::Unsubscribe);
        if ends {
            lines.extend_from_slice(b"Expires: 0\r\n");
        }
        let mut media_type: &[u8] = b"";
        let (shape, call, cseq) = match order.purpose {
            Purpose::Register | Purpose::RegisterRefresh | Purpose::Unregister => {
                user.register_cseq += 1;
                let call = CallRef { kind: CallKind::Registration, slot: order.user, generation: 0 };
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
                let call = CallRef { kind: CallKind::Publication, slot: order.user, generation: 0 };
                media_type = documents::PUBLISH_TYPE;
                if order.purpose == Purpose::SetMembers {
                    media_type = documents::MEMBERS_TYPE;
                    documents::write_members(endpoint.colleagues, body);
                } else {
                    let what = if order.purpose == Purpose::Unpublish {
                        Publish::Nothing { state: lync.is_tidy }
                    } else if order.purpose == Purpose::Present {
                        Publish::Presence
                    } else {
                        let sequence = self.publications.get(order.publication).map_or(0, |p| p.sequence);
                        let publisher = self.accounts.number(order.user);
                        let marker = Marker { run: namespace.run, publisher, sequence };
                        Publish::Document { marker }
                    };
                    documents::write_publish(what, uri, &endpoint.epid, &endpoint.versions, body);
                }
                (Shape::Service, call, user.publish_cseq)
            }
            Purpose::Subscribe | Purpose::SubscribeRefresh | Purpose::Unsubscribe => {
                let generation = self.dialogs.generation(order.dialog) as u16 & 0x7fff;
                let first = order.purpose == Purpose::Subscribe;
                let watches = user.watches;
                let dialog = &mut self.dialogs[order.dialog];
                dialog.local_cseq += 1;
                let (flags, publisher, cseq) = (dialog.flags, dialog.publisher, dialog.local_cseq);
                let shape = if flags & has::SELF != 0 { Shape::Own } else { Shape::Presence };
                if publisher != order.user {
                    // The publisher itself was to be asked (`resubscribe`).
                    self.accounts.write_uri(publisher, peer);
                }
                // [UNV] What a server makes of a refresh without a body: RFC 6665 §4.1.2.2 has it handled as
                // the first SUBSCRIBE, and the known client says each time all that it is about.
                if !ends && shape == Shape::Own {
                    media_type = documents::ROAMING_TYPE;
                    body.extend_from_slice(documents::ROAMING_LIST);
                } else if !ends {
                    media_type = documents::BATCH_TYPE;
                    documents::begin_batch(uri, cseq, body);
                    if publisher != order.user {
                        documents::add_to_batch(peer, body);
                    }
                    let mut at = watches;
                    let mut room = MAX_REFRESHED;
                    while let Some(rider) = self.dialogs.get(at).filter(|_| flags & has::CARRIER != 0) {
                        at = rider.next_watch;
                        let is_meant = if first {
                            rider.has(has::ASKED)
                        } else {
                            rider.has(has::RIDES) && !rider.has(has::QUEUED)
                        };
                        if is_meant && room > 0 {
                            room -= 1;
                            peer.clear();
                            self.accounts.write_uri(rider.publisher, peer);
                            documents::add_to_batch(peer, body);
                        }
                    }
                    documents::end_batch(body);
                }
                let dialog = &self.dialogs[order.dialog];
                if publisher != order.user {
                    to = peer;
                    request_uri = peer;
                }
                if let Some(target) = &dialog.target {
                    request_uri = target.target.request_uri();
                    lines.extend_from_slice(target.target.route_lines());
                    to_tag = self.texts.get(&dialog.remote_tag);
                }
                (shape, CallRef { kind: CallKind::Dialog, slot: order.dialog, generation }, cseq)
            }
        };
        if !media_type.is_empty() {
            lines.extend_from_slice(b"Content-Type: ");
            lines.extend_from_slice(media_type);
            lines.extend_from_slice(b"\r\n");
        }
        if order.tried & tried::ELSEWHERE != 0 {
            request_uri = elsewhere;
        }
        namespace.write_call_id(call_id, call);
        let registration = CallRef { kind: CallKind::Registration, slot: order.user, generation: 0 };
        let fields = Fields {
            request_uri,
            from: uri,
            from_tag: namespace.tag(call),
            epid: &endpoint.epid,
            to,
            to_tag,
            call_id,
            cseq,
            local,
            contact: &endpoint.gruu,
            opaque: namespace.tag(registration),
            lines,
            body,
        };
        let lines_at = lync.messages.render(shape, &namespace, branch, &fields, out);
        let head = memmem::find(&out[lines_at..], b"\r\n\r\n").map_or(out.len(), |end| lines_at + end + 4);
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
            expires: ends.then_some(0),
            body: &out[head..],
        };
        protection.clear();
        self.protection.write(&mut user.auth, &*self.accounts, order.user, &outgoing, protection);
        super::render::insert(out, lines_at, protection);
        cseq
    }
}
