//! NOTIFY: what subscribers are told, and what becomes of it (RFC 6665 §4.2.2).

use adsum_presence::wheel::TimerId;
use adsum_sip::Message;
use adsum_sip::client::{ClientTransaction, Method, OnTimer};
use adsum_sip::time::{SECOND, Time};

use super::counts::NOTIFY;
use super::ids::{read_branch, write_branch, write_number};
use super::subscribe::Piece;
use super::{Core, Due, Out, PIDF, Peer};

/// NOTIFYs that wait for their answer: 31,000 a second that nobody answers for
/// 64·T1, at one kilobyte each. Beyond, they are sent once and counted.
const MAX_PENDING: usize = 1_000_000;

/// A NOTIFY that was not answered yet.
#[derive(Debug)]
pub(super) struct Pending {
    transaction: ClientTransaction,
    subscription: u32,
    generation: u32,
    peer: Peer,
    /// To retransmit; empty over streams.
    bytes: Vec<u8>,
    timer: TimerId,
}

impl Core {
    /// Appends a NOTIFY with the document in `body`; the last one if not `active`.
    pub(super) fn notify(&mut self, now: Time, at: Time, slot: u32, active: bool, out: &mut Vec<Out>) {
        let generation = self.subscriptions.generation(slot);
        let mut bytes = self.buffer();
        let Some(s) = self.subscriptions.get_mut(slot) else { return };
        let at = at.max(s.last_notify);
        s.last_notify = at;
        s.cseq += 1;
        let peer = s.peer;
        let (branch, branch_generation) = if self.pending.len() < MAX_PENDING {
            let transaction = ClientTransaction::new(Method::NonInvite, !peer.is_udp(), at);
            let timer = TimerId::NONE;
            let bytes = Vec::new();
            self.pending.insert(Pending { transaction, subscription: slot, generation, peer, bytes, timer })
        } else {
            self.stats.unwatched_notifies += 1;
            // Unique all the same: slots are below 2²³, generations do not come back.
            (1 << 29 | slot, s.cseq)
        };
        let s = &self.subscriptions[slot];
        let transport = peer.transport();
        let mut put = |text: &[u8]| bytes.extend_from_slice(text);
        put(b"NOTIFY ");
        put(s.piece(Piece::Target));
        put([
            &b" SIP/2.0\r\nVia: SIP/2.0/UDP "[..],
            b" SIP/2.0\r\nVia: SIP/2.0/TCP ",
            b" SIP/2.0\r\nVia: SIP/2.0/TLS ",
        ][transport]);
        put(&self.ends.sent_by[transport]);
        put(b";branch=");
        write_branch(branch, branch_generation, &mut bytes);
        let mut put = |text: &[u8]| bytes.extend_from_slice(text);
        put(b"\r\nMax-Forwards: 70\r\n");
        put(s.piece(Piece::Routes));
        put(b"From: ");
        put(s.piece(Piece::Local));
        put(b";tag=");
        self.tags.write(slot, generation, &mut bytes);
        let mut put = |text: &[u8]| bytes.extend_from_slice(text);
        put(b"\r\nTo: ");
        put(s.piece(Piece::Remote));
        put(b"\r\nCall-ID: ");
        put(s.piece(Piece::CallId));
        put(b"\r\nCSeq: ");
        write_number(u64::from(s.cseq), &mut bytes);
        let mut put = |text: &[u8]| bytes.extend_from_slice(text);
        put(b" NOTIFY\r\nContact: ");
        put(&self.ends.contact[transport]);
        put(b"\r\nEvent: presence");
        put(s.piece(Piece::EventParameters));
        if active {
            put(b"\r\nSubscription-State: active;expires=");
            write_number(s.expires.since(now).div_ceil(SECOND), &mut bytes);
        } else {
            put(b"\r\nSubscription-State: terminated;reason=timeout");
        }
        let mut put = |text: &[u8]| bytes.extend_from_slice(text);
        put(b"\r\nContent-Type: ");
        put(PIDF);
        put(b"\r\nContent-Length: ");
        write_number(self.body.len() as u64, &mut bytes);
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes.extend_from_slice(&self.body);
        self.watch(branch, &bytes);
        self.sent.count(NOTIFY, 0);
        out.push(Out { peer, bytes, at, notify: true });
    }

    /// Keeps what may have to be sent again, and sets the timer.
    fn watch(&mut self, slot: u32, sent: &[u8]) {
        let copy = self.pending.get(slot).is_some_and(|p| p.peer.is_udp()).then(|| {
            let mut copy = self.buffer();
            copy.extend_from_slice(sent);
            copy
        });
        let Some(pending) = self.pending.get_mut(slot) else { return };
        pending.bytes = copy.unwrap_or_default();
        pending.timer = self.timers.insert(pending.transaction.next(), Due::Notify(slot));
    }

    fn forget_notify(&mut self, slot: u32) {
        let Some(pending) = self.pending.get_mut(slot) else { return };
        self.timers.cancel(&mut pending.timer);
        let bytes = std::mem::take(&mut pending.bytes);
        self.pending.release(slot);
        self.recycle(bytes);
    }

    /// A response: only NOTIFYs of ours have any.
    pub(super) fn response(&mut self, now: Time, code: u16, message: &Message<'_>) {
        let Some((slot, generation)) = message.branch().and_then(read_branch) else { return };
        if self.pending.generation(slot) & 0x3fff_ffff != generation || message.method() != b"NOTIFY" {
            return;
        }
        let Some(pending) = self.pending.get_mut(slot) else { return };
        pending.transaction.on_response(now, code);
        let subscription = (pending.subscription, pending.generation);
        if code >= 200 {
            self.forget_notify(slot);
        }
        // §4.2.2: these end the subscription; others say nothing about it.
        if matches!(code, 404 | 405 | 410 | 416 | 480..=485 | 489 | 501 | 604) {
            self.lose_subscription(subscription);
        }
    }

    fn lose_subscription(&mut self, (slot, generation): (u32, u32)) {
        if self.subscriptions.get(slot).is_some() && self.subscriptions.generation(slot) == generation {
            self.stats.lost_subscriptions += 1;
            self.remove_subscription(slot);
        }
    }

    pub(super) fn notify_timer(&mut self, now: Time, slot: u32, out: &mut Vec<Out>) {
        let Some(pending) = self.pending.get_mut(slot) else { return };
        pending.timer = TimerId::NONE;
        match pending.transaction.on_timer(now) {
            OnTimer::TimedOut | OnTimer::Terminated => {
                let subscription = (pending.subscription, pending.generation);
                self.forget_notify(slot);
                return self.lose_subscription(subscription);
            }
            OnTimer::Wait => {}
            OnTimer::Retransmit => {
                let (peer, bytes) = (pending.peer, pending.bytes.clone());
                out.push(Out { peer, bytes, at: now, notify: true });
                self.sent.count(NOTIFY, 0);
            }
        }
        let Some(pending) = self.pending.get_mut(slot) else { return };
        pending.timer = self.timers.insert(pending.transaction.next(), Due::Notify(slot));
    }

    /// Merges what comes until `at` into one NOTIFY.
    pub(super) fn hold(&mut self, at: Time, slot: u32) {
        let generation = self.subscriptions.generation(slot);
        if let Some(s) = self.subscriptions.get_mut(slot).filter(|s| !s.held) {
            s.held = true;
            self.timers.hold(at, slot, generation);
        }
    }

    /// The time of a merged NOTIFY has come.
    pub(super) fn merge(&mut self, now: Time, slot: u32, generation: u32, out: &mut Vec<Out>) {
        if self.subscriptions.generation(slot) != generation {
            return;
        }
        let Some(s) = self.subscriptions.get_mut(slot) else { return };
        s.held = false;
        let watched = s.watched;
        self.compose(now, watched);
        self.notify(now, now, slot, true, out);
    }
}
