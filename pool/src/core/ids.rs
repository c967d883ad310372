//! Tags, branches and entity tags that say where they belong, so that no map
//! is needed to find a subscription, a NOTIFY or a publication.
//!
//! ```text
//! To tag      s<slot 6><keyed hash of slot and generation 8>      15 bytes
//! branch      z9hG4bKpool<slot 6><generation 6>                   23 bytes
//! entity tag  e<number 12>                                        13 bytes
//! ```

use adsum_sip::ids::{mix, read, write};

const BRANCH: &[u8] = b"z9hG4bKpool";

/// The secret under which tags are hashed: 40 bits that cannot be guessed
/// without it (RFC 3261 §19.3 asks for 32).
#[derive(Debug, Clone, Copy)]
pub(super) struct Tags(pub(super) u64);

impl Tags {
    fn hash(self, slot: u32, generation: u32) -> u64 {
        mix(self.0 ^ mix(u64::from(slot) | u64::from(generation) << 32))
    }

    /// Appends the tag of a subscription.
    pub(super) fn write(self, slot: u32, generation: u32, out: &mut Vec<u8>) {
        let hash = self.hash(slot, generation);
        out.push(b's');
        write(out, slot, 6);
        write(out, (hash & 0xf_ffff) as u32, 4);
        write(out, (hash >> 20 & 0xf_ffff) as u32, 4);
    }

    /// The slot in a tag, if it has the form of ours.
    pub(super) fn slot(tag: &[u8]) -> Option<u32> {
        (tag.len() == 15 && tag[0] == b's').then(|| read(&tag[1..7])).flatten()
    }

    /// True if this is the tag of that tenant of the slot.
    pub(super) fn is(self, tag: &[u8], slot: u32, generation: u32) -> bool {
        let hash = self.hash(slot, generation);
        let digits = |at: usize| tag.get(at..at + 4).and_then(read).map(u64::from);
        tag.len() == 15 && digits(7) == Some(hash & 0xf_ffff) && digits(11) == Some(hash >> 20 & 0xf_ffff)
    }
}

/// Appends the branch of a NOTIFY.
pub(super) fn write_branch(slot: u32, generation: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(BRANCH);
    write(out, slot, 6);
    write(out, generation, 6);
}

/// Slot and generation (its low 30 bits) in a branch of ours.
pub(super) fn read_branch(branch: &[u8]) -> Option<(u32, u32)> {
    let digits = branch.strip_prefix(BRANCH)?;
    (digits.len() == 12).then_some(())?;
    Some((read(&digits[..6])?, read(&digits[6..])?))
}

/// Appends an entity tag.
pub(super) fn write_etag(number: u64, out: &mut Vec<u8>) {
    out.push(b'e');
    write(out, (number >> 30) as u32, 6);
    write(out, (number & 0x3fff_ffff) as u32, 6);
}

/// The number in an entity tag of ours.
pub(super) fn read_etag(tag: &[u8]) -> Option<u64> {
    let digits = tag.strip_prefix(b"e")?;
    (digits.len() == 12).then_some(())?;
    Some(u64::from(read(&digits[..6])?) << 30 | u64::from(read(&digits[6..])?))
}

/// Appends a number in decimal.
pub(super) fn write_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a header line.
pub(super) fn put_line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The same with a number.
pub(super) fn put_number_line(name: &[u8], number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    write_number(number, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends `user000001`.
pub(super) fn write_user(number: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(b"user");
    let mut below = 100_000;
    while below > 1 && number < below {
        out.push(b'0');
        below /= 10;
    }
    write_number(u64::from(number), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(slot in 0u32..1 << 30, generation: u32, number in 0u64..1 << 60, user in 0u32..20_000_000) {
            let tags = Tags(7);
            let mut out = Vec::new();
            tags.write(slot, generation, &mut out);
            prop_assert_eq!(Tags::slot(&out), Some(slot));
            prop_assert!(tags.is(&out, slot, generation));
            prop_assert!(!tags.is(&out, slot, generation.wrapping_add(1)));
            prop_assert!(!Tags(8).is(&out, slot, generation));
            out.clear();
            write_branch(slot, generation, &mut out);
            prop_assert_eq!(read_branch(&out), Some((slot, generation & 0x3fff_ffff)));
            out.clear();
            write_etag(number, &mut out);
            prop_assert_eq!(read_etag(&out), Some(number));
            out.clear();
            write_user(user, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!("user{user:06}"));
        }

        #[test]
        fn foreign_text_is_no_identifier(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = (Tags::slot(&text), Tags(1).is(&text, 0, 1), read_branch(&text), read_etag(&text));
        }
    }
}
