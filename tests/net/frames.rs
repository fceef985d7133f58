//! Single Ethernet frames, through the port of a bridge whose other port is a daemon's device.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use meshd::{
    io::tun::{Layer, Tun},
    wire::ether::{Frame, Mac},
};

use crate::{
    node::{Node, PATIENCE},
    world::wait_until,
};

/// EtherType of our frames: for experiments (IEEE 802), so nobody else's are like them.
const TYPE: [u8; 2] = [0x88, 0xb5];

/// The broadcast address.
pub(crate) const ALL: Mac = [0xff; 6];

/// The end of a cable in a bridge on a node's host: what is sent here the daemon gets from its device.
pub(crate) struct Port {
    device: Tun,
}

impl Port {
    /// Makes the bridge `br0`, to which the device and its addresses move. Its daemon must run.
    pub(crate) fn new(node: &Node) -> Self {
        let host = &node.host;
        let open = || Tun::open(Layer::Ethernet, Some("port0"), false).unwrap();
        let device = host.inside(open).join().unwrap();
        host.ip("link add name br0 type bridge mcast_snooping 0 forward_delay 0 ageing_time 0");
        // What our kernel says by itself is not what is looked at.
        host.ip("link set dev port0 addrgenmode none");
        host.ip("address flush dev mesh0");
        for port in ["mesh0", "port0"] {
            host.ip(&format!("link set dev {port} master br0 up"));
        }
        host.ip("link set dev br0 up");
        host.ip(&format!("address add {}/24 dev br0", node.v4()));
        host.ip(&format!("-6 address add {}/64 dev br0 nodad", node.v6()));
        Self { device }
    }

    /// Sends a frame with a number and `length` bytes of payload.
    pub(crate) fn send(&self, from: Mac, to: Mac, number: u32, length: usize) {
        self.send_tagged(from, to, &[], number, length);
    }

    /// As [`Self::send`], with tags between addresses and type.
    pub(crate) fn send_tagged(&self, from: Mac, to: Mac, tags: &[u8], number: u32, length: usize) {
        let mut frame = [&to[..], &from, tags, &TYPE].concat();
        frame.extend(number.to_be_bytes());
        frame.extend((4..length).map(|i| i as u8));
        self.device.write(&frame).unwrap();
    }

    /// Our frames that have come since the last call.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        let (mut frames, mut buffer) = (Vec::new(), [0; 2000]);
        while let Ok(length) = self.device.read(&mut buffer) {
            let frame = &buffer[..length];
            if Frame::parse(frame).is_some_and(|f| f.ether_type() == u16::from_be_bytes(TYPE)) {
                frames.push(frame.to_vec());
            }
        }
        frames
    }

    /// How often the frame of each number has come since the last call.
    pub(crate) fn numbers(&self) -> BTreeMap<u32, usize> {
        let mut numbers = BTreeMap::new();
        for frame in self.received() {
            let at = Frame::parse(&frame).unwrap().payload_at();
            let number = u32::from_be_bytes(*frame[at..].first_chunk().unwrap());
            *numbers.entry(number).or_default() += 1;
        }
        numbers
    }

    /// Sends until a frame arrives at `to`.
    pub(crate) fn wait_through(&self, from: Mac, mac: Mac, to: &Self) {
        wait_until("a frame gets through", PATIENCE, || {
            self.send(from, mac, 0, 60);
            thread::sleep(Duration::from_millis(50));
            match to.received().is_empty() {
                true => Err("nothing came".into()),
                false => Ok(()),
            }
        });
        // What is still under way.
        thread::sleep(Duration::from_millis(500));
        to.received();
    }
}

/// Sends `count` frames to all from one port, and says how often each has come to every port.
pub(crate) fn broadcast(ports: &[Port], from: usize, mac: Mac, count: u32) -> Vec<Vec<usize>> {
    for port in ports {
        port.received();
    }
    let mut seen = vec![BTreeMap::<u32, usize>::new(); ports.len()];
    let look = |seen: &mut Vec<BTreeMap<u32, usize>>| {
        for (port, seen) in ports.iter().zip(seen) {
            for (number, times) in port.numbers() {
                *seen.entry(number).or_default() += times;
            }
        }
    };
    for number in 0..count {
        ports[from].send(mac, ALL, number, 100);
        thread::sleep(Duration::from_millis(20));
        look(&mut seen);
    }
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(50));
        look(&mut seen);
    }
    seen.into_iter()
        .map(|seen| {
            (0..count)
                .map(|n| seen.get(&n).copied().unwrap_or(0))
                .collect()
        })
        .collect()
}
