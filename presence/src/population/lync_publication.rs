//! Publications of the `lync` dialect: versions instead of entity tags
//! ([MS-PRES] §2.2.2.8), and who may see them.

use adsum_sip::Message;
use adsum_sip::time::Time;

use super::Population;
use super::lync_state::own;
use super::repair::retry_after;
use super::request::{Order, Outcome};
use super::state::{Purpose, has, is, tried};
use crate::host::{Activity, Class, Counter, Failure, Host, Progress};
use crate::lync::versions::OWN;
use crate::slab::NONE;

impl Population {
    /// True if a user has published something that it can take back.
    pub(super) fn has_document(&self, user: u32) -> bool {
        let Some(endpoint) = self.endpoint(user) else { return !self.users[user as usize].etag.is_empty() };
        let is_tidy = self.lync.as_ref().is_some_and(|lync| lync.is_tidy);
        let stands = OWN
            .iter()
            .zip(endpoint.versions.0)
            .any(|(own, version)| version > 0 && (is_tidy || own.is_bound() || own.category == "note"));
        stands && endpoint.is(own::PUBLISHED) && self.users[user as usize].is(is::REGISTERED)
    }

    /// What a user published is not asked about again.
    pub(super) fn forget_document(&mut self, user: u32) {
        self.texts.clear(&mut self.users[user as usize].etag);
        if let Some(endpoint) = self.endpoint_mut(user) {
            endpoint.set(own::PUBLISHED | own::PRESENT, false);
        }
    }

    pub(super) fn publish_ended_lync(
        &mut self,
        at: Time,
        order: Order,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        let user = order.user;
        match outcome {
            Outcome::Answer(message) if message.code() < 300 => {
                self.taken(user, message);
                if let Some(endpoint) = self.endpoint_mut(user) {
                    endpoint.set(own::PUBLISHED, true);
                }
                self.published(at, &order, host);
            }
            Outcome::Answer(message) if message.code() == 409 => {
                if self.correct(at, order, message, host) {
                    return;
                }
                self.publish_failed(at, &order, outcome, false, host);
            }
            _ => {
                let tidy = self.lync.as_ref().is_some_and(|lync| lync.is_tidy);
                if tidy && matches!(outcome, Outcome::TimedOut) {
                    // It may have been taken all the same.
                    self.presume_taken(user);
                }
                self.publish_failed(at, &order, outcome, false, host);
            }
        }
        // A user that signs off waited for this answer.
        self.leave(at, at, user, host);
        if self.lacks_presence(user) {
            // It registered anew meanwhile, and this was in the way.
            return self.resume(at, user, host);
        }
        self.next_waiting(at, at, user, host);
    }

    /// The versions after a publication: the answer may say them, else each is one on.
    fn taken(&mut self, user: u32, message: &Message<'_>) {
        let Some(lync) = self.lync.as_mut() else { return };
        let endpoint = &mut lync.endpoints[user as usize];
        endpoint.versions.published(&self.scratch.request, &endpoint.epid);
        if !message.body().is_empty() {
            endpoint.versions.learn(message.body(), &endpoint.epid, false);
        }
    }

    /// The request in the scratch was taken, as far as anybody knows.
    fn presume_taken(&mut self, user: u32) {
        let Some(lync) = self.lync.as_mut() else { return };
        let endpoint = &mut lync.endpoints[user as usize];
        endpoint.versions.published(&self.scratch.request, &endpoint.epid);
        endpoint.set(own::PUBLISHED, true);
    }

    /// Forgets the publication that a user waits for; whether it was taken nobody will say.
    pub(super) fn give_up_publication(&mut self, user: u32) {
        let slot = self.users[user as usize].publish_tx;
        let Some(purpose) = self.transactions.get(slot).map(|open| open.purpose) else { return };
        self.forget(slot);
        if purpose == Purpose::Publish {
            self.presume_taken(user);
        }
    }

    /// A 409: publishes again, with the versions that it names. `true` if it does.
    fn correct(&mut self, at: Time, mut order: Order, message: &Message<'_>, host: &mut impl Host) -> bool {
        host.count(order.stage, Counter::VersionConflict, at, 1);
        let Some(lync) = self.lync.as_mut() else { return false };
        let endpoint = &mut lync.endpoints[order.user as usize];
        let known = endpoint.versions.corrected(&self.scratch.request, message.body(), &endpoint.epid);
        // At most three tries altogether.
        if !known || order.tried & tried::CORRECTIONS >= 2 * tried::CORRECTED {
            return false;
        }
        order.tried += tried::CORRECTED;
        if order.purpose == Purpose::Unpublish && !self.has_document(order.user) {
            // What was to be taken back is not there.
            host.count(order.stage, Counter::AlreadyGone, at, 1);
            self.unpublished(at, &order, host);
        } else {
            self.request(at, order, host);
        }
        true
    }

    /// The third 409, or one that names nothing of ours.
    pub(super) fn version_conflict(
        &self,
        at: Time,
        order: &Order,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        let own = order.purpose == Purpose::Unpublish;
        let mut diagnosis = Vec::new();
        crate::diagnosis::of_answer(message, Activity::Publish, &mut diagnosis);
        diagnosis.extend_from_slice(
            b" The versions that the server names were taken each time: somebody else publishes for this user, or \
              two runs share the account.",
        );
        host.failed(&Failure {
            activity: if own { Activity::Unpublish } else { Activity::Publish },
            stage: order.stage,
            class: Class::Configuration,
            code: "protocol:version-conflict",
            reason: b"the server holds other versions than were published upon (409)",
            diagnosis: &diagnosis,
            user: order.user,
            at,
            request: &self.scratch.request,
            response: message.raw(),
        });
    }

    pub(super) fn unpublish_ended_lync(
        &mut self,
        at: Time,
        order: Order,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        match outcome {
            Outcome::Answer(message) if message.code() < 300 => {
                self.taken(order.user, message);
                return self.unpublished(at, &order, host);
            }
            Outcome::Answer(message) if message.code() == 409 => {
                if self.correct(at, order, message, host) {
                    return;
                }
                self.version_conflict(at, &order, message, host);
            }
            Outcome::Answer(message) if message.code() == 481 => {
                host.count(order.stage, Counter::AlreadyGone, at, 1);
                return self.unpublished(at, &order, host);
            }
            _ => {
                self.fail(at, &order, outcome, host);
                self.sign_off_failed(order.user, &outcome);
            }
        }
        self.forget_document(order.user);
        self.leave(at, at, order.user, host);
    }

    /// Nothing of a user's publication is there any more.
    fn unpublished(&mut self, at: Time, order: &Order, host: &mut impl Host) {
        let sent = order.sent.unwrap_or(order.due);
        host.progress(order.user, Progress::Completed(Activity::Unpublish, sent, at));
        self.forget_document(order.user);
        self.leave(at, at, order.user, host);
    }

    /// Asks that a user's colleagues may see it: on a fresh account they may not
    /// (protocol guide §3.6). Once in a run; the sign-on is complete behind it.
    pub(super) fn ask_members(&mut self, at: Time, user: u32, host: &mut impl Host) {
        let order = Order::new(Purpose::SetMembers, user, 0, self.stage_of(user), at);
        self.request(at, order, host);
    }

    pub(super) fn members_ended(
        &mut self,
        at: Time,
        order: Order,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        let user = order.user;
        match outcome {
            Outcome::Answer(message) if message.code() < 300 => {
                if let Some(endpoint) = self.endpoint_mut(user) {
                    endpoint.set(own::LACKS_MEMBERS, false);
                    endpoint.colleagues = endpoint.colleagues.saturating_add(1);
                }
            }
            // It may be seen all the same: what is not notified will tell.
            _ => self.fail(at, &order, outcome, host),
        }
        let held = &self.users[user as usize];
        if held.is(is::LEAVING) {
            return self.leave(at, at, user, host);
        }
        let stands = self.dialogs.get(held.self_dialog).is_some_and(|dialog| dialog.has(has::SETTLED));
        // What ended the registration ends this, too: then there is nothing to go on with.
        if held.is(is::CONNECTED) && held.is(is::REGISTERED) && stands {
            self.own_stands(at, user, host);
        }
    }

    /// The subscription of a user to itself stands.
    pub(super) fn own_stands(&mut self, at: Time, user: u32, host: &mut impl Host) {
        self.users[user as usize].set(is::SELF_SUBSCRIBED, true);
        if self.lync.as_ref().is_some_and(|lync| lync.takes_back)
            && let Some(endpoint) = self.endpoint_mut(user)
        {
            endpoint.set(own::PUBLISHED, true);
        }
        if !self.goes_online(at, user, host) {
            self.signed_on(at, user, host);
        }
    }

    /// True for a registered user that appears offline yet.
    pub(super) fn lacks_presence(&self, user: u32) -> bool {
        let held = &self.users[user as usize];
        let is_on = held.is(is::REGISTERED) && held.is(is::CONNECTED) && !held.is(is::LEAVING | is::REJECTED);
        is_on && self.endpoint(user).is_some_and(|endpoint| !endpoint.is(own::PRESENT))
    }

    /// The last step of a sign-on: the endpoint's device and its state are published, once their
    /// versions are known. A client that does not appears offline to whoever watches it (protocol
    /// guide §3.8). `true` if the sign-on waits for that; it is measured by nothing.
    pub(super) fn goes_online(&mut self, at: Time, user: u32, host: &mut impl Host) -> bool {
        if !self.lacks_presence(user) {
            return false;
        }
        let held = &self.users[user as usize];
        let versions_come = self.dialogs.get(held.self_dialog).is_some_and(|own| !own.has(has::SETTLED));
        // What is in the way leads here again when it ends.
        if held.publish_tx == NONE && !versions_come {
            let order = Order::new(Purpose::Present, user, 0, self.stage_of(user), at);
            self.request(at, order, host);
        }
        true
    }

    pub(super) fn present_ended(
        &mut self,
        at: Time,
        order: Order,
        outcome: Outcome<'_, '_>,
        host: &mut impl Host,
    ) {
        let user = order.user;
        let after = match outcome {
            Outcome::Answer(message) if message.code() < 300 => {
                self.taken(user, message);
                if !self.users[user as usize].is(is::REGISTERED) {
                    // What it says of itself ended with its registration; the next one says it again.
                    return self.leave(at, at, user, host);
                }
                if let Some(endpoint) = self.endpoint_mut(user) {
                    endpoint.set(own::PRESENT, true);
                }
                return self.signed_on(at, user, host);
            }
            Outcome::Answer(message) if message.code() == 409 => {
                if self.correct(at, order, message, host) {
                    return;
                }
                self.version_conflict(at, &order, message, host);
                retry_after(message)
            }
            Outcome::Answer(message) => {
                self.fail(at, &order, outcome, host);
                retry_after(message)
            }
            _ => {
                self.fail(at, &order, outcome, host);
                None
            }
        };
        if self.is_workflow() {
            return self.activity_failed(at, user, matches!(outcome, Outcome::TimedOut), host);
        }
        self.leave(at, at, user, host);
        self.come_back(at, user, after);
    }
}
