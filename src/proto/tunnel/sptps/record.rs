//! SPTPS datagram records: `seqno(4) | C(type(1) | data) | tag(16)`. Source:
//! wire/tinc-1.1.md section 2.1.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use meshd_crypto::{
    aead::{self, TAG},
    compress::Packer,
    replay::ReplayWindow,
    sptps::Key,
};
use meshd_sync::{AtomicBool, AtomicU64, Mutex};

use crate::dialect::Dialect;
use crate::tunnel::{OpenError, Opened, SPTPS_OVERHEAD, TYPE_COMPRESSED, TYPE_MAC};

/// Bytes of number and type in front of the data.
pub(in crate::tunnel) const HEAD: usize = 5;
/// Limit of numbers for data; higher numbers are reserved for handshake records. Source: T10 of
/// proto/threat-model.md.
const LAST_FOR_DATA: u64 = (1 << 32) - (1 << 13);
/// Limit for the start of a handshake; the few records of a running one still fit.
const LAST_FOR_HANDSHAKE: u64 = (1 << 32) - 16;
/// Number at which a new session is due. Source: T10 of proto/threat-model.md.
const WANTS_RENEWAL: u64 = 1 << 31;

/// Sequence numbers of one direction of a session. A rekey continues them.
#[derive(Debug)]
pub(in crate::tunnel) struct Counter(AtomicU64);

impl Counter {
    /// Starts at 0: the clear-text handshake records count as well.
    pub(in crate::tunnel) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(0)))
    }

    /// Claims numbers for data. No number is handed out twice. A refused claim takes none of the
    /// numbers reserved for handshakes, however many threads claim at once.
    fn claim(&self, count: u32) -> Option<u32> {
        let claimed = |next: u64| Some(next + u64::from(count)).filter(|end| *end <= LAST_FOR_DATA);
        let first = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, claimed);
        first.ok().and_then(|first| u32::try_from(first).ok())
    }

    /// Returns true if numbers for handshake records are left.
    pub(in crate::tunnel) fn has_room(&self) -> bool {
        self.0.load(Ordering::Relaxed) < LAST_FOR_HANDSHAKE
    }

    /// Claims a number for a handshake record, from the reserve if necessary. Check
    /// [`Self::has_room`] first.
    pub(in crate::tunnel) fn claim_for_handshake(&self) -> u32 {
        let seq = self.0.fetch_add(1, Ordering::Relaxed);
        u32::try_from(seq).expect("the caller asked for room")
    }

    fn claimed(&self) -> u32 {
        u32::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    fn wants_renewal(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= WANTS_RENEWAL
    }

    #[cfg(any(test, feature = "testing"))]
    fn fast_forward(&self, seq: u32) {
        self.0.fetch_max(seq.into(), Ordering::Relaxed);
    }
}

/// Sending half of a session.
pub(in crate::tunnel) struct Tx {
    key: Key,
    counter: Arc<Counter>,
    packer: Option<Arc<Packer>>,
}

impl Tx {
    pub(in crate::tunnel) fn new(
        key: Key,
        counter: Arc<Counter>,
        packer: Option<Arc<Packer>>,
    ) -> Self {
        Self {
            key,
            counter,
            packer,
        }
    }

    /// Returns the compressor for packets of this type, if the other end requested compression.
    pub(in crate::tunnel) fn packer(&self, kind: u8) -> Option<&Packer> {
        self.packer
            .as_deref()
            .filter(|_| matches!(kind, 0 | TYPE_MAC))
    }

    pub(in crate::tunnel) fn claim(&self, count: u32) -> Option<u32> {
        self.counter.claim(count)
    }

    pub(in crate::tunnel) fn claimed(&self) -> u32 {
        self.counter.claimed()
    }

    pub(in crate::tunnel) fn wants_renewal(&self) -> bool {
        self.counter.wants_renewal()
    }

    pub(in crate::tunnel) fn seal(&self, seq: u32, kind: u8, datagram: &mut [u8]) {
        let (number, record) = datagram
            .split_first_chunk_mut()
            .expect("the caller leaves room for the number");
        *number = seq.to_be_bytes();
        record[0] = kind;
        aead::seal(&self.key, seq, record);
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn fast_forward(&self, seq: u32) {
        self.counter.fast_forward(seq);
    }
}

/// Receiving half of a session.
pub(in crate::tunnel) struct Rx {
    key: Key,
    window: Arc<Mutex<ReplayWindow>>,
    /// Compression level that we requested.
    level: u8,
    used: AtomicBool,
}

impl Rx {
    pub(in crate::tunnel) fn new(key: Key, window: Arc<Mutex<ReplayWindow>>, level: u8) -> Self {
        Self {
            key,
            window,
            level,
            used: AtomicBool::new(false),
        }
    }

    pub(in crate::tunnel) fn window(&self) -> &Mutex<ReplayWindow> {
        &self.window
    }

    pub(in crate::tunnel) fn open(
        &self,
        window: &mut ReplayWindow,
        datagram: &mut [u8],
    ) -> Result<Opened, OpenError> {
        let seq = self.decrypt(datagram)?;
        if !window.accept(seq.into()) {
            return Err(OpenError::Replayed);
        }
        self.used.store(true, Ordering::Relaxed);
        let kind = datagram[HEAD - 1];
        let packed = matches!(kind & !TYPE_MAC, TYPE_COMPRESSED);
        Ok(Opened {
            seq: seq.into(),
            kind,
            head: HEAD,
            tail: TAG,
            level: if packed { self.level } else { 0 },
            dialect: Dialect::Sptps,
            whole: false,
        })
    }

    /// Opens a handshake record without the replay check, and marks its number.
    ///
    /// Handshake records travel by TCP, and data by UDP may overtake them by more than the window.
    /// So a separate rule orders them: see [`super::Tunnel`].
    pub(in crate::tunnel) fn open_handshake(
        &self,
        window: &mut ReplayWindow,
        datagram: &mut [u8],
    ) -> Result<Opened, OpenError> {
        let seq = self.decrypt(datagram)?;
        window.mark(seq.into());
        self.used.store(true, Ordering::Relaxed);
        Ok(Opened {
            seq: seq.into(),
            kind: datagram[HEAD - 1],
            head: HEAD,
            tail: TAG,
            level: 0,
            dialect: Dialect::Sptps,
            whole: false,
        })
    }

    pub(in crate::tunnel) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    fn decrypt(&self, datagram: &mut [u8]) -> Result<u32, OpenError> {
        if datagram.len() < SPTPS_OVERHEAD {
            return Err(OpenError::Short);
        }
        let (number, record) = datagram.split_first_chunk_mut().expect("21 bytes at least");
        let seq = u32::from_be_bytes(*number);
        aead::open(&self.key, seq, record).map_err(|aead::BadTag| OpenError::BadTag)?;
        Ok(seq)
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SPTPS sending key, {} numbers used", self.claimed())
    }
}

impl fmt::Debug for Rx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SPTPS receiving key, used: {}", self.is_used())
    }
}
