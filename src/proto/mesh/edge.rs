//! Edges: what one node says of its link to another.

use meshd_wire::{EdgeAddress, NodeName, Options, Request};

use crate::{mesh::LinkId, route::NodeIdx};

/// One directed edge; its owner is the node that holds it.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    /// The other end.
    pub to: NodeIdx,
    /// Where the owner sees the other end.
    pub address: EdgeAddress,
    /// The owner's own address on that link.
    pub local: Option<EdgeAddress>,
    /// Options; the top byte is the other end's minor version.
    pub options: Options,
    /// Mean of both ends' weights.
    pub weight: i32,
    /// The link that said so last; none for our own edges.
    pub teller: Option<LinkId>,
}

impl Edge {
    /// Whether another one says the same, whoever told it.
    pub(super) fn says_as(&self, other: &Self) -> bool {
        let Self {
            to,
            address,
            local,
            options,
            weight,
            teller: _,
        } = self;
        (*to, *options, *weight) == (other.to, other.options, other.weight)
            && *address == other.address
            && *local == other.local
    }

    /// Bytes of words that stand in the place of addresses, but for short ones such as `unspec`.
    pub(super) fn words(&self) -> usize {
        let addresses = std::iter::once(&self.address).chain(&self.local);
        let lengths = addresses.flat_map(EdgeAddress::word_lengths);
        lengths.filter(|length| *length > "unspec".len()).sum()
    }

    /// The edge as a request line to be.
    pub(super) fn request(&self, from: &NodeName, to: &NodeName) -> Request {
        Request::AddEdge {
            from: from.clone(),
            to: to.clone(),
            address: self.address.clone(),
            options: self.options,
            weight: self.weight,
            local: self.local.clone(),
        }
    }
}
