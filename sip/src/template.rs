//! Messages as pieces and slots: compiled once, rendered by copying.

/// A compiled message.
#[derive(Debug, Clone)]
pub struct Template<S> {
    pieces: Vec<Piece<S>>,
    /// Index of the first piece of the body.
    body: usize,
}

#[derive(Debug, Clone)]
enum Piece<S> {
    Text(Box<[u8]>),
    Slot(S),
    /// The number of bytes of the body.
    Length,
}

/// The text that stands for the length of the body.
const LENGTH: &str = "QLENGTHQ";
/// Digits that are kept free for it; leading zeros are allowed by the grammar
/// (`1*DIGIT`, RFC 3261 §25.1), blanks in front of the number are kinder.
const LENGTH_WIDTH: usize = 6;

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A sentinel does not stand in the text.
    #[error("the sentinel {0} does not stand in the text")]
    Missing(String),
    /// The headers do not end.
    #[error("the text has no empty line")]
    NoBody,
}

impl<S: Copy> Template<S> {
    /// Cuts `text` at the sentinels. Each has to occur, and may occur often.
    /// `QLENGTHQ` stands for the length of what follows the empty line.
    ///
    /// # Errors
    /// [`TemplateError`] for a sentinel that is not there.
    pub fn compile(text: &str, slots: &[(S, &str)]) -> Result<Self, TemplateError> {
        for (_, sentinel) in slots {
            if !text.contains(sentinel) {
                return Err(TemplateError::Missing((*sentinel).to_owned()));
            }
        }
        let head = text.find("\r\n\r\n").ok_or(TemplateError::NoBody)? + 4;
        let mut pieces = Vec::new();
        cut(&text[..head], slots, &mut pieces);
        let body = pieces.len();
        cut(&text[head..], slots, &mut pieces);
        Ok(Template { pieces, body })
    }

    /// Appends the message; `fill` appends what belongs into a slot. Returns where in `out` the body begins.
    #[inline]
    pub fn render(&self, out: &mut Vec<u8>, mut fill: impl FnMut(S, &mut Vec<u8>)) -> usize {
        let mut length_at = None;
        let mut body_at = out.len();
        for (at, piece) in self.pieces.iter().enumerate() {
            if at == self.body {
                body_at = out.len();
            }
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Slot(slot) => fill(*slot, out),
                Piece::Length => {
                    length_at = Some(out.len());
                    out.extend_from_slice(&[b' '; LENGTH_WIDTH]);
                }
            }
        }
        if self.pieces.len() == self.body {
            body_at = out.len();
        }
        if let Some(length_at) = length_at {
            let mut length = out.len() - body_at;
            let mut at = length_at + LENGTH_WIDTH;
            loop {
                at -= 1;
                out[at] = b'0' + (length % 10) as u8;
                length /= 10;
                if length == 0 || at == length_at {
                    break;
                }
            }
        }
        body_at
    }
}

fn cut<S: Copy>(text: &str, slots: &[(S, &str)], pieces: &mut Vec<Piece<S>>) {
    let mut rest = text;
    loop {
        let length = rest.find(LENGTH).map(|at| (at, LENGTH.len(), None));
        let next = slots
            .iter()
            .filter_map(|(slot, sentinel)| rest.find(sentinel).map(|at| (at, sentinel.len(), Some(*slot))))
            .chain(length)
            .min_by_key(|(at, len, _)| (*at, std::cmp::Reverse(*len)));
        let Some((at, len, slot)) = next else { break };
        if at > 0 {
            pieces.push(Piece::Text(rest.as_bytes()[..at].into()));
        }
        pieces.push(slot.map_or(Piece::Length, Piece::Slot));
        rest = &rest[at + len..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.as_bytes().into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_filled_and_the_body_is_counted() {
        let text = "A QXQ\r\nContent-Length: QLENGTHQ\r\n\r\n<QXQ/>";
        let template = Template::compile(text, &[('x', "QXQ")]).unwrap();
        let mut out = Vec::new();
        template.render(&mut out, |_, out| out.extend_from_slice(b"twelve bytes"));
        assert_eq!(out, b"A twelve bytes\r\nContent-Length:     15\r\n\r\n<twelve bytes/>");
        assert_eq!(
            Template::compile(text, &[('y', "QYQ")]).unwrap_err(),
            TemplateError::Missing("QYQ".into())
        );
    }
}
