//! Opens the device, or takes over one that was kept over a restart.

use std::{io, path::Path};

use anyhow::Context;
use rustix::net::netdevice;

use meshd_config::{DeviceType, Shell};
use meshd_dataplane::io::tun::{Layer, Tun, TunOffloads};
use meshd_proto::route::Mode;

use crate::{
    fdstore::{self, Kept},
    startup::open::{patiently, workers},
};

/// The clone device of the kernel.
const CLONE: &str = "/dev/net/tun";

/// The queues of the device.
#[derive(Debug, Default)]
pub(crate) struct Device {
    /// One queue for each worker; empty if the configuration has no device.
    pub(crate) queues: Vec<Tun>,
    /// True if the device was kept over a restart.
    pub(crate) kept: bool,
}

/// Returns the device's layer; `None` without a device.
pub(super) fn layer(shell: &Shell, mode: Mode) -> Option<Layer> {
    match shell.device_type {
        DeviceType::Dummy => None,
        DeviceType::Tap if mode == Mode::Router => Some(Layer::Routed),
        DeviceType::Tap => Some(Layer::Ethernet),
        DeviceType::Tun => Some(Layer::Ip),
    }
}

/// Opens the device of this mode, with a queue for each worker. Returns none without a device, and one queue if the
/// device was made for one. Takes over a device that was kept over a restart, with its settings.
pub(crate) async fn open_device(
    shell: &Shell,
    mode: Mode,
    kept: &mut Kept,
) -> anyhow::Result<Device> {
    let Some(layer) = layer(shell, mode) else {
        return Ok(Device::default());
    };
    if let Some(device) = shell
        .device
        .as_deref()
        .filter(|path| *path != Path::new(CLONE))
    {
        tracing::warn!(device = %device.display(), "meshd always uses {CLONE} as Device; remove the line");
    }
    let interface = shell.interface.as_deref();
    let workers = workers(shell);
    let mut device = adopt_device(layer, interface, workers, kept);
    let old = device.queues.len();
    if device.queues.is_empty() {
        let gone = || match interface.is_some_and(exists) {
            true => Err(io::ErrorKind::AddrInUse.into()),
            false => Ok(()),
        };
        let _ = patiently(kept.has_released(fdstore::TUN), gone).await;
        device
            .queues
            .push(make_device(layer, interface, workers > 1)?);
    }
    let first = &device.queues[0];
    let missing = match first.has_several() {
        true => workers.saturating_sub(device.queues.len()),
        false => 0,
    };
    let more: Vec<Tun> = (0..missing).map_while(|_| first.add_queue().ok()).collect();
    device.queues.extend(more);
    for queue in &device.queues[old..] {
        kept.keep(fdstore::TUN, queue);
    }
    let TunOffloads { tso, uso, .. } = device.queues[0].offloads();
    let (name, queues, kept) = (device.queues[0].name(), device.queues.len(), device.kept);
    tracing::info!(interface = name, queues, tso, uso, kept, "device is open");
    Ok(device)
}

/// True if an interface of this name exists.
fn exists(name: &str) -> bool {
    let family = rustix::net::AddressFamily::INET;
    let socket = rustix::net::socket(family, rustix::net::SocketType::DGRAM, None);
    socket.is_ok_and(|socket| netdevice::name_to_index(&socket, name).is_ok())
}

/// Takes over the queues of a kept device, at most `most`; none if none fits.
fn adopt_device(layer: Layer, interface: Option<&str>, most: usize, kept: &mut Kept) -> Device {
    let mut queues: Vec<Tun> = Vec::new();
    while queues.len() < most {
        let name = queues.first().map(Tun::name).or(interface);
        let Some(queue) = kept.take(fdstore::TUN, |fd| Tun::is_queue_of(fd, layer, name)) else {
            break;
        };
        match Tun::adopt(queue, layer) {
            Ok(queue) => queues.push(match queues.first() {
                Some(first) => queue.beside(first),
                None => queue,
            }),
            Err(error) => tracing::warn!(%error, "a queue of the device was lost"),
        }
    }
    Device {
        kept: !queues.is_empty(),
        queues,
    }
}

fn make_device(layer: Layer, interface: Option<&str>, several: bool) -> anyhow::Result<Tun> {
    let open = |several| Tun::open_offload(layer, interface, several);
    let several = several.then(|| open(true).ok()).flatten();
    several.map_or_else(|| open(false), Ok).with_context(|| {
        let name = interface.unwrap_or("of the kernel's choice");
        format!(
            "cannot open the device {name}; check that it is free and that meshd has CAP_NET_ADMIN"
        )
    })
}

/// Returns DEVICE and INTERFACE of scripts. Source: config/tinc.md section 6.9.
#[must_use]
pub(crate) fn device_names(tun: Option<&Tun>) -> (String, String) {
    match tun {
        Some(tun) => (CLONE.into(), tun.name().into()),
        None => ("dummy".into(), "dummy".into()),
    }
}
