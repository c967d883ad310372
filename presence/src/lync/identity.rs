//! Who an endpoint is: its epid, and the numbers of the category instances
//! that are its own ([MS-SIPRE] §2.2). `+sip.instance` follows from the epid
//! by [`adsum_sip::gruu`].

use adsum_sip::gruu::Instance;
use adsum_sip::ids::mix;

/// Length of every epid of ours.
pub const EPID_LEN: usize = 10;

/// One endpoint of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epid(pub [u8; EPID_LEN]);

impl Epid {
    /// The epid of a user's one endpoint in a run: stable within it, and another
    /// one in the next, so that a server keeps the two apart. 40 bits of a hash.
    #[must_use]
    pub fn of(aor: &[u8], run: u32) -> Epid {
        let hash = aor.chunks(8).fold(mix(u64::from(run) << 32 | aor.len() as u64), |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(hash ^ u64::from_le_bytes(word))
        });
        Epid(std::array::from_fn(|at| b"0123456789abcdef"[(hash >> (4 * at)) as usize & 15]))
    }

    /// The instance of `+sip.instance`: servers check that it follows from the
    /// epid ([MS-SIPAE] §3.3.5.2).
    #[must_use]
    pub fn instance(&self) -> Instance {
        Instance::of_epid(&self.0)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Protocol guide §8.2.
    #[test]
    fn instances_have_the_numbers_that_the_known_client_gives_them() {
        let epid = Epid(*b"5f0a1b2c3d");
        let mut uuid = Vec::new();
        epid.instance().write_uuid(&mut uuid);
        assert_eq!(uuid, b"d2c7cda8-ae65-50b2-b614-5eab2e452ae6");
        assert_eq!((epid.device(), epid.machine_state()), (1_594_497_836, 904_962_482));
    }

    #[test]
    fn epids_are_stable_and_distinct() {
        let epid = Epid::of(b"sip:a@h", 7);
        assert_eq!(epid, Epid::of(b"sip:a@h", 7));
        assert_ne!(epid, Epid::of(b"sip:b@h", 7));
        assert_ne!(epid, Epid::of(b"sip:a@h", 8));
        assert!(epid.0.iter().all(u8::is_ascii_hexdigit));
    }
}
