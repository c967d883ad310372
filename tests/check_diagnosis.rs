//! What `adsum check` says about servers that refuse, and how it names things.

mod support;

use support::{PoolProcess, SmallServer, adsum, check, code, err, out};

const REASON: &str = "Destination URI either not enabled for SIP or does not exist";

#[test]
fn the_servers_diagnostics_are_shown_in_the_cmdlets_form_however_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    for header in [
        format!("ms-diagnostics: 4005;source=\"pool.test\";reason=\"{REASON}\"\r\n"),
        format!("MS-DIAGNOSTICS: 4005; Reason={REASON}; SOURCE=pool.test\r\n"),
        format!(
            "ms-client-diagnostics: 24000;reason=\"c\"\r\nms-diagnostics-public: 4003;reason=\"p\"\r\n\
             ms-diagnostics: 4005;reason=\"{REASON}\";source=\"pool.test\"\r\n"
        ),
    ] {
        let server = SmallServer::start(move |_| format!("404 Not Found\r\n{header}"));
        let output = check(&server.address, dir.path(), &[]);
        assert_eq!(code(&output), 5, "{}", err(&output));
        let text = out(&output);
        assert!(
            text.contains("Result     : Failure\nLatency    : 00:00:00\nError      : 404, Not Found\n"),
            "{text}"
        );
        let wanted =
            format!("Diagnosis  : ErrorCode=4005,Source=pool.test,Reason={REASON} - Check the SIP address");
        assert!(text.contains(&wanted), "{text}");
        let output = check(&server.address, dir.path(), &["--format", "json"]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let one = &json["checks"][0];
        assert_eq!((one["error_code"].as_u64(), one["activity"].as_str()), (Some(4005), Some("register")));
        assert!(one["account"].as_str().unwrap().starts_with("sip:user00000"), "{one}");
    }
}

#[test]
fn without_diagnostics_a_warning_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server =
        SmallServer::start(|_| "404 Not Found\r\nWarning: 399 pool.test \"no such user\"\r\n".to_owned());
    let text = out(&check(&server.address, dir.path(), &[]));
    assert!(
        text.contains("Diagnosis  : 399 pool.test \"no such user\" - The pool does not know this user"),
        "{text}"
    );
}

#[test]
fn failures_of_a_run_have_the_same_diagnosis() {
    let dir = tempfile::tempdir().unwrap();
    let server = SmallServer::start(|_| {
        format!("404 Not Found\r\nms-diagnostics: 4005;reason=\"{REASON}\";source=\"pool.test\"\r\n")
    });
    let scenario = format!(
        "schema = 1\nname = \"refused\"\n[pool]\ntarget = \"{}\"\n[users]\ncount = 4\n\
         pattern = \"sip:user{{n:06}}@pool.test\"\npassword_pattern = \"x\"\n[workload]\nkind = \"workflow\"\n\
         [[step]]\nname = \"one\"\nrate = \"5/s\"\nhold = \"1s\"\n",
        server.address
    );
    let (file, results) = (dir.path().join("s.toml"), dir.path().join("out"));
    std::fs::write(&file, scenario).unwrap();
    let output = adsum(&["run", &file.to_string_lossy(), "--out", &results.to_string_lossy(), "--plain"]);
    assert_eq!(code(&output), 4, "{}", err(&output));
    let failures = std::fs::read_to_string(results.join("failures.csv")).unwrap();
    let wanted = format!("\"ErrorCode=4005,Source=pool.test,Reason={REASON} - Check the SIP address");
    assert!(failures.contains(&wanted), "{failures}");
    assert!(failures.contains(",register,configuration,sip:404,Not Found,"), "{failures}");
}

/// The same in the dialect lync, from the pool itself.
#[test]
fn failures_of_a_lync_run_have_the_servers_diagnosis() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--dialect", "lync"]);
    for kind in ["workflow", "held"] {
        let scenario = format!(
            "schema = 1\nname = \"refused\"\ndialect = \"lync\"\n[pool]\ntarget = \"{}\"\ntransport = \"tcp\"\n[users]\n\
             count = 4\npattern = \"sip:nobody{{n:06}}@pool.test\"\npassword_pattern = \"x\"\n[workload]\nkind = \"{kind}\"\n\
             [[step]]\nname = \"one\"\nrate = \"5/s\"\nhold = \"1s\"\n",
            pool.address
        );
        let (file, results) = (dir.path().join("s.toml"), dir.path().join(kind));
        std::fs::write(&file, scenario).unwrap();
        let output = adsum(&["run", &file.to_string_lossy(), "--out", &results.to_string_lossy(), "--plain"]);
        assert_eq!(code(&output), 4, "{}", err(&output));
        let failures = std::fs::read_to_string(results.join("failures.csv")).unwrap();
        let wanted = format!("\"ErrorCode=4005,Source=pool.test,Reason={REASON} - Check the SIP address");
        assert!(
            failures.contains(&wanted) && failures.contains(",register,configuration,sip:404,"),
            "{failures}"
        );
        assert!(err(&output).contains("ErrorCode=4005,Source=pool.test,"), "{}", err(&output));
    }
}

#[test]
fn activities_are_told_as_the_cmdlet_names_them() {
    let dir = tempfile::tempdir().unwrap();
    for (dialect, carrier) in [("simple", "udp"), ("lync", "tcp")] {
        let pool = PoolProcess::start(&["--dialect", dialect]);
        let flags = ["--dialect", dialect, "--transport", carrier, "--verbose"];
        let output = check(&pool.address, dir.path(), &flags);
        assert_eq!(code(&output), 0, "{}", err(&output));
        let told = err(&output);
        assert!(told.starts_with(&format!("Registration Request hit against {}\n", pool.address)), "{told}");
        for name in ["Register", "SelfSubscribeActivity", "SubscribePresence", "PublishPresence"] {
            assert!(told.contains(&format!("'{name}' activity started. (")), "{told}");
            let line =
                told.lines().find(|l| l.starts_with(&format!("'{name}' activity completed in '"))).unwrap();
            let seconds = line.split('\'').nth(3).unwrap();
            assert_eq!(seconds.split_once('.').unwrap().1.len(), 7, "{line}");
            assert!(line.contains("' secs. ("), "{line}");
        }
        let at = |name: &str| told.find(&format!("'{name}' activity started")).unwrap();
        assert!(at("Register") < at("SelfSubscribeActivity"));
        assert!(at("SelfSubscribeActivity") < at("SubscribePresence"));
        assert!(at("SubscribePresence") < at("PublishPresence"));
        // Once for each user, and no longer than the whole.
        for (name, times) in
            [("Register", 2), ("SelfSubscribeActivity", 2), ("SubscribePresence", 1), ("Unregister", 2)]
        {
            let completed = told.matches(&format!("'{name}' activity completed in '")).count();
            assert_eq!(completed, times, "{name}: {told}");
        }
    }
}

#[test]
fn a_notification_that_does_not_come_is_told_in_the_cmdlets_words() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--lose-notify", "1.0"]);
    let output = check(&pool.address, dir.path(), &["--timeout", "1s", "--verbose"]);
    assert_eq!(code(&output), 5);
    let words = "Presence notification is not received within 1 secs.";
    assert!(out(&output).contains(&format!("Error      : {words}\n")), "{}", out(&output));
    let told = format!("An exception '{words}' occurred during the workflow.\n");
    assert!(err(&output).contains(&told), "{}", err(&output));
}

#[test]
fn a_limit_below_a_second_is_told_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--lose-notify", "1.0"]);
    let text = out(&check(&pool.address, dir.path(), &["--timeout", "500ms"]));
    assert!(text.contains("not received within 0.5 secs.") && text.contains("within 0.5 s: "), "{text}");
}

/// The commonest slip with a Lync server: the dialect was forgotten.
#[test]
fn a_lync_server_is_recognised_whatever_was_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--dialect", "lync"]);
    let text = out(&check(&pool.address, dir.path(), &["--transport", "tcp"]));
    assert!(text.contains("--dialect lync with --auth ntlm"), "{text}");
    let none = ["--dialect", "lync", "--transport", "tcp", "--auth", "none"];
    let text = out(&check(&pool.address, dir.path(), &none));
    assert!(text.contains("--auth none sends none: use --auth ntlm"), "{text}");
}

/// What a server says beside a 401 comes before the guess that the password is wrong.
#[test]
fn a_clock_that_is_off_is_no_wrong_password() {
    let dir = tempfile::tempdir().unwrap();
    let server = SmallServer::start(|_| {
        "401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"pool.test\", nonce=\"n\", algorithm=MD5\r\n\
         ms-diagnostics: 1013;reason=\"Significant time skew\";source=\"pool.test\"\r\n"
            .to_owned()
    });
    let text = out(&check(&server.address, dir.path(), &[]));
    assert!(
        text.contains(
            "Diagnosis  : ErrorCode=1013,Source=pool.test,Reason=Significant time skew - Set the clock"
        ),
        "{text}"
    );
}

#[test]
fn with_auth_none_no_challenge_is_answered() {
    let server = SmallServer::start(|_| {
        "401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"pool.test\", nonce=\"n\", algorithm=MD5\r\n"
            .to_owned()
    });
    let args =
        ["check", "--target", &server.address, "--auth", "none", "--publisher", "sip:user000001@pool.test"];
    let args = [&args[..], &["--subscriber", "sip:user000002@pool.test"]].concat();
    let output = adsum(&args);
    assert_eq!(code(&output), 5, "{}", err(&output));
    assert!(out(&output).contains("--auth none sends none: use --auth digest"), "{}", out(&output));
    let requests = server.requests();
    assert!(!requests.is_empty() && requests.iter().all(|r| !r.contains("Authorization:")), "{requests:?}");

    let pool = PoolProcess::start(&["--no-auth"]);
    let output = adsum(&[&["check", "--target", &pool.address], &args[3..]].concat());
    assert_eq!(code(&output), 0, "{} {}", out(&output), err(&output));
}

#[test]
fn what_cannot_be_done_is_refused_with_words() {
    let dir = tempfile::tempdir().unwrap();
    for (more, words) in [
        (&["--dialect", "lync", "--transport", "udp"][..], "does not go over UDP"),
        (&["--auth", "ntlm"], "belongs to --dialect lync"),
        (&["--auth", "trusted"], "needs --transport tls"),
        (&["--auth", "trusted", "--transport", "tls"], "needs --cert and --key"),
        (&["--timeout", "25"], "--timeout: "),
        (&["--warning", "1s"], "belong to --format nagios"),
        (&["--all"], "--all and --config take their users from the configuration"),
        (&["--ca", "ca.pem"], "--ca belongs to TLS, and this check goes over UDP"),
        (&["--dialect", "lync", "--transport", "tcp", "--server-name", "x"], "--server-name belongs to TLS"),
        (&["--target", "sip:h"], "--target sip:h: "),
    ] {
        let output = check("127.0.0.1:9", dir.path(), more);
        assert_eq!(code(&output), 2, "{more:?}: {}", err(&output));
        assert!(err(&output).contains(words), "{more:?}: {}", err(&output));
        assert!(out(&output).is_empty());
    }
    let pair = ["check", "--target", "127.0.0.1:9", "--publisher", "sip:a@h", "--subscriber"];
    let output = adsum(&[&pair[..], &["sip:A@h"]].concat());
    assert!(code(&output) == 2 && err(&output).contains("a check has two users"), "{}", err(&output));
    let files = ["sip:b@h", "--publisher-credential-file", "-", "--subscriber-credential-file", "-"];
    let output = adsum(&[&pair[..], &files].concat());
    assert!(code(&output) == 2 && err(&output).contains("only one of"), "{}", err(&output));
    let output = adsum(&["check", "--target", "127.0.0.1:9", "--publisher", "sip:a@h"]);
    assert!(
        code(&output) == 2 && err(&output).contains("--publisher needs --subscriber"),
        "{}",
        err(&output)
    );
}
