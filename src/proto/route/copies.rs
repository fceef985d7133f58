//! Loop checks on packets that go on to other nodes: see [`crate::route::recent`].

use std::time::Instant;

use meshd_wire::{
    ether::{self, Frame},
    ip::unchanged::is_numbered,
};

use crate::route::{
    DropReason, Mode, NodeIdx, RouteSnapshot, path::next_hop, recent::Repeats, switch::is_ours,
};

/// How often a tincd may repeat a packet for one node, within a quarter of a second each.
const FEW: u8 = 7;

/// Checks a broadcast of `source`, ourselves for our device, before it is delivered and spread.
pub(super) fn check_broadcast(
    snapshot: &RouteSnapshot,
    packet: &[u8],
    source: NodeIdx,
    now: Instant,
) -> Result<(), DropReason> {
    let repeats = match trusts(snapshot, source) {
        true => Repeats::Any,
        false if is_numbered(ip_of(snapshot, packet)) || is_for_many(snapshot, packet) => {
            Repeats::Few(0)
        }
        false => Repeats::Few(FEW),
    };
    admit(snapshot, packet, source, repeats, now)
}

/// Checks a packet of another node, `source`, that is to be sealed again for `to`. `length` is that of the longest
/// piece of it, in bytes.
pub(super) fn check_transit(
    snapshot: &RouteSnapshot,
    packet: &[u8],
    (source, to): (NodeIdx, NodeIdx),
    length: usize,
    now: Instant,
) -> Result<(), DropReason> {
    // The router compares the owner's next hop; what carries the packet may be another node.
    let back = next_hop(snapshot, to, length) == Some(source);
    // A frame of a station behind our device has been here: nothing was noted when it left.
    if back || snapshot.settings.mode != Mode::Router && is_ours(snapshot, packet) {
        return Err(DropReason::RoutingLoop);
    }
    let legacy = snapshot.state(source).is_some_and(|state| state.legacy);
    let repeats = match trusts(snapshot, source) {
        true => Repeats::Any,
        false if is_numbered(ip_of(snapshot, packet)) => Repeats::Few(0),
        // Every packet of a legacy node that goes through us comes this way, and applications repeat themselves.
        false if legacy => Repeats::Any,
        false => Repeats::Few(FEW),
    };
    admit(snapshot, packet, source, repeats, now)
}

/// Takes note of a packet of our device that goes to all, so that no copy of it passes when it comes back.
pub fn note_ours(snapshot: &RouteSnapshot, packet: &[u8], now: Instant) {
    let _ = check_broadcast(snapshot, packet, snapshot.me, now);
}

/// Whether the node sends no copies on: ourselves, and meshds.
fn trusts(snapshot: &RouteSnapshot, source: NodeIdx) -> bool {
    source == snapshot.me
        || snapshot
            .state(source)
            .is_some_and(|state| state.is_native())
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
    source: NodeIdx,
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
