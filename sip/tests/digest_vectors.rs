//! Digest responses against published vectors and against other implementations.
//!
//! Where a vector says "computed" it was computed with Python's hashlib by a
//! script that first reproduced the published ones of this file.

use adsum_sip::digest::{Algorithm, Authorization, Hash, Hex, Secret, Text, ha1, hash};
use proptest::prelude::*;

/// What `response` has to be for a header's value.
fn expected(value: &str, password: &str, method: &str, body: &str) -> String {
    let given = Authorization::read(value.as_bytes()).unwrap();
    let secret = Secret::Password(password.as_bytes());
    text(&given.expected(secret, method.as_bytes(), body.as_bytes()).unwrap())
}

fn text(hex: &Hex) -> String {
    String::from_utf8(hex.text().to_vec()).unwrap()
}

/// RFC 7616 §3.9.1: the two answers to one pair of challenges.
#[test]
fn rfc_7616_md5_and_sha_256() {
    for (algorithm, response) in [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ] {
        let value = format!(
            "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", uri=\"/dir/index.html\", \
             algorithm={algorithm}, nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", nc=00000001, \
             cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", qop=auth, response=\"{response}\", \
             opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
        );
        assert_eq!(expected(&value, "Circle of Life", "GET", ""), response, "{algorithm}");
        let given = Authorization::read(value.as_bytes()).unwrap();
        assert!(given.proves(Secret::Password(b"Circle of Life"), b"GET", b""));
        assert!(!given.proves(Secret::Password(b"Circle of life"), b"GET", b""));
    }
}

/// RFC 7616 §3.9.2 as corrected by erratum 4897: the printed values are those
/// of a cut SHA-512, not of SHA-512/256.
#[test]
fn rfc_7616_sha_512_256_and_userhash() {
    let name = "Jäsøn Doe";
    let value = format!(
        "Digest username=\"{name}\", realm=\"api@example.org\", uri=\"/doe.json\", algorithm=SHA-512-256, \
         nonce=\"5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK\", nc=00000001, \
         cnonce=\"NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v\", qop=auth"
    );
    assert_eq!(
        expected(&value, "Secret, or not?", "GET", ""),
        "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5"
    );
    let parts = [Text::Plain(name.as_bytes()), Text::Plain(b":api@example.org")];
    assert_eq!(
        text(&hash(Hash::Sha512_256, &parts)),
        "793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b"
    );
}

/// RFC 2617 §3.5.
#[test]
fn rfc_2617() {
    let value = "Digest username=\"Mufasa\", realm=\"testrealm@host.com\", \
                 nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", uri=\"/dir/index.html\", qop=auth, nc=00000001, \
                 cnonce=\"0a4f113b\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
    assert_eq!(expected(value, "Circle Of Life", "GET", ""), "6629fae49393a05397450978507c4ef1");
}

/// RFC 2069 §2.4 as corrected by erratum 749: no qop.
#[test]
fn rfc_2069() {
    let value = "Digest username=\"Mufasa\", realm=\"testrealm@host.com\", \
                 nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", uri=\"/dir/index.html\"";
    assert_eq!(expected(value, "CircleOfLife", "GET", ""), "1949323746fe6a43ef61f9606e7febea");
}

/// The project's protocol guide, section 8.1; rows marked "computed" go beyond it.
#[test]
fn the_guides_vectors() {
    const NONCE: &str = "5ccc069c403ebaf9f0171e9517f40e41";
    let rows = [
        ("MD5", "auth", "b89fe60ec0d4493f3565504c0e1bd220"),
        ("MD5", "", "a6d7a40e5d075a3c1df4e89273e62fcd"),
        ("SHA-256", "auth", "5c55c44aefd3734521c743902930ca997911519af91ad9e6bb4707fad5f57e6f"),
        ("SHA-512-256", "auth", "42bf3745e8930accf5d8b2cc337087024824803c9dcac1420ca1e2c4b3c4a745"),
        // Computed; H(A1) of MD5-sess is the guide's f64da640a57ae0c8e592c304bb9ae0b2.
        ("MD5-sess", "auth", "db47114a2742bfce1bc4be2598e1025c"),
        ("MD5-sess", "", "d02b0c87cd13ac4a71ad07333664b857"),
        ("SHA-256-sess", "auth", "54f38c20776f97cfabcb034edea340ac7e4590280f2a02fda245226e721e7fbe"),
        ("SHA-512-256-sess", "auth", "5180c585eebb264618a909bd346bd84559ebc4458526da75094ed91332ee2302"),
        // Computed, with the body `hello`.
        ("MD5", "auth-int", "4265a118211489bfc05d76c36b05a224"),
        ("MD5-sess", "auth-int", "f8f28a5725dcedcbb7234bb821121573"),
        ("SHA-256", "auth-int", "ea4c04029d8dd3b31b5f1e41ab082f433cb01b5f48f9bc0d1c0ddd83fe03fbe8"),
        ("SHA-512-256", "auth-int", "fde2802629bbe4522445ad3f90aaa74cffca51f092b6ab25394a2985209e37b5"),
    ];
    for (algorithm, qop, response) in rows {
        let qop_param = if qop.is_empty() { String::new() } else { format!(", qop={qop}") };
        let value = format!(
            "Digest username=\"pub00001\", realm=\"loadlab.test\", nonce=\"{NONCE}\", uri=\"sip:loadlab.test\", \
             algorithm={algorithm}, nc=00000001, cnonce=\"0a4f113b\"{qop_param}"
        );
        assert_eq!(expected(&value, "s3cret", "REGISTER", "hello"), response, "{algorithm} {qop}");
    }
    let a1 = |function| text(&ha1(function, Text::Plain(b"pub00001"), b"loadlab.test", b"s3cret"));
    assert_eq!(a1(Hash::Md5), "ca7febd9f514b09054bb23b4fe72afd1");
    assert_eq!(a1(Hash::Sha256), "d32d99aa5ce26fb587efc59d43aeacee1f7c09e6461339696a4f6da4be20d265");
    assert_eq!(a1(Hash::Sha512_256), "b7974a9630c091ef9e62a31204238fba1d731862c3c5d78227c20df5c738db32");
}

/// What stands escaped between quotes is hashed without its backslashes
/// (RFC 7616 §3.4, `unq`). Computed: user `a"b\c`, realm `re"alm`, nonce `n"1`.
#[test]
fn escapes_are_resolved_before_hashing() {
    let value = r#"Digest username="a\"b\\c", realm="re\"alm", nonce="n\"1", uri="sip:x", nc=00000001, cnonce="c", qop=auth"#;
    assert_eq!(expected(value, "pw", "REGISTER", ""), "98e4d86d1ef8f43888b0c3332e098b1b");
    assert_eq!(&*Authorization::read(value.as_bytes()).unwrap().user_name(), br#"a"b\c"#);
}

/// `rspauth` of the guide's first row (RFC 7616 §3.5). Computed.
#[test]
fn rspauth_leaves_the_method_out() {
    let value = "Digest username=\"pub00001\", realm=\"loadlab.test\", \
                 nonce=\"5ccc069c403ebaf9f0171e9517f40e41\", uri=\"sip:loadlab.test\", nc=00000001, \
                 cnonce=\"0a4f113b\", qop=auth";
    let given = Authorization::read(value.as_bytes()).unwrap();
    let rspauth = given.rspauth(Secret::Password(b"s3cret"), b"").unwrap();
    assert_eq!(text(&rspauth), "b5132d036e5b1701727c16715cf51f9d");
    let from_ha1 = given.rspauth(Secret::Ha1(b"CA7FEBD9F514B09054BB23B4FE72AFD1"), b"").unwrap();
    assert_eq!(from_ha1.text(), rspauth.text());
}

#[test]
fn algorithms_are_read_in_any_case_and_others_refused() {
    let of = |name: &str| Algorithm::of(name.as_bytes());
    assert_eq!(of("md5"), Some(Algorithm::MD5));
    assert_eq!(of("sha-512-256-SESS"), Some(Algorithm { hash: Hash::Sha512_256, session: true }));
    for other in ["", "-sess", "SHA-512", "SHA", "AKAv1-MD5", "MD5-ses", "MD5 "] {
        assert_eq!(of(other), None, "{other}");
    }
}

proptest! {
    /// The same as rsip's generator, which is written without ours in sight.
    #[test]
    fn the_same_as_rsip(
        name in "[a-z0-9]{1,12}",
        realm in "[a-z.@ ]{1,20}",
        password in "[ -~]{0,20}",
        nonce in "[A-Za-z0-9+/=]{1,60}",
        cnonce in "[0-9a-f]{1,32}",
        count in 1u8..99,
        sha in any::<bool>(),
        qop in any::<bool>(),
        method in prop::sample::select(vec![rsip::Method::Register, rsip::Method::Publish]),
    ) {
        let uri = rsip::Uri::try_from("sip:pool.example.test").unwrap();
        let auth_qop = rsip::headers::auth::AuthQop::Auth { cnonce: cnonce.clone(), nc: count };
        let theirs = rsip::services::DigestGenerator {
            username: &name,
            password: &password,
            nonce: &nonce,
            uri: &uri,
            realm: &realm,
            method: &method,
            qop: qop.then_some(&auth_qop),
            algorithm: if sha {
                rsip::headers::auth::Algorithm::Sha256
            } else {
                rsip::headers::auth::Algorithm::Md5
            },
        };
        let algorithm = if sha { "SHA-256" } else { "MD5" };
        // rsip counts in decimal.
        let qop = if qop { format!(", qop=auth, nc={count:08}, cnonce=\"{cnonce}\"") } else { String::new() };
        let value = format!(
            "Digest username=\"{name}\",realm=\"{realm}\",nonce=\"{nonce}\",uri=\"{uri}\",algorithm={algorithm}{qop}"
        );
        prop_assert_eq!(expected(&value, &password, &method.to_string(), "x"), theirs.compute());
    }
}
