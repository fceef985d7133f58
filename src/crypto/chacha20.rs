//! The key stream of ChaCha20 as SPTPS has it: 24 blocks in one pass where the processor has AVX-512, which
//! is a full packet and the key of its tag; elsewhere by the library.
//!
//! A pass takes as long as one block does, so all of a packet is in the same one. The library makes 16 and
//! 8 apart. Source: tinc-1.1-wire.md section 2.2: Bernstein's ChaCha20, with a 64-bit counter and a 64-bit
//! nonce.

#[cfg(target_arch = "x86_64")]
use archmage::{SimdToken, X64V4Token};
use chacha20::{
    ChaCha20LegacyCore,
    cipher::{KeyIvInit, StreamCipherCore, array::Array},
};

/// Length of a block, in bytes.
pub(super) const BLOCK: usize = 64;
/// Blocks of one pass, at most: the most that may be asked for at once.
pub(super) const PASS: usize = 24;

/// Makes the blocks from number `first` on of the packet `seq`. More may be made than were asked for.
pub(super) fn make(
    key: &[u8; 32],
    seq: u32,
    first: u32,
    count: usize,
    blocks: &mut [[u8; BLOCK]; PASS],
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = X64V4Token::summon() {
        return wide::make(token, key, seq, first, count, blocks);
    }
    by_the_library(key, seq, first, count, blocks);
}

/// Blocks are made in multiples of this: four take as long as one, and the library's way of making a
/// single one takes three times as long.
const TOGETHER: usize = 4;

fn by_the_library(
    key: &[u8; 32],
    seq: u32,
    first: u32,
    count: usize,
    blocks: &mut [[u8; BLOCK]; PASS],
) {
    let nonce = u64::from(seq).to_be_bytes();
    let mut core = ChaCha20LegacyCore::new(key.into(), &nonce.into());
    core.set_block_pos(first.into());
    let count = count.next_multiple_of(TOGETHER);
    core.write_keystream_blocks(Array::cast_slice_from_core_mut(&mut blocks[..count]));
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::{arch::x86_64::__m512i, array};

    use archmage::{X64V4Token, arcane, rite};

    use super::{BLOCK, PASS};

    /// Blocks in four vectors, one for each row of four words.
    const LANES: usize = 4;
    /// Length of a row, in bytes.
    const ROW: usize = 16;

    #[arcane(import_intrinsics)]
    pub(super) fn make(
        _token: X64V4Token,
        key: &[u8; 32],
        seq: u32,
        first: u32,
        count: usize,
        blocks: &mut [[u8; BLOCK]; PASS],
    ) {
        let (near, far) = key.split_at(ROW);
        let row = |half: &[u8]| four(half.first_chunk().expect("half of 32"));
        // The nonce is the number as eight bytes, big endian.
        let number = seq.swap_bytes().cast_signed();
        let number = _mm512_maskz_set1_epi32(0x8888, number);
        let lanes = _mm512_set_epi32(0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0);
        let counters = _mm512_maskz_set1_epi32(0x1111, first.cast_signed());
        let counters = _mm512_add_epi32(counters, lanes);
        let begin = [
            four(b"expand 32-byte k"),
            row(near),
            row(far),
            _mm512_or_si512(counters, number),
        ];
        match count.div_ceil(LANES) {
            0 | 1 => groups::<1>(begin, blocks),
            2 => groups::<2>(begin, blocks),
            3 | 4 => groups::<4>(begin, blocks),
            _ => groups::<{ PASS / LANES }>(begin, blocks),
        }
    }

    /// The four rows of the state, of four blocks side by side.
    type Rows = [__m512i; 4];

    /// `N` times four blocks, from those on that are begun with `first`.
    #[rite(v4, import_intrinsics)]
    fn groups<const N: usize>(first: Rows, blocks: &mut [[u8; BLOCK]; PASS]) {
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
        let (blocks, _) = blocks.as_chunks_mut::<LANES>();
        for ((group, begin), blocks) in groups.iter().zip(&begin).zip(blocks) {
            let [a, b, c, d] = array::from_fn(|row| _mm512_add_epi32(group[row], begin[row]));
            // Rows of blocks become blocks of rows.
            let low = (
                _mm512_shuffle_i32x4::<0x44>(a, b),
                _mm512_shuffle_i32x4::<0x44>(c, d),
            );
            let high = (
                _mm512_shuffle_i32x4::<0xee>(a, b),
                _mm512_shuffle_i32x4::<0xee>(c, d),
            );
            let done = [
                _mm512_shuffle_i32x4::<0x88>(low.0, low.1),
                _mm512_shuffle_i32x4::<0xdd>(low.0, low.1),
                _mm512_shuffle_i32x4::<0x88>(high.0, high.1),
                _mm512_shuffle_i32x4::<0xdd>(high.0, high.1),
            ];
            for (block, done) in blocks.iter_mut().zip(done) {
                _mm512_storeu_si512(block, done);
            }
        }
    }

    /// The same row for four blocks.
    #[rite(v4, import_intrinsics)]
    fn four(row: &[u8; ROW]) -> __m512i {
        _mm512_broadcast_i32x4(_mm_loadu_si128(row))
    }

    /// Four quarter rounds of each block, step by step in all groups, so that none waits for itself.
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

    #[test]
    fn both_ways_make_the_same_blocks() {
        let key = std::array::from_fn(|i| i as u8);
        for count in 1..=PASS {
            for (seq, first) in [(0, 0), (0x0102_0304, 0), (u32::MAX, 25)] {
                let [mut ours, mut theirs] = [[[0; BLOCK]; PASS]; 2];
                make(&key, seq, first, count, &mut ours);
                by_the_library(&key, seq, first, count, &mut theirs);
                assert_eq!(ours[..count], theirs[..count]);
            }
        }
    }
}
