//! Connections over real sockets: whatever the cuts, messages come out whole,
//! in order, once, with the kernel's stamp; what the peer does not take waits.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adsum_agent::net::clock::{self, StampClock};
use adsum_agent::net::poll::{Poller, Ready};
use adsum_agent::net::secured::Client as TlsClient;
use adsum_agent::net::stream::{Buffers, Connection, Dial, MAX_UNSENT, StampKeeper, Written};
use adsum_agent::net::tls::{self, TlsOptions};
use adsum_sip::frame::{self, Frame};
use adsum_sip::ids::mix;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ServerConfig, ServerConnection};

struct Client {
    connection: Connection,
    poller: Poller,
    ready: Vec<Ready>,
    buffers: Buffers,
    sealed: Vec<u8>,
    stamps: StampClock,
    messages: Vec<Vec<u8>>,
    unstamped: usize,
    _stamping: StampKeeper,
}

impl Client {
    async fn open(dial: Dial) -> Client {
        let stamping = StampKeeper::new().unwrap();
        // The kernel begins to stamp a moment after it is asked to.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let connection = Connection::open(&dial).unwrap();
        let poller = Poller::new(true).unwrap();
        poller.add(&connection, 1).unwrap();
        let mut client = Client {
            connection,
            poller,
            ready: Vec::new(),
            buffers: Buffers::default(),
            sealed: Vec::new(),
            stamps: StampClock::default(),
            messages: Vec::new(),
            unstamped: 0,
            _stamping: stamping,
        };
        while !client.connection.is_open() {
            for ready in client.wait().await {
                client.connection.progress(ready, &mut client.buffers, &mut client.sealed).unwrap();
            }
        }
        client
    }

    async fn wait(&mut self) -> Vec<Ready> {
        let poll = std::future::poll_fn(|context| self.poller.poll_ready(context));
        tokio::time::timeout(Duration::from_secs(20), poll).await.expect("nothing comes").unwrap();
        self.poller.take(&mut self.ready).unwrap();
        self.ready.clone()
    }

    /// Reads until there is nothing; `false` at the end of the stream.
    fn read(&mut self) -> bool {
        loop {
            let received =
                self.connection.receive(&mut self.buffers, &mut self.sealed, &mut self.stamps, clock::now());
            if self.buffers.has_news() {
                let bytes = self.buffers.bytes().to_vec();
                let mut used = 0;
                while let Frame::Message { begin, end } = frame::next(&bytes[used..]).unwrap() {
                    self.messages.push(bytes[used + begin..used + end].to_vec());
                    used += end;
                }
                assert!(self.connection.keep(&bytes[used..]));
            }
            match received {
                Ok(received) => {
                    if self.buffers.has_news() {
                        self.unstamped += usize::from(received.stamp.is_none());
                    } else if !received.more {
                        return true;
                    }
                }
                Err(_) => return false,
            }
        }
    }
}

/// Messages of very different sizes, numbered.
fn messages() -> Vec<Vec<u8>> {
    (0..120u64)
        .map(|n| {
            let length = (mix(n) % 40_000) as usize / if n % 3 == 0 { 1 } else { 100 };
            let body = "x".repeat(length);
            format!("SIP/2.0 200 OK\r\nCall-ID: {n}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
        })
        .collect()
}

/// Writes bytes in pieces of all sizes, with pauses that let the other side read between.
fn trickle(stream: &mut TcpStream, bytes: &[u8]) {
    let (mut at, mut n) = (0, 0);
    while at < bytes.len() {
        n += 1;
        let len = (1 + mix(n) % 9_000) as usize;
        let end = bytes.len().min(at + len);
        stream.write_all(&bytes[at..end]).unwrap();
        if n % 4 == 0 {
            std::thread::sleep(Duration::from_micros(300));
        }
        at = end;
    }
}

async fn everything_arrives(dial: Dial) {
    for shared in [false, true] {
        let mut client = Client::open(Dial { shared, ..dial.clone() }).await;
        while client.messages.len() < messages().len() {
            client.wait().await;
            if !client.read() {
                break;
            }
        }
        assert!(client.messages == messages(), "{} messages", client.messages.len());
        assert_eq!(client.unstamped, 0, "reads without the kernel's stamp");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn messages_come_out_whole_over_tcp() {
    let (listener, target) = listen();
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            trickle(&mut stream, &messages().concat());
        }
    });
    runtime().block_on(everything_arrives(Dial {
        target,
        source: None,
        tls: None,
        shared: false,
        stamped: true,
    }));
    server.join().unwrap();
}

#[test]
fn messages_come_out_whole_over_tls_wherever_records_and_segments_are_cut() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let (listener, target) = listen();
    let server = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
            while session.is_handshaking() {
                session.complete_io(&mut stream).unwrap();
            }
            // Records that end in the middle of messages, segments in the middle of records.
            let mut sealed = Vec::new();
            for part in messages().concat().chunks(777) {
                session.writer().write_all(part).unwrap();
                while session.wants_write() {
                    session.write_tls(&mut sealed).unwrap();
                }
            }
            trickle(&mut stream, &sealed);
        }
    });
    let options = TlsOptions {
        ca_pem: made.cert.pem().into_bytes(),
        server_name: "localhost".to_owned(),
        ..TlsOptions::default()
    };
    let tls = Some(TlsClient::new(&options).unwrap());
    runtime().block_on(everything_arrives(Dial { target, source: None, tls, shared: false, stamped: true }));
    server.join().unwrap();
}

#[test]
fn what_a_peer_does_not_take_waits_up_to_the_bound_and_is_not_lost() {
    let (listener, target) = listen();
    runtime().block_on(async {
        let mut client =
            Client::open(Dial { target, source: None, tls: None, shared: false, stamped: true }).await;
        let (mut peer, _) = listener.accept().unwrap();
        let message = vec![b'm'; 64 * 1024];
        let (mut accepted, mut waited) = (0, false);
        let refused = loop {
            match client.connection.write(&message, &mut client.sealed) {
                Written::Whole => accepted += message.len(),
                Written::Blocked => {
                    accepted += message.len();
                    waited = true;
                }
                other => break other,
            }
            assert!(accepted < 100 * MAX_UNSENT, "the bound does not hold");
        };
        assert_eq!((refused, waited), (Written::Refused, true));
        assert!(client.connection.is_blocked());
        let reader = std::thread::spawn(move || {
            let (mut got, mut buffer) = (0, vec![0; 256 * 1024]);
            peer.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            while let Ok(n) = peer.read(&mut buffer) {
                if n == 0 {
                    break;
                }
                got += n;
            }
            got
        });
        let begun = Instant::now();
        while client.connection.is_blocked() && begun.elapsed() < Duration::from_secs(20) {
            client.wait().await;
            client.connection.flush();
        }
        client.connection.close(&mut client.sealed);
        drop(client);
        assert_eq!(reader.join().unwrap(), accepted);
    });
}
