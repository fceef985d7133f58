//! Switch mode: Ethernet addresses behind our device become subnets of ours, and end with their silence.
//!
//! Only frames that our device gave teach anything. An address that somebody else announces is theirs from
//! then on, until its frames come from our device again. Source: config/tinc.md section 6.7.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use meshd_wire::{Prefix, Request, Subnet, ether::Mac, subnet::DEFAULT_WEIGHT};

use crate::{
    mesh::{
        Mesh,
        limits::{Bucket, LEARN_BURST, LEARN_RATE, MAX_LEARNED},
        node::Nodes,
    },
    route::{
        Mode, NodeIdx,
        switch::{MacEntry, MacTable, Sighting},
    },
};

/// What we have learned.
pub(super) struct Learned {
    macs: BTreeMap<Mac, Entry>,
    budget: Bucket,
}

struct Entry {
    sighting: Arc<Sighting>,
    /// When a frame of it is known to have come last.
    last: Instant,
}

impl Learned {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            macs: BTreeMap::new(),
            budget: Bucket::new(LEARN_BURST, now),
        }
    }

    /// The address that was silent for longest.
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
    /// Frames of this address came from our device, and it was not ours.
    pub(super) fn learn(&mut self, mac: Mac, now: Instant) {
        let subnet = subnet(mac);
        let [first, last] = [i32::MIN, i32::MAX].map(|weight| Subnet { weight, ..subnet });
        let ours = &self.nodes[Nodes::ME].subnets;
        let held = ours.range(first..=last).next().is_some();
        if self.settings.route.mode != Mode::Switch || held {
            return;
        }
        if !self.learned.budget.take(LEARN_RATE, LEARN_BURST, now) {
            self.refused += 1;
            return;
        }
        if self.learned.macs.len() >= MAX_LEARNED
            && let Some(oldest) = self.learned.oldest()
        {
            self.unlearn(oldest);
        }
        let entry = Entry {
            sighting: Arc::default(),
            last: now,
        };
        self.learned.macs.insert(mac, entry);
        self.insert_subnet(Nodes::ME, subnet);
        let owner = self.settings.name.clone();
        self.flood(&Request::AddSubnet { owner, subnet }, None);
    }

    /// An address that we have learned is ours no longer: it was silent, or is behind somebody else.
    fn unlearn(&mut self, mac: Mac) {
        if self.learned.macs.remove(&mac).is_none() {
            return;
        }
        let (owner, subnet) = (self.settings.name.clone(), subnet(mac));
        self.flood(&Request::DelSubnet { owner, subnet }, None);
        self.remove_subnet(Nodes::ME, subnet);
    }

    /// Somebody else has announced this subnet.
    pub(super) fn taken_over(&mut self, subnet: Subnet) {
        if let Prefix::Mac(mac) = subnet.prefix {
            self.unlearn(mac);
        }
    }

    /// Our configuration names these: they do not age.
    pub(super) fn keep_for_ever(&mut self) {
        for subnet in &self.settings.subnets {
            if let Prefix::Mac(mac) = subnet.prefix {
                self.learned.macs.remove(&mac);
            }
        }
    }

    /// Once a second: what was silent for MACExpire ends.
    pub(super) fn learn_tick(&mut self, now: Instant) {
        let age = self.settings.mac_expire;
        let mut silent = Vec::new();
        for (mac, entry) in &mut self.learned.macs {
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

    /// Who has which address. What was seen at our own device is the latest news; of others the lowest
    /// weight wins, then the first by name. Nobody has what only unreachable nodes announce: its frames
    /// go to all, and whoever has it now answers.
    pub(super) fn mac_table(&self) -> MacTable {
        if self.settings.route.mode != Mode::Switch {
            return MacTable::default();
        }
        let mut all: Vec<(bool, i32, MacEntry)> = Vec::new();
        for (idx, node) in self.nodes.iter() {
            let ours = idx == Nodes::ME;
            if !node.place.reachable && !ours {
                continue;
            }
            for subnet in &node.subnets {
                let Prefix::Mac(mac) = subnet.prefix else {
                    break; // subnets come in order, MACs first
                };
                let entry = self.entry(mac, idx);
                all.push((entry.sighting.is_none(), subnet.weight, entry));
            }
        }
        // Stable: equal weights stay in order of names.
        all.sort_by_key(|(foreign, weight, _)| (*foreign, *weight));
        MacTable::new(all.into_iter().map(|(_, _, entry)| entry).collect())
    }

    fn entry(&self, mac: Mac, owner: NodeIdx) -> MacEntry {
        let learned = self.learned.macs.get(&mac).filter(|_| owner == Nodes::ME);
        MacEntry {
            mac,
            owner,
            sighting: learned.map(|entry| Arc::clone(&entry.sighting)),
        }
    }
}

#[cfg(test)]
mod tests;
