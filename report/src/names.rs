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
