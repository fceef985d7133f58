//! The native handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s as values, through snow with our own
//! primitives. Links and tunnels carry the two messages in their own ways and take the resulting
//! keys.
//!
//! ```text
//! msg1  I -> R  e, es, s, ss, payload
//! msg2  R -> I  e, ee, se, psk, payload
//! ```
//!
//! The static key is a node's Ed25519 key mapped to X25519, or a separate key. The prologue
//! contains the purpose of the handshake, both names and the clear text before it, so any change of
//! these breaks the handshake. Source: proto/native-link.md sections 1 to 3.

use std::{cell::Cell, fmt};

use aws_lc_rs::agreement;
use blake2::{Blake2s256, Digest};
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit,
    aead::{AeadInOut, inout::InOutBuf},
};
use curve25519_dalek::MontgomeryPoint;
use snow::{
    Builder, HandshakeState,
    error::Error,
    params::{CipherChoice, DHChoice, HashChoice, NoiseParams},
    resolvers::CryptoResolver,
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

use meshd_wire::{NodeName, base64};

use crate::{PrivateKey, PublicKey, Rng, ed25519::PUBLIC_TEXT};

/// Protocol name for snow.
const PROTOCOL: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// First bytes of every prologue.
const DOMAIN: &[u8] = b"meshd native 1";
/// Length of a tag, in bytes.
const TAG: usize = 16;
/// Bytes that the first message adds to its payload: ephemeral 32, static 32 + 16, tag 16.
pub const MSG1_OVERHEAD: usize = 96;
/// Bytes that the second message adds to its payload: ephemeral 32, tag 16.
pub const MSG2_OVERHEAD: usize = 48;
/// Longest accepted payload of either message, in bytes.
pub const MAX_PAYLOAD: usize = 1024;

/// X25519 secret of a node.
#[derive(Clone)]
pub struct StaticSecret(Zeroizing<[u8; 32]>);

/// X25519 public key of a node: never of small order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StaticPublic([u8; 32]);

impl StaticSecret {
    /// Returns the secret of a node's Ed25519 key.
    #[must_use]
    pub fn of(key: &PrivateKey) -> Self {
        Self(key.x25519_secret())
    }

    /// Makes a separate secret (`NativePrivateKeyFile`) from any 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// Returns the public half.
    #[must_use]
    pub fn public(&self) -> StaticPublic {
        // Uses the table of the base point, which takes a third of the ladder's time.
        StaticPublic(MontgomeryPoint::mul_base_clamped(*self.0).to_bytes())
    }
}

impl StaticPublic {
    /// Returns the key of a node's Ed25519 key, which is known to be valid.
    #[must_use]
    pub fn of(key: &PublicKey) -> Self {
        Self(key.x25519_public())
    }

    /// Makes a separate key (`NativePublicKey`). `None` for a point of small order, with which the
    /// secret is always zero.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        // Clamped scalars are multiples of the cofactor, so every point of small order yields zero.
        let secret = x25519_dalek::x25519([0x42; 32], bytes);
        (secret != [0; 32]).then_some(Self(bytes))
    }

    /// Reads the key of a host file's `NativePublicKey`: 43 characters of tinc's base64. `None` for
    /// any other text, and as in [`Self::from_bytes`].
    #[must_use]
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes = Some(text).filter(|text| text.len() == PUBLIC_TEXT);
        Self::from_bytes(base64::decode(bytes?)?.try_into().ok()?)
    }
}

impl fmt::Display for StaticPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&base64::encode(&self.0))
    }
}

impl fmt::Debug for StaticPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Purpose of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A meta connection.
    Link,
    /// A tunnel: its first handshake, or a renewal.
    Tunnel,
}

/// Knowledge of both sides before the handshake, in the view of either side.
#[derive(Clone)]
pub struct Parties<'a> {
    /// Purpose.
    pub purpose: Purpose,
    /// Sender of the first message.
    pub initiator: &'a NodeName,
    /// Sender of the answer.
    pub responder: &'a NodeName,
    /// Clear text of both sides before the handshake: both ID lines of a link, or the AEADs that a
    /// tunnel's initiator accepts.
    pub context: &'a [&'a [u8]],
    /// Preshared key of the pair; all zero if there is none.
    pub psk: &'a [u8; 32],
    /// Our own key.
    pub secret: &'a StaticSecret,
}

/// Error of a rejected handshake message. The sender is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a native handshake message that does not fit the keys of both nodes")]
pub struct Refused;

/// Keys of a session, taken out of the handshake once.
#[derive(Clone)]
pub struct SessionKeys {
    /// Key for sealing.
    pub tx: Zeroizing<[u8; 32]>,
    /// Key for opening.
    pub rx: Zeroizing<[u8; 32]>,
}

/// Our handshake: its first message is sent.
pub struct Begun(Box<HandshakeState>);

/// Handshake of another node: its first message was valid.
pub struct Asked(Box<HandshakeState>);

/// Starts a handshake with the owner of `peer`. Returns the first message, which contains
/// `payload`.
///
/// # Panics
/// If `payload` is longer than [`MAX_PAYLOAD`].
#[must_use]
pub fn begin(
    parties: &Parties<'_>,
    peer: &StaticPublic,
    payload: &[u8],
    rng: &mut Rng,
) -> (Begun, Vec<u8>) {
    let prologue = parties.prologue();
    let mut state = parties
        .builder(&prologue, rng)
        .and_then(|builder| builder.remote_public_key(&peer.0)?.build_initiator())
        .expect("every part of the pattern is given");
    let message = write(&mut state, payload, MSG1_OVERHEAD);
    (Begun(Box::new(state)), message)
}

/// Handles a first message from the owner of one of `peers`. Returns its payload.
///
/// # Errors
/// [`Refused`] if the message was not made for us, by that node, for this purpose.
pub fn asked(
    parties: &Parties<'_>,
    peers: &[StaticPublic],
    message: &[u8],
    rng: &mut Rng,
) -> Result<(Asked, Vec<u8>), Refused> {
    let prologue = parties.prologue();
    let mut state = parties
        .builder(&prologue, rng)
        .and_then(Builder::build_responder)
        .expect("every part of the pattern is given");
    let payload = read(&mut state, message, MSG1_OVERHEAD)?;
    let theirs = state.get_remote_static().ok_or(Refused)?;
    if !peers.iter().any(|peer| peer.0 == theirs) {
        return Err(Refused);
    }
    Ok((Asked(Box::new(state)), payload))
}

impl Asked {
    /// Answers with `payload`. Returns the second message and the keys.
    ///
    /// # Panics
    /// If `payload` is longer than [`MAX_PAYLOAD`].
    #[must_use]
    pub fn answer(mut self, payload: &[u8]) -> (Vec<u8>, SessionKeys) {
        let message = write(&mut self.0, payload, MSG2_OVERHEAD);
        (message, keys(&mut self.0))
    }
}

impl Begun {
    /// Handles the second message. Returns its payload and the keys.
    ///
    /// # Errors
    /// [`Refused`] and the unchanged handshake, if the message is no answer to ours: the real one
    /// may still arrive.
    pub fn answered(mut self, message: &[u8]) -> Result<(Vec<u8>, SessionKeys), (Self, Refused)> {
        match read(&mut self.0, message, MSG2_OVERHEAD) {
            Ok(payload) => Ok((payload, keys(&mut self.0))),
            Err(refused) => Err((self, refused)),
        }
    }
}

fn write(state: &mut HandshakeState, payload: &[u8], overhead: usize) -> Vec<u8> {
    assert!(payload.len() <= MAX_PAYLOAD, "payloads of ours are short");
    let mut message = vec![0; payload.len() + overhead];
    let written = state.write_message(payload, &mut message);
    // No key is of small order, and there is room.
    assert_eq!(written.ok(), Some(message.len()), "it is our turn");
    message
}

fn read(state: &mut HandshakeState, message: &[u8], overhead: usize) -> Result<Vec<u8>, Refused> {
    let length = message.len().checked_sub(overhead).ok_or(Refused)?;
    if length > MAX_PAYLOAD {
        return Err(Refused);
    }
    let mut payload = vec![0; message.len()];
    let read = state.read_message(message, &mut payload);
    payload.truncate(read.map_err(|_| Refused)?);
    Ok(payload)
}

fn keys(state: &mut HandshakeState) -> SessionKeys {
    let (from_initiator, from_responder) = state.dangerously_get_raw_split();
    let [ours, theirs] = match state.is_initiator() {
        true => [from_initiator, from_responder],
        false => [from_responder, from_initiator],
    };
    SessionKeys {
        tx: Zeroizing::new(ours),
        rx: Zeroizing::new(theirs),
    }
}

impl Parties<'_> {
    fn prologue(&self) -> Vec<u8> {
        let purpose: &[u8] = match self.purpose {
            Purpose::Link => b"link",
            Purpose::Tunnel => b"tunnel",
        };
        let names = [self.initiator, self.responder].map(|name| name.as_str().as_bytes());
        let parts = [purpose].into_iter().chain(names);
        let mut prologue = DOMAIN.to_vec();
        for part in parts.chain(self.context.iter().copied()) {
            let length = u16::try_from(part.len()).expect("names and lines are short");
            prologue.extend_from_slice(&length.to_be_bytes());
            prologue.extend_from_slice(part);
        }
        prologue
    }

    fn builder<'b>(&'b self, prologue: &'b [u8], rng: &mut Rng) -> Result<Builder<'b>, Error> {
        let protocol: NoiseParams = PROTOCOL.parse().expect("a name that snow knows");
        let resolver = Resolver(Cell::new(Some(rng.fork())));
        Builder::with_resolver(protocol, Box::new(resolver))
            .local_private_key(&*self.secret.0)?
            .psk(2, self.psk)?
            .prologue(prologue)
    }
}

/// Source of primitives for snow: one handshake, one generator.
struct Resolver(Cell<Option<Rng>>);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Source(self.0.take()?)))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519::default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::Blake2s => Some(Box::new(Blake2s(Blake2s256::new()))),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::ChaChaPoly => Some(Box::new(ChaChaPoly(Zeroizing::default()))),
            _ => None,
        }
    }
}

struct Source(Rng);

impl Random for Source {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.0.fill(dest);
        Ok(())
    }
}

/// X25519 of aws-lc, which takes half the time of x25519-dalek. X25519 is most of the cost of a
/// handshake.
#[derive(Default)]
struct X25519 {
    secret: Zeroizing<[u8; 32]>,
    key: Option<agreement::PrivateKey>,
    public: [u8; 32],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        self.secret.copy_from_slice(secret);
        let key = agreement::PrivateKey::from_private_key(&agreement::X25519, secret);
        let key = key.expect("any 32 bytes are a secret");
        let public = key.compute_public_key().expect("every secret has one");
        self.public.copy_from_slice(public.as_ref());
        self.key = Some(key);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut secret = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(&mut *secret)?;
        self.set(&*secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.secret
    }

    /// A shared secret of zero is an error, although Noise allows it.
    fn dh(&self, theirs: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let key = self.key.as_ref().ok_or(Error::Dh)?;
        let theirs: &[u8; 32] = theirs.first_chunk().ok_or(Error::Dh)?;
        let theirs = agreement::UnparsedPublicKey::new(&agreement::X25519, theirs);
        agreement::agree(key, theirs, Error::Dh, |shared| {
            out[..32].copy_from_slice(shared);
            Ok(())
        })
    }
}

struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.0.finalize_reset());
    }
}

struct ChaChaPoly(Zeroizing<[u8; 32]>);

impl ChaChaPoly {
    fn cipher(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new((&*self.0).into())
    }
}

/// Noise nonce: four zero bytes, then the number, little endian.
fn nonce(number: u64) -> chacha20poly1305::Nonce {
    let mut nonce = chacha20poly1305::Nonce::default();
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    nonce
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        *self.0 = *key;
    }

    fn encrypt(&self, number: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (text, rest) = out.split_at_mut(plaintext.len());
        text.copy_from_slice(plaintext);
        let tag = self
            .cipher()
            .encrypt_inout_detached(&nonce(number), authtext, InOutBuf::from(text))
            .expect("handshake messages are short");
        rest[..TAG].copy_from_slice(&tag);
        plaintext.len() + TAG
    }

    fn decrypt(
        &self,
        number: u64,
        authtext: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let (text, tag) = ciphertext.split_last_chunk::<TAG>().ok_or(Error::Decrypt)?;
        let out = &mut out[..text.len()];
        out.copy_from_slice(text);
        self.cipher()
            .decrypt_inout_detached(&nonce(number), authtext, InOutBuf::from(out), tag.into())
            .map_err(|_| Error::Decrypt)?;
        Ok(text.len())
    }
}

#[cfg(test)]
mod tests;
