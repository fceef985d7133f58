//! Resolves host names off the driver's thread.

use std::{net::SocketAddr, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use meshd_dataplane::io::udp::canonical;
use meshd_wire::NodeName;

use crate::{Event, services::Services};

/// Longest wait for a name server.
const LIMIT: Duration = Duration::from_secs(10);

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

/// Resolves a name beside the driver; [`Event::Resolved`] follows.
pub fn ask(
    node: NodeName,
    host: String,
    port: u16,
    services: &Services,
    events: &mpsc::Sender<Event>,
) {
    let (services, events) = (services.clone(), events.clone());
    tokio::spawn(async move {
        let found = timeout(LIMIT, services.resolve(&host, port)).await;
        let addrs = found.unwrap_or_default().into_iter().map(canonical);
        let addrs = addrs.collect();
        let resolved = Resolved {
            node,
            host,
            port,
            addrs,
        };
        let _ = events.send(Event::Resolved(resolved)).await;
    });
}
