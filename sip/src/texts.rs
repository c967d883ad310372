//! Short texts of many owners, packed: what a million users keep of nonces, tags and entity-tags.
//!
//! A handle has four bytes and a text two more than its length, rounded up to eight. A text of the heap
//! would take sixteen bytes of its own and eight for the pointer, and one inside its owner room for the
//! longest that is usual.

/// A text's place; the empty text has none. Whoever owns it gives it back with [`Texts::clear`]:
/// dropping it leaves the text where it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Text(u32);

impl Text {
    /// True for the empty text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

/// What texts are counted in.
const GRAIN: usize = 8;
/// Bytes of the length in front of each text.
const HEAD: usize = 2;

/// The texts.
#[derive(Debug, Default)]
pub struct Texts {
    /// The first grain is nobody's.
    grains: Vec<[u8; GRAIN]>,
    /// By the number of grains: the first free place of that size, whose first bytes name the next.
    free: Vec<u32>,
}

impl Texts {
    /// Longer texts are not kept: they would not fit a datagram.
    pub const LONGEST: usize = u16::MAX as usize;

    /// The bytes of a text.
    #[must_use]
    pub fn get(&self, text: &Text) -> &[u8] {
        if text.is_empty() {
            return b"";
        }
        let bytes = &self.grains.as_flattened()[text.0 as usize * GRAIN..];
        let [low, high, rest @ ..] = bytes else { return b"" };
        &rest[..usize::from(u16::from_le_bytes([*low, *high]))]
    }

    /// Gives a text other bytes; of more than [`Texts::LONGEST`] it is left empty.
    pub fn set(&mut self, text: &mut Text, bytes: &[u8]) {
        if bytes.is_empty() || bytes.len() > Self::LONGEST {
            return self.clear(text);
        }
        let old = grains(self.get(text).len());
        let new = grains(bytes.len());
        if text.is_empty() || old != new {
            self.clear(text);
            let Some(place) = self.take(new) else { return };
            *text = Text(place);
        }
        let place = text.0 as usize * GRAIN;
        let to = &mut self.grains.as_flattened_mut()[place..];
        to[..HEAD].copy_from_slice(&(bytes.len() as u16).to_le_bytes());
        to[HEAD..HEAD + bytes.len()].copy_from_slice(bytes);
    }

    /// Makes a text empty and its place free.
    pub fn clear(&mut self, text: &mut Text) {
        if text.is_empty() {
            return;
        }
        let size = grains(self.get(text).len());
        if self.free.len() <= size {
            self.free.resize(size + 1, 0);
        }
        let next = std::mem::replace(&mut self.free[size], text.0);
        self.grains[text.0 as usize][..4].copy_from_slice(&next.to_le_bytes());
        *text = Text(0);
    }

    /// A place for so many grains; `None` when 32 GiB are full.
    fn take(&mut self, size: usize) -> Option<u32> {
        if let Some(first) = self.free.get_mut(size).filter(|first| **first != 0) {
            let [a, b, c, d, ..] = self.grains[*first as usize];
            return Some(std::mem::replace(first, u32::from_le_bytes([a, b, c, d])));
        }
        let place = self.grains.len().max(1);
        let end = u32::try_from(place + size).ok()?;
        self.grains.resize(end as usize, [0; GRAIN]);
        Some(place as u32)
    }
}

/// How many grains a text of that length takes.
fn grains(len: usize) -> usize {
    (HEAD + len).div_ceil(GRAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_keeps_its_own_and_places_are_used_again(
            calls in prop::collection::vec((0usize..8, prop::collection::vec(any::<u8>(), 0..60)), 1..200)
        ) {
            let mut texts = Texts::default();
            let mut held: [Text; 8] = Default::default();
            let mut expected: [Vec<u8>; 8] = Default::default();
            for (at, bytes) in calls {
                texts.set(&mut held[at], &bytes);
                expected[at] = bytes;
                for (text, bytes) in held.iter().zip(&expected) {
                    prop_assert_eq!(texts.get(text), &bytes[..]);
                    prop_assert_eq!(text.is_empty(), bytes.is_empty());
                }
            }
            // Eight sizes, and eight texts of each at most.
            prop_assert!(texts.grains.len() <= 1 + 8 * (1..=8).sum::<usize>(), "{}", texts.grains.len());
        }
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let mut texts = Texts::default();
        let mut text = Text::default();
        texts.set(&mut text, &vec![b'x'; Texts::LONGEST]);
        assert_eq!(texts.get(&text).len(), Texts::LONGEST);
        texts.set(&mut text, &vec![b'x'; Texts::LONGEST + 1]);
        assert!(text.is_empty() && texts.get(&text).is_empty());
        texts.set(&mut text, b"short");
        assert_eq!(texts.get(&text), b"short");
    }
}
