//! UDP to one node: its address, its liveness and its path MTU.
//!
//! States: no key -> unconfirmed -> confirmed -> unconfirmed again when probes stay unanswered.
//! Unconfirmed: short probes go to every address that the node may have. Confirmed: a probe was
//! answered; an MTU search runs, then keepalive. Source: wire/tinc-1.1.md sections 4.4 to 4.6.
//!
//! Traffic moves to a new address only after that address has answered a probe (T27 of
//! proto/threat-model.md).

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use meshd_wire::{Options, datagram::HEADER};

use crate::{
    mesh::{
        Mesh, Output, Timer,
        paths::{
            hints::Hints,
            pmtu::Pmtu,
            probe::{Asked, Number, PROBE},
        },
        topology::node::Nodes,
    },
    route::{MIN_MTU, NodeIdx},
    tunnel::SPTPS_OVERHEAD,
};

/// Interval of probes to a node with traffic.
const ACTIVE: Duration = Duration::from_secs(1);
/// Interval of probes to a node that has stopped answering.
pub(in crate::mesh) const SUSPICIOUS: Duration = Duration::from_millis(250);
/// Unanswered probes to a node with traffic before UDP counts as dead.
const DEAD: u8 = 11;
/// Unanswered probes above which the probe interval shortens.
const LATE: u8 = 0;
/// Interval at which a fixed MTU is checked again on an idle path, and at which a longer one is
/// tried.
const RECHECK: Duration = Duration::from_secs(60);
/// Length of the UDP header in bytes.
const UDP: u16 = 8;

/// UDP state of one node.
#[derive(Debug, Default)]
pub(in crate::mesh) struct UdpState {
    /// Address in use: confirmed, or the best guess.
    pub addr: Option<SocketAddr>,
    /// True if a probe to `addr` was answered lately.
    pub confirmed: bool,
    /// The last address that answered a probe.
    pub(in crate::mesh) proven: Option<SocketAddr>,
    /// Path MTU to `addr`.
    pub pmtu: Pmtu,
    /// Round-trip time of the last probe.
    pub rtt: Option<Duration>,
    /// MTU from hints of relays (MTU_INFO).
    pub hinted_mtu: Hints,
    /// Longest record that the kernel accepts.
    limit: Option<u16>,
    /// Our probes to the node.
    pub(in crate::mesh) probes: Probes,
    /// The node's probes to us.
    pub(in crate::mesh) heard: Heard,
    usage: Usage,
}

/// Our probes to one node.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Probes {
    /// Probes without an answer, oldest first; at most `ASKED`.
    pub(in crate::mesh) asked: VecDeque<Asked>,
    /// Probes sent since the last answer.
    pub(in crate::mesh) unanswered: u8,
    /// Time of the first of those probes.
    pub(in crate::mesh) silent_since: Option<Instant>,
    pub(in crate::mesh) last_sent: Option<Instant>,
    pub(in crate::mesh) last_answer: Option<Instant>,
    last_recheck: Option<Instant>,
    /// Time of our last report on the longest record received.
    pub(in crate::mesh) last_gratuitous: Option<Instant>,
    /// Index of the next candidate address to probe.
    pub(in crate::mesh) turn: u32,
}

/// Probes of one node to us.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Heard {
    /// Probes received from the node.
    pub(in crate::mesh) count: u64,
    /// Time of the last probe received.
    pub(in crate::mesh) at: Option<Instant>,
}

/// Traffic with one node.
#[derive(Debug, Default)]
struct Usage {
    /// Traffic counters at the last tick. A change means that the node is in use.
    packets: u64,
    /// Time until which the node counts as in use.
    until: Option<Instant>,
}

impl UdpState {
    /// Forgets all path state: the node became reachable or unreachable.
    pub(in crate::mesh) fn reset(&mut self, addr: Option<SocketAddr>) {
        *self = Self {
            addr,
            ..Self::default()
        };
    }

    /// Marks the node as in use for a while, as if a packet had been sent to it.
    pub(in crate::mesh) fn wake(&mut self, now: Instant) {
        self.usage.until = Some(now + 3 * ACTIVE);
    }

    /// Returns true if packets are sent to the node or received from it.
    pub(in crate::mesh) fn is_active(&self, now: Instant) -> bool {
        self.usage.until.is_some_and(|until| now < until)
    }

    pub(in crate::mesh) fn unconfirm(&mut self) {
        self.confirmed = false;
        self.pmtu = Pmtu::default();
        self.limit = None;
        self.rtt = None;
    }
}

impl Mesh {
    /// Sends the probes that are due to neighbours and to nodes in use, once a second.
    pub(in crate::mesh) fn udp_tick(&mut self, now: Instant) {
        let all: Vec<NodeIdx> = self
            .nodes
            .by_name()
            .filter(|idx| *idx != Nodes::ME)
            .collect();
        for idx in all {
            self.count_packets(idx, now);
            let node = &self.nodes[idx];
            let counters = &node.shared.counters;
            let packets = [
                &counters.tx_packets,
                &counters.rx_packets,
                &counters.relayed,
            ];
            let packets = packets.into_iter().map(crate::mesh::total).sum();
            if packets != self.paths[idx].usage.packets {
                self.paths[idx].usage.packets = packets;
                self.paths[idx].wake(now);
            }
            if node.reachability.reachable && self.paths[idx].is_active(now) {
                self.ensure_session(idx, now);
            }
            self.discover(idx, now);
        }
    }

    /// Sends the probe that is due to one node and arms the node's timer.
    pub(in crate::mesh) fn discover(&mut self, idx: NodeIdx, now: Instant) {
        let settings = self.cx.settings.clone();
        if !settings.udp_discovery || !self.may_use_udp(idx) {
            return;
        }
        let node = &self.nodes[idx];
        let timeout = settings.udp_discovery_timeout;
        let active = self.paths[idx].is_active(now);
        let silent = self.paths[idx].confirmed
            && self.paths[idx]
                .probes
                .last_answer
                .is_none_or(|at| now.saturating_duration_since(at) >= timeout);
        // An unanswered probe is followed up to the end, even if the inner TCP has become quiet
        // meanwhile.
        let late = self.paths[idx].confirmed && self.paths[idx].probes.unanswered > LATE;
        let idle = !active && !late && node.link.is_none();
        if silent || self.paths[idx].confirmed && self.paths[idx].probes.unanswered > DEAD {
            let what = if idle {
                "UDP has rested too long to be relied on"
            } else {
                "UDP no longer answers"
            };
            self.lost_udp(idx, what);
        }
        if idle {
            self.paths[idx].probes.unanswered = 0;
            return;
        }
        let udp = &self.paths[idx];
        let pace = match (udp.confirmed, active) {
            (true, _) if udp.probes.unanswered > LATE => SUSPICIOUS,
            (true, true) if udp.pmtu.suspicious() => SUSPICIOUS,
            (true, true) => ACTIVE,
            (true, false) => settings.udp_discovery_keepalive,
            (false, _) => settings.udp_discovery_interval,
        };
        let due = udp.probes.last_sent.map_or(now, |at| at + pace);
        if now < due {
            self.cx.arm(due, Timer::Pmtu, idx);
            return;
        }
        if udp.confirmed {
            self.keepalive(idx, active, now);
            if active || late {
                self.cx.arm(now + SUSPICIOUS, Timer::Pmtu, idx);
            }
        } else {
            self.probe_candidates(idx, now);
        }
        self.gratuitous_reply(idx, now);
        self.doubt_legacy_key(idx, now);
    }

    /// Sends a probe at once, even if none is due, because a caller waits for the answer. Returns
    /// the number that the answer will carry, if the address is confirmed.
    pub(in crate::mesh) fn probe_now(&mut self, idx: NodeIdx, now: Instant) -> Option<Number> {
        let udp = &self.paths[idx];
        let Some(addr) = udp.addr.filter(|_| udp.confirmed) else {
            if self.may_use_udp(idx) {
                self.probe_candidates(idx, now);
            }
            return None;
        };
        Some(self.send_probe(idx, addr, PROBE, now))
    }

    /// Handles a probe timer of the node.
    pub(in crate::mesh) fn probe_timer(&mut self, idx: NodeIdx, now: Instant) {
        if self.nodes.get(idx).is_none() {
            return;
        }
        self.search_mtu(idx, now);
        self.discover(idx, now);
    }

    /// Returns true if we hold a key for the node and neither side sets TCPOnly.
    pub(in crate::mesh) fn may_use_udp(&self, idx: NodeIdx) -> bool {
        let node = &self.nodes[idx];
        node.reachability.reachable
            && self.sessions[idx].is_established()
            && !node.reachability.options.has(Options::TCP_ONLY)
            && !self.cx.settings.options.has(Options::TCP_ONLY)
    }

    fn keepalive(&mut self, idx: NodeIdx, active: bool, now: Instant) {
        let Some(addr) = self.paths[idx].addr else {
            return;
        };
        self.send_probe(idx, addr, PROBE, now);
        let udp = &mut self.paths[idx];
        if !udp.pmtu.fixed {
            return;
        }
        let idle = udp
            .probes
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
            udp.probes.last_recheck = Some(now);
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

    /// Runs the next step of the MTU search, if it is due.
    pub(in crate::mesh) fn search_mtu(&mut self, idx: NodeIdx, now: Instant) {
        let (true, Some(addr)) = (self.paths[idx].confirmed, self.paths[idx].addr) else {
            return;
        };
        let Some(due) = self.paths[idx].pmtu.due(now) else {
            return;
        };
        if due <= now {
            // While no probe at all is answered, a missing answer does not disprove a length. The
            // probe sent last may still be on its way.
            if self.paths[idx].probes.unanswered > LATE + 1 && self.paths[idx].pmtu.postpone(now) {
                self.cx.arm(due.max(now) + SUSPICIOUS, Timer::Pmtu, idx);
                self.send_probe(idx, addr, PROBE, now);
                return;
            }
            let was = self.paths[idx].pmtu.fixed;
            self.send_probe(idx, addr, PROBE, now);
            for length in self.paths[idx].pmtu.probes(now) {
                self.send_probe(idx, addr, length, now);
            }
            if self.paths[idx].pmtu.fixed != was {
                self.note_mtu(idx, was);
            }
        }
        if let Some(due) = self.paths[idx].pmtu.due(now) {
            self.cx.arm(due, Timer::Pmtu, idx);
        }
    }

    /// Takes an address of the node from a third node (ANS_KEY tail, UDP_INFO). The address is a
    /// guess while no address is confirmed.
    pub(in crate::mesh) fn suggest_address(
        &mut self,
        idx: NodeIdx,
        addr: SocketAddr,
        now: Instant,
    ) {
        let udp = &mut self.paths[idx];
        if !udp.confirmed && udp.addr != Some(addr) {
            udp.addr = Some(addr);
            udp.probes.last_sent = None;
            self.discover(idx, now);
        }
    }

    /// Records that the path MTU was proven or disproven; `was` is true if it was known before.
    pub(in crate::mesh) fn note_mtu(&mut self, idx: NodeIdx, was: bool) {
        let node = &self.nodes[idx];
        if self.paths[idx].pmtu.fixed && !was {
            tracing::info!(node = %node.name(), "path MTU is {}", self.paths[idx].pmtu.min);
        }
        self.mark_state(idx);
    }

    /// Declares UDP to the node dead: TCP or a relay takes over at once.
    fn lost_udp(&mut self, idx: NodeIdx, what: &str) {
        let node = &self.nodes[idx];
        tracing::info!(node = %node.shared.name, "{what}");
        self.paths[idx].unconfirm();
        self.paths[idx].probes.last_sent = None;
        self.mark_state(idx);
    }

    /// Handles the MTU of the device towards an address, in bytes of an IP packet.
    pub(in crate::mesh) fn handle_path_mtu(&mut self, to: SocketAddr, mtu: u16, now: Instant) {
        let header = if to.is_ipv4() { 20 } else { 40 };
        let datagram = mtu.saturating_sub(header + UDP);
        let hit: Vec<NodeIdx> = self
            .nodes
            .iter()
            .filter(|(_, n)| self.paths[n.shared.idx].addr == Some(to))
            .map(|(idx, _)| idx)
            .collect();
        for idx in hit {
            let limit = self.longest_record(idx, datagram.into());
            let udp = &mut self.paths[idx];
            udp.limit = Some(limit);
            udp.pmtu.start(limit);
            if udp.pmtu.max > limit {
                udp.pmtu.too_long(limit + 1);
            }
            self.mark_state(idx);
            self.search_mtu(idx, now);
        }
    }

    /// Handles a datagram of ours that was too long for the kernel.
    pub(in crate::mesh) fn handle_too_long(&mut self, to: SocketAddr, length: usize, now: Instant) {
        let hit: Vec<NodeIdx> = self
            .nodes
            .iter()
            .filter(|(_, n)| self.paths[n.shared.idx].addr == Some(to))
            .map(|(idx, _)| idx)
            .collect();
        for idx in hit {
            // The shortest record whose datagram is that long.
            let record = self
                .longest_record(idx, length.saturating_sub(1))
                .saturating_add(1);
            let udp = &mut self.paths[idx];
            let known = udp.limit.is_some_and(|limit| limit < record);
            udp.pmtu.too_long(record);
            if !known {
                udp.limit = None;
                self.cx.emit(Output::AskPathMtu { to });
            }
            self.mark_state(idx);
            self.search_mtu(idx, now);
        }
    }

    /// Returns the longest record for the node whose datagram has at most `datagram` bytes. SPTPS
    /// datagrams may have ids in front.
    fn longest_record(&self, idx: NodeIdx, datagram: usize) -> u16 {
        let longest = match self.sessions[idx].tx() {
            Some(tx) => tx.longest_record(datagram),
            None => datagram.saturating_sub(HEADER + SPTPS_OVERHEAD),
        };
        u16::try_from(longest).unwrap_or(u16::MAX)
    }
}
