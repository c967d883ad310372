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
    /// What a code, metric, counter, reason or exit code means, who has to act, and what to do
    Explain {
        /// A word or number: 4005, sip:503, timeout:notify, publish_to_notify, 12; without one, all of them
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The cmdlet's fields, one a line
    Text,
    Json,
    Csv,
    /// One line with performance data; exits with 0, 1, 2 or 3
    Nagios,
    /// For the textfile collector
    Prometheus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// RFC 3856, 3903, 6665
    Simple,
    /// Lync Server 2013
    Lync,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// The pool asks for nothing
    None,
    /// RFC 7616; what the simple dialect uses unless told otherwise
    Digest,
    /// Lync; the cmdlet's Negotiate
    Ntlm,
    /// The pool trusts the certificate of the connection; the cmdlet's TrustedServer
    Trusted,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The pool: HOST[:PORT], or a name of the configuration; may be given several times. Naming it permits traffic to it
    #[arg(long, env = "ADSUM_TARGET")]
    pub target: Vec<String>,
    /// All pools of the configuration, up to 8 at a time
    #[arg(long)]
    pub all: bool,
    /// File with [[check]] entries; else ADSUM_CONFIG, ~/.config/adsum/config.toml, /etc/adsum/config.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What the pool speaks: simple, unless the configuration says otherwise
    #[arg(long, value_enum)]
    pub dialect: Option<Dialect>,
    /// UDP for simple and TLS for lync, unless told otherwise
    #[arg(long, value_enum)]
    pub transport: Option<Transport>,
    /// How the users prove who they are
    #[arg(long, value_enum)]
    pub auth: Option<Auth>,
    /// SIP address of the publisher
    #[arg(long)]
    pub publisher: Option<String>,
    /// File with `user:password` (or `ha1:REALM:user:HEX`) of the publisher; - for standard input
    #[arg(long, requires = "publisher")]
    pub publisher_credential_file: Option<PathBuf>,
    /// SIP address of the subscriber
    #[arg(long)]
    pub subscriber: Option<String>,
    /// The same for the subscriber
    #[arg(long, requires = "subscriber")]
    pub subscriber_credential_file: Option<PathBuf>,
    /// How long to wait for the notification: 25s, unless told otherwise
    #[arg(long)]
    pub timeout: Option<String>,
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
    /// Write all messages to a file, as text, secrets masked; of several checks each to a numbered one
    #[arg(long)]
    pub trace: Option<PathBuf>,
    /// Tell each activity as it starts and completes
    #[arg(long, short)]
    pub verbose: bool,
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Put the answer into this file, in one step, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// With --format nagios: WARNING above this latency, such as 500ms
    #[arg(long, value_name = "LATENCY")]
    pub warning: Option<String>,
    /// With --format nagios: CRITICAL above this latency, such as 2s
    #[arg(long, value_name = "LATENCY")]
    pub critical: Option<String>,
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
    /// TLS; port 0 takes a free one
    #[arg(long)]
    pub tls_listen: Option<SocketAddr>,
    /// Where ca.pem and the server's certificate lie, or are made
    #[arg(long)]
    pub tls_dir: Option<PathBuf>,
    /// Accounts user000001 … with passwords pw-user000001 …
    #[arg(long, default_value_t = 1000)]
    pub users: u32,
    /// SIP domain of the accounts, and digest realm
    #[arg(long, default_value = "pool.test")]
    pub domain: String,
    /// Take requests without credentials
    #[arg(long)]
    pub no_auth: bool,
    /// simple, lync, or both: each request in the dialect that it speaks. They are two worlds: what is
    /// published in one is never seen in the other, and an account may be signed on in both
    #[arg(long, default_value = "simple")]
    pub dialect: adsum_pool::config::Dialect,
    /// A CA by which TLS clients may prove who they are
    #[arg(long, requires = "tls_listen")]
    pub tls_client_ca: Option<PathBuf>,
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
    /// Share of datagrams sent twice
    #[arg(long, default_value = "0", value_parser = adsum_pool::config::share)]
    pub duplicate: f64,
    /// Share of datagrams sent after the next one
    #[arg(long, default_value = "0", value_parser = adsum_pool::config::share)]
    pub reorder: f64,
    /// METHOD=CODE:SHARE; may be given several times
    #[arg(long)]
    pub reject: Vec<adsum_pool::Reject>,
    /// Merge NOTIFYs within this time
    #[arg(long, value_parser = adsum_pool::config::duration)]
    pub hold_notify: Option<std::time::Duration>,
    /// Share of NOTIFYs and BENOTIFYs about publications that are never sent
    #[arg(long, default_value = "0", value_parser = adsum_pool::config::share)]
    pub lose_notify: f64,
    /// Take notes out of documents
    #[arg(long)]
    pub strip_note: bool,
    /// NOTIFYs over UDP leave from this address
    #[arg(long)]
    pub notify_from: Option<IpAddr>,
    // Last, as its heading would go on otherwise.
    #[command(flatten)]
    pub lync: PoolLync,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The lync dialect")]
pub struct PoolLync {
    /// NTLM domain of the accounts; by default the first label of --domain in capitals
    #[arg(long)]
    pub nt_domain: Option<String>,
    /// What a 401 offers, in this order: ntlm, kerberos, tls-dsk, and last digest; ntlm and digest can be verified
    #[arg(long, value_delimiter = ',', default_value = "ntlm")]
    pub schemes: Vec<adsum_pool::config::LyncScheme>,
    /// Challenge by 407, as a proxy does, instead of 401
    #[arg(long)]
    pub proxy_auth: bool,
    /// Version of [MS-SIPAE] that is offered
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(2..=4))]
    pub sipae_version: u8,
    /// Ask for a MIC in the NTLM answer, and refuse whoever sends none
    #[arg(long)]
    pub ntlm_mic: bool,
    /// How long an NTLM association is good for; then everybody is challenged anew (8 hours)
    #[arg(long, value_parser = adsum_pool::config::duration)]
    pub association_lifetime: Option<std::time::Duration>,
    /// Name (SAN or CN) of client certificates that are not challenged; may be given several times
    #[arg(long, requires = "tls_client_ca")]
    pub trusted_cn: Vec<String>,
    /// Containers 100 and 200 have no members at first, as on a fresh account
    #[arg(long)]
    pub bare_containers: bool,
    /// Answer subscriptions to one publisher with a list, too
    #[arg(long)]
    pub single_as_multipart: bool,
    /// Answer subscriptions to nobody but an unknown user with 404
    #[arg(long)]
    pub unknown_as_404: bool,
    /// Share of signatures that are wrong, in answers and notifications
    #[arg(long, default_value = "0", value_parser = adsum_pool::config::share)]
    pub wrong_rspauth: f64,
    /// Every so many publications of something that exists: 409; 0 never
    #[arg(long, default_value_t = 0)]
    pub conflict_every: u32,
    /// NOTIFY where BENOTIFY was negotiated
    #[arg(long)]
    pub notify_instead: bool,
    /// First notifications never travel in the 200
    #[arg(long)]
    pub no_piggyback: bool,
    /// Send every REGISTER to this host and port
    #[arg(long, value_name = "HOST:PORT", value_parser = adsum_pool::config::host_port)]
    pub redirect_to: Option<String>,
    /// Sign endpoints off so long after their REGISTER
    #[arg(long, value_parser = adsum_pool::config::duration)]
    pub deregister_after: Option<std::time::Duration>,
    /// Share of publishers that a batch is told to subscribe to directly
    #[arg(long, default_value = "0", value_parser = adsum_pool::config::share)]
    pub resubscribe: f64,
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

impl Transport {
    pub fn of(self) -> adsum_coordinator::scenario::Transport {
        use adsum_coordinator::scenario::Transport as Carrier;
        match self {
            Transport::Udp => Carrier::Udp,
            Transport::Tcp => Carrier::Tcp,
            Transport::Tls => Carrier::Tls,
        }
    }
}

impl Dialect {
    pub fn of(self) -> adsum_coordinator::scenario::Dialect {
        match self {
            Dialect::Simple => adsum_coordinator::scenario::Dialect::Simple,
            Dialect::Lync => adsum_coordinator::scenario::Dialect::Lync,
        }
    }
}

impl Auth {
    pub fn of(auth: adsum_coordinator::scenario::checks::CheckAuth) -> Self {
        use adsum_coordinator::scenario::checks::CheckAuth;
        match auth {
            CheckAuth::None => Auth::None,
            CheckAuth::Digest => Auth::Digest,
            CheckAuth::Ntlm => Auth::Ntlm,
            CheckAuth::Trusted => Auth::Trusted,
        }
    }
}
