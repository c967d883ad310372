//! Just enough XML to take a presence document apart without building a tree:
//! well-formedness, the namespaces of the root, and where its children begin.
//!
//! Stricter than a general parser where that is safer: no document types, only
//! the five named entities, bounded depth and attributes.

/// Deeper than this is no presence document but an attack.
const MAX_DEPTH: usize = 32;
/// Attributes of one element.
const MAX_ATTRIBUTES: usize = 64;

/// The body is not well-formed, or not of the kind that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotXml;

/// A start tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start<'a> {
    pub(super) name: &'a [u8],
    /// Everything between the name and the end of the tag.
    pub(super) attributes: &'a [u8],
    /// Where the name ends in the text.
    pub(super) name_end: usize,
    empty: bool,
}

#[derive(Debug, Clone, Copy)]
enum Token<'a> {
    Start(Start<'a>),
    End(&'a [u8]),
    /// Characters; true if they are more than white space.
    Text(bool),
    /// A comment or an instruction.
    Aside,
}

struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Result<Option<Token<'a>>, NotXml> {
        let rest = &self.text[self.at..];
        let Some(first) = rest.first() else { return Ok(None) };
        if *first != b'<' {
            let end = memchr::memchr(b'<', rest).unwrap_or(rest.len());
            characters(&rest[..end])?;
            self.at += end;
            return Ok(Some(Token::Text(!rest[..end].trim_ascii().is_empty())));
        }
        if let Some(inner) = rest.strip_prefix(b"<!--") {
            let end = memchr::memmem::find(inner, b"--").ok_or(NotXml)?;
            return self.aside(4 + end + 2, 1, inner.get(end + 2) == Some(&b'>'), Token::Aside);
        }
        if let Some(inner) = rest.strip_prefix(b"<![CDATA[") {
            let end = memchr::memmem::find(inner, b"]]>").ok_or(NotXml)?;
            return self.aside(9 + end, 3, true, Token::Text(true));
        }
        if let Some(inner) = rest.strip_prefix(b"<?") {
            let end = memchr::memmem::find(inner, b"?>").ok_or(NotXml)?;
            let named = inner[..end].first().is_some_and(|b| is_name_start(*b));
            return self.aside(2 + end, 2, named, Token::Aside);
        }
        if let Some(inner) = rest.strip_prefix(b"</") {
            let end = memchr::memchr(b'>', inner).ok_or(NotXml)?;
            self.at += 2 + end + 1;
            return Ok(Some(Token::End(inner[..end].trim_ascii_end())));
        }
        self.start().map(|start| Some(Token::Start(start)))
    }

    fn aside(
        &mut self,
        length: usize,
        close: usize,
        good: bool,
        token: Token<'a>,
    ) -> Result<Option<Token<'a>>, NotXml> {
        good.then_some(()).ok_or(NotXml)?;
        self.at += length + close;
        Ok(Some(token))
    }

    fn start(&mut self) -> Result<Start<'a>, NotXml> {
        let begin = self.at + 1;
        let name = name_at(self.text, begin)?;
        let name_end = begin + name.len();
        let mut at = name_end;
        let mut count = 0;
        while let Some(attribute) = attribute_at(self.text, at)? {
            at = attribute.end;
            count += 1;
            if count > MAX_ATTRIBUTES {
                return Err(NotXml);
            }
        }
        let attributes = &self.text[name_end..at];
        if count > 1 {
            distinct(attributes)?;
        }
        let rest = self.text[at..].trim_ascii_start();
        let empty = rest.starts_with(b"/>");
        if !empty && !rest.starts_with(b">") {
            return Err(NotXml);
        }
        self.at = self.text.len() - rest.len() + if empty { 2 } else { 1 };
        Ok(Start { name, attributes, name_end, empty })
    }
}

/// One attribute: its name, its value with the quotes, and where it ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub(super) name: &'a [u8],
    pub(super) quoted: &'a [u8],
    end: usize,
}

impl<'a> Attribute<'a> {
    pub(super) fn value(&self) -> &'a [u8] {
        &self.quoted[1..self.quoted.len() - 1]
    }
}

/// The attributes of a start tag; nothing more where they are malformed.
pub(super) fn attributes(text: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let attribute = attribute_at(text, at).ok().flatten()?;
        at = attribute.end;
        Some(attribute)
    })
}

fn attribute_at(text: &[u8], at: usize) -> Result<Option<Attribute<'_>>, NotXml> {
    let begin = blanks(text, at);
    match text.get(begin) {
        None | Some(b'>' | b'/') => return Ok(None),
        Some(_) if begin == at => return Err(NotXml),
        Some(_) => {}
    }
    let name = name_at(text, begin)?;
    let equals = blanks(text, begin + name.len());
    if text.get(equals) != Some(&b'=') {
        return Err(NotXml);
    }
    let open = blanks(text, equals + 1);
    let quote = *text.get(open).filter(|b| matches!(b, b'"' | b'\'')).ok_or(NotXml)?;
    let close = open + 1 + memchr::memchr(quote, &text[open + 1..]).ok_or(NotXml)?;
    let value = &text[open + 1..close];
    if memchr::memchr(b'<', value).is_some() {
        return Err(NotXml);
    }
    characters(value)?;
    Ok(Some(Attribute { name, quoted: &text[open..=close], end: close + 1 }))
}

fn distinct(text: &[u8]) -> Result<(), NotXml> {
    let repeated = |(at, a): (usize, Attribute<'_>)| attributes(text).take(at).any(|b| a.name == b.name);
    if attributes(text).enumerate().any(repeated) { Err(NotXml) } else { Ok(()) }
}

fn blanks(text: &[u8], at: usize) -> usize {
    at + text[at.min(text.len())..].iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')).count()
}

fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn name_at(text: &[u8], at: usize) -> Result<&[u8], NotXml> {
    let rest = text.get(at..).ok_or(NotXml)?;
    let part = |b: &u8| is_name_start(*b) || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b':');
    let name = &rest[..rest.iter().position(|b| !part(b)).unwrap_or(rest.len())];
    let (prefix, local) = split(name);
    let whole = |n: &[u8]| n.first().is_some_and(|b| is_name_start(*b));
    let qualified = prefix.is_empty() || whole(prefix);
    if !qualified || !whole(local) || local.contains(&b':') || name[0] == b':' {
        return Err(NotXml);
    }
    Ok(name)
}

/// Prefix (empty if there is none) and local part.
pub(super) fn split(name: &[u8]) -> (&[u8], &[u8]) {
    memchr::memchr(b':', name).map_or((&b""[..], name), |at| (&name[..at], &name[at + 1..]))
}

/// No control characters, and references only to what everybody knows.
fn characters(text: &[u8]) -> Result<(), NotXml> {
    if text.iter().any(|b| *b < 0x20 && !matches!(b, b'\t' | b'\r' | b'\n')) {
        return Err(NotXml);
    }
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'&', rest) {
        rest = &rest[at + 1..];
        let end = memchr::memchr(b';', &rest[..rest.len().min(10)]).ok_or(NotXml)?;
        match &rest[..end] {
            b"amp" | b"lt" | b"gt" | b"quot" | b"apos" => {}
            reference => number(reference)?,
        }
        rest = &rest[end + 1..];
    }
    Ok(())
}

/// A numeric reference to a character that XML allows.
fn number(reference: &[u8]) -> Result<(), NotXml> {
    let text = std::str::from_utf8(reference).map_err(|_| NotXml)?.strip_prefix('#').ok_or(NotXml)?;
    let (digits, radix) = text.strip_prefix('x').map_or((text, 10), |hex| (hex, 16));
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(NotXml);
    }
    let code = u32::from_str_radix(digits, radix).map_err(|_| NotXml)?;
    let character = char::from_u32(code).ok_or(NotXml)?;
    let allowed = matches!(code, 9 | 10 | 13 | 0x20..) && !matches!(character, '\u{fffe}' | '\u{ffff}');
    allowed.then_some(()).ok_or(NotXml)
}

/// A document that is well-formed: its root, and what stands inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Root<'a> {
    pub(super) start: Start<'a>,
    pub(super) inner: &'a [u8],
}

/// Reads a whole document.
pub(super) fn document(text: &[u8]) -> Result<Root<'_>, NotXml> {
    std::str::from_utf8(text).map_err(|_| NotXml)?;
    let mut tokens = Tokens { text, at: 0 };
    let mut open = [&b""[..]; MAX_DEPTH];
    let mut depth = 0;
    let mut root: Option<(Start<'_>, usize)> = None;
    let mut inner = None;
    loop {
        let before = tokens.at;
        match tokens.next()? {
            None => break,
            Some(Token::Aside) => {}
            Some(Token::Text(visible)) => {
                if depth == 0 && visible {
                    return Err(NotXml);
                }
            }
            Some(Token::Start(start)) => {
                if depth == 0 {
                    if root.is_some() {
                        return Err(NotXml);
                    }
                    root = Some((start, tokens.at));
                    if start.empty {
                        inner = Some(&text[..0]);
                    }
                }
                if !start.empty {
                    *open.get_mut(depth).ok_or(NotXml)? = start.name;
                    depth += 1;
                }
            }
            Some(Token::End(name)) => {
                depth = depth.checked_sub(1).ok_or(NotXml)?;
                if open[depth] != name {
                    return Err(NotXml);
                }
                if let (0, Some((_, begin))) = (depth, root) {
                    inner = Some(&text[begin..before]);
                }
            }
        }
    }
    match (root, inner, depth) {
        (Some((start, _)), Some(inner), 0) => Ok(Root { start, inner }),
        _ => Err(NotXml),
    }
}

/// The start tags that are not inside others, of something that was well-formed.
pub(super) fn children(inner: &[u8]) -> impl Iterator<Item = Start<'_>> {
    let mut tokens = Tokens { text: inner, at: 0 };
    let mut depth = 0u32;
    std::iter::from_fn(move || {
        loop {
            match tokens.next().ok().flatten()? {
                Token::Start(start) => {
                    let child = depth == 0;
                    depth += u32::from(!start.empty);
                    if child {
                        return Some(start);
                    }
                }
                Token::End(_) => depth = depth.saturating_sub(1),
                Token::Text(_) | Token::Aside => {}
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for good in [
            "<a/>",
            "<?xml version='1.0'?><!-- x --><a b='1' c:d=\"&lt;&#x41;\"><b>t</b>&amp;</a>\n",
            "<a><![CDATA[<]]></a>",
        ] {
            assert!(document(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a b=1/>",
            "<a b='1' b='2'/>",
            "<a b='1'c='2'/>",
            "<a>&x;</a>",
            "<a>&</a>",
            "<a b='<'/>",
            "<!DOCTYPE a><a/>",
            "<a/>x",
            "<1/>",
            "<a>\u{1}</a>",
            "<:a/>",
            "<a:b:c/>",
            "</a>",
            "<!-- -- --><a/>",
            "<a>&#0;</a>",
        ] {
            assert_eq!(document(bad.as_bytes()), Err(NotXml), "{bad}");
        }
        let deep = |n: usize| "<a>".repeat(n) + &"</a>".repeat(n);
        assert!(
            document(deep(MAX_DEPTH).as_bytes()).is_ok() && document(deep(MAX_DEPTH + 1).as_bytes()).is_err()
        );
    }

    #[test]
    fn children_are_the_outermost_start_tags() {
        let names: Vec<_> = children(b" <a x='1'><b/></a><c/><!-- <d/> --><e></e>").map(|s| s.name).collect();
        assert_eq!(names, [b"a", b"c", b"e"]);
    }

    const SEED: &str = "<?xml version=\"1.0\"?>\n<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" xmlns:a=\"u\" entity=\"sip:a@b\">\
        <tuple id=\"t\"><status><basic>open</basic></status><a:m>1 &amp; 2</a:m><note>n</note></tuple></presence>\n";

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]
        /// quick-xml is the oracle: what is taken here it takes, too; and nothing panics.
        #[test]
        fn whatever_is_taken_a_full_parser_takes(edits in prop::collection::vec((0..SEED.len(), 0usize..3, prop::sample::select(b"<>/&;:='\" ax!-?#\x01".to_vec())), 0..4)) {
            let mut text = SEED.as_bytes().to_vec();
            for (at, kind, byte) in edits {
                let at = at.min(text.len() - 1);
                match kind {
                    0 => text[at] = byte,
                    1 => text.insert(at, byte),
                    _ => drop(text.remove(at)),
                }
            }
            if let Ok(root) = document(&text) {
                let read = adsum_presence::pidf::parse(std::str::from_utf8(&text).unwrap());
                let other_root = matches!(read, Err(adsum_presence::pidf::PidfError::Root(_)));
                prop_assert!(read.is_ok() || other_root, "{read:?} {}", String::from_utf8_lossy(&text));
                prop_assert!(children(root.inner).count() <= 2);
            }
        }
    }
}
