//! The driver of all nodes, like that of the daemon: events become inputs, outputs become events.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use meshd_crypto::Rng;
use meshd_proto::{
    link::Link,
    mesh::{Input, LinkId, Output},
};
use meshd_wire::NodeName;

use crate::{
    conn::{Chunk, Conn, End, EndId},
    net::{LONGEST, Target},
    node::Gathered,
    plan::{self, Fidelity},
    world::{Dial, Event, World},
};

/// Time for which a node gathers inputs before it acts, because a real node is busy.
const BUSY: Duration = Duration::from_millis(1);
/// The same in large meshes with lines, where most of the work is each node's graph pass after a
/// batch.
const BUSY_BY_LINES: Duration = Duration::from_millis(25);
/// Time until a connection attempt to an unused address fails.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// First local port of connections.
const EPHEMERAL: u64 = 32_768;

impl World {
    /// Carries out one event.
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { node, life } => {
                if self.lives(node, life) {
                    self.wake(node);
                }
            }
            Event::Settle { node, life } => {
                if self.lives(node, life) {
                    self.settle(node);
                }
            }
            Event::Datagram {
                node,
                from,
                datagram,
            } => {
                if self.nodes[node].alive {
                    let mut datagram = datagram.to_vec();
                    let gathered = self.nodes[node].network_gives(from, &mut datagram, self.now);
                    self.after_step(node, gathered);
                }
            }
            Event::Accept { node, dial } => self.accept(node, dial),
            Event::Connected { dial } => self.connected(dial),
            Event::Authenticated { end } => self.authenticated(end),
            Event::Refused { dial, why } => self.refused(&dial, why),
            Event::Segment { end, chunk } => self.segment(end, chunk),
        }
    }

    pub(super) fn lives(&self, node: usize, life: u32) -> bool {
        self.nodes[node].alive && self.nodes[node].life == life
    }

    /// Gives one input to a mesh, which acts soon.
    pub(super) fn input(&mut self, node: usize, input: Input) {
        if matches!(input, Input::LinkUp { .. } | Input::LinkDown { .. }) {
            self.changed = self.now;
        }
        let mesh = &mut self.nodes[node].mesh;
        let before = mesh.floods();
        mesh.handle(input, self.now);
        if mesh.floods() > before {
            self.changed = self.now;
        }
        self.settle_soon(node);
    }

    pub(super) fn settle_soon(&mut self, node: usize) {
        let life = self.nodes[node].life;
        if !std::mem::replace(&mut self.nodes[node].settling, true) {
            let busy = match self.plan.fidelity {
                Fidelity::Bytes => BUSY,
                Fidelity::Lines => BUSY_BY_LINES,
            };
            self.at(self.now + busy, Event::Settle { node, life });
        }
    }

    fn wake(&mut self, node: usize) {
        let now = self.now;
        if self.nodes[node].armed.is_some_and(|at| at <= now) {
            self.nodes[node].armed = None;
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let late: Vec<LinkId> = self.nodes[node]
            .links
            .iter()
            .filter(|(_, link)| due(link.link.as_ref().and_then(Link::poll_timeout)))
            .map(|(id, _)| id)
            .collect();
        for id in late {
            if let Some(link) = self.nodes[node].links[id].link.as_mut() {
                link.handle_timeout(now);
            }
            self.link_events(node, id);
        }
        if due(self.nodes[node].mesh.poll_timeout().map(|(at, _)| at)) {
            self.input(node, Input::Timeout);
            if let Some((at, timer)) = self.nodes[node].mesh.poll_timeout()
                && at <= now
            {
                let what =
                    format!("n{node}: the timer {timer:?} is still due after it was handled");
                self.failure.get_or_insert(what);
            }
        }
        self.arm(node);
    }

    /// Queues a wake-up for the node's next deadline, unless an earlier one is queued.
    pub(super) fn arm(&mut self, node: usize) {
        let sim = &mut self.nodes[node];
        let Some(at) = sim.wants_wake() else { return };
        if sim.armed.is_none_or(|armed| at < armed) {
            sim.armed = Some(at);
            let life = sim.life;
            self.at(at, Event::Wake { node, life });
        }
    }

    /// Runs the graph pass, then carries out all outputs of the mesh.
    fn settle(&mut self, node: usize) {
        self.nodes[node].settling = false;
        self.nodes[node].mesh.settle_all(self.now);
        while let Some(output) = self.nodes[node].mesh.poll_output() {
            self.act(node, output);
        }
        if self.plan.fidelity == Fidelity::Bytes {
            let ids: Vec<LinkId> = self.nodes[node].links.keys().collect();
            for id in ids {
                self.flush(node, id);
            }
        }
        self.arm(node);
    }

    fn act(&mut self, node: usize, output: Output) {
        match output {
            Output::SendLine { to, line } => {
                self.send_on(node, to, Chunk::Line(line), |link, line| {
                    link.send_line(line)
                });
            }
            Output::AskRoom { link } => self.input(node, Input::Room { link }),
            Output::SendFrame { to, frame } => {
                self.send_on(node, to, Chunk::Frame(frame), |link, frame| {
                    link.send_frame(frame);
                });
            }
            Output::SendRelayed { to, datagram } => {
                self.send_on(node, to, Chunk::Relayed(datagram), |link, datagram| {
                    link.send_relayed(datagram);
                });
            }
            Output::Datagram { to, datagram } => self.datagram(node, to, datagram),
            Output::TunWrite(packet) => self.traffic.delivered(node, &packet),
            Output::Resolve {
                node: name, host, ..
            } => {
                self.input(
                    node,
                    Input::Resolved {
                        node: name,
                        host,
                        addrs: Vec::new(),
                    },
                );
            }
            Output::Dial { node: name, addr } => self.dial(node, name, addr),
            Output::CancelDial { node: name } => self.cancel_dial(node, &name),
            Output::Close { link, why } => {
                self.say(&format!("n{node}: closes a link: {why}"));
                if let Some(link) = self.nodes[node].links.get(link) {
                    self.close_end(link.end);
                }
            }
            Output::AskPathMtu { to } => self.input(node, Input::PathMtu { to, mtu: 1500 }),
            Output::Publish(snapshot) => self.nodes[node].snapshot = snapshot,
            Output::Remember { .. }
            | Output::Pong { .. }
            | Output::Query { .. }
            | Output::Seen { .. }
            | Output::Hook(_) => {}
        }
    }

    /// Carries out the results of a packet step: datagrams, packets for the device, punts.
    pub(super) fn after_step(&mut self, node: usize, gathered: Gathered) {
        for (to, datagram) in gathered.datagrams {
            self.datagram(node, to, datagram.into());
        }
        for packet in gathered.delivered {
            self.traffic.delivered(node, &packet);
        }
        for punt in gathered.punts {
            self.input(node, Input::Punt(punt));
        }
    }

    fn datagram(&mut self, node: usize, to: SocketAddr, datagram: Bytes) {
        if datagram.len() > LONGEST {
            return self.input(
                node,
                Input::TooLong {
                    to,
                    length: datagram.len(),
                },
            );
        }
        let receiver = self.net.owner(to.ip());
        self.traffic
            .sealed(node, &self.nodes[node].snapshot, receiver, &datagram);
        for arrival in self.net.datagram(node, to, datagram.len()) {
            let (node, from, datagram) = (arrival.node, arrival.from, datagram.clone());
            self.at(
                self.now + arrival.after,
                Event::Datagram {
                    node,
                    from,
                    datagram,
                },
            );
        }
    }

    fn dial(&mut self, from: usize, name: NodeName, addr: SocketAddr) {
        let conn = self.new_conn();
        self.nodes[from].dials.insert(name.clone(), conn);
        let dial = Dial {
            conn,
            from,
            life: self.nodes[from].life,
            name,
            addr,
        };
        match self.net.connect(from, addr) {
            Target::Node(node) => {
                let after = self.net.segment(from, node);
                self.at(self.now + after, Event::Accept { node, dial });
            }
            Target::Refused => {
                let why = "connection refused";
                self.at(
                    self.now + Duration::from_millis(50),
                    Event::Refused { dial, why },
                );
            }
            Target::Nowhere => {
                let why = "timed out";
                self.at(self.now + CONNECT_TIMEOUT, Event::Refused { dial, why });
            }
        }
    }

    fn cancel_dial(&mut self, node: usize, name: &NodeName) {
        if let Some(conn) = self.nodes[node].dials.remove(name) {
            let mut links = self.nodes[node].links.values();
            let half_open = links.find(|link| link.end.conn == conn && !link.up);
            if let Some(end) = half_open.map(|link| link.end) {
                self.close_end(end);
            }
        }
    }

    fn accept(&mut self, node: usize, dial: Dial) {
        let back = self.net.latency(dial.from, node);
        if !self.nodes[node].alive || self.net.is_tcp_cut(dial.from, node) {
            return self.at(
                self.now + back,
                Event::Refused {
                    dial,
                    why: "connection refused",
                },
            );
        }
        let port = u16::try_from(EPHEMERAL + dial.conn % EPHEMERAL).expect("32,768 to 65,535");
        let near = SocketAddr::new(self.own_socket(dial.from).ip(), port);
        let seen = SocketAddr::new(plan::public_ip(dial.from), port);
        let end = |node: usize, life, local, remote| End {
            node,
            life,
            link: None,
            local,
            remote,
            open: true,
            last_arrival: self.now,
            stalled: Vec::new(),
        };
        let far = end(node, self.nodes[node].life, self.own_socket(node), seen);
        let near = end(dial.from, dial.life, near, dial.addr);
        self.conns.insert(dial.conn, Conn { ends: [near, far] });
        let timeout = self.nodes[node].settings.ping_timeout;
        let identity = self.nodes[node].identity.clone();
        let (rng, now) = (self.link_rng(dial.conn, 1), self.now);
        let link = self.by_bytes(|| Link::accept(identity, timeout, rng, now));
        self.add_link(
            EndId {
                conn: dial.conn,
                side: 1,
            },
            link,
            None,
        );
        self.at(self.now + back, Event::Connected { dial });
    }

    fn connected(&mut self, dial: Dial) {
        let end = EndId {
            conn: dial.conn,
            side: 0,
        };
        let wanted = self.lives(dial.from, dial.life)
            && self.nodes[dial.from].dials.get(&dial.name) == Some(&dial.conn);
        let theirs = self.nodes[dial.from].credentials(&dial.name);
        let Some(theirs) = theirs.filter(|_| wanted) else {
            return self.close_end(end);
        };
        let timeout = self.nodes[dial.from].settings.ping_timeout;
        let identity = self.nodes[dial.from].identity.clone();
        let (rng, now) = (self.link_rng(dial.conn, 0), self.now);
        let peer = dial.name.clone();
        let link = self.by_bytes(|| Link::dial(identity, peer, theirs, timeout, rng, now));
        let id = self.add_link(end, link, Some((dial.name, dial.addr)));
        self.flush(dial.from, id);
        self.arm(dial.from);
        if self.plan.fidelity == Fidelity::Lines {
            let other = self.conns[&end.conn].ends[1].node;
            // ID and KEX, SIG and ACK: one round trip each.
            let done = self.now
                + 3 * self.net.latency(dial.from, other)
                + self.net.segment(dial.from, other);
            self.at(done, Event::Authenticated { end });
            self.at(done, Event::Authenticated { end: end.other() });
        }
    }

    fn by_bytes(&self, link: impl FnOnce() -> Link) -> Option<Link> {
        (self.plan.fidelity == Fidelity::Bytes).then(link)
    }

    fn link_rng(&self, conn: u64, side: usize) -> Rng {
        Rng::new(self.plan.seed_for(&format!("link {conn}"), side))
    }

    fn own_socket(&self, node: usize) -> SocketAddr {
        plan::own_socket(node, self.plan.is_behind_nat(node))
    }
}
