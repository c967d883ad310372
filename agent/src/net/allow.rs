//! Where traffic may go: loopback always, everything else only by permission.

use std::net::IpAddr;
use std::str::FromStr;

/// A network in CIDR notation; an address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// A text that is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network: write an address or 192.0.2.0/24, 2001:db8::/32")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.trim().parse().map_err(|_| wrong()))?;
        if bits > most { Err(wrong()) } else { Ok(Network { address, bits }) }
    }
}

impl Network {
    /// True if the address lies inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                (u64::from(u32::from(network)) >> shift) == (u64::from(u32::from(address)) >> shift)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                let cut = |a: u128| a.checked_shr(shift).unwrap_or(0);
                cut(u128::from(network)) == cut(u128::from(address))
            }
            _ => false,
        }
    }
}

/// What a plan may reach: what the scenario allows, within what the agent's
/// operator allows.
#[derive(Debug, Clone, Default)]
pub struct Allow {
    networks: Vec<Network>,
    /// The operator's own list; `None` where scenario and operator are one.
    operator: Option<Vec<Network>>,
}

impl Allow {
    /// Loopback and these networks; outside loopback the operator has to
    /// agree, if there is one.
    #[must_use]
    pub fn new(networks: Vec<Network>, operator: Option<Vec<Network>>) -> Self {
        Allow { networks, operator }
    }

    /// True if traffic may go there.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback()
            || (self.networks.iter().any(|n| n.contains(address))
                && self.operator.as_ref().is_none_or(|list| list.iter().any(|n| n.contains(address))))
    }

    /// Who has to add which line so that an address is permitted.
    #[must_use]
    pub fn advice(&self, address: IpAddr) -> String {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        if self.networks.iter().any(|n| n.contains(address)) {
            format!("the agent's operator has to start it with --allow {address}/{bits}")
        } else {
            format!(
                "to permit it, add allow = [\"{address}/{bits}\"] to [pool] (or --allow {address}/{bits})"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_free_and_the_operator_has_the_last_word() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let net = |text: &str| text.parse::<Network>().unwrap();
        assert!(Allow::default().permits(ip("127.9.9.9")) && Allow::default().permits(ip("::1")));
        assert!(!Allow::default().permits(ip("192.168.1.1")));
        let both = Allow::new(vec![net("192.0.2.0/24"), net("2001:db8::/32")], None);
        assert!(both.permits(ip("192.0.2.255")) && both.permits(ip("2001:db8::9")));
        assert!(!both.permits(ip("192.0.3.0")));
        let held = Allow::new(vec![net("0.0.0.0/0")], Some(vec![net("192.0.2.7")]));
        assert!(held.permits(ip("192.0.2.7")) && !held.permits(ip("192.0.2.8")));
        for wrong in ["192.0.2.0/33", "x", "1.2.3.4/", "::/129"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
