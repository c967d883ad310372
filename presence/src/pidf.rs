//! Presence documents: PIDF, RFC 3863.
//!
//! The engine writes documents from a template and finds its marker in
//! notifications by a byte search. This module reads documents properly, for
//! samples, the embedded pool and tests.

use quick_xml::XmlVersion;
use quick_xml::events::Event;
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

/// The namespace of PIDF.
pub const NAMESPACE: &str = "urn:ietf:params:xml:ns:pidf";
/// The namespace of the element in which the marker stands a second time.
pub const MARKER_NAMESPACE: &str = "urn:adsum:marker:1";
/// The media type of a presence document.
pub const MEDIA_TYPE: &str = "application/pidf+xml";

/// One `tuple`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tuple {
    /// Its `id`.
    pub id: String,
    /// True for `open`.
    pub open: bool,
    /// Texts of its notes.
    pub notes: Vec<String>,
    /// Texts of elements of our own namespace.
    pub markers: Vec<String>,
}

/// A document, as far as a subscriber of ours needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Whose presence it is.
    pub entity: String,
    /// Its tuples, in order.
    pub tuples: Vec<Tuple>,
    /// Notes of the document or of persons, outside any tuple.
    pub notes: Vec<String>,
}

/// Why a body is not a presence document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PidfError {
    /// It is not well-formed.
    #[error("not well-formed XML: {0}")]
    Xml(String),
    /// It stops before its end.
    #[error("the document stops with {0} elements open")]
    Truncated(usize),
    /// The root is another element.
    #[error("the root element is `{0}`, not `presence` of {NAMESPACE}")]
    Root(String),
    /// Elements are nested deeper than any presence document.
    #[error("elements are nested deeper than {MAX_DEPTH}")]
    TooDeep,
}

/// Deeper than this is no presence document but an attack.
const MAX_DEPTH: usize = 64;

/// Reads a document.
///
/// # Errors
/// [`PidfError`]; nothing is resolved from outside and no entity is expanded
/// beyond the five of XML.
pub fn parse(text: &str) -> Result<Document, PidfError> {
    let mut reader = NsReader::from_str(text.trim_start_matches('\u{feff}'));
    let mut document = Document::default();
    let mut path: Vec<(String, bool)> = Vec::new();
    let mut collected = String::new();
    let xml = |e: &dyn std::fmt::Display| PidfError::Xml(e.to_string());
    loop {
        let (namespace, event) = reader.read_resolved_event().map_err(|e| xml(&e))?;
        let bound = match namespace {
            ResolveResult::Bound(namespace) => namespace.0.to_owned(),
            _ => String::new(),
        };
        match event {
            Event::Start(_) | Event::Empty(_) => {
                let (start, empty) = match &event {
                    Event::Start(start) => (start, false),
                    Event::Empty(start) => (start, true),
                    _ => continue,
                };
                let name = start.local_name().as_ref().to_owned();
                if path.is_empty() && !(name == "presence" && bound == NAMESPACE) {
                    return Err(PidfError::Root(name));
                }
                for attribute in start.attributes() {
                    let attribute = attribute.map_err(|e| xml(&e))?;
                    let value =
                        || attribute.normalized_value(XmlVersion::Implicit1_0).map(|v| v.into_owned());
                    match (path.len(), name.as_str(), attribute.key.local_name().as_ref()) {
                        (0, _, "entity") => document.entity = value().map_err(|e| xml(&e))?,
                        (1, "tuple", "id") => {
                            let id = value().map_err(|e| xml(&e))?;
                            document.tuples.push(Tuple { id, ..Tuple::default() });
                        }
                        _ => {}
                    }
                }
                collected.clear();
                if !empty {
                    path.push((name, bound == MARKER_NAMESPACE));
                    if path.len() > MAX_DEPTH {
                        return Err(PidfError::TooDeep);
                    }
                }
            }
            Event::End(_) => {
                let in_tuple = path.get(1).is_some_and(|(name, _)| name == "tuple");
                if let Some((name, ours)) = path.pop() {
                    let text = collected.trim().to_owned();
                    match (in_tuple, document.tuples.last_mut()) {
                        (true, Some(tuple)) if ours => tuple.markers.push(text),
                        (true, Some(tuple)) if name == "note" => tuple.notes.push(text),
                        (true, Some(tuple)) if name == "basic" => tuple.open = text == "open",
                        (false, _) if name == "note" => document.notes.push(text),
                        _ => {}
                    }
                }
                collected.clear();
            }
            Event::Text(text) => collected.push_str(&text.xml10_content()),
            Event::CData(text) => collected.push_str(&text.xml10_content()),
            Event::GeneralRef(reference) => collected.push_str(match reference.as_ref() {
                "amp" => "&",
                "lt" => "<",
                "gt" => ">",
                "quot" => "\"",
                "apos" => "'",
                _ => "",
            }),
            Event::Eof if path.is_empty() => return Ok(document),
            Event::Eof => return Err(PidfError::Truncated(path.len())),
            _ => {}
        }
    }
}
