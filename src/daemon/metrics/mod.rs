//! Metrics for Prometheus. Their names are stable.
//!
//! Source: cli/meshctl.md section 4.4, proto/threat-model.md section 2.4.

pub(super) mod drift;
mod families;
pub(super) mod listen;

use std::{
    collections::BTreeMap,
    fs,
    time::{Instant, SystemTime},
};

use families::Families;

use meshd_api::report::RefusedRow;
use meshd_dataplane::fastpath;
use meshd_diagnose::{
    Facts, diagnose,
    health::{HealthFacts, Limits},
};
use meshd_os::clock;
use meshd_proto::{dialect::Dialect, mesh::reports::facts::PathKind, route::DropReason};

use crate::{driver::Driver, sandbox, status};

/// Load of the packet threads between two reads.
#[derive(Debug, Default)]
pub(super) struct Busy {
    /// Nanoseconds on a processor by thread, and the time of the reading.
    seen: BTreeMap<String, (u64, Instant)>,
}

impl Busy {
    /// Returns the load of each thread since the last read, or since `started`, 0 to 1. Empty if /proc is hidden.
    fn measure(&mut self, started: Instant, now: Instant) -> Vec<(String, f64)> {
        let mut busy = Vec::new();
        for (name, run) in running() {
            let (before, at) = self
                .seen
                .insert(name.clone(), (run, now))
                .unwrap_or((0, started));
            let wall = now.saturating_duration_since(at).as_nanos();
            if wall > 0 {
                let run = run.saturating_sub(before);
                busy.push((name, (run as f64 / wall as f64).min(1.0)));
            }
        }
        busy
    }
}

/// Returns our packet threads, with the nanoseconds that each has run.
pub(super) fn running() -> Vec<(String, u64)> {
    let tasks = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let mut threads: Vec<_> = tasks
        .filter_map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let name = name.trim_end();
            if !name.starts_with(fastpath::THREAD_NAME) {
                return None;
            }
            let times = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let run = times.split_whitespace().next()?.parse().ok()?;
            Some((name.to_owned(), run))
        })
        .collect();
    threads.sort();
    threads
}

/// Returns our memory in RAM, in bytes.
fn resident_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: u64 = line?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes << 10)
}

fn since_epoch(time: SystemTime) -> f64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

impl Driver {
    /// Returns all metrics as text.
    pub(super) fn metrics(&mut self, now: Instant) -> String {
        let mut out = Families::default();
        let net = self.config.source.net.as_deref().unwrap_or_default();
        let build = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("net", net),
            ("node", self.config.settings.name.as_str()),
        ];
        out.gauge(
            "meshd_build_info",
            "Version and node of this daemon; always 1.",
            [(&build[..], 1.0)],
        );
        self.findings(&mut out, now);
        self.peer_metrics(&mut out, now);
        self.measured(&mut out, now);
        self.mesh_metrics(&mut out);

        let drift = self.drift(now);
        out.gauge(
            "meshd_config_drift_files",
            "Files on disk that differ from the configuration in force, up to a minute ago.",
            drift.map(|files| (&[][..], files as f64)),
        );
        let config = &self.config;
        let loaded = f64::from(u8::from(self.reloads.worked));
        out.gauge(
            "meshd_config_reload_success",
            "1 if the last reload was applied, or before the first; else 0.",
            [(&[][..], loaded)],
        );
        let age = |made: SystemTime| clock::wall().duration_since(made).unwrap_or_default();
        let age = config.shell.key_made.map(age);
        out.gauge(
            "meshd_key_age_seconds",
            "Age of the file with this node's Ed25519 key.",
            age.map(|age| (&[][..], age.as_secs_f64())),
        );
        let hosts = config.settings.hosts.iter();
        let expiries = hosts
            .filter_map(|(name, host)| Some(([("peer", name.as_str())], host.expires? as f64)));
        out.gauge(
            "meshd_key_expiry_timestamp_seconds",
            "Expiry time of the node: Expires in its host file.",
            expiries,
        );
        let busy = self.vitals.busy.measure(self.life.started, now);
        let busy = busy
            .iter()
            .map(|(name, ratio)| ([("worker", name.as_str())], *ratio));
        out.gauge(
            "meshd_worker_busy_ratio",
            "Part of the time since the last scrape that a packet thread has run.",
            busy,
        );
        out.gauge(
            "meshd_resident_memory_bytes",
            "Memory of the daemon in RAM.",
            resident_memory().map(|bytes| (&[][..], bytes as f64)),
        );
        out.text()
    }

    /// Adds the findings of `meshctl peers`, and of `meshctl health` without limits of an operator.
    fn findings(&self, out: &mut Families, now: Instant) {
        let refused = self.mesh.refused_subnets();
        let refused: Vec<RefusedRow> = refused.iter().map(RefusedRow::from).collect();
        let nodes = self.mesh.peers(now);
        let rows = self.peer_rows(now);
        let health = diagnose(&Facts::Health(&HealthFacts {
            peers: &rows,
            status: &self.status(now),
            refused: &refused,
            other_key: None,
            limits: &Limits::default(),
        }));
        let nodes = nodes.iter().flat_map(|node| diagnose(&Facts::Node(node)));
        let counts = meshd_diagnose::counts(nodes.chain(health)).into_iter();
        let counts = counts.map(|((code, severity), count)| {
            let labels = [
                ("code", code.word()),
                ("severity", severity.word().to_owned()),
            ];
            (labels, count as f64)
        });
        out.gauge(
            "meshd_finding",
            "Findings of peers and health: nodes with the finding, or 1 for one about the daemon.",
            counts,
        );
    }

    /// Adds metrics of each peer that `meshctl peers` shows too.
    fn peer_metrics(&self, out: &mut Families, now: Instant) {
        let rows = self.peer_rows(now);
        let label = |name: &'_ str| [("peer", name.to_owned())];
        let flag = |set: bool| f64::from(u8::from(set));
        let up = rows.iter().map(|row| (label(&row.name), flag(row.up)));
        out.gauge("meshd_peer_up", "1 if the node is reachable, else 0.", up);
        let paths = rows.iter().flat_map(|row| {
            PathKind::ALL.map(|kind| {
                let labels = [("peer", row.name.clone()), ("path", kind.word().to_owned())];
                (labels, flag(row.path == kind))
            })
        });
        out.gauge(
            "meshd_peer_path",
            "Path of packets for the node: 1 for one of udp, tcp, via, down.",
            paths,
        );
        let legacy = rows.iter().map(|row| {
            (
                label(&row.name),
                flag(row.protocol == Some(Dialect::Legacy)),
            )
        });
        out.gauge(
            "meshd_peer_legacy",
            "1 if packets for the node use tinc 1.0's protocol, else 0.",
            legacy,
        );
        let mtu = rows
            .iter()
            .filter_map(|row| Some((label(&row.name), row.pmtu_bytes?.into())));
        out.gauge(
            "meshd_peer_pmtu_bytes",
            "Longest inner packet that is proven to reach the node by UDP.",
            mtu,
        );
        let counters = [
            (
                "meshd_peer_rx_bytes_total",
                "Bytes from the node, 14 of each packet's header included.",
            ),
            (
                "meshd_peer_tx_bytes_total",
                "Bytes to the node, 14 of each packet's header included.",
            ),
            ("meshd_peer_rx_packets_total", "Packets from the node."),
            ("meshd_peer_tx_packets_total", "Packets to the node."),
        ];
        for (which, (name, help)) in counters.into_iter().enumerate() {
            let counts = rows.iter().map(|row| {
                let counts = [row.rx_bytes, row.tx_bytes, row.rx_packets, row.tx_packets];
                (label(&row.name), counts[which])
            });
            out.counter(name, help, counts);
        }
    }

    /// Adds metrics of each peer that no command shows.
    fn measured(&self, out: &mut Families, now: Instant) {
        let measures = self.mesh.measures(now);
        let label = |name: &str| [("peer", name.to_owned())];
        out.round_trips(
            "meshd_peer_rtt_seconds",
            "Round trips of UDP probes and of the link's pings.",
            &measures.peers,
        );
        let loss = measures.peers.iter();
        let loss = loss.filter_map(|peer| Some((label(&peer.name), peer.loss_ratio?)));
        out.gauge(
            "meshd_peer_loss_ratio",
            "Part of the last 31 UDP probes without an answer.",
            loss,
        );
        let wall = clock::wall();
        let seen = measures.peers.iter().filter_map(|peer| {
            let at = wall.checked_sub(peer.heard?)?;
            Some((label(&peer.name), since_epoch(at)))
        });
        out.gauge(
            "meshd_peer_last_seen_timestamp_seconds",
            "Time of the last message or packet from the node.",
            seen,
        );
        let lines = measures.lines.iter().flat_map(|line| {
            let name = line.name.to_ascii_lowercase();
            [("in", line.received), ("out", line.sent)]
                .map(|(dir, count)| ([("type", name.clone()), ("dir", dir.to_owned())], count))
        });
        out.counter(
            "meshd_meta_messages_total",
            "Request lines over links, by type and direction.",
            lines,
        );
    }

    /// Adds metrics of the mesh and of the daemon.
    fn mesh_metrics(&self, out: &mut Families) {
        let links = self.mesh.connections();
        let links = Dialect::ALL.into_iter().rev().map(|dialect| {
            let count = links.iter().filter(|link| link.protocol == dialect).count();
            ([("dialect", dialect.name())], count as f64)
        });
        out.gauge("meshd_links", "Links that are up, by protocol.", links);
        let mesh = self.mesh.status();
        let plain = |count: u64| [(&[][..], count)];
        out.counter(
            "meshd_storm_brake_total",
            "Lines and graph objects of other nodes that a limit refused.",
            plain(mesh.refused),
        );
        out.counter(
            "meshd_downgrades_refused_total",
            "Refused or suspected protocol downgrades of nodes.",
            plain(mesh.downgrades),
        );
        let drops = self.drops();
        let drops = DropReason::ALL.map(|reason| {
            let count = drops.get(&reason).copied().unwrap_or_default();
            ([("reason", status::label(reason))], count)
        });
        out.counter("meshd_drops_total", "Dropped packets.", drops);
        let refused = sandbox::refused().into_iter();
        out.counter(
            "meshd_sandbox_refused_calls_total",
            "System calls that the sandbox has refused the daemon; none is expected.",
            refused.map(|(call, count)| ([("call", call)], count)),
        );
        out.counter(
            "meshd_log_lines_lost_total",
            "Log lines lost because the reader of the log was too slow.",
            plain(self.log.lost()),
        );
        let queued = [(&[][..], self.links.pool.queued() as f64)];
        out.gauge(
            "meshd_meta_queue_bytes",
            "Bytes in output queues of links.",
            queued,
        );
    }
}
