//! Subnets: `ADDR[/LEN][#WEIGHT]`, their order and their text.

use std::{
    cmp::Ordering,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Weight of a subnet whose text has none. Source: wire/tinc-1.0.md section 1.2.
pub const DEFAULT_WEIGHT: i32 = 10;

/// The address part of a subnet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// One Ethernet address.
    Mac([u8; 6]),
    /// IPv4 network and prefix length in bits, 0 to 32.
    V4(Ipv4Addr, u8),
    /// IPv6 network and prefix length in bits, 0 to 128.
    V6(Ipv6Addr, u8),
}

/// A subnet as nodes announce it. Host bits beyond the prefix are kept: real nodes neither mask nor
/// reject them on the wire (wire/tinc-1.0.md section 1.2).
///
/// The order is tinc's: MAC, IPv4, IPv6; longer prefix first; address; weight (config/tinc.md
/// section 6.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnet {
    /// Prefix of the subnet.
    pub prefix: Prefix,
    /// Weight; lower is preferred. Default [`DEFAULT_WEIGHT`].
    pub weight: i32,
}

/// Reason why a text is no subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Not of the form `ADDR[/LEN][#WEIGHT]`.
    #[error("malformed subnet {0:?} (expected ADDRESS[/PREFIXLENGTH][#WEIGHT])")]
    Malformed(String),
    /// Prefix length out of range.
    #[error("prefix length of {0:?} is out of range")]
    Length(String),
    /// The address has bits beyond the prefix; only configuration rejects them.
    #[error("Subnet {given:?} has host bits set (did you mean {meant}?)")]
    HostBits {
        /// The text as given.
        given: String,
        /// The network that contains the address.
        meant: String,
    },
}

impl Prefix {
    /// Returns the network that contains an address: `addr` with all bits beyond `len` cleared.
    #[must_use]
    pub fn network(addr: IpAddr, len: u8) -> Self {
        match addr {
            IpAddr::V4(a) => Self::V4(Ipv4Addr::from_bits(a.to_bits() & mask4(len)), len.min(32)),
            IpAddr::V6(a) => Self::V6(Ipv6Addr::from_bits(a.to_bits() & mask6(len)), len.min(128)),
        }
    }

    /// Returns true if no bit beyond the prefix is set.
    #[must_use]
    pub fn is_network(&self) -> bool {
        self.masked() == *self
    }

    /// Returns this prefix with all bits beyond its length cleared.
    #[must_use]
    pub fn masked(&self) -> Self {
        match *self {
            Self::Mac(_) => *self,
            Self::V4(a, len) => Self::network(a.into(), len),
            Self::V6(a, len) => Self::network(a.into(), len),
        }
    }

    /// Returns true if `addr` lies in the prefix. A MAC contains no IP address.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (*self, addr) {
            (Self::V4(net, len), IpAddr::V4(a)) => (net.to_bits() ^ a.to_bits()) & mask4(len) == 0,
            (Self::V6(net, len), IpAddr::V6(a)) => (net.to_bits() ^ a.to_bits()) & mask6(len) == 0,
            _ => false,
        }
    }

    /// Returns true if all of `other` lies in the prefix: the same prefix, or a longer one. Only a
    /// MAC itself covers a MAC.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::V4(_, len), Self::V4(a, longer)) => len <= longer && self.contains(a.into()),
            (Self::V6(_, len), Self::V6(a, longer)) => len <= longer && self.contains(a.into()),
            _ => self == other,
        }
    }

    fn rank(&self) -> (u8, u8) {
        match self {
            Self::Mac(_) => (0, 0),
            Self::V4(_, len) => (1, 32 - len),
            Self::V6(_, len) => (2, 128 - len),
        }
    }
}

const fn mask4(len: u8) -> u32 {
    if len == 0 {
        0
    } else {
        u32::MAX << (32 - if len > 32 { 32 } else { len })
    }
}

const fn mask6(len: u8) -> u128 {
    if len == 0 {
        0
    } else {
        u128::MAX << (128 - if len > 128 { 128 } else { len })
    }
}

impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        let bytes = self.rank().cmp(&other.rank());
        bytes.then_with(|| match (self, other) {
            (Self::Mac(a), Self::Mac(b)) => a.cmp(b),
            (Self::V4(a, _), Self::V4(b, _)) => a.cmp(b),
            (Self::V6(a, _), Self::V6(b, _)) => a.cmp(b),
            _ => Ordering::Equal, // never: the rank names the kind
        })
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Subnet {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.prefix, self.weight).cmp(&(other.prefix, other.weight))
    }
}

impl PartialOrd for Subnet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Subnet {
    /// Parses a subnet of a configuration file: as on the wire, but host bits are an error.
    pub fn from_config(text: &str) -> Result<Self, SubnetError> {
        let subnet: Self = text.parse()?;
        if subnet.prefix.is_network() {
            return Ok(subnet);
        }
        let prefix = subnet.prefix.masked();
        let meant = Self { prefix, ..subnet }.to_string();
        Err(SubnetError::HostBits {
            given: text.into(),
            meant,
        })
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    /// Accepts every form that 1.0 and 1.1 write, with signs on numbers.
    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let malformed = || SubnetError::Malformed(text.into());
        let (rest, weight) = match text.split_once('#') {
            Some((rest, weight)) => (rest, weight.trim_start().parse().map_err(|_| malformed())?),
            None => (text, DEFAULT_WEIGHT),
        };
        let (addr, len) = match rest.split_once('/') {
            Some((addr, len)) => (
                addr,
                Some(len.trim_start().parse::<i32>().map_err(|_| malformed())?),
            ),
            None => (rest, None),
        };
        let length = |max: u8| match len {
            None => Ok(max),
            Some(len) => u8::try_from(len)
                .ok()
                .filter(|len| *len <= max)
                .ok_or_else(|| SubnetError::Length(text.into())),
        };
        let prefix = if let Some(mac) = parse_mac(addr) {
            if len.is_some() {
                return Err(malformed());
            }
            Prefix::Mac(mac)
        } else if let Some(a) = parse_v4(addr) {
            Prefix::V4(a, length(32)?)
        } else if let Ok(a) = addr.parse() {
            Prefix::V6(a, length(128)?)
        } else {
            return Err(malformed());
        };
        Ok(Self { prefix, weight })
    }
}

/// Parses four decimal numbers; leading zeros are decimal too, as in the real 1.0.36 and 1.1~pre18.
fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|part| matches!(part.len(), 1..=3))?;
        *octet = part
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(octets.into())
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|p| matches!(p.len(), 1 | 2))?;
        *byte = u8::from_str_radix(part, 16)
            .ok()
            .filter(|_| !part.starts_with('+'))?;
    }
    parts.next().is_none().then_some(mac)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac([a, b, c, d, e, g]) => {
                write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
            Self::V4(a, 32) => write!(f, "{a}"),
            Self::V4(a, len) => write!(f, "{a}/{len}"),
            Self::V6(a, len) => {
                // tinc writes IPv4-mapped addresses without dots.
                match a.segments() {
                    [0, 0, 0, 0, 0, 0xffff, g, h] => write!(f, "::ffff:{g:x}:{h:x}")?,
                    _ => write!(f, "{a}")?,
                }
                match len {
                    128 => Ok(()),
                    len => write!(f, "/{len}"),
                }
            }
        }
    }
}

/// Writes the short text of tinc 1.1, without full prefix length and weight 10.
impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.prefix.fmt(f)?;
        if self.weight != DEFAULT_WEIGHT {
            write!(f, "#{}", self.weight)?;
        }
        Ok(())
    }
}

impl FromStr for Prefix {
    type Err = SubnetError;

    /// Accepts the text of a subnet. A weight is ignored.
    fn from_str(text: &str) -> Result<Self, SubnetError> {
        Ok(text.parse::<Subnet>()?.prefix)
    }
}

/// The text, in JSON and the like.
impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Subnet::deserialize(from)?.prefix)
    }
}

/// The text, in JSON and the like.
impl Serialize for Subnet {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_the_short_form_and_takes_both() {
        for (given, shown) in [
            ("10.1.0.9/32#10", "10.1.0.9"),
            ("10.0.0.0/08", "10.0.0.0/8"),
            ("010.001.000.009", "10.1.0.9"),
            ("10.0.0.0/8#+5", "10.0.0.0/8#5"),
            ("10.0.0.0/8#-5", "10.0.0.0/8#-5"),
            ("fd00:2:0:0:0:0:0:0/64#10", "fd00:2::/64"),
            ("2:0:0:0:0:1#10", "02:00:00:00:00:01"),
            ("::ffff:1.2.3.4", "::ffff:102:304"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            let subnet: Subnet = given.parse().unwrap();
            assert_eq!(subnet.to_string(), shown);
            let json = format!("\"{shown}\"");
            assert_eq!(serde_json::to_string(&subnet).unwrap(), json);
            assert_eq!(serde_json::from_str::<Subnet>(&json).unwrap(), subnet);
            let prefix = serde_json::from_str::<Prefix>(&json).unwrap();
            assert_eq!(prefix, subnet.prefix);
        }
    }

    #[test]
    fn refuses_what_real_daemons_refuse() {
        for bad in [
            "",
            "10.1/16",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/8 #5",
            "10.0.0.0/8#",
            "10.0.0.0/8#5x",
            "0x0a.0.0.0",
            "fe80::1%eth0",
            "1:2:3:4:5:6/48",
            "1:2:3:4:5:100",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn host_bits_are_an_error_in_configuration_only() {
        assert!("10.1.0.5/24".parse::<Subnet>().is_ok());
        let error = Subnet::from_config("10.1.0.5/24").unwrap_err().to_string();
        assert!(error.contains("did you mean 10.1.0.0/24?"), "{error}");
    }

    #[test]
    fn order_is_kind_then_longest_prefix_then_address_then_weight() {
        let mut subnets: Vec<Subnet> = [
            "::/0",
            "10.0.0.0/8",
            "10.2.0.0/16",
            "10.1.0.0/16#20",
            "10.1.0.0/16",
            "0:0:0:0:0:1",
        ]
        .map(|s| s.parse().unwrap())
        .into();
        subnets.sort();
        let shown: Vec<_> = subnets.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "00:00:00:00:00:01",
                "10.1.0.0/16",
                "10.1.0.0/16#20",
                "10.2.0.0/16",
                "10.0.0.0/8",
                "::/0"
            ]
        );
    }

    #[test]
    fn agrees_with_real_daemons() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/tinc-1.0.json")).unwrap();
        let vectors = &vectors["subnet_text"];
        for row in vectors["accepted"].as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            if text == "010.7.0.1" {
                continue; // 1.0 only: 1.1 refuses leading zeros (config/tinc.md section 6.2)
            }
            let subnet: Subnet = text.parse().unwrap();
            assert_eq!(
                subnet.to_string(),
                row["emitted_by_1_1pre18"].as_str().unwrap()
            );
            let old = row["emitted_by_1_0_36"].as_str().unwrap();
            assert_eq!(old.parse(), Ok(subnet));
        }
        for bad in vectors["rejected_with_disconnect"].as_array().unwrap() {
            let bad = bad.as_str().unwrap();
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
