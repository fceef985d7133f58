//! Links of all nodes: chunks over simulated TCP.

use std::{net::SocketAddr, time::Duration};

use meshd_proto::{
    link::{Dialect, Hello, Link, LinkEvent},
    mesh::{Input, LinkId, reports::view::DialFault},
};
use meshd_wire::{NodeName, Options};

use crate::{
    conn::{Chunk, EndId},
    node::SimLink,
    plan::Fidelity,
    world::{Dial, Event, World},
};

/// Longest wait of TCP before it sends again after the network came back.
const RESEND: Duration = Duration::from_secs(1);

impl World {
    /// Adds one end of a connection to its node.
    pub(super) fn add_link(
        &mut self,
        end: EndId,
        link: Option<Link>,
        dialled: Option<(NodeName, SocketAddr)>,
    ) -> LinkId {
        let started = self.now;
        let place = &mut self
            .conns
            .get_mut(&end.conn)
            .expect("a new connection")
            .ends[end.side];
        let sim = SimLink {
            end,
            link,
            up: false,
            started,
            dialled,
        };
        let id = self.nodes[place.node].links.insert(sim);
        place.link = Some(id);
        id
    }

    /// With lines: one end authenticates the other.
    pub(super) fn authenticated(&mut self, end: EndId) {
        let Some((node, id)) = self.open_end(end) else {
            return;
        };
        let other = self.conns[&end.conn].ends[end.other().side].node;
        let (name, started) = (
            self.nodes[other].settings.name.clone(),
            self.nodes[node].links[id].started,
        );
        if self.nodes[node].links[id]
            .dialled
            .as_ref()
            .is_some_and(|(dialled, _)| *dialled != name)
        {
            self.hang_up(end, "somebody else answers");
            return self.transmit(end, Chunk::Fin);
        }
        let (minor, outgoing) = (Options::OUR_MINOR, end.side == 0);
        let other = super::model::number(name.as_str());
        let native = other.is_ok_and(|other| self.plan.speaks_native(other));
        self.link_up(
            node,
            id,
            Hello {
                name,
                minor,
                dialect: match native && self.plan.speaks_native(node) {
                    true => Dialect::Native,
                    false => Dialect::Sptps,
                },
                outgoing,
                started,
            },
        );
    }

    fn link_up(&mut self, node: usize, link: LinkId, hello: Hello) {
        let sim = &mut self.nodes[node].links[link];
        sim.up = true;
        let end = sim.end;
        self.made += u64::from(end.side == 0);
        if let Some((name, _)) = &sim.dialled {
            let name = name.clone();
            self.nodes[node].dials.remove(&name);
        }
        let end = &self.conns[&end.conn].ends[end.side];
        let (remote, local) = (end.remote, end.local);
        self.say(&format!("n{node}: link to {} is up", hello.name));
        self.input(
            node,
            Input::LinkUp {
                link,
                hello,
                remote,
                local,
            },
        );
    }

    /// Returns the node and link of an end that is open in the node's current life.
    fn open_end(&self, end: EndId) -> Option<(usize, LinkId)> {
        let end = &self.conns.get(&end.conn)?.ends[end.side];
        let id = end
            .link
            .filter(|_| end.open && self.lives(end.node, end.life))?;
        Some((end.node, id))
    }

    /// Handles a chunk of a stream that arrives at `end`.
    pub(super) fn segment(&mut self, end: EndId, chunk: Chunk) {
        let Some((node, link)) = self.open_end(end) else {
            return self.unknown_segment(end, &chunk);
        };
        match chunk {
            Chunk::Fin => self.hang_up(end, "closed by the other end"),
            Chunk::Bytes(bytes) => {
                self.bytes(node, link, &bytes);
                self.link_events(node, link);
                self.arm(node);
            }
            Chunk::Line(line) => self.line(node, link, line),
            Chunk::Frame(frame) => self.input(node, Input::Frame { link, frame }),
            Chunk::Relayed(datagram) => self.input(node, Input::Relayed { link, datagram }),
        }
    }

    fn bytes(&mut self, node: usize, id: LinkId, bytes: &[u8]) {
        let (sim, now) = (&mut self.nodes[node], self.now);
        let Some(link) = sim.links[id].link.as_mut() else {
            return;
        };
        link.handle_bytes(bytes, &mut sim.rsa, now);
        if let Some(name) = link.needs() {
            let hosts = &sim.settings.hosts;
            let theirs = hosts.get(name).and_then(|h| sim.settings.credentials(h));
            link.handle_credentials(theirs, &mut sim.rsa, now);
        }
    }

    /// Answers a chunk of an unknown connection: a running kernel resets it, a node without power
    /// is silent.
    fn unknown_segment(&mut self, end: EndId, chunk: &Chunk) {
        let Some(conn) = self.conns.get(&end.conn) else {
            return;
        };
        let answers = self.nodes[conn.ends[end.side].node].alive;
        if answers && conn.ends[end.other().side].open && !matches!(chunk, Chunk::Fin) {
            self.transmit(end, Chunk::Fin);
        }
    }

    fn line(&mut self, node: usize, link: LinkId, line: bytes::Bytes) {
        self.lines += 1;
        if self.verbose && self.plan.fidelity == Fidelity::Bytes {
            let from = self.nodes[node].links[link].end.other();
            let from = self
                .conns
                .get(&from.conn)
                .map(|conn| conn.ends[from.side].node);
            self.say(&format!(
                "n{node} <- n{}: {line:?}",
                from.unwrap_or_default()
            ));
        }
        self.input(node, Input::Line { link, line });
    }

    /// With bytes: handles the events of a link, then sends its output.
    pub(super) fn link_events(&mut self, node: usize, id: LinkId) {
        loop {
            let link = self.nodes[node]
                .links
                .get_mut(id)
                .and_then(|link| link.link.as_mut());
            let Some(event) = link.and_then(Link::poll_event) else {
                break;
            };
            match event {
                LinkEvent::Up(hello) => self.link_up(node, id, hello),
                LinkEvent::Line(line) => self.line(node, id, line),
                LinkEvent::Frame(frame) => self.input(node, Input::Frame { link: id, frame }),
                LinkEvent::Relayed(datagram) => {
                    self.input(node, Input::Relayed { link: id, datagram });
                }
                LinkEvent::Down(error) => self.end_link(node, id, &error.to_string()),
                LinkEvent::Upgraded(_) => self.end_link(node, id, "Ed25519 keys were told"),
            }
        }
        self.flush(node, id);
    }

    fn end_link(&mut self, node: usize, id: LinkId, why: &str) {
        self.flush(node, id);
        let end = self.nodes[node].links[id].end;
        self.hang_up(end, why);
        self.transmit(end, Chunk::Fin);
    }

    /// With bytes: sends the output of a link.
    pub(super) fn flush(&mut self, node: usize, id: LinkId) {
        let Some(sim) = self.nodes[node].links.get_mut(id) else {
            return;
        };
        let Some(link) = sim.link.as_mut() else {
            return;
        };
        let bytes = link.take_output();
        link.written(bytes.len());
        let end = sim.end;
        if !bytes.is_empty() {
            self.transmit(end, Chunk::Bytes(bytes));
        }
    }

    /// Sends a line, frame or relayed datagram: with bytes through the link, with lines as it is.
    pub(super) fn send_on(
        &mut self,
        node: usize,
        id: LinkId,
        chunk: Chunk,
        send: impl FnOnce(&mut Link, &[u8]),
    ) {
        let Some(sim) = self.nodes[node].links.get_mut(id) else {
            return;
        };
        let end = sim.end;
        match (&mut sim.link, &chunk) {
            (Some(link), Chunk::Line(data) | Chunk::Frame(data) | Chunk::Relayed(data)) => {
                send(link, data);
            }
            _ => self.transmit(end, chunk),
        }
    }

    /// Sends from `end` to the other end. A chunk on a cut path waits until the network is healed.
    pub(super) fn transmit(&mut self, end: EndId, chunk: Chunk) {
        let Some(conn) = self.conns.get_mut(&end.conn) else {
            return;
        };
        let to = end.other();
        let (from, there) = (conn.ends[end.side].node, &mut conn.ends[to.side]);
        if self.net.is_tcp_cut(from, there.node) {
            return there.stalled.push(chunk);
        }
        let at = (self.now + self.net.segment(from, there.node)).max(there.last_arrival);
        there.last_arrival = at;
        self.at(at, Event::Segment { end: to, chunk });
        self.forget(end.conn);
    }

    /// Sends the waiting chunks after the network was healed.
    pub(super) fn send_stalled(&mut self) {
        let now = self.now;
        let mut again = Vec::new();
        for (conn, both) in &mut self.conns {
            for (side, end) in both.ends.iter_mut().enumerate() {
                if !end.stalled.is_empty() {
                    end.last_arrival = end.last_arrival.max(now + self.net.some(RESEND));
                    let from = EndId { conn: *conn, side }.other();
                    again.extend(end.stalled.drain(..).map(|chunk| (from, chunk)));
                }
            }
        }
        for (end, chunk) in again {
            self.transmit(end, chunk);
        }
    }

    /// Closes an end on its node's request; the node gets no event.
    pub(super) fn close_end(&mut self, end: EndId) {
        let Some(place) = self
            .conns
            .get_mut(&end.conn)
            .map(|conn| &mut conn.ends[end.side])
        else {
            return;
        };
        place.open = false;
        if let Some(id) = place.link.take() {
            let node = place.node;
            self.flush(node, id);
            if let Some(link) = self.nodes[node].links.remove(id)
                && link.up
            {
                self.changed = self.now;
                self.cut += u64::from(end.side == 0);
            }
        }
        self.transmit(end, Chunk::Fin);
    }

    /// Closes an end because the other one is gone, and tells its node.
    fn hang_up(&mut self, end: EndId, why: &str) {
        let Some((node, link)) = self.open_end(end) else {
            return;
        };
        let place = &mut self.conns.get_mut(&end.conn).expect("its end is open").ends[end.side];
        (place.open, place.link) = (false, None);
        let Some(sim) = self.nodes[node].links.remove(link) else {
            return;
        };
        match sim.dialled {
            _ if sim.up => {
                self.cut += u64::from(end.side == 0);
                self.say(&format!("n{node}: link down: {why}"));
                let why = why.into();
                self.input(node, Input::LinkDown { link, why });
            }
            Some((name, addr)) => {
                self.nodes[node].dials.remove(&name);
                self.input(
                    node,
                    Input::DialFailed {
                        node: name,
                        addr,
                        fault: DialFault::Silent,
                        why: why.into(),
                    },
                );
            }
            None => {}
        }
        self.forget(end.conn);
    }

    /// Handles a dial that failed before there was a connection.
    pub(super) fn refused(&mut self, dial: &Dial, why: &str) {
        let Dial {
            from,
            life,
            conn,
            name,
            addr,
        } = dial.clone();
        if self.lives(from, life) && self.nodes[from].dials.get(&name) == Some(&conn) {
            self.nodes[from].dials.remove(&name);
            self.input(
                from,
                Input::DialFailed {
                    node: name,
                    addr,
                    fault: DialFault::Silent,
                    why: why.into(),
                },
            );
        }
    }

    /// Forgets a connection that is closed at both ends.
    fn forget(&mut self, conn: u64) {
        if self
            .conns
            .get(&conn)
            .is_some_and(|conn| conn.ends.iter().all(|end| !end.open))
        {
            self.conns.remove(&conn);
        }
    }
}
