//! Settings of the daemon around the mesh.
//!
//! Source: config/tinc.md section 2.

use std::{net::SocketAddr, path::Path, time::SystemTime};

use meshd_wire::Options;

use crate::{Problem, Shell, Source, merged::Tree, reader::Reader, secrets::ed25519_file, values};

/// Maximum number of listening sockets, one for each address family. Source: tinc 1.1.
const MAX_LISTEN: usize = 8;

/// Returns the last write time of our key file.
fn key_made(source: &Source, tree: &Tree) -> Option<SystemTime> {
    let file = source.base.join(ed25519_file(tree));
    file.metadata().and_then(|data| data.modified()).ok()
}

/// Reads the settings that depend on files or on several variables.
pub(super) fn join(source: &Source, reader: &mut Reader<'_>, shell: &mut Shell, options: Options) {
    sockets(reader, shell);
    let net_name = || {
        let net = source.net.as_deref()?;
        values::interface_name(net).ok()
    };
    shell.interface = shell.interface.take().or_else(net_name);
    shell.device = shell.device.take().map(|path| source.base.join(path));
    shell.key_made = key_made(source, reader.tree);
    shell.scripts_at_start = shell.run_scripts.clone();
    shell.pmtu_discovery = options.has(Options::PMTU_DISCOVERY);
}

/// Reads the listening addresses, and one source address for each family: BindToAddress, if exactly one of its sockets
/// has the family.
fn sockets(reader: &mut Reader<'_>, shell: &mut Shell) {
    let (port, family) = (shell.port, shell.address_family);
    let parse = |text: &str| values::listen(text, port, family);
    let bound: Vec<_> = reader.each("BindToAddress", parse).concat();
    let others = reader.each("ListenAddress", parse).concat();
    let mut listen: Vec<SocketAddr> = Vec::new();
    for addr in bound.iter().copied().chain(others) {
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
    shell.bind = bind.map(|a| SocketAddr::new(a.ip(), 0)).collect();
    (shell.listen, shell.bound) = (listen, bound);
}
