//! Neighbours: the links that the node opens and accepts, and their first exchange.

pub(in crate::mesh) mod autoconnect;
pub(in crate::mesh) mod dial;
pub(in crate::mesh) mod downgrade;
pub(in crate::mesh) mod handshake;
pub(in crate::mesh) mod key_upgrade;

use std::{collections::BTreeMap, time::Instant};

use meshd_crypto::PublicKey;
use meshd_wire::NodeName;

use crate::{
    mesh::{LinkId, reports::collect::Unproven, topology::per_node::PerNode},
    route::NodeIdx,
};

use autoconnect::AutoConnect;
use dial::{DialFailure, Outgoing};
use downgrade::SeenDialects;
use handshake::Peer;

/// Links and dials.
pub(in crate::mesh) struct Peers {
    links: BTreeMap<LinkId, Peer>,
    outgoing: BTreeMap<NodeName, Outgoing>,
    auto: AutoConnect,
    /// Links that broke the protocol in the current input. The mesh closes them after it.
    misbehaved: Vec<(LinkId, String)>,
    of: PerNode<OfNode>,
}

/// Facts about one node that links to it have shown.
#[derive(Default)]
struct OfNode {
    /// Dialects that the node has spoken with us, also before it became unreachable.
    dialects: SeenDialects,
    /// Failure of the last dial.
    dial_failure: Option<DialFailure>,
    /// The last peer that claimed the node's name without proof.
    unproven: Option<Unproven>,
    /// The Ed25519 key that the node sent, if its host file has none.
    announced_key: Option<PublicKey>,
}

impl Peers {
    pub(in crate::mesh) fn new(now: Instant) -> Self {
        Self {
            links: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            auto: AutoConnect::new(now),
            misbehaved: Vec::new(),
            of: PerNode::default(),
        }
    }

    /// Returns the other end of a link.
    pub(in crate::mesh) fn get(&self, link: &LinkId) -> Option<&Peer> {
        self.links.get(link)
    }

    /// Returns the other end of a link, to be changed.
    pub(in crate::mesh) fn get_mut(&mut self, link: &LinkId) -> Option<&mut Peer> {
        self.links.get_mut(link)
    }

    /// Links and their other ends, in order of links.
    pub(in crate::mesh) fn iter(&self) -> impl Iterator<Item = (&LinkId, &Peer)> {
        self.links.iter()
    }

    /// Other ends of all links, in order of links.
    pub(in crate::mesh) fn values(&self) -> impl Iterator<Item = &Peer> {
        self.links.values()
    }

    /// All links in order.
    pub(in crate::mesh) fn keys(&self) -> impl Iterator<Item = &LinkId> {
        self.links.keys()
    }

    /// Returns the number of links.
    #[cfg(test)]
    pub(in crate::mesh) fn len(&self) -> usize {
        self.links.len()
    }

    /// Schedules the end of a link whose other end broke the protocol.
    pub(in crate::mesh) fn note_misbehaved(&mut self, link: LinkId, why: &str) {
        self.misbehaved.push((link, why.to_owned()));
    }

    /// Returns true if the end of the link is scheduled.
    pub(in crate::mesh) fn is_closing(&self, link: LinkId) -> bool {
        self.misbehaved.iter().any(|(closing, _)| *closing == link)
    }

    /// Takes the links that broke the protocol, each with the reason.
    pub(in crate::mesh) fn take_misbehaved(&mut self) -> Vec<(LinkId, String)> {
        std::mem::take(&mut self.misbehaved)
    }

    /// Returns true if we want a link to the node.
    pub(in crate::mesh) fn is_wanted(&self, name: &NodeName) -> bool {
        self.outgoing.contains_key(name)
    }

    /// Returns the dialects that the node has spoken with us.
    pub(in crate::mesh) fn dialects(&self, idx: NodeIdx) -> &SeenDialects {
        &self.of[idx].dialects
    }

    /// Forgets the dialects of a node whose key changed.
    pub(in crate::mesh) fn forget_dialects(&mut self, idx: NodeIdx) {
        self.of[idx].dialects = SeenDialects::default();
    }

    /// Returns the failure of the last dial.
    pub(in crate::mesh) fn dial_failure(&self, idx: NodeIdx) -> Option<&DialFailure> {
        self.of[idx].dial_failure.as_ref()
    }

    /// Returns the last peer that claimed the node's name without proof.
    pub(in crate::mesh) fn unproven(&self, idx: NodeIdx) -> Option<&Unproven> {
        self.of[idx].unproven.as_ref()
    }

    /// Returns the Ed25519 key that the node sent, if its host file has none.
    pub(in crate::mesh) fn announced_key(&self, idx: NodeIdx) -> Option<PublicKey> {
        self.of[idx].announced_key
    }

    /// Records a peer that claimed the node's name without proof.
    pub(in crate::mesh) fn set_unproven(&mut self, idx: NodeIdx, unproven: Unproven) {
        self.of[idx].unproven = Some(unproven);
    }

    /// Forgets a node that is removed.
    pub(in crate::mesh) fn forget_node(&mut self, idx: NodeIdx) {
        self.of.remove(idx);
    }
}

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;
    use crate::mesh::testing;

    #[test]
    fn a_link_that_misbehaved_is_closing_until_it_is_taken() {
        let mut links = SlotMap::<LinkId, ()>::with_key();
        let (bad, good) = (links.insert(()), links.insert(()));
        let mut peers = Peers::new(testing::start());
        peers.note_misbehaved(bad, "why");
        assert!(peers.is_closing(bad) && !peers.is_closing(good));
        assert_eq!(peers.take_misbehaved(), [(bad, "why".to_owned())]);
        assert!(!peers.is_closing(bad) && peers.take_misbehaved().is_empty());
    }
}
