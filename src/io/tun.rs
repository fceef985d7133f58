//! The TUN device: one queue, one IP packet a call, no packet-info header.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// An open TUN device; it vanishes with the last queue. Readers and writers never block.
pub struct Tun {
    device: SyncDevice,
    name: String,
}

impl Tun {
    /// Opens the device `name`, or one that the kernel names. It is left down: `tinc-up` or netlink
    /// sets it up. `multi_queue` allows more queues later.
    pub fn open(name: Option<&str>, multi_queue: bool) -> io::Result<Self> {
        let mut builder = DeviceBuilder::new()
            .layer(Layer::L3)
            .packet_information(false)
            .multi_queue(multi_queue)
            .inherit_enable_state();
        if let Some(name) = name {
            builder = builder.name(name);
        }
        let device = builder.build_sync()?;
        device.set_nonblocking(true)?;
        let name = device.name()?;
        Ok(Self { device, name })
    }

    /// Its name in the kernel.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its MTU in bytes.
    pub fn mtu(&self) -> io::Result<u16> {
        self.device.mtu()
    }

    /// Reads one IP packet; `WouldBlock` if none waits. A packet longer than `buffer` is cut.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.device, buffer)?)
    }

    /// Writes one IP packet.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.device, packet)?;
        Ok(())
    }
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
