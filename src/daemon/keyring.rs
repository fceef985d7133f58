//! Host keys for incoming links: the settings in force, and host files that appeared since the last reload.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use meshd_config::Source;
use meshd_os::clock;
use meshd_proto::{
    link::{Credentials, Upgrade},
    mesh::{Settings, settings::Host},
};
use meshd_wire::NodeName;

/// Time before a name without a host file is looked up again. Source: proto/threat-model.md section 4.
const NEGATIVE: Duration = Duration::from_secs(1);
/// Time before a node that exchanged Ed25519 keys with us gets ours again: it may be unable to store the key.
const UPGRADE_EVERY: Duration = Duration::from_secs(600);
/// Maximum number of remembered unknown names; above, all unknown names wait for the second to pass.
const MAX_UNKNOWN: usize = 256;

/// Keys of the host files.
pub struct HostKeys {
    source: Source,
    settings: Arc<Settings>,
    unknown: BTreeMap<NodeName, Instant>,
    found: Vec<(NodeName, Arc<Host>)>,
    /// Time of the last exchange of Ed25519 keys, by node.
    upgraded: BTreeMap<NodeName, Instant>,
}

impl HostKeys {
    /// Uses the keys of this configuration.
    #[must_use]
    pub fn new(source: Source, settings: Arc<Settings>) -> Self {
        Self {
            source,
            settings,
            unknown: BTreeMap::new(),
            found: Vec::new(),
            upgraded: BTreeMap::new(),
        }
    }

    /// Uses a new configuration.
    pub fn replace(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
        self.unknown.clear();
    }

    /// Uses another directory of host files, after a change of the root directory.
    pub fn rebase(&mut self, source: Source) {
        self.source = source;
    }

    /// Returns host files read since the last call that are not part of the settings.
    pub fn take_found(&mut self) -> Vec<(NodeName, Arc<Host>)> {
        std::mem::take(&mut self.found)
    }

    /// Records an exchange of Ed25519 keys, to delay the next one.
    pub fn note_upgrade(&mut self, node: NodeName, now: Instant) {
        self.upgraded.insert(node, now);
    }

    /// True if keys were exchanged so recently that a repetition would not help.
    fn told_lately(&self, node: &NodeName, now: Instant) -> bool {
        let age = |at: &Instant| now.saturating_duration_since(*at);
        self.upgraded
            .get(node)
            .is_some_and(|at| age(at) < UPGRADE_EVERY)
    }

    /// Returns the host file of a node, from the settings or from disk.
    fn load(&mut self, name: &NodeName, now: Instant) -> Option<Credentials> {
        let unknown = &mut self.unknown;
        unknown.retain(|_, since| now.saturating_duration_since(*since) < NEGATIVE);
        if unknown.contains_key(name) || unknown.len() >= MAX_UNKNOWN {
            return None;
        }
        let host = meshd_config::load_host(&self.source, name).ok();
        let host = host.map(|host| host.at(clock::unix()).unwrap_or(host));
        let credentials = |host: Host| Some((self.settings.credentials(&host)?, host));
        let Some((credentials, host)) = host.and_then(credentials) else {
            unknown.insert(name.clone(), now);
            return None;
        };
        self.found.push((name.clone(), Arc::new(host)));
        Some(credentials)
    }

    /// Returns the credentials of `name`; `None` if there is no such node, or no key of it.
    pub fn credentials(&mut self, name: &NodeName, now: Instant) -> Option<Credentials> {
        if *name == self.settings.name {
            return None;
        }
        let host = self.settings.hosts.get(name);
        let credentials = host.and_then(|host| self.settings.credentials(host));
        let mut credentials = credentials.or_else(|| self.load(name, now))?;
        if self.told_lately(name, now) {
            credentials.upgrade = Upgrade::No;
        }
        Some(credentials)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use meshd_crypto::{PrivateKey, Rng, rsa::RsaPrivate};

    /// A node that got our key and connects without it does not get the key again for a while.
    #[test]
    fn keys_are_told_once_in_ten_minutes() {
        let text = include_str!("../../tests/vectors/tinc-1.0.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let pem = vectors["rsa_keys"]["alpha"]["private_pem"]
            .as_str()
            .unwrap();
        let rsa = RsaPrivate::from_pem(pem).unwrap();
        let key = PrivateKey::generate(&mut Rng::new([1; 32]));
        let names = ["me", "a", "b"].map(|name| NodeName::new(name).unwrap());
        let host = Host {
            key: Some(key.public()),
            rsa: Some(rsa.public()),
            ..Host::default()
        };
        let host = Arc::new(host);
        let settings = Settings {
            rsa: Some(Arc::new(rsa)),
            hosts: names[1..]
                .iter()
                .map(|name| (name.clone(), Arc::clone(&host)))
                .collect(),
            ..Settings::new(names[0].clone(), Arc::new(key))
        };
        let now = clock::now();
        let mut keys = HostKeys::new(Source::default(), Arc::new(settings));
        keys.note_upgrade(names[1].clone(), now);
        for (after, expected) in [
            (0, Upgrade::No),
            (599, Upgrade::No),
            (600, Upgrade::Possible),
        ] {
            let later = now + Duration::from_secs(after);
            let mut upgrade = |name| keys.credentials(name, later).unwrap().upgrade;
            assert_eq!(upgrade(&names[1]), expected, "{after} s");
            assert_eq!(upgrade(&names[2]), Upgrade::Possible);
        }
    }

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
        let mut keys = HostKeys::new(source, Arc::new(settings));
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
