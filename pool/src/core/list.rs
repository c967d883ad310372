//! Lists through a slab: who watches a user, in the order of their coming.

use adsum_presence::slab::{NONE, Slab};

/// The ends of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List {
    first: u32,
    last: u32,
}

/// What an element knows of its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Links {
    previous: u32,
    next: u32,
}

/// An element of a list.
pub(super) trait Linked {
    fn links(&mut self) -> &mut Links;
}

impl Default for List {
    fn default() -> Self {
        List { first: NONE, last: NONE }
    }
}

impl Default for Links {
    fn default() -> Self {
        Links { previous: NONE, next: NONE }
    }
}

impl Links {
    /// The slot of the next element, or none.
    pub(super) fn next(&self) -> u32 {
        self.next
    }
}

impl List {
    /// The slot of the first element, or none.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// Appends what lies in this slot and is in no list.
    pub(super) fn push<T: Linked>(&mut self, slot: u32, slab: &mut Slab<T>) {
        let last = std::mem::replace(&mut self.last, slot);
        *slab[slot].links() = Links { previous: last, next: NONE };
        match slab.get_mut(last) {
            Some(before) => before.links().next = slot,
            None => self.first = slot,
        }
    }

    /// Takes the element out that had these links; its slot may be free already.
    pub(super) fn remove<T: Linked>(&mut self, links: Links, slab: &mut Slab<T>) {
        match slab.get_mut(links.previous) {
            Some(before) => before.links().next = links.next,
            None => self.first = links.next,
        }
        match slab.get_mut(links.next) {
            Some(after) => after.links().previous = links.previous,
            None => self.last = links.previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Element(u32, Links);

    impl Linked for Element {
        fn links(&mut self) -> &mut Links {
            &mut self.1
        }
    }

    proptest! {
        /// Against a vector: what was appended and not taken out, in the order of its coming.
        #[test]
        fn lists_are_like_vectors(steps in prop::collection::vec(prop::option::of(any::<prop::sample::Index>()), 0..60)) {
            let (mut list, mut slab, mut model) = (List::default(), Slab::<Element>::default(), Vec::new());
            for (name, step) in (0u32..).zip(steps) {
                match step {
                    Some(at) if !model.is_empty() => {
                        let (slot, _) = model.remove(at.index(model.len()));
                        let links = slab[slot].1;
                        slab.release(slot);
                        list.remove(links, &mut slab);
                    }
                    _ => {
                        let (slot, _) = slab.insert(Element(name, Links::default()));
                        list.push(slot, &mut slab);
                        model.push((slot, name));
                    }
                }
                let mut seen = Vec::new();
                let mut slot = list.first();
                while let Some(element) = slab.get(slot) {
                    seen.push((slot, element.0));
                    slot = element.1.next();
                }
                prop_assert_eq!(&seen, &model);
                prop_assert_eq!(list.last, model.last().map_or(NONE, |(slot, _)| *slot));
            }
        }
    }
}
