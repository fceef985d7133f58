//! All meta connections of a node, without sockets: admission of strangers, dials and their rounds,
//! choice of keys, links, and the end of each.
//!
//! The shell passes connections, bytes, credentials and the time in. It polls [`PoolOutput`]s after
//! every input and carries them out in order. Links get lines from the mesh, and the pool reports to
//! the mesh ([`LinkReport`]). Source: proto/threat-model.md sections 4 and 5.6.

pub mod admission;
mod known;
mod output;
mod rounds;
mod settle;
#[cfg(test)]
mod tests;

pub use output::{DialFault, LinkLog, LinkReport, PoolOutput};
pub use rounds::{DialId, UPGRADE_EVERY};

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use slotmap::SlotMap;

use meshd_crypto::Rng;
use meshd_wire::NodeName;

use crate::link::{
    Credentials, Identity, Link, LinkId, ROOM_LEFT, RsaBudget,
    pool::{
        admission::{Admission, Admitted},
        known::KnownAddrs,
        rounds::{Dial, DialRound, Rounds},
    },
};

/// Settings of a pool.
#[derive(Clone)]
pub struct PoolSettings {
    /// Our identity.
    pub identity: Arc<Identity>,
    /// Longest time of a handshake: PingTimeout, but at most [`MAX_AUTH`](crate::link::MAX_AUTH).
    pub limit: Duration,
    /// Numeric addresses of known nodes: those of host files, and those that worked before.
    pub known: BTreeSet<IpAddr>,
}

/// All meta connections and dials of a node.
pub struct Pool {
    identity: Arc<Identity>,
    /// Longest time of a handshake.
    limit: Duration,
    links: SlotMap<LinkId, Conn>,
    rounds: Rounds,
    admission: Admission,
    known: KnownAddrs,
    /// Content of the last [`PoolOutput::Listen`]; at first the shell does not accept.
    listens: bool,
    rsa: RsaBudget,
    /// Names in [`PoolOutput::NeedCredentials`] without an answer.
    asked: BTreeSet<NodeName>,
    /// Links with output or events.
    touched: BTreeSet<LinkId>,
    outputs: VecDeque<PoolOutput>,
    rng: Rng,
}

struct Conn {
    link: Link,
    stage: ConnStage,
    remote: SocketAddr,
    local: SocketAddr,
    /// Credentials of the other end during the handshake, as the shell gave them.
    given: Option<Credentials>,
    /// Bytes that the kernel must accept before the mesh gets its room report, if it asked.
    ahead: Option<usize>,
}

enum ConnStage {
    /// An incoming unauthenticated connection.
    Stranger,
    /// A connection that we dialled to this node.
    Dialled(NodeName, DialRound),
    /// A connection that the mesh knows.
    Up,
    /// An unauthenticated connection that misbehaved: silent until its time expires, then closed.
    Held,
}

impl Pool {
    /// Makes a pool without connections.
    #[must_use]
    pub fn new(settings: PoolSettings, rng: Rng, now: Instant) -> Self {
        let mut known = KnownAddrs::default();
        known.configure(settings.known);
        Self {
            identity: settings.identity,
            limit: settings.limit,
            links: SlotMap::with_key(),
            rounds: Rounds::default(),
            admission: Admission::new(now),
            known,
            listens: false,
            rsa: RsaBudget::new(now),
            asked: BTreeSet::new(),
            touched: BTreeSet::new(),
            outputs: VecDeque::new(),
            rng,
        }
    }

    /// Uses other settings for new connections. Asks again for the credentials of every handshake,
    /// because a host file may have changed, expired or be revoked.
    pub fn configure(&mut self, settings: PoolSettings) {
        (self.identity, self.limit) = (settings.identity, settings.limit);
        self.known.configure(settings.known);
        let conns = self.links.values().filter(|conn| conn.given.is_some());
        let shaking = conns.filter_map(|conn| conn.link.peer());
        let dials = self.rounds.dials.values();
        let dialled = dials.filter(|dial| dial.theirs.is_some());
        let names = shaking.chain(dialled.map(|dial| &dial.node));
        for name in names.cloned().collect::<BTreeSet<_>>() {
            self.ask(name);
        }
    }

    /// Adds 32 fresh random bytes.
    pub fn add_entropy(&mut self, entropy: &[u8; 32]) {
        self.rng.add_entropy(entropy);
    }

    /// Handles the answer of a name server for a host name of some host file: connections from its
    /// addresses count as those of a known node. Returns the addresses to dial, with this port: those
    /// of the answer, or of the last answer that had any.
    #[must_use]
    pub fn resolved(&mut self, host: &str, port: u16, addrs: Vec<SocketAddr>) -> Vec<SocketAddr> {
        self.known.resolved(host, port, addrs)
    }

    /// Handles an incoming connection; `None` if it is refused: the shell closes it.
    pub fn accept(
        &mut self,
        remote: SocketAddr,
        local: SocketAddr,
        now: Instant,
    ) -> Option<LinkId> {
        let known = self.known.contains(remote.ip());
        let identity = Arc::clone(&self.identity);
        let link = Link::accept(identity, self.limit, self.rng.fork(), now);
        let link = if known { link.from_known() } else { link };
        let id = self.links.insert(Conn {
            link,
            stage: ConnStage::Stranger,
            remote,
            local,
            given: None,
            ahead: None,
        });
        let replaces = match self.admission.admit(id, remote.ip(), known, now) {
            Admitted::Yes => false,
            Admitted::InsteadOf(old) => {
                self.drop_link(old);
                true
            }
            Admitted::No => {
                self.log(LinkLog::Refused { addr: remote });
                self.links.remove(id);
                return None;
            }
        };
        let addr = remote;
        self.log(LinkLog::Accepted { addr, replaces });
        Some(id)
    }

    /// Returns the number of unauthenticated accepted connections, held ones included.
    #[must_use]
    pub fn strangers(&self) -> usize {
        let stranger = |stage: &ConnStage| matches!(stage, ConnStage::Stranger | ConnStage::Held);
        let conns = self.links.values();
        conns.filter(|conn| stranger(&conn.stage)).count()
    }

    /// Starts an attempt to reach a node. [`LinkReport::Up`] or [`LinkReport::DialFailed`] follows.
    pub fn dial(&mut self, node: NodeName, addr: SocketAddr) {
        self.dial_round(node, addr, DialRound::First);
    }

    fn dial_round(&mut self, node: NodeName, addr: SocketAddr, round: DialRound) {
        self.rounds.dials.insert(Dial {
            node: node.clone(),
            addr,
            round,
            theirs: None,
        });
        self.ask(node);
    }

    /// Cancels dials and handshakes with a node.
    pub fn cancel_dial(&mut self, node: &NodeName) {
        let dials = self.rounds.dials.iter();
        let of_node = dials.filter(|(_, dial)| dial.node == *node);
        for id in of_node.map(|(id, _)| id).collect::<Vec<_>>() {
            self.drop_dial(id);
        }
        let dialled =
            |stage: &ConnStage| matches!(stage, ConnStage::Dialled(name, _) if name == node);
        let conns = self.links.iter();
        let shaking = conns.filter(|(_, conn)| dialled(&conn.stage));
        for id in shaking.map(|(id, _)| id).collect::<Vec<_>>() {
            self.drop_link(id);
        }
    }

    /// Handles the success of [`PoolOutput::Connect`]. `local` is our address on the connection.
    /// Returns `None` if the attempt was given up: the shell closes the connection.
    pub fn connected(&mut self, dial: DialId, local: SocketAddr, now: Instant) -> Option<LinkId> {
        let dial = self.rounds.dials.remove(dial)?;
        let given = dial.theirs?;
        let (node, round) = (dial.node, dial.round);
        let theirs = self.rounds.dialling(given.clone(), &node, round, now);
        let link = Link::dial(
            Arc::clone(&self.identity),
            node.clone(),
            theirs,
            self.limit,
            self.rng.fork(),
            now,
        );
        let id = self.links.insert(Conn {
            link,
            stage: ConnStage::Dialled(node, round),
            remote: dial.addr,
            local,
            given: Some(given),
            ahead: None,
        });
        self.touched.insert(id);
        Some(id)
    }

    /// Handles the failure of [`PoolOutput::Connect`].
    pub fn connect_failed(&mut self, dial: DialId, fault: DialFault, why: String) {
        if let Some(Dial { node, addr, .. }) = self.rounds.dials.remove(dial) {
            self.report(LinkReport::DialFailed {
                node,
                addr,
                fault,
                why,
            });
        }
    }

    /// Handles received bytes.
    pub fn received(&mut self, link: LinkId, data: &[u8], now: Instant) {
        let Some(conn) = self.links.get_mut(link) else {
            return;
        };
        conn.link.handle_bytes(data, &mut self.rsa, now);
        let needs = conn.link.needs().cloned();
        // A key that the node sent here counts for its next connection.
        self.settle(link, now);
        if let Some(name) = needs {
            self.ask(name);
        }
    }

    /// Handles bytes that the kernel accepted.
    pub fn written(&mut self, link: LinkId, count: usize) {
        let Some(conn) = self.links.get_mut(link) else {
            return;
        };
        conn.link.written(count);
        let ahead = conn.ahead.map(|ahead| ahead.saturating_sub(count));
        conn.ahead = ahead.filter(|ahead| *ahead > ROOM_LEFT);
        if ahead.is_some() && conn.ahead.is_none() {
            self.report(LinkReport::Room { link });
        }
    }

    /// Asks for [`LinkReport::Room`] when the kernel has accepted all present output of a link but
    /// [`ROOM_LEFT`] bytes.
    pub fn ask_room(&mut self, link: LinkId) {
        let Some(conn) = self.links.get_mut(link) else {
            return;
        };
        let queued = conn.link.queued();
        conn.ahead = (queued > ROOM_LEFT).then_some(queued);
        if conn.ahead.is_none() {
            self.report(LinkReport::Room { link });
        }
    }

    /// Handles a failed or closed socket.
    pub fn closed(&mut self, link: LinkId, why: &str) {
        self.down(link, why, false);
    }

    /// Returns our address of every connection.
    #[must_use]
    pub fn locals(&self) -> BTreeSet<SocketAddr> {
        let conns = self.links.values();
        conns
            .map(|conn| SocketAddr::new(conn.local.ip(), 0))
            .collect()
    }

    /// Ends all connections from an address that this machine no longer has: nothing comes back on
    /// them.
    pub fn address_gone(&mut self, ip: IpAddr) {
        let conns = self.links.iter();
        let gone = conns.filter(|(_, conn)| conn.local.ip() == ip);
        for link in gone.map(|(link, _)| link).collect::<Vec<_>>() {
            self.down(link, "the local address is gone", false);
        }
    }

    /// Returns the node of a connection, and both ends' addresses, ours first.
    #[must_use]
    pub fn ends(&self, link: LinkId) -> Option<(&NodeName, [SocketAddr; 2])> {
        let conn = self.links.get(link)?;
        Some((conn.link.peer()?, [conn.local, conn.remote]))
    }

    /// Queues a line.
    pub fn send_line(&mut self, link: LinkId, line: &[u8]) {
        if let Some(conn) = self.links.get_mut(link) {
            conn.link.send_line(line);
            self.touched.insert(link);
        }
    }

    /// Queues a frame. Returns `false` if it was dropped.
    pub fn send_frame(&mut self, link: LinkId, frame: &[u8]) -> bool {
        self.touched.insert(link);
        let conn = self.links.get_mut(link);
        conn.is_some_and(|conn| conn.link.send_frame(frame))
    }

    /// Queues a relay datagram. Returns `false` if it was dropped.
    pub fn send_relayed(&mut self, link: LinkId, datagram: &[u8]) -> bool {
        self.touched.insert(link);
        let conn = self.links.get_mut(link);
        conn.is_some_and(|conn| conn.link.send_relayed(datagram))
    }

    /// Closes a link for the mesh, after its pending output.
    pub fn close(&mut self, link: LinkId) {
        if let Some(mut conn) = self.links.remove(link) {
            self.admission.remove(link);
            let bytes = conn.link.take_output();
            if !bytes.is_empty() {
                self.outputs.push_back(PoolOutput::Send { link, bytes });
            }
            let after_output = true;
            self.outputs
                .push_back(PoolOutput::Close { link, after_output });
        }
    }

    /// Returns the queued bytes of all links.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.links.values().map(|conn| conn.link.queued()).sum()
    }

    /// Handles deadlines of handshakes, of unauthenticated connections and of keys.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (id, conn) in &mut self.links {
            if conn.link.poll_timeout().is_some_and(|due| due <= now) {
                conn.link.handle_timeout(now);
                self.touched.insert(id);
            }
        }
        for id in self.admission.expired(now) {
            self.drop_link(id);
        }
    }

    /// Returns the next time for [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let links = self.links.values();
        let due = links.filter_map(|conn| conn.link.poll_timeout());
        due.chain(self.admission.poll_timeout()).min()
    }
}
