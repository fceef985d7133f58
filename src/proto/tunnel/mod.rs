//! Per-destination packet keys: SPTPS, native and legacy, a file each. Only this file calls the
//! dialects' own code; all other code asks for a property ([`Caps`]).
//!
//! Source: wire/tinc-1.1.md sections 2 and 3.6, wire/tinc-1.0.md section 3, proto/native-link.md.

pub mod caps;
pub mod legacy;
#[cfg(test)]
#[cfg(feature = "model")]
mod models;
pub mod native;
pub mod sptps;
#[cfg(all(feature = "model", any(test, feature = "testing")))]
#[allow(clippy::unwrap_used, missing_docs, reason = "for tests only")]
pub mod testing;
#[cfg(test)]
mod tests;

pub use caps::Caps;
pub use native::index_of;
pub use sptps::{Tunnel, TunnelError, TunnelSetup};

use std::{
    ops::Range,
    sync::{Arc, PoisonError},
};

use bytes::Bytes;

use meshd_crypto::{
    aead::TAG,
    compress::{self, Packer},
    replay::ReplayWindow,
};
use meshd_sync::MutexGuard;
use meshd_wire::datagram::HEADER;

use crate::dialect::Dialect;

/// Bytes that an SPTPS datagram adds to the record data: sequence number 4, type 1, tag 16.
pub const SPTPS_OVERHEAD: usize = sptps::HEAD + TAG;

/// Record type bit: the payload is compressed.
pub const TYPE_COMPRESSED: u8 = 1;
/// Record type bit: the payload starts with its Ethernet header.
pub const TYPE_MAC: u8 = 2;
/// Record type: a probe.
pub const TYPE_PROBE: u8 = 4;
/// Record type, native only: an empty record that proves that its sender has the keys.
pub const TYPE_CONFIRM: u8 = 8;
/// Record type bit, native only: the TCP or UDP checksum of the packet is not computed yet. The
/// AEAD protects the bytes until then (dataplane/data-path.md section 2).
pub const TYPE_VOUCHED: u8 = 16;
/// Record type, native only and never by UDP: a question about a path, or its answer.
pub const TYPE_QUERY: u8 = 32;
/// Record type: a handshake message (never by UDP).
pub const TYPE_HANDSHAKE: u8 = 128;

/// Sending key of one tunnel, shared by the workers and the driver.
///
/// Keys of one session share its sequence counter, so no number is used twice.
#[derive(Debug)]
pub struct TxKey(TxKind);

#[derive(Debug)]
enum TxKind {
    Sptps(sptps::Tx),
    Native(native::Tx),
    Legacy(legacy::Tx),
}

/// A receiving key of one tunnel. Keys of one session share its replay window.
#[derive(Debug)]
pub struct RxKey(RxKind);

#[derive(Debug)]
enum RxKind {
    Sptps(sptps::Rx),
    Native(native::Rx),
    Legacy(legacy::Rx),
}

/// Result of [`RxKey::open`] for a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Sequence number.
    pub seq: u64,
    /// Record type: see the `TYPE_` constants.
    pub kind: u8,
    /// Bytes in front of the record data.
    head: usize,
    /// Bytes behind the record data.
    tail: usize,
    /// Compression level of the record data ([`TYPE_COMPRESSED`]); 0 if the data is not compressed,
    /// or compression was not requested.
    level: u8,
    /// Dialect of the datagram.
    dialect: Dialect,
    /// True if the caller carries frames.
    whole: bool,
}

impl Opened {
    /// Returns the properties of the datagram's dialect.
    #[inline]
    #[must_use]
    pub const fn caps(&self) -> Caps {
        self.dialect.caps()
    }

    /// Returns the same for a caller that carries frames, where the dialect carries only frames.
    #[must_use]
    pub const fn as_frame(mut self) -> Self {
        self.whole = true;
        if matches!(self.kind, 0 | legacy::TYPE_OTHER) && self.caps().frames {
            (self.kind, self.head) = (TYPE_MAC, legacy::NUMBER);
        }
        self
    }

    /// Returns the data of a probe without its padding.
    #[must_use]
    pub fn probe(&self, data: Bytes) -> Bytes {
        let length = data.len().saturating_sub(self.caps().direct_saving);
        data.slice(..length)
    }

    /// Returns the position of the record data in a datagram of `length` bytes.
    #[must_use]
    pub const fn data(&self, length: usize) -> Range<usize> {
        self.head..length - self.tail
    }

    /// Returns true if the record data must be decompressed before use.
    #[must_use]
    pub const fn is_packed(&self) -> bool {
        self.level > 0
    }

    /// Decompresses the data of a [`TYPE_COMPRESSED`] record. Returns the type of the content and
    /// the content; `None` if the data is damaged or too long.
    #[must_use]
    pub fn unpack(&self, data: &[u8]) -> Option<(u8, Vec<u8>)> {
        match self.dialect {
            Dialect::Legacy => legacy::unpack(self.level, data, self.whole),
            Dialect::Sptps | Dialect::Native => {
                let data = compress::unpack(self.level, data, legacy::MAX_UNPACKED)?;
                Some((self.kind & !TYPE_COMPRESSED, data))
            }
        }
    }
}

/// Reason why a datagram was not opened. No data was delivered, and no number was marked. An SPTPS
/// datagram with a bad tag is unchanged; a native one may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than any datagram of this kind.
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
    /// Claims `count` consecutive sequence numbers and returns the first. Returns `None` after the
    /// numbers are used up (SPTPS: 2^32 - 2^13, T10 of proto/threat-model.md; native:
    /// proto/native-link.md section 5). Then only a new session has numbers.
    #[must_use]
    pub fn claim(&self, count: u32) -> Option<u64> {
        match &self.0 {
            TxKind::Sptps(tx) => tx.claim(count).map(u64::from),
            TxKind::Native(tx) => tx.claim(count),
            TxKind::Legacy(tx) => tx.claim(count).map(u64::from),
        }
    }

    /// Returns how many numbers of this session were claimed.
    #[must_use]
    pub fn claimed(&self) -> u64 {
        match &self.0 {
            TxKind::Sptps(tx) => tx.claimed().into(),
            TxKind::Native(tx) => tx.claimed(),
            TxKind::Legacy(tx) => tx.claimed().into(),
        }
    }

    /// Returns true if enough numbers are used that a new session is due: for SPTPS half of them
    /// (2^31, T10 of proto/threat-model.md). [`Tunnel::rekey`] would not help, because it continues
    /// the numbers.
    #[must_use]
    pub fn wants_rekey(&self) -> bool {
        match &self.0 {
            TxKind::Sptps(tx) => tx.wants_renewal(),
            TxKind::Native(tx) => tx.wants_renewal(),
            TxKind::Legacy(tx) => tx.wants_renewal(),
        }
    }

    /// Returns the dialect of the key's packets.
    #[inline]
    #[must_use]
    pub const fn dialect(&self) -> Dialect {
        match self.0 {
            TxKind::Sptps(_) => Dialect::Sptps,
            TxKind::Native(_) => Dialect::Native,
            TxKind::Legacy(_) => Dialect::Legacy,
        }
    }

    /// Returns the properties of the key's packets.
    #[inline]
    #[must_use]
    pub const fn caps(&self) -> Caps {
        self.dialect().caps()
    }

    /// Returns the number of bytes in front of the data of a packet.
    #[must_use]
    pub const fn head(&self) -> usize {
        self.caps().head
    }

    /// Returns the number of bytes that a datagram adds to its record data. Not for legacy keys,
    /// whose overhead depends on the data.
    #[must_use]
    pub const fn overhead(&self) -> usize {
        self.head() + TAG
    }

    /// Seals one record in place. `datagram` is [`Self::head`] bytes, the data, and room for the
    /// tag. The caller has written the data; the rest is written here.
    ///
    /// # Panics
    /// If `datagram` is shorter than [`Self::overhead`], or the key a legacy one: see [`Self::seal_into`].
    pub fn seal(&self, seq: u64, kind: u8, datagram: &mut [u8]) {
        match &self.0 {
            TxKind::Sptps(tx) => {
                let seq = u32::try_from(seq).expect("a number that `claim` gave");
                tx.seal(seq, kind, datagram);
            }
            TxKind::Native(tx) => tx.seal(seq, kind, datagram),
            TxKind::Legacy(_) => unreachable!("legacy packets are sealed by seal_into"),
        }
    }

    /// Seals one record. `room` provides a datagram of the given length, and `write` fills in the
    /// data of `length` bytes. A probe gets its
    /// padding ([`Caps::direct_saving`]).
    pub fn seal_into<'r>(
        &self,
        seq: u64,
        kind: u8,
        length: usize,
        write: impl FnOnce(&mut [u8]),
        room: impl FnOnce(usize) -> &'r mut [u8],
    ) {
        match &self.0 {
            TxKind::Legacy(tx) => {
                let seq = u32::try_from(seq).expect("a number that `claim` gave");
                return tx.seal(seq, kind, length, write, room);
            }
            TxKind::Sptps(tx) => {
                if let Some(packer) = tx.packer(kind) {
                    return self.seal_packed(packer, (seq, kind), length, write, room);
                }
            }
            TxKind::Native(_) => {}
        }
        let padding = match kind {
            TYPE_PROBE => self.caps().direct_saving,
            _ => 0,
        };
        let datagram = room(self.overhead() + length + padding);
        write(&mut datagram[self.head()..][..length]);
        self.seal(seq, kind, datagram);
    }

    /// Works as [`Self::seal_into`], with compression if that makes the data shorter. Source:
    /// wire/tinc-1.1.md section 4.7.
    #[inline(never)] // kept out of the path of most packets, which becomes shorter
    fn seal_packed<'r>(
        &self,
        packer: &Packer,
        (seq, kind): (u64, u8),
        length: usize,
        write: impl FnOnce(&mut [u8]),
        room: impl FnOnce(usize) -> &'r mut [u8],
    ) {
        let mut data = vec![0; length];
        write(&mut data);
        let packed = packer.pack(&data);
        let (kind, data) = match packed.len() < length {
            true => (kind | TYPE_COMPRESSED, packed),
            false => (kind, data),
        };
        let datagram = room(self.overhead() + data.len());
        datagram[self.head()..][..data.len()].copy_from_slice(&data);
        self.seal(seq, kind, datagram);
    }

    /// Seals one record into a datagram of its own, by [`Self::seal_into`].
    #[must_use]
    pub fn sealed(&self, seq: u64, kind: u8, data: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        let write = |room: &mut [u8]| room.copy_from_slice(data);
        self.seal_into(seq, kind, data.len(), write, |length| {
            datagram.resize(length, 0);
            &mut datagram
        });
        datagram
    }

    /// Returns the longest record that fits into a datagram of `datagram` bytes behind ids, in the
    /// lengths of probes.
    #[must_use]
    pub fn longest_record(&self, datagram: usize) -> usize {
        match &self.0 {
            TxKind::Sptps(_) | TxKind::Native(_) => {
                datagram.saturating_sub(HEADER + SPTPS_OVERHEAD)
            }
            TxKind::Legacy(tx) => tx.longest_frame(datagram),
        }
    }

    /// Returns the name of the cipher, for the operator.
    #[must_use]
    pub fn cipher(&self) -> String {
        match &self.0 {
            TxKind::Sptps(_) => "ChaCha20-Poly1305".into(),
            TxKind::Native(tx) => tx.aead().name().into(),
            TxKind::Legacy(tx) => tx.suite().to_string(),
        }
    }

    /// Pretends that all numbers below `seq` were used.
    #[cfg(any(test, feature = "testing"))]
    pub fn fast_forward(&self, seq: u64) {
        match &self.0 {
            TxKind::Sptps(tx) => tx.fast_forward(u32::try_from(seq).expect("32 bits")),
            TxKind::Native(tx) => tx.fast_forward(seq),
            TxKind::Legacy(tx) => tx.fast_forward(u32::try_from(seq).expect("32 bits")),
        }
    }
}

/// Opens a datagram in place, with the key that the datagram names, else with the first matching
/// key. Errors: see [`OpenError`].
pub fn open(keys: &[Arc<RxKey>], datagram: &mut [u8]) -> Result<Opened, OpenError> {
    if let Some(key) = keys.iter().find(|key| key.is_named_by(datagram)) {
        return key.open(datagram);
    }
    let mut result = Err(OpenError::BadTag);
    for key in keys.iter().filter(|key| !key.caps().names_key) {
        result = key.open(datagram);
        if result != Err(OpenError::BadTag) {
            break;
        }
    }
    result
}

impl RxKey {
    /// Checks the datagram, decrypts it in place, and marks the number as seen. On success
    /// [`Opened::data`] is the position of the record data. Errors: see [`OpenError`].
    pub fn open(&self, datagram: &mut [u8]) -> Result<Opened, OpenError> {
        self.open_in(&mut self.window(), datagram)
    }

    /// Locks the session's replay window, to open a run of datagrams with [`Self::open_in`].
    pub fn window(&self) -> MutexGuard<'_, ReplayWindow> {
        let window = match &self.0 {
            RxKind::Sptps(rx) => rx.window(),
            RxKind::Native(rx) => rx.window(),
            RxKind::Legacy(rx) => rx.window(),
        };
        window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works as [`Self::open`], with the key's own [`Self::window`].
    pub fn open_in(
        &self,
        window: &mut ReplayWindow,
        datagram: &mut [u8],
    ) -> Result<Opened, OpenError> {
        match &self.0 {
            RxKind::Sptps(rx) => rx.open(window, datagram),
            RxKind::Native(rx) => rx.open(window, datagram),
            RxKind::Legacy(rx) => rx.open(window, datagram),
        }
    }

    /// Returns true if a datagram names this key. Only native datagrams name a key. The name is
    /// only a claim before the tag is checked.
    #[must_use]
    pub fn is_named_by(&self, datagram: &[u8]) -> bool {
        match &self.0 {
            RxKind::Sptps(_) | RxKind::Legacy(_) => false,
            RxKind::Native(rx) => rx.is_named_by(datagram),
        }
    }

    /// Returns true if enough packets have arrived that another key is due. Always `false` for
    /// dialects whose sender renews.
    #[must_use]
    pub fn wants_renewal(&self) -> bool {
        match &self.0 {
            RxKind::Sptps(_) | RxKind::Native(_) => false,
            RxKind::Legacy(rx) => rx.wants_renewal(),
        }
    }

    /// Returns the properties of the packets that the key opens.
    const fn caps(&self) -> Caps {
        match self.0 {
            RxKind::Sptps(_) => Dialect::Sptps.caps(),
            RxKind::Native(_) => Dialect::Native.caps(),
            RxKind::Legacy(_) => Dialect::Legacy.caps(),
        }
    }

    /// Opens a handshake record. The replay window does not apply to the order of handshake
    /// records.
    fn open_handshake(&self, datagram: &mut [u8]) -> Result<Opened, OpenError> {
        match &self.0 {
            RxKind::Sptps(rx) => rx.open_handshake(&mut self.window(), datagram),
            RxKind::Native(_) | RxKind::Legacy(_) => Err(OpenError::BadTag),
        }
    }

    /// Returns true if a legacy key made the MAC of a datagram, for datagrams of unknown senders.
    /// `None` if packets have no MAC. Other keys never match.
    #[must_use]
    pub fn fits(&self, datagram: &[u8]) -> Option<bool> {
        match &self.0 {
            RxKind::Sptps(_) | RxKind::Native(_) => Some(false),
            RxKind::Legacy(rx) => rx.fits(datagram),
        }
    }

    /// Returns true if this key has opened a datagram yet.
    #[must_use]
    pub fn is_used(&self) -> bool {
        match &self.0 {
            RxKind::Sptps(rx) => rx.is_used(),
            RxKind::Native(rx) => rx.is_used(),
            RxKind::Legacy(rx) => rx.is_used(),
        }
    }
}
