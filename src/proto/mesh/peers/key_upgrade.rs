//! The announced Ed25519 key of a neighbour whose host file has an RSA key and no Ed25519 key.
//!
//! A tinc 1.1 sends its Ed25519 key in an UPGRADE, and in answer to REQ_PUBKEY. The key is only
//! reported to the operator, unless LearnKeys is set. Source: wire/tinc-1.1.md sections 3.4 and
//! 3.7, proto/threat-model.md section 2.3.

use meshd_crypto::PublicKey;
use meshd_wire::{KeyRequest, NodeName};

use crate::{
    mesh::{LinkId, Mesh, Notice, Output},
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
        if hello.lacks_key() && self.cx.settings.sptps && self.lacks_key(&hello.name) {
            self.send_req_key(idx, KeyRequest::ReqPubkey);
        }
    }

    /// Handles `15 FROM US 20 KEY`, received over this link.
    pub(in crate::mesh) fn answered_key(&mut self, link: LinkId, from: NodeIdx, key: [u8; 32]) {
        let own = self.nodes[from].link == Some(link);
        if let Ok(key) = PublicKey::from_bytes(key)
            && own
            && self.uses_legacy(from)
        {
            self.handle_received_key(from, key);
        }
    }

    /// Handles the key that a node sent over a link authenticated by its RSA key.
    pub(in crate::mesh) fn handle_received_key(&mut self, idx: NodeIdx, key: PublicKey) {
        let name = self.nodes[idx].name();
        if self.lacks_key(name) && self.peers.of[idx].announced_key != Some(key) {
            let node = name.clone();
            let notice = Notice::KeySent;
            self.cx.emit(Output::Notice { node, notice });
            self.peers.of[idx].announced_key = Some(key);
        }
    }

    fn lacks_key(&self, name: &NodeName) -> bool {
        let host = self.cx.settings.hosts.get(name);
        host.is_some_and(|host| host.key.is_none())
    }
}

#[cfg(test)]
mod tests;
