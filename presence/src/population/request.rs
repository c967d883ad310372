//! Requests: rendering, sending, sending again, challenges, and their one end.

use adsum_sip::client::{ClientTransaction, Method as Invite, OnResponse, OnTimer};
use adsum_sip::ids::{BranchRef, LIMIT_30};
use adsum_sip::protection::{Attempts, Incoming, Protection as _, Reading, Scheme, Verdict};
use adsum_sip::time::Time;
use adsum_sip::{HeaderId, Message, value};

use smallvec::SmallVec;

use super::redirect::MAX_REDIRECTS;
use super::state::{Purpose, Transaction, is, tried};
use super::{Kind, Population};
use crate::host::{Class, Counter, Failure, Hop, Host, Method, Sent, Stage};
use crate::slab::{NONE, Slot};
use crate::wheel::TimerId;

/// More challenges than these for one activity are a server that will not have us.
pub(super) const MAX_CHALLENGES: u8 = 4;

/// Buffers that are used for every message and never given back.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The request of the transaction that just ended, for transcripts.
    pub request: Vec<u8>,
    /// The Request-URI of a request that was redirected.
    pub elsewhere: Vec<u8>,
    pub uri: Vec<u8>,
    pub peer: Vec<u8>,
    pub lines: Vec<u8>,
    /// Header lines that protect the message.
    pub protection: Vec<u8>,
    pub local: Vec<u8>,
    pub call_id: Vec<u8>,
    pub reply: Vec<u8>,
    pub body: Vec<u8>,
}

/// What to ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub purpose: Purpose,
    pub user: u32,
    pub dialog: Slot,
    pub publication: Slot,
    pub expires: u32,
    pub stage: Stage,
    pub intended: Time,
    pub due: Time,
    /// First transmission of the activity, if this is not it.
    pub sent: Option<Time>,
    pub tried: u8,
    pub challenges: u8,
    pub attempts: Attempts,
    /// How many targets it was sent to before this one.
    pub moves: u8,
    pub redirects: u8,
    /// Where to, if not where the dialog or the flow leads.
    pub hop: Option<Hop>,
}

impl Order {
    pub fn new(purpose: Purpose, user: u32, expires: u32, stage: Stage, due: Time) -> Order {
        Order {
            purpose,
            user,
            dialog: NONE,
            publication: NONE,
            expires,
            stage,
            intended: due,
            due,
            sent: None,
            tried: 0,
            challenges: 0,
            attempts: Attempts::default(),
            moves: 0,
            redirects: 0,
            hop: None,
        }
    }

    pub fn again(transaction: &Transaction) -> Order {
        Order {
            purpose: transaction.purpose,
            user: transaction.user,
            dialog: transaction.dialog,
            publication: transaction.publication,
            expires: transaction.expires,
            stage: transaction.stage,
            intended: transaction.intended,
            due: transaction.due,
            sent: Some(transaction.sent),
            tried: transaction.tried,
            challenges: transaction.challenges,
            attempts: transaction.attempts,
            moves: transaction.moves,
            redirects: transaction.redirects,
            // Who was sent elsewhere is challenged from there.
            hop: (transaction.redirects > 0).then_some(transaction.hop),
        }
    }
}

/// What a request came to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome<'m, 'a> {
    /// A final response that is not handled here: 2xx, or an error.
    Answer(&'m Message<'a>),
    /// No final response within 64·T1.
    TimedOut,
    /// The flow broke, or there is none.
    Gone,
    /// Nobody listens where it was sent (ICMP).
    Refused,
    /// The registration ended under which it was sent (`lync`).
    Unregistered,
    /// The server wants credentials and will not take ours.
    Rejected(&'m Message<'a>),
    /// The server wants what we have not got.
    Unsupported(&'m Message<'a>),
    /// The next hop is not allowed.
    Blocked(std::net::SocketAddr),
}

impl Population {
    /// Writes a request and opens its transaction. `false` if it ended at once.
    pub(super) fn request(&mut self, now: Time, order: Order, host: &mut impl Host) -> bool {
        let user = &self.users[order.user as usize];
        let (flow, connected) = (user.flow, user.is(is::CONNECTED));
        let hop = order.hop.unwrap_or_else(|| {
            self.dialogs
                .get(order.dialog)
                .and_then(|d| d.target.as_ref())
                .map_or(Hop::Target, |target| target.hop)
        });
        let (slot, generation) = self.open(&order, hop);
        if let Hop::Blocked(address) = hop {
            self.close(slot);
            self.ended(now, order, Outcome::Blocked(address), host);
            return false;
        }
        if !connected {
            self.close(slot);
            self.ended(now, order, Outcome::Gone, host);
            return false;
        }
        if self.awaits_association(&order) {
            *self.slot_of(&order) = slot;
            self.park(slot, generation, order);
            return true;
        }
        let mut bytes = std::mem::take(&mut self.transactions[slot].bytes);
        let branch = BranchRef { slot, generation: generation & (LIMIT_30 - 1) };
        let cseq = self.render(&order, branch, flow, host, &mut bytes);
        let sent = host.send(order.user, flow, hop, &bytes);
        self.wrote(order.user, sent.at());
        let reliable = self.config.transport.is_reliable();
        let transaction = &mut self.transactions[slot];
        transaction.bytes = bytes;
        transaction.protected = !self.scratch.protection.is_empty();
        transaction.cseq = cseq;
        transaction.sent = order.sent.unwrap_or(sent.at());
        transaction.client = ClientTransaction::new(Invite::NonInvite, reliable, sent.at());
        transaction.timer = self.wheel.insert(transaction.client.next(), super::Timer::Transaction(slot));
        *self.slot_of(&order) = slot;
        match sent {
            Sent::At(_) | Sent::Queued(..) => host.message_sent(self.method_of(order.purpose), 0, false),
            Sent::Blocked(at) => {
                host.message_sent(self.method_of(order.purpose), 0, false);
                host.count(order.stage, Counter::WriteBlocked, at, 1);
            }
            Sent::Gone(_) => {
                let order = Order::again(&self.transactions[slot]);
                self.close(slot);
                self.ended(now, order, Outcome::Gone, host);
                return false;
            }
        }
        match sent {
            Sent::Queued(_, place) if order.sent.is_none() => self.unflushed.push((slot, generation, place)),
            _ if order.sent.is_none() => self.first_sent(&order, sent.at(), host),
            _ => {}
        }
        true
    }

    /// What was queued (see [`Sent::Queued`]) left: when, by the numbers that the host gave. The clock
    /// was read just before each.
    pub fn flushed(&mut self, times: &[Time], host: &mut impl Host) {
        let mut queued = std::mem::take(&mut self.unflushed);
        for (slot, generation, place) in queued.drain(..) {
            let Some(at) = times.get(place as usize).copied() else { continue };
            if self.transactions.generation(slot) != generation {
                continue; // it was abandoned before it left
            }
            let Some(transaction) = self.transactions.get_mut(slot) else { continue };
            transaction.sent = at;
            let order = Order { sent: None, ..Order::again(transaction) };
            self.first_sent(&order, at, host);
        }
        self.unflushed = queued;
    }

    /// A final or provisional response whose branch named a transaction.
    pub(super) fn response(
        &mut self,
        now: Time,
        stamp: Time,
        slot: Slot,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        let code = message.code();
        let method = self.method_of(self.transactions[slot].purpose);
        let transaction = &mut self.transactions[slot];
        let (stage, user) = (transaction.stage, transaction.user);
        let incoming = Incoming { message, request: transaction.protected_bytes() };
        let auth = &mut self.users[user as usize].auth;
        if self.protection.read(auth, &*self.accounts, user, &incoming) == Reading::Refused {
            host.count(stage, Counter::AuthMismatch, stamp, 1);
            if self.protection.drops_refused() {
                // As if it had never come: the transaction waits on.
                if code >= 200 {
                    transaction.tried |= tried::UNPROVEN;
                }
                return host.message_received(method, code, false);
            }
        }
        match transaction.client.on_response(stamp, code) {
            OnResponse::Provisional => {
                host.message_received(method, code, false);
                return self.rearm(slot);
            }
            OnResponse::Final | OnResponse::FinalAck => host.message_received(method, code, false),
            OnResponse::Repeated | OnResponse::Stray => return host.message_received(method, code, true),
        }
        let mut order = Order::again(transaction);
        order.tried &= !tried::UNPROVEN;
        let protected = transaction.protected;
        self.close(slot);
        self.recall_target(&order);
        match code {
            401 | 407 => self.challenged(now, stamp, order, protected, message, host),
            423 if order.tried & tried::MIN_EXPIRES == 0 => {
                let least = message.header(HeaderId::MinExpires).and_then(value::number);
                match least.filter(|least| *least > order.expires && order.expires > 0) {
                    Some(least) => {
                        order.tried |= tried::MIN_EXPIRES;
                        order.expires = least;
                        self.request(now, order, host);
                    }
                    None => self.ended(stamp, order, Outcome::Answer(message), host),
                }
            }
            301 | 302 | 305 if order.redirects < MAX_REDIRECTS => {
                self.redirected(now, stamp, order, message, host)
            }
            _ => self.ended(stamp, order, Outcome::Answer(message), host),
        }
    }

    fn challenged(
        &mut self,
        now: Time,
        stamp: Time,
        mut order: Order,
        protected: bool,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        if self.association_lost(now, stamp, order, message, host) {
            return;
        }
        let incoming = Incoming { message, request: if protected { &self.scratch.request } else { b"" } };
        if let Scheme::Ntlm(ntlm) = &mut self.protection {
            // Servers that send no time of their own check ours.
            ntlm.set_time(self.clock.0 + now.since(self.clock.1) / 100);
        }
        let auth = &mut self.users[order.user as usize].auth;
        match self.protection.challenged(auth, &*self.accounts, order.user, &incoming, &mut order.attempts) {
            Verdict::Answer if order.challenges < MAX_CHALLENGES => {
                order.challenges += 1;
                self.negotiates(now, &order);
                self.request(now, order, host);
            }
            Verdict::Answer | Verdict::Rejected => self.ended(stamp, order, Outcome::Rejected(message), host),
            Verdict::Unsupported => self.ended(stamp, order, Outcome::Unsupported(message), host),
        }
    }

    pub(super) fn transaction_timer(&mut self, now: Time, slot: Slot, host: &mut impl Host) {
        let Some(transaction) = self.transactions.get_mut(slot) else { return };
        transaction.timer = TimerId::NONE;
        let purpose = transaction.purpose;
        match transaction.client.on_timer(now) {
            OnTimer::Wait => self.rearm(slot),
            OnTimer::Retransmit => {
                let flow = self.users[transaction.user as usize].flow;
                if let Sent::Blocked(at) =
                    host.send(transaction.user, flow, transaction.hop, &transaction.bytes)
                {
                    host.count(transaction.stage, Counter::WriteBlocked, at, 1);
                }
                host.message_sent(self.method_of(purpose), 0, true);
                self.rearm(slot);
            }
            OnTimer::TimedOut => {
                let order = Order::again(transaction);
                self.close(slot);
                self.ended(now, order, Outcome::TimedOut, host);
            }
            OnTimer::Terminated => self.close(slot),
        }
    }

    /// The flow of a user broke, or its registration ended: its requests will not be answered.
    pub(super) fn abandon(&mut self, now: Time, user: u32, outcome: Outcome<'_, '_>, host: &mut impl Host) {
        let held = &self.users[user as usize];
        let mut slots: SmallVec<[Slot; 8]> = SmallVec::from_slice(&[held.register_tx, held.publish_tx]);
        slots.extend(self.dialogs.get(held.self_dialog).map(|d| d.tx));
        let mut at = held.watches;
        while let Some(dialog) = self.dialogs.get(at) {
            slots.push(dialog.tx);
            at = dialog.next_watch;
        }
        slots.extend(self.dialogs.get(self.carrier_of(user)).map(|d| d.tx));
        for slot in slots {
            self.abandon_one(now, slot, outcome, host);
        }
    }

    /// One request will not be answered, if there is one.
    pub(super) fn abandon_one(
        &mut self,
        now: Time,
        slot: Slot,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        if let Some(transaction) = self.transactions.get(slot) {
            let order = Order::again(transaction);
            self.close(slot);
            self.ended(now, order, outcome, host);
        }
    }

    /// A PUBLISH that nobody waits for any more still has to end.
    fn abandon_publication(&mut self, now: Time, user: u32, host: &mut impl Host) {
        self.abandon_one(now, self.users[user as usize].publish_tx, Outcome::Gone, host);
    }

    /// Sends nothing and forgets: the end of a run that is cut off.
    pub(super) fn forget(&mut self, slot: Slot) {
        if self.transactions.get(slot).is_some() {
            self.close(slot);
        }
    }

    fn rearm(&mut self, slot: Slot) {
        let transaction = &mut self.transactions[slot];
        self.wheel.cancel(&mut transaction.timer);
        transaction.timer = self.wheel.insert(transaction.client.next(), super::Timer::Transaction(slot));
    }

    fn open(&mut self, order: &Order, hop: Hop) -> (Slot, u32) {
        let fresh = |bytes: Vec<u8>| Transaction {
            client: ClientTransaction::new(Invite::NonInvite, true, order.due),
            timer: TimerId::NONE,
            purpose: order.purpose,
            tried: order.tried,
            challenges: order.challenges,
            attempts: order.attempts,
            protected: false,
            moves: order.moves,
            redirects: order.redirects,
            user: order.user,
            dialog: order.dialog,
            publication: order.publication,
            hop,
            cseq: 0,
            expires: order.expires,
            stage: order.stage,
            intended: order.intended,
            due: order.due,
            sent: order.due,
            bytes,
        };
        self.transactions.take_with(
            || fresh(Vec::with_capacity(1024)),
            |old| {
                let mut bytes = std::mem::take(&mut old.bytes);
                bytes.clear(); // a request that cannot be written has no bytes, not another user's
                *old = fresh(bytes);
            },
        )
    }

    /// Ends a transaction; its request stays readable in the scratch.
    pub(super) fn close(&mut self, slot: Slot) {
        let transaction = &mut self.transactions[slot];
        self.wheel.cancel(&mut transaction.timer);
        std::mem::swap(&mut transaction.bytes, &mut self.scratch.request);
        let order = Order::again(transaction);
        self.transactions.release(slot);
        let held = self.slot_of(&order);
        if *held == slot {
            *held = NONE;
        }
    }

    /// Where the owner keeps the transaction.
    fn slot_of(&mut self, order: &Order) -> &mut Slot {
        let user = &mut self.users[order.user as usize];
        match order.purpose {
            Purpose::Register | Purpose::RegisterRefresh | Purpose::Unregister => &mut user.register_tx,
            Purpose::Publish
            | Purpose::PublishRefresh
            | Purpose::Unpublish
            | Purpose::SetMembers
            | Purpose::Present => &mut user.publish_tx,
            Purpose::Subscribe | Purpose::SubscribeRefresh | Purpose::Unsubscribe => {
                match self.dialogs.get_mut(order.dialog) {
                    Some(dialog) => &mut dialog.tx,
                    None => &mut self.nowhere,
                }
            }
        }
    }

    /// Hands the one end of a request to whoever asked for it.
    pub(super) fn ended(&mut self, at: Time, order: Order, outcome: Outcome<'_, '_>, host: &mut impl Host) {
        if let Outcome::Rejected(_) = outcome {
            self.reject(at, &order, host);
        }
        match order.purpose {
            Purpose::Register | Purpose::RegisterRefresh => self.register_ended(at, order, outcome, host),
            Purpose::Unregister => self.unregister_ended(at, order, outcome, host),
            Purpose::Subscribe | Purpose::SubscribeRefresh => self.subscribe_ended(at, order, outcome, host),
            Purpose::Unsubscribe => self.unsubscribe_ended(at, order, outcome, host),
            Purpose::Publish | Purpose::PublishRefresh => self.publish_ended(at, order, outcome, host),
            Purpose::Unpublish => self.unpublish_ended(at, order, outcome, host),
            Purpose::SetMembers => self.members_ended(at, order, outcome, host),
            Purpose::Present => self.present_ended(at, order, outcome, host),
        }
        // A held user that was set aside asks for nothing any more, not even to be let go.
        let held = &self.users[order.user as usize];
        if held.is(is::REJECTED) && !held.is(is::GONE) && !self.is_workflow() {
            self.abandon_publication(at, order.user, host);
            self.leave_at_once(at, order.user, host);
        }
    }

    /// The request that just ended went with credentials.
    pub(super) fn showed_credentials(&self) -> bool {
        let request = &self.scratch.request;
        memchr::memmem::find(request, b"\r\nAuthorization: ").is_some()
            || memchr::memmem::find(request, b"\r\nProxy-Authorization: ").is_some()
    }

    /// Sets a user aside for the whole run: no account is locked out by retries.
    fn reject(&mut self, at: Time, order: &Order, host: &mut impl Host) {
        let user = &mut self.users[order.user as usize];
        if !user.is(is::REJECTED) {
            user.set(is::REJECTED, true);
            self.rejected += 1;
            host.count(order.stage, Counter::UsersRejected, at, 1);
        }
    }

    /// Books the failure of a request.
    pub(super) fn fail(&mut self, at: Time, order: &Order, outcome: Outcome<'_, '_>, host: &mut impl Host) {
        let own = self.dialogs.get(order.dialog).is_some_and(|d| d.has(super::state::has::SELF));
        let activity = order.purpose.activity(own);
        let mut failure = Failure {
            activity,
            stage: order.stage,
            class: Class::Pool,
            code: "",
            reason: b"",
            diagnosis: b"",
            user: order.user,
            at,
            request: &self.scratch.request,
            response: b"",
        };
        let mut code = String::new();
        let reason;
        let mut diagnosis = Vec::new();
        match outcome {
            Outcome::Answer(message) => {
                code = format!("sip:{}", message.code());
                failure.reason = reason_of(message);
                failure.response = message.raw();
                crate::diagnosis::of_answer(message, activity, &mut diagnosis);
                failure.class = crate::diagnosis::class_of_answer(message);
            }
            Outcome::Rejected(message) => {
                failure.code = "auth:rejected";
                failure.class = Class::Configuration;
                reason = status_of(message);
                failure.reason = &reason;
                failure.response = message.raw();
                if let Some(known) = crate::diagnosis::known_class(message) {
                    failure.class = known;
                }
                let filetime = self.is_lync().then(|| self.clock.0 + at.since(self.clock.1) / 100);
                crate::diagnosis::of_rejected(message, filetime.filter(|_| self.clock.0 > 0), &mut diagnosis);
            }
            Outcome::Unsupported(message) => {
                failure.code = "auth:unsupported";
                failure.class = Class::Configuration;
                reason = status_of(message);
                failure.reason = &reason;
                failure.response = message.raw();
                if let Some(trouble) = self.protection.trouble() {
                    diagnosis.extend_from_slice(trouble.as_bytes());
                } else if self.is_lync() {
                    crate::lync::write_schemes(message, &mut diagnosis);
                } else {
                    crate::diagnosis::of_schemes(message, &mut diagnosis);
                }
            }
            Outcome::TimedOut if order.tried & tried::UNPROVEN != 0 => {
                failure.code = "auth:bad-signature";
                failure.class = Class::Configuration;
                failure.reason = b"the answer was not signed by the server that the user logged on to";
                diagnosis.extend_from_slice(
                    b"it counts as never received, and no other came within 32 s: which server answers there, \
                      and does something between change its messages?",
                );
            }
            Outcome::TimedOut => {
                failure.code = "timeout:transaction";
                failure.reason = b"no final answer within 32 s";
                let known = self.users[order.user as usize].is(is::REGISTERED);
                failure.class = if known { Class::Pool } else { Class::Network };
                diagnosis.extend_from_slice(if known {
                    b"the pool stopped answering this user: look at its load and its log"
                } else {
                    b"nothing answers at the target: check address, port and transport, and firewalls between"
                        as &[u8]
                });
            }
            Outcome::Gone => {
                failure.code = "transport:closed";
                failure.class = Class::Network;
                failure.reason = b"the connection ended before the answer";
                diagnosis.extend_from_slice(
                    b"the other side closed the connection: look at its log and its limits",
                );
            }
            Outcome::Unregistered => {
                failure.code = "registration:lost";
                failure.reason = b"the registration ended before the answer";
                diagnosis.extend_from_slice(
                    b"what ended it is a failure of its own, of the activity register: look there",
                );
            }
            Outcome::Refused => {
                failure.code = "transport:connect";
                failure.class = Class::Network;
                failure.reason = b"nothing listens there: the host refused the datagram (ICMP)";
                diagnosis.extend_from_slice(
                    b"check address, port and transport, and that the pool runs at each of its addresses",
                );
            }
            Outcome::Blocked(address) => {
                failure.code = "transport:blocked";
                failure.class = Class::Configuration;
                failure.reason = b"the server named an address that is not allowed; nothing was sent there";
                diagnosis = format!(
                    "to permit it, add allow = [\"{}\"] to [pool]",
                    crate::diagnosis::network_of(address)
                )
                .into_bytes();
            }
        }
        if failure.code.is_empty() {
            failure.code = &code;
        }
        failure.diagnosis = &diagnosis;
        host.failed(&failure);
    }

    /// The method that serves a purpose.
    pub(super) fn method_of(&self, purpose: Purpose) -> Method {
        match purpose {
            Purpose::Register | Purpose::RegisterRefresh | Purpose::Unregister => Method::Register,
            Purpose::Subscribe | Purpose::SubscribeRefresh | Purpose::Unsubscribe => Method::Subscribe,
            Purpose::SetMembers | Purpose::Present => Method::Service,
            Purpose::Publish | Purpose::PublishRefresh | Purpose::Unpublish if self.is_lync() => {
                Method::Service
            }
            Purpose::Publish | Purpose::PublishRefresh | Purpose::Unpublish => Method::Publish,
        }
    }

    /// True in runs of whole workflows.
    pub(super) fn is_workflow(&self) -> bool {
        self.config.kind == Kind::Workflow
    }
}

/// `401, Unauthorized`, where the failure's code does not say it.
fn status_of(message: &Message<'_>) -> Vec<u8> {
    [message.code().to_string().as_bytes(), b", ", reason_of(message)].concat()
}

fn reason_of<'a>(message: &Message<'a>) -> &'a [u8] {
    match message.start() {
        adsum_sip::Start::Response { reason, .. } => reason,
        adsum_sip::Start::Request { .. } => b"",
    }
}
