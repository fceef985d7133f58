//! Per-destination packet keys: SPTPS, native and legacy. Kinds are told apart in this file only.
//!
//! Source: wire/tinc-1.1.md sections 2 and 3.6, wire/tinc-1.0.md section 3, proto/native-link.md.

pub mod legacy;
#[cfg(test)]
#[cfg(feature = "model")]
mod models;
pub mod native;
mod record;
pub mod sptps;
#[cfg(all(feature = "model", any(test, feature = "testing")))]
#[allow(clippy::unwrap_used, missing_docs, reason = "for tests only")]
pub mod testing;
#[cfg(test)]
mod tests;

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

/// Bytes that an SPTPS datagram adds to the record data: sequence number 4, type 1, tag 16.
pub const SPTPS_OVERHEAD: usize = record::HEAD + TAG;

/// Record type bit: the payload is compressed.
pub const TYPE_COMPRESSED: u8 = 1;
/// Record type bit: the payload starts with its Ethernet header.
pub const TYPE_MAC: u8 = 2;
/// Record type: a probe.
pub const TYPE_PROBE: u8 = 4;
/// Record type, native only: nothing but the proof that its sender has the keys.
pub const TYPE_CONFIRM: u8 = 8;
/// Record type bit, native only: the TCP or UDP checksum of the packet is still to be computed; the
/// AEAD vouches for its bytes meanwhile (dataplane/data-path.md section 2).
pub const TYPE_VOUCHED: u8 = 16;
/// Record type, native only and never by UDP: a question about a path, or its answer.
pub const TYPE_QUERY: u8 = 32;
/// Record type: a handshake message (never by UDP).
pub const TYPE_HANDSHAKE: u8 = 128;

/// Bytes that a native datagram has less than one of SPTPS with ids.
const PROBE_PADDING: usize = HEADER + SPTPS_OVERHEAD - native::OVERHEAD;

/// The sending key of one tunnel, shared by the workers and the driver.
///
/// Keys of one session share its sequence counter, so that no number is used twice.
#[derive(Debug)]
pub struct TxKey(TxKind);

#[derive(Debug)]
enum TxKind {
    Sptps(record::Tx),
    Native(native::Tx),
    Legacy(legacy::Tx),
}

/// A receiving key of one tunnel. Keys of one session share its replay window.
#[derive(Debug)]
pub struct RxKey(RxKind);

#[derive(Debug)]
enum RxKind {
    Sptps(record::Rx),
    Native(native::Rx),
    Legacy(legacy::Rx),
}

/// What [`RxKey::open`] found in a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Sequence number.
    pub seq: u64,
    /// Record type: see the `TYPE_` constants.
    pub kind: u8,
    /// Bytes in front of the record data.
    head: usize,
    /// Bytes behind it.
    tail: usize,
    /// How the record data is compressed ([`TYPE_COMPRESSED`]); 0: it is not, or we have not asked for it.
    level: u8,
    /// It came in a legacy packet.
    legacy: bool,
    /// It is for who wants frames.
    whole: bool,
}

impl Opened {
    /// Whether the datagram was a native one.
    #[must_use]
    pub const fn is_native(&self) -> bool {
        self.head == native::HEAD
    }

    /// The same for who wants frames: what came in legacy is one, whatever is in it.
    #[must_use]
    pub const fn as_frame(mut self) -> Self {
        self.whole = true;
        if matches!(self.kind, 0 | legacy::TYPE_OTHER) && self.legacy {
            (self.kind, self.head) = (TYPE_MAC, legacy::NUMBER);
        }
        self
    }

    /// The data of a probe without its [`TxKey::probe_padding`].
    #[must_use]
    pub fn probe(&self, data: Bytes) -> Bytes {
        let padding = if self.is_native() { PROBE_PADDING } else { 0 };
        let length = data.len().saturating_sub(padding);
        data.slice(..length)
    }

    /// Where the record data stands in a datagram of `length` bytes.
    #[must_use]
    pub const fn data(&self, length: usize) -> Range<usize> {
        self.head..length - self.tail
    }

    /// Whether the record data must be unpacked before it means anything.
    #[must_use]
    pub const fn is_packed(&self) -> bool {
        self.level > 0
    }

    /// Unpacks the data of a [`TYPE_COMPRESSED`] record: the type of what is in it, and that. `None` if it is
    /// damaged or too long.
    #[must_use]
    pub fn unpack(&self, data: &[u8]) -> Option<(u8, Vec<u8>)> {
        match self.legacy {
            true => legacy::unpack(self.level, data, self.whole),
            false => {
                let data = compress::unpack(self.level, data, legacy::MAX_UNPACKED)?;
                Some((self.kind & !TYPE_COMPRESSED, data))
            }
        }
    }
}

/// Why a datagram was not opened. Nothing was delivered and nothing marked; an SPTPS datagram with a
/// bad tag is as it was, a native one may be spoilt.
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
    /// Claims `count` consecutive sequence numbers and returns the first.
    /// `None` once the numbers are used up (SPTPS: 2^32 - 2^13, T10 of proto/threat-model.md; native:
    /// proto/native-link.md section 5): only a new session has numbers again.
    #[must_use]
    pub fn claim(&self, count: u32) -> Option<u64> {
        match &self.0 {
            TxKind::Sptps(tx) => tx.claim(count).map(u64::from),
            TxKind::Native(tx) => tx.claim(count),
            TxKind::Legacy(tx) => tx.claim(count).map(u64::from),
        }
    }

    /// How many numbers of this session were claimed.
    #[must_use]
    pub fn claimed(&self) -> u64 {
        match &self.0 {
            TxKind::Sptps(tx) => tx.claimed().into(),
            TxKind::Native(tx) => tx.claimed(),
            TxKind::Legacy(tx) => tx.claimed().into(),
        }
    }

    /// Whether so many numbers are used that it is time for a new session: half of them for SPTPS (2^31,
    /// T10 of proto/threat-model.md), where [`Tunnel::rekey`] would not help, as it goes on counting.
    #[must_use]
    pub fn wants_rekey(&self) -> bool {
        match &self.0 {
            TxKind::Sptps(tx) => tx.wants_renewal(),
            TxKind::Native(tx) => tx.wants_renewal(),
            TxKind::Legacy(tx) => tx.wants_renewal(),
        }
    }

    /// Whether the tunnel is a native one: its datagrams need no ids where they go straight to the
    /// other end.
    #[must_use]
    pub const fn is_native(&self) -> bool {
        matches!(self.0, TxKind::Native(_))
    }

    /// Whether the key is one of the legacy protocol.
    #[must_use]
    pub const fn is_legacy(&self) -> bool {
        matches!(self.0, TxKind::Legacy(_))
    }

    /// Bytes in front of the data of a packet.
    #[must_use]
    pub const fn head(&self) -> usize {
        match &self.0 {
            TxKind::Sptps(_) => record::HEAD,
            TxKind::Native(_) => native::HEAD,
            TxKind::Legacy(_) => legacy::HEAD,
        }
    }

    /// Bytes that a datagram adds to its record data; not for legacy keys, where that depends on the data.
    #[must_use]
    pub const fn overhead(&self) -> usize {
        self.head() + TAG
    }

    /// Bytes that go behind the data of a probe. Lengths that probes prove are those of SPTPS records
    /// behind ids, whatever the tunnel: the datagram must be as long as theirs.
    #[must_use]
    pub const fn probe_padding(&self) -> usize {
        match &self.0 {
            TxKind::Sptps(_) | TxKind::Legacy(_) => 0,
            TxKind::Native(_) => PROBE_PADDING,
        }
    }

    /// Seals one record in place. `datagram` is [`Self::head`] bytes, the data, and room for the tag; the
    /// caller has written the data; all else is written here.
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

    /// Seals one record where `room` makes place for a datagram: `write` puts its data of `length` bytes there.
    /// A probe gets its [`Self::probe_padding`].
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
            TYPE_PROBE => self.probe_padding(),
            _ => 0,
        };
        let datagram = room(self.overhead() + length + padding);
        write(&mut datagram[self.head()..][..length]);
        self.seal(seq, kind, datagram);
    }

    /// As [`Self::seal_into`], compressed where that makes the data shorter. Source: wire/tinc-1.1.md section 4.7.
    #[inline(never)] // the way of most packets is shorter without it
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

    /// One record sealed, in a datagram of its own: [`Self::seal_into`].
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

    /// The longest record that fits into a datagram of `datagram` bytes behind ids, as probes count it.
    #[must_use]
    pub fn longest_record(&self, datagram: usize) -> usize {
        match &self.0 {
            TxKind::Sptps(_) | TxKind::Native(_) => {
                datagram.saturating_sub(HEADER + SPTPS_OVERHEAD)
            }
            TxKind::Legacy(tx) => tx.longest_frame(datagram),
        }
    }

    /// Name of the cipher, for the operator.
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

/// Opens a datagram in place with that of `keys` that it names, or else with the first that fits.
/// Errors: see [`OpenError`].
pub fn open(keys: &[Arc<RxKey>], datagram: &mut [u8]) -> Result<Opened, OpenError> {
    if let Some(key) = keys.iter().find(|key| key.is_named_by(datagram)) {
        return key.open(datagram);
    }
    let mut result = Err(OpenError::BadTag);
    for key in keys.iter().filter(|key| !key.is_native()) {
        result = key.open(datagram);
        if result != Err(OpenError::BadTag) {
            break;
        }
    }
    result
}

impl RxKey {
    /// Checks, decrypts in place and marks the number as seen. On success [`Opened::data`] says where
    /// the record data is. Errors: see [`OpenError`].
    pub fn open(&self, datagram: &mut [u8]) -> Result<Opened, OpenError> {
        self.open_in(&mut self.window(), datagram)
    }

    /// The numbers that the session has seen, locked: to open a run of datagrams with [`Self::open_in`].
    pub fn window(&self) -> MutexGuard<'_, ReplayWindow> {
        let window = match &self.0 {
            RxKind::Sptps(rx) => rx.window(),
            RxKind::Native(rx) => rx.window(),
            RxKind::Legacy(rx) => rx.window(),
        };
        window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Self::open`], with the key's own [`Self::window`].
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

    /// Whether a datagram says that it is for this key. Only native ones say; before the tag is
    /// checked, it is no more than a claim.
    #[must_use]
    pub fn is_named_by(&self, datagram: &[u8]) -> bool {
        match &self.0 {
            RxKind::Sptps(_) | RxKind::Legacy(_) => false,
            RxKind::Native(rx) => rx.is_named_by(datagram),
        }
    }

    /// Whether so many packets have come that another key is due; always `false` for kinds whose sender asks.
    #[must_use]
    pub fn wants_renewal(&self) -> bool {
        match &self.0 {
            RxKind::Sptps(_) | RxKind::Native(_) => false,
            RxKind::Legacy(rx) => rx.wants_renewal(),
        }
    }

    /// Whether this is a native key.
    const fn is_native(&self) -> bool {
        matches!(self.0, RxKind::Native(_))
    }

    /// Opens a handshake record, whose order is not the replay window's business.
    fn open_handshake(&self, datagram: &mut [u8]) -> Result<Opened, OpenError> {
        match &self.0 {
            RxKind::Sptps(rx) => rx.open_handshake(&mut self.window(), datagram),
            RxKind::Native(_) | RxKind::Legacy(_) => Err(OpenError::BadTag),
        }
    }

    /// Whether a legacy key made the MAC of a datagram, whose sender nothing else tells; `None` where packets have
    /// none. Other keys never fit.
    #[must_use]
    pub fn fits(&self, datagram: &[u8]) -> Option<bool> {
        match &self.0 {
            RxKind::Sptps(_) | RxKind::Native(_) => Some(false),
            RxKind::Legacy(rx) => rx.fits(datagram),
        }
    }

    /// Whether this key has opened a datagram yet.
    #[must_use]
    pub fn is_used(&self) -> bool {
        match &self.0 {
            RxKind::Sptps(rx) => rx.is_used(),
            RxKind::Native(rx) => rx.is_used(),
            RxKind::Legacy(rx) => rx.is_used(),
        }
    }
}
