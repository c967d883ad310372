//! The host of a transcript: keeps what is sent, counted and measured.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use adsum_presence::host::{
    Counter, Failure, Flow, Hop, Host, Measure, Method, Opened, Origin, Redirect, Sample, Sent, Stage,
};
use adsum_sip::Time;

/// One message that was sent.
#[derive(Debug, Clone)]
pub struct Out {
    pub at: Time,
    pub flow: Flow,
    pub hop: Hop,
    pub bytes: Vec<u8>,
}

impl Out {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

#[derive(Debug)]
pub struct Wire {
    pub now: Time,
    pub reliable: bool,
    pub sent: VecDeque<Out>,
    pub counts: BTreeMap<String, u64>,
    pub samples: BTreeMap<String, u64>,
    pub censored: BTreeMap<String, u64>,
    /// `activity class code`, then reason and diagnosis.
    pub failures: VecDeque<(String, String)>,
    pub open: BTreeMap<Flow, u32>,
    pub redirects: bool,
}

/// Where the pool is.
pub const TARGET: ([u8; 4], u16) = ([127, 0, 0, 1], 5060);

impl Wire {
    pub fn new(reliable: bool, redirects: bool) -> Wire {
        Wire {
            now: Time(0),
            reliable,
            sent: VecDeque::new(),
            counts: BTreeMap::new(),
            samples: BTreeMap::new(),
            censored: BTreeMap::new(),
            failures: VecDeque::new(),
            open: BTreeMap::new(),
            redirects,
        }
    }

    /// The address in a URI; a name is the pool's.
    fn address(uri: &[u8]) -> SocketAddr {
        let target = SocketAddr::from(TARGET);
        let Some(uri) = adsum_sip::value::sip_uri(uri) else { return target };
        let host = std::str::from_utf8(uri.host).unwrap_or("");
        match host.parse() {
            Ok(ip) => SocketAddr::new(ip, uri.port.unwrap_or(5060)),
            Err(_) => target,
        }
    }

    /// Loopback is allowed, and nothing else.
    fn allowed(address: SocketAddr) -> bool {
        address.ip().is_loopback()
    }
}

/// `EtagConflict` as `etag_conflict`.
pub fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

impl Host for Wire {
    fn open(&mut self, _: Time, user: u32) -> Opened {
        if self.reliable {
            self.open.insert(user, user);
            Opened::Connecting(user)
        } else {
            Opened::Ready(0)
        }
    }
    fn close(&mut self, user: u32, flow: Flow) {
        if self.reliable {
            assert_eq!(self.open.remove(&flow), Some(user), "a flow is closed that is not the user's");
        }
    }
    fn send(&mut self, _: u32, flow: Flow, hop: Hop, bytes: &[u8]) -> Sent {
        self.sent.push_back(Out { at: self.now, flow, hop, bytes: bytes.to_vec() });
        Sent::At(self.now)
    }
    fn reply(&mut self, flow: Flow, _: Origin, bytes: &[u8]) -> Sent {
        self.send(0, flow, Hop::Target, bytes)
    }
    fn write_local(&self, flow: Flow, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("127.0.0.1:{}", 4000 + flow).as_bytes());
    }
    fn hop(&mut self, _: Flow, uri: &[u8]) -> Hop {
        match Wire::address(uri) {
            address if address == SocketAddr::from(TARGET) => Hop::Target,
            address if Wire::allowed(address) => Hop::Address(address),
            address => Hop::Blocked(address),
        }
    }
    fn redirect(&mut self, _: Time, user: u32, uri: &[u8]) -> Redirect {
        assert!(self.reliable, "a datagram goes anywhere");
        if !self.redirects {
            return Redirect::No;
        }
        let address = Wire::address(uri);
        if !Wire::allowed(address) {
            return Redirect::Blocked(address);
        }
        self.open.retain(|_, owner| *owner != user);
        // The flow of user 1 to 127.0.0.2 has the number 202, so that transcripts can name it.
        let last = address.ip().to_string().rsplit('.').next().and_then(|part| part.parse().ok());
        let flow = 100 * (user + 1) + last.unwrap_or(0);
        self.open.insert(flow, user);
        Redirect::To(Opened::Connecting(flow))
    }
    fn sample(&mut self, s: &Sample) {
        assert!(s.ended >= s.sent && s.sent >= s.intended, "{s:?}");
        *self.samples.entry(snake(&format!("{:?}", s.measure))).or_default() += 1;
    }
    fn censored(&mut self, measure: Measure, _: Stage, _: Time, _: Time) {
        *self.censored.entry(snake(&format!("{measure:?}"))).or_default() += 1;
    }
    fn send_lag(&mut self, _: Stage, _: Time, _: Time) {}
    fn count(&mut self, _: Stage, counter: Counter, _: Time, n: u64) {
        *self.counts.entry(snake(&format!("{counter:?}"))).or_default() += n;
    }
    fn message_sent(&mut self, _: Method, _: u16, again: bool) {
        *self.counts.entry("retransmit_sent".to_owned()).or_default() += u64::from(again);
    }
    fn message_received(&mut self, _: Method, _: u16, again: bool) {
        *self.counts.entry("retransmit_received".to_owned()).or_default() += u64::from(again);
    }
    fn failed(&mut self, f: &Failure<'_>) {
        let from = format!("From: <sip:user{:06}@pool.test>", f.user + 1);
        let request = String::from_utf8_lossy(f.request);
        assert!(request.is_empty() || request.contains(&from), "the request is another user's: {request}");
        let what = format!("{} {} {}", f.activity.name(), snake(&format!("{:?}", f.class)), f.code);
        let words = format!("{} {}", String::from_utf8_lossy(f.reason), String::from_utf8_lossy(f.diagnosis));
        self.failures.push_back((what, words));
    }
}
