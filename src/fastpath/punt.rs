//! The one bounded queue from the workers to the driver.

use std::net::SocketAddr;

use tokio::sync::mpsc;

use crate::{
    mesh::{Input, event::Punt},
    route::NodeIdx,
};

/// Length of the queue between workers and driver. Memory: at most that many packets of 1,518 bytes
/// and their envelopes, 2 MiB.
pub const QUEUE: usize = 1024;

/// A worker's end of the queue. What concerns a node and not a packet is told once a batch.
#[derive(Debug)]
pub struct Punts {
    queue: mpsc::Sender<Input>,
    bad_tag: Vec<NodeIdx>,
    exhausted: Vec<NodeIdx>,
    too_long: Vec<(SocketAddr, usize)>,
}

impl Punts {
    /// A new end of `queue`.
    #[must_use]
    pub fn new(queue: mpsc::Sender<Input>) -> Self {
        Self {
            queue,
            bad_tag: Vec::new(),
            exhausted: Vec::new(),
            too_long: Vec::new(),
        }
    }

    /// Forgets what was told: a new batch begins.
    pub fn begin(&mut self) {
        self.bad_tag.clear();
        self.exhausted.clear();
        self.too_long.clear();
    }

    /// Queues a punt. Returns `false` if it was lost because the queue is full.
    #[must_use]
    pub fn send(&mut self, punt: Punt) -> bool {
        let known = match &punt {
            Punt::BadTag { node } => Some((&mut self.bad_tag, *node)),
            Punt::Exhausted { node } => Some((&mut self.exhausted, *node)),
            _ => None,
        };
        if let Some((told, node)) = known {
            if told.contains(&node) {
                return true;
            }
            told.push(node);
        }
        self.queue.try_send(Input::Punt(punt)).is_ok()
    }

    /// Reports a datagram that the kernel found too long. Returns `false` as [`Self::send`] does.
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
    use super::*;

    #[test]
    fn a_node_is_told_once_a_batch_and_a_full_queue_is_said() {
        let (tx, mut rx) = mpsc::channel(2);
        let mut punts = Punts::new(tx);
        let bad = |n| Punt::BadTag { node: NodeIdx(n) };
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
}
