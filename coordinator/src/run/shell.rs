//! The shell around a run: clock, fleet, journal, results.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adsum_proto::v1::to_agent;
use adsum_report::manifest::{PhaseInfo, StepInfo};
use adsum_report::threshold::ThresholdRule;
use adsum_report::trust::TrustLimits;
use adsum_report::{FileError, Manifest};
use tokio::sync::{mpsc, watch};

use super::{Order, Progress, Run, SECOND_NS, places};
use crate::fleet::{Fleet, FleetEvent};
use crate::journal::{Journal, JournalError};
use crate::plan::{self, PlanError, RunFacts, timeline};
use crate::scenario::hash::{scenario_hash, workload_hash};
use crate::scenario::{Document, Profile, Scenario, Target};
use crate::users::Population;

/// How long agents may take to attach.
const ATTACH_LIMIT: Duration = Duration::from_secs(30);

/// Everything a run begins with.
#[derive(Debug)]
pub struct Setup {
    /// The scenario and its text.
    pub document: Document,
    /// Its users.
    pub population: Population,
    /// Id, seed, secrets; the origin is set by the run.
    pub facts: RunFacts,
    /// Labels of the run; `release` is special.
    pub labels: BTreeMap<String, String>,
    /// Where the results go; prepared, empty.
    pub dir: PathBuf,
    /// How many agents have to be there.
    pub agents: usize,
}

/// What somebody asked a run to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopLevel {
    /// Go on.
    Go,
    /// Drain, with the exit code of the signal.
    Drain(u8),
    /// End at once.
    Abort(u8),
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code.
    pub exit_code: u8,
    /// The end of the run for people.
    pub summary: String,
    /// Where the results are.
    pub dir: PathBuf,
    /// Why it could not start: error, diagnosis.
    pub not_ready: Option<(String, String)>,
}

/// A run that could not begin, or whose results could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Not enough agents.
    #[error("{there} of {wanted} agents attached within {} s", ATTACH_LIMIT.as_secs())]
    NoAgents {
        /// How many came.
        there: usize,
        /// How many were wanted.
        wanted: usize,
    },
    /// No plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The results.
    #[error(transparent)]
    Files(#[from] FileError),
}

fn unix_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as i64)
}

/// Carries a run out, from attached agents to written results.
///
/// # Errors
/// [`RunError`]; what was measured is written or lies in the journal.
pub async fn execute(
    fleet: &Fleet,
    events: &mut mpsc::Receiver<FleetEvent>,
    mut setup: Setup,
    mut stop: watch::Receiver<StopLevel>,
    mut progress: impl FnMut(&Progress),
    mut remark: impl FnMut(&str),
) -> Result<Outcome, RunError> {
    gather(fleet, events, setup.agents).await?;
    let hellos = fleet.hellos();
    let now = unix_ns();
    let origin_s = now.div_euclid(SECOND_NS);
    setup.facts.origin_unix_ns = origin_s * SECOND_NS;
    let scenario = setup.document.scenario.clone();
    let plans = plan::plans(&scenario, &setup.population, &setup.facts, &places(&hellos))?;
    let manifest = manifest(&setup, origin_s);
    let (mut run, orders) = Run::begin(scenario, manifest, hellos.into_iter().zip(plans).collect(), now);
    let mut journal = Journal::create(&setup.dir, &run.manifest)?;
    let mut acks: Vec<(String, u64)> = Vec::new();
    obey(orders, fleet, &mut journal, &mut acks, &mut remark).await;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    while !run.is_over() {
        let orders = tokio::select! {
            event = events.recv() => match event {
                Some(FleetEvent::Said(agent, message)) => run.said(&agent, message, unix_ns()),
                Some(FleetEvent::Lost(agent, reason)) => run.lost(&agent, &reason, unix_ns()),
                Some(FleetEvent::Attached(hello)) => {
                    vec![Order::Remark(format!("agent {} attached; it takes part in the next run", hello.name))]
                }
                None => run.stop(true, "the fleet is gone", unix_ns()),
            },
            _ = tick.tick() => {
                if let Err(error) = journal.commit() {
                    remark(&error.to_string());
                } else {
                    for (agent, number) in acks.drain(..) {
                        fleet.tell(&agent, to_agent::Message::IntervalAck(adsum_proto::v1::IntervalAck { number })).await;
                    }
                }
                progress(&run.progress(unix_ns()));
                run.tick(unix_ns())
            }
            // Nobody who could stop the run any more: it goes on.
            Ok(()) = stop.changed() => {
                let level = *stop.borrow_and_update();
                match level {
                    StopLevel::Go => Vec::new(),
                    StopLevel::Drain(code) => {
                        remark("stopping: what runs is drained and signed off; once more to stop at once");
                        run.manifest.events.signal = code;
                        run.stop(false, "interrupted", unix_ns())
                    }
                    StopLevel::Abort(code) => {
                        run.manifest.events.signal = code;
                        run.stop(true, "interrupted twice", unix_ns())
                    }
                }
            }
        };
        obey(orders, fleet, &mut journal, &mut acks, &mut remark).await;
    }
    finish(run, journal, &setup.dir)
}

async fn gather(
    fleet: &Fleet,
    events: &mut mpsc::Receiver<FleetEvent>,
    wanted: usize,
) -> Result<(), RunError> {
    let deadline = tokio::time::Instant::now() + ATTACH_LIMIT;
    loop {
        let there = fleet.hellos().len();
        if there >= wanted.max(1) {
            return Ok(());
        }
        // Whatever it is, it may have changed who is there.
        if tokio::time::timeout_at(deadline, events.recv()).await.is_err() {
            return Err(RunError::NoAgents { there: fleet.hellos().len(), wanted });
        }
    }
}

async fn obey(
    orders: Vec<Order>,
    fleet: &Fleet,
    journal: &mut Journal,
    acks: &mut Vec<(String, u64)>,
    remark: &mut impl FnMut(&str),
) {
    for order in orders {
        match order {
            Order::Tell(agent, message) => fleet.tell(&agent, *message).await,
            Order::Keep(agent, site, incarnation, interval) => {
                journal.add(&agent, &site, incarnation, &interval);
                acks.push((agent, interval.number));
            }
            Order::Draft(manifest) => {
                if let Err(error) = journal.draft(&manifest) {
                    remark(&error.to_string());
                }
            }
            Order::Remark(text) => remark(&text),
        }
    }
}

fn finish(mut run: Run, mut journal: Journal, dir: &Path) -> Result<Outcome, RunError> {
    run.conclude(unix_ns());
    // If the files cannot be written, the journal holds everything.
    journal.commit()?;
    let not_ready = run.not_ready.take().map(|n| (n.error, n.diagnosis));
    let derived = adsum_report::write(dir, &mut run.raw, &mut run.manifest)?;
    journal.remove()?;
    Ok(Outcome {
        exit_code: derived.verdict.exit_code,
        summary: derived.summary,
        dir: dir.to_owned(),
        not_ready,
    })
}

/// Steps with their seconds; a run that never started has none but the warm-up. What lies
/// behind `cut_ns`, where a run was stopped, belongs to the drain.
pub(super) fn steps(
    scenario: &Scenario,
    start_ns: u64,
    cut_ns: u64,
    end_ns: u64,
    started: bool,
) -> Vec<StepInfo> {
    let all = timeline::timeline(scenario, start_ns, Some(end_ns));
    let last = all.len().saturating_sub(1) as u32;
    all.into_iter()
        .map(|step| StepInfo {
            step: step.index,
            name: step.name,
            rate_hz: step.rate_mhz as f64 / 1e3,
            gate: step.gate,
            phases: step
                .phases
                .iter()
                .filter(|_| started || step.index == 0)
                .filter_map(|span| {
                    let (from_ns, to_ns) = match step.index {
                        0 => (span.from_ns, start_ns.min(cut_ns.max(span.from_ns))),
                        index if index == last => (span.from_ns.min(cut_ns), end_ns),
                        // What a stopped run did not reach has no seconds.
                        _ if span.from_ns >= cut_ns => return None,
                        _ => (span.from_ns, span.to_ns.unwrap_or(end_ns).min(cut_ns)),
                    };
                    Some(PhaseInfo {
                        phase: adsum_report::Phase::parse(span.phase.name())?,
                        from_s: from_ns as f64 / 1e9,
                        to_s: to_ns.max(from_ns) as f64 / 1e9,
                    })
                })
                .collect(),
        })
        .collect()
}

fn manifest(setup: &Setup, origin_s: i64) -> Manifest {
    let s = &setup.document.scenario;
    let trust = &s.trust;
    let ppb = |value: Option<u64>| value.map(|v| v as f64 / 1e9);
    let mut thresholds: Vec<ThresholdRule> = s
        .thresholds
        .iter()
        .map(|t| ThresholdRule {
            expr: t.expr.clone(),
            step: t.step.clone().unwrap_or_default(),
            site: t.site.clone().unwrap_or_default(),
            base: t.base.name().to_owned(),
            abort_on_fail: t.abort_on_fail,
            after_s: t.after_s,
            for_s: t.for_s,
        })
        .collect();
    if thresholds.is_empty() {
        thresholds = adsum_report::threshold::defaults(s.workload.kind == crate::scenario::Kind::Held);
    }
    Manifest {
        schema_version: adsum_report::manifest::SCHEMA_VERSION,
        run_id: setup.facts.run_id.clone(),
        adsum_version: env!("CARGO_PKG_VERSION").to_owned(),
        scenario: s.name.clone(),
        scenario_text: setup.document.redacted.clone(),
        scenario_hash: scenario_hash(s),
        workload_hash: workload_hash(s, &setup.population),
        release: setup.labels.get("release").cloned().unwrap_or_default(),
        labels: setup.labels.clone(),
        dialect: s.dialect.name().to_owned(),
        transport: s.pool.transport.name().to_owned(),
        target: match &s.pool.target {
            Target::Embedded => "embedded".to_owned(),
            Target::Host(host) => host.clone(),
        },
        kind: s.workload.kind.name().to_owned(),
        seed: setup.facts.seed,
        users: setup.population.users(),
        deadline_s: s.workload.deadline_ns as f64 / 1e9,
        origin_unix_s: origin_s,
        ended_unix_s: origin_s,
        thresholds,
        trust: TrustLimits {
            profile: match trust.profile {
                Profile::Lab => "lab".to_owned(),
                Profile::Ci => "ci".to_owned(),
            },
            send_lag_p99_s: ppb(trust.send_lag_p99_ns),
            send_lag_seconds: ppb(trust.send_lag_seconds_ppb),
            loop_gap_s: ppb(trust.loop_gap_ns),
            sent_ratio: ppb(trust.sent_ppb),
            waited_pair_ratio: ppb(trust.waited_pair_ppb),
            shard_busy: ppb(trust.shard_busy_ppb),
            steal: ppb(trust.steal_ppb),
            steal_seconds: ppb(trust.steal_seconds_ppb),
        },
        percentiles: s.report.percentiles_ppb.iter().map(|p| *p as f64 / 1e9).collect(),
        interval_s: s.report.interval_s,
        ..Manifest::default()
    }
}
