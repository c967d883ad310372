//! Words of the files, for people: `adsum explain WORD`.

use crate::names::{Cause, Class};

/// A word and what it means.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The word.
    pub word: &'static str,
    /// What kind of word it is.
    pub kind: &'static str,
    /// What it means.
    pub text: &'static str,
    /// Who has to act on it, most often; `None` if nobody has to.
    pub acts: Option<Class>,
    /// What to do; empty if there is nothing to do.
    pub advice: &'static str,
}

/// For words that only say how it went.
const NOBODY: Option<Class> = None;

macro_rules! entries { ($($kind:literal { $($word:expr => $text:literal, $acts:expr, $advice:expr;)+ })+) => {
    /// All of them.
    pub const ENTRIES: &[Entry] = &[$($(Entry { word: $word, kind: $kind, text: $text, acts: $acts, advice: $advice }),+),+];
} }

entries! {
    "metric" {
        "connect" => "Until a connection is usable: TCP connected, TLS handshake finished. UDP has none.", Some(Class::Network), "If it is high: look at the way to the pool, at the load of its TLS (handshakes cost it a signature each), and at its accept queue.";
        "register" => "REGISTER to the 2xx with our Contact, challenges included (RFC 6076: registration request delay). In workflow runs its scheduled base is open loop.", Some(Class::Pool), "If it is high: look at the registrar and at the directory behind it; challenges are inside.";
        "self_subscribe" => "A user's subscription to itself: to the later of 2xx and first NOTIFY; in the dialect lync the 200 may hold the first document.", Some(Class::Pool), "If it is high: look at the presence service and the store it reads the user's own document from.";
        "subscribe" => "SUBSCRIBE to a publisher, to the 2xx.", Some(Class::Pool), "If it is high: look at the presence service and at the presence rules that it evaluates.";
        "subscribe_to_notify" => "SUBSCRIBE to the first active NOTIFY of the dialog, with or without a body; in the dialect lync the 200 may be it.", Some(Class::Pool), "If it is high and subscribe is not: the first document is slow to come; look at the presence service.";
        "publish" => "PUBLISH to the 2xx with an entity tag; in the dialect lync SERVICE to the 200.", Some(Class::Pool), "If it is high: look at the presence service and its database.";
        "publish_to_notify" => "PUBLISH (lync: SERVICE) to the NOTIFY (lync: BENOTIFY, too) with this or a later marker in the subscriber's dialog. In held runs its scheduled base is open loop.", Some(Class::Pool), "If it is high and publish is not: look at how the pool fans notifications out, at its queues, and at its connections to subscribers.";
        "recovery" => "Held users: from the loss of connection, registration or a subscription until the user has everything again. p99 is the time until 99 % of those who lost something are back; who never got there ranks above all.", Some(Class::Pool), "If it is high: look at what limits log-ons after a restart; [warmup] holds the rates at which users return.";
        "notify_fanout_last" => "PUBLISH to the last of several subscribers that was told.", Some(Class::Pool), "If it is much higher than publish_to_notify: the pool tells watchers one after the other; look at its workers.";
        "unsubscribe" => "To the later of 2xx and terminating NOTIFY; every dialog, also those of users with themselves.", Some(Class::Pool), "If it is high: look at the presence service; it is not part of a workflow's latency.";
        "unregister" => "REGISTER with Expires 0 to the 2xx.", Some(Class::Pool), "If it is high: look at the registrar; it is not part of a workflow's latency.";
        "workflow" => "Arrival to notification: the whole workflow without signing off, open loop in its scheduled base.", Some(Class::Pool), "Look at its parts to see which one is slow: register, self_subscribe, subscribe_to_notify, publish_to_notify.";
        "send_lag" => "Due to sent: the engine's own lateness and nothing else.", Some(Class::Generator), "If it is high the run is untrustworthy: keep cores free for the engine, give it real-time priority, or use more agents.";
    }
    "counter" {
        "offered" => "Arrivals that the schedule asked for, in the second of their intended instant.", NOBODY, "";
        "sent" => "Arrivals that were begun, in the second in which their first byte left.", NOBODY, "";
        "not_started" => "Arrivals that could not be begun within one deadline of their intended instant. offered = sent + not_started.", NOBODY, "Look at waited_pair (more users), waited_publication (a slow pool) and not_started_late (the engine).";
        "not_started_late" => "Those of them that the engine itself came to only after their deadline, or that a ceiling held back for so long; the others waited for the pool or for a user.", Some(Class::Generator), "Lower the rate, raise the ceiling, or use more agents.";
        "publish_ok" => "Publications that were answered with a 2xx.", NOBODY, "";
        "publish_failed" => "Publications that were refused or never answered.", Some(Class::Pool), "failures.csv says why, activity publish.";
        "workflow_ok" => "Workflows whose notification was seen.", NOBODY, "";
        "workflow_timed_out" => "Workflows in which somebody did not answer in time.", Some(Class::Pool), "failures.csv says where, code timeout:….";
        "workflow_failed" => "Workflows in which somebody answered with an error, or that were cut off.", Some(Class::Pool), "failures.csv says why.";
        "expected" => "Expectations: one publication as one subscriber is to see it.", NOBODY, "";
        "delivered" => "Expectations that ended with a NOTIFY with their own marker.", NOBODY, "";
        "superseded" => "Expectations that ended with a NOTIFY with a later marker (RFC 3856 section 6.10 lets servers merge).", NOBODY, "Many of them mean that the pool merges notifications under load, or throttles them.";
        "missed" => "Expectations that no NOTIFY met before the deadline. They rank above all latencies.", Some(Class::Pool), "Look at the pool's presence service at the second that missed_due shows.";
        "missed_due" => "The same, in the second in which the publication was intended: when it broke, not 25 s later.", Some(Class::Pool), "Look at the pool's log at this second.";
        "void" => "Expectations that nobody can judge: the publication failed, or the run was cut off.", NOBODY, "publish_failed: see failures.csv; interrupted: the run was stopped.";
        "not_expected" => "Subscriptions that were not active when a publication was written.", Some(Class::Pool), "The subscription was not there: see subscription_lost and failures.csv.";
        "censored" => "Activities without an answer within their limit, by metric.", Some(Class::Pool), "They rank above every latency of their metric; failures.csv names the time-outs.";
        "interval" => "Seconds that an agent delivered.", NOBODY, "";
        "sip_sent" => "Messages sent, by method, and code for responses; retransmissions included.", NOBODY, "";
        "sip_received" => "Messages received, by method and code; retransmissions included.", NOBODY, "";
        "retransmit_sent" => "Messages sent again by timer E: loss, or a server slower than 500 ms.", Some(Class::Network), "Look for loss on the way (missing datagrams in both directions), then at the pool's answer times.";
        "retransmit_received" => "Messages that came again: our answer was lost or late.", Some(Class::Network), "Look for loss on the way; our answers are late only if send_lag is high, too.";
        "refresh" => "Refreshes, by method.", NOBODY, "";
        "duplicate" => "NOTIFYs that showed what was shown already.", Some(Class::Pool), "Harmless in small numbers; many of them are notifications that nobody needs.";
        "late" => "NOTIFYs with a marker whose expectation had ended.", Some(Class::Pool), "The notification came after the deadline: see missed.";
        "reordered_cseq" => "NOTIFYs with a lower CSeq than one before; answered with 500.", Some(Class::Network), "UDP may change the order; on a stream the pool sends in the wrong order.";
        "reordered_state" => "NOTIFYs that showed an older state than one before.", Some(Class::Pool), "The pool showed an older document after a newer one: look at its replication.";
        "converged" => "Subscriptions that show the last publication at the end.", NOBODY, "";
        "not_converged" => "Subscriptions that do not.", Some(Class::Pool), "These subscribers have a wrong picture for good: look for lost notifications.";
        "reconnect" => "Users that signed on again after they lost something.", Some(Class::Pool), "Look at why connections, registrations or subscriptions were lost: failures.csv, recovery.";
        "subscription_lost" => "Subscriptions that the server ended.", Some(Class::Pool), "Was the pool restarted, or does it limit subscriptions? Its log says why.";
        "waited_pair" => "Arrivals that waited for a free pair: too few users, or a slow pool.", Some(Class::Configuration), "Give more users (--users, users.count): at least rate times the slowest workflow pairs.";
        "waited_publication" => "Publications that waited for the previous PUBLISH of the same user.", Some(Class::Pool), "The pool answers PUBLISH more slowly than a user publishes: more users or a lower rate, or a faster pool.";
        "write_blocked" => "Writes that the kernel did not take at once: the pool reads too slowly.", Some(Class::Pool), "Look at the load of the pool's network threads, and at the way to it.";
        "rx_dropped" => "Datagrams lost in this host's receive buffer, by the kernel's own count.", Some(Class::Generator), "sysctl -w net.core.rmem_max=8388608, or more threads (--shards) or agents.";
        "second_opinion" => "Messages that rsip read, too: one of 64 and the first of each kind. Label `disagree`: one of the two readings is wrong.", Some(Class::Generator), "Label disagree: report it with the message; other labels need nothing.";
        "rx_unstamped" => "Messages without the kernel's receive stamp: dated when they were read, which may be later.", NOBODY, "With --stamps user that is what was asked for. In some containers the kernel does not stamp; otherwise look at its version.";
        "rx_foreign_source" => "Datagrams from another address than the target's.", Some(Class::Pool), "Normal for pools with several addresses; otherwise look at their routing.";
        "rx_refused_source" => "Datagrams from an address that is not allowed; not read.", Some(Class::Configuration), "If they are the pool's: add their network to allow in [pool].";
        "overflow" => "Latencies beyond one hour, by metric.", Some(Class::Configuration), "Shorten workload.deadline.";
        "unmatched" => "Messages that belong to nothing of ours.", Some(Class::Pool), "Messages for a dialog or transaction that ended: many of them mean that the pool goes on notifying after the end.";
        "users_rejected" => "Users whose credentials were refused once; they never try again.", Some(Class::Configuration), "Correct their passwords; failures.csv names the first ones, code auth:rejected.";
        "etag_conflict" => "PUBLISHes answered with 412 and begun from scratch.", Some(Class::Pool), "The pool lost or changed a document; or somebody else publishes for these accounts.";
        "malformed" => "Messages that are no SIP.", Some(Class::Pool), "Look at a --trace: what answers there may not speak SIP.";
        "already_gone" => "Steps of signing off that found nothing left to do (481, 412).", NOBODY, "";
        "version_conflict" => "Publications of the dialect lync answered with 409 (the server held another version) and repeated with the version that it named, three tries at most.", Some(Class::Configuration), "Does somebody else publish for these accounts, another run or endpoint? A few at the beginning come from earlier runs.";
        "auth_mismatch" => "Messages whose rspauth was wrong: another server, other passwords there, or a proxy that changed them. With Digest (RFC 7616 section 3.5) the answer counts all the same; with NTLM, which signs everything, the message counts as never received.", Some(Class::Configuration), "Check which server answers there, and devices between that change messages.";
        "cpu_us" => "CPU time in microseconds, by shard.", NOBODY, "";
        "shard_busy" => "Seconds in which a shard's thread ran for more than 90 % of the time, by shard.", Some(Class::Generator), "More threads (--shards) or agents (--agents), or a lower rate.";
        "steal_us" => "Microseconds that the hypervisor took from the cores of an agent: they had work and did not run. Once for each agent.", Some(Class::Generator), "Use a host with cores of its own.";
        "loop_gap" => "Times that an engine's loop did not run for 250 ms or more, or for `trust.loop_gap` if that is shorter, by shard.", Some(Class::Generator), "Keep cores free for the engine; adsum selftest --quick looks at the host.";
        "loop_gap_ms" => "How long those gaps were together, by shard.", Some(Class::Generator), "Keep cores free for the engine; adsum selftest --quick looks at the host.";
        "realtime_lost" => "A shard gave its real-time priority back, because it had not slept for half a second: it would have taken its core from everybody.", Some(Class::Generator), "Use more shards or a lower rate: the thread had no pause.";
        "out_of_files" => "Connections that could not be made because this process had no file descriptor left (EMFILE, ENFILE).", Some(Class::Generator), "Raise the hard limit: ulimit -Hn 1048576 as root, LimitNOFILE=1048576 in a unit.";
        "out_of_ports" => "Connections that could not be made because this host had no local port left (EADDRNOTAVAIL).", Some(Class::Generator), "Give more addresses with pool.source, or sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\".";
        "clock_step" => "Jumps of the wall clock.", Some(Class::Generator), "Let the clock slew during a run (timedatectl set-ntp false, or chronyd without makestep).";
        "icmp_refused" => "Datagrams that the target's host refused: nothing listens there.", Some(Class::Pool), "Check address, port and transport, and that the pool runs at each of its addresses.";
        "failover" => "Connections that moved on to the next target.", Some(Class::Pool), "Look at the target that was left: it refused, was silent, or answered 503.";
        "held_by_ceiling" => "Arrivals that a ceiling (max_rate) held back.", Some(Class::Configuration), "Raise safety.max_rate or the agent's --max-rate, if that was not meant.";
    }
    "exit code" {
        "0" => "Done, and every threshold holds; for `check`: the notification came.", NOBODY, "";
        "1" => "Internal error.", Some(Class::Generator), "Report it, with the command line and what was printed.";
        "2" => "The command line cannot be used.", Some(Class::Configuration), "The message says what is accepted; --help lists it.";
        "3" => "Scenario, configuration or a file that it names is invalid.", Some(Class::Configuration), "All mistakes are printed with line and column; adsum scenario check FILE looks again.";
        "4" => "Could not start: no agent, another version, readiness failed.", Some(Class::Configuration), "The message says what failed; adsum check tries one pair by itself.";
        "5" => "`check` failed: something about pool or account.", Some(Class::Pool), "Error and Diagnosis say what; adsum explain CODE says more.";
        "6" => "`report --verify` found an inconsistency.", Some(Class::Configuration), "The files were changed after the run, or come from different runs; adsum report DIR derives them again from the raw files.";
        "10" => "A threshold failed.", Some(Class::Pool), "thresholds.csv and summary.txt say which, and in which second it broke first.";
        "11" => "A threshold with abort_on_fail ended the run.", Some(Class::Pool), "thresholds.csv says which; the run was drained and its results are complete until then.";
        "12" => "Untrustworthy: the run measured its own generator.", Some(Class::Generator), "summary.txt gives each reason with what was measured, the limit and what to do.";
        "13" => "An agent was lost and on_agent_loss is \"stop\".", Some(Class::Generator), "Look at that agent's log and host; what it had sent is in the results.";
        "14" => "Stopped to protect the pool (stop_on).", Some(Class::Pool), "failures.csv says what the pool answered; lower the rate, or set safety.overload = true if this was the question.";
        "129" => "`check` was ended by SIGHUP, as by a terminal that was closed, after signing off.", NOBODY, "";
        "130" => "Interrupted by Ctrl-C, after draining and writing; `check` has signed off.", NOBODY, "";
        "141" => "Nobody read the output any more, as with `adsum … | head`.", NOBODY, "";
        "143" => "Ended by SIGTERM, after draining and writing; `check` has signed off.", NOBODY, "";
    }
    "exit code of check --format nagios" {
        "0" => "OK: every notification came in time.", NOBODY, "";
        "1" => "WARNING: a latency is above --warning.", Some(Class::Pool), "adsum check --verbose shows which activity is slow.";
        "2" => "CRITICAL: a check failed, or a latency is above --critical.", Some(Class::Pool), "The line says which target and why; adsum explain CODE says more.";
        "3" => "UNKNOWN: nothing was found out about the pool, because of the command line, the configuration or this host.", Some(Class::Configuration), "The line says what is wrong; run the same command with --format text.";
    }
    "reason not to believe a run" {
        "send_lag" => "Due to sent took longer than the limit in too many seconds of a hold: the engine's own lateness stands in the latencies.", Some(Class::Generator), Cause::SendLag.advice();
        "loop_gap" => "The engine's loop did not run for longer than trust.loop_gap.", Some(Class::Generator), Cause::LoopGap.advice();
        "shard_busy" => "A shard's thread ran for more than trust.shard_busy of a second: what the pool sent waited for the engine.", Some(Class::Generator), Cause::ShardBusy.advice();
        "steal" => "The hypervisor took more than trust.steal of the cores' time in more than trust.steal_seconds of a hold's seconds.", Some(Class::Generator), Cause::Steal.advice();
        "no_data" => "Nothing was offered in a hold.", Some(Class::Configuration), Cause::NoData.advice();
        "not_started" => "The engine itself came to too many arrivals only after their deadline (counter not_started_late).", Some(Class::Generator), Cause::NotStarted.advice();
        "too_few_users" => "More than one arrival in a hundred waited for a free pair.", Some(Class::Configuration), Cause::TooFewUsers.advice();
        "rx_dropped" => "The kernel dropped datagrams that had already come.", Some(Class::Generator), Cause::RxDropped.advice();
        "overflow" => "Latencies beyond one hour do not fit the histograms.", Some(Class::Configuration), Cause::Overflow.advice();
        "clock_step" => "The wall clock jumped during a hold.", Some(Class::Generator), Cause::ClockStep.advice();
        "out_of_files" => "This process had no file descriptor left for connections.", Some(Class::Generator), Cause::OutOfFiles.advice();
        "out_of_ports" => "This host had no local port left for connections.", Some(Class::Generator), Cause::OutOfPorts.advice();
        "lost_interval" => "An agent did not deliver every second of a hold.", Some(Class::Generator), Cause::LostInterval.advice();
        "not_judged" => "A threshold rests on too few samples: fewer than ten above its rank, or none at all; or nobody can read it.", Some(Class::Configuration), Cause::NotJudged.advice();
        "agent_lost" => "An agent went away during the run.", Some(Class::Generator), Cause::AgentLost.advice();
        "interrupted" => "A signal ended the run before its schedule was over: nobody knows how the rest would have been.", NOBODY, Cause::Interrupted.advice();
        "internal_error" => "Something went wrong in adsum itself.", Some(Class::Generator), Cause::InternalError.advice();
    }
    "class of failures" {
        "pool" => "The pool did not do what it should: its administrator has to act.", Some(Class::Pool), "Look at the code and the diagnosis in failures.csv; adsum explain CODE says more.";
        "configuration" => "Accounts, names, permissions or the scenario: whoever set up the test has to act.", Some(Class::Configuration), "Look at the code and the diagnosis in failures.csv; adsum explain CODE says more.";
        "generator" => "The engine or its host: whoever runs adsum has to act.", Some(Class::Generator), "adsum selftest says what this host can do.";
        "network" => "What lies between this host and the pool.", Some(Class::Network), "Check address, port, transport, firewalls and balancers.";
    }
}

/// What a word means, whatever kinds it is.
#[must_use]
pub fn explain(word: &str) -> Vec<&'static Entry> {
    ENTRIES.iter().filter(|entry| entry.word == word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Metric;
    use crate::verdict::PRECEDENCE;

    fn kinds(word: &str) -> Vec<&'static str> {
        explain(word).iter().map(|entry| entry.kind).collect()
    }

    #[test]
    fn every_metric_reason_and_exit_code_of_a_run_is_explained() {
        for metric in Metric::ALL {
            assert!(kinds(metric.name()).contains(&"metric"), "{}", metric.name());
        }
        for cause in Cause::ALL {
            assert!(kinds(cause.name()).contains(&"reason not to believe a run"), "{}", cause.name());
        }
        for code in PRECEDENCE {
            assert!(kinds(&code.to_string()).contains(&"exit code"), "{code}");
        }
        for class in Class::ALL {
            assert!(kinds(class.name()).contains(&"class of failures"), "{}", class.name());
        }
    }

    #[test]
    fn whoever_has_to_act_is_told_what_to_do_and_no_word_stands_twice_in_a_kind() {
        for entry in ENTRIES {
            assert!(entry.text.len() > 10, "{}", entry.word);
            assert!(entry.acts.is_none() || !entry.advice.is_empty(), "{} ({})", entry.word, entry.kind);
            let same = ENTRIES.iter().filter(|e| (e.word, e.kind) == (entry.word, entry.kind));
            assert_eq!(same.count(), 1, "{}", entry.word);
        }
    }
}
