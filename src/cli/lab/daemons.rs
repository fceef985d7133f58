//! The droplets' daemons: processes of the program `meshd`.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use meshd_os::clock::now;

use crate::lab::{
    program,
    report::pause,
    tree,
    world::{self, Droplet},
};

/// Longest wait for a daemon's control socket.
const START: Duration = Duration::from_secs(15);
/// Longest wait for a daemon's end.
const STOP: Duration = Duration::from_secs(10);
/// Number of log lines that are shown.
const LAST_LINES: usize = 20;

/// A running daemon. Dropping the value does not stop it; the end of process 1 does.
pub(super) struct Daemon {
    /// The droplet of the daemon.
    pub(super) droplet: Droplet,
    base: PathBuf,
    child: Child,
}

/// Starts a daemon for each droplet and waits until all answer.
pub(super) fn start(
    meshd: &Path,
    root: &Path,
    droplets: &[Droplet],
) -> anyhow::Result<Vec<Daemon>> {
    let mut daemons: Vec<Daemon> = droplets
        .iter()
        .map(|droplet| Daemon::spawn(meshd, root, droplet))
        .collect::<Result<_, _>>()?;
    for daemon in &mut daemons {
        daemon.wait_ready()?;
    }
    Ok(daemons)
}

/// Stops every daemon by SIGTERM and checks that each exits without an error.
pub(super) fn stop(daemons: &mut [Daemon]) -> anyhow::Result<()> {
    for daemon in daemons.iter() {
        let pid = Pid::from_child(&daemon.child);
        kill_process(pid, Signal::TERM)
            .with_context(|| format!("{}: the daemon has ended already", daemon.droplet.name))?;
    }
    let deadline = now() + STOP;
    for daemon in daemons {
        let status = loop {
            if let Some(status) = daemon.child.try_wait()? {
                break status;
            }
            ensure!(
                now() < deadline,
                "{}: still running after SIGTERM",
                daemon.droplet.name
            );
            pause();
        };
        ensure!(
            status.success(),
            "{}: the daemon ended with {status}",
            daemon.droplet.name
        );
    }
    Ok(())
}

impl Daemon {
    fn spawn(meshd: &Path, root: &Path, droplet: &Droplet) -> anyhow::Result<Self> {
        let base = tree::directory(root, droplet);
        let log = File::create(base.join("log")).context("make a log file")?;
        let mut command = Command::new(meshd);
        command
            .arg0("meshd")
            .arg("-c")
            .arg(&base)
            .arg("-D")
            .arg(format!("--pidfile={}/pid", base.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C on the terminal reaches the lab only; the lab stops its daemons.
            .process_group(0);
        let child = world::within(&droplet.name, || command.spawn())?
            .with_context(|| format!("{}: start the daemon", droplet.name))?;
        Ok(Self {
            droplet: droplet.clone(),
            base,
            child,
        })
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = now() + START;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{}: the daemon ended with {status}", self.droplet.name);
            }
            let Err(error) = self.ask(&["status", "--json"]) else {
                return Ok(());
            };
            if now() > deadline {
                return Err(
                    error.context(format!("{}: the daemon is not ready", self.droplet.name))
                );
            }
            pause();
        }
    }

    /// Runs `meshctl` against this daemon; returns what it printed.
    pub(super) fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(program::SELF)
            .arg0("meshctl")
            .arg(format!("--pidfile={}/pid", self.base.display()))
            .args(words)
            .stdin(Stdio::null())
            .output()
            .context("start meshctl")?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!(
                "meshctl {}: {}: {}",
                words.join(" "),
                output.status,
                stderr.trim()
            );
        }
        String::from_utf8(output.stdout).context("meshctl printed something that is not UTF-8")
    }
}

/// Returns the end of the log of the daemon of `droplet`, running or not.
pub(super) fn last_lines(root: &Path, droplet: &Droplet) -> String {
    let text = fs::read(tree::directory(root, droplet).join("log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}
