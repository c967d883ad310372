//! TLS sessions of the engine against rustls' own server: whatever the sizes
//! and wherever the records are cut.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use adsum_agent::net::session::{Session, Standing};
use adsum_agent::net::tls::{self, TlsOptions};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ServerConfig, ServerConnection};

/// A server certificate for `localhost`, and what to trust.
struct Identity {
    pem: Vec<u8>,
    server: Arc<ServerConfig>,
}

fn identity(versions: &[&'static rustls::SupportedProtocolVersion]) -> Identity {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
    let server = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    Identity { pem: made.cert.pem().into_bytes(), server: Arc::new(server) }
}

/// A client and a server whose bytes are handed over in pieces of `cut`.
struct Wire {
    client: Session,
    server: ServerConnection,
    cut: usize,
    to_server: Vec<u8>,
    at_server: Vec<u8>,
    input: Vec<u8>,
    plain: Vec<u8>,
}

impl Wire {
    fn new(identity: &Identity, name: &str, cut: usize) -> Wire {
        let options = TlsOptions {
            ca_pem: identity.pem.clone(),
            server_name: name.to_owned(),
            ..TlsOptions::default()
        };
        let (config, name) = tls::client(&options).unwrap();
        Wire {
            client: Session::new(&config, &name).unwrap(),
            server: ServerConnection::new(Arc::clone(&identity.server)).unwrap(),
            cut,
            to_server: Vec::new(),
            at_server: Vec::new(),
            input: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// One piece of ciphertext to the client.
    fn piece(&mut self, piece: &[u8]) -> Result<Standing, rustls::Error> {
        let kept = self.client.restore(&mut self.input);
        self.input[kept..kept + piece.len()].copy_from_slice(piece);
        let len = kept + piece.len();
        self.client.advance(&mut self.input[..len], &mut self.plain, &mut self.to_server)
    }

    /// All that the server has to send, to the client.
    fn feed_client(&mut self) -> Result<Option<Standing>, rustls::Error> {
        let mut bytes = Vec::new();
        while self.server.wants_write() {
            self.server.write_tls(&mut bytes).unwrap();
        }
        let mut standing = None;
        for piece in bytes.chunks(self.cut) {
            standing = Some(self.piece(piece)?);
        }
        Ok(standing)
    }

    /// All that the client has to send, to the server.
    fn feed_server(&mut self) -> Result<(), rustls::Error> {
        let bytes = std::mem::take(&mut self.to_server);
        for piece in bytes.chunks(self.cut) {
            let mut piece = piece;
            while !piece.is_empty() {
                self.server.read_tls(&mut piece).unwrap();
                self.server.process_new_packets()?;
                // A reader that has nothing now says WouldBlock.
                drop(self.server.reader().read_to_end(&mut self.at_server));
            }
        }
        Ok(())
    }

    fn handshake(&mut self) -> Result<(), rustls::Error> {
        let begun = self.client.advance(&mut [], &mut self.plain, &mut self.to_server)?;
        assert_eq!(begun, Standing::Handshaking);
        let mut open = false;
        for _ in 0..10 {
            self.feed_server()?;
            open |= self.feed_client()? == Some(Standing::Open);
            if open && !self.server.is_handshaking() {
                return Ok(());
            }
        }
        panic!("the handshake does not end");
    }
}

fn open(cut: usize) -> Wire {
    let mut wire = Wire::new(&identity(&[&rustls::version::TLS13]), "localhost", cut);
    wire.handshake().unwrap();
    wire
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn messages_of_any_size_pass_in_both_versions_wherever_records_are_cut() {
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        let identity = identity(versions);
        for cut in [7, 1_000, 16_000] {
            let mut wire = Wire::new(&identity, "localhost", cut);
            wire.handshake().unwrap();
            for len in [1, 700, 16_384, 16_385, 40_000] {
                let message = pattern(len);
                wire.client.seal(&message, &mut wire.to_server).unwrap();
                wire.at_server.clear();
                wire.feed_server().unwrap();
                assert!(wire.at_server == message, "to the server, {len} bytes, cut {cut}");
                wire.plain.clear();
                for part in message.chunks(10_000) {
                    wire.server.writer().write_all(part).unwrap();
                    wire.feed_client().unwrap();
                }
                assert!(wire.plain == message, "to the client, {len} bytes, cut {cut}");
            }
        }
    }
}

#[test]
fn a_message_can_be_written_while_half_a_record_is_here() {
    let mut wire = open(9_000);
    wire.plain.clear();
    wire.server.writer().write_all(b"from the server").unwrap();
    let mut bytes = Vec::new();
    wire.server.write_tls(&mut bytes).unwrap();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    wire.piece(first).unwrap();
    assert!(wire.plain.is_empty());
    wire.client.seal(b"from the client", &mut wire.to_server).unwrap();
    wire.piece(second).unwrap();
    assert_eq!(wire.plain, b"from the server");
    wire.feed_server().unwrap();
    assert_eq!(wire.at_server, b"from the client");
}

#[test]
fn a_goodbye_is_understood_on_both_sides() {
    let mut wire = open(9_000);
    wire.server.send_close_notify();
    assert_eq!(wire.feed_client().unwrap(), Some(Standing::Closed));
    let mut wire = open(9_000);
    wire.client.close(&mut wire.to_server);
    wire.feed_server().unwrap();
    let mut nothing = [0; 1];
    assert_eq!(wire.server.reader().read(&mut nothing).unwrap(), 0);
}

#[test]
fn a_certificate_for_another_name_is_refused_and_the_server_is_told() {
    let identity = identity(&[&rustls::version::TLS13]);
    let mut wire = Wire::new(&identity, "pool.example.com", 9_000);
    let refused = wire.handshake().unwrap_err();
    assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{refused}");
    let told = wire.feed_server().unwrap_err();
    assert!(matches!(told, rustls::Error::AlertReceived(_)), "{told}");
}

#[test]
fn nothing_can_be_written_before_the_handshake() {
    let identity = identity(&[&rustls::version::TLS13]);
    let mut wire = Wire::new(&identity, "localhost", 9_000);
    assert!(wire.client.seal(b"early", &mut wire.to_server).is_err());
    assert!(wire.to_server.is_empty());
}
