//! Edges: statements of one node about its link to another node.

use meshd_wire::{EdgeAddress, NodeName, Options, Request};

use crate::{mesh::LinkId, route::NodeIdx};

/// One directed edge. The node that holds the edge owns it.
#[derive(Debug, Clone)]
pub(in crate::mesh) struct Edge {
    /// The other end.
    pub to: NodeIdx,
    /// Address of the other end, as the owner sees it.
    pub address: EdgeAddress,
    /// The owner's own address on the link.
    pub local: Option<EdgeAddress>,
    /// Options; the top byte is the other end's protocol minor.
    pub options: Options,
    /// Mean of both ends' weights.
    pub weight: i32,
    /// The link that announced the edge last; `None` for our own edges.
    pub teller: Option<LinkId>,
}

impl Edge {
    /// Returns true if another edge has the same content; the teller does not matter.
    pub(in crate::mesh) fn same_as(&self, other: &Self) -> bool {
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

    /// Number of bytes in address words longer than `unspec`; numeric addresses do not count.
    pub(in crate::mesh) fn words(&self) -> usize {
        let addresses = std::iter::once(&self.address).chain(&self.local);
        let lengths = addresses.flat_map(EdgeAddress::word_lengths);
        lengths.filter(|length| *length > "unspec".len()).sum()
    }

    /// Returns the edge as an ADD_EDGE request.
    pub(in crate::mesh) fn request(&self, from: &NodeName, to: &NodeName) -> Request {
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
