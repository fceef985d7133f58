//! Links with [`Fidelity::Bytes`](crate::Fidelity::Bytes): carries bytes between the pools of the
//! nodes, as the daemon does between its pool and sockets.

use meshd_proto::{
    link::{DialFault, DialId, LinkId, LinkReport, PoolOutput},
    mesh::Input,
};

use crate::{
    conn::{Chunk, EndId},
    plan::Fidelity,
    world::{Dial, World},
};

impl World {
    /// Handles a new connection at the node that listens: it waits in the kernel until the pool
    /// accepts connections.
    pub(super) fn arrives(&mut self, end: EndId) {
        let place = self.conns.get_mut(&end.conn).expect("a new connection");
        let place = &mut place.ends[end.side];
        place.unread = Some(Vec::new());
        let node = place.node;
        self.nodes[node].backlog.push_back(end);
        self.accept_waiting(node);
    }

    /// Passes waiting connections to the pool of a node while it accepts them.
    fn accept_waiting(&mut self, node: usize) {
        while self.nodes[node].listens
            && let Some(end) = self.nodes[node].backlog.pop_front()
        {
            self.pool_accepts(end);
            let place = self.conns.get_mut(&end.conn);
            let unread = place.and_then(|conn| conn.ends[end.side].unread.take());
            for chunk in unread.into_iter().flatten() {
                self.segment(end, chunk);
            }
        }
    }

    /// Passes a new connection to the pool of the node that listens.
    fn pool_accepts(&mut self, end: EndId) {
        let place = &self.conns[&end.conn].ends[end.side];
        let (node, remote, local) = (place.node, place.remote, place.local);
        let sim = &mut self.nodes[node];
        match sim.pool.accept(remote, local, self.now) {
            Some(id) => self.add_link(end, id, None),
            None => self.close_end(end),
        }
        self.serve(node);
        self.check_admission(node);
        self.arm(node);
    }

    pub(super) fn pool_connected(&mut self, end: EndId, dial: &Dial, id: DialId) {
        let local = self.conns.get(&end.conn).map(|conn| conn.ends[0].local);
        let local = local.filter(|_| self.lives(dial.from, dial.life));
        let (pool, now) = (&mut self.nodes[dial.from].pool, self.now);
        match local.and_then(|local| pool.connected(id, local, now)) {
            Some(link) => self.add_link(end, link, None),
            None => self.close_end(end),
        }
        self.serve(dial.from);
        self.arm(dial.from);
    }

    pub(super) fn pool_not_connected(&mut self, dial: &Dial, id: DialId, why: &str) {
        if self.lives(dial.from, dial.life) {
            let pool = &mut self.nodes[dial.from].pool;
            pool.connect_failed(id, DialFault::Silent, why.to_owned());
            self.serve(dial.from);
        }
    }

    pub(super) fn pool_hears(&mut self, node: usize, link: LinkId, bytes: &[u8]) {
        self.nodes[node].pool.received(link, bytes, self.now);
        self.serve(node);
        self.arm(node);
    }

    /// The other end has closed the connection.
    pub(super) fn pool_hears_end(&mut self, end: EndId) {
        let Some((node, link)) = self.open_end(end) else {
            return;
        };
        if let Some(conn) = self.conns.get_mut(&end.conn) {
            conn.ends[end.side].open = false;
        }
        self.nodes[node]
            .pool
            .closed(link, "closed by the other end");
        self.serve(node);
        self.forget(end.conn);
    }

    /// Carries out the outputs of a node's pool.
    pub(super) fn serve(&mut self, node: usize) {
        if self.plan.fidelity == Fidelity::Lines {
            return;
        }
        while let Some(output) = self.nodes[node].pool.poll_output(self.now) {
            match output {
                PoolOutput::Connect {
                    dial,
                    node: name,
                    addr,
                } => self.dial(node, name, addr, Some(dial)),
                PoolOutput::Send { link, bytes } => {
                    let sim = &mut self.nodes[node];
                    sim.pool.written(link, bytes.len());
                    if let Some(end) = sim.links.get(link).map(|link| link.end) {
                        self.transmit(end, Chunk::Bytes(bytes));
                    }
                }
                PoolOutput::Close { link, .. } => self.close_socket(node, link),
                PoolOutput::NeedCredentials(name) => {
                    let theirs = self.nodes[node].credentials(&name);
                    let pool = &mut self.nodes[node].pool;
                    pool.handle_credentials(&name, theirs.as_ref(), self.now);
                }
                PoolOutput::StoreKey { node: name, key } => self.edit(node, |settings| {
                    let host = settings.hosts.entry(name).or_default();
                    std::sync::Arc::make_mut(host).key = Some(key);
                }),
                PoolOutput::Report(report) => self.report(node, report),
                PoolOutput::Log(event) if self.verbose => self.say(&format!("n{node}: {event:?}")),
                PoolOutput::Listen(listens) => {
                    self.nodes[node].listens = listens;
                    self.accept_waiting(node);
                }
                // A connection that comes later is closed then; the pool ignores bytes of a held
                // one.
                PoolOutput::Abort { .. } | PoolOutput::Mute { .. } | PoolOutput::Log(_) => {}
            }
        }
    }

    fn report(&mut self, node: usize, report: LinkReport) {
        match &report {
            LinkReport::Up { link, hello, .. } => {
                self.say(&format!("n{node}: link to {} is up", hello.name));
                if let Some(sim) = self.nodes[node].links.get_mut(*link) {
                    sim.up = true;
                    self.made += u64::from(sim.end.side == 0);
                }
            }
            LinkReport::Down { link, why } => {
                self.say(&format!("n{node}: link down: {why}"));
                if let Some(sim) = self.nodes[node].links.get_mut(*link) {
                    sim.up = false;
                    self.cut += u64::from(sim.end.side == 0);
                }
            }
            LinkReport::Line { line, .. } => {
                self.lines += 1;
                if self.verbose {
                    self.say(&format!("n{node} <- {line:?}"));
                }
            }
            _ => {}
        }
        self.input(node, Input::Link(report));
    }

    /// Closes a connection of which the pool has forgotten the link.
    fn close_socket(&mut self, node: usize, link: LinkId) {
        let Some(sim) = self.nodes[node].links.remove(link) else {
            return;
        };
        if sim.up {
            self.changed = self.now;
            self.cut += u64::from(sim.end.side == 0);
        }
        let Some(conn) = self.conns.get_mut(&sim.end.conn) else {
            return;
        };
        let place = &mut conn.ends[sim.end.side];
        place.link = None;
        if std::mem::replace(&mut place.open, false) {
            self.transmit(sim.end, Chunk::Fin);
        }
    }
}
