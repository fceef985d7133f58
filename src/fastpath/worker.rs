//! One packet thread: epoll over device and sockets, a batch at a time, the clock read once a batch.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::{
    fastpath::{
        Queue, Shared, Sink, Step, complete,
        counters::Counters,
        lull::Lull,
        parked::Parked,
        punt::Punts,
        runs::{Run, Runs},
        tap::Look,
        turns::Turns,
    },
    io::{
        epoll::{Epoll, EventFd, Timer},
        tun::{Layer, Tun},
        udp::{RecvBuffers, UdpSocket, is_too_long},
        vnet::{Checksums, Coalescer, Header, MAX_LINK_HEADER, MAX_PACKET},
    },
    mesh::{Input, event::Punt, view::PacketKind},
    route::{DropReason, Mode, NodeIdx, NodeShared, verdict::ErrorLimiter},
    wire::ip::{Packet, protocol},
};

/// Packets, and bytes, of one device or socket in a batch; the last read may go beyond. Half as many bytes cost 3 % more processor
/// time, and the round trip beside bulk is the same; sending off every 64 KB, 7 to 10 %. Source: dataplane.md.
const BATCH_PACKETS: usize = 1024;
const BATCH_BYTES: usize = 256 << 10;
/// The heartbeat for the watchdog, with a timer of its own: to set one for each sleep costs more.
const BEAT: Duration = Duration::from_secs(1);
/// Longest sleep while packets are parked.
const PARKED: Duration = Duration::from_millis(1);
/// How long a full send buffer may hold us up before a run is dropped.
const SEND_WAIT: Duration = Duration::from_millis(5);

/// Bytes in a batch that show bulk: whoever comes meanwhile waits.
const BULK: usize = 64 << 10;
/// How long after such a batch what is not TCP is sent to another queue.
const BULK_LASTS: Duration = Duration::from_millis(250);

const STOP: u64 = 0;
const HEART: u64 = 1;
const DEVICE: u64 = 2;
const FIRST_SOCKET: u64 = 3;

/// One thread's own things.
pub(super) struct Worker {
    shared: Arc<Shared>,
    index: usize,
    tun: Option<Arc<Tun>>,
    aside: Option<Arc<Tun>>,
    lull: Lull,
    /// The last batch of bulk.
    bulk: Option<Instant>,
    udp: Vec<Arc<UdpSocket>>,
    epoll: Epoll,
    heart: Timer,
    /// Keeps the descriptor open that the epoll set waits for.
    _stop: Arc<EventFd>,
    limiter: ErrorLimiter,
    runs: Runs,
    /// Where the device takes super-packets.
    coalescer: Option<Coalescer>,
    parked: Parked,
    punts: Punts,
}

impl Worker {
    /// A worker over these descriptors. Opens nothing but its epoll set.
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
            lull: Lull::default(),
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

    /// Works until the stop event, or until the device is gone.
    pub(super) fn run(mut self) {
        // Megabytes of room are made here: nobody waits for it who has more threads to start.
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

    /// Drains what is ready up to the bounds, then sends what has gathered. Only errors of the device
    /// come back.
    fn batch(&mut self, ready: &[u64], room: &mut Room) -> io::Result<()> {
        let snapshot = self.shared.snapshot.load();
        let tap = self.shared.taps.get();
        let now = now();
        let alone = self.lull.begins(now);
        self.punts.begin();
        let parked = self.parked.take();
        // The detour costs waking another thread: it is for when this one has no time.
        let busy = self
            .bulk
            .is_some_and(|at| now.duration_since(at) < BULK_LASTS);
        let aside = self.aside.as_deref().filter(|_| busy);
        let mut sink = WorkerSink {
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
            look: tap.as_deref().map(|tap| Look {
                tap,
                snapshot: &snapshot,
            }),
        };
        let mut step = Step::new(&snapshot, &mut sink, &mut self.limiter, now);
        step.turns = (self.shared.workers.len() > 1).then(Turns::default);
        for (to, packet) in parked {
            step.send(to, &packet);
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
        // What our own system answers at once is there already: no need to ask whether it is.
        if alone
            && bytes > 0
            && !ready.contains(&DEVICE)
            && let Some(tun) = &self.tun
        {
            bytes += drain_device(&mut step, tun, room, alone)?;
            step.sink.flush();
        }
        self.lull.had(bytes);
        if bytes >= BULK {
            self.bulk = Some(now);
        }
        Ok(())
    }
}

/// Room for what the device gave, for one packet cut from it, and for what the sockets give.
struct Room {
    read: Vec<u8>,
    cut: Vec<u8>,
    received: RecvBuffers,
}

/// Takes what the device has, up to the bounds, or the first packet `alone`; returns how many bytes that were.
fn drain_device(
    step: &mut Step<'_, WorkerSink<'_>>,
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

/// As [`drain_device`], for a socket.
fn drain_socket(
    step: &mut Step<'_, WorkerSink<'_>>,
    socket: &UdpSocket,
    buffers: &mut RecvBuffers,
    alone: bool,
) -> usize {
    let most = if alone { 1 } else { RecvBuffers::MESSAGES };
    let (mut packets, mut bytes) = (0, 0);
    while packets < BATCH_PACKETS && bytes < BATCH_BYTES {
        // Errors here are those that ICMP left on the socket: the next call gets on.
        let Ok(messages) = socket.recv(buffers, most) else {
            break;
        };
        for (from, message, stride) in buffers.messages(messages) {
            if let Some(look) = &step.sink.look {
                look.outer(true, [socket.local(), from], message, stride);
            }
            packets += message.len().div_ceil(stride);
            bytes += message.len();
            step.from_network(from, message, stride);
        }
        // Fewer than there was room for: nothing more waits.
        if messages < most || alone {
            break;
        }
    }
    bytes
}

/// The [`Sink`] of the real thing: runs to the sockets, packets to the device, joined where it takes
/// super-packets.
struct WorkerSink<'a> {
    mode: Mode,
    runs: &'a mut Runs,
    /// Of the datagrams to come.
    tos: u8,
    coalescer: Option<&'a mut Coalescer>,
    parked: &'a mut Parked,
    punts: &'a mut Punts,
    device: Device<'a>,
    udp: &'a [Arc<UdpSocket>],
    counters: &'a Counters,
    /// The capture, if there is one.
    look: Option<Look<'a>>,
}

impl Sink for WorkerSink<'_> {
    fn datagram(&mut self, to: SocketAddr, most: usize, length: usize) -> &mut [u8] {
        if self.runs.is_full() {
            self.send();
        }
        self.runs.push(to, self.tos, most, length)
    }

    fn priority(&mut self, tos: u8) {
        self.tos = tos;
    }

    fn send_off(&mut self) {
        self.send();
    }

    fn deliver(&mut self, packet: &mut [u8], checksums: Checksums) {
        let write = write_to(self.mode, self.device, self.counters);
        match &mut self.coalescer {
            Some(coalescer) => coalescer.push(packet, self.mode.ip_at(packet), checksums, write),
            None => {
                complete(self.mode, packet, checksums);
                write(&Header::default(), packet);
            }
        }
    }

    fn park(&mut self, to: NodeIdx, packet: &[u8]) {
        if !self.parked.keep(to, packet) {
            self.dropped(DropReason::PuntFull);
        }
    }

    fn punt(&mut self, punt: Punt) {
        if !self.punts.send(punt) {
            self.dropped(DropReason::PuntFull);
        }
    }

    fn dropped(&mut self, reason: DropReason) {
        self.counters.dropped(reason, 1);
    }

    fn is_looked_at(&self) -> bool {
        let mut look = self.look.iter();
        look.any(|look| look.tap.wants(PacketKind::Inner))
    }

    fn show(&self, node: &NodeShared, received: bool, packet: &[u8], checksums: Checksums) {
        if let Some(look) = &self.look {
            look.inner(node, received, packet, checksums);
        }
    }
}

impl WorkerSink<'_> {
    /// Lets go of all that has gathered.
    fn flush(&mut self) {
        self.send();
        if let Some(coalescer) = &mut self.coalescer {
            coalescer.flush(write_to(self.mode, self.device, self.counters));
        }
    }

    fn send(&mut self) {
        let Self {
            runs,
            punts,
            udp,
            counters,
            look,
            ..
        } = self;
        runs.flush(|run| {
            if let (Some(look), Some(socket)) = (&look, socket_for(run.to, udp)) {
                look.outer(false, [socket.local(), run.to], run.data(), run.segment);
            }
            send_run(run, udp, punts, counters);
        });
    }
}

/// The device to write to: its queue that the thread reads, and, while there is bulk, the one for what
/// should not wait there.
#[derive(Clone, Copy)]
struct Device<'a> {
    own: Option<&'a Tun>,
    aside: Option<&'a Tun>,
}

/// Writes packets and super-packets to the device, where there is one.
///
/// The kernel remembers to which queue a flow was written, and gives us the flow's other direction there.
/// TCP fills the queue it leaves by; while it does, what is not TCP gets another one, and need not wait.
fn write_to<'a>(
    mode: Mode,
    device: Device<'a>,
    counters: &'a Counters,
) -> impl Fn(&Header, &[u8]) + 'a {
    move |header, packet| {
        let tcp = || {
            let packet = packet.get(mode.ip_at(packet)..).and_then(Packet::parse);
            packet.is_some_and(|packet| packet.protocol() == protocol::TCP)
        };
        let queue = device.aside.filter(|_| !tcp()).or(device.own);
        if queue.is_some_and(|queue| queue.write_super(header, packet).is_err()) {
            counters.dropped(DropReason::SendFailed, 1);
        }
    }
}

/// The socket that datagrams for `to` leave by.
fn socket_for(to: SocketAddr, udp: &[Arc<UdpSocket>]) -> Option<&Arc<UdpSocket>> {
    let mut sockets = udp.iter();
    sockets.find(|socket| socket.local().is_ipv4() == to.is_ipv4())
}

/// Sends one run, in one call where the kernel segments, and reports what is too long.
fn send_run(run: &Run, udp: &[Arc<UdpSocket>], punts: &mut Punts, counters: &Counters) {
    let Some(socket) = socket_for(run.to, udp) else {
        return counters.dropped(DropReason::SendFailed, run.count as u64);
    };
    if run.count <= socket.max_segments() {
        match send(socket, run, run.data(), run.segment) {
            Ok(()) => return,
            // Old kernels say EINVAL for a segment longer than the path MTU: find out which it is.
            Err(_) if run.count > 1 => {}
            Err(error) => return failed(&error, run.to, run.data().len(), punts, counters),
        }
    }
    for datagram in run.data().chunks(run.segment) {
        if let Err(error) = send(socket, run, datagram, datagram.len()) {
            failed(&error, run.to, datagram.len(), punts, counters);
        }
    }
}

/// Sends, and waits a moment where the send buffer is full: the queue in front of us (the device's)
/// is the better place for packets to wait or be dropped.
fn send(socket: &UdpSocket, run: &Run, data: &[u8], segment: usize) -> io::Result<()> {
    let try_send = || match run.tos {
        0 => socket.send(run.to, data, segment),
        tos => socket.send_marked(run.to, data, segment, tos),
    };
    match try_send() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            socket.wait_writable(SEND_WAIT);
            try_send()
        }
        result => result,
    }
}

fn failed(
    error: &io::Error,
    to: SocketAddr,
    length: usize,
    punts: &mut Punts,
    counters: &Counters,
) {
    counters.dropped(DropReason::SendFailed, 1);
    if is_too_long(error) && !punts.too_long(to, length) {
        counters.dropped(DropReason::PuntFull, 1);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the packet path's one look at the clock, once a batch"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fastpath::runs::MAX_RUN, io::udp::SocketOptions};

    /// The kernel joins on receive what it was given in one call, so the receiver sees how many those were.
    #[test]
    fn a_run_goes_in_one_call_whatever_its_type_of_service() {
        let any = "127.0.0.1:0".parse().unwrap();
        let [ours, theirs] =
            [(); 2].map(|()| Arc::new(UdpSocket::bind(any, &SocketOptions::default()).unwrap()));
        if ours.max_segments() < 3 || !theirs.has_gro() {
            return eprintln!("SKIPPED: this kernel neither cuts nor joins datagrams");
        }
        let (inputs, _punts) = mpsc::channel(1);
        let (mut punts, counters) = (Punts::new(inputs), Counters::default());
        let mut buffers = RecvBuffers::default();
        for tos in [0, 0xb8] {
            let mut runs = Runs::default();
            for _ in 0..3 {
                runs.push(theirs.local(), tos, MAX_RUN, 100).fill(tos);
            }
            runs.flush(|run| send_run(run, &[Arc::clone(&ours)], &mut punts, &counters));
            let mut messages = 0;
            while messages == 0 {
                messages = theirs.recv(&mut buffers, 1).unwrap_or(0);
            }
            let got: Vec<_> = buffers
                .messages(messages)
                .map(|(_, m, at)| (m.len(), at))
                .collect();
            assert_eq!(got, [(300, 100)]);
        }
        assert_eq!(counters.drops().count(), 0);
    }
}
