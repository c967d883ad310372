//! From a name to addresses through a name server of the test's own, which
//! writes its answers by hand (RFC 1035 §4), so that no resolver talks to itself.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use adsum_agent::locate::{Found, LocateError, QUESTION_LIMIT, Resolver, TOTAL_LIMIT, VARIABLE, locate};
use adsum_presence::population::Transport;

const NAPTR: u16 = 35;
const SRV: u16 = 33;
const A: u16 = 1;
const AAAA: u16 = 28;
const CNAME: u16 = 5;

const NO_ERROR: u8 = 0;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const REFUSED: u8 = 5;

/// What the server does with a question.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Answers,
    Silent,
    SilentAbout(&'static [u16]),
    Says(u8),
    /// Over UDP it only says that the answer is too long.
    Truncates,
}

/// Owner, type, rdata.
type Record = (String, u16, Vec<u8>);

/// `name TYPE rdata` in each line.
struct Zone(Vec<Record>);

impl Zone {
    fn of(lines: &str) -> Zone {
        Zone(lines.lines().map(str::trim).filter(|line| !line.is_empty()).map(record).collect())
    }

    /// The answers to a question: CNAMEs and what they lead to, as a recursive server gives them.
    fn find(&self, name: &str, kind: u16) -> (u8, Vec<&Record>) {
        let mut name = name.to_ascii_lowercase();
        let mut out: Vec<&Record> = Vec::new();
        for _ in 0..4 {
            let here: Vec<_> = self.0.iter().filter(|(owner, ..)| *owner == name).collect();
            let wanted = here.iter().filter(|(_, k, _)| *k == kind).copied();
            out.extend(wanted);
            match here.iter().find(|(_, k, _)| *k == CNAME) {
                Some(alias) => {
                    out.push(alias);
                    name = text_of(&alias.2);
                }
                None if here.is_empty() && out.is_empty() => return (NXDOMAIN, out),
                None => return (NO_ERROR, out),
            }
        }
        (SERVFAIL, Vec::new())
    }
}

fn record(line: &str) -> Record {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |at: usize| words[at].parse::<u16>().expect("a number").to_be_bytes();
    let mut data = Vec::new();
    let kind = match words[1] {
        "NAPTR" => {
            data.extend([number(2), number(3)].concat());
            for text in &words[4..7] {
                let text = text.trim_matches('-');
                data.push(text.len() as u8);
                data.extend(text.as_bytes());
            }
            data.extend(labels(words[7]));
            NAPTR
        }
        "SRV" => {
            data.extend([number(2), number(3), number(4)].concat());
            data.extend(labels(words[5]));
            SRV
        }
        "A" => {
            data.extend(words[2].parse::<Ipv4Addr>().expect("an address").octets());
            A
        }
        "AAAA" => {
            data.extend(words[2].parse::<std::net::Ipv6Addr>().expect("an address").octets());
            AAAA
        }
        "CNAME" => {
            data.extend(labels(words[2]));
            CNAME
        }
        // The name is there, of another type than any that is asked for.
        "TXT" => 16,
        other => panic!("{other}"),
    };
    (words[0].to_owned(), kind, data)
}

fn labels(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}

fn text_of(labels: &[u8]) -> String {
    let mut at = 0;
    let mut out = Vec::new();
    while labels[at] != 0 {
        let len = usize::from(labels[at]);
        out.push(String::from_utf8_lossy(&labels[at + 1..at + 1 + len]).into_owned());
        at += 1 + len;
    }
    out.join(".").to_ascii_lowercase()
}

struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, u16)>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(zone: &str, manner: Manner) -> Server {
        let (udp, tcp) = sockets();
        let address = udp.local_addr().expect("its address");
        let zone = Arc::new(Zone::of(zone));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        udp.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        tcp.set_nonblocking(true).expect("not blocking");
        let over_udp = {
            let (zone, asked, stop) = (Arc::clone(&zone), Arc::clone(&asked), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((len, from)) = udp.recv_from(&mut buffer) else { continue };
                    if let Some(answer) = answer(&zone, &buffer[..len], manner, false, &asked) {
                        udp.send_to(&answer, from).expect("sent");
                    }
                }
            })
        };
        let over_tcp = {
            let (asked, stop) = (Arc::clone(&asked), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok((mut stream, _)) = tcp.accept() else {
                        std::thread::sleep(Duration::from_millis(10));
                        continue;
                    };
                    stream.set_nonblocking(false).expect("blocking");
                    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
                    let mut len = [0; 2];
                    while stream.read_exact(&mut len).is_ok() {
                        let mut question = vec![0; usize::from(u16::from_be_bytes(len))];
                        stream.read_exact(&mut question).expect("a question");
                        if let Some(answer) = answer(&zone, &question, manner, true, &asked) {
                            let len = (answer.len() as u16).to_be_bytes();
                            stream.write_all(&[&len[..], &answer].concat()).expect("sent");
                        }
                    }
                }
            })
        };
        Server { address, asked, stop, threads: vec![over_udp, over_tcp] }
    }

    fn locate(&self, target: &str, transport: Transport) -> Result<Found, LocateError> {
        runtime().block_on(Resolver::at(self.address).locate(target, transport, 1))
    }

    fn addresses(&self, target: &str, transport: Transport) -> Vec<String> {
        let found = self.locate(target, transport).unwrap_or_else(|error| panic!("{target}: {error}"));
        found.targets.iter().map(ToString::to_string).collect()
    }

    fn error(&self, target: &str) -> String {
        self.locate(target, Transport::Udp).expect_err("an error").to_string()
    }

    fn asked(&self) -> Vec<(String, u16)> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("the server did not panic");
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// UDP and TCP on one free port of loopback.
fn sockets() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("its address")) {
            return (udp, tcp);
        }
    }
    panic!("no port is free for UDP and TCP")
}

/// The answer to one question, in the format of RFC 1035 §4.1.
fn answer(
    zone: &Zone,
    question: &[u8],
    manner: Manner,
    tcp: bool,
    asked: &Mutex<Vec<(String, u16)>>,
) -> Option<Vec<u8>> {
    let name = text_of(question.get(12..)?);
    let end = 12 + labels(&name).len();
    let kind = u16::from_be_bytes(question.get(end..end + 2)?.try_into().ok()?);
    asked.lock().expect("not poisoned").push((name.clone(), kind));
    let (code, records) = match manner {
        Manner::Silent => return None,
        Manner::SilentAbout(kinds) if kinds.contains(&kind) => return None,
        Manner::Says(code) => (code, Vec::new()),
        _ => zone.find(&name, kind),
    };
    let truncated = manner == Manner::Truncates && !tcp;
    let records = if truncated { Vec::new() } else { records };
    let mut out = question[..2].to_vec();
    // A response, recursion was desired and is available.
    out.extend([0x81 | u8::from(truncated) << 1, 0x80 | code]);
    out.extend([0, 1]);
    out.extend((records.len() as u16).to_be_bytes());
    out.extend([0; 4]);
    out.extend(&question[12..end + 4]);
    for (owner, kind, data) in records {
        out.extend(labels(owner));
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 60]);
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    Some(out)
}

const POOL: &str = "
    pool.test NAPTR 50 50 s SIPS+D2T - _sips._tcp.pool.test
    pool.test NAPTR 90 50 s SIP+D2T - _sip._tcp.pool.test
    pool.test NAPTR 100 50 s SIP+D2U - _sip._udp.other.test
    _sips._tcp.pool.test SRV 1 0 5071 a.pool.test
    _sip._tcp.pool.test SRV 2 0 5062 b.pool.test
    _sip._tcp.pool.test SRV 1 0 5061 gone.pool.test
    _sip._tcp.pool.test SRV 3 0 5063 alias.pool.test
    _sip._udp.other.test SRV 1 0 5064 a.pool.test
    a.pool.test A 127.0.0.11
    a.pool.test A 127.0.0.12
    b.pool.test AAAA ::1
    b.pool.test A 127.0.0.2
    alias.pool.test CNAME real.pool.test
    real.pool.test A 127.0.0.3
    bare.test A 127.0.0.4
    empty.test TXT
    off.test A 127.0.0.5
    _sip._udp.off.test SRV 0 0 0 .
";

#[test]
fn from_a_name_to_addresses() {
    let server = Server::start(POOL, Manner::Answers);
    assert_eq!(server.addresses("pool.test", Transport::Tls), ["127.0.0.11:5071", "127.0.0.12:5071"]);
    let mut tcp = server.addresses("pool.test", Transport::Tcp);
    assert_eq!(tcp.len(), 3, "{tcp:?}");
    assert_eq!(tcp.pop().as_deref(), Some("127.0.0.3:5063"), "the alias is followed");
    tcp.sort();
    assert_eq!(tcp, ["127.0.0.2:5062", "[::1]:5062"]);
    let found = server.locate("pool.test", Transport::Udp).expect("found");
    assert_eq!(found.targets[0], "127.0.0.11:5064".parse().expect("an address"));
    assert_eq!((found.questions, found.left_out, found.failed.len()), (3, 0, 0));
    assert!(found.took > Duration::ZERO && found.took < TOTAL_LIMIT, "{:?}", found.took);
}

#[test]
fn without_records_the_host_itself_is_asked_for_as_it_stands() {
    let server = Server::start(POOL, Manner::Answers);
    assert_eq!(server.addresses("bare.test", Transport::Tls), ["127.0.0.4:5061"]);
    let mut asked = server.asked();
    asked.sort();
    // Nothing of a search list, and nothing twice.
    let expected =
        [("_sips._tcp.bare.test", SRV), ("bare.test", A), ("bare.test", AAAA), ("bare.test", NAPTR)];
    let mut expected: Vec<(String, u16)> = expected.map(|(name, kind)| (name.to_owned(), kind)).to_vec();
    expected.sort();
    assert_eq!(asked, expected);
}

#[test]
fn an_explicit_port_and_a_numeric_host_ask_less() {
    let server = Server::start(POOL, Manner::Answers);
    assert_eq!(server.addresses("bare.test:5099", Transport::Udp), ["127.0.0.4:5099"]);
    assert!(server.asked().iter().all(|(_, kind)| matches!(*kind, A | AAAA)), "{:?}", server.asked());
    let before = server.asked().len();
    let found = server.locate("192.0.2.1", Transport::Udp).expect("found");
    assert_eq!((found.questions, server.asked().len()), (0, before));
}

#[test]
fn names_in_the_hosts_file_need_no_server() {
    let server = Server::start("", Manner::Answers);
    let found = server.locate("localhost:5060", Transport::Udp).expect("found");
    assert!(found.targets.iter().all(|target| target.ip().is_loopback()), "{found:?}");
    assert_eq!(server.asked(), []);
}

#[test]
fn errors_are_for_people() {
    let server = Server::start(POOL, Manner::Answers);
    let text = server.error("typo.test");
    assert!(text.contains("`typo.test` does not exist (NXDOMAIN)"), "{text}");
    let text = server.error("empty.test");
    assert!(text.contains("`empty.test` has no address"), "{text}");
    let text = server.error("off.test");
    assert!(text.contains("SIP over UDP is not offered"), "{text}");
    for (code, name) in [(REFUSED, "Refused"), (SERVFAIL, "Server Failure")] {
        let server = Server::start(POOL, Manner::Says(code));
        let text = server.error("bare.test:5060");
        let who = format!("the name server {} says: ", server.address);
        assert!(text.contains(&who) && text.contains(name), "{text}");
    }
}

#[test]
fn a_server_that_keeps_silent_is_named_within_the_bound() {
    let server = Server::start(POOL, Manner::Silent);
    let began = Instant::now();
    let text = server.error("pool.test");
    let took = began.elapsed();
    assert!(
        text.contains(&format!("no answer from the name server {} within 5 s", server.address)),
        "{text}"
    );
    assert!(took <= TOTAL_LIMIT + Duration::from_secs(1), "{took:?}");
    let began = Instant::now();
    server.error("bare.test:5060");
    let took = began.elapsed();
    assert!(took <= QUESTION_LIMIT + Duration::from_secs(1), "{took:?}");
    // A lost datagram is not the end: each question went out more than once.
    assert!(server.asked().iter().filter(|(name, kind)| name == "bare.test" && *kind == A).count() > 1);
}

#[test]
fn a_server_that_keeps_silent_about_some_types_does_not_hide_the_others() {
    let server = Server::start(POOL, Manner::SilentAbout(&[NAPTR, AAAA]));
    let found = server.locate("bare.test", Transport::Udp).expect("found");
    assert_eq!(found.targets, ["127.0.0.4:5060".parse().expect("an address")]);
    assert_eq!(found.failed.len(), 1, "{:?}", found.failed);
    assert!(found.took < TOTAL_LIMIT, "{:?}", found.took);
}

#[test]
fn where_no_server_listens_the_error_names_the_address() {
    let nobody = UdpSocket::bind("127.0.0.1:0").expect("a socket").local_addr().expect("its address");
    let began = Instant::now();
    let error = runtime().block_on(Resolver::at(nobody).locate("pool.test:5060", Transport::Udp, 1));
    let text = error.expect_err("an error").to_string();
    assert!(text.contains(&format!("the name server {nobody} ")), "{text}");
    assert!(began.elapsed() < QUESTION_LIMIT + Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn an_answer_too_long_for_a_datagram_is_fetched_over_tcp() {
    let mut zone = String::new();
    for at in 0..60 {
        zone += &format!("_sip._udp.big.test SRV {at} 0 5060 target-number-{at}.with.a.long.name.big.test\n");
        zone += &format!("target-number-{at}.with.a.long.name.big.test A 127.0.1.{at}\n");
    }
    let server = Server::start(&zone, Manner::Truncates);
    let found = server.locate("big.test", Transport::Udp).expect("found");
    let expected: Vec<IpAddr> = (0..16).map(|at| IpAddr::from([127, 0, 1, at])).collect();
    assert_eq!(found.targets.iter().map(SocketAddr::ip).collect::<Vec<_>>(), expected);
    assert_eq!(found.left_out, 60 - 16);
}

/// The child of the test below; it finds its environment as a user sets it.
#[test]
#[ignore = "started by the_environment_names_the_name_server"]
fn child_of_the_environment() {
    let found = runtime().block_on(locate("pool.test", Transport::Udp, 1));
    println!("found: {}", found.map_or_else(|e| e.to_string(), |f| format!("{:?}", f.targets)));
}

#[test]
fn the_environment_names_the_name_server() {
    let server = Server::start(POOL, Manner::Answers);
    let run = |value: &str| {
        let child = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "child_of_the_environment", "--ignored", "--nocapture"])
            .env(VARIABLE, value)
            .output()
            .expect("it runs");
        String::from_utf8_lossy(&child.stdout).into_owned()
    };
    let text = run(&server.address.to_string());
    assert!(text.contains("found: [127.0.0.11:5064, 127.0.0.12:5064]"), "{text}");
    let text = run("dns.example.com");
    assert!(text.contains("ADSUM_DNS=`dns.example.com` is not a name server"), "{text}");
}
