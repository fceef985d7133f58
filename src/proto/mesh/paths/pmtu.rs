//! Path MTU of one UDP path, found by probes. Pure: asks for probe lengths, is told of answers.
//!
//! Lengths are record data in bytes (wire/tinc-1.1.md section 4.6). Departure from tinc: where tinc
//! walks up an exponential ladder for up to seven seconds, the first burst here holds the largest
//! length that the kernel lets through, so that an unhampered path is known after one round trip; each
//! further step asks for several lengths between the bounds. On the wire all are ordinary probes. What
//! is proven counts at once: a path that has shrunk carries packets again one round trip after it was
//! noticed.

use std::time::{Duration, Instant};

use crate::route::{MIN_MTU, MTU};

/// Time between two steps of the search. Source: wire/tinc-1.1.md section 4.6.
const STEP: Duration = Duration::from_millis(333);
/// Probes of one length without an answer before it counts as too long.
const TRIES: u8 = 3;
/// Unanswered probes of the found length, while shorter ones are answered, before the path is
/// taken to have shrunk.
const SHRUNK: u8 = 9;
/// Lengths asked for in one further step.
const SPREAD: u16 = 5;
/// First burst below the upper bound: what common link MTUs leave.
const LADDER: [u16; 4] = [1_400, 1_219, 1_000, MIN_MTU];

/// What is known of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mesh) struct Pmtu {
    /// Largest length that was answered; 0 = none.
    pub min: u16,
    /// No longer length can pass.
    pub max: u16,
    /// Whether the search is over.
    pub fixed: bool,
    started: bool,
    /// Lengths of the present step, the longest first.
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
    /// The value that routing takes: what is proven, or the assumption while that is next to nothing.
    pub(in crate::mesh) fn mtu(&self) -> u16 {
        if self.fixed || self.min >= MIN_MTU {
            self.min
        } else {
            MTU
        }
    }

    /// Starts the search, if it has not started: a short probe was answered. `limit` is the longest
    /// record that the kernel lets through to this address.
    pub(in crate::mesh) fn start(&mut self, limit: u16) {
        if !self.started {
            self.started = true;
            self.max = limit.clamp(MIN_MTU, MTU);
        }
    }

    /// Starts anew with `max` as upper bound; what was proven is forgotten.
    pub(in crate::mesh) fn restart(&mut self, max: u16) {
        *self = Self {
            max: max.clamp(MIN_MTU, MTU),
            started: self.started,
            ..Self::default()
        };
    }

    /// The kernel refused a record of `length` bytes.
    pub(in crate::mesh) fn too_long(&mut self, length: u16) {
        let below = length.saturating_sub(1);
        if length <= self.min {
            self.restart(below);
        } else if length <= self.max {
            self.max = below.max(MIN_MTU).max(self.min);
            self.settle();
        }
    }

    /// A probe of `length` was answered.
    pub(in crate::mesh) fn answered(&mut self, length: u16) {
        if !self.started {
            self.min = self.min.max(length);
        } else if length > self.max {
            // The path has grown: look upwards again.
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

    /// Lengths to probe now: call when [`Self::due`] has come.
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
        // A longer packet than the kernel now lets through may have been answered before the search began.
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

    /// Keeps of the present step what is still in question.
    fn open(&mut self) {
        let (min, max) = (self.min, self.max);
        self.probing
            .retain(|length| *length > min && *length <= max);
    }

    /// Lengths that cut what lies between the bounds into even parts, the upper bound among them.
    fn spread(&self) -> Vec<u16> {
        let low = self.min.max(MIN_MTU - 1);
        let width = self.max - low;
        let parts = width.min(SPREAD);
        (1..=parts)
            .rev()
            .map(|part| low + width / parts * part + width % parts * part / parts)
            .collect()
    }

    /// Puts the next step off; `false` if that would be the first burst.
    pub(in crate::mesh) fn postpone(&mut self, now: Instant) -> bool {
        let begun = self.next.is_some();
        if begun {
            self.next = Some(now + STEP);
        }
        begun
    }

    /// When [`Self::probes`] wants to be called; `now` if the first burst waits.
    pub(in crate::mesh) fn due(&self, now: Instant) -> Option<Instant> {
        (self.started && !self.fixed).then(|| self.next.unwrap_or(now))
    }

    /// A probe of the found length is sent to see whether it still passes; `true` if too many of
    /// them went unanswered: the path has shrunk, and the search starts anew.
    pub(in crate::mesh) fn check(&mut self) -> bool {
        self.unanswered = self.unanswered.saturating_add(1);
        let shrunk = self.unanswered > SHRUNK;
        if shrunk {
            self.restart(self.max);
        }
        shrunk
    }

    /// Whether a check went unanswered: the next ones come quickly.
    pub(in crate::mesh) fn suspicious(&self) -> bool {
        self.unanswered > 0
    }

    /// The search is over when the bounds meet, or when not even the least MTU passes.
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

    /// Runs the search against a path that lets `passes` through; returns steps taken.
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
