//! Bodies of the `lync` dialect, as trees: read by quick-xml, and before that
//! by the stricter reader of [`super::super::xml`] (no document types, no
//! entities but the five, bounded depth and attributes), so that what is kept
//! may be put into another document as it stands.

use std::borrow::Cow;

use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

use super::super::xml::{self, NotXml};

/// Elements of a body: a batch of a thousand contacts has some thousands.
const MAX_ELEMENTS: usize = 16_384;

#[derive(Debug)]
struct Node {
    /// In `namespaces`; 0 is none.
    namespace: u32,
    parent: u32,
    /// The first node behind this one and all that is in it.
    after: u32,
    /// Of the whole element, in bytes of the text.
    begin: u32,
    end: u32,
    /// Where its start tag ends, and its end tag begins.
    head_end: u32,
    inner_end: u32,
}

/// A body.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    text: &'a str,
    nodes: Vec<Node>,
    namespaces: Vec<String>,
}

impl<'a> Tree<'a> {
    /// Reads a body; the root is there if this succeeds.
    pub(super) fn read(body: &'a [u8]) -> Result<Tree<'a>, NotXml> {
        let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
        xml::document(body)?;
        let text = std::str::from_utf8(body).map_err(|_| NotXml)?;
        let mut tree = Tree { text, nodes: Vec::new(), namespaces: vec![String::new()] };
        let mut reader = NsReader::from_str(text);
        let mut open: Vec<u32> = Vec::new();
        loop {
            let begin = reader.buffer_position() as u32;
            let (namespace, event) = reader.read_resolved_event().map_err(|_| NotXml)?;
            let namespace = match (&event, namespace) {
                (Event::Start(_) | Event::Empty(_), ResolveResult::Bound(bound)) => Some(bound.0.to_owned()),
                (Event::Start(_) | Event::Empty(_), ResolveResult::Unknown(_)) => return Err(NotXml),
                _ => None,
            };
            let (is_start, is_empty) = match event {
                Event::Eof => break,
                Event::Start(_) => (true, false),
                Event::Empty(_) => (true, true),
                Event::End(_) => {
                    let at = open.pop().ok_or(NotXml)?;
                    let after = tree.nodes.len() as u32;
                    let node = &mut tree.nodes[at as usize];
                    (node.inner_end, node.after) = (begin, after);
                    node.end = reader.buffer_position() as u32;
                    continue;
                }
                Event::DocType(_) => return Err(NotXml),
                _ => continue,
            };
            if !is_start {
                continue;
            }
            if tree.nodes.len() >= MAX_ELEMENTS {
                return Err(NotXml);
            }
            let at = tree.nodes.len() as u32;
            let end = reader.buffer_position() as u32;
            let namespace = tree.intern(namespace);
            let parent = open.last().copied().unwrap_or(u32::MAX);
            tree.nodes.push(Node {
                namespace,
                parent,
                after: at + 1,
                begin,
                end,
                head_end: end,
                inner_end: end,
            });
            if !is_empty {
                open.push(at);
            }
        }
        if tree.nodes.is_empty() || !open.is_empty() { Err(NotXml) } else { Ok(tree) }
    }

    fn intern(&mut self, namespace: Option<String>) -> u32 {
        let Some(namespace) = namespace else { return 0 };
        let known = self.namespaces.iter().position(|n| *n == namespace);
        known.unwrap_or_else(|| {
            self.namespaces.push(namespace);
            self.namespaces.len() - 1
        }) as u32
    }

    pub(super) fn root(&self) -> Element<'_> {
        Element { tree: self, at: 0 }
    }
}

/// An element of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'t> {
    tree: &'t Tree<'t>,
    at: u32,
}

impl<'t> Element<'t> {
    fn node(self) -> &'t Node {
        &self.tree.nodes[self.at as usize]
    }

    /// The start tag without its brackets.
    fn head(self) -> &'t str {
        let node = self.node();
        let head = self.tree.text.get(node.begin as usize..node.head_end as usize).unwrap_or("");
        head.trim_start_matches('<').trim_end_matches('>').trim_end_matches('/')
    }

    fn qualified(self) -> &'t str {
        self.head().split([' ', '\t', '\r', '\n']).next().unwrap_or("")
    }

    /// The name without its prefix.
    pub(super) fn name(self) -> &'t str {
        let name = self.qualified();
        name.split_once(':').map_or(name, |(_, local)| local)
    }

    /// True for this name of this namespace.
    pub(super) fn is(self, namespace: &str, name: &str) -> bool {
        self.tree.namespaces[self.node().namespace as usize] == namespace && self.name() == name
    }

    /// The value of an attribute, by its name without a prefix.
    pub(super) fn attribute(self, name: &str) -> Option<Cow<'t, str>> {
        let of_name = |a: &xml::Attribute<'_>| {
            let (prefix, local) = xml::split(a.name);
            prefix != b"xmlns" && a.name != b"xmlns" && local == name.as_bytes()
        };
        let mut all = xml::attributes(&self.head().as_bytes()[self.qualified().len()..]);
        let value = std::str::from_utf8(all.find(of_name)?.value()).ok()?;
        quick_xml::escape::unescape(value).ok()
    }

    /// The elements directly in it.
    pub(super) fn children(self) -> impl Iterator<Item = Element<'t>> {
        let mut at = self.at + 1;
        let end = self.node().after;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let child = Element { tree: self.tree, at };
                at = child.node().after;
                child
            })
        })
    }

    /// The first child of this name.
    pub(super) fn child(self, name: &str) -> Option<Element<'t>> {
        self.children().find(|child| child.name() == name)
    }

    /// Its characters, if there is nothing but characters in it.
    pub(super) fn text(self) -> Cow<'t, str> {
        let node = self.node();
        let raw = self.tree.text.get(node.head_end as usize..node.inner_end as usize).unwrap_or("").trim();
        quick_xml::escape::unescape(raw).unwrap_or(Cow::Borrowed(""))
    }

    /// Appends the element so that it can stand anywhere: with the namespaces
    /// that it inherits.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        let node = self.node();
        let raw = self.tree.text.get(node.begin as usize..node.end as usize).unwrap_or("");
        let name = 1 + self.qualified().len();
        let Some((start, rest)) = raw.split_at_checked(name) else { return };
        out.extend_from_slice(start.as_bytes());
        let mut declared: Vec<&[u8]> = declarations(self.head()).map(|a| a.name).collect();
        let mut above = node.parent;
        while let Some(parent) = self.tree.nodes.get(above as usize) {
            let element = Element { tree: self.tree, at: above };
            for declaration in declarations(element.head()) {
                let prefix = xml::split(declaration.name).1;
                let wanted = declaration.name == b"xmlns"
                    || memchr::memmem::find(raw.as_bytes(), &[prefix, b":"].concat()).is_some();
                if wanted && !declared.contains(&declaration.name) {
                    declared.push(declaration.name);
                    for part in [b" ", declaration.name, b"=", declaration.quoted] {
                        out.extend_from_slice(part);
                    }
                }
            }
            above = parent.parent;
        }
        out.extend_from_slice(rest.as_bytes());
    }
}

fn declarations(head: &str) -> impl Iterator<Item = xml::Attribute<'_>> {
    let name = head.find([' ', '\t', '\r', '\n']).unwrap_or(head.len());
    xml::attributes(&head.as_bytes()[name..])
        .filter(|a| a.name == b"xmlns" || xml::split(a.name).0 == b"xmlns")
}

/// Appends a text so that it may stand between tags or quotes.
pub(super) fn escape(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(quick_xml::escape::escape(text).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_attributes_and_children_are_found_whatever_the_prefixes() {
        let text = "<?xml version=\"1.0\"?><p:a xmlns:p='u:a' xmlns='u:b'><p:b x=\"1 &amp; 2\" p:y='3'/> t <c><d>&lt;5</d></c></p:a>";
        let tree = Tree::read(text.as_bytes()).unwrap();
        let root = tree.root();
        assert!(root.is("u:a", "a") && !root.is("u:b", "a"));
        let names: Vec<_> = root.children().map(Element::name).collect();
        assert_eq!(names, ["b", "c"]);
        let b = root.child("b").unwrap();
        assert_eq!((b.attribute("x").as_deref(), b.attribute("y").as_deref()), (Some("1 & 2"), Some("3")));
        assert!(root.child("c").unwrap().is("u:b", "c"));
        assert_eq!(root.child("c").unwrap().child("d").unwrap().text(), "<5");
    }

    #[test]
    fn an_element_takes_its_namespaces_along() {
        let text = "<a xmlns='u:a' xmlns:x='u:x' xmlns:z='u:z'><b xmlns:z='u:own'><x:c z:d='1'/></b></a>";
        let tree = Tree::read(text.as_bytes()).unwrap();
        let mut out = Vec::new();
        tree.root().child("b").unwrap().child("c").unwrap().write(&mut out);
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out, "<x:c xmlns:z='u:own' xmlns='u:a' xmlns:x='u:x' z:d='1'/>");
        assert!(Tree::read(out.as_bytes()).unwrap().root().is("u:x", "c"));
    }

    #[test]
    fn what_nobody_should_read_is_refused() {
        for bad in ["", "x", "<a>", "<!DOCTYPE a []><a/>", "<a>&b;</a>", "<x:a/>", "<a/><b/>"] {
            assert!(Tree::read(bad.as_bytes()).is_err(), "{bad}");
        }
        let many = format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS));
        assert!(Tree::read(many.as_bytes()).is_err());
    }

    const SEED: &str = "<?xml version=\"1.0\"?>\n<p xmlns=\"u:p\" xmlns:x=\"u:x\"><q uri=\"sip:a@b\"><x:r y='2'>\
        <s/>t&amp;</x:r></q></p>\n";

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]
        /// Whatever is taken can be put into another document, and nothing panics.
        #[test]
        fn what_is_written_is_read_again(edits in prop::collection::vec((0..SEED.len(), 0usize..3, prop::sample::select(b"<>/&;:='\" ax!-?#\x01\xc3".to_vec())), 0..4)) {
            let mut text = SEED.as_bytes().to_vec();
            for (at, kind, byte) in edits {
                let at = at.min(text.len() - 1);
                match kind {
                    0 => text[at] = byte,
                    1 => text.insert(at, byte),
                    _ => drop(text.remove(at)),
                }
            }
            if let Ok(tree) = Tree::read(&text) {
                for at in 0..tree.nodes.len() as u32 {
                    let element = Element { tree: &tree, at };
                    let mut out = b"<w>".to_vec();
                    element.write(&mut out);
                    out.extend_from_slice(b"</w>");
                    let again = Tree::read(&out);
                    prop_assert!(again.is_ok(), "{}", String::from_utf8_lossy(&out));
                    let again = again.unwrap();
                    let inner = again.root().children().next().unwrap();
                    prop_assert_eq!(inner.name(), element.name());
                    prop_assert_eq!(inner.attribute("uri"), element.attribute("uri"));
                    let _ = element.text();
                }
            }
        }
    }
}
