//! Endpoints by name ([MS-SIPRE] §2.2): epid, `+sip.instance`, and the opaque of a GRUU.

use sha1::{Digest as _, Sha1};

/// The instance of an endpoint: a GUID, as Microsoft's structure lies in memory.
pub(super) type Instance = [u8; 16];

/// The namespace `fcacfb03-8a73-46ef-91b1-e5ebeeaba4fe`, in the same order.
const NAMESPACE: Instance =
    [0x03, 0xfb, 0xac, 0xfc, 0x73, 0x8a, 0xef, 0x46, 0x91, 0xb1, 0xe5, 0xeb, 0xee, 0xab, 0xa4, 0xfe];

/// Where each byte of the written form lies: the first three fields are little-endian.
const WRITTEN: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

/// The instance that follows from an epid: a name-based GUID of version 5.
pub(super) fn instance_of(epid: &[u8]) -> Instance {
    let digest = Sha1::new().chain_update(NAMESPACE).chain_update(epid).finalize();
    let mut instance = [0; 16];
    instance.copy_from_slice(&digest[..16]);
    instance[7] = instance[7] & 0x0f | 0x50;
    instance[8] = instance[8] & 0x3f | 0x80;
    instance
}

/// Reads `<urn:uuid:…>`, in any case.
pub(super) fn read_urn(value: &[u8]) -> Option<Instance> {
    let value = value.strip_prefix(b"<").and_then(|v| v.strip_suffix(b">")).unwrap_or(value);
    let (scheme, text) = value.split_at_checked(9)?;
    (scheme.eq_ignore_ascii_case(b"urn:uuid:") && text.len() == 36).then_some(())?;
    let mut instance = [0; 16];
    let mut at = 0;
    for (index, byte) in WRITTEN.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            (text[at] == b'-').then_some(())?;
            at += 1;
        }
        let digit = |b: u8| (b as char).to_digit(16);
        instance[byte] = (digit(text[at])? << 4 | digit(text[at + 1])?) as u8;
        at += 2;
    }
    Some(instance)
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Appends what stands behind `opaque=user:epid:`: the GUID and two zero
/// octets, 24 digits of base 64 for URLs. The documents leave the form to the
/// registrar; this one gives what they print.
pub(super) fn write_opaque(instance: Instance, out: &mut Vec<u8>) {
    let mut octets = [0; 18];
    octets[..16].copy_from_slice(&instance);
    for group in octets.chunks_exact(3) {
        let bits = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        out.extend([18, 12, 6, 0].map(|shift| DIGITS[(bits >> shift & 63) as usize]));
    }
}

/// Reads the `opaque` of a GRUU of ours: `user:epid:…`.
pub(super) fn read_opaque(opaque: &[u8]) -> Option<Instance> {
    let digits = opaque.strip_prefix(b"user:epid:").filter(|digits| digits.len() == 24)?;
    let mut instance = [0; 16];
    for (index, group) in digits.chunks_exact(4).enumerate() {
        let mut bits = 0;
        for digit in group {
            bits = bits << 6 | DIGITS.iter().position(|d| d == digit)? as u32;
        }
        for (at, shift) in [16, 8, 0].into_iter().enumerate() {
            if let Some(octet) = instance.get_mut(index * 3 + at) {
                *octet = (bits >> shift) as u8;
            }
        }
    }
    Some(instance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first from [MS-SIPRE], the second of our own (protocol guide §8.2).
    #[test]
    fn epids_have_the_instances_and_opaques_that_are_published() {
        for (epid, uuid, opaque) in [
            ("01010101", "4b1682a8-f968-5701-83fc-7c6741dc6697", "qIIWS2j5AVeD_HxnQdxmlwAA"),
            ("5f0a1b2c3d", "d2c7cda8-ae65-50b2-b614-5eab2e452ae6", "qM3H0mWuslC2FF6rLkUq5gAA"),
        ] {
            let instance = instance_of(epid.as_bytes());
            assert_eq!(read_urn(format!("<urn:uuid:{uuid}>").as_bytes()), Some(instance));
            assert_eq!(read_urn(format!("URN:UUID:{}", uuid.to_uppercase()).as_bytes()), Some(instance));
            let mut out = b"user:epid:".to_vec();
            write_opaque(instance, &mut out);
            assert_eq!(out.strip_prefix(b"user:epid:"), Some(opaque.as_bytes()));
            assert_eq!(read_opaque(&out), Some(instance));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_garbage_is_not(instance: [u8; 16], garbage in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut out = b"user:epid:".to_vec();
            write_opaque(instance, &mut out);
            prop_assert_eq!(read_opaque(&out), Some(instance));
            let _ = (read_opaque(&garbage), read_urn(&garbage));
            let _ = read_urn(&[&b"<urn:uuid:"[..], &garbage].concat());
        }
    }
}
