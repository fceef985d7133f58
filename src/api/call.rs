//! Requests of the control socket: one row of the table for each request.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    proto::{
        Capturing, ConnectionRow, Content, DaemonStatus, EdgeRow, LogLine, NodeRow, PacketKind,
        Planned, Pong, Reloaded, Response, RouteRow, SubnetRow,
    },
    report::{NodeReport, PathReport, RefusedRow},
    rows::PeerRow,
    why::PathBetween,
};

/// Rights of a caller, and the rights that a request needs. Higher rights include lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// No request.
    None,
    /// Requests that change nothing and reveal nothing that only root may see: members of the socket's group.
    Look,
    /// All requests: root, and the user of the daemon.
    All,
}

/// One request, with the type of its answer.
pub trait Call: Into<Request> {
    /// The answer; for a stream, the first answer.
    type Answer: Content;
    /// The rights that the request needs.
    const RIGHTS: Rights;

    /// Makes the response of the daemon. The type of the answer follows from the request.
    fn response(&self, answer: Self::Answer) -> Response {
        answer.into_response()
    }
}

/// Makes a type for each row, and [`Request`] with a variant for each type. A row holds the name and the fields of the
/// request, the type of its answer, and the rights that it needs.
macro_rules! calls {
    ($(
        $(#[$doc:meta])*
        $name:ident { $( $(#[$field_doc:meta])* $field:ident: $type:ty, )* } -> $answer:ty, $rights:ident;
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
            pub struct $name { $( $(#[$field_doc])* pub $field: $type, )* }

            impl From<$name> for Request {
                fn from(call: $name) -> Self {
                    Self::$name(call)
                }
            }

            impl Call for $name {
                type Answer = $answer;
                const RIGHTS: Rights = Rights::$rights;
            }
        )*

        /// Any request.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "cmd", rename_all = "snake_case")]
        pub enum Request {
            $( $(#[$doc])* $name($name), )*
        }

        impl Request {
            /// Returns the rights that the request needs.
            #[must_use]
            pub const fn rights(&self) -> Rights {
                match self {
                    $( Self::$name(_) => <$name as Call>::RIGHTS, )*
                }
            }
        }
    };
}

calls! {
    /// All nodes but our own, sorted by name.
    Peers {} -> Vec<PeerRow>, Look;
    /// The state of the daemon.
    Status {} -> Box<DaemonStatus>, Look;
    /// All subnets.
    Routes {} -> Vec<SubnetRow>, Look;
    /// The route of one address.
    Route {
        /// The address.
        address: IpAddr,
    } -> RouteRow, Look;
    /// `dump nodes`.
    Nodes {} -> Vec<NodeRow>, Look;
    /// `dump edges`; `dump graph` uses it and the nodes.
    Edges {} -> Vec<EdgeRow>, Look;
    /// `dump subnets`.
    Subnets {} -> Vec<SubnetRow>, Look;
    /// `dump connections`.
    Connections {} -> Vec<ConnectionRow>, Look;
    /// All metrics, in Prometheus text format.
    Metrics {} -> String, Look;
    /// Stream log lines until the client closes the connection.
    Log {
        /// tinc's debug level, 0 to 10; `None`: the daemon's level.
        level: Option<u8>,
        /// Begin with the recorded lines of the last seconds, this many.
        #[serde(default)]
        since_seconds: u64,
        /// Stop after the recorded lines.
        #[serde(default)]
        past: bool,
    } -> LogLine, All;
    /// Stream copies of packets until the client closes its half of the connection. Only one client at a time. Later
    /// answers are [`crate::proto::Captured`], while packets arrive and once at the end.
    Capture {
        /// Kinds of packets.
        kinds: Vec<PacketKind>,
        /// Only packets of this node.
        #[serde(default)]
        peer: Option<String>,
        /// Bytes captured of each packet, at most [`crate::proto::MAX_SNAP`].
        snap: usize,
    } -> Capturing, All;
    /// Reload the configuration.
    Reload {
        /// Reload even if many nodes are disconnected.
        #[serde(default)]
        yes: bool,
        /// Undo the reload unless [`Confirm`] arrives within this many seconds, at most 86,400.
        #[serde(default)]
        confirm_seconds: Option<u64>,
    } -> Reloaded, All;
    /// The changes that a reload would make.
    Plan {} -> Box<Planned>, Look;
    /// Confirm the last reload.
    Confirm {} -> bool, All;
    /// Restore the configuration before the last reload that changed something.
    Undo {} -> Reloaded, All;
    /// Stop the daemon.
    Stop {} -> bool, All;
    /// Dial missing links now.
    Retry {} -> bool, All;
    /// Our view of one node.
    Sight {
        /// The node.
        node: String,
    } -> Box<NodeReport>, Look;
    /// The path between two nodes: the daemon probes the path and asks both ends, then takes all facts at one instant.
    /// This takes at most [`crate::why::LONGEST`].
    Why {
        /// Name, address or subnet of the first end; `None`: the daemon's node.
        from: Option<String>,
        /// Name, address or subnet of the second end.
        to: String,
    } -> Box<PathBetween>, Look;
    /// All announced subnets that are refused.
    Refused {} -> Vec<RefusedRow>, Look;
    /// Ask a node for its view of another one. `None`: no answer in time, or the other node is unknown there.
    AskNode {
        /// The node to ask.
        node: String,
        /// The other node.
        about: String,
        /// Longest wait, in milliseconds, at most 60,000.
        timeout_ms: u64,
    } -> Option<Box<PathReport>>, Look;
    /// Measure the round trip to a node once.
    Ping {
        /// The node.
        node: String,
        /// Longest wait, in milliseconds, at most 60,000.
        timeout_ms: u64,
    } -> Pong, Look;
}
