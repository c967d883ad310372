//! Answers that were given, for requests that come again over UDP
//! (RFC 3261 §17.2.2): each for 64·T1 (timer J).
//!
//! A copy of a request has the same headers, so an answer is rendered anew from
//! the copy; kept are its code, tag, and the lines that are its own. All
//! answers live equally long, so they end in the order in which they came, and
//! their text lies in chunks that are written once and freed from the front.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use adsum_sip::ids::mix;
use adsum_sip::time::{TIMEOUT, Time};

/// Answers at a time: 62,500 new requests a second for 64·T1, which is more
/// than one thread can answer. Beyond, the oldest are forgotten and counted.
pub(super) const MAX_ANSWERS: usize = 2_000_000;
/// Bytes of their keys and lines; an ordinary answer has about 150.
const MAX_BYTES: usize = 512 * 1024 * 1024;
const CHUNK: usize = 64 * 1024;
/// Chunks kept for the next answers.
const SPARE: usize = 16;

/// What names a transaction: hashed once.
#[derive(Debug, Default)]
pub(super) struct Key {
    /// Branch, sent-by, method (RFC 3261 §17.2.3).
    pub(super) bytes: Vec<u8>,
    pub(super) hash: u64,
}

impl Key {
    /// Hashes the bytes under a secret.
    pub(super) fn seal(&mut self, secret: u64) {
        let mut hash = secret ^ self.bytes.len() as u64;
        for part in self.bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 29;
        }
        self.hash = mix(hash);
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u64,
    until: Time,
    at: Time,
    chunk: u32,
    offset: u32,
    key: u32,
    lines: u32,
    code: u16,
    tag: Option<(u32, u32)>,
}

/// A kept answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) code: u16,
    /// When the answer left or leaves.
    pub(super) at: Time,
    /// Slot and generation of the subscription whose tag it carries.
    pub(super) tag: Option<(u32, u32)>,
    pub(super) lines: &'a [u8],
}

/// The hash is one already.
#[derive(Debug, Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mix(self.0 ^ u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[derive(Debug)]
pub(super) struct Answers {
    max_bytes: usize,
    entries: VecDeque<Entry>,
    /// Number of the first entry; numbers wrap, as there are never 2³² at a time.
    first: u32,
    index: HashMap<u64, u32, BuildHasherDefault<Same>>,
    chunks: VecDeque<Vec<u8>>,
    /// Number of the first chunk.
    first_chunk: u32,
    spare: Vec<Vec<u8>>,
    bytes: usize,
}

impl Default for Answers {
    fn default() -> Self {
        Answers {
            max_bytes: MAX_BYTES,
            entries: VecDeque::new(),
            first: 0,
            index: HashMap::default(),
            chunks: VecDeque::new(),
            first_chunk: 0,
            spare: Vec::new(),
            bytes: 0,
        }
    }
}

impl Answers {
    /// The answer to a request of this transaction, if it was given within 64·T1.
    pub(super) fn find(&self, now: Time, key: &Key) -> Option<Found<'_>> {
        let number = *self.index.get(&key.hash)?;
        let entry = self.entries.get(number.wrapping_sub(self.first) as usize)?;
        let text = &self.chunks.get(entry.chunk.wrapping_sub(self.first_chunk) as usize)?;
        let text = text.get(entry.offset as usize..)?;
        let (known, rest) = text.split_at_checked(entry.key as usize)?;
        (known == key.bytes && entry.until > now).then_some(())?;
        let lines = rest.get(..entry.lines as usize)?;
        Some(Found { code: entry.code, at: entry.at, tag: entry.tag, lines })
    }

    /// Keeps an answer; gives how many had to be forgotten too early.
    pub(super) fn keep(&mut self, now: Time, key: &Key, answer: Found<'_>) -> u64 {
        while self.entries.front().is_some_and(|entry| entry.until <= now) {
            self.pop();
        }
        let length = key.bytes.len() + answer.lines.len();
        let mut forgotten = 0;
        while self.entries.len() >= MAX_ANSWERS
            || self.bytes + length > self.max_bytes && !self.entries.is_empty()
        {
            self.pop();
            forgotten += 1;
        }
        if self.chunks.back().is_none_or(|chunk| chunk.capacity() - chunk.len() < length) {
            let chunk = self.spare.pop().filter(|chunk| chunk.capacity() >= length);
            self.chunks.push_back(chunk.unwrap_or_else(|| Vec::with_capacity(CHUNK.max(length))));
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        let entry = Entry {
            hash: key.hash,
            // From the instant at which it leaves: timer J starts with the answer.
            until: answer.at.max(now) + TIMEOUT,
            at: answer.at,
            chunk: self.first_chunk.wrapping_add(last as u32),
            offset: chunk.len() as u32,
            key: key.bytes.len() as u32,
            lines: answer.lines.len() as u32,
            code: answer.code,
            tag: answer.tag,
        };
        chunk.extend_from_slice(&key.bytes);
        chunk.extend_from_slice(answer.lines);
        self.bytes += length;
        self.index.insert(key.hash, self.first.wrapping_add(self.entries.len() as u32));
        self.entries.push_back(entry);
        forgotten
    }

    fn pop(&mut self) {
        let Some(entry) = self.entries.pop_front() else { return };
        if self.index.get(&entry.hash) == Some(&self.first) {
            self.index.remove(&entry.hash);
        }
        self.first = self.first.wrapping_add(1);
        self.bytes -= (entry.key + entry.lines) as usize;
        let needed = self.entries.front().map_or(entry.chunk.wrapping_add(1), |next| next.chunk);
        while self.first_chunk != needed {
            let Some(mut chunk) = self.chunks.pop_front() else { break };
            self.first_chunk = self.first_chunk.wrapping_add(1);
            if self.spare.len() < SPARE && chunk.capacity() == CHUNK {
                chunk.clear();
                self.spare.push(chunk);
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use adsum_sip::time::SECOND;
    use proptest::prelude::*;

    fn key(text: &str) -> Key {
        let mut key = Key { bytes: text.as_bytes().to_vec(), hash: 0 };
        key.seal(3);
        key
    }

    fn found(code: u16, at: Time, lines: &[u8]) -> Found<'_> {
        Found { code, at, tag: None, lines }
    }

    proptest! {
        /// Against a plain map: found for exactly 64·T1, with their own lines.
        #[test]
        fn kept_for_64_t1(steps in prop::collection::vec((0u64..4_000, 1usize..3_000), 1..120)) {
            let mut answers = Answers::default();
            let mut now = 0;
            let mut given = Vec::new();
            for (number, (wait, length)) in steps.iter().enumerate() {
                now += wait * 1_000_000;
                let lines = vec![number as u8; *length];
                prop_assert_eq!(answers.keep(Time(now), &key(&number.to_string()), found(200, Time(now), &lines)), 0);
                given.push((now, lines));
                for (number, (at, lines)) in given.iter().enumerate() {
                    let found = answers.find(Time(now), &key(&number.to_string()));
                    prop_assert_eq!(found.map(|f| f.lines.to_vec()), (now < at + TIMEOUT).then(|| lines.clone()));
                }
            }
            answers.keep(Time(now + TIMEOUT), &key("last"), found(200, Time(now + TIMEOUT), b""));
            prop_assert_eq!((answers.len(), answers.bytes, answers.chunks.len()), (1, 4, 1));
        }
    }

    #[test]
    fn beyond_the_bound_the_oldest_are_forgotten_and_counted() {
        let mut answers = Answers { max_bytes: 4 * CHUNK, ..Answers::default() };
        let big = vec![b'x'; CHUNK - 16];
        let forgotten: Vec<u64> =
            (0..6).map(|n| answers.keep(Time(n), &key(&n.to_string()), found(200, Time(n), &big))).collect();
        assert_eq!(forgotten, [0, 0, 0, 0, 1, 1]);
        assert!(answers.find(Time(6), &key("1")).is_none() && answers.find(Time(6), &key("2")).is_some());
        assert!(answers.find(Time(5 + TIMEOUT + SECOND), &key("5")).is_none());
    }
}
