//! The pool over real sockets on loopback.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adsum_pool::core::Peer;
use adsum_pool::{Pool, PoolConfig, PoolError};
use adsum_sip::Time;
use adsum_sip::frame::{self, Frame};
use common::{Msg, Request, open, pidf};

const PATIENCE: Duration = Duration::from_secs(10);

fn started(config: PoolConfig) -> Pool {
    Pool::start(PoolConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..config }).unwrap()
}

/// Waits until what the pool counted is so.
#[track_caller]
fn until(pool: &Pool, what: impl Fn(&adsum_pool::Stats) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !what(&pool.stats()) {
        assert!(Instant::now() < deadline, "{}", pool.stats());
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn via(transport: &str, number: u32) -> String {
    format!("SIP/2.0/{transport} 127.0.0.1:4000;branch=z9hG4bK{transport}{number}")
}

fn here(socket: SocketAddr) -> String {
    format!("Contact: <sip:x@{socket}>")
}

struct Udp {
    socket: UdpSocket,
    pool: SocketAddr,
    number: u32,
}

impl Udp {
    fn new(pool: SocketAddr) -> Udp {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Udp { socket, pool, number: 0 }
    }

    fn send(&mut self, request: Request) {
        self.number += 1;
        let text = request.via(&via("UDP", self.number)).text(0);
        self.socket.send_to(text.as_bytes(), self.pool).unwrap();
    }

    /// The next message, and where it came from.
    fn next(&self) -> (Msg, SocketAddr) {
        let mut buffer = [0; 65_536];
        let (n, from) = self.socket.recv_from(&mut buffer).unwrap();
        (Msg::new(Time(0), Peer::Udp(from), &buffer[..n]), from)
    }

    fn subscribe(&mut self, user: u32, watched: u32) -> [(Msg, SocketAddr); 2] {
        let contact = here(self.socket.local_addr().unwrap());
        let request = Request::new("SUBSCRIBE", user).about(watched).line("Event: presence").line(&contact);
        self.send(request);
        [self.next(), self.next()]
    }

    fn answer(&self, notify: &Msg, from: SocketAddr) {
        self.socket.send_to(notify.answer(200).as_bytes(), from).unwrap();
    }
}

/// Messages of a stream, one after the other.
struct Stream<S> {
    stream: S,
    buffer: Vec<u8>,
}

impl<S: Read + Write> Stream<S> {
    fn next(&mut self) -> Msg {
        loop {
            if let Frame::Message { begin, end } = frame::next(&self.buffer).unwrap() {
                let peer = Peer::Stream(0, SocketAddr::from(([127, 0, 0, 1], 1)), false);
                let message = Msg::new(Time(0), peer, &self.buffer[begin..end]);
                self.buffer.drain(..end);
                return message;
            }
            let mut some = [0; 4_096];
            let n = self.stream.read(&mut some).unwrap();
            assert!(n > 0, "the pool closed the connection");
            self.buffer.extend_from_slice(&some[..n]);
        }
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// True once the pool has closed the connection.
    fn is_closed(&mut self) -> bool {
        let mut some = [0; 65_536];
        loop {
            match self.stream.read(&mut some) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return e.kind() == ErrorKind::ConnectionReset,
            }
        }
    }
}

fn tcp(pool: SocketAddr) -> Stream<TcpStream> {
    let stream = TcpStream::connect(pool).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    Stream { stream, buffer: Vec::new() }
}

fn options(number: u32) -> String {
    Request::new("OPTIONS", 1).via(&via("TCP", number)).call("c", number).text(0)
}

#[test]
fn udp_answers_go_back_and_notifies_to_the_contact() {
    let pool = started(open());
    let (mut watcher, mut publisher) = (Udp::new(pool.address()), Udp::new(pool.address()));
    let [(answer, _), (notify, from)] = watcher.subscribe(2, 1);
    assert_eq!((answer.code(), from), (200, pool.address()));
    watcher.answer(&notify, from);
    publisher.send(Request::publish(1, "here"));
    assert_eq!(publisher.next().0.code(), 200);
    let (notify, from) = watcher.next();
    assert_eq!((notify.notes(), from), (vec!["here".to_owned()], pool.address()));
    watcher.answer(&notify, from);
    until(&pool, |s| s.received.get("NOTIFY 200") == Some(&2));
    let stats = pool.stop();
    assert_eq!((stats.subscriptions, stats.publications, stats.timing_errors, stats.not_sent), (1, 1, 0, 0));
}

#[test]
fn unanswered_notifies_come_again() {
    let pool = started(open());
    let mut watcher = Udp::new(pool.address());
    let [_, (first, _)] = watcher.subscribe(2, 1);
    let begin = Instant::now();
    assert_eq!(watcher.next().0, first);
    let after = begin.elapsed();
    assert!(after > Duration::from_millis(400) && after < Duration::from_secs(5), "{after:?}");
}

#[test]
fn notifies_may_come_from_another_address_and_are_answered_there() {
    let pool = started(PoolConfig { notify_from: Some([127, 0, 0, 2].into()), ..open() });
    let mut watcher = Udp::new(pool.address());
    let [first, second] = watcher.subscribe(2, 1);
    let ((answer, from), (notify, other)) =
        if first.0.is_notify() { (second, first) } else { (first, second) };
    assert_eq!((answer.code(), from), (200, pool.address()));
    assert_eq!(other, SocketAddr::from(([127, 0, 0, 2], pool.address().port())));
    watcher.answer(&notify, other);
    until(&pool, |s| s.received.get("NOTIFY 200") == Some(&1));
}

#[test]
fn tcp_takes_messages_in_pieces_and_glued_together() {
    let pool = started(open());
    let mut stream = tcp(pool.address());
    let publish = Request::publish(1, "in pieces").via(&via("TCP", 0)).text(0);
    for piece in publish.as_bytes().chunks(97) {
        stream.stream.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(stream.next().code(), 200);
    // Keep-alives between, and the last one cut.
    let glued: String = (1..=50).map(|n| options(n) + "\r\n\r\n").collect();
    let (most, rest) = glued.split_at(glued.len() - 30);
    stream.send(most);
    for number in 1..50 {
        assert_eq!(stream.next().cseq(), number, "in order");
    }
    stream.send(rest);
    assert_eq!(stream.next().cseq(), 50);
    // Without a length nobody knows where the next message begins.
    stream.send("OPTIONS sip:x SIP/2.0\r\nContent-Type: text/plain\r\n\r\n");
    assert!(stream.is_closed());
}

#[test]
fn a_long_message_crosses_a_stream_in_both_directions() {
    let pool = started(open());
    let mut stream = tcp(pool.address());
    let note = "n".repeat(60_000);
    stream.send(&Request::publish_bare(1, 600).document(&pidf(&note[..30_000])).via(&via("TCP", 1)).text(0));
    assert_eq!(stream.next().code(), 200);
    stream.send(&Request::publish_bare(1, 600).document(&pidf(&note)).via(&via("TCP", 2)).text(0));
    assert_eq!(stream.next().code(), 413);
    stream.send(&Request::subscribe(2, 1, 600).via(&via("TCP", 3)).text(0));
    let messages = [stream.next(), stream.next()];
    let notify = messages.iter().find(|m| m.is_notify()).unwrap();
    assert_eq!(notify.notes()[0].len(), 30_000);
}

#[test]
fn notifies_go_down_the_connection_that_subscribed_and_end_with_it() {
    let pool = started(open());
    let (mut watcher, mut publisher) = (tcp(pool.address()), tcp(pool.address()));
    watcher.send(&Request::subscribe(2, 1, 600).via(&via("TCP", 1)).text(0));
    let (one, two) = (watcher.next(), watcher.next());
    assert_eq!((one.code(), two.is_notify()), (200, true));
    watcher.send(&two.answer(200));
    publisher.send(&Request::publish(1, "here").via(&via("TCP", 2)).text(0));
    assert_eq!(publisher.next().code(), 200);
    let notify = watcher.next();
    assert_eq!(notify.notes(), ["here"]);
    assert!(notify.header("Via").contains("/TCP "), "{}", notify.text);
    drop(watcher);
    until(&pool, |s| s.subscriptions == 0);
    assert_eq!(pool.stats().lost_subscriptions, 0);
}

#[test]
fn tls_works_with_the_ca_that_the_pool_names() {
    let config = PoolConfig { tls_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))), ..open() };
    let pool = started(config);
    let address = pool.tls_address().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    use rustls_pki_types::pem::PemObject as _;
    roots
        .add(rustls_pki_types::CertificateDer::from_pem_slice(pool.ca_pem().unwrap().as_bytes()).unwrap())
        .unwrap();
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    for name in ["pool.test", "localhost", "127.0.0.1"] {
        let client = rustls::ClientConnection::new(Arc::clone(&config), name.try_into().unwrap()).unwrap();
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = Stream { stream: rustls::StreamOwned::new(client, socket), buffer: Vec::new() };
        stream.send(&Request::subscribe(2, 1, 600).via(&via("TLS", 1)).text(0));
        let messages = [stream.next(), stream.next()];
        let notify = messages.iter().find(|m| m.is_notify()).unwrap();
        assert!(notify.header("Via").starts_with(&format!("SIP/2.0/TLS {address};")), "{}", notify.text);
        assert_eq!(notify.header("Contact"), format!("<sip:{address};transport=tls>"));
        let many: String = (1..=200).map(options).collect();
        stream.send(&many);
        (1..=200).for_each(|number| assert_eq!(stream.next().cseq(), number));
    }
    until(&pool, |s| s.subscriptions == 0);
    // Who speaks no TLS is not served there, and hurts nobody.
    let mut plain = tcp(address);
    plain.send(&options(1));
    assert!(plain.is_closed());
}

#[test]
fn a_peer_that_does_not_read_is_closed_and_the_others_are_served() {
    let pool = started(open());
    let mut deaf = tcp(pool.address());
    let requests: String = (0..200).map(options).collect();
    deaf.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while pool.stats().connections_stuck == 0 {
        assert!(Instant::now() < deadline, "{}", pool.stats());
        // It may be full, or closed already.
        let _ = deaf.stream.write(requests.as_bytes());
    }
    let mut other = tcp(pool.address());
    other.send(&options(1));
    assert_eq!(other.next().code(), 200);
    assert_eq!(pool.stop().connections_stuck, 1);
}

#[test]
fn a_slow_reader_gets_everything() {
    let pool = started(open());
    let mut slow = tcp(pool.address());
    let requests: String = (1..=1_500).map(options).collect();
    slow.send(&requests);
    std::thread::sleep(Duration::from_millis(100));
    (1..=1_500).for_each(|number| assert_eq!(slow.next().cseq(), number));
    assert_eq!(pool.stop().connections_stuck, 0);
}

#[test]
fn connections_beyond_the_limit_are_closed_and_counted() {
    let pool = started(PoolConfig { max_connections: 3, ..open() });
    let mut taken: Vec<_> = (0..3).map(|_| tcp(pool.address())).collect();
    for (number, stream) in (1..).zip(&mut taken) {
        stream.send(&options(number));
        assert_eq!(stream.next().code(), 200);
    }
    assert!(tcp(pool.address()).is_closed());
    until(&pool, |s| s.connections_refused == 1);
    // A place that is free again is given away.
    taken.pop();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut next = tcp(pool.address());
        let mut some = [0; 16];
        next.send(&options(9));
        if matches!(next.stream.read(&mut some), Ok(n) if n > 0) {
            break;
        }
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn the_delay_of_notifies_is_kept_and_own_errors_are_counted() {
    let delay = Duration::from_millis(30);
    let pool = started(PoolConfig { notify_delay: Some(adsum_pool::Delay::Fixed(delay)), ..open() });
    let (mut watcher, mut publisher) = (Udp::new(pool.address()), Udp::new(pool.address()));
    watcher
        .subscribe(2, 1)
        .iter()
        .filter(|(m, _)| m.is_notify())
        .for_each(|(m, from)| watcher.answer(m, *from));
    let mut tag = String::new();
    for number in 0..50 {
        let request = Request::publish(1, &number.to_string());
        let request = if tag.is_empty() { request } else { request.line(&format!("SIP-If-Match: {tag}")) };
        let begin = Instant::now();
        publisher.send(request);
        tag = publisher.next().0.header("SIP-ETag");
        let answered = begin.elapsed();
        let (notify, from) = watcher.next();
        let told = begin.elapsed();
        assert!(told >= delay, "never early: {told:?}");
        assert!(answered < told, "the answer does not wait");
        watcher.answer(&notify, from);
    }
    let stats = pool.stop();
    // On a quiet machine none is late; on a busy one it is counted, once for each at most.
    assert!(stats.timing_errors <= 50 && stats.to_string().contains("late by more than 250 us: "));
    assert_eq!(stats.timing_errors > 0, stats.timing_error_max_us >= 250);
}

#[test]
fn two_thousand_notifies_due_at_once_are_late_and_counted() {
    // One instant, and each send takes some microseconds: the last ones cannot be in time.
    let pool = started(PoolConfig { notify_delay: Some("400ms".parse().unwrap()), users: 2_100, ..open() });
    let mut watcher = Udp::new(pool.address());
    for user in 2..2_002 {
        watcher
            .subscribe(user, 1)
            .iter()
            .filter(|(m, _)| m.is_notify())
            .for_each(|(m, f)| watcher.answer(m, *f));
    }
    watcher.send(Request::publish(1, "x"));
    until(&pool, |s| s.sent.get("NOTIFY").is_some_and(|n| *n >= 4_000));
    std::thread::sleep(Duration::from_millis(600));
    let stats = pool.stop();
    assert!(stats.timing_errors > 100 && stats.timing_error_max_us > 250, "{stats}");
}

#[test]
fn a_stall_freezes_everything_for_its_time() {
    let stall = Some((Duration::from_millis(300), Duration::from_millis(200)));
    let pool = started(PoolConfig { stall, ..open() });
    let mut client = Udp::new(pool.address());
    let begin = Instant::now();
    let mut longest = Duration::ZERO;
    while begin.elapsed() < Duration::from_millis(700) {
        let sent = Instant::now();
        client.send(Request::new("OPTIONS", 1));
        client.next();
        longest = longest.max(sent.elapsed());
    }
    assert!(longest > Duration::from_millis(150), "{longest:?}");
    assert!(pool.stop().stalls >= 1);
}

#[test]
fn only_loopback_is_listened_on_and_a_taken_port_is_named() {
    let refused = Pool::start(PoolConfig { listen: SocketAddr::from(([0, 0, 0, 0], 0)), ..open() });
    assert!(matches!(refused, Err(PoolError::NotLoopback(_))));
    let pool = started(open());
    let error = Pool::start(PoolConfig { listen: pool.address(), ..open() }).unwrap_err().to_string();
    assert!(error.contains(&pool.address().to_string()), "{error}");
}
