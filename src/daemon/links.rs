//! The sockets of the meta connections: bytes and events between them and the [`Pool`].

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use slotmap::SecondaryMap;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::AbortHandle,
};

use meshd_crypto::{Rng, seal::Aeads};
use meshd_dataplane::io::udp::{SocketOptions, canonical};
use meshd_proto::{
    link::{DialFault, DialId, LinkId, LinkLog, Pool, PoolOutput},
    mesh::{Input, Settings},
};

use crate::{
    Event,
    conn::{self, Wire},
    driver::Driver,
    keyring::HostKeys,
};

/// All meta connections with their sockets.
pub(super) struct Links {
    pub(super) pool: Pool,
    pub(super) keys: HostKeys,
    wires: SecondaryMap<LinkId, Wire>,
    dialling: SecondaryMap<DialId, AbortHandle>,
    /// True if the listening sockets are read.
    open: watch::Sender<bool>,
    outward: Outward,
    events: mpsc::Sender<Event>,
}

/// Parameters of outgoing connections.
pub(super) struct Outward {
    /// Firewall mark and interface of sockets.
    pub(super) options: SocketOptions,
    /// Source addresses.
    pub(super) bind: Vec<SocketAddr>,
    /// Longest time to connect: PingTimeout.
    pub(super) limit: Duration,
}

impl Links {
    /// Starts without connections; accepts none until the driver has taken the first outputs.
    #[must_use]
    pub(super) fn new(
        keys: HostKeys,
        outward: Outward,
        rng: Rng,
        events: mpsc::Sender<Event>,
        now: Instant,
    ) -> Self {
        Self {
            pool: Pool::new(keys.in_force().of_pool(Aeads::of_this_machine()), rng, now),
            keys,
            wires: SecondaryMap::new(),
            dialling: SecondaryMap::new(),
            open: watch::Sender::new(false),
            outward,
            events,
        }
    }

    /// Tells accepting tasks whether to read their sockets.
    #[must_use]
    pub(super) fn open(&self) -> watch::Receiver<bool> {
        self.open.subscribe()
    }

    /// Uses new settings. Returns those in force: without the nodes that have expired or are revoked.
    pub(super) fn configure(&mut self, settings: &Arc<Settings>) -> Arc<Settings> {
        self.keys.replace(settings);
        let in_force = self.keys.in_force();
        self.outward.limit = in_force.ping_timeout;
        self.pool
            .configure(in_force.of_pool(Aeads::of_this_machine()));
        in_force
    }

    /// Handles an incoming connection.
    pub(super) fn accepted(&mut self, stream: TcpStream, remote: SocketAddr, now: Instant) {
        let Ok(local) = stream.local_addr().map(canonical) else {
            return;
        };
        if let Some(link) = self.pool.accept(remote, local, now) {
            self.start(link, stream);
        }
    }

    /// Handles the end of a connection attempt.
    pub(super) fn dialled(
        &mut self,
        dial: DialId,
        result: Result<TcpStream, (DialFault, String)>,
        now: Instant,
    ) {
        self.dialling.remove(dial);
        let connected = result.and_then(|stream| {
            let local = stream.local_addr();
            let local = local.map_err(|error| (DialFault::Silent, error.to_string()))?;
            Ok((stream, canonical(local)))
        });
        match connected {
            Ok((stream, local)) => {
                if let Some(link) = self.pool.connected(dial, local, now) {
                    self.start(link, stream);
                }
            }
            Err((fault, why)) => self.pool.connect_failed(dial, fault, why),
        }
    }

    fn start(&mut self, link: LinkId, stream: TcpStream) {
        let wire = Wire::start(link, stream, self.events.clone());
        self.wires.insert(link, wire);
    }

    /// Handles received bytes.
    pub(super) fn read(&mut self, link: LinkId, data: &[u8], now: Instant) {
        self.pool.received(link, data, now);
        if let Some(wire) = self.wires.get(link) {
            wire.taken();
        }
    }

    fn connect(&mut self, dial: DialId, addr: SocketAddr) {
        let bind = self.outward.bind.iter();
        let bind = bind.copied().find(|bind| bind.is_ipv4() == addr.is_ipv4());
        let task = conn::dial(
            dial,
            addr,
            bind,
            self.outward.options.clone(),
            self.outward.limit,
            self.events.clone(),
        );
        self.dialling.insert(dial, task);
    }

    fn close(&mut self, link: LinkId, after_output: bool) {
        let wire = self.wires.remove(link);
        if let Some(wire) = wire.filter(|_| after_output) {
            wire.finish();
        }
    }
}

impl Driver {
    /// Carries out the outputs of the pool.
    pub(super) fn serve_links(&mut self, now: Instant) {
        while let Some(output) = self.links.pool.poll_output(now) {
            match output {
                PoolOutput::Connect { dial, node, addr } => {
                    tracing::debug!(%node, %addr, "connecting");
                    self.links.connect(dial, addr);
                }
                PoolOutput::Abort { dial } => {
                    if let Some(task) = self.links.dialling.remove(dial) {
                        task.abort();
                    }
                }
                PoolOutput::Send { link, bytes } => {
                    if let Some(wire) = self.links.wires.get(link) {
                        wire.write(bytes);
                    }
                }
                PoolOutput::Listen(open) => {
                    self.links.open.send_replace(open);
                }
                PoolOutput::Mute { link } => {
                    if let Some(wire) = self.links.wires.get(link) {
                        wire.mute();
                    }
                }
                PoolOutput::Close { link, after_output } => self.links.close(link, after_output),
                PoolOutput::NeedCredentials(name) => {
                    let theirs = self.credentials(&name, now);
                    let pool = &mut self.links.pool;
                    pool.handle_credentials(&name, theirs.as_ref(), now);
                }
                PoolOutput::StoreKey { node, key } => self.learn(node, key),
                PoolOutput::Report(report) => self.inbox.inputs.push(Input::Link(report)),
                PoolOutput::Log(event) => log(&event),
            }
        }
    }
}

fn log(event: &LinkLog) {
    match event {
        LinkLog::Accepted { addr, replaces } => match replaces {
            true => tracing::debug!(%addr, "connection accepted in place of a silent one"),
            false => tracing::debug!(%addr, "connection accepted"),
        },
        LinkLog::Refused { addr } => {
            tracing::info!(%addr, "connection refused: too many unauthenticated connections");
        }
        LinkLog::Authenticated {
            node,
            addr,
            dialect,
        } => tracing::debug!(%node, %addr, dialect = dialect.name(), "authenticated"),
        LinkLog::Stranger { addr, why, held } => match held {
            true => tracing::info!(%addr, why, "connection refused"),
            false => tracing::debug!(%addr, why, "connection closed"),
        },
        LinkLog::Upgrading { node, addr, why } => {
            tracing::debug!(%node, %addr, why, "dialling again to exchange keys");
        }
        LinkLog::KeyAccepted { node } => {
            tracing::info!(%node, "the node accepted our Ed25519 key; new links use SPTPS");
        }
    }
}
