//! One simulated node: a mesh, its links and its packet step, as in the daemon's driver and worker.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use slotmap::SlotMap;

use meshd_crypto::seal::Aeads;
use meshd_dataplane::{
    fastpath::{Sink, Step, complete},
    io::vnet::Checksums,
};
use meshd_proto::{
    link::{Credentials, Identity, Link, NativeIdentity, RsaBudget},
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
    /// The snapshot that the mesh published last.
    pub(super) snapshot: Arc<RouteSnapshot>,
    limiter: ErrorLimiter,
    pub(super) links: SlotMap<LinkId, SimLink>,
    pub(super) rsa: RsaBudget,
    /// Dials in progress, by the dialled node.
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
    /// The link itself; `None` with lines.
    pub(super) link: Option<Link>,
    /// True if the mesh was told that the link is up.
    pub(super) up: bool,
    /// Time at which the connection was made.
    pub(super) started: Instant,
    /// The dialled node and address.
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
    /// Starts a node.
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
            rsa: RsaBudget::new(now),
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
        self.settings.credentials(self.settings.hosts.get(name)?)
    }

    /// Returns the time of the node's next wake-up.
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
