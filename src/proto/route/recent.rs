//! Loop protection: fingerprints of packets and datagrams that this node has forwarded lately.
//!
//! While a change of the mesh spreads, nodes hold different graphs, so a packet may go in a circle.
//! tinc has no hop count, and its wire format has no room for one. So each node remembers
//! fingerprints.
//!
//! A datagram between two other nodes passes once: each is unique, because its number is
//! authenticated. An application may send equal broadcasts, or equal packets that are opened and
//! sealed again here. Such a packet passes whenever its first sender sends it again; from any other
//! node it is a copy. In a circle of meshds the first node to see a packet again receives it from
//! another node than before, so no circle closes. A tincd forwards every copy; see [`Repeats`].
//!
//! All packet threads and the slow path share one [`Recent`]. Packets that come from their origin
//! through one tunnel and end here are not checked.

use std::time::{Duration, Instant};

use meshd_sync::{AtomicU64, OnceLock};
use meshd_wire::{
    NodeId, ether,
    ip::unchanged::{FRONT, blank_changeable},
};

use crate::route::{Mode, NodeSlot};
use std::sync::atomic::Ordering;

/// Number of remembered fingerprints of each kind, a power of two; a new one replaces an old one.
/// Memory: 8 bytes each, allocated at first use.
const SLOTS: usize = match (cfg!(feature = "model"), cfg!(test)) {
    (true, _) => 2,
    (_, true) => 1 << 10,
    (..) => 1 << 14,
};
/// Time after a packet within which an equal packet from another node is a copy of it.
const ELSEWHERE: Duration = Duration::from_secs(2);
/// Time after a packet within which an equal packet from the same tincd may be a copy that went in
/// a circle. Applications and kernels repeat packets more slowly.
const SOON: Duration = Duration::from_millis(256);
/// Time after a broadcast within which the same tincd sends an equal one only if it went in a circle.
/// Each such copy extends the time, so a circle that is faster than this passes once.
const AT_ONCE: Duration = Duration::from_millis(64);
/// Unit of the times in [`Seen`], in milliseconds. Half of the 16-bit range counts as past: 17
/// minutes.
const TICK: u128 = 32;
/// Bytes that identify a sealed datagram: its numbers in front, its tag at the end.
const NUMBERS: usize = 16;
const TAG: usize = 16;

/// Number of times that the first sender of a packet may send the same packet again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    /// Any number: our own device, and meshds, which forward no copies.
    Any,
    /// At most this number, at most 7, each within `SOON` of the one before: a tincd, which
    /// forwards every copy.
    Few(u8),
    /// As `Few`, for packets that are forwarded to several nodes: none within `AT_ONCE`.
    Slowly(u8),
}

/// Fingerprints of what was forwarded lately.
#[derive(Debug, Default)]
pub struct Recent {
    /// Secret key of the fingerprints, so nobody can make two packets with the same fingerprint.
    key: u64,
    packets: OnceLock<Packets>,
    datagrams: OnceLock<Box<[AtomicU64]>>,
}

#[derive(Debug)]
struct Packets {
    /// Start of the time count.
    start: Instant,
    slots: Box<[AtomicU64]>,
}

/// A forwarded packet in its slot form. An empty slot is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// Upper bits of the fingerprint, never zero.
    tag: u32,
    /// Number of repetitions.
    repeats: u8,
    /// The node that sent the packet first.
    from: NodeSlot,
    /// Time of the last pass, in units of [`TICK`].
    at: u16,
}

impl Seen {
    const TAG_BITS: u32 = 25;
    const AT_BITS: u32 = 16;
    const REPEATS_AT: u32 = Self::AT_BITS + NodeSlot::SESSION_BITS;
    const TAG_AT: u32 = 64 - Self::TAG_BITS;

    const fn tag_of(fingerprint: u64) -> u32 {
        (fingerprint >> Self::TAG_AT) as u32 | 1
    }

    const fn word(self) -> u64 {
        (self.tag as u64) << Self::TAG_AT
            | (self.repeats as u64) << Self::REPEATS_AT
            | (NodeSlot::of_session(self.from.0).0 as u64) << Self::AT_BITS
            | self.at as u64
    }

    const fn of(word: u64) -> Self {
        Self {
            tag: (word >> Self::TAG_AT) as u32,
            repeats: (word >> Self::REPEATS_AT) as u8 & 7,
            from: NodeSlot::of_session((word >> Self::AT_BITS) as u32),
            at: word as u16,
        }
    }
}

const _: () = assert!(Seen::REPEATS_AT + 3 == Seen::TAG_AT);

impl Recent {
    /// Makes an empty set. `key` is a secret.
    #[must_use]
    pub fn new(key: u64) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    /// Records a packet from `from` that may be forwarded; `from` is this node for our device.
    /// Returns `false` if the packet is a copy of an earlier one and must be dropped.
    #[must_use]
    pub fn admits(&self, fingerprint: u64, from: NodeSlot, repeats: Repeats, now: Instant) -> bool {
        let packets = self.packets.get_or_init(|| Packets {
            start: now,
            slots: slots(),
        });
        let slot = &packets.slots[fingerprint as usize % SLOTS];
        let ticks = now.saturating_duration_since(packets.start).as_millis() / TICK;
        let new = Seen {
            tag: Seen::tag_of(fingerprint),
            repeats: 0,
            from: NodeSlot::of_session(from.0),
            at: ticks as u16,
        };
        let mut word = slot.load(Ordering::Relaxed);
        loop {
            let (next, passes) = match after(Seen::of(word), new, repeats) {
                After::Passes(next) => (next, true),
                After::Circles(next) => (next, false),
                After::Dropped => return false,
            };
            // If two threads have the same packet at once, the second one sees the entry of the
            // first.
            match slot.compare_exchange(word, next.word(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return passes,
                Err(other) => word = other,
            }
        }
    }

    /// Records a datagram from `from` to `to` that this node relays. Returns `false` if it was
    /// forwarded before.
    #[must_use]
    pub fn admits_datagram(&self, from: NodeId, to: NodeId, sealed: &[u8]) -> bool {
        let slots = self.datagrams.get_or_init(slots);
        let mut hash = Hash::new(self.key);
        hash.update(&from.0);
        hash.update(&to.0);
        hash.update(&sealed[..sealed.len().min(NUMBERS)]);
        hash.update(&sealed[sealed.len().saturating_sub(TAG)..]);
        let fingerprint = hash.finish();
        let slot = &slots[fingerprint as usize % SLOTS];
        // The word is never zero, because an empty slot is.
        let word = fingerprint | 1 << 63;
        slot.swap(word, Ordering::Relaxed) != word
    }

    /// Returns the fingerprint of an inner packet: of all bytes that nodes on the path do not
    /// change.
    #[must_use]
    pub fn fingerprint(&self, mode: Mode, packet: &[u8]) -> u64 {
        const MOST: usize = ether::HEADER + 2 * ether::TAG + FRONT;
        let mut copy = [0; MOST];
        let (front, rest) = packet.split_at(packet.len().min(MOST));
        let copy = &mut copy[..front.len()];
        copy.copy_from_slice(front);
        let ip = mode.ip_at(copy);
        blank_changeable(&mut copy[ip..]);
        let mut hash = Hash::new(self.key);
        hash.update(copy);
        hash.update(rest);
        hash.finish()
    }
}

/// Result of a comparison of a packet with the entry of its slot.
enum After {
    /// The packet passes; the new entry.
    Passes(Seen),
    /// The packet is a copy that circles; the new entry.
    Circles(Seen),
    /// The packet is a copy.
    Dropped,
}

/// Compares a packet with the entry of its slot.
fn after(old: Seen, new: Seen, repeats: Repeats) -> After {
    // Another thread may have read the clock a little later.
    let age = new.at.wrapping_sub(old.at);
    let age = if age > u16::MAX / 2 { 0 } else { age };
    let within = |time: Duration| u128::from(age) * TICK < time.as_millis();
    if old.tag != new.tag {
        return After::Passes(new);
    }
    if old.from != new.from {
        return match within(ELSEWHERE) {
            true => After::Dropped,
            false => After::Passes(new),
        };
    }
    let most = match repeats {
        Repeats::Slowly(_) if within(AT_ONCE) => {
            return After::Circles(Seen { repeats: 7, ..new });
        }
        Repeats::Few(most) | Repeats::Slowly(most) if within(SOON) => most.min(7),
        _ => return After::Passes(new),
    };
    match old.repeats < most {
        true => After::Passes(Seen {
            repeats: old.repeats + 1,
            ..new
        }),
        false => After::Dropped,
    }
}

fn slots() -> Box<[AtomicU64]> {
    (0..SLOTS).map(|_| AtomicU64::new(0)).collect()
}

/// A keyed hash that is fast rather than strong. An attacker who breaks it gets only copies of its
/// own packets dropped. Source: the folded multiplication of wyhash.
struct Hash {
    state: u64,
    length: u64,
}

impl Hash {
    /// Any odd numbers with equally many ones and zeros are suitable.
    const ODD: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];

    const fn new(key: u64) -> Self {
        Self {
            state: key ^ Self::ODD[0],
            length: 0,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        let (chunks, rest) = bytes.as_chunks::<16>();
        for chunk in chunks {
            self.mix(chunk);
        }
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(&last);
    }

    fn mix(&mut self, chunk: &[u8; 16]) {
        let (left, right) = chunk.split_at(8);
        let word = |half: &[u8]| {
            half.first_chunk()
                .map_or(0, |half| u64::from_le_bytes(*half))
        };
        self.state = fold(word(left) ^ self.state, word(right) ^ Self::ODD[1]);
    }

    const fn finish(&self) -> u64 {
        fold(self.state ^ self.length, Self::ODD[0])
    }
}

const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::testing::{B, C, ME, now};
    use meshd_wire::testing::v4;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_packet_passes_from_whom_it_came_first_only() {
        let (recent, start) = (Recent::new(7), now());
        let admits = |from, ms| recent.admits(1, from, Repeats::Any, start + ms * MS);
        assert!(admits(B, 0) && admits(B, 0) && admits(B, 50));
        assert!(!admits(C, 60) && !admits(ME, 1900) && admits(B, 1900));
        assert!(!admits(C, 3800), "it passed again meanwhile");
        assert!(admits(C, 4000) && !admits(B, 4001));
        assert!(recent.admits(2, B, Repeats::Any, start), "another packet");
        // A thread with a slower clock.
        assert!(!admits(B, 3990));
    }

    #[test]
    fn a_tincd_may_repeat_a_little_and_slowly() {
        let (recent, start) = (Recent::new(7), now());
        for (fingerprint, few) in [(1, 0), (2, 3)] {
            let admits = |ms| recent.admits(fingerprint, B, Repeats::Few(few), start + ms * MS);
            let passed = (0..1000).filter(|_| admits(0)).count();
            assert_eq!(passed, 1 + usize::from(few));
            assert!(!admits(200) && admits(300));
            // Repetitions once a second are no circle.
            assert!((2..40).all(|second| admits(second * 1000)));
        }
    }

    /// A circle that is faster than `AT_ONCE` passes once, as long as it goes on. An application
    /// that repeats a packet more slowly passes.
    #[test]
    fn a_fast_circle_passes_once_however_long_it_lasts() {
        let (recent, start) = (Recent::new(7), now());
        for (fingerprint, most) in [(1, 0), (2, 7)] {
            let admits = |ms| {
                let at = start + ms * MS;
                recent.admits(fingerprint, B, Repeats::Slowly(most), at)
            };
            let passed = (0..10_000).step_by(20).filter(|ms| admits(*ms)).count();
            assert_eq!(passed, 1, "{most} repeats");
            let mut slow = (10_300..60_000).step_by(300);
            assert!(slow.all(admits), "once in 300 ms");
        }
        let admits = |ms| recent.admits(3, B, Repeats::Slowly(7), start + ms * MS);
        let passed = (0..2_000).step_by(100).filter(|ms| admits(*ms)).count();
        assert!((8..=17).contains(&passed), "ten a second: {passed} of 20");
    }

    #[test]
    fn a_datagram_passes_once() {
        let recent = Recent::new(7);
        let [a, b] = [NodeId([1; 6]), NodeId([2; 6])];
        for length in [0, 1, 16, 21, 40, 1400] {
            let mut datagram = vec![length as u8; length];
            assert!(recent.admits_datagram(a, b, &datagram), "{length}");
            assert!(!recent.admits_datagram(a, b, &datagram), "{length}");
            assert!(recent.admits_datagram(b, a, &datagram), "{length}");
            for at in std::collections::BTreeSet::from([0, length.saturating_sub(1)]) {
                if let Some(byte) = datagram.get_mut(at) {
                    *byte ^= 0x55;
                    assert!(recent.admits_datagram(a, b, &datagram), "{length}");
                }
            }
        }
    }

    /// Packets that differ in any one bit have different fingerprints, in all parts of them.
    #[test]
    fn every_bit_counts() {
        let recent = Recent::new(7);
        let packet = v4("10.0.0.1", "224.0.0.9", 17, &[0; 300]);
        let print = |packet: &[u8]| recent.fingerprint(Mode::Router, packet);
        let whole = print(&packet);
        let mut tags = std::collections::BTreeSet::from([(whole as usize % SLOTS, whole >> 39)]);
        for bit in 0..packet.len() * 8 {
            let mut other = packet.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            // TTL, and both checksums.
            let blank = [8, 10, 11, 26, 27].contains(&(bit / 8));
            let print = print(&other);
            assert_eq!(print == whole, blank, "{bit}");
            assert_eq!(tags.insert((print as usize % SLOTS, print >> 39)), !blank);
        }
        assert_ne!(print(&packet[..299]), whole);
        assert_ne!(Recent::new(8).fingerprint(Mode::Router, &packet), whole);
    }

    #[test]
    fn a_slot_holds_all_of_it() {
        for seen in [
            Seen {
                tag: 1,
                repeats: 0,
                from: ME,
                at: 0,
            },
            Seen {
                tag: 0x1ff_ffff,
                repeats: 7,
                from: NodeSlot(0xf_ffff),
                at: u16::MAX,
            },
            Seen {
                tag: 0x0aa_aaab,
                repeats: 5,
                from: NodeSlot(0x5_5555),
                at: 0x1234,
            },
        ] {
            assert_eq!(Seen::of(seen.word()), seen);
        }
    }
}
