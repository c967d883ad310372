//! What one question finds out about a server that refuses our TLS: asked of `openssl s_server`
//! with the suites and versions that old pools have.

mod s_server;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use adsum_agent::net::probe::{Explained, Finding, LIMIT, Probes, ask};
use adsum_presence::host::{Class, FlowError};
use rustls::pki_types::ServerName;
use s_server::{DHE_GCM, ECDHE_CBC, Identity, MODERN, RSA_GCM, Server, TLS10, hangs_up, wanted};

fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

fn refused() -> FlowError {
    FlowError {
        class: Class::Pool,
        code: "transport:tls",
        reason: "received fatal alert: HandshakeFailure".to_owned(),
        diagnosis: "unclear".to_owned(),
    }
}

#[test]
fn old_servers_say_what_they_would_accept() {
    if !wanted("old_servers_say_what_they_would_accept") {
        return;
    }
    let identity = Identity::new("DNS:localhost", &[]);
    for (options, version, suite, words) in [
        (ECDHE_CBC, 0x0303, 0xc028, "(CBC mode, no AEAD)"),
        (RSA_GCM, 0x0303, 0x009d, "(RSA key exchange)"),
        (DHE_GCM, 0x0303, 0x009e, "(DHE key exchange)"),
        (TLS10, 0x0301, 0xc014, "nothing newer than TLS 1.0"),
        (&["-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0"], 0x0302, 0x002f, "nothing newer than TLS 1.1"),
    ] {
        let server = Server::start(&identity, options);
        let found = ask(server.address, None, &localhost(), LIMIT);
        assert_eq!(found, Finding::Accepts { version, suite }, "{options:?}");
        let said = found.diagnosis();
        assert!(said.contains(words) && said.contains("tls = { legacy = true }"), "{said}");
        // A version is a fact; that nothing newer is there beside a suite is a guess.
        assert_eq!(said.contains("has probably no cipher suite"), version == 0x0303, "{said}");
    }
}

#[test]
fn a_server_that_has_only_what_we_have_refuses_the_question() {
    if !wanted("a_server_that_has_only_what_we_have_refuses_the_question") {
        return;
    }
    let identity = Identity::new("DNS:localhost", &[]);
    let server = Server::start(&identity, &["-tls1_3"]);
    assert_eq!(ask(server.address, None, &localhost(), LIMIT), Finding::Alert(70));
    let server = Server::start(&identity, &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"]);
    let found = ask(server.address, None, &localhost(), LIMIT);
    assert_eq!(found, Finding::Alert(40));
    assert!(found.diagnosis().contains("old TLS is probably not the reason"), "{}", found.diagnosis());
}

#[test]
fn a_question_ends_in_time_whatever_the_other_side_does() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap();
    let begun = Instant::now();
    let found = ask(silent, None, &localhost(), Duration::from_millis(300));
    assert!(matches!(&found, Finding::Unknown(why) if why.contains("0.3 s")), "{found:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    drop(listener);
    assert!(matches!(ask(silent, None, &localhost(), LIMIT), Finding::Unknown(_)));
    let (closing, counted) = hangs_up(1);
    assert_eq!(ask(closing, None, &localhost(), LIMIT), Finding::Closed);
    counted.join().unwrap();
}

/// Waits for what is found, as a shard does.
fn wait(probes: &Probes, target: std::net::SocketAddr) -> FlowError {
    let begun = Instant::now();
    loop {
        match probes.explain(target, None, &localhost(), refused()) {
            Explained::Now(error) => return error,
            Explained::Later(error) => assert_eq!(error.diagnosis, "unclear"),
        }
        assert!(begun.elapsed() < LIMIT + Duration::from_secs(1));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_target_is_asked_once_however_many_users_it_refuses() {
    // Two may come; if one more than the question does, the count is wrong.
    let (target, counted) = hangs_up(2);
    let probes = Probes::default();
    let shards: Vec<_> = (0..4).map(|_| probes.clone()).collect();
    std::thread::scope(|scope| {
        for probes in &shards {
            scope.spawn(move || {
                for _ in 0..50 {
                    let told = wait(probes, target);
                    assert!(told.diagnosis.contains("closes the connection at our ClientHello"), "{told:?}");
                    assert_eq!(told.reason, refused().reason);
                }
            });
        }
    });
    // The second connection is ours: nobody else has come before it.
    drop(std::net::TcpStream::connect(target).unwrap());
    assert_eq!(counted.join().unwrap(), 2);
}

#[test]
fn a_target_that_once_spoke_our_tls_is_not_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let probes = Probes::default();
    probes.succeeded(target);
    assert!(
        matches!(probes.explain(target, None, &localhost(), refused()), Explained::Now(error) if error.diagnosis == "unclear")
    );
    std::thread::sleep(Duration::from_millis(100));
    assert!(listener.accept().is_err(), "somebody came to ask");
}

#[test]
fn a_server_of_today_answers_the_question_with_its_oldest() {
    if !wanted("a_server_of_today_answers_the_question_with_its_oldest") {
        return;
    }
    // Which is why it is asked only after a refusal.
    let server = Server::start(&Identity::new("DNS:localhost", &[]), MODERN);
    let found = ask(server.address, None, &localhost(), LIMIT);
    assert!(matches!(found, Finding::Accepts { version: 0x0303, .. }), "{found:?}");
}
