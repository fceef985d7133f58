//! Converts merged lines to typed settings. Defaults are those of the table, which are tinc 1.1's.
//!
//! Source: config/tinc.md section 2.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::{Access, access},
    io::Errno,
};
use zeroize::Zeroizing;

use meshd_crypto::{PrivateKey, noise::StaticSecret, rsa::RsaPrivate};
use meshd_proto::{
    mesh::{
        Settings,
        settings::{Host, MinProtocol, SubnetPolicy},
    },
    route::{Broadcast, Forwarding, Mode, RouteSettings, SourceCheck},
};
use meshd_wire::{NodeName, Options, Subnet};

use crate::{
    Config, DeviceType, Problem, Shell, Source,
    allow::{Allow, Whom},
    host, keys, legacy,
    merged::{Reader, Tree},
    shell, values,
};

/// Default of Ed25519PrivateKeyFile in tinc.
pub(super) const ED25519_KEY: &str = "ed25519_key.priv";
/// PingInterval for a value below 1, in seconds.
const PING_NEVER: u64 = 86_400;
/// Largest replay window in bytes of 8 packets: 512 Ki packets, 64 KiB for each node. Higher values are lowered to it.
const MAX_REPLAY_BYTES: i32 = 65_536;

/// Returns the settings; `None` without a name or key. Adds every error to `problems`.
pub(super) fn build(
    source: &Source,
    tree: &Tree,
    name: Option<NodeName>,
    hosts: BTreeMap<NodeName, Arc<Host>>,
    last: Option<&Config>,
    problems: &mut Vec<Problem>,
) -> Option<(Settings, Shell)> {
    let mut reader = Reader::new(tree);
    let mode = mode(&mut reader);
    let device_type = supported(&mut reader, mode);
    let port = reader
        .one("Port", values::port)
        .unwrap_or(values::DEFAULT_PORT);
    let options = options(&mut reader);
    let shell = shell::shell(source, &mut reader, device_type, port, options);
    check_allow(&mut reader, name.as_ref(), &hosts, mode);
    let experimental = reader.boolean("ExperimentalProtocol");
    let secrets = secrets(source, tree, last, experimental, &mut reader.problems);
    if let (Some(name), Some(secrets)) = (&name, &secrets) {
        check_own_rsa(source, name, secrets, tree, &mut reader.problems);
        if secrets.sptps {
            check_own_key(source, name, &secrets.key, tree, &mut reader.problems);
            check_native_key(source, name, &secrets.native, tree, &mut reader.problems);
        }
    }
    let parts = name
        .zip(secrets)
        .map(|(name, secrets)| settings(&mut reader, name, secrets, port, options, hosts, mode));
    problems.append(&mut reader.problems);
    parts.map(|settings| (settings, shell))
}

fn mode(reader: &mut Reader<'_>) -> Mode {
    match reader.word("Mode") {
        "switch" => Mode::Switch,
        "hub" => Mode::Hub,
        _ => Mode::Router,
    }
}

/// Returns the kind of device. Refuses combinations that would change the meaning of the file.
fn supported(reader: &mut Reader<'_>, mode: Mode) -> DeviceType {
    let device = match reader.word("DeviceType") {
        "" if mode == Mode::Router => "tun",
        "" => "tap",
        device => device,
    };
    let refuse = [
        (
            "DeviceType",
            !matches!(device, "tun" | "tap" | "dummy"),
            "meshd supports only DeviceType = tun, tap and dummy",
        ),
        (
            "DeviceType",
            device == "tun" && mode != Mode::Router,
            "Mode = switch and hub need frames, which a tun device lacks; use DeviceType = tap",
        ),
    ];
    for (name, wrong, text) in refuse {
        if let Some(entry) = reader.tree.first(name).filter(|_| wrong) {
            reader.problems.push(entry.error(text));
        }
    }
    match device {
        "tap" => DeviceType::Tap,
        "dummy" => DeviceType::Dummy,
        _ => DeviceType::Tun,
    }
}

/// Refuses rules in modes where an address has no owner, and warns of rules that match no node.
fn check_allow(
    reader: &mut Reader<'_>,
    own: Option<&NodeName>,
    hosts: &BTreeMap<NodeName, Arc<Host>>,
    mode: Mode,
) {
    for entry in reader.tree.all("Allow") {
        if mode != Mode::Router {
            let text =
                "Allow needs Mode = router, because addresses in frames have no owner; remove it";
            reader.problems.push(entry.error(text));
            continue;
        }
        let Ok(Allow { from, .. }) = Allow::parse(&entry.value) else {
            continue;
        };
        let nobody = !hosts.iter().any(|(name, host)| from.means(name, host));
        let text = match &from {
            _ if !nobody => continue,
            Whom::All => continue,
            Whom::Node(node) if Some(node) == own => {
                "this rule names our own node; remove it".into()
            }
            Whom::Node(node) => {
                format!("there is no usable hosts/{node}, so this rule has no effect")
            }
            Whom::Label(..) => {
                format!("no host file has the label {from}, so this rule has no effect")
            }
        };
        reader.problems.push(entry.warning(text));
    }
}

fn options(reader: &mut Reader<'_>) -> Options {
    let tcp_only = reader.flag("TCPOnly");
    let mut bits = 0;
    let mut set = |bit, on| bits |= if on { bit } else { 0 };
    set(Options::TCP_ONLY, tcp_only);
    set(Options::INDIRECT, tcp_only || reader.flag("IndirectData"));
    set(
        Options::PMTU_DISCOVERY,
        reader.boolean("PMTUDiscovery").unwrap_or(!tcp_only),
    );
    set(Options::CLAMP_MSS, reader.flag("ClampMSS"));
    Options(bits).with_minor(Options::OUR_MINOR)
}

/// Our secrets.
struct Secrets {
    key: Arc<PrivateKey>,
    /// True if `key` is not a placeholder.
    sptps: bool,
    rsa: Option<Arc<RsaPrivate>>,
    native: Arc<StaticSecret>,
    psk: Zeroizing<[u8; 32]>,
}

fn secrets(
    source: &Source,
    tree: &Tree,
    last: Option<&Config>,
    experimental: Option<bool>,
    problems: &mut Vec<Problem>,
) -> Option<Secrets> {
    let named = |variable| tree.first(variable).map(|e| PathBuf::from(&e.value));
    let last = last.map(|last| &last.settings);
    let rsa = own_rsa(
        source,
        tree,
        last.and_then(|last| last.rsa.as_ref()),
        problems,
    )?;
    let shown = ed25519_file(tree);
    // A directory of tinc 1.0 has no such file. Then meshd acts as a 1.0, as tinc 1.1 does.
    let missing = experimental.is_none() && !source.base.join(&shown).exists();
    let sptps = experimental != Some(false) && !(missing && rsa.is_some());
    if missing && !sptps {
        let text = "no such file, so this node speaks only the legacy protocol of tinc 1.0; `meshctl keygen` makes a key";
        problems.push(Problem::warning(&shown, 0, text));
    }
    if keys::unfinished(&source.base.join(&shown)).exists() {
        let text = "a new key pair is incomplete; `meshctl keygen` completes it";
        problems.push(Problem::warning(&shown, 0, text));
    }
    let key = match (sptps, &rsa) {
        (true, _) => read_or_keep(source, &shown, last.map(|last| &last.key), |path| {
            keys::read_private(path, &shown, tree.is_toml(), problems).map(Arc::new)
        }),
        // A placeholder that never leaves the daemon. It is as secret as the RSA key, and equal at every reload.
        (false, Some(rsa)) => Some(Arc::new(PrivateKey::from_seed(&rsa.stand_in_seed()))),
        (false, None) => {
            let text = "ExperimentalProtocol = no needs rsa_key.priv, which does not exist; remove the line, or restore that file";
            problems.extend(
                tree.first("ExperimentalProtocol")
                    .map(|entry| entry.error(text)),
            );
            None
        }
    };
    let native = named("NativePrivateKeyFile").map(|shown| {
        read_or_keep(source, &shown, last.map(|last| &last.secret), |path| {
            let secret = keys::read_secret(path, &shown, problems)?;
            Some(Arc::new(StaticSecret::from_bytes(secret)))
        })
    });
    let psk = named("PresharedKeyFile").map(|shown| {
        read_or_keep(source, &shown, last.map(|last| &last.psk), |path| {
            keys::read_secret(path, &shown, problems)
        })
    });
    let key = key?;
    Some(Secrets {
        sptps,
        rsa,
        native: native.unwrap_or_else(|| Some(Arc::new(StaticSecret::of(&key))))?,
        psk: psk.unwrap_or_else(|| Some(Zeroizing::default()))?,
        key,
    })
}

/// Reads our RSA key, if it exists. Outer `None`: it exists and is invalid.
#[expect(
    clippy::option_option,
    reason = "no RSA key is legal, a bad one is not"
)]
fn own_rsa(
    source: &Source,
    tree: &Tree,
    last: Option<&Arc<RsaPrivate>>,
    problems: &mut Vec<Problem>,
) -> Option<Option<Arc<RsaPrivate>>> {
    let (shown, named) = legacy::private_key_file(tree);
    let wanted = named || tree.first("PrivateKey").is_some();
    if !wanted && !source.base.join(&shown).exists() {
        return Some(None);
    }
    let key = read_or_keep(source, &shown, last, |path| {
        legacy::private_key(tree, path, &shown, problems).map(Arc::new)
    });
    key.map(Some)
}

/// Warns if the RSA key in our host file is not ours, because other nodes then refuse us in legacy.
fn check_own_rsa(
    source: &Source,
    name: &NodeName,
    secrets: &Secrets,
    tree: &Tree,
    problems: &mut Vec<Problem>,
) {
    let Some(private) = &secrets.rsa else { return };
    let shown = host::host_path(source, name);
    let text = host::pem_text(source, &shown);
    let public = legacy::public_key(tree, &source.base, &shown, &text, false, problems);
    let text = match public {
        Some(key) if key == private.public() => return,
        Some(_) => {
            "its RSA public key does not match our private key, so other nodes refuse this node in legacy"
        }
        // Only a node without another key needs an RSA key there.
        None if secrets.sptps => return,
        None => "it has no RSA public key, so other nodes cannot verify this node",
    };
    problems.push(Problem::warning(&shown, 0, text));
}

/// Reads a secret file, or keeps its value from the start: after -U, a reload may lack the permission to read it.
fn read_or_keep<T: Clone>(
    source: &Source,
    shown: &Path,
    last: Option<&T>,
    read: impl FnOnce(&Path) -> Option<T>,
) -> Option<T> {
    let path = source.base.join(shown);
    match last {
        Some(last) if access(&path, Access::READ_OK) == Err(Errno::ACCESS) => Some(last.clone()),
        _ => read(&path),
    }
}

/// Warns if the public key in our host file is not ours, because other nodes then refuse us.
fn check_own_key(
    source: &Source,
    name: &NodeName,
    private: &PrivateKey,
    tree: &Tree,
    problems: &mut Vec<Problem>,
) {
    let shown = host::host_path(source, name);
    let text = host::pem_text(source, &shown);
    let mut found = Vec::new();
    let public = host::key(tree, &source.base, &shown, &text, &mut found);
    // Other nodes use our own host file: its key problems do not stop us.
    problems.extend(found.into_iter().map(|problem| Problem {
        error: false,
        ..problem
    }));
    let text = match public {
        Some(Some(key)) if key == private.public() => return,
        Some(Some(_)) => {
            "its Ed25519PublicKey does not match our private key, so other nodes refuse this node"
        }
        _ => "it has no Ed25519PublicKey, so other nodes cannot verify this node",
    };
    let text = format!("{text}; it should be {}", private.public());
    problems.push(Problem::warning(&shown, 0, text));
}

/// Warns if our host file shows another native key, because other nodes then refuse our native links.
fn check_native_key(
    source: &Source,
    name: &NodeName,
    secret: &StaticSecret,
    tree: &Tree,
    problems: &mut Vec<Problem>,
) {
    let ours = secret.public();
    let shown = tree
        .first("NativePublicKey")
        .map(|entry| keys::native_key(&entry.value) == Ok(ours));
    let text = match (shown, tree.first("NativePrivateKeyFile").is_some()) {
        (Some(true), _) | (None, false) => return,
        (Some(false), true) => {
            format!("its NativePublicKey does not match our key; it should be {ours}")
        }
        (Some(false), false) => {
            "its NativePublicKey has no NativePrivateKeyFile; remove the line".into()
        }
        (None, true) => format!("it has no NativePublicKey; it should be {ours}"),
    };
    problems.push(Problem::warning(&host::host_path(source, name), 0, text));
}

/// Returns true if we offer native, and the lowest protocol for nodes whose host files set none.
fn protocols(reader: &mut Reader<'_>, sptps: bool) -> (bool, Option<MinProtocol>) {
    let native = reader.flag("Native") && sptps;
    let min = host::min_protocol(reader);
    let text = match min {
        Some(MinProtocol::Native) if !native => {
            "MinProtocol = native needs Native = yes, otherwise no link is possible"
        }
        Some(MinProtocol::Sptps) if !sptps => {
            "MinProtocol = sptps needs our Ed25519 key and ExperimentalProtocol = yes, otherwise no link is possible"
        }
        _ => return (native, min),
    };
    if let Some(entry) = reader.tree.first("MinProtocol") {
        reader.problems.push(entry.error(text));
    }
    (native, min)
}

fn settings(
    reader: &mut Reader<'_>,
    name: NodeName,
    secrets: Secrets,
    port: u16,
    options: Options,
    hosts: BTreeMap<NodeName, Arc<Host>>,
    mode: Mode,
) -> Settings {
    let tunnel_server = reader.flag("TunnelServer");
    let (subnet_policy, strict) = match reader.word("SubnetPolicy") {
        "open" => (SubnetPolicy::Open, false),
        "covered" => (SubnetPolicy::Covered, false),
        policy => (SubnetPolicy::Conflict, policy == "strict"),
    };
    let strict_subnets = reader.flag("StrictSubnets") || tunnel_server || strict;
    let (ping_interval, ping_timeout) = pings(reader);
    let max_timeout = reader.number("MaxTimeout", 1, i32::MAX).unsigned_abs();
    let (native, min_protocol) = protocols(reader, secrets.sptps);
    let options = match secrets.sptps {
        true => options,
        false => options.with_minor(0),
    };
    let replay_bytes = reader
        .number("ReplayWindow", 0, i32::MAX)
        .min(MAX_REPLAY_BYTES);
    Settings {
        port,
        has_address: reader.tree.first("Address").is_some(),
        options,
        subnets: reader.each("Subnet", Subnet::from_config),
        broadcast_subnets: broadcast_subnets(reader),
        connect_to: connect_to(reader, &name, &hosts),
        auto_connect: reader.flag("AutoConnect"),
        route: route(reader, tunnel_server, mode),
        mac_expire: reader.seconds("MACExpire"),
        subnet_policy,
        strict_subnets,
        local_discovery: reader.flag("LocalDiscovery"),
        udp_discovery: reader.flag("UDPDiscovery"),
        udp_discovery_interval: reader.seconds("UDPDiscoveryInterval"),
        udp_discovery_keepalive: reader.seconds("UDPDiscoveryKeepaliveInterval"),
        udp_discovery_timeout: reader.seconds("UDPDiscoveryTimeout"),
        udp_info_interval: reader.seconds("UDPInfoInterval"),
        mtu_info_interval: reader.seconds("MTUInfoInterval"),
        ping_interval,
        ping_timeout,
        key_expire: reader.seconds("KeyExpire"),
        max_timeout: Duration::from_secs(max_timeout.into()),
        weight: reader.int("Weight"),
        pmtu: host::pmtu(reader),
        replay_window: replay_bytes.unsigned_abs() * 8,
        name,
        key: secrets.key,
        sptps: secrets.sptps,
        rsa: secrets.rsa,
        suite: legacy::suite(reader),
        secret: secrets.native,
        native,
        min_protocol,
        learn_keys: reader.flag("LearnKeys"),
        meta_rate: reader.number("MetaRate", 200, 1_000_000).unsigned_abs(),
        psk: secrets.psk,
        hosts,
    }
}

/// PingInterval below 1 means never; PingTimeout is 1 to PingInterval, else PingInterval.
fn pings(reader: &mut Reader<'_>) -> (Duration, Duration) {
    let seconds = |n: i32| u64::try_from(n).ok().filter(|n| *n > 0);
    let interval = seconds(reader.number("PingInterval", i32::MIN, i32::MAX)).unwrap_or(PING_NEVER);
    let timeout = seconds(reader.number("PingTimeout", i32::MIN, i32::MAX));
    let fits = timeout.filter(|t| *t <= interval);
    if let (None, Some(entry)) = (fits, reader.tree.first("PingTimeout")) {
        let text = format!("PingTimeout must be 1 to PingInterval; meshd uses {interval}");
        reader.problems.push(entry.warning(text));
    }
    let timeout = fits.unwrap_or(interval);
    (Duration::from_secs(interval), Duration::from_secs(timeout))
}

/// An invalid subnet affects only its line, as a peer's would (config/tinc.md section 1.4).
fn broadcast_subnets(reader: &mut Reader<'_>) -> Vec<Subnet> {
    let before = reader.problems.len();
    let subnets = reader.each("BroadcastSubnet", Subnet::from_config);
    reader.problems[before..]
        .iter_mut()
        .for_each(|p| p.error = false);
    subnets
}

/// Reports and skips invalid names and names without a host file. Skips our own name.
fn connect_to(
    reader: &mut Reader<'_>,
    own: &NodeName,
    hosts: &BTreeMap<NodeName, Arc<Host>>,
) -> Vec<NodeName> {
    let mut names = Vec::new();
    for entry in reader.tree.all("ConnectTo") {
        let name = match NodeName::new(&entry.value) {
            Ok(name) => name,
            Err(error) => {
                reader
                    .problems
                    .push(entry.warning(format!("{error}; the line is ignored")));
                continue;
            }
        };
        if name == *own || names.contains(&name) {
            continue;
        }
        let text = match hosts.get(&name) {
            None => Some(format!(
                "there is no usable hosts/{name}; copy it from that node"
            )),
            Some(host) if host.key.is_none() && host.rsa.is_none() => Some(format!(
                "hosts/{name} has no public key, so no link is possible"
            )),
            Some(host) if host.addresses.is_empty() => {
                Some(format!("hosts/{name} has no Address to dial"))
            }
            Some(_) => None,
        };
        reader.problems.extend(text.map(|text| entry.warning(text)));
        names.push(name);
    }
    names
}

fn route(reader: &mut Reader<'_>, tunnel_server: bool, mode: Mode) -> RouteSettings {
    RouteSettings {
        mode,
        forwarding: match reader.word("Forwarding") {
            "off" => Forwarding::Off,
            "kernel" => Forwarding::Kernel,
            _ => Forwarding::Internal,
        },
        broadcast: match reader.word("Broadcast") {
            "no" => Broadcast::No,
            "direct" => Broadcast::Direct,
            _ => Broadcast::Mst,
        },
        decrement_ttl: reader.flag("DecrementTTL"),
        direct_only: reader.flag("DirectOnly"),
        priority_inheritance: reader.flag("PriorityInheritance"),
        tunnel_server,
        source_check: source_check(reader),
    }
}

/// Reads SourceCheck of our files or of a host file.
pub(super) fn source_check(reader: &mut Reader<'_>) -> SourceCheck {
    match reader.word("SourceCheck") {
        "no" => SourceCheck::No,
        "strict" => SourceCheck::Strict,
        _ => SourceCheck::Native,
    }
}

/// Returns the file of our Ed25519 key.
pub(super) fn ed25519_file(tree: &Tree) -> PathBuf {
    let named = tree.first("Ed25519PrivateKeyFile");
    named.map_or_else(|| ED25519_KEY.into(), |entry| (&entry.value).into())
}
