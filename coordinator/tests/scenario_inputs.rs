//! The files that a scenario names are found beside it, and all that are missing are told.

use adsum_coordinator::scenario::{Inputs, Options, Scenario, read};

fn scenario(users: &str) -> Scenario {
    let text = format!(
        "schema = 1\nname = \"files\"\n[pool]\ntarget = \"127.0.0.1\"\ntransport = \"tls\"\n\
         tls = {{ ca = \"ca.pem\", cert = \"c.pem\", key = \"sub/k.pem\" }}\n[users]\n{users}\n[workload]\nkind = \"held\"\n\
         [[step]]\nname = \"a\"\nrate = \"1/s\"\nhold = \"1s\"\n"
    );
    read("files.toml", &text, Options { sets: &[], env: &|_| None }).unwrap().scenario
}

#[test]
fn files_are_read_from_the_folder_of_the_scenario() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    for (name, content) in
        [("ca.pem", "CA"), ("c.pem", "C"), ("sub/k.pem", "K"), ("u.csv", "U"), ("p.txt", "P")]
    {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    let by_file = Inputs::load(&scenario("from = \"u.csv\""), dir.path()).unwrap();
    assert_eq!((&by_file.users_csv[..], &by_file.password_file[..]), (&b"U"[..], &b""[..]));
    assert_eq!(
        (&by_file.ca_pem[..], &by_file.cert_pem[..], &by_file.key_pem[..]),
        (&b"CA"[..], &b"C"[..], &b"K"[..])
    );
    let pattern = "count = 2\npattern = \"sip:u{n}@p.test\"\npassword_file = \"p.txt\"";
    let by_pattern = Inputs::load(&scenario(pattern), dir.path()).unwrap();
    assert_eq!((&by_pattern.users_csv[..], &by_pattern.password_file[..]), (&b""[..], &b"P"[..]));
    assert!(!format!("{by_pattern:?}").contains('P'), "{by_pattern:?}");
}

#[test]
fn every_missing_file_is_told_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c.pem"), "C").unwrap();
    let errors = Inputs::load(&scenario("from = \"u.csv\""), dir.path()).unwrap_err();
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    for (line, key) in told.iter().zip(["users.from", "pool.tls.ca", "pool.tls.key"]) {
        assert!(line.starts_with(&format!("`{key}` = ")) && line.contains("No such file"), "{line}");
    }
}
