//! Messages to the service manager. Without one they are dropped.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Reports readiness: the interface is up and packets flow.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports the start of a reload; [`ready`] ends it.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// Reports the start of the stop.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Sets the line of `systemctl status`.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot send a message to the service manager");
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
    /// Reads the service manager's environment; feeds twice per interval.
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

    /// Feeds when it is time, unless a worker has not moved since the last call. The driver's loop calls it with the
    /// heartbeats of the workers.
    pub fn feed(&mut self, beats: Vec<u64>, now: Instant) {
        if self.is_due(beats, now) {
            notify(&[NotifyState::Watchdog]);
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

    /// Returns the next time for [`Self::feed`].
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
