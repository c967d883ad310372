//! All users of one shard, as one state machine.
//!
//! # How to drive it
//!
//! Four kinds of calls, all with the time as an argument and a [`Host`] that
//! is called back while they run:
//!
//! - *what arrives*: [`Population::on_message`], [`Population::on_flow`];
//! - *what is due*: [`Population::start_workflow`], [`Population::publish`],
//!   [`Population::sign_on`], [`Population::subscribe`], [`Population::sign_off`];
//! - *time*: [`Population::on_timer`], to be called at [`Population::next_timer`];
//!   calling it too early does nothing;
//! - *questions*: [`Population::is_free`], [`Population::tally`], ….
//!
//! `stamp` is when a message was received, which may lie before now: what ends
//! with it ended then, and what it makes due is due then.
//!
//! # What it promises
//!
//! Every request ends in exactly one of success, failure and timeout. Every
//! expectation — one publication as one subscriber is to see it — ends exactly
//! once as delivered, superseded, missed or void. Rejected credentials are
//! never tried again.

mod ending;
mod incoming;
mod lync_association;
mod lync_notify;
mod lync_publication;
mod lync_registration;
mod lync_render;
mod lync_state;
mod lync_watch;
mod publication;
mod redirect;
mod registration;
mod render;
mod repair;
mod request;
mod route;
mod state;
mod subscription;
mod workflow;

use adsum_sip::digest::Digest;
use adsum_sip::ids::{Namespace, mix};
use adsum_sip::protection::{Scheme, Unprotected};
use adsum_sip::sipae::Ntlm;
use adsum_sip::texts::Texts;
use adsum_sip::time::Time;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::accounts::Accounts;
use crate::contacts::Contacts;
use crate::host::{Counter, Host, Measure, Stage};
use crate::lync::{LyncAuth, LyncOptions};
use crate::marker;
use crate::simple::Messages;
use crate::slab::{NONE, Slab, Slot};
use crate::wheel::Wheel;
use state::{Dialog, Pair, Publication, Timer, Transaction, User, Waiting, is};

/// Seconds. A registrar or presence agent that grants less is refreshed as if it granted these:
/// such lifetimes are mistakes, and keeping up with them would be a load that nobody asked for.
const LEAST_LIFETIME: u32 = 5;

/// What carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams: retransmissions by timer E.
    Udp,
    /// A stream.
    Tcp,
    /// A stream inside TLS.
    Tls,
}

impl Transport {
    /// True if the transport delivers by itself (RFC 3261 §17).
    #[must_use]
    pub fn is_reliable(self) -> bool {
        self != Transport::Udp
    }

    /// The word in Via.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
        }
    }
}

/// What the users do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every arrival is one whole workflow of a pair.
    Workflow,
    /// Users stay signed on; publications arrive.
    Held,
}

/// The words that a population speaks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Dialect {
    /// RFC 3856 with PUBLISH (RFC 3903).
    #[default]
    Simple,
    /// Lync Server 2013: see [`crate::lync`]. `expires` and `publish_expires` are the
    /// server's choice there, and it does not go over UDP.
    Lync(LyncOptions),
}

/// How a population behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Run, shard and key that go into identifiers and markers.
    pub namespace: Namespace,
    /// What carries the messages.
    pub transport: Transport,
    /// Workflows or held users.
    pub kind: Kind,
    /// Send credentials unasked once a nonce is known.
    pub reuse_nonce: bool,
    /// Users subscribe to themselves.
    pub self_subscribe: bool,
    /// Seconds asked for in `Expires`.
    pub expires: u32,
    /// Seconds asked for in `Expires` of a PUBLISH.
    pub publish_expires: u32,
    /// Nanoseconds from the PUBLISH to the end of the wait for its NOTIFY.
    pub deadline: u64,
    /// The words of all that.
    pub dialect: Dialect,
}

/// How many users and exchanges there are, for readiness and the end of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Users that the registrar knows.
    pub registered: u64,
    /// Subscriptions to a publisher that are active.
    pub subscribed: u64,
    /// Users whose credentials were rejected.
    pub rejected: u64,
    /// Requests without a final answer.
    pub requests: u64,
    /// Publications with open expectations or without an answer.
    pub publications: u64,
    /// Workflows that run, signing off included.
    pub workflows: u64,
    /// Publications that wait for their publisher's previous one.
    pub waiting: u64,
}

/// All users of one shard.
#[derive(Debug)]
pub struct Population {
    config: Config,
    accounts: Rc<Accounts>,
    contacts: Contacts,
    messages: Messages,
    protection: Scheme,
    users: Vec<User>,
    pairs: Vec<Pair>,
    dialogs: Slab<Dialog>,
    transactions: Slab<Transaction>,
    publications: Slab<Publication>,
    waiting: Slab<Waiting>,
    /// Entity-tags of the users' documents and remote tags of their dialogs.
    texts: Texts,
    wheel: Wheel<state::Key>,
    targets: route::TargetCache,
    answers: incoming::Answers,
    finder: marker::Finder,
    /// Step and phase of now, for what no arrival caused.
    stage: Stage,
    /// Pairs that became free, in that order; the agent takes them.
    freed: Vec<(u32, Time)>,
    registered: u64,
    subscribed: u64,
    rejected: u64,
    workflows: u64,
    jitter: u64,
    scratch: request::Scratch,
    /// First requests of activities that the host queued: slot, its generation, and the host's number.
    unflushed: Vec<(Slot, u32, u32)>,
    /// REGISTERs that wait for a flow to another server, after a redirection (with the
    /// Request-URI that it named) or because the first one failed. At most one for each user,
    /// and only while it connects.
    moving: BTreeMap<u32, (request::Order, Vec<u8>)>,
    /// Subscriptions that were refused for good: subscriber and publisher.
    refused: BTreeSet<(u32, u32)>,
    /// Held users that lost something, with when and where it counts, until they have it again.
    lacking: BTreeMap<u32, (Time, Stage)>,
    /// Where the transaction of a dialog that is gone would be kept.
    nowhere: Slot,
    /// What only `lync` keeps; `None` in the other dialect.
    lync: Option<Box<lync_state::Lync>>,
    /// What time it was (FILETIME), and when: for NTLM.
    clock: (u64, Time),
}

impl Population {
    /// A population of pairs whose users are all signed off.
    ///
    /// # Errors
    /// When a template cannot be made or a message would not fit a datagram.
    pub fn new(
        config: Config,
        accounts: Rc<Accounts>,
        now: Time,
    ) -> Result<Self, crate::simple::MessageError> {
        let pairs = accounts.pairs().len() as u32;
        Population::with_contacts(config, accounts, Contacts::Pairs(pairs), now)
    }

    /// The same with any contacts; workflows want [`Contacts::Pairs`]. There
    /// are two users a pair.
    ///
    /// # Errors
    /// When a template cannot be made or a message would not fit a datagram.
    pub fn with_contacts(
        config: Config,
        accounts: Rc<Accounts>,
        contacts: Contacts,
        now: Time,
    ) -> Result<Self, crate::simple::MessageError> {
        let messages = Messages::new(config.transport)?;
        let pairs = accounts.pairs().len();
        // Shards share the run's key, but no client nonces.
        let key = mix(config.namespace.key ^ mix(config.namespace.shard.into()));
        let mut clock = (0, now);
        let protection =
            if let Dialect::Lync(LyncOptions { auth: LyncAuth::Ntlm(ntlm), .. }) = &config.dialect {
                clock.0 = ntlm.filetime;
                Scheme::Ntlm(Box::new(Ntlm::new(ntlm.verify, key, &ntlm.workstation, ntlm.filetime)))
            } else if matches!(&config.dialect, Dialect::Lync(options) if options.auth == LyncAuth::None)
                || accounts.have_no_secrets()
            {
                Scheme::None(Unprotected)
            } else {
                Scheme::Digest(Box::new(Digest::new(config.reuse_nonce, key)))
            };
        let lync = match &config.dialect {
            Dialect::Simple => None,
            Dialect::Lync(options) => {
                Some(lync_state::Lync::new(config.transport, options, &accounts, config.namespace.run)?)
            }
        };
        let population = Population {
            lync,
            clock,
            protection,
            messages,
            users: std::iter::repeat_with(User::default).take(pairs * 2).collect(),
            pairs: vec![Pair::default(); if config.kind == Kind::Workflow { pairs } else { 0 }],
            dialogs: Slab::default(),
            transactions: Slab::default(),
            publications: Slab::default(),
            waiting: Slab::default(),
            texts: Texts::default(),
            wheel: Wheel::new(now),
            targets: route::TargetCache::default(),
            answers: incoming::Answers::new(pairs * 2),
            finder: marker::Finder::default(),
            stage: Stage::WARMUP,
            freed: Vec::new(),
            registered: 0,
            subscribed: 0,
            rejected: 0,
            workflows: 0,
            jitter: config.namespace.key,
            scratch: request::Scratch::default(),
            unflushed: Vec::new(),
            moving: BTreeMap::new(),
            refused: BTreeSet::new(),
            lacking: BTreeMap::new(),
            nowhere: NONE,
            config,
            accounts,
            contacts,
        };
        population.check_sizes()?;
        Ok(population)
    }

    /// How many pairs there are.
    #[must_use]
    pub fn pairs(&self) -> u32 {
        (self.users.len() / 2) as u32
    }

    /// How many users there are.
    #[must_use]
    pub fn users(&self) -> u32 {
        self.users.len() as u32
    }

    /// Who the users are.
    #[must_use]
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Step and phase of now: what refreshes and repairs count for.
    pub fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
    }

    /// When [`Population::on_timer`] wants to be called; may be too early.
    #[must_use]
    pub fn next_timer(&self) -> Time {
        self.wheel.next()
    }

    /// Lets every timer fire that is due.
    pub fn on_timer(&mut self, now: Time, host: &mut impl Host) {
        while let Some(key) = self.wheel.pop(now) {
            match Timer::from(key) {
                Timer::Transaction(slot) => self.transaction_timer(now, slot, host),
                Timer::Dialog(slot) => self.dialog_timer(now, slot, host),
                Timer::Deadline(slot) => self.deadline_passed(now, slot, host),
                Timer::Registration(user) => self.registration_timer(now, user, host),
                Timer::Repair(user) => self.repair_timer(now, user, host),
                Timer::Document(user) => self.document_timer(now, user, host),
                Timer::KeepAlive(user) => self.keep_alive_timer(now, user, host),
            }
        }
    }

    /// What there is, counted.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally {
            registered: self.registered,
            subscribed: self.subscribed,
            rejected: self.rejected,
            requests: self.transactions.len() as u64,
            publications: self.publications.len() as u64,
            workflows: self.workflows,
            waiting: self.waiting.len() as u64,
        }
    }

    /// True if the user's credentials were rejected.
    #[must_use]
    pub fn is_rejected(&self, user: u32) -> bool {
        self.users[user as usize].is(is::REJECTED)
    }

    /// True if the registrar knows the user.
    #[must_use]
    pub fn is_registered(&self, user: u32) -> bool {
        self.users[user as usize].is(is::REGISTERED)
    }

    /// True if the user is signed off, or never signed on, or gave up.
    #[must_use]
    pub fn is_gone(&self, user: u32) -> bool {
        self.users[user as usize].is(is::GONE)
    }

    /// True if the user signed on completely; in `lync` it appears on line then.
    #[must_use]
    pub fn is_signed_on(&self, user: u32) -> bool {
        let held = &self.users[user as usize];
        held.is(is::REGISTERED) && held.is(is::SELF_SUBSCRIBED) && !self.lacks_presence(user)
    }

    /// Who watches whom.
    #[must_use]
    pub fn contacts(&self) -> &Contacts {
        &self.contacts
    }

    /// Subscriptions that should be active and are not, users set aside not
    /// counted. Looks at every edge.
    #[must_use]
    pub fn unwatched(&self) -> u32 {
        let wanted = (0..self.contacts.edges()).filter_map(|edge| self.contacts.edge(edge));
        let lacking = wanted.filter(|(subscriber, publisher)| {
            !self.is_rejected(*subscriber)
                && !self.is_rejected(*publisher)
                && !self.watch_of(*subscriber, *publisher).is_some_and(|slot| {
                    let dialog = &self.dialogs[slot];
                    dialog.has(state::has::ACTIVE) && dialog.has(state::has::ANSWER)
                })
        });
        lacking.count() as u32
    }

    /// The latest sequence that was published by a pair's publisher, and the
    /// latest that its subscriber was shown.
    #[must_use]
    pub fn sequences(&self, pair: u32) -> (u32, u32) {
        let shown = self.watch_of(pair * 2 + 1, pair * 2).map_or(0, |slot| self.dialogs[slot].seen);
        (self.users[pair as usize * 2].sequence, shown)
    }

    /// The dialog in which a user watches another.
    fn watch_of(&self, subscriber: u32, publisher: u32) -> Option<Slot> {
        let mut at = self.users[subscriber as usize].watches;
        while let Some(dialog) = self.dialogs.get(at) {
            if dialog.publisher == publisher {
                return Some(at);
            }
            at = dialog.next_watch;
        }
        None
    }

    /// Subscriptions that show the latest publication of their publisher, and
    /// those that do not. To be asked when all expectations have ended.
    #[must_use]
    pub fn converged(&self) -> (u64, u64) {
        let mut counts = (0, 0);
        let shows = |dialog: &Dialog| !dialog.has(state::has::SELF | state::has::CARRIER);
        for (_, dialog) in self.dialogs.iter().filter(|(_, dialog)| shows(dialog)) {
            let latest = self.users[dialog.publisher as usize].sequence;
            if dialog.has(state::has::ACTIVE) && dialog.seen == latest {
                counts.0 += 1;
            } else {
                counts.1 += 1;
            }
        }
        counts
    }

    /// Users that lost something and have not got it back, counted as censored
    /// in `recovery`. To be asked once, when nothing more will come.
    pub fn give_up_recoveries(&mut self, now: Time, host: &mut impl Host) {
        for (lost, stage) in std::mem::take(&mut self.lacking).into_values() {
            host.censored(Measure::Recovery, stage, lost, now);
        }
    }

    /// Counts [`Population::converged`].
    pub fn count_converged(&self, now: Time, stage: Stage, host: &mut impl Host) {
        let (shown, not) = self.converged();
        host.count(stage, Counter::Converged, now, shown);
        host.count(stage, Counter::NotConverged, now, not);
    }

    /// A random number that does not repeat soon, from the population's seed.
    fn random(&mut self) -> u64 {
        self.jitter = self.jitter.wrapping_add(1);
        mix(self.jitter)
    }
}

/// The pair of a user.
fn pair_of(user: u32) -> u32 {
    user / 2
}

/// The slot, if it is one.
fn some(slot: Slot) -> Option<Slot> {
    (slot != NONE).then_some(slot)
}
