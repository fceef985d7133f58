//! `meshctl health`: reports the health of this node's part of the mesh, for people, programs and Nagios.
//!
//! Source: the Monitoring Plugins guidelines: exit codes 0 to 3, one line, performance data behind `|`.

use std::process::ExitCode;

use serde::Serialize;

use meshd_api::{call, proto::Answer, rows::PeerRow};
use meshd_diagnose::{
    Facts, Finding, Severity, diagnose,
    health::{self, Counts, HealthFacts},
};

use crate::{
    Exit, Failure, Outcome,
    args::{Format, Global, LimitOptions},
    context::Context,
    output::{self, Frame},
    running_key,
};

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

impl From<Severity> for Level {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Fine | Severity::Note => Self::Ok,
            Severity::Warning => Self::Warning,
            Severity::Critical => Self::Critical,
        }
    }
}

/// One finding in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    level: Level,
    text: String,
}

impl From<Finding> for Row {
    fn from(finding: Finding) -> Self {
        Self {
            level: finding.severity.into(),
            text: finding.text,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Health {
    level: Level,
    findings: Vec<Row>,
    counts: Counts,
}

impl Health {
    fn new(facts: &HealthFacts<'_>) -> Self {
        let findings = diagnose(&Facts::Health(facts));
        let findings: Vec<Row> = findings.into_iter().map(Row::from).collect();
        let worst = findings.iter().map(|row| row.level).max();
        Self {
            level: worst.unwrap_or(Level::Ok),
            findings,
            counts: facts.counts(),
        }
    }
}

/// Returns exit code 1 if a finding is not OK.
pub(super) fn run(context: &Context, limits: &LimitOptions) -> Outcome {
    let (answer, health) = inspect(context, limits)?;
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
pub(super) fn plugin(global: Global, limits: &LimitOptions) -> ExitCode {
    let health = Context::new(global).and_then(|context| inspect(&context, limits));
    let (code, line) = match health {
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

/// The answer that supplies the frame of the output.
type PeersAnswer = Answer<Vec<PeerRow>>;

fn inspect(context: &Context, limits: &LimitOptions) -> Result<(PeersAnswer, Health), Failure> {
    let mut client = context.connect()?;
    let answer = client.ask(call::Peers {})?;
    let status = client.ask(call::Status {})?.response;
    // An older daemon may not know this request.
    let refused = client.ask(call::Refused {}).map(|answer| answer.response);
    let refused = refused.unwrap_or_default();
    let other = running_key::other_than_running(&status);
    let other = other.map(|(file, key)| (file.display().to_string(), key.to_string()));
    let limits = health::Limits {
        down_warning: limits.down_warning,
        down_critical: limits.down_critical,
        detour_warning: limits.detour_warning,
        detour_critical: limits.detour_critical,
        rtt_warning: limits.rtt_warning,
        rtt_critical: limits.rtt_critical,
    };
    let health = Health::new(&HealthFacts {
        peers: &answer.response,
        status: &status,
        refused: &refused,
        other_key: other
            .as_ref()
            .map(|(file, key)| (file.as_str(), key.as_str())),
        limits: &limits,
    });
    Ok((answer, health))
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
fn line(answer: &PeersAnswer, health: &Health) -> String {
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
    use meshd_api::proto::DaemonStatus;
    use meshd_proto::mesh::reports::facts::PathKind;

    use super::*;

    #[test]
    fn the_plugin_prints_one_line_with_its_figures() {
        let answer = Answer {
            v: 1,
            net: Some("priv".into()),
            node: "web".into(),
            time: "t".into(),
            response: Vec::new(),
        };
        let peer = |name: &str, path, rtt_seconds| PeerRow {
            name: name.into(),
            path,
            rtt_seconds,
            ..PeerRow::default()
        };
        let health = Health::new(&HealthFacts {
            peers: &[
                peer("n0", PathKind::Udp, Some(0.004)),
                peer("n1", PathKind::Down, None),
            ],
            status: &DaemonStatus::default(),
            refused: &[],
            other_key: None,
            limits: &health::Limits::default(),
        });
        let text = line(&answer, &health);
        assert!(
            text.starts_with("MESHD WARNING - priv web: 1 of 2 peers down: n1 | up=1;;;0;2 down=1;;;0;2 direct=1;;;0;2"),
            "{text}"
        );
        assert!(text.contains(" rtt_max=0.004000s dropped=0c "), "{text}");
        assert_eq!((text.lines().count(), text.matches('|').count()), (1, 1));
    }
}
