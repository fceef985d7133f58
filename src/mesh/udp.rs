//! UDP to one node: which address, is it alive, how long may packets be.
//!
//! Stages: no key -> unconfirmed (short probes to every address that the node may have) -> confirmed
//! (a probe was answered; MTU search, then keepalive) -> unconfirmed again when answers stay away.
//! Source: tinc-1.1-wire.md sections 4.4 to 4.6. Bulk moves to a new address only when that address has
//! answered a probe (spec/security.md T27).

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    mesh::{Mesh, Output, Timer, node::Nodes, pmtu::Pmtu},
    route::{MIN_MTU, NodeIdx},
    tunnel::TYPE_PROBE,
    wire::Options,
};

/// Shortest probe. Source: tinc-1.1-wire.md section 4.5.
const PROBE: u16 = 18;
/// Pace of probes to a node with traffic.
const ACTIVE: Duration = Duration::from_secs(1);
/// Pace of probes to a node that has stopped answering.
const SUSPICIOUS: Duration = Duration::from_millis(250);
/// Unanswered probes to a node with traffic before UDP counts as dead.
const DEAD: u8 = 11;
/// Unanswered probes after which the pace quickens.
const LATE: u8 = 0;
/// How often a fixed MTU is looked at again on an idle path, and whether a longer one passes.
const RECHECK: Duration = Duration::from_secs(60);
/// Bytes of an outer packet around the record data: UDP 8, sequence number and tag 21 with the type,
/// ids 12.
const OUTER: u16 = 8 + 21 + 12;

/// The UDP side of one node.
#[derive(Debug, Default)]
pub(super) struct UdpState {
    /// The address in use: confirmed, or the best guess.
    pub addr: Option<SocketAddr>,
    /// Whether a probe to `addr` was answered lately.
    pub confirmed: bool,
    /// Path MTU to `addr`.
    pub pmtu: Pmtu,
    /// Round trip of the last probe.
    pub rtt: Option<Duration>,
    /// Probes since the last answer.
    pub unanswered: u8,
    /// When the last short probe went to `addr`.
    probed_at: Option<Instant>,
    /// MTU that relays hinted at (MTU_INFO).
    pub hinted_mtu: Option<u16>,
    /// Longest record that the kernel lets through.
    limit: Option<u16>,
    last_sent: Option<Instant>,
    last_answer: Option<Instant>,
    last_recheck: Option<Instant>,
    last_gratuitous: Option<Instant>,
    /// Traffic counters at the last tick, to see whether the node is in use.
    seen_packets: u64,
    /// Until when the node counts as in use.
    active_until: Option<Instant>,
    /// Turn of the candidate addresses.
    turn: u32,
}

impl UdpState {
    /// Forgets everything about the path: the node became reachable or unreachable.
    pub(super) fn reset(&mut self, addr: Option<SocketAddr>) {
        *self = Self {
            addr,
            ..Self::default()
        };
    }

    /// Whether packets go to the node or come from it.
    pub(super) fn is_active(&self, now: Instant) -> bool {
        self.active_until.is_some_and(|until| now < until)
    }

    fn unconfirm(&mut self) {
        self.confirmed = false;
        self.pmtu = Pmtu::default();
        self.limit = None;
        self.rtt = None;
    }
}

impl Mesh {
    /// Once a second: probes that are due, to neighbours and to nodes in use.
    pub(super) fn udp_tick(&mut self, now: Instant) {
        let all: Vec<NodeIdx> = self
            .nodes
            .by_name()
            .filter(|idx| *idx != Nodes::ME)
            .collect();
        for idx in all {
            let node = &mut self.nodes[idx];
            let counters = &node.shared.counters;
            let packets = super::total(&counters.tx_packets) + super::total(&counters.rx_packets);
            if packets != node.udp.seen_packets {
                node.udp.seen_packets = packets;
                node.udp.active_until = Some(now + 3 * ACTIVE);
            }
            if node.place.reachable && node.udp.is_active(now) {
                self.want_key(idx, now);
            }
            self.discover(idx, now);
        }
    }

    /// Sends what is due to one node and arms its timer.
    pub(super) fn discover(&mut self, idx: NodeIdx, now: Instant) {
        let settings = self.settings.clone();
        if !settings.udp_discovery || !self.may_use_udp(idx) {
            return;
        }
        let node = &mut self.nodes[idx];
        let active = node.udp.is_active(now);
        // What has begun to stay silent is asked to the end, also when TCP inside has grown quiet over it.
        let late = node.udp.confirmed && node.udp.unanswered > LATE;
        if !active && !late && node.link.is_none() {
            return;
        }
        let timeout = settings.udp_discovery_timeout;
        let udp = &mut node.udp;
        if udp.confirmed {
            let silent = udp
                .last_answer
                .is_none_or(|at| now.saturating_duration_since(at) >= timeout);
            if silent || udp.unanswered > DEAD {
                self.lost_udp(idx);
            }
        }
        let udp = &self.nodes[idx].udp;
        let pace = match (udp.confirmed, active) {
            (true, _) if udp.unanswered > LATE => SUSPICIOUS,
            (true, true) if udp.pmtu.suspicious() => SUSPICIOUS,
            (true, true) => ACTIVE,
            (true, false) => settings.udp_discovery_keepalive,
            (false, _) => settings.udp_discovery_interval,
        };
        let due = udp.last_sent.map_or(now, |at| at + pace);
        if now < due {
            self.timers.insert((due, Timer::Pmtu, idx));
            return;
        }
        if udp.confirmed {
            self.keepalive(idx, active, now);
            if active || late {
                self.timers.insert((now + SUSPICIOUS, Timer::Pmtu, idx));
            }
        } else {
            self.probe_candidates(idx, now);
        }
        self.gratuitous_reply(idx, now);
    }

    /// Probes at once, whatever is due: somebody waits for the answer.
    pub(super) fn probe_now(&mut self, idx: NodeIdx, now: Instant) {
        let udp = &self.nodes[idx].udp;
        match udp.addr.filter(|_| udp.confirmed) {
            Some(addr) => self.send_probe(idx, addr, PROBE, now),
            None if self.may_use_udp(idx) => self.probe_candidates(idx, now),
            None => {}
        }
    }

    /// A probe timer of the node has come.
    pub(super) fn probe_timer(&mut self, idx: NodeIdx, now: Instant) {
        if self.nodes.get(idx).is_none() {
            return;
        }
        self.search_mtu(idx, now);
        self.discover(idx, now);
    }

    /// Whether we hold a key for the node and neither side insists on TCP.
    fn may_use_udp(&self, idx: NodeIdx) -> bool {
        let node = &self.nodes[idx];
        node.place.reachable
            && node.keys.is_established()
            && !node.place.options.has(Options::TCP_ONLY)
            && !self.settings.options.has(Options::TCP_ONLY)
    }

    fn keepalive(&mut self, idx: NodeIdx, active: bool, now: Instant) {
        let Some(addr) = self.nodes[idx].udp.addr else {
            return;
        };
        self.send_probe(idx, addr, PROBE, now);
        let udp = &mut self.nodes[idx].udp;
        if !udp.pmtu.fixed {
            return;
        }
        let idle = udp
            .last_recheck
            .is_none_or(|at| now.saturating_duration_since(at) >= RECHECK);
        if !idle && (!active || udp.pmtu.min < MIN_MTU) {
            return;
        }
        let length = udp.pmtu.min;
        let longer = idle
            .then_some(udp.limit)
            .flatten()
            .filter(|limit| *limit > length);
        if idle {
            udp.last_recheck = Some(now);
        }
        if udp.pmtu.check() || length < MIN_MTU {
            if length < MIN_MTU {
                udp.pmtu.restart(udp.limit.unwrap_or(crate::route::MTU));
            }
            tracing::info!(node = %self.nodes[idx].name(), "path MTU has shrunk below {length}");
            self.mark_state(idx);
            self.search_mtu(idx, now);
            return;
        }
        self.send_probe(idx, addr, length, now);
        if let Some(longer) = longer {
            self.send_probe(idx, addr, longer, now);
        }
    }

    /// The next step of the MTU search, if it is due.
    pub(super) fn search_mtu(&mut self, idx: NodeIdx, now: Instant) {
        let node = &mut self.nodes[idx];
        let (true, Some(addr)) = (node.udp.confirmed, node.udp.addr) else {
            return;
        };
        let Some(due) = node.udp.pmtu.due(now) else {
            return;
        };
        if due <= now {
            // While nothing at all comes back, a length that is not answered says nothing. The probe sent
            // last may still be on its way.
            if node.udp.unanswered > LATE + 1 && node.udp.pmtu.postpone(now) {
                self.timers
                    .insert((due.max(now) + SUSPICIOUS, Timer::Pmtu, idx));
                self.send_probe(idx, addr, PROBE, now);
                return;
            }
            let was = node.udp.pmtu.fixed;
            self.send_probe(idx, addr, PROBE, now);
            let node = &mut self.nodes[idx];
            for length in node.udp.pmtu.probes(now) {
                self.send_probe(idx, addr, length, now);
            }
            if self.nodes[idx].udp.pmtu.fixed != was {
                self.mark_state(idx);
            }
        }
        if let Some(due) = self.nodes[idx].udp.pmtu.due(now) {
            self.timers.insert((due, Timer::Pmtu, idx));
        }
    }

    /// Probes the address in use, one that some neighbour of the node sees, and its local one.
    fn probe_candidates(&mut self, idx: NodeIdx, now: Instant) {
        let node = &mut self.nodes[idx];
        node.udp.turn = node.udp.turn.wrapping_add(1);
        let turn = node.udp.turn as usize;
        let mut seen = Vec::new();
        let mut local = Vec::new();
        for edge in self.nodes[idx].edges.values() {
            if let Some(back) = self.nodes.edge(edge.to, idx) {
                seen.extend(back.address.known());
            }
            local.extend(edge.local.as_ref().and_then(|local| local.known()));
        }
        if !self.settings.local_discovery {
            local.clear();
        }
        let mut targets: Vec<SocketAddr> = self.nodes[idx].udp.addr.into_iter().collect();
        for list in [seen, local] {
            targets.extend(list.get(turn % list.len().max(1)));
        }
        let mut sent = Vec::new();
        for addr in targets {
            if !sent.contains(&addr) && self.may_probe(addr) {
                sent.push(addr);
                self.send_probe(idx, addr, PROBE, now);
            }
        }
        self.nodes[idx].udp.last_sent = Some(now);
    }

    /// Never to nobody, to everybody, or into the mesh itself (spec/security.md T28).
    pub(super) fn may_probe(&self, addr: SocketAddr) -> bool {
        let everybody = match addr.ip() {
            IpAddr::V4(ip) => ip.is_broadcast() || ip.octets()[0] == 0,
            IpAddr::V6(ip) => ip.is_unspecified(),
        };
        addr.port() != 0 && !everybody && !addr.ip().is_multicast() && !self.is_inside(addr.ip())
    }

    fn send_probe(&mut self, idx: NodeIdx, to: SocketAddr, length: u16, now: Instant) {
        let mut data = vec![0; usize::from(length.max(PROBE))];
        self.rng.fill(&mut data[14..]);
        let udp = &mut self.nodes[idx].udp;
        if Some(to) == udp.addr {
            udp.pmtu.sent(length);
            if length == PROBE {
                udp.probed_at = Some(now);
                udp.unanswered = udp.unanswered.saturating_add(1);
                // Probes elsewhere must not put off those that show whether this address still answers.
                udp.last_sent = Some(now);
            }
        }
        self.send_record(idx, to, TYPE_PROBE, &data);
    }

    /// Tells a node the longest record that came from it, so that it need not probe for it.
    fn gratuitous_reply(&mut self, idx: NodeIdx, now: Instant) {
        let pause = self
            .settings
            .udp_discovery_keepalive
            .saturating_sub(Duration::from_secs(1));
        let node = &mut self.nodes[idx];
        let recent = |at: Instant| now.saturating_duration_since(at) < pause;
        if !node.udp.confirmed || node.minor() < 3 || node.udp.last_gratuitous.is_some_and(recent) {
            return;
        }
        let Some(addr) = node.udp.addr else { return };
        let longest = node
            .shared
            .counters
            .longest
            .swap(0, std::sync::atomic::Ordering::Relaxed);
        if longest == 0 {
            return;
        }
        node.udp.last_gratuitous = Some(now);
        let mut data = [0; PROBE as usize];
        self.rng.fill(&mut data[14..]);
        data[0] = 2;
        let length = u16::try_from(longest).unwrap_or(u16::MAX);
        data[1..3].copy_from_slice(&length.to_be_bytes());
        self.send_record(idx, addr, TYPE_PROBE, &data);
    }

    /// A probe of a node's tunnel came from `from`.
    pub(super) fn handle_probe(
        &mut self,
        idx: NodeIdx,
        from: SocketAddr,
        data: &[u8],
        now: Instant,
    ) {
        let Some(node) = self.nodes.get(idx) else {
            return;
        };
        // One that a relay passed on says nothing about the way between us.
        let relayed = self
            .snapshot
            .by_addr
            .get(&from)
            .is_some_and(|sender| *sender != idx);
        if data.len() < usize::from(PROBE) || relayed {
            return;
        }
        let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
        match data[0] {
            0 => {
                let mut reply = data.to_vec();
                if node.minor() >= 3 {
                    reply.truncate(usize::from(PROBE));
                    reply[0] = 2;
                    reply[1..3].copy_from_slice(&length.to_be_bytes());
                } else {
                    reply[0] = 1;
                }
                self.send_record(idx, from, TYPE_PROBE, &reply);
                self.moved(idx, from, now);
            }
            2 => {
                let length = u16::from_be_bytes([data[1], data[2]]);
                self.probe_answered(idx, from, length, now);
            }
            _ => self.probe_answered(idx, from, length, now),
        }
    }

    fn probe_answered(&mut self, idx: NodeIdx, from: SocketAddr, length: u16, now: Instant) {
        let node = &mut self.nodes[idx];
        let udp = &mut node.udp;
        let fresh = !udp.confirmed || udp.addr != Some(from);
        if fresh {
            if udp.confirmed && udp.unanswered == 0 && udp.addr.is_some_and(|old| better(old, from))
            {
                return; // the address in use works and is no worse
            }
            udp.unconfirm();
            udp.addr = Some(from);
            udp.confirmed = true;
            udp.pmtu.sent(PROBE);
            tracing::info!(node = %node.shared.name, addr = %from, "UDP works");
            self.outputs.push_back(Output::AskPathMtu { to: from });
            self.dial_worked_by_udp(idx);
        }
        let udp = &mut self.nodes[idx].udp;
        if udp.unanswered > 0
            && let Some(sent) = udp.probed_at.take()
        {
            udp.rtt = Some(now.saturating_duration_since(sent));
        }
        udp.unanswered = 0;
        udp.last_answer = Some(now);
        let before = (udp.pmtu.min, udp.pmtu.fixed);
        udp.pmtu.answered(length);
        let node = &self.nodes[idx];
        if fresh || before != (node.udp.pmtu.min, node.udp.pmtu.fixed) {
            if node.udp.pmtu.fixed && !before.1 {
                tracing::info!(node = %node.name(), "path MTU is {}", node.udp.pmtu.min);
            }
            self.mark_state(idx);
        }
        self.answer_ping(idx, now);
        self.search_mtu(idx, now);
    }

    /// An authenticated packet of the node came straight from an address that is not the one in use:
    /// ask there. Until it answers, everything stays as it is.
    pub(super) fn moved(&mut self, idx: NodeIdx, from: SocketAddr, now: Instant) {
        let udp = &mut self.nodes[idx].udp;
        let known = udp.addr == Some(from);
        if known && udp.confirmed || !self.may_use_udp(idx) {
            return;
        }
        let udp = &mut self.nodes[idx].udp;
        if !udp.confirmed {
            udp.addr = Some(from);
        }
        let ask = udp
            .last_sent
            .is_none_or(|at| now.saturating_duration_since(at) >= SUSPICIOUS);
        if (ask || !known) && self.may_probe(from) && self.challenge.take(20, 20, now) {
            self.send_probe(idx, from, PROBE, now);
        }
    }

    /// Somebody told us an address of the node (ANS_KEY tail, UDP_INFO): a guess while none is confirmed.
    pub(super) fn suggest_address(&mut self, idx: NodeIdx, addr: SocketAddr, now: Instant) {
        let udp = &mut self.nodes[idx].udp;
        if !udp.confirmed && udp.addr != Some(addr) {
            udp.addr = Some(addr);
            udp.last_sent = None;
            self.discover(idx, now);
        }
    }

    /// UDP to the node is dead: TCP or a relay takes over at once.
    fn lost_udp(&mut self, idx: NodeIdx) {
        let node = &mut self.nodes[idx];
        tracing::info!(node = %node.shared.name, "UDP no longer answers");
        node.udp.unconfirm();
        node.udp.last_sent = None;
        self.mark_state(idx);
    }

    /// The kernel's MTU towards an address, in bytes of an IP packet.
    pub(super) fn handle_path_mtu(&mut self, to: SocketAddr, mtu: u16, now: Instant) {
        let header = if to.is_ipv4() { 20 } else { 40 };
        let limit = mtu.saturating_sub(header + OUTER);
        let hit: Vec<NodeIdx> = self
            .nodes
            .iter()
            .filter(|(_, n)| n.udp.addr == Some(to))
            .map(|(idx, _)| idx)
            .collect();
        for idx in hit {
            let udp = &mut self.nodes[idx].udp;
            udp.limit = Some(limit);
            udp.pmtu.start(limit);
            if udp.pmtu.max > limit {
                udp.pmtu.too_long(limit + 1);
            }
            self.mark_state(idx);
            self.search_mtu(idx, now);
        }
    }

    /// A datagram of ours was too long for the kernel.
    pub(super) fn handle_too_long(&mut self, to: SocketAddr, length: usize, now: Instant) {
        let record = length.saturating_sub(usize::from(OUTER - 8));
        let record = u16::try_from(record).unwrap_or(u16::MAX);
        let hit: Vec<NodeIdx> = self
            .nodes
            .iter()
            .filter(|(_, n)| n.udp.addr == Some(to))
            .map(|(idx, _)| idx)
            .collect();
        for idx in hit {
            let udp = &mut self.nodes[idx].udp;
            let known = udp.limit.is_some_and(|limit| limit < record);
            udp.pmtu.too_long(record);
            if !known {
                udp.limit = None;
                self.outputs.push_back(Output::AskPathMtu { to });
            }
            self.mark_state(idx);
            self.search_mtu(idx, now);
        }
    }
}

/// Whether `old` is no worse than `new`: never leave a private address for a public one while it works.
fn better(old: SocketAddr, new: SocketAddr) -> bool {
    let private = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    };
    private(old) || !private(new)
}
