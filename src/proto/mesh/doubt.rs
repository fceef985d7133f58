//! What somebody says of our neighbour and the neighbour itself does not: not believed, and answered.
//!
//! The first-hand rule alone would leave a node that holds old news of our neighbour with it for ever, where in
//! tinc the news runs on to its subject, who corrects it. So we correct it in the neighbour's place. Not at
//! once: its own word may still be on the way to us.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use meshd_wire::Request;

use crate::{
    mesh::{LinkId, Mesh, limits::MAX_DOUBTS, node::Nodes},
    route::NodeIdx,
};

/// Time for the neighbour's own word, if it has told us all that it knows.
const SOON: Duration = Duration::from_millis(250);
/// The same if it has not.
const WAIT: Duration = Duration::from_secs(3);

/// Lines that wait to be compared, oldest first.
#[derive(Debug, Default)]
pub(super) struct Doubts(VecDeque<Doubt>);

#[derive(Debug)]
struct Doubt {
    since: Instant,
    link: LinkId,
    about: NodeIdx,
    said: Request,
}

impl Mesh {
    /// Whether a flooded line speaks about a neighbour of ours that does not stand at the other end of
    /// `link`. It is not taken, and not remembered as seen either: the neighbour sends the same text.
    /// What contradicts it is noted; what finds no room is forgotten, corrections are a kindness.
    pub(super) fn is_second_hand(&mut self, link: LinkId, request: &Request, now: Instant) -> bool {
        let about = request.subject().and_then(|name| self.nodes.find(name));
        let Some(about) = about.filter(|idx| *idx != Nodes::ME) else {
            return false;
        };
        if self.is_first_hand(link, about) {
            return false;
        }
        let doubt = Doubt {
            since: now,
            link,
            about,
            said: request.clone(),
        };
        if self.is_within_budget(link, request, now)
            && self.doubts.0.len() < MAX_DOUBTS
            && self.truth(&doubt).is_some()
        {
            self.doubts.0.push_back(doubt);
            self.arm_doubt_timer(now);
        }
        true
    }

    /// Corrects lines that the neighbour has not confirmed. True: some wait.
    pub(super) fn settle_doubts(&mut self, now: Instant) -> bool {
        for doubt in std::mem::take(&mut self.doubts.0) {
            let first_hand = self.nodes.get(doubt.about).and_then(|node| node.link);
            let peer = first_hand.and_then(|link| self.active(link));
            let waited = now.saturating_duration_since(doubt.since);
            let slow = peer
                .and_then(|peer| peer.rtt)
                .map_or(SOON, |rtt| SOON.max(2 * rtt));
            let synced = peer.is_some_and(|peer| peer.synced);
            if waited < WAIT.min(slow) || !synced && waited < WAIT {
                self.doubts.0.push_back(doubt);
            } else if synced && let Some(truth) = self.truth(&doubt) {
                self.correct(doubt.link, &truth, now);
            }
        }
        !self.doubts.0.is_empty()
    }

    /// What contradicts the line, if anything does.
    fn truth(&self, doubt: &Doubt) -> Option<Request> {
        let node = self.nodes.get(doubt.about)?;
        match &doubt.said {
            Request::AddSubnet { owner, subnet } => {
                let owner = owner.clone();
                (!node.subnets.contains(subnet)).then_some(Request::DelSubnet {
                    owner,
                    subnet: *subnet,
                })
            }
            Request::DelSubnet { owner, subnet } => {
                let owner = owner.clone();
                node.subnets.contains(subnet).then_some(Request::AddSubnet {
                    owner,
                    subnet: *subnet,
                })
            }
            Request::AddEdge {
                from,
                to,
                address,
                options,
                weight,
                ..
            } => {
                let Some(edge) = node.edges.get(to) else {
                    return Some(Request::DelEdge {
                        from: from.clone(),
                        to: to.clone(),
                    });
                };
                let same =
                    edge.address == *address && edge.options == *options && edge.weight == *weight;
                (!same).then(|| edge.request(from, to))
            }
            Request::DelEdge { from, to } => Some(node.edges.get(to)?.request(from, to)),
            _ => None,
        }
    }
}
