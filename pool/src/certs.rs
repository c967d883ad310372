//! A CA and a server certificate for one pool.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

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

/// Reads the CA of clients.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn client_ca(file: &Path) -> Result<String, CertificateError> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|e| CertificateError(format!("{name}: {e}")))?;
    let holds = CertificateDer::pem_slice_iter(text.as_bytes()).next().is_some_and(|c| c.is_ok());
    if holds { Ok(text) } else { Err(CertificateError(format!("{name}: no certificate in PEM"))) }
}

/// What the TLS listener offers: TLS 1.2 and 1.3. With the PEM text of a CA for
/// clients they may show a certificate, and need not.
///
/// # Errors
/// When the PEM texts do not hold a chain and its key, or a CA.
pub fn server_config(
    certificates: &Certificates,
    client_ca: Option<&str>,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates.server.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(certificates.key.as_bytes()).map_err(wrong)?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_client_cert_verifier(verifier(client_ca)?)
        .with_single_cert(chain.map_err(wrong)?, key)
        .map_err(wrong)?;
    Ok(Arc::new(config))
}

fn verifier(client_ca: Option<&str>) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
    let Some(text) = client_ca else { return Ok(WebPkiClientVerifier::no_client_auth()) };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        roots.add(certificate.map_err(wrong)?).map_err(wrong)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(wrong)
}

/// The names of a certificate: DNS names among its alternative ones (RFC 5280
/// §4.2.1.6), and the common name of its subject. The certificate was verified;
/// still, nothing in it is trusted to be where it should.
#[must_use]
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let mut names = Vec::new();
    // Certificate { TBSCertificate { [0] version?, serial, algorithm, issuer, validity, subject, key, … } }
    let Some((_, certificate, _)) = element(certificate) else { return names };
    let Some((_, mut rest, _)) = element(certificate) else { return names };
    let mut place = 0;
    while let Some((kind, value, after)) = element(rest) {
        rest = after;
        match (kind, place) {
            (0xa0, 0) => continue,
            (0x30, 4) => common_names(value, &mut names),
            (0xa3, _) => alternative_names(value, &mut names),
            _ => {}
        }
        place += 1;
    }
    names
}

/// Names of a certificate that are looked at.
const MAX_NAMES: usize = 64;
const COMMON_NAME: &[u8] = &[0x06, 3, 0x55, 4, 3];
const ALTERNATIVE_NAME: &[u8] = &[0x06, 3, 0x55, 29, 17];

/// One element of DER: its tag, its value, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (value, after) = rest.split_at_checked(length)?;
    Some((tag, value, after))
}

fn keep(name: &[u8], names: &mut Vec<String>) {
    if let (Ok(name), true) = (std::str::from_utf8(name), names.len() < MAX_NAMES) {
        names.push(name.to_owned());
    }
}

/// SEQUENCE OF SET OF SEQUENCE { type, value }.
fn common_names(mut rest: &[u8], names: &mut Vec<String>) {
    while let Some((_, set, after)) = element(rest) {
        rest = after;
        if let Some((_, pair, _)) = element(set)
            && let Some((_, value, _)) = pair.strip_prefix(COMMON_NAME).and_then(element)
        {
            keep(value, names);
        }
    }
}

/// SEQUENCE OF SEQUENCE { type, critical?, OCTET STRING { SEQUENCE OF name } }.
fn alternative_names(extensions: &[u8], names: &mut Vec<String>) {
    let Some((_, mut rest, _)) = element(extensions) else { return };
    while let Some((_, extension, after)) = element(rest) {
        rest = after;
        let Some(mut fields) = extension.strip_prefix(ALTERNATIVE_NAME) else { continue };
        if let Some((0x01, _, after)) = element(fields) {
            fields = after;
        }
        let Some((0x04, octets, _)) = element(fields) else { continue };
        let Some((0x30, mut all, _)) = element(octets) else { continue };
        while let Some((kind, value, after)) = element(all) {
            all = after;
            if kind == 0x82 {
                keep(value, names);
            }
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    return Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return Arc::new(rustls::crypto::ring::default_provider());
    #[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
    compile_error!("one of the features `aws-lc-rs` and `ring` has to be on");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn certificate(common: &str, names: &[&str]) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Load");
        params.distinguished_name.push(DnType::CommonName, common);
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn common_and_alternative_names_are_found() {
        let found = names(&certificate("app.pool.test", &["one.pool.test", "127.0.0.1", "two.pool.test"]));
        assert_eq!(found, ["app.pool.test", "one.pool.test", "two.pool.test"]);
        assert_eq!(names(&certificate("app", &[])), ["app"]);
    }

    proptest! {
        #[test]
        fn a_broken_certificate_has_fewer_names_and_does_no_harm(at in 0usize..600, byte: u8, cut in 0usize..700) {
            let mut der = certificate("app.pool.test", &["one.pool.test"]).to_vec();
            let at = at % der.len();
            der[at] = byte;
            der.truncate(cut);
            prop_assert!(names(&CertificateDer::from(der)).len() <= MAX_NAMES);
        }
    }
}
