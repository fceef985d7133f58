//! Summarizes a packet in a few words.

use std::fmt::Write as _;

use meshd_wire::{
    ether::Frame,
    ip::{Packet, protocol},
};

/// Summarizes an inner packet: an Ethernet frame or an IP packet.
pub(super) fn inner(data: &[u8], frames: bool) -> String {
    if !frames {
        return ip(data);
    }
    let Some(frame) = Frame::parse(data) else {
        return "no frame".into();
    };
    match frame.ip_at() {
        Some(at) => ip(&data[at..]),
        None => format!(
            "{} > {} type {:04x}",
            mac(&frame.source()),
            mac(&frame.destination()),
            frame.ether_type()
        ),
    }
}

fn mac(mac: &[u8]) -> String {
    let bytes = mac.iter().map(|byte| format!("{byte:02x}"));
    bytes.collect::<Vec<_>>().join(":")
}

fn ip(data: &[u8]) -> String {
    let Some(packet) = Packet::parse(data) else {
        return "no IP packet".into();
    };
    let (from, to) = (packet.source(), packet.destination());
    let payload = packet
        .payload_offset()
        .filter(|_| !packet.is_later_fragment());
    let payload = payload.and_then(|at| data.get(at..)).unwrap_or_default();
    let name = match packet.protocol() {
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        protocol::ICMP => return format!("{from} > {to} ICMP{}", icmp(payload, [8, 0])),
        protocol::ICMPV6 => return format!("{from} > {to} ICMPv6{}", icmp(payload, [128, 129])),
        other => return format!("{from} > {to} protocol {other}"),
    };
    let Some(([a, b, c, d], rest)) = payload.split_first_chunk() else {
        return format!("{from} > {to} {name}");
    };
    let ports = [[*a, *b], [*c, *d]].map(u16::from_be_bytes);
    let flags = rest
        .get(9)
        .filter(|_| name == "TCP")
        .map(|flags| tcp_flags(*flags));
    format!(
        "{from}:{} > {to}:{} {name}{}",
        ports[0],
        ports[1],
        flags.unwrap_or_default()
    )
}

fn tcp_flags(flags: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
    let set = names
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags & 1 << bit != 0);
    set.fold(String::new(), |mut text, (_, name)| {
        let _ = write!(text, " {name}");
        text
    })
}

fn icmp(payload: &[u8], echo: [u8; 2]) -> String {
    match payload {
        [kind, _, _, _, _, _, high, low, ..] if echo.contains(kind) => {
            let word = if *kind == echo[0] { "request" } else { "reply" };
            format!(" echo {word} {}", u16::from_be_bytes([*high, *low]))
        }
        [kind, code, ..] => format!(" type {kind} code {code}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::headers::{self, Streams};

    #[test]
    fn packets_are_told_in_a_few_words() {
        let ends = ["10.0.0.1:655", "10.0.0.2:656"].map(|addr| addr.parse().unwrap());
        let datagram = headers::udp(ends, 1, b"x");
        assert_eq!(inner(&datagram, false), "10.0.0.1:655 > 10.0.0.2:656 UDP");
        let segment = Streams::default().tcp(ends, 0, &[]);
        assert_eq!(
            inner(&segment, false),
            "10.0.0.1:655 > 10.0.0.2:656 TCP PSH ACK"
        );
        let mut ping = datagram[..20].to_vec();
        ping[9] = protocol::ICMP;
        ping.extend([8, 0, 0, 0, 1, 2, 0, 7]);
        assert_eq!(
            inner(&ping, false),
            "10.0.0.1 > 10.0.0.2 ICMP echo request 7"
        );
        ping[20] = 3;
        assert_eq!(
            inner(&ping, false),
            "10.0.0.1 > 10.0.0.2 ICMP type 3 code 0"
        );
        let frame = [&[2; 6][..], &[4; 6], &[8, 0], &ping].concat();
        assert_eq!(inner(&frame, true), inner(&ping, false));
        let arp = [&[0xff; 6][..], &[4; 6], &[8, 6], &[0; 28]].concat();
        assert_eq!(
            inner(&arp, true),
            "04:04:04:04:04:04 > ff:ff:ff:ff:ff:ff type 0806"
        );
        // Any truncation is accepted.
        for length in 0..frame.len() {
            let _ = (
                inner(&frame[..length], true),
                inner(&ping[..length.min(ping.len())], false),
            );
        }
    }
}
