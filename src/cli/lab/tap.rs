//! The tenant's ear: a packet socket that reads every frame on the wire and looks for markers.

use std::{
    io::{ErrorKind, Read as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use socket2::{Domain, Protocol, Socket, Type};

use crate::cli::lab::world;

/// ETH_P_ALL in network byte order, as packet(7) wants it.
const EVERY_PROTOCOL: i32 = 0x0300;
/// Longer than any frame, offloaded ones included.
const LONGEST: usize = 128 << 10;
/// Kernel buffer asked for, in bytes; the kernel may give less.
const BUFFER: usize = 16 << 20;
/// How long a read blocks before the tap looks whether it should stop.
const POLL: Duration = Duration::from_millis(100);

/// A tap that is listening.
pub(super) struct Tap {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Seen>>,
}

/// What went by.
#[derive(Debug, Default)]
pub(super) struct Seen {
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
        socket
            .set_recv_buffer_size(BUFFER)
            .context("enlarge the packet socket's buffer")?;
        socket
            .set_read_timeout(Some(POLL))
            .context("set the packet socket's timeout")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || listen(&socket, &needles, &stopped));
        Ok(Self { stop, thread })
    }

    /// Reads what is still in the buffer and tells what went by.
    pub(super) fn finish(self) -> anyhow::Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the tap panicked"))?
    }
}

fn listen(mut socket: &Socket, needles: &[Vec<u8>], stop: &AtomicBool) -> anyhow::Result<Seen> {
    let mut seen = Seen {
        hits: vec![0; needles.len()],
        ..Seen::default()
    };
    let mut frame = vec![0; LONGEST];
    loop {
        match socket.read(&mut frame) {
            Ok(length) => {
                seen.frames += 1;
                seen.bytes += length as u64;
                for (hits, needle) in seen.hits.iter_mut().zip(needles) {
                    *hits += u64::from(contains(&frame[..length], needle));
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(seen);
                }
            }
            Err(error) => return Err(error).context("read from a packet socket"),
        }
    }
}

/// Whether `needle` lies in `bytes`.
fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some(&first) = needle.first() else {
        return true;
    };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn a_needle_is_found_wherever_it_lies_and_nowhere_else() {
        for (bytes, found) in [
            ("abcx", true),
            ("ababc", true),
            ("xabc", true),
            ("ab", false),
            ("", false),
            ("acb", false),
        ] {
            assert_eq!(contains(bytes.as_bytes(), b"abc"), found, "{bytes}");
        }
    }
}
