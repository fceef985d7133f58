//! Neighbours: ACK, the first exchange, PING and PONG, and the end of a link.
//!
//! If both ends dial, there are two links to one node. Both links are kept for some seconds. A real
//! daemon closes the link that it regards as the older one. Another meshd waits as we do; then the
//! link dialled by the lower name stays. So neither end is left without a link. Source:
//! wire/tinc-1.0.md sections 1.7, 2.2, 2.3, 5.4.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use meshd_wire::{EdgeAddress, NodeName, Options, Request, Subnet, address::canonical};

use crate::{
    link::Hello,
    mesh::{
        LinkId, Mesh, Notice, Output,
        gossip::{backlog::Backlog, refresh::News},
        limits::{Bucket, CORRECTION_RATE},
        peers::dial::DialFailure,
        reports::facts::DialFault,
        topology::{edge::Edge, node::Nodes},
    },
    route::NodeIdx,
};

/// Longest time for which two links to one node exist side by side.
const SIDE_BY_SIDE: Duration = Duration::from_secs(3);

/// A link that is up.
pub(in crate::mesh) struct Peer {
    /// The node at the other end.
    pub node: NodeIdx,
    /// Identity of the other end, and which end dialled.
    pub hello: Hello,
    /// TCP address of the other end.
    pub remote: SocketAddr,
    /// Our TCP address.
    local: SocketAddr,
    /// True if the ACK of the other end has arrived. Lines are exchanged only after it.
    pub active: bool,
    /// Time at which the link came up.
    pub up: Instant,
    /// Weight and options in our ACK.
    sent: (i32, Options),
    /// Options agreed on in both ACKs.
    pub options: Options,
    /// PINGs over the link and their answers.
    pub liveness: Liveness,
    /// Time at which a younger link to the node came up, if one did.
    pub doubled: Option<Instant>,
    /// Facts and lines that the link has not taken yet.
    pub backlog: Backlog,
    /// Budget of corrections sent to the link.
    pub corrections: Bucket,
}

/// PINGs over a link and their answers.
pub(in crate::mesh) struct Liveness {
    /// Time of the last PING, or of the link's start.
    pub pinged: Instant,
    /// True if a PONG is due.
    pub awaiting_pong: bool,
    /// Round-trip time of the last PING.
    pub rtt: Option<Duration>,
    /// True after the first PONG: the other end has sent its whole first exchange by then.
    pub synced: bool,
}

/// Edges and subnets that a node has not announced again since its link came up. The node's first
/// PONG follows its whole first exchange, so entries that remain then are void. A third node
/// reported their end, and the first-hand rule dropped that line.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Unconfirmed {
    /// The link whose first PONG ends this state: an older link may also have a PONG on the way.
    pub link: Option<LinkId>,
    /// Other ends of edges.
    pub edges: BTreeSet<NodeName>,
    /// Subnets of the node.
    pub subnets: BTreeSet<Subnet>,
}

impl Mesh {
    /// Returns the link if it is up and its ACK has arrived.
    pub(in crate::mesh) fn active(&self, link: LinkId) -> Option<&Peer> {
        self.peers.get(&link).filter(|peer| peer.active)
    }

    pub(in crate::mesh) fn link_up(
        &mut self,
        link: LinkId,
        hello: Hello,
        remote: SocketAddr,
        local: SocketAddr,
        now: Instant,
    ) {
        let node = self.nodes.add(hello.name.clone(), now);
        let elapsed = now.saturating_duration_since(hello.started).as_millis();
        let host = self.cx.settings.hosts.get(&hello.name);
        let weight = host
            .and_then(|host| host.weight)
            .or(self.cx.settings.weight)
            .unwrap_or_else(|| i32::try_from(elapsed).unwrap_or(i32::MAX));
        let options = self.options_for(&hello);
        let ack = Request::Ack {
            port: self.cx.settings.port,
            weight,
            options,
        };
        let peer = Peer {
            node,
            hello,
            remote: canonical(remote),
            local: canonical(local),
            active: false,
            sent: (weight, options),
            options,
            up: now,
            liveness: Liveness {
                pinged: now,
                awaiting_pong: false,
                rtt: None,
                synced: false,
            },
            doubled: None,
            backlog: Backlog::default(),
            corrections: Bucket::new(CORRECTION_RATE as usize, now),
        };
        self.peers.links.insert(link, peer);
        self.send_line(link, ack.line(0).into());
    }

    /// Returns the options for our ACK to one neighbour. Source: wire/tinc-1.0.md section 1.7.
    fn options_for(&self, hello: &Hello) -> Options {
        let name = &hello.name;
        let mut bits = self.cx.settings.options.0;
        if self.cx.settings.native {
            bits |= Options::NATIVE;
        }
        if let Some(host) = self.cx.settings.hosts.get(name) {
            if host.indirect {
                bits |= Options::INDIRECT;
            }
            if host.tcp_only {
                bits |= Options::TCP_ONLY | Options::INDIRECT;
            }
            match host.clamp_mss {
                Some(true) => bits |= Options::CLAMP_MSS,
                Some(false) => bits &= !Options::CLAMP_MSS,
                None => {}
            }
        }
        if bits & Options::TCP_ONLY != 0 {
            bits &= !Options::PMTU_DISCOVERY;
        }
        // A legacy tinc 1.1 lacks our key or we lack its key, so it must not try SPTPS with us. A
        // tinc 1.0 forwards our minor to other nodes, which may use SPTPS.
        let minor = match hello.lacks_key() {
            true => 0,
            false => self.cx.settings.options.minor(),
        };
        Options(bits).with_minor(minor)
    }

    pub(in crate::mesh) fn handle_ack(
        &mut self,
        link: LinkId,
        port: u16,
        weight: i32,
        theirs: Options,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&link) else {
            return;
        };
        if peer.active {
            self.misbehaved(link, "second ACK");
            return;
        }
        let (node, hello) = (peer.node, peer.hello.clone());
        let Some(theirs) = self.checked_options(&hello, node, theirs, now) else {
            return self.misbehaved(link, "an offer of native was removed from its ID lines");
        };
        let Some(peer) = self.peers.get_mut(&link) else {
            return;
        };
        let (sent_weight, ours) = peer.sent;
        let mut options = ours.merge(theirs);
        match self
            .cx
            .settings
            .hosts
            .get(&peer.hello.name)
            .and_then(|host| host.clamp_mss)
        {
            Some(true) => options.0 |= Options::CLAMP_MSS,
            Some(false) => options.0 &= !Options::CLAMP_MSS,
            None => {}
        }
        peer.options = options;
        peer.active = true;
        peer.up = now;
        peer.liveness.pinged = now;
        peer.liveness.awaiting_pong = true;
        let mut address = peer.remote;
        if port != 0 {
            address.set_port(port);
        }
        let edge = Edge {
            to: node,
            address: address.into(),
            local: Some(SocketAddr::new(peer.local.ip(), self.cx.settings.port).into()),
            options,
            weight: i32::midpoint(sent_weight, weight),
            teller: None,
        };
        tracing::info!(node = %peer.hello.name, addr = %peer.remote, "link up");
        if !peer.hello.caps().keeps_out_members {
            let (node, notice) = (hello.name.clone(), Notice::LegacyLink);
            self.cx.emit(Output::Notice { node, notice });
        }
        if let Some(older) = self.nodes[node].link.replace(link)
            && let Some(peer) = self.peers.get_mut(&older)
        {
            // The PONG will show if the older link still works.
            peer.doubled = Some(now);
            peer.liveness.pinged = now;
            peer.liveness.awaiting_pong = true;
            self.send_line(older, Request::Ping.line(0).into());
        }
        let entry = &mut self.nodes[node];
        self.peers.of[node].dial_failure = None;
        self.peers.of[node].unproven = None;
        let unconfirmed = Unconfirmed {
            link: Some(link),
            edges: entry.edges.keys().cloned().collect(),
            subnets: entry.subnets.clone(),
        };
        self.gossip.expect(node, unconfirmed);
        self.forget_refused(node, None);
        self.dial_connected(link, node);
        self.send_everything(link);
        self.set_own_edge(node, edge);
        // The PONG follows everything that the other end knows: see `synced`.
        self.send_line(link, Request::Ping.line(0).into());
    }

    /// Inserts our edge to a neighbour into the graph and floods it.
    fn set_own_edge(&mut self, node: NodeIdx, edge: Edge) {
        let request = edge.request(&self.cx.settings.name, self.nodes[node].name());
        self.nodes.insert_edge(Nodes::ME, node, edge);
        self.gossip.note(News::Edge(Nodes::ME, node), self.cx.now);
        self.flood(&request, None);
        self.graph.mark_dirty();
    }

    pub(in crate::mesh) fn link_down(&mut self, link: LinkId, why: &str, now: Instant) {
        let Some(peer) = self.peers.links.remove(&link) else {
            return;
        };
        let node = peer.node;
        if peer.active {
            tracing::info!(node = %peer.hello.name, reason = %meshd_wire::printable(why.as_bytes()), "link down");
        } else {
            self.peers.of[node].dial_failure = Some(DialFailure {
                fault: DialFault::Handshake,
                text: why.to_owned(),
                at: now,
            });
        }
        if self.nodes[node].link == Some(link) {
            // The other link of the node takes over: nothing changes for the rest of the mesh.
            let other = self
                .peers
                .iter()
                .find(|(_, p)| p.node == node && p.active)
                .map(|(id, _)| *id);
            self.nodes[node].link = other;
            match other.and_then(|id| self.peers.get_mut(&id)) {
                Some(peer) => peer.doubled = None,
                None => self.drop_own_edge(node),
            }
        }
        self.dial_lost(link, node, peer.hello.outgoing, now);
        if !self.peers.values().any(|peer| peer.active) {
            self.graph.purge();
            self.auto_alone(now);
        }
    }

    /// Removes our edge to a node that is no longer a neighbour.
    fn drop_own_edge(&mut self, node: NodeIdx) {
        if self.nodes.remove_edge(Nodes::ME, node).is_none() {
            return;
        }
        let request = Request::DelEdge {
            from: self.cx.settings.name.clone(),
            to: self.nodes[node].name().clone(),
        };
        if !self.cx.settings.route.tunnel_server {
            self.flood(&request, None);
        }
        self.graph.mark_dirty();
        self.graph.add_orphan(node);
    }

    /// Removes, after the graph pass, the edges to us of neighbours that became unreachable: they
    /// cannot withdraw these edges.
    pub(in crate::mesh) fn withdraw_orphans(&mut self) {
        for node in self.graph.take_orphans() {
            let Some(orphan) = self.nodes.get(node) else {
                continue;
            };
            if orphan.reachability.reachable {
                if orphan.is_doubted() {
                    self.graph.add_orphan(node);
                }
                continue;
            }
            if self.nodes.remove_edge(node, Nodes::ME).is_some() {
                let request = Request::DelEdge {
                    from: self.nodes[node].name().clone(),
                    to: self.cx.settings.name.clone(),
                };
                if !self.cx.settings.route.tunnel_server {
                    self.flood(&request, None);
                }
            }
        }
    }

    pub(in crate::mesh) fn handle_pong(&mut self, link: LinkId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&link) else {
            return;
        };
        if !std::mem::take(&mut peer.liveness.awaiting_pong) {
            return;
        }
        let trip = now.saturating_duration_since(peer.liveness.pinged);
        peer.liveness.rtt = Some(trip);
        self.reports.measured(peer.node).round_trip(trip, now);
        let (node, first) = (
            peer.node,
            !std::mem::replace(&mut peer.liveness.synced, true),
        );
        self.pause_ponged(node, link, now);
        if first && let Some(unconfirmed) = self.gossip.take_unconfirmed(node, link) {
            self.sweep_unconfirmed(node, unconfirmed);
        }
        if first {
            self.ask_for_key(link);
        }
        self.dial_worked(link);
        self.answer_ping(node, now);
    }

    fn sweep_unconfirmed(&mut self, idx: NodeIdx, unconfirmed: Unconfirmed) {
        for to in unconfirmed.edges {
            if let Some(to) = self.nodes.find(&to)
                && self.nodes.remove_edge(idx, to).is_some()
            {
                self.graph.mark_dirty();
            }
        }
        if !self.cx.settings.strict_subnets {
            for subnet in unconfirmed.subnets {
                self.remove_subnet(idx, subnet);
            }
        }
    }

    /// Sends a PING, unless a PONG is on its way.
    pub(in crate::mesh) fn ping_link(&mut self, link: LinkId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&link)
            && !std::mem::replace(&mut peer.liveness.awaiting_pong, true)
        {
            peer.liveness.pinged = now;
            self.send_line(link, Request::Ping.line(0).into());
        }
    }

    /// Once a second: sends PINGs that are due, and closes links that do not answer and second
    /// links.
    pub(in crate::mesh) fn peer_tick(&mut self, now: Instant) {
        let mut dead = Vec::new();
        let mut ping = Vec::new();
        let mut twins = Vec::new();
        for (id, peer) in &mut self.peers.links {
            let since = now.saturating_duration_since(peer.liveness.pinged);
            let waiting = !peer.active || peer.liveness.awaiting_pong;
            // A whole first exchange precedes the first PONG.
            let patience = if peer.active && !peer.liveness.synced {
                6
            } else {
                1
            };
            if waiting && since >= self.cx.settings.ping_timeout * patience {
                let what = if peer.active { "PING" } else { "ACK" };
                dead.push((
                    *id,
                    format!(
                        "no answer to {what} within {} s",
                        self.cx.settings.ping_timeout.as_secs()
                    ),
                ));
            } else if peer.active
                && !peer.liveness.awaiting_pong
                && since >= self.cx.settings.ping_interval
            {
                peer.liveness.pinged = now;
                peer.liveness.awaiting_pong = true;
                ping.push(*id);
            } else if peer
                .doubled
                .is_some_and(|at| now.saturating_duration_since(at) >= SIDE_BY_SIDE)
            {
                peer.doubled = None;
                twins.push(*id);
            }
        }
        for id in ping {
            self.send_line(id, Request::Ping.line(0).into());
        }
        for (link, why) in dead {
            self.close(link, &why, now);
        }
        for older in twins {
            self.settle_twins(older, now);
        }
    }

    /// Closes one of two links to one node that have existed side by side long enough.
    fn settle_twins(&mut self, older: LinkId, now: Instant) {
        let Some(old) = self.peers.get(&older) else {
            return;
        };
        let Some(younger) = self.nodes[old.node].link.filter(|link| *link != older) else {
            return;
        };
        let stays = self.cx.settings.name < old.hello.name;
        let dialled_by_both = self
            .peers
            .get(&younger)
            .is_some_and(|young| young.hello.outgoing != old.hello.outgoing);
        let alive = !old.liveness.awaiting_pong;
        let loser = if alive && dialled_by_both && old.hello.outgoing == stays {
            younger
        } else {
            older
        };
        self.close(loser, "another link to the node stays", now);
    }

    /// Closes a link and forgets it.
    pub(in crate::mesh) fn close(&mut self, link: LinkId, why: &str, now: Instant) {
        if self.peers.links.contains_key(&link) {
            self.cx.emit(Output::Close {
                link,
                why: why.to_owned(),
            });
            self.link_down(link, why, now);
        }
    }

    /// Schedules the end of a link whose other end broke the protocol.
    pub(in crate::mesh) fn misbehaved(&mut self, link: LinkId, what: &str) {
        self.peers.note_misbehaved(link, what);
    }

    pub(in crate::mesh) fn send_line(&mut self, to: LinkId, line: Bytes) {
        self.cx.counters.by_type.sent(&line);
        let length = line.len();
        self.cx.emit(Output::SendLine { to, line });
        self.note_sent(to, length);
    }

    /// Floods a request of our own to every active link but one, with the same text.
    pub(in crate::mesh) fn flood(&mut self, request: &Request, except: Option<LinkId>) {
        let nonce = self.nonce();
        self.cx.counters.floods += 1;
        self.tell_all(&request.line(nonce).into(), except);
    }

    /// Sends a line to every active link but one.
    pub(in crate::mesh) fn tell_all(&mut self, line: &Bytes, except: Option<LinkId>) {
        let survives = |peer: &Peer| peer.hello.caps().survives_names;
        let fatal = !self.peers.values().all(survives) && is_fatal_to_legacy(line);
        let wanted = |(id, peer): (&LinkId, &Peer)| {
            let spared = fatal && !survives(peer);
            (peer.active && Some(*id) != except && !spared).then_some(*id)
        };
        let links: Vec<LinkId> = self.peers.iter().filter_map(wanted).collect();
        for link in links {
            if !self.put_off(link, line) {
                self.send_line(link, line.clone());
            }
        }
    }

    /// Sends a line towards a node, over the link to its nexthop.
    pub(in crate::mesh) fn send_towards(&mut self, to: NodeIdx, line: Bytes) {
        let hop = self.nodes[to].reachability.nexthop;
        if let Some(link) = self.nodes.get(hop).and_then(|hop| hop.link) {
            self.send_line(link, line);
        }
    }

    /// Forwards a line of another node towards its destination.
    pub(in crate::mesh) fn pass_on(&mut self, to: NodeIdx, line: Bytes) {
        if self.nodes[to].reachability.reachable && !self.cx.settings.route.tunnel_server {
            self.send_towards(to, line);
        }
    }

    /// Returns true if the node's link came up lately: routed lines of the node that took another
    /// path may still arrive.
    pub(in crate::mesh) fn is_new_neighbour(&self, node: NodeIdx) -> bool {
        let own = self.nodes[node].link.and_then(|own| self.peers.get(&own));
        own.is_some_and(|peer| self.cx.now.saturating_duration_since(peer.up) < SIDE_BY_SIDE)
    }

    /// Returns the neighbours with their listening addresses.
    pub fn neighbours(&self) -> impl Iterator<Item = (NodeName, SocketAddr)> + '_ {
        let linked = self.nodes[Nodes::ME].edges.iter();
        linked.filter_map(|(name, edge)| Some((name.clone(), edge.address.known()?)))
    }

    pub(in crate::mesh) fn own_address(&self, idx: NodeIdx) -> EdgeAddress {
        match self.paths[idx]
            .addr
            .or(self.nodes[idx].reachability.address)
        {
            Some(addr) => addr.into(),
            None => EdgeAddress::unspec(),
        }
    }

    pub(in crate::mesh) fn nonce(&mut self) -> u32 {
        u32::from_le_bytes(self.cx.rng.bytes()) & 0x7fff_ffff
    }
}

/// Returns true if a line is an edge to an address that is not numeric: a tinc 1.0.36 that receives
/// it aborts (T09).
pub(in crate::mesh) fn is_fatal_to_legacy(line: &[u8]) -> bool {
    let request = Request::parse(line);
    matches!(request, Ok(Request::AddEdge { address, .. }) if address.known().is_none())
}
