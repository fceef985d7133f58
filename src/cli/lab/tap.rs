//! The tenant's tap: a packet socket that reads every frame on the wire and searches for markers.

use std::{
    io::{ErrorKind, Read as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use memchr::memmem::Finder;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::world;

/// ETH_P_ALL in network byte order, as packet(7) wants it.
const EVERY_PROTOCOL: i32 = 0x0300;
/// More than any frame, including offloaded ones.
const LONGEST: usize = 128 << 10;
/// Requested kernel buffer, in bytes: the whole transfer fits. With a smaller buffer, a slow tap misses frames.
const BUFFER: usize = 128 << 20;
/// Longest blocking read before the tap checks for its end.
const POLL: Duration = Duration::from_millis(10);
/// Longest wait for the tap to read its buffer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running tap.
pub(super) struct Tap {
    stop: Arc<AtomicBool>,
    /// Signals a waiting thread when a read found the buffer empty.
    idle: Receiver<()>,
    thread: JoinHandle<anyhow::Result<TappedFrames>>,
}

/// Frames that the tap read.
#[derive(Debug, Default)]
pub(super) struct TappedFrames {
    /// Frames read.
    pub(super) frames: u64,
    /// Bytes in them.
    pub(super) bytes: u64,
    /// Frames that hold each needle, in the order given.
    pub(super) hits: Vec<u64>,
}

impl Tap {
    /// Starts listening on everything in the namespace `name`.
    pub(super) fn start(name: &str, needles: Vec<Vec<u8>>) -> anyhow::Result<Self> {
        let socket = world::within(name, || {
            Socket::new(
                Domain::PACKET,
                Type::RAW,
                Some(Protocol::from(EVERY_PROTOCOL)),
            )
        })?
        .context("open a packet socket")?;
        if set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
            // Only root of the whole machine may exceed the limit.
            socket
                .set_recv_buffer_size(BUFFER)
                .context("enlarge the packet socket's buffer")?;
        }
        socket
            .set_read_timeout(Some(POLL))
            .context("set the packet socket's timeout")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (emptied, idle) = mpsc::sync_channel(0);
        let thread = thread::spawn(move || listen(&socket, &needles, &stopped, &emptied));
        Ok(Self { stop, idle, thread })
    }

    /// Waits until the buffer is empty: from then on the tap reads new frames.
    pub(super) fn catch_up(&self) -> anyhow::Result<()> {
        self.idle
            .recv_timeout(PATIENCE)
            .context("the tap does not keep up with the wire")
    }

    /// Reads the rest of the buffer and returns the counts.
    pub(super) fn finish(self) -> anyhow::Result<TappedFrames> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the tap panicked"))?
    }
}

fn listen(
    mut socket: &Socket,
    needles: &[Vec<u8>],
    stop: &AtomicBool,
    idle: &SyncSender<()>,
) -> anyhow::Result<TappedFrames> {
    let needles: Vec<Finder<'_>> = needles.iter().map(Finder::new).collect();
    let mut seen = TappedFrames {
        hits: vec![0; needles.len()],
        ..TappedFrames::default()
    };
    let mut frame = vec![0; LONGEST];
    loop {
        match socket.read(&mut frame) {
            Ok(length) => {
                seen.frames += 1;
                seen.bytes += length as u64;
                for (hits, needle) in seen.hits.iter_mut().zip(&needles) {
                    *hits += u64::from(needle.find(&frame[..length]).is_some());
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                // The channel has no buffer: a message without a waiting receiver is dropped.
                let _full = idle.try_send(());
                if stop.load(Ordering::Relaxed) {
                    return Ok(seen);
                }
            }
            Err(error) => return Err(error).context("read from a packet socket"),
        }
    }
}
