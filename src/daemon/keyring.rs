//! Host files in force, and the keys of nodes for links: from the settings, or from host files that appeared since the
//! last reload.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use meshd_config::Source;
use meshd_os::clock;
use meshd_proto::{
    link::Credentials,
    mesh::{Settings, settings::Host, validity::Validity},
};
use meshd_wire::NodeName;

use crate::driver::Driver;

/// Time before a name without a host file is looked up again. Source: proto/threat-model.md section 4.
const NEGATIVE: Duration = Duration::from_secs(1);
/// Maximum number of remembered unknown names; above, all unknown names wait for the second to pass.
const MAX_UNKNOWN: usize = 256;

/// Host files by name.
pub struct HostKeys {
    source: Source,
    /// The settings at this time.
    in_force: Arc<Settings>,
    validity: Validity,
    unknown: BTreeMap<NodeName, Instant>,
}

impl HostKeys {
    /// Uses the host files of this configuration.
    #[must_use]
    pub fn new(source: Source, settings: &Arc<Settings>) -> Self {
        let (in_force, validity) = Validity::of(settings, clock::unix());
        Self {
            source,
            in_force,
            validity,
            unknown: BTreeMap::new(),
        }
    }

    /// Returns the settings in force: without the nodes that have expired or are revoked.
    #[must_use]
    pub fn in_force(&self) -> Arc<Settings> {
        Arc::clone(&self.in_force)
    }

    /// Uses a new configuration.
    pub fn replace(&mut self, settings: &Arc<Settings>) {
        (self.in_force, self.validity) = Validity::of(settings, clock::unix());
        self.unknown.clear();
    }

    /// Uses another directory of host files, after a change of the root directory.
    pub fn rebase(&mut self, source: Source) {
        self.source = source;
    }

    /// Returns the credentials of a node; `None` if there is no such node, or no key of it. A host file that is not
    /// part of the settings is returned, too.
    fn credentials(
        &mut self,
        name: &NodeName,
        now: Instant,
    ) -> Option<(Credentials, Option<Host>)> {
        if *name == self.in_force.name {
            return None;
        }
        let host = self.in_force.hosts.get(name);
        let credentials = host.and_then(|host| self.in_force.credentials(host));
        match credentials {
            Some(credentials) => Some((credentials, None)),
            None => self.load(name, now),
        }
    }

    /// Reads the host file of a node from disk.
    fn load(&mut self, name: &NodeName, now: Instant) -> Option<(Credentials, Option<Host>)> {
        self.unknown
            .retain(|_, since| now.saturating_duration_since(*since) < NEGATIVE);
        if self.unknown.contains_key(name) || self.unknown.len() >= MAX_UNKNOWN {
            return None;
        }
        let loaded = meshd_config::load_host(&self.source, name).ok();
        let usable = loaded.and_then(|host| {
            let in_force = host.at(clock::unix());
            let credentials = self
                .in_force
                .credentials(in_force.as_ref().unwrap_or(&host));
            Some((credentials?, Some(host)))
        });
        if usable.is_none() {
            self.unknown.insert(name.clone(), now);
        }
        usable
    }
}

impl Driver {
    /// Answers the pool. A host file that appeared since the last reload becomes part of the settings, before the
    /// links that use it are up.
    pub(super) fn credentials(&mut self, name: &NodeName, now: Instant) -> Option<Credentials> {
        let (credentials, found) = self.links.keys.credentials(name, now)?;
        if let Some(host) = found {
            tracing::info!(node = %name, "new host file");
            let mut settings = Settings::clone(&self.config.settings);
            settings.hosts.insert(name.clone(), Arc::new(host));
            self.use_settings(Arc::new(settings));
        }
        Some(credentials)
    }

    /// Puts statements with a validity period (Expires, Revoked, Ed25519PublicKeyNextFrom) into effect when their time
    /// has come, without reading the files. Source: config/toml.md section 3.
    pub(super) fn keep_validity(&mut self) {
        if self.links.keys.validity.is_due(clock::unix()) {
            self.use_settings(Arc::clone(&self.config.settings));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use meshd_crypto::{PrivateKey, Rng};

    /// A name without a host file is looked for once a second, and no name is while too many are unknown.
    #[test]
    fn unknown_names_cost_no_disk_access() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        fs::create_dir(&hosts).unwrap();
        let source = Source {
            base: dir.path().to_owned(),
            ..Source::default()
        };
        let key = PrivateKey::generate(&mut Rng::new([1; 32]));
        let text = format!("Ed25519PublicKey = {}\n", key.public());
        let name = |name: &str| NodeName::new(name).unwrap();
        let settings = Settings::new(name("me"), Arc::new(key));
        let now = clock::now();
        let mut keys = HostKeys::new(source, &Arc::new(settings));
        let mut is_known = |of: &str, after: u64| {
            let later = now + Duration::from_millis(after);
            keys.credentials(&name(of), later).is_some()
        };
        assert!(!is_known("a", 0));
        fs::write(hosts.join("a"), &text).unwrap();
        assert!(!is_known("a", 999), "looked for again too early");
        assert!(is_known("a", 1_000));

        fs::write(hosts.join("b"), &text).unwrap();
        for n in 0..MAX_UNKNOWN {
            assert!(!is_known(&format!("x{n}"), 2_000));
        }
        assert!(!is_known("b", 2_999), "looked for beside too many");
        assert!(is_known("b", 3_000));
    }
}
