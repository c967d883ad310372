//! Where the requests of a dialog go: remote target and route set (RFC 3261
//! §12.1 and §12.2).
//!
//! A route set is made once, by the 2xx or by the first NOTIFY of a
//! subscription, and never changes; the remote target is refreshed by every
//! request and answer that may do so. The two give the Request-URI, the Route
//! headers and the next hop of whatever is sent inside the dialog.

use smallvec::SmallVec;

use crate::header::HeaderId;
use crate::scan::Message;
use crate::value;

/// Elements of a route set, in the order in which a request visits them.
pub type Routes<'a> = SmallVec<[&'a [u8]; 4]>;

/// The route set that a response gives whoever asked: its Record-Routes, last
/// one first (§12.1.2).
#[must_use]
pub fn routes_of_response<'a>(message: &Message<'a>) -> Routes<'a> {
    let mut routes = routes_of_request(message);
    routes.reverse();
    routes
}

/// The route set that a request gives whoever is asked: its Record-Routes in
/// their order (§12.1.1).
#[must_use]
pub fn routes_of_request<'a>(message: &Message<'a>) -> Routes<'a> {
    message.headers(HeaderId::RecordRoute).flat_map(value::list).collect()
}

/// Remote target and route set of a dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The remote target: the Contact of the other side.
    uri: Box<[u8]>,
    /// The route set, as `Route` lines; may be empty.
    set: Box<[u8]>,
    /// What stands in requests where the first router is a strict one, and it is
    /// not simply the two above (§12.2.1.1).
    strict: Option<Strict>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Strict {
    request_uri: Box<[u8]>,
    lines: Box<[u8]>,
}

impl Target {
    /// The target for a remote URI and a route set.
    #[must_use]
    pub fn new(uri: &[u8], routes: &[&[u8]]) -> Target {
        let set: Vec<u8> = routes.iter().flat_map(|route| line(route)).copied().collect();
        let first = routes.first().and_then(|route| value::name_addr(route));
        let strict = first.filter(|first| !is_loose(first.uri)).map(|first| {
            // A strict router takes the Request-URI for itself, and finds ours at the end.
            let end = [b"<" as &[u8], uri, b">"].concat();
            let rest = routes[1..].iter().copied().chain(std::iter::once(end.as_slice()));
            let lines: Vec<u8> = rest.flat_map(line).copied().collect();
            Strict { request_uri: first.uri.into(), lines: lines.into() }
        });
        Target { uri: uri.into(), set: set.into(), strict }
    }

    /// The same route set with another remote target (§12.2.1.2).
    #[must_use]
    pub fn refreshed(&self, uri: &[u8]) -> Target {
        Target::new(uri, &self.routes())
    }

    /// True if it is what [`Target::new`] would make of these; allocates nothing.
    #[must_use]
    pub fn is_of(&self, uri: &[u8], routes: &[&[u8]]) -> bool {
        *self.uri == *uri && self.set.iter().eq(routes.iter().flat_map(|route| line(route)))
    }

    /// The remote target.
    #[must_use]
    pub fn uri(&self) -> &[u8] {
        &self.uri
    }

    /// What stands in the request line.
    #[must_use]
    pub fn request_uri(&self) -> &[u8] {
        self.strict.as_ref().map_or(&self.uri, |strict| &strict.request_uri)
    }

    /// The `Route` lines of a request, each with its line break; may be empty.
    #[must_use]
    pub fn route_lines(&self) -> &[u8] {
        self.strict.as_ref().map_or(&self.set, |strict| &strict.lines)
    }

    /// The URI whose address a request is sent to: the first router's, or the
    /// remote target (§12.2.1.1, §8.1.2).
    #[must_use]
    pub fn next_hop(&self) -> &[u8] {
        let first = self.routes().first().and_then(|route| value::name_addr(route)).map(|first| first.uri);
        first.unwrap_or(&self.uri)
    }

    fn routes(&self) -> Routes<'_> {
        let lines = self.set.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(NAME));
        lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect()
    }
}

const NAME: &[u8] = b"Route: ";

fn line(route: &[u8]) -> impl Iterator<Item = &u8> {
    NAME.iter().chain(route).chain(b"\r\n")
}

/// True for a router that leaves the Request-URI alone (§19.1.1: `lr`).
fn is_loose(uri: &[u8]) -> bool {
    value::sip_uri(uri).is_some_and(|uri| value::param(uri.params, "lr").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: &[u8] = b"sip:us@h";

    #[test]
    fn without_routes_the_remote_target_is_everything() {
        let target = Target::new(US, &[]);
        assert_eq!((target.request_uri(), target.route_lines(), target.next_hop()), (US, &b""[..], US));
        assert!(target.is_of(US, &[]) && !target.is_of(US, &[b"<sip:p;lr>"]) && !target.is_of(b"sip:x", &[]));
    }

    /// The examples of RFC 3261 §16.12.1.1 and §16.12.1.2.
    #[test]
    fn loose_and_strict_routers() {
        let loose: &[&[u8]] = &[b"<sip:p1;lr>", b"<sip:p2;lr>"];
        let target = Target::new(US, loose);
        assert_eq!(target.request_uri(), US);
        assert_eq!(target.route_lines(), b"Route: <sip:p1;lr>\r\nRoute: <sip:p2;lr>\r\n");
        assert_eq!(target.next_hop(), b"sip:p1;lr");
        let strict: &[&[u8]] = &[b"<sip:p1>", b"<sip:p2;lr>"];
        let target = Target::new(US, strict);
        assert_eq!(target.request_uri(), b"sip:p1");
        assert_eq!(target.route_lines(), b"Route: <sip:p2;lr>\r\nRoute: <sip:us@h>\r\n");
        assert_eq!(target.next_hop(), b"sip:p1");
        let moved = target.refreshed(b"sip:new@h");
        assert!(moved.is_of(b"sip:new@h", strict));
        assert_eq!(moved.route_lines(), b"Route: <sip:p2;lr>\r\nRoute: <sip:new@h>\r\n");
    }

    #[test]
    fn both_sides_see_the_same_routers_the_other_way_round() {
        let text =
            b"SIP/2.0 200 OK\r\nRecord-Route: <sip:p2;lr>, <sip:p1;lr>\r\nRecord-Route: <sip:p0;lr>\r\n\r\n";
        let mut scanner = crate::Scanner::new();
        let message = scanner.scan(text).unwrap();
        assert_eq!(routes_of_request(&message)[..], [&b"<sip:p2;lr>"[..], b"<sip:p1;lr>", b"<sip:p0;lr>"]);
        assert_eq!(routes_of_response(&message)[..], [&b"<sip:p0;lr>"[..], b"<sip:p1;lr>", b"<sip:p2;lr>"]);
    }
}
