//! What a population keeps: users, dialogs, transactions, publications.
//!
//! One million held users are to fit into a few hundred megabytes, so a user
//! owns no heap memory while it rests, strings that many share are shared, and
//! what exists only during an exchange lives in the slab of the exchange.

use std::rc::Rc;

use adsum_sip::Time;
use adsum_sip::client::ClientTransaction;
use adsum_sip::protection::{Attempts, Protection, Scheme};
use adsum_sip::texts::Text;

use crate::host::{Activity, Flow, Hop, Stage};
use crate::slab::{NONE, Slot};
use crate::wheel::TimerId;

/// No flow yet.
pub(super) const NO_FLOW: Flow = u32::MAX;

/// What a user is about; bits of [`User::flags`].
pub(super) mod is {
    /// Its flow is usable.
    pub const CONNECTED: u16 = 1;
    /// Its flow is being opened.
    pub const CONNECTING: u16 = 2;
    /// The registrar has our Contact.
    pub const REGISTERED: u16 = 4;
    /// Its self-subscription is complete (or not wanted).
    pub const SELF_SUBSCRIBED: u16 = 8;
    /// It signs off.
    pub const LEAVING: u16 = 16;
    /// Its credentials were rejected: it never tries again in this run.
    pub const REJECTED: u16 = 32;
    /// It comes back to what it lost: an early loss of that is a setback.
    pub const RETURNING: u16 = 64;
    /// It is done: signed off, or never signed on.
    pub const GONE: u16 = 128;
    /// The server stopped answering while it signed off.
    pub const GAVE_UP: u16 = 256;
    /// It is to watch its contacts: a held user watches again after a loss.
    pub const WATCHES: u16 = 512;
    /// Its subscription to itself was refused for good.
    pub const OWN_REFUSED: u16 = 1024;
}

/// One user of the shard.
#[derive(Debug)]
pub(super) struct User {
    pub flags: u16,
    pub flow: Flow,
    /// When the flow began to be opened; then when its first activity was intended.
    pub connect_intended: Time,
    pub connect_sent: Time,

    pub register_cseq: u32,
    pub register_tx: Slot,
    pub register_timer: TimerId,
    /// When it asks again for what it lacks.
    pub repair_timer: TimerId,
    /// Attempts in a row that came to nothing.
    pub setbacks: u8,

    pub self_dialog: Slot,
    /// First dialog in which it watches somebody; linked by [`Dialog::next_watch`].
    pub watches: Slot,
    /// First dialog in which it is watched; linked by [`Dialog::next_watcher`].
    pub watchers: Slot,

    pub publish_cseq: u32,
    pub publish_tx: Slot,
    /// Number of its latest publication; 0 before the first.
    pub sequence: u32,
    pub etag: Text,
    pub publish_timer: TimerId,
    /// Oldest and newest publication that is not closed; linked by [`Publication::next`].
    pub oldest: Slot,
    pub newest: Slot,
    /// Publications that wait for their turn; linked by [`Waiting::next`].
    pub waiting_head: Slot,
    pub waiting_tail: Slot,

    pub auth: <Scheme as Protection>::State,
}

impl Default for User {
    fn default() -> Self {
        User {
            flags: is::GONE,
            flow: NO_FLOW,
            connect_intended: Time(0),
            connect_sent: Time(0),
            register_cseq: 0,
            register_tx: NONE,
            register_timer: TimerId::NONE,
            repair_timer: TimerId::NONE,
            setbacks: 0,
            self_dialog: NONE,
            watches: NONE,
            watchers: NONE,
            publish_cseq: 0,
            publish_tx: NONE,
            sequence: 0,
            etag: Text::default(),
            publish_timer: TimerId::NONE,
            oldest: NONE,
            newest: NONE,
            waiting_head: NONE,
            waiting_tail: NONE,
            auth: Default::default(),
        }
    }
}

impl User {
    #[inline]
    pub fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    pub fn set(&mut self, flag: u16, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }
}

/// Where requests inside a dialog go; shared by all dialogs that agree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Remote target and route set.
    pub target: adsum_sip::dialog::Target,
    /// Where the bytes go.
    pub hop: Hop,
    /// Over UDP the port that it goes for: where bytes go depends on where a port leads.
    pub flow: Flow,
}

/// What a dialog is about; bits of [`Dialog::flags`].
pub(super) mod has {
    /// A 2xx to the SUBSCRIBE came.
    pub const ANSWER: u16 = 1;
    /// A NOTIFY came.
    pub const NOTIFY: u16 = 2;
    /// A NOTIFY said `active`.
    pub const ACTIVE: u16 = 4;
    /// We asked it to end.
    pub const LEAVING: u16 = 8;
    /// A NOTIFY said `terminated`.
    pub const TERMINATED: u16 = 16;
    /// A refresh was sent: the NOTIFY after it repeats what we know.
    pub const REFRESHED: u16 = 32;
    /// It is the user's subscription to itself.
    pub const SELF: u16 = 64;
    /// Its first activity is complete and measured.
    pub const SETTLED: u16 = 128;
    /// A refresh was granted, and the NOTIFY that it owes has not come: timer N runs.
    pub const AWAITS: u16 = 256;
    /// `lync`: it is the one dialog in which a user watches, and shows nobody by itself.
    pub const CARRIER: u16 = 512;
    /// `lync`: no dialog of its own, but what its owner's carrier shows of one publisher.
    pub const RIDES: u16 = 1024;
    /// It rides, and was not asked for yet.
    pub const QUEUED: u16 = 2048;
    /// It rides, and the SUBSCRIBE that asks for it has no answer yet.
    pub const ASKED: u16 = 4096;
    /// A carrier with riders that were not shown yet.
    pub const PENDING: u16 = 8192;
}

/// One SUBSCRIBE dialog (RFC 6665 §4.4.1).
#[derive(Debug)]
pub(super) struct Dialog {
    pub flags: u16,
    pub owner: u32,
    /// Whose presence it shows.
    pub publisher: u32,
    pub tx: Slot,
    pub timer: TimerId,
    pub local_cseq: u32,
    /// CSeq, branch and answer of the last NOTIFY: enough to answer its
    /// retransmission without keeping the answer.
    pub remote_cseq: u32,
    pub remote_branch: u32,
    pub remote_status: u16,
    pub remote_tag: Text,
    pub target: Option<Rc<Target>>,
    /// The activity that runs: subscribe or unsubscribe.
    pub stage: Stage,
    pub intended: Time,
    pub sent: Time,
    /// When the server will end it unless it is refreshed; `NEVER` until it was said.
    pub until: Time,
    /// Newest sequence of the publisher that it showed.
    pub seen: u32,
    /// It owes only publications after this one.
    pub expects_after: u32,
    /// The next one of the same publisher, and of the same owner.
    pub next_watcher: Slot,
    pub next_watch: Slot,
}

impl Dialog {
    #[inline]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Register,
    RegisterRefresh,
    Unregister,
    Subscribe,
    SubscribeRefresh,
    Unsubscribe,
    Publish,
    PublishRefresh,
    Unpublish,
    /// `lync`: who may see what a user publishes.
    SetMembers,
    /// `lync`: that an endpoint is there, its device and its state: the end of a sign-on.
    Present,
}

impl Purpose {
    pub fn is_refresh(self) -> bool {
        matches!(self, Purpose::RegisterRefresh | Purpose::SubscribeRefresh | Purpose::PublishRefresh)
    }

    /// The activity that its failure is booked under.
    pub fn activity(self, own: bool) -> Activity {
        match self {
            Purpose::Register | Purpose::RegisterRefresh => Activity::Register,
            Purpose::Unregister => Activity::Unregister,
            Purpose::Subscribe | Purpose::SubscribeRefresh if own => Activity::SelfSubscribe,
            Purpose::Subscribe | Purpose::SubscribeRefresh => Activity::Subscribe,
            Purpose::Unsubscribe => Activity::Unsubscribe,
            Purpose::Publish | Purpose::PublishRefresh | Purpose::Present => Activity::Publish,
            Purpose::Unpublish => Activity::Unpublish,
            Purpose::SetMembers => Activity::SelfSubscribe,
        }
    }
}

/// What was already tried for a request; bits of [`Transaction::tried`].
pub(super) mod tried {
    /// A retry with the server's `Min-Expires` (423).
    pub const MIN_EXPIRES: u8 = 1;
    /// A publication from scratch after 412.
    pub const FROM_SCRATCH: u8 = 2;
    /// The target of a 301 or 302: its URI is the Request-URI.
    pub const ELSEWHERE: u8 = 4;
    /// `lync`: one publication with the versions of a 409; it counts up in two bits.
    pub const CORRECTED: u8 = 8;
    /// The two bits.
    pub const CORRECTIONS: u8 = 24;
    /// `lync`: once more under a new association, which a REGISTER made for it.
    pub const RENEWED: u8 = 32;
    /// An answer came that its server had not signed, and counts as never received.
    pub const UNPROVEN: u8 = 64;
}

/// One request on its way.
#[derive(Debug)]
pub(super) struct Transaction {
    pub client: ClientTransaction,
    pub timer: TimerId,
    pub purpose: Purpose,
    pub tried: u8,
    /// How often it was challenged.
    pub challenges: u8,
    pub attempts: Attempts,
    /// The request has header lines that protect it.
    pub protected: bool,
    /// How many targets it was sent to before.
    pub moves: u8,
    /// How often it was redirected.
    pub redirects: u8,
    pub user: u32,
    /// For subscriptions.
    pub dialog: Slot,
    /// For publications with a document.
    pub publication: Slot,
    pub hop: Hop,
    pub cseq: u32,
    /// What `Expires` asks for.
    pub expires: u32,
    pub stage: Stage,
    pub intended: Time,
    pub due: Time,
    /// First transmission of the activity's first request.
    pub sent: Time,
    /// The bytes, for retransmission over UDP and for transcripts.
    pub bytes: Vec<u8>,
}

impl Transaction {
    /// What a scheme may have to know of the request: nothing, if it did nothing for it.
    pub fn protected_bytes(&self) -> &[u8] {
        if self.protected { &self.bytes } else { b"" }
    }
}

/// One publication until its PUBLISH is answered and every expectation ended.
#[derive(Debug)]
pub(super) struct Publication {
    pub publisher: u32,
    pub sequence: u32,
    pub stage: Stage,
    pub intended: Time,
    pub sent: Time,
    pub timer: TimerId,
    /// Opened with, and still open.
    pub expected: u32,
    pub remaining: u32,
    pub missed: u32,
    /// Latest receive stamp among those that ended.
    pub last: Time,
    pub answered: bool,
    pub written: bool,
    pub next: Slot,
}

/// A publication that waits until the previous PUBLISH is answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub stage: Stage,
    pub intended: Time,
    pub next: Slot,
}

/// How far the workflow of a pair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkState {
    /// The pair rests.
    Idle,
    /// Both connect, register, subscribe to themselves.
    SigningOn,
    /// The subscriber subscribes to the publisher.
    Subscribing,
    /// PUBLISH and NOTIFY are on their way.
    Publishing,
    /// Both sign off.
    SigningOff,
}

/// How a workflow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WorkVerdict {
    /// It has not.
    Open,
    /// The notification was seen.
    Ok,
    /// Somebody did not answer in time.
    TimedOut,
    /// Somebody answered with an error.
    Failed,
}

/// One pair and its workflow, if it runs one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub state: WorkState,
    pub verdict: WorkVerdict,
    pub stage: Stage,
    pub intended: Time,
    pub due: Time,
    /// First byte of the first REGISTER, or the beginning of the connection.
    pub sent: Time,
    pub started: bool,
}

impl Default for Pair {
    fn default() -> Self {
        Pair {
            state: WorkState::Idle,
            verdict: WorkVerdict::Open,
            stage: Stage::WARMUP,
            intended: Time(0),
            due: Time(0),
            sent: Time(0),
            started: false,
        }
    }
}

/// What a timer of the wheel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// Timers E, F of a transaction.
    Transaction(Slot),
    /// First NOTIFY, refresh, or terminating NOTIFY of a dialog.
    Dialog(Slot),
    /// Deadline of a publication.
    Deadline(Slot),
    /// Refresh of a registration.
    Registration(u32),
    /// A held user asks again for what it lacks.
    Repair(u32),
    /// Refresh of a publication.
    Document(u32),
    /// `lync`: the connection of a user is kept alive.
    KeepAlive(u32),
}

/// A [`Timer`] in four bytes: its kind in the upper three bits. A shard has less than 2²⁹ of anything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key(u32);

const KIND: u32 = 29;

impl From<Timer> for Key {
    fn from(timer: Timer) -> Key {
        let (kind, of) = match timer {
            Timer::Transaction(slot) => (0, slot),
            Timer::Dialog(slot) => (1, slot),
            Timer::Deadline(slot) => (2, slot),
            Timer::Registration(user) => (3, user),
            Timer::Repair(user) => (4, user),
            Timer::Document(user) => (5, user),
            Timer::KeepAlive(user) => (6, user),
        };
        debug_assert!(of < 1 << KIND, "{of}");
        Key(kind << KIND | of & ((1 << KIND) - 1))
    }
}

impl From<Key> for Timer {
    fn from(Key(key): Key) -> Timer {
        let of = key & ((1 << KIND) - 1);
        match key >> KIND {
            0 => Timer::Transaction(of),
            1 => Timer::Dialog(of),
            2 => Timer::Deadline(of),
            3 => Timer::Registration(of),
            4 => Timer::Repair(of),
            5 => Timer::Document(of),
            _ => Timer::KeepAlive(of),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_users_fit_into_a_few_hundred_megabytes() {
        assert!(size_of::<User>() <= 104, "{}", size_of::<User>());
        assert!(size_of::<Dialog>() <= 88, "{}", size_of::<Dialog>());
        // What `lync` adds for each of its users, a GRUU of some 70 bytes not counted.
        let endpoint = size_of::<super::super::lync_state::Endpoint>();
        assert!(endpoint <= 136, "{endpoint}");
    }
}
