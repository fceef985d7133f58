//! Admits unauthenticated connections.
//!
//! Source: proto/threat-model.md section 5.6 and T36.

use std::{
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
    /// Admitted after closing this silent connection.
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
        let from_source = self.strangers.values().filter(|s| s.source == source);
        let admitted = if from_source.count() >= MAX_A_SOURCE {
            self.evict(Some(source), known)
        } else if self.strangers.len() >= limit {
            self.evict(None, known)
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

    /// Marks a connection that has named a known node: it is not evicted for others any more.
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
        self.strangers.len() < MAX_STRANGERS || self.strangers.values().any(|s| s.silent)
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

    /// Evicts the oldest silent connection of a source, or of the source with the most connections.
    /// Only a connection from a known address (`known`) may take the place of such a one.
    fn evict(&mut self, from: Option<IpAddr>, known: bool) -> Admitted {
        let mut sources: BTreeMap<IpAddr, usize> = BTreeMap::new();
        let may_go = |s: &Stranger| s.silent && (known || !s.known);
        let silent = || self.strangers.iter().filter(|(_, s)| may_go(s));
        for (_, stranger) in silent() {
            *sources.entry(stranger.source).or_default() += 1;
        }
        let busiest = || {
            sources
                .iter()
                .max_by_key(|(_, count)| **count)
                .map(|(s, _)| *s)
        };
        let Some(source) = from.or_else(busiest) else {
            return Admitted::No;
        };
        let oldest = silent().find(|(_, stranger)| stranger.source == source);
        let Some((&number, stranger)) = oldest else {
            return Admitted::No;
        };
        let link = stranger.link;
        self.strangers.remove(&number);
        Admitted::InsteadOf(link)
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
