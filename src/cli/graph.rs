//! `meshctl graph`: draws the mesh without Graphviz.

mod layout;
mod png;
mod shapes;
mod svg;
#[cfg(test)]
mod tests;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::Serialize;

use meshd_api::{call, proto::EdgeRow, rows::PeerRow};
use meshd_config::on_disk;
use meshd_os::{clock, files::write_given};
use meshd_proto::{dialect::Dialect, mesh::reports::facts::PathKind};

use crate::{
    Exit, Failure, Outcome,
    args::{Format, Picture},
    context::{self, Context},
    output::{self, Frame},
};

/// The path of packets for a node, seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// This node.
    Own,
    /// Direct, by UDP.
    Direct,
    /// Over TCP.
    Tcp,
    /// Through a relay.
    Relayed,
    /// In the legacy protocol, by any path.
    Legacy,
    /// Unreachable.
    Unreachable,
    /// Read from files, without a daemon.
    Configured,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Own,
        Self::Direct,
        Self::Tcp,
        Self::Relayed,
        Self::Legacy,
        Self::Unreachable,
        Self::Configured,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Own => "this node",
            Self::Direct => "direct",
            Self::Tcp => "tcp",
            Self::Relayed => "relayed",
            Self::Legacy => "legacy",
            Self::Unreachable => "unreachable",
            Self::Configured => "configured",
        }
    }

    /// Returns a colour as `#rrggbb`. The palette is safe for colour-blind readers (Okabe and Ito).
    fn colour(self) -> &'static str {
        match self {
            Self::Own => "#000000",
            Self::Direct => "#009e73",
            Self::Tcp => "#e69f00",
            Self::Relayed => "#0072b2",
            Self::Legacy => "#cc79a7",
            Self::Unreachable => "#d55e00",
            Self::Configured => "#777777",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Dot {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// The relay, if the path has one.
    pub(super) via: Option<String>,
    /// Bytes received from this node; null for our own node and from files.
    pub(super) rx_bytes: Option<u64>,
    pub(super) tx_bytes: Option<u64>,
}

/// A link. It appears once, whichever end opened it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) from: String,
    pub(super) to: String,
    /// The greater of its two weights.
    pub(super) weight: Option<i32>,
    /// The path of packets for the other end, if the link is ours.
    pub(super) kind: Option<Kind>,
}

/// A mesh to draw: nodes and links sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Graph {
    #[serde(skip)]
    pub(super) title: String,
    pub(super) nodes: Vec<Dot>,
    pub(super) links: Vec<Line>,
    #[serde(skip)]
    pub(super) traffic: bool,
}

impl Graph {
    /// Returns the index of each node by name.
    fn index(&self) -> BTreeMap<&str, usize> {
        let nodes = self.nodes.iter().enumerate();
        nodes.map(|(at, dot)| (dot.name.as_str(), at)).collect()
    }
}

pub(super) fn run(
    context: &Context,
    picture: Picture,
    traffic: bool,
    out: Option<PathBuf>,
) -> Outcome {
    let (graph, net, time) = match context.offline() {
        true => from_files(context)?,
        false => from_daemon(context, traffic)?,
    };
    let own = graph.nodes.iter().find(|dot| dot.kind == Kind::Own);
    let frame = Frame {
        net: net.as_deref(),
        node: own.map(|dot| dot.name.as_str()),
        time: &time,
    };
    let picture = match context.format {
        Format::Json => Picture::Json,
        Format::Table | Format::Tsv => picture,
    };
    let bytes = match picture {
        Picture::Json => output::envelope("graph", &frame, &graph)?,
        Picture::Ascii => text::tree(&graph, context.utf8).into_bytes(),
        Picture::Dot => text::dot(&graph).into_bytes(),
        Picture::Mermaid => text::mermaid(&graph).into_bytes(),
        Picture::Svg => svg::draw(&shapes::scene(&graph)).into_bytes(),
        Picture::Png if out.is_none() && output::to_terminal() => {
            let text = "a PNG is not for a terminal: give it a file with `--out mesh.png`";
            return Err(Failure::new(Exit::Usage, text));
        }
        Picture::Png => png::draw(&shapes::scene(&graph)).map_err(|why| {
            let text = format!("cannot draw it: {why}; try `--format svg`");
            Failure::new(Exit::Negative, text)
        })?,
    };
    match out {
        Some(file) => write_given(&file, &bytes, 0o644).map_err(|error| {
            let text = format!(
                "cannot write {}: {error}; name another file with `--out`",
                file.display()
            );
            Failure::new(Exit::Negative, text)
        })?,
        None if picture == Picture::Png => output::bytes(&bytes)?,
        None => output::print(|to| to.write_all(&bytes))?,
    }
    Ok(Exit::Fine)
}

type Drawn = (Graph, Option<String>, String);

fn from_daemon(context: &Context, traffic: bool) -> Result<Drawn, Failure> {
    let mut client = context.connect()?;
    let answer = client.ask(call::Peers {})?;
    let edges = client.ask(call::Edges {})?.response;
    let peers = &answer.response;
    let mut graph = graph(&answer.node, peers, &edges, traffic);
    graph.title = title(answer.net.as_deref(), &answer.node, &answer.time);
    Ok((graph, answer.net, answer.time))
}

fn title(net: Option<&str>, node: &str, time: &str) -> String {
    let net = net.map_or_else(String::new, |net| format!("{net}, "));
    format!("{net}seen from {node} at {time}")
}

fn graph(own: &str, peers: &[PeerRow], edges: &[EdgeRow], traffic: bool) -> Graph {
    let mut nodes = vec![Dot {
        name: own.into(),
        kind: Kind::Own,
        via: None,
        rx_bytes: None,
        tx_bytes: None,
    }];
    nodes.extend(peers.iter().map(|row| Dot {
        name: row.name.clone(),
        kind: kind(row),
        via: row.via.clone(),
        rx_bytes: Some(row.rx_bytes),
        tx_bytes: Some(row.tx_bytes),
    }));
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let kinds: BTreeMap<&str, Kind> = nodes
        .iter()
        .map(|dot| (dot.name.as_str(), dot.kind))
        .collect();
    let mut weights: BTreeMap<(&str, &str), i32> = BTreeMap::new();
    for edge in edges {
        let (from, to) = (edge.from.as_str(), edge.to.as_str());
        if kinds.contains_key(from) && kinds.contains_key(to) {
            let weight = weights
                .entry((from.min(to), from.max(to)))
                .or_insert(edge.weight);
            *weight = edge.weight.max(*weight);
        }
    }
    let links = weights.into_iter().map(|((from, to), weight)| Line {
        from: from.into(),
        to: to.into(),
        weight: Some(weight),
        kind: match (from == own, to == own) {
            (true, _) => kinds.get(to).copied(),
            (_, true) => kinds.get(from).copied(),
            _ => None,
        },
    });
    Graph {
        title: String::new(),
        links: links.collect(),
        nodes,
        traffic,
    }
}

fn kind(row: &PeerRow) -> Kind {
    match row.path {
        PathKind::Down => Kind::Unreachable,
        _ if row.protocol == Some(Dialect::Legacy) => Kind::Legacy,
        PathKind::Udp => Kind::Direct,
        PathKind::Tcp => Kind::Tcp,
        PathKind::Via => Kind::Relayed,
    }
}

/// Draws ConnectTo lines: the files of one node show no other links.
fn from_files(context: &Context) -> Result<Drawn, Failure> {
    let source = context.source(None)?;
    let config = context::load(&source)?;
    let own = config.settings.name.to_string();
    let to = config.settings.connect_to.iter().map(ToString::to_string);
    let to: BTreeSet<String> = to.collect();
    let mut names: BTreeSet<String> = on_disk::host_names(&source).into_iter().collect();
    names.extend(to.iter().cloned());
    names.insert(own.clone());
    let dot = |name: String| Dot {
        kind: match name == own {
            true => Kind::Own,
            false => Kind::Configured,
        },
        name,
        via: None,
        rx_bytes: None,
        tx_bytes: None,
    };
    let link = |to: &String| Line {
        from: own.clone().min(to.clone()),
        to: own.clone().max(to.clone()),
        weight: None,
        kind: Some(Kind::Configured),
    };
    let graph = Graph {
        title: format!("ConnectTo of {own}, by the files"),
        links: to.iter().map(link).collect(),
        nodes: names.into_iter().map(dot).collect(),
        traffic: false,
    };
    Ok((graph, source.net, clock::rfc3339(clock::wall())))
}
