//! Checks across all host files.
//!
//! Source: config/toml.md section 4.

use std::{
    collections::{BTreeMap, btree_map::Entry as Slot},
    path::Path,
    sync::Arc,
};

use meshd_proto::mesh::{limits::MAX_SUBNETS_PER_NODE, settings::Host};
use meshd_wire::{NodeName, Subnet};

use crate::{Problem, Source, host, merged::Entry};

/// Warns of host files whose names are invalid by one character. Dots, backups and scripts have other names.
pub(super) fn no_nodes(names: &[String]) -> Vec<Problem> {
    let is_near = |name: &&String| {
        let stem = name.strip_suffix(".toml").unwrap_or(name);
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        stem.contains('-')
            && stem.starts_with(|c: char| c.is_ascii_alphanumeric())
            && stem.chars().all(word)
            && !stem.ends_with("-up")
            && !stem.ends_with("-down")
    };
    let near = names.iter().filter(is_near);
    near.map(|name| {
        let text =
            "the name is not a node name, because it has a `-`; write `_` instead, in Name too";
        Problem::warning(&Path::new("hosts").join(name), 0, text)
    })
    .collect()
}

/// Warns of two nodes with one key: the holder of the key can act as either.
pub(super) fn twins(source: &Source, hosts: &BTreeMap<NodeName, Arc<Host>>) -> Vec<Problem> {
    let mut seen = BTreeMap::new();
    let keyed = hosts
        .iter()
        .filter_map(|(name, host)| Some((name, host.key?)));
    let mut problems = Vec::new();
    for (name, key) in keyed {
        if let Some(first) = seen.insert(key, name) {
            let text = format!("the key is also in hosts/{first}; give each node its own");
            problems.push(Problem::warning(&host::host_path(source, name), 0, text));
        }
    }
    problems
}

/// Warns of one subnet of two nodes with one weight: the owner is ambiguous. With other weights, one owner is the
/// backup of the other.
pub(super) fn same_subnets(lines: &[Entry]) -> Vec<Problem> {
    let mut seen: BTreeMap<Subnet, &Entry> = BTreeMap::new();
    let mut problems = Vec::new();
    for line in lines {
        let Ok(subnet) = Subnet::from_config(&line.value) else {
            continue;
        };
        match seen.entry(subnet) {
            Slot::Vacant(slot) => drop(slot.insert(line)),
            Slot::Occupied(first) if first.get().file != line.file => {
                let text = format!(
                    "Subnet {subnet} is in {} too; give one of them another weight (#20), or remove it there",
                    first.get().file.display()
                );
                problems.push(line.warning(text));
            }
            Slot::Occupied(_) => {}
        }
    }
    problems
}

/// Warns of a file with more Subnet lines than other nodes accept without their own copy of the file.
pub(super) fn many_subnets(lines: &[Entry]) -> Vec<Problem> {
    let mut counts: BTreeMap<&Path, (usize, Option<&Entry>)> = BTreeMap::new();
    for line in lines {
        let (count, first) = counts.entry(&line.file).or_default();
        *count += 1;
        if *count > MAX_SUBNETS_PER_NODE {
            first.get_or_insert(line);
        }
    }
    let many = counts.into_values();
    let many = many.filter_map(|(count, first)| Some((count, first?)));
    many.map(|(count, first)| {
        first.warning(format!(
            "this is the first of {} Subnet lines beyond {MAX_SUBNETS_PER_NODE}: another meshd accepts them only from its own copy of this file; keep the copies equal",
            count - MAX_SUBNETS_PER_NODE
        ))
    })
    .collect()
}
