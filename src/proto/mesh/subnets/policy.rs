//! SubnetPolicy: which node may announce which subnet. A subnet in the host file of one node is
//! refused from every other node, whether the first node is up or down. Source:
//! proto/threat-model.md section 2.3, T20.
//!
//! A refused subnet is kept aside and not forwarded, so that a reload may still accept it. The
//! policy covers IP subnets only: Ethernet addresses move. Subnets beyond the bounds of
//! [`crate::mesh::limits`] are handled alike; subnets in host files do not count against these bounds.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use meshd_wire::{NodeName, Request, Subnet, subnet::Prefix};

use crate::{
    mesh::{
        Mesh,
        limits::{
            MAX_ASIDE, MAX_ASIDE_PER_NODE, MAX_MACS_PER_NODE, MAX_SUBNETS, MAX_SUBNETS_PER_NODE,
        },
        reports::facts::Refusal,
        settings::SubnetPolicy,
        subnets::host_files::ListedSubnets,
        topology::node::Nodes,
    },
    route::NodeIdx,
};

/// Shortest time in seconds between two log lines about one node.
const SAY_EVERY: u64 = 60;
/// Prefixes that no node owns unless its host file lists them: loopback, link-local and multicast.
const SPECIAL: [Prefix; 6] = [
    Prefix::V4(Ipv4Addr::new(127, 0, 0, 0), 8),
    Prefix::V4(Ipv4Addr::new(169, 254, 0, 0), 16),
    Prefix::V4(Ipv4Addr::new(224, 0, 0, 0), 4),
    Prefix::V6(Ipv6Addr::LOCALHOST, 128),
    Prefix::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Prefix::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Announced subnets of a node that are not accepted.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Refused {
    pub(in crate::mesh) subnets: BTreeSet<Subnet>,
    logged: Option<Instant>,
}

impl Mesh {
    /// Updates the numbers of unlisted subnets when a subnet is added or removed.
    pub(in crate::mesh) fn count_unlisted(&mut self, idx: NodeIdx, subnet: &Subnet, comes: bool) {
        if self.subnets.files.lists(self.nodes[idx].name(), subnet) {
            return;
        }
        for count in [
            &mut self.subnets.of[idx].unlisted,
            &mut self.subnets.unlisted,
        ] {
            *count = if comes { *count + 1 } else { *count - 1 };
        }
    }

    /// Reads the host files of a new configuration, and counts the unlisted subnets again.
    pub(in crate::mesh) fn reload_host_files(&mut self) {
        self.subnets.files = ListedSubnets::new(&self.cx.settings);
        self.subnets.unlisted = 0;
        let all: Vec<NodeIdx> = self.nodes.by_name().collect();
        for idx in all {
            let node = &self.nodes[idx];
            let unlisted = |subnet: &&Subnet| !self.subnets.files.lists(node.name(), subnet);
            let unlisted = node.subnets.iter().filter(unlisted).count();
            self.subnets.of[idx].unlisted = unlisted;
            self.subnets.unlisted += unlisted;
        }
    }

    /// Checks that the bounds leave room for one more subnet of a node. The error is
    /// the bound.
    pub(in crate::mesh) fn has_room(&self, idx: NodeIdx, subnet: &Subnet) -> Result<(), Refusal> {
        let node = &self.nodes[idx];
        let name = node.name();
        if self.subnets.files.lists(name, subnet) {
            return Ok(());
        }
        let most = match subnet.prefix {
            Prefix::Mac(_) => MAX_MACS_PER_NODE,
            Prefix::V4(..) | Prefix::V6(..) => MAX_SUBNETS_PER_NODE,
        };
        if self.subnets.of[idx].unlisted >= most {
            let owner = name.clone();
            return Err(Refusal::OwnerBound { owner, most });
        }
        if self.subnets.unlisted >= MAX_SUBNETS {
            return Err(Refusal::MeshBound(MAX_SUBNETS));
        }
        Ok(())
    }

    /// Checks that a node may announce a subnet. The error is the reason.
    pub(in crate::mesh) fn may_announce(
        &self,
        owner: &NodeName,
        subnet: &Subnet,
    ) -> Result<(), Refusal> {
        let hosts = &self.cx.settings.hosts;
        let policy = self.cx.settings.subnet_policy;
        if let Some(why) = hosts.get(owner).and_then(|host| host.shut_out.as_ref()) {
            let (owner, why) = (owner.clone(), why.clone());
            return Err(Refusal::ShutOut { owner, why });
        }
        let (prefix, length) = match subnet.prefix {
            Prefix::Mac(_) => return Ok(()),
            Prefix::V4(_, length) | Prefix::V6(_, length) => (subnet.prefix, length),
        };
        if self.subnets.files.lists(owner, subnet) {
            return Ok(());
        }
        let files = &self.subnets.files;
        if policy == SubnetPolicy::Open || files.gives(owner, &prefix) {
            return Ok(());
        }
        if policy == SubnetPolicy::Covered {
            return Err(Refusal::NotCovered(owner.clone()));
        }
        if length == 0 {
            return Err(Refusal::DefaultRoute(owner.clone()));
        }
        if files.reserves(&self.cx.settings.name, &prefix) {
            return Err(Refusal::Own);
        }
        if let Some(other) = files.other_owner(owner, &prefix) {
            return Err(Refusal::OfOther(other.clone()));
        }
        let special = |one: &Prefix| one.covers(&prefix) || prefix.covers(one);
        if SPECIAL.iter().any(special) {
            return Err(Refusal::Special);
        }
        match files.dialled_in(&prefix) {
            Some(other) => Err(Refusal::Underlay(other.clone())),
            None => Ok(()),
        }
    }

    /// Refuses an announced subnet and keeps it aside.
    pub(in crate::mesh) fn refuse_subnet(
        &mut self,
        idx: NodeIdx,
        subnet: Subnet,
        why: &Refusal,
        now: Instant,
    ) {
        if self.subnets.of[idx].refused.subnets.contains(&subnet) {
            return;
        }
        self.keep_aside(idx, subnet);
        self.cx.counters.subnets_refused += 1;
        let node = &self.nodes[idx];
        let refused = &mut self.subnets.of[idx].refused;
        let lately = |at: Instant| now.saturating_duration_since(at).as_secs() < SAY_EVERY;
        if !refused.logged.is_some_and(lately) {
            refused.logged = Some(now);
            let name = node.shared.name.clone();
            let or = match self.may_announce(&name, &subnet) {
                Ok(()) => "",
                Err(_) => ", or another SubnetPolicy,",
            };
            tracing::warn!(node = %name, %subnet, "subnet refused: {why}; a Subnet line in hosts/{name}{or} allows it");
        }
    }

    /// Remembers a subnet that is not accepted, within the bounds.
    pub(in crate::mesh) fn keep_aside(&mut self, idx: NodeIdx, subnet: Subnet) {
        let kept = &mut self.subnets.of[idx].refused.subnets;
        if self.subnets.aside < MAX_ASIDE && kept.len() < MAX_ASIDE_PER_NODE && kept.insert(subnet)
        {
            self.subnets.aside += 1;
        }
    }

    /// Forgets one refused subnet of a node, or all of them, after the node withdrew them.
    pub(in crate::mesh) fn forget_refused(&mut self, idx: NodeIdx, subnet: Option<&Subnet>) {
        let kept = &mut self.subnets.of[idx].refused.subnets;
        let before = kept.len();
        match subnet {
            Some(subnet) => drop(kept.remove(subnet)),
            None => kept.clear(),
        }
        self.subnets.aside -= before - kept.len();
    }

    /// Decides on all subnets again after a reload: refused ones may be accepted, and accepted ones
    /// refused.
    pub(in crate::mesh) fn judge_subnets(&mut self, now: Instant) {
        self.arm_doubt_timer(now);
        if self.cx.settings.strict_subnets {
            return;
        }
        let others = self.nodes.iter().filter(|(idx, _)| *idx != Nodes::ME);
        let all: Vec<(NodeIdx, NodeName)> = others
            .map(|(idx, node)| (idx, node.name().clone()))
            .collect();
        for (idx, owner) in all {
            let node = &self.nodes[idx];
            let refused = self.subnets.of[idx].refused.subnets.iter().copied();
            let fine = refused.filter(|one| self.may_announce(&owner, one).is_ok());
            let fine: Vec<Subnet> = fine.collect();
            let held = node.subnets.iter().copied();
            let bad = held.filter_map(|one| Some((one, self.may_announce(&owner, &one).err()?)));
            let bad: Vec<(Subnet, Refusal)> = bad.collect();
            for subnet in fine {
                if self.has_room(idx, &subnet).is_err() {
                    continue;
                }
                self.forget_refused(idx, Some(&subnet));
                self.insert_subnet(idx, subnet);
                let owner = owner.clone();
                self.flood(&Request::AddSubnet { owner, subnet }, None);
            }
            for (subnet, why) in bad {
                self.remove_subnet(idx, subnet);
                self.refuse_subnet(idx, subnet, &why, now);
            }
        }
    }
}

#[cfg(test)]
mod tests;
