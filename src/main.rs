//! The command line of adsum: one `match`, one exit code.

mod check;
mod cli;
mod explain;
mod fleet;
mod pool;
mod run;
mod selftest;
mod small;

use std::process::ExitCode;

use clap::Parser as _;
use cli::{Cli, Command};

/// Exit codes of the command line; those of a run come from its verdict.
mod exit {
    pub const INTERNAL: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const CONFIGURATION: u8 = 3;
    pub const NOT_STARTED: u8 = 4;
    pub const CHECK_FAILED: u8 = 5;
    pub const INCONSISTENT: u8 = 6;
}

/// `adsum … | head` ends quietly when nobody reads on, as a shell user expects.
fn end_quietly_on_a_closed_pipe() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.to_string().contains("failed printing to stdout: Broken pipe") {
            std::process::exit(141);
        }
        usual(panic);
    }));
}

/// A command line that clap refuses, or `--help`. A monitoring plugin says it in its own way:
/// exit code 2 would mean that the pool is down.
fn not_understood(error: &clap::Error) -> u8 {
    let words: Vec<String> = std::env::args().collect();
    let is_nagios = |at: usize| words.get(at).is_some_and(|word| word == "nagios");
    let nagios = words
        .iter()
        .enumerate()
        .any(|(at, word)| word == "--format=nagios" || word == "--format" && is_nagios(at + 1));
    if error.use_stderr() && nagios {
        let text = error.to_string();
        return check::unknown(text.trim_start_matches("error: "));
    }
    // What cannot be printed has no better place.
    drop(error.print());
    if error.use_stderr() { exit::USAGE } else { 0 }
}

fn main() -> ExitCode {
    end_quietly_on_a_closed_pipe();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(not_understood(&error)),
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("ADSUM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let code = match cli.command {
        Command::Check(args) => check::check(&args),
        Command::Run(args) => run::run(&args),
        Command::Report(args) => small::report(&args),
        Command::Coordinator(args) => fleet::coordinator(&args),
        Command::Agent(args) => fleet::agent(&args),
        Command::Pool(args) => pool::pool(&args),
        Command::Scenario { command } => small::scenario(&command),
        Command::Certs { command } => small::certs(&command),
        Command::Explain { word } => explain::explain(word.as_deref()),
        Command::Selftest(args) => selftest::selftest(&args),
        Command::Completions { shell } => small::completions(shell),
        Command::Man => small::man(),
    };
    ExitCode::from(code)
}
