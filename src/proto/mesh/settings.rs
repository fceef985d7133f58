//! The configuration that the mesh needs, resolved and typed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use zeroize::Zeroizing;

use meshd_crypto::{
    PrivateKey, PublicKey,
    noise::{StaticPublic, StaticSecret},
    rsa::{RsaPrivate, RsaPublic},
    seal::Aeads,
};
use meshd_wire::{NodeName, Options, Subnet};

use crate::{
    link::{Credentials, Dialect, Identity, NativeIdentity, PoolSettings, Upgrade},
    mesh::limits::LINE_RATE,
    route::{RouteSettings, SourceCheck},
    tunnel::legacy::Suite,
};

/// The whole configuration of the mesh. `config` builds it; a reload compares it by content.
#[derive(Clone)]
pub struct Settings {
    /// Name of this node.
    pub name: NodeName,
    /// Ed25519 key of this node.
    pub key: Arc<PrivateKey>,
    /// True if `key` is in use (ExperimentalProtocol). If false, this node speaks legacy only.
    pub sptps: bool,
    /// RSA key of this node. Without an RSA key, this node speaks legacy with no node.
    pub rsa: Option<Arc<RsaPrivate>>,
    /// Suite of legacy packets to this node (Cipher, Digest, MACLength, Compression).
    pub suite: Suite,
    /// X25519 secret of this node (native), from `key` or NativePrivateKeyFile.
    pub secret: Arc<StaticSecret>,
    /// Native: true if this node offers native links and tunnels.
    pub native: bool,
    /// MinProtocol, for nodes whose host file does not set it. See [`Self::min_protocol_of`].
    pub min_protocol: Option<MinProtocol>,
    /// LearnKeys: true if a learned Ed25519 key is written to a host file that has none. The node
    /// sent that key over a link that its RSA key authenticates.
    pub learn_keys: bool,
    /// PresharedKeyFile, for nodes without a preshared key of their own; all zero if there is none.
    /// See [`Self::psk_of`].
    pub psk: Zeroizing<[u8; 32]>,
    /// Listening port, announced in ACK.
    pub port: u16,
    /// True if our own host file has an Address: a status bit of dumps.
    pub has_address: bool,
    /// Options of this node (IndirectData, TCPOnly, PMTUDiscovery, ClampMSS), top byte 7.
    pub options: Options,
    /// Subnets of this node.
    pub subnets: Vec<Subnet>,
    /// BroadcastSubnet lines, without the four built-in ones.
    pub broadcast_subnets: Vec<Subnet>,
    /// Every readable host file, without our own.
    pub hosts: BTreeMap<NodeName, Arc<Host>>,
    /// ConnectTo lines in order, without our own name.
    pub connect_to: Vec<NodeName>,
    /// AutoConnect.
    pub auto_connect: bool,
    /// MetaRate: flooded lines a second that a neighbour may send about itself in the long run, 200
    /// to 1,000,000.
    pub meta_rate: u32,
    /// Settings of the router.
    pub route: RouteSettings,
    /// MACExpire, default 600 s.
    pub mac_expire: Duration,
    /// SubnetPolicy. StrictSubnets overrides it.
    pub subnet_policy: SubnetPolicy,
    /// StrictSubnets (implied by TunnelServer).
    pub strict_subnets: bool,
    /// LocalDiscovery.
    pub local_discovery: bool,
    /// UDPDiscovery.
    pub udp_discovery: bool,
    /// UDPDiscoveryInterval, default 2 s.
    pub udp_discovery_interval: Duration,
    /// UDPDiscoveryKeepaliveInterval, default 10 s.
    pub udp_discovery_keepalive: Duration,
    /// UDPDiscoveryTimeout, default 30 s.
    pub udp_discovery_timeout: Duration,
    /// UDPInfoInterval, default 5 s.
    pub udp_info_interval: Duration,
    /// MTUInfoInterval, default 5 s.
    pub mtu_info_interval: Duration,
    /// PingInterval, default 60 s.
    pub ping_interval: Duration,
    /// PingTimeout, default 5 s.
    pub ping_timeout: Duration,
    /// KeyExpire, default 3600 s.
    pub key_expire: Duration,
    /// MaxTimeout, default 900 s.
    pub max_timeout: Duration,
    /// Weight in our own host file, if set: overrides the measured weight.
    pub weight: Option<i32>,
    /// PMTU in our own host file, in bytes with the Ethernet header.
    pub pmtu: Option<u16>,
    /// Size of the replay window in packets; 0 = no check.
    pub replay_window: u32,
}

/// One host file.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Ed25519 key of the node.
    pub key: Option<PublicKey>,
    /// Reason why the Ed25519 key cannot be read, if it cannot. Then `key` is `None` and `rsa` is
    /// `Some`.
    pub bad_key: Option<String>,
    /// RSA key of the node.
    pub rsa: Option<RsaPublic>,
    /// True if legacy packets to the node may be sent without a cipher (Cipher = none).
    pub null_cipher: bool,
    /// True if legacy packets to the node may be sent without a MAC (Digest = none or MACLength =
    /// 0).
    pub null_digest: bool,
    /// Ed25519PublicKeyNext: accepted like `key` while the node changes from one key to the other.
    pub next: Option<PublicKey>,
    /// Ed25519PublicKeyNextFrom, in seconds since 1970. `next` does not count before this time.
    pub next_from: Option<u64>,
    /// Expires, in seconds since 1970.
    pub expires: Option<u64>,
    /// Revoked, in seconds since 1970.
    pub revoked: Option<u64>,
    /// RevokedReason.
    pub revoked_reason: Option<String>,
    /// Reason why the node is shut out now, if it is. [`Self::at`] sets it.
    pub shut_out: Option<String>,
    /// Label lines.
    pub labels: BTreeMap<String, String>,
    /// NativePublicKey: replaces the X25519 form of `key`.
    pub native: Option<StaticPublic>,
    /// MinProtocol, if the file sets it.
    pub min: Option<MinProtocol>,
    /// SourceCheck, if the file sets it: overrides ours.
    pub source_check: Option<SourceCheck>,
    /// Preshared key with this node alone (`psk.d/NODE`, not the host file).
    pub psk: Option<Zeroizing<[u8; 32]>>,
    /// Address lines, with ports filled in.
    pub addresses: Vec<HostAddress>,
    /// Subnet lines.
    pub subnets: Vec<Subnet>,
    /// IndirectData.
    pub indirect: bool,
    /// TCPOnly.
    pub tcp_only: bool,
    /// ClampMSS, if the file sets it.
    pub clamp_mss: Option<bool>,
    /// PMTU, in bytes with the Ethernet header.
    pub pmtu: Option<u16>,
    /// Weight.
    pub weight: Option<i32>,
    /// Addresses that worked before, most recent first. Source: the address cache, not the file.
    pub cached: Vec<SocketAddr>,
}

/// The least dialect that a node must speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MinProtocol {
    /// Any dialect of meshd.
    Legacy,
    /// SPTPS, as in tinc 1.1.
    Sptps,
    /// Native links and tunnels, without a fallback to SPTPS.
    Native,
}

impl From<MinProtocol> for Dialect {
    fn from(min: MinProtocol) -> Self {
        match min {
            MinProtocol::Legacy => Self::Legacy,
            MinProtocol::Sptps => Self::Sptps,
            MinProtocol::Native => Self::Native,
        }
    }
}

impl Host {
    /// Returns the X25519 keys that the node may prove; each is accepted alike. First the key of
    /// NativePublicKey, else of the Ed25519 key; then that of Ed25519PublicKeyNext.
    #[must_use]
    pub fn native_keys(&self) -> Vec<StaticPublic> {
        let mapped = |key: &Option<PublicKey>| key.as_ref().map(StaticPublic::of);
        let first = self.native.or_else(|| mapped(&self.key));
        first.into_iter().chain(mapped(&self.next)).collect()
    }
}

impl Settings {
    /// Makes settings for a node of this name and key, with the default of each variable. The node
    /// knows no other node, connects to none and does not speak native.
    #[must_use]
    pub fn new(name: NodeName, key: Arc<PrivateKey>) -> Self {
        Self {
            name,
            secret: Arc::new(StaticSecret::of(&key)),
            key,
            sptps: true,
            rsa: None,
            suite: Suite::default_of_tinc(),
            native: false,
            min_protocol: None,
            learn_keys: false,
            psk: Zeroizing::default(),
            port: 655,
            has_address: true,
            options: Options(Options::PMTU_DISCOVERY | Options::CLAMP_MSS)
                .with_minor(Options::OUR_MINOR),
            subnets: Vec::new(),
            broadcast_subnets: Vec::new(),
            hosts: BTreeMap::new(),
            connect_to: Vec::new(),
            auto_connect: false,
            route: RouteSettings::default(),
            mac_expire: Duration::from_secs(600),
            subnet_policy: SubnetPolicy::Conflict,
            strict_subnets: false,
            local_discovery: true,
            udp_discovery: true,
            udp_discovery_interval: Duration::from_secs(2),
            udp_discovery_keepalive: Duration::from_secs(10),
            udp_discovery_timeout: Duration::from_secs(30),
            udp_info_interval: Duration::from_secs(5),
            mtu_info_interval: Duration::from_secs(5),
            ping_interval: Duration::from_secs(60),
            ping_timeout: Duration::from_secs(5),
            key_expire: Duration::from_secs(3600),
            max_timeout: Duration::from_secs(900),
            meta_rate: LINE_RATE,
            weight: None,
            pmtu: None,
            replay_window: 8192,
        }
    }

    /// Returns the X25519 keys that a node may prove (see [`Host::native_keys`]). Empty if the node
    /// is not known.
    #[must_use]
    pub fn native_keys(&self, node: &NodeName) -> Vec<StaticPublic> {
        let host = self.hosts.get(node);
        host.map(|host| host.native_keys()).unwrap_or_default()
    }

    /// Returns the highest dialect that this node speaks.
    #[must_use]
    pub fn offers(&self) -> Dialect {
        match (self.sptps, self.native) {
            (false, _) => Dialect::Legacy,
            (true, false) => Dialect::Sptps,
            (true, true) => Dialect::Native,
        }
    }

    /// Returns the least dialect that a node must speak: from its host file, else from our
    /// MinProtocol, else from its keys.
    #[must_use]
    pub fn min_protocol_of(&self, node: &NodeName) -> MinProtocol {
        match self.hosts.get(node) {
            Some(host) => self.min_protocol(host),
            None => self.min_protocol.unwrap_or(match self.sptps {
                true => MinProtocol::Sptps,
                false => MinProtocol::Legacy,
            }),
        }
    }

    fn min_protocol(&self, host: &Host) -> MinProtocol {
        let by_keys = match self.rsa.is_some() && (host.key.is_none() || !self.sptps) {
            true => MinProtocol::Legacy,
            false => MinProtocol::Sptps,
        };
        host.min.or(self.min_protocol).unwrap_or(by_keys)
    }

    /// Returns true if packets may go to a node in legacy when the node speaks nothing else.
    #[must_use]
    pub fn allows_legacy(&self, node: &NodeName) -> bool {
        self.rsa.is_some() && self.min_protocol_of(node) == MinProtocol::Legacy
    }

    /// Returns true if legacy may be spoken with a node known by hearsay only, behind a legacy
    /// neighbour. That neighbour could read the node's packets anyway. tinc 1.0 knows most nodes
    /// this way.
    #[must_use]
    pub fn allows_hearsay(&self, node: &NodeName) -> bool {
        self.rsa.is_some() && self.min_protocol.is_none() && !self.hosts.contains_key(node)
    }

    /// Returns the preshared key with a node: the node's own, else the common one; all zero if
    /// there is none.
    #[must_use]
    pub fn psk_of(&self, node: &NodeName) -> &[u8; 32] {
        let host = self.hosts.get(node);
        host.and_then(|host| host.psk.as_ref()).unwrap_or(&self.psk)
    }

    /// Returns the settings of the pool of links. `aeads` are those that this machine has.
    #[must_use]
    pub fn of_pool(&self, aeads: Aeads) -> PoolSettings {
        let known = |host: &Arc<Host>| {
            let named = host.addresses.iter();
            let numeric = named.filter_map(|address| address.host.parse().ok());
            let cached = host.cached.iter().map(SocketAddr::ip);
            numeric.chain(cached).collect::<Vec<IpAddr>>()
        };
        PoolSettings {
            identity: self.identity(aeads),
            limit: self.ping_timeout,
            known: self.hosts.values().flat_map(known).collect(),
        }
    }

    /// Returns our identity for links.
    fn identity(&self, aeads: Aeads) -> Arc<Identity> {
        Arc::new(Identity {
            name: self.name.clone(),
            key: Arc::clone(&self.key),
            sptps: self.sptps,
            rsa: self.rsa.clone(),
            native: self.native.then(|| NativeIdentity {
                secret: Arc::clone(&self.secret),
                aeads,
            }),
        })
    }

    /// Returns what a link must know of the node of a host file; `None` if no key is usable.
    #[must_use]
    pub fn credentials(&self, host: &Host) -> Option<Credentials> {
        let min = self.min_protocol(host);
        let (legacy, upgrade) = self.uses_rsa_of(host);
        let credentials = Credentials {
            key: host.key,
            rsa: host.rsa.clone().filter(|_| legacy || upgrade),
            legacy,
            upgrade: match upgrade {
                true => Upgrade::Possible,
                false => Upgrade::No,
            },
            learn: self.learn_keys,
            next: host.next,
            native: host.native_keys(),
            native_only: min == MinProtocol::Native,
            psk: host.psk.as_ref().unwrap_or(&self.psk).clone(),
        };
        (credentials.key.is_some() || credentials.rsa.is_some()).then_some(credentials)
    }

    /// Returns true if [`Self::credentials`] finds a usable key, without any work on keys.
    #[must_use]
    pub fn has_credentials(&self, host: &Host) -> bool {
        let (legacy, upgrade) = self.uses_rsa_of(host);
        host.key.is_some() || host.rsa.is_some() && (legacy || upgrade)
    }

    /// Returns whether the RSA key of a host file is used for a legacy link, and whether it is used
    /// for an upgrade to SPTPS.
    fn uses_rsa_of(&self, host: &Host) -> (bool, bool) {
        let min = self.min_protocol(host);
        let legacy = self.rsa.is_some() && min == MinProtocol::Legacy;
        // A node whose MinProtocol is SPTPS can be upgraded only if its host file has an Ed25519
        // key, or LearnKeys may store one.
        let upgrade = self.rsa.is_some()
            && self.sptps
            && (legacy || min == MinProtocol::Sptps && (host.key.is_some() || self.learn_keys));
        (legacy, upgrade)
    }
}

/// Rule that decides which subnets a node may announce. Source: proto/threat-model.md section 2.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubnetPolicy {
    /// All subnets.
    Open,
    /// All subnets but default routes, our own subnets, addresses of the underlay, and subnets that
    /// host files give to other nodes. A subnet in the node's own host file is accepted in any
    /// case.
    Conflict,
    /// Only subnets in the node's host file.
    Covered,
}

/// One Address line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    /// Numeric address or host name.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Settings of {} ({} hosts)", self.name, self.hosts.len())
    }
}
