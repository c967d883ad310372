//! Asks the DNS where a target is: the shell around [`adsum_sip::locate`],
//! which knows what to ask and what to make of it (RFC 3263).

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::time::{Duration, Instant};

use adsum_presence::population::Transport;
pub use adsum_sip::locate::split;
use adsum_sip::locate::{self as rfc3263, Answer, Failed, Locate, Naptr, Question, Srv, Step};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::net::allow::Allow;

/// A question is given up after this.
pub const QUESTION_LIMIT: Duration = Duration::from_secs(5);
/// All questions about one target together.
pub const TOTAL_LIMIT: Duration = Duration::from_secs(15);
/// Name server instead of those of the system: `127.0.0.1:5353`.
pub const VARIABLE: &str = "ADSUM_DNS";

/// A datagram to or from a name server may get lost: asked again after this, so
/// that three tries fit into [`QUESTION_LIMIT`].
const TRY_AGAIN: Duration = Duration::from_millis(1600);
/// Tries after the first.
const MORE_TRIES: usize = 2;
/// Addresses that an error names.
const NAMED: usize = 4;

/// A target that cannot be found, or not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// It is malformed, or the DNS has no address for it.
    #[error(transparent)]
    Target(#[from] rfc3263::LocateError),
    /// The name servers answer, but too slowly.
    #[error(
        "`{target}` was not found within {} s; what was asked last is {question}, of {servers}",
        TOTAL_LIMIT.as_secs()
    )]
    TooLong {
        /// What was looked for.
        target: String,
        /// What was asked last.
        question: Question,
        /// Who was asked.
        servers: String,
    },
    /// [`VARIABLE`] is wrong.
    #[error("{VARIABLE}=`{0}` is not a name server: write 192.0.2.53, 192.0.2.53:53 or [2001:db8::53]:53")]
    NameServer(String),
    /// Nobody allowed any of its addresses.
    #[error("traffic to {addresses} is not allowed: {advice}")]
    NotAllowed {
        /// What was found.
        addresses: String,
        /// Who has to add which line.
        advice: String,
    },
}

/// Where a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Best first, each once; never empty.
    pub targets: Vec<SocketAddr>,
    /// How long that took. It is part of no latency.
    pub took: Duration,
    /// Questions that were asked; none for a numeric host.
    pub questions: u32,
    /// SRV targets and addresses beyond what is used.
    pub left_out: usize,
    /// Questions that were not answered, though the target was found.
    pub failed: Vec<Failed>,
}

impl Found {
    /// Leaves those addresses to which traffic may go.
    ///
    /// # Errors
    /// [`LocateError::NotAllowed`] if that is none of them.
    pub fn permitted(mut self, allow: &Allow) -> Result<Found, LocateError> {
        let (permitted, blocked): (Vec<SocketAddr>, Vec<SocketAddr>) =
            self.targets.iter().partition(|target| allow.permits(target.ip()));
        let Some(first) = blocked.first() else { return Ok(self) };
        let addresses = named(blocked.iter().map(SocketAddr::ip));
        let advice = allow.advice(first.ip());
        if permitted.is_empty() {
            return Err(LocateError::NotAllowed { addresses, advice });
        }
        tracing::warn!(%addresses, %advice, "some addresses of the target are not allowed and not used");
        self.targets = permitted;
        Ok(self)
    }
}

/// The first of these, each once, and how many more there are.
fn named(addresses: impl Iterator<Item = IpAddr>) -> String {
    let mut distinct: Vec<String> = Vec::new();
    for address in addresses {
        let text = address.to_string();
        if !distinct.contains(&text) {
            distinct.push(text);
        }
    }
    let more = distinct.len().saturating_sub(NAMED);
    distinct.truncate(NAMED);
    let text = distinct.join(", ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}

/// The addresses of a target, best first, with the name servers that the
/// environment or the system names.
///
/// # Errors
/// [`LocateError`].
pub async fn locate(target: &str, transport: Transport, seed: u64) -> Result<Found, LocateError> {
    Resolver::from_environment()?.locate(target, transport, seed).await
}

/// The same by the SRV names and hosts that clients of a Lync server try; the target may be a SIP
/// domain or the name of a pool. See [`Locate::lync`].
///
/// # Errors
/// [`LocateError`].
pub async fn locate_lync(target: &str, transport: Transport, seed: u64) -> Result<Found, LocateError> {
    Resolver::from_environment()?.locate_lync(target, transport, seed).await
}

fn told(transport: Transport) -> rfc3263::Transport {
    match transport {
        Transport::Udp => rfc3263::Transport::Udp,
        Transport::Tcp => rfc3263::Transport::Tcp,
        Transport::Tls => rfc3263::Transport::Tls,
    }
}

/// Whom to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolver {
    server: Option<SocketAddr>,
}

impl Resolver {
    /// The name servers of `/etc/resolv.conf`.
    #[must_use]
    pub fn system() -> Self {
        Resolver { server: None }
    }

    /// This one, for everything that `/etc/hosts` does not know.
    #[must_use]
    pub fn at(server: SocketAddr) -> Self {
        Resolver { server: Some(server) }
    }

    /// The one that [`VARIABLE`] names, else those of the system.
    ///
    /// # Errors
    /// [`LocateError::NameServer`].
    pub fn from_environment() -> Result<Self, LocateError> {
        match std::env::var_os(VARIABLE) {
            Some(text) if !text.is_empty() => {
                let text = text.to_string_lossy();
                name_server(&text).map(Resolver::at).ok_or_else(|| LocateError::NameServer(text.into_owned()))
            }
            _ => Ok(Resolver::system()),
        }
    }

    /// The addresses of a target, best first (RFC 3263 §4); SRV records of one
    /// priority are drawn by weight from `seed`.
    ///
    /// # Errors
    /// [`LocateError`], after [`TOTAL_LIMIT`] at the latest.
    pub async fn locate(&self, target: &str, transport: Transport, seed: u64) -> Result<Found, LocateError> {
        let transport = told(transport);
        self.run(Locate::new(target, transport, seed)?, target, transport).await
    }

    /// See [`locate_lync`].
    ///
    /// # Errors
    /// [`LocateError`], after [`TOTAL_LIMIT`] at the latest.
    pub async fn locate_lync(
        &self,
        target: &str,
        transport: Transport,
        seed: u64,
    ) -> Result<Found, LocateError> {
        let transport = told(transport);
        self.run(Locate::lync(target, transport, seed)?, target, transport).await
    }

    async fn run(
        &self,
        mut locate: Locate,
        target: &str,
        transport: rfc3263::Transport,
    ) -> Result<Found, LocateError> {
        let began = Instant::now();
        let (host, port) = split(target)?;
        let mut questions = 0;
        let mut names = Names::default();
        loop {
            match locate.next()? {
                Step::Done(found) => {
                    return Ok(Found {
                        targets: found.addresses,
                        took: began.elapsed(),
                        questions,
                        left_out: found.left_out,
                        failed: found.failed,
                    });
                }
                // An address with a zone, `fe80::1%eth0`: the zone is a number that only the system knows.
                Step::Ask(Question::Addresses(_)) if host.contains('%') => {
                    let port = port.unwrap_or(transport.default_port());
                    match by_system(host.to_owned(), port, QUESTION_LIMIT).await {
                        Ok(targets) if !targets.is_empty() => {
                            let took = began.elapsed();
                            return Ok(Found { targets, took, questions, left_out: 0, failed: Vec::new() });
                        }
                        Ok(_) => locate.answer(Answer::NoRecords),
                        Err(reason) => locate.answer(Answer::Failed(reason)),
                    }
                }
                Step::Ask(question) => {
                    let left = TOTAL_LIMIT.saturating_sub(began.elapsed());
                    if left.is_zero() {
                        let servers = names.servers.clone();
                        return Err(LocateError::TooLong { target: target.to_owned(), question, servers });
                    }
                    questions += 1;
                    let answer = names.ask(self.server, &question, left.min(QUESTION_LIMIT)).await;
                    tracing::debug!(%question, ?answer, "name resolution");
                    locate.answer(answer);
                }
            }
        }
    }
}

/// `192.0.2.53`, with or without a port.
fn name_server(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    text.parse().ok().or_else(|| Some(SocketAddr::new(text.trim_matches(['[', ']']).parse().ok()?, 53)))
}

/// The resolver of one look-up, made when it is needed first.
#[derive(Default)]
struct Names {
    resolver: Option<Result<TokioResolver, String>>,
    servers: String,
}

impl Names {
    async fn ask(&mut self, server: Option<SocketAddr>, question: &Question, limit: Duration) -> Answer {
        if let (Question::Addresses(name), None) = (question, server)
            && !name.ends_with('.')
        {
            // As it was written: the system knows /etc/hosts, search lists and other sources.
            match by_system(name.clone(), 0, limit).await {
                Ok(found) if !found.is_empty() => {
                    return Answer::Addresses(found.iter().map(SocketAddr::ip).collect());
                }
                Err(reason) if reason == NO_ANSWER => {
                    return Answer::Failed(format!("{reason} within {} s", limit.as_secs_f32().round()));
                }
                // It does not say whether the name is wrong or a server is: the resolver does.
                Ok(_) | Err(_) => {}
            }
        }
        let servers = &mut self.servers;
        let resolver = match self.resolver.get_or_insert_with(|| build(server, servers)) {
            Ok(resolver) => resolver,
            Err(reason) => return Answer::Failed(reason.clone()),
        };
        let asked = Asked { resolver, servers, limit };
        match question {
            Question::Naptr(name) => asked.naptr(name).await,
            Question::Srv(name) => asked.srv(name).await,
            Question::Addresses(name) if name.ends_with('.') => asked.addresses(name).await,
            Question::Addresses(name) => asked.addresses(&format!("{name}.")).await,
        }
    }
}

fn build(server: Option<SocketAddr>, servers: &mut String) -> Result<TokioResolver, String> {
    let (config, mut options) = match server {
        Some(server) => {
            let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
            (udp.port, tcp.port) = (server.port(), server.port());
            let server = NameServerConfig::new(server.ip(), true, vec![udp, tcp]);
            (ResolverConfig::from_parts(None, Vec::new(), vec![server]), ResolverOpts::default())
        }
        None => hickory_resolver::system_conf::read_system_conf()
            .map_err(|error| format!("the name servers of this host are not known: {error}"))?,
    };
    let all = config.name_servers().iter().map(|server| {
        let port = server.connections.first().map_or(53, |connection| connection.port);
        SocketAddr::new(server.ip, port).to_string()
    });
    *servers = all.collect::<Vec<_>>().join(", ");
    options.timeout = options.timeout.min(TRY_AGAIN);
    options.attempts = options.attempts.min(MORE_TRIES);
    options.use_hosts_file = ResolveHosts::Always;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|error| format!("no resolver can be made: {error}"))
}

struct Asked<'a> {
    resolver: &'a TokioResolver,
    servers: &'a str,
    limit: Duration,
}

impl Asked<'_> {
    async fn naptr(&self, name: &str) -> Answer {
        let records = self.records(name, RecordType::NAPTR).await.map(|records| {
            let records = records.into_iter().filter_map(|data| match data {
                RData::NAPTR(naptr) => Some(Naptr {
                    order: naptr.order,
                    preference: naptr.preference,
                    flags: naptr.flags.to_vec(),
                    services: naptr.services.to_vec(),
                    regexp: naptr.regexp.to_vec(),
                    replacement: naptr.replacement.to_ascii(),
                }),
                _ => None,
            });
            Answer::Naptr(records.collect())
        });
        records.unwrap_or_else(|answer| answer)
    }

    async fn srv(&self, name: &str) -> Answer {
        let records = self.records(name, RecordType::SRV).await.map(|records| {
            let records = records.into_iter().filter_map(|data| match data {
                RData::SRV(srv) => Some(Srv {
                    priority: srv.priority,
                    weight: srv.weight,
                    port: srv.port,
                    target: srv.target.to_ascii(),
                }),
                _ => None,
            });
            Answer::Srv(records.collect())
        });
        records.unwrap_or_else(|answer| answer)
    }

    async fn addresses(&self, name: &str) -> Answer {
        // Each has its own limit: a server that keeps silent about AAAA must not hide A.
        let (v4, v6) = tokio::join!(self.records(name, RecordType::A), self.records(name, RecordType::AAAA));
        let mut found = Vec::new();
        for data in v6.iter().flatten().chain(v4.iter().flatten()) {
            match data {
                RData::A(a) => found.push(IpAddr::V4(a.0)),
                RData::AAAA(aaaa) => found.push(IpAddr::V6(aaaa.0)),
                _ => {}
            }
        }
        if !found.is_empty() {
            found.truncate(2 * rfc3263::MAX_ADDRESSES);
            // RFC 6724, rule 1: what this host has no way to comes last.
            found.sort_by_cached_key(|address| !has_route(*address));
            return Answer::Addresses(found);
        }
        match (v4, v6) {
            (Err(Answer::Failed(reason)), _) | (_, Err(Answer::Failed(reason))) => Answer::Failed(reason),
            (Err(Answer::NoName), Err(Answer::NoName)) => Answer::NoName,
            _ => Answer::NoRecords,
        }
    }

    /// The records of a type, or the answer that there are none.
    async fn records(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, Answer> {
        let looked_up = tokio::time::timeout(self.limit, self.resolver.lookup(name, kind)).await;
        match looked_up.unwrap_or(Err(NetError::Timeout)) {
            Ok(found) => Ok(found.answers().iter().map(|record| record.data.clone()).collect()),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Err(match none.response_code {
                ResponseCode::NXDomain => Answer::NoName,
                ResponseCode::NoError => Answer::NoRecords,
                other => Answer::Failed(format!("the name server {} says: {other}", self.servers)),
            }),
            Err(error) => Err(Answer::Failed(self.reason(&error))),
        }
    }

    fn reason(&self, error: &NetError) -> String {
        let servers = self.servers;
        match error {
            NetError::Timeout => {
                format!("{NO_ANSWER} {servers} within {} s", self.limit.as_secs_f32().round())
            }
            NetError::NoConnections if servers.is_empty() => {
                "/etc/resolv.conf names no name server".to_owned()
            }
            NetError::NoConnections => format!("there is no way to the name server {servers}"),
            NetError::Io(error) => format!("the name server {servers} cannot be reached: {error}"),
            NetError::Dns(DnsError::ResponseCode(code)) => format!("the name server {servers} says: {code}"),
            other => format!("{other} (name server {servers})"),
        }
    }
}

const NO_ANSWER: &str = "no answer from the name server";

/// What the system says: `/etc/hosts`, search lists, whatever `nsswitch.conf` names.
async fn by_system(host: String, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, String> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A thread of its own: the system's look-up cannot be stopped, and a runtime
    // would wait for it at its end. It ends by itself when the system gives up.
    std::thread::Builder::new()
        .name("look-up".to_owned())
        .spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            drop(sender.send(found.map(Iterator::collect).map_err(|error| error.to_string())));
        })
        .map_err(|error| format!("no thread for the system's look-up: {error}"))?;
    match tokio::time::timeout(limit, receiver).await {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => Err("the system's look-up ended without a result".to_owned()),
        Err(_) => Err(NO_ANSWER.to_owned()),
    }
}

/// True if the kernel knows a way there; connecting a datagram socket sends nothing.
fn has_route(address: IpAddr) -> bool {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    UdpSocket::bind(any).and_then(|socket| socket.connect((address, 5060))).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read() {
        for (text, expected) in [
            ("127.0.0.1", Some("127.0.0.1:53")),
            (" 127.0.0.1:5353", Some("127.0.0.1:5353")),
            ("::1", Some("[::1]:53")),
            ("[::1]", Some("[::1]:53")),
            ("[::1]:5353", Some("[::1]:5353")),
            ("dns.example.com", None),
            ("", None),
        ] {
            assert_eq!(name_server(text), expected.map(|text| text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn only_permitted_addresses_stay() {
        let found = |addresses: &[&str]| Found {
            targets: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            took: Duration::ZERO,
            questions: 0,
            left_out: 0,
            failed: Vec::new(),
        };
        let allow = Allow::new(vec!["192.0.2.2".parse().unwrap()], None);
        let mixed = found(&["192.0.2.1:5060", "192.0.2.2:5060", "127.0.0.1:5060"]);
        let left = mixed.permitted(&allow).unwrap().targets;
        assert_eq!(left, found(&["192.0.2.2:5060", "127.0.0.1:5060"]).targets);
        let error = found(&["192.0.2.3:5060"]).permitted(&allow).unwrap_err().to_string();
        assert!(error.starts_with("traffic to 192.0.2.3 is not allowed: to permit it, add allow"), "{error}");
        let many: Vec<String> = (1..=9).map(|at| format!("198.51.100.{at}:5060")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = found(&many).permitted(&allow).unwrap_err().to_string();
        assert!(error.contains("198.51.100.4 and 5 more is not allowed"), "{error}");
    }

    #[test]
    fn names_of_this_host_resolve_without_a_name_server() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let locate = |target| runtime.block_on(Resolver::system().locate(target, Transport::Udp, 1));
        let found = locate("localhost:5062").unwrap();
        assert!(found.targets.iter().all(|a| a.ip().is_loopback() && a.port() == 5062));
        assert_eq!(found.questions, 1);
        let found = locate("[::1%1]:5062");
        assert!(found.is_ok_and(|found| found.targets[0].port() == 5062));
        let error = locate("127.0.0.1:x").unwrap_err();
        assert!(matches!(error, LocateError::Target(rfc3263::LocateError::Syntax(_))));
    }
}
