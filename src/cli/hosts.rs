//! Reads host files on disk, independently of the daemon's state.

use std::{fs::File, io::ErrorKind, path::Path};

use meshd_config::{Source, files};
use meshd_proto::mesh::reports::facts::HostFile;
use meshd_wire::NodeName;

/// Returns the state of a node's host file; `None` if this user may not read it. The problem is that of `meshctl
/// check`.
pub(super) fn file(source: &Source, node: &NodeName) -> Option<Result<HostFile, String>> {
    // The daemon may have another root directory.
    if !source.base.join("hosts").is_dir() {
        return None;
    }
    match File::open(source.base.join(meshd_config::host_path(source, node))) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Some(Ok(HostFile::Missing)),
        Err(_) => return None,
        Ok(_) => {}
    }
    Some(match meshd_config::load_host(source, node) {
        Ok(host) => Ok(Some(&host).into()),
        Err(problems) => {
            let mut errors = problems.iter().filter(|problem| problem.error);
            Err(errors.next().map(ToString::to_string).unwrap_or_default())
        }
    })
}

/// Returns the nodes that have a host file, sorted by name.
pub(super) fn names(source: &Source) -> Vec<String> {
    let names = files::names(&source.base.join(Path::new("hosts"))).unwrap_or_default();
    let names = names
        .iter()
        .map(|name| name.strip_suffix(".toml").unwrap_or(name));
    let names = names.filter(|name| NodeName::new(name).is_ok());
    names.map(str::to_owned).collect()
}
