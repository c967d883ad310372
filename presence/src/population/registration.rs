//! Connecting, registering, keeping both, and losing them.

use adsum_sip::locate::Failure as Trouble;
use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message, value};

use super::repair::retry_after;
use super::request::{Order, Outcome};
use super::state::{NO_FLOW, Purpose, is};
use super::{LEAST_LIFETIME, Population, Timer, pair_of};
use crate::host::{
    Activity, Class, Counter, Failure, Flow, FlowError, FlowEvent, Host, Measure, Opened, Progress, Sample,
    Stage,
};
use crate::slab::{NONE, Slot};
use crate::wheel::TimerId;

/// What is wrong with a 2xx to REGISTER.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flaw {
    code: &'static str,
    reason: &'static [u8],
    diagnosis: &'static [u8],
}

impl Flaw {
    const NO_CONTACT: Flaw = Flaw {
        code: "protocol:contact",
        reason: b"the 200 to REGISTER does not list our Contact",
        diagnosis:
            b"a registrar has to list every binding of the address of record (RFC 3261 section 10.3); \
            something between may have rewritten the Contact",
    };
    pub(super) const NO_INSTANCE: Flaw = Flaw {
        code: "protocol:contact",
        reason: b"the 200 to REGISTER does not list our endpoint (+sip.instance)",
        diagnosis:
            b"a registrar has to list every binding of the user; something between may have rewritten the \
            Contact, or this is no Lync server: use dialect = \"simple\"",
    };
    pub(super) const NO_CATEGORIES: Flaw = Flaw {
        code: "protocol:unexpected",
        reason: b"the 200 to REGISTER lacks Supported: msrtc-event-categories",
        diagnosis:
            b"without it there is no enhanced presence: the server is older than Office Communications \
            Server 2007, or no Lync server at all: use dialect = \"simple\"",
    };
    pub(super) const NO_GRUU: Flaw = Flaw {
        code: "protocol:unexpected",
        reason: b"the 200 to REGISTER gives our endpoint no gruu",
        diagnosis: b"a Lync server gives one to whoever supports gruu-10, and all that follows is sent from it: look \
            at what answers there",
    };
    pub(super) const FORGOTTEN: Flaw = Flaw {
        code: "registration:lost",
        reason: b"the server did not know the registration that was to be refreshed (register-action)",
        diagnosis:
            b"the registrar lost it, and with it subscriptions and presence: was it restarted, or did the \
            user move to another one?",
    };
}

/// Targets that one REGISTER is sent to at most.
const MAX_MOVES: u8 = 4;

impl Population {
    /// A user connects, registers and subscribes to itself. `false` if it was
    /// set aside, or is not signed off.
    pub fn sign_on(
        &mut self,
        now: Time,
        user: u32,
        intended: Time,
        stage: Stage,
        host: &mut impl Host,
    ) -> bool {
        let held = &mut self.users[user as usize];
        if !held.is(is::GONE) || held.is(is::REJECTED) {
            return false;
        }
        held.flags &= is::REJECTED;
        held.setbacks = 0;
        self.connect(now, user, intended, stage, host);
        true
    }

    pub(super) fn connect(
        &mut self,
        now: Time,
        user: u32,
        intended: Time,
        stage: Stage,
        host: &mut impl Host,
    ) {
        let held = &mut self.users[user as usize];
        held.connect_intended = intended;
        held.connect_sent = now;
        host.progress(user, Progress::Started(Activity::Register));
        match host.open(now, user) {
            Opened::Ready(flow) => {
                held.flow = flow;
                held.set(is::CONNECTED, true);
                self.register(now, user, intended, now, stage, host);
            }
            Opened::Connecting(flow) => {
                held.flow = flow;
                held.set(is::CONNECTING, true);
                self.workflow_began(user, now, host);
            }
        }
    }

    /// Something happened to the connection of a user.
    pub fn on_flow(&mut self, now: Time, user: u32, event: FlowEvent, host: &mut impl Host) {
        let stage = self.stage_of(user);
        let held = &mut self.users[user as usize];
        match event {
            FlowEvent::Open(at) => {
                if !held.is(is::CONNECTING) {
                    return;
                }
                held.set(is::CONNECTING, false);
                held.set(is::CONNECTED, true);
                let (intended, sent) = (held.connect_intended, held.connect_sent);
                let moved = self.moving.remove(&user);
                host.sample(&Sample { measure: Measure::Connect, stage, intended, sent, ended: at });
                host.progress(user, Progress::Completed(Activity::Connect, sent, at));
                if self.users[user as usize].is(is::LEAVING) {
                    return self.leave(now, at, user, host);
                }
                match moved {
                    Some((mut order, uri)) => {
                        order.due = at;
                        self.scratch.elsewhere = uri;
                        self.request(now, order, host);
                    }
                    None => self.register(now, user, intended, at, stage, host),
                }
            }
            FlowEvent::Failed(error) | FlowEvent::Closed(error) => {
                if !held.is(is::CONNECTING | is::CONNECTED) {
                    return; // we closed it
                }
                let connecting = held.is(is::CONNECTING);
                held.set(is::CONNECTING | is::CONNECTED, false);
                self.flow_lost(now, user, connecting, &error, stage, host);
            }
        }
    }

    fn flow_lost(
        &mut self,
        now: Time,
        user: u32,
        connecting: bool,
        error: &FlowError,
        stage: Stage,
        host: &mut impl Host,
    ) {
        host.failed(&Failure {
            activity: Activity::Connect,
            stage,
            class: error.class,
            code: error.code,
            reason: error.reason.as_bytes(),
            diagnosis: error.diagnosis.as_bytes(),
            user,
            at: now,
            request: b"",
            response: b"",
        });
        self.moving.remove(&user);
        if !connecting {
            self.if_stood(self.users[user as usize].connect_sent, now, user);
        }
        self.unbind(now, user, host);
        if self.users[user as usize].is(is::LEAVING) {
            self.users[user as usize].set(is::GAVE_UP, true);
            self.leave(now, now, user, host);
        } else if self.is_workflow() {
            self.activity_failed(now, user, false, host);
        } else {
            self.come_back(now, user, None);
        }
    }

    /// What was bound to a flow is gone with it: requests, registration, subscriptions.
    pub(super) fn unbind(&mut self, now: Time, user: u32, host: &mut impl Host) {
        if self.users[user as usize].is(is::REGISTERED) {
            self.lacks(now, user);
        }
        self.abandon(now, user, Outcome::Gone, host);
        self.unregistered(user);
        self.forget_bound(user);
        self.forget_association(user);
        let leaving = self.users[user as usize].is(is::LEAVING);
        while let Some(dialog) = self.some_dialog(user) {
            if !leaving && !self.is_workflow() && self.counts_as_lost(dialog) {
                host.count(self.stage, Counter::SubscriptionLost, now, 1);
            }
            self.drop_dialog(dialog);
        }
    }

    pub(super) fn register(
        &mut self,
        now: Time,
        user: u32,
        intended: Time,
        due: Time,
        stage: Stage,
        host: &mut impl Host,
    ) {
        let mut order = Order::new(Purpose::Register, user, self.config.expires, stage, due);
        order.intended = intended;
        self.request(now, order, host);
    }

    pub(super) fn register_ended(
        &mut self,
        at: Time,
        order: Order,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        let user = order.user;
        let refresh = order.purpose.is_refresh();
        match outcome {
            Outcome::Answer(message) if message.code() < 300 => match self.granted(at, &order, message, host)
            {
                Ok(granted) => {
                    self.arm_registration(at, user, granted);
                    if !refresh {
                        self.registration_is_new(at, user, message, host);
                    }
                    self.negotiated(at, user, true, host);
                    if !refresh {
                        return self.registered_now(at, &order, host);
                    }
                    // Not while a subscription comes and goes: that has a back-off of its own to keep.
                    if !self.users[user as usize].is(is::RETURNING) {
                        self.recovered(user);
                    }
                    // A user that signs off waited for this answer.
                    self.leave(at, at, user, host);
                }
                Err(flaw) => {
                    host.failed(&Failure {
                        activity: Activity::Register,
                        stage: order.stage,
                        class: Class::Pool,
                        code: flaw.code,
                        reason: flaw.reason,
                        diagnosis: flaw.diagnosis,
                        user,
                        at,
                        request: &self.scratch.request,
                        response: message.raw(),
                    });
                    if refresh && self.is_lync() {
                        self.registration_lost(at, user, host);
                    }
                    self.negotiated(at, user, false, host);
                    self.register_failed(at, user, refresh, false, None, host);
                }
            },
            _ if self.moves_on(at, &order, &outcome, host) => {}
            _ => {
                if let (Outcome::TimedOut, false) = (outcome, refresh) {
                    host.censored(Measure::Register, order.stage, order.intended, at);
                }
                self.fail(at, &order, outcome, host);
                if let Outcome::Answer(message) = outcome {
                    // Credentials were shown and refused: trying again could lock the account.
                    if message.code() == 403 && self.showed_credentials() {
                        self.set_aside(at, user, order.stage, host);
                    }
                }
                let retry_after = match outcome {
                    Outcome::Answer(message) => retry_after(message),
                    _ => None,
                };
                let timed_out = matches!(outcome, Outcome::TimedOut);
                self.negotiated(at, user, false, host);
                self.register_failed(at, user, refresh, timed_out, retry_after, host);
            }
        }
    }

    /// RFC 3263 §4.3: after a 503 or silence the same REGISTER goes to another
    /// target, if there is one. `true` if it does.
    fn moves_on(&mut self, at: Time, order: &Order, outcome: &Outcome<'_, '_>, host: &mut impl Host) -> bool {
        let trouble = match outcome {
            Outcome::Answer(message) => {
                let after = message.header(HeaderId::RetryAfter).and_then(value::leading_number);
                Trouble::of_response(message.code(), after)
            }
            Outcome::TimedOut => Some(Trouble::Silence),
            Outcome::Refused => Some(Trouble::Transport),
            _ => None,
        };
        let Some(trouble) = trouble else { return false };
        let user = order.user;
        let flow = self.users[user as usize].flow;
        let elsewhere = host.target_failed(at, flow, trouble);
        let held = &mut self.users[user as usize];
        if !elsewhere || order.moves >= MAX_MOVES || held.is(is::LEAVING) || order.purpose.is_refresh() {
            return false;
        }
        held.set(is::CONNECTED, false);
        held.flow = NO_FLOW;
        host.close(user, flow);
        let mut order = Order { moves: order.moves + 1, hop: None, ..*order };
        if self.is_lync() {
            // Everything belongs to the connection there: the handshake begins anew, and what
            // outlived the registration does not outlive its connection.
            self.unbind(at, user, host);
            order.challenges = 0;
            order.attempts = Default::default();
        }
        let held = &mut self.users[user as usize];
        match host.open(at, user) {
            Opened::Ready(flow) => {
                held.flow = flow;
                held.set(is::CONNECTED, true);
                self.request(at, order, host);
            }
            Opened::Connecting(flow) => {
                held.flow = flow;
                held.set(is::CONNECTING, true);
                held.connect_intended = at;
                held.connect_sent = at;
                self.moving.insert(user, (order, Vec::new()));
            }
        }
        true
    }

    /// The host behind a flow refused datagrams (ICMP): nobody listens there, and
    /// log-ons that wait for its answer need not wait for timer F (RFC 3261 §18.4).
    /// Other requests do: a server that is only restarted answers them yet.
    pub fn refused(&mut self, now: Time, flow: Flow, host: &mut impl Host) {
        let waiting: Vec<Slot> = self
            .transactions
            .iter()
            .filter(|(_, t)| t.purpose == Purpose::Register && self.users[t.user as usize].flow == flow)
            .map(|(slot, _)| slot)
            .collect();
        for slot in waiting {
            if let Some(transaction) = self.transactions.get(slot) {
                let order = Order::again(transaction);
                self.forget(slot);
                self.ended(now, order, Outcome::Refused, host);
            }
        }
    }

    fn set_aside(&mut self, at: Time, user: u32, stage: Stage, host: &mut impl Host) {
        let held = &mut self.users[user as usize];
        if !held.is(is::REJECTED) {
            held.set(is::REJECTED, true);
            self.rejected += 1;
            host.count(stage, Counter::UsersRejected, at, 1);
        }
    }

    fn registered_now(&mut self, at: Time, order: &Order, host: &mut impl Host) {
        let user = order.user;
        let sent = order.sent.unwrap_or(order.due);
        self.users[user as usize].set(is::REGISTERED, true);
        self.registered += 1;
        host.sample(&Sample {
            measure: Measure::Register,
            stage: order.stage,
            intended: order.intended,
            sent,
            ended: at,
        });
        host.progress(user, Progress::Completed(Activity::Register, sent, at));
        if self.logon_data(user).is_some_and(|said| said.eq_ignore_ascii_case(b"RemoteUser")) {
            host.progress(user, Progress::Remote);
        }
        if self.users[user as usize].is(is::LEAVING) {
            return self.leave(at, at, user, host);
        }
        if !self.config.self_subscribe {
            self.users[user as usize].set(is::SELF_SUBSCRIBED, true);
        }
        if self.config.self_subscribe && self.users[user as usize].self_dialog == NONE {
            self.begin_subscription(at, user, user, at, order.stage, host);
        } else if !self.goes_online(at, user, host) {
            // Without one, or with one that outlived the registration.
            self.signed_on(at, user, host);
        }
    }

    fn register_failed(
        &mut self,
        at: Time,
        user: u32,
        refresh: bool,
        timed_out: bool,
        retry_after: Option<u32>,
        host: &mut impl Host,
    ) {
        if refresh {
            self.lacks(at, user);
            self.unregistered(user);
        }
        if self.is_workflow() {
            return self.activity_failed(at, user, timed_out, host);
        }
        if self.users[user as usize].is(is::LEAVING) {
            return self.leave(at, at, user, host);
        }
        self.come_back(at, user, retry_after);
    }

    /// Closes the flow of a user that is done.
    pub(super) fn hang_up(&mut self, user: u32, host: &mut impl Host) {
        let held = &mut self.users[user as usize];
        let flow = std::mem::replace(&mut held.flow, NO_FLOW);
        self.moving.remove(&user);
        if held.is(is::CONNECTED | is::CONNECTING) {
            held.set(is::CONNECTED | is::CONNECTING, false);
            host.close(user, flow);
        }
        self.users[user as usize].set(is::GONE, true);
        self.unregistered_lync(user);
        self.forget_bound(user);
        self.forget_association(user);
        self.wheel.cancel(&mut self.users[user as usize].register_timer);
        self.wheel.cancel(&mut self.users[user as usize].repair_timer);
        self.wheel.cancel(&mut self.users[user as usize].publish_timer);
    }

    pub(super) fn unregistered(&mut self, user: u32) {
        self.unregistered_lync(user);
        let held = &mut self.users[user as usize];
        if held.is(is::REGISTERED) {
            held.set(is::REGISTERED, false);
            self.registered -= 1;
        }
        self.wheel.cancel(&mut held.register_timer);
    }

    /// Seconds that the registrar granted to our Contact (RFC 3261 §10.2.4), which it has to list.
    fn granted(
        &mut self,
        at: Time,
        order: &Order,
        message: &Message<'_>,
        host: &impl Host,
    ) -> Result<u32, Flaw> {
        let user = order.user;
        if self.is_lync() {
            return self.granted_lync(at, user, order.purpose.is_refresh(), message);
        }
        let mut ours = std::mem::take(&mut self.scratch.uri);
        let mut local = std::mem::take(&mut self.scratch.local);
        ours.clear();
        local.clear();
        host.write_local(self.users[user as usize].flow, &mut local);
        self.messages.write_contact(&self.accounts, user, &local, &mut ours);
        let found = message
            .headers(HeaderId::Contact)
            .flat_map(value::list)
            .filter_map(value::name_addr)
            .find(|contact| contact.uri == ours.as_slice())
            .map(|contact| value::param(contact.params, "expires").and_then(value::number))
            .map(|own| own.or_else(|| message.expires()).unwrap_or(self.config.expires));
        self.scratch.uri = ours;
        self.scratch.local = local;
        found.filter(|expires| *expires > 0).ok_or(Flaw::NO_CONTACT)
    }

    /// Refresh at min(0.9·E, E − 30 s), up to 10 % earlier so that users who
    /// came together do not come back together.
    fn arm_registration(&mut self, at: Time, user: u32, granted: u32) {
        if self.is_workflow() {
            return;
        }
        let granted = u64::from(granted.max(LEAST_LIFETIME)) * SECOND;
        let latest = (granted / 10 * 9).min(granted.saturating_sub(30 * SECOND)).max(granted / 2);
        let early = self.random() % (latest / 10 + 1);
        let held = &mut self.users[user as usize];
        self.wheel.cancel(&mut held.register_timer);
        held.register_timer = self.wheel.insert(at + (latest - early), Timer::Registration(user));
    }

    pub(super) fn registration_timer(&mut self, now: Time, user: u32, host: &mut impl Host) {
        let held = &mut self.users[user as usize];
        held.register_timer = TimerId::NONE;
        // Without a registration there is nothing to refresh: the repair registers.
        if held.is(is::LEAVING | is::REJECTED | is::GONE)
            || !held.is(is::REGISTERED)
            || held.register_tx != NONE
        {
            return;
        }
        self.renew_in_time(now, user);
        self.refresh_registration(now, user, host);
    }

    pub(super) fn unregister_ended(
        &mut self,
        at: Time,
        order: Order,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        let user = order.user;
        match outcome {
            Outcome::Answer(message) if message.code() < 300 => {
                let sent = order.sent.unwrap_or(order.due);
                host.sample(&Sample {
                    measure: Measure::Unregister,
                    stage: order.stage,
                    intended: order.intended,
                    sent,
                    ended: at,
                });
                host.progress(user, Progress::Completed(Activity::Unregister, sent, at));
            }
            _ => {
                if let Outcome::TimedOut = outcome {
                    host.censored(Measure::Unregister, order.stage, order.intended, at);
                }
                self.fail(at, &order, outcome, host);
                self.sign_off_failed(user, &outcome);
            }
        }
        // Only now: a pool that knew the user and answers no more is not an address where nobody is.
        self.unregistered(user);
        self.leave(at, at, user, host);
    }

    /// Where something of this user counts when no arrival says it.
    pub(super) fn stage_of(&self, user: u32) -> Stage {
        self.pairs.get(pair_of(user) as usize).map_or(self.stage, |pair| pair.stage)
    }
}
