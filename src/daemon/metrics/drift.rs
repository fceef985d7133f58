//! Counts files on disk that differ from the configuration in force, because they changed without a reload.

use std::time::{Duration, Instant};

use meshd_config::diff;

use crate::{Event, driver::Driver};

/// Maximum age of a result.
const FRESH: Duration = Duration::from_secs(60);

/// Result of the last check.
#[derive(Debug, Default)]
pub(crate) struct Drift {
    pub(crate) files: Option<usize>,
    checked: Option<Instant>,
}

impl Driver {
    /// Returns the number of changed files at the last check; `None` before the first. An old result starts a new check
    /// in the background, because reading all files takes too long for the caller.
    pub(super) fn drift(&mut self, now: Instant) -> Option<usize> {
        let fresh = |at: Instant| now.saturating_duration_since(at) < FRESH;
        if self.is_up() && !self.vitals.drift.checked.is_some_and(fresh) {
            self.vitals.drift.checked = Some(now);
            let (running, events) = (self.config.clone(), self.inbox.events.clone());
            tokio::spawn(async move {
                let check = move || {
                    diff::drifted(
                        &running,
                        &meshd_config::load(&running.source, Some(&running)),
                    )
                };
                if let Ok(files) = tokio::task::spawn_blocking(check).await {
                    let _ = events.send(Event::Drifted(files)).await;
                }
            });
        }
        self.vitals.drift.files
    }
}
