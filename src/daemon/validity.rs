//! What of the host files holds today: Expires, Revoked and Ed25519PublicKeyNextFrom come into force by themselves.
//!
//! Source: config/toml.md section 3.

use std::sync::Arc;

use meshd_os::clock;
use meshd_proto::mesh::Settings;

use crate::driver::Driver;

/// When the settings were asked last, and when they say something else.
#[derive(Debug, Default)]
pub(super) struct Terms {
    asked: u64,
    turn: Option<u64>,
}

impl Terms {
    /// What holds now.
    pub(super) fn of(&mut self, settings: &Arc<Settings>) -> Arc<Settings> {
        self.asked = clock::unix();
        self.turn = settings.turn(self.asked);
        settings.at(self.asked)
    }

    /// Whether to ask again: the time has come, or the clock was set back.
    fn is_due(&self) -> bool {
        let now = clock::unix();
        self.turn.is_some_and(|turn| turn <= now) || now < self.asked
    }
}

impl Driver {
    /// Shuts out whose time is over, without a look at the files.
    pub(super) fn keep_terms(&mut self) {
        if self.terms.is_due() {
            self.use_settings(Arc::clone(&self.config.settings));
        }
    }
}
