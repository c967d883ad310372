//! Micro benchmarks of `presence`: messages from templates, digest, markers,
//! the timer wheel.

mod common;

use std::hint::black_box;

use adsum_presence::Accounts;
use adsum_presence::accounts::Pattern;
use adsum_presence::marker::{Finder, Marker};
use adsum_presence::population::Transport;
use adsum_presence::simple::{Fields, Messages, Shape};
use adsum_presence::wheel::Wheel;
use adsum_sip::digest::{Digest, State};
use adsum_sip::ids::{BranchRef, Namespace, mix};
use adsum_sip::protection::{Attempts, Incoming, Outgoing, Protection as _, Reading, Verdict};
use adsum_sip::sipae::{Authority, AuthorityConfig, Check, Ntlm};
use adsum_sip::time::{MILLISECOND, SECOND};
use adsum_sip::{Scanner, Time};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use common::CpuTime;

const OURS: Namespace = Namespace { run: 0x2345_6789, shard: 1, key: 7 };
const MARKER: Marker = Marker { run: 0x2345_6789, publisher: 1, sequence: 2 };

fn fields(lines: &[u8]) -> Fields<'_> {
    Fields {
        request_uri: b"sip:user000001@pool.test",
        from: b"sip:user000001@pool.test",
        from_tag: *b"k3v0q8zt",
        to: b"sip:user000001@pool.test",
        to_tag: b"",
        call_id: b"adsum8t5cc90001p00012m003",
        cseq: 42,
        expires: 3_600,
        local: b"127.0.0.1:40123",
        lines,
        marker: Some(MARKER),
    }
}

fn accounts() -> Accounts {
    let pattern = |text| Pattern::parse(text).expect("a pattern");
    Accounts::Pattern {
        uri: pattern("sip:user{n:06}@pool.test"),
        auth_user: None,
        password: pattern("pw-user{n:06}"),
        pairs: (0..1_000).collect(),
    }
}

fn template(c: &mut Criterion<CpuTime>) {
    let messages = Messages::new(Transport::Udp).expect("messages");
    let branch = BranchRef { slot: 12, generation: 34 };
    let mut out = Vec::with_capacity(2_048);
    let mut group = c.benchmark_group("template");
    for (name, shape, lines) in [
        ("PUBLISH with a document", Shape::Publish, &b"SIP-If-Match: a.1795609565.4711.2.0\r\n"[..]),
        ("REGISTER", Shape::Register, b""),
    ] {
        let fields = fields(lines);
        messages.render(shape, &OURS, branch, &fields, &mut out);
        group.throughput(Throughput::Bytes(out.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                messages.render(shape, &OURS, black_box(branch), black_box(&fields), &mut out);
                out.len()
            });
        });
    }
    group.finish();
}

fn digest(c: &mut Criterion<CpuTime>) {
    let accounts = accounts();
    let mut group = c.benchmark_group("digest");
    for algorithm in ["MD5", "SHA-256"] {
        let text = format!(
            "SIP/2.0 401 Unauthorized\r\nVia: SIP/2.0/UDP 127.0.0.1:40123;branch=z9hG4bK8t5cc9\r\n\
             From: <sip:user000001@pool.test>;tag=k3v0q8zt\r\nTo: <sip:user000001@pool.test>;tag=5b1e\r\n\
             Call-ID: adsum8t5cc90001p00012m003\r\nCSeq: 1 PUBLISH\r\n\
             WWW-Authenticate: Digest realm=\"pool.test\", nonce=\"ZSPXB2Uj1dsxJ0fF0dXo2nZp7ZkY\", qop=\"auth\", \
             algorithm={algorithm}\r\nContent-Length: 0\r\n\r\n"
        );
        let mut scanner = Scanner::new();
        let challenge = scanner.scan(text.as_bytes()).expect("a challenge");
        let mut digest = Digest::new(false, 1);
        let mut out = Vec::with_capacity(512);
        // From the challenge to the header line that answers it.
        group.bench_function(format!("answer a challenge, {algorithm}"), |b| {
            b.iter(|| {
                let (mut state, mut attempts) = (State::default(), Attempts::default());
                let incoming = Incoming { message: black_box(&challenge), request: b"" };
                let verdict = digest.challenged(&mut state, &accounts, 0, &incoming, &mut attempts);
                assert_eq!(verdict, Verdict::Answer);
                out.clear();
                let uri = b"sip:user000001@pool.test";
                let outgoing = Outgoing { method: b"PUBLISH", uri, ..Outgoing::default() };
                digest.write(&mut state, &accounts, 0, &outgoing, &mut out);
                out.len()
            });
        });
    }
    group.finish();
}

/// A client and a server of NTLM that have agreed, and a signed 200 of the server.
fn ntlm(c: &mut Criterion<CpuTime>) {
    let accounts = accounts();
    let config = AuthorityConfig {
        version: 4,
        target: "ref.pool.test".to_owned(),
        domain: "POOL".to_owned(),
        proxy: false,
        extended: true,
        mic: false,
        key: 5,
    };
    let request = Outgoing {
        method: b"SERVICE",
        uri: b"sip:user000001@pool.test",
        call_id: b"adsum8t5cc90001p00012m003",
        cseq: 3,
        from_uri: b"sip:user000001@pool.test",
        from_tag: b"k3v0q8zt",
        to_uri: b"sip:user000001@pool.test",
        ..Outgoing::default()
    };
    let whole = |outgoing: &Outgoing<'_>, lines: &[u8]| {
        let start = match outgoing.code {
            0 => "SERVICE sip:user000001@pool.test SIP/2.0".to_owned(),
            code => format!("SIP/2.0 {code} OK"),
        };
        let tag = if outgoing.code == 0 { "" } else { ";tag=5b1e" };
        format!(
            "{start}\r\nVia: SIP/2.0/TLS 127.0.0.1:40123;branch=z9hG4bK8t5cc9\r\nFrom: <sip:user000001@pool.test>;tag=k3v0q8zt\r\n\
             To: <sip:user000001@pool.test>{tag}\r\nCall-ID: adsum8t5cc90001p00012m003\r\nCSeq: 3 SERVICE\r\n{}Content-Length: 0\r\n\r\n",
            String::from_utf8_lossy(lines)
        )
        .into_bytes()
    };
    let hash = adsum_sip::ntlm::nt_hash("pw-user000001");
    let log_on = |client: &mut Ntlm, server: &mut Authority| {
        let mut attempts = Attempts::default();
        loop {
            let mut lines = Vec::new();
            client.write(&mut (), &accounts, 0, &request, &mut lines);
            let sent = whole(&request, &lines);
            let mut scanner = Scanner::new();
            let mut answer = Vec::new();
            let message = scanner.scan(&sent).expect("a request");
            let check = server.check(&message, 1, 0, |_, _| Some(hash), &mut answer);
            let code = if let Check::Passed(_) = check { 200 } else { 401 };
            let outgoing = Outgoing { code, to_tag: b"5b1e", ..request };
            if let Check::Passed(association) = check {
                server.sign(association, &outgoing, false, &mut answer);
            }
            let answer = whole(&outgoing, &answer);
            let mut scanner = Scanner::new();
            let message = scanner.scan(&answer).expect("an answer");
            let incoming = Incoming { message: &message, request: &sent };
            let reading = client.read(&mut (), &accounts, 0, &incoming);
            if code == 200 {
                assert_eq!(reading, Reading::Accepted);
                return answer;
            }
            let verdict = client.challenged(&mut (), &accounts, 0, &incoming, &mut attempts);
            assert_eq!(verdict, Verdict::Answer);
        }
    };
    let (mut client, mut server) = (Ntlm::new(true, 3, "BENCH", 0), Authority::new(config));
    let answer = log_on(&mut client, &mut server);
    let mut group = c.benchmark_group("ntlm");
    let mut out = Vec::with_capacity(512);
    group.bench_function("sign a request", |b| {
        b.iter(|| {
            out.clear();
            client.write(&mut (), &accounts, 0, black_box(&request), &mut out);
            out.len()
        });
    });
    let mut scanner = Scanner::new();
    let message = scanner.scan(&answer).expect("an answer");
    let incoming = Incoming { message: &message, request: b"" };
    group.bench_function("verify an answer", |b| {
        b.iter(|| {
            let reading = client.read(&mut (), &accounts, 0, black_box(&incoming));
            assert_eq!(reading, Reading::Accepted);
        });
    });
    group.bench_function("a whole handshake, both sides", |b| {
        b.iter(|| {
            client.reconnected(&mut (), 0);
            server.forget_connection(1);
            log_on(&mut client, &mut server).len()
        });
    });
    group.finish();
}

fn marker(c: &mut Criterion<CpuTime>) {
    let messages = Messages::new(Transport::Udp).expect("messages");
    let mut body = Vec::new();
    messages.render(Shape::Publish, &OURS, BranchRef { slot: 1, generation: 1 }, &fields(b""), &mut body);
    let finder = Finder::default();
    c.bench_function("marker/find the latest", |b| {
        b.iter(|| finder.latest(black_box(&body), MARKER.run, MARKER.publisher).expect("a marker"));
    });
}

fn wheel(c: &mut Criterion<CpuTime>) {
    const HELD: u64 = 100_000;
    let mut group = c.benchmark_group("wheel");
    // Timers of held users lie hours ahead; those of requests come and go among them.
    let mut wheel: Wheel<u64> = Wheel::new(Time(0));
    for key in 0..HELD {
        wheel.insert(Time(3_000 * SECOND + mix(key) % (600 * SECOND)), key);
    }
    let mut now = Time(0);
    group.bench_function("insert and cancel among 100000", |b| {
        b.iter(|| {
            let mut id = wheel.insert(now + 500 * MILLISECOND, HELD);
            wheel.cancel(black_box(&mut id));
        });
    });
    group.bench_function("insert, and pop a millisecond later, among 100000", |b| {
        b.iter(|| {
            wheel.insert(now + MILLISECOND, HELD);
            now = now + MILLISECOND;
            wheel.pop(now).expect("the timer")
        });
    });
    group.throughput(Throughput::Elements(10_000));
    group.bench_function("pop 10000 spread over ten seconds", |b| {
        let full = || {
            let mut wheel: Wheel<u64> = Wheel::new(Time(0));
            for key in 0..10_000u64 {
                wheel.insert(Time(mix(key) % (10 * SECOND)), key);
            }
            wheel
        };
        b.iter_batched(
            full,
            |mut wheel| {
                let mut fired = 0;
                while wheel.pop(Time(11 * SECOND)).is_some() {
                    fired += 1;
                }
                assert_eq!(fired, 10_000);
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(name = benches; config = common::config(); targets = template, digest, ntlm, marker, wheel);
criterion_main!(benches);
