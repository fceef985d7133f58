//! `meshctl migrate status`: shows each node's progress from tinc 1.0 to native, the obstacle to its next step, and the
//! remedy. Source: cli/meshctl.md section 5.

#[cfg(test)]
mod tests;

use serde::{Serialize, Serializer};

use meshd_api::{
    call,
    client::ClientError,
    proto::{Answer, DaemonStatus, EdgeRow},
    rows::{PeerRow, Reason},
};
use meshd_config::{Source, on_disk};
use meshd_diagnose::{
    Code, Here,
    migrate::{Line, Migration, Own, Progress, Runs, Todo},
};
use meshd_proto::{dialect::Dialect, mesh::reports::facts::HostFile};
use meshd_wire::NodeName;

use crate::{
    Exit, Failure, Outcome,
    context::Context,
    output::{self, Frame, Show},
    peers::tunnel,
    table::{Table, or_dash, or_empty},
};

/// One node; our own is first.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    up: bool,
    runs: Runs,
    /// The protocol in use with the node; for our own node, the best protocol it offers.
    speaks: Option<Dialect>,
    /// The best protocol that the node has announced, also while the node is down.
    offers: Option<Dialect>,
    /// The same words as in `peers`.
    #[serde(skip)]
    tunnel: String,
    /// The reason for the state, in the words of `peers`.
    why: Option<Reason>,
    /// The work left to do; null if none.
    #[serde(serialize_with = "todo_json")]
    todo: Option<Todo>,
}

struct Rows<'a> {
    head: String,
    rows: &'a [Row],
}

/// Writes the work left to do in JSON.
fn todo_json<S: Serializer>(todo: &Option<Todo>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Row<'a> {
        /// A stable code for programs; the texts may change.
        code: String,
        next: Option<Dialect>,
        text: &'a str,
    }
    let row = todo.as_ref().map(|todo| Row {
        code: todo.finding.code.word(),
        next: todo.next,
        text: &todo.finding.text,
    });
    row.serialize(to)
}

/// Returns exit code 10 while work is left to do.
pub(super) fn status(context: &Context) -> Outcome {
    let mut client = context.connect()?;
    let answer = client.ask(call::Status {})?;
    let status = &answer.response;
    let peers = client.ask(call::Peers {})?.response;
    let edges = client.ask(call::Edges {})?.response;
    let source = Source {
        base: status.config.clone().into(),
        ..Source::default()
    };
    let own = own(&source, &answer)?;
    let mut all: Vec<(Progress, String)> = Vec::new();
    for row in &peers {
        all.push((facts(&source, &own.here.node, row, &edges), tunnel(row)));
    }
    for name in unheard(&source, &own.here.node, &peers) {
        all.push((unheard_of(&source, &name), "-".into()));
    }
    let rows = rows(&own, all, &peers);
    let output = Rows {
        head: headline(&own, &rows, context.utf8),
        rows: &rows,
    };
    output::show(
        context,
        "migrate.status",
        &Frame::from(&answer),
        &rows,
        &output,
    )?;
    Ok(match rows.iter().all(|row| row.todo.is_none()) {
        true => Exit::Fine,
        false => Exit::Left,
    })
}

fn own(source: &Source, answer: &Answer<Box<DaemonStatus>>) -> Result<Own, Failure> {
    let status = &answer.response;
    let line = |variable| line(source, None, variable);
    let is_no = |variable| line(variable).filter(|line| line.value == "no");
    let key_file = meshd_config::place_of(source, None, "Ed25519PrivateKeyFile");
    let key_file = key_file.map_or_else(|| "ed25519_key.priv".into(), |(_, _, value)| value);
    Ok(Own {
        config: status.config.clone(),
        here: Here {
            node: answer.node.clone(),
            net: answer.net.clone(),
            pid: Some(status.pid),
            main: match meshd_config::main_file(source).display().to_string() {
                toml if toml == meshd_config::toml::MAIN => {
                    format!("{toml} (`trust.min_protocol`)")
                }
                tincs => tincs,
            },
        },
        offers: status.offers.ok_or(ClientError::Type)?,
        min: status.min_protocol,
        key_file: source.base.join(key_file).exists(),
        experimental: is_no("ExperimentalProtocol"),
        native: is_no("Native"),
        min_line: line("MinProtocol"),
    })
}

fn line(source: &Source, node: Option<&NodeName>, variable: &'static str) -> Option<Line> {
    let (file, line, value) = meshd_config::place_of(source, node, variable)?;
    Some(Line {
        place: format!("{}:{line}", file.display()),
        value: value.to_ascii_lowercase(),
    })
}

fn facts(source: &Source, own: &str, row: &PeerRow, edges: &[EdgeRow]) -> Progress {
    Progress {
        name: row.name.clone(),
        up: row.up,
        speaks: row.protocol.filter(|_| row.up).or(row.link),
        offers: row.offers,
        min: row.min_protocol,
        host_file: row.host_file,
        why: row.reason.as_ref().map(|reason| reason.text.clone()),
        local: names_local(&row.name, own, edges),
        ..of_file(source, &row.name)
    }
}

/// True if a node names its local address in its edges, as tinc 1.1 and meshd do. Only the edge to us counts: a tinc
/// 1.0 that forwards another edge may have removed the address.
fn names_local(name: &str, own: &str, edges: &[EdgeRow]) -> Option<bool> {
    let names = |edge: &&EdgeRow| edge.local_host != "unspec";
    let mut edges_of_node = edges.iter().filter(|edge| edge.from == name);
    match edges_of_node.clone().any(|edge| names(&edge)) {
        true => Some(true),
        false => edges_of_node.any(|edge| edge.to == own).then_some(false),
    }
}

/// Describes a host file whose node is unknown to the mesh.
fn unheard_of(source: &Source, name: &str) -> Progress {
    let facts = of_file(source, name);
    let host_file = facts.disk.clone().and_then(Result::ok).unwrap_or_default();
    Progress { host_file, ..facts }
}

/// Describes the present state of the host file alone.
fn of_file(source: &Source, name: &str) -> Progress {
    let node = NodeName::new(name).ok();
    Progress {
        name: name.into(),
        up: false,
        speaks: None,
        offers: None,
        min: None,
        host_file: HostFile::Missing,
        why: None,
        local: None,
        disk: node
            .as_ref()
            .and_then(|node| on_disk::host_file(source, node)),
        min_line: node.and_then(|node| line(source, Some(&node), "MinProtocol")),
    }
}

/// Returns names of host files that no node of the mesh has.
fn unheard(source: &Source, own: &str, peers: &[PeerRow]) -> Vec<String> {
    let unheard = on_disk::host_names(source)
        .into_iter()
        .filter(|name| *name != own && peers.iter().all(|row| row.name != *name));
    unheard.collect()
}

/// Returns the reason that `peers` shows for a node.
fn reason(peers: &[PeerRow], name: &str) -> Option<Reason> {
    let row = peers.iter().find(|row| row.name == name)?;
    row.reason.clone()
}

fn rows(own: &Own, all: Vec<(Progress, String)>, peers: &[PeerRow]) -> Vec<Row> {
    let mut rows = vec![Row {
        name: own.here.node.clone(),
        up: true,
        runs: Runs::Meshd,
        speaks: Some(own.offers),
        offers: Some(own.offers),
        tunnel: own.offers.name().into(),
        why: None,
        todo: None,
    }];
    rows.extend(all.into_iter().map(|(facts, tunnel)| Row {
        runs: facts.runs(),
        todo: Migration { node: &facts, own }.todo(),
        why: reason(peers, &facts.name),
        name: facts.name,
        up: facts.up,
        speaks: facts.speaks,
        offers: facts.offers,
        tunnel,
    }));
    let native = |row: &Row| {
        let todo = row.todo.as_ref();
        todo.is_none_or(|todo| todo.finding.code == Code::MayFallBack)
    };
    let all_native = rows.iter().all(native);
    rows[0].todo = own.todo(all_native);
    rows
}

/// `priv · web_01 · 6 nodes: 3 native, 1 sptps, 1 legacy, 1 down · 2 left to do`
fn headline(own: &Own, rows: &[Row], utf8: bool) -> String {
    let count = |what: &dyn Fn(&&Row) -> bool, word: &str| {
        let count = rows.iter().filter(what).count();
        (count > 0).then(|| format!("{count} {word}"))
    };
    let speaks = |dialect| move |row: &&Row| row.up && row.speaks == Some(dialect);
    let counts: Vec<String> = [
        count(&speaks(Dialect::Native), "native"),
        count(&speaks(Dialect::Sptps), "sptps"),
        count(&speaks(Dialect::Legacy), "legacy"),
        count(&|row| row.up && row.speaks.is_none(), "silent"),
        count(&|row| !row.up, "down"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let left = match rows.iter().filter(|row| row.todo.is_some()).count() {
        0 => "nothing left to do".into(),
        left => format!("{left} left to do"),
    };
    let nodes = if rows.len() == 1 { "node" } else { "nodes" };
    let nodes = format!("{} {nodes}: {}", rows.len(), counts.join(", "));
    let net = own.here.net.clone();
    let parts: Vec<String> = net
        .into_iter()
        .chain([own.here.node.clone(), nodes, left])
        .collect();
    parts.join(if utf8 { " · " } else { " - " })
}

fn program(runs: Runs) -> &'static str {
    match runs {
        Runs::Meshd => "meshd",
        Runs::Tinc10 => "tinc 1.0",
        Runs::MeshdOrTinc11 => "meshd or tinc 1.1",
        Runs::Unknown => "unknown",
    }
}

impl Show for Rows<'_> {
    fn human(&self) -> (Vec<String>, Table) {
        let mut table = Table::new(&["NAME", "RUNS", "SPEAKS", "NEXT", "LEFT TO DO"]);
        for row in self.rows {
            let down = match row.offers {
                Some(offers) => format!("down, was {}", offers.name()),
                None => "down".into(),
            };
            let next = row.todo.as_ref().and_then(|todo| todo.next);
            table.row([
                row.name.clone(),
                program(row.runs).into(),
                if row.up { row.tunnel.clone() } else { down },
                or_dash(next.map(Dialect::name)),
                or_dash(row.todo.as_ref().map(|todo| &todo.finding.text)),
            ]);
        }
        (vec![self.head.clone()], table)
    }

    fn raw(&self) -> Table {
        let names = [
            "name",
            "up",
            "runs",
            "speaks",
            "offers",
            "next",
            "todo_code",
            "todo_text",
        ];
        let mut table = Table::new(&names);
        for row in self.rows {
            let todo = row.todo.as_ref();
            table.row([
                row.name.clone(),
                row.up.to_string(),
                program(row.runs).replace(' ', "-"),
                or_empty(row.speaks.map(Dialect::name)),
                or_empty(row.offers.map(Dialect::name)),
                or_empty(todo.and_then(|todo| todo.next).map(Dialect::name)),
                or_empty(todo.map(|todo| todo.finding.code.word())),
                or_empty(todo.map(|todo| &todo.finding.text)),
            ]);
        }
        table
    }
}
