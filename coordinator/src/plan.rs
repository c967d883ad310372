//! From a scenario and a list of agents to one plan for each of them. Pure: no
//! clock, no network.
//!
//! Arrival k of a run belongs to pair k mod P, so an agent that owned a block
//! of pairs would get its whole load in one clump. Pairs are therefore dealt
//! out one by one ([`share`]), and travel as strided ranges.

pub mod check;
pub mod share;
pub mod timeline;

use adsum_proto::v1;
use prost::Message as _;

use crate::scenario::{
    Arrivals, Connections, Dialect, Distribution, FanOut, Kind, Scenario, Scheme, Site, Target, Transport,
};
use crate::users::{Population, Row, RowPair, Who};
use share::{Dealt, divide};

/// Largest chunk of users: well below the largest message of the wire.
pub const CHUNK_MAX: usize = 1024 * 1024;

/// An agent, as far as planning cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPlace {
    /// Its name, for messages.
    pub name: String,
    /// Where it stands.
    pub site: String,
}

/// What a run adds to its scenario.
#[derive(Clone)]
pub struct RunFacts {
    /// The run's id, a ULID.
    pub run_id: String,
    /// The scenario's seed, or the one that was drawn.
    pub seed: u64,
    /// `t_s = 0`: a whole second of UTC, the beginning of the warm-up.
    pub origin_unix_ns: i64,
    /// Where the embedded pool listens; needed for `target = "embedded"` only.
    pub embedded: Option<String>,
    /// Content of the file of `pool.tls.ca`, empty if there is none.
    pub ca_pem: Vec<u8>,
    /// Content of the file of `pool.tls.cert`, empty if there is none.
    pub cert_pem: Vec<u8>,
    /// Content of the file of `pool.tls.key`, empty if there is none: a secret.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for RunFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunFacts({}, seed {}, key <redacted>)", self.run_id, self.seed)
    }
}

/// What one agent gets: the plan, then its users in chunks.
#[derive(Clone, PartialEq)]
pub struct AgentPlan {
    /// The plan.
    pub plan: v1::Plan,
    /// Users that are no pattern, in order.
    pub chunks: Vec<v1::UserChunk>,
}

impl std::fmt::Debug for AgentPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Passwords are in both parts.
        write!(f, "AgentPlan(agent {}, {} chunks)", self.plan.agent_index, self.chunks.len())
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nobody makes load.
    #[error("no agent is attached; start one with `adsum agent --coordinator …`")]
    NoAgents,
    /// Some agents would have nothing to do.
    #[error("{agents} agents cannot share {pairs} pairs; accepted: at most one agent for each pair of users")]
    TooManyAgents {
        /// How many agents there are.
        agents: usize,
        /// How many pairs there are.
        pairs: u64,
    },
    /// An agent stands where the scenario knows no site.
    #[error("agent {agent} is at site {site}, which the scenario does not have; accepted: {accepted}")]
    UnknownSite {
        /// The agent's name.
        agent: String,
        /// Its site.
        site: String,
        /// The scenario's sites.
        accepted: String,
    },
    /// A site of the scenario, or of the users' file, has no agent.
    #[error("no agent is at site {site}, {why}; start one with `adsum agent --site {site}`")]
    EmptySite {
        /// The site.
        site: String,
        /// Who names it.
        why: String,
    },
    /// A total is too small to be divided.
    #[error("{what} = {total} cannot be divided over {agents} agents; accepted: at least {agents}")]
    Indivisible {
        /// The key.
        what: &'static str,
        /// Its value: arrivals, or thousandths per second.
        total: u64,
        /// How many agents there are.
        agents: usize,
    },
    /// Pairs are numbered with 32 bits.
    #[error("{pairs} pairs are too many; accepted: at most {}", u32::MAX)]
    TooManyPairs {
        /// How many pairs there are.
        pairs: u64,
    },
    /// An agent has fewer users than a publisher may have subscribers.
    #[error(
        "workload.fan_out.max = {max} subscribers of one publisher need more users than the {users} of agent {agent}; \
         accepted: more users, a smaller max, or fewer agents"
    )]
    TooFewUsers {
        /// The agent's name.
        agent: String,
        /// Its users.
        users: u64,
        /// What was asked for.
        max: u32,
    },
    /// The run's id does not read as one.
    #[error("`{0}` is no run id; accepted: a ULID")]
    RunId(String),
    /// The embedded pool is the target and nobody started it.
    #[error("the target is the embedded pool, which exists in `adsum run` without --coordinator only")]
    NoEmbeddedPool,
    /// A plan would not fit the wire.
    #[error(
        "the plan of agent {agent} takes {bytes} bytes, more than the wire carries ({limit}): the sites in the users' \
         file change without a pattern; sort the file so that they take turns"
    )]
    TooLarge {
        /// The agent's name.
        agent: String,
        /// Bytes of its plan.
        bytes: usize,
        /// The largest message.
        limit: usize,
    },
}

/// The 30 bits of a run's id that go into markers and Call-IDs.
///
/// # Errors
/// [`PlanError::RunId`] if it is no ULID.
pub fn run_tag(run_id: &str) -> Result<u32, PlanError> {
    let id = ulid::Ulid::from_string(run_id).map_err(|_| PlanError::RunId(run_id.to_owned()))?;
    // Truncation is the purpose: the low bits are the random ones.
    Ok((id.0 & 0x3fff_ffff) as u32)
}

/// One plan for each agent, in their order. Every pair belongs to exactly one of them.
///
/// # Errors
/// [`PlanError`], before anything is sent.
pub fn plans(
    scenario: &Scenario,
    population: &Population,
    facts: &RunFacts,
    agents: &[AgentPlace],
) -> Result<Vec<AgentPlan>, PlanError> {
    if population.pairs > u64::from(u32::MAX) {
        return Err(PlanError::TooManyPairs { pairs: population.pairs });
    }
    let dealt = share::deal(scenario, population, agents)?;
    let shares = Shares::new(scenario, &dealt, agents.len())?;
    let tag = run_tag(&facts.run_id)?;
    if let Some(fan_out) = scenario.workload.fan_out {
        // The agent's shards divide its users once more: the plan check warns of those.
        for (agent, pairs) in agents.iter().zip(dealt.counts()) {
            let (users, max) = (pairs * 2, fan_out.max);
            if u64::from(max) >= users {
                return Err(PlanError::TooFewUsers { agent: agent.name.clone(), users, max });
            }
        }
    }
    let mut plans = Vec::with_capacity(agents.len());
    for (index, agent) in agents.iter().enumerate() {
        let site = scenario.sites.get(&agent.site);
        let (pattern, chunks) = users(population, &dealt, index);
        let plan = v1::Plan {
            run_id: facts.run_id.clone(),
            run_tag: tag,
            seed: facts.seed,
            origin_unix_ns: facts.origin_unix_ns,
            pool: Some(pool(scenario, site, facts)?),
            auth: Some(auth(scenario)),
            workload: Some(workload(scenario, shares.of(&shares.max_in_flight, index))),
            warmup: Some(v1::Warmup {
                register_rate_mhz: shares.of(&shares.register, index),
                subscribe_rate_mhz: shares.of(&shares.subscribe, index),
                settle_ns: scenario.warmup.settle_ns,
            }),
            steps: steps(scenario),
            safety: Some(v1::Safety {
                max_rate_mhz: shares.of(&shares.max_rate, index),
                overload: scenario.safety.overload,
            }),
            users: Some(v1::Users { pairs_total: population.pairs, pairs: dealt.ranges(index), pattern }),
            user_chunks: chunks.len() as u32,
            quantum_ns: scenario.workload.quantum_ns,
            orphan_timeout_ns: scenario.fleet.orphan_timeout_ns,
            agent_index: index as u32,
            loop_gap_ns: scenario.trust.loop_gap_ns.unwrap_or(0),
        };
        let bytes = plan.encoded_len();
        if bytes > adsum_proto::MAX_MESSAGE {
            let limit = adsum_proto::MAX_MESSAGE;
            return Err(PlanError::TooLarge { agent: agent.name.clone(), bytes, limit });
        }
        plans.push(AgentPlan { plan, chunks });
    }
    Ok(plans)
}

/// Totals of the fleet, divided by the pairs that each agent owns.
struct Shares {
    register: Vec<u64>,
    subscribe: Vec<u64>,
    /// Empty: no limit.
    max_in_flight: Vec<u64>,
    max_rate: Vec<u64>,
}

impl Shares {
    fn new(scenario: &Scenario, dealt: &Dealt, agents: usize) -> Result<Self, PlanError> {
        let divided = |what, total: u64| {
            divide(total, dealt.counts()).ok_or(PlanError::Indivisible { what, total, agents })
        };
        let limit = |what, total: Option<u64>| total.map_or(Ok(Vec::new()), |total| divided(what, total));
        Ok(Shares {
            register: divided("warmup.register_rate", scenario.warmup.register_rate_mhz)?,
            subscribe: divided("warmup.subscribe_rate", scenario.warmup.subscribe_rate_mhz)?,
            max_in_flight: limit("workload.max_in_flight", scenario.workload.max_in_flight.map(u64::from))?,
            max_rate: limit("safety.max_rate", scenario.safety.max_rate_mhz)?,
        })
    }

    /// An agent's part; 0, the wire's word for none, if there is no limit.
    fn of(&self, parts: &[u64], index: usize) -> u64 {
        parts.get(index).copied().unwrap_or(0)
    }
}

fn pool(scenario: &Scenario, site: Option<&Site>, facts: &RunFacts) -> Result<v1::Pool, PlanError> {
    let pool = &scenario.pool;
    let target = match site.and_then(|site| site.target.as_ref()).unwrap_or(&pool.target) {
        Target::Host(host) => host.clone(),
        Target::Embedded => facts.embedded.clone().ok_or(PlanError::NoEmbeddedPool)?,
    };
    let connections = site.and_then(|site| site.connections).unwrap_or(pool.connections);
    let advertise = site.and_then(|site| site.advertise.as_ref()).or(pool.advertise.as_ref());
    let source = site.and_then(|site| site.source.as_ref()).unwrap_or(&pool.source);
    let transport = match pool.transport {
        Transport::Udp => v1::Transport::Udp,
        Transport::Tcp => v1::Transport::Tcp,
        Transport::Tls => v1::Transport::Tls,
    };
    let dialect = match scenario.dialect {
        Dialect::Simple => v1::Dialect::Simple,
        Dialect::Lync => v1::Dialect::Lync,
    };
    Ok(v1::Pool {
        dialect: dialect.into(),
        target,
        transport: transport.into(),
        shared_connections: connections == Connections::Shared,
        allow: pool.allow.clone(),
        advertise: advertise.cloned().unwrap_or_default(),
        source: source.clone(),
        tls: (pool.transport == Transport::Tls).then(|| v1::Tls {
            ca_pem: facts.ca_pem.clone(),
            cert_pem: facts.cert_pem.clone(),
            key_pem: facts.key_pem.clone(),
            server_name: pool.tls.server_name.clone().unwrap_or_default(),
            legacy: pool.tls.legacy,
        }),
    })
}

fn auth(scenario: &Scenario) -> v1::Auth {
    let scheme = match scenario.auth.scheme {
        Scheme::Auto => v1::AuthScheme::Auto,
        Scheme::Digest => v1::AuthScheme::Digest,
        Scheme::Ntlm => v1::AuthScheme::Ntlm,
        Scheme::Trusted => v1::AuthScheme::Trusted,
    };
    v1::Auth { scheme: scheme.into(), reuse_nonce: scenario.auth.reuse_nonce }
}

fn workload(scenario: &Scenario, max_in_flight: u64) -> v1::Workload {
    let workload = &scenario.workload;
    let kind = match workload.kind {
        Kind::Workflow => v1::Kind::Workflow,
        Kind::Held => v1::Kind::Held,
    };
    let arrivals = match workload.arrivals {
        Arrivals::Constant => v1::Arrivals::Constant,
        Arrivals::Poisson => v1::Arrivals::Poisson,
    };
    v1::Workload {
        kind: kind.into(),
        arrivals: arrivals.into(),
        deadline_ns: workload.deadline_ns,
        self_subscribe: workload.self_subscribe,
        expires_s: workload.expires_s,
        // A part of a number of 32 bits is one, too.
        max_in_flight: u32::try_from(max_in_flight).unwrap_or(u32::MAX),
        fan_out: workload.fan_out.map(fan_out),
    }
}

fn fan_out(fan_out: FanOut) -> v1::FanOut {
    let distribution = match fan_out.distribution {
        Distribution::Constant => v1::Distribution::Constant,
        Distribution::Uniform => v1::Distribution::Uniform,
        Distribution::Zipf => v1::Distribution::Zipf,
        Distribution::LogNormal => v1::Distribution::LogNormal,
    };
    v1::FanOut { distribution: distribution.into(), mean_milli: fan_out.mean_milli, max: fan_out.max }
}

fn steps(scenario: &Scenario) -> Vec<v1::Step> {
    let steps = scenario.steps.iter().map(|step| v1::Step {
        name: step.name.clone(),
        rate_mhz: step.rate_mhz,
        hold_ns: step.hold_ns,
        ramp_ns: step.ramp_ns,
    });
    steps.collect()
}

/// The pattern, or the rows in chunks.
fn users(
    population: &Population,
    dealt: &Dealt,
    agent: usize,
) -> (Option<v1::UserPattern>, Vec<v1::UserChunk>) {
    match &population.who {
        Who::Pattern { sip_uri, password, nt_domain } => {
            let pattern = v1::UserPattern {
                sip_uri: sip_uri.clone(),
                auth_user: String::new(),
                password: password.clone(),
                nt_domain: nt_domain.clone(),
            };
            (Some(pattern), Vec::new())
        }
        Who::Rows(rows) => {
            let pairs = dealt.pairs(agent).filter_map(|(number, row)| {
                rows.get(usize::try_from(row).ok()?).map(|row| user_pair(number, row))
            });
            (None, chunks(pairs))
        }
    }
}

fn user_pair(pair: u64, rows: &RowPair) -> v1::UserPair {
    v1::UserPair {
        pair,
        publisher: Some(user_row(&rows.publisher)),
        subscriber: Some(user_row(&rows.subscriber)),
    }
}

fn user_row(row: &Row) -> v1::UserRow {
    v1::UserRow {
        sip_uri: row.sip_uri.clone(),
        auth_user: row.auth_user.clone(),
        password: row.password.clone(),
        ha1: row.ha1.clone(),
        realm: row.realm.clone(),
        row: u32::try_from(row.line).unwrap_or(u32::MAX),
    }
}

/// Pairs in messages of at most [`CHUNK_MAX`] bytes.
fn chunks(pairs: impl Iterator<Item = v1::UserPair>) -> Vec<v1::UserChunk> {
    // Tag and length of a pair, and the chunk's own number, never take more.
    const AROUND: usize = 8;
    let mut chunks: Vec<v1::UserChunk> = Vec::new();
    let mut size = CHUNK_MAX;
    for pair in pairs {
        let length = pair.encoded_len() + AROUND;
        if size + length > CHUNK_MAX {
            chunks.push(v1::UserChunk { number: chunks.len() as u32, pairs: Vec::new() });
            size = AROUND;
        }
        size += length;
        if let Some(chunk) = chunks.last_mut() {
            chunk.pairs.push(pair);
        }
    }
    chunks
}
