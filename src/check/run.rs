//! Runs checks, up to eight at a time, and hands their lines and answers over
//! in the order of the jobs.
//!
//! Checks that share an account never run at the same time: two of them would
//! sign each other's documents over. And credentials that were refused once
//! are not shown to another pool: no account is locked out by a check.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::SystemTime;

use adsum_agent::check::{Answer, Check, Step, ntlm};
use adsum_agent::engine::lync_options;
use adsum_agent::locate::{self, locate, locate_lync};
use adsum_agent::net::allow::{Allow, Network};
use adsum_agent::net::clock;
use adsum_coordinator::scenario::Dialect;
use adsum_presence::host::Activity;
use adsum_presence::lync::{LyncAuth, LyncOptions};
use adsum_presence::population;

use super::job::Job;
use super::signals::STOP;
use crate::cli::Auth;

/// Checks at a time: each is a thread with a shard, and a waiting one costs nothing.
const AT_A_TIME: usize = 8;

/// What one check came to.
#[derive(Debug)]
pub struct Checked<'j> {
    pub job: &'j Job,
    pub answer: Answer,
    /// When it ended.
    pub at: SystemTime,
}

/// What a check says while it runs, and what it came to in the end.
enum Said {
    Line(String),
    Done(Box<Answer>, SystemTime),
}

/// Runs all jobs. `line` gets what a check tells while it runs, `done` its answer: everything of a
/// job before anything of the next one, and as soon as that is possible.
pub fn run<'j>(
    jobs: &'j [Job],
    verbose: bool,
    mut line: impl FnMut(&str),
    mut done: impl FnMut(&Checked<'j>),
) -> Vec<Checked<'j>> {
    let queue = Queue::new(jobs);
    let (said, hear) = mpsc::channel::<(usize, Said)>();
    let mut answers = Vec::with_capacity(jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..jobs.len().min(AT_A_TIME) {
            let (queue, said) = (&queue, said.clone());
            scope.spawn(move || {
                while let Some((number, refused)) = queue.next() {
                    let job = &jobs[number];
                    // Whoever listens outlives the threads of this scope.
                    let mut say = |line: String| drop(said.send((number, Said::Line(line))));
                    let answer = match refused {
                        _ if STOP.asked() > 0 => interrupted(),
                        Some(answer) => answer,
                        None => one(job, verbose, &mut say),
                    };
                    queue.done(number, &answer);
                    drop(said.send((number, Said::Done(Box::new(answer), SystemTime::now()))));
                }
            });
        }
        drop(said);
        let mut kept: BTreeMap<usize, Vec<Said>> = BTreeMap::new();
        for (number, what) in hear {
            kept.entry(number).or_default().push(what);
            while let Some(all) =
                kept.get_mut(&answers.len()).map(std::mem::take).filter(|all| !all.is_empty())
            {
                for what in all {
                    match what {
                        Said::Line(text) => line(&text),
                        Said::Done(answer, at) => {
                            let checked = Checked { job: &jobs[answers.len()], answer: *answer, at };
                            done(&checked);
                            kept.remove(&answers.len());
                            answers.push(checked);
                        }
                    }
                }
            }
        }
    });
    answers
}

/// Which jobs wait, and whose turn it is.
struct Queue<'j> {
    jobs: &'j [Job],
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// In order.
    waiting: Vec<usize>,
    running: Vec<usize>,
    /// Accounts whose credentials were refused, and by whom.
    refused: BTreeMap<Vec<u8>, String>,
}

impl<'j> Queue<'j> {
    fn new(jobs: &'j [Job]) -> Self {
        let state = State { waiting: (0..jobs.len()).collect(), ..State::default() };
        Queue { jobs, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, with its answer if it may not be tried; `None` when nothing is left.
    fn next(&self) -> Option<(usize, Option<Answer>)> {
        let mut state = self.lock();
        loop {
            let is_free = |number: &usize| !state.running.iter().any(|other| self.share(*number, *other));
            if let Some(at) = state.waiting.iter().position(is_free) {
                let number = state.waiting.remove(at);
                let refused = accounts(&self.jobs[number])
                    .iter()
                    .find_map(|account| state.refused.get_key_value(account))
                    .map(|(account, by)| not_tried(account, by));
                state.running.push(number);
                return Some((number, refused));
            }
            if state.waiting.is_empty() {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn share(&self, one: usize, other: usize) -> bool {
        let (one, other) = (accounts(&self.jobs[one]), accounts(&self.jobs[other]));
        one.iter().any(|account| other.contains(account))
    }

    fn done(&self, number: usize, answer: &Answer) {
        let mut state = self.lock();
        state.running.retain(|running| *running != number);
        for account in &answer.rejected {
            let by = state.refused.entry(account.to_ascii_lowercase().into_bytes());
            by.or_insert_with(|| self.jobs[number].name.clone());
        }
        self.changed.notify_all();
    }
}

fn accounts(job: &Job) -> [Vec<u8>; 2] {
    [&job.publisher, &job.subscriber].map(|row| row.uri.to_ascii_lowercase())
}

fn not_tried(account: &[u8], by: &str) -> Answer {
    Answer {
        error: "not tried: credentials were refused elsewhere".to_owned(),
        diagnosis: format!(
            "{by} refused the credentials of {} a moment ago, and each account is tried once, so that none is \
             locked out: correct its credential file",
            String::from_utf8_lossy(account)
        ),
        code: "auth:rejected".to_owned(),
        class: "configuration",
        activity: Activity::Register.name().to_owned(),
        account: String::from_utf8_lossy(account).into_owned(),
        ..Answer::default()
    }
}

/// For a check that did not come to anything before it was told to stop.
fn interrupted() -> Answer {
    Answer {
        error: "interrupted by a signal".to_owned(),
        diagnosis: "it had not begun: nothing was found out about the pool".to_owned(),
        code: "generator:interrupted".to_owned(),
        class: "generator",
        interrupted: true,
        ..Answer::default()
    }
}

/// Returns when checks are to stop.
async fn stopped() {
    while STOP.asked() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// What the engine speaks for a job.
fn spoken(job: &Job) -> population::Dialect {
    let auth = match (job.dialect, job.auth) {
        (Dialect::Simple, _) => return population::Dialect::Simple,
        (Dialect::Lync, Auth::Ntlm) => ntlm(),
        (Dialect::Lync, Auth::Digest) => LyncAuth::Digest,
        (Dialect::Lync, Auth::None | Auth::Trusted) => LyncAuth::None,
    };
    population::Dialect::Lync(LyncOptions { is_tidy: true, ..lync_options(auth) })
}

fn one(job: &Job, verbose: bool, say: &mut dyn FnMut(String)) -> Answer {
    let failed = |code: &str, class: &'static str, error: String, diagnosis: &str| Answer {
        code: code.to_owned(),
        class,
        error,
        diagnosis: diagnosis.to_owned(),
        ..Answer::default()
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return failed(
                "generator:start",
                "generator",
                error.to_string(),
                "this host has no resources left",
            );
        }
    };
    let target = job.target.as_str();
    // Of servers with the same priority each has its turn by its weight (RFC 2782).
    let seed = clock::unix_ns() as u64 ^ u64::from(std::process::id()) << 32;
    let found = runtime.block_on(async {
        let search = async {
            match job.dialect {
                Dialect::Simple => locate(target, job.transport, seed).await,
                Dialect::Lync => locate_lync(target, job.transport, seed).await,
            }
        };
        tokio::select! { found = search => Some(found), () = stopped() => None }
    });
    let found = match found {
        None => return interrupted(),
        Some(Ok(found)) => found,
        Some(Err(error)) => {
            let advice = "check the name, and the name servers of this host";
            return failed("transport:dns", "network", error.to_string(), advice);
        }
    };
    let mut tls = job.tls.clone();
    if tls.server_name.is_empty() {
        tls.server_name =
            locate::split(target).map_or(target, |(host, _)| host).trim_end_matches('.').to_owned();
    }
    // Naming a target permits traffic to its addresses, and to nothing else.
    let networks: Vec<Network> =
        found.targets.iter().filter_map(|t| t.ip().to_string().parse().ok()).collect();
    if verbose {
        if found.questions > 0 {
            // Name resolution is counted apart: it is in no latency.
            let all: Vec<String> = found.targets.iter().map(ToString::to_string).collect();
            let seconds = found.took.as_secs_f64();
            say(format!(
                "Name resolution completed in '{seconds:.7}' secs, counted apart: {}.",
                all.join(", ")
            ));
        }
        for failed in &found.failed {
            say(format!("Name resolution: no {}: {}.", failed.question, failed.reason));
        }
        say(format!("Registration Request hit against {target}"));
    }
    let check = Check {
        targets: found.targets,
        transport: job.transport,
        dialect: spoken(job),
        tls,
        publisher: job.publisher.clone(),
        subscriber: job.subscriber.clone(),
        timeout: job.timeout,
        source: job.source,
        advertise: job.advertise.clone(),
        allow: Allow::new(networks, None),
        trace: job.trace.clone(),
    };
    let mut answer = adsum_agent::check::run(&check, &STOP, |step| {
        if verbose {
            say(told(step));
        }
    });
    in_the_cmdlets_words(&mut answer, job);
    if verbose && !answer.success {
        say(format!("An exception '{}' occurred during the workflow.", answer.error));
    }
    for warning in &answer.warnings {
        say(format!("adsum: warning: {warning}"));
    }
    answer
}

/// What is known here and not below: which flags there are, and how the cmdlet puts it.
fn in_the_cmdlets_words(answer: &mut Answer, job: &Job) {
    match answer.code.as_str() {
        "timeout:notify" => {
            let ours = std::mem::replace(
                &mut answer.error,
                format!("Presence notification is not received within {} secs.", job.timeout.as_secs_f64()),
            );
            answer.diagnosis = format!("{ours}: {}", answer.diagnosis);
        }
        "auth:unsupported" if job.auth == Auth::None => {
            let usual = if job.dialect == Dialect::Lync { "ntlm" } else { "digest" };
            answer.diagnosis = format!(
                "the pool asks for credentials, and --auth none sends none: use --auth {usual} with a credential \
                 file for each user"
            );
        }
        "auth:unsupported" if job.auth == Auth::Trusted => {
            answer.diagnosis = "the pool asks for credentials, so it does not trust the certificate of this \
                                connection: the names in --cert have to be those of a trusted application server \
                                (New-CsTrustedApplicationPool with -TreatAsAuthenticated $True)"
                .to_owned();
        }
        "auth:rejected" if !answer.account.is_empty() => {
            answer.diagnosis = format!("{} ({})", answer.diagnosis, answer.account);
        }
        _ => {}
    }
}

/// The cmdlet's names of activities; those that it does not name are named in its manner.
fn activity_name(activity: Activity) -> &'static str {
    match activity {
        Activity::Connect => "Connect",
        Activity::Register => "Register",
        Activity::SelfSubscribe => "SelfSubscribeActivity",
        Activity::Subscribe => "SubscribePresence",
        Activity::Publish => "PublishPresence",
        Activity::Notify => "ReceiveNotification",
        Activity::Unpublish => "UnpublishPresence",
        Activity::Unsubscribe => "UnsubscribePresence",
        Activity::Unregister => "Unregister",
    }
}

fn told(step: Step) -> String {
    let who = |publisher: bool| if publisher { "publisher" } else { "subscriber" };
    match step {
        Step::Started(publisher, activity) => {
            format!("'{}' activity started. ({})", activity_name(activity), who(publisher))
        }
        Step::Completed(publisher, activity, seconds) => {
            let (name, who) = (activity_name(activity), who(publisher));
            format!("'{name}' activity completed in '{seconds:.7}' secs. ({who})")
        }
    }
}
