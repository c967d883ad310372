//! OpenSSL in place of rustls: it reaches the servers that rustls cannot, and judges certificates
//! by the same rules and in the same words.

#![cfg(feature = "legacy-tls")]

mod s_server;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use adsum_agent::net::legacy;
use adsum_agent::net::secured::{Client, Refused, Secured};
use adsum_agent::net::session::Standing;
use adsum_agent::net::tls::TlsOptions;
use s_server::{DHE_GCM, ECDHE_CBC, Identity, MODERN, RSA_GCM, Server, TLS10, wanted};

fn options(ca_pem: Vec<u8>, name: &str, legacy: bool) -> TlsOptions {
    TlsOptions { ca_pem, server_name: name.to_owned(), legacy, ..TlsOptions::default() }
}

/// A session on a blocking socket.
struct Line {
    session: Secured,
    socket: TcpStream,
    input: Vec<u8>,
    plain: Vec<u8>,
    sealed: Vec<u8>,
    /// Bytes that are handed over at a time.
    cut: usize,
}

impl Line {
    fn open(options: &TlsOptions, address: SocketAddr, cut: usize) -> Result<Line, Refused> {
        let session = Client::new(options).unwrap().session().unwrap();
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (input, plain, sealed) = (Vec::new(), Vec::new(), Vec::new());
        let mut line = Line { session, socket, input, plain, sealed, cut };
        let mut standing = line.advance(&[])?;
        while standing == Standing::Handshaking {
            standing = line.read()?;
        }
        assert_eq!(standing, Standing::Open);
        Ok(line)
    }

    fn advance(&mut self, piece: &[u8]) -> Result<Standing, Refused> {
        let kept = self.session.restore(&mut self.input);
        self.input[kept..kept + piece.len()].copy_from_slice(piece);
        let len = kept + piece.len();
        let result = self.session.advance(&mut self.input[..len], &mut self.plain, &mut self.sealed);
        self.flush();
        result
    }

    fn flush(&mut self) {
        // After a refusal the other side may have closed already.
        let _ = self.socket.write_all(&self.sealed);
        self.sealed.clear();
    }

    /// What one read of the socket brings.
    fn read(&mut self) -> Result<Standing, Refused> {
        let mut buffer = [0; 8192];
        let n = self.socket.read(&mut buffer).unwrap();
        if n == 0 {
            return Err(self.session.ended("closed the connection"));
        }
        let mut standing = Standing::Handshaking;
        for piece in buffer[..n].chunks(self.cut) {
            standing = self.advance(piece)?;
        }
        Ok(standing)
    }

    fn write(&mut self, message: &[u8]) {
        self.session.seal(message, &mut self.sealed).unwrap();
        self.flush();
    }

    /// Reads until so many bytes of plaintext are there.
    fn receive(&mut self, len: usize) -> Vec<u8> {
        while self.plain.len() < len {
            self.read().map_err(|refused| refused.error).unwrap();
        }
        std::mem::take(&mut self.plain)
    }
}

/// A line of so many bytes, and what `s_server -rev` makes of it.
fn line_and_reverse(len: usize) -> (Vec<u8>, Vec<u8>) {
    let text: Vec<u8> = (0..len - 1).map(|at| b'a' + (at * 7 % 26) as u8).collect();
    let back: Vec<u8> = text.iter().rev().copied().chain(*b"\n").collect();
    ([text, b"\n".to_vec()].concat(), back)
}

#[test]
fn old_servers_are_reached_and_messages_pass_wherever_records_are_cut() {
    if !wanted("old_servers_are_reached_and_messages_pass_wherever_records_are_cut") {
        return;
    }
    let identity = Identity::new("DNS:localhost", &[]);
    for old in [ECDHE_CBC, RSA_GCM, DHE_GCM, TLS10, MODERN] {
        let server = Server::start(&identity, &[old, &["-rev"]].concat());
        for cut in [1, 100, 8192] {
            let mut line = Line::open(&options(identity.pem(), "localhost", true), server.address, cut)
                .unwrap_or_else(|refused| panic!("{old:?}: {:?}", refused.error));
            // `-rev` reads 16 kB at a time and turns each line around.
            for len in [2, 700, 15_000] {
                let (sent, expected) = line_and_reverse(len);
                line.write(&sent);
                assert!(line.receive(len) == expected, "{old:?}, {len} bytes, cut {cut}");
            }
            line.session.close(&mut line.sealed);
            assert!(!line.sealed.is_empty(), "no goodbye");
            line.flush();
        }
    }
}

#[test]
fn the_same_servers_are_out_of_reach_of_rustls_and_it_is_not_said_why() {
    if !wanted("the_same_servers_are_out_of_reach_of_rustls_and_it_is_not_said_why") {
        return;
    }
    let identity = Identity::new("DNS:localhost", &[]);
    for old in [ECDHE_CBC, RSA_GCM, DHE_GCM, TLS10] {
        let server = Server::start(&identity, old);
        let refused = Line::open(&options(identity.pem(), "localhost", false), server.address, 8192).err();
        assert!(refused.is_some_and(|refused| refused.puzzling), "{old:?}");
    }
}

#[test]
fn version_and_suite_are_those_that_the_server_has() {
    if !wanted("version_and_suite_are_those_that_the_server_has") {
        return;
    }
    let identity = Identity::new("DNS:localhost", &[]);
    for (old, version, suite) in [
        (ECDHE_CBC, "TLSv1.2", "ECDHE-RSA-AES256-SHA384"),
        (RSA_GCM, "TLSv1.2", "AES256-GCM-SHA384"),
        (TLS10, "TLSv1", "ECDHE-RSA-AES256-SHA"),
        (MODERN, "TLSv1.3", "TLS_AES_256_GCM_SHA384"),
    ] {
        let server = Server::start(&identity, old);
        let options = options(identity.pem(), "localhost", true);
        let name = "localhost".try_into().unwrap();
        let mut session = legacy::Session::new(&legacy::Config::new(&options).unwrap(), &name).unwrap();
        let mut socket = TcpStream::connect(server.address).unwrap();
        let (mut plain, mut sealed) = (Vec::new(), Vec::new());
        let mut standing = session.advance(&[], &mut plain, &mut sealed).unwrap();
        while standing == Standing::Handshaking {
            socket.write_all(&sealed).unwrap();
            sealed.clear();
            let mut buffer = [0; 8192];
            let n = socket.read(&mut buffer).unwrap();
            standing = session.advance(&buffer[..n], &mut plain, &mut sealed).unwrap();
        }
        assert_eq!(session.agreed(), Some((version, suite)));
    }
}

/// What both implementations say of a certificate; it has to be the same.
fn said_by_both(identity: &Identity, ca: Vec<u8>, name: &str) -> String {
    // At its usual level of security the server would not even load some of the certificates.
    let server = Server::start(identity, &["-cipher", "DEFAULT:@SECLEVEL=0"]);
    let told = [false, true].map(|legacy| {
        let refused = Line::open(&options(ca.clone(), name, legacy), server.address, 8192).err();
        let refused = refused.unwrap_or_else(|| panic!("accepted, legacy = {legacy}"));
        assert!(!refused.puzzling);
        (refused.error.class, refused.error.code, refused.error.diagnosis)
    });
    // Clocks may have gone on between the two.
    let steady = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    assert_eq!(told[0].0, told[1].0);
    assert_eq!(told[0].1, told[1].1);
    assert_eq!(steady(&told[0].2), steady(&told[1].2));
    told[1].2.clone()
}

#[test]
fn certificates_are_judged_by_the_same_rules_and_in_the_same_words() {
    if !wanted("certificates_are_judged_by_the_same_rules_and_in_the_same_words") {
        return;
    }
    let good = Identity::new("DNS:pool.example.com,IP:192.0.2.1", &[]);
    let said = said_by_both(&good, Identity::ca().pem(), "pool.example.com");
    assert!(said.contains("not signed by a CA that is trusted here"), "{said}");
    // A CA that was made anew has the name of the old one, and another key.
    let renewed = Identity::new("DNS:pool.example.com", &[]);
    let said = said_by_both(&good, renewed.pem(), "pool.example.com");
    assert!(said.contains("a CA of the same name with another key"), "{said}");
    let said = said_by_both(&good, good.pem(), "sip.example.com");
    assert!(said.contains("is not for `sip.example.com`") && said.contains("pool.example.com"), "{said}");
    let said = said_by_both(&good, good.pem(), "192.0.2.2");
    assert!(said.contains("is not for `192.0.2.2`"), "{said}");
    let only_cn = Identity::new("", &[]);
    let said = said_by_both(&only_cn, only_cn.pem(), "localhost");
    assert!(said.contains("no subject alternative name") && said.contains("`localhost`"), "{said}");
    let expired = dated(2019, 2020);
    let said = said_by_both(&expired, expired.pem(), "localhost");
    assert!(said.contains("has expired: renew it"), "{said}");
    let early = dated(2200, 2201);
    let said = said_by_both(&early, early.pem(), "localhost");
    assert!(said.contains("is not valid yet: look at both clocks"), "{said}");
}

/// A certificate of other years.
fn dated(from: i32, to: i32) -> Identity {
    let identity = Identity::new("DNS:localhost", &[]);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    std::fs::write(identity.cert(), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(identity.key(), key.serialize_pem()).unwrap();
    identity
}

/// What rustls says, and whether legacy TLS takes it.
fn old_chain(identity: &Identity, ca: Vec<u8>, name: &str, sends: &[&str]) -> (String, Option<String>) {
    let server = Server::start(identity, &[&["-cipher", "DEFAULT:@SECLEVEL=0"], sends].concat());
    let said = |legacy: bool| {
        let refused = Line::open(&options(ca.clone(), name, legacy), server.address, 8192).err();
        refused.map(|refused| refused.error.diagnosis)
    };
    (said(false).expect("rustls took it"), said(true))
}

#[test]
fn a_chain_signed_with_sha_1_is_named_as_such_and_taken_with_legacy_tls() {
    if !wanted("a_chain_signed_with_sha_1_is_named_as_such_and_taken_with_legacy_tls") {
        return;
    }
    let ca = Identity::ca();
    let signed = Identity::signed(&ca, "DNS:localhost", "-sha1");
    let (said, legacy) = old_chain(&signed, ca.pem(), "localhost", &[]);
    assert!(said.contains("signed with SHA-1") && said.contains("--legacy-tls"), "{said}");
    assert_eq!(legacy, None);
    // The CA between, too; and everything else is judged as ever.
    let between = Identity::ca_below(&ca, "-sha1");
    let below = Identity::signed(&between, "DNS:localhost", "-sha1");
    let chain = between.cert().to_string_lossy().into_owned();
    let sends = ["-cert_chain", &chain];
    let (said, legacy) = old_chain(&below, ca.pem(), "localhost", &sends);
    assert!(said.contains("signed with SHA-1"), "{said}");
    assert_eq!(legacy, None);
    let said = old_chain(&below, ca.pem(), "other.example.com", &sends).1.unwrap();
    assert!(said.contains("is not for `other.example.com`"), "{said}");
    let said = old_chain(&below, Identity::ca().pem(), "localhost", &sends).1.unwrap();
    assert!(said.contains("a CA of the same name with another key"), "{said}");
    let stranger = Identity::new("DNS:stranger", &[]);
    let said = old_chain(&signed, stranger.pem(), "localhost", &[]).1.unwrap();
    assert!(said.contains("not signed by a CA that is trusted here"), "{said}");
}

#[test]
fn keys_of_1024_bits_are_taken_with_legacy_tls_and_shorter_ones_never() {
    if !wanted("keys_of_1024_bits_are_taken_with_legacy_tls_and_shorter_ones_never") {
        return;
    }
    for digest in ["-sha1", "-sha256"] {
        let ca = Identity::ca_with(1024);
        let signed = Identity::signed(&ca, "DNS:localhost", digest);
        let (said, legacy) = old_chain(&signed, ca.pem(), "localhost", &[]);
        let words = if digest == "-sha1" { "signed with SHA-1" } else { "shorter than 2,048 bits" };
        assert!(said.contains(words), "{said}");
        assert_eq!(legacy, None, "{digest}");
    }
    let ca = Identity::ca_with(768);
    let signed = Identity::signed(&ca, "DNS:localhost", "-sha256");
    assert!(old_chain(&signed, ca.pem(), "localhost", &[]).1.is_some());
}

#[test]
fn a_ca_between_has_to_be_sent_by_the_server() {
    if !wanted("a_ca_between_has_to_be_sent_by_the_server") {
        return;
    }
    let root = Identity::ca();
    let between = Identity::ca_below(&root, "-sha256");
    let identity = Identity::signed(&between, "DNS:localhost", "-sha256");
    let chain = between.cert();
    let sends = [RSA_GCM, &["-cert_chain", chain.to_str().unwrap()]].concat();
    let server = Server::start(&identity, &sends);
    let opened = Line::open(&options(root.pem(), "localhost", true), server.address, 8192);
    assert!(opened.is_ok(), "{:?}", opened.err());
    let said = said_by_both(&identity, root.pem(), "localhost");
    assert!(said.contains("the pool has to send the certificates between"), "{said}");
}

#[test]
fn a_server_that_wants_a_certificate_gets_it_and_is_named_if_there_is_none() {
    if !wanted("a_server_that_wants_a_certificate_gets_it_and_is_named_if_there_is_none") {
        return;
    }
    let identity = Identity::new("DNS:localhost", &[]);
    let client = Identity::new("DNS:agent.example.com", &[]);
    let asks = [RSA_GCM, &["-Verify", "1", "-rev"]].concat();
    let server = Server::start(&identity, &asks);
    let without = options(identity.pem(), "localhost", true);
    let refused = Line::open(&without, server.address, 8192).err().unwrap();
    assert!(refused.error.diagnosis.contains("client certificate"), "{:?}", refused.error);
    let with =
        TlsOptions { cert_pem: client.pem(), key_pem: std::fs::read(client.key()).unwrap(), ..without };
    let mut line = Line::open(&with, server.address, 8192).map_err(|refused| refused.error).unwrap();
    line.write(b"abc\n");
    assert_eq!(line.receive(4), b"cba\n");
    // A key of somebody else is found before anything is sent.
    let wrong = TlsOptions { key_pem: std::fs::read(identity.key()).unwrap(), ..with };
    let told = Client::new(&wrong).unwrap_err().to_string();
    assert!(told.contains("`cert` and `key` do not fit"), "{told}");
}

#[test]
fn a_server_without_secure_renegotiation_is_talked_to() {
    let options = options(Identity::ca().pem(), "localhost", true);
    let mut session = Client::new(&options).unwrap().session().unwrap();
    let (mut plain, mut sealed) = (Vec::new(), Vec::new());
    session.advance(&mut [], &mut plain, &mut sealed).unwrap();
    // A ServerHello without any extension: TLS 1.0, TLS_RSA_WITH_AES_128_CBC_SHA.
    let mut hello = vec![22, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 0x2f, 0]);
    let standing = session.advance(&mut hello, &mut plain, &mut sealed).map_err(|refused| refused.error);
    assert_eq!(standing.unwrap(), Standing::Handshaking);
}

#[test]
fn a_message_waits_while_the_server_renegotiates() {
    if !wanted("a_message_waits_while_the_server_renegotiates") {
        return;
    }
    let identity = Identity::new("DNS:localhost", &[]);
    let mut server = Server::start(&identity, RSA_GCM);
    let mut line = Line::open(&options(identity.pem(), "localhost", true), server.address, 8192)
        .map_err(|refused| refused.error)
        .unwrap();
    // The console command for a renegotiation; the HelloRequest is the next thing that comes.
    let console = server.child.stdin.as_mut().unwrap();
    console.write_all(b"r\n").unwrap();
    assert_eq!(line.read().map_err(|refused| refused.error).unwrap(), Standing::Open);
    line.session.seal(b"while the keys change\n", &mut line.sealed).unwrap();
    assert!(line.sealed.is_empty(), "it did not wait");
    console.write_all(b"and the server has its say\n").unwrap();
    let expected = b"and the server has its say\n";
    assert_eq!(line.receive(expected.len()), expected);
    // What the server says may come before its part of the renegotiation.
    line.socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let heard = (0..200).any(|_| {
        let mut more = [0; 8192];
        let n = line.socket.read(&mut more).unwrap_or(0);
        assert_eq!(line.advance(&more[..n]).map_err(|refused| refused.error).unwrap(), Standing::Open);
        server.hears("while the keys change")
    });
    assert!(heard, "the message that waited was lost");
}

#[test]
fn what_is_no_tls_is_called_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let plain = std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            stream.write_all(b"SIP/2.0 400 This is no TLS\r\nContent-Length: 0\r\n\r\n").unwrap();
            // Until the client has gone.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let ca = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem();
    for legacy in [false, true] {
        let refused = Line::open(&options(ca.clone().into_bytes(), "localhost", legacy), address, 8192).err();
        let said = refused.unwrap().error.diagnosis;
        assert!(said.contains("does not speak TLS"), "legacy = {legacy}: {said}");
    }
    plain.join().unwrap();
}

#[test]
fn nothing_can_be_written_before_the_handshake() {
    let ca = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem();
    let client = Client::new(&options(ca.into_bytes(), "localhost", true)).unwrap();
    assert!(client.implementation().starts_with("OpenSSL ") && client.implementation().ends_with("(legacy)"));
    let mut session = client.session().unwrap();
    let mut sealed = Vec::new();
    assert!(session.seal(b"early", &mut sealed).is_err());
    session.close(&mut sealed);
    assert!(sealed.is_empty());
}
