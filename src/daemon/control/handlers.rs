//! Answers requests of clients and signals from the mesh's rows.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use meshd_api::{
    call::{self, Call, Request},
    proto::{ErrorCode, Pong, Response},
    report::{PathReport, RefusedRow},
    rows::PeerRow,
};
use meshd_diagnose::peer;
use meshd_proto::mesh::{Input, Notice};
use meshd_wire::NodeName;

use super::queries;
use crate::{Reply, control, driver::Driver, reload::Purpose};

/// Longest wait for a ping or a request to another node.
const MAX_PING: Duration = Duration::from_secs(60);
/// Longest wait of a reload for its confirmation, in seconds.
const MAX_CONFIRM: u64 = 86_400;
/// Maximum number of pending pings and requests to other nodes.
const MAX_PINGS: usize = 64;

/// Pings and requests to other nodes that wait for their answer.
#[derive(Debug, Default)]
pub(crate) struct Pings {
    waiting: BTreeMap<u64, PendingQuestion>,
    count: u64,
}

#[derive(Debug)]
struct PendingQuestion {
    node: NodeName,
    question: bool,
    reply: Reply,
    until: Instant,
}

impl Pings {
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }
}

impl Driver {
    /// Answers a request, now or when it is done.
    pub(crate) fn request(&mut self, request: Request, reply: Reply, now: Instant) {
        let response = match request {
            Request::Peers(call) => call.response(self.peer_rows(now)),
            Request::Status(call) => call.response(Box::new(self.status(now))),
            Request::Routes(call) => call.response(self.mesh.subnets()),
            Request::Subnets(call) => call.response(self.mesh.subnets()),
            Request::Route(call) => call.response(self.mesh.route(call.address)),
            Request::Nodes(call) => call.response(self.mesh.nodes(now)),
            Request::Edges(call) => call.response(self.mesh.edges()),
            Request::Connections(call) => call.response(self.mesh.connections()),
            Request::Metrics(call) => call.response(self.metrics(now)),
            Request::Reload(call) => {
                let confirm = call.confirm_seconds;
                let confirm = confirm.map(|seconds| Duration::from_secs(seconds.min(MAX_CONFIRM)));
                let yes = call.yes;
                return self.reload(Purpose::Reload { yes, confirm }, Some(reply));
            }
            Request::Plan(_) => return self.reload(Purpose::Plan, Some(reply)),
            Request::Confirm(_) => self.confirm(),
            Request::Undo(_) => self.undo(),
            Request::Stop(_) => return self.ask_stop(Some(reply)),
            Request::Retry(call) => {
                self.send_to_mesh(Input::Retry);
                call.response(true)
            }
            Request::Ping(call) => return self.ping(call, reply, now),
            Request::AskNode(call) => return self.ask_node(call, reply, now),
            Request::Sight(call) => match self.known(&call.node) {
                Ok(name) => match self.report(&name, now) {
                    Some(report) => call.response(Box::new(report)),
                    None => control::error(
                        ErrorCode::Unknown,
                        format!("{name} is this node; name another node"),
                    ),
                },
                Err(refused) => refused,
            },
            Request::Why(call) => {
                let path = self.path_between(&call, now);
                call.response(Box::new(path))
            }
            Request::Refused(call) => {
                let refused = self.mesh.refused_subnets();
                call.response(refused.iter().map(RefusedRow::from).collect())
            }
            Request::Log(_) | Request::Capture(_) => {
                control::error(ErrorCode::Malformed, "streams are not the driver's".into())
            }
        };
        let _ = reply.send(response);
    }

    fn ping(&mut self, call: call::Ping, reply: Reply, now: Instant) {
        let until = now + Duration::from_millis(call.timeout_ms).min(MAX_PING);
        match self.known(&call.node) {
            Ok(node) => {
                let waiting = PendingQuestion {
                    node: node.clone(),
                    question: false,
                    reply,
                    until,
                };
                self.ask(waiting, |token| Input::Ping { node, token });
            }
            Err(refused) => drop(reply.send(refused)),
        }
    }

    fn ask_node(&mut self, call: call::AskNode, reply: Reply, now: Instant) {
        let until = now + Duration::from_millis(call.timeout_ms).min(MAX_PING);
        let about = self.known(&call.about);
        match about.and_then(|about| Ok((about, self.known(&call.node)?))) {
            Ok((about, node)) => {
                let waiting = PendingQuestion {
                    node: node.clone(),
                    question: true,
                    reply,
                    until,
                };
                self.ask(waiting, |token| Input::Ask {
                    node,
                    data: queries::question(token, &about),
                });
            }
            Err(refused) => drop(reply.send(refused)),
        }
    }

    /// Returns the rows of `meshctl peers`.
    pub(crate) fn peer_rows(&self, now: Instant) -> Vec<PeerRow> {
        let peers = self.mesh.peers(now);
        let row = |node| PeerRow::new(node, peer::reason(node));
        peers.iter().map(row).collect()
    }

    /// Logs an event of the mesh with its explanation.
    pub(crate) fn log_notice(&self, node: &NodeName, notice: Notice, now: Instant) {
        let Some(facts) = self.mesh.peer(node, now) else {
            return;
        };
        let finding = match notice {
            Notice::LegacyLink => peer::legacy_link(&facts),
            Notice::KeySent => peer::key_sent(&facts),
        };
        tracing::warn!(%node, "{}", finding.text);
    }

    /// Returns the name of a known node, or the error answer.
    fn known(&self, node: &str) -> Result<NodeName, Response> {
        let name = NodeName::new(node).ok();
        name.filter(|name| self.mesh.has_node(name)).ok_or_else(|| {
            let text = format!("no node {node:?}");
            control::error(ErrorCode::Unknown, text)
        })
    }

    /// Makes the mesh send a request to a node; the reply waits for the answer.
    fn ask(&mut self, waiting: PendingQuestion, input: impl FnOnce(u64) -> Input) {
        if self.pings.waiting.len() >= MAX_PINGS {
            let text = "too many pings are pending".into();
            let _ = waiting.reply.send(control::error(ErrorCode::Busy, text));
            return;
        }
        self.pings.count += 1;
        let token = self.pings.count;
        self.pings.waiting.insert(token, waiting);
        self.send_to_mesh(input(token));
    }

    /// Handles the answer of a node to the question with this token.
    pub(super) fn handle_path_answer(
        &mut self,
        token: u64,
        node: &NodeName,
        pair: Option<PathReport>,
    ) {
        let asked = self.pings.waiting.get(&token);
        if asked.is_none_or(|waiting| !waiting.question || waiting.node != *node) {
            return;
        }
        if let Some(waiting) = self.pings.waiting.remove(&token) {
            let _ = waiting.reply.send(Response::Told(pair.map(Box::new)));
        }
    }

    /// Handles the answer to a ping.
    pub(crate) fn pong(&mut self, token: u64, rtt: Duration) {
        if let Some(waiting) = self.pings.waiting.remove(&token) {
            self.answer_ping(waiting, Some(rtt));
        }
    }

    /// Answers pings whose time has expired.
    pub(crate) fn expire_pings(&mut self, now: Instant) {
        let over = |waiting: &PendingQuestion| waiting.until <= now;
        let all = self.pings.waiting.iter();
        let tokens: Vec<u64> = all
            .filter(|(_, w)| over(w))
            .map(|(token, _)| *token)
            .collect();
        for token in tokens {
            if let Some(waiting) = self.pings.waiting.remove(&token) {
                self.answer_ping(waiting, None);
            }
        }
    }

    fn answer_ping(&self, waiting: PendingQuestion, rtt: Option<Duration>) {
        if waiting.question {
            let _ = waiting.reply.send(Response::Told(None));
            return;
        }
        let response = match self.mesh.path_to(&waiting.node) {
            Some((path, endpoint, pmtu_bytes)) => Response::Ping(Pong {
                rtt_seconds: rtt.map(|rtt| rtt.as_secs_f64()),
                path,
                endpoint,
                pmtu_bytes,
            }),
            None => control::error(ErrorCode::Unknown, "the node has left the mesh".into()),
        };
        let _ = waiting.reply.send(response);
    }

    /// SIGUSR1, in the words of tinc 1.0.
    pub(crate) fn log_connections(&self) {
        let rows = self.mesh.connections();
        let rows = rows.iter().map(|row| {
            format!(
                " {} at {} port {} options {:x} status {:04x}",
                row.name, row.host, row.port, row.options, row.status
            )
        });
        self.dump("Connections:", rows, "End of connections.");
    }

    /// SIGUSR2, in the words of tinc 1.0.
    pub(crate) fn log_graph(&self, now: Instant) {
        let nodes = self.mesh.nodes(now);
        let (received, sent) = nodes.iter().fold((0, 0), |(received, sent), row| {
            (received + row.rx_bytes, sent + row.tx_bytes)
        });
        let device = self.net.tun.as_ref().map_or("dummy", |tun| tun.name());
        let totals = [
            format!(" total bytes in:  {received:>10}"),
            format!(" total bytes out: {sent:>10}"),
        ];
        self.dump(
            &format!("Statistics for {device}:"),
            totals,
            "End of statistics.",
        );
        let nodes = nodes.iter().map(|row| {
            format!(
                " {} at {} port {} options {:x} status {:04x} nexthop {} via {} pmtu {} (min {} max {})",
                row.name, row.host, row.port, row.options, row.status, row.nexthop, row.via,
                row.pmtu, row.min_mtu, row.max_mtu
            )
        });
        self.dump("Nodes:", nodes, "End of nodes.");
        let edges = self.mesh.edges();
        let edges = edges.iter().map(|row| {
            format!(
                " {} to {} at {} port {} options {:x} weight {}",
                row.from, row.to, row.host, row.port, row.options, row.weight
            )
        });
        self.dump("Edges:", edges, "End of edges.");
        let subnets = self.mesh.subnets();
        let subnets = subnets.iter().map(|row| {
            let owner = row.owner.as_deref().unwrap_or("(broadcast)");
            format!(" {}#{} owner {owner}", row.subnet, row.weight)
        });
        self.dump("Subnet list:", subnets, "End of subnet list.");
    }

    fn dump(&self, head: &str, rows: impl IntoIterator<Item = String>, end: &str) {
        let rows = std::iter::once(head.to_owned()).chain(rows);
        self.log.dump(rows.chain(std::iter::once(end.to_owned())));
    }
}
