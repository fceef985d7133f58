//! One daemon on one host: its configuration, its process, its log.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    dump::Dump,
    keeper::Keeper,
    traffic::wait_ping,
    world::{Host, Wire, World, run, wait_until},
};

/// How long a mesh may take for what happens by its slowest timers (a dial's back-off, two tincs
/// that start a tunnel at once). A bound of liveness, not a measurement.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Which daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Meshd,
    Tinc11,
    Tinc10,
}

impl Kind {
    fn folder(self) -> PathBuf {
        let (variable, name) = match self {
            Self::Tinc10 => ("MESHD_TINC10", "tinc10"),
            Self::Tinc11 | Self::Meshd => ("MESHD_TINC11", "tinc11"),
        };
        std::env::var_os(variable).map_or_else(
            || {
                Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("target/peers")
                    .join(name)
            },
            PathBuf::from,
        )
    }
}

/// One node of the mesh; its daemon is killed when this is dropped.
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) host: Host,
    pub(crate) name: String,
    dir: PathBuf,
    child: Option<Child>,
    /// The stand-in for systemd, for a meshd that has one.
    keeper: Option<Keeper>,
    /// Further options of its command line.
    pub(crate) options: Vec<&'static str>,
}

impl Node {
    /// A configured node that knows nobody yet. Its tree is made by the real `tinc init`, whatever
    /// daemon will run on it. It owns 10.20.0.INDEX and fd20::INDEX and announces its IPv4
    /// addresses on its wires.
    pub(crate) fn new(kind: Kind, host: &Host) -> Self {
        let dir = host.world().dir().join(&host.name);
        let node = Self {
            kind,
            host: host.clone(),
            name: host.name.clone(),
            dir,
            child: None,
            keeper: None,
            options: Vec::new(),
        };
        node.tinc(&["init", &node.name]);
        node.tinc(&["set", "Interface", "mesh0"]);
        node.tinc(&["set", "AutoConnect", "no"]);
        node.tinc(&["add", "Subnet", &node.v4()]);
        node.tinc(&["add", "Subnet", &node.v6()]);
        for address in host.v4() {
            node.tinc(&["add", "Address", &address]);
        }
        node.write_script(
            "tinc-up",
            &format!(
                "ip link set $INTERFACE txqueuelen 5000 up\n\
                 ip address add {}/24 dev $INTERFACE\n\
                 ip -6 address add {}/64 dev $INTERFACE nodad\n",
                node.v4(),
                node.v6()
            ),
        );
        node
    }

    /// Its IPv4 address in the mesh.
    pub(crate) fn v4(&self) -> String {
        format!("10.20.0.{}", self.host.index)
    }

    /// Its IPv6 address in the mesh.
    pub(crate) fn v6(&self) -> String {
        format!("fd20::{}", self.host.index)
    }

    /// Its configuration directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The real `tinc` with these arguments on this node's configuration; panics if it fails.
    pub(crate) fn tinc(&self, arguments: &[&str]) -> String {
        run(self.tinc_command().args(arguments))
    }

    fn tinc_command(&self) -> Command {
        let folder = Kind::Tinc11.folder();
        // The tool of 1.1~pre18 waits for ever if the daemon has a new cookie since it read the old
        // one, as happens at a restart.
        let mut command = self.host.command("timeout");
        command
            .arg("10")
            .arg(folder.join("usr/sbin/tinc"))
            .env("LD_LIBRARY_PATH", folder.join("lib"))
            .arg("-b")
            .arg("-c")
            .arg(&self.dir)
            .arg(format!("--pidfile={}", self.pid_file().display()))
            .stdin(Stdio::null());
        command
    }

    /// Adds `ConnectTo` lines.
    pub(crate) fn connect_to(&self, names: &[&str]) {
        for name in names {
            self.tinc(&["add", "ConnectTo", name]);
        }
    }

    /// Writes an executable hook of this name.
    pub(crate) fn write_script(&self, name: &str, body: &str) {
        let path = self.dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Copies this node's host file to `others`, as `tinc export | tinc import` does.
    pub(crate) fn introduce_to(&self, others: &[&Self]) {
        let mut export = self.tinc(&["export"]);
        if self.kind == Kind::Tinc10 {
            // It has no such key, whatever made its tree; who holds one for it expects SPTPS.
            let lines = export.lines().filter(|line| !line.starts_with("Ed25519"));
            export = lines.map(|line| format!("{line}\n")).collect();
        }
        for other in others.iter().filter(|other| other.name != self.name) {
            let mut command = other.tinc_command();
            command
                .args(["--force", "import"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(export.as_bytes())
                .unwrap();
            assert!(child.wait().unwrap().success(), "tinc import failed");
        }
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// Starts the daemon and waits until its interface is there and its control socket answers.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let folder = self.kind.folder();
        let program = match self.kind {
            Kind::Meshd => program("meshd", env!("CARGO_BIN_EXE_meshd")),
            Kind::Tinc11 | Kind::Tinc10 => folder.join("usr/sbin/tincd"),
        };
        let mut command = match &self.keeper {
            Some(keeper) => {
                let mut command = self.host.command("sh");
                command.args(["-c", "export LISTEN_PID=$$; exec \"$@\"", "sh"]);
                command.arg(program);
                keeper.hand_over(&mut command);
                command
            }
            None => self.host.command(program),
        };
        if self.kind != Kind::Meshd {
            command.env("LD_LIBRARY_PATH", folder.join("lib"));
        }
        command
            // A system call that the sandbox refuses ends it, and so the scenario.
            .env("MESHD_SANDBOX", "kill")
            .arg("-c")
            .arg(&self.dir)
            .args(["-D", "-d3"])
            .args(&self.options)
            .arg(format!("--pidfile={}", self.pid_file().display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
        // With it go its copies of what is kept.
        drop(command);
        let name = self.name.clone();
        wait_until(
            &format!("{name} has its interface up"),
            Duration::from_secs(20),
            || {
                self.assert_runs();
                let seen = self
                    .host
                    .command("ip")
                    .args(["-o", "address", "show", "dev", "mesh0"])
                    .output()
                    .unwrap();
                let text = String::from_utf8_lossy(&seen.stdout).into_owned();
                if !text.contains(&self.v6()) {
                    return Err(format!("addresses of mesh0: {text}"));
                }
                if self.kind == Kind::Tinc10 {
                    return Ok(());
                }
                self.try_dump().map(drop)
            },
        );
    }

    /// From the next start on a service manager stands behind it.
    pub(crate) fn keep(&mut self) -> &mut Keeper {
        let path = self.dir.join("notify");
        self.keeper.get_or_insert_with(|| Keeper::new(&path))
    }

    /// The stand-in for systemd.
    pub(crate) fn keeper(&self) -> &Keeper {
        self.keeper.as_ref().expect("asked for")
    }

    /// Panics if the daemon has gone.
    pub(crate) fn assert_runs(&mut self) {
        assert!(self.child.is_some(), "{} was not started", self.name);
        if let Some(status) = self.ended() {
            panic!("{} ended: {status}", self.name);
        }
    }

    /// True if it was started and not ended by this test.
    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// How the daemon has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().unwrap();
        if status.is_some() {
            self.child = None;
        }
        status
    }

    /// Process id of the running daemon.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("started").id()
    }

    /// Stops it as a service manager would; panics if it does not end.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let mut child = self.child.take().unwrap();
        let start = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if start.elapsed() > Duration::from_secs(20) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!("{} did not end within 20 s of SIGTERM", self.name);
                }
                None => thread::sleep(Duration::from_millis(20)),
            }
        };
        let sandbox = Some(Signal::SYS.as_raw());
        assert_ne!(
            status.signal(),
            sandbox,
            "{} was ended by its sandbox",
            self.name
        );
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("started");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Resident memory in KiB.
    pub(crate) fn rss(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap()
            .parse()
            .unwrap()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The node's log so far, over all its runs.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// One of the daemon's dumps as text: `nodes`, `edges`, `subnets`, `connections`.
    pub(crate) fn dump_text(&self, what: &str) -> Result<String, String> {
        self.dump_with(&[what])
    }

    /// The same of a meshd, as meshctl's JSON.
    pub(crate) fn json(&self, what: &str) -> serde_json::Value {
        let text = self.dump_with(&[what, "--json"]).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Answer of `meshctl ARGUMENTS --json`.
    pub(crate) fn json_of(&self, arguments: &[&str]) -> serde_json::Value {
        let text = run(self.meshctl().args(arguments).arg("--json"));
        serde_json::from_str(&text).unwrap()
    }

    /// The row of `other` in what `meshctl peers --json` says.
    pub(crate) fn peer(&self, other: &str) -> serde_json::Value {
        let shown = self.json_of(&["peers"]);
        let rows = shown["data"].as_array();
        let rows = rows.unwrap_or_else(|| panic!("no peers in {shown}"));
        let row = rows.iter().find(|row| row["name"] == other);
        row.unwrap_or_else(|| panic!("no {other} in {shown}"))
            .clone()
    }

    /// A call of `meshctl` to this node's daemon.
    pub(crate) fn meshctl(&self) -> Command {
        self.meshctl_within(Duration::from_secs(10))
    }

    /// The same, ended by SIGTERM after this time.
    pub(crate) fn meshctl_within(&self, limit: Duration) -> Command {
        let mut command = self.host.command("timeout");
        command
            .arg(limit.as_secs().to_string())
            .arg(program("meshctl", env!("CARGO_BIN_EXE_meshctl")))
            .arg(format!("--pidfile={}", self.pid_file().display()));
        command
    }

    /// Answer of `meshctl migrate status --json`: its exit code, and the rows by name.
    pub(crate) fn migrate(&self) -> (Option<i32>, BTreeMap<String, serde_json::Value>) {
        let mut command = self.meshctl();
        let result = command
            .args(["migrate", "status", "--json"])
            .output()
            .unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&result.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&result.stderr)));
        let rows = shown["data"].as_array().unwrap().iter();
        let named = rows.map(|row| (row["name"].as_str().unwrap().to_owned(), row.clone()));
        (result.status.code(), named.collect())
    }

    /// Takes its Ed25519 key away: what is left is a directory of tinc 1.0.
    pub(crate) fn without_key(&self) {
        fs::remove_file(self.dir.join("ed25519_key.priv")).unwrap();
        let own = self.dir.join("hosts").join(&self.name);
        let text = fs::read_to_string(&own).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("Ed25519"));
        let kept: String = lines.map(|line| format!("{line}\n")).collect();
        fs::write(own, kept).unwrap();
    }

    /// `meshctl keygen`: an Ed25519 key of its own.
    pub(crate) fn keygen(&self) {
        run(self.meshctl().arg("-c").arg(&self.dir).arg("keygen"));
    }

    fn dump_with(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = match self.kind {
            Kind::Meshd => self.meshctl(),
            _ => self.tinc_command(),
        };
        let result = command.arg("dump").args(arguments).output().unwrap();
        if result.status.success() {
            Ok(String::from_utf8_lossy(&result.stdout).into_owned())
        } else {
            Err(format!(
                "{}: dump {arguments:?}: {}",
                self.name,
                String::from_utf8_lossy(&result.stderr)
            ))
        }
    }

    /// The daemon's view of the mesh, in the same form for every kind.
    pub(crate) fn try_dump(&self) -> Result<Dump, String> {
        Dump::parse(
            &self.dump_text("nodes")?,
            &self.dump_text("edges")?,
            &self.dump_text("subnets")?,
        )
    }

    /// As [`Self::try_dump`]; panics if it fails.
    pub(crate) fn dump(&self) -> Dump {
        self.try_dump().unwrap()
    }

    /// Waits until this node holds `other` reachable.
    pub(crate) fn wait_reaches(&self, other: &Self) {
        self.wait_dump(&format!("reaches {}", other.name), |dump| {
            dump.node(&other.name)
                .is_some_and(|node| node.status & crate::dump::REACHABLE != 0)
        });
    }

    /// Waits until this node no longer holds `other` reachable.
    pub(crate) fn wait_loses(&self, other: &Self) {
        self.wait_dump(&format!("loses {}", other.name), |dump| {
            dump.node(&other.name)
                .is_none_or(|node| node.status & crate::dump::REACHABLE == 0)
        });
    }

    /// Waits until packets to `other` go straight by UDP. Discovery needs traffic: send some.
    pub(crate) fn wait_udp(&self, other: &Self) {
        self.wait_dump(
            &format!("has a direct UDP path to {}", other.name),
            |dump| dump.direct_udp(&other.name),
        );
    }

    /// Waits until the dump satisfies `wanted`; shows the dump if it never does.
    pub(crate) fn wait_dump(&self, what: &str, mut wanted: impl FnMut(&Dump) -> bool) {
        wait_until(&format!("{} {what}", self.name), PATIENCE, || {
            let dump = self.try_dump()?;
            if wanted(&dump) {
                Ok(())
            } else {
                Err(dump.to_string())
            }
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log
                .lines()
                .filter(|line| !line.contains("localhost port unix"))
                .collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            eprintln!(
                "---- end of the log of {} ({:?}) ----\n{tail}",
                self.name, self.kind
            );
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Host files of all to all.
pub(crate) fn introduce(nodes: &[&Node]) {
    for node in nodes {
        node.introduce_to(nodes);
    }
}

/// Nodes `a`, `b`, `c` … of these kinds on one wire, each knowing all others, none started, none
/// with a `ConnectTo`.
pub(crate) fn on_one_wire<const N: usize>(
    world: &World,
    wire: &Wire,
    kinds: [Kind; N],
) -> [Node; N] {
    let mut names = 'a'..;
    let nodes = kinds.map(|kind| {
        let name = names.next().unwrap().to_string();
        Node::new(kind, &world.host(&name, &[wire]))
    });
    introduce(&nodes.each_ref());
    nodes
}

/// Starts two nodes, of which `dialler` connects to `listener`, and waits until each reaches the other
/// by UDP.
pub(crate) fn bring_up(dialler: &mut Node, listener: &mut Node) {
    dialler.connect_to(&[&listener.name]);
    listener.start();
    dialler.start();
    dialler.wait_reaches(listener);
    listener.wait_reaches(dialler);
    wait_ping(dialler, &listener.v4(), 56);
    wait_ping(listener, &dialler.v4(), 56);
    dialler.wait_udp(listener);
    listener.wait_udp(dialler);
}

/// One of our programs: from `MESHD_BIN`, or as built beside this test.
fn program(name: &str, built: &str) -> PathBuf {
    std::env::var_os("MESHD_BIN").map_or_else(|| built.into(), |dir| Path::new(&dir).join(name))
}
