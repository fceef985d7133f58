//! The daemon: the tokio shell on one thread, around links, mesh and packet threads.
//!
//! Start: script process, configuration, sockets, device, pid file and control socket. Then netlink settings and
//! tinc-up: the daemon waits for it, and serves control requests and signals meanwhile. Then subnet-up of own subnets,
//! priority, privileges, packet threads, READY, dials. Stop: host-down and subnet-down of other nodes, subnet-down of own subnets, tinc-down,
//! then links, pid file and socket.

mod addresses;
mod capture;
pub mod conn;
pub mod control;
mod driver;
mod fdstore;
pub mod hooks;
mod key_learning;
pub mod keyring;
mod links;
mod listening;
pub mod log;
mod metrics;
mod outputs;
mod parts;
pub mod privileges;
mod reload;
pub mod resolve;
mod routes;
pub mod sandbox;
pub mod services;
mod shutdown;
pub mod signals;
mod startup;
mod status;
pub mod systemd;
mod tincd;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::timeout,
};

use meshd_api::{call::Request, proto::Response};
use meshd_config::{Config, Problem, Sandbox, Source};
use meshd_dataplane::fastpath::tap::Tap;
use meshd_proto::link::{DialFault, DialId, LinkId};

use log::{Log, LogTarget};
use meshd_config::options::{self, Called, Command, Options};

/// Events for the driver from its tasks.
#[derive(Debug)]
pub enum Event {
    /// An incoming connection.
    Accepted(TcpStream, SocketAddr),
    /// An attempt to connect has ended.
    Dialled(DialId, Result<TcpStream, (DialFault, String)>),
    /// Bytes of a meta connection.
    Read(LinkId, Bytes),
    /// This many bytes have reached the kernel.
    Written(LinkId, usize),
    /// A meta connection has ended, for this reason.
    Closed(LinkId, String),
    /// A name was resolved.
    Resolved(resolve::Resolved),
    /// Addresses of this machine have changed.
    AddressesChanged,
    /// The netlink settings are done: tinc-up may start.
    DeviceRising,
    /// tinc-up has ended (true) or reached its time limit (false).
    DeviceUp(bool),
    /// tinc-down has ended.
    DeviceDown,
    /// The script process has ended.
    MonitorGone,
    /// The service process has ended.
    ServicesGone,
    /// A script of this lane has ended.
    HookDone(String),
    /// A request of a client.
    Control(Request, Reply),
    /// A client starts a capture.
    Capture(Arc<Tap>, Reply),
    /// A signal arrived.
    Signal(signals::SignalRequest),
    /// Number of files that differ from the configuration in force.
    Drifted(usize),
    /// A reload has read the files.
    Reloaded(Box<Result<Config, Vec<Problem>>>, reload::Purpose),
}

/// Channel for the answer to a client.
pub type Reply = oneshot::Sender<Response>;

/// Ports below this one need CAP_NET_BIND_SERVICE.
const PRIVILEGED: u16 = 1024;

/// Longest wait for the removal of pid file and sockets.
const LEAVE: Duration = Duration::from_secs(1);

/// Capacity of the driver's queue; senders wait if it is full.
const EVENTS: usize = 1024;

/// Runs the whole program, from options to exit code: 0 after a stop, 1 after a failed start.
#[must_use]
pub fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = Called::by(args.next().as_deref());
    let args = args.map(|arg| arg.to_string_lossy().into_owned());
    let options = match options::parse(called, args) {
        Ok(Command::Run(options)) => *options,
        Ok(Command::Kill(options, signal)) => return tincd::kill(&options, signal),
        Ok(Command::GenerateKeys(options, bits)) => return tincd::generate_keys(&options, bits),
        Ok(Command::Help) => {
            print!(
                "{}",
                match called {
                    Called::Meshd => options::HELP,
                    Called::Tincd => options::TINCD_HELP,
                }
            );
            return ExitCode::SUCCESS;
        }
        Ok(Command::Version) => {
            let version = env!("CARGO_PKG_VERSION");
            match called {
                Called::Meshd => println!("meshd version {version} (protocol 17.7)"),
                Called::Tincd => {
                    println!("tinc version 1.0.36 (meshd {version}, protocol 17.7)");
                }
            }
            return ExitCode::SUCCESS;
        }
        Err(sentence) => {
            let name = called.name();
            eprintln!("{name}: {sentence}\nTry `{name} --help' for more information.");
            return ExitCode::FAILURE;
        }
    };
    let detaches = tincd::detaches(&options);
    if options.detached {
        tincd::leave_session();
    }
    // The fork must come before anything is open or known that the process must not have.
    let prepared = (!detaches).then(|| Prepared::start(&options));
    // The executable may have another name (meshctl): pidof, killall and tincd::refuse_second use this one.
    let _ = rustix::thread::set_name(match called {
        Called::Meshd => c"meshd",
        Called::Tincd => c"tincd",
    });
    let code = run(&options, prepared).unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        if options.detached {
            // Until the daemon has opened everything, standard error is the terminal.
            eprintln!("{}: {error:#}", called.name());
        }
        ExitCode::FAILURE
    });
    log::drain();
    code
}

/// The processes that work outside of our sandbox.
struct Prepared {
    scripts: hooks::monitor::Prepared,
    services: services::Prepared,
}

impl Prepared {
    fn start(options: &Options) -> io::Result<Self> {
        let quiet = options.detached;
        let ident = tincd::ident(options.net.as_deref());
        Ok(Self {
            scripts: hooks::monitor::Prepared::start(quiet)?,
            services: services::Prepared::start(&ident, quiet)?,
        })
    }

    /// Ends both without using them.
    fn dismiss(self) {
        self.scripts.dismiss();
        self.services.dismiss();
    }
}

/// `prepared`: the other processes; `None` if this process only starts another one.
fn run(options: &Options, prepared: Option<io::Result<Prepared>>) -> anyhow::Result<ExitCode> {
    let log = match &prepared {
        // Problems of the configuration go to the terminal.
        None => Log::new(LogTarget::Stderr, options.debug.unwrap_or(0))?,
        Some(_) => open_log(options, options.net.as_deref()),
    };
    log.install();
    let (source, notes) = source(options)?;
    notes.iter().for_each(|note| tracing::info!("{note}"));
    privileges::check(options.user.as_deref())?;
    let config = load(&source)?;
    if options.called == Called::Tincd {
        tincd::refuse_second(&tincd::pid_path(options))?;
    }
    let Some(prepared) = prepared else {
        return tincd::detach();
    };
    log.set_level(options.debug.unwrap_or(config.shell.log_level));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(serve(options, config, log, prepared));
    // A name lookup that hangs must not delay the exit.
    runtime.shutdown_background();
    done.map(|()| ExitCode::SUCCESS)
}

/// Returns the place of the configuration, and warnings. tincd prefers tinc's directory.
fn source(options: &Options) -> Result<(Source, Vec<String>), meshd_config::find::FindError> {
    let netname = std::env::var("NETNAME").ok();
    let mut roots = meshd_config::find::ROOTS.map(Path::new);
    if options.called == Called::Tincd {
        roots.reverse();
    }
    let found = meshd_config::find::find_in(
        roots,
        options.config.as_deref(),
        options.net.as_deref(),
        netname.as_deref(),
    )?;
    let source = Source {
        base: found.base,
        net: found.net,
        options: options.options.clone(),
        instead: None,
    };
    Ok((source, found.notes))
}

/// The daemon also runs without its log file (config/tinc.md section 4.3).
fn open_log(options: &Options, net: Option<&str>) -> Log {
    let tincd = options.called == Called::Tincd;
    let target = match &options.logfile {
        _ if options.syslog && !tincd => LogTarget::Journal,
        None if options.detached || options.syslog => LogTarget::Syslog(tincd::ident(net)),
        None => LogTarget::stderr(),
        Some(Some(file)) => LogTarget::File(file.clone()),
        Some(None) if tincd => {
            LogTarget::File(format!("/var/log/{}.log", tincd::ident(net)).into())
        }
        Some(None) => {
            let net = net.map_or(String::new(), |net| format!(".{net}"));
            LogTarget::File(format!("/var/log/meshd{net}.log").into())
        }
    };
    let level = options.debug.unwrap_or(0);
    Log::new(target.clone(), level).unwrap_or_else(|error| {
        eprintln!("meshd: cannot open the log {target:?}: {error}; logging here");
        Log::new(LogTarget::stderr(), level).expect("standard error needs no opening")
    })
}

/// Loads the configuration and reports all its problems.
fn load(source: &Source) -> anyhow::Result<Config> {
    match meshd_config::load(source, None) {
        Ok(config) => {
            for problem in &config.problems {
                tracing::warn!("{problem}");
            }
            if let Some(note) = config.not_filtered() {
                tracing::info!("{note}");
            }
            Ok(config)
        }
        Err(problems) => {
            for problem in &problems {
                match problem.error {
                    true => tracing::error!("{problem}"),
                    false => tracing::warn!("{problem}"),
                }
            }
            bail!("the configuration in {} is unusable", source.base.display())
        }
    }
}

/// Paths of the daemon's files.
#[derive(Debug, Clone)]
struct Places {
    pid: PathBuf,
    socket: PathBuf,
}

async fn serve(
    options: &Options,
    config: Config,
    log: Log,
    prepared: io::Result<Prepared>,
) -> anyhow::Result<()> {
    let prepared = match (config.shell.sandbox, prepared) {
        (Sandbox::Off, prepared) => {
            prepared.into_iter().for_each(Prepared::dismiss);
            None
        }
        (Sandbox::Normal | Sandbox::High, prepared) => {
            Some(prepared.context("cannot start the processes outside of the sandbox")?)
        }
    };
    if !config.shell.simd {
        meshd_crypto::simd::disable().context("cannot obey Simd = no; remove the line")?;
    }
    let net = config.source.net.as_deref();
    let pidfile = options.pidfile.as_deref();
    let places = Places {
        pid: match options.called {
            Called::Tincd => tincd::pid_path(options),
            Called::Meshd => pidfile.map_or_else(|| meshd_api::pid_path(net), Into::into),
        },
        socket: meshd_api::socket_path(net, pidfile),
    };
    let (events, queue) = mpsc::channel(EVENTS);
    signals::catch(&events).context("cannot catch signals")?;
    if let Err(error) = addresses::watch(&events) {
        tracing::warn!(%error, "cannot watch the addresses of this machine");
    }
    // The socket comes first: it shows whether another daemon runs, before any of its files is touched.
    let control = control::bind(&places.socket)?;
    let started = start_driver(options, config, &log, (&places, prepared), &events).await;
    let done = match started {
        Ok(mut driver) => {
            if options.detached {
                tincd::opened().context("cannot leave the terminal")?;
            }
            let sender = control::Sender {
                net: driver.config.source.net.clone(),
                node: driver.config.settings.name.to_string(),
            };
            let metrics =
                metrics::listen::bind(&driver.config.shell.metrics_listen, &places.socket);
            if let Some(metrics) = metrics {
                metrics::listen::serve(metrics, events.clone());
            }
            control::serve(control, &places.socket, sender, log, events);
            let done = driver.run(queue).await;
            if let Some(keeper) = driver.device.keeper.take() {
                let _ = timeout(LEAVE, keeper.leave()).await;
            }
            done
        }
        Err(error) => Err(error),
    };
    let _ = std::fs::remove_file(&places.socket);
    let _ = std::fs::remove_file(&places.pid);
    done
}

async fn start_driver(
    options: &Options,
    config: Config,
    log: &Log,
    (places, prepared): (&Places, Option<Prepared>),
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<driver::Driver> {
    let mut kept = fdstore::Kept::inherit();
    let mode = config.settings.route.mode;
    startup::open::release_unfit(&config.shell, mode, &mut kept);
    let device = startup::device::open_device(&config.shell, mode, &mut kept).await?;
    let sockets = startup::open::open_sockets(&config.shell, &device, &mut kept).await?;
    let note = kept.note();
    // Releases descriptors of threads that do not exist any more.
    kept.retain(|_, _| false);
    kept.commit();
    startup::open::make_run_dir(&places.pid)?;
    startup::open::write_pid(&places.pid)?;
    let keep = privileges::Keep {
        net_admin: config.shell.interface_routes.auto || config.shell.fwmark != 0,
        ipc_lock: options.mlock && privileges::lock_memory()?,
        ..privileges::Keep::default()
    };
    let dropping = privileges::Drop {
        user: options.user.clone(),
        chroot: options.chroot.then(|| config.source.base.clone()),
        keep: privileges::Keep {
            bind: sockets
                .failed
                .iter()
                .any(|(addr, _)| addr.port() < PRIVILEGED),
            ..keep
        },
    };
    let metrics = metrics::listen::path(&config.shell.metrics_listen, &places.socket);
    let own = [places.pid.clone(), places.socket.clone()];
    let opened = startup::open::Opened {
        sockets,
        device,
        note,
        own: own.into_iter().chain(metrics).collect(),
        prepared,
    };
    driver::Driver::new(config, log.clone(), opened, dropping, events.clone())
}
