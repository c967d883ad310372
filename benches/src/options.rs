//! Flags as they are typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// What adsum itself costs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", version, about)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Side by side with SIPp: the same pairs at the same rate against the same Kamailio
    Sipp(SippOptions),
    /// Bytes that a held user takes in the agent and in the kernel
    Memory(MemoryOptions),
    /// CPU time of a message, against the embedded pool in its own process
    Cost(CostOptions),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    Digest,
    Plain,
    /// The dialect lync, whose every message is signed; not beside SIPp
    Ntlm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Connections {
    Shared,
    PerUser,
}

macro_rules! words {
    ($($name:ident),+) => {
        $(impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
            }
        })+
    };
}

words!(Transport, Auth, Connections);

/// Which adsum is measured.
#[derive(Debug, Clone, Args)]
pub struct Build {
    /// Profile `dist` instead of `release`
    #[arg(long)]
    pub dist: bool,
    /// This program instead of building one
    #[arg(long, conflicts_with = "dist")]
    pub adsum: Option<PathBuf>,
    /// Where everything goes; absent or empty [default: a new folder in target/bench]
    #[arg(long)]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct SippOptions {
    #[arg(long, value_enum, value_delimiter = ',', default_value = "udp")]
    pub transport: Vec<Transport>,
    #[arg(long, value_enum, value_delimiter = ',', default_value = "digest")]
    pub auth: Vec<Auth>,
    /// One socket (adsum: one for each shard), or one for each user (SIPp: for each call)
    #[arg(long, value_enum, value_delimiter = ',', default_value = "shared")]
    pub connections: Vec<Connections>,
    /// Also adsum as it comes (SelfSubscribe, nonces used again, a connection for each user)
    #[arg(long)]
    pub natural: bool,
    /// Wake-ups of adsum in the rows like SIPp, whose loop wakes once a millisecond, too;
    /// microseconds, 0: at each event. The natural row keeps adsum's default of 0
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub quantum_us: u64,
    /// Threads of adsum in the rows like SIPp, which has one; 0: one a core, as in the natural row
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub shards: u32,
    /// Pairs that begin in a second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=50_000))]
    pub rate: u64,
    /// Pairs of one repetition
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub pairs: u64,
    /// Accounts, two for each pair that is under way
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(2..=999_998))]
    pub users: u64,
    /// Repetitions of each side, interleaved A B B A
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repetitions: u32,
    /// Seconds of rest after each repetition, in which the server's transactions end
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub rest: u64,
    /// Another SIPp, for example one with TLS
    #[arg(long, default_value = "sipp")]
    pub sipp: PathBuf,
    #[command(flatten)]
    pub build: Build,
}

#[derive(Debug, Clone, Args)]
pub struct MemoryOptions {
    /// Held users
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(4..=999_998))]
    pub users: u64,
    #[arg(long, value_enum, default_value = "udp")]
    pub transport: Transport,
    /// Log-ons a second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=50_000))]
    pub log_on: u64,
    #[command(flatten)]
    pub build: Build,
}

#[derive(Debug, Clone, Args)]
pub struct CostOptions {
    #[arg(long, value_enum, default_value = "udp")]
    pub transport: Transport,
    #[arg(long, value_enum, default_value = "digest")]
    pub auth: Auth,
    #[arg(long, value_enum, default_value = "shared")]
    pub connections: Connections,
    /// Workflows a second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=50_000))]
    pub rate: u64,
    /// Wake-ups at whole multiples of so many microseconds; 0: at each event
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub quantum_us: u64,
    /// Threads; 0: one a core
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub shards: u32,
    /// Seconds of one repetition
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub seconds: u64,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repetitions: u32,
    /// One more repetition under `perf record`, and where its time went
    #[arg(long)]
    pub profile: bool,
    #[command(flatten)]
    pub build: Build,
}
