//! Describes the changes of a reload, and the variables that need a restart.
//!
//! Compares content: order, comments and file times do not matter.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
};

use meshd_crypto::rsa::RsaPrivate;
use meshd_proto::{
    mesh::{Settings, settings::Host},
    route::RouteSettings,
};
use meshd_wire::{NodeName, Options};

use crate::{Config, Problem, Shell};

/// The difference of two configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// One sentence each, in the order of the files: our files first, then host files by name.
    pub changed: Vec<String>,
    /// Variables whose new value needs a restart, in the spelling of the table.
    pub restart_needed: Vec<&'static str>,
}

impl Diff {
    /// True without changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.restart_needed.is_empty()
    }

    fn value<T: PartialEq + Debug>(&mut self, name: &str, old: &T, new: &T) {
        if old != new {
            self.changed
                .push(format!("{name}: {} -> {}", shown(old), shown(new)));
        }
    }

    fn restart<T: PartialEq + Debug>(&mut self, name: &'static str, old: &T, new: &T) {
        if old != new {
            let (old, new) = (shown(old), shown(new));
            self.changed
                .push(format!("{name}: {old} -> {new}, after a restart"));
            self.restart_needed.push(name);
        }
    }

    fn list<T: PartialEq + Debug>(&mut self, name: &str, old: &[T], new: &[T]) {
        let before = self.changed.len();
        for gone in old.iter().filter(|item| !new.contains(item)) {
            self.changed.push(format!("{name} {gone:?} is gone"));
        }
        for added in new.iter().filter(|item| !old.contains(item)) {
            self.changed.push(format!("{name} {added:?} is new"));
        }
        if old != new && self.changed.len() == before {
            self.changed.push(format!("{name}: the order changed"));
        }
    }
}

/// True if the new RunScripts adds a script that the script process did not start with.
fn runs_more(old: Option<&[&str]>, new: Option<&[&str]>) -> bool {
    match (old, new) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(old), Some(new)) => new.iter().any(|script| !old.contains(script)),
    }
}

/// Formats a value for people, without Rust's `Some` and `None`.
fn shown(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    match text
        .strip_prefix("Some(")
        .and_then(|text| text.strip_suffix(')'))
    {
        Some(text) => text.into(),
        None if text == "None" => "nothing".into(),
        None => text,
    }
}

/// Returns the changes from `old` to `new`.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Diff {
    let mut diff = Diff::default();
    settings(&mut diff, &old.settings, &new.settings);
    shell(&mut diff, &old.shell, &new.shell);
    diff
}

/// Returns the number of files that differ from the running configuration, or that are unusable. All files but host
/// files count as one.
#[must_use]
pub fn drifted(running: &Config, read: &Result<Config, Vec<Problem>>) -> usize {
    let changed = match read {
        Ok(new) => diff(running, new).changed,
        Err(_) => Vec::new(),
    };
    let changed = changed.iter().map(|line| {
        let first = line.split(' ').next().unwrap_or_default();
        first.strip_prefix("hosts/").unwrap_or_default().to_owned()
    });
    // A partly applied file is in force.
    let broken = match read {
        Ok(new) => new.not_taken.clone(),
        Err(problems) => {
            let broken = problems.iter().filter(|problem| problem.error);
            broken.map(|problem| problem.file.clone()).collect()
        }
    };
    let broken = broken.iter().map(|file| match file.strip_prefix("hosts") {
        Ok(name) => name.with_extension("").display().to_string(),
        Err(_) => String::new(),
    });
    changed.chain(broken).collect::<BTreeSet<_>>().len()
}

fn settings(diff: &mut Diff, old: &Settings, new: &Settings) {
    // Destructured in full, so that a new field cannot be forgotten here.
    let Settings {
        name,
        key,
        sptps,
        rsa,
        suite,
        secret,
        native,
        min_protocol,
        learn_keys,
        psk,
        port: _,        // in the shell's part
        has_address: _, // shown only
        options,
        subnets,
        broadcast_subnets,
        hosts,
        connect_to,
        auto_connect,
        meta_rate,
        route,
        mac_expire,
        subnet_policy,
        strict_subnets,
        local_discovery,
        udp_discovery,
        udp_discovery_interval,
        udp_discovery_keepalive,
        udp_discovery_timeout,
        udp_info_interval,
        mtu_info_interval,
        ping_interval,
        ping_timeout,
        key_expire,
        max_timeout,
        weight,
        pmtu,
        replay_window,
    } = new;
    diff.restart("Name", &old.name, name);
    let keys = (old.key.public(), key.public());
    diff.restart("Ed25519PrivateKeyFile", &keys.0, &keys.1);
    diff.restart("ExperimentalProtocol", &old.sptps, sptps);
    let public = |key: &Option<Arc<RsaPrivate>>| key.as_ref().map(|key| key.public());
    diff.restart("PrivateKeyFile", &public(&old.rsa), &public(rsa));
    diff.value("Cipher, Digest, MACLength, Compression", &old.suite, suite);
    let natives = (old.secret.public(), secret.public());
    if keys.0 == keys.1 {
        diff.restart("NativePrivateKeyFile", &natives.0, &natives.1);
    }
    diff.value("Native", &old.native, native);
    diff.value("MinProtocol", &old.min_protocol, min_protocol);
    diff.value("LearnKeys", &old.learn_keys, learn_keys);
    if old.psk != *psk {
        diff.changed.push("PresharedKeyFile: another key".into());
    }
    for (bit, variable) in [
        (Options::TCP_ONLY, "TCPOnly"),
        (Options::INDIRECT, "IndirectData"),
        (Options::CLAMP_MSS, "ClampMSS"),
    ] {
        diff.value(variable, &old.options.has(bit), &options.has(bit));
    }
    diff.list("Subnet", &old.subnets, subnets);
    diff.list("BroadcastSubnet", &old.broadcast_subnets, broadcast_subnets);
    diff.list("ConnectTo", &old.connect_to, connect_to);
    diff.value("AutoConnect", &old.auto_connect, auto_connect);
    diff.value("MetaRate", &old.meta_rate, meta_rate);
    router(diff, &old.route, route);
    diff.value("MACExpire", &old.mac_expire, mac_expire);
    diff.value("SubnetPolicy", &old.subnet_policy, subnet_policy);
    diff.value("StrictSubnets", &old.strict_subnets, strict_subnets);
    diff.value("LocalDiscovery", &old.local_discovery, local_discovery);
    diff.value("UDPDiscovery", &old.udp_discovery, udp_discovery);
    diff.value("PingInterval", &old.ping_interval, ping_interval);
    diff.value("PingTimeout", &old.ping_timeout, ping_timeout);
    diff.value("KeyExpire", &old.key_expire, key_expire);
    diff.value("MaxTimeout", &old.max_timeout, max_timeout);
    diff.value(
        "UDPDiscoveryInterval",
        &old.udp_discovery_interval,
        udp_discovery_interval,
    );
    diff.value(
        "UDPDiscoveryKeepaliveInterval",
        &old.udp_discovery_keepalive,
        udp_discovery_keepalive,
    );
    diff.value(
        "UDPDiscoveryTimeout",
        &old.udp_discovery_timeout,
        udp_discovery_timeout,
    );
    diff.value("UDPInfoInterval", &old.udp_info_interval, udp_info_interval);
    diff.value("MTUInfoInterval", &old.mtu_info_interval, mtu_info_interval);
    diff.value("Weight", &old.weight, weight);
    diff.value("PMTU", &old.pmtu, pmtu);
    diff.value("ReplayWindow (packets)", &old.replay_window, replay_window);
    hosts_changed(diff, &old.hosts, hosts);
}

fn router(diff: &mut Diff, old: &RouteSettings, new: &RouteSettings) {
    let RouteSettings {
        mode,
        forwarding,
        broadcast,
        decrement_ttl,
        direct_only,
        priority_inheritance,
        tunnel_server,
        source_check,
    } = new;
    diff.restart("Mode", &old.mode, mode);
    diff.value("SourceCheck", &old.source_check, source_check);
    diff.value("Forwarding", &old.forwarding, forwarding);
    diff.value("Broadcast", &old.broadcast, broadcast);
    diff.value("DecrementTTL", &old.decrement_ttl, decrement_ttl);
    diff.value("DirectOnly", &old.direct_only, direct_only);
    diff.value(
        "PriorityInheritance",
        &old.priority_inheritance,
        priority_inheritance,
    );
    diff.value("TunnelServer", &old.tunnel_server, tunnel_server);
}

type Hosts = BTreeMap<NodeName, Arc<Host>>;

fn hosts_changed(diff: &mut Diff, old: &Hosts, new: &Hosts) {
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        diff.changed.push(format!("hosts/{name} is gone"));
    }
    for (name, host) in new {
        let Some(before) = old.get(name) else {
            diff.changed.push(format!("hosts/{name} is new"));
            continue;
        };
        let what = host_changes(before, host);
        if !what.is_empty() {
            let what = what.join(", ");
            diff.changed.push(format!("hosts/{name} changed: {what}"));
        }
    }
}

fn host_changes(old: &Host, new: &Host) -> Vec<&'static str> {
    let Host {
        key,
        bad_key,
        rsa,
        null_cipher,
        null_digest,
        next,
        next_from,
        expires,
        revoked,
        revoked_reason,
        shut_out: _, // what the time makes of the two above
        labels,
        native,
        min,
        source_check,
        psk,
        addresses,
        subnets,
        indirect,
        tcp_only,
        clamp_mss,
        pmtu,
        weight,
        cached: _, // ours, not the operator's
    } = new;
    [
        (
            "Ed25519PublicKey",
            (old.key, &old.bad_key) != (*key, bad_key),
        ),
        ("Ed25519PublicKeyNext", old.next != *next),
        ("Ed25519PublicKeyNextFrom", old.next_from != *next_from),
        ("Expires", old.expires != *expires),
        ("Revoked", old.revoked != *revoked),
        ("RevokedReason", old.revoked_reason != *revoked_reason),
        ("Label", old.labels != *labels),
        ("RSA public key", old.rsa != *rsa),
        ("Cipher", old.null_cipher != *null_cipher),
        ("Digest", old.null_digest != *null_digest),
        ("NativePublicKey", old.native != *native),
        ("MinProtocol", old.min != *min),
        ("SourceCheck", old.source_check != *source_check),
        ("psk.d", old.psk != *psk),
        ("Address", old.addresses != *addresses),
        ("Subnet", old.subnets != *subnets),
        ("IndirectData", old.indirect != *indirect),
        ("TCPOnly", old.tcp_only != *tcp_only),
        ("ClampMSS", old.clamp_mss != *clamp_mss),
        ("PMTU", old.pmtu != *pmtu),
        ("Weight", old.weight != *weight),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect()
}

fn shell(diff: &mut Diff, old: &Shell, new: &Shell) {
    let Shell {
        interface,
        device,
        device_type,
        interface_addresses,
        interface_routes,
        interface_routes_auto,
        interface_mtu,
        port,
        listen,
        bind,
        bind_to_interface,
        address_family,
        fwmark,
        metrics_listen,
        key_made: _,
        workers,
        udp_rcvbuf,
        udp_sndbuf,
        sandbox,
        scripts_interpreter,
        scripts_extension,
        run_scripts,
        scripts_at_start: _,
        allow,
        nice,
        log_level,
        pmtu_discovery,
    } = new;
    diff.restart("Interface", &old.interface, interface);
    diff.restart("Device", &old.device, device);
    diff.restart("DeviceType", &old.device_type, device_type);
    diff.restart(
        "InterfaceAddress",
        &old.interface_addresses,
        interface_addresses,
    );
    let routes = |routes: &[_], auto: bool| (routes.to_vec(), auto);
    diff.restart(
        "InterfaceRoute",
        &routes(&old.interface_routes, old.interface_routes_auto),
        &routes(interface_routes, *interface_routes_auto),
    );
    diff.restart("InterfaceMTU", &old.interface_mtu, interface_mtu);
    diff.restart("Port", &old.port, port);
    if old.port == *port {
        diff.restart("ListenAddress", &old.listen, listen);
    }
    diff.restart("BindToAddress", &old.bind, bind);
    diff.restart("BindToInterface", &old.bind_to_interface, bind_to_interface);
    diff.restart("AddressFamily", &old.address_family, address_family);
    diff.restart("FWMark", &old.fwmark, fwmark);
    diff.restart("MetricsListen", &old.metrics_listen, metrics_listen);
    diff.restart("Workers", &old.workers, workers);
    diff.restart("UDPRcvBuf", &old.udp_rcvbuf, udp_rcvbuf);
    diff.restart("UDPSndBuf", &old.udp_sndbuf, udp_sndbuf);
    diff.restart(
        "ScriptsInterpreter",
        &old.scripts_interpreter,
        scripts_interpreter,
    );
    diff.restart(
        "ScriptsExtension",
        &old.scripts_extension,
        scripts_extension,
    );
    match runs_more(old.scripts_at_start.as_deref(), run_scripts.as_deref()) {
        true => diff.restart("RunScripts", &old.run_scripts, run_scripts),
        false => diff.value("RunScripts", &old.run_scripts, run_scripts),
    }
    diff.list("Allow", &old.allow, allow);
    if old.allow != *allow {
        let text =
            "Allow: load the rules of `meshctl firewall`, because meshd itself filters nothing";
        diff.changed.push(text.into());
    }
    diff.restart("Sandbox", &old.sandbox, sandbox);
    diff.restart("ProcessPriority", &old.nice, nice);
    diff.restart("LogLevel", &old.log_level, log_level);
    diff.restart("PMTUDiscovery", &old.pmtu_discovery, pmtu_discovery);
}
