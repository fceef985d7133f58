//! The driver's meta connections: which sockets there are, which [`Link`] each feeds, what becomes of
//! them when they fail.

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
    link::{Credentials, Identity, Keyring, Link, LinkEvent, Upgrade, Upgraded},
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

/// All meta connections and the attempts to make one.
pub(super) struct Links {
    conns: SlotMap<LinkId, Conn>,
    dials: BTreeMap<u64, Dial>,
    dials_made: u64,
    /// How many handshakes with a node that we dialled came to nothing: the next one calls its next
    /// native key, as it may be changing from one to the other.
    failed: BTreeMap<NodeName, usize>,
    admission: Admission,
    /// Whether the listening sockets are looked at.
    open: watch::Sender<bool>,
    /// Links with something to write or to report.
    touched: BTreeSet<LinkId>,
    /// Ed25519 keys that were told and that nobody has asked for yet.
    upgraded: Vec<Upgraded>,
    outward: Outward,
    rng: Rng,
    events: mpsc::Sender<Event>,
}

/// What every connection of ours is made with.
pub(super) struct Outward {
    /// Who we are.
    pub(super) identity: Arc<Identity>,
    /// Mark and interface of sockets.
    pub(super) options: SocketOptions,
    /// Source addresses.
    pub(super) bind: Vec<SocketAddr>,
    /// How long connecting may take, and then the handshake: PingTimeout.
    pub(super) limit: Duration,
}

struct Conn {
    link: Link,
    wire: Wire,
    stage: Stage,
    remote: SocketAddr,
    local: SocketAddr,
    /// Bytes that the kernel takes before the mesh is told of room, if it has asked.
    ahead: Option<usize>,
}

enum Stage {
    /// Somebody connected to us.
    Stranger,
    /// We called this node.
    Dialled(NodeName, Round),
    /// The mesh knows it.
    Up,
    /// A stranger that misbehaved: silent until its time is over, then closed.
    Held,
}

/// Which of the connections of one attempt to reach a node. Those after the first are for where one side has no
/// Ed25519 key of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    First,
    /// To tell keys.
    Upgrade,
    /// With the keys that were told.
    Last,
}

struct Dial {
    node: NodeName,
    addr: SocketAddr,
    round: Round,
    task: AbortHandle,
}

impl Links {
    /// No connections; nothing is accepted until [`Self::flush`].
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
            open: watch::Sender::new(false),
            touched: BTreeSet::new(),
            upgraded: Vec::new(),
            outward,
            rng,
            events,
        }
    }

    /// Tells accepting tasks whether to look at their sockets.
    #[must_use]
    pub(super) fn open(&self) -> watch::Receiver<bool> {
        self.open.subscribe()
    }

    /// Changes who we are, and the time that connecting and authenticating may take, for connections
    /// that are made from now on.
    pub(super) fn configure(&mut self, identity: Arc<Identity>, limit: Duration) {
        self.outward.identity = identity;
        self.outward.limit = limit;
    }

    /// Adds 32 fresh random bytes.
    pub(super) fn add_entropy(&mut self, entropy: &[u8; 32]) {
        self.rng.add_entropy(entropy);
    }

    /// Somebody connected to us. `known`: from an address of some node.
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
                tracing::debug!(addr = %remote, "connection accepted instead of a silent one");
                self.conns.remove(old);
            }
            Admitted::No => {
                tracing::info!(addr = %remote, "connection refused: too many strangers");
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

    /// Gives up what is not up yet towards a node.
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

    /// An attempt of [`Self::dial`] has ended.
    pub(super) fn dialled(
        &mut self,
        dial: u64,
        result: Result<TcpStream, (DialFault, String)>,
        keys: &HostKeys,
        now: Instant,
    ) -> Option<Input> {
        let Dial {
            node, addr, round, ..
        } = self.dials.remove(&dial)?;
        let connected = result.and_then(|stream| {
            let local = stream.local_addr();
            let local = local.map_err(|error| (DialFault::Silent, error.to_string()))?;
            let mut theirs = keys.credentials(&node).ok_or_else(|| {
                let why = format!("no public key in hosts/{node} that may be used");
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

    /// Bytes came.
    pub(super) fn read(&mut self, id: LinkId, data: &[u8], keys: &HostKeys, now: Instant) {
        if let Some(conn) = self.conns.get_mut(id) {
            keys.set_now(now);
            conn.link.handle_bytes(data, keys, now);
            conn.wire.taken();
            self.touched.insert(id);
        }
    }

    /// Bytes were taken by the kernel. Returns whether the mesh is to be told of room.
    pub(super) fn written(&mut self, id: LinkId, count: usize) -> bool {
        let Some(conn) = self.conns.get_mut(id) else {
            return false;
        };
        conn.link.written(count);
        let ahead = conn.ahead.map(|ahead| ahead.saturating_sub(count));
        conn.ahead = ahead.filter(|ahead| *ahead > ROOM_LEFT);
        ahead.is_some() && conn.ahead.is_none()
    }

    /// Whether the kernel has taken all that was sent so far, but [`ROOM_LEFT`] bytes. If not,
    /// [`Self::written`] says when: what is sent meanwhile does not count.
    pub(super) fn ask_room(&mut self, id: LinkId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else {
            return false;
        };
        let queued = conn.link.queued();
        conn.ahead = (queued > ROOM_LEFT).then_some(queued);
        conn.ahead.is_none()
    }

    /// A socket failed or was closed by the other end.
    pub(super) fn closed(&mut self, id: LinkId, why: &str) -> Option<Input> {
        self.down(id, why, false)
    }

    /// Who is at the other end of a connection, and both ends' addresses, ours first.
    pub(super) fn ends(&self, id: LinkId) -> Option<(&NodeName, [SocketAddr; 2])> {
        let conn = self.conns.get(id)?;
        Some((conn.link.peer()?, [conn.local, conn.remote]))
    }

    /// Sends a line. It goes out with [`Self::flush`], as everything does.
    pub(super) fn send_line(&mut self, id: LinkId, line: &[u8]) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.link.send_line(line);
            self.touched.insert(id);
        }
    }

    /// Sends a frame. Returns `false` if it was dropped.
    pub(super) fn send_frame(&mut self, id: LinkId, frame: &[u8]) -> bool {
        self.touched.insert(id);
        let conn = self.conns.get_mut(id);
        conn.is_some_and(|conn| conn.link.send_frame(frame))
    }

    /// Sends a relay datagram. Returns `false` if it was dropped.
    pub(super) fn send_relayed(&mut self, id: LinkId, datagram: &[u8]) -> bool {
        self.touched.insert(id);
        let conn = self.conns.get_mut(id);
        conn.is_some_and(|conn| conn.link.send_relayed(datagram))
    }

    /// Closes a link for the mesh, after what it has to say.
    pub(super) fn close(&mut self, id: LinkId) {
        if let Some(mut conn) = self.conns.remove(id) {
            self.admission.remove(id);
            write(&mut conn);
            conn.wire.finish();
        }
    }

    /// Bytes of all links that are not on their way yet.
    pub(super) fn queued(&self) -> usize {
        self.conns.values().map(|conn| conn.link.queued()).sum()
    }

    /// Lets deadlines act: handshakes, and strangers whose time is over.
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

    /// When [`Self::handle_timeout`] should be called.
    #[must_use]
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let links = self.conns.values();
        let due = links.filter_map(|conn| conn.link.poll_timeout());
        due.chain(self.admission.poll_timeout()).min()
    }

    /// Writes what waits, and reports what links have to say.
    pub(super) fn flush(&mut self, inputs: &mut Vec<Input>) {
        while let Some(id) = self.touched.pop_first() {
            while let Some(event) = self.conns.get_mut(id).and_then(|c| c.link.poll_event()) {
                inputs.extend(self.event(id, event));
            }
            if let Some(conn) = self.conns.get_mut(id)
                && write(conn)
                && matches!(conn.stage, Stage::Stranger)
            {
                // It has named a node that we know, or we would have no answer for it.
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

    /// Ed25519 keys were told: the next connection may be another.
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
            "{node} has our Ed25519 key and speaks nothing less: put `Ed25519PublicKey = {key}` into hosts/{node}, where no such line is"
        );
        Some(Input::DialFailed {
            node,
            addr,
            fault: DialFault::Handshake,
            why,
        })
    }

    /// Ed25519 keys that were told since the last call.
    pub(super) fn take_upgraded(&mut self) -> Vec<Upgraded> {
        std::mem::take(&mut self.upgraded)
    }

    /// A link has failed: takes it out, or holds a stranger's silently.
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
                tracing::debug!(%node, %addr, why, "calling again to tell keys");
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

/// Hands a link's output to its socket. Returns whether there was any.
fn write(conn: &mut Conn) -> bool {
    let output: Bytes = conn.link.take_output();
    let any = !output.is_empty();
    if any {
        conn.wire.write(output);
    }
    any
}
