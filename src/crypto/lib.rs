//! Cryptographic primitives and the key exchanges of SPTPS and native links. No IO, no clock, no
//! global randomness.
//!
//! Source: wire/tinc-1.1.md sections 1.2 and 2, wire/tinc-1.0.md sections 1.4 to 1.6, 3 and 8,
//! proto/native-link.md.

pub mod aead;
mod chacha20;
pub mod compress;
pub mod ed25519;
#[cfg(target_arch = "x86_64")]
mod gcm;
mod lzo;
pub mod noise;
mod poly1305;
pub mod replay;
pub mod rng;
pub mod rsa;
pub mod seal;
pub mod simd;
pub mod sptps;
pub mod stream;
pub mod suite;

pub use ed25519::{PrivateKey, PublicKey};
pub use rng::Rng;
