//! `manifest.json`: what a run was, and everything that derivation needs
//! besides histograms and counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::Phase;
use crate::threshold::ThresholdRule;
use crate::trust::{Reason, TrustLimits};

/// The version of all files that this crate writes.
pub const SCHEMA_VERSION: u32 = 1;

/// A run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// ULID.
    pub run_id: String,
    /// Of the coordinator.
    pub adsum_version: String,
    /// Scenario's name.
    pub scenario: String,
    /// Its text, secrets redacted.
    pub scenario_text: String,
    /// Over the scenario after defaults.
    pub scenario_hash: String,
    /// Over what makes runs comparable.
    pub workload_hash: String,
    /// The label `release`, if there is one.
    pub release: String,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// `simple` or `lync`.
    pub dialect: String,
    /// `udp`, `tcp`, `tls`.
    pub transport: String,
    /// As written.
    pub target: String,
    /// What the pool calls itself.
    pub server: String,
    /// `workflow` or `held`.
    pub kind: String,
    /// Seed of all chance.
    pub seed: u64,
    /// Users of the run.
    pub users: u64,
    /// Deadline of a notification in seconds.
    pub deadline_s: f64,
    /// Whole second, UTC: t_s = 0.
    pub origin_unix_s: i64,
    /// End, UTC seconds.
    pub ended_unix_s: i64,
    /// Warm-up, steps, drain; in order.
    pub steps: Vec<StepInfo>,
    /// Agents that took part.
    pub agents: Vec<AgentInfo>,
    /// What is judged.
    pub thresholds: Vec<ThresholdRule>,
    /// When not to believe it.
    pub trust: TrustLimits,
    /// Quantiles of `percentiles.csv`.
    pub percentiles: Vec<f64>,
    /// Seconds of a row of `intervals.csv`; 0 is one second.
    pub interval_s: u32,
    /// What happened to the run as a whole.
    pub events: RunEvents,
    /// `passed`, `failed`, `untrustworthy`.
    pub verdict: String,
    /// Exit code of the run.
    pub exit_code: u8,
    /// All codes that applied.
    pub exit_codes: Vec<u8>,
    /// Why the verdict is what it is.
    pub reasons: Vec<Reason>,
    /// SHA-256 of the raw files.
    pub raw_files: BTreeMap<String, String>,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepInfo {
    /// 0 is the warm-up, the last one the drain.
    pub step: u32,
    /// `warmup`, the scenario's name, or `drain`.
    pub name: String,
    /// Arrivals per second of the whole fleet; 0 for warm-up and drain.
    pub rate_hz: f64,
    /// Judged by comparisons.
    pub gate: bool,
    /// Its phases.
    pub phases: Vec<PhaseInfo>,
}

/// One phase of a step: seconds from the origin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseInfo {
    /// Which.
    pub phase: Phase,
    /// First second.
    pub from_s: f64,
    /// The second after the last.
    pub to_s: f64,
}

/// One agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentInfo {
    /// Name.
    pub name: String,
    /// Site.
    pub site: String,
    /// Process.
    pub incarnation: u64,
    /// Host name.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor.
    pub cpu_model: String,
    /// Cores.
    pub cores: u32,
    /// Threads that make load.
    pub shards: u32,
    /// Version.
    pub version: String,
    /// `kernel` or `user`.
    pub receive_stamps: String,
    /// Scheduling priority.
    pub priority: String,
    /// Which implementation of TLS it used; empty without TLS.
    pub tls: String,
    /// Bound of its clock against the coordinator's, in seconds.
    pub clock_bound_s: f64,
    /// Intervals that arrived.
    pub intervals: u64,
    /// Why it was lost; empty if it was not.
    pub lost: String,
}

/// What happened to the run as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunEvents {
    /// 130 or 143 if a signal ended it.
    pub signal: u8,
    /// An internal error.
    pub internal: String,
    /// The expression of `stop_on` that ended it.
    pub stopped_by: String,
    /// The expression of a threshold that ended it.
    pub aborted_by: String,
    /// Why it could not start; empty if it did.
    pub not_ready: String,
    /// An agent was lost and the run stopped for it.
    pub agent_lost: bool,
    /// Cut short in some other way.
    pub interrupted: bool,
}

impl Manifest {
    /// The name of a step.
    #[must_use]
    pub fn step_name(&self, step: u32) -> &str {
        self.steps.iter().find(|s| s.step == step).map_or("", |s| s.name.as_str())
    }

    /// Seconds of a phase of a step.
    #[must_use]
    pub fn phase(&self, step: u32, phase: Phase) -> Option<PhaseInfo> {
        self.steps.iter().find(|s| s.step == step)?.phases.iter().find(|p| p.phase == phase).copied()
    }

    /// Steps that have a hold.
    pub fn holds(&self) -> impl Iterator<Item = (&StepInfo, PhaseInfo)> {
        self.steps.iter().filter_map(|s| s.phases.iter().find(|p| p.phase == Phase::Hold).map(|p| (s, *p)))
    }

    /// Names of sites, sorted.
    #[must_use]
    pub fn sites(&self) -> Vec<String> {
        let mut sites: Vec<String> = self.agents.iter().map(|a| a.site.clone()).collect();
        sites.sort();
        sites.dedup();
        sites
    }
}
