//! Facts about nodes, paths and links for the control socket, `meshctl` and other nodes.

pub(in crate::mesh) mod collect;
pub mod facts;
pub(in crate::mesh) mod measure;
pub(in crate::mesh) mod ping;
pub mod query;
pub(in crate::mesh) mod rows;
pub mod view;

use std::time::Instant;

use crate::{
    mesh::{limits::Bucket, topology::per_node::PerNode},
    route::NodeIdx,
};

/// Measurements, and questions in progress.
#[derive(Default)]
pub(in crate::mesh) struct Reports {
    pings: ping::Pings,
    questions: query::Questions,
    /// True if inner packets are reported as [`crate::mesh::Output::Seen`].
    capturing: bool,
    of: PerNode<OfNode>,
}

/// Measurements of one node.
#[derive(Default)]
struct OfNode {
    measured: measure::Measured,
    /// Budget of answers to the node's questions.
    answers: Option<Bucket>,
}

impl Reports {
    /// Returns true if inner packets are reported.
    pub(in crate::mesh) fn is_capturing(&self) -> bool {
        self.capturing
    }

    /// Turns reports of inner packets on or off.
    pub(in crate::mesh) fn set_capturing(&mut self, on: bool) {
        self.capturing = on;
    }

    /// Returns the measurements of a node.
    pub(in crate::mesh) fn measured(&mut self, idx: NodeIdx) -> &mut measure::Measured {
        &mut self.of[idx].measured
    }

    /// Forgets pings and questions without an answer, once a second.
    pub(in crate::mesh) fn forget(&mut self, now: Instant) {
        self.pings.forget(now);
        self.questions.forget(now);
    }

    /// Forgets a node that is removed.
    pub(in crate::mesh) fn forget_node(&mut self, idx: NodeIdx) {
        self.of.remove(idx);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{mesh::testing::start, route::NodeSlot};

    /// The next node in the slot of a forgotten one inherits no measurement.
    #[test]
    fn measurements_belong_to_one_node_and_go_with_it() {
        let [a, b] = [1, 2].map(|n| NodeIdx::of_slot(NodeSlot(n)));
        let (mut reports, now) = (Reports::default(), start());
        let fresh = format!("{:?}", reports.measured(a));
        for node in [a, b] {
            reports.measured(node).asked();
            reports
                .measured(node)
                .answered(Duration::from_millis(5), now);
        }
        let measured = format!("{:?}", reports.measured(b));
        assert_ne!(fresh, measured);
        reports.forget_node(a);
        assert_eq!(format!("{:?}", reports.measured(a)), fresh);
        assert_eq!(format!("{:?}", reports.measured(b)), measured);
        assert!(!reports.is_capturing());
        reports.set_capturing(true);
        reports.forget(now + Duration::from_secs(3600));
        assert!(reports.is_capturing(), "time ends no capture");
    }
}
