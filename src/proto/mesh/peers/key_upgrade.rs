//! The announced Ed25519 key of a neighbour whose host file has an RSA key and no Ed25519 key.
//!
//! A tinc 1.1 sends its Ed25519 key in an UPGRADE, and in answer to REQ_PUBKEY. The key is only
//! reported to the operator, unless LearnKeys is set. Source: wire/tinc-1.1.md sections 3.4 and
//! 3.7, proto/threat-model.md section 2.3.

use meshd_crypto::PublicKey;
use meshd_wire::NodeName;

use crate::{
    mesh::{LinkId, Mesh, sessions::keys::EXT_REQ_PUBKEY},
    route::NodeIdx,
};

impl Mesh {
    /// Asks a legacy neighbour that is a tinc 1.1 for its key. A tinc 1.0 must not be asked: it
    /// ends the link.
    pub(in crate::mesh) fn ask_for_key(&mut self, link: LinkId) {
        let Some(peer) = self.active(link) else {
            return;
        };
        let (idx, hello) = (peer.node, &peer.hello);
        let tinc11 = hello.is_legacy() && hello.minor > 0;
        if tinc11 && self.cx.settings.sptps && self.lacks_key(&hello.name) {
            self.send_req_key(idx, EXT_REQ_PUBKEY, String::new());
        }
    }

    /// Handles `15 FROM US 20 KEY`, received over this link.
    pub(in crate::mesh) fn answered_key(&mut self, link: LinkId, from: NodeIdx, text: &str) {
        let own = self.nodes[from].link == Some(link);
        if let Ok(key) = PublicKey::from_base64(text)
            && own
            && self.nodes[from].reachability.legacy
        {
            self.key_told(from, key);
        }
    }

    /// Handles the key that a node sent over a link authenticated by its RSA key.
    pub(in crate::mesh) fn key_told(&mut self, idx: NodeIdx, key: PublicKey) {
        let name = self.nodes[idx].name();
        if self.lacks_key(name) && self.peers.of[idx].announced_key != Some(key) {
            tracing::warn!(node = %name, "{}", said_key(name, key));
            self.peers.of[idx].announced_key = Some(key);
        }
    }

    /// Explains why no more than legacy is spoken with a node, as far as a missing key is the
    /// reason.
    pub(in crate::mesh) fn why_no_key(&self, name: &NodeName) -> String {
        let host = self.cx.settings.hosts.get(name);
        if let Some(why) = host.and_then(|host| host.bad_key.as_ref()) {
            return format!(
                "the Ed25519 key in hosts/{name} cannot be read ({why}): mend the line"
            );
        }
        let idx = self.nodes.find(name);
        match idx.and_then(|idx| self.peers.of[idx].announced_key) {
            Some(key) => said_key(name, key),
            None => format!("no Ed25519PublicKey in hosts/{name}"),
        }
    }

    fn lacks_key(&self, name: &NodeName) -> bool {
        let host = self.cx.settings.hosts.get(name);
        host.is_some_and(|host| host.key.is_none())
    }
}

fn said_key(name: &NodeName, key: PublicKey) -> String {
    format!(
        "no Ed25519PublicKey in hosts/{name}: over a link that its RSA key authenticates {name} says that it is \
         `Ed25519PublicKey = {key}`, and with that line there, or LearnKeys = yes, SPTPS is spoken"
    )
}

#[cfg(test)]
mod tests;
