//! Path MTU of one UDP path, found by probes. Pure: asks for probe lengths, is told of answers.
//!
//! Lengths are record data in bytes (tinc-1.1-wire.md section 4.6). Departure from tinc: where tinc
//! walks up an exponential ladder for up to seven seconds, the first burst here holds the largest
//! length that the kernel lets through, so that an unhampered path is known after one round trip, and the
//! rest is a binary search. On the wire both are ordinary probes.

use std::time::{Duration, Instant};

use crate::route::{MIN_MTU, MTU};

/// Time between two steps of the search. Source: tinc-1.1-wire.md section 4.6.
const STEP: Duration = Duration::from_millis(333);
/// Probes of one length without an answer before it counts as too long.
const TRIES: u8 = 3;
/// Unanswered probes of the found length, while shorter ones are answered, before the path is
/// taken to have shrunk.
const SHRUNK: u8 = 9;
/// First burst below the upper bound: what common link MTUs leave.
const LADDER: [u16; 4] = [1_400, 1_219, 1_000, MIN_MTU];

/// What is known of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pmtu {
    /// Largest length that was answered; 0 = none.
    pub min: u16,
    /// No longer length can pass.
    pub max: u16,
    /// Whether the search is over.
    pub fixed: bool,
    started: bool,
    /// Longest probe sent on this path: no answer can prove more.
    longest: u16,
    probing: u16,
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
            longest: 0,
            probing: 0,
            tries: 0,
            unanswered: 0,
            next: None,
        }
    }
}

impl Pmtu {
    /// The value that routing takes: what is proven once the search is over, else the assumption.
    pub(super) fn mtu(&self) -> u16 {
        if self.fixed { self.min } else { MTU }
    }

    /// Starts the search, if it has not started: a short probe was answered. `limit` is the longest
    /// record that the kernel lets through to this address.
    pub(super) fn start(&mut self, limit: u16) {
        if !self.started {
            self.started = true;
            self.max = limit.clamp(MIN_MTU, MTU);
        }
    }

    /// Starts anew with `max` as upper bound; what was proven is forgotten.
    pub(super) fn restart(&mut self, max: u16) {
        *self = Self {
            max: max.clamp(MIN_MTU, MTU),
            started: self.started,
            ..Self::default()
        };
    }

    /// The kernel refused a record of `length` bytes.
    pub(super) fn too_long(&mut self, length: u16) {
        let below = length.saturating_sub(1);
        if length <= self.min {
            self.restart(below);
        } else if length <= self.max {
            self.max = below.max(MIN_MTU).max(self.min);
            self.tries = 0;
            self.settle();
        }
    }

    /// A probe was answered that claims `length`. More than was probed is not believed (T08).
    pub(super) fn answered(&mut self, length: u16) {
        let length = length.min(self.longest);
        if !self.started {
            self.min = self.min.max(length);
        } else if length > self.max {
            // The path has grown: look upwards again.
            let longest = self.longest;
            self.restart(MTU);
            self.min = length;
            self.longest = longest;
        } else {
            if length >= self.min {
                self.unanswered = 0;
                self.min = length;
            }
            if self.probing <= self.min {
                self.tries = 0;
            }
            self.settle();
        }
    }

    /// Lengths to probe now: call when [`Self::due`] has come.
    pub(super) fn probes(&mut self, now: Instant) -> Vec<u16> {
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
        if self.tries >= TRIES {
            self.max = self.probing - 1;
            self.tries = 0;
            self.settle();
        }
        if self.fixed {
            return Vec::new();
        }
        let low = self.min.max(MIN_MTU - 1);
        if self.tries == 0 {
            self.probing = low + (self.max - low).div_ceil(2);
        }
        self.tries += 1;
        vec![self.probing]
    }

    /// Puts the next step off; `false` if that would be the first burst.
    pub(super) fn postpone(&mut self, now: Instant) -> bool {
        let begun = self.next.is_some();
        if begun {
            self.next = Some(now + STEP);
        }
        begun
    }

    /// Notes that a probe of `length` is on its way.
    pub(super) fn sent(&mut self, length: u16) {
        self.longest = self.longest.max(length);
    }

    /// When [`Self::probes`] wants to be called; `now` if the first burst waits.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        (self.started && !self.fixed).then(|| self.next.unwrap_or(now))
    }

    /// A probe of the found length is sent to see whether it still passes; `true` if too many of
    /// them went unanswered: the path has shrunk, and the search starts anew.
    pub(super) fn check(&mut self) -> bool {
        self.unanswered = self.unanswered.saturating_add(1);
        let shrunk = self.unanswered > SHRUNK;
        if shrunk {
            self.restart(self.max);
        }
        shrunk
    }

    /// Whether a check went unanswered: the next ones come quickly.
    pub(super) fn suspicious(&self) -> bool {
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

    /// Runs the search against a path that lets `passes` through; returns steps taken.
    fn search(pmtu: &mut Pmtu, passes: impl Fn(u16, usize) -> bool) -> usize {
        let mut now = testing::start();
        for step in 1..200 {
            for length in pmtu.probes(now) {
                pmtu.sent(length);
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
        pmtu.sent(18);
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
    fn no_answer_proves_more_than_was_probed() {
        let mut pmtu = Pmtu::default();
        pmtu.sent(18);
        pmtu.answered(65_535);
        assert_eq!(pmtu.min, 18);
        pmtu.answered(0);
        assert_eq!(pmtu.min, 18);
    }
}
