//! Packets that wait in a worker while their node changes keys.

use meshd_proto::route::NodeIdx;

/// Most bytes that one worker parks: 20 ms of 1.6 Gbit/s.
pub const MOST: usize = 4 << 20;

/// Parked packets in the order of arrival, for nodes that pause
/// ([`meshd_proto::route::NodeState::paused`]).
#[derive(Debug, Default)]
pub struct Parked {
    packets: Vec<(NodeIdx, Box<[u8]>)>,
    bytes: usize,
}

impl Parked {
    /// Parks a copy of a packet. Returns `false` if there is no room within [`MOST`].
    #[must_use]
    pub fn keep(&mut self, to: NodeIdx, packet: &[u8]) -> bool {
        let fits = self.bytes + packet.len() <= MOST;
        if fits {
            self.bytes += packet.len();
            self.packets.push((to, packet.into()));
        }
        fits
    }

    /// Takes all parked packets; the caller parks those again whose node still pauses.
    pub fn take(&mut self) -> Vec<(NodeIdx, Box<[u8]>)> {
        self.bytes = 0;
        std::mem::take(&mut self.packets)
    }

    /// Returns true if no packet is parked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use meshd_proto::route::NodeSlot;

    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_in_order() {
        let node = |n| NodeIdx::of_slot(NodeSlot(n));
        let mut parked = Parked::default();
        let packet = vec![7; MOST / 3];
        let kept: Vec<bool> = (0..4).map(|n| parked.keep(node(n), &packet)).collect();
        assert_eq!(kept, [true, true, true, false]);
        let order: Vec<NodeIdx> = parked.take().into_iter().map(|(to, _)| to).collect();
        assert_eq!(order, [node(0), node(1), node(2)]);
        assert!(parked.is_empty() && parked.keep(node(0), &packet));
    }
}
