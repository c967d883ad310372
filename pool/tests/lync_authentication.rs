//! NTLM and [MS-SIPAE] from the pool's side: handshakes, signatures, refusals.

mod common;

use std::time::Duration;

use adsum_pool::PoolConfig;
use adsum_pool::config::LyncScheme;
use common::lync::{Client, World, machine, note, open};
use common::ntlm::{self, Account, Keys, parameter, sign_on, tell};
use common::{Msg, SECOND, aor};

fn closed() -> PoolConfig {
    PoolConfig { auth: true, ..open() }
}

/// Points 2 to 6: 401, 401 with a challenge, 200 that is signed.
#[test]
fn a_handshake_is_two_unsigned_401_and_a_signed_200() {
    // What is offered, and what the client speaks.
    for (version, spoken) in [(4, 4), (3, 3), (2, 2), (4, 3), (4, 2), (3, 2)] {
        let mut config = closed();
        config.lync.sipae_version = version;
        let mut world = World::new(config);
        let mut client = Client::new(1, 1);
        let request = client.register();
        let first = world.ask(&client, &request);
        assert_eq!(first.code(), 401);
        let suffix = if version > 2 { format!(", version={version}") } else { String::new() };
        assert_eq!(
            first.all("WWW-Authenticate"),
            [format!("NTLM realm=\"SIP Communications Service\", targetname=\"pool.test\"{suffix}")]
        );
        assert_eq!(first.header("Date"), "Mon, 05 Jan 2026 10:00:00 GMT");
        let (text, keys) = ntlm::begin(&mut world, &mut client, &Account::of(1), spoken);
        let answer = world.say(client.peer, &text).remove(0);
        assert_eq!(answer.code(), 200, "{}", answer.text);
        assert!(keys.proves(&answer), "{}", answer.text);
        let info = answer.header("Authentication-Info");
        assert_eq!(parameter(&info, "snum").as_deref(), Some("1"));
        assert_eq!(parameter(&info, "srand").unwrap().len(), 8);
        let stats = world.stats();
        assert_eq!((stats.challenged, stats.associations, stats.bad_signatures), (2, 1, 0));
    }
}

/// Point 13: everything after the 200 is signed: answers, good and bad,
/// BENOTIFY, NOTIFY; numbers rise by one.
#[test]
fn everything_after_that_is_signed_both_ways() {
    let mut world = World::new(closed());
    let (mut alice, mut alice_keys) = sign_on(&mut world, 1, 1, 4);
    let (mut bob, mut bob_keys) = sign_on(&mut world, 2, 2, 4);
    let request = bob.batch("subscribe", &[aor(1)], &["state", "note"]);
    let subscribed = tell(&mut world, &bob, &mut bob_keys, &request).remove(0);
    assert!(subscribed.code() == 200 && bob_keys.proves(&subscribed));
    let mut all: Vec<Msg> = Vec::new();
    let request = alice.subscribe_plain("vnd-microsoft-roaming-self");
    all.extend(tell(&mut world, &alice, &mut alice_keys, &request));
    assert!(all[1].is_notify());
    let answer = alice_keys.sign(&all[1].answer(200));
    assert!(world.say(alice.peer, &answer).is_empty());
    for request in [
        alice.subscribe("nonsense"),
        alice.request("INVITE"),
        alice.subscribe("vnd-microsoft-roaming-contacts").line("Require: x"),
        alice.subscribe("presence").in_dialog("nobody"),
        alice.publish(&[note(200, 9, "x")]),
        alice.publish(&[machine(0, 3_500).to_vec(), vec![note(200, 0, "x")]].concat()),
        alice.subscribe("vnd-microsoft-provisioning-v2").line("Expires: 0"),
        alice.register().line("Expires: 0"),
    ] {
        all.extend(tell(&mut world, &alice, &mut alice_keys, &request));
    }
    let codes: Vec<u16> = all.iter().filter(|m| m.text.starts_with("SIP/2.0")).map(Msg::code).collect();
    assert_eq!(codes, [200, 489, 501, 420, 481, 409, 200, 200, 200]);
    let mut numbers = [Vec::new(), Vec::new()];
    for message in std::iter::once(&subscribed).chain(&all) {
        let keys: &Keys = if message.peer == alice.peer { &alice_keys } else { &bob_keys };
        assert!(keys.proves(message), "{}", message.text);
        let number: u32 = parameter(&message.header("Authentication-Info"), "snum").unwrap().parse().unwrap();
        numbers[usize::from(message.peer != alice.peer)].push(number);
    }
    assert!(all.iter().any(|m| m.is_benotify() && m.peer == bob.peer));
    for numbers in numbers {
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1) && numbers[0] == 2, "{numbers:?}");
    }
    assert_eq!(world.stats().bad_signatures, 0);
}

#[test]
fn a_wrong_password_is_challenged_from_the_beginning_and_counted() {
    let mut world = World::new(closed());
    let wrong = [
        Account { password: "pw-user000002".to_owned(), ..Account::of(1) },
        Account { user: "user009999".to_owned(), ..Account::of(1) },
        Account { user: "admin".to_owned(), ..Account::of(1) },
        Account { domain: "ELSEWHERE".to_owned(), ..Account::of(1) },
    ];
    for (at, account) in wrong.iter().enumerate() {
        let mut client = Client::new(1, 1);
        let (text, keys) = ntlm::begin(&mut world, &mut client, account, 4);
        let answer = world.say(client.peer, &text).remove(0);
        assert_eq!(answer.code(), 401, "{account:?}");
        assert!(answer.all("Authentication-Info").is_empty());
        assert_eq!(parameter(&answer.header("WWW-Authenticate"), "opaque"), None);
        assert_eq!(world.stats().wrong_credentials, at as u64 + 1);
        // Its nonce is used up.
        let again = text.replace("CSeq: 3", "CSeq: 4");
        assert_eq!(world.say(client.peer, &again)[0].code(), 401);
        assert_eq!(world.stats().wrong_credentials, at as u64 + 1);
        drop(keys);
    }
    assert_eq!((world.stats().associations, world.stats().registrations), (0, 0));
}

#[test]
fn accounts_may_be_written_in_four_ways() {
    let mut world = World::new(closed());
    for (connection, (domain, user)) in
        [("POOL", "user000001"), ("pool", "USER000001"), ("", "user000001"), ("", "user000001@pool.test")]
            .iter()
            .enumerate()
    {
        let account = Account { domain: (*domain).to_owned(), user: (*user).to_owned(), ..Account::of(1) };
        let mut client = Client::new(1, connection as u64 + 1);
        let (text, _) = ntlm::begin(&mut world, &mut client, &account, 4);
        assert_eq!(world.say(client.peer, &text)[0].code(), 200, "{account:?}");
    }
    // And in a domain that was named.
    let mut config = closed();
    config.lync.nt_domain = Some("LAB".to_owned());
    let mut world = World::new(config);
    let mut client = Client::new(1, 1);
    let account = Account { domain: "LAB".to_owned(), ..Account::of(1) };
    let (text, _) = ntlm::begin(&mut world, &mut client, &account, 4);
    assert_eq!(world.say(client.peer, &text)[0].code(), 200);
}

#[test]
fn unsigned_forged_and_repeated_requests_are_challenged_and_change_nothing() {
    let mut world = World::new(closed());
    let (mut client, mut keys) = sign_on(&mut world, 1, 1, 4);
    let publish = client.publish(&[note(200, 0, "x")]).text(5);
    let code = |world: &mut World, text: &str| {
        let sent = world.say(client.peer, text);
        assert_eq!(sent.len(), 1);
        assert!(sent[0].code() != 401 || sent[0].all("Authentication-Info").is_empty());
        sent[0].code()
    };
    assert_eq!(code(&mut world, &publish), 401);
    assert_eq!(world.stats().bad_signatures, 0);
    let signed = keys.sign(&publish);
    // Whatever is covered may not be changed.
    for (from, to) in [
        ("CSeq: 1 SERVICE", "CSeq: 2 SERVICE"),
        ("Call-ID: ", "Call-ID: a"),
        (";tag=t", ";tag=u"),
        ("crand=\"5a5a", "crand=\"5a5b"),
        ("cnum=\"2\"", "cnum=\"3\""),
        ("To: <sip:user000001@pool.test>", "To: <sip:USER000001@pool.test>"),
        ("To: <sip:user000001@pool.test>", "To: <sip:user000001@pool.test>;tag=x"),
        ("Content-Type", "Expires: 5\r\nContent-Type"),
        ("Content-Type", "P-Asserted-Identity: <sip:a@b>\r\nContent-Type"),
    ] {
        let forged = signed.replacen(from, to, 1);
        assert_ne!(forged, signed, "{from}");
        assert_eq!(code(&mut world, &forged), 401, "{from}");
    }
    assert_eq!(world.stats().bad_signatures, 9);
    assert_eq!(world.stats().publications, 0);
    // The association is as good as before; the same once more is not.
    assert_eq!(code(&mut world, &signed), 200);
    assert_eq!(code(&mut world, &signed), 401);
    assert_eq!((world.stats().bad_signatures, world.stats().publications), (10, 1));
}

#[test]
fn numbers_may_come_out_of_order_within_256() {
    let mut world = World::new(closed());
    let (mut client, keys) = sign_on(&mut world, 1, 1, 4);
    let mut code = |cnum| {
        let text = client.subscribe("nonsense").text(5);
        world.say(client.peer, &keys.sign_as(&text, cnum, ""))[0].code()
    };
    let numbers = [5, 3, 4, 3, 300, 45, 44, 299, 299, 1];
    assert_eq!(numbers.map(&mut code), [489, 489, 489, 401, 489, 489, 401, 489, 401, 401]);
}

#[test]
fn an_association_belongs_to_its_connection_its_account_and_its_time() {
    let mut world = World::new(closed());
    let (mut client, mut keys) = sign_on(&mut world, 1, 1, 4);
    let (mut other, mut other_keys) = sign_on(&mut world, 2, 2, 4);
    // Over another connection.
    let text = keys.sign(&client.publish(&[note(200, 0, "x")]).text(5));
    assert_eq!(world.say(other.peer, &text)[0].code(), 401);
    // In another name: the answer is signed, as it is known for whom it is.
    let text = other_keys.sign(&client.publish(&[note(200, 0, "x")]).text(5));
    let answer = world.say(other.peer, &text).remove(0);
    assert_eq!(answer.code(), 403);
    assert!(answer.header("ms-diagnostics-public").starts_with("4004;"));
    assert!(other_keys.proves(&answer));
    // After its connection is gone.
    world.disconnect(&client);
    let text = keys.sign(&client.register().text(6));
    assert_eq!(world.say(client.peer, &text)[0].code(), 401);
    // After eight hours.
    for ten_minutes in 0..=49 {
        let request = other.register().line("Expires: 900");
        let sent = tell(&mut world, &other, &mut other_keys, &request);
        assert_eq!(sent[0].code(), if ten_minutes <= 48 { 200 } else { 401 }, "{ten_minutes}");
        world.pass(600 * SECOND);
    }
}

/// By knob it is over sooner: the next request is challenged from the beginning, and a handshake later
/// everything is as it was. Until then its owner is told under the old one.
#[test]
fn by_knob_associations_end_in_the_middle_of_everything() {
    let mut config = closed();
    config.lync.association_lifetime = Duration::from_secs(30);
    let mut world = World::new(config);
    let (mut alice, mut keys) = sign_on(&mut world, 1, 1, 4);
    let request = alice.subscribe("vnd-microsoft-roaming-self");
    assert_eq!(tell(&mut world, &alice, &mut keys, &request)[0].code(), 200);
    world.pass(20 * SECOND);
    let (mut other, mut other_keys) = sign_on(&mut world, 1, 2, 4);
    world.pass(11 * SECOND);
    // Told, and signed: nobody has asked anything yet.
    let request = other.publish(&[note(200, 0, "x")]);
    let sent = tell(&mut world, &other, &mut other_keys, &request);
    assert!(sent.iter().any(|m| m.is_benotify() && m.peer == alice.peer && keys.proves(m)));
    let request = alice.publish(&[note(200, 1, "y")]);
    let sent = tell(&mut world, &alice, &mut keys, &request);
    assert_eq!((sent.len(), sent[0].code()), (1, 401));
    assert_eq!(parameter(&sent[0].header("WWW-Authenticate"), "opaque"), None);
    let (text, mut keys) = ntlm::begin(&mut world, &mut alice, &Account::of(1), 4);
    assert_eq!(world.say(alice.peer, &text)[0].code(), 200);
    let request = alice.publish(&[note(200, 1, "y")]);
    let sent = tell(&mut world, &alice, &mut keys, &request);
    assert_eq!(sent[0].code(), 200);
    assert!(sent.iter().any(|m| m.is_benotify() && m.peer == alice.peer && keys.proves(m)));
    assert_eq!((world.stats().subscriptions, world.stats().associations), (1, 3));
}

#[test]
fn by_knob_challenges_are_those_of_a_proxy() {
    let mut config = closed();
    config.lync.proxy_auth = true;
    config.lync.schemes = vec![LyncScheme::Kerberos, LyncScheme::Ntlm];
    let mut world = World::new(config);
    let mut client = Client::new(1, 1);
    let request = client.register();
    let answer = world.ask(&client, &request);
    assert!(answer.text.starts_with("SIP/2.0 407 Proxy Authentication Required\r\n"), "{}", answer.text);
    let schemes = answer.all("Proxy-Authenticate");
    assert!(schemes.len() == 2 && schemes[0].starts_with("Kerberos ") && schemes[1].starts_with("NTLM "));
    assert!(answer.all("WWW-Authenticate").is_empty());
}

#[test]
fn by_knob_a_mic_is_asked_for() {
    let mut config = closed();
    config.lync.ntlm_mic = true;
    let mut world = World::new(config);
    let mut client = Client::new(1, 1);
    // This client copies what it was told, and makes none.
    let (text, _) = ntlm::begin(&mut world, &mut client, &Account::of(1), 4);
    assert_eq!(world.say(client.peer, &text)[0].code(), 401);
    assert_eq!((world.stats().wrong_credentials, world.stats().associations_now), (1, 0));
}

#[test]
fn what_only_offers_other_schemes_cannot_be_signed_on_to() {
    let mut config = closed();
    config.lync.schemes = vec![LyncScheme::TlsDsk, LyncScheme::Kerberos];
    let mut world = World::new(config);
    let mut client = Client::new(1, 1);
    let request = client.register();
    let answer = world.ask(&client, &request);
    assert_eq!(
        answer.all("WWW-Authenticate"),
        [
            "TLS-DSK realm=\"SIP Communications Service\", targetname=\"pool.test\", version=4, \
             sts-uri=\"https://pool.test/CertProv/CertProvisioningService.svc\"",
            "Kerberos realm=\"SIP Communications Service\", targetname=\"sip/pool.test\", version=4"
        ]
    );
    for scheme in ["NTLM", "Kerberos", "TLS-DSK"] {
        let request = client.register().line(&format!(
            "Authorization: {scheme} qop=\"auth\", realm=\"SIP Communications Service\", targetname=\"pool.test\", gssapi-data=\"\", version=4"
        ));
        let answer = world.ask(&client, &request);
        assert_eq!((answer.code(), answer.all("WWW-Authenticate").len()), (401, 2));
    }
}

#[test]
fn by_knob_a_share_of_signatures_is_wrong() {
    let mut config = closed();
    config.lync.wrong_rspauth = 0.3;
    let mut world = World::new(config);
    let mut client = Client::new(1, 1);
    let (text, mut keys) = ntlm::begin(&mut world, &mut client, &Account::of(1), 4);
    let mut wrong = u64::from(!keys.proves(&world.say(client.peer, &text)[0]));
    for _ in 0..400 {
        let request = client.subscribe("nonsense");
        let sent = tell(&mut world, &client, &mut keys, &request);
        assert!(sent[0].header("Authentication-Info").starts_with("NTLM rspauth=\"01000000"));
        wrong += u64::from(!keys.proves(&sent[0]));
    }
    assert!((80..=160).contains(&wrong), "{wrong}");
    assert_eq!(world.stats().wrong_signatures, wrong);
}

#[test]
fn the_answer_to_a_notify_has_to_be_signed() {
    let mut world = World::new(closed());
    let (mut client, mut keys) = sign_on(&mut world, 1, 1, 4);
    let request = client.subscribe_plain("vnd-microsoft-roaming-self");
    let sent = tell(&mut world, &client, &mut keys, &request);
    let answer = sent[1].answer(481);
    world.say(client.peer, &answer);
    assert_eq!((world.stats().subscriptions, world.stats().bad_signatures), (1, 1));
    let answer = keys.sign(&answer);
    world.say(client.peer, &answer);
    assert_eq!((world.stats().subscriptions, world.stats().lost_subscriptions), (0, 1));
}

#[test]
fn broken_tokens_are_refused() {
    let mut world = World::new(closed());
    for token in ["AAAA", "%%%", "TlRMTVNTUAADAAAA", &"A".repeat(20_000)] {
        let mut client = Client::new(1, 1);
        let (text, _) = ntlm::begin(&mut world, &mut client, &Account::of(1), 4);
        let (head, rest) = text.split_once("gssapi-data=\"").unwrap();
        let rest = rest.split_once('"').unwrap().1;
        let sent = world.say(client.peer, &format!("{head}gssapi-data=\"{token}\"{rest}"));
        assert_eq!(sent[0].code(), 401);
    }
    assert_eq!(world.stats().wrong_credentials, 4);
    // An opaque that was never given, or is none.
    for opaque in ["00000000ffffffff", "", "zzzz", "ffffffffffffffffffff"] {
        let mut client = Client::new(1, 1);
        let (text, keys) = ntlm::begin(&mut world, &mut client, &Account::of(1), 4);
        let sent = world.say(client.peer, &text.replace(&keys.opaque, opaque));
        assert_eq!(sent[0].code(), 401, "{opaque}");
    }
    assert_eq!(world.stats().associations, 0);
}

/// Finished or not: with its connection a handshake is forgotten.
#[test]
fn nothing_is_kept_for_connections_that_are_gone() {
    let mut world = World::new(closed());
    let (kept, _) = sign_on(&mut world, 1, 1, 4);
    for connection in 2..50 {
        let mut client = Client::new(2, connection);
        // Begun and left; begun again and proven; or refused.
        ntlm::begin(&mut world, &mut client, &Account::of(2), 4);
        let account = if connection % 2 == 0 {
            Account::of(2)
        } else {
            Account { password: "wrong".to_owned(), ..Account::of(2) }
        };
        let (text, _) = ntlm::begin(&mut world, &mut client, &account, 4);
        let answer = world.say(client.peer, &text).remove(0);
        assert_eq!(answer.code(), if connection % 2 == 0 { 200 } else { 401 });
        assert_eq!(world.stats().associations_now, if connection % 2 == 0 { 3 } else { 2 });
        world.disconnect(&client);
        assert_eq!(world.stats().associations_now, 1);
    }
    world.disconnect(&kept);
    assert_eq!(world.stats().associations_now, 0);
}

/// Whoever proves himself again and again over one connection does not fill the pool's memory.
#[test]
fn handshakes_of_one_connection_are_bounded() {
    let mut world = World::new(closed());
    let mut client = Client::new(1, 1);
    let mut last = None;
    for _ in 0..300 {
        let (text, keys) = ntlm::begin(&mut world, &mut client, &Account::of(1), 4);
        assert_eq!(world.say(client.peer, &text)[0].code(), 200);
        last = Some(keys);
    }
    let stats = world.stats();
    assert_eq!((stats.associations, stats.associations_now, stats.associations_evicted), (300, 256, 44));
    let request = client.subscribe("vnd-microsoft-roaming-self");
    assert_eq!(tell(&mut world, &client, &mut last.unwrap(), &request)[0].code(), 200);
    world.disconnect(&client);
    assert_eq!(world.stats().associations_now, 0);
}
