//! A CA and a server certificate for one pool.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// PEM texts of a pool.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// What to trust.
    pub ca: String,
    /// The server's certificate.
    pub server: String,
    /// Its key.
    pub key: String,
}

/// Certificates that cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[error("TLS certificates of the pool: {0}")]
pub struct CertificateError(String);

fn wrong(error: impl std::fmt::Display) -> CertificateError {
    CertificateError(error.to_string())
}

/// Makes a CA and a server certificate for these names.
///
/// # Errors
/// Those of the library.
pub fn make(names: &[String]) -> Result<Certificates, CertificateError> {
    let ca_key = KeyPair::generate().map_err(wrong)?;
    let mut ca = CertificateParams::new(Vec::new()).map_err(wrong)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "adsum embedded pool CA");
    let ca_certificate = ca.self_signed(&ca_key).map_err(wrong)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().map_err(wrong)?;
    let mut server = CertificateParams::new(names.to_vec()).map_err(wrong)?;
    server.distinguished_name.push(DnType::CommonName, names.first().map_or("pool", String::as_str));
    let server = server.signed_by(&key, &issuer).map_err(wrong)?;
    Ok(Certificates { ca: ca_certificate.pem(), server: server.pem(), key: key.serialize_pem() })
}

/// Reads what lies in a directory, or makes it there.
///
/// # Errors
/// Those of library and file system.
pub fn in_directory(dir: &Path, names: &[String]) -> Result<Certificates, CertificateError> {
    let files = ["ca.pem", "server.pem", "server-key.pem"].map(|name| dir.join(name));
    if files.iter().all(|file| file.is_file()) {
        let [ca, server, key] = files.map(|file| std::fs::read_to_string(&file));
        return Ok(Certificates {
            ca: ca.map_err(wrong)?,
            server: server.map_err(wrong)?,
            key: key.map_err(wrong)?,
        });
    }
    std::fs::create_dir_all(dir).map_err(wrong)?;
    let made = make(names)?;
    for (file, text) in files.iter().zip([&made.ca, &made.server, &made.key]) {
        std::fs::write(file, text).map_err(wrong)?;
    }
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&files[2], std::fs::Permissions::from_mode(0o600)).map_err(wrong)?;
    Ok(made)
}

/// What the TLS listener offers: TLS 1.2 and 1.3.
///
/// # Errors
/// When the PEM texts do not hold a chain and its key.
pub fn server_config(certificates: &Certificates) -> Result<Arc<ServerConfig>, CertificateError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates.server.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(certificates.key.as_bytes()).map_err(wrong)?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_no_client_auth()
        .with_single_cert(chain.map_err(wrong)?, key)
        .map_err(wrong)?;
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    return Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return Arc::new(rustls::crypto::ring::default_provider());
    #[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
    compile_error!("one of the features `aws-lc-rs` and `ring` has to be on");
}
