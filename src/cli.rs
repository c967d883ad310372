//! Flags as they are typed.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Load and latency testing of SIP presence.
#[derive(Debug, Parser)]
#[command(name = "adsum", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// One pair, one workflow: Result, Latency, Error, Diagnosis
    Check(Check),
    /// Run a scenario or a preset
    Run(Run),
    /// Derive, verify or list results
    Report(Report),
    /// Take agents and runs
    Coordinator(Coordinator),
    /// Make load for a coordinator
    Agent(Agent),
    /// The embedded presence pool on its own, with fault knobs
    Pool(Pool),
    /// Scenario files: check, list, show, schema, init
    Scenario {
        #[command(subcommand)]
        command: Scenario,
    },
    /// A development CA, and certificates for coordinator and agents
    Certs {
        #[command(subcommand)]
        command: Certs,
    },
    /// What a metric, counter, reason or exit code means
    Explain {
        /// The word; without one, all of them
        word: Option<String>,
    },
    /// What this host can do as a load generator, and what would make it fitter
    Selftest(Selftest),
    /// Completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// The manual page, in roff
    Man,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Realtime {
    /// Where this process may (CAP_SYS_NICE, RLIMIT_RTPRIO), once all is ready
    Auto,
    /// Never asked for
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stamps {
    /// What waits for this process is in no latency
    Kernel,
    /// Costs less CPU; what waits for this process is in every latency
    User,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    Text,
    Json,
    Csv,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The pool: HOST[:PORT]; may be given several times. Naming it permits traffic to it
    #[arg(long, required = true, env = "ADSUM_TARGET")]
    pub target: Vec<String>,
    #[arg(long, value_enum, default_value = "udp")]
    pub transport: Transport,
    /// SIP address of the publisher
    #[arg(long)]
    pub publisher: String,
    /// File with `user:password` (or `ha1:REALM:user:HEX`) of the publisher; - for standard input
    #[arg(long)]
    pub publisher_credential_file: Option<PathBuf>,
    /// SIP address of the subscriber
    #[arg(long)]
    pub subscriber: String,
    /// The same for the subscriber
    #[arg(long)]
    pub subscriber_credential_file: Option<PathBuf>,
    /// How long to wait for the notification
    #[arg(long, default_value = "25s")]
    pub timeout: String,
    /// CAs to trust, in PEM
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// Client certificate, in PEM
    #[arg(long, requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "cert")]
    pub key: Option<PathBuf>,
    /// Name that the server's certificate must have
    #[arg(long)]
    pub server_name: Option<String>,
    /// For pools without ECDHE, AEAD or TLS 1.2: OpenSSL with TLS 1.0 and old cipher suites, if built in
    #[arg(long)]
    pub legacy_tls: bool,
    /// Local address
    #[arg(long)]
    pub local_address: Option<IpAddr>,
    /// HOST[:PORT] for Via and Contact
    #[arg(long)]
    pub advertise: Option<String>,
    /// Write all messages to a file, as text, secrets masked
    #[arg(long)]
    pub trace: Option<PathBuf>,
    /// Tell each activity as it starts and completes
    #[arg(long, short)]
    pub verbose: bool,
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct Run {
    /// A scenario file, or the name of a preset (`adsum scenario list`)
    pub scenario: String,
    /// Results go exactly here; absent or empty
    #[arg(long, conflicts_with = "results")]
    pub out: Option<PathBuf>,
    /// Results go into a folder of their own below this
    #[arg(long, env = "ADSUM_RESULTS", default_value = "results")]
    pub results: PathBuf,
    /// Replace results of an earlier run in --out
    #[arg(long, requires = "out")]
    pub force: bool,
    /// Override a key: pool.target=…, step.NAME.rate=…
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Label the run; `release` names what was tested
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Seed of all chance
    #[arg(long)]
    pub seed: Option<u64>,
    /// Agents on this host; 1 runs in this process
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub agents: u16,
    /// Threads that make load on this host; 0: one a core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub shards: u32,
    /// Real-time priority for these threads; never beside the embedded pool, which needs the cores, too
    #[arg(long, value_enum, default_value = "off")]
    pub realtime: Realtime,
    /// When latencies end: as the kernel received a message, or as this process read it
    #[arg(long, value_enum, default_value = "kernel")]
    pub stamps: Stamps,
    /// Write all messages to a file, as text, secrets masked
    #[arg(long)]
    pub trace: Option<PathBuf>,
    /// Log lines instead of a progress bar
    #[arg(long)]
    pub plain: bool,
    /// Check the plan and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Run on the agents of a coordinator: http://HOST:PORT on loopback, or https://HOST:PORT
    #[arg(long, env = "ADSUM_COORDINATOR", conflicts_with_all = ["agents", "trace"])]
    pub coordinator: Option<String>,
    /// CA of the coordinator's certificate, in PEM
    #[arg(long, requires_all = ["cert", "key"])]
    pub ca: Option<PathBuf>,
    /// Our certificate, for the coordinator
    #[arg(long, requires = "ca")]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "ca")]
    pub key: Option<PathBuf>,
    /// Short for --set pool.target=…
    #[arg(long)]
    pub target: Option<String>,
    /// Short for --set users.count=… or users.from=…
    #[arg(long)]
    pub users: Option<String>,
    /// Short for the rate of every step
    #[arg(long)]
    pub rate: Option<String>,
    /// Short for the hold of every step
    #[arg(long)]
    pub hold: Option<String>,
    /// Short for --set pool.allow=…
    #[arg(long)]
    pub allow: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Report {
    /// A results directory
    pub dir: Option<PathBuf>,
    /// Check that the directory agrees with itself; exit 6 if it does not
    #[arg(long, requires = "dir")]
    pub verify: bool,
    /// Seconds of a row in intervals.csv, written to standard output
    #[arg(long, requires = "dir")]
    pub interval: Option<String>,
    /// List the results below this
    #[arg(long, env = "ADSUM_RESULTS", default_value = "results")]
    pub results: PathBuf,
}

#[derive(Debug, Args)]
pub struct Coordinator {
    /// Where agents and runs attach; off loopback only with certificates
    #[arg(long, default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,
    /// Where runs get folders of their own
    #[arg(long, env = "ADSUM_RESULTS", default_value = "results")]
    pub results: PathBuf,
    /// CA of the certificates of agents and operators, in PEM
    #[arg(long, requires_all = ["cert", "key"])]
    pub ca: Option<PathBuf>,
    /// Our certificate
    #[arg(long, requires = "ca")]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "ca")]
    pub key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Agent {
    /// http://HOST:PORT on loopback, https://HOST:PORT, or unix:PATH
    #[arg(long, env = "ADSUM_COORDINATOR")]
    pub coordinator: String,
    /// Its name; the host's name unless given
    #[arg(long)]
    pub name: Option<String>,
    /// Where it stands
    #[arg(long, default_value = "local")]
    pub site: String,
    /// Networks that plans may reach besides loopback
    #[arg(long)]
    pub allow: Vec<String>,
    /// Arrivals a second at most, whatever a plan says: 600/s
    #[arg(long)]
    pub max_rate: Option<String>,
    /// Threads that make load; one a core unless given
    #[arg(long, default_value_t = 0)]
    pub shards: u32,
    /// Real-time priority for these threads
    #[arg(long, value_enum, default_value = "auto")]
    pub realtime: Realtime,
    /// When latencies end: as the kernel received a message, or as this process read it
    #[arg(long, value_enum, default_value = "kernel")]
    pub stamps: Stamps,
    /// CA of the coordinator's certificate, in PEM
    #[arg(long, requires_all = ["cert", "key"])]
    pub ca: Option<PathBuf>,
    /// Our certificate
    #[arg(long)]
    pub cert: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum SelftestFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct Selftest {
    /// Only look at the host: no load
    #[arg(long)]
    pub quick: bool,
    #[arg(long, value_enum, default_value = "text")]
    pub format: SelftestFormat,
    /// Threads that make load; one, unless given: the pool needs the other cores
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub shards: u32,
    /// Real-time priority for these threads
    #[arg(long, value_enum, default_value = "auto")]
    pub realtime: Realtime,
    /// Keep the results of the runs in this folder
    #[arg(long)]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Pool {
    /// UDP and TCP; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:5060")]
    pub listen: SocketAddr,
    #[arg(long)]
    pub tls_listen: Option<SocketAddr>,
    /// Where ca.pem and the server's certificate lie, or are made
    #[arg(long)]
    pub tls_dir: Option<PathBuf>,
    /// Accounts user000001 … with passwords pw-user000001 …
    #[arg(long, default_value_t = 1000)]
    pub users: u32,
    #[arg(long, default_value = "pool.test")]
    pub domain: String,
    /// Take requests without credentials
    #[arg(long)]
    pub no_auth: bool,
    /// Challenge with SHA-256 before MD5
    #[arg(long)]
    pub sha256: bool,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Before every answer: 7ms, lognormal(20ms, 0.5), uniform(a,b), exponential(m)
    #[arg(long)]
    pub answer_delay: Option<adsum_pool::Delay>,
    /// From receiving a PUBLISH to handing over its NOTIFYs
    #[arg(long)]
    pub notify_delay: Option<adsum_pool::Delay>,
    /// Freeze everything: EVERY,FOR such as 10s,1s
    #[arg(long, value_parser = adsum_pool::config::stall)]
    pub stall: Option<(std::time::Duration, std::time::Duration)>,
    /// Publications a second: one queue, one server
    #[arg(long)]
    pub capacity: Option<f64>,
    /// Share of datagrams lost, both ways
    #[arg(long, default_value = "0", value_parser = adsum_pool::config::share)]
    pub drop: f64,
    #[arg(long, default_value = "0", value_parser = adsum_pool::config::share)]
    pub duplicate: f64,
    #[arg(long, default_value = "0", value_parser = adsum_pool::config::share)]
    pub reorder: f64,
    /// METHOD=CODE:SHARE; may be given several times
    #[arg(long)]
    pub reject: Vec<adsum_pool::Reject>,
    /// Merge NOTIFYs within this time
    #[arg(long, value_parser = adsum_pool::config::duration)]
    pub hold_notify: Option<std::time::Duration>,
    /// Share of NOTIFYs about publications that are never sent
    #[arg(long, default_value = "0", value_parser = adsum_pool::config::share)]
    pub lose_notify: f64,
    /// Take notes out of documents
    #[arg(long)]
    pub strip_note: bool,
    /// NOTIFYs over UDP leave from this address
    #[arg(long)]
    pub notify_from: Option<IpAddr>,
}

#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Read a file, tell all mistakes, print the plan
    Check {
        file: String,
        #[arg(long = "set", value_name = "KEY=VALUE")]
        sets: Vec<String>,
    },
    /// The presets
    List,
    /// The text of a preset
    Show { name: String },
    /// The JSON schema of the format
    Schema,
    /// A file to begin with, on standard output
    Init,
}

#[derive(Debug, Subcommand)]
pub enum Certs {
    /// Make a CA
    Init {
        #[arg(long, default_value = "certs")]
        dir: PathBuf,
    },
    /// Make a certificate
    Issue {
        #[arg(long, default_value = "certs")]
        dir: PathBuf,
        /// coordinator, agent or operator
        role: String,
        /// Host names and addresses
        #[arg(required = true)]
        names: Vec<String>,
    },
}
