//! Users of the `lync` dialect against a server that answers anything: whatever
//! it says, nothing panics, nothing is asked in a loop, every account balances
//! and nothing is left behind.

#[path = "support/wire.rs"]
mod wire;

use std::net::SocketAddr;
use std::rc::Rc;

use adsum_presence::Contacts;
use adsum_presence::accounts::{Accounts, Pattern};
use adsum_presence::contacts::Graph;
use adsum_presence::host::{Class, FlowError, FlowEvent, Hop, Origin, Phase, Stage};
use adsum_presence::lync::{LyncAuth, LyncOptions, NtlmOptions};
use adsum_presence::population::{Config, Dialect, Kind, Population, Transport};
use adsum_sip::ids::{Namespace, mix};
use adsum_sip::{HeaderId, Scanner, Time};
use proptest::prelude::*;
use wire::{Out, TARGET, Wire};

const SECOND: u64 = 1_000_000_000;
const HOLD: Stage = Stage { step: 1, phase: Phase::Hold };
const PAIRS: u32 = 3;
const USERS: u32 = PAIRS * 2;

/// More requests than these without any time between them are a loop.
const AT_ONCE: usize = USERS as usize * 5 * 12;

const CODES: [u16; 28] = [
    100, 200, 200, 200, 200, 200, 202, 299, 300, 301, 302, 305, 401, 407, 403, 404, 405, 408, 409, 409, 420,
    421, 481, 488, 489, 500, 503, 603,
];

const STATES: [&str; 11] = [
    "active;expires=28800",
    "active;expires=0",
    "active",
    "pending;expires=9",
    "terminated;expires=0",
    "terminated;reason=deactivated;retry-after=3",
    "terminated;reason=rejected",
    "terminated;reason=giveup",
    "terminated;reason=noresource",
    "terminated;reason=timeout",
    "",
];

/// Of what a server writes; `U` is a user's number of six digits, `M` a marker.
const BODIES: [&str; 17] = [
    "",
    "<categories uri=\"sip:userU@pool.test\"><category name=\"note\"><note><body>M</body></note></category></categories>",
    "<list><resource uri=\"sip:userU@pool.test\"><instance id=\"0\" state=\"active\"/></resource></list>",
    "<list><resource uri=\"sip:userU@pool.test\"><instance id=\"0\" state=\"terminated\" reason=\"noresource\"/></resource></list>",
    "<list><resource uri=\"sip:userU@pool.test\"><instance id=\"0\" state=\"terminated\"/></resource></list>",
    "<list><resource uri=\"sip:userU@pool.test\"><instance id=\"0\" state=\"resubscribe\"/></resource></list>",
    "<list><resource uri=\"sip:userU@pool.test\"><instance state=\"resubscribe\" poolFqdn=\"other.test\"/></resource></list>",
    "<list><resource uri=\"sip:nobody@pool.test\"><instance state=\"active\"/></resource></list> M",
    "<roamingData><categories><category name=\"note\" instance=\"0\" container=\"200\" version=\"7\"/></categories></roamingData>",
    "<roamingData><containers><container id=\"200\" version=\"4294967296\"/></containers></roamingData>",
    "<roamingData><containers><container id=\"200\" version=\"3\"><member type=\"sameEnterprise\"/></container></containers>",
    "<Fault><Faultcode>Client.BadCall.WrongDelta</Faultcode><details><operation index=\"1\" version=\"0\" curVersion=\"9\"/></details></Fault>",
    "<operation index=\"0\" curVersion=\"1\"/><operation index=\"99\" curVersion=\"1\"/>",
    "deregistered;event=rejected",
    "unregistered;event=",
    "<<<\"'&",
    "M M",
];

struct Server {
    population: Population,
    wire: Wire,
    seed: u64,
    kind_answers: u8,
    /// Requests that were seen, for requests in their dialogs.
    seen: Vec<Seen>,
    cseq: u64,
    stubborn: bool,
    temper: u64,
    requests: usize,
}

#[derive(Clone)]
struct Seen {
    flow: u32,
    method: String,
    via: String,
    from: String,
    to: String,
    call_id: String,
    cseq: String,
    event: String,
    contact: String,
    body: String,
}

impl Server {
    fn new(seed: u64, kind: Kind, kind_answers: u8, graph: bool) -> Server {
        let auth = match seed % 3 {
            0 => LyncAuth::None,
            1 => LyncAuth::Digest,
            _ => LyncAuth::Ntlm(NtlmOptions { verify: seed.is_multiple_of(2), ..NtlmOptions::default() }),
        };
        let config = Config {
            namespace: Namespace { run: 9, shard: 1, key: seed },
            transport: Transport::Tcp,
            kind,
            reuse_nonce: seed.is_multiple_of(2),
            self_subscribe: !seed.is_multiple_of(5),
            expires: 600,
            publish_expires: 600,
            deadline: 25 * SECOND,
            dialect: Dialect::Lync(LyncOptions { auth, ..LyncOptions::default() }),
        };
        let accounts = Accounts::Pattern {
            uri: Pattern::parse("sip:user{n:06}@pool.test").unwrap(),
            auth_user: None,
            password: Pattern::parse("pw-user{n:06}").unwrap(),
            pairs: (0..PAIRS).collect(),
        };
        let circle = || (0..USERS * 3).map(|at| (at / 3, (at / 3 + 1 + at % 3) % USERS));
        let contacts =
            if graph { Contacts::Graph(Graph::new(USERS, circle)) } else { Contacts::Pairs(PAIRS) };
        Server {
            population: Population::with_contacts(config, Rc::new(accounts), contacts, Time(0)).unwrap(),
            wire: Wire::new(true, seed.is_multiple_of(7)),
            seed,
            kind_answers,
            seen: Vec::new(),
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

    fn settle(&mut self) {
        let mut requests = 0;
        loop {
            if let Some(out) = self.wire.sent.pop_front() {
                let request = usize::from(!out.text().starts_with("SIP/2.0") && out.bytes.len() > 4);
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
        if out.bytes == b"\r\n\r\n" || out.bytes.starts_with(b"SIP/2.0") {
            return;
        }
        let seen = read(out);
        self.seen.push(seen.clone());
        if self.stubborn {
            return self.insist(&seen);
        }
        if self.roll(4) == 0 {
            self.notify();
        }
        if self.roll(256) < u64::from(self.kind_answers) {
            return self.serve(&seen);
        }
        if self.roll(12) == 0 {
            return; // lost: the server is asleep
        }
        let code = CODES[self.roll(CODES.len() as u64) as usize];
        let mut lines = String::new();
        if self.roll(2) == 0 {
            lines += &format!("ms-piggyback-cseq: {}\r\n", self.one_of(&["1", "7", "99999999999", "x"]));
        }
        lines += &self.lines(&seen);
        let body = self.body();
        self.respond(&seen, code, &lines, &body);
    }

    /// What a good server says.
    fn serve(&mut self, seen: &Seen) {
        let user = number_of(&seen.from);
        match seen.method.as_str() {
            "REGISTER" => {
                let contact = format!(
                    "Contact: {};expires=600;gruu=\"sip:user{user}@pool.test;opaque=user:epid:A;gruu\"\r\n",
                    seen.contact
                );
                let more = "Supported: msrtc-event-categories\r\nms-keep-alive: UAS; tcp=no; timeout=300\r\n";
                self.respond(seen, 200, &format!("{contact}{more}"), "");
            }
            "SUBSCRIBE" => {
                let mut lines = "Contact: <sip:127.0.0.1:5060>\r\nExpires: 28800\r\n".to_owned();
                let body = if seen.event == "presence" {
                    let uris: Vec<&str> = seen
                        .body
                        .split("<resource uri=\"")
                        .skip(1)
                        .filter_map(|r| r.split('"').next())
                        .collect();
                    uris.iter().map(|uri| format!("<categories uri=\"{uri}\"/>")).collect()
                } else {
                    format!("{}</containers></roamingData>", BODIES[10])
                };
                if self.roll(4) > 0 {
                    lines += "ms-piggyback-cseq: 1\r\n";
                    return self.respond(seen, 200, &lines, &body);
                }
                self.respond(seen, 200, &lines, "");
                self.request(seen, "BENOTIFY", "active;expires=28800", &body);
            }
            _ => {
                self.respond(seen, 200, "", "");
                let watcher = |s: &&Seen| {
                    s.method == "SUBSCRIBE"
                        && s.event == "presence"
                        && s.body.contains(&format!("user{user}@"))
                };
                if let Some(watcher) = self.seen.iter().rev().find(watcher).cloned() {
                    self.request(&watcher, "BENOTIFY", "active", &seen.body);
                }
            }
        }
    }

    /// The same answer to each request of a method; what is granted is taken away again.
    fn insist(&mut self, seen: &Seen) {
        let temper =
            |what: &str| what.bytes().fold(self.temper, |hash, byte| mix(hash ^ u64::from(byte))) as usize;
        let choice = temper(&format!("{}{}", seen.method, seen.event));
        let (state, body) = (STATES[temper("state") % STATES.len()], BODIES[temper("body") % BODIES.len()]);
        let roll = std::mem::replace(&mut self.seed, choice as u64);
        if choice % 2 == 0 {
            self.serve(seen);
        } else {
            let (lines, body) = (self.lines(seen), self.body());
            self.respond(seen, CODES[choice / 2 % CODES.len()], &lines, &body);
        }
        self.seed = roll;
        if seen.method == "SUBSCRIBE" && choice % 2 == 0 {
            self.request(seen, "BENOTIFY", state, &body.replace('U', &number_of(&seen.from)));
        }
    }

    fn lines(&mut self, seen: &Seen) -> String {
        let own = &seen.contact;
        let numbers = ["0", "1", "60", "600", "4294967295", "x"];
        let mut lines = String::new();
        if self.roll(2) == 0 {
            let gruu = self.one_of(&["", ";gruu=\"sip:a@b;gruu\"", ";gruu=\"<\"", ";gruu"]);
            lines += &format!("Contact: {own};expires={}{gruu}\r\n", self.one_of(&numbers));
        } else {
            let elsewhere = ["<sip:127.0.0.2>", "<sip:192.0.2.1>", "<tel:+1>", "<", "*", ""];
            lines += &format!("Contact: {}\r\n", self.one_of(&elsewhere));
        }
        let all: [(&str, &[&str]); 11] = [
            ("Expires", &numbers),
            ("Min-Expires", &numbers),
            ("Retry-After", &numbers),
            ("Record-Route", &["<sip:127.0.0.4;lr>", "<sip:192.0.2.2>", ","]),
            ("Supported", &["msrtc-event-categories", "adhoclist, MSRTC-event-categories", "x"]),
            ("ms-keep-alive", &["UAS; timeout=0", "UAS;timeout=99999999999", "UAC;timeout=5", "UAS"]),
            (
                "presence-state",
                &["register-action=\"added\"", "register-action=fixed", "register-action=\"refreshed\""],
            ),
            ("ms-user-logon-data", &["RemoteUser", ""]),
            ("subscription-state", &STATES),
            (
                "WWW-Authenticate",
                &[
                    "NTLM realm=\"SIP Communications Service\", targetname=\"a\", version=4",
                    "NTLM realm=\"SIP Communications Service\", targetname=\"a\", version=4, opaque=\"1\", gssapi-data=\"TlRMTVNTUAACAAAA\"",
                    "Kerberos realm=\"SIP Communications Service\", targetname=\"sip/a\", version=4",
                    "Digest realm=\"a\", nonce=\"1\", qop=\"auth\"",
                    "",
                ],
            ),
            ("ms-diagnostics", &["2044;reason=\"old\";source=\"a\"", ";;\"", "99999999999"]),
        ];
        for (name, values) in all {
            if self.roll(2) == 0 {
                lines += &format!("{name}: {}\r\n", self.one_of(values));
            }
        }
        lines
    }

    fn body(&mut self) -> String {
        let user = 1 + self.roll(u64::from(USERS));
        let sequence = self.roll(4);
        let marker = format!("adsum1.000009.00000{user}.00000{sequence}");
        self.one_of(&BODIES).replace('U', &format!("{user:06}")).replace('M', &marker)
    }

    fn respond(&mut self, seen: &Seen, code: u16, lines: &str, body: &str) {
        let tag = if seen.to.contains("tag=") { "" } else { ";tag=srv" };
        let text = format!(
            "SIP/2.0 {code} Whatever\r\nVia: {}\r\nFrom: {}\r\nTo: {}{tag}\r\nCall-ID: {}\r\nCSeq: {}\r\n{lines}\
             Content-Length: {}\r\n\r\n{body}",
            seen.via,
            seen.from,
            seen.to,
            seen.call_id,
            seen.cseq,
            body.len()
        );
        self.deliver(seen.flow, &text);
    }

    /// A request in the dialog of one of ours.
    fn request(&mut self, seen: &Seen, method: &str, state: &str, body: &str) {
        self.cseq += 1;
        let (cseq, tag) = (self.cseq, ";tag=srv");
        self.inward(seen, method, state, body, cseq, tag, &seen.event.clone(), "");
    }

    #[allow(clippy::too_many_arguments, reason = "all that varies")]
    fn inward(
        &mut self,
        seen: &Seen,
        method: &str,
        state: &str,
        body: &str,
        cseq: u64,
        tag: &str,
        event: &str,
        lines: &str,
    ) {
        let to = seen.to.split(";tag=").next().unwrap_or("");
        let text = format!(
            "{method} sip:us SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK{cseq}\r\nFrom: {to}{tag}\r\nTo: {}\r\n\
             Call-ID: {}\r\nCSeq: {cseq} {method}\r\nEvent: {event}\r\nsubscription-state: {state}\r\n{lines}\
             Content-Length: {}\r\n\r\n{body}",
            seen.from,
            seen.call_id,
            body.len()
        );
        self.deliver(seen.flow, &text);
    }

    /// Anything about something that is there or was.
    fn notify(&mut self) {
        if self.seen.is_empty() {
            return;
        }
        let at = self.roll(self.seen.len() as u64) as usize;
        let seen = self.seen[at].clone();
        let state = self.one_of(&STATES);
        let method = self.one_of(&["BENOTIFY", "BENOTIFY", "NOTIFY", "SERVICE"]);
        let tag = self.one_of(&[";tag=srv", ";tag=srv", ";tag=other", ""]);
        let event = self.one_of(&[
            "presence",
            "presence",
            "vnd-microsoft-roaming-self",
            "registration-notify",
            "conference",
        ]);
        let lines = self.one_of(&[
            "",
            "Content-Type: application/msrtc-event-categories+xml\r\n",
            "Content-Type: multipart/related;boundary=b\r\nContact: <sip:x@192.0.2.3>\r\n",
            "Authentication-Info: NTLM rspauth=\"00\", srand=\"1\", snum=\"1\", opaque=\"1\", qop=\"auth\", realm=\"a\"\r\n",
        ]);
        let body = self.body();
        let cseq = self.roll(4_000);
        self.inward(&seen, method, state, &body, cseq, tag, event, lines);
    }

    fn deliver(&mut self, flow: u32, text: &str) {
        if !self.wire.open.contains_key(&flow) {
            return; // the connection is gone, and all that was on it
        }
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
        let edge = self.roll(u64::from(self.population.contacts().edges())) as u32;
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
                population.subscribe(now, edge, now, HOLD, wire);
            }
            (Kind::Held, 5) => population.sign_off(now, user, HOLD, wire),
            (Kind::Held, _) => {
                wire.counts.entry("offered".to_owned()).and_modify(|n| *n += 1).or_insert(1);
                population.publish(now, pair * 2, now, HOLD, wire);
            }
        }
    }

    /// The end of a run: sign off, then hurry, then cut off.
    fn end(&mut self, kind: Kind) {
        if kind == Kind::Held {
            for user in (0..USERS).rev() {
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
        assert!((0..USERS).all(|user| self.population.is_gone(user)));
        let codes = self.wire.failures.iter().map(|(what, _)| what.rsplit(' ').next().unwrap_or(""));
        for code in codes {
            let known = adsum_presence::diagnosis::codes::failure(code).is_some() || code.starts_with("sip:");
            assert!(known, "`adsum explain` does not know {code}");
        }
    }
}

fn read(out: &Out) -> Seen {
    let mut scanner = Scanner::new();
    let message = scanner.scan(&out.bytes).expect("what we write can be scanned");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let header = |id| message.header(id).map(text).unwrap_or_default();
    Seen {
        flow: out.flow,
        method: text(message.method()),
        via: header(HeaderId::Via),
        from: header(HeaderId::From),
        to: header(HeaderId::To),
        call_id: header(HeaderId::CallId),
        cseq: header(HeaderId::CSeq),
        event: header(HeaderId::Event),
        contact: header(HeaderId::Contact),
        body: text(message.body()),
    }
}

/// The six digits of a user's address.
fn number_of(from: &str) -> String {
    from.split("user").nth(1).and_then(|rest| rest.get(..6)).unwrap_or("000000").to_owned()
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
        graph in any::<bool>(),
        kind_answers in any::<u8>(),
    ) {
        let kind = if held { Kind::Held } else { Kind::Workflow };
        let mut server = Server::new(seed, kind, kind_answers, held && graph);
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
    fn a_stubborn_server_is_not_asked_in_a_loop(seed in 0u64..1_000_000_000, graph in any::<bool>()) {
        let mut server = Server::new(seed, Kind::Held, 0, graph);
        server.stubborn = true;
        for user in 0..USERS {
            server.population.sign_on(Time(0), user, Time(0), HOLD, &mut server.wire);
        }
        server.pass(SECOND);
        for edge in 0..server.population.contacts().edges() {
            let now = server.wire.now;
            server.population.subscribe(now, edge, now, HOLD, &mut server.wire);
        }
        server.pass(3_600 * SECOND);
        let most = 3_600 * USERS as usize;
        prop_assert!(server.requests <= most, "{} requests: {:?}", server.requests, server.wire.counts);
        server.end(Kind::Held);
        server.balance(Kind::Held);
    }
}
