//! Who an endpoint is: its epid, the `+sip.instance` that follows from it, and
//! the numbers of the category instances that are its own ([MS-SIPRE] §2.2).

use sha1::{Digest as _, Sha1};

/// Length of every epid of ours.
pub const EPID_LEN: usize = 10;
/// Length of a UUID as it is written.
pub const UUID_LEN: usize = 36;

/// The namespace `fcacfb03-8a73-46ef-91b1-e5ebeeaba4fe` as a GUID lies in memory.
const NAMESPACE: [u8; 16] =
    [0x03, 0xfb, 0xac, 0xfc, 0x73, 0x8a, 0xef, 0x46, 0x91, 0xb1, 0xe5, 0xeb, 0xee, 0xab, 0xa4, 0xfe];

/// Where each byte of the written form lies: the first three fields are little-endian.
const WRITTEN: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

const HEX: &[u8; 16] = b"0123456789abcdef";

/// One endpoint of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epid(pub [u8; EPID_LEN]);

impl Epid {
    /// The epid of a user's one endpoint in a run: stable within it, and another
    /// one in the next, so that a server keeps the two apart.
    #[must_use]
    pub fn of(aor: &[u8], run: u32) -> Epid {
        let digest =
            Sha1::new().chain_update(aor).chain_update(b"|").chain_update(run.to_be_bytes()).finalize();
        let mut epid = [0; EPID_LEN];
        for (at, digit) in epid.iter_mut().enumerate() {
            let byte = digest[at / 2];
            *digit = HEX[usize::from(if at % 2 == 0 { byte >> 4 } else { byte & 15 })];
        }
        Epid(epid)
    }

    /// The UUID of `+sip.instance`: servers check that it follows from the epid
    /// ([MS-SIPAE] §3.3.5.2).
    #[must_use]
    pub fn uuid(&self) -> [u8; UUID_LEN] {
        uuid_of(&self.0)
    }

    /// The first eight digits as a number.
    fn number(&self) -> u32 {
        self.0[..8].iter().fold(0, |sum, digit| sum << 4 | (*digit as char).to_digit(16).unwrap_or(0))
    }

    /// The number of its `device` instance.
    #[must_use]
    pub fn device(&self) -> u32 {
        self.number()
    }

    /// The number of its `machineState` instances.
    #[must_use]
    pub fn machine_state(&self) -> u32 {
        self.number() >> 4 | 0x3000_0000
    }
}

/// The name-based GUID of version 5 that belongs to an epid, as it is written.
fn uuid_of(epid: &[u8]) -> [u8; UUID_LEN] {
    let digest = Sha1::new().chain_update(NAMESPACE).chain_update(epid).finalize();
    let mut guid = [0; 16];
    guid.copy_from_slice(&digest[..16]);
    guid[7] = guid[7] & 0x0f | 0x50;
    guid[8] = guid[8] & 0x3f | 0x80;
    let mut text = [b'-'; UUID_LEN];
    let mut at = 0;
    for (index, byte) in WRITTEN.into_iter().enumerate() {
        at += usize::from(matches!(index, 4 | 6 | 8 | 10));
        text[at] = HEX[usize::from(guid[byte] >> 4)];
        text[at + 1] = HEX[usize::from(guid[byte] & 15)];
        at += 2;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protocol guide §8.2; the first was published in [MS-SIPRE].
    #[test]
    fn instances_follow_from_epids_as_published() {
        assert_eq!(&uuid_of(b"01010101"), b"4b1682a8-f968-5701-83fc-7c6741dc6697");
        let epid = Epid(*b"5f0a1b2c3d");
        assert_eq!(&epid.uuid(), b"d2c7cda8-ae65-50b2-b614-5eab2e452ae6");
        assert_eq!((epid.device(), epid.machine_state()), (1_594_497_836, 904_962_482));
    }

    #[test]
    fn epids_are_stable_and_distinct() {
        let epid = Epid::of(b"sip:a@h", 7);
        assert_eq!(epid, Epid::of(b"sip:a@h", 7));
        assert_ne!(epid, Epid::of(b"sip:b@h", 7));
        assert_ne!(epid, Epid::of(b"sip:a@h", 8));
        assert!(epid.0.iter().all(|digit| HEX.contains(digit)));
    }
}
