//! The operator's scripts: tinc-up, host-up, subnet-up and their counterparts.
//!
//! Scripts run without a shell, with tinc's variables as their only environment. The packet path never waits for them.
//! Sources: config/tinc.md section 3, proto/threat-model.md section 4, T33.

mod call;
pub mod monitor;
mod queue;
mod run;

use std::{path::PathBuf, sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use meshd_proto::mesh::event::HookEvent;
use meshd_wire::NodeName;

use crate::Event;

pub use call::Call;
use monitor::Monitor;
use queue::Queue;
pub use run::Outcome;
use run::{EventSink, Order, Running};

/// The search path of every script.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Parameters of all scripts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Scripts {
    /// The configuration directory: it holds the scripts and is their working directory.
    #[serde(with = "bytes")]
    pub base: PathBuf,
    /// NETNAME, if there is one.
    pub net: Option<String>,
    /// NAME.
    pub name: NodeName,
    /// DEVICE and INTERFACE.
    pub device: (String, String),
    /// DEBUG.
    pub debug: u8,
    /// ScriptsInterpreter.
    pub interpreter: Option<String>,
    /// ScriptsExtension.
    pub extension: String,
    /// RunScripts; `None`: all scripts.
    pub run: Option<Vec<String>>,
}

impl Scripts {
    /// Returns the whole environment of a call.
    #[must_use]
    pub fn environment(&self, call: &Call) -> Vec<(&'static str, String)> {
        let (device, interface) = &self.device;
        let mut env = vec![
            ("PATH", PATH.to_owned()),
            ("NAME", self.name.to_string()),
            ("DEVICE", device.clone()),
            ("INTERFACE", interface.clone()),
            ("DEBUG", self.debug.to_string()),
        ];
        env.extend(self.net.clone().map(|net| ("NETNAME", net)));
        env.extend(call.env());
        env
    }

    /// True if RunScripts allows the script.
    #[must_use]
    pub fn may_run(&self, call: &Call) -> bool {
        let run = self.run.as_ref();
        run.is_none_or(|run| run.iter().any(|script| script == call.kind()))
    }

    /// Returns all parameters of a script run.
    fn order(&self, call: &Call) -> Order {
        let env = self.environment(call).into_iter();
        let words = self
            .interpreter
            .iter()
            .flat_map(|line| line.split_whitespace());
        let script = call.script();
        Order {
            path: self.path(&script),
            script,
            dir: self.base.clone(),
            words: words.map(str::to_owned).collect(),
            env: env.map(|(key, value)| (key.to_owned(), value)).collect(),
            limit: call.limit(),
        }
    }

    fn path(&self, script: &str) -> PathBuf {
        self.base.join(format!("{script}{}", self.extension))
    }
}

/// Serializes a path as bytes, because it may not be UTF-8.
mod bytes {
    use std::{
        ffi::OsString,
        os::unix::ffi::{OsStrExt, OsStringExt},
        path::{Path, PathBuf},
    };

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(path.as_os_str().as_bytes())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(OsString::from_vec(Vec::deserialize(from)?).into())
    }
}

/// The process that runs scripts.
#[derive(Debug, Clone)]
pub enum Runner {
    /// This process.
    Here,
    /// A process outside of our sandbox.
    Monitor(Monitor),
    /// None: Sandbox = high, after tinc-up has ended.
    Nobody,
}

impl Runner {
    /// Kills the process group of tinc-up, which the daemon started.
    pub fn kill(&self, group: i32) {
        match self {
            Self::Monitor(monitor) => monitor.kill(),
            Self::Here | Self::Nobody => run::kill(group),
        }
    }

    async fn run(&self, scripts: &Scripts, call: Call) -> Outcome {
        match self {
            Self::Here => {
                let order = scripts.order(&call);
                run::run(&order, &to_log(&order)).await
            }
            Self::Monitor(monitor) => monitor.run(call).await,
            Self::Nobody => Outcome::Absent,
        }
    }
}

/// Waiting and running scripts.
#[derive(Debug)]
pub struct Hooks {
    /// Their parameters.
    pub scripts: Scripts,
    /// The process that runs them.
    pub runner: Runner,
    queue: Queue,
    done: mpsc::Sender<Event>,
}

impl Hooks {
    /// Starts without scripts. The end of each script is an event to `done`.
    #[must_use]
    pub fn new(scripts: Scripts, done: mpsc::Sender<Event>, now: Instant) -> Self {
        Self {
            scripts,
            runner: Runner::Here,
            queue: Queue::new(now),
            done,
        }
    }

    /// Queues the scripts of an event. A missing script costs nothing.
    pub fn push(&mut self, event: &HookEvent) {
        for call in Call::of(event) {
            let runs = self.scripts.may_run(&call);
            if runs && self.scripts.path(&call.script()).exists() && !self.queue.push(call) {
                tracing::warn!("too many scripts are waiting: one was skipped");
            }
        }
    }

    /// Starts the scripts that may start now.
    pub fn start_due(&mut self, now: Instant) {
        while let Some(call) = self.queue.next(now) {
            let (runner, done) = (self.runner.clone(), self.done.clone());
            let scripts = self.scripts.clone();
            tokio::spawn(async move {
                let lane = call.lane();
                runner.run(&scripts, call).await;
                let _ = done.send(Event::HookDone(lane)).await;
            });
        }
    }

    /// Handles the end of a script of this lane.
    pub fn finished(&mut self, lane: &str) {
        self.queue.finished(lane);
    }

    /// Returns the next time for [`Self::start_due`]; `None` if no script waits for a time.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.poll_timeout()
    }

    /// True if no script waits or runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_idle()
    }
}

fn to_log(order: &Order) -> EventSink {
    let script = order.script.clone();
    Arc::new(move |event| run::log(&script, event))
}

/// Runs tinc-down and waits for it.
pub async fn run_down(runner: &Runner, scripts: &Scripts) {
    let call = Call::Device { up: false };
    if scripts.may_run(&call) {
        runner.run(scripts, call).await;
    }
}

/// A running tinc-up.
pub struct DeviceUp(Running);

impl DeviceUp {
    /// Starts it, with the rights that we have now. Returns `None` if it is missing or cannot run; the log has the
    /// reason.
    #[must_use]
    pub fn begin(scripts: &Scripts) -> Option<Self> {
        let call = Call::Device { up: true };
        let order = scripts.may_run(&call).then(|| scripts.order(&call))?;
        run::begin(&order, &to_log(&order), false).ok().map(Self)
    }

    /// Returns its process group, as a process number, for [`Runner::kill`].
    #[must_use]
    pub fn group(&self) -> Option<i32> {
        self.0.group()
    }

    /// Waits for its end; `false` if it exceeds its time limit.
    pub async fn end(&mut self) -> bool {
        let status = self.0.wait().await;
        status.map(|status| self.0.judge(status)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts() -> Scripts {
        Scripts {
            base: "/etc/meshd/priv".into(),
            net: None,
            name: named("web_01"),
            device: ("/dev/net/tun".into(), "mesh0".into()),
            debug: 3,
            interpreter: None,
            extension: String::new(),
            run: None,
        }
    }

    fn named(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    #[test]
    fn only_named_scripts_run() {
        let may = |run: Option<&[&str]>, call: &Call| {
            let run = run.map(|run| run.iter().map(ToString::to_string).collect());
            Scripts { run, ..scripts() }.may_run(call)
        };
        let (device, address) = (|up| Call::Device { up }, None);
        let host = |up| Call::Host {
            up,
            node: named("a"),
            address,
        };
        let own = |up| Call::HostFile {
            up,
            node: named("b_up"),
            address,
        };
        for call in [device(true), own(true), host(false)] {
            assert!(may(None, &call), "{call:?}");
            assert!(!may(Some(&[]), &call), "{call:?}");
        }
        let run = Some(&["tinc-up", "host-down"][..]);
        assert!(may(run, &device(true)) && may(run, &host(false)) && may(run, &own(false)));
        assert!(!may(run, &device(false)) && !may(run, &host(true)) && !may(run, &own(true)));
    }

    fn rendered(env: &[(&str, String)]) -> Vec<String> {
        env.iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect()
    }

    #[test]
    fn a_host_event_runs_both_scripts_with_exactly_these_variables() {
        let event = HookEvent::Host {
            up: true,
            node: named("berlin"),
            address: Some("[2001:db8::1]:655".parse().unwrap()),
        };
        let calls = Call::of(&event);
        let names: Vec<_> = calls.iter().map(Call::script).collect();
        assert_eq!(names, ["host-up", "hosts/berlin-up"]);
        assert_eq!(
            rendered(&scripts().environment(&calls[0])),
            [
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "NAME=web_01",
                "DEVICE=/dev/net/tun",
                "INTERFACE=mesh0",
                "DEBUG=3",
                "NODE=berlin",
                "REMOTEADDRESS=2001:db8::1",
                "REMOTEPORT=655",
            ]
        );
    }

    #[test]
    fn net_names_appear_only_where_there_is_one() {
        let mut scripts = scripts();
        let net_name = |scripts: &Scripts| {
            let env = scripts.environment(&Call::Device { up: true });
            env.into_iter().find(|(key, _)| *key == "NETNAME")
        };
        assert_eq!(net_name(&scripts), None);
        scripts.net = Some("priv".into());
        assert_eq!(net_name(&scripts), Some(("NETNAME", "priv".into())));
    }
}
