//! Who watches whom.
//!
//! Pairs need no table: the second user of each watches the first. A contact
//! graph is kept as one list of publishers, ordered by subscriber, with an
//! offset for each user: four bytes an edge and four a user, so that a user
//! who lost everything can be given its contacts back.

/// The edges of a shard, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contacts {
    /// User 2p+1 watches user 2p, for that many pairs.
    Pairs(u32),
    /// Any graph.
    Graph(Graph),
}

/// A contact graph.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Graph {
    /// Where the contacts of each user begin; one more than there are users.
    offsets: Vec<u32>,
    publishers: Vec<u32>,
}

impl Graph {
    /// Builds the graph of `users` users from (subscriber, publisher) edges,
    /// which `edges` gives twice in the same order. Edges that name nobody, or
    /// a user as its own contact, are left out.
    pub fn new<I: Iterator<Item = (u32, u32)>>(users: u32, edges: impl Fn() -> I) -> Graph {
        let fits = |(subscriber, publisher): &(u32, u32)| {
            *subscriber < users && *publisher < users && subscriber != publisher
        };
        let mut offsets = vec![0u32; users as usize + 1];
        for (subscriber, _) in edges().filter(fits) {
            offsets[subscriber as usize + 1] += 1;
        }
        for at in 1..offsets.len() {
            offsets[at] += offsets[at - 1];
        }
        let mut next = offsets.clone();
        let mut publishers = vec![0; offsets[users as usize] as usize];
        for (subscriber, publisher) in edges().filter(fits) {
            let place = &mut next[subscriber as usize];
            publishers[*place as usize] = publisher;
            *place += 1;
        }
        Graph { offsets, publishers }
    }
}

impl Contacts {
    /// How many edges there are.
    #[must_use]
    pub fn edges(&self) -> u32 {
        match self {
            Contacts::Pairs(pairs) => *pairs,
            Contacts::Graph(graph) => graph.publishers.len() as u32,
        }
    }

    /// How many of a pair's two users publish.
    #[must_use]
    pub fn publishers_per_pair(&self) -> u32 {
        match self {
            Contacts::Pairs(_) => 1,
            Contacts::Graph(_) => 2,
        }
    }

    /// The n-th publisher of the shard.
    #[must_use]
    pub fn publisher(&self, nth: u32) -> u32 {
        nth * (2 / self.publishers_per_pair())
    }

    /// Subscriber and publisher of an edge.
    #[must_use]
    pub fn edge(&self, edge: u32) -> Option<(u32, u32)> {
        match self {
            Contacts::Pairs(pairs) => (edge < *pairs).then_some((edge * 2 + 1, edge * 2)),
            Contacts::Graph(graph) => {
                let publisher = *graph.publishers.get(edge as usize)?;
                // The last user whose contacts begin at or before the edge.
                let subscriber = graph.offsets.partition_point(|begin| *begin <= edge) - 1;
                Some((subscriber as u32, publisher))
            }
        }
    }

    /// The edges of a subscriber, by number.
    #[must_use]
    pub fn of(&self, subscriber: u32) -> std::ops::Range<u32> {
        match self {
            Contacts::Pairs(pairs) if subscriber % 2 == 1 && subscriber / 2 < *pairs => {
                subscriber / 2..subscriber / 2 + 1
            }
            Contacts::Pairs(_) => 0..0,
            Contacts::Graph(graph) => {
                let at = subscriber as usize;
                match (graph.offsets.get(at), graph.offsets.get(at + 1)) {
                    (Some(begin), Some(end)) => *begin..*end,
                    _ => 0..0,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_and_graphs_answer_alike() {
        let pairs = Contacts::Pairs(2);
        let graph = Contacts::Graph(Graph::new(4, || [(1, 0), (3, 2)].into_iter()));
        for contacts in [&pairs, &graph] {
            assert_eq!(contacts.edges(), 2);
            assert_eq!(
                (contacts.edge(0), contacts.edge(1), contacts.edge(2)),
                (Some((1, 0)), Some((3, 2)), None)
            );
            assert_eq!((contacts.of(0), contacts.of(3)), (0..0, 1..2));
            assert!(contacts.of(9).is_empty());
        }
    }

    #[test]
    fn edges_come_by_subscriber_and_nonsense_is_left_out() {
        let edges = [(2, 0), (0, 1), (2, 1), (2, 2), (0, 9), (9, 0), (0, 2)];
        let graph = Contacts::Graph(Graph::new(3, || edges.into_iter()));
        let all: Vec<_> = (0..graph.edges()).filter_map(|edge| graph.edge(edge)).collect();
        assert_eq!(all, [(0, 1), (0, 2), (2, 0), (2, 1)]);
        assert_eq!((graph.of(0), graph.of(1), graph.of(2)), (0..2, 2..2, 2..4));
    }
}
