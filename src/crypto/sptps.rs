//! The SPTPS key exchange as values: KEX and SIG messages in, session keys out. Links and tunnels
//! carry the messages in their own ways, and decide their order.
//!
//! Each side makes an [`Offer`] and sends its KEX. The other side's KEX turns the offer into an
//! [`Agreement`], which signs, verifies, and returns the keys. Source: wire/tinc-1.1.md sections
//! 2.3 to 2.5.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use zeroize::Zeroizing;

use meshd_wire::NodeName;

use crate::{
    PrivateKey, PublicKey, Rng,
    ed25519::{Ephemeral, EphemeralPublic, SIGNATURE},
};

/// Length of a KEX message: version 1, nonce 32, ephemeral public key 32.
pub const KEX: usize = 65;
/// Length of a SIG message.
pub const SIG: usize = SIGNATURE;
/// The only version of the handshake.
const VERSION: u8 = 0;

/// Role of a side in a session. The role never changes, not even by a rekey that the other side
/// starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opened the connection, or sent the first REQ_KEY.
    Initiator,
    /// The other side.
    Responder,
}

/// Reason why a handshake message was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Wrong length or version of the message, or a point that yields no secret.
    #[error("malformed handshake message")]
    Malformed,
    /// The signature does not verify with the other side's key.
    #[error("the signature does not match the Ed25519PublicKey that we have")]
    BadSignature,
}

/// Knowledge of both sides before the handshake.
#[derive(Debug, Clone)]
pub struct Parties {
    /// Our role.
    pub role: Role,
    /// Our private key.
    pub key: Arc<PrivateKey>,
    /// Public key of the other side.
    pub peer_key: PublicKey,
    /// Another accepted key of the other side (Ed25519PublicKeyNext).
    pub next_key: Option<PublicKey>,
    /// Label of the session: see [`link_label`], [`tunnel_label`], [`INVITATION_LABEL`].
    pub label: Vec<u8>,
}

/// Returns the label of a meta connection. The initiator opened the TCP connection.
#[must_use]
pub fn link_label(initiator: &NodeName, responder: &NodeName) -> Vec<u8> {
    format!("tinc TCP key expansion {initiator} {responder}\0").into_bytes()
}

/// Returns the label of a tunnel. The initiator sent the REQ_KEY.
#[must_use]
pub fn tunnel_label(initiator: &NodeName, responder: &NodeName) -> Vec<u8> {
    format!("tinc UDP key expansion {initiator} {responder}\0").into_bytes()
}

/// Label of an invitation: without the NUL at the end of the other two.
pub const INVITATION_LABEL: &[u8] = b"tinc invitation";

/// A KEX message of valid length and version, with a valid point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kex {
    message: [u8; KEX],
    ephemeral: EphemeralPublic,
}

impl Kex {
    /// Checks length, version and point.
    pub fn parse(message: &[u8]) -> Result<Self, HandshakeError> {
        let message: [u8; KEX] = message.try_into().map_err(|_| HandshakeError::Malformed)?;
        let point = message.last_chunk().expect("65 is more than 32");
        let ephemeral = EphemeralPublic::parse(point).ok_or(HandshakeError::Malformed)?;
        if message[0] != VERSION {
            return Err(HandshakeError::Malformed);
        }
        Ok(Self { message, ephemeral })
    }

    fn nonce(&self) -> &[u8] {
        &self.message[1..33]
    }
}

/// Our half of an exchange: sent as KEX, before the other KEX arrives.
pub struct Offer {
    kex: [u8; KEX],
    ephemeral: Ephemeral,
}

impl Offer {
    /// Makes a new half: draws 32 bytes for the nonce, then 32 for the ephemeral key's seed.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        let nonce = rng.bytes();
        let seed = Zeroizing::new(rng.bytes());
        Self::from_parts(&nonce, Ephemeral::from_seed(&seed))
    }

    /// Makes the half with this nonce and ephemeral key. Neither may be used again.
    #[must_use]
    pub fn from_parts(nonce: &[u8; 32], ephemeral: Ephemeral) -> Self {
        let mut kex = [VERSION; KEX];
        kex[1..33].copy_from_slice(nonce);
        kex[33..].copy_from_slice(ephemeral.public());
        Self { kex, ephemeral }
    }

    /// Returns our KEX message.
    #[must_use]
    pub fn kex(&self) -> &[u8; KEX] {
        &self.kex
    }

    /// Combines both halves.
    #[must_use]
    pub fn with(self, theirs: Kex) -> Agreement {
        Agreement { ours: self, theirs }
    }
}

/// Both halves of an exchange.
pub struct Agreement {
    ours: Offer,
    theirs: Kex,
}

impl Agreement {
    /// Returns our SIG message.
    #[must_use]
    pub fn sign(&self, parties: &Parties) -> [u8; SIG] {
        let ours_first = self.signed(parties.role, &self.ours.kex, &self.theirs.message, parties);
        parties.key.sign(&ours_first)
    }

    /// Verifies the other side's SIG message.
    pub fn verify(&self, sig: &[u8], parties: &Parties) -> Result<(), HandshakeError> {
        let sig: &[u8; SIG] = sig.try_into().map_err(|_| HandshakeError::Malformed)?;
        let other = match parties.role {
            Role::Initiator => Role::Responder,
            Role::Responder => Role::Initiator,
        };
        let theirs_first = self.signed(other, &self.theirs.message, &self.ours.kex, parties);
        let mut keys = std::iter::once(parties.peer_key).chain(parties.next_key);
        match keys.any(|key| key.verify(&theirs_first, sig)) {
            true => Ok(()),
            false => Err(HandshakeError::BadSignature),
        }
    }

    /// Returns the keys of the session. Use them for data only after [`Self::verify`], or if the
    /// other side's KEX was authenticated.
    #[must_use]
    pub fn keys(&self, parties: &Parties) -> SessionKeys {
        let shared = self.ours.ephemeral.agree(&self.theirs.ephemeral);
        let (ours, theirs) = (&self.ours.kex[1..33], self.theirs.nonce());
        let (initiator, responder) = match parties.role {
            Role::Initiator => (ours, theirs),
            Role::Responder => (theirs, ours),
        };
        let seed = [b"key expansion", initiator, responder, &parties.label];
        let [responder_sends, initiator_sends] = expand(&shared, &seed);
        match parties.role {
            Role::Initiator => SessionKeys {
                tx: initiator_sends,
                rx: responder_sends,
            },
            Role::Responder => SessionKeys {
                tx: responder_sends,
                rx: initiator_sends,
            },
        }
    }

    /// Returns the signed content: the signer's role, its KEX, the other KEX, the label.
    fn signed(
        &self,
        signer: Role,
        first: &[u8; KEX],
        second: &[u8; KEX],
        parties: &Parties,
    ) -> Vec<u8> {
        let role = u8::from(signer == Role::Initiator);
        [&[role], &first[..], &second[..], &parties.label].concat()
    }
}

/// A session key of the AEAD, wiped when dropped.
pub type Key = Zeroizing<[u8; 32]>;

/// Keys of one session in the view of one side.
pub struct SessionKeys {
    /// Our sending key.
    pub tx: Key,
    /// The other side's sending key.
    pub rx: Key,
}

/// Key expansion: two blocks of HMAC-SHA512; the AEAD uses the first half of each. Block 0 is the
/// responder's sending key, block 1 the initiator's. Source: wire/tinc-1.1.md section 2.4.
fn expand(shared: &[u8; 32], seed: &[&[u8]]) -> [Key; 2] {
    let hmac = |chain: &[u8; 64]| -> Zeroizing<[u8; 64]> {
        let mut mac = Hmac::<Sha512>::new_from_slice(shared).expect("HMAC takes any key length");
        mac.update(chain);
        seed.iter().for_each(|part| mac.update(part));
        Zeroizing::new(mac.finalize().into_bytes().into())
    };
    let first_half = |block: &[u8; 64]| Zeroizing::new(*block.first_chunk().expect("64 bytes"));
    let chain1 = hmac(&[0; 64]);
    let chain2 = hmac(&chain1);
    [first_half(&hmac(&chain1)), first_half(&hmac(&chain2))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parties(role: Role, label: &[u8]) -> Parties {
        let (ours, theirs) = match role {
            Role::Initiator => (1, 2),
            Role::Responder => (2, 1),
        };
        Parties {
            role,
            key: Arc::new(PrivateKey::from_seed(&[ours; 32])),
            peer_key: PrivateKey::from_seed(&[theirs; 32]).public(),
            next_key: None,
            label: label.to_vec(),
        }
    }

    fn both() -> (Agreement, Agreement) {
        let a = Offer::new(&mut Rng::new([3; 32]));
        let b = Offer::new(&mut Rng::new([4; 32]));
        let kex_a = Kex::parse(a.kex()).unwrap();
        let kex_b = Kex::parse(b.kex()).unwrap();
        (a.with(kex_b), b.with(kex_a))
    }

    #[test]
    fn both_sides_get_the_same_keys_crosswise() {
        let (a, b) = both();
        let (pa, pb) = (
            parties(Role::Initiator, b"x"),
            parties(Role::Responder, b"x"),
        );
        assert_eq!(b.verify(&a.sign(&pa), &pb), Ok(()));
        assert_eq!(a.verify(&b.sign(&pb), &pa), Ok(()));
        let (ka, kb) = (a.keys(&pa), b.keys(&pb));
        assert_eq!((&ka.tx, &ka.rx), (&kb.rx, &kb.tx));
        assert_ne!(ka.tx, ka.rx);
    }

    #[test]
    fn label_role_and_key_are_bound_by_the_signature() {
        let (a, b) = both();
        let sig = a.sign(&parties(Role::Initiator, b"x"));
        let refused = Err(HandshakeError::BadSignature);
        assert_eq!(b.verify(&sig, &parties(Role::Responder, b"y")), refused);
        assert_eq!(b.verify(&sig, &parties(Role::Initiator, b"x")), refused);
        // Reflected: our own signature sent back to us.
        assert_eq!(a.verify(&sig, &parties(Role::Initiator, b"x")), refused);
        let cut = b.verify(&sig[1..], &parties(Role::Responder, b"x"));
        assert_eq!(cut, Err(HandshakeError::Malformed));
    }

    #[test]
    fn kex_of_another_length_version_or_with_a_weak_point_is_refused() {
        let good = *Offer::new(&mut Rng::new([0; 32])).kex();
        assert!(Kex::parse(&good).is_ok());
        let mut weak = good;
        weak[33..].fill(0);
        let mut newer = good;
        newer[0] = 1;
        for bad in [&weak[..], &newer, &good[..64], &[0; 66], &[]] {
            assert_eq!(Kex::parse(bad), Err(HandshakeError::Malformed));
        }
    }
}
