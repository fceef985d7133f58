//! Per-destination packet keys. Three packet kinds will live behind [`TxKey`] and [`RxKey`]; they are
//! told apart in this file only. Today: SPTPS.
//!
//! Source: tinc-1.1-wire.md sections 2 and 3.6.

mod record;
pub mod sptps;
#[cfg(test)]
mod tests;

pub use sptps::{Tunnel, TunnelError, TunnelSetup};

/// Bytes that an SPTPS datagram adds to the record data: sequence number 4, type 1, tag 16.
pub const SPTPS_OVERHEAD: usize = 21;

/// Record type bit: the payload is compressed.
pub const TYPE_COMPRESSED: u8 = 1;
/// Record type bit: the payload starts with its Ethernet header.
pub const TYPE_MAC: u8 = 2;
/// Record type: a probe.
pub const TYPE_PROBE: u8 = 4;
/// Record type: a handshake message (never by UDP).
pub const TYPE_HANDSHAKE: u8 = 128;

/// The sending key of one tunnel, shared by the workers and the driver.
///
/// Keys of one session share its sequence counter, so that no number is used twice.
#[derive(Debug)]
pub struct TxKey(TxKind);

#[derive(Debug)]
enum TxKind {
    Sptps(record::Tx),
}

/// A receiving key of one tunnel. Keys of one session share its replay window.
#[derive(Debug)]
pub struct RxKey(RxKind);

#[derive(Debug)]
enum RxKind {
    Sptps(record::Rx),
}

/// What [`RxKey::open`] found in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Sequence number.
    pub seq: u32,
    /// Record type: see the `TYPE_` constants.
    pub kind: u8,
}

/// Why a datagram was not opened. Nothing was changed, not even the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than [`SPTPS_OVERHEAD`].
    #[error("too short")]
    Short,
    /// The tag does not match this key.
    #[error("bad tag")]
    BadTag,
    /// The tag matches, but the number was seen before or is too old.
    #[error("replayed")]
    Replayed,
}

impl TxKey {
    /// Claims `count` consecutive sequence numbers and returns the first.
    /// `None` once the numbers are used up (2^32 - 2^13, spec/security.md T10): only a new session
    /// ([`Tunnel::initiate`]) has numbers again.
    #[must_use]
    pub fn claim(&self, count: u32) -> Option<u32> {
        match &self.0 {
            TxKind::Sptps(tx) => tx.claim(count),
        }
    }

    /// How many numbers of this session were claimed.
    #[must_use]
    pub fn claimed(&self) -> u32 {
        match &self.0 {
            TxKind::Sptps(tx) => tx.claimed(),
        }
    }

    /// Whether half of the numbers are used (2^31, spec/security.md T10). [`Tunnel::rekey`] would not
    /// help, as SPTPS goes on counting across rekeys: it is time for a new session.
    #[must_use]
    pub fn wants_rekey(&self) -> bool {
        match &self.0 {
            TxKind::Sptps(tx) => tx.wants_renewal(),
        }
    }

    /// Seals one record in place. `datagram` is `seqno(4) | type(1) | data | room for the tag(16)`;
    /// the caller has written the data; number, type and tag are written here.
    ///
    /// # Panics
    /// If `datagram` is shorter than [`SPTPS_OVERHEAD`].
    pub fn seal(&self, seq: u32, kind: u8, datagram: &mut [u8]) {
        match &self.0 {
            TxKind::Sptps(tx) => tx.seal(seq, kind, datagram),
        }
    }

    /// Pretends that all numbers below `seq` were used.
    #[cfg(test)]
    pub(crate) fn fast_forward(&self, seq: u32) {
        match &self.0 {
            TxKind::Sptps(tx) => tx.fast_forward(seq),
        }
    }
}

impl RxKey {
    /// Checks, decrypts in place and marks the number as seen. On success `datagram[5..len-16]` is
    /// the record data. Errors: see [`OpenError`].
    pub fn open(&self, datagram: &mut [u8]) -> Result<Opened, OpenError> {
        match &self.0 {
            RxKind::Sptps(rx) => rx.open(datagram),
        }
    }

    /// Opens a handshake record, whose order is not the replay window's business.
    fn open_handshake(&self, datagram: &mut [u8]) -> Result<Opened, OpenError> {
        match &self.0 {
            RxKind::Sptps(rx) => rx.open_handshake(datagram),
        }
    }

    /// Whether this key has opened a datagram yet.
    #[must_use]
    pub fn is_used(&self) -> bool {
        match &self.0 {
            RxKind::Sptps(rx) => rx.is_used(),
        }
    }
}
