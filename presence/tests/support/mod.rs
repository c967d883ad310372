//! Runs protocol transcripts against a [`Population`]; the format is explained
//! in `transcripts/README.md`.

pub mod pattern;
pub mod script;
pub mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use adsum_presence::Contacts;
use adsum_presence::accounts::{Accounts, Pattern};
use adsum_presence::contacts::Graph;
use adsum_presence::host::{Class, FlowError, FlowEvent, Hop, Origin, Phase, Stage};
use adsum_presence::population::{Config, Kind, Population};
use adsum_sip::ids::Namespace;
use adsum_sip::{Scanner, Time};

use pattern::Captures;
use script::{Block, Do, Line, Place, Script};
use wire::{Out, TARGET, Wire};

const HOLD: Stage = Stage { step: 1, phase: Phase::Hold };

/// What must not happen unseen: each of these has to be said, if it is not 0.
const ANOMALIES: [&str; 19] = [
    "missed",
    "void_publish_failed",
    "void_interrupted",
    "not_expected",
    "not_started",
    "duplicate",
    "late",
    "reordered_cseq",
    "reordered_state",
    "reconnect",
    "subscription_lost",
    "unmatched",
    "users_rejected",
    "etag_conflict",
    "version_conflict",
    "auth_mismatch",
    "malformed",
    "already_gone",
    "superseded",
];

/// Where the transcripts are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

/// Runs a transcript.
pub fn run_text(name: &str, text: &str) {
    let script = script::read(name, text, &directory().join("parts"));
    let mut runner = Runner::new(&script);
    for step in &script.steps {
        runner.step(&step.place, &step.what);
    }
    runner.finish(name);
}

struct Request {
    uri: String,
    method: String,
    headers: Vec<(String, String)>,
    flow: u32,
    bytes: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }
}

struct Runner {
    kind: Kind,
    transport: &'static str,
    population: Population,
    wire: Wire,
    captures: Captures,
    /// What was expected and came, by the name it was given.
    requests: BTreeMap<String, Request>,
    latest: String,
    /// Last CSeq that the server used, by Call-ID.
    cseqs: BTreeMap<String, u32>,
    branches: u32,
    served: Option<(u32, Origin, Vec<u8>)>,
    mark: Time,
    checked: Vec<String>,
    left: bool,
}

fn mismatch(place: &Place, expected: &str, sent: &str) -> ! {
    panic!(
        "{}:{}: {}\n--- expected\n{expected}\n--- sent\n{}\n---",
        place.file,
        place.line,
        place.text.trim(),
        sent.replace('\r', "").trim_end()
    )
}

fn milliseconds(nanoseconds: u64) -> String {
    format!("{} ms", nanoseconds / 1_000_000)
}

impl Runner {
    fn new(script: &Script) -> Runner {
        let setup = &script.setup;
        let config = Config {
            namespace: Namespace { run: 7, shard: 3, key: 11 },
            transport: setup.transport,
            kind: setup.kind,
            reuse_nonce: setup.reuse_nonce,
            self_subscribe: setup.self_subscribe,
            expires: setup.expires,
            publish_expires: setup.publish_expires,
            deadline: setup.deadline,
            dialect: setup.dialect.clone(),
        };
        let accounts = Accounts::Pattern {
            uri: Pattern::parse("sip:user{n:06}@pool.test").unwrap(),
            auth_user: None,
            password: Pattern::parse("pw-user{n:06}").unwrap(),
            pairs: (0..setup.pairs).collect(),
        };
        let contacts = match setup.contacts.as_slice() {
            [] => Contacts::Pairs(setup.pairs),
            edges => Contacts::Graph(Graph::new(setup.pairs * 2, || edges.iter().copied())),
        };
        Runner {
            kind: setup.kind,
            transport: setup.transport.name(),
            population: Population::with_contacts(config, Rc::new(accounts), contacts, Time(0)).unwrap(),
            wire: Wire::new(setup.transport.is_reliable(), setup.redirects),
            captures: Captures::new(),
            requests: BTreeMap::new(),
            latest: String::new(),
            cseqs: BTreeMap::new(),
            branches: 0,
            served: None,
            mark: Time(0),
            checked: Vec::new(),
            left: false,
        }
    }

    fn step(&mut self, place: &Place, what: &Do) {
        match what {
            Do::Expect(block) => self.expect(place, block),
            Do::Serve(block) => self.serve(place, block),
            Do::Mark => self.mark = self.wire.now,
            Do::Pass(time) => {
                self.nothing_more(place);
                self.pass(self.wire.now + *time, false);
            }
            Do::Await(time) => {
                self.nothing_more(place);
                self.pass(self.wire.now + *time, true);
                if self.wire.sent.is_empty() {
                    mismatch(place, "a message", "nothing");
                }
            }
            Do::Act(words) => self.act(place, words),
            Do::Check(words) => self.check(place, words),
        }
    }

    fn nothing_more(&self, place: &Place) {
        if let Some(out) = self.wire.sent.front() {
            mismatch(place, "nothing more before this line", &out.text());
        }
    }

    /// Lets timers fire until then, or until something is sent.
    fn pass(&mut self, until: Time, wait: bool) {
        for _ in 0..100_000 {
            let next = self.population.next_timer().max(self.wire.now);
            if next > until {
                self.wire.now = until;
                return;
            }
            self.wire.now = next;
            self.population.on_timer(next, &mut self.wire);
            if wait && !self.wire.sent.is_empty() {
                return;
            }
        }
        panic!("timers never come to rest");
    }

    fn act(&mut self, place: &Place, words: &[String]) {
        let now = self.wire.now;
        let number: u32 = words[1].parse().unwrap();
        let (population, wire) = (&mut self.population, &mut self.wire);
        match words[0].as_str() {
            "start" => population.start_workflow(now, number, now, now, HOLD, wire),
            "sign_on" => assert!(population.sign_on(now, number, now, HOLD, wire), "{place:?}"),
            "sign_off" => population.sign_off(now, number, HOLD, wire),
            "subscribe" => assert!(population.subscribe(now, number, now, HOLD, wire), "{place:?}"),
            "publish" => population.publish(now, number, now, HOLD, wire),
            _ => {
                let error = |code| FlowError {
                    class: Class::Network,
                    code,
                    reason: "the peer said so".to_owned(),
                    diagnosis: "look there".to_owned(),
                };
                let event = match words[2].as_str() {
                    "open" => FlowEvent::Open(now),
                    "closed" => FlowEvent::Closed(error("transport:closed")),
                    "failed" => FlowEvent::Failed(error("transport:connect")),
                    other => panic!("{place:?}: a flow is not {other}"),
                };
                if !matches!(event, FlowEvent::Open(_)) {
                    wire.open.retain(|_, user| *user != number);
                }
                population.on_flow(now, number, event, wire);
            }
        }
    }

    // ---- what is sent

    fn expect(&mut self, place: &Place, block: &Block) {
        let Some(out) = self.wire.sent.pop_front() else { mismatch(place, &block.start, "nothing") };
        let text = out.text();
        let wrong = |expected: &str| -> ! { mismatch(place, expected, &text) };
        if let Some((from, to)) = block.between {
            let at = out.at.since(self.mark);
            // The wheel's tick is a millisecond: a timer may be that late, never early.
            if at < from || at > to + 1_000_000 {
                let (from, to) = (milliseconds(from), milliseconds(to));
                wrong(&format!("between {from} and {to} after the mark; it was after {}", milliseconds(at)));
            }
        }
        let name = block.name.clone().unwrap_or_else(|| "it".to_owned());
        if block.start == "keep-alive" {
            if out.bytes != b"\r\n\r\n" {
                wrong("a keep-alive: two line breaks");
            }
            return;
        }
        if block.start == "again" {
            let before = self.requests.get(&name).unwrap_or_else(|| wrong("a request of that name before"));
            if before.bytes != out.bytes {
                wrong(&format!("the same bytes again:\n{}", String::from_utf8_lossy(&before.bytes)));
            }
            return;
        }
        let read = parse(&out).unwrap_or_else(|e| wrong(&format!("a message that can be scanned, not {e}")));
        let first = text.lines().next().unwrap_or("");
        let start = if block.start.as_bytes()[0].is_ascii_digit() {
            format!("SIP/2.0 {} {{*}}", block.start)
        } else {
            format!("{} SIP/2.0", block.start)
        };
        if !pattern::matches(&start, first, &mut self.captures) {
            wrong(&format!("{start}{}", self.taken(&start)));
        }
        self.expect_lines(place, block, &out, &read, &text);
        if !read.method.is_empty() {
            self.keep(name, read);
        }
    }

    fn expect_lines(&mut self, place: &Place, block: &Block, out: &Out, read: &Request, text: &str) {
        let wrong = |expected: &str| -> ! { mismatch(place, expected, text) };
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let mut used: BTreeMap<&str, usize> = BTreeMap::new();
        for line in &block.lines {
            match line {
                Line::Is(name, value) if name == "flow" => {
                    if *value != out.flow.to_string() {
                        wrong(&format!("on flow {value}; it was {}", out.flow));
                    }
                }
                Line::Is(name, value) if name == "hop" => {
                    let hop = match out.hop {
                        Hop::Target => "target".to_owned(),
                        Hop::Address(address) | Hop::Blocked(address) => address.to_string(),
                    };
                    if *value != hop {
                        wrong(&format!("to {value}; it went to {hop}"));
                    }
                }
                Line::Is(name, value) => {
                    let there: Vec<&String> =
                        read.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v).collect();
                    if value == "-" {
                        if !there.is_empty() {
                            wrong(&format!("no {name}"));
                        }
                        continue;
                    }
                    let at = used.entry(name).or_default();
                    let found = there
                        .get(*at)
                        .is_some_and(|found| pattern::matches(value, found, &mut self.captures));
                    *at += 1;
                    if !found {
                        wrong(&format!("{name}: {value}{}", self.taken(value)));
                    }
                }
                Line::Has(name, part) => {
                    if !pattern::contains(part, read.header(name), &mut self.captures) {
                        wrong(&format!("{name} with {part}{}", self.taken(part)));
                    }
                }
                Line::Body(part) if part == "-" => {
                    if !body.is_empty() {
                        wrong("no body");
                    }
                }
                Line::Body(part) => {
                    if !pattern::contains(part, body, &mut self.captures) {
                        wrong(&format!("a body with {part}{}", self.taken(part)));
                    }
                }
            }
        }
        for (name, count) in used {
            let there = read.headers.iter().filter(|(n, _)| n == name).count();
            if there != count {
                wrong(&format!("{name} {count} times; it is there {there} times"));
            }
        }
    }

    /// The names in a pattern that were taken before, for mismatches.
    fn taken(&self, pattern: &str) -> String {
        let holes = pattern.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
        holes
            .filter_map(|(name, _)| Some(format!("\n  where {name} is {}", self.captures.get(name)?)))
            .collect()
    }

    /// Remembers a request and its parts under `name.…`.
    fn keep(&mut self, name: String, request: Request) {
        let contact = uri_of(request.header("Contact")).to_owned();
        let (to, to_tag) = split_tag(request.header("To"));
        let (from, from_tag) = split_tag(request.header("From"));
        let via = request.header("Via");
        let branch = via.split("branch=").nth(1).unwrap_or("").split(';').next().unwrap_or("");
        let cseq = request.header("CSeq").split(' ').next().unwrap_or("");
        let parts = [
            ("uri", request.uri.as_str()),
            ("via", via),
            ("branch", branch),
            ("from", from),
            ("from_tag", from_tag),
            ("to", to),
            ("to_tag", to_tag),
            ("call_id", request.header("Call-ID")),
            ("cseq", cseq),
            ("contact", &contact),
        ];
        for (part, value) in parts {
            self.captures.insert(format!("{name}.{part}"), value.to_owned());
        }
        self.latest.clone_from(&name);
        self.requests.insert(name, request);
    }

    // ---- what the server sends

    fn serve(&mut self, place: &Place, block: &Block) {
        if block.start == "again" {
            let (flow, origin, bytes) = self.served.clone().expect("the server has sent something");
            return self.deliver(place, flow, origin, &bytes);
        }
        let about = block.name.clone().unwrap_or_else(|| self.latest.clone());
        let Some(request) = self.requests.get(&about) else {
            panic!("{}:{}: there was no request `{about}`", place.file, place.line)
        };
        let is_response = block.start.as_bytes()[0].is_ascii_digit();
        let flow = request.flow;
        let (start, mut headers) = if is_response {
            answer_to(request, &block.start)
        } else {
            self.request_to(&about, &block.start)
        };
        let mut body = String::new();
        let mut origin = Origin { from: SocketAddr::from(TARGET), foreign: false };
        let mut cleared: Vec<String> = Vec::new();
        for line in &block.lines {
            match line {
                Line::Is(name, value) if name == "origin" => {
                    origin = Origin { from: value.parse().unwrap(), foreign: true };
                }
                Line::Is(name, value) => {
                    let full = full_name(name);
                    if !cleared.contains(&full) {
                        headers.retain(|(n, _)| *n != full);
                        cleared.push(full.clone());
                    }
                    if value != "-" {
                        let value = pattern::fill(value, &about, &self.captures)
                            .unwrap_or_else(|e| panic!("{}:{}: {e}", place.file, place.line));
                        headers.push((full, value.replace("\\n", "\r\n").replace("\\t", "\t")));
                    }
                }
                Line::Body(text) => {
                    body += &pattern::fill(text, &about, &self.captures)
                        .unwrap_or_else(|e| panic!("{}:{}: {e}", place.file, place.line));
                    body += "\r\n";
                }
                Line::Has(..) => panic!("{}:{}: `~` is for what is sent", place.file, place.line),
            }
        }
        if !body.is_empty() && !headers.iter().any(|(n, _)| n == "Content-Type") {
            headers.push(("Content-Type".to_owned(), "application/pidf+xml".to_owned()));
        }
        headers.push(("Content-Length".to_owned(), body.len().to_string()));
        let mut text = format!("{start}\r\n");
        for (name, value) in headers {
            let name = if block.compact { compact_name(&name) } else { &name };
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        text += &body;
        self.served = Some((flow, origin, text.clone().into_bytes()));
        self.deliver(place, flow, origin, text.as_bytes());
    }

    fn deliver(&mut self, place: &Place, flow: u32, origin: Origin, bytes: &[u8]) {
        let mut scanner = Scanner::new();
        let message = scanner.scan(bytes).unwrap_or_else(|e| panic!("{}:{}: {e}", place.file, place.line));
        let now = self.wire.now;
        self.population.on_message(now, now, flow, origin, &message, &mut self.wire);
    }

    /// A request towards us, in the dialog of a SUBSCRIBE of ours.
    fn request_to(&mut self, about: &str, method: &str) -> (String, Vec<(String, String)>) {
        let part = |part: &str| self.captures[&format!("{about}.{part}")].clone();
        let call_id = part("call_id");
        let cseq = self.cseqs.entry(call_id.clone()).or_default();
        *cseq += 1;
        self.branches += 1;
        let tag = Some(part("to_tag")).filter(|tag| !tag.is_empty()).unwrap_or_else(|| "srv".to_owned());
        let mut headers = vec![
            ("Via", format!("SIP/2.0/{} 127.0.0.1:5060;branch=z9hG4bKsrv{}", self.transport, self.branches)),
            ("Max-Forwards", "70".to_owned()),
            ("From", format!("{};tag={tag}", part("to"))),
            ("To", format!("{};tag={}", part("from"), part("from_tag"))),
            ("Call-ID", call_id),
            ("CSeq", format!("{cseq} {method}")),
        ];
        if method == "BENOTIFY" {
            headers.push(("Event", "presence".to_owned()));
            headers.push(("Subscription-State", "active;expires=28800".to_owned()));
        }
        if method == "NOTIFY" {
            headers.push(("Contact", "<sip:pa@127.0.0.1:5060>".to_owned()));
            headers.push(("Event", "presence".to_owned()));
            headers.push(("Subscription-State", "active;expires=600".to_owned()));
        }
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        (format!("{method} {} SIP/2.0", part("contact")), headers)
    }

    // ---- what must have come of it

    fn check(&mut self, place: &Place, words: &[String]) {
        let wrong = |what: String| -> ! { mismatch(place, &place.text, &what) };
        let number = || words[2].parse::<u64>().unwrap_or_else(|_| wrong("no number".to_owned()));
        match words[0].as_str() {
            "count" => {
                let found = self.wire.counts.get(&words[1]).copied().unwrap_or(0);
                if found != number() {
                    wrong(format!("{} is {found}; all counts: {:?}", words[1], self.wire.counts));
                }
                self.checked.push(words[1].clone());
            }
            "sampled" => {
                let found = self.wire.samples.get(&words[1]).copied().unwrap_or(0);
                if found != number() {
                    wrong(format!("{} was sampled {found} times; all: {:?}", words[1], self.wire.samples));
                }
            }
            "censored" => {
                let found = self.wire.censored.remove(&words[1]).unwrap_or(0);
                if found != number() {
                    wrong(format!(
                        "{} was censored {found} times; others: {:?}",
                        words[1], self.wire.censored
                    ));
                }
            }
            "failed" => {
                let Some((what, text)) = self.wire.failures.pop_front() else {
                    wrong("nothing (more) failed".to_owned())
                };
                let (head, part) = place.text.split_once(" ~ ").unwrap_or((&place.text, ""));
                let head = head.strip_prefix("failed ").unwrap_or(head).trim();
                if what != head || !text.contains(part.trim()) {
                    wrong(format!("{what} ~ {text}"));
                }
            }
            _ => {
                let found = self.tally();
                for word in &words[1..] {
                    let (key, value) = word.split_once('=').unwrap_or_else(|| wrong("key=value".to_owned()));
                    if found.get(key).map(u64::to_string).as_deref() != Some(value) {
                        wrong(format!("{key} is {:?}; all: {found:?}", found.get(key)));
                    }
                }
                self.left |= words[0] == "left";
            }
        }
    }

    fn tally(&self) -> BTreeMap<&'static str, u64> {
        let tally = self.population.tally();
        BTreeMap::from([
            ("registered", tally.registered),
            ("subscribed", tally.subscribed),
            ("rejected", tally.rejected),
            ("requests", tally.requests),
            ("publications", tally.publications),
            ("workflows", tally.workflows),
            ("waiting", tally.waiting),
            ("timers", self.population.timers() as u64),
            ("flows", self.wire.open.len() as u64),
        ])
    }

    fn finish(&mut self, name: &str) {
        let end = Place { file: name.to_owned(), line: 0, text: "the end".to_owned() };
        self.nothing_more(&end);
        let sum = |counters: &[&str]| -> u64 {
            counters.iter().map(|c| self.wire.counts.get(*c).copied().unwrap_or(0)).sum()
        };
        if let Some((what, text)) = self.wire.failures.front() {
            mismatch(&end, "no failure that is not named", &format!("{what} ~ {text}"));
        }
        if !self.wire.censored.is_empty() {
            mismatch(&end, "every censored metric is named", &format!("{:?}", self.wire.censored));
        }
        for anomaly in ANOMALIES {
            if sum(&[anomaly]) > 0 && !self.checked.iter().any(|c| c == anomaly) {
                mismatch(
                    &end,
                    &format!("no {anomaly} that is not named"),
                    &format!("{:?}", self.wire.counts),
                );
            }
        }
        if self.left {
            return;
        }
        let left: Vec<_> = self.tally().into_iter().filter(|(key, n)| *n > 0 && *key != "rejected").collect();
        if !left.is_empty() {
            mismatch(&end, "nothing is left", &format!("{left:?}"));
        }
        // Everything has ended, so the identities hold.
        let ended = ["delivered", "superseded", "missed", "void_publish_failed", "void_interrupted"];
        assert_eq!(sum(&["expected"]), sum(&ended), "{name}: {:?}", self.wire.counts);
        let ways: &[&str] = match self.kind {
            Kind::Workflow => &["workflow_ok", "workflow_timed_out", "workflow_failed"],
            Kind::Held => &["publish_ok", "publish_failed"],
        };
        assert_eq!(sum(&["sent"]), sum(ways), "{name}: {:?}", self.wire.counts);
    }
}

fn parse(out: &Out) -> Result<Request, adsum_sip::ScanError> {
    let mut scanner = Scanner::new();
    let message = scanner.scan(&out.bytes)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (method, uri) = match message.start() {
        adsum_sip::Start::Request { method, uri } => (text(method), text(uri)),
        adsum_sip::Start::Response { .. } => (String::new(), String::new()),
    };
    let headers = message.lines().map(|(name, value)| (text(name), text(value))).collect();
    Ok(Request { uri, method, headers, flow: out.flow, bytes: out.bytes.clone() })
}

/// A response with what RFC 3261 §8.2.6.2 copies.
fn answer_to(request: &Request, start: &str) -> (String, Vec<(String, String)>) {
    let start = match start {
        "200" => "200 OK",
        "202" => "202 Accepted",
        "401" => "401 Unauthorized",
        "407" => "407 Proxy Authentication Required",
        other => other,
    };
    let mut headers: Vec<(String, String)> = Vec::new();
    for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
        for (_, value) in request.headers.iter().filter(|(n, _)| n == name) {
            let tagged = name == "To" && !value.contains(";tag=") && !start.starts_with("100");
            headers.push((name.to_owned(), format!("{value}{}", if tagged { ";tag=srv" } else { "" })));
        }
    }
    // `503` alone has an empty reason phrase, which is legal.
    let space = if start.contains(' ') { "" } else { " " };
    (format!("SIP/2.0 {start}{space}"), headers)
}

fn uri_of(value: &str) -> &str {
    value.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(value, |(uri, _)| uri)
}

fn split_tag(value: &str) -> (&str, &str) {
    value.split_once(";tag=").unwrap_or((value, ""))
}

const COMPACT: [(&str, &str); 10] = [
    ("v", "Via"),
    ("f", "From"),
    ("t", "To"),
    ("i", "Call-ID"),
    ("m", "Contact"),
    ("l", "Content-Length"),
    ("c", "Content-Type"),
    ("o", "Event"),
    ("u", "Allow-Events"),
    ("k", "Supported"),
];

fn full_name(name: &str) -> String {
    COMPACT.iter().find(|(short, _)| *short == name).map_or(name, |(_, full)| full).to_owned()
}

fn compact_name(name: &str) -> &str {
    COMPACT.iter().find(|(_, full)| *full == name).map_or(name, |(short, _)| short)
}
