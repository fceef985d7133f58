//! Gathers the facts from the daemon, the other end, the files and the kernel.

use std::time::Duration;

use meshd_api::{
    call,
    client::{Client, ClientError},
    proto::{Answer, DaemonStatus, EdgeRow, ErrorCode},
    report::{NodeReport, PathReport},
};
use meshd_config::{Source, vars::nearness};
use meshd_diagnose::{
    Here,
    why::{End, Firewall, PROBES, PathFacts, Target, There, World},
};
use meshd_os::clock;
use meshd_proto::mesh::reports::facts::PathKind;
use meshd_wire::NodeName;

use crate::{
    Failure,
    context::Context,
    firewall, hosts,
    why::local::{disk, kernel, unheard},
};

/// Pause after a probe that did not go by UDP.
const PAUSE: Duration = Duration::from_millis(400);
/// Longest wait for one probe.
const PATIENCE_MS: u64 = 700;
/// Longest wait for the other end's answer; it includes a handshake.
const ASK_MS: u64 = 2_500;

/// A connection to a daemon that answers.
pub(crate) struct Live {
    client: Client,
    /// The first answer; it supplies the frame of our output.
    pub(crate) answer: Answer<Box<DaemonStatus>>,
    source: Source,
    pub(crate) world: World,
}

impl Live {
    pub(crate) fn open(context: &Context) -> Result<Self, Failure> {
        let mut client = context.connect()?;
        client.patience(Some(context.timeout()))?;
        let answer = client.ask(call::Status {})?;
        let peers = client.ask(call::Peers {})?.response;
        let subnets = client.ask(call::Subnets {})?.response;
        let refused = client.ask(call::Refused {})?.response;
        let source = Source {
            base: answer.response.config.clone().into(),
            ..Source::default()
        };
        let mut names: Vec<String> = peers.into_iter().map(|row| row.name).collect();
        names.extend(
            hosts::names(&source)
                .into_iter()
                .filter(|name| *name != answer.node),
        );
        names.sort();
        names.dedup();
        let world = World {
            own: answer.node.clone(),
            names,
            subnets,
            refused,
            nearness,
        };
        Ok(Self {
            client,
            answer,
            source,
            world,
        })
    }

    /// Returns our own node.
    pub(super) fn here(&self) -> Here {
        Here {
            node: self.answer.node.clone(),
            net: self.answer.net.clone(),
            pid: Some(self.answer.response.pid),
            main: meshd_config::main_file(&self.source).display().to_string(),
        }
    }

    pub(super) fn facts(&mut self, target: Target) -> Result<PathFacts, Failure> {
        let node = target.node.clone();
        self.probe(&node)?;
        let own = self.answer.node.clone();
        let there = match self.report(&node)? {
            report if !report.pair.up => There::NotAsked,
            report if !report.may_ask => There::CannotBeAsked,
            _ => self.ask(node.as_str(), &own)?,
        };
        let report = self.report(&node)?;
        let from = report.pair.udp.address;
        Ok(PathFacts {
            here: self.here(),
            not_listening: self.answer.response.not_listening.clone(),
            kernel: kernel(&target, self.answer.response.interface.as_deref()),
            firewall: match firewall::inspect(from.map(|at| at.ip()), self.port()) {
                firewall::Seen::Open(what) => Firewall::Open(what),
                firewall::Seen::Closed(rule) => Firewall::Closed(rule),
                firewall::Seen::Unsure(what) => Firewall::Unsure(what),
                firewall::Seen::Nothing(why) => Firewall::Unchecked(why),
            },
            disk: disk(&self.source, &node),
            target,
            silent_since: silent_since(&report.pair),
            report: Some(report),
            there,
        })
    }

    fn port(&self) -> u16 {
        let first = self.answer.response.listen.first();
        let port = first.and_then(|listen| listen.rsplit_once(':'));
        port.and_then(|(_, port)| port.parse().ok()).unwrap_or(655)
    }

    /// Makes the daemon probe the path as traffic would.
    pub(crate) fn probe(&mut self, node: &NodeName) -> Result<(), Failure> {
        for _ in 0..PROBES {
            let call = call::Ping {
                node: node.to_string(),
                timeout_ms: PATIENCE_MS,
            };
            match self.client.ask(call).map(|answer| answer.response) {
                Ok(pong) if pong.path == PathKind::Down => return Ok(()),
                Ok(pong) if pong.path == PathKind::Udp && pong.pmtu_bytes.is_some() => {
                    return Ok(());
                }
                Ok(_) => std::thread::park_timeout(PAUSE),
                Err(ClientError::Refused(refused)) if refused.code == ErrorCode::Unknown => {
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(crate) fn report(&mut self, node: &NodeName) -> Result<NodeReport, Failure> {
        let call = call::Sight {
            node: node.to_string(),
        };
        match self.client.ask(call) {
            Ok(answer) => Ok(*answer.response),
            // The node has a host file, but no node has announced it yet.
            Err(ClientError::Refused(refused)) if refused.code == ErrorCode::Unknown => {
                Ok(unheard(&self.source, node))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks a node for its view of another node.
    fn ask(&mut self, node: &str, about: &str) -> Result<There, Failure> {
        let call = call::AskNode {
            node: node.into(),
            about: about.into(),
            timeout_ms: ASK_MS,
        };
        let told = self.client.ask(call)?.response;
        Ok(told.map_or(There::Silent, There::Says))
    }

    /// Returns a node's view of another one, or our own view if `node` is our node. `None` if the node cannot be asked.
    pub(crate) fn path_as_seen_by(
        &mut self,
        node: &str,
        about: &str,
    ) -> Result<Option<PathReport>, Failure> {
        let name = |text: &str| NodeName::new(text).map_err(|_| ClientError::Type);
        if node == self.world.own {
            return Ok(Some(self.report(&name(about)?)?.pair));
        }
        let report = self.report(&name(node)?)?;
        if !report.pair.up || !report.may_ask {
            return Ok(None);
        }
        match self.ask(node, about)? {
            There::Says(pair) => Ok(Some(*pair)),
            There::NotAsked | There::CannotBeAsked | There::Silent => Ok(None),
        }
    }

    /// Measures a round trip, if the node answers.
    pub(crate) fn ping(&mut self, node: &str) -> Result<Option<f64>, Failure> {
        let call = call::Ping {
            node: node.into(),
            timeout_ms: PATIENCE_MS,
        };
        Ok(self.client.ask(call)?.response.rtt_seconds)
    }

    /// Returns another node with its view of the other end.
    pub(super) fn end(&mut self, target: &Target, other: &NodeName) -> Result<End, Failure> {
        let node = &target.node;
        let report = self.report(node)?;
        let there = match (report.pair.up, report.may_ask) {
            (false, _) => There::NotAsked,
            (true, false) => There::CannotBeAsked,
            (true, true) => self.ask(node.as_str(), other.as_str())?,
        };
        Ok(self.end_of(target, &report, there))
    }

    /// Combines our view of another node with its own view.
    pub(super) fn end_of(&self, target: &Target, report: &NodeReport, there: There) -> End {
        let silent = match &there {
            There::Says(pair) => silent_since(pair),
            There::NotAsked | There::CannotBeAsked | There::Silent => None,
        };
        End::new(target, report, there, silent)
    }

    pub(crate) fn edges(&mut self) -> Result<Vec<EdgeRow>, Failure> {
        Ok(self.client.ask(call::Edges {})?.response)
    }
}

/// Returns the start of an end's unanswered probes, as in `03:12:44`.
fn silent_since(pair: &PathReport) -> Option<String> {
    let seconds = pair.udp.silent_seconds?;
    let ago = Duration::try_from_secs_f64(seconds).ok()?;
    let text = clock::rfc3339(clock::wall().checked_sub(ago)?);
    Some(text.get(11..19).unwrap_or_default().to_owned())
}
