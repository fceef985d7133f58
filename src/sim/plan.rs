//! Description of a simulated mesh: its nodes, their settings and dials.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use meshd_crypto::{PrivateKey, Rng};
use meshd_proto::mesh::{
    Settings,
    settings::{Host, HostAddress},
};
use meshd_wire::{NodeName, Prefix, Subnet, subnet::DEFAULT_WEIGHT};

/// Port of every node.
pub const PORT: u16 = 655;

/// Level of detail in the simulation of links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fidelity {
    /// Request lines go from mesh to mesh; authentication always succeeds.
    Lines,
    /// Bytes of TCP go from link to link.
    Bytes,
}

/// A mesh to simulate.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Seed: the run is a function of this number and of the other fields.
    pub seed: u64,
    /// Number of nodes, at most 65,000.
    pub nodes: usize,
    /// Number of earlier nodes that each node dials (ConnectTo), or fewer if there are not as many.
    pub dials: usize,
    /// If not 0, this many first nodes are hubs. Each hub dials the hubs before it, and every other
    /// node dials two hubs.
    pub hubs: usize,
    /// AutoConnect.
    pub auto_connect: bool,
    /// Number of nodes, from the last down, that are behind a NAT of their own.
    pub behind_nat: usize,
    /// Level of detail of links.
    pub fidelity: Fidelity,
    /// KeyExpire.
    pub key_expire: Duration,
    /// True if three of four nodes offer native links and tunnels.
    pub native: bool,
}

impl Plan {
    /// Makes a mesh of `nodes` nodes that dial two others each, none of them behind a NAT.
    #[must_use]
    pub fn new(seed: u64, nodes: usize, fidelity: Fidelity) -> Self {
        Self {
            seed,
            nodes,
            dials: 2,
            hubs: 0,
            auto_connect: false,
            behind_nat: 0,
            fidelity,
            key_expire: Duration::from_secs(3600),
            native: true,
        }
    }

    /// Returns true if a node is behind a NAT.
    #[must_use]
    pub fn is_behind_nat(&self, node: usize) -> bool {
        node + self.behind_nat >= self.nodes
    }

    /// Derives 32 bytes for one purpose from the seed.
    #[must_use]
    pub(super) fn seed_for(&self, purpose: &str, number: usize) -> [u8; 32] {
        use sha2::Digest as _;
        let text = format!("{} {purpose} {number}", self.seed);
        sha2::Sha256::digest(text).into()
    }

    /// Returns true if a node speaks native: three of four do if native is enabled, so every pair
    /// of dialects occurs.
    #[must_use]
    pub fn speaks_native(&self, node: usize) -> bool {
        self.native && !self.seed_for("native", node)[0].is_multiple_of(4)
    }

    /// Returns the settings of every node, in order.
    #[must_use]
    pub(super) fn settings(&self) -> Vec<Settings> {
        let mut rng = Rng::new(self.seed_for("plan", 0));
        let keys: Vec<Arc<PrivateKey>> = (0..self.nodes)
            .map(|_| Arc::new(PrivateKey::generate(&mut rng)))
            .collect();
        let hosts: BTreeMap<NodeName, Arc<Host>> = keys
            .iter()
            .enumerate()
            .map(|(n, key)| (name(n), Arc::new(self.host(n, key))))
            .collect();
        keys.into_iter()
            .enumerate()
            .map(|(n, key)| self.one(n, key, &hosts, &mut rng))
            .collect()
    }

    fn host(&self, node: usize, key: &PrivateKey) -> Host {
        let address = HostAddress {
            host: public_ip(node).to_string(),
            port: PORT,
        };
        Host {
            key: Some(key.public()),
            // No node can dial a node behind a NAT, so its host file has no address.
            addresses: if self.is_behind_nat(node) {
                Vec::new()
            } else {
                vec![address]
            },
            subnets: vec![subnet(node)],
            ..Host::default()
        }
    }

    fn one(
        &self,
        node: usize,
        key: Arc<PrivateKey>,
        hosts: &BTreeMap<NodeName, Arc<Host>>,
        rng: &mut Rng,
    ) -> Settings {
        let mut hosts = hosts.clone();
        hosts.remove(&name(node));
        Settings {
            native: self.speaks_native(node),
            port: PORT,
            subnets: vec![subnet(node)],
            hosts,
            connect_to: self.dialled_by(node, rng),
            auto_connect: self.auto_connect,
            key_expire: self.key_expire,
            // A back-off of a quarter of an hour would only make runs longer.
            max_timeout: Duration::from_secs(60),
            ..Settings::new(name(node), key)
        }
    }

    /// Returns some of the earlier nodes that can be dialled, or the hubs of the node. So the mesh
    /// is connected.
    fn dialled_by(&self, node: usize, rng: &mut Rng) -> Vec<NodeName> {
        if self.hubs > 0 {
            let (all, two) = (0..node, [node % self.hubs, (node + 1) % self.hubs]);
            return match node < self.hubs {
                true => all.map(name).collect(),
                false => two.map(name).into(),
            };
        }
        let public = node.min(self.nodes - self.behind_nat);
        let mut chosen = Vec::new();
        while chosen.len() < self.dials.min(public) {
            let other = rng.below(u32::try_from(public).unwrap_or(u32::MAX)) as usize;
            if !chosen.contains(&other) {
                chosen.push(other);
            }
        }
        chosen.into_iter().map(name).collect()
    }
}

/// Name of a node.
pub(super) fn name(node: usize) -> NodeName {
    NodeName::new(&format!("n{node}")).expect("letters and digits")
}

/// The two low bytes that all addresses of a node share.
fn low(node: usize) -> [u8; 2] {
    u16::try_from(node + 1)
        .expect("at most 65,000 nodes")
        .to_be_bytes()
}

/// First public address of a node: its own, or that of its NAT.
pub(super) fn public_ip(node: usize) -> IpAddr {
    public_ip_after(node, 0)
}

/// Public address of a node that got a new one so often.
pub(super) fn public_ip_after(node: usize, moves: u8) -> IpAddr {
    let [high, low] = low(node);
    Ipv4Addr::new(198 - moves, 18, high, low).into()
}

/// Address that a node behind a NAT binds to.
pub(super) fn private_ip(node: usize) -> IpAddr {
    let [high, low] = low(node);
    Ipv4Addr::new(192, 168, high, low).into()
}

/// Address of a node in the mesh.
pub(super) fn mesh_ip(node: usize) -> Ipv4Addr {
    let [high, low] = low(node);
    Ipv4Addr::new(10, 0, high, low)
}

fn subnet(node: usize) -> Subnet {
    Subnet {
        prefix: Prefix::V4(mesh_ip(node), 32),
        weight: DEFAULT_WEIGHT,
    }
}
