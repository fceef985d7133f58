//! `meshctl trace`: shows each hop of packets for a node, with its round trip.

use std::time::Duration;

use serde::Serialize;

use meshd_api::{
    call,
    client::{Client, ClientError},
    proto::{EdgeRow, ErrorCode},
    report::{NodeReport, PathReport},
    why::{End, Other, Target, Unknown},
};
use meshd_diagnose::why::chain;
use meshd_os::clock;
use meshd_proto::mesh::reports::facts::PathKind;

use crate::{
    Exit, Failure, Outcome,
    args::Format,
    context::Context,
    output::{self, Frame},
    table::{or_empty, round_trip},
    why,
};

/// Longest wait for one probe.
const PING: Duration = Duration::from_millis(700);
/// Longest wait for a node's view; it includes a handshake.
const ASK: Duration = Duration::from_millis(2_500);
/// Maximum number of hops; a longer path is a loop.
const MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Hop {
    node: String,
    /// Path from the previous hop, as that hop reports it; null if it cannot be asked.
    kind: Option<PathKind>,
    /// Round trip from this node.
    rtt_seconds: Option<f64>,
    /// Role of the hop: relay, or owner of a subnet.
    role: String,
}

#[derive(Serialize)]
struct Data<'a> {
    target: &'a str,
    reached: bool,
    hops: &'a [Hop],
}

/// Returns exit code 1 if the node is unreachable, 4 if it does not exist.
pub(super) fn run(context: &Context, typed: &str) -> Outcome {
    let answer = why::ask(context, None, typed)?;
    let mut live = Live::open(context, answer.node.clone())?;
    let own = live.own.clone();
    let path = &answer.response;
    let (target, (names, reached)) = match &path.to {
        End::Unknown(Unknown { text, remedy }) => {
            return Err(Failure::new(Exit::Unknown, format!("{text}; {remedy}")));
        }
        End::Own(target) => (target, (Vec::new(), true)),
        End::Other(other) => (&other.target, hops(&mut live, other, &path.edges)?),
    };
    let mut all = vec![Hop {
        node: own,
        kind: None,
        rtt_seconds: Some(0.0),
        role: String::new(),
    }];
    for (node, kind) in names {
        let last = node == target.node.as_str();
        let role = match (last, reached) {
            (true, true) => role(target),
            (true, false) => "not reachable".into(),
            (false, _) => "relay".into(),
        };
        let rtt_seconds = live.round_trip(&node)?;
        all.push(Hop {
            node,
            kind,
            rtt_seconds,
            role,
        });
    }
    match context.format {
        Format::Json => {
            let data = Data {
                target: typed,
                reached,
                hops: &all,
            };
            output::json("trace", &Frame::from(&answer), &data)?;
        }
        Format::Tsv => output::print(|out| {
            all.iter().try_for_each(|hop| {
                let kind = hop.kind.map(PathKind::word).unwrap_or_default();
                let rtt = or_empty(hop.rtt_seconds);
                writeln!(out, "{}\t{kind}\t{rtt}\t{}", hop.node, hop.role)
            })
        })?,
        Format::Table => output::print(|out| {
            lines(&all)
                .iter()
                .try_for_each(|line| writeln!(out, "{line}"))
        })?,
    }
    Ok(match reached {
        true => Exit::Fine,
        false => Exit::Negative,
    })
}

fn role(target: &Target) -> String {
    let row = target.subnets.iter().find(|row| row.active);
    match (&target.asked, row) {
        (Some(_), Some(row)) => format!("owner of {}", row.subnet),
        _ => String::new(),
    }
}

/// A node, and the path to it from the previous one.
type Next = (String, Option<PathKind>);

/// Returns the hops to the target and the target itself, and true if it is reached. Each node that answers reports its
/// next hop; the graph supplies the other hops.
fn hops(live: &mut Live, other: &Other, edges: &[EdgeRow]) -> Result<(Vec<Next>, bool), Failure> {
    let node = other.target.node.as_str();
    if !other.report.pair.up {
        return Ok((vec![(node.to_owned(), Some(PathKind::Down))], false));
    }
    let mut hops: Vec<Next> = Vec::new();
    let mut report = Some(other.report.pair.clone());
    let mut at = live.own.clone();
    while at != node && hops.len() < MAX {
        let (next, kind) = match &report {
            Some(pair) => match (pair.path, &pair.via) {
                (PathKind::Via, Some(via)) if *via != at => {
                    (via.clone(), live.path_between(&at, via)?)
                }
                (path, _) => (node.to_owned(), Some(path)),
            },
            None => (next_by_links(edges, &at, node), None),
        };
        let circle = hops.iter().any(|(seen, _)| *seen == next);
        let next = if circle { node.to_owned() } else { next };
        hops.push((next.clone(), kind.filter(|_| !circle)));
        report = match next == node {
            true => None,
            false => live.path_as_seen_by(&next, node)?,
        };
        at = next;
    }
    Ok((hops, true))
}

fn next_by_links(edges: &[EdgeRow], at: &str, node: &str) -> String {
    let way = chain(edges, at, node).unwrap_or_default();
    way.get(1).cloned().unwrap_or_else(|| node.to_owned())
}

/// `2 lb_01   tcp   0.9ms  relay`
fn lines(hops: &[Hop]) -> Vec<String> {
    let width = hops
        .iter()
        .map(|hop| hop.node.len())
        .max()
        .unwrap_or_default();
    let line = |(number, hop): (usize, &Hop)| {
        let kind = match (number, hop.kind) {
            (0, _) => "",
            (_, Some(kind)) => kind.word(),
            (_, None) => "?",
        };
        let rtt = hop.rtt_seconds.map_or_else(|| "-".into(), round_trip);
        let line = format!(
            "{} {:width$}  {kind:4}  {rtt:>7}  {}",
            number + 1,
            hop.node,
            hop.role
        );
        line.trim_end().to_owned()
    };
    hops.iter().enumerate().map(line).collect()
}

/// A connection to the daemon.
struct Live {
    client: Client,
    /// The daemon's node.
    own: String,
}

impl Live {
    fn open(context: &Context, own: String) -> Result<Self, Failure> {
        let client = context.connect()?;
        client.patience(Some(context.timeout() + ASK))?;
        Ok(Self { client, own })
    }

    /// Returns a node's view of another one, or our own view if `node` is our node. `None` if the node cannot be asked.
    fn path_as_seen_by(&mut self, node: &str, about: &str) -> Result<Option<PathReport>, Failure> {
        if node == self.own {
            return Ok(self.report(about)?.map(|report| report.pair));
        }
        match self.report(node)? {
            Some(report) if report.pair.up && report.may_ask => {}
            _ => return Ok(None),
        }
        let call = call::AskNode {
            node: node.into(),
            about: about.into(),
            timeout_ms: ASK.as_millis() as u64,
        };
        let report = self.client.ask(call)?.response;
        Ok(report.map(|report| *report))
    }

    /// Returns the daemon's view of a node; `None` if it does not know the node.
    fn report(&mut self, node: &str) -> Result<Option<NodeReport>, Failure> {
        match self.client.ask(call::Sight { node: node.into() }) {
            Ok(answer) => Ok(Some(*answer.response)),
            Err(ClientError::Refused(refused)) if refused.code == ErrorCode::Unknown => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Measures a round trip, if the node answers.
    fn ping(&mut self, node: &str) -> Result<Option<f64>, Failure> {
        let call = call::Ping {
            node: node.into(),
            timeout_ms: PING.as_millis() as u64,
        };
        Ok(self.client.ask(call)?.response.rtt_seconds)
    }

    /// Returns the path of one node to another, if it can be asked; for our own node, from our daemon.
    fn path_between(&mut self, from: &str, to: &str) -> Result<Option<PathKind>, Failure> {
        Ok(self.path_as_seen_by(from, to)?.map(|pair| pair.path))
    }

    /// Measures the round trip to a node by a ping, or else by a request over links.
    fn round_trip(&mut self, node: &str) -> Result<Option<f64>, Failure> {
        if let Some(rtt) = self.ping(node)? {
            return Ok(Some(rtt));
        }
        let (own, start) = (self.own.clone(), clock::now());
        let answer = self.path_as_seen_by(node, &own)?;
        Ok(answer.map(|_| clock::now().saturating_duration_since(start).as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_aligned_and_what_is_not_known_is_marked() {
        let hop = |node: &str, kind, rtt_seconds, role: &str| Hop {
            node: node.into(),
            kind,
            rtt_seconds,
            role: role.into(),
        };
        let hops = [
            hop("web_01", None, Some(0.0), ""),
            hop("lb_01", Some(PathKind::Tcp), Some(0.0009), "relay"),
            hop("old", None, None, "relay"),
            hop(
                "db_02",
                Some(PathKind::Udp),
                Some(0.0014),
                "owner of 172.20.0.22",
            ),
        ];
        assert_eq!(
            lines(&hops),
            [
                "1 web_01          0.0ms",
                "2 lb_01   tcp     0.9ms  relay",
                "3 old     ?           -  relay",
                "4 db_02   udp     1.4ms  owner of 172.20.0.22",
            ]
        );
    }
}
