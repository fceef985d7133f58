//! UDP_INFO and MTU_INFO: hints for nodes behind relays to find a direct path.
//!
//! Neither hint needs an answer; a lost hint only delays the direct path. Source: wire/tinc-1.1.md
//! section 3.9.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use meshd_wire::{EdgeAddress, NodeName, Options, Request};

use crate::{
    mesh::{
        Mesh,
        gossip::law::{Adds, Ruling},
        topology::node::Nodes,
    },
    route::{MIN_MTU, MTU, NodeIdx},
};

/// Time of the last hint that we originated towards each node.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Paced {
    udp: BTreeMap<NodeIdx, Instant>,
    mtu: BTreeMap<NodeIdx, Instant>,
}

/// Shortest time that an MTU hint counts. Two hints arrive in this time.
const HINT: Duration = Duration::from_secs(12);

/// Hints about the path MTU of a node: the longest of the last seconds counts. Any member can write
/// a hint. One that is too long costs little: relays send over TCP what UDP does not carry. Memory:
/// 24 bytes.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Hints {
    /// The longest hint in the current period of [`HINT`], and in the period before.
    longest: [u16; 2],
    began: Option<Instant>,
}

impl Hints {
    /// Returns the MTU in force; [`MTU`] without a hint.
    pub(in crate::mesh) fn longest(&self) -> u16 {
        let [young, old] = self.longest;
        match young.max(old) {
            0 => MTU,
            longest => longest,
        }
    }

    /// Takes a hint. Returns true if the MTU in force changed.
    fn note(&mut self, mtu: u16, now: Instant) -> bool {
        let before = self.longest();
        let age = self.began.map(|at| now.saturating_duration_since(at));
        if age.is_none_or(|age| age >= 2 * HINT) {
            self.longest = [0, 0];
            self.began = Some(now);
        } else if age.is_some_and(|age| age >= HINT) {
            self.longest = [0, self.longest[0]];
            self.began = Some(now);
        }
        self.longest[0] = self.longest[0].max(mtu);
        before != self.longest()
    }
}

fn pace(
    sent: &mut BTreeMap<NodeIdx, Instant>,
    to: NodeIdx,
    interval: Duration,
    now: Instant,
) -> bool {
    let due = sent
        .get(&to)
        .is_none_or(|at| now.saturating_duration_since(*at) >= interval);
    if due {
        sent.insert(to, now);
    }
    due
}

impl Mesh {
    /// Sends hints to a node whose tunnel traffic reaches us, but not directly by UDP.
    pub(in crate::mesh) fn tell_better_path(&mut self, node: NodeIdx, now: Instant) {
        self.send_udp_info(Nodes::ME, node, now);
        self.send_mtu_info(Nodes::ME, node, i32::from(MTU), now);
    }

    /// Sends hints once a second for tunnels in use without direct UDP.
    pub(in crate::mesh) fn info_tick(&mut self, now: Instant) {
        let indirect: Vec<NodeIdx> = self
            .nodes
            .iter()
            .filter(|(_, node)| {
                node.reachability.reachable
                    && node.link.is_none()
                    && self.paths[node.shared.idx].is_active(now)
                    && !self.paths[node.shared.idx].confirmed
            })
            .map(|(idx, _)| idx)
            .filter(|idx| *idx != Nodes::ME)
            .collect();
        for idx in indirect {
            self.tell_better_path(idx, now);
        }
        self.paths
            .paced
            .udp
            .retain(|_, at| now.saturating_duration_since(*at) < Duration::from_secs(60));
        self.paths
            .paced
            .mtu
            .retain(|_, at| now.saturating_duration_since(*at) < Duration::from_secs(60));
    }

    /// Returns the next hop of hints towards `to`: the static relay, or the dynamic one if we are
    /// the static relay.
    fn hint_hop(&self, to: NodeIdx) -> NodeIdx {
        let reachability = &self.nodes[to].reachability;
        if reachability.via == Nodes::ME {
            reachability.nexthop
        } else {
            reachability.via
        }
    }

    fn send_udp_info(&mut self, from: NodeIdx, to: NodeIdx, now: Instant) {
        let to = self.hint_hop(to);
        let node = &self.nodes[to];
        if to == Nodes::ME || !node.reachability.reachable {
            return;
        }
        let interval = self.cx.settings.udp_info_interval;
        if from == Nodes::ME
            && (node.link.is_some() || !pace(&mut self.paths.paced.udp, to, interval, now))
        {
            return;
        }
        let tcp_only = |idx: NodeIdx| self.nodes[idx].reachability.options.has(Options::TCP_ONLY);
        if self.cx.settings.options.has(Options::TCP_ONLY)
            || from != Nodes::ME && tcp_only(from)
            || tcp_only(to)
        {
            return;
        }
        if self.nodes[self.nodes[to].reachability.nexthop].minor() < 5 {
            return;
        }
        // The originator writes its own address; the first hop replaces it with the address that it
        // sees.
        let address = match from {
            Nodes::ME => self.own_edge_address(to),
            _ => self.own_address(from),
        };
        if address.known().is_none() {
            return;
        }
        let line = Request::UdpInfo {
            from: self.nodes[from].name().clone(),
            to: self.nodes[to].name().clone(),
            address,
        };
        self.send_towards(to, line.line(0).into());
    }

    fn own_edge_address(&self, to: NodeIdx) -> EdgeAddress {
        let hop = self.nodes[to].reachability.nexthop;
        let local = self
            .nodes
            .edge(Nodes::ME, hop)
            .and_then(|edge| edge.local.clone());
        local.unwrap_or_else(EdgeAddress::unspec)
    }

    pub(in crate::mesh) fn handle_udp_info(
        &mut self,
        from: &NodeName,
        to: &NodeName,
        address: &EdgeAddress,
        ruling: Ruling,
        now: Instant,
    ) {
        let (Some(from), Some(to)) = (self.nodes.find(from), self.nodes.find(to)) else {
            return;
        };
        let node = &self.nodes[from];
        if !node.reachability.reachable || node.reachability.via != from {
            return;
        }
        if ruling.adds == Adds::Candidate
            && let Some(addr) = address.known()
            && self.may_probe(addr)
        {
            self.suggest_address(from, addr, now);
        }
        if to != Nodes::ME {
            self.send_udp_info(from, to, now);
        }
    }

    fn send_mtu_info(&mut self, from: NodeIdx, to: NodeIdx, mtu: i32, now: Instant) {
        let to = self.hint_hop(to);
        let node = &self.nodes[to];
        if to == Nodes::ME || !node.reachability.reachable {
            return;
        }
        let interval = self.cx.settings.mtu_info_interval;
        if from == Nodes::ME
            && (node.link.is_some() || !pace(&mut self.paths.paced.mtu, to, interval, now))
        {
            return;
        }
        if self.nodes[node.reachability.nexthop].minor() < 6 {
            return;
        }
        let line = Request::MtuInfo {
            from: self.nodes[from].name().clone(),
            to: self.nodes[to].name().clone(),
            mtu: self
                .known_mtu(from)
                .map_or(mtu, |known| mtu.min(i32::from(known))),
        };
        self.send_towards(to, line.line(0).into());
    }

    /// Returns the known MTU towards a node, if the search is over.
    fn known_mtu(&self, idx: NodeIdx) -> Option<u16> {
        let fixed = |idx: NodeIdx| {
            let pmtu = &self.paths[idx].pmtu;
            (pmtu.fixed && pmtu.min >= MIN_MTU).then_some(pmtu.min)
        };
        if idx == Nodes::ME {
            return None;
        }
        fixed(idx).or_else(|| fixed(self.hint_hop(idx)))
    }

    pub(in crate::mesh) fn handle_mtu_info(
        &mut self,
        from: &NodeName,
        to: &NodeName,
        mtu: i32,
        now: Instant,
    ) {
        // Any node may have written the hint. tinc ends the link here; we drop the line.
        if mtu < i32::from(MIN_MTU) {
            self.cx.counters.refused += 1;
            return;
        }
        let (Some(from), Some(to)) = (self.nodes.find(from), self.nodes.find(to)) else {
            return;
        };
        if !self.nodes[from].reachability.reachable {
            return;
        }
        let mtu = u16::try_from(mtu).unwrap_or(MTU).min(MTU);
        let udp = &mut self.paths[from];
        if !udp.confirmed && udp.hinted_mtu.note(mtu, now) {
            self.mark_state(from);
        }
        if to != Nodes::ME {
            self.send_mtu_info(from, to, i32::from(mtu), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_hints_about_an_mtu_the_longest_of_the_last_seconds_counts() {
        let start = crate::mesh::testing::start();
        let mut hints = Hints::default();
        assert_eq!(hints.longest(), MTU);
        assert!(hints.note(1_400, start));
        // A hundred false hints a second, one true hint in five seconds.
        for n in 1..=6_000_u32 {
            let now = start + Duration::from_millis(10) * n;
            let hint = if n.is_multiple_of(500) { 1_400 } else { 512 };
            assert!(!hints.note(hint, now));
        }
        assert_eq!(hints.longest(), 1_400);
        // A path that has shrunk is known soon.
        let mut now = start + Duration::from_secs(60);
        for _ in 0..7 {
            now += Duration::from_secs(5);
            hints.note(1_200, now);
        }
        assert_eq!(hints.longest(), 1_200);
        assert!(hints.note(1_300, now + 10 * HINT));
    }
}
