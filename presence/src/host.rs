//! What a [`Population`](crate::Population) asks of whoever drives it: the
//! agent's shard, a simulated wire, a fuzzer.
//!
//! All calls go down: the population calls the host while it handles an
//! entry point, and nothing is queued in between. What the host measures with
//! is the host's business; the population only says what began, when it was
//! intended, when its first byte left and when it ended.

use std::net::SocketAddr;

use adsum_sip::Time;
use adsum_sip::locate::Failure as Trouble;

/// One step of the workflow, as failures name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Activity {
    /// TCP connected, TLS handshake finished.
    Connect,
    /// REGISTER and its refreshes.
    Register,
    /// The subscription of a user to itself.
    SelfSubscribe,
    /// The subscription of the subscriber to the publisher.
    Subscribe,
    /// PUBLISH with a document, and its refreshes.
    Publish,
    /// The NOTIFY that a publication owes to a subscriber.
    Notify,
    /// PUBLISH that removes the document.
    Unpublish,
    /// SUBSCRIBE with `Expires: 0`.
    Unsubscribe,
    /// REGISTER with `expires=0`.
    Unregister,
}

impl Activity {
    /// The word in files and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Activity::Connect => "connect",
            Activity::Register => "register",
            Activity::SelfSubscribe => "self_subscribe",
            Activity::Subscribe => "subscribe",
            Activity::Publish => "publish",
            Activity::Notify => "notify",
            Activity::Unpublish => "unpublish",
            Activity::Unsubscribe => "unsubscribe",
            Activity::Unregister => "unregister",
        }
    }
}

/// A latency that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Measure {
    /// Until a connection is usable.
    Connect,
    /// Until the 2xx with our Contact.
    Register,
    /// Until the later of 2xx and first NOTIFY, which `lync` may send in the 2xx.
    SelfSubscribe,
    /// Until the 2xx.
    Subscribe,
    /// Until the first active NOTIFY of the dialog.
    SubscribeToNotify,
    /// Until the 2xx with an entity tag.
    Publish,
    /// Until the NOTIFY with this or a later marker.
    PublishToNotify,
    /// Until the publication's last expectation is met; only with several.
    NotifyFanoutLast,
    /// Until the later of 2xx and the terminating NOTIFY.
    Unsubscribe,
    /// Until the 2xx.
    Unregister,
    /// From the arrival to the notification.
    Workflow,
    /// Held users: from the loss of a registration, a subscription or the
    /// connection until the user has all of them again.
    Recovery,
}

/// The part of a run that something counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Before the first step.
    Warmup,
    /// The rate changes.
    Ramp,
    /// The rate stands: what statistics are made of.
    Hold,
    /// After the last step.
    Drain,
}

/// Step and phase of an intended instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stage {
    /// 0 is the warm-up; the last one is the drain.
    pub step: u16,
    /// Phase within the step.
    pub phase: Phase,
}

impl Stage {
    /// Before the first step.
    pub const WARMUP: Stage = Stage { step: 0, phase: Phase::Warmup };
}

/// A success: three instants of one clock.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// What was measured.
    pub measure: Measure,
    /// Where it counts.
    pub stage: Stage,
    /// What the schedule said; the instant it was due for later activities.
    pub intended: Time,
    /// Just before the first byte of the first request left.
    pub sent: Time,
    /// The receive stamp of the message that decided.
    pub ended: Time,
}

/// Things that are counted; each is explained where the host names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the counters' names")]
pub enum Counter {
    Offered,
    Sent,
    NotStarted,
    PublishOk,
    PublishFailed,
    WorkflowOk,
    WorkflowTimedOut,
    WorkflowFailed,
    Expected,
    Delivered,
    Superseded,
    Missed,
    MissedDue,
    VoidPublishFailed,
    VoidInterrupted,
    NotExpected,
    Duplicate,
    Late,
    ReorderedCseq,
    ReorderedState,
    Converged,
    NotConverged,
    Reconnect,
    SubscriptionLost,
    WaitedPair,
    WaitedPublication,
    WriteBlocked,
    Unmatched,
    UsersRejected,
    EtagConflict,
    RefreshRegister,
    RefreshSubscribe,
    RefreshPublish,
    /// A message that the scanner refused.
    Malformed,
    /// A log-off step that found nothing left to do (412, 481).
    AlreadyGone,
    /// A message whose proof of the server's identity (`rspauth`) was wrong.
    AuthMismatch,
    /// `lync`: a publication that named another version than the server held (409).
    VersionConflict,
}

impl Counter {
    /// How many there are.
    pub const COUNT: usize = Counter::VersionConflict as usize + 1;
}

/// Methods that are told apart in counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each variant is the method of that name")]
pub enum Method {
    Register,
    Subscribe,
    Publish,
    Notify,
    Service,
    Benotify,
    Other,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 7] = [
        Method::Register,
        Method::Subscribe,
        Method::Publish,
        Method::Notify,
        Method::Service,
        Method::Benotify,
        Method::Other,
    ];

    /// The word on the wire; `OTHER` for the rest.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Method::Register => "REGISTER",
            Method::Subscribe => "SUBSCRIBE",
            Method::Publish => "PUBLISH",
            Method::Notify => "NOTIFY",
            Method::Service => "SERVICE",
            Method::Benotify => "BENOTIFY",
            Method::Other => "OTHER",
        }
    }

    /// Reads a method; they are case-sensitive.
    #[inline]
    #[must_use]
    pub fn of(method: &[u8]) -> Method {
        match method {
            b"REGISTER" => Method::Register,
            b"SUBSCRIBE" => Method::Subscribe,
            b"PUBLISH" => Method::Publish,
            b"NOTIFY" => Method::Notify,
            b"SERVICE" => Method::Service,
            b"BENOTIFY" => Method::Benotify,
            _ => Method::Other,
        }
    }
}

/// Who has to act on a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The pool did not do what it should.
    Pool,
    /// Accounts, names, permissions.
    Configuration,
    /// Ourselves.
    Generator,
    /// What lies between.
    Network,
}

/// One failure, with what led to it.
#[derive(Debug)]
pub struct Failure<'a> {
    /// Which step failed.
    pub activity: Activity,
    /// Where it counts.
    pub stage: Stage,
    /// Who has to act.
    pub class: Class,
    /// `sip:503`, `timeout:notify`, …; always prefixed.
    pub code: &'a str,
    /// The reason phrase, or what happened in a few words.
    pub reason: &'a [u8],
    /// `ms-diagnostics`, `Reason`, `Warning`, or what to do about it.
    pub diagnosis: &'a [u8],
    /// The user it happened to.
    pub user: u32,
    /// When.
    pub at: Time,
    /// The last request, if there was one.
    pub request: &'a [u8],
    /// The message that decided, if there was one.
    pub response: &'a [u8],
}

/// Where a user's messages travel: a UDP port of the shard, or a connection.
/// With a connection for each user its number is the user's.
pub type Flow = u32;

/// The answer to [`Host::open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Usable now.
    Ready(Flow),
    /// [`Population::on_flow`](crate::Population::on_flow) will tell.
    Connecting(Flow),
}

/// What became of a flow.
#[derive(Debug, Clone)]
pub enum FlowEvent {
    /// Connected at that instant, handshake included.
    Open(Time),
    /// Could not connect.
    Failed(FlowError),
    /// Was connected, is not any more.
    Closed(FlowError),
}

/// Why a flow could not be opened or ended.
#[derive(Debug, Clone)]
pub struct FlowError {
    /// Who has to act.
    pub class: Class,
    /// `transport:connect`, `transport:tls`, `transport:closed`, …
    pub code: &'static str,
    /// A few words.
    pub reason: String,
    /// What to do about it.
    pub diagnosis: String,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// Where the flow leads.
    Target,
    /// Another address of the pool; UDP only.
    Address(SocketAddr),
    /// An address that nobody allowed: nothing may be sent there.
    Blocked(SocketAddr),
}

/// The answer to [`Host::redirect`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirect {
    /// This host does not follow: the redirection stands as a failure that names its target.
    No,
    /// The user has another flow from now on, which leads there.
    To(Opened),
    /// An address that nobody allowed: nothing may be sent there.
    Blocked(SocketAddr),
}

/// Where a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Source address and port.
    pub from: SocketAddr,
    /// True if it is not where the flow leads.
    pub foreign: bool,
}

/// The answer to [`Host::send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Handed to the kernel; the clock was read just before.
    At(Time),
    /// The kernel's buffer is full; on a stream the bytes are kept and follow.
    Blocked(Time),
    /// There is no such flow any more.
    Gone(Time),
    /// It leaves with others, [`Population::flushed`](crate::Population::flushed) tells when. The
    /// number is its place in what is told then.
    Queued(Time, u32),
}

impl Sent {
    /// When it was tried.
    #[must_use]
    pub fn at(self) -> Time {
        match self {
            Sent::At(at) | Sent::Blocked(at) | Sent::Gone(at) | Sent::Queued(at, _) => at,
        }
    }
}

/// What `check --verbose` tells.
#[derive(Debug, Clone, Copy)]
pub enum Progress {
    /// An activity of a user began.
    Started(Activity),
    /// It ended well; began and ended.
    Completed(Activity, Time, Time),
    /// The account has so many other endpoints on line (`lync`): what they publish is seen, too.
    OtherEndpoints(u32),
    /// The registrar says that the user came through an Edge server (`lync`).
    Remote,
    /// The workflow of this user's pair has come to its end, whichever: both sign off.
    SigningOff,
}

/// Sockets, measuring and counting, as a population sees them.
pub trait Host {
    /// Opens a flow for a user.
    fn open(&mut self, now: Time, user: u32) -> Opened;
    /// The user needs its flow no more.
    fn close(&mut self, user: u32, flow: Flow);
    /// Writes one message.
    fn send(&mut self, user: u32, flow: Flow, hop: Hop, bytes: &[u8]) -> Sent;
    /// Answers to where a request came from.
    fn reply(&mut self, flow: Flow, origin: Origin, bytes: &[u8]) -> Sent;
    /// Appends `host:port` of our end, for Via and Contact.
    fn write_local(&self, flow: Flow, out: &mut Vec<u8>);
    /// Where a URI of the pool leads: a remote target or a route.
    fn hop(&mut self, flow: Flow, uri: &[u8]) -> Hop;
    /// The server sends the REGISTER of a user elsewhere (301, 302, 305 of RFC 3261 §21.3), and its
    /// flow is a stream. A host that follows gives up the user's flow as by [`Host::close`], reports
    /// nothing of it any more, and opens one to where `uri` leads; it may have the same number.
    /// Everything of the user travels there until it signs off or loses it. Asked at most five times
    /// for one registration.
    fn redirect(&mut self, _now: Time, _user: u32, _uri: &[u8]) -> Redirect {
        Redirect::No
    }

    /// The server behind a flow did not do its part (RFC 3263 §4.3): a 503, or
    /// silence until timer F. `true` if what has no ties to it should go elsewhere,
    /// where the next [`Host::open`] leads.
    fn target_failed(&mut self, _now: Time, _flow: Flow, _trouble: Trouble) -> bool {
        false
    }

    /// A success.
    fn sample(&mut self, sample: &Sample);
    /// The activity had no answer within its limit: it ranks above all successes.
    fn censored(&mut self, measure: Measure, stage: Stage, intended: Time, ended: Time);
    /// An arrival or publication left `sent − due` late.
    fn send_lag(&mut self, stage: Stage, due: Time, sent: Time);
    /// Something happened `n` times, at `at`.
    fn count(&mut self, stage: Stage, counter: Counter, at: Time, n: u64);
    /// A message left; `code` 0 for a request. `again` for a retransmission.
    fn message_sent(&mut self, method: Method, code: u16, again: bool);
    /// A message came; `code` 0 for a request. `again` for a retransmission.
    fn message_received(&mut self, method: Method, code: u16, again: bool);
    /// Something failed.
    fn failed(&mut self, failure: &Failure<'_>);
    /// For those who watch a single pair.
    fn progress(&mut self, _user: u32, _progress: Progress) {}
}
