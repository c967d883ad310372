//! What a notification says of those who are watched: the list of resources
//! (RFC 4662 §5, with the states of [MS-PRES]) and the documents beside it.

use super::tags::{Tag, Tags};

/// One thing that is said of a publisher. URIs are as written: see
/// [`super::tags::resolved`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// It is shown, by a document of its own or as `active` in the list.
    Active {
        /// The publisher.
        uri: &'a [u8],
    },
    /// It is not shown, and will not be.
    Terminated {
        /// The publisher.
        uri: &'a [u8],
        /// Why; empty if it was not said.
        reason: &'a [u8],
    },
    /// It is to be asked for elsewhere.
    Resubscribe {
        /// The publisher.
        uri: &'a [u8],
        /// The pool to ask; empty if it can be asked for directly.
        pool: &'a [u8],
    },
}

/// Reads a body: a list, a document, or a multipart of both.
pub fn read(body: &[u8]) -> impl Iterator<Item = Said<'_>> {
    let mut resource: &[u8] = b"";
    Tags::of(body).filter_map(move |tag| match tag.name {
        b"resource" => {
            resource = tag.attribute(b"uri").unwrap_or(b"");
            None
        }
        b"instance" if !resource.is_empty() => instance(&tag, resource),
        b"categories" => tag.attribute(b"uri").map(|uri| Said::Active { uri }),
        _ => None,
    })
}

fn instance<'a>(tag: &Tag<'a>, uri: &'a [u8]) -> Option<Said<'a>> {
    let state = tag.attribute(b"state")?;
    let is = |name: &[u8]| state.eq_ignore_ascii_case(name);
    if is(b"active") {
        Some(Said::Active { uri })
    } else if is(b"terminated") {
        Some(Said::Terminated { uri, reason: tag.attribute(b"reason").unwrap_or(b"") })
    } else if is(b"resubscribe") {
        Some(Said::Resubscribe { uri, pool: tag.attribute(b"poolFqdn").unwrap_or(b"") })
    } else {
        None // `pending`: more will be said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multipart_says_who_is_shown_and_who_is_not() {
        let body = br#"--b77
Content-ID: resourceList
Content-Type: application/rlmi+xml

<list xmlns="urn:ietf:params:xml:ns:rlmi" uri="sip:s@h" version="0" fullState="true">
<resource uri="sip:a@h"><instance id="0" state="active" cid="a@h"/></resource>
<resource uri="sip:b@h"><instance id="0" state="terminated" reason="noresource"/></resource>
<resource uri="sip:c@h"><instance id="0" state="resubscribe" poolFqdn="other.pool"/></resource>
<resource uri="sip:d@h"><instance id="0" state="resubscribe"/></resource>
<resource uri="sip:e@h"><instance id="0" state="pending"/></resource></list>
--b77
Content-ID: <a@h>

<categories xmlns="http://schemas.microsoft.com/2006/09/sip/categories" uri="sip:a@h"><category name="note"/></categories>
--b77--"#;
        let said: Vec<_> = read(body).collect();
        assert_eq!(
            said,
            [
                Said::Active { uri: b"sip:a@h" },
                Said::Terminated { uri: b"sip:b@h", reason: b"noresource" },
                Said::Resubscribe { uri: b"sip:c@h", pool: b"other.pool" },
                Said::Resubscribe { uri: b"sip:d@h", pool: b"" },
                Said::Active { uri: b"sip:a@h" },
            ]
        );
    }
}
