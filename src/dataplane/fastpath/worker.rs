//! One packet thread: epoll on device and sockets, one batch at a time, one clock read per batch.

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use meshd_proto::{
    mesh::Input,
    route::{DropReason, verdict::ErrorLimiter},
};

use crate::{
    fastpath::{
        Queue, Shared, Sink, Step,
        batching::Batching,
        egress::{Device, Outlet},
        parked::Parked,
        punt::Punts,
        runs::Runs,
        send_order::Turns,
        tap::Recorder,
    },
    io::{
        epoll::{Epoll, EventFd, Timer},
        tun::{Layer, Tun},
        udp::{RecvBuffers, UdpSocket},
        vnet::{Coalescer, MAX_LINK_HEADER, MAX_PACKET},
    },
};

/// Most packets, and bytes, of one device or socket in a batch; the last read may exceed them. Half
/// as many bytes cost 3 % more processor time for the same round trip beside bulk. Sending every 64
/// KB costs 7 to 10 % more. Source: dataplane/data-path.md section 3.
const BATCH_PACKETS: usize = 1024;
const BATCH_BYTES: usize = 256 << 10;
/// Interval of the heartbeat for the watchdog. A separate timer costs less than setting one for
/// each sleep.
const BEAT: Duration = Duration::from_secs(1);
/// Longest sleep while packets are parked.
const PARKED: Duration = Duration::from_millis(1);

/// Bytes in a batch that count as bulk: other packets wait behind them.
const BULK: usize = 64 << 10;
/// Time after such a batch during which packets other than TCP use another queue.
const BULK_LASTS: Duration = Duration::from_millis(250);

const STOP: u64 = 0;
const HEART: u64 = 1;
const DEVICE: u64 = 2;
const FIRST_SOCKET: u64 = 3;

/// State of one thread.
pub(super) struct Worker {
    shared: Arc<Shared>,
    index: usize,
    tun: Option<Arc<Tun>>,
    aside: Option<Arc<Tun>>,
    batching: Batching,
    /// Time of the last batch of bulk.
    bulk: Option<Instant>,
    udp: Vec<Arc<UdpSocket>>,
    epoll: Epoll,
    heart: Timer,
    /// Keeps open the descriptor that the epoll set waits for.
    _stop: Arc<EventFd>,
    limiter: ErrorLimiter,
    runs: Runs,
    /// Set if the device takes super-packets.
    coalescer: Option<Coalescer>,
    parked: Parked,
    punts: Punts,
}

impl Worker {
    /// Makes a worker for these descriptors. Opens only its epoll set.
    pub(super) fn new(
        shared: Arc<Shared>,
        index: usize,
        Queue { tun, aside, udp }: Queue,
        stop: Arc<EventFd>,
        inputs: mpsc::Sender<Input>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(stop.as_fd(), STOP)?;
        let heart = Timer::every(BEAT)?;
        epoll.add(heart.as_fd(), HEART)?;
        if let Some(tun) = &tun {
            epoll.add(tun.as_fd(), DEVICE)?;
        }
        for (token, socket) in (FIRST_SOCKET..).zip(&udp) {
            epoll.add(socket.as_fd(), token)?;
        }
        Ok(Self {
            shared,
            index,
            tun,
            aside,
            batching: Batching::default(),
            bulk: None,
            udp,
            epoll,
            heart,
            _stop: stop,
            limiter: ErrorLimiter::default(),
            runs: Runs::default(),
            coalescer: None,
            parked: Parked::default(),
            punts: Punts::new(inputs),
        })
    }

    /// Runs until the stop event, or until the device is gone.
    pub(super) fn run(mut self) {
        // The buffers, some megabytes, are allocated in the thread, so they do not delay the start
        // of other threads.
        let offloads = self.tun.as_ref().map(|tun| tun.offloads());
        self.coalescer = offloads
            .filter(|offloads| offloads.vnet)
            .map(|offloads| Coalescer::new(offloads.uso));
        let mut ready = Vec::new();
        let mut room = Room {
            read: vec![0; MAX_PACKET + MAX_LINK_HEADER],
            cut: vec![0; MAX_PACKET + MAX_LINK_HEADER],
            received: RecvBuffers::default(),
        };
        loop {
            self.shared.workers[self.index]
                .beat
                .fetch_add(1, Ordering::Relaxed);
            let sleep = (!self.parked.is_empty()).then_some(PARKED);
            if let Err(error) = self.epoll.wait(&mut ready, sleep) {
                return tracing::error!(%error, "a packet thread cannot wait");
            }
            if ready.contains(&STOP) {
                return;
            }
            if let Err(error) = self.batch(&ready, &mut room) {
                return tracing::error!(%error, "the device is gone");
            }
        }
    }

    /// Reads what is ready up to the bounds, then sends everything gathered. Returns only errors of
    /// the device.
    fn batch(&mut self, ready: &[u64], room: &mut Room) -> io::Result<()> {
        let snapshot = self.shared.snapshot.load();
        let tap = self.shared.taps.get();
        let now = now();
        let alone = self.batching.begin(now);
        self.punts.begin();
        let parked = self.parked.take();
        // The other queue costs a wake-up of another thread, so it is used only when this thread is
        // busy.
        let busy = self
            .bulk
            .is_some_and(|at| now.duration_since(at) < BULK_LASTS);
        let aside = self.aside.as_deref().filter(|_| busy);
        let mut sink = Outlet {
            mode: snapshot.settings.mode,
            runs: &mut self.runs,
            tos: 0,
            coalescer: self.coalescer.as_mut(),
            parked: &mut self.parked,
            punts: &mut self.punts,
            device: Device {
                own: self.tun.as_deref(),
                aside,
            },
            udp: &self.udp,
            counters: &self.shared.workers[self.index].counters,
            recorder: tap.as_deref().map(|tap| Recorder {
                tap,
                snapshot: &snapshot,
            }),
        };
        let mut step = Step::new(&snapshot, &mut sink, &mut self.limiter, now);
        step.turns = (self.shared.workers.len() > 1).then(Turns::default);
        for (to, packet) in parked {
            step.send_parked(to, &packet);
        }
        let mut bytes = 0;
        for token in ready {
            match (*token, &self.tun) {
                (HEART, _) => self.heart.clear(),
                (DEVICE, Some(tun)) => bytes += drain_device(&mut step, tun, room, alone)?,
                (token, _) => {
                    let index = token.wrapping_sub(FIRST_SOCKET);
                    let socket = usize::try_from(index).ok().and_then(|at| self.udp.get(at));
                    if let Some(socket) = socket {
                        bytes += drain_socket(&mut step, socket, &mut room.received, alone);
                    }
                }
            }
        }
        step.sink.flush();
        // Immediate answers of our own system are in the queue already, so the device is read
        // without another wait.
        if alone
            && bytes > 0
            && !ready.contains(&DEVICE)
            && let Some(tun) = &self.tun
        {
            bytes += drain_device(&mut step, tun, room, alone)?;
            step.sink.flush();
        }
        self.batching.end(bytes);
        if bytes >= BULK {
            self.bulk = Some(now);
        }
        Ok(())
    }
}

/// Buffers: for one read of the device, for one packet cut from it, and for messages of the
/// sockets.
struct Room {
    read: Vec<u8>,
    cut: Vec<u8>,
    received: RecvBuffers,
}

/// Reads the device up to the bounds, or only its first packet if `alone`. Returns the number of
/// bytes.
fn drain_device(
    step: &mut Step<'_, Outlet<'_>>,
    tun: &Tun,
    Room { read, cut, .. }: &mut Room,
    alone: bool,
) -> io::Result<usize> {
    let mut bytes = 0;
    for _ in 0..BATCH_PACKETS {
        match tun.read_super(read) {
            Ok((header, length)) => {
                let frame = &mut read[..length];
                match tun.layer() {
                    Layer::Routed => step.take_frame(tun, &header, frame, cut),
                    _ => step.from_device_super(&header, frame, cut),
                }
                bytes += length;
                if alone {
                    break;
                }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => break,
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::InvalidData => step.sink.dropped(DropReason::Malformed),
                _ => return Err(error),
            },
        }
        if bytes >= BATCH_BYTES {
            break;
        }
    }
    Ok(bytes)
}

/// Works as [`drain_device`], for a socket.
fn drain_socket(
    step: &mut Step<'_, Outlet<'_>>,
    socket: &UdpSocket,
    buffers: &mut RecvBuffers,
    alone: bool,
) -> usize {
    let most = if alone { 1 } else { RecvBuffers::MESSAGES };
    let (mut packets, mut bytes) = (0, 0);
    while packets < BATCH_PACKETS && bytes < BATCH_BYTES {
        // Errors here come from ICMP and stay on the socket: the next call succeeds.
        let Ok(messages) = socket.recv(buffers, most) else {
            break;
        };
        for (from, message, stride) in buffers.messages(messages) {
            if let Some(recorder) = &step.sink.recorder {
                recorder.outer(true, [socket.local(), from], message, stride);
            }
            packets += message.len().div_ceil(stride);
            bytes += message.len();
            step.from_network(from, message, stride);
        }
        // Fewer messages than room: no more are waiting.
        if messages < most || alone {
            break;
        }
    }
    bytes
}

#[expect(
    clippy::disallowed_methods,
    reason = "the packet path's one look at the clock, once a batch"
)]
fn now() -> Instant {
    Instant::now()
}
