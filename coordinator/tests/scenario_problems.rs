//! Every mistake of a scenario is reported at once, each at its place.
//!
//! `tests/data/scenario/NAME.toml` is read and must give exactly the lines of
//! `NAME.txt`. `ADSUM_BLESS=1` writes those files anew; look at the difference.

use std::path::{Path, PathBuf};

use adsum_coordinator::scenario::{Options, Problems, read};
use proptest::prelude::*;

fn env(name: &str) -> Option<String> {
    (name == "POOL").then(|| "192.0.2.77".to_owned())
}

fn problems(file: &str, text: &str, sets: &[&str]) -> Problems {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    match read(file, text, Options { sets: &sets, env: &env }) {
        Ok(document) => panic!("{file} is no mistake: {document:?}"),
        Err(problems) => problems,
    }
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/scenario")
}

#[test]
fn each_bad_scenario_gives_all_its_lines() {
    let mut seen = 0;
    let mut different = Vec::new();
    for entry in std::fs::read_dir(data()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        seen += 1;
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let found = problems(&name, &text, &[]).lines();
        let golden = path.with_extension("txt");
        if std::env::var_os("ADSUM_BLESS").is_some() {
            std::fs::write(&golden, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if found != expected {
            different.push(format!("{name}: expected\n{expected}found\n{found}"));
        }
    }
    assert!(seen >= 10, "only {seen} scenarios in {}", data().display());
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn every_span_lies_in_its_text_and_lines_and_columns_agree_with_it() {
    for entry in std::fs::read_dir(data()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let problems = problems("f", &text, &[]).problems;
        let mut last = 0;
        for problem in problems {
            assert!(problem.span.end <= text.len(), "{problem}");
            assert!(problem.span.start >= last, "not sorted: {problem}");
            last = problem.span.start;
            let before = &text[..problem.span.start];
            assert_eq!(problem.line, before.matches('\n').count() + 1, "{problem}");
            let line = before.rsplit('\n').next().unwrap();
            assert_eq!(problem.column, line.chars().count() + 1, "{problem}");
        }
    }
}

#[test]
fn no_message_and_no_rendering_shows_a_secret() {
    use miette::Diagnostic as _;
    let text = "schema = 1\nname = \"x\"\n[users]\ncount = 3\npattern = \"sip:u{n}@pool.test\"\n\
                password_pattern = \"hunter2}\"\n";
    let all = problems("f.toml", text, &[]);
    assert!(!format!("{all:?}{all}{}", all.lines()).contains("hunter2"));
    let mut rendered = String::new();
    miette::NarratableReportHandler::new().render_report(&mut rendered, &all).unwrap();
    assert!(rendered.contains("password_pattern"), "{rendered}");
    assert!(!rendered.contains("hunter2"), "{rendered}");
    assert_eq!(all.related().unwrap().count(), all.problems.len());
}

#[test]
fn the_environment_may_not_leak_into_messages() {
    let text = "schema = 1\nname = \"x\"\n[pool]\ntarget = \"${env:POOL}\"\n";
    let line = problems("f.toml", text, &[]).lines();
    assert!(line.contains("f.toml:4:10: the target is not allowed"), "{line}");
    assert!(line.contains("found \"${env:POOL}\""), "{line}");
}

#[test]
fn overrides_are_checked_like_the_file_and_named_by_their_number() {
    let text = include_str!("../../scenarios/workflow.toml");
    let sets = [
        "pool.tagret=127.0.0.1",
        "step.5.rate=1/s",
        "step.load.rate=100",
        "nothing",
        "=5",
        "workload.deadline=[1",
        "name.x=1",
        "step.0=1",
        "users.count=7",
        "threshold.9.expr=x",
        "seed.a.b=1",
    ];
    let found = problems("workflow", text, &sets).lines();
    let golden = data().join("overrides.txt");
    if std::env::var_os("ADSUM_BLESS").is_some() {
        std::fs::write(&golden, &found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(golden).unwrap());
}

/// Pieces that break things: TOML's own characters, quantities, multi-byte text, half a variable.
const PIECES: [&str; 24] = [
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    ".",
    ",",
    "\n",
    "#",
    "\\u0000",
    "ä",
    "→",
    "${env:",
    "${env:POOL}",
    "99999999999999999999",
    "0x",
    "1.2.3",
    "-1",
    "\u{feff}",
    "\u{0}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_makes_the_reader_panic(
        edits in prop::collection::vec((0usize..4_000, 0usize..40, 0usize..PIECES.len()), 0..6),
        which in 0usize..3,
        sets in prop::collection::vec(("[a-z.0*\"]{0,14}", "[a-z0-9/%\"{}\\[\\]=ä]{0,12}"), 0..3),
    ) {
        let mut text = adsum_coordinator::scenario::presets::PRESETS[which].text.to_owned();
        for (at, cut, piece) in edits {
            let floor = |mut at: usize| {
                at = at.min(text.len());
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let (start, end) = (floor(at), floor(at + cut));
            text.replace_range(start..end.max(start), PIECES[piece]);
        }
        let sets: Vec<String> = sets.iter().map(|(key, value)| format!("{key}={value}")).collect();
        match read("any.toml", &text, Options { sets: &sets, env: &env }) {
            Ok(document) => {
                // What was read can be read again elsewhere, and means the same.
                let again = read("again.toml", &document.text.0, Options { sets: &[], env: &|_| None });
                match again {
                    Ok(again) => prop_assert_eq!(again.scenario, document.scenario),
                    Err(problems) => prop_assert!(false, "{}\n{}", problems.lines(), document.text.0),
                }
                let shown = read("shown.toml", &document.redacted, Options { sets: &[], env: &env });
                prop_assert!(shown.is_ok());
            }
            Err(problems) => {
                prop_assert!(!problems.problems.is_empty());
                for problem in &problems.problems {
                    let _lines = problem.to_string();
                    prop_assert!(problem.span.start <= problem.span.end);
                    prop_assert!(problem.file == "--set" || problem.span.end <= text.len());
                }
                let mut rendered = String::new();
                prop_assert!(miette::NarratableReportHandler::new().render_report(&mut rendered, &problems).is_ok());
            }
        }
    }
}
