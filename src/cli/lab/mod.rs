//! `meshctl lab`: a whole mesh in one process tree, for demonstration.
//!
//! Droplets and one hostile tenant stand in network namespaces on one shared wire. All of them are
//! inside a private network, mount and process-id namespace, and for an ordinary user also a user namespace. [`run`] checks
//! the machine, moves into the namespaces and starts meshctl again as process 1 of the namespace.
//! Process 1 (`steps`) builds the world, starts the daemons and checks them.
//!
//! The kernel removes everything at the end. It kills every process of the lab when process 1 ends, and
//! process 1 when the process of the user ends. All files are in a tmpfs, all devices in namespaces.

mod daemons;
mod ping;
mod program;
mod report;
mod steps;
mod tap;
mod tenant;
mod transfer;
mod tree;
mod world;

use std::{
    fs::OpenOptions,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, bail};

pub use program::Meshd;
use report::Report;

/// Options of `meshctl lab`.
#[derive(Debug, Clone, clap::Args)]
pub struct LabArgs {
    /// Build N droplets
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    pub nodes: u8,
    /// Keep the lab running until Enter or Ctrl-C, and print commands to inspect it
    #[arg(long)]
    pub keep: bool,
    /// Print one JSON object (schema "meshctl.lab/1") at the end instead of steps
    #[arg(long)]
    pub json: bool,
    /// Set by the lab on the process inside: the id of the process outside
    #[arg(long, hide = true, value_name = "PID")]
    inside: Option<u32>,
    /// Set by the lab on the process inside: the program of its daemons
    #[arg(long, hide = true, value_name = "PATH", default_value = program::SELF)]
    meshd: PathBuf,
}

/// Exit code of a process that Ctrl-C ended, as shells report it.
const INTERRUPTED: u8 = 130;

/// Runs the lab. The exit code is 0 if every step succeeds, 1 if a step fails, 130 after Ctrl-C.
#[must_use]
pub fn run(args: &LabArgs, meshd: Meshd) -> ExitCode {
    let mut report = Report::new(args);
    if let Some(outside) = args.inside {
        return steps::run(args, outside, &mut report);
    }
    outside(args, meshd).unwrap_or_else(|error| refuse(&mut report, &error))
}

fn outside(args: &LabArgs, meshd: Meshd) -> anyhow::Result<ExitCode> {
    check_machine()?;
    let meshd = meshd.find()?;
    world::move_in()?;
    start_inside(args, &meshd)
}

fn refuse(report: &mut Report, error: &anyhow::Error) -> ExitCode {
    report.failed(
        "machine",
        "this machine can run a lab",
        format!("{error:#}"),
    );
    report.finish()
}

fn check_machine() -> anyhow::Result<()> {
    let ip = Command::new("ip").arg("-V").stdout(Stdio::null()).status();
    if ip.is_err() {
        bail!("the program `ip` is missing: install iproute2 (`apt install iproute2`)");
    }
    let Err(error) = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
    else {
        return Ok(());
    };
    let remedy = match error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error)
    {
        Some(rustix::io::Errno::ACCESS) => {
            "run the lab as root, or give every user access (`chmod 666 /dev/net/tun`, as udev does by default)"
        }
        Some(rustix::io::Errno::NOENT) => {
            "run `modprobe tun`, in a container pass the device (`--device /dev/net/tun`)"
        }
        _ => "run `modprobe tun` as root",
    };
    bail!("cannot open /dev/net/tun ({error}): {remedy}")
}

/// Starts this program again as process 1 of the new process-id namespace and waits for its end.
fn start_inside(args: &LabArgs, meshd: &Path) -> anyhow::Result<ExitCode> {
    let mut command = Command::new(program::SELF);
    command
        .arg0("meshctl")
        .args(["lab", "--nodes", &args.nodes.to_string()])
        .args(args.keep.then_some("--keep"))
        .args(args.json.then_some("--json"))
        .args(["--inside", &std::process::id().to_string(), "--meshd"])
        .arg(meshd);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start waiting for signals")?
        .block_on(supervise(command.into(), args.json))
}

async fn supervise(mut command: tokio::process::Command, json: bool) -> anyhow::Result<ExitCode> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut child = command.spawn().context("start the lab's process 1")?;
    tokio::select! {
        status = child.wait() => {
            let code = status?.code().and_then(|code| u8::try_from(code).ok());
            return Ok(ExitCode::from(code.unwrap_or(1)));
        }
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    // Process 1 ends after every other process of its namespace.
    child.kill().await?;
    if !json {
        report::say("\ninterrupted: every process, device and file of the lab was removed");
    }
    Ok(ExitCode::from(INTERRUPTED))
}
