//! The lync dialect from the command line to the pool and back, over sockets:
//! `check` and `run` with NTLM, with a certificate instead, and what they say
//! when it cannot work.

mod support;

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use support::{PoolProcess, adsum, check, code, err, out, secret};

const TCP: [&str; 4] = ["--dialect", "lync", "--transport", "tcp"];

fn scenario(target: &str, more: &str) -> String {
    format!(
        "schema = 1\nname = \"lync\"\ndialect = \"lync\"\n[pool]\ntarget = \"{target}\"\ntransport = \"tcp\"\n\
         [users]\ncount = 20\npattern = \"sip:user{{n:06}}@pool.test\"\npassword_pattern = \"pw-user{{n:06}}\"\n\
         [warmup]\nsettle = \"500ms\"\n{more}[[step]]\nname = \"one\"\nrate = \"10/s\"\nhold = \"3s\"\n"
    )
}

fn run(dir: &Path, text: &str) -> std::process::Output {
    let file = dir.join("s.toml");
    std::fs::write(&file, text).unwrap();
    let results = dir.join("out");
    let (file, results) = (file.to_str().unwrap(), results.to_str().unwrap());
    adsum(&["run", file, "--out", results, "--plain", "--shards", "1"])
}

/// Sums of a counter over all steps, by label.
fn counter(dir: &Path, name: &str, label: &str) -> u64 {
    let text = std::fs::read_to_string(dir.join("out/counters.csv")).unwrap();
    let rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let wanted = rows.filter(|row| row[5] == "all" && row[6] == name && row[7] == label);
    wanted.map(|row| row[8].parse::<u64>().unwrap()).sum()
}

#[test]
fn a_check_signs_everything_and_sees_the_notification() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--dialect", "lync"]);
    let trace = dir.path().join("trace.txt");
    let output =
        check(&pool.address, dir.path(), &[&TCP[..], &["--trace", trace.to_str().unwrap()]].concat());
    assert_eq!(code(&output), 0, "{} {}", out(&output), err(&output));
    assert!(out(&output).contains("Result     : Success"));
    let trace = std::fs::read_to_string(trace).unwrap();
    assert!(trace.contains("BENOTIFY sip:") && trace.contains("Authorization: NTLM "), "{trace}");
    assert!(!trace.contains("BENOTIFY\r\nContent-Length: 0\r\n\r\nSIP/2.0 200"), "nobody answers a BENOTIFY");

    // The wrong password is shown once, and never again.
    let wrong = secret(dir.path(), "wrong", "user000001:not-this-one");
    let right = secret(dir.path(), "right", "user000002:pw-user000002");
    let users = ["--publisher", "sip:user000001@pool.test", "--subscriber", "sip:user000002@pool.test"];
    let files = ["--publisher-credential-file", &wrong, "--subscriber-credential-file", &right];
    let target = ["check", "--target", &pool.address, "--format", "json"];
    let output = adsum(&[&target[..], &users, &files, &TCP].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let one = &json["checks"][0];
    assert_eq!((&one["code"], &one["class"]), (&"auth:rejected".into(), &"configuration".into()), "{json}");
    // As the cmdlet's Error has it.
    assert_eq!(one["error"], "401, Unauthorized", "{json}");
}

/// Somebody works with the account while it is checked: the check says so, and goes on.
#[test]
fn other_endpoints_of_an_account_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--dialect", "lync"]);
    let alone = check(&pool.address, dir.path(), &TCP);
    assert!(!err(&alone).contains("other endpoint"), "{}", err(&alone));
    // Held users are on line when their first step begins, five seconds after the run.
    let text = scenario(&pool.address, "[workload]\nkind = \"held\"\n").replace("\"3s\"", "\"9s\"");
    let file = dir.path().join("held.toml");
    std::fs::write(&file, text).unwrap();
    let results = dir.path().join("held");
    let args =
        ["run", file.to_str().unwrap(), "--out", results.to_str().unwrap(), "--plain", "--shards", "1"];
    let mut others = support::command(&args)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(7));
    let output = check(&pool.address, dir.path(), &[&TCP[..], &["--format", "json"]].concat());
    others.wait().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let warnings = json["checks"][0]["warnings"].to_string();
    assert_eq!(json["checks"][0]["result"], "Success", "{json}");
    assert!(warnings.contains("the publisher's account has 1 other endpoint on line"), "{json}");
    // The other subscriber has published nothing but that it is there, and so it is seen.
    assert!(warnings.contains("the subscriber's account has 1 other endpoint on line"), "{json}");
}

/// For pools whose version filter lets certain clients pass only.
#[test]
fn a_check_calls_itself_what_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--dialect", "lync"]);
    let files = [1, 2].map(|n| secret(dir.path(), &format!("{n}"), &format!("user00000{n}:pw-user00000{n}")));
    let trace = dir.path().join("trace.txt");
    let users = ["--publisher", "sip:user000001@pool.test", "--subscriber", "sip:user000002@pool.test"];
    let credentials = ["--publisher-credential-file", &files[0], "--subscriber-credential-file", &files[1]];
    let target = ["check", "--target", &pool.address, "--trace", trace.to_str().unwrap()];
    let with = |agent: &str| {
        support::command(&[&target[..], &users, &credentials, &TCP].concat())
            .env("ADSUM_USER_AGENT", agent)
            .output()
            .unwrap()
    };
    let output = with("LSPT/15.0.0.0");
    assert_eq!(code(&output), 0, "{} {}", out(&output), err(&output));
    let text = std::fs::read_to_string(&trace).unwrap();
    assert!(text.contains("User-Agent: LSPT/15.0.0.0\r\n") && !text.contains("UCCAPI"), "{text}");
    std::fs::remove_file(&trace).unwrap();
    let output = with("two\nlines");
    assert_ne!(code(&output), 0);
    assert!(out(&output).contains("is not one line"), "{} {}", out(&output), err(&output));
}

#[test]
fn a_check_says_which_schemes_are_offered_when_it_speaks_none_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--dialect", "lync", "--schemes", "kerberos,tls-dsk"]);
    let text = out(&check(&pool.address, dir.path(), &TCP));
    assert!(
        text.contains("the server offers Kerberos, TLS-DSK; of its schemes adsum speaks NTLM only"),
        "{text}"
    );
}

/// Servers may offer digest, and the pool judges it: each request proves who sent it, and a wrong
/// password or another user's gets nowhere.
#[test]
fn digest_is_judged_by_the_pool() {
    let dir = tempfile::tempdir().unwrap();
    for more in [&["--schemes", "digest"][..], &["--schemes", "kerberos,ntlm,digest", "--sha256"]] {
        let pool = PoolProcess::start(&[&["--dialect", "lync"][..], more].concat());
        let trace = dir.path().join("digest.txt");
        let digest = [&TCP[..], &["--auth", "digest", "--format", "json"]].concat();
        let with_trace = [&digest[..], &["--trace", trace.to_str().unwrap()]].concat();
        let output = check(&pool.address, dir.path(), &with_trace);
        assert_eq!(code(&output), 0, "{} {}", out(&output), err(&output));
        let trace = std::fs::read_to_string(&trace).unwrap();
        // All but the first REGISTER of each: 4 REGISTER, 6 SUBSCRIBE, 4 SERVICE.
        assert_eq!(trace.matches("\nAuthorization: Digest ").count(), 14, "{trace}");
        assert!(trace.contains("BENOTIFY sip:") && !trace.contains("Authorization: NTLM"), "{trace}");

        let files = [("wrong", "user000001:not-this-one"), ("other", "user000003:pw-user000003")];
        for (name, credentials) in files {
            let wrong = secret(dir.path(), name, credentials);
            let right = secret(dir.path(), "right", "user000002:pw-user000002");
            let users =
                ["--publisher", "sip:user000001@pool.test", "--subscriber", "sip:user000002@pool.test"];
            let files = ["--publisher-credential-file", &wrong, "--subscriber-credential-file", &right];
            let target = ["check", "--target", &pool.address];
            let output = adsum(&[&target[..], &users, &files, &digest].concat());
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(json["checks"][0]["code"], "sip:403", "{json}");
            assert_eq!(json["checks"][0]["account"], "sip:user000001@pool.test", "{json}");
        }
        let said = pool.stop();
        assert!(said.contains("wrong credentials 2"), "{said}");
        assert!(!said.contains(" left"), "{said}");
    }
}

#[test]
fn workflows_run_with_digest() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--dialect", "lync", "--schemes", "digest"]);
    let more = "[auth]\nscheme = \"digest\"\n[workload]\nkind = \"workflow\"\n";
    let text = out(&run(dir.path(), &scenario(&pool.address, more)));
    assert!(text.contains("ok   missed.ratio == 0%") && text.contains("ok   failed.ratio == 0%"), "{text}");
    assert!(counter(dir.path(), "workflow_ok", "") >= 30, "{text}");
    let said = pool.stop();
    assert!(!said.contains("wrong credentials"), "{said}");
}

#[test]
fn a_pool_of_the_other_dialect_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--no-auth"]);
    let output = check(&pool.address, dir.path(), &[&TCP[..], &["--auth", "none"]].concat());
    assert_eq!(code(&output), 5, "{}", err(&output));
    assert!(out(&output).contains("dialect = \"simple\""), "{}", out(&output));
}

#[test]
fn workflows_run_with_ntlm() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--dialect", "lync", "--nt-domain", "LOADLAB"]);
    let named = scenario(&pool.address, "[workload]\nkind = \"workflow\"\n")
        .replace("[users]\n", "[users]\nnt_domain = \"LOADLAB\"\n");
    let output = run(dir.path(), &named);
    let text = out(&output);
    // The engine may be late on a busy host: that is no matter of the dialect.
    assert!(text.contains("ok   missed.ratio == 0%") && text.contains("ok   failed.ratio == 0%"), "{text}");
    let count = |name, label| counter(dir.path(), name, label);
    let workflows = count("workflow_ok", "");
    assert!(workflows >= 30, "{text}");
    // Seen on the wire as the plan has it: 40 messages each, 3 REGISTERs to log on, and a SERVICE
    // by which each of the two appears on line.
    let messages = ["REGISTER", "SUBSCRIBE", "SERVICE"].map(|method| count("sip_sent", method));
    assert_eq!(messages, [workflows * 8, workflows * 6, workflows * 4]);
    assert_eq!(count("sip_received", "BENOTIFY"), workflows * 4);
    assert_eq!((count("auth_mismatch", ""), count("unmatched", "")), (0, 0));
}

#[test]
fn held_users_watch_their_contacts_over_tls_in_the_embedded_pool() {
    let dir = tempfile::tempdir().unwrap();
    let held = "[workload]\nkind = \"held\"\nfan_out = { distribution = \"constant\", mean = 4, max = 4 }\n";
    let text = scenario("embedded", held).replace("\"tcp\"", "\"tls\"");
    let output = run(dir.path(), &text);
    let text = out(&output);
    for line in ["ok   missed.ratio == 0%", "ok   converged == 100%", "ok   recovery.count == 0"] {
        assert!(text.contains(line), "{text}");
    }
    let count = |name, label| counter(dir.path(), name, label);
    assert_eq!(count("delivered", ""), count("expected", ""));
    // One dialog for oneself and one for a contact list, each begun and ended.
    assert!(count("sip_sent", "SUBSCRIBE") <= 20 * 4, "{}", count("sip_sent", "SUBSCRIBE"));
}

/// A director names the home pool by its name, over a connection of its own: the name is looked up, and
/// over TLS it is the one that has to stand in the home pool's certificate.
#[test]
fn a_director_sends_users_to_their_home_pool_by_name() {
    let dir = tempfile::tempdir().unwrap();
    // One CA, and each server has one name only.
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let [home_dir, tls_dir] = [("home", "localhost"), ("director", "127.0.0.1")].map(|(place, name)| {
        let place = dir.path().join(place);
        std::fs::create_dir(&place).unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        for (file, pem) in
            [("ca.pem", ca_pem.clone()), ("server.pem", cert.pem()), ("server-key.pem", key.serialize_pem())]
        {
            secret(&place, file, &pem);
        }
        place.to_string_lossy().into_owned()
    });
    let home = PoolProcess::start(&["--dialect", "lync", "--tls-dir", &home_dir]);
    let port = |address: &str| address.rsplit(':').next().unwrap().to_owned();
    for (address, transport) in [(&home.address, "tcp"), (&home.tls, "tls")] {
        let to = format!("localhost:{}", port(address));
        let director =
            PoolProcess::start(&["--dialect", "lync", "--tls-dir", &tls_dir, "--redirect-to", &to]);
        let target = if transport == "tcp" { &director.address } else { &director.tls };
        let ca = format!("{tls_dir}/ca.pem");
        let trace = dir.path().join(format!("{transport}.txt"));
        let mut more =
            vec!["--dialect", "lync", "--transport", transport, "--trace", trace.to_str().unwrap()];
        if transport == "tls" {
            more.extend(["--ca", &ca]);
        }
        let output = check(target, dir.path(), &more);
        assert_eq!(code(&output), 0, "{} {}", out(&output), err(&output));
        let trace = std::fs::read_to_string(trace).unwrap();
        assert!(trace.contains("SIP/2.0 301 ") && trace.contains(&format!("sip:{to}")), "{trace}");
    }
    // A name that nobody knows: whose it is, and what to do.
    let director = PoolProcess::start(&["--dialect", "lync", "--redirect-to", "home.pool.invalid:5061"]);
    let output = check(&director.address, dir.path(), &TCP);
    assert_eq!(code(&output), 5, "{} {}", out(&output), err(&output));
    let text = out(&output);
    assert!(
        text.contains("the pool sent the user to home.pool.invalid:5061, which cannot be found"),
        "{text}"
    );
    assert!(text.contains("let the name servers of this host know"), "{text}");
}

/// With a quantum the loop sleeps in the kernel between its ticks: questions to name servers get on all the same.
#[test]
fn a_director_is_followed_by_name_with_a_quantum_too() {
    let dir = tempfile::tempdir().unwrap();
    let home = PoolProcess::start(&["--dialect", "lync"]);
    let to = format!("localhost:{}", home.address.rsplit(':').next().unwrap());
    let director = PoolProcess::start(&["--dialect", "lync", "--redirect-to", &to]);
    let file = dir.path().join("s.toml");
    let text = format!(
        "schema = 1\nname = \"directed\"\ndialect = \"lync\"\n[pool]\ntarget = \"{}\"\ntransport = \"tcp\"\n\
         [users]\ncount = 20\npattern = \"sip:user{{n:06}}@pool.test\"\npassword_pattern = \"pw-user{{n:06}}\"\n\
         [workload]\nkind = \"workflow\"\nquantum = \"1ms\"\n[warmup]\nsettle = \"0s\"\n[safety]\noverload = true\n\
         [[step]]\nname = \"one\"\nrate = \"10/s\"\nhold = \"2s\"\n",
        director.address
    );
    std::fs::write(&file, text).unwrap();
    let results = dir.path().join("out");
    let (file, out_dir) = (file.to_str().unwrap(), results.to_str().unwrap());
    let output = adsum(&["run", file, "--out", out_dir, "--plain", "--shards", "1"]);
    // A busy host may accuse itself (12): that is another test's business.
    assert!(matches!(code(&output), 0 | 12), "{} {}", out(&output), err(&output));
    let counters = std::fs::read_to_string(results.join("counters.csv")).unwrap();
    assert!(counters.lines().any(|row| row.contains(",hold,all,delivered,,20")), "{counters}");
}

/// What the cmdlet calls TrustedServer: the pool knows the certificate of this host, and asks nobody
/// for a password.
#[test]
fn a_trusted_certificate_takes_the_place_of_passwords() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.distinguished_name.push(DnType::CommonName, "trusted servers");
    std::fs::write(file("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    for name in ["watcher.test", "stranger.test"] {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![name.to_owned()]).unwrap();
        std::fs::write(file(&format!("{name}.pem")), cert.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        secret(dir.path(), &format!("{name}.key"), &key.serialize_pem());
    }
    let (client_ca, tls_dir) = (file("ca.pem"), file("tls"));
    let pool = PoolProcess::start(&[
        "--dialect",
        "lync",
        "--tls-dir",
        &tls_dir,
        "--tls-client-ca",
        &client_ca,
        "--trusted-cn",
        "watcher.test",
    ]);
    let pool_ca = file("tls/ca.pem");
    let with = |name: &str| {
        let (cert, key) = (file(&format!("{name}.pem")), file(&format!("{name}.key")));
        let more =
            ["--dialect", "lync", "--auth", "trusted", "--ca", &pool_ca, "--cert", &cert, "--key", &key];
        adsum(
            &[
                &["check", "--target", &pool.tls][..],
                &["--publisher", "sip:user000001@pool.test", "--subscriber", "sip:user000002@pool.test"],
                &more,
            ]
            .concat(),
        )
    };
    let output = with("watcher.test");
    assert_eq!(code(&output), 0, "{} {}", out(&output), err(&output));
    let output = with("stranger.test");
    assert_eq!(code(&output), 5, "{} {}", out(&output), err(&output));
    assert!(out(&output).contains("does not trust the certificate of this connection"), "{}", out(&output));
}
