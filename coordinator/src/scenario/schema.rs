//! The JSON Schema of scenario files, for editors and other tools.
//!
//! The types here describe the file and nothing reads with them: the reader
//! has better messages than a schema can give. A test holds the two together.

// Each field is a key of the file; what it means stands in its comment, which becomes the schema's description.
#![allow(dead_code, missing_docs, reason = "data for the schema generator")]

use std::collections::BTreeMap;

use schemars::{JsonSchema, schema_for};

/// The JSON Schema as text.
#[must_use]
pub fn schema() -> String {
    let schema = schema_for!(File);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// A duration with its unit: "30s", "250ms", "1m30s".
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Duration(#[schemars(regex(pattern = r"^([0-9][0-9_]*(\.[0-9]+)?(d|h|m|s|ms|us|µs|ns))+$"))] String);

/// A rate with its unit: "600/s", "0.5/s", "90/m".
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Rate(#[schemars(regex(pattern = r"^[0-9][0-9_]*(\.[0-9]+)?/(s|m|min|h)$"))] String);

/// A ratio in per cent: "0.1%".
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Ratio(#[schemars(regex(pattern = r"^[0-9][0-9_]*(\.[0-9]+)?%$"))] String);

/// [a-z0-9][a-z0-9_.-]*
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Name(#[schemars(regex(pattern = r"^[a-z0-9][a-z0-9_.-]{0,62}$"))] String);

/// A scenario of adsum.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "adsum scenario")]
struct File {
    /// Version of this format: 1.
    #[schemars(range(min = 1, max = 1))]
    schema: u64,
    /// Name of the scenario.
    name: Name,
    /// For people.
    comment: Option<String>,
    /// What is spoken on the wire.
    dialect: Option<Dialect>,
    /// Where all chance comes from; drawn and recorded if left out.
    seed: Option<u64>,
    pool: Pool,
    auth: Option<Auth>,
    users: Users,
    workload: Workload,
    warmup: Option<Warmup>,
    /// The offered rates, one after the other.
    #[schemars(length(min = 1))]
    step: Vec<Step>,
    /// What must hold. Without any: missed.ratio == 0% and failed.ratio == 0%.
    threshold: Option<Vec<Threshold>>,
    trust: Option<Trust>,
    safety: Option<Safety>,
    fleet: Option<Fleet>,
    /// Sites by name.
    sites: Option<BTreeMap<String, Site>>,
    report: Option<Report>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Dialect {
    Simple,
    Lync,
}

/// Where to.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Pool {
    /// host[:port] (RFC 3263), or "embedded".
    target: String,
    /// What carries the messages; udp if left out, tls in the dialect lync.
    transport: Option<Transport>,
    /// TCP and TLS; UDP always shares.
    connections: Option<Connections>,
    /// Networks besides loopback that may be loaded.
    allow: Option<OneOrMore>,
    /// host[:port] in Contact and Via instead of the local address.
    advertise: Option<String>,
    /// Local addresses, ranges or networks to send from.
    source: Option<OneOrMore>,
    tls: Option<Tls>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Transport {
    Udp,
    Tcp,
    Tls,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum Connections {
    PerUser,
    Shared,
}

/// For TLS; paths are relative to the scenario's directory.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Tls {
    /// Whom to trust; the system's store if left out.
    ca: Option<String>,
    /// Client certificate.
    cert: Option<String>,
    /// Its key.
    key: Option<String>,
    /// The name in the pool's certificate; the target's host if left out.
    server_name: Option<String>,
    /// For pools without ECDHE, AEAD or TLS 1.2; needs agents with the feature legacy-tls. False if left out.
    legacy: Option<bool>,
}

/// How users prove who they are.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Auth {
    scheme: Option<Scheme>,
    /// Send credentials unasked while the nonce is good; true if left out.
    reuse_nonce: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Scheme {
    Auto,
    Digest,
    Ntlm,
    Trusted,
}

/// Who: either `from`, or `count`, `pattern` and a password.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Users {
    /// CSV path, relative to the scenario's directory.
    from: Option<String>,
    /// How many users: even.
    #[schemars(range(min = 2, max = 20_000_000))]
    count: Option<u64>,
    /// sip:user{n:06}@pool.test, n from 1.
    pattern: Option<String>,
    /// Password with {n} in it: a secret. "${env:NAME}" takes it from the environment.
    password_pattern: Option<String>,
    /// File whose first line is the password of all users.
    password_file: Option<String>,
    /// In the dialect lync: the domain of all users, for NTLM.
    nt_domain: Option<String>,
}

/// What the users do.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Workload {
    kind: Kind,
    arrivals: Option<Arrivals>,
    /// For the notification; 25s if left out.
    deadline: Option<Duration>,
    /// Users subscribe to themselves, too; true if left out.
    self_subscribe: Option<bool>,
    /// Asked for in Expires; 3600s if left out.
    expires: Option<Duration>,
    /// Arrivals under way at once in the whole fleet.
    #[schemars(range(min = 1))]
    max_in_flight: Option<u32>,
    /// Agents wake at whole multiples of this; 0s, each event at once, if left out.
    quantum: Option<Duration>,
    fan_out: Option<FanOut>,
    placement: Option<Placement>,
}

/// Subscribers of each publisher, drawn from the seed; held runs only, every user publishes and subscribes.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct FanOut {
    distribution: Distribution,
    /// Mean number of subscribers: at most three decimals.
    #[schemars(range(min = 0.001, max = 10_000))]
    mean: f64,
    /// Most subscribers of one publisher. If left out: the mean rounded up (constant), twice the mean (uniform).
    #[schemars(range(min = 1, max = 10_000))]
    max: Option<u32>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Distribution {
    Constant,
    Uniform,
    Zipf,
    LogNormal,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Kind {
    Workflow,
    Held,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Arrivals {
    Constant,
    Poisson,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
enum Placement {
    SameAgent,
}

/// How users log on.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Warmup {
    /// 200/s if left out.
    register_rate: Option<Rate>,
    /// 500/s if left out.
    subscribe_rate: Option<Rate>,
    /// 5s if left out.
    settle: Option<Duration>,
}

/// One offered rate, or a ladder of them.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Step {
    name: Name,
    rate: RateOrLadder,
    hold: Duration,
    /// Linear from the previous rate; 0s if left out.
    ramp: Option<Duration>,
    /// What releases are compared by; false if left out.
    gate: Option<bool>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
enum RateOrLadder {
    Rate(Rate),
    Ladder(Ladder),
}

/// Rates from `from` to `to`, each `by` more.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Ladder {
    from: Rate,
    to: Rate,
    by: Rate,
}

/// What must hold.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Threshold {
    /// metric.stat op value
    expr: String,
    /// A step; each hold if left out.
    step: Option<String>,
    /// A site; the sum if left out.
    site: Option<String>,
    base: Option<Base>,
    /// Broken while the run goes on, it ends the run; false if left out.
    abort_on_fail: Option<bool>,
    /// With abort_on_fail: how long into a step it is not asked yet.
    after: Option<Duration>,
    /// With abort_on_fail: how long it must be broken.
    #[schemars(rename = "for")]
    during: Option<Duration>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Base {
    Scheduled,
    Sent,
}

/// When a run may be believed.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Trust {
    profile: Option<Profile>,
    send_lag_p99: Option<Duration>,
    send_lag_seconds: Option<Ratio>,
    loop_gap: Option<Duration>,
    sent_ratio: Option<Ratio>,
    waited_pair_ratio: Option<Ratio>,
    shard_busy: Option<Ratio>,
    steal: Option<Ratio>,
    steal_seconds: Option<Ratio>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum Profile {
    Lab,
    Ci,
}

/// What protects the pool.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Safety {
    /// Ceiling of arrivals of the whole fleet.
    max_rate: Option<Rate>,
    /// "5xx.ratio > 50% for 3s" if left out.
    stop_on: Option<String>,
    /// Switches stop_on off; false if left out.
    overload: Option<bool>,
}

/// What happens when machines are lost.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Fleet {
    on_agent_loss: Option<OnAgentLoss>,
    /// 30s if left out.
    orphan_timeout: Option<Duration>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum OnAgentLoss {
    Stop,
    Continue,
}

/// What differs from [pool] at a site, and its share of the load.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Site {
    /// Weight among the sites; for all of them or for none.
    share: Option<f64>,
    target: Option<String>,
    connections: Option<Connections>,
    advertise: Option<String>,
    source: Option<OneOrMore>,
}

/// What is shown.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Report {
    /// Numbers between 0 and 1.
    #[schemars(length(min = 1, max = 32))]
    percentiles: Option<Vec<f64>>,
    /// Whole seconds for each row of the interval table; 1s if left out.
    interval: Option<Duration>,
}
