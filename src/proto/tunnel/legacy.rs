//! Packets of tinc 1.0: `encrypt(number 4 | compress(frame)) | MAC`. The receiver makes the key and
//! sends it in ANS_KEY. A key serves one direction; the sender's numbers start at 1.
//!
//! A frame has an Ethernet header that is zero except for the EtherType. A frame whose EtherType is
//! zero as well is a probe. The IV is part of the key and the same for every packet; the number in
//! front makes packets differ. Source: wire/tinc-1.0.md sections 3.1 to 3.6 and 4.1.

use std::{
    fmt,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use meshd_crypto::{
    Rng,
    compress::{self, MAX_LEGACY, Packer},
    replay::ReplayWindow,
    suite::{Cipher, Digest, Mac, Mode},
};
use meshd_sync::{AtomicBool, AtomicU64, Mutex};
use meshd_wire::{
    SuiteNumbers,
    ether::{self, Frame, HEADER, TYPE_V4, TYPE_V6},
};

use crate::dialect::Dialect;
use crate::tunnel::{
    OpenError, Opened, RxKey, RxKind, TYPE_COMPRESSED, TYPE_MAC, TYPE_PROBE, TxKey, TxKind,
};

/// Length of the sequence number in bytes.
pub(super) const NUMBER: usize = 4;
/// Bytes in front of an IP packet.
pub(super) const HEAD: usize = NUMBER + HEADER;
/// Longest frame after decompression, in bytes. Source: wire/tinc-1.0.md section 3.2.
pub(super) const MAX_UNPACKED: usize = 1661;
/// Most bytes that compression adds to an incompressible frame.
const PACKED_MORE: usize = 20;
/// Shortest accepted MAC from another node, in bytes: tinc's default.
pub const MIN_MAC: usize = 4;
/// Limit of sequence numbers: no claim goes beyond it.
const LAST: u64 = (1 << 32) - (1 << 13);
/// Number at which another key is due; real daemons request one too. Source: wire/tinc-1.0.md
/// section 3.6.
const RENEW: u64 = 1 << 30;
/// The same limit for ciphers with blocks of 8 bytes: less than 1 GiB (T05 of
/// proto/threat-model.md).
const RENEW_SHORT: u64 = 1 << 19;
/// Type of a frame whose EtherType is neither that of IP nor of a probe.
pub(super) const TYPE_OTHER: u8 = u8::MAX;

/// Suite of the packets to one node; that node chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suite {
    /// `None`: packets are not encrypted.
    pub cipher: Option<&'static Cipher>,
    /// `None`: packets are not authenticated.
    pub digest: Option<&'static Digest>,
    /// Length of the MAC in bytes, 0 without a digest.
    pub mac: usize,
    /// Compression, 0 to 12.
    pub compression: u8,
}

/// Reason why packets cannot be sent in the suite that a node wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuiteError {
    /// A cipher that meshd lacks, or does not use because its keystream repeats.
    #[error("wants the cipher of OpenSSL's number {0}, which meshd does not use")]
    Cipher(i32),
    /// A digest that meshd lacks.
    #[error("wants the digest of OpenSSL's number {0}, which meshd does not have")]
    Digest(i32),
    /// A MAC length that the digest or meshd does not accept.
    #[error("wants MACs of {0} bytes")]
    Mac(i32),
    /// A compression level that does not exist.
    #[error("wants compression {0}")]
    Compression(i32),
    /// No encryption or no authentication, without consent of our own configuration.
    #[error(
        "wants packets without cipher or digest, which needs `none` in our own host file and in its"
    )]
    Null,
    /// A key whose length does not match the cipher.
    #[error("sent a key of {0} bytes, which does not fit its cipher")]
    Key(usize),
}

impl Suite {
    /// Returns tinc's default suite, but with a MAC of 16 bytes instead of 4.
    ///
    /// # Panics
    /// Never: both names are in the tables.
    #[must_use]
    pub fn default_of_tinc() -> Self {
        Self {
            cipher: Cipher::by_name("aes-256-cbc"),
            digest: Digest::by_name("sha256"),
            mac: 16,
            compression: 0,
        }
    }

    /// Decodes the four numbers of an ANS_KEY.
    ///
    /// # Errors
    /// [`SuiteError`] if we cannot make such packets.
    pub fn from_wire(numbers: SuiteNumbers) -> Result<Self, SuiteError> {
        let SuiteNumbers {
            cipher,
            digest,
            mac_length: mac,
            compression,
        } = numbers;
        let cipher = match cipher {
            0 => None,
            nid => Some(Cipher::by_nid(nid).ok_or(SuiteError::Cipher(nid))?),
        };
        let digest = match digest {
            0 => None,
            nid => Some(Digest::by_nid(nid).ok_or(SuiteError::Digest(nid))?),
        };
        let length = usize::try_from(mac).map_err(|_| SuiteError::Mac(mac))?;
        // Without a digest there is no MAC, whatever length a real daemon sends.
        let length = match digest {
            None => 0,
            Some(digest) if length <= digest.size => length,
            Some(_) => return Err(SuiteError::Mac(mac)),
        };
        let level = u8::try_from(compression)
            .ok()
            .filter(|level| *level <= MAX_LEGACY);
        Ok(Self {
            cipher,
            digest,
            mac: length,
            compression: level.ok_or(SuiteError::Compression(compression))?,
        })
    }

    /// Returns the four numbers for our own ANS_KEY. A MAC length without a digest would make a
    /// tinc 1.1 close the link.
    #[must_use]
    pub fn to_wire(&self) -> SuiteNumbers {
        SuiteNumbers {
            cipher: self.cipher.map_or(0, |cipher| cipher.nid),
            digest: self.digest.map_or(0, |digest| digest.nid),
            mac_length: i32::try_from(self.mac).unwrap_or(0),
            compression: self.compression.into(),
        }
    }

    /// Returns true if packets are not encrypted, or not authenticated.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.cipher.is_none() || self.mac == 0
    }

    /// Returns the length of a key in bytes: with the IV, and one byte without a cipher.
    #[must_use]
    pub fn key(&self) -> usize {
        self.cipher.map_or(1, |cipher| cipher.key + cipher.iv)
    }

    /// Makes a key for packets to us, and its bytes for ANS_KEY. `window`: see
    /// [`ReplayWindow::new`].
    #[must_use]
    pub fn receive(&self, window: u32, rng: &mut Rng) -> (Arc<RxKey>, Vec<u8>) {
        let mut key = vec![0; self.key()];
        rng.fill(&mut key);
        (self.receive_with(&key, window), key)
    }

    /// Works as [`Self::receive`] with a given key.
    ///
    /// # Panics
    /// If `key` has not [`Self::key`] bytes.
    #[must_use]
    pub fn receive_with(&self, key: &[u8], window: u32) -> Arc<RxKey> {
        let mut window = ReplayWindow::new(window);
        window.mark(0); // no packet has this number
        let rx = Rx {
            keys: Keys::new(*self, key),
            window: Mutex::new(window),
            used: AtomicBool::new(false),
        };
        Arc::new(RxKey(RxKind::Legacy(rx)))
    }

    /// Makes the key for packets to a node from its ANS_KEY.
    ///
    /// # Errors
    /// [`SuiteError::Key`] if it has not [`Self::key`] bytes.
    pub fn send(&self, key: &[u8]) -> Result<Arc<TxKey>, SuiteError> {
        if key.len() != self.key() {
            return Err(SuiteError::Key(key.len()));
        }
        let tx = Tx {
            keys: Keys::new(*self, key),
            packer: Packer::new(self.compression),
            next: AtomicU64::new(1),
        };
        Ok(Arc::new(TxKey(TxKind::Legacy(tx))))
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cipher = self.cipher.map_or("none", |cipher| cipher.name);
        let digest = self.digest.map_or("none", |digest| digest.name);
        write!(f, "{cipher} {digest}/{}", self.mac)?;
        match self.compression {
            0 => Ok(()),
            level => write!(f, " compression {level}"),
        }
    }
}

/// Cipher and MAC with their keys.
struct Keys {
    suite: Suite,
    mode: Option<Box<dyn Mode>>,
    iv: Zeroizing<Vec<u8>>,
    mac: Option<Box<dyn Mac>>,
}

impl Keys {
    /// The whole key, with the IV, is also the key of the MAC.
    fn new(suite: Suite, key: &[u8]) -> Self {
        let (own, iv) = key.split_at(suite.cipher.map_or(0, |cipher| cipher.key));
        Self {
            suite,
            mode: suite.cipher.map(|cipher| cipher.with_key(own)),
            iv: Zeroizing::new(iv.to_vec()),
            mac: suite
                .digest
                .filter(|_| suite.mac > 0)
                .map(|digest| digest.with_key(key)),
        }
    }

    fn block(&self) -> usize {
        self.suite.cipher.map_or(1, |cipher| cipher.block)
    }

    /// Returns the length of the padded form of `length` bytes.
    fn padded(&self, length: usize) -> usize {
        match self.block() {
            1 => length,
            block => (length / block + 1) * block,
        }
    }

    /// Pads and encrypts a body of `length` bytes, and appends the MAC. `datagram` has the length
    /// of the result.
    fn seal(&self, length: usize, datagram: &mut [u8]) {
        let (body, mac) = datagram.split_at_mut(self.padded(length));
        // The padding is at most one block of 16.
        let padding = (body.len() - length) as u8;
        body[length..].fill(padding);
        if let Some(mode) = &self.mode {
            mode.encrypt(&self.iv, body);
        }
        if let Some(hmac) = &self.mac {
            mac.copy_from_slice(&hmac.tag(body)[..mac.len()]);
        }
    }

    /// Returns true if the MAC is valid; `None` if the length is impossible.
    fn verify(&self, datagram: &[u8]) -> Option<bool> {
        let body = datagram.len().checked_sub(self.suite.mac)?;
        if body < NUMBER || !body.is_multiple_of(self.block()) {
            return None;
        }
        let (body, mac) = datagram.split_at(body);
        let right = |hmac: &dyn Mac| bool::from(hmac.tag(body)[..mac.len()].ct_eq(mac));
        Some(self.mac.as_deref().is_none_or(right))
    }

    /// Decrypts a body in place. Returns its length without padding, or `None` if the padding is
    /// damaged.
    fn decrypt(&self, body: &mut [u8]) -> Option<usize> {
        let Some(mode) = &self.mode else {
            return Some(body.len());
        };
        mode.decrypt(&self.iv, body);
        if self.block() == 1 {
            return Some(body.len());
        }
        let padding = usize::from(*body.last()?);
        let length = body.len().checked_sub(padding)?;
        let sound = (1..=self.block()).contains(&padding)
            && length >= NUMBER
            && body[length..]
                .iter()
                .all(|byte| usize::from(*byte) == padding);
        sound.then_some(length)
    }
}

/// Sending half of a session.
pub(super) struct Tx {
    keys: Keys,
    packer: Option<Packer>,
    next: AtomicU64,
}

impl Tx {
    pub(super) fn claim(&self, count: u32) -> Option<u32> {
        let claimed = |next: u64| Some(next + u64::from(count)).filter(|end| *end <= LAST);
        let first = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, claimed);
        first.ok().and_then(|first| u32::try_from(first).ok())
    }

    pub(super) fn claimed(&self) -> u32 {
        u32::try_from(self.next.load(Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    pub(super) fn wants_renewal(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= renew_at(&self.keys.suite)
    }

    pub(super) const fn suite(&self) -> &Suite {
        &self.keys.suite
    }

    /// Returns the longest frame whose datagram has at most `datagram` bytes.
    pub(super) fn longest_frame(&self, datagram: usize) -> usize {
        let body = datagram.saturating_sub(self.keys.suite.mac);
        let text = match self.keys.block() {
            1 => body,
            block => (body / block * block).saturating_sub(1),
        };
        let packed = self.packer.as_ref().map_or(0, |_| PACKED_MORE);
        text.saturating_sub(NUMBER + packed)
    }

    /// Works as [`TxKey::seal_into`].
    #[inline(never)] // kept out of the path of other tunnels, which becomes shorter
    pub(super) fn seal<'r>(
        &self,
        seq: u32,
        kind: u8,
        length: usize,
        write: impl FnOnce(&mut [u8]),
        room: impl FnOnce(usize) -> &'r mut [u8],
    ) {
        let header = match kind {
            TYPE_PROBE | TYPE_MAC => 0,
            _ => HEADER,
        };
        let fill = |frame: &mut [u8]| {
            let (ether, data) = frame.split_at_mut(header);
            write(data);
            ether.copy_from_slice(&ether::made_up(data)[..header]);
        };
        if let Some(packer) = &self.packer {
            let mut frame = vec![0; header + length];
            fill(&mut frame);
            let packed = packer.pack(&frame);
            self.finish(
                seq,
                packed.len(),
                |payload| payload.copy_from_slice(&packed),
                room,
            );
        } else {
            self.finish(seq, header + length, fill, room);
        }
    }

    fn finish<'r>(
        &self,
        seq: u32,
        payload: usize,
        fill: impl FnOnce(&mut [u8]),
        room: impl FnOnce(usize) -> &'r mut [u8],
    ) {
        let length = NUMBER + payload;
        let datagram = room(self.keys.padded(length) + self.keys.suite.mac);
        datagram[..NUMBER].copy_from_slice(&seq.to_be_bytes());
        fill(&mut datagram[NUMBER..length]);
        self.keys.seal(length, datagram);
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn fast_forward(&self, seq: u32) {
        self.next.fetch_max(seq.into(), Ordering::Relaxed);
    }
}

/// Receiving half of a session.
pub(super) struct Rx {
    keys: Keys,
    window: Mutex<ReplayWindow>,
    used: AtomicBool,
}

impl Rx {
    pub(super) fn window(&self) -> &Mutex<ReplayWindow> {
        &self.window
    }

    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns true if the MAC is valid; `None` if packets have no MAC.
    pub(super) fn fits(&self, datagram: &[u8]) -> Option<bool> {
        self.keys.mac.as_ref()?;
        Some(self.keys.verify(datagram) == Some(true))
    }

    pub(super) fn open(
        &self,
        window: &mut ReplayWindow,
        datagram: &mut [u8],
    ) -> Result<Opened, OpenError> {
        if self.keys.verify(datagram) != Some(true) {
            return Err(OpenError::BadTag);
        }
        let whole = datagram.len();
        let body = &mut datagram[..whole - self.keys.suite.mac];
        let length = self.keys.decrypt(body).ok_or(OpenError::BadTag)?;
        let (number, frame) = body[..length].split_first_chunk().ok_or(OpenError::Short)?;
        let seq = u32::from_be_bytes(*number).into();
        if !window.accept(seq) {
            return Err(OpenError::Replayed);
        }
        if !self.is_used() {
            self.used.store(true, Ordering::Relaxed);
        }
        let (kind, header) = match self.keys.suite.compression {
            0 => kind_of(frame),
            _ => (TYPE_COMPRESSED, 0),
        };
        Ok(Opened {
            seq,
            kind,
            head: NUMBER + header,
            tail: whole - length,
            level: self.keys.suite.compression,
            dialect: Dialect::Legacy,
            whole: false,
        })
    }

    /// Returns true if enough packets have arrived that another key is due.
    pub(super) fn wants_renewal(&self) -> bool {
        let window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.next() >= renew_at(&self.keys.suite)
    }
}

fn renew_at(suite: &Suite) -> u64 {
    match suite.cipher {
        Some(cipher) if cipher.inner < 16 => RENEW_SHORT,
        _ => RENEW,
    }
}

/// Returns the record type of a frame, and the length of the header that is not part of its data.
fn kind_of(frame: &[u8]) -> (u8, usize) {
    match Frame::parse(frame).map(|frame| frame.first_type()) {
        Some(0) => (TYPE_PROBE, 0),
        Some(TYPE_V4 | TYPE_V6) => (0, HEADER),
        _ => (TYPE_OTHER, 0),
    }
}

pub(super) fn unpack(level: u8, data: &[u8], whole: bool) -> Option<(u8, Vec<u8>)> {
    let mut frame = compress::unpack(level, data, MAX_UNPACKED)?;
    let (kind, header) = match kind_of(&frame) {
        (0 | TYPE_OTHER, _) if whole => (TYPE_MAC, 0),
        other => other,
    };
    frame.drain(..header);
    Some((kind, frame))
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Suite { cipher, digest, .. } = self.keys.suite;
        write!(
            f,
            "legacy sending key {cipher:?} {digest:?}, {} numbers used",
            self.claimed()
        )
    }
}

impl fmt::Debug for Rx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Suite { cipher, digest, .. } = self.keys.suite;
        write!(
            f,
            "legacy receiving key {cipher:?} {digest:?}, used: {}",
            self.is_used()
        )
    }
}
