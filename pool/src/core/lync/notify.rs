//! BENOTIFY and NOTIFY ([MS-SIP] §3.5): what subscribers are told, and what
//! their answers to a NOTIFY say.

use adsum_presence::wheel::TimerId;
use adsum_sip::protection::Outgoing;
use adsum_sip::time::{SECOND, TIMEOUT, Time};
use adsum_sip::{Message, value};

use super::super::counts::{BENOTIFY, NOTIFY};
use super::super::ids::write_number;
use super::dialog::{Dialog, Package, Piece};
use super::register::Piece as Of;
use super::{Lync, Out, Peer};

/// Media types of what is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// One document of categories.
    Categories,
    /// A list and its documents.
    Multipart,
    /// Own presence.
    RoamingSelf,
    /// Own contacts.
    RoamingContacts,
    /// Settings.
    Provisioning,
    /// Nothing.
    Empty,
}

/// Between the parts of a multipart body: no document that a client of ours
/// publishes has a line like this.
pub(super) const BOUNDARY: &[u8] = b"adsum-part-5b1f0c77";

impl Content {
    /// The value of Content-Type; empty if there is no body.
    pub(super) fn media_type(self) -> &'static [u8] {
        match self {
            Content::Categories => b"application/msrtc-event-categories+xml",
            Content::Multipart => {
                b"multipart/related;type=\"application/rlmi+xml\";start=\"resourceList\";boundary=\"adsum-part-5b1f0c77\""
            }
            Content::RoamingSelf => b"application/vnd-microsoft-roaming-self+xml",
            Content::RoamingContacts => b"application/vnd-microsoft-roaming-contacts+xml",
            Content::Provisioning => b"application/vnd-microsoft-roaming-provisioning-v2+xml",
            Content::Empty => b"",
        }
    }
}

/// The prefix of our branches; behind it stand slot and generation of the dialog, and CSeq.
const BRANCH: &[u8] = b"z9hG4bKlync";

fn write_branch(slot: u32, generation: u32, cseq: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(BRANCH);
    adsum_sip::ids::write(out, slot, 6);
    adsum_sip::ids::write(out, generation & 0x3fff_ffff, 6);
    adsum_sip::ids::write(out, cseq & 0x3fff_ffff, 6);
}

fn read_branch(branch: &[u8]) -> Option<(u32, u32, u32)> {
    let digits = branch.strip_prefix(BRANCH).filter(|digits| digits.len() == 18)?;
    let read = |at: usize| adsum_sip::ids::read(&digits[at..at + 6]);
    Some((read(0)?, read(6)?, read(12)?))
}

/// A head that is being written, with what of it is signed.
struct Head<'a> {
    is_benotify: bool,
    target: &'a [u8],
    via: (&'a [u8], usize),
    branch: (u32, u32, u32),
    from: &'a [u8],
    from_tag: &'a [u8],
    to: &'a [u8],
    call_id: &'a [u8],
    cseq: u32,
}

impl Head<'_> {
    fn method(&self) -> &'static [u8] {
        if self.is_benotify { b"BENOTIFY" } else { b"NOTIFY" }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let transport = [&b"UDP "[..], b"TCP ", b"TLS "][self.via.1];
        for part in [self.method(), b" ", self.target, b" SIP/2.0\r\nVia: SIP/2.0/", transport, self.via.0] {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(b";branch=");
        write_branch(self.branch.0, self.branch.1, self.branch.2, out);
        out.extend_from_slice(b";branched=FALSE\r\nMax-Forwards: 70\r\nFrom: ");
        for part in [self.from, b";tag=", self.from_tag, b"\r\nTo: ", self.to, b"\r\nCall-ID: ", self.call_id]
        {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(b"\r\nCSeq: ");
        write_number(u64::from(self.cseq), out);
        out.push(b' ');
        out.extend_from_slice(self.method());
        out.extend_from_slice(b"\r\n");
    }

    fn outgoing(&self) -> Outgoing<'_> {
        let uri = |value| value::name_addr(value).map_or(&b""[..], |a| a.uri);
        Outgoing {
            method: self.method(),
            uri: self.target,
            call_id: self.call_id,
            cseq: self.cseq,
            from_uri: uri(self.from),
            from_tag: self.from_tag,
            to_uri: uri(self.to),
            to_tag: value::tag(self.to).unwrap_or(b""),
            ..Outgoing::default()
        }
    }
}

impl Lync {
    /// Tells a dialog what stands in `body`, not before `at`; the last time if
    /// not `active`. It goes down the connection of the endpoint, or nowhere.
    pub(super) fn notify(
        &mut self,
        now: Time,
        at: Time,
        slot: u32,
        content: Content,
        active: bool,
        out: &mut Vec<Out>,
    ) {
        // RFC 6665 §4.2.2: a subscriber that does not answer within 64·T1 is gone.
        let unanswered = self.dialogs.get(slot).is_some_and(|d| now.since(d.unanswered) > TIMEOUT);
        if unanswered {
            self.stats.lost_subscriptions += 1;
            return self.remove_dialog(slot);
        }
        let mut bytes = self.buffer();
        let mut tag = Vec::with_capacity(16);
        let generation = self.dialogs.generation(slot);
        self.dialog_tags.write(slot, generation, &mut tag);
        let Some(dialog) = self.dialogs.get_mut(slot) else { return };
        let Some(endpoint) = self.endpoints.get(dialog.endpoint) else { return };
        let at = at.max(dialog.last_notify);
        dialog.last_notify = at;
        dialog.cseq += 1;
        let is_benotify = dialog.is_benotify && !self.config.lync.notify_instead;
        if !is_benotify && dialog.unanswered == Time::NEVER {
            dialog.unanswered = now;
        }
        let dialog: &Dialog = dialog;
        let (peer, transport) = (endpoint.peer, endpoint.peer.transport());
        let head = Head {
            is_benotify,
            target: endpoint.piece(Of::Target),
            via: (&self.ends[transport], transport),
            branch: (slot, generation, dialog.cseq),
            from: dialog.piece(Piece::Local),
            from_tag: &tag,
            to: dialog.piece(Piece::Remote),
            call_id: dialog.piece(Piece::CallId),
            cseq: dialog.cseq,
        };
        head.write(&mut bytes);
        if let Some(association) = endpoint.association {
            self.gate.sign(association, None, &head.outgoing(), &mut bytes, &mut self.stats);
        }
        if dialog.package == Package::Presence {
            bytes.extend_from_slice(b"Require: eventlist\r\n");
        }
        for part in [b"Contact: <sip:", &self.ends[transport][..], b";transport="] {
            bytes.extend_from_slice(part);
        }
        bytes.extend_from_slice(if transport == 2 { b"tls" } else { b"tcp" });
        for part in [b">\r\nEvent: ", dialog.package.name(), b"\r\nsubscription-state: "] {
            bytes.extend_from_slice(part);
        }
        if active {
            bytes.extend_from_slice(b"active;expires=");
            write_number(dialog.expires.since(now).div_ceil(SECOND), &mut bytes);
        } else {
            bytes.extend_from_slice(b"terminated;expires=0");
        }
        bytes.extend_from_slice(b"\r\n");
        finish(content, &self.body, &mut bytes);
        self.sent.count(if is_benotify { BENOTIFY } else { NOTIFY }, 0);
        out.push(Out { peer, bytes, at, notify: true });
    }

    /// The end of a registration that the client did not ask for
    /// ([MS-SIPREGE] §4.1.3), in the dialog that its REGISTER began. Only a user who was
    /// `rejected` is said to be disabled; what a server says to others is not documented.
    pub(super) fn notify_deregistered(&mut self, now: Time, slot: u32, event: &[u8], out: &mut Vec<Out>) {
        let mut bytes = self.buffer();
        let mut tag = Vec::with_capacity(16);
        let generation = self.endpoints.generation(slot);
        self.endpoint_tags.write(slot, generation, &mut tag);
        let Some(endpoint) = self.endpoints.get(slot) else { return };
        let transport = endpoint.peer.transport();
        let head = Head {
            is_benotify: false,
            target: endpoint.piece(Of::Target),
            via: (&self.ends[transport], transport),
            // A slot that no dialog has: nothing follows from its answer.
            branch: ((1 << 30) - 1, generation, 1),
            from: endpoint.piece(Of::To),
            from_tag: &tag,
            to: endpoint.piece(Of::From),
            call_id: endpoint.piece(Of::CallId),
            cseq: 1,
        };
        head.write(&mut bytes);
        if let Some(association) = endpoint.association {
            self.gate.sign(association, None, &head.outgoing(), &mut bytes, &mut self.stats);
        }
        if event == b"rejected" {
            bytes.extend_from_slice(b"ms-diagnostics-public: 4141;reason=\"User disabled\"\r\n");
        }
        bytes.extend_from_slice(
            b"Event: registration-notify\r\n\
              subscription-state: terminated;expires=0\r\nContent-Type: text/registration-event\r\nContent-Length: ",
        );
        write_number(b"deregistered;event=".len() as u64 + event.len() as u64, &mut bytes);
        bytes.extend_from_slice(b"\r\n\r\nderegistered;event=");
        bytes.extend_from_slice(event);
        self.sent.count(NOTIFY, 0);
        out.push(Out { peer: endpoint.peer, bytes, at: now, notify: true });
    }

    /// True for the answer to something that this dialect sent.
    pub(in super::super) fn sent_what_is_answered(message: &Message<'_>) -> bool {
        message.branch().and_then(read_branch).is_some()
    }

    /// An answer to a NOTIFY of ours; anything else is not looked at.
    pub(in super::super) fn response(&mut self, now: Time, peer: Peer, code: u16, message: &Message<'_>) {
        let Some((slot, generation, _)) = message.branch().and_then(read_branch) else { return };
        if code < 200 || message.method() != b"NOTIFY" {
            return;
        }
        let same = self.dialogs.generation(slot) & 0x3fff_ffff == generation;
        let Some(dialog) = self.dialogs.get_mut(slot).filter(|_| same) else { return };
        let signed = self.endpoints.get(dialog.endpoint).and_then(|e| e.association);
        // Whoever has keys signs answers, too; others may not end a subscription.
        if let Some(association) = signed
            && !self.gate.is_proven(now, association, peer, message)
        {
            self.stats.bad_signatures += 1;
            return;
        }
        dialog.unanswered = Time::NEVER;
        // RFC 6665 §4.2.2: these end the subscription; others say nothing about it.
        if matches!(code, 404 | 405 | 410 | 416 | 480..=485 | 489 | 501 | 604) {
            self.stats.lost_subscriptions += 1;
            self.remove_dialog(slot);
        }
    }

    /// With `hold_notify`: what comes about this watch until `at` goes out together.
    pub(super) fn hold(&mut self, at: Time, slot: u32, touched: u32) {
        let generation = self.watches.generation(slot);
        let Some(watch) = self.watches.get_mut(slot) else { return };
        if watch.held == 0 {
            self.timers.hold(at, slot, generation);
        }
        watch.held |= touched;
    }

    /// The time of a merged notification has come.
    pub(super) fn merge(&mut self, now: Time, slot: u32, generation: u32, out: &mut Vec<Out>) {
        if self.watches.generation(slot) != generation {
            return;
        }
        let Some(watch) = self.watches.get_mut(slot) else { return };
        let held = std::mem::take(&mut watch.held);
        let (publisher, dialog) = (watch.publisher, watch.dialog);
        let container = self.container_of(publisher, dialog);
        self.body.clear();
        self.write_categories(publisher, container, held);
        self.notify(now, now, dialog, Content::Categories, true, out);
    }

    pub(super) fn dialog_expired(&mut self, now: Time, slot: u32, out: &mut Vec<Out>) {
        let Some(dialog) = self.dialogs.get_mut(slot) else { return };
        dialog.timer = TimerId::NONE;
        if dialog.expires > now {
            return self.arm_dialog(slot);
        }
        self.body.clear();
        self.notify(now, now, slot, Content::Empty, false, out);
        self.remove_dialog(slot);
    }
}

/// The end of a head, and the body.
pub(super) fn finish(content: Content, body: &[u8], out: &mut Vec<u8>) {
    if content != Content::Empty {
        for part in [b"Content-Type: ", content.media_type(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"Content-Length: ");
    write_number(if content == Content::Empty { 0 } else { body.len() as u64 }, out);
    out.extend_from_slice(b"\r\n\r\n");
    if content != Content::Empty {
        out.extend_from_slice(body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_name_their_dialog() {
        let mut out = Vec::new();
        write_branch(7, 0xffff_ffff, 9, &mut out);
        assert_eq!(read_branch(&out), Some((7, 0x3fff_ffff, 9)));
        for foreign in [&b"z9hG4bKlync"[..], b"z9hG4bKpool000000000000000000", b""] {
            assert_eq!(read_branch(foreign), None);
        }
    }
}
