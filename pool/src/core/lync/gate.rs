//! Who may speak ([MS-SIPAE]): challenges, security associations, and the
//! signatures on what goes out.

use adsum_sip::Message;
use adsum_sip::protection::Outgoing;
use adsum_sip::time::Time;

use crate::config::{LyncScheme, PoolConfig};

use super::super::counts::Stats;
use super::clock::write_http_date;
use super::{Lync, Peer, Reply};

/// The realm of every server that was ever seen.
const REALM: &str = "SIP Communications Service";

/// A security association.
pub(super) type Association = u32;

#[derive(Debug)]
pub(super) struct Gate {
    /// The first lines of a challenge, which are the same for everybody.
    offer: Vec<u8>,
}

impl Gate {
    pub(super) fn new(config: &PoolConfig) -> Self {
        let (target, version) = (&config.domain, config.lync.sipae_version);
        let mut offer = Vec::new();
        for scheme in &config.lync.schemes {
            // The target of Kerberos is a service's name, that of TLS-DSK comes with where certificates are.
            let (prefix, more) = match scheme {
                LyncScheme::Ntlm => ("", String::new()),
                LyncScheme::Kerberos => ("sip/", String::new()),
                LyncScheme::TlsDsk => {
                    ("", format!(", sts-uri=\"https://{target}/CertProv/CertProvisioningService.svc\""))
                }
            };
            let line = format!(
                "WWW-Authenticate: {} realm=\"{REALM}\", targetname=\"{prefix}{target}\", version={version}{more}\r\n",
                scheme.name()
            );
            offer.extend_from_slice(line.as_bytes());
        }
        Gate { offer }
    }

    pub(super) fn sign(
        &mut self,
        _now: Time,
        _a: Association,
        _o: &Outgoing<'_>,
        _out: &mut Vec<u8>,
        _s: &mut Stats,
    ) {
    }
    pub(super) fn is_proven(&mut self, _a: Association, _p: Peer, _m: &Message<'_>) -> bool {
        true
    }
    pub(super) fn disconnected(&mut self, _n: u64) {}
}

impl Lync {
    /// Who may go on, and with which association; or the answer to who may not.
    pub(super) fn admit(
        &mut self,
        now: Time,
        peer: Peer,
        _sender: u32,
        _message: &Message<'_>,
    ) -> Result<Option<Association>, Reply> {
        let Peer::Stream(number, ..) = peer else { return Err(Reply::new(403)) };
        if !self.config.auth || self.streams.get(&number).is_some_and(|s| s.is_trusted) {
            return Ok(None);
        }
        Err(self.challenge(now))
    }

    fn challenge(&mut self, now: Time) -> Reply {
        self.stats.challenged += 1;
        self.lines.extend_from_slice(b"Date: ");
        write_http_date(self.clock.unix_ms(now), &mut self.lines);
        self.lines.extend_from_slice(b"\r\n");
        self.lines.extend_from_slice(&self.gate.offer);
        Reply::new(401)
    }
}
