//! Budgets of request lines: which node a line is charged to, and when a link is closed.
//!
//! A line is charged to its subject if the subject lies behind the link. So lines that a neighbour
//! forwards or refreshes do not count as the neighbour's own. A neighbour is charged for lines
//! about itself and about nodes that do not lie behind it. A neighbour is also charged for nodes
//! that only this neighbour vouches for. So no member escapes its budget by naming other nodes.
//!
//! | line | charged to | lines a second, at once | cut |
//! |---|---|---|---|
//! | first exchange (each fact once, until the first PONG) | neighbour, `others` | 10 x MetaRate, [`GRAPH_LINES`] | far above, for 10 s |
//! | about the neighbour | neighbour, `own` | MetaRate, [`LINE_BURST`] | over for 10 s |
//! | about a node behind it that we know | that node, `relayed`, and neighbour, `others` | 2 x and 10 x MetaRate | as first exchange |
//! | about a node that we know otherwise | neighbour, `elsewhere` | MetaRate, [`ELSEWHERE_BURST`] | five times as much for 10 s |
//! | any other | neighbour, `unknown` | MetaRate, [`LINE_BURST`] | the same |
//!
//! Each hop accepts fewer lines a second about others from a member (MetaRate) than the next hop
//! accepts about one node (2 x). So the node's own lines still have room. Routed lines are charged
//! by bytes, to the same nodes. A budget belongs to the node, not to the link: it survives a link
//! that is closed and dialled again. Source: proto/threat-model.md section 5.6, T31.

use std::time::{Duration, Instant};

use meshd_wire::{KeyRequest, NodeName, Request};

use crate::{
    mesh::{
        LinkId, Mesh,
        limits::{
            BUDGET_AGE, Bucket, CONGESTED, ELSEWHERE_BURST, GRAPH_LINES, LINE_BURST, OVER_BUDGET,
            QUIET_LINES, ROUTED_BURST, ROUTED_LINE, ROUTED_MOST, ROUTED_MOST_BURST, ROUTED_RATE,
            STRAY_BURST, STRAY_RATE,
        },
        topology::node::Nodes,
    },
    route::NodeIdx,
};

/// Time between two refusals above which they belong to different periods.
const PAUSE: Duration = Duration::from_secs(2);

/// Budgets of one node. Memory: about 300 bytes, for nodes with recent lines only.
#[derive(Debug)]
pub(in crate::mesh) struct Budget {
    own: Account,
    /// Lines about nodes that do not lie behind this node.
    elsewhere: Account,
    /// Lines about nodes that only this node vouches for.
    unknown: Account,
    others: Account,
    /// Lines about the node from others.
    relayed: Bucket,
    /// Routed bytes that are forwarded even if the link to the target is congested.
    routed: Bucket,
    /// All routed bytes.
    routed_most: Account,
    /// Routed bytes in the names of nodes that do not lie behind the neighbour.
    stray: Account,
    used: Instant,
}

/// Tokens, and the period of time without enough of them.
#[derive(Debug)]
struct Account {
    tokens: Bucket,
    /// Refusals that do not count yet.
    slack: Bucket,
    /// First and last refusal of the current period.
    over: Option<(Instant, Instant)>,
}

/// Result of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Charge {
    Taken,
    /// Refused, for the first time after a pause.
    First,
    Refused,
    /// Refused, after refusals for 10 s.
    TooLong,
}

/// Rate and burst of a budget, and the tolerated refusals a second.
#[derive(Debug, Clone, Copy)]
struct Limit {
    rate: u32,
    burst: usize,
    slack: u32,
}

/// The limits of the accounts of a node, by MetaRate: see the table of this module.
impl Limit {
    const fn own(rate: u32) -> Self {
        Self {
            rate,
            burst: LINE_BURST,
            slack: 0,
        }
    }

    const fn elsewhere(rate: u32) -> Self {
        Self {
            rate,
            burst: ELSEWHERE_BURST,
            slack: rate.saturating_mul(4),
        }
    }

    const fn unknown(rate: u32) -> Self {
        Self {
            rate,
            burst: LINE_BURST,
            slack: rate.saturating_mul(4),
        }
    }

    const fn others(rate: u32) -> Self {
        Self {
            rate: rate.saturating_mul(10),
            burst: GRAPH_LINES,
            slack: rate.saturating_mul(15),
        }
    }
}

impl Account {
    fn new(burst: usize, now: Instant) -> Self {
        Self {
            tokens: Bucket::new(burst, now),
            slack: Bucket::new(0, now),
            over: None,
        }
    }

    fn charge(&mut self, cost: usize, limit: Limit, now: Instant) -> Charge {
        if self.tokens.take_many(cost, limit.rate, limit.burst, now) {
            return Charge::Taken;
        }
        if self.slack.take(limit.slack, limit.slack as usize, now) {
            return Charge::Refused;
        }
        let same = |(_, last): &(Instant, Instant)| now.saturating_duration_since(*last) < PAUSE;
        let Some((since, _)) = self.over.filter(same) else {
            self.over = Some((now, now));
            return Charge::First;
        };
        self.over = Some((since, now));
        match now.saturating_duration_since(since) >= OVER_BUDGET {
            true => Charge::TooLong,
            false => Charge::Refused,
        }
    }
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            own: Account::new(LINE_BURST, now),
            elsewhere: Account::new(ELSEWHERE_BURST, now),
            unknown: Account::new(LINE_BURST, now),
            others: Account::new(GRAPH_LINES, now),
            relayed: Bucket::new(2 * LINE_BURST, now),
            routed: Bucket::new(ROUTED_BURST, now),
            routed_most: Account::new(ROUTED_MOST_BURST, now),
            stray: Account::new(STRAY_BURST, now),
            used: now,
        }
    }
}

impl Mesh {
    fn budget(&mut self, idx: NodeIdx, now: Instant) -> &mut Budget {
        let budget = &mut self.gossip.of[idx].budget;
        let budget = budget.get_or_insert_with(|| Box::new(Budget::new(now)));
        budget.used = now;
        budget
    }

    /// Charges one flooded line to the nodes that answer for it. Returns `false` if the line is
    /// refused. Closes the link if its neighbour has been over its budget for [`OVER_BUDGET`].
    pub(in crate::mesh) fn is_within_budget(
        &mut self,
        link: LinkId,
        request: &Request,
        now: Instant,
    ) -> bool {
        let Some(peer) = self.peers.get(&link) else {
            return false;
        };
        let node = peer.node;
        let first = !peer.liveness.synced && self.is_first_told(link, request);
        let subject = request.subject().and_then(|name| self.nodes.find(name));
        let rate = self.cx.settings.meta_rate;
        let twice = rate.saturating_mul(2);
        let reachability = subject.map(|idx| self.nodes[idx].reachability);
        let reachable = reachability.is_some_and(|reachability| reachability.reachable);
        let behind =
            reachable && reachability.is_some_and(|reachability| reachability.nexthop == node);
        let charge = if first && (behind || !reachable) {
            self.budget(node, now)
                .others
                .charge(1, Limit::others(rate), now)
        } else if subject == Some(node) {
            self.budget(node, now).own.charge(1, Limit::own(rate), now)
        } else {
            // The nearest node on the path that we know by more than the neighbour's lines.
            let known = |idx: NodeIdx| self.nodes[idx].introduced_by.is_none();
            let origin = match reachable {
                true => reachability.map(|reachability| reachability.vouched),
                false => subject.filter(|idx| known(*idx)),
            };
            let origin = origin.filter(|idx| *idx != node && *idx != Nodes::ME);
            let charged = origin.map(|origin| {
                let relayed = &mut self.budget(origin, now).relayed;
                let quiet = relayed.left(twice, 2 * LINE_BURST, now)
                    >= (2 * LINE_BURST - QUIET_LINES) as f64;
                (relayed.take(twice, 2 * LINE_BURST, now), quiet)
            });
            let budget = self.budget(node, now);
            let charge = match charged {
                Some((taken, quiet)) if behind || taken && quiet => {
                    budget.others.charge(1, Limit::others(rate), now)
                }
                Some(_) => budget.elsewhere.charge(1, Limit::elsewhere(rate), now),
                None => budget.unknown.charge(1, Limit::unknown(rate), now),
            };
            match (charge, charged) {
                (Charge::Taken, Some((false, _))) => Charge::Refused,
                _ => charge,
            }
        };
        self.settle_charge(link, charge, "request lines")
    }

    /// Returns true if a line may belong to a first exchange: it adds a fact that this link has not
    /// announced yet.
    fn is_first_told(&self, link: LinkId, request: &Request) -> bool {
        match request {
            Request::AddSubnet { .. } => true,
            Request::AddEdge { from, to, .. } => {
                let ends = self.nodes.find(from).zip(self.nodes.find(to));
                let edge = ends.and_then(|(from, to)| self.nodes.edge(from, to));
                edge.is_none_or(|edge| edge.teller != Some(link))
            }
            _ => false,
        }
    }

    /// Charges a neighbour for a line that only this neighbour can have written.
    pub(in crate::mesh) fn charge_own(&mut self, link: LinkId, now: Instant) {
        if let Some(peer) = self.peers.get(&link) {
            let node = peer.node;
            let own = Limit::own(self.cx.settings.meta_rate);
            let charge = self.budget(node, now).own.charge(1, own, now);
            self.settle_charge(link, charge, "request lines");
        }
    }

    /// Charges a link for a useless line: seen before, or not parsed. Such a line costs little, but
    /// many of them are a flood too.
    pub(in crate::mesh) fn charge_unused(&mut self, link: LinkId, now: Instant) {
        let Some(peer) = self.peers.get(&link) else {
            return;
        };
        let (node, rate) = (peer.node, self.cx.settings.meta_rate);
        let others = Limit::others(rate);
        let charge = self.budget(node, now).others.charge(1, others, now);
        if charge == Charge::TooLong {
            self.settle_charge(link, charge, "useless lines");
        }
    }

    /// Returns true if a routed line (REQ_KEY, ANS_KEY, UDP_INFO, MTU_INFO) of `length` bytes is
    /// within the sender's budget. If the link to the target is congested, only lines within the
    /// sender's fair share are forwarded. The share is below the queue length at which that link is
    /// closed.
    pub(in crate::mesh) fn admits_routed(
        &mut self,
        link: LinkId,
        request: &Request,
        length: usize,
        now: Instant,
    ) -> bool {
        let (Some(peer), Some((from, to))) = (self.peers.get(&link), ends(request)) else {
            return true;
        };
        let node = peer.node;
        let length = length + ROUTED_LINE;
        let from = self.nodes.find(from);
        let reachability = from.map(|idx| self.nodes[idx].reachability);
        let behind = reachability
            .is_some_and(|reachability| reachability.reachable && reachability.nexthop == node);
        let target = self.nodes.find(to);
        if let Request::ReqKey { payload, .. } = request
            && payload.ext() == Some(KeyRequest::PACKET)
        {
            // A packet in a tunnel: the packet path bounds it.
            return true;
        }
        let sender = reachability
            .filter(|_| behind)
            .map(|reachability| reachability.vouched);
        let slack = self.cx.settings.meta_rate.saturating_mul(15);
        let (charge, fair) = match sender {
            Some(sender) => {
                let most = Limit {
                    rate: ROUTED_MOST,
                    burst: ROUTED_MOST_BURST,
                    slack: if from == Some(node) { 0 } else { slack },
                };
                let budget = self.budget(sender, now);
                let charge = budget.routed_most.charge(length, most, now);
                let fair = budget
                    .routed
                    .take_many(length, ROUTED_RATE, ROUTED_BURST, now);
                (charge, fair)
            }
            None => {
                let stray = Limit {
                    rate: STRAY_RATE,
                    burst: STRAY_BURST,
                    slack,
                };
                (
                    self.budget(node, now).stray.charge(length, stray, now),
                    false,
                )
            }
        };
        // A node behind the neighbour does not close the neighbour's link.
        let charge = match charge {
            Charge::TooLong | Charge::First if sender.is_some_and(|sender| sender != node) => {
                Charge::Refused
            }
            charge => charge,
        };
        if !self.settle_charge(link, charge, "routed lines") {
            return false;
        }
        let queue = target.map_or(0, |to| self.unsent_towards(to));
        let most = if fair { 8 * CONGESTED } else { CONGESTED };
        let room = queue < most;
        if !room {
            self.cx.counters.refused += 1;
        }
        room
    }

    /// Counts a refusal, logs the first refusal of a period, and closes the link of a neighbour
    /// that was over its budget too long. Returns true if nothing was refused.
    fn settle_charge(&mut self, link: LinkId, charge: Charge, what: &str) -> bool {
        if charge == Charge::Taken {
            return true;
        }
        self.cx.counters.refused += 1;
        let Some(peer) = self.peers.get(&link) else {
            return false;
        };
        let (name, seconds) = (&peer.hello.name, OVER_BUDGET.as_secs());
        match charge {
            Charge::First => {
                tracing::warn!(node = %name, "over its budget of {what}: refused until fewer come");
            }
            Charge::TooLong if !self.peers.is_closing(link) => {
                tracing::warn!(node = %name, "cut: over its budget of {what} for {seconds} s");
                self.misbehaved(link, &format!("over its budget of {what} for {seconds} s"));
            }
            Charge::TooLong | Charge::Refused | Charge::Taken => {}
        }
        false
    }

    /// Removes nodes that have a host file now from the count of their introducer.
    pub(in crate::mesh) fn vouch_for_hosts(&mut self) {
        let all: Vec<NodeIdx> = self.nodes.by_name().collect();
        for idx in all {
            if self.cx.settings.hosts.contains_key(self.nodes[idx].name())
                && let Some(by) = self.nodes[idx].introduced_by.take()
                && let Some(by) = self.nodes.get_mut(by)
            {
                by.introduced -= 1;
            }
        }
    }

    /// Forgets budgets that are full again, once a second.
    pub(in crate::mesh) fn budget_tick(&mut self, now: Instant) {
        let idle =
            |budget: &mut Box<Budget>| now.saturating_duration_since(budget.used) >= BUDGET_AGE;
        for of in self.gossip.of.values_mut() {
            of.budget.take_if(idle);
        }
    }
}

/// Sender and target of a routed line.
fn ends(request: &Request) -> Option<(&NodeName, &NodeName)> {
    match request {
        Request::ReqKey { from, to, .. }
        | Request::AnsKey { from, to, .. }
        | Request::UdpInfo { from, to, .. }
        | Request::MtuInfo { from, to, .. } => Some((from, to)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
