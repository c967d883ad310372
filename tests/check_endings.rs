//! However a check ends, nothing of it stays at the pool: its documents are
//! withdrawn, its users signed off. The pool itself says what it holds.

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::{PoolProcess, check, checking, code, err, out, signal};

const SIMPLE: &[&str] = &["--transport", "udp"];
const LYNC: &[&str] = &["--dialect", "lync", "--transport", "tcp"];
/// The flags of the check and of the pool, for each dialect.
const DIALECTS: [(&[&str], &str); 2] = [(SIMPLE, "simple"), (LYNC, "lync")];

fn pool(dialect: &str, more: &[&str]) -> PoolProcess {
    PoolProcess::start(&[&["--dialect", dialect][..], more].concat())
}

/// Nothing of a check is left at the pool, and it was there before: documents came and went.
fn assert_nothing_is_left(pool: PoolProcess, dialect: &str) {
    let said = pool.stop();
    let (method, documents) = if dialect == "lync" { ("SERVICE", 2) } else { ("PUBLISH", 2) };
    let received = said.lines().find_map(|line| line.strip_prefix("received: ")).unwrap();
    let count = |label: &str| {
        let words = received.split(", ").find_map(|word| word.strip_prefix(&format!("{label} x")));
        words.map_or(0, |number| number.parse::<u32>().unwrap())
    };
    assert!(count(method) >= documents, "nothing was published and withdrawn: {said}");
    for left in ["publications left", "registrations left", "subscriptions left", "endpoints lost"] {
        assert!(!said.contains(left), "{dialect}: {said}");
    }
}

/// A check that is told about each activity, so that a test knows how far it is.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Running { child, lines }
    }

    fn wait_for(&mut self, words: &str) {
        let found = self.lines.by_ref().map_while(Result::ok).any(|line| line.contains(words));
        assert!(found, "it ended before it said {words}");
    }

    /// What it printed, its exit code, and what it said meanwhile.
    fn end(self) -> (Output, String) {
        let said: Vec<String> = self.lines.map_while(Result::ok).collect();
        (self.child.wait_with_output().unwrap(), said.join("\n"))
    }
}

fn verbose(target: &str, dir: &Path, flags: &[&str], more: &[&str]) -> Running {
    Running::start(checking(target, dir, &[flags, &["--verbose"], more].concat()))
}

#[test]
fn after_a_success_and_after_a_missing_notification() {
    let dir = tempfile::tempdir().unwrap();
    for (flags, dialect) in DIALECTS {
        let well = pool(dialect, &[]);
        let output = check(&well.address, dir.path(), flags);
        assert_eq!(code(&output), 0, "{} {}", out(&output), err(&output));
        assert_nothing_is_left(well, dialect);

        let deaf = pool(dialect, &["--lose-notify", "1.0"]);
        let output = check(&deaf.address, dir.path(), &[flags, &["--timeout", "1s"]].concat());
        assert_eq!(code(&output), 5, "{} {}", out(&output), err(&output));
        assert!(out(&output).contains("not received within 1 secs."), "{}", out(&output));
        assert!(!err(&output).contains("withdrawn"), "{}", err(&output));
        assert_nothing_is_left(deaf, dialect);
    }
}

#[test]
fn after_a_signal_while_the_notification_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    for (flags, dialect) in DIALECTS {
        for (name, wanted) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
            let deaf = pool(dialect, &["--lose-notify", "1.0"]);
            let mut running = verbose(&deaf.address, dir.path(), flags, &[]);
            running.wait_for("'PublishPresence' activity completed");
            let began = Instant::now();
            signal(&running.child, name);
            let (output, said) = running.end();
            assert_eq!(code(&output), wanted, "{said}");
            assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
            assert!(out(&output).contains("Error      : interrupted by a signal\n"), "{}", out(&output));
            assert!(said.contains("'Unregister' activity completed"), "{said}");
            assert_nothing_is_left(deaf, dialect);
        }
    }
}

#[test]
fn after_a_signal_a_plugin_says_unknown_and_a_file_of_metrics_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let deaf = pool("simple", &["--lose-notify", "1.0"]);
    let mut running = verbose(&deaf.address, dir.path(), SIMPLE, &["--format", "nagios"]);
    running.wait_for("'PublishPresence' activity completed");
    signal(&running.child, "TERM");
    let (output, _) = running.end();
    let line = out(&output);
    assert!(code(&output) == 3 && line.starts_with("ADSUM UNKNOWN - "), "{line}");
    assert!(line.contains("interrupted by a signal"), "{line}");

    let file = dir.path().join("adsum.prom");
    std::fs::write(&file, "as it was\n").unwrap();
    let name = file.to_string_lossy().into_owned();
    let more = ["--format", "prometheus", "--output", &name];
    let mut running = verbose(&deaf.address, dir.path(), SIMPLE, &more);
    running.wait_for("'PublishPresence' activity completed");
    signal(&running.child, "TERM");
    assert_eq!(code(&running.end().0), 143);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "as it was\n");
    assert_nothing_is_left(deaf, "simple");
}

/// The pool stands still when the check wants to sign off: the check does not wait for it for long,
/// and its last words are read when the pool goes on.
#[test]
fn after_a_pool_that_fell_silent_half_way() {
    let dir = tempfile::tempdir().unwrap();
    for (flags, dialect) in DIALECTS {
        let frozen = pool(dialect, &["--lose-notify", "1.0"]);
        let mut running = verbose(&frozen.address, dir.path(), flags, &["--timeout", "1s"]);
        running.wait_for("'PublishPresence' activity completed");
        frozen.signal("STOP");
        let began = Instant::now();
        let (output, said) = running.end();
        let took = began.elapsed();
        frozen.signal("CONT");
        assert_eq!(code(&output), 5, "{}", out(&output));
        assert!(out(&output).contains("not received within 1 secs."), "{}", out(&output));
        assert!(took > Duration::from_secs(5) && took < Duration::from_secs(9), "{took:?}");
        // It does not know yet.
        assert!(said.contains("did not confirm that what was published is withdrawn"), "{said}");
        std::thread::sleep(Duration::from_millis(500));
        let counted = frozen.stop();
        for left in ["publications left", "registrations left", "endpoints lost"] {
            assert!(!counted.contains(left), "{dialect}: {counted}");
        }
    }
}

/// A publication that nobody has answered yet may have been taken: `lync` takes it back all the same.
#[test]
fn after_a_second_signal_in_the_middle_of_a_publication() {
    let dir = tempfile::tempdir().unwrap();
    // The pool takes each at once, and answers after 2 s: the users' own presence first.
    let slow = pool("lync", &["--capacity", "0.5"]);
    let mut running = verbose(&slow.address, dir.path(), LYNC, &[]);
    running.wait_for("'PublishPresence' activity started");
    std::thread::sleep(Duration::from_millis(300));
    signal(&running.child, "INT");
    running.wait_for("once more stops at once");
    signal(&running.child, "INT");
    let began = Instant::now();
    let (output, said) = running.end();
    assert!(code(&output) == 130 && began.elapsed() < Duration::from_secs(2), "{said}");
    assert!(said.contains("may stay until somebody publishes for the account again"), "{said}");
    std::thread::sleep(Duration::from_millis(300));
    let counted = slow.stop();
    assert!(!counted.contains("publications left") && counted.contains("SERVICE x4"), "{counted}");
}

/// `adsum check --all | head -1`: what still runs signs off, too.
#[test]
fn after_the_reader_of_the_answers_went_away() {
    let dir = tempfile::tempdir().unwrap();
    let (quick, deaf) = (pool("simple", &[]), pool("simple", &["--lose-notify", "1.0"]));
    let file = dir.path().join("config.toml");
    let entry = |name: &str, pool: &PoolProcess, pair: u32| {
        let user = |n: u32| {
            let name = format!("user{n}");
            support::secret(dir.path(), &name, &format!("user{n:06}:pw-user{n:06}\n"));
            format!("{{ sip = \"sip:user{n:06}@pool.test\", credential_file = \"{name}\" }}")
        };
        format!(
            "[[check]]\nname = \"{name}\"\ntarget = \"{}\"\npublisher = {}\nsubscriber = {}\n",
            pool.address,
            user(pair * 2 - 1),
            user(pair * 2)
        )
    };
    let text = entry("a", &quick, 1) + &entry("b", &quick, 2) + &entry("c", &deaf, 3);
    std::fs::write(&file, text).unwrap();
    let mut command = support::command(&["check", "--all", "--config", &file.to_string_lossy(), "--verbose"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    let began = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(141));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // A document for scripts is printed at the end.
    let mut command = checking(&quick.address, dir.path(), &["--format", "json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(141));
    assert_nothing_is_left(quick, "simple");
    let said = deaf.stop();
    assert!(!said.contains(" left"), "{said}");
}

/// The pool signs the users off in the middle, or rejects something half-way.
#[test]
fn after_failures_half_way() {
    let dir = tempfile::tempdir().unwrap();
    let deaf = ["--lose-notify", "1.0", "--deregister-after", "700ms"];
    let dismissing = pool("lync", &deaf);
    let began = Instant::now();
    let output = check(&dismissing.address, dir.path(), LYNC);
    assert_eq!(code(&output), 5, "{}", out(&output));
    assert!(out(&output).contains("the server signed the user off"), "{}", out(&output));
    assert!(!err(&output).contains("withdrawn"), "{}", err(&output));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let said = dismissing.stop();
    assert!(said.contains("signed off on purpose") && !said.contains("publications left"), "{said}");

    for (flags, dialect) in DIALECTS {
        for method in ["SUBSCRIBE", if dialect == "lync" { "SERVICE" } else { "PUBLISH" }] {
            let refusing = pool(dialect, &["--reject", &format!("{method}=503:100%")]);
            let output = check(&refusing.address, dir.path(), flags);
            assert_eq!(code(&output), 5, "{}", out(&output));
            assert!(out(&output).contains("Error      : 503, "), "{}", out(&output));
            assert!(!err(&output).contains("withdrawn"), "{}", err(&output));
            let said = refusing.stop();
            assert!(!said.contains("publications left") && !said.contains("registrations left"), "{said}");
        }
    }
}

#[test]
fn what_cannot_be_withdrawn_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for (flags, dialect) in [(&["--transport", "tcp"][..], "simple"), DIALECTS[1]] {
        let deaf = pool(dialect, &["--lose-notify", "1.0"]);
        let mut running = verbose(&deaf.address, dir.path(), flags, &[]);
        running.wait_for("'PublishPresence' activity completed");
        // The pool is killed, and its connections with it.
        drop(deaf);
        let (output, said) = running.end();
        assert_eq!(code(&output), 5, "{said}");
        let until = if dialect == "lync" { "the next check" } else { "within 120 s" };
        assert!(said.contains("did not confirm that what was published is withdrawn"), "{said}");
        assert!(said.contains(until), "{said}");
    }
}
