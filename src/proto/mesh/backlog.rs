//! Lines for a link that does not take them as fast as they come: the first exchange and changes wait
//! here as facts, and are made into lines when there is room.
//!
//! The first exchange is told from the graph as it is then, our own part first: a change meanwhile goes
//! out at once where its place in the order has passed, and is part of what follows where not. While a
//! link has [`BACKLOG`] bytes waiting, each change waits as a fact: the last line of it counts, as it
//! came, so that others know it when they have seen it. Nodes that nobody can reach are left out until
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
        limits::{ASK_ROOM, BACKLOG, FACT_BYTES, MAX_FACTS},
        node::Nodes,
        peers::is_fatal_to_legacy,
        retell::News,
    },
    route::NodeIdx,
};

/// Bytes that a line becomes longer by when it is sealed, at most.
const SEALED: usize = 32;

/// One link's lines that wait.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Bytes of lines that the socket may not have taken yet.
    unsent: usize,
    /// How many of them were sent before the shell was asked for room, while it is asked.
    asked: Option<usize>,
    /// How far the first exchange has come, until it is over.
    dump: Option<Cursor>,
    /// Whether a PONG is due after our own part of it.
    pong: bool,
    /// Nodes that the first exchange has left out.
    left_out: BTreeSet<NodeIdx>,
    /// What has changed.
    facts: BTreeMap<News, Fact>,
    /// Bytes of their lines.
    kept: usize,
}

/// A change that waits.
#[derive(Debug)]
struct Fact {
    /// Whether it came to be, or ended.
    is: bool,
    /// The line that said so, if there was room to keep it.
    line: Option<Bytes>,
}

/// What of the graph was told last.
#[derive(Debug, Clone)]
struct Cursor {
    /// Whose facts; `None`: our own.
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
    /// Begins to tell a new neighbour all that we know. Source: wire/tinc-1.0.md section 2.2.
    pub(super) fn send_everything(&mut self, link: LinkId) {
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.backlog.dump = Some(Cursor::START);
            self.fill(link);
        }
    }

    /// Notes a line that goes to a link; asks for room in time.
    pub(super) fn note_sent(&mut self, link: LinkId, length: usize) {
        let Some(peer) = self.peers.get_mut(&link) else {
            return;
        };
        let backlog = &mut peer.backlog;
        backlog.unsent += length + SEALED;
        if backlog.unsent >= ASK_ROOM && backlog.asked.is_none() {
            backlog.asked = Some(backlog.unsent);
            self.outputs.push_back(Output::AskRoom { link });
        }
    }

    /// The socket has taken what was sent before we asked.
    pub(super) fn link_has_room(&mut self, link: LinkId) {
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
        // What was sent while we had asked may be enough to ask again.
        self.note_sent(link, 0);
    }

    /// Answers a PING, after our own part of the first exchange: what the other end holds of us and did
    /// not hear again by then is void for it.
    pub(super) fn answer_link(&mut self, link: LinkId) {
        let told = self.has_told_own(link);
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.backlog.pong = !told;
        }
        if told {
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

    /// Bytes of lines that wait for the link towards a node.
    pub(super) fn unsent_towards(&self, to: NodeIdx) -> usize {
        let hop = self.nodes[to].place.nexthop;
        let link = self.nodes.get(hop).and_then(|hop| hop.link);
        let peer = link.and_then(|link| self.peers.get(&link));
        peer.map_or(0, |peer| peer.backlog.unsent)
    }

    /// Keeps a flooded line for a link that takes no more now. `false`: it is to be sent.
    pub(super) fn put_off(&mut self, link: LinkId, line: &Bytes) -> bool {
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

    /// The fact that a line speaks of, and whether it came to be.
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

    /// A node became reachable: tells it where the first exchange has left it out.
    pub(super) fn tell_left_out(&mut self, idx: NodeIdx) {
        let links: Vec<LinkId> = self.peers.keys().copied().collect();
        for link in links {
            let left_out = |peer: &mut super::peers::Peer| peer.backlog.left_out.remove(&idx);
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

    /// Sends what waits, as long as there is room.
    fn fill(&mut self, link: LinkId) {
        while let Some(peer) = self.peers.get_mut(&link) {
            let backlog = &mut peer.backlog;
            if backlog.unsent >= BACKLOG {
                return;
            }
            let legacy = peer.hello.is_legacy();
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
            if let Some(line) = line.filter(|line| !(legacy && is_fatal_to_legacy(line))) {
                self.send_line(link, line);
            }
        }
    }

    /// The line of a fact whose own line was not kept.
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

    /// The next fact of the first exchange, and the cursor moved to it; `None` when it is over.
    fn next_fact(&self, cursor: &mut Cursor, left_out: &mut BTreeSet<NodeIdx>) -> Option<Request> {
        let all = !self.settings.route.tunnel_server;
        loop {
            let idx = match &cursor.node {
                None => Some(Nodes::ME),
                Some(name) => self.nodes.find(name),
            };
            let node = idx.and_then(|idx| Some((idx, self.nodes.get(idx)?)));
            if let Some((idx, node)) = node {
                let told = idx == Nodes::ME || node.place.reachable;
                if !(told || node.subnets.is_empty() && node.edges.is_empty()) {
                    left_out.insert(idx);
                }
                let subnets = match &cursor.after {
                    After::Nothing => Some(Unbounded),
                    After::Subnet(last) => Some(Excluded(*last)),
                    After::Edge(_) => None,
                };
                let subnet = subnets.filter(|_| told).and_then(|from| {
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
                if let Some((to, edge)) = edge.filter(|_| told && all) {
                    cursor.after = After::Edge(to.clone());
                    return Some(edge.request(node.name(), to));
                }
            }
            if !all {
                return None;
            }
            let mut next = self.nodes.after(cursor.node.as_ref());
            if next.as_ref() == Some(&self.settings.name) {
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
