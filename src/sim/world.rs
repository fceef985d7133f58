//! The event queue, and the actions of tests on nodes and network.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use meshd_proto::{
    link::DialId,
    mesh::{
        Input, Settings,
        reports::{facts::NodeFacts, view::ConnectionRow},
    },
};
use meshd_wire::NodeName;

use crate::{
    conn::{Chunk, Conn, EndId},
    judge::Said,
    model,
    net::Net,
    node::SimNode,
    plan::{Fidelity, Plan},
    traffic::Traffic,
};

/// Wall time at the start of every run, in seconds since 1970.
const EPOCH: u64 = 1_800_000_000;

/// A running simulated mesh.
pub struct World {
    pub(super) plan: Plan,
    settings: Vec<Arc<Settings>>,
    pub(super) nodes: Vec<SimNode>,
    /// The network; its faults may be set at any time.
    pub net: Net,
    pub(super) conns: BTreeMap<u64, Conn>,
    pub(super) traffic: Traffic,
    queue: BTreeMap<(Instant, u64), Event>,
    queued: u64,
    dialled: u64,
    start: Instant,
    pub(super) now: Instant,
    /// Last time at which a link came up or ended, or a flooded line arrived.
    pub(super) changed: Instant,
    /// Number of request lines that arrived.
    pub(super) lines: u64,
    /// Number of links that came up, and of links that ended after they were up.
    pub(super) made: u64,
    pub(super) cut: u64,
    /// Seconds by which the clock of each node is off.
    clocks: Vec<i64>,
    /// Nodes that send generated lines.
    pub(super) hostile: BTreeSet<usize>,
    /// Lines that each node sent to its neighbours.
    pub(super) said: Vec<Said>,
    pub(super) failure: Option<String>,
    trace: u64,
    /// True to print each event to stderr.
    pub verbose: bool,
}

/// A future event.
#[derive(Debug)]
pub(super) enum Event {
    /// A node's deadline.
    Wake { node: usize, life: u32 },
    /// A node acts on its gathered inputs.
    Settle { node: usize, life: u32 },
    /// A datagram arrives.
    Datagram {
        node: usize,
        from: SocketAddr,
        datagram: Bytes,
    },
    /// The first packet of a connection arrives.
    Accept { node: usize, dial: Dial },
    /// The dialler learns that it is connected.
    Connected { dial: Dial },
    /// With lines: both ends have authenticated.
    Authenticated { end: EndId },
    /// The dialler learns that its attempt failed.
    Refused { dial: Dial, why: &'static str },
    /// A chunk of a stream arrives.
    Segment { end: EndId, chunk: Chunk },
}

/// A connection attempt.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    pub(super) conn: u64,
    pub(super) from: usize,
    pub(super) life: u32,
    pub(super) name: NodeName,
    pub(super) addr: SocketAddr,
    /// With bytes: the attempt of the dialler's pool.
    pub(super) id: Option<DialId>,
}

/// A failed check, with the seed that reproduces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    seed: u64,
    what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, what } = self;
        write!(
            f,
            "{what}\nfailing seed: rerun with MESHD_SIM_SEED={seed}, MESHD_SIM_TRACE=1 prints each event"
        )
    }
}

impl std::error::Error for Failure {}

impl World {
    /// Makes the mesh of `plan`, with all nodes started at `start`. Only time differences matter.
    #[must_use]
    pub fn new(plan: Plan, start: Instant) -> Self {
        let settings: Vec<Arc<Settings>> = plan.settings().into_iter().map(Arc::new).collect();
        let nodes = settings.iter().enumerate().map(|(n, settings)| {
            let seeds = ["node 0", "links 0"].map(|purpose| plan.seed_for(purpose, n));
            SimNode::start(settings.clone(), 0, seeds, start, EPOCH)
        });
        let mut world = Self {
            nodes: nodes.collect(),
            settings,
            net: Net::new(&plan),
            conns: BTreeMap::new(),
            traffic: Traffic::default(),
            queue: BTreeMap::new(),
            queued: 0,
            dialled: 0,
            start,
            now: start,
            changed: start,
            lines: 0,
            made: 0,
            cut: 0,
            clocks: vec![0; plan.nodes],
            hostile: BTreeSet::new(),
            said: vec![Said::default(); plan.nodes],
            failure: None,
            trace: 0xcbf2_9ce4_8422_2325,
            verbose: false,
            plan,
        };
        for node in 0..world.nodes.len() {
            world.settle_soon(node);
        }
        world
    }

    /// Returns the true wall time, in seconds since 1970.
    #[must_use]
    pub fn unix(&self) -> u64 {
        EPOCH + self.elapsed().as_secs()
    }

    /// Returns the wall time of a node's clock.
    pub(super) fn unix_of(&self, node: usize) -> u64 {
        self.unix().saturating_add_signed(self.clocks[node])
    }

    /// Returns the time of the first instant at this wall time of a node's clock, which is not
    /// before the start.
    pub(super) fn at_unix(&self, node: usize, unix: u64) -> Instant {
        let true_time = unix.saturating_add_signed(-self.clocks[node]);
        self.start + Duration::from_secs(true_time.saturating_sub(EPOCH))
    }

    /// Sets a node's clock so many seconds off the true time.
    pub fn set_clock(&mut self, node: usize, off: i64) {
        self.clocks[node] = off;
        let settings = Arc::clone(&self.nodes[node].settings);
        if self.nodes[node].alive {
            self.use_settings(node, settings);
        }
    }

    /// Changes the configuration of a node, and puts it in force if the node runs. Like a daemon, a
    /// node takes a new key of its own only at its next start.
    pub fn edit(&mut self, node: usize, edit: impl FnOnce(&mut Settings)) {
        edit(Arc::make_mut(&mut self.settings[node]));
        if self.nodes[node].alive {
            let settings = Arc::clone(&self.settings[node]);
            self.use_settings(node, settings);
        }
    }

    /// Returns the virtual time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Returns a hash that is equal for two runs only if all their events were.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.trace
    }

    /// Returns the number of request lines that arrived so far.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Returns the number of links that came up so far, and of links that ended after they were up.
    #[must_use]
    pub fn link_changes(&self) -> (u64, u64) {
        (self.made, self.cut)
    }

    /// Advances the time.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Failure> {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
        self.verdict()
    }

    /// Runs until no link changed and no change was flooded for `quiet`, then compares every node
    /// with the oracle. Fails if the mesh is not at rest within `limit`.
    pub fn run_until_rest(&mut self, quiet: Duration, limit: Duration) -> Result<(), Failure> {
        let end = self.now + limit;
        self.changed = self.now;
        while self.now - self.changed < quiet {
            if self.now >= end {
                return Err(self.failure(format!("not at rest after {} s", limit.as_secs())));
            }
            let until = (self.changed + quiet).min(end);
            while self.step(until) {}
            self.now = until;
        }
        self.verdict()?;
        model::check(self).map_err(|what| self.failure(what))
    }

    /// Returns the first failure so far, if any.
    pub fn verdict(&self) -> Result<(), Failure> {
        match self.failure.as_ref().or_else(|| self.traffic.failure()) {
            Some(what) => Err(self.failure(what.clone())),
            None => Ok(()),
        }
    }

    /// Makes a failure of this run.
    #[must_use]
    pub fn failure(&self, what: String) -> Failure {
        let at = self.elapsed().as_secs_f64();
        Failure {
            seed: self.plan.seed,
            what: format!("after {at:.3} s: {what}"),
        }
    }

    /// Returns the facts of `meshctl peers` on a node.
    #[must_use]
    pub fn peers(&self, node: usize) -> Vec<NodeFacts> {
        self.nodes[node].mesh.peers(self.now)
    }

    /// Returns the rows of `meshctl dump connections` on a node.
    #[must_use]
    pub fn connections(&self, node: usize) -> Vec<ConnectionRow> {
        self.nodes[node].mesh.connections()
    }

    /// Returns true if every running node reaches every other one.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let alive = self.nodes.iter().filter(|node| node.alive).count();
        let reached = |node: &SimNode| node.mesh.status().reachable;
        self.nodes
            .iter()
            .filter(|node| node.alive)
            .all(|node| reached(node) == alive)
    }

    /// Sends an IP packet of `length` bytes (at least 44) from the device of `from` to the address
    /// of `to`.
    pub fn send(&mut self, from: usize, to: usize, length: usize) {
        if self.nodes[from].alive {
            let mut packet = self.traffic.packet(from, to, length);
            self.say(&format!("n{from} sends {length} bytes to n{to}"));
            let gathered = self.nodes[from].device_gives(&mut packet, self.now);
            self.after_step(from, gathered);
        }
    }

    /// Broadcasts a packet from a node's device. From then on duplicate delivery is a failure.
    pub fn broadcast(&mut self, from: usize, length: usize) {
        if self.nodes[from].alive {
            let mut packet = self.traffic.broadcast(from, length);
            self.say(&format!("n{from} sends {length} bytes to all"));
            let gathered = self.nodes[from].device_gives(&mut packet, self.now);
            self.after_step(from, gathered);
        }
    }

    /// Returns how often broadcasts were delivered to some device.
    #[must_use]
    pub fn broadcasts_delivered(&self) -> usize {
        self.traffic.broadcasts_delivered()
    }

    /// Returns the packets sent since the last call that have not been delivered: from, to, length
    /// in bytes.
    pub fn take_lost(&mut self) -> Vec<(usize, usize, usize)> {
        self.traffic.take_lost()
    }

    /// Ends a node's process; the kernel tells its neighbours.
    pub fn kill(&mut self, node: usize) {
        let sim = &mut self.nodes[node];
        sim.alive = false;
        let links = sim.links.values().map(|link| link.end);
        let ends: Vec<EndId> = links.chain(sim.backlog.drain(..)).collect();
        for end in ends {
            self.close_end(end);
        }
    }

    /// Switches a node's power off; no other node is told.
    pub fn power_off(&mut self, node: usize) {
        for conn in self.conns.values_mut() {
            conn.ends
                .iter_mut()
                .filter(|end| end.node == node)
                .for_each(|end| (end.open, end.unread) = (false, None));
        }
        self.nodes[node].alive = false;
    }

    /// Starts a node that is not running, without the state of its last life.
    pub fn start_again(&mut self, node: usize) {
        let life = self.nodes[node].life + 1;
        let purposes = [format!("node {life}"), format!("links {life}")];
        let seeds = purposes.map(|purpose| self.plan.seed_for(&purpose, node));
        let settings = self.settings[node].clone();
        self.nodes[node] = SimNode::start(settings, life, seeds, self.now, self.unix_of(node));
        self.settle_soon(node);
    }

    /// Gives a node another public address. The node itself sees it unless it is behind a NAT.
    pub fn change_address(&mut self, node: usize) {
        let old = self.own_socket(node).ip();
        self.net.change_address(node);
        if !self.nodes[node].alive || self.own_socket(node).ip() == old {
            return;
        }
        match self.plan.fidelity {
            Fidelity::Bytes => self.nodes[node].pool.address_gone(old),
            Fidelity::Lines => {
                let links = self.nodes[node].links.values();
                for end in links.map(|link| link.end).collect::<Vec<_>>() {
                    self.hang_up(end, "the local address is gone");
                }
            }
        }
        self.input(node, Input::Retry);
        self.serve(node);
        self.arm(node);
    }

    /// Joins all parts of the network again.
    pub fn heal(&mut self) {
        self.net.join_all();
        self.send_stalled();
    }

    /// Queues an event.
    pub(super) fn at(&mut self, at: Instant, event: Event) {
        self.queued += 1;
        self.queue.insert((at.max(self.now), self.queued), event);
    }

    /// Returns a number for a new connection.
    pub(super) fn new_conn(&mut self) -> u64 {
        self.dialled += 1;
        self.dialled
    }

    /// Carries out the next event, if it is due by `until`. Returns true if there was one.
    fn step(&mut self, until: Instant) -> bool {
        let next = self
            .queue
            .first_entry()
            .filter(|entry| entry.key().0 <= until);
        let Some(((at, _), event)) = next.map(|entry| entry.remove_entry()) else {
            return false;
        };
        if self.failure.is_some() {
            return false;
        }
        self.now = at;
        self.note(&event);
        self.happen(event);
        true
    }

    /// Adds an event to the trace.
    fn note(&mut self, event: &Event) {
        let (kind, node, content): (u8, usize, &[u8]) = match event {
            Event::Wake { node, .. } => (0, *node, &[]),
            Event::Settle { node, .. } => (1, *node, &[]),
            Event::Datagram { node, datagram, .. } => (2, *node, datagram),
            Event::Accept { node, .. } => (3, *node, &[]),
            Event::Connected { dial } => (4, dial.from, &[]),
            Event::Authenticated { end } => (5, end.side, &[]),
            Event::Refused { dial, .. } => (6, dial.from, &[]),
            Event::Segment { end, chunk } => match chunk {
                Chunk::Bytes(bytes) => (7, end.side, bytes),
                Chunk::Line(bytes) => (8, end.side, bytes),
                Chunk::Frame(bytes) => (9, end.side, bytes),
                Chunk::Relayed(bytes) => (10, end.side, bytes),
                Chunk::Fin => (11, end.side, &[]),
            },
        };
        let nanos = self.elapsed().as_nanos() as u64;
        let head = nanos
            .to_le_bytes()
            .into_iter()
            .chain([kind])
            .chain(node.to_le_bytes());
        for byte in head.chain(content.iter().copied()) {
            // FNV-1a: any hash that mixes every byte is suitable.
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.verbose {
            self.print(event);
        }
    }

    fn print(&self, event: &Event) {
        let text = match event {
            Event::Wake { .. } | Event::Settle { .. } => return,
            // The content is printed when it arrives.
            Event::Segment {
                chunk: Chunk::Bytes(_),
                ..
            } => return,
            Event::Datagram {
                node,
                from,
                datagram,
            } => {
                format!("n{node} <- {from}: {} bytes", datagram.len())
            }
            Event::Segment { end, chunk } => {
                let ends = &self.conns.get(&end.conn).map(|conn| &conn.ends);
                let names = ends.map(|ends| (ends[end.side].node, ends[1 - end.side].node));
                let (to, from) = names.unwrap_or_default();
                format!("n{to} <- n{from} ({}): {chunk:?}", end.conn)
            }
            other => format!("{other:?}"),
        };
        self.say(&text);
    }

    /// Prints a line if `verbose` is set.
    #[expect(clippy::print_stderr, reason = "asked for, to look at a failing seed")]
    pub(super) fn say(&self, text: &str) {
        if self.verbose {
            eprintln!("{:12.6} {text}", self.elapsed().as_secs_f64());
        }
    }
}
