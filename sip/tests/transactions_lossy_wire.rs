//! Client against server transactions over a wire that loses, doubles, delays
//! and reorders, in virtual time: whatever it does, each side ends once and in
//! time, nobody is told anything twice, and nothing is sent after the end.

use std::collections::{BTreeMap, HashMap};

use adsum_sip::client::{self, ClientTransaction, Method, OnResponse};
use adsum_sip::ids::mix;
use adsum_sip::server::{self, Key, OnAnswer, OnRequest, ServerTransaction};
use adsum_sip::time::{MILLISECOND, SECOND, T1, T2, T4, TIMEOUT};
use adsum_sip::{Message, Scanner, Time};
use proptest::prelude::*;

/// No longer, or the last copy of a request outlives timer J: it is sent half a
/// second before the client gives up.
const LONGEST_DELAY: u64 = 450 * MILLISECOND;
/// How long the callers let it ring.
const PATIENCE: u64 = 180 * SECOND;

#[derive(Debug, Clone, Copy)]
struct Faults {
    loss: f64,
    doubled: f64,
    /// Chance that a stream breaks in the middle of a transaction.
    broken: f64,
}

struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }
    fn hit(&mut self, chance: f64) -> bool {
        ((self.bits() >> 11) as f64) < chance * (1u64 << 53) as f64
    }
}

enum Event {
    Start(usize),
    ToServer(Vec<u8>),
    ToClient(Vec<u8>),
    ClientTimer(usize),
    ServerTimer(usize),
    /// The server's user answers with a code, or, with none, has lost interest.
    Answer(usize, Option<u16>),
    /// It repeats its 2xx to INVITE; the interval.
    Again(usize, u64),
    GiveUp(usize),
}

#[derive(Default)]
struct Client {
    transaction: Option<ClientTransaction>,
    started: Time,
    request: Vec<u8>,
    sent: Vec<Time>,
    last_sent: Time,
    provisional: bool,
    finals: u32,
    timeouts: u32,
    given_up: u32,
    finals_received: u32,
    acks: u32,
    ended: Option<Time>,
    terminated: Option<Time>,
    /// A stream that is broken from then on.
    broken: Time,
}

struct Server {
    transaction: ServerTransaction,
    key: Key,
    request: Vec<u8>,
    last: Vec<u8>,
    received: Time,
    answered: Option<Time>,
    acked: bool,
    told_ack: u32,
    timer_repeats: u32,
    user_repeats: u32,
    copies: u32,
    sent: u32,
    last_sent: Time,
    terminated: Option<Time>,
}

struct World {
    now: Time,
    method: Method,
    reliable: bool,
    faults: Faults,
    random: Random,
    events: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    clients: Vec<Client>,
    servers: Vec<Server>,
    /// By client: how often the server's user was told of the request.
    told: Vec<u32>,
    reached: Vec<bool>,
    table: HashMap<Key, usize>,
    lookup: Key,
    strays: u32,
}

impl World {
    fn new(
        method: Method,
        reliable: bool,
        faults: Faults,
        seed: u64,
        transactions: usize,
        over: u64,
    ) -> World {
        let mut world = World {
            now: Time(0),
            method,
            reliable,
            faults,
            random: Random(seed),
            events: BTreeMap::new(),
            sequence: 0,
            clients: Vec::new(),
            servers: Vec::new(),
            told: vec![0; transactions],
            reached: vec![false; transactions],
            table: HashMap::new(),
            lookup: Key::default(),
            strays: 0,
        };
        for index in 0..transactions {
            let started = Time(world.random.below(over));
            let name = if method == Method::Invite { "INVITE" } else { "NOTIFY" };
            let broken = reliable && world.random.hit(faults.broken);
            let broken = if broken { started + world.random.below(2 * SECOND) } else { Time::NEVER };
            let request = message(name, index, "z9hG4bK");
            world.clients.push(Client { started, request, broken, ..Client::default() });
            world.at(started, Event::Start(index));
        }
        world
    }

    fn at(&mut self, at: Time, event: Event) {
        if at != Time::NEVER {
            self.sequence += 1;
            self.events.insert((at, self.sequence), event);
        }
    }

    /// Puts one message on the wire of client `index`.
    fn wire(&mut self, index: usize, to_server: bool, bytes: &[u8]) {
        let copies = if self.reliable { 1 } else { 1 + u64::from(self.random.hit(self.faults.doubled)) };
        for _ in 0..copies {
            let (lost, delay) = if self.reliable {
                (self.now >= self.clients[index].broken, 20 * MILLISECOND)
            } else {
                let delay = MILLISECOND + self.random.below(LONGEST_DELAY - MILLISECOND);
                (self.random.hit(self.faults.loss), delay)
            };
            if !lost {
                let bytes = bytes.to_vec();
                let event = if to_server { Event::ToServer(bytes) } else { Event::ToClient(bytes) };
                self.at(self.now + delay, event);
            }
        }
    }

    fn run(&mut self) {
        let mut scanner = Scanner::new();
        while let Some(((now, _), event)) = self.events.pop_first() {
            self.now = now;
            match event {
                Event::Start(index) => {
                    let client = &mut self.clients[index];
                    client.transaction = Some(ClientTransaction::new(self.method, self.reliable, now));
                    self.send_request(index);
                    self.arm_client(index);
                }
                Event::ToServer(bytes) => self.server_receives(&scanner.scan(&bytes).unwrap()),
                Event::ToClient(bytes) => self.client_receives(&scanner.scan(&bytes).unwrap()),
                Event::ClientTimer(index) => self.client_timer(index),
                Event::ServerTimer(index) => self.server_timer(index),
                Event::Answer(index, Some(code)) => self.answer(index, code),
                Event::Answer(index, None) => {
                    let server = &mut self.servers[index];
                    if server.transaction.is_open() {
                        server.transaction.abandon();
                        self.server_ended(index);
                    }
                }
                Event::Again(index, interval) => self.again(index, interval),
                Event::GiveUp(index) => {
                    let client = &mut self.clients[index];
                    if let Some(transaction) = client.transaction.as_mut().filter(|t| t.is_open()) {
                        transaction.abandon();
                        client.given_up += 1;
                        client.ended = Some(now);
                        client.terminated = Some(now);
                    }
                }
            }
        }
    }

    // The client's side.

    fn send_request(&mut self, index: usize) {
        let client = &mut self.clients[index];
        assert_eq!(client.ended, None, "a request after the end");
        client.sent.push(self.now);
        client.last_sent = self.now;
        let bytes = client.request.clone();
        self.wire(index, true, &bytes);
    }

    fn arm_client(&mut self, index: usize) {
        let next = self.clients[index].transaction.unwrap().next();
        self.at(next, Event::ClientTimer(index));
    }

    fn client_timer(&mut self, index: usize) {
        let now = self.now;
        let client = &mut self.clients[index];
        if client.terminated.is_some() {
            return;
        }
        match client.transaction.as_mut().unwrap().on_timer(now) {
            client::OnTimer::Wait => return,
            client::OnTimer::Retransmit => self.send_request(index),
            client::OnTimer::TimedOut => {
                client.timeouts += 1;
                client.ended = Some(now);
                client.terminated = Some(now);
            }
            client::OnTimer::Terminated => client.terminated = Some(now),
        }
        self.arm_client(index);
    }

    fn client_receives(&mut self, message: &Message<'_>) {
        let now = self.now;
        let index = index_of(message);
        let client = &mut self.clients[index];
        // The owner has dropped a transaction that is over.
        if client.terminated.is_some() {
            self.strays += 1;
            return;
        }
        let code = message.code();
        let transaction = client.transaction.as_mut().unwrap();
        let was_open = transaction.is_open();
        let verdict = transaction.on_response(now, code);
        let acknowledge = self.method == Method::Invite && code >= 200;
        match verdict {
            OnResponse::Provisional => {
                assert!(was_open && code < 200);
                if !client.provisional && self.method == Method::Invite {
                    let at = client.started + PATIENCE;
                    self.at(at, Event::GiveUp(index));
                }
                self.clients[index].provisional = true;
            }
            OnResponse::Final | OnResponse::FinalAck => {
                assert!(was_open && code >= 200);
                assert_eq!(verdict == OnResponse::FinalAck, acknowledge && code >= 300);
                client.finals += 1;
                client.finals_received += 1;
                client.ended = Some(now);
                if transaction.next() == Time::NEVER {
                    client.terminated = Some(now);
                }
                if acknowledge {
                    self.acknowledge(index, code);
                }
            }
            OnResponse::Repeated => {
                assert!(!was_open && code >= 200);
                client.finals_received += 1;
                if acknowledge {
                    self.acknowledge(index, code);
                }
            }
            OnResponse::Stray => assert!(!was_open && code < 200, "{code}"),
        }
        self.arm_client(index);
    }

    /// The ACK of the transaction has its branch, that of the user a new one.
    fn acknowledge(&mut self, index: usize, code: u16) {
        let branch = if code < 300 { "z9hG4bKack" } else { "z9hG4bK" };
        let bytes = message("ACK", index, branch);
        let client = &mut self.clients[index];
        client.acks += 1;
        client.last_sent = self.now;
        self.wire(index, true, &bytes);
    }

    // The server's side.

    fn server_receives(&mut self, message: &Message<'_>) {
        let now = self.now;
        assert!(self.lookup.read(message));
        let is_ack = message.method() == b"ACK";
        let index = index_of(message);
        let Some(&slot) = self.table.get(&self.lookup) else {
            if is_ack {
                // To a 2xx it has a branch of its own; to anything else it came too late.
                if let Some(server) =
                    self.servers.iter_mut().find(|s| s.request == self.clients[index].request)
                {
                    server.acked = true;
                }
                return;
            }
            self.reached[index] = true;
            self.told[index] += 1;
            self.accept(index, message);
            return;
        };
        let server = &mut self.servers[slot];
        let verdict = if is_ack {
            server.transaction.on_ack(now)
        } else {
            server.copies += 1;
            server.transaction.on_request()
        };
        match verdict {
            OnRequest::Repeat => {
                let bytes = server.last.clone();
                self.send_answer(slot, &bytes);
            }
            OnRequest::Absorb => {}
            OnRequest::PassUp => server.told_ack += 1,
            OnRequest::Stray => panic!("the table holds a transaction that is over"),
        }
        if self.servers[slot].transaction.is_terminated() {
            self.server_ended(slot);
        }
        self.arm_server(slot);
    }

    fn accept(&mut self, index: usize, message: &Message<'_>) {
        let slot = self.servers.len();
        self.table.insert(self.lookup.clone(), slot);
        self.servers.push(Server {
            transaction: ServerTransaction::new(self.method, self.reliable, self.now),
            key: self.lookup.clone(),
            request: message.raw().to_vec(),
            last: Vec::new(),
            received: self.now,
            answered: None,
            acked: false,
            told_ack: 0,
            timer_repeats: 0,
            user_repeats: 0,
            copies: 0,
            sent: 0,
            last_sent: Time(0),
            terminated: None,
        });
        assert_eq!(self.servers[slot].request, self.clients[index].request);
        self.arm_server(slot);
        // What the user does with it: at once, soon, late, never; with or without a 1xx.
        let codes = [200, 202, 302, 404, 486, 500, 603];
        let code = codes[self.random.below(codes.len() as u64) as usize];
        let delay = match self.random.below(8) {
            0..=2 => 0,
            3 => self.random.below(SECOND),
            4 => self.random.below(10 * SECOND),
            5 => self.random.below(31 * SECOND),
            6 => 300 * MILLISECOND,
            _ => return self.at(self.now + TIMEOUT, Event::Answer(slot, None)),
        };
        if self.random.hit(0.3) {
            let at = self.now + self.random.below(delay + 1);
            self.at(at, Event::Answer(slot, Some(183)));
        }
        self.at(self.now + delay, Event::Answer(slot, Some(code)));
    }

    fn answer(&mut self, slot: usize, code: u16) {
        let now = self.now;
        let server = &mut self.servers[slot];
        let open = server.transaction.is_open();
        match server.transaction.on_answer(now, code) {
            OnAnswer::Send => {
                assert!(open);
                let bytes = response(&server.request, code);
                if code >= 200 {
                    server.answered = Some(now);
                }
                server.last.clone_from(&bytes);
                self.send_answer(slot, &bytes);
                if self.method == Method::Invite && (200..300).contains(&code) {
                    self.at(now + T1, Event::Again(slot, T1));
                }
            }
            OnAnswer::Discard => assert!(!open),
        }
        if self.servers[slot].transaction.is_terminated() {
            self.server_ended(slot);
        }
        self.arm_server(slot);
    }

    /// RFC 3261 §13.3.1.4: the user repeats its 2xx until the ACK comes.
    fn again(&mut self, slot: usize, interval: u64) {
        let server = &mut self.servers[slot];
        if server.acked || self.now >= server.answered.unwrap() + TIMEOUT {
            return;
        }
        assert_eq!(server.transaction.on_answer(self.now, 200), OnAnswer::Send);
        server.user_repeats += 1;
        let bytes = server.last.clone();
        self.send_answer(slot, &bytes);
        let interval = (interval * 2).min(T2);
        self.at(self.now + interval, Event::Again(slot, interval));
    }

    fn send_answer(&mut self, slot: usize, bytes: &[u8]) {
        let server = &mut self.servers[slot];
        assert!(!bytes.is_empty(), "there was nothing to repeat");
        assert_eq!(server.terminated, None, "a response after the end");
        server.sent += 1;
        server.last_sent = self.now;
        let index = self.clients.iter().position(|c| c.request == server.request).unwrap();
        self.wire(index, false, bytes);
    }

    fn arm_server(&mut self, slot: usize) {
        let next = self.servers[slot].transaction.next();
        self.at(next, Event::ServerTimer(slot));
    }

    fn server_timer(&mut self, slot: usize) {
        let now = self.now;
        let server = &mut self.servers[slot];
        if server.terminated.is_some() {
            return;
        }
        match server.transaction.on_timer(now) {
            server::OnTimer::Wait => return,
            server::OnTimer::Trying => {
                assert_eq!(now, server.received + server::TRYING_AFTER);
                let bytes = response(&server.request, 100);
                server.last.clone_from(&bytes);
                self.send_answer(slot, &bytes);
            }
            server::OnTimer::Repeat => {
                server.timer_repeats += 1;
                let bytes = server.last.clone();
                self.send_answer(slot, &bytes);
            }
            server::OnTimer::TimedOut | server::OnTimer::Terminated => self.server_ended(slot),
        }
        self.arm_server(slot);
    }

    fn server_ended(&mut self, slot: usize) {
        let server = &mut self.servers[slot];
        server.terminated = Some(self.now);
        assert_eq!(self.table.remove(&server.key), Some(slot));
    }

    // What must hold when the wire is silent.

    fn check(&self) {
        assert!(self.table.is_empty(), "a server transaction never ended");
        let most = match (self.reliable, self.method) {
            (true, _) => 1,
            (false, Method::Invite) => 7,
            (false, Method::NonInvite) => 11,
        };
        for (index, client) in self.clients.iter().enumerate() {
            let outcomes = (client.finals, client.timeouts, client.given_up);
            assert_eq!(client.finals + client.timeouts + client.given_up, 1, "{outcomes:?}");
            assert!(client.sent.len() <= most, "{} requests", client.sent.len());
            if !client.provisional {
                let planned = schedule(self.method);
                let offsets: Vec<u64> = client.sent.iter().map(|t| t.since(client.started)).collect();
                assert!(planned.starts_with(&offsets), "{offsets:?}");
            }
            let ended = client.ended.unwrap();
            let terminated = client.terminated.unwrap();
            let rang = client.provisional && self.method == Method::Invite;
            assert!(ended <= client.started + if rang { PATIENCE } else { TIMEOUT });
            let linger = if self.method == Method::Invite { TIMEOUT } else { T4 };
            assert!(terminated <= ended + linger);
            assert!(client.last_sent <= terminated);
            assert_eq!(client.acks, if self.method == Method::Invite { client.finals_received } else { 0 });
            assert_eq!(self.told[index], u32::from(self.reached[index]), "told more than once");
            assert!(client.finals == 0 || self.reached[index]);
        }
        for server in &self.servers {
            let terminated = server.terminated.expect("a server transaction never ended");
            let answered = server.answered.unwrap_or(server.received);
            let confirmed = if self.method == Method::Invite { T4 } else { 0 };
            assert!(terminated <= answered + TIMEOUT + confirmed);
            assert!(server.last_sent <= terminated);
            assert!(server.timer_repeats <= if self.reliable { 0 } else { 10 });
            assert!(server.user_repeats <= 10);
            // At most 100, 183 and the final one of its own, and one for each copy.
            assert!(server.sent <= 3 + server.timer_repeats + server.user_repeats + server.copies);
            assert!(!self.reliable || server.copies == 0);
        }
    }
}

/// When requests are sent that nobody answers (RFC 3261 §17.1.1.2 and §17.1.2.2).
fn schedule(method: Method) -> Vec<u64> {
    let half_seconds: &[u64] = match method {
        Method::Invite => &[0, 1, 3, 7, 15, 31, 63],
        Method::NonInvite => &[0, 1, 3, 7, 15, 23, 31, 39, 47, 55, 63],
    };
    half_seconds.iter().map(|n| n * T1).collect()
}

fn message(method: &str, index: usize, branch: &str) -> Vec<u8> {
    format!(
        "{method} sip:b@h SIP/2.0\r\nVia: SIP/2.0/UDP c:5060;branch={branch}{index}\r\nMax-Forwards: 70\r\n\
         From: <sip:a@h>;tag=a{index}\r\nTo: <sip:b@h>\r\nCall-ID: {index}\r\nCSeq: 1 {method}\r\n\
         Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn response(request: &[u8], code: u16) -> Vec<u8> {
    let text = std::str::from_utf8(request).unwrap();
    let lines = text.lines().filter(|l| l.starts_with("Via") || l.starts_with("From") || l.starts_with("C"));
    let mut out = format!("SIP/2.0 {code} Answer\r\nTo: <sip:b@h>;tag=b\r\n");
    for line in lines {
        out.push_str(line);
        out.push_str("\r\n");
    }
    out.push_str("\r\n");
    out.into_bytes()
}

fn index_of(message: &Message<'_>) -> usize {
    std::str::from_utf8(message.call_id()).unwrap().parse().unwrap()
}

fn play(method: Method, reliable: bool, faults: Faults, seed: u64, transactions: usize, over: u64) -> World {
    let mut world = World::new(method, reliable, faults, seed, transactions, over);
    world.run();
    world.check();
    world
}

#[test]
fn a_perfect_wire_sends_everything_once() {
    let faults = Faults { loss: 0.0, doubled: 0.0, broken: 0.0 };
    let world = play(Method::NonInvite, true, faults, 1, 200, 60 * SECOND);
    assert!(world.clients.iter().all(|c| c.sent.len() == 1));
    assert!(world.clients.iter().any(|c| c.timeouts == 1), "some users never answer");
    assert_eq!(world.servers.len(), 200);
}

#[test]
fn a_dead_wire_ends_everybody_by_timeout() {
    let faults = Faults { loss: 1.0, doubled: 0.0, broken: 1.0 };
    for method in [Method::Invite, Method::NonInvite] {
        let world = play(method, false, faults, 2, 100, 60 * SECOND);
        assert!(world.servers.is_empty());
        for client in &world.clients {
            assert_eq!((client.timeouts, client.sent.len()), (1, schedule(method).len()));
            assert_eq!(client.ended, Some(client.started + TIMEOUT));
        }
    }
}

#[test]
fn an_hour_over_a_bad_wire() {
    let faults = Faults { loss: 0.3, doubled: 0.2, broken: 0.2 };
    for method in [Method::Invite, Method::NonInvite] {
        for reliable in [false, true] {
            let world = play(method, reliable, faults, 3, 400, 3_600 * SECOND);
            assert!(world.now > Time(3_500 * SECOND));
            let finals = world.clients.iter().filter(|c| c.finals == 1).count();
            let ended = world.clients.len() - finals;
            assert!(finals > 200 && ended > 10, "both ends are seen: {finals} {ended}");
            let repeated = world.servers.iter().filter(|s| s.copies > 0).count();
            assert!(reliable || repeated > 100, "retransmissions are seen: {repeated}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]
    /// However bad the wire is, each transaction ends once, in time, and then is silent.
    #[test]
    fn transactions_end_once_and_in_time(
        seed in any::<u64>(),
        invite in any::<bool>(),
        reliable in any::<bool>(),
        loss in 0.0f64..0.95,
        doubled in 0.0f64..0.5,
        broken in 0.0f64..1.0,
    ) {
        let method = if invite { Method::Invite } else { Method::NonInvite };
        play(method, reliable, Faults { loss, doubled, broken }, seed, 40, 300 * SECOND);
    }
}
