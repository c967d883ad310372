//! A scenario after reading: typed, checked, defaults filled in.
//!
//! Durations are nanoseconds (`_ns`), rates thousandths of an arrival per
//! second (`_mhz`), ratios parts per billion (`_ppb`). Serialised, it is what
//! the hashes of a run are made of: no secret is in it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

pub use super::thresholds::StopOn;

/// One scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scenario {
    /// `[a-z0-9][a-z0-9_.-]*`; goes into the name of the results directory.
    pub name: String,
    /// For people.
    pub comment: Option<String>,
    /// What is spoken on the wire.
    pub dialect: Dialect,
    /// Where all chance comes from; drawn and recorded if `None`.
    pub seed: Option<u64>,
    /// Where to.
    pub pool: Pool,
    /// How users prove who they are.
    pub auth: Auth,
    /// Who.
    pub users: Users,
    /// What they do.
    pub workload: Workload,
    /// How they log on.
    pub warmup: Warmup,
    /// The offered rates, ladders expanded; at least one.
    pub steps: Vec<Step>,
    /// What must hold.
    pub thresholds: Vec<Threshold>,
    /// When a run may be believed.
    pub trust: Trust,
    /// What protects the pool.
    pub safety: Safety,
    /// What happens when machines are lost.
    pub fleet: Fleet,
    /// Sites by name; empty: whatever agents there are, in equal shares.
    pub sites: BTreeMap<String, Site>,
    /// What is shown.
    pub report: Report,
}

/// Gives an enum its words in files: `name`, `Display` and serialisation.
macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            /// The word in scenario files, results and messages.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            /// All words with what they mean.
            pub const WORDS: &'static [(&'static str, $name)] = &[$(($word, $name::$variant)),+];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    };
}

/// What is spoken on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// RFC 3856, 3903, 6665.
    Simple,
    /// MS-SIPRE, MS-PRES, MS-SIPAE.
    Lync,
}
words!(Dialect { Simple = "simple", Lync = "lync" });

/// What carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// A stream inside TLS.
    Tls,
}
words!(Transport { Udp = "udp", Tcp = "tcp", Tls = "tls" });

/// Who shares a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// Each user has one.
    PerUser,
    /// Few for all users of a shard.
    Shared,
}
words!(Connections { PerUser = "per-user", Shared = "shared" });

/// Where the next hop is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A pool started in this process.
    Embedded,
    /// `host[:port]`, to be resolved by the agents (RFC 3263).
    Host(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Embedded => "embedded",
            Target::Host(host) => host,
        })
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `[pool]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// The next hop.
    pub target: Target,
    /// What carries the messages.
    pub transport: Transport,
    /// TCP and TLS; UDP always shares.
    pub connections: Connections,
    /// Networks besides loopback, as they were written.
    pub allow: Vec<String>,
    /// What stands in Contact and Via instead of the local address.
    pub advertise: Option<String>,
    /// Local addresses or ranges to send from; empty: the system chooses.
    pub source: Vec<String>,
    /// For TLS.
    pub tls: Tls,
}

/// `pool.tls`: paths as they were written, relative to the scenario's directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Whom to trust; the system's store if `None`.
    pub ca: Option<String>,
    /// Our certificate, if the pool asks for one.
    pub cert: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// The name that the pool's certificate must have; the target's host if `None`.
    pub server_name: Option<String>,
    /// OpenSSL instead of rustls, for pools without ECDHE, AEAD or TLS 1.2. In no hash while it is off: it
    /// came later, and earlier runs stay comparable.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub legacy: bool,
}

/// How users prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Whatever the pool asks for.
    Auto,
    /// RFC 7616.
    Digest,
    /// MS-SIPAE, in the dialect `lync`.
    Ntlm,
    /// Not at all: the pool trusts the connection.
    Trusted,
}
words!(Scheme { Auto = "auto", Digest = "digest", Ntlm = "ntlm", Trusted = "trusted" });

/// `[auth]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Auth {
    /// How users prove who they are.
    pub scheme: Scheme,
    /// Send credentials unasked while the nonce is good.
    pub reuse_nonce: bool,
}

/// `[users]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Users {
    /// Rows of a CSV file.
    File {
        /// Its path as it was written, relative to the scenario's directory.
        from: String,
    },
    /// Names by number.
    Pattern {
        /// How many: even.
        count: u64,
        /// `sip:user{n:06}@pool.test`, n from 1.
        pattern: String,
        /// Where passwords come from.
        password: Password,
        /// Stands before the user's part of the address as the name for NTLM.
        #[serde(skip_serializing_if = "Option::is_none")]
        nt_domain: Option<String>,
    },
}

/// Where the passwords of a pattern's users come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// A pattern, too: a secret.
    Pattern(String),
    /// The first line of a file, the same for all: the file's path.
    File(String),
    /// None is needed.
    None,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Password::Pattern(_) => f.write_str("Pattern(<redacted>)"),
            Password::File(path) => write!(f, "File({path:?})"),
            Password::None => f.write_str("None"),
        }
    }
}

impl Serialize for Password {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Password::Pattern(_) => "pattern",
            Password::File(_) => "file",
            Password::None => "none",
        })
    }
}

/// What an arrival is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One whole workflow of a free pair.
    Workflow,
    /// One publication of a user who stays signed on.
    Held,
}
words!(Kind { Workflow = "workflow", Held = "held" });

/// How arrivals are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly.
    Constant,
    /// As a Poisson process.
    Poisson,
}
words!(Arrivals { Constant = "constant", Poisson = "poisson" });

/// `[workload]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// What an arrival is.
    pub kind: Kind,
    /// How arrivals are spread.
    pub arrivals: Arrivals,
    /// From the PUBLISH to the end of the wait for its NOTIFY.
    pub deadline_ns: u64,
    /// Users subscribe to themselves, too.
    pub self_subscribe: bool,
    /// Seconds asked for in `Expires` (RFC 3261 §10.2.1.1).
    pub expires_s: u32,
    /// Arrivals under way at once in the whole fleet; users allow if `None`.
    pub max_in_flight: Option<u32>,
    // Keys that came later are in no hash while they have their default: earlier runs stay comparable.
    /// Agents wake at whole multiples of this, to send and to read; 0: at each event.
    #[serde(skip_serializing_if = "is_zero")]
    pub quantum_ns: u64,
    /// How many subscribers publishers have; pairs if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fan_out: Option<FanOut>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How the numbers of subscribers are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// All the same; of a broken mean some have one more.
    Constant,
    /// Each number from 2·mean − max to max as often.
    Uniform,
    /// k subscribers in proportion to a power of k.
    Zipf,
    /// By the density of the log-normal distribution with sigma 1.
    LogNormal,
}
words!(Distribution {
    Constant = "constant",
    Uniform = "uniform",
    Zipf = "zipf",
    LogNormal = "lognormal",
});

/// `workload.fan_out`: every user publishes and subscribes, and the subscribers
/// of each are drawn inside its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FanOut {
    /// Its kind.
    pub distribution: Distribution,
    /// Mean number of subscribers, in thousandths.
    pub mean_milli: u64,
    /// Most subscribers of one publisher.
    pub max: u32,
}

/// `[warmup]`: ceilings of the whole fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warmup {
    /// Log-ons and log-offs.
    pub register_rate_mhz: u64,
    /// Subscriptions.
    pub subscribe_rate_mhz: u64,
    /// Rest between readiness and the first arrival.
    pub settle_ns: u64,
}

/// One offered rate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name; unique.
    pub name: String,
    /// Arrivals of the whole fleet.
    pub rate_mhz: u64,
    /// How long the rate is held: what the statistics cover.
    pub hold_ns: u64,
    /// How long the way from the previous rate takes (first: from 0).
    pub ramp_ns: u64,
    /// What releases are compared by.
    pub gate: bool,
}

/// From which instant a latency counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// What the schedule said.
    Scheduled,
    /// The first byte.
    Sent,
}
words!(Base { Scheduled = "scheduled", Sent = "sent" });

/// One `[[threshold]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Threshold {
    /// `metric.stat op value`.
    pub expr: String,
    /// One step; each hold if `None`.
    pub step: Option<String>,
    /// One site; the sum if `None`.
    pub site: Option<String>,
    /// From which instant a latency counts.
    pub base: Base,
    /// Broken while the run goes on, it ends the run.
    pub abort_on_fail: bool,
    /// Seconds of a step in which that is not asked yet.
    pub after_s: u64,
    /// Seconds for which it must be broken.
    pub for_s: u64,
}

/// How strict the verdict is about the engine itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// A machine of its own.
    Lab,
    /// A shared runner.
    Ci,
}
words!(Profile { Lab = "lab", Ci = "ci" });

/// `[trust]`: a profile, and limits that differ from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trust {
    /// Where limits come from that are not given.
    pub profile: Profile,
    /// Largest p99 of the send lag in a second.
    pub send_lag_p99_ns: Option<u64>,
    /// Share of a hold's seconds that may exceed it.
    pub send_lag_seconds_ppb: Option<u64>,
    /// Shortest gap of the event loop that is not forgiven.
    pub loop_gap_ns: Option<u64>,
    /// Smallest share of offered arrivals that must be sent.
    pub sent_ppb: Option<u64>,
    /// Largest share of arrivals that may wait for a free pair.
    pub waited_pair_ppb: Option<u64>,
    // What is not given is in no hash: scenarios keep theirs when limits are added.
    /// Largest share of a second that a shard's thread may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard_busy_ppb: Option<u64>,
    /// Largest share of the cores' time that the hypervisor may take in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steal_ppb: Option<u64>,
    /// Share of a hold's seconds that may exceed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steal_seconds_ppb: Option<u64>,
}

/// `[safety]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Safety {
    /// Ceiling of arrivals of the whole fleet.
    pub max_rate_mhz: Option<u64>,
    /// What stops a run to protect the pool; `None` with `overload`.
    pub stop_on: Option<StopOn>,
    /// The pool may be driven into the ground.
    pub overload: bool,
}

/// What a lost agent means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAgentLoss {
    /// The run ends.
    Stop,
    /// The others go on.
    Continue,
}
words!(OnAgentLoss { Stop = "stop", Continue = "continue" });

/// `[fleet]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fleet {
    /// What a lost agent means.
    pub on_agent_loss: OnAgentLoss,
    /// How long agents go on without a coordinator.
    pub orphan_timeout_ns: u64,
}

/// `[sites.NAME]`: what differs from `[pool]`, and how much load it makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Site {
    /// Weight among the sites, in thousandths.
    pub share: Option<u64>,
    /// Another next hop.
    pub target: Option<Target>,
    /// Another way to connect.
    pub connections: Option<Connections>,
    /// Another address in Contact and Via.
    pub advertise: Option<String>,
    /// Other local addresses.
    pub source: Option<Vec<String>>,
}

/// `[report]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Quantiles in parts per billion, rising.
    pub percentiles_ppb: Vec<u64>,
    /// Whole seconds for each row of the interval table.
    pub interval_s: u32,
}
