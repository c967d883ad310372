//! Users of the `lync` dialect against the pool over connections in virtual
//! time: nothing is lost on a connection, but connections break. Whatever the
//! pool gets wrong, every workflow and every expectation ends exactly once, and
//! nothing is left behind.

mod world;

use std::time::Duration;

use adsum_pool::PoolConfig;
use adsum_pool::config::{Delay, Dialect as Spoken, LyncConfig, LyncScheme};
use adsum_pool::core::Core;
use adsum_presence::Contacts;
use adsum_presence::contacts::Graph;
use adsum_presence::host::{Counter, Measure, Method, Stage};
use adsum_presence::lync::LyncAuth;
use adsum_presence::population::Kind;
use adsum_sip::Time;
use proptest::prelude::*;
use world::{HOLD, MS, NOON_MS, SECOND, Setup, World, expectations_balance};

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
    // Every request and every answer of ours was signed as it has to be.
    let stats = world.pool.stats();
    assert_eq!((stats.bad_signatures, stats.wrong_credentials), (0, 0), "{stats:?}");
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

/// Associations end again and again, whatever is under way: nothing fails, is lost or counted twice.
#[test]
fn associations_that_end_are_renewed() {
    for seed in 0..4 {
        // A request takes 140 ms at most, a handshake three of them.
        let setup = Setup::new(seed, Kind::Workflow, 20)
            .knobs(|pool| pool.answer_delay = Some(Delay::Fixed(Duration::from_millis(100))))
            .lync(|lync| lync.association_lifetime = Duration::from_millis(450 + 50 * seed));
        let world = workflows(setup);
        let users = &world.users;
        assert_eq!(users.of(Counter::WorkflowOk), users.of(Counter::Sent), "{:?}", users.failures);
        assert_eq!(users.of(Counter::Delivered), users.of(Counter::Expected));
        assert_eq!(users.of(Counter::AuthMismatch), 0);
        let stats = world.pool.stats();
        assert!(stats.associations > 3 * users.of(Counter::Sent), "{stats:?}");
        assert_eq!((stats.bad_signatures, stats.wrong_credentials), (0, 0), "{stats:?}");
        world.pool_is_empty();
    }
}

/// Whichever request renews it, what follows is signed under the new one, and nobody misses anything.
#[test]
fn held_users_renew_their_associations() {
    let setup = Setup::new(8, Kind::Held, 5);
    let mut world = held(setup.lync(|lync| lync.association_lifetime = Duration::from_secs(35)), 60);
    let users = &world.users;
    assert!(users.failures.is_empty(), "{:?}", users.failures);
    assert_eq!((users.of(Counter::PublishOk), users.of(Counter::Missed)), (60, 0));
    assert_eq!(users.of(Counter::AuthMismatch), 0);
    assert!(world.pool.stats().associations >= 20, "{:?}", world.pool.stats());
    world.sign_off_all();
    world.pool_is_empty();
}

#[test]
fn servers_that_answer_otherwise_are_as_good() {
    let change: [fn(&mut LyncConfig); 8] = [
        |lync| lync.proxy_auth = true,
        |lync| lync.ntlm_mic = true,
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
    let setup = Setup { rows: true, password: "wrong-", ..Setup::new(5, Kind::Workflow, 4) };
    let mut world = World::new(setup);
    for turn in 0..3 {
        let now = Time(turn * 50 * SECOND);
        world.advance(now);
        world.population.start_workflow(now, 0, now, now, HOLD, &mut world.users);
        world.advance(now + 40 * SECOND);
    }
    let users = &world.users;
    assert!(!users.failures.is_empty());
    assert!(users.failures.iter().all(|f| f.starts_with("register auth:rejected")), "{:?}", users.failures);
    // Each of the two is tried once, however often a workflow begins.
    assert_eq!(users.of(Counter::UsersRejected), 2);
    assert_eq!(world.pool.stats().wrong_credentials, 2);
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
fn a_long_contact_list_is_asked_for_in_parts() {
    let mut setup = Setup::new(9, Kind::Held, 301);
    setup.contacts = Some(Contacts::Graph(Graph::new(602, || (1..=600).map(|publisher| (0, publisher)))));
    let mut world = World::new(setup);
    assert!(world.population.sign_on(Time(0), 0, Time(0), Stage::WARMUP, &mut world.users));
    world.advance(Time(10 * SECOND));
    assert!(world.population.subscribe(world.users.now, 0, world.users.now, HOLD, &mut world.users));
    world.advance(Time(20 * SECOND));
    let users = &world.users;
    assert_eq!(world.population.tally().subscribed, 600, "{:?}", users.failures);
    assert_eq!((users.sampled(Measure::Subscribe), users.sampled(Measure::SubscribeToNotify)), (2, 600));
    assert_eq!(world.pool.stats().watches, 600);
    world.sign_off_all();
    world.pool_is_empty();
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
    // Whoever misses a notification for that is told so.
    let mut missed = users.failures.iter().filter(|f| f.starts_with("notify timeout:notify")).peekable();
    assert!(missed.peek().is_some(), "{:?}", users.failures);
    assert!(missed.all(|f| f.contains("their signature (rspauth) is wrong")), "{:?}", users.failures);
    // A log-on whose answer nobody could have signed is no silence of the pool's.
    let mut world = World::new(Setup::new(8, Kind::Held, 1).lync(|lync| lync.wrong_rspauth = 1.0));
    assert!(world.population.sign_on(Time(0), 0, Time(0), Stage::WARMUP, &mut world.users));
    world.advance(Time(33 * SECOND));
    assert!(world.users.failures[0].starts_with("register auth:bad-signature"), "{:?}", world.users.failures);
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
        lifetime in prop::sample::select(vec![28_800, 28_800, 28_800, 45, 2]),
    ) {
        let knobs = Knobs { breaks, lost, wrong, conflicts, switches, resubscribe, dismissed, ntlm, lifetime };
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
    /// Seconds that an association is good for.
    lifetime: u64,
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
        association_lifetime: Duration::from_secs(knobs.lifetime),
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
        lifetime: 28_800,
    };
    balance(659_009, true, knobs);
}
