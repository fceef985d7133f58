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
            || self.reports.pings.0.len() >= MAX
        {
            return;
        }
        self.reports.pings.0.push((idx, token, now));
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
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.reports.pings.0)
            .into_iter()
            .partition(|(node, _, _)| *node == idx);
        self.reports.pings.0 = rest;
        for (_, token, at) in done {
            let rtt = now.saturating_duration_since(at);
            self.cx.emit(Output::Pong { token, rtt });
        }
    }
}
