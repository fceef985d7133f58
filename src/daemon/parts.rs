//! Parts of the driver's state: what belongs together is in one of them.

use std::{path::PathBuf, sync::Arc, time::Instant};

use tokio::sync::mpsc;

use meshd_dataplane::{
    fastpath::{self, Queue, punt, tap::Tap},
    io::{
        tun::Tun,
        udp::{SocketOptions, UdpSocket},
    },
};
use meshd_proto::{mesh::Input, route::DropCounts};

use crate::{
    Event, Prepared, Reply,
    fdstore::Note,
    hooks::monitor::Monitor,
    listening::Listening,
    metrics::{Busy, drift::Drift},
    privileges,
    reload::{Past, queue},
    routes::RouteFollower,
    sandbox,
    services::Services,
    status::Pulse,
    systemd::Watchdog,
};

/// Sockets, queues of the device, and the packet threads over them.
pub(super) struct Net {
    pub(super) workers: Option<fastpath::Handle>,
    pub(super) tun: Option<Arc<Tun>>,
    pub(super) udp: Vec<Arc<UdpSocket>>,
    /// Queues of all workers; the first one's are also [`Self::tun`] and [`Self::udp`].
    pub(super) queues: Vec<Queue>,
    pub(super) options: SocketOptions,
    /// The actual listening port.
    pub(super) port: u16,
    pub(super) listeners: Vec<tokio::net::TcpListener>,
    pub(super) listening: Listening,
    /// Packets that the driver dropped.
    pub(super) drops: DropCounts,
    /// The capture, if one runs.
    pub(super) tap: Option<Arc<Tap>>,
}

/// The device outside of the packet threads: its scripts, its routes, and what a restart keeps.
pub(super) struct Device {
    /// The processes outside of our sandbox, before their first use.
    pub(super) prepared: Option<Prepared>,
    /// The script process, as the keeper of files that we cannot write any more.
    pub(super) keeper: Option<Monitor>,
    /// The process group of a running tinc-up.
    pub(super) tinc_up: Option<i32>,
    /// True after tinc-down has ended.
    pub(super) is_down: bool,
    pub(super) routes: Option<RouteFollower>,
    /// Time at which kept routes without an owner are removed after a restart.
    pub(super) routes_settle: Option<Instant>,
    pub(super) note: Note,
    pub(super) dropping: privileges::Drop,
    /// Pid file and sockets.
    pub(super) own: Vec<PathBuf>,
}

/// Start and stop of the daemon.
pub(super) struct Life {
    pub(super) started: Instant,
    /// Clients that wait for the stop.
    pub(super) stopping: Option<Vec<Reply>>,
    /// True while the daemon stops in order.
    pub(super) leaving: bool,
}

/// Reloads: the running ones, and the last one.
pub(super) struct Reloads {
    pub(super) queue: queue::Reloads,
    pub(super) past: Past,
    /// True if the last reload was applied.
    pub(super) worked: bool,
}

/// Events and inputs that wait for the next turn.
pub(super) struct Inbox {
    pub(super) events: mpsc::Sender<Event>,
    /// Queue of inputs from workers for the mesh.
    pub(super) punts: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    /// Inputs for the mesh from its own outputs.
    pub(super) inputs: Vec<Input>,
    /// Buffer of events.
    pub(super) batch: Vec<Event>,
}

impl Inbox {
    /// Makes an empty inbox with room for `batch` events of one turn.
    pub(super) fn new(events: mpsc::Sender<Event>, batch: usize) -> Self {
        Self {
            events,
            punts: mpsc::channel(punt::QUEUE),
            inputs: Vec::new(),
            batch: Vec::with_capacity(batch),
        }
    }
}

/// The daemon's observation of itself, its reports to the service manager, and its periodic work.
pub(super) struct Vitals {
    /// The part that talks to name services and the service manager.
    pub(super) services: Services,
    pub(super) watchdog: Watchdog,
    pub(super) pulse: Pulse,
    pub(super) busy: Busy,
    pub(super) drift: Drift,
    /// System calls that the sandbox refused.
    pub(super) refused: sandbox::ReportedCalls,
    /// Time of the next housekeeping.
    pub(super) tick: Instant,
    /// Time of the next fresh entropy.
    pub(super) entropy: Instant,
}
