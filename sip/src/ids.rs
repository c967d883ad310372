//! Identifiers that carry where they belong, so that a message finds its slot
//! without a map.
//!
//! ```text
//! Call-ID  adsum<run 6><shard 4><kind 1><slot 6><generation 3>      25 bytes
//! branch   z9hG4bK<run 6><shard 4><slot 6><generation 6>            29 bytes
//! tag      <keyed hash of what it names, 8>                          8 bytes
//! ```
//!
//! Numbers are base 32, most significant digit first, lower case, without
//! `i`, `l`, `o`, `u`. An identifier of another run or shard, or of an older
//! generation of the same slot, is recognised as such. Tags are a keyed hash:
//! RFC 3261 §19.3 asks for 32 random bits, and a hash of the slot under the
//! run's seed gives 40 without being stored.

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Length of every Call-ID that we make.
pub const CALL_ID_LEN: usize = 25;
/// Length of every branch that we make.
pub const BRANCH_LEN: usize = 29;
/// Length of every tag that we make.
pub const TAG_LEN: usize = 8;

/// Numbers in identifiers are below this: 30 bits, six digits.
pub const LIMIT_30: u32 = 1 << 30;

/// What a Call-ID stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// All REGISTERs of one user.
    Registration,
    /// One SUBSCRIBE dialog.
    Dialog,
    /// All PUBLISHes of one user.
    Publication,
}

impl CallKind {
    fn letter(self) -> u8 {
        match self {
            CallKind::Registration => b'r',
            CallKind::Dialog => b'd',
            CallKind::Publication => b'p',
        }
    }

    fn of(letter: u8) -> Option<Self> {
        match letter {
            b'r' => Some(CallKind::Registration),
            b'd' => Some(CallKind::Dialog),
            b'p' => Some(CallKind::Publication),
            _ => None,
        }
    }
}

/// The part that all identifiers of one shard in one run share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// 30 bits of the run id.
    pub run: u32,
    /// Number of the shard among all shards of the run, below 2²⁰.
    pub shard: u32,
    /// Key of the tags.
    pub key: u64,
}

/// What a Call-ID of ours says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallRef {
    /// What it stands for.
    pub kind: CallKind,
    /// The slot in the slab of that kind.
    pub slot: u32,
    /// Which tenant of the slot, modulo 2¹⁵.
    pub generation: u16,
}

/// What a branch of ours says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BranchRef {
    /// The slot of the transaction.
    pub slot: u32,
    /// Which tenant of the slot, modulo 2³⁰.
    pub generation: u32,
}

impl Namespace {
    /// Appends a Call-ID.
    pub fn write_call_id(&self, out: &mut Vec<u8>, call: CallRef) {
        let mut text = *b"adsum00000000000000000000";
        put(&mut text[5..11], self.run);
        put(&mut text[11..15], self.shard);
        text[15] = call.kind.letter();
        put(&mut text[16..22], call.slot);
        put(&mut text[22..25], u32::from(call.generation));
        out.extend_from_slice(&text);
    }

    /// Reads a Call-ID; `None` unless it is one of this run and shard.
    #[inline]
    #[must_use]
    pub fn read_call_id(&self, call_id: &[u8]) -> Option<CallRef> {
        if call_id.len() != CALL_ID_LEN || !call_id.starts_with(b"adsum") {
            return None;
        }
        if read(&call_id[5..11])? != self.run || read(&call_id[11..15])? != self.shard {
            return None;
        }
        Some(CallRef {
            kind: CallKind::of(call_id[15])?,
            slot: read(&call_id[16..22])?,
            generation: read(&call_id[22..25])? as u16,
        })
    }

    /// Appends a branch.
    pub fn write_branch(&self, out: &mut Vec<u8>, branch: BranchRef) {
        let mut text = *b"z9hG4bK0000000000000000000000";
        put(&mut text[7..13], self.run);
        put(&mut text[13..17], self.shard);
        put(&mut text[17..23], branch.slot);
        put(&mut text[23..29], branch.generation);
        out.extend_from_slice(&text);
    }

    /// Reads a branch; `None` unless it is one of this run and shard.
    #[inline]
    #[must_use]
    pub fn read_branch(&self, branch: &[u8]) -> Option<BranchRef> {
        if branch.len() != BRANCH_LEN || !branch.starts_with(b"z9hG4bK") {
            return None;
        }
        if read(&branch[7..13])? != self.run || read(&branch[13..17])? != self.shard {
            return None;
        }
        Some(BranchRef { slot: read(&branch[17..23])?, generation: read(&branch[23..29])? })
    }

    /// The tag that names `what` (a Call-ID, say) on our side.
    #[inline]
    #[must_use]
    pub fn tag(&self, call: CallRef) -> [u8; TAG_LEN] {
        let kind = u64::from(call.kind.letter());
        let what = u64::from(call.slot) | u64::from(call.generation) << 32 | kind << 48;
        let mut hash = mix(what ^ mix(self.key ^ u64::from(self.shard)));
        let mut tag = [0; TAG_LEN];
        for digit in &mut tag {
            *digit = DIGITS[(hash & 31) as usize];
            hash >>= 5;
        }
        tag
    }
}

/// Appends `value` as `width` digits; higher digits are cut off.
pub fn write(out: &mut Vec<u8>, value: u32, width: u32) {
    for place in (0..width).rev() {
        out.push(digit(value >> (5 * place)));
    }
}

/// Sets `digits` to as many digits of `value`.
fn put(digits: &mut [u8], value: u32) {
    let mut rest = value;
    for place in digits.iter_mut().rev() {
        *place = digit(rest);
        rest >>= 5;
    }
}

/// The digit for the lowest five bits.
#[inline]
#[must_use]
pub fn digit(value: u32) -> u8 {
    DIGITS[(value & 31) as usize]
}

/// Reads up to six digits; `None` if one is not of the alphabet.
#[inline]
#[must_use]
pub fn read(digits: &[u8]) -> Option<u32> {
    let mut value = 0u32;
    for digit in digits {
        let at = VALUES[*digit as usize];
        if at == 0xff {
            return None;
        }
        value = value << 5 | u32::from(at);
    }
    Some(value)
}

static VALUES: [u8; 256] = {
    let mut values = [0xff; 256];
    let mut at = 0;
    while at < DIGITS.len() {
        values[DIGITS[at] as usize] = at as u8;
        at += 1;
    }
    values
};

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
#[must_use]
pub fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let ours = Namespace { run: 0x2345_6789, shard: 77, key: 1 };
        let call = CallRef { kind: CallKind::Dialog, slot: LIMIT_30 - 1, generation: 0x7fff };
        let branch = BranchRef { slot: 123_456, generation: 987_654 };
        let mut out = Vec::new();
        ours.write_call_id(&mut out, call);
        assert_eq!(out.len(), CALL_ID_LEN);
        assert_eq!(ours.read_call_id(&out), Some(call));
        assert_eq!(Namespace { shard: 78, ..ours }.read_call_id(&out), None);
        out.clear();
        ours.write_branch(&mut out, branch);
        assert_eq!(out.len(), BRANCH_LEN);
        assert_eq!(ours.read_branch(&out), Some(branch));
        assert_eq!(ours.read_branch(b"z9hG4bKnothing-of-ours-at-all"), None);
        assert_ne!(ours.tag(call), Namespace { key: 2, ..ours }.tag(call));
    }
}
