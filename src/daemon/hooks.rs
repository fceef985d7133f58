//! The operator's scripts: tinc-up, host-up, subnet-up and their opposites.
//!
//! Run without a shell, in an environment of nothing but tinc's variables, never awaited by the
//! packet path. Sources: tinc-config-cli.md section 3, spec/security.md T33 and section 4.

pub mod monitor;
mod queue;
mod run;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use crate::{
    daemon::Event,
    mesh::event::HookEvent,
    wire::{
        NodeName, Subnet,
        subnet::{DEFAULT_WEIGHT, Prefix},
    },
};

use monitor::Monitor;
use queue::Queue;
pub use run::Outcome;
use run::{Order, Running, Say};

/// How long a script may take. Source: spec/security.md section 4.
const LIMIT: Duration = Duration::from_secs(30);
/// How long tinc-up and tinc-down may take; the start waits for tinc-up. Source: the same.
const LIMIT_DEVICE: Duration = Duration::from_secs(60);
/// The search path of every script.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What all scripts are told, and how they are run.
#[derive(Debug, Clone)]
pub struct Scripts {
    /// The configuration directory: where the scripts lie, and their working directory.
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
    /// RunScripts; `None`: all of them.
    pub run: Option<Vec<&'static str>>,
}

/// One script to run. Values come from types whose text holds no surprise: names, addresses, numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name below the configuration directory, without extension.
    pub script: String,
    /// Jobs of one lane run one after the other: the node concerned.
    pub lane: String,
    /// What it is about, where the lane does not say it.
    pub subject: String,
    /// Its own variables.
    pub env: Vec<(&'static str, String)>,
}

impl Scripts {
    /// The whole environment of a job.
    #[must_use]
    pub fn environment(&self, job: &Job) -> Vec<(&'static str, String)> {
        let (device, interface) = &self.device;
        let mut env = vec![
            ("PATH", PATH.to_owned()),
            ("NAME", self.name.to_string()),
            ("DEVICE", device.clone()),
            ("INTERFACE", interface.clone()),
            ("DEBUG", self.debug.to_string()),
        ];
        env.extend(self.net.clone().map(|net| ("NETNAME", net)));
        env.extend(job.env.iter().cloned());
        env
    }

    /// Whether a script may run at all (RunScripts).
    #[must_use]
    pub fn may_run(&self, script: &str) -> bool {
        let which = match script.strip_prefix("hosts/") {
            Some(node) if node.ends_with("-up") => "host-up",
            Some(_) => "host-down",
            None => script,
        };
        let run = self.run.as_ref();
        run.is_none_or(|run| run.contains(&which))
    }

    /// All that has to be known to run a job.
    fn order(&self, job: &Job, limit: Duration) -> Order {
        let env = self.environment(job).into_iter();
        let words = self
            .interpreter
            .iter()
            .flat_map(|line| line.split_whitespace());
        Order {
            script: job.script.clone(),
            path: self.path(&job.script),
            dir: self.base.clone(),
            words: words.map(str::to_owned).collect(),
            env: env.map(|(key, value)| (key.to_owned(), value)).collect(),
            limit,
        }
    }

    /// tinc-up or tinc-down, where it may run.
    fn device(&self, up: bool) -> Option<Order> {
        let job = Job::device(up);
        let runs = self.may_run(&job.script);
        runs.then(|| self.order(&job, LIMIT_DEVICE))
    }

    fn path(&self, script: &str) -> PathBuf {
        self.base.join(format!("{script}{}", self.extension))
    }
}

impl Job {
    /// tinc-up or tinc-down.
    #[must_use]
    pub fn device(up: bool) -> Self {
        Self {
            script: format!("tinc-{}", updown(up)),
            lane: String::new(),
            subject: String::new(),
            env: Vec::new(),
        }
    }

    /// The jobs of an event, in order.
    #[must_use]
    pub fn of(event: &HookEvent) -> Vec<Self> {
        match event {
            HookEvent::Host { up, node, address } => {
                let up = updown(*up);
                let mut env = vec![("NODE", node.to_string())];
                env.extend(remote(*address));
                let job = |script| Self {
                    script,
                    lane: node.to_string(),
                    subject: String::new(),
                    env: env.clone(),
                };
                vec![job(format!("host-{up}")), job(format!("hosts/{node}-{up}"))]
            }
            HookEvent::Subnet {
                up,
                node,
                subnet,
                address,
            } => {
                let mut env = vec![("NODE", node.to_string())];
                env.extend(remote(*address));
                env.extend(network(subnet));
                vec![Self {
                    script: format!("subnet-{}", updown(*up)),
                    lane: node.to_string(),
                    subject: subnet.to_string(),
                    env,
                }]
            }
        }
    }
}

fn updown(up: bool) -> &'static str {
    if up { "up" } else { "down" }
}

/// Unset where the address is not known: nothing that is no address reaches a script.
fn remote(address: Option<SocketAddr>) -> impl Iterator<Item = (&'static str, String)> {
    let words = address.map(|address| {
        [
            ("REMOTEADDRESS", address.ip().to_string()),
            ("REMOTEPORT", address.port().to_string()),
        ]
    });
    words.into_iter().flatten()
}

/// SUBNET and WEIGHT as 1.1 writes them: the weight is empty where it is the default.
fn network(subnet: &Subnet) -> [(&'static str, String); 2] {
    let weight = match subnet.weight {
        DEFAULT_WEIGHT => String::new(),
        weight => weight.to_string(),
    };
    let prefix: &Prefix = &subnet.prefix;
    [("SUBNET", prefix.to_string()), ("WEIGHT", weight)]
}

/// Who runs scripts.
#[derive(Debug, Clone)]
pub enum Runner {
    /// This process.
    Here,
    /// One that stays outside of our sandbox.
    Monitor(Monitor),
    /// Nobody: Sandbox = high, once tinc-up has ended.
    Nobody,
}

impl Runner {
    /// Kills the process group of tinc-up, which the daemon itself has started.
    pub fn kill(&self, group: i32) {
        match self {
            Self::Monitor(monitor) => monitor.kill(),
            Self::Here | Self::Nobody => run::kill(group),
        }
    }

    async fn run(&self, order: Order) -> Outcome {
        match self {
            Self::Here => run::run(&order, &to_log(&order)).await,
            Self::Monitor(monitor) => monitor.run(order).await,
            Self::Nobody => Outcome::Absent,
        }
    }
}

/// The scripts that wait and run.
#[derive(Debug)]
pub struct Hooks {
    /// What they are told.
    pub scripts: Scripts,
    /// Who runs them.
    pub runner: Runner,
    queue: Queue,
    done: mpsc::Sender<Event>,
}

impl Hooks {
    /// Nothing waits. The end of each script is told by an event to `done`.
    #[must_use]
    pub fn new(scripts: Scripts, done: mpsc::Sender<Event>, now: Instant) -> Self {
        Self {
            scripts,
            runner: Runner::Here,
            queue: Queue::new(now),
            done,
        }
    }

    /// Queues the scripts of an event. Those that are not there cost nothing.
    pub fn push(&mut self, event: &HookEvent) {
        for job in Job::of(event) {
            let runs = self.scripts.may_run(&job.script);
            if runs && self.scripts.path(&job.script).exists() && !self.queue.push(job) {
                tracing::warn!("too many scripts wait: one was left out");
            }
        }
    }

    /// Starts what may start now.
    pub fn start_due(&mut self, now: Instant) {
        while let Some(job) = self.queue.next(now) {
            let (runner, done) = (self.runner.clone(), self.done.clone());
            let order = self.scripts.order(&job, LIMIT);
            tokio::spawn(async move {
                runner.run(order).await;
                let _ = done.send(Event::HookDone(job.lane)).await;
            });
        }
    }

    /// A job of this lane has ended.
    pub fn finished(&mut self, lane: &str) {
        self.queue.finished(lane);
    }

    /// When [`Self::start_due`] should be called again; `None` while nothing waits for the time.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.poll_timeout()
    }

    /// Whether nothing waits and nothing runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_idle()
    }
}

fn to_log(order: &Order) -> Say {
    let script = order.script.clone();
    Arc::new(move |said| run::log(&script, said))
}

/// Runs tinc-down and waits for it.
pub async fn run_down(runner: &Runner, scripts: &Scripts) {
    if let Some(order) = scripts.device(false) {
        runner.run(order).await;
    }
}

/// tinc-up while it runs.
pub struct DeviceUp(Running);

impl DeviceUp {
    /// Starts it, with the rights that we have now; none where there is none, or it cannot be run, which the log says.
    #[must_use]
    pub fn begin(scripts: &Scripts) -> Option<Self> {
        let order = scripts.device(true)?;
        run::begin(&order, &to_log(&order), false).ok().map(Self)
    }

    /// Its process group, as a process number, for [`Runner::kill`].
    #[must_use]
    pub fn group(&self) -> Option<i32> {
        self.0.group()
    }

    /// Waits for its end; `false` where it takes longer than it may.
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
            name: NodeName::new("web_01").unwrap(),
            device: ("/dev/net/tun".into(), "mesh0".into()),
            debug: 3,
            interpreter: None,
            extension: String::new(),
            run: None,
        }
    }

    #[test]
    fn only_named_scripts_run() {
        let may = |run: Option<&[&'static str]>, script| {
            let run = run.map(<[_]>::to_vec);
            Scripts { run, ..scripts() }.may_run(script)
        };
        for script in ["tinc-up", "hosts/a-up", "subnet-down"] {
            assert!(may(None, script), "{script}");
            assert!(!may(Some(&[]), script), "{script}");
        }
        let run = Some(&["tinc-up", "host-down"][..]);
        assert!(may(run, "tinc-up") && may(run, "host-down") && may(run, "hosts/b_up-down"));
        assert!(!may(run, "tinc-down") && !may(run, "host-up") && !may(run, "hosts/a-up"));
    }

    fn shown(env: &[(&str, String)]) -> Vec<String> {
        env.iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect()
    }

    #[test]
    fn a_host_event_runs_both_scripts_with_exactly_these_variables() {
        let event = HookEvent::Host {
            up: true,
            node: NodeName::new("berlin").unwrap(),
            address: Some("[2001:db8::1]:655".parse().unwrap()),
        };
        let jobs = Job::of(&event);
        let names: Vec<_> = jobs.iter().map(|job| job.script.as_str()).collect();
        assert_eq!(names, ["host-up", "hosts/berlin-up"]);
        assert_eq!(
            shown(&scripts().environment(&jobs[0])),
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
    fn subnets_have_the_short_form_and_an_unknown_address_is_unset() {
        for (text, subnet, weight) in [
            ("10.1.0.9/32#10", "SUBNET=10.1.0.9", "WEIGHT="),
            ("fd00:2:0::/64#5", "SUBNET=fd00:2::/64", "WEIGHT=5"),
        ] {
            let event = HookEvent::Subnet {
                up: false,
                node: NodeName::new("berlin").unwrap(),
                subnet: text.parse().unwrap(),
                address: None,
            };
            let jobs = Job::of(&event);
            assert_eq!(jobs[0].script, "subnet-down");
            assert_eq!(shown(&jobs[0].env), ["NODE=berlin", subnet, weight]);
        }
    }

    #[test]
    fn net_names_appear_only_where_there_is_one() {
        let mut scripts = scripts();
        let named = |scripts: &Scripts| {
            let env = scripts.environment(&Job::device(true));
            env.into_iter().find(|(key, _)| *key == "NETNAME")
        };
        assert_eq!(named(&scripts), None);
        scripts.net = Some("priv".into());
        assert_eq!(named(&scripts), Some(("NETNAME", "priv".into())));
    }

    #[test]
    fn no_value_from_the_wire_leaves_the_safe_alphabet() {
        // T33: whatever a peer writes, it must first become a name, an address or a subnet.
        let hostile = [
            "$(touch /tmp/x)",
            "`id`",
            "a b",
            "x;y",
            "x\ny",
            "x\0y",
            "%n",
            "'\"",
            "../x",
        ];
        for text in hostile {
            assert!(NodeName::new(text).is_err(), "{text:?}");
            assert!(text.parse::<Subnet>().is_err(), "{text:?}");
            assert!(
                format!("10.0.0.1{text}").parse::<Subnet>().is_err(),
                "{text:?}"
            );
        }
        let safe = |c: char| c.is_ascii_alphanumeric() || "_.:/#-".contains(c);
        for subnet in ["10.0.0.0/8#-5", "02:00:00:00:00:01", "::ffff:1.2.3.4/128#7"] {
            let event = HookEvent::Subnet {
                up: true,
                node: NodeName::new("a_B9").unwrap(),
                subnet: subnet.parse().unwrap(),
                address: Some("[::ffff:1.2.3.4]:1".parse().unwrap()),
            };
            for (key, value) in Job::of(&event).remove(0).env {
                assert!(value.chars().all(safe), "{key}={value:?}");
            }
        }
    }
}
