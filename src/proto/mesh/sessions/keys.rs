//! Tunnel keys of one node, in every dialect, and which of them are used.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    dialect::Dialect,
    mesh::{
        limits::Bucket,
        sessions::{legacy::Legacy, native::Native, rekey::TxPause, sptps::Sptps},
    },
    tunnel::{RxKey, TxKey},
};

/// Time after which an incomplete handshake is started again. Source: wire/tinc-1.1.md section 2.8.
pub(in crate::mesh) const RETRY: Duration = Duration::from_secs(10);
/// Time after which a handshake is started again when a message of the other side did not match
/// ours.
pub(in crate::mesh) const RETRY_BROKEN: Duration = Duration::from_secs(1);
/// Handshakes, and renewals, that a node may start with us at once; then one in two seconds (T25,
/// T38).
pub(super) const BURST: usize = 4;

/// Tunnels with one node.
#[derive(Default)]
pub(in crate::mesh) struct Keys {
    /// Native sessions. A native session is preferred over SPTPS.
    pub(in crate::mesh) native: Native,
    /// SPTPS sessions.
    pub(in crate::mesh) sptps: Sptps,
    /// Legacy keys, if the node speaks only legacy.
    pub(in crate::mesh) legacy: Legacy,
    /// Time at which the last handshake with the node started, no matter which side started it.
    pub(in crate::mesh) began: Option<Instant>,
    /// A pause in sending while the other side changes its keys.
    pub(in crate::mesh) pause: Option<TxPause>,
    /// True if the current renewal has had its pause: there is one for each renewal.
    pub(in crate::mesh) has_paused: bool,
    /// Budget of handshakes that the node may start.
    answers: Option<Bucket>,
    /// Budget of renewals in the session that the node may start.
    pub(super) renewals: Option<Bucket>,
}

impl Keys {
    /// Returns true if data can be sent.
    pub(in crate::mesh) fn is_established(&self) -> bool {
        self.sptps.current.is_some() || self.native.is_established() || self.legacy.tx.is_some()
    }

    /// Returns true if our handshake waits for its answer.
    pub(in crate::mesh) fn is_waiting(&self) -> bool {
        self.sptps.asked.is_some() || self.native.is_waiting()
    }

    /// Returns the dialect of [`Self::tx`].
    pub(in crate::mesh) fn dialect(&self) -> Option<Dialect> {
        self.tx().map(|tx| tx.dialect())
    }

    /// Returns the sending key.
    pub(in crate::mesh) fn tx(&self) -> Option<Arc<TxKey>> {
        let legacy = || self.legacy.tx.clone();
        let sptps = || self.sptps.tx();
        self.native.tx().or_else(sptps).or_else(legacy)
    }

    /// Returns the receiving keys, most likely first.
    pub(in crate::mesh) fn rx(&self) -> Vec<Arc<RxKey>> {
        let legacy = self.legacy.rx.iter().cloned();
        self.native
            .rx()
            .chain(self.sptps.rx())
            .chain(legacy)
            .collect()
    }

    /// Handles a native session that took over: the SPTPS session expires at `at`, and its
    /// handshake is dropped.
    pub(in crate::mesh) fn retire_sptps(&mut self, at: Instant) {
        self.sptps.retire(at);
        self.pause = None;
    }

    /// Returns true if a handshake of the node may be answered now, and counts it.
    pub(super) fn may_answer(&mut self, now: Instant) -> bool {
        let answers = self.answers.get_or_insert_with(|| Bucket::new(BURST, now));
        answers.take_slowly(2, BURST, now)
    }
}
