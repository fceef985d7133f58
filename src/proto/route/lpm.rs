//! Longest-prefix match on an immutable table of ranges.

use meshd_wire::Prefix;

use crate::route::NodeSlot;

/// Owner of a range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A reachable node.
    Node(NodeSlot),
    /// A known node; no owner of the range is reachable.
    Unreachable(NodeSlot),
    /// An ownerless broadcast subnet.
    Broadcast,
}

/// One prefix as input of [`Table::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<A, O = Owner> {
    /// Network address; bits beyond `len` are ignored.
    pub addr: A,
    /// Prefix length in bits.
    pub len: u8,
    /// Owner of the prefix, or other data about it.
    pub owner: O,
}

/// Table of one address family: all ranges of addresses, each with one owner, in order.
///
/// The table is rebuilt for every snapshot, in O(n log n). A lookup is a binary search.
#[derive(Debug, Clone)]
pub struct Table<A, O = Owner> {
    /// First address of each range. Addresses before the first range have no owner.
    ranges: Vec<(A, Option<O>)>,
    /// Routes with full prefix length.
    hosts: Vec<(A, O)>,
}

/// An address as a number: `u32` for IPv4, `u128` for IPv6.
pub trait Address: Copy + Ord {
    /// Length in bits.
    const BITS: u8;
    /// Returns this address with all bits beyond `len` cleared. `len` is at most [`Self::BITS`].
    #[must_use]
    fn first(self, len: u8) -> Self;
    /// Returns this address with all bits beyond `len` set. `len` is at most [`Self::BITS`].
    #[must_use]
    fn last(self, len: u8) -> Self;
    /// Returns the next address, `None` after the last one.
    #[must_use]
    fn next(self) -> Option<Self>;
}

macro_rules! impl_address {
    ($number:ty) => {
        impl Address for $number {
            const BITS: u8 = <$number>::BITS as u8;

            fn first(self, len: u8) -> Self {
                self & !<$number>::MAX.checked_shr(len.into()).unwrap_or(0)
            }

            fn last(self, len: u8) -> Self {
                self | <$number>::MAX.checked_shr(len.into()).unwrap_or(0)
            }

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    };
}

impl_address!(u32);
impl_address!(u128);

/// Makes the tables of IPv4 and IPv6 out of prefixes and their owners. Ethernet addresses are left out.
#[must_use]
pub fn tables<O: Copy + PartialEq>(
    prefixes: impl IntoIterator<Item = (Prefix, O)>,
) -> (Table<u32, O>, Table<u128, O>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (prefix, owner) in prefixes {
        match prefix {
            Prefix::V4(ip, len) => v4.push(Route {
                addr: ip.to_bits(),
                len,
                owner,
            }),
            Prefix::V6(ip, len) => v6.push(Route {
                addr: ip.to_bits(),
                len,
                owner,
            }),
            Prefix::Mac(_) => {}
        }
    }
    (Table::new(v4), Table::new(v6))
}

impl<A, O> Default for Table<A, O> {
    fn default() -> Self {
        Self {
            ranges: Vec::new(),
            hosts: Vec::new(),
        }
    }
}

impl<A: Address, O: Copy + PartialEq> Table<A, O> {
    /// Builds the table of these routes. The longest prefix that contains an address wins; of equal
    /// prefixes the first one. A length above the length of an address counts as full length.
    #[must_use]
    pub fn new(routes: impl IntoIterator<Item = Route<A, O>>) -> Self {
        let mut prefixes: Vec<(A, u8, O)> = routes
            .into_iter()
            .map(|route| {
                let len = route.len.min(A::BITS);
                (route.addr.first(len), len, route.owner)
            })
            .collect();
        // The sort is stable, so the first of equal prefixes stays first.
        prefixes.sort_by_key(|(addr, len, _)| (*addr, *len));
        prefixes.dedup_by_key(|(addr, len, _)| (*addr, *len));

        let mut table = Self::default();
        // Prefixes that contain the current address, outermost first, by their last address.
        let mut open: Vec<(A, O)> = Vec::new();
        for (first, len, owner) in prefixes {
            table.close(&mut open, Some(first));
            table.start(first, Some(owner));
            open.push((first.last(len), owner));
            if len == A::BITS {
                table.hosts.push((first, owner));
            }
        }
        table.close(&mut open, None);
        table
    }

    /// Returns the owner of an address.
    #[must_use]
    pub fn lookup(&self, addr: A) -> Option<O> {
        let after = self.ranges.partition_point(|(first, _)| *first <= addr);
        self.ranges[after.checked_sub(1)?].1
    }

    /// Returns true if no route begins or ends between `first` and `last`; `first` is not above
    /// `last`.
    #[must_use]
    pub fn is_uniform(&self, first: A, last: A) -> bool {
        let before = |addr: A| self.ranges.partition_point(|(start, _)| *start <= addr);
        first == last || before(first) == before(last)
    }

    /// Returns the lowest address that is a route of `owner` with full prefix length: in practice
    /// the address of its device. Searches all such routes.
    #[must_use]
    pub fn host_of(&self, owner: O) -> Option<A> {
        let mut hosts = self.hosts.iter();
        hosts.find(|(_, o)| *o == owner).map(|(addr, _)| *addr)
    }

    /// Closes the open prefixes that end before `until`. The next outer prefix owns the addresses
    /// after them.
    fn close(&mut self, open: &mut Vec<(A, O)>, until: Option<A>) {
        while let Some((last, _)) = open.pop_if(|(last, _)| until.is_none_or(|until| *last < until))
        {
            if let Some(after) = last.next() {
                self.start(after, open.last().map(|(_, owner)| *owner));
            }
        }
    }

    /// Starts a range at `first`, which is not below the last range.
    fn start(&mut self, first: A, owner: Option<O>) {
        self.ranges.pop_if(|(start, _)| *start == first);
        self.ranges.push((first, owner));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const A: Owner = Owner::Node(NodeSlot(1));
    const B: Owner = Owner::Node(NodeSlot(2));
    const C: Owner = Owner::Unreachable(NodeSlot(3));

    #[test]
    fn a_prefix_is_uniform_where_nothing_narrower_lies_in_it() {
        let table = Table::new([route("10.0.0.0", 8, A), route("10.1.0.0", 16, B)]);
        let uniform = |addr: &str, len: u8| {
            let addr = addr.parse::<Ipv4Addr>().unwrap().to_bits();
            table.is_uniform(addr.first(len), addr.last(len))
        };
        assert!(uniform("10.1.0.0", 16) && uniform("10.1.2.0", 24) && uniform("10.2.0.0", 16));
        assert!(uniform("11.0.0.0", 8) && uniform("10.0.0.0", 16));
        assert!(!uniform("10.0.0.0", 8) && !uniform("10.0.0.0", 15) && !uniform("0.0.0.0", 0));
    }

    #[test]
    fn longest_prefix_wins_and_the_first_of_equals() {
        let table = Table::new([
            route("10.0.0.0", 8, A),
            route("10.1.2.3", 16, B),
            route("10.1.255.255", 32, C),
            route("10.1.0.0", 16, C),
            route("10.1.7.7", 32, B),
            route("255.255.255.255", 32, Owner::Broadcast),
        ]);
        for (addr, owner) in [
            ("9.255.255.255", None),
            ("10.0.0.0", Some(A)),
            ("10.0.255.255", Some(A)),
            ("10.1.0.0", Some(B)),
            ("10.1.255.254", Some(B)),
            ("10.1.255.255", Some(C)),
            ("10.2.0.0", Some(A)),
            ("11.0.0.0", None),
            ("255.255.255.254", None),
            ("255.255.255.255", Some(Owner::Broadcast)),
        ] {
            assert_eq!(table.lookup(bits(addr)), owner, "{addr}");
        }
        assert_eq!(table.host_of(C), Some(bits("10.1.255.255")));
        assert_eq!(table.host_of(B), Some(bits("10.1.7.7")));
        assert_eq!(table.host_of(A), None);
    }

    #[test]
    fn nothing_and_everything() {
        assert_eq!(Table::<u32>::default().lookup(0), None);
        let table = Table::new([route("0.0.0.0", 0, A)]);
        assert_eq!(table.lookup(0), Some(A));
        assert_eq!(table.lookup(u32::MAX), Some(A));
    }

    fn owner() -> impl Strategy<Value = Owner> {
        prop_oneof![
            (0..4u32).prop_map(|i| Owner::Node(NodeSlot(i))),
            (0..4u32).prop_map(|i| Owner::Unreachable(NodeSlot(i))),
            Just(Owner::Broadcast),
        ]
    }

    /// P2: the table and a naive scan agree, above all next to every border.
    fn agrees<T: Address>(routes: &[Route<T>], probes: impl IntoIterator<Item = T>) {
        let table = Table::new(routes.iter().copied());
        for addr in probes {
            let mut best: Option<(u8, Owner)> = None;
            for route in routes {
                let len = route.len.min(T::BITS);
                let inside = route.addr.first(len) == addr.first(len);
                if inside && best.is_none_or(|(longest, _)| longest < len) {
                    best = Some((len, route.owner));
                }
            }
            assert!(table.lookup(addr) == best.map(|(_, owner)| owner));
        }
    }

    /// Returns the addresses at and beside the ends of each prefix.
    fn borders<T: Address>(routes: &[Route<T>]) -> impl Iterator<Item = T> {
        routes.iter().flat_map(|route| {
            let len = route.len.min(T::BITS);
            let (first, last) = (route.addr.first(len), route.addr.last(len));
            [Some(first), Some(last), last.next()].into_iter().flatten()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_scan_v4(
            routes in prop::collection::vec((any::<u32>(), 0..=3u32, 0..=40u8, owner()), 0..40),
            probes in prop::collection::vec(any::<u32>(), 40),
        ) {
            // Few different high bits, so prefixes nest.
            let routes: Vec<_> = routes
                .into_iter()
                .map(|(low, high, len, owner)| Route { addr: high << 30 | low & 0xff, len, owner })
                .collect();
            let borders = borders(&routes).chain(probes);
            agrees(&routes, borders);
        }

        #[test]
        fn agrees_with_a_naive_scan_v6(
            routes in prop::collection::vec((any::<u128>(), 0..=3u128, 0..=130u8, owner()), 0..40),
            probes in prop::collection::vec(any::<u128>(), 20),
        ) {
            let routes: Vec<_> = routes
                .into_iter()
                .map(|(low, high, len, owner)| Route { addr: high << 126 | low & 0xff, len, owner })
                .collect();
            let borders = borders(&routes).chain(probes);
            agrees(&routes, borders);
        }
    }

    fn route(addr: &str, len: u8, owner: Owner) -> Route<u32> {
        let addr = bits(addr);
        Route { addr, len, owner }
    }

    fn bits(addr: &str) -> u32 {
        addr.parse::<Ipv4Addr>().unwrap().to_bits()
    }
}
