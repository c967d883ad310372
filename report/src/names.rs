//! The words of the files: metrics, bases, phases, classes.

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant),+
        }
        impl $name {
            /// All of them, in the order of the files.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word in files.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            /// Reads the word.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$variant),)+ _ => None }
            }
        }
    };
}

words! {
    /// A latency. Each starts at the first transmission of the first request of its
    /// activity (`sent`) or when that was intended (`scheduled`); successes only.
    Metric {
        /// Until a connection is usable; UDP has none.
        Connect = "connect",
        /// Until the 2xx with our Contact (the registration request delay of RFC 6076).
        Register = "register",
        /// Until the later of 2xx and first NOTIFY.
        SelfSubscribe = "self_subscribe",
        /// Until the 2xx.
        Subscribe = "subscribe",
        /// Until the first active NOTIFY of the dialog.
        SubscribeToNotify = "subscribe_to_notify",
        /// Until the 2xx with an entity tag.
        Publish = "publish",
        /// Until the NOTIFY with this or a later marker in the subscriber's dialog.
        PublishToNotify = "publish_to_notify",
        /// Until the publication's last expectation is met.
        NotifyFanoutLast = "notify_fanout_last",
        /// Until the later of 2xx and the terminating NOTIFY.
        Unsubscribe = "unsubscribe",
        /// Until the 2xx.
        Unregister = "unregister",
        /// From the arrival to the notification.
        Workflow = "workflow",
        /// From the loss of something that a held user had until it has everything again.
        Recovery = "recovery",
        /// How late the engine itself was: due to sent.
        SendLag = "send_lag",
    }
}

words! {
    /// From where a latency counts.
    Base {
        /// From the intended instant: no coordinated omission.
        Scheduled = "scheduled",
        /// From the instant just before the first byte left.
        Sent = "sent",
        /// For what has no base.
        None = "",
    }
}

words! {
    /// A part of a step.
    Phase {
        /// Before the first step.
        Warmup = "warmup",
        /// The rate changes.
        Ramp = "ramp",
        /// The rate stands: what statistics are made of.
        Hold = "hold",
        /// After the last step.
        Drain = "drain",
    }
}

words! {
    /// Who has to act on a failure.
    Class {
        /// The pool.
        Pool = "pool",
        /// Accounts, names, permissions.
        Configuration = "configuration",
        /// The engine or its host.
        Generator = "generator",
        /// What lies between.
        Network = "network",
    }
}

words! {
    /// A reason not to believe a run.
    Cause {
        /// The engine itself was late.
        SendLag = "send_lag",
        /// An engine's loop did not run for too long.
        LoopGap = "loop_gap",
        /// A shard's thread ran nearly all the time.
        ShardBusy = "shard_busy",
        /// The hypervisor took the cores away.
        Steal = "steal",
        /// A hold without arrivals.
        NoData = "no_data",
        /// Arrivals that the engine came to too late.
        NotStarted = "not_started",
        /// Arrivals waited for a free pair.
        TooFewUsers = "too_few_users",
        /// The kernel dropped datagrams that had come.
        RxDropped = "rx_dropped",
        /// Latencies beyond an hour.
        Overflow = "overflow",
        /// The wall clock jumped.
        ClockStep = "clock_step",
        /// No file descriptors were left.
        OutOfFiles = "out_of_files",
        /// No local ports were left.
        OutOfPorts = "out_of_ports",
        /// An agent did not deliver every second.
        LostInterval = "lost_interval",
        /// A threshold rests on too few samples, or nobody can read it.
        NotJudged = "not_judged",
        /// An agent went away.
        AgentLost = "agent_lost",
        /// A signal ended the run before its schedule was over.
        Interrupted = "interrupted",
        /// A mistake of adsum itself.
        InternalError = "internal_error",
    }
}

impl Cause {
    /// What to do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Cause::SendLag => {
                "the engine itself was late: keep cores free for it (taskset -c), give it real-time priority \
                 (adsum agent --realtime auto), lower the rate, or use more agents"
            }
            Cause::LoopGap => {
                "the engine did not run for that long: something stopped it or took its core away; keep cores \
                 free for it (taskset -c), give it real-time priority (adsum agent --realtime auto), and look at \
                 adsum selftest --quick"
            }
            Cause::ShardBusy => {
                "messages waited for the engine: use more threads (--shards) or more agents (--agents, or further \
                 hosts with adsum agent), or lower the rate"
            }
            Cause::Steal => {
                "the hypervisor gave this host's cores to others: use a host with cores of its own \
                 (dedicated vCPUs); vmstat 1 shows it in the column st"
            }
            Cause::NoData => "the hold did not take place",
            Cause::NotStarted => {
                "the engine could not start them in time: lower the rate, raise a ceiling (safety.max_rate, \
                 adsum agent --max-rate), or use more agents"
            }
            Cause::TooFewUsers => {
                "a run needs at least as many pairs as rate times the slowest workflow: give more users \
                 (--users, users.count)"
            }
            Cause::RxDropped => {
                "datagrams were lost in this host's receive buffer: sysctl -w net.core.rmem_max=8388608, or use \
                 more threads (--shards) or agents (--agents)"
            }
            Cause::Overflow => {
                "latencies beyond an hour do not fit the histograms: shorten workload.deadline"
            }
            Cause::ClockStep => {
                "the wall clock jumped: stop whatever sets it during a run (timedatectl set-ntp false), or let \
                 it slew (chronyd without makestep)"
            }
            Cause::OutOfFiles => {
                "connections were not made for want of file descriptors: raise the hard limit (ulimit -Hn \
                 1048576 as root, LimitNOFILE=1048576 in a unit), or use more agents"
            }
            Cause::OutOfPorts => {
                "connections were not made for want of local ports: give more addresses with pool.source, or \
                 sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\""
            }
            Cause::LostInterval => {
                "an agent was lost or stopped: its part of the load and of the results is missing; look \
                 at its log, and whether the host ended it (dmesg, journalctl)"
            }
            Cause::NotJudged => {
                "make the hold longer or the rate higher, or ask for a lower percentile, or for what this run \
                 and its sites measure"
            }
            Cause::Interrupted => {
                "what was measured until then is in the files; let it run to its end for a verdict"
            }
            Cause::InternalError => {
                "part of what was measured may be missing: please report it, with the log of the agent"
            }
            Cause::AgentLost => {
                "what it had sent is in the results; its share of the load is missing from then on"
            }
        }
    }
}

/// Seconds after which an unanswered activity is censored (RFC 3261 timer F, RFC 6665 timer N).
pub const TRANSACTION_LIMIT_S: u64 = 32;

impl Metric {
    /// The limit after which it is censored, in seconds: the scenario's
    /// deadline for notifications, 32 s for the rest, none for the send lag.
    #[must_use]
    pub fn limit_s(self, deadline_s: f64) -> Option<f64> {
        match self {
            Metric::PublishToNotify | Metric::NotifyFanoutLast => Some(deadline_s),
            Metric::SendLag | Metric::Workflow | Metric::Recovery => None,
            _ => Some(TRANSACTION_LIMIT_S as f64),
        }
    }

    /// True if it is the latency of an activity, whose failures have its name in `failures.csv`.
    #[must_use]
    pub fn is_activity(self) -> bool {
        matches!(
            self,
            Metric::Connect
                | Metric::Register
                | Metric::SelfSubscribe
                | Metric::Subscribe
                | Metric::Publish
                | Metric::Unsubscribe
                | Metric::Unregister
        )
    }

    /// Where a rank among those that never came lies, for people: `> 25 s`, or `never` without a limit.
    #[must_use]
    pub fn beyond(self, deadline_s: f64) -> String {
        self.limit_s(deadline_s).map_or_else(|| "never".to_owned(), |limit| format!("> {limit} s"))
    }

    /// The same as a cell of a file, with the relation `gt`: the limit, or `inf`.
    #[must_use]
    pub fn beyond_cell(self, deadline_s: f64) -> String {
        self.limit_s(deadline_s).map_or_else(|| "inf".to_owned(), |limit| format!("{limit:.6}"))
    }

    /// The bases that it is recorded in.
    #[must_use]
    pub fn bases(self) -> &'static [Base] {
        if self == Metric::SendLag { &[Base::None] } else { &[Base::Scheduled, Base::Sent] }
    }
}
