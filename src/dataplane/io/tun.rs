//! TUN and TAP devices: one packet per call or, with offloads, one super-packet. No packet-info
//! header.

#![expect(unsafe_code, reason = "ioctls that no crate wraps")]

use std::{
    borrow::Cow,
    ffi::{c_int, c_uint},
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    ioctl::{self, IntegerSetter, Opcode, Setter, Updater, opcode},
    net::{AddressFamily, SocketType},
};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::io::{
    neighbour_proxy::Station,
    vnet::{HEADER_LEN, Header},
};

/// Work that the kernel may leave to us (linux/if_tun.h, TUN_F_*): checksums, TCP over IPv4 and
/// IPv6, TCP with CWR, UDP over IPv4 and IPv6.
const CSUM: c_uint = 0x01;
const TSO: c_uint = 0x02 | 0x04;
const TSO_ECN: c_uint = 0x08;
const USO: c_uint = 0x20 | 0x40;

/// Interface that a descriptor is a queue of, and its flags (linux/if_tun.h).
const TUNGETIFF: Opcode = opcode::read::<c_uint>(b'T', 210);
const IFF_TUN: u16 = 0x0001;
const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_VNET_HDR: u16 = 0x4000;
/// MTU and hardware address of an interface (linux/sockios.h).
const SIOCGIFMTU: Opcode = 0x8921;
const SIOCGIFHWADDR: Opcode = 0x8927;

/// Content of a device's reads and writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layer {
    /// IP packets: a TUN device.
    #[default]
    Ip,
    /// Ethernet frames, including tags of 802.1Q: a TAP device.
    Ethernet,
    /// A TAP device for the router. Reads return Ethernet frames, of which only IP packets and
    /// neighbour queries are used. Writes take IP packets.
    Routed,
}

/// Form of written packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Unchanged.
    Plain,
    /// Behind a virtio header.
    Vnet,
    /// In a frame for our kernel.
    Framed,
}

/// An open TUN or TAP device, which vanishes with its last queue. Reads and writes never block.
pub struct Tun {
    device: OwnedFd,
    name: String,
    layer: Layer,
    form: Form,
    offloads: TunOffloads,
    /// The kernel's side of the device, in [`Layer::Routed`].
    station: Arc<Station>,
}

/// Offloads of a device: work done in one call instead of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunOffloads {
    /// True if packets have a virtio header, and checksums may be left to the other side.
    pub vnet: bool,
    /// True if TCP is read in super-packets. TCP super-packets may be written whenever `vnet` is
    /// set.
    pub tso: bool,
    /// True if UDP is read in super-packets, and may be written so (Linux 6.2 or later).
    pub uso: bool,
}

impl Tun {
    /// Opens the device `name`, or one that the kernel names. The device stays down: `tinc-up` or
    /// netlink sets it up. `multi_queue` allows more queues later.
    pub fn open(layer: Layer, name: Option<&str>, multi_queue: bool) -> io::Result<Self> {
        let device = builder(layer, name, multi_queue).build_sync()?;
        Self::from_device(device, layer)
    }

    /// Works as [`Self::open`], with the offloads of the kernel; [`Self::offloads`] returns them.
    /// Without offloads the device is the same as from [`Self::open`].
    pub fn open_offload(layer: Layer, name: Option<&str>, multi_queue: bool) -> io::Result<Self> {
        let device = builder(layer, name, multi_queue).offload(true).build_sync();
        match device.and_then(|device| Self::from_device(device, layer)) {
            Ok(tun) => Ok(tun),
            Err(_) => Self::open(layer, name, multi_queue),
        }
    }

    /// Opens one more queue of a device with several.
    pub fn add_queue(&self) -> io::Result<Self> {
        let device = builder(self.layer, Some(&self.name), true);
        let device = device.offload(self.offloads.vnet).build_sync()?;
        Ok(Self::from_device(device, self.layer)?.beside(self))
    }

    /// Returns true if a descriptor is a queue of a device of this layer, and of this name if one
    /// is given.
    #[must_use]
    pub fn is_queue_of(device: impl AsFd, layer: Layer, name: Option<&str>) -> bool {
        let kind = match layer {
            Layer::Ip => IFF_TUN,
            Layer::Ethernet | Layer::Routed => IFF_TAP,
        };
        attached(device).is_ok_and(|request| {
            request.flags() & (IFF_TUN | IFF_TAP) == kind
                && name.is_none_or(|name| request.name() == name)
        })
    }

    /// Takes over a kept queue of a device that [`Self::open_offload`] opened. The caller has
    /// checked [`Self::is_queue_of`].
    pub fn adopt(device: OwnedFd, layer: Layer) -> io::Result<Self> {
        let vnet = attached(&device)?.flags() & IFF_VNET_HDR != 0;
        rustix::io::ioctl_fionbio(&device, true)?;
        let uso = vnet && set_offload(&device, CSUM | TSO | USO).is_ok();
        let offloads = TunOffloads {
            vnet,
            tso: vnet,
            uso,
        };
        Self::with_offloads(device, layer, offloads)
    }

    /// Returns true if this is a queue of a device that may have several.
    #[must_use]
    pub fn has_several(&self) -> bool {
        attached(&self.device).is_ok_and(|request| request.flags() & IFF_MULTI_QUEUE != 0)
    }

    /// Makes this queue share the station of the device of `first`.
    #[must_use]
    pub fn beside(self, first: &Self) -> Self {
        Self {
            station: Arc::clone(&first.station),
            ..self
        }
    }

    /// Returns the device's name in the kernel.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the layer of the device.
    #[must_use]
    pub const fn layer(&self) -> Layer {
        self.layer
    }

    /// Returns the kernel's side of the device, in [`Layer::Routed`].
    #[must_use]
    pub fn station(&self) -> &Station {
        &self.station
    }

    /// Returns the offloads of the device.
    #[must_use]
    pub const fn offloads(&self) -> TunOffloads {
        self.offloads
    }

    /// Returns the MTU of the device in bytes.
    pub fn mtu(&self) -> io::Result<u16> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let mut request = attached(&self.device)?;
        interface::<SIOCGIFMTU>(socket, &mut request)?;
        let [a, b, c, d, ..] = request.value;
        u16::try_from(i32::from_ne_bytes([a, b, c, d])).map_err(io::Error::other)
    }

    /// Reads one packet; `WouldBlock` if none waits. A packet longer than `buffer` is cut.
    ///
    /// # Errors
    /// `Unsupported` for a device with offloads: its reads are incomplete without the header.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.offloads.vnet {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(rustix::io::read(&self.device, buffer)?)
    }

    /// Reads one packet or super-packet of up to [`super::vnet::MAX_PACKET`] bytes, behind its
    /// Ethernet header if it has one. A packet longer than `buffer` is cut. A device without
    /// offloads returns only ordinary packets.
    ///
    /// # Errors
    /// `WouldBlock` if none waits. `InvalidData` if the header of a packet is invalid; that packet
    /// is dropped, and the next one may be read.
    pub fn read_super(&self, buffer: &mut [u8]) -> io::Result<(Header, usize)> {
        if !self.offloads.vnet {
            return Ok((Header::default(), self.read(buffer)?));
        }
        let mut header = [0; HEADER_LEN];
        let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
        let read = rustix::io::readv(&self.device, &mut parts)?;
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let length = read
            .checked_sub(HEADER_LEN)
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok((Header::parse(&header).map_err(invalid)?, length))
    }

    /// Writes one packet.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        self.write_super(&Header::default(), packet)
    }

    /// Writes one packet or super-packet.
    ///
    /// # Errors
    /// `Unsupported` if the header requests an offload and the device has none.
    pub fn write_super(&self, header: &Header, packet: &[u8]) -> io::Result<()> {
        if self.form == Form::Vnet {
            let header = header.to_bytes();
            let parts = [IoSlice::new(&header), IoSlice::new(packet)];
            rustix::io::writev(&self.device, &parts)?;
        } else if self.form == Form::Framed {
            let link = self.station.header_for(packet);
            return self.write_behind(&header.behind_link(), &link, packet);
        } else if *header == Header::default() {
            rustix::io::write(&self.device, packet)?;
        } else {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(())
    }

    /// Writes one whole frame to a device of [`Layer::Routed`].
    pub fn write_frame(&self, frame: &[u8]) -> io::Result<()> {
        self.write_behind(&Header::default(), &[], frame)
    }

    fn write_behind(&self, header: &Header, link: &[u8], packet: &[u8]) -> io::Result<()> {
        let vnet = header.to_bytes();
        let parts = [&vnet, link, packet].map(IoSlice::new);
        let first = match self.offloads.vnet {
            true => 0,
            false if *header == Header::default() => 1,
            false => return Err(io::ErrorKind::Unsupported.into()),
        };
        rustix::io::writev(&self.device, &parts[first..])?;
        Ok(())
    }

    fn from_device(device: SyncDevice, layer: Layer) -> io::Result<Self> {
        device.set_nonblocking(true)?;
        let offloads = TunOffloads {
            vnet: device.tcp_gso(),
            tso: device.tcp_gso(),
            uso: device.udp_gso(),
        };
        // SAFETY: the device gives up its descriptor, which is open and has no other owner.
        let device = unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) };
        Self::with_offloads(device, layer, offloads)
    }

    fn with_offloads(device: OwnedFd, layer: Layer, offloads: TunOffloads) -> io::Result<Self> {
        if offloads.vnet {
            set_header_len(&device)?;
            // Without this flag the kernel itself cuts the few super-packets with CWR.
            let uso = if offloads.uso { USO } else { 0 };
            let _ = set_offload(&device, CSUM | TSO | TSO_ECN | uso);
        }
        let mut request = attached(&device)?;
        let name = request.name().into_owned();
        let form = match layer {
            Layer::Routed => Form::Framed,
            _ if offloads.vnet => Form::Vnet,
            _ => Form::Plain,
        };
        let mut mac = [0; 6];
        if layer == Layer::Routed {
            // A struct sockaddr: two bytes of family, then the address.
            interface::<SIOCGIFHWADDR>(&device, &mut request)?;
            mac.copy_from_slice(&request.value[2..8]);
        }
        Ok(Self {
            device,
            name,
            layer,
            form,
            offloads,
            station: Arc::new(Station::new(mac)),
        })
    }
}

fn builder(layer: Layer, name: Option<&str>, multi_queue: bool) -> DeviceBuilder {
    let builder = DeviceBuilder::new()
        .layer(match layer {
            Layer::Ip => tun_rs::Layer::L3,
            Layer::Ethernet | Layer::Routed => tun_rs::Layer::L2,
        })
        .packet_information(false)
        .multi_queue(multi_queue)
        .inherit_enable_state();
    match name {
        Some(name) => builder.name(name),
        None => builder,
    }
}

/// A struct ifreq: the name of an interface and one value (netdevice(7)).
#[repr(C)]
struct Request {
    name: [u8; 16],
    value: [u8; 24],
}

impl Request {
    fn name(&self) -> Cow<'_, str> {
        let end = self.name.iter().position(|byte| *byte == 0);
        String::from_utf8_lossy(&self.name[..end.unwrap_or(self.name.len())])
    }

    /// Returns the flags that `TUNGETIFF` stores in the value (linux/if_tun.h).
    fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.value[0], self.value[1]])
    }
}

/// Returns the interface that a queue belongs to, under its current name.
fn attached(device: impl AsFd) -> io::Result<Request> {
    let mut request = Request {
        name: [0; 16],
        value: [0; 24],
    };
    interface::<TUNGETIFF>(device, &mut request)?;
    Ok(request)
}

/// Makes an ioctl that reads and writes a struct ifreq.
fn interface<const OPCODE: Opcode>(fd: impl AsFd, request: &mut Request) -> io::Result<()> {
    // SAFETY: all opcodes used in this file take a pointer to a struct ifreq.
    let request = unsafe { Updater::<'_, OPCODE, Request>::new(request) };
    // SAFETY: the request is as long as the kernel's struct ifreq on 64-bit systems, and longer
    // than on others.
    Ok(unsafe { ioctl::ioctl(fd, request) }?)
}

/// `TUNSETOFFLOAD`: sets the work that the kernel may leave to us.
fn set_offload(device: impl AsFd, offload: c_uint) -> io::Result<()> {
    // SAFETY: the opcode is that of TUNSETOFFLOAD, which takes an integer.
    let request = unsafe {
        IntegerSetter::<{ opcode::write::<c_uint>(b'T', 208) }>::new_usize(offload as usize)
    };
    // SAFETY: the request points to nothing.
    Ok(unsafe { ioctl::ioctl(device, request) }?)
}

/// `TUNSETVNETHDRSZ`: sets the header length, because an earlier user of the device may have set a
/// longer one.
fn set_header_len(device: impl AsFd) -> io::Result<()> {
    // SAFETY: the opcode is that of TUNSETVNETHDRSZ, which reads an int.
    let request =
        unsafe { Setter::<{ opcode::write::<c_int>(b'T', 216) }, c_int>::new(HEADER_LEN as c_int) };
    // SAFETY: the request points to an int of its own.
    Ok(unsafe { ioctl::ioctl(device, request) }?)
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tun {}", self.name)
    }
}
