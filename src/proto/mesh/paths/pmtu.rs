//! Path MTU search on one UDP path. Pure: it returns probe lengths and takes answers.
//!
//! Lengths are record data in bytes (wire/tinc-1.1.md section 4.6). Difference from tinc: tinc
//! walks up an exponential ladder for up to seven seconds. Here the first burst contains the
//! largest length that the kernel accepts. So the MTU of an unrestricted path is known after one
//! round trip. Each further step probes several lengths between the bounds. On the wire all probes
//! are ordinary ones.
//!
//! An answered length counts at once. So a path that has shrunk carries packets again one round
//! trip after that was noticed.

use std::time::{Duration, Instant};

use crate::route::{MIN_MTU, MTU};

/// Time between two steps of the search. Source: wire/tinc-1.1.md section 4.6.
const STEP: Duration = Duration::from_millis(333);
/// Unanswered probes of one length after which the length counts as too long.
const TRIES: u8 = 3;
/// Unanswered probes of the found length, while shorter ones are answered, after which the path
/// counts as shrunk.
const SHRUNK: u8 = 9;
/// Number of lengths in one further step.
const SPREAD: u16 = 5;
/// Lengths of the first burst below the upper bound: those that common link MTUs leave.
const LADDER: [u16; 4] = [1_400, 1_219, 1_000, MIN_MTU];

/// State of the search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mesh) struct Pmtu {
    /// Largest answered length; 0 = none.
    pub min: u16,
    /// Upper bound: no longer length can pass.
    pub max: u16,
    /// True if the search is over.
    pub fixed: bool,
    started: bool,
    /// Lengths of the current step, longest first.
    probing: Vec<u16>,
    tries: u8,
    unanswered: u8,
    next: Option<Instant>,
}

impl Default for Pmtu {
    fn default() -> Self {
        Self {
            min: 0,
            max: MTU,
            fixed: false,
            started: false,
            probing: Vec::new(),
            tries: 0,
            unanswered: 0,
            next: None,
        }
    }
}

impl Pmtu {
    /// Returns the MTU for routing: the proven length, or the assumed MTU while the proven length
    /// is below the minimum.
    pub(in crate::mesh) fn mtu(&self) -> u16 {
        if self.fixed || self.min >= MIN_MTU {
            self.min
        } else {
            MTU
        }
    }

    /// Starts the search, if it has not started: a short probe was answered. `limit` is the longest
    /// record that the kernel accepts for this address.
    pub(in crate::mesh) fn start(&mut self, limit: u16) {
        if !self.started {
            self.started = true;
            self.max = limit.clamp(MIN_MTU, MTU);
        }
    }

    /// Starts again with `max` as upper bound and forgets the proven length.
    pub(in crate::mesh) fn restart(&mut self, max: u16) {
        *self = Self {
            max: max.clamp(MIN_MTU, MTU),
            started: self.started,
            ..Self::default()
        };
    }

    /// Handles a record of `length` bytes that the kernel rejected.
    pub(in crate::mesh) fn too_long(&mut self, length: u16) {
        let below = length.saturating_sub(1);
        if length <= self.min {
            self.restart(below);
        } else if length <= self.max {
            self.max = below.max(MIN_MTU).max(self.min);
            self.settle();
        }
    }

    /// Handles the answer to a probe of `length`.
    pub(in crate::mesh) fn answered(&mut self, length: u16) {
        if !self.started {
            self.min = self.min.max(length);
        } else if length > self.max {
            // The path has grown: search upwards again.
            self.restart(MTU);
            self.min = length;
        } else {
            if length >= self.min {
                self.unanswered = 0;
                self.min = length;
            }
            self.settle();
        }
    }

    /// Returns the lengths to probe now. Call it when [`Self::due`] has come.
    pub(in crate::mesh) fn probes(&mut self, now: Instant) -> Vec<u16> {
        if !self.started || self.fixed {
            return Vec::new();
        }
        let first = self.next.replace(now + STEP).is_none();
        let max = self.max;
        if first {
            return std::iter::once(max)
                .chain(LADDER.into_iter().filter(|l| *l < max))
                .collect();
        }
        self.open();
        // A packet longer than the kernel's limit may have been answered before the search started.
        self.settle();
        if self.tries >= TRIES
            && let Some(shortest) = self.probing.last()
        {
            self.max = shortest - 1;
            self.settle();
            self.open();
        }
        if self.fixed {
            return Vec::new();
        }
        if self.probing.is_empty() {
            self.probing = self.spread();
            self.tries = 0;
        }
        self.tries += 1;
        self.probing.clone()
    }

    /// Keeps the lengths of the current step that are still undecided.
    fn open(&mut self) {
        let (min, max) = (self.min, self.max);
        self.probing
            .retain(|length| *length > min && *length <= max);
    }

    /// Returns lengths that divide the range between the bounds evenly, including the upper bound.
    fn spread(&self) -> Vec<u16> {
        let low = self.min.max(MIN_MTU - 1);
        let width = self.max - low;
        let parts = width.min(SPREAD);
        (1..=parts)
            .rev()
            .map(|part| low + width / parts * part + width % parts * part / parts)
            .collect()
    }

    /// Postpones the next step; returns `false` before the first burst.
    pub(in crate::mesh) fn postpone(&mut self, now: Instant) -> bool {
        let begun = self.next.is_some();
        if begun {
            self.next = Some(now + STEP);
        }
        begun
    }

    /// Returns the time of the next call of [`Self::probes`]; `now` before the first burst.
    pub(in crate::mesh) fn due(&self, now: Instant) -> Option<Instant> {
        (self.started && !self.fixed).then(|| self.next.unwrap_or(now))
    }

    /// Counts a probe of the found length that checks if it still passes. Returns `true` if too
    /// many were unanswered: the path has shrunk, and the search starts again.
    pub(in crate::mesh) fn check(&mut self) -> bool {
        self.unanswered = self.unanswered.saturating_add(1);
        let shrunk = self.unanswered > SHRUNK;
        if shrunk {
            self.restart(self.max);
        }
        shrunk
    }

    /// Returns true if a check was unanswered: the next checks follow quickly.
    pub(in crate::mesh) fn suspicious(&self) -> bool {
        self.unanswered > 0
    }

    /// Ends the search when the bounds meet, or when the minimum MTU does not pass.
    fn settle(&mut self) {
        if self.min >= self.max || self.max < MIN_MTU {
            self.max = self.max.max(self.min);
            self.fixed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::testing;

    #[test]
    fn a_limit_below_what_is_proven_ends_the_search() {
        let mut pmtu = Pmtu::default();
        pmtu.answered(1_400);
        pmtu.start(1_000);
        for _ in 0..3 {
            pmtu.probes(testing::start());
        }
        assert_eq!((pmtu.fixed, pmtu.mtu()), (true, 1_400));
    }

    /// Runs the search on a path that lets `passes` through; returns the number of steps.
    fn search(pmtu: &mut Pmtu, passes: impl Fn(u16, usize) -> bool) -> usize {
        let mut now = testing::start();
        for step in 1..200 {
            for length in pmtu.probes(now) {
                if passes(length, step) {
                    pmtu.answered(length);
                }
            }
            if pmtu.fixed {
                return step;
            }
            now = pmtu.due(now).unwrap();
        }
        panic!("the search does not end: {pmtu:?}");
    }

    #[test]
    fn what_the_kernel_says_is_known_after_one_burst() {
        let mut pmtu = Pmtu::default();
        pmtu.start(1_439);
        assert_eq!(search(&mut pmtu, |_, _| true), 1);
        assert_eq!((pmtu.min, pmtu.max, pmtu.mtu()), (1_439, 1_439, 1_439));
    }

    #[test]
    fn every_path_mtu_is_found_exactly_also_with_loss() {
        for path in (MIN_MTU..=MTU).step_by(13) {
            let mut pmtu = Pmtu::default();
            pmtu.start(MTU);
            search(&mut pmtu, |length, step| length <= path && step % 3 != 0);
            assert_eq!(pmtu.min, path);
        }
    }

    #[test]
    fn a_path_below_the_least_mtu_ends_the_search() {
        let mut pmtu = Pmtu::default();
        pmtu.answered(18);
        pmtu.start(MTU);
        search(&mut pmtu, |length, _| length < 100);
        assert_eq!(pmtu.min, 18);
    }

    #[test]
    fn a_shrunken_path_is_noticed_and_found_again() {
        let mut pmtu = Pmtu::default();
        pmtu.start(1_439);
        search(&mut pmtu, |_, _| true);
        assert_eq!(
            (1..20).find(|_| pmtu.check()),
            Some(usize::from(SHRUNK) + 1)
        );
        search(&mut pmtu, |length, _| length <= 1_219);
        assert_eq!(pmtu.min, 1_219);
    }

    #[test]
    fn what_is_proven_counts_before_the_search_is_over() {
        let mut pmtu = Pmtu::default();
        pmtu.start(1_439);
        assert_eq!(pmtu.mtu(), MTU);
        for length in pmtu.probes(testing::start()) {
            if length <= 1_219 {
                pmtu.answered(length);
            }
        }
        assert!(!pmtu.fixed);
        assert_eq!(pmtu.mtu(), 1_219);
    }

    #[test]
    fn a_path_that_has_grown_is_searched_upwards() {
        let mut pmtu = Pmtu::default();
        pmtu.start(1_000);
        search(&mut pmtu, |_, _| true);
        pmtu.answered(1_200);
        search(&mut pmtu, |length, _| length <= 1_300);
        assert_eq!(pmtu.min, 1_300);
    }
}
