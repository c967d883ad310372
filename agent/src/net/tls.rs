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
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};

use super::probe::Probes;

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
    /// OpenSSL with all it has instead of rustls, for servers that rustls cannot reach.
    pub legacy: bool,
    /// What is known of targets that refused; shared by all shards of a run.
    pub probes: Probes,
}

/// True if this build has OpenSSL, and [`TlsOptions::legacy`] can be used.
pub const HAS_LEGACY: bool = cfg!(feature = "legacy-tls");

/// What to do where [`HAS_LEGACY`] is false.
pub const NO_LEGACY: &str = "`legacy = true` (--legacy-tls, `legacy_tls` of a check) needs OpenSSL, and this adsum was built without it: build \
     it with `cargo build --release --features legacy-tls`, for which a C compiler, make and perl are enough";

/// How `legacy` is switched on, with this binary.
pub(super) const SWITCH: &str = if HAS_LEGACY {
    "`tls = { legacy = true }` in [pool] of the scenario, --legacy-tls for a check"
} else {
    "`tls = { legacy = true }` in [pool] of the scenario, --legacy-tls for a check, with a binary that has \
     OpenSSL (this one has not: cargo build --release --features legacy-tls)"
};

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

/// Builds what all connections of a run share: rustls, whatever [`TlsOptions::legacy`] says.
///
/// # Errors
/// When a PEM text holds nothing, the key does not fit, or the name is none.
pub fn client(options: &TlsOptions) -> Result<(Arc<ClientConfig>, ServerName<'static>), TlsSetupError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(e.to_string()))?
        .with_root_certificates(roots(options)?);
    let mut config = match identity(options)? {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| unfit(&e))?,
    };
    // Users are distinct clients: one of them cannot resume the session of another,
    // and a pool that is spared its handshakes would look better than it is.
    config.resumption = Resumption::disabled();
    Ok((Arc::new(config), server_name(options)?))
}

pub(super) fn wrong(text: impl Into<String>) -> TlsSetupError {
    TlsSetupError(text.into())
}

/// A certificate and a key that are not each other's.
pub(super) fn unfit(why: &dyn std::fmt::Display) -> TlsSetupError {
    wrong(format!("`cert` and `key` do not fit: {why}"))
}

/// The name that the server has to have.
pub(super) fn server_name(options: &TlsOptions) -> Result<ServerName<'static>, TlsSetupError> {
    let name = options.server_name.trim_matches(['[', ']']);
    ServerName::try_from(name.to_owned()).map_err(|_| {
        wrong(format!("`{}` is neither a host name nor an address: set server_name", options.server_name))
    })
}

/// Our certificates and their key, if the scenario has any.
pub(super) fn identity(
    options: &TlsOptions,
) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, TlsSetupError> {
    if options.cert_pem.is_empty() {
        return Ok(None);
    }
    let chain = certificates(&options.cert_pem, "cert")?;
    let key = PrivateKeyDer::from_pem_slice(&options.key_pem)
        .map_err(|e| wrong(format!("`key` is no private key in PEM: {e}")))?;
    Ok(Some((chain, key)))
}

/// Whom to trust.
pub(super) fn roots(options: &TlsOptions) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    if options.ca_pem.is_empty() {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(wrong("the system's store of CAs is empty: name the pool's CA with `ca`"));
        }
    } else {
        for certificate in certificates(&options.ca_pem, "ca")? {
            roots
                .add(certificate)
                .map_err(|e| wrong(format!("`ca` holds a certificate that is no CA: {e}")))?;
        }
    }
    Ok(roots)
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
    let (class, diagnosis) = match error {
        Error::InvalidCertificate(why) => certificate(why, &name.to_str()),
        Error::AlertReceived(alert) => (Class::Pool, alert_received(*alert)),
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

/// What the server says by an alert, and what it may mean by it.
fn alert_received(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "the server asks for a client certificate: give it with `cert` and `key` (--cert, --key)"
                .to_owned()
        }
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied => format!(
            "the server does not accept our client certificate ({alert:?}): look at `cert` and `key` (--cert, --key), and whether the pool trusts their CA"
        ),
        AlertDescription::UnrecognisedName => {
            "the server knows no host of this name: say which name it has with server_name (--server-name)"
                .to_owned()
        }
        _ => format!(
            "the server refused the handshake ({alert:?}): it may ask for a client certificate (--cert, --key), or have no protocol version or cipher suite in common with us: we speak TLS 1.2 and 1.3 with ECDHE and AEAD suites"
        ),
    }
}

/// The object identifiers of signatures with SHA-1, and whether legacy TLS takes them.
const SHA1: [(&[u8], bool); 2] = [
    // sha1WithRSAEncryption
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05], true),
    // ecdsa-with-SHA1
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01], false),
];

/// If a signature is one with SHA-1: whether legacy TLS takes it.
fn sha1(algorithm: &[u8]) -> Option<bool> {
    let named = |id: &[u8]| algorithm.windows(id.len()).any(|part| part == id);
    SHA1.iter().find(|(id, _)| named(id)).map(|(_, legacy)| *legacy)
}

/// What is wrong with the server's certificate, and who has to act.
fn certificate(why: &CertificateError, name: &str) -> (Class, String) {
    match why {
        CertificateError::UnknownIssuer => (
            Class::Configuration,
            "the server's certificate is not signed by a CA that is trusted here: give the pool's CA with `ca` (--ca); an internal CA is in no system's store, and the pool has to send the certificates between it and its own"
                .to_owned(),
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            Class::Pool,
            format!("the server's certificate has expired: renew it (and look at this host's clock). {why}"),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            Class::Pool,
            format!("the server's certificate is not valid yet: look at both clocks. {why}"),
        ),
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => (
            Class::Pool,
            format!("the server's certificate has no subject alternative name, so it is for no name at all, and not for `{name}`: a common name (CN) alone does not count (RFC 9525). Have it issued anew with the pool's names as DNS names in subjectAltName"),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            Class::Configuration,
            format!("the server's certificate is not for `{name}`: connect by a name that it has, or say which one to expect with server_name (--server-name). {why}"),
        ),
        CertificateError::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. }
            if sha1(signature_algorithm_id).is_some() =>
        {
            let otherwise = if sha1(signature_algorithm_id) == Some(true) {
                format!("or let adsum take it: {SWITCH}")
            } else {
                "adsum does not take such a signature in any build".to_owned()
            };
            (
                Class::Pool,
                format!("the server's certificate, or one between it and its CA, is signed with SHA-1, as internal CAs of 2012 did, and that is not accepted: have it issued anew with SHA-256, {otherwise}"),
            )
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            Class::Pool,
            format!("the server's certificate is not meant for servers: have it issued anew with the purpose serverAuth. {why}"),
        ),
        CertificateError::BadSignature => (
            Class::Configuration,
            "the server's certificate is not signed by the CA of its issuer's name that is trusted here: `ca` (--ca) probably holds a CA of the same name with another key, such as one that was renewed since: give the pool's present one. (Or a CA's RSA key is shorter than 2,048 bits: such signatures are taken with legacy TLS only)"
                .to_owned(),
        ),
        CertificateError::Revoked => {
            (Class::Pool, "the server's certificate has been revoked: have a new one issued".to_owned())
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => (
            Class::Pool,
            "the server's certificate is that of a CA (basicConstraints CA:TRUE), as `openssl req -x509` makes them, and a CA's is not accepted as a server's: have one issued for the server"
                .to_owned(),
        ),
        _ => (Class::Pool, format!("the server's certificate cannot be accepted: {why}")),
    }
}
