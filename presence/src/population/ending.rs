//! Ends before the end: workflows that are told to stop, politely or at once.

use adsum_sip::time::Time;

use super::Population;
use super::request::Order;
use super::state::{Purpose, WorkState, WorkVerdict, is};
use crate::host::{Activity, Counter, Host, Progress};
use crate::slab::Slot;

impl Population {
    /// Workflows that run go no further and sign off, as after a failure: what was published is
    /// withdrawn, what was subscribed to is given up, and the server is heard out.
    pub fn cut_short(&mut self, now: Time, host: &mut impl Host) {
        let open: Vec<Slot> = self.publications.iter().map(|(slot, _)| slot).collect();
        for slot in open {
            let publication = &mut self.publications[slot];
            let (void, stage) = (u64::from(std::mem::take(&mut publication.remaining)), publication.stage);
            if void > 0 {
                host.count(stage, Counter::VoidInterrupted, now, void);
            }
            self.retire(slot);
        }
        self.end_workflows(now, false, host);
    }

    /// Ends every workflow: with a verdict, and with `at_once` without asking the server for anything.
    pub(super) fn end_workflows(&mut self, now: Time, at_once: bool, host: &mut impl Host) {
        for pair in 0..self.pairs.len() as u32 {
            let state = &mut self.pairs[pair as usize];
            if state.state == WorkState::Idle || !at_once && state.state == WorkState::SigningOff {
                continue;
            }
            if state.verdict == WorkVerdict::Open {
                state.verdict = WorkVerdict::Failed;
                if !state.started {
                    state.started = true;
                    host.count(state.stage, Counter::Sent, now, 1);
                }
                host.count(state.stage, Counter::WorkflowFailed, now, 1);
            }
            for user in [pair * 2 + 1, pair * 2] {
                self.users[user as usize].set(is::GAVE_UP, at_once);
            }
            self.sign_off_pair(now, pair, host);
        }
    }

    /// The last words of users that cannot wait for answers any more: one request each that takes back
    /// what they published, and one that signs them off, sent once. [`Population::interrupt`] follows.
    pub fn last_words(&mut self, now: Time, host: &mut impl Host) {
        for user in 0..self.users() {
            let held = &self.users[user as usize];
            if !held.is(is::CONNECTED) || held.is(is::GONE) {
                continue;
            }
            let stage = self.stage_of(user);
            let asked = |this: &Self, slot: Slot| this.transactions.get(slot).map(|open| open.purpose);
            let publishing = asked(self, held.publish_tx);
            let registering = asked(self, held.register_tx);
            if publishing != Some(Purpose::Unpublish) {
                self.give_up_publication(user);
                if self.has_document(user) {
                    host.progress(user, Progress::Started(Activity::Unpublish));
                    self.request(now, Order::new(Purpose::Unpublish, user, 0, stage, now), host);
                }
            }
            let held = &self.users[user as usize];
            if registering.is_none() && held.is(is::REGISTERED) && held.is(is::CONNECTED) {
                host.progress(user, Progress::Started(Activity::Unregister));
                self.request(now, Order::new(Purpose::Unregister, user, 0, stage, now), host);
            }
        }
    }
}
