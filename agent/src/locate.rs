//! Where a target is (RFC 3263): SRV, then A and AAAA.

use std::net::{IpAddr, SocketAddr};

use adsum_presence::population::Transport;
use adsum_sip::ids::mix;
use adsum_sip::value;
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;

/// A target that cannot be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// It is neither a host nor host and port.
    #[error("`{0}` is not a target: write host, host:port, 192.0.2.1:5060 or [2001:db8::1]:5060")]
    Syntax(String),
    /// No name server knows it, or none answered.
    #[error("cannot resolve `{name}`: {reason}")]
    Dns {
        /// What was asked for.
        name: String,
        /// What came back.
        reason: String,
    },
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
    if host.is_empty() || !plausible {
        return Err(wrong());
    }
    Ok((host, port))
}

/// The addresses of a target, best first.
///
/// A numeric host, or an explicit port, is looked up as it is (§4.2); else the
/// SRV records of the transport decide, by priority and by weight drawn from
/// `seed` (RFC 2782); without any, the host itself on the default port.
///
/// # Errors
/// [`LocateError`].
pub async fn locate(target: &str, transport: Transport, seed: u64) -> Result<Vec<SocketAddr>, LocateError> {
    let (host, port) = split(target)?;
    let default = if transport == Transport::Tls { 5061 } else { 5060 };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port.unwrap_or(default))]);
    }
    if port.is_none() {
        let service = match transport {
            Transport::Udp => "_sip._udp.",
            Transport::Tcp => "_sip._tcp.",
            Transport::Tls => "_sips._tcp.",
        };
        let records = services(&format!("{service}{host}.")).await;
        let mut found = Vec::new();
        for (name, port) in order(records, seed) {
            // One dead record must not hide the others.
            found.extend(addresses(&name, port).await.unwrap_or_default());
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    addresses(host, port.unwrap_or(default)).await
}

async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, LocateError> {
    let wrong = |reason: String| LocateError::Dns { name: host.to_owned(), reason };
    let mut found: Vec<SocketAddr> =
        tokio::net::lookup_host((host, port)).await.map_err(|e| wrong(e.to_string()))?.collect();
    found.dedup();
    if found.is_empty() { Err(wrong("it has no address".to_owned())) } else { Ok(found) }
}

/// One SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Service {
    priority: u16,
    weight: u16,
    port: u16,
    name: String,
}

async fn services(name: &str) -> Vec<Service> {
    let Ok(resolver) = TokioResolver::builder_tokio().and_then(|builder| builder.build()) else {
        return Vec::new();
    };
    let Ok(found) = resolver.srv_lookup(name).await else { return Vec::new() };
    found
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(Service {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                name: srv.target.to_string(),
            }),
            _ => None,
        })
        .collect()
}

/// RFC 2782: by priority; within one, drawn by weight.
fn order(mut records: Vec<Service>, seed: u64) -> Vec<(String, u16)> {
    // "." as a target says that the service is not there.
    records.retain(|record| record.name != ".");
    records.sort_by_key(|record| (record.priority, record.weight > 0));
    let mut out = Vec::with_capacity(records.len());
    let mut chance = seed;
    while !records.is_empty() {
        let priority = records[0].priority;
        let same = records.iter().take_while(|record| record.priority == priority).count();
        let total: u64 = records[..same].iter().map(|record| u64::from(record.weight)).sum();
        chance = mix(chance);
        let mut left = chance % (total + 1);
        let mut chosen = same - 1;
        for (at, record) in records[..same].iter().enumerate() {
            if u64::from(record.weight) >= left {
                chosen = at;
                break;
            }
            left -= u64::from(record.weight);
        }
        let record = records.remove(chosen);
        out.push((record.name, record.port));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_split() {
        assert_eq!(split("pool.example.com"), Ok(("pool.example.com", None)));
        assert_eq!(split("[::1]:5070"), Ok(("::1", Some(5070))));
        assert_eq!(split("::1"), Ok(("::1", None)));
        for wrong in ["", "a b", "host:port", "sip:host", "host:99999"] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn priorities_are_kept_and_weights_respected() {
        let record =
            |priority, weight, name: &str| Service { priority, weight, port: 1, name: name.to_owned() };
        let mut first = [0; 2];
        for seed in 0..4000 {
            let ordered = order(
                vec![record(2, 9, "last"), record(1, 30, "a"), record(1, 10, "b"), record(0, 0, ".")],
                seed,
            );
            assert_eq!((ordered.len(), ordered[2].0.as_str()), (3, "last"));
            first[usize::from(ordered[0].0 == "b")] += 1;
        }
        let share = f64::from(first[0]) / 4000.0;
        assert!((share - 0.75).abs() < 0.05, "{share}");
    }

    #[test]
    fn names_of_this_host_resolve_without_a_name_server() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = runtime.block_on(locate("localhost:5062", Transport::Udp, 1)).unwrap();
        assert!(found.iter().all(|a| a.ip().is_loopback() && a.port() == 5062));
        let error = runtime.block_on(locate("127.0.0.1:x", Transport::Udp, 1)).unwrap_err();
        assert!(matches!(error, LocateError::Syntax(_)));
    }
}
