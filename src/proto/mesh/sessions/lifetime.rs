//! Lifetimes of packet keys in every dialect: the age at which keys are renewed, the age at which
//! they expire, and the time for which their predecessors still open packets.

use std::time::{Duration, Instant};

use meshd_crypto::Rng;

use crate::dialect::Dialect;

/// Lifetimes of the packet keys of one dialect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::mesh) struct Lifetime {
    /// Longest age at which keys are renewed.
    pub(in crate::mesh) renew: Duration,
    /// Age at which keys that were not renewed expire; `None` if they stay valid.
    pub(in crate::mesh) expire: Option<Duration>,
    /// Time for which old receiving keys open packets that are on the way.
    pub(in crate::mesh) linger: Duration,
}

impl Lifetime {
    /// Returns the lifetimes of a dialect's keys, under this KeyExpire.
    pub(in crate::mesh) fn of(dialect: Dialect, key_expire: Duration) -> Self {
        let seconds = Duration::from_secs;
        match dialect {
            Dialect::Legacy | Dialect::Sptps => Self {
                renew: key_expire,
                expire: None,
                linger: seconds(5),
            },
            Dialect::Native => Self {
                renew: key_expire.min(seconds(120)),
                expire: Some(seconds(180)),
                linger: seconds(30),
            },
        }
    }

    /// Returns the time to renew keys of this age: up to a tenth earlier than [`Self::renew`] at
    /// random, so both ends rarely start at once.
    pub(in crate::mesh) fn renew_at(&self, rng: &mut Rng, now: Instant) -> Instant {
        let jitter = self.renew.mul_f64(f64::from(rng.below(1000)) / 10_000.0);
        now + self.renew - jitter
    }

    /// Returns true if keys in use since `began` have expired.
    pub(in crate::mesh) fn is_over(&self, began: Instant, now: Instant) -> bool {
        let age = now.saturating_duration_since(began);
        self.expire.is_some_and(|expire| age >= expire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::testing::start;

    #[test]
    fn keys_are_renewed_within_a_tenth_before_their_age() {
        let (now, mut rng) = (start(), Rng::new([1; 32]));
        for dialect in Dialect::ALL {
            for key_expire in [10, 100, 3600, 1_000_000].map(Duration::from_secs) {
                let lifetime = Lifetime::of(dialect, key_expire);
                assert!(lifetime.renew <= key_expire, "{dialect:?}");
                let ages: Vec<Duration> = (0..500)
                    .map(|_| lifetime.renew_at(&mut rng, now) - now)
                    .collect();
                let (least, most) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
                assert!(*most <= lifetime.renew && *most > lifetime.renew.mul_f64(0.98));
                assert!(
                    *least > lifetime.renew.mul_f64(0.899) && *least < lifetime.renew.mul_f64(0.92)
                );
            }
        }
    }

    /// A renewal may need several attempts, and ends before the keys do, whatever KeyExpire is.
    #[test]
    fn keys_expire_only_after_time_for_their_renewal() {
        for dialect in Dialect::ALL {
            for key_expire in [10, 3600, 1_000_000].map(Duration::from_secs) {
                let lifetime = Lifetime::of(dialect, key_expire);
                let began = start();
                let renewed = began + lifetime.renew + lifetime.linger;
                assert!(!lifetime.is_over(began, renewed), "{dialect:?}");
                let Some(expire) = lifetime.expire else {
                    assert!(!lifetime.is_over(began, began + 2 * key_expire));
                    continue;
                };
                assert!(lifetime.is_over(began, began + expire));
                assert!(!lifetime.is_over(began, began + expire - Duration::from_millis(1)));
            }
        }
        // tinc keeps the keys of both older dialects.
        let expires = Dialect::ALL.map(|of| Lifetime::of(of, Duration::ZERO).expire.is_some());
        assert_eq!(expires, [false, false, true]);
    }
}
