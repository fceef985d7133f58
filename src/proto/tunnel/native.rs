//! Native tunnels: Noise IKpsk2 in two messages that travel in meta lines, then packets under the
//! resulting keys. Each session has one key per direction, numbers from 0, and a replay window.
//!
//! ```text
//! msg1    index 4 | AEADs 1 | Noise message without payload
//! msg2    index of the initiator 4 | Noise message: index of the responder 4, AEAD 1
//! packet  0x80 + type 1 | zero 3 | receiver's index 4 | number 8 | C(data) | tag 16
//! ```
//!
//! All integers are big endian. The first five bytes of msg1 are part of the prologue. The first
//! sixteen bytes of a packet are its associated data. An index names a session to its receiver,
//! which has chosen the index.
//!
//! A packet cannot be mistaken for another datagram. Behind ids, no SPTPS number has its highest
//! bit set in practice. Without ids, a node id would have to begin with 0x80 to 0xff and three zero
//! bytes, a chance of 2^-25 per node. The id's other bytes would also have to be the index of a
//! session. Source: proto/native-link.md sections 2 to 5.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use meshd_crypto::{
    Rng,
    aead::{BadTag, TAG},
    noise::{self, Begun, Parties, Purpose, Refused, SessionKeys, StaticPublic, StaticSecret},
    replay::ReplayWindow,
    seal::{Aead, Aeads, SealKey},
};
use meshd_sync::{AtomicBool, AtomicU64, Mutex};
use meshd_wire::NodeName;

use crate::dialect::Dialect;
use crate::tunnel::{OpenError, Opened, RxKey, RxKind, TxKey, TxKind};

/// Bytes in front of the record data.
pub const HEAD: usize = 16;
/// Bytes that a native datagram adds to its record data.
pub const OVERHEAD: usize = HEAD + TAG;
/// First byte of every native packet, without its type.
const MARK: u8 = 0x80;
/// Number of packets that the replay window remembers. Source: proto/native-link.md section 5.
const WINDOW: u32 = 8_192;
/// Length of the clear part of the first message: index and AEADs.
const CLEAR: usize = 5;

/// Configuration of one end of a tunnel.
#[derive(Clone)]
pub struct Setup {
    /// Our X25519 secret.
    pub secret: Arc<StaticSecret>,
    /// Our name.
    pub name: NodeName,
    /// Name of the other node.
    pub peer: NodeName,
    /// Keys that the other node may have, most likely first.
    pub peer_keys: Vec<StaticPublic>,
    /// Preshared key of the pair; all zero if there is none.
    pub psk: [u8; 32],
    /// AEADs that we accept.
    pub aeads: Aeads,
}

/// Keys of both directions, ready to use.
#[derive(Debug, Clone)]
pub struct Session {
    /// Sending key.
    pub tx: Arc<TxKey>,
    /// Receiving key.
    pub rx: Arc<RxKey>,
    /// Index by which the other end names the session to us.
    pub index: u32,
}

/// Our handshake, which waits for its answer.
pub struct Asking {
    begun: Begun,
    index: u32,
    aeads: Aeads,
}

/// Starts a handshake. `index` is the index by which the other end will name the session to us.
/// `turn` counts attempts, so that each of the other node's keys is tried. Returns the first
/// message; `None` if the node has no key.
#[must_use]
pub fn ask(setup: &Setup, index: u32, turn: usize, rng: &mut Rng) -> Option<(Asking, Vec<u8>)> {
    let peer = setup.peer_keys.get(turn % setup.peer_keys.len().max(1))?;
    let mut clear = [0; CLEAR];
    clear[..4].copy_from_slice(&index.to_be_bytes());
    clear[4] = setup.aeads.0;
    let context = [&clear[..]];
    let parties = setup.parties([&setup.name, &setup.peer], &context);
    let (begun, message) = noise::begin(&parties, peer, &[], rng);
    let asking = Asking {
        begun,
        index,
        aeads: setup.aeads,
    };
    Some((asking, [&clear, &message[..]].concat()))
}

/// Returns the ephemeral key of a first message, which identifies the message. `None` if the
/// message is too short.
#[must_use]
pub fn ephemeral(message: &[u8]) -> Option<&[u8; 32]> {
    message.get(CLEAR..)?.first_chunk()
}

/// Answers a first message. `index` is the index by which the other end will name the session to
/// us. The session may receive at once. The session sends only after it has received
/// ([`RxKey::is_used`]), because the message may be an old one.
///
/// # Errors
/// [`Refused`] if the message was not made for us by that node, or no AEAD suits both.
pub fn answer(
    setup: &Setup,
    index: u32,
    message: &[u8],
    rng: &mut Rng,
) -> Result<(Session, Vec<u8>), Refused> {
    let (clear, message) = message.split_first_chunk::<CLEAR>().ok_or(Refused)?;
    let [theirs @ .., aeads] = clear;
    let aead = setup.aeads.best(Aeads(*aeads)).ok_or(Refused)?;
    let context = [&clear[..]];
    let parties = setup.parties([&setup.peer, &setup.name], &context);
    let (asked, _) = noise::asked(&parties, &setup.peer_keys, message, rng)?;
    let mut payload = [Aeads::only(aead).0; CLEAR];
    payload[..4].copy_from_slice(&index.to_be_bytes());
    let (message, keys) = asked.answer(&payload);
    let session = Session::new(aead, &keys, index, u32::from_be_bytes(*theirs));
    Ok((session, [&theirs[..], &message].concat()))
}

impl Asking {
    /// Returns the index by which the other end will name the session.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Takes the answer. The session may send and receive at once.
    ///
    /// # Errors
    /// The handshake as it was, if this is no answer to it: the true one may still come. Nothing, if it is
    /// the answer and chooses what we did not offer.
    pub fn answered(mut self, message: &[u8]) -> Result<Session, Option<Self>> {
        let Some((index, message)) = message.split_first_chunk() else {
            return Err(Some(self));
        };
        if u32::from_be_bytes(*index) != self.index {
            return Err(Some(self));
        }
        match self.begun.answered(message) {
            Ok((payload, keys)) => {
                let (theirs, choice) = payload.split_first_chunk().ok_or(None)?;
                let aead = self.aeads.chosen(choice).ok_or(None)?;
                let theirs = u32::from_be_bytes(*theirs);
                Ok(Session::new(aead, &keys, self.index, theirs))
            }
            Err((begun, Refused)) => {
                self.begun = begun;
                Err(Some(self))
            }
        }
    }
}

impl Setup {
    fn parties<'a>(
        &'a self,
        [initiator, responder]: [&'a NodeName; 2],
        context: &'a [&'a [u8]],
    ) -> Parties<'a> {
        Parties {
            purpose: Purpose::Tunnel,
            initiator,
            responder,
            context,
            psk: &self.psk,
            secret: &self.secret,
        }
    }
}

impl Session {
    pub(super) fn new(aead: Aead, keys: &SessionKeys, ours: u32, theirs: u32) -> Self {
        let tx = Tx {
            key: SealKey::new(aead, &keys.tx),
            index: theirs,
            next: AtomicU64::new(0),
        };
        let rx = Rx {
            key: SealKey::new(aead, &keys.rx),
            start: start(ours),
            window: Mutex::new(ReplayWindow::new(WINDOW)),
            used: AtomicBool::new(false),
        };
        Self {
            tx: Arc::new(TxKey(TxKind::Native(tx))),
            rx: Arc::new(RxKey(RxKind::Native(rx))),
            index: ours,
        }
    }
}

/// Returns the index of the session that a datagram without ids names. `None` if the datagram is no
/// native packet.
#[must_use]
pub fn index_of(datagram: &[u8]) -> Option<u32> {
    let head: &[u8; HEAD] = datagram.first_chunk()?;
    let [kind, zero @ .., a, b, c, d] = head.first_chunk::<8>()?;
    (kind & MARK != 0 && *zero == [0; 3]).then(|| u32::from_be_bytes([*a, *b, *c, *d]))
}

/// Returns the bytes behind the type of a packet with this index.
fn start(index: u32) -> [u8; 7] {
    let mut start = [0; 7];
    start[3..].copy_from_slice(&index.to_be_bytes());
    start
}

/// Sending half of a session.
pub(super) struct Tx {
    key: SealKey,
    /// Index by which the other end knows the session.
    index: u32,
    next: AtomicU64,
}

impl Tx {
    pub(super) fn claim(&self, count: u32) -> Option<u64> {
        let (_, refuse) = limits(self.aead());
        let count = u64::from(count);
        // This check keeps refused claims from wrapping the counter.
        if self.claimed() + count > refuse {
            return None;
        }
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        (first + count <= refuse).then_some(first)
    }

    pub(super) fn claimed(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    pub(super) fn wants_renewal(&self) -> bool {
        self.claimed() >= limits(self.aead()).0
    }

    pub(super) const fn aead(&self) -> Aead {
        self.key.aead()
    }

    pub(super) fn seal(&self, seq: u64, kind: u8, datagram: &mut [u8]) {
        let (head, text) = datagram
            .split_first_chunk_mut::<HEAD>()
            .expect("the caller leaves room for the header");
        head[0] = MARK | kind;
        head[1..8].copy_from_slice(&start(self.index));
        head[8..].copy_from_slice(&seq.to_be_bytes());
        self.key.seal(seq, head, text);
    }

    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn fast_forward(&self, seq: u64) {
        self.next.fetch_max(seq, Ordering::Relaxed);
    }
}

/// Number of packets of one key after which a new session is due, and after which no more are
/// sealed. Packets are shorter than 2 KiB. Source: proto/native-link.md section 5.
const fn limits(aead: Aead) -> (u64, u64) {
    match aead {
        Aead::Aes256Gcm => (1 << 27, 1 << 28),
        // The second limit is below any number that the replay window rejects.
        Aead::ChaCha20Poly1305 => (1 << 60, 1 << 61),
    }
}

/// Receiving half of a session.
pub(super) struct Rx {
    key: SealKey,
    /// Bytes 1 to 7 of the session's packets.
    start: [u8; 7],
    window: Mutex<ReplayWindow>,
    used: AtomicBool,
}

impl Rx {
    pub(super) fn is_named_by(&self, datagram: &[u8]) -> bool {
        datagram.len() >= OVERHEAD && datagram[0] & MARK != 0 && datagram[1..8] == self.start
    }

    pub(super) const fn window(&self) -> &Mutex<ReplayWindow> {
        &self.window
    }

    pub(super) fn open(
        &self,
        window: &mut ReplayWindow,
        datagram: &mut [u8],
    ) -> Result<Opened, OpenError> {
        if datagram.len() < OVERHEAD {
            return Err(OpenError::Short);
        }
        if !self.is_named_by(datagram) {
            return Err(OpenError::BadTag);
        }
        let (head, text) = datagram
            .split_first_chunk_mut::<HEAD>()
            .expect("as long as a header at least");
        let seq = head.last_chunk().expect("16 is more than 8");
        let seq = u64::from_be_bytes(*seq);
        self.key
            .open(seq, head, text)
            .map_err(|BadTag| OpenError::BadTag)?;
        if seq == u64::MAX || !window.accept(seq) {
            return Err(OpenError::Replayed);
        }
        // The flag is usually set already, and a load costs less than a store.
        if !self.is_used() {
            self.used.store(true, Ordering::Relaxed);
        }
        Ok(Opened {
            seq,
            kind: head[0] & !MARK,
            head: HEAD,
            tail: TAG,
            level: 0,
            dialect: Dialect::Native,
            whole: false,
        })
    }

    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.claimed();
        write!(f, "native sending {:?}, {used} numbers used", self.key)
    }
}

impl fmt::Debug for Rx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "native receiving {:?}, used: {}",
            self.key,
            self.is_used()
        )
    }
}

#[cfg(test)]
mod tests;
