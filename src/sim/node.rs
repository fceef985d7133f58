//! One simulated node: a mesh, its links, its packet step, as the daemon's driver and worker hold them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use slotmap::SlotMap;

use meshd_crypto::seal::Aeads;
use meshd_dataplane::{
    fastpath::{Sink, Step, complete},
    io::vnet::Checksums,
};
use meshd_proto::{
    link::{Credentials, Identity, Keyring, Link, NativeIdentity},
    mesh::{LinkId, Mesh, Settings, event::Punt},
    route::{DropReason, Mode, NodeIdx, RouteSnapshot, verdict::ErrorLimiter},
};
use meshd_wire::NodeName;

use crate::conn::EndId;

/// One node in one of its lives.
pub(super) struct SimNode {
    pub(super) settings: Arc<Settings>,
    pub(super) identity: Arc<Identity>,
    pub(super) mesh: Mesh,
    /// What the mesh published last.
    pub(super) snapshot: Arc<RouteSnapshot>,
    limiter: ErrorLimiter,
    pub(super) links: SlotMap<LinkId, SimLink>,
    /// Attempts under way, by the node that is dialled.
    pub(super) dials: BTreeMap<NodeName, u64>,
    /// Counts restarts.
    pub(super) life: u32,
    pub(super) alive: bool,
    /// The earliest time for which a wake-up is queued.
    pub(super) armed: Option<Instant>,
    /// Whether outputs will be drained soon.
    pub(super) settling: bool,
}

/// One end of a connection as its node sees it.
pub(super) struct SimLink {
    pub(super) end: EndId,
    /// The link itself; `None` by lines.
    pub(super) link: Option<Link>,
    /// Whether the mesh was told that it is up.
    pub(super) up: bool,
    /// When the connection was made.
    pub(super) started: Instant,
    /// Whom we dialled, and where.
    pub(super) dialled: Option<(NodeName, SocketAddr)>,
}

/// What a packet step left.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) datagrams: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) delivered: Vec<Vec<u8>>,
    pub(super) punts: Vec<Punt>,
}

impl SimNode {
    /// A node that was just started.
    pub(super) fn start(settings: Arc<Settings>, life: u32, seed: [u8; 32], now: Instant) -> Self {
        let mesh = Mesh::new(settings.clone(), seed, now);
        Self {
            identity: Arc::new(Identity {
                name: settings.name.clone(),
                key: settings.key.clone(),
                sptps: settings.sptps,
                rsa: settings.rsa.clone(),
                native: settings.native.then(|| NativeIdentity {
                    secret: settings.secret.clone(),
                    aeads: Aeads::of_this_machine(),
                }),
            }),
            snapshot: mesh.snapshot(),
            mesh,
            settings,
            limiter: ErrorLimiter::default(),
            links: SlotMap::with_key(),
            dials: BTreeMap::new(),
            life,
            alive: true,
            armed: None,
            settling: false,
        }
    }

    /// One packet that the node's device gives.
    pub(super) fn device_gives(&mut self, packet: &mut [u8], now: Instant) -> Gathered {
        self.step(now, |step| step.from_device(packet))
    }

    /// One datagram that the node's socket gives.
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

    /// When the node next wants to be called.
    pub(super) fn wants_wake(&self) -> Option<Instant> {
        let links = self
            .links
            .values()
            .filter_map(|link| link.link.as_ref()?.poll_timeout());
        links
            .chain(self.mesh.poll_timeout().map(|(at, _)| at))
            .min()
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

    /// The mesh keeps it: a step of the simulator has no worker that comes back.
    fn park(&mut self, to: NodeIdx, packet: &[u8]) {
        let packet = Bytes::copy_from_slice(packet);
        self.punts.push(Punt::Packet { to, packet });
    }

    fn punt(&mut self, punt: Punt) {
        self.punts.push(punt);
    }

    fn dropped(&mut self, _: DropReason) {}
}

/// The keys of the host files.
pub(super) struct Keys<'a>(pub(super) &'a Settings);

impl Keyring for Keys<'_> {
    fn credentials(&self, name: &NodeName) -> Option<Credentials> {
        self.0.credentials(self.0.hosts.get(name)?)
    }

    fn may_compute(&self, _: bool) -> bool {
        true
    }
}
