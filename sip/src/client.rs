//! Client transactions (RFC 3261 §17.1, RFC 6026 §7.2) as plain values of 32 bytes.
//!
//! A transaction knows nothing of messages: the owner keeps the bytes to
//! retransmit, tells it what came in and what time it is, and does what it
//! says. So one million of them fit into a slab, and an hour of them runs in a
//! test within a second.
//!
//! | timer | value | here |
//! | --- | --- | --- |
//! | A | T1, doubling | INVITE again, unreliable transports |
//! | B, F | 64·T1 | nobody answered, all transports |
//! | D | 64·T1, 0 over a stream | absorbs non-2xx answers to INVITE |
//! | E | T1, doubling to T2; T2 after a 1xx | other requests again, unreliable transports |
//! | K | T4, 0 over a stream | absorbs answers to other requests |
//! | M | 64·T1, all transports | passes 2xx answers to INVITE on |

use crate::time::{T1, T2, T4, TIMEOUT, Time};

/// INVITE transactions retransmit without the T2 cap and wait for an ACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// RFC 3261 §17.1.1.
    Invite,
    /// RFC 3261 §17.1.2: everything a presence user sends.
    NonInvite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Trying,
    Proceeding,
    Completed,
    /// INVITE after a 2xx (RFC 6026 §7.2).
    Accepted,
    Terminated,
}

/// What the owner does about a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnResponse {
    /// 1xx: pass it on if anybody cares.
    Provisional,
    /// The one final response of this transaction.
    Final,
    /// A final non-2xx to INVITE: as [`OnResponse::Final`], and send the ACK.
    FinalAck,
    /// A final response again. After a non-2xx to INVITE the ACK is repeated; a
    /// further 2xx to INVITE, of this or another fork, goes to the user, who
    /// ACKs it himself (RFC 6026 §7.2).
    Repeated,
    /// Nobody's: after the end, or what cannot follow the final response.
    Stray,
}

/// What the owner does when the timer fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTimer {
    /// Not due: look at [`ClientTransaction::next`] again.
    Wait,
    /// Send the same bytes again.
    Retransmit,
    /// Timer B or F: nobody answered within 64·T1. The transaction is over.
    TimedOut,
    /// Timer D, K or M: it absorbed what it had to. The slot is free.
    Terminated,
}

/// One client transaction.
#[derive(Debug, Clone, Copy)]
pub struct ClientTransaction {
    /// Next retransmission, or the end of `Completed` or `Accepted`.
    next: Time,
    /// Timer B or F.
    deadline: Time,
    /// Interval to the retransmission after `next`, in nanoseconds.
    interval: u64,
    state: State,
    method: Method,
    reliable: bool,
}

impl ClientTransaction {
    /// A transaction whose request is written at `sent`.
    #[must_use]
    pub fn new(method: Method, reliable: bool, sent: Time) -> Self {
        ClientTransaction {
            next: if reliable { Time::NEVER } else { sent + T1 },
            deadline: sent + TIMEOUT,
            interval: T1,
            state: State::Trying,
            method,
            reliable,
        }
    }

    /// The instant at which [`ClientTransaction::on_timer`] wants to be called.
    #[inline]
    #[must_use]
    pub fn next(&self) -> Time {
        match self.state {
            State::Terminated => Time::NEVER,
            State::Completed | State::Accepted => self.next,
            State::Trying | State::Proceeding => self.next.min(self.deadline),
        }
    }

    /// True until a final response, a timeout or [`ClientTransaction::abandon`].
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Trying | State::Proceeding)
    }

    /// A response with this transaction's branch and method came in.
    pub fn on_response(&mut self, now: Time, code: u16) -> OnResponse {
        match self.state {
            State::Terminated => OnResponse::Stray,
            // A 1xx that was overtaken says nothing any more. Only a non-2xx is ACKed by the
            // transaction, and only a 2xx may follow a 2xx.
            State::Completed | State::Accepted if code < 200 => OnResponse::Stray,
            State::Completed if self.method == Method::Invite && code < 300 => OnResponse::Stray,
            State::Accepted if code >= 300 => OnResponse::Stray,
            State::Completed | State::Accepted => OnResponse::Repeated,
            State::Trying | State::Proceeding if code < 200 => {
                self.state = State::Proceeding;
                match self.method {
                    // §17.1.1.2: INVITE is not retransmitted any more, and B is off.
                    Method::Invite => {
                        self.next = Time::NEVER;
                        self.deadline = Time::NEVER;
                    }
                    // §17.1.2.2: E goes on with T2; F stays.
                    Method::NonInvite => self.interval = T2,
                }
                OnResponse::Provisional
            }
            State::Trying | State::Proceeding => self.complete(now, code),
        }
    }

    fn complete(&mut self, now: Time, code: u16) -> OnResponse {
        if self.method == Method::Invite && code < 300 {
            // Timer M does not depend on the transport: forks answer over streams, too.
            self.state = State::Accepted;
            self.next = now + TIMEOUT;
            return OnResponse::Final;
        }
        // Timer D for INVITE (at least 32 s), K otherwise; both 0 over a stream.
        let linger = match (self.reliable, self.method) {
            (true, _) => 0,
            (false, Method::Invite) => TIMEOUT,
            (false, Method::NonInvite) => T4,
        };
        self.state = if linger == 0 { State::Terminated } else { State::Completed };
        self.next = now + linger;
        if self.method == Method::Invite { OnResponse::FinalAck } else { OnResponse::Final }
    }

    /// Time passed. Calling it too early does nothing.
    pub fn on_timer(&mut self, now: Time) -> OnTimer {
        match self.state {
            State::Terminated => OnTimer::Terminated,
            State::Completed | State::Accepted if now >= self.next => {
                self.state = State::Terminated;
                OnTimer::Terminated
            }
            State::Completed | State::Accepted => OnTimer::Wait,
            State::Trying | State::Proceeding if now >= self.deadline => {
                self.state = State::Terminated;
                OnTimer::TimedOut
            }
            State::Trying | State::Proceeding if now >= self.next => {
                self.interval = self.interval.saturating_mul(2);
                if self.method == Method::NonInvite {
                    // Timer E: T1, 2·T1, … capped at T2; always T2 after a 1xx.
                    self.interval = self.interval.min(T2);
                    if self.state == State::Proceeding {
                        self.interval = T2;
                    }
                }
                // From the planned instant, so that a late caller does not stretch the series;
                // but never more than one copy for a gap in which the caller slept.
                self.next = self.next + self.interval;
                if self.next <= now {
                    self.next = now + self.interval;
                }
                OnTimer::Retransmit
            }
            State::Trying | State::Proceeding => OnTimer::Wait,
        }
    }

    /// The transport failed (RFC 3261 §17.1.4), or the user is gone or gave up
    /// an INVITE that rang too long: nothing more will be sent.
    pub fn abandon(&mut self) {
        self.state = State::Terminated;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND;

    /// When the request was written if nobody answers but a 1xx after `provisional`.
    fn unanswered(method: Method, provisional: Option<u64>) -> (Vec<u64>, Time) {
        let mut transaction = ClientTransaction::new(method, false, Time(0));
        let mut sent = vec![0];
        let mut provisional = provisional.map(|ms| Time(ms * MILLISECOND));
        loop {
            let now = transaction.next();
            if let Some(at) = provisional.take_if(|at| *at <= now) {
                assert_eq!(transaction.on_response(at, 100), OnResponse::Provisional);
                continue;
            }
            match transaction.on_timer(now) {
                OnTimer::Retransmit => sent.push(now.0 / MILLISECOND),
                OnTimer::TimedOut => return (sent, now),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_transaction_takes_32_bytes() {
        assert_eq!(size_of::<ClientTransaction>(), 32);
    }

    #[test]
    fn unanswered_over_udp_sends_eleven_times_and_ends_at_32_s() {
        let sent = vec![0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500];
        assert_eq!(unanswered(Method::NonInvite, None), (sent, Time(TIMEOUT)));
    }

    #[test]
    fn after_a_provisional_the_interval_is_t2_and_the_end_stays() {
        // Timer E that is running runs out first (§17.1.2.2).
        let sent = vec![0, 500, 1500, 5500, 9500, 13500, 17500, 21500, 25500, 29500];
        assert_eq!(unanswered(Method::NonInvite, Some(700)), (sent, Time(TIMEOUT)));
    }

    #[test]
    fn an_unanswered_invite_doubles_without_a_cap_and_ends_at_32_s() {
        let sent = vec![0, 500, 1500, 3500, 7500, 15500, 31500];
        assert_eq!(unanswered(Method::Invite, None), (sent, Time(TIMEOUT)));
    }

    #[test]
    fn a_stream_never_retransmits_and_ends_at_the_final_answer() {
        let mut transaction = ClientTransaction::new(Method::NonInvite, true, Time(0));
        assert_eq!(transaction.next(), Time(TIMEOUT));
        assert_eq!(transaction.on_response(Time(1), 200), OnResponse::Final);
        assert_eq!(transaction.on_response(Time(2), 200), OnResponse::Stray);
    }

    #[test]
    fn a_provisional_stops_an_invite_for_good() {
        let mut transaction = ClientTransaction::new(Method::Invite, false, Time(0));
        assert_eq!(transaction.on_response(Time(1), 180), OnResponse::Provisional);
        assert_eq!(transaction.next(), Time::NEVER);
        assert!(transaction.is_open());
        transaction.abandon();
        assert_eq!(transaction.on_response(Time(2), 200), OnResponse::Stray);
    }

    #[test]
    fn a_refused_invite_is_acknowledged_each_time_until_timer_d() {
        let mut transaction = ClientTransaction::new(Method::Invite, false, Time(0));
        assert_eq!(transaction.on_response(Time(7), 486), OnResponse::FinalAck);
        assert_eq!(transaction.on_response(Time(8), 486), OnResponse::Repeated);
        assert_eq!(transaction.on_response(Time(8), 180), OnResponse::Stray);
        assert_eq!(transaction.on_response(Time(8), 200), OnResponse::Stray);
        assert_eq!(transaction.next(), Time(7 + TIMEOUT));
        assert_eq!(transaction.on_timer(Time(6 + TIMEOUT)), OnTimer::Wait);
        assert_eq!(transaction.on_timer(Time(7 + TIMEOUT)), OnTimer::Terminated);
        assert_eq!(transaction.on_response(Time(8 + TIMEOUT), 486), OnResponse::Stray);

        let mut stream = ClientTransaction::new(Method::Invite, true, Time(0));
        assert_eq!(stream.on_response(Time(7), 486), OnResponse::FinalAck);
        assert_eq!((stream.next(), stream.is_open()), (Time::NEVER, false));
    }

    #[test]
    fn an_accepted_invite_passes_every_2xx_on_until_timer_m() {
        for reliable in [false, true] {
            let mut transaction = ClientTransaction::new(Method::Invite, reliable, Time(0));
            assert_eq!(transaction.on_response(Time(5), 200), OnResponse::Final);
            assert!(!transaction.is_open());
            assert_eq!(transaction.on_response(Time(6), 200), OnResponse::Repeated);
            assert_eq!(transaction.on_response(Time(6), 183), OnResponse::Stray);
            assert_eq!(transaction.on_response(Time(6), 500), OnResponse::Stray);
            assert_eq!(transaction.next(), Time(5 + TIMEOUT));
            assert_eq!(transaction.on_timer(Time(5 + TIMEOUT)), OnTimer::Terminated);
            assert_eq!(transaction.on_response(Time(6 + TIMEOUT), 200), OnResponse::Stray);
        }
    }

    #[test]
    fn timer_k_is_t4() {
        let mut transaction = ClientTransaction::new(Method::NonInvite, false, Time(0));
        assert_eq!(transaction.on_response(Time(5), 404), OnResponse::Final);
        assert_eq!(transaction.on_response(Time(6), 404), OnResponse::Repeated);
        assert_eq!(transaction.next(), Time(5 + T4));
    }
}
