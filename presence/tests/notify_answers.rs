//! A population keeps no responses and renders the answer to a retransmitted
//! NOTIFY anew. Beside it runs what RFC 3261 §17.2.2 asks for, a server
//! transaction with the stored response: over a wire that loses, doubles and
//! reorders, both must give the same bytes, every time.

#[path = "support/desk.rs"]
mod desk;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;

use adsum_presence::accounts::{Accounts, Pattern};
use adsum_presence::host::{Method, Origin, Phase, Stage};
use adsum_presence::population::{Config, Dialect, Kind, Population, Transport};
use adsum_sip::client::{self, ClientTransaction, OnResponse, OnTimer};
use adsum_sip::ids::{Namespace, mix};
use adsum_sip::server::{Key, OnAnswer, OnRequest, ServerTransaction};
use adsum_sip::time::{MILLISECOND, SECOND};
use adsum_sip::{HeaderId, Message, Scanner, Start, Time};
use desk::{Dice, LossyWire};
use proptest::prelude::*;

const STAGE: Stage = Stage { step: 1, phase: Phase::Hold };

struct Random(u64);

impl Dice for Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0) % limit
    }
    fn hit(&mut self, chance: f64) -> bool {
        (self.below(1 << 53) as f64) < chance * (1u64 << 53) as f64
    }
}

type Wire = LossyWire<Random>;
type Users = desk::Desk<Wire>;

/// One subscription as the notifier has it. It notifies whether or not what it
/// sent before was answered.
struct Subscription {
    call_id: String,
    from: String,
    to: String,
    contact: String,
    cseq: u32,
    ended: bool,
}

struct Notification {
    transaction: ClientTransaction,
    bytes: Vec<u8>,
}

/// A registrar and presence agent that answers everything with 200.
#[derive(Default)]
struct Notifier {
    /// By branch: the answers to requests, which may come again.
    answers: HashMap<Vec<u8>, Vec<u8>>,
    subscriptions: Vec<Subscription>,
    notifications: HashMap<Vec<u8>, Notification>,
    branches: u64,
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap()
}

impl Notifier {
    fn handle(&mut self, message: &Message<'_>, now: Time, wire: &mut Wire) {
        let branch = message.branch().unwrap().to_vec();
        let Start::Request { method, .. } = message.start() else {
            if let Some(notification) = self.notifications.get_mut(&branch)
                && notification.transaction.on_response(now, message.code()) == OnResponse::Final
            {
                self.notifications.remove(&branch);
            }
            return;
        };
        if let Some(answer) = self.answers.get(&branch) {
            return wire.answer(now, answer);
        }
        let expires = message.expires().unwrap_or(0);
        let mut to = text(message.header(HeaderId::To));
        if message.to_tag().is_none() {
            to.push_str(";tag=pa");
        }
        let from = text(message.header(HeaderId::From));
        let call_id = text(Some(message.call_id()));
        let contact = match method {
            b"SUBSCRIBE" => "<sip:pa@127.0.0.1:5060>".into(),
            _ => text(message.header(HeaderId::Contact)),
        };
        let answer = format!(
            "SIP/2.0 200 OK\r\nVia: {}\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {}\r\n\
             Contact: {contact}\r\nExpires: {expires}\r\nContent-Length: 0\r\n\r\n",
            text(message.header(HeaderId::Via)),
            text(message.header(HeaderId::CSeq)),
        );
        wire.answer(now, answer.as_bytes());
        self.answers.insert(branch, answer.into_bytes());
        if method != b"SUBSCRIBE" {
            return;
        }
        let known = self.subscriptions.iter().position(|s| s.call_id == call_id);
        let index = known.unwrap_or_else(|| {
            let contact = text(message.header(HeaderId::Contact));
            self.subscriptions.push(Subscription {
                call_id,
                from: to,
                to: from,
                contact: contact.split('>').next().unwrap().trim_start_matches('<').into(),
                cseq: 0,
                ended: false,
            });
            self.subscriptions.len() - 1
        });
        self.notify(index, expires == 0, now, wire);
    }

    /// A NOTIFY in one of the shapes that have to come back unchanged.
    fn notify(&mut self, index: usize, end: bool, now: Time, wire: &mut Wire) {
        let subscription = &mut self.subscriptions[index];
        if subscription.ended {
            return;
        }
        subscription.ended = end;
        subscription.cseq += 1;
        self.branches += 1;
        let branch = format!("z9hG4bKn{}", self.branches);
        let via = match wire.dice.below(4) {
            0 => format!("Via: SIP/2.0/UDP 127.0.0.1:5060;branch={branch}"),
            1 => format!("Via: SIP/2.0/UDP 127.0.0.1:5060;rport;branch={branch}"),
            2 => format!(
                "v: SIP/2.0/UDP 127.0.0.1 ;branch={branch}, SIP/2.0/TCP p;branch=z9hG4bKp\r\nVia: SIP/2.0/UDP q"
            ),
            _ => format!("Via: SIP/2.0/UDP\r\n 127.0.0.1;branch={branch}\r\n ;rport"),
        };
        let event = if !end && wire.dice.hit(0.1) { "dialog" } else { "presence" };
        let state = if end { "terminated;reason=timeout" } else { "active;expires=900" };
        let bytes = format!(
            "NOTIFY {} SIP/2.0\r\n{via}\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} NOTIFY\r\n\
             Contact: <sip:pa@127.0.0.1:5060>\r\nEvent: {event}\r\nSubscription-State: {state}\r\n\
             Content-Length: 0\r\n\r\n",
            subscription.contact, subscription.from, subscription.to, subscription.call_id, subscription.cseq,
        )
        .into_bytes();
        wire.answer(now, &bytes);
        let transaction = ClientTransaction::new(client::Method::NonInvite, false, now);
        self.notifications.insert(branch.into_bytes(), Notification { transaction, bytes });
    }

    fn next(&self) -> Time {
        self.notifications.values().map(|n| n.transaction.next()).min().unwrap_or(Time::NEVER)
    }

    fn on_timer(&mut self, now: Time, wire: &mut Wire) {
        let mut due: Vec<_> = self.notifications.iter_mut().collect();
        due.sort_by(|a, b| a.0.cmp(b.0));
        for (_, notification) in due {
            if notification.transaction.on_timer(now) == OnTimer::Retransmit {
                wire.answer(now, &notification.bytes);
            }
        }
        self.notifications.retain(|_, n| n.transaction.is_open());
    }
}

/// How often the answer to a retransmission was compared.
#[derive(Debug, Default)]
struct Compared {
    answers: HashMap<u16, u32>,
    /// With a newer NOTIFY of the dialog answered in between.
    overtaken: u32,
    /// With the dialog gone.
    ended: u32,
}

struct World {
    population: Population,
    users: Users,
    notifier: Notifier,
    stored: HashMap<Key, (ServerTransaction, Vec<u8>)>,
    newest: HashMap<Vec<u8>, u32>,
    gone: HashSet<Vec<u8>>,
    compared: Compared,
}

impl World {
    fn new(seed: u64, pairs: u32, loss: f64, doubled: f64) -> World {
        let config = Config {
            namespace: Namespace { run: 9, shard: 1, key: seed },
            transport: Transport::Udp,
            kind: Kind::Held,
            reuse_nonce: false,
            self_subscribe: true,
            expires: 900,
            publish_expires: 900,
            deadline: 25 * SECOND,
            dialect: Dialect::Simple,
        };
        let accounts = Accounts::Pattern {
            uri: Pattern::parse("sip:user{n:06}@pool.test").unwrap(),
            auth_user: None,
            password: Pattern::parse("pw-user{n:06}").unwrap(),
            pairs: (0..pairs).collect(),
        };
        let wire = Wire::new(Random(seed), loss, doubled, (MILLISECOND, 300 * MILLISECOND));
        World {
            population: Population::new(config, Rc::new(accounts), Time(0)).unwrap(),
            users: Users::new(wire),
            notifier: Notifier::default(),
            stored: HashMap::new(),
            newest: HashMap::new(),
            gone: HashSet::new(),
            compared: Compared::default(),
        }
    }

    fn advance(&mut self, until: Time) {
        loop {
            let next =
                (self.users.carrier.next()).min(self.population.next_timer()).min(self.notifier.next());
            let now = next.max(self.users.now);
            if now > until {
                self.users.now = until;
                return;
            }
            self.users.now = now;
            let mut scanner = Scanner::new();
            while let Some(bytes) = self.users.carrier.at_server(now) {
                self.notifier.handle(&scanner.scan(&bytes).unwrap(), now, &mut self.users.carrier);
            }
            self.notifier.on_timer(now, &mut self.users.carrier);
            while let Some(bytes) = self.users.carrier.at_users(now) {
                self.arrives(now, &scanner.scan(&bytes).unwrap());
            }
            self.population.on_timer(now, &mut self.users);
        }
    }

    /// The population answers; the server transaction says what the answer has to be.
    fn arrives(&mut self, now: Time, message: &Message<'_>) {
        self.stored.retain(|_, (transaction, _)| transaction.next() > now);
        self.users.replies.clear();
        self.users.received.clear();
        let origin = Origin { from: SocketAddr::from(([127, 0, 0, 1], 5060)), foreign: false };
        self.population.on_message(now, now, 0, origin, message, &mut self.users);
        if message.code() != 0 {
            return;
        }
        let [reply] = &self.users.replies[..] else { panic!("{} answers", self.users.replies.len()) };
        let mut scanner = Scanner::new();
        let code = scanner.scan(reply).unwrap().code();
        let key = Key::of(message).unwrap();
        let cseq = message.cseq().unwrap().0;
        let newest = self.newest.entry(message.call_id().to_vec()).or_default();
        let terminated = message.named("Subscription-State").is_some_and(|s| s.starts_with(b"terminated"));
        let again = self.users.received == [(Method::Notify, 0, true)];
        if let Some((transaction, bytes)) = self.stored.get(&key) {
            assert_eq!(transaction.on_request(), OnRequest::Repeat);
            let (ours, theirs) = (String::from_utf8_lossy(reply), String::from_utf8_lossy(bytes));
            assert_eq!(ours, theirs, "retransmission of CSeq {cseq}, newest {newest}");
            assert!(again, "a retransmission is counted as one");
            *self.compared.answers.entry(code).or_default() += 1;
            self.compared.overtaken += u32::from(cseq < *newest);
            self.compared.ended += u32::from(self.gone.contains(message.call_id()));
            return;
        }
        assert!(!again, "a new request is not counted as a retransmission");
        let mut transaction = ServerTransaction::new(client::Method::NonInvite, false, now);
        assert_eq!(transaction.on_answer(now, code), OnAnswer::Send);
        self.stored.insert(key, (transaction, reply.clone()));
        *newest = cseq.max(*newest);
        if terminated && code == 200 {
            self.gone.insert(message.call_id().to_vec());
        }
    }

    fn notify_somebody(&mut self) {
        let (now, wire) = (self.users.now, &mut self.users.carrier);
        if self.notifier.subscriptions.is_empty() {
            return;
        }
        let index = wire.dice.below(self.notifier.subscriptions.len() as u64) as usize;
        for _ in 0..=wire.dice.below(4) {
            self.notifier.notify(index, false, now, wire);
        }
        // Now and then the server ends a subscription; the user makes another one.
        if wire.dice.hit(0.05) {
            self.notifier.notify(index, true, now, wire);
        }
    }
}

fn play(seed: u64, loss: f64, doubled: f64) -> Compared {
    let mut world = World::new(seed, 5, loss, doubled);
    for user in 0..10 {
        world.population.sign_on(Time(0), user, Time(0), STAGE, &mut world.users);
    }
    world.advance(Time(40 * SECOND));
    for pair in 0..5 {
        let now = world.users.now;
        world.population.subscribe(now, pair, now, STAGE, &mut world.users);
    }
    for turn in 0..200 {
        world.advance(Time(41 * SECOND + turn * 400 * MILLISECOND));
        world.notify_somebody();
    }
    for user in (0..10).rev() {
        let now = world.users.now;
        world.population.sign_off(now, user, STAGE, &mut world.users);
        for _ in 0..3 {
            world.notify_somebody();
        }
    }
    world.advance(Time(600 * SECOND));
    world.compared
}

#[test]
fn retransmitted_notifications_get_the_stored_bytes() {
    let worlds: Vec<Compared> = (1..=4).map(|seed| play(seed, 0.3, 0.2)).collect();
    let of = |code| worlds.iter().filter_map(|w| w.answers.get(&code)).sum::<u32>();
    // Every way in which an answer comes about is among those that were repeated.
    assert!(of(200) > 200 && of(489) > 20 && of(500) > 100 && of(481) > 50, "{worlds:?}");
    assert!(worlds.iter().all(|w| w.overtaken > 50 && w.ended > 5), "{worlds:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    /// However bad the wire is.
    #[test]
    fn answers_equal_stored_ones_over_any_wire(seed in any::<u64>(), loss in 0.0f64..0.6, doubled in 0.0f64..0.5) {
        play(seed, loss, doubled);
    }
}
