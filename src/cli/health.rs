//! `meshctl health`: reports the health of this node's part of the mesh, for people, programs and Nagios.
//!
//! Source: the Monitoring Plugins guidelines: exit codes 0 to 3, one line, performance data behind `|`.

mod subnets;

use std::process::ExitCode;

use serde::Serialize;

use meshd_api::proto::{Answer, Request, Response, Status};
use meshd_proto::{
    dialect::Dialect,
    mesh::reports::view::{PathKind, PeerRow},
};

use crate::{
    Exit, Failure, Outcome,
    args::{Format, Global, Limits},
    context::Context,
    output::{self, Frame},
    running_key,
};

/// A packet thread is dead if it has not run for this time. A live thread runs at least once a second.
const DEAD_SECONDS: f64 = 10.0;
/// Exit code of a plugin that has no answer.
const UNKNOWN: u8 = 3;

/// Severity; the numbers are exit codes of Nagios plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Ok = 0,
    Warning = 1,
    Critical = 2,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Finding {
    level: Level,
    text: String,
}

/// Counts for performance data.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Counts {
    peers: usize,
    up: usize,
    down: usize,
    direct: usize,
    tcp: usize,
    relayed: usize,
    legacy: usize,
    rtt_max_seconds: Option<f64>,
    dropped_packets: u64,
    config_warnings: usize,
    uptime_seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Health {
    level: Level,
    findings: Vec<Finding>,
    counts: Counts,
}

impl Health {
    /// Adds a finding and raises the overall severity if needed.
    fn add(&mut self, finding: Finding) {
        self.level = self.level.max(finding.level);
        self.findings.push(finding);
    }
}

/// Returns exit code 1 if a finding is not OK.
pub(super) fn run(context: &Context, limits: &Limits) -> Outcome {
    let (answer, health) = look(context, limits)?;
    match context.format {
        Format::Json => {
            output::json("health", &Frame::from(&answer), &health)?;
        }
        Format::Tsv => output::print(|out| {
            let all = health.findings.iter();
            all.clone()
                .try_for_each(|one| writeln!(out, "{}\t{}", one.level.word(), one.text))
        })?,
        Format::Table => output::print(|out| {
            let counts = &health.counts;
            writeln!(out, "{}: {}", answer.node, summary(counts))?;
            health.findings.iter().try_for_each(|one| {
                let mark = match (one.level, context.utf8) {
                    (Level::Ok, true) => "✓",
                    (_, true) => "✗",
                    (Level::Ok, false) => "+",
                    (_, false) => "x",
                };
                writeln!(out, " {mark} {}", one.text)
            })
        })?,
    }
    Ok(match health.level {
        Level::Ok => Exit::Fine,
        Level::Warning | Level::Critical => Exit::Negative,
    })
}

/// Runs as a Nagios plugin: prints one line on standard output, also on failure.
pub(super) fn plugin(global: Global, limits: &Limits) -> ExitCode {
    let looked = Context::new(global).and_then(|context| look(&context, limits));
    let (code, line) = match looked {
        Ok((answer, health)) => (health.level as u8, line(&answer, &health)),
        Err(failure) => match failure.exit {
            Exit::NotRunning => (
                Level::Critical as u8,
                format!("MESHD CRITICAL - {}", failure.text),
            ),
            _ => (UNKNOWN, format!("MESHD UNKNOWN - {}", failure.text)),
        },
    };
    // A `|` would start the performance data. A plugin prints exactly one line.
    let printed = output::print(|out| writeln!(out, "{}", line.replace(['\n', '\r'], " ")));
    match printed {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::from(UNKNOWN),
    }
}

fn look(context: &Context, limits: &Limits) -> Result<(Answer, Health), Failure> {
    let mut client = context.connect()?;
    let answer = client.ask(Request::Peers)?;
    let Response::Peers(peers) = &answer.response else {
        return Err(Failure::odd_answer());
    };
    let Response::Status(status) = client.ask(Request::Status)?.response else {
        return Err(Failure::odd_answer());
    };
    let mut health = judge(peers, &status, limits);
    // An older daemon may not know this request.
    if let Ok(Answer {
        response: Response::Refused(rows),
        ..
    }) = client.ask(Request::Refused)
        && let Some(finding) = subnets::finding(&rows)
    {
        health.add(finding);
    }
    if let Some((file, text)) = running_key::other_than_running(&status) {
        health.add(Finding {
            level: Level::Warning,
            text: format!("{}: {text}", file.display()),
        });
    }
    Ok((answer, health))
}

fn judge(peers: &[PeerRow], status: &Status, limits: &Limits) -> Health {
    let count = |path: PathKind| peers.iter().filter(|row| row.path == path).count();
    let down = count(PathKind::Down);
    let rtt = peers.iter().filter_map(|row| row.rtt_seconds);
    let counts = Counts {
        peers: peers.len(),
        up: peers.len() - down,
        down,
        direct: count(PathKind::Udp),
        tcp: count(PathKind::Tcp),
        relayed: count(PathKind::Via),
        legacy: peers
            .iter()
            .filter(|row| row.up && row.protocol == Some(Dialect::Legacy))
            .count(),
        rtt_max_seconds: rtt.reduce(f64::max),
        dropped_packets: status.drops.values().sum(),
        config_warnings: status.problems.len(),
        uptime_seconds: status.uptime_seconds,
    };
    let mut findings = Vec::new();
    let names = |path: &[PathKind]| {
        let those = peers.iter().filter(|row| path.contains(&row.path));
        let names: Vec<&str> = those.map(|row| row.name.as_str()).take(5).collect();
        names.join(", ")
    };
    let critical = limits.down_critical.unwrap_or_else(|| counts.peers.max(1));
    findings.push(Finding {
        level: level(down, Some(limits.down_warning), Some(critical)),
        text: match down {
            0 => format!("all {} peers are up", counts.peers),
            _ => format!(
                "{down} of {} peers down: {}",
                counts.peers,
                names(&[PathKind::Down])
            ),
        },
    });
    let detour = counts.tcp + counts.relayed;
    findings.push(Finding {
        level: level(detour, limits.detour_warning, limits.detour_critical),
        text: match detour {
            0 => "no peer is reached over TCP or a relay".into(),
            _ => format!(
                "{} over TCP, {} through relays: {}",
                counts.tcp,
                counts.relayed,
                names(&[PathKind::Tcp, PathKind::Via])
            ),
        },
    });
    if let Some(rtt) = counts.rtt_max_seconds {
        let ms = rtt * 1000.0;
        let over = |limit: Option<f64>| limit.is_some_and(|limit| ms >= limit);
        let level = match (over(limits.rtt_critical), over(limits.rtt_warning)) {
            (true, _) => Level::Critical,
            (_, true) => Level::Warning,
            _ => Level::Ok,
        };
        let text = format!("longest round trip {ms:.1}ms");
        findings.push(Finding { level, text });
    }
    for thread in &status.threads {
        if thread
            .beat_age_seconds
            .is_some_and(|age| age > DEAD_SECONDS)
        {
            findings.push(Finding {
                level: Level::Critical,
                text: format!("packet thread {} is not running", thread.name),
            });
        }
    }
    if !status.not_listening.is_empty() {
        let none = status.listen.len() < status.not_listening.len();
        findings.push(Finding {
            level: if none {
                Level::Critical
            } else {
                Level::Warning
            },
            text: format!("not listening on {}", status.not_listening.join(", ")),
        });
    }
    if !status.refused_calls.is_empty() {
        let calls: Vec<&str> = status.refused_calls.keys().map(String::as_str).collect();
        findings.push(Finding {
            level: Level::Warning,
            text: format!("the sandbox refused system calls: {}", calls.join(", ")),
        });
    }
    if !status.problems.is_empty() {
        findings.push(Finding {
            level: Level::Ok,
            text: format!(
                "{} warnings about the configuration; `meshctl check` shows them",
                counts.config_warnings
            ),
        });
    }
    let worst = findings.iter().map(|one| one.level).max();
    Health {
        level: worst.unwrap_or(Level::Ok),
        findings,
        counts,
    }
}

fn level(count: usize, warning: Option<usize>, critical: Option<usize>) -> Level {
    let over = |limit: Option<usize>| limit.is_some_and(|limit| count >= limit.max(1));
    match (over(critical), over(warning)) {
        (true, _) => Level::Critical,
        (_, true) => Level::Warning,
        _ => Level::Ok,
    }
}

fn summary(counts: &Counts) -> String {
    let Counts {
        peers,
        up,
        direct,
        tcp,
        relayed,
        ..
    } = counts;
    format!("{up} of {peers} peers up, {direct} direct, {tcp} tcp, {relayed} relayed")
}

/// `MESHD OK - priv web_01: 43 of 43 peers up | up=43;;;0;43 …`
fn line(answer: &Answer, health: &Health) -> String {
    let counts = &health.counts;
    let net = answer
        .net
        .as_deref()
        .map_or_else(String::new, |net| format!("{net} "));
    let bad = health.findings.iter().filter(|one| one.level > Level::Ok);
    let bad: Vec<&str> = bad.map(|one| one.text.as_str()).collect();
    let what = match bad.join("; ") {
        none if none.is_empty() => summary(counts),
        bad => bad,
    };
    let rtt = counts
        .rtt_max_seconds
        .map_or_else(String::new, |rtt| format!(" rtt_max={rtt:.6}s"));
    let Counts {
        peers,
        up,
        down,
        direct,
        tcp,
        relayed,
        legacy,
        dropped_packets,
        config_warnings,
        ..
    } = counts;
    format!(
        "MESHD {} - {net}{}: {} | up={up};;;0;{peers} down={down};;;0;{peers} direct={direct};;;0;{peers} tcp={tcp};;;0;{peers} \
         relayed={relayed};;;0;{peers} legacy={legacy};;;0;{peers}{rtt} dropped={dropped_packets}c config_warnings={config_warnings} uptime={:.0}s",
        health.level.word(),
        answer.node,
        what.replace('|', "/"),
        counts.uptime_seconds,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn limits() -> Limits {
        Limits {
            down_warning: 1,
            ..Limits::default()
        }
    }

    #[test]
    fn each_limit_makes_its_level() {
        use PathKind::{Down, Tcp, Udp, Via};
        let fine = Status::default();
        let dead = Status {
            threads: vec![ThreadRow {
                beat_age_seconds: Some(11.0),
                ..ThreadRow::default()
            }],
            ..Status::default()
        };
        let deaf = Status {
            listen: vec!["192.0.2.1:655".into(), "127.0.0.1:655".into()],
            not_listening: vec!["192.0.2.1:655 (no interface has this address)".into()],
            ..Status::default()
        };
        let judged = judge(&peers(&[Udp]), &deaf, &limits());
        assert_eq!(judged.level, Level::Warning);
        let named = "not listening on 192.0.2.1:655 (no interface has this address)";
        assert!(judged.findings.iter().any(|one| one.text == named));
        let odd = Status {
            refused_calls: [("ptrace".into(), 1)].into(),
            ..Status::default()
        };
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
        for (what, paths, status, limits, wanted) in [
            ("nobody", &[][..], &fine, &limits(), Level::Ok),
            ("well", &[Udp, Udp], &fine, &limits(), Level::Ok),
            (
                "detours are no matter",
                &[Tcp, Via],
                &fine,
                &limits(),
                Level::Ok,
            ),
            ("one down", &[Udp, Down], &fine, &limits(), Level::Warning),
            ("all down", &[Down, Down], &fine, &limits(), Level::Critical),
            (
                "one of one down",
                &[Down],
                &fine,
                &limits(),
                Level::Critical,
            ),
            ("few down", &[Down, Down, Udp], &fine, &quiet, Level::Ok),
            (
                "more down",
                &[Down, Down, Down],
                &fine,
                &quiet,
                Level::Warning,
            ),
            (
                "two down",
                &[Down, Down, Tcp],
                &fine,
                &strict,
                Level::Critical,
            ),
            ("a detour", &[Tcp, Tcp], &fine, &strict, Level::Critical),
            ("one detour", &[Via], &fine, &strict, Level::Warning),
            ("slow", &[Udp], &fine, &strict, Level::Warning),
            ("a dead thread", &[Udp], &dead, &limits(), Level::Critical),
            ("a refused call", &[Udp], &odd, &limits(), Level::Warning),
        ] {
            let health = judge(&peers(paths), status, limits);
            assert_eq!(health.level, wanted, "{what}: {health:?}");
        }
    }

    #[test]
    fn the_plugin_says_one_line_with_its_figures() {
        let answer = Answer {
            v: 1,
            net: Some("priv".into()),
            node: "web".into(),
            time: "t".into(),
            response: Response::Done(true),
        };
        let health = judge(
            &peers(&[PathKind::Udp, PathKind::Down]),
            &Status::default(),
            &limits(),
        );
        let text = line(&answer, &health);
        assert!(
            text.starts_with("MESHD WARNING - priv web: 1 of 2 peers down: n1 | up=1;;;0;2 down=1;;;0;2 direct=1;;;0;2"),
            "{text}"
        );
        assert!(text.contains(" rtt_max=0.004000s dropped=0c "), "{text}");
        assert_eq!((text.lines().count(), text.matches('|').count()), (1, 1));
    }
}
