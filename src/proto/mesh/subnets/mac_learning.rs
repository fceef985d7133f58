//! Switch mode: Ethernet addresses behind our device become our subnets, and expire when they are
//! silent.
//!
//! An address is learned only from frames of our device. When another node announces a learned
//! address, that node owns it, until our device receives frames from it again. Source:
//! config/tinc.md section 6.7.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use meshd_wire::{Prefix, Request, Subnet, ether::Mac, subnet::DEFAULT_WEIGHT};

use crate::{
    mesh::{
        Mesh,
        limits::{Bucket, LEARN_BURST, LEARN_RATE, MAX_LEARNED},
        topology::node::Nodes,
    },
    route::{
        Mode, NodeIdx,
        switch::{MacEntry, MacTable, Sighting},
    },
};

/// Learned Ethernet addresses.
pub(in crate::mesh) struct Learned {
    macs: BTreeMap<Mac, Entry>,
    budget: Bucket,
}

struct Entry {
    sighting: Arc<Sighting>,
    /// Time of the last known frame from the address.
    last: Instant,
}

impl Learned {
    pub(in crate::mesh) fn new(now: Instant) -> Self {
        Self {
            macs: BTreeMap::new(),
            budget: Bucket::new(LEARN_BURST, now),
        }
    }

    /// Returns the address that was silent for longest.
    fn oldest(&self) -> Option<Mac> {
        let oldest = self.macs.iter().min_by_key(|(_, entry)| entry.last);
        oldest.map(|(mac, _)| *mac)
    }
}

fn subnet(mac: Mac) -> Subnet {
    Subnet {
        prefix: Prefix::Mac(mac),
        weight: DEFAULT_WEIGHT,
    }
}

impl Mesh {
    /// Learns an Ethernet address: our device received frames from it and it is not ours yet.
    pub(in crate::mesh) fn learn(&mut self, mac: Mac, now: Instant) {
        let subnet = subnet(mac);
        let [first, last] = [i32::MIN, i32::MAX].map(|weight| Subnet { weight, ..subnet });
        let ours = &self.nodes[Nodes::ME].subnets;
        let held = ours.range(first..=last).next().is_some();
        if self.cx.settings.route.mode != Mode::Switch || held {
            return;
        }
        if !self
            .subnets
            .learned
            .budget
            .take(LEARN_RATE, LEARN_BURST, now)
        {
            self.cx.counters.refused += 1;
            return;
        }
        if self.subnets.learned.macs.len() >= MAX_LEARNED
            && let Some(oldest) = self.subnets.learned.oldest()
        {
            self.unlearn(oldest);
        }
        let entry = Entry {
            sighting: Arc::default(),
            last: now,
        };
        self.subnets.learned.macs.insert(mac, entry);
        self.insert_subnet(Nodes::ME, subnet);
        let owner = self.cx.settings.name.clone();
        self.flood(&Request::AddSubnet { owner, subnet }, None);
    }

    /// Removes a learned address, because it was silent or another node announced it.
    fn unlearn(&mut self, mac: Mac) {
        if self.subnets.learned.macs.remove(&mac).is_none() {
            return;
        }
        let (owner, subnet) = (self.cx.settings.name.clone(), subnet(mac));
        self.flood(&Request::DelSubnet { owner, subnet }, None);
        self.remove_subnet(Nodes::ME, subnet);
    }

    /// Handles a subnet that another node announced.
    pub(in crate::mesh) fn taken_over(&mut self, subnet: Subnet) {
        if let Prefix::Mac(mac) = subnet.prefix {
            self.unlearn(mac);
        }
    }

    /// Stops the expiry of addresses that our configuration names.
    pub(in crate::mesh) fn keep_for_ever(&mut self) {
        for subnet in &self.cx.settings.subnets {
            if let Prefix::Mac(mac) = subnet.prefix {
                self.subnets.learned.macs.remove(&mac);
            }
        }
    }

    /// Removes addresses that were silent for MACExpire, once a second.
    pub(in crate::mesh) fn learn_tick(&mut self, now: Instant) {
        let age = self.cx.settings.mac_expire;
        let mut silent = Vec::new();
        for (mac, entry) in &mut self.subnets.learned.macs {
            if entry.sighting.take() {
                entry.last = now;
            } else if now.saturating_duration_since(entry.last) >= age {
                silent.push(*mac);
            }
        }
        for mac in silent {
            self.unlearn(mac);
        }
    }

    /// Builds the table of owners. An address seen at our own device is ours. Among other owners
    /// the lowest weight wins, then the first name. A MAC address whose owners are all unreachable
    /// is flooded, and its present owner answers.
    pub(in crate::mesh) fn mac_table(&self) -> MacTable {
        if self.cx.settings.route.mode != Mode::Switch {
            return MacTable::default();
        }
        let mut all: Vec<(bool, i32, MacEntry)> = Vec::new();
        for (idx, node) in self.nodes.iter() {
            let ours = idx == Nodes::ME;
            if !node.reachability.reachable && !ours {
                continue;
            }
            for subnet in &node.subnets {
                let Prefix::Mac(mac) = subnet.prefix else {
                    break; // subnets are in order, MACs first
                };
                let entry = self.entry(mac, idx);
                all.push((entry.sighting.is_none(), subnet.weight, entry));
            }
        }
        // The sort is stable: equal weights stay in order of names.
        all.sort_by_key(|(foreign, weight, _)| (*foreign, *weight));
        MacTable::new(all.into_iter().map(|(_, _, entry)| entry).collect())
    }

    fn entry(&self, mac: Mac, owner: NodeIdx) -> MacEntry {
        let learned = self
            .subnets
            .learned
            .macs
            .get(&mac)
            .filter(|_| owner == Nodes::ME);
        MacEntry {
            mac,
            owner: owner.slot(),
            sighting: learned.map(|entry| Arc::clone(&entry.sighting)),
        }
    }
}

#[cfg(test)]
mod tests;
