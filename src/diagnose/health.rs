//! The health of one node's part of the mesh, within the limits of an operator.

use std::collections::BTreeMap;

use serde::Serialize;

use meshd_api::{proto::DaemonStatus, report::RefusedRow, rows::PeerRow};
use meshd_proto::{
    dialect::Dialect,
    mesh::{
        limits::{MAX_ASIDE, MAX_ASIDE_PER_NODE},
        reports::facts::{PathKind, Rule},
    },
};

use crate::{
    Code, Finding,
    Severity::{self, Critical, Fine, Warning},
    Subject,
};

/// A packet thread is dead if it has not run for this time. A live thread runs at least once a second.
const DEAD_SECONDS: f64 = 10.0;
/// Maximum number of named nodes.
const NAMED: usize = 5;

/// The limits of an operator; `None`: no limit. By default, one peer that is down is a warning.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Warn when at least this many peers are down.
    pub down_warning: usize,
    /// Critical when at least this many peers are down; `None`: all.
    pub down_critical: Option<usize>,
    /// Warn when at least this many peers are reached over TCP or through relays.
    pub detour_warning: Option<usize>,
    /// Critical when at least this many peers are reached over TCP or through relays.
    pub detour_critical: Option<usize>,
    /// Warn when a round trip takes at least this many milliseconds.
    pub rtt_warning: Option<f64>,
    /// Critical when a round trip takes at least this many milliseconds.
    pub rtt_critical: Option<f64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            down_warning: 1,
            down_critical: None,
            detour_warning: None,
            detour_critical: None,
            rtt_warning: None,
            rtt_critical: None,
        }
    }
}

/// The facts.
#[derive(Debug, Clone, Copy)]
pub struct HealthFacts<'a> {
    /// All other nodes.
    pub peers: &'a [PeerRow],
    /// The daemon.
    pub status: &'a DaemonStatus,
    /// Announced subnets that are refused.
    pub refused: &'a [RefusedRow],
    /// The file with another key than the running one, and the running key.
    pub other_key: Option<(&'a str, &'a str)>,
    /// The limits.
    pub limits: &'a Limits,
}

/// Counts for performance data.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counts {
    /// All other nodes.
    pub peers: usize,
    /// Reachable ones.
    pub up: usize,
    /// Unreachable ones.
    pub down: usize,
    /// Those with a direct path by UDP.
    pub direct: usize,
    /// Those reached over a link.
    pub tcp: usize,
    /// Those reached through relays.
    pub relayed: usize,
    /// Those with a legacy tunnel.
    pub legacy: usize,
    /// Longest round trip.
    pub rtt_max_seconds: Option<f64>,
    /// Dropped packets.
    pub dropped_packets: u64,
    /// Warnings about the configuration.
    pub config_warnings: usize,
    /// Seconds since the start of the daemon.
    pub uptime_seconds: f64,
}

impl HealthFacts<'_> {
    /// Counts the nodes by state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let Self { peers, status, .. } = self;
        let count = |path: PathKind| peers.iter().filter(|row| row.path == path).count();
        let legacy = |row: &&PeerRow| row.up && row.protocol == Some(Dialect::Legacy);
        let down = count(PathKind::Down);
        let rtt = peers.iter().filter_map(|row| row.rtt_seconds);
        Counts {
            peers: peers.len(),
            up: peers.len() - down,
            down,
            direct: count(PathKind::Udp),
            tcp: count(PathKind::Tcp),
            relayed: count(PathKind::Via),
            legacy: peers.iter().filter(legacy).count(),
            rtt_max_seconds: rtt.reduce(f64::max),
            dropped_packets: status.drops.values().sum(),
            config_warnings: status.problems.len(),
            uptime_seconds: status.uptime_seconds,
        }
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let counts = self.counts();
        let mut findings = vec![self.down(&counts), self.detours(&counts)];
        findings.extend(self.round_trip(&counts));
        findings.extend(self.daemon());
        findings.extend(refused(self.refused));
        findings.extend(self.other_key.map(|(file, key)| {
            let text = format!("{file}: {}", other_key(key));
            Finding::new(Code::OtherKey, Subject::Daemon, text)
        }));
        findings
    }

    fn names(&self, paths: &[PathKind]) -> String {
        let those = self.peers.iter().filter(|row| paths.contains(&row.path));
        let names: Vec<&str> = those.map(|row| row.name.as_str()).take(NAMED).collect();
        names.join(", ")
    }

    fn down(&self, counts: &Counts) -> Finding {
        let Counts { peers, down, .. } = counts;
        let critical = self.limits.down_critical.unwrap_or_else(|| (*peers).max(1));
        let text = match down {
            0 => format!("all {peers} peers are up"),
            _ => format!(
                "{down} of {peers} peers down: {}",
                self.names(&[PathKind::Down])
            ),
        };
        let severity = level(*down, Some(self.limits.down_warning), Some(critical));
        Finding::new(Code::PeersDown, Subject::Daemon, text).severity(severity)
    }

    fn detours(&self, counts: &Counts) -> Finding {
        let Counts { tcp, relayed, .. } = counts;
        let limits = self.limits;
        let text = match tcp + relayed {
            0 => "no peer is reached over TCP or a relay".into(),
            _ => format!(
                "{tcp} over TCP, {relayed} through relays: {}",
                self.names(&[PathKind::Tcp, PathKind::Via])
            ),
        };
        let severity = level(tcp + relayed, limits.detour_warning, limits.detour_critical);
        Finding::new(Code::Detours, Subject::Daemon, text).severity(severity)
    }

    fn round_trip(&self, counts: &Counts) -> Option<Finding> {
        let ms = counts.rtt_max_seconds? * 1000.0;
        let over = |limit: Option<f64>| limit.is_some_and(|limit| ms >= limit);
        let severity = match (
            over(self.limits.rtt_critical),
            over(self.limits.rtt_warning),
        ) {
            (true, _) => Critical,
            (false, true) => Warning,
            (false, false) => Fine,
        };
        let text = format!("longest round trip {ms:.1}ms");
        Some(Finding::new(Code::RoundTrip, Subject::Daemon, text).severity(severity))
    }

    /// Returns the findings on the daemon itself.
    fn daemon(&self) -> Vec<Finding> {
        let status = self.status;
        let found = |code, text: String| Finding::new(code, Subject::Daemon, text);
        let dead = |age: f64| age > DEAD_SECONDS;
        let stopped = status.threads.iter();
        let stopped = stopped.filter(|thread| thread.beat_age_seconds.is_some_and(dead));
        let mut findings: Vec<Finding> = stopped
            .map(|thread| {
                let text = format!("packet thread {} is not running", thread.name);
                found(Code::ThreadStopped, text)
            })
            .collect();
        if !status.not_listening.is_empty() {
            let text = format!("not listening on {}", status.not_listening.join(", "));
            let none = status.listen.len() < status.not_listening.len();
            let severity = if none { Critical } else { Warning };
            findings.push(found(Code::NotListening, text).severity(severity));
        }
        if !status.refused_calls.is_empty() {
            let calls: Vec<&str> = status.refused_calls.keys().map(String::as_str).collect();
            let text = format!("the sandbox refused system calls: {}", calls.join(", "));
            findings.push(found(Code::CallRefused, text));
        }
        if !status.problems.is_empty() {
            let text = format!(
                "{} warnings about the configuration; `meshctl check` shows them",
                status.problems.len()
            );
            findings.push(found(Code::ConfigWarnings, text));
        }
        findings
    }
}

/// Describes a running key that is not this key of the files.
#[must_use]
pub fn other_key(key: &str) -> String {
    format!(
        "meshd runs with another key, {key}: copy this file's key to all nodes, then restart meshd"
    )
}

/// Reports the number of refused subnets for each node. Refusals by StrictSubnets are intended; all others are a
/// warning.
fn refused(rows: &[RefusedRow]) -> Option<Finding> {
    let first = rows.first()?;
    let mut owners: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        *owners.entry(&row.owner).or_default() += 1;
    }
    let most = |count: usize| count == MAX_ASIDE_PER_NODE || rows.len() == MAX_ASIDE;
    let least = |count: usize| if most(count) { "at least " } else { "" };
    let named = owners.iter().take(NAMED);
    let named: Vec<String> = named
        .map(|(owner, count)| format!("{}{count} of {owner}", least(*count)))
        .collect();
    let other = rows.iter().find(|row| row.rule != Rule::StrictSubnets);
    let text = format!(
        "refused announced subnets: {}; see `meshctl why {}`",
        named.join(", "),
        other.unwrap_or(first).owner
    );
    let severity = if other.is_none() { Fine } else { Warning };
    Some(Finding::new(Code::SubnetsRefused, Subject::Daemon, text).severity(severity))
}

fn level(count: usize, warning: Option<usize>, critical: Option<usize>) -> Severity {
    let over = |limit: Option<usize>| limit.is_some_and(|limit| count >= limit.max(1));
    match (over(critical), over(warning)) {
        (true, _) => Critical,
        (false, true) => Warning,
        (false, false) => Fine,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Facts, diagnose};
    use meshd_api::proto::ThreadRow;

    fn peers(paths: &[PathKind]) -> Vec<PeerRow> {
        let row = |(at, path): (usize, &PathKind)| PeerRow {
            name: format!("n{at}"),
            up: *path != PathKind::Down,
            path: *path,
            rtt_seconds: (*path == PathKind::Udp).then_some(0.004),
            ..PeerRow::default()
        };
        paths.iter().enumerate().map(row).collect()
    }

    fn row(owner: &str, at: usize, rule: Rule) -> RefusedRow {
        RefusedRow {
            owner: owner.into(),
            subnet: format!("10.{}.{}.0/24", at / 256, at % 256)
                .parse()
                .unwrap(),
            why: "x".into(),
            rule,
        }
    }

    fn limits() -> Limits {
        Limits {
            down_warning: 1,
            ..Limits::default()
        }
    }

    fn judge(paths: &[PathKind], status: &DaemonStatus, limits: &Limits) -> Vec<Finding> {
        diagnose(&Facts::Health(&HealthFacts {
            peers: &peers(paths),
            status,
            refused: &[],
            other_key: None,
            limits,
        }))
    }

    fn worst(findings: &[Finding]) -> Severity {
        findings.iter().map(|one| one.severity).max().unwrap()
    }

    /// Findings of every code of `health`.
    pub(crate) fn all() -> Vec<Finding> {
        let status = DaemonStatus {
            threads: vec![ThreadRow {
                beat_age_seconds: Some(11.0),
                ..ThreadRow::default()
            }],
            listen: vec!["192.0.2.1:655".into(), "127.0.0.1:655".into()],
            not_listening: vec!["192.0.2.1:655 (no interface has this address)".into()],
            refused_calls: [("ptrace".into(), 1)].into(),
            problems: vec!["x".into()],
            ..DaemonStatus::default()
        };
        diagnose(&Facts::Health(&HealthFacts {
            peers: &peers(&[PathKind::Udp, PathKind::Tcp, PathKind::Down]),
            status: &status,
            refused: &[row("b", 0, Rule::Bound)],
            other_key: Some(("ed25519_key.priv", "KEY")),
            limits: &limits(),
        }))
    }

    #[test]
    fn each_limit_makes_its_severity() {
        use PathKind::{Down, Tcp, Udp, Via};
        let fine = DaemonStatus::default();
        let strict = Limits {
            detour_warning: Some(1),
            detour_critical: Some(2),
            down_critical: Some(2),
            rtt_warning: Some(3.0),
            rtt_critical: Some(10.0),
            ..limits()
        };
        let quiet = Limits {
            down_warning: 3,
            down_critical: Some(9),
            ..limits()
        };
        for (paths, limits, wanted) in [
            (&[][..], &limits(), Fine),
            (&[Udp, Udp], &limits(), Fine),
            (&[Tcp, Via], &limits(), Fine),
            (&[Udp, Down], &limits(), Warning),
            (&[Down, Down], &limits(), Critical),
            (&[Down], &limits(), Critical),
            (&[Down, Down, Udp], &quiet, Fine),
            (&[Down, Down, Down], &quiet, Warning),
            (&[Down, Down, Tcp], &strict, Critical),
            (&[Tcp, Tcp], &strict, Critical),
            (&[Via], &strict, Warning),
            (&[Udp], &strict, Warning),
        ] {
            let findings = judge(paths, &fine, limits);
            assert_eq!(worst(&findings), wanted, "{paths:?}: {findings:?}");
        }
    }

    #[test]
    fn faults_of_the_daemon_have_their_severity_and_text() {
        let severity = |code| {
            let all = all();
            let mut all = all.into_iter().filter(|one| one.code == code);
            all.next().map(|one| (one.severity, one.text)).unwrap()
        };
        let (level, text) = severity(Code::NotListening);
        let named = "not listening on 192.0.2.1:655 (no interface has this address)";
        assert_eq!((level, text.as_str()), (Warning, named));
        assert_eq!(severity(Code::ThreadStopped).0, Critical);
        assert_eq!(severity(Code::CallRefused).0, Warning);
        assert_eq!(severity(Code::ConfigWarnings).0, Fine);
        assert!(
            severity(Code::OtherKey)
                .1
                .starts_with("ed25519_key.priv: meshd runs")
        );
    }

    #[test]
    fn refused_subnets_are_counted_by_owner() {
        assert_eq!(refused(&[]), None);
        let strict = refused(&[row("a", 0, Rule::StrictSubnets)]).unwrap();
        assert_eq!(strict.severity, Fine);
        let many = (0..3).map(|at| row("b", at, Rule::Bound));
        let rows: Vec<RefusedRow> = [row("a", 0, Rule::StrictSubnets)]
            .into_iter()
            .chain(many)
            .collect();
        let found = refused(&rows).unwrap();
        assert_eq!(found.severity, Warning);
        assert!(
            found.text.contains("1 of a, 3 of b; see `meshctl why b`"),
            "{found:?}"
        );
        let rows: Vec<RefusedRow> = (0..MAX_ASIDE_PER_NODE)
            .map(|at| row("b", at, Rule::Bound))
            .collect();
        assert!(refused(&rows).unwrap().text.contains("at least 8192 of b"));
    }
}
