//! The driver: one task that owns mesh, links and configuration. It takes what has come, lets the
//! mesh settle once, and does what the mesh wants done.

use std::{
    net::IpAddr,
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
use meshd_crypto::{Rng, seal::Aeads};
use meshd_dataplane::{
    fastpath::{self, Queue, punt, tap::Tap},
    io::{
        tun::Tun,
        udp::{SocketOptions, UdpSocket},
    },
};
use meshd_os::{clock, random};
use meshd_proto::{
    link::{Identity, NativeIdentity},
    mesh::{Input, Mesh, Settings},
    route::DropCounts,
};

use crate::{
    Event, Reply, capture,
    control::handlers::Pings,
    fdstore::{Last, Note},
    hooks::{Hooks, Scripts, monitor::Prepared},
    keyring::HostKeys,
    links::{Links, Outward},
    listening::Listening,
    log::Log,
    metrics::{Busy, drift::Drift},
    privileges,
    reload::{Past, Purpose, queue::Reloads},
    resolve::Resolver,
    routes::Follower,
    sandbox,
    signals::Ask,
    startup::open::{self, Opened},
    status::Pulse,
    systemd::{self, Watchdog},
    validity::Terms,
};

/// Events and punts taken before the mesh settles.
const BATCH: usize = 256;
/// Rounds of outputs that make new inputs at once, before the loop looks at anything else.
const ROUNDS: usize = 16;
/// How often fresh entropy is mixed in. Source: proto/design.md section 2.1.
const ENTROPY: Duration = Duration::from_secs(3600);
/// How often the driver looks after itself: workers, held log lines.
const TICK: Duration = Duration::from_secs(1);

/// Everything that the one task owns.
pub(super) struct Driver {
    pub(super) config: Config,
    pub(super) mesh: Mesh,
    pub(super) links: Links,
    pub(super) keys: HostKeys,
    pub(super) hooks: Hooks,
    pub(super) log: Log,
    pub(super) pings: Pings,
    pub(super) workers: Option<fastpath::Handle>,
    pub(super) tun: Option<Arc<Tun>>,
    pub(super) udp: Vec<Arc<UdpSocket>>,
    /// Of all workers; the first one's are also [`Self::tun`] and [`Self::udp`].
    pub(super) queues: Vec<Queue>,
    pub(super) events: mpsc::Sender<Event>,
    /// What the driver itself dropped.
    pub(super) drops: DropCounts,
    pub(super) started: Instant,
    /// The port that we really listen on.
    pub(super) port: u16,
    pub(super) reloads: Reloads,
    /// Clients that wait for us to have stopped.
    pub(super) stopping: Option<Vec<Reply>>,
    /// Whether [`Self::stop`] is under way.
    pub(super) leaving: bool,
    /// Who is to run scripts, until tinc-up runs.
    pub(super) prepared: Option<Prepared>,
    /// The process group of tinc-up while that runs.
    pub(super) rising: Option<i32>,
    /// Whether tinc-down has ended.
    pub(super) device_down: bool,
    pub(super) sockets: SocketOptions,
    resolver: Resolver,
    pub(super) routes: Option<Follower>,
    /// When routes go that were kept over a restart and that nobody has claimed.
    pub(super) routes_settle: Option<Instant>,
    pub(super) note: Note,
    pub(super) dropping: privileges::Drop,
    /// Beside the configuration.
    pub(super) files: sandbox::Files,
    pub(super) listeners: Vec<tokio::net::TcpListener>,
    pub(super) listening: Listening,
    /// Where workers leave what is for the mesh.
    pub(super) punts: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    /// For the mesh, from what we did for it.
    pub(super) inputs: Vec<Input>,
    /// Room for what has come.
    batch: Vec<Event>,
    pub(super) watchdog: Watchdog,
    pub(super) pulse: Pulse,
    /// The capture, if there is one.
    pub(super) tap: Option<Arc<Tap>>,
    pub(super) busy: Busy,
    pub(super) drift: Drift,
    /// Whether the last reload was taken over.
    pub(super) reload_worked: bool,
    pub(super) past: Past,
    pub(super) terms: Terms,
    refused: sandbox::Told,
    tick: Instant,
    entropy: Instant,
}

impl Driver {
    /// A driver over what was opened. Nothing runs yet.
    pub(super) fn new(
        mut config: Config,
        log: Log,
        Opened {
            sockets,
            device,
            note,
            files,
            prepared,
        }: Opened,
        dropping: privileges::Drop,
        events: mpsc::Sender<Event>,
    ) -> anyhow::Result<Self> {
        let now = clock::now();
        config.settings = with_port(&config.settings, sockets.port);
        let settings = &config.settings;
        let mut terms = Terms::default();
        let held = terms.of(settings);
        let mut rng = Rng::new(entropy()?);
        let outward = Outward {
            identity: identity(settings),
            options: open::socket_options(&config.shell),
            bind: config.shell.bind.clone(),
            limit: settings.ping_timeout,
        };
        let scripts = Scripts {
            base: config.source.base.clone(),
            net: config.source.net.clone(),
            name: settings.name.clone(),
            device: open::device_names(device.queues.first()),
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
        // Each thread's neighbour takes what should not wait in the thread's own queue.
        let next: Vec<_> = queues.iter().map(|queue| queue.tun.clone()).collect();
        for (queue, aside) in queues.iter_mut().zip(next.into_iter().cycle().skip(1)) {
            queue.aside = aside;
        }
        let first = queues.first().cloned().unwrap_or_default();
        let listening = Listening::new(&open::addresses(&config.shell), &first.udp, sockets.failed);
        Ok(Self {
            mesh: Mesh::new(Arc::clone(&held), rng.bytes(), now),
            links: Links::new(outward, rng, events.clone(), now),
            keys: HostKeys::new(config.source.clone(), held, now),
            hooks: Hooks::new(scripts, events.clone(), now),
            log,
            pings: Pings::default(),
            workers: None,
            tun: first.tun,
            udp: first.udp,
            queues,
            events,
            drops: DropCounts::new(),
            started: now,
            port: sockets.port,
            reloads: Reloads::default(),
            stopping: None,
            leaving: false,
            prepared,
            rising: None,
            device_down: false,
            sockets: open::socket_options(&config.shell),
            resolver: Resolver::default(),
            routes: None,
            routes_settle: None,
            note,
            dropping,
            files,
            listeners: sockets.tcp,
            listening,
            punts: mpsc::channel(punt::QUEUE),
            inputs: Vec::new(),
            batch: Vec::with_capacity(BATCH),
            watchdog: Watchdog::from_env(now),
            pulse: Pulse::default(),
            tap: None,
            busy: Busy::default(),
            drift: Drift::default(),
            reload_worked: true,
            past: Past::default(),
            terms,
            refused: sandbox::Told::default(),
            tick: now + TICK,
            entropy: now + ENTROPY,
            config,
        })
    }

    /// Runs until it is told to stop, then stops in order.
    pub(super) async fn run(&mut self, mut events: mpsc::Receiver<Event>) -> anyhow::Result<()> {
        tracing::info!(
            node = %self.config.settings.name, version = env!("CARGO_PKG_VERSION"),
            port = self.port, config = %self.config.source.base.display(), "meshd starting"
        );
        self.bring_device_up();
        let turned = self.turn(&mut events).await;
        // A failure stops us in order too: scripts undo what scripts did.
        let stopped = self.stop(events).await;
        turned.and(stopped)
    }

    /// The loop, until it is told to stop.
    async fn turn(&mut self, events: &mut mpsc::Receiver<Event>) -> anyhow::Result<()> {
        while self.stopping.is_none() {
            self.turn_once(events, None).await?;
        }
        Ok(())
    }

    /// Waits for something to come, at most until `limit`, and does all that follows from it.
    pub(super) async fn turn_once(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        limit: Option<Instant>,
    ) -> anyhow::Result<()> {
        let due = self.poll_timeout();
        let due = TokioInstant::from_std(limit.map_or(due, |limit| limit.min(due)));
        let mut batch = std::mem::take(&mut self.batch);
        select! {
            _ = events.recv_many(&mut batch, BATCH) => {}
            _ = self.punts.1.recv_many(&mut self.inputs, BATCH) => {}
            () = sleep_until(due) => {}
        }
        let now = clock::now();
        for event in batch.drain(..) {
            self.event(event, now)?;
        }
        self.batch = batch;
        self.look_around(now)?;
        if self.is_up() {
            self.work(now);
        }
        Ok(())
    }

    /// Whether the start is over: workers run and the mesh may act.
    pub(super) fn is_up(&self) -> bool {
        self.workers.is_some()
    }

    /// Tells the service manager that we are up, or up again.
    pub(super) fn tell_ready(&self) {
        let name = &self.config.settings.name;
        systemd::ready(&format!("{name} listens on port {}", self.port));
    }

    fn event(&mut self, event: Event, now: Instant) -> anyhow::Result<()> {
        match event {
            Event::Accepted(stream, remote) => {
                let known = self.is_known_addr(remote.ip());
                self.links.accepted(stream, remote, known, now);
            }
            Event::Dialled(dial, result) => {
                let failed = self.links.dialled(dial, result, &self.keys, now);
                self.inputs.extend(failed);
            }
            Event::Read(link, data) => {
                self.links.read(link, &data, &self.keys, now);
                self.adopt_found();
                self.links.flush(&mut self.inputs);
                self.adopt_told_keys(now);
            }
            Event::Written(link, count) => {
                if self.links.written(link, count) {
                    self.inputs.push(Input::Room { link });
                }
            }
            Event::Closed(link, why) => self.inputs.extend(self.links.closed(link, &why)),
            Event::Resolved(resolved) => {
                let mut addrs = self.resolver.settle(&resolved);
                addrs.retain(|addr| match self.config.shell.address_family {
                    AddressFamily::V4 => addr.is_ipv4(),
                    AddressFamily::V6 => addr.is_ipv6(),
                    AddressFamily::Any => true,
                });
                let (node, host) = (resolved.node, resolved.host);
                self.inputs.push(Input::Resolved { node, host, addrs });
            }
            Event::DeviceRising | Event::DeviceUp(_) if self.leaving => {}
            Event::DeviceRising => self.device_rising(now)?,
            Event::DeviceUp(ended) => self.device_up(ended, now)?,
            Event::DeviceDown => self.device_down = true,
            Event::MonitorGone if self.leaving => {}
            Event::MonitorGone => bail!("the process that runs scripts has ended"),
            Event::HookDone(lane) => self.hooks.finished(&lane),
            Event::Control(request, reply) => self.request(request, reply, now),
            Event::Capture(tap, reply) => self.capture(tap, reply),
            Event::Reloaded(result, purpose) => self.reloaded(*result, purpose, now),
            Event::Signal(ask) => self.signal(ask, now)?,
            Event::Drifted(files) => self.drift.files = Some(files),
        }
        Ok(())
    }

    fn signal(&mut self, ask: Ask, now: Instant) -> anyhow::Result<()> {
        match ask {
            Ask::Stop if self.leaving => bail!("stopped at once by a second signal"),
            Ask::Stop => self.ask_stop(None),
            Ask::Reload => {
                if let Err(error) = self.log.reopen() {
                    tracing::warn!(%error, "cannot open the log anew");
                }
                let (yes, confirm) = (false, None);
                self.reload(Purpose::Reload { yes, confirm }, None);
            }
            Ask::Retry => self.inputs.push(Input::Retry),
            Ask::LogConnections => self.log_connections(),
            Ask::LogGraph => self.log_graph(now),
        }
        Ok(())
    }

    /// Stops the loop; whoever asked hears when it is over.
    pub(super) fn ask_stop(&mut self, reply: Option<Reply>) {
        self.stopping.get_or_insert_default().extend(reply);
    }

    /// Lets the mesh take everything that has come, settle once, and say what it wants, as long as
    /// that makes new inputs at once.
    pub(super) fn work(&mut self, now: Instant) {
        for _ in 0..ROUNDS {
            self.links.flush(&mut self.inputs);
            for input in std::mem::take(&mut self.inputs) {
                if let (Some(tap), Input::Line { link, line }) = (&self.tap, &input) {
                    capture::line(tap, &self.links, (*link, true), line);
                }
                self.mesh.handle(input, now);
            }
            if self.mesh.poll_timeout().is_some_and(|(due, _)| due <= now) {
                self.mesh.handle(Input::Timeout, now);
            }
            self.mesh.settle_all(now);
            while let Some(output) = self.mesh.poll_output() {
                self.output(output);
            }
            self.links.flush(&mut self.inputs);
            if self.inputs.is_empty() {
                break;
            }
        }
        self.hooks.start_due(now);
    }

    /// Host files that appeared since the last reload become part of the settings before the links
    /// that they let in are up.
    fn adopt_found(&mut self) {
        let found = self.keys.take_found();
        if found.is_empty() {
            return;
        }
        let mut settings = Settings::clone(&self.config.settings);
        for (node, host) in found {
            tracing::info!(%node, "new host file");
            settings.hosts.insert(node, host);
        }
        self.use_settings(Arc::new(settings));
    }

    /// Queues something for the mesh.
    pub(super) fn tell_mesh(&mut self, input: Input) {
        self.inputs.push(input);
    }

    /// Makes these the settings of everyone.
    pub(super) fn use_settings(&mut self, settings: Arc<Settings>) {
        let held = self.terms.of(&settings);
        self.config.settings = settings;
        self.keys.replace(Arc::clone(&held));
        self.links.configure(identity(&held), held.ping_timeout);
        self.inputs.push(Input::Config(held));
    }

    /// Whether some node is known to come from this address.
    fn is_known_addr(&self, ip: IpAddr) -> bool {
        let text = ip.to_string();
        let hosts = self.config.settings.hosts.values();
        let mut all = hosts.flat_map(|host| {
            let named = host.addresses.iter().any(|address| address.host == text);
            let cached = host.cached.iter().any(|addr| addr.ip() == ip);
            [named, cached]
        });
        all.any(|known| known) || self.resolver.is_known_addr(ip)
    }

    /// Deadlines of the shell's own parts.
    fn look_around(&mut self, now: Instant) -> anyhow::Result<()> {
        if !self.is_up() {
            return Ok(());
        }
        self.links.handle_timeout(now);
        self.hooks.start_due(now);
        self.expire_pings(now);
        self.expire_confirmation(now);
        if now >= self.tick {
            self.keep_terms();
        }
        let workers = self.workers.as_ref();
        let beats = workers.map(fastpath::Handle::beats).unwrap_or_default();
        let alive = workers.is_none_or(fastpath::Handle::is_alive);
        if now >= self.tick {
            self.tick = now + TICK;
            self.pulse.feel(&beats, now);
            self.refused.tell();
            self.end_capture();
            self.log.flush();
            if !self.leaving {
                self.look_at_sockets(now)?;
            }
            self.write_note();
            if self.routes_settle.take_if(|at| now >= *at).is_some()
                && let Some(routes) = &mut self.routes
            {
                routes.settle(&self.config.settings.name);
            }
            if !alive && !self.leaving {
                bail!("a packet thread has ended: is the device gone?");
            }
        }
        self.watchdog.feed(beats, now);
        if now >= self.entropy {
            self.entropy = now + ENTROPY;
            let fresh = entropy()?;
            self.links.add_entropy(&fresh);
            self.inputs.push(Input::Entropy(entropy()?));
        }
        Ok(())
    }

    /// Notes for who comes after us what it cannot know.
    pub(super) fn write_note(&mut self) {
        if self.note.is_kept() {
            let routes = self.routes.iter().flat_map(Follower::routes);
            self.note.write(&Last {
                neighbours: self.mesh.neighbours().collect(),
                routes: routes.collect(),
            });
        }
    }

    /// When the loop must turn even if nothing comes.
    fn poll_timeout(&self) -> Instant {
        if !self.is_up() {
            return clock::now() + TICK;
        }
        let due = [
            Some(self.tick),
            self.mesh.poll_timeout().map(|(due, _)| due),
            self.links.poll_timeout(),
            self.hooks.poll_timeout(),
            self.watchdog.poll_timeout(),
            self.pings.poll_timeout(),
            self.past.poll_timeout(),
            (!self.inputs.is_empty()).then(clock::now),
        ];
        due.into_iter().flatten().min().unwrap_or(self.tick)
    }
}

/// The settings with the port that the kernel gave us, where it was ours to find out.
pub(super) fn with_port(settings: &Arc<Settings>, port: u16) -> Arc<Settings> {
    if settings.port == port {
        return Arc::clone(settings);
    }
    Arc::new(Settings {
        port,
        ..Settings::clone(settings)
    })
}

/// Who we are on links that are made from now on.
fn identity(settings: &Settings) -> Arc<Identity> {
    Arc::new(Identity {
        name: settings.name.clone(),
        key: Arc::clone(&settings.key),
        sptps: settings.sptps,
        rsa: settings.rsa.clone(),
        native: settings.native.then(|| NativeIdentity {
            secret: Arc::clone(&settings.secret),
            aeads: Aeads::of_this_machine(),
        }),
    })
}

fn entropy() -> anyhow::Result<[u8; 32]> {
    random::seed().context("the system has no random bytes")
}
