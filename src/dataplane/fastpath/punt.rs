//! The bounded queue from the workers to the driver.

use std::net::SocketAddr;

use tokio::sync::mpsc;

use meshd_proto::{
    mesh::{Input, event::Punt},
    route::NodeIdx,
};
use meshd_wire::ether::Mac;

/// Length of the queue between workers and driver. Memory: at most that many packets of 1,518 bytes
/// with their envelopes, 2 MiB.
pub const QUEUE: usize = 1024;
/// Most new Ethernet addresses reported per batch.
const MAX_MACS: usize = 16;

/// A worker's end of the queue. A punt about a node, not a packet, is sent once per batch.
#[derive(Debug)]
pub struct Punts {
    queue: mpsc::Sender<Input>,
    bad_tag: Vec<NodeIdx>,
    exhausted: Vec<NodeIdx>,
    too_long: Vec<(SocketAddr, usize)>,
    macs: Vec<Mac>,
}

impl Punts {
    /// Makes a new end of `queue`.
    #[must_use]
    pub fn new(queue: mpsc::Sender<Input>) -> Self {
        Self {
            queue,
            bad_tag: Vec::new(),
            exhausted: Vec::new(),
            too_long: Vec::new(),
            macs: Vec::new(),
        }
    }

    /// Starts a new batch and forgets which punts were sent.
    pub fn begin(&mut self) {
        self.bad_tag.clear();
        self.exhausted.clear();
        self.too_long.clear();
        self.macs.clear();
    }

    /// Queues a punt. Returns `false` if it was lost because the queue is full.
    #[must_use]
    pub fn send(&mut self, punt: Punt) -> bool {
        if let Punt::NewMac { mac } = &punt {
            // An address that is skipped now is reported in the next batch.
            if self.macs.len() >= MAX_MACS || self.macs.contains(mac) {
                return true;
            }
            self.macs.push(*mac);
        }
        let known = match &punt {
            Punt::BadTag { node } => Some((&mut self.bad_tag, *node)),
            Punt::Exhausted { node } => Some((&mut self.exhausted, *node)),
            _ => None,
        };
        if let Some((reported, node)) = known {
            if reported.contains(&node) {
                return true;
            }
            reported.push(node);
        }
        self.queue.try_send(Input::Punt(punt)).is_ok()
    }

    /// Reports a datagram that the kernel rejected as too long. Returns `false` as [`Self::send`]
    /// does.
    #[must_use]
    pub fn too_long(&mut self, to: SocketAddr, length: usize) -> bool {
        if self.too_long.contains(&(to, length)) {
            return true;
        }
        self.too_long.push((to, length));
        self.queue.try_send(Input::TooLong { to, length }).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use meshd_proto::route::NodeSlot;

    use super::*;

    #[test]
    fn a_node_is_told_once_a_batch_and_a_full_queue_is_said() {
        let (tx, mut rx) = mpsc::channel(2);
        let mut punts = Punts::new(tx);
        let bad = |n| Punt::BadTag {
            node: NodeIdx::of_slot(NodeSlot(n)),
        };
        for _ in 0..100 {
            assert!(punts.send(bad(1)));
        }
        assert!(punts.send(bad(2)));
        assert!(!punts.send(bad(3)), "the queue holds two");
        punts.begin();
        assert!(rx.try_recv().is_ok());
        assert!(punts.send(bad(1)), "a new batch tells again");
        assert!(rx.try_recv().is_ok() && rx.try_recv().is_ok() && rx.try_recv().is_err());
    }

    #[test]
    fn a_batch_tells_of_a_few_new_macs_once_each() {
        let (tx, mut rx) = mpsc::channel(QUEUE);
        let mut punts = Punts::new(tx);
        let mut reported = |punts: &mut Punts, macs: u8| {
            for n in (0..macs).chain(0..macs) {
                let mac = [2, 0, 0, 0, 0, n];
                assert!(punts.send(Punt::NewMac { mac }));
            }
            std::iter::from_fn(|| rx.try_recv().ok()).count()
        };
        assert_eq!(reported(&mut punts, 3), 3);
        assert_eq!(reported(&mut punts, 3), 0);
        assert_eq!(reported(&mut punts, 200), MAX_MACS - 3);
        punts.begin();
        assert_eq!(reported(&mut punts, 200), MAX_MACS);
    }
}
