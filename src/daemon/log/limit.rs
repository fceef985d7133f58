//! Rate limit of log lines by class.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Maximum number of lines of one class per second. Source: T41 of proto/threat-model.md.
pub(super) const MAX_LINES: usize = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// Decision about a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passes {
    /// The line passes.
    Yes,
    /// The line passes, after this number of suppressed ones.
    After(u64),
    /// The line is suppressed.
    No,
}

/// Counts lines by class. A class is a place in the code, so the number of classes is bounded.
#[derive(Debug)]
pub(super) struct Limiter<C> {
    classes: BTreeMap<usize, (C, Window)>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    passed: usize,
    held: u64,
}

impl<C> Default for Limiter<C> {
    fn default() -> Self {
        Self {
            classes: BTreeMap::new(),
        }
    }
}

impl<T> Limiter<&'static T> {
    /// Decides about one line of a class. The address identifies the class.
    pub(super) fn pass(&mut self, class: &'static T, now: Instant) -> Passes {
        let key = std::ptr::from_ref(class).addr();
        let fresh = Window {
            since: now,
            passed: 0,
            held: 0,
        };
        let (_, window) = self.classes.entry(key).or_insert((class, fresh));
        let held = window.held;
        if now.saturating_duration_since(window.since) >= WINDOW {
            *window = fresh;
        } else if window.passed >= MAX_LINES {
            window.held += 1;
            return Passes::No;
        }
        window.passed += 1;
        match held {
            0 => Passes::Yes,
            held => Passes::After(held),
        }
    }

    /// Returns and resets the counts of classes whose second has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(&'static T, u64)> {
        let over = |window: &Window| now.saturating_duration_since(window.since) >= WINDOW;
        let windows = self.classes.values_mut();
        windows
            .filter(|(_, window)| window.held > 0 && over(window))
            .map(|(class, window)| (*class, std::mem::take(&mut window.held)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_a_second_and_the_rest_is_counted() {
        static FLOOD: u8 = 1;
        static OTHER: u8 = 2;
        let start = meshd_os::clock::now();
        let mut limiter = Limiter::default();
        let passed = (0..100)
            .filter(|_| limiter.pass(&FLOOD, start) == Passes::Yes)
            .count();
        assert_eq!(passed, MAX_LINES);
        assert_eq!(limiter.pass(&OTHER, start), Passes::Yes);
        assert!(limiter.expire(start).is_empty(), "its second is not over");
        let later = start + WINDOW;
        assert_eq!(limiter.pass(&FLOOD, later), Passes::After(80));
        assert_eq!(limiter.pass(&FLOOD, later), Passes::Yes);
        assert!(limiter.expire(later + WINDOW).is_empty());
    }

    #[test]
    fn a_class_that_falls_silent_is_told_once() {
        static FLOOD: u8 = 1;
        let start = meshd_os::clock::now();
        let mut limiter = Limiter::default();
        for _ in 0..30 {
            let _ = limiter.pass(&FLOOD, start);
        }
        assert_eq!(limiter.expire(start + WINDOW), [(&FLOOD, 10)]);
        assert!(limiter.expire(start + 2 * WINDOW).is_empty());
    }
}
