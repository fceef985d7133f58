//! SourceCheck: whoever sends in the name of another is not heard (spec/security.md T21).

use std::net::IpAddr;

use crate::{
    route::{NodeIdx, RouteSnapshot, SourceCheck},
    wire::ip::Packet,
};

/// Whether a packet of `sender` comes from where its sender has no subnet, and that matters. What goes to
/// many is passed on from node to node, so its source is not its sender.
pub(super) fn is_foreign(snapshot: &RouteSnapshot, packet: &Packet<'_>, sender: NodeIdx) -> bool {
    let all = match snapshot.settings.source_check {
        _ if sender == snapshot.me => return false,
        SourceCheck::No => return false,
        SourceCheck::Native => false,
        SourceCheck::Strict => true,
    };
    let to_many = match packet.destination() {
        IpAddr::V4(to) => to.is_multicast() || to.is_broadcast(),
        IpAddr::V6(to) => to.is_multicast(),
    };
    let sound = to_many || snapshot.owns(sender, packet.source());
    !sound && (all || snapshot.state(sender).is_some_and(|s| s.is_native()))
}
