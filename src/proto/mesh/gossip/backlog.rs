//! Lines for a link that is slower than the changes. The first exchange and later changes wait here
//! as facts; they are encoded as lines when there is room.
//!
//! The first exchange sends the graph as it is at that moment, our own part first. A change behind
//! the cursor is sent at once; a change ahead of the cursor is part of what follows. While a link
//! has [`BACKLOG`] bytes waiting, each change waits as a fact. The last line of a fact is sent
//! unchanged, so nodes that have seen this line recognise it. Unreachable nodes are left out until
//! they are reachable. Source: T39 of proto/threat-model.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
};

use bytes::Bytes;

use meshd_wire::{NodeName, Request, Subnet};

use crate::{
    mesh::{
        LinkId, Mesh, Output,
        event::ROOM_LEFT,
        gossip::refresh::News,
        limits::{ASK_ROOM, BACKLOG, FACT_BYTES, MAX_FACTS},
        peers::handshake::is_fatal_to_legacy,
        topology::node::Nodes,
    },
    route::NodeIdx,
};

/// Most bytes that sealing adds to a line.
const SEALED: usize = 32;

/// Waiting lines of one link.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Backlog {
    /// Bytes of lines that the socket may not have taken yet.
    unsent: usize,
    /// Number of those bytes at the last [`Output::AskRoom`], while its answer is pending.
    asked: Option<usize>,
    /// Progress of the first exchange; `None` when it is over.
    dump: Option<Cursor>,
    /// True if a PONG is due after our own part of the first exchange.
    pong: bool,
    /// Nodes left out of the first exchange.
    left_out: BTreeSet<NodeIdx>,
    /// Changes that wait.
    facts: BTreeMap<News, Fact>,
    /// Bytes of the lines kept in `facts`.
    kept: usize,
}

/// A change that waits.
#[derive(Debug)]
struct Fact {
    /// True if the object was added, false if it was deleted.
    is: bool,
    /// The line of the change, if there was room to keep it.
    line: Option<Bytes>,
}

/// The part of the graph that was sent last.
#[derive(Debug, Clone)]
struct Cursor {
    /// Owner of the facts; `None`: this node.
    node: Option<NodeName>,
    after: After,
}

#[derive(Debug, Clone)]
enum After {
    Nothing,
    Subnet(Subnet),
    Edge(NodeName),
}

impl Cursor {
    const START: Self = Self {
        node: None,
        after: After::Nothing,
    };
}

impl Backlog {
    fn is_full(&self) -> bool {
        self.unsent >= BACKLOG || !self.facts.is_empty()
    }

    fn keep(&mut self, news: News, is: bool, line: Option<Bytes>) {
        let line = line.filter(|line| self.kept + line.len() <= FACT_BYTES);
        self.kept += line.as_ref().map_or(0, Bytes::len);
        if let Some(old) = self.facts.insert(news, Fact { is, line }) {
            self.kept -= old.line.map_or(0, |line| line.len());
        }
    }
}

impl Mesh {
    /// Starts to send everything we know to a new neighbour. Source: wire/tinc-1.0.md section 2.2.
    pub(in crate::mesh) fn send_everything(&mut self, link: LinkId) {
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.backlog.dump = Some(Cursor::START);
            self.fill(link);
        }
    }

    /// Counts a line sent to a link, and asks for room when enough bytes are unsent.
    pub(in crate::mesh) fn note_sent(&mut self, link: LinkId, length: usize) {
        let Some(peer) = self.peers.get_mut(&link) else {
            return;
        };
        let backlog = &mut peer.backlog;
        backlog.unsent += length + SEALED;
        if backlog.unsent >= ASK_ROOM && backlog.asked.is_none() {
            backlog.asked = Some(backlog.unsent);
            self.cx.emit(Output::AskRoom { link });
        }
    }

    /// Handles the answer of the shell: the socket has taken the lines sent before the question.
    pub(in crate::mesh) fn link_has_room(&mut self, link: LinkId) {
        let Some(peer) = self.peers.get_mut(&link) else {
            return;
        };
        let backlog = &mut peer.backlog;
        let taken = backlog.asked.take().unwrap_or(0);
        backlog.unsent = backlog
            .unsent
            .saturating_sub(taken.saturating_sub(ROOM_LEFT));
        self.fill(link);
        let Some(peer) = self.peers.get_mut(&link) else {
            return;
        };
        if peer.backlog.pong && self.has_told_own(link) {
            self.answer_link(link);
        }
        // Lines sent while the question was pending may already be enough for another question.
        self.note_sent(link, 0);
    }

    /// Answers a PING after our own part of the first exchange. At the PONG the other end discards
    /// old statements of ours that it has not received again.
    pub(in crate::mesh) fn answer_link(&mut self, link: LinkId) {
        let announced = self.has_told_own(link);
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.backlog.pong = !announced;
        }
        if announced {
            self.send_line(link, Request::Pong.line(0).into());
        }
    }

    fn has_told_own(&self, link: LinkId) -> bool {
        let dump = self
            .peers
            .get(&link)
            .and_then(|peer| peer.backlog.dump.as_ref());
        dump.is_none_or(|cursor| cursor.node.is_some())
    }

    /// Returns the bytes of lines that wait for the link towards a node.
    pub(in crate::mesh) fn unsent_towards(&self, to: NodeIdx) -> usize {
        let hop = self.nodes[to].reachability.nexthop;
        let link = self.nodes.get(hop).and_then(|hop| hop.link);
        let peer = link.and_then(|link| self.peers.get(&link));
        peer.map_or(0, |peer| peer.backlog.unsent)
    }

    /// Keeps a flooded line for a link that is full. Returns `false` if the line must be sent now.
    pub(in crate::mesh) fn put_off(&mut self, link: LinkId, line: &Bytes) -> bool {
        if !self
            .peers
            .get(&link)
            .is_some_and(|peer| peer.backlog.is_full())
        {
            return false;
        }
        let Some((news, is)) = self.news_of(line) else {
            return false;
        };
        self.keep_fact(link, news, is, Some(line.clone()));
        true
    }

    fn keep_fact(&mut self, link: LinkId, news: News, is: bool, line: Option<Bytes>) {
        let Some(peer) = self.peers.get_mut(&link) else {
            return;
        };
        peer.backlog.keep(news, is, line);
        if peer.backlog.facts.len() > MAX_FACTS {
            self.misbehaved(link, "it takes changes more slowly than they come");
        }
    }

    /// Returns the fact that a line states, and true if the line adds it.
    fn news_of(&self, line: &[u8]) -> Option<(News, bool)> {
        let find = |name: &NodeName| self.nodes.find(name);
        Some(match Request::parse(line).ok()? {
            Request::AddSubnet { owner, subnet } => (News::Subnet(find(&owner)?, subnet), true),
            Request::DelSubnet { owner, subnet } => (News::Subnet(find(&owner)?, subnet), false),
            Request::AddEdge { from, to, .. } => (News::Edge(find(&from)?, find(&to)?), true),
            Request::DelEdge { from, to } => (News::Edge(find(&from)?, find(&to)?), false),
            Request::KeyChanged { origin } => (News::Key(find(&origin)?), true),
            _ => return None,
        })
    }

    /// Handles a node that became reachable: sends its facts to links whose first exchange left it
    /// out.
    pub(in crate::mesh) fn tell_left_out(&mut self, idx: NodeIdx) {
        let links: Vec<LinkId> = self.peers.keys().copied().collect();
        for link in links {
            let left_out =
                |peer: &mut crate::mesh::peers::handshake::Peer| peer.backlog.left_out.remove(&idx);
            if self.peers.get_mut(&link).is_some_and(left_out) {
                let node = &self.nodes[idx];
                let subnets = node.claimed().map(|subnet| News::Subnet(idx, *subnet));
                let edges = node.edges.values().map(|edge| News::Edge(idx, edge.to));
                for news in subnets.chain(edges).collect::<Vec<_>>() {
                    self.keep_fact(link, news, true, None);
                }
                self.fill(link);
            }
        }
    }

    /// Sends waiting facts and the first exchange while there is room.
    fn fill(&mut self, link: LinkId) {
        while let Some(peer) = self.peers.get_mut(&link) {
            let backlog = &mut peer.backlog;
            if backlog.unsent >= BACKLOG {
                return;
            }
            let survives = peer.hello.caps().survives_names;
            let line = if let Some((news, fact)) = backlog.facts.pop_first() {
                backlog.kept -= fact.line.as_ref().map_or(0, Bytes::len);
                fact.line.or_else(|| self.line_of(news, fact.is))
            } else if let Some(mut cursor) = backlog.dump.take() {
                let mut left_out = std::mem::take(&mut backlog.left_out);
                let request = self.next_fact(&mut cursor, &mut left_out);
                let line = request.map(|request| Bytes::from(request.line(self.nonce())));
                if let Some(peer) = self.peers.get_mut(&link) {
                    peer.backlog.left_out = left_out;
                    peer.backlog.dump = line.is_some().then_some(cursor);
                }
                line
            } else {
                return;
            };
            if let Some(line) = line.filter(|line| survives || !is_fatal_to_legacy(line)) {
                self.send_line(link, line);
            }
        }
    }

    /// Encodes the line of a fact whose own line was not kept.
    fn line_of(&mut self, news: News, is: bool) -> Option<Bytes> {
        let request = match news {
            News::Edge(from, to) => {
                let [from, to] = [from, to].map(|idx| self.nodes.get(idx));
                let (from, to) = (from?, to?);
                let edge = from.edges.get(to.name());
                match is {
                    true => edge?.request(from.name(), to.name()),
                    false if edge.is_none() => Request::DelEdge {
                        from: from.name().clone(),
                        to: to.name().clone(),
                    },
                    false => return None,
                }
            }
            News::Subnet(owner, subnet) => {
                let owner = self.nodes.get(owner)?.name().clone();
                match is {
                    true => Request::AddSubnet { owner, subnet },
                    false => Request::DelSubnet { owner, subnet },
                }
            }
            News::Key(origin) => Request::KeyChanged {
                origin: self.nodes.get(origin)?.name().clone(),
            },
        };
        Some(request.line(self.nonce()).into())
    }

    /// Returns the next fact of the first exchange and advances the cursor; `None` when the
    /// exchange is over.
    fn next_fact(&self, cursor: &mut Cursor, left_out: &mut BTreeSet<NodeIdx>) -> Option<Request> {
        let all = !self.cx.settings.route.tunnel_server;
        loop {
            let idx = match &cursor.node {
                None => Some(Nodes::ME),
                Some(name) => self.nodes.find(name),
            };
            let node = idx.and_then(|idx| Some((idx, self.nodes.get(idx)?)));
            if let Some((idx, node)) = node {
                let announced = idx == Nodes::ME || node.reachability.reachable;
                if !(announced || node.subnets.is_empty() && node.edges.is_empty()) {
                    left_out.insert(idx);
                }
                let subnets = match &cursor.after {
                    After::Nothing => Some(Unbounded),
                    After::Subnet(last) => Some(Excluded(*last)),
                    After::Edge(_) => None,
                };
                let subnet = subnets.filter(|_| announced).and_then(|from| {
                    let mut rest = node.subnets.range((from, Unbounded));
                    rest.find(|subnet| node.claims(subnet))
                });
                if let Some(subnet) = subnet {
                    cursor.after = After::Subnet(*subnet);
                    let (owner, subnet) = (node.name().clone(), *subnet);
                    return Some(Request::AddSubnet { owner, subnet });
                }
                let from = match &cursor.after {
                    After::Edge(last) => Excluded(last.clone()),
                    _ => Unbounded,
                };
                let edge = node.edges.range((from, Unbounded)).next();
                if let Some((to, edge)) = edge.filter(|_| announced && all) {
                    cursor.after = After::Edge(to.clone());
                    return Some(edge.request(node.name(), to));
                }
            }
            if !all {
                return None;
            }
            let mut next = self.nodes.after(cursor.node.as_ref());
            if next.as_ref() == Some(&self.cx.settings.name) {
                next = self.nodes.after(next.as_ref());
            }
            *cursor = Cursor {
                node: Some(next?),
                after: After::Nothing,
            };
        }
    }
}

#[cfg(test)]
mod tests;
