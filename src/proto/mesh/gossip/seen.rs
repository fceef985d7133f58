//! Request lines seen lately. A flood stops at a node that has seen its line.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha512};

use meshd_crypto::Rng;

use crate::mesh::limits::MAX_SEEN;

/// Set of lines seen lately, as keyed 64-bit hashes. Without the key nobody can choose two lines
/// that collide.
///
/// There are two generations, so a line is remembered for one to two times the age. A full young
/// generation replaces the old one early. Difference from tinc: tinc keeps the text for exactly
/// PingInterval. Memory: [`MAX_SEEN`] entries a generation.
pub(in crate::mesh) struct Seen {
    key: [u8; 32],
    young: BTreeSet<u64>,
    old: BTreeSet<u64>,
    turned: Instant,
}

impl Seen {
    pub(in crate::mesh) fn new(rng: &mut Rng, now: Instant) -> Self {
        Self {
            key: rng.bytes(),
            young: BTreeSet::new(),
            old: BTreeSet::new(),
            turned: now,
        }
    }

    /// Returns the hash under which `line` is remembered.
    pub(in crate::mesh) fn mark(&self, line: &[u8]) -> u64 {
        let hash = Sha512::new()
            .chain_update(self.key)
            .chain_update(line)
            .finalize();
        let mut short = [0; 8];
        short.copy_from_slice(&hash[..8]);
        u64::from_le_bytes(short)
    }

    /// Returns true if a line with this hash was seen lately.
    pub(in crate::mesh) fn has(&self, mark: u64) -> bool {
        self.old.contains(&mark) || self.young.contains(&mark)
    }

    /// Remembers the hash of a line; returns `false` if it was known already.
    pub(in crate::mesh) fn insert(&mut self, mark: u64, now: Instant) -> bool {
        if self.old.contains(&mark) || !self.young.insert(mark) {
            return false;
        }
        if self.young.len() >= MAX_SEEN {
            self.turn(now);
        }
        true
    }

    /// Forgets lines older than `age`. Called about once a second.
    pub(in crate::mesh) fn forget(&mut self, age: Duration, now: Instant) {
        if now.saturating_duration_since(self.turned) >= age {
            self.turn(now);
        }
    }

    fn turn(&mut self, now: Instant) {
        self.old = std::mem::take(&mut self.young);
        self.turned = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::testing;

    fn insert(seen: &mut Seen, line: &[u8], now: Instant) -> bool {
        seen.insert(seen.mark(line), now)
    }

    #[test]
    fn a_line_is_new_once_and_again_after_its_age() {
        let start = testing::start();
        let age = Duration::from_secs(60);
        let mut seen = Seen::new(&mut Rng::new([1; 32]), start);
        assert!(insert(&mut seen, b"13 1 a b", start));
        assert!(!insert(&mut seen, b"13 1 a b", start));
        assert!(insert(&mut seen, b"13 2 a b", start));
        seen.forget(age, start + age);
        assert!(!insert(&mut seen, b"13 1 a b", start + age));
        seen.forget(age, start + 2 * age);
        assert!(insert(&mut seen, b"13 1 a b", start + 2 * age));
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let start = testing::start();
        let mut seen = Seen::new(&mut Rng::new([1; 32]), start);
        for n in 0..2 * MAX_SEEN + 5 {
            insert(&mut seen, n.to_string().as_bytes(), start);
        }
        assert!(seen.young.len() + seen.old.len() <= 2 * MAX_SEEN);
    }
}
