//! `adsum check` with `[[check]]` entries: which file, which entries, in which
//! order, and how many attempts an account gets.

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{PoolProcess, SmallServer, adsum, code, command, err, out, secret};

/// An entry for a pair of users of an embedded pool; its credential files lie beside the configuration.
fn entry(dir: &Path, name: &str, target: &str, pair: u32, more: &str) -> String {
    let users = [pair * 2 - 1, pair * 2].map(|n| {
        secret(dir, &format!("user{n}"), &format!("user{n:06}:pw-user{n:06}\n"));
        format!("{{ sip = \"sip:user{n:06}@pool.test\", credential_file = \"user{n}\" }}")
    });
    format!(
        "[[check]]\nname = \"{name}\"\ntarget = \"{target}\"\npublisher = {}\nsubscriber = {}\n{more}\n",
        users[0], users[1]
    )
}

fn write(dir: &Path, text: &str) -> String {
    let file = dir.join("config.toml");
    std::fs::write(&file, text).unwrap();
    file.to_string_lossy().into_owned()
}

fn targets(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("TargetFqdn : ")).collect()
}

#[test]
fn entries_are_chosen_by_name_by_target_or_all_and_printed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let pools = [PoolProcess::start(&[]), PoolProcess::start(&[]), PoolProcess::start(&[])];
    let address = |n: usize| pools[n].address.as_str();
    let text: String =
        (0..3).map(|n| entry(dir.path(), &format!("p{n}"), address(n), n as u32 + 1, "")).collect();
    let file = write(dir.path(), &text);

    let all = adsum(&["check", "--config", &file, "--all"]);
    assert_eq!(code(&all), 0, "{} {}", out(&all), err(&all));
    assert_eq!(targets(&out(&all)), [address(0), address(1), address(2)]);
    // Flags beat the entries: over TCP as well.
    let two =
        adsum(&["check", "--config", &file, "--target", "p2", "--target", address(0), "--transport", "tcp"]);
    assert_eq!(code(&two), 0, "{} {}", out(&two), err(&two));
    assert_eq!(targets(&out(&two)), [address(2), address(0)]);
    let json = out(&adsum(&["check", "--config", &file, "--target", "p1", "--format", "json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["checks"][0]["name"], "p1");
    assert_eq!(json["checks"][0]["target_fqdn"], address(1));

    let none = adsum(&["check", "--config", &file, "--target", "p11"]);
    assert_eq!(code(&none), 2);
    assert!(err(&none).contains("it has p0, p1, p2; did you mean p1?"), "{}", err(&none));
    let both = adsum(&["check", "--config", &file, "--target", "p1", "--all"]);
    assert!(code(&both) == 2 && err(&both).contains("leave --target out"), "{}", err(&both));
    let neither = adsum(&["check", "--config", &file]);
    assert!(code(&neither) == 2 && err(&neither).contains("--target NAME or --all"), "{}", err(&neither));
}

#[test]
fn the_configuration_is_looked_for_where_the_manual_says() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&[]);
    let folder = dir.path().join(".config/adsum");
    std::fs::create_dir_all(&folder).unwrap();
    let file = write(&folder, &entry(&folder, "home", &pool.address, 1, ""));
    let run = |home: &str, variable: Option<&str>| {
        let mut command = command(&["check", "--all", "--format", "csv"]);
        command.env("HOME", home).envs(variable.map(|file| ("ADSUM_CONFIG", file)));
        command.output().unwrap()
    };
    let home = dir.path().to_string_lossy().into_owned();
    for output in [run(&home, None), run("/nonexistent", Some(&file))] {
        assert_eq!(code(&output), 0, "{} {}", out(&output), err(&output));
        assert!(out(&output).trim_end().ends_with(",home,"), "{}", out(&output));
    }
    // What is named has to be there, whatever else is.
    let output = run(&home, Some("/nonexistent/c.toml"));
    assert!(
        code(&output) == 3 && err(&output).contains("cannot read /nonexistent/c.toml"),
        "{}",
        err(&output)
    );
}

#[test]
fn all_mistakes_are_told_with_line_and_column_before_any_traffic() {
    let dir = tempfile::tempdir().unwrap();
    let server = SmallServer::start(|_| "500 No\r\n".to_owned());
    let mut text = entry(dir.path(), "good", &server.address, 1, "timeout = 5\ntransprot = \"udp\"");
    text.push_str("[[check]]\nname = \"bad name\"\n");
    let file = write(dir.path(), &text);
    let output = adsum(&["check", "--config", &file, "--all"]);
    assert_eq!((code(&output), out(&output).as_str()), (3, ""));
    let told = err(&output);
    for words in [
        "config.toml:6:11: `check.0.timeout` has no unit",
        "config.toml:7:1: unknown key `check.0.transprot`",
        "did you mean `transport`?",
        "config.toml:9:8: `check.1.name` is no name",
        "config.toml:8:1: `check.1.target` is missing",
        "config.toml:8:1: `check.1.publisher` is missing",
    ] {
        assert!(told.contains(words), "{words} is not in\n{told}");
    }
    // A credential file that is missing is told before anything is sent to the other pool.
    let more = entry(dir.path(), "other", &server.address, 2, "");
    let file = write(dir.path(), &(entry(dir.path(), "good", &server.address, 1, "") + &more));
    std::fs::remove_file(dir.path().join("user3")).unwrap();
    let output = adsum(&["check", "--config", &file, "--all"]);
    assert!(code(&output) == 3 && err(&output).contains("user3"), "{}", err(&output));
    assert!(server.requests().is_empty());
}

#[test]
fn a_slow_pool_delays_nobody_before_it_and_runs_beside_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let (quick, deaf) = (PoolProcess::start(&[]), PoolProcess::start(&["--lose-notify", "1.0"]));
    let text = entry(dir.path(), "a-quick", &quick.address, 1, "")
        + &entry(dir.path(), "b-deaf", &deaf.address, 2, "timeout = \"4s\"")
        + &entry(dir.path(), "c-deaf", &deaf.address, 3, "timeout = \"4s\"")
        + &entry(dir.path(), "d-quick", &quick.address, 4, "");
    let file = write(dir.path(), &text);
    let began = Instant::now();
    let mut child = command(&["check", "--config", &file, "--all"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    for line in lines.by_ref() {
        let line = line.unwrap();
        if line.starts_with("TargetFqdn") {
            seen.push((line, began.elapsed()));
        }
    }
    let whole = began.elapsed();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert_eq!(seen.len(), 4);
    let order: Vec<bool> = seen.iter().map(|(line, _)| line.ends_with(&quick.address)).collect();
    assert_eq!(order, [true, false, false, true]);
    assert!(seen[0].1 + Duration::from_millis(1500) < seen[1].1, "{seen:?}");
    // One after the other the two deaf ones alone would take eight seconds.
    assert!(whole < Duration::from_millis(7800), "{whole:?}");
}

/// A registrar that refuses all credentials.
fn refusing() -> SmallServer {
    SmallServer::start(|_| {
        "401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"pool.test\", nonce=\"n\", algorithm=MD5\r\n"
            .to_owned()
    })
}

#[test]
fn an_account_that_was_refused_once_is_tried_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let servers = [refusing(), refusing()];
    let pool = PoolProcess::start(&[]);
    let text = entry(dir.path(), "one", &servers[0].address, 1, "")
        + &entry(dir.path(), "two", &servers[1].address, 1, "")
        + &entry(dir.path(), "other", &pool.address, 2, "");
    let file = write(dir.path(), &text);
    let output = adsum(&["check", "--config", &file, "--all", "--format", "json"]);
    assert_eq!(code(&output), 5, "{}", err(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(checks[0]["code"], "auth:rejected");
    assert!(checks[0]["diagnosis"].as_str().unwrap().contains("(sip:user00000"), "{}", checks[0]);
    assert!(checks[1]["error"].as_str().unwrap().starts_with("not tried"), "{}", checks[1]);
    assert!(
        checks[1]["diagnosis"].as_str().unwrap().contains("one refused the credentials of sip:user00000")
    );
    assert_eq!(checks[2]["result"], "Success", "{}", checks[2]);
    // No account showed its password twice, and none to another server than the first. (The second
    // user's may be held back when the first one's was refused already.)
    let shown = |server: &SmallServer| {
        let mut users: Vec<String> = server
            .requests()
            .iter()
            .filter(|request| request.contains("\r\nAuthorization:"))
            .map(|request| {
                request.lines().find(|line| line.starts_with("Authorization:")).unwrap().to_owned()
            })
            .map(|line| line.split("username=\"").nth(1).unwrap().split('"').next().unwrap().to_owned())
            .collect();
        users.sort();
        users
    };
    let users = shown(&servers[0]);
    assert!(
        !users.is_empty() && users.iter().all(|user| ["user000001", "user000002"].contains(&user.as_str()))
    );
    assert!(users.windows(2).all(|two| two[0] != two[1]), "{users:?}");
    assert!(servers[1].requests().is_empty(), "{:?}", servers[1].requests());
}

#[test]
fn checks_that_share_an_account_run_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let deaf = PoolProcess::start(&["--lose-notify", "1.0"]);
    let text: String =
        ["a", "b"].iter().map(|name| entry(dir.path(), name, &deaf.address, 1, "timeout = \"1s\"")).collect();
    let file = write(dir.path(), &text);
    let began = Instant::now();
    let output = adsum(&["check", "--config", &file, "--all"]);
    assert_eq!(code(&output), 5);
    assert_eq!(out(&output).matches("not received within 1 secs.").count(), 2, "{}", out(&output));
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn several_checks_trace_into_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&[]);
    let text: String = [("a", 1), ("b", 2)]
        .iter()
        .map(|(name, pair)| entry(dir.path(), name, &pool.address, *pair, ""))
        .collect();
    let file = write(dir.path(), &text);
    let trace = dir.path().join("t.txt");
    let output = adsum(&["check", "--config", &file, "--all", "--trace", &trace.to_string_lossy()]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    for (name, user) in [("t.1.txt", "user000001"), ("t.2.txt", "user000003")] {
        let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(text.contains(user) && text.contains("<masked>") && !text.contains("pw-user"), "{name}");
    }
}
