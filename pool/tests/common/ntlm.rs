//! The client's side of NTLM over SIP, as small as tests need it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md4::Digest as _;
use rc4::StreamCipher as _;

use super::lync::{Client, World};
use super::{Msg, Request};

pub const REALM: &str = "SIP Communications Service";
/// What the known client agrees to.
const FLAGS: u32 = 0xe298_8255;

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Hmac::<md5::Md5>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn md5(parts: &[&[u8]]) -> [u8; 16] {
    parts.iter().fold(md5::Md5::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

fn rc4(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    rc4::Rc4::new_from_slice(key).unwrap().apply_keystream(&mut data);
    data
}

/// Who somebody says that he is.
#[derive(Debug, Clone)]
pub struct Account {
    pub domain: String,
    pub user: String,
    pub password: String,
}

impl Account {
    pub fn of(user: u32) -> Account {
        Account {
            domain: "POOL".to_owned(),
            user: format!("user{user:06}"),
            password: format!("pw-user{user:06}"),
        }
    }
}

/// The keys after an AUTHENTICATE, and what counts messages.
#[derive(Debug, Clone)]
pub struct Keys {
    session: [u8; 16],
    pub opaque: String,
    pub version: u32,
    pub cnum: u32,
}

/// An AUTHENTICATE that answers a CHALLENGE; the session key that it exports.
pub fn authenticate(challenge: &[u8], account: &Account, flags: u32) -> (Vec<u8>, [u8; 16]) {
    let number = |at: usize| u32::from_le_bytes(challenge[at..at + 4].try_into().unwrap());
    assert_eq!((&challenge[..8], number(8)), (&b"NTLMSSP\0"[..], 2));
    // What a client gives up without.
    for wanted in
        [0x1, 0x10, 0x40, 0x200, 0x8000, 0x8_0000, 0x10_0000, 0x80_0000, 0x200_0000, 0x2000_0000, 0x4000_0000]
    {
        assert_ne!(number(20) & wanted, 0, "{wanted:x}");
    }
    let info =
        &challenge[number(44) as usize..][..usize::from(u16::from_le_bytes([challenge[40], challenge[41]]))];
    let nonce = &challenge[24..32];
    let hash: [u8; 16] = md4::Md4::digest(wide(&account.password)).into();
    let owf = hmac(&hash, &[&wide(&account.user.to_uppercase()), &wide(&account.domain)]);
    let own = [0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x00, 0x11];
    let blob = [&[1, 1, 0, 0, 0, 0, 0, 0], &[0x5a; 8][..], &own, &[0; 4], info, &[0; 4]].concat();
    let proof = hmac(&owf, &[nonce, &blob]);
    let base = hmac(&owf, &[&proof]);
    let session: [u8; 16] = std::array::from_fn(|n| n as u8 * 17);
    let lm = [&hmac(&owf, &[nonce, &own])[..], &own].concat();
    let nt = [&proof[..], &blob].concat();
    let fields = [lm, nt, wide(&account.domain), wide(&account.user), wide("HOST"), rc4(&base, &session)];
    let mut out = b"NTLMSSP\0\x03\0\0\0".to_vec();
    let mut offset = 72u32;
    for field in &fields {
        let length = (field.len() as u16).to_le_bytes();
        out.extend_from_slice(&[length, length].concat());
        out.extend_from_slice(&offset.to_le_bytes());
        offset += field.len() as u32;
    }
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&[6, 1, 0xb1, 0x1d, 0, 0, 0, 15]);
    out.extend_from_slice(&fields.concat());
    (out, session)
}

/// A value of a header of parameters.
pub fn parameter(header: &str, name: &str) -> Option<String> {
    let (_, rest) = header.split_once(&format!("{name}=\""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

fn header(text: &str, name: &str) -> String {
    let head = text.split("\r\n\r\n").next().unwrap();
    let lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
    lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned()).next().unwrap_or_default()
}

/// What is signed of a message, written from its text.
fn signed(text: &str, version: u32, rand: &str, num: &str) -> String {
    let uri =
        |value: &str| value.split_once('<').map_or("", |(_, v)| v.split_once('>').unwrap().0).to_owned();
    let tag = |value: &str| {
        let rest = value.split_once(";tag=").map_or("", |(_, v)| v);
        rest.split(';').next().unwrap().to_owned()
    };
    let (from, to, cseq) = (header(text, "From"), header(text, "To"), header(text, "CSeq"));
    let (number, method) = cseq.split_once(' ').unwrap();
    let mut parts = vec![
        "NTLM".to_owned(),
        rand.to_owned(),
        num.to_owned(),
        REALM.to_owned(),
        "pool.test".to_owned(),
        header(text, "Call-ID"),
        number.to_owned(),
        method.to_owned(),
        uri(&from),
        tag(&from),
    ];
    if version > 2 {
        parts.push(uri(&to));
    }
    parts.push(tag(&to));
    if version > 2 {
        parts.extend([String::new(), String::new()]);
    }
    parts.push(header(text, "Expires"));
    if let Some(code) = text.strip_prefix("SIP/2.0 ") {
        parts.push(code[..3].to_owned());
    }
    parts.iter().map(|part| format!("<{part}>")).collect()
}

impl Keys {
    fn signature(&self, direction: &str, text: &str) -> String {
        let magic = |kind: &str| format!("session key to {direction} {kind} key magic constant\0");
        let sign = md5(&[&self.session, magic("signing").as_bytes()]);
        let seal = md5(&[&self.session, magic("sealing").as_bytes()]);
        let number = 100u32.to_le_bytes();
        let mac = hmac(&sign, &[&number, text.as_bytes()]);
        let mac = rc4(&md5(&[&seal, &number]), &mac[..8]);
        let hex: String = mac.iter().map(|b| format!("{b:02x}")).collect();
        format!("01000000{hex}64000000")
    }

    /// The text of a message with its signature in it.
    pub fn sign(&mut self, text: &str) -> String {
        self.cnum += 1;
        self.sign_as(text, self.cnum, "")
    }

    pub fn sign_as(&self, text: &str, cnum: u32, more: &str) -> String {
        let crand = format!("5a5a{cnum:04x}");
        let response =
            self.signature("client-to-server", &signed(text, self.version, &crand, &cnum.to_string()));
        let line = format!(
            "Authorization: NTLM qop=\"auth\", opaque=\"{}\", realm=\"{REALM}\", targetname=\"pool.test\", \
             crand=\"{crand}\", cnum=\"{cnum}\", response=\"{response}\"{more}\r\n",
            self.opaque
        );
        text.replacen("Content-Length:", &format!("{line}Content-Length:"), 1)
    }

    /// True for a message that is signed under these keys.
    pub fn proves(&self, msg: &Msg) -> bool {
        let Some(info) = msg.all("Authentication-Info").pop() else { return false };
        let value = |name| parameter(&info, name).unwrap_or_default();
        assert!(info.starts_with("NTLM rspauth=\"") && info.contains("qop=\"auth\""), "{info}");
        assert_eq!(
            (value("realm"), value("targetname"), value("opaque")),
            (REALM.to_owned(), "pool.test".to_owned(), self.opaque.clone())
        );
        let text = signed(&msg.text, self.version, &value("srand"), &value("snum"));
        self.signature("server-to-client", &text) == value("rspauth").to_lowercase()
    }
}

/// The first two steps of a handshake: the text of a REGISTER that ends it.
pub fn begin(world: &mut World, client: &mut Client, account: &Account, version: u32) -> (String, Keys) {
    let request = client.register();
    let first = world.ask(client, &request);
    assert_eq!(first.code(), 401, "{}", first.text);
    assert!(first.all("Authentication-Info").is_empty());
    let line = |gssapi: &str, more: &str| {
        let version = if version > 2 { format!(", version={version}") } else { String::new() };
        format!(
            "Authorization: NTLM qop=\"auth\", realm=\"{REALM}\", targetname=\"pool.test\", gssapi-data=\"{gssapi}\"{version}{more}"
        )
    };
    let request = client.register().line(&line("", ""));
    let second = world.ask(client, &request);
    assert_eq!(second.code(), 401, "{}", second.text);
    assert_eq!(second.all("WWW-Authenticate").len(), 1);
    let challenge = second.header("WWW-Authenticate");
    let opaque = parameter(&challenge, "opaque").unwrap();
    let token = STANDARD.decode(parameter(&challenge, "gssapi-data").unwrap()).unwrap();
    let (token, session) = authenticate(&token, account, FLAGS);
    let mut keys = Keys { session, opaque, version, cnum: 0 };
    let gssapi = format!(", gssapi-data=\"{}\"", STANDARD.encode(token));
    let text = client.register().text(77);
    let text = if version >= 4 {
        keys.cnum += 1;
        keys.sign_as(&text, keys.cnum, &format!("{gssapi}, version={version}"))
    } else {
        let version = if version > 2 { format!(", version={version}") } else { String::new() };
        let line = format!(
            "Authorization: NTLM qop=\"auth\", opaque=\"{}\", realm=\"{REALM}\", targetname=\"pool.test\"{gssapi}{version}\r\n",
            keys.opaque
        );
        text.replacen("Content-Length:", &format!("{line}Content-Length:"), 1)
    };
    (text, keys)
}

/// A registered endpoint with its keys.
#[track_caller]
pub fn sign_on(world: &mut World, user: u32, connection: u64, version: u32) -> (Client, Keys) {
    let mut client = Client::new(user, connection);
    let (text, keys) = begin(world, &mut client, &Account::of(user), version);
    let sent = world.say(client.peer, &text);
    assert_eq!(sent[0].code(), 200, "{}", sent[0].text);
    assert!(keys.proves(&sent[0]), "{}", sent[0].text);
    (client, keys)
}

/// What a signed request comes to.
pub fn tell(world: &mut World, client: &Client, keys: &mut Keys, request: &Request) -> Vec<Msg> {
    let text = keys.sign(&request.text(78));
    world.say(client.peer, &text)
}
