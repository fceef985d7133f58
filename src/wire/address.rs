//! The address and port words of ADD_EDGE, ANS_KEY and UDP_INFO.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// An address as tinc puts it into a line: two words, numeric or not.
///
/// A word that is no numeric address is kept and flooded on as it came, and never used as an
/// address (tinc-1.1-wire.md section 5.1). Equality is that of the meaning for numeric ones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EdgeAddress {
    /// A numeric address; never an IPv4-mapped IPv6 one.
    Known(SocketAddr),
    /// Two words that are no numeric address, `unspec` among them.
    Opaque(Arc<str>, Arc<str>),
}

impl EdgeAddress {
    /// The address of the two words.
    #[must_use]
    pub fn parse(address: &str, port: &str) -> Self {
        match (address.parse::<IpAddr>(), port.parse::<u16>()) {
            (Ok(ip), Ok(port)) => Self::Known(SocketAddr::new(ip.to_canonical(), port)),
            _ => Self::Opaque(address.into(), port.into()),
        }
    }

    /// `unspec port unspec`: what tinc prints for an address that it does not have.
    #[must_use]
    pub fn unspec() -> Self {
        Self::Opaque("unspec".into(), "unspec".into())
    }

    /// The numeric address, if it is one.
    #[must_use]
    pub fn known(&self) -> Option<SocketAddr> {
        match self {
            Self::Known(addr) => Some(*addr),
            Self::Opaque(..) => None,
        }
    }

    /// The address word.
    #[must_use]
    pub fn host(&self) -> String {
        match self {
            Self::Known(addr) => addr.ip().to_string(),
            Self::Opaque(host, _) => host.as_ref().into(),
        }
    }

    /// The port word.
    #[must_use]
    pub fn port(&self) -> String {
        match self {
            Self::Known(addr) => addr.port().to_string(),
            Self::Opaque(_, port) => port.as_ref().into(),
        }
    }
}

impl From<SocketAddr> for EdgeAddress {
    fn from(addr: SocketAddr) -> Self {
        Self::Known(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
    }
}

/// The two words with a blank between, as they stand in a line.
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
