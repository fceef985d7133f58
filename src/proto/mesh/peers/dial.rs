//! Meta connections that this node opens: order of addresses and back-off.
//! [`crate::mesh::peers::autoconnect`] chooses nodes in addition to ConnectTo.
//!
//! There is one attempt per node at a time. Addresses in order: those that worked before, those in
//! edges to the node, and the Address lines of its host file. When all addresses failed, the pause
//! grows by 5 s up to MaxTimeout. Jitter keeps nodes that restarted together from dialling at the
//! same time. Source: wire/tinc-1.1.md sections 5.3, 5.4.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use meshd_wire::{NodeName, address::lacks_zone};

use crate::{
    mesh::{LinkId, Mesh, Output, Timer, reports::facts::DialFault, topology::node::Nodes},
    route::{NodeIdx, lpm::Owner},
};

/// Growth of the pause with each failure.
const BACK_OFF: Duration = Duration::from_secs(5);
/// Most addresses of one node that are tried in one round.
const MAX_ADDRESSES: usize = 32;

/// The last dial of a node, which failed.
#[derive(Debug, Clone)]
pub(in crate::mesh) struct DialFailure {
    pub fault: DialFault,
    /// Text for the operator, with the address.
    pub text: String,
    pub at: Instant,
}

/// A node that we want a link to.
pub(in crate::mesh) struct Outgoing {
    /// True for a node of ConnectTo, which is kept; false for one of AutoConnect.
    pub pinned: bool,
    state: State,
    addresses: VecDeque<SocketAddr>,
    /// Number of names that the shell resolves for this round.
    resolving: usize,
    /// Pause after the last failure of all addresses, or after the loss of a link.
    delay: Duration,
    /// True if the next attempt directly follows the loss of a link that had worked.
    at_once: bool,
    /// True if the node is dialled only because it was a neighbour before our restart. The link is
    /// not kept up afterwards.
    once: bool,
    /// Listening address of the node before our restart: tried before every other address.
    former: Option<SocketAddr>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// Waits until this time.
    Waiting(Instant),
    /// Waits for names to resolve.
    Resolving,
    /// Dials this address.
    Dialling(SocketAddr),
    /// This link to the node exists.
    Connected(LinkId),
}

impl Outgoing {
    /// Returns true if only AutoConnect wants the link.
    pub(in crate::mesh) fn is_auto(&self) -> bool {
        !self.pinned && !self.once
    }

    pub(in crate::mesh) fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected(_))
    }

    /// Returns true if an attempt is in progress or starts within a second.
    pub(in crate::mesh) fn is_under_way(&self, now: Instant) -> bool {
        match self.state {
            State::Waiting(at) => at <= now + Duration::from_secs(1),
            State::Resolving | State::Dialling(_) => true,
            State::Connected(_) => false,
        }
    }
}

impl Mesh {
    /// Adjusts the list of nodes to dial to the configuration.
    pub(in crate::mesh) fn reconcile_outgoing(&mut self, now: Instant) {
        let wanted: Vec<NodeName> = self.cx.settings.connect_to.clone();
        for name in &wanted {
            self.nodes.add(name.clone(), now);
            self.want_link(name.clone(), true, now);
        }
        let gone: Vec<NodeName> = self
            .peers
            .outgoing
            .iter()
            .filter(|(name, out)| out.pinned && !wanted.contains(name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.forget_outgoing(&name, "no longer in ConnectTo", now);
        }
    }

    pub(in crate::mesh) fn want_link(&mut self, name: NodeName, pinned: bool, now: Instant) {
        if let Some(out) = self.peers.outgoing.get_mut(&name) {
            out.pinned |= pinned;
            return;
        }
        let link = self.nodes.find(&name).and_then(|idx| self.nodes[idx].link);
        let out = Outgoing {
            pinned,
            state: link.map_or(State::Waiting(now), State::Connected),
            addresses: VecDeque::new(),
            resolving: 0,
            delay: Duration::ZERO,
            at_once: false,
            once: false,
            former: None,
        };
        self.peers.outgoing.insert(name, out);
        self.cx.arm(now, Timer::Dial, Nodes::ME);
    }

    /// Dials the neighbours from before a restart at once, including those that had dialled us:
    /// they would take longer.
    pub(in crate::mesh) fn redial(
        &mut self,
        neighbours: Vec<(NodeName, SocketAddr)>,
        now: Instant,
    ) {
        for (name, addr) in neighbours {
            if name == self.cx.settings.name || !self.cx.settings.hosts.contains_key(&name) {
                continue;
            }
            let once = !self.peers.outgoing.contains_key(&name);
            self.nodes.add(name.clone(), now);
            self.want_link(name.clone(), false, now);
            if let Some(out) = self.peers.outgoing.get_mut(&name) {
                out.once = once;
                out.former = Some(addr);
            }
        }
    }

    pub(in crate::mesh) fn forget_outgoing(&mut self, name: &NodeName, why: &str, now: Instant) {
        let Some(out) = self.peers.outgoing.remove(name) else {
            return;
        };
        match out.state {
            State::Dialling(_) => self.cx.emit(Output::CancelDial { node: name.clone() }),
            State::Connected(link)
                if self
                    .peers
                    .get(&link)
                    .is_some_and(|peer| peer.hello.outgoing) =>
            {
                self.close(link, why, now)
            }
            _ => {}
        }
    }

    /// Starts the dials that are due.
    pub(in crate::mesh) fn dial_due(&mut self, now: Instant) {
        let due = |out: &Outgoing| matches!(out.state, State::Waiting(at) if at <= now);
        let names: Vec<NodeName> = self
            .peers
            .outgoing
            .iter()
            .filter(|(_, out)| due(out))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            let link = self.nodes.find(&name).and_then(|idx| self.nodes[idx].link);
            if let (Some(link), Some(out)) = (link, self.peers.outgoing.get_mut(&name)) {
                out.state = State::Connected(link);
                continue;
            }
            self.start_round(&name, now);
        }
    }

    /// Collects the addresses of a node and dials the first one.
    fn start_round(&mut self, name: &NodeName, now: Instant) {
        let host = self.cx.settings.hosts.get(name).cloned();
        let mut addresses: VecDeque<SocketAddr> = VecDeque::new();
        let mut add = |addr: SocketAddr| {
            if addresses.len() < MAX_ADDRESSES && !addresses.contains(&addr) {
                addresses.push_back(addr);
            }
        };
        let Some(host) = host.filter(|host| self.cx.settings.credentials(host).is_some()) else {
            let why = format!("hosts/{name} is missing or has no usable public key");
            self.round_failed(name, (DialFault::NoKey, &why), true, now);
            return;
        };
        let former = self
            .peers
            .outgoing
            .get_mut(name)
            .and_then(|out| out.former.take());
        former
            .into_iter()
            .chain(host.cached.iter().copied())
            .for_each(&mut add);
        if let Some(idx) = self.nodes.find(name) {
            let back = self.nodes[idx]
                .edges
                .values()
                .filter_map(|edge| self.nodes.edge(edge.to, idx));
            back.filter_map(|edge| edge.address.target())
                .for_each(&mut add);
        }
        let mut names = Vec::new();
        for address in &host.addresses {
            match address.host.parse::<IpAddr>() {
                Ok(ip) => add(SocketAddr::new(ip, address.port)),
                Err(_) => names.push((address.host.clone(), address.port)),
            }
        }
        addresses.retain(|addr| self.may_dial(*addr));
        let Some(out) = self.peers.outgoing.get_mut(name) else {
            return;
        };
        out.addresses = addresses;
        out.resolving = names.len();
        for (host, port) in names {
            self.cx.emit(Output::Resolve {
                node: name.clone(),
                host,
                port,
            });
        }
        let why = "no Address in its host file and none known";
        self.try_next(name, (DialFault::NoAddress, why), now);
    }

    /// Returns true if an address may be dialled. An address in our own mesh may not: a link
    /// through its own tunnel would fail with it.
    fn may_dial(&self, addr: SocketAddr) -> bool {
        let whole = addr.port() != 0 && !addr.ip().is_unspecified() && !lacks_zone(addr);
        whole && !self.is_inside(addr.ip())
    }

    /// Returns true if an address lies in a subnet of the mesh; a default route does not count.
    pub(in crate::mesh) fn is_inside(&self, ip: IpAddr) -> bool {
        let owner = match ip.to_canonical() {
            IpAddr::V4(ip) => self.publisher.snapshot().v4.lookup(ip.to_bits()),
            IpAddr::V6(ip) => self.publisher.snapshot().v6.lookup(ip.to_bits()),
        };
        matches!(owner, Some(Owner::Node(_) | Owner::Unreachable(_)))
            && self
                .matching(ip)
                .iter()
                .any(|(subnet, _)| !is_default(subnet))
    }

    fn try_next(&mut self, name: &NodeName, why: (DialFault, &str), now: Instant) {
        let Some(out) = self.peers.outgoing.get_mut(name) else {
            return;
        };
        if let Some(addr) = out.addresses.pop_front() {
            out.state = State::Dialling(addr);
            tracing::debug!(node = %name, %addr, "dialling");
            self.cx.emit(Output::Dial {
                node: name.clone(),
                addr,
            });
        } else if out.resolving > 0 {
            out.state = State::Resolving;
        } else {
            let addressless = self
                .cx
                .settings
                .hosts
                .get(name)
                .is_none_or(|host| host.addresses.is_empty());
            self.round_failed(name, why, addressless, now);
        }
    }

    /// Handles the failure of all addresses: schedules the next round.
    fn round_failed(
        &mut self,
        name: &NodeName,
        (fault, why): (DialFault, &str),
        hopeless: bool,
        now: Instant,
    ) {
        let jitter = f64::from(self.cx.rng.below(1000)) / 5000.0;
        let max = self.cx.settings.max_timeout;
        let Some(out) = self.peers.outgoing.get_mut(name) else {
            return;
        };
        if !out.pinned {
            self.peers.outgoing.remove(name);
            self.auto_failed(name, now);
        } else {
            // A peer that restarts is often a moment too late for this attempt, so it counts as the
            // first failure.
            let longer = match std::mem::take(&mut out.at_once) {
                true => BACK_OFF,
                false => out.delay + BACK_OFF,
            };
            out.delay = longer.min(max);
            let pause = if hopeless {
                max.min(Duration::from_secs(60))
            } else {
                out.delay
            };
            let at = now + pause.mul_f64(1.0 - jitter);
            out.state = State::Waiting(at);
            tracing::info!(node = %name, reason = %why, "cannot connect, next try in {} s", pause.as_secs());
            self.cx.arm(at, Timer::Dial, Nodes::ME);
        }
        if let Some(idx) = self.nodes.find(name) {
            self.peers.of[idx].dial_failure = Some(DialFailure {
                fault,
                text: why.to_owned(),
                at: now,
            });
        }
    }

    pub(in crate::mesh) fn dial_failed(
        &mut self,
        name: &NodeName,
        addr: SocketAddr,
        (fault, why): (DialFault, &str),
        now: Instant,
    ) {
        let ours = self
            .peers
            .outgoing
            .get(name)
            .is_some_and(|out| out.state == State::Dialling(addr));
        if ours {
            self.try_next(name, (fault, &format!("{addr}: {why}")), now);
        }
    }

    pub(in crate::mesh) fn resolved(
        &mut self,
        name: &NodeName,
        host: &str,
        addrs: &[SocketAddr],
        now: Instant,
    ) {
        let usable: Vec<SocketAddr> = addrs
            .iter()
            .copied()
            .filter(|addr| self.may_dial(*addr))
            .collect();
        let Some(out) = self.peers.outgoing.get_mut(name) else {
            return;
        };
        out.resolving = out.resolving.saturating_sub(1);
        let room = MAX_ADDRESSES.saturating_sub(out.addresses.len());
        out.addresses.extend(usable.into_iter().take(room));
        if out.state == State::Resolving {
            let why = format!("{host} does not resolve");
            self.try_next(name, (DialFault::Unresolved, &why), now);
        }
    }

    /// Handles a new link to the node, no matter which end dialled.
    pub(in crate::mesh) fn dial_connected(&mut self, link: LinkId, node: NodeIdx) {
        let name = self.nodes[node].name().clone();
        let outgoing = self
            .peers
            .get(&link)
            .is_some_and(|peer| peer.hello.outgoing);
        self.peers.auto.release(Some(&name));
        if let Some(out) = self.peers.outgoing.get_mut(&name) {
            if matches!(out.state, State::Dialling(_)) && !outgoing {
                let node = name.clone();
                self.cx.emit(Output::CancelDial { node });
            }
            out.state = State::Connected(link);
            if out.once && !out.pinned {
                self.peers.outgoing.remove(&name);
            }
        }
    }

    /// Handles the loss of a link. Dials again if we want the link, at once if the link had worked.
    pub(in crate::mesh) fn dial_lost(
        &mut self,
        link: LinkId,
        node: NodeIdx,
        outgoing: bool,
        now: Instant,
    ) {
        let name = self.nodes[node].name().clone();
        let other = self.nodes[node].link;
        let jitter = Duration::from_millis(u64::from(self.cx.rng.below(500)));
        let Some(out) = self.peers.outgoing.get_mut(&name) else {
            return;
        };
        if let (State::Dialling(addr), true) = (&out.state, outgoing) {
            let addr = *addr;
            // The link was authenticated, but never became active.
            let why = (DialFault::Handshake, "the link ended before ACK");
            self.dial_failed(&name, addr, why, now);
            return;
        }
        if out.state != State::Connected(link) {
            return;
        }
        if let Some(other) = other {
            out.state = State::Connected(other);
            return;
        }
        if !out.pinned {
            self.peers.outgoing.remove(&name);
            return;
        }
        let at = now + out.delay + jitter;
        out.at_once = out.delay.is_zero();
        if out.at_once {
            out.delay = BACK_OFF;
        }
        out.state = State::Waiting(at);
        self.cx.arm(at, Timer::Dial, Nodes::ME);
    }

    /// Handles a PONG over the link: its address works, so the pause starts from zero.
    pub(in crate::mesh) fn dial_worked(&mut self, link: LinkId) {
        let Some(peer) = self.peers.get(&link) else {
            return;
        };
        let (node, addr) = (peer.hello.name.clone(), peer.remote);
        let dialled = peer.hello.outgoing;
        if let Some(out) = self.peers.outgoing.get_mut(&node) {
            out.delay = Duration::ZERO;
        }
        if dialled {
            self.cx.emit(Output::Remember { node, addr });
        }
    }

    /// Handles an answer by UDP: a dial will probably work too, so the pause starts from zero.
    pub(in crate::mesh) fn dial_worked_by_udp(&mut self, node: NodeIdx) {
        let name = self.nodes[node].name().clone();
        if let Some(out) = self.peers.outgoing.get_mut(&name) {
            out.delay = Duration::ZERO;
        }
    }

    /// Handles a change of the node's host file: dials the node at once.
    pub(in crate::mesh) fn dial_anew(&mut self, name: &NodeName, now: Instant) {
        self.peers.auto.release(Some(name));
        if let Some(out) = self.peers.outgoing.get_mut(name)
            && matches!(out.state, State::Waiting(_))
        {
            out.delay = Duration::ZERO;
            out.state = State::Waiting(now);
        }
    }

    /// Returns the dial state of the node: time of the next attempt if one is scheduled, and the
    /// address that is being dialled. `None`: we want no link to the node.
    pub(in crate::mesh) fn dialling(
        &self,
        name: &NodeName,
    ) -> Option<(Option<Instant>, Option<SocketAddr>)> {
        let out = self.peers.outgoing.get(name)?;
        Some(match out.state {
            State::Waiting(at) => (Some(at), None),
            State::Dialling(addr) => (None, Some(addr)),
            State::Resolving | State::Connected(_) => (None, None),
        })
    }

    /// Dials all nodes now.
    pub(in crate::mesh) fn retry(&mut self, now: Instant) {
        self.peers.auto.release(None);
        for out in self.peers.outgoing.values_mut() {
            out.delay = Duration::ZERO;
            if matches!(out.state, State::Waiting(_)) {
                out.state = State::Waiting(now);
            }
        }
        self.dial_due(now);
    }
}

fn is_default(subnet: &meshd_wire::Subnet) -> bool {
    use meshd_wire::Prefix;
    matches!(
        subnet.prefix,
        Prefix::V4(_, 0) | Prefix::V6(_, 0) | Prefix::Mac(_)
    )
}
