//! Nothing is allocated for a message of held `lync` users with NTLM: SERVICE,
//! its answer and the signed BENOTIFYs, counted around the calls of the
//! population alone. The pool's core answers beside it, without sockets.

use std::alloc::System;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use adsum_pool::PoolConfig;
use adsum_pool::config::Dialect as Spoken;
use adsum_pool::core::{Core, Peer};
use adsum_presence::Contacts;
use adsum_presence::accounts::{Accounts, Pattern};
use adsum_presence::contacts::Graph;
use adsum_presence::host::{
    Counter, Failure, Flow, FlowEvent, Hop, Host, Measure, Method, Opened, Origin, Phase, Sample, Sent, Stage,
};
use adsum_presence::lync::{LyncAuth, LyncOptions, NtlmOptions};
use adsum_presence::population::{Config, Dialect, Kind, Population, Transport};
use adsum_sip::ids::Namespace;
use adsum_sip::{Scanner, Time};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MS: u64 = 1_000_000;
const USERS: u32 = 20;
const FAN_OUT: u32 = 5;
const HOLD: Stage = Stage { step: 1, phase: Phase::Hold };
/// 2026-01-05T10:00:00Z.
const NOON_MS: u64 = 1_767_607_200_000;

/// Keeps what is sent in one buffer that is large enough from the beginning.
struct Desk {
    now: Time,
    bytes: Vec<u8>,
    /// Flow and end of each message in `bytes`.
    ends: Vec<(Flow, usize)>,
    connecting: Vec<u32>,
    delivered: u64,
    failures: u64,
}

impl Host for Desk {
    fn open(&mut self, _: Time, user: u32) -> Opened {
        self.connecting.push(user);
        Opened::Connecting(user)
    }
    fn close(&mut self, _: u32, _: Flow) {}
    fn send(&mut self, _: u32, flow: Flow, _: Hop, bytes: &[u8]) -> Sent {
        self.bytes.extend_from_slice(bytes);
        self.ends.push((flow, self.bytes.len()));
        Sent::At(self.now)
    }
    fn reply(&mut self, flow: Flow, _: Origin, bytes: &[u8]) -> Sent {
        self.send(0, flow, Hop::Target, bytes)
    }
    fn write_local(&self, _: Flow, out: &mut Vec<u8>) {
        out.extend_from_slice(b"127.0.0.1:4000");
    }
    fn hop(&mut self, _: Flow, _: &[u8]) -> Hop {
        Hop::Target
    }
    fn sample(&mut self, _: &Sample) {}
    fn censored(&mut self, _: Measure, _: Stage, _: Time, _: Time) {}
    fn send_lag(&mut self, _: Stage, _: Time, _: Time) {}
    fn count(&mut self, _: Stage, counter: Counter, _: Time, n: u64) {
        self.delivered += if counter == Counter::Delivered { n } else { 0 };
    }
    fn message_sent(&mut self, _: Method, _: u16, _: bool) {}
    fn message_received(&mut self, _: Method, _: u16, _: bool) {}
    fn failed(&mut self, _: &Failure<'_>) {
        self.failures += 1;
    }
}

struct World {
    population: Population,
    desk: Desk,
    pool: Core,
    scanner: Scanner,
    /// What the calls of the population allocated, and what was handed to it.
    allocations: usize,
    messages: usize,
}

fn peer(flow: Flow) -> Peer {
    Peer::Stream(u64::from(flow) + 1, SocketAddr::from(([127, 0, 0, 1], 20_000 + flow as u16)), false)
}

impl World {
    fn new() -> World {
        let ntlm = NtlmOptions {
            verify: true,
            workstation: "LOADGEN".to_owned(),
            filetime: (NOON_MS + 11_644_473_600_000) * 10_000,
        };
        let config = Config {
            namespace: Namespace { run: 9, shard: 1, key: 1 },
            transport: Transport::Tcp,
            kind: Kind::Held,
            reuse_nonce: true,
            self_subscribe: true,
            expires: 600,
            publish_expires: 600,
            deadline: 25_000 * MS,
            dialect: Dialect::Lync(LyncOptions { auth: LyncAuth::Ntlm(ntlm), ..LyncOptions::default() }),
        };
        let accounts = Accounts::Pattern {
            uri: Pattern::parse("sip:user{n:06}@pool.test").unwrap(),
            auth_user: None,
            password: Pattern::parse("pw-user{n:06}").unwrap(),
            pairs: (0..USERS / 2).collect(),
        };
        let circle =
            || (0..USERS * FAN_OUT).map(|at| (at / FAN_OUT, (at / FAN_OUT + 1 + at % FAN_OUT) % USERS));
        let contacts = Contacts::Graph(Graph::new(USERS, circle));
        let config_of_pool = PoolConfig { users: USERS, dialect: Spoken::Lync, ..PoolConfig::default() };
        let mut pool = Core::new(config_of_pool, SocketAddr::from(([127, 0, 0, 1], 5060)));
        pool.set_clock(Time(0), NOON_MS);
        World {
            population: Population::with_contacts(config, Rc::new(accounts), contacts, Time(0)).unwrap(),
            desk: Desk {
                now: Time(0),
                bytes: Vec::with_capacity(1 << 20),
                ends: Vec::with_capacity(1_024),
                connecting: Vec::with_capacity(64),
                delivered: 0,
                failures: 0,
            },
            pool,
            scanner: Scanner::new(),
            allocations: 0,
            messages: 0,
        }
    }

    /// A call of the population, and what it allocated.
    fn call(&mut self, what: impl FnOnce(&mut Population, &mut Desk)) {
        let region = Region::new(ALLOCATOR);
        what(&mut self.population, &mut self.desk);
        let change = region.change();
        self.allocations += change.allocations + change.reallocations;
    }

    /// Until nobody has anything more to say.
    fn settle(&mut self) {
        loop {
            let now = self.desk.now;
            while let Some(user) = self.desk.connecting.pop() {
                self.call(|population, desk| population.on_flow(now, user, FlowEvent::Open(now), desk));
            }
            let (bytes, ends) = (self.desk.bytes.clone(), self.desk.ends.clone());
            self.desk.bytes.clear();
            self.desk.ends.clear();
            let mut outs = Vec::new();
            let mut begin = 0;
            for (flow, end) in ends {
                self.pool.handle(now, peer(flow), &bytes[begin..end], &mut outs);
                begin = end;
            }
            self.pool.expire(now, &mut outs);
            let mut outs = VecDeque::from(outs);
            if outs.is_empty() {
                return;
            }
            while let Some(out) = outs.pop_front() {
                let Peer::Stream(number, address, _) = out.peer else { unreachable!("no datagrams") };
                let mut scanner = std::mem::take(&mut self.scanner);
                let message = scanner.scan(&out.bytes).unwrap();
                let origin = Origin { from: address, foreign: false };
                let flow = number as u32 - 1;
                self.messages += 1;
                self.call(|population, desk| population.on_message(now, now, flow, origin, &message, desk));
                self.scanner = scanner;
            }
        }
    }

    fn publish(&mut self, publications: u64) {
        for turn in 0..publications {
            // Within what was granted: no refresh disturbs the count.
            self.desk.now = self.desk.now + MS;
            let now = self.desk.now;
            let user = (turn % u64::from(USERS)) as u32;
            self.call(|population, desk| population.publish(now, user, now, HOLD, desk));
            self.settle();
            self.call(|population, desk| population.on_timer(now, desk));
        }
    }
}

#[test]
fn held_users_allocate_nothing_for_a_publication_and_its_notifications() {
    let mut world = World::new();
    for user in 0..USERS {
        assert!(world.population.sign_on(Time(0), user, Time(0), Stage::WARMUP, &mut world.desk));
    }
    world.settle();
    for edge in 0..USERS * FAN_OUT {
        world.population.subscribe(Time(0), edge, Time(0), Stage::WARMUP, &mut world.desk);
    }
    world.settle();
    assert_eq!(world.population.tally().subscribed, u64::from(USERS * FAN_OUT));
    world.publish(1_000);
    (world.allocations, world.messages) = (0, 0);
    world.publish(2_000);
    eprintln!("{} allocations for {} messages from the pool", world.allocations, world.messages);
    assert_eq!((world.desk.delivered, world.desk.failures), (3_000 * u64::from(FAN_OUT), 0));
    assert!(world.messages >= 2_000 * (1 + FAN_OUT as usize));
    assert_eq!(world.allocations, 0);
}
