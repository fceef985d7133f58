//! Cryptographic primitives and the SPTPS key exchange. No IO, no clock, no global randomness.
//!
//! Source: tinc-1.1-wire.md sections 1.2 and 2.

pub mod aead;
pub mod ed25519;
pub mod replay;
pub mod rng;
pub mod sptps;

pub use ed25519::{PrivateKey, PublicKey};
pub use rng::Rng;
