//! PUBLISH: entity tags, lifetimes, composition (RFC 3903 §6).

use adsum_presence::slab::NONE;
use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message, value};

use super::document::{self, Document};
use super::ids::{read_etag, write_etag};
use super::knobs::Telling;
use super::{Core, Out, PIDF, Reply, is_kind};

/// Publications of one user: more devices than anybody carries.
const MAX_PUBLICATIONS: usize = 16;
/// Bytes of all documents: what a machine of a few gigabytes can spare.
const MAX_DOCUMENT_BYTES: usize = 2 * 1024 * 1024 * 1024;

/// One published document.
#[derive(Debug)]
pub(super) struct Publication {
    etag: u64,
    pub(super) document: Document,
    pub(super) expires: Time,
}

impl Core {
    pub(super) fn publish(
        &mut self,
        now: Time,
        user: u32,
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) -> Reply {
        if !is_presence(message) {
            self.line(b"Allow-Events", b"presence");
            return Reply::new(489);
        }
        // Step 2: the tag; steps 3 to 6: lifetime, body, combination of them.
        let mut matches = message.headers(HeaderId::SipIfMatch);
        let etag = matches.next();
        if matches.next().is_some() {
            return Reply::new(400);
        }
        let known = match etag.map(|etag| self.published(now, user, etag)) {
            Some(None) => return Reply::new(412),
            Some(Some(at)) => Some(at),
            None => None,
        };
        let granted = match self.grant(message.expires()) {
            Ok(granted) => granted,
            Err(reply) => return reply,
        };
        let body = message.body();
        if !body.is_empty() && !is_kind(message.header(HeaderId::ContentType).unwrap_or(b""), PIDF) {
            self.line(b"Accept", PIDF);
            return Reply::new(415);
        }
        let strip = self.config.strip_note;
        let document = if body.is_empty() { None } else { Document::read(body, strip, &mut self.body) };
        let malformed = !body.is_empty() && document.is_none();
        let useless = known.is_none() && (body.is_empty() || granted == 0);
        if malformed || useless {
            return Reply::new(400);
        }
        let bytes = document.as_ref().map_or(0, Document::len);
        let full = known.is_none() && self.users.entry(user).publications.len() >= MAX_PUBLICATIONS;
        if full || self.document_bytes + bytes > MAX_DOCUMENT_BYTES {
            return self.refuse(if full { 403 } else { 503 });
        }
        let changed = self.store(now, user, known, granted, document);
        let ready = self.knobs.worked_off(now);
        if changed {
            self.tell_watchers(now, ready, user, out);
        }
        self.lines.extend_from_slice(b"SIP-ETag: ");
        write_etag(self.etag, &mut self.lines);
        self.lines.extend_from_slice(b"\r\n");
        self.number_line(b"Expires", u64::from(granted));
        Reply::new(200).at(ready)
    }

    /// Where among a user's publications the one with this tag is.
    fn published(&self, now: Time, user: u32, etag: &[u8]) -> Option<usize> {
        let number = read_etag(etag)?;
        let held = self.users.get(user)?;
        held.publications.iter().position(|p| p.etag == number && p.expires > now)
    }

    /// Keeps, refreshes or removes; true if the user's presence is another now.
    fn store(
        &mut self,
        now: Time,
        user: u32,
        known: Option<usize>,
        granted: u32,
        document: Option<Document>,
    ) -> bool {
        self.etag += 1;
        let etag = self.etag;
        let expires = now + u64::from(granted) * SECOND;
        let bytes = document.as_ref().map_or(0, Document::len);
        let held = &mut self.users.entry(user).publications;
        let mut freed = 0;
        let changed = match (known, document) {
            (None, None) => false,
            (None, Some(document)) => {
                held.reserve_exact(1);
                held.push(Publication { etag, document, expires });
                self.stats.publications += 1;
                true
            }
            (Some(at), _) if granted == 0 => {
                let removed = held.remove(at);
                self.document_bytes -= removed.document.len();
                self.stats.publications -= 1;
                return true;
            }
            // A refresh is no news.
            (Some(at), None) => {
                (held[at].etag, held[at].expires) = (etag, expires);
                false
            }
            // The newest one stands last here, and first in a composed document.
            (Some(at), Some(document)) => {
                freed = held.remove(at).document.len();
                held.push(Publication { etag, document, expires });
                true
            }
        };
        self.document_bytes = self.document_bytes + bytes - freed;
        self.arm_user(user, expires);
        changed
    }

    pub(super) fn tell_watchers(&mut self, now: Time, ready: Time, user: u32, out: &mut Vec<Out>) {
        let mut slot = self.users.get(user).map_or(NONE, |u| u.watchers.first());
        if slot == NONE {
            return;
        }
        self.compose(now, user);
        while slot != NONE {
            let watcher = slot;
            slot = self.subscriptions[slot].watches.next();
            match self.knobs.telling(now, ready) {
                Telling::Never => self.stats.lost_notifies += 1,
                Telling::At(at) => self.notify(now, at, watcher, true, out),
                Telling::HeldUntil(at) => self.hold(at, watcher),
            }
        }
    }

    /// Writes the composed document of a user into `body`.
    pub(super) fn compose(&mut self, now: Time, user: u32) {
        self.body.clear();
        let held = self.users.get(user).map(|u| u.publications.as_slice()).unwrap_or_default();
        let live = held.iter().rev().filter(|p| p.expires > now).map(|p| &p.document);
        document::compose(user, &self.config.domain, live, &mut self.body);
    }
}

pub(super) fn is_presence(message: &Message<'_>) -> bool {
    is_kind(message.header(HeaderId::Event).unwrap_or(b""), b"presence")
}

/// The value of `Accept` allows PIDF; without one it is the package's default.
pub(super) fn accepts_pidf(message: &Message<'_>) -> bool {
    let mut any = false;
    for accepted in message.headers(HeaderId::Accept).flat_map(value::list) {
        any = true;
        if [PIDF, b"*/*", b"application/*"].iter().any(|kind| is_kind(accepted, kind)) {
            return true;
        }
    }
    !any
}
