//! Held users that can never sign on: the run says so at once. What may pass by
//! itself is waited for, as a pool that is overloaded or being restarted is.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair};
use support::{PoolProcess, SmallServer, adsum, code, err};

fn held(dir: &Path, dialect: &str, pool: &str, users: &str) -> (i32, String, Duration) {
    let text = format!(
        "schema = 1\nname = \"held\"\ndialect = \"{dialect}\"\n[pool]\n{pool}\n[users]\ncount = 400\n\
         pattern = \"sip:{users}{{n:06}}@pool.test\"\npassword_pattern = \"pw-{users}{{n:06}}\"\n\
         [workload]\nkind = \"held\"\n[warmup]\nregister_rate = \"50/s\"\n\
         [[step]]\nname = \"one\"\nrate = \"10/s\"\nhold = \"1s\"\n"
    );
    let (file, results) = (dir.join("held.toml"), dir.join("held"));
    std::fs::write(&file, text).unwrap();
    drop(std::fs::remove_dir_all(&results));
    let (file, results) = (file.to_str().unwrap(), results.to_str().unwrap());
    let began = Instant::now();
    let output = adsum(&["run", file, "--out", results, "--plain", "--shards", "1"]);
    (code(&output), err(&output), began.elapsed())
}

#[test]
fn users_that_nobody_knows_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for (dialect, transport) in [("simple", "udp"), ("lync", "tcp")] {
        let pool = PoolProcess::start(&["--dialect", dialect]);
        let target = format!("target = \"{}\"\ntransport = \"{transport}\"", pool.address);
        let (code, said, took) = held(dir.path(), dialect, &target, "nobody");
        assert_eq!(code, 4, "{said}");
        assert!(said.contains("the run could not start") && said.contains("enabled for SIP"), "{said}");
        // At 50 a second the twentieth is refused long before the last has tried.
        assert!(took < Duration::from_secs(6), "{took:?}");
    }
}

#[test]
fn a_pool_that_is_not_trusted_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pool = PoolProcess::start(&["--dialect", "lync"]);
    let ca = dir.path().join("other.pem");
    let other = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&ca, other.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()).unwrap();
    let target = format!("target = \"{}\"\ntls = {{ ca = {ca:?} }}", pool.tls);
    let (code, said, took) = held(dir.path(), "lync", &target, "user");
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("not signed by a CA that is trusted here"), "{said}");
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn what_may_pass_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = SmallServer::start(|_| "503 Service Unavailable\r\nRetry-After: 1\r\n".to_owned());
    let target = format!("target = \"{}\"", server.address);
    let mut child = {
        let text = format!(
            "schema = 1\nname = \"held\"\n[pool]\n{target}\n[users]\ncount = 4\npattern = \"sip:user{{n:06}}@pool.test\"\n\
             password_pattern = \"x\"\n[workload]\nkind = \"held\"\n[[step]]\nname = \"one\"\nrate = \"10/s\"\nhold = \"1s\"\n"
        );
        let file = dir.path().join("waits.toml");
        std::fs::write(&file, text).unwrap();
        let out = dir.path().join("waits");
        let args =
            ["run", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--plain", "--shards", "1"];
        let mut command = support::command(&args);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    std::thread::sleep(Duration::from_secs(8));
    assert!(child.try_wait().unwrap().is_none(), "it gave up on a pool that was out of service");
    // Each user asked more than once.
    assert!(server.requests().len() > 8, "{}", server.requests().len());
    support::signal(&child, "INT");
    child.wait().unwrap();
}
