//! Statements of others about our neighbour that the neighbour has not made: they are not accepted,
//! but corrected.
//!
//! In tinc an old statement is forwarded up to its subject, and the subject corrects it. The
//! first-hand rule stops such lines, so a node with an old statement about our neighbour would keep
//! it forever. So we correct the line in the neighbour's place. The correction waits for a while,
//! because the neighbour's own line may still be on its way to us.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use meshd_wire::Request;

use crate::{
    mesh::{LinkId, Mesh, limits::MAX_DOUBTS},
    route::NodeIdx,
};

/// Time for the neighbour's own line after its first exchange is over.
const SOON: Duration = Duration::from_millis(250);
/// Time for the neighbour's own line before its first exchange is over.
const WAIT: Duration = Duration::from_secs(3);
/// Time for the answer to PING if others say that the neighbour has no edge to us.
const SILENT: Duration = Duration::from_secs(3);
/// Time from one PING to the next on a link that others contradict, so that their lines cost no more.
const PACE: Duration = Duration::from_secs(1);

/// Lines that wait for comparison, oldest first.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Corrections(VecDeque<Doubt>);

#[derive(Debug)]
struct Doubt {
    since: Instant,
    link: LinkId,
    about: NodeIdx,
    request: Request,
}

impl Mesh {
    /// Queues a flooded line about a neighbour that came over another link, if it contradicts the
    /// neighbour. The line is not remembered as seen, because the neighbour sends the same text. A
    /// line beyond the bound is not corrected.
    pub(in crate::mesh) fn doubt(&mut self, link: LinkId, request: &Request, now: Instant) {
        let about = request.subject().and_then(|name| self.nodes.find(name));
        let Some(about) = about else {
            return;
        };
        let doubt = Doubt {
            since: now,
            link,
            about,
            request: request.clone(),
        };
        if self.is_within_budget(link, request, now)
            && self.gossip.corrections.0.len() < MAX_DOUBTS
            && self.truth(&doubt).is_some()
        {
            let own = self.withdrawn_to_us(&doubt);
            let pinged = own.and_then(|link| Some(self.active(link)?.liveness.pinged));
            if let (Some(link), Some(pinged)) = (own, pinged)
                && now.saturating_duration_since(pinged) >= PACE
            {
                self.ping_link(link, now);
            }
            self.gossip.corrections.0.push_back(doubt);
            self.arm_doubt_timer(now);
        }
    }

    /// Returns the neighbour's own link if a line says that the neighbour has no edge to us: then
    /// the link may be dead, and only its other end knows. So it must answer before we correct the
    /// line.
    fn withdrawn_to_us(&self, doubt: &Doubt) -> Option<LinkId> {
        match &doubt.request {
            Request::DelEdge { to, .. } if *to == self.cx.settings.name => {
                self.nodes.get(doubt.about)?.link
            }
            _ => None,
        }
    }

    /// Decides on a doubt if it is about an edge to us and the neighbour's link has not answered to
    /// PING. Returns true if there is nothing more to decide now.
    fn settle_silence(&mut self, doubt: &Doubt, now: Instant) -> bool {
        let link = self.withdrawn_to_us(doubt);
        let peer = link.and_then(|link| self.active(link));
        let (Some(link), Some(peer)) = (link, peer.filter(|peer| peer.liveness.awaiting_pong))
        else {
            return false;
        };
        let patience = peer.liveness.rtt.map_or(SILENT, |rtt| SILENT.max(4 * rtt));
        if now.saturating_duration_since(peer.liveness.pinged) >= patience {
            let why = "the other end has withdrawn its edge and does not answer to PING";
            self.close(link, why, now);
        }
        true
    }

    /// Corrects the lines that the neighbour has not confirmed. Returns true if others still wait.
    pub(in crate::mesh) fn settle_doubts(&mut self, now: Instant) -> bool {
        for doubt in std::mem::take(&mut self.gossip.corrections.0) {
            if self.settle_silence(&doubt, now) {
                if self.withdrawn_to_us(&doubt).is_some() {
                    self.gossip.corrections.0.push_back(doubt);
                }
                continue;
            }
            let first_hand = self.nodes.get(doubt.about).and_then(|node| node.link);
            let peer = first_hand.and_then(|link| self.active(link));
            let waited = now.saturating_duration_since(doubt.since);
            let slow = peer
                .and_then(|peer| peer.liveness.rtt)
                .map_or(SOON, |rtt| SOON.max(2 * rtt));
            let synced = peer.is_some_and(|peer| peer.liveness.synced);
            if waited < WAIT.min(slow) || !synced && waited < WAIT {
                self.gossip.corrections.0.push_back(doubt);
            } else if synced && let Some(truth) = self.truth(&doubt) {
                self.correct(doubt.link, &truth, now);
            }
        }
        !self.gossip.corrections.0.is_empty()
    }

    /// Returns the correction of a line, if the neighbour's statements contradict it.
    fn truth(&self, doubt: &Doubt) -> Option<Request> {
        let node = self.nodes.get(doubt.about)?;
        match &doubt.request {
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
