//! The development CA: who may do what, and that other programs agree.
#![cfg(any(feature = "aws-lc-rs", feature = "ring"))]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use adsum_coordinator::certs::{CA_FILE, CA_KEY_FILE, CertsError, Role, init, issue};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn openssl(args: &[&str]) -> Option<(bool, String)> {
    let output = Command::new("openssl").args(args).output().ok()?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some((output.status.success(), text))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn roles_stand_in_certificates_and_keys_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("new/folder");
    let ca = init(&folder, now()).unwrap();
    for (role, name) in
        [(Role::Coordinator, "load.example.com"), (Role::Agent, "fra-1"), (Role::Operator, "alice")]
    {
        let files = issue(&folder, role, &names(&[name]), now()).unwrap();
        assert_eq!(files.cert, folder.join(format!("{name}.pem")));
        let der = CertificateDer::from_pem_file(&files.cert).unwrap();
        assert_eq!(Role::of_certificate(&der), Some(role));
        for key in [&files.key, &ca.key] {
            assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
    let der = CertificateDer::from_pem_file(&ca.cert).unwrap();
    assert_eq!(Role::of_certificate(&der), None);
    assert_eq!(Role::of_certificate(b"urn:adsum:role:agent"), None);
}

#[test]
fn openssl_takes_each_certificate_for_its_purpose_only() {
    if openssl(&["version"]).is_none() {
        eprintln!("openssl is not installed: not checked");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = init(dir.path(), now()).unwrap().cert;
    let server =
        issue(dir.path(), Role::Coordinator, &names(&["localhost", "127.0.0.1", "::1"]), now()).unwrap();
    let client = issue(dir.path(), Role::Agent, &names(&["fra-1"]), now()).unwrap();
    let verify = |purpose: &str, cert: &Path| {
        openssl(&["verify", "-x509_strict", "-CAfile", text(&ca), "-purpose", purpose, text(cert)]).unwrap()
    };
    for (purpose, cert, good) in [
        ("sslserver", &server.cert, true),
        ("sslclient", &client.cert, true),
        ("sslclient", &server.cert, false),
        ("sslserver", &client.cert, false),
    ] {
        let (ok, said) = verify(purpose, cert);
        assert_eq!(ok, good, "{purpose}: {said}");
    }
    let (_, shown) = openssl(&["x509", "-noout", "-text", "-in", text(&server.cert)]).unwrap();
    for part in [
        "DNS:localhost",
        "IP Address:127.0.0.1",
        "IP Address:0:0:0:0:0:0:0:1",
        "URI:urn:adsum:role:coordinator",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    // The key belongs to the certificate, and 825 days are 825 days.
    let (_, of_key) = openssl(&["pkey", "-pubout", "-in", text(&server.key)]).unwrap();
    let (_, of_cert) = openssl(&["x509", "-pubkey", "-noout", "-in", text(&server.cert)]).unwrap();
    assert_eq!(of_key, of_cert);
    let (still, _) =
        openssl(&["x509", "-checkend", &(824 * 86_400).to_string(), "-noout", "-in", text(&server.cert)])
            .unwrap();
    let (ended, _) =
        openssl(&["x509", "-checkend", &(826 * 86_400).to_string(), "-noout", "-in", text(&server.cert)])
            .unwrap();
    assert!(still && !ended);
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), now()).unwrap();
    assert!(matches!(init(dir.path(), now()), Err(CertsError::Exists(path)) if path.ends_with(CA_FILE)));
    let first = issue(dir.path(), Role::Agent, &names(&["a"]), now()).unwrap();
    let before = std::fs::read(&first.cert).unwrap();
    assert!(matches!(issue(dir.path(), Role::Agent, &names(&["a"]), now()), Err(CertsError::Exists(_))));
    assert_eq!(std::fs::read(&first.cert).unwrap(), before);
    // A key alone is not replaced either.
    std::fs::remove_file(&first.cert).unwrap();
    assert!(
        matches!(issue(dir.path(), Role::Agent, &names(&["a"]), now()), Err(CertsError::Exists(path)) if path.ends_with("a-key.pem"))
    );
}

#[test]
fn mistakes_say_what_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let error = issue(dir.path(), Role::Agent, &names(&["a"]), now()).unwrap_err().to_string();
    assert!(error.contains(CA_FILE) && error.contains("adsum certs init"), "{error}");
    init(dir.path(), now()).unwrap();
    for (role, wrong) in [
        (Role::Agent, "A"),
        (Role::Agent, "../x"),
        (Role::Agent, "ca"),
        (Role::Operator, "urn:adsum:role:agent"),
        (Role::Coordinator, "host:5061"),
        (Role::Coordinator, "a/b"),
        (Role::Coordinator, ""),
    ] {
        let error = issue(dir.path(), role, &names(&[wrong]), now());
        assert!(matches!(error, Err(CertsError::Name { .. })), "{wrong}");
    }
    assert!(matches!(issue(dir.path(), Role::Agent, &[], now()), Err(CertsError::NoName(_))));
    assert!(matches!(issue(dir.path(), Role::Agent, &names(&["a"]), i64::MAX), Err(CertsError::Time(_))));
    std::fs::write(dir.path().join(CA_KEY_FILE), "no key").unwrap();
    let error = issue(dir.path(), Role::Agent, &names(&["a"]), now()).unwrap_err().to_string();
    assert!(error.contains("it holds no private key"), "{error}");
}

#[test]
fn the_ca_must_be_the_one_of_its_key() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    init(one.path(), now()).unwrap();
    init(other.path(), now()).unwrap();
    std::fs::copy(other.path().join(CA_FILE), one.path().join(CA_FILE)).unwrap();
    let error = issue(one.path(), Role::Agent, &names(&["a"]), now()).unwrap_err().to_string();
    assert!(error.contains("not the key of the certificate beside it"), "{error}");
}
