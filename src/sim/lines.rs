//! Links with [`Fidelity::Lines`](crate::Fidelity::Lines): authentication always succeeds, and request
//! lines go from mesh to mesh.

use meshd_proto::{
    link::{DialFault, Dialect, Hello, LinkId},
    mesh::{Input, LinkReport},
};
use meshd_wire::Options;

use crate::{
    conn::{Chunk, EndId},
    world::{Dial, World},
};

impl World {
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
            Input::Link(LinkReport::Up {
                link,
                hello,
                remote,
                local,
            }),
        );
    }

    /// Closes an end because the other one is gone, and tells its node.
    pub(super) fn hang_up(&mut self, end: EndId, why: &str) {
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
                self.input(node, Input::Link(LinkReport::Down { link, why }));
            }
            Some((name, addr)) => {
                self.nodes[node].dials.remove(&name);
                self.input(
                    node,
                    Input::Link(LinkReport::DialFailed {
                        node: name,
                        addr,
                        fault: DialFault::Silent,
                        why: why.into(),
                    }),
                );
            }
            None => {}
        }
        self.forget(end.conn);
    }

    /// Handles a dial that failed before there was a connection.
    pub(super) fn refused(&mut self, dial: &Dial, why: &str) {
        if let Some(id) = dial.id {
            return self.pool_not_connected(dial, id, why);
        }
        let Dial {
            from,
            life,
            conn,
            name,
            addr,
            ..
        } = dial.clone();
        if self.lives(from, life) && self.nodes[from].dials.get(&name) == Some(&conn) {
            self.nodes[from].dials.remove(&name);
            self.input(
                from,
                Input::Link(LinkReport::DialFailed {
                    node: name,
                    addr,
                    fault: DialFault::Silent,
                    why: why.into(),
                }),
            );
        }
    }
}
