//! AEADs of native packets and records, in place, from the fastest available code. aws-lc takes 194
//! ns for AES-256-GCM over 1,400 bytes, ring 255 ns and aes-gcm 789 ns, on an AMD Zen 4 with VAES.
//! Our own AES-256-GCM is used if the processor has vectors for it. Our code takes a quarter to a
//! third less time for 1,400 bytes, half for 64. So releases leave aws-lc's AVX-512 code out
//! (Cargo.toml), which takes 680 KB; Simd = no gets its code for AES-NI.
//!
//! Nonce: four zero bytes and the number, big endian. Source: proto/native-link.md sections 3.3 and
//! 5.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::aead::{BadTag, TAG};
#[cfg(target_arch = "x86_64")]
use crate::{aead::compare, gcm};

/// An AEAD that native sessions may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aead {
    /// AES-256-GCM: used if both ends have hardware for it.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): always available.
    ChaCha20Poly1305,
}

impl Aead {
    /// Returns the AEAD's bit in the list of accepted AEADs.
    const fn bit(self) -> u8 {
        match self {
            Self::ChaCha20Poly1305 => 1,
            Self::Aes256Gcm => 2,
        }
    }

    /// Returns the name of the AEAD, for the operator.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        }
    }
}

/// Set of AEADs that a node accepts, as one byte on the wire. Unknown bits are kept and have no
/// meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aeads(pub u8);

impl Aeads {
    /// AEADs of a node without hardware for AES.
    pub const PORTABLE: Self = Self(Aead::ChaCha20Poly1305.bit());
    /// AEADs of a node with hardware for AES.
    pub const ALL: Self = Self(Aead::ChaCha20Poly1305.bit() | Aead::Aes256Gcm.bit());

    /// Returns the AEADs that this machine accepts.
    #[must_use]
    pub fn of_this_machine() -> Self {
        match has_aes() {
            true => Self::ALL,
            false => Self::PORTABLE,
        }
    }

    /// Returns true if `aead` is in the set.
    #[must_use]
    pub const fn has(self, aead: Aead) -> bool {
        self.0 & aead.bit() != 0
    }

    /// Returns the best AEAD that both accept; `None` if there is none.
    #[must_use]
    pub fn best(self, other: Self) -> Option<Aead> {
        [Aead::Aes256Gcm, Aead::ChaCha20Poly1305]
            .into_iter()
            .find(|aead| self.has(*aead) && other.has(*aead))
    }

    /// Returns the other side's choice from the payload of its answer; `None` if it is not in the
    /// set.
    #[must_use]
    pub fn chosen(self, payload: &[u8]) -> Option<Aead> {
        let choice = Self(*payload.first()?);
        self.best(choice).filter(|aead| Self::only(*aead) == choice)
    }

    /// Returns the set with one AEAD, the form of a choice on the wire.
    #[must_use]
    pub const fn only(aead: Aead) -> Self {
        Self(aead.bit())
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// A key of one direction of a session.
pub struct SealKey {
    aead: Aead,
    key: LessSafeKey,
    /// The same key for our own AES-256-GCM, if the processor has the instructions.
    #[cfg(target_arch = "x86_64")]
    vectors: Option<Box<gcm::Key>>,
}

impl SealKey {
    /// Makes the key for an AEAD.
    #[must_use]
    pub fn new(aead: Aead, key: &[u8; 32]) -> Self {
        let algorithm = match aead {
            Aead::Aes256Gcm => &AES_256_GCM,
            Aead::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let unbound = UnboundKey::new(algorithm, key).expect("both take 32 bytes");
        Self {
            aead,
            key: LessSafeKey::new(unbound),
            #[cfg(target_arch = "x86_64")]
            vectors: match aead {
                Aead::Aes256Gcm => gcm::Key::new(key),
                Aead::ChaCha20Poly1305 => None,
            },
        }
    }

    /// Returns the AEAD of the key.
    #[must_use]
    pub const fn aead(&self) -> Aead {
        self.aead
    }

    /// Encrypts `buffer` in place and writes the tag into its last [`TAG`] bytes. A number must be
    /// used only once.
    ///
    /// # Panics
    /// If `buffer` has no room for the tag.
    // Not inlined: the gate of the packet path stops counting at this function.
    #[inline(never)]
    pub fn seal(&self, number: u64, header: &[u8], buffer: &mut [u8]) {
        let (text, tag) = buffer
            .split_last_chunk_mut::<TAG>()
            .expect("the caller leaves room for the tag");
        #[cfg(target_arch = "x86_64")]
        if let Some(key) = self.vectors_for(header) {
            *tag = key.seal(number, header, text);
            return;
        }
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce(number), Aad::from(header), text)
            .expect("a packet is shorter than any AEAD's limit");
        tag.copy_from_slice(sealed.as_ref());
    }

    /// Verifies the tag in the last [`TAG`] bytes of `buffer`, and decrypts the bytes before it in
    /// place. On [`BadTag`] the content of the buffer is undefined.
    #[inline(never)]
    pub fn open(&self, number: u64, header: &[u8], buffer: &mut [u8]) -> Result<(), BadTag> {
        #[cfg(target_arch = "x86_64")]
        if let Some(key) = self.vectors_for(header) {
            let (text, tag) = buffer.split_last_chunk_mut::<TAG>().ok_or(BadTag)?;
            return compare(&key.open(number, header, text), tag);
        }
        self.key
            .open_in_place(nonce(number), Aad::from(header), buffer)
            .map(drop)
            .map_err(|_| BadTag)
    }
}

#[cfg(target_arch = "x86_64")]
impl SealKey {
    fn vectors_for(&self, header: &[u8]) -> Option<&gcm::Key> {
        let is_short = header.len() <= gcm::Key::MOST_HEADER;
        self.vectors.as_deref().filter(|_| is_short)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key", self.aead.name())
    }
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::{ChaCha20Poly1305, KeyInit, aead::AeadInOut};

    use super::*;

    #[test]
    fn what_is_sealed_opens_and_nothing_else_does() {
        for aead in [Aead::Aes256Gcm, Aead::ChaCha20Poly1305] {
            let key = SealKey::new(aead, &[7; 32]);
            let mut buffer = b"sixteen bytes of".to_vec();
            buffer.extend([0; TAG]);
            key.seal(5, b"header", &mut buffer);
            let sealed = buffer.clone();
            assert_eq!(key.open(5, b"header", &mut buffer), Ok(()));
            assert_eq!(&buffer[..16], b"sixteen bytes of");
            assert_eq!(key.open(6, b"header", &mut sealed.clone()), Err(BadTag));
            assert_eq!(key.open(5, b"Header", &mut sealed.clone()), Err(BadTag));
            assert_eq!(
                key.open(5, b"header", &mut sealed[..TAG - 1].to_vec()),
                Err(BadTag)
            );
            for bit in 0..sealed.len() * 8 {
                let mut wrong = sealed.clone();
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(key.open(5, b"header", &mut wrong), Err(BadTag));
            }
        }
    }

    /// Every length up to more than a packet, headers that fill blocks or not, numbers of all
    /// sizes, and random keys. Our own code seals as the library does, opens its output, and
    /// rejects changed data.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn vectors_do_what_the_library_does() {
        let _on = crate::simd::tests::keep_on();
        let mut rng = crate::Rng::new([3; 32]);
        for length in 0..1_700 {
            let secret = rng.bytes();
            let ours = SealKey::new(Aead::Aes256Gcm, &secret);
            if ours.vectors.is_none() {
                return meshd_testing::skip("vaes", "our AES-GCM needs VAES and AVX-512");
            }
            let library = SealKey {
                vectors: None,
                ..SealKey::new(Aead::Aes256Gcm, &secret)
            };
            let header_length = length * 7 % (gcm::Key::MOST_HEADER + 2);
            let mut header = vec![0; header_length];
            let mut plain = vec![0; length];
            rng.fill(&mut header);
            rng.fill(&mut plain);
            let number = u64::from_be_bytes(rng.bytes()) >> (length % 64);
            let text = [&plain[..], &[0; TAG]].concat();
            let [mut a, mut b] = [text.clone(), text];
            ours.seal(number, &header, &mut a);
            library.seal(number, &header, &mut b);
            assert_eq!(a, b, "{length} behind {header_length}");
            a[length * 5 % (length + TAG)] ^= 1 << (length % 8);
            assert_eq!(ours.open(number, &header, &mut a), Err(BadTag));
            assert_eq!(ours.open(number, &header, &mut b), Ok(()));
            assert_eq!(b[..length], plain);
        }
    }

    /// Source: McGrew and Viega, "The Galois/Counter Mode of Operation", test case 14, whose nonce
    /// is all zero.
    #[test]
    fn a_published_vector() {
        let mut buffer = [0; 16 + TAG];
        SealKey::new(Aead::Aes256Gcm, &[0; 32]).seal(0, &[], &mut buffer);
        let expected: [u128; 2] = [
            0xcea7_403d_4d60_6b6e_074e_c5d3_baf3_9d18,
            0xd0d1_c8a7_9999_6bf0_265b_98b5_d48a_b919,
        ];
        assert_eq!(buffer, *expected.map(u128::to_be_bytes).as_flattened());
    }

    #[test]
    fn the_nonce_is_where_rfc_8439_has_it() {
        let mut ours = [3; 40];
        SealKey::new(Aead::ChaCha20Poly1305, &[9; 32]).seal(0x0102, b"ad", &mut ours);
        let mut nonce = chacha20poly1305::Nonce::default();
        nonce[10..].copy_from_slice(&[1, 2]);
        let mut theirs = [3; 24];
        let tag = ChaCha20Poly1305::new(&[9; 32].into())
            .encrypt_inout_detached(&nonce, b"ad", (&mut theirs[..]).into())
            .unwrap();
        assert_eq!((&ours[..24], &ours[24..]), (&theirs[..], &tag[..]));
    }

    #[test]
    fn the_best_that_both_accept_is_chosen() {
        let (all, portable) = (Aeads::ALL, Aeads::PORTABLE);
        assert_eq!(all.best(all), Some(Aead::Aes256Gcm));
        assert_eq!(all.best(portable), Some(Aead::ChaCha20Poly1305));
        assert_eq!(Aeads(0x80).best(all), None);
        assert!(Aeads::of_this_machine().has(Aead::ChaCha20Poly1305));
    }
}
