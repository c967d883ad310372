//! Every parameter of `Test-CsPresence` has its counterpart, the page for
//! administrators names it, and it does what the cmdlet's does.

mod support;

use std::path::Path;
use std::process::Stdio;

use support::{PoolProcess, adsum, code, command, err, out, secret};

/// A parameter, and what its row of the page has to name.
const PARAMETERS: [(&str, &[&str]); 12] = [
    ("TargetFqdn", &["--target HOST"]),
    ("RegistrarPort", &["--target HOST:PORT"]),
    ("PublisherSipAddress", &["--publisher"]),
    ("PublisherCredential", &["--publisher-credential-file"]),
    ("SubscriberSipAddress", &["--subscriber"]),
    ("SubscriberCredential", &["--subscriber-credential-file"]),
    ("Authentication TrustedServer", &["--auth trusted", "--cert", "--key"]),
    ("Authentication Negotiate", &["--auth ntlm"]),
    ("TimeoutInSeconds", &["--timeout 25s"]),
    ("Force", &["none"]),
    ("OutVerboseVariable", &["--verbose 2>FILE"]),
    ("OutLoggerVariable", &["--format json", "--trace FILE"]),
];

#[test]
fn the_page_names_every_parameter_and_its_counterpart() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/from-test-cspresence.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).collect();
    for (parameter, counterparts) in PARAMETERS.iter().chain(&[("Verbose", &["--verbose"][..])]) {
        let row = rows.iter().find(|row| row.split('|').nth(1).is_some_and(|cell| cell.contains(parameter)));
        let row = row.unwrap_or_else(|| panic!("{parameter} has no row"));
        let cell = row.split('|').nth(2).unwrap();
        assert!(counterparts.iter().all(|counterpart| cell.contains(counterpart)), "{parameter}: {cell}");
    }
}

/// The cmdlet's line with everything that it can be given, but a trusted certificate: see `lync.rs`.
#[test]
fn all_of_them_together_do_what_the_cmdlets_do() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let pool = PoolProcess::start(&["--dialect", "lync", "--nt-domain", "LOADLAB", "--tls-dir", &at("tls")]);
    // NT account and UPN, as Get-Credential takes them.
    secret(dir.path(), "publisher", "LOADLAB\\user000001:pw-user000001\n");
    secret(dir.path(), "subscriber", "user000002@pool.test:pw-user000002\n");
    let (ca, publisher, subscriber, trace) =
        (at("tls/ca.pem"), at("publisher"), at("subscriber"), at("trace"));
    let line = [
        ["check", "--verbose"],
        ["--target", &pool.tls],
        ["--dialect", "lync"],
        ["--auth", "ntlm"],
        ["--ca", &ca],
        ["--publisher", "sip:user000001@pool.test"],
        ["--publisher-credential-file", &publisher],
        ["--subscriber", "sip:user000002@pool.test"],
        ["--subscriber-credential-file", &subscriber],
        ["--timeout", "20s"],
        ["--format", "json"],
        ["--trace", &trace],
    ]
    .concat();
    let verbose = std::fs::File::create(at("verbose")).unwrap();
    let output = command(&line).stderr(Stdio::from(verbose)).output().unwrap();
    let told = std::fs::read_to_string(at("verbose")).unwrap();
    assert_eq!(code(&output), 0, "{} {told}", out(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let one = &json["checks"][0];
    assert_eq!((one["result"].as_str(), one["target_fqdn"].as_str()), (Some("Success"), Some(&*pool.tls)));
    for activity in ["Register", "SelfSubscribeActivity", "SubscribePresence", "PublishPresence"] {
        assert!(told.contains(&format!("'{activity}' activity completed in '")), "{told}");
    }
    let trace = std::fs::read_to_string(trace).unwrap();
    assert!(
        trace.contains("SERVICE sip:") && trace.contains("<masked>") && !trace.contains("pw-user"),
        "{trace}"
    );
}

/// `RegistrarPort`: with a port the DNS is asked for addresses only, without one the usual port is taken.
#[test]
fn the_port_is_the_registrars() {
    let dir = tempfile::tempdir().unwrap();
    secret(dir.path(), "a", "a:b\n");
    let file = dir.path().join("a").to_string_lossy().into_owned();
    let check = |target: &str, more: &[&str]| {
        let line =
            ["check", "--target", target, "--publisher", "sip:a@h.test", "--subscriber", "sip:b@h.test"];
        let files =
            ["--publisher-credential-file", &file, "--subscriber-credential-file", &file, "--format", "json"];
        let output = adsum(&[&line[..], &files, more].concat());
        let json: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {} {}", out(&output), err(&output)));
        json["checks"][0]["error"].as_str().unwrap().to_owned()
    };
    // Nothing listens at these addresses.
    let said = check("127.0.0.203:5999", &["--transport", "tcp"]);
    assert!(said.contains("127.0.0.203:5999"), "{said}");
    let said = check("127.0.0.203", &["--dialect", "lync"]);
    assert!(said.contains("127.0.0.203:5061"), "{said}");
    let said = check("127.0.0.203", &["--dialect", "lync", "--transport", "tcp"]);
    assert!(said.contains("127.0.0.203:5060"), "{said}");
}
