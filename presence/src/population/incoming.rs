//! What arrives: responses find their transaction by branch, NOTIFYs their
//! dialog by Call-ID, and everything is answered before it is thought about.

use adsum_sip::ids::{self, CallKind, CallRef, LIMIT_30, mix};
use adsum_sip::protection::{Incoming, Outgoing, Protection as _, Reading};
use adsum_sip::time::Time;
use adsum_sip::{HeaderId, Message, Start, value};

use super::Population;
use super::lync_state::own;
use crate::host::{Counter, Flow, Host, Method, Origin};
use crate::slab::Slot;

impl Population {
    /// One message of one flow. `stamp` is when it was received, at most `now`.
    pub fn on_message(
        &mut self,
        now: Time,
        stamp: Time,
        flow: Flow,
        origin: Origin,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        match message.start() {
            Start::Response { code, .. } => {
                let Some((cseq, method)) = message.cseq() else {
                    return host.count(self.stage, Counter::Malformed, now, 1);
                };
                let method = Method::of(method);
                let Some(branch) = message.branch().and_then(|b| self.config.namespace.read_branch(b)) else {
                    host.message_received(method, code, false);
                    return host.count(self.stage, Counter::Unmatched, now, 1);
                };
                let live = self.transactions.generation(branch.slot) & (LIMIT_30 - 1) == branch.generation
                    && self.transactions.get(branch.slot).is_some_and(|t| t.cseq == cseq);
                if live {
                    self.response(now, stamp, branch.slot, message, host);
                } else {
                    // Ours, of a transaction that has ended: the answer came twice.
                    host.message_received(method, code, true);
                }
            }
            Start::Request { method, .. } => {
                let method = Method::of(method);
                match (method, message.method()) {
                    (Method::Notify, _) => self.notify(now, stamp, flow, origin, message, host),
                    (Method::Benotify, _) if self.is_lync() => {
                        self.benotify(now, stamp, flow, message, host);
                    }
                    (_, b"ACK") => host.message_received(Method::Other, 0, false),
                    (_, b"OPTIONS") => {
                        host.message_received(Method::Other, 0, false);
                        self.reply(flow, origin, message, 200, b"", self.user_on(flow), host);
                    }
                    _ => {
                        host.message_received(method, 0, false);
                        let allow: &[u8] = if self.is_lync() {
                            b"Allow: NOTIFY, BENOTIFY, OPTIONS\r\n"
                        } else {
                            b"Allow: NOTIFY, OPTIONS\r\n"
                        };
                        self.reply(flow, origin, message, 405, allow, self.user_on(flow), host);
                    }
                }
            }
        }
    }

    fn notify(
        &mut self,
        now: Time,
        stamp: Time,
        flow: Flow,
        origin: Origin,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        // Transactions come before dialogs (RFC 3261 §12.2.2): what was answered once is answered
        // the same again, even if newer NOTIFYs came since or the dialog has ended.
        let branch = hash(self.config.namespace.key, message.branch().unwrap_or(b""));
        let transaction = self.notify_transaction(branch, message);
        let found = self.dialog_of(message);
        let owner = found.map(|(slot, _)| self.dialogs[slot].owner);
        if let Some(status) = self.answers.find(transaction) {
            host.message_received(Method::Notify, 0, true);
            return self.reply(flow, origin, message, status, extra_of(status, self.is_lync()), owner, host);
        }
        if let Some(owner) = owner
            && !self.is_genuine(now, owner, message, host)
        {
            return host.message_received(Method::Notify, 0, false);
        }
        let Some((slot, cseq)) = found else {
            host.message_received(Method::Notify, 0, false);
            if self.is_lync() && self.registration_notify(now, flow, origin, message, host) {
                return self.answers.keep(transaction, 200);
            }
            let was_ours = self.was_ours(message);
            // In `lync` a subscription ends with the answer, and its last word may come behind it.
            let status = if was_ours && self.is_lync() && is_last(message) { 200 } else { 481 };
            if status == 481 {
                host.count(self.stage, Counter::Unmatched, now, 1);
            }
            if was_ours {
                self.answers.keep(transaction, status);
            }
            return self.reply(flow, origin, message, status, b"", self.user_on(flow), host);
        };
        let dialog = &mut self.dialogs[slot];
        let from_tag = message.from_tag().unwrap_or(b"");
        if dialog.has(super::state::has::NOTIFY) {
            if self.texts.get(&dialog.remote_tag) != from_tag {
                // Another fork (RFC 3856 §6.9): presence takes the first only.
                host.message_received(Method::Notify, 0, false);
                host.count(self.stage, Counter::Unmatched, now, 1);
                self.answers.keep(transaction, 481);
                return self.reply(flow, origin, message, 481, b"", owner, host);
            }
            if cseq == dialog.remote_cseq {
                let (status, same) = (dialog.remote_status, dialog.remote_branch == branch as u32);
                host.message_received(Method::Notify, 0, true);
                if !same {
                    host.count(self.stage, Counter::Duplicate, now, 1);
                }
                self.answers.keep(transaction, status);
                return self.reply(
                    flow,
                    origin,
                    message,
                    status,
                    extra_of(status, self.is_lync()),
                    owner,
                    host,
                );
            }
            if cseq < dialog.remote_cseq {
                host.message_received(Method::Notify, 0, false);
                host.count(self.stage, Counter::ReorderedCseq, now, 1);
                self.answers.keep(transaction, 500);
                return self.reply(flow, origin, message, 500, b"", owner, host);
            }
        }
        host.message_received(Method::Notify, 0, false);
        let status = if self.is_expected(slot, message) { 200 } else { 489 };
        let dialog = &mut self.dialogs[slot];
        dialog.remote_cseq = cseq;
        dialog.remote_branch = branch as u32;
        dialog.remote_status = status;
        self.answers.keep(transaction, status);
        if status != 200 {
            return self.reply(flow, origin, message, status, extra_of(status, self.is_lync()), owner, host);
        }
        self.texts.set(&mut dialog.remote_tag, from_tag);
        self.reply(flow, origin, message, 200, b"", owner, host);
        self.refresh_target(slot, flow, message, host);
        self.notified(now, stamp, slot, message, host);
    }

    /// The dialog that a NOTIFY names by Call-ID and our tag, and its CSeq.
    pub(super) fn dialog_of(&self, message: &Message<'_>) -> Option<(Slot, u32)> {
        let call = self.config.namespace.read_call_id(message.call_id())?;
        if call.kind != CallKind::Dialog || self.dialogs.get(call.slot).is_none() {
            return None;
        }
        let generation = self.dialogs.generation(call.slot) as u16 & 0x7fff;
        if call.generation != generation || message.to_tag()? != self.tag_of(call) {
            return None;
        }
        Some((call.slot, message.cseq()?.0))
    }

    /// True if it names a dialog of ours, of whatever generation, and knows our tag.
    pub(super) fn was_ours(&self, message: &Message<'_>) -> bool {
        let call = self.config.namespace.read_call_id(message.call_id());
        call.is_some_and(|call| {
            call.kind == CallKind::Dialog && message.to_tag() == Some(&self.tag_of(call)[..])
        })
    }

    /// What a NOTIFY shares with its retransmissions only.
    fn notify_transaction(&self, branch: u64, message: &Message<'_>) -> u64 {
        let cseq = message.cseq().map_or(0, |(number, _)| u64::from(number));
        hash(branch ^ cseq, message.call_id())
    }

    fn tag_of(&self, call: CallRef) -> [u8; adsum_sip::ids::TAG_LEN] {
        self.config.namespace.tag(call)
    }

    /// Checks who sent a notification. `false` if it is to be treated as if it had never come.
    pub(super) fn is_genuine(
        &mut self,
        now: Time,
        user: u32,
        message: &Message<'_>,
        host: &mut impl Host,
    ) -> bool {
        let incoming = Incoming { message, request: b"" };
        let auth = &mut self.users[user as usize].auth;
        let reading = self.protection.read(auth, &*self.accounts, user, &incoming);
        if reading == Reading::Refused {
            host.count(self.stage, Counter::AuthMismatch, now, 1);
        }
        let dropped = self.is_dropped(reading);
        if let Some(endpoint) = self.endpoint_mut(user).filter(|_| dropped) {
            endpoint.set(own::MISSIGNED, true);
        }
        !dropped
    }

    /// What the server says of a registration of ours: `false` if it says no such thing.
    fn registration_notify(
        &mut self,
        now: Time,
        flow: Flow,
        origin: Origin,
        message: &Message<'_>,
        host: &mut impl Host,
    ) -> bool {
        let event = message.header(HeaderId::Event).unwrap_or(b"");
        let package = value::trim(event.split(|b| *b == b';').next().unwrap_or(b""));
        if !package.eq_ignore_ascii_case(b"registration-notify") {
            return false;
        }
        let Some(user) = self.registrant(flow, message) else { return false };
        if self.is_genuine(now, user, message, host) {
            self.reply(flow, origin, message, 200, b"", Some(user), host);
            self.registration_event(now, user, message, host);
        }
        true
    }

    /// The user whose messages a flow carries, if it is known to be one (`lync`).
    fn user_on(&self, flow: Flow) -> Option<u32> {
        let one = self.users.get(flow as usize).filter(|user| self.is_lync() && user.flow == flow);
        one.map(|_| flow)
    }

    /// Answers a request with what RFC 3261 §8.2.6.2 copies from it, protected if it is known whose
    /// answer it is.
    #[allow(clippy::too_many_arguments, reason = "each is of another kind, and one line calls it")]
    fn reply(
        &mut self,
        flow: Flow,
        origin: Origin,
        message: &Message<'_>,
        code: u16,
        extra: &[u8],
        user: Option<u32>,
        host: &mut impl Host,
    ) {
        let out = &mut self.scratch.reply;
        let lines = &mut self.scratch.protection;
        out.clear();
        lines.clear();
        let key = self.config.namespace.key;
        write_reply(out, message, code, extra, origin, key);
        if let Some(user) = user.filter(|_| self.protection.signs_answers()) {
            let address = |id| message.header(id).and_then(value::name_addr).map_or(&b""[..], |a| a.uri);
            let made = tag_for(key, message.call_id());
            let (cseq, method) = message.cseq().unwrap_or((0, message.method()));
            let outgoing = Outgoing {
                code,
                method,
                uri: b"",
                call_id: message.call_id(),
                cseq,
                from_uri: address(HeaderId::From),
                from_tag: message.from_tag().unwrap_or(b""),
                to_uri: address(HeaderId::To),
                to_tag: message.to_tag().unwrap_or(&made),
                expires: None,
                body: b"",
            };
            let auth = &mut self.users[user as usize].auth;
            self.protection.write(auth, &*self.accounts, user, &outgoing, lines);
            // Before the one line that ends every answer of ours.
            super::render::insert(out, out.len() - END.len(), lines);
        }
        let sent = host.reply(flow, origin, out);
        host.message_sent(Method::of(message.method()), code, false);
        if let Some(user) = user {
            self.wrote(user, sent.at());
        }
    }
}

/// True for a notification after which there is none.
pub(super) fn is_last(message: &Message<'_>) -> bool {
    let state = message.header(HeaderId::SubscriptionState).map(value::subscription_state);
    state.is_some_and(|state| state.state.eq_ignore_ascii_case(b"terminated"))
}

/// Writes a response without a body.
fn write_reply(out: &mut Vec<u8>, message: &Message<'_>, code: u16, extra: &[u8], origin: Origin, key: u64) {
    out.extend_from_slice(match code {
        200 => b"SIP/2.0 200 OK\r\n" as &[u8],
        405 => b"SIP/2.0 405 Method Not Allowed\r\n",
        481 => b"SIP/2.0 481 Subscription Does Not Exist\r\n",
        489 => b"SIP/2.0 489 Bad Event\r\n",
        _ => b"SIP/2.0 500 Server Internal Error\r\n",
    });
    for (at, via) in message.headers(HeaderId::Via).enumerate() {
        out.extend_from_slice(b"Via: ");
        if at == 0 {
            write_top_via(out, via, origin);
        } else {
            out.extend_from_slice(via);
        }
        out.extend_from_slice(b"\r\n");
    }
    let mut copy = |name: &[u8], id: HeaderId| {
        out.extend_from_slice(name);
        out.extend_from_slice(message.header(id).unwrap_or(b""));
        out.extend_from_slice(b"\r\n");
    };
    copy(b"From: ", HeaderId::From);
    copy(b"To: ", HeaderId::To);
    if message.to_tag().is_none() {
        // RFC 3261 §8.2.6.2: every answer has a tag, and the same request the same one.
        out.truncate(out.len() - 2);
        out.extend_from_slice(b";tag=");
        out.extend_from_slice(&tag_for(key, message.call_id()));
        out.extend_from_slice(b"\r\n");
    }
    let mut copy = |name: &[u8], id: HeaderId| {
        out.extend_from_slice(name);
        out.extend_from_slice(message.header(id).unwrap_or(b""));
        out.extend_from_slice(b"\r\n");
    };
    copy(b"Call-ID: ", HeaderId::CallId);
    copy(b"CSeq: ", HeaderId::CSeq);
    out.extend_from_slice(extra);
    out.extend_from_slice(END);
}

/// The end of every answer: none has a body.
const END: &[u8] = b"Content-Length: 0\r\n\r\n";

/// Our tag in an answer outside of any dialog; the same request gets the same one.
fn tag_for(key: u64, call_id: &[u8]) -> [u8; ids::TAG_LEN] {
    let tag = hash(key, call_id);
    std::array::from_fn(|at| ids::digit((tag >> (5 * at)) as u32))
}

/// RFC 3581 §4: who asks with `rport` is told port and address it came from.
fn write_top_via(out: &mut Vec<u8>, via: &[u8], origin: Origin) {
    // Only the first of several elements in the line is ours to complete.
    let first = memchr::memchr(b',', via).unwrap_or(via.len());
    let asked = via[..first].split(|byte| *byte == b';').scan(0, |at, part| {
        let end = *at + part.len();
        *at = end + 1;
        Some((end, part))
    });
    let asked = asked.skip(1).find(|(_, part)| part.trim_ascii().eq_ignore_ascii_case(b"rport"));
    match asked {
        Some((end, part)) => {
            use std::io::Write as _;
            let end = end - (part.len() - part.trim_ascii_end().len());
            out.extend_from_slice(&via[..end]);
            let written = write!(out, "={};received={}", origin.from.port(), origin.from.ip());
            debug_assert!(written.is_ok(), "a Vec takes everything");
            out.extend_from_slice(&via[end..]);
        }
        None => out.extend_from_slice(via),
    }
}

/// What a status has besides the headers that are copied.
fn extra_of(status: u16, is_lync: bool) -> &'static [u8] {
    match (status, is_lync) {
        (489, false) => b"Allow-Events: presence\r\n",
        (489, true) => b"Allow-Events: presence, vnd-microsoft-roaming-self, registration-notify\r\n",
        _ => b"",
    }
}

/// How NOTIFYs were answered, for those that come again after their dialog has
/// answered newer ones or has ended: the server transactions of RFC 3261
/// §17.2.2 in 8 bytes each, the response being rendered anew.
///
/// There is room for eight for each user, 64 KiB at least and 512 KiB at most,
/// and the oldest make room: at 10 000 NOTIFYs a second after six seconds, which
/// is four retransmissions by timer E. What was pushed out is answered by its
/// dialog as if it were new, and counted there as out of order or unmatched.
#[derive(Debug)]
pub(super) struct Answers {
    /// Each row is one cache line, newest first: 48 bits of the transaction and
    /// 16 of the status; 0 is nothing.
    rows: Vec<[u64; 8]>,
}

impl Answers {
    const STATUS: u64 = 0xffff;

    pub fn new(users: usize) -> Self {
        Answers { rows: vec![[0; 8]; users.next_power_of_two().clamp(1024, 8192)] }
    }

    fn row(&self, transaction: u64) -> usize {
        // The low bits, which the status replaces, choose the row.
        transaction as usize & (self.rows.len() - 1)
    }

    #[inline]
    fn find(&self, transaction: u64) -> Option<u16> {
        let entries = &self.rows[self.row(transaction)];
        let found = entries.iter().find(|entry| (**entry ^ transaction) & !Self::STATUS == 0 && **entry != 0);
        found.map(|entry| (entry & Self::STATUS) as u16)
    }

    /// To be asked for a transaction that was not found.
    #[inline]
    fn keep(&mut self, transaction: u64, status: u16) {
        let row = self.row(transaction);
        let entries = &mut self.rows[row];
        entries.rotate_right(1);
        entries[0] = (transaction & !Self::STATUS) | u64::from(status);
    }
}

/// Eight bytes at a time under a key that strangers do not know.
fn hash(key: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(mix(key ^ bytes.len() as u64), |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_a_tag_and_say_where_the_request_came_from() {
        let raw = b"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h ; RPORT ;branch=z9hG4bKx, SIP/2.0/UDP i;rport\r\n\
            Via: SIP/2.0/UDP j;rport\r\nFrom: <sip:c@d>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n\r\n";
        let mut scanner = adsum_sip::Scanner::new();
        let message = scanner.scan(raw).unwrap();
        let origin = Origin { from: "192.0.2.1:5070".parse().unwrap(), foreign: false };
        let mut out = Vec::new();
        write_reply(&mut out, &message, 200, b"", origin, 7);
        let mut again = Vec::new();
        write_reply(&mut again, &message, 200, b"", origin, 7);
        assert_eq!(out, again);
        let mut scanner = adsum_sip::Scanner::new();
        let answer = scanner.scan(&out).unwrap();
        assert_eq!(answer.to_tag().map(<[u8]>::len), Some(8));
        let text = String::from_utf8(out.clone()).unwrap();
        assert!(
            text.contains("h ; RPORT=5070;received=192.0.2.1 ;branch=z9hG4bKx, SIP/2.0/UDP i;rport\r\n"),
            "{text}"
        );
        assert!(text.contains("Via: SIP/2.0/UDP j;rport\r\n"), "{text}");
    }

    #[test]
    fn answers_are_found_until_eight_newer_ones_push_them_out() {
        let mut answers = Answers::new(1);
        let rows = answers.rows.len() as u64;
        // All of one row: the low bits choose it, the status replaces them.
        let transaction = |n: u64| mix(n) & !Answers::STATUS | (n * rows) & Answers::STATUS | 5;
        assert_eq!(answers.find(transaction(0)), None);
        for n in 0..8 {
            answers.keep(transaction(n), 200 + n as u16);
        }
        assert!((0..8).all(|n| answers.find(transaction(n)) == Some(200 + n as u16)));
        answers.keep(transaction(8), 489);
        assert_eq!((answers.find(transaction(0)), answers.find(transaction(8))), (None, Some(489)));
        assert_eq!(answers.find(0), None);
    }
}
