//! A pool without sockets in virtual time, and what is said to it.
#![allow(dead_code, reason = "each test file uses some of it")]

pub mod lync;
pub mod ntlm;

use std::net::SocketAddr;

use adsum_pool::PoolConfig;
use adsum_pool::core::{Core, Out, Peer};
use adsum_sip::{Scanner, Start, Time};

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;

/// A request that is being written.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    uri: String,
    from: String,
    to: String,
    call_id: String,
    cseq: u32,
    branch: String,
    via: Option<String>,
    lines: Vec<String>,
    body: String,
}

pub fn aor(user: u32) -> String {
    format!("sip:user{user:06}@pool.test")
}

impl Request {
    /// From a user about itself, with everything that a request needs.
    pub fn new(method: &str, user: u32) -> Request {
        Request {
            method: method.to_owned(),
            uri: if method == "REGISTER" { "sip:pool.test".to_owned() } else { aor(user) },
            from: format!("<{}>;tag=f{user}", aor(user)),
            to: format!("<{}>", aor(user)),
            call_id: format!("{method}-{user}"),
            cseq: 1,
            branch: String::new(),
            via: None,
            lines: Vec::new(),
            body: String::new(),
        }
    }

    pub fn register(user: u32, contact: &str) -> Request {
        Request::new("REGISTER", user).line(&format!("Contact: {contact}"))
    }

    /// Subscribes `user` to `watched`.
    pub fn subscribe(user: u32, watched: u32, expires: u32) -> Request {
        Request::new("SUBSCRIBE", user)
            .about(watched)
            .line(&format!("Contact: <sip:user{user:06}@127.0.0.1:4000>"))
            .line("Event: presence")
            .line(&format!("Expires: {expires}"))
    }

    /// Publishes a document with one tuple that has this note.
    pub fn publish(user: u32, note: &str) -> Request {
        Request::publish_bare(user, 600).document(&pidf(note))
    }

    pub fn publish_bare(user: u32, expires: u32) -> Request {
        Request::new("PUBLISH", user).line("Event: presence").line(&format!("Expires: {expires}"))
    }

    pub fn document(self, body: &str) -> Request {
        self.line("Content-Type: application/pidf+xml").body(body)
    }

    pub fn about(mut self, user: u32) -> Request {
        self.uri = aor(user);
        self.to = format!("<{}>", aor(user));
        self
    }

    pub fn uri(mut self, uri: &str) -> Request {
        self.uri = uri.to_owned();
        self
    }

    pub fn from(mut self, from: &str) -> Request {
        self.from = from.to_owned();
        self
    }

    pub fn to(mut self, to: &str) -> Request {
        self.to = to.to_owned();
        self
    }

    pub fn in_dialog(mut self, tag: &str) -> Request {
        self.to = format!("{};tag={tag}", self.to);
        self
    }

    pub fn call(mut self, call_id: &str, cseq: u32) -> Request {
        self.call_id = call_id.to_owned();
        self.cseq = cseq;
        self
    }

    pub fn branch(mut self, branch: &str) -> Request {
        self.branch = branch.to_owned();
        self
    }

    pub fn via(mut self, via: &str) -> Request {
        self.via = Some(via.to_owned());
        self
    }

    pub fn line(mut self, line: &str) -> Request {
        self.lines.push(line.to_owned());
        self
    }

    pub fn body(mut self, body: &str) -> Request {
        self.body = body.to_owned();
        self
    }

    pub fn method(&self) -> &str {
        &self.method
    }

    pub fn request_uri(&self) -> &str {
        &self.uri
    }

    /// As it goes over the wire; `number` makes an own branch.
    pub fn text(&self, number: u64) -> String {
        let branch =
            if self.branch.is_empty() { format!("z9hG4bKtest{number}") } else { self.branch.clone() };
        let via =
            self.via.clone().unwrap_or_else(|| format!("SIP/2.0/UDP 127.0.0.1:4000;rport;branch={branch}"));
        let lines: String = self.lines.iter().map(|line| format!("{line}\r\n")).collect();
        format!(
            "{} {} SIP/2.0\r\nVia: {via}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\n\
             CSeq: {} {}\r\n{lines}Content-Length: {}\r\n\r\n{}",
            self.method,
            self.uri,
            self.from,
            self.to,
            self.call_id,
            self.cseq,
            self.method,
            self.body.len(),
            self.body
        )
    }
}

pub fn pidf(note: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" entity=\"x\">\
         <tuple id=\"t{note}\"><status><basic>open</basic></status><note>{note}</note></tuple></presence>\n"
    )
}

/// A message of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Msg {
    pub at: Time,
    pub peer: Peer,
    pub text: String,
}

impl Msg {
    pub fn new(at: Time, peer: Peer, bytes: &[u8]) -> Msg {
        Msg { at, peer, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    /// 0 for a NOTIFY.
    pub fn code(&self) -> u16 {
        let mut scanner = Scanner::new();
        scanner.scan(self.text.as_bytes()).unwrap().code()
    }

    pub fn is_notify(&self) -> bool {
        self.text.starts_with("NOTIFY ")
    }

    pub fn request_uri(&self) -> String {
        let mut scanner = Scanner::new();
        match scanner.scan(self.text.as_bytes()).unwrap().start() {
            Start::Request { uri, .. } => String::from_utf8(uri.to_vec()).unwrap(),
            Start::Response { .. } => panic!("an answer: {}", self.text),
        }
    }

    pub fn all(&self, name: &str) -> Vec<String> {
        let mut scanner = Scanner::new();
        let message = scanner.scan(self.text.as_bytes()).unwrap();
        let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
        message
            .lines()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, v)| text(v))
            .collect()
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> String {
        self.all(name).first().unwrap_or_else(|| panic!("no {name} in {}", self.text)).clone()
    }

    pub fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    pub fn document(&self) -> adsum_presence::pidf::Document {
        adsum_presence::pidf::parse(self.body()).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// Notes of the tuples, in order.
    pub fn notes(&self) -> Vec<String> {
        self.document().tuples.iter().flat_map(|t| t.notes.clone()).collect()
    }

    pub fn state(&self) -> String {
        self.header("Subscription-State")
    }

    pub fn to_tag(&self) -> String {
        self.header("To").split_once(";tag=").unwrap().1.to_owned()
    }

    pub fn cseq(&self) -> u32 {
        self.header("CSeq").split(' ').next().unwrap().parse().unwrap()
    }

    /// The answer of whoever was notified.
    pub fn answer(&self, code: u16) -> String {
        let mut text = format!("SIP/2.0 {code} X\r\n");
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            text.push_str(&format!("{name}: {}\r\n", self.header(name)));
        }
        text + "Content-Length: 0\r\n\r\n"
    }
}

/// A pool and its clock.
pub struct World {
    pub core: Core,
    pub now: Time,
    pub peer: Peer,
    /// NOTIFYs are answered so, if at all, as soon as they leave.
    pub notified: Option<u16>,
    number: u64,
}

/// As the tests want it: nobody has to prove anything.
pub fn open() -> PoolConfig {
    PoolConfig { auth: false, ..PoolConfig::default() }
}

impl World {
    pub fn new(config: PoolConfig) -> World {
        let local = SocketAddr::from(([127, 0, 0, 1], 5060));
        let peer = Peer::Udp(SocketAddr::from(([127, 0, 0, 1], 4000)));
        // Not at 0: a clock is somewhere.
        World {
            core: Core::new(config, local),
            now: Time(86_400 * SECOND),
            peer,
            notified: Some(200),
            number: 0,
        }
    }

    /// Everything that is sent because of some bytes, in the order of its instants.
    pub fn bytes(&mut self, bytes: &[u8]) -> Vec<Msg> {
        let mut outs = Vec::new();
        self.core.handle(self.now, self.peer, bytes, &mut outs);
        self.sent(outs)
    }

    fn sent(&mut self, outs: Vec<Out>) -> Vec<Msg> {
        let mut sent: Vec<Msg> =
            outs.iter().map(|out| Msg::new(out.at.max(self.now), out.peer, &out.bytes)).collect();
        sent.sort_by_key(|m| m.at);
        if let Some(code) = self.notified {
            for notify in sent.iter().filter(|m| m.is_notify()) {
                let mut outs = Vec::new();
                self.core.handle(notify.at, notify.peer, notify.answer(code).as_bytes(), &mut outs);
                assert!(outs.is_empty());
            }
        }
        sent
    }

    /// All that a request causes at once.
    pub fn tell(&mut self, request: &Request) -> Vec<Msg> {
        self.number += 1;
        let text = request.text(self.number);
        self.bytes(text.as_bytes())
    }

    /// The answer to a request.
    #[track_caller]
    pub fn ask(&mut self, request: &Request) -> Msg {
        let sent = self.tell(request);
        sent.into_iter().find(|m| !m.is_notify()).expect("an answer")
    }

    /// The NOTIFYs that a request causes; it has to be answered with 200.
    #[track_caller]
    pub fn notifies(&mut self, request: &Request) -> Vec<Msg> {
        let sent = self.tell(request);
        let (notifies, answers): (Vec<Msg>, Vec<Msg>) = sent.into_iter().partition(Msg::is_notify);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].code(), 200, "{}", answers[0].text);
        notifies
    }

    /// Lets time pass; what is sent meanwhile.
    pub fn pass(&mut self, nanoseconds: u64) -> Vec<Msg> {
        let until = self.now + nanoseconds;
        let mut sent = Vec::new();
        while self.core.next_timer() <= until {
            self.now = self.now.max(self.core.next_timer());
            let mut outs = Vec::new();
            self.core.expire(self.now, &mut outs);
            sent.append(&mut self.sent(outs));
        }
        self.now = until;
        sent
    }

    /// A subscription of `user` to `watched`; its answer.
    pub fn subscribed(&mut self, user: u32, watched: u32, expires: u32) -> Msg {
        let answer = self.ask(&Request::subscribe(user, watched, expires));
        assert_eq!(answer.code(), 200, "{}", answer.text);
        answer
    }
}
