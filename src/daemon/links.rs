//! The driver's meta connections: their sockets, the [`Link`] that each feeds, and their failures.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use slotmap::SlotMap;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::AbortHandle,
};

use meshd_crypto::Rng;
use meshd_dataplane::io::udp::{SocketOptions, canonical};
use meshd_proto::{
    link::{Credentials, Identity, Link, LinkEvent, RsaBudget, Upgrade, Upgraded},
    mesh::{Input, LinkId, event::ROOM_LEFT, reports::view::DialFault},
};
use meshd_wire::NodeName;

use crate::{
    Event,
    conn::{
        self, Wire,
        admission::{Admission, Admitted},
    },
    keyring::HostKeys,
};

/// All meta connections and pending dials.
pub(super) struct Links {
    conns: SlotMap<LinkId, Conn>,
    dials: BTreeMap<u64, Dial>,
    dials_made: u64,
    /// Number of failed handshakes with a node that we dialled. The next attempt uses the node's next native key,
    /// because the node may be changing keys.
    failed: BTreeMap<NodeName, usize>,
    admission: Admission,
    rsa: RsaBudget,
    /// True if the listening sockets are read.
    open: watch::Sender<bool>,
    /// Links with output or events.
    touched: BTreeSet<LinkId>,
    /// Received Ed25519 keys that the driver has not taken yet.
    upgraded: Vec<Upgraded>,
    outward: Outward,
    rng: Rng,
    events: mpsc::Sender<Event>,
}

/// Parameters of outgoing connections.
pub(super) struct Outward {
    /// Our identity.
    pub(super) identity: Arc<Identity>,
    /// Firewall mark and interface of sockets.
    pub(super) options: SocketOptions,
    /// Source addresses.
    pub(super) bind: Vec<SocketAddr>,
    /// Longest time to connect, and then for the handshake: PingTimeout.
    pub(super) limit: Duration,
}

struct Conn {
    link: Link,
    wire: Wire,
    stage: Stage,
    remote: SocketAddr,
    local: SocketAddr,
    /// Bytes that the kernel must accept before the mesh gets its room event, if it asked.
    ahead: Option<usize>,
}

enum Stage {
    /// An incoming unauthenticated connection.
    Stranger,
    /// A connection that we dialled to this node.
    Dialled(NodeName, Round),
    /// A connection that the mesh knows.
    Up,
    /// An unauthenticated connection that misbehaved: silent until its time expires, then closed.
    Held,
}

/// Connection within one attempt to reach a node. Later connections serve nodes where one side lacks the other's
/// Ed25519 key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    First,
    /// Exchange keys.
    Upgrade,
    /// Use the exchanged keys.
    Last,
}

struct Dial {
    node: NodeName,
    addr: SocketAddr,
    round: Round,
    task: AbortHandle,
}

impl Links {
    /// Starts without connections; accepts none until [`Self::flush`].
    #[must_use]
    pub(super) fn new(
        outward: Outward,
        rng: Rng,
        events: mpsc::Sender<Event>,
        now: Instant,
    ) -> Self {
        Self {
            conns: SlotMap::with_key(),
            dials: BTreeMap::new(),
            dials_made: 0,
            failed: BTreeMap::new(),
            admission: Admission::new(now),
            rsa: RsaBudget::new(now),
            open: watch::Sender::new(false),
            touched: BTreeSet::new(),
            upgraded: Vec::new(),
            outward,
            rng,
            events,
        }
    }

    /// Tells accepting tasks whether to read their sockets.
    #[must_use]
    pub(super) fn open(&self) -> watch::Receiver<bool> {
        self.open.subscribe()
    }

    /// Changes our identity and the time limits of new connections.
    pub(super) fn configure(&mut self, identity: Arc<Identity>, limit: Duration) {
        self.outward.identity = identity;
        self.outward.limit = limit;
    }

    /// Adds 32 fresh random bytes.
    pub(super) fn add_entropy(&mut self, entropy: &[u8; 32]) {
        self.rng.add_entropy(entropy);
    }

    /// Handles an incoming connection. `known`: from an address of a known node.
    pub(super) fn accepted(
        &mut self,
        stream: TcpStream,
        remote: SocketAddr,
        known: bool,
        now: Instant,
    ) {
        let Ok(local) = stream.local_addr().map(canonical) else {
            return;
        };
        let link = Link::accept(
            Arc::clone(&self.outward.identity),
            self.outward.limit,
            self.rng.fork(),
            now,
        );
        let link = if known { link.from_known() } else { link };
        let events = &self.events;
        let id = self.conns.insert_with_key(|id| Conn {
            link,
            wire: Wire::start(id, stream, events.clone()),
            stage: Stage::Stranger,
            remote,
            local,
            ahead: None,
        });
        match self.admission.admit(id, remote.ip(), known, now) {
            Admitted::Yes => tracing::debug!(addr = %remote, "connection accepted"),
            Admitted::InsteadOf(old) => {
                tracing::debug!(addr = %remote, "connection accepted in place of a silent one");
                self.conns.remove(old);
            }
            Admitted::No => {
                tracing::info!(addr = %remote, "connection refused: too many unauthenticated connections");
                self.conns.remove(id);
            }
        }
    }

    /// Opens a connection to a node; [`Event::Dialled`] follows.
    pub(super) fn dial(&mut self, node: NodeName, addr: SocketAddr) {
        self.call(node, addr, Round::First);
    }

    fn call(&mut self, node: NodeName, addr: SocketAddr, round: Round) {
        self.dials_made += 1;
        let bind = self.outward.bind.iter();
        let bind = bind.copied().find(|bind| bind.is_ipv4() == addr.is_ipv4());
        tracing::debug!(%node, %addr, "connecting");
        let task = conn::dial(
            self.dials_made,
            addr,
            bind,
            self.outward.options.clone(),
            self.outward.limit,
            self.events.clone(),
        );
        let dial = Dial {
            node,
            addr,
            round,
            task,
        };
        self.dials.insert(self.dials_made, dial);
    }

    /// Cancels dials and handshakes with a node.
    pub(super) fn cancel_dial(&mut self, node: &NodeName) {
        self.dials.retain(|_, dial| {
            let other = dial.node != *node;
            if !other {
                dial.task.abort();
            }
            other
        });
        self.conns
            .retain(|_, conn| !matches!(&conn.stage, Stage::Dialled(name, _) if name == node));
    }

    /// Handles the end of an attempt of [`Self::dial`].
    pub(super) fn dialled(
        &mut self,
        dial: u64,
        result: Result<TcpStream, (DialFault, String)>,
        keys: &mut HostKeys,
        now: Instant,
    ) -> Option<Input> {
        let Dial {
            node, addr, round, ..
        } = self.dials.remove(&dial)?;
        let connected = result.and_then(|stream| {
            let local = stream.local_addr();
            let local = local.map_err(|error| (DialFault::Silent, error.to_string()))?;
            let mut theirs = keys.credentials(&node, now).ok_or_else(|| {
                let why = format!("no usable public key in hosts/{node}");
                (DialFault::NoKey, why)
            })?;
            if theirs.upgrade == Upgrade::Possible {
                theirs.upgrade = match round {
                    Round::First => Upgrade::Possible,
                    Round::Upgrade => Upgrade::Due,
                    Round::Last => Upgrade::No,
                };
            }
            Ok((stream, canonical(local), theirs))
        });
        match connected {
            Ok((stream, local, theirs)) => {
                self.connected((node, round), (stream, addr, local), theirs, now);
                None
            }
            Err((fault, why)) => Some(Input::DialFailed {
                node,
                addr,
                fault,
                why,
            }),
        }
    }

    fn connected(
        &mut self,
        (node, round): (NodeName, Round),
        (stream, remote, local): (TcpStream, SocketAddr, SocketAddr),
        mut theirs: Credentials,
        now: Instant,
    ) {
        let failed = self.failed.get(&node).copied().unwrap_or_default();
        let keys = theirs.native.len().max(1);
        theirs.native.rotate_left(failed % keys);
        let link = Link::dial(
            Arc::clone(&self.outward.identity),
            node.clone(),
            theirs,
            self.outward.limit,
            self.rng.fork(),
            now,
        );
        let events = &self.events;
        let id = self.conns.insert_with_key(|id| Conn {
            link,
            wire: Wire::start(id, stream, events.clone()),
            stage: Stage::Dialled(node, round),
            remote,
            local,
            ahead: None,
        });
        self.touched.insert(id);
    }

    /// Handles received bytes.
    pub(super) fn read(&mut self, id: LinkId, data: &[u8], keys: &mut HostKeys, now: Instant) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.link.handle_bytes(data, &mut self.rsa, now);
            if let Some(name) = conn.link.needs() {
                let theirs = keys.credentials(name, now);
                conn.link.handle_credentials(theirs, &mut self.rsa, now);
            }
            conn.wire.taken();
            self.touched.insert(id);
        }
    }

    /// Handles bytes that the kernel accepted. Returns true if the mesh must get its room event.
    pub(super) fn written(&mut self, id: LinkId, count: usize) -> bool {
        let Some(conn) = self.conns.get_mut(id) else {
            return false;
        };
        conn.link.written(count);
        let ahead = conn.ahead.map(|ahead| ahead.saturating_sub(count));
        conn.ahead = ahead.filter(|ahead| *ahead > ROOM_LEFT);
        ahead.is_some() && conn.ahead.is_none()
    }

    /// True if the kernel has accepted all output but [`ROOM_LEFT`] bytes. Otherwise [`Self::written`] reports that
    /// later; newer output does not count.
    pub(super) fn ask_room(&mut self, id: LinkId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else {
            return false;
        };
        let queued = conn.link.queued();
        conn.ahead = (queued > ROOM_LEFT).then_some(queued);
        conn.ahead.is_none()
    }

    /// Handles a failed or closed socket.
    pub(super) fn closed(&mut self, id: LinkId, why: &str) -> Option<Input> {
        self.down(id, why, false)
    }

    /// Returns the node of a connection, and both ends' addresses, ours first.
    pub(super) fn ends(&self, id: LinkId) -> Option<(&NodeName, [SocketAddr; 2])> {
        let conn = self.conns.get(id)?;
        Some((conn.link.peer()?, [conn.local, conn.remote]))
    }

    /// Queues a line. [`Self::flush`] sends it.
    pub(super) fn send_line(&mut self, id: LinkId, line: &[u8]) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.link.send_line(line);
            self.touched.insert(id);
        }
    }

    /// Queues a frame. Returns `false` if it was dropped.
    pub(super) fn send_frame(&mut self, id: LinkId, frame: &[u8]) -> bool {
        self.touched.insert(id);
        let conn = self.conns.get_mut(id);
        conn.is_some_and(|conn| conn.link.send_frame(frame))
    }

    /// Queues a relay datagram. Returns `false` if it was dropped.
    pub(super) fn send_relayed(&mut self, id: LinkId, datagram: &[u8]) -> bool {
        self.touched.insert(id);
        let conn = self.conns.get_mut(id);
        conn.is_some_and(|conn| conn.link.send_relayed(datagram))
    }

    /// Closes a link for the mesh, after its pending output.
    pub(super) fn close(&mut self, id: LinkId) {
        if let Some(mut conn) = self.conns.remove(id) {
            self.admission.remove(id);
            write(&mut conn);
            conn.wire.finish();
        }
    }

    /// Returns the queued bytes of all links.
    pub(super) fn queued(&self) -> usize {
        self.conns.values().map(|conn| conn.link.queued()).sum()
    }

    /// Handles deadlines of handshakes and of unauthenticated connections.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for (id, conn) in &mut self.conns {
            if conn.link.poll_timeout().is_some_and(|due| due <= now) {
                conn.link.handle_timeout(now);
                self.touched.insert(id);
            }
        }
        for id in self.admission.expired(now) {
            self.admission.remove(id);
            self.conns.remove(id);
        }
    }

    /// Returns the next time for [`Self::handle_timeout`].
    #[must_use]
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let links = self.conns.values();
        let due = links.filter_map(|conn| conn.link.poll_timeout());
        due.chain(self.admission.poll_timeout()).min()
    }

    /// Writes queued output, and reports events of links.
    pub(super) fn flush(&mut self, inputs: &mut Vec<Input>) {
        while let Some(id) = self.touched.pop_first() {
            while let Some(event) = self.conns.get_mut(id).and_then(|c| c.link.poll_event()) {
                inputs.extend(self.event(id, event));
            }
            if let Some(conn) = self.conns.get_mut(id)
                && write(conn)
                && matches!(conn.stage, Stage::Stranger)
            {
                // The peer has named a known node, otherwise we would have no answer for it.
                self.admission.spoke(id);
            }
        }
        let open = self.admission.is_open();
        self.open
            .send_if_modified(|was| std::mem::replace(was, open) != open);
    }

    fn event(&mut self, id: LinkId, event: LinkEvent) -> Option<Input> {
        let conn = self.conns.get_mut(id)?;
        match event {
            LinkEvent::Up(hello) => {
                tracing::debug!(
                    node = %hello.name, addr = %conn.remote, dialect = hello.dialect.name(),
                    "authenticated"
                );
                conn.stage = Stage::Up;
                self.admission.remove(id);
                Some(Input::LinkUp {
                    link: id,
                    hello,
                    remote: conn.remote,
                    local: conn.local,
                })
            }
            LinkEvent::Line(line) => Some(Input::Line { link: id, line }),
            LinkEvent::Frame(frame) => Some(Input::Frame { link: id, frame }),
            LinkEvent::Relayed(datagram) => Some(Input::Relayed { link: id, datagram }),
            LinkEvent::Upgraded(upgraded) => self.end_upgrade(id, upgraded),
            LinkEvent::Down(error) => self.down(id, &error.to_string(), error.hold()),
        }
    }

    /// Handles an exchange of Ed25519 keys; another connection may follow.
    fn end_upgrade(&mut self, id: LinkId, upgraded: Upgraded) -> Option<Input> {
        let conn = self.conns.get(id)?;
        let (addr, told, key) = (conn.remote, upgraded.told, upgraded.key);
        let dialled = match &conn.stage {
            Stage::Dialled(node, _) => Some(node.clone()),
            Stage::Stranger | Stage::Up | Stage::Held => None,
        };
        self.upgraded.push(upgraded);
        self.close(id);
        let node = dialled?;
        if told {
            self.call(node, addr, Round::Last);
            return None;
        }
        let why = format!(
            "{node} has our Ed25519 key and refuses legacy: add `Ed25519PublicKey = {key}` to hosts/{node}, which lacks that line"
        );
        Some(Input::DialFailed {
            node,
            addr,
            fault: DialFault::Handshake,
            why,
        })
    }

    /// Returns Ed25519 keys received since the last call.
    pub(super) fn take_upgraded(&mut self) -> Vec<Upgraded> {
        std::mem::take(&mut self.upgraded)
    }

    /// Handles a failed link: removes it, or holds an unauthenticated one silently.
    fn down(&mut self, id: LinkId, why: &str, hold: bool) -> Option<Input> {
        let conn = self.conns.get_mut(id)?;
        let addr = conn.remote;
        let stage = std::mem::replace(&mut conn.stage, Stage::Held);
        match &stage {
            Stage::Stranger if hold => {
                tracing::info!(%addr, why, "connection refused");
                conn.wire.mute();
                let node = conn.link.peer()?.clone();
                let why = why.to_owned();
                return Some(Input::Unproven { node, addr, why });
            }
            Stage::Stranger => tracing::debug!(%addr, why, "connection closed"),
            Stage::Dialled(..) | Stage::Up | Stage::Held => {}
        }
        let wants_upgrade = conn.link.wants_upgrade();
        self.conns.remove(id);
        self.admission.remove(id);
        let why = why.to_owned();
        match stage {
            Stage::Dialled(node, Round::First) if wants_upgrade => {
                tracing::debug!(%node, %addr, why, "dialling again to exchange keys");
                self.call(node, addr, Round::Upgrade);
                None
            }
            Stage::Dialled(node, _) => {
                *self.failed.entry(node.clone()).or_default() += 1;
                Some(Input::DialFailed {
                    node,
                    addr,
                    fault: DialFault::Handshake,
                    why,
                })
            }
            Stage::Up => Some(Input::LinkDown { link: id, why }),
            Stage::Stranger | Stage::Held => None,
        }
    }
}

/// Passes a link's output to its socket. Returns true if there was output.
fn write(conn: &mut Conn) -> bool {
    let output: Bytes = conn.link.take_output();
    let any = !output.is_empty();
    if any {
        conn.wire.write(output);
    }
    any
}
