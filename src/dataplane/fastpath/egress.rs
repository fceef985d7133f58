//! Output of a worker: runs to the sockets, packets to the device. Packets are joined if the device
//! takes super-packets.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use meshd_proto::{
    mesh::{event::Punt, reports::view::PacketKind},
    route::{DropReason, Mode, NodeIdx, NodeShared},
};
use meshd_wire::ip::{Packet, protocol};

use crate::{
    fastpath::{
        Sink, complete,
        counters::Counters,
        parked::Parked,
        punt::Punts,
        runs::{Run, Runs},
        tap::Recorder,
    },
    io::{
        tun::Tun,
        udp::{UdpSocket, is_too_long},
        vnet::{Checksums, Coalescer, Header},
    },
};

/// Longest wait for room in a full send buffer before a run is dropped.
const SEND_WAIT: Duration = Duration::from_millis(5);

/// The [`Sink`] of a real worker.
pub(super) struct Outlet<'a> {
    pub(super) mode: Mode,
    pub(super) runs: &'a mut Runs,
    /// Type of service of the following datagrams.
    pub(super) tos: u8,
    /// Set if the device takes super-packets.
    pub(super) coalescer: Option<&'a mut Coalescer>,
    pub(super) parked: &'a mut Parked,
    pub(super) punts: &'a mut Punts,
    pub(super) device: Device<'a>,
    pub(super) udp: &'a [Arc<UdpSocket>],
    pub(super) counters: &'a Counters,
    /// The capture, if there is one.
    pub(super) recorder: Option<Recorder<'a>>,
}

impl Sink for Outlet<'_> {
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

    fn is_capturing(&self) -> bool {
        let mut recorder = self.recorder.iter();
        recorder.any(|recorder| recorder.tap.records(PacketKind::Inner))
    }

    fn show(&self, node: &NodeShared, received: bool, packet: &[u8], checksums: Checksums) {
        if let Some(recorder) = &self.recorder {
            recorder.inner(node, received, packet, checksums);
        }
    }
}

impl Outlet<'_> {
    /// Sends and writes everything that has been gathered.
    pub(super) fn flush(&mut self) {
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
            recorder,
            ..
        } = self;
        runs.flush(|run| {
            if let (Some(recorder), Some(socket)) = (&recorder, socket_for(run.to, udp)) {
                recorder.outer(false, [socket.local(), run.to], run.data(), run.segment);
            }
            send_run(run, udp, punts, counters);
        });
    }
}

/// Queues of the device for writing: the thread's own one, and, while there is bulk, another one
/// for packets that should not wait behind it.
#[derive(Clone, Copy)]
pub(super) struct Device<'a> {
    pub(super) own: Option<&'a Tun>,
    pub(super) aside: Option<&'a Tun>,
}

/// Writes packets and super-packets to the device, if there is one.
///
/// The kernel remembers the queue that a flow was written to, and delivers the other direction of
/// the flow there. TCP fills its queue. Meanwhile packets other than TCP are written to another
/// queue, so they need not wait.
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

/// Returns the socket for datagrams to `to`.
fn socket_for(to: SocketAddr, udp: &[Arc<UdpSocket>]) -> Option<&Arc<UdpSocket>> {
    let mut sockets = udp.iter();
    sockets.find(|socket| socket.local().is_ipv4() == to.is_ipv4())
}

/// Sends one run, in one call if the kernel segments, and reports datagrams that are too long.
fn send_run(run: &Run, udp: &[Arc<UdpSocket>], punts: &mut Punts, counters: &Counters) {
    let Some(socket) = socket_for(run.to, udp) else {
        return counters.dropped(DropReason::SendFailed, run.count as u64);
    };
    if run.count <= socket.max_segments() {
        match send(socket, run, run.data(), run.segment) {
            Ok(()) => return,
            // Old kernels return EINVAL for a segment longer than the path MTU: send the datagrams
            // one by one.
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

/// Sends, and waits for a moment if the send buffer is full. The device's queue is the better place
/// for packets to wait or be dropped.
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

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        fastpath::runs::MAX_RUN,
        io::udp::{RecvBuffers, SocketOptions},
    };

    /// The kernel joins the datagrams of one call on receive, so the receiver sees their number.
    #[test]
    fn a_run_goes_in_one_call_whatever_its_type_of_service() {
        let any = "127.0.0.1:0".parse().unwrap();
        let [ours, theirs] =
            [(); 2].map(|()| Arc::new(UdpSocket::bind(any, &SocketOptions::default()).unwrap()));
        if ours.max_segments() < 3 || !theirs.has_gro() {
            return meshd_testing::skip("gso", "the kernel needs UDP_SEGMENT and UDP_GRO");
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
