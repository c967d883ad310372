//! Users of the `lync` dialect against the pool over connections in virtual
//! time: nothing is lost on a connection, but connections break. Whatever the
//! pool gets wrong, every workflow and every expectation ends exactly once, and
//! nothing is left behind.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use adsum_pool::PoolConfig;
use adsum_pool::config::{Chance, Dialect as Spoken, LyncConfig, LyncScheme};
use adsum_pool::core::{Core, Out, Peer};
use adsum_presence::Contacts;
use adsum_presence::accounts::{Accounts, Pattern, Row};
use adsum_presence::contacts::Graph;
use adsum_presence::host::{
    Class, Counter, Failure, Flow, FlowError, FlowEvent, Hop, Host, Measure, Method, Opened, Origin, Phase,
    Redirect, Sample, Sent, Stage,
};
use adsum_presence::lync::{LyncAuth, LyncOptions, NtlmOptions};
use adsum_presence::population::{Config, Dialect, Kind, Population, Transport};
use adsum_sip::ids::Namespace;
use adsum_sip::{Scanner, Time};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// 2026-01-05T10:00:00Z.
const NOON_MS: u64 = 1_767_607_200_000;
/// The same as FILETIME.
const NOON: u64 = (NOON_MS + 11_644_473_600_000) * 10_000;
const HOLD: Stage = Stage { step: 1, phase: Phase::Hold };

/// What happens to a connection besides its bytes.
#[derive(Debug)]
enum Event {
    Open(u64),
    ToPool(u64, Vec<u8>),
    ToUser(u64, Vec<u8>),
    Broken(u64),
}

/// Connections by number; a user has at most one.
struct Wire {
    chance: Chance,
    /// Share of messages behind which a connection breaks.
    breaks: f64,
    events: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    /// The number of a user's connection, and when its latest bytes arrive, each way.
    connections: HashMap<u32, u64>,
    users: HashMap<u64, u32>,
    latest: HashMap<u64, (Time, Time)>,
    number: u64,
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

struct Users {
    now: Time,
    wire: Wire,
    /// Connections that the users closed, for the pool to hear of.
    closed: VecDeque<u64>,
    counts: HashMap<Counter, u64>,
    samples: HashMap<Measure, Vec<u64>>,
    censored: HashMap<Measure, u64>,
    failures: Vec<String>,
    keep_alives: u64,
    methods: HashMap<(Method, bool), u64>,
    redirects: u64,
}

impl Users {
    fn of(&self, counter: Counter) -> u64 {
        self.counts.get(&counter).copied().unwrap_or(0)
    }

    fn sampled(&self, measure: Measure) -> u64 {
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
    fn send(&mut self, flow: Flow, hop: Hop, bytes: &[u8]) -> Sent {
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
        self.send(flow, Hop::Target, bytes)
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

struct Setup {
    seed: u64,
    kind: Kind,
    pairs: u32,
    breaks: f64,
    auth: LyncAuth,
    contacts: Option<Contacts>,
    rows: bool,
    pool: PoolConfig,
}

impl Setup {
    fn new(seed: u64, kind: Kind, pairs: u32) -> Setup {
        let ntlm = NtlmOptions { verify: true, workstation: "LOADGEN".to_owned(), filetime: NOON };
        Setup {
            seed,
            kind,
            pairs,
            breaks: 0.0,
            auth: LyncAuth::Ntlm(ntlm),
            contacts: None,
            rows: false,
            pool: PoolConfig { dialect: Spoken::Lync, ..PoolConfig::default() },
        }
    }

    fn knobs(mut self, change: impl FnOnce(&mut PoolConfig)) -> Setup {
        change(&mut self.pool);
        self
    }

    fn lync(mut self, change: impl FnOnce(&mut LyncConfig)) -> Setup {
        change(&mut self.pool.lync);
        self
    }
}

struct World {
    population: Population,
    users: Users,
    pool: Core,
    server: SocketAddr,
}

fn peer(number: u64) -> Peer {
    Peer::Stream(number, SocketAddr::from(([127, 0, 0, 1], 20_000 + number as u16 % 40_000)), false)
}

impl World {
    fn new(setup: Setup) -> World {
        let Setup { seed, kind, pairs, breaks, auth, contacts, rows, pool } = setup;
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
            password: format!("pw-user{n:06}").into(),
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

    fn next(&self) -> Time {
        let first = self.users.wire.events.keys().next().map_or(Time::NEVER, |key| key.0);
        first.min(self.population.next_timer()).min(self.pool.next_timer())
    }

    fn advance(&mut self, until: Time) {
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

    fn happen(&mut self, now: Time, event: Event, outs: &mut Vec<Out>) {
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

    fn sign_on_all(&mut self) {
        for user in 0..self.population.users() {
            let now = self.users.now;
            assert!(self.population.sign_on(now, user, now, Stage::WARMUP, &mut self.users));
        }
        self.advance(self.users.now + 60 * SECOND);
    }

    fn subscribe_all(&mut self) {
        for edge in 0..self.population.contacts().edges() {
            let now = self.users.now;
            self.population.subscribe(now, edge, now, Stage::WARMUP, &mut self.users);
        }
        self.advance(self.users.now + 60 * SECOND);
    }

    fn sign_off_all(&mut self) {
        for user in (0..self.population.users()).rev() {
            let now = self.users.now;
            self.population.sign_off(now, user, HOLD, &mut self.users);
        }
        self.advance(self.users.now + 400 * SECOND);
        let users = self.population.users();
        assert!((0..users).all(|user| self.population.is_gone(user)));
        self.nothing_is_left();
    }

    fn nothing_is_left(&self) {
        let tally = self.population.tally();
        assert_eq!((tally.workflows, tally.requests, tally.publications), (0, 0, 0), "{tally:?}");
        assert_eq!((tally.registered, tally.subscribed, tally.waiting), (0, 0, 0), "{tally:?}");
        assert_eq!(self.population.timers(), 0);
        assert!(self.users.wire.connections.is_empty());
        expectations_balance(&self.users);
    }

    fn pool_is_empty(&self) {
        let stats = self.pool.stats();
        assert_eq!((stats.registrations, stats.subscriptions, stats.watches), (0, 0, 0), "{stats:?}");
    }
}

fn expectations_balance(users: &Users) {
    let met = users.of(Counter::Delivered) + users.of(Counter::Superseded);
    let void = users.of(Counter::VoidPublishFailed) + users.of(Counter::VoidInterrupted);
    assert_eq!(users.of(Counter::Expected), met + users.of(Counter::Missed) + void);
    assert_eq!(users.sampled(Measure::PublishToNotify), met);
    assert_eq!(
        users.censored.get(&Measure::PublishToNotify).copied().unwrap_or(0),
        users.of(Counter::Missed)
    );
}

fn workflows(setup: Setup) -> World {
    let pairs = setup.pairs;
    let mut world = World::new(Setup { kind: Kind::Workflow, ..setup });
    let mut started = 0;
    for turn in 0..u64::from(pairs) * 2 {
        let now = Time(turn * 250 * MS);
        world.advance(now);
        let pair = turn as u32 % pairs;
        if world.population.is_free(pair) {
            started += 1;
            world.population.start_workflow(now, pair, now, now, HOLD, &mut world.users);
        }
    }
    world.advance(Time(1_000 * SECOND));
    let users = &world.users;
    assert_eq!(users.of(Counter::Sent), started);
    let ended =
        [Counter::WorkflowOk, Counter::WorkflowTimedOut, Counter::WorkflowFailed].map(|c| users.of(c));
    assert_eq!(ended.iter().sum::<u64>(), started, "{ended:?}");
    assert_eq!(users.sampled(Measure::Workflow), ended[0]);
    world.nothing_is_left();
    world
}

/// All that were started did what they are for, and nothing was complained of.
fn all_is_well(world: &World) {
    let users = &world.users;
    assert!(users.failures.is_empty(), "{:?}", users.failures);
    assert_eq!(users.of(Counter::WorkflowOk), users.of(Counter::Sent));
    assert_eq!(users.of(Counter::Delivered), users.of(Counter::Expected));
    for odd in [Counter::Unmatched, Counter::AuthMismatch, Counter::Malformed, Counter::ReorderedCseq] {
        assert_eq!(users.of(odd), 0, "{odd:?}");
    }
    world.pool_is_empty();
}

#[test]
fn whole_workflows_with_ntlm() {
    for seed in 0..6 {
        let world = workflows(Setup::new(seed, Kind::Workflow, 20));
        all_is_well(&world);
        let users = &world.users;
        assert_eq!(users.of(Counter::WorkflowOk), 40);
        for (measure, times) in [
            (Measure::Register, 80),
            (Measure::SelfSubscribe, 80),
            (Measure::Subscribe, 40),
            (Measure::SubscribeToNotify, 40),
            (Measure::Publish, 40),
            (Measure::PublishToNotify, 40),
            (Measure::Unsubscribe, 120),
            (Measure::Unregister, 80),
        ] {
            assert_eq!(users.sampled(measure), times, "{measure:?}");
        }
        let stats = world.pool.stats();
        assert_eq!((stats.bad_signatures, stats.wrong_credentials, stats.conflicts), (0, 0, 0), "{stats:?}");
        // Versions are known before the first publication, though its note may outlive a workflow.
        assert_eq!(users.of(Counter::VersionConflict), 0);
        assert_eq!(users.methods.get(&(Method::Benotify, true)), None, "nobody answers a BENOTIFY");
    }
}

#[test]
fn whole_workflows_of_a_pool_that_trusts() {
    let setup = Setup { auth: LyncAuth::None, ..Setup::new(1, Kind::Workflow, 20) };
    all_is_well(&workflows(setup.knobs(|pool| pool.auth = false)));
}

#[test]
fn every_version_of_the_signatures() {
    for version in 2..=4 {
        let setup = Setup::new(3, Kind::Workflow, 10);
        all_is_well(&workflows(setup.lync(|lync| lync.sipae_version = version)));
    }
}

#[test]
fn servers_that_answer_otherwise_are_as_good() {
    let change: [fn(&mut LyncConfig); 6] = [
        |lync| lync.no_piggyback = true,
        |lync| lync.notify_instead = true,
        |lync| lync.single_as_multipart = true,
        |lync| lync.resubscribe = 1.0,
        |lync| lync.schemes = vec![LyncScheme::TlsDsk, LyncScheme::Kerberos, LyncScheme::Ntlm],
        |lync| (lync.no_piggyback, lync.notify_instead, lync.resubscribe) = (true, true, 1.0),
    ];
    for (at, change) in change.into_iter().enumerate() {
        let world = workflows(Setup::new(at as u64, Kind::Workflow, 10).lync(change));
        all_is_well(&world);
    }
}

#[test]
fn fresh_accounts_are_made_visible_once() {
    let world = workflows(Setup::new(5, Kind::Workflow, 10).lync(|lync| lync.bare_containers = true));
    all_is_well(&world);
}

#[test]
fn a_director_is_followed() {
    // It redirects for ever: six times are too many.
    let setup = Setup::new(5, Kind::Workflow, 4);
    let world = workflows(setup.lync(|lync| lync.redirect_to = Some("127.0.0.2:5061".to_owned())));
    let users = &world.users;
    assert_eq!(users.of(Counter::WorkflowFailed), users.of(Counter::Sent));
    // Who is refused first takes the other one along, which has been redirected some times, too.
    assert!(users.redirects >= users.of(Counter::Sent) * 5, "{}", users.redirects);
    assert!(users.failures.iter().all(|f| f.contains("register sip:301")), "{:?}", users.failures);
}

#[test]
fn schemes_that_we_do_not_speak_are_named() {
    let setup = Setup::new(5, Kind::Workflow, 4);
    let world = workflows(setup.lync(|lync| lync.schemes = vec![LyncScheme::Kerberos, LyncScheme::TlsDsk]));
    let users = &world.users;
    assert_eq!(users.of(Counter::WorkflowFailed), users.of(Counter::Sent));
    assert!(
        users.failures.iter().all(|f| f.starts_with("register auth:unsupported")
            && f.contains("offers Kerberos, TLS-DSK;")
            && f.contains("trusted")),
        "{:?}",
        users.failures
    );
}

#[test]
fn a_wrong_password_sets_its_user_aside() {
    let mut world = World::new(Setup { rows: true, ..Setup::new(5, Kind::Workflow, 4) });
    // The pool has other passwords than the rows: those of another domain's users.
    let config = PoolConfig { users: 8, seed: 5, dialect: Spoken::Lync, ..PoolConfig::default() };
    world.pool = Core::new(PoolConfig { domain: "other.test".to_owned(), ..config }, world.server);
    world.pool.set_clock(Time(0), NOON_MS);
    world.population.start_workflow(Time(0), 0, Time(0), Time(0), HOLD, &mut world.users);
    world.advance(Time(100 * SECOND));
    assert_eq!(world.users.of(Counter::WorkflowFailed), 1);
    assert!(!world.users.failures.is_empty());
    world.nothing_is_left();
}

#[test]
fn unknown_publishers_are_a_failure_of_their_own() {
    for as_404 in [false, true] {
        let mut setup = Setup::new(7, Kind::Held, 4).lync(|lync| lync.unknown_as_404 = as_404);
        // Half of the users are none of the pool's.
        setup.contacts = Some(Contacts::Graph(Graph::new(8, || [(1, 0), (1, 7)].into_iter())));
        let mut world = World::new(setup);
        let config = PoolConfig { users: 4, seed: 7, dialect: Spoken::Lync, ..PoolConfig::default() };
        world.pool = Core::new(config, world.server);
        world.pool.set_clock(Time(0), NOON_MS);
        for user in 0..4 {
            world.population.sign_on(Time(0), user, Time(0), Stage::WARMUP, &mut world.users);
        }
        world.advance(Time(10 * SECOND));
        assert!(world.population.subscribe(world.users.now, 0, world.users.now, HOLD, &mut world.users));
        world.advance(Time(20 * SECOND));
        assert_eq!(world.population.tally().subscribed, 1);
        let failures = &world.users.failures;
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(failures[0].starts_with("subscribe subscription:terminated"), "{failures:?}");
        assert!(failures[0].contains("noresource"), "{failures:?}");
        world.sign_off_all();
        world.pool_is_empty();
    }
}

/// Everybody watches `fan_out` others, in both directions around a circle.
fn circle(users: u32, fan_out: u32) -> Contacts {
    let edge = move |at: u32| (at / fan_out, (at / fan_out + 1 + at % fan_out) % users);
    Contacts::Graph(Graph::new(users, || (0..users * fan_out).map(edge)))
}

/// Held users: `publications` of all publishers by turns, ten seconds apart.
fn held(setup: Setup, publications: u64) -> World {
    let mut world = World::new(Setup { kind: Kind::Held, ..setup });
    world.sign_on_all();
    world.subscribe_all();
    publish(&mut world, publications);
    world
}

fn publish(world: &mut World, publications: u64) {
    let contacts = world.population.contacts();
    let publishers: Vec<u32> = (0..world.population.users() / 2 * contacts.publishers_per_pair())
        .map(|nth| contacts.publisher(nth))
        .collect();
    for turn in 0..publications {
        let now = world.users.now + 10 * SECOND;
        world.advance(now);
        *world.users.counts.entry(Counter::Offered).or_default() += 1;
        let user = publishers[turn as usize % publishers.len()];
        world.population.publish(now, user, now, HOLD, &mut world.users);
    }
    world.advance(world.users.now + 60 * SECOND);
    let now = world.users.now;
    world.population.expire_waiting(now, false, &mut world.users);
    let users = &world.users;
    expectations_balance(users);
    assert_eq!(users.of(Counter::Sent), users.of(Counter::PublishOk) + users.of(Counter::PublishFailed));
    assert_eq!(users.of(Counter::Offered), users.of(Counter::Sent) + users.of(Counter::NotStarted));
}

#[test]
fn held_users_watch_their_contacts_in_one_dialog_each_for_hours() {
    for rows in [false, true] {
        let mut setup = Setup { rows, ..Setup::new(8, Kind::Held, 10) };
        setup.contacts = Some(circle(20, 7));
        let mut world = held(setup, 400);
        assert!(world.users.failures.is_empty(), "{:?}", world.users.failures);
        assert_eq!(world.population.tally().subscribed, 140);
        assert_eq!(world.population.unwatched(), 0);
        let users = &world.users;
        // One dialog for a contact list, one to oneself.
        assert_eq!(world.pool.stats().subscriptions, 40);
        assert_eq!((users.sampled(Measure::Subscribe), users.sampled(Measure::SubscribeToNotify)), (20, 140));
        assert_eq!((users.of(Counter::PublishOk), users.of(Counter::Expected)), (400, 2_800));
        assert_eq!(users.of(Counter::Delivered) + users.of(Counter::Superseded), 2_800);
        for odd in [
            Counter::Unmatched,
            Counter::Duplicate,
            Counter::Late,
            Counter::ReorderedState,
            Counter::VersionConflict,
            Counter::SubscriptionLost,
        ] {
            assert_eq!(users.of(odd), 0, "{odd:?}");
        }
        assert!(users.of(Counter::RefreshRegister) >= 20 * 6, "{:?}", users.counts);
        assert_eq!(world.population.converged(), (140, 0));
        // Twelve hours: subscriptions are granted for eight.
        world.advance(Time(12 * 3_600 * SECOND));
        assert!(world.users.of(Counter::RefreshSubscribe) >= 40);
        assert_eq!(world.users.of(Counter::SubscriptionLost), 0, "{:?}", world.users.failures);
        assert!(world.users.keep_alives > 0);
        publish(&mut world, 40);
        assert_eq!(world.users.of(Counter::Missed), 0);
        assert_eq!(world.users.of(Counter::Duplicate), 0);
        world.sign_off_all();
        assert!(world.users.failures.is_empty(), "{:?}", world.users.failures);
        world.pool_is_empty();
    }
}

#[test]
fn a_silent_connection_is_kept_alive() {
    let mut world = World::new(Setup::new(9, Kind::Held, 2));
    world.sign_on_all();
    world.advance(Time(500 * SECOND));
    // The pool grants 300 s; a refresh within them would have been enough.
    let first = world.users.keep_alives;
    assert!((4..=8).contains(&first), "{first}");
    world.sign_off_all();
}

#[test]
fn lost_benotifies_are_missed() {
    let world = held(Setup::new(8, Kind::Held, 5).knobs(|pool| pool.lose_notify = 0.3), 60);
    let users = &world.users;
    assert!(users.of(Counter::Missed) > 5 && users.of(Counter::Missed) < 40, "{:?}", users.counts);
    assert!(users.failures.iter().all(|f| f.starts_with("notify timeout:notify")), "{:?}", users.failures);
}

#[test]
fn conflicts_are_repaired() {
    let mut world = held(Setup::new(8, Kind::Held, 5).lync(|lync| lync.conflict_every = 3), 60);
    let users = &world.users;
    assert!(users.failures.is_empty(), "{:?}", users.failures);
    assert!(users.of(Counter::VersionConflict) >= 15, "{:?}", users.counts);
    assert_eq!((users.of(Counter::PublishOk), users.of(Counter::Missed)), (60, 0));
    world.sign_off_all();
    // Every publication conflicts: the third try is the last.
    let world = held(Setup::new(8, Kind::Held, 5).lync(|lync| lync.conflict_every = 1), 20);
    let users = &world.users;
    assert!(users.of(Counter::PublishFailed) > 0, "{:?}", users.counts);
    assert!(
        users.failures.iter().all(|f| f.starts_with("publish protocol:version-conflict")),
        "{:?}",
        users.failures
    );
}

#[test]
fn wrong_signatures_count_as_never_received() {
    let world = held(Setup::new(8, Kind::Held, 5).lync(|lync| lync.wrong_rspauth = 0.02), 60);
    let users = &world.users;
    assert!(users.of(Counter::AuthMismatch) > 0, "{:?}", users.counts);
    let mismatches = world.pool.stats().wrong_signatures;
    assert_eq!(users.of(Counter::AuthMismatch), mismatches);
}

#[test]
fn users_that_the_server_signs_off_come_back() {
    let setup = Setup::new(8, Kind::Held, 5);
    let mut world = held(setup.lync(|lync| lync.deregister_after = Some(Duration::from_secs(200))), 60);
    let users = &world.users;
    let dismissed =
        users.failures.iter().filter(|f| f.starts_with("register subscription:terminated")).count();
    assert!(dismissed >= 20, "{dismissed}: {:?}", users.failures);
    assert!(users.of(Counter::SubscriptionLost) >= 20);
    assert!(users.sampled(Measure::Recovery) >= 20, "{:?}", users.counts);
    world.sign_off_all();
}

#[test]
fn broken_connections_are_repaired() {
    let mut setup = Setup { breaks: 0.01, ..Setup::new(8, Kind::Held, 10) };
    setup.contacts = Some(circle(20, 5));
    let mut world = held(setup, 200);
    assert!(world.users.of(Counter::Reconnect) > 0);
    world.users.wire.breaks = 0.0;
    world.advance(world.users.now + 300 * SECOND);
    assert_eq!(world.population.unwatched(), 0, "{:?}", world.users.failures);
    assert_eq!(world.population.tally().registered, 20);
    world.sign_off_all();
    world.pool_is_empty();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    /// However often connections break, and whatever the pool gets wrong, the accounts balance.
    #[test]
    fn the_accounts_balance_with_any_pool(
        seed in 0u64..1_000_000,
        is_held in any::<bool>(),
        breaks in prop::sample::select(vec![0.0, 0.002, 0.02, 0.2]),
        lost in prop::sample::select(vec![0.0, 0.3]),
        wrong in prop::sample::select(vec![0.0, 0.0, 0.02]),
        conflicts in prop::sample::select(vec![0u32, 0, 1, 3]),
        switches in any::<u8>(),
        resubscribe in prop::sample::select(vec![0.0, 0.0, 0.5, 1.0]),
        dismissed in prop::sample::select(vec![None, None, Some(3), Some(100)]),
        ntlm in any::<bool>(),
    ) {
        let knobs = Knobs { breaks, lost, wrong, conflicts, switches, resubscribe, dismissed, ntlm };
        balance(seed, is_held, knobs);
    }
}

/// What is drawn for a world; `switches` are bits.
struct Knobs {
    breaks: f64,
    lost: f64,
    wrong: f64,
    conflicts: u32,
    switches: u8,
    resubscribe: f64,
    dismissed: Option<u64>,
    ntlm: bool,
}

fn balance(seed: u64, is_held: bool, knobs: Knobs) {
    let switch = |bit: u8| knobs.switches & (1 << bit) != 0;
    let mut setup = Setup::new(seed, Kind::Workflow, 8);
    setup.breaks = knobs.breaks;
    setup.rows = switch(6);
    setup.pool.lose_notify = knobs.lost;
    setup.pool.auth = knobs.ntlm;
    setup.pool.lync = LyncConfig {
        wrong_rspauth: knobs.wrong,
        conflict_every: knobs.conflicts,
        notify_instead: switch(0),
        no_piggyback: switch(1),
        single_as_multipart: switch(2),
        unknown_as_404: switch(3),
        bare_containers: switch(4),
        resubscribe: knobs.resubscribe,
        deregister_after: knobs.dismissed.map(Duration::from_secs),
        ..LyncConfig::default()
    };
    if !is_held {
        workflows(setup);
        return;
    }
    if switch(5) {
        setup.contacts = Some(circle(16, 5));
    }
    held(setup, 24).sign_off_all();
}

/// A publisher that signs off waits until its subscribers left, however that came about. Found by
/// the property above.
#[test]
fn a_subscription_that_fails_while_both_sign_off_does_not_hold_up_its_publisher() {
    let knobs = Knobs {
        breaks: 0.02,
        lost: 0.0,
        wrong: 0.02,
        conflicts: 0,
        switches: 166,
        resubscribe: 0.5,
        dismissed: Some(100),
        ntlm: true,
    };
    balance(659_009, true, knobs);
}
