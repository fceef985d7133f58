//! The control plane. Input: request lines, punts, configuration and time. Output: floods, dials,
//! probes, hooks and route snapshots. This module knows no link dialect and no socket.
//!
//! The driver calls [`Mesh::handle`] for every input, then [`Mesh::settle_all`] once. Then the
//! driver polls [`Mesh::poll_output`] until `None`, and [`Mesh::poll_timeout`]. Graph work happens
//! in `settle_all` only, so it runs once per batch of input.

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod circles;
pub mod event;
mod gossip;
pub mod limits;
mod packet;
mod paths;
mod peers;
mod publish;
mod reload;
pub mod reports;
mod sessions;
pub mod settings;
mod subnets;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod topology;
mod validity;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

pub use event::{Deadline, HookEvent, Input, LinkId, Output, Punt, Timer};
pub use settings::Settings;

use bytes::Bytes;

use meshd_crypto::Rng;
use meshd_sync::AtomicU64;
use meshd_wire::NodeName;

use crate::{
    mesh::{
        limits::Bucket,
        topology::node::{Node, Nodes},
    },
    route::{NodeIdx, RouteSnapshot, recent::Recent, verdict::ErrorLimiter},
};

/// Interval of everything that is due by time and not by an event.
const TICK: Duration = Duration::from_secs(1);

/// One node's view of the mesh, and its part in it.
pub struct Mesh {
    settings: Arc<Settings>,
    rng: Rng,
    /// Time of the input that is being handled.
    now: Instant,
    nodes: Nodes,
    subnet_count: usize,
    /// Subnets that host files list, and the number of all other subnets.
    listed: subnets::policy::Listed,
    /// Number of subnets kept aside (announced, not accepted), over all nodes.
    aside: usize,
    peers: BTreeMap<LinkId, peers::handshake::Peer>,
    outgoing: BTreeMap<NodeName, peers::dial::Outgoing>,
    seen: gossip::seen::Seen,
    /// Ethernet addresses learned behind our device.
    learned: subnets::mac_learning::Learned,
    /// Nodes that lost an edge. See [`Mesh::withdraw_orphans`].
    orphans: BTreeSet<NodeIdx>,
    /// Links that broke the protocol in the current input. The mesh closes them after it.
    to_close: Vec<(LinkId, String)>,
    /// Lines held until the graph pass of their batch.
    deferred: Vec<(LinkId, Bytes)>,
    /// Neighbours on the minimum spanning tree.
    tree: BTreeSet<NodeIdx>,
    snapshot: Arc<RouteSnapshot>,
    /// Subnets that host files list.
    lists: subnets::sources::Lists,
    /// Time up to which the budget of publications (one in 10 ms) is used up.
    publish_at: Instant,
    /// True if the last link is gone: forget edges that only other nodes could report.
    purge: bool,
    /// Statements of others about our neighbours that those neighbours did not make.
    doubts: gossip::corrections::Doubts,
    /// Edges between nodes that are no neighbours, deleted by lines of third nodes.
    denied: gossip::belief::DeniedEdges,
    dirty_graph: bool,
    dirty_routes: bool,
    timers: BTreeSet<(Instant, Timer, NodeIdx)>,
    auto: peers::autoconnect::AutoConnect,
    /// Changes that became known lately, for the periodic refresh.
    retell: gossip::refresh::Retell,
    errors: ErrorLimiter,
    unread: gossip::unread::Unread,
    legacy: sessions::legacy::Common,
    /// Budget of native first messages that belong to no known node.
    forged: Bucket,
    /// Budget of relayed datagrams from addresses that are no longer confirmed.
    unproven: Bucket,
    /// Budgets of probes to addresses that other nodes name.
    guesses: paths::probe::Guesses,
    /// Budget of probes to addresses that packets came from.
    challenge: Bucket,
    paced: paths::hints::Paced,
    pings: peers::ping::Pings,
    questions: reports::query::Questions,
    waiting_bytes: usize,
    /// True if inner packets are reported as [`Output::Seen`].
    looked_at: bool,
    outputs: VecDeque<Output>,
    lines: u64,
    /// Number of lines of each type, received and sent.
    counts: reports::measure::Lines,
    graph_runs: u64,
    floods: u64,
    refused: u64,
    downgrades: u64,
    subnets_refused: u64,
}

impl Mesh {
    /// Makes a mesh that knows no other node. Poll outputs and the timeout at once: the mesh wants
    /// to dial.
    #[must_use]
    pub fn new(settings: Arc<Settings>, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = Nodes::new(settings.name.clone(), now);
        let snapshot = RouteSnapshot {
            recent: Arc::new(Recent::new(u64::from_le_bytes(rng.bytes()))),
            ..RouteSnapshot::empty(nodes[Nodes::ME].shared.clone())
        };
        let mut mesh = Self {
            seen: gossip::seen::Seen::new(&mut rng, now),
            rng,
            now,
            nodes,
            subnet_count: 0,
            listed: subnets::policy::Listed::new(&settings),
            aside: 0,
            peers: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            orphans: BTreeSet::new(),
            to_close: Vec::new(),
            deferred: Vec::new(),
            tree: BTreeSet::new(),
            snapshot: Arc::new(snapshot),
            lists: subnets::sources::Lists::new(&settings),
            publish_at: now,
            purge: false,
            doubts: gossip::corrections::Doubts::default(),
            denied: gossip::belief::DeniedEdges::default(),
            dirty_graph: true,
            dirty_routes: true,
            timers: BTreeSet::from([(now + TICK, Timer::Tick, Nodes::ME)]),
            auto: peers::autoconnect::AutoConnect::new(now),
            retell: gossip::refresh::Retell::default(),
            learned: subnets::mac_learning::Learned::new(now),
            errors: ErrorLimiter::default(),
            unread: gossip::unread::Unread::default(),
            legacy: sessions::legacy::Common::new(settings.key_expire, now),
            forged: Bucket::new(sessions::native::FORGED_BURST, now),
            unproven: Bucket::new(packet::UNPROVEN as usize, now),
            guesses: paths::probe::Guesses::new(now),
            challenge: Bucket::new(20, now),
            paced: paths::hints::Paced::default(),
            pings: peers::ping::Pings::default(),
            questions: reports::query::Questions::default(),
            waiting_bytes: 0,
            looked_at: false,
            outputs: VecDeque::new(),
            lines: 0,
            counts: reports::measure::Lines::default(),
            graph_runs: 0,
            floods: 0,
            refused: 0,
            downgrades: 0,
            subnets_refused: 0,
            settings: settings.clone(),
        };
        for subnet in &settings.subnets {
            mesh.insert_subnet(Nodes::ME, *subnet);
        }
        if settings.strict_subnets {
            mesh.load_strict_subnets(now);
        }
        mesh.reconcile_outgoing(now);
        mesh.auto_alone(now);
        mesh.settle(now);
        mesh
    }

    /// Handles one input. Call [`Self::settle_all`] afterwards, then poll.
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.now = now;
        match input {
            Input::LinkUp {
                link,
                hello,
                remote,
                local,
            } => self.link_up(link, hello, remote, local, now),
            Input::LinkDown { link, why } => self.link_down(link, &why, now),
            Input::Line { link, line } => {
                self.lines += 1;
                self.counts.received(&line);
                self.handle_line(link, &line, now);
            }
            Input::Frame { link, frame } => self.handle_frame(link, &frame, now),
            Input::Relayed { link, datagram } => self.handle_relayed(link, &datagram, now),
            Input::Punt(punt) => self.handle_punt(punt, now),
            Input::DialFailed {
                node,
                addr,
                fault,
                why,
            } => self.dial_failed(&node, addr, (fault, &why), now),
            Input::Unproven { node, addr, why } => self.note_unproven(node, addr, why, now),
            Input::Resolved { node, host, addrs } => self.resolved(&node, &host, &addrs, now),
            Input::PathMtu { to, mtu } => self.handle_path_mtu(to, mtu, now),
            Input::TooLong { to, length } => self.handle_too_long(to, length, now),
            Input::Config(settings) => self.reconfigure(settings, now),
            Input::Retry => self.retry(now),
            Input::Redial(neighbours) => self.redial(neighbours, now),
            Input::Ping { node, token } => self.ping(&node, token, now),
            Input::Ask { node, data } => self.ask_node(&node, data, now),
            Input::Answer { node, data } => self.answer_node(&node, &data, now),
            Input::KeyTold { node, key } => {
                // The node has a host file, and may be unknown otherwise.
                let idx = self.nodes.add(node, now);
                self.key_told(idx, key);
            }
            Input::Look(on) => self.looked_at = on,
            Input::Entropy(entropy) => self.rng.add_entropy(&entropy),
            Input::Room { link } => self.link_has_room(link),
            Input::Timeout => self.timeout(now),
        }
        self.close_misbehaved(now);
    }

    /// Runs the graph pass and updates the tables, once after a batch of inputs.
    pub fn settle_all(&mut self, now: Instant) {
        self.now = now;
        self.settle(now);
    }

    fn close_misbehaved(&mut self, now: Instant) {
        for (link, what) in std::mem::take(&mut self.to_close) {
            self.close(link, &what, now);
        }
    }

    /// Returns the next output. Poll until `None`.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns the time at which [`Input::Timeout`] is due, with its reason. Poll after every
    /// batch.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.timers.first().map(|(at, timer, _)| (*at, *timer))
    }

    /// A node whose MinProtocol is SPTPS can be upgraded only if its host file has an Ed25519 key,
    /// or LearnKeys may store one.
    #[must_use]
    pub fn floods(&self) -> u64 {
        self.floods
    }

    /// Returns the snapshot published last.
    #[must_use]
    pub fn snapshot(&self) -> Arc<RouteSnapshot> {
        self.snapshot.clone()
    }

    fn timeout(&mut self, now: Instant) {
        while let Some((at, timer, idx)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Tick => self.tick(now),
                Timer::Dial => {
                    self.auto_connect(now);
                    self.dial_due(now);
                }
                Timer::Publish => {}
                Timer::Doubts => self.doubt_timer(now),
                Timer::Pmtu => self.probe_timer(idx, now),
                Timer::Keys => {
                    self.hold_timer(idx, now);
                    self.native_timer(idx, now);
                }
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.timers.insert((now + TICK, Timer::Tick, Nodes::ME));
        self.seen.forget(self.settings.ping_interval, now);
        self.peer_tick(now);
        self.auto_connect(now);
        self.dial_due(now);
        self.key_tick(now);
        self.legacy_tick(now);
        self.udp_tick(now);
        self.measure_tick(now);
        self.source_tick(now);
        self.info_tick(now);
        self.retell_tick(now);
        self.pings.forget(now);
        self.questions.forget(now);
        self.guesses.forget(now);
        self.learn_tick(now);
        self.budget_tick(now);
        self.forget_nodes(now);
    }

    /// Deletes the edges of all unreachable nodes. After the last link is gone, no node can report
    /// which of those edges end. Source: wire/tinc-1.0.md section 2.11.
    ///
    /// Subnets stay, as in tinc 1.1: a subnet's owner is unreachable, not unknown. An owner
    /// corrects stale subnets when it becomes reachable again.
    fn purge_unreachable(&mut self) {
        let gone: Vec<NodeIdx> = self
            .nodes
            .iter()
            .filter(|(idx, node)| *idx != Nodes::ME && !node.reachability.reachable)
            .map(|(idx, _)| idx)
            .collect();
        for idx in gone {
            self.strip_edges(idx);
        }
    }

    fn strip_edges(&mut self, idx: NodeIdx) {
        let ends: Vec<NodeIdx> = self.nodes[idx].edges.values().map(|edge| edge.to).collect();
        for to in ends {
            self.nodes.remove_edge(idx, to);
        }
    }

    /// Forgets unreachable nodes that no other node has mentioned for [`limits::FORGET_AFTER`].
    fn forget_nodes(&mut self, now: Instant) {
        let forgettable = |node: &Node| {
            let idle = now.saturating_duration_since(node.idle_since) >= limits::FORGET_AFTER;
            let named = self.settings.hosts.contains_key(node.name())
                || self.outgoing.contains_key(node.name());
            idle && !named && !node.reachability.reachable && node.link.is_none()
        };
        let old: Vec<NodeIdx> = self
            .nodes
            .iter()
            .filter(|(idx, node)| *idx != Nodes::ME && forgettable(node))
            .map(|(idx, _)| idx)
            .collect();
        for idx in old {
            self.strip_edges(idx);
            let subnets: Vec<_> = self.nodes[idx].subnets.iter().copied().collect();
            for subnet in subnets {
                self.remove_subnet(idx, subnet);
            }
            self.forget_refused(idx, None);
            if self.nodes[idx].incoming == 0 {
                self.drop_keys(idx);
                self.denied.forget_node(idx);
                self.nodes.remove(idx);
                self.dirty_routes = true;
            }
        }
    }
}

/// Reads a traffic counter.
fn total(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
