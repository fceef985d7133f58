//! The control half of one SPTPS tunnel: handshake and rekey by datagrams that travel in meta lines.

use std::sync::Arc;

use crate::{
    crypto::{PrivateKey, PublicKey, Rng},
    tunnel::{RxKey, TxKey},
    wire::NodeName,
};

/// What both ends of a tunnel are made of.
#[derive(Clone)]
pub struct TunnelSetup {
    /// Our private key.
    pub key: Arc<PrivateKey>,
    /// Our name.
    pub name: NodeName,
    /// The other node's name.
    pub peer: NodeName,
    /// The other node's public key.
    pub peer_key: PublicKey,
    /// Size of the replay window in packets; 0 switches the check off.
    pub replay_window: u32,
}

/// Why a handshake datagram was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// Not the message or the number that is due now.
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
}

/// One tunnel's session: from the first KEX on, through any number of rekeys.
///
/// Datagrams returned by the methods go to the other end by meta lines: the very first one of
/// the initiator in REQ_KEY (extension 15), all others in ANS_KEY.
pub struct Tunnel {
    _todo: (),
}

impl Tunnel {
    /// Starts a session as initiator. Returns the first datagram (our KEX).
    #[must_use]
    pub fn initiate(_setup: TunnelSetup, _rng: &mut Rng) -> (Self, Vec<u8>) {
        todo!()
    }

    /// Answers the initiator's KEX datagram. Returns our KEX datagram.
    pub fn respond(
        _setup: TunnelSetup,
        _kex: &[u8],
        _rng: &mut Rng,
    ) -> Result<(Self, Vec<u8>), TunnelError> {
        todo!()
    }

    /// Takes a handshake datagram that came in an ANS_KEY line. Returns the datagrams to send back, in
    /// order. After it, ask [`Self::tx`] and [`Self::rx`] anew. On an error the session is unchanged.
    pub fn receive(
        &mut self,
        _datagram: &[u8],
        _rng: &mut Rng,
    ) -> Result<Vec<Vec<u8>>, TunnelError> {
        todo!()
    }

    /// Starts a rekey; returns the KEX datagram to send. `None` if the session is not established or
    /// a rekey is under way.
    pub fn rekey(&mut self, _rng: &mut Rng) -> Option<Vec<u8>> {
        todo!()
    }

    /// Whether data can be sent.
    #[must_use]
    pub fn is_established(&self) -> bool {
        todo!()
    }

    /// The key to send with, once established.
    #[must_use]
    pub fn tx(&self) -> Option<Arc<TxKey>> {
        todo!()
    }

    /// The keys to try on received datagrams, most likely first; at most three.
    #[must_use]
    pub fn rx(&self) -> Vec<Arc<RxKey>> {
        todo!()
    }

    /// Drops receiving keys whose successor has opened a datagram. Returns whether any went.
    /// The caller leaves some seconds for packets on the way.
    pub fn expire_old(&mut self) -> bool {
        todo!()
    }
}
