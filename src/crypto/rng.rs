//! The core's source of randomness: seeded by the shell, never from the system by itself.

use rand::{SeedableRng, TryRng, rngs::ChaCha20Rng};

/// A seeded generator. The daemon seeds it from the system and adds entropy hourly; the simulator
/// seeds it with a number, and the same seed gives the same run.
#[derive(Debug)]
pub struct Rng(ChaCha20Rng);

impl Rng {
    /// A generator from 32 bytes.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }

    /// A generator that goes its own way: for a link or another part with state of its own.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.bytes())
    }

    /// `N` random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        let Ok(()) = self.0.try_fill_bytes(bytes);
    }

    /// A number below `bound`, which must not be 0. The bias is below 2^-32 for every bound used here.
    #[must_use]
    pub fn below(&mut self, bound: u32) -> u32 {
        let wide = u64::from(u32::from_le_bytes(self.bytes())) * u64::from(bound.max(1));
        (wide >> 32) as u32
    }

    /// Mixes 32 fresh bytes into the state.
    pub fn add_entropy(&mut self, entropy: &[u8; 32]) {
        let mut seed: [u8; 32] = self.bytes();
        seed.iter_mut().zip(entropy).for_each(|(s, e)| *s ^= e);
        *self = Self::new(seed);
    }
}
