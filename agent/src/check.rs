//! One pair, one workflow, and an answer for an administrator: the synthetic
//! transaction behind `adsum check`.
//!
//! It drives the same shard as a load run does, with one pair in it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use adsum_presence::accounts::{Accounts, Row};
use adsum_presence::host::{Activity, Class, Progress};
use adsum_presence::population::{Config, Dialect, Kind, Transport};
use adsum_sip::ids::{LIMIT_30, Namespace, mix};

pub use crate::engine::ntlm;
use crate::failures::{FailureRow, class_name};
use crate::net::allow::Allow;
use crate::net::clock;
use crate::net::tls::TlsOptions;
use crate::pace::Arrivals;
use crate::shard::{self, Command, Event, ShardPlan};

/// Seconds after which a publication of a check disappears by itself, should
/// its withdrawal get lost.
const PUBLISH_EXPIRES: u32 = 120;
/// Time for signing off after the answer is known; then the last words are sent without waiting.
const SIGN_OFF: Duration = Duration::from_secs(5);
/// Time for everything before the notification is waited for: four transactions that nobody answers.
const WORKFLOW: Duration = Duration::from_secs(4 * 32);

/// Tells checks that they are to end before they are done; shared by all of a program.
#[derive(Debug, Default)]
pub struct Stop(AtomicU8);

impl Stop {
    /// Nobody has said so yet.
    #[must_use]
    pub const fn new() -> Self {
        Stop(AtomicU8::new(0))
    }

    /// Once: take back what was published, and sign off. Twice: without waiting for answers.
    pub fn ask(&self) {
        // More than twice is twice.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |asked| {
            Some(asked + 1).filter(|asked| *asked <= 2)
        });
    }

    /// How often it was asked.
    #[must_use]
    pub fn asked(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What to check.
#[derive(Debug, Clone)]
pub struct Check {
    /// Where the pool is, best first.
    pub targets: Vec<SocketAddr>,
    /// How to talk to it.
    pub transport: Transport,
    /// In which words; [`ntlm`] for the lync dialect's usual way to prove who users are.
    pub dialect: Dialect,
    /// For TLS.
    pub tls: TlsOptions,
    /// Who publishes.
    pub publisher: Row,
    /// Who is to be told.
    pub subscriber: Row,
    /// How long to wait for the notification.
    pub timeout: Duration,
    /// Local address.
    pub source: Option<IpAddr>,
    /// What stands in Via and Contact.
    pub advertise: Option<String>,
    /// Where traffic may go besides loopback.
    pub allow: Allow,
    /// Where to write the messages.
    pub trace: Option<PathBuf>,
}

/// One activity as `--verbose` tells it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// It began: who (true for the publisher) and what.
    Started(bool, Activity),
    /// It is complete; seconds.
    Completed(bool, Activity, f64),
}

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// True if the notification came.
    pub success: bool,
    /// From the first register to the notification.
    pub latency: Duration,
    /// How long it took in any case.
    pub elapsed: Duration,
    /// `404, Not Found`, or what happened in a few words.
    pub error: String,
    /// What to do about it.
    pub diagnosis: String,
    /// `sip:404`, …; empty on success.
    pub code: String,
    /// The activity that failed; empty on success.
    pub activity: String,
    /// Who has to act; empty on success.
    pub class: &'static str,
    /// The user it failed for, where it is known.
    pub account: String,
    /// Users whose credentials were refused: nobody should try them again.
    pub rejected: Vec<String>,
    /// What the pool calls itself.
    pub server: String,
    /// Remarks: other endpoints of the accounts, and what went wrong while signing off.
    pub warnings: Vec<String>,
    /// It was told to stop before it had an answer.
    pub interrupted: bool,
}

/// Runs one check; `tell` hears of every activity while it runs. However it ends, also when it is told
/// to [`Stop`], what was published is taken back: with an answer if there is one within [`SIGN_OFF`].
#[must_use]
pub fn run(check: &Check, stop: &Stop, mut tell: impl FnMut(Step)) -> Answer {
    let began = Instant::now();
    let (progress, steps) = mpsc::sync_channel::<(u32, Progress)>(256);
    let plan = plan(check);
    let (sender, mut events) = tokio::sync::mpsc::channel(shard::EVENTS);
    let watcher = move || -> Option<shard::Watcher> {
        // A listener that is too slow misses a line, never holds up the shard.
        Some(Box::new(move |user, what| {
            let _ = progress.try_send((user, what));
        }))
    };
    let mut shard = match shard::spawn("check".to_owned(), 0, plan, sender, watcher) {
        Ok(shard) => shard,
        Err(error) => {
            return Answer {
                error: error.to_string(),
                diagnosis: "the check could not be started on this host".to_owned(),
                code: "generator:start".to_owned(),
                class: class_name(Class::Generator),
                ..Answer::default()
            };
        }
    };
    let mut answer = Answer::default();
    let mut seen = Seen { is_lync: matches!(check.dialect, Dialect::Lync(_)), ..Seen::default() };
    // What was said to the shard last: nothing, `Leave`, `LeaveNow`.
    let mut said = 0;
    let limit = check.timeout + WORKFLOW;
    loop {
        while let Ok((user, what)) = steps.try_recv() {
            seen.note(user, what, &mut tell);
        }
        match events.try_recv().map(|(_, event)| event) {
            Ok(Event::Ready(facts)) => {
                answer.server = facts.server;
                drop(shard.commands.try_send(Command::Drain));
            }
            Ok(Event::NotReady(failure)) => {
                // What a workflow failed of is there before it is told to end.
                let ours = said > 0 && failure.code == "generator:not_ready";
                seen.failure = Some(*failure).filter(|_| !ours);
                // Both signed off: nobody is there any more for a notification that is still owed.
                drop(shard.commands.try_send(Command::Leave));
            }
            Ok(Event::Seconds(_, failures)) => seen.failures.extend(failures),
            Ok(Event::Status(_)) => {}
            // Drained or aborted by us, or it had something to say before; else its thread died.
            Ok(Event::Done { interrupted, .. }) => {
                seen.stopped = interrupted && said == 0;
                break;
            }
            Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => {
                seen.stopped = true;
                break;
            }
            Err(tokio::sync::mpsc::error::TryRecvError::Empty) => {
                std::thread::sleep(Duration::from_millis(1))
            }
        }
        let (asked, late) = (stop.asked(), began.elapsed() > limit);
        if said == 0 && (asked > 0 || late) {
            seen.cut_short(late);
            said = 1;
            drop(shard.commands.try_send(Command::Leave));
        }
        if said < 2 && (asked > 1 || seen.leaving.is_some_and(|since| since.elapsed() > SIGN_OFF)) {
            said = 2;
            drop(shard.commands.try_send(Command::LeaveNow));
        }
    }
    shard.join();
    while let Ok((user, what)) = steps.try_recv() {
        seen.note(user, what, &mut tell);
    }
    if seen.lost_its_publication() && stop.asked() < 2 {
        seen.withdrawn = withdraw_anew(check, stop);
    }
    answer.elapsed = began.elapsed();
    answer.interrupted = seen.interrupted;
    answer.rejected = seen.rejected([&check.publisher, &check.subscriber]);
    seen.conclude(&mut answer);
    answer
}

/// The publisher lost registration or connection, and its document stands in its name yet (`lync`): signs
/// on once more, and off in order. `true` if the pool confirmed that what it held is withdrawn.
fn withdraw_anew(check: &Check, stop: &Stop) -> bool {
    let mut plan = plan(check);
    plan.config.kind = Kind::Held;
    // The trace of the check itself is not to be written over.
    plan.trace = None;
    if let Dialect::Lync(options) = &mut plan.config.dialect {
        options.takes_back = true;
    }
    let (progress, steps) = mpsc::sync_channel::<(u32, Progress)>(256);
    let (sender, mut events) = tokio::sync::mpsc::channel(shard::EVENTS);
    let watcher = move || -> Option<shard::Watcher> {
        Some(Box::new(move |user, what| {
            let _ = progress.try_send((user, what));
        }))
    };
    let Ok(mut shard) = shard::spawn("check".to_owned(), 0, plan, sender, watcher) else { return false };
    let began = Instant::now();
    let mut on = [false; 2];
    let (mut withdrawn, mut said) = (false, 0);
    let mut note = |what| {
        if let (user, Progress::Completed(activity, ..)) = what {
            let user: u32 = user;
            on[usize::from(user != 0)] |= activity == Activity::SelfSubscribe;
            withdrawn |= user == 0 && activity == Activity::Unpublish;
        }
        on == [true; 2]
    };
    loop {
        match events.try_recv().map(|(_, event)| event) {
            Ok(Event::Done { .. }) | Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => break,
            Ok(_) => {}
            Err(tokio::sync::mpsc::error::TryRecvError::Empty) => {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let both_are_on = steps.try_iter().any(&mut note);
        if said == 0 && both_are_on {
            said = 1;
            drop(shard.commands.try_send(Command::Drain));
        }
        if said < 2 && (stop.asked() > 1 || began.elapsed() > SIGN_OFF) {
            said = 2;
            drop(shard.commands.try_send(Command::LeaveNow));
        }
    }
    shard.join();
    steps.try_iter().for_each(|what| {
        note(what);
    });
    withdrawn
}

#[derive(Default)]
struct Seen {
    first: Option<adsum_sip::Time>,
    ended: Option<adsum_sip::Time>,
    failure: Option<FailureRow>,
    failures: Vec<FailureRow>,
    remarks: Vec<String>,
    /// The engine's thread ended without saying so.
    stopped: bool,
    /// The workflow came to its end, or was cut short: both sign off since then.
    leaving: Option<Instant>,
    /// It was told to stop before there was an answer.
    interrupted: bool,
    is_lync: bool,
    /// A document was written, and not refused.
    published: bool,
    /// It was asked to be taken back.
    withdrawing: bool,
    /// It was taken back, and the pool said so.
    withdrawn: bool,
}

impl Seen {
    fn note(&mut self, user: u32, what: Progress, tell: &mut impl FnMut(Step)) {
        let publisher = user == 0;
        match what {
            Progress::Started(activity) => {
                if self.first.is_none() {
                    self.first = Some(clock::now());
                }
                self.published |= activity == Activity::Publish;
                self.withdrawing |= activity == Activity::Unpublish;
                tell(Step::Started(publisher, activity));
            }
            Progress::Completed(activity, began, ended) => {
                if activity == Activity::Connect || activity == Activity::Register {
                    self.first = Some(self.first.map_or(began, |first| first.min(began)));
                }
                match activity {
                    Activity::Notify => self.ended = Some(ended),
                    Activity::Unpublish => self.withdrawn = true,
                    _ => {}
                }
                tell(Step::Completed(publisher, activity, ended.since(began) as f64 / 1e9));
            }
            Progress::OtherEndpoints(others) => {
                let who = if publisher { "publisher" } else { "subscriber" };
                let endpoints = if others == 1 { "endpoint" } else { "endpoints" };
                self.remarks.push(format!(
                    "the {who}'s account has {others} other {endpoints} on line: somebody works with it, and the \
                     check changes what they see; use accounts of its own"
                ));
            }
            Progress::SigningOff => self.leaving = self.leaving.or_else(|| Some(Instant::now())),
            Progress::Remote => {
                let who = if publisher { "publisher" } else { "subscriber" };
                self.remarks.push(format!("the {who} came through an Edge server (RemoteUser)"));
            }
        }
    }

    /// The workflow is told to go no further: it took too long, or somebody asked for that.
    fn cut_short(&mut self, late: bool) {
        self.interrupted = !late && self.ended.is_none() && self.leaving.is_none();
        self.leaving = self.leaving.or_else(|| Some(Instant::now()));
    }

    /// True if something was published, and not refused.
    fn has_published(&self) -> bool {
        let refused = |row: &FailureRow| {
            row.activity == Activity::Publish
                && (row.code.starts_with("sip:") || row.code.starts_with("auth:"))
        };
        self.published && !self.failure.iter().chain(&self.failures).any(refused)
    }

    /// True if nobody was there any more to ask for the withdrawal of what does not end by itself.
    fn lost_its_publication(&self) -> bool {
        self.is_lync && self.has_published() && !self.withdrawing
    }

    /// What stays behind at the pool, if anything may.
    fn left_behind(&self) -> Option<String> {
        if self.withdrawn || !self.has_published() {
            return None;
        }
        let until = if self.is_lync {
            "its note and state may stay until somebody publishes for the account again, such as the next check".to_owned()
        } else {
            format!("if it stayed, it disappears by itself within {PUBLISH_EXPIRES} s")
        };
        Some(format!("the pool did not confirm that what was published is withdrawn: {until}"))
    }

    /// Whose credentials were refused. Registrars say it with a 403, too.
    fn rejected(&self, users: [&Row; 2]) -> Vec<String> {
        let refused = |row: &&FailureRow| {
            row.code == "auth:rejected" || row.code == "sip:403" && row.activity == Activity::Register
        };
        let mut rejected = Vec::new();
        for row in self.failure.iter().chain(&self.failures).filter(refused) {
            // Failures of a kind are added up, and the row names the first of them.
            if row.count > 1 {
                return users.map(|user| String::from_utf8_lossy(&user.uri).into_owned()).to_vec();
            }
            rejected.push(row.who.clone());
        }
        rejected.sort();
        rejected.dedup();
        rejected
    }

    fn conclude(mut self, answer: &mut Answer) {
        answer.warnings.append(&mut self.remarks);
        answer.warnings.extend(self.left_behind());
        if let (Some(first), Some(ended)) = (self.first, self.ended) {
            answer.success = true;
            answer.latency = Duration::from_nanos(ended.since(first));
            for failure in &self.failures {
                answer.warnings.push(format!(
                    "{}: {}, {}",
                    failure.activity.name(),
                    failure.code,
                    failure.reason
                ));
            }
            return;
        }
        let failure = self.failure.take().or_else(|| self.failures.first().cloned());
        if self.interrupted && failure.is_none() {
            answer.error = "interrupted by a signal".to_owned();
            answer.diagnosis = "nothing was found out about the pool; both users signed off".to_owned();
            answer.code = "generator:interrupted".to_owned();
            answer.class = class_name(Class::Generator);
            return;
        }
        if failure.is_none() && self.stopped {
            answer.error = "the thread of the check ended without an answer".to_owned();
            answer.diagnosis =
                "this is a mistake of adsum: please report it with what it printed before".to_owned();
            answer.code = "generator:stopped".to_owned();
            answer.class = class_name(Class::Generator);
            return;
        }
        let Some(failure) = failure else {
            answer.error = "nothing was heard within the time limit".to_owned();
            answer.diagnosis = "nothing answers at the target: check address, port and transport".to_owned();
            answer.code = "timeout:transaction".to_owned();
            answer.class = class_name(Class::Network);
            return;
        };
        answer.error = match failure.code.strip_prefix("sip:") {
            Some(code) => format!("{code}, {}", failure.reason),
            None => failure.reason.clone(),
        };
        answer.diagnosis = failure.diagnosis;
        answer.code = failure.code;
        answer.class = class_name(failure.class);
        answer.activity = failure.activity.name().to_owned();
        answer.account = failure.who;
    }
}

fn plan(check: &Check) -> ShardPlan {
    let chance = mix(clock::unix_ns() as u64 ^ u64::from(std::process::id()) << 40);
    let run = chance as u32 % LIMIT_30;
    ShardPlan {
        config: Config {
            namespace: Namespace { run, shard: 0, key: mix(chance) },
            transport: check.transport,
            kind: Kind::Workflow,
            reuse_nonce: true,
            self_subscribe: true,
            expires: 600,
            publish_expires: PUBLISH_EXPIRES,
            deadline: u64::try_from(check.timeout.as_nanos()).unwrap_or(u64::MAX),
            dialect: check.dialect.clone(),
        },
        accounts: Accounts::Rows {
            rows: vec![check.publisher.clone(), check.subscriber.clone()],
            pairs: vec![0],
        },
        pairs_total: 1,
        seed: chance,
        steps: Vec::new(),
        arrivals: Arrivals::Constant,
        targets: check.targets.clone(),
        tls: (check.transport == Transport::Tls).then(|| check.tls.clone()),
        shared_connections: false,
        allow: check.allow.clone(),
        advertise: check.advertise.clone(),
        sources: check.source.into_iter().collect(),
        register_rate_mhz: 0,
        subscribe_rate_mhz: 0,
        max_rate_mhz: 0,
        max_in_flight: 0,
        settle_ns: 0,
        fan_out: None,
        quantum_ns: 0,
        gap_ns: 0,
        kernel_stamps: true,
        offset_ns: clock::unix_ns() - clock::now().0 as i64,
        second_opinion: true,
        trace: check.trace.clone(),
        realtime: false,
    }
}
