//! Loop checks on packets that are forwarded to other nodes: see [`crate::route::recent`].

use std::time::Instant;

use meshd_wire::{
    ether::{self, Frame},
    ip::unchanged::is_numbered,
};

use crate::route::{
    DropReason, Mode, NodeSlot, RouteSnapshot, path::next_hop, recent::Repeats, switch::is_ours,
};

/// Number of times that a tincd may repeat a packet for one node, each within a quarter of a
/// second.
const FEW: u8 = 7;

/// Checks a broadcast of `source` before it is delivered and forwarded. `source` is this node for
/// packets of our device.
pub(super) fn check_broadcast(
    snapshot: &RouteSnapshot,
    packet: &[u8],
    source: NodeSlot,
    now: Instant,
) -> Result<(), DropReason> {
    let repeats = match trusts(snapshot, source) {
        true => Repeats::Any,
        false if is_numbered(ip_of(snapshot, packet)) || is_for_many(snapshot, packet) => {
            Repeats::Slowly(0)
        }
        false => Repeats::Slowly(FEW),
    };
    admit(snapshot, packet, source, repeats, now)
}

/// Checks a packet of another node, `source`, that is to be sealed again for `to`. `length` is the
/// length of its longest fragment in bytes.
pub(super) fn check_transit(
    snapshot: &RouteSnapshot,
    packet: &[u8],
    (source, to): (NodeSlot, NodeSlot),
    length: usize,
    now: Instant,
) -> Result<(), DropReason> {
    // The router compares the owner's nexthop, but another node may carry the packet.
    let back = next_hop(snapshot, to, length) == Some(source);
    // A frame from a station behind our device has been here: no fingerprint was taken when it
    // left.
    if back || snapshot.settings.mode != Mode::Router && is_ours(snapshot, packet) {
        return Err(DropReason::RoutingLoop);
    }
    let reseals = snapshot
        .state(source)
        .is_some_and(|state| !state.dialect.caps().end_to_end);
    let repeats = match trusts(snapshot, source) {
        true => Repeats::Any,
        false if is_numbered(ip_of(snapshot, packet)) => Repeats::Few(0),
        // Every packet of such a node passes here, and applications send equal packets.
        false if reseals => Repeats::Any,
        false => Repeats::Few(FEW),
    };
    admit(snapshot, packet, source, repeats, now)
}

/// Remembers a broadcast of our device, so that a copy of it is dropped when it comes back.
pub fn note_own_packet(snapshot: &RouteSnapshot, packet: &[u8], now: Instant) {
    let _ = check_broadcast(snapshot, packet, snapshot.me, now);
}

/// Returns true if the node forwards no copies: this node, and meshds.
fn trusts(snapshot: &RouteSnapshot, source: NodeSlot) -> bool {
    source == snapshot.me
        || snapshot
            .state(source)
            .is_some_and(|state| state.dialect.caps().drops_copies)
}

fn is_for_many(snapshot: &RouteSnapshot, packet: &[u8]) -> bool {
    match snapshot.settings.mode {
        Mode::Router => true,
        Mode::Switch | Mode::Hub => {
            Frame::parse(packet).is_some_and(|frame| ether::is_group(frame.destination()))
        }
    }
}

fn ip_of<'a>(snapshot: &RouteSnapshot, packet: &'a [u8]) -> &'a [u8] {
    packet
        .get(snapshot.settings.mode.ip_at(packet)..)
        .unwrap_or_default()
}

fn admit(
    snapshot: &RouteSnapshot,
    packet: &[u8],
    source: NodeSlot,
    repeats: Repeats,
    now: Instant,
) -> Result<(), DropReason> {
    let recent = &snapshot.recent;
    let fingerprint = recent.fingerprint(snapshot.settings.mode, packet);
    match recent.admits(fingerprint, source, repeats, now) {
        true => Ok(()),
        false => Err(DropReason::Repeated),
    }
}
