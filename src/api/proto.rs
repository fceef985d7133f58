//! The lines of the control socket, versioned. A line is at most [`MAX_LINE`] bytes.

use serde::{Deserialize, Serialize};

use meshd_proto::{dialect::Dialect, mesh::reports::facts::PathKind};

use crate::{
    call::Request,
    report::{NodeReport, PathReport, RefusedRow},
    rows::PeerRow,
    why::PathBetween,
};

pub use meshd_proto::mesh::reports::view::{
    ConnectionRow, EdgeRow, MeshStatus, NodeRow, PacketKind, RouteRow, SubnetRow,
};

pub use crate::change::{Change, ChangeKind, When};

/// Version of this protocol. A daemon answers a request of another version with [`ErrorCode::Version`].
pub const VERSION: u32 = 1;
/// Longest line in bytes.
pub const MAX_LINE: usize = 1 << 20;

/// Maximum bytes of each packet in a capture.
pub const MAX_SNAP: usize = 262_144;

/// One request line: `{"v":1,"cmd":"peers"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`VERSION`].
    pub v: u32,
    /// The request.
    #[serde(flatten)]
    pub request: Request,
}

/// One response line: `{"v":1,"net":…,"node":…,"time":…,"peers":[…]}` or an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer<T = Response> {
    /// [`VERSION`].
    pub v: u32,
    /// The net name, if the daemon has one.
    pub net: Option<String>,
    /// The daemon's node name.
    pub node: String,
    /// Wall time of the answer, RFC 3339, UTC.
    pub time: String,
    /// The answer itself.
    #[serde(flatten)]
    pub response: T,
}

/// The content of an answer: the type in one variant of [`Response`].
pub trait Content: Sized {
    /// Makes the response.
    fn into_response(self) -> Response;
    /// Returns the content of a response; `None` if the response has another type.
    fn of_response(response: Response) -> Option<Self>;
}

/// Makes [`Response`] and the [`Content`] of each variant.
macro_rules! contents {
    ($( $name:ident($content:ty), )*) => {
        /// The answer itself. A row in [`crate::call`] holds the type of the answer to each request.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[expect(missing_docs, reason = "each variant is documented by its content")]
        pub enum Response {
            $( $name($content), )*
        }

        $(
            impl Content for $content {
                fn into_response(self) -> Response {
                    Response::$name(self)
                }

                fn of_response(response: Response) -> Option<Self> {
                    match response {
                        Response::$name(content) => Some(content),
                        _ => None,
                    }
                }
            }
        )*
    };
}

contents! {
    Peers(Vec<PeerRow>),
    Status(Box<DaemonStatus>),
    Subnets(Vec<SubnetRow>),
    Route(RouteRow),
    Nodes(Vec<NodeRow>),
    Edges(Vec<EdgeRow>),
    Connections(Vec<ConnectionRow>),
    Metrics(String),
    Log(LogLine),
    Capturing(Capturing),
    Captured(Captured),
    Reloaded(Reloaded),
    Plan(Box<Planned>),
    Sight(Box<NodeReport>),
    Why(Box<PathBetween>),
    Refused(Vec<RefusedRow>),
    Told(Option<Box<PathReport>>),
    Ping(Pong),
    Done(bool),
    Error(ControlError),
}

/// State of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// meshd's version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_seconds: f64,
    /// Name of the device, if one exists.
    pub interface: Option<String>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// Addresses of our listening sockets, `ADDR:PORT`.
    pub listen: Vec<String>,
    /// Configured addresses without a working socket, each with the reason.
    #[serde(default)]
    pub not_listening: Vec<String>,
    /// Our public key, as host files write it.
    pub public_key: String,
    /// Best protocol that we offer: legacy without an Ed25519 key, SPTPS with `Native = no`.
    #[serde(default)]
    pub offers: Option<Dialect>,
    /// MinProtocol of tinc.conf, if it is set.
    #[serde(default)]
    pub min_protocol: Option<Dialect>,
    /// Configuration directory.
    pub config: String,
    /// Packet threads.
    pub workers: usize,
    /// Packet-path techniques in use, as words: `tun_tso`, `tun_uso`, `udp_gso`, `udp_gro`,
    /// `recvmmsg`.
    pub offloads: Vec<String>,
    /// Techniques that the kernel or the device lacks.
    #[serde(default)]
    pub offloads_missing: Vec<String>,
    /// The packet threads.
    #[serde(default)]
    pub threads: Vec<ThreadRow>,
    /// Dropped packets by reason (snake case), without zeros.
    pub drops: std::collections::BTreeMap<String, u64>,
    /// Request lines over links since start, by type in the protocol's words: received, then sent.
    #[serde(default)]
    pub messages: std::collections::BTreeMap<String, [u64; 2]>,
    /// Bytes in output queues of links.
    #[serde(default)]
    pub meta_queue_bytes: usize,
    /// State of the mesh.
    pub mesh: MeshStatus,
    /// Warnings about the configuration in force.
    pub problems: Vec<String>,
    /// System calls that the sandbox has refused since the start, by name.
    #[serde(default)]
    pub refused_calls: std::collections::BTreeMap<String, u64>,
}

/// One packet thread.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadRow {
    /// Name of the thread, as `top -H` shows it.
    pub name: String,
    /// True if the thread has a queue of the device.
    pub device: bool,
    /// Its UDP sockets, `ADDR:PORT`.
    pub sockets: Vec<String>,
    /// Number of wake-ups since start; they are at most a second apart.
    pub beats: u64,
    /// Seconds since `beats` last grew, checked once a second; `None`: not checked yet.
    pub beat_age_seconds: Option<f64>,
    /// Processor time in seconds since start; `None` if /proc does not report it.
    #[serde(default)]
    pub run_seconds: Option<f64>,
    /// Packets that the thread dropped, by reason, as in [`DaemonStatus::drops`].
    pub drops: std::collections::BTreeMap<String, u64>,
}

/// One log line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Wall time, RFC 3339, UTC.
    pub time: String,
    /// `error`, `warn`, `info`, `debug`.
    pub level: String,
    /// The text with its fields.
    pub text: String,
}

/// A capture has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capturing {
    /// True if inner packets are Ethernet frames (switch and hub mode).
    pub frames: bool,
}

/// Packets, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The packets.
    pub packets: Vec<PacketRow>,
    /// Packets lost since the start of the capture because the client read too slowly, by kind.
    pub dropped: std::collections::BTreeMap<PacketKind, u64>,
}

/// A captured packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketRow {
    /// Wall time in nanoseconds since 1970.
    pub time_ns: u64,
    /// Kind of the packet.
    pub kind: PacketKind,
    /// Node of its tunnel, address or link, if known.
    pub peer: Option<String>,
    /// True if we received the packet from that node.
    pub received: bool,
    /// Our address, `ADDR:PORT`; none for inner packets. For datagrams, the address that the kernel would choose.
    pub local: Option<std::net::SocketAddr>,
    /// Address of the other end, in the same form.
    pub remote: Option<std::net::SocketAddr>,
    /// Length in bytes.
    pub length: usize,
    /// First bytes of the packet: the IP packet or frame of an inner one, the UDP payload of an outer one, the line
    /// without LF and keys of a meta one. Base64 (RFC 4648 section 4).
    pub data: String,
}

/// Result of a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Changes: our own first, then those of host files by name.
    pub changed: Vec<Change>,
    /// Variables that changed and need a restart.
    pub restart_needed: Vec<String>,
    /// Warnings and errors that cost one node only.
    pub problems: Vec<String>,
    /// Host files that were not applied, as paths relative to the configuration directory.
    #[serde(default)]
    pub not_taken: Vec<String>,
}

/// Expected result of a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Changes: our own first, then those of host files by name.
    pub changed: Vec<Change>,
    /// Variables that changed and need a restart.
    pub restart_needed: Vec<String>,
    /// Warnings and errors that cost one node only.
    pub problems: Vec<String>,
    /// Reachable nodes that a reload would disconnect.
    pub cut: Vec<String>,
    /// Number of reachable nodes.
    pub live: usize,
    /// Number of nodes that a reload may disconnect without `yes`.
    pub may_cut: usize,
    /// Reason why a reload would be refused.
    pub refused: Option<String>,
}

/// One measured round trip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// Round trip in seconds; `None`: no answer in time.
    pub rtt_seconds: Option<f64>,
    /// Path of the probe.
    pub path: PathKind,
    /// Address of the endpoint, or name of the relay.
    pub endpoint: Option<String>,
    /// Known path MTU, in bytes of an inner IP packet.
    pub pmtu_bytes: Option<u16>,
}

/// Reason why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlError {
    /// Code for programs.
    pub code: ErrorCode,
    /// One sentence for people.
    pub text: String,
}

/// Kinds of errors; meshctl derives its exit code from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Another protocol version.
    Version,
    /// The line is not a request.
    Malformed,
    /// The caller lacks the permission.
    Permission,
    /// No such node, subnet or address.
    Unknown,
    /// The configuration on disk is invalid; the old one stays in force.
    Config,
    /// The reload would disconnect too many nodes, or nothing is left to confirm or undo.
    Refused,
    /// Too many clients, or the daemon is stopping.
    Busy,
}
