//! SourceCheck: whoever sends in the name of another is not heard (spec/security.md T21).

use std::{net::IpAddr, sync::atomic::Ordering};

use crate::{
    route::{NodeIdx, RouteSnapshot, SourceCheck, lpm::Owner},
    wire::ip::Packet,
};

/// What SourceCheck says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It comes from where its sender has a subnet, or nobody asks.
    Sound,
    /// It does not, and passes: its sender speaks SPTPS.
    Counted,
    /// It does not, and goes no further.
    Refused,
}

/// Judges where a packet of `sender` comes from. What goes to many is passed on from node to node, so its
/// source is not its sender.
pub(super) fn judge(snapshot: &RouteSnapshot, packet: &Packet<'_>, sender: NodeIdx) -> Origin {
    let all = match snapshot.settings.source_check {
        _ if sender == snapshot.me => return Origin::Sound,
        SourceCheck::No => return Origin::Sound,
        SourceCheck::Native => false,
        SourceCheck::Strict => true,
    };
    let to_many = match packet.destination() {
        IpAddr::V4(to) => to.is_multicast() || to.is_broadcast(),
        IpAddr::V6(to) => to.is_multicast(),
    };
    if to_many || snapshot.owns(sender, packet.source()) || is_passed_on(snapshot, packet, sender) {
        return Origin::Sound;
    }
    match all || snapshot.state(sender).is_some_and(|s| s.is_native()) {
        true => Origin::Refused,
        false => Origin::Counted,
    }
}

/// Whether a packet is of a legacy node and came by another one, as they do: each opens and seals it again. Nodes that
/// speak more are not to be spoken for.
fn is_passed_on(snapshot: &RouteSnapshot, packet: &Packet<'_>, sender: NodeIdx) -> bool {
    let legacy = |node| snapshot.state(node).is_some_and(|state| state.legacy);
    let owner = match packet.source() {
        IpAddr::V4(from) => snapshot.v4.lookup(from.to_bits()),
        IpAddr::V6(from) => snapshot.v6.lookup(from.to_bits()),
    };
    match owner {
        Some(Owner::Node(owner) | Owner::Unreachable(owner)) => legacy(sender) && legacy(owner),
        Some(Owner::Broadcast) | None => false,
    }
}

/// Whether a packet of `sender` is not to be heard. Counts what is heard all the same.
pub(super) fn is_foreign(snapshot: &RouteSnapshot, packet: &Packet<'_>, sender: NodeIdx) -> bool {
    let origin = judge(snapshot, packet, sender);
    if origin == Origin::Counted {
        count(snapshot, sender);
    }
    origin == Origin::Refused
}

/// Counts a packet of `sender` as [`Origin::Counted`].
pub(crate) fn count(snapshot: &RouteSnapshot, sender: NodeIdx) {
    if let Some(node) = snapshot.node(sender) {
        node.counters.foreign.fetch_add(1, Ordering::Relaxed);
    }
}
