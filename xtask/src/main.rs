//! Developer commands: `cargo xtask test`, `cargo xtask bench`.

use std::process::{Command, ExitCode};

/// A Debian package, by the commands or files of which any shows that it is there.
type Package = (&'static str, &'static [&'static str]);

/// The server of the interoperability tests and of `bench sipp`.
const SERVER: [Package; 6] = [
    ("kamailio", &["/usr/sbin/kamailio"]),
    (
        "kamailio-presence-modules",
        &[
            "/usr/lib/x86_64-linux-gnu/kamailio/modules/presence_xml.so",
            "/usr/lib/aarch64-linux-gnu/kamailio/modules/presence_xml.so",
        ],
    ),
    (
        "kamailio-tls-modules",
        &[
            "/usr/lib/x86_64-linux-gnu/kamailio/modules/tls.so",
            "/usr/lib/aarch64-linux-gnu/kamailio/modules/tls.so",
        ],
    ),
    (
        "kamailio-sqlite-modules",
        &[
            "/usr/lib/x86_64-linux-gnu/kamailio/modules/db_sqlite.so",
            "/usr/lib/aarch64-linux-gnu/kamailio/modules/db_sqlite.so",
        ],
    ),
    ("sqlite3", &["/usr/bin/sqlite3"]),
    ("openssl", &["/usr/bin/openssl"]),
];

/// What tests need besides: a client of the lync dialect that others wrote, another implementation of
/// NTLM, a clock that can be turned, and what compiles OpenSSL.
const WITNESSES: [Package; 8] = [
    ("pidgin-sipe", &["/usr/lib/purple-2/libsipe.so"]),
    ("libpurple-dev", &["/usr/include/libpurple/purple.h"]),
    ("libxml2-dev", &["/usr/include/libxml2/libxml/parser.h"]),
    ("pkg-config", &["/usr/bin/pkg-config"]),
    (
        "python3-venv",
        &[
            "/usr/local/bin/python3",
            "/usr/lib/python3.11/ensurepip/__init__.py",
            "/usr/lib/python3.13/ensurepip/__init__.py",
        ],
    ),
    ("faketime", &["/usr/bin/faketime"]),
    ("make", &["/usr/bin/make"]),
    // Of perl-base alone there is no `prove`, and not enough for OpenSSL's configuration.
    ("perl", &["/usr/bin/prove"]),
];

/// What `bench sipp` needs besides, unless another SIPp is named.
const SIPP: Package = ("sip-tester", &["/usr/bin/sipp"]);

const HELP: &str = "cargo xtask test [--install]    everything: format, lints, all tests, interoperability\n\
                    cargo xtask bench sipp …         side by side with SIPp, against Kamailio\n\
                    cargo xtask bench memory …       what a held user takes\n\
                    cargo xtask bench cost …         what a message costs, and where\n\
                    cargo xtask bench micro [FILTER] micro benchmarks\n\
                    \n  --install  install the Debian packages that are missing (done anyway for root)\n\
                    \n`cargo xtask bench sipp --help` tells its options; benches/README.md explains the figures";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test"] => test(is_root()),
        ["test", "--install"] => test(true),
        ["bench", "micro"] => cargo(&["bench", "--package", "adsum-benches"], false),
        ["bench", "micro", filter] => cargo(&["bench", "--package", "adsum-benches", "--", filter], false),
        ["bench", kind @ ("sipp" | "memory" | "cost"), rest @ ..] => bench(kind, rest),
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("xtask: {what}");
            ExitCode::FAILURE
        }
    }
}

fn test(install: bool) -> Result<(), String> {
    let missing: Vec<&str> = missing(&SERVER).chain(missing(&WITNESSES)).collect();
    let mut interop = missing.is_empty();
    if !interop {
        eprintln!("xtask: these Debian packages are missing: {}", missing.join(" "));
        if install {
            install_packages(&missing)?;
            interop = true;
        } else {
            eprintln!(
                "xtask: interoperability tests are skipped; `cargo xtask test --install` installs them (as root)"
            );
        }
    }
    cargo(&["fmt", "--all", "--check"], false)?;
    lint()?;
    cargo(&["test", "--workspace", "--no-fail-fast"], interop)?;
    legacy_tls(interop)
}

/// What differs with OpenSSL built in: its lints, and the tests that need it. OpenSSL is compiled once, from
/// source, in minutes; of ours only two crates are built anew.
fn legacy_tls(interop: bool) -> Result<(), String> {
    let ours = ["--package", "adsum-agent", "--package", "adsum", "--features", "adsum/legacy-tls"];
    cargo(&[&["clippy"], &ours[..], &["--all-targets", "--", "-D", "warnings"]].concat(), false)?;
    let files = ["--test", "legacy_tls", "--test", "tls_probe", "--test", "old_pools", "--no-fail-fast"];
    cargo(&[&["test"], &ours[..], &files].concat(), interop)?;
    cargo(&[&["test"], &ours[..], &["--test", "kamailio", "over_old_tls"]].concat(), interop)
}

/// The benchmarks' own runner, which builds adsum as its users do.
fn bench(kind: &str, options: &[&str]) -> Result<(), String> {
    let install = options.contains(&"--install");
    let options: Vec<&str> = options.iter().copied().filter(|option| *option != "--install").collect();
    let asks = options.iter().any(|option| matches!(*option, "--help" | "-h"));
    let own_sipp = options.iter().any(|option| option.starts_with("--sipp"));
    if kind == "sipp" && !asks {
        let mut missing: Vec<&str> = missing(&SERVER).collect();
        if !own_sipp && !there(SIPP.1) {
            missing.push(SIPP.0);
        }
        if !missing.is_empty() {
            eprintln!("xtask: these Debian packages are missing: {}", missing.join(" "));
            if !install && !is_root() {
                return Err("`cargo xtask bench sipp --install` installs them (as root)".to_owned());
            }
            install_packages(&missing)?;
        }
    }
    let mut args = vec!["run", "--quiet", "--package", "adsum-benches", "--bin", "adsum-bench", "--", kind];
    args.extend_from_slice(&options);
    cargo(&args, false)
}

fn missing(packages: &'static [Package]) -> impl Iterator<Item = &'static str> {
    packages.iter().filter(|(_, files)| !there(files)).map(|(name, _)| *name)
}

fn there(files: &[&str]) -> bool {
    files.iter().any(|file| std::path::Path::new(file).exists())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.trim_ascii() == b"0")
}

/// Installs packages, and keeps them from starting servers of their own.
fn install_packages(packages: &[&str]) -> Result<(), String> {
    let policy = std::path::Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists();
    if ours {
        use std::os::unix::fs::PermissionsExt as _;
        let made = std::fs::write(policy, "#!/bin/sh\nexit 101\n")
            .and_then(|()| std::fs::set_permissions(policy, std::fs::Permissions::from_mode(0o755)));
        made.map_err(|e| format!("{}: {e}", policy.display()))?;
    }
    let apt = |args: &[&str]| {
        let status = Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive").status();
        status.is_ok_and(|status| status.success())
    };
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend_from_slice(packages);
    let done = apt(&args) || (apt(&["update"]) && apt(&args));
    if ours {
        std::fs::remove_file(policy).map_err(|e| format!("{}: {e}", policy.display()))?;
    }
    done.then_some(()).ok_or_else(|| format!("apt-get could not install {}", packages.join(" ")))
}

/// Lints, and what lints cannot turn into failures: a forbidden path that is
/// misspelt in clippy.toml only prints a warning.
fn lint() -> Result<(), String> {
    eprintln!("xtask: cargo clippy --workspace --all-targets -- -D warnings");
    let out = Command::new(env!("CARGO"))
        .args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
        .output()
        .map_err(|e| format!("cargo clippy: {e}"))?;
    let text = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() {
        eprintln!("{text}");
        return Err("clippy found something".to_owned());
    }
    match text.lines().find(|line| line.contains("does not refer to a reachable function")) {
        Some(line) => Err(format!("clippy.toml: {line}")),
        None => Ok(()),
    }
}

fn cargo(args: &[&str], interop: bool) -> Result<(), String> {
    eprintln!("xtask: cargo {}", args.join(" "));
    let mut command = Command::new(env!("CARGO"));
    command.args(args);
    if interop {
        command.env("ADSUM_INTEROP", "1");
    }
    let status = command.status().map_err(|e| format!("cargo: {e}"))?;
    status.success().then_some(()).ok_or_else(|| format!("cargo {} failed", args.join(" ")))
}
