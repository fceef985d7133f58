//! UDP probes and their answers, which confirm an address and a length.
//!
//! Source: wire/tinc-1.1.md section 4.5. Traffic moves to a new address only after that address has
//! answered a probe (T27 of proto/threat-model.md).

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use meshd_wire::{EdgeAddress, address::lacks_zone};

use crate::{
    mesh::{Mesh, Output, limits::Bucket, paths::udp::SUSPICIOUS},
    route::NodeIdx,
    tunnel::TYPE_PROBE,
};

/// Length of the shortest probe.
pub(in crate::mesh) const PROBE: u16 = 18;
/// Position of random bytes in a probe that every kind of answer returns.
const NUMBER: std::ops::Range<usize> = 14..18;
/// Most probes without an answer that are remembered: enough for an MTU search and two seconds
/// without answers.
const ASKED: usize = 64;

/// Probes within [`GUESS_WINDOW`] to one address that only others name: two at the interval of
/// discovery, the others after [`GUESS_PAUSE`]. A NAT mapping stays open longer than this pause, so
/// both ends of a path still meet (T28 of proto/threat-model.md).
const GUESSES: usize = 3;
const GUESS_WINDOW: Duration = Duration::from_secs(60);
const GUESS_PAUSE: Duration = Duration::from_secs(20);
/// Probes a second to all such addresses, and at once: a hundred in any second.
const GUESS_RATE: u32 = 80;
const GUESS_BURST: usize = 20;
/// Most remembered addresses of this kind. Memory: about 100 bytes each.
const MAX_GUESSED: usize = 8_192;

/// Budgets of probes to addresses that only lines of others name.
pub(in crate::mesh) struct Guesses {
    all: Bucket,
    /// Times of the latest probes to each address, last one first.
    each: BTreeMap<SocketAddr, [Option<Instant>; GUESSES]>,
}

impl Guesses {
    pub(in crate::mesh) fn new(now: Instant) -> Self {
        Self {
            all: Bucket::new(GUESS_BURST, now),
            each: BTreeMap::new(),
        }
    }

    /// Returns true if one more probe may be sent to `addr`, and counts it.
    fn take(&mut self, addr: SocketAddr, now: Instant) -> bool {
        if self.each.len() >= MAX_GUESSED && !self.each.contains_key(&addr) {
            return false;
        }
        let times = self.each.entry(addr).or_default();
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        let [last, second, third] = times.map(since);
        let few = |time: Option<Duration>| time.is_none_or(|time| time >= GUESS_WINDOW);
        let paused = last.is_none_or(|last| last >= GUESS_PAUSE);
        let due = few(third) && (paused || few(second));
        let takes = due && self.all.take(GUESS_RATE, GUESS_BURST, now);
        if takes {
            times.rotate_right(1);
            times[0] = Some(now);
        }
        takes
    }

    /// Forgets addresses without a recent probe, once a second.
    pub(in crate::mesh) fn forget(&mut self, now: Instant) {
        let recent = |at: Instant| now.saturating_duration_since(at) < GUESS_WINDOW;
        self.each.retain(|_, times| times[0].is_some_and(recent));
    }
}

/// Number that identifies a probe.
pub(in crate::mesh) type Number = [u8; 4];

/// A probe without an answer yet. The answer returns the number. So an answer confirms only the
/// probed length, and an unrequested answer confirms nothing (T08 of proto/threat-model.md).
#[derive(Debug)]
pub(in crate::mesh) struct Asked {
    number: Number,
    to: SocketAddr,
    length: u16,
    at: Instant,
}

impl Mesh {
    /// Probes the address in use, one address that some neighbour of the node sees, and the node's
    /// local one.
    pub(in crate::mesh) fn probe_candidates(&mut self, idx: NodeIdx, now: Instant) {
        self.paths[idx].probes.turn = self.paths[idx].probes.turn.wrapping_add(1);
        let turn = self.paths[idx].probes.turn as usize;
        let mut seen = Vec::new();
        let mut local = Vec::new();
        for edge in self.nodes[idx].edges.values() {
            if let Some(back) = self.nodes.edge(edge.to, idx) {
                seen.extend(back.address.target());
            }
            local.extend(edge.local.as_ref().and_then(EdgeAddress::target));
        }
        if !self.cx.settings.local_discovery {
            local.clear();
        }
        let mut targets: Vec<SocketAddr> = self.paths[idx].addr.into_iter().collect();
        for list in [seen, local] {
            targets.extend(list.get(turn % list.len().max(1)));
        }
        let mut sent = Vec::new();
        for addr in targets {
            if !sent.contains(&addr) && self.may_probe(addr) && self.may_guess(idx, addr, now) {
                sent.push(addr);
                self.send_probe(idx, addr, PROBE, now);
            }
        }
        self.paths[idx].probes.last_sent = Some(now);
    }

    /// Returns true if the node may be probed at an address without any packet from it yet. The
    /// address of its own connection, or one that has answered before, is always allowed. Any other
    /// address may be a victim's.
    fn may_guess(&mut self, idx: NodeIdx, addr: SocketAddr, now: Instant) -> bool {
        let node = &self.nodes[idx];
        let link = node.link.and_then(|link| self.active(link));
        if self.paths[idx].proven == Some(addr)
            || link.is_some_and(|peer| peer.remote.ip() == addr.ip())
        {
            return true;
        }
        !addr.ip().to_canonical().is_loopback() && self.paths.guesses.take(addr, now)
    }

    /// Returns true if an address may be probed: no broadcast or multicast address, and none inside
    /// the mesh itself (T28 of proto/threat-model.md).
    pub(in crate::mesh) fn may_probe(&self, addr: SocketAddr) -> bool {
        let everybody = match addr.ip() {
            IpAddr::V4(ip) => ip.is_broadcast() || ip.octets()[0] == 0,
            IpAddr::V6(ip) => ip.is_unspecified(),
        };
        let sendable = addr.port() != 0 && !lacks_zone(addr);
        sendable && !everybody && !addr.ip().is_multicast() && !self.is_inside(addr.ip())
    }

    /// Sends a probe of `length` bytes of data; returns the number of its answer.
    pub(in crate::mesh) fn send_probe(
        &mut self,
        idx: NodeIdx,
        to: SocketAddr,
        length: u16,
        now: Instant,
    ) -> Number {
        let mut data = vec![0; usize::from(length.max(PROBE))];
        self.cx.rng.fill(&mut data[NUMBER.start..]);
        let mut number = [0; 4];
        number.copy_from_slice(&data[NUMBER]);
        let udp = &mut self.paths[idx];
        if udp.probes.asked.len() >= ASKED {
            udp.probes.asked.pop_front();
        }
        udp.probes.asked.push_back(Asked {
            number,
            to,
            length,
            at: now,
        });
        if Some(to) == udp.addr && length == PROBE {
            if udp.probes.unanswered == 0 {
                udp.probes.silent_since = Some(now);
            }
            udp.probes.unanswered = udp.probes.unanswered.saturating_add(1);
            // Probes to other addresses must not delay those that check this address.
            udp.probes.last_sent = Some(now);
            self.reports.measured(idx).asked();
        }
        self.send_record(idx, to, TYPE_PROBE, &data);
        number
    }

    /// Reports to a node the longest record received from it, which saves the node probes.
    pub(in crate::mesh) fn gratuitous_reply(&mut self, idx: NodeIdx, now: Instant) {
        let pause = self
            .cx
            .settings
            .udp_discovery_keepalive
            .saturating_sub(Duration::from_secs(1));
        let node = &self.nodes[idx];
        let recent = |at: Instant| now.saturating_duration_since(at) < pause;
        if !self.paths[idx].confirmed
            || node.minor() < 3
            || self.paths[idx].probes.last_gratuitous.is_some_and(recent)
        {
            return;
        }
        let Some(addr) = self.paths[idx].addr else {
            return;
        };
        let longest = node.shared.counters.take_longest();
        if longest == 0 {
            return;
        }
        self.paths[idx].probes.last_gratuitous = Some(now);
        let mut data = [0; PROBE as usize];
        self.cx.rng.fill(&mut data[NUMBER]);
        data[0] = 2;
        let length = u16::try_from(longest).unwrap_or(u16::MAX);
        data[1..3].copy_from_slice(&length.to_be_bytes());
        self.send_record(idx, addr, TYPE_PROBE, &data);
    }

    /// Handles a probe in a node's tunnel, received from `from`.
    pub(in crate::mesh) fn handle_probe(
        &mut self,
        idx: NodeIdx,
        from: SocketAddr,
        data: &[u8],
        now: Instant,
    ) {
        let Some(node) = self.nodes.get(idx) else {
            return;
        };
        // A relayed probe does not test the direct path.
        let relayed = self
            .publisher
            .snapshot()
            .by_addr
            .get(&from)
            .is_some_and(|sender| *sender != idx.slot());
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
                let udp = &mut self.paths[idx];
                udp.heard.count = udp.heard.count.saturating_add(1);
                udp.heard.at = Some(now);
                self.moved(idx, from, now);
            }
            2 => {
                let length = u16::from_be_bytes([data[1], data[2]]);
                self.probe_answered(idx, from, &data[NUMBER], length, now);
            }
            _ => self.probe_answered(idx, from, &data[NUMBER], length, now),
        }
    }

    /// Handles the answer to a probe. Unrequested answers, such as a tincd's own reports, are
    /// ignored: they may be nine seconds old, and a path may have shrunk since.
    fn probe_answered(
        &mut self,
        idx: NodeIdx,
        from: SocketAddr,
        number: &[u8],
        length: u16,
        now: Instant,
    ) {
        let udp = &mut self.paths[idx];
        let Some(at) = udp
            .probes
            .asked
            .iter()
            .position(|asked| asked.number == number)
        else {
            return;
        };
        let Some(asked) = udp.probes.asked.remove(at) else {
            return;
        };
        self.pause_probed(idx, asked.number, now);
        if asked.to != from {
            // The answer came from another address of the node: probe that address.
            self.moved(idx, from, now);
            return;
        }
        let node = &self.nodes[idx];
        let udp = &mut self.paths[idx];
        let fresh = !udp.confirmed || udp.addr != Some(from);
        if fresh {
            if udp.confirmed
                && udp.probes.unanswered == 0
                && udp.addr.is_some_and(|old| better(old, from))
            {
                return; // the address in use works and is no worse
            }
            udp.unconfirm();
            udp.addr = Some(from);
            udp.confirmed = true;
            udp.proven = Some(from);
            tracing::info!(node = %node.shared.name, addr = %from, "UDP works");
            self.cx.emit(Output::AskPathMtu { to: from });
            self.dial_worked_by_udp(idx);
        }
        let udp = &mut self.paths[idx];
        udp.probes.unanswered = 0;
        udp.probes.last_answer = Some(now);
        let before = (udp.pmtu.min, udp.pmtu.fixed);
        if asked.length == PROBE {
            let trip = now.saturating_duration_since(asked.at);
            udp.rtt = Some(trip);
            self.reports.measured(idx).answered(trip, now);
        }
        udp.pmtu.answered(length.min(asked.length));
        if fresh || before != (self.paths[idx].pmtu.min, self.paths[idx].pmtu.fixed) {
            self.note_mtu(idx, before.1);
        }
        self.answer_ping(idx, now);
        self.search_mtu(idx, now);
    }

    /// Probes an address that an authenticated packet of the node came from directly, if that
    /// address is not in use. The address in use changes only after the answer.
    pub(in crate::mesh) fn moved(&mut self, idx: NodeIdx, from: SocketAddr, now: Instant) {
        let udp = &mut self.paths[idx];
        let known = udp.addr == Some(from);
        if known && udp.confirmed || !self.may_use_udp(idx) {
            return;
        }
        let udp = &mut self.paths[idx];
        if !udp.confirmed {
            udp.addr = Some(from);
        }
        let ask = udp
            .probes
            .last_sent
            .is_none_or(|at| now.saturating_duration_since(at) >= SUSPICIOUS);
        if (ask || !known) && self.may_probe(from) && self.paths.challenge.take(20, 20, now) {
            self.send_probe(idx, from, PROBE, now);
        }
    }
}

/// Returns true if `old` is no worse than `new`: a working private address is never replaced by a
/// public one.
fn better(old: SocketAddr, new: SocketAddr) -> bool {
    let private = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    };
    private(old) || !private(new)
}
