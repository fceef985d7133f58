//! Detects packets that arrive one at a time. Such a packet is sent at once, without waiting for a
//! batch.

use std::time::{Duration, Instant};

/// Shortest time since the start of the last batch after which a batch takes one packet only.
const REST: Duration = Duration::from_micros(200);
/// The same after a batch below [`LITTLE`].
const GAP: Duration = Duration::from_micros(20);
/// Bytes of a batch below which it is no bulk: a packet or two.
const LITTLE: usize = 2_000;

/// State of a thread's last batch.
#[derive(Debug, Default)]
pub struct Batching {
    began: Option<Instant>,
    bytes: usize,
}

impl Batching {
    /// Starts a batch. Returns true if the batch should take one packet only.
    pub fn begin(&mut self, now: Instant) -> bool {
        let gap = if self.bytes < LITTLE { GAP } else { REST };
        let began = self.began.replace(now);
        began.is_none_or(|began| now.duration_since(began) >= gap)
    }

    /// Records the number of bytes in the batch.
    pub fn end(&mut self, bytes: usize) {
        self.bytes = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_proto::route::testing;

    /// Results for batches that start so many microseconds after the one before, with so many
    /// bytes.
    fn joined(batches: &[(u64, usize)]) -> Vec<bool> {
        let (mut batching, mut now) = (Batching::default(), testing::now());
        let batch = |(gap, bytes): &(u64, usize)| {
            now += Duration::from_micros(*gap);
            let alone = batching.begin(now);
            batching.end(*bytes);
            alone
        };
        batches.iter().map(batch).collect()
    }

    #[test]
    fn what_comes_alone_goes_alone_as_does_its_answer() {
        assert_eq!(joined(&[(0, 84), (2_000, 84), (60, 84)]), [true; 3]);
    }

    #[test]
    fn a_flood_is_gathered() {
        assert_eq!(joined(&[(5, 64); 20])[1..], [false; 19]);
    }

    #[test]
    fn bulk_is_gathered_however_long_its_batches_take() {
        assert_eq!(joined(&[(150, 250_000); 20])[1..], [false; 19]);
        assert_eq!(
            joined(&[(0, 250_000), (300, 64)]),
            [true; 2],
            "after a rest"
        );
    }
}
