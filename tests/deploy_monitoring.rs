//! The files of `deploy/monitoring/` and the page for administrators of the
//! cmdlet are run, not only read.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{PoolProcess, adsum, check, code, command, err, out, secret};

const PROGRAM: &str = "/usr/local/bin/adsum";
const CONFIGURATION: &str = "/etc/adsum/config.toml";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn deployed(name: &str) -> String {
    std::fs::read_to_string(root().join("deploy/monitoring").join(name)).unwrap()
}

/// The configuration that comes along, for a pool of the test.
fn configuration(dir: &Path, target: &str) -> String {
    secret(dir, "alice.txt", "user000001:pw-user000001\n");
    secret(dir, "bob.txt", "user000002:pw-user000002\n");
    let text = deployed("config.toml")
        .replace("fra-1.example.com", target)
        .replace("\"tls\"", "\"tcp\"")
        .replace("ca         = \"/etc/adsum/ca.pem\"\n", "")
        .replace("sip:alice@example.com", "sip:user000001@pool.test")
        .replace("sip:bob@example.com", "sip:user000002@pool.test");
    secret(dir, "config.toml", &text)
}

/// Runs a command line of a file with what differs on this host.
fn run(line: &str, dir: &Path, configuration: &str) -> Output {
    assert!(line.starts_with(PROGRAM) && line.contains(CONFIGURATION), "{line}");
    let line = line.replace(PROGRAM, env!("CARGO_BIN_EXE_adsum")).replace(CONFIGURATION, configuration);
    Command::new("sh").arg("-c").arg(line).env("CREDENTIALS_DIRECTORY", dir).output().unwrap()
}

#[test]
fn the_unit_writes_metrics_and_takes_a_failed_pool_for_its_work() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&[]);
    let file = configuration(dir.path(), &pool.address);
    let unit = deployed("adsum-check.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let folder = "/var/lib/prometheus/node-exporter";
    assert!(line.ends_with(&format!("--output {folder}/adsum.prom")), "{line}");
    let line = line.replace(folder, &dir.path().to_string_lossy());
    let written = || std::fs::read_to_string(dir.path().join("adsum.prom")).unwrap();
    let output = run(&line, dir.path(), &file);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(
        written().contains(&format!("adsum_check_success{{name=\"fra-1\",target=\"{}\"}} 1\n", pool.address))
    );
    drop(pool);
    let output = run(&line, dir.path(), &file);
    assert!(unit.contains(&format!("\nSuccessExitStatus={}\n", code(&output))), "{}", err(&output));
    assert!(written().contains("} 0\n"));
}

#[test]
fn systemd_takes_unit_and_timer() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for name in ["adsum-check.service", "adsum-check.timer"] {
        let text = deployed(name).replace(PROGRAM, env!("CARGO_BIN_EXE_adsum"));
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        files.push(file);
    }
    let Ok(output) = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&files).output()
    else {
        return eprintln!("skipped: there is no systemd-analyze here");
    };
    let told = err(&output);
    let ours: Vec<&str> = told.lines().filter(|line| line.contains("adsum-check")).collect();
    assert!(output.status.success() && ours.is_empty(), "{told}");
}

#[test]
fn the_command_of_nagios_runs() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&[]);
    let file = configuration(dir.path(), &pool.address);
    let text = deployed("nagios.cfg");
    let value = |key: &str| {
        let line = text.lines().map(str::trim).find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("no {key}")).trim().to_owned()
    };
    let mut line = value("command_line");
    let service = value("check_command");
    let mut words = service.split('!');
    assert_eq!(words.next(), Some(value("command_name").as_str()));
    for (number, word) in words.enumerate() {
        line = line.replace(&format!("$ARG{}$", number + 1), word);
    }
    assert!(!line.contains('$'), "{line}");
    let output = run(&line, dir.path(), &file);
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert!(out(&output).starts_with("ADSUM OK - fra-1: notified in "), "{}", out(&output));
}

#[test]
fn icinga_passes_flags_that_there_are() {
    let text = deployed("icinga2.conf");
    let help = out(&adsum(&["check", "--help"]));
    let flags: Vec<&str> = text.split('"').filter(|word| word.starts_with("--")).collect();
    assert!(flags.len() >= 6, "{flags:?}");
    for flag in flags {
        assert!(help.contains(&format!("{flag} ")), "{flag} is no flag of check");
    }
    assert_eq!(text.matches('{').count(), text.matches('}').count());
}

#[test]
fn alerts_ask_for_metrics_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--users", "2"]);
    let well = check(&pool.address, dir.path(), &["--format", "prometheus"]);
    drop(pool);
    let failed = check("127.0.0.1:9", dir.path(), &["--format", "prometheus"]);
    let there = out(&well) + &out(&failed);
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("adsum_check_"))
            .map(str::to_owned)
            .collect()
    };
    for name in ["prometheus-alerts.yml", "README.md"] {
        let asked = words(&deployed(name));
        assert!(asked.len() >= 5, "{asked:?}");
        for metric in asked {
            assert!(there.contains(&format!("# TYPE {metric} gauge\n")), "{name}: {metric}");
        }
    }
}

/// What promtool of Debian's package prometheus says, where there is one.
#[test]
fn prometheus_takes_rules_and_metrics() {
    let promtool = |args: &[&str]| Command::new("promtool").args(args).output();
    let Ok(rules) = promtool(&[
        "test",
        "rules",
        &root().join("deploy/monitoring/prometheus-alerts-test.yml").to_string_lossy(),
    ]) else {
        return eprintln!("skipped: there is no promtool here");
    };
    assert!(rules.status.success(), "{} {}", out(&rules), err(&rules));
    let dir = tempfile::tempdir().unwrap();
    let metrics = dir.path().join("adsum.prom");
    check("127.0.0.1:9", dir.path(), &["--format", "prometheus", "--output", &metrics.to_string_lossy()]);
    let line = format!("promtool check metrics < {}", metrics.display());
    let read = Command::new("sh").args(["-c", &line]).output().unwrap();
    assert!(read.status.success() && err(&read).is_empty(), "{} {}", out(&read), err(&read));
}

/// The whole time that a check may take is what the files give it.
#[test]
fn monitoring_gives_a_check_the_time_that_it_may_take() {
    // DNS, workflow, notification, signing off.
    let longest = 15 + 128 + 25 + 5;
    for name in ["README.md", "icinga2.conf", "nagios.cfg"] {
        assert!(deployed(name).contains(&format!("{longest} s at worst")), "{name}");
    }
    assert!(deployed("icinga2.conf").contains("timeout = 3m"));
    assert!(deployed("nagios.cfg").contains("service_check_timeout=180"));
    assert!(deployed("adsum-check.service").contains("TimeoutStartSec=15min"));
}

#[test]
fn the_page_for_administrators_of_the_cmdlet_is_right() {
    let page = std::fs::read_to_string(root().join("docs/from-test-cspresence.md")).unwrap();
    // The flags that it names.
    let help = out(&adsum(&["check", "--help"]));
    let mut named = 0;
    for word in page.split(|c: char| c.is_whitespace() || "`,;:…)".contains(c)) {
        // What cargo is told to build is no flag of ours.
        let cargo = ["--features", "--release"].contains(&word);
        if word.starts_with("--") && word.len() > 2 && !word.starts_with("---") && !cargo {
            let flag = word.trim_end_matches('.');
            assert!(help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")), "{flag}");
            named += 1;
        }
    }
    assert!(named > 30, "{named}");
    // Its entry, and every key of its table.
    let dir = tempfile::tempdir().unwrap();
    let entry = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let more = "transport = \"tls\"\nauth = \"ntlm\"\ncert = \"c\"\nkey = \"k\"\nserver_name = \"n\"\n\
                timeout = \"25s\"\nlocal_address = \"127.0.0.1\"\nadvertise = \"h\"\n";
    let file = secret(dir.path(), "c.toml", &format!("{entry}{more}"));
    let output = command(&["check", "--config", &file, "--target", "nobody"]).output().unwrap();
    assert_eq!(code(&output), 2, "{}", err(&output));
    assert!(err(&output).contains("it has fra-1"), "{}", err(&output));
    for key in more.lines().chain(entry.lines()).filter_map(|line| Some(line.split_once('=')?.0.trim())) {
        assert!(page.contains(&format!("`{key}")), "{key} is not in the table");
    }
    // The codes that it names.
    for word in ["4005", "sip:503", "timeout:notify", "auth:rejected", "transport:dns", "timeout:transaction"]
    {
        assert!(page.contains(word) && code(&adsum(&["explain", word])) == 0, "{word}");
    }
    for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let file = link.split('#').next().unwrap();
        assert!(file.is_empty() || root().join("docs").join(file).exists(), "{link}");
    }
}
