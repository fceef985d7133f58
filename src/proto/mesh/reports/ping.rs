//! `meshctl ping`: one round trip to a node, by a UDP probe if UDP works, else by PING over the
//! link.

use std::time::{Duration, Instant};

use meshd_wire::NodeName;

use crate::{
    mesh::{Mesh, Output, topology::node::Nodes},
    route::NodeIdx,
};

/// Time after which an unanswered ping is forgotten.
const FORGET: Duration = Duration::from_secs(60);
/// Most pings in progress; more are dropped.
const MAX: usize = 256;

/// Pings in progress.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Pings(Vec<(NodeIdx, u64, Instant)>);

impl Pings {
    /// Returns true if one more ping may start.
    fn has_room(&self) -> bool {
        self.0.len() < MAX
    }

    fn start(&mut self, node: NodeIdx, token: u64, now: Instant) {
        self.0.push((node, token, now));
    }

    /// Takes the pings to a node that answered: the token and the round trip of each.
    fn answered(&mut self, idx: NodeIdx, now: Instant) -> Vec<(u64, Duration)> {
        let done = self.0.extract_if(.., |(node, _, _)| *node == idx);
        done.map(|(_, token, at)| (token, now.saturating_duration_since(at)))
            .collect()
    }

    /// Forgets pings without an answer.
    pub(in crate::mesh) fn forget(&mut self, now: Instant) {
        self.0
            .retain(|(_, _, at)| now.saturating_duration_since(*at) < FORGET);
    }
}

impl Mesh {
    pub(in crate::mesh) fn ping(&mut self, name: &NodeName, token: u64, now: Instant) {
        let Some(idx) = self.nodes.find(name) else {
            return;
        };
        if idx == Nodes::ME
            || !self.nodes[idx].reachability.reachable
            || !self.reports.pings.has_room()
        {
            return;
        }
        self.reports.pings.start(idx, token, now);
        // A ping must measure the path that traffic would use.
        self.paths[idx].wake(now);
        self.ensure_session(idx, now);
        self.probe_now(idx, now);
        if let Some(link) = self.nodes[idx].link.filter(|_| !self.paths[idx].confirmed) {
            self.ping_link(link, now);
        }
    }

    /// Completes the pings to a node that answered.
    pub(in crate::mesh) fn answer_ping(&mut self, idx: NodeIdx, now: Instant) {
        for (token, rtt) in self.reports.pings.answered(idx, now) {
            self.cx.emit(Output::Pong { token, rtt });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mesh::testing::start, route::NodeSlot};

    #[test]
    fn each_ping_of_a_node_is_answered_once_and_in_order() {
        let [a, b] = [1, 2].map(|n| NodeIdx::of_slot(NodeSlot(n)));
        let (mut pings, now) = (Pings::default(), start());
        for (token, node) in [(1, a), (2, b), (3, a)] {
            pings.start(node, token, now + Duration::from_millis(token));
        }
        let later = now + Duration::from_millis(10);
        let ms = Duration::from_millis;
        assert_eq!(pings.answered(a, later), [(1, ms(9)), (3, ms(7))]);
        assert_eq!(pings.answered(a, later), []);
        assert_eq!(pings.answered(b, later), [(2, ms(8))]);
    }

    #[test]
    fn pings_without_an_answer_are_bounded_and_forgotten() {
        let node = NodeIdx::FIRST;
        let (mut pings, now) = (Pings::default(), start());
        let started = (0..).take_while(|token| {
            let room = pings.has_room();
            pings.start(node, *token, now);
            room
        });
        assert_eq!(started.count(), MAX);
        pings.forget(now + FORGET - Duration::from_millis(1));
        assert!(!pings.has_room());
        pings.forget(now + FORGET);
        assert_eq!(pings.answered(node, now + FORGET), []);
    }
}
