//! The smaller commands: report, scenario, certs, completions, man.

use std::path::Path;

use adsum_coordinator::certs::{self, Role};
use adsum_coordinator::journal;
use adsum_coordinator::scenario::{presets, schema};
use adsum_report::{files, verify};
use clap::CommandFactory as _;

use crate::cli::{Certs, Cli, Report, Scenario};
use crate::exit;
use crate::run::{self, Loaded};

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

fn fail(code: u8, error: impl std::fmt::Display) -> u8 {
    eprintln!("adsum: {error}");
    code
}

pub fn report(args: &Report) -> u8 {
    let Some(dir) = &args.dir else { return list(&args.results) };
    if journal::exists(dir) {
        if let Err(error) = finish_journal(dir) {
            return fail(exit::CONFIGURATION, error);
        }
        eprintln!("adsum: the run was cut off; what its journal holds was written, marked as interrupted");
    }
    if args.verify {
        return match verify::verify(dir) {
            Ok(found) if found.is_empty() => {
                println!("{}: consistent", dir.display());
                0
            }
            Ok(found) => {
                found.iter().for_each(|one| println!("{one}"));
                exit::INCONSISTENT
            }
            Err(error) => fail(exit::CONFIGURATION, error),
        };
    }
    if let Some(width) = &args.interval {
        return intervals(dir, width);
    }
    match adsum_report::rederive(dir) {
        Ok(derived) => {
            println!("{}", derived.summary);
            0
        }
        Err(error) => fail(exit::CONFIGURATION, error),
    }
}

fn intervals(dir: &Path, width: &str) -> u8 {
    let seconds = match adsum_pool::config::duration(width) {
        Ok(width) if width.as_secs() > 0 && width.subsec_nanos() == 0 => width.as_secs() as i64,
        Ok(_) => return fail(exit::USAGE, "--interval: whole seconds, such as 10s"),
        Err(error) => return fail(exit::USAGE, format!("--interval: {error}")),
    };
    match files::read_raw(dir) {
        Ok((raw, manifest)) => {
            print!("{}", String::from_utf8_lossy(&adsum_report::derive::intervals(&raw, &manifest, seconds)));
            0
        }
        Err(error) => fail(exit::CONFIGURATION, error),
    }
}

fn finish_journal(dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let (mut raw, mut manifest) = journal::recover(dir)?;
    adsum_report::write(dir, &mut raw, &mut manifest)?;
    std::fs::remove_file(dir.join(journal::NAME))?;
    Ok(())
}

fn list(parent: &Path) -> u8 {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) => return fail(exit::CONFIGURATION, format!("{}: {error}", parent.display())),
    };
    let mut dirs: Vec<_> =
        entries.flatten().map(|e| e.path()).filter(|p| p.join(files::MANIFEST).is_file()).collect();
    dirs.sort();
    for dir in dirs {
        match std::fs::read(dir.join(files::MANIFEST)).ok().and_then(|b| serde_json::from_slice(&b).ok()) {
            Some(serde_json::Value::Object(m)) => {
                let word = |key: &str| m.get(key).and_then(|v| v.as_str()).unwrap_or("?").to_owned();
                println!(
                    "{:<50} {:<14} {} {}",
                    dir.display(),
                    word("verdict"),
                    word("scenario"),
                    word("release")
                );
            }
            _ => println!("{:<50} cannot be read", dir.display()),
        }
    }
    0
}

pub fn print_plan(loaded: &Loaded, agents: u64, threads: u32) -> u8 {
    print!("{}", run::plan_text(loaded, agents, threads));
    0
}

pub fn scenario(command: &Scenario) -> u8 {
    match command {
        Scenario::Check { file, sets } => match run::load(file, sets) {
            Ok(loaded) => print_plan(&loaded, 1, 0),
            Err(code) => code,
        },
        Scenario::List => {
            presets::PRESETS.iter().for_each(|p| println!("{:<14} {}", p.name, p.about));
            0
        }
        Scenario::Show { name } => match presets::preset(name) {
            Some(preset) => {
                print!("{}", preset.text);
                0
            }
            None => fail(exit::USAGE, format!("there is no preset {name}; adsum scenario list")),
        },
        Scenario::Schema => {
            println!("{}", schema::schema());
            0
        }
        Scenario::Init => {
            print!("{}", presets::INIT);
            0
        }
    }
}

pub fn certs(command: &Certs) -> u8 {
    let written = match command {
        Certs::Init { dir } => certs::init(dir, now()),
        Certs::Issue { dir, role, names } => match Role::parse(role) {
            Some(role) => certs::issue(dir, role, names, now()),
            None => return fail(exit::USAGE, format!("`{role}` is no role: coordinator, agent or operator")),
        },
    };
    match written {
        Ok(written) => {
            println!("{}\n{}", written.cert.display(), written.key.display());
            0
        }
        Err(error) => fail(exit::CONFIGURATION, error),
    }
}

pub fn completions(shell: clap_complete::Shell) -> u8 {
    clap_complete::generate(shell, &mut Cli::command(), "adsum", &mut std::io::stdout());
    0
}

pub fn man() -> u8 {
    match clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout()) {
        Ok(()) => 0,
        Err(error) => fail(exit::INTERNAL, error),
    }
}
