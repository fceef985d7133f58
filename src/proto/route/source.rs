//! SourceCheck: a node sends from its own addresses only (T21 of proto/threat-model.md).
//!
//! The addresses of a node are the subnets in its host file, and the announced subnets that
//! SubnetPolicy accepts. If several subnets contain an address, the longest prefix counts, as in
//! lookups. So a node with a wide subnet may not send from the narrower subnet of another node. A
//! subnet in a host file counts even if its owner is down. Then only a node whose own host file
//! lists a wider subnet may use that address, as in lookups.
//!
//! The rule depends on the dialect of the sender and on SourceCheck; the sender's host file
//! overrides our setting:
//!
//! | sender | `no` | `native` | `strict` |
//! |---|---|---|---|
//! | speaks native, or its host file lists a subnet | all | its own | its own |
//! | any other | all | all but those of other nodes | its own |
//!
//! SPTPS and native records are sealed end to end. So their sender is the node whose key opened
//! them, no matter which node relayed them. Packets from or to a legacy node are opened and sealed
//! again at every hop, in the dialect of each hop. Such packets are accepted from each node on a
//! shortest path between their owner and this node. Multicast and broadcast packets are forwarded
//! along the tree and not checked.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
};

use meshd_wire::{Prefix, ip::Packet};

use crate::route::{
    NodeSlot, RouteSnapshot, SourceCheck,
    lpm::{self, Address, Owner, Table},
};

/// Source addresses that one node may use, and the nodes that may send in its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Announced subnets of the node that SubnetPolicy accepts, longest prefix first.
    pub announced: Vec<Prefix>,
    /// True if no narrower subnet lies inside the announced ones: the owner of one has all of it.
    pub undivided: bool,
    /// Subnets in the node's host file, longest prefix first.
    pub listed: Arc<[Prefix]>,
    /// SourceCheck of the node's host file, which overrides ours.
    pub check: Option<SourceCheck>,
    /// Nodes between that node and this one, in order. These nodes seal packets again if one end is
    /// legacy.
    pub carriers: Arc<[NodeSlot]>,
}

impl Claims {
    /// Returns the longest prefix length that gives the node the address, and the longest one in
    /// its host file.
    fn lengths(&self, addr: IpAddr) -> (Option<u8>, Option<u8>) {
        let longest = |of: &[Prefix]| Some(length(of.iter().find(|one| one.contains(addr))?));
        let listed = longest(&self.listed);
        (longest(&self.announced).max(listed), listed)
    }
}

/// Subnets in host files, including ours: for each address the length of the longest prefix.
#[derive(Debug, Default)]
pub struct Listed {
    v4: Table<u32, u8>,
    v6: Table<u128, u8>,
}

impl Listed {
    /// Builds the table of these subnets; Ethernet addresses are skipped.
    #[must_use]
    pub fn new(subnets: impl IntoIterator<Item = Prefix>) -> Self {
        let lengths = subnets
            .into_iter()
            .map(|prefix| (prefix.masked(), length(&prefix)));
        let (v4, v6) = lpm::tables(lengths);
        Self { v4, v6 }
    }

    /// Returns true if nothing narrower lies inside a prefix, neither here nor in the route tables.
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

/// Result of SourceCheck for a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The sender owns the source, or no check applies.
    Sound,
    /// The sender does not own the source, but the packet passes: no rule binds the sender, and no
    /// other node owns the address.
    Counted,
    /// The sender does not own the source, and the packet is dropped.
    Refused,
}

/// Checks the source of a packet from `sender`.
pub(super) fn judge(snapshot: &RouteSnapshot, packet: &Packet<'_>, sender: NodeSlot) -> Origin {
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
    // No subnet is narrower than a single address. Most packets need no further check.
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
        || snapshot
            .state(sender)
            .is_some_and(|s| s.dialect.caps().own_sources);
    // A default route gives nothing exclusively to its owner.
    let down = owner.map(|(owner, _)| lengths_of(snapshot, owner, from).0);
    let others = any.max(down.flatten()).is_some_and(|length| length > 0);
    match held || others {
        true => Origin::Refused,
        false => Origin::Counted,
    }
}

fn lengths_of(snapshot: &RouteSnapshot, node: NodeSlot, addr: IpAddr) -> (Option<u8>, Option<u8>) {
    let claims = snapshot.sources.get(node.0 as usize);
    claims.map_or((None, None), |claims| claims.lengths(addr))
}

/// Returns the node that owns an address, and true if it is reachable.
fn owner_of(snapshot: &RouteSnapshot, addr: IpAddr) -> Option<(NodeSlot, bool)> {
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

/// Returns true if `carrier` may send packets of `owner` because it has opened and sealed them
/// again. That happens if the dialect of one of the ends is not end to end.
fn carries(snapshot: &RouteSnapshot, carrier: NodeSlot, owner: NodeSlot, to: IpAddr) -> bool {
    let claims = snapshot.sources.get(owner.0 as usize);
    let resealed = |node| {
        snapshot
            .state(node)
            .is_some_and(|state| !state.dialect.caps().end_to_end)
    };
    claims.is_some_and(|claims| claims.carriers.binary_search(&carrier).is_ok())
        && (resealed(owner) || owner_of(snapshot, to).is_some_and(|(to, _)| resealed(to)))
}

/// Returns true if a packet of `sender` must be dropped. Updates the counters.
pub(super) fn is_foreign(snapshot: &RouteSnapshot, packet: &Packet<'_>, sender: NodeSlot) -> bool {
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

/// Counts a packet of `sender` as `Counted`.
pub fn count(snapshot: &RouteSnapshot, sender: NodeSlot) {
    if let Some(node) = snapshot.node(sender) {
        node.counters.foreign.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
