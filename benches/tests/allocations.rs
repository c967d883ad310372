//! Nothing is allocated for a message on the steady path: 10,000 whole digest
//! workflows over real sockets, counted by the allocator of this process.
//!
//! The pool runs in a process of its own (this program again), so that all
//! that is counted here is the shard's. What remains belongs to seconds, not
//! to messages: a closed second travels, and rsip reads one message of 64.

use std::alloc::System;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use adsum_agent::contacts::FanOut;
use adsum_agent::net::allow::Allow;
use adsum_agent::net::clock;
use adsum_agent::pace::{Arrivals, Step};
use adsum_agent::shard::{self, Event, ShardPlan};
use adsum_pool::{Pool, PoolConfig};
use adsum_presence::accounts::{Accounts, Pattern};
use adsum_presence::population::{Config, Dialect, Kind, Transport};
use adsum_sip::ids::Namespace;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PAIRS: u32 = 1_000;
/// Workflows a second.
const RATE: u64 = 500;
const WORKFLOWS: u64 = 10_000;
/// Those that come first make the buffers and slabs as large as they get.
const WARM_UP: u64 = 2_000;
/// The environment variable that makes this program the pool.
const POOL: &str = "ADSUM_TEST_POOL";

/// The pool's process: it prints its address and lives until its input ends.
#[test]
fn pool_process() {
    if std::env::var_os(POOL).is_none() {
        return;
    }
    let config = PoolConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        users: PAIRS * 2,
        ..PoolConfig::default()
    };
    let pool = Pool::start(config).unwrap();
    println!("\npool={}", pool.address());
    // Ends when whoever started it ends.
    std::io::stdin().lines().for_each(drop);
}

struct PoolProcess(Child, SocketAddr);

impl PoolProcess {
    fn start() -> PoolProcess {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "pool_process", "--nocapture"])
            .env(POOL, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .find_map(|line| line.unwrap().strip_prefix("pool=").map(|address| address.parse().unwrap()))
            .unwrap();
        PoolProcess(child, address)
    }
}

impl Drop for PoolProcess {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn plan(target: SocketAddr, transport: Transport, shared: bool, second_opinion: bool) -> ShardPlan {
    let hold_ns = (WORKFLOWS + WARM_UP) * 1_000_000_000 / RATE;
    ShardPlan {
        config: Config {
            namespace: Namespace { run: 7, shard: 0, key: 7 },
            transport,
            kind: Kind::Workflow,
            reuse_nonce: false,
            self_subscribe: true,
            expires: 3_600,
            publish_expires: 3_600,
            deadline: 25_000_000_000,
            dialect: Dialect::Simple,
        },
        accounts: Accounts::Pattern {
            uri: Pattern::parse("sip:user{n:06}@pool.test").unwrap(),
            auth_user: None,
            password: Pattern::parse("pw-user{n:06}").unwrap(),
            pairs: (0..PAIRS).collect(),
        },
        pairs_total: u64::from(PAIRS),
        fan_out: None::<FanOut>,
        seed: 7,
        steps: vec![Step { rate_mhz: RATE * 1_000, ramp_ns: 0, hold_ns }],
        arrivals: Arrivals::Constant,
        targets: vec![target],
        tls: None,
        shared_connections: shared,
        allow: Allow::default(),
        advertise: None,
        sources: Vec::new(),
        register_rate_mhz: 0,
        subscribe_rate_mhz: 0,
        max_rate_mhz: 0,
        max_in_flight: 0,
        settle_ns: 0,
        quantum_ns: 0,
        gap_ns: 0,
        kernel_stamps: true,
        offset_ns: 0,
        second_opinion,
        trace: None,
        realtime: false,
    }
}

struct Counted {
    allocations: usize,
    seconds: usize,
    messages: u64,
    workflows: u64,
}

/// Allocations of the workflows behind the warm-up.
fn run(plan: ShardPlan) -> Counted {
    let (sender, mut events) = tokio::sync::mpsc::channel(shard::EVENTS);
    let mut shard = shard::spawn("shard".to_owned(), 0, plan, sender, || None).unwrap();
    let begun = Instant::now();
    let next = |events: &mut tokio::sync::mpsc::Receiver<(usize, Event)>| loop {
        assert!(begun.elapsed() < Duration::from_secs(120), "the shard does not end");
        match events.try_recv() {
            Ok((_, event)) => break Some(event),
            Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => break None,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    loop {
        match next(&mut events) {
            Some(Event::Ready(_)) => break,
            Some(Event::NotReady(failure)) => panic!("{failure:?}"),
            Some(_) => {}
            None => panic!("the shard ended"),
        }
    }
    shard.commands.try_send(shard::Command::Start(clock::now())).unwrap();
    let (mut done, mut region, mut counted) = (0, None, None);
    let (mut seconds, mut messages, mut first) = (0, 0, 0);
    loop {
        match next(&mut events) {
            Some(Event::Seconds(all, failures)) => {
                assert!(failures.is_empty(), "{failures:?}");
                let sum = |name: &str| {
                    let rows = all.iter().flat_map(|second| &second.counts);
                    rows.filter(|row| row.counter == name).map(|row| row.value).sum::<u64>()
                };
                done += sum("workflow_ok");
                if region.is_some() {
                    seconds += 1;
                    messages += sum("sip_sent") + sum("sip_received");
                }
                if done >= WARM_UP && region.is_none() {
                    first = done;
                    region = Some(Region::new(ALLOCATOR));
                } else if let Some(region) = region.as_ref().filter(|_| done >= first + WORKFLOWS - RATE * 2)
                    && counted.is_none()
                {
                    let change = region.change();
                    counted = Some(Counted {
                        allocations: change.allocations + change.reallocations,
                        seconds,
                        messages,
                        workflows: done - first,
                    });
                }
            }
            Some(Event::Done { interrupted, .. }) => break assert!(!interrupted),
            Some(_) => {}
            None => break,
        }
    }
    shard.join();
    counted.expect("the schedule is long enough")
}

/// What closing a second may take: rows, labels, the channel, this test itself.
const PER_SECOND: usize = 600;

#[test]
fn ten_thousand_workflows_allocate_nothing_for_a_message() {
    if std::env::var_os(POOL).is_some() {
        return;
    }
    // With a quantum datagrams leave together.
    for (transport, shared, quantum_ns) in
        [(Transport::Udp, false, 0), (Transport::Udp, false, 1_000_000), (Transport::Tcp, true, 0)]
    {
        let pool = PoolProcess::start();
        let counted = run(ShardPlan { quantum_ns, ..plan(pool.1, transport, shared, false) });
        let Counted { allocations, seconds, messages, workflows } = counted;
        eprintln!(
            "{transport:?}, quantum {quantum_ns} ns: {allocations} allocations in {seconds} s, {workflows} workflows, {messages} messages"
        );
        assert!(messages > 40 * workflows, "{messages}");
        assert!(
            allocations <= PER_SECOND * (seconds + 1),
            "{transport:?}: {allocations} allocations for {messages} messages in {seconds} s"
        );
    }
}
