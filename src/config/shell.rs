//! Settings of the daemon around the mesh.
//!
//! Source: config/tinc.md section 2.

use std::{net::SocketAddr, path::Path, time::SystemTime};

use meshd_wire::Options;

use crate::{
    AddressFamily, DeviceType, Problem, Sandbox, Shell, Source,
    allow::Allow,
    merged::{Reader, Tree},
    resolve::ed25519_file,
    toml::keys::NO_SCRIPTS,
    values,
};

/// Maximum number of listening sockets, one for each address family. Source: tinc 1.1.
const MAX_LISTEN: usize = 8;

/// Returns the last write time of our key file.
fn key_made(source: &Source, tree: &Tree) -> Option<SystemTime> {
    let file = source.base.join(ed25519_file(tree));
    file.metadata().and_then(|data| data.modified()).ok()
}

pub(super) fn shell(
    source: &Source,
    reader: &mut Reader<'_>,
    device_type: DeviceType,
    port: u16,
    options: Options,
) -> Shell {
    let address_family = match reader.word("AddressFamily") {
        "ipv4" => AddressFamily::V4,
        "ipv6" => AddressFamily::V6,
        _ => AddressFamily::Any,
    };
    let (listen, bind) = sockets(reader, port, address_family);
    let routes = reader.each("InterfaceRoute", values::interface_route);
    let named = reader.one("Interface", values::interface_name);
    if let (Some(name), Some(entry)) = (&named, reader.tree.first("Interface"))
        && name.len() < entry.value.len()
    {
        let text = format!("an interface name has at most 15 characters; meshd uses {name}");
        reader.problems.push(entry.warning(text));
    }
    let net_name = || {
        source
            .net
            .as_deref()
            .and_then(|net| values::interface_name(net).ok())
    };
    let run_scripts = run_scripts(reader);
    Shell {
        interface: named.or_else(net_name),
        device: reader.text("Device").map(|path| source.base.join(path)),
        device_type,
        interface_addresses: reader.each("InterfaceAddress", values::interface_address),
        interface_routes_auto: routes.contains(&None),
        interface_routes: routes.into_iter().flatten().collect(),
        interface_mtu: reader
            .number_if("InterfaceMTU", 576, 9000)
            .map(i32::unsigned_abs),
        port,
        listen,
        bind,
        bind_to_interface: reader.one("BindToInterface", values::interface_name),
        address_family,
        fwmark: reader.number("FWMark", i32::MIN, i32::MAX).cast_unsigned(),
        metrics_listen: reader
            .one("MetricsListen", values::metrics_listen)
            .unwrap_or_default(),
        key_made: key_made(source, reader.tree),
        workers: reader.number("Workers", 0, 4).unsigned_abs() as usize,
        udp_rcvbuf: reader.number("UDPRcvBuf", 0, i32::MAX).unsigned_abs() as usize,
        udp_sndbuf: reader.number("UDPSndBuf", 0, i32::MAX).unsigned_abs() as usize,
        scripts_interpreter: reader.text("ScriptsInterpreter"),
        scripts_extension: reader.text("ScriptsExtension").unwrap_or_default(),
        run_scripts: run_scripts.clone(),
        scripts_at_start: run_scripts,
        allow: {
            let mut allow = reader.each("Allow", Allow::parse);
            allow.sort();
            allow.dedup();
            allow
        },
        sandbox: match reader.word("Sandbox") {
            "off" => Sandbox::Off,
            "high" => Sandbox::High,
            _ => Sandbox::Normal,
        },
        nice: nice(reader),
        log_level: u8::try_from(reader.number("LogLevel", i32::MIN, i32::MAX).clamp(0, 10))
            .unwrap_or_default(),
        pmtu_discovery: options.has(Options::PMTU_DISCOVERY),
    }
}

/// Returns the listening addresses, and one source address for each family: BindToAddress, if exactly one of its
/// sockets has the family.
fn sockets(
    reader: &mut Reader<'_>,
    port: u16,
    family: AddressFamily,
) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let parse = |text: &str| values::listen(text, port, family);
    let bound: Vec<_> = reader.each("BindToAddress", parse).concat();
    let mut listen: Vec<SocketAddr> = Vec::new();
    for addr in bound
        .iter()
        .copied()
        .chain(reader.each("ListenAddress", parse).concat())
    {
        if !listen.contains(&addr) {
            listen.push(addr);
        }
    }
    if listen.len() > MAX_LISTEN {
        let text = format!("BindToAddress and ListenAddress name more than {MAX_LISTEN} sockets");
        reader
            .problems
            .push(Problem::error(Path::new("tinc.conf"), 0, text));
    }
    let only_one = |v4: bool| {
        let mut family = bound.iter().filter(|a| a.is_ipv4() == v4);
        family.next().filter(|_| family.next().is_none())
    };
    let specific = [only_one(true), only_one(false)].into_iter().flatten();
    let bind = specific.filter(|a| !a.ip().is_unspecified());
    (listen, bind.map(|a| SocketAddr::new(a.ip(), 0)).collect())
}

/// Reads RunScripts: `None` if absent.
fn run_scripts(reader: &mut Reader<'_>) -> Option<Vec<&'static str>> {
    reader.tree.first("RunScripts")?;
    let mut scripts = reader.each("RunScripts", values::script);
    scripts.retain(|script| *script != NO_SCRIPTS);
    Some(scripts)
}

fn nice(reader: &mut Reader<'_>) -> Option<i32> {
    reader.tree.first("ProcessPriority")?;
    match reader.word("ProcessPriority") {
        "low" => Some(10),
        "normal" => Some(0),
        "high" => Some(-10),
        _ => None,
    }
}
