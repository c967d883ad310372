//! The bodies that we write: what is published, who is watched.

use super::identity::Epid;
use super::tags::escape;
use super::versions::{COLLEAGUES, OWN, Versions};
use crate::accounts::write_number;
use crate::marker::Marker;

/// The media type of a publication.
pub const PUBLISH_TYPE: &[u8] = b"application/msrtc-category-publish+xml";
/// The media type of a list of those to be watched.
pub const BATCH_TYPE: &[u8] = b"application/msrtc-adrl-categorylist+xml";
/// The media type of the self-subscription, both ways.
pub const ROAMING_TYPE: &[u8] = b"application/vnd-microsoft-roaming-self+xml";
/// The media type of changes to containers.
pub const MEMBERS_TYPE: &[u8] = b"application/msrtc-setcontainermembers+xml";

/// What the self-subscription asks for.
pub const ROAMING_LIST: &[u8] = b"<roamingList xmlns=\"http://schemas.microsoft.com/2006/09/sip/roaming-self\">\
    <roaming type=\"categories\"/><roaming type=\"containers\"/><roaming type=\"subscribers\"/></roamingList>";

/// What a publication is to say.
#[derive(Debug, Clone, Copy)]
pub enum Publish {
    /// The device and its state, without which a user appears offline: what
    /// clients publish first when they sign on.
    Presence,
    /// A new note and another state of the user's own.
    Document {
        /// The text of the note.
        marker: Marker,
    },
    /// Note and what is bound to the endpoint go; a static `state` stays, as
    /// with every user who once set one, unless that is to go, too.
    Nothing {
        /// The `state` that the user set goes as well.
        state: bool,
    },
}

/// Available and busy by turns ([MS-PRES], ranges of `availability`).
fn availability(sequence: u32) -> &'static [u8] {
    if sequence.is_multiple_of(2) { b"6500" } else { b"3500" }
}

/// Appends the body of a publication; nothing if there is nothing to be said.
pub fn write_publish(what: Publish, uri: &[u8], epid: &Epid, versions: &Versions, out: &mut Vec<u8>) {
    let begin = out.len();
    let mut any = false;
    out.extend_from_slice(
        b"<publish xmlns=\"http://schemas.microsoft.com/2006/09/sip/rich-presence\"><publications uri=\"",
    );
    escape(uri, out);
    out.extend_from_slice(b"\">");
    for (own, version) in OWN.iter().zip(versions.0) {
        let wanted = match what {
            Publish::Presence => own.is_bound(),
            Publish::Document { .. } => !own.is_bound(),
            Publish::Nothing { state } => version > 0 && (state || own.is_bound() || own.category == "note"),
        };
        if !wanted {
            continue;
        }
        any = true;
        out.extend_from_slice(b"<publication categoryName=\"");
        out.extend_from_slice(own.category.as_bytes());
        number(b"\" instance=\"", own.number(epid), out);
        number(b"\" container=\"", own.container, out);
        number(b"\" version=\"", version, out);
        out.extend_from_slice(b"\" expireType=\"");
        out.extend_from_slice(own.life.as_bytes());
        out.push(b'"');
        match what {
            Publish::Nothing { .. } => out.extend_from_slice(b" expires=\"0\"/>"),
            Publish::Presence => {
                out.push(b'>');
                match own.category {
                    "device" => write_device(uri, epid, out),
                    _ => write_state("machineState", false, b"3500", out),
                }
                out.extend_from_slice(b"</publication>");
            }
            Publish::Document { marker } => {
                out.push(b'>');
                match own.category {
                    "state" => write_state("userState", true, availability(marker.sequence), out),
                    _ => {
                        out.extend_from_slice(
                            b"<note xmlns=\"http://schemas.microsoft.com/2006/09/sip/note\">\
                              <body type=\"personal\" uri=\"\">",
                        );
                        marker.write(out);
                        out.extend_from_slice(b"</body></note>");
                    }
                }
                out.extend_from_slice(b"</publication>");
            }
        }
    }
    out.extend_from_slice(b"</publications></publish>");
    if !any {
        out.truncate(begin);
    }
}

fn write_device(uri: &[u8], epid: &Epid, out: &mut Vec<u8>) {
    out.extend_from_slice(b"<device xmlns=\"http://schemas.microsoft.com/2006/09/sip/device\" endpointId=\"");
    let begin = out.len();
    epid.instance().write_uuid(out);
    out[begin..].make_ascii_uppercase();
    out.extend_from_slice(b"\"><capabilities preferred=\"false\" uri=\"");
    escape(uri, out);
    out.extend_from_slice(
        b"\"><text capture=\"true\" render=\"true\" publish=\"false\"/></capabilities>\
          <timezone>00:00:00+00:00</timezone><machineName>ADSUM</machineName></device>",
    );
}

/// The machine is always available: the user's own state is what changes.
fn write_state(kind: &str, is_manual: bool, availability: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"<state xmlns=\"http://schemas.microsoft.com/2006/09/sip/state\" manual=\"");
    out.extend_from_slice(if is_manual { b"true" } else { b"false" });
    out.extend_from_slice(b"\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\"><availability>");
    out.extend_from_slice(availability);
    out.extend_from_slice(b"</availability>");
    if !is_manual {
        out.extend_from_slice(b"<endpointLocation/>");
    }
    out.extend_from_slice(b"</state>");
}

/// Appends the beginning of a batch: whose it is, and its number in the dialog.
pub fn begin_batch(uri: &[u8], id: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"<batchSub xmlns=\"http://schemas.microsoft.com/2006/01/sip/batch-subscribe\" uri=\"",
    );
    escape(uri, out);
    number(b"\" name=\"\"><action name=\"subscribe\" id=\"", id, out);
    out.extend_from_slice(b"\"><adhocList>");
}

/// Appends one publisher of a batch.
pub fn add_to_batch(uri: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"<resource uri=\"");
    escape(uri, out);
    out.extend_from_slice(b"\"/>");
}

/// Appends the end of a batch. Two categories only: each counts against what a
/// publisher's policy allows (`MaxCategorySubscription`).
pub fn end_batch(out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"</adhocList><categoryList xmlns=\"http://schemas.microsoft.com/2006/09/sip/categorylist\">\
          <category name=\"state\"/><category name=\"note\"/></categoryList></action></batchSub>",
    );
}

/// Appends the wish that colleagues may see what they are meant to see.
pub fn write_members(version: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"<setContainerMembers xmlns=\"http://schemas.microsoft.com/2006/09/sip/container-management\">",
    );
    number(b"<container id=\"", COLLEAGUES, out);
    number(b"\" version=\"", version, out);
    out.extend_from_slice(
        b"\"><member action=\"add\" type=\"sameEnterprise\"/></container></setContainerMembers>",
    );
}

fn number(before: &[u8], value: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(before);
    write_number(u64::from(value), 0, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPID: Epid = Epid(*b"5f0a1b2c3d");
    const URI: &[u8] = b"sip:pub00001@loadlab.test";

    fn text(what: Publish, versions: Versions) -> String {
        let mut out = Vec::new();
        write_publish(what, URI, &EPID, &versions, &mut out);
        let text = String::from_utf8(out).unwrap();
        let mut reader = quick_xml::Reader::from_str(&text);
        while !matches!(reader.read_event().unwrap(), quick_xml::events::Event::Eof) {}
        text
    }

    #[test]
    fn a_sign_on_says_that_the_endpoint_is_there_and_publications_what_changes() {
        let marker = |sequence| Marker { run: 1, publisher: 2, sequence };
        let first = text(Publish::Presence, Versions::default());
        assert_eq!(first.matches("<publication ").count(), 3);
        // As in the protocol guide §3.8.
        assert!(first.contains(
            "<publication categoryName=\"state\" instance=\"904962482\" container=\"3\" version=\"0\" expireType=\"endpoint\">\
             <state xmlns=\"http://schemas.microsoft.com/2006/09/sip/state\" manual=\"false\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"machineState\">\
             <availability>3500</availability><endpointLocation/></state></publication>"
        ));
        assert!(first.contains("endpointId=\"D2C7CDA8-AE65-50B2-B614-5EAB2E452AE6\""));
        let versions = Versions([1, 1, 1, 4, 5, 6, 7, 8]);
        let own = text(Publish::Document { marker: marker(1) }, versions);
        assert!(own.contains("xsi:type=\"userState\"><availability>3500</availability>"));
        let next = text(Publish::Document { marker: marker(2) }, versions);
        assert_eq!(next.matches("<publication ").count(), 5);
        assert_eq!(next.matches("<availability>6500<").count(), 2);
        assert_eq!(next.matches("uri=\"\">adsum1.000001.000002.000002</body>").count(), 3);
        assert!(next.contains("container=\"400\" version=\"8\" expireType=\"static\">"));
    }

    #[test]
    fn what_is_withdrawn_is_what_is_there() {
        let versions = Versions([1, 2, 0, 4, 5, 6, 7, 8]);
        let usual = text(Publish::Nothing { state: false }, versions);
        assert_eq!(usual.matches(" expires=\"0\"/>").count(), 5);
        assert!(!usual.contains("536870912"));
        let all = text(Publish::Nothing { state: true }, versions);
        assert_eq!(all.matches(" expires=\"0\"/>").count(), 7);
        for state in [false, true] {
            assert_eq!(text(Publish::Nothing { state }, Versions::default()), "");
        }
    }
}
