//! REGISTER (RFC 3261 §10.3).

use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message, value};

use super::ids::write_number;
use super::{Core, Reply};

/// Contacts of one user: more devices than anybody carries.
const MAX_CONTACTS: usize = 8;
/// Bytes of a Contact URI and its Call-ID; more is an attack on memory (413).
const MAX_BINDING: usize = 2 * 1024;

/// A Contact at which a user is registered.
#[derive(Debug)]
pub(super) struct Binding {
    /// The URI, and the Call-ID behind it.
    text: Box<[u8]>,
    uri: u32,
    cseq: u32,
    pub(super) expires: Time,
}

impl Binding {
    fn uri(&self) -> &[u8] {
        &self.text[..self.uri as usize]
    }

    fn call_id(&self) -> &[u8] {
        &self.text[self.uri as usize..]
    }

    /// §10.3 steps 6 and 7: an older request of the same Call-ID changes nothing.
    fn is_newer_than(&self, call_id: &[u8], cseq: u32) -> bool {
        self.call_id() == call_id && self.cseq >= cseq
    }
}

/// What one Contact of a request asks for.
struct Wish<'a> {
    uri: &'a [u8],
    granted: u32,
}

impl Core {
    /// All or nothing: every Contact is looked at before one is changed.
    pub(super) fn register(&mut self, now: Time, user: u32, message: &Message<'_>) -> Reply {
        let (call_id, cseq) = (message.call_id(), message.cseq().map_or(0, |(n, _)| n));
        let asked = message.expires();
        let mut wishes: Vec<Wish<'_>> = Vec::new();
        let mut star = false;
        for contact in message.headers(HeaderId::Contact).flat_map(value::list) {
            if contact == b"*" {
                star = true;
                continue;
            }
            let Some(contact) = value::name_addr(contact) else { return Reply::new(400) };
            if contact.uri.len() + call_id.len() > MAX_BINDING {
                return self.refuse(413);
            }
            let own = value::param(contact.params, "expires").and_then(value::number);
            let granted = match self.grant(own.or(asked)) {
                Ok(granted) => granted,
                Err(reply) => return reply,
            };
            wishes.retain(|wish| !same_uri(wish.uri, contact.uri)); // the last word counts
            wishes.push(Wish { uri: contact.uri, granted });
            if wishes.len() > MAX_CONTACTS {
                return self.refuse(403);
            }
        }
        if star && (asked != Some(0) || !wishes.is_empty()) {
            return Reply::new(400);
        }
        let before = self.users.entry(user).bindings.len();
        let held = &mut self.users.entry(user).bindings;
        held.retain(|b| b.expires > now);
        let touched = |b: &Binding| star || wishes.iter().any(|w| same_uri(w.uri, b.uri()));
        let outdated = held.iter().any(|b| touched(b) && b.is_newer_than(call_id, cseq));
        let kept = held.iter().filter(|b| !touched(b)).count();
        let wanted = wishes.iter().filter(|w| w.granted > 0).count();
        let full = kept + wanted > MAX_CONTACTS;
        let mut first = Time::NEVER;
        if !outdated && !full {
            held.retain(|b| !touched(b));
            for wish in wishes.iter().filter(|w| w.granted > 0) {
                let expires = now + u64::from(wish.granted) * SECOND;
                first = first.min(expires);
                held.reserve_exact(1);
                held.push(Binding {
                    text: [wish.uri, call_id].concat().into(),
                    uri: wish.uri.len() as u32,
                    cseq,
                    expires,
                });
            }
        }
        let after = held.len();
        self.stats.registrations = self.stats.registrations + after as u64 - before as u64;
        if outdated {
            return Reply::new(500);
        }
        if full {
            return self.refuse(403);
        }
        if first != Time::NEVER {
            self.arm_user(user, first);
        }
        for b in &self.users[user].bindings {
            self.lines.extend_from_slice(b"Contact: <");
            self.lines.extend_from_slice(b.uri());
            self.lines.extend_from_slice(b">;expires=");
            write_number(b.expires.since(now).div_ceil(SECOND), &mut self.lines);
            self.lines.extend_from_slice(b"\r\n");
        }
        Reply::new(200)
    }
}

/// RFC 3261 §19.1.4, as far as registrars need it: host and parameters in any
/// case, the rest byte for byte.
fn same_uri(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    let (Some(a), Some(b)) = (value::sip_uri(a), value::sip_uri(b)) else { return false };
    (a.secure, a.user, a.port) == (b.secure, b.user, b.port)
        && a.host.eq_ignore_ascii_case(b.host)
        && a.params.eq_ignore_ascii_case(b.params)
}
