//! Users against a server that answers anything: whatever it says, nothing
//! panics, nothing is asked in a loop, every account balances and nothing is
//! left behind.

#[path = "support/wire.rs"]
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;

use adsum_presence::accounts::{Accounts, Pattern};
use adsum_presence::host::{Class, FlowError, FlowEvent, Hop, Origin, Phase, Stage};
use adsum_presence::population::{Config, Dialect, Kind, Population, Transport};
use adsum_sip::ids::{Namespace, mix};
use adsum_sip::{Scanner, Time};
use proptest::prelude::*;
use wire::{Out, TARGET, Wire};

const SECOND: u64 = 1_000_000_000;
const HOLD: Stage = Stage { step: 1, phase: Phase::Hold };
const PAIRS: u32 = 3;

/// More requests than these without any time between them are a loop: every user may have four
/// activities, each with its challenges, redirections and retries.
const AT_ONCE: usize = 2 * PAIRS as usize * 4 * 12;

const CODES: [u16; 27] = [
    100, 200, 200, 200, 200, 200, 202, 299, 300, 301, 302, 305, 401, 407, 403, 404, 405, 408, 412, 420, 421,
    423, 481, 489, 500, 503, 603,
];

const STATES: [&str; 12] = [
    "active;expires=600",
    "active;expires=0",
    "active",
    "pending;expires=9",
    "terminated",
    "terminated;reason=deactivated;retry-after=3",
    "terminated;reason=probation;retry-after=4294967296",
    "terminated;reason=rejected",
    "terminated;reason=giveup",
    "terminated;reason=noresource",
    "terminated;reason=timeout",
    "",
];

struct Server {
    population: Population,
    wire: Wire,
    seed: u64,
    /// How often, in 256, an answer is a plain 200.
    kind_answers: u8,
    /// SUBSCRIBEs, by header.
    dialogs: Vec<HashMap<String, String>>,
    /// Of good NOTIFYs; the others stay below.
    cseq: u64,
    /// It says the same to every request of a method, and after each active NOTIFY the same.
    stubborn: bool,
    temper: u64,
    requests: usize,
}

impl Server {
    fn new(seed: u64, kind: Kind, transport: Transport, kind_answers: u8) -> Server {
        let config = Config {
            namespace: Namespace { run: 9, shard: 1, key: seed },
            transport,
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
            pairs: (0..PAIRS).collect(),
        };
        Server {
            population: Population::new(config, Rc::new(accounts), Time(0)).unwrap(),
            wire: Wire::new(transport.is_reliable(), seed.is_multiple_of(5)),
            seed,
            kind_answers,
            dialogs: Vec::new(),
            cseq: 2_000,
            stubborn: false,
            temper: seed,
            requests: 0,
        }
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_add(1);
        mix(self.seed) % below
    }

    fn one_of<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len() as u64) as usize]
    }

    /// Everything that can happen without time passing.
    fn settle(&mut self) {
        let mut requests = 0;
        loop {
            if let Some(out) = self.wire.sent.pop_front() {
                let request = usize::from(!out.text().starts_with("SIP/2.0"));
                requests += request;
                self.requests += request;
                assert!(requests <= AT_ONCE, "asked in a loop: {}", out.text());
                self.answer(&out);
                continue;
            }
            let connecting: Vec<u32> = self.wire.open.values().copied().collect();
            let mut moved = false;
            for user in connecting {
                let before = self.wire.sent.len();
                let event = match self.roll(40) {
                    0 => FlowEvent::Failed(error("transport:connect")),
                    1 => FlowEvent::Closed(error("transport:closed")),
                    _ => FlowEvent::Open(self.wire.now),
                };
                if !matches!(event, FlowEvent::Open(_)) {
                    self.wire.open.retain(|_, owner| *owner != user);
                }
                self.population.on_flow(self.wire.now, user, event, &mut self.wire);
                moved |= self.wire.sent.len() > before;
            }
            if !moved {
                return;
            }
        }
    }

    fn answer(&mut self, out: &Out) {
        assert!(!matches!(out.hop, Hop::Blocked(_)), "sent to where nobody allowed it: {}", out.text());
        assert_eq!(out.at, self.wire.now, "what is sent is answered at once");
        let text = out.text();
        let headers: HashMap<String, String> = text
            .lines()
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned())))
            .collect();
        let method = text.split(' ').next().unwrap_or("").to_owned();
        if method.starts_with("SIP/2.0") {
            return;
        }
        if method == "SUBSCRIBE" {
            self.dialogs.push(headers.clone());
            if self.roll(4) == 0 {
                self.notify();
            }
        }
        if self.stubborn {
            return self.insist(out.flow, &method, &headers);
        }
        let plain = self.roll(256) < u64::from(self.kind_answers);
        let code = if plain { 200 } else { CODES[self.roll(CODES.len() as u64) as usize] };
        if !plain && self.roll(12) == 0 {
            return; // lost
        }
        let reply = answer(code, &headers) + &self.more(plain, &method, &headers);
        self.deliver(out.flow, &reply);
        if plain && self.roll(8) > 0 && method == "SUBSCRIBE" {
            self.notify_state(&headers, "");
        }
        let body = text.split("\r\n\r\n").nth(1).unwrap_or("");
        if plain && self.roll(4) > 0 && !body.is_empty() {
            let about =
                |d: &&HashMap<String, String>| d["To"].starts_with(&headers["To"]) && d["From"] != d["To"];
            if let Some(dialog) = self.dialogs.iter().rev().find(about).cloned() {
                self.notify_state(&dialog, body);
            }
        }
    }

    /// The same answer to each request of a method; what is granted is taken away again.
    fn insist(&mut self, flow: u32, method: &str, headers: &HashMap<String, String>) {
        let temper = |what: &str| {
            let what = what.bytes().fold(self.temper, |hash, byte| mix(hash ^ u64::from(byte)));
            what as usize
        };
        let choice = temper(method);
        let plain = choice % 2 == 0;
        let code = if plain { 200 } else { CODES[choice / 2 % CODES.len()] };
        let state = STATES[temper("state") % STATES.len()];
        let roll = std::mem::replace(&mut self.seed, choice as u64);
        let reply = answer(code, headers) + &self.more(plain, method, headers);
        self.seed = roll;
        self.deliver(flow, &reply);
        if plain && method == "SUBSCRIBE" {
            self.notify_state(headers, "");
            self.cseq += 1;
            let text = notify(headers, ";tag=srv", self.cseq, state, "<sip:pa@127.0.0.1:5060>", "");
            self.deliver(self.flow_of(headers), &text);
        }
    }

    fn more(&mut self, plain: bool, method: &str, headers: &HashMap<String, String>) -> String {
        let own = headers.get("Contact").cloned().unwrap_or_default();
        if plain {
            return match method {
                "REGISTER" => format!("Contact: {own};expires=600\r\n\r\n"),
                "PUBLISH" => format!("SIP-ETag: e{}\r\nExpires: 600\r\n\r\n", self.roll(1_000_000)),
                _ => "Contact: <sip:pa@127.0.0.1:5060>\r\nExpires: 600\r\n\r\n".to_owned(),
            };
        }
        let elsewhere =
            ["<sip:127.0.0.2>", "<sip:127.0.0.3:7;lr>", "<sip:192.0.2.1>", "<tel:+1>", "<", "*", ""];
        let mut more = String::new();
        more += &match self.roll(3) {
            0 => format!(
                "Contact: {own};expires={}\r\n",
                self.one_of(&["0", "1", "60", "600", "4294967295", "x"])
            ),
            1 => format!("Contact: {}\r\n", self.one_of(&elsewhere)),
            _ => String::new(),
        };
        let numbers = ["0", "1", "5", "700", "99999999999", "-1", "later"];
        let lines: [(&str, &[&str]); 7] = [
            ("Expires", &numbers),
            ("Min-Expires", &numbers),
            ("Retry-After", &numbers),
            ("SIP-ETag", &["a", "b", ""]),
            (
                "Record-Route",
                &["<sip:127.0.0.4;lr>", "<sip:127.0.0.5>, <sip:127.0.0.6;lr>", "<sip:192.0.2.2>", ","],
            ),
            (
                "WWW-Authenticate",
                &[
                    "Digest realm=\"a\", nonce=\"1\"",
                    "Digest realm=\"a\", nonce=\"2\", qop=\"auth\"",
                    "Digest realm=\"b\", nonce=\"3\", stale=true",
                    "Negotiate",
                    "",
                ],
            ),
            ("Proxy-Authenticate", &["Digest realm=\"p\", nonce=\"1\", algorithm=SHA-256", "Digest"]),
        ];
        for (name, values) in lines {
            if self.roll(2) == 0 {
                more += &format!("{name}: {}\r\n", self.one_of(values));
            }
        }
        more + "\r\n"
    }

    /// The NOTIFY that a good server sends.
    fn notify_state(&mut self, headers: &HashMap<String, String>, body: &str) {
        self.cseq += 1;
        let expires = headers.get("Expires").map_or("600", |e| e.trim());
        let state = if expires == "0" { "terminated;reason=timeout" } else { "active;expires=600" };
        let text = notify(headers, ";tag=srv", self.cseq, state, "<sip:pa@127.0.0.1:5060>", body);
        self.deliver(self.flow_of(headers), &text);
    }

    /// A NOTIFY of a dialog that is there or was.
    fn notify(&mut self) {
        if self.dialogs.is_empty() {
            return;
        }
        let at = self.roll(self.dialogs.len() as u64) as usize;
        let dialog = self.dialogs[at].clone();
        let state = self.one_of(&STATES);
        let tag = self.one_of(&[";tag=srv", ";tag=srv", ";tag=other", ""]);
        let contact =
            self.one_of(&["<sip:pa@127.0.0.1:5060>", "<sip:pb@127.0.0.7>", "<sip:x@192.0.2.3>", ""]);
        let sequence = self.roll(4);
        let body = format!(
            "<note>adsum1.000009.00000{}.00000{sequence}</note>",
            1 + 2 * self.roll(u64::from(PAIRS))
        );
        let cseq = self.roll(4_000);
        let text = notify(&dialog, tag, cseq, state, contact, &body);
        self.deliver(self.flow_of(&dialog), &text);
    }

    fn flow_of(&self, headers: &HashMap<String, String>) -> u32 {
        let port = headers["Contact"].split("127.0.0.1:").nth(1).unwrap_or("4000");
        port.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().unwrap_or(4000)
            - 4000
    }

    fn deliver(&mut self, flow: u32, text: &str) {
        let mut scanner = Scanner::new();
        let message = scanner.scan(text.as_bytes()).expect("what the server writes can be scanned");
        let origin = Origin { from: SocketAddr::from(TARGET), foreign: false };
        let now = self.wire.now;
        self.population.on_message(now, now, flow, origin, &message, &mut self.wire);
    }

    fn pass(&mut self, nanoseconds: u64) {
        let until = self.wire.now + nanoseconds;
        loop {
            self.settle();
            let next = self.population.next_timer().max(self.wire.now);
            if next > until {
                self.wire.now = until;
                return;
            }
            self.wire.now = next;
            self.population.on_timer(next, &mut self.wire);
        }
    }

    fn act(&mut self, kind: Kind) {
        let now = self.wire.now;
        let pair = self.roll(u64::from(PAIRS)) as u32;
        let user = pair * 2 + self.roll(2) as u32;
        let turn = self.roll(8);
        let (population, wire) = (&mut self.population, &mut self.wire);
        match (kind, turn) {
            (_, 0) => self.notify(),
            (Kind::Workflow, _) if population.is_free(pair) => {
                population.start_workflow(now, pair, now, now, HOLD, wire);
            }
            (Kind::Workflow, _) => {}
            (Kind::Held, 1 | 2) => {
                population.sign_on(now, user, now, HOLD, wire);
            }
            (Kind::Held, 3 | 4) => {
                population.subscribe(now, pair, now, HOLD, wire);
            }
            (Kind::Held, 5) => population.sign_off(now, user, HOLD, wire),
            (Kind::Held, _) => {
                let intended = now;
                wire.counts.entry("offered".to_owned()).and_modify(|n| *n += 1).or_insert(1);
                population.publish(now, pair * 2, intended, HOLD, wire);
            }
        }
    }

    /// The end of a run: sign off, then hurry, then cut off.
    fn end(&mut self, kind: Kind) {
        if kind == Kind::Held {
            for user in (0..PAIRS * 2).rev() {
                let now = self.wire.now;
                self.population.sign_off(now, user, HOLD, &mut self.wire);
            }
        }
        self.pass(300 * SECOND);
        let now = self.wire.now;
        self.population.hurry(now, &mut self.wire);
        self.population.interrupt(now, &mut self.wire);
        self.wire.sent.clear();
    }

    fn balance(&self, kind: Kind) {
        let counts = &self.wire.counts;
        let sum =
            |names: &[&str]| -> u64 { names.iter().map(|n| counts.get(*n).copied().unwrap_or(0)).sum() };
        let tally = self.population.tally();
        assert_eq!((tally.registered, tally.subscribed, tally.requests), (0, 0, 0), "{tally:?}");
        assert_eq!((tally.publications, tally.workflows, tally.waiting), (0, 0, 0), "{tally:?}");
        assert_eq!((self.population.timers(), self.wire.open.len()), (0, 0));
        let ways = ["delivered", "superseded", "missed", "void_publish_failed", "void_interrupted"];
        assert_eq!(sum(&["expected"]), sum(&ways), "{counts:?}");
        let met = sum(&["delivered", "superseded"]);
        assert_eq!(self.wire.samples.get("publish_to_notify").copied().unwrap_or(0), met);
        assert_eq!(self.wire.censored.get("publish_to_notify").copied().unwrap_or(0), sum(&["missed"]));
        match kind {
            Kind::Workflow => {
                let ended = sum(&["workflow_ok", "workflow_timed_out", "workflow_failed"]);
                assert_eq!(sum(&["sent"]), ended, "{counts:?}");
            }
            Kind::Held => {
                assert_eq!(sum(&["sent"]), sum(&["publish_ok", "publish_failed"]), "{counts:?}");
                assert_eq!(sum(&["offered"]), sum(&["sent", "not_started"]), "{counts:?}");
            }
        }
        assert!((0..PAIRS * 2).all(|user| self.population.is_gone(user)));
        let failures: BTreeMap<&str, usize> =
            self.wire.failures.iter().fold(BTreeMap::new(), |mut all, (what, _)| {
                *all.entry(what.as_str()).or_default() += 1;
                all
            });
        // Every failure has a prefix to its code.
        assert!(failures.keys().all(|what| what.rsplit(' ').next().is_some_and(|code| code.contains(':'))));
    }
}

/// A response up to what varies.
fn answer(code: u16, headers: &HashMap<String, String>) -> String {
    let mut reply = format!("SIP/2.0 {code} Whatever\r\n");
    for name in ["Via", "From", "Call-ID", "CSeq"] {
        reply += &format!("{name}: {}\r\n", headers[name]);
    }
    let tag = if headers["To"].contains("tag=") { "" } else { ";tag=srv" };
    reply + &format!("To: {}{tag}\r\n", headers["To"])
}

fn notify(
    dialog: &HashMap<String, String>,
    tag: &str,
    cseq: u64,
    state: &str,
    contact: &str,
    body: &str,
) -> String {
    let to = dialog["To"].split(";tag=").next().unwrap_or("");
    format!(
        "NOTIFY sip:us SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK{cseq}\r\nFrom: {to}{tag}\r\nTo: {}\r\n\
         Call-ID: {}\r\nCSeq: {cseq} NOTIFY\r\nEvent: presence\r\nSubscription-State: {state}\r\n\
         Contact: {contact}\r\nContent-Length: {}\r\n\r\n{body}",
        dialog["From"],
        dialog["Call-ID"],
        body.len()
    )
}

fn error(code: &'static str) -> FlowError {
    FlowError { class: Class::Network, code, reason: String::new(), diagnosis: String::new() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_server_answers_the_accounts_balance(
        seed in 0u64..1_000_000_000,
        held in any::<bool>(),
        stream in any::<bool>(),
        kind_answers in any::<u8>(),
    ) {
        let kind = if held { Kind::Held } else { Kind::Workflow };
        let transport = if stream { Transport::Tcp } else { Transport::Udp };
        let mut server = Server::new(seed, kind, transport, kind_answers);
        for _ in 0..60 {
            server.act(kind);
            let pause = [0, 1, 3, 40][server.roll(4) as usize];
            server.pass(pause * SECOND);
        }
        server.end(kind);
        server.balance(kind);
    }

    /// A held user of a server that always says the same asks it at most once a second over an hour,
    /// whatever it says.
    #[test]
    fn a_stubborn_server_is_not_asked_in_a_loop(seed in 0u64..1_000_000_000, stream in any::<bool>()) {
        let transport = if stream { Transport::Tcp } else { Transport::Udp };
        let mut server = Server::new(seed, Kind::Held, transport, 0);
        server.stubborn = true;
        for user in 0..PAIRS * 2 {
            server.population.sign_on(Time(0), user, Time(0), HOLD, &mut server.wire);
        }
        server.pass(SECOND);
        for pair in 0..PAIRS {
            let now = server.wire.now;
            server.population.subscribe(now, pair, now, HOLD, &mut server.wire);
        }
        server.pass(3_600 * SECOND);
        let most = 3_600 * 2 * PAIRS as usize;
        prop_assert!(server.requests <= most, "{} requests: {:?}", server.requests, server.wire.counts);
        server.end(Kind::Held);
        server.balance(Kind::Held);
    }
}
