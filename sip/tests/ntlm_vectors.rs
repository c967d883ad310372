//! The NTLM vectors of the protocol guide: keys, messages and signatures byte for
//! byte, and what the server's side makes of them.

use adsum_sip::ntlm::{
    Authenticate, Challenge, Client, Keys, NtlmError, SPOKEN, Side, authenticate, flag, nt_hash,
    write_target_info,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

const CHALLENGE: &str = "TlRMTVNTUAACAAAADgAOADgAAABVgpniASNFZ4mrze8AAAAAAAAAAGYAZgBGAAAABgGxHQAAAA9MAE8AQQBEAEwAQQBC\
    AAIADgBMAE8AQQBEAEwAQQBCAAEADABSAEUARgBTAFIAVgAEABgAbABvAGEAZABsAGEAYgAuAHQAZQBzAHQAAwAgAHIAZQBmAC4AbABvAGEAZABs\
    AGEAYgAuAHQAZQBzAHQAAAAAAA==";
const AUTHENTICATE: &str = "TlRMTVNTUAADAAAAGAAYAHQAAACWAJYAjAAAAA4ADgBIAAAAEAAQAFYAAAAOAA4AZgAAABAAEAAiAQAAVYKY4gYBsR0A\
    AAAPTABPAEEARABMAEEAQgBwAHUAYgAwADAAMAAwADEATABPAEEARABHAEUATgBFTUK+CLVqkkqiYw05kaq0qrvM3e7/ABH0s9Y5a/PsQQUkN8iB\
    LGG2AQEAAAAAAAAAgNbFoc3YAaq7zN3u/wARAAAAAAIADgBMAE8AQQBEAEwAQQBCAAEADABSAEUARgBTAFIAVgAEABgAbABvAGEAZABsAGEAYgAu\
    AHQAZQBzAHQAAwAgAHIAZQBmAC4AbABvAGEAZABsAGEAYgAuAHQAZQBzAHQAAAAAAAAAAAA6KPe0h8XVkepGMAAXckxI";

const CHALLENGE_FLAGS: u32 = 0xe299_8255;
const NONCE: [u8; 8] = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
const SESSION_KEY: [u8; 16] =
    [0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];

fn client() -> Client<'static> {
    Client {
        user: "pub00001",
        domain: "LOADLAB",
        workstation: "LOADGEN",
        nt_hash: nt_hash("Pl3nty-Of-Load"),
        nonce: [0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x00, 0x11],
        time: [0x00, 0x80, 0xd6, 0xc5, 0xa1, 0xcd, 0xd8, 0x01],
        session_key: SESSION_KEY,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn keys() -> Keys {
    Keys::new(&SESSION_KEY, SPOKEN)
}

#[test]
fn the_challenge_is_read_and_written() {
    let bytes = BASE64_STANDARD.decode(CHALLENGE).unwrap();
    let challenge = Challenge::read(&bytes).unwrap();
    assert_eq!((challenge.flags, challenge.nonce), (CHALLENGE_FLAGS, NONCE));
    assert_eq!(challenge.target_name, utf16("LOADLAB"));
    assert_eq!(challenge.timestamp(), None);
    let mut info = Vec::new();
    write_target_info("LOADLAB", "REFSRV", "loadlab.test", "ref.loadlab.test", None, false, &mut info);
    assert_eq!(challenge.target_info, info);
    let mut written = Vec::new();
    challenge.write(&mut written);
    assert_eq!(hex(&written), hex(&bytes));
}

#[test]
fn the_answer_is_the_one_of_the_vectors() {
    let bytes = BASE64_STANDARD.decode(CHALLENGE).unwrap();
    let mut out = Vec::new();
    let keys = authenticate(&Challenge::read(&bytes).unwrap(), &client(), &mut out);
    assert_eq!(BASE64_STANDARD.encode(&out), AUTHENTICATE);
    assert!(keys == self::keys());
}

#[test]
fn a_timestamp_of_the_server_takes_the_place_of_ours() {
    let (mut info, time) = (Vec::new(), [9, 8, 7, 6, 5, 4, 3, 2]);
    write_target_info("LOADLAB", "REFSRV", "loadlab.test", "ref.loadlab.test", Some(time), false, &mut info);
    let name = utf16("LOADLAB");
    let challenge = Challenge {
        flags: CHALLENGE_FLAGS,
        nonce: NONCE,
        target_name: &name,
        target_info: &info,
        bytes: b"",
    };
    assert_eq!(challenge.timestamp(), Some(time));
    let mut out = Vec::new();
    let _ = authenticate(&challenge, &client(), &mut out);
    assert!(out.windows(8).any(|window| window == time));
    assert!(!out.windows(8).any(|window| window == client().time));
    assert!(Authenticate::read(&out).unwrap().verify(&challenge, &client().nt_hash).is_ok());
}

#[test]
fn the_server_takes_the_right_password_only() {
    let bytes = BASE64_STANDARD.decode(AUTHENTICATE).unwrap();
    let answer = Authenticate::read(&bytes).unwrap();
    assert_eq!((&*answer.user, &*answer.domain, &*answer.workstation), ("pub00001", "LOADLAB", "LOADGEN"));
    let bytes = BASE64_STANDARD.decode(CHALLENGE).unwrap();
    let challenge = Challenge::read(&bytes).unwrap();
    let verified = answer.verify(&challenge, &nt_hash("Pl3nty-Of-Load")).unwrap();
    assert!(verified == keys());
    let wrong = [
        answer.verify(&challenge, &nt_hash("pl3nty-of-load")),
        answer.verify(&Challenge { nonce: [0; 8], ..challenge }, &nt_hash("Pl3nty-Of-Load")),
    ];
    assert_eq!(wrong, [Err(NtlmError::WrongResponse), Err(NtlmError::WrongResponse)]);
}

/// A challenge whose target info asks for a MIC.
fn asking() -> Vec<u8> {
    let (mut info, mut out) = (Vec::new(), Vec::new());
    write_target_info("LOADLAB", "REFSRV", "loadlab.test", "ref.loadlab.test", None, true, &mut info);
    let name = utf16("LOADLAB");
    Challenge { flags: CHALLENGE_FLAGS, nonce: NONCE, target_name: &name, target_info: &info, bytes: b"" }
        .write(&mut out);
    out
}

#[test]
fn a_mic_covers_both_messages() {
    let bytes = asking();
    let challenge = Challenge::read(&bytes).unwrap();
    let mut out = Vec::new();
    let keys = authenticate(&challenge, &client(), &mut out);
    // By hand: HMAC-MD5 under the session key over both, the MIC itself as zeros.
    let mut mac = <hmac::Hmac<md5::Md5> as hmac::KeyInit>::new_from_slice(&SESSION_KEY).unwrap();
    for piece in [&bytes[..], &out[..72], &[0; 16], &out[88..]] {
        hmac::Mac::update(&mut mac, piece);
    }
    assert_eq!(hex(&out[72..88]), hex(&hmac::Mac::finalize(mac).into_bytes()));
    let password = client().nt_hash;
    let answer = Authenticate::read(&out).unwrap();
    assert!(answer.has_mic() && answer.verify(&challenge, &password).unwrap() == keys);
    // One bit of it, of what it covers and no response does, or of the challenge.
    for at in [72, 87, 64, 90] {
        let mut changed = out.clone();
        changed[at] ^= 1;
        let answer = Authenticate::read(&changed).unwrap();
        let expected = if at == 90 { NtlmError::WrongResponse } else { NtlmError::WrongMic };
        assert_eq!(answer.verify(&challenge, &password), Err(expected), "{at}");
    }
    let mut other = bytes.clone();
    other[48] ^= 1; // its version
    let other = Challenge::read(&other).unwrap();
    assert_eq!(answer.verify(&other, &password), Err(NtlmError::WrongMic));
    assert_eq!(other.asks_for_mic(), challenge.asks_for_mic());
}

#[test]
fn a_mic_that_was_asked_for_has_to_be_there_and_one_that_is_there_is_checked() {
    let bytes = asking();
    let challenge = Challenge::read(&bytes).unwrap();
    let plain = BASE64_STANDARD.decode(CHALLENGE).unwrap();
    let plain = Challenge::read(&plain).unwrap();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let _ = authenticate(&challenge, &client(), &mut with);
    let _ = authenticate(&plain, &client(), &mut without);
    let answer = Authenticate::read(&without).unwrap();
    assert!(!answer.has_mic() && answer.verify(&plain, &client().nt_hash).is_ok());
    assert_eq!(answer.verify(&challenge, &client().nt_hash), Err(NtlmError::WrongMic));
    // Nobody asked: it is announced all the same, and covers another challenge.
    let answer = Authenticate::read(&with).unwrap();
    assert_eq!(answer.verify(&plain, &client().nt_hash), Err(NtlmError::WrongMic));
}

#[test]
fn a_challenge_that_agrees_to_too_little_says_what_lacks() {
    let bytes = BASE64_STANDARD.decode(CHALLENGE).unwrap();
    for (flag, name) in [(flag::KEY_EXCHANGE, "KEY_EXCH"), (flag::TARGET_INFO, "TARGET_INFO")] {
        let mut challenge = Challenge::read(&bytes).unwrap();
        challenge.flags &= !flag;
        let mut out = Vec::new();
        challenge.write(&mut out);
        let error = Challenge::read(&out).unwrap_err();
        assert_eq!(error, NtlmError::Flag(name));
        assert!(error.to_string().contains(name));
    }
}

/// Texts and signatures of the guide, §8.4.
const SIGNED: [(Side, &str, &str); 5] = [
    (
        Side::Client,
        "<NTLM><5a5a0001><1><SIP Communications Service><ref.loadlab.test><c0ffee01@pub00001><3><REGISTER>\
         <sip:pub00001@loadlab.test><t1a2b3c4d><sip:pub00001@loadlab.test><><><><>",
        "0100000066b16a63e381371d64000000",
    ),
    (
        Side::Server,
        "<NTLM><7B7B0002><1><SIP Communications Service><ref.loadlab.test><c0ffee01@pub00001><3><REGISTER>\
         <sip:pub00001@loadlab.test><t1a2b3c4d><sip:pub00001@loadlab.test><S9F8E7D6C><><><600><200>",
        "010000006e572b29eeaa1e8a64000000",
    ),
    (
        Side::Client,
        "<NTLM><5a5a000b><11><SIP Communications Service><ref.loadlab.test><c0ffee01@pub00001><4><REGISTER>\
         <sip:pub00001@loadlab.test><t1a2b3c4d><sip:pub00001@loadlab.test><><><><0>",
        "0100000073c66a6445997c8a64000000",
    ),
    (
        Side::Server,
        "<NTLM><7B7B0009><9><SIP Communications Service><ref.loadlab.test><pres-sub00001-01><2><BENOTIFY>\
         <sip:sub00001@loadlab.test><8A0B0099><sip:sub00001@loadlab.test><ps01><><><>",
        "010000000447c7cedbf090e964000000",
    ),
    (
        Side::Client,
        "<NTLM><5a5a0007><7><SIP Communications Service><ref.loadlab.test><pres-sub00001-01><2><NOTIFY>\
         <sip:sub00001@loadlab.test><8A0B0099><sip:sub00001@loadlab.test><ps01><><><><200>",
        "01000000d454f17bed9797b764000000",
    ),
];

#[test]
fn signatures_are_those_of_the_vectors() {
    for (side, text, signature) in SIGNED {
        assert_eq!(hex(&keys().sign(side, text.as_bytes())), signature, "{text}");
    }
    let old = Keys::new(&SESSION_KEY, SPOKEN & !flag::EXTENDED_SESSION_SECURITY);
    let text = "<NTLM><5a5a0001><1><SIP Communications Service><ref.loadlab.test><c0ffee01@pub00001><3><REGISTER>\
        <sip:pub00001@loadlab.test><t1a2b3c4d><><>";
    assert_eq!(hex(&old.sign(Side::Client, text.as_bytes())), "01000000000000008384d1d69c59b93b");
}

#[test]
fn the_published_key_lengths_differ() {
    let [full, half, least] = [flag::KEY_128, flag::KEY_56, 0].map(|length| {
        let flags = SPOKEN & !(flag::KEY_128 | flag::KEY_56) | length;
        Keys::new(&SESSION_KEY, flags).sign(Side::Client, b"text")
    });
    assert!(full != half && half != least && full != least);
}
