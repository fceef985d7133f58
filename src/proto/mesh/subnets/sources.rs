//! SourceCheck: gives the packet threads the source addresses of each node, and logs dropped
//! packets for the operator. The rule itself is in [`crate::route::source`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use meshd_wire::{NodeName, Subnet, subnet::Prefix};

use crate::{
    mesh::{Mesh, Settings, publisher::tables::ip_subnets, topology::node::Node},
    route::{
        lpm::Table,
        source::{Claims, Listed},
    },
};

/// Shortest time between two log lines about one node.
const SAY_EVERY: Duration = Duration::from_secs(600);

/// Subnets of all host files, rebuilt with each configuration.
pub(in crate::mesh) struct Lists {
    table: Arc<Listed>,
    of: BTreeMap<NodeName, Arc<[Prefix]>>,
}

impl Lists {
    pub(in crate::mesh) fn new(settings: &Settings) -> Self {
        let hosts = settings.hosts.iter();
        let lists = hosts.map(|(name, host)| (name.clone(), list(&host.subnets)));
        let of: BTreeMap<_, _> = lists.filter(|(_, list)| !list.is_empty()).collect();
        let ours = settings.subnets.iter().map(|subnet| subnet.prefix);
        let theirs = of.values().flat_map(|list| list.iter().copied());
        Self {
            table: Arc::new(Listed::new(theirs.chain(ours))),
            of,
        }
    }

    /// Returns the table for [`crate::route::RouteSnapshot::listed`].
    pub(in crate::mesh) fn table(&self) -> Arc<Listed> {
        self.table.clone()
    }
}

/// Returns the IP subnets in order, longest prefix first.
fn list(subnets: &[Subnet]) -> Arc<[Prefix]> {
    let ip = |prefix: &Prefix| !matches!(prefix, Prefix::Mac(_));
    let prefixes = subnets.iter().map(|subnet| subnet.prefix.masked());
    let mut prefixes: Vec<Prefix> = prefixes.filter(ip).collect();
    prefixes.sort();
    prefixes.into()
}

/// Packets of one node that SourceCheck has dropped, up to the last log line.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Dropped {
    seen: u64,
    told: Option<Instant>,
}

impl Mesh {
    /// Returns the source addresses that packets of a node may have.
    pub(in crate::mesh) fn claims_of(
        &self,
        node: &Node,
        (v4, v6): (&Table<u32>, &Table<u128>),
    ) -> Claims {
        let host = self.cx.settings.hosts.get(node.name());
        let announced = ip_subnets(node).map(|subnet| subnet.prefix.masked());
        let announced: Vec<Prefix> = announced.collect();
        let mut wide = announced.iter();
        Claims {
            undivided: wide.all(|prefix| self.subnets.sources.table.leaves_whole(prefix, v4, v6)),
            announced,
            listed: self
                .subnets
                .sources
                .of
                .get(node.name())
                .cloned()
                .unwrap_or_default(),
            check: host.and_then(|host| host.source_check),
            carriers: node.carriers.clone(),
        }
    }

    /// Logs once a second which nodes' packets SourceCheck drops, and the remedy.
    pub(in crate::mesh) fn source_tick(&mut self, now: Instant) {
        let all: Vec<_> = self.nodes.by_name().collect();
        for idx in all {
            let node = &self.nodes[idx];
            let total = crate::mesh::total(&node.shared.counters.spoofed);
            let dropped = total - self.subnets.of[idx].dropped.seen;
            let lately = |at: Instant| now.saturating_duration_since(at) < SAY_EVERY;
            if dropped == 0 || self.subnets.of[idx].dropped.told.is_some_and(lately) {
                continue;
            }
            self.subnets.of[idx].dropped = Dropped {
                seen: total,
                told: Some(now),
            };
            let name = node.name().clone();
            tracing::warn!(node = %name, packets = dropped, "SourceCheck drops its packets from addresses that are not its own; if it routes for others, write these as Subnet into hosts/{name}, or `SourceCheck = no`, then reload");
        }
    }
}

#[cfg(test)]
mod tests;
