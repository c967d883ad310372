//! Users, a wire of connections and the pool's core, in virtual time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use adsum_pool::PoolConfig;
use adsum_pool::config::{Chance, Dialect as Spoken, LyncConfig};
use adsum_pool::core::{Core, Out, Peer};
use adsum_presence::Contacts;
use adsum_presence::accounts::{Accounts, Pattern, Row};
use adsum_presence::host::{
    Class, Counter, Failure, Flow, FlowError, FlowEvent, Hop, Host, Measure, Method, Opened, Origin, Phase,
    Redirect, Sample, Sent, Stage,
};
use adsum_presence::lync::{LyncAuth, LyncOptions, NtlmOptions};
use adsum_presence::population::{Config, Dialect, Kind, Population, Transport};
use adsum_sip::ids::Namespace;
use adsum_sip::{Scanner, Time};

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;
/// 2026-01-05T10:00:00Z.
pub const NOON_MS: u64 = 1_767_607_200_000;
/// The same as FILETIME.
pub const NOON: u64 = (NOON_MS + 11_644_473_600_000) * 10_000;
pub const HOLD: Stage = Stage { step: 1, phase: Phase::Hold };

/// What happens to a connection besides its bytes.
#[derive(Debug)]
pub enum Event {
    Open(u64),
    ToPool(u64, Vec<u8>),
    ToUser(u64, Vec<u8>),
    Broken(u64),
}

/// Connections by number; a user has at most one.
pub struct Wire {
    pub chance: Chance,
    /// Share of messages behind which a connection breaks.
    pub breaks: f64,
    pub events: BTreeMap<(Time, u64), Event>,
    pub sequence: u64,
    /// The number of a user's connection, and when its latest bytes arrive, each way.
    pub connections: HashMap<u32, u64>,
    pub users: HashMap<u64, u32>,
    pub latest: HashMap<u64, (Time, Time)>,
    pub number: u64,
}

impl Wire {
    fn put(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    /// Between 1 and 20 ms; on one connection and in one direction nothing overtakes.
    fn write(&mut self, now: Time, connection: u64, to_pool: bool, bytes: &[u8]) {
        let at = now + MS + self.chance.bits() % (19 * MS);
        let latest = self.latest.entry(connection).or_default();
        let latest = if to_pool { &mut latest.0 } else { &mut latest.1 };
        *latest = at.max(*latest);
        let at = *latest;
        let bytes = bytes.to_vec();
        self.put(
            at,
            if to_pool { Event::ToPool(connection, bytes) } else { Event::ToUser(connection, bytes) },
        );
        if self.chance.hit(self.breaks) {
            self.put(at, Event::Broken(connection));
        }
    }

    fn open(&mut self, now: Time, user: u32) {
        self.number += 1;
        let number = self.number;
        self.connections.insert(user, number);
        self.users.insert(number, user);
        self.put(now + MS, Event::Open(number));
    }

    /// Both ends forget it.
    fn end(&mut self, user: u32) -> Option<u64> {
        let number = self.connections.remove(&user)?;
        self.users.remove(&number);
        self.latest.remove(&number);
        Some(number)
    }
}

pub struct Users {
    pub now: Time,
    pub wire: Wire,
    /// Connections that the users closed, for the pool to hear of.
    pub closed: VecDeque<u64>,
    pub counts: HashMap<Counter, u64>,
    pub samples: HashMap<Measure, Vec<u64>>,
    pub censored: HashMap<Measure, u64>,
    pub failures: Vec<String>,
    pub keep_alives: u64,
    pub methods: HashMap<(Method, bool), u64>,
    pub redirects: u64,
}

impl Users {
    pub fn of(&self, counter: Counter) -> u64 {
        self.counts.get(&counter).copied().unwrap_or(0)
    }

    pub fn sampled(&self, measure: Measure) -> u64 {
        self.samples.get(&measure).map_or(0, |s| s.len() as u64)
    }
}

impl Host for Users {
    fn open(&mut self, now: Time, user: u32) -> Opened {
        assert!(!self.wire.connections.contains_key(&user), "a user has one connection");
        self.wire.open(now, user);
        Opened::Connecting(user)
    }
    fn close(&mut self, user: u32, flow: Flow) {
        assert_eq!(user, flow);
        self.closed.extend(self.wire.end(user));
    }
    fn send(&mut self, _: u32, flow: Flow, hop: Hop, bytes: &[u8]) -> Sent {
        assert_eq!(hop, Hop::Target);
        let Some(number) = self.wire.connections.get(&flow).copied() else { return Sent::Gone(self.now) };
        if bytes == b"\r\n\r\n" {
            self.keep_alives += 1;
        } else {
            self.wire.write(self.now, number, true, bytes);
        }
        Sent::At(self.now)
    }
    fn reply(&mut self, flow: Flow, _: Origin, bytes: &[u8]) -> Sent {
        self.send(0, flow, Hop::Target, bytes)
    }
    fn write_local(&self, flow: Flow, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("127.0.0.1:{}", 10_000 + flow).as_bytes());
    }
    fn hop(&mut self, _: Flow, _: &[u8]) -> Hop {
        unreachable!("a stream leads where it leads")
    }
    fn redirect(&mut self, now: Time, user: u32, uri: &[u8]) -> Redirect {
        self.redirects += 1;
        assert!(uri.starts_with(b"sip:127.0.0.2:"), "{}", String::from_utf8_lossy(uri));
        self.closed.extend(self.wire.end(user));
        self.wire.open(now, user);
        Redirect::To(Opened::Connecting(user))
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
    fn message_sent(&mut self, method: Method, code: u16, _: bool) {
        *self.methods.entry((method, code > 0)).or_default() += 1;
    }
    fn message_received(&mut self, method: Method, code: u16, _: bool) {
        *self.methods.entry((method, code > 0)).or_default() += 1;
    }
    fn failed(&mut self, f: &Failure<'_>) {
        self.failures.push(format!(
            "{} {} {} | {}",
            f.activity.name(),
            f.code,
            String::from_utf8_lossy(f.reason),
            String::from_utf8_lossy(f.diagnosis)
        ));
    }
}

pub struct Setup {
    pub seed: u64,
    pub kind: Kind,
    pub pairs: u32,
    pub breaks: f64,
    pub auth: LyncAuth,
    pub contacts: Option<Contacts>,
    pub rows: bool,
    /// What passwords begin with, where there are rows.
    pub password: &'static str,
    pub pool: PoolConfig,
}

impl Setup {
    pub fn new(seed: u64, kind: Kind, pairs: u32) -> Setup {
        let ntlm = NtlmOptions { verify: true, workstation: "LOADGEN".to_owned(), filetime: NOON };
        Setup {
            seed,
            kind,
            pairs,
            breaks: 0.0,
            auth: LyncAuth::Ntlm(ntlm),
            contacts: None,
            rows: false,
            password: "pw-",
            pool: PoolConfig { dialect: Spoken::Lync, ..PoolConfig::default() },
        }
    }

    pub fn knobs(mut self, change: impl FnOnce(&mut PoolConfig)) -> Setup {
        change(&mut self.pool);
        self
    }

    pub fn lync(mut self, change: impl FnOnce(&mut LyncConfig)) -> Setup {
        change(&mut self.pool.lync);
        self
    }
}

pub struct World {
    pub population: Population,
    pub users: Users,
    pub pool: Core,
    pub server: SocketAddr,
}

pub fn peer(number: u64) -> Peer {
    Peer::Stream(number, SocketAddr::from(([127, 0, 0, 1], 20_000 + number as u16 % 40_000)), false)
}

impl World {
    pub fn new(setup: Setup) -> World {
        let Setup { seed, kind, pairs, breaks, auth, contacts, rows, password, pool } = setup;
        let server = SocketAddr::from(([127, 0, 0, 1], 5060));
        let config = Config {
            namespace: Namespace { run: 9, shard: 1, key: seed },
            transport: Transport::Tcp,
            kind,
            reuse_nonce: true,
            self_subscribe: true,
            expires: 600,
            publish_expires: 600,
            deadline: 25 * SECOND,
            dialect: Dialect::Lync(LyncOptions { auth, ..LyncOptions::default() }),
        };
        let row = |n: u32| Row {
            uri: format!("sip:user{n:06}@pool.test").into(),
            password: format!("{password}user{n:06}").into(),
            ..Row::default()
        };
        let accounts = if rows {
            Accounts::Rows { rows: (1..=pairs * 2).map(row).collect(), pairs: (0..pairs).collect() }
        } else {
            Accounts::Pattern {
                uri: Pattern::parse("sip:user{n:06}@pool.test").unwrap(),
                auth_user: None,
                password: Pattern::parse("pw-user{n:06}").unwrap(),
                pairs: (0..pairs).collect(),
            }
        };
        let contacts = contacts.unwrap_or(Contacts::Pairs(pairs));
        let mut core = Core::new(PoolConfig { users: pairs * 2, seed, ..pool }, server);
        core.set_clock(Time(0), NOON_MS);
        World {
            population: Population::with_contacts(config, Rc::new(accounts), contacts, Time(0)).unwrap(),
            users: Users {
                now: Time(0),
                wire: Wire {
                    chance: Chance::new(seed),
                    breaks,
                    events: BTreeMap::new(),
                    sequence: 0,
                    connections: HashMap::new(),
                    users: HashMap::new(),
                    latest: HashMap::new(),
                    number: 0,
                },
                closed: VecDeque::new(),
                counts: HashMap::new(),
                samples: HashMap::new(),
                censored: HashMap::new(),
                failures: Vec::new(),
                keep_alives: 0,
                methods: HashMap::new(),
                redirects: 0,
            },
            pool: core,
            server,
        }
    }

    pub fn next(&self) -> Time {
        let first = self.users.wire.events.keys().next().map_or(Time::NEVER, |key| key.0);
        first.min(self.population.next_timer()).min(self.pool.next_timer())
    }

    pub fn advance(&mut self, until: Time) {
        loop {
            let now = self.next().max(self.users.now);
            if now > until {
                self.users.now = until;
                return;
            }
            self.users.now = now;
            let mut outs = Vec::new();
            while let Some(entry) = self.users.wire.events.first_entry().filter(|e| e.key().0 <= now) {
                let event = entry.remove();
                self.happen(now, event, &mut outs);
            }
            self.pool.expire(now, &mut outs);
            while let Some(number) = self.users.closed.pop_front() {
                self.pool.disconnected(now, peer(number), &mut outs);
            }
            for out in outs {
                let Peer::Stream(number, ..) = out.peer else { panic!("a datagram") };
                if self.users.wire.users.contains_key(&number) {
                    self.users.wire.write(now.max(out.at), number, false, &out.bytes);
                }
            }
            self.population.on_timer(now, &mut self.users);
        }
    }

    pub fn happen(&mut self, now: Time, event: Event, outs: &mut Vec<Out>) {
        let mut scanner = Scanner::new();
        match event {
            Event::ToPool(number, bytes) => self.pool.handle(now, peer(number), &bytes, outs),
            Event::ToUser(number, bytes) => {
                let Some(user) = self.users.wire.users.get(&number).copied() else { return };
                let message = scanner.scan(&bytes).unwrap();
                let origin = Origin { from: self.server, foreign: false };
                self.population.on_message(now, now, user, origin, &message, &mut self.users);
            }
            Event::Open(number) => {
                let Some(user) = self.users.wire.users.get(&number).copied() else { return };
                self.population.on_flow(now, user, FlowEvent::Open(now), &mut self.users);
            }
            Event::Broken(number) => {
                let Some(user) = self.users.wire.users.get(&number).copied() else { return };
                self.users.wire.end(user);
                self.pool.disconnected(now, peer(number), outs);
                let error = FlowError {
                    class: Class::Network,
                    code: "transport:closed",
                    reason: "broken".to_owned(),
                    diagnosis: String::new(),
                };
                self.population.on_flow(now, user, FlowEvent::Closed(error), &mut self.users);
            }
        }
    }

    pub fn sign_on_all(&mut self) {
        for user in 0..self.population.users() {
            let now = self.users.now;
            assert!(self.population.sign_on(now, user, now, Stage::WARMUP, &mut self.users));
        }
        self.advance(self.users.now + 60 * SECOND);
    }

    pub fn subscribe_all(&mut self) {
        for edge in 0..self.population.contacts().edges() {
            let now = self.users.now;
            self.population.subscribe(now, edge, now, Stage::WARMUP, &mut self.users);
        }
        self.advance(self.users.now + 60 * SECOND);
    }

    pub fn sign_off_all(&mut self) {
        for user in (0..self.population.users()).rev() {
            let now = self.users.now;
            self.population.sign_off(now, user, HOLD, &mut self.users);
        }
        self.advance(self.users.now + 400 * SECOND);
        let users = self.population.users();
        assert!((0..users).all(|user| self.population.is_gone(user)));
        self.nothing_is_left();
    }

    pub fn nothing_is_left(&self) {
        let tally = self.population.tally();
        assert_eq!((tally.workflows, tally.requests, tally.publications), (0, 0, 0), "{tally:?}");
        assert_eq!((tally.registered, tally.subscribed, tally.waiting), (0, 0, 0), "{tally:?}");
        assert_eq!(self.population.timers(), 0);
        assert!(self.users.wire.connections.is_empty());
        expectations_balance(&self.users);
    }

    pub fn pool_is_empty(&self) {
        let stats = self.pool.stats();
        assert_eq!((stats.registrations, stats.subscriptions, stats.watches), (0, 0, 0), "{stats:?}");
    }
}

pub fn expectations_balance(users: &Users) {
    let met = users.of(Counter::Delivered) + users.of(Counter::Superseded);
    let void = users.of(Counter::VoidPublishFailed) + users.of(Counter::VoidInterrupted);
    assert_eq!(users.of(Counter::Expected), met + users.of(Counter::Missed) + void);
    assert_eq!(users.sampled(Measure::PublishToNotify), met);
    assert_eq!(
        users.censored.get(&Measure::PublishToNotify).copied().unwrap_or(0),
        users.of(Counter::Missed)
    );
}
