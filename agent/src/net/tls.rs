//! TLS for SIP: who is trusted, who we are, and what errors mean.
//!
//! Checking a server's certificate cannot be switched off. The provider of
//! cryptography is chosen by a feature of the build, explicitly, so that two
//! of them can never disagree at run time.

use std::sync::Arc;

use adsum_presence::host::{Class, FlowError};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};

/// What a scenario says about TLS; PEM texts, not paths.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// CAs to trust; empty for the system's store.
    pub ca_pem: Vec<u8>,
    /// Our certificate chain; empty for none.
    pub cert_pem: Vec<u8>,
    /// Its key.
    pub key_pem: Vec<u8>,
    /// The name that has to stand in the server's certificate.
    pub server_name: String,
}

/// TLS settings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("TLS settings: {0}")]
pub struct TlsSetupError(String);

/// The provider of cryptography that this build has.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    return Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return Arc::new(rustls::crypto::ring::default_provider());
    #[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
    compile_error!("one of the features `aws-lc-rs` and `ring` has to be on");
}

/// Builds what all connections of a run share; resumption needs it shared.
///
/// # Errors
/// When a PEM text holds nothing, the key does not fit, or the name is none.
pub fn client(options: &TlsOptions) -> Result<(Arc<ClientConfig>, ServerName<'static>), TlsSetupError> {
    let wrong = |text: String| TlsSetupError(text);
    let mut roots = RootCertStore::empty();
    if options.ca_pem.is_empty() {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(wrong("the system's store of CAs is empty: name the pool's CA with `ca`".into()));
        }
    } else {
        for certificate in certificates(&options.ca_pem, "ca")? {
            roots
                .add(certificate)
                .map_err(|e| wrong(format!("`ca` holds a certificate that is no CA: {e}")))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(e.to_string()))?
        .with_root_certificates(roots);
    let mut config = if options.cert_pem.is_empty() {
        builder.with_no_client_auth()
    } else {
        let chain = certificates(&options.cert_pem, "cert")?;
        let key = PrivateKeyDer::from_pem_slice(&options.key_pem)
            .map_err(|e| wrong(format!("`key` is no private key in PEM: {e}")))?;
        builder
            .with_client_auth_cert(chain, key)
            .map_err(|e| wrong(format!("`cert` and `key` do not fit: {e}")))?
    };
    // Users are distinct clients: one of them cannot resume the session of another,
    // and a pool that is spared its handshakes would look better than it is.
    config.resumption = Resumption::disabled();
    let name =
        ServerName::try_from(options.server_name.trim_matches(['[', ']']).to_owned()).map_err(|_| {
            wrong(format!("`{}` is neither a host name nor an address: set server_name", options.server_name))
        })?;
    Ok((Arc::new(config), name))
}

fn certificates(pem: &[u8], key: &str) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(TlsSetupError(format!("`{key}` holds no certificate in PEM"))),
        Err(e) => Err(TlsSetupError(format!("`{key}` is not PEM: {e}"))),
    }
}

/// What a TLS error means to an administrator.
#[must_use]
pub fn explain(error: &Error, name: &ServerName<'_>) -> FlowError {
    let name = name.to_str();
    let (class, diagnosis) = match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => (
            Class::Configuration,
            "the server's certificate is not signed by a CA that is trusted here: give the pool's CA with `ca` (--ca)"
                .to_owned(),
        ),
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            (Class::Pool, "the server's certificate has expired: renew it (and look at this host's clock)".to_owned())
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            (Class::Pool, "the server's certificate is not valid yet: look at both clocks".to_owned())
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (
            Class::Configuration,
            format!("the server's certificate is not for `{name}`: connect by a name that it has, or say which one to expect with server_name (--server-name). {error}"),
        ),
        Error::InvalidCertificate(_) => {
            (Class::Pool, format!("the server's certificate cannot be accepted: {error}"))
        }
        Error::AlertReceived(alert) => (
            Class::Pool,
            format!("the server refused the handshake ({alert:?}): it may ask for a client certificate (--cert, --key), or have no protocol version or cipher suite in common with us: we speak TLS 1.2 and 1.3 with ECDHE and AEAD suites"),
        ),
        Error::PeerIncompatible(_) => (
            Class::Pool,
            "the server has no protocol version or cipher suite in common with us: we speak TLS 1.2 and 1.3 with ECDHE and AEAD suites; old servers may offer only CBC suites, RSA key exchange or TLS 1.0".to_owned(),
        ),
        Error::InvalidMessage(_) => {
            (Class::Configuration, "what answers does not speak TLS: check port and transport".to_owned())
        }
        _ => (Class::Pool, format!("TLS failed: {error}")),
    };
    FlowError { class, code: "transport:tls", reason: error.to_string(), diagnosis }
}
