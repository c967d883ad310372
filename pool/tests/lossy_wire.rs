//! Users against the pool over a seeded, lossy wire in virtual time: whatever is
//! lost, doubled or delayed, every workflow and every expectation ends exactly
//! once, and nothing is left behind.

#[path = "../../presence/tests/support/desk.rs"]
mod desk;

use std::net::SocketAddr;
use std::rc::Rc;

use adsum_pool::PoolConfig;
use adsum_pool::config::Chance;
use adsum_pool::core::{Core, Peer};
use adsum_presence::accounts::{Accounts, Pattern};
use adsum_presence::host::{Counter, Measure, Origin, Phase, Stage};
use adsum_presence::population::{Config, Dialect, Kind, Population, Transport};
use adsum_sip::ids::Namespace;
use adsum_sip::{Scanner, Time};
use desk::{Dice, LossyWire};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

impl Dice for Chance {
    fn hit(&mut self, chance: f64) -> bool {
        Chance::hit(self, chance)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }
}

type Users = desk::Desk<LossyWire<Chance>>;

struct World {
    population: Population,
    users: Users,
    pool: Core,
    client: SocketAddr,
    server: SocketAddr,
}

impl World {
    fn new(seed: u64, kind: Kind, pairs: u32, loss: f64, doubled: f64, pool: PoolConfig) -> World {
        let client = SocketAddr::from(([127, 0, 0, 1], 4000));
        let server = SocketAddr::from(([127, 0, 0, 1], 5060));
        let config = Config {
            namespace: Namespace { run: 9, shard: 1, key: seed },
            transport: Transport::Udp,
            kind,
            reuse_nonce: seed.is_multiple_of(2),
            self_subscribe: !seed.is_multiple_of(3),
            expires: 600,
            publish_expires: 600,
            deadline: 25 * SECOND,
            dialect: Dialect::Simple,
        };
        let accounts = Accounts::Pattern {
            uri: Pattern::parse("sip:user{n:06}@pool.test").unwrap(),
            auth_user: None,
            password: Pattern::parse("pw-user{n:06}").unwrap(),
            pairs: (0..pairs).collect(),
        };
        World {
            population: Population::new(config, Rc::new(accounts), Time(0)).unwrap(),
            // Between 1 and 20 ms: messages overtake one another.
            users: Users::new(LossyWire::new(Chance::new(seed), loss, doubled, (MS, 19 * MS))),
            pool: Core::new(PoolConfig { users: pairs * 2, seed, ..pool }, server),
            client,
            server,
        }
    }

    /// The next instant at which anything happens.
    fn next(&self) -> Time {
        self.users.carrier.next().min(self.population.next_timer()).min(self.pool.next_timer())
    }

    fn advance(&mut self, until: Time) {
        let mut scanner = Scanner::new();
        loop {
            let now = self.next().max(self.users.now);
            if now > until {
                self.users.now = until;
                return;
            }
            self.users.now = now;
            let mut outs = Vec::new();
            while let Some(bytes) = self.users.carrier.at_server(now) {
                self.pool.handle(now, Peer::Udp(self.client), &bytes, &mut outs);
            }
            self.pool.expire(now, &mut outs);
            for out in outs {
                self.users.carrier.answer(now.max(out.at), &out.bytes);
            }
            while let Some(bytes) = self.users.carrier.at_users(now) {
                let message = scanner.scan(&bytes).unwrap();
                let origin = Origin { from: self.server, foreign: false };
                self.population.on_message(now, now, 0, origin, &message, &mut self.users);
            }
            self.population.on_timer(now, &mut self.users);
        }
    }
}

const HOLD: Stage = Stage { step: 1, phase: Phase::Hold };

fn workflows(seed: u64, loss: f64, doubled: f64, pool: PoolConfig) -> World {
    let mut world = World::new(seed, Kind::Workflow, 20, loss, doubled, pool);
    let mut started = 0;
    for turn in 0..40u64 {
        let now = Time(turn * 250 * MS);
        world.advance(now);
        let pair = (turn % 20) as u32;
        if world.population.is_free(pair) {
            started += 1;
            world.population.start_workflow(now, pair, now, now, HOLD, &mut world.users);
        }
    }
    // Longer than everything that may still time out.
    world.advance(Time(1_000 * SECOND));
    let users = &world.users;
    let tally = world.population.tally();
    assert_eq!(users.of(Counter::Sent), started);
    let ended =
        [Counter::WorkflowOk, Counter::WorkflowTimedOut, Counter::WorkflowFailed].map(|c| users.of(c));
    assert_eq!(ended.iter().sum::<u64>(), started, "{ended:?}");
    assert_eq!((tally.workflows, tally.requests, tally.publications), (0, 0, 0));
    assert_eq!((tally.registered, tally.subscribed), (0, 0));
    assert_eq!(world.population.timers(), 0);
    expectations_balance(users);
    assert_eq!(users.sampled(Measure::Workflow), ended[0]);
    world
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

#[test]
fn without_loss_everything_works() {
    for seed in 0..6 {
        let world = workflows(seed, 0.0, 0.0, PoolConfig::default());
        assert_eq!(world.users.of(Counter::WorkflowOk), 40, "{:?}", world.users.failures);
        assert!(world.users.failures.is_empty(), "{:?}", world.users.failures);
        let stats = world.pool.stats();
        assert_eq!((stats.registrations, stats.subscriptions, stats.publications), (0, 0, 0));
    }
}

#[test]
fn moderate_loss_is_mended_by_retransmission() {
    let world = workflows(4, 0.05, 0.05, PoolConfig::default());
    // With 5 % loss each way a request fails with a chance of 10⁻¹¹.
    assert_eq!(world.users.of(Counter::WorkflowOk), 40, "{:?}", world.users.failures);
}

#[test]
fn a_notification_that_never_comes_is_missed_once() {
    let world = workflows(2, 0.0, 0.0, PoolConfig { lose_notify: 1.0, ..PoolConfig::default() });
    assert_eq!(world.users.of(Counter::Missed), world.users.of(Counter::Expected));
    assert_eq!(world.users.of(Counter::WorkflowTimedOut), world.users.of(Counter::Sent));
    assert!(
        world.users.failures.iter().all(|f| f.0.starts_with("notify timeout:notify")),
        "{:?}",
        world.users.failures
    );
}

#[test]
fn refused_publications_void_what_they_owed() {
    let reject = vec!["PUBLISH=503:100%".parse().unwrap()];
    let world = workflows(2, 0.0, 0.0, PoolConfig { reject, ..PoolConfig::default() });
    assert_eq!(world.users.of(Counter::VoidPublishFailed), world.users.of(Counter::Expected));
    assert_eq!(world.users.of(Counter::WorkflowFailed), world.users.of(Counter::Sent));
}

#[test]
fn held_users_refresh_for_an_hour_and_sign_off() {
    let mut world = World::new(8, Kind::Held, 10, 0.02, 0.02, PoolConfig::default());
    for user in 0..20 {
        world.population.sign_on(Time(0), user, Time(0), Stage::WARMUP, &mut world.users);
    }
    world.advance(Time(60 * SECOND));
    for pair in 0..10 {
        let now = world.users.now;
        assert!(world.population.subscribe(now, pair, now, Stage::WARMUP, &mut world.users));
    }
    world.advance(Time(120 * SECOND));
    for turn in 0..340u64 {
        let now = Time((120 + turn * 10) * SECOND);
        world.advance(now);
        world.population.publish(now, (turn % 10) as u32 * 2, now, HOLD, &mut world.users);
    }
    world.advance(Time(3_600 * SECOND));
    let users = &world.users;
    assert_eq!(users.of(Counter::PublishOk), 340, "{:?}", users.failures);
    assert_eq!(users.of(Counter::Delivered) + users.of(Counter::Superseded), 340);
    assert!(users.of(Counter::RefreshRegister) >= 20 * 5 && users.of(Counter::RefreshSubscribe) >= 20 * 5);
    assert_eq!(users.of(Counter::SubscriptionLost), 0);
    expectations_balance(users);
    for pair in 0..10 {
        let (published, shown) = world.population.sequences(pair);
        assert_eq!(published, shown);
    }
    for pair in 0..10 {
        for user in [pair * 2 + 1, pair * 2] {
            let now = world.users.now;
            world.population.sign_off(now, user, HOLD, &mut world.users);
        }
    }
    world.advance(Time(4_000 * SECOND));
    assert!((0..20).all(|user| world.population.is_gone(user)));
    let stats = world.pool.stats();
    assert_eq!((stats.registrations, stats.subscriptions, stats.publications), (0, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    /// However bad the wire is, the accounts balance.
    #[test]
    fn the_accounts_balance_over_any_wire(seed in 0u64..1_000_000, loss in 0.0f64..0.6, doubled in 0.0f64..0.3, lost in 0.0f64..0.5) {
        workflows(seed, loss, doubled, PoolConfig { lose_notify: lost, ..PoolConfig::default() });
    }
}

/// The first NOTIFY of a subscription may come after it was ended again: it settles nothing, and
/// the wait for the last NOTIFY goes on. Found by the property above.
#[test]
fn a_first_notification_after_the_end_does_not_hold_up_the_sign_off() {
    let pool = PoolConfig { lose_notify: 0.35670333024577267, ..PoolConfig::default() };
    workflows(298_820, 0.5807269726240959, 0.028473125351316197, pool);
}
