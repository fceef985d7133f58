//! The state of the daemon, for `meshctl status`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use meshd_api::proto::{DaemonStatus, ThreadRow};
use meshd_dataplane::{fastpath, io::udp::UdpSocket};
use meshd_proto::route::{DropCounts, DropReason};

use crate::{driver::Driver, metrics, sandbox};

/// Heartbeats of the packet threads.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    seen: Vec<(u64, Instant)>,
}

impl Pulse {
    /// Records the present heartbeats.
    pub(super) fn feel(&mut self, beats: &[u64], now: Instant) {
        self.seen.truncate(beats.len());
        for ((last, at), beat) in self.seen.iter_mut().zip(beats) {
            if last != beat {
                (*last, *at) = (*beat, now);
            }
        }
        let new = &beats[self.seen.len()..];
        self.seen.extend(new.iter().map(|beat| (*beat, now)));
    }

    /// Returns seconds since the last heartbeat of thread `index`.
    fn age(&self, index: usize, now: Instant) -> Option<f64> {
        let (_, at) = self.seen.get(index)?;
        Some(now.saturating_duration_since(*at).as_secs_f64())
    }
}

/// Techniques of the packet path, as words.
pub(super) struct Offloads {
    /// Techniques in use.
    pub(super) have: Vec<String>,
    /// Techniques that kernel or device lacks; without a device, none of a device.
    pub(super) lack: Vec<String>,
}

impl Driver {
    pub(super) fn status(&self, now: Instant) -> DaemonStatus {
        let config = &self.config;
        let mtu = self.net.tun.as_ref().and_then(|tun| tun.mtu().ok());
        let offloads = self.offloads();
        DaemonStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_seconds: now
                .saturating_duration_since(self.life.started)
                .as_secs_f64(),
            interface: self.net.tun.as_ref().map(|tun| tun.name().into()),
            mtu: mtu.map(u32::from),
            listen: addresses(&self.net.udp),
            not_listening: self.net.listening.missing(),
            public_key: config.settings.key.public().to_string(),
            offers: Some(config.settings.offers()),
            min_protocol: config.settings.min_protocol.map(Into::into),
            config: config.source.base.display().to_string(),
            workers: self
                .net
                .workers
                .as_ref()
                .map_or(0, |workers| workers.workers()),
            offloads: offloads.have,
            offloads_missing: offloads.lack,
            threads: self.threads(now),
            drops: labelled(self.drops()),
            messages: self
                .mesh
                .lines()
                .map(|line| (line.name.into(), [line.received, line.sent]))
                .collect(),
            meta_queue_bytes: self.links.pool.queued(),
            mesh: self.mesh.status(),
            problems: config.problems.iter().map(ToString::to_string).collect(),
            refused_calls: sandbox::refused(),
        }
    }

    /// Returns the techniques of this system.
    pub(super) fn offloads(&self) -> Offloads {
        let tun = self.net.tun.as_ref().map(|tun| tun.offloads());
        let all = [
            ("tun_tso", tun.map(|tun| tun.tso)),
            ("tun_uso", tun.map(|tun| tun.uso)),
            (
                "udp_gso",
                Some(self.net.udp.iter().any(|udp| udp.max_segments() > 1)),
            ),
            (
                "udp_gro",
                Some(self.net.udp.iter().any(|udp| udp.has_gro())),
            ),
            ("recvmmsg", Some(true)),
        ];
        let words = |wanted: bool| {
            let those = all.iter().filter(|(_, has)| *has == Some(wanted));
            those.map(|(word, _)| (*word).to_owned()).collect()
        };
        Offloads {
            have: words(true),
            lack: words(false),
        }
    }

    /// Returns drops of the driver and of all packet threads.
    pub(super) fn drops(&self) -> DropCounts {
        let mut sum = self.net.drops.clone();
        let workers = self.net.workers.as_ref().map(fastpath::Handle::drops);
        for (reason, count) in workers.unwrap_or_default() {
            *sum.entry(reason).or_default() += count;
        }
        sum
    }

    fn threads(&self, now: Instant) -> Vec<ThreadRow> {
        let Some(workers) = &self.net.workers else {
            return Vec::new();
        };
        let all = workers.beats().into_iter().zip(workers.drops_each());
        let running: BTreeMap<_, _> = metrics::running().into_iter().collect();
        let mut rows = Vec::new();
        for (index, (queue, (beats, drops))) in self.net.queues.iter().zip(all).enumerate() {
            let name = fastpath::thread_name(index);
            let run = running.get(&name).copied();
            rows.push(ThreadRow {
                device: queue.tun.is_some(),
                sockets: addresses(&queue.udp),
                beats,
                beat_age_seconds: self.vitals.pulse.age(index, now),
                run_seconds: run.map(|run| Duration::from_nanos(run).as_secs_f64()),
                name,
                drops: labelled(drops),
            });
        }
        rows
    }
}

fn addresses(sockets: &[Arc<UdpSocket>]) -> Vec<String> {
    sockets
        .iter()
        .map(|socket| socket.local().to_string())
        .collect()
}

fn labelled(drops: DropCounts) -> BTreeMap<String, u64> {
    let drops = drops.into_iter();
    drops
        .map(|(reason, count)| (label(reason), count))
        .collect()
}

/// Returns the label of a reason: `LoopingBack` is `looping_back`.
pub(super) fn label(reason: DropReason) -> String {
    let mut label = String::new();
    for c in format!("{reason:?}").chars() {
        if c.is_ascii_uppercase() && !label.is_empty() {
            label.push('_');
        }
        label.push(c.to_ascii_lowercase());
    }
    label
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use meshd_os::clock;

    #[test]
    fn labels_are_label_and_differ() {
        assert_eq!(label(DropReason::LoopingBack), "looping_back");
        let labels: BTreeSet<_> = DropReason::ALL.into_iter().map(label).collect();
        assert_eq!(labels.len(), DropReason::ALL.len());
    }

    #[test]
    fn a_thread_that_stands_still_grows_old() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Pulse::default();
        assert_eq!(pulse.age(0, start), None);
        pulse.feel(&[1, 1], start);
        pulse.feel(&[2, 1], at(1));
        pulse.feel(&[3, 1], at(2));
        assert_eq!([0, 1].map(|n| pulse.age(n, at(3))), [Some(1.0), Some(3.0)]);
        pulse.feel(&[3], at(3));
        assert_eq!(pulse.age(1, at(3)), None);
    }
}
