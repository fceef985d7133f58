//! The driver: one task that owns mesh, links and configuration. It collects events, lets the mesh settle once, and
//! carries out the mesh's outputs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::{
    select,
    sync::mpsc,
    time::{Instant as TokioInstant, sleep_until},
};

use meshd_config::{AddressFamily, Config};
use meshd_crypto::Rng;
use meshd_dataplane::fastpath::{self, Queue};
use meshd_os::{clock, random};
use meshd_proto::{
    mesh::{Input, LinkReport, Mesh, Settings},
    route::DropCounts,
};

use crate::{
    Event, Reply, capture,
    control::handlers::Pings,
    fdstore::Last,
    hooks::{Hooks, Scripts},
    keyring::HostKeys,
    links::{Links, Outward},
    listening::Listening,
    log::Log,
    metrics::{Busy, drift::Drift},
    parts::{Device, Inbox, Life, Net, Reloads, Vitals},
    privileges,
    reload::{Past, Purpose, queue},
    resolve::Resolved,
    routes::RouteFollower,
    sandbox,
    services::Services,
    signals::SignalRequest,
    startup::{
        device,
        open::{self, Opened},
    },
    status::Pulse,
    systemd::{Note, Watchdog},
};

/// Maximum number of events and punts before the mesh settles.
const BATCH: usize = 256;
/// Maximum number of rounds of outputs that make new inputs, before the loop handles other events.
const ROUNDS: usize = 16;
/// Interval of fresh entropy. Source: proto/design.md section 2.1.
const ENTROPY: Duration = Duration::from_secs(3600);
/// Interval of housekeeping: workers, held log lines.
const TICK: Duration = Duration::from_secs(1);

/// State of the driver's task.
pub(super) struct Driver {
    pub(super) config: Config,
    pub(super) mesh: Mesh,
    pub(super) links: Links,
    pub(super) hooks: Hooks,
    pub(super) log: Log,
    pub(super) pings: Pings,
    pub(super) net: Net,
    pub(super) device: Device,
    pub(super) life: Life,
    pub(super) reloads: Reloads,
    pub(super) inbox: Inbox,
    pub(super) vitals: Vitals,
}

impl Driver {
    /// Makes a driver over opened resources. Nothing runs yet.
    pub(super) fn new(
        mut config: Config,
        log: Log,
        Opened {
            sockets,
            device,
            note,
            own,
            prepared,
        }: Opened,
        dropping: privileges::Drop,
        events: mpsc::Sender<Event>,
    ) -> anyhow::Result<Self> {
        let now = clock::now();
        config.settings = with_port(&config.settings, sockets.port);
        let settings = &config.settings;
        let keys = HostKeys::new(config.source.clone(), settings);
        let in_force = keys.in_force();
        let mut rng = Rng::new(entropy()?);
        let outward = Outward {
            options: open::socket_options(&config.shell),
            bind: config.shell.bind.clone(),
            limit: settings.ping_timeout,
        };
        let scripts = Scripts {
            base: config.source.base.clone(),
            net: config.source.net.clone(),
            name: settings.name.clone(),
            device: device::device_names(device.queues.first()),
            debug: log.level(),
            interpreter: config.shell.scripts_interpreter.clone(),
            extension: config.shell.scripts_extension.clone(),
            run: open::run_scripts(&config.shell),
        };
        let mut tun = device.queues.into_iter().map(Arc::new);
        let queue = |udp| Queue {
            tun: tun.next(),
            aside: None,
            udp,
        };
        let mut queues: Vec<Queue> = sockets.udp.into_iter().map(queue).collect();
        // Each thread writes packets that must not wait in its own queue to its neighbour's queue.
        let next: Vec<_> = queues.iter().map(|queue| queue.tun.clone()).collect();
        for (queue, aside) in queues.iter_mut().zip(next.into_iter().cycle().skip(1)) {
            queue.aside = aside;
        }
        let first = queues.first().cloned().unwrap_or_default();
        let listening = Listening::new(&open::addresses(&config.shell), &first.udp, sockets.failed);
        Ok(Self {
            mesh: Mesh::new(in_force, rng.bytes(), now),
            links: Links::new(keys, outward, rng, events.clone(), now),
            hooks: Hooks::new(scripts, events.clone(), now),
            log,
            pings: Pings::default(),
            net: Net {
                workers: None,
                tun: first.tun,
                udp: first.udp,
                queues,
                options: open::socket_options(&config.shell),
                port: sockets.port,
                listeners: sockets.tcp,
                listening,
                drops: DropCounts::new(),
                tap: None,
            },
            device: Device {
                prepared,
                keeper: None,
                tinc_up: None,
                is_down: false,
                routes: None,
                routes_settle: None,
                note,
                dropping,
                own,
            },
            life: Life {
                started: now,
                stopping: None,
                leaving: false,
            },
            reloads: Reloads {
                queue: queue::Reloads::default(),
                past: Past::default(),
                worked: true,
            },
            inbox: Inbox::new(events, BATCH),
            vitals: Vitals {
                services: Services::Here,
                watchdog: Watchdog::from_env(now),
                pulse: Pulse::default(),
                busy: Busy::default(),
                drift: Drift::default(),
                refused: sandbox::ReportedCalls::default(),
                tick: now + TICK,
                entropy: now + ENTROPY,
            },
            config,
        })
    }

    /// Runs until a stop request, then stops in order.
    pub(super) async fn run(&mut self, mut events: mpsc::Receiver<Event>) -> anyhow::Result<()> {
        tracing::info!(
            node = %self.config.settings.name, version = env!("CARGO_PKG_VERSION"),
            port = self.net.port, config = %self.config.source.base.display(), "meshd starting"
        );
        self.bring_device_up();
        let turned = self.turn(&mut events).await;
        // After a failure the daemon also stops in order: scripts undo the work of scripts.
        let stopped = self.stop(events).await;
        turned.and(stopped)
    }

    /// Runs the loop until a stop request.
    async fn turn(&mut self, events: &mut mpsc::Receiver<Event>) -> anyhow::Result<()> {
        while self.life.stopping.is_none() {
            self.turn_once(events, None).await?;
        }
        Ok(())
    }

    /// Waits for events, at most until `limit`, and handles them.
    pub(super) async fn turn_once(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        limit: Option<Instant>,
    ) -> anyhow::Result<()> {
        let due = self.poll_timeout();
        let due = TokioInstant::from_std(limit.map_or(due, |limit| limit.min(due)));
        let mut batch = std::mem::take(&mut self.inbox.batch);
        select! {
            _ = events.recv_many(&mut batch, BATCH) => {}
            _ = self.inbox.punts.1.recv_many(&mut self.inbox.inputs, BATCH) => {}
            () = sleep_until(due) => {}
        }
        let now = clock::now();
        for event in batch.drain(..) {
            self.event(event, now)?;
        }
        self.inbox.batch = batch;
        self.handle_deadlines(now)?;
        if self.is_up() {
            self.work(now);
        }
        Ok(())
    }

    /// True after the start: workers run and the mesh may act.
    pub(super) fn is_up(&self) -> bool {
        self.net.workers.is_some()
    }

    /// Reports readiness to the service manager.
    pub(super) fn report_ready(&self) {
        let name = &self.config.settings.name;
        let status = format!("{name} listens on port {}", self.net.port);
        self.vitals.services.notify(Note::Ready(status));
    }

    fn event(&mut self, event: Event, now: Instant) -> anyhow::Result<()> {
        match event {
            Event::Accepted(stream, remote) => {
                self.links.accepted(stream, remote, now);
            }
            Event::Dialled(dial, result) => {
                self.links.dialled(dial, result, now);
                self.serve_links(now);
            }
            Event::Read(link, data) => {
                self.links.read(link, &data, now);
                self.serve_links(now);
            }
            Event::Written(link, count) => self.links.pool.written(link, count),
            Event::Closed(link, why) => self.links.pool.closed(link, &why),
            Event::Resolved(resolved) => {
                let Resolved {
                    node,
                    host,
                    port,
                    addrs,
                } = resolved;
                let mut addrs = self.links.pool.resolved(&host, port, addrs);
                addrs.retain(|addr| match self.config.shell.address_family {
                    AddressFamily::V4 => addr.is_ipv4(),
                    AddressFamily::V6 => addr.is_ipv6(),
                    AddressFamily::Any => true,
                });
                self.inbox
                    .inputs
                    .push(Input::Resolved { node, host, addrs });
            }
            Event::DeviceRising | Event::DeviceUp(_) if self.life.leaving => {}
            Event::DeviceRising => self.device_rising(now)?,
            Event::DeviceUp(ended) => self.device_up(ended, now)?,
            Event::DeviceDown => self.device.is_down = true,
            Event::AddressesChanged => self.addresses_changed(),
            Event::MonitorGone | Event::ServicesGone if self.life.leaving => {}
            Event::MonitorGone => bail!("the script process has ended"),
            Event::ServicesGone => bail!("the service process has ended"),
            Event::HookDone(lane) => self.hooks.finished(&lane),
            Event::Control(request, reply) => self.request(request, reply, now),
            Event::Capture(tap, reply) => self.capture(tap, reply),
            Event::Reloaded(result, purpose) => self.reloaded(*result, purpose, now),
            Event::Signal(ask) => self.signal(ask, now)?,
            Event::Drifted(files) => self.vitals.drift.files = Some(files),
        }
        Ok(())
    }

    fn signal(&mut self, ask: SignalRequest, now: Instant) -> anyhow::Result<()> {
        match ask {
            SignalRequest::Stop if self.life.leaving => bail!("stopped at once by a second signal"),
            SignalRequest::Stop => self.ask_stop(None),
            SignalRequest::Reload => {
                let (log, keeper) = (self.log.clone(), self.device.keeper.clone());
                tokio::spawn(async move {
                    if let Err(error) = log.reopen(keeper).await {
                        tracing::warn!(%error, "cannot reopen the log");
                    }
                });
                let (yes, confirm) = (false, None);
                self.reload(Purpose::Reload { yes, confirm }, None);
            }
            SignalRequest::Retry => self.inbox.inputs.push(Input::Retry),
            SignalRequest::LogConnections => self.log_connections(),
            SignalRequest::LogGraph => self.log_graph(now),
        }
        Ok(())
    }

    /// Stops the loop; the reply is sent after the stop.
    pub(super) fn ask_stop(&mut self, reply: Option<Reply>) {
        self.life.stopping.get_or_insert_default().extend(reply);
    }

    /// Passes all inputs to the mesh, lets it settle once, and carries out its outputs, while these make new inputs.
    pub(super) fn work(&mut self, now: Instant) {
        for _ in 0..ROUNDS {
            self.serve_links(now);
            for input in std::mem::take(&mut self.inbox.inputs) {
                if let (Some(tap), Input::Link(LinkReport::Line { link, line })) =
                    (&self.net.tap, &input)
                {
                    capture::line(tap, &self.links, (*link, true), line);
                }
                self.mesh.handle(input, now);
            }
            if self.mesh.poll_timeout().is_some_and(|(due, _)| due <= now) {
                self.mesh.handle(Input::Timeout, now);
            }
            self.mesh.settle_all(now);
            while let Some(output) = self.mesh.poll_output() {
                self.output(output, now);
            }
            self.serve_links(now);
            if self.inbox.inputs.is_empty() {
                break;
            }
        }
        self.hooks.start_due(now);
    }

    /// Queues an input for the mesh.
    pub(super) fn send_to_mesh(&mut self, input: Input) {
        self.inbox.inputs.push(input);
    }

    /// Puts settings in force everywhere.
    pub(super) fn use_settings(&mut self, settings: Arc<Settings>) {
        let in_force = self.links.configure(&settings);
        self.config.settings = settings;
        self.inbox.inputs.push(Input::Config(in_force));
    }

    /// Handles deadlines of the shell's parts.
    fn handle_deadlines(&mut self, now: Instant) -> anyhow::Result<()> {
        if !self.is_up() {
            return Ok(());
        }
        self.links.pool.handle_timeout(now);
        self.hooks.start_due(now);
        self.expire_pings(now);
        self.expire_confirmation(now);
        if now >= self.vitals.tick {
            self.keep_validity();
        }
        let workers = self.net.workers.as_ref();
        let beats = workers.map(fastpath::Handle::beats).unwrap_or_default();
        let alive = workers.is_none_or(fastpath::Handle::is_alive);
        if now >= self.vitals.tick {
            self.vitals.tick = now + TICK;
            self.vitals.pulse.feel(&beats, now);
            self.vitals.refused.report_new();
            self.end_capture();
            self.log.flush();
            if !self.life.leaving {
                self.check_sockets(now)?;
            }
            self.write_note();
            if self.device.routes_settle.take_if(|at| now >= *at).is_some()
                && let Some(routes) = &mut self.device.routes
            {
                routes.settle(&self.config.settings.name);
            }
            if !alive && !self.life.leaving {
                bail!("a packet thread has ended; check whether the device is gone");
            }
        }
        if self.vitals.watchdog.is_due(beats, now) {
            self.vitals.services.notify(Note::Watchdog);
        }
        if now >= self.vitals.entropy {
            self.vitals.entropy = now + ENTROPY;
            let fresh = entropy()?;
            self.links.pool.add_entropy(&fresh);
            self.inbox.inputs.push(Input::Entropy(entropy()?));
        }
        Ok(())
    }

    /// Writes the note for the daemon after a restart.
    pub(super) fn write_note(&mut self) {
        if self.device.note.is_kept() {
            let routes = self.device.routes.iter().flat_map(RouteFollower::routes);
            self.device.note.write(&Last {
                neighbours: self.mesh.neighbours().collect(),
                routes: routes.collect(),
            });
        }
    }

    /// Returns the time of the next turn without events.
    fn poll_timeout(&self) -> Instant {
        if !self.is_up() {
            return clock::now() + TICK;
        }
        let due = [
            Some(self.vitals.tick),
            self.mesh.poll_timeout().map(|(due, _)| due),
            self.links.pool.poll_timeout(),
            self.hooks.poll_timeout(),
            self.vitals.watchdog.poll_timeout(),
            self.pings.poll_timeout(),
            self.reloads.past.poll_timeout(),
            (!self.inbox.inputs.is_empty()).then(clock::now),
        ];
        due.into_iter().flatten().min().unwrap_or(self.vitals.tick)
    }
}

/// Returns the settings with the actual port, if the kernel chose it.
pub(super) fn with_port(settings: &Arc<Settings>, port: u16) -> Arc<Settings> {
    if settings.port == port {
        return Arc::clone(settings);
    }
    Arc::new(Settings {
        port,
        ..Settings::clone(settings)
    })
}

fn entropy() -> anyhow::Result<[u8; 32]> {
    random::seed().context("cannot get random numbers from the system")
}
