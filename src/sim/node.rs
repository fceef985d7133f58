//! One simulated node: a mesh, its pool of links and its packet step, as in the daemon's driver and worker.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use slotmap::{SecondaryMap, SlotMap};

use meshd_crypto::{Rng, seal::Aeads};
use meshd_dataplane::{
    fastpath::{Sink, Step, complete},
    io::vnet::Checksums,
};
use meshd_proto::{
    link::{Credentials, LinkId, Pool},
    mesh::{Mesh, Settings, event::Punt, validity::Validity},
    route::{DropReason, Mode, NodeIdx, RouteSnapshot, verdict::ErrorLimiter},
};
use meshd_wire::NodeName;

use crate::conn::EndId;

/// One node in one of its lives.
pub(super) struct SimNode {
    pub(super) settings: Arc<Settings>,
    /// The settings without the nodes that have expired or are revoked.
    pub(super) in_force: Arc<Settings>,
    pub(super) validity: Validity,
    pub(super) mesh: Mesh,
    /// With bytes: all links.
    pub(super) pool: Pool,
    /// The snapshot that the mesh published last.
    pub(super) snapshot: Arc<RouteSnapshot>,
    limiter: ErrorLimiter,
    /// With lines: the ids of links.
    pub(super) ids: SlotMap<LinkId, ()>,
    pub(super) links: SecondaryMap<LinkId, SimLink>,
    /// True if the pool accepts connections; else they wait in the kernel's backlog.
    pub(super) listens: bool,
    pub(super) backlog: VecDeque<EndId>,
    /// With lines: dials in progress, by the dialled node.
    pub(super) dials: BTreeMap<NodeName, u64>,
    /// Number of restarts.
    pub(super) life: u32,
    pub(super) alive: bool,
    /// Earliest time for which a wake-up is queued.
    pub(super) armed: Option<Instant>,
    /// True if outputs will be drained soon.
    pub(super) settling: bool,
}

/// One end of a connection in the view of its node.
pub(super) struct SimLink {
    pub(super) end: EndId,
    /// True if the mesh was told that the link is up.
    pub(super) up: bool,
    /// With lines: time at which the connection was made.
    pub(super) started: Instant,
    /// With lines: the dialled node and address.
    pub(super) dialled: Option<(NodeName, SocketAddr)>,
}

/// Results of a packet step.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) datagrams: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) delivered: Vec<Vec<u8>>,
    pub(super) punts: Vec<Punt>,
}

impl SimNode {
    /// Starts a node at a wall time, in seconds since 1970.
    pub(super) fn start(
        settings: Arc<Settings>,
        life: u32,
        seeds: [[u8; 32]; 2],
        now: Instant,
        unix: u64,
    ) -> Self {
        let (in_force, validity) = Validity::of(&settings, unix);
        let mesh = Mesh::new(Arc::clone(&in_force), seeds[0], now);
        Self {
            pool: Pool::new(
                in_force.of_pool(Aeads::of_this_machine()),
                Rng::new(seeds[1]),
                now,
            ),
            in_force,
            validity,
            snapshot: mesh.snapshot(),
            mesh,
            settings,
            limiter: ErrorLimiter::default(),
            ids: SlotMap::with_key(),
            links: SecondaryMap::new(),
            listens: false,
            backlog: VecDeque::new(),
            dials: BTreeMap::new(),
            life,
            alive: true,
            armed: None,
            settling: false,
        }
    }

    /// Handles one packet from the node's device.
    pub(super) fn device_gives(&mut self, packet: &mut [u8], now: Instant) -> Gathered {
        self.step(now, |step| step.from_device(packet))
    }

    /// Handles one datagram from the node's socket.
    pub(super) fn network_gives(
        &mut self,
        from: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
    ) -> Gathered {
        let length = datagram.len().max(1);
        self.step(now, |step| step.from_network(from, datagram, length))
    }

    fn step(&mut self, now: Instant, work: impl FnOnce(&mut Step<'_, Gathered>)) -> Gathered {
        let mut gathered = Gathered::default();
        let (tables, limiter) = (&self.snapshot, &mut self.limiter);
        work(&mut Step::new(tables, &mut gathered, limiter, now));
        gathered
    }

    /// Returns the credentials of a node in the host files.
    pub(super) fn credentials(&self, name: &NodeName) -> Option<Credentials> {
        self.in_force.credentials(self.in_force.hosts.get(name)?)
    }
}

impl Sink for Gathered {
    fn datagram(&mut self, to: SocketAddr, _most: usize, length: usize) -> &mut [u8] {
        self.datagrams.push((to, vec![0; length]));
        self.datagrams
            .last_mut()
            .map(|(_, bytes)| bytes)
            .expect("it was just pushed")
    }

    fn deliver(&mut self, packet: &mut [u8], checksums: Checksums) {
        complete(Mode::Router, packet, checksums);
        self.delivered.push(packet.to_vec());
    }

    /// Punts the packet: a simulated step has no worker that retries it.
    fn park(&mut self, to: NodeIdx, packet: &[u8]) {
        let packet = Bytes::copy_from_slice(packet);
        self.punts.push(Punt::Packet { to, packet });
    }

    fn punt(&mut self, punt: Punt) {
        self.punts.push(punt);
    }

    fn dropped(&mut self, _: DropReason) {}
}
