//! Node keys: Ed25519 with tinc's 96-byte private form.

/// A node's public key: 32 bytes, a canonical, torsion-free, not small-order Edwards point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// A node's private key: expanded scalar and nonce prefix (64 bytes) and the public key made from them.
#[derive(Clone)]
pub struct PrivateKey {
    _todo: (),
}
