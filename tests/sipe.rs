//! The embedded pool against a client that others wrote: pidgin-sipe, without
//! a screen. Skipped, and said so, when its packages are not there;
//! `tests/sipe/README.md` names them.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PLUGIN: &str = "/usr/lib/purple-2/libsipe.so";

/// Flags of a package for the compiler; `None` if it is not there.
fn flags(package: &str) -> Option<Vec<String>> {
    let output = Command::new("pkg-config").args(["--cflags", "--libs", package]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.split_whitespace().map(str::to_owned).collect())
}

/// Builds client and helper; why not, if something is missing.
fn build(dir: &Path) -> Result<(), String> {
    if !Path::new(PLUGIN).exists() {
        return Err(format!("{PLUGIN} is not there"));
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sipe");
    for (package, file, target, shared) in
        [("purple", "client.c", "client", &[][..]), ("libxml-2.0", "sax.c", "sax.so", &["-shared", "-fPIC"])]
    {
        let flags = flags(package).ok_or_else(|| format!("pkg-config does not find {package}"))?;
        let built = Command::new("cc")
            .args(["-O1", "-w", "-o"])
            .arg(dir.join(target))
            .args(shared)
            .arg(source.join(file))
            .args(flags)
            .output()
            .map_err(|e| format!("cc: {e}"))?;
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
    Ok(())
}

struct Pool {
    child: Child,
    tcp: String,
    tls: String,
}

impl Pool {
    fn start(dir: &Path) -> Pool {
        let mut child = Command::new(env!("CARGO_BIN_EXE_adsum"))
            .args([
                "pool",
                "--listen",
                "127.0.0.1:0",
                "--tls-listen",
                "127.0.0.1:0",
                "--dialect",
                "lync",
                "--tls-dir",
            ])
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let word = |key: &str| {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(key));
            found.unwrap_or_else(|| panic!("{line}")).to_owned()
        };
        Pool { tcp: word("udp,tcp="), tls: word("tls="), child }
    }

    /// Ends it; what it counted.
    fn stop(mut self) -> String {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What the client has to say, in this order, with whatever else in between.
const EXPECTED: [&str; 8] = [
    "signed on user00000",
    "signed on user00000",
    "user000001 sees sip:user000002@pool.test available",
    "user000002 becomes busy",
    "user000001 sees sip:user000002@pool.test busy",
    "signing off user000002",
    "user000001 sees sip:user000002@pool.test offline",
    "signing off user000001",
];

fn converse(transport: &str) {
    let dir = tempfile::tempdir().unwrap();
    if let Err(reason) = build(dir.path()) {
        eprintln!("skipped {transport}: {reason}; tests/sipe/README.md names the packages");
        return;
    }
    let certificates = dir.path().join("tls");
    let pool = Pool::start(&certificates);
    // The certificate is for a name, and the client looks at it.
    let address = match transport {
        "tls" => pool.tls.replace("127.0.0.1", "localhost"),
        _ => pool.tcp.clone(),
    };
    let output = Command::new(dir.path().join("client"))
        .args([&address, transport, "pool.test"])
        .arg(&certificates)
        .env("LD_PRELOAD", dir.path().join("sax.so"))
        .env("HOME", dir.path())
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if std::env::var_os("ADSUM_SIPE_DEBUG").is_some() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let counted = pool.stop();
    let mut lines = said.lines();
    for expected in EXPECTED {
        assert!(lines.any(|line| line.starts_with(expected)), "no `{expected}` in\n{said}\n{counted}");
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    for wanted in ["REGISTER 200 x4", "associations 2", "challenged 2", "INVITE 501 x2"] {
        assert!(counted.contains(wanted), "no `{wanted}` in {counted}");
    }
    for unwanted in
        ["bad signatures", "wrong credentials", "malformed", "refused", "conflicts", "409", "481", "400"]
    {
        assert!(!counted.contains(unwanted), "`{unwanted}` in {counted}");
    }
}

#[test]
fn over_tcp_two_users_see_each_other() {
    converse("tcp");
}

#[test]
fn over_tls_two_users_see_each_other() {
    converse("tls");
}
