//! Validity periods in host files: Expires, Revoked, Ed25519PublicKeyNextFrom.
//!
//! Source: config/toml.md section 3. The times are wall times, which only the shell knows. The
//! shell asks for the settings in force at a time, and asks again at the next change.

use std::sync::Arc;

use crate::mesh::settings::{Host, MinProtocol, Settings};

impl Host {
    /// Returns the host file in force at a time, in seconds since 1970; `None` if the file is in
    /// force unchanged. A node that is shut out has no key, no address and no subnet, so lines of
    /// other nodes cannot help it.
    #[must_use]
    pub fn at(&self, unix: u64) -> Option<Self> {
        let past = |from: Option<u64>| from.is_some_and(|from| from <= unix);
        let shut_out = if past(self.revoked) {
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
        let turns = [self.expires, self.revoked, self.next_from];
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
            next_from: Some(100),
            expires: Some(200),
            revoked: Some(300),
            revoked_reason: Some("sold".into()),
            subnets: vec!["10.1.0.0/16".parse().unwrap()],
            ..Host::default()
        };
        let at = |unix| host.at(unix).unwrap_or_else(|| host.clone());
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
        let turns = [0, 100, 200, 300].map(|unix| host.turn(unix));
        assert_eq!(turns, [Some(100), Some(200), Some(300), None]);
    }
}
