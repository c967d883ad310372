//! NTLM against other implementations (impacket and pyspnego of PyPI): they take our
//! answers and sign as we do, and we take their answers; pyspnego also with a MIC.
//!
//! It needs python3 with venv and the network, once; without them the test says so
//! and tests nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use adsum_sip::ntlm::{
    Authenticate, Challenge, Client, Keys, NtlmError, SPOKEN, Side, authenticate, nt_hash, write_target_info,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

const TEXT: &str = "<NTLM><5a5a0001><1><SIP Communications Service><ref.loadlab.test><c0ffee01@pub00001><3><REGISTER>\
    <sip:pub00001@loadlab.test><t1a2b3c4d><sip:pub00001@loadlab.test><><><><>";

/// A python with both, made on the first call.
fn python() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ntlm");
    let python = folder.join("bin/python");
    let has_it = || {
        let asked = Command::new(&python)
            .args(["-c", "import impacket.ntlm, spnego._ntlm"])
            .stderr(Stdio::null())
            .status();
        asked.is_ok_and(|status| status.success())
    };
    if has_it() {
        return Some(python);
    }
    let run = |program: &std::path::Path, args: &[&str]| {
        Command::new(program).args(args).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let made = run("python3".as_ref(), &["-m", "venv", &folder.to_string_lossy()])
        && run(
            &python,
            &[
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "impacket",
                "pyspnego==0.12.4",
            ],
        );
    if made && has_it() {
        return Some(python);
    }
    eprintln!(
        "NOT TESTED: no python3 with venv, impacket and pyspnego (python3 -m venv, pip install impacket pyspnego)"
    );
    None
}

/// What it says to one line, by first word.
fn ask(python: &PathBuf, line: &str) -> Vec<(String, String)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/ntlm.py");
    let mut child =
        Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{line}").unwrap();
    let said: Vec<_> = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.split_once(' ').map(|(word, rest)| (word.to_owned(), rest.to_owned())))
        .collect();
    assert!(child.wait().unwrap().success(), "{said:?}");
    said
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn word<'a>(said: &'a [(String, String)], name: &str) -> &'a str {
    &said.iter().find(|(word, _)| word == name).unwrap_or_else(|| panic!("no {name}: {said:?}")).1
}

fn signs_alike(keys: &Keys, said: &[(String, String)]) {
    for (side, name) in [(Side::Client, "Client"), (Side::Server, "Server")] {
        assert_eq!(hex(&keys.sign(side, TEXT.as_bytes())), word(said, name), "{name}");
    }
}

#[test]
fn another_implementation_agrees() {
    let Some(python) = python() else { return };
    for (user, domain, password) in
        [("pub00001", "LOADLAB", "Pl3nty-Of-Load"), ("Jürgen", "Labor", "pä$$:wörd"), ("a@b.test", "''", "x")]
    {
        let domain = if domain == "''" { "" } else { domain };
        let mut info = Vec::new();
        let time = Some(133_000_000_000_000_000u64.to_le_bytes());
        write_target_info("LOADLAB", "REFSRV", "loadlab.test", "ref.loadlab.test", time, false, &mut info);
        let name: Vec<u8> = "LOADLAB".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let nonce = [9, 8, 7, 6, 5, 4, 3, 2];
        let challenge =
            Challenge { flags: SPOKEN, nonce, target_name: &name, target_info: &info, bytes: b"" };
        let mut bytes = Vec::new();
        challenge.write(&mut bytes);
        let offer = BASE64_STANDARD.encode(&bytes);
        let text = hex(TEXT.as_bytes());

        let client = Client {
            user,
            domain,
            workstation: "LOADGEN",
            nt_hash: nt_hash(password),
            nonce: [1; 8],
            time: [0; 8],
            session_key: [0x5a; 16],
        };
        let mut ours = Vec::new();
        let keys = authenticate(&challenge, &client, &mut ours);
        if !domain.is_empty() {
            let ours = BASE64_STANDARD.encode(&ours);
            let said = ask(&python, &format!("verify {offer} {ours} {user} {domain} {password} {text}"));
            assert_eq!((word(&said, "proof"), word(&said, "names")), ("right", "right"), "{user}");
            signs_alike(&keys, &said);

            let said = ask(&python, &format!("answer {offer} {user} {domain} {password} {text}"));
            let theirs = BASE64_STANDARD.decode(word(&said, "authenticate")).unwrap();
            let answer = Authenticate::read(&theirs).unwrap();
            assert_eq!((&*answer.user, &*answer.domain), (user, domain));
            let keys = answer.verify(&challenge, &nt_hash(password)).unwrap();
            signs_alike(&keys, &said);
            assert!(answer.verify(&challenge, &nt_hash("another")).is_err());
        }
        // Our own server takes it, too, with an empty domain as well.
        assert!(Authenticate::read(&ours).unwrap().verify(&challenge, &nt_hash(password)).unwrap() == keys);
    }
}

/// The MIC, both ways: ours where the challenge asks for it, pyspnego's because there is a timestamp.
#[test]
fn another_implementation_agrees_on_the_mic() {
    let Some(python) = python() else { return };
    let (user, domain, password) = ("pub00001", "LOADLAB", "Pl3nty-Of-Load");
    let text = hex(TEXT.as_bytes());
    for asks in [true, false] {
        let (mut info, mut bytes) = (Vec::new(), Vec::new());
        let time = Some(133_000_000_000_000_000u64.to_le_bytes());
        write_target_info("LOADLAB", "REFSRV", "loadlab.test", "ref.loadlab.test", time, asks, &mut info);
        let name: Vec<u8> = "LOADLAB".encode_utf16().flat_map(u16::to_le_bytes).collect();
        Challenge { flags: SPOKEN, nonce: [7; 8], target_name: &name, target_info: &info, bytes: b"" }
            .write(&mut bytes);
        let challenge = Challenge::read(&bytes).unwrap();
        let offer = BASE64_STANDARD.encode(&bytes);
        let client = Client {
            user,
            domain,
            workstation: "LOADGEN",
            nt_hash: nt_hash(password),
            nonce: [1; 8],
            time: [0; 8],
            session_key: [0x5a; 16],
        };
        let mut ours = Vec::new();
        let keys = authenticate(&challenge, &client, &mut ours);
        let mut changed = ours.clone();
        changed[64] ^= 1; // its version: no response covers it
        let ask_about = |message: &[u8]| {
            let message = BASE64_STANDARD.encode(message);
            ask(&python, &format!("verify_mic {offer} {message} {user} {domain} {password} {text}"))
        };
        let said = ask_about(&ours);
        assert_eq!(word(&said, "proof"), "right", "{said:?}");
        signs_alike(&keys, &said);
        if asks {
            assert_eq!(word(&said, "mic"), hex(&ours[72..88]));
            assert!(word(&ask_about(&changed), "refused").contains("MIC"));
        } else {
            assert_eq!(word(&said, "mic"), "none");
            // Nobody minds then.
            assert_eq!(word(&ask_about(&changed), "proof"), "right");
        }

        let said = ask(&python, &format!("answer_mic {offer} {user} {domain} {password} {text}"));
        let theirs = BASE64_STANDARD.decode(word(&said, "authenticate")).unwrap();
        let answer = Authenticate::read(&theirs).unwrap();
        assert!(answer.has_mic());
        let keys = answer.verify(&challenge, &nt_hash(password)).unwrap();
        signs_alike(&keys, &said);
        let mut changed = theirs.clone();
        changed[64] ^= 1;
        let refused = Authenticate::read(&changed).unwrap().verify(&challenge, &nt_hash(password));
        assert_eq!(refused, Err(NtlmError::WrongMic));
    }
}
