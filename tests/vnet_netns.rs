//! Super-packets against the kernel: two TUN or TAP devices in namespaces of their own, joined by a pump that
//! cuts all that one gives and joins it again for the other. Needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::Command,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use meshd::io::{
    epoll::{Epoll, EventFd},
    tun::{Layer, Tun},
    udp::{self, SocketOptions},
    vnet::{Checksums, Coalescer, Gso, GsoKind, Header, Segments, Unfinished},
};
use meshd::wire::{ether, ip};
use meshd_testing::skip;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const MTU: usize = 1400;
const ADDRESSES: [[&str; 2]; 2] = [["10.99.0.1", "10.99.0.2"], ["fd99::1", "fd99::2"]];

#[test]
fn tcp_arrives_whole() {
    tcp_arrives(Link::Tun);
}

#[test]
fn tcp_arrives_whole_in_frames() {
    tcp_arrives(Link::Tap);
}

/// Tags cost the kernel's offloads nothing, neither where it gives frames nor where it takes them.
#[test]
fn tcp_arrives_whole_in_tagged_frames() {
    tcp_arrives(Link::Vlan);
}

fn tcp_arrives(link: Link) {
    let Some(lab) = Lab::new("tcp", link) else {
        return;
    };
    for checksums in [Checksums::Complete, Checksums::Vouched] {
        for [from, to] in ADDRESSES {
            let pump = lab.pump(checksums, 0);
            lab.transfer(from, to, 20_000_000);
            let counts = pump.stop();
            assert!(
                counts.longest_read > MTU,
                "no super-packets from the kernel: {counts:?}"
            );
            assert!(
                counts.longest_written > MTU,
                "no super-packets to the kernel: {counts:?}"
            );
            assert!(counts.writes * 4 < counts.segments, "{counts:?}");
        }
    }
}

/// The kernel drops what the pump damages: joining must not make its checksum right.
#[test]
fn damage_does_not_get_through() {
    for link in Link::ALL {
        let Some(lab) = Lab::new("dmg", link) else {
            continue;
        };
        for [from, to] in ADDRESSES {
            let pump = lab.pump(Checksums::Complete, 500);
            lab.transfer(from, to, 5_000_000);
            let counts = pump.stop();
            assert!(counts.damaged > 0, "{counts:?}");
            assert!(counts.longest_written > MTU, "{counts:?}");
        }
    }
}

#[test]
fn udp_arrives_as_it_was_sent() {
    Link::ALL.into_iter().for_each(udp_arrives);
}

fn udp_arrives(link: Link) {
    let Some(lab) = Lab::new("udp", link) else {
        return;
    };
    for checksums in [Checksums::Complete, Checksums::Vouched] {
        for [from, to] in ADDRESSES {
            let pump = lab.pump(checksums, 0);
            lab.datagrams(from, to);
            let counts = pump.stop();
            if lab.devices[0].offloads().uso {
                assert!(counts.longest_written > MTU, "{counts:?}");
            } else {
                skip("uso", "Linux 6.2 gives it to devices");
            }
        }
    }
}

#[test]
fn a_device_has_as_many_queues_as_are_opened() {
    for link in [Link::Tun, Link::Tap] {
        let Some(lab) = Lab::new("mq", link) else {
            return;
        };
        queues(&lab);
    }
}

fn queues(lab: &Lab) {
    let more = lab.devices[0].add_queue().unwrap();
    assert_eq!(more.name(), lab.devices[0].name());
    assert_eq!(more.offloads(), lab.devices[0].offloads());
    let error = more.read(&mut [0; 2000]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// A bridge of the kernel hands tagged super-frames from one device to another as they are.
#[test]
fn tagged_super_frames_stay_whole() {
    if !rustix::process::geteuid().is_root() {
        return skip("root", "namespaces and devices need it");
    }
    let netns = format!("vnet{}tags", std::process::id());
    ip_tool(&["netns", "add", &netns]);
    ip_tool(&["-n", &netns, "link", "add", "name", "br", "type", "bridge"]);
    let [from, to] = ["va", "vb"].map(|name| {
        let open = move || Tun::open_offload(Layer::Ethernet, Some(name), false).unwrap();
        let tun = inside(&netns, open).join().unwrap();
        ip_tool(&["-n", &netns, "link", "set", name, "master", "br", "up"]);
        tun
    });
    ip_tool(&["-n", &netns, "link", "set", "dev", "br", "up"]);
    let (header, frame) = tagged_super_frame();
    let (epoll, mut ready) = (Epoll::new().unwrap(), Vec::new());
    epoll.add(to.as_fd(), 0).unwrap();
    let mut buffer = vec![0; 65_600];
    let mut pieces = Vec::new();
    // A port of a bridge takes a moment to forward.
    for _ in 0..100 {
        from.write_super(&header, &frame).unwrap();
        epoll
            .wait(&mut ready, Some(Duration::from_millis(50)))
            .unwrap();
        while let Ok((header, length)) = to.read_super(&mut buffer) {
            if buffer[12..16] == frame[12..16] {
                assert_eq!(length, frame.len(), "cut by the kernel");
                pieces.push(cut(&header, &buffer[..length]));
            }
        }
        if !pieces.is_empty() {
            break;
        }
    }
    ip_tool(&["netns", "del", &netns]);
    assert_eq!(pieces.first(), Some(&cut(&header, &frame)));
    assert_eq!(pieces[0].len(), 10);
}

fn cut(header: &Header, frame: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(header, frame, ether::ip_at(frame)).unwrap();
    let mut slot = vec![0; 2000];
    let mut pieces = Vec::new();
    while let Some(length) = segments.next_into(&mut slot) {
        pieces.push(slot[..length].to_vec());
    }
    pieces
}

/// Ten segments of 1,000 bytes of TCP over IPv4 in a frame of VLAN 7, as the kernel gives them.
fn tagged_super_frame() -> (Header, Vec<u8>) {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 7, 8, 0];
    let length = 40 + 10_000_u16;
    frame.extend([0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = ip::checksum(ip::sum(&frame[18..]));
    frame[28..30].copy_from_slice(&sum.to_be_bytes());
    let pseudo = !ip::checksum(ip::sum(&frame[30..38]) + 6 + 20 + 10_000);
    frame.extend([0x9c, 0x40, 0, 22, 1, 2, 3, 4, 5, 6, 7, 8, 0x50, 0x10, 1, 0]);
    frame.extend(pseudo.to_be_bytes());
    frame.extend([0; 2]);
    frame.resize(18 + usize::from(length), 7);
    let header = Header {
        unfinished: Some(Unfinished {
            start: 38,
            offset: 16,
        }),
        gso: Some(Gso {
            kind: GsoKind::TcpV4,
            size: 1000,
            header_len: 58,
            ecn: false,
        }),
    };
    (header, frame)
}

/// Joins the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Tun,
    Tap,
    /// TAP devices, and all traffic in a VLAN over them.
    Vlan,
}

impl Link {
    const ALL: [Self; 3] = [Self::Tun, Self::Tap, Self::Vlan];

    const fn layer(self) -> Layer {
        match self {
            Self::Tun => Layer::Ip,
            Self::Tap | Self::Vlan => Layer::Ethernet,
        }
    }
}

/// Two namespaces with a device each.
struct Lab {
    names: [String; 2],
    devices: [Arc<Tun>; 2],
}

impl Lab {
    fn new(tag: &str, link: Link) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("root", "namespaces and devices need it");
            return None;
        }
        if link == Link::Vlan && !has_vlans() {
            skip("vlan", "the kernel needs VLAN devices (8021q)");
            return None;
        }
        let names = ["a", "b"].map(|side| format!("vnet{}{tag}{link:?}{side}", std::process::id()));
        let devices = [0, 1].map(|side| {
            ip_tool(&["netns", "add", &names[side]]);
            let tun = inside(&names[side], move || {
                Tun::open_offload(link.layer(), Some("vt"), true).unwrap()
            });
            let tun = Arc::new(tun.join().unwrap());
            let netns = names[side].as_str();
            let device = if link == Link::Vlan { "vt.7" } else { "vt" };
            if link == Link::Vlan {
                let (link, vlan) = (["-n", netns, "link", "add", "link", "vt"], ["type", "vlan"]);
                ip_tool(&[&link[..], &["name", device], &vlan, &["id", "7"]].concat());
            }
            for (pair, length) in ADDRESSES.iter().zip([24, 64]) {
                let addr = format!("{}/{length}", pair[side]);
                let no_dad = if length == 64 { &["nodad"][..] } else { &[] };
                let add = ["-n", netns, "addr", "add", &addr, "dev", device];
                ip_tool(&[&add[..], no_dad].concat());
            }
            ip_tool(&[
                "-n",
                netns,
                "link",
                "set",
                "vt",
                "mtu",
                &MTU.to_string(),
                "up",
            ]);
            if device != "vt" {
                ip_tool(&["-n", netns, "link", "set", device, "up"]);
            }
            tun
        });
        let lab = Self { names, devices };
        if !lab.devices[0].offloads().vnet {
            skip("offloads", "the kernel needs IFF_VNET_HDR for TUN devices");
            return None;
        }
        Some(lab)
    }

    fn pump(&self, checksums: Checksums, damage_every: usize) -> Pump {
        let stop = Arc::new(EventFd::new().unwrap());
        let (devices, stopped) = (self.devices.clone(), stop.clone());
        let thread = thread::spawn(move || pump(&devices, &stopped, checksums, damage_every));
        Pump { stop, thread }
    }

    /// Sends bytes over TCP from one side to the other, which must have the same at the end.
    fn transfer(&self, from: &str, to: &str, length: u32) {
        let sent: Vec<u8> = (0..length).map(|i| (i ^ i >> 8 ^ i >> 16) as u8).collect();
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let listener = inside(&self.names[1], move || TcpListener::bind((to, 0)).unwrap());
        let listener = listener.join().unwrap();
        let addr = listener.local_addr().unwrap();
        let received = thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            assert_eq!(peer.ip(), from);
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        });
        let expected = sent.clone();
        let sender = inside(&self.names[0], move || {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.write_all(&sent).unwrap();
        });
        sender.join().unwrap();
        assert!(received.join().unwrap() == expected, "the bytes are others");
    }

    /// Sends runs of datagrams, which must arrive with their lengths and contents.
    fn datagrams(&self, from: &str, to: &str) {
        let to: IpAddr = to.parse().unwrap();
        let receiver = inside(&self.names[1], move || UdpSocket::bind((to, 0)).unwrap());
        let receiver = receiver.join().unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let addr = receiver.local_addr().unwrap();
        let from = SocketAddr::new(from.parse().unwrap(), 0);
        let runs = [(1000, 9500), (1000, 700), (200, 4000), (1300, 20_000)];
        let run = |i: usize, length: usize| vec![i as u8 + 1; length];
        let sender = inside(&self.names[0], move || {
            let socket = udp::UdpSocket::bind(from, &SocketOptions::default()).unwrap();
            for (i, (segment, length)) in runs.into_iter().enumerate() {
                let size = if socket.max_segments() > 1 {
                    length
                } else {
                    segment
                };
                for data in run(i, length).chunks(size) {
                    socket.send(addr, data, segment).unwrap();
                }
            }
        });
        let mut buffer = [0; 3000];
        for (i, (segment, length)) in runs.into_iter().enumerate() {
            for datagram in run(i, length).chunks(segment) {
                let (got, _) = receiver.recv_from(&mut buffer).unwrap();
                assert_eq!(&buffer[..got], datagram);
            }
        }
        sender.join().unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            ip_tool(&["netns", "del", name]);
        }
    }
}

/// Both directions between two devices, in a thread.
struct Pump {
    stop: Arc<EventFd>,
    thread: JoinHandle<Counts>,
}

impl Pump {
    fn stop(self) -> Counts {
        self.stop.signal().unwrap();
        self.thread.join().unwrap()
    }
}

#[derive(Debug, Default)]
struct Counts {
    segments: usize,
    writes: usize,
    longest_read: usize,
    longest_written: usize,
    damaged: usize,
}

fn pump(
    devices: &[Arc<Tun>; 2],
    stop: &EventFd,
    checksums: Checksums,
    damage_every: usize,
) -> Counts {
    const STOP: u64 = 2;
    let epoll = Epoll::new().unwrap();
    epoll.add(devices[0].as_fd(), 0).unwrap();
    epoll.add(devices[1].as_fd(), 1).unwrap();
    epoll.add(stop.as_fd(), STOP).unwrap();
    let mut counts = Counts::default();
    let mut coalescers = devices
        .each_ref()
        .map(|tun| Coalescer::new(tun.offloads().uso));
    let (mut buffer, mut slot) = (vec![0; 65_600], vec![0; 65_600]);
    let mut ready = Vec::new();
    loop {
        epoll
            .wait(&mut ready, Some(Duration::from_secs(1)))
            .unwrap();
        if ready.contains(&STOP) {
            return counts;
        }
        for side in ready.iter().map(|side| *side as usize) {
            let (from, to) = (&devices[side], &devices[1 - side]);
            let coalescer = &mut coalescers[side];
            for _ in 0..16 {
                let (header, length) = match from.read_super(&mut buffer) {
                    Ok(read) => read,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                };
                counts.longest_read = counts.longest_read.max(length);
                let at = match from.layer() {
                    Layer::Ip => 0,
                    Layer::Ethernet | Layer::Routed => ether::ip_at(&buffer[..length]),
                };
                let mut segments = Segments::new(&header, &buffer[..length], at).unwrap();
                if checksums == Checksums::Vouched {
                    segments.vouch();
                }
                let left = segments.checksums();
                while let Some(length) = segments.next_into(&mut slot) {
                    counts.segments += 1;
                    let packet = &mut slot[..length];
                    if damage_every > 0 && length > 200 && counts.segments % damage_every == 0 {
                        packet[length - 1] ^= 0x10;
                        counts.damaged += 1;
                    }
                    coalescer.push(packet, at, left, |h, p| write(to, h, p, &mut counts));
                }
            }
            coalescer.flush(|header, packet| write(to, header, packet, &mut counts));
        }
    }
}

fn write(to: &Tun, header: &Header, packet: &[u8], counts: &mut Counts) {
    counts.writes += 1;
    counts.longest_written = counts.longest_written.max(packet.len());
    to.write_super(header, packet).unwrap();
}

/// True if the kernel can make a VLAN device.
fn has_vlans() -> bool {
    let netns = format!("vnet{}vlans", std::process::id());
    ip_tool(&["netns", "add", &netns]);
    let add = ["-n", &netns, "link", "add", "link", "lo", "name", "v"];
    let vlan = ["type", "vlan", "id", "7"];
    let made = Command::new("ip").args(add).args(vlan).output().unwrap();
    ip_tool(&["netns", "del", &netns]);
    made.status.success()
}

/// Runs something in a namespace.
fn inside<T: Send + 'static>(
    netns: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let namespace = std::fs::File::open(format!("/run/netns/{netns}")).unwrap();
    thread::spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).unwrap();
        run()
    })
}

fn ip_tool(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}");
}
