//! Where a server is (RFC 3263) and where to go when it fails (§4.3), without
//! a resolver: [`Locate`] says which question to ask next and takes the answer.
//!
//! ```text
//! numeric host ─────────────────────────────────────────────► done
//! explicit port ────────────────────────────► A, AAAA ──────► done
//! NAPTR ─► SRV of its replacement ─┐
//!   └none► SRV of the transport ───┴records─► A, AAAA each ─► done
//!                  └none──► A, AAAA on the default port ────► done
//! ```
//!
//! The transport is prescribed, by a scenario or an URI. So NAPTR records
//! select nothing here; they are asked because a domain may keep the SRV
//! records of that transport under a name of its own choice. An URI with a
//! `transport` parameter would go straight to the SRV name of its host (§4.2);
//! a domain has to keep that one as well (§4.1), so both ways lead to a server.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::ids::mix;
use crate::value::{self, SipUri};

mod failover;

pub use failover::{Attempt, Failover, FailoverCounts, Failure, REST, REST_LIMIT};

/// NAPTR replacements whose SRV records are asked for: a domain has one for a
/// transport, rarely a second with a worse preference.
pub const MAX_REPLACEMENTS: usize = 4;
/// SRV targets that are looked up, the best ones.
pub const MAX_SERVICES: usize = 16;
/// Addresses in a result, the best ones; [`Attempt`] has a bit for each.
pub const MAX_ADDRESSES: usize = 64;

/// The transport that is prescribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `_sip._udp`, `SIP+D2U`, port 5060.
    Udp,
    /// `_sip._tcp`, `SIP+D2T`, port 5060.
    Tcp,
    /// `_sips._tcp`, `SIPS+D2T`, port 5061.
    Tls,
}

impl Transport {
    /// What an URI prescribes: TLS if it is `sips:` (RFC 3261 §26.2.2), else its
    /// `transport` parameter, else `default`.
    ///
    /// # Errors
    /// [`LocateError::Transport`] for one that nobody here speaks, and for
    /// `sips:` over UDP.
    pub fn of_uri(uri: &SipUri<'_>, default: Transport) -> Result<Transport, LocateError> {
        let asked = match value::param(uri.params, "transport") {
            None => default,
            Some(text) if text.eq_ignore_ascii_case(b"udp") && !uri.secure => Transport::Udp,
            Some(text) if text.eq_ignore_ascii_case(b"tcp") => Transport::Tcp,
            Some(text) if text.eq_ignore_ascii_case(b"tls") => Transport::Tls,
            Some(text) => return Err(LocateError::Transport(String::from_utf8_lossy(text).into_owned())),
        };
        Ok(if uri.secure { Transport::Tls } else { asked })
    }

    /// The port without SRV records (RFC 3261 §18.1).
    #[must_use]
    pub fn default_port(self) -> u16 {
        if self == Transport::Tls { 5061 } else { 5060 }
    }

    fn prefix(self) -> &'static str {
        match self {
            Transport::Udp => "_sip._udp.",
            Transport::Tcp => "_sip._tcp.",
            Transport::Tls => "_sips._tcp.",
        }
    }

    fn service(self) -> &'static [u8] {
        match self {
            Transport::Udp => b"SIP+D2U",
            Transport::Tcp => b"SIP+D2T",
            Transport::Tls => b"SIPS+D2T",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
        })
    }
}

/// A target that cannot be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// It is neither a host nor host and port.
    #[error("`{0}` is not a target: write host, host:port, 192.0.2.1:5060 or [2001:db8::1]:5060")]
    Syntax(String),
    /// The URI asks for a transport that it cannot have.
    #[error("the URI asks for the transport `{0}`: accepted are udp, tcp and tls, and not udp with sips:")]
    Transport(String),
    /// The SRV record says so: its target is `.` (RFC 2782).
    #[error(
        "the DNS says that SIP over {transport} is not offered there (the SRV record of `{service}` has the target `.`): choose another transport, or write the port"
    )]
    NotOffered {
        /// The name of the SRV record.
        service: String,
        /// What was asked for.
        transport: Transport,
    },
    /// NXDOMAIN.
    #[error("the name `{0}` does not exist (NXDOMAIN): check its spelling")]
    NoName(String),
    /// The name is there without A and AAAA records.
    #[error("the name `{0}` has no address: it needs an A or AAAA record")]
    NoAddress(String),
    /// SRV records are there, and none leads to an address.
    #[error(
        "the SRV records of `{service}` lead to no address: none of {hosts} has an A or AAAA record and a port"
    )]
    DeadServices {
        /// The name of the SRV records.
        service: String,
        /// Their targets.
        hosts: String,
    },
    /// The resolver failed, and nothing was found elsewhere.
    #[error("cannot look up {}: {}", .0.question, .0.reason)]
    Failed(Failed),
}

/// A question that the resolver could not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// What was asked.
    pub question: Question,
    /// What the resolver said.
    pub reason: String,
}

/// What to ask the DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// NAPTR (RFC 3403) of an absolute name.
    Naptr(String),
    /// SRV (RFC 2782) of an absolute name.
    Srv(String),
    /// A and AAAA, asked at once, in the order in which this host should try
    /// them (RFC 6724). A name that ends with a dot is absolute; one without is
    /// the host as it was written, and the system's search list may apply.
    Addresses(String),
}

impl Question {
    /// The name that is asked for.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Question::Naptr(name) | Question::Srv(name) | Question::Addresses(name) => name,
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Question::Naptr(_) => "NAPTR",
            Question::Srv(_) => "SRV",
            Question::Addresses(_) => "A and AAAA",
        };
        write!(f, "{kind} of `{}`", self.name())
    }
}

/// One NAPTR record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naptr {
    /// Lower first; only the lowest that applies counts.
    pub order: u16,
    /// Within one order, lower first.
    pub preference: u16,
    /// `s` leads to SRV records.
    pub flags: Vec<u8>,
    /// `SIP+D2U` and its like.
    pub services: Vec<u8>,
    /// Empty for SIP.
    pub regexp: Vec<u8>,
    /// The name of the SRV records.
    pub replacement: String,
}

/// One SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    /// Lower first.
    pub priority: u16,
    /// Share within one priority.
    pub weight: u16,
    /// Port of the service.
    pub port: u16,
    /// Host, or `.`: the service is not there.
    pub target: String,
}

/// What came back. CNAMEs have been followed by the resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Naptr`].
    Naptr(Vec<Naptr>),
    /// To [`Question::Srv`].
    Srv(Vec<Srv>),
    /// To [`Question::Addresses`].
    Addresses(Vec<IpAddr>),
    /// The name is there, records of that type are not.
    NoRecords,
    /// NXDOMAIN.
    NoName,
    /// No answer, or one that is none; said for people.
    Failed(String),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask this, then call [`Locate::answer`].
    Ask(Question),
    /// Found.
    Done(Located),
}

/// Where a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Addresses and ports, best first, each once; never empty.
    pub addresses: Vec<SocketAddr>,
    /// How to talk to each of them.
    pub transport: Transport,
    /// SRV targets and addresses that were too many.
    pub left_out: usize,
    /// Questions that failed on the way, at most one for each that was asked.
    pub failed: Vec<Failed>,
}

/// Splits a target into host and port.
///
/// # Errors
/// [`LocateError::Syntax`].
pub fn split(target: &str) -> Result<(&str, Option<u16>), LocateError> {
    let wrong = || LocateError::Syntax(target.to_owned());
    // An IPv6 address without brackets and port is an address, not host:port.
    if target.parse::<IpAddr>().is_ok() {
        return Ok((target, None));
    }
    let (host, port) = value::host_port(target.as_bytes()).ok_or_else(wrong)?;
    let host = std::str::from_utf8(host).map_err(|_| wrong())?.trim_matches(['[', ']']);
    let plausible =
        host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'%'));
    if host.is_empty() || host == "." || !plausible || port == Some(0) {
        return Err(wrong());
    }
    Ok((host, port))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Naptr,
    /// `services[at]` is asked for.
    Srv(usize),
    /// `hosts[at]` is asked for.
    Addresses(usize),
    Done,
}

#[derive(Debug, Clone)]
struct Host {
    name: String,
    port: u16,
    addresses: Vec<IpAddr>,
    /// Answered, or not worth a question.
    settled: bool,
}

/// The decision of RFC 3263 §4 for one target: at most one NAPTR question, four
/// SRV and sixteen address questions, each asked once, so it always ends.
#[derive(Debug, Clone)]
pub struct Locate {
    host: String,
    transport: Transport,
    seed: u64,
    stage: Stage,
    services: Vec<String>,
    hosts: Vec<Host>,
    /// Hosts that are tried before the target itself, if there are no SRV records.
    fallbacks: Vec<Host>,
    /// The SRV name that `hosts` come from; `None` if it is the target itself.
    found_at: Option<String>,
    /// An SRV name whose target is `.`.
    not_offered: Option<String>,
    no_name: bool,
    left_out: usize,
    failed: Vec<Failed>,
}

impl Locate {
    /// Begins with a target as [`split`] reads it. SRV records of one priority
    /// are drawn by weight from `seed`; the same zone and seed give the same order.
    ///
    /// # Errors
    /// [`LocateError::Syntax`].
    pub fn new(target: &str, transport: Transport, seed: u64) -> Result<Locate, LocateError> {
        let (host, port) = split(target)?;
        let mut locate = Locate {
            host: host.to_owned(),
            transport,
            seed,
            stage: Stage::Naptr,
            services: Vec::new(),
            hosts: Vec::new(),
            fallbacks: Vec::new(),
            found_at: None,
            not_offered: None,
            no_name: false,
            left_out: 0,
            failed: Vec::new(),
        };
        let numeric = host.parse::<IpAddr>().ok();
        // What has a colon is an address with a zone, and no name of the DNS.
        if numeric.is_some() || port.is_some() || host.contains([':', '%']) {
            locate.host_itself(port.unwrap_or(transport.default_port()));
        }
        if let Some(address) = numeric {
            locate.answer(Answer::Addresses(vec![address]));
        }
        Ok(locate)
    }

    /// Begins with a target of the `lync` dialect, which may be a SIP domain or
    /// the name of a pool: the SRV names that its clients try, inside before
    /// outside, then their well-known hosts, then the target itself. There are
    /// no NAPTR records. At most two SRV and five address questions, or sixteen
    /// for SRV records.
    ///
    /// # Errors
    /// [`LocateError::Syntax`].
    pub fn lync(target: &str, transport: Transport, seed: u64) -> Result<Locate, LocateError> {
        let mut locate = Locate::new(target, transport, seed)?;
        if locate.stage != Stage::Naptr {
            return Ok(locate); // an address, or a port
        }
        let (services, hosts): ([&str; 2], &[(&str, u16)]) = match transport {
            Transport::Tls => (
                ["_sipinternaltls._tcp.", "_sip._tls."],
                &[("sipinternal.", 5061), ("sipexternal.", 443), ("sip.", 443), ("sip.", 5061)],
            ),
            Transport::Udp | Transport::Tcp => {
                (["_sipinternal._tcp.", "_sip._tcp."], &[("sipinternal.", 5060), ("sip.", 5060)])
            }
        };
        let name = |prefix: &str| absolute(&format!("{prefix}{}", locate.host));
        locate.services = services.iter().map(|prefix| name(prefix)).collect();
        locate.fallbacks = hosts
            .iter()
            .map(|(prefix, port)| Host {
                name: name(prefix),
                port: *port,
                addresses: Vec::new(),
                settled: false,
            })
            .collect();
        locate.stage = Stage::Srv(0);
        Ok(locate)
    }

    /// Begins with an URI: its `maddr` or host (§4), and the transport that it
    /// prescribes.
    ///
    /// # Errors
    /// [`LocateError::Syntax`], [`LocateError::Transport`].
    pub fn of_uri(uri: &SipUri<'_>, default: Transport, seed: u64) -> Result<Locate, LocateError> {
        let transport = Transport::of_uri(uri, default)?;
        let host = String::from_utf8_lossy(value::param(uri.params, "maddr").unwrap_or(uri.host));
        match uri.port {
            Some(port) => Locate::new(&format!("{host}:{port}"), transport, seed),
            None => Locate::new(&host, transport, seed),
        }
    }

    /// What to do next; the same until it is answered.
    ///
    /// # Errors
    /// Why there is no address.
    pub fn next(&self) -> Result<Step, LocateError> {
        match self.stage {
            Stage::Naptr => Ok(Step::Ask(Question::Naptr(absolute(&self.host)))),
            Stage::Srv(at) => Ok(Step::Ask(Question::Srv(self.services[at].clone()))),
            Stage::Addresses(at) => Ok(Step::Ask(Question::Addresses(self.hosts[at].name.clone()))),
            Stage::Done => self.result(),
        }
    }

    /// Takes the answer to the question of [`Locate::next`]. An answer of
    /// another kind counts as no records; after the end it changes nothing.
    pub fn answer(&mut self, answer: Answer) {
        if let (Answer::Failed(reason), Ok(Step::Ask(question))) = (&answer, self.next()) {
            self.failed.push(Failed { question, reason: reason.clone() });
        }
        match self.stage {
            Stage::Naptr => {
                if let Answer::Naptr(records) = answer {
                    self.services = replacements(records, self.transport);
                }
                if self.services.is_empty() {
                    self.services.push(absolute(&format!("{}{}", self.transport.prefix(), self.host)));
                }
                self.stage = Stage::Srv(0);
            }
            Stage::Srv(at) => self.services_found(at, answer),
            Stage::Addresses(at) => self.addresses_found(at, answer),
            Stage::Done => {}
        }
    }

    fn services_found(&mut self, at: usize, answer: Answer) {
        let mut records = match answer {
            Answer::Srv(records) => records,
            _ => Vec::new(),
        };
        let any = !records.is_empty();
        records.retain(|record| record.target != "." && !record.target.is_empty());
        if any && records.is_empty() {
            self.not_offered.get_or_insert_with(|| self.services[at].clone());
        }
        if records.is_empty() {
            if at + 1 < self.services.len() {
                self.stage = Stage::Srv(at + 1);
            } else if self.not_offered.is_some() {
                self.stage = Stage::Done;
            } else {
                self.host_itself(self.transport.default_port());
            }
            return;
        }
        for record in &mut records {
            record.target = absolute(&record.target).to_ascii_lowercase();
        }
        let mut hosts: Vec<Host> = Vec::new();
        for record in order(records, self.seed) {
            if hosts.iter().any(|host| host.name == record.target && host.port == record.port) {
                continue;
            }
            if hosts.len() == MAX_SERVICES {
                self.left_out += 1;
                continue;
            }
            let settled = record.port == 0;
            hosts.push(Host { name: record.target, port: record.port, addresses: Vec::new(), settled });
        }
        self.hosts = hosts;
        self.found_at = Some(self.services[at].clone());
        self.ask_open_host();
    }

    /// No records decide: the host, on this port.
    fn host_itself(&mut self, port: u16) {
        let host = Host { name: self.host.clone(), port, addresses: Vec::new(), settled: false };
        self.hosts = std::mem::take(&mut self.fallbacks);
        self.hosts.push(host);
        self.stage = Stage::Addresses(0);
    }

    fn addresses_found(&mut self, at: usize, answer: Answer) {
        // Of the hosts that a Lync domain may have, most are not there.
        self.no_name |= answer == Answer::NoName && self.hosts[at].name == self.host;
        let addresses = match answer {
            Answer::Addresses(addresses) => addresses,
            _ => Vec::new(),
        };
        // Records that differ in the port only share one question.
        let name = self.hosts[at].name.clone();
        for host in self.hosts.iter_mut().filter(|host| host.name == name && !host.settled) {
            host.addresses.clone_from(&addresses);
            host.settled = true;
        }
        self.ask_open_host();
    }

    fn ask_open_host(&mut self) {
        self.stage = match self.hosts.iter().position(|host| !host.settled) {
            Some(at) => Stage::Addresses(at),
            None => Stage::Done,
        };
    }

    fn result(&self) -> Result<Step, LocateError> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        let mut left_out = self.left_out;
        for host in &self.hosts {
            for ip in &host.addresses {
                let address = SocketAddr::new(ip.to_canonical(), host.port);
                if addresses.contains(&address) {
                    continue;
                }
                if addresses.len() == MAX_ADDRESSES {
                    left_out += 1;
                } else {
                    addresses.push(address);
                }
            }
        }
        if addresses.is_empty() {
            return Err(self.why());
        }
        Ok(Step::Done(Located {
            addresses,
            transport: self.transport,
            left_out,
            failed: self.failed.clone(),
        }))
    }

    fn why(&self) -> LocateError {
        if let Some(service) = &self.not_offered
            && self.hosts.is_empty()
        {
            return LocateError::NotOffered { service: service.clone(), transport: self.transport };
        }
        let failed = |addresses: bool| {
            let mut last = self.failed.iter().rev();
            last.find(|failed| !addresses || matches!(failed.question, Question::Addresses(_))).cloned()
        };
        if let Some(service) = &self.found_at {
            if let Some(failed) = failed(true) {
                return LocateError::Failed(failed);
            }
            let hosts: Vec<String> =
                self.hosts.iter().map(|host| format!("`{}:{}`", host.name, host.port)).collect();
            return LocateError::DeadServices { service: service.clone(), hosts: hosts.join(", ") };
        }
        // Below a name that does not exist there is nothing either (RFC 8020),
        // so that the failure of an earlier question does not matter.
        if self.no_name {
            return LocateError::NoName(self.host.clone());
        }
        match failed(false) {
            Some(failed) => LocateError::Failed(failed),
            None => LocateError::NoAddress(self.host.clone()),
        }
    }
}

/// The name with the dot that keeps search lists away from it.
fn absolute(name: &str) -> String {
    if name.ends_with('.') { name.to_owned() } else { format!("{name}.") }
}

/// SRV names of the NAPTR records that apply, best first: once one applies,
/// records of another order must not be looked at (RFC 3403 §4.1).
fn replacements(mut records: Vec<Naptr>, transport: Transport) -> Vec<String> {
    records.retain(|record| {
        record.flags.eq_ignore_ascii_case(b"s")
            && record.services.eq_ignore_ascii_case(transport.service())
            && record.regexp.is_empty()
            && !matches!(record.replacement.as_str(), "" | ".")
    });
    records.sort_by(|a, b| {
        (a.order, a.preference, &a.replacement).cmp(&(b.order, b.preference, &b.replacement))
    });
    let Some(order) = records.first().map(|record| record.order) else { return Vec::new() };
    let mut names: Vec<String> = Vec::new();
    for record in records.iter().take_while(|record| record.order == order) {
        let name = absolute(&record.replacement).to_ascii_lowercase();
        if names.len() < MAX_REPLACEMENTS && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// RFC 2782: by priority; within one, drawn by weight. Servers rotate records,
/// so they are brought into one order first: then only the seed decides.
fn order(mut records: Vec<Srv>, seed: u64) -> Vec<Srv> {
    records.sort_by(|a, b| {
        let key = |r: &Srv| (r.priority, r.weight > 0, r.weight, r.port);
        key(a).cmp(&key(b)).then_with(|| a.target.cmp(&b.target))
    });
    let mut out = Vec::with_capacity(records.len());
    let mut chance = seed;
    // A draw costs a walk over its priority; beyond what is used order means nothing.
    while !records.is_empty() && out.len() < 2 * MAX_SERVICES {
        let priority = records[0].priority;
        let same = records.iter().take_while(|record| record.priority == priority).count();
        let total: u64 = records[..same].iter().map(|record| u64::from(record.weight)).sum();
        chance = mix(chance);
        let chosen = if total == 0 {
            // Nothing but zeros: any order will do, and none should be the favourite of all seeds.
            (chance % same as u64) as usize
        } else {
            // Only the records of weight 0, which come first, may have the draw 0: drawn from 0
            // without them, as RFC 2782 words it, the first record had more than its share.
            let lowest = u64::from(records[0].weight > 0);
            let mut left = lowest + chance % (total + 1 - lowest);
            let mut reached = |record: &Srv| {
                let here = u64::from(record.weight) >= left;
                left = left.saturating_sub(u64::from(record.weight));
                here
            };
            records[..same].iter().position(&mut reached).unwrap_or(same - 1)
        };
        out.push(records.remove(chosen));
    }
    out.append(&mut records);
    out
}
