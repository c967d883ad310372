//! The host of users who share one datagram flow: what they send goes to a
//! carrier, everything else is counted. And a carrier that loses, doubles and
//! reorders, in virtual time.

#![allow(dead_code, reason = "each of the tests that share this uses a part of it")]

use std::collections::{BTreeMap, HashMap};

use adsum_presence::host::{
    Counter, Failure, Flow, Hop, Host, Measure, Method, Opened, Origin, Sample, Sent, Stage,
};
use adsum_sip::Time;

/// Takes what users send.
pub trait Carrier {
    fn carry(&mut self, now: Time, bytes: &[u8]);
}

/// Keeps it.
impl Carrier for Vec<Vec<u8>> {
    fn carry(&mut self, _: Time, bytes: &[u8]) {
        self.push(bytes.to_vec());
    }
}

#[derive(Debug)]
pub struct Desk<C> {
    pub now: Time,
    pub carrier: C,
    pub counts: HashMap<Counter, u64>,
    pub samples: HashMap<Measure, Vec<u64>>,
    pub censored: HashMap<Measure, u64>,
    /// Activity and code, and the reason.
    pub failures: Vec<(String, String)>,
    /// Answers to requests of the server.
    pub replies: Vec<Vec<u8>>,
    /// Method, code, and whether it came again.
    pub received: Vec<(Method, u16, bool)>,
}

impl<C: Carrier> Desk<C> {
    pub fn new(carrier: C) -> Desk<C> {
        Desk {
            now: Time(0),
            carrier,
            counts: HashMap::new(),
            samples: HashMap::new(),
            censored: HashMap::new(),
            failures: Vec::new(),
            replies: Vec::new(),
            received: Vec::new(),
        }
    }

    pub fn of(&self, counter: Counter) -> u64 {
        self.counts.get(&counter).copied().unwrap_or(0)
    }

    pub fn sampled(&self, measure: Measure) -> u64 {
        self.samples.get(&measure).map_or(0, |s| s.len() as u64)
    }
}

impl<C: Carrier> Host for Desk<C> {
    fn open(&mut self, _: Time, _: u32) -> Opened {
        Opened::Ready(0)
    }
    fn close(&mut self, _: u32, _: Flow) {}
    fn send(&mut self, _: u32, _: Flow, _: Hop, bytes: &[u8]) -> Sent {
        self.carrier.carry(self.now, bytes);
        Sent::At(self.now)
    }
    fn reply(&mut self, flow: Flow, _: Origin, bytes: &[u8]) -> Sent {
        self.replies.push(bytes.to_vec());
        self.send(0, flow, Hop::Target, bytes)
    }
    fn write_local(&self, _: Flow, out: &mut Vec<u8>) {
        out.extend_from_slice(b"127.0.0.1:4000");
    }
    fn hop(&mut self, _: Flow, _: &[u8]) -> Hop {
        Hop::Target
    }
    fn sample(&mut self, s: &Sample) {
        assert!(s.ended >= s.sent && s.sent >= s.intended, "{s:?}");
        self.samples.entry(s.measure).or_default().push(s.ended.since(s.sent));
    }
    fn censored(&mut self, measure: Measure, _: Stage, _: Time, _: Time) {
        *self.censored.entry(measure).or_default() += 1;
    }
    fn send_lag(&mut self, _: Stage, _: Time, _: Time) {}
    fn count(&mut self, _: Stage, counter: Counter, _: Time, n: u64) {
        *self.counts.entry(counter).or_default() += n;
    }
    fn message_sent(&mut self, _: Method, _: u16, _: bool) {}
    fn message_received(&mut self, method: Method, code: u16, again: bool) {
        self.received.push((method, code, again));
    }
    fn failed(&mut self, f: &Failure<'_>) {
        let what = format!("{} {}", f.activity.name(), f.code);
        self.failures.push((what, String::from_utf8_lossy(f.reason).into_owned()));
    }
}

/// Where a wire's chance comes from.
pub trait Dice {
    fn hit(&mut self, chance: f64) -> bool;
    fn below(&mut self, limit: u64) -> u64;
}

/// What is on a wire one way, by instant of arrival.
type Queue = BTreeMap<(Time, u64), Vec<u8>>;

/// A wire with faults between users and a server.
#[derive(Debug)]
pub struct LossyWire<D> {
    pub dice: D,
    loss: f64,
    doubled: f64,
    /// Shortest way, and by how much one may be longer: messages overtake one another.
    delay: (u64, u64),
    to_server: Queue,
    to_users: Queue,
    sequence: u64,
}

impl<D: Dice> LossyWire<D> {
    pub fn new(dice: D, loss: f64, doubled: f64, delay: (u64, u64)) -> LossyWire<D> {
        let (to_server, to_users) = (Queue::new(), Queue::new());
        LossyWire { dice, loss, doubled, delay, to_server, to_users, sequence: 0 }
    }

    fn put(&mut self, now: Time, to_users: bool, bytes: &[u8]) {
        for _ in 0..1 + u64::from(self.dice.hit(self.doubled)) {
            if self.dice.hit(self.loss) {
                continue;
            }
            self.sequence += 1;
            let at = now + self.delay.0 + self.dice.below(self.delay.1);
            let queue = if to_users { &mut self.to_users } else { &mut self.to_server };
            queue.insert((at, self.sequence), bytes.to_vec());
        }
    }

    /// The server sends something.
    pub fn answer(&mut self, now: Time, bytes: &[u8]) {
        self.put(now, true, bytes);
    }

    /// When the next message arrives anywhere.
    pub fn next(&self) -> Time {
        let first = |queue: &Queue| queue.keys().next().map_or(Time::NEVER, |key| key.0);
        first(&self.to_server).min(first(&self.to_users))
    }

    /// The next message that has arrived at the server.
    pub fn at_server(&mut self, now: Time) -> Option<Vec<u8>> {
        arrived(&mut self.to_server, now)
    }

    /// The next message that has arrived at the users.
    pub fn at_users(&mut self, now: Time) -> Option<Vec<u8>> {
        arrived(&mut self.to_users, now)
    }
}

fn arrived(queue: &mut Queue, now: Time) -> Option<Vec<u8>> {
    queue.first_entry().filter(|entry| entry.key().0 <= now).map(|entry| entry.remove())
}

impl<D: Dice> Carrier for LossyWire<D> {
    fn carry(&mut self, now: Time, bytes: &[u8]) {
        self.put(now, false, bytes);
    }
}
