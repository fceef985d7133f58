//! Admits unauthenticated connections.
//!
//! Source: proto/threat-model.md section 5.6 and T36.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use crate::link::LinkId;

/// Maximum number of unauthenticated connections. Memory: at most 64 KiB of input each.
pub const MAX_STRANGERS: usize = 64;
/// Maximum number of them from one source: an IPv4 address or an IPv6 /64.
pub const MAX_A_SOURCE: usize = 8;
/// Places of [`MAX_STRANGERS`] reserved for addresses in host files, of their names, and in the address cache.
pub const KEPT_FOR_KNOWN: usize = 16;
/// Sustained rate of new connections from unknown addresses, per second: limits the cost of handshakes.
pub const RATE: u32 = 100;
/// Burst of such connections.
pub const BURST: u32 = 200;
/// Longest life of an unauthenticated connection, held silently or not.
pub const MAX_AGE: Duration = Duration::from_secs(10);

const _: () = assert!(KEPT_FOR_KNOWN < MAX_STRANGERS && MAX_A_SOURCE <= KEPT_FOR_KNOWN);

/// Decision about a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// Admitted.
    Yes,
    /// Admitted after closing this connection.
    InsteadOf(LinkId),
    /// Refused: close it.
    No,
}

/// The unauthenticated connections.
#[derive(Debug)]
pub struct Admission {
    /// Connections in order of age.
    strangers: BTreeMap<u64, Stranger>,
    count: u64,
    tokens: f64,
    refilled: Instant,
}

#[derive(Debug)]
struct Stranger {
    link: LinkId,
    source: IpAddr,
    silent: bool,
    known: bool,
    since: Instant,
}

impl Admission {
    /// Starts without connections.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            strangers: BTreeMap::new(),
            count: 0,
            tokens: f64::from(BURST),
            refilled: now,
        }
    }

    /// Decides about a new connection, and counts it unless refused. `known`: see [`KEPT_FOR_KNOWN`].
    pub fn admit(&mut self, link: LinkId, ip: IpAddr, known: bool, now: Instant) -> Admitted {
        if !known && !self.take_token(now) {
            return Admitted::No;
        }
        let source = source(ip);
        let limit = if known {
            MAX_STRANGERS
        } else {
            MAX_STRANGERS - KEPT_FOR_KNOWN
        };
        let admitted = if self.of_source(source) >= self.share(known, limit) {
            self.evict_own(source, known)
        } else if self.strangers.len() >= limit {
            self.evict_busiest(source, known)
        } else {
            Admitted::Yes
        };
        if admitted != Admitted::No {
            self.count += 1;
            let stranger = Stranger {
                link,
                source,
                silent: true,
                known,
                since: now,
            };
            self.strangers.insert(self.count, stranger);
        }
        admitted
    }

    /// Returns the number of connections that a source may have. The number for unknown sources
    /// shrinks while places become few.
    fn share(&self, known: bool, limit: usize) -> usize {
        let left = limit.saturating_sub(self.strangers.len());
        match (4 * left).checked_div(limit) {
            _ if known => MAX_A_SOURCE,
            Some(2..) => MAX_A_SOURCE,
            Some(1) => MAX_A_SOURCE / 2,
            _ => MAX_A_SOURCE / 4,
        }
    }

    /// Marks a connection that has named a known node: it is evicted only while its source has
    /// others.
    pub fn spoke(&mut self, link: LinkId) {
        let mut strangers = self.strangers.values_mut();
        if let Some(stranger) = strangers.find(|stranger| stranger.link == link) {
            stranger.silent = false;
        }
    }

    /// Removes a connection that is authenticated or closed.
    pub fn remove(&mut self, link: LinkId) {
        self.strangers.retain(|_, stranger| stranger.link != link);
    }

    /// Returns true if connections are accepted: not while connections that cannot be evicted hold all places.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.strangers.len() < MAX_STRANGERS || self.strangers.values().any(|s| self.may_go(s))
    }

    /// Returns the connections whose time has expired.
    #[must_use]
    pub fn expired(&self, now: Instant) -> Vec<LinkId> {
        let old = |s: &&Stranger| now.saturating_duration_since(s.since) >= MAX_AGE;
        let strangers = self.strangers.values().take_while(old);
        strangers.map(|stranger| stranger.link).collect()
    }

    /// Returns the time at which the oldest connection expires.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (_, oldest) = self.strangers.first_key_value()?;
        Some(oldest.since + MAX_AGE)
    }

    /// Returns true if a connection may be evicted: a silent one, or one of several of an unknown
    /// source.
    fn may_go(&self, stranger: &Stranger) -> bool {
        stranger.silent || !stranger.known && self.of_source(stranger.source) > 1
    }

    fn of_source(&self, source: IpAddr) -> usize {
        let strangers = self.strangers.values();
        strangers.filter(|s| s.source == source).count()
    }

    /// Evicts the oldest silent connection of a source.
    fn evict_own(&mut self, source: IpAddr, known: bool) -> Admitted {
        let mut own = self.strangers.iter();
        let oldest = own.find(|(_, s)| s.source == source && s.silent && (known || !s.known));
        self.evict(oldest.map(|(number, _)| *number))
    }

    /// Evicts a connection of the source with the most connections, if `source` has fewer: the
    /// oldest silent one, else the oldest. Only a connection from a known address (`known`) may take
    /// the place of such a one.
    fn evict_busiest(&mut self, source: IpAddr, known: bool) -> Admitted {
        let own = self.of_source(source);
        let strangers = self.strangers.iter();
        let may_go = strangers.filter(|(_, s)| self.may_go(s) && (known || !s.known));
        let victim = may_go
            .map(|(number, s)| (self.of_source(s.source), s.silent, Reverse(*number)))
            .filter(|(count, silent, _)| *count > own || *silent && *count == own)
            .max();
        self.evict(victim.map(|(_, _, Reverse(number))| number))
    }

    fn evict(&mut self, number: Option<u64>) -> Admitted {
        match number.and_then(|number| self.strangers.remove(&number)) {
            Some(stranger) => Admitted::InsteadOf(stranger.link),
            None => Admitted::No,
        }
    }

    fn take_token(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.tokens = (self.tokens + since * f64::from(RATE)).min(f64::from(BURST));
        self.refilled = self.refilled.max(now);
        let has = self.tokens >= 1.0;
        if has {
            self.tokens -= 1.0;
        }
        has
    }
}

/// Returns the source of an address: an IPv4 address, or an IPv6 /64.
fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use slotmap::SlotMap;

    use super::*;

    struct Door {
        ids: SlotMap<LinkId, ()>,
        admission: Admission,
        now: Instant,
    }

    impl Door {
        fn new() -> Self {
            let now = crate::link::tests::now();
            Self {
                ids: SlotMap::with_key(),
                admission: Admission::new(now),
                now,
            }
        }

        fn knock(&mut self, ip: &str, known: bool) -> (LinkId, Admitted) {
            let link = self.ids.insert(());
            let ip = ip.parse().unwrap();
            (link, self.admission.admit(link, ip, known, self.now))
        }
    }

    #[test]
    fn one_source_has_eight_places_and_loses_its_own_oldest() {
        let mut door = Door::new();
        let first: Vec<_> = (0..8)
            .map(|i| door.knock(&format!("2001:db8::{i}"), false))
            .collect();
        assert!(first.iter().all(|(_, admitted)| *admitted == Admitted::Yes));
        let (_, ninth) = door.knock("2001:db8::ffff", false);
        assert_eq!(ninth, Admitted::InsteadOf(first[0].0), "the same /64");
        assert_eq!(door.knock("2001:db8:0:1::1", false).1, Admitted::Yes);
    }

    #[test]
    fn who_has_named_a_node_is_not_thrown_out() {
        let mut door = Door::new();
        let links: Vec<_> = (0..8).map(|_| door.knock("192.0.2.1", false).0).collect();
        links.iter().for_each(|link| door.admission.spoke(*link));
        assert_eq!(door.knock("192.0.2.1", false).1, Admitted::No);
        door.admission.remove(links[3]);
        assert_eq!(door.knock("192.0.2.1", false).1, Admitted::Yes);
    }

    /// A few addresses name a node on as many connections as they may, and come again all the time.
    /// A member from an unknown address gets in, and keeps its connection for the time of a
    /// handshake.
    #[test]
    fn a_few_addresses_do_not_hold_the_door_shut_whatever_they_say() {
        for addresses in [7, 24, 40] {
            hold_the_door(addresses);
        }
    }

    fn hold_the_door(addresses: usize) {
        let mut door = Door::new();
        let mut open = BTreeSet::new();
        let mut knock = |door: &mut Door, ip: &str| {
            let (link, admitted) = door.knock(ip, false);
            if let Admitted::InsteadOf(old) = admitted {
                open.remove(&old);
            }
            if admitted != Admitted::No {
                door.admission.spoke(link);
                open.insert(link);
            }
            (link, admitted, open.clone())
        };
        // More at once would use up the rate of new connections.
        for round in 0..(8 * addresses).min(150) {
            knock(&mut door, &format!("198.51.100.{}", round % addresses));
        }
        let (member, admitted, _) = knock(&mut door, "203.0.113.9");
        assert_ne!(admitted, Admitted::No, "{addresses} addresses");
        for round in 0..1_000 {
            door.now += Duration::from_millis(5);
            let (_, _, open) = knock(&mut door, &format!("198.51.100.{}", round % addresses));
            assert!(open.contains(&member), "{round} of {addresses} addresses");
        }
    }

    #[test]
    fn five_thousand_silent_ones_do_not_keep_a_known_node_out() {
        let mut door = Door::new();
        let mut open = Vec::new();
        for i in 0..5000 {
            door.now += Duration::from_millis(1);
            let (link, admitted) = door.knock(&format!("198.51.100.{}", i % 200), false);
            match admitted {
                Admitted::Yes => open.push(link),
                Admitted::InsteadOf(old) => {
                    open.retain(|link| *link != old);
                    open.push(link);
                }
                Admitted::No => {}
            }
            assert!(open.len() <= MAX_STRANGERS - KEPT_FOR_KNOWN);
        }
        assert!(door.admission.is_open());
        assert_eq!(door.knock("203.0.113.1", true).1, Admitted::Yes);
    }

    #[test]
    fn an_unknown_address_takes_no_place_of_a_known_one() {
        let mut door = Door::new();
        for i in 0..MAX_STRANGERS - KEPT_FOR_KNOWN {
            let (link, _) = door.knock(&format!("198.51.100.{i}"), false);
            door.admission.spoke(link);
        }
        assert_eq!(door.knock("203.0.113.1", true).1, Admitted::Yes);
        assert_eq!(door.knock("198.51.100.99", false).1, Admitted::No);
    }

    #[test]
    fn the_busiest_source_makes_way() {
        let mut door = Door::new();
        let busy = door.knock("192.0.2.7", false).0;
        for i in 0..MAX_STRANGERS - KEPT_FOR_KNOWN - 2 {
            door.knock(&format!("198.51.100.{i}"), false);
        }
        door.knock("192.0.2.7", false);
        assert_eq!(
            door.knock("203.0.113.1", false).1,
            Admitted::InsteadOf(busy)
        );
    }

    #[test]
    fn strangers_have_ten_seconds_and_a_rate() {
        let mut door = Door::new();
        let (link, _) = door.knock("192.0.2.1", false);
        let due = door.admission.poll_timeout().unwrap();
        assert!(
            door.admission
                .expired(due - Duration::from_millis(1))
                .is_empty()
        );
        assert_eq!(door.admission.expired(due), [link]);
        let admitted = (0..1000)
            .filter(|i| {
                let (link, admitted) = door.knock(&format!("10.0.{}.{}", i / 250, i % 250), false);
                door.admission.remove(link);
                admitted == Admitted::Yes
            })
            .count();
        assert_eq!(admitted, BURST as usize - 1);
        assert_eq!(
            door.knock("10.9.9.9", true).1,
            Admitted::Yes,
            "known ones have no rate"
        );
    }
}
