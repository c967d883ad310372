//! How datagrams leave: each at its instant, or with a quantum those of one turn together.

use std::io::{ErrorKind, IoSlice};

use adsum_presence::host::{Counter, Flow, Hop, Sent};
use adsum_sip::Time;
use adsum_sip::locate::Failure as Trouble;
use smallvec::SmallVec;

use super::io::ShardIo;
use crate::net::batch::{Batch, MAX_ITEMS};
use crate::net::clock;

/// What waits to leave, and when that of which the population was not told yet left.
#[derive(Debug, Default)]
pub(super) struct Departures {
    batch: Batch,
    /// By ticket: a ticket is the place of a datagram among those that were queued since the
    /// population was told. Those that still wait are at the end.
    times: Vec<Time>,
}

impl ShardIo {
    /// Sends a datagram, or lets it wait for its turn: a request of a user, or an answer.
    pub(super) fn send_datagram(&mut self, flow: Flow, hop: Hop, user: Option<u32>, bytes: &[u8]) -> Sent {
        if hop == Hop::Target && (flow as usize) < self.udp.len() {
            if self.departures.as_ref().is_some_and(|departures| departures.batch.is_full()) {
                self.depart();
            }
            if let Some(Departures { batch, times }) = &mut self.departures {
                batch.push(flow, user, bytes);
                times.push(self.now);
                return Sent::Queued(self.now, times.len() as u32 - 1);
            }
        }
        let at = clock::now();
        self.now = at;
        let sent = self.push_out(at, flow, |udp| match hop {
            Hop::Target => udp.send(bytes).map(drop),
            Hop::Address(to) => udp.send_to(bytes, to).map(drop),
            Hop::Blocked(_) => Err(ErrorKind::PermissionDenied.into()),
        });
        match sent {
            Pushed::Out => Sent::At(at),
            Pushed::Back => Sent::Blocked(at),
            Pushed::Nowhere => Sent::Gone(at),
        }
    }

    /// What waits leaves, a few datagrams in each call; the clock is read just before each.
    fn depart(&mut self) {
        let Some(mut departures) = self.departures.take() else { return };
        let Departures { batch, times } = &mut departures;
        let first = times.len() - batch.len();
        batch.arrange();
        while let Some((flow, _)) = batch.next_group() {
            let slices: SmallVec<[IoSlice<'_>; MAX_ITEMS]> =
                batch.group().iter().map(|item| IoSlice::new(batch.bytes(*item))).collect();
            let mut calls = if self.udp[flow as usize].takes_segments() { slices.len() } else { 1 };
            let mut left = 0;
            while left < slices.len() {
                let together = &slices[left..slices.len().min(left + calls)];
                let at = clock::now();
                for item in &batch.group()[left..left + together.len()] {
                    times[first + usize::from(*item)] = at;
                }
                let pushed = self.push_out(at, flow, |udp| udp.send_segments(together));
                if calls > 1 && !self.udp[flow as usize].takes_segments() {
                    calls = 1; // refused as a whole: one by one from now on
                    continue;
                }
                if pushed != Pushed::Out {
                    self.recorder.count(at, self.stage, Counter::WriteBlocked, together.len() as u64);
                }
                left += together.len();
            }
        }
        batch.clear();
        self.departures = Some(departures);
    }

    /// True if something left of which the population was not told.
    pub(super) fn has_departed(&self) -> bool {
        self.departures.as_ref().is_some_and(|departures| departures.times.len() > departures.batch.len())
    }

    /// All that waits leaves. When each left, by ticket; to be given back with
    /// [`ShardIo::told`].
    pub(super) fn departed(&mut self) -> Option<Vec<Time>> {
        if self.departures.as_ref().is_none_or(|departures| departures.times.is_empty()) {
            return None;
        }
        self.depart();
        self.departures.as_mut().map(|departures| std::mem::take(&mut departures.times))
    }

    /// The population knows when they left: tickets begin anew.
    pub(super) fn told(&mut self, mut times: Vec<Time>) {
        if let Some(departures) = self.departures.as_mut().filter(|departures| departures.times.is_empty()) {
            times.clear();
            departures.times = times;
        }
    }

    fn push_out(
        &mut self,
        at: Time,
        flow: Flow,
        send: impl Fn(&mut crate::net::udp::UdpPort) -> std::io::Result<()>,
    ) -> Pushed {
        let Some(udp) = self.udp.get_mut(flow as usize) else { return Pushed::Nowhere };
        let mut result = send(udp);
        if result.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
            // The kernel reports the refusal of an earlier datagram and sends nothing: once more.
            result = send(udp);
            let target = udp.target();
            self.refused += 1;
            self.recorder.name(at, self.stage, "icmp_refused", "", 1);
            self.refused_flows |= 1 << flow.min(63);
            self.target_failed(at, target, Trouble::Transport);
        }
        // Full, or refused again: for a datagram that is a loss, and timer E mends it.
        if result.is_ok() { Pushed::Out } else { Pushed::Back }
    }
}

/// What became of an attempt to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pushed {
    Out,
    Back,
    Nowhere,
}
