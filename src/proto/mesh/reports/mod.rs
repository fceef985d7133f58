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
