//! Switch and hub mode: the decision on one Ethernet frame.
//!
//! Source: config/tinc.md section 6.7. Frames get no "unreachable": a frame for an address without
//! an owner is flooded. Only a frame that is too long for its path is answered, as in router mode.

use std::sync::{Arc, atomic::Ordering};

use meshd_sync::AtomicBool;
use meshd_wire::{
    Options,
    ether::{self, Frame, Mac},
    ip::{self, HEADER_V4, Packet},
};

use crate::route::{
    DropReason, Forwarding, MTU, Mode, NodeSlot, RouteSnapshot,
    router::{decrement_ttl, mtu_of, next_mtu, next_of, parse, too_long},
    verdict::{Stop, Verdict},
};

/// Longest IP packet that is never too long: links carry what UDP does not.
const SMALL_V4: usize = 576 + HEADER_V4;
const SMALL_V6: usize = 1280;

/// Owners of Ethernet addresses; immutable once published.
#[derive(Debug, Default)]
pub struct MacTable(Vec<MacEntry>);

/// One Ethernet address and its owner.
#[derive(Debug)]
pub struct MacEntry {
    /// The address.
    pub mac: Mac,
    /// Owner of the address.
    pub owner: NodeSlot,
    /// Sighting of a learned address.
    pub sighting: Option<Arc<Sighting>>,
}

/// Flag for frames of an address from our device since the mesh last read it. Workers set it.
#[derive(Debug, Default)]
pub struct Sighting(AtomicBool);

impl Sighting {
    /// Records a frame.
    pub fn note(&self) {
        // The flag is usually set already, and a load costs less than a store.
        if !self.0.load(Ordering::Relaxed) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if a frame was recorded since the last call.
    #[must_use]
    pub fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

impl MacTable {
    /// Builds the table; of equal addresses the first one counts.
    #[must_use]
    pub fn new(mut entries: Vec<MacEntry>) -> Self {
        // The sort is stable, so the first of equal addresses stays first.
        entries.sort_by_key(|entry| entry.mac);
        entries.dedup_by_key(|entry| entry.mac);
        Self(entries)
    }

    /// Returns the entry of an address.
    #[must_use]
    pub fn get(&self, mac: Mac) -> Option<&MacEntry> {
        let at = self.0.binary_search_by_key(&mac, |entry| entry.mac).ok()?;
        Some(&self.0[at])
    }
}

/// Checks the source of a frame from our device, in switch mode. Returns an address that must be
/// learned.
#[must_use]
pub fn sight(snapshot: &RouteSnapshot, frame: &[u8]) -> Option<Mac> {
    let mac = Frame::parse(frame)?.source();
    match snapshot.macs.get(mac) {
        Some(entry) if entry.owner == snapshot.me => {
            if let Some(sighting) = &entry.sighting {
                sighting.note();
            }
            None
        }
        _ => (!ether::is_group(mac) && mac != [0; 6]).then_some(mac),
    }
}

/// Returns true if a frame is from a station behind our own device.
pub(super) fn is_ours(snapshot: &RouteSnapshot, frame: &[u8]) -> bool {
    let entry = Frame::parse(frame).and_then(|frame| snapshot.macs.get(frame.source()));
    entry.is_some_and(|entry| entry.owner == snapshot.me)
}

/// Decides on one frame of `source`. May change TTL and MSS in place.
#[inline(never)] // kept out of the router's code
pub(super) fn switch(
    snapshot: &RouteSnapshot,
    bytes: &mut [u8],
    source: NodeSlot,
) -> Result<Verdict, Stop> {
    let (me, settings) = (snapshot.me, &snapshot.settings);
    let frame = Frame::parse(bytes).filter(|_| bytes.len() <= MTU.into());
    let frame = frame.ok_or(Stop::Drop(DropReason::Malformed))?;
    let at = frame.ip_at();
    if settings.forwarding == Forwarding::Kernel && source != me {
        return Ok(Verdict::Local);
    }
    let known = (settings.mode == Mode::Switch)
        .then(|| snapshot.macs.get(frame.destination()))
        .flatten()
        .and_then(|entry| Some((entry.owner, snapshot.state(entry.owner)?)));
    // The state may be newer than the table.
    let Some((owner, state)) = known.filter(|(_, state)| state.reachable) else {
        return broadcast(snapshot, bytes, at, source);
    };
    if owner == source {
        return Err(Stop::Drop(DropReason::LoopingBack));
    }
    if source != me && owner != me {
        if settings.forwarding == Forwarding::Off {
            return Err(Stop::Drop(DropReason::Prohibited));
        }
        age(snapshot, bytes, at)?;
    }
    let next = next_of(snapshot, &state);
    if next == source {
        return Err(Stop::Drop(DropReason::RoutingLoop));
    }
    if settings.direct_only && next != owner {
        return Err(Stop::Drop(DropReason::Prohibited));
    }
    let next_state = snapshot.state(next);
    let next_state = next_state.ok_or(Stop::Drop(DropReason::NoRelay))?;
    let Some(at) = at else {
        return Ok(to(snapshot, owner));
    };
    let mtu = next_mtu(snapshot, (owner, &state), (next, &next_state));
    if next != me && bytes.len() > mtu.into() {
        return answer_too_long(bytes, at, owner, mtu);
    }
    if next_state.options.has(Options::CLAMP_MSS) {
        clamp(bytes, at, mtu.min(mtu_of(snapshot, source)));
    }
    Ok(to(snapshot, owner))
}

fn to(snapshot: &RouteSnapshot, owner: NodeSlot) -> Verdict {
    match owner == snapshot.me {
        true => Verdict::Local,
        false => Verdict::Send(owner),
    }
}

/// Decides on a frame for all nodes. In hub mode every frame is one, so the MSS of TCP is clamped
/// to the least MTU. tinc relies on links for frames that are too long.
fn broadcast(
    snapshot: &RouteSnapshot,
    bytes: &mut [u8],
    at: Option<usize>,
    source: NodeSlot,
) -> Result<Verdict, Stop> {
    let verdict = snapshot.broadcast_of(source)?;
    if source != snapshot.me {
        age(snapshot, bytes, at)?;
    }
    if let Some(at) = at {
        let others = snapshot.spread_to(source).chain([source]);
        let mtu = others.map(|node| mtu_of(snapshot, node)).min();
        clamp(bytes, at, mtu.unwrap_or(MTU));
    }
    Ok(verdict)
}

/// Applies DecrementTTL to an IP packet in a frame in transit.
fn age(snapshot: &RouteSnapshot, bytes: &mut [u8], at: Option<usize>) -> Result<(), Stop> {
    let Some(at) = at.filter(|at| Packet::parse(&bytes[*at..]).is_some()) else {
        return Ok(());
    };
    decrement_ttl(snapshot, &mut bytes[at..]).map_err(|stop| framed(stop, bytes, at))
}

/// Lowers the MSS of a TCP segment so that frames of its flow have at most `mtu` bytes.
fn clamp(bytes: &mut [u8], at: usize, mtu: u16) {
    ip::clamp_mss(&mut bytes[at..], mtu.saturating_sub(at as u16));
}

/// Answers a frame that is too long for a path of `mtu` bytes. A frame without IP, or a small one,
/// is sent all the same.
fn answer_too_long(bytes: &[u8], at: usize, owner: NodeSlot, mtu: u16) -> Result<Verdict, Stop> {
    let packet = parse(&bytes[at..]);
    let small = match packet.as_ref().map(Packet::is_v6) {
        Ok(true) => SMALL_V6,
        Ok(false) => SMALL_V4,
        Err(_) => return Ok(Verdict::Send(owner)),
    };
    if bytes.len() - at <= small {
        return Ok(Verdict::Send(owner));
    }
    let mtu = usize::from(mtu).saturating_sub(at).max(small);
    match too_long(&packet?, owner, mtu as u16) {
        Ok(Verdict::Fragments(to, pieces)) => {
            let pieces = pieces.iter().map(|piece| [&bytes[..at], piece].concat());
            Ok(Verdict::Fragments(to, pieces.collect()))
        }
        Ok(verdict) => Ok(verdict),
        Err(stop) => Err(framed(stop, bytes, at)),
    }
}

/// Puts an answer into a frame back to the sender of the original frame.
fn framed(stop: Stop, bytes: &[u8], at: usize) -> Stop {
    match stop {
        Stop::Error(Some(error)) => Stop::Error(Some([ether::answer(bytes, at), error].concat())),
        stop => stop,
    }
}

#[cfg(test)]
mod tests;
