//! A development CA and certificates with roles, for the link between
//! coordinator and agents.
//!
//! `init` makes a CA, `issue` certificates below it (both need a TLS provider:
//! the feature `aws-lc-rs` or `ring`). What a certificate is
//! good for stands in it as a URI, `urn:adsum:role:agent`, beside its names; a
//! verified peer's role is read back with [`Role::of_certificate`]. Keys are
//! ECDSA P-256 and are written with mode 0600; nothing is ever overwritten.
//!
//! Somebody who has a CA needs none of this: any certificate with the URI of
//! its role will do.

use std::fmt;

#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
mod make;

#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub use make::{CA_FILE, CA_KEY_FILE, CertsError, VALID_DAYS, Written, init, issue};

const ROLE_URI: &str = "urn:adsum:role:";

/// What a certificate is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Listens: agents and operators trust it.
    Coordinator,
    /// Makes load.
    Agent,
    /// Starts and stops runs.
    Operator,
}

impl Role {
    /// All roles with their words.
    pub const ALL: [(&'static str, Role); 3] =
        [("coordinator", Role::Coordinator), ("agent", Role::Agent), ("operator", Role::Operator)];

    /// The word on the command line and in certificates.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Coordinator => "coordinator",
            Role::Agent => "agent",
            Role::Operator => "operator",
        }
    }

    /// The role of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.iter().find(|(word, _)| *word == name).map(|(_, role)| *role)
    }

    pub(crate) fn uri(self) -> String {
        format!("{ROLE_URI}{}", self.name())
    }

    /// The role that a certificate (DER) names; `None` without one, or with
    /// several. Call it only for a certificate that was verified.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Option<Role> {
        // A uniformResourceIdentifier of RFC 5280 §4.2.1.6 is [6] IA5String:
        // its tag, its length, its text. No DNS name, address or common name
        // can hold these bytes, as a colon stands in none of ours.
        let holds = |role: &Role| {
            let uri = role.uri();
            let mut value = vec![0x86, uri.len() as u8];
            value.extend_from_slice(uri.as_bytes());
            der.windows(value.len()).any(|window| window == value)
        };
        let mut roles = Role::ALL.iter().map(|(_, role)| *role).filter(|role| holds(role));
        match (roles.next(), roles.next()) {
            (Some(role), None) => Some(role),
            _ => None,
        }
    }
}

/// Refuses a peer whose certificate says that it is something else. Where no
/// certificates are asked for — loopback, a private socket, memory — whoever
/// can connect may.
///
/// # Errors
/// `PermissionDenied`, naming the role found and the command that makes the right one.
// A `Status` is large, and made once for a peer that is turned away.
#[allow(clippy::result_large_err)]
pub(crate) fn require<T>(request: &tonic::Request<T>, role: Role) -> Result<(), tonic::Status> {
    let Some(chain) = request.peer_certs() else { return Ok(()) };
    let found = chain.first().and_then(|certificate| Role::of_certificate(certificate));
    if found == Some(role) {
        return Ok(());
    }
    let found = found.map_or_else(|| "no role".to_owned(), |found| format!("the role `{found}`"));
    Err(tonic::Status::permission_denied(format!(
        "your certificate has {found}, this needs `{role}`: make one with `adsum certs issue {role} NAME`"
    )))
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
