//! The plan check: figures that can be worked out by hand, and its text.

use std::path::Path;

use adsum_coordinator::plan::check::{check, text};
use adsum_coordinator::scenario::{Document, Options, presets, read};
use adsum_coordinator::users::population;

fn document(text: &str, sets: &[&str]) -> Document {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    read("f.toml", text, Options { sets: &sets, env: &|_| None }).unwrap_or_else(|e| panic!("{}", e.lines()))
}

fn checked(preset: &str, sets: &[&str]) -> (adsum_coordinator::plan::check::Check, String) {
    let scenario = document(presets::preset(preset).unwrap().text, sets).scenario;
    let users = population(&scenario.users, scenario.auth.scheme, b"", b"").unwrap();
    let check = check(&scenario, &users, 2, 2);
    let text = text(&scenario, &check);
    (check, text)
}

#[test]
fn messages_of_a_workflow_are_those_of_the_protocol() {
    // Requests and responses: REGISTER, SUBSCRIBE, PUBLISH and their ends, NOTIFYs, challenges.
    let table: [(&[&str], u64, u64); 12] = [
        (&[], 40, 44),
        (&["auth.reuse_nonce=false"], 64, 64),
        (&["workload.self_subscribe=false", "auth.reuse_nonce=false"], 38, 38),
        (&["workload.self_subscribe=false", "auth.scheme=trusted"], 22, 22),
        (&["workload.kind=held", "workload.self_subscribe=false"], 4, 4),
        (&["workload.kind=held", "auth.reuse_nonce=false"], 8, 8),
        // As counted on the wire: nobody answers a BENOTIFY, and NTLM challenges a REGISTER twice.
        (&["dialect=lync", "pool.transport=tcp"], 40, 40),
        (&["dialect=lync", "pool.transport=tcp", "auth.scheme=trusted"], 32, 32),
        (&["dialect=lync", "pool.transport=tcp", "workload.self_subscribe=false"], 29, 29),
        (&["dialect=lync", "pool.transport=tcp", "workload.kind=held"], 4, 4),
        // Digest is digest there, too.
        (&["dialect=lync", "pool.transport=tcp", "auth.scheme=digest"], 32, 36),
        (&["dialect=lync", "pool.transport=tcp", "auth.scheme=digest", "auth.reuse_nonce=false"], 60, 60),
    ];
    for (sets, long_run, first) in table {
        let (check, _) = checked("workflow", sets);
        assert_eq!((check.messages_per_arrival, check.messages_first), (long_run, first), "{sets:?}");
    }
}

#[test]
fn a_user_of_lync_takes_more_memory() {
    let memory = |dialect: &str| checked("quickstart", &["pool.transport=tcp", dialect]).0.memory;
    assert_eq!(memory("dialect=lync") - memory("dialect=simple"), 200 * 640);
}

/// A Lync server grants what it likes: ten minutes for a registration, eight hours for the one dialog of
/// a contact list, whatever `expires` says.
#[test]
fn refreshes_of_lync_are_those_of_its_servers() {
    let steps = |expires: &str| {
        let sets = ["dialect=lync", "pool.transport=tcp", "workload.kind=held", "users.count=60000", expires];
        let (check, text) = checked("quickstart", &sets);
        let rates: Vec<u64> = check.steps.iter().map(|step| step.messages_per_s).collect();
        (rates, text)
    };
    // 4 messages a publication; 60,000 registrations in 600 s, 90,000 dialogs in 28,800 s.
    let (rates, text) = steps("workload.expires=1h");
    assert_eq!(rates, [25 * 4 + 200 + 6, 50 * 4 + 200 + 6], "{text}");
    assert_eq!(steps("workload.expires=60s").0, rates);
}

#[test]
fn arrivals_and_times_are_exact() {
    let (check, _) = checked("quickstart", &[]);
    let steps: Vec<(u64, u64, u64)> =
        check.steps.iter().map(|s| (s.ramp_arrivals, s.hold_arrivals, s.messages_per_s)).collect();
    // 25/s for 20 s; from 25/s to 50/s in 5 s, then 50/s for 25 s.
    assert_eq!(steps, [(0, 500, 1_000), (187, 1_250, 2_000)]);
    assert_eq!((check.pairs, check.pairs_needed), (100, 100));
    assert_eq!(check.publication_gap_ns, 2_000_000_000);
    assert!((50..=70).contains(&(check.total_ns / 1_000_000_000)), "about a minute: {}", check.total_ns);
    assert!(check.warnings.is_empty(), "{:?}", check.warnings);
}

#[test]
fn a_percentile_needs_ten_samples_above_it() {
    let sets = ["threshold.2.expr=publish_to_notify.p99 < 1s"];
    let needed = |expr: &str| {
        let (check, _) = checked("quickstart", &[&format!("threshold.2.expr={expr}")]);
        check.percentiles.iter().map(|p| (p.samples, p.needed, p.is_shown())).collect::<Vec<_>>()
    };
    assert_eq!(needed("publish_to_notify.p99 < 1s"), [(500, 1_000, false), (1_250, 1_000, true)]);
    assert_eq!(needed("register.p99 < 1s"), [(1_000, 1_000, true), (2_500, 1_000, true)]);
    assert_eq!(needed("workflow.p999 < 1s"), [(500, 10_000, false), (1_250, 10_000, false)]);
    assert_eq!(needed("workflow.p99.9 < 1s"), needed("workflow.p999 < 1s"));
    assert_eq!(needed("publish.p50 < 1s"), [(500, 20, true), (1_250, 20, true)]);
    assert_eq!(needed("publish.max < 1s"), []);
    let (check, text) = checked("quickstart", &sets);
    assert!(
        check.warnings.iter().any(|w| w.contains("rests on 500 samples at step half and takes 1000")),
        "{text}"
    );
}

#[test]
fn what_is_likely_to_spoil_a_run_is_a_warning() {
    let table: [(&str, &[&str], &str); 7] = [
        ("workflow", &["users.count=100"], "50 pairs carry 100/s only while a workflow lasts at most 0.5 s"),
        (
            "held",
            &["users.count=1000"],
            "each publisher publishes every 2.5 s, and a server may notify every 5 s only",
        ),
        ("held", &["users.count=100000", "pool.transport=tcp"], "an agent would open 50000 connections"),
        ("workflow", &["safety.max_rate=50/s"], "safety.max_rate 50/s lies below the highest rate 100/s"),
        ("held", &["workload.expires=60s"], "the run outlasts expires = 1m"),
        ("workflow", &["pool.tls.ca=\"x\""], "pool.tls has no effect with transport = \"udp\""),
        ("workflow", &["pool.tls.legacy=true"], "pool.tls has no effect with transport = \"udp\""),
    ];
    for (preset, sets, warning) in table {
        let (without, _) = checked(preset, &[]);
        assert!(!without.warnings.iter().any(|w| w.contains(warning)), "{warning}");
        let (check, _) = checked(preset, sets);
        assert!(check.warnings.iter().any(|w| w.contains(warning)), "{warning} in {:?}", check.warnings);
    }
    // More local addresses have more ports.
    let many = ["users.count=100000", "pool.transport=tcp", "pool.source=127.0.0.1-127.0.0.8"];
    let (check, _) = checked("held", &many);
    assert_eq!(check.ports, Some(8 * 28_232));
    assert!(!check.warnings.iter().any(|w| w.contains("connections")), "{:?}", check.warnings);
}

#[test]
fn sessions_of_openssl_are_larger() {
    let memory = |legacy: &str| {
        let legacy = format!("pool.tls.legacy={legacy}");
        checked("held", &["users.count=1000", "pool.transport=tls", &legacy]).0.memory
    };
    assert_eq!(memory("true") - memory("false"), 1_000 * (42_000 - 9_800));
}

#[test]
fn the_text_is_as_it_was_agreed() {
    for (preset, sets) in [
        ("quickstart", &[][..]),
        ("workflow", &["users.count=100"][..]),
        ("held", &["pool.transport=tls"][..]),
    ] {
        let (_, found) = checked(preset, sets);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/check/{preset}.txt"));
        if std::env::var_os("ADSUM_BLESS").is_some() {
            std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
            std::fs::write(&golden, &found).unwrap();
        }
        assert_eq!(found, std::fs::read_to_string(&golden).unwrap(), "{preset}");
    }
}
