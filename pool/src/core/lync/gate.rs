//! Who may speak ([MS-SIPAE]): challenges, security associations, and the
//! signatures on what goes out.

use adsum_sip::protection::Outgoing;
use adsum_sip::time::Time;
use adsum_sip::Message;

use crate::config::PoolConfig;

use super::super::counts::Stats;
use super::{Lync, Peer, Reply};

/// A security association.
pub(super) type Association = u32;

#[derive(Debug)]
pub(super) struct Gate {}

impl Gate {
    pub(super) fn new(_config: &PoolConfig) -> Self {
        Gate {}
    }
    pub(super) fn sign(&mut self, _now: Time, _a: Association, _o: &Outgoing<'_>, _out: &mut Vec<u8>, _s: &mut Stats) {}
    pub(super) fn is_proven(&mut self, _a: Association, _p: Peer, _m: &Message<'_>) -> bool { true }
    pub(super) fn disconnected(&mut self, _n: u64) {}
}

impl Lync {
    pub(super) fn admit(&mut self, _now: Time, _peer: Peer, _sender: u32, _message: &Message<'_>) -> Result<Option<Association>, Reply> {
        Ok(None)
    }
}
