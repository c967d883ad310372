//! What held users cost the pool: memory per user, and CPU per message without
//! sockets. `cargo run --release -p adsum-pool --features aws-lc-rs --example hold -- 100000`
//!
//! Each user registers and subscribes to itself, every second one watches its
//! neighbour, and half of them publish; then publications come for a while.

use std::net::SocketAddr;
use std::time::Instant;

use adsum_pool::PoolConfig;
use adsum_pool::core::{Core, Out, Peer};
use adsum_sip::Time;

/// Resident bytes of this process.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

struct Load {
    core: Core,
    now: u64,
    messages: u64,
    outs: Vec<Out>,
    text: Vec<u8>,
}

impl Load {
    /// Sends one request and answers the NOTIFYs; the entity tag if there is one.
    fn send(&mut self, request: &str) -> Option<String> {
        self.now += 20_000; // 50,000 requests a second
        let peer = Peer::Udp(SocketAddr::from(([127, 0, 0, 1], 4000)));
        let now = Time(self.now);
        let mut outs = std::mem::take(&mut self.outs);
        if self.core.next_timer() <= now {
            self.core.expire(now, &mut outs);
            self.messages += outs.len() as u64;
            outs.drain(..).for_each(|out| self.core.recycle(out.bytes));
        }
        self.core.handle(now, peer, request.as_bytes(), &mut outs);
        self.messages += 1;
        let mut etag = None;
        for out in outs.drain(..) {
            self.messages += 1;
            if out.notify {
                self.answer(&out.bytes);
                self.messages += 1;
                self.core.handle(now, peer, &self.text, &mut Vec::new());
            } else {
                assert!(out.bytes.starts_with(b"SIP/2.0 200"), "{}", String::from_utf8_lossy(&out.bytes));
                let text = std::str::from_utf8(&out.bytes).unwrap_or("");
                etag = text.split_once("SIP-ETag: ").and_then(|(_, t)| t.get(..13)).map(str::to_owned);
            }
            self.core.recycle(out.bytes);
        }
        self.outs = outs;
        etag
    }

    fn answer(&mut self, notify: &[u8]) {
        self.text.clear();
        self.text.extend_from_slice(b"SIP/2.0 200 OK\r\n");
        for line in notify.split_inclusive(|b| *b == b'\n').take_while(|l| l.len() > 2) {
            if [&b"Via"[..], b"From", b"To:", b"Call-ID", b"CSeq"].iter().any(|n| line.starts_with(n)) {
                self.text.extend_from_slice(line);
            }
        }
        self.text.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    }
}

fn request(method: &str, from: u32, to: u32, call: &str, cseq: u32, lines: &str, body: &str) -> String {
    let uri =
        if method == "REGISTER" { "sip:pool.test".to_owned() } else { format!("sip:user{to:06}@pool.test") };
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:4000;rport;branch=z9hG4bK{method}{from:08}{cseq:06}{call}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:user{from:06}@pool.test>;tag={from:08}\r\nTo: <sip:user{to:06}@pool.test>\r\n\
         Call-ID: adsum000000000{call}{from:010}\r\nCSeq: {cseq} {method}\r\nContact: <sip:user{from:06}@127.0.0.1:4000>\r\n\
         {lines}User-Agent: adsum/0.1.0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn publication(user: u32, cseq: u32, etag: &str) -> String {
    let marker = format!("adsum1.00000000.{user:08}.{cseq:010}");
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" \
         xmlns:a=\"urn:adsum:marker:1\" entity=\"sip:user{user:06}@pool.test\"><tuple id=\"adsum\"><status>\
         <basic>open</basic></status><a:marker>{marker}</a:marker><note>{marker}</note></tuple></presence>\n"
    );
    let matching = if etag.is_empty() { String::new() } else { format!("SIP-If-Match: {etag}\r\n") };
    let lines =
        format!("Event: presence\r\nExpires: 3600\r\n{matching}Content-Type: application/pidf+xml\r\n");
    request("PUBLISH", user, user, "p", cseq, &lines, &body)
}

fn main() {
    let users: u32 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let config = PoolConfig { users, auth: false, ..PoolConfig::default() };
    let core = Core::new(config, SocketAddr::from(([127, 0, 0, 1], 5060)));
    let mut load = Load { core, now: 1_000_000_000, messages: 0, outs: Vec::new(), text: Vec::new() };
    let before = resident();
    let began = Instant::now();
    let mut etags = Vec::new();
    for user in 1..=users {
        load.send(&request("REGISTER", user, user, "r", 1, "Expires: 3600\r\n", ""));
        load.send(&request("SUBSCRIBE", user, user, "s", 1, "Event: presence\r\nExpires: 3600\r\n", ""));
        if user % 2 == 0 {
            load.send(&request(
                "SUBSCRIBE",
                user,
                user - 1,
                "w",
                1,
                "Event: presence\r\nExpires: 3600\r\n",
                "",
            ));
        } else {
            etags.push(load.send(&publication(user, 1, "")).unwrap_or_default());
        }
    }
    let spent = began.elapsed().as_secs_f64() * 1e6;
    println!(
        "signed on: {:.2} us a message; {} bytes a user with the answers of the last 32 s, {:?}",
        spent / load.messages as f64,
        (resident() - before) / u64::from(users),
        (load.core.stats().registrations, load.core.stats().subscriptions, load.core.stats().publications)
    );
    load.now += 40_000_000_000;
    load.messages = 0;
    let began = Instant::now();
    for turn in 0..200_000u32 {
        let at = (turn as usize * 7_919) % etags.len();
        let text = publication(at as u32 * 2 + 1, turn + 2, &etags[at]);
        etags[at] = load.send(&text).unwrap_or_default();
    }
    let spent = began.elapsed().as_secs_f64() * 1e6;
    println!("publishing: {:.2} us a message, writing the requests included", spent / load.messages as f64);
    let stats = load.core.stats();
    println!("{} bytes a user in the end; {stats}", (resident() - before) / u64::from(users));
}
