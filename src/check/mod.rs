//! `adsum check`: the synthetic transaction, as the cmdlet answers it.

mod account;
mod job;
mod monitor;
mod output;
mod run;
mod signals;

use std::io::Write as _;
use std::path::Path;

pub use monitor::unknown;

use crate::cli::{self, Format};
use crate::exit;

/// What was asked wrongly, with its exit code.
type Refused = (u8, String);

pub fn check(args: &cli::Check) -> u8 {
    match checked(args) {
        Ok(code) => code,
        Err((code, text)) => {
            if args.format == Format::Nagios {
                return monitor::unknown(&text);
            }
            eprintln!("adsum: {text}");
            code
        }
    }
}

fn checked(args: &cli::Check) -> Result<u8, Refused> {
    let limits = monitor::Limits::of(args)?;
    let jobs = job::jobs(args)?;
    // Text is printed as it comes; the rest is one document.
    let at_once = args.format == Format::Text && args.output.is_none();
    let mut first = true;
    let done = |one: &run::Checked<'_>| {
        if at_once {
            // Whoever reads along sees each answer when it is there.
            let gap = if std::mem::take(&mut first) { "" } else { "\n" };
            signals::print(&format!("{gap}{}", output::text(one)));
        }
    };
    signals::listen().map_err(|e| (exit::INTERNAL, format!("signals cannot be listened to: {e}")))?;
    let answers = run::run(&jobs, args.verbose, signals::say, done);
    let all_well = answers.iter().all(|one| one.answer.success);
    let code = if all_well { 0 } else { exit::CHECK_FAILED };
    let (document, code) = match args.format {
        Format::Text if at_once => (String::new(), code),
        Format::Text => (answers.iter().map(output::text).collect::<Vec<_>>().join("\n"), code),
        Format::Json => (output::json(&answers), code),
        Format::Csv => (output::csv(&answers), code),
        Format::Prometheus => (monitor::prometheus(&answers), code),
        Format::Nagios => monitor::nagios(&answers, &limits),
    };
    match &args.output {
        None => signals::print(&document),
        // What was cut short is no news: the file stays as it was.
        Some(_) if signals::code().is_some() => {}
        Some(path) => replace(path, &document)
            .map_err(|e| (exit::CONFIGURATION, format!("--output {}: {e}", path.display())))?,
    }
    // A plugin has four exit codes, and said UNKNOWN already if it was cut short.
    Ok(signals::code().filter(|_| args.format != Format::Nagios).unwrap_or(code))
}

/// Writes a file so that whoever reads it sees the old one or the new one, and never a part.
fn replace(path: &Path, document: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let name = path.file_name().ok_or_else(|| std::io::Error::other("it names no file"))?;
    // In the same folder, so that renaming is one step; and not `.prom`, which a collector would read.
    let temporary = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let written = (|| {
        // Collectors run as somebody else, who has to be able to read it; what is in it is no secret.
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&temporary)?;
        file.write_all(document.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    })();
    if written.is_err() {
        drop(std::fs::remove_file(&temporary));
    }
    written
}
