//! Words of the files, for people: `adsum explain WORD`.

/// A word and what it means.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The word.
    pub word: &'static str,
    /// What kind of word it is.
    pub kind: &'static str,
    /// What it means, and what to do about it.
    pub text: &'static str,
}

macro_rules! entries { ($($kind:literal { $($word:literal => $text:literal),+ $(,)? })+) => {
    /// All of them.
    pub const ENTRIES: &[Entry] = &[$($(Entry { word: $word, kind: $kind, text: $text }),+),+];
} }

entries! {
    "metric" {
        "connect" => "Until a connection is usable: TCP connected, TLS handshake finished. UDP has none.",
        "register" => "REGISTER to the 2xx with our Contact, challenges included (RFC 6076: registration request delay). In workflow runs its scheduled base is open loop.",
        "self_subscribe" => "A user's subscription to itself: to the later of 2xx and first NOTIFY.",
        "subscribe" => "SUBSCRIBE to a publisher, to the 2xx.",
        "subscribe_to_notify" => "SUBSCRIBE to the first active NOTIFY of the dialog, with or without a body.",
        "publish" => "PUBLISH to the 2xx with an entity tag.",
        "publish_to_notify" => "PUBLISH to the NOTIFY with this or a later marker in the subscriber's dialog. In held runs its scheduled base is open loop.",
        "recovery" => "Held users: from the loss of connection, registration or a subscription until the user has everything again. p99 is the time until 99 % of those who lost something are back; who never got there ranks above all.",
        "notify_fanout_last" => "PUBLISH to the last of several subscribers that was told.",
        "unsubscribe" => "To the later of 2xx and terminating NOTIFY; every dialog, also those of users with themselves.",
        "unregister" => "REGISTER with Expires 0 to the 2xx.",
        "workflow" => "Arrival to notification: the whole workflow without signing off, open loop in its scheduled base.",
        "send_lag" => "Due to sent: the engine's own lateness and nothing else.",
    }
    "counter" {
        "offered" => "Arrivals that the schedule asked for, in the second of their intended instant.",
        "sent" => "Arrivals that were begun, in the second in which their first byte left.",
        "not_started" => "Arrivals that could not be begun within one deadline of their intended instant. offered = sent + not_started.",
        "not_started_late" => "Those of them that the engine itself came to only after their deadline, or that a ceiling held back for so long; the others waited for the pool or for a user. As a reason (not_started): lower the rate, raise the ceiling, or use more agents.",
        "publish_ok" => "Publications that were answered with a 2xx.",
        "publish_failed" => "Publications that were refused or never answered.",
        "workflow_ok" => "Workflows whose notification was seen.",
        "workflow_timed_out" => "Workflows in which somebody did not answer in time.",
        "workflow_failed" => "Workflows in which somebody answered with an error, or that were cut off.",
        "expected" => "Expectations: one publication as one subscriber is to see it.",
        "delivered" => "Expectations that ended with a NOTIFY with their own marker.",
        "superseded" => "Expectations that ended with a NOTIFY with a later marker (RFC 3856 section 6.10 lets servers merge).",
        "missed" => "Expectations that no NOTIFY met before the deadline. They rank above all latencies.",
        "missed_due" => "The same, in the second in which the publication was intended: when it broke, not 25 s later.",
        "void" => "Expectations that nobody can judge: the publication failed, or the run was cut off.",
        "not_expected" => "Subscriptions that were not active when a publication was written.",
        "censored" => "Activities without an answer within their limit, by metric.",
        "interval" => "Seconds that an agent delivered.",
        "sip_sent" => "Messages sent, by method, and code for responses; retransmissions included.",
        "sip_received" => "Messages received, by method and code; retransmissions included.",
        "retransmit_sent" => "Messages sent again by timer E: loss, or a server slower than 500 ms.",
        "retransmit_received" => "Messages that came again: our answer was lost or late.",
        "refresh" => "Refreshes, by method.",
        "duplicate" => "NOTIFYs that showed what was shown already.",
        "late" => "NOTIFYs with a marker whose expectation had ended.",
        "reordered_cseq" => "NOTIFYs with a lower CSeq than one before; answered with 500.",
        "reordered_state" => "NOTIFYs that showed an older state than one before.",
        "converged" => "Subscriptions that show the last publication at the end.",
        "not_converged" => "Subscriptions that do not.",
        "reconnect" => "Users that signed on again after they lost something.",
        "subscription_lost" => "Subscriptions that the server ended.",
        "waited_pair" => "Arrivals that waited for a free pair: too few users, or a slow pool.",
        "waited_publication" => "Publications that waited for the previous PUBLISH of the same user.",
        "write_blocked" => "Writes that the kernel did not take at once: the pool reads too slowly.",
        "rx_dropped" => "Datagrams lost in this host's receive buffer, by the kernel's own count. As a reason: sysctl -w net.core.rmem_max=8388608, or more agents.",
        "second_opinion" => "Messages that rsip read, too: one of 64 and the first of each kind. Label `disagree`: one of the two readings is wrong; please report it.",
        "rx_unstamped" => "Messages without the kernel's receive stamp: dated when they were read, which may be later.",
        "rx_foreign_source" => "Datagrams from another address than the target's.",
        "rx_refused_source" => "Datagrams from an address that is not allowed; not read.",
        "overflow" => "Latencies beyond one hour, by metric.",
        "unmatched" => "Messages that belong to nothing of ours.",
        "users_rejected" => "Users whose credentials were refused once; they never try again.",
        "etag_conflict" => "PUBLISHes answered with 412 and begun from scratch.",
        "malformed" => "Messages that are no SIP.",
        "already_gone" => "Steps of signing off that found nothing left to do (481, 412).",
        "auth_mismatch" => "Answers whose rspauth (RFC 7616 section 3.5) was wrong: another server, other passwords there, or a proxy that changed the request. The answer counts all the same.",
        "cpu_us" => "CPU time in microseconds, by shard.",
        "shard_busy" => "Seconds in which a shard's thread ran for more than 90 % of the time, by shard. As a reason: more than trust.shard_busy allows; what the pool sent waited for the engine. More shards (--shards) or agents (--agents), or a lower rate.",
        "steal_us" => "Microseconds that the hypervisor took from the cores of an agent: they had work and did not run. Once for each agent.",
        "loop_gap" => "Times that an engine's loop did not run for 250 ms or more, or for `trust.loop_gap` if that is shorter, by shard. As a reason: something stopped the engine or took its core away.",
        "loop_gap_ms" => "How long those gaps were together, by shard.",
        "realtime_lost" => "A shard gave its real-time priority back, because it had not slept for half a second: it would have taken its core from everybody.",
        "out_of_files" => "Connections that could not be made because this process had no file descriptor left (EMFILE, ENFILE). Raise the hard limit: ulimit -Hn 1048576.",
        "out_of_ports" => "Connections that could not be made because this host had no local port left (EADDRNOTAVAIL). Give more addresses with pool.source, or sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\".",
        "clock_step" => "Jumps of the wall clock.",
        "icmp_refused" => "Datagrams that the target's host refused: nothing listens there.",
        "failover" => "Connections that moved on to the next target.",
        "held_by_ceiling" => "Arrivals that a ceiling (max_rate) held back.",
    }
    "exit code" {
        "0" => "Done, and every threshold holds.",
        "1" => "Internal error: please report it.",
        "2" => "Usage: the command line.",
        "3" => "Scenario or configuration is invalid.",
        "4" => "Could not start: no agent, another version, readiness failed.",
        "5" => "`check` failed: something about pool or account.",
        "6" => "`report --verify` found an inconsistency.",
        "10" => "A threshold failed.",
        "11" => "A threshold with abort_on_fail ended the run.",
        "12" => "Untrustworthy: the run measured its own generator.",
        "13" => "An agent was lost and on_agent_loss is \"stop\".",
        "14" => "Stopped to protect the pool (stop_on).",
        "130" => "Interrupted by Ctrl-C, after draining and writing.",
        "143" => "Ended by SIGTERM, after draining and writing.",
    }
    "reason" {
        "too_few_users" => "More than one arrival in a hundred waited for a free pair. A run needs at least rate times the slowest workflow pairs.",
        "lost_interval" => "An agent did not deliver every second of a hold.",
        "not_judged" => "A threshold rests on too few samples: fewer than ten above its rank, or none at all; or nobody can read it.",
        "interrupted" => "A signal ended the run before its schedule was over: nobody knows how the rest would have been.",
        "internal_error" => "Something went wrong in adsum itself, and part of what was measured may be missing. Please report it.",
        "agent_lost" => "An agent went away during the run.",
        "steal" => "The hypervisor took more than trust.steal of the cores' time in more than trust.steal_seconds of a hold's seconds. Use a host with cores of its own.",
        "no_data" => "Nothing was offered in a hold.",
    }
}

/// What a word means, whatever kind it is.
#[must_use]
pub fn explain(word: &str) -> Vec<&'static Entry> {
    ENTRIES.iter().filter(|entry| entry.word == word).collect()
}
