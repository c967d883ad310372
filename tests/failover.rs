//! A pool with several addresses (RFC 3263 §4.3): what fails is left for the
//! next one, and the user gets its presence all the same.

use std::net::SocketAddr;
use std::time::Duration;

use adsum_agent::check::{Answer, Check, Stop, run};
use adsum_agent::net::allow::Allow;
use adsum_agent::net::tls::TlsOptions;
use adsum_pool::{Pool, PoolConfig};
use adsum_presence::accounts::Row;
use adsum_presence::population::{Dialect, Transport};

fn pool(reject: &[&str]) -> Pool {
    let config = PoolConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        users: 10,
        reject: reject.iter().map(|knob| knob.parse().unwrap()).collect(),
        ..PoolConfig::default()
    };
    Pool::start(config).unwrap()
}

/// An address at which nothing listens: it was free a moment ago.
fn dead() -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

fn account(number: u32) -> Row {
    Row {
        uri: format!("sip:user{number:06}@pool.test").into_bytes(),
        auth_user: format!("user{number:06}").into_bytes(),
        password: format!("pw-user{number:06}").into_bytes(),
        ha1: Vec::new(),
        row: number,
    }
}

fn check(targets: Vec<SocketAddr>, transport: Transport) -> Answer {
    let check = Check {
        targets,
        transport,
        dialect: Dialect::Simple,
        tls: TlsOptions::default(),
        publisher: account(1),
        subscriber: account(2),
        timeout: Duration::from_secs(10),
        source: None,
        advertise: None,
        allow: Allow::default(),
        trace: None,
    };
    run(&check, &Stop::new(), |_| {})
}

#[test]
fn a_port_where_nobody_listens_is_left_for_the_next() {
    let pool = pool(&[]);
    for transport in [Transport::Udp, Transport::Tcp] {
        let answer = check(vec![dead(), pool.address()], transport);
        assert!(answer.success, "{transport:?}: {} ({})", answer.error, answer.diagnosis);
    }
}

#[test]
fn a_server_out_of_service_is_left_for_the_next() {
    let (ill, well) = (pool(&["REGISTER=503:100%"]), pool(&[]));
    for transport in [Transport::Udp, Transport::Tcp] {
        let answer = check(vec![ill.address(), well.address()], transport);
        assert!(answer.success, "{transport:?}: {} ({})", answer.error, answer.diagnosis);
    }
    assert!(ill.stop().sent.contains_key("REGISTER 503"));
    assert!(well.stop().sent.contains_key("NOTIFY"));
}

#[test]
fn where_all_fail_the_last_answer_is_told() {
    let ill = [pool(&["REGISTER=503:100%"]), pool(&["REGISTER=503:100%"])];
    let answer = check(ill.iter().map(Pool::address).collect(), Transport::Udp);
    assert!(!answer.success);
    assert_eq!(answer.code, "sip:503");
    let answer = check(vec![dead(), dead()], Transport::Tcp);
    assert_eq!((answer.success, answer.code.as_str()), (false, "transport:connect"));
}

/// A redirect server (RFC 3261 §8.3) on TCP: it answers everybody with 302.
fn redirector(to: SocketAddr) -> SocketAddr {
    use std::io::{BufRead as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        // A check has two users; each comes once.
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let mut lines = std::io::BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> =
                lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let copied = |name: &str| head.iter().find(|line| line.starts_with(name)).unwrap().clone();
            let answer = format!(
                "SIP/2.0 302 Moved Temporarily\r\n{}\r\n{}\r\n{};tag=r\r\n{}\r\n{}\r\n\
                 Contact: <sip:{to};transport=tcp>\r\nContent-Length: 0\r\n\r\n",
                copied("Via:"),
                copied("From:"),
                copied("To:"),
                copied("Call-ID:"),
                copied("CSeq:"),
            );
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    address
}

#[test]
fn a_user_who_is_sent_elsewhere_goes_there() {
    let pool = pool(&[]);
    let answer = check(vec![redirector(pool.address())], Transport::Tcp);
    assert!(answer.success, "{} ({})", answer.error, answer.diagnosis);
    assert!(pool.stop().received.contains_key("PUBLISH"));
}

#[test]
fn nobody_is_sent_where_nobody_allowed() {
    let answer = check(vec![redirector("192.0.2.1:5060".parse().unwrap())], Transport::Tcp);
    assert_eq!((answer.success, answer.code.as_str()), (false, "transport:blocked"), "{}", answer.error);
    assert!(answer.diagnosis.contains("192.0.2.1/32"), "{}", answer.diagnosis);
}
