//! Packet keys of each node: native, SPTPS and legacy, and their renewal.

mod choice;
pub(in crate::mesh) mod keys;
pub(in crate::mesh) mod legacy;
pub(in crate::mesh) mod lifetime;
pub(in crate::mesh) mod native;
pub(in crate::mesh) mod rekey;
mod requests;
pub(in crate::mesh) mod sptps;

use std::{
    collections::VecDeque,
    ops::{Index, IndexMut},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    mesh::{
        limits::{Bucket, MAX_WAITING, MAX_WAITING_BYTES},
        topology::per_node::PerNode,
    },
    route::NodeIdx,
};

/// Packet keys of all nodes, and the packets that wait for them.
pub(in crate::mesh) struct Sessions {
    keys: PerNode<keys::Keys>,
    waiting: PerNode<VecDeque<Bytes>>,
    /// Bytes of waiting packets, over all nodes.
    waiting_bytes: usize,
    legacy: legacy::Common,
    /// Budget of native first messages that belong to no known node.
    forged: Bucket,
}

impl Sessions {
    pub(in crate::mesh) fn new(key_expire: Duration, now: Instant) -> Self {
        Self {
            keys: PerNode::default(),
            waiting: PerNode::default(),
            waiting_bytes: 0,
            legacy: legacy::Common::new(key_expire, now),
            forged: Bucket::new(native::FORGED_BURST, now),
        }
    }

    /// Queues a packet until there is a key for it, if there is room.
    pub(in crate::mesh) fn enqueue(&mut self, to: NodeIdx, packet: Bytes) {
        let room = self.waiting_bytes + packet.len() <= MAX_WAITING_BYTES;
        let waiting = &mut self.waiting[to];
        if room && waiting.len() < MAX_WAITING {
            self.waiting_bytes += packet.len();
            waiting.push_back(packet);
        }
    }

    /// Returns true if packets for the node wait for a key.
    pub(in crate::mesh) fn has_waiting(&self, idx: NodeIdx) -> bool {
        !self.waiting[idx].is_empty()
    }

    /// Takes the packets that waited for a key, oldest first.
    pub(in crate::mesh) fn take_waiting(&mut self, idx: NodeIdx) -> VecDeque<Bytes> {
        let waiting = self.waiting.take(idx).unwrap_or_default();
        self.waiting_bytes -= waiting.iter().map(Bytes::len).sum::<usize>();
        waiting
    }

    /// Forgets the keys of a node, and the packets that wait for one.
    pub(in crate::mesh) fn drop_keys(&mut self, idx: NodeIdx) {
        self.take_waiting(idx);
        self.keys.remove(idx);
    }

    /// Returns false if the node has no keys and no handshake.
    pub(in crate::mesh) fn has_keys(&self, idx: NodeIdx) -> bool {
        self.keys.has(idx)
    }
}

impl Index<NodeIdx> for Sessions {
    type Output = keys::Keys;

    fn index(&self, idx: NodeIdx) -> &keys::Keys {
        &self.keys[idx]
    }
}

impl IndexMut<NodeIdx> for Sessions {
    fn index_mut(&mut self, idx: NodeIdx) -> &mut keys::Keys {
        &mut self.keys[idx]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mesh::testing, route::NodeSlot};

    fn sessions() -> Sessions {
        Sessions::new(Duration::from_secs(3600), testing::start())
    }

    fn node(n: u32) -> NodeIdx {
        NodeIdx::of_slot(NodeSlot(n))
    }

    #[test]
    fn waiting_packets_are_bounded_for_each_node_and_in_all() {
        let mut sessions = sessions();
        for n in 0..MAX_WAITING + 5 {
            sessions.enqueue(node(1), vec![0; n].into());
        }
        let waited = sessions.take_waiting(node(1));
        let lengths: Vec<usize> = waited.iter().map(Bytes::len).collect();
        assert_eq!(lengths, (0..MAX_WAITING).collect::<Vec<_>>());
        assert_eq!(sessions.waiting_bytes, 0);
        let packet = Bytes::from(vec![0; MAX_WAITING_BYTES / 4]);
        for n in 1..=5 {
            sessions.enqueue(node(n), packet.clone());
        }
        assert_eq!(sessions.take_waiting(node(5)).len(), 0, "no room");
        assert_eq!(sessions.take_waiting(node(4)).len(), 1);
    }

    #[test]
    fn keys_that_are_dropped_leave_no_packet_behind() {
        let mut sessions = sessions();
        sessions.enqueue(node(1), vec![0; 100].into());
        sessions.enqueue(node(2), vec![0; 10].into());
        sessions[node(1)].sptps.meshd = true;
        sessions.drop_keys(node(1));
        assert_eq!(sessions.waiting_bytes, 10);
        assert!(sessions.take_waiting(node(1)).is_empty() && !sessions[node(1)].sptps.meshd);
        assert_eq!(sessions.take_waiting(node(2)).len(), 1);
    }
}
