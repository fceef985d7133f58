//! The daemon: the tokio shell on one thread, around links, mesh and packet threads.
//!
//! Start: the process that will run scripts, configuration, sockets, device, pid file and control socket, then netlink settings and
//! tinc-up (awaited, while control requests and signals are served), own subnet-up, priority,
//! privileges, packet threads, READY, dial. Stop: links, host-down and subnet-down of the others, our
//! own subnet-down, tinc-down, pid file and socket removed.

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
pub mod privileges;
mod reload;
pub mod resolve;
mod routes;
pub mod sandbox;
mod shutdown;
pub mod signals;
mod startup;
mod status;
pub mod systemd;
mod tincd;
mod validity;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
};

use meshd_api as control_proto;
use meshd_api::proto::{Request, Response};
use meshd_config as config;
use meshd_config::{Config, Problem, Sandbox, Source};
use meshd_dataplane::fastpath::tap::Tap;
use meshd_proto::mesh::{LinkId, reports::view::DialFault};

use hooks::monitor::Prepared;
use log::{Log, Target};
use meshd_config::options::{self, Called, Command, Options};

/// What the tasks around the driver tell it.
#[derive(Debug)]
pub enum Event {
    /// Somebody connected.
    Accepted(TcpStream, SocketAddr),
    /// An attempt to connect, by its number, has ended.
    Dialled(u64, Result<TcpStream, (DialFault, String)>),
    /// Bytes of a meta connection.
    Read(LinkId, Bytes),
    /// So many bytes have reached the kernel.
    Written(LinkId, usize),
    /// A meta connection is at its end, and why.
    Closed(LinkId, String),
    /// A name was looked up.
    Resolved(resolve::Resolved),
    /// Netlink settings are made: tinc-up may begin.
    DeviceRising,
    /// Whether tinc-up has ended; else it may take no longer.
    DeviceUp(bool),
    /// tinc-down has ended.
    DeviceDown,
    /// Who runs our scripts is no more.
    MonitorGone,
    /// A script of this lane has ended.
    HookDone(String),
    /// A client asks.
    Control(Request, Reply),
    /// A client wants to see packets.
    Capture(Arc<Tap>, Reply),
    /// A signal came.
    Signal(signals::Ask),
    /// So many files are not what is in force.
    Drifted(usize),
    /// A reload has read the files.
    Reloaded(Box<Result<Config, Vec<Problem>>>, reload::Purpose),
}

/// Where the answer to a client goes.
pub type Reply = oneshot::Sender<Response>;

/// Ports below this one need CAP_NET_BIND_SERVICE.
const PRIVILEGED: u16 = 1024;

/// Events that wait for the driver; senders wait beyond.
const EVENTS: usize = 1024;

/// The whole program: options to exit code. 0 after a stop, 1 where it could not start.
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
    // Before anything is open or known that is not for it.
    let prepared = (!detaches).then(|| Prepared::start(options.detached));
    // The file that we were started from may have another name (meshctl): pidof, killall and tincd::refuse_second go
    // by this one.
    let _ = rustix::thread::set_name(match called {
        Called::Meshd => c"meshd",
        Called::Tincd => c"tincd",
    });
    let code = run(&options, prepared).unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        if options.detached {
            // As long as nothing is open this is still a terminal.
            eprintln!("{}: {error:#}", called.name());
        }
        ExitCode::FAILURE
    });
    log::drain();
    code
}

/// `prepared`: who is to run scripts; none where this process only starts another one.
fn run(options: &Options, prepared: Option<io::Result<Prepared>>) -> anyhow::Result<ExitCode> {
    let log = match &prepared {
        // What is wrong with the configuration is for the terminal.
        None => Log::new(Target::Stderr, options.debug.unwrap_or(0))?,
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
    // Name look-ups that hang must not hold up the exit.
    runtime.shutdown_background();
    done.map(|()| ExitCode::SUCCESS)
}

/// Where the configuration is, and words about it. tincd looks into tinc's directory first.
fn source(options: &Options) -> Result<(Source, Vec<String>), config::find::FindError> {
    let netname = std::env::var("NETNAME").ok();
    let mut roots = config::find::ROOTS.map(Path::new);
    if options.called == Called::Tincd {
        roots.reverse();
    }
    let found = config::find::find_in(
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

/// A log that cannot be opened is no reason not to run (config/tinc.md section 4.3).
fn open_log(options: &Options, net: Option<&str>) -> Log {
    let tincd = options.called == Called::Tincd;
    let target = match &options.logfile {
        _ if options.syslog && !tincd => Target::Journal,
        None if options.detached || options.syslog => Target::Syslog(tincd::ident(net)),
        None => Target::stderr(),
        Some(Some(file)) => Target::File(file.clone()),
        Some(None) if tincd => Target::File(format!("/var/log/{}.log", tincd::ident(net)).into()),
        Some(None) => {
            let net = net.map_or(String::new(), |net| format!(".{net}"));
            Target::File(format!("/var/log/meshd{net}.log").into())
        }
    };
    let level = options.debug.unwrap_or(0);
    Log::new(target.clone(), level).unwrap_or_else(|error| {
        eprintln!("meshd: cannot open the log {target:?}: {error}; logging here");
        Log::new(Target::stderr(), level).expect("standard error needs no opening")
    })
}

/// Loads the configuration and says what is wrong with it: every problem, not the first one.
fn load(source: &Source) -> anyhow::Result<Config> {
    match config::load(source, None) {
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
            bail!(
                "the configuration in {} cannot be used",
                source.base.display()
            )
        }
    }
}

/// Where our files are.
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
        (Sandbox::Normal, prepared) => {
            Some(prepared.context("cannot start the process that runs scripts")?)
        }
        // Nobody but us runs scripts.
        (Sandbox::Off | Sandbox::High, prepared) => {
            prepared.into_iter().for_each(Prepared::dismiss);
            None
        }
    };
    let net = config.source.net.as_deref();
    let pidfile = options.pidfile.as_deref();
    let places = Places {
        pid: match options.called {
            Called::Tincd => tincd::pid_path(options),
            Called::Meshd => pidfile.map_or_else(|| control_proto::pid_path(net), Into::into),
        },
        socket: control_proto::socket_path(net, pidfile),
    };
    let (events, queue) = mpsc::channel(EVENTS);
    signals::catch(&events).context("cannot catch signals")?;
    // The socket first: it tells whether another one runs, before anything of its is touched.
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
            driver.run(queue).await
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
    startup::open::let_go(&config.shell, mode, &mut kept);
    let device = startup::open::open_device(&config.shell, mode, &mut kept).await?;
    let sockets = startup::open::open_sockets(&config.shell, &device, &mut kept).await?;
    let note = kept.note();
    // Those of threads that are no more.
    kept.retain(|_, _| false);
    kept.commit();
    startup::open::make_run_dir(&places.pid)?;
    startup::open::write_pid(&places.pid)?;
    let keep = privileges::Keep {
        net_admin: config.shell.interface_routes_auto || config.shell.fwmark != 0,
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
    let own = [places.pid.parent(), places.socket.parent()].into_iter();
    let opened = startup::open::Opened {
        sockets,
        device,
        note,
        files: sandbox::Files {
            read: Vec::new(),
            write: own.flatten().map(Path::to_owned).collect(),
        },
        prepared,
    };
    driver::Driver::new(config, log.clone(), opened, dropping, events.clone())
}
