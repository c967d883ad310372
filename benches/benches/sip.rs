//! Micro benchmarks of `sip`: scanner, framer, client transactions, identifiers.

mod common;

use std::hint::black_box;

use adsum_sip::client::{ClientTransaction, Method};
use adsum_sip::frame::{self, Frame};
use adsum_sip::ids::{CallKind, CallRef, Namespace};
use adsum_sip::time::{MILLISECOND, T4};
use adsum_sip::{HeaderId, Scanner, Time};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use common::CpuTime;

const OURS: Namespace = Namespace { run: 0x2345_6789, shard: 1, key: 7 };
const DIALOG: CallRef = CallRef { kind: CallKind::Dialog, slot: 4_711, generation: 3 };

const BODY: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <presence xmlns=\"urn:ietf:params:xml:ns:pidf\" xmlns:a=\"urn:adsum:marker:1\" entity=\"sip:user000001@pool.test\">\
    <tuple id=\"adsum\"><status><basic>open</basic></status><a:marker>adsum1.8t5cc9.000001.000002</a:marker>\
    <note>adsum1.8t5cc9.000001.000002</note></tuple></presence>\n";

fn call_id() -> String {
    let mut out = Vec::new();
    OURS.write_call_id(&mut out, DIALOG);
    String::from_utf8_lossy(&out).into_owned()
}

fn message(head: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{}Content-Length: {length}\r\n\r\n{body}",
        head.replace('\n', "\r\n").replace("CALL", &call_id())
    )
    .into_bytes()
}

/// What Kamailio sends, in its manner.
fn notify() -> Vec<u8> {
    let head = "NOTIFY sip:user000002@127.0.0.1:40123 SIP/2.0\n\
        Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK1d64.8f5e0bd1000000000000000000000000.0\n\
        To: <sip:user000002@pool.test>;tag=k3v0q8zt\n\
        From: <sip:user000001@pool.test>;tag=ac4a2f6dc1c1b4a2d8c7e5f00b6a1d3e-7f1a\n\
        CSeq: 3 NOTIFY\nCall-ID: CALL\nMax-Forwards: 70\nEvent: presence\n\
        Contact: <sip:127.0.0.1:5060;transport=udp>\nSubscription-State: active;expires=3600\n\
        Content-Type: application/pidf+xml\n";
    message(head, BODY)
}

fn ok() -> Vec<u8> {
    let head = "SIP/2.0 200 OK\n\
        Via: SIP/2.0/UDP 127.0.0.1:40123;rport=40123;branch=z9hG4bK8t5cc90001000012000034;received=127.0.0.1\n\
        From: <sip:user000001@pool.test>;tag=k3v0q8zt\nTo: <sip:user000001@pool.test>;tag=5b1e\n\
        Call-ID: CALL\nCSeq: 2 PUBLISH\nExpires: 3600\nSIP-ETag: a.1795609565.4711.2.0\n";
    message(head, "")
}

fn challenge() -> Vec<u8> {
    let head = "SIP/2.0 401 Unauthorized\n\
        Via: SIP/2.0/UDP 127.0.0.1:40123;rport=40123;branch=z9hG4bK8t5cc90001000012000034;received=127.0.0.1\n\
        From: <sip:user000001@pool.test>;tag=k3v0q8zt\nTo: <sip:user000001@pool.test>;tag=5b1e\n\
        Call-ID: CALL\nCSeq: 1 REGISTER\n\
        WWW-Authenticate: Digest realm=\"pool.test\", nonce=\"ZSPXB2Uj1dsxJ0fF0dXo2nZp7ZkY\", qop=\"auth\"\n";
    message(head, "")
}

fn scanner(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("scanner");
    for (name, bytes) in [("notify", notify()), ("200", ok()), ("401", challenge())] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let mut scanner = Scanner::new();
        // What the engine asks of every message: whose it is, and what it says.
        group.bench_function(name, |b| {
            b.iter(|| {
                let message = scanner.scan(black_box(&bytes)).expect("a message");
                black_box((
                    message.code(),
                    message.cseq(),
                    message.branch(),
                    message.header(HeaderId::Expires),
                ));
                OURS.read_call_id(message.call_id()).expect("ours")
            });
        });
    }
    group.finish();
}

fn framer(c: &mut Criterion<CpuTime>) {
    let stream: Vec<u8> = [ok(), notify()].concat().repeat(8);
    let mut group = c.benchmark_group("framer");
    group.throughput(Throughput::Elements(16));
    group.bench_function("16 messages of one read", |b| {
        b.iter(|| {
            let (mut at, mut messages) = (0, 0);
            while let Ok(Frame::Message { end, .. }) = frame::next(black_box(&stream[at..])) {
                at += end;
                messages += 1;
            }
            assert_eq!(messages, 16);
        });
    });
    group.finish();
}

fn transactions(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("client transaction");
    for (name, reliable) in [("life over UDP", false), ("life over a stream", true)] {
        group.bench_function(name, |b| {
            let mut now = Time(0);
            b.iter(|| {
                let mut transaction = ClientTransaction::new(Method::NonInvite, reliable, black_box(now));
                black_box(transaction.next());
                now = now + MILLISECOND;
                black_box(transaction.on_response(now, 200));
                black_box(transaction.on_timer(now + T4))
            });
        });
    }
    group.bench_function("eleven copies, no answer", |b| {
        b.iter(|| {
            let mut transaction = ClientTransaction::new(Method::NonInvite, false, black_box(Time(0)));
            let mut fired = 0;
            while transaction.is_open() {
                black_box(transaction.on_timer(transaction.next()));
                fired += 1;
            }
            fired
        });
    });
    group.finish();
}

fn identifiers(c: &mut Criterion<CpuTime>) {
    let mut out = Vec::with_capacity(64);
    c.bench_function("identifiers/write and read a Call-ID", |b| {
        b.iter(|| {
            out.clear();
            OURS.write_call_id(&mut out, black_box(DIALOG));
            OURS.read_call_id(black_box(&out)).expect("ours")
        });
    });
}

criterion_group!(name = benches; config = common::config(); targets = scanner, framer, transactions, identifiers);
criterion_main!(benches);
