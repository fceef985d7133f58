//! UDP sockets: batches are received (recvmmsg, GRO), runs of equal datagrams are sent (GSO).

use std::{
    array,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{
        SendFlags,
        sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery},
    },
};
use socket2::{Domain, MsgHdr, Protocol, SockAddr, SockRef, Socket, Type};

use super::{control::Control, epoll::timespec};

/// Size of one receive buffer in bytes: the longest UDP payload, and one more cache line. With it
/// the starts of the messages do not all map to the same cache sets.
const ROOM: usize = 65_536 + 64;

/// Half of the longest datagram that [`device_mtu`] tries, in bytes: more than our longest
/// datagram.
const LONGEST_BIT: usize = 1_024;

/// Options of a new socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// Receive buffer in bytes; 0 = the system's default.
    pub rcvbuf: usize,
    /// Send buffer in bytes; 0 = the system's default.
    pub sndbuf: usize,
    /// Mark for policy routing; 0 = none.
    pub fwmark: u32,
    /// Interface to bind to.
    pub interface: Option<String>,
    /// True to set don't-fragment, and to report datagrams longer than the device's MTU (EMSGSIZE).
    pub dont_fragment: bool,
    /// True if several UDP sockets share one address: the kernel distributes senders over them
    /// (SO_REUSEPORT).
    pub shared: bool,
}

/// Opens a non-blocking socket of `addr`'s family with mark and interface set, not bound. IPv6
/// sockets accept no IPv4.
pub fn open_socket(addr: SocketAddr, kind: Type, options: &SocketOptions) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM {
        Protocol::UDP
    } else {
        Protocol::TCP
    };
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if options.fwmark != 0 {
        socket.set_mark(options.fwmark)?;
    }
    if let Some(interface) = &options.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    Ok(socket)
}

/// Binds a socket, even to an address that no interface has yet: the socket works once an interface
/// has it.
pub fn bind(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    match socket.bind(&addr.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            match addr {
                SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
                SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
            }
            socket.bind(&addr.into())
        }
        bound => bound,
    }
}

/// Returns true if an address belongs to this machine, for IPv6 after duplicate address detection.
#[must_use]
pub fn is_here(ip: IpAddr) -> bool {
    let bound = ip.is_unspecified().then_some(Ok(()));
    let bound = bound.unwrap_or_else(|| std::net::UdpSocket::bind((ip, 0)).map(drop));
    !bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Returns true if a kept socket equals one that would be opened now. The socket has this kind, is
/// bound to this address (port 0: any), and has mark, interface and sharing of the options. TCP
/// must listen.
#[must_use]
pub fn is_as(fd: BorrowedFd<'_>, addr: SocketAddr, kind: Type, options: &SocketOptions) -> bool {
    let socket = SockRef::from(&fd);
    let bound = socket.local_addr().ok().and_then(|local| local.as_socket());
    let here = bound.is_some_and(|bound| {
        bound.ip() == addr.ip() && (addr.port() == 0 || addr.port() == bound.port())
    });
    let device = socket.device().ok().flatten();
    let role = match kind {
        Type::STREAM => socket.is_listener().is_ok_and(|listens| listens),
        _ => socket
            .reuse_port()
            .is_ok_and(|shared| shared == options.shared),
    };
    here && role
        && socket.r#type().is_ok_and(|found| found == kind)
        && socket.mark().is_ok_and(|mark| mark == options.fwmark)
        && device.as_deref() == options.interface.as_ref().map(|name| name.as_bytes())
}

/// A bound UDP socket of one address family, shared by workers and driver.
#[derive(Debug)]
pub struct UdpSocket {
    socket: std::net::UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
}

impl UdpSocket {
    /// Opens and binds a socket. A buffer size that the system forbids is no error: see
    /// [`Self::receive_buffer`].
    pub fn bind(addr: SocketAddr, options: &SocketOptions) -> io::Result<Self> {
        let socket = open_socket(addr, Type::DGRAM, options)?;
        if options.shared {
            socket.set_reuse_port(true)?;
        }
        bind(&socket, addr)?;
        Self::from_socket(socket, options)
    }

    /// Takes over a kept bound socket that [`is_as`] these options.
    pub fn adopt(socket: OwnedFd, options: &SocketOptions) -> io::Result<Self> {
        let socket = Socket::from(socket);
        socket.set_nonblocking(true)?;
        Self::from_socket(socket, options)
    }

    fn from_socket(socket: Socket, options: &SocketOptions) -> io::Result<Self> {
        if options.rcvbuf > 0
            && sockopt::set_socket_recv_buffer_size_force(&socket, options.rcvbuf).is_err()
        {
            let _ = socket.set_recv_buffer_size(options.rcvbuf);
        }
        if options.sndbuf > 0
            && sockopt::set_socket_send_buffer_size_force(&socket, options.sndbuf).is_err()
        {
            let _ = socket.set_send_buffer_size(options.sndbuf);
        }
        let socket: std::net::UdpSocket = socket.into();
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let local = socket.local_addr()?;
        super::sockopt::disable_control_messages(&socket, local);
        set_fragmentation(&socket, local, options.dont_fragment)?;
        Ok(Self {
            socket,
            state,
            local,
        })
    }

    /// Returns the bound address.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Returns the most bytes that the kernel buffers on receive; the kernel doubles the requested
    /// number.
    pub fn receive_buffer(&self) -> io::Result<usize> {
        Ok(sockopt::socket_recv_buffer_size(&self.socket)?)
    }

    /// Returns the most datagrams of one [`Self::send`]; 1 if the kernel does no segmentation.
    #[must_use]
    pub fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Returns true if the kernel joins datagrams on receive.
    #[must_use]
    pub fn has_gro(&self) -> bool {
        self.state.gro_segments() > 1
    }

    /// Receives a batch of at most `most` messages into `buffers`; `WouldBlock` if none waits.
    /// Returns the number of messages.
    pub fn recv(&self, buffers: &mut RecvBuffers, most: usize) -> io::Result<usize> {
        let mut rooms = buffers.storage.chunks_exact_mut(ROOM);
        if most == 1 {
            // Setting up all buffers would take longer than the rest of the call.
            let mut slice = [IoSliceMut::new(rooms.next().unwrap_or_default())];
            return self
                .state
                .recv((&self.socket).into(), &mut slice, &mut buffers.meta);
        }
        let mut slices: [_; BATCH_SIZE] =
            array::from_fn(|_| IoSliceMut::new(rooms.next().unwrap_or_default()));
        self.state.recv(
            (&self.socket).into(),
            &mut slices[..most],
            &mut buffers.meta,
        )
    }

    /// Sends datagrams of `segment` bytes each; the last may be shorter. `WouldBlock` if the send
    /// buffer is full; see also [`is_too_long`].
    pub fn send(&self, to: SocketAddr, contents: &[u8], segment: usize) -> io::Result<()> {
        if segment >= contents.len() {
            return self.socket.send_to(contents, to).map(drop);
        }
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents,
            segment_size: Some(segment),
            src_ip: None,
        };
        self.state.try_send((&self.socket).into(), &transmit)
    }

    /// Works as [`Self::send`], with a type of service (traffic class) for these datagrams only.
    pub fn send_marked(
        &self,
        to: SocketAddr,
        contents: &[u8],
        segment: usize,
        tos: u8,
    ) -> io::Result<()> {
        let mut control = Control::new();
        control.mark(to, tos);
        if segment < contents.len() {
            let segment = u16::try_from(segment).map_err(|_| io::ErrorKind::InvalidInput)?;
            control.segment(segment);
        }
        let (to, contents) = (SockAddr::from(to), [IoSlice::new(contents)]);
        let message = MsgHdr::new()
            .with_addr(&to)
            .with_buffers(&contents)
            .with_control(control.as_bytes());
        SockRef::from(&self.socket).sendmsg(&message, 0).map(drop)
    }

    /// Waits until the socket accepts more, at most `limit`. Returns true if it does.
    pub fn wait_writable(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
        rustix::event::poll(&mut fds, Some(&timespec(limit))).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sets the fragmentation mode. Anybody on the Internet can send an ICMP error, so ICMP errors are
/// not trusted. The kernel lets us send up to the device's MTU, whatever path MTU it has learnt,
/// and our own probes find the path MTU. tinc's sockets obey the kernel (DO, DONT).
///
/// With fragmentation allowed, only IPv6 obeys the kernel: no router on an IPv6 path fragments.
fn set_fragmentation(socket: impl AsFd, local: SocketAddr, dont_fragment: bool) -> io::Result<()> {
    if local.is_ipv4() {
        let mode = if dont_fragment {
            Ipv4PathMtuDiscovery::PROBE
        } else {
            Ipv4PathMtuDiscovery::OMIT
        };
        return Ok(sockopt::set_ip_mtu_discover(socket, mode)?);
    }
    let mode = if dont_fragment {
        Ipv6PathMtuDiscovery::PROBE
    } else {
        Ipv6PathMtuDiscovery::DONT
    };
    sockopt::set_ipv6_mtu_discover(&socket, mode)?;
    super::sockopt::set_ipv6_dontfrag(&socket, dont_fragment)
}

/// Returns true if a send failed because the datagram is longer than the device allows.
#[must_use]
pub fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error())
}

/// Buffers for one batch, allocated once.
#[derive(Debug)]
pub struct RecvBuffers {
    /// One allocation, whose pages the kernel makes at their first write.
    storage: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
}

impl Default for RecvBuffers {
    fn default() -> Self {
        Self {
            storage: vec![0; BATCH_SIZE * ROOM],
            meta: [RecvMeta::default(); BATCH_SIZE],
        }
    }
}

impl RecvBuffers {
    /// Number of messages that fit.
    pub const MESSAGES: usize = BATCH_SIZE;

    /// Returns the first `messages` messages. Each has its source (IPv4 never mapped), its bytes,
    /// and the length of each datagram in it but the last, at least 1.
    pub fn messages(
        &mut self,
        messages: usize,
    ) -> impl Iterator<Item = (SocketAddr, &mut [u8], usize)> + '_ {
        let rooms = self.storage.chunks_exact_mut(ROOM);
        let buffers = rooms.zip(&self.meta).take(messages);
        buffers.map(|(buffer, meta)| {
            let (from, bytes) = (canonical(meta.addr), &mut buffer[..meta.len]);
            (from, bytes, meta.stride.max(1))
        })
    }
}

/// Returns the address with an IPv4-mapped one as plain IPv4, without flow info. A link-local
/// address keeps its zone.
#[must_use]
pub fn canonical(mut addr: SocketAddr) -> SocketAddr {
    match &mut addr {
        SocketAddr::V6(local) if local.ip().is_unicast_link_local() => {
            local.set_flowinfo(0);
            addr
        }
        _ => SocketAddr::new(addr.ip().to_canonical(), addr.port()),
    }
}

/// Opens a socket with these options and connects it to `to`, to read the kernel's knowledge of the
/// path.
fn connected(to: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
    let socket = open_socket(to, Type::DGRAM, options)?;
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    socket.bind(&SocketAddr::new(any, 0).into())?;
    socket.connect(&to.into())?;
    Ok(socket)
}

/// Returns our address that the kernel would use as the source of packets to `to`.
pub fn source(to: SocketAddr) -> io::Result<IpAddr> {
    let local = connected(to, &SocketOptions::default())?.local_addr()?;
    let local = local.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(local.ip())
}

/// Returns the longest IP packet that the device towards `to` accepts from a socket with these
/// options, in bytes. The result is at most 2,047 and the headers; our datagrams are shorter. A
/// path MTU that the kernel learnt from ICMP does not count.
pub fn device_mtu(to: SocketAddr, options: &SocketOptions) -> io::Result<u16> {
    let socket = connected(to, options)?;
    set_fragmentation(&socket, to, true)?;
    let socket: std::net::UdpSocket = socket.into();
    let filler = [0; 2 * LONGEST_BIT];
    // The kernel checks held-back data for its length, and nothing is sent. A rejection drops the
    // held data.
    let (mut longest, mut held, mut bit) = (0, 0, LONGEST_BIT);
    while bit > 0 {
        let wanted = longest + bit;
        match rustix::net::send(&socket, &filler[..wanted - held], SendFlags::MORE) {
            Ok(_) => (longest, held) = (wanted, wanted),
            Err(Errno::MSGSIZE) => held = 0,
            Err(error) => return Err(error.into()),
        }
        bit /= 2;
    }
    let headers = if to.is_ipv4() { 28 } else { 48 };
    Ok(u16::try_from(longest + headers).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use socket2::{MaybeUninitSlice, MsgHdrMut};

    use super::*;

    fn pair(options: &SocketOptions) -> (UdpSocket, UdpSocket) {
        let any = "127.0.0.1:0".parse().unwrap();
        (
            UdpSocket::bind(any, options).unwrap(),
            UdpSocket::bind(any, options).unwrap(),
        )
    }

    #[test]
    fn a_run_arrives_as_its_datagrams() {
        let (a, b) = pair(&SocketOptions {
            dont_fragment: true,
            ..SocketOptions::default()
        });
        let run: Vec<u8> = (0..1000_u32).map(|i| (i / 300) as u8).collect();
        if a.max_segments() > 1 {
            a.send(b.local(), &run, 300).unwrap();
        } else {
            for piece in run.chunks(300) {
                a.send(b.local(), piece, 300).unwrap();
            }
        }
        let got = received(&a, &b, 4);
        let got: Vec<_> = got.into_iter().map(|d| (d[0], d.len())).collect();
        assert_eq!(got, [(0, 300), (1, 300), (2, 300), (3, 100)]);
    }

    /// Receives `count` datagrams from `a` at `b`.
    fn received(a: &UdpSocket, b: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let mut buffers = RecvBuffers::default();
        let mut got = Vec::new();
        while got.len() < count {
            let mut fds = [PollFd::new(b, PollFlags::IN)];
            rustix::event::poll(&mut fds, None).unwrap();
            let messages = b.recv(&mut buffers, RecvBuffers::MESSAGES).unwrap();
            for (from, message, stride) in buffers.messages(messages) {
                assert_eq!(from, a.local());
                got.extend(message.chunks(stride).map(<[u8]>::to_vec));
            }
        }
        got
    }

    #[test]
    fn no_more_come_at_once_than_are_asked_for() {
        let (a, b) = pair(&SocketOptions::default());
        for length in 1..=3 {
            a.send(b.local(), &[7; 3][..length], length).unwrap();
        }
        let mut buffers = RecvBuffers::default();
        let counts = [2, RecvBuffers::MESSAGES].map(|most| b.recv(&mut buffers, most).unwrap());
        assert_eq!(counts, [2, 1]);
        assert!(b.recv(&mut buffers, 1).is_err(), "nothing waits");
    }

    #[test]
    fn a_marked_run_arrives_as_its_datagrams() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let options = SocketOptions::default();
            let [a, b] = [(); 2].map(|()| UdpSocket::bind(any.parse().unwrap(), &options).unwrap());
            let (run, lengths) = match a.max_segments() {
                0..3 => (300, vec![300, 200]),
                _ => (700, vec![300, 300, 100, 200]),
            };
            a.send_marked(b.local(), &vec![7; run], 300, 0xb8).unwrap();
            a.send(b.local(), &[8; 200], 200).unwrap();
            let got = received(&a, &b, lengths.len());
            assert_eq!(got.iter().map(Vec::len).collect::<Vec<_>>(), lengths);
        }
    }

    #[test]
    fn nothing_is_told_with_a_datagram_but_its_sender() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let options = SocketOptions::default();
            let [a, b] = [(); 2].map(|()| UdpSocket::bind(any.parse().unwrap(), &options).unwrap());
            a.send(b.local(), &[8; 200], 200).unwrap();
            rustix::event::poll(&mut [PollFd::new(&b, PollFlags::IN)], None).unwrap();
            let (mut room, mut control) =
                ([MaybeUninit::uninit(); 300], [MaybeUninit::uninit(); 200]);
            let mut rooms = [MaybeUninitSlice::new(&mut room)];
            let mut message = MsgHdrMut::new()
                .with_buffers(&mut rooms)
                .with_control(&mut control);
            let length = SockRef::from(&b).recvmsg(&mut message, 0).unwrap();
            assert_eq!((length, message.control_len()), (200, 0));
        }
    }

    #[test]
    fn a_mark_is_of_one_run_and_of_nothing_after_it() {
        let Ok(mut raw) = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)) else {
            return meshd_testing::skip("root", "only root sees packets whole");
        };
        let (a, b) = pair(&SocketOptions::default());
        for tos in [0xb8, 0x20] {
            a.send_marked(b.local(), &[7; 300], 300, tos).unwrap();
        }
        a.send(b.local(), &[8; 200], 200).unwrap();
        let (mut packet, port) = ([0; 2_000], b.local().port().to_be_bytes());
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let length = io::Read::read(&mut raw, &mut packet).unwrap();
            if packet[22..24] == port {
                seen.push((packet[1], length - 28));
            }
        }
        assert_eq!(seen, [(0xb8, 300), (0x20, 300), (0, 200)]);
    }

    #[test]
    fn what_is_too_long_is_told_from_other_errors() {
        let (a, b) = pair(&SocketOptions::default());
        let error = a.send(b.local(), &vec![0; 70_000], 70_000).unwrap_err();
        assert!(is_too_long(&error), "{error}");
        assert!(!is_too_long(&io::ErrorKind::WouldBlock.into()));
    }

    #[test]
    fn the_mtu_of_a_device_is_asked_for_without_sending_anything() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let options = SocketOptions::default();
            let socket = UdpSocket::bind(any.parse().unwrap(), &options).unwrap();
            assert!(device_mtu(socket.local(), &options).unwrap() > 2_000);
            let mut buffers = RecvBuffers::default();
            assert!(socket.recv(&mut buffers, 1).is_err(), "nothing comes");
        }
    }

    /// A8: ICMP lowers no MTU.
    #[test]
    fn sockets_ignore_the_path_mtu_of_the_kernel() {
        let options = SocketOptions {
            dont_fragment: true,
            ..SocketOptions::default()
        };
        let open = |any: &str| UdpSocket::bind(any.parse().unwrap(), &options).unwrap();
        let four = sockopt::ip_mtu_discover(open("127.0.0.1:0")).unwrap();
        assert_eq!(four, Ipv4PathMtuDiscovery::PROBE);
        let six = sockopt::ipv6_mtu_discover(open("[::1]:0")).unwrap();
        assert_eq!(six, Ipv6PathMtuDiscovery::PROBE);
    }
}
