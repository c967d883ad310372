//! Endpoints of [MS-SIPRE]: the `epid`, the instance that follows from it, and the
//! GRUU that a registrar makes of that.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use sha1::{Digest as _, Sha1};

/// The name space of instances, `fcacfb03-8a73-46ef-91b1-e5ebeeaba4fe`, as a GUID lies in memory.
const NAMESPACE: [u8; 16] =
    [0x03, 0xfb, 0xac, 0xfc, 0x73, 0x8a, 0xef, 0x46, 0x91, 0xb1, 0xe5, 0xeb, 0xee, 0xab, 0xa4, 0xfe];

/// An instance: a GUID as it lies in memory (three numbers in little-endian order, then eight bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instance([u8; 16]);

impl Instance {
    /// The instance of an `epid`: SHA-1 over name space and text, as a UUID of version 5.
    #[must_use]
    pub fn of_epid(epid: &[u8]) -> Instance {
        let hash = Sha1::new().chain_update(NAMESPACE).chain_update(epid).finalize();
        let mut guid = [0; 16];
        guid.copy_from_slice(&hash[..16]);
        guid[7] = guid[7] & 0x0f | 0x50;
        guid[8] = guid[8] & 0x3f | 0x80;
        Instance(guid)
    }

    /// Reads `urn:uuid:…` or the 36 characters alone, in any case.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Instance> {
        let text = match text.split_at_checked(9) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case(b"urn:uuid:") => rest,
            _ => text,
        };
        if text.len() != 36 || [8, 13, 18, 23].iter().any(|at| text[*at] != b'-') {
            return None;
        }
        let mut bytes = [0; 16];
        let mut digits = text.iter().filter(|byte| **byte != b'-');
        for byte in &mut bytes {
            let [high, low] = [digits.next()?, digits.next()?].map(|digit| char::from(*digit).to_digit(16));
            *byte = (high? << 4 | low?) as u8;
        }
        swap(&mut bytes);
        Some(Instance(bytes))
    }

    /// Appends the 36 characters, in lower case.
    pub fn write_uuid(&self, out: &mut Vec<u8>) {
        let mut bytes = self.0;
        swap(&mut bytes);
        for (at, byte) in bytes.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                out.push(b'-');
            }
            out.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
        }
    }

    /// Appends what stands behind `opaque=user:epid:`. How an instance becomes this text is the
    /// registrar's affair; this is how published GRUUs look.
    pub fn write_opaque(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; 18];
        bytes[..16].copy_from_slice(&self.0);
        out.extend_from_slice(BASE64_URL_SAFE.encode(bytes).as_bytes());
    }
}

/// A UUID as written and a GUID in memory differ in the order of their first three numbers.
fn swap(bytes: &mut [u8; 16]) {
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_and_gruus_are_those_of_published_traces() {
        let texts = |instance: Instance| {
            let (mut uuid, mut opaque) = (Vec::new(), Vec::new());
            instance.write_uuid(&mut uuid);
            instance.write_opaque(&mut opaque);
            (String::from_utf8(uuid).unwrap(), String::from_utf8(opaque).unwrap())
        };
        let published = [
            (Some("01010101"), "4b1682a8-f968-5701-83fc-7c6741dc6697", "qIIWS2j5AVeD_HxnQdxmlwAA"),
            (None, "34d859db-6585-5f91-a3b4-de853c15347d", "21nYNIVlkV-jtN6FPBU0fQAA"),
            (Some("5f0a1b2c3d"), "d2c7cda8-ae65-50b2-b614-5eab2e452ae6", "qM3H0mWuslC2FF6rLkUq5gAA"),
        ];
        for (epid, uuid, opaque) in published {
            let read = Instance::parse(uuid.as_bytes()).unwrap();
            assert_eq!(texts(read), (uuid.to_owned(), opaque.to_owned()));
            if let Some(epid) = epid {
                assert_eq!(Instance::of_epid(epid.as_bytes()), read);
            }
        }
        let urn = b"URN:UUID:4B1682A8-F968-5701-83FC-7C6741DC6697";
        assert_eq!(Instance::parse(urn), Some(Instance::of_epid(b"01010101")));
        for wrong in
            ["", "4b1682a8", "4b1682a8-f968-5701-83fc-7c6741dc669", "4b1682a8xf968-5701-83fc-7c6741dc6697"]
        {
            assert_eq!(Instance::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
