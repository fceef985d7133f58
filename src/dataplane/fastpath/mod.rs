//! The packet threads. Everything but [`worker`] and [`egress`] is pure over a snapshot, a buffer and a [`Sink`].
//!
//! One packet or super-packet from the device: [`worker`] reads it, [`outbound`] asks the router, cuts
//! it straight into its destination's run in [`runs`] and seals it there; the worker sends each run
//! with one call. One datagram: the worker receives a batch, [`inbound`] finds the sender, opens in
//! place, asks the router, and hands the packet on or to the device, for which the worker joins
//! packets of a flow to super-packets. What needs the control plane goes out through [`punt`].

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

/// Where the pure steps leave their results.
pub trait Sink {
    /// Appends a datagram of `length` bytes to what goes to `to`, at most `most` of them in one call, and
    /// returns it to be written. Until then its bytes are any: those of an older datagram perhaps.
    fn datagram(&mut self, to: SocketAddr, most: usize, length: usize) -> &mut [u8];
    /// Type of service (traffic class) of the datagrams that are appended from now on; 0 at first.
    fn priority(&mut self, _tos: u8) {}
    /// Hands a packet to our own device, with what is known of its checksum.
    fn deliver(&mut self, packet: &mut [u8], checksums: Checksums);
    /// Hands all datagrams appended so far to the kernel.
    fn send_off(&mut self) {}
    /// Keeps a packet back while its node changes keys; [`Step::send`] tries it again.
    fn park(&mut self, to: NodeIdx, packet: &[u8]);
    /// Leaves something to the control plane.
    fn punt(&mut self, punt: Punt);
    /// Counts a packet that went nowhere.
    fn dropped(&mut self, reason: DropReason);
    /// Whether somebody looks at inner packets: then they go one by one.
    fn is_looked_at(&self) -> bool {
        false
    }
    /// Shows an inner packet that goes into the tunnel of a node, or has come out of it.
    fn show(&self, _node: &NodeShared, _received: bool, _packet: &[u8], _checksums: Checksums) {}
}

/// What a step works with; made anew for each batch.
pub struct Step<'a, S> {
    /// The tables in force.
    pub snapshot: &'a RouteSnapshot,
    /// Where results go.
    pub sink: &'a mut S,
    /// Limits the errors that the router answers with.
    pub limiter: &'a mut ErrorLimiter,
    /// The time of the batch.
    pub now: Instant,
    /// What the router said of the last packet for us.
    for_us: Option<ForUs>,
    /// The nodes whose [`NodeShared::sending`] is held; `None` where no other thread sends.
    turns: Option<Turns<'a>>,
}

impl<'a, S> Step<'a, S> {
    /// What a batch begins with, where no other thread sends.
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

/// Computes the checksum of a packet where that is still to be done.
pub fn complete(mode: Mode, packet: &mut [u8], checksums: Checksums) {
    if checksums == Checksums::Vouched
        && let Some(packet) = packet.get_mut(mode.ip_at(packet)..)
    {
        ip::finish_checksum(packet);
    }
}

/// What all workers share with the driver.
struct Shared {
    snapshot: ArcSwap<RouteSnapshot>,
    taps: Taps,
    workers: Vec<PerWorker>,
}

/// One worker's own part; padded by [`Counters`] so that no two workers write one cache line.
#[derive(Default)]
struct PerWorker {
    counters: Counters,
    beat: AtomicU64,
}

/// The running packet threads. Dropping it does not stop them: see [`Handle::stop`].
pub struct Handle {
    shared: Arc<Shared>,
    stop: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
}

/// What one packet thread reads and writes.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    /// Its queue of the device; none with DeviceType = dummy.
    pub tun: Option<Arc<Tun>>,
    /// Another thread's queue of the device, if there is one: for flows that should leave by that.
    pub aside: Option<Arc<Tun>>,
    /// Its UDP sockets.
    pub udp: Vec<Arc<UdpSocket>>,
}

/// Starts a packet thread for each of `queues`. Each calls `prepare` first. Punts and path-MTU reports
/// go to `inputs`; when that is full they are dropped and counted.
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
            // Where a filter forbids it, it goes without.
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

/// What the names of all packet threads begin with.
pub const THREAD_NAME: &str = "meshd-w";

/// What the system calls the thread of the worker `index`.
#[must_use]
pub fn thread_name(index: usize) -> String {
    format!("{THREAD_NAME}{index}")
}

impl Handle {
    /// Makes `snapshot` the tables of every batch from now on.
    pub fn publish(&self, snapshot: Arc<RouteSnapshot>) {
        self.shared.snapshot.store(snapshot);
    }

    /// Shows packets to this capture from the next batch of each worker on, or to none.
    pub fn look(&self, tap: Option<Arc<Tap>>) {
        self.shared.taps.set(tap);
    }

    /// Packets dropped since start, by reason, zeros left out.
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

    /// Packets that each worker dropped, as [`Self::drops`].
    #[must_use]
    pub fn drops_each(&self) -> Vec<DropCounts> {
        let drops = |worker: &PerWorker| worker.counters.drops().collect();
        self.shared.workers.iter().map(drops).collect()
    }

    /// A number for each worker that grows while it lives, at least every second.
    #[must_use]
    pub fn beats(&self) -> Vec<u64> {
        let beat = |worker: &PerWorker| worker.beat.load(Ordering::Relaxed);
        self.shared.workers.iter().map(beat).collect()
    }

    /// Whether every worker still runs; one ends by itself only when its device is gone.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.workers.len()
    }

    /// Stops the workers and waits for them.
    pub fn stop(self) {
        if self.stop.signal().is_ok() {
            for thread in self.threads {
                let _ = thread.join();
            }
        }
    }
}
