//! Registrations of the `lync` dialect: GRUUs, keep-alive, and a registrar
//! that forgets or dismisses ([MS-SIPREGE] §3.1, [MS-CONMGMT] §2.2.1).

use adsum_sip::gruu::Instance;
use adsum_sip::ids::CallKind;
use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message, value};

use super::lync_state::own;
use super::registration::Flaw;
use super::request::Outcome;
use super::state::is;
use super::{Population, Timer};
use crate::host::{Activity, Class, Counter, Failure, Flow, Hop, Host, Sent};

/// Seconds; a registrar that wants less is kept alive this often, as no server means less.
const LEAST_KEEP_ALIVE: u32 = 5;
/// Seconds; the wheel reaches 49 days.
const MOST_KEEP_ALIVE: u32 = 86_400;
/// More of `ms-user-logon-data` is no such thing.
const MAX_LOGON: usize = 64;

impl Population {
    /// Seconds that the registrar granted to our endpoint, and what else it said of it.
    pub(super) fn granted_lync(
        &mut self,
        at: Time,
        user: u32,
        refresh: bool,
        message: &Message<'_>,
    ) -> Result<u32, Flaw> {
        let asked = self.config.expires;
        let Some(endpoint) = self.endpoint_mut(user) else { return Ok(asked) };
        let instance = endpoint.epid.instance();
        // The address in the Contact is the one that the server saw (`proxy=replace`): only the
        // instance says that it is ours.
        let ours =
            message.headers(HeaderId::Contact).flat_map(value::list).filter_map(value::name_addr).find(
                |contact| {
                    value::param(contact.params, "+sip.instance").is_some_and(|urn| is_urn(urn, instance))
                },
            );
        let Some(ours) = ours else { return Err(Flaw::NO_INSTANCE) };
        let granted = value::param(ours.params, "expires").and_then(value::number);
        let granted = granted.or_else(|| message.expires()).unwrap_or(asked);
        if granted == 0 {
            return Err(Flaw::NO_INSTANCE);
        }
        if !has_word(message, HeaderId::Supported, b"msrtc-event-categories") {
            return Err(Flaw::NO_CATEGORIES);
        }
        match value::param(ours.params, "gruu") {
            Some(gruu) if value::sip_uri(gruu).is_some() => {
                if *endpoint.gruu != *gruu {
                    endpoint.gruu = gruu.into();
                }
            }
            _ if !endpoint.gruu.is_empty() && refresh => {}
            _ => return Err(Flaw::NO_GRUU),
        }
        if refresh && is_new(message) {
            return Err(Flaw::FORGOTTEN);
        }
        if let Some(logon) = message.named("ms-user-logon-data").filter(|text| text.len() <= MAX_LOGON) {
            endpoint.logon = Some(logon.into());
        }
        if let Some(seconds) = keep_alive(message) {
            endpoint.keep_alive = u64::from(seconds.clamp(LEAST_KEEP_ALIVE, MOST_KEEP_ALIVE)) * SECOND;
            endpoint.written = endpoint.written.max(at);
            self.arm_keep_alive(user);
        }
        Ok(granted)
    }

    fn arm_keep_alive(&mut self, user: u32) {
        let Some(endpoint) = self.lync.as_mut().and_then(|lync| lync.endpoints.get_mut(user as usize)) else {
            return;
        };
        self.wheel.cancel(&mut endpoint.keep_timer);
        let due = endpoint.written + endpoint.keep_alive;
        endpoint.keep_timer = self.wheel.insert(due, Timer::KeepAlive(user));
    }

    /// Something of this user was written.
    #[inline]
    pub(super) fn wrote(&mut self, user: u32, at: Time) {
        if let Some(endpoint) = self.endpoint_mut(user) {
            endpoint.written = endpoint.written.max(at);
        }
    }

    pub(super) fn keep_alive_timer(&mut self, now: Time, user: u32, host: &mut impl Host) {
        let (flow, usable) = {
            let held = &self.users[user as usize];
            (held.flow, held.is(is::CONNECTED) && held.is(is::REGISTERED))
        };
        let Some(endpoint) = self.endpoint_mut(user) else { return };
        endpoint.keep_timer = crate::wheel::TimerId::NONE;
        if !usable || endpoint.keep_alive == 0 {
            return;
        }
        if endpoint.written + endpoint.keep_alive <= now {
            // [UNV] Whether it is answered; the other side of the connection knows when it is gone.
            endpoint.written = now;
            if let Sent::Gone(_) = host.send(user, flow, Hop::Target, b"\r\n\r\n") {
                return; // the flow's own event follows
            }
        }
        self.arm_keep_alive(user);
    }

    /// A registration is over, and what was bound to it.
    pub(super) fn unregistered_lync(&mut self, user: u32) {
        let Some(endpoint) = self.lync.as_mut().and_then(|lync| lync.endpoints.get_mut(user as usize)) else {
            return;
        };
        self.wheel.cancel(&mut endpoint.keep_timer);
        endpoint.keep_alive = 0;
        self.forget_parked(user);
    }

    /// What was bound to the registration is gone with it.
    pub(super) fn forget_bound(&mut self, user: u32) {
        if let Some(endpoint) = self.endpoint_mut(user) {
            endpoint.set(own::PRESENT, false);
            endpoint.versions.unbound();
        }
    }

    /// The user whose registration a NOTIFY is about: by our Call-ID, else by whose
    /// connection it came on, else by its address. [UNV] Which of them a server uses.
    pub(super) fn registrant(&self, flow: Flow, message: &Message<'_>) -> Option<u32> {
        let call = self.config.namespace.read_call_id(message.call_id());
        if let Some(call) = call.filter(|call| call.kind == CallKind::Registration) {
            let ours = message.to_tag() == Some(&self.config.namespace.tag(call)[..]);
            return (ours && call.slot < self.users()).then_some(call.slot);
        }
        let to = message.header(HeaderId::To).and_then(value::name_addr)?.uri;
        let is_meant =
            |user: &u32| self.users[*user as usize].flow == flow && self.accounts.is_uri_of(*user, to);
        // With a connection for each user its number mostly is the user's.
        let first = (flow < self.users()).then_some(flow);
        first.into_iter().chain(0..self.users()).find(is_meant)
    }

    /// A NOTIFY of the implicit subscription to one's own registration
    /// ([MS-SIPREGE] §4.1.3), already answered: the server signed the user off.
    pub(super) fn registration_event(
        &mut self,
        at: Time,
        user: u32,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        let body = message.body().trim_ascii();
        let line = body.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or(b"");
        let kind = line.split(|byte| *byte == b';').next().unwrap_or(b"").trim_ascii();
        let state = value::subscription_state(message.header(HeaderId::SubscriptionState).unwrap_or(b""));
        let is_over = [&b"deregistered"[..], b"unregistered", b"terminated"]
            .iter()
            .any(|word| kind.eq_ignore_ascii_case(word))
            || state.state.eq_ignore_ascii_case(b"terminated");
        let held = &self.users[user as usize];
        if !is_over || !held.is(is::REGISTERED) || held.is(is::LEAVING) {
            return;
        }
        let event = value::param(&line[kind.len().min(line.len())..], "event").unwrap_or(b"");
        let stage = self.stage_of(user);
        let reason = [b"the server signed the user off: " as &[u8], line].concat();
        let mut diagnosis = Vec::new();
        crate::diagnosis::of_ended(message, event, &mut diagnosis);
        host.failed(&Failure {
            activity: Activity::Register,
            stage,
            class: if event.eq_ignore_ascii_case(b"rejected") { Class::Configuration } else { Class::Pool },
            code: "subscription:terminated",
            reason: &reason,
            diagnosis: &diagnosis,
            user,
            at,
            request: b"",
            response: message.raw(),
        });
        self.if_stood(self.users[user as usize].connect_sent, at, user);
        self.registration_lost(at, user, host);
        if self.is_workflow() {
            self.activity_failed(at, user, false, host);
        } else {
            self.come_back(at, user, None);
        }
    }

    /// A REGISTER was granted that may stand behind a refresh that failed: if the server did not know
    /// the registration any more, whatever outlived it here is gone there.
    pub(super) fn registration_is_new(
        &mut self,
        at: Time,
        user: u32,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        if !self.is_lync() {
            return;
        }
        if !is_new(message) {
            // [UNV] The spelling. What it does not say is published anew, under the versions that are known.
            if !is_refreshed(message)
                && let Some(endpoint) = self.endpoint_mut(user)
            {
                endpoint.set(own::PRESENT, false);
            }
            return;
        }
        self.forget_bound(user);
        while let Some(dialog) = self.some_dialog(user) {
            let holder = self.holder(dialog);
            self.abandon_one(at, self.dialogs[holder].tx, Outcome::Unregistered, host);
            if self.dialogs.get(dialog).is_none() {
                continue; // its end has told
            }
            if !self.is_workflow() && self.counts_as_lost(dialog) {
                host.count(self.stage, Counter::SubscriptionLost, at, 1);
            }
            self.drop_dialog(dialog);
        }
    }

    /// The server has no such endpoint any more: its subscriptions are gone with
    /// it, and requests that wait would wait in vain.
    pub(super) fn registration_lost(&mut self, at: Time, user: u32, host: &mut impl Host) {
        self.lacks(at, user);
        self.unregistered(user);
        self.forget_bound(user);
        self.abandon(at, user, Outcome::Unregistered, host);
        while let Some(dialog) = self.some_dialog(user) {
            if !self.is_workflow() && self.counts_as_lost(dialog) {
                host.count(self.stage, Counter::SubscriptionLost, at, 1);
            }
            self.drop_dialog(dialog);
        }
    }
}

/// `presence-state: register-action="added"` or `fixed`: the registrar did not
/// know what it was to refresh ([MS-SIPREGE] §3.1.1.5.1).
fn is_new(message: &Message<'_>) -> bool {
    did(message, b"added") || did(message, b"fixed")
}

/// `register-action="refreshed"`: it did.
fn is_refreshed(message: &Message<'_>) -> bool {
    did(message, b"refreshed")
}

fn did(message: &Message<'_>, action: &[u8]) -> bool {
    let Some(state) = message.named("presence-state") else { return false };
    let with_semicolon = [b";" as &[u8], state].concat();
    value::param(&with_semicolon, "register-action").is_some_and(|told| told.eq_ignore_ascii_case(action))
}

/// Seconds of `ms-keep-alive: UAS; …; timeout=300`.
fn keep_alive(message: &Message<'_>) -> Option<u32> {
    let value = message.named("ms-keep-alive")?;
    let end = memchr::memchr(b';', value)?;
    value[..end].trim_ascii().eq_ignore_ascii_case(b"UAS").then_some(())?;
    value::param(&value[end..], "timeout").and_then(value::number)
}

/// True if `<urn:uuid:…>` is this one.
fn is_urn(urn: &[u8], instance: Instance) -> bool {
    let text = urn.strip_prefix(b"<").and_then(|text| text.strip_suffix(b">")).unwrap_or(urn);
    Instance::parse(text) == Some(instance)
}

/// True if one of the lines of a header lists this word.
pub(super) fn has_word(message: &Message<'_>, id: HeaderId, word: &[u8]) -> bool {
    message.headers(id).flat_map(value::list).any(|listed| listed.eq_ignore_ascii_case(word))
}
