//! Datagrams that leave together, and in which system calls.
//!
//! A datagram of its own costs the kernel one walk through its network stack. With UDP segmentation
//! (`UDP_SEGMENT`, udp(7)) one call carries several datagrams for one address: all of one length, and at
//! the end one that may be shorter. What arrives is the same datagrams. Two datagrams of any lengths
//! can always share a call, so that nothing has to be padded.
//!
//! Answers leave before requests, and the requests of a user in their order, as they would from a client
//! of its own: a server may count the uses of a nonce. Among those of different users the length decides.

use std::ops::Range;

/// Datagrams that wait at most: what one call may carry (`UDP_MAX_SEGMENTS`).
pub const MAX_ITEMS: usize = 64;
/// Bytes of one call at most: an IP packet ends at 65,535.
const MAX_BYTES: usize = 60_000;
/// Longer ones travel alone: they do not fit the smallest usual MTU, and segments are not fragmented.
const MAX_SEGMENT: usize = 1_400;

/// One datagram.
#[derive(Debug, Clone)]
struct Item {
    bytes: Range<usize>,
    /// Which port it leaves from.
    port: u32,
    /// Whose request it is; `None` for an answer.
    user: Option<u32>,
    /// How many requests of the user wait before it, and one; 0 for an answer.
    rank: u8,
}

/// Datagrams that wait to leave together.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    items: Vec<Item>,
    /// Items in the order in which they leave, those from `first` to `end` unsent.
    order: Vec<u8>,
    first: usize,
    end: usize,
    /// The items of the group that leaves now.
    group: Vec<u8>,
}

impl Batch {
    /// Adds a datagram that leaves from a port: a request of a user, or an answer.
    pub fn push(&mut self, port: u32, user: Option<u32>, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let own = self.items.iter().filter(|item| user.is_some() && item.user == user);
        let rank = if user.is_some() { 1 + own.count() as u8 } else { 0 };
        self.items.push(Item { bytes: start..self.bytes.len(), port, user, rank });
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True if none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// True if they have to leave before another one is added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.items.len() >= MAX_ITEMS
    }

    /// All have left.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
        self.order.clear();
        (self.first, self.end) = (0, 0);
    }

    /// Decides on the order; then [`Batch::next_group`] is called until there is none.
    pub fn arrange(&mut self) {
        let items = &self.items;
        self.order.clear();
        self.order.extend(0..items.len() as u8);
        self.order.sort_unstable_by_key(|at| {
            let item = &items[usize::from(*at)];
            (item.port, item.rank, std::cmp::Reverse(item.bytes.len()), *at)
        });
        (self.first, self.end) = (0, self.order.len());
    }

    /// The next datagrams that fit one call: their port and the length of all but the last of them.
    /// [`Batch::group`] has them.
    pub fn next_group(&mut self) -> Option<(u32, usize)> {
        self.group.clear();
        let lead = self.items[usize::from(*self.order.get(self.first..self.end)?.first()?)].clone();
        let len = lead.bytes.len();
        let same = |item: &Item| item.port == lead.port && item.rank == lead.rank;
        let limit = if (1..=MAX_SEGMENT).contains(&len) { MAX_BYTES / len } else { 1 };
        while self.first < self.end && self.group.len() < limit {
            let item = &self.items[usize::from(self.order[self.first])];
            if !same(item) || item.bytes.len() != len {
                break;
            }
            self.group.push(self.order[self.first]);
            self.first += 1;
        }
        // The shortest of its kind goes along at the end, but not an empty one, of which nothing would be left.
        let fits = |at: &&u8| {
            let item = &self.items[usize::from(**at)];
            same(item) && !item.bytes.is_empty()
        };
        let last = self.first + self.order[self.first..self.end].iter().take_while(fits).count();
        if self.group.len() < limit && last > self.first {
            self.group.push(self.order[last - 1]);
            self.order.copy_within(last..self.end, last - 1);
            self.end -= 1;
        }
        Some((lead.port, len))
    }

    /// The items of the group, in the order in which they leave.
    #[must_use]
    pub fn group(&self) -> &[u8] {
        &self.group
    }

    /// The bytes of an item.
    #[must_use]
    pub fn bytes(&self, item: u8) -> &[u8] {
        &self.bytes[self.items[usize::from(item)].bytes.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn groups(batch: &mut Batch) -> Vec<(u32, usize, Vec<usize>)> {
        batch.arrange();
        let mut groups = Vec::new();
        while let Some((port, segment)) = batch.next_group() {
            groups.push((port, segment, batch.group().iter().map(|at| usize::from(*at)).collect()));
        }
        groups
    }

    #[test]
    fn equal_ones_and_the_shortest_share_a_call_and_answers_go_first() {
        let mut batch = Batch::default();
        let users = [Some(1), None, Some(2), Some(3), None, Some(4), Some(2)];
        for (user, len) in users.into_iter().zip([700, 320, 500, 700, 310, 600, 800]) {
            batch.push(0, user, &vec![b'x'; len]);
        }
        assert_eq!(
            groups(&mut batch),
            [(0, 320, vec![1, 4]), (0, 700, vec![0, 3, 2]), (0, 600, vec![5]), (0, 800, vec![6])]
        );
    }

    #[test]
    fn what_does_not_fit_a_packet_travels_alone() {
        let mut batch = Batch::default();
        for (user, len) in [1_500, 1_500, 1_400, 0].into_iter().enumerate() {
            batch.push(0, Some(user as u32), &vec![b'x'; len]);
        }
        assert_eq!(
            groups(&mut batch),
            [(0, 1_500, vec![0]), (0, 1_500, vec![1]), (0, 1_400, vec![2]), (0, 0, vec![3])]
        );
    }

    proptest! {
        #[test]
        fn each_datagram_leaves_once_from_its_port_in_a_call_that_the_kernel_takes(
            given in prop::collection::vec((0u32..3, prop::option::of(0u32..20), 0usize..1_600), 1..=MAX_ITEMS)
        ) {
            let mut batch = Batch::default();
            for (at, (port, user, len)) in given.iter().enumerate() {
                batch.push(*port, *user, &vec![at as u8; *len]);
            }
            let mut left = vec![0; given.len()];
            let mut newest = std::collections::BTreeMap::new();
            for (port, segment, group) in groups(&mut batch) {
                let (last, rest) = group.split_last().unwrap();
                prop_assert!(rest.iter().all(|at| given[*at].2 == segment));
                prop_assert!(given[*last].2 <= segment);
                prop_assert!(group.len() == 1 || segment <= MAX_SEGMENT && given[*last].2 > 0);
                prop_assert!(group.iter().map(|at| given[*at].2).sum::<usize>() <= 65_507);
                for at in group {
                    prop_assert_eq!(given[at].0, port);
                    prop_assert_eq!(batch.bytes(at as u8), vec![at as u8; given[at].2]);
                    left[at] += 1;
                    if let Some(user) = given[at].1 {
                        let before = newest.insert((port, user), at);
                        prop_assert!(before.is_none_or(|before| before < at), "{} overtook", at);
                    }
                }
            }
            prop_assert!(left.iter().all(|times| *times == 1));
        }
    }
}
