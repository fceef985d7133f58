//! SPTPS sessions with one node: the one in use, the one in its handshake, and the one before.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::tunnel::{RxKey, TxKey, sptps::Tunnel};

/// Most receiving keys of SPTPS that are tried for one datagram.
const MAX_RX: usize = 4;

/// SPTPS sessions with one node.
#[derive(Default)]
pub(in crate::mesh) struct Sptps {
    /// The session in use.
    pub(in crate::mesh) current: Option<Tunnel>,
    /// A session in its handshake, started by either side.
    pub(in crate::mesh) pending: Option<Tunnel>,
    /// Keys of the session before `current`, for packets on the way.
    pub(in crate::mesh) last: Vec<Arc<RxKey>>,
    /// Time of our last REQ_KEY, while `pending` is ours.
    pub(in crate::mesh) asked: Option<Instant>,
    /// True if a message of the current handshake did not match: the retry comes sooner.
    pub(in crate::mesh) broken: bool,
    /// Start of an incomplete renewal that we started.
    pub(in crate::mesh) renewing: Option<Instant>,
    /// Time at which `current` is renewed.
    pub(in crate::mesh) renew_at: Option<Instant>,
    /// Time at which old receiving keys expire.
    pub(in crate::mesh) expire_at: Option<Instant>,
    /// Time at which the session expires after a native session has replaced it.
    pub(in crate::mesh) retire_at: Option<Instant>,
    /// True if the node has proven to be a meshd, which needs no pause in sending.
    pub(in crate::mesh) meshd: bool,
    /// The meshd word of the REQ_KEY that started `pending`, if the other side started it. The word
    /// counts only after the handshake: anybody can write a REQ_KEY.
    pub(in crate::mesh) pending_meshd: Option<bool>,
}

impl Sptps {
    /// Returns the sending key.
    pub(in crate::mesh) fn tx(&self) -> Option<Arc<TxKey>> {
        self.current.as_ref()?.tx()
    }

    /// Returns the receiving keys, most likely first.
    pub(in crate::mesh) fn rx(&self) -> impl Iterator<Item = Arc<RxKey>> + '_ {
        let current = self.current.iter().flat_map(Tunnel::rx);
        current.chain(self.last.iter().cloned()).take(MAX_RX)
    }

    /// Drops the handshake. The session in use expires at `at`.
    pub(in crate::mesh) fn retire(&mut self, at: Instant) {
        self.asked = None;
        self.pending = None;
        self.retire_at = self.current.is_some().then_some(at);
    }

    /// Drops a session that a native one has replaced, when its time has come. Returns true if
    /// there was one.
    pub(in crate::mesh) fn end_retired(&mut self, now: Instant) -> bool {
        let over = self.retire_at.take_if(|at| now >= *at).is_some();
        if over {
            self.current = None;
            self.last.clear();
            (self.renewing, self.renew_at, self.expire_at) = (None, None, None);
        }
        over
    }

    /// Drops old receiving keys that no packet can need any more, when their time has come. Returns
    /// true if there were any.
    pub(in crate::mesh) fn expire_old(&mut self, now: Instant, linger: Duration) -> bool {
        if self.expire_at.is_none_or(|at| now < at) {
            return false;
        }
        self.expire_at = Some(now + linger);
        let gone = self.current.as_mut().is_some_and(Tunnel::expire_old);
        let newest = self.current.as_ref();
        let newest = newest.and_then(|tunnel| tunnel.rx().into_iter().next());
        let confirmed = newest.is_some_and(|key| key.is_used());
        let last = confirmed && !self.last.is_empty();
        if last {
            self.last.clear();
        }
        last || gone
    }
}
