//! Messages to the service manager. Without one they are dropped.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};

/// One message. Source: sd_notify(3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Note {
    /// The interface is up and packets flow; with the line of `systemctl status`.
    Ready(String),
    /// A reload starts, at this time of the monotonic clock in microseconds; [`Self::Ready`] ends it.
    Reloading(i128),
    /// The stop starts.
    Stopping,
    /// The line of `systemctl status`.
    Status(String),
    /// The daemon is alive.
    Watchdog,
}

impl Note {
    /// Returns the message for a reload that starts now.
    #[must_use]
    pub fn reloading() -> Self {
        match NotifyState::monotonic_usec_now() {
            Ok(NotifyState::MonotonicUsec(now)) => Self::Reloading(now),
            _ => Self::Reloading(0),
        }
    }

    /// Returns the message as text.
    pub(crate) fn text(&self) -> String {
        // A line end would begin another assignment.
        let line = |text: &str| text.replace('\n', " ");
        match self {
            Self::Ready(status) => format!("READY=1\nSTATUS={}\n", line(status)),
            Self::Reloading(now) => format!("RELOADING=1\nMONOTONIC_USEC={now}\n"),
            Self::Stopping => "STOPPING=1\n".to_owned(),
            Self::Status(text) => format!("STATUS={}\n", line(text)),
            Self::Watchdog => {
                let mut text = "WATCHDOG=1\n".to_owned();
                // The first message has switched it off.
                if let Ok(limit) = std::env::var("WATCHDOG_USEC") {
                    let _ = writeln!(text, "WATCHDOG_USEC={limit}");
                }
                text
            }
        }
    }

    /// Returns the message as text for a service manager that may take no later message, because these come from
    /// another process: it waits for no sign of life until one comes.
    pub(crate) fn first(&self) -> String {
        let limited = std::env::var_os("WATCHDOG_USEC").is_some();
        let off = if limited { "WATCHDOG_USEC=0\n" } else { "" };
        format!("{}{off}", self.text())
    }
}

/// Sends a message from this process.
pub(crate) fn notify(note: &Note) {
    let text = note.text();
    if let Err(error) = sd_notify::notify(&[NotifyState::Custom(text.trim_end())]) {
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

    /// True when it is time to send [`Note::Watchdog`], unless a worker has not moved since the last call. The driver's
    /// loop calls it with the heartbeats of the workers.
    pub fn is_due(&mut self, beats: Vec<u64>, now: Instant) -> bool {
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
