//! Source of randomness of the core: the shell seeds it; it never reads the system by itself.

use rand::{SeedableRng, TryRng, rngs::ChaCha20Rng};

/// A seeded generator. The daemon seeds it from the system and adds entropy hourly. The simulator
/// seeds it with a number: the same seed gives the same run.
#[derive(Debug)]
pub struct Rng {
    generator: ChaCha20Rng,
    /// Bytes that precede the generator's own, last first.
    script: Vec<u8>,
}

impl Rng {
    /// Makes a generator from 32 bytes.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            generator: ChaCha20Rng::from_seed(seed),
            script: Vec::new(),
        }
    }

    /// Makes a generator whose first bytes are `script`, followed by those of `seed`: for replaying
    /// a recorded handshake byte by byte.
    #[must_use]
    pub fn scripted(script: &[u8], seed: [u8; 32]) -> Self {
        Self {
            script: script.iter().rev().copied().collect(),
            ..Self::new(seed)
        }
    }

    /// Makes an independent generator, for a link or another part with state of its own.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.bytes())
    }

    /// Returns `N` random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        let scripted = bytes.len().min(self.script.len());
        let (first, rest) = bytes.split_at_mut(scripted);
        let kept = self.script.len() - scripted;
        first
            .iter_mut()
            .zip(self.script.drain(kept..).rev())
            .for_each(|(to, from)| *to = from);
        let Ok(()) = self.generator.try_fill_bytes(rest);
    }

    /// Returns a number below `bound`, which must not be 0. The bias is below 2^-32 for every bound
    /// used here.
    #[must_use]
    pub fn below(&mut self, bound: u32) -> u32 {
        let wide = u64::from(u32::from_le_bytes(self.bytes())) * u64::from(bound.max(1));
        (wide >> 32) as u32
    }

    /// Returns the generator itself, for crates that need one.
    pub(super) fn crypto(&mut self) -> &mut ChaCha20Rng {
        &mut self.generator
    }

    /// Mixes 32 fresh bytes into the state.
    pub fn add_entropy(&mut self, entropy: &[u8; 32]) {
        let mut seed: [u8; 32] = self.bytes();
        seed.iter_mut().zip(entropy).for_each(|(s, e)| *s ^= e);
        *self = Self::new(seed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_comes_first_and_the_seed_after_it() {
        let mut plain = Rng::new([1; 32]);
        let mut scripted = Rng::scripted(b"abcdef", [1; 32]);
        assert_eq!(&scripted.bytes::<4>(), b"abcd");
        let [e, f, rest @ ..] = scripted.bytes::<10>();
        assert_eq!([e, f], *b"ef");
        assert_eq!(rest, plain.bytes::<8>());
        assert_eq!(scripted.bytes::<8>(), plain.bytes::<8>());
    }
}
