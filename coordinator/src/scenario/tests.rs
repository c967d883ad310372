//! The three descriptions of the format agree: the reader, the schema, and the
//! reference that people read.

use std::collections::BTreeSet;

use super::*;

const REFERENCE: &str = include_str!("../../../scenarios/README.md");

/// Says something about every key, so that every part of the reader asks for its keys.
const EVERYTHING: &str = r#"
schema = 1
name = "everything"
[pool]
target = "127.0.0.1"
tls = {}
[auth]
[users]
count = 2
pattern = "sip:u{n}@pool.test"
password_pattern = "p"
[workload]
kind = "held"
fan_out = { distribution = "constant", mean = 1, max = 1 }
[warmup]
[[step]]
name = "a"
rate = { from = "1/s", to = "2/s", by = "1/s" }
hold = "1s"
[[threshold]]
expr = "missed.ratio == 0%"
[trust]
[safety]
[fleet]
[sites.a]
[report]
"#;

/// Keys that are known and refused: they come with a later release.
const LATER: [&str; 3] = ["compare", "workload.min_interval", "trust.negative_ratio"];

fn options() -> Options<'static> {
    Options { sets: &[], env: &|_| None }
}

fn keys_of_the_reader() -> BTreeSet<String> {
    let (_, asked) = read_with_keys("everything", EVERYTHING, options()).unwrap();
    asked.into_iter().collect()
}

/// Keys of the schema, in the reader's way of writing them.
fn keys_of_the_schema() -> BTreeSet<String> {
    let schema: serde_json::Value = serde_json::from_str(&schema::schema()).unwrap();
    let mut keys = BTreeSet::new();
    collect(&schema, &schema, "", &mut keys);
    keys
}

fn collect(root: &serde_json::Value, at: &serde_json::Value, path: &str, keys: &mut BTreeSet<String>) {
    if let Some(reference) = at.get("$ref").and_then(|r| r.as_str()) {
        let name = reference.rsplit('/').next().unwrap();
        return collect(root, &root["$defs"][name], path, keys);
    }
    for alternatives in ["anyOf", "oneOf", "allOf"] {
        for alternative in at.get(alternatives).and_then(|a| a.as_array()).into_iter().flatten() {
            collect(root, alternative, path, keys);
        }
    }
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, below) in at.get("properties").and_then(|p| p.as_object()).into_iter().flatten() {
        keys.insert(join(key));
        collect(root, below, &join(key), keys);
    }
    if let Some(items) = at.get("items") {
        collect(root, items, &join("*"), keys);
    }
    if let Some(named) = at.get("additionalProperties").filter(|named| named.is_object()) {
        collect(root, named, &join("*"), keys);
    }
}

#[test]
fn schema_and_reader_know_the_same_keys() {
    let mut reader = keys_of_the_reader();
    for key in LATER {
        assert!(reader.remove(key), "{key} is no key");
    }
    assert_eq!(reader, keys_of_the_schema());
}

#[test]
fn the_reference_has_a_row_for_each_key() {
    for key in keys_of_the_reader() {
        let row = format!("| `{}`", key.replace("step.*.", "step.").replace("threshold.*.", "threshold."));
        assert!(REFERENCE.contains(&row), "scenarios/README.md has no row `{row}`");
    }
}

#[test]
fn examples_of_the_reference_can_be_read() {
    let mut examples = 0;
    for block in REFERENCE.split("```toml\n").skip(1) {
        let text = block.split("```").next().unwrap();
        examples += 1;
        // An example of one table is read inside a scenario that has the rest.
        let whole = if text.contains("schema") { text.to_owned() } else { complete(text) };
        if let Err(problems) = read("README.md", &whole, options()) {
            panic!("{}\nin\n{whole}", problems.lines());
        }
    }
    assert!(examples >= 8, "only {examples} examples");
}

/// A fragment with the tables that it lacks.
fn complete(fragment: &str) -> String {
    let mut whole = "schema = 1\nname = \"example\"\n".to_owned();
    let mut rest = String::new();
    for (table, text) in [
        ("[pool]", "[pool]\ntarget = \"127.0.0.1:5060\"\n"),
        ("[users]", "[users]\ncount = 20\npattern = \"sip:u{n}@pool.test\"\npassword_pattern = \"p{n}\"\n"),
        ("[workload]", "[workload]\nkind = \"workflow\"\n"),
        ("[[step]]", "[[step]]\nname = \"peak\"\nrate = \"1/s\"\nhold = \"1s\"\n"),
    ] {
        if !fragment.contains(table) {
            rest.push_str(text);
        }
    }
    whole.push_str(fragment);
    whole.push_str(&rest);
    whole
}

#[test]
fn presets_and_the_first_scenario_can_be_read() {
    for preset in presets::PRESETS {
        let document = read(preset.name, preset.text, options()).unwrap_or_else(|e| panic!("{}", e.lines()));
        assert_eq!(document.scenario.name, preset.name);
        assert_eq!(presets::preset(preset.name), Some(&preset));
    }
    read("init", presets::INIT, options()).unwrap_or_else(|e| panic!("{}", e.lines()));
    assert_eq!(presets::preset("no-such"), None);
}
