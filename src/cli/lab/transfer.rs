//! One TCP stream over the mesh, hashed at both ends.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use sha2::{Digest as _, Sha256};
use socket2::SockRef;

use meshd_os::clock::now;

use crate::lab::{
    report::Transfer,
    world::{self, Droplet},
};

/// Maximum amount, in bytes.
const AMOUNT: u64 = 64 << 20;
/// Longest sending time; then the stream ends early. So a slow machine still has a lab.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest wait of either side for the other.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes in one write.
const BLOCK: usize = 64 << 10;

/// Sends up to 64 MiB, full of `marker`, and checks that the same bytes arrive.
pub(super) fn run(from: &Droplet, to: &Droplet, marker: &[u8]) -> anyhow::Result<Transfer> {
    let (port, bound) = mpsc::channel();
    let ((sent, sent_hash), (bytes, hash, seconds)) = thread::scope(|scope| {
        // The channel closes with the receiver: if it fails, the sender stops.
        let receiver = scope.spawn(move || {
            world::enter(&to.name)?;
            receive(SocketAddr::new(to.inner.into(), 0), &port)
        });
        let target = bound.recv_timeout(PATIENCE);
        let sender = scope.spawn(move || {
            world::enter(&from.name)?;
            send(target.context("the receiver did not start")?, marker)
        });
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        let received = receiver
            .join()
            .map_err(|_| anyhow!("the receiver panicked"))?;
        // If both fail, the receiver's error is the cause.
        let received = received.with_context(|| format!("{} could not receive", to.name))?;
        let sent = sent.with_context(|| format!("{} could not send", from.name))?;
        anyhow::Ok((sent, received))
    })?;
    ensure!(
        bytes == sent && hash == sent_hash,
        "{} sent {sent} bytes, {} received {bytes}, or the bytes differ",
        from.name,
        to.name
    );
    Ok(Transfer {
        from: from.name.clone(),
        to: to.name.clone(),
        bytes,
        seconds,
        bits_per_second: bytes as f64 * 8.0 / seconds.max(1e-9),
    })
}

type Hash = [u8; 32];

fn receive(
    address: SocketAddr,
    bound: &mpsc::Sender<SocketAddr>,
) -> anyhow::Result<(u64, Hash, f64)> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE))?;
    bound
        .send(listener.local_addr()?)
        .context("the sender has ended")?;
    let (mut stream, _) = listener.accept().context("accept")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let start = now();
    let (mut hash, mut bytes, mut block) = (Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        let length = stream.read(&mut block).context("read")?;
        if length == 0 {
            return Ok((bytes, hash.finalize().into(), (now() - start).as_secs_f64()));
        }
        bytes += length as u64;
        hash.update(&block[..length]);
    }
}

fn send(to: SocketAddr, marker: &[u8]) -> anyhow::Result<(u64, Hash)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).context("connect")?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let start = now();
    let block: Vec<u8> = marker.iter().copied().cycle().take(BLOCK).collect();
    let (mut hash, mut sent) = (Sha256::new(), 0);
    while sent < AMOUNT && now() - start < LIMIT {
        stream.write_all(&block).context("write")?;
        hash.update(&block);
        sent += block.len() as u64;
    }
    Ok((sent, hash.finalize().into()))
}
