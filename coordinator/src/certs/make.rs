//! Making the CA and its certificates.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::{Duration, OffsetDateTime};

use super::Role;
use crate::scenario::{MAX_NAME, names, network::HostPort};

/// The certificate of the CA.
pub const CA_FILE: &str = "ca.pem";
/// Its key.
pub const CA_KEY_FILE: &str = "ca-key.pem";
/// How long an issued certificate is good, in days: the longest that common verifiers take.
pub const VALID_DAYS: i64 = 825;

/// How long the CA is good: it must outlast what it issues.
const CA_VALID_DAYS: i64 = 3_650;
/// Clocks of a fleet differ; a certificate is good a little before it was made.
const BEFORE: Duration = Duration::hours(1);
const CA_NAME: &str = "adsum development CA";

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// It would replace another one.
    #[error("{} is there already; nothing is overwritten: move it away, or use another folder", .0.display())]
    Exists(PathBuf),
    /// There is no CA.
    #[error("{}: {source}; make a CA first: adsum certs init", path.display())]
    NoCa {
        /// What was looked for.
        path: PathBuf,
        /// Why it cannot be read.
        source: io::Error,
    },
    /// Certificate and key of the CA do not belong to us, or not to each other.
    #[error("{}: {why}; accepted: the files that `adsum certs init` wrote", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A name cannot stand in a certificate of this role.
    #[error("`{name}` cannot be a name of this certificate; accepted: {accepted}")]
    Name {
        /// The name.
        name: String,
        /// What is accepted.
        accepted: &'static str,
    },
    /// No name was given.
    #[error("a certificate needs a name; accepted: {0}")]
    NoName(&'static str),
    /// The clock says something that no certificate can.
    #[error("the time {0} (Unix seconds) is out of range")]
    Time(i64),
    /// A file cannot be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The library refused.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// Files that were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM, mode 0600.
    pub key: PathBuf,
}

/// Makes a CA in `dir` (made if it is missing): [`CA_FILE`] and [`CA_KEY_FILE`].
/// `now` is in Unix seconds.
///
/// # Errors
/// [`CertsError`]; nothing was overwritten.
pub fn init(dir: &Path, now: i64) -> Result<Written, CertsError> {
    let files = Written { cert: dir.join(CA_FILE), key: dir.join(CA_KEY_FILE) };
    refuse_existing(&files)?;
    let key = KeyPair::generate()?;
    let cert = ca_params(now)?.self_signed(&key)?;
    fs::create_dir_all(dir).map_err(|source| CertsError::Write { path: dir.to_owned(), source })?;
    write(&files, &cert.pem(), &key.serialize_pem())?;
    Ok(files)
}

/// Issues a certificate for `names` below the CA in `dir`: `NAME.pem` and
/// `NAME-key.pem`, after the first name. `now` is in Unix seconds.
///
/// A coordinator's names are the host names and addresses under which it is
/// dialled; an agent's or operator's is its own, in the common name.
///
/// # Errors
/// [`CertsError`]; nothing was overwritten.
pub fn issue(dir: &Path, role: Role, names: &[String], now: i64) -> Result<Written, CertsError> {
    let accepted = accepted_names(role);
    let first = names.first().ok_or(CertsError::NoName(accepted))?;
    for name in names {
        if !is_accepted(role, name) {
            return Err(CertsError::Name { name: name.clone(), accepted });
        }
    }
    let base = first.replace([':', '['], "_").replace(']', "");
    let files = Written { cert: dir.join(format!("{base}.pem")), key: dir.join(format!("{base}-key.pem")) };
    refuse_existing(&files)?;
    let issuer = read_ca(dir, now)?;
    let key = KeyPair::generate()?;
    let cert = leaf_params(role, names, now)?.signed_by(&key, &issuer)?;
    write(&files, &cert.pem(), &key.serialize_pem())?;
    Ok(files)
}

fn accepted_names(role: Role) -> &'static str {
    match role {
        Role::Coordinator => "host names and IP addresses, without a port, and not `ca`",
        Role::Agent | Role::Operator => "[a-z0-9][a-z0-9_.-]*, at most 63 characters, and not `ca`",
    }
}

fn is_accepted(role: Role, name: &str) -> bool {
    // `ca` would take the CA's own file names.
    let free = name != "ca";
    free && match role {
        Role::Coordinator => {
            name.parse::<IpAddr>().is_ok()
                || HostPort::parse(name).is_ok_and(|h| h.port.is_none() && h.address.is_none())
        }
        Role::Agent | Role::Operator => names::is_name(name, MAX_NAME),
    }
}

fn ca_params(now: i64) -> Result<CertificateParams, CertsError> {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = validity(now, CA_VALID_DAYS)?;
    params.distinguished_name = common_name(CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params(role: Role, names: &[String], now: i64) -> Result<CertificateParams, CertsError> {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = validity(now, VALID_DAYS)?;
    params.distinguished_name = common_name(names.first().map_or("", String::as_str));
    params.subject_alt_names = vec![SanType::URI(role.uri().try_into()?)];
    if role == Role::Coordinator {
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.clone().try_into()?),
            });
        }
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match role {
        Role::Coordinator => ExtendedKeyUsagePurpose::ServerAuth,
        Role::Agent | Role::Operator => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn validity(now: i64, days: i64) -> Result<(OffsetDateTime, OffsetDateTime), CertsError> {
    let now_utc = OffsetDateTime::from_unix_timestamp(now).map_err(|_| CertsError::Time(now))?;
    let from = now_utc.checked_sub(BEFORE).ok_or(CertsError::Time(now))?;
    let to = now_utc.checked_add(Duration::days(days)).ok_or(CertsError::Time(now))?;
    Ok((from, to))
}

/// The CA that [`init`] made. Its certificate is not parsed: what goes into
/// ours from it is its name, which is a constant, and the identifier of its key.
fn read_ca(dir: &Path, now: i64) -> Result<Issuer<'static, KeyPair>, CertsError> {
    let (cert_path, key_path) = (dir.join(CA_FILE), dir.join(CA_KEY_FILE));
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|source| CertsError::NoCa { path: path.to_owned(), source })
    };
    let (cert_pem, key_pem) = (read(&cert_path)?, read(&key_path)?);
    let wrong = |path: &Path, why: &str| CertsError::Ca { path: path.to_owned(), why: why.to_owned() };
    let key = KeyPair::from_pem(&key_pem).map_err(|_| wrong(&key_path, "it holds no private key"))?;
    let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes())
        .map_err(|_| wrong(&cert_path, "it holds no certificate"))?;
    let holds = |bytes: &[u8]| cert.windows(bytes.len().max(1)).any(|window| window == bytes);
    if !holds(key.public_key_raw()) {
        return Err(wrong(&key_path, "it is not the key of the certificate beside it"));
    }
    if !holds(CA_NAME.as_bytes()) {
        return Err(wrong(&cert_path, "it is the certificate of another CA"));
    }
    Ok(Issuer::new(ca_params(now)?, key))
}

fn refuse_existing(files: &Written) -> Result<(), CertsError> {
    match [&files.cert, &files.key].into_iter().find(|path| path.exists()) {
        Some(path) => Err(CertsError::Exists(path.clone())),
        None => Ok(()),
    }
}

fn write(files: &Written, cert: &str, key: &str) -> Result<(), CertsError> {
    // The key first: a certificate without one would look like a whole.
    write_new(&files.key, key, 0o600)?;
    write_new(&files.cert, cert, 0o644)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => CertsError::Exists(path.to_owned()),
        _ => CertsError::Write { path: path.to_owned(), source },
    })
}
