//! A token bucket, for links and the mesh.

use std::time::Instant;

/// A token bucket: `rate` a second, at most `burst` at once.
#[derive(Debug, Clone)]
pub struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(burst: usize, now: Instant) -> Self {
        Self {
            tokens: burst as f64,
            filled: now,
        }
    }

    /// Takes one token; `false` if there is none.
    pub fn take(&mut self, rate: u32, burst: usize, now: Instant) -> bool {
        self.take_at(1.0, f64::from(rate), burst, now)
    }

    /// Takes `count` tokens; `false` if there are fewer.
    pub fn take_many(&mut self, count: usize, rate: u32, burst: usize, now: Instant) -> bool {
        self.take_at(count as f64, f64::from(rate), burst, now)
    }

    /// Works as [`Self::take`], with one token every `seconds`.
    pub fn take_slowly(&mut self, seconds: u32, burst: usize, now: Instant) -> bool {
        self.take_at(1.0, f64::from(seconds).recip(), burst, now)
    }

    /// Returns true if [`Self::take`] would find a token.
    #[must_use]
    pub fn has(&self, rate: u32, burst: usize, now: Instant) -> bool {
        self.clone().take(rate, burst, now)
    }

    /// Returns the number of tokens.
    pub fn left(&mut self, rate: u32, burst: usize, now: Instant) -> f64 {
        self.fill(f64::from(rate), burst, now);
        self.tokens
    }

    fn fill(&mut self, rate: f64, burst: usize, now: Instant) {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * rate).min(burst as f64);
        self.filled = now;
    }

    fn take_at(&mut self, count: f64, rate: f64, burst: usize, now: Instant) -> bool {
        self.fill(rate, burst, now);
        if self.tokens < count {
            return false;
        }
        self.tokens -= count;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    #[test]
    fn work_a_second_is_bounded_by_rate_and_burst() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, start);
        let taken = (0..10_000)
            .filter(|ms| bucket.take(5, 10, start + Duration::from_millis(*ms)))
            .count();
        assert_eq!(taken, 10 + 9 * 5 + 4);
    }
}
