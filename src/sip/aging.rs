//! What is remembered as long as there is room. Layer: pure.

use std::collections::HashMap;
use std::hash::Hash;

/// A map of two generations: when the young one is full the old one goes, and what is asked for gets young again.
#[derive(Debug)]
pub(super) struct Aging<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Hash + Eq + Copy, V> Aging<K, V> {
    pub(super) fn new(size: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), half: size / 2 }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        if !self.young.contains_key(key) {
            let value = self.old.remove(key)?;
            self.insert(*key, value);
        }
        self.young.get(key)
    }

    /// What is remembered; it gets no younger.
    pub(super) fn peek(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Whether older ones have gone for it.
    pub(super) fn insert(&mut self, key: K, value: V) -> bool {
        let full = self.young.len() >= self.half && !self.young.contains_key(&key);
        if full {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
        full
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.young.values().chain(self.old.values())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
