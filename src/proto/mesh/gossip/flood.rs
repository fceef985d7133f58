//! Flooded requests: which ones are accepted, forwarded or answered.
//!
//! Order of checks for each request: parse; look up the ruling of the law
//! ([`crate::mesh::gossip::law`]); drop it if seen before; check its budget
//! ([`crate::mesh::gossip::budget`]); check that it changes the graph. Only a change is forwarded. Lines about this node are answered with a correction. Source:
//! wire/tinc-1.0.md section 2.1, proto/threat-model.md sections 2.2 and 2.3.

use std::{
    fmt::{self, Display},
    time::Instant,
};

use bytes::Bytes;

use meshd_wire::{EdgeAddress, NodeName, Request, Subnet, address::zone, printable};

use crate::{
    link::MAX_LINE,
    mesh::{
        LinkId, Mesh,
        gossip::{
            law::{self, Adds, Ends, Ruling, Speaker, Statement},
            refresh::News,
        },
        limits::{
            CORRECTION_RATE, MAX_ADDRESS_WORD, MAX_DEFERRED, MAX_EDGE_WORDS, MAX_EDGES, MAX_NODES,
            MAX_UNKNOWN_PER_NEIGHBOUR,
        },
        topology::edge::Edge,
    },
    route::NodeIdx,
};

/// Formats a line for the log, without keys.
fn without_key(request: &Request, line: &[u8]) -> impl Display {
    // The text is made only if the log line is written: most flooded lines are not logged.
    fmt::from_fn(move |f| match request.without_key() {
        Some(line) => f.write_str(&line),
        None => f.write_str(&printable(line)),
    })
}

impl Mesh {
    /// Handles one request line from a link.
    pub(in crate::mesh) fn handle_line(&mut self, link: LinkId, line: &Bytes, now: Instant) {
        let Some(peer) = self.peers.get(&link) else {
            return;
        };
        let request = match Request::parse(line) {
            Ok(request) => request,
            Err(why) => return self.refuse_line(link, line, &why, now),
        };
        if line.len() > MAX_LINE {
            return self.refuse_line(link, line, &request.too_long(), now);
        }
        tracing::debug!(node = %peer.hello.name, "got {} {}", request.name(), without_key(&request, line));
        let speaker = self.speaker(link, &request);
        let ruling = law::ruling(Statement::of(&request), speaker);
        if ruling.ends == Ends::Link {
            return match speaker {
                Speaker::Stranger => self.misbehaved(link, "a request before ACK"),
                _ => self.out_of_place(link, line, out_of_place(&request)),
            };
        }
        if has_long_address(&request) {
            self.cx.counters.refused += 1;
            self.charge_unused(link, now);
            return;
        }
        if request.flooded() && !self.takes_flooded(link, &request, ruling, line, now) {
            return;
        }
        // Routed lines need the paths that earlier lines made, so they wait for the graph pass.
        let routed = !request.flooded() && speaker != Speaker::Stranger;
        if routed && self.graph.is_dirty() && self.gossip.deferred.len() < MAX_DEFERRED {
            self.gossip.deferred.push((link, line.clone()));
            return;
        }
        if !self.admits_routed(link, &request, line.len(), now) || ruling.is_void() {
            return;
        }
        self.obey(link, request, speaker, line, now);
    }

    /// Carries out a request that has an effect, or that is forwarded.
    fn obey(
        &mut self,
        link: LinkId,
        request: Request,
        speaker: Speaker,
        line: &Bytes,
        now: Instant,
    ) {
        let ruling = law::ruling(Statement::of(&request), speaker);
        match request {
            Request::Ack {
                port,
                weight,
                options,
            } => self.handle_ack(link, port, weight, options, now),
            Request::Ping => self.answer_link(link),
            Request::Pong => self.handle_pong(link, now),
            Request::AddSubnet { owner, subnet } => {
                self.add_subnet(link, &owner, subnet, ruling, line, now);
            }
            Request::DelSubnet { owner, subnet } => {
                self.del_subnet(link, &owner, subnet, ruling, line, now);
            }
            Request::AddEdge { .. } => self.add_edge(link, &request, speaker, line, now),
            Request::DelEdge { from, to } => self.del_edge(link, &from, &to, ruling, line, now),
            Request::KeyChanged { origin } => {
                // Legacy keys only; SPTPS tunnels renew keys inside (wire/tinc-1.1.md section 2.6).
                if let Some(idx) = self.nodes.find(&origin) {
                    self.legacy_key_changed(idx, ruling.ends, now);
                    self.forward(link, line);
                }
            }
            Request::ReqKey { from, to, payload } => {
                self.handle_req_key(link, (&from, &to), payload, line, now);
            }
            Request::AnsKey {
                from,
                to,
                payload,
                address,
            } => {
                let address = address.as_ref();
                self.handle_ans_key(speaker, (&from, &to), (&payload, address), line, now);
            }
            Request::UdpInfo { from, to, address } => {
                self.handle_udp_info(&from, &to, &address, ruling, now);
            }
            Request::MtuInfo { from, to, mtu } => self.handle_mtu_info(&from, &to, mtu, now),
            // The link takes the bytes that follow these headers, and the law ends a link for
            // these lines.
            Request::TermReq | Request::Packet { .. } | Request::SptpsPacket { .. } => {}
        }
    }

    /// Returns true if a flooded line is neither void nor wrong about a neighbour, and is admitted.
    fn takes_flooded(
        &mut self,
        link: LinkId,
        request: &Request,
        ruling: Ruling,
        line: &Bytes,
        now: Instant,
    ) -> bool {
        match ruling.adds {
            Adds::LateCorrection => {
                self.doubt(link, request, now);
                false
            }
            _ if ruling.is_void() => {
                self.is_within_budget(link, request, now);
                false
            }
            _ => self.admit(link, request, line, now),
        }
    }

    /// Returns true if a flooded line is new and within the budget of its link. Two kinds of lines
    /// pass although the same line was seen before.
    ///
    /// - A line of a neighbour about itself: another node may have sent it before the neighbour's
    ///   own link was up.
    /// - A DEL_EDGE for an edge that the same link announced last: that ADD_EDGE may have been old.
    ///
    /// Such a line is forwarded unchanged, and nodes that have seen it drop it. With a fresh nonce,
    /// a late line would restore edges that others have deleted since, at tincds for good.
    /// [`crate::mesh::gossip::refresh`] repairs the differences that remain.
    fn admit(&mut self, link: LinkId, request: &Request, line: &Bytes, now: Instant) -> bool {
        let own = self
            .peers
            .get(&link)
            .is_some_and(|peer| request.subject() == Some(&peer.hello.name));
        let mark = self.gossip.seen.mark(line);
        if self.gossip.seen.has(mark) && !own && !self.takes_back(link, request) {
            self.charge_unused(link, now);
            return false;
        }
        // A line over the budget of one link may still be accepted from another link.
        if !self.is_within_budget(link, request, now) {
            return false;
        }
        self.gossip.seen.insert(mark, now);
        true
    }

    /// Returns true if a line deletes an edge that the same link announced last.
    fn takes_back(&self, link: LinkId, request: &Request) -> bool {
        let Request::DelEdge { from, to } = request else {
            return false;
        };
        let (from, to) = (self.nodes.find(from), self.nodes.find(to));
        let edge = from
            .zip(to)
            .and_then(|(from, to)| self.nodes.edge(from, to));
        edge.is_some_and(|edge| edge.teller == Some(link))
    }

    fn forward(&mut self, from: LinkId, line: &Bytes) {
        if !self.cx.settings.route.tunnel_server {
            self.cx.counters.floods += 1;
            self.tell_all(line, Some(from));
        }
    }

    /// Returns the node of a name in a line. Adds the node if the name is new and no limit is
    /// reached.
    fn node_for(&mut self, link: LinkId, name: &NodeName, now: Instant) -> Option<NodeIdx> {
        if let Some(idx) = self.nodes.find(name) {
            return Some(idx);
        }
        let known = self.cx.settings.hosts.contains_key(name);
        let peer = self.peers.get(&link)?.node;
        if self.nodes.len() >= MAX_NODES
            || !known && self.nodes[peer].introduced >= MAX_UNKNOWN_PER_NEIGHBOUR
        {
            self.cx.counters.refused += 1;
            return None;
        }
        let idx = self.nodes.add(name.clone(), now);
        if !known {
            self.nodes[peer].introduced += 1;
            self.nodes[idx].introduced_by = Some(peer);
        }
        Some(idx)
    }

    /// Returns true if a tunnel server must ignore a line with these names: a tunnel server accepts
    /// only lines about itself and the sender.
    fn out_of_scope(&self, link: LinkId, names: &[&NodeName]) -> bool {
        let Some(peer) = self.peers.get(&link) else {
            return true;
        };
        let ours = |name: &&NodeName| **name == self.cx.settings.name || **name == peer.hello.name;
        self.cx.settings.route.tunnel_server && !names.iter().any(ours)
    }

    /// Answers a false line about this node with a correction, within the budget of corrections.
    pub(in crate::mesh) fn correct(&mut self, link: LinkId, request: &Request, now: Instant) {
        let nonce = self.nonce();
        let Some(peer) = self.peers.get_mut(&link) else {
            return;
        };
        if peer
            .corrections
            .take(CORRECTION_RATE, CORRECTION_RATE as usize, now)
        {
            self.send_line(link, request.line(nonce).into());
        } else {
            self.cx.counters.refused += 1;
        }
    }

    fn add_subnet(
        &mut self,
        link: LinkId,
        owner: &NodeName,
        subnet: Subnet,
        ruling: Ruling,
        line: &Bytes,
        now: Instant,
    ) {
        if self.out_of_scope(link, &[owner]) {
            return;
        }
        let Some(idx) = self.node_for(link, owner, now) else {
            return;
        };
        let held = self.nodes[idx].subnets.contains(&subnet);
        if ruling.adds == Adds::Correction {
            if !held {
                let owner = owner.clone();
                self.correct(link, &Request::DelSubnet { owner, subnet }, now);
            }
            return;
        }
        self.gossip.of[idx].unconfirmed.subnets.remove(&subnet);
        if held {
            if self.nodes[idx].claims_again(&subnet) {
                self.forward(link, line);
            }
            return;
        }
        if self.cx.settings.strict_subnets {
            tracing::debug!(node = %owner, %subnet, "ignored unauthorized ADD_SUBNET");
            self.keep_aside(idx, subnet);
            self.forward(link, line);
            return;
        }
        if let Err(why) = self.may_announce(owner, &subnet) {
            return self.refuse_subnet(idx, subnet, &why, now);
        }
        if let Err(why) = self.has_room(idx, &subnet) {
            self.cx.counters.refused += 1;
            return self.refuse_subnet(idx, subnet, &why, now);
        }
        self.insert_subnet(idx, subnet);
        self.taken_over(subnet);
        self.settle_failover(idx, &subnet, now);
        self.gossip.note(News::Subnet(idx, subnet), now);
        self.forward(link, line);
    }

    fn del_subnet(
        &mut self,
        link: LinkId,
        owner: &NodeName,
        subnet: Subnet,
        ruling: Ruling,
        line: &Bytes,
        now: Instant,
    ) {
        if self.out_of_scope(link, &[owner]) {
            return;
        }
        let Some(idx) = self.nodes.find(owner) else {
            return;
        };
        let held = self.nodes[idx].subnets.contains(&subnet);
        if ruling.adds == Adds::Correction {
            if held {
                let owner = owner.clone();
                self.correct(link, &Request::AddSubnet { owner, subnet }, now);
            }
            return;
        }
        self.forget_refused(idx, Some(&subnet));
        if self.cx.settings.strict_subnets {
            self.forward(link, line);
        } else if held {
            let kept = self.keeps_subnet(idx, subnet, ruling.ends, now);
            if kept != Some(false) {
                self.forward(link, line);
            }
            if kept.is_none() {
                self.remove_subnet(idx, subnet);
            }
        }
    }

    fn add_edge(
        &mut self,
        link: LinkId,
        request: &Request,
        speaker: Speaker,
        line: &Bytes,
        now: Instant,
    ) {
        let Request::AddEdge {
            from,
            to,
            address,
            options,
            weight,
            local,
        } = request
        else {
            return;
        };
        if self.out_of_scope(link, &[from, to]) {
            return;
        }
        let (Some(a), Some(b)) = (self.node_for(link, from, now), self.node_for(link, to, now))
        else {
            return;
        };
        let old = self.nodes.edge(a, b);
        if law::ruling(Statement::Edge, speaker).adds == Adds::Correction {
            let truth = match old {
                Some(edge)
                    if edge.weight == *weight
                        && edge.options == *options
                        && edge.address == *address =>
                {
                    return;
                }
                Some(edge) => edge.request(from, to),
                None => Request::DelEdge {
                    from: from.clone(),
                    to: to.clone(),
                },
            };
            self.correct(link, &truth, now);
            return;
        }
        let candidate = law::ruling(Statement::Address, speaker).adds == Adds::Candidate;
        let here = |address: &EdgeAddress| match candidate {
            true => self.in_zone_of(link, address),
            false => EdgeAddress::unspec(),
        };
        // A missing local address does not overwrite a known one.
        let local = local
            .as_ref()
            .map(here)
            .or_else(|| old.and_then(|old| old.local.clone()));
        let edge = Edge {
            to: b,
            address: here(address),
            local,
            options: *options,
            weight: *weight,
            teller: Some(link),
        };
        self.gossip.of[a].unconfirmed.edges.remove(to);
        self.gossip.denied.forget(a, b);
        if self.nodes.edge(a, b).is_some_and(|old| old.same_as(&edge)) {
            self.nodes.insert_edge(a, b, edge);
            return;
        }
        let words = self.nodes.edge_words + edge.words();
        if self.nodes.edge(a, b).is_none() && self.nodes.edge_count >= MAX_EDGES
            || edge.words() > 0 && words > MAX_EDGE_WORDS
        {
            self.cx.counters.refused += 1;
            return;
        }
        self.nodes.insert_edge(a, b, edge);
        self.gossip.note(News::Edge(a, b), now);
        self.graph.mark_dirty();
        self.forward(link, line);
    }

    /// Returns an address from a link. A link-local address gets the zone of the link itself, if
    /// the link's own address is link-local too. Only zones of this machine are valid here.
    fn in_zone_of(&self, link: LinkId, address: &EdgeAddress) -> EdgeAddress {
        match self.peers.get(&link).and_then(|peer| zone(peer.remote)) {
            Some(zone) => address.in_zone(zone),
            None => address.clone(),
        }
    }

    fn del_edge(
        &mut self,
        link: LinkId,
        from: &NodeName,
        to: &NodeName,
        ruling: Ruling,
        line: &Bytes,
        now: Instant,
    ) {
        if self.out_of_scope(link, &[from, to]) {
            return;
        }
        let (Some(a), Some(b)) = (self.nodes.find(from), self.nodes.find(to)) else {
            return;
        };
        if ruling.ends == Ends::AtOnce {
            self.gossip.denied.forget(a, b);
        }
        let Some(edge) = self.nodes.edge(a, b) else {
            return;
        };
        if ruling.adds == Adds::Correction {
            let truth = edge.request(from, to);
            self.correct(link, &truth, now);
            return;
        }
        self.deny_edge((a, b), ruling.ends, now);
        self.graph.mark_dirty();
        self.forward(link, line);
        // The other end may be gone as well: its edge to us would stay forever.
        self.graph.add_orphan(b);
    }
}

/// Returns what is wrong with a request that a neighbour has no reason to send.
fn out_of_place(request: &Request) -> &'static str {
    match request {
        Request::Ack { .. } => "second ACK",
        Request::TermReq => "the other end ended the link",
        _ => "stray packet header",
    }
}

/// Returns true if a line has an address word longer than any real daemon writes. Only the line is
/// dropped: the sender may have received it from another node.
fn has_long_address(request: &Request) -> bool {
    let long = |address: &EdgeAddress| {
        let mut lengths = address.word_lengths().into_iter();
        lengths.any(|length| length > MAX_ADDRESS_WORD)
    };
    match request {
        Request::AddEdge { address, local, .. } => {
            long(address) || local.as_ref().is_some_and(long)
        }
        Request::AnsKey { address, .. } => address.as_ref().is_some_and(long),
        Request::UdpInfo { address, .. } => long(address),
        _ => false,
    }
}
