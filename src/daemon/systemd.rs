//! Words to the service manager. Without one they go nowhere.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// We are up: the interface is there and packets flow.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// We are on our way out.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager does not listen");
    }
}

/// Feeds the watchdog while driver and workers are alive.
#[derive(Debug)]
pub struct Watchdog {
    every: Option<Duration>,
    next: Instant,
    beats: Vec<u64>,
}

impl Watchdog {
    /// As the service manager asks by its environment; feeds twice in its interval.
    #[must_use]
    pub fn from_env(now: Instant) -> Self {
        Self::new(sd_notify::watchdog_enabled(), now)
    }

    fn new(limit: Option<Duration>, now: Instant) -> Self {
        Self {
            every: limit.map(|limit| limit / 2),
            next: now,
            beats: Vec::new(),
        }
    }

    /// Called by the driver's loop with the heartbeats of the workers: feeds when it is time, unless a
    /// worker has stood still since the last time.
    pub fn feed(&mut self, beats: Vec<u64>, now: Instant) {
        if self.is_due(beats, now) {
            tell(&[NotifyState::Watchdog]);
        }
    }

    fn is_due(&mut self, beats: Vec<u64>, now: Instant) -> bool {
        let Some(every) = self.every.filter(|_| now >= self.next) else {
            return false;
        };
        self.next = now + every;
        let stuck = self
            .beats
            .iter()
            .zip(&beats)
            .any(|(last, beat)| last == beat);
        self.beats = beats;
        !stuck
    }

    /// When [`Self::feed`] should be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.every.map(|_| self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stands_still_starves_the_watchdog() {
        let start = meshd_os::clock::now();
        let mut dog = Watchdog::new(Some(Duration::from_secs(10)), start);
        assert!(dog.is_due(vec![1, 1], start));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!dog.is_due(vec![2, 2], at(4)), "too early");
        assert!(dog.is_due(vec![3, 3], at(5)));
        assert!(!dog.is_due(vec![3, 4], at(10)), "the first one is stuck");
        assert!(dog.is_due(vec![4, 5], at(15)), "it got on");
        assert!(!Watchdog::new(None, start).is_due(vec![], start));
    }
}
