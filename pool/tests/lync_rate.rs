//! What a workflow costs in the `lync` dialect, with all that is proven and
//! signed, and that what a publication costs depends on its watchers only.

mod common;

use adsum_pool::PoolConfig;
use common::aor;
use common::lync::{World, machine, note, open};
use common::ntlm::{sign_on, tell};

/// A processor keeps 200 workflows a second, without any optimisation of the compiler.
#[test]
fn a_whole_workflow_takes_less_than_five_milliseconds() {
    const WORKFLOWS: u32 = 100;
    let mut world = World::new(PoolConfig { auth: true, ..open() });
    for n in 0..WORKFLOWS {
        let (publisher, subscriber) = (2 * n + 1, 2 * n + 2);
        let (mut alice, mut alice_keys) = sign_on(&mut world, publisher, u64::from(publisher), 4);
        let (mut bob, mut bob_keys) = sign_on(&mut world, subscriber, u64::from(subscriber), 4);
        let request = alice.subscribe("vnd-microsoft-roaming-self");
        assert_eq!(tell(&mut world, &alice, &mut alice_keys, &request)[0].code(), 200);
        let request = bob.subscribe("vnd-microsoft-roaming-self");
        assert_eq!(tell(&mut world, &bob, &mut bob_keys, &request)[0].code(), 200);
        let request = bob.batch("subscribe", &[aor(publisher)], &["state", "note"]);
        assert_eq!(tell(&mut world, &bob, &mut bob_keys, &request)[0].code(), 200);
        let request = alice.publish(&[machine(0, 3_500).to_vec(), vec![note(200, 0, "x")]].concat());
        let sent = tell(&mut world, &alice, &mut alice_keys, &request);
        assert!(sent.iter().any(|m| m.is_benotify() && m.peer == bob.peer && bob_keys.proves(m)));
        for (client, keys) in [(&mut alice, &mut alice_keys), (&mut bob, &mut bob_keys)] {
            let request = client.register().line("Expires: 0");
            assert_eq!(tell(&mut world, client, keys, &request)[0].code(), 200);
            world.disconnect(client);
        }
    }
    let each = world.spent / f64::from(WORKFLOWS);
    println!("{:.2} ms a workflow", each * 1e3);
    assert!(each < 0.005, "{each} s");
    let stats = world.stats();
    assert_eq!((stats.registrations, stats.subscriptions, stats.watches), (0, 0, 0));
    assert_eq!((stats.associations, stats.bad_signatures), (u64::from(2 * WORKFLOWS), 0));
}

/// Five hundred users whom nobody asks about do not slow one down whom somebody watches.
#[test]
fn a_publication_is_about_its_watchers_only() {
    let cost = |others: u32| {
        let mut world = World::new(PoolConfig { users: 100_000, ..open() });
        let mut alice = world.client(1, 1);
        world.watcher(2, 2, &[1]);
        for n in 0..others {
            world.watcher(10 + n, u64::from(10 + n), &[10 + (n + 1) % others, 10 + (n + 2) % others]);
        }
        world.spent = 0.0;
        for version in 0..300 {
            let request = alice.publish(&[note(200, version, "x")]);
            assert_eq!(world.ok(&alice, &request).1.len(), 1);
        }
        world.spent
    };
    // The least of some: others use the processor, too.
    let least = |others| (0..5).map(|_| cost(others)).fold(f64::MAX, f64::min);
    let (alone, crowded) = (least(1), least(500));
    println!("{:.1} µs alone, {:.1} µs among 500", alone / 300.0 * 1e6, crowded / 300.0 * 1e6);
    assert!(crowded < 2.0 * alone, "{alone} {crowded}");
}
