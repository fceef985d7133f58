//! Writes Ed25519 keys that nodes send over RSA-authenticated links to their host files (LearnKeys). Source:
//! wire/tinc-1.1.md section 3.4.

use std::sync::Arc;

use meshd_config::{host_path, keys};
use meshd_crypto::PublicKey;
use meshd_proto::mesh::Settings;
use meshd_wire::NodeName;

use crate::driver::Driver;

impl Driver {
    /// Adds a key to the settings and to its host file.
    pub(super) fn learn(&mut self, node: NodeName, key: PublicKey) {
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
