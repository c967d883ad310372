//! Security associations ([MS-SIPAE]): made by a REGISTER, lost by servers, made anew.
//!
//! While a REGISTER negotiates there is nothing to sign with, so whatever else a user
//! has to say waits with its transaction open: it is written, signed, when the
//! association stands, and ends with the registration if there will be none.

use adsum_sip::Message;
use adsum_sip::protection::{Protection as _, Scheme};
use adsum_sip::time::{SECOND, Time};

use super::Population;
use super::lync_state::{Parked, own};
use super::request::{MAX_CHALLENGES, Order, Outcome};
use super::state::{Purpose, is, tried};
use crate::host::{Counter, Host};
use crate::slab::{NONE, Slot};

/// Servers end an association after eight hours at the latest ([MS-SIPAE] §3.2.2). The first refresh
/// of a registration behind these makes a new one, so that none ends with something on its way;
/// registrations are granted for two hours at most.
const RENEW_AFTER: u64 = 5 * 3_600 * SECOND;

fn is_registration(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::Register | Purpose::RegisterRefresh | Purpose::Unregister)
}

impl Population {
    /// True if there is nothing to sign this request with yet.
    pub(super) fn awaits_association(&self, order: &Order) -> bool {
        !is_registration(order.purpose) && self.is_renewing(order.user)
    }

    pub(super) fn is_renewing(&self, user: u32) -> bool {
        self.endpoint(user).is_some_and(|endpoint| endpoint.is(own::RENEWING))
    }

    /// The transaction of a request waits.
    pub(super) fn park(&mut self, slot: Slot, generation: u32, order: Order) {
        if let Some(lync) = self.lync.as_mut() {
            lync.parked.entry(order.user).or_default().push(Parked { slot, generation, order });
        }
    }

    /// A challenge is answered: if it was a REGISTER's, everything else waits for its end.
    pub(super) fn negotiates(&mut self, now: Time, order: &Order) {
        let is_ntlm = matches!(self.protection, Scheme::Ntlm(_));
        if is_ntlm
            && matches!(order.purpose, Purpose::Register | Purpose::RegisterRefresh)
            && let Some(endpoint) = self.endpoint_mut(order.user)
        {
            endpoint.set(own::RENEWING, true);
            endpoint.associated = now;
        }
    }

    /// A challenge in the middle of a session: the server does not know the association (any more).
    /// A REGISTER makes a new one, then what was challenged is said again, once; a further challenge
    /// is a refusal. `true` if that is how it goes on here.
    pub(super) fn association_lost(
        &mut self,
        now: Time,
        stamp: Time,
        mut order: Order,
        message: &Message<'_>,
        host: &mut impl Host,
    ) -> bool {
        let Scheme::Ntlm(ntlm) = &self.protection else { return false };
        if is_registration(order.purpose) || order.challenges >= MAX_CHALLENGES {
            return false; // the handshake itself, or too many of them
        }
        let user = order.user;
        let is_current = ntlm.is_current(user, &self.scratch.request);
        if self.is_renewing(user) {
            order.challenges += 1;
            self.request(now, order, host);
            return true;
        }
        if !is_current {
            return false; // it crossed a handshake, or the server challenges where there was none
        }
        if order.tried & tried::RENEWED != 0 {
            self.ended(stamp, order, Outcome::Rejected(message), host);
            return true;
        }
        let held = &self.users[user as usize];
        if !held.is(is::REGISTERED) {
            self.ended(stamp, order, Outcome::Unregistered, host);
            return true;
        }
        order.challenges += 1;
        let register_waits = held.register_tx != NONE;
        if let Some(endpoint) = self.endpoint_mut(user) {
            endpoint.set(own::RENEWING, true);
        }
        if register_waits {
            // The one on its way is challenged as well, or it came before the loss.
            self.request(now, order, host);
            return true;
        }
        order.tried |= tried::RENEWED;
        self.request(now, order, host);
        self.drop_association(user);
        self.refresh_registration(now, user, host);
        true
    }

    /// The refresh of a registration, due or early.
    pub(super) fn refresh_registration(&mut self, now: Time, user: u32, host: &mut impl Host) {
        let stage = self.stage_of(user);
        host.count(stage, Counter::RefreshRegister, now, 1);
        let order = Order::new(Purpose::RegisterRefresh, user, self.config.expires, stage, now);
        self.request(now, order, host);
    }

    /// Before the refresh of a registration: the association is dropped if it is old.
    pub(super) fn renew_in_time(&mut self, now: Time, user: u32) {
        let is_old = matches!(self.protection, Scheme::Ntlm(_))
            && self.endpoint(user).is_some_and(|endpoint| now.since(endpoint.associated) >= RENEW_AFTER);
        if is_old {
            if let Some(endpoint) = self.endpoint_mut(user) {
                endpoint.set(own::RENEWING, true);
            }
            self.drop_association(user);
        }
    }

    /// A REGISTER has ended: what waited for it goes on if it was granted, and else ends.
    pub(super) fn negotiated(&mut self, at: Time, user: u32, granted: bool, host: &mut impl Host) {
        let Some(lync) = self.lync.as_mut() else { return };
        let endpoint = &mut lync.endpoints[user as usize];
        if !endpoint.is(own::RENEWING) {
            return;
        }
        endpoint.set(own::RENEWING, false);
        for Parked { slot, generation, mut order } in lync.parked.remove(&user).unwrap_or_default() {
            if self.transactions.generation(slot) != generation || self.transactions.get(slot).is_none() {
                continue; // it has ended meanwhile
            }
            self.close(slot);
            if granted {
                if order.sent.is_none() {
                    order.due = order.due.max(at);
                }
                self.request(at, order, host);
            } else {
                self.ended(at, order, Outcome::Unregistered, host);
            }
        }
        if granted {
            self.next_waiting(at, at, user, host);
        }
    }

    /// Nothing waits any more: what did has ended, or is about to.
    pub(super) fn forget_parked(&mut self, user: u32) {
        let Some(lync) = self.lync.as_mut() else { return };
        lync.parked.remove(&user);
        lync.endpoints[user as usize].set(own::RENEWING, false);
    }

    fn drop_association(&mut self, user: u32) {
        self.protection.reconnected(&mut self.users[user as usize].auth, user);
    }

    /// A security association belongs to a connection: the next one begins anew.
    pub(super) fn forget_association(&mut self, user: u32) {
        self.forget_parked(user);
        self.drop_association(user);
    }
}
