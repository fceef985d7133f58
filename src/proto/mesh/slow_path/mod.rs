//! The slow path of packets: punts of the workers and packets received over TCP.
//!
//! The slow path uses the same [`crate::route::verdict::decide`] and [`send_path`] as the workers.

mod receive;
mod send;

use std::time::Instant;

use bytes::Bytes;

use crate::{
    mesh::{Mesh, Output, Punt, limits::Bucket, topology::node::Nodes},
    route::{
        NodeIdx,
        path::{SendPath, send_path},
        verdict::ErrorLimiter,
    },
    tunnel::SPTPS_OVERHEAD,
};

/// Datagrams a second, and at once, that are forwarded from addresses that are no longer confirmed.
const UNPROVEN: u32 = 1_000;

/// Limits of the slow path.
pub(super) struct SlowPath {
    errors: ErrorLimiter,
    /// Budget of relayed datagrams from addresses that are no longer confirmed.
    unproven: Bucket,
}

impl SlowPath {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            errors: ErrorLimiter::default(),
            unproven: Bucket::new(UNPROVEN as usize, now),
        }
    }

    /// Returns true if one more datagram from an address that is not confirmed any more may be
    /// forwarded now, and counts it.
    fn takes_unproven(&mut self, now: Instant) -> bool {
        self.unproven.take(UNPROVEN, UNPROVEN as usize, now)
    }
}

impl Mesh {
    pub(super) fn handle_punt(&mut self, punt: Punt, now: Instant) {
        match punt {
            Punt::Packet { to, packet } => self.send_packet(to, packet, now),
            Punt::Datagram { from, datagram } => self.unknown_datagram(from, datagram, now),
            Punt::Probe { node, from, data } => {
                self.handle_probe(node, from, &data, now);
            }
            Punt::Relay {
                to,
                from,
                by,
                datagram,
            } => self.relay_on((from, to), by, datagram, now),
            Punt::NewMac { mac } => self.learn(mac, now),
            Punt::BadTag { node } => self.handle_bad_tag(node, now),
            Punt::Exhausted { node } => {
                if self.nodes.get(node).is_some() {
                    self.replace_session(node, now);
                }
            }
        }
    }

    /// Handles a tunnel datagram that `by` sent to us. Opens or forwards it, unless the same
    /// datagram was forwarded before.
    pub(in crate::mesh) fn relay(
        &mut self,
        (from, to): (NodeIdx, NodeIdx),
        by: NodeIdx,
        datagram: Bytes,
        now: Instant,
    ) {
        let (Some(origin), Some(target)) = (self.nodes.get(from), self.nodes.get(to)) else {
            return;
        };
        let (origin, target) = (origin.shared.id, target.shared.id);
        let recent = &self.publisher.snapshot().recent;
        if to == Nodes::ME || recent.admits_datagram(origin, target, &datagram) {
            self.relay_on((from, to), by, datagram, now);
        }
    }

    /// Opens a tunnel datagram for this node, or forwards it, but never back to its sender.
    fn relay_on(
        &mut self,
        (from, to): (NodeIdx, NodeIdx),
        by: NodeIdx,
        datagram: Bytes,
        now: Instant,
    ) {
        if to == Nodes::ME {
            self.open_tunnelled(from, datagram, now);
            return;
        }
        let (Some(_), Some(node)) = (self.nodes.get(from), self.nodes.get(to)) else {
            return;
        };
        // Drop datagrams in our own name (T29).
        if from == Nodes::ME || !node.reachability.reachable || datagram.len() < SPTPS_OVERHEAD {
            return;
        }
        let snapshot = self.fresh_snapshot();
        let length = datagram.len() - SPTPS_OVERHEAD;
        let path = send_path(&snapshot, from.slot(), to.slot(), length, false);
        let hop = path.hop().and_then(|hop| snapshot.idx_of(hop));
        if hop.is_some_and(|hop| hop == by || hop == from) {
            return;
        }
        match path {
            SendPath::Udp {
                to: addr,
                direct,
                header,
                ..
            } => {
                let datagram = self.with_header(from, to, (direct, header), &datagram);
                self.cx.emit(Output::Datagram { to: addr, datagram });
            }
            SendPath::Relayed(_) | SendPath::Frame(_) => {
                self.send_relayed(from, to, datagram.to_vec())
            }
            SendPath::NoKey | SendPath::Unreachable => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mesh::testing::start;

    /// Somebody who can send from the last address of a relay makes us forward no more than this,
    /// and does not use up the errors of others.
    #[test]
    fn datagrams_from_unproven_addresses_have_a_rate_of_their_own() {
        let now = start();
        let mut slow_path = SlowPath::new(now);
        let taken = |slow_path: &mut SlowPath, at: Instant| {
            (0..10 * UNPROVEN)
                .filter(|_| slow_path.takes_unproven(at))
                .count()
        };
        assert_eq!(taken(&mut slow_path, now), UNPROVEN as usize);
        let half = now + Duration::from_millis(500);
        assert_eq!(taken(&mut slow_path, half), UNPROVEN as usize / 2);
        // A pause saves up no more than one second's worth.
        let late = now + Duration::from_secs(60);
        assert_eq!(taken(&mut slow_path, late), UNPROVEN as usize);
        let errors = (0..10).filter(|_| slow_path.errors.allow(late)).count();
        assert_eq!(errors, ErrorLimiter::PER_SECOND as usize);
    }
}
