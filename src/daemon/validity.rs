//! Host-file statements with a validity period: Expires, Revoked and Ed25519PublicKeyNextFrom take effect by
//! themselves.
//!
//! Source: config/toml.md section 3.

use std::sync::Arc;

use meshd_os::clock;
use meshd_proto::mesh::Settings;

use crate::driver::Driver;

/// Time of the last evaluation, and of the next change.
#[derive(Debug, Default)]
pub(super) struct Terms {
    asked: u64,
    turn: Option<u64>,
}

impl Terms {
    /// Returns the settings in effect now.
    pub(super) fn of(&mut self, settings: &Arc<Settings>) -> Arc<Settings> {
        self.asked = clock::unix();
        self.turn = settings.turn(self.asked);
        settings.at(self.asked)
    }

    /// True if a new evaluation is due: the time has come, or the clock was set back.
    fn is_due(&self) -> bool {
        let now = clock::unix();
        self.turn.is_some_and(|turn| turn <= now) || now < self.asked
    }
}

impl Driver {
    /// Shuts out expired nodes without reading the files.
    pub(super) fn keep_terms(&mut self) {
        if self.terms.is_due() {
            self.use_settings(Arc::clone(&self.config.settings));
        }
    }
}
