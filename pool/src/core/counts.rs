//! What the pool counts: plain arrays while it runs, names at the end.

use std::collections::BTreeMap;
use std::fmt;

/// Methods that are counted by name; all others share the last row, so that
/// invented ones cannot make the table grow.
const METHODS: [&str; 15] = [
    "REGISTER",
    "SUBSCRIBE",
    "PUBLISH",
    "NOTIFY",
    "OPTIONS",
    "ACK",
    "BYE",
    "CANCEL",
    "INFO",
    "INVITE",
    "MESSAGE",
    "REFER",
    "SERVICE",
    "BENOTIFY",
    "(other)",
];
/// Row of NOTIFY.
pub(super) const NOTIFY: usize = 3;
/// Row of BENOTIFY.
pub(super) const BENOTIFY: usize = 13;
/// Codes 0 (a request) to 699.
const CODES: usize = 700;

/// The row of a method.
pub(super) fn row(method: &[u8]) -> usize {
    METHODS.iter().position(|name| name.as_bytes() == method).unwrap_or(METHODS.len() - 1)
}

/// A counter for each method and code.
#[derive(Debug, Clone)]
pub(super) struct Table(Vec<u64>);

impl Table {
    pub(super) fn new() -> Self {
        Table(vec![0; METHODS.len() * CODES])
    }

    /// Counts a message; code 0 is a request.
    #[inline]
    pub(super) fn count(&mut self, row: usize, code: u16) {
        let code = usize::from(code).min(CODES - 1); // the scanner reads 100 to 699
        self.0[row * CODES + code] += 1;
    }

    /// Adds what another one counted.
    pub(super) fn add(&mut self, other: &Table) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a += b);
    }

    fn named(&self) -> BTreeMap<String, u64> {
        let used = self.0.iter().enumerate().filter(|(_, n)| **n > 0);
        used.map(|(at, n)| {
            let (method, code) = (METHODS[at / CODES], at % CODES);
            (if code == 0 { method.to_owned() } else { format!("{method} {code}") }, *n)
        })
        .collect()
    }
}

/// What a pool counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// By method and code: `PUBLISH`, `PUBLISH 200`; copies that came again included.
    pub received: BTreeMap<String, u64>,
    /// The same, retransmissions included.
    pub sent: BTreeMap<String, u64>,
    /// Requests that came again and were answered from memory, or absorbed while
    /// their answer was not due (RFC 3261 §17.2.2).
    pub retransmitted: u64,
    /// Messages that are no SIP, or that nobody could answer.
    pub malformed: u64,
    /// Requests that a bound refused.
    pub refused: u64,
    /// Answers that were forgotten before 64·T1 because of their bound.
    pub answers_forgotten: u64,
    /// NOTIFYs that were sent once and not watched because of a bound.
    pub unwatched_notifies: u64,
    /// Subscriptions that ended because nobody answered their NOTIFY, or because
    /// the answer ended them (RFC 6665 §4.2.2).
    pub lost_subscriptions: u64,
    /// Registrations now.
    pub registrations: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// Publications now.
    pub publications: u64,
    /// Bytes of their documents.
    pub document_bytes: u64,
    /// NOTIFYs that were lost on purpose.
    pub lost_notifies: u64,
    /// Datagrams that were lost on purpose, coming in.
    pub dropped_in: u64,
    /// Datagrams that were lost on purpose, going out.
    pub dropped_out: u64,
    /// Datagrams that were sent twice on purpose.
    pub duplicated: u64,
    /// Datagrams that were held back on purpose.
    pub reordered: u64,
    /// Messages that the kernel refused or whose connection is gone.
    pub not_sent: u64,
    /// Connections that were refused because there are too many.
    pub connections_refused: u64,
    /// Times that no connection could be taken, as when no file descriptor is left; tried again after 10 ms.
    pub accept_errors: u64,
    /// Connections that were closed because their peer does not read.
    pub connections_stuck: u64,
    /// Times that everything was frozen on purpose.
    pub stalls: u64,
    /// `lync`: publishers that are watched in all subscriptions.
    pub watches: u64,
    /// `lync`: security associations that were made.
    pub associations: u64,
    /// `lync`: security associations and unfinished handshakes now.
    pub associations_now: u64,
    /// `lync`: security associations that made room for others: too many, or too many of one connection.
    pub associations_evicted: u64,
    /// `lync`: requests that were challenged because they carried no proof.
    pub challenged: u64,
    /// `lync`: wrong passwords, unknown accounts, broken tokens.
    pub wrong_credentials: u64,
    /// `lync`: requests and answers whose signature was wrong or a repetition.
    pub bad_signatures: u64,
    /// `lync`: connections that were not challenged because of their certificate.
    pub trusted_connections: u64,
    /// `lync`: endpoints whose connection went away before they signed off.
    pub lost_endpoints: u64,
    /// `lync`: publications that were answered 409, those on purpose included.
    pub conflicts: u64,
    /// `lync`: the same, on purpose only.
    pub conflicts_on_purpose: u64,
    /// `lync`: messages that were signed wrongly on purpose.
    pub wrong_signatures: u64,
    /// `lync`: REGISTERs that were sent elsewhere on purpose.
    pub redirected: u64,
    /// `lync`: endpoints that were signed off on purpose.
    pub deregistered: u64,
    /// `lync`: publishers whose watchers were told to subscribe anew on purpose.
    pub resubscribes: u64,
    /// Own timing errors above 250 µs.
    pub timing_errors: u64,
    /// The largest own timing error, in microseconds.
    pub timing_error_max_us: u64,
}

impl Stats {
    pub(super) fn named(&self, received: &Table, sent: &Table) -> Stats {
        Stats { received: received.named(), sent: sent.named(), ..self.clone() }
    }

    /// Adds what the `lync` side counted.
    pub(super) fn add(&mut self, lync: &Stats) {
        self.malformed += lync.malformed;
        self.refused += lync.refused;
        self.lost_subscriptions += lync.lost_subscriptions;
        self.registrations += lync.registrations;
        self.subscriptions += lync.subscriptions;
        self.publications += lync.publications;
        self.document_bytes += lync.document_bytes;
        self.lost_notifies += lync.lost_notifies;
        self.watches += lync.watches;
        self.associations += lync.associations;
        self.associations_now += lync.associations_now;
        self.associations_evicted += lync.associations_evicted;
        self.challenged += lync.challenged;
        self.wrong_credentials += lync.wrong_credentials;
        self.bad_signatures += lync.bad_signatures;
        self.trusted_connections += lync.trusted_connections;
        self.lost_endpoints += lync.lost_endpoints;
        self.conflicts += lync.conflicts;
        self.conflicts_on_purpose += lync.conflicts_on_purpose;
        self.wrong_signatures += lync.wrong_signatures;
        self.redirected += lync.redirected;
        self.deregistered += lync.deregistered;
        self.resubscribes += lync.resubscribes;
    }
}

/// As `adsum pool` prints it at its end: what was received, what was sent, and
/// every counter that is not zero; the timing errors always.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, counts) in [("received", &self.received), ("sent", &self.sent)] {
            let words: Vec<String> = counts.iter().map(|(label, n)| format!("{label} x{n}")).collect();
            writeln!(f, "{kind}: {}", words.join(", "))?;
        }
        let counters = [
            ("retransmitted", self.retransmitted),
            ("malformed", self.malformed),
            ("refused", self.refused),
            ("answers forgotten", self.answers_forgotten),
            ("unwatched notifies", self.unwatched_notifies),
            ("lost subscriptions", self.lost_subscriptions),
            ("notifies lost on purpose", self.lost_notifies),
            ("dropped in", self.dropped_in),
            ("dropped out", self.dropped_out),
            ("duplicated", self.duplicated),
            ("reordered", self.reordered),
            ("not sent", self.not_sent),
            ("connections refused", self.connections_refused),
            ("accept errors", self.accept_errors),
            ("connections stuck", self.connections_stuck),
            ("stalls", self.stalls),
            ("associations", self.associations),
            ("associations evicted", self.associations_evicted),
            ("challenged", self.challenged),
            ("wrong credentials", self.wrong_credentials),
            ("bad signatures", self.bad_signatures),
            ("trusted connections", self.trusted_connections),
            ("endpoints lost", self.lost_endpoints),
            ("conflicts", self.conflicts),
            ("conflicts on purpose", self.conflicts_on_purpose),
            ("signed wrongly on purpose", self.wrong_signatures),
            ("redirected on purpose", self.redirected),
            ("signed off on purpose", self.deregistered),
            ("sent to subscribe anew on purpose", self.resubscribes),
            ("registrations left", self.registrations),
            ("subscriptions left", self.subscriptions),
            ("associations left", self.associations_now),
            ("watches left", self.watches),
            ("publications left", self.publications),
        ];
        for (name, n) in counters.iter().filter(|(_, n)| *n > 0) {
            write!(f, "{name} {n}, ")?;
        }
        write!(f, "late by more than 250 us: {}", self.timing_errors)?;
        if self.timing_errors > 0 {
            write!(f, " (at most {} us)", self.timing_error_max_us)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_methods_have_names_and_others_share_one() {
        let (mut received, sent) = (Table::new(), Table::new());
        received.count(row(b"PUBLISH"), 0);
        received.count(NOTIFY, 481);
        received.count(row(b"FOO"), 0);
        received.count(row(b"BAR"), 0);
        received.count(row(b"REFER"), 9_999);
        let stats = Stats::default().named(&received, &sent);
        let expected = [("(other)", 2), ("NOTIFY 481", 1), ("PUBLISH", 1), ("REFER 699", 1)]
            .map(|(l, n)| (l.to_owned(), n));
        assert_eq!(stats.received, BTreeMap::from(expected));
        assert!(stats.to_string().contains("NOTIFY 481 x1"), "{stats}");
        assert!(stats.to_string().ends_with("late by more than 250 us: 0"), "{stats}");
    }
}
