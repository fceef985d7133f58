//! Structured values: ports, addresses, prefixes.
//!
//! Source: config/tinc.md section 1.4.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::UNIX_EPOCH,
};

use meshd_proto::mesh::settings::HostAddress;
use meshd_wire::Subnet;

use crate::{AddressFamily, MetricsListen, files, toml::keys::NO_SCRIPTS};

/// Default port of a node.
pub(super) const DEFAULT_PORT: u16 = 655;

/// Values of RunScripts; hosts/NAME-up and -down count as host-up and host-down.
const SCRIPTS: [&str; 6] = [
    "tinc-up",
    "tinc-down",
    "host-up",
    "host-down",
    "subnet-up",
    "subnet-down",
];

/// Parses a port: a number, or the name of a service in /etc/services.
pub(super) fn port(text: &str) -> Result<u16, String> {
    let wrong = || format!("{text:?} is not a port; write a number from 0 to 65535");
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map_err(|_| wrong());
    }
    service(text).ok_or_else(wrong)
}

fn service(name: &str) -> Option<u16> {
    let file = files::read_text("/etc/services".as_ref()).ok()?;
    let text = String::from_utf8_lossy(&file);
    text.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let first = words.next()?;
        let port = words.next()?.strip_suffix("/tcp")?;
        (first == name || words.any(|w| w == name)).then(|| port.parse().ok())?
    })
}

/// Parses a time in RFC 3339, UTC; returns seconds since 1970.
pub(super) fn moment(text: &str) -> Result<u64, String> {
    let since = humantime::parse_rfc3339(text)
        .ok()
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.map(|since| since.as_secs()).ok_or_else(|| {
        format!("{text:?} is not a time in UTC; write it like 2027-06-01T00:00:00Z, with the Z")
    })
}

/// Parses `NAME=VALUE`; the name must be valid in metrics and shells.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let parts = text
        .split_once('=')
        .map(|(name, value)| (name.trim(), value.trim()));
    let is_name = |name: &str| {
        let mut chars = name.chars();
        chars
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    match parts.filter(|(name, value)| is_name(name) && !value.is_empty()) {
        Some((name, value)) => Ok((name.into(), value.into())),
        None => Err(format!(
            "{text:?} is not a label; write NAME=VALUE with letters, digits and `_` in the name"
        )),
    }
}

/// Parses a script's name, or `none`.
pub(super) fn script(text: &str) -> Result<&'static str, String> {
    let known = SCRIPTS
        .iter()
        .chain([&NO_SCRIPTS])
        .find(|name| **name == text);
    known.copied().ok_or_else(|| {
        format!(
            "{text:?} is not a script; use {} or {NO_SCRIPTS}",
            SCRIPTS.join(", ")
        )
    })
}

/// Parses `HOST [PORT]`, split at the first blank.
pub(super) fn address(text: &str, default_port: u16) -> Result<HostAddress, String> {
    let (host, port_text) = match text.split_once([' ', '\t']) {
        Some((host, rest)) => (host, Some(rest.trim())),
        None => (text, None),
    };
    if let Some(bad) = host
        .chars()
        .find(|c| !(c.is_alphanumeric() || "-._:%".contains(*c)))
    {
        return Err(format!(
            "{bad:?} cannot be part of an address; write HOST [PORT]"
        ));
    }
    let port = port_text.map_or(Ok(default_port), port)?;
    Ok(HostAddress {
        host: host.into(),
        port,
    })
}

/// Parses a listening address: `ADDRESS|* [PORT]`. Resolves names here, and may block.
pub(super) fn listen(
    text: &str,
    default_port: u16,
    family: AddressFamily,
) -> Result<Vec<SocketAddr>, String> {
    let wanted = |addr: &SocketAddr| match family {
        AddressFamily::V4 => addr.is_ipv4(),
        AddressFamily::V6 => addr.is_ipv6(),
        AddressFamily::Any => true,
    };
    let all: Vec<SocketAddr> = if let Some(rest) = text.strip_prefix('*') {
        let port = address(&format!("any{rest}"), default_port)?.port;
        let wildcards: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        wildcards.map(|ip| SocketAddr::new(ip, port)).into()
    } else {
        let HostAddress { host, port } = address(text, default_port)?;
        let resolved = (host.as_str(), port).to_socket_addrs();
        resolved
            .map_err(|e| format!("cannot resolve {host:?}: {e}"))?
            .collect()
    };
    let found: Vec<SocketAddr> = all.into_iter().filter(wanted).collect();
    if found.is_empty() {
        return Err(format!(
            "{text:?} is not an address of the family in AddressFamily"
        ));
    }
    Ok(found)
}

/// Parses MetricsListen. Names are refused, because access must not depend on a resolver.
pub(super) fn metrics_listen(text: &str) -> Result<MetricsListen, String> {
    Ok(match text {
        "unix" => MetricsListen::Beside,
        "no" => MetricsListen::Nowhere,
        _ => match text.strip_prefix("unix:").map(PathBuf::from) {
            Some(path) if path.is_absolute() => MetricsListen::Unix(path),
            Some(_) => return Err(format!("{text:?} needs a path that starts with /")),
            None => MetricsListen::Tcp(text.parse().map_err(|_| {
                format!("{text:?} is not one of `unix`, `unix:/PATH`, `ADDRESS:PORT` and `no`")
            })?),
        },
    })
}

/// Parses `ADDRESS/LENGTH`, with host bits: an address with the size of its network.
pub(super) fn interface_address(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = || format!("{text:?} is not of the form ADDRESS/LENGTH");
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let length = length.parse::<u8>().ok().filter(|len| *len <= max);
    Ok((address, length.ok_or_else(wrong)?))
}

/// Parses a network to route: `NETWORK/LENGTH`; `None` is `auto`.
pub(super) fn interface_route(text: &str) -> Result<Option<(IpAddr, u8)>, String> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(None);
    }
    let route = interface_address(text)?;
    Subnet::from_config(text).map_err(|e| e.to_string())?;
    Ok(Some(route))
}

/// Parses the name of a network interface and keeps at most 15 bytes, as tinc does.
pub(super) fn interface_name(text: &str) -> Result<String, String> {
    let bad =
        |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control() || !c.is_ascii();
    if text.is_empty() || text == "." || text == ".." || text.contains(bad) {
        return Err(format!("{text:?} is not a name of a network interface"));
    }
    Ok(text.chars().take(15).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_perhaps_a_port() {
        let at = |host: &str, port| {
            Ok(HostAddress {
                host: host.into(),
                port,
            })
        };
        assert_eq!(address("10.0.0.1", 655), at("10.0.0.1", 655));
        assert_eq!(address("fd00::1 7000", 655), at("fd00::1", 7000));
        assert_eq!(
            address("a.example.net \t 7000", 655),
            at("a.example.net", 7000)
        );
        for bad in [
            "10.0.0.1 # office",
            "10.0.0.1 70000",
            "10.0.0.1 7000 x",
            "$(reboot)",
            "a/b",
        ] {
            assert!(address(bad, 655).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wildcard_is_one_address_a_family() {
        let show = |text, family| {
            let found = listen(text, 655, family).unwrap();
            found
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(show("*", AddressFamily::Any), "0.0.0.0:655 [::]:655");
        assert_eq!(show("* 7000", AddressFamily::V6), "[::]:7000");
        assert_eq!(show("127.0.0.1 1", AddressFamily::Any), "127.0.0.1:1");
        assert!(listen("127.0.0.1", 655, AddressFamily::V6).is_err());
        assert!(listen("**", 655, AddressFamily::Any).is_err());
    }

    #[test]
    fn interfaces_have_addresses_and_routes_have_no_host_bits() {
        assert_eq!(
            interface_address("10.0.0.1/24").unwrap(),
            ([10, 0, 0, 1].into(), 24)
        );
        assert!(interface_address("10.0.0.1").is_err());
        assert!(interface_address("10.0.0.1/33").is_err());
        assert_eq!(interface_route("Auto"), Ok(None));
        assert!(
            interface_route("10.0.0.1/24")
                .unwrap_err()
                .contains("did you mean 10.0.0.0/24")
        );
        assert_eq!(
            interface_name("a_very_long_interface").unwrap(),
            "a_very_long_int"
        );
        assert!(interface_name("a/b").is_err());
    }
}
