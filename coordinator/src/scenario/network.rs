//! Addresses as scenarios write them: networks, ranges, and `host[:port]`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// More local addresses than this are a slip of the pen, not a load test.
pub const MAX_SOURCE_ADDRESSES: u128 = 65_536;

/// An IP network, `192.0.2.0/24`; an address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Reads a network in CIDR notation.
    ///
    /// # Errors
    /// What is wrong with it, in words, also when bits behind the prefix are
    /// set: it is not clear then what was meant.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| "no IP address stands before the `/`; names are not networks".to_owned())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = match prefix {
            None => longest,
            Some(text) => text
                .parse()
                .ok()
                .filter(|prefix| *prefix <= longest)
                .ok_or_else(|| format!("the prefix is no number from 0 to {longest}"))?,
        };
        let network = Network { address, prefix };
        let first = from_number(network.bits(address), address.is_ipv4());
        if first != address {
            return Err(format!("bits behind the prefix are set; the network is {first}/{prefix}"));
        }
        Ok(network)
    }

    /// True if the address lies in this network. IPv4-mapped IPv6 addresses count as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.bits(address) == self.bits(self.address)
    }

    /// The address with the bits behind the prefix cleared.
    fn bits(&self, address: IpAddr) -> u128 {
        let (number, width) = (number(address), if address.is_ipv4() { 32 } else { 128 });
        match width - u32::from(self.prefix).min(width) {
            128 => 0,
            host_bits => number >> host_bits << host_bits,
        }
    }

    fn first_and_last(&self) -> (u128, u128) {
        let first = self.bits(self.address);
        let width = if self.address.is_ipv4() { 32 } else { 128 };
        let host_bits = width - u32::from(self.prefix).min(width);
        let size_minus_one = if host_bits == 128 { u128::MAX } else { (1u128 << host_bits) - 1 };
        (first, first | size_minus_one)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// True if nobody but this host is reached: the loopback networks.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Local addresses to send from: `127.0.0.1`, `127.0.0.1-127.0.0.8`, `192.0.2.0/28`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceRange {
    first: IpAddr,
    last: IpAddr,
}

impl SourceRange {
    /// Reads an address, a range or a network.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let range = if let Some((first, last)) = text.split_once('-') {
            let read = |text: &str| {
                text.trim().parse::<IpAddr>().map_err(|_| format!("`{}` is no IP address", text.trim()))
            };
            SourceRange { first: read(first)?, last: read(last)? }
        } else {
            let network = Network::parse(text)?;
            let (first, last) = network.first_and_last();
            let v4 = network.address.is_ipv4();
            SourceRange { first: from_number(first, v4), last: from_number(last, v4) }
        };
        if range.first.is_ipv4() != range.last.is_ipv4() {
            return Err("one end is IPv4 and the other IPv6".to_owned());
        }
        if number(range.last) < number(range.first) {
            return Err("the last address lies before the first".to_owned());
        }
        if range.len() > MAX_SOURCE_ADDRESSES {
            return Err(format!("more than {MAX_SOURCE_ADDRESSES} addresses"));
        }
        Ok(range)
    }

    /// How many addresses there are: at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(&self) -> u128 {
        (number(self.last) - number(self.first)).saturating_add(1)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn from_number(number: u128, v4: bool) -> IpAddr {
    if v4 {
        // The number of an IPv4 address never exceeds 32 bits here.
        IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

/// `host[:port]` as in RFC 3261's `hostport`: a name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The name or the address, without brackets.
    pub host: String,
    /// The port, if one is given.
    pub port: Option<u16>,
    /// The address, if the host is one.
    pub address: Option<IpAddr>,
}

impl HostPort {
    /// Reads `host[:port]`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(scheme) = ["sip:", "sips:", "http:", "https:"].iter().find(|s| text.starts_with(**s)) {
            return Err(format!("this is a URI: leave `{scheme}` away"));
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (host, after) = rest.split_once(']').ok_or("the bracket `[` is not closed")?;
            let address: Ipv6Addr = host.parse().map_err(|_| format!("`{host}` is no IPv6 address"))?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(read_port(port)?),
                None if after.is_empty() => None,
                None => return Err("something stands behind the bracket that is no `:port`".to_owned()),
            };
            return Ok(HostPort { host: host.to_owned(), port, address: Some(IpAddr::V6(address)) });
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(format!("an IPv6 address stands in brackets: `[{text}]`"));
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(read_port(port)?)),
            None => (text, None),
        };
        let address = host.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
        if address.is_none() && !is_host_name(host) {
            return Err(format!("`{host}` is neither a host name nor an IP address"));
        }
        Ok(HostPort { host: host.to_owned(), port, address })
    }
}

fn read_port(text: &str) -> Result<u16, String> {
    text.parse::<u16>()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("`{text}` is no port from 1 to 65535"))
}

/// RFC 3261's `hostname`: labels of letters, digits and hyphens, the last one not all digits.
fn is_host_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    (1..=253).contains(&name.len()) && name.split('.').all(label) && !last_is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses_only() {
        let table = [
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("::/0", "192.0.2.1", false),
            ("192.0.2.0/24", "::ffff:192.0.2.1", true),
        ];
        for (network, address, inside) in table {
            let network = Network::parse(network).unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), inside, "{network} {address}");
        }
        for wrong in ["192.0.2.1/24", "192.0.2.0/33", "pool.test", "2001:db8::/129", ""] {
            assert!(Network::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn source_ranges_count_their_addresses() {
        assert_eq!(SourceRange::parse("127.0.0.1-127.0.0.8").unwrap().len(), 8);
        assert_eq!(SourceRange::parse("127.0.0.1").unwrap().len(), 1);
        assert_eq!(SourceRange::parse("10.0.0.0/28").unwrap().len(), 16);
        assert_eq!(SourceRange::parse("::1").unwrap().len(), 1);
        for wrong in ["127.0.0.8-127.0.0.1", "127.0.0.1-::1", "10.0.0.0/8", "x-y", "2001:db8::/32"] {
            assert!(SourceRange::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn targets_are_hosts_with_ports() {
        for right in
            ["pool.test", "pool.test:5060", "127.0.0.1:5060", "[::1]", "[2001:db8::1]:5061", "localhost"]
        {
            assert!(HostPort::parse(right).is_ok(), "{right}");
        }
        for wrong in
            ["sip:pool.test", "::1", "[::1", "pool.test:0", "pool test", "", "1.2.3.4.5", "[::1]x", "a:99999"]
        {
            assert!(HostPort::parse(wrong).is_err(), "{wrong}");
        }
    }
}
