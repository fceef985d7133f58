//! Cryptographic primitives the key exchanges of SPTPS and of native links. No IO, no clock, no global randomness.
//!
//! Source: tinc-1.1-wire.md sections 1.2 and 2, spec/security.md section 3.

pub mod aead;
mod chacha20;
pub mod ed25519;
pub mod noise;
mod poly1305;
pub mod replay;
pub mod rng;
pub mod seal;
pub mod sptps;

pub use ed25519::{PrivateKey, PublicKey};
pub use rng::Rng;
