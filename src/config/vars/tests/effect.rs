//! The effect of a reload on each variable, observed in the settings that it is handed on in: to the
//! mesh, to the pool of links, to the packet path, and to the daemon around them. The expectations
//! stand here; the columns of the rows are not asked.

use meshd_crypto::seal::Aeads;
use meshd_proto::{link::PoolSettings, route::RouteSettings};

use super::*;

/// A value in the settings that are in force, as text.
type Observed = fn(&Config) -> String;

fn host(config: &Config) -> &Host {
    &config.settings.hosts[&NodeName::new("db_01").unwrap()]
}

fn pool(config: &Config) -> PoolSettings {
    config.settings.of_pool(Aeads::of_this_machine())
}

fn route(config: &Config) -> &RouteSettings {
    &config.settings.route
}

/// `sees!(NAME: CONFIG => VALUE)`: the place where the variable NAME shows.
macro_rules! sees {
    ($($name:ident: $config:ident => $value:expr;)*) => {
        &[$((stringify!($name), |$config| format!("{:?}", $value)),)*]
    };
}

/// Variables that a reload applies at once, or to new links.
const LIVE: &[(&str, Observed)] = sees! {
    NativePublicKey: c => c.settings.native_keys(&NodeName::new("db_01").unwrap());
    Expires: c => c.settings.at(u64::MAX / 2).hosts.values().next().unwrap().shut_out;
    Address: c => pool(c).known;
    Subnet: c => c.settings.subnets;
    Weight: c => c.settings.weight;
    Ed25519PublicKeyNext: c => c.settings.credentials(host(c)).and_then(|of| of.next);
    Ed25519PublicKeyNextFrom: c => host(c).next_from;
    Revoked: c => c.settings.at(2_000_000_000).hosts.values().next().unwrap().shut_out;
    RevokedReason: c => host(c).revoked_reason;
    Label: c => host(c).labels;
    Allow: c => c.shell.allow;
    PresharedKeyFile: c => c.settings.psk_of(&NodeName::new("db_01").unwrap());
    ConnectTo: c => c.settings.connect_to;
    AutoConnect: c => c.settings.auto_connect;
    MaxTimeout: c => c.settings.max_timeout;
    StrictSubnets: c => c.settings.strict_subnets;
    SubnetPolicy: c => c.settings.subnet_policy;
    TunnelServer: c => route(c).tunnel_server;
    LearnKeys: c => c.settings.learn_keys;
    Native: c => pool(c).identity.native.is_some();
    MinProtocol: c => c.settings.min_protocol_of(&NodeName::new("db_01").unwrap());
    SourceCheck: c => route(c).source_check;
    MetaRate: c => c.settings.meta_rate;
    LocalDiscovery: c => c.settings.local_discovery;
    UDPDiscovery: c => c.settings.udp_discovery;
    UDPDiscoveryInterval: c => c.settings.udp_discovery_interval;
    UDPDiscoveryKeepaliveInterval: c => c.settings.udp_discovery_keepalive;
    UDPDiscoveryTimeout: c => c.settings.udp_discovery_timeout;
    UDPInfoInterval: c => c.settings.udp_info_interval;
    MTUInfoInterval: c => c.settings.mtu_info_interval;
    PingInterval: c => c.settings.ping_interval;
    PingTimeout: c => pool(c).limit;
    Broadcast: c => route(c).broadcast;
    BroadcastSubnet: c => c.settings.broadcast_subnets;
    MACExpire: c => c.settings.mac_expire;
    Forwarding: c => route(c).forwarding;
    DecrementTTL: c => route(c).decrement_ttl;
    DirectOnly: c => route(c).direct_only;
    Cipher: c => c.settings.suite.to_wire();
    Digest: c => c.settings.suite.to_wire();
    MACLength: c => c.settings.suite.mac;
    Compression: c => c.settings.suite.compression;
    KeyExpire: c => c.settings.key_expire;
    ReplayWindow: c => c.settings.replay_window;
    PriorityInheritance: c => route(c).priority_inheritance;
    PMTU: c => c.settings.pmtu;
    ClampMSS: c => c.settings.options.has(Options::CLAMP_MSS);
    TCPOnly: c => c.settings.options.has(Options::TCP_ONLY);
    IndirectData: c => c.settings.options.has(Options::INDIRECT);
    RunScripts: c => c.shell.run_scripts;
};

/// Variables that wait for a restart.
const RESTART: &[(&str, Observed)] = sees! {
    Mode: c => route(c).mode;
    Interface: c => c.shell.interface;
    DeviceType: c => c.shell.device_type;
    Device: c => c.shell.device;
    InterfaceAddress: c => c.shell.interface_addresses;
    InterfaceRoute: c => c.shell.interface_routes;
    InterfaceMTU: c => c.shell.interface_mtu;
    Port: c => c.shell.port;
    BindToAddress: c => c.shell.bound;
    ListenAddress: c => c.shell.listen;
    BindToInterface: c => c.shell.bind_to_interface;
    AddressFamily: c => c.shell.address_family;
    FWMark: c => c.shell.fwmark;
    Ed25519PrivateKeyFile: c => pool(c).identity.key.public();
    PrivateKeyFile: c => pool(c).identity.rsa.is_some();
    NativePrivateKeyFile: c => c.settings.secret.public();
    Workers: c => c.shell.workers;
    Simd: c => c.shell.simd;
    UDPRcvBuf: c => c.shell.udp_rcvbuf;
    UDPSndBuf: c => c.shell.udp_sndbuf;
    PMTUDiscovery: c => (c.shell.pmtu_discovery, c.settings.options.has(Options::PMTU_DISCOVERY));
    ScriptsInterpreter: c => c.shell.scripts_interpreter;
    ScriptsExtension: c => c.shell.scripts_extension;
    MetricsListen: c => c.shell.metrics_listen;
    LogLevel: c => c.shell.log_level;
    ProcessPriority: c => c.shell.nice;
    Sandbox: c => c.shell.sandbox;
};

/// Returns the configurations before a line, of the files with it, and in force after a reload.
fn reloaded(dir: &TempDir, name: &str) -> [Config; 3] {
    let var = find(name).unwrap();
    let before = load(&source(dir), None).unwrap();
    let line = format!("{name} = {}", var.example);
    let after =
        with_line(dir, &line, var, Some(&before)).unwrap_or_else(|p| panic!("{name}: {p:?}"));
    let force = in_force(&before, &after);
    [before, after, force]
}

#[test]
fn a_live_variable_is_in_force_after_a_reload() {
    let dir = tree();
    for (name, observed) in LIVE {
        let configs = reloaded(&dir, name);
        let [before, after, force] = configs.each_ref().map(observed);
        assert_ne!(before, after, "{name} has no effect");
        assert_eq!(force, after, "{name} is not in force");
        let changes = diff(&configs[0], &configs[1]);
        // Its own change: TCPOnly also sets the default of PMTUDiscovery, which waits.
        let waits =
            |change: &&Change| change.when == When::Restart && change.key.as_deref() == Some(*name);
        assert_eq!(changes.iter().find(waits), None, "{name}");
    }
}

#[test]
fn a_variable_that_waits_for_a_restart_is_reported_and_left() {
    let dir = tree();
    for (name, observed) in RESTART {
        let configs = reloaded(&dir, name);
        let [before, after, force] = configs.each_ref().map(observed);
        assert_ne!(before, after, "{name} has no effect");
        assert_eq!(force, before, "{name} is in force");
        // Also the next reload reports it.
        for old in [&configs[0], &configs[2]] {
            let changes = diff(old, &configs[1]);
            let mut keys = changes.iter().filter(|change| change.when == When::Restart);
            assert!(
                keys.any(|change| change.key.as_deref() == Some(name)),
                "{name}: {changes:?}"
            );
        }
    }
}

#[test]
fn every_variable_that_is_read_has_its_effect_here() {
    let tables = LIVE.iter().chain(RESTART);
    let mut names: Vec<&str> = tables.map(|(name, _)| *name).collect();
    names.sort_unstable();
    let mut read: Vec<&str> = read_rows().map(|var| var.name).collect();
    read.sort_unstable();
    assert_eq!(names, read);
}
