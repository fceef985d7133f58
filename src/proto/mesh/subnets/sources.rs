//! SourceCheck: gives the packet threads the source addresses of each node, and logs dropped
//! packets for the operator. The rule itself is in [`crate::route::source`].

use std::time::{Duration, Instant};

use meshd_wire::subnet::Prefix;

use crate::{
    mesh::{Mesh, publisher::tables::ip_subnets, topology::node::Node},
    route::{lpm::Table, source::Claims},
};

/// Shortest time between two log lines about one node.
const SAY_EVERY: Duration = Duration::from_secs(600);

/// Packets of one node that SourceCheck has dropped, up to the last log line.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Dropped {
    seen: u64,
    logged: Option<Instant>,
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
        let listed = self.subnets.files.table();
        Claims {
            undivided: wide.all(|prefix| listed.leaves_whole(prefix, v4, v6)),
            announced,
            listed: self.subnets.files.sources(node.name()),
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
            if dropped == 0 || self.subnets.of[idx].dropped.logged.is_some_and(lately) {
                continue;
            }
            self.subnets.of[idx].dropped = Dropped {
                seen: total,
                logged: Some(now),
            };
            let name = node.name().clone();
            tracing::warn!(node = %name, packets = dropped, "SourceCheck drops its packets from addresses that are not its own; if it routes for others, write these as Subnet into hosts/{name}, or `SourceCheck = no`, then reload");
        }
    }
}

#[cfg(test)]
mod tests;
