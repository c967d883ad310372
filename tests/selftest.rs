//! `adsum selftest --quick` looks at the host and says what it saw, as others see it.

use std::process::Command;

use serde_json::Value;

fn selftest(before: &[&str], args: &[&str]) -> (i32, String) {
    let mut words = before.to_vec();
    words.extend([env!("CARGO_BIN_EXE_adsum"), "selftest", "--quick"]);
    words.extend(args);
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stdout).unwrap())
}

fn findings(before: &[&str]) -> Vec<Value> {
    let (code, text) = selftest(before, &["--format", "json"]);
    assert_eq!(code, 0, "{text}");
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((value["schema_version"].as_i64(), &value["floor"]), (Some(1), &Value::Null));
    value["findings"].as_array().unwrap().clone()
}

fn find<'a>(findings: &'a [Value], name: &str) -> &'a Value {
    findings.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no {name}: {findings:?}"))
}

#[test]
fn it_says_what_is_what_is_wanted_and_what_mends_it() {
    let all = findings(&["sh", "-c", "ulimit -n 300 && exec \"$@\"", "sh"]);
    for finding in &all {
        let mend = finding["mend"].as_str().unwrap();
        assert_eq!(finding["fit"].as_bool(), Some(mend.is_empty()), "{finding}");
        assert!(
            !finding["found"].as_str().unwrap().is_empty() && !finding["wanted"].as_str().unwrap().is_empty()
        );
    }
    let files = find(&all, "open files");
    assert_eq!(files["found"], "soft 300, hard 300");
    assert!(files["mend"].as_str().unwrap().contains("ulimit -Hn"), "{files}");
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let ends: Vec<u64> = range.split_whitespace().map(|end| end.parse().unwrap()).collect();
    let found = find(&all, "local ports")["found"].as_str().unwrap().to_owned();
    assert_eq!(found, format!("{} ({} to {})", ends[1] + 1 - ends[0], ends[0], ends[1]));
}

#[test]
fn text_has_a_line_for_each_and_ends_with_what_it_means() {
    let (code, text) = selftest(&[], &[]);
    assert_eq!(code, 0, "{text}");
    for name in
        ["local ports", "open files", "receive buffer", "real-time priority", "clock", "cores", "steal time"]
    {
        assert!(text.lines().any(|l| l.contains(name) && l.contains("wanted:")), "{name}: {text}");
    }
    let last = text.lines().last().unwrap();
    assert!(last.contains("below what is wanted") || last.contains("nothing that was looked at"), "{last}");
}

/// Takes away what lets the engine have large buffers and real-time priority, where this host allows that.
#[test]
fn what_is_forbidden_is_found() {
    let before = ["capsh", "--drop=cap_net_admin,cap_sys_nice", "--shell=/usr/bin/env", "--"];
    let tried = Command::new(before[0]).args(&before[1..]).arg("true").output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return eprintln!("NOT TESTED: no capsh, or it may not drop capabilities here");
    }
    let all = findings(&before);
    let priority = find(&all, "real-time priority");
    assert!(priority["mend"].as_str().unwrap().contains("cap_sys_nice"), "{priority}");
    let limit: u64 = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
    let buffer = find(&all, "receive buffer");
    assert_eq!(buffer["fit"].as_bool(), Some(limit >= 8 * 1024 * 1024), "{buffer}");
    assert!(
        buffer["found"].as_str().unwrap().starts_with(&format!("{} granted", limit.min(8 * 1024 * 1024)))
    );
}
