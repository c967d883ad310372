//! `adsum run`: a scenario here, on agents of this host.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adsum_agent::engine::AgentOptions;
use adsum_agent::link::{self, Identity};
use adsum_coordinator::control;
use adsum_coordinator::fleet::{self, Fleet};
use adsum_coordinator::plan::{self, RunFacts};
use adsum_coordinator::run::{Outcome, Progress, RunError, Setup, StopLevel, execute};
use adsum_coordinator::scenario::{self, Document, Inputs, Options, Target, presets, set};
use adsum_coordinator::users::{self, Population};
use adsum_pool::config::{LyncConfig, LyncScheme};
use adsum_pool::{Pool, PoolConfig};
use adsum_proto::v1;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::cli::{Realtime, Run, Stamps};
use crate::exit;

/// Bytes that may be on their way between coordinator and agent in one process.
const IN_MEMORY: usize = 1024 * 1024;
/// Seconds between two log lines where there is no terminal.
const LOG_EVERY: u64 = 10;

/// A scenario with everything that it names.
pub struct Loaded {
    pub document: Document,
    pub population: Population,
    pub inputs: Inputs,
}

/// Reads a file or preset; every mistake is printed. `Err` holds the exit code.
pub fn load(name: &str, sets: &[String]) -> Result<Loaded, u8> {
    let (text, dir) = match (std::fs::read_to_string(name), presets::preset(name)) {
        (Ok(text), _) => (text, Path::new(name).parent().map_or_else(PathBuf::new, Path::to_path_buf)),
        (Err(_), Some(preset)) => (preset.text.to_owned(), PathBuf::new()),
        (Err(error), None) => {
            let names: Vec<&str> = presets::PRESETS.iter().map(|p| p.name).collect();
            eprintln!("adsum: cannot read the scenario {name}: {error}; presets are {}", names.join(", "));
            return Err(exit::CONFIGURATION);
        }
    };
    let env = |name: &str| std::env::var(name).ok();
    let document = scenario::read(name, &text, Options { sets, env: &env }).map_err(|problems| {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        if colour {
            eprintln!("{:?}", miette::Report::new(problems));
        } else {
            eprintln!("{}", problems.lines());
        }
        exit::CONFIGURATION
    })?;
    let inputs = Inputs::load(&document.scenario, &dir).map_err(|errors| {
        errors.iter().for_each(|error| eprintln!("{name}: {error}"));
        exit::CONFIGURATION
    })?;
    let population = users::of_scenario(&document.scenario, &inputs.users_csv, &inputs.password_file);
    let population = population.map_err(|error| {
        eprintln!("{error}");
        exit::CONFIGURATION
    })?;
    Ok(Loaded { document, population, inputs })
}

pub fn run(args: &Run) -> u8 {
    let short = set::short_forms(
        args.target.as_deref(),
        args.users.as_deref(),
        args.rate.as_deref(),
        args.hold.as_deref(),
        &args.allow,
    );
    let sets: Vec<String> = args.sets.iter().cloned().chain(short).collect();
    let loaded = match load(&args.scenario, &sets) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if args.dry_run {
        return crate::small::print_plan(&loaded, u64::from(args.agents), args.shards);
    }
    let done = match &args.coordinator {
        Some(address) => remote(args, address, loaded),
        None => carry_out(args, loaded),
    };
    match done {
        Ok(outcome) => conclude(&outcome),
        Err((code, text)) => {
            eprintln!("adsum: {text}");
            code
        }
    }
}

fn conclude(outcome: &Outcome) -> u8 {
    if let Some((error, diagnosis)) = &outcome.not_ready {
        eprintln!("adsum: the run could not start: {error}");
        if !diagnosis.is_empty() {
            eprintln!("  {diagnosis}");
        }
    }
    println!("{}", outcome.summary);
    println!(
        "  wrote {}/ (report.html, summary.json, steps.csv, percentiles.csv, intervals.csv, run.hlog, manifest.json, ...)",
        outcome.dir.display()
    );
    let next = match outcome.exit_code {
        0 => {
            format!("a higher rate: --rate; check the files: adsum report {} --verify", outcome.dir.display())
        }
        12 => "what the reasons above advise: the figures measured this host, not the pool".to_owned(),
        code => format!("adsum explain {code}; failures.csv and failures/ say what happened"),
    };
    println!("  next: {next}");
    outcome.exit_code
}

pub type Failed = (u8, String);

/// Plans and executes a scenario on agents of this host, and writes the results.
pub fn carry_out(args: &Run, loaded: Loaded) -> Result<Outcome, Failed> {
    let labels = labels(&args.labels)?;
    let run_id = ulid::Ulid::generate().to_string();
    let seed = args.seed.or(loaded.document.scenario.seed).unwrap_or_else(|| draw_seed(&run_id));
    let dir = directory(args, &loaded.document.scenario.name)?;
    let pool = embedded(&loaded, seed)?;
    let realtime = args.realtime == Realtime::Auto && pool.is_none();
    if args.realtime == Realtime::Auto && !realtime {
        eprintln!("adsum: --realtime auto is off: the embedded pool runs on the same cores and would starve");
    }
    let tls = loaded.document.scenario.pool.transport == scenario::Transport::Tls;
    let facts = RunFacts {
        run_id,
        seed,
        origin_unix_ns: 0,
        embedded: pool.as_ref().map(|pool| match pool.tls_address().filter(|_| tls) {
            Some(address) => address.to_string(),
            None => pool.address().to_string(),
        }),
        ca_pem: match pool.as_ref().and_then(|pool| pool.ca_pem()) {
            Some(ca) => ca.as_bytes().to_vec(),
            None => loaded.inputs.ca_pem.clone(),
        },
        cert_pem: loaded.inputs.cert_pem.clone(),
        key_pem: loaded.inputs.key_pem.clone(),
    };
    let agents = usize::from(args.agents);
    let setup = Setup {
        document: loaded.document,
        population: loaded.population,
        facts,
        labels,
        dir: dir.clone(),
        agents,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| (exit::INTERNAL, e.to_string()))?;
    let shown = Arc::new(Mutex::new(Shown::new(args.plain)));
    let outcome = runtime.block_on(async {
        let (fleet, mut events) = Fleet::new();
        let _agents = Agents::start(args, &fleet, realtime)?;
        let (stop, stopped) = watch::channel(StopLevel::Go);
        tokio::spawn(listen_to_signals(stop));
        let (bar, words) = (Arc::clone(&shown), Arc::clone(&shown));
        let done = execute(
            &fleet,
            &mut events,
            setup,
            stopped,
            move |progress| with(&bar, |shown| shown.progress(progress)),
            move |text| with(&words, |shown| shown.remark(text)),
        );
        done.await.map_err(|error| failed(&error))
    });
    with(&shown, Shown::finish);
    if let Some(pool) = pool {
        let stats = pool.stop();
        if stats.timing_errors > 0 {
            eprintln!("adsum: the embedded pool was late by more than 250 us {} times", stats.timing_errors);
        }
    }
    if outcome.is_err() {
        remove_if_empty(&dir);
    }
    outcome
}

/// Nothing was measured: no empty folder stays behind.
fn remove_if_empty(dir: &Path) {
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none()) {
        drop(std::fs::remove_dir(dir));
    }
}

/// A run that could not begin has another code than one whose results cannot be written.
fn failed(error: &RunError) -> Failed {
    let code = if matches!(error, RunError::Files(_)) { exit::INTERNAL } else { exit::NOT_STARTED };
    (code, error.to_string())
}

fn with(shown: &Arc<Mutex<Shown>>, act: impl FnOnce(&mut Shown)) {
    act(&mut shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
}

/// Agents of this host; those that are processes end with this value.
struct Agents {
    children: Vec<std::process::Child>,
    _stop: Option<watch::Sender<bool>>,
    folder: Option<PathBuf>,
}

impl Agents {
    fn start(args: &Run, fleet: &Fleet, realtime: bool) -> Result<Agents, Failed> {
        if args.agents == 1 {
            return Ok(Agents {
                children: Vec::new(),
                _stop: Some(Self::in_process(args, fleet, realtime)?),
                folder: None,
            });
        }
        let wrong = |e: std::io::Error| (exit::NOT_STARTED, format!("cannot start agents: {e}"));
        let folder = std::env::temp_dir().join(format!("adsum-{}", ulid::Ulid::generate()));
        {
            use std::os::unix::fs::DirBuilderExt as _;
            std::fs::DirBuilder::new().mode(0o700).create(&folder).map_err(wrong)?;
        }
        let socket = folder.join("coordinator.sock");
        let listener = tokio::net::UnixListener::bind(&socket).map_err(wrong)?;
        let serving = fleet.clone();
        tokio::spawn(async move {
            if let Err(error) = fleet::serve_unix(&serving, listener).await {
                eprintln!("adsum: the link to the agents ended: {error}");
            }
        });
        let program = std::env::current_exe().map_err(wrong)?;
        let cores = adsum_agent::host::facts().cores;
        let threads = if args.shards == 0 { cores } else { args.shards };
        let shards = (threads / u32::from(args.agents)).max(1);
        let mut agents = Agents { children: Vec::new(), _stop: None, folder: Some(folder) };
        for number in 1..=args.agents {
            let child = std::process::Command::new(&program)
                .args(["agent", "--coordinator", &format!("unix:{}", socket.display())])
                .args([
                    "--name",
                    &format!("agent-{number}"),
                    "--site",
                    "local",
                    "--shards",
                    &shards.to_string(),
                ])
                .args(["--realtime", if realtime { "auto" } else { "off" }])
                .args(["--stamps", if args.stamps == Stamps::User { "user" } else { "kernel" }])
                // What the scenario allows was written by the same person.
                .args(["--allow", "0.0.0.0/0", "--allow", "::/0"])
                .stdin(std::process::Stdio::null())
                .spawn()
                .map_err(wrong)?;
            agents.children.push(child);
        }
        Ok(agents)
    }

    /// One agent on a thread of its own, over the same contract in memory.
    fn in_process(args: &Run, fleet: &Fleet, realtime: bool) -> Result<watch::Sender<bool>, Failed> {
        let (ours, theirs) = tokio::io::duplex(IN_MEMORY);
        let serving = fleet.clone();
        tokio::spawn(async move {
            if let Err(error) = fleet::serve_memory(&serving, ours).await {
                eprintln!("adsum: the link to the agent ended: {error}");
            }
        });
        let (stop, stopped) = watch::channel(false);
        let options = AgentOptions {
            trace: args.trace.clone(),
            shards: args.shards,
            realtime,
            user_stamps: args.stamps == Stamps::User,
            ..AgentOptions::default()
        };
        std::thread::Builder::new()
            .name("agent".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let Ok(runtime) = runtime else { return };
                let identity = Identity {
                    name: "local".to_owned(),
                    site: "local".to_owned(),
                    incarnation: u64::from(std::process::id()),
                };
                let served = runtime.block_on(async {
                    let channel = link::connect_memory(theirs).await?;
                    link::serve(channel, &identity, &options, stopped).await
                });
                if let Err(error) = served {
                    tracing::debug!(%error, "the agent of this process ended");
                }
            })
            .map_err(|e| (exit::NOT_STARTED, format!("cannot start the agent: {e}")))?;
        Ok(stop)
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        for child in &mut self.children {
            // They end by themselves when their stream closes; this is for those that hang.
            let deadline = std::time::Instant::now() + Duration::from_secs(3);
            while std::time::Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            drop(child.kill());
            drop(child.wait());
        }
        if let Some(folder) = &self.folder {
            drop(std::fs::remove_dir_all(folder));
        }
    }
}

async fn listen_to_signals(stop: watch::Sender<StopLevel>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    let mut count = 0;
    loop {
        let code = tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        };
        count += 1;
        let level = if count == 1 { StopLevel::Drain(code) } else { StopLevel::Abort(code) };
        if stop.send(level).is_err() {
            return;
        }
    }
}

fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, Failed> {
    texts
        .iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err((exit::USAGE, format!("--label {text}: write KEY=VALUE"))),
        })
        .collect()
}

fn draw_seed(run_id: &str) -> u64 {
    // The id's random part; recorded in the manifest, so that the run can be repeated.
    ulid::Ulid::from_string(run_id).map_or(1, |id| (id.0 as u64) >> 1)
}

fn directory(args: &Run, name: &str) -> Result<PathBuf, Failed> {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let stamp = adsum_report::print::time(now).replace(':', "");
    let mut dir = args.out.clone().unwrap_or_else(|| args.results.join(format!("{stamp}_{name}")));
    let mut number = 2;
    while args.out.is_none() && dir.exists() {
        dir = args.results.join(format!("{stamp}_{name}_{number}"));
        number += 1;
    }
    adsum_report::files::prepare(&dir, args.force).map_err(|e| (exit::CONFIGURATION, e.to_string()))?;
    Ok(dir)
}

/// On the agents of a coordinator; the results come here, too.
fn remote(args: &Run, address: &str, loaded: Loaded) -> Result<Outcome, Failed> {
    let labels = labels(&args.labels)?;
    let dir = directory(args, &loaded.document.scenario.name)?;
    let request = v1::RunRequest {
        protocol_version: adsum_proto::PROTOCOL_VERSION,
        scenario_name: args.scenario.clone(),
        scenario: loaded.document.text.0.clone(),
        users_csv: loaded.inputs.users_csv,
        ca_pem: loaded.inputs.ca_pem,
        cert_pem: loaded.inputs.cert_pem,
        key_pem: loaded.inputs.key_pem,
        password_file: loaded.inputs.password_file,
        labels: labels.into_iter().collect(),
        seed: args.seed.unwrap_or(0),
        seed_given: args.seed.is_some(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| (exit::INTERNAL, e.to_string()))?;
    let shown = Arc::new(Mutex::new(Shown::new(args.plain)));
    let finished = runtime.block_on(async {
        let (stop, stopped) = watch::channel(StopLevel::Go);
        tokio::spawn(listen_to_signals(stop));
        let channel = crate::fleet::dial(address, args.ca.as_ref(), args.cert.as_ref(), args.key.as_ref())
            .await
            .map_err(|e| (exit::NOT_STARTED, e.to_string()))?;
        let (bar, words) = (Arc::clone(&shown), Arc::clone(&shown));
        let run = control::request(
            channel,
            request,
            &dir,
            stopped,
            |progress| with(&bar, |shown| shown.progress(&from_the_wire(progress))),
            |text| with(&words, |shown| shown.remark(text)),
        );
        run.await.map_err(|e| (exit::NOT_STARTED, e))
    });
    with(&shown, Shown::finish);
    if finished.is_err() {
        remove_if_empty(&dir);
    }
    let finished = finished?;
    Ok(Outcome {
        exit_code: u8::try_from(finished.exit_code).unwrap_or(exit::INTERNAL),
        summary: finished.summary,
        dir,
        not_ready: None,
    })
}

fn from_the_wire(p: &v1::Progress) -> Progress {
    Progress {
        phase: ["ramp", "hold", "drain"].into_iter().find(|word| *word == p.phase).unwrap_or("warmup"),
        step: p.step,
        steps: p.steps,
        step_name: p.step_name.clone(),
        elapsed_s: p.elapsed_s,
        length_s: p.elapsed_s + p.left_s,
        offered_hz: p.offered_hz,
        sent_hz: p.sent_hz,
        p50_s: Some(p.p50_s).filter(|s| *s > 0.0),
        p99_s: Some(p.p99_s).filter(|s| *s > 0.0),
        missed: p.missed,
        failed: p.failed,
        send_lag_p99_s: Some(p.send_lag_p99_s).filter(|s| *s > 0.0),
        agents: p.agents,
        agents_expected: p.agents_expected,
        in_flight: p.in_flight,
        registered: p.registered,
        users: p.users,
    }
}

/// The pool of this process, if the scenario asks for it.
fn embedded(loaded: &Loaded, seed: u64) -> Result<Option<Pool>, Failed> {
    let s = &loaded.document.scenario;
    if s.pool.target != Target::Embedded {
        return Ok(None);
    }
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let config = PoolConfig {
        listen: loopback,
        tls_listen: (s.pool.transport == scenario::Transport::Tls).then_some(loopback),
        users: u32::try_from(loaded.population.users()).unwrap_or(u32::MAX),
        seed,
        dialect: match s.dialect {
            scenario::Dialect::Simple => adsum_pool::config::Dialect::Simple,
            scenario::Dialect::Lync => adsum_pool::config::Dialect::Lync,
        },
        auth: s.auth.scheme != scenario::Scheme::Trusted,
        lync: LyncConfig {
            // It offers what the scenario speaks.
            schemes: vec![match s.auth.scheme {
                scenario::Scheme::Digest => LyncScheme::Digest,
                _ => LyncScheme::Ntlm,
            }],
            ..LyncConfig::default()
        },
        ..PoolConfig::default()
    };
    Pool::start(config).map(Some).map_err(|e| (exit::NOT_STARTED, e.to_string()))
}

/// Progress: a bar on a terminal, a line in ten seconds elsewhere.
struct Shown {
    bar: Option<ProgressBar>,
    seconds: u64,
}

impl Shown {
    fn new(plain: bool) -> Self {
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let bar = (!plain && !dumb && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(1_000);
            let style = ProgressStyle::with_template("{prefix} [{wide_bar}]\n{wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar
        });
        Shown { bar, seconds: 0 }
    }

    fn progress(&mut self, p: &Progress) {
        let left = (p.length_s - p.elapsed_s).max(0.0);
        let short = |value: Option<f64>| {
            value.map_or_else(|| "-".to_owned(), |s| adsum_report::print::human((s * 1e6) as u64))
        };
        let words = if p.phase == "warmup" {
            format!("signing on: {} of {} users registered", p.registered, p.users)
        } else {
            format!(
                "{:.1}/s of {:.1}/s  p50 {} p99 {}  missed {} failed {}  lag p99 {}",
                p.sent_hz,
                p.offered_hz,
                short(p.p50_s),
                short(p.p99_s),
                p.missed,
                p.failed,
                short(p.send_lag_p99_s),
            )
        };
        if let Some(bar) = &self.bar {
            bar.set_prefix(format!("{} {}/{} {}, {left:.0} s left", p.phase, p.step, p.steps, p.step_name));
            bar.set_position((p.elapsed_s / p.length_s.max(0.001) * 1e3).min(1e3) as u64);
            bar.set_message(words);
        } else if self.seconds.is_multiple_of(LOG_EVERY) {
            eprintln!(
                "progress phase={} step={}/{} name={:?} left={left:.0}s in_flight={} agents={}/{} {words}",
                p.phase, p.step, p.steps, p.step_name, p.in_flight, p.agents, p.agents_expected
            );
        }
        self.seconds += 1;
    }

    fn remark(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(format!("adsum: {text}")),
            None => eprintln!("adsum: {text}"),
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// The plan of a scenario in words, for `--dry-run` and `scenario check`.
///
/// Agents on this host share its `threads`; 0: one a core.
pub fn plan_text(loaded: &Loaded, agents: u64, threads: u32) -> String {
    let threads = if threads == 0 { adsum_agent::host::facts().cores } else { threads };
    let shards = (u64::from(threads) / agents.max(1)).max(1);
    let s = &loaded.document.scenario;
    plan::check::text(s, &plan::check::check(s, &loaded.population, agents, shards))
}
