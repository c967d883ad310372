//! One pair, one workflow, and an answer for an administrator: the synthetic
//! transaction behind `adsum check`.
//!
//! It drives the same shard as a load run does, with one pair in it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use adsum_presence::accounts::{Accounts, Row};
use adsum_presence::host::{Activity, Progress};
use adsum_presence::population::{Config, Dialect, Kind, Transport};
use adsum_sip::ids::{LIMIT_30, Namespace, mix};

pub use crate::engine::ntlm;
use crate::failures::FailureRow;
use crate::net::allow::Allow;
use crate::net::clock;
use crate::net::tls::TlsOptions;
use crate::pace::Arrivals;
use crate::shard::{self, Command, Event, ShardPlan};

/// Seconds after which a publication of a check disappears by itself, should
/// its withdrawal get lost.
const PUBLISH_EXPIRES: u32 = 120;
/// Time for signing off after the answer is known.
const SIGN_OFF: Duration = Duration::from_secs(5);

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
    /// The user it failed for, where it is known.
    pub account: String,
    /// Users whose credentials were refused: nobody should try them again.
    pub rejected: Vec<String>,
    /// What the pool calls itself.
    pub server: String,
    /// Remarks: other endpoints of the accounts, and what went wrong while signing off.
    pub warnings: Vec<String>,
}

/// Runs one check; `tell` hears of every activity while it runs.
#[must_use]
pub fn run(check: &Check, mut tell: impl FnMut(Step)) -> Answer {
    let began = std::time::Instant::now();
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
                ..Answer::default()
            };
        }
    };
    let mut answer = Answer::default();
    let mut seen = Seen::default();
    let mut drained = None;
    let limit = check.timeout + Duration::from_secs(4 * 32);
    loop {
        while let Ok((user, what)) = steps.try_recv() {
            seen.note(user, what, &mut tell);
        }
        match events.try_recv().map(|(_, event)| event) {
            Ok(Event::Ready(facts)) => {
                answer.server = facts.server;
                drop(shard.commands.try_send(Command::Drain));
            }
            Ok(Event::NotReady(failure)) => seen.failure = Some(*failure),
            Ok(Event::Seconds(_, failures)) => seen.failures.extend(failures),
            Ok(Event::Status(_)) => {}
            // Drained or aborted by us, or it had something to say before; else its thread died.
            Ok(Event::Done { interrupted, .. }) => {
                seen.stopped = interrupted && began.elapsed() <= limit;
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
        let over = seen.ended.is_some() || seen.failure.is_some();
        if over && drained.is_none() {
            drained = Some(std::time::Instant::now());
        }
        if drained.is_some_and(|since| since.elapsed() > SIGN_OFF) || began.elapsed() > limit {
            drop(shard.commands.try_send(Command::Abort));
        }
    }
    shard.join();
    while let Ok((user, what)) = steps.try_recv() {
        seen.note(user, what, &mut tell);
    }
    answer.elapsed = began.elapsed();
    answer.rejected = seen.rejected([&check.publisher, &check.subscriber]);
    seen.conclude(&mut answer);
    answer
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
}

impl Seen {
    fn note(&mut self, user: u32, what: Progress, tell: &mut impl FnMut(Step)) {
        let publisher = user == 0;
        match what {
            Progress::Started(activity) => {
                if self.first.is_none() {
                    self.first = Some(clock::now());
                }
                tell(Step::Started(publisher, activity));
            }
            Progress::Completed(activity, began, ended) => {
                if activity == Activity::Connect || activity == Activity::Register {
                    self.first = Some(self.first.map_or(began, |first| first.min(began)));
                }
                if activity == Activity::Notify {
                    self.ended = Some(ended);
                }
                tell(Step::Completed(publisher, activity, ended.since(began) as f64 / 1e9));
            }
            Progress::OtherEndpoints(others) => {
                let who = if publisher { "publisher" } else { "subscriber" };
                self.remarks.push(format!(
                    "the {who}'s account has {others} other endpoints on line: somebody works with it, and the \
                     check changes what they see; use accounts of its own"
                ));
            }
            Progress::Remote => {
                let who = if publisher { "publisher" } else { "subscriber" };
                self.remarks.push(format!("the {who} came through an Edge server (RemoteUser)"));
            }
        }
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
        if failure.is_none() && self.stopped {
            answer.error = "the thread of the check ended without an answer".to_owned();
            answer.diagnosis =
                "this is a mistake of adsum: please report it with what it printed before".to_owned();
            answer.code = "generator:stopped".to_owned();
            return;
        }
        let Some(failure) = failure else {
            answer.error = "nothing was heard within the time limit".to_owned();
            answer.diagnosis = "nothing answers at the target: check address, port and transport".to_owned();
            answer.code = "timeout:transaction".to_owned();
            return;
        };
        answer.error = match failure.code.strip_prefix("sip:") {
            Some(code) => format!("{code}, {}", failure.reason),
            None => failure.reason.clone(),
        };
        answer.diagnosis = failure.diagnosis;
        answer.code = failure.code;
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
