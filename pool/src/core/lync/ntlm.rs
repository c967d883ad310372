//! NTLM on the server's side ([MS-NLMP]), connectionless as SIP uses it: there
//! is no NEGOTIATE, and each message is signed by itself.
//!
//! The client's side is in `adsum_sip`; that this one is written apart makes each the other's check.

use hmac::{Hmac, KeyInit as _, Mac as _};
use md4::{Digest as _, Md4};
use md5::Md5;
use rc4::{Rc4, StreamCipher as _};

/// Sixteen octets: a hash or a key.
pub(super) type Key = [u8; 16];

const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";
const UNICODE: u32 = 0x1;
const SEALS_56: u32 = 0x8000_0000;
const KEY_EXCHANGE: u32 = 0x4000_0000;
const SEALS_128: u32 = 0x2000_0000;
const VERSION: u32 = 0x0200_0000;
const TARGET_INFO: u32 = 0x0080_0000;
const IDENTIFY: u32 = 0x0010_0000;
const EXTENDED: u32 = 0x0008_0000;
const TARGET_IS_DOMAIN: u32 = 0x0001_0000;
const ALWAYS_SIGN: u32 = 0x8000;
const NTLM: u32 = 0x200;
const DATAGRAM: u32 = 0x40;
const SIGN: u32 = 0x10;
const REQUEST_TARGET: u32 = 0x4;
/// What a challenge offers: all that known clients insist on.
pub(super) const OFFERED: u32 = UNICODE
    | REQUEST_TARGET
    | SIGN
    | DATAGRAM
    | NTLM
    | ALWAYS_SIGN
    | TARGET_IS_DOMAIN
    | EXTENDED
    | IDENTIFY
    | TARGET_INFO
    | VERSION
    | SEALS_128
    | KEY_EXCHANGE
    | SEALS_56;
/// What an answer has to agree to: without these its signatures would be of the
/// old kind, which nobody speaks who can do better.
const REQUIRED: u32 = UNICODE | EXTENDED;
/// Windows 6.1.7601, revision 15: what servers of that time say.
const VERSION_BYTES: [u8; 8] = [6, 1, 0xb1, 0x1d, 0, 0, 0, 15];
/// Octets of an AUTHENTICATE: names and a response have some hundreds.
const MAX_AUTHENTICATE: usize = 8 * 1024;
/// The sequence number in every signature, in both directions.
const SEQUENCE: [u8; 4] = 100u32.to_le_bytes();

/// UTF-16LE.
fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Md5>::new_from_slice(key) else { return [0; 16] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn md5(parts: &[&[u8]]) -> Key {
    parts.iter().fold(Md5::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

fn rc4(key: &[u8], data: &mut [u8]) {
    if let Ok(mut cipher) = Rc4::new_from_slice(key) {
        cipher.apply_keystream(data);
    }
}

/// A CHALLENGE of ours ([MS-NLMP] §2.2.1.2) to this nonce.
pub(super) fn challenge(nonce: [u8; 8], nt_domain: &str, dns_domain: &str, host: &str) -> Vec<u8> {
    let target = wide(nt_domain);
    let mut info = Vec::new();
    let computer = host.split('.').next().unwrap_or(host).to_ascii_uppercase();
    for (id, text) in [(2u16, nt_domain), (1, &computer), (4, dns_domain), (3, host)] {
        let text = wide(text);
        info.extend_from_slice(&id.to_le_bytes());
        info.extend_from_slice(&(text.len() as u16).to_le_bytes());
        info.extend_from_slice(&text);
    }
    info.extend_from_slice(&[0; 4]);
    let field = |length: usize, offset: usize| {
        let length = (length as u16).to_le_bytes();
        [length[0], length[1], length[0], length[1], offset as u8, (offset >> 8) as u8, 0, 0]
    };
    let mut out = SIGNATURE.to_vec();
    out.extend_from_slice(&2u32.to_le_bytes());
    out.extend_from_slice(&field(target.len(), 56));
    out.extend_from_slice(&OFFERED.to_le_bytes());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&field(info.len(), 56 + target.len()));
    out.extend_from_slice(&VERSION_BYTES);
    out.extend_from_slice(&target);
    out.extend_from_slice(&info);
    out
}

/// An AUTHENTICATE (§2.2.1.3), as far as a server needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authenticate {
    pub(super) domain: String,
    pub(super) user: String,
    /// NTProof, and the blob that it is over.
    response: Vec<u8>,
    /// The exported session key under the key exchange key; empty without an exchange.
    key: Vec<u8>,
    flags: u32,
}

impl Authenticate {
    /// `None` for what is malformed, or agrees to less than is required.
    pub(super) fn read(bytes: &[u8]) -> Option<Authenticate> {
        let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let field = |at: usize| {
            let length = usize::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
            let offset = number(at + 4)? as usize;
            bytes.get(offset..offset.checked_add(length)?)
        };
        let text = |at: usize| {
            let (units, rest) = field(at)?.as_chunks::<2>();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
            rest.is_empty().then(|| String::from_utf16(&units).ok())?
        };
        (bytes.len() <= MAX_AUTHENTICATE && bytes.starts_with(SIGNATURE) && number(8)? == 3).then_some(())?;
        let flags = number(60)? & OFFERED;
        (flags & REQUIRED == REQUIRED).then_some(())?;
        Some(Authenticate {
            domain: text(28)?,
            user: text(36)?,
            response: field(20)?.to_vec(),
            key: if flags & KEY_EXCHANGE == 0 { Vec::new() } else { field(52)?.to_vec() },
            flags,
        })
    }

    /// Checks the NTLMv2 response (§3.3.2); the keys if it is right. A MIC is
    /// not looked at: it would be over a NEGOTIATE that was never sent.
    pub(super) fn verify(&self, nonce: [u8; 8], password: &str) -> Option<Keys> {
        let hash: Key = Md4::digest(wide(password)).into();
        let owf = hmac(&hash, &[&wide(&self.user.to_uppercase()), &wide(&self.domain)]);
        // An NTLMv1 response has 24 octets; the blob of a v2 has 28 at least.
        let (proof, blob) = self.response.split_first_chunk::<16>().filter(|(_, blob)| blob.len() >= 28)?;
        let expected = hmac(&owf, &[&nonce, blob]);
        let differs = expected.iter().zip(proof).fold(0, |differs, (a, b)| differs | (a ^ b));
        (differs == 0).then_some(())?;
        let base = hmac(&owf, &[proof]);
        let session = if self.flags & KEY_EXCHANGE == 0 {
            base
        } else {
            let mut session: Key = self.key.as_slice().try_into().ok()?;
            rc4(&base, &mut session);
            session
        };
        Some(Keys {
            client: Direction::new(&session, "client-to-server", self.flags),
            server: Direction::new(&session, "server-to-client", self.flags),
        })
    }
}

/// The keys of a security association.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// Under which the client signs.
    pub(super) client: Direction,
    /// Under which we do.
    pub(super) server: Direction,
}

/// The keys of one direction (§3.4.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Direction {
    sign: Key,
    /// Made anew for each message from the sealing key, as there is no order
    /// among datagrams; and as their number is always the same, so is it.
    seal: Option<Key>,
}

impl Direction {
    fn new(session: &Key, direction: &str, flags: u32) -> Self {
        let magic = |kind: &str| format!("session key to {direction} {kind} key magic constant\0");
        let length = match flags {
            _ if flags & SEALS_128 != 0 => 16,
            _ if flags & SEALS_56 != 0 => 7,
            _ => 5,
        };
        let seal = md5(&[&session[..length], magic("sealing").as_bytes()]);
        let exchanged = flags & KEY_EXCHANGE != 0;
        Direction {
            sign: md5(&[session, magic("signing").as_bytes()]),
            seal: exchanged.then(|| md5(&[&seal, &SEQUENCE])),
        }
    }

    /// The signature of a text (§3.4.4.2), in hex.
    pub(super) fn signature(&self, text: &[u8]) -> [u8; 32] {
        let mut mac = [0; 8];
        mac.copy_from_slice(&hmac(&self.sign, &[&SEQUENCE, text])[..8]);
        if let Some(seal) = &self.seal {
            rc4(seal, &mut mac);
        }
        let mut out = *b"01000000................64000000";
        for (at, octet) in mac.into_iter().enumerate() {
            let digit = |n: u8| b"0123456789abcdef"[usize::from(n & 15)];
            (out[8 + 2 * at], out[9 + 2 * at]) = (digit(octet >> 4), digit(octet));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    // Protocol guide §8.3 and §8.4.
    const CHALLENGE: &str = "TlRMTVNTUAACAAAADgAOADgAAABVgpniASNFZ4mrze8AAAAAAAAAAGYAZgBGAAAABgGxHQAAAA9MAE8AQQBEAEwAQQBCAAIADgBMAE8AQQBEAEwAQQBCAAEADABSAEUARgBTAFIAVgAEABgAbABvAGEAZABsAGEAYgAuAHQAZQBzAHQAAwAgAHIAZQBmAC4AbABvAGEAZABsAGEAYgAuAHQAZQBzAHQAAAAAAA==";
    const AUTHENTICATE: &str = "TlRMTVNTUAADAAAAGAAYAHQAAACWAJYAjAAAAA4ADgBIAAAAEAAQAFYAAAAOAA4AZgAAABAAEAAiAQAAVYKY4gYBsR0AAAAPTABPAEEARABMAEEAQgBwAHUAYgAwADAAMAAwADEATABPAEEARABHAEUATgBFTUK+CLVqkkqiYw05kaq0qrvM3e7/ABH0s9Y5a/PsQQUkN8iBLGG2AQEAAAAAAAAAgNbFoc3YAaq7zN3u/wARAAAAAAIADgBMAE8AQQBEAEwAQQBCAAEADABSAEUARgBTAFIAVgAEABgAbABvAGEAZABsAGEAYgAuAHQAZQBzAHQAAwAgAHIAZQBmAC4AbABvAGEAZABsAGEAYgAuAHQAZQBzAHQAAAAAAAAAAAA6KPe0h8XVkepGMAAXckxI";
    const NONCE: [u8; 8] = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn keys() -> Keys {
        let read = Authenticate::read(&STANDARD.decode(AUTHENTICATE).unwrap()).unwrap();
        assert_eq!((read.domain.as_str(), read.user.as_str()), ("LOADLAB", "pub00001"));
        read.verify(NONCE, "Pl3nty-Of-Load").unwrap()
    }

    #[test]
    fn a_challenge_is_that_of_the_vectors_but_for_the_host() {
        let ours = challenge(NONCE, "LOADLAB", "loadlab.test", "ref.loadlab.test");
        let vector = STANDARD.decode(CHALLENGE).unwrap();
        // The vector's host is called otherwise in NetBIOS.
        let swap = |text: &str, from: &str, to: &str| text.replace(&hex(&wide(from)), &hex(&wide(to)));
        let (ours, vector) = (hex(&ours), swap(&hex(&vector), "REFSRV", "REF"));
        assert_eq!(ours[112..].replace("01000600", "01000c00"), vector[112..]);
        assert_eq!((&ours[..80], &ours[96..112]), (&vector[..80], &vector[96..112]));
    }

    #[test]
    fn keys_follow_from_a_right_response_only() {
        let keys = keys();
        assert_eq!(hex(&keys.client.sign), "59d6baefd8fb9cfe7c66605162a2b238");
        assert_eq!(hex(&keys.server.sign), "60f654677506d6aaf0bca42ab24cf43e");
        let sealed = |key: &str| {
            let key: Vec<u8> =
                (0..32).step_by(2).map(|at| u8::from_str_radix(&key[at..at + 2], 16).unwrap()).collect();
            Some(md5(&[&key, &SEQUENCE]))
        };
        assert_eq!(keys.client.seal, sealed("248e660b070223ef5f92354062032e48"));
        assert_eq!(keys.server.seal, sealed("4c8365f39288454902f2775f9bef872f"));
        let read = Authenticate::read(&STANDARD.decode(AUTHENTICATE).unwrap()).unwrap();
        assert_eq!(read.verify(NONCE, "pl3nty-of-load"), None);
        assert_eq!(read.verify([0; 8], "Pl3nty-Of-Load"), None);
    }

    #[test]
    fn signatures_are_those_of_the_vectors() {
        let keys = keys();
        for (key, text, signature) in [
            (
                &keys.client,
                "<NTLM><5a5a0001><1><SIP Communications Service><ref.loadlab.test><c0ffee01@pub00001><3><REGISTER><sip:pub00001@loadlab.test><t1a2b3c4d><sip:pub00001@loadlab.test><><><><>",
                "0100000066b16a63e381371d64000000",
            ),
            (
                &keys.server,
                "<NTLM><7B7B0002><1><SIP Communications Service><ref.loadlab.test><c0ffee01@pub00001><3><REGISTER><sip:pub00001@loadlab.test><t1a2b3c4d><sip:pub00001@loadlab.test><S9F8E7D6C><><><600><200>",
                "010000006e572b29eeaa1e8a64000000",
            ),
            (
                &keys.client,
                "<NTLM><5a5a000b><11><SIP Communications Service><ref.loadlab.test><c0ffee01@pub00001><4><REGISTER><sip:pub00001@loadlab.test><t1a2b3c4d><sip:pub00001@loadlab.test><><><><0>",
                "0100000073c66a6445997c8a64000000",
            ),
            (
                &keys.server,
                "<NTLM><7B7B0009><9><SIP Communications Service><ref.loadlab.test><pres-sub00001-01><2><BENOTIFY><sip:sub00001@loadlab.test><8A0B0099><sip:sub00001@loadlab.test><ps01><><><>",
                "010000000447c7cedbf090e964000000",
            ),
            (
                &keys.client,
                "<NTLM><5a5a0007><7><SIP Communications Service><ref.loadlab.test><pres-sub00001-01><2><NOTIFY><sip:sub00001@loadlab.test><8A0B0099><sip:sub00001@loadlab.test><ps01><><><><200>",
                "01000000d454f17bed9797b764000000",
            ),
        ] {
            assert_eq!(key.signature(text.as_bytes()), signature.as_bytes(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_no_authenticate_and_does_no_harm(edits in prop::collection::vec((0usize..306, any::<u8>()), 0..8), cut in 0usize..400, garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = STANDARD.decode(AUTHENTICATE).unwrap();
            for (at, byte) in &edits {
                bytes[*at] = *byte;
            }
            bytes.truncate(cut);
            for bytes in [&bytes[..], &garbage, &[&SIGNATURE[..], &3u32.to_le_bytes(), &garbage].concat()] {
                if let Some(read) = Authenticate::read(bytes) {
                    let _ = read.verify(NONCE, "Pl3nty-Of-Load");
                }
            }
        }
    }
}
