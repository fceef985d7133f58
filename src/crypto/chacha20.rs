//! The key stream of ChaCha20 as SPTPS has it: 24 blocks in one pass where the processor has AVX-512, which
//! is a full packet and the key of its tag; elsewhere by the library.
//!
//! A pass takes as long as one block does, so all of a packet is in the same one. The library makes 16 and
//! 8 apart. Source: tinc-1.1-wire.md section 2.2: Bernstein's ChaCha20, with a 64-bit counter and a 64-bit
//! nonce.

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
    if let Some(wide) = wide::Wide::try_new() {
        return wide::make(wide, key, seq, first, count, blocks);
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

    use pulp::{NullaryFnOnce, cast, simd_type};

    use super::{BLOCK, PASS};

    /// Blocks in four vectors, one for each row of four words.
    const LANES: usize = 4;
    /// "expand 32-byte k".
    const CONSTANT: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

    simd_type!({
        /// That the processor has AVX-512.
        pub struct Wide {
            pub avx512f: f!("avx512f"),
        }
    });

    pub(super) fn make(
        wide: Wide,
        key: &[u8; 32],
        seq: u32,
        first: u32,
        count: usize,
        blocks: &mut [[u8; BLOCK]; PASS],
    ) {
        let pass = Pass {
            wide,
            key,
            seq,
            first,
            count,
            blocks,
        };
        wide.vectorize(pass);
    }

    struct Pass<'a> {
        wide: Wide,
        key: &'a [u8; 32],
        seq: u32,
        first: u32,
        count: usize,
        blocks: &'a mut [[u8; BLOCK]; PASS],
    }

    impl NullaryFnOnce for Pass<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            match self.count.div_ceil(LANES) {
                0 | 1 => self.groups::<1>(),
                2 => self.groups::<2>(),
                3 | 4 => self.groups::<4>(),
                _ => self.groups::<{ PASS / LANES }>(),
            }
        }
    }

    /// The four rows of the state, of four blocks side by side.
    type Rows = [__m512i; 4];

    impl Pass<'_> {
        /// `N` times four blocks.
        #[inline(always)]
        fn groups<const N: usize>(self) {
            let avx = self.wide.avx512f;
            let (near, far) = self.key.split_at(16);
            let row = |half: &[u8]| four(cast(*half.first_chunk::<16>().expect("half of 32")));
            let (constant, near, far) = (four(CONSTANT), row(near), row(far));
            let begin: [Rows; N] = array::from_fn(|group| {
                let counters: [[u32; 4]; LANES] = array::from_fn(|lane| {
                    let counter = self.first + (group * LANES + lane) as u32;
                    // The nonce is the number as eight bytes, big endian.
                    [counter, 0, 0, self.seq.swap_bytes()]
                });
                [constant, near, far, cast(counters)]
            });
            let mut groups = begin;
            for _ in 0..10 {
                quarters(self.wide, &mut groups);
                for [_, b, c, d] in &mut groups {
                    *b = avx._mm512_shuffle_epi32::<0b00_11_10_01>(*b);
                    *c = avx._mm512_shuffle_epi32::<0b01_00_11_10>(*c);
                    *d = avx._mm512_shuffle_epi32::<0b10_01_00_11>(*d);
                }
                quarters(self.wide, &mut groups);
                for [_, b, c, d] in &mut groups {
                    *b = avx._mm512_shuffle_epi32::<0b10_01_00_11>(*b);
                    *c = avx._mm512_shuffle_epi32::<0b01_00_11_10>(*c);
                    *d = avx._mm512_shuffle_epi32::<0b00_11_10_01>(*d);
                }
            }
            let (blocks, _) = self.blocks.as_chunks_mut::<LANES>();
            for ((group, begin), blocks) in groups.iter().zip(&begin).zip(blocks) {
                let [a, b, c, d] =
                    array::from_fn(|row| avx._mm512_add_epi32(group[row], begin[row]));
                // Rows of blocks become blocks of rows.
                let low = (
                    avx._mm512_shuffle_i32x4::<0x44>(a, b),
                    avx._mm512_shuffle_i32x4::<0x44>(c, d),
                );
                let high = (
                    avx._mm512_shuffle_i32x4::<0xee>(a, b),
                    avx._mm512_shuffle_i32x4::<0xee>(c, d),
                );
                *blocks = [
                    cast(avx._mm512_shuffle_i32x4::<0x88>(low.0, low.1)),
                    cast(avx._mm512_shuffle_i32x4::<0xdd>(low.0, low.1)),
                    cast(avx._mm512_shuffle_i32x4::<0x88>(high.0, high.1)),
                    cast(avx._mm512_shuffle_i32x4::<0xdd>(high.0, high.1)),
                ];
            }
        }
    }

    /// The same row for four blocks.
    #[inline(always)]
    fn four(row: [u32; 4]) -> __m512i {
        cast([row; LANES])
    }

    /// Four quarter rounds of each block, step by step in all groups, so that none waits for itself.
    #[inline(always)]
    fn quarters<const N: usize>(wide: Wide, groups: &mut [Rows; N]) {
        let avx = wide.avx512f;
        macro_rules! step {
            ($to:literal += $from:literal, $turned:literal <<< $by:literal) => {
                for rows in groups.iter_mut() {
                    rows[$to] = avx._mm512_add_epi32(rows[$to], rows[$from]);
                    let turned = avx._mm512_xor_si512(rows[$turned], rows[$to]);
                    rows[$turned] = avx._mm512_rol_epi32::<$by>(turned);
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
