//! Key stream of SPTPS's ChaCha20. With AVX-512 one pass makes 24 blocks, which cover a full packet
//! and the key of its tag. Other processors use the library.
//!
//! A pass takes as long as a single block, so all blocks of a packet are made in one pass. The
//! library makes 16 and 8 blocks separately. Source: wire/tinc-1.1.md section 2.2: Bernstein's
//! ChaCha20, with a 64-bit counter and a 64-bit nonce.

#[cfg(target_arch = "x86_64")]
use archmage::{SimdToken, X64V4Token};
use chacha20::{
    ChaCha20LegacyCore,
    cipher::{KeyIvInit, StreamCipherCore, array::Array},
};

/// Length of a block, in bytes.
const BLOCK: usize = 64;
/// Most blocks of one pass.
const PASS: usize = 24;
/// The library makes blocks in multiples of this. Four blocks take as long as one, and its code for
/// a single block takes three times as long.
const TOGETHER: usize = 4;

/// Encrypts or decrypts `text` in place with the key stream of packet `seq`, unless `check`
/// rejects. `check` gets the key of the tag and the unchanged text. Returns the key of the tag.
///
/// Errors: those of `check`.
pub(super) fn crypt<E>(
    key: &[u8; 32],
    seq: u32,
    text: &mut [u8],
    check: impl FnOnce(&[u8; 32], &[u8]) -> Result<(), E>,
) -> Result<[u8; 32], E> {
    #[cfg(target_arch = "x86_64")]
    if text.len() <= wide::MOST
        && let Some(token) = X64V4Token::summon()
    {
        return wide::crypt(token, key, seq, text, check);
    }
    let mut keystream = Keystream::new(key, seq, text.len());
    let mac_key = keystream.mac_key();
    check(&mac_key, text)?;
    keystream.apply(text);
    Ok(mac_key)
}

/// The key stream of one packet. Block 0 keys Poly1305 and the payload starts with block 1.
struct Keystream<'a> {
    key: &'a [u8; 32],
    seq: u32,
    blocks: [[u8; BLOCK]; PASS],
}

impl<'a> Keystream<'a> {
    /// Makes the key stream for `length` bytes.
    fn new(key: &'a [u8; 32], seq: u32, length: usize) -> Self {
        let mut stream = Self {
            key,
            seq,
            blocks: [[0; BLOCK]; PASS],
        };
        stream.make(0, BLOCK + length);
        stream
    }

    /// Makes the blocks of `length` bytes from `first` on, as far as there is room, and up to three
    /// more.
    fn make(&mut self, first: usize, length: usize) {
        let nonce = u64::from(self.seq).to_be_bytes();
        let mut core = ChaCha20LegacyCore::new(self.key.into(), &nonce.into());
        core.set_block_pos(first as u64);
        let count = length.div_ceil(BLOCK).min(PASS);
        let blocks = &mut self.blocks[..count.next_multiple_of(TOGETHER)];
        core.write_keystream_blocks(Array::cast_slice_from_core_mut(blocks));
    }

    fn mac_key(&self) -> [u8; 32] {
        let key = self.blocks[0].first_chunk();
        *key.expect("a block has 64 bytes")
    }

    fn apply(&mut self, text: &mut [u8]) {
        let (mut now, mut rest) = text.split_at_mut(text.len().min((PASS - 1) * BLOCK));
        let mut used = 1;
        let mut next = PASS;
        loop {
            let stream = self.blocks[used..].as_flattened();
            now.iter_mut().zip(stream).for_each(|(t, s)| *t ^= s);
            if rest.is_empty() {
                return;
            }
            self.make(next, rest.len());
            next += PASS;
            used = 0;
            (now, rest) = rest.split_at_mut(rest.len().min(PASS * BLOCK));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::{arch::x86_64::__m512i, array};

    use archmage::{X64V4Token, arcane, rite};

    use super::{BLOCK, PASS};

    /// Longest text in bytes: block 0 is for the tag.
    pub(super) const MOST: usize = (PASS - 1) * BLOCK;
    /// Number of blocks in four vectors, one vector for each row of four words.
    const LANES: usize = 4;
    /// Length of a row, in bytes.
    const ROW: usize = 16;

    #[arcane(import_intrinsics)]
    pub(super) fn crypt<E, F: FnOnce(&[u8; 32], &[u8]) -> Result<(), E>>(
        _token: X64V4Token,
        key: &[u8; 32],
        seq: u32,
        text: &mut [u8],
        check: F,
    ) -> Result<[u8; 32], E> {
        let (near, far) = key.split_at(ROW);
        let row = |half: &[u8]| four(half.first_chunk().expect("half of 32"));
        // The nonce is the sequence number as eight bytes, big endian.
        let number = _mm512_maskz_set1_epi32(0x8888, seq.swap_bytes().cast_signed());
        let lanes = _mm512_set_epi32(0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0);
        let first = [
            four(b"expand 32-byte k"),
            row(near),
            row(far),
            _mm512_or_si512(lanes, number),
        ];
        match (BLOCK + text.len()).div_ceil(BLOCK * LANES) {
            0 | 1 => with::<1, E, F>(first, text, check),
            2 => with::<2, E, F>(first, text, check),
            3 | 4 => with::<4, E, F>(first, text, check),
            _ => with::<{ PASS / LANES }, E, F>(first, text, check),
        }
    }

    /// Works as [`crypt`], with `N` times four blocks.
    #[rite(v4, import_intrinsics)]
    fn with<const N: usize, E, F: FnOnce(&[u8; 32], &[u8]) -> Result<(), E>>(
        first: Rows,
        text: &mut [u8],
        check: F,
    ) -> Result<[u8; 32], E> {
        let stream = groups::<N>(first);
        let mut block = [0; BLOCK];
        _mm512_storeu_si512(&mut block, stream[0][0]);
        let mac_key = *block.first_chunk().expect("half of a block");
        check(&mac_key, text)?;
        let (whole, odd) = text.as_chunks_mut::<BLOCK>();
        let mut stream = stream.as_flattened()[1..].iter();
        for (text, stream) in whole.iter_mut().zip(stream.by_ref()) {
            _mm512_storeu_si512(text, _mm512_xor_si512(_mm512_loadu_si512(text), *stream));
        }
        if let Some(stream) = stream.next().filter(|_| !odd.is_empty()) {
            _mm512_storeu_si512(&mut block, *stream);
            odd.iter_mut().zip(block).for_each(|(t, s)| *t ^= s);
        }
        Ok(mac_key)
    }

    /// The four rows of the state, of four blocks side by side.
    type Rows = [__m512i; 4];

    /// Makes `N` times four blocks, starting with the state `first`.
    #[rite(v4, import_intrinsics)]
    fn groups<const N: usize>(first: Rows) -> [Rows; N] {
        let mut begin = [first; N];
        for (group, [_, _, _, counters]) in begin.iter_mut().enumerate() {
            let by = _mm512_maskz_set1_epi32(0x1111, (group * LANES) as i32);
            *counters = _mm512_add_epi32(*counters, by);
        }
        let mut groups = begin;
        for _ in 0..10 {
            quarters(&mut groups);
            for [_, b, c, d] in &mut groups {
                *b = _mm512_shuffle_epi32::<0b00_11_10_01>(*b);
                *c = _mm512_shuffle_epi32::<0b01_00_11_10>(*c);
                *d = _mm512_shuffle_epi32::<0b10_01_00_11>(*d);
            }
            quarters(&mut groups);
            for [_, b, c, d] in &mut groups {
                *b = _mm512_shuffle_epi32::<0b10_01_00_11>(*b);
                *c = _mm512_shuffle_epi32::<0b01_00_11_10>(*c);
                *d = _mm512_shuffle_epi32::<0b00_11_10_01>(*d);
            }
        }
        for (group, begin) in groups.iter_mut().zip(&begin) {
            let [a, b, c, d] = array::from_fn(|row| _mm512_add_epi32(group[row], begin[row]));
            // Transposes rows of blocks into blocks of rows.
            let low = (
                _mm512_shuffle_i32x4::<0x44>(a, b),
                _mm512_shuffle_i32x4::<0x44>(c, d),
            );
            let high = (
                _mm512_shuffle_i32x4::<0xee>(a, b),
                _mm512_shuffle_i32x4::<0xee>(c, d),
            );
            *group = [
                _mm512_shuffle_i32x4::<0x88>(low.0, low.1),
                _mm512_shuffle_i32x4::<0xdd>(low.0, low.1),
                _mm512_shuffle_i32x4::<0x88>(high.0, high.1),
                _mm512_shuffle_i32x4::<0xdd>(high.0, high.1),
            ];
        }
        groups
    }

    /// Returns the same row for four blocks.
    #[rite(v4, import_intrinsics)]
    fn four(row: &[u8; ROW]) -> __m512i {
        _mm512_broadcast_i32x4(_mm_loadu_si128(row))
    }

    /// Runs four quarter rounds of each block, step by step in all groups, so no step waits for the
    /// one before.
    #[rite(v4, import_intrinsics)]
    fn quarters<const N: usize>(groups: &mut [Rows; N]) {
        macro_rules! step {
            ($to:literal += $from:literal, $turned:literal <<< $by:literal) => {
                for rows in groups.iter_mut() {
                    rows[$to] = _mm512_add_epi32(rows[$to], rows[$from]);
                    let turned = _mm512_xor_si512(rows[$turned], rows[$to]);
                    rows[$turned] = _mm512_rol_epi32::<$by>(turned);
                }
            };
        }
        step!(0 += 1, 3 <<< 16);
        step!(2 += 3, 1 <<< 12);
        step!(0 += 1, 3 <<< 8);
        step!(2 += 3, 1 <<< 7);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length up to more than one pass.
    #[test]
    fn both_ways_make_the_same() {
        let key = std::array::from_fn(|i| i as u8);
        for length in 0..2 * PASS * BLOCK {
            for seq in [0, 0x0102_0304, u32::MAX] {
                let [mut ours, mut theirs] = [(); 2].map(|()| vec![7; length]);
                let Ok(mac_key) = crypt(&key, seq, &mut ours, |_, text| {
                    assert!(text.iter().all(|byte| *byte == 7));
                    Ok::<_, std::convert::Infallible>(())
                });
                let mut library = Keystream::new(&key, seq, length);
                assert_eq!(mac_key, library.mac_key());
                library.apply(&mut theirs);
                assert_eq!(ours, theirs, "{length}");
                let refused = crypt(&key, seq, &mut ours, |_, _| Err(()));
                assert_eq!((refused, &ours), (Err(()), &theirs));
            }
        }
    }
}
