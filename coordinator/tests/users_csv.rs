//! The users' file: what is read, and that every mistake is told with its row.

use adsum_coordinator::scenario::{Scheme, Users};
use adsum_coordinator::users::{
    PROBLEMS_SHOWN, Pairing, RowPair, UsersError, Who, check_uri, population, read_csv, write_csv,
};

fn good(text: &[u8]) -> (Vec<RowPair>, Pairing) {
    read_csv("u.csv", text, Scheme::Auto).unwrap()
}

fn bad(text: &str) -> String {
    read_csv("u.csv", text.as_bytes(), Scheme::Auto).unwrap_err().to_string()
}

#[test]
fn any_order_separator_line_end_and_byte_order_mark_give_the_same_users() {
    let table: [&[u8]; 4] = [
        b"sip_uri,auth_user,password\nsip:a@p.test,a,x\nsip:b@p.test,b,y\n",
        b"password,sip_uri,auth_user\r\nx,sip:a@p.test,a\r\ny,sip:b@p.test,b\r\n",
        b"\xef\xbb\xbfsip_uri;auth_user;password\r\nsip:a@p.test;a;x\r\nsip:b@p.test;b;y",
        b"SIP_URI, Auth_User , password\n\nsip:a@p.test , a, x\n,,\nsip:b@p.test,\"b\",\"y\"\n\n",
    ];
    for text in table {
        let (pairs, pairing) = good(text);
        assert_eq!((pairs.len(), pairing), (1, Pairing::InOrder));
        let pair = &pairs[0];
        let fields = |row: &adsum_coordinator::users::Row| {
            (row.sip_uri.clone(), row.auth_user.clone(), row.password.clone())
        };
        assert_eq!(fields(&pair.publisher), ("sip:a@p.test".into(), "a".into(), "x".into()));
        assert_eq!(fields(&pair.subscriber), ("sip:b@p.test".into(), "b".into(), "y".into()));
    }
}

#[test]
fn roles_pair_the_first_with_the_first_inside_a_site() {
    let text = "sip_uri,password,role,site\nsip:s1@p.test,x,subscriber,b\nsip:s2@p.test,x,Subscriber,a\n\
                sip:p1@p.test,x,publisher,a\nsip:p2@p.test,x,publisher,b\n";
    let (pairs, pairing) = good(text.as_bytes());
    assert_eq!(pairing, Pairing::ByRole);
    let names: Vec<(&str, &str, Option<&str>)> = pairs
        .iter()
        .map(|p| (p.publisher.sip_uri.as_str(), p.subscriber.sip_uri.as_str(), p.site.as_deref()))
        .collect();
    assert_eq!(
        names,
        [("sip:p1@p.test", "sip:s2@p.test", Some("a")), ("sip:p2@p.test", "sip:s1@p.test", Some("b"))]
    );
}

#[test]
fn every_mistake_is_told_with_row_and_column() {
    let table = [
        (
            "",
            "u.csv:1: sip_uri: the column is missing\nu.csv:1: password: the column is missing; `password` or `ha1` is needed",
        ),
        (
            "sip_uri,pasword,colour\n",
            "u.csv:1: unknown column `pasword`, accepted: sip_uri, auth_user, password, ha1, realm, site, role; did you \
             mean `password`?\nu.csv:1: unknown column `colour`, accepted: sip_uri, auth_user, password, ha1, realm, \
             site, role\nu.csv:1: password: the column is missing; `password` or `ha1` is needed",
        ),
        ("sip_uri,password\n", "u.csv:1: there are no users below the header"),
        (
            "sip_uri,password\nalice@p.test,x\nsip:bob,x\nsip:@p.test,x\nsip:a b@p.test,x\n,x\nsip:c@p.test\n\
             sip:d@p.test,\n",
            "u.csv:2: sip_uri: `alice@p.test`: an address begins with `sip:`\n\
             u.csv:3: sip_uri: `sip:bob`: an address has a user and an `@`\n\
             u.csv:4: sip_uri: `sip:@p.test`: the user before the `@` is empty\n\
             u.csv:5: sip_uri: `sip:a b@p.test`: ` ` cannot stand in the user part; write it as %XX\n\
             u.csv:6: sip_uri: empty; accepted: an address such as sip:alice@pool.test\n\
             u.csv:7: 1 fields, the header has 2\n\
             u.csv:8: password: empty, and so is `ha1`; one of them is needed",
        ),
        (
            "sip_uri,password,ha1,realm,role,site\nsip:a@p.test,x,00112233445566778899aabbccddeeff,r,,\n\
             sip:b@p.test,,xyz,,boss,A B\n",
            "u.csv:2: ha1: stands beside a password; one of them is enough\n\
             u.csv:3: ha1: not H(A1): accepted are 32 (MD5) or 64 (SHA-256) hexadecimal digits\n\
             u.csv:3: realm: empty; `ha1` is good for one realm only, which stands here\n\
             u.csv:3: role: `boss` is unknown; accepted: publisher, subscriber\n\
             u.csv:3: site: `A B` is no name; accepted: [a-z0-9][a-z0-9_.-]*",
        ),
        (
            "sip_uri,password\nsip:a@p.test,x\nsip:b@p.test,x\nsip:a@P.TEST,x\n",
            "u.csv:4: sip_uri: `sip:a@P.TEST` stands in line 2 already\n\
             u.csv:4: users pair up in order, and their count is odd (3): this one is alone",
        ),
        (
            "sip_uri,password,site\nsip:a@p.test,x,fra\nsip:b@p.test,x,syd\n",
            "u.csv:3: site: not the site of line 2, with which this user pairs up",
        ),
        (
            "sip_uri,password,role\nsip:a@p.test,x,publisher\nsip:b@p.test,x,\nsip:c@p.test,x,publisher\n",
            "u.csv:3: role: empty; once one user has a role, each needs one\n\
             u.csv:4: role: 2 publishers but 0 subscribers",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(bad(text), expected, "for {text:?}");
    }
}

#[test]
fn lines_are_those_of_the_file() {
    let text = "sip_uri,password\n\nsip:a@p.test,\"two\nlines\"\nsip:b@p.test,\n";
    let told = bad(text);
    assert!(told.contains("u.csv:3: password: longer than 512 bytes, or with control characters"), "{told}");
    assert!(told.contains("u.csv:5: password: empty"), "{told}");
}

#[test]
fn many_mistakes_are_counted_and_not_all_told() {
    let mut text = "sip_uri,password\n".to_owned();
    for n in 0..PROBLEMS_SHOWN + 50 {
        text.push_str(&format!("u{n}@p.test,x\n"));
    }
    let told = bad(&text);
    assert_eq!(told.lines().count(), PROBLEMS_SHOWN + 1);
    assert!(told.ends_with("u.csv: and 50 more mistakes"));
}

#[test]
fn bytes_that_are_no_text_are_a_mistake_of_their_row() {
    let error = read_csv("u.csv", b"sip_uri,password\nsip:a@p.test,\xff\nsip:b@p.test,x\n", Scheme::Auto);
    assert_eq!(error.unwrap_err().to_string(), "u.csv:2: the row cannot be read: it is not UTF-8");
}

#[test]
fn without_credentials_nobody_needs_a_password_column() {
    let text = b"sip_uri\nsip:a@p.test\nsip:b@p.test\n";
    assert!(read_csv("u.csv", text, Scheme::Trusted).is_ok());
    assert!(read_csv("u.csv", text, Scheme::Digest).is_err());
}

#[test]
fn secrets_are_in_no_debug_output() {
    let csv = b"sip_uri,password,ha1,realm\nsip:a@p.test,hunter2,,\n\
                sip:b@p.test,,00112233445566778899aabbccddeeff,p.test\n";
    let users = Users::File { from: "u.csv".into() };
    let population = population(&users, Scheme::Auto, csv, b"").unwrap();
    let Who::Rows(rows) = &population.who else { panic!("rows") };
    let shown = format!("{population:?} {rows:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("00112233"), "{shown}");
}

#[test]
fn one_password_for_all_comes_from_the_first_line_of_a_file() {
    let users = Users::Pattern {
        count: 4,
        pattern: "sip:u{n}@p.test".into(),
        password: adsum_coordinator::scenario::Password::File("secret.txt".into()),
        nt_domain: None,
    };
    let with = |content: &[u8]| population(&users, Scheme::Auto, b"", content);
    let Who::Pattern { password, .. } = with(b"\xef\xbb\xbfhunter2\r\nrest").unwrap().who else {
        panic!("pattern")
    };
    assert_eq!(password, "hunter2");
    for wrong in [&b""[..], b"\nx", b"\xff", b"br{ace"] {
        assert!(matches!(with(wrong), Err(UsersError::PasswordFile { file, .. }) if file == "secret.txt"));
    }
    assert!(!with(b"br{ace").unwrap_err().to_string().contains("br{ace"));
}

#[test]
fn addresses_are_those_of_rfc_3261() {
    for right in ["sip:a@p.test", "sip:+49-30.1@p.test", "sip:a%20b@p.test:5070", "sip:a@[::1]"] {
        assert!(check_uri(right).is_ok(), "{right}");
    }
    for wrong in [
        "sips:a@p.test",
        "sip:a@p.test;transport=tcp",
        "sip:ä@p.test",
        "sip:a@",
        "a@p.test",
        "<sip:a@p.test>",
    ] {
        assert!(check_uri(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_written_file_is_read_back_as_the_same_users() {
    let mut file = Vec::new();
    write_csv(&mut file, 4, "sip:user{n:03}@p.test", "a,\"b\"{n}").unwrap();
    let (pairs, _) = good(&file);
    let last = &pairs[1].subscriber;
    assert_eq!((last.sip_uri.as_str(), last.auth_user.as_str()), ("sip:user004@p.test", "user004"));
    assert_eq!(last.password, "a,\"b\"4");
    assert!(write_csv(Vec::new(), 2, "user{n}", "x").is_err());
    assert!(write_csv(Vec::new(), 2, "sip:u{n}@p.test", "{x}").is_err());
}
