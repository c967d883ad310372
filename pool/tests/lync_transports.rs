//! The `lync` dialect over real sockets: TCP, TLS, keep-alives, certificates.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use adsum_pool::config::Dialect;
use adsum_pool::{Pool, PoolConfig, certs};
use common::lync::{Client, machine, note};
use common::{Msg, Request, aor};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

enum Link {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Link {
    fn write(&mut self, bytes: &[u8]) {
        match self {
            Link::Tcp(stream) => stream.write_all(bytes).unwrap(),
            Link::Tls(stream) => {
                stream.write_all(bytes).unwrap();
                stream.flush().unwrap();
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Link::Tcp(stream) => stream.read(buffer),
            Link::Tls(stream) => stream.read(buffer),
        }
    }
}

/// A client on a socket; the name of its connection is the server's affair.
struct Line {
    link: Link,
    client: Client,
    seen: Vec<u8>,
    number: u64,
}

impl Line {
    fn new(link: Link, user: u32) -> Line {
        match &link {
            Link::Tcp(stream) => stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap(),
            Link::Tls(stream) => stream.sock.set_read_timeout(Some(Duration::from_secs(10))).unwrap(),
        }
        Line { link, client: Client::new(user, u64::from(user)), seen: Vec::new(), number: 0 }
    }

    fn send(&mut self, request: &Request) {
        self.number += 1;
        self.link.write(request.text(self.number).as_bytes());
    }

    fn next(&mut self) -> Msg {
        loop {
            if let Ok(adsum_sip::frame::Frame::Message { begin, end }) = adsum_sip::frame::next(&self.seen) {
                let msg = Msg::new(adsum_sip::Time(0), self.client.peer, &self.seen[begin..end]);
                self.seen.drain(..end);
                return msg;
            }
            let mut buffer = [0; 4096];
            let n = self.link.read(&mut buffer).expect("a message within ten seconds");
            assert!(n > 0, "closed");
            self.seen.extend_from_slice(&buffer[..n]);
        }
    }

    fn ok(&mut self, request: &Request) -> Msg {
        self.send(request);
        let answer = self.next();
        assert_eq!(answer.code(), 200, "{}", answer.text);
        answer
    }

    /// Signs on, and watches somebody.
    fn sign_on(&mut self, watched: &[u32]) {
        let request = self.client.register();
        self.ok(&request);
        let uris: Vec<String> = watched.iter().map(|user| aor(*user)).collect();
        let request = self.client.batch("subscribe", &uris, &["state", "note"]);
        self.ok(&request);
    }
}

fn config() -> PoolConfig {
    PoolConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        dialect: Dialect::Lync,
        auth: false,
        ..PoolConfig::default()
    }
}

fn tcp(pool: &Pool, user: u32) -> Line {
    Line::new(Link::Tcp(TcpStream::connect(pool.address()).unwrap()), user)
}

/// A client that trusts the pool, with a certificate of its own if there is one.
fn tls(pool: &Pool, user: u32, own: Option<&certs::Certificates>) -> Line {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pool.ca_pem().unwrap().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(common_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        Some(own) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(own.server.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    let session =
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let stream = TcpStream::connect(pool.tls_address().unwrap()).unwrap();
    Line::new(Link::Tls(Box::new(StreamOwned::new(session, stream))), user)
}

fn common_provider() -> Arc<rustls::crypto::CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    return Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return Arc::new(rustls::crypto::ring::default_provider());
}

fn converse(publisher: &mut Line, subscriber: &mut Line) {
    subscriber.sign_on(&[1]);
    publisher.sign_on(&[2]);
    let request =
        publisher.client.publish(&[machine(0, 3_500).to_vec(), vec![note(200, 0, "here")]].concat());
    publisher.ok(&request);
    let told = subscriber.next();
    assert!(told.is_benotify() && told.body().contains(">here<"), "{}", told.text);
    assert_eq!(told.availabilities(), [3_500]);
}

#[test]
fn over_tcp_watchers_are_told_and_learn_of_a_lost_connection() {
    let pool = Pool::start(config()).unwrap();
    let (mut publisher, mut subscriber) = (tcp(&pool, 1), tcp(&pool, 2));
    converse(&mut publisher, &mut subscriber);
    drop(publisher);
    let told = subscriber.next();
    assert_eq!(told.availabilities(), [18_500]);
    drop(subscriber);
    assert_eq!(pool.stop().publications, 1);
}

#[test]
fn over_tls_it_is_the_same() {
    let pool =
        Pool::start(PoolConfig { tls_listen: Some("127.0.0.1:0".parse().unwrap()), ..config() }).unwrap();
    let (mut publisher, mut subscriber) = (tls(&pool, 1, None), tls(&pool, 2, None));
    converse(&mut publisher, &mut subscriber);
    let request = publisher.client.register().line("Expires: 0");
    publisher.ok(&request);
    assert_eq!(subscriber.next().availabilities(), [18_500]);
}

#[test]
fn two_line_breaks_are_answered_by_one() {
    let pool = Pool::start(config()).unwrap();
    let mut line = tcp(&pool, 1);
    let mut pong = [0; 8];
    for _ in 0..3 {
        line.link.write(b"\r\n\r\n");
        assert_eq!(line.link.read(&mut pong).unwrap(), 2);
        assert_eq!(&pong[..2], b"\r\n");
    }
    // In halves, and directly before a request.
    line.link.write(b"\r\n");
    std::thread::sleep(Duration::from_millis(50));
    line.link.write(b"\r\n");
    assert_eq!(line.link.read(&mut pong).unwrap(), 2);
    let request = line.client.register();
    let text = format!("\r\n\r\n{}", request.text(1));
    line.link.write(text.as_bytes());
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        let mut buffer = [0; 4096];
        let n = line.link.read(&mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..n]);
    }
    assert!(seen.starts_with(b"\r\nSIP/2.0 200 OK\r\n"), "{}", String::from_utf8_lossy(&seen));
    // One alone is an answer, and gets none.
    line.link.write(b"\r\n");
    let request = line.client.register();
    line.send(&request);
    assert_eq!(line.next().code(), 200);
}

/// A connection whose certificate names a trusted host is not challenged;
/// another one is, with a certificate and without.
#[test]
fn a_trusted_certificate_takes_the_place_of_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = certs::make(&["app.pool.test".to_owned()]).unwrap();
    let ca = dir.path().join("client-ca.pem");
    std::fs::write(&ca, &trusted.ca).unwrap();
    let mut config = PoolConfig {
        tls_listen: Some("127.0.0.1:0".parse().unwrap()),
        tls_client_ca: Some(ca),
        auth: true,
        ..config()
    };
    config.lync.trusted_cn = vec!["APP.pool.test".to_owned()];
    let pool = Pool::start(config.clone()).unwrap();
    let (mut publisher, mut subscriber) = (tls(&pool, 1, Some(&trusted)), tls(&pool, 2, Some(&trusted)));
    converse(&mut publisher, &mut subscriber);
    let mut stranger = tls(&pool, 3, None);
    let request = stranger.client.register();
    stranger.send(&request);
    assert_eq!(stranger.next().code(), 401);
    assert_eq!(pool.stop().trusted_connections, 2);
    // Vouched for, but nobody of that name is trusted.
    config.lync.trusted_cn = vec!["other.pool.test".to_owned()];
    let pool = Pool::start(config).unwrap();
    let mut line = tls(&pool, 1, Some(&trusted));
    let request = line.client.register();
    line.send(&request);
    assert_eq!(line.next().code(), 401);
}

#[test]
fn a_ca_that_is_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("empty.pem");
    std::fs::write(&file, "nothing").unwrap();
    let tls_listen = Some("127.0.0.1:0".parse().unwrap());
    let error = Pool::start(PoolConfig { tls_listen, tls_client_ca: Some(file), ..config() }).unwrap_err();
    assert!(error.to_string().contains("empty.pem: no certificate in PEM"), "{error}");
}
