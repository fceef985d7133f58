//! `meshctl dump`: prints the text forms of tinc 1.1, for scripts written for tinc.
//!
//! Source: config/tinc.md section 5.5.

use serde::Serialize;

use meshd_api::{
    call::{self, Call},
    proto::{ConnectionRow, EdgeRow, NodeRow, SubnetRow},
};

use crate::{
    Exit, Failure, Outcome,
    args::Format,
    context::Context,
    output::{self, Frame},
};

/// The address of our own node.
const MYSELF: &str = "MYSELF";
/// Node status bits. Source: config/tinc.md section 4.6.
const VALID_KEY: u32 = 0x2;
const REACHABLE: u32 = 0x10;
const INDIRECT: u32 = 0x20;

pub(super) fn run(context: &Context, what: &[String]) -> Outcome {
    let words: Vec<&str> = what.iter().map(String::as_str).collect();
    let (reachable, kind) = match *words.as_slice() {
        ["reachable", "nodes"] => (true, "nodes"),
        [kind] if kind != "reachable" => (false, kind),
        _ => {
            let text = "`reachable` is only supported for nodes; see `meshctl dump --help`";
            return Err(Failure::new(Exit::Usage, text));
        }
    };
    match kind {
        "nodes" => {
            let shown = |row: &NodeRow| !reachable || row.status & REACHABLE != 0;
            rows(context, kind, call::Nodes {}, shown, node)
        }
        "edges" => rows(context, kind, call::Edges {}, |_| true, edge),
        "subnets" => rows(context, kind, call::Subnets {}, |_| true, subnet),
        "graph" | "digraph" => both(context, kind == "digraph"),
        _ => rows(context, kind, call::Connections {}, |_| true, connection),
    }
}

/// Prints the rows of one answer that `shown` selects.
fn rows<C, R>(
    context: &Context,
    kind: &str,
    call: C,
    shown: impl Fn(&R) -> bool,
    line: impl Fn(&R) -> String,
) -> Outcome
where
    C: Call<Answer = Vec<R>>,
    R: Serialize,
{
    let mut answer = context.ask(call)?;
    answer.response.retain(shown);
    let rows = &answer.response;
    match context.format {
        Format::Json => output::json(kind, &Frame::from(&answer), rows),
        _ => print(&rows.iter().map(line).collect::<Vec<_>>()),
    }
}

/// Prints the graph, of nodes and edges.
fn both(context: &Context, directed: bool) -> Outcome {
    let mut client = context.connect()?;
    let answer = client.ask(call::Nodes {})?;
    let edges = client.ask(call::Edges {})?.response;
    let nodes = &answer.response;
    if context.format == Format::Json {
        let data = serde_json::json!({ "nodes": nodes, "edges": edges });
        return output::json("graph", &Frame::from(&answer), &data);
    }
    print(&graph(nodes, &edges, directed))
}

fn print(lines: &[String]) -> Outcome {
    output::print(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))?;
    Ok(Exit::Fine)
}

/// Cipher, digest, MAC length and compression are 0: SPTPS and native have none.
fn node(row: &NodeRow) -> String {
    let rtt = match u64::try_from(row.rtt_us) {
        Ok(us) => format!(" rtt {}.{:03}", us / 1000, us % 1000),
        Err(_) => String::new(),
    };
    format!(
        "{} id {} at {} port {} cipher 0 digest 0 maclength 0 compression 0 options {:x} status {:04x} \
         nexthop {} via {} distance {} pmtu {} (min {} max {}) rx {} {} tx {} {}{rtt}",
        row.name,
        row.id,
        row.host,
        row.port,
        row.options,
        row.status,
        row.nexthop,
        row.via,
        row.distance,
        row.pmtu,
        row.min_mtu,
        row.max_mtu,
        row.rx_packets,
        row.rx_bytes,
        row.tx_packets,
        row.tx_bytes,
    )
}

fn edge(row: &EdgeRow) -> String {
    format!(
        "{} to {} at {} port {} local {} port {} options {:x} weight {}",
        row.from,
        row.to,
        row.host,
        row.port,
        row.local_host,
        row.local_port,
        row.options,
        row.weight,
    )
}

fn subnet(row: &SubnetRow) -> String {
    let weight = match row.weight {
        meshd_wire::subnet::DEFAULT_WEIGHT => String::new(),
        weight => format!("#{weight}"),
    };
    let owner = row.owner.as_deref().unwrap_or("(broadcast)");
    format!("{}{weight} owner {owner}", row.subnet)
}

/// The socket is -1: in tinc it is a file descriptor of the daemon, and means nothing outside of it.
fn connection(row: &ConnectionRow) -> String {
    format!(
        "{} at {} port {} options {:x} socket -1 status {:x}",
        row.name, row.host, row.port, row.options, row.status,
    )
}

/// Returns Graphviz text. An undirected edge appears once, from the greater name to the lesser.
fn graph(nodes: &[NodeRow], edges: &[EdgeRow], directed: bool) -> Vec<String> {
    let (word, arrow) = if directed {
        ("digraph", "->")
    } else {
        ("graph", "--")
    };
    let mut lines = vec![format!("{word} {{")];
    for node in nodes {
        let (name, color) = (&node.name, color(node));
        let style = if node.host == MYSELF {
            r#", style = "filled""#
        } else {
            ""
        };
        lines.push(format!(
            r#" "{name}" [label = "{name}", color = "{color}"{style}];"#
        ));
    }
    for edge in edges.iter().filter(|edge| directed || edge.from > edge.to) {
        // tinc 1.1 computes this in single precision.
        let weight = 1.0 + 65536.0 / edge.weight as f32;
        let EdgeRow { from, to, .. } = edge;
        let ends = format!(r#""{from}" {arrow} "{to}""#);
        lines.push(format!(" {ends} [w = {weight:.6}, weight = {weight:.6}];"));
    }
    lines.push("}".into());
    lines
}

fn color(node: &NodeRow) -> &'static str {
    if node.host == MYSELF {
        "green"
    } else if node.status & REACHABLE == 0 {
        "red"
    } else if node.via != node.name || node.status & INDIRECT != 0 {
        "orange"
    } else if node.status & VALID_KEY != 0 && node.min_mtu > 0 {
        "green"
    } else {
        "black"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The node of the example in the specification, as tinc 1.1 printed it.
    fn example() -> NodeRow {
        NodeRow {
            name: "b".into(),
            id: "5267768822ee".into(),
            host: "127.0.0.1".into(),
            port: "5552".into(),
            options: 0x0700_000c,
            status: 0xda,
            nexthop: "b".into(),
            via: "b".into(),
            distance: 1,
            pmtu: 1518,
            min_mtu: 18,
            max_mtu: 1518,
            since_seconds: None,
            rtt_us: 3978,
            rx_packets: 0,
            rx_bytes: 0,
            tx_packets: 0,
            tx_bytes: 0,
        }
    }

    #[test]
    fn nodes_print_as_tinc_prints_them() {
        assert_eq!(
            node(&example()),
            "b id 5267768822ee at 127.0.0.1 port 5552 cipher 0 digest 0 maclength 0 compression 0 \
             options 700000c status 00da nexthop b via b distance 1 pmtu 1518 (min 18 max 1518) \
             rx 0 0 tx 0 0 rtt 3.978"
        );
        let silent = NodeRow {
            rtt_us: -1,
            ..example()
        };
        assert!(node(&silent).ends_with("tx 0 0"));
    }

    #[test]
    fn subnets_carry_their_weight_unless_it_is_the_default() {
        let row = |weight, owner: Option<&str>| SubnetRow {
            subnet: "10.2.0.0/24".parse().unwrap(),
            weight,
            owner: owner.map(Into::into),
            reachable: true,
            active: true,
        };
        assert_eq!(subnet(&row(7, Some("b"))), "10.2.0.0/24#7 owner b");
        assert_eq!(subnet(&row(10, None)), "10.2.0.0/24 owner (broadcast)");
    }

    #[test]
    fn graphs_print_each_undirected_edge_once() {
        let edge = |from: &str, to: &str| EdgeRow {
            from: from.into(),
            to: to.into(),
            host: "h".into(),
            port: "1".into(),
            local_host: "l".into(),
            local_port: "2".into(),
            options: 0xc,
            weight: 64,
        };
        let edges = [edge("a", "b"), edge("b", "a")];
        let me = NodeRow {
            name: "a".into(),
            host: "MYSELF".into(),
            ..example()
        };
        assert_eq!(
            graph(&[me, example()], &edges, false),
            [
                "graph {",
                r#" "a" [label = "a", color = "green", style = "filled"];"#,
                r#" "b" [label = "b", color = "green"];"#,
                r#" "b" -- "a" [w = 1025.000000, weight = 1025.000000];"#,
                "}"
            ]
        );
        assert_eq!(graph(&[], &edges, true).len(), 4);
        assert_eq!(
            super::edge(&edges[0]),
            "a to b at h port 1 local l port 2 options c weight 64"
        );
    }

    #[test]
    fn colours_tell_how_a_node_is_reached() {
        let with = |status, via: &str, min_mtu| {
            color(&NodeRow {
                status,
                via: via.into(),
                min_mtu,
                ..example()
            })
        };
        assert_eq!(with(0xca, "b", 18), "red");
        assert_eq!(with(0xda, "a", 18), "orange");
        assert_eq!(with(0xd8, "b", 18), "black");
        assert_eq!(with(0xda, "b", 0), "black");
        assert_eq!(with(0xda, "b", 18), "green");
    }
}
