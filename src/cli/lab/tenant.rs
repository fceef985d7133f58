//! The hostile tenant: it captures the whole wire and sends to every node's port.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use meshd_crypto::Rng;
use meshd_os::clock::now;
use meshd_wire::NodeName;

use crate::lab::{
    report::Tenant,
    tap::Tap,
    world::{self, DEVICE, Droplet, TENANT},
};

/// The port of every droplet's daemon.
pub(super) const PORT: u16 = 655;
/// Wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(1500);
/// Number of times that each marker is sent.
pub(super) const REPEATS: u64 = 20;
/// Port for the control marker, which is sent in the clear.
const DISCARD: u16 = 9;

/// The markers of one lab.
pub(super) struct Markers {
    /// The marker in the mesh.
    pub(super) secret: Vec<u8>,
    /// The marker outside of the mesh.
    pub(super) control: Vec<u8>,
}

impl Markers {
    /// Makes random markers: no other bytes on the wire equal them.
    pub(super) fn new(rng: &mut Rng) -> Self {
        let mut marker = |word| {
            format!(
                "MESHD-LAB-{word}-{:032x}.",
                u128::from_le_bytes(rng.bytes())
            )
            .into_bytes()
        };
        Self {
            secret: marker("SECRET"),
            control: marker("CONTROL"),
        }
    }

    /// Starts the tenant's tap for the markers.
    pub(super) fn listen(&self) -> anyhow::Result<Tap> {
        Tap::start(TENANT, vec![self.control.clone(), self.secret.clone()])
    }
}

/// Sends both markers while the tenant captures. Succeeds if the tenant saw the control and never saw the secret, since
/// `tap` was started.
pub(super) fn hears_only_ciphertext(
    from: &Droplet,
    to: &Droplet,
    markers: &Markers,
    tap: Tap,
    found: &mut Tenant,
) -> anyhow::Result<()> {
    let talked = tap.catch_up().and_then(|()| talk(from, to, markers));
    let seen = tap.finish()?;
    talked?;
    (found.frames, found.bytes) = (seen.frames, seen.bytes);
    (found.control_seen, found.secret_seen) = (seen.hits[0], seen.hits[1]);
    ensure!(
        found.control_seen > 0,
        "the tenant does not see the wire at all: this proves nothing"
    );
    ensure!(
        found.secret_seen == 0,
        "the tenant read {} packets of plaintext",
        found.secret_seen
    );
    Ok(())
}

/// Sends the control outside of the mesh and the secret through it, and checks that the secret arrives in the clear on
/// the other droplet's device.
fn talk(from: &Droplet, to: &Droplet, markers: &Markers) -> anyhow::Result<()> {
    let open = |address| {
        let socket = UdpSocket::bind(SocketAddrV4::new(address, 0))?;
        socket.set_read_timeout(Some(SILENCE))?;
        std::io::Result::Ok(socket)
    };
    // A listener for the control prevents an ICMP error that repeats it.
    let (inner, _listener) = world::within(&to.name, || {
        let listener = UdpSocket::bind(SocketAddrV4::new(to.outer, DISCARD))?;
        std::io::Result::Ok((open(to.inner)?, listener))
    })?
    .context("open a socket in the mesh")?;
    let target = inner.local_addr()?;
    world::within(&from.name, || {
        let socket = open(from.inner)?;
        for _ in 0..REPEATS {
            socket.send_to(&markers.secret, target)?;
        }
        let beside = open(from.outer)?;
        for _ in 0..REPEATS {
            beside.send_to(&markers.control, SocketAddrV4::new(to.outer, DISCARD))?;
        }
        std::io::Result::Ok(())
    })?
    .context("send the markers")?;
    let mut packet = [0; 2048];
    let (length, source) = inner
        .recv_from(&mut packet)
        .with_context(|| format!("the marker did not come out of {DEVICE}"))?;
    ensure!(
        packet[..length] == markers.secret && source.ip() == from.inner,
        "other bytes than the marker came out of {DEVICE}"
    );
    Ok(())
}

/// Sends garbage to every droplet's port. Succeeds if no byte comes back.
pub(super) fn knocks(
    droplets: &[Droplet],
    found: &mut Tenant,
    rng: &mut Rng,
) -> anyhow::Result<()> {
    world::within(TENANT, || {
        let mut sockets = Vec::new();
        for droplet in droplets {
            let to = SocketAddrV4::new(droplet.outer, PORT);
            sockets.push((droplet, throw_datagrams(to, droplet, droplets, found, rng)?));
        }
        let mut streams = Vec::new();
        for droplet in droplets {
            let to = SocketAddr::from((droplet.outer, PORT));
            let garbage: [u8; 512] = rng.bytes();
            for words in [
                &garbage[..],
                b"0 stranger 17.7\n",
                b"0 stranger 17.7\n4 655 0 c\n",
            ] {
                let mut stream = TcpStream::connect_timeout(&to, SILENCE)
                    .with_context(|| format!("no process listens on {to}"))?;
                stream.write_all(words)?;
                found.connections_opened += 1;
                streams.push((droplet, stream));
            }
        }
        let until = now() + SILENCE;
        for (droplet, socket) in &sockets {
            socket.set_read_timeout(Some(left(until)))?;
            silent(droplet, "UDP", found, |packet| socket.recv(packet))?;
        }
        for (droplet, stream) in &mut streams {
            stream.set_read_timeout(Some(left(until)))?;
            silent(droplet, "TCP", found, |packet| stream.read(packet))?;
        }
        ensure!(
            found.bytes_answered == 0,
            "{} bytes came back",
            found.bytes_answered
        );
        Ok(())
    })?
}

/// Returns the time until then; not zero, which would mean no timeout.
fn left(until: Instant) -> Duration {
    until
        .saturating_duration_since(now())
        .max(Duration::from_millis(1))
}

/// Sends garbage of many lengths, and datagrams that claim to come from every droplet.
fn throw_datagrams(
    to: SocketAddrV4,
    target: &Droplet,
    droplets: &[Droplet],
    found: &mut Tenant,
    rng: &mut Rng,
) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    let mut garbage: [u8; 1400] = rng.bytes();
    for length in [0, 1, 11, 12, 20, 33, 64, 512, 1400] {
        socket.send(&garbage[..length])?;
        found.datagrams_sent += 1;
    }
    for droplet in droplets.iter().filter(|d| d.name != target.name) {
        // A destination id of zero means the receiver; the id of the claimed sender follows.
        garbage[..6].fill(0);
        garbage[6..12].copy_from_slice(&NodeName::new(&droplet.name)?.id().0);
        socket.send(&garbage[..128])?;
        found.datagrams_sent += 1;
    }
    Ok(socket)
}

/// Waits for an answer and counts its bytes. A closed connection is not an answer; a closed UDP port is an error.
fn silent(
    droplet: &Droplet,
    by: &str,
    found: &mut Tenant,
    mut read: impl FnMut(&mut [u8]) -> std::io::Result<usize>,
) -> anyhow::Result<()> {
    let mut packet = [0; 2048];
    match read(&mut packet) {
        Ok(length) => found.bytes_answered += length as u64,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset && by == "TCP" => {}
        Err(error) => bail!("{}: {by} port {PORT}: {error}", droplet.name),
    }
    Ok(())
}
