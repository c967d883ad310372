//! TLS by OpenSSL, for servers that rustls cannot reach: TLS 1.0, CBC suites,
//! RSA and DHE key exchange, no secure renegotiation. Security level 0: what a
//! pool of 2013 offers is taken, because it is that pool that is tested.
//!
//! Only the protocol is OpenSSL's. Whether a certificate is accepted is decided
//! by the same code as with rustls, before the handshake goes on: same CAs, same
//! rules for chain and name, same words. This cannot be switched off here either.
//! Chains may be signed as they were in 2012, with SHA-1 ([`super::old_chain`]).
//!
//! A session touches no socket: OpenSSL reads from and writes to memory.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use adsum_presence::host::{Class, FlowError};
use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslSessionCacheMode,
    SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::{X509, X509StoreContextRef};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, Error};

use super::old_chain;
use super::session::{RECORD, RECORD_OVERHEAD, Standing};
use super::stream::MAX_UNSENT;
use super::tls::{self, TlsOptions, TlsSetupError};

/// Everything that proves who the server is and encrypts; OpenSSL's `DEFAULT` leaves the rest out
/// as well, but that is not where it should be decided.
const CIPHERS: &str = "DEFAULT:!aNULL:!eNULL:@SECLEVEL=0";
/// Curves that old servers have, and the one that newer ones prefer: without the large key shares
/// of newer methods the ClientHello stays below what old servers take.
const GROUPS: &str = "P-256:P-384:P-521:X25519";
/// SSL_OP_LEGACY_SERVER_CONNECT: servers without RFC 5746 are talked to; they may not renegotiate.
const LEGACY_SERVER_CONNECT: SslOptions = SslOptions::from_bits_retain(0x4);
/// Alerts are OpenSSL's reasons from here on (SSL_AD_REASON_OFFSET).
const ALERTS: i32 = 1000;
/// SSL_R_WRONG_VERSION_NUMBER and SSL_R_BAD_RECORD_TYPE: what came is no TLS record.
const NO_TLS: [i32; 2] = [267, 443];
/// SSL_R_UNSUPPORTED_PROTOCOL, _WRONG_SSL_VERSION, _WRONG_CIPHER_RETURNED, _UNKNOWN_CIPHER_RETURNED.
const INCOMPATIBLE: [i32; 4] = [258, 266, 261, 248];
/// Buffers of a session that are smaller are kept from message to message.
const KEPT: usize = 4 * 1024;

/// What all sessions of a shard share.
#[derive(Clone)]
pub struct Config {
    context: SslContext,
    verifier: Arc<WebPkiServerVerifier>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}

impl Config {
    /// Settings of a scenario, as [`tls::client`] reads them.
    ///
    /// # Errors
    /// When a PEM text holds nothing or the key does not fit.
    pub fn new(options: &TlsOptions) -> Result<Config, TlsSetupError> {
        let roots = Arc::new(tls::roots(options)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::new(old_chain::provider()))
            .build()
            .map_err(|e| tls::wrong(e.to_string()))?;
        let mut context = context().map_err(|e| tls::wrong(format!("OpenSSL: {e}")))?;
        if let Some((chain, key)) = tls::identity(options)? {
            let mut set = || -> Result<(), ErrorStack> {
                let mut chain = chain.iter();
                if let Some(own) = chain.next() {
                    context.set_certificate(X509::from_der(own)?.as_ref())?;
                }
                for more in chain {
                    context.add_extra_chain_cert(X509::from_der(more)?)?;
                }
                context.set_private_key(PKey::private_key_from_der(key.secret_der())?.as_ref())?;
                context.check_private_key()
            };
            set().map_err(|e| tls::unfit(&e))?;
        }
        Ok(Config { context: context.build(), verifier })
    }
}

fn context() -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContextBuilder::new(SslMethod::tls_client())?;
    context.set_security_level(0);
    context.set_min_proto_version(Some(SslVersion::TLS1))?;
    context.set_cipher_list(CIPHERS)?;
    context.set_groups_list(GROUPS)?;
    // Users are distinct clients, so nobody resumes; see `tls::client`.
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_options(LEGACY_SERVER_CONNECT | SslOptions::NO_TICKET);
    context.set_mode(SslMode::RELEASE_BUFFERS | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
    Ok(context)
}

/// The memory that OpenSSL takes for a socket.
#[derive(Debug, Default)]
struct Wire {
    incoming: Vec<u8>,
    taken: usize,
    outgoing: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let there = &self.incoming[self.taken..];
        if there.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = there.len().min(out.len());
        out[..n].copy_from_slice(&there[..n]);
        self.taken += n;
        Ok(n)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The certificate that was judged, and how.
#[derive(Debug)]
struct Verdict {
    certificate: Vec<u8>,
    result: Result<(), Error>,
}

/// The last verdict of a session; OpenSSL's callback leaves it here.
#[derive(Debug, Default)]
struct Judged(Mutex<Option<Verdict>>);

impl Judged {
    /// OpenSSL asks several times about one chain, and anew when the server renegotiates.
    fn judge(&self, verifier: &WebPkiServerVerifier, name: &ServerName<'_>, chain: &[Vec<u8>]) -> bool {
        let mut judged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((own, between)) = chain.split_first() else { return false };
        if let Some(known) = judged.as_ref().filter(|known| known.certificate == *own) {
            return known.result.is_ok();
        }
        let between: Vec<CertificateDer<'_>> =
            between.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let result = verifier
            .verify_server_cert(&CertificateDer::from(own.as_slice()), &between, name, &[], UnixTime::now())
            .map(drop);
        let accepted = result.is_ok();
        *judged = Some(Verdict { certificate: own.clone(), result });
        accepted
    }

    fn result(&self) -> Option<Result<(), Error>> {
        let judged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        judged.as_ref().map(|verdict| verdict.result.clone())
    }
}

/// The server's certificate and what OpenSSL could put behind it of what the server sent.
fn sent_chain(context: &X509StoreContextRef) -> Vec<Vec<u8>> {
    context.chain().map_or_else(Vec::new, |chain| {
        // A certificate that cannot be encoded leaves a gap, which the judge will find.
        chain.iter().filter_map(|certificate| certificate.to_der().ok()).collect()
    })
}

/// What went wrong in a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// What rustls has an error for: certificates, alerts.
    Known(Error),
    /// The server chose what even we do not speak: SSL 3.0, RC4, an anonymous suite.
    Incompatible(String),
    /// Something else that OpenSSL says.
    Other(String),
}

impl Trouble {
    /// In words for an administrator.
    #[must_use]
    pub fn explain(&self, name: &ServerName<'_>) -> FlowError {
        let (reason, diagnosis) = match self {
            Trouble::Known(Error::AlertReceived(
                alert @ (AlertDescription::HandshakeFailure
                | AlertDescription::ProtocolVersion
                | AlertDescription::InsufficientSecurity),
            )) => (
                Error::AlertReceived(*alert).to_string(),
                format!(
                    "the server refused the handshake ({alert:?}), though TLS 1.0 to 1.3 with old cipher suites, too, \
                     were offered: it may ask for a client certificate (--cert, --key), know no server of this name \
                     (--server-name), or have only SSL 3.0, 3DES or RC4: look at its log"
                ),
            ),
            Trouble::Known(error) => return tls::explain(error, name),
            Trouble::Incompatible(text) => (
                text.clone(),
                "the server has no protocol version or cipher suite in common with us, also not an old one: TLS 1.0 to \
                 1.3 are spoken, without 3DES, RC4 and anonymous suites"
                    .to_owned(),
            ),
            Trouble::Other(text) => (text.clone(), format!("TLS failed: {text}")),
        };
        FlowError { class: Class::Pool, code: "transport:tls", reason, diagnosis }
    }
}

/// One TLS session of a client.
pub struct Session {
    stream: SslStream<Wire>,
    name: ServerName<'static>,
    judged: Arc<Judged>,
    /// Messages that wait until a renegotiation has ended.
    held: Vec<u8>,
    open: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("name", &self.name).field("open", &self.open).finish_non_exhaustive()
    }
}

impl Session {
    /// A session that has not begun; [`Session::advance`] without bytes begins it.
    ///
    /// # Errors
    /// Those of OpenSSL, for a name that it cannot send.
    pub fn new(config: &Config, name: &ServerName<'static>) -> Result<Session, Trouble> {
        let other = |e: ErrorStack| Trouble::Other(e.to_string());
        let mut ssl = Ssl::new(&config.context).map_err(other)?;
        if let ServerName::DnsName(host) = name {
            ssl.set_hostname(host.as_ref()).map_err(other)?;
        }
        let judged = Arc::new(Judged::default());
        let (judge, verifier, expected) = (Arc::clone(&judged), Arc::clone(&config.verifier), name.clone());
        // What OpenSSL thinks of the chain does not count: it knows no CA here.
        ssl.set_verify_callback(SslVerifyMode::PEER, move |_, context| {
            judge.judge(&verifier, &expected, &sent_chain(context))
        });
        ssl.set_connect_state();
        let stream = SslStream::new(ssl, Wire::default()).map_err(other)?;
        Ok(Session { stream, name: name.clone(), judged, held: Vec::new(), open: false })
    }

    /// The name that has to stand in the server's certificate.
    #[must_use]
    pub fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// Protocol version and cipher suite, as OpenSSL calls them, once the session is open.
    #[must_use]
    pub fn agreed(&self) -> Option<(&str, &str)> {
        let ssl = self.stream.ssl();
        ssl.current_cipher().filter(|_| self.open).map(|cipher| (ssl.version_str(), cipher.name()))
    }

    /// Makes room for a record; OpenSSL keeps what is incomplete itself.
    pub fn restore(&mut self, input: &mut Vec<u8>) -> usize {
        if input.len() < RECORD + RECORD_OVERHEAD {
            input.resize(RECORD + RECORD_OVERHEAD, 0);
        }
        0
    }

    /// Takes ciphertext, all of it. Appends plaintext to `plain`, and to
    /// `sealed` what has to be sent — also after an error: the alert that says why.
    ///
    /// # Errors
    /// [`Trouble`]; the session is over then.
    pub fn advance(
        &mut self,
        input: &[u8],
        plain: &mut Vec<u8>,
        sealed: &mut Vec<u8>,
    ) -> Result<Standing, Trouble> {
        self.stream.get_mut().incoming.extend_from_slice(input);
        let result = self.work(plain);
        self.take_sealed(sealed);
        let wire = self.stream.get_mut();
        wire.incoming.drain(..wire.taken);
        wire.taken = 0;
        if wire.incoming.capacity() > KEPT {
            wire.incoming.shrink_to(KEPT);
        }
        result
    }

    fn work(&mut self, plain: &mut Vec<u8>) -> Result<Standing, Trouble> {
        if !self.open {
            match self.stream.do_handshake() {
                Ok(()) => {}
                Err(error) if error.code() == ErrorCode::WANT_READ => return Ok(Standing::Handshaking),
                Err(error) => return Err(self.trouble(&error)),
            }
            // Nothing is sent to a server whose certificate nobody has judged.
            if self.judged.result() != Some(Ok(())) {
                return Err(Trouble::Known(Error::InvalidCertificate(
                    CertificateError::ApplicationVerificationFailure,
                )));
            }
            self.open = true;
        }
        // Each turn takes a record of what came, so it ends with that.
        let closed = loop {
            let at = plain.len();
            plain.resize(at + RECORD, 0);
            let read = self.stream.ssl_read(&mut plain[at..]);
            plain.truncate(at + read.as_ref().map_or(0, |n| *n));
            match read {
                Ok(_) => {}
                Err(error) if error.code() == ErrorCode::WANT_READ => break false,
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => break true,
                Err(error) => return Err(self.trouble(&error)),
            }
        };
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.write(&held)?;
        }
        Ok(if closed { Standing::Closed } else { Standing::Open })
    }

    /// Appends a message as records.
    ///
    /// # Errors
    /// When the session is not open or broken, or too much waits for a renegotiation.
    pub fn seal(&mut self, plain: &[u8], sealed: &mut Vec<u8>) -> Result<(), Trouble> {
        if !self.open {
            return Err(Trouble::Known(Error::HandshakeNotComplete));
        }
        // One after the other: what waits goes first.
        let result = if self.held.is_empty() { self.write(plain) } else { self.hold(plain) };
        self.take_sealed(sealed);
        result
    }

    fn write(&mut self, plain: &[u8]) -> Result<(), Trouble> {
        let mut rest = plain;
        while !rest.is_empty() {
            match self.stream.ssl_write(rest) {
                Ok(n) => rest = &rest[n..],
                // The server wants other keys first: its answer has to come.
                Err(error) if error.code() == ErrorCode::WANT_READ => return self.hold(rest),
                Err(error) => return Err(self.trouble(&error)),
            }
        }
        Ok(())
    }

    fn hold(&mut self, plain: &[u8]) -> Result<(), Trouble> {
        if self.held.len() + plain.len() > MAX_UNSENT {
            return Err(Trouble::Other("the server does not end its renegotiation".to_owned()));
        }
        self.held.extend_from_slice(plain);
        Ok(())
    }

    /// Appends the alert that says goodbye; nothing if the session is not open.
    pub fn close(&mut self, sealed: &mut Vec<u8>) {
        if self.open {
            // The other side's goodbye is not waited for, and an error has nobody to be told to.
            drop(self.stream.shutdown());
            self.take_sealed(sealed);
        }
    }

    fn take_sealed(&mut self, sealed: &mut Vec<u8>) {
        let outgoing = &mut self.stream.get_mut().outgoing;
        sealed.append(outgoing);
        if outgoing.capacity() > KEPT {
            outgoing.shrink_to(KEPT);
        }
    }

    fn trouble(&self, error: &openssl::ssl::Error) -> Trouble {
        if let Some(Err(refused)) = self.judged.result() {
            return Trouble::Known(refused);
        }
        let Some(stack) = error.ssl_error() else { return Trouble::Other(error.to_string()) };
        let first = stack.errors().first();
        let text =
            first.and_then(openssl::error::Error::reason).map_or_else(|| error.to_string(), str::to_owned);
        match first.map(openssl::error::Error::reason_code) {
            Some(code) if (ALERTS..ALERTS + 256).contains(&code) => {
                Trouble::Known(Error::AlertReceived(AlertDescription::from((code - ALERTS) as u8)))
            }
            Some(code) if NO_TLS.contains(&code) => {
                Trouble::Known(Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType))
            }
            Some(code) if INCOMPATIBLE.contains(&code) => Trouble::Incompatible(text),
            _ => Trouble::Other(text),
        }
    }
}
