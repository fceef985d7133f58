//! SPTPS's ChaCha20-Poly1305, in place.
//!
//! This AEAD is not RFC 8439: there is a 64-bit nonce (the sequence number, big endian) and a
//! 64-bit block counter. The tag covers the ciphertext alone, without padding, lengths or
//! associated data. Source: wire/tinc-1.1.md section 2.2.

use std::convert::Infallible;

use subtle::ConstantTimeEq;

use crate::{chacha20, poly1305};

/// Length of the tag, in bytes.
pub const TAG: usize = 16;

/// The tag does not match key, number and ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bad tag")]
pub struct BadTag;

/// Encrypts `buffer` in place and writes the tag into its last [`TAG`] bytes. A pair of `key` and
/// `seq` must be used only once.
///
/// # Panics
/// If `buffer` has no room for the tag.
// A separate function, like `open`: benches/packet.rs excludes the ciphers from its counts by name.
#[inline(never)]
pub fn seal(key: &[u8; 32], seq: u32, buffer: &mut [u8]) {
    let (text, tag) = buffer
        .split_last_chunk_mut::<TAG>()
        .expect("the caller leaves room for the tag");
    let Ok(key) = chacha20::crypt(key, seq, text, |_, _| Ok::<_, Infallible>(()));
    *tag = poly1305::tag(&key, text);
}

/// Verifies the tag in the last [`TAG`] bytes of `buffer` in constant time, then decrypts the bytes
/// before it in place. On [`BadTag`] the buffer is unchanged.
#[inline(never)]
pub fn open(key: &[u8; 32], seq: u32, buffer: &mut [u8]) -> Result<(), BadTag> {
    let (text, tag) = buffer.split_last_chunk_mut::<TAG>().ok_or(BadTag)?;
    let check = |key: &_, text: &_| compare(&poly1305::tag(key, text), tag);
    chacha20::crypt(key, seq, text, check).map(drop)
}

/// Compares a tag with the valid one in constant time. One wide comparison is used: byte by byte it
/// takes 160 instructions a packet.
pub(super) fn compare(right: &[u8; TAG], tag: &[u8; TAG]) -> Result<(), BadTag> {
    let is_right = u128::from_ne_bytes(*right).ct_eq(&u128::from_ne_bytes(*tag));
    bool::from(is_right).then_some(()).ok_or(BadTag)
}

#[cfg(test)]
mod tests {
    use ::chacha20::{
        ChaCha20Legacy,
        cipher::{KeyIvInit, StreamCipher},
    };
    use ::poly1305::{Poly1305, universal_hash::KeyInit};
    use proptest::prelude::*;

    use super::*;

    /// The definition, step by step.
    fn by_the_book(key: &[u8; 32], seq: u32, text: &[u8]) -> Vec<u8> {
        let mut stream = vec![0; 64 + text.len()];
        let nonce = u64::from(seq).to_be_bytes();
        ChaCha20Legacy::new(key.into(), &nonce.into()).apply_keystream(&mut stream);
        let mut sealed: Vec<u8> = text.iter().zip(&stream[64..]).map(|(t, s)| t ^ s).collect();
        let mac_key: [u8; 32] = stream[..32].try_into().unwrap();
        let tag = Poly1305::new(&mac_key.into()).compute_unpadded(&sealed);
        sealed.extend_from_slice(&tag);
        sealed
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition_and_opens(
            key: [u8; 32],
            seq: u32,
            text in proptest::collection::vec(any::<u8>(), 0..700),
        ) {
            let mut buffer = text.clone();
            buffer.extend_from_slice(&[0xaa; TAG]);
            seal(&key, seq, &mut buffer);
            prop_assert_eq!(&buffer, &by_the_book(&key, seq, &text));
            prop_assert_eq!(open(&key, seq, &mut buffer), Ok(()));
            prop_assert_eq!(&buffer[..text.len()], &text[..]);
        }

        #[test]
        fn a_flipped_bit_is_refused_and_the_buffer_untouched(
            key: [u8; 32],
            seq: u32,
            text in proptest::collection::vec(any::<u8>(), 0..300),
            at: proptest::sample::Index,
        ) {
            let mut buffer = text;
            buffer.extend_from_slice(&[0; TAG]);
            seal(&key, seq, &mut buffer);
            let bit = at.index(buffer.len() * 8);
            buffer[bit / 8] ^= 1 << (bit % 8);
            let before = buffer.clone();
            prop_assert_eq!(open(&key, seq, &mut buffer), Err(BadTag));
            prop_assert_eq!(buffer, before);
        }
    }

    #[test]
    fn every_length_agrees_with_the_definition() {
        let key = [7; 32];
        for length in 0..=4_608 {
            let mut buffer = vec![0x55; length];
            let expected = by_the_book(&key, 9, &buffer);
            buffer.resize(length + TAG, 0);
            seal(&key, 9, &mut buffer);
            assert_eq!(buffer, expected, "{length} bytes");
        }
    }

    #[test]
    fn less_than_a_tag_is_refused() {
        assert_eq!(open(&[0; 32], 0, &mut [0; TAG - 1]), Err(BadTag));
    }
}
