//! What the mesh must know of the configuration, resolved and typed.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    crypto::{PrivateKey, PublicKey},
    route::RouteSettings,
    wire::{NodeName, Options, Subnet},
};

/// The whole configuration as the mesh sees it. Built by `config`, compared by content on a reload.
#[derive(Clone)]
pub struct Settings {
    /// Our name.
    pub name: NodeName,
    /// Our key.
    pub key: Arc<PrivateKey>,
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
    /// Router switches.
    pub route: RouteSettings,
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
