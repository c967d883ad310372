//! What publications cost the pool in the `lync` dialect, without sockets:
//! `cargo run -p adsum-pool --example lync_hold -- [users] [contacts] [publications]`.
//! Every user is registered and watches the next so many; then one after the
//! other publishes a note and a state. Asserts that each watcher was told.

use std::net::SocketAddr;
use std::time::Instant;

use adsum_pool::PoolConfig;
use adsum_pool::config::Dialect;
use adsum_pool::core::{Core, Out, Peer};
use adsum_sip::Time;

const SECOND: u64 = 1_000_000_000;

fn peer(user: u32) -> Peer {
    Peer::Stream(u64::from(user), SocketAddr::from(([127, 0, 0, 1], 10_000)), true)
}

fn request(method: &str, user: u32, call: &str, cseq: u32, lines: &str, body: &str) -> String {
    let uri = if method == "REGISTER" {
        "sip:pool.test".to_owned()
    } else {
        format!("sip:user{user:06}@pool.test")
    };
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:10000;branch=z9hG4bK{call}{cseq}\r\nMax-Forwards: 70\r\n\
         From: <sip:user{user:06}@pool.test>;tag=t{user};epid={user:010}\r\nTo: <sip:user{user:06}@pool.test>\r\n\
         Call-ID: {call}\r\nCSeq: {cseq} {method}\r\n{lines}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn publication(user: u32, version: u32, availability: u32) -> String {
    let state = |container: u32| {
        format!(
            "<publication categoryName=\"state\" instance=\"536870912\" container=\"{container}\" version=\"{version}\" \
             expireType=\"static\"><state xmlns=\"http://schemas.microsoft.com/2006/09/sip/state\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"userState\"><availability>{availability}\
             </availability></state></publication><publication categoryName=\"state\" instance=\"7\" container=\"{container}\" \
             version=\"{version}\" expireType=\"endpoint\"><state xmlns=\"http://schemas.microsoft.com/2006/09/sip/state\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"machineState\"><availability>3500\
             </availability></state></publication>"
        )
    };
    format!(
        "<publish xmlns=\"http://schemas.microsoft.com/2006/09/sip/rich-presence\"><publications \
         uri=\"sip:user{user:06}@pool.test\">{}{}<publication categoryName=\"note\" instance=\"0\" container=\"200\" \
         version=\"{version}\" expireType=\"static\"><note xmlns=\"http://schemas.microsoft.com/2006/09/sip/note\"><body \
         type=\"personal\" uri=\"\">adsum1.run.{user}.{version}</body></note></publication></publications></publish>",
        state(2),
        state(3)
    )
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u32>().expect("a number"));
    let users = arguments.next().unwrap_or(10_000);
    let contacts = arguments.next().unwrap_or(50);
    let publications = arguments.next().unwrap_or(2_000);
    assert!(
        users > contacts && contacts > 0 && publications > 0,
        "more users than contacts, and some of each"
    );
    let config = PoolConfig { auth: false, users, dialect: Dialect::Lync, ..PoolConfig::default() };
    let mut core = Core::new(config, SocketAddr::from(([127, 0, 0, 1], 5061)));
    let mut outs: Vec<Out> = Vec::new();
    let mut now = Time(SECOND);
    let mut send = |core: &mut Core, now: Time, user: u32, text: String| {
        core.handle(now, peer(user), text.as_bytes(), &mut outs);
        let ok = outs.first().is_some_and(|out| out.bytes.starts_with(b"SIP/2.0 200"));
        assert!(
            ok,
            "{}",
            outs.first().map_or(String::new(), |o| String::from_utf8_lossy(&o.bytes).into_owned())
        );
        let (count, bytes) = (outs.len() - 1, outs.iter().map(|o| o.bytes.len()).sum::<usize>());
        outs.drain(..).for_each(|out| core.recycle(out.bytes));
        (count, bytes)
    };
    let begin = Instant::now();
    for user in 1..=users {
        let lines = "Contact: <sip:127.0.0.1:10000;transport=tls>;proxy=replace\r\n\
            Supported: gruu-10, msrtc-event-categories\r\nEvent: registration\r\nExpires: 900\r\n";
        send(&mut core, now, user, request("REGISTER", user, &format!("r{user}"), 1, lines, ""));
        let resources: String = (1..=contacts)
            .map(|n| format!("<resource uri=\"sip:user{:06}@pool.test\"/>", (user + n - 1) % users + 1))
            .collect();
        let body = format!(
            "<batchSub xmlns=\"http://schemas.microsoft.com/2006/01/sip/batch-subscribe\" uri=\"x\"><action \
             name=\"subscribe\" id=\"1\"><adhocList>{resources}</adhocList><categoryList><category name=\"state\"/>\
             <category name=\"note\"/></categoryList></action></batchSub>"
        );
        let lines = "Event: presence\r\nSupported: ms-benotify\r\nSupported: ms-piggyback-first-notify\r\n\
            Require: adhoclist, categoryList\r\nContent-Type: application/msrtc-adrl-categorylist+xml\r\n";
        send(&mut core, now, user, request("SUBSCRIBE", user, &format!("s{user}"), 1, lines, &body));
    }
    let took = begin.elapsed();
    println!("{users} users with {contacts} contacts: {took:.1?}, {:?} each", took / users);
    let begin = Instant::now();
    let (mut told, mut bytes) = (0, 0);
    for n in 0..publications {
        now = now + 1_000_000;
        let user = n % users + 1;
        let version = n / users;
        let body = publication(user, version, [3_500, 6_500][version as usize % 2]);
        let lines = "Content-Type: application/msrtc-category-publish+xml\r\n";
        let (count, size) =
            send(&mut core, now, user, request("SERVICE", user, &format!("p{n}"), 1, lines, &body));
        assert_eq!(count, contacts as usize);
        told += count;
        bytes += size;
    }
    let took = begin.elapsed();
    println!(
        "{publications} publications, {told} BENOTIFYs, {bytes} bytes: {took:.1?}, {:?} each, {:?} a BENOTIFY",
        took / publications,
        took / told.max(1) as u32
    );
    println!("{}", core.stats());
}
