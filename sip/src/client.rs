//! Client transactions (RFC 3261 §17.1) as plain values of 32 bytes.
//!
//! A transaction knows nothing of messages: the owner keeps the bytes to
//! retransmit, tells it what came in and what time it is, and does what it
//! says. So one million of them fit into a slab, and an hour of them runs in a
//! test within a second.

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
    /// A final response again: INVITE non-2xx answers repeat the ACK.
    Repeated,
    /// After the end: nobody's.
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
    /// Timer D or K: it absorbed what it had to. The slot is free.
    Terminated,
}

/// One client transaction.
#[derive(Debug, Clone, Copy)]
pub struct ClientTransaction {
    /// Next retransmission, or the end of `Completed`.
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
            State::Completed => self.next,
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
            State::Completed => OnResponse::Repeated,
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
            self.state = State::Terminated;
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
            State::Completed if now >= self.next => {
                self.state = State::Terminated;
                OnTimer::Terminated
            }
            State::Completed => OnTimer::Wait,
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

    /// The connection broke or the user is gone: nothing more will be sent.
    pub fn abandon(&mut self) {
        self.state = State::Terminated;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND;

    #[test]
    fn unanswered_over_udp_sends_eleven_times_and_ends_at_32_s() {
        let mut transaction = ClientTransaction::new(Method::NonInvite, false, Time(0));
        let mut sent = vec![0];
        loop {
            let now = transaction.next();
            match transaction.on_timer(now) {
                OnTimer::Retransmit => sent.push(now.0 / MILLISECOND),
                OnTimer::TimedOut => break assert_eq!(now, Time(TIMEOUT)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(sent, [0, 500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500]);
    }

    #[test]
    fn a_stream_never_retransmits_and_ends_at_the_final_answer() {
        let mut transaction = ClientTransaction::new(Method::NonInvite, true, Time(0));
        assert_eq!(transaction.next(), Time(TIMEOUT));
        assert_eq!(transaction.on_response(Time(1), 200), OnResponse::Final);
        assert_eq!(transaction.on_response(Time(2), 200), OnResponse::Stray);
    }
}
