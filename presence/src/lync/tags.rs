//! Start tags of an XML text, in their order: enough to read what a server
//! says in documents of a known form.
//!
//! Nothing is allocated and every byte is looked at once, so that even the
//! notifications of a load run can be read. It is tolerant on purpose: it reads
//! a multipart body as it stands, because MIME headers hold no start tags of
//! the names that we look for, and it does not mind what does not close.

use memchr::{memchr, memmem};

/// One start tag, or an empty element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag<'a> {
    /// Its name without a prefix.
    pub name: &'a [u8],
    attributes: &'a [u8],
}

impl<'a> Tag<'a> {
    /// The value of an attribute as it is written: references are not resolved.
    #[must_use]
    pub fn attribute(&self, name: &[u8]) -> Option<&'a [u8]> {
        let mut rest = self.attributes;
        loop {
            let equals = memchr(b'=', rest)?;
            let key = rest[..equals].trim_ascii();
            let key = key.rsplit(|byte| byte.is_ascii_whitespace()).next().unwrap_or(key);
            let value = rest[equals + 1..].trim_ascii_start();
            let quote = *value.first().filter(|quote| matches!(**quote, b'"' | b'\''))?;
            let end = memchr(quote, &value[1..])?;
            if key == name {
                return Some(&value[1..=end]);
            }
            rest = &value[end + 2..];
        }
    }

    /// The value of an attribute as a number below 2³²; `None` if it is none.
    #[must_use]
    pub fn number(&self, name: &[u8]) -> Option<u32> {
        let digits = self.attribute(name)?.trim_ascii();
        if digits.is_empty() || digits.len() > 10 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let value = digits.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        u32::try_from(value).ok()
    }
}

/// Gives the start tags of a text.
#[derive(Debug, Clone)]
pub struct Tags<'a> {
    rest: &'a [u8],
}

impl<'a> Tags<'a> {
    /// The tags of `text`.
    #[must_use]
    pub fn of(text: &'a [u8]) -> Self {
        Tags { rest: text }
    }
}

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        loop {
            let open = memchr(b'<', self.rest)?;
            let inside = &self.rest[open + 1..];
            let skipped: Option<&[u8]> = match inside {
                [b'!', b'-', b'-', ..] => Some(b"-->"),
                [b'!', b'[', b'C', b'D', b'A', b'T', b'A', b'[', ..] => Some(b"]]>"),
                [b'/' | b'!' | b'?', ..] => Some(b">"),
                _ => None,
            };
            if let Some(end) = skipped {
                let after = memmem::find(inside, end)? + end.len();
                self.rest = &inside[after..];
                continue;
            }
            let end = tag_end(inside)?;
            self.rest = &inside[end + 1..];
            let text = inside[..end].strip_suffix(b"/").unwrap_or(&inside[..end]);
            let name_end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
            let (name, attributes) = text.split_at(name_end);
            let name = memchr(b':', name).map_or(name, |colon| &name[colon + 1..]);
            return Some(Tag { name, attributes });
        }
    }
}

/// Where the `>` of a tag stands. Quotes count only behind `=`: a Content-ID
/// in angle brackets may hold one that never closes.
fn tag_end(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    let mut is_value = false;
    for (at, byte) in text.iter().enumerate() {
        match (quote, *byte) {
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'>') => return Some(at),
            (None, b'=') => is_value = true,
            (None, open @ (b'"' | b'\'')) if is_value => {
                quote = Some(open);
                is_value = false;
            }
            (None, byte) if byte.is_ascii_whitespace() => {}
            (None, _) => is_value = false,
        }
    }
    None
}

/// The text of a value with the five references of XML resolved, in `scratch`
/// if there are some.
pub fn resolved<'a>(value: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
    const REFERENCES: [(&[u8], u8); 5] =
        [(b"&amp;", b'&'), (b"&lt;", b'<'), (b"&gt;", b'>'), (b"&quot;", b'"'), (b"&apos;", b'\'')];
    if memchr(b'&', value).is_none() {
        return value;
    }
    scratch.clear();
    let mut rest = value;
    while let Some(at) = memchr(b'&', rest) {
        scratch.extend_from_slice(&rest[..at]);
        let found = REFERENCES.iter().find(|(text, _)| rest[at..].starts_with(text));
        let (byte, length) = found.map_or((b'&', 1), |(text, byte)| (*byte, text.len()));
        scratch.push(byte);
        rest = &rest[at + length..];
    }
    scratch.extend_from_slice(rest);
    scratch
}

/// Appends a text as the value of an attribute.
pub fn escape(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            other => out.push(*other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tags_come_in_order_and_markup_that_is_none_is_skipped() {
        let text = br#"--b77
Content-ID: <o'brien@pool.test>

<?xml version="1.0"?><!-- <no/> --><r:list uri="sip:a>b@h" n = '7'><![CDATA[<no/>]]><resource
 uri="sip:x&amp;y@h"/></r:list><open"#;
        let tags: Vec<_> = Tags::of(text).collect();
        let names: Vec<_> = tags.iter().map(|tag| tag.name).collect();
        assert_eq!(names, [&b"o'brien@pool.test"[..], b"list", b"resource"]);
        assert_eq!(tags[1].attribute(b"uri"), Some(&b"sip:a>b@h"[..]));
        assert_eq!(
            (tags[1].number(b"n"), tags[1].number(b"uri"), tags[1].number(b"m")),
            (Some(7), None, None)
        );
        let mut scratch = Vec::new();
        let uri = tags[2].attribute(b"uri").unwrap();
        assert_eq!(resolved(uri, &mut scratch), b"sip:x&y@h");
        let mut out = Vec::new();
        escape(b"sip:x&y@h", &mut out);
        assert_eq!(out, uri);
    }

    proptest! {
        #[test]
        fn any_text_comes_to_an_end(text in prop::collection::vec(prop::sample::select(b"<>/=\"'! -[]ACDTx0&;".to_vec()), 0..200)) {
            let mut scratch = Vec::new();
            for tag in Tags::of(&text) {
                let _ = (tag.attribute(b"x"), tag.number(b"A"));
                if let Some(value) = tag.attribute(b"x") {
                    prop_assert!(resolved(value, &mut scratch).len() <= value.len());
                }
            }
        }
    }
}
