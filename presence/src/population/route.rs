//! Where the requests of a dialog go: the targets of [`adsum_sip::dialog`],
//! shared by all dialogs that agree.

use std::rc::Rc;

use adsum_sip::dialog::{self, routes_of_request, routes_of_response};
use adsum_sip::{HeaderId, Message, value};

use super::Population;
use super::state::{Target, has};
use crate::host::{Flow, Hop, Host};
use crate::slab::Slot;

/// Dialogs of one server mostly share their target; this many are remembered.
const CACHED_TARGETS: usize = 16;

/// Targets that were seen lately, so that dialogs share them.
#[derive(Debug, Default)]
pub(super) struct TargetCache {
    known: [Option<Rc<Target>>; CACHED_TARGETS],
    next: usize,
}

impl Population {
    /// The 2xx creates what no NOTIFY has created before it (RFC 6665 §4.4.1).
    pub(super) fn answered(&mut self, slot: Slot, flow: Flow, message: &Message<'_>, host: &mut impl Host) {
        let dialog = &mut self.dialogs[slot];
        if !dialog.has(has::NOTIFY) {
            self.texts.set(&mut dialog.remote_tag, message.to_tag().unwrap_or(b""));
        }
        self.refresh(slot, flow, message, routes_of_response, host);
    }

    /// A NOTIFY refreshes the remote target, or creates route set and target.
    pub(super) fn refresh_target(
        &mut self,
        slot: Slot,
        flow: Flow,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        self.refresh(slot, flow, message, routes_of_request, host);
    }

    /// The remote target may change, the route set never does (RFC 3261 §12.2.1.2).
    fn refresh<'a>(
        &mut self,
        slot: Slot,
        flow: Flow,
        message: &Message<'a>,
        routes: impl FnOnce(&Message<'a>) -> dialog::Routes<'a>,
        host: &mut impl Host,
    ) {
        let contact = message.header(HeaderId::Contact).and_then(value::name_addr);
        let Some(contact) = contact else { return };
        let target = match &self.dialogs[slot].target {
            None => self.target(flow, contact.uri, &routes(message), host),
            Some(old) if old.target.uri() != contact.uri => {
                let target = old.target.refreshed(contact.uri);
                self.keep_target(flow, target, host)
            }
            Some(_) => return,
        };
        self.dialogs[slot].target = Some(target);
    }

    /// Finds or builds the target for a remote URI and a route set.
    fn target(&mut self, flow: Flow, uri: &[u8], routes: &[&[u8]], host: &mut impl Host) -> Rc<Target> {
        let leads = self.leads(flow);
        let mut known = self.targets.known.iter().flatten();
        match known.find(|known| known.flow == leads && known.target.is_of(uri, routes)) {
            Some(known) => Rc::clone(known),
            None => self.keep_target(flow, dialog::Target::new(uri, routes), host),
        }
    }

    fn keep_target(&mut self, flow: Flow, target: dialog::Target, host: &mut impl Host) -> Rc<Target> {
        let hop =
            if self.config.transport.is_reliable() { Hop::Target } else { host.hop(flow, target.next_hop()) };
        let target = Rc::new(Target { target, hop, flow: self.leads(flow) });
        let cache = &mut self.targets;
        cache.known[cache.next] = Some(Rc::clone(&target));
        cache.next = (cache.next + 1) % CACHED_TARGETS;
        target
    }

    /// What a hop depends on: the port over UDP; over a stream all goes down the stream.
    fn leads(&self, flow: Flow) -> Flow {
        if self.config.transport.is_reliable() { 0 } else { flow }
    }
}
