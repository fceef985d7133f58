//! SourceCheck: a node sends from its own addresses only (T21 of proto/threat-model.md).
//!
//! The addresses of a node are the subnets that its host file lists and those that it announces and SubnetPolicy
//! accepts. Of several subnets that contain an address the longest prefix counts, as for lookups, so a node with a wide
//! subnet does not send from the narrower one of another. What host files list counts also while its owner is down;
//! then only a node whose own host file lists a wider subnet stands in for it, as it does for lookups.
//!
//! The rule, by the dialect of the sender and by SourceCheck (its host file's word before ours):
//!
//! | sender | `no` | `native` | `strict` |
//! |---|---|---|---|
//! | speaks native, or its host file lists a subnet | all | its own | its own |
//! | any other | all | all but those of other nodes | its own |
//!
//! SPTPS and native records are sealed from end to end, so their sender is the node whose key opened them, whoever
//! relayed them. Packets from or for a legacy node are opened and sealed again at every hop, in whatever two hops speak:
//! they are taken from each node that lies on a shortest path between their owner and us. What goes to many is passed on
//! along the tree and is not judged.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
};

use meshd_wire::{Prefix, ip::Packet};

use crate::route::{
    NodeIdx, RouteSnapshot, SourceCheck,
    lpm::{Address, Owner, Route, Table},
};

/// The addresses from which one node may send, and who may send for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Subnets that it announces and that SubnetPolicy accepts, the longest prefix first.
    pub announced: Vec<Prefix>,
    /// Nothing narrower lies in any of these, so whoever has one of them has all of it.
    pub undivided: bool,
    /// Subnets that its host file lists, the longest prefix first.
    pub listed: Arc<[Prefix]>,
    /// SourceCheck of its host file, which goes before ours.
    pub check: Option<SourceCheck>,
    /// The nodes between it and us, in order, which seal its packets anew if they are from or for a legacy node.
    pub carriers: Arc<[NodeIdx]>,
}

impl Claims {
    /// The longest prefix that gives it the address, in bits, and the longest one of its host file.
    fn lengths(&self, addr: IpAddr) -> (Option<u8>, Option<u8>) {
        let longest = |of: &[Prefix]| Some(length(of.iter().find(|one| one.contains(addr))?));
        let listed = longest(&self.listed);
        (longest(&self.announced).max(listed), listed)
    }
}

/// The subnets that host files list, our own among them: for each address the length of the longest prefix.
#[derive(Debug, Default)]
pub struct Listed {
    v4: Table<u32, u8>,
    v6: Table<u128, u8>,
}

impl Listed {
    /// The table of these subnets; those of Ethernet addresses are passed over.
    #[must_use]
    pub fn new(subnets: impl IntoIterator<Item = Prefix>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in subnets {
            let owner = length(&prefix);
            match prefix.masked() {
                Prefix::V4(ip, len) => v4.push(Route {
                    addr: ip.to_bits(),
                    len,
                    owner,
                }),
                Prefix::V6(ip, len) => v6.push(Route {
                    addr: ip.to_bits(),
                    len,
                    owner,
                }),
                Prefix::Mac(_) => {}
            }
        }
        Self {
            v4: Table::new(v4),
            v6: Table::new(v6),
        }
    }

    /// Whether nothing narrower than a prefix lies in it, neither here nor in the tables of routes.
    #[must_use]
    pub fn leaves_whole(&self, prefix: &Prefix, v4: &Table<u32>, v6: &Table<u128>) -> bool {
        match *prefix {
            Prefix::V4(ip, len) => {
                let (first, last) = (ip.to_bits().first(len), ip.to_bits().last(len));
                self.v4.is_uniform(first, last) && v4.is_uniform(first, last)
            }
            Prefix::V6(ip, len) => {
                let (first, last) = (ip.to_bits().first(len), ip.to_bits().last(len));
                self.v6.is_uniform(first, last) && v6.is_uniform(first, last)
            }
            Prefix::Mac(_) => true,
        }
    }

    fn length(&self, addr: IpAddr) -> Option<u8> {
        match addr {
            IpAddr::V4(ip) => self.v4.lookup(ip.to_bits()),
            IpAddr::V6(ip) => self.v6.lookup(ip.to_bits()),
        }
    }
}

const fn length(prefix: &Prefix) -> u8 {
    match prefix {
        Prefix::V4(_, len) | Prefix::V6(_, len) => *len,
        Prefix::Mac(_) => 0,
    }
}

/// The result of SourceCheck for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It comes from where its sender has a subnet, or nobody asks.
    Sound,
    /// It does not, and passes: its sender is held to nothing, and the address is no other node's.
    Counted,
    /// It does not, and goes no further.
    Refused,
}

/// Judges where a packet of `sender` comes from.
pub(super) fn judge(snapshot: &RouteSnapshot, packet: &Packet<'_>, sender: NodeIdx) -> Origin {
    if sender == snapshot.me {
        return Origin::Sound;
    }
    let claims = snapshot.sources.get(sender.0 as usize);
    let check = claims.and_then(|claims| claims.check);
    let check = check.unwrap_or(snapshot.settings.source_check);
    let to_many = match packet.destination() {
        IpAddr::V4(to) => to.is_multicast() || to.is_broadcast(),
        IpAddr::V6(to) => to.is_multicast(),
    };
    if check == SourceCheck::No || to_many {
        return Origin::Sound;
    }
    let from = packet.source();
    let bits = if from.is_ipv4() { 32 } else { 128 };
    // Nothing is narrower than one address. Most packets need no more than this.
    let whole = |claims: &Claims| {
        let mut announced = claims.announced.iter();
        let found = announced.find(|one| one.contains(from));
        found.is_some_and(|one| claims.undivided || length(one) == bits)
    };
    if claims.is_some_and(whole) {
        return Origin::Sound;
    }
    let (longest, listed) = claims.map_or((None, None), |claims| claims.lengths(from));
    let owner = owner_of(snapshot, from);
    let up = match owner {
        Some((owner, true)) if owner != sender => lengths_of(snapshot, owner, from).0,
        _ => None,
    };
    let any = up.max(snapshot.listed.length(from));
    let stands_in = listed.is_some() && listed >= up;
    if longest.is_some() && (longest >= any || stands_in) {
        return Origin::Sound;
    }
    if owner.is_some_and(|(owner, _)| carries(snapshot, sender, owner, packet.destination())) {
        return Origin::Sound;
    }
    let held = check == SourceCheck::Strict
        || claims.is_some_and(|claims| !claims.listed.is_empty())
        || snapshot.state(sender).is_some_and(|s| s.is_native());
    // A default route leaves everything to others.
    let down = owner.map(|(owner, _)| lengths_of(snapshot, owner, from).0);
    let others = any.max(down.flatten()).is_some_and(|length| length > 0);
    match held || others {
        true => Origin::Refused,
        false => Origin::Counted,
    }
}

fn lengths_of(snapshot: &RouteSnapshot, node: NodeIdx, addr: IpAddr) -> (Option<u8>, Option<u8>) {
    let claims = snapshot.sources.get(node.0 as usize);
    claims.map_or((None, None), |claims| claims.lengths(addr))
}

/// The node to which packets for an address go, and whether it is reachable.
fn owner_of(snapshot: &RouteSnapshot, addr: IpAddr) -> Option<(NodeIdx, bool)> {
    let owner = match addr {
        IpAddr::V4(from) => snapshot.v4.lookup(from.to_bits()),
        IpAddr::V6(from) => snapshot.v6.lookup(from.to_bits()),
    };
    match owner? {
        Owner::Node(owner) => Some((owner, true)),
        Owner::Unreachable(owner) => Some((owner, false)),
        Owner::Broadcast => None,
    }
}

/// Whether packets of `owner` may come from this one, which has opened and sealed them again: one of the ends is legacy.
fn carries(snapshot: &RouteSnapshot, carrier: NodeIdx, owner: NodeIdx, to: IpAddr) -> bool {
    let claims = snapshot.sources.get(owner.0 as usize);
    let legacy = |node| snapshot.state(node).is_some_and(|state| state.legacy);
    claims.is_some_and(|claims| claims.carriers.binary_search(&carrier).is_ok())
        && (legacy(owner) || owner_of(snapshot, to).is_some_and(|(to, _)| legacy(to)))
}

/// Whether a packet of `sender` is not to be heard. Counts what is heard all the same, and what is not.
pub(super) fn is_foreign(snapshot: &RouteSnapshot, packet: &Packet<'_>, sender: NodeIdx) -> bool {
    let origin = judge(snapshot, packet, sender);
    match origin {
        Origin::Sound => {}
        Origin::Counted => count(snapshot, sender),
        Origin::Refused => {
            if let Some(node) = snapshot.node(sender) {
                node.counters.spoofed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    origin == Origin::Refused
}

/// Counts a packet of `sender` as [`Origin::Counted`].
pub fn count(snapshot: &RouteSnapshot, sender: NodeIdx) {
    if let Some(node) = snapshot.node(sender) {
        node.counters.foreign.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
