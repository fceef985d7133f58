//! Reads the host files of all other nodes. On a reload, an unusable file keeps its last good version.
//!
//! Source: proto/design.md section 2.5 (c).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use meshd_proto::mesh::settings::Host;
use meshd_wire::NodeName;

use crate::{
    Config, Problem, Source, cross_check,
    host::{self, HostFile},
    merged::{CliOption, Entry},
    written::Written,
};

/// Maximum number of host files (proto/threat-model.md section 5.6).
const MAX_HOSTS: usize = 16_384;

/// Results of reading the host files, besides their content.
#[derive(Default)]
pub(super) struct HostFiles {
    /// Problems of the files.
    pub(super) problems: Vec<Problem>,
    /// All Subnet lines, including our own file's.
    pub(super) subnets: Vec<Entry>,
    /// Lines in effect.
    pub(super) written: BTreeMap<NodeName, Arc<[Written]>>,
    /// Files that were not applied.
    pub(super) not_taken: Vec<PathBuf>,
    /// Unreadable Ed25519 keys of nodes with an RSA key.
    pub(super) bad_keys: Vec<Problem>,
}

/// Sets the consequence of an unreadable key for a node with an RSA key. `keys`: true if we have an Ed25519 key, and an
/// RSA key.
pub(super) fn cost(bad: Problem, keys: Option<(bool, bool)>) -> Problem {
    let (sptps, rsa) = keys.unwrap_or((true, true));
    let what = match (sptps, rsa) {
        (false, _) => "the line is ignored, because this node speaks only legacy",
        (true, true) => {
            "only its RSA key is used, so its links use legacy: correct or remove the line"
        }
        (true, false) => "this node has no RSA key, so no link is possible: correct the line",
    };
    Problem {
        error: sptps,
        text: format!("{}; {what}", bad.text),
        ..bad
    }
}

/// Reads all host files but our own. Keeps the last good version of a file that cannot be used.
pub(super) fn hosts(
    source: &Source,
    own: Option<&NodeName>,
    options: &[CliOption],
    last: Option<&Config>,
    ours: &mut Vec<Problem>,
    taken: &mut HostFiles,
) -> BTreeMap<NodeName, Arc<Host>> {
    let dir = Path::new("hosts");
    let names = source.names(dir).unwrap_or_else(|error| {
        ours.push(Problem::error(dir, 0, error.to_string()));
        Vec::new()
    });
    if last.is_some() && !source.base.join(dir).is_dir() {
        // The operator may be moving the tree; that must not end all links.
        let text =
            "no such directory; the configuration in force stays until the directory exists again";
        ours.push(Problem::error(dir, 0, text));
    }
    taken.problems.extend(cross_check::no_nodes(&names));
    let mut names: Vec<NodeName> = names
        .iter()
        .filter_map(|name| NodeName::new(name.strip_suffix(".toml").unwrap_or(name)).ok())
        .filter(|name| Some(name) != own)
        .collect();
    names.sort();
    names.dedup();
    if names.len() > MAX_HOSTS {
        let text = format!("more than {MAX_HOSTS} host files; meshd reads only the first ones");
        taken.problems.push(Problem::error(dir, 0, text));
        names.truncate(MAX_HOSTS);
    }
    let mut hosts = BTreeMap::new();
    for name in names {
        let mut file = host::read(source, &name, options);
        taken.subnets.append(&mut file.subnets);
        let known = last.and_then(|last| last.settings.hosts.get(&name));
        let relative = host::host_path(source, &name);
        let both = file.host.as_ref().zip(known);
        let lost = both.and_then(|(host, known)| lost_keys(host, known, &file));
        let before = last.and_then(|last| last.written.hosts.get(&name));
        let written = match before.filter(|before| {
            lost.is_some() || file.host.is_none() || before[..] == file.written[..]
        }) {
            Some(before) => Arc::clone(before),
            None => file.written.into(),
        };
        taken.written.insert(name.clone(), written);
        let host = match (file.host, lost) {
            // As at a start: an invalid line is skipped, and the rest counts.
            (Some(host), None) => {
                taken.bad_keys.extend(file.bad_key);
                Some(Arc::new(host))
            }
            (_, lost) => {
                file.problems.extend(file.bad_key);
                file.problems
                    .extend(lost.map(|text| Problem::error(&relative, 0, text)));
                if known.is_some() {
                    let text = "the last good version of this file stays in force";
                    file.problems.push(Problem::warning(&relative, 0, text));
                }
                taken.not_taken.push(relative);
                known.cloned()
            }
        };
        taken.problems.append(&mut file.problems);
        hosts.extend(host.map(|host| (name, host)));
    }
    taken.problems.extend(cross_check::twins(source, &hosts));
    hosts
}

/// Returns the part of `known`, the version in force, that a new file lacks, as an incomplete file would. Used on a
/// reload, which can keep the better version.
fn lost_keys(new: &Host, known: &Host, file: &HostFile) -> Option<&'static str> {
    let keyless = new.key.is_none() && new.rsa.is_none();
    let mut subnets = known.subnets.iter();
    if file.cut_short {
        Some("the file is cut short; write it completely")
    } else if keyless && (known.key.is_some() || known.rsa.is_some()) {
        Some(
            "the file has lost its public key; write it again, or remove the file if the node is gone",
        )
    } else if new.bad_key.is_some() && known.key.is_some() {
        Some("its Ed25519 key has become unreadable; correct or remove the line")
    } else if file.unterminated && known.rsa.is_some() && new.rsa.is_none() {
        Some(
            "the file has lost its RSA key and its last newline, so it may be incomplete; add the newline",
        )
    } else if file.unterminated && subnets.any(|subnet| !new.subnets.contains(subnet)) {
        Some(
            "the file has fewer Subnet lines and no last newline, so it may be incomplete; add the newline",
        )
    } else {
        None
    }
}
