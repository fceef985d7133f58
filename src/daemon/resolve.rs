//! Resolves host names off the driver's thread.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::lookup_host, sync::mpsc, time::timeout};

use meshd_dataplane::io::udp::canonical;
use meshd_wire::NodeName;

use crate::Event;

/// Longest wait for a name server.
const LIMIT: Duration = Duration::from_secs(10);
/// Maximum number of addresses in an answer.
const MAX_ADDRESSES: usize = 16;

/// An answer for the driver.
#[derive(Debug)]
pub struct Resolved {
    /// The node of the request.
    pub node: NodeName,
    /// The name.
    pub host: String,
    /// The port asked for.
    pub port: u16,
    /// Its addresses; empty if there are none.
    pub addrs: Vec<SocketAddr>,
}

/// Resolves a name on the blocking pool; [`Event::Resolved`] follows.
pub fn ask(node: NodeName, host: String, port: u16, events: &mpsc::Sender<Event>) {
    let events = events.clone();
    tokio::spawn(async move {
        let addrs = match timeout(LIMIT, lookup_host((host.as_str(), port))).await {
            Ok(Ok(found)) => found.map(canonical).take(MAX_ADDRESSES).collect(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        let resolved = Resolved {
            node,
            host,
            port,
            addrs,
        };
        let _ = events.send(Event::Resolved(resolved)).await;
    });
}
