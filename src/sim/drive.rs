//! The driver of all nodes, like that of the daemon: events become inputs, outputs become events.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use meshd_crypto::seal::Aeads;
use meshd_proto::{
    link::DialId,
    mesh::{Input, LinkReport, Output, Settings, validity::Validity},
};
use meshd_wire::NodeName;

use crate::{
    conn::{Chunk, Conn, End, EndId},
    net::{LONGEST, Target},
    node::Gathered,
    plan::{self, Fidelity, PORT},
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
        if matches!(
            input,
            Input::Link(LinkReport::Up { .. } | LinkReport::Down { .. })
        ) {
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
        self.nodes[node].pool.handle_timeout(now);
        if self.nodes[node].validity.is_due(self.unix_of(node)) {
            let settings = Arc::clone(&self.nodes[node].settings);
            self.use_settings(node, settings);
        }
        self.serve(node);
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
        let sim = &self.nodes[node];
        let change = sim.validity.next_change().map(|at| self.at_unix(node, at));
        let mesh = sim.mesh.poll_timeout().map(|(at, _)| at);
        let due = [sim.pool.poll_timeout(), mesh, change];
        let Some(at) = due.into_iter().flatten().min() else {
            return;
        };
        let sim = &mut self.nodes[node];
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
        self.serve(node);
        self.arm(node);
    }

    /// Puts settings in force at a node.
    pub(super) fn use_settings(&mut self, node: usize, settings: Arc<Settings>) {
        let (in_force, validity) = Validity::of(&settings, self.unix_of(node));
        let sim = &mut self.nodes[node];
        (sim.settings, sim.validity) = (settings, validity);
        sim.in_force = Arc::clone(&in_force);
        sim.pool
            .configure(in_force.of_pool(Aeads::of_this_machine()));
        self.input(node, Input::Config(in_force));
        self.serve(node);
        self.arm(node);
    }

    fn act(&mut self, node: usize, output: Output) {
        let by_bytes = self.plan.fidelity == Fidelity::Bytes;
        match output {
            Output::SendLine { to, line } => {
                self.send_on(node, to, Chunk::Line(line));
            }
            Output::AskRoom { link } if by_bytes => self.nodes[node].pool.ask_room(link),
            Output::AskRoom { link } => self.input(node, Input::Link(LinkReport::Room { link })),
            Output::SendFrame { to, frame } => {
                self.send_on(node, to, Chunk::Frame(frame));
            }
            Output::SendRelayed { to, datagram } => {
                self.send_on(node, to, Chunk::Relayed(datagram));
            }
            Output::Datagram { to, datagram } => self.datagram(node, to, datagram),
            Output::TunWrite(packet) => self.traffic.delivered(node, &packet),
            Output::Resolve {
                node: name,
                host,
                port,
            } => {
                let answer = self.net.names.get(&host);
                let addrs = answer.map(|ip| SocketAddr::new(*ip, port));
                let pool = &mut self.nodes[node].pool;
                let addrs = pool.resolved(&host, port, addrs.into_iter().collect());
                self.input(
                    node,
                    Input::Resolved {
                        node: name,
                        host,
                        addrs,
                    },
                );
            }
            Output::Dial { node: name, addr } if by_bytes => self.nodes[node].pool.dial(name, addr),
            Output::Dial { node: name, addr } => self.dial(node, name, addr, None),
            Output::CancelDial { node: name } if by_bytes => {
                self.nodes[node].pool.cancel_dial(&name);
            }
            Output::CancelDial { node: name } => self.cancel_dial(node, &name),
            Output::Close { link, why } => {
                self.say(&format!("n{node}: closes a link: {why}"));
                if by_bytes {
                    self.nodes[node].pool.close(link);
                } else if let Some(link) = self.nodes[node].links.get(link) {
                    self.close_end(link.end);
                }
            }
            Output::AskPathMtu { to } => self.input(node, Input::PathMtu { to, mtu: 1500 }),
            Output::Publish(snapshot) => self.nodes[node].snapshot = snapshot,
            Output::Remember { .. }
            | Output::Pong { .. }
            | Output::Query { .. }
            | Output::Notice { .. }
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

    /// Opens a connection. `id`: with bytes, the attempt of the node's pool.
    pub(super) fn dial(
        &mut self,
        from: usize,
        name: NodeName,
        addr: SocketAddr,
        id: Option<DialId>,
    ) {
        let conn = self.new_conn();
        if id.is_none() {
            self.nodes[from].dials.insert(name.clone(), conn);
        }
        let dial = Dial {
            conn,
            from,
            life: self.nodes[from].life,
            name,
            addr,
            id,
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
        let cut = self.net.is_way_cut(node, dial.from) || !self.net.is_bound(node);
        if !self.nodes[node].alive || cut {
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
        let seen = SocketAddr::new(self.net.public_ip(dial.from), port);
        let end = |node: usize, life, local, remote| End {
            node,
            life,
            link: None,
            local,
            remote,
            open: true,
            last_arrival: self.now,
            stranger: None,
            stalled: Vec::new(),
            unread: None,
        };
        let far = end(node, self.nodes[node].life, self.own_socket(node), seen);
        let near = end(dial.from, dial.life, near, dial.addr);
        let moves = self.net.moves([dial.from, node]);
        let ends = [near, far];
        self.conns.insert(dial.conn, Conn { ends, moves });
        let far = EndId {
            conn: dial.conn,
            side: 1,
        };
        match self.plan.fidelity {
            Fidelity::Bytes => self.arrives(far),
            Fidelity::Lines => {
                let id = self.nodes[node].ids.insert(());
                self.add_link(far, id, None);
            }
        }
        self.at(self.now + back, Event::Connected { dial });
    }

    fn connected(&mut self, dial: Dial) {
        let end = EndId {
            conn: dial.conn,
            side: 0,
        };
        if let Some(id) = dial.id {
            return self.pool_connected(end, &dial, id);
        }
        let wanted = self.lives(dial.from, dial.life)
            && self.nodes[dial.from].dials.get(&dial.name) == Some(&dial.conn);
        if !wanted || self.nodes[dial.from].credentials(&dial.name).is_none() {
            return self.close_end(end);
        }
        let id = self.nodes[dial.from].ids.insert(());
        self.add_link(end, id, Some((dial.name, dial.addr)));
        self.arm(dial.from);
        let other = self.conns[&end.conn].ends[1].node;
        // ID and KEX, SIG and ACK: one round trip each.
        let done =
            self.now + 3 * self.net.latency(dial.from, other) + self.net.segment(dial.from, other);
        self.at(done, Event::Authenticated { end });
        self.at(done, Event::Authenticated { end: end.other() });
    }

    pub(super) fn own_socket(&self, node: usize) -> SocketAddr {
        let ip = match self.plan.is_behind_nat(node) {
            true => plan::private_ip(node),
            false => self.net.public_ip(node),
        };
        SocketAddr::new(ip, PORT)
    }
}
