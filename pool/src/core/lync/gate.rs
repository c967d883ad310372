//! Who may speak ([MS-SIPAE]): challenges, security associations, and the
//! signatures on what comes in and goes out. What is computed for them is
//! [`adsum_sip::sipae`]'s; whose they are, and how long, is decided here.

use std::collections::HashMap;

use adsum_sip::protection::Outgoing;
use adsum_sip::sipae::{Authority, AuthorityConfig, Check, REALM, Refusal};
use adsum_sip::time::Time;
use adsum_sip::{Message, ntlm};

pub(super) use adsum_sip::sipae::Association;

use crate::config::{Chance, LyncScheme, PoolConfig};

use super::super::account_number;
use super::super::counts::Stats;
use super::super::ids::write_user;
use super::clock::write_http_date;
use super::digest::ByDigest;
use super::{Lync, Peer, Reply};

/// Seconds from 1601, where FILETIME begins, to 1970.
const EPOCHS_APART: u64 = 11_644_473_600;

/// An association that somebody has proven.
#[derive(Debug)]
struct Proven {
    user: u32,
    since: Time,
}

#[derive(Debug)]
pub(super) struct Gate {
    authority: Authority,
    /// The other schemes of a first challenge, before NTLM and after it.
    before: Vec<u8>,
    after: Vec<u8>,
    takes_ntlm: bool,
    nt_domain: String,
    domain: String,
    users: u32,
    lifetime: u64,
    wrong_share: f64,
    chance: Chance,
    /// Some that are over may be among them, until they are the larger part.
    proven: HashMap<Association, Proven>,
    /// All that were ever proven.
    made: u64,
    /// Scratch: lines of a challenge.
    lines: Vec<u8>,
}

/// What is offered without being spoken here: the target of Kerberos is the
/// name of a service, and TLS-DSK says where certificates are had.
fn offer(scheme: LyncScheme, config: &PoolConfig, out: &mut Vec<u8>) {
    let (target, version) = (&config.domain, config.lync.sipae_version);
    let (prefix, more) = match scheme {
        LyncScheme::Kerberos => ("sip/", String::new()),
        LyncScheme::TlsDsk => {
            ("", format!(", sts-uri=\"https://{target}/CertProv/CertProvisioningService.svc\""))
        }
        // Their challenges are made when they are needed.
        LyncScheme::Ntlm | LyncScheme::Digest => return,
    };
    // Version 2 is said by saying nothing.
    let version = if version > 2 { format!(", version={version}") } else { String::new() };
    let name = scheme.name();
    let header = if config.lync.proxy_auth { "Proxy-Authenticate" } else { "WWW-Authenticate" };
    let line =
        format!("{header}: {name} realm=\"{REALM}\", targetname=\"{prefix}{target}\"{version}{more}\r\n");
    out.extend_from_slice(line.as_bytes());
}

impl Gate {
    pub(super) fn new(config: &PoolConfig) -> Self {
        let (schemes, version) = (&config.lync.schemes, config.lync.sipae_version);
        let label = config.domain.split('.').next().unwrap_or_default();
        let nt_domain = config.lync.nt_domain.clone().unwrap_or_else(|| label.to_ascii_uppercase());
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let ntlm = schemes.iter().position(|s| *s == LyncScheme::Ntlm);
        for (at, scheme) in schemes.iter().enumerate() {
            let place = if ntlm.is_none_or(|ntlm| at < ntlm) { &mut before } else { &mut after };
            offer(*scheme, config, place);
        }
        Gate {
            authority: Authority::new(AuthorityConfig {
                version,
                target: config.domain.clone(),
                domain: nt_domain.clone(),
                proxy: config.lync.proxy_auth,
                extended: true,
                mic: config.lync.ntlm_mic,
                key: config.seed ^ 0x0bac_6a7e,
            }),
            before,
            after,
            takes_ntlm: ntlm.is_some(),
            nt_domain,
            domain: config.domain.clone(),
            users: config.users,
            lifetime: u64::try_from(config.lync.association_lifetime.as_nanos()).unwrap_or(u64::MAX),
            wrong_share: config.lync.wrong_rspauth,
            chance: Chance::new(config.seed ^ 0x6a7e),
            proven: HashMap::new(),
            made: 0,
            lines: Vec::new(),
        }
    }

    /// Associations and unfinished handshakes now.
    pub(super) fn associations(&self) -> usize {
        self.authority.len()
    }

    /// Associations that were proven.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    /// Associations that made room for others.
    pub(super) fn evicted(&self) -> u64 {
        self.authority.evicted()
    }

    /// A connection is gone, and all that was made over it.
    pub(super) fn disconnected(&mut self, connection: u64) {
        self.authority.forget_connection(connection);
        self.trim();
    }

    fn trim(&mut self) {
        if self.proven.len() > 2 * self.authority.len() + 64 {
            self.proven.retain(|association, _| self.authority.holds(*association));
        }
    }

    /// Looks at a message: a request, or an answer to one of ours. What a 401
    /// needs is in `lines` then.
    fn look(&mut self, now: Time, unix_ms: u64, connection: u64, message: &Message<'_>) -> Check {
        self.lines.clear();
        if let Some(named) = self.authority.named(message, connection)
            && self.proven.get(&named).is_some_and(|p| now.since(p.since) > self.lifetime)
        {
            self.proven.remove(&named);
            self.authority.forget(named);
        }
        let filetime = (unix_ms + EPOCHS_APART * 1_000) * 10_000;
        let (nt_domain, sip_domain, users) = (&self.nt_domain, &self.domain, self.users);
        let hash = |domain: &str, user: &str| {
            let number = account(domain, user, nt_domain, sip_domain, users)?;
            let mut password = b"pw-".to_vec();
            write_user(number, &mut password);
            Some(ntlm::nt_hash(std::str::from_utf8(&password).ok()?))
        };
        let check = self.authority.check(message, connection, filetime, hash, &mut self.lines);
        if let Check::Passed(association) = check
            && !self.proven.contains_key(&association)
        {
            let (domain, user) = self.authority.account(association).unwrap_or_default();
            let user = account(domain, user, &self.nt_domain, &self.domain, self.users).unwrap_or(0);
            self.proven.insert(association, Proven { user, since: now });
            self.made += 1;
            self.trim();
        }
        check
    }

    /// True if this answer to a request of ours is signed under the association.
    pub(super) fn is_proven(
        &mut self,
        now: Time,
        association: Association,
        peer: Peer,
        message: &Message<'_>,
    ) -> bool {
        let Peer::Stream(connection, ..) = peer else { return false };
        self.look(now, 0, connection, message) == Check::Passed(association)
    }

    /// Appends the line that proves who sent this, under a number that was
    /// reserved or the next. Nothing if the association is over: then nobody
    /// could check it.
    pub(super) fn sign(
        &mut self,
        association: Association,
        reserved: Option<u32>,
        outgoing: &Outgoing<'_>,
        out: &mut Vec<u8>,
        stats: &mut Stats,
    ) {
        if !self.authority.holds(association) {
            return;
        }
        let wrongly = self.chance.hit(self.wrong_share);
        stats.wrong_signatures += u64::from(wrongly);
        match reserved {
            Some(number) => self.authority.sign_numbered(association, number, outgoing, wrongly, out),
            None => self.authority.sign(association, outgoing, wrongly, out),
        }
    }
}

/// The account of an NT domain and a name: `DOMAIN\user`, a user without a
/// domain, or a UPN, whole in the user's field.
fn account(domain: &str, user: &str, nt_domain: &str, sip_domain: &str, users: u32) -> Option<u32> {
    let (user, domain) = match user.split_once('@') {
        Some((user, of)) if domain.is_empty() => (user, of),
        _ => (user, domain),
    };
    let ours = ["", nt_domain, sip_domain].iter().any(|known| known.eq_ignore_ascii_case(domain));
    ours.then(|| account_number(user.to_ascii_lowercase().as_bytes(), users)).flatten()
}

impl Lync {
    /// Who may go on, and with which association; or the answer to who may not,
    /// signed only if it is proven whom it is for.
    pub(super) fn admit(
        &mut self,
        now: Time,
        peer: Peer,
        sender: u32,
        message: &Message<'_>,
    ) -> Result<Option<Association>, (Reply, Option<Association>)> {
        let Peer::Stream(number, ..) = peer else { return Err((Reply::new(403), None)) };
        if !self.config.auth || self.streams.get(&number).is_some_and(|s| s.is_trusted) {
            return Ok(None);
        }
        let stale = match self.by_digest(now, sender, message) {
            ByDigest::Proven => return Ok(None),
            ByDigest::Refused => {
                self.stats.wrong_credentials += 1;
                return Err((Reply::new(403), None));
            }
            ByDigest::Absent { stale } => stale,
        };
        let unix_ms = self.clock.unix_ms(now);
        // Whom nobody can verify here is as good as without credentials.
        let check = if self.gate.takes_ntlm {
            self.gate.look(now, unix_ms, number, message)
        } else {
            self.gate.lines.clear();
            Check::Challenged(Refusal::None)
        };
        let refusal = match check {
            Check::Passed(association) => {
                self.reserved = self.gate.authority.reserve(association);
                if self.gate.proven.get(&association).is_some_and(|p| p.user == sender) {
                    return Ok(Some(association));
                }
                self.stats.wrong_credentials += 1;
                // To whom it concerns only, and without our name.
                let reason = b"4004;reason=\"Credentials may not act as this From URI\"";
                self.line(b"ms-diagnostics-public", reason);
                return Err((Reply::new(403), Some(association)));
            }
            Check::Challenged(refusal) => refusal,
        };
        match refusal {
            Refusal::None | Refusal::NoAssociation => self.stats.challenged += 1,
            Refusal::Asked => {}
            Refusal::UnknownAccount | Refusal::WrongPassword | Refusal::WrongMic | Refusal::Malformed => {
                self.stats.wrong_credentials += 1;
            }
            // The association stays: one forged message must not end it for its owner.
            Refusal::BadSignature | Refusal::Replayed => self.stats.bad_signatures += 1,
        }
        self.lines.extend_from_slice(b"Date: ");
        write_http_date(unix_ms, &mut self.lines);
        self.lines.extend_from_slice(b"\r\n");
        let is_first = refusal != Refusal::Asked;
        if is_first {
            self.lines.extend_from_slice(&self.gate.before);
        }
        self.lines.extend_from_slice(&self.gate.lines);
        if is_first {
            self.lines.extend_from_slice(&self.gate.after);
            self.ask_for_digest(now, stale);
        }
        Err((Reply::new(if self.config.lync.proxy_auth { 407 } else { 401 }), None))
    }
}
