//! NTLM as [MS-NLMP] has it, in its connectionless form: a CHALLENGE, an
//! AUTHENTICATE, and a signature on every message (§3.4.4).
//!
//! Only NTLMv2 is spoken. There is no NEGOTIATE message, and the sequence number
//! of signatures is the constant 100 in both directions, as [MS-SIPAE] uses NTLM.
//! That makes the key stream of a signature the same for all messages: it is
//! derived once, with the keys, and a signature costs one HMAC.
//!
//! A MIC covers CHALLENGE and AUTHENTICATE (§3.1.5.2.1; there is no third message). We
//! make one if the target info of the challenge has its bit in MsvAvFlags: that info goes
//! into our response, which would announce a MIC that is not there. A timestamp alone, for
//! which the documents would have one, too, is no reason: the client that is known to work
//! with these servers sends none, and nobody was there to say whether they demand it. The
//! server's side checks a MIC whenever one is announced. §3.2.5.2.2 has two formulas for
//! that; the one with ResponseKeyNT fits neither the client's section nor what others compute.
//!
//! Nothing here reads a clock or draws a number: times, nonces and session keys
//! are arguments.

use hmac::{Hmac, KeyInit as _, Mac as _};
use md4::Md4;
use md5::{Digest as _, Md5};
use rc4::{Rc4, StreamCipher as _};

/// Bits of `NegotiateFlags` ([MS-NLMP] §2.2.2.5).
pub mod flag {
    /// Strings are UTF-16.
    pub const UNICODE: u32 = 0x1;
    /// The challenge names its target.
    pub const REQUEST_TARGET: u32 = 0x4;
    /// Messages are signed.
    pub const SIGN: u32 = 0x10;
    /// Connectionless.
    pub const DATAGRAM: u32 = 0x40;
    /// NTLM at all.
    pub const NTLM: u32 = 0x200;
    /// Signed even if nothing asks for it.
    pub const ALWAYS_SIGN: u32 = 0x8000;
    /// Signatures by HMAC; without it by CRC-32.
    pub const EXTENDED_SESSION_SECURITY: u32 = 0x8_0000;
    /// The client only proves who it is.
    pub const IDENTIFY: u32 = 0x10_0000;
    /// The challenge describes its target.
    pub const TARGET_INFO: u32 = 0x80_0000;
    /// A version follows.
    pub const VERSION: u32 = 0x200_0000;
    /// Keys of 128 bits.
    pub const KEY_128: u32 = 0x2000_0000;
    /// The client chooses the session key.
    pub const KEY_EXCHANGE: u32 = 0x4000_0000;
    /// Keys of 56 bits, where not of 128.
    pub const KEY_56: u32 = 0x8000_0000;
}

/// What we speak: the flags of an AUTHENTICATE are those of the challenge among these.
pub const SPOKEN: u32 = flag::UNICODE
    | flag::REQUEST_TARGET
    | flag::SIGN
    | flag::DATAGRAM
    | flag::NTLM
    | flag::ALWAYS_SIGN
    | flag::EXTENDED_SESSION_SECURITY
    | flag::IDENTIFY
    | flag::TARGET_INFO
    | flag::VERSION
    | flag::KEY_128
    | flag::KEY_EXCHANGE
    | flag::KEY_56;

/// Without these there is no NTLMv2 that signs. Of SIGN and DATAGRAM nothing that is computed depends:
/// a server that leaves them out is taken at what it does.
const NEEDED: [(u32, &str); 4] = [
    (flag::UNICODE, "UNICODE"),
    (flag::NTLM, "NTLM"),
    (flag::TARGET_INFO, "TARGET_INFO"),
    (flag::KEY_EXCHANGE, "KEY_EXCH"),
];

/// Bytes of a message at most; real ones take a few hundred.
pub const MAX_MESSAGE: usize = 4_096;

const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";
/// Windows 6.1, NTLM revision 15 ([MS-NLMP] §2.2.2.10): what is sent where VERSION was agreed.
const VERSION: [u8; 8] = [6, 1, 0xb1, 0x1d, 0, 0, 0, 15];
/// The sequence number of every signature.
const SEQUENCE: [u8; 4] = 100u32.to_le_bytes();

/// MsvAvFlags, and the bit of it that says that there is a MIC (§2.2.2.1).
const AV_FLAGS: u16 = 6;
const AV_FLAG_MIC: u32 = 2;
/// Where an AUTHENTICATE has its MIC.
const MIC: std::ops::Range<usize> = 72..88;

/// Where an NTLMv2 response has its AV pairs: behind the proof, versions, time and nonce (§2.2.2.7).
const PAIRS_OF_RESPONSE: usize = 16 + 28;

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NtlmError {
    /// Not an NTLM message of the kind that is due.
    #[error("it is no NTLM {0} message")]
    NoMessage(&'static str),
    /// It ends too early, or points beyond its end.
    #[error("the NTLM message is cut short or points beyond its end")]
    Truncated,
    /// A flag that we cannot do without.
    #[error("the other side does not agree to {0}")]
    Flag(&'static str),
    /// A MIC that was announced is not right, or one that was asked for is not there.
    #[error("the message integrity code of the NTLM messages is wrong or missing")]
    WrongMic,
    /// The answer is not that of this password.
    #[error("the response is not that of this account's password")]
    WrongResponse,
}

/// A CHALLENGE ([MS-NLMP] §2.2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge<'a> {
    /// What the server agrees to.
    pub flags: u32,
    /// Eight bytes that never come again.
    pub nonce: [u8; 8],
    /// The server's domain or name, UTF-16.
    pub target_name: &'a [u8],
    /// AV pairs (§2.2.2.1).
    pub target_info: &'a [u8],
    /// The whole message, which a MIC covers; not looked at when it is written.
    pub bytes: &'a [u8],
}

impl<'a> Challenge<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// [`NtlmError`] when it is none, is cut short or lacks a flag.
    pub fn read(bytes: &'a [u8]) -> Result<Self, NtlmError> {
        let fixed = fixed(bytes, 2, 48, "CHALLENGE")?;
        let challenge = Challenge {
            flags: u32_at(fixed, 20),
            nonce: array_at(fixed, 24),
            target_name: field(bytes, 12)?,
            target_info: field(bytes, 40)?,
            bytes,
        };
        match NEEDED.iter().find(|(flag, _)| challenge.flags & flag == 0) {
            Some((_, name)) => Err(NtlmError::Flag(name)),
            None => Ok(challenge),
        }
    }

    /// MsvAvTimestamp, a FILETIME, if the server sent one (§2.2.2.1).
    #[must_use]
    pub fn timestamp(&self) -> Option<[u8; 8]> {
        pairs(self.target_info).find(|(id, _)| *id == 7).and_then(|(_, value)| value.try_into().ok())
    }

    /// True if the answer has to have a MIC, as its response will say so.
    #[must_use]
    pub fn asks_for_mic(&self) -> bool {
        has_mic(self.target_info)
    }

    /// Appends it as bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(SIGNATURE);
        out.extend_from_slice(&2u32.to_le_bytes());
        put_field(out, self.target_name.len(), 56);
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&[0; 8]);
        put_field(out, self.target_info.len(), 56 + self.target_name.len());
        out.extend_from_slice(&VERSION);
        debug_assert_eq!(out.len() - start, 56);
        out.extend_from_slice(self.target_name);
        out.extend_from_slice(self.target_info);
    }
}

/// Appends the AV pairs that describe a server: domain, computer, and both in DNS;
/// its time, and with `mic` the wish for a MIC.
pub fn write_target_info(
    domain: &str,
    computer: &str,
    dns_domain: &str,
    dns_computer: &str,
    time: Option<[u8; 8]>,
    mic: bool,
    out: &mut Vec<u8>,
) {
    for (id, text) in [(2u16, domain), (1, computer), (4, dns_domain), (3, dns_computer)] {
        out.extend_from_slice(&id.to_le_bytes());
        let at = out.len();
        out.extend_from_slice(&[0; 2]);
        write_utf16(text, out);
        let len = (out.len() - at - 2) as u16;
        out[at..at + 2].copy_from_slice(&len.to_le_bytes());
    }
    if mic {
        out.extend_from_slice(&AV_FLAGS.to_le_bytes());
        out.extend_from_slice(&4u16.to_le_bytes());
        out.extend_from_slice(&AV_FLAG_MIC.to_le_bytes());
    }
    if let Some(time) = time {
        out.extend_from_slice(&7u16.to_le_bytes());
        out.extend_from_slice(&8u16.to_le_bytes());
        out.extend_from_slice(&time);
    }
    out.extend_from_slice(&[0; 4]);
}

/// What a client brings into an AUTHENTICATE besides the challenge.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Account name, UTF-8.
    pub user: &'a str,
    /// Its domain; empty where the user name holds it (UPN).
    pub domain: &'a str,
    /// The client's computer.
    pub workstation: &'a str,
    /// [`nt_hash`] of the password.
    pub nt_hash: [u8; 16],
    /// Eight bytes that never come again.
    pub nonce: [u8; 8],
    /// Now as FILETIME, for a server that sent no timestamp.
    pub time: [u8; 8],
    /// The session key: random.
    pub session_key: [u8; 16],
}

/// Appends an AUTHENTICATE (§2.2.1.3) that answers `challenge`, and gives the
/// keys of the session.
pub fn authenticate(challenge: &Challenge<'_>, client: &Client<'_>, out: &mut Vec<u8>) -> Keys {
    let flags = challenge.flags & SPOKEN;
    let key = response_key(&client.nt_hash, client.user, client.domain);
    let time = challenge.timestamp().unwrap_or(client.time);
    let temp: [&[u8]; 6] =
        [&[1, 1, 0, 0, 0, 0, 0, 0], &time, &client.nonce, &[0; 4], challenge.target_info, &[0; 4]];
    let proof = hmac(&key, [&challenge.nonce as &[u8]].into_iter().chain(temp));
    let lm = hmac(&key, [&challenge.nonce as &[u8], &client.nonce]);
    let mut session_key = client.session_key;
    apply_rc4(&hmac(&key, [&proof as &[u8]]), &mut session_key);

    let start = out.len();
    let utf16 = |text: &str| text.encode_utf16().count() * 2;
    let has_mic = challenge.asks_for_mic();
    let domain = if has_mic { MIC.end } else { MIC.start };
    let user = domain + utf16(client.domain);
    let workstation = user + utf16(client.user);
    let lm_at = workstation + utf16(client.workstation);
    let nt_at = lm_at + 24;
    let nt_len = 16 + temp.iter().map(|piece| piece.len()).sum::<usize>();
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&3u32.to_le_bytes());
    put_field(out, 24, lm_at);
    put_field(out, nt_len, nt_at);
    put_field(out, user - domain, domain);
    put_field(out, workstation - user, user);
    put_field(out, lm_at - workstation, workstation);
    put_field(out, 16, nt_at + nt_len);
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(if flags & flag::VERSION != 0 { &VERSION } else { &[0; 8] });
    if has_mic {
        out.extend_from_slice(&[0; MIC.end - MIC.start]);
    }
    for text in [client.domain, client.user, client.workstation] {
        write_utf16(text, out);
    }
    debug_assert_eq!(out.len() - start, lm_at);
    out.extend_from_slice(&lm);
    out.extend_from_slice(&client.nonce);
    out.extend_from_slice(&proof);
    for piece in temp {
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(&session_key);
    if has_mic {
        let mic = hmac(&client.session_key, [challenge.bytes, &out[start..]]);
        out[start..][MIC].copy_from_slice(&mic);
    }
    Keys::new(&client.session_key, flags)
}

/// An AUTHENTICATE as the server reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticate<'a> {
    /// The domain that the client named; may be empty.
    pub domain: String,
    /// The account.
    pub user: String,
    /// The client's computer.
    pub workstation: String,
    nt: &'a [u8],
    key: &'a [u8],
    flags: u32,
    bytes: &'a [u8],
}

impl<'a> Authenticate<'a> {
    /// Reads one.
    ///
    /// # Errors
    /// [`NtlmError`] when it is none, is cut short, or is no NTLMv2.
    pub fn read(bytes: &'a [u8]) -> Result<Self, NtlmError> {
        let fixed = fixed(bytes, 3, 64, "AUTHENTICATE")?;
        let text = |at| utf16(field(bytes, at)?);
        let message = Authenticate {
            domain: text(28)?,
            user: text(36)?,
            workstation: text(44)?,
            nt: field(bytes, 20)?,
            key: field(bytes, 52)?,
            flags: u32_at(fixed, 60),
            bytes,
        };
        // 24 bytes would be NTLMv1, which has no place here.
        if message.nt.len() < PAIRS_OF_RESPONSE {
            return Err(NtlmError::Truncated);
        }
        Ok(message)
    }

    /// True if its response says that it has a MIC: then [`Challenge::bytes`] have to be there
    /// when it is verified.
    #[must_use]
    pub fn has_mic(&self) -> bool {
        has_mic(&self.nt[PAIRS_OF_RESPONSE..])
    }

    /// Checks it against the server's `challenge` and the account's [`nt_hash`].
    ///
    /// # Errors
    /// [`NtlmError::WrongResponse`] for another password, [`NtlmError::Flag`] for
    /// a flag that is needed and missing; what was not offered does not count.
    /// [`NtlmError::WrongMic`] for one that is announced and wrong, or asked for and missing.
    pub fn verify(&self, challenge: &Challenge<'_>, nt_hash: &[u8; 16]) -> Result<Keys, NtlmError> {
        if let Some((_, name)) = NEEDED.iter().find(|(flag, _)| self.flags & flag == 0) {
            return Err(NtlmError::Flag(name));
        }
        let key = response_key(nt_hash, &self.user, &self.domain);
        let (proof, temp) = self.nt.split_at(16);
        let mut mac = hmac_of(&key);
        mac.update(&challenge.nonce);
        mac.update(temp);
        // In constant time, as `verify` compares.
        mac.verify_slice(proof).map_err(|_| NtlmError::WrongResponse)?;
        let mut session_key: [u8; 16] = self.key.try_into().map_err(|_| NtlmError::Truncated)?;
        apply_rc4(&hmac(&key, [proof]), &mut session_key);
        if self.has_mic() {
            let (head, rest) = self.bytes.split_at_checked(MIC.start).ok_or(NtlmError::Truncated)?;
            let (mic, rest) = rest.split_at_checked(MIC.len()).ok_or(NtlmError::Truncated)?;
            let mut mac = hmac_of(&session_key);
            for piece in [challenge.bytes, head, &[0; 16], rest] {
                mac.update(piece);
            }
            mac.verify_slice(mic).map_err(|_| NtlmError::WrongMic)?;
        } else if challenge.asks_for_mic() {
            return Err(NtlmError::WrongMic);
        }
        Ok(Keys::new(&session_key, self.flags & challenge.flags & SPOKEN))
    }
}

/// Who signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client signs, the server verifies.
    Client,
    /// The other way round.
    Server,
}

/// What a session signs with.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    client: Half,
    server: Half,
    extended: bool,
}

#[derive(Clone, PartialEq, Eq)]
struct Half {
    sign: [u8; 16],
    /// The key stream that covers the checksum.
    stream: [u8; 8],
}

/// A signature ([MS-NLMP] §2.2.2.9).
pub type Signature = [u8; 16];

impl Keys {
    /// The keys of a session ([MS-NLMP] §3.4.5).
    #[must_use]
    pub fn new(session_key: &[u8; 16], flags: u32) -> Keys {
        let extended = flags & flag::EXTENDED_SESSION_SECURITY != 0;
        if !extended {
            // One key for all, and the stream begins anew with each message; its first four
            // bytes cover a random pad, which is 0.
            let mut stream = [0; 12];
            apply_rc4(session_key, &mut stream);
            let half = Half { sign: *session_key, stream: array_at(&stream, 4) };
            return Keys { client: half.clone(), server: half, extended };
        }
        let half = |side: &[u8]| {
            let key = |session_key: &[u8], purpose: &[u8]| {
                md5([session_key, b"session key to ", side, b" ", purpose, b" key magic constant\0"])
            };
            let sign = key(session_key, b"signing");
            let sealing = match flags {
                flags if flags & flag::KEY_128 != 0 => &session_key[..],
                flags if flags & flag::KEY_56 != 0 => &session_key[..7],
                _ => &session_key[..5],
            };
            let seal = key(sealing, b"sealing");
            let mut stream = [0; 8];
            if flags & flag::KEY_EXCHANGE != 0 {
                apply_rc4(&md5([&seal as &[u8], &SEQUENCE]), &mut stream);
            }
            Half { sign, stream }
        };
        Keys { client: half(b"client-to-server"), server: half(b"server-to-client"), extended }
    }

    /// Signs a text ([MS-NLMP] §3.4.4).
    #[must_use]
    pub fn sign(&self, side: Side, text: &[u8]) -> Signature {
        let half = match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        };
        let mut sum = [0; 8];
        if self.extended {
            sum.copy_from_slice(&hmac(&half.sign, [&SEQUENCE as &[u8], text])[..8]);
        } else {
            sum[..4].copy_from_slice(&crc32fast::hash(text).to_le_bytes());
            sum[4..].copy_from_slice(&SEQUENCE);
        }
        sum.iter_mut().zip(half.stream).for_each(|(byte, covered)| *byte ^= covered);
        let mut signature = [0; 16];
        signature[0] = 1;
        if self.extended {
            signature[4..12].copy_from_slice(&sum);
            signature[12..].copy_from_slice(&SEQUENCE);
        } else {
            signature[8..].copy_from_slice(&sum);
        }
        signature
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(…)")
    }
}

/// The NT hash of a password: MD4 of its UTF-16 ([MS-NLMP] §3.3.1, NTOWFv1).
#[must_use]
pub fn nt_hash(password: &str) -> [u8; 16] {
    let mut hash = Md4::new();
    for unit in password.encode_utf16() {
        hash.update(unit.to_le_bytes());
    }
    hash.finalize().into()
}

/// NTOWFv2: the key of responses ([MS-NLMP] §3.3.2).
fn response_key(nt_hash: &[u8; 16], user: &str, domain: &str) -> [u8; 16] {
    let mut mac = hmac_of(nt_hash);
    for letter in user.chars() {
        // What has no single capital stays, as Windows does it.
        let mut upper = letter.to_uppercase();
        let capital = match (upper.next(), upper.next()) {
            (Some(capital), None) => capital,
            _ => letter,
        };
        let mut units = [0; 2];
        for unit in capital.encode_utf16(&mut units) {
            mac.update(&unit.to_le_bytes());
        }
    }
    for unit in domain.encode_utf16() {
        mac.update(&unit.to_le_bytes());
    }
    mac.finalize().into_bytes().into()
}

fn hmac_of(key: &[u8; 16]) -> Hmac<Md5> {
    // HMAC takes keys of any length.
    Hmac::new_from_slice(key).unwrap_or_else(|_| unreachable!("a key of 16 bytes"))
}

fn hmac<'a>(key: &[u8; 16], pieces: impl IntoIterator<Item = &'a [u8]>) -> [u8; 16] {
    let mut mac = hmac_of(key);
    pieces.into_iter().for_each(|piece| mac.update(piece));
    mac.finalize().into_bytes().into()
}

fn md5<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> [u8; 16] {
    let mut hash = Md5::new();
    pieces.into_iter().for_each(|piece| hash.update(piece));
    hash.finalize().into()
}

fn apply_rc4(key: &[u8; 16], bytes: &mut [u8]) {
    let mut cipher = <Rc4 as rc4::KeyInit>::new_from_slice(key).unwrap_or_else(|_| unreachable!("16 bytes"));
    cipher.apply_keystream(bytes);
}

/// The fixed part of a message of this type, at least `len` bytes.
fn fixed<'a>(bytes: &'a [u8], kind: u32, len: usize, name: &'static str) -> Result<&'a [u8], NtlmError> {
    if bytes.len() < 12 || !bytes.starts_with(SIGNATURE) || u32_at(bytes, 8) != kind {
        return Err(NtlmError::NoMessage(name));
    }
    if bytes.len() > MAX_MESSAGE {
        return Err(NtlmError::Truncated);
    }
    bytes.get(..len).ok_or(NtlmError::Truncated)
}

/// A field: length, size and offset at `at`, its bytes anywhere (§2.2.1). The fixed part was checked.
fn field(bytes: &[u8], at: usize) -> Result<&[u8], NtlmError> {
    let len = u16::from_le_bytes(array_at(bytes, at)) as usize;
    let offset = u32_at(bytes, at + 4) as usize;
    if len == 0 {
        return Ok(b""); // its offset may be anything
    }
    offset.checked_add(len).and_then(|end| bytes.get(offset..end)).ok_or(NtlmError::Truncated)
}

/// A length beyond 16 bits (a user name of more than 32,767 letters) cannot be said: it is cut, and
/// the server refuses such a message as it refuses an unknown name.
fn put_field(out: &mut Vec<u8>, len: usize, offset: usize) {
    let len = u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes();
    out.extend_from_slice(&len);
    out.extend_from_slice(&len);
    out.extend_from_slice(&u32::try_from(offset).unwrap_or(u32::MAX).to_le_bytes());
}

/// AV pairs up to the end mark or the first that is cut short.
fn pairs(info: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = info;
    std::iter::from_fn(move || {
        let (head, tail) = rest.split_at_checked(4)?;
        let id = u16::from_le_bytes(array_at(head, 0));
        let (value, tail) = tail.split_at_checked(u16::from_le_bytes(array_at(head, 2)) as usize)?;
        rest = tail;
        (id != 0).then_some((id, value))
    })
}

/// True if these AV pairs say that there is a MIC.
fn has_mic(info: &[u8]) -> bool {
    let flags = pairs(info).find(|(id, _)| *id == AV_FLAGS).and_then(|(_, value)| value.try_into().ok());
    flags.is_some_and(|flags| u32::from_le_bytes(flags) & AV_FLAG_MIC != 0)
}

/// `N` bytes at `at`, which have to be there.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn write_utf16(text: &str, out: &mut Vec<u8>) {
    text.encode_utf16().for_each(|unit| out.extend_from_slice(&unit.to_le_bytes()));
}

/// A lone surrogate is replaced; half a letter is an error.
fn utf16(bytes: &[u8]) -> Result<String, NtlmError> {
    let pairs = bytes.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(NtlmError::Truncated);
    }
    let units = pairs.map(|pair| u16::from_le_bytes(array_at(pair, 0)));
    Ok(char::decode_utf16(units).map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}
