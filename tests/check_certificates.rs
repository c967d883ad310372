//! What `adsum check` says about certificates: each mistake of a pool's
//! certificate has words of its own, and they say what to do.

mod support;

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use support::{PoolProcess, check, code, err, out};

/// A pool whose certificate is what the test makes of it; its folder has `ca.pem`.
fn pool(dir: &Path, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> PoolProcess {
    write_certificates(dir, "internal CA of the test", names, change);
    PoolProcess::start(&["--tls-dir", &dir.to_string_lossy()])
}

fn write_certificates(
    dir: &Path,
    ca_name: &str,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.distinguished_name.push(DnType::CommonName, ca_name);
    std::fs::write(dir.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut server = CertificateParams::new(names).unwrap();
    server.distinguished_name.push(DnType::CommonName, "localhost");
    change(&mut server);
    std::fs::write(dir.join("server.pem"), server.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    std::fs::write(dir.join("server-key.pem"), key.serialize_pem()).unwrap();
}

/// Diagnosis of a check over TLS that has to fail at the certificate.
fn refused(dir: &Path, target: &str, more: &[&str]) -> String {
    let output = check(target, dir, &[&["--transport", "tls", "--format", "json"], more].concat());
    assert_eq!(code(&output), 5, "{} {}", out(&output), err(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let one = &json["checks"][0];
    assert_eq!((one["code"].as_str(), one["result"].as_str()), (Some("transport:tls"), Some("Failure")));
    one["diagnosis"].as_str().unwrap().to_owned()
}

fn ca(dir: &Path) -> String {
    dir.join("ca.pem").to_string_lossy().into_owned()
}

#[test]
fn a_certificate_that_is_right_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(dir.path(), &["localhost", "127.0.0.1"], |_| {});
    let ca = ca(dir.path());
    for more in [&[][..], &["--server-name", "localhost"]] {
        let more = [&["--transport", "tls", "--ca", &ca], more].concat();
        let output = check(&pool.tls, dir.path(), &more);
        assert_eq!(code(&output), 0, "{} {}", out(&output), err(&output));
    }
}

#[test]
fn an_internal_ca_that_is_not_trusted_has_to_be_given() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(dir.path(), &["localhost", "127.0.0.1"], |_| {});
    let other = tempfile::tempdir().unwrap();
    write_certificates(other.path(), "CA of another pool", &["localhost"], |_| {});
    // Another CA, as when the file of the wrong pool was taken.
    for file in [ca(other.path()), "/etc/ssl/certs/ca-certificates.crt".to_owned()] {
        if !Path::new(&file).is_file() {
            continue;
        }
        let said = refused(dir.path(), &pool.tls, &["--ca", &file]);
        assert!(
            said.contains("not signed by a CA that is trusted here") && said.contains("(--ca)"),
            "{said}"
        );
    }
}

#[test]
fn an_expired_certificate_has_to_be_renewed_by_the_pools_administrator() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(dir.path(), &["localhost", "127.0.0.1"], |server| {
        server.not_before = date_time_ymd(2019, 1, 1);
        server.not_after = date_time_ymd(2020, 1, 1);
    });
    let said = refused(dir.path(), &pool.tls, &["--ca", &ca(dir.path())]);
    assert!(said.contains("has expired: renew it") && said.contains("clock"), "{said}");
}

#[test]
fn a_certificate_of_the_future_points_at_the_clocks() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(dir.path(), &["localhost", "127.0.0.1"], |server| {
        server.not_before = date_time_ymd(2200, 1, 1);
        server.not_after = date_time_ymd(2201, 1, 1);
    });
    let said = refused(dir.path(), &pool.tls, &["--ca", &ca(dir.path())]);
    assert!(said.contains("not valid yet") && said.contains("clocks"), "{said}");
}

#[test]
fn a_wrong_name_is_shown_beside_the_right_ones() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(dir.path(), &["pool-a.example.com", "pool-b.example.com"], |_| {});
    let ca = ca(dir.path());
    let trusted = ["--ca", &ca];
    let said =
        refused(dir.path(), &pool.tls, &[&trusted[..], &["--server-name", "pool.example.com"]].concat());
    assert!(said.contains("is not for `pool.example.com`") && said.contains("--server-name"), "{said}");
    assert!(said.contains("pool-a.example.com") && said.contains("pool-b.example.com"), "{said}");
    // Without --server-name it is the host of the target that has to be in it.
    let said = refused(dir.path(), &pool.tls, &trusted);
    assert!(said.contains("is not for `127.0.0.1`"), "{said}");
}

#[test]
fn a_certificate_with_nothing_but_a_common_name_is_not_accepted() {
    let dir = tempfile::tempdir().unwrap();
    // CN=localhost, and no subjectAltName: names are looked for only there (RFC 6125, RFC 9525).
    let pool = pool(dir.path(), &[], |_| {});
    let said = refused(dir.path(), &pool.tls, &["--ca", &ca(dir.path()), "--server-name", "localhost"]);
    assert!(said.contains("`localhost`") && said.contains("subjectAltName"), "{said}");
}

#[test]
fn a_certificate_of_a_ca_is_none_for_a_server() {
    let dir = tempfile::tempdir().unwrap();
    // As `openssl req -x509` makes them: signed by itself, CA:TRUE; and given as --ca.
    let key = KeyPair::generate().unwrap();
    let mut own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = own.self_signed(&key).unwrap().pem();
    std::fs::write(dir.path().join("ca.pem"), &pem).unwrap();
    std::fs::write(dir.path().join("server.pem"), &pem).unwrap();
    std::fs::write(dir.path().join("server-key.pem"), key.serialize_pem()).unwrap();
    let pool = PoolProcess::start(&["--tls-dir", &dir.path().to_string_lossy()]);
    let said = refused(dir.path(), &pool.tls, &["--ca", &ca(dir.path()), "--server-name", "localhost"]);
    assert!(said.contains("CA:TRUE") && said.contains("have one issued for the server"), "{said}");
}

#[test]
fn what_does_not_speak_tls_is_not_blamed_on_certificates() {
    let dir = tempfile::tempdir().unwrap();
    write_certificates(dir.path(), "a CA", &["localhost"], |_| {});
    // One connection for each of the two users.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let plain = std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            // The client may close before it has all of it.
            drop(stream.unwrap().write_all(b"SIP/2.0 400 This is no TLS\r\nContent-Length: 0\r\n\r\n"));
        }
    });
    let said = refused(dir.path(), &address, &["--ca", &ca(dir.path())]);
    assert!(said.contains("does not speak TLS: check port and transport"), "{said}");
    plain.join().unwrap();
}

#[test]
fn a_wrong_certificate_of_a_pool_is_critical_and_a_wrong_file_of_ours_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool(dir.path(), &["other.example.com"], |_| {});
    let nagios = ["--transport", "tls", "--format", "nagios", "--ca"];
    let output = check(&pool.tls, dir.path(), &[&nagios[..], &[&ca(dir.path())]].concat());
    assert!(code(&output) == 2 && out(&output).starts_with("ADSUM CRITICAL - "), "{}", out(&output));
    let key = dir.path().join("server-key.pem").to_string_lossy().into_owned();
    let output = check(&pool.tls, dir.path(), &[&nagios[..], &[&key]].concat());
    assert!(code(&output) == 3 && out(&output).starts_with("ADSUM UNKNOWN - "), "{}", out(&output));
}
