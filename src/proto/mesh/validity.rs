//! Validity periods in host files: Expires, Revoked, Ed25519PublicKeyNextFrom.
//!
//! Source: config/toml.md section 3. The times are wall times, which only the shell knows. The
//! shell asks for the settings in force at a time, and asks again at the next change.

use std::sync::Arc;

use crate::mesh::settings::{Host, MinProtocol, Settings};

/// Time before which a clock is wrong, in seconds since 1970: 30 November 2026. A machine without a
/// battery starts in 1970.
pub const EARLIEST: u64 = 1_795_996_800;

impl Host {
    /// Returns the host file in force at a time, in seconds since 1970; `None` if the file is in
    /// force unchanged. A node that is shut out has no key, no address and no subnet, so lines of
    /// other nodes cannot help it. While the clock is wrong, a node that is to be revoked at any time
    /// is shut out: the operator gave it up.
    #[must_use]
    pub fn at(&self, unix: u64) -> Option<Self> {
        let past = |from: Option<u64>| from.is_some_and(|from| from <= unix);
        let revoked = past(self.revoked) || self.revoked.is_some() && unix < EARLIEST;
        let shut_out = if revoked {
            Some(match &self.revoked_reason {
                Some(reason) => format!("revoked: {reason}"),
                None => "revoked".to_owned(),
            })
        } else {
            past(self.expires).then(|| "expired".to_owned())
        };
        if let Some(why) = shut_out {
            return Some(Self {
                shut_out: Some(why),
                min: Some(MinProtocol::Native),
                labels: self.labels.clone(),
                ..Self::default()
            });
        }
        let waits = self.next.is_some() && self.next_from.is_some_and(|from| from > unix);
        waits.then(|| Self {
            next: None,
            ..self.clone()
        })
    }

    /// Time of the next change of [`Self::at`] after this time.
    #[must_use]
    pub fn turn(&self, unix: u64) -> Option<u64> {
        let right = self.revoked.map(|_| EARLIEST);
        let turns = [self.expires, self.revoked, self.next_from, right];
        turns.into_iter().flatten().filter(|at| *at > unix).min()
    }
}

impl Settings {
    /// Returns the settings in force at a time, in seconds since 1970.
    #[must_use]
    pub fn at(self: &Arc<Self>, unix: u64) -> Arc<Self> {
        let mut settings = Arc::clone(self);
        for (name, host) in &self.hosts {
            if let Some(host) = host.at(unix) {
                let hosts = &mut Arc::make_mut(&mut settings).hosts;
                hosts.insert(name.clone(), Arc::new(host));
            }
        }
        settings
    }

    /// Time of the next change of [`Self::at`] after this time.
    #[must_use]
    pub fn turn(&self, unix: u64) -> Option<u64> {
        self.hosts.values().filter_map(|host| host.turn(unix)).min()
    }
}

/// Time of the last evaluation of validity periods, and of the next change, in seconds since 1970.
#[derive(Debug, Clone, Copy, Default)]
pub struct Validity {
    evaluated: u64,
    next_change: Option<u64>,
}

impl Validity {
    /// Returns the settings in force at a time.
    #[must_use]
    pub fn of(settings: &Arc<Settings>, unix: u64) -> (Arc<Settings>, Self) {
        if unix < EARLIEST {
            tracing::warn!(
                "the clock of this machine is wrong: Expires and Ed25519PublicKeyNextFrom may not hold; nodes with Revoked are shut out"
            );
        }
        let validity = Self {
            evaluated: unix,
            next_change: settings.turn(unix),
        };
        (settings.at(unix), validity)
    }

    /// Returns true if a new evaluation is due: the time of a change has come, or the clock was set
    /// back.
    #[must_use]
    pub fn is_due(&self, unix: u64) -> bool {
        self.next_change.is_some_and(|change| change <= unix) || unix < self.evaluated
    }

    /// Returns the time of the next change.
    #[must_use]
    pub fn next_change(&self) -> Option<u64> {
        self.next_change
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshd_crypto::{PrivateKey, Rng};

    #[test]
    fn words_hold_from_and_until_their_times() {
        let key = |seed| PrivateKey::generate(&mut Rng::new([seed; 32])).public();
        let host = Host {
            key: Some(key(1)),
            next: Some(key(2)),
            next_from: Some(EARLIEST + 100),
            expires: Some(EARLIEST + 200),
            revoked: Some(EARLIEST + 300),
            revoked_reason: Some("sold".into()),
            subnets: vec!["10.1.0.0/16".parse().unwrap()],
            ..Host::default()
        };
        let at = |unix| host.at(EARLIEST + unix).unwrap_or_else(|| host.clone());
        let seen = |unix| {
            let host = at(unix);
            (
                host.key.is_some(),
                host.next.is_some(),
                host.subnets.len(),
                host.shut_out,
            )
        };
        assert_eq!(seen(99), (true, false, 1, None));
        assert_eq!(seen(100), (true, true, 1, None));
        assert_eq!(seen(199), (true, true, 1, None));
        assert_eq!(seen(200), (false, false, 0, Some("expired".into())));
        assert_eq!(seen(300), (false, false, 0, Some("revoked: sold".into())));
        assert_eq!(at(200).min, Some(MinProtocol::Native), "nor in legacy");
        let turns = [0, 100, 200, 300].map(|unix| host.turn(EARLIEST + unix));
        let next = [100, 200, 300].map(|unix| Some(EARLIEST + unix));
        assert_eq!(turns, [next[0], next[1], next[2], None]);
    }

    /// A clock that starts in 1970 lets nobody in that was revoked, and nobody in that is to be
    /// revoked, until it is right.
    #[test]
    fn a_clock_before_the_program_lets_no_revoked_node_in() {
        for revoked in [EARLIEST - 1, EARLIEST + 300] {
            let host = Host {
                key: Some(PrivateKey::generate(&mut Rng::new([1; 32])).public()),
                revoked: Some(revoked),
                ..Host::default()
            };
            for unix in [0, 60, EARLIEST - 2] {
                assert!(host.at(unix).is_some_and(|host| host.shut_out.is_some()));
            }
            assert_eq!(host.turn(60), Some(revoked.min(EARLIEST)));
            let in_time = host.at(EARLIEST).is_none();
            assert_eq!(in_time, revoked > EARLIEST);
        }
    }
}
