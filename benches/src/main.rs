//! `cargo xtask bench`: what adsum itself costs. README.md says what each
//! figure means and how it is kept fair.

mod adsum;
mod compare;
mod cost;
mod kamailio;
mod machine;
mod memory;
mod options;
mod process;
mod sample;
mod sipp;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;

use process::{Named as _, Result, said};

fn main() -> ExitCode {
    let cli = options::Cli::parse();
    let done = process::hear_signals().and_then(|()| match &cli.command {
        options::Command::Sipp(options) => compare::run(options),
        options::Command::Memory(options) => memory::run(options),
        options::Command::Cost(options) => cost::run(options),
    });
    process::leave_to_signal();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An empty folder for what a benchmark leaves: the one that was asked for, or a new one.
fn out_dir(name: &str, asked: Option<&Path>) -> Result<PathBuf> {
    let dir = match asked {
        Some(dir) => dir.to_owned(),
        None => {
            let target =
                std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
            target.join("bench").join(format!("{}_{name}", machine::date("%Y-%m-%dT%H%M%SZ")))
        }
    };
    std::fs::create_dir_all(&dir).named(dir.display())?;
    if std::fs::read_dir(&dir).named(dir.display())?.next().is_some() {
        return Err(said(format!("{} is not empty: name a new --out", dir.display())));
    }
    dir.canonicalize().named(dir.display())
}
