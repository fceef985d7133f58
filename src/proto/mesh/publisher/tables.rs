//! Lookup tables of a snapshot: subnets and their best owners.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use meshd_wire::{Prefix, Subnet};

use crate::{
    mesh::{
        Mesh,
        topology::node::{Node, Nodes},
    },
    route::{
        NodeIdx,
        lpm::{self, Owner, Table},
    },
};

/// Ownerless subnets that every 1.1 node has. Source: config/tinc.md section 6.2.
const BROADCASTS: [Prefix; 4] = [
    Prefix::Mac([0xff; 6]),
    Prefix::V4(Ipv4Addr::BROADCAST, 32),
    Prefix::V4(Ipv4Addr::new(224, 0, 0, 0), 4),
    Prefix::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Returns a node's subnets without Ethernet addresses. A node may own thousands of Ethernet
/// addresses, and they come first in order.
pub(in crate::mesh) fn ip_subnets(node: &Node) -> impl Iterator<Item = &Subnet> {
    let is_mac = |subnet: &&Subnet| matches!(subnet.prefix, Prefix::Mac(_));
    node.subnets.iter().skip_while(is_mac)
}

impl Mesh {
    /// Builds both lookup tables. Of equal prefixes the best reachable owner wins. A prefix without
    /// a reachable owner is left out if a shorter one has a reachable owner (config/tinc.md section
    /// 6.2).
    pub(super) fn tables(&self) -> (Table<u32>, Table<u128>) {
        let mut best: BTreeMap<Prefix, (bool, i32, Owner)> = BTreeMap::new();
        for (idx, node) in self.nodes.iter() {
            for subnet in ip_subnets(node) {
                let reachable = node.reachability.reachable || idx == Nodes::ME;
                let owner = if reachable {
                    Owner::Node(idx.slot())
                } else {
                    Owner::Unreachable(idx.slot())
                };
                let entry = (reachable, subnet.weight, owner);
                best.entry(subnet.prefix.masked())
                    .and_modify(|old| {
                        // Nodes come in order of names, so equal weights stay with the first node.
                        if reachable && (!old.0 || subnet.weight < old.1) {
                            *old = entry;
                        }
                    })
                    .or_insert(entry);
            }
        }
        for prefix in self.broadcast_prefixes() {
            best.entry(prefix).or_insert((true, 0, Owner::Broadcast));
        }
        let covered = |prefix: &Prefix| {
            let (ip, len) = match *prefix {
                Prefix::V4(ip, len) => (IpAddr::V4(ip), len),
                Prefix::V6(ip, len) => (IpAddr::V6(ip), len),
                Prefix::Mac(_) => return false,
            };
            (0..len).any(|len| {
                best.get(&Prefix::network(ip, len))
                    .is_some_and(|entry| entry.0)
            })
        };
        let kept = best
            .iter()
            .filter(|(prefix, entry)| entry.0 || !covered(prefix));
        lpm::tables(kept.map(|(prefix, (_, _, owner))| (*prefix, *owner)))
    }

    /// Ownerless subnets: the built-in ones and those of BroadcastSubnet.
    pub(in crate::mesh) fn broadcast_prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        let extra = self.cx.settings.broadcast_subnets.iter();
        BROADCASTS
            .into_iter()
            .chain(extra.map(|subnet| subnet.prefix.masked()))
    }

    /// Returns every subnet that contains an address, in lookup order.
    pub(in crate::mesh) fn matching(&self, ip: IpAddr) -> Vec<(Subnet, NodeIdx)> {
        let ip = ip.to_canonical();
        let mut found: Vec<(Subnet, NodeIdx)> = self
            .nodes
            .iter()
            .flat_map(|(idx, node)| node.subnets.iter().map(move |subnet| (*subnet, idx)))
            .filter(|(subnet, _)| subnet.prefix.contains(ip))
            .collect();
        found.sort_by_key(|(subnet, _)| *subnet); // stable: owners stay in order of names
        found
    }
}
