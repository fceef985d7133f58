//! Refresh: repeats recent changes once.
//!
//! tinc floods a change once. If DEL_EDGE and ADD_EDGE of one edge follow each other closely over
//! paths of different speed, a node may receive them in the wrong order. By tinc's rules no node
//! ever repeats them.
//!
//! So each node repeats recent changes to its neighbours about one ping interval later, if they
//! still hold. A node that knows the change does not forward it. The node that a stale line is
//! about corrects it (wire/tinc-1.0.md section 2.1). A mesh without changes stays silent.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use meshd_wire::{Request, Subnet};

use crate::{
    mesh::{Mesh, limits::MAX_EDGES, topology::node::Nodes},
    route::NodeIdx,
};

/// Age below which a change may still be on its way by itself.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// A fact that was new to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::mesh) enum News {
    /// An edge between two nodes.
    Edge(NodeIdx, NodeIdx),
    /// A subnet of a node.
    Subnet(NodeIdx, Subnet),
    /// The legacy keys of a node are void.
    Key(NodeIdx),
}

/// Facts to be repeated: at most [`MAX_EDGES`], of about 80 bytes each.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Refresh {
    news: BTreeMap<News, Instant>,
    /// Time of the next repetition.
    at: Option<Instant>,
}

impl Refresh {
    /// Remembers a fact that was new to us.
    pub(in crate::mesh) fn note(&mut self, news: News, now: Instant) {
        if self.news.len() < MAX_EDGES {
            self.news.insert(news, now);
        }
    }
}

impl Mesh {
    /// Sends recent changes that still hold to all neighbours, when the time has come. Runs once a
    /// second.
    pub(in crate::mesh) fn refresh_tick(&mut self, now: Instant) {
        if self.gossip.refresh.news.is_empty() || self.cx.settings.route.tunnel_server {
            return;
        }
        let share = 0.5 + f64::from(self.cx.rng.below(1000)) / 1000.0;
        let pause = self.cx.settings.ping_interval.mul_f64(share);
        if now < *self.gossip.refresh.at.get_or_insert(now + pause) {
            return;
        }
        self.gossip.refresh.at = None;
        let settled = |at: &Instant| now.saturating_duration_since(*at) >= UNDER_WAY;
        let (due, young) = std::mem::take(&mut self.gossip.refresh.news)
            .into_iter()
            .partition(|(_, at)| settled(at));
        self.gossip.refresh.news = young;
        let due: BTreeMap<News, Instant> = due;
        for news in due.into_keys() {
            if let Some(request) = self.still_so(news) {
                let nonce = self.nonce();
                self.tell_all(&request.line(nonce).into(), None);
            }
        }
    }

    /// Returns the request for a fact, if the fact still holds and its nodes are reachable.
    fn still_so(&self, news: News) -> Option<Request> {
        let there = |idx: NodeIdx| {
            let node = self.nodes.get(idx)?;
            (node.reachability.reachable || idx == Nodes::ME).then_some(node)
        };
        match news {
            News::Edge(from, to) => {
                let (from, to) = (there(from)?, there(to)?);
                let edge = from.edges.get(to.name())?;
                Some(edge.request(from.name(), to.name()))
            }
            News::Subnet(owner, subnet) => {
                let owner = there(owner)?;
                owner.claims(&subnet).then(|| Request::AddSubnet {
                    owner: owner.name().clone(),
                    subnet,
                })
            }
            // A key change is not repeated.
            News::Key(_) => None,
        }
    }
}
