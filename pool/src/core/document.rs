//! Presence documents: taken apart when they are published, composed when
//! somebody is told (RFC 3863; RFC 3903 §6 leaves composition to policy: all
//! that is published, the newest first).

use adsum_presence::pidf;

use super::ids::write_user;
use super::xml;

/// What is kept of a published document: the namespaces of its root, each as
/// ` xmlns:p="…"`, and what stands inside the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    text: Box<[u8]>,
    namespaces: u32,
}

impl Document {
    /// Takes a body apart; `None` unless it is a well-formed PIDF document.
    /// `strip` leaves nothing but tuples and their basic status.
    pub(super) fn read(body: &[u8], strip: bool, scratch: &mut Vec<u8>) -> Option<Document> {
        let root = xml::document(body).ok()?;
        let (prefix, local) = xml::split(root.start.name);
        scratch.clear();
        let mut default: Option<&[u8]> = None;
        let mut own: Option<&[u8]> = None;
        for attribute in xml::attributes(root.start.attributes) {
            let declared = match xml::split(attribute.name) {
                (b"", b"xmlns") => {
                    default = Some(attribute.value());
                    &b""[..]
                }
                (b"xmlns", declared) => {
                    scratch.push(b' ');
                    scratch.extend_from_slice(attribute.name);
                    scratch.push(b'=');
                    scratch.extend_from_slice(attribute.quoted);
                    declared
                }
                _ => continue,
            };
            if declared == prefix {
                own = Some(attribute.value());
            }
        }
        if local != b"presence" || own != Some(pidf::NAMESPACE.as_bytes()) {
            return None;
        }
        // The composed root has PIDF as its default; another one goes along.
        match default {
            Some(namespace) if namespace == pidf::NAMESPACE.as_bytes() => {}
            other => {
                scratch.extend_from_slice(b" xmlns=\"");
                // Written without a quote of the other kind, which the value may hold.
                other.unwrap_or(b"").iter().for_each(|b| match b {
                    b'"' => scratch.extend_from_slice(b"&quot;"),
                    b => scratch.push(*b),
                });
                scratch.push(b'"');
            }
        }
        let mut namespaces = scratch.len();
        if strip {
            scratch.clear();
            namespaces = 0;
            stripped(body, scratch)?;
        } else {
            scratch.extend_from_slice(root.inner);
        }
        Some(Document { text: scratch.as_slice().into(), namespaces: namespaces as u32 })
    }

    /// Bytes that it occupies.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    fn namespaces(&self) -> &[u8] {
        &self.text[..self.namespaces as usize]
    }

    fn inner(&self) -> &[u8] {
        &self.text[self.namespaces as usize..]
    }
}

fn stripped(body: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let document = pidf::parse(std::str::from_utf8(body).ok()?).ok()?;
    for tuple in &document.tuples {
        out.extend_from_slice(b"<tuple id=\"");
        for byte in tuple.id.bytes() {
            match byte {
                b'"' => out.extend_from_slice(b"&quot;"),
                b'&' => out.extend_from_slice(b"&amp;"),
                b'<' => out.extend_from_slice(b"&lt;"),
                _ => out.push(byte),
            }
        }
        let basic: &[u8] = if tuple.open { b"open" } else { b"closed" };
        out.extend_from_slice(b"\"><status><basic>");
        out.extend_from_slice(basic);
        out.extend_from_slice(b"</basic></status></tuple>");
    }
    Some(())
}

/// Appends the composed document of a user; `live` comes newest first.
pub(super) fn compose<'a>(
    user: u32,
    domain: &str,
    live: impl Iterator<Item = &'a Document> + Clone,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(
        b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\"",
    );
    let mut known: Vec<xml::Attribute<'a>> = Vec::new();
    let several = live.clone().nth(1).is_some();
    for document in live.clone() {
        if !several && !document.namespaces().windows(7).any(|w| w == b" xmlns=") {
            out.extend_from_slice(document.namespaces());
            continue;
        }
        for namespace in xml::attributes(document.namespaces()) {
            // What differs from an earlier one goes to the elements that need it.
            if namespace.name != b"xmlns" && known.iter().all(|k| k.name != namespace.name) {
                known.push(namespace);
                declare(&namespace, out);
            }
        }
    }
    out.extend_from_slice(b" entity=\"sip:");
    write_user(user, out);
    out.push(b'@');
    out.extend_from_slice(domain.as_bytes());
    out.extend_from_slice(b"\">");
    let mut any = false;
    for document in live {
        any = true;
        let differs = |n: &xml::Attribute<'_>| {
            n.name == b"xmlns" || known.iter().any(|k| k.name == n.name && k.quoted != n.quoted)
        };
        let conflicts = || {
            xml::attributes(document.namespaces()).filter(|n| (several || n.name == b"xmlns") && differs(n))
        };
        let mut copied = 0;
        if conflicts().next().is_some() {
            for child in xml::children(document.inner()) {
                out.extend_from_slice(&document.inner()[copied..child.name_end]);
                copied = child.name_end;
                let redeclared =
                    |n: &xml::Attribute<'_>| xml::attributes(child.attributes).any(|a| a.name == n.name);
                conflicts().filter(|n| !redeclared(n)).for_each(|n| declare(&n, out));
            }
        }
        out.extend_from_slice(&document.inner()[copied..]);
    }
    if !any {
        out.extend_from_slice(b"<tuple id=\"none\"><status><basic>closed</basic></status></tuple>");
    }
    out.extend_from_slice(b"</presence>\n");
}

fn declare(namespace: &xml::Attribute<'_>, out: &mut Vec<u8>) {
    out.push(b' ');
    out.extend_from_slice(namespace.name);
    out.push(b'=');
    out.extend_from_slice(namespace.quoted);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIDF: &str = "urn:ietf:params:xml:ns:pidf";

    fn read(text: &str) -> Option<Document> {
        Document::read(text.as_bytes(), false, &mut Vec::new())
    }

    fn composed(documents: &[&str]) -> (String, pidf::Document) {
        let documents: Vec<Document> = documents.iter().map(|d| read(d).unwrap()).collect();
        let mut out = Vec::new();
        compose(7, "pool.test", documents.iter(), &mut out);
        let text = String::from_utf8(out).unwrap();
        let read = pidf::parse(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(xml::document(text.as_bytes()).is_ok(), "{text}");
        (text, read)
    }

    #[test]
    fn only_presence_documents_are_read() {
        for bad in [
            "<presence/>".to_owned(),
            "<presence xmlns=\"urn:other\"/>".to_owned(),
            format!("<other xmlns=\"{PIDF}\"/>"),
            format!("<p:presence xmlns=\"{PIDF}\"/>"),
            format!("<presence xmlns=\"{PIDF}\"><tuple></presence>"),
        ] {
            assert_eq!(read(&bad), None, "{bad}");
        }
        assert!(read(&format!("<presence xmlns='{PIDF}'/>")).is_some());
    }

    #[test]
    fn the_same_prefix_may_mean_different_things_in_two_publications() {
        let one = format!(
            "<presence xmlns=\"{PIDF}\" xmlns:a=\"urn:adsum:marker:1\"><tuple id=\"1\"><a:m>one</a:m></tuple></presence>"
        );
        let two = format!(
            "<presence xmlns=\"{PIDF}\" xmlns:b=\"urn:b\" xmlns:a = 'urn:other'><tuple id=\"2\"><a:m>two</a:m></tuple><b:x/></presence>"
        );
        for pair in [[&one[..], &two], [&two, &one]] {
            let (text, document) = composed(&pair);
            assert_eq!(document.tuples.len(), 2, "{text}");
            let markers: Vec<_> = document.tuples.iter().flat_map(|t| &t.markers).collect();
            assert_eq!(markers, ["one"], "{text}");
        }
        let (text, _) = composed(&[&one, &one]);
        assert_eq!(text.matches("xmlns:a").count(), 1, "{text}");
    }

    #[test]
    fn a_root_with_a_prefix_keeps_its_meaning() {
        let text = format!(
            "<p:presence xmlns:p=\"{PIDF}\"><p:tuple id=\"1\"><p:note>n</p:note></p:tuple><x/></p:presence>"
        );
        let (text, document) = composed(&[&text]);
        assert_eq!(document.tuples[0].notes, ["n"], "{text}");
        assert!(text.contains("<x xmlns=\"\"/>"), "{text}");
    }

    #[test]
    fn stripping_leaves_tuples_and_their_status() {
        let text = format!(
            "<presence xmlns=\"{PIDF}\" xmlns:a=\"u\"><tuple id=\"&quot;1&amp;\"><status><basic>open</basic></status><note>n</note><a:x/></tuple><note>m</note></presence>"
        );
        let document = Document::read(text.as_bytes(), true, &mut Vec::new()).unwrap();
        let mut out = Vec::new();
        compose(1, "d", std::iter::once(&document), &mut out);
        let text = String::from_utf8(out).unwrap();
        let read = pidf::parse(&text).unwrap();
        assert_eq!((read.tuples.len(), read.tuples[0].id.as_str(), read.tuples[0].open), (1, "\"1&", true));
        assert!(!text.contains("note") && !text.contains("a:x"), "{text}");
    }
}
