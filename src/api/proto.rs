//! Requests and responses, versioned. A line is at most [`MAX_LINE`] bytes.

use serde::{Deserialize, Serialize};

use meshd_proto::{
    link::Dialect,
    mesh::reports::{
        path_report::{NodeReport, PathReport, RefusedRow},
        view::{
            ConnectionRow, EdgeRow, MeshStatus, NodeRow, PacketKind, PathKind, PeerRow, RouteRow,
            SubnetRow,
        },
    },
};

/// Version of this protocol. A daemon refuses a request of another one with [`ErrorCode::Version`].
pub const VERSION: u32 = 1;
/// Longest line in bytes.
pub const MAX_LINE: usize = 1 << 20;

/// Most bytes of each packet that a capture may want.
pub const MAX_SNAP: usize = 262_144;

/// One request line: `{"v":1,"cmd":"peers"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`VERSION`].
    pub v: u32,
    /// What is wanted.
    #[serde(flatten)]
    pub request: Request,
}

/// What a client may ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
pub enum Request {
    /// All nodes but ourselves.
    Peers,
    /// The daemon in one screen.
    Status,
    /// All subnets.
    Routes,
    /// Where one address leads.
    Route {
        /// The address.
        address: std::net::IpAddr,
    },
    /// `dump nodes`.
    Nodes,
    /// `dump edges`; `dump graph` is drawn from it and from the nodes.
    Edges,
    /// `dump subnets`.
    Subnets,
    /// `dump connections`.
    Connections,
    /// What is measured, in the text format of Prometheus.
    Metrics,
    /// Stream log lines until the client goes. Root only.
    Log {
        /// tinc's debug level, 0 to 10; `None`: the daemon's own.
        level: Option<u8>,
        /// Begin with the recorded lines of so many seconds.
        #[serde(default)]
        since_seconds: u64,
        /// End with them.
        #[serde(default)]
        past: bool,
    },
    /// Stream copies of packets until the client closes its half of the connection; one client at a time. Root only.
    Capture {
        /// Which.
        kinds: Vec<PacketKind>,
        /// Only those of this node.
        #[serde(default)]
        peer: Option<String>,
        /// Bytes of each that are wanted, at most [`MAX_SNAP`].
        snap: usize,
    },
    /// Read the configuration anew. Root only.
    Reload {
        /// Also where many nodes are cut by it.
        #[serde(default)]
        yes: bool,
        /// Go back to the old one unless [`Self::Confirm`] comes within so many seconds, at most 86,400.
        #[serde(default)]
        confirm_seconds: Option<u64>,
    },
    /// What a reload would do.
    Plan,
    /// Keep what the last reload changed. Root only.
    Confirm,
    /// Go back to the configuration before the last reload that changed something. Root only.
    Undo,
    /// Stop the daemon. Root only.
    Stop,
    /// Dial now. Root only.
    Retry,
    /// What we see of one node.
    Sight {
        /// The node.
        node: String,
    },
    /// All subnets that are announced and not believed.
    Refused,
    /// Ask a node what it sees of another one.
    AskNode {
        /// Whom to ask.
        node: String,
        /// Of whom.
        about: String,
        /// How long to wait, in milliseconds, at most 60,000.
        timeout_ms: u64,
    },
    /// Measure the way to a node once.
    Ping {
        /// The node.
        node: String,
        /// How long to wait, in milliseconds, at most 60,000.
        timeout_ms: u64,
    },
}

/// One response line: `{"v":1,"net":…,"node":…,"time":…,"peers":[…]}` or an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
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
    pub response: Response,
}

/// The answer itself, by request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Peers`], in order of names.
    Peers(Vec<PeerRow>),
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Routes`] and [`Request::Subnets`].
    Subnets(Vec<SubnetRow>),
    /// To [`Request::Route`].
    Route(RouteRow),
    /// To [`Request::Nodes`].
    Nodes(Vec<NodeRow>),
    /// To [`Request::Edges`].
    Edges(Vec<EdgeRow>),
    /// To [`Request::Connections`].
    Connections(Vec<ConnectionRow>),
    /// To [`Request::Metrics`].
    Metrics(String),
    /// One line of [`Request::Log`].
    Log(LogLine),
    /// First to [`Request::Capture`].
    Capturing(Capturing),
    /// To [`Request::Capture`], as often as there is something, and once at the end.
    Captured(Captured),
    /// To [`Request::Reload`] and [`Request::Undo`].
    Reloaded(Reloaded),
    /// To [`Request::Plan`].
    Plan(Box<Plan>),
    /// To [`Request::Sight`].
    Sight(Box<NodeReport>),
    /// To [`Request::Refused`].
    Refused(Vec<RefusedRow>),
    /// To [`Request::AskNode`]; `None`: no answer in time, or that node knows no such node.
    Told(Option<Box<PathReport>>),
    /// To [`Request::Ping`].
    Ping(Pong),
    /// Done.
    Done(bool),
    /// Refused or failed.
    Error(ControlError),
}

/// The daemon in one screen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// meshd's version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since start.
    pub uptime_seconds: f64,
    /// Name of the device, if there is one.
    pub interface: Option<String>,
    /// Its MTU in bytes.
    pub mtu: Option<u32>,
    /// Addresses that we listen on, `ADDR:PORT`.
    pub listen: Vec<String>,
    /// Addresses of the configuration that nobody reaches us by, each with the reason.
    #[serde(default)]
    pub not_listening: Vec<String>,
    /// Our key, as host files write it.
    pub public_key: String,
    /// The most that we speak: only legacy without an Ed25519 key, no native with `Native = no`.
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
    /// Those of them that the kernel or the device does not have.
    #[serde(default)]
    pub offloads_missing: Vec<String>,
    /// The packet threads.
    #[serde(default)]
    pub threads: Vec<ThreadRow>,
    /// Dropped packets by reason (snake case), zeros left out.
    pub drops: std::collections::BTreeMap<String, u64>,
    /// Request lines over links since start, by type in the words of the protocol: those that came, those that
    /// were sent.
    #[serde(default)]
    pub messages: std::collections::BTreeMap<String, [u64; 2]>,
    /// Bytes that wait for links to take them.
    #[serde(default)]
    pub meta_queue_bytes: usize,
    /// The mesh itself.
    pub mesh: MeshStatus,
    /// Warnings about the configuration in force.
    pub problems: Vec<String>,
    /// System calls that the sandbox has refused us since the start, by name.
    #[serde(default)]
    pub refused_calls: std::collections::BTreeMap<String, u64>,
}

/// One packet thread.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ThreadRow {
    /// Name of the thread, as `top -H` shows it.
    pub name: String,
    /// Whether it has a queue of the device.
    pub device: bool,
    /// Its UDP sockets, `ADDR:PORT`.
    pub sockets: Vec<String>,
    /// How often it woke up since start; a second apart at most.
    pub beats: u64,
    /// Seconds since that last grew, as seen once a second; `None`: not looked at yet.
    pub beat_age_seconds: Option<f64>,
    /// Seconds that it has run on a processor since start; `None` where /proc does not say.
    #[serde(default)]
    pub run_seconds: Option<f64>,
    /// Packets that it dropped by reason, as in [`Status::drops`].
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
    /// Whether inner packets are Ethernet frames (switch and hub mode).
    pub frames: bool,
}

/// Packets, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The packets.
    pub packets: Vec<PacketRow>,
    /// Packets since the start of the capture that the client read too late for, by kind.
    pub dropped: std::collections::BTreeMap<PacketKind, u64>,
}

/// A captured packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketRow {
    /// Wall time in nanoseconds since 1970.
    pub time_ns: u64,
    /// What of.
    pub kind: PacketKind,
    /// Whose tunnel, address or link, if it is known.
    pub peer: Option<String>,
    /// Whether it came from there.
    pub received: bool,
    /// Our address, `ADDR:PORT`; none for inner packets. Of datagrams the address is what the kernel would choose.
    pub local: Option<std::net::SocketAddr>,
    /// The other end's, likewise.
    pub remote: Option<std::net::SocketAddr>,
    /// Length in bytes.
    pub length: usize,
    /// Its first bytes: of inner packets the IP packet or frame, of outer ones what UDP carries, of meta ones the line
    /// without LF and without keys. Base64 (RFC 4648 section 4).
    pub data: String,
}

/// What a reload did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What changed, one sentence each.
    pub changed: Vec<String>,
    /// Variables that changed and need a restart.
    pub restart_needed: Vec<String>,
    /// Warnings and errors that cost one node only.
    pub problems: Vec<String>,
    /// Host files that nothing was taken from, as paths relative to the configuration directory.
    #[serde(default)]
    pub not_taken: Vec<String>,
}

/// What a reload would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What would change, one sentence each.
    pub changed: Vec<String>,
    /// Variables that changed and need a restart.
    pub restart_needed: Vec<String>,
    /// Warnings and errors that cost one node only.
    pub problems: Vec<String>,
    /// Nodes with a path that would be cut.
    pub cut: Vec<String>,
    /// Nodes with a path.
    pub live: usize,
    /// How many of them a reload may cut unasked.
    pub may_cut: usize,
    /// Why a reload would be refused, if so.
    pub refused: Option<String>,
}

/// One measured round trip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// Round trip in seconds; `None`: nothing came back in time.
    pub rtt_seconds: Option<f64>,
    /// How the probe went.
    pub path: PathKind,
    /// By which address, or through which node.
    pub endpoint: Option<String>,
    /// Path MTU known by now, in bytes of an inner IP packet.
    pub pmtu_bytes: Option<u16>,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlError {
    /// For programs.
    pub code: ErrorCode,
    /// One sentence for people.
    pub text: String,
}

/// Kinds of refusal; meshctl makes its exit code from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Another protocol version.
    Version,
    /// The line was no request.
    Malformed,
    /// The caller may not do that.
    Permission,
    /// No such node, subnet or address.
    Unknown,
    /// The configuration on disk is invalid; the old one stays in force.
    Config,
    /// It would cut more nodes than may be cut unasked, or there is nothing to confirm or to undo.
    Refused,
    /// Too many clients, or stopping.
    Busy,
}
