//! The lab's results: lines during the run, and one JSON object.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use serde::Serialize;

use meshd_os::clock::now;

use crate::lab::LabArgs;

/// The JSON object of `meshctl lab --json`; within a schema number, fields are only added.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    schema: &'static str,
    /// True if every step succeeded.
    ok: bool,
    /// Number of droplets.
    nodes: u8,
    /// Seconds since the start.
    seconds: f64,
    /// Steps in order.
    steps: Vec<Step>,
    /// Round trips over the mesh, for every ordered pair.
    pub(super) pings: Vec<Ping>,
    /// The transfer, if the lab reached it.
    pub(super) transfer: Option<Transfer>,
    /// The tenant's results.
    pub(super) tenant: Option<Tenant>,
    /// Rows of `meshctl peers`, by droplet.
    pub(super) peers: serde_json::Map<String, serde_json::Value>,
    /// Last lines of the daemons' logs by droplet, if a step failed.
    pub(super) logs: serde_json::Map<String, serde_json::Value>,
    #[serde(skip)]
    json: bool,
    #[serde(skip)]
    live: bool,
    #[serde(skip)]
    started: Instant,
}

/// One step.
#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    ok: bool,
    seconds: f64,
    text: String,
}

/// One measured pair.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Ping {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) rtt_seconds: f64,
}

/// One TCP transfer over the mesh.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Transfer {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    pub(super) bits_per_second: f64,
}

/// Frames that the tenant read and answers that it got.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Tenant {
    /// Frames that it read.
    pub(super) frames: u64,
    /// Bytes in them.
    pub(super) bytes: u64,
    /// Number of control markers that the tenant saw. They travel outside of the mesh and prove that it sees the wire.
    pub(super) control_seen: u64,
    /// Number of markers from the mesh that the tenant saw.
    pub(super) secret_seen: u64,
    /// Datagrams that it sent to the droplets' port.
    pub(super) datagrams_sent: u64,
    /// TCP connections that it opened to the droplets' port.
    pub(super) connections_opened: u64,
    /// Bytes that came back over UDP or TCP.
    pub(super) bytes_answered: u64,
}

impl Report {
    /// An empty report.
    pub(super) fn new(args: &LabArgs) -> Self {
        Self {
            schema: "meshctl.lab/1",
            ok: true,
            nodes: args.nodes,
            seconds: 0.0,
            steps: Vec::new(),
            pings: Vec::new(),
            transfer: None,
            tenant: None,
            peers: serde_json::Map::new(),
            logs: serde_json::Map::new(),
            json: args.json,
            live: !args.json && std::io::stdout().is_terminal(),
            started: now(),
        }
    }

    /// True if every step so far succeeded.
    pub(super) fn ok(&self) -> bool {
        self.ok
    }

    /// Runs one step, shows it, and records its result. `work` returns its result in one sentence.
    pub(super) fn step<T>(
        &mut self,
        name: &'static str,
        title: &str,
        work: impl FnOnce(&mut Self) -> anyhow::Result<(T, String)>,
    ) -> Option<T> {
        if self.live {
            print(&format!("… {title}"));
        }
        let start = now();
        let outcome = work(self);
        let took = now() - start;
        match outcome {
            Ok((value, text)) => {
                self.show('✓', title, took, &text);
                self.keep(name, true, took, text);
                Some(value)
            }
            Err(error) => {
                let text = format!("{error:#}");
                self.show('✗', title, took, &text);
                self.keep(name, false, took, text);
                None
            }
        }
    }

    /// Records a step that failed before it began.
    pub(super) fn failed(&mut self, name: &'static str, title: &str, text: String) {
        self.show('✗', title, Duration::ZERO, &text);
        self.keep(name, false, Duration::ZERO, text);
    }

    /// Prints a line for people; nothing in JSON mode.
    pub(super) fn note(&self, text: &str) {
        if !self.json {
            say(text);
        }
    }

    /// Prints the object, or the last line.
    pub(super) fn finish(&mut self) -> ExitCode {
        self.seconds = (now() - self.started).as_secs_f64();
        let held = self.steps.iter().filter(|step| step.ok).count();
        if self.json {
            match serde_json::to_string_pretty(self) {
                Ok(object) => say(&object),
                Err(error) => say(&format!(
                    "{{\"ok\": false, \"error\": {:?}}}",
                    error.to_string()
                )),
            }
        } else {
            say(&format!(
                "{held} of {} steps succeeded, {:.1} s",
                self.steps.len(),
                self.seconds
            ));
        }
        ExitCode::from(u8::from(!self.ok))
    }

    fn show(&self, mark: char, title: &str, took: Duration, text: &str) {
        if self.json {
            return;
        }
        let back = if self.live { "\r\x1b[K" } else { "" };
        let colour = match (self.live, mark) {
            (false, _) => ["", ""],
            (true, '✓') => ["\x1b[32m", "\x1b[m"],
            (true, _) => ["\x1b[31m", "\x1b[m"],
        };
        let [on, off] = colour;
        let text = text.replace('\n', "\n    ");
        say(&format!(
            "{back}{on}{mark}{off} {title} ({:.1} s): {text}",
            took.as_secs_f64()
        ));
    }

    fn keep(&mut self, name: &'static str, ok: bool, took: Duration, text: String) {
        self.ok &= ok;
        self.steps.push(Step {
            name,
            ok,
            seconds: took.as_secs_f64(),
            text,
        });
    }
}

/// Prints a line. A closed pipe does not stop the lab before its cleanup.
pub(super) fn say(text: &str) {
    print(&format!("{text}\n"));
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Pause between two requests to another process.
#[expect(
    clippy::disallowed_methods,
    reason = "the lab polls daemons that it started; nobody can wake it"
)]
pub(super) fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}
