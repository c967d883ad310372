//! What is known of the accounts, by their number.

use std::ops::{Index, IndexMut};

use adsum_presence::wheel::TimerId;
use adsum_sip::time::Time;

use super::timers::Timers;

/// By number, from 1; grown as users appear, at most to as many as there are accounts.
#[derive(Debug)]
pub(super) struct Users<T>(Vec<T>);

impl<T> Default for Users<T> {
    fn default() -> Self {
        Users(Vec::new())
    }
}

impl<T: Default> Users<T> {
    /// This user, who may be new.
    pub(super) fn entry(&mut self, number: u32) -> &mut T {
        let at = number as usize - 1;
        if at >= self.0.len() {
            self.0.resize_with(at + 1, T::default);
        }
        &mut self.0[at]
    }
}

impl<T> Users<T> {
    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.0.get(number as usize - 1)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.0.get_mut(number as usize - 1)
    }
}

/// Of a user who is known to have appeared.
impl<T> Index<u32> for Users<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.0[number as usize - 1]
    }
}

impl<T> IndexMut<u32> for Users<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.0[number as usize - 1]
    }
}

/// The timer of a user: it fires when the first of what he holds ends, or earlier.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: TimerId,
    at: Time,
}

impl Default for Alarm {
    fn default() -> Self {
        Alarm { timer: TimerId::NONE, at: Time::NEVER }
    }
}

impl Alarm {
    /// Something ends at this instant; nothing at [`Time::NEVER`].
    pub(super) fn arm<K: Copy>(&mut self, at: Time, key: K, timers: &mut Timers<K>) {
        if at != Time::NEVER && (!self.timer.is_set() || at < self.at) {
            timers.cancel(&mut self.timer);
            self.timer = timers.insert(at, key);
            self.at = at;
        }
    }

    /// It fired.
    pub(super) fn fired(&mut self) {
        self.timer = TimerId::NONE;
    }
}
