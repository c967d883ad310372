//! A run on this host: a plan becomes shards, their seconds become the agent's
//! numbered intervals.

mod merge;

use std::collections::HashMap;

use adsum_presence::accounts::{Accounts, Pattern, PatternError, Row};
use adsum_presence::lync::{LyncAuth, LyncOptions, NtlmOptions};
use adsum_presence::population::{Config, Dialect, Kind, Transport};
use adsum_proto::v1;
use adsum_sip::ids::{Namespace, mix};
use tokio::sync::mpsc;

use crate::contacts::{Distribution, FanOut};
use crate::failures::class_name;
use crate::locate::{LocateError, locate, locate_lync};
use crate::net::allow::{Allow, Network, NetworkError};
use crate::net::clock;
use crate::net::tls::TlsOptions;
use crate::pace::{Arrivals, Step};
use crate::shard::{self, Command, EVENTS, Event, ReadyFacts, Shard, ShardError, ShardPlan, Status};
use merge::Merge;

/// Shards of one agent; identifiers have room for as many.
const MAX_SHARDS: u32 = 64;
/// Local addresses that ranges of `source` may name together.
const MAX_SOURCES: usize = 4_096;

/// What the operator of an agent decides, and no plan can widen.
#[derive(Debug, Clone, Default)]
pub struct AgentOptions {
    /// Networks besides loopback; `None` where the operator and the author of
    /// the scenario are the same person.
    pub allow: Option<Vec<Network>>,
    /// Arrivals per second at most, in thousandths; 0 for no limit.
    pub max_rate_mhz: u64,
    /// Threads; 0 for one a core.
    pub shards: u32,
    /// Where to write messages as text.
    pub trace: Option<std::path::PathBuf>,
    /// Shards ask for real-time priority, where this process may have it.
    pub realtime: bool,
    /// Latencies end when a message is read, not when the kernel received it.
    pub user_stamps: bool,
}

/// What the engine tells.
#[derive(Debug)]
pub enum EngineEvent {
    /// How far it is.
    Status(Status),
    /// Every shard is ready.
    Ready(v1::Ready),
    /// One is not, and why.
    NotReady(v1::NotReady),
    /// A second.
    Interval(v1::Interval),
    /// It is over; nothing follows.
    Done(v1::Done),
}

/// A plan that this agent cannot carry out.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The plan says something that this version does not know.
    #[error("the plan cannot be read: {0}")]
    Plan(String),
    /// The target.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// Networks.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Patterns.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A shard.
    #[error(transparent)]
    Shard(#[from] ShardError),
}

impl EngineError {
    /// The prefixed code for files and exit messages.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            EngineError::Locate(LocateError::NotAllowed { .. }) => "transport:blocked",
            EngineError::Locate(_) => "transport:dns",
            EngineError::Shard(ShardError::NotAllowed(..)) => "transport:blocked",
            EngineError::Shard(ShardError::Tls(_)) => "transport:tls",
            EngineError::Shard(_) => "generator:start",
            _ => "generator:plan",
        }
    }
}

/// A run on this host.
#[derive(Debug)]
pub struct Engine {
    shards: Vec<Shard>,
    events: mpsc::Receiver<(usize, Event)>,
    merge: Merge,
    status: Vec<Status>,
    ready: Vec<Option<ReadyFacts>>,
    done: Vec<bool>,
    interrupted: bool,
    reason: String,
    queue: std::collections::VecDeque<EngineEvent>,
    offset_ns: i64,
    /// What the hypervisor takes is the host's: counted once, not by each shard.
    steal: crate::host::Steal,
}

impl Engine {
    /// Makes sockets and users and begins with readiness. `offset_ns` is the
    /// coordinator's wall clock minus our monotonic clock.
    ///
    /// # Errors
    /// [`EngineError`]; nothing was sent then.
    pub async fn prepare(
        plan: &v1::Plan,
        users: &[v1::UserPair],
        options: &AgentOptions,
        offset_ns: i64,
    ) -> Result<Engine, EngineError> {
        let pool = plan.pool.as_ref().ok_or_else(|| missing("pool"))?;
        let transport = transport_of(pool.transport())?;
        let lync = pool.dialect() == v1::Dialect::Lync;
        let found = if lync {
            locate_lync(&pool.target, transport, own_seed(plan)).await?
        } else {
            locate(&pool.target, transport, own_seed(plan)).await?
        };
        let targets = found.permitted(&allow_of(pool, options)?)?.targets;
        let pairs = pairs_of(plan)?;
        let wanted = if options.shards > 0 { options.shards } else { crate::host::facts().cores };
        let count = wanted.clamp(1, MAX_SHARDS).min(pairs.len().max(1) as u32);
        let (sender, events) = mpsc::channel(EVENTS);
        let mut shards = Vec::with_capacity(count as usize);
        let probes = crate::net::probe::Probes::default();
        let limit = crate::host::raise_file_limit();
        tracing::debug!(shards = count, pairs = pairs.len(), open_files = limit, "preparing");
        for index in 0..count {
            let ours: Vec<u32> = pairs.iter().copied().skip(index as usize).step_by(count as usize).collect();
            let mut shard_plan =
                shard_plan(plan, pool, transport, &targets, users, ours, options, offset_ns)?;
            let global = plan.agent_index * MAX_SHARDS + index;
            shard_plan.config.namespace = Namespace {
                run: plan.run_tag,
                shard: global,
                key: mix(plan.seed ^ mix(u64::from(global) + 1)),
            };
            if let Some(tls) = &mut shard_plan.tls {
                tls.probes = probes.clone();
            }
            shard_plan.trace = options.trace.as_ref().map(|path| numbered(path, index, count));
            for rate in [
                &mut shard_plan.register_rate_mhz,
                &mut shard_plan.subscribe_rate_mhz,
                &mut shard_plan.max_rate_mhz,
            ] {
                *rate = share(*rate, index, count);
            }
            shard_plan.max_in_flight = share(u64::from(shard_plan.max_in_flight), index, count) as u32;
            let name = format!("shard-{index}");
            shards.push(shard::spawn(name, index as usize, shard_plan, sender.clone(), || None)?);
        }
        Ok(Engine {
            merge: Merge::new(shards.len()),
            status: vec![Status::default(); shards.len()],
            ready: vec![None; shards.len()],
            done: vec![false; shards.len()],
            shards,
            events,
            interrupted: false,
            reason: String::new(),
            queue: std::collections::VecDeque::new(),
            offset_ns,
            steal: crate::host::Steal::default(),
        })
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The schedule begins at this instant of the coordinator's clock.
    pub fn start(&self, start_unix_ns: i64) {
        let at = adsum_sip::Time((start_unix_ns - self.offset_ns).max(0) as u64);
        self.tell(&Command::Start(at));
    }

    /// Ends the run: `abort` at once, else after what is open has ended.
    pub fn stop(&self, abort: bool) {
        self.tell(&if abort { Command::Abort } else { Command::Drain });
    }

    fn tell(&self, command: &Command) {
        for shard in &self.shards {
            // A shard that is over has closed its end; one that takes nothing is told again by whoever waits.
            if shard.commands.try_send(command.clone()).is_err() {
                tracing::debug!(?command, "a shard took no command");
            }
        }
    }

    /// What happens next. `None` after `Done`.
    pub async fn next(&mut self) -> Option<EngineEvent> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            if self.done.iter().all(|done| *done) {
                return None;
            }
            match self.events.recv().await {
                Some((shard, event)) => self.take(shard, event),
                None => {
                    // A shard's thread ended without saying so: a defect, and a lost part of the run.
                    self.interrupted = true;
                    self.reason = "a shard ended unexpectedly".to_owned();
                    self.done.iter_mut().for_each(|done| *done = true);
                    self.finish();
                }
            }
        }
    }

    fn take(&mut self, shard: usize, event: Event) {
        match event {
            Event::Status(status) => {
                self.status[shard] = status;
                if shard == 0 {
                    self.queue.push_back(EngineEvent::Status(self.total()));
                }
            }
            Event::Ready(facts) => {
                self.status[shard] = facts.status;
                self.ready[shard] = Some(facts);
                if self.ready.iter().all(Option::is_some) {
                    let ready = self.ready_message();
                    self.queue.push_back(EngineEvent::Ready(ready));
                }
            }
            Event::NotReady(failure) => self.queue.push_back(EngineEvent::NotReady(v1::NotReady {
                activity: failure.activity.name().to_owned(),
                class: class_name(failure.class).to_owned(),
                error: match failure.code.strip_prefix("sip:") {
                    Some(code) => format!("{code}, {}", failure.reason),
                    None => failure.reason.clone(),
                },
                code: failure.code,
                diagnosis: failure.diagnosis,
            })),
            Event::Seconds(seconds, failures) => {
                self.merge.add(shard, seconds, failures, self.offset_ns);
                self.emit();
            }
            Event::Done { .. } if self.done[shard] => {}
            Event::Done { interrupted, reason } => {
                self.done[shard] = true;
                self.interrupted |= interrupted;
                if self.reason.is_empty() || interrupted {
                    self.reason = reason;
                }
                self.merge.end(shard);
                self.emit();
                if self.done.iter().all(|done| *done) {
                    self.finish();
                }
            }
        }
    }

    fn emit(&mut self) {
        let mut intervals = self.merge.ready();
        // All shards close a second at once, so this is read once a second, at its end.
        let first = intervals.iter_mut().find_map(|interval| {
            let delivered = interval.counters.iter().find(|count| count.counter == "interval")?.clone();
            Some((interval, delivered))
        });
        if let Some((interval, delivered)) = first {
            let value = self.steal.take();
            interval.counters.push(v1::Count { counter: "steal_us".into(), value, ..delivered });
        }
        self.queue.extend(intervals.into_iter().map(EngineEvent::Interval));
    }

    fn finish(&mut self) {
        for shard in 0..self.shards.len() {
            self.merge.end(shard);
        }
        self.emit();
        self.queue.push_back(EngineEvent::Done(v1::Done {
            intervals: self.merge.numbered(),
            interrupted: self.interrupted,
            reason: self.reason.clone(),
        }));
        for shard in &mut self.shards {
            shard.join();
        }
    }

    fn total(&self) -> Status {
        self.status.iter().fold(Status::default(), |sum, s| Status {
            users: sum.users + s.users,
            registered: sum.registered + s.registered,
            subscribed: sum.subscribed + s.subscribed,
            in_flight: sum.in_flight + s.in_flight,
        })
    }

    fn ready_message(&self) -> v1::Ready {
        let facts: Vec<&ReadyFacts> = self.ready.iter().flatten().collect();
        let total = self.total();
        let priorities: std::collections::BTreeSet<&str> =
            facts.iter().map(|f| f.priority.as_str()).collect();
        v1::Ready {
            users: total.users,
            pairs: total.users / 2,
            registered: total.registered,
            subscribed: total.subscribed,
            users_rejected: facts.iter().map(|f| f.rejected).sum(),
            server: facts.iter().map(|f| f.server.clone()).find(|s| !s.is_empty()).unwrap_or_default(),
            receive_stamps: if facts.iter().all(|f| f.kernel_stamps) { "kernel" } else { "user" }.to_owned(),
            priority: priorities.into_iter().collect::<Vec<_>>().join(" and "),
            // Nobody is ready before a notification with its marker was seen.
            marker_survives: true,
            tls: facts.iter().map(|f| f.tls.clone()).find(|tls| !tls.is_empty()).unwrap_or_default(),
        }
    }
}

/// What an agent draws by itself comes from the run's seed and its own number: of SRV records with
/// weights (RFC 2782) the agents of a fleet take their shares, instead of all the same one.
fn own_seed(plan: &v1::Plan) -> u64 {
    mix(plan.seed ^ mix(u64::from(plan.agent_index) + 1))
}

fn missing(what: &str) -> EngineError {
    EngineError::Plan(format!("`{what}` is missing"))
}

fn transport_of(transport: v1::Transport) -> Result<Transport, EngineError> {
    match transport {
        v1::Transport::Udp => Ok(Transport::Udp),
        v1::Transport::Tcp => Ok(Transport::Tcp),
        v1::Transport::Tls => Ok(Transport::Tls),
        v1::Transport::Unspecified => Err(missing("pool.transport")),
    }
}

/// This agent's pairs by their numbers in the run.
fn pairs_of(plan: &v1::Plan) -> Result<Vec<u32>, EngineError> {
    let users = plan.users.as_ref().ok_or_else(|| missing("users"))?;
    let mut pairs = Vec::new();
    for range in &users.pairs {
        for at in 0..range.count {
            let pair = range.first + at * range.stride;
            match u32::try_from(pair) {
                Ok(pair) if u64::from(pair) < users.pairs_total && pair < 1 << 29 => pairs.push(pair),
                _ => {
                    return Err(EngineError::Plan(format!("pair {pair} is not among {}", users.pairs_total)));
                }
            }
        }
    }
    pairs.sort_unstable();
    Ok(pairs)
}

/// The part of `total` that falls to `index` of `count`; the parts sum up to it.
/// A rate that is set never becomes 0, which would be no limit.
fn share(total: u64, index: u32, count: u32) -> u64 {
    if total == 0 {
        return 0;
    }
    let (index, count) = (u64::from(index), u64::from(count));
    (total / count + u64::from(index < total % count)).max(1)
}

#[allow(clippy::too_many_arguments, reason = "a plan and what this host adds to it")]
fn shard_plan(
    plan: &v1::Plan,
    pool: &v1::Pool,
    transport: Transport,
    targets: &[std::net::SocketAddr],
    users: &[v1::UserPair],
    pairs: Vec<u32>,
    options: &AgentOptions,
    offset_ns: i64,
) -> Result<ShardPlan, EngineError> {
    let workload = plan.workload.as_ref().ok_or_else(|| missing("workload"))?;
    let warmup = plan.warmup.unwrap_or_default();
    let kind = match workload.kind() {
        v1::Kind::Workflow => Kind::Workflow,
        v1::Kind::Held => Kind::Held,
        v1::Kind::Unspecified => return Err(missing("workload.kind")),
    };
    let arrivals = match workload.arrivals() {
        v1::Arrivals::Poisson => Arrivals::Poisson,
        _ => Arrivals::Constant,
    };
    let safety = plan.safety.unwrap_or_default();
    let max_rate = [safety.max_rate_mhz, options.max_rate_mhz].into_iter().filter(|rate| *rate > 0).min();
    let accounts = accounts(plan, users, pairs)?;
    Ok(ShardPlan {
        config: Config {
            namespace: Namespace { run: plan.run_tag, shard: 0, key: 0 },
            transport,
            kind,
            reuse_nonce: plan.auth.is_none_or(|auth| auth.reuse_nonce),
            self_subscribe: workload.self_subscribe,
            expires: workload.expires_s,
            publish_expires: workload.expires_s,
            deadline: workload.deadline_ns,
            dialect: dialect(pool, plan.auth.as_ref(), transport, &accounts)?,
        },
        accounts,
        fan_out: workload.fan_out.as_ref().map(fan_out).transpose()?,
        pairs_total: plan.users.as_ref().map_or(0, |users| users.pairs_total),
        seed: plan.seed,
        steps: plan
            .steps
            .iter()
            .map(|step| Step { rate_mhz: step.rate_mhz, ramp_ns: step.ramp_ns, hold_ns: step.hold_ns })
            .collect(),
        arrivals,
        targets: targets.to_vec(),
        tls: (transport == Transport::Tls).then(|| tls_options(pool)),
        shared_connections: pool.shared_connections,
        allow: allow_of(pool, options)?,
        advertise: Some(pool.advertise.clone()).filter(|text| !text.is_empty()),
        sources: sources(&pool.source)?,
        register_rate_mhz: warmup.register_rate_mhz,
        subscribe_rate_mhz: warmup.subscribe_rate_mhz,
        max_rate_mhz: max_rate.unwrap_or(0),
        max_in_flight: workload.max_in_flight,
        settle_ns: warmup.settle_ns,
        quantum_ns: plan.quantum_ns,
        gap_ns: plan.loop_gap_ns,
        kernel_stamps: !options.user_stamps,
        offset_ns,
        second_opinion: true,
        trace: None,
        realtime: options.realtime,
    })
}

/// What is spoken, and in `lync` how users prove who they are.
fn dialect(
    pool: &v1::Pool,
    auth: Option<&v1::Auth>,
    transport: Transport,
    accounts: &Accounts,
) -> Result<Dialect, EngineError> {
    match pool.dialect() {
        v1::Dialect::Simple => return Ok(Dialect::Simple),
        v1::Dialect::Lync => {}
        v1::Dialect::Unspecified => return Err(missing("pool.dialect")),
    }
    if transport == Transport::Udp {
        return Err(EngineError::Plan("the dialect lync does not go over UDP: tls or tcp".to_owned()));
    }
    if pool.shared_connections {
        return Err(EngineError::Plan("users of the dialect lync share no connections: per-user".to_owned()));
    }
    let scheme = auth.map_or(v1::AuthScheme::Auto, |auth| auth.scheme());
    let auth = match scheme {
        v1::AuthScheme::Trusted => LyncAuth::None,
        v1::AuthScheme::Digest => LyncAuth::Digest,
        v1::AuthScheme::Auto | v1::AuthScheme::Unspecified if accounts.have_no_secrets() => LyncAuth::None,
        v1::AuthScheme::Auto | v1::AuthScheme::Unspecified | v1::AuthScheme::Ntlm => ntlm(),
        v1::AuthScheme::Kerberos => {
            return Err(EngineError::Plan("this agent does not speak Kerberos: ntlm or trusted".to_owned()));
        }
    };
    Ok(Dialect::Lync(lync_options(auth)))
}

/// What the users of the dialect `lync` call themselves, if not what [`LyncOptions::user_agent`] has:
/// version filters of a pool let certain clients pass only (17002, 17003).
pub const USER_AGENT: &str = "ADSUM_USER_AGENT";

/// How the dialect `lync` is spoken here.
#[must_use]
pub fn lync_options(auth: LyncAuth) -> LyncOptions {
    let user_agent = std::env::var(USER_AGENT).ok().filter(|text| !text.is_empty());
    LyncOptions { user_agent, auth, ..LyncOptions::default() }
}

/// NTLM as this host speaks it now.
#[must_use]
pub fn ntlm() -> LyncAuth {
    /// From 1601, where FILETIME begins, to 1970, in its units of 100 ns.
    const APART: u64 = 116_444_736_000_000_000;
    let filetime = APART + u64::try_from(clock::unix_ns() / 100).unwrap_or(0);
    LyncAuth::Ntlm(NtlmOptions { verify: true, workstation: "ADSUM".to_owned(), filetime })
}

fn fan_out(asked: &v1::FanOut) -> Result<FanOut, EngineError> {
    let distribution = match asked.distribution() {
        v1::Distribution::Constant => Distribution::Constant,
        v1::Distribution::Uniform => Distribution::Uniform,
        v1::Distribution::Zipf => Distribution::Zipf,
        v1::Distribution::LogNormal => Distribution::LogNormal,
        v1::Distribution::Unspecified => return Err(missing("workload.fan_out.distribution")),
    };
    Ok(FanOut { distribution, mean_milli: asked.mean_milli, max: asked.max })
}

fn allow_of(pool: &v1::Pool, options: &AgentOptions) -> Result<Allow, EngineError> {
    let networks: Result<Vec<Network>, _> = pool.allow.iter().map(|text| text.parse()).collect();
    Ok(Allow::new(networks?, options.allow.clone()))
}

fn tls_options(pool: &v1::Pool) -> TlsOptions {
    let tls = pool.tls.clone().unwrap_or_default();
    // Certificates name hosts without the dot that makes a name absolute.
    let host = crate::locate::split(&pool.target).map_or("", |(host, _)| host.trim_end_matches('.'));
    TlsOptions {
        ca_pem: tls.ca_pem,
        cert_pem: tls.cert_pem,
        key_pem: tls.key_pem,
        server_name: if tls.server_name.is_empty() { host.to_owned() } else { tls.server_name },
        legacy: tls.legacy,
        probes: Default::default(),
    }
}

fn accounts(plan: &v1::Plan, users: &[v1::UserPair], pairs: Vec<u32>) -> Result<Accounts, EngineError> {
    if let Some(pattern) = plan.users.as_ref().and_then(|users| users.pattern.as_ref()) {
        return Ok(Accounts::Pattern {
            uri: Pattern::parse(&pattern.sip_uri)?,
            auth_user: match pattern.auth_user.as_str() {
                "" if pattern.nt_domain.is_empty() => None,
                "" => Some(Pattern::parse(&in_domain(&pattern.nt_domain, &pattern.sip_uri))?),
                text => Some(Pattern::parse(text)?),
            },
            password: Pattern::parse(&pattern.password)?,
            pairs,
        });
    }
    let by_pair: HashMap<u64, &v1::UserPair> = users.iter().map(|pair| (pair.pair, pair)).collect();
    let mut rows = Vec::with_capacity(pairs.len() * 2);
    for pair in &pairs {
        let both = by_pair.get(&u64::from(*pair)).ok_or_else(|| missing(&format!("user pair {pair}")))?;
        for row in [&both.publisher, &both.subscriber] {
            let row = row.as_ref().ok_or_else(|| missing(&format!("a user of pair {pair}")))?;
            rows.push(Row {
                uri: row.sip_uri.clone().into_bytes(),
                auth_user: row.auth_user.clone().into_bytes(),
                password: row.password.clone().into_bytes(),
                ha1: row.ha1.clone().into_bytes(),
                row: row.row,
            });
        }
    }
    Ok(Accounts::Rows { rows, pairs })
}

/// `DOMAIN\user{n}` for `sip:user{n}@pool.test`.
fn in_domain(domain: &str, sip_uri: &str) -> String {
    let after = sip_uri.split_once(':').map_or(sip_uri, |(_, rest)| rest);
    let user = after.split_once('@').map_or(after, |(user, _)| user);
    format!("{domain}\\{user}")
}

/// Addresses, ranges `a-b` of IPv4 addresses, and networks.
fn sources(texts: &[String]) -> Result<Vec<std::net::IpAddr>, EngineError> {
    let wrong = |text: &str| EngineError::Plan(format!("`{text}` is no local address or range of them"));
    let mut found = Vec::new();
    for text in texts {
        let range = if let Some((from, to)) = text.split_once('-') {
            let from: std::net::Ipv4Addr = from.trim().parse().map_err(|_| wrong(text))?;
            let to: std::net::Ipv4Addr = to.trim().parse().map_err(|_| wrong(text))?;
            u32::from(from)..=u32::from(to)
        } else if let Some((network, bits)) = text.split_once('/') {
            let network: std::net::Ipv4Addr = network.trim().parse().map_err(|_| wrong(text))?;
            let bits: u32 =
                bits.trim().parse().ok().filter(|b| (8..=32).contains(b)).ok_or_else(|| wrong(text))?;
            let size = 1u64 << (32 - bits);
            let first = u32::from(network) & !((size - 1) as u32);
            first..=first + (size - 1) as u32
        } else {
            found.push(text.trim().parse().map_err(|_| wrong(text))?);
            continue;
        };
        if range.clone().count() + found.len() > MAX_SOURCES {
            return Err(EngineError::Plan(format!("`{text}` names more than {MAX_SOURCES} addresses")));
        }
        found.extend(range.map(|ip| std::net::IpAddr::from(std::net::Ipv4Addr::from(ip))));
    }
    Ok(found)
}

fn numbered(path: &std::path::Path, index: u32, count: u32) -> std::path::PathBuf {
    if count == 1 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    name.into()
}

/// The offset for a host whose own wall clock is the coordinator's.
#[must_use]
pub fn local_offset_ns() -> i64 {
    clock::unix_ns() - clock::now().0 as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_draws_its_own_and_the_same_again() {
        let plan = |agent_index| v1::Plan { seed: 7, agent_index, ..v1::Plan::default() };
        let seeds: std::collections::BTreeSet<u64> = (0..64).map(|agent| own_seed(&plan(agent))).collect();
        assert_eq!(seeds.len(), 64);
        assert_eq!(own_seed(&plan(3)), own_seed(&plan(3)));
    }
}
