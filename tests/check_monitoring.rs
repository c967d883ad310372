//! `adsum check` as a plugin of Nagios and as a source of the textfile collector.

mod support;

use std::os::unix::fs::PermissionsExt as _;

use support::{PoolProcess, adsum, check, code, err, out};

/// The one line: state, text, performance data.
fn line(text: &str) -> (String, String, String) {
    let line = text.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{text}");
    let rest = line.strip_prefix("ADSUM ").unwrap();
    let (state, rest) = rest.split_once(" - ").unwrap();
    let (text, data) = rest.split_once(" | ").unwrap_or((rest, ""));
    (state.to_owned(), text.to_owned(), data.to_owned())
}

#[test]
fn nagios_gets_one_line_and_the_exit_code_of_its_state() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--notify-delay", "200ms"]);
    for (warning, critical, state, wanted) in [
        ("10s", "20s", "OK", 0),
        ("100ms", "20s", "WARNING", 1),
        ("50ms", "100ms", "CRITICAL", 2),
        ("100ms", "100ms", "CRITICAL", 2),
    ] {
        let limits = ["--format", "nagios", "--warning", warning, "--critical", critical];
        let output = check(&pool.address, dir.path(), &limits);
        let (said, text, data) = line(&out(&output));
        assert_eq!((code(&output), said.as_str()), (wanted, state), "{text} {}", err(&output));
        assert!(text.contains(&format!("{}: notified in 0.", pool.address)), "{text}");
        let value: f64 = data.strip_prefix("latency=").unwrap().split('s').next().unwrap().parse().unwrap();
        assert!((0.2..10.0).contains(&value), "{data}");
        assert!(data.ends_with(";0;25") && data.matches(';').count() == 4, "{data}");
    }
    let deaf = PoolProcess::start(&["--lose-notify", "1.0"]);
    let output = check(&deaf.address, dir.path(), &["--format", "nagios", "--timeout", "1s"]);
    let (state, text, data) = line(&out(&output));
    assert_eq!((code(&output), state.as_str(), data.as_str()), (2, "CRITICAL", "latency=U;;;0;1"));
    assert!(text.contains("Presence notification is not received within 1 secs. (notify)"), "{text}");
}

#[test]
fn every_problem_of_ours_is_unknown_to_nagios() {
    let dir = tempfile::tempdir().unwrap();
    let unknown = |output: std::process::Output, words: &str| {
        let (state, text, _) = line(&out(&output));
        assert_eq!((code(&output), state.as_str()), (3, "UNKNOWN"), "{text} {}", err(&output));
        assert!(text.contains(words), "{text}");
    };
    let nagios = ["--format", "nagios"];
    let with = |more: &[&str]| check("127.0.0.1:9", dir.path(), &[&nagios[..], more].concat());
    unknown(with(&["--no-such-flag"]), "unexpected argument '--no-such-flag'");
    unknown(with(&["--transport", "pigeon"]), "invalid value 'pigeon'");
    unknown(with(&["--warning", "2s", "--critical", "1s"]), "--warning is above --critical");
    unknown(with(&["--warning", "2"]), "--warning: ");
    unknown(with(&["--transport", "tls", "--ca", "/nonexistent/ca.pem"]), "--ca /nonexistent/ca.pem");
    unknown(with(&["--dialect", "lync", "--transport", "udp"]), "lync");
    unknown(adsum(&["check", "--format=nagios", "--all"]), "there is no configuration");
    unknown(
        adsum(&["check", "--format=nagios", "--target", "h", "--publisher", "alice", "--subscriber", "b"]),
        "begins with `sip:`",
    );
    // Own certificate files that are none: nothing was found out about the pool.
    let junk = support::secret(dir.path(), "junk.pem", "nothing\n");
    unknown(with(&["--transport", "tls", "--ca", &junk]), "holds no certificate");
    // Without the format it is a usage error as ever, and help is no error.
    assert_eq!(code(&adsum(&["check", "--no-such-flag"])), 2);
    let help = adsum(&["check", "--format", "nagios", "--help"]);
    assert!(code(&help) == 0 && out(&help).contains("--warning"));
}

/// Reads the text format: names, labels and values, with what the format asks for asserted.
fn metrics(text: &str) -> Vec<(String, String, f64)> {
    let mut families: Vec<&str> = Vec::new();
    let mut found = Vec::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let name = help.split(' ').next().unwrap();
            assert!(!families.contains(&name), "{name} twice");
            families.push(name);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert_eq!(kind.split_once(' '), Some((*families.last().unwrap(), "gauge")));
        } else {
            let (name, rest) = line.split_once('{').unwrap();
            assert_eq!(Some(&name), families.last(), "{line}");
            let (labels, value) = rest.rsplit_once("} ").unwrap();
            found.push((name.to_owned(), labels.to_owned(), value.parse().unwrap()));
        }
    }
    found
}

#[test]
fn the_textfile_collector_gets_a_whole_file_or_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&[]);
    let folder = dir.path().join("textfile");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("adsum.prom");
    let output = ["--format", "prometheus", "--output", &file.to_string_lossy()].map(str::to_owned);
    let output: Vec<&str> = output.iter().map(String::as_str).collect();

    let answer = check(&pool.address, dir.path(), &output);
    assert_eq!((code(&answer), out(&answer).as_str()), (0, ""), "{}", err(&answer));
    let text = std::fs::read_to_string(&file).unwrap();
    let found = metrics(&text);
    let value = |name: &str| found.iter().find(|(n, ..)| n == name).map(|(.., value)| *value);
    assert_eq!(value("adsum_check_success"), Some(1.0));
    assert!((0.0..5.0).contains(&value("adsum_check_latency_seconds").unwrap()));
    assert!(value("adsum_check_last_run_timestamp_seconds").unwrap() > 1.7e9);
    assert_eq!(value("adsum_check_failure_info"), None);
    assert!(
        found.iter().all(|(_, labels, _)| *labels == format!("name=\"{0}\",target=\"{0}\"", pool.address))
    );
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);

    let address = pool.address.clone();
    drop(pool);
    let answer = check(&address, dir.path(), &output);
    assert_eq!(code(&answer), 5, "{}", err(&answer));
    let found = metrics(&std::fs::read_to_string(&file).unwrap());
    let value = |name: &str| found.iter().find(|(n, ..)| n == name).map(|(.., value)| *value);
    assert_eq!((value("adsum_check_success"), value("adsum_check_latency_seconds")), (Some(0.0), None));
    let info = found.iter().find(|(name, ..)| name == "adsum_check_failure_info").unwrap();
    assert!(
        info.1.ends_with(",activity=\"register\",code=\"transport:connect\",error_code=\"\""),
        "{}",
        info.1
    );

    // A check that cannot be made leaves what was there; nothing else lies in the folder.
    let before = std::fs::read_to_string(&file).unwrap();
    let answer =
        check(&address, dir.path(), &[&output[..], &["--dialect", "lync", "--transport", "udp"]].concat());
    assert_eq!(code(&answer), 2);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    let nowhere = folder.join("no/such/adsum.prom");
    let answer =
        check(&address, dir.path(), &["--format", "prometheus", "--output", &nowhere.to_string_lossy()]);
    assert!(code(&answer) == 3 && err(&answer).contains("--output "), "{}", err(&answer));
}

#[test]
fn an_output_file_takes_any_format() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&[]);
    let file = dir.path().join("answer");
    for (format, begin) in
        [("text", "TargetFqdn : "), ("json", "{"), ("csv", "schema_version,"), ("nagios", "ADSUM OK - ")]
    {
        let output =
            check(&pool.address, dir.path(), &["--format", format, "--output", &file.to_string_lossy()]);
        assert_eq!((code(&output), out(&output).as_str()), (0, ""), "{}", err(&output));
        assert!(std::fs::read_to_string(&file).unwrap().starts_with(begin), "{format}");
    }
}
