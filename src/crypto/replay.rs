//! The sliding replay window of datagrams.
//!
//! Difference from tinc: there is no "far future" rule (tinc drops the first few numbers that are a
//! window ahead). Every number is checked after authentication, so a number far ahead is genuine,
//! and dropping it only loses a packet. The difference is not visible on the wire. Source:
//! wire/tinc-1.1.md section 2.7.

/// Largest window, in packets: 8 KiB a session.
pub const MAX_WINDOW: u32 = 1 << 16;

/// Set of the latest sequence numbers that were seen.
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    /// Width in packets; 0 = every number is accepted.
    size: u32,
    /// Highest number seen, plus one. Numbers are below `u64::MAX`.
    next: u64,
    /// One bit per number, 64 per word, as a ring that is at least one word longer than the window.
    seen: Box<[u64]>,
}

impl ReplayWindow {
    /// Makes a window that remembers `size` packets (at most [`MAX_WINDOW`]) below the highest; 0
    /// disables the check.
    #[must_use]
    pub fn new(size: u32) -> Self {
        let size = size.min(MAX_WINDOW);
        let words = match size {
            0 => 0,
            size => (size as usize / 64 + 2).next_power_of_two(),
        };
        Self {
            size,
            next: 0,
            seen: vec![0; words].into_boxed_slice(),
        }
    }

    /// Returns the highest number seen, plus one; 0 before the first.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Returns true if `seq` (below `u64::MAX`) is new: ahead of every number seen, or inside the
    /// window and not marked.
    #[must_use]
    pub fn check(&self, seq: u64) -> bool {
        self.size == 0
            || seq >= self.next
            || (self.next - seq <= u64::from(self.size)
                && self.seen[self.word(seq)] & bit(seq) == 0)
    }

    /// Marks `seq` as seen. If it is the highest so far, older numbers leave the window.
    pub fn mark(&mut self, seq: u64) {
        if self.size == 0 {
            self.next = self.next.max(seq + 1);
            return;
        }
        if seq >= self.next {
            let first = self.next.div_ceil(64);
            let last = (seq / 64).min(first + self.seen.len() as u64);
            for word in first..=last {
                let at = self.word(word * 64);
                self.seen[at] = 0;
            }
            self.next = seq + 1;
        } else if self.next - seq > u64::from(self.size) {
            return;
        }
        let at = self.word(seq);
        self.seen[at] |= bit(seq);
    }

    /// Checks `seq` and marks it if it is new. Returns true if it was new.
    #[must_use]
    pub fn accept(&mut self, seq: u64) -> bool {
        let new = self.check(seq);
        if new {
            self.mark(seq);
        }
        new
    }

    fn word(&self, seq: u64) -> usize {
        (seq / 64) as usize & (self.seen.len() - 1)
    }
}

fn bit(seq: u64) -> u64 {
    1 << (seq % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// P1 of proto/threat-model.md section 5.4: the window as a set of numbers.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, seq: u64, size: u32) -> bool {
            let next = self.seen.last().map_or(0, |&s| s + 1);
            let in_reach = seq + u64::from(size) >= next;
            size == 0 || (in_reach && self.seen.insert(seq))
        }
    }

    /// Numbers that walk, jump and fall back, so every rule applies.
    fn numbers() -> impl Strategy<Value = Vec<u64>> {
        let step = prop_oneof![
            6 => -3_i64..4,
            3 => -300_i64..300,
            1 => -5_000_i64..5_000,
            1 => any::<i32>().prop_map(|step| i64::from(step) << 8),
        ];
        (any::<u32>(), proptest::collection::vec(step, 1..400)).prop_map(|(start, steps)| {
            let mut at = i64::from(start);
            steps
                .into_iter()
                .map(|step| {
                    at = (at + step).clamp(0, i64::MAX >> 1);
                    at as u64
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn equals_the_set_model(
            size in prop_oneof![Just(0_u32), 1_u32..70, Just(128), Just(2048)],
            numbers in numbers(),
        ) {
            let (mut window, mut model) = (ReplayWindow::new(size), Model::default());
            for seq in numbers {
                prop_assert_eq!(window.check(seq), window.clone().accept(seq));
                prop_assert_eq!(window.accept(seq), model.accept(seq, size), "{}", seq);
            }
        }
    }

    #[test]
    fn zero_switches_the_check_off() {
        let mut window = ReplayWindow::new(0);
        assert!(window.accept(5) && window.accept(5) && window.accept(1));
    }

    #[test]
    fn the_last_number_of_all_is_accepted_once() {
        let mut window = ReplayWindow::new(128);
        assert!(window.accept(u64::MAX - 1));
        assert!(!window.accept(u64::MAX - 1));
        assert!(window.accept(u64::MAX - 2));
    }
}
