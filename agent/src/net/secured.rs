//! The seam at which TLS is exchangeable: rustls, or with the feature
//! `legacy-tls` and where the scenario asks for it, OpenSSL.
//!
//! Both take ciphertext and give plaintext and ciphertext to send, touch no
//! socket, check the server's certificate by the same code, and explain what
//! goes wrong in the same words.

use std::sync::Arc;

use adsum_presence::host::{Class, FlowError};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, Error};

#[cfg(feature = "legacy-tls")]
use super::legacy;
use super::probe::Probes;
use super::session::{Session, Standing};
use super::tls::{self, TlsOptions, TlsSetupError};

/// What all TLS connections of a shard share.
#[derive(Debug, Clone)]
pub struct Client {
    engine: Engine,
    name: ServerName<'static>,
    probes: Probes,
}

#[derive(Debug, Clone)]
enum Engine {
    Rustls(Arc<ClientConfig>),
    #[cfg(feature = "legacy-tls")]
    OpenSsl(legacy::Config),
}

impl Client {
    /// Settings, and the implementation that they ask for.
    ///
    /// # Errors
    /// Those of [`tls::client`]; and [`TlsOptions::legacy`] in a build without OpenSSL.
    pub fn new(options: &TlsOptions) -> Result<Client, TlsSetupError> {
        let (engine, name) = if options.legacy {
            Self::legacy(options)?
        } else {
            let (config, name) = tls::client(options)?;
            (Engine::Rustls(config), name)
        };
        Ok(Client { engine, name, probes: options.probes.clone() })
    }

    #[cfg(feature = "legacy-tls")]
    fn legacy(options: &TlsOptions) -> Result<(Engine, ServerName<'static>), TlsSetupError> {
        Ok((Engine::OpenSsl(legacy::Config::new(options)?), tls::server_name(options)?))
    }

    #[cfg(not(feature = "legacy-tls"))]
    fn legacy(_: &TlsOptions) -> Result<(Engine, ServerName<'static>), TlsSetupError> {
        Err(tls::wrong(tls::NO_LEGACY))
    }

    /// Which implementation it is, for the manifest.
    #[must_use]
    pub fn implementation(&self) -> String {
        match &self.engine {
            Engine::Rustls(_) if cfg!(feature = "aws-lc-rs") => "rustls (aws-lc-rs)".to_owned(),
            Engine::Rustls(_) => "rustls (ring)".to_owned(),
            #[cfg(feature = "legacy-tls")]
            Engine::OpenSsl(_) => format!("{} (legacy)", openssl::version::version()),
        }
    }

    /// The name that has to stand in the server's certificate.
    #[must_use]
    pub fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// The same for a server that has to have another name; `None` if that is none.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Client> {
        let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).ok()?;
        Some(Client { name, ..self.clone() })
    }

    /// What is known of targets that refused.
    #[must_use]
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// A session that has not begun.
    ///
    /// # Errors
    /// For a name or settings that cannot be used.
    pub fn session(&self) -> Result<Secured, FlowError> {
        match &self.engine {
            Engine::Rustls(config) => Session::new(config, &self.name)
                .map(|session| Secured { inner: Inner::Rustls(Box::new(session)), heard: None })
                .map_err(|error| tls::explain(&error, &self.name)),
            #[cfg(feature = "legacy-tls")]
            Engine::OpenSsl(config) => legacy::Session::new(config, &self.name)
                .map(|session| Secured { inner: Inner::OpenSsl(Box::new(session)), heard: None })
                .map_err(|trouble| trouble.explain(&self.name)),
        }
    }

    /// Makes a ClientHello and throws it away, so that the cryptography is seeded.
    pub fn warm_up(&self) {
        if let Ok(mut session) = self.session() {
            // An error would come again, and be told, at the first connection.
            drop(session.advance(&mut [], &mut Vec::new(), &mut Vec::new()));
        }
    }
}

/// A session that failed.
#[derive(Debug)]
pub struct Refused {
    /// Why, as far as it can be seen from here.
    pub error: FlowError,
    /// The other side refused, and does not say clearly why: [`Probes::explain`] may know more.
    pub puzzling: bool,
}

/// A message that cannot be written: the session is not open, or broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the TLS session takes no message")]
pub struct Unwritable;

/// The content type of alerts (RFC 8446 §5.1).
const ALERT: u8 = 21;

/// One TLS session of a client.
#[derive(Debug)]
pub struct Secured {
    inner: Inner,
    /// The first byte that the server sent: with which kind of record it answered our ClientHello.
    heard: Option<u8>,
}

#[derive(Debug)]
enum Inner {
    /// TLS 1.2 and 1.3, ECDHE and AEAD.
    Rustls(Box<Session>),
    /// TLS 1.0 to 1.3, with all suites that OpenSSL has.
    #[cfg(feature = "legacy-tls")]
    OpenSsl(Box<legacy::Session>),
}

impl Secured {
    /// Copies what was kept of an incomplete record to the front of `input` and answers its
    /// length: what is read next belongs behind it.
    pub fn restore(&mut self, input: &mut Vec<u8>) -> usize {
        match &mut self.inner {
            Inner::Rustls(session) => session.restore(input),
            #[cfg(feature = "legacy-tls")]
            Inner::OpenSsl(session) => session.restore(input),
        }
    }

    /// Takes ciphertext, all of it: what [`Secured::restore`] gave back and what came behind it.
    /// Appends plaintext to `plain`, and to `sealed` what has to be sent — also after an error.
    ///
    /// # Errors
    /// [`Refused`]; the session is over then.
    pub fn advance(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        sealed: &mut Vec<u8>,
    ) -> Result<Standing, Refused> {
        self.heard = self.heard.or(input.first().copied());
        let agreed = self.has_agreed();
        match &mut self.inner {
            Inner::Rustls(session) => {
                session.advance(input, plain, sealed).map_err(|error| refused(&error, session.name(), agreed))
            }
            #[cfg(feature = "legacy-tls")]
            Inner::OpenSsl(session) => {
                session.advance(input, plain, sealed).map_err(|trouble| match trouble {
                    legacy::Trouble::Known(error) if agreed => {
                        Refused { puzzling: false, ..refused(&error, session.name(), agreed) }
                    }
                    trouble => Refused { puzzling: false, error: trouble.explain(session.name()) },
                })
            }
        }
    }

    /// True if the server has answered our ClientHello with something else than an alert. Version and
    /// cipher suite are no reason any more for what fails later.
    fn has_agreed(&self) -> bool {
        self.heard.is_some_and(|kind| kind != ALERT)
    }

    /// What it means that the other side has ended the connection in the handshake; `how` in a few words.
    #[must_use]
    pub fn ended(&self, how: &str) -> Refused {
        let diagnosis = if self.has_agreed() {
            "the server agreed to version and cipher suite, and ended the connection then: it probably asks for a client certificate, or another one (--cert, --key); look at its log"
        } else {
            "it may not speak TLS on this port, refuse this host, have no protocol version or cipher suite in common with us, or be overloaded"
        };
        Refused {
            // Old servers do not send an alert if they have nothing in common with us.
            puzzling: self.heard.is_none() && matches!(self.inner, Inner::Rustls(_)),
            error: FlowError {
                class: Class::Pool,
                code: "transport:tls",
                reason: format!("the server {how} in the TLS handshake"),
                diagnosis: diagnosis.to_owned(),
            },
        }
    }

    /// Appends a message as records.
    ///
    /// # Errors
    /// [`Unwritable`].
    pub fn seal(&mut self, plain: &[u8], sealed: &mut Vec<u8>) -> Result<(), Unwritable> {
        match &mut self.inner {
            Inner::Rustls(session) => session.seal(plain, sealed).map_err(|_| Unwritable),
            #[cfg(feature = "legacy-tls")]
            Inner::OpenSsl(session) => session.seal(plain, sealed).map_err(|_| Unwritable),
        }
    }

    /// Appends the alert that says goodbye; nothing if the session is not open.
    pub fn close(&mut self, sealed: &mut Vec<u8>) {
        match &mut self.inner {
            Inner::Rustls(session) => session.close(sealed),
            #[cfg(feature = "legacy-tls")]
            Inner::OpenSsl(session) => session.close(sealed),
        }
    }
}

/// An error of rustls', or what is the same of OpenSSL's, in words.
fn refused(error: &Error, name: &ServerName<'_>, agreed: bool) -> Refused {
    let mut explained = tls::explain(error, name);
    let puzzling = match error {
        Error::PeerIncompatible(_) => true,
        Error::AlertReceived(alert) => is_puzzling(*alert),
        _ => false,
    };
    if agreed && matches!(error, Error::AlertReceived(AlertDescription::HandshakeFailure)) {
        explained.diagnosis = "the server agreed to version and cipher suite, and refused the handshake then: it probably asks for a client certificate, or another one (--cert, --key); look at its log".to_owned();
    }
    Refused {
        puzzling: puzzling && (!agreed || matches!(error, Error::PeerIncompatible(_))),
        error: explained,
    }
}

/// True for what a server says that may have nothing in common with us, and for nothing that
/// speaks for itself.
fn is_puzzling(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity
            | AlertDescription::InternalError
            | AlertDescription::DecodeError
            | AlertDescription::IllegalParameter
            | AlertDescription::UnexpectedMessage
    )
}
