//! ICMP echo from inside a namespace, without the program `ping`.

use std::{
    io::{ErrorKind, Read as _},
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use socket2::{Domain, Protocol, Socket, Type};

use meshd_os::clock::now;

use crate::lab::world;

/// Wait for one echo before the next is sent.
const PATIENCE: Duration = Duration::from_millis(300);
/// Bytes of payload, as `ping` sends by default.
const PAYLOAD: usize = 56;

/// Sends echoes from the namespace `from` to `to` until one is answered, then measures a second one, because the first
/// may wait for keys. Fails without an answer before `deadline`.
pub(super) fn until_answered(
    from: &str,
    to: Ipv4Addr,
    deadline: Instant,
) -> anyhow::Result<Duration> {
    world::enter(from)?;
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))
        .context("open a raw socket")?;
    let mut sequence = 0;
    loop {
        sequence += 1;
        if let Some(first) = echo(&socket, to, sequence)? {
            let second = echo(&socket, to, sequence + 1)?;
            return Ok(second.unwrap_or(first));
        }
        if now() > deadline {
            bail!("{from} gets no answer from {to}");
        }
    }
}

fn echo(socket: &Socket, to: Ipv4Addr, sequence: u16) -> anyhow::Result<Option<Duration>> {
    let start = now();
    if let Err(error) = socket.send_to(&request(sequence), &SocketAddrV4::new(to, 0).into()) {
        // The device or its route does not exist yet: the daemon sets it up.
        tracing::debug!(%error, "echo not sent");
        socket.set_read_timeout(Some(PATIENCE))?;
    }
    let mut packet = [0; 2048];
    loop {
        let left = PATIENCE.saturating_sub(now() - start);
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        let mut reader = socket;
        match reader.read(&mut packet) {
            Ok(length) if answers(&packet[..length], to, sequence) => {
                return Ok(Some(now() - start));
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("read from a raw socket"),
        }
    }
}

/// Makes an echo request. All requests share one identifier: the source address tells the answers apart.
fn request(sequence: u16) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0];
    packet.extend(IDENTIFIER.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.resize(8 + PAYLOAD, b'm');
    let sum = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = ((folded & 0xffff) + (folded >> 16)) as u16;
    packet[2..4].copy_from_slice(&(!folded).to_be_bytes());
    packet
}

const IDENTIFIER: u16 = 0x6d65;

/// True if an IPv4 packet is `to`'s answer to our request.
fn answers(packet: &[u8], to: Ipv4Addr, sequence: u16) -> bool {
    let header = usize::from(packet.first().copied().unwrap_or(0) & 15) * 4;
    packet.len() == header + 8 + PAYLOAD
        && packet[12..16] == to.octets()
        && packet[header] == 0
        && packet[header + 4..header + 6] == IDENTIFIER.to_be_bytes()
        && packet[header + 6..header + 8] == sequence.to_be_bytes()
}
