//! The hashes by which runs are told apart and compared.
//!
//! `scenario_hash` covers everything after defaults; `workload_hash` only what
//! changes the load: dialect, transport, auth, users' count and pairing,
//! workload, warm-up, steps, sites' shares and the seed policy. Both are
//! SHA-256 of canonical JSON: keys sorted, no white space, integers only.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::model::Scenario;
use crate::users::Population;

/// SHA-256 in hex over the whole scenario after defaults. Secrets are not in it.
#[must_use]
pub fn scenario_hash(scenario: &Scenario) -> String {
    hash(&serde_json::to_value(scenario).unwrap_or_default())
}

/// SHA-256 in hex over what makes the load. Two runs are comparable only if it is the same.
#[must_use]
pub fn workload_hash(scenario: &Scenario, population: &Population) -> String {
    let steps: Vec<Value> = scenario
        .steps
        .iter()
        .map(|step| {
            json!({ "name": step.name, "rate_mhz": step.rate_mhz, "hold_ns": step.hold_ns, "ramp_ns": step.ramp_ns })
        })
        .collect();
    let shares: serde_json::Map<String, Value> =
        scenario.sites.iter().map(|(name, site)| (name.clone(), json!(site.share))).collect();
    let connections: serde_json::Map<String, Value> = scenario
        .sites
        .iter()
        .filter_map(|(name, site)| {
            site.connections.map(|connections| (name.clone(), json!(connections.name())))
        })
        .collect();
    hash(&json!({
        "dialect": scenario.dialect,
        "transport": scenario.pool.transport,
        "connections": scenario.pool.connections,
        "site_connections": connections,
        "auth": scenario.auth,
        "users": { "count": population.users(), "pairing": population.pairing.name() },
        "workload": scenario.workload,
        "warmup": scenario.warmup,
        "steps": steps,
        "sites": shares,
        "seed": if scenario.seed.is_some() { "fixed" } else { "random" },
    }))
}

fn hash(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(&mut text, value);
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// JSON with sorted keys, whatever order the map type of serde_json keeps.
fn write_canonical(out: &mut String, value: &Value) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (number, key) in keys.into_iter().enumerate() {
                out.push_str(if number == 0 { "" } else { "," });
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_canonical(out, map.get(key).unwrap_or(&Value::Null));
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (number, item) in items.iter().enumerate() {
                out.push_str(if number == 0 { "" } else { "," });
                write_canonical(out, item);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}
