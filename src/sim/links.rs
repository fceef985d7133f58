//! Simulated TCP: chunks between the ends of connections.

use std::{net::SocketAddr, time::Duration};

use meshd_proto::{
    link::LinkId,
    mesh::{Input, LinkReport},
};
use meshd_wire::NodeName;

use crate::{
    conn::{Chunk, EndId},
    node::SimLink,
    plan::Fidelity,
    world::{Event, World},
};

/// Longest wait of TCP before it sends again after the network came back.
const RESEND: Duration = Duration::from_secs(1);

impl World {
    /// Adds one end of a connection to its node. `dialled`: with lines, the dialled node.
    pub(super) fn add_link(
        &mut self,
        end: EndId,
        id: LinkId,
        dialled: Option<(NodeName, SocketAddr)>,
    ) {
        let started = self.now;
        let place = &mut self
            .conns
            .get_mut(&end.conn)
            .expect("a new connection")
            .ends[end.side];
        let sim = SimLink {
            end,
            up: false,
            started,
            dialled,
        };
        self.nodes[place.node].links.insert(id, sim);
        place.link = Some(id);
    }

    /// Returns the node and link of an end that is open in the node's current life.
    pub(super) fn open_end(&self, end: EndId) -> Option<(usize, LinkId)> {
        let end = &self.conns.get(&end.conn)?.ends[end.side];
        let id = end
            .link
            .filter(|_| end.open && self.lives(end.node, end.life))?;
        Some((end.node, id))
    }

    /// Handles a chunk of a stream that arrives at `end`.
    pub(super) fn segment(&mut self, end: EndId, chunk: Chunk) {
        if self.stranger_hears(end, &chunk) {
            return;
        }
        let conn = self.conns.get_mut(&end.conn);
        if let Some(unread) = conn.and_then(|conn| conn.ends[end.side].unread.as_mut()) {
            return unread.push(chunk);
        }
        let Some((node, link)) = self.open_end(end) else {
            return self.unknown_segment(end, &chunk);
        };
        match chunk {
            Chunk::Fin if self.plan.fidelity == Fidelity::Bytes => self.pool_hears_end(end),
            Chunk::Fin => self.hang_up(end, "closed by the other end"),
            Chunk::Bytes(bytes) => self.pool_hears(node, link, &bytes),
            Chunk::Line(line) => {
                self.lines += 1;
                self.input(node, Input::Link(LinkReport::Line { link, line }));
            }
            Chunk::Frame(frame) => self.input(node, Input::Link(LinkReport::Frame { link, frame })),
            Chunk::Relayed(datagram) => {
                self.input(node, Input::Link(LinkReport::Relayed { link, datagram }))
            }
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

    /// Sends a line, frame or relayed datagram: with bytes through the pool, with lines as it is.
    pub(super) fn send_on(&mut self, node: usize, id: LinkId, chunk: Chunk) {
        if let Chunk::Line(line) = &chunk {
            self.said[node].add(line.len());
        }
        let sim = &mut self.nodes[node];
        match (self.plan.fidelity, &chunk) {
            (Fidelity::Bytes, Chunk::Line(line)) => sim.pool.send_line(id, line),
            (Fidelity::Bytes, Chunk::Frame(frame)) => {
                sim.pool.send_frame(id, frame);
            }
            (Fidelity::Bytes, Chunk::Relayed(datagram)) => {
                sim.pool.send_relayed(id, datagram);
            }
            _ => {
                if let Some(end) = sim.links.get(id).map(|link| link.end) {
                    self.transmit(end, chunk);
                }
            }
        }
    }

    /// Sends from `end` to the other end. A chunk on a cut path waits until the network is healed.
    pub(super) fn transmit(&mut self, end: EndId, chunk: Chunk) {
        let Some(conn) = self.conns.get_mut(&end.conn) else {
            return;
        };
        let to = end.other();
        let moves = self.net.moves([conn.ends[0].node, conn.ends[1].node]);
        if moves != conn.moves {
            // Behind a NAT the old connection comes from an address that the other end does not
            // know: it is reset.
            if moves[end.side] != conn.moves[end.side] && !matches!(chunk, Chunk::Fin) {
                let at = self.now + 2 * self.net.latency(conn.ends[0].node, conn.ends[1].node);
                let chunk = Chunk::Fin;
                self.at(at, Event::Segment { end, chunk });
            }
            return;
        }
        let (from, there) = (conn.ends[end.side].node, &mut conn.ends[to.side]);
        if self.net.is_way_cut(from, there.node) {
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
        (place.open, place.unread) = (false, None);
        if let Some(id) = place.link.take() {
            let node = place.node;
            if let Some(link) = self.nodes[node].links.remove(id)
                && link.up
            {
                self.changed = self.now;
                self.cut += u64::from(end.side == 0);
            }
        }
        self.transmit(end, Chunk::Fin);
    }

    /// Forgets a connection that is closed at both ends.
    pub(super) fn forget(&mut self, conn: u64) {
        if self
            .conns
            .get(&conn)
            .is_some_and(|conn| conn.ends.iter().all(|end| !end.open))
        {
            self.conns.remove(&conn);
        }
    }
}
