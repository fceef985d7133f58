//! What the mesh must know of the configuration, resolved and typed.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use zeroize::Zeroizing;

use meshd_crypto::{
    PrivateKey, PublicKey,
    noise::{StaticPublic, StaticSecret},
    rsa::{RsaPrivate, RsaPublic},
};
use meshd_wire::{NodeName, Options, Subnet};

use crate::{
    link::{Credentials, Dialect, Upgrade},
    mesh::limits::LINE_RATE,
    route::{RouteSettings, SourceCheck},
    tunnel::legacy::Suite,
};

/// The whole configuration as the mesh sees it. Built by `config`, compared by content on a reload.
#[derive(Clone)]
pub struct Settings {
    /// Our name.
    pub name: NodeName,
    /// Our key.
    pub key: Arc<PrivateKey>,
    /// Whether `key` is in use (ExperimentalProtocol): if not, we speak nothing but legacy.
    pub sptps: bool,
    /// Our RSA key; without it nobody is spoken to in legacy.
    pub rsa: Option<Arc<RsaPrivate>>,
    /// How legacy packets to us are to be made (Cipher, Digest, MACLength, Compression).
    pub suite: Suite,
    /// Our X25519 secret (native): that of `key`, or NativePrivateKeyFile.
    pub secret: Arc<StaticSecret>,
    /// Native: whether we offer native links and tunnels.
    pub native: bool,
    /// MinProtocol, for nodes whose host file does not name it: see [`Self::min_protocol_of`].
    pub min_protocol: Option<MinProtocol>,
    /// LearnKeys: whether an Ed25519 key that a node tells over a link which its RSA key authenticates is written to
    /// its host file, if that has none.
    pub learn_keys: bool,
    /// PresharedKeyFile, for nodes without one of their own, all zero if there is none: see
    /// [`Self::psk_of`].
    pub psk: Zeroizing<[u8; 32]>,
    /// The port that we listen on (announced in ACK).
    pub port: u16,
    /// Whether our own host file has an Address: a status bit of dumps.
    pub has_address: bool,
    /// Our own options (IndirectData, TCPOnly, PMTUDiscovery, ClampMSS), top byte 7.
    pub options: Options,
    /// Our Subnet lines.
    pub subnets: Vec<Subnet>,
    /// BroadcastSubnet lines, the four built-in ones not among them.
    pub broadcast_subnets: Vec<Subnet>,
    /// Every host file that could be read, our own not among them.
    pub hosts: BTreeMap<NodeName, Arc<Host>>,
    /// ConnectTo, our own name not among them, in order.
    pub connect_to: Vec<NodeName>,
    /// AutoConnect.
    pub auto_connect: bool,
    /// MetaRate: flooded lines a second that a neighbour may say of itself for long, 200 to 1,000,000.
    pub meta_rate: u32,
    /// Router switches.
    pub route: RouteSettings,
    /// MACExpire, default 600 s.
    pub mac_expire: Duration,
    /// SubnetPolicy; that of StrictSubnets goes before it.
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
    /// Weight of our own file, if it names one: overrides the measured one.
    pub weight: Option<i32>,
    /// PMTU of our own file, in bytes with the Ethernet header.
    pub pmtu: Option<u16>,
    /// Size of the replay window in packets; 0 = no check.
    pub replay_window: u32,
}

/// One host file.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Its Ed25519 key.
    pub key: Option<PublicKey>,
    /// Why its Ed25519 key cannot be read, if there is one that cannot; then `key` is none, and `rsa` some.
    pub bad_key: Option<String>,
    /// Its RSA key.
    pub rsa: Option<RsaPublic>,
    /// Whether its legacy packets may go without cipher (Cipher = none).
    pub null_cipher: bool,
    /// Whether its legacy packets may go without MAC (Digest = none or MACLength = 0).
    pub null_digest: bool,
    /// Ed25519PublicKeyNext: as good as `key`, while the node changes from the one to the other.
    pub next: Option<PublicKey>,
    /// Ed25519PublicKeyNextFrom, in seconds since 1970: before it `next` does not count.
    pub next_from: Option<u64>,
    /// Expires, in seconds since 1970.
    pub expires: Option<u64>,
    /// Revoked, in seconds since 1970.
    pub revoked: Option<u64>,
    /// RevokedReason.
    pub revoked_reason: Option<String>,
    /// Whether it is shut out now, and why; [`Self::at`] says so.
    pub shut_out: Option<String>,
    /// Label lines.
    pub labels: BTreeMap<String, String>,
    /// NativePublicKey: takes the place of the X25519 form of `key`.
    pub native: Option<StaticPublic>,
    /// MinProtocol, if the file names it.
    pub min: Option<MinProtocol>,
    /// SourceCheck, if the file names it: goes before ours.
    pub source_check: Option<SourceCheck>,
    /// The secret that we share with this node alone (`psk.d/NODE`, not the host file).
    pub psk: Option<Zeroizing<[u8; 32]>>,
    /// Its Address lines, ports filled in.
    pub addresses: Vec<HostAddress>,
    /// Its Subnet lines.
    pub subnets: Vec<Subnet>,
    /// IndirectData.
    pub indirect: bool,
    /// TCPOnly.
    pub tcp_only: bool,
    /// ClampMSS, if the file names it.
    pub clamp_mss: Option<bool>,
    /// PMTU, in bytes with the Ethernet header.
    pub pmtu: Option<u16>,
    /// Weight.
    pub weight: Option<i32>,
    /// Addresses that worked before, most recent first (our cache, not the file).
    pub cached: Vec<SocketAddr>,
}

/// What a node must speak at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MinProtocol {
    /// Anything that meshd speaks.
    Legacy,
    /// SPTPS, as tinc 1.1 does.
    Sptps,
    /// Native links and tunnels, with no way back to SPTPS.
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
    /// The X25519 keys that the node may prove, each as good as the others: that of its Ed25519 key or
    /// NativePublicKey, then that of Ed25519PublicKeyNext.
    #[must_use]
    pub fn native_keys(&self) -> Vec<StaticPublic> {
        let mapped = |key: &Option<PublicKey>| key.as_ref().map(StaticPublic::of);
        let first = self.native.or_else(|| mapped(&self.key));
        first.into_iter().chain(mapped(&self.next)).collect()
    }
}

impl Settings {
    /// A node of this name and key with the defaults of the variables, that knows nobody, connects to
    /// nobody and speaks no native.
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

    /// The X25519 keys that a node may prove; see [`Host::native_keys`]. Empty if it is not known.
    #[must_use]
    pub fn native_keys(&self, node: &NodeName) -> Vec<StaticPublic> {
        let host = self.hosts.get(node);
        host.map(|host| host.native_keys()).unwrap_or_default()
    }

    /// The most that we speak.
    #[must_use]
    pub fn offers(&self) -> Dialect {
        match (self.sptps, self.native) {
            (false, _) => Dialect::Legacy,
            (true, false) => Dialect::Sptps,
            (true, true) => Dialect::Native,
        }
    }

    /// What a node must speak at least: its host file's word, else ours, else what its keys are for.
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

    /// Whether packets may go to a node in legacy, if it speaks nothing else.
    #[must_use]
    pub fn allows_legacy(&self, node: &NodeName) -> bool {
        self.rsa.is_some() && self.min_protocol_of(node) == MinProtocol::Legacy
    }

    /// Whether a node that nothing but hearsay is known of may be spoken to in legacy where a legacy neighbour leads
    /// to it: that one could read its packets anyway. tinc 1.0 knows most nodes so.
    #[must_use]
    pub fn allows_hearsay(&self, node: &NodeName) -> bool {
        self.rsa.is_some() && self.min_protocol.is_none() && !self.hosts.contains_key(node)
    }

    /// The secret that we share with a node besides all keys: its own, else that of all; all zero if
    /// there is none.
    #[must_use]
    pub fn psk_of(&self, node: &NodeName) -> &[u8; 32] {
        let host = self.hosts.get(node);
        host.and_then(|host| host.psk.as_ref()).unwrap_or(&self.psk)
    }

    /// What a link must know of the node of a host file; `None` without a key that would do.
    #[must_use]
    pub fn credentials(&self, host: &Host) -> Option<Credentials> {
        let min = self.min_protocol(host);
        let legacy = self.rsa.is_some() && min == MinProtocol::Legacy;
        // A key of a node that must speak more than legacy is of use if it may be stored.
        let upgrade = self.rsa.is_some()
            && self.sptps
            && (legacy || min == MinProtocol::Sptps && (host.key.is_some() || self.learn_keys));
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
}

/// Which subnets a node may announce. Source: proto/threat-model.md section 2.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubnetPolicy {
    /// All.
    Open,
    /// All but those that host files give to others, default routes, our own, and addresses of the underlay; what its
    /// own host file gives to it in any case.
    Conflict,
    /// What its host file gives to it.
    Covered,
}

/// One Address line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    /// Numeric address or name.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Settings of {} ({} hosts)", self.name, self.hosts.len())
    }
}
