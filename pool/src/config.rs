//! What a pool is told: where to listen, who its users are, what to get wrong.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How a pool behaves. Everything that is a fault is off by default.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// UDP and TCP; loopback only. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// TLS.
    pub tls_listen: Option<SocketAddr>,
    /// Where CA and server certificate lie, and are made if they do not;
    /// in memory only if `None`.
    pub tls_dir: Option<PathBuf>,
    /// A CA, as a PEM file, by which clients may prove who they are over TLS.
    pub tls_client_ca: Option<PathBuf>,
    /// Accounts `user000001` … with passwords `pw-user000001` ….
    pub users: u32,
    /// SIP domain and digest realm.
    pub domain: String,
    /// Ask for credentials: digest in the `simple` dialect, NTLM in `lync`.
    pub auth: bool,
    /// Challenge with SHA-256, too, before MD5.
    pub sha256: bool,
    /// Lifetimes that are granted: least, most.
    pub expires: (u32, u32),
    /// Seed of all that is random.
    pub seed: u64,
    /// Before every answer.
    pub answer_delay: Option<Delay>,
    /// From receiving a PUBLISH to handing over its NOTIFYs.
    pub notify_delay: Option<Delay>,
    /// Freeze everything for the second, every first (from beginning to
    /// beginning); first so long after the first message.
    pub stall: Option<(Duration, Duration)>,
    /// Publications a second: one queue, one server, fixed service time.
    pub capacity: Option<f64>,
    /// Share of datagrams that are lost, both ways.
    pub drop: f64,
    /// Share of datagrams that leave twice.
    pub duplicate: f64,
    /// Share of datagrams that leave after the next one, or 100 ms later if there is none.
    pub reorder: f64,
    /// Answers to make up: method, code, share.
    pub reject: Vec<Reject>,
    /// Merge NOTIFYs of one subscription within this time (RFC 3856 §6.10).
    pub hold_notify: Option<Duration>,
    /// Share of NOTIFYs about publications that are never sent.
    pub lose_notify: f64,
    /// Take notes and foreign elements out of documents.
    pub strip_note: bool,
    /// NOTIFYs over UDP leave from this address.
    pub notify_from: Option<IpAddr>,
    /// TCP and TLS connections at a time; further ones are closed at once.
    pub max_connections: usize,
    /// Which dialects are spoken.
    pub dialect: Dialect,
    /// What concerns the `lync` dialect alone.
    pub lync: LyncConfig,
}

/// What clients may speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// SIMPLE: PUBLISH, NOTIFY, digest (RFC 3856, 3903, 6665).
    #[default]
    Simple,
    /// Microsoft's enhanced presence over TCP and TLS ([MS-PRES], [MS-SIPAE]).
    Lync,
    /// Each request is answered in the dialect that it speaks. They are two worlds on one
    /// port: what is published in one is not seen in the other.
    Both,
}

impl FromStr for Dialect {
    type Err = KnobError;

    fn from_str(text: &str) -> Result<Self, KnobError> {
        match text {
            "simple" => Ok(Dialect::Simple),
            "lync" => Ok(Dialect::Lync),
            "both" => Ok(Dialect::Both),
            _ => Err(wrong(text, "a dialect: simple, lync or both")),
        }
    }
}

/// A scheme that a 401 of the `lync` dialect offers ([MS-SIPAE] §2.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LyncScheme {
    /// The one that this pool can verify.
    Ntlm,
    /// Offered only: whoever chooses it is challenged again.
    Kerberos,
    /// Offered only.
    TlsDsk,
    /// RFC 7616, as servers may offer it to users outside; verified here, too.
    Digest,
}

impl LyncScheme {
    /// As it stands in a challenge.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            LyncScheme::Ntlm => "NTLM",
            LyncScheme::Kerberos => "Kerberos",
            LyncScheme::TlsDsk => "TLS-DSK",
            LyncScheme::Digest => "Digest",
        }
    }
}

impl FromStr for LyncScheme {
    type Err = KnobError;

    fn from_str(text: &str) -> Result<Self, KnobError> {
        match text.to_ascii_lowercase().as_str() {
            "ntlm" => Ok(LyncScheme::Ntlm),
            "kerberos" => Ok(LyncScheme::Kerberos),
            "tls-dsk" => Ok(LyncScheme::TlsDsk),
            "digest" => Ok(LyncScheme::Digest),
            _ => Err(wrong(text, "a scheme: ntlm, kerberos, tls-dsk or digest")),
        }
    }
}

/// The `lync` dialect: accounts, switches, and faults, which are off by default.
#[derive(Debug, Clone)]
pub struct LyncConfig {
    /// NTLM domain of the accounts; the first label of the SIP domain in capitals if `None`.
    pub nt_domain: Option<String>,
    /// What a 401 offers, in this order.
    pub schemes: Vec<LyncScheme>,
    /// Challenges come as a proxy's: 407 and the headers that go with it ([MS-SIPAE] §3.3.5.1).
    pub proxy_auth: bool,
    /// Version of [MS-SIPAE] that is offered, 2 to 4.
    pub sipae_version: u8,
    /// The NTLM challenge asks for a message integrity code (MsvAvFlags of [MS-NLMP] §2.2.2.1);
    /// whoever brings none is refused, as if the password were wrong.
    pub ntlm_mic: bool,
    /// After which a client has to prove anew who he is; 8 hours is what servers have.
    pub association_lifetime: Duration,
    /// Names (SAN or CN) of client certificates whose connections are not challenged.
    pub trusted_cn: Vec<String>,
    /// Containers 100 and 200 have no members at first, as on a fresh account.
    pub bare_containers: bool,
    /// A subscription to one publisher is answered with multipart/related, too,
    /// not with one document of categories.
    pub single_as_multipart: bool,
    /// A subscription to nobody but somebody unknown is answered 404, not in a list.
    pub unknown_as_404: bool,
    /// Share of signatures in answers and notifications that are wrong.
    pub wrong_rspauth: f64,
    /// Every so many publications of something that exists: a 409, as if
    /// another endpoint had been faster. 0 never.
    pub conflict_every: u32,
    /// NOTIFY where BENOTIFY was negotiated.
    pub notify_instead: bool,
    /// First notifications never travel in the 200.
    pub no_piggyback: bool,
    /// Every REGISTER is sent to this host and port (301).
    pub redirect_to: Option<String>,
    /// So long after a REGISTER the endpoint is signed off by the pool.
    pub deregister_after: Option<Duration>,
    /// Share of publishers for whom a batch is told to subscribe anew, directly.
    pub resubscribe: f64,
}

impl Default for LyncConfig {
    fn default() -> Self {
        LyncConfig {
            nt_domain: None,
            schemes: vec![LyncScheme::Ntlm],
            proxy_auth: false,
            sipae_version: 4,
            ntlm_mic: false,
            association_lifetime: Duration::from_secs(8 * 3_600),
            trusted_cn: Vec::new(),
            bare_containers: false,
            single_as_multipart: false,
            unknown_as_404: false,
            wrong_rspauth: 0.0,
            conflict_every: 0,
            notify_instead: false,
            no_piggyback: false,
            redirect_to: None,
            deregister_after: None,
            resubscribe: 0.0,
        }
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 5060)),
            tls_listen: None,
            tls_dir: None,
            tls_client_ca: None,
            users: 1_000,
            domain: "pool.test".to_owned(),
            auth: true,
            sha256: false,
            expires: (60, 3_600),
            seed: 1,
            answer_delay: None,
            notify_delay: None,
            stall: None,
            capacity: None,
            drop: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reject: Vec::new(),
            hold_notify: None,
            lose_notify: 0.0,
            strip_note: false,
            notify_from: None,
            max_connections: 60_000,
            dialect: Dialect::Simple,
            lync: LyncConfig::default(),
        }
    }
}

/// A knob whose value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not {accepted}")]
pub struct KnobError {
    found: String,
    accepted: &'static str,
}

fn wrong(found: &str, accepted: &'static str) -> KnobError {
    KnobError { found: found.to_owned(), accepted }
}

/// A duration with its unit: `7ms`, `1.5s`, `250us`, `2m`, `8h`.
///
/// # Errors
/// [`KnobError`].
pub fn duration(text: &str) -> Result<Duration, KnobError> {
    let accepted = "a duration such as 7ms, 1.5s, 250us, 2m or 8h";
    let split =
        text.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(|| wrong(text, accepted))?;
    let number: f64 = text[..split].parse().map_err(|_| wrong(text, accepted))?;
    let unit = match &text[split..] {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(wrong(text, accepted)),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| wrong(text, accepted))
}

/// A share: `0.01` or `1%`.
///
/// # Errors
/// [`KnobError`].
pub fn share(text: &str) -> Result<f64, KnobError> {
    let accepted = "a share between 0 and 1, such as 0.01 or 1%";
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    let value: f64 = number.trim().parse().map_err(|_| wrong(text, accepted))?;
    let value = value * scale;
    (0.0..=1.0).contains(&value).then_some(value).ok_or_else(|| wrong(text, accepted))
}

/// A fixed delay, or one that is drawn each time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Delay {
    /// Always the same.
    Fixed(Duration),
    /// Median and sigma of the logarithm.
    LogNormal(Duration, f64),
    /// Least and most.
    Uniform(Duration, Duration),
    /// Mean.
    Exponential(Duration),
}

impl FromStr for Delay {
    type Err = KnobError;

    fn from_str(text: &str) -> Result<Self, KnobError> {
        let accepted = "a duration, or lognormal(20ms, 0.5), uniform(5ms, 10ms), exponential(20ms)";
        let Some((name, rest)) = text.split_once('(') else { return Ok(Delay::Fixed(duration(text)?)) };
        let rest = rest.strip_suffix(')').ok_or_else(|| wrong(text, accepted))?;
        let parts: Vec<&str> = rest.split(',').map(str::trim).collect();
        match (name.trim(), parts.as_slice()) {
            ("lognormal", [median, sigma]) => {
                let sigma = sigma.parse().map_err(|_| wrong(text, accepted))?;
                Ok(Delay::LogNormal(duration(median)?, sigma))
            }
            ("uniform", [least, most]) => Ok(Delay::Uniform(duration(least)?, duration(most)?)),
            ("exponential", [mean]) => Ok(Delay::Exponential(duration(mean)?)),
            _ => Err(wrong(text, accepted)),
        }
    }
}

impl Delay {
    /// Draws one, in nanoseconds.
    pub fn draw(&self, chance: &mut Chance) -> u64 {
        let ns = |d: Duration| d.as_nanos() as f64;
        let value = match self {
            Delay::Fixed(d) => ns(*d),
            Delay::LogNormal(median, sigma) => ns(*median) * (sigma * chance.normal()).exp(),
            Delay::Uniform(least, most) => ns(*least) + (ns(*most) - ns(*least)) * chance.unit(),
            Delay::Exponential(mean) => -ns(*mean) * (1.0 - chance.unit()).ln(),
        };
        value.clamp(0.0, 3.6e12) as u64
    }
}

/// `PUBLISH=503:0.1`.
#[derive(Debug, Clone, PartialEq)]
pub struct Reject {
    /// Method, as on the wire.
    pub method: String,
    /// Status code, 300 to 699.
    pub code: u16,
    /// Share of its requests.
    pub share: f64,
}

impl FromStr for Reject {
    type Err = KnobError;

    fn from_str(text: &str) -> Result<Self, KnobError> {
        let accepted = "METHOD=CODE:SHARE, such as PUBLISH=503:10%";
        let (method, rest) = text.split_once('=').ok_or_else(|| wrong(text, accepted))?;
        let (code, part) = rest.split_once(':').ok_or_else(|| wrong(text, accepted))?;
        let code =
            code.parse().ok().filter(|c| (300..700).contains(c)).ok_or_else(|| wrong(text, accepted))?;
        Ok(Reject { method: method.to_owned(), code, share: share(part)? })
    }
}

/// `10s,1s`: the second has to be shorter than the first, or nothing would ever move.
///
/// # Errors
/// [`KnobError`].
pub fn stall(text: &str) -> Result<(Duration, Duration), KnobError> {
    let accepted = "EVERY,FOR with FOR shorter than EVERY, such as 10s,1s";
    let (every, during) = text.split_once(',').ok_or_else(|| wrong(text, accepted))?;
    let (every, during) = (duration(every.trim())?, duration(during.trim())?);
    if during < every { Ok((every, during)) } else { Err(wrong(text, accepted)) }
}

/// `pool.example.com:5061`, `[::1]:5061`.
///
/// # Errors
/// [`KnobError`].
pub fn host_port(text: &str) -> Result<String, KnobError> {
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b';' | b'"'));
    match adsum_sip::value::host_port(text.as_bytes()) {
        Some((host, Some(_))) if plain && !host.is_empty() => Ok(text.to_owned()),
        _ => Err(wrong(text, "a host and a port, such as pool.example.com:5061")),
    }
}

/// Chance from a seed.
#[derive(Clone)]
pub struct Chance(u64);

impl fmt::Debug for Chance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chance")
    }
}

impl Chance {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Chance(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        adsum_sip::ids::mix(self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Between 0 and 1, 1 excluded.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True in `share` of the calls; no draw for 0.
    pub fn hit(&mut self, share: f64) -> bool {
        share > 0.0 && self.unit() < share
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (2.0 * std::f64::consts::PI * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_are_read_and_refused() {
        assert_eq!("lognormal(20ms, 0.5)".parse(), Ok(Delay::LogNormal(Duration::from_millis(20), 0.5)));
        assert_eq!("7ms".parse(), Ok(Delay::Fixed(Duration::from_millis(7))));
        assert_eq!("PUBLISH=503:10%".parse(), Ok(Reject { method: "PUBLISH".into(), code: 503, share: 0.1 }));
        assert_eq!(stall("10s,1s"), Ok((Duration::from_secs(10), Duration::from_secs(1))));
        assert_eq!(duration("8h"), Ok(Duration::from_secs(28_800)));
        assert!(stall("1s,1s").is_err());
        assert!("7".parse::<Delay>().unwrap_err().to_string().contains("7ms"));
        assert!(share("1.5").is_err() && share("-1%").is_err());
        assert!(host_port("a.b:5061").is_ok() && host_port("[::1]:5061").is_ok());
        for bad in ["a.b", "a.b:x", ":5061", "a b:1", "a.b:1>\r\nX: y", ""] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn delays_have_their_means() {
        let mut chance = Chance::new(3);
        let delay = Delay::Exponential(Duration::from_millis(20));
        let mean = (0..20_000).map(|_| delay.draw(&mut chance) as f64).sum::<f64>() / 20_000.0;
        assert!((mean / 20e6 - 1.0).abs() < 0.05, "{mean}");
    }
}
