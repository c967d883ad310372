//! The messages and documents of the `lync` dialect: what a client says to a
//! Lync Server 2013 ([MS-SIPRE], [MS-SIPREGE], [MS-PRES], [MS-SIP]).
//!
//! No such server was at hand. Where the published documents leave something
//! open, we write what the known clients write, read whatever comes, and a
//! comment says so.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`identity`] | epid, `+sip.instance`, the numbers of instances |
//! | [`messages`] | REGISTER, SUBSCRIBE and SERVICE as templates |
//! | [`documents`] | the bodies that we write |
//! | [`versions`] | what the server holds of ours, by version |
//! | [`watched`] | what it says of those whom we watch |
//! | [`tags`] | start tags of an XML text, without a tree |

pub mod documents;
pub mod identity;
pub mod messages;
pub mod tags;
pub mod versions;
pub mod watched;

use adsum_sip::{HeaderId, Message};
use smallvec::SmallVec;

/// How the dialect is spoken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LyncOptions {
    /// `User-Agent`, if not [`messages::USER_AGENT`]: version filters of a pool
    /// (17002, 17003 of [MS-OCER]) may let certain ones pass only.
    pub user_agent: Option<String>,
    /// How users prove who they are.
    pub auth: LyncAuth,
    /// Nothing stays behind: also the `state` that a user set is withdrawn, and what a server
    /// may have taken without an answer.
    pub is_tidy: bool,
    /// What the server holds of a user is taken as published by us in an earlier life: signing off
    /// withdraws it.
    pub takes_back: bool,
}

/// How users prove who they are to a Lync server ([MS-SIPAE]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LyncAuth {
    /// Not at all: the server trusts the connection (a trusted server's
    /// certificate), or everybody. A challenge is a failure.
    #[default]
    None,
    /// Digest (RFC 7616), which some servers offer to external users.
    Digest,
    /// NTLM, with signatures on all that follows.
    Ntlm(NtlmOptions),
}

/// What NTLM needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NtlmOptions {
    /// Check what the server signs; costs an HMAC for each message.
    pub verify: bool,
    /// The name of this host.
    pub workstation: String,
    /// What time it is when the population is made: 100 ns since 1601, UTC.
    /// Servers that send no time refuse one that is 15 minutes off.
    pub filetime: u64,
}

/// Appends which authentication schemes a server offered, and what can be done
/// about them.
pub fn write_schemes(message: &Message<'_>, out: &mut Vec<u8>) {
    let mut names: SmallVec<[&[u8]; 8]> = SmallVec::new();
    for id in [HeaderId::WwwAuthenticate, HeaderId::ProxyAuthenticate] {
        for value in message.headers(id).take(8) {
            let name = value.split(u8::is_ascii_whitespace).next().unwrap_or(b"");
            let name = name.get(..name.len().min(32)).unwrap_or(name);
            if !name.is_empty() && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    out.extend_from_slice(b"the server offers ");
    for (at, name) in names.iter().enumerate() {
        out.extend_from_slice(if at > 0 { b", " } else { b"" });
        out.extend_from_slice(name);
    }
    out.extend_from_slice(match names.is_empty() {
        true => b"nothing (a challenge without a scheme)" as &[u8],
        false => b"",
    });
    if names.iter().any(|name| name.eq_ignore_ascii_case(b"NTLM")) {
        // It could be answered, and is not to be: by `auth`, or because there are no passwords.
        out.extend_from_slice(
            b": it does not trust this connection. Use auth = \"ntlm\" and give the users passwords, or let the pool \
              trust this host (New-CsTrustedApplicationPool -TreatAsAuthenticated $true) and connect with the \
              certificate of its name",
        );
        return;
    }
    out.extend_from_slice(
        b"; of its schemes adsum speaks NTLM only: let the pool offer NTLM \
          (Set-CsProxyConfiguration -UseNtlmForClientToProxyAuth $true), use auth = \"ntlm\" and give the users passwords, or \
          make this host a trusted server and use auth = \"trusted\" with its certificate",
    );
}
