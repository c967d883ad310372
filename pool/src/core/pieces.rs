//! Several texts in one allocation: what is kept of a request.

/// Texts, one behind the other.
#[derive(Debug, Clone)]
pub(super) struct Pieces<const N: usize> {
    text: Box<[u8]>,
    /// Where each ends.
    ends: [u16; N],
}

impl<const N: usize> Default for Pieces<N> {
    fn default() -> Self {
        Pieces { text: Box::default(), ends: [0; N] }
    }
}

impl<const N: usize> Pieces<N> {
    /// `None` if they are longer than anybody needs — URIs, tags, routes: an attack on memory.
    pub(super) fn new(pieces: [&[u8]; N]) -> Option<Self> {
        const MOST: usize = 8 * 1024;
        let text = pieces.concat();
        (text.len() <= MOST).then_some(())?;
        let mut ends = [0; N];
        let mut end = 0;
        for (at, piece) in ends.iter_mut().zip(pieces) {
            end += piece.len() as u16;
            *at = end;
        }
        Some(Pieces { text: text.into(), ends })
    }

    pub(super) fn get(&self, at: usize) -> &[u8] {
        let begin = if at == 0 { 0 } else { usize::from(self.ends[at - 1]) };
        &self.text[begin..usize::from(self.ends[at])]
    }
}
