//! Redirections: 301, 302 and 305 (RFC 3261 §8.1.3.4, §21.3).

use adsum_sip::time::Time;
use adsum_sip::{HeaderId, Message, value};

use super::request::{Order, Outcome};
use super::state::{Purpose, is, tried};
use super::{Population, Transport};
use crate::host::{Host, Opened, Redirect};

/// Redirections that are followed for one activity; more are a circle.
pub(super) const MAX_REDIRECTS: u8 = 5;

impl Population {
    /// RFC 3261 §8.1.3.4: the Contact of a 3xx is where to ask. Over a stream
    /// the flow leads elsewhere: a registration moves to a new one, for other
    /// requests the answer stands as a failure that names the new target.
    pub(super) fn redirected(
        &mut self,
        now: Time,
        stamp: Time,
        mut order: Order,
        message: &Message<'_>,
        host: &mut impl Host,
    ) {
        let contact = message.header(HeaderId::Contact).and_then(value::name_addr).map(|contact| contact.uri);
        let Some(uri) = contact.filter(|uri| value::sip_uri(uri).is_some()) else {
            return self.ended(stamp, order, Outcome::Answer(message), host);
        };
        order.redirects += 1;
        // 305 names a proxy on the way to the same Request-URI (§21.3.4).
        // In `lync` a director names the home pool: the registrar's URI stays what it is.
        if message.code() != 305 && !self.is_lync() {
            order.tried |= tried::ELSEWHERE;
            self.scratch.elsewhere.clear();
            write_target(uri, &mut self.scratch.elsewhere);
        }
        if self.config.transport == Transport::Udp {
            order.hop = Some(host.hop(self.users[order.user as usize].flow, uri));
            self.request(now, order, host);
            return;
        }
        let moves = matches!(order.purpose, Purpose::Register | Purpose::RegisterRefresh);
        match if moves { host.redirect(now, order.user, uri) } else { Redirect::No } {
            Redirect::No => self.ended(stamp, order, Outcome::Answer(message), host),
            Redirect::Blocked(address) => self.ended(stamp, order, Outcome::Blocked(address), host),
            Redirect::To(opened) => self.move_registration(now, order, opened, host),
        }
    }

    /// A registration was sent elsewhere and the user got a flow that leads
    /// there. It still is one activity, from its first REGISTER on.
    fn move_registration(&mut self, now: Time, mut order: Order, opened: Opened, host: &mut impl Host) {
        let user = order.user;
        self.users[user as usize].set(is::CONNECTED | is::CONNECTING, false);
        self.unbind(now, user, host);
        order.purpose = Purpose::Register;
        order.hop = None;
        if self.is_lync() {
            // Security associations belong to connections: it begins without one.
            order.challenges = 0;
            order.attempts = Default::default();
        }
        let held = &mut self.users[user as usize];
        held.connect_intended = now;
        held.connect_sent = now;
        match opened {
            Opened::Ready(flow) => {
                held.flow = flow;
                held.set(is::CONNECTED, true);
                self.request(now, order, host);
            }
            Opened::Connecting(flow) => {
                held.flow = flow;
                held.set(is::CONNECTING, true);
                let uri = std::mem::take(&mut self.scratch.elsewhere);
                self.moving.insert(user, (order, uri));
            }
        }
    }

    /// The request that just ended had its Request-URI from a redirection:
    /// the one that follows it (a challenge, another lifetime) has it, too.
    pub(super) fn recall_target(&mut self, order: &Order) {
        if order.tried & tried::ELSEWHERE != 0 {
            let uri = self.scratch.request.split(|b| *b == b' ').nth(1).unwrap_or(b"");
            self.scratch.elsewhere.clear();
            self.scratch.elsewhere.extend_from_slice(uri);
        }
    }
}

/// Writes a Contact as a Request-URI: without `method` and headers (RFC 3261 §8.1.3.4).
fn write_target(uri: &[u8], out: &mut Vec<u8>) {
    // The user part may hold `;` and `?`.
    let host = memchr::memchr(b'@', uri).map_or(0, |at| at + 1);
    out.extend_from_slice(&uri[..host]);
    let rest = uri[host..].split(|b| *b == b'?').next().unwrap_or(b"");
    for (at, part) in rest.split(|b| *b == b';').enumerate() {
        let name = part.split(|b| *b == b'=').next().unwrap_or(part);
        if at > 0 && name.eq_ignore_ascii_case(b"method") {
            continue;
        }
        if at > 0 {
            out.push(b';');
        }
        out.extend_from_slice(part);
    }
}
