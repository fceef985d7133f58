//! Facts of the files on disk, independently of the configuration in force, for `why` and `migrate status`.

use std::{fs::File, io::ErrorKind, path::Path};

use meshd_api::{report::NodeReport, rows::PeerRow, why::Disk};
use meshd_os::clock;
use meshd_proto::mesh::reports::facts::HostFile;
use meshd_wire::NodeName;

use crate::{Source, files, host_path, load_host, place_of};

/// Returns the state of a node's host file; `None` if this user may not read it. The problem is that of `meshctl
/// check`.
#[must_use]
pub fn host_file(source: &Source, node: &NodeName) -> Option<Result<HostFile, String>> {
    // The daemon may have another root directory.
    if !source.base.join("hosts").is_dir() {
        return None;
    }
    match File::open(source.base.join(host_path(source, node))) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Some(Ok(HostFile::Missing)),
        Err(_) => return None,
        Ok(_) => {}
    }
    Some(match load_host(source, node) {
        Ok(host) => Ok(Some(&host).into()),
        Err(problems) => {
            let mut errors = problems.iter().filter(|problem| problem.error);
            Err(errors.next().map(ToString::to_string).unwrap_or_default())
        }
    })
}

/// Returns the nodes that have a host file, sorted by name.
#[must_use]
pub fn host_names(source: &Source) -> Vec<String> {
    let names = files::names(&source.base.join(Path::new("hosts"))).unwrap_or_default();
    let names = names
        .iter()
        .map(|name| name.strip_suffix(".toml").unwrap_or(name));
    let names = names.filter(|name| NodeName::new(name).is_ok());
    names.map(str::to_owned).collect()
}

/// Returns the facts of a node's files.
#[must_use]
pub fn disk(source: &Source, node: &NodeName) -> Disk {
    let file = host_file(source, node);
    let place = |variable| {
        let of_host = place_of(source, Some(node), variable);
        let (file, line, _) = of_host.or_else(|| place_of(source, None, variable))?;
        Some(format!("{}:{line}", file.display()))
    };
    let host = file
        .as_ref()
        .and_then(|file| load_host(source, node).ok().filter(|_| file.is_ok()));
    let addresses = host.iter().flat_map(|host| &host.addresses);
    let subnets = host.iter().flat_map(|host| &host.subnets);
    let now = host.as_ref().and_then(|host| host.at(clock::unix()));
    Disk {
        file,
        shut_out: now.and_then(|host| host.shut_out),
        fingerprint: host.as_ref().and_then(|host| Some(host.key?.fingerprint())),
        addresses: addresses
            .map(|at| format!("{} port {}", at.host, at.port))
            .collect(),
        subnets: subnets.map(|subnet| subnet.prefix).collect(),
        min_place: place("MinProtocol"),
        tcp_only_place: place("TCPOnly"),
    }
}

/// Returns the report on a node that has a host file, and that no node has announced.
#[must_use]
pub fn unheard(source: &Source, node: &NodeName) -> NodeReport {
    let disk = disk(source, node);
    NodeReport {
        peer: PeerRow {
            name: node.to_string(),
            host_file: disk.file.and_then(Result::ok).unwrap_or(HostFile::Missing),
            ..PeerRow::default()
        },
        fingerprint: disk.fingerprint,
        addresses: disk.addresses,
        ..NodeReport::default()
    }
}
