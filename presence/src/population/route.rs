//! Where the requests of a dialog go: its remote target and its route set
//! (RFC 3261 §12.1, §12.2).

use std::rc::Rc;

use adsum_sip::{HeaderId, Message, value};
use smallvec::SmallVec;

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

impl TargetCache {
    fn find(&self, uri: &[u8], routes: &[u8]) -> Option<Rc<Target>> {
        self.known.iter().flatten().find(|t| *t.uri == *uri && *t.routes == *routes).cloned()
    }

    fn keep(&mut self, target: Rc<Target>) {
        self.known[self.next] = Some(target);
        self.next = (self.next + 1) % CACHED_TARGETS;
    }
}

impl Population {
    /// The 2xx creates what no NOTIFY has created before it (RFC 6665 §4.4.1).
    pub(super) fn answered(&mut self, slot: Slot, flow: Flow, message: &Message<'_>, host: &mut impl Host) {
        let dialog = &mut self.dialogs[slot];
        if !dialog.has(has::NOTIFY) {
            dialog.remote_tag.clear();
            dialog.remote_tag.extend_from_slice(message.to_tag().unwrap_or(b""));
        }
        let contact = message.header(HeaderId::Contact).and_then(value::name_addr);
        let Some(contact) = contact else { return };
        match self.dialogs[slot].target.clone() {
            None => {
                let mut routes: SmallVec<[&[u8]; 4]> =
                    message.headers(HeaderId::RecordRoute).flat_map(value::list).collect();
                routes.reverse();
                let target = self.target(flow, contact.uri, &routes, host);
                self.dialogs[slot].target = Some(target);
            }
            Some(old) if *old.uri != *contact.uri => self.retarget(slot, flow, &old, contact.uri, host),
            Some(_) => {}
        }
    }

    /// A NOTIFY refreshes the remote target, or creates route set and target.
    pub(super) fn refresh_target(
        &mut self,
        slot: Slot,
        flow: Flow,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        let Some(contact) = message.header(HeaderId::Contact).and_then(value::name_addr) else { return };
        match self.dialogs[slot].target.clone() {
            None => {
                let routes: SmallVec<[&[u8]; 4]> =
                    message.headers(HeaderId::RecordRoute).flat_map(value::list).collect();
                let target = self.target(flow, contact.uri, &routes, host);
                self.dialogs[slot].target = Some(target);
            }
            Some(old) if *old.uri != *contact.uri => self.retarget(slot, flow, &old, contact.uri, host),
            Some(_) => {}
        }
    }

    /// The remote target changes, the route set never does (RFC 3261 §12.2.1.2).
    fn retarget(&mut self, slot: Slot, flow: Flow, old: &Target, uri: &[u8], host: &mut impl Host) {
        let lines = old.routes.to_vec();
        let mut first: Vec<u8> = Vec::new();
        let routes: SmallVec<[&[u8]; 4]> = lines
            .split(|b| *b == b'\n')
            .filter_map(|line| line.strip_prefix(b"Route: "))
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .collect();
        // A strict router stands in the Request-URI and the old target at the end.
        let strict = *old.request_uri != *old.uri;
        let routes = if strict {
            first.extend_from_slice(b"<");
            first.extend_from_slice(&old.request_uri);
            first.extend_from_slice(b">");
            std::iter::once(first.as_slice())
                .chain(routes[..routes.len().saturating_sub(1)].iter().copied())
                .collect()
        } else {
            routes
        };
        let target = self.target(flow, uri, &routes, host);
        self.dialogs[slot].target = Some(target);
    }

    /// Builds or finds the target for a remote URI and a route set (RFC 3261 §12.2.1.1).
    fn target(&mut self, flow: Flow, uri: &[u8], routes: &[&[u8]], host: &mut impl Host) -> Rc<Target> {
        let mut lines = Vec::new();
        let mut line = |route: &[u8]| {
            lines.extend_from_slice(b"Route: ");
            lines.extend_from_slice(route);
            lines.extend_from_slice(b"\r\n");
        };
        let first = routes.first().and_then(|route| value::name_addr(route));
        let loose = first.is_none_or(|first| {
            value::sip_uri(first.uri).is_some_and(|uri| value::param(uri.params, "lr").is_some())
        });
        let mut request_uri = uri.to_vec();
        if loose {
            routes.iter().for_each(|route| line(route));
        } else if let Some(first) = first {
            request_uri = first.uri.to_vec();
            routes[1..].iter().for_each(|route| line(route));
            line(&[b"<", uri, b">"].concat());
        }
        if let Some(known) = self.targets.find(uri, &lines) {
            return known;
        }
        let next = first.map_or(uri, |first| first.uri);
        let hop = if self.config.transport.is_reliable() { Hop::Target } else { host.hop(flow, next) };
        let target =
            Rc::new(Target { uri: uri.into(), routes: lines.into(), request_uri: request_uri.into(), hop });
        self.targets.keep(Rc::clone(&target));
        target
    }
}
