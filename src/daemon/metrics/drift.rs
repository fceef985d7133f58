//! Files on disk that are not what is in force: somebody has changed them, and nothing was reloaded.

use std::time::{Duration, Instant};

use meshd_config as config;
use meshd_config::diff;

use crate::{Event, driver::Driver};

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(60);

/// What the last look has found.
#[derive(Debug, Default)]
pub(crate) struct Drift {
    pub(crate) files: Option<usize>,
    looked: Option<Instant>,
}

impl Driver {
    /// How many files it were at the last look; `None` before the first. An old answer is given too, and makes for the next
    /// one: reading all files takes longer than who asks should wait.
    pub(super) fn drift(&mut self, now: Instant) -> Option<usize> {
        let fresh = |at: Instant| now.saturating_duration_since(at) < FRESH;
        if self.is_up() && !self.drift.looked.is_some_and(fresh) {
            self.drift.looked = Some(now);
            let (running, events) = (self.config.clone(), self.events.clone());
            tokio::spawn(async move {
                let look =
                    move || diff::drifted(&running, &config::load(&running.source, Some(&running)));
                if let Ok(files) = tokio::task::spawn_blocking(look).await {
                    let _ = events.send(Event::Drifted(files)).await;
                }
            });
        }
        self.drift.files
    }
}
