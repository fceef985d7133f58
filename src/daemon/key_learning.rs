//! Handles Ed25519 keys that nodes send over RSA-authenticated links: reports them, and with LearnKeys writes them to
//! the host file. Source: wire/tinc-1.1.md section 3.4.

use std::{sync::Arc, time::Instant};

use meshd_config::{host_path, keys};
use meshd_crypto::PublicKey;
use meshd_proto::mesh::{Input, Settings};
use meshd_wire::NodeName;

use crate::driver::Driver;

impl Driver {
    /// Takes the keys that links received.
    pub(super) fn adopt_told_keys(&mut self, now: Instant) {
        for told in self.links.take_upgraded() {
            let settings = &self.config.settings;
            let host = settings.hosts.get(&told.name);
            let known = host.is_some_and(|host| host.key.is_some());
            self.keys.note_upgrade(told.name.clone(), now);
            let (node, key) = (told.name, told.key);
            match (known, settings.learn_keys) {
                (true, _) => {
                    tracing::info!(%node, "the node accepted our Ed25519 key; new links use SPTPS");
                }
                (false, true) => self.learn(node, key),
                (false, false) => self.inputs.push(Input::KeyTold { node, key }),
            }
        }
    }

    /// Adds a key to the settings and to its host file.
    fn learn(&mut self, node: NodeName, key: PublicKey) {
        let mut settings = Settings::clone(&self.config.settings);
        if let Some(host) = settings.hosts.get_mut(&node) {
            Arc::make_mut(host).key = Some(key);
        }
        self.use_settings(Arc::new(settings));
        let source = &self.config.source;
        let path = source.path(&host_path(source, &node));
        // The next connection uses the key, and a reload reads it from the file.
        match keys::write_public(&path, &key) {
            Ok(_) => {
                tracing::warn!(%node, %key, "learned the node's Ed25519 key over an RSA-authenticated link (LearnKeys)");
            }
            Err(error) => {
                tracing::error!(%node, %error, "cannot write {}; add the key {key} by hand, because it is lost at the next reload", path.display());
            }
        }
    }
}
