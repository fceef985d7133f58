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
mod context;
pub mod event;
mod gossip;
pub mod limits;
mod paths;
mod peers;
mod publisher;
mod reload;
pub mod reports;
mod sessions;
pub mod settings;
mod slow_path;
mod subnets;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod topology;
pub mod validity;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

pub use event::{Deadline, HookEvent, Input, LinkId, LinkReport, Notice, Output, Punt, Timer};
pub use settings::Settings;

use meshd_crypto::Rng;
use meshd_sync::AtomicU64;

use crate::{
    mesh::{
        context::Context,
        gossip::Gossip,
        paths::Paths,
        peers::Peers,
        publisher::Publisher,
        reports::Reports,
        sessions::Sessions,
        slow_path::SlowPath,
        subnets::Subnets,
        topology::{Graph, node::Nodes},
    },
    route::{RouteSnapshot, recent::Recent},
};

/// Interval of everything that is due by time and not by an event.
const TICK: Duration = Duration::from_secs(1);

/// One node's view of the mesh, and its part in it.
pub struct Mesh {
    cx: Context,
    nodes: Nodes,
    graph: Graph,
    gossip: Gossip,
    peers: Peers,
    sessions: Sessions,
    paths: Paths,
    subnets: Subnets,
    publisher: Publisher,
    reports: Reports,
    slow_path: SlowPath,
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
            nodes,
            graph: Graph::new(now),
            gossip: Gossip::new(&mut rng, now),
            peers: Peers::new(now),
            sessions: Sessions::new(settings.key_expire, now),
            paths: Paths::new(now),
            subnets: Subnets::new(&settings, now),
            publisher: Publisher::new(snapshot, now),
            reports: Reports::default(),
            slow_path: SlowPath::new(now),
            cx: Context::new(settings.clone(), rng, now),
        };
        mesh.graph.mark_dirty();
        mesh.cx.arm(now + TICK, Timer::Tick, Nodes::ME);
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
        self.cx.now = now;
        match input {
            Input::Link(report) => self.handle_report(report, now),
            Input::Punt(punt) => self.handle_punt(punt, now),
            Input::Resolved { node, host, addrs } => self.resolved(&node, &host, &addrs, now),
            Input::PathMtu { to, mtu } => self.handle_path_mtu(to, mtu, now),
            Input::TooLong { to, length } => self.handle_too_long(to, length, now),
            Input::Config(settings) => self.reconfigure(settings, now),
            Input::Retry => self.retry(now),
            Input::Redial(neighbours) => self.redial(neighbours, now),
            Input::Ping { node, token } => self.ping(&node, token, now),
            Input::Ask { node, data } => self.ask_node(&node, data, now),
            Input::Answer { node, data } => self.answer_node(&node, &data, now),
            Input::Capture(on) => self.reports.set_capturing(on),
            Input::Entropy(entropy) => self.cx.rng.add_entropy(&entropy),
            Input::Timeout => self.timeout(now),
        }
        self.close_misbehaved(now);
    }

    /// Handles a report of the pool.
    fn handle_report(&mut self, report: LinkReport, now: Instant) {
        match report {
            LinkReport::Up {
                link,
                hello,
                remote,
                local,
            } => self.link_up(link, hello, remote, local, now),
            LinkReport::Down { link, why } => self.link_down(link, &why, now),
            LinkReport::Line { link, line } => {
                self.cx.counters.lines += 1;
                self.cx.counters.by_type.received(&line);
                self.handle_line(link, &line, now);
            }
            LinkReport::Frame { link, frame } => self.handle_frame(link, &frame, now),
            LinkReport::Relayed { link, datagram } => self.handle_relayed(link, &datagram, now),
            LinkReport::Room { link } => self.link_has_room(link),
            LinkReport::DialFailed {
                node,
                addr,
                fault,
                why,
            } => self.dial_failed(&node, addr, (fault, &why), now),
            LinkReport::Unproven { node, addr, why } => self.note_unproven(node, addr, why, now),
            LinkReport::KeyReceived { node, key } => {
                // The node has a host file, and may be unknown otherwise.
                let idx = self.nodes.add(node, now);
                self.handle_received_key(idx, key);
            }
        }
    }

    /// Runs the graph pass and updates the tables, once after a batch of inputs.
    pub fn settle_all(&mut self, now: Instant) {
        self.cx.now = now;
        self.settle(now);
    }

    fn close_misbehaved(&mut self, now: Instant) {
        for (link, what) in self.peers.take_misbehaved() {
            self.close(link, &what, now);
        }
    }

    /// Returns the next output. Poll until `None`.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.cx.next_output()
    }

    /// Returns the time at which [`Input::Timeout`] is due, with its reason. Poll after every
    /// batch.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.cx.deadline()
    }

    /// Returns the number of lines flooded since start: our own and forwarded ones.
    #[must_use]
    pub fn floods(&self) -> u64 {
        self.cx.counters.floods
    }

    /// Returns the snapshot published last.
    #[must_use]
    pub fn snapshot(&self) -> Arc<RouteSnapshot> {
        Arc::clone(self.publisher.snapshot())
    }

    fn timeout(&mut self, now: Instant) {
        while let Some((timer, idx)) = self.cx.take_due(now) {
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
                    self.pause_timer(idx, now);
                    self.native_timer(idx, now);
                }
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.cx.arm(now + TICK, Timer::Tick, Nodes::ME);
        self.gossip.forget_seen(self.cx.settings.ping_interval, now);
        self.peer_tick(now);
        self.auto_connect(now);
        self.dial_due(now);
        self.key_tick(now);
        self.legacy_tick(now);
        self.udp_tick(now);
        self.measure_tick(now);
        self.source_tick(now);
        self.info_tick(now);
        self.refresh_tick(now);
        self.reports.forget(now);
        self.paths.forget(now);
        self.learn_tick(now);
        self.budget_tick(now);
        self.forget_nodes(now);
    }
}

/// Reads a traffic counter.
fn total(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
