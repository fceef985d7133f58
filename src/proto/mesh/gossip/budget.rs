//! Budgets of request lines: which node a line is charged to, and when a link is closed.
//!
//! A line is charged to its subject if the subject lies behind the link. So lines that a neighbour
//! forwards or refreshes do not count as the neighbour's own. A neighbour is charged for lines
//! about itself and about nodes that do not lie behind it. A neighbour is also charged for nodes
//! that only this neighbour vouches for. So no member escapes its budget by naming other nodes.
//! The prices are in [`crate::mesh::gossip::law`].
//!
//! Routed lines are charged by bytes. A budget belongs to the node, not to the link: it survives a
//! link that is closed and dialled again. Source: proto/threat-model.md sections 2.5 and 5.6, T31.

use std::time::{Duration, Instant};

use meshd_wire::Request;

use crate::{
    mesh::{
        LinkId, Mesh,
        gossip::law::{self, Account as Name, Payer, Place, Price, SUBJECT, Statement},
        limits::{
            BUDGET_AGE, Bucket, CONGESTED, ELSEWHERE_BURST, GRAPH_LINES, LINE_BURST, OVER_BUDGET,
            QUIET_LINES, ROUTED_BURST, ROUTED_LINE, ROUTED_MOST_BURST, ROUTED_RATE, STRAY_BURST,
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

impl Account {
    fn new(burst: usize, now: Instant) -> Self {
        Self {
            tokens: Bucket::new(burst, now),
            slack: Bucket::new(0, now),
            over: None,
        }
    }

    fn charge(&mut self, cost: usize, price: Price, meta_rate: u32, now: Instant) -> Charge {
        let rate = price.rate.at(meta_rate);
        if self.tokens.take_many(cost, rate, price.burst, now) {
            return Charge::Taken;
        }
        let slack = meta_rate.saturating_mul(price.slack);
        if !price.cuts || self.slack.take(slack, slack as usize, now) {
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
            relayed: Bucket::new(SUBJECT.1, now),
            routed: Bucket::new(ROUTED_BURST, now),
            routed_most: Account::new(ROUTED_MOST_BURST, now),
            stray: Account::new(STRAY_BURST, now),
            used: now,
        }
    }

    fn account(&mut self, name: Name) -> &mut Account {
        match name {
            Name::Own => &mut self.own,
            Name::Others => &mut self.others,
            Name::Elsewhere => &mut self.elsewhere,
            Name::Unknown => &mut self.unknown,
            Name::Routed => &mut self.routed_most,
            Name::Stray => &mut self.stray,
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

    /// Charges `cost` at the price of a place to the account of `payer`.
    fn charge(&mut self, payer: NodeIdx, place: Place, cost: usize, now: Instant) -> Charge {
        let (price, meta_rate) = (law::price(place), self.cx.settings.meta_rate);
        let account = self.budget(payer, now).account(price.account);
        account.charge(cost, price, meta_rate, now)
    }

    /// Charges one flooded line to the nodes that answer for it. Returns `false` if the line is
    /// refused. Closes the link if its neighbour has been over its budget for [`OVER_BUDGET`].
    pub(in crate::mesh) fn is_within_budget(
        &mut self,
        link: LinkId,
        request: &Request,
        now: Instant,
    ) -> bool {
        let Some(node) = self.peers.get(&link).map(|peer| peer.node) else {
            return false;
        };
        let (mut place, origin) = self.place_of(link, request);
        let mut within = true;
        if let Some(origin) = origin
            && law::price(place).payer == Payer::NeighbourAndSubject
        {
            let quiet;
            (within, quiet) = self.charge_subject(origin, now);
            if within && quiet {
                place = Place::Behind;
            }
        }
        let charge = match self.charge(node, place, 1, now) {
            Charge::Taken if !within => Charge::Refused,
            charge => charge,
        };
        self.settle_charge(link, charge, "request lines")
    }

    /// Returns the place of a flooded line's subject, and the nearest node on the path to the
    /// subject that we know by more than the neighbour's lines.
    fn place_of(&self, link: LinkId, request: &Request) -> (Place, Option<NodeIdx>) {
        let Some(peer) = self.peers.get(&link) else {
            return (Place::Unvouched, None);
        };
        let node = peer.node;
        let subject = request.subject().and_then(|name| self.nodes.find(name));
        let reachability = subject
            .map(|idx| self.nodes[idx].reachability)
            .filter(|reachability| reachability.reachable);
        let behind = reachability.is_some_and(|reachability| reachability.nexthop == node);
        if (behind || reachability.is_none())
            && !peer.liveness.synced
            && self.is_first_told(link, request)
        {
            return (Place::FirstExchange, None);
        }
        if subject == Some(node) {
            return (Place::Itself, None);
        }
        let known = |idx: &NodeIdx| self.nodes[*idx].introduced_by.is_none();
        let origin = match reachability {
            Some(reachability) => Some(reachability.vouched),
            None => subject.filter(known),
        };
        match origin.filter(|idx| *idx != node && *idx != Nodes::ME) {
            None => (Place::Unvouched, None),
            origin if behind => (Place::Behind, origin),
            origin => (Place::Elsewhere, origin),
        }
    }

    /// Charges a line to its subject. Returns true if it is within the subject's budget, and true
    /// if there were few lines about the subject lately.
    fn charge_subject(&mut self, origin: NodeIdx, now: Instant) -> (bool, bool) {
        let (rate, burst) = SUBJECT;
        let rate = rate.at(self.cx.settings.meta_rate);
        let relayed = &mut self.budget(origin, now).relayed;
        let quiet = relayed.left(rate, burst, now) >= (burst - QUIET_LINES) as f64;
        (relayed.take(rate, burst, now), quiet)
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

    /// Charges a neighbour for a line that has no effect.
    pub(in crate::mesh) fn charge_line(&mut self, link: LinkId, place: Place, now: Instant) {
        if let Some(node) = self.peers.get(&link).map(|peer| peer.node) {
            let charge = self.charge(node, place, 1, now);
            self.settle_charge(link, charge, "request lines");
        }
    }

    /// Charges a link for a useless line: seen before, or not parsed. Such a line costs little, but
    /// many of them are a flood too.
    pub(in crate::mesh) fn charge_unused(&mut self, link: LinkId, now: Instant) {
        if let Some(node) = self.peers.get(&link).map(|peer| peer.node) {
            let charge = self.charge(node, Place::Useless, 1, now);
            if charge == Charge::TooLong {
                self.settle_charge(link, charge, "useless lines");
            }
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
        let (Some(peer), Some((from, to))) = (self.peers.get(&link), request.ends()) else {
            return true;
        };
        if Statement::of(request) == Statement::Packet {
            // A packet in a tunnel: the packet path bounds it.
            return true;
        }
        let node = peer.node;
        let length = length + ROUTED_LINE;
        let (from, target) = (self.nodes.find(from), self.nodes.find(to));
        let reachability = from.map(|idx| self.nodes[idx].reachability);
        let sender = reachability
            .filter(|reachability| reachability.reachable && reachability.nexthop == node)
            .map(|reachability| reachability.vouched);
        let place = match sender {
            None => Place::Stray,
            Some(_) if from == Some(node) => Place::Routed,
            Some(sender) if sender == node => Place::RoutedUnvouched,
            // A node behind the neighbour does not close the neighbour's link.
            Some(_) => Place::RoutedBehind,
        };
        let charge = self.charge(sender.unwrap_or(node), place, length, now);
        let fair = sender.is_some_and(|sender| {
            let routed = &mut self.budget(sender, now).routed;
            routed.take_many(length, ROUTED_RATE, ROUTED_BURST, now)
        });
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

#[cfg(test)]
mod tests;
