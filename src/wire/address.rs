//! Address and port words of ADD_EDGE, ANS_KEY and UDP_INFO.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// An address as tinc writes it into a line: two words, numeric or not.
///
/// A word that is no numeric address is kept and flooded unchanged, but never used as an address
/// (wire/tinc-1.1.md section 5.1). Numeric addresses are equal if their meaning is.
#[derive(Clone)]
pub enum EdgeAddress {
    /// A numeric address; never an IPv4-mapped IPv6 one. A link-local address has the zone of an
    /// interface of this machine, or none. A zone has no meaning on other machines, so it is
    /// written into no line and ignored for equality.
    Known(SocketAddr),
    /// Two words that are no numeric address, such as `unspec`.
    Opaque(Arc<str>, Arc<str>),
}

impl EdgeAddress {
    /// Parses the two words.
    #[must_use]
    pub fn parse(address: &str, port: &str) -> Self {
        match (address.parse::<IpAddr>(), port.parse::<u16>()) {
            (Ok(ip), Ok(port)) => Self::Known(SocketAddr::new(ip.to_canonical(), port)),
            _ => Self::Opaque(address.into(), port.into()),
        }
    }

    /// Returns `unspec port unspec`: tinc's form of an unknown address.
    #[must_use]
    pub fn unspec() -> Self {
        Self::Opaque("unspec".into(), "unspec".into())
    }

    /// Returns the numeric address, if it is one.
    #[must_use]
    pub fn known(&self) -> Option<SocketAddr> {
        match self {
            Self::Known(addr) => Some(*addr),
            Self::Opaque(..) => None,
        }
    }

    /// Returns the numeric address, if this machine can send to it: a link-local address needs a
    /// zone.
    #[must_use]
    pub fn target(&self) -> Option<SocketAddr> {
        self.known().filter(|addr| !lacks_zone(*addr))
    }

    /// Returns the same address in a zone of this machine, if it needs a zone and has none.
    #[must_use]
    pub fn in_zone(&self, zone: u32) -> Self {
        match self {
            Self::Known(SocketAddr::V6(addr)) if lacks_zone((*addr).into()) => {
                let mut addr = *addr;
                addr.set_scope_id(zone);
                Self::Known(addr.into())
            }
            _ => self.clone(),
        }
    }

    /// Returns everything that counts for equality and order.
    fn meaning(&self) -> (bool, Option<(IpAddr, u16)>, &str, &str) {
        match self {
            Self::Known(addr) => (false, Some((addr.ip(), addr.port())), "", ""),
            Self::Opaque(host, port) => (true, None, host, port),
        }
    }

    /// Returns the lengths in bytes of two words that are no numeric address; 0 for a numeric one.
    #[must_use]
    pub fn word_lengths(&self) -> [usize; 2] {
        match self {
            Self::Known(_) => [0, 0],
            Self::Opaque(host, port) => [host.len(), port.len()],
        }
    }

    /// Returns the address word.
    #[must_use]
    pub fn host(&self) -> String {
        match self {
            Self::Known(addr) => addr.ip().to_string(),
            Self::Opaque(host, _) => host.as_ref().into(),
        }
    }

    /// Returns the port word.
    #[must_use]
    pub fn port(&self) -> String {
        match self {
            Self::Known(addr) => addr.port().to_string(),
            Self::Opaque(_, port) => port.as_ref().into(),
        }
    }
}

/// Returns the address with an IPv4-mapped one as plain IPv4, without flow info. Only a link-local
/// address keeps its zone.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    let mut plain = SocketAddr::new(addr.ip().to_canonical(), addr.port());
    if let (SocketAddr::V6(plain), Some(zone)) = (&mut plain, zone(addr)) {
        plain.set_scope_id(zone);
    }
    plain
}

/// Returns the zone of a link-local address: the index of an interface of this machine, 0 if
/// unknown.
#[must_use]
pub fn zone(addr: SocketAddr) -> Option<u32> {
    match addr {
        SocketAddr::V6(addr) if addr.ip().is_unicast_link_local() => Some(addr.scope_id()),
        _ => None,
    }
}

/// Returns true if this machine cannot send to an address, because it is link-local and has no
/// zone.
#[must_use]
pub fn lacks_zone(addr: SocketAddr) -> bool {
    zone(addr) == Some(0)
}

impl From<SocketAddr> for EdgeAddress {
    fn from(addr: SocketAddr) -> Self {
        Self::Known(canonical(addr))
    }
}

impl PartialEq for EdgeAddress {
    fn eq(&self, other: &Self) -> bool {
        self.meaning() == other.meaning()
    }
}

impl Eq for EdgeAddress {}

impl Hash for EdgeAddress {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.meaning().hash(state);
    }
}

impl Ord for EdgeAddress {
    fn cmp(&self, other: &Self) -> Ordering {
        self.meaning().cmp(&other.meaning())
    }
}

impl PartialOrd for EdgeAddress {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Writes the two words with a blank between them, as in a line.
impl fmt::Display for EdgeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(addr) => write!(f, "{} {}", addr.ip(), addr.port()),
            Self::Opaque(host, port) => write!(f, "{host} {port}"),
        }
    }
}

impl fmt::Debug for EdgeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_kept_here_and_told_to_nobody() {
        let own: SocketAddr = "[fe80::1%3]:655".parse().unwrap();
        let edge = EdgeAddress::from(own);
        assert_eq!(edge.target(), Some(own));
        assert_eq!(edge.to_string(), "fe80::1 655");
        let heard = EdgeAddress::parse("fe80::1", "655");
        assert_eq!((&heard, heard.target()), (&edge, None));
        assert_eq!(heard.in_zone(3).known(), Some(own));
        // A zone of another machine is no index of this one.
        for zoned in ["fe80::1%eth0", "fe80::1%3"] {
            assert_eq!(EdgeAddress::parse(zoned, "655").known(), None);
        }
        for global in ["[2001:db8::1]:655", "192.0.2.1:655"] {
            let global: SocketAddr = global.parse().unwrap();
            let edge = EdgeAddress::from(global);
            assert_eq!(edge.in_zone(3).target(), Some(global));
        }
        let flow = SocketAddr::V6(std::net::SocketAddrV6::new([0; 8].into(), 1, 5, 9));
        assert_eq!(canonical(flow), "[::]:1".parse().unwrap());
        let mapped: SocketAddr = "[::ffff:1.2.3.4]:5".parse().unwrap();
        assert_eq!(canonical(mapped), "1.2.3.4:5".parse().unwrap());
    }
}
