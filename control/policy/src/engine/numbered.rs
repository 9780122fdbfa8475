//! Things under dense numbers: the lowest free number is given out next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

#[derive(Clone, Debug)]
pub(crate) struct Numbered<T> {
    items: Vec<Option<T>>,
    free: BinaryHeap<Reverse<u32>>,
}

impl<T> Numbered<T> {
    /// The first number given out is `first`.
    pub(crate) fn starting_at(first: u32) -> Self {
        Self { items: (0..first).map(|_| None).collect(), free: BinaryHeap::new() }
    }

    pub(crate) fn add(&mut self, item: T) -> u32 {
        if let Some(Reverse(number)) = self.free.pop() {
            self.items[number as usize] = Some(item);
            return number;
        }
        self.items.push(Some(item));
        u32::try_from(self.items.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let item = self.items.get_mut(number as usize)?.take();
        if item.is_some() {
            self.free.push(Reverse(number));
        }
        item
    }

    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.items.get(number as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.items.get_mut(number as usize)?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0_u32..).zip(&self.items).filter_map(|(number, item)| Some((number, item.as_ref()?)))
    }
}
