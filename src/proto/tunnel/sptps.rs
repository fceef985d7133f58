//! Control half of one SPTPS tunnel: handshake and rekey, by datagrams that travel in meta lines.
//!
//! ```text
//! first, in clear     I: KEX   R: KEX   I: SIG   R: SIG, ready   I: ready
//! rekey, encrypted    either: KEX   other: KEX   I: SIG   R: SIG, ACK, new tx   I: ACK, new tx
//! ```
//!
//! Handshake records arrive by TCP and data by UDP, so either may overtake the other. No packet is
//! lost: both receiving keys are tried from the time both KEXes are known until a packet under the
//! new key arrives. Handshake records have an order of their own, by rising numbers, regardless of
//! the replay window. Source: wire/tinc-1.1.md sections 2.3, 2.6 and 3.6.

mod record;

use std::{mem, sync::Arc};

use meshd_crypto::{
    PrivateKey, PublicKey, Rng,
    aead::TAG,
    compress::Packer,
    replay::ReplayWindow,
    sptps::{Agreement, HandshakeError, Kex, Key, Offer, Parties, Role, tunnel_label},
};
use meshd_sync::Mutex;
use meshd_wire::NodeName;

use crate::tunnel::{OpenError, RxKey, RxKind, SPTPS_OVERHEAD, TYPE_HANDSHAKE, TxKey, TxKind};

pub(super) use record::{Counter, HEAD, Rx, Tx};

/// Most receiving keys at a time: the previous, the current and the next one.
const MAX_RX: usize = 3;

/// Configuration of both ends of a tunnel.
#[derive(Clone)]
pub struct TunnelSetup {
    /// Our private key.
    pub key: Arc<PrivateKey>,
    /// Our name.
    pub name: NodeName,
    /// Name of the other node.
    pub peer: NodeName,
    /// Public key of the other node.
    pub peer_key: PublicKey,
    /// Another accepted key of the other node (Ed25519PublicKeyNext).
    pub next_key: Option<PublicKey>,
    /// Size of the replay window in packets; 0 disables the check.
    pub replay_window: u32,
    /// Compression level that we request, 0 to 12, as in our ANS_KEY lines.
    pub compression: u8,
}

/// Reason why a handshake datagram was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// The message or number is not the expected one.
    #[error("unexpected handshake message")]
    Unexpected,
    /// A message of the wrong length or version.
    #[error("malformed handshake message")]
    Malformed,
    /// The signature does not verify with the key in the host file.
    #[error("signature does not match the key in the host file")]
    BadSignature,
    /// A record that the current keys do not open.
    #[error("handshake message under a wrong key")]
    BadTag,
    /// The other end starts a rekey too early.
    #[error("a rekey too soon after the one before")]
    TooSoon,
    /// No sequence numbers are left for an answer: only a new session helps.
    #[error("the sequence numbers of the session are used up")]
    Exhausted,
}

/// Session of one tunnel, from the first KEX through any number of rekeys.
///
/// Datagrams that the methods return travel to the other end in meta lines, in order. The very
/// first one of the initiator is in REQ_KEY (extension 15), all others are in ANS_KEY.
pub struct Tunnel {
    parties: Parties,
    counter: Arc<Counter>,
    window: Arc<Mutex<ReplayWindow>>,
    compression: u8,
    /// Compressor for packets under later keys.
    packer: Option<Arc<Packer>>,
    stage: Stage,
    tx: Option<Arc<TxKey>>,
    /// Oldest first.
    rx: Vec<Arc<RxKey>>,
    /// Lowest number of the next handshake record; in clear text its exact number.
    next_handshake: u64,
}

enum Stage {
    /// First handshake, initiator: our KEX is sent.
    FirstKex(Offer),
    /// First handshake: both KEXes are known, the initiator's SIG is sent.
    FirstSig(Agreement),
    /// Data is exchanged, and no rekey is in progress.
    Ready,
    /// Our KEX for a rekey is sent.
    RekeyKex(Offer),
    /// Both KEXes are known, the next receiving key is installed, the initiator's SIG is sent.
    RekeySig(Agreement, Key),
    /// We send with the new key; the other end's ACK is expected.
    RekeyAck,
}

impl Tunnel {
    /// Starts a session as initiator. Returns the first datagram (our KEX).
    #[must_use]
    pub fn initiate(setup: TunnelSetup, rng: &mut Rng) -> (Self, Vec<u8>) {
        Self::initiate_with(setup, Offer::new(rng))
    }

    pub(super) fn initiate_with(setup: TunnelSetup, offer: Offer) -> (Self, Vec<u8>) {
        let label = tunnel_label(&setup.name, &setup.peer);
        let kex = *offer.kex();
        let tunnel = Self::new(setup, Role::Initiator, label, Stage::FirstKex(offer), 0);
        let datagram = tunnel.record(&kex);
        (tunnel, datagram)
    }

    /// Answers the initiator's KEX datagram. Returns our KEX datagram.
    pub fn respond(
        setup: TunnelSetup,
        kex: &[u8],
        rng: &mut Rng,
    ) -> Result<(Self, Vec<u8>), TunnelError> {
        Self::respond_with(setup, kex, || Offer::new(rng))
    }

    pub(super) fn respond_with(
        setup: TunnelSetup,
        kex: &[u8],
        offer: impl FnOnce() -> Offer,
    ) -> Result<(Self, Vec<u8>), TunnelError> {
        let theirs = Kex::parse(clear(kex, 0)?)?;
        let label = tunnel_label(&setup.peer, &setup.name);
        let offer = offer();
        let kex = *offer.kex();
        let stage = Stage::FirstSig(offer.with(theirs));
        let tunnel = Self::new(setup, Role::Responder, label, stage, 1);
        let datagram = tunnel.record(&kex);
        Ok((tunnel, datagram))
    }

    fn new(
        setup: TunnelSetup,
        role: Role,
        label: Vec<u8>,
        stage: Stage,
        next_handshake: u64,
    ) -> Self {
        Self {
            parties: Parties {
                role,
                key: setup.key,
                peer_key: setup.peer_key,
                next_key: setup.next_key,
                label,
            },
            counter: Counter::new(),
            window: Arc::new(Mutex::new(ReplayWindow::new(setup.replay_window))),
            compression: setup.compression,
            packer: None,
            stage,
            tx: None,
            rx: Vec::new(),
            next_handshake,
        }
    }

    /// Returns the compression level that we request.
    #[must_use]
    pub const fn compression(&self) -> u8 {
        self.compression
    }

    /// Sets the compression level that the other end requests in its ANS_KEY lines, from the next
    /// key on. An unsupported level counts as 0.
    pub fn compress_with(&mut self, level: u8) {
        if self.packer.as_ref().map_or(0, |packer| packer.level()) != level {
            self.packer = Packer::new(level).map(Arc::new);
        }
    }

    /// Handles a handshake datagram from an ANS_KEY line. Returns the datagrams to send back, in
    /// order. Read [`Self::tx`] and [`Self::rx`] again afterwards. On an error the session is
    /// unchanged.
    pub fn receive(&mut self, datagram: &[u8], rng: &mut Rng) -> Result<Vec<Vec<u8>>, TunnelError> {
        self.receive_with(datagram, || Some(Offer::new(rng)))
    }

    /// Works as [`Self::receive`], but the other end may not start a rekey now
    /// ([`TunnelError::TooSoon`]).
    pub fn receive_no_rekey(&mut self, datagram: &[u8]) -> Result<Vec<Vec<u8>>, TunnelError> {
        self.receive_with(datagram, || None)
    }

    /// Returns true if a handshake datagram was sealed with the keys of the session and is not an
    /// old one.
    #[must_use]
    pub fn is_authentic(&self, datagram: &[u8]) -> bool {
        self.open(&mut datagram.to_vec()).is_ok()
    }

    pub(super) fn receive_with(
        &mut self,
        datagram: &[u8],
        offer: impl FnOnce() -> Option<Offer>,
    ) -> Result<Vec<Vec<u8>>, TunnelError> {
        if !self.counter.has_room() {
            return Err(TunnelError::Exhausted);
        }
        if self.tx.is_none() {
            let answers = self.first(clear(datagram, self.next_handshake)?)?;
            self.next_handshake += 1;
            return Ok(answers);
        }
        let mut datagram = datagram.to_vec();
        let (seq, newest) = self.open(&mut datagram)?;
        let message = &datagram[HEAD..datagram.len() - TAG];
        let answers = self.again(message, newest, offer)?;
        self.next_handshake = seq + 1;
        Ok(answers)
    }

    /// Starts a rekey and returns the KEX datagram to send. Returns `None` if the session is not
    /// established, a rekey is in progress, or no sequence numbers are left.
    pub fn rekey(&mut self, rng: &mut Rng) -> Option<Vec<u8>> {
        if !matches!(self.stage, Stage::Ready) || !self.counter.has_room() {
            return None;
        }
        let offer = Offer::new(rng);
        let datagram = self.record(offer.kex());
        self.stage = Stage::RekeyKex(offer);
        Some(datagram)
    }

    /// Returns true if data can be sent.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.tx.is_some()
    }

    /// Returns true if a rekey is in progress. A rekey that takes long has lost a message: only a
    /// new session ends it. Data is sent under the old keys until then.
    #[must_use]
    pub fn is_rekeying(&self) -> bool {
        self.is_established() && !matches!(self.stage, Stage::Ready)
    }

    /// Returns true if the next handshake message makes us send with a new key.
    #[must_use]
    pub fn is_about_to_switch(&self) -> bool {
        matches!(self.stage, Stage::RekeySig(..))
    }

    /// Returns the sending key, once established.
    #[must_use]
    pub fn tx(&self) -> Option<Arc<TxKey>> {
        self.tx.clone()
    }

    /// Returns the keys to try on received datagrams, most likely first; at most three.
    #[must_use]
    pub fn rx(&self) -> Vec<Arc<RxKey>> {
        let in_use = self.newest_in_use();
        let newer = self.rx.iter().skip(in_use);
        let older = self.rx.iter().take(in_use).rev();
        newer.chain(older).cloned().collect()
    }

    /// Drops receiving keys whose successor has opened a datagram. Returns true if any was dropped.
    /// The caller waits some seconds before, for packets on the way.
    pub fn expire_old(&mut self) -> bool {
        // The messages of a rekey still use the older key, even if data has overtaken them.
        if self.is_rekeying() {
            return false;
        }
        let old = self.newest_in_use();
        self.rx.drain(..old);
        old > 0
    }

    fn newest_in_use(&self) -> usize {
        self.rx.iter().rposition(|key| key.is_used()).unwrap_or(0)
    }

    /// Handles a message of the first handshake.
    fn first(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>, TunnelError> {
        match (&self.stage, self.parties.role) {
            (Stage::FirstKex(_), _) => {
                let theirs = Kex::parse(message)?;
                let agreement = self.take_offer().with(theirs);
                let sig = self.record(&agreement.sign(&self.parties));
                self.stage = Stage::FirstSig(agreement);
                Ok(vec![sig])
            }
            (Stage::FirstSig(agreement), role) => {
                agreement.verify(message, &self.parties)?;
                let keys = agreement.keys(&self.parties);
                let answers = match role {
                    Role::Initiator => Vec::new(),
                    Role::Responder => vec![self.record(&agreement.sign(&self.parties))],
                };
                self.stage = Stage::Ready;
                self.add_rx(keys.rx);
                self.set_tx(keys.tx);
                Ok(answers)
            }
            _ => Err(TunnelError::Unexpected),
        }
    }

    /// Handles a message of a rekey; `newest` is true if the newest key opened it.
    fn again(
        &mut self,
        message: &[u8],
        newest: bool,
        offer: impl FnOnce() -> Option<Offer>,
    ) -> Result<Vec<Vec<u8>>, TunnelError> {
        match &self.stage {
            Stage::Ready => {
                let theirs = Kex::parse(message)?;
                let offer = offer().ok_or(TunnelError::TooSoon)?;
                Ok(self.answer(offer, theirs))
            }
            Stage::RekeyKex(_) => {
                let theirs = Kex::parse(message)?;
                let offer = self.take_offer();
                Ok(self.agree(offer, theirs))
            }
            Stage::RekeySig(agreement, tx) => {
                agreement.verify(message, &self.parties)?;
                let ack = match self.parties.role {
                    Role::Initiator => vec![self.record(&[])],
                    Role::Responder => {
                        let sig = self.record(&agreement.sign(&self.parties));
                        vec![sig, self.record(&[])]
                    }
                };
                let tx = tx.clone();
                self.stage = Stage::RekeyAck;
                self.set_tx(tx);
                Ok(ack)
            }
            // The new key opened the message, so the ACK before it was lost: this is the next
            // rekey.
            Stage::RekeyAck if newest => {
                let theirs = Kex::parse(message)?;
                let offer = offer().ok_or(TunnelError::TooSoon)?;
                Ok(self.answer(offer, theirs))
            }
            Stage::RekeyAck if message.is_empty() => {
                self.stage = Stage::Ready;
                Ok(Vec::new())
            }
            _ => Err(TunnelError::Unexpected),
        }
    }

    /// Answers a rekey of the other end.
    fn answer(&mut self, offer: Offer, theirs: Kex) -> Vec<Vec<u8>> {
        let kex = self.record(offer.kex());
        [vec![kex], self.agree(offer, theirs)].concat()
    }

    /// Installs the new receiving key after both KEXes of a rekey are known. The KEXes were
    /// authenticated, so the key may be tried now. Returns the initiator's next message.
    fn agree(&mut self, offer: Offer, theirs: Kex) -> Vec<Vec<u8>> {
        let agreement = offer.with(theirs);
        let keys = agreement.keys(&self.parties);
        let answers = match self.parties.role {
            Role::Initiator => vec![self.record(&agreement.sign(&self.parties))],
            Role::Responder => Vec::new(),
        };
        self.add_rx(keys.rx);
        self.stage = Stage::RekeySig(agreement, keys.tx);
        answers
    }

    /// Takes our offer out of its stage; the caller sets the next stage.
    fn take_offer(&mut self) -> Offer {
        match mem::replace(&mut self.stage, Stage::Ready) {
            Stage::FirstKex(offer) | Stage::RekeyKex(offer) => offer,
            _ => unreachable!("the caller has looked at the stage"),
        }
    }

    fn set_tx(&mut self, key: Key) {
        let tx = Tx::new(key, self.counter.clone(), self.packer.clone());
        self.tx = Some(Arc::new(TxKey(TxKind::Sptps(tx))));
    }

    fn add_rx(&mut self, key: Key) {
        if self.rx.len() == MAX_RX {
            self.rx.remove(0);
        }
        let rx = Rx::new(key, self.window.clone(), self.compression);
        self.rx.push(Arc::new(RxKey(RxKind::Sptps(rx))));
    }

    /// Makes a handshake record: in clear text before the first keys, under the current sending key
    /// afterwards.
    fn record(&self, message: &[u8]) -> Vec<u8> {
        let seq = self.counter.claim_for_handshake();
        let mut datagram = Vec::with_capacity(SPTPS_OVERHEAD + message.len());
        datagram.extend_from_slice(&seq.to_be_bytes());
        datagram.push(TYPE_HANDSHAKE);
        datagram.extend_from_slice(message);
        if let Some(tx) = &self.tx {
            datagram.resize(SPTPS_OVERHEAD + message.len(), 0);
            tx.seal(seq.into(), TYPE_HANDSHAKE, &mut datagram);
        }
        datagram
    }

    /// Opens an encrypted handshake record in place. Returns its number, and true if the newest key
    /// opened it.
    fn open(&self, datagram: &mut [u8]) -> Result<(u64, bool), TunnelError> {
        for (age, key) in self.rx.iter().rev().enumerate() {
            match key.open_handshake(datagram) {
                Ok(opened) if opened.kind != TYPE_HANDSHAKE => return Err(TunnelError::Unexpected),
                Ok(opened) if opened.seq < self.next_handshake => {
                    return Err(TunnelError::Unexpected);
                }
                Ok(opened) => return Ok((opened.seq, age == 0)),
                Err(OpenError::BadTag) => {}
                Err(OpenError::Short | OpenError::Replayed) => return Err(TunnelError::Malformed),
            }
        }
        Err(TunnelError::BadTag)
    }
}

/// Returns the data of a clear-text handshake record with exactly this number.
fn clear(datagram: &[u8], seq: u64) -> Result<&[u8], TunnelError> {
    let (header, message) = datagram
        .split_first_chunk::<HEAD>()
        .ok_or(TunnelError::Malformed)?;
    let [number @ .., kind] = header;
    match u64::from(u32::from_be_bytes(*number)) == seq && *kind == TYPE_HANDSHAKE {
        true => Ok(message),
        false => Err(TunnelError::Unexpected),
    }
}

impl From<HandshakeError> for TunnelError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Malformed => Self::Malformed,
            HandshakeError::BadSignature => Self::BadSignature,
        }
    }
}
