//! PUBLISH: entity tags, composition, expiry (RFC 3903).

use adsum_sip::time::{SECOND, Time};
use adsum_sip::{HeaderId, Message, value};

use super::{Core, MAX_PUBLICATIONS, Out, PIDF, Publication, Reply, user_name};

impl Core {
    pub(super) fn publish(
        &mut self,
        now: Time,
        user: u32,
        message: &Message<'_>,
        out: &mut Vec<Out>,
    ) -> Reply {
        let (least, most) = self.config.expires;
        if !is_presence(message) {
            return Reply::new(489).header("Allow-Events", "presence");
        }
        let asked = message.expires().unwrap_or(most);
        if asked > 0 && asked < least {
            return Reply::new(423).header("Min-Expires", &least.to_string());
        }
        let granted = asked.min(most);
        let body = message.body();
        let etag = message.header(HeaderId::SipIfMatch);
        let pidf = message.header(HeaderId::ContentType).is_some_and(|t| {
            t.split(|b| *b == b';').next().unwrap_or(b"").trim_ascii().eq_ignore_ascii_case(PIDF.as_bytes())
        });
        if !body.is_empty() && !pidf {
            return Reply::new(415).header("Accept", PIDF);
        }
        let parts = if body.is_empty() { None } else { parts(body, self.config.strip_note) };
        if !body.is_empty() && parts.is_none() {
            return Reply::new(415).header("Accept", PIDF);
        }
        let number = self.number();
        let held = self.users.entry(user).or_default();
        let known = etag.map(|etag| {
            let number =
                etag.strip_prefix(b"e").and_then(|n| std::str::from_utf8(n).ok()?.parse::<u64>().ok());
            held.publications.iter().position(|p| Some(p.etag) == number && p.expires > now)
        });
        let changed = match (known, parts) {
            (Some(None), _) => return Reply::new(412),
            (None, None) => return Reply::new(400), // neither tag nor document
            (None, Some(_)) if granted == 0 => return Reply::new(400),
            (None, Some((namespaces, inner))) => {
                if held.publications.len() >= MAX_PUBLICATIONS {
                    self.stats.refused += 1;
                    return Reply::new(403);
                }
                let expires = now + u64::from(granted) * SECOND;
                held.publications.push(Publication { etag: number, inner, namespaces, expires });
                true
            }
            (Some(Some(at)), _) if granted == 0 => {
                held.publications.remove(at);
                true
            }
            (Some(Some(at)), parts) => {
                let publication = &mut held.publications[at];
                publication.etag = number;
                publication.expires = now + u64::from(granted) * SECOND;
                let modified = parts.is_some();
                if let Some((namespaces, inner)) = parts {
                    (publication.namespaces, publication.inner) = (namespaces, inner);
                    // The newest one stands first in a composed document.
                    let newest = held.publications.remove(at);
                    held.publications.push(newest);
                }
                modified
            }
        };
        let mut ready = now;
        if let Some(rate) = self.config.capacity {
            // One server with a fixed service time: a queue with a known knee.
            self.busy = self.busy.max(now) + (1e9 / rate.max(0.001)) as u64;
            ready = self.busy;
        }
        if changed {
            self.tell_watchers(now, ready, user, out);
        }
        Reply::new(200)
            .header("SIP-ETag", &format!("e{number}"))
            .header("Expires", &granted.to_string())
            .at(ready)
    }

    fn tell_watchers(&mut self, now: Time, ready: Time, user: u32, out: &mut Vec<Out>) {
        let watchers = self.users.get(&user).map(|u| u.watchers.clone()).unwrap_or_default();
        for number in watchers {
            if self.chance.hit(self.config.lose_notify) {
                self.stats.lost_notifies += 1;
                continue;
            }
            let delay = self.config.notify_delay.map_or(0, |delay| delay.draw(&mut self.chance));
            let at = ready.max(now + delay);
            match self.config.hold_notify {
                Some(hold) => self.hold(at + hold.as_nanos() as u64, number),
                None => self.notify(now, at, number, "active", out),
            }
        }
    }

    /// The composed document of a user: all that is published, the newest first.
    pub(super) fn document(&self, now: Time, user: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        let live = self.users.get(&user).map(|u| u.publications.as_slice()).unwrap_or_default();
        let live: Vec<&Publication> = live.iter().rev().filter(|p| p.expires > now).collect();
        out.extend_from_slice(
            b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\"",
        );
        let mut known: Vec<&[u8]> = Vec::new();
        for publication in &live {
            if !known.contains(&publication.namespaces.as_slice()) {
                known.push(&publication.namespaces);
                out.extend_from_slice(&publication.namespaces);
            }
        }
        out.extend_from_slice(
            format!(" entity=\"sip:{}@{}\">", user_name(user), self.config.domain).as_bytes(),
        );
        if live.is_empty() {
            out.extend_from_slice(b"<tuple id=\"none\"><status><basic>closed</basic></status></tuple>");
        }
        live.iter().for_each(|p| out.extend_from_slice(&p.inner));
        out.extend_from_slice(b"</presence>\n");
        out
    }

    /// Publications whose lifetime ended: who watches is told of what is left.
    pub(super) fn sweep(&mut self, now: Time, out: &mut Vec<Out>) {
        let mut changed = Vec::new();
        for (user, held) in &mut self.users {
            held.bindings.retain(|b| b.expires > now);
            let before = held.publications.len();
            held.publications.retain(|p| p.expires > now);
            if held.publications.len() < before {
                changed.push(*user);
            }
        }
        for user in changed {
            self.tell_watchers(now, now, user, out);
        }
    }
}

pub(super) fn is_presence(message: &Message<'_>) -> bool {
    let event = message.header(HeaderId::Event).unwrap_or(b"");
    event.split(|b| *b == b';').next().unwrap_or(b"").trim_ascii().eq_ignore_ascii_case(b"presence")
}

/// Other namespaces of the root, and what stands inside it. `None` unless the
/// body is a PIDF document.
fn parts(body: &[u8], strip: bool) -> Option<(Vec<u8>, Vec<u8>)> {
    let text = std::str::from_utf8(body).ok()?;
    let document = adsum_presence::pidf::parse(text).ok()?;
    if strip {
        let mut inner = String::new();
        for tuple in &document.tuples {
            let basic = if tuple.open { "open" } else { "closed" };
            inner.push_str(&format!(
                "<tuple id=\"{}\"><status><basic>{basic}</basic></status></tuple>",
                tuple.id
            ));
        }
        return Some((Vec::new(), inner.into_bytes()));
    }
    let root = text.find("<presence")?;
    let head_end = root + text[root..].find('>')?;
    let tail = text.rfind("</presence")?;
    let mut namespaces = String::new();
    for attribute in text[root + "<presence".len()..head_end].split_whitespace() {
        if attribute.starts_with("xmlns:") {
            namespaces.push(' ');
            namespaces.push_str(attribute.trim_end_matches('/'));
        }
    }
    Some((namespaces.into_bytes(), text.get(head_end + 1..tail)?.as_bytes().to_vec()))
}

/// The value of `Accept` allows PIDF; without one it is the package's default.
pub(super) fn accepts_pidf(message: &Message<'_>) -> bool {
    let mut any = false;
    for accepted in message.headers(HeaderId::Accept).flat_map(value::list) {
        any = true;
        let kind = accepted.split(|b| *b == b';').next().unwrap_or(b"").trim_ascii();
        if kind.eq_ignore_ascii_case(PIDF.as_bytes()) || kind == b"*/*" || kind == b"application/*" {
            return true;
        }
    }
    !any
}
