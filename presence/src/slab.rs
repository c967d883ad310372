//! Slots with generations: what the populations of a shard are stored in.

/// Index of a slot; [`NONE`] is no slot.
pub type Slot = u32;

/// No slot.
pub const NONE: Slot = u32::MAX;

/// Set in the generation of a slot that is taken.
const TAKEN: u32 = 1 << 31;

/// A vector of slots that are used again. Each tenant of a slot has its own
/// generation, so that a late message for the previous one is recognised. A slot
/// costs four bytes besides its value.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    /// Free slots; the last one is taken next.
    free: Vec<Slot>,
}

#[derive(Debug)]
struct Entry<T> {
    /// 31 bits, and [`TAKEN`].
    generation: u32,
    value: T,
}

impl<T> Entry<T> {
    fn is_taken(&self) -> bool {
        self.generation & TAKEN != 0
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// How many slots are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// True if no slot is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a slot. A free one is handed to `renew` together with its old
    /// value, so that buffers inside are kept; a new one is made by `create`.
    pub fn take_with(&mut self, create: impl FnOnce() -> T, renew: impl FnOnce(&mut T)) -> (Slot, u32) {
        let Some(slot) = self.free.pop() else {
            let slot = self.entries.len() as Slot;
            self.entries.push(Entry { generation: 1 | TAKEN, value: create() });
            return (slot, 1);
        };
        let entry = &mut self.entries[slot as usize];
        renew(&mut entry.value);
        entry.generation |= TAKEN;
        (slot, entry.generation & !TAKEN)
    }

    /// Takes a slot for `value`.
    pub fn insert(&mut self, value: T) -> (Slot, u32) {
        let mut value = Some(value);
        if self.free.is_empty() {
            let Some(value) = value.take() else { unreachable!("just filled") };
            return self.take_with(|| value, |_| ());
        }
        self.take_with(
            || unreachable!("a slot is free"),
            |old| *old = value.take().unwrap_or_else(|| unreachable!()),
        )
    }

    /// Gives a slot back; its value stays inside until the next tenant.
    /// Giving back a free slot does nothing.
    pub fn release(&mut self, slot: Slot) {
        let Some(entry) = self.entries.get_mut(slot as usize).filter(|e| e.is_taken()) else {
            return;
        };
        entry.generation = (entry.generation & !TAKEN).wrapping_add(1) & !TAKEN;
        self.free.push(slot);
    }

    /// The tenant of `slot`, if there is one.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&T> {
        self.entries.get(slot as usize).filter(|e| e.is_taken()).map(|e| &e.value)
    }

    /// The tenant of `slot`, if there is one.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.entries.get_mut(slot as usize).filter(|e| e.is_taken()).map(|e| &mut e.value)
    }

    /// The generation of the tenant of `slot` (of the next one while it is free).
    #[inline]
    #[must_use]
    pub fn generation(&self, slot: Slot) -> u32 {
        self.entries.get(slot as usize).map_or(0, |e| e.generation & !TAKEN)
    }

    /// The taken slots.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        self.entries.iter().enumerate().filter(|(_, e)| e.is_taken()).map(|(at, e)| (at as Slot, &e.value))
    }
}

impl<T> std::ops::Index<Slot> for Slab<T> {
    type Output = T;
    #[inline]
    fn index(&self, slot: Slot) -> &T {
        &self.entries[slot as usize].value
    }
}

impl<T> std::ops::IndexMut<Slot> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        &mut self.entries[slot as usize].value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_with_a_new_generation() {
        let mut slab = Slab::default();
        let (a, first) = slab.insert("a");
        let (b, _) = slab.insert("b");
        slab.release(a);
        slab.release(a);
        assert_eq!((slab.get(a), slab.len()), (None, 1));
        let (c, second) = slab.insert("c");
        assert_eq!((c, slab[c], slab[b]), (a, "c", "b"));
        assert!(second > first);
    }
}
