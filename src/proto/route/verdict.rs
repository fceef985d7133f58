//! Decision on one packet, in any mode.

use std::time::{Duration, Instant};

use meshd_wire::{
    icmp::{self, Unreachable},
    ip::Packet,
};

use crate::route::{
    DropReason, Mode, NodeSlot, RouteSnapshot,
    copies::{check_broadcast, check_transit},
    router::route,
    switch::switch,
};

/// Decision on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Send the packet into this node's tunnel, on the path of [`crate::route::path::send_path`].
    Send(NodeSlot),
    /// Write the packet to our own device.
    Local,
    /// Flood the packet: to [`crate::route::RouteSnapshot::spread_to`], and to our device if
    /// [`crate::route::RouteSnapshot::spreads_here`].
    Broadcast,
    /// Reject the packet: route this answer back to its sender.
    Reply(Vec<u8>),
    /// The packet is too long and may be fragmented: send these fragments to the node instead.
    Fragments(NodeSlot, Vec<Vec<u8>>),
    /// Drop the packet.
    Drop(DropReason),
}

/// Limits the ICMP errors of one caller to [`Self::PER_SECOND`] a second, over both IP versions.
/// Each worker and the slow path have a limiter of their own. Source: config/tinc.md section 6.5.
#[derive(Debug, Default)]
pub struct ErrorLimiter {
    /// Start of the current second, and number of errors in it.
    current: Option<(Instant, u32)>,
}

impl ErrorLimiter {
    /// Errors allowed in one second.
    pub const PER_SECOND: u32 = 3;

    /// Returns true if one more error may be sent now, and counts it.
    pub fn allow(&mut self, now: Instant) -> bool {
        let fresh = self
            .current
            .filter(|(start, _)| now.saturating_duration_since(*start) < Duration::from_secs(1));
        let (start, count) = fresh.unwrap_or((now, 0));
        let allowed = count < Self::PER_SECOND;
        self.current = Some((start, count + u32::from(allowed)));
        allowed
    }
}

/// Decides on one packet from `source`. `source` is this node for our device, else the node whose
/// tunnel or link delivered the packet. In router mode the packet is an IP packet, else a frame.
/// May change TTL and MSS in place.
///
/// The snapshot must hold a state for this node: reachable, with itself as nexthop and via.
pub fn decide(
    snapshot: &RouteSnapshot,
    bytes: &mut [u8],
    source: NodeSlot,
    limiter: &mut ErrorLimiter,
    now: Instant,
) -> Verdict {
    let verdict = match snapshot.settings.mode {
        Mode::Router => route(snapshot, bytes, source),
        Mode::Switch | Mode::Hub => switch(snapshot, bytes, source),
    };
    let verdict = verdict.unwrap_or_else(|stop| match stop {
        Stop::Drop(reason) => Verdict::Drop(reason),
        Stop::Error(Some(error)) if limiter.allow(now) => Verdict::Reply(error),
        Stop::Error(_) => Verdict::Drop(DropReason::ErrorLimit),
    });
    match verdict {
        Verdict::Broadcast => check(snapshot, bytes, source, verdict, now),
        Verdict::Send(_) | Verdict::Fragments(..) if source != snapshot.me => {
            check(snapshot, bytes, source, verdict, now)
        }
        verdict => verdict,
    }
}

/// Returns the verdict on a forwarded packet, or drops it if it is a copy.
#[inline(never)] // most packets go directly to their node
fn check(
    snapshot: &RouteSnapshot,
    bytes: &[u8],
    source: NodeSlot,
    verdict: Verdict,
    now: Instant,
) -> Verdict {
    let checked = match &verdict {
        Verdict::Send(to) => check_transit(snapshot, bytes, (source, *to), bytes.len(), now),
        Verdict::Fragments(to, pieces) => {
            let longest = pieces.iter().map(Vec::len).max().unwrap_or_default();
            check_transit(snapshot, bytes, (source, *to), longest, now)
        }
        _ => check_broadcast(snapshot, bytes, source, now),
    };
    checked.map_or_else(Verdict::Drop, |()| verdict)
}

/// Reason why a packet is not delivered.
pub(super) enum Stop {
    Drop(DropReason),
    /// Send this answer, unless the packet must not be answered.
    Error(Option<Vec<u8>>),
}

impl Stop {
    pub(super) fn unreachable(packet: &Packet<'_>, why: Unreachable) -> Self {
        Self::Error(icmp::unreachable(packet, why))
    }
}
