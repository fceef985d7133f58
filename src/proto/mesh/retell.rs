//! What was news lately is told once more.
//!
//! tinc floods a change once. Where DEL_EDGE and ADD_EDGE of one edge follow each other closely and go by ways
//! of different speed, a node may take them in the wrong order, and by tinc's rules nobody ever tells it
//! again. So each node repeats to its neighbours what it has learned, about a ping interval later, if it
//! still holds. Who knows it already does not pass it on; what is stale in it is corrected by the node that
//! it speaks of (wire/tinc-1.0.md section 2.1). A mesh where nothing changes stays silent.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use meshd_wire::{Request, Subnet};

use crate::{
    mesh::{Mesh, limits::MAX_EDGES, node::Nodes},
    route::NodeIdx,
};

/// News younger than this may still be on its way by itself.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// A fact that was new to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum News {
    /// An edge between two nodes.
    Edge(NodeIdx, NodeIdx),
    /// A subnet of a node.
    Subnet(NodeIdx, Subnet),
    /// A node's legacy keys are void.
    Key(NodeIdx),
}

/// What is to be told once more: at most [`MAX_EDGES`] facts of about 80 bytes.
#[derive(Debug, Default)]
pub(super) struct Retell {
    news: BTreeMap<News, Instant>,
    /// When it is time.
    at: Option<Instant>,
}

impl Retell {
    /// Remembers a fact that was new to us.
    pub(super) fn note(&mut self, news: News, now: Instant) {
        if self.news.len() < MAX_EDGES {
            self.news.insert(news, now);
        }
    }
}

impl Mesh {
    /// Once a second: tells everybody what became known lately and still holds.
    pub(super) fn retell_tick(&mut self, now: Instant) {
        if self.retell.news.is_empty() || self.settings.route.tunnel_server {
            return;
        }
        let share = 0.5 + f64::from(self.rng.below(1000)) / 1000.0;
        let pause = self.settings.ping_interval.mul_f64(share);
        if now < *self.retell.at.get_or_insert(now + pause) {
            return;
        }
        self.retell.at = None;
        let settled = |at: &Instant| now.saturating_duration_since(*at) >= UNDER_WAY;
        let (due, young) = std::mem::take(&mut self.retell.news)
            .into_iter()
            .partition(|(_, at)| settled(at));
        self.retell.news = young;
        let due: BTreeMap<News, Instant> = due;
        for news in due.into_keys() {
            if let Some(request) = self.still_so(news) {
                let nonce = self.nonce();
                self.tell_all(&request.line(nonce).into(), None);
            }
        }
    }

    /// The request that says it, if it still holds and concerns nodes that are there.
    fn still_so(&self, news: News) -> Option<Request> {
        let there = |idx: NodeIdx| {
            let node = self.nodes.get(idx)?;
            (node.place.reachable || idx == Nodes::ME).then_some(node)
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
            // Said once, it is over.
            News::Key(_) => None,
        }
    }
}
