//! The packet threads. Everything but `worker` and `egress` is pure over a snapshot, a buffer
//! and a [`Sink`].
//!
//! A packet or super-packet from the device: `worker` reads it. [`outbound`] asks the router,
//! cuts the packet straight into its destination's run in [`runs`], and seals it there. The worker
//! sends each run with one call.
//!
//! A datagram: the worker receives a batch. [`inbound`] finds the sender, opens the datagram in
//! place, and asks the router. [`inbound`] then forwards the packet, or writes it to the device;
//! the worker joins packets of a flow to super-packets. Work for the control plane leaves through
//! [`punt`].

pub mod batching;
pub mod counters;
mod egress;
pub mod inbound;
#[cfg(test)]
#[cfg(feature = "model")]
mod models;
pub mod outbound;
pub mod parked;
pub mod punt;
pub mod runs;
pub mod send_order;
pub mod tap;
mod tap_router;
#[cfg(test)]
mod tests;
mod worker;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Instant,
};

use tokio::sync::mpsc;

use meshd_proto::{
    mesh::{Input, event::Punt},
    route::{
        DropCounts, DropReason, Mode, NodeIdx, NodeShared, RouteSnapshot, local::ForUs,
        verdict::ErrorLimiter,
    },
};
use meshd_sync::{ArcSwap, AtomicU64};
use meshd_wire::ip;

use crate::io::{epoll::EventFd, sched, tun::Tun, udp::UdpSocket, vnet::Checksums};

use counters::Counters;
use send_order::Turns;
use tap::{Tap, Taps};

/// Receiver of the results of the pure steps.
pub trait Sink {
    /// Appends a datagram of `length` bytes to the run for `to`, with at most `most` datagrams per
    /// call. Returns the datagram for writing. The datagram's bytes are arbitrary before: perhaps
    /// those of an older datagram.
    fn datagram(&mut self, to: SocketAddr, most: usize, length: usize) -> &mut [u8];
    /// Sets the type of service (traffic class) of the following datagrams; 0 at first.
    fn priority(&mut self, _tos: u8) {}
    /// Delivers a packet to our own device, with the state of its checksum.
    fn deliver(&mut self, packet: &mut [u8], checksums: Checksums);
    /// Sends all datagrams appended so far to the kernel.
    fn send_off(&mut self) {}
    /// Parks a packet while its node changes keys; [`Step::send_parked`] tries it again.
    fn park(&mut self, to: NodeIdx, packet: &[u8]);
    /// Sends a punt to the control plane.
    fn punt(&mut self, punt: Punt);
    /// Counts a dropped packet.
    fn dropped(&mut self, reason: DropReason);
    /// Returns true if a capture is open for inner packets: then they are handled one by one.
    fn is_capturing(&self) -> bool {
        false
    }
    /// Shows an inner packet that goes into a node's tunnel or came out of it.
    fn show(&self, _node: &NodeShared, _received: bool, _packet: &[u8], _checksums: Checksums) {}
}

/// Inputs of a step; made again for each batch.
pub struct Step<'a, S> {
    /// The snapshot in force.
    pub snapshot: &'a RouteSnapshot,
    /// Receiver of the results.
    pub sink: &'a mut S,
    /// Limiter of the router's ICMP errors; each worker has one.
    pub limiter: &'a mut ErrorLimiter,
    /// The time of the batch.
    pub now: Instant,
    /// Verdict on the last packet for this node.
    for_us: Option<ForUs>,
    /// Nodes whose [`NodeShared::sending`] is held; `None` if no other thread sends.
    turns: Option<Turns<'a>>,
}

impl<'a, S> Step<'a, S> {
    /// Makes the step of a batch, for the case that no other thread sends.
    #[must_use]
    pub fn new(
        snapshot: &'a RouteSnapshot,
        sink: &'a mut S,
        limiter: &'a mut ErrorLimiter,
        now: Instant,
    ) -> Self {
        Self {
            snapshot,
            sink,
            limiter,
            now,
            for_us: None,
            turns: None,
        }
    }
}

/// Computes the checksum of a packet if it is not computed yet.
pub fn complete(mode: Mode, packet: &mut [u8], checksums: Checksums) {
    if checksums == Checksums::Vouched
        && let Some(packet) = packet.get_mut(mode.ip_at(packet)..)
    {
        ip::finish_checksum(packet);
    }
}

/// State that all workers share with the driver.
struct Shared {
    snapshot: ArcSwap<RouteSnapshot>,
    taps: Taps,
    workers: Vec<PerWorker>,
}

/// State of one worker. [`Counters`] pads it, so no two workers write one cache line.
#[derive(Default)]
struct PerWorker {
    counters: Counters,
    beat: AtomicU64,
}

/// The running packet threads. Dropping the handle does not stop them: see [`Handle::stop`].
pub struct Handle {
    shared: Arc<Shared>,
    stop: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
}

/// Descriptors of one packet thread.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// The thread's queue of the device; none with DeviceType = dummy.
    pub tun: Option<Arc<Tun>>,
    /// Another thread's queue of the device, if there is one: for flows that should use that queue.
    pub aside: Option<Arc<Tun>>,
    /// The thread's UDP sockets.
    pub udp: Vec<Arc<UdpSocket>>,
}

/// Starts a packet thread for each of `queues`. Each thread calls `prepare` first. Punts and
/// path-MTU reports go to `inputs`; they are dropped and counted while it is full.
pub fn start(
    snapshot: Arc<RouteSnapshot>,
    queues: Vec<Queue>,
    inputs: mpsc::Sender<Input>,
    prepare: fn(),
) -> io::Result<Handle> {
    let shared = Arc::new(Shared {
        snapshot: ArcSwap::new(snapshot),
        taps: Taps::default(),
        workers: queues.iter().map(|_| PerWorker::default()).collect(),
    });
    let stop = Arc::new(EventFd::new()?);
    let mut threads = Vec::new();
    for (index, queue) in queues.into_iter().enumerate() {
        let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
        let worker = worker::Worker::new(shared, index, queue, stop, inputs.clone())?;
        let builder = std::thread::Builder::new().name(thread_name(index));
        let run = move || {
            prepare();
            // A filter of system calls may forbid this; the thread works without it.
            if let Err(error) = sched::short_turns() {
                tracing::debug!(%error, "no short turns for packet threads");
            }
            worker.run();
        };
        threads.push(builder.spawn(run)?);
    }
    Ok(Handle {
        shared,
        stop,
        threads,
    })
}

/// Prefix of the names of all packet threads.
pub const THREAD_NAME: &str = "meshd-w";

/// Returns the name of the thread of worker `index` in the system.
#[must_use]
pub fn thread_name(index: usize) -> String {
    format!("{THREAD_NAME}{index}")
}

impl Handle {
    /// Publishes `snapshot` for all following batches.
    pub fn publish(&self, snapshot: Arc<RouteSnapshot>) {
        self.shared.snapshot.store(snapshot);
    }

    /// Shows packets to this capture from each worker's next batch on, or to none.
    pub fn set_tap(&self, tap: Option<Arc<Tap>>) {
        self.shared.taps.set(tap);
    }

    /// Returns the packets dropped since start, by reason, without zeros.
    #[must_use]
    pub fn drops(&self) -> DropCounts {
        let mut sum = DropCounts::new();
        for drops in self.drops_each() {
            for (reason, count) in drops {
                *sum.entry(reason).or_default() += count;
            }
        }
        sum
    }

    /// Returns the packets that each worker dropped, as [`Self::drops`].
    #[must_use]
    pub fn drops_each(&self) -> Vec<DropCounts> {
        let drops = |worker: &PerWorker| worker.counters.drops().collect();
        self.shared.workers.iter().map(drops).collect()
    }

    /// Returns a number for each worker that grows at least every second while the worker is alive.
    #[must_use]
    pub fn beats(&self) -> Vec<u64> {
        let beat = |worker: &PerWorker| worker.beat.load(Ordering::Relaxed);
        self.shared.workers.iter().map(beat).collect()
    }

    /// Returns true if every worker still runs; a worker ends by itself only when its device is
    /// gone.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// Returns the number of workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.workers.len()
    }

    /// Stops the workers and waits for their end.
    pub fn stop(self) {
        if self.stop.signal().is_ok() {
            for thread in self.threads {
                let _ = thread.join();
            }
        }
    }
}
