//! Server transactions (RFC 3261 §17.2, RFC 6026 §7.1) as plain values of 32
//! bytes, and the [`Key`] that finds them (§17.2.3).
//!
//! As on the client's side, a transaction knows nothing of messages. The owner
//! makes one for a request that no key matches and passes that request up; it
//! keeps the bytes of the last response that it sent; and it asks the value
//! about everything that follows.
//!
//! | timer | value | here |
//! | --- | --- | --- |
//! | (none) | 200 ms | 100 (Trying) to an INVITE that its user does not answer |
//! | G | T1, doubling to T2 | non-2xx answer to INVITE again, unreliable transports |
//! | H | 64·T1, all transports | no ACK came |
//! | I | T4, 0 over a stream | absorbs further ACKs |
//! | J | 64·T1, 0 over a stream | repeats the answer to other requests |
//! | L | 64·T1, all transports | absorbs an INVITE that was answered with a 2xx |

use smallvec::SmallVec;

pub use crate::client::Method;
use crate::scan::{Message, Start};
use crate::time::{MILLISECOND, T1, T2, T4, TIMEOUT, Time};
use crate::{HeaderId, value};

/// An INVITE that is not answered for so long is answered with 100 (Trying),
/// to stop its retransmissions (RFC 3261 §17.2.1).
pub const TRYING_AFTER: u64 = 200 * MILLISECOND;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The user has not answered: there is nothing to repeat.
    Trying,
    /// A 1xx was sent.
    Proceeding,
    /// A final response was sent, to INVITE a non-2xx.
    Completed,
    /// INVITE: the ACK came.
    Confirmed,
    /// INVITE: a 2xx was sent (RFC 6026 §7.1).
    Accepted,
    Terminated,
}

/// What the owner does about a request that matches a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRequest {
    /// A retransmission: send the last response again, byte for byte.
    Repeat,
    /// A retransmission that needs no answer, or the ACK that was waited for.
    Absorb,
    /// An ACK to a 2xx: the user's (RFC 6026 §7.1).
    PassUp,
    /// The transaction is over: this is a new request.
    Stray,
}

/// What the owner does with a response of its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnAnswer {
    /// Send it and keep its bytes.
    Send,
    /// A response was decided on before, or the transaction is over: drop it.
    Discard,
}

/// What the owner does when the timer fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTimer {
    /// Not due: look at [`ServerTransaction::next`] again.
    Wait,
    /// The user is slow with an INVITE: send 100 (Trying) and keep its bytes.
    Trying,
    /// Timer G: send the last response again.
    Repeat,
    /// Timer H: no ACK came. The user is told; the slot is free.
    TimedOut,
    /// Timer I, J or L: it absorbed what it had to. The slot is free.
    Terminated,
}

/// One server transaction.
#[derive(Debug, Clone, Copy)]
pub struct ServerTransaction {
    /// The 100 (Trying), the next retransmission, or the end of what absorbs.
    next: Time,
    /// Timer H.
    deadline: Time,
    /// Interval to the retransmission after `next`, in nanoseconds.
    interval: u64,
    state: State,
    method: Method,
    reliable: bool,
}

impl ServerTransaction {
    /// A transaction for a request that came in at `received`, matches no other
    /// and is not an ACK. The request is the user's now.
    #[must_use]
    pub fn new(method: Method, reliable: bool, received: Time) -> Self {
        ServerTransaction {
            next: match method {
                Method::Invite => received + TRYING_AFTER,
                // RFC 4320 §4.1 forbids an early 100 here, and there is no timer
                // for a user that never answers: the owner sees to its users.
                Method::NonInvite => Time::NEVER,
            },
            deadline: Time::NEVER,
            interval: T1,
            state: State::Trying,
            method,
            reliable,
        }
    }

    /// The instant at which [`ServerTransaction::on_timer`] wants to be called.
    #[inline]
    #[must_use]
    pub fn next(&self) -> Time {
        match self.state {
            State::Terminated => Time::NEVER,
            _ => self.next.min(self.deadline),
        }
    }

    /// True until the user's final response, or the end.
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Trying | State::Proceeding)
    }

    /// True at the end: the slot is free.
    #[inline]
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }

    /// The request came again.
    #[inline]
    #[must_use]
    pub fn on_request(&self) -> OnRequest {
        match self.state {
            State::Proceeding | State::Completed => OnRequest::Repeat,
            State::Trying | State::Confirmed | State::Accepted => OnRequest::Absorb,
            State::Terminated => OnRequest::Stray,
        }
    }

    /// An ACK came whose key is that of the INVITE.
    pub fn on_ack(&mut self, now: Time) -> OnRequest {
        match (self.method, self.state) {
            (Method::NonInvite, _) | (_, State::Terminated) => OnRequest::Stray,
            (_, State::Accepted) => OnRequest::PassUp,
            (_, State::Completed) => {
                // Timer I; G and H are over.
                let linger = if self.reliable { 0 } else { T4 };
                self.state = if linger == 0 { State::Terminated } else { State::Confirmed };
                self.next = now + linger;
                self.deadline = Time::NEVER;
                OnRequest::Absorb
            }
            // Nothing was answered that could be acknowledged.
            (_, State::Trying | State::Proceeding | State::Confirmed) => OnRequest::Absorb,
        }
    }

    /// The user answers with `code`; a 2xx to INVITE it repeats itself, through
    /// here, until the ACK comes (RFC 3261 §13.3.1.4).
    pub fn on_answer(&mut self, now: Time, code: u16) -> OnAnswer {
        match self.state {
            State::Trying | State::Proceeding => {}
            State::Accepted if (200..300).contains(&code) => return OnAnswer::Send,
            _ => return OnAnswer::Discard,
        }
        match (self.method, code) {
            (_, ..=199) => {
                self.state = State::Proceeding;
                self.next = Time::NEVER;
            }
            (Method::Invite, 200..=299) => {
                self.state = State::Accepted;
                self.next = now + TIMEOUT;
            }
            (Method::Invite, _) => {
                self.state = State::Completed;
                self.next = if self.reliable { Time::NEVER } else { now + T1 };
                self.deadline = now + TIMEOUT;
            }
            (Method::NonInvite, _) => {
                self.state = if self.reliable { State::Terminated } else { State::Completed };
                self.next = now + TIMEOUT;
            }
        }
        OnAnswer::Send
    }

    /// Time passed. Calling it too early does nothing.
    pub fn on_timer(&mut self, now: Time) -> OnTimer {
        match self.state {
            State::Terminated => OnTimer::Terminated,
            _ if now < self.next() => OnTimer::Wait,
            // Nothing but the 100 is timed before the answer.
            State::Trying | State::Proceeding => {
                self.state = State::Proceeding;
                self.next = Time::NEVER;
                OnTimer::Trying
            }
            State::Completed if self.method == Method::Invite && now < self.deadline => {
                self.interval = self.interval.saturating_mul(2).min(T2);
                // From the planned instant, and one copy only, as the client does.
                self.next = self.next + self.interval;
                if self.next <= now {
                    self.next = now + self.interval;
                }
                OnTimer::Repeat
            }
            State::Completed if self.method == Method::Invite => {
                self.state = State::Terminated;
                OnTimer::TimedOut
            }
            State::Completed | State::Confirmed | State::Accepted => {
                self.state = State::Terminated;
                OnTimer::Terminated
            }
        }
    }

    /// A response could not be sent; the user is told. INVITE stays where it is,
    /// so that retransmissions are still absorbed (RFC 6026 §7.1); the others end
    /// (RFC 3261 §17.2.4).
    pub fn on_transport_error(&mut self) {
        if self.method == Method::NonInvite {
            self.state = State::Terminated;
        }
    }

    /// The user is gone: nothing more will be sent.
    pub fn abandon(&mut self) {
        self.state = State::Terminated;
    }
}

/// What a request has in common with its retransmissions and with no other
/// request, and what an ACK to a non-2xx has in common with its INVITE
/// (RFC 3261 §17.2.3).
///
/// With the magic cookie that is branch, sent-by and method. Without it, after
/// RFC 2543, it is Request-URI, From tag, Call-ID, CSeq and the topmost Via; the
/// To tag, which differs between INVITE and ACK, is [`Key::to_tag_matches`]'s.
///
/// A shard keeps one key and reads each request into it, which allocates
/// nothing once the key has grown (but for unfolding a folded Via); only what
/// goes into the table is a clone.
/// Equality is that of the bytes: nothing is left to a hash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Key {
    /// Fields with their lengths before them; case folded where it does not count.
    bytes: SmallVec<[u8; 96]>,
    old: bool,
}

/// The cookie of branches that are unique (RFC 3261 §8.1.1.7).
pub const MAGIC_COOKIE: &[u8] = b"z9hG4bK";

impl Key {
    /// The key of a request, in a value of its own.
    #[must_use]
    pub fn of(message: &Message<'_>) -> Option<Key> {
        let mut key = Key::default();
        key.read(message).then_some(key)
    }

    /// Reads the key of a request. False, and a key of nothing, if it is not a
    /// request or lacks what a key is made of: it is to be answered 400 or dropped.
    pub fn read(&mut self, message: &Message<'_>) -> bool {
        let Start::Request { method, .. } = message.start() else {
            self.clear();
            return false;
        };
        self.read_as(message, if method == b"ACK" { b"INVITE" } else { method })
    }

    /// Reads the key of the transaction that a CANCEL is for: as its own, with the
    /// method of what it cancels (RFC 3261 §9.2).
    pub fn read_as(&mut self, message: &Message<'_>, method: &[u8]) -> bool {
        self.clear();
        let read = self.fill(message, method).is_some();
        if !read {
            self.clear();
        }
        read
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.old = false;
    }

    fn fill(&mut self, message: &Message<'_>, method: &[u8]) -> Option<()> {
        let line = message.unfolded(HeaderId::Via)?;
        let top = value::via(&line)?;
        self.field(method, false);
        let branch = value::param(top.params, "branch").unwrap_or(b"");
        let cookie = branch.get(..MAGIC_COOKIE.len());
        if cookie.is_some_and(|cookie| cookie.eq_ignore_ascii_case(MAGIC_COOKIE)) {
            // Tokens and hosts compare without case (RFC 3261 §7.3.1).
            self.field(branch, true);
            self.field(top.host, true);
            self.bytes.extend_from_slice(&top.port.unwrap_or(0).to_be_bytes());
            return Some(());
        }
        self.old = true;
        let Start::Request { uri, .. } = message.start() else { return None };
        let (number, _) = message.cseq()?;
        self.field(uri, false);
        let from = message.unfolded(HeaderId::From)?;
        self.field(value::tag(&from).unwrap_or(b""), true);
        self.field(Some(message.call_id()).filter(|id| !id.is_empty())?, false);
        self.bytes.extend_from_slice(&number.to_be_bytes());
        self.field(value::list(&line).next()?, true);
        Some(())
    }

    fn field(&mut self, bytes: &[u8], fold: bool) {
        // Before each field its length, so that no two lists of fields look alike.
        self.bytes.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        if fold {
            self.bytes[begin..].make_ascii_lowercase();
        }
    }

    /// True if the branch has no magic cookie: a client after RFC 2543.
    #[must_use]
    pub fn is_rfc2543(&self) -> bool {
        self.old
    }

    /// The last condition of §17.2.3 for clients after RFC 2543, to be asked when
    /// the keys are equal: an ACK has the To tag of the response, a retransmission
    /// that of the request. With the magic cookie it is always met.
    #[must_use]
    pub fn to_tag_matches(
        &self,
        message: &Message<'_>,
        of_request: Option<&[u8]>,
        of_response: Option<&[u8]>,
    ) -> bool {
        let wanted = if message.method() == b"ACK" { of_response } else { of_request };
        !self.old || message.to_tag() == wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn retransmissions(mut transaction: ServerTransaction) -> (Vec<u64>, OnTimer, Time) {
        let mut sent = Vec::new();
        loop {
            let now = transaction.next();
            match transaction.on_timer(now) {
                OnTimer::Repeat => sent.push(now.0 / MILLISECOND),
                end => return (sent, end, now),
            }
        }
    }

    #[test]
    fn a_transaction_takes_32_bytes() {
        assert_eq!(size_of::<ServerTransaction>(), 32);
    }

    #[test]
    fn a_refusal_nobody_acknowledges_is_sent_eleven_times_until_timer_h() {
        let mut transaction = ServerTransaction::new(Method::Invite, false, Time(0));
        assert_eq!(transaction.on_answer(Time(0), 486), OnAnswer::Send);
        let sent = vec![500, 1500, 3500, 7500, 11500, 15500, 19500, 23500, 27500, 31500];
        assert_eq!(retransmissions(transaction), (sent, OnTimer::TimedOut, Time(TIMEOUT)));

        let mut stream = ServerTransaction::new(Method::Invite, true, Time(0));
        assert_eq!(stream.on_answer(Time(0), 486), OnAnswer::Send);
        assert_eq!(retransmissions(stream), (vec![], OnTimer::TimedOut, Time(TIMEOUT)));
    }

    #[test]
    fn the_ack_stops_the_refusal_and_timer_i_absorbs_its_copies() {
        let mut transaction = ServerTransaction::new(Method::Invite, false, Time(0));
        assert_eq!(transaction.on_answer(Time(0), 486), OnAnswer::Send);
        assert_eq!(transaction.on_request(), OnRequest::Repeat);
        assert_eq!(transaction.on_ack(Time(9)), OnRequest::Absorb);
        assert_eq!(transaction.on_ack(Time(10)), OnRequest::Absorb);
        assert_eq!(transaction.on_request(), OnRequest::Absorb);
        assert_eq!(transaction.on_answer(Time(10), 500), OnAnswer::Discard);
        assert_eq!(retransmissions(transaction), (vec![], OnTimer::Terminated, Time(9 + T4)));

        // Timer H that is running ends with the ACK, however late it is.
        let mut late = ServerTransaction::new(Method::Invite, false, Time(0));
        assert_eq!(late.on_answer(Time(0), 486), OnAnswer::Send);
        assert_eq!(late.on_ack(Time(TIMEOUT - 1)), OnRequest::Absorb);
        assert_eq!(retransmissions(late), (vec![], OnTimer::Terminated, Time(TIMEOUT - 1 + T4)));

        let mut stream = ServerTransaction::new(Method::Invite, true, Time(0));
        assert_eq!(stream.on_answer(Time(0), 486), OnAnswer::Send);
        assert_eq!(stream.on_ack(Time(9)), OnRequest::Absorb);
        assert!(stream.is_terminated());
    }

    #[test]
    fn an_accepted_invite_absorbs_and_leaves_2xx_and_ack_to_the_user() {
        for reliable in [false, true] {
            let mut transaction = ServerTransaction::new(Method::Invite, reliable, Time(0));
            assert_eq!(transaction.on_answer(Time(3), 200), OnAnswer::Send);
            assert_eq!(transaction.on_request(), OnRequest::Absorb);
            assert_eq!(transaction.on_answer(Time(4), 200), OnAnswer::Send);
            assert_eq!(transaction.on_answer(Time(4), 486), OnAnswer::Discard);
            assert_eq!(transaction.on_answer(Time(4), 180), OnAnswer::Discard);
            assert_eq!(transaction.on_ack(Time(5)), OnRequest::PassUp);
            transaction.on_transport_error();
            assert_eq!(retransmissions(transaction), (vec![], OnTimer::Terminated, Time(3 + TIMEOUT)));
        }
    }

    #[test]
    fn a_slow_user_gets_a_100_sent_after_200_ms() {
        let mut transaction = ServerTransaction::new(Method::Invite, false, Time(0));
        assert_eq!(transaction.on_request(), OnRequest::Absorb);
        assert_eq!(transaction.next(), Time(TRYING_AFTER));
        assert_eq!(transaction.on_timer(Time(TRYING_AFTER)), OnTimer::Trying);
        assert_eq!((transaction.on_request(), transaction.next()), (OnRequest::Repeat, Time::NEVER));

        let mut quick = ServerTransaction::new(Method::Invite, false, Time(0));
        assert_eq!(quick.on_answer(Time(1), 180), OnAnswer::Send);
        assert_eq!(quick.next(), Time::NEVER);
    }

    #[test]
    fn other_requests_repeat_their_answer_until_timer_j() {
        let mut transaction = ServerTransaction::new(Method::NonInvite, false, Time(0));
        assert_eq!((transaction.on_request(), transaction.next()), (OnRequest::Absorb, Time::NEVER));
        assert_eq!(transaction.on_answer(Time(1), 100), OnAnswer::Send);
        assert_eq!(transaction.on_request(), OnRequest::Repeat);
        assert_eq!(transaction.on_answer(Time(2), 200), OnAnswer::Send);
        assert_eq!(transaction.on_request(), OnRequest::Repeat);
        assert_eq!(transaction.on_answer(Time(3), 500), OnAnswer::Discard);
        assert_eq!(transaction.on_ack(Time(3)), OnRequest::Stray);
        assert_eq!(transaction.on_timer(Time(1 + TIMEOUT)), OnTimer::Wait);
        assert_eq!(retransmissions(transaction), (vec![], OnTimer::Terminated, Time(2 + TIMEOUT)));

        let mut stream = ServerTransaction::new(Method::NonInvite, true, Time(0));
        assert_eq!(stream.on_answer(Time(2), 200), OnAnswer::Send);
        assert_eq!((stream.on_request(), stream.next()), (OnRequest::Stray, Time::NEVER));
    }

    fn request(method: &str, via: &str, rest: &str) -> Option<Key> {
        let raw = format!(
            "{method} sip:b@h SIP/2.0\r\nVia: {via}\r\nFrom: <sip:a@h>;tag=1\r\nCall-ID: c\r\n{rest}\r\n\r\n"
        );
        Key::of(&crate::Scanner::new().scan(raw.as_bytes()).unwrap())
    }

    #[test]
    fn with_the_cookie_branch_sent_by_and_method_decide() {
        let key = |method, via| request(method, via, "To: <sip:b@h>\r\nCSeq: 1 X").unwrap();
        let invite = key("INVITE", "SIP/2.0/UDP h:5060;branch=z9hG4bKa");
        assert_eq!(invite, key("ACK", "SIP / 2.0 / UDP H:5060 ;rport; branch=z9hG4bKa, SIP/2.0/UDP x"));
        assert_eq!(invite, key("INVITE", "SIP/2.0/UDP h:5060\r\n ;branch=Z9hG4bKA"));
        for (method, via) in [
            ("CANCEL", "SIP/2.0/UDP h:5060;branch=z9hG4bKa"),
            ("invite", "SIP/2.0/UDP h:5060;branch=z9hG4bKa"),
            ("INVITE", "SIP/2.0/UDP h:5060;branch=z9hG4bKb"),
            ("INVITE", "SIP/2.0/UDP h:5061;branch=z9hG4bKa"),
            ("INVITE", "SIP/2.0/UDP h;branch=z9hG4bKa"),
            ("INVITE", "SIP/2.0/UDP g:5060;branch=z9hG4bKa"),
        ] {
            assert_ne!(invite, key(method, via), "{method} {via}");
        }
        let raw = b"CANCEL sip:b@h SIP/2.0\r\nv: SIP/2.0/UDP h:5060;branch=z9hG4bKa\r\n\r\n";
        let mut cancelled = Key::default();
        assert!(cancelled.read_as(&crate::Scanner::new().scan(raw).unwrap(), b"INVITE"));
        assert_eq!(invite, cancelled);
    }

    #[test]
    fn without_the_cookie_the_rules_of_rfc_2543_decide() {
        const VIA: &str = "SIP/2.0/UDP h:5060;branch=1";
        let invite = request("INVITE", VIA, "To: <sip:b@h>\r\nCSeq: 1 INVITE").unwrap();
        assert!(invite.is_rfc2543());
        assert_eq!(invite, request("ACK", VIA, "To: <sip:b@h>;tag=2\r\nCSeq: 1 ACK").unwrap());
        assert_ne!(invite, request("INVITE", VIA, "To: <sip:b@h>\r\nCSeq: 2 INVITE").unwrap());
        assert_ne!(invite, request("INVITE", "SIP/2.0/UDP h", "To: <sip:b@h>\r\nCSeq: 1 INVITE").unwrap());
        assert_eq!(request("INVITE", VIA, "CSeq: x"), None);
        assert_eq!(request("INVITE", "junk", "CSeq: 1 INVITE"), None);

        let raw = b"ACK sip:b@h SIP/2.0\r\nTo: <sip:b@h>;tag=2\r\n\r\n";
        let mut scanner = crate::Scanner::new();
        let ack = scanner.scan(raw).unwrap();
        assert!(invite.to_tag_matches(&ack, None, Some(b"2")));
        assert!(!invite.to_tag_matches(&ack, Some(b"2"), Some(b"3")));
    }

    #[test]
    fn reading_into_a_kept_key_finds_without_allocating() {
        let mut table = HashMap::new();
        let via = "SIP/2.0/UDP host.example:5060;branch=z9hG4bK0123456789abcdefghjkmn";
        table.insert(request("NOTIFY", via, "CSeq: 1 NOTIFY").unwrap(), 7);
        let raw = format!("NOTIFY sip:b@h SIP/2.0\r\nVia: {via}\r\n\r\n");
        let mut scanner = crate::Scanner::new();
        let mut key = Key::default();
        assert!(key.read(&scanner.scan(raw.as_bytes()).unwrap()));
        assert!(!key.bytes.spilled());
        assert_eq!(table.get(&key), Some(&7));
        assert!(!key.read(&scanner.scan(b"SIP/2.0 200 OK\r\n\r\n").unwrap()));
        assert_eq!(table.get(&key), None);
    }
}
