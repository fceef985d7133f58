//! Request lines that were seen lately: a flood stops where it has been.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha512};

use meshd_crypto::Rng;

use crate::mesh::limits::MAX_SEEN;

/// Remembers lines by a keyed 64-bit hash, so that nobody can choose two lines that collide.
///
/// Two generations: a line is remembered for one to two times the age, and the older generation goes
/// early when the younger one is full. Departure from tinc: it keeps the text, for exactly
/// PingInterval. Memory: [`MAX_SEEN`] entries a generation.
pub(super) struct Seen {
    key: [u8; 32],
    young: BTreeSet<u64>,
    old: BTreeSet<u64>,
    turned: Instant,
}

impl Seen {
    pub(super) fn new(rng: &mut Rng, now: Instant) -> Self {
        Self {
            key: rng.bytes(),
            young: BTreeSet::new(),
            old: BTreeSet::new(),
            turned: now,
        }
    }

    /// What is remembered of `line`.
    pub(super) fn mark(&self, line: &[u8]) -> u64 {
        let hash = Sha512::new()
            .chain_update(self.key)
            .chain_update(line)
            .finalize();
        let mut short = [0; 8];
        short.copy_from_slice(&hash[..8]);
        u64::from_le_bytes(short)
    }

    /// Whether a line with this mark was seen lately.
    pub(super) fn has(&self, mark: u64) -> bool {
        self.old.contains(&mark) || self.young.contains(&mark)
    }

    /// Remembers the line of a mark; `false` if it was known already.
    pub(super) fn insert(&mut self, mark: u64, now: Instant) -> bool {
        if self.old.contains(&mark) || !self.young.insert(mark) {
            return false;
        }
        if self.young.len() >= MAX_SEEN {
            self.turn(now);
        }
        true
    }

    /// Forgets what is older than `age`; called about once a second.
    pub(super) fn forget(&mut self, age: Duration, now: Instant) {
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
