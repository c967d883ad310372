//! `adsum explain` knows every word that the program writes into its files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn explain(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adsum")).arg("explain").args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The sources of a crate, without the modules that test it.
fn sources(crates: &[&str]) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dirs: Vec<PathBuf> = crates.iter().map(|name| root.join(name).join("src")).collect();
    let mut found = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let whole = std::fs::read_to_string(&path).unwrap();
                let code = whole.split("#[cfg(test)]").next().unwrap().to_owned();
                found.push((path, code));
            }
        }
    }
    found
}

/// Texts in quotes.
fn literals(code: &str) -> impl Iterator<Item = &str> {
    code.split('"').skip(1).step_by(2)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

fn assert_all_are_explained(words: &BTreeSet<String>, kind: &str) {
    for word in words {
        let output = explain(&[word]);
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{word}: {}", text(&output.stderr));
        assert!(out.contains(&format!("{word} ({kind})")), "{word} is no {kind}: {out}");
    }
}

/// `timeout:notify`, `protocol:version-conflict`: a kind and a word; not the codes of SIP.
fn is_failure_code(text: &str) -> bool {
    let is_lower = |part: &str, more: &[u8]| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || more.contains(&b))
    };
    text.split_once(':')
        .is_some_and(|(kind, rest)| kind != "sip" && is_lower(kind, b"") && is_lower(rest, b"_-"))
}

#[test]
fn every_failure_code_of_the_sources_is_explained_and_no_other() {
    let mut found = BTreeSet::new();
    for (path, code) in sources(&["presence", "agent", "coordinator", "."]) {
        if !path.ends_with("diagnosis/codes.rs") {
            found.extend(literals(&code).filter(|literal| is_failure_code(literal)).map(str::to_owned));
        }
    }
    for known in ["timeout:notify", "auth:rejected", "protocol:version-conflict", "registration:lost"] {
        assert!(found.contains(known), "{known} was not found in the sources: {found:?}");
    }
    assert_all_are_explained(&found, "failure");
    let list = text(&explain(&[]).stdout);
    let explained: BTreeSet<String> = list
        .lines()
        .filter(|line| line.split_whitespace().nth(1) == Some("failure"))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect();
    assert_eq!(explained, found, "explained, and nowhere in the sources, or the other way round");
}

#[test]
fn every_counter_of_the_sources_is_explained() {
    let mut found = BTreeSet::new();
    for (_, code) in sources(&["agent"]) {
        // The table of counters, then those that are counted by name.
        for line in code.lines().filter(|line| line.trim_start().starts_with("Counter::")) {
            if let Some((_, name)) = line.split_once("=> (\"") {
                found.extend(name.split('"').next().map(str::to_owned));
            }
        }
        for begin in [".name(", "counter: \"", "=> Some(\"out_of_"] {
            for (at, _) in code.match_indices(begin) {
                let call: String = code[at..].chars().take_while(|c| *c != ';').take(160).collect();
                found.extend(literals(&call).find(|word| is_word(word)).map(str::to_owned));
            }
        }
    }
    for known in
        ["offered", "rx_dropped", "steal_us", "interval", "out_of_ports", "overflow", "auth_mismatch"]
    {
        assert!(found.contains(known), "{known} was not found in the sources: {found:?}");
    }
    assert!(found.len() > 50, "{found:?}");
    assert_all_are_explained(&found, "counter");
}

#[test]
fn every_exit_code_of_the_command_line_is_explained() {
    let main = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/main.rs")).unwrap();
    let codes: BTreeSet<String> = main
        .lines()
        .filter(|line| line.trim_start().starts_with("pub const "))
        .filter_map(|line| Some(line.split_once("u8 = ")?.1.trim_end_matches(';').to_owned()))
        .collect();
    assert!(codes.len() >= 6, "{codes:?}");
    // Those of signals, and of a reader that goes away.
    let codes = codes.into_iter().chain(["129", "130", "141", "143"].map(str::to_owned)).collect();
    assert_all_are_explained(&codes, "exit code");
}

#[test]
fn a_code_says_what_it_means_who_acts_and_what_to_do() {
    let out = text(&explain(&["4005"]).stdout);
    for part in [
        "ErrorCode 4005 (ms-diagnostics)",
        "not enabled for SIP",
        "404 Not Found",
        "who has to act: whoever set up accounts",
        "what to do: Check the SIP address",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let out = text(&explain(&["sip:503"]).stdout);
    assert!(out.contains("Service Unavailable") && out.contains("whoever runs the pool"), "{out}");
    let out = text(&explain(&["2"]).stdout);
    assert!(out.contains("2 (exit code)") && out.contains("CRITICAL"), "{out}");
}

#[test]
fn an_unknown_word_is_a_usage_error_with_suggestions() {
    let output = explain(&["timeout:notfy"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("did you mean timeout:notify"), "{}", text(&output.stderr));
    let all = text(&explain(&[]).stdout);
    assert!(all.lines().count() > 200 && all.contains("publish_to_notify"), "{}", all.lines().count());
}
