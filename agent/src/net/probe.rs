//! What a server would accept that refused our TLS handshake.
//!
//! A refusal does not say why: `handshake_failure`, or a connection that just
//! ends, is all that is seen of a server with nothing but CBC suites, RSA or
//! DHE key exchange, or TLS 1.0. So it is asked once: one connection, one
//! ClientHello made by hand that offers only what our TLS does not have, one
//! answer. Nothing is negotiated to its end, and nothing secret is sent.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adsum_presence::host::FlowError;
use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};

use super::tls;

/// Time for the whole question, and so for the failures that wait for its answer.
pub const LIMIT: Duration = Duration::from_secs(3);
/// Targets that one process asks in a run; a pool has a few addresses.
const MAX_TARGETS: usize = 64;
/// Bytes of an answer that are looked at: a ServerHello lies in the first record.
const MAX_ANSWER: usize = 16 * 1024;

const TLS12: u16 = 0x0303;
/// TLS_EMPTY_RENEGOTIATION_INFO_SCSV (RFC 5746 §3.3).
const RENEGOTIATION_INFO: u16 = 0x00ff;

/// The cipher suites that are offered, in the order of preference of a client that wants the least
/// old: none of them has both ECDHE and AEAD. Numbers and names are those of IANA's registry.
const SUITES: [(u16, &str); 32] = [
    (0xc028, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384"),
    (0xc027, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0xc024, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384"),
    (0xc023, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256"),
    (0xc014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"),
    (0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
    (0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"),
    (0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"),
    (0x009f, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0x009e, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0x006b, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256"),
    (0x0067, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0x0039, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA"),
    (0x0033, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA"),
    (0x006a, "TLS_DHE_DSS_WITH_AES_256_CBC_SHA256"),
    (0x0040, "TLS_DHE_DSS_WITH_AES_128_CBC_SHA256"),
    (0x0038, "TLS_DHE_DSS_WITH_AES_256_CBC_SHA"),
    (0x0032, "TLS_DHE_DSS_WITH_AES_128_CBC_SHA"),
    (0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384"),
    (0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256"),
    (0x003d, "TLS_RSA_WITH_AES_256_CBC_SHA256"),
    (0x003c, "TLS_RSA_WITH_AES_128_CBC_SHA256"),
    (0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA"),
    (0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA"),
    (0xc012, "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0xc008, "TLS_ECDHE_ECDSA_WITH_3DES_EDE_CBC_SHA"),
    (0x0016, "TLS_DHE_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0xc011, "TLS_ECDHE_RSA_WITH_RC4_128_SHA"),
    (0xc007, "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA"),
    (0x0005, "TLS_RSA_WITH_RC4_128_SHA"),
    (0x0004, "TLS_RSA_WITH_RC4_128_MD5"),
];

/// What a server made of the old ClientHello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It agreed to a version (as on the wire) and a cipher suite.
    Accepts {
        /// 0x0301 is TLS 1.0, 0x0302 TLS 1.1, 0x0303 TLS 1.2.
        version: u16,
        /// IANA's number.
        suite: u16,
    },
    /// It refused this one, too, with this alert.
    Alert(u8),
    /// It closed the connection without a word.
    Closed,
    /// What came is no TLS.
    NotTls,
    /// It could not be asked, or said nothing in time.
    Unknown(String),
}

/// Asks a server, and waits for its answer: a few milliseconds where somebody answers, never longer
/// than `limit`.
#[must_use]
pub fn ask(target: SocketAddr, source: Option<IpAddr>, name: &ServerName<'_>, limit: Duration) -> Finding {
    let deadline = Instant::now() + limit;
    let mut got = Vec::new();
    match converse(target, source, &client_hello(name), deadline, &mut got) {
        Ok(Some(finding)) => finding,
        // The connection ended in the middle of an answer, or before one.
        Ok(None) if got.is_empty() => Finding::Closed,
        Ok(None) => Finding::NotTls,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Finding::Closed,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Finding::Unknown(format!("nothing came within {} s", limit.as_secs_f32()))
        }
        Err(error) => Finding::Unknown(error.to_string()),
    }
}

fn converse(
    target: SocketAddr,
    source: Option<IpAddr>,
    hello: &[u8],
    deadline: Instant,
    got: &mut Vec<u8>,
) -> io::Result<Option<Finding>> {
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect_timeout(&target.into(), left()?)?;
    let mut stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(hello)?;
    let mut buffer = [0; 4096];
    while got.len() < MAX_ANSWER {
        stream.set_read_timeout(Some(left()?))?;
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        got.extend_from_slice(&buffer[..n]);
        if let Some(finding) = answer(got) {
            return Ok(Some(finding));
        }
    }
    Ok(None)
}

/// A ClientHello (RFC 5246 §7.4.1.2) for TLS 1.2 and less, as one record.
fn client_hello(name: &ServerName<'_>) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let ServerName::DnsName(host) = name {
        let host = host.as_ref().as_bytes();
        let mut names = vec![0];
        block(&mut names, host);
        let mut list = Vec::new();
        block(&mut list, &names);
        extension(&mut extensions, 0, &list);
    }
    // secp256r1, secp384r1, secp521r1, x25519; uncompressed points.
    extension(&mut extensions, 10, &[0, 8, 0, 23, 0, 24, 0, 25, 0, 29]);
    extension(&mut extensions, 11, &[1, 0]);
    // RSA, ECDSA and DSA with SHA-256, SHA-384, SHA-512 and SHA-1 (RFC 5246 §7.4.1.4.1).
    let signatures: Vec<u8> = [4, 5, 6, 2].into_iter().flat_map(|hash| [hash, 1, hash, 3, hash, 2]).collect();
    let mut list = Vec::new();
    block(&mut list, &signatures);
    extension(&mut extensions, 13, &list);

    let mut suites = Vec::new();
    for suite in SUITES.iter().map(|(suite, _)| *suite).chain([RENEGOTIATION_INFO]) {
        suites.extend_from_slice(&suite.to_be_bytes());
    }
    let mut body = TLS12.to_be_bytes().to_vec();
    // The random need not be secret: no key will ever come of this handshake.
    let mut random = adsum_sip::ids::mix(super::clock::unix_ns() as u64);
    for _ in 0..4 {
        random = adsum_sip::ids::mix(random);
        body.extend_from_slice(&random.to_be_bytes());
    }
    body.push(0); // no session
    block(&mut body, &suites);
    body.extend_from_slice(&[1, 0]); // no compression
    block(&mut body, &extensions);

    let mut handshake = vec![1, 0];
    block(&mut handshake, &body);
    let mut record = vec![22, 3, 1];
    block(&mut record, &handshake);
    record
}

/// Two bytes of length, and the bytes: all of ours are far shorter than 64 kB.
fn block(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn extension(out: &mut Vec<u8>, kind: u16, bytes: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    block(out, bytes);
}

/// What the bytes so far say; `None` if more is needed.
fn answer(bytes: &[u8]) -> Option<Finding> {
    let mut handshake = Vec::new();
    let mut rest = bytes;
    loop {
        let (kind, major) = (*rest.first()?, rest.get(1).copied());
        if !matches!(kind, 21 | 22) || major.is_some_and(|major| major != 3) {
            return Some(Finding::NotTls);
        }
        let len = usize::from(u16::from_be_bytes([*rest.get(3)?, *rest.get(4)?]));
        let body = rest.get(5..5 + len)?;
        match (kind, body) {
            // A warning, such as one about the name, goes before the answer.
            (21, [1, _]) => {}
            (21, [_, alert]) => return Some(Finding::Alert(*alert)),
            (21, _) => return Some(Finding::NotTls),
            _ => handshake.extend_from_slice(body),
        }
        if let Some(kind) = handshake.first() {
            if *kind != 2 {
                return Some(Finding::NotTls);
            }
            if let Some(found) = server_hello(&handshake) {
                return Some(found);
            }
        }
        rest = &rest[5 + len..];
    }
}

/// Version and suite of a ServerHello (RFC 5246 §7.4.1.3).
fn server_hello(bytes: &[u8]) -> Option<Finding> {
    let version = u16::from_be_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let session = usize::from(*bytes.get(38)?);
    let suite = u16::from_be_bytes([*bytes.get(39 + session)?, *bytes.get(40 + session)?]);
    let offered = SUITES.iter().any(|(known, _)| *known == suite);
    Some(if offered && version <= TLS12 { Finding::Accepts { version, suite } } else { Finding::NotTls })
}

/// The name of a version, as administrators know it.
fn version_name(version: u16) -> &'static str {
    match version {
        0x0303 => "TLS 1.2",
        0x0302 => "TLS 1.1",
        0x0301 => "TLS 1.0",
        _ => "SSL 3.0",
    }
}

fn suite_name(suite: u16) -> &'static str {
    SUITES.iter().find(|(known, _)| *known == suite).map_or("an unknown suite", |(_, name)| name)
}

/// What is old about a suite.
fn traits(suite: &str) -> &'static str {
    match (suite.starts_with("TLS_ECDHE_"), suite.starts_with("TLS_DHE_"), suite.contains("_GCM_")) {
        (true, ..) if suite.contains("_RC4_") => "the RC4 cipher",
        (true, ..) => "CBC mode, no AEAD",
        (_, true, true) => "DHE key exchange",
        (_, true, false) => "DHE key exchange and CBC mode",
        (.., true) => "RSA key exchange",
        _ if suite.contains("_RC4_") => "RSA key exchange and the RC4 cipher",
        _ => "RSA key exchange and CBC mode",
    }
}

impl Finding {
    /// What an administrator should know and do.
    #[must_use]
    pub fn diagnosis(&self) -> String {
        match self {
            Finding::Accepts { version, suite } => accepts(*version, *suite),
            Finding::Alert(alert) => {
                let alert = AlertDescription::from(*alert);
                format!(
                    "the server refused the handshake, and then one with only old cipher suites, for TLS 1.2 and \
                     less, as well ({alert:?}): old TLS is probably not the reason. It may have no certificate that \
                     it can use, know no server of this name (--server-name), or ask for a client certificate \
                     (--cert, --key): look at its log"
                )
            }
            Finding::Closed => "the server closes the connection at our ClientHello, and at an old one as well: it \
                                may not speak TLS on this port, have no certificate that it can use, refuse this \
                                host, or be overloaded: look at its log (Windows: System log, source Schannel)"
                .to_owned(),
            Finding::NotTls => {
                "what answers does not speak TLS that we know: check port and transport".to_owned()
            }
            Finding::Unknown(why) => format!(
                "the server refused the handshake. Whether it has nothing but old cipher suites or versions could \
                 not be found out ({why}); we speak TLS 1.2 and 1.3 with ECDHE and AEAD suites"
            ),
        }
    }
}

fn accepts(version: u16, suite: u16) -> String {
    let (name, version_name) = (suite_name(suite), version_name(version));
    if version < 0x0301 {
        return format!(
            "the server speaks nothing newer than SSL 3.0 ({name}), which adsum does not speak at all: enable TLS 1.2 \
             on the pool"
        );
    }
    // Not built into our OpenSSL: weak beyond what a pool of 2013 needs.
    let switch = if name.contains("_3DES_") || name.contains("_RC4_") {
        "adsum does not have this cipher in any build".to_owned()
    } else {
        format!("or let adsum speak it: {}", tls::SWITCH)
    };
    if version < TLS12 {
        return format!(
            "the server speaks nothing newer than {version_name}: offered up to TLS 1.2 it chose {version_name} with \
             {name}, and adsum's own TLS begins at 1.2. Enable TLS 1.2 on the pool (Windows: SCHANNEL\\Protocols\\\
             TLS 1.2\\Server in the registry; Lync Server needs its updates for it), {switch}"
        );
    }
    format!(
        "the server has probably no cipher suite with ECDHE and AEAD, which adsum's own TLS needs: it refused those, \
         and offered only old ones it chose TLS 1.2 with {name} ({}). Enable ECDHE with AES-GCM on the pool (before \
         Windows Server 2016 probably with an ECDSA certificate only), {switch}",
        traits(name)
    )
}

/// What is known of a target.
#[derive(Debug, Clone)]
enum Known {
    /// A handshake with it has succeeded: what fails later has other reasons.
    Good,
    /// It is being asked, since then.
    Asked(Instant),
    /// It has answered.
    Found(Finding),
}

/// What all shards of a run know of their targets: each is asked once.
#[derive(Debug, Clone, Default)]
pub struct Probes(Arc<Mutex<BTreeMap<SocketAddr, Known>>>);

/// What [`Probes::explain`] makes of a failure.
#[derive(Debug)]
pub enum Explained {
    /// This is all that can be said of it.
    Now(FlowError),
    /// The target is being asked: come again, for [`LIMIT`] at most.
    Later(FlowError),
}

impl Probes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handshake with this target has succeeded.
    pub fn succeeded(&self, target: SocketAddr) {
        let mut known = self.lock();
        if known.len() < MAX_TARGETS || known.contains_key(&target) {
            known.insert(target, Known::Good);
        }
    }

    /// Says what is known about a handshake that `target` refused without a clear reason. The first
    /// failure has the target asked, by a thread of its own that ends after [`LIMIT`] at the latest.
    #[must_use]
    pub fn explain(
        &self,
        target: SocketAddr,
        source: Option<IpAddr>,
        name: &ServerName<'static>,
        error: FlowError,
    ) -> Explained {
        let mut known = self.lock();
        match known.get(&target) {
            Some(Known::Good) => return Explained::Now(error),
            // A thread that died on the way must not make anybody wait for ever.
            Some(Known::Asked(since)) if since.elapsed() > 2 * LIMIT => return Explained::Now(error),
            Some(Known::Asked(_)) => return Explained::Later(error),
            Some(Known::Found(finding)) => {
                return Explained::Now(FlowError { diagnosis: finding.diagnosis(), ..error });
            }
            None if known.len() >= MAX_TARGETS => return Explained::Now(error),
            None => {}
        }
        known.insert(target, Known::Asked(Instant::now()));
        drop(known);
        let (probes, name) = (self.clone(), name.clone());
        let asked = std::thread::Builder::new().name("tls-probe".to_owned()).spawn(move || {
            let finding = ask(target, source, &name, LIMIT);
            let mut known = probes.lock();
            // A handshake that succeeded meanwhile knows better.
            if !matches!(known.get(&target), Some(Known::Good)) {
                known.insert(target, Known::Found(finding));
            }
        });
        if let Err(why) = asked {
            let finding = Finding::Unknown(why.to_string());
            let error = FlowError { diagnosis: finding.diagnosis(), ..error };
            self.lock().insert(target, Known::Found(finding));
            return Explained::Now(error);
        }
        Explained::Later(error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![kind, 3, 1];
        block(&mut out, body);
        out
    }

    fn hello(version: u16, suite: u16) -> Vec<u8> {
        let mut body = version.to_be_bytes().to_vec();
        body.extend_from_slice(&[7; 32]);
        body.push(3);
        body.extend_from_slice(b"sid");
        body.extend_from_slice(&suite.to_be_bytes());
        body.push(0);
        let mut out = vec![2, 0];
        block(&mut out, &body);
        out
    }

    #[test]
    fn a_server_hello_is_read_in_whatever_records_it_comes() {
        let hello = hello(0x0301, 0x002f);
        let found = Some(Finding::Accepts { version: 0x0301, suite: 0x002f });
        assert_eq!(answer(&record(22, &hello)), found);
        for cut in 1..hello.len() {
            let (first, second) = hello.split_at(cut);
            let warned = [record(21, &[1, 112]), record(22, first), record(22, second)].concat();
            assert_eq!(answer(&warned), found, "cut at {cut}");
        }
        assert_eq!(answer(&record(22, &hello)[..20]), None);
    }

    #[test]
    fn refusals_and_what_is_no_tls_are_told_apart() {
        assert_eq!(answer(&record(21, &[2, 40])), Some(Finding::Alert(40)));
        assert_eq!(answer(b"SIP/2.0 400 Bad Request\r\n\r\n"), Some(Finding::NotTls));
        // A suite that was not offered is no agreement.
        assert_eq!(answer(&record(22, &hello(0x0303, 0xc02f))), Some(Finding::NotTls));
        assert_eq!(answer(b""), None);
    }

    #[test]
    fn what_was_found_says_what_to_do_and_guesses_are_called_guesses() {
        let said = |version, suite| Finding::Accepts { version, suite }.diagnosis();
        let old = said(0x0301, 0x002f);
        assert!(old.contains("nothing newer than TLS 1.0") && old.contains("legacy = true"), "{old}");
        let rsa = said(0x0303, 0x009d);
        assert!(rsa.contains("probably") && rsa.contains("(RSA key exchange)"), "{rsa}");
        assert!(said(0x0303, 0xc028).contains("(CBC mode, no AEAD)"));
        assert!(said(0x0303, 0x0039).contains("(DHE key exchange and CBC mode)"));
        let weak = said(0x0302, 0x0005);
        assert!(weak.contains("TLS 1.1") && !weak.contains("legacy = true"), "{weak}");
        assert!(said(0x0300, 0x000a).contains("SSL 3.0"));
        assert!(Finding::Alert(40).diagnosis().contains("HandshakeFailure"));
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 20u8..24) {
            let _ = answer(&bytes);
            let _ = answer(&record(kind, &bytes));
        }
    }
}
