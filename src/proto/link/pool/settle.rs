//! The pool's answers: credentials for links that wait, events of links, and the end of a link.

use std::time::Instant;

use meshd_wire::NodeName;

use crate::link::{
    Credentials, LinkEvent, LinkId, Upgraded,
    pool::{
        Conn, ConnStage, DialFault, DialId, LinkLog, LinkReport, Pool, PoolOutput,
        rounds::DialRound,
    },
};

impl Pool {
    /// Takes the answer to [`PoolOutput::NeedCredentials`]: `None` if there is no such node, or no
    /// key of it that may be used now. Handshakes that began with a key that is not among the
    /// credentials any more end.
    pub fn handle_credentials(
        &mut self,
        name: &NodeName,
        theirs: Option<&Credentials>,
        now: Instant,
    ) {
        self.asked.remove(name);
        let dials = self.rounds.dials.iter();
        let dials = dials.filter(|(_, dial)| dial.node == *name);
        for id in dials.map(|(id, _)| id).collect::<Vec<_>>() {
            self.give_dial(id, theirs);
        }
        let concerned = |conn: &Conn| {
            conn.link.needs() == Some(name)
                || conn.given.is_some() && conn.link.peer() == Some(name)
        };
        let conns = self.links.iter().filter(|(_, conn)| concerned(conn));
        for id in conns.map(|(id, _)| id).collect::<Vec<_>>() {
            self.give_link(id, name, theirs, now);
        }
    }

    fn give_dial(&mut self, id: DialId, theirs: Option<&Credentials>) {
        let Some(dial) = self.rounds.dials.get_mut(id) else {
            return;
        };
        let (node, addr) = (dial.node.clone(), dial.addr);
        let Some(theirs) = theirs else {
            self.drop_dial(id);
            let why = format!("no usable public key in hosts/{node}");
            return self.report(LinkReport::DialFailed {
                node,
                addr,
                fault: DialFault::NoKey,
                why,
            });
        };
        if dial.theirs.replace(theirs.clone()).is_none() {
            let dial = id;
            self.outputs
                .push_back(PoolOutput::Connect { dial, node, addr });
        }
    }

    fn give_link(
        &mut self,
        id: LinkId,
        name: &NodeName,
        theirs: Option<&Credentials>,
        now: Instant,
    ) {
        let Some(conn) = self.links.get_mut(id) else {
            return;
        };
        if conn.link.needs().is_some() {
            conn.given = theirs.cloned();
            let theirs = theirs.cloned();
            let theirs = theirs.map(|theirs| self.rounds.accepting(theirs, name, now));
            conn.link.handle_credentials(theirs, &mut self.rsa, now);
            self.touched.insert(id);
        } else if let Some(given) = &conn.given
            && !theirs.is_some_and(|theirs| given.is_within(theirs))
        {
            let why = format!("hosts/{name} does not allow the key of the handshake any more");
            self.down(id, &why, false);
        }
    }

    /// Returns the next output. Poll after every input until `None`.
    #[must_use]
    pub fn poll_output(&mut self, now: Instant) -> Option<PoolOutput> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            let Some(link) = self.touched.pop_first() else {
                let open = self.admission.is_open();
                let changed = std::mem::replace(&mut self.listens, open) != open;
                return changed.then_some(PoolOutput::Listen(open));
            };
            self.settle(link, now);
        }
    }

    /// Handles the events of a link, then takes its output.
    pub(super) fn settle(&mut self, link: LinkId, now: Instant) {
        while let Some(event) = self.links.get_mut(link).and_then(|c| c.link.poll_event()) {
            self.event(link, event, now);
        }
        let Some(conn) = self.links.get_mut(link) else {
            return;
        };
        let bytes = conn.link.take_output();
        if bytes.is_empty() {
            return;
        }
        if matches!(conn.stage, ConnStage::Stranger) {
            // The peer has named a known node, otherwise we would have no answer for it.
            self.admission.spoke(link);
        }
        self.outputs.push_back(PoolOutput::Send { link, bytes });
    }

    fn event(&mut self, link: LinkId, event: LinkEvent, now: Instant) {
        match event {
            LinkEvent::Up(hello) => {
                let Some(conn) = self.links.get_mut(link) else {
                    return;
                };
                (conn.stage, conn.given) = (ConnStage::Up, None);
                let (remote, local) = (conn.remote, conn.local);
                self.admission.remove(link);
                self.log(LinkLog::Authenticated {
                    node: hello.name.clone(),
                    addr: remote,
                    dialect: hello.dialect,
                });
                self.report(LinkReport::Up {
                    link,
                    hello,
                    remote,
                    local,
                });
            }
            LinkEvent::Line(line) => self.report(LinkReport::Line { link, line }),
            LinkEvent::Frame(frame) => self.report(LinkReport::Frame { link, frame }),
            LinkEvent::Relayed(datagram) => self.report(LinkReport::Relayed { link, datagram }),
            LinkEvent::Upgraded(upgraded) => self.end_upgrade(link, upgraded, now),
            LinkEvent::Down(error) => self.down(link, &error.to_string(), error.hold()),
        }
    }

    /// Handles an exchange of Ed25519 keys; another connection may follow. A key that the host file
    /// lacks is stored if LearnKeys allows it.
    fn end_upgrade(&mut self, link: LinkId, upgraded: Upgraded, now: Instant) {
        let Some(conn) = self.links.get(link) else {
            return;
        };
        let Upgraded {
            name,
            key,
            sent_ours,
        } = upgraded;
        let addr = conn.remote;
        let dialled = matches!(conn.stage, ConnStage::Dialled(..));
        let known = conn
            .given
            .as_ref()
            .is_some_and(|theirs| theirs.key.is_some());
        let learn = conn.given.as_ref().is_some_and(|theirs| theirs.learn);
        let node = name.clone();
        match (known, learn) {
            (true, _) => self.log(LinkLog::KeyAccepted { node }),
            (false, true) => self.outputs.push_back(PoolOutput::StoreKey { node, key }),
            (false, false) => self.report(LinkReport::KeyReceived { node, key }),
        }
        self.rounds.note_upgrade(name.clone(), now);
        self.close(link);
        if dialled && sent_ours {
            self.dial_round(name, addr, DialRound::Last);
        } else if dialled {
            let why = format!(
                "{name} has our Ed25519 key and refuses legacy: add `Ed25519PublicKey = {key}` to hosts/{name}, which lacks that line"
            );
            self.report(LinkReport::DialFailed {
                node: name,
                addr,
                fault: DialFault::Handshake,
                why,
            });
        }
    }

    /// Handles a failed link: removes it, or holds an unauthenticated one silently.
    pub(super) fn down(&mut self, link: LinkId, why: &str, hold: bool) {
        let Some(conn) = self.links.get_mut(link) else {
            return;
        };
        let addr = conn.remote;
        let stage = std::mem::replace(&mut conn.stage, ConnStage::Held);
        let (peer, wants_upgrade) = (conn.link.peer().cloned(), conn.link.wants_upgrade());
        conn.given = None;
        if matches!(stage, ConnStage::Stranger) {
            let why = why.to_owned();
            let held = hold;
            self.log(LinkLog::Stranger { addr, why, held });
        }
        let why = why.to_owned();
        match stage {
            ConnStage::Stranger if hold => {
                self.outputs.push_back(PoolOutput::Mute { link });
                if let Some(node) = peer {
                    self.report(LinkReport::Unproven { node, addr, why });
                }
                return;
            }
            ConnStage::Dialled(node, DialRound::First) if wants_upgrade => {
                let upgrading = node.clone();
                self.log(LinkLog::Upgrading {
                    node: upgrading,
                    addr,
                    why,
                });
                self.dial_round(node, addr, DialRound::Upgrade);
            }
            ConnStage::Dialled(node, _) => {
                self.rounds.note_failure(&node);
                self.report(LinkReport::DialFailed {
                    node,
                    addr,
                    fault: DialFault::Handshake,
                    why,
                });
            }
            ConnStage::Up => self.report(LinkReport::Down { link, why }),
            ConnStage::Stranger | ConnStage::Held => {}
        }
        self.drop_link(link);
    }

    /// Forgets a connection and closes it at once.
    pub(super) fn drop_link(&mut self, link: LinkId) {
        self.admission.remove(link);
        if self.links.remove(link).is_some() {
            let after_output = false;
            self.outputs
                .push_back(PoolOutput::Close { link, after_output });
        }
    }

    /// Forgets a dial, and gives up its connection attempt.
    pub(super) fn drop_dial(&mut self, dial: DialId) {
        if let Some(gone) = self.rounds.dials.remove(dial)
            && gone.theirs.is_some()
        {
            self.outputs.push_back(PoolOutput::Abort { dial });
        }
    }

    /// Asks for the credentials of a node, once until the answer.
    pub(super) fn ask(&mut self, name: NodeName) {
        if self.asked.insert(name.clone()) {
            self.outputs.push_back(PoolOutput::NeedCredentials(name));
        }
    }

    pub(super) fn report(&mut self, report: LinkReport) {
        self.outputs.push_back(PoolOutput::Report(report));
    }

    pub(super) fn log(&mut self, log: LinkLog) {
        self.outputs.push_back(PoolOutput::Log(log));
    }
}
